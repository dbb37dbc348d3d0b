"""The activations that are not compiled into other loops: accuracy, derivatives, both layouts, files."""

import math
import pickle

import numpy as np
import pytest
from support import TOLERANCE, relative, ulps, within

import fusegrad as fg
from fusegrad import reference
from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import make_plan

FUNCTIONS = {
    "leaky": fg.LeakyReLU(0.1),
    "leaky 0": fg.LeakyReLU(0.0),
    "elu": fg.ELU(0.7),
    "selu": fg.SELU(),
    "softplus": fg.Softplus(),
    "silu": fg.SiLU(),
    "mish": fg.Mish(),
    "gelu": fg.GELU(),
    "gelu tanh": fg.GELU("tanh"),
}
STORED = ("silu", "mish", "gelu", "gelu tanh")


def one_unit(name, dtype):
    net = fg.Sequential(fg.Linear(1, 1, bias=False), FUNCTIONS[name], dtype=dtype)
    net.parameters = [1.0]
    return net, reference.layers_of(net)[0][2]


def exact_gelu(z):
    """z Phi(z) in long double: by a series, or by the continued fraction of the upper tail."""
    z = z.astype(np.longdouble)
    x = abs(z)
    series = term = np.where(x < 2, x, 0)
    for k in range(1, 80):
        term = term * x**2 / (2 * k + 1)
        series = series + term
    fraction = np.maximum(x, 1)
    for k in range(300, 0, -1):
        fraction = np.maximum(x, 1) + k / fraction
    density = np.exp(-(x**2) / 2) / np.sqrt(8 * np.arctan(np.ones((), np.longdouble)))
    tail = np.where(x < 2, 0.5 - density * series, density / fraction)
    return z * np.where(z > 0, 1 - tail, tail)


def exact(activation, z):
    """The value and the derivative, in a wider type."""
    name, *parameters = (activation,) if isinstance(activation, str) else activation
    return reference.FUNCTIONS[name](z.astype("float64" if z.dtype == "float32" else np.longdouble), *parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy(name, dtype, rng):
    """In units in the last place, where that of Phi(z) or of the exponential is not a matter of the last place of z."""
    net, activation = one_unit(name, dtype)
    z = np.concatenate([rng.uniform(-5, 12, 100_000), rng.normal(size=10_000) * 1e-3, [0.0, -0.0]]).astype(dtype)
    value, slope = exact(activation, z)
    found = net(z[np.newaxis])[0]
    if name == "gelu" and dtype == "float64" and np.finfo(np.longdouble).nmant >= 63:  # math.erfc has no more digits
        value = exact_gelu(z)
    if name != "gelu" or dtype == "float32" or value.dtype == np.longdouble:
        most = {"gelu tanh": 40, "gelu": 6}.get(name, 4)
        within(f"{name}, ulp, {dtype}", ulps(found, value).max(), most)
    error = np.abs(found - value) / np.maximum(1, np.abs(value))
    within(f"{name}, error, {dtype}", error.max() / np.finfo(dtype).eps, 4)
    derivative = net.input_gradient(z[np.newaxis], output_gradient=np.ones((1, z.size)))[0]
    within(f"derivative of {name}, error, {dtype}", np.abs(derivative - slope).max() / np.finfo(dtype).eps, 4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extreme_arguments(name, dtype):
    net, activation = one_unit(name, dtype)
    largest = float(np.finfo(dtype).max)
    z = np.array([1e-40, -1e-40, 30, -30, 50, -50, 200, -200, 1e4, -1e4, largest, -largest], dtype)
    with np.errstate(all="ignore"):
        value, slope = exact(activation, np.clip(z, -1e8, 1e8))
    value = np.where(np.abs(z) > 1e8, value / 1e8 * np.abs(z).astype(value.dtype), value)
    if name in ("elu", "selu"):
        value[-1] = value[-3]
    found = net(z[np.newaxis])[0]
    with np.errstate(over="ignore"):  # 1.05 times the largest number
        value = value.astype(dtype)
    np.testing.assert_allclose(found, value, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-30)
    derivative = net.input_gradient(z[np.newaxis], output_gradient=np.ones((1, z.size)))[0]
    np.testing.assert_allclose(derivative, slope, rtol=1e-5, atol=1e-6 if dtype == "float32" else 1e-14)
    assert np.isnan(net([np.nan])).all()


def networks(name, n_hidden, dtype, seed):
    """The function within, before a single output, before its own kind, and last."""
    rng = np.random.default_rng(seed)
    layers = [fg.Linear(7, 33), FUNCTIONS[name], fg.Linear(33, n_hidden), fg.Tanh(), fg.Linear(n_hidden, 2)]
    two = [fg.Linear(5, 9), FUNCTIONS[name], fg.Linear(9, 6), FUNCTIONS[name], fg.Linear(6, 1)]
    for some in (layers, [*layers, FUNCTIONS[name]], two, [*two, FUNCTIONS[name]]):
        net = fg.Sequential(*some, dtype=dtype, rng=seed)
        net.parameters[:] += rng.normal(scale=0.2, size=net.n_parameters)
        yield net


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_against_the_reference(name, dtype, rng):
    for m in (1, 2, 5, 8, 13, 16, 17, 31, 32, 33, 64, 100, 700):
        for net in networks(name, 1 + m % 3, dtype, m):
            X = rng.normal(size=(net.n_features, m)).astype("float32").astype("float64")
            y = rng.normal(size=(net.n_outputs, m)).astype("float32").astype("float64")
            layers = reference.layers_of(net, "float64")
            loss, gradient = reference.loss_and_gradient(layers, X, y)
            of_input = reference.input_gradient(layers, X, y)
            batch = net._engine.batch(X, y)
            for few in (False, True) if m <= 64 else (False,):
                plan = make_plan(net.dense_layers, net.dtype, m, 1, False, few)
                engine = by_dtype[net.dtype].Engine(plan)
                found, of_X = np.empty(net.n_parameters, dtype), np.empty(X.shape, dtype)
                value = engine.gradient(batch.X, batch.y, net.parameters, found, of_X)
                assert value == pytest.approx(loss, rel=TOLERANCE[dtype])
                within(f"gradient with {name}, {dtype}", relative(found, gradient), TOLERANCE[dtype])
                assert relative(of_X, of_input) <= TOLERANCE[dtype]
                assert engine.gradient(batch.X, batch.y, net.parameters) == value
                np.testing.assert_allclose(
                    engine.forward(batch.X, net.parameters), reference.forward(layers, X), rtol=1e-3, atol=1e-4
                )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_predictions_have_the_same_bits_anywhere(name, dtype, rng):
    net = next(networks(name, 3, dtype, 0))
    X = rng.normal(size=(7, 200))
    whole = net(X)
    for m in (1, 2, 5, 9, 16, 17, 40):
        np.testing.assert_array_equal(net(X[:, :m]), whole[:, :m])
        np.testing.assert_array_equal(net.freeze()(X[:, -m:]), whole[:, -m:])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_number_of_threads(name, dtype, rng):
    net = next(networks(name, 3, dtype, 0))
    X, y = rng.normal(size=(7, 20_000)), rng.normal(size=(2, 20_000))
    found = []
    for n_threads in (1, 2, 3):
        fg.set_num_threads(n_threads)
        try:
            found.append(net.loss_and_gradient(X, y)[1])
        finally:
            fg.set_num_threads(None)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_check_gradients(name, rng):
    for net in networks(name, 2, "float64", 5):
        X, y = rng.normal(size=(net.n_features, 20)), rng.normal(size=(net.n_outputs, 20))
        assert fg.testing.check_gradients(net, X, y).error < 1e-7


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fits_files_and_pickles(name, tmp_path, rng):
    for dtype in ("float32", "float64"):
        net = next(networks(name, 3, dtype, 0))
        X, y = rng.normal(size=(7, 90)), rng.normal(size=(2, 90))
        history = net.fit(X, y, optimizer=fg.Adam(0.01), epochs=60, batch_size=16, rng=0)
        assert history.loss[-1] < history.loss[0]
        net.save(tmp_path / "net")
        for other in (
            fg.load(tmp_path / "net"),
            pickle.loads(pickle.dumps(net)),
            pickle.loads(pickle.dumps(net.freeze())),
        ):
            assert repr(other.layers) == repr(net.layers)
            np.testing.assert_array_equal(other(X), net(X))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_linear_layers_before_it_are_folded(name, rng):
    layers = [fg.Linear(6, 40), fg.Linear(40, 5), FUNCTIONS[name], fg.Linear(5, 2)]
    net = fg.Sequential(*layers, dtype="float64", rng=0)
    X, y = rng.normal(size=(6, 3000)), rng.normal(size=(2, 3000))
    assert "2 linear layers in one" in str(net.plan(3000))
    _, gradient = reference.loss_and_gradient(reference.layers_of(net), X, y)
    assert relative(net.loss_and_gradient(X, y)[1], gradient) <= 1e-12


def test_selu_keeps_mean_and_variance(rng):
    layers = [layer for _ in range(20) for layer in (fg.Linear(256, 256), fg.SELU())]
    out = fg.Sequential(*layers, rng=0)(rng.normal(size=(256, 500)))
    assert abs(out.mean()) < 0.1
    assert 0.8 < out.std() < 1.2


def test_which_derivatives_are_stored():
    """The second buffer is for those functions only whose derivative needs z."""
    for name, layer in FUNCTIONS.items():
        net = fg.Sequential(fg.Linear(4, 8), layer, fg.Linear(8, 1))
        plain = fg.Sequential(fg.Linear(4, 8), fg.ReLU(), fg.Linear(8, 1))
        assert (net.plan(1000).scratch > plain.plan(1000).scratch) == (name in STORED)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fg.LeakyReLU(-0.1), ValueError, "slope: expected a finite number, at least 0"),
        (lambda: fg.ELU(0), ValueError, "alpha: expected a finite number, more than 0"),
        (lambda: fg.GELU("erf"), ValueError, "approximate: expected 'none' or 'tanh', got 'erf'"),
        (lambda: fg.GELU(True), TypeError, "approximate: expected 'none' or 'tanh', got True"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_reference_of_gelu():
    assert reference.gelu(np.array([1.0]))[0] == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), rel=1e-15)
