"""train_step and fit beside the NumPy reference."""

import numpy as np
import pytest

import fusegrad as fg
from fusegrad.demo import reference_step

SIZES = [(1, 1, 32), (8, 16, 32), (13, 50, 32), (13, 50, 128), (16, 64, 256), (64, 128, 128), (8, 32, 10**5)]
EPOCHS = 20


LR = 1e-2  # large enough that a few steps move the loss, by which gradients are compared
CHECKED_STEPS = 5


def twins(net):
    """The same steps by us and by the reference."""
    optimizer, layers = fg.SGD(lr=LR), fg.reference.layers_of(net)

    def ours(X, y):
        return net.train_step(X, y, optimizer)

    def fit(X, y):
        return net.fit(X, y, optimizer=optimizer, epochs=EPOCHS).loss

    def theirs(X, y):
        return reference_step(layers, X, y, LR)

    return ours, fit, theirs


def agree(ours, theirs, X, y):
    """The losses of some steps: those after the first tell of gradients and updates."""
    found, expected = ([step(X, y) for _ in range(CHECKED_STEPS)] for step in (ours, theirs))
    assert abs(expected[-1] - expected[0]) > 1e-3 * expected[0], "nothing has moved"
    np.testing.assert_allclose(found, expected, rtol=tolerance(X.dtype))


def tolerance(dtype):
    return 1e-5 if dtype == "float32" else 1e-11


@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_train_step(size, dtype, data, compare, system):
    n, k, m = size
    X, y = data((n, m), dtype), data((1, m), dtype)
    ours, _, theirs = twins(fg.TwoLayerSigmoid(n, k, dtype=dtype, rng=0))
    agree(ours, theirs, X, y)
    compare(
        f"train_step, two-layer sigmoid {size} {dtype}",
        system,
        lambda: ours(X, y),
        lambda: theirs(X, y),
        tolerance(dtype),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_fit(size, dtype, data, compare, system):
    n, k, m = size
    X, y = data((n, m), dtype), data((1, m), dtype)
    _, fit, theirs = twins(fg.TwoLayerSigmoid(n, k, dtype=dtype, rng=0))
    compare(
        f"fit, {EPOCHS} epochs, two-layer sigmoid {size} {dtype}", system,
        lambda: fit(X, y), lambda: [theirs(X, y) for _ in range(EPOCHS)], tolerance(dtype),
    )  # fmt: skip


NETS = {
    "univariate": (lambda dtype: fg.UnivariateRegression(dtype=dtype, rng=0), 1),
    "multivariate": (lambda dtype: fg.MultivariateRegression(8, dtype=dtype, rng=0), 8),
    "two-layer linear": (lambda dtype: fg.TwoLayerLinear(8, 32, dtype=dtype, rng=0), 8),
}


@pytest.mark.parametrize("m", [32, 10**5])
@pytest.mark.parametrize("name", NETS)
def bench_linear(name, m, dtype, data, compare, system):
    make, n = NETS[name]
    X, y = data((n, m), dtype), data((1, m), dtype)
    ours, _, theirs = twins(make(dtype))
    agree(ours, theirs, X, y)
    compare(f"train_step, {name} {(n, m)} {dtype}", system, lambda: ours(X, y), lambda: theirs(X, y), tolerance(dtype))
