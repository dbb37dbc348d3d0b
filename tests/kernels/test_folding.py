"""Consecutive linear layers folded into one: the same gradients, the same training, chosen where it pays."""

import numpy as np
import pytest
from support import LANES, TOLERANCE, examples, perturbed, reference, relative

import fusegrad as fg
from fusegrad._engine.engine import NetworkEngine
from fusegrad._engine.plan import fold_layers

FOLDS = {
    "two": [fg.Linear(8, 32), fg.Linear(32, 1)],
    "three": [fg.Linear(5, 20), fg.Linear(20, 7), fg.Identity(), fg.Linear(7, 2)],
    "without bias": [fg.Linear(6, 9, bias=False), fg.Linear(9, 3, bias=False)],
    "some biases": [fg.Linear(6, 9), fg.Linear(9, 11, bias=False), fg.Linear(11, 3)],
    "a bias that the last has not": [fg.Linear(1, 1), fg.Linear(1, 40, bias=False)],  # more parameters than the network
    "a bias in the middle": [fg.Linear(2, 2, bias=False), fg.Linear(2, 2), fg.Linear(2, 90, bias=False)],
    "one input": [fg.Linear(1, 9), fg.Linear(9, 1)],
    "activation behind": [fg.Linear(8, 30), fg.Linear(30, 4), fg.Tanh()],
    "between activations": [
        fg.Linear(4, 12), fg.Tanh(), fg.Linear(12, 40), fg.Linear(40, 6), fg.Sigmoid(),
        fg.Linear(6, 25), fg.Linear(25, 2),
    ],
    "many inputs": [fg.Linear(70, 60), fg.Linear(60, 50), fg.Linear(50, 1)],
}  # fmt: skip


@pytest.mark.parametrize("layers", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("m", [1, 33, 500, 20_011])
def test_gradients(layers, m, dtype):
    net = perturbed(*layers, dtype=dtype)
    X, y = examples(net, m)
    expected = reference(net, X, y)
    loss, gradient = net.loss_and_gradient(X, y)
    assert net.plan(20_011).folded
    assert loss == pytest.approx(expected.loss, rel=TOLERANCE[dtype])
    assert relative(gradient, expected.gradient) <= TOLERANCE[dtype]
    for name, part in net.unflatten(gradient).items():
        right = net.unflatten(expected.gradient)[name]
        # no layer hides behind a larger one (a gradient that is nothing but roundings excepted)
        if np.abs(right).max() > 1e-3 * np.abs(expected.gradient).max():
            assert relative(part, right) <= 20 * TOLERANCE[dtype], name


@pytest.mark.parametrize("n_in", [1, 2, 7, 8, 15, 16, 17, 31, 32, 33])
def test_columns_at_the_edge_of_a_panel(n_in, dtype):
    net = perturbed(fg.Linear(n_in, 3 * LANES[dtype] + 1), fg.Linear(3 * LANES[dtype] + 1, 2), dtype=dtype)
    X, y = examples(net, 5000)
    assert net.plan(5000).folded
    assert relative(net.loss_and_gradient(X, y)[1], reference(net, X, y).gradient) <= TOLERANCE[dtype]


def test_more_inputs_than_a_lane_adds_up():
    """In float32 a gradient of a member sums over the inputs: by blocks, which 2 100 inputs fill with 4 lanes."""
    net = perturbed(fg.Linear(2100, 2), fg.Linear(2, 1), dtype="float32")
    rng = np.random.default_rng(0)
    X, y = rng.random((2100, 4400), dtype="float32"), rng.random((1, 4400), dtype="float32")
    assert net.plan(4400).folded
    assert relative(net.loss_and_gradient(X, y)[1], reference(net, X, y).gradient) <= TOLERANCE["float32"]


class LayerByLayer(NetworkEngine):
    __slots__ = ()

    def compiled(self, m, n_threads=None, folding=True):
        return super().compiled(m, n_threads, folding=False)


@pytest.mark.parametrize("optimizer", [lambda: fg.SGD(0.01), lambda: fg.SGD(0.01, 0.9, nesterov=True), fg.Adam])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_training_is_that_of_the_layers_one_by_one(optimizer, n_threads):
    layers = FOLDS["between activations"]
    net, twin = (perturbed(*layers, dtype="float64") for _ in range(2))
    X, y = examples(net, 9000)
    twin._engine.__class__ = LayerByLayer
    options = {"epochs": 3, "batch_size": 4000, "rng": 0, "n_threads": n_threads}
    assert net.plan(4000).folded
    one = net.fit(X, y, optimizer=optimizer(), **options)
    two = twin.fit(X, y, optimizer=optimizer(), **options)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-12)
    assert relative(net.parameters, twin.parameters) <= 1e-11


def test_threads_change_no_bit(dtype):
    net, twin = (perturbed(*FOLDS["three"], dtype=dtype) for _ in range(2))
    X, y = examples(net, 50_000)
    for network, n_threads in ((net, 1), (twin, 4)):
        network.fit(X, y, optimizer=fg.SGD(0.01, momentum=0.5), epochs=3, n_threads=n_threads)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_it_is_chosen_where_it_pays():
    def folds(layers, batch):
        return [len(fold) for fold in fold_layers(fg.Sequential(*layers).dense_layers, batch, 32)]

    assert folds(FOLDS["two"], 10**5) == [2]
    assert folds(FOLDS["two"], 4) == [1, 1]
    assert folds(FOLDS["between activations"], 10**5) == [1, 2, 2]
    # a narrow waist is cheaper as it is
    assert folds([fg.Linear(100, 2), fg.Linear(2, 100)], 10**5) == [1, 1]


def test_predictions_do_not_fold():
    net = perturbed(*FOLDS["two"], dtype="float32")
    X, _ = examples(net, 4000)
    np.testing.assert_array_equal(net(X)[:, :1], net(X[:, :1]))
