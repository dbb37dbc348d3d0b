"""The gradient checker: right networks pass, planted errors do not."""

import itertools
import re

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, perturbed, tried, within

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
    net = perturbed(*layers, dtype="float64")
    X, y = examples(net, 20)
    before = net.parameters.copy()
    check = fg.testing.check_gradients(net, X, y)
    within("gradient against central differences", check.error, 1e-7)
    assert (check.each is None) == (net.n_parameters > 500)
    np.testing.assert_array_equal(net.parameters, before)


ACTIVATIONS = (fg.ReLU, fg.ReLU, fg.Tanh, fg.Sigmoid, fg.Identity)


def random_network(rng):
    """Of up to 4 hidden layers and 3 outputs; with biases and without."""
    depth = rng.integers(0, 5)
    widths = [*rng.integers(1, 10, depth + 1), rng.integers(1, 4)]
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [fg.Linear(n_in, n_out, bias=rng.random() < 0.85), ACTIVATIONS[rng.integers(len(ACTIVATIONS))]()]
    return fg.Sequential(*layers[: -1 if rng.random() < 0.8 else None], dtype="float64", rng=rng)


def standard(net, X, y, rng):
    return X, y


def scaled_data(net, X, y, rng):
    return X * 10.0 ** rng.integers(-3, 4), y * 10.0 ** rng.integers(-3, 4)


def columns_of_several_scales(net, X, y, rng):
    scale, offset = 10.0 ** rng.uniform(-3, 3, (2, len(X), 1))
    return scale * X + offset, y


def a_perfect_fit(net, X, y, rng):
    return X, net(X)


def an_almost_perfect_fit(net, X, y, rng):
    return X, net(X) + 10.0 ** rng.integers(-12, -2) * y


def saturated_units(net, X, y, rng):
    net.parameters *= 30
    return X, y


def zero_weights(net, X, y, rng):
    arrays = list(net.named_parameters().values())
    for array in arrays if rng.random() < 0.5 else [arrays[rng.integers(len(arrays))]]:
        array[:] = 0
    return X, y


def one_example(net, X, y, rng):
    return X[:, :1], y[:, :1]


def zeros_and_ones(net, X, y, rng):
    """Corners at exactly 0 in the first layer, since biases of 0 do not move them."""
    for name, array in net.named_parameters().items():
        array *= name[0] == "W"
    X = rng.integers(0, 2, X.shape).astype("float64")
    X[:, 0] = 0
    return X, y


def trained(net, X, y, rng):
    net.fit(X, y, optimizer=fg.Adam(lr=0.01), epochs=300)
    return X, y


KINDS = (
    standard, scaled_data, columns_of_several_scales, a_perfect_fit, an_almost_perfect_fit, saturated_units,
    zero_weights, one_example, zeros_and_ones, trained,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_right_gradients_pass(kind):
    """20 random networks of each kind; some have exact corners, some units within 1e-6 of one."""
    for seed in range(20):
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        net = random_network(rng)
        X, y = kind(net, *examples(net, int(rng.integers(2, 40)), seed), rng)
        before = net.parameters.copy()
        assert fg.testing.check_gradients(net, X, y).error <= 1e-7, (seed, net)
        np.testing.assert_array_equal(net.parameters, before)
    tried("random networks whose right gradients pass check_gradients", 20)


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


class Planted(fg.Sequential):
    """A network whose gradients can be spoilt: each takes the right one and changes it in place."""

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
    right = net.loss_and_gradient(X, y)[1][place]

    def spoil(gradient):
        gradient[place] *= 1 + 1e-5

    net.spoil_gradient = spoil
    message = r"at W1\[3, 2\] the gradient is (\S+), differences of the loss give (\S+); no corner is near$"
    with pytest.raises(AssertionError, match=message) as raised:
        fg.testing.check_gradients(net, X, y)
    named = [float(value) for value in re.search(message, str(raised.value)).groups()]
    assert named == pytest.approx([right * (1 + 1e-5), right], rel=1e-7)
    check = fg.testing.check_gradients(net, X, y, tolerance=1.0)
    assert check.worst == "W1[3, 2]"
    assert check.each == pytest.approx(1e-5, rel=1e-2)
    assert check.gradient == pytest.approx(right * (1 + 1e-5), rel=1e-14)
    assert check.difference == pytest.approx(right, rel=1e-7)
    assert not check.corner


def large_entry(rng, array):
    """A random place among those of at least the root mean square."""
    return tuple(rng.choice(np.argwhere(np.abs(array) >= np.sqrt((array**2).mean()))))


def one_weight(views, rng, factor):
    W = views[rng.choice([name for name in views if name[0] == "W"])]
    W[large_entry(rng, W)] *= factor


def one_bias(views, rng, factor):
    b = views[rng.choice([name for name in views if name[0] == "b"])]
    b[large_entry(rng, b)] *= factor


def one_row(views, rng, factor):
    views["W2"][large_entry(rng, views["W2"])[0]] *= factor


def everything(views, rng, factor):
    for view in views.values():
        view *= factor


def a_transposed_weight(views, rng, factor):
    views["W2"][:] += (factor - 1) * (views["W2"].T - views["W2"])


def the_biases_of_a_layer(views, rng, factor):
    views["b2"] *= factor


PLANTED = (one_weight, one_bias, one_row, everything, a_transposed_weight, the_biases_of_a_layer)


@pytest.mark.parametrize("activation", [fg.ReLU, fg.Tanh, fg.Sigmoid])
@pytest.mark.parametrize("sizes", [(5, 8, 30), (120, 60, 40)], ids=["each parameter", "by projection alone"])
@pytest.mark.parametrize("plant", PLANTED, ids=[plant.__name__ for plant in PLANTED])
def test_an_error_of_one_in_ten_thousand_is_found(plant, sizes, activation):
    n, k, m = sizes
    for seed in range(3):
        net = Planted(
            fg.Linear(n, k), activation(), fg.Linear(k, k), activation(), fg.Linear(k, 2), dtype="float64", rng=seed
        )  # fmt: skip
        X, y = examples(net, m, seed)
        if seed == 2:
            X *= 10.0 ** np.random.default_rng(seed).uniform(-3, 3, (n, 1))
        net.spoil_gradient = lambda g, net=net, seed=seed: plant(net.unflatten(g), np.random.default_rng(seed), 1.0001)
        with pytest.raises(AssertionError, match=r"gradient check: an error of"):
            fg.testing.check_gradients(net, X, y)


@pytest.mark.parametrize("m", [15, 300], ids=["each entry", "by projection alone"])
@pytest.mark.parametrize("part", [(1, 3), (2, slice(None)), (slice(None), 5), slice(None)])
def test_a_wrong_input_gradient_is_found(part, m):
    net, _, _ = planted()
    X, y = examples(net, m)

    def spoil(gradient):
        gradient[part] *= 1.0001

    net.spoil_inputs = spoil
    with pytest.raises(AssertionError, match=r"X\[\d, \d+\]"):
        fg.testing.check_gradients(net, X, y)
    assert fg.testing.check_gradients(net, X, y, tolerance=1.0).inputs > 1e-6


def test_a_network_behind_another_object_is_checked_too():
    class Doubled:
        """Not a Sequential: its loss is twice another network's."""

        def __init__(self, net):
            self.net = net

        def __getattr__(self, name):
            return getattr(self.net, name)

        def loss(self, X, y):
            return 2 * self.net.loss(X, y)

        def loss_and_gradient(self, X, y):
            loss, gradient = self.net.loss_and_gradient(X, y)
            return 2 * loss, 2 * gradient

        def input_gradient(self, X, y):
            return self.factor * self.net.input_gradient(X, y)

    net, X, y = planted()
    doubled = Doubled(net)
    doubled.factor = 2
    assert fg.testing.check_gradients(doubled, X, y).error < 1e-7
    doubled.factor = 1
    with pytest.raises(AssertionError, match="X"):
        fg.testing.check_gradients(doubled, X, y)


def test_a_swapped_pair_and_a_nan_are_found():
    net, X, y = planted()

    def swap(gradient):
        gradient[[0, 5]] = gradient[[5, 0]]

    net.spoil_gradient = swap
    with pytest.raises(AssertionError, match=r"W1\[0, 0\]|W1\[1, 1\]"):
        fg.testing.check_gradients(net, X, y, most_parameters=0)

    def poison(gradient):
        gradient[7] = np.nan

    net.spoil_gradient = poison
    for most in (0, 500):
        with pytest.raises(AssertionError, match=r"an error of nan.* at W1\[1, 3\] the gradient is nan"):
            fg.testing.check_gradients(net, X, y, most_parameters=most)


def test_a_loss_that_is_not_finite_does_not_pass():
    net, X, y = planted()
    X[0, 0] = np.nan
    with pytest.raises(AssertionError, match="an error of nan"):
        fg.testing.check_gradients(net, X, y)


def test_where_the_gradient_is_zero_an_error_is_found():
    """Units that are dead, and a perfect fit."""
    net = Planted(fg.Linear(4, 6), fg.ReLU(), fg.Linear(6, 1), dtype="float64", rng=0)
    X, y = examples(net, 15)
    net.named_parameters()["b1"][2] = -100.0

    def spoil(gradient):
        gradient[2 * 4] += 1e-5

    for targets in (y, net(X)):
        net.spoil_gradient = lambda gradient: None
        assert net.loss_and_gradient(X, targets)[1][2 * 4] == 0
        assert fg.testing.check_gradients(net, X, targets).error < 1e-7
        net.spoil_gradient = spoil
        with pytest.raises(AssertionError, match=r"W1\[2, 0\]"):
            fg.testing.check_gradients(net, X, targets)


def test_at_a_corner_the_gradients_beside_it_are_compared():
    net = Planted(fg.Linear(4, 6), fg.ReLU(), fg.Linear(6, 1), dtype="float64", rng=0)
    net.named_parameters()["W1"][3] = 0  # and its bias: z = 0 for each example
    net.named_parameters()["b1"][3] = 0
    X, y = examples(net, 15)
    assert fg.testing.check_gradients(net, X, y).error < 1e-7

    def spoil(gradient):
        gradient[3 * 4 + 1] *= 1.0001

    net.spoil_gradient = spoil
    with pytest.raises(AssertionError, match=r"W1\[3, 1\] the gradient .*; a corner of the loss is near"):
        fg.testing.check_gradients(net, X, y)
    assert fg.testing.check_gradients(net, X, y, tolerance=1.0).corner


def test_the_parameters_are_unchanged_whenever_it_is_interrupted():
    class Interrupted(fg.Sequential):
        calls = 0

        def loss(self, X, y):
            Interrupted.calls += 1
            if Interrupted.calls == self.last_call:
                raise KeyboardInterrupt
            return super().loss(X, y)

    net = Interrupted(fg.Linear(2, 3), fg.ReLU(), fg.Linear(3, 1), dtype="float64", rng=0)
    X, y = examples(net, 6)
    before = net.parameters.copy()
    net.last_call = None
    fg.testing.check_gradients(net, X, y)
    n_calls, Interrupted.calls = Interrupted.calls, 0
    assert n_calls > 100
    for net.last_call in (1, 2, 3, 12, n_calls // 2, n_calls):
        Interrupted.calls = 0
        with pytest.raises(KeyboardInterrupt):
            fg.testing.check_gradients(net, X, y)
        np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("net", [np.zeros((3, 2)), fg.TwoLayerSigmoid, None, "net", fg.SGD(lr=0.1)])
def test_what_is_no_network_is_refused(net):
    with pytest.raises(TypeError, match=r"^net: expected a network such as Sequential, got \w+$"):
        fg.testing.check_gradients(net, np.zeros((2, 3)), np.zeros(3))


def test_float32_is_refused():
    net = fg.MultivariateRegression(2, rng=0)
    with pytest.raises(TypeError, match="net: expected a network of dtype float64, got float32; make it with dtype="):
        fg.testing.check_gradients(net, np.zeros((2, 3)), np.zeros(3))
