"""The oracle itself: against the equations of the four networks written out, and complex-step derivatives."""

import numpy as np
import pytest

import fusegrad as fg

reference = fg.reference


def test_the_four_networks_by_their_equations(rng):
    n, k, m = 5, 4, 23
    X, y = rng.normal(size=(n, m)), rng.normal(size=(1, m))
    W1, b1 = rng.normal(size=(k, n)), rng.normal(size=(k, 1))
    w2, b2 = rng.normal(size=(1, k)), rng.normal(size=(1, 1))
    w, one = rng.normal(size=(1, n)), np.ones((m, 1))

    g = 2 / m * (w @ X + b2 - y)
    value, [(dw, db)] = reference.gradients([(w, b2, "identity")], X, y)
    np.testing.assert_allclose(dw, g @ X.T)
    np.testing.assert_allclose(db, g @ one)
    assert value == pytest.approx(float(((w @ X + b2 - y) ** 2).mean()))

    Z = W1 @ X + b1
    g = 2 / m * (w2 @ Z + b2 - y)
    layers = [(W1, b1, "identity"), (w2, b2, "identity")]
    _, [(dW1, db1), (dw2, db2)] = reference.gradients(layers, X, y)
    for actual, expected in ((dW1, w2.T @ g @ X.T), (db1, w2.T @ g @ one), (dw2, g @ Z.T), (db2, g @ one)):
        np.testing.assert_allclose(actual, expected)
    np.testing.assert_allclose(reference.input_gradient(layers, X, y), W1.T @ w2.T @ g)

    A = 1 / (1 + np.exp(-Z))
    g = 2 / m * (w2 @ A + b2 - y)
    delta = (w2.T @ g) * A * (1 - A)
    _, [(dW1, db1), (dw2, db2)] = reference.gradients([(W1, b1, "sigmoid"), (w2, b2, "identity")], X, y)
    for actual, expected in ((dW1, delta @ X.T), (db1, delta @ one), (dw2, g @ A.T), (db2, g @ one)):
        np.testing.assert_allclose(actual, expected)


def test_complex_step_derivatives(rng):
    """f(x + ih) has the derivative in its imaginary part, to all digits: nothing is subtracted."""
    X, y = rng.normal(size=(3, 10)), rng.normal(size=(2, 10))
    layers = [
        (rng.normal(size=(4, 3)), rng.normal(size=(4, 1)), "tanh"),
        (rng.normal(size=(2, 4)), None, "identity"),
    ]
    _, gradient = reference.loss_and_gradient(layers, X, y)
    h = 1e-30

    def loss(W1, b1, W2):
        difference = W2 @ np.tanh(W1 @ X + b1) - y
        return (difference**2).sum() / X.shape[1]

    parts = [layers[0][0], layers[0][1], layers[1][0]]
    found = []
    for i, part in enumerate(parts):
        for place in np.ndindex(part.shape):
            moved = [p.astype(complex) for p in parts]
            moved[i][place] += 1j * h
            found.append(loss(*moved).imag / h)
    np.testing.assert_allclose(gradient, found, rtol=1e-13)


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(reference.sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


def test_an_unknown_activation():
    with pytest.raises(ValueError, match="activation: expected one of identity, sigmoid, relu, tanh, got 'gelu'"):
        reference.times_derivative(np.zeros(2), np.zeros(2), "gelu")
