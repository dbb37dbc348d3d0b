"""Optimizers against their equations in NumPy, against printed vectors, and inside the engine."""

import copy
import json
import pickle
import sys
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from support import examples, perturbed, relative, within

import fusegrad as fg

reference = fg.reference


def equations(optimizer, w, gradients):
    """The update rules as the reference writes them."""
    states = [np.zeros_like(w) for _ in range(2)]
    for t, g in enumerate(gradients, start=1):
        match optimizer:
            case fg.SGD(momentum=0.0):
                w = reference.sgd(w, g, optimizer.lr)
            case fg.SGD():
                w, states[0] = reference.momentum(w, g, states[0], optimizer.lr, optimizer.momentum)
            case fg.Adagrad():
                w, states[0] = reference.adagrad(w, g, states[0], optimizer.lr, optimizer.eps)
            case fg.RMSprop():
                w, states[0] = reference.rmsprop(w, g, states[0], optimizer.lr, optimizer.decay, optimizer.eps)
            case fg.Adam():
                w, *states = reference.adam(
                    w, g, *states, t, optimizer.lr, optimizer.betas, optimizer.eps, optimizer.bias_correction
                )
    return w, states


OPTIMIZERS = {
    "sgd": lambda: fg.SGD(lr=0.1),
    "momentum": lambda: fg.SGD(lr=0.01, momentum=0.9),
    "nesterov": lambda: fg.SGD(lr=0.01, momentum=0.9, nesterov=True),
    "adagrad": lambda: fg.Adagrad(lr=0.1),
    "rmsprop": lambda: fg.RMSprop(lr=0.01, decay=0.9),
    "adam": lambda: fg.Adam(lr=0.01),
    "plain adam": lambda: fg.Adam(lr=0.01, bias_correction=False),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@each_optimizer
@pytest.mark.parametrize("n", [1, 7, 8, 9, 1001])
def test_100_steps_of_the_equations(make, n, rng):
    w = rng.normal(size=n)
    gradients = rng.normal(size=(100, n))
    expected, states = equations(make(), w, gradients)
    optimizer = make()
    for g in gradients:
        optimizer.step(w, g)
    within("100 steps of an optimizer against its equations", relative(w, expected), 1e-12)
    for row, state in zip(optimizer.state, states, strict=False):
        assert relative(row, state) <= 1e-12
    assert optimizer.n_steps == 100


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_average_stays_subnormal(make, dtype):
    # Where a gradient ends, an average decays, and arithmetic on subnormal numbers is slow. A second average is needed
    # for as long as there is a first one.
    tiny = np.finfo(dtype).smallest_normal
    gradient = np.array([tiny, 30 * tiny, np.sqrt(tiny), 30 * np.sqrt(tiny), 1.0], dtype)
    w = np.ones_like(gradient)
    optimizer = make()
    for g in [gradient] * 10 + [np.zeros_like(gradient)] * 4000:
        optimizer.step(w, g)
    assert not np.any((optimizer.state != 0) & (np.abs(optimizer.state) < tiny))
    assert np.all(np.isfinite(w))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_momentum_of_a_subnormal_gradient(dtype):
    """A learning rate may lift it: the momentum has not decayed."""
    tiny = np.finfo(dtype).smallest_normal / 8
    w, gradient = np.zeros(1, dtype), np.array([tiny], dtype)
    expected = v = 0.0
    optimizer = fg.SGD(lr=1000.0, momentum=0.5)
    for _ in range(10):
        optimizer.step(w, gradient)
        v = 0.5 * v - 1000.0
        expected += v
    np.testing.assert_allclose(w / tiny, expected, rtol=1e-5)


@each_optimizer
def test_float32_is_as_near_as_its_digits(make, rng):
    w = rng.normal(size=101).astype("float32")
    gradients = rng.normal(size=(100, 101)).astype("float32")
    expected, _ = equations(make(), w.astype("float64"), gradients.astype("float64"))
    optimizer = make()
    for g in gradients:
        optimizer.step(w, g)
    assert w.dtype == optimizer.state.dtype == "float32"
    assert relative(w, expected) <= 100 * np.finfo("float32").eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_divides_as_numpy_does(dtype, rng):
    """On each instruction set, though some do not divide: to an ulp, and nearly always to the bit."""
    n = 100_001
    g, c = rng.choice([-1, 1], n) * np.exp(rng.uniform(-10, 10, n)), np.exp(rng.uniform(-10, 10, n))
    optimizer = fg.Adagrad(lr=1.0, eps=1e-8)
    g, w = g.astype(dtype), np.zeros(n, dtype)
    optimizer.prepare(w)
    optimizer.state[0] = c
    optimizer.step(w, g)
    expected = g / (np.sqrt(optimizer.state[0]) + np.dtype(dtype).type(1e-8))
    np.testing.assert_array_max_ulp(-w, expected, maxulp=1)
    assert np.mean(-w != expected) < 0.01


@each_optimizer
def test_train_step_takes_the_same_steps_in_the_engine(make, dtype):
    """Gradient and update in one call are, to the bit, the gradient and then the update."""
    net = perturbed(fg.Linear(3, 7), fg.Sigmoid(), fg.Linear(7, 2), dtype=dtype)
    twin = perturbed(fg.Linear(3, 7), fg.Sigmoid(), fg.Linear(7, 2), dtype=dtype)
    X, y = examples(net, 29)
    one, two = make(), make()
    for _ in range(100):
        if not getattr(two, "nesterov", False):
            loss, gradient = twin.loss_and_gradient(X, y)
        else:
            here = twin.parameters.copy()
            twin.parameters = two.look_ahead(here)
            loss, gradient = twin.loss_and_gradient(X, y)
            twin.parameters = here
        two.step(twin.parameters, gradient)
        # the engine computes W + mu v with one rounding, NumPy with two
        assert net.train_step(X, y, one) == pytest.approx(
            loss, rel=0 if not getattr(two, "nesterov", False) else 1e-5 if dtype == "float32" else 1e-12
        )
    if getattr(two, "nesterov", False):
        assert relative(net.parameters, twin.parameters) <= (1e-5 if dtype == "float32" else 1e-12)
    else:
        np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_nesterov_by_hand_takes_the_gradient_at_look_ahead(rng):
    w, a = rng.normal(size=5), rng.normal(size=5)
    expected, v = w.copy(), np.zeros(5)
    optimizer = fg.SGD(lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(20):
        expected, v = reference.momentum(expected, 2 * (expected + 0.9 * v - a), v, 0.1, 0.9)
        optimizer.step(w, 2 * (optimizer.look_ahead(w) - a))
    np.testing.assert_allclose(w, expected, rtol=1e-13)


# ---- printed vectors ----

VECTORS = json.loads((Path(__file__).parent / "vectors" / "optimizers.json").read_text())


def numbers(text):
    """``linspace(a, b, n)`` as it is written in the file."""
    first, last, n = text.removeprefix("linspace(").removesuffix(")").split(",")
    return np.linspace(float(first), float(last), int(n))


def assert_printed(actual, expected):
    """Equal to the 8 digits that are printed (of numbers of size 1, or of their own size)."""
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=0.6e-8)


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        ("momentum", fg.SGD(lr=1e-3, momentum=0.9)),
        ("rmsprop", fg.RMSprop(lr=1e-2, decay=0.99, eps=1e-8)),
        ("adam", fg.Adam(lr=1e-2)),
    ],
)
def test_vectors_of_cs231n(rule, optimizer):
    vectors = VECTORS["cs231n"]
    case = vectors[rule]
    w, g = numbers(vectors["parameters"]), numbers(vectors["gradient"])
    start = case["state"] if isinstance(case["state"], list) else [case["state"]]
    state = np.array([numbers(text) for text in start])
    optimizer.load_state_dict({"lr": optimizer.lr, "n_steps": case.get("steps_before", 0), "state": state})
    optimizer.step(w, g)
    assert_printed(w, case["next"])
    assert_printed(optimizer.state, np.reshape(case["next_state"], state.shape))


def test_vectors_of_the_averaged_convention():
    """There v = beta v + (1 - beta) g and W -= lr v: our momentum with lr (1 - beta), and v = -lr times theirs."""
    vectors = VECTORS["averaged"]
    case = vectors["momentum"]
    w, g = np.array(vectors["parameters"]), np.array(vectors["gradient"])
    optimizer = fg.SGD(lr=case["lr"] * (1 - case["beta"]), momentum=case["beta"])
    optimizer.step(w, g)
    assert_printed(w, case["next"])
    assert_printed(optimizer.state[0] / -case["lr"], case["next_state"])

    case = vectors["adam"]
    w = np.array(vectors["parameters"])
    optimizer = fg.Adam(lr=case["lr"])
    # the first update, counted as the second
    optimizer.load_state_dict({"lr": case["lr"], "n_steps": 1, "state": np.zeros((2, w.size))})
    optimizer.step(w, g)
    assert_printed(w, case["next"])
    np.testing.assert_allclose(optimizer.state, case["next_state"], rtol=1e-8, atol=0.6e-8)


# ---- state, and what is refused ----


@each_optimizer
def test_state_dict_goes_on_where_it_was_taken(make, rng):
    w = rng.normal(size=33)
    gradients = rng.normal(size=(10, 33))
    one = make()
    for g in gradients[:5]:
        one.step(w, g)
    two = make()
    two.load_state_dict(one.state_dict())
    other = w.copy()
    for g in gradients[5:]:
        one.step(w, g)
        two.step(other, g)
    np.testing.assert_array_equal(w, other)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fg.SGD(lr=0), ValueError, "lr: expected a finite number, more than 0, got 0"),
        (lambda: fg.SGD(lr=-1), ValueError, "lr: expected"),
        (lambda: fg.SGD(lr=np.nan), ValueError, "lr: expected"),
        (lambda: fg.SGD(lr="fast"), TypeError, "lr: expected a number, got 'fast'"),
        (
            lambda: fg.SGD(lr=1, momentum=1),
            ValueError,
            "momentum: expected a finite number, at least 0, less than 1, got 1",
        ),
        (lambda: fg.SGD(lr=1, nesterov=True), ValueError, "nesterov: expected a momentum of more than 0"),
        (lambda: fg.Adagrad(lr=1, eps=-1), ValueError, "eps: expected"),
        (lambda: fg.RMSprop(lr=1, decay=2), ValueError, "decay: expected"),
        (lambda: fg.Adam(betas=(0.9, 1.0)), ValueError, r"betas\[1\]: expected"),
        (lambda: fg.Adam(betas=0.9), TypeError, "betas: expected two numbers, got 0.9"),
        (lambda: fg.SGD(lr=np.complex128(1 + 2j)), TypeError, "lr: expected a number"),
        (lambda: fg.SGD(lr=10**400), ValueError, "lr: expected a finite number"),
    ],
)
def test_bad_hyperparameters_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_step_refuses_buffers_that_do_not_fit():
    optimizer = fg.Adam()
    with pytest.raises(TypeError, match="parameters: expected a float32 or float64 array, got list"):
        optimizer.step([1.0], [1.0])
    with pytest.raises(TypeError, match="parameters: expected a float32 or float64 array, got int64"):
        optimizer.step(np.zeros(2, int), np.zeros(2))
    with pytest.raises(ValueError, match="parameters: expected a contiguous array"):
        optimizer.step(np.zeros(6)[::2], np.zeros(3))
    with pytest.raises(ValueError, match=r"gradient: expected shape \(3,\), got \(2,\)"):
        optimizer.step(np.zeros(3), np.zeros(2))
    optimizer.step(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="its state is of 3 float64 parameters, got 4 float64"):
        optimizer.step(np.zeros(4), np.zeros(4))
    with pytest.raises(ValueError, match="its state is of 3 float64 parameters, got 3 float32"):
        fg.MultivariateRegression(2).train_step(np.zeros((2, 5)), np.zeros(5), optimizer)


def test_numbers_of_a_rule():
    optimizer = fg.Adam(lr=0.1)
    optimizer.lr = 0.0
    for wrong, kind in ((np.nan, ValueError), (-1, ValueError), ("0.1", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="lr: expected a"):
            optimizer.lr = wrong
        with pytest.raises(kind, match="lr: expected a"):
            fg.SGD(lr=wrong)
    assert optimizer.lr == 0.0
    for optimizer, names in (
        (fg.SGD(lr=0.1), ("momentum", "nesterov")),
        (fg.Adagrad(lr=0.1), ("eps",)),
        (fg.RMSprop(lr=0.1), ("decay", "eps")),
        (fg.Adam(), ("betas", "eps", "bias_correction")),
    ):
        for name in names:
            with pytest.raises(AttributeError):
                setattr(optimizer, name, getattr(optimizer, name))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (3, TypeError), ({"lr": 0.1}, ValueError), ({"lr": 0.1, "n_steps": -1, "state": None}, ValueError),
        ({"lr": 0.1, "n_steps": "5", "state": None}, TypeError),
        ({"lr": 0.1, "n_steps": 2.5, "state": None}, TypeError),
        ({"lr": -0.1, "n_steps": 1, "state": None}, ValueError), ({"lr": 0.1, "n_steps": 1, "state": [1.0]}, TypeError),
        ({"lr": 0.1, "n_steps": 1, "state": np.zeros((1, 3))}, ValueError),
        ({"lr": 0.1, "n_steps": 1, "state": np.ma.zeros((2, 3))}, TypeError),
        ({"lr": 0.1, "n_steps": 2**70, "state": None}, ValueError),
    ],
)  # fmt: skip
def test_states_that_are_refused(wrong, kind):
    optimizer = fg.Adam(lr=0.5)
    with pytest.raises(kind, match="state_dict"):
        optimizer.load_state_dict(wrong)
    assert optimizer.state_dict() == fg.Adam(lr=0.5).state_dict()


@pytest.mark.parametrize("laid_out", ["read-only", "strided", "misaligned"])
def test_a_state_from_outside_is_copied_where_it_cannot_be_written_to(laid_out):
    """joblib hands read-only arrays to its workers."""
    expected, optimizer = fg.Adam(), fg.Adam()
    w, twin = np.ones(5), np.ones(5)
    expected.step(w, w)
    optimizer.step(twin, twin)
    if laid_out == "read-only":
        optimizer.state.flags.writeable = False
    elif laid_out == "strided":
        optimizer.state = np.asfortranarray(optimizer.state)
    else:
        optimizer.state = np.frombuffer(b"x" + optimizer.state.tobytes(), offset=1).reshape(2, 5)
    given = optimizer.state
    before = given.copy()
    expected.step(w, w)
    optimizer.step(twin, twin)
    np.testing.assert_array_equal(twin, w)
    np.testing.assert_array_equal(optimizer.state, expected.state)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("state", [np.zeros((1, 5)), np.zeros((3, 5)), np.zeros(5), np.zeros((2, 4)), "state"])
def test_a_state_of_another_shape_is_refused(state):
    optimizer = fg.Adam()
    optimizer.state = state
    net, w = fg.MultivariateRegression(4, dtype="float64", rng=0), np.ones(5)
    X, y = np.ones((4, 3)), np.ones((1, 3))
    net.train_step(X, y, fg.Adam())
    for call in (
        lambda: optimizer.step(w, w),
        lambda: net.train_step(X, y, optimizer),
        lambda: net.fit(np.ones((4, 3)), np.ones(3), optimizer=optimizer, epochs=1),
    ):
        with pytest.raises(ValueError, match="optimizer: "):
            call()
    np.testing.assert_array_equal(w, 1)
    net.train_step(X, y, fg.Adam())  # the network is free again


def test_look_ahead_refuses_what_does_not_fit():
    optimizer = fg.SGD(lr=0.1, momentum=0.5)
    optimizer.step(np.ones(2), np.ones(2))
    for wrong in (np.ones(1), np.ones((3, 2)), np.ones(2, "float32"), np.ones(3)):
        with pytest.raises(ValueError, match=r"optimizer: its state|parameters: expected"):
            optimizer.look_ahead(wrong)
    np.testing.assert_allclose(optimizer.look_ahead([1.0, 1.0]), 0.95)


@pytest.mark.parametrize("n_steps", [-1, 2**53, 2**63 - 1, 2**70, "a", None, 1.5])
def test_a_count_of_steps_that_is_none_is_refused(n_steps):
    net, optimizer = fg.MultivariateRegression(4, dtype="float64", rng=0), fg.Adam()
    X, y = np.ones((4, 3)), np.ones((1, 3))
    net.train_step(X, y, fg.Adam())
    before = net.parameters.copy()
    optimizer.n_steps = n_steps
    for call in (
        lambda: net.train_step(X, y, optimizer),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=1),
        lambda: optimizer.step(net.parameters, np.ones(5)),
    ):
        with pytest.raises((TypeError, ValueError), match=r"optimizer\.n_steps: expected"):
            call()
    np.testing.assert_array_equal(net.parameters, before)
    optimizer.n_steps = np.int64(3)
    net.train_step(X, y, optimizer)
    assert optimizer.n_steps == 4


def test_classes_whose_states_are_not_those_of_their_rule():
    """The compiled update would read and write past them."""
    for base, body in ((fg.Adam, {"n_states": 1}), (fg.Optimizer, {"rule": "adam"}), (fg.SGD, {"rule": "adagrad"})):
        with pytest.raises(TypeError, match=r"Wrong\.(n_states|rule): .*step"):
            type("Wrong", (base,), body)
    optimizer = fg.SGD(lr=0.1, momentum=0.9)
    with pytest.raises(AttributeError):
        optimizer.n_states = 0
    assert {name: OPTIMIZERS[name]().n_states for name in ("sgd", "adam")} == {"sgd": 0, "adam": 2}


def test_parameters_that_are_read_only_stay():
    net = fg.MultivariateRegression(4, dtype="float64", rng=0)
    X, y = np.ones((4, 3)), np.ones((1, 3))
    net.train_step(X, y, fg.SGD(lr=0.1))
    before = net.parameters.copy()
    net.parameters.flags.writeable = False
    for call in (
        lambda: net.train_step(X, y, fg.SGD(lr=0.1)),
        lambda: net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=1),
        lambda: fg.SGD(lr=0.1).step(net.parameters, np.ones(5)),
    ):
        with pytest.raises(ValueError, match=r"parameters: expected a writable array, got a read-only one"):
            call()
    np.testing.assert_array_equal(net.parameters, before)


def test_an_optimizer_around_another_is_asked_itself():
    """It may hand out whatever the other one has; its own step is what counts, wherever it comes from."""

    class Clipped:
        def __init__(self, inner):
            self.inner, self.calls = inner, 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, parameters, gradient):
            self.calls += 1
            self.inner.step(parameters, gradient.clip(-0.01, 0.01))

    X, y = np.ones((4, 3)), np.full((1, 3), 9.0)
    net = fg.MultivariateRegression(4, dtype="float64", rng=0)
    net.train_step(X, y, fg.SGD(lr=0.01))
    before = net.parameters.copy()
    clipped = Clipped(fg.SGD(lr=0.1))
    for _ in range(2):
        net.train_step(X, y, clipped)
    net.fit(X, y, optimizer=clipped, epochs=3)
    assert clipped.calls == clipped.inner.n_steps == 5
    np.testing.assert_allclose(np.abs(net.parameters - before), 5 * 0.1 * 0.01)


def test_a_step_that_comes_later_is_taken(monkeypatch):
    net, optimizer, calls = fg.MultivariateRegression(4, dtype="float64", rng=0), fg.SGD(lr=0.1), []
    X, y = np.ones((4, 3)), np.ones((1, 3))
    net.train_step(X, y, optimizer)
    monkeypatch.setattr(fg.SGD, "step", lambda self, parameters, gradient: calls.append(len(gradient)))
    net.train_step(X, y, optimizer)
    net.fit(X, y, optimizer=optimizer, epochs=2)
    assert calls == [5, 5, 5]


def test_a_rule_of_ones_own_need_not_call_init():
    class Sign(fg.Optimizer):
        def __init__(self):
            pass

        def step(self, parameters, gradient):
            parameters -= 0.01 * np.sign(gradient)

    net, rule = fg.MultivariateRegression(4, dtype="float64", rng=0), Sign()
    X, y = np.ones((4, 3)), np.full((1, 3), 9.0)
    loss = net.train_step(X, y, rule)
    assert net.fit(X, y, optimizer=rule, epochs=3).loss[-1] < loss
    assert rule.n_steps == 4


def test_a_class_without_a_rule():
    with pytest.raises(TypeError, match="Optimizer: expected a class with a step of its own"):
        fg.Optimizer(lr=0.1)

    class Sign(fg.Optimizer):
        def step(self, parameters, gradient):
            parameters -= self.lr * np.sign(gradient)

    net = fg.UnivariateRegression(dtype="float64", rng=0)
    net.parameters = [2.0, 0.0]
    net.fit([1.0, 2.0], [1.0, 4.0], optimizer=Sign(lr=0.25), epochs=1)
    np.testing.assert_array_equal(net.parameters, [1.75, -0.25])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: fg.SGD(0.1, 0.9, nesterov="no"), "nesterov"),
        (lambda: fg.Adam(bias_correction="no"), "bias_correction"),
        (lambda: fg.Adam(bias_correction=np.ones(2)), "bias_correction"),
    ],
)
def test_flags_are_true_or_false(make, name):
    with pytest.raises(TypeError, match=f"^{name}: expected True or False"):
        make()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("eps", [0.0, 1e-50])
@pytest.mark.parametrize("make", [fg.Adagrad, fg.RMSprop, fg.Adam])
def test_where_no_gradient_has_come_nothing_moves(make, eps, dtype):
    parameters = np.array([1.0, 2.0], dtype)
    make(lr=0.5, eps=eps).step(parameters, np.array([0.0, 1.0], dtype))
    assert parameters[0] == 1
    assert np.isfinite(parameters[1])
    assert parameters[1] < 2


def test_a_copy_has_a_state_of_its_own():
    optimizer, parameters = fg.SGD(lr=0.5, momentum=0.9), np.zeros(2)
    optimizer.step(parameters, np.ones(2))
    other = copy.copy(optimizer)
    other.step(parameters, np.ones(2))
    np.testing.assert_array_equal(optimizer.state, -0.5)
    assert (optimizer.n_steps, other.n_steps) == (1, 2)


# ---- gradients whose squares are no normal numbers ----


def first_step(make, g, dtype):
    w, optimizer = np.zeros(4, dtype), make()
    optimizer.step(w, np.full(4, g, dtype))
    return w[0], optimizer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [fg.Adagrad, fg.RMSprop, fg.Adam])
def test_any_eps_gives_finite_steps(make, dtype):
    for eps in (1e38, 1e39, 1e300):
        net = fg.UnivariateRegression(dtype=dtype, rng=0)
        before = net.parameters.copy()
        net.train_step(np.ones((1, 3)), np.ones((1, 3)), optimizer=make(0.1, eps=eps))
        np.testing.assert_allclose(net.parameters, before, atol=1e-30)


@pytest.mark.parametrize("eps", [0.0, 1e-30, 1e-20])
@pytest.mark.parametrize("g", [1e-19, 3e-20, 1e-18])
def test_a_square_that_is_subnormal_counts(eps, g):
    for make, share in (
        (lambda: fg.Adam(lr=1e-3, eps=eps), 1), (lambda: fg.RMSprop(lr=1e-3, eps=eps), 0.1),
        (lambda: fg.Adagrad(lr=1e-3, eps=eps), 1),
    ):  # fmt: skip
        moved, _ = first_step(make, g, "float32")
        assert moved == pytest.approx(-1e-3 * g / (share * g + eps), rel=0.05)


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_step_is_longer_than_its_rule_allows(make, dtype, rng):
    """Where squares underflow, what is left of a first average is not divided by eps alone."""
    optimizer = make()
    if "eps" in optimizer.arguments:
        optimizer = type(optimizer)(**{**optimizer.arguments, "eps": 0.0})
    tiny = float(np.finfo(dtype).smallest_normal)
    w = np.zeros(1000, dtype)
    for step in range(300):
        before = w.copy()
        sizes = tiny ** rng.uniform(0.4, 0.9, w.size) if step < 50 else np.zeros(w.size)
        optimizer.step(w, (sizes * rng.choice([-1, 1], w.size)).astype(dtype))
        assert np.abs(w - before).max() <= 11 * optimizer.lr, step  # 1 / sqrt(1 - decay), or (Adam) 7.3


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_too_large_to_be_squared(make, dtype, rng):
    """The equations in a wider dtype; half way the optimizer goes through its state_dict and a pickle."""
    large = float(np.finfo(dtype).max) / 1e3
    gradients = rng.normal(size=(60, 37)).astype(dtype)
    gradients[20:] *= np.dtype(dtype).type(large**0.6)
    gradients[40:] *= np.dtype(dtype).type(large**0.4)
    optimizer, w = make(), np.zeros(37, dtype)
    if optimizer.rule == "sgd":
        gradients /= np.dtype(dtype).type(large)
    expected, _ = equations(make(), w.astype("longdouble"), gradients.astype("longdouble"))
    for i, g in enumerate(gradients):
        optimizer.step(w, g)
        if i == 30:
            again = make()
            again.load_state_dict(optimizer.state_dict())
            optimizer = pickle.loads(pickle.dumps(again))
    assert np.isfinite(optimizer.state).all()
    assert (optimizer.state_dict()["exponent"] > 0) == (optimizer.rule != "sgd")
    assert relative(w, expected) <= 1000 * np.finfo(dtype).eps


def test_a_gradient_that_is_not_finite_is_refused():
    for bad in (np.nan, np.inf):
        for make in OPTIMIZERS.values():
            optimizer, w = make(), np.ones(5)
            optimizer.step(w, np.ones(5))
            state, before = optimizer.state_dict(), w.copy()
            with pytest.raises(ValueError, match="gradient: expected finite"):
                optimizer.step(w, np.array([1, 1, bad, 1, 1]))
            np.testing.assert_array_equal(w, before)
            np.testing.assert_equal(optimizer.state_dict(), state)


@pytest.mark.parametrize("beta", [1 - 1e-12, 1 - 1e-9, 0.999999, 0.999, 0.9, 0.5, 0.1, 0.0])
def test_bias_corrections_near_one(beta):
    """After one step m' is the gradient and v' its square, whatever the betas."""
    for step in (0, 1, 7, 1000, 10**9):
        optimizer = fg.Adam(lr=1.0, betas=(beta, beta), eps=0.0)
        exact = 1 - Decimal(beta) ** (step + 1)
        m, v = (1 - Decimal(beta)) * 3 / exact, (1 - Decimal(beta)) * 9 / exact
        optimizer.load_state_dict({"lr": 1.0, "n_steps": step, "state": np.zeros((2, 4))})
        w = np.zeros(4)
        optimizer.step(w, np.full(4, 3.0))
        assert w[0] == pytest.approx(float(-m / v.sqrt()), rel=1.5e-15)


# ---- what may be overridden ----

X37 = np.linspace(-1, 1, 37)[np.newaxis]
Y37 = np.sin(3 * X37)


def trained(optimizer, kind=fg.Sequential, **arguments):
    """The losses of some epochs of shuffled mini-batches, and the parameters that they leave."""
    net = kind(fg.Linear(1, 4), fg.Tanh(), fg.Linear(4, 1), dtype="float64", rng=0)
    history = net.fit(X37, Y37, optimizer=optimizer, epochs=10, batch_size=8, rng=5, **arguments)
    last = net.train_step(X37, Y37, optimizer), net.train_step(X37, Y37, optimizer)
    return history.loss, last, net.parameters.tolist(), optimizer.n_steps


def calling_super(base):
    class Logged(base):
        calls = 0

        def step(self, parameters, gradient):
            type(self).calls += 1
            super().step(parameters, gradient)

    return Logged


def with_a_step_of_its_own(optimizer):
    """As wrappers do that clip or log."""
    step, calls = optimizer.step, []
    optimizer.step = lambda parameters, gradient: (calls.append(1), step(parameters, gradient))
    return optimizer, calls


@each_optimizer
def test_an_overridden_step_is_called_and_changes_nothing_else(make):
    """Numbers and order of the examples are those of the compiled steps, to the bit."""
    expected = trained(make())
    plain = make()
    logged = calling_super(type(plain))
    assert trained(logged(**plain.arguments)) == expected
    assert logged.calls == 52
    optimizer, calls = with_a_step_of_its_own(make())
    assert trained(optimizer) == expected
    assert len(calls) == 52
    schedule = fg.InverseTimeDecay(0.1, rate=0.1)
    assert trained(logged(**plain.arguments), schedule=schedule)[:1] == trained(make(), schedule=schedule)[:1]


def test_an_overridden_learning_rate_is_read_at_each_step():
    class WarmUp(fg.Adam):
        @property
        def lr(self):
            return self._lr * min(1, (self.n_steps + 1) / 100)

        @lr.setter
        def lr(self, value):
            self._lr = value

    expected = trained(fg.Adam(), schedule=lambda step: 1e-3 * min(1, (step + 1) / 100))
    assert trained(WarmUp())[0] == expected[0]


def test_an_overridden_look_ahead_is_where_the_gradient_is_taken():
    class Short(fg.SGD):
        def look_ahead(self, parameters):
            return parameters.copy()

    nesterov = fg.SGD(lr=0.02, momentum=0.9, nesterov=True)
    assert trained(Short(**nesterov.arguments)) == trained(fg.SGD(lr=0.02, momentum=0.9)) != trained(nesterov)


def test_an_overridden_loss_counts_for_every_optimizer():
    class Penalised(fg.Sequential):
        def loss_and_gradient(self, X, y, out=None):
            loss, gradient = super().loss_and_gradient(X, y, out)
            return loss + float(self.parameters @ self.parameters), gradient + 2 * self.parameters

    class Own:
        n_steps = 0

        def step(self, parameters, gradient):
            parameters -= 0.01 * gradient

    by_sgd, by_own = trained(fg.SGD(lr=0.01), Penalised), trained(Own(), Penalised)
    np.testing.assert_allclose(by_sgd[0], by_own[0], rtol=1e-12)
    assert by_sgd[0][0] > trained(fg.SGD(lr=0.01))[0][0] + 0.1

    net, calls = fg.UnivariateRegression(dtype="float64", rng=0), []
    net.train_step(X37, Y37, optimizer := fg.SGD(lr=0.1))
    compute = net.loss_and_gradient
    net.loss_and_gradient = lambda X, y: (calls.append(1), compute(X, y))[1]  # on the instance, after a compiled step
    net.train_step(X37, Y37, optimizer)
    net.fit(X37, Y37, optimizer=optimizer, epochs=3)
    assert len(calls) == 4


def test_what_cannot_be_overridden_is_refused():
    with pytest.raises(TypeError, match=r"Mine\.betas: its update does not read it"):
        type("Mine", (fg.Adam,), {"betas": (0.5, 0.5)})
    with pytest.raises(TypeError, match=r"Mine\.momentum: its update"):
        type("Mine", (fg.SGD,), {"momentum": property(lambda self: 0.5)})
    type("Mine", (fg.Adam,), {"betas": (0.5, 0.5), "step": lambda self, parameters, gradient: None})

    class Forgetful(fg.Adam):
        def __init__(self):
            pass

    for call in (trained, lambda optimizer: optimizer.step(np.ones(2), np.ones(2))):
        with pytest.raises(TypeError, match=r"optimizer: expected Forgetful\.__init__ to call super"):
            call(Forgetful())


def test_unknown_attributes_are_refused():
    with pytest.raises(AttributeError, match="SGD has no attribute 'learning_rate'; its learning rate is lr"):
        fg.SGD(lr=0.1).learning_rate = 0
    with pytest.raises(AttributeError, match="Adam has no attribute 'beta1'"):
        fg.Adam().beta1 = 0.5
    with pytest.raises(AttributeError, match=r"eps: chosen when the optimizer is made: Adam\(\.\.\., eps="):
        fg.Adam().eps = 1e-3
    with pytest.raises(AttributeError):
        fg.Linear(2, 3).units = 4
    mine = type("Mine", (fg.SGD,), {})(lr=0.1)
    mine.note = "of mine"


# ---- one optimizer, one network ----


@each_optimizer
def test_states_are_not_exchanged_between_rules(make):
    source = make()
    source.step(np.ones(5), np.ones(5))
    for other in OPTIMIZERS.values():
        target = other()
        if target.rule == source.rule and target.n_states == source.n_states:
            target.load_state_dict(source.state_dict())
        else:
            with pytest.raises(ValueError, match=r"state_dict\['(rule|state)'\]: expected"):
                target.load_state_dict(source.state_dict())


@pytest.mark.parametrize("make", [make for name, make in OPTIMIZERS.items() if name != "sgd"])
def test_an_optimizer_serves_one_network(make):
    one, other, wide = (fg.MultivariateRegression(4, dtype="float64", rng=seed) for seed in range(3))
    split = fg.Sequential(fg.Linear(4, 1, bias=False), fg.Linear(1, 1, bias=False), dtype="float64", rng=0)
    assert split.n_parameters == one.n_parameters
    X, y = np.ones((4, 6)), np.ones(6)
    optimizer = make()
    one.train_step(X, y, optimizer)
    one.fit(X, y, optimizer=optimizer, epochs=1)
    for call in (lambda o: other.train_step(X, y, o), lambda o: other.fit(X, y, optimizer=o, epochs=1)):
        with pytest.raises(ValueError, match="optimizer: it is used by another network"):
            call(optimizer)
        call(copy.copy(optimizer))
        call(copy.deepcopy(optimizer))
        call(pickle.loads(pickle.dumps(optimizer)))
    again = make()
    again.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="optimizer: its state is of a network of layers"):
        split.train_step(X, y, again)
    wide.train_step(X, y, again)


def test_an_optimizer_without_a_state_serves_one_network_after_another():
    X, y, optimizer = np.ones((4, 6)), np.ones(6), fg.SGD(lr=0.01)
    for seed in range(3):
        fg.MultivariateRegression(4, dtype="float64", rng=seed).train_step(X, y, optimizer)
    assert optimizer.n_steps == 3


def test_two_threads_take_a_new_optimizer(rng):
    """One of the two networks has it; the other one's fit is refused."""
    X, y = rng.normal(size=(6, 100)), rng.normal(size=(1, 100))
    expected = []
    for seed in (0, 1):
        net = fg.TwoLayerSigmoid(6, 8, rng=seed)
        net.fit(X, y, optimizer=fg.Adam(0.05), epochs=10)
        expected.append(net.parameters)

    def fit(net, optimizer, barrier, refused):
        barrier.wait()
        try:
            net.fit(X, y, optimizer=optimizer, epochs=10)
        except ValueError:
            refused.append(net)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            nets, refused = [fg.TwoLayerSigmoid(6, 8, rng=seed) for seed in (0, 1)], []
            shared = fg.Adam(0.05), threading.Barrier(2), refused
            threads = [threading.Thread(target=fit, args=(net, *shared)) for net in nets]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 1
            for net, parameters in zip(nets, expected, strict=True):
                assert net is refused[0] or np.array_equal(net.parameters, parameters)
    finally:
        sys.setswitchinterval(interval)
