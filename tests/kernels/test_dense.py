"""dense_forward and dense_backward on their own, against the reference."""

import numpy as np
import pytest
from support import LANES, TOLERANCE, relative

import fusegrad as fg

ACTIVATIONS = ["identity", "sigmoid", "relu", "tanh"]


def case(n_in, n_out, m, dtype, seed=0):
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
