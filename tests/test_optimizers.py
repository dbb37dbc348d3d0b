"""Optimizers against their equations in NumPy, against printed vectors, and inside the engine."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from support import examples, relative, shaken, within

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
    # Where a gradient ends, an average decays, and arithmetic on subnormal numbers is slow.
    tiny = np.finfo(dtype).smallest_normal
    gradient = np.array([tiny, 30 * tiny, np.sqrt(tiny), 30 * np.sqrt(tiny), 1.0], dtype)
    w = np.ones_like(gradient)
    optimizer = make()
    for g in [gradient] * 10 + [np.zeros_like(gradient)] * 200:
        optimizer.step(w, g)
        assert not np.any((optimizer.state != 0) & (np.abs(optimizer.state) < tiny))
    assert np.all(np.isfinite(w))


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


@each_optimizer
def test_train_step_takes_the_same_steps_in_the_engine(make, dtype):
    """Gradient and update in one call are, to the bit, the gradient and then the update."""
    net = shaken(fg.Linear(3, 7), fg.Sigmoid(), fg.Linear(7, 2), dtype=dtype)
    twin = shaken(fg.Linear(3, 7), fg.Sigmoid(), fg.Linear(7, 2), dtype=dtype)
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
    assert optimizer.state_dict() == {"lr": 0.5, "n_steps": 0, "state": None}


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
        with pytest.raises(TypeError, match=r"Wrong: expected \d n_states of a ada"):
            type("Wrong", (base,), body)(lr=0.1)


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
