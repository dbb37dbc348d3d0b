"""A factor on the learning rate of each parameter: `learning_rate_factors` of every optimizer."""

import copy
import pickle

import numpy as np
import pytest
from support import relative, within

import fusegrad as fg

reference = fg.reference
RULES = {
    "sgd": lambda **o: fg.SGD(lr=0.1, **o),
    "momentum": lambda **o: fg.SGD(lr=0.01, momentum=0.9, **o),
    "nesterov": lambda **o: fg.SGD(lr=0.01, momentum=0.9, nesterov=True, **o),
    "adagrad": lambda **o: fg.Adagrad(lr=0.1, **o),
    "rmsprop": lambda **o: fg.RMSprop(lr=0.01, decay=0.9, **o),
    "adam": lambda **o: fg.Adam(lr=0.01, **o),
    "adamw": lambda **o: fg.AdamW(lr=0.01, weight_decay=0.3, **o),
}
each_rule = pytest.mark.parametrize("rule", RULES)


def equations(optimizer, w, gradients, lr):
    first = second = np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        match optimizer:
            case fg.SGD(momentum=0.0):
                w = reference.sgd(w, g, lr)
            case fg.SGD():
                w, first = reference.momentum(w, g, first, lr, optimizer.momentum)
            case fg.Adagrad():
                w, first = reference.adagrad(w, g, first, lr, optimizer.eps)
            case fg.RMSprop():
                w, first = reference.rmsprop(w, g, first, lr, optimizer.decay, optimizer.eps)
            case fg.Adam():
                w = w * (1 - lr * getattr(optimizer, "weight_decay", 0.0))
                w, first, second = reference.adam(w, g, first, second, t, lr, optimizer.betas, optimizer.eps)
    return w


def network(dtype="float64", **options):
    return fg.Sequential(fg.Scale(4), fg.Linear(4, 9), fg.Tanh(), fg.Linear(9, 2), dtype=dtype, rng=0, **options)


@pytest.fixture
def batch(rng):
    return rng.normal(size=(4, 60)), rng.normal(size=(2, 60))


@each_rule
@pytest.mark.parametrize("n", [1, 3, 7, 8, 9, 31, 1001])
def test_steps_are_those_of_the_equations(rule, n, dtype, rng):
    factors, w, gradients = rng.uniform(0, 3, n), rng.normal(size=n), rng.normal(size=(20, n))
    factors[0] = 0.0
    optimizer = RULES[rule](learning_rate_factors=factors)
    found = w.astype(dtype)
    for g in gradients:
        optimizer.step(found, g.astype(dtype))
    expected = equations(optimizer, w, gradients, optimizer.lr * factors)
    within(f"20 steps with factors, {dtype}", relative(found, expected), 1e-12 if dtype == "float64" else 1e-5)
    assert found[0] == w.astype(dtype)[0]


@each_rule
@pytest.mark.parametrize("m", [2, 60])
def test_a_fit_is_its_steps_in_python(rule, m, dtype, batch):
    """Bit for bit, by names and as an array; a few examples have an update of their own."""
    X, y = (array[:, :m].astype(dtype) for array in batch)
    names = {"W": 0.5, "W2": 2.0, "b1": 0.0, "s": 6.0}
    fitted = network(dtype)
    fitted.fit(X, y, optimizer=RULES[rule](learning_rate_factors=names), epochs=10)
    flat = np.ones(fitted.n_parameters)
    for name, view in fitted.unflatten(flat).items():
        view[:] = names.get(name, names.get(name[0], 1.0))
    for factors in (names, flat):
        optimizer, net = RULES[rule](learning_rate_factors=factors), network(dtype)
        for _ in range(10):
            net.train_step(X, y, optimizer)
        assert np.array_equal(net.parameters, fitted.parameters)
    assert np.array_equal(fitted.named_parameters()["b1"], network(dtype).named_parameters()["b1"])


@each_rule
def test_factors_of_one_are_none(rule, batch):
    nets = [network() for _ in range(3)]
    for net, factors in zip(nets, (None, {}, {"W": 1.0, "b": 1.0, "s1": 1.0}), strict=True):
        net.fit(*batch, optimizer=RULES[rule](learning_rate_factors=factors), epochs=5)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert np.array_equal(nets[0].parameters, nets[2].parameters)


@pytest.mark.parametrize("factors", [{"W1": 0.5}, "array"])
def test_files_pickles_and_copies(factors, batch, tmp_path):
    net = network()
    factors = np.linspace(0.1, 2, net.n_parameters) if factors == "array" else factors
    straight = network()
    straight.fit(*batch, optimizer=fg.Adam(learning_rate_factors=factors), epochs=4)
    optimizer = fg.Adam(learning_rate_factors=factors)
    net.fit(*batch, optimizer=optimizer, epochs=2)
    net.save(tmp_path / "net.safetensors", optimizer=optimizer)
    start = net.parameters.copy()
    loaded, read, _ = fg.load_checkpoint(tmp_path / "net.safetensors")
    for own in (read, pickle.loads(pickle.dumps(optimizer)), copy.copy(optimizer)):
        loaded = network()
        loaded.parameters = start
        loaded.fit(*batch, optimizer=own, epochs=4, initial_epoch=2)
        assert np.array_equal(loaded.parameters, straight.parameters)
        assert repr(own) == repr(optimizer)


def test_an_optimizer_without_state_serves_several_networks(batch):
    """The names are those of the network that is trained."""
    optimizer, (X, y) = fg.SGD(lr=0.1, learning_rate_factors={"W2": 0.0}), batch
    for net in (network(), network(loss="huber"), network()):
        before = net.named_parameters()["W2"].copy()
        net.fit(X, y, optimizer=optimizer, epochs=3)
        assert np.array_equal(net.named_parameters()["W2"], before)
        assert not (net.named_parameters()["W1"] == 0).any()


@pytest.mark.parametrize(
    ("factors", "error", "says"),
    [
        ({"W": -1.0}, ValueError, r"learning_rate_factors\['W'\]: "),
        ({"W": "much"}, TypeError, r"learning_rate_factors\['W'\]: "),
        ({1: 1.0}, TypeError, "learning_rate_factors: expected a dict of names"),
        ("W", TypeError, "learning_rate_factors: expected a dict of names to numbers, or a flat array"),
        (2.0, TypeError, "learning_rate_factors: "),
        ([1.0, float("nan")], ValueError, "learning_rate_factors: "),
        (np.ones((2, 3)), ValueError, "learning_rate_factors: "),
    ],
)
def test_errors_of_an_optimizer(factors, error, says):
    with pytest.raises(error, match=says):
        fg.Adam(learning_rate_factors=factors)


def test_errors_of_a_network(batch):
    X, y = batch
    net = network()
    for factors, says in (({"W3": 1.0}, "got 'W3'"), ({"weight": 1.0}, "got 'weight'"), (np.ones(5), "shape")):
        for call in (net.train_step, lambda X, y, optimizer: net.fit(X, y, optimizer=optimizer, epochs=1)):
            optimizer = fg.Adam(learning_rate_factors=factors)
            before = net.parameters.copy()
            with pytest.raises(ValueError, match=f"learning_rate_factors: .*{says}"):
                call(X, y, optimizer)
            assert np.array_equal(net.parameters, before)
            assert optimizer.state is None
    with pytest.raises(ValueError, match="learning_rate_factors: expected an array where an optimizer has no network"):
        fg.Adam(learning_rate_factors={"W": 1.0}).step(np.zeros(3), np.ones(3))
    with pytest.raises(AttributeError, match="learning_rate_factors"):
        fg.Adam().learning_rate_factors = {"W": 1.0}


def test_the_factors_of_an_optimizer_cannot_be_written():
    given = np.ones(3)
    optimizer = fg.Adam(learning_rate_factors=given)
    given[:] = -1
    optimizer.learning_rate_factors[:] = -1
    w = np.zeros(3)
    optimizer.step(w, np.ones(3))
    assert (w < 0).all()


@pytest.mark.parametrize("factors", [{"W1": 0.5}, [1.0, 2.0]])
def test_a_step_that_fails_leaves_the_optimizer_as_it_was(factors):
    optimizer = fg.Adam(learning_rate_factors=factors)
    with pytest.raises(ValueError, match="learning_rate_factors: "):
        optimizer.step(np.zeros(5), np.ones(5))
    assert optimizer.state is None


def test_names_are_those_of_the_network_that_has_as_many_parameters(batch):
    optimizer, net = fg.SGD(lr=0.1, learning_rate_factors={"W1": 0.0}), network()
    net.train_step(*batch, optimizer)
    optimizer.load_state_dict({"lr": 0.1, "n_steps": 0, "state": None})
    with pytest.raises(ValueError, match="learning_rate_factors: expected an array"):
        optimizer.step(np.ones(5), np.ones(5))


@pytest.mark.parametrize("factors", [{"W1": 1e300}, np.full(73, 1e300)])
def test_factors_that_the_dtype_cannot_hold(factors):
    net = network("float32")
    before = net.parameters.copy()
    factors = factors if isinstance(factors, dict) else np.full(net.n_parameters, 1e300)
    with pytest.raises(ValueError, match="learning_rate_factors: expected numbers that float32 can hold"):
        net.train_step(np.ones((4, 5)), np.ones((2, 5)), fg.SGD(0.1, learning_rate_factors=factors))
    assert np.array_equal(net.parameters, before)


def test_a_step_cannot_be_set_while_a_fit_runs(batch):
    net, optimizer = network(), fg.SGD(0.1)

    def wrap(net, history):
        optimizer.step = lambda parameters, gradient: None

    with pytest.raises(RuntimeError, match="step: expected to be set before a fit"):
        net.fit(*batch, optimizer=optimizer, epochs=3, callbacks=[wrap])
