"""dense_forward and dense_backward on their own, against the reference."""

import numpy as np
import pytest
from support import (
    INTERLEAVED_BLOCK,
    INTERLEAVED_DEPTH,
    LANES,
    SUM_BLOCK,
    TOLERANCE,
    assert_sums,
    relative,
    sums_of_one_sign,
)

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype

ACTIVATIONS = ["identity", "sigmoid", "relu", "tanh"]


def case(n_in, n_out, m, dtype, seed=0):
    """W, x, b and the gradient on the output, of one layer."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)
    arrays = weight, rng.normal(size=(n_in, m)), rng.normal(size=(n_out, 1)), rng.normal(size=(n_out, m))
    return [a.astype(dtype) for a in arrays]


def sizes(dtype):
    lanes = LANES[dtype]
    return [
        (1, 1, 1),
        (1, 9, lanes),
        (5, 1, lanes + 1),
        (13, 50, 2 * lanes - 1),
        (64, 7, 129),
        (3, 3, 5000),
        (40, 40, 1000),
    ]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_and_backward(activation, dtype):
    for n_in, n_out, m in sizes(dtype):
        weight, x, bias, grad_a = case(n_in, n_out, m, dtype)
        a = fg.kernels.dense_forward(weight, x, bias, activation)
        exact = [v.astype("float64") for v in (weight, x, bias)]
        assert a.dtype == dtype
        assert relative(a, fg.reference.dense_forward(*exact, activation)) <= TOLERANCE[dtype]
        gradients = fg.kernels.dense_backward(weight, x, a, grad_a, activation)
        expected = fg.reference.dense_backward(
            exact[0], exact[1], a.astype("float64"), grad_a.astype("float64"), activation
        )
        for actual, right in zip(gradients, expected, strict=True):
            assert actual.shape == right.shape
            assert relative(actual, right) <= TOLERANCE[dtype]


def test_edges_of_micro_tiles(dtype):
    """Features, units and examples around one panel and two, whose micro-tiles have other numbers of rows."""
    lanes = LANES[dtype]
    for n_in in (3 * lanes, 3 * lanes + 1, 4 * lanes - 1, 4 * lanes, 7 * lanes + 1):
        for n_out in (2, 6, 7, 13, 25):
            for m in (2 * lanes, 2 * lanes + 1, 4 * lanes, 6 * lanes + 3):
                weight, x, bias, grad_a = case(n_in, n_out, m, dtype)
                exact = [v.astype("float64") for v in (weight, x, bias, grad_a)]
                a = fg.kernels.dense_forward(weight, x, bias)
                assert relative(a, fg.reference.dense_forward(*exact[:3])) <= TOLERANCE[dtype]
                np.testing.assert_array_equal(a[:, m - 1 :], fg.kernels.dense_forward(weight, x[:, m - 1 :], bias))
                expected = fg.reference.dense_backward(exact[0], exact[1], a.astype("float64"), exact[3])
                for actual, right in zip(fg.kernels.dense_backward(weight, x, a, grad_a), expected, strict=True):
                    assert relative(actual, right) <= TOLERANCE[dtype]


def test_without_bias_and_with_a_flat_one(dtype):
    weight, x, bias, _ = case(4, 3, 21, dtype)
    expected = fg.kernels.dense_forward(weight, x, bias)
    np.testing.assert_array_equal(fg.kernels.dense_forward(weight, x, bias.ravel()), expected)
    assert relative(fg.kernels.dense_forward(weight, x), weight.astype("float64") @ x) <= TOLERANCE[dtype]


@pytest.mark.parametrize("biased", [True, False])
def test_an_output_that_lies_over_an_input(biased, dtype):
    weight, x, bias, _ = case(300, 300, 300, dtype)
    bias = bias if biased else None
    for over in ("weight", "x"):
        given = {"weight": weight.copy(), "x": x.copy()}
        expected = fg.kernels.dense_forward(**given, bias=bias)
        np.testing.assert_array_equal(fg.kernels.dense_forward(**given, bias=bias, out=given[over]), expected)
    memory = np.zeros(12 + 3 * 5000, dtype)
    memory[:12] = np.arange(12)
    x = case(4, 3, 5000, dtype)[1]
    expected = fg.kernels.dense_forward(memory[:12].reshape(3, 4).copy(), x)
    out = memory[5 : 5 + 3 * 5000].reshape(3, 5000)
    np.testing.assert_array_equal(fg.kernels.dense_forward(memory[:12].reshape(3, 4), x, out=out), expected)


def test_misaligned(dtype):
    """Contiguous, but at no address of a number."""

    def shifted(array):
        memory = np.zeros(array.nbytes + 1, "u1")
        found = memory[1:].view(dtype).reshape(array.shape)
        found[...] = array
        assert not found.flags.aligned
        return found

    weight, x, bias, grad_a = case(4, 3, 21, dtype)
    a = fg.kernels.dense_forward(weight, x, bias)
    for some_bias in (bias, None):
        expected = fg.kernels.dense_forward(weight, x, some_bias)
        given = None if some_bias is None else shifted(some_bias)
        np.testing.assert_array_equal(fg.kernels.dense_forward(shifted(weight), shifted(x), given), expected)
    expected = fg.kernels.dense_backward(weight, x, a, grad_a)
    found = fg.kernels.dense_backward(*map(shifted, (weight, x, a, grad_a)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    w, twin = weight.ravel().copy(), weight.ravel().copy()
    fg.SGD(lr=0.5).step(w, shifted(w))
    fg.SGD(lr=0.5).step(twin, twin.copy())
    np.testing.assert_array_equal(w, twin)


def test_out_and_layouts(dtype):
    weight, x, bias, grad_a = case(6, 6, 40, dtype)
    expected = fg.kernels.dense_forward(weight, x, bias, "tanh")
    gradients = fg.kernels.dense_backward(weight, x, expected, grad_a, "tanh")
    turned = [np.asfortranarray(v) for v in (weight, x, expected, grad_a)]
    np.testing.assert_array_equal(fg.kernels.dense_forward(turned[0], turned[1], bias, "tanh"), expected)
    for one, two in zip(fg.kernels.dense_backward(*turned, "tanh"), gradients, strict=True):
        np.testing.assert_array_equal(one, two)
    assert fg.kernels.dense_forward(weight, x, bias, "tanh", out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize(
    "d", [SUM_BLOCK - 1, SUM_BLOCK, 1000, INTERLEAVED_BLOCK, INTERLEAVED_BLOCK + 1, 100_000, 1_000_000]
)
def test_long_sums_of_one_sign(d):
    """Over the features, of one output or several, of X packed or in place; over the outputs, for the gradient on x."""
    rng = np.random.default_rng(d)
    in_place = by_dtype[np.dtype("float32")].panel  # so many examples are read in place by a single output
    weight, x = rng.random((3, d), dtype="float32"), rng.random((d, in_place + 1), dtype="float32")
    several = fg.kernels.dense_forward(weight, x)
    assert_sums(several, *sums_of_one_sign(weight, x))
    for examples in (in_place, in_place + 1, 1):
        single = fg.kernels.dense_forward(weight[:1], x[:, :examples])
        np.testing.assert_array_equal(single, several[:1, :examples])
    zeros = np.zeros((d, 2), "float32")
    upper = np.ascontiguousarray(x[:, :2])
    grad_x = fg.kernels.dense_backward(np.ascontiguousarray(weight.T), zeros[:3], zeros, upper)[2]
    assert_sums(grad_x, *sums_of_one_sign(weight, upper))


def test_a_bias_starts_the_first_block(dtype):
    """It is added once, before the first feature."""
    for n_out in (1, 2):
        for d in (1, INTERLEAVED_DEPTH - 2, INTERLEAVED_DEPTH, 2 * INTERLEAVED_BLOCK + 1):
            weight, x, bias, _ = case(d, n_out, 5, dtype)
            with_ones = np.concatenate([bias, weight], axis=1), np.concatenate([np.ones((1, 5), dtype), x])
            actual = fg.kernels.dense_forward(weight, x, bias)
            if d + 1 < INTERLEAVED_DEPTH:
                np.testing.assert_array_equal(actual, fg.kernels.dense_forward(*with_ones))
            assert relative(actual, with_ones[0].astype("float64") @ with_ones[1]) <= TOLERANCE[dtype]


def test_integers_add_up_exactly():
    """2^20 times 65, where one after another in float32 every term beyond 2^25 would count as 64."""
    d = 1 << 20
    weight, x = np.full((2, d), 65, "float32"), np.ones((d, 1), "float32")
    for rows in (weight, weight[:1]):
        assert (fg.kernels.dense_forward(rows, x) == 65 * d).all()
    assert (fg.kernels.matmul(weight, x) == 65 * d).all()
    assert (fg.kernels.matmul(x.T, weight.T) == 65 * d).all()


def test_sums_over_blocks_overflow_as_others_do():
    """Infinities are not made NaN, and finite blocks whose total is finite do not overflow on the way."""
    weight = np.ones((2, 3 * INTERLEAVED_BLOCK), "float32")
    x = np.zeros((3 * INTERLEAVED_BLOCK, 3), "float32")
    x[[0, INTERLEAVED_BLOCK, 2 * INTERLEAVED_BLOCK], 0] = 3e38, 3e38, -3e38
    x[5, 1] = np.inf
    x[[5, INTERLEAVED_BLOCK], 2] = np.inf, -np.inf
    expected = np.array([3e38, np.inf, np.nan], "float32")
    for rows in (weight, weight[:1]):
        for found in fg.kernels.dense_forward(rows, x):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_goes_through_derivatives(activation, dtype):
    """A NaN in an activation, or in the gradient on it, comes out where the reference lets it out; nowhere else."""
    for n_in, n_out, m in sizes(dtype):
        weight, x, _, grad_a = case(n_in, n_out, m, dtype)
        a = fg.kernels.dense_forward(weight, x, None, activation)
        for example in (0, m // 2, m - 1):
            for of_a, of_grad in ((True, False), (False, True), (True, True)):
                odd_a, odd_grad = a.copy(), grad_a.copy()
                if of_a:
                    odd_a[n_out // 2, example] = np.nan
                if of_grad:
                    odd_grad[n_out // 2, example] = np.nan
                found = fg.kernels.dense_backward(weight, x, odd_a, odd_grad, activation)
                right = fg.reference.dense_backward(weight, x, odd_a, odd_grad, activation)
                for one, other in zip(found, right, strict=True):
                    np.testing.assert_array_equal(np.isnan(one), np.isnan(other))


def test_relu_lets_through_what_is_not_at_most_zero(dtype):
    """As PyTorch's threshold: 0 where a <= 0, whatever the gradient, and the gradient elsewhere, NaN included."""
    one = np.ones((1, 1), dtype)
    for a, gradient, expected in (
        (np.nan, 3, 3), (np.inf, 3, 3), (2, np.nan, np.nan), (0, 3, 0), (-0.0, 3, 0), (0, np.nan, 0), (0, np.inf, 0),
    ):  # fmt: skip
        for backward in (fg.kernels.dense_backward, fg.reference.dense_backward):
            np.testing.assert_array_equal(backward(one, one, a * one, gradient * one, "relu")[2], [[expected]])


def test_what_is_refused():
    weight, x, bias, grad_a = case(4, 3, 5, "float64")
    with pytest.raises(ValueError, match=r"x: expected 4 features \(rows\), got shape \(3, 5\)"):
        fg.kernels.dense_forward(weight, grad_a)
    with pytest.raises(ValueError, match=r"bias: expected shape \(3,\) or \(3, 1\), got \(4,\)"):
        fg.kernels.dense_forward(weight, x, np.zeros(4))
    with pytest.raises(ValueError, match=r"activation: expected one of .*, got 'softplus'"):
        fg.kernels.dense_forward(weight, x, bias, "softplus")
    with pytest.raises(ValueError, match=r"grad_a: expected 5 examples \(columns\) as in x, got shape \(3, 4\)"):
        fg.kernels.dense_backward(weight, x, grad_a, grad_a[:, :4])
