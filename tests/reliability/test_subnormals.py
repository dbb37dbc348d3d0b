"""Weights and inputs of 1e-40: right to the error bound, whatever is computed. Speed: `make bench-promises`."""

import numpy as np
import pytest
from support import TOLERANCE, examples, perturbed, reference, tried

import fusegrad as fg

LAYERS = {
    "multivariate": (fg.Linear(13, 1),),
    "two-layer linear": (fg.Linear(8, 32), fg.Linear(32, 1)),
    "two-layer sigmoid": (fg.Linear(8, 32), fg.Sigmoid(), fg.Linear(32, 1)),
    "relu and tanh": (fg.Linear(8, 20), fg.ReLU(), fg.Linear(20, 20), fg.Tanh(), fg.Linear(20, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("which", ["weights", "inputs", "both", "all"])
@pytest.mark.parametrize("m", [5, 700])
def test_networks(name, which, m, dtype):
    tiny = 1e-40 if dtype == "float32" else 1e-310
    net = perturbed(*LAYERS[name], dtype=dtype)
    X, y = examples(net, m)
    if which != "inputs":
        net.parameters[:] = net.parameters.astype("f8") * tiny
    if which != "weights":
        X = (X * tiny).astype(dtype).astype("f8")
    if which == "all":
        y = (y * tiny).astype(dtype).astype("f8")
    exact = reference(net, X, y)
    loss, gradient = net.loss_and_gradient(X, y)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    for found, expected in (
        (net(X), exact.prediction), (gradient, exact.gradient), (net.input_gradient(X, y), exact.input_gradient),
        (np.array(loss), np.array(exact.loss)),
    ):  # fmt: skip
        # Each of the sums' terms may round by half the smallest number.
        allowed = TOLERANCE[dtype] * np.abs(expected).max() + 1000 * smallest
        assert np.abs(found.astype("f8") - expected).max() <= allowed
        tried("results from subnormal numbers, within the bound")


def test_sums_of_subnormals_are_exact(dtype):
    """Whole multiples of the smallest number add up without rounding."""
    smallest = np.finfo(dtype).smallest_subnormal
    a = np.arange(1, 121, dtype=dtype).reshape(3, 40) * smallest
    b = np.ones((40, 50), dtype)
    np.testing.assert_array_equal(fg.kernels.matmul(a, b), np.repeat(a.sum(axis=1, keepdims=True), 50, axis=1))
    for vector in (a[:1], a[1:2]):
        np.testing.assert_array_equal(fg.kernels.matmul(vector, b), np.full((1, 50), vector.sum()))
    np.testing.assert_array_equal(fg.kernels.sigmoid(a), np.full(a.shape, 0.5, dtype))


def test_steps_with_subnormal_parameters(dtype):
    """A step of gradient descent changes them by the gradient, not to zero."""
    smallest = np.finfo(dtype).smallest_subnormal
    w = np.arange(1, 41, dtype=dtype) * smallest * 4
    gradient = np.full(40, smallest, dtype)
    fg.SGD(lr=1.0).step(w, gradient)
    np.testing.assert_array_equal(w, (np.arange(1, 41, dtype=dtype) * 4 - 1) * smallest)
