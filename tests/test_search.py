"""Random search: losses to the bit, any number of threads, and the comparison with gradient descent that it is for."""

import numpy as np
import pytest
from support import examples

import fusegrad as fg

NETS = {
    "univariate": [fg.Linear(1, 1)],
    "two-layer linear": [fg.Linear(8, 32), fg.Linear(32, 1)],
    "two-layer sigmoid": [fg.Linear(8, 32), fg.Sigmoid(), fg.Linear(32, 1)],
    "two outputs": [fg.Linear(5, 9), fg.ReLU(), fg.Linear(9, 2)],
    "a scale": [fg.Scale(5), fg.Linear(5, 9), fg.Tanh(), fg.Linear(9, 2)],
    "dropout": [fg.Linear(5, 9), fg.Tanh(), fg.Dropout(0.5), fg.Linear(9, 2)],
}


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
@pytest.mark.parametrize("m", [1, 5, 33, 3000])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_losses_are_those_of_the_network(layers, m, l2, dtype):
    net = fg.Sequential(*layers, l2=l2, dtype=dtype, rng=0)
    X, y = examples(net, m)
    search = fg.random_search(net, X, y, 20, scale=0.3, rng=1)
    drawn = np.random.default_rng(1).standard_normal((20, net.n_parameters), net.dtype) * np.dtype(dtype).type(0.3)
    assert np.array_equal(net.parameters, drawn[search.best])
    assert search.best == search.losses.argmin()
    assert search.loss == search.losses[search.best]
    for candidate, loss in zip(drawn, search.losses, strict=True):
        net.parameters = candidate
        there = net.loss(X, y)
        assert loss == (pytest.approx(there, rel=1e-14) if l2 else there)  # squares of weights are added in other parts


@pytest.mark.parametrize("n_threads", [2, 3, 8])
def test_same_bits_on_any_number_of_threads(n_threads, rng):
    found = []
    for threads in (1, n_threads):
        net = fg.TwoLayerSigmoid(8, 32, rng=0)
        X, y = examples(net, 500)
        weights = np.linspace(0.5, 1.5, 500)
        search = fg.random_search(net, X, y, 3000, rng=0, sample_weight=weights, n_threads=threads)
        found.append((search.losses.tobytes(), search.best, net.parameters.tobytes()))
    assert found[0] == found[1]


def test_in_chunks(monkeypatch):
    """Candidates are drawn some at a time: the same numbers."""
    found = []
    for size in (fg.search.CHUNK_BYTES, 10_000):
        monkeypatch.setattr(fg.search, "CHUNK_BYTES", size)
        net = fg.TwoLayerSigmoid(8, 32, rng=0)
        X, y = examples(net, 50)
        found.append(fg.random_search(net, X, y, 500, rng=0).losses.tobytes())
    assert found[0] == found[1]


def test_classes_and_user_defined_losses(rng):
    class Absolute:
        def value_and_gradient(self, prediction, y):
            return np.abs(prediction - y).mean(), np.sign(prediction - y) / prediction.size

    X = rng.normal(size=(3, 40))
    net = fg.Sequential(fg.Linear(3, 4), loss="softmax_cross_entropy", dtype="float64", rng=0)
    y = rng.integers(0, 4, 40)
    assert fg.random_search(net, X, y, 50, rng=0).loss == net.loss(X, y)
    net = fg.Sequential(fg.Linear(3, 1), loss=Absolute(), dtype="float64", rng=0)
    search = fg.random_search(net, X, X[:1], 50, rng=0)
    assert search.loss == pytest.approx(np.abs(net(X) - X[0]).mean())


def test_is_this_a_good_idea():
    """In one dimension it is not bad; in 25 it is hopeless where 100 steps of gradient descent are enough."""
    rng = np.random.default_rng(0)
    for n, hopeless in ((1, False), (25, True)):
        X = rng.normal(size=(n, 200))
        y = rng.normal(size=(1, n)) @ X
        net = fg.MultivariateRegression(n, dtype="float64", rng=0)
        search = fg.random_search(net, X, y, 20_000, rng=0)
        descended = net.fit(X, y, optimizer=fg.SGD(lr=0.3), epochs=100).loss[-1]
        assert (search.loss > 1.0) == hopeless
        assert descended < 1e-6


def test_errors(rng):
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    before = net.parameters.copy()
    X = rng.normal(size=(1, 9))
    for call, error, says in (
        (lambda: fg.random_search("net", X, X, 5), TypeError, "net: "),
        (lambda: fg.random_search(net, X, X, 0), ValueError, "n: "),
        (lambda: fg.random_search(net, X, X, 5, scale=0), ValueError, "scale: "),
        (lambda: fg.random_search(net, np.ones((2, 9)), X, 5), ValueError, "X: "),
        (
            lambda: fg.random_search(net, X, X * np.nan, 5),
            ValueError,
            "X: expected data with which some loss is finite",
        ),
        (lambda: fg.random_search(net, X, X, 5, rng="seed"), TypeError, "rng: "),
    ):
        with pytest.raises(error, match=says):
            call()
        assert np.array_equal(net.parameters, before)
    with pytest.raises(RuntimeError):
        net.fit(
            X,
            X,
            optimizer=fg.SGD(0.1),
            epochs=2,
            callbacks=[lambda net, history: fg.random_search(net, X, X, 2) and None],
        )
