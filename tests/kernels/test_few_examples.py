"""A few examples with features in lanes: the predictions have the bits of the other layout, gradients agree with it."""

import ctypes
import mmap

import numpy as np
import pytest
from support import LANES, batch_of, network

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import make_plan

WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67]
DEPTHS = [1, 2, 3, 4, 5, 7, 15, 16, 17, 19, 64, 67, 511, 512, 513, 1030, 4103, 8195]


def engines(net, batch):
    """Compiled engines of both layouts: features in lanes, examples in lanes."""
    return [
        by_dtype[net.dtype].Engine(make_plan(net.dense_layers, net.dtype, batch, 1, False, few))
        for few in (True, False)
    ]


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8, 9, 13, 16, 24, 40])
def test_predictions_have_the_same_bits(m, dtype):
    for n_in in DEPTHS:
        for n_out in WIDTHS:
            net = network(n_in, n_out, dtype=dtype, activation=fg.Sigmoid, bias=(n_in + n_out) % 2 == 0)
            X, _ = batch_of(net, m)
            few, many = (engine.forward(X, net.parameters) for engine in engines(net, m))
            np.testing.assert_array_equal(few, many, err_msg=f"{n_in} -> {n_out}")


@pytest.mark.parametrize("n_in", [2048, 2101])
def test_predictions_with_weights_from_memory_have_the_same_bits(n_in, dtype):
    """More than the caches hold: other rows are multiplied together, and more vectors in pairs."""
    net = network(n_in, 1101, dtype=dtype, activation=fg.ReLU)
    for m in (1, 2, 3, 4, 5, 8, 9, 16):
        X, _ = batch_of(net, m)
        few, many = (engine.forward(X, net.parameters) for engine in engines(net, m))
        np.testing.assert_array_equal(few, many, err_msg=f"{m}")


@pytest.mark.parametrize("m", [1, 3, 4, 7, 16, 17])
@pytest.mark.parametrize("bias", [None, 0.0, -0.0])
def test_zeros_have_the_same_sign(m, bias, dtype):
    """Sums of products that underflow from below, and of a bias of -0."""
    tiny = np.sqrt(np.finfo(dtype).smallest_subnormal) / 1000
    for n_in in DEPTHS:
        net = fg.Sequential(fg.Linear(n_in, 5, bias=bias is not None), dtype=dtype, rng=0)
        net.parameters[:] = [-tiny] * (5 * n_in) + [bias] * (5 * (bias is not None))
        X = np.full((n_in, m), tiny, dtype)
        few, many = (np.signbit(engine.forward(X, net.parameters)) for engine in engines(net, m))
        np.testing.assert_array_equal(few, many, err_msg=str(n_in))
        np.testing.assert_array_equal(np.signbit(net.freeze()(X)), many, err_msg=str(n_in))


@pytest.mark.parametrize("activation", [fg.Identity, fg.Sigmoid, fg.ReLU, fg.Tanh])
def test_predictions_of_many_layers_have_the_same_bits(activation, dtype):
    for sizes in ((10, 64, 64, 2), (1, 1, 1), (5, 300, 3, 17, 1), (600, 20, 9)):
        net = network(*sizes, dtype=dtype, activation=activation)
        for m in range(1, 41):
            X, _ = batch_of(net, m)
            few, many = (engine.forward(X, net.parameters) for engine in engines(net, m))
            np.testing.assert_array_equal(few, many, err_msg=f"{sizes}, {m}")


@pytest.mark.parametrize("order", ["C", "F", "reversed", "every second"])
def test_any_strides(order, dtype):
    net = network(9, 20, 3, dtype=dtype)
    X, y = batch_of(net, 14)
    views = {"C": X, "F": np.asfortranarray(X), "reversed": X[::-1, ::-1].copy()[::-1, ::-1], "every second": X}
    X = views[order] if order != "every second" else np.repeat(X, 2, axis=1)[:, ::2]
    few, many = engines(net, 14)
    out = np.empty((14, 3), dtype).T
    few.forward(X, net.parameters, out)
    np.testing.assert_array_equal(out, many.forward(np.ascontiguousarray(X), net.parameters))
    results = [np.empty(X.shape, dtype) for _ in range(2)]
    for engine, result in zip((few, many), results, strict=True):
        engine.gradient(X, y, net.parameters, np.empty(net.n_parameters, dtype), result)
    np.testing.assert_allclose(*results, rtol=100 * np.finfo(dtype).eps, atol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 9, 16, 24, 40])
@pytest.mark.parametrize("activation", [fg.Identity, fg.Sigmoid, fg.ReLU, fg.Tanh])
def test_gradients_agree(m, activation, dtype):
    eps = np.finfo(dtype).eps
    for n_in in (1, 2, 5, 16, 19, 67):
        for n_hidden in (1, 3, 8, 9, 16, 33):
            for n_out in (1, 2, 17):
                net = network(n_in, n_hidden, n_out, dtype=dtype, activation=activation, bias=n_in % 2 == 0)
                X, y = batch_of(net, m)
                gradients = np.full((2, net.n_parameters), np.nan, dtype)
                inputs = np.full((2, *X.shape), np.nan, dtype)
                losses = [
                    engine.gradient(X, y, net.parameters, gradient, on_inputs)
                    for engine, gradient, on_inputs in zip(engines(net, m), gradients, inputs, strict=True)
                ]
                scale = np.abs(gradients).max() + np.abs(inputs).max()
                np.testing.assert_allclose(losses[0], losses[1], rtol=10 * eps)
                np.testing.assert_allclose(gradients[0], gradients[1], rtol=0, atol=50 * eps * scale)
                np.testing.assert_allclose(inputs[0], inputs[1], rtol=0, atol=50 * eps * scale)
                assert engines(net, m)[0].gradient(X, y, net.parameters) == losses[0]


def test_deltas_of_long_sums_have_the_same_bits(dtype):
    """The gradient on X of one example: its sums over outputs are in the same order."""
    for n_out in (511, 512, 513, 1025, 1600):
        net = network(7, n_out, dtype=dtype, activation=fg.Identity, bias=False)
        X, y = batch_of(net, 3)
        results = np.empty((2, *X.shape), dtype)
        for engine, result in zip(engines(net, 3), results, strict=True):
            engine.gradient(X, y, net.parameters, np.empty(net.n_parameters, dtype), result)
        np.testing.assert_array_equal(*results, err_msg=str(n_out))


def test_only_what_is_written(dtype):
    """A gradient ends where its last element is: what lies behind it stays."""
    for sizes in ((1, 1), (3, 5), (17, 1), (LANES[dtype] + 1, 3)):
        net = network(*sizes, dtype=dtype, bias=False)
        X, y = batch_of(net, 2)
        room = np.full(net.n_parameters + 64, 7.0, dtype)
        engines(net, 2)[0].gradient(X, y, net.parameters, room[: net.n_parameters])
        assert (room[net.n_parameters :] == 7.0).all()
        assert (room[: net.n_parameters] != 7.0).all()


def at_the_end_of_a_page(array):
    """A copy in front of a page that can neither be read nor written."""
    n_bytes = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, n_bytes + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + n_bytes), mmap.PAGESIZE, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, n_bytes - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("m", [1, 3, 8, 16])
def test_nothing_behind_an_array_is_read(m, dtype):
    for sizes in ((1, 1), (3, 2), (10, 7, 1), (17, 9), (9, 33, 5), (600, 3), (513, 17)):
        for bias in (True, False):
            net = network(*sizes, dtype=dtype, bias=bias)
            X, y = batch_of(net, m)
            expected = engines(net, m)[1].forward(X, net.parameters)
            for turned in (False, True):
                placed = at_the_end_of_a_page(np.ascontiguousarray(X.T)).T if turned else at_the_end_of_a_page(X)
                parameters, targets = at_the_end_of_a_page(net.parameters), at_the_end_of_a_page(y)
                out, gradient = at_the_end_of_a_page(expected), at_the_end_of_a_page(net.parameters)
                for engine in engines(net, m):
                    engine.forward(placed, parameters, out)
                    np.testing.assert_array_equal(out, expected)
                    engine.gradient(placed, targets, parameters, gradient, at_the_end_of_a_page(X))
