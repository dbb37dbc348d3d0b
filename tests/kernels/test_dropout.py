"""Dropout: its masks are those of the reference, in every layout and on any number of threads; gradients are exact."""

import pickle

import numpy as np
import pytest
from support import TOLERANCE, relative, within

import fusegrad as fg
from fusegrad import reference

ACTIVATIONS = (fg.Sigmoid, fg.ReLU, fg.Tanh, fg.Identity, fg.ELU, fg.SiLU)


def expected(net, X, y, step):
    layers = reference.layers_of(net, np.float64)
    masks = reference.masks_of(net, step, X.shape[1])
    return reference.loss_and_gradient(layers, X.astype("f8"), y.astype("f8"), reference.objective_of(net), masks)


def small_net(p=0.3, dtype="float64", **options):
    return fg.Sequential(
        fg.Linear(3, 20), fg.Tanh(), fg.Dropout(p), fg.Linear(20, 9), fg.ReLU(), fg.Dropout(p), fg.Linear(9, 2),
        dtype=dtype, rng=0, **options,
    )  # fmt: skip


@pytest.fixture
def batch(rng):
    return rng.normal(size=(3, 70)), rng.normal(size=(2, 70))


@pytest.mark.parametrize("m", [1, 2, 7, 8, 13, 16, 17, 32, 33, 257, 3000])
@pytest.mark.parametrize("n_outputs", [1, 2, 9, 40])
def test_gradients_are_those_of_the_masked_network(n_outputs, m, dtype, rng):
    for kind in ACTIVATIONS:
        n, k = int(rng.integers(1, 40)), int(rng.integers(1, 70))
        p, top = rng.choice([0.1, 0.5, 0.9]), rng.choice([0.0, 0.5])
        net = fg.Sequential(
            fg.Linear(n, k), kind(), fg.Dropout(p), fg.Linear(k, 5), fg.Sigmoid(), fg.Dropout(0.5),
            fg.Linear(5, n_outputs), fg.Dropout(top), dtype=dtype, rng=1,
        )  # fmt: skip
        # Targets far from the predictions: their difference, the gradient of the loss, has no cancellation.
        X, y = rng.normal(size=(n, m)).astype(dtype), (4 + rng.normal(size=(n_outputs, m))).astype(dtype)
        step = int(rng.choice([0, 1, 2**32 - 1, 2**40 + 5]))
        loss, gradient = net.loss_and_gradient(X, y, training_step=step)
        loss_there, there = expected(net, X, y, step)
        within(f"loss with dropout, {dtype}", relative(loss, loss_there), TOLERANCE[dtype])
        within(f"gradient with dropout, {dtype}", relative(gradient, there), TOLERANCE[dtype])
        optimizer = fg.SGD(lr=1.0)
        optimizer.n_steps = step
        before = net.parameters.copy()
        assert net.train_step(X, y, optimizer) == loss
        assert np.array_equal(net.parameters, before - gradient)


@pytest.mark.parametrize(
    ("rounds", "words"),
    [(7, "5f6fb709 0d893f64 4f121f81 4f730a48"), (10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8")],
)
def test_the_generator_is_philox(rounds, words):
    """The words for counter and key 0 that are published with the generator."""
    found = reference.philox([np.zeros(1, "u8")] * 4, (0, 0), rounds)
    assert [int(word[0]) for word in found] == [int(word, 16) for word in words.split()]


def test_masks_are_independent():
    n = 4000
    for p in (0.1, 0.25, 0.5, 0.9):
        mask = reference.dropout_mask(p, 12345, 6, 1, (n, 50))
        share = (mask == 0).mean()
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / mask.size)
        assert mask.max() == pytest.approx(1 / (1 - p), rel=1e-3)
        # Neighbours in any direction, in the next step and in the next layer are independent.
        for other in (
            *(np.roll(mask, by, axis) for by, axis in ((1, 0), (1, 1), (8, 0))),
            *(reference.dropout_mask(p, *of, (n, 50)) for of in ((12345, 7, 1), (12345, 6, 0), (12346, 6, 1))),
        ):  # fmt: skip
            both = ((mask == 0) & (other == 0)).mean()
            assert abs(both - p * p) < 6 * p / np.sqrt(mask.size)


@pytest.mark.parametrize("m", [1, 5, 16, 500])
def test_nothing_is_dropped_outside_training(m, dtype, rng):
    X, y = rng.normal(size=(3, m)).astype(dtype), rng.normal(size=(2, m)).astype(dtype)
    net = small_net(dtype=dtype)
    plain = fg.Sequential(*(layer for layer in net.layers if not isinstance(layer, fg.Dropout)), dtype=dtype)
    plain.parameters = net.parameters
    assert np.array_equal(net(X), plain(X))
    assert np.array_equal(net.freeze()(X), plain.freeze()(X))
    assert net.loss(X, y) == plain.loss(X, y)
    assert relative(net.loss_and_gradient(X, y)[1], plain.loss_and_gradient(X, y)[1]) <= TOLERANCE[np.dtype(dtype).name]
    assert np.allclose(net.input_gradient(X, y), plain.input_gradient(X, y), rtol=1e-5)
    history = net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=1, validation_data=(X, y))
    assert history.validation_loss[-1] == net.loss(X, y)
    if dtype == "float64":
        fg.testing.check_gradients(net, X, y)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_same_bits_on_any_number_of_threads(n_threads, rng):
    X, y = rng.normal(size=(16, 5000)), rng.normal(size=(1, 5000))
    nets = []
    for threads in (1, n_threads):
        net = fg.Sequential(fg.Linear(16, 64), fg.Sigmoid(), fg.Dropout(0.2), fg.Linear(64, 1), dtype="float64", rng=0)
        net.fit(X, y, optimizer=fg.Adam(), epochs=3, batch_size=2000, rng=0, n_threads=threads)
        nets.append(net)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_folding_does_not_change_the_masks(rng):
    net = fg.Sequential(
        fg.Linear(2, 30), fg.Linear(30, 30), fg.Dropout(0.4), fg.Linear(30, 3), fg.Linear(3, 1), fg.Dropout(0.2),
        dtype="float64", rng=0,
    )  # fmt: skip
    assert net.plan(2000).folded
    for m in (3, 2000):
        X, y = rng.normal(size=(2, m)), rng.normal(size=(1, m))
        assert relative(net.loss_and_gradient(X, y, training_step=4)[1], expected(net, X, y, 4)[1]) < 1e-12


class UserRule:
    """Gradient descent, which does not count its steps."""

    lr = 0.1

    def step(self, parameters, gradient):
        parameters -= self.lr * gradient


class Subclass(fg.Sequential):
    def loss_and_gradient(self, X, y, **options):
        return super().loss_and_gradient(X, y, **options)


class Squares:
    """The mean squared error, as a user-defined loss."""

    def value_and_gradient(self, prediction, y):
        r = prediction - y
        return (r * r).sum() / r.shape[1], 2 * r / r.shape[1]


def test_steps_in_python_use_the_same_masks(batch):
    X, y = batch
    arguments = {"epochs": 3, "batch_size": 32, "rng": 5}
    plain = small_net()
    plain.fit(X, y, optimizer=fg.SGD(lr=0.1), **arguments)
    overridden = Subclass(*plain.layers, dtype="float64", rng=0)
    overridden.fit(X, y, optimizer=fg.SGD(lr=0.1), **arguments)
    user_loss = small_net(loss=Squares())
    user_loss.fit(X, y, optimizer=fg.SGD(lr=0.1), **arguments)
    user_rule = small_net()
    user_rule.fit(X, y, optimizer=UserRule(), **arguments)
    for net in (overridden, user_loss, user_rule):
        assert relative(net.parameters, plain.parameters) < 1e-13
    # In a loop of single steps a rule that does not count gets new masks at each step, too.
    losses = {small_net().train_step(X, y, fg.SGD(lr=0.1))}
    rule, net = UserRule(), small_net()
    rule.lr = 0.0
    losses |= {net.train_step(X, y, rule) for _ in range(3)}
    assert len(losses) == 3  # the first of both is the same


def test_a_fit_is_its_steps_and_resumes(batch, tmp_path):
    X, y = batch
    fitted, stepped = small_net(), small_net()
    fitted.fit(X, y, optimizer=fg.Adam(), epochs=4, batch_size=35, shuffle=False)
    optimizer = fg.Adam()
    for _ in range(4):
        for first in (0, 35):
            stepped.train_step(X[:, first : first + 35], y[:, first : first + 35], optimizer)
    assert np.array_equal(fitted.parameters, stepped.parameters)

    half, optimizer, rng = small_net(), fg.Adam(), np.random.default_rng(0)
    half.fit(X, y, optimizer=optimizer, epochs=2, batch_size=20, rng=rng)
    half.save(tmp_path / "half.safetensors", optimizer=optimizer, rng=rng)
    resumed, optimizer, rng = fg.load_checkpoint(tmp_path / "half.safetensors")
    resumed.fit(X, y, optimizer=optimizer, epochs=4, initial_epoch=2, batch_size=20, rng=rng)
    straight = small_net()
    straight.fit(X, y, optimizer=fg.Adam(), epochs=4, batch_size=20, rng=0)
    assert np.array_equal(resumed.parameters, straight.parameters)


def test_the_seed_is_drawn_after_the_weights_and_kept(tmp_path):
    net = small_net()
    plain = fg.Sequential(*(layer for layer in net.layers if not isinstance(layer, fg.Dropout)), dtype="float64", rng=0)
    assert np.array_equal(net.parameters, plain.parameters)
    assert plain.dropout_seed is None
    assert net.dropout_seed == small_net(dtype="float32").dropout_seed
    assert net.dropout_seed != fg.Sequential(*net.layers, rng=1).dropout_seed
    net.save(tmp_path / "net.safetensors")
    for copy in (pickle.loads(pickle.dumps(net)), fg.load(tmp_path / "net.safetensors")):
        assert copy.dropout_seed == net.dropout_seed
        assert repr(copy) == repr(net)
    assert "Dropout(0.3)" in repr(net)
    assert "dropout 0.3" in str(net.plan(10))


def test_errors():
    with pytest.raises(ValueError, match=r"layers\[0\]: expected a Linear first, got Dropout"):
        fg.Sequential(fg.Dropout(0.5), fg.Linear(3, 1))
    for layer in (fg.ReLU(), fg.SELU(), fg.Dropout(0.1)):
        with pytest.raises(ValueError, match=r"layers\[2\]: expected a Linear after a Dropout"):
            fg.Sequential(fg.Linear(3, 1), fg.Dropout(0.5), layer)
    for p in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="p: "):
            fg.Dropout(p)
    with pytest.raises(ValueError, match="training_step: "):
        small_net().loss_and_gradient(np.ones((3, 2)), np.ones((2, 2)), training_step=-1)


def test_dropout_of_nothing_is_no_dropout(batch):
    net, plain = small_net(0.0), small_net(0.0)
    net.fit(*batch, optimizer=fg.Adam(), epochs=2)
    plain = fg.Sequential(*(layer for layer in net.layers if not isinstance(layer, fg.Dropout)), dtype="float64", rng=0)
    plain.fit(*batch, optimizer=fg.Adam(), epochs=2)
    assert np.array_equal(net.parameters, plain.parameters)


def test_an_overridden_gradient_takes_the_step(batch):
    class Short(fg.Sequential):
        def loss_and_gradient(self, X, y):
            return super().loss_and_gradient(X, y)

    net = Short(*small_net().layers, dtype="float64", rng=0)
    for call in (net.train_step, lambda X, y, optimizer: net.fit(X, y, optimizer=optimizer, epochs=1)):
        with pytest.raises(TypeError, match="loss_and_gradient: expected it to take training_step="):
            call(*batch, fg.SGD(0.1))


def test_masks_of_a_rule_that_does_not_count_go_on_from_fit_to_fit(batch):
    X, y = batch
    rule, net = UserRule(), small_net()
    rule.lr = 0.0
    losses = [net.fit(X, y, optimizer=rule, epochs=1).loss[0] for _ in range(3)] + [net.train_step(X, y, rule)]
    assert len(set(losses)) == 4
    again = small_net()
    assert again.fit(X, y, optimizer=rule, epochs=4).loss == losses
    resumed = small_net()
    assert resumed.fit(X, y, optimizer=rule, epochs=4, initial_epoch=2).loss == losses[2:]
