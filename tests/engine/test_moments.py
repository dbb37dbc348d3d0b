"""Linear networks from the moments of the data: the same losses as from the examples, for a fraction of the work."""

import numpy as np
import pytest
from support import relative

import fusegrad as fg
from fusegrad._engine.moments import moments
from fusegrad.metrics import METRICS

NETS = {
    "univariate": lambda dtype: fg.UnivariateRegression(dtype=dtype, rng=0),
    "multivariate": lambda dtype: fg.MultivariateRegression(6, dtype=dtype, rng=0),
    "two-layer linear": lambda dtype: fg.TwoLayerLinear(6, 16, dtype=dtype, rng=0),
    "two outputs, no bias": lambda dtype: fg.Sequential(fg.Linear(6, 2, bias=False), dtype=dtype, rng=0),
}
OPTIMIZERS = {
    "sgd": lambda lr: fg.SGD(lr=lr),
    "momentum": lambda lr: fg.SGD(lr=lr / 5, momentum=0.8),
    "nesterov": lambda lr: fg.SGD(lr=lr / 5, momentum=0.8, nesterov=True),
    "adam": lambda lr: fg.Adam(lr=0.01),
}


def auto_mpg(name, standardised):
    X, y = fg.datasets.load_auto_mpg()
    if standardised:
        X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
        y = y / y.std()  # not centred: Adam would blow up the rounding of a bias gradient that is exactly 0
    if name == "univariate":
        X = X[3:4]
    return X, np.vstack([y, y**2]) if name.startswith("two outputs") else y


def both(name, dtype, optimizer, X, y, epochs=500, **arguments):
    """Two histories and networks: from the moments, and from the examples."""
    found = []
    for by_moments in (True, False):
        net = NETS[name](dtype)
        found.append((net.fit(X, y, optimizer=optimizer(), epochs=epochs, moments=by_moments, **arguments), net))
    return found


def assert_same(one, other, tolerance):
    np.testing.assert_allclose(one, other, rtol=tolerance)


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("standardised", [True, False], ids=["standardised", "raw"])
@pytest.mark.parametrize("name", NETS)
def test_the_losses_of_the_examples(name, standardised, rule):
    X, y = auto_mpg(name, standardised)
    # Raw columns have squares of 10^7: gradient descent needs as small a rate. Adam does not.
    lr = 0.02 if standardised else 1e-9
    (ours, net), (theirs, twin) = both(name, "float64", lambda: OPTIMIZERS[rule](lr), X, y)
    assert (ours.from_moments, theirs.from_moments) == (True, False)
    assert_same(ours.loss, theirs.loss, 1e-9)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_in_float32(name):
    X, y = auto_mpg(name, True)
    (ours, _), (theirs, _) = both(name, "float32", lambda: fg.SGD(lr=0.02), X, y)
    assert ours.from_moments
    assert_same(ours.loss, theirs.loss, 1e-4)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3])
def test_large_weights_that_cancel(size, shift, rng):
    """Of two nearly equal features, with and without a mean: the products of the moments cancel."""
    x, y = rng.normal(size=5000), rng.normal(size=5000)
    X = np.array([x, x + rng.normal(size=5000) / size]) + shift
    start = np.array([size, -size, 0.0])
    residuals = (start[:2].astype(np.longdouble)[:, np.newaxis] * X).sum(axis=0) - y
    exact = float((residuals**2).mean())
    slopes = np.append((2 * residuals * X).mean(axis=1), 2 * residuals.mean()).astype(float)
    net, optimizer = fg.MultivariateRegression(2, dtype="float64", rng=0), fg.SGD(lr=1.0, momentum=0.5)
    net.parameters = start
    history = net.fit(X, y, optimizer=optimizer, epochs=1000, callbacks=[lambda net, history: True])
    rounding = 1e-17 * size * (1 + shift)  # of the predictions
    assert history.loss[0] == pytest.approx(exact, rel=max(1e-9, rounding))
    assert relative(-optimizer.state[0], slopes) <= max(1e-9, 30 * rounding)
    if shift == 0:
        assert history.from_moments == (size < 1e3)


@pytest.mark.parametrize(("m", "n_threads"), [(333, 1), (50_000, 1), (50_000, 3)])
def test_a_perfect_fit_goes_back_to_the_examples(m, n_threads, rng):
    X = rng.normal(size=(6, m))
    y = rng.normal(size=(1, 6)) @ X + 3
    results = both("multivariate", "float64", lambda: fg.SGD(lr=0.2), X, y, n_threads=n_threads)
    (ours, net), (theirs, _) = results
    assert not ours.from_moments
    assert ours.loss[-1] < 1e-20, "what is left is rounding"
    seen = np.array(theirs.loss) > 1e-20
    np.testing.assert_allclose(np.array(ours.loss)[seen], np.array(theirs.loss)[seen], rtol=1e-7)
    assert_same(ours.loss[:3], theirs.loss[:3], 1e-9)
    np.testing.assert_allclose(net(X), y, atol=1e-9)


def test_nearly_collinear_columns(rng):
    X = rng.normal(size=(6, 300))
    X[5] = X[4] + 1e-7 * X[5]
    y = rng.normal(size=(1, 300))
    (ours, _), (theirs, _) = both("multivariate", "float64", lambda: fg.SGD(lr=0.1), X, y)
    assert_same(ours.loss, theirs.loss, 1e-9)


def test_where_they_are_not_taken(rng):
    X, y = auto_mpg("multivariate", True)

    def taken(net, epochs=500, **arguments):
        return net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=epochs, **arguments).from_moments

    def multivariate():
        return fg.MultivariateRegression(6, rng=0)

    assert taken(multivariate())
    assert taken(fg.TwoLayerLinear(6, 16, rng=0))
    assert not taken(multivariate(), moments=False)
    assert not taken(multivariate(), epochs=3), "too few steps to pay"
    assert not taken(multivariate(), batch_size=32)
    assert not taken(fg.TwoLayerSigmoid(6, 16, rng=0))
    assert not taken(fg.Sequential(fg.Linear(6, 1), fg.ReLU(), rng=0))


def test_the_plan_says_which_way_and_why():
    net = fg.MultivariateRegression(6)
    assert str(net.plan(1000, epochs=500)).endswith(
        "500 epochs from the moments: 98 multiply-adds an example once, 12 an example and step"
    )
    assert "3 epochs from the examples: 98" in str(net.plan(1000, epochs=3))
    assert "from the examples: not one linear layer" in str(fg.TwoLayerSigmoid(6, 16).plan(1000, epochs=500))
    assert "epochs" not in str(net.plan(1000))


@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a[:, ::-1], lambda a: np.asfortranarray(a)])
def test_moments_of_far_away_data(layout, dtype, rng):
    X, y = (1e4 + rng.normal(size=(3, 10_001))).astype(dtype), rng.normal(size=(2, 10_001)).astype(dtype)
    found = moments(layout(X), layout(y))
    z = np.vstack([X, y]).astype(np.longdouble)
    means = z.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.means, means[:, 0].astype(float), rtol=1e-14, atol=1e-14)
    exact = ((z - means) @ (z - means).T).astype(float)
    np.testing.assert_allclose(found.products, exact, rtol=1e-11, atol=1e-9)


def test_any_layout_gives_the_same_moments_and_metrics(dtype, rng):
    X, y = rng.normal(size=(5, 5000)).astype(dtype), rng.normal(size=(2, 5000)).astype(dtype)
    prediction = rng.normal(size=(2, 5000)).astype(dtype)
    expected = moments(X, y)
    named = {name: metric(y, prediction) for name, metric in METRICS.items()}
    for layout in (np.asfortranarray, lambda a: a[:, ::-1].copy()[:, ::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        found = moments(layout(X), layout(y))
        np.testing.assert_array_equal(found.means, expected.means)
        np.testing.assert_array_equal(found.products, expected.products)
        assert {name: metric(layout(y), prediction) for name, metric in METRICS.items()} == named


@pytest.mark.parametrize("at", [0, 20_000, 95_904])
def test_moments_of_a_stretch_unlike_the_rest(at, rng):
    X, y = rng.normal(size=(2, 100_000)), rng.normal(size=(1, 100_000))
    X[0, at : at + 4096] += 1e5
    y[:, at + 1000 : at + 1010] -= 1e6
    found = moments(X, y)
    z = np.vstack([X, y]).astype(np.longdouble)
    z -= z.mean(axis=1, keepdims=True)
    exact = (z @ z.T).astype(float)
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    assert (np.abs(found.products - exact) / scale).max() < 1e-14


def test_callbacks_see_every_epoch_and_may_change_the_network():
    X, y = auto_mpg("multivariate", True)
    seen = []

    def callback(net, history):
        seen.append(history.loss[-1])
        if len(seen) == 10:
            net.parameters[:] = 0

    net = fg.MultivariateRegression(6, dtype="float64", rng=0)
    history = net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=100, callbacks=[callback], validation_data=(X, y))
    assert history.from_moments
    assert seen == history.loss
    assert history.loss[10] == pytest.approx((y**2).mean(), rel=1e-12)
