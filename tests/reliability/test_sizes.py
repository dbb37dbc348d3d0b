"""Sizes at the ends: one, ten million, and products beyond 2^31 and 2^63. Right, or an error that says so."""

import numpy as np
import pytest
from support import relative, tried

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype

ERRORS = (ValueError, MemoryError)
BIG = [2**16, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]


def zeros(rows, columns, dtype="float32"):
    """A matrix of any size in a few bytes: zero strides."""
    return np.broadcast_to(np.zeros(1, dtype), (rows, columns))


@pytest.mark.parametrize("n_in", BIG)
@pytest.mark.parametrize("n_out", [*BIG, 1])
def test_networks_too_large(n_in, n_out):
    if n_in * n_out < 2**34:
        n_in, n_out = n_in * 2**16, n_out * 2**16
    with pytest.raises(ERRORS):
        fg.Sequential(fg.Linear(n_in, n_out), rng=0)
    with pytest.raises(ERRORS):
        fg.Sequential(fg.Linear(3, 2), fg.Linear(2, n_in), fg.Linear(n_in, n_out), rng=0)
    tried("sizes too large for memory, refused", 2)


@pytest.mark.parametrize("m", [2**31 + 5, 2**40, 2**56])
def test_more_examples_than_memory_holds(m, dtype):
    net = fg.TwoLayerSigmoid(2, 3, dtype=dtype, rng=0)
    X, y = zeros(2, m, dtype), zeros(1, m, dtype)
    if m > 2**35:
        with pytest.raises(ERRORS):
            net.forward(X)
        with pytest.raises(ERRORS):
            net.input_gradient(X, y)
        with pytest.raises(ERRORS):  # an order of m numbers
            net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=1, batch_size=2**20)
    for epochs in (1, 2**31, 2**40):
        assert str(m) in str(net.plan(m, epochs=epochs))
    tried("sizes too large for memory, refused", 3)


@pytest.mark.parametrize(
    "shape", [(2**20, 1, 2**43), (2**40, 1, 2**40), (2**59, 1, 1), (1, 1, 2**59), (2**31, 3, 2**31)]
)
def test_products_too_large(shape, dtype):
    n, d, k = shape
    a, b = zeros(n, d, dtype), zeros(d, k, dtype)
    with pytest.raises(ERRORS):
        fg.kernels.matmul(a, b)
    tried("sizes too large for memory, refused")


def test_activations_too_large(dtype):
    with pytest.raises(ERRORS):
        fg.kernels.sigmoid(zeros(2**30, 2**29, dtype))


def test_scratch_is_multiplied_in_one_place():
    """Sizes that would wrap around in 64 bits are an error of memory where an engine is made."""
    from fusegrad._engine.plan import make_plan, stack_layers

    for dtype, kernels in by_dtype.items():
        plan = make_plan(stack_layers([(3, 4, "identity", True)]), dtype, 100, 1)
        for changes in (
            {"scratch": 2**62},
            {"scratch": 2**60, "n_threads": 64},
            {"n_blocks": 2**62},
            {"scratch": 10**40},
        ):
            with pytest.raises(MemoryError, match="bytes of scratch memory"):
                kernels.Engine(plan._replace(**changes))


@pytest.mark.parametrize("n", [1, 2, 10_000_000])
def test_ten_million_features_of_one_example(n):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1)).astype("float32")
    net = fg.MultivariateRegression(n, rng=0)
    exact = net.parameters[:-1].astype("f8") @ X[:, 0].astype("f8") + float(net.parameters[-1])
    assert abs(float(net(X)[0, 0]) - exact) < 1e-3
    loss, gradient = net.loss_and_gradient(X, np.zeros(1))
    assert relative(gradient[:-1], 2 * exact * X[:, 0].astype("f8")) < 1e-3
    assert abs(loss - exact**2) <= 1e-3 * exact**2
    before = net.parameters.copy()
    net.train_step(X, np.zeros(1), fg.SGD(lr=1e-9))
    assert not np.array_equal(net.parameters, before)


@pytest.mark.reliability
def test_more_than_two_to_the_31_numbers():
    """Arrays of zero strides take a few bytes; zeros take no memory until they are written."""
    m = 2**31 + 77
    net = fg.UnivariateRegression(rng=0)
    X, y = np.broadcast_to(np.float32([[2.0]]), (1, m)), np.broadcast_to(np.float32([[3.0]]), (1, m))
    net.parameters[:] = 1.0, 0.5
    loss, gradient = net.loss_and_gradient(X, y)
    np.testing.assert_allclose(loss, 0.25, rtol=1e-3)
    np.testing.assert_allclose(gradient, [-2.0, -1.0], rtol=1e-3)
    zeros = np.zeros((1, m), "float32")
    zeros[0, -1] = 3
    np.testing.assert_array_equal(fg.kernels.matmul(zeros, zeros.T), 9)
    np.testing.assert_array_equal(net.forward(zeros)[0, -3:], [0.5, 0.5, 3.5])


def test_every_count_of_one(dtype):
    for layers in (
        (fg.Linear(1, 1),), (fg.Linear(1, 1, bias=False),), (fg.Linear(1, 1), fg.Sigmoid(), fg.Linear(1, 1)),
        (fg.Linear(1, 40), fg.Tanh(), fg.Linear(40, 1)), (fg.Linear(40, 1), fg.ReLU(), fg.Linear(1, 40)),
    ):  # fmt: skip
        net = fg.Sequential(*layers, dtype=dtype, rng=0)
        X, y = np.ones((net.n_features, 1)), np.ones((net.n_outputs, 1))
        loss, gradient = fg.reference.loss_and_gradient(fg.reference.layers_of(net, "float64"), X, y)
        np.testing.assert_allclose(net.loss(X, y), loss, rtol=1e-4, atol=1e-7)
        assert relative(net.loss_and_gradient(X, y)[1], gradient) < (1e-5 if dtype == "float32" else 1e-12)
        net.fit(X, y, optimizer=fg.Adam(), epochs=1, batch_size=1)
