"""The gradient checker: right networks pass, planted errors do not."""

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, shaken, within

import fusegrad as fg

NETWORKS = {
    "univariate": (fg.Linear(1, 1),),
    "multivariate": (fg.Linear(6, 1),),
    "two-layer linear": (fg.Linear(6, 5), fg.Linear(5, 1)),
    "two-layer sigmoid": (fg.Linear(6, 16), fg.Sigmoid(), fg.Linear(16, 1)),
    "five layers": FIVE_LAYERS,
    "wide": (fg.Linear(40, 90), fg.Tanh(), fg.Linear(90, 3)),
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_central_differences(layers):
    """At most 1e-7 in float64."""
    net = shaken(*layers, dtype="float64")
    X, y = examples(net, 20)
    if any(isinstance(layer, fg.ReLU) for layer in layers):
        X = away_from_corners(net, X)
        y = y[:, : X.shape[1]]
    before = net.parameters.copy()
    check = fg.testing.check_gradients(net, X, y)
    within("gradient against central differences", check.error, 1e-7)
    assert (check.each is None) == (net.n_parameters > 500)
    np.testing.assert_array_equal(net.parameters, before)


def test_at_a_minimum():
    """What is left of the gradient there is less than differences can see."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3, 50))
    y = rng.normal(size=(1, 3)) @ X + rng.normal(size=(1, 50))
    net = fg.MultivariateRegression(3, dtype="float64", rng=0)
    for epochs in (100, 300, 3000):
        net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=epochs)
        assert fg.testing.check_gradients(net, X, y).error < 1e-7


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"tolerance": "x"}, TypeError), ({"tolerance": 0}, ValueError), ({"most_parameters": "a"}, TypeError),
        ({"n_directions": 0}, ValueError),
    ],
)  # fmt: skip
def test_arguments_that_are_refused(arguments, error):
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    with pytest.raises(error, match=f"{next(iter(arguments))}: expected"):
        fg.testing.check_gradients(net, [1.0, 2.0], [1.0, 2.0], **arguments)


def away_from_corners(net, X):
    """The examples for which no rectifier is so near 0 that a difference quotient would cross it."""
    layers = fg.reference.layers_of(net)
    keep = np.ones(X.shape[1], bool)
    x = X
    for weight, bias, activation in layers:
        z = weight @ x + bias
        if activation == "relu":
            keep &= (np.abs(z) > 0.02).all(axis=0)
        x = fg.reference.ACTIVATIONS[activation](z)
    assert keep.any()
    return X[:, keep]


class Planted(fg.Sequential):
    """A network whose gradients can be spoilt."""

    def spoil_gradient(self, gradient):
        pass

    def spoil_inputs(self, gradient):
        pass

    def loss_and_gradient(self, X, y, out=None):
        loss, gradient = super().loss_and_gradient(X, y, out)
        self.spoil_gradient(gradient)
        return loss, gradient

    def input_gradient(self, X, y):
        gradient = super().input_gradient(X, y)
        self.spoil_inputs(gradient)
        return gradient


def planted():
    net = Planted(fg.Linear(4, 6), fg.Sigmoid(), fg.Linear(6, 1), dtype="float64", rng=0)
    return net, *examples(net, 15)


def test_one_wrong_entry_is_found_and_named():
    net, X, y = planted()
    place = 3 * 4 + 2

    def spoil(gradient):
        gradient[place] += 1e-5 * np.abs(gradient).max()

    net.spoil_gradient = spoil
    with pytest.raises(AssertionError, match=r"W1\[3, 2\]"):
        fg.testing.check_gradients(net, X, y)
    check = fg.testing.check_gradients(net, X, y, tolerance=1.0)
    assert check.worst == "W1[3, 2]"
    assert check.each == pytest.approx(1e-5, rel=1e-2)


def test_a_wrong_factor_is_found_by_projection_alone():
    net, X, y = planted()

    def spoil(gradient):
        gradient *= 1 + 1e-5

    net.spoil_gradient = spoil
    with pytest.raises(AssertionError, match="gradient check: an error of"):
        fg.testing.check_gradients(net, X, y, most_parameters=0)


def test_a_swapped_pair_and_a_nan_are_found():
    net, X, y = planted()

    def swap(gradient):
        gradient[[0, 5]] = gradient[[5, 0]]

    net.spoil_gradient = swap
    with pytest.raises(AssertionError):
        fg.testing.check_gradients(net, X, y, most_parameters=0)

    def poison(gradient):
        gradient[7] = np.nan

    net.spoil_gradient = poison
    with pytest.raises(AssertionError):
        fg.testing.check_gradients(net, X, y)


def test_a_wrong_input_gradient_is_found():
    net, X, y = planted()

    def spoil(gradient):
        gradient[1, 3] *= 1.001

    net.spoil_inputs = spoil
    with pytest.raises(AssertionError):
        fg.testing.check_gradients(net, X, y)


def test_float32_is_refused():
    net = fg.MultivariateRegression(2, rng=0)
    with pytest.raises(TypeError, match="net: expected a network of dtype float64, got float32"):
        fg.testing.check_gradients(net, np.zeros((2, 3)), np.zeros(3))
