"""A fit that goes wrong is taken back; data that are not finite are named."""

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, in_a_new_process, perturbed, tried

import fusegrad as fg
from fusegrad import training

NETWORKS = {
    "univariate": (fg.Linear(1, 1),),
    "multivariate": (fg.Linear(6, 1),),
    "two-layer linear": (fg.Linear(4, 8), fg.Linear(8, 1)),
    "two-layer sigmoid": (fg.Linear(4, 8), fg.Sigmoid(), fg.Linear(8, 1)),
    "relu": (fg.Linear(4, 8), fg.ReLU(), fg.Linear(8, 1)),
    "tanh": (fg.Linear(4, 8), fg.Tanh(), fg.Linear(8, 1), fg.Sigmoid()),
    "five layers": FIVE_LAYERS,
}


class Signs:
    """A rule that only Python knows."""

    lr = 0.01

    def step(self, parameters, gradient):
        parameters -= self.lr * gradient


def everything(net, optimizer, rng):
    """All that a fit changes."""
    state = getattr(optimizer, "state", None)
    return (
        net.parameters.tobytes(), None if state is None else state.tobytes(), getattr(optimizer, "n_steps", None),
        rng.bit_generator.state,
    )  # fmt: skip


def diverging(net, X, y, optimizer, batch_size, **arguments):
    """The error, and what a callback saw after the last finite epoch."""
    rng = np.random.default_rng(0)
    seen = [everything(net, optimizer, rng)]
    watched = not arguments.pop("at_once", False)
    callbacks = [lambda net, history: seen.append(everything(net, optimizer, rng))] if watched else []
    with pytest.raises(fg.DivergenceError) as caught:
        net.fit(
            X, y, optimizer=optimizer, epochs=1100, batch_size=batch_size, rng=rng, callbacks=callbacks, **arguments
        )
    error = caught.value
    assert not np.isfinite(error.loss)
    assert str(error.step) in str(error)
    assert len(error.history.loss) == error.epoch
    assert np.isfinite(error.history.loss).all()
    assert np.isfinite(net.parameters).all()
    if watched:
        assert len(seen) == error.epoch + 1
        assert everything(net, optimizer, rng) == seen[-1]
    tried("fits that diverged, taken back to the last finite epoch")
    return error, everything(net, optimizer, rng)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "tanh"])  # whose outputs are bounded
@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_learning_rate_of_a_million(name, batch_size, dtype):
    for make in (lambda: fg.SGD(lr=1e6), lambda: fg.SGD(lr=1e6, momentum=0.9, nesterov=True)):
        found = []
        for at_once in (False, True):
            net = perturbed(*NETWORKS[name], dtype=dtype)
            X, y = examples(net, 300)
            error, left = diverging(net, X, y, make(), batch_size, at_once=at_once)
            found.append((error.epoch, error.history.loss, left))
        # Many epochs at once end where one by one does.
        assert found[0] == found[1]


@pytest.mark.parametrize("name", ["univariate", "two-layer sigmoid", "five layers"])
def test_targets_too_large_to_square(name):
    net = perturbed(*NETWORKS[name], dtype="float32")
    X, y = examples(net, 100)
    before = net.parameters.copy()
    y[0, 3] = 3e38
    error, _ = diverging(net, X, y, fg.Adam(), None)
    assert (error.epoch, error.step, error.loss) == (0, 0, np.inf)
    np.testing.assert_array_equal(net.parameters, before)
    net64 = perturbed(*NETWORKS[name], dtype="float64")
    assert np.isfinite(net64.fit(X, y, optimizer=fg.Adam(), epochs=3).loss).all()


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("at_once", [False, True])
def test_born_in_step_1000(batch_size, at_once, dtype):
    """Step 999 leaves parameters so large that the loss of step 1000 is not finite."""
    net = perturbed(*NETWORKS["two-layer sigmoid"], dtype=dtype)
    X, y = examples(net, 100)
    huge = float(np.finfo(dtype).max) / 2
    error, _ = diverging(
        net, X, y, fg.SGD(lr=0.01), batch_size, at_once=at_once, schedule=lambda step: huge if step == 999 else 0.01
    )
    assert error.step == 1000
    assert error.epoch == (100 if batch_size else 1000)


@pytest.mark.parametrize("batch_size", [None, 32])
def test_on_divergence_stop(batch_size):
    net, twin = (perturbed(*NETWORKS["two-layer sigmoid"], dtype="float32") for _ in range(2))
    X, y = examples(net, 300)
    history = net.fit(X, y, optimizer=fg.SGD(lr=1e6), epochs=1000, batch_size=batch_size, rng=0, on_divergence="stop")
    error, _ = diverging(twin, X, y, fg.SGD(lr=1e6), batch_size)
    assert history.stopped
    assert (history.divergence.epoch, history.divergence.step) == (error.epoch, error.step)
    assert history.loss == error.history.loss
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    with pytest.raises(ValueError, match="on_divergence: expected 'raise' or 'stop', got 'ignore'"):
        net.fit(X, y, optimizer=fg.SGD(lr=1), epochs=1, on_divergence="ignore")


def test_the_error_does_not_keep_the_data():
    """It would until the next garbage collection, if it and its traceback held each other."""
    import gc
    import weakref

    net = perturbed(*NETWORKS["multivariate"], dtype="float32")
    X, y = (array.astype("f4") for array in examples(net, 300))
    alive = weakref.ref(X)
    gc.disable()
    try:
        with pytest.raises(fg.DivergenceError):
            net.fit(X, y, optimizer=fg.SGD(lr=1e6), epochs=100, moments=False)
        del X
        assert alive() is None
    finally:
        gc.enable()


class Momentum:
    """One with a state of its own, which nobody can take back."""

    lr = 0.01
    v = 0.0

    def step(self, parameters, gradient):
        self.v = 0.9 * self.v + gradient
        parameters -= self.lr * self.v


@pytest.mark.parametrize("rule", [Signs, Momentum])
@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_rule_of_ones_own_diverges_too(rule, batch_size):
    """It keeps what a callback saw, and the rate that a schedule had set then."""
    net, twin = (perturbed(*NETWORKS["two-layer sigmoid"], dtype="float64") for _ in range(2))
    X, y = examples(net, 100)
    seen = []

    def schedule(step):
        return 0.01 if step < 100 else 1e300

    def callback(net, history):
        seen.append((net.parameters.copy(), history.loss[-1], watched.lr))

    plain, watched = rule(), rule()
    arguments = {"epochs": 200, "batch_size": batch_size, "rng": 0, "schedule": schedule}
    with pytest.raises(fg.DivergenceError) as one:
        net.fit(X, y, optimizer=plain, **arguments)
    with pytest.raises(fg.DivergenceError) as other:
        twin.fit(X, y, optimizer=watched, callbacks=[callback], **arguments)
    assert one.value.epoch == other.value.epoch == len(seen) >= 25
    assert one.value.history.loss == other.value.history.loss == [loss for _, loss, _ in seen]
    np.testing.assert_array_equal(net.parameters, seen[-1][0])
    np.testing.assert_array_equal(twin.parameters, net.parameters)
    assert plain.lr == watched.lr == seen[-1][2]


def test_train_step_makes_no_step_of_a_loss_that_is_not_finite(dtype):
    for optimizer in (fg.Adam(), Signs()):
        net = perturbed(*NETWORKS["two-layer sigmoid"], dtype=dtype)
        X, y = examples(net, 10)
        y[0, 3] = np.nan
        before = net.parameters.copy()
        assert np.isnan(net.train_step(X, y, optimizer))
        np.testing.assert_array_equal(net.parameters, before)
        assert getattr(optimizer, "n_steps", 0) == 0


# ---- data that are not finite ----


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch_size", [None, 64])
def test_a_bad_number_is_named_and_nothing_is_changed(name, bad, batch_size, dtype):
    for optimizer in (fg.SGD(lr=0.1), fg.Adam(), Signs()):
        for array in ("X", "y"):
            net = perturbed(*NETWORKS[name], dtype=dtype)
            data = dict(zip("Xy", examples(net, 300), strict=True))
            row = data[array].shape[0] - 1
            data[array][row, 217] = data[array][row, 218] = bad
            rng = np.random.default_rng(0)
            before = everything(net, optimizer, rng)
            what = "feature" if array == "X" else "output"
            with pytest.raises(
                ValueError, match=f"{array}: expected finite numbers.*{bad} at {what} .row. {row}, example .column. 217"
            ):
                net.fit(data["X"], data["y"], optimizer=optimizer, epochs=20, batch_size=batch_size, rng=rng)
            assert everything(net, optimizer, rng) == before
            for epochs in (0, 1):
                with pytest.raises(ValueError, match=f"{array}: expected finite numbers"):
                    net.fit(data["X"], data["y"], optimizer=optimizer, epochs=epochs, batch_size=batch_size, rng=rng)
            assert everything(net, optimizer, rng) == before
            tried("fits of data that are not finite, refused with the place")


def test_nobody_sees_the_epoch_that_is_taken_back():
    net = perturbed(*NETWORKS["relu"], dtype="float32")
    X, y = examples(net, 300)
    X[0, 5] = np.nan
    called = []
    with pytest.raises(ValueError, match="X: expected finite numbers"):
        net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=3, callbacks=[lambda *a: called.append(a)])
    assert called == []


def test_forward_lets_nan_through_as_numpy_does(dtype):
    for name, layers in NETWORKS.items():
        net = perturbed(*layers, dtype=dtype)
        X, _ = examples(net, 70)
        X[0, 13], X[0, 40] = np.nan, np.inf
        with np.errstate(invalid="ignore", over="ignore"):
            expected = fg.reference.forward(fg.reference.layers_of(net, "float64"), X)
        predictions = net(X)
        np.testing.assert_array_equal(np.isnan(predictions), np.isnan(expected), err_msg=name)
        whole = np.isfinite(expected)
        np.testing.assert_allclose(predictions[whole], expected[whole], rtol=1e-4, err_msg=name)


# ---- what else is not finite, and what is said of it ----


@pytest.mark.parametrize("make", [lambda: fg.SGD(lr=1e-30), fg.Adam, Signs])
def test_a_gradient_that_is_not_finite_is_not_written(make):
    """A loss of 1e34 is a float32; its gradient on the weight of an input of 1e25 is none."""
    X, y = np.array([[1e25, 1.0]]), np.array([[1e17, 0.0]])
    net, optimizer = fg.MultivariateRegression(1, rng=0), make()
    net.parameters[:] = 0
    assert np.isfinite(net.loss(X, y))
    assert net.train_step(X, y, optimizer) == np.inf
    assert not net.parameters.any()
    assert getattr(optimizer, "n_steps", 0) == 0
    with pytest.raises(fg.DivergenceError) as caught:
        net.fit(X, y, optimizer=optimizer, epochs=3)
    assert caught.value.epoch == 0
    assert not net.parameters.any()
    assert caught.value.cause == "gradient"
    assert np.isfinite(caught.value.loss)
    assert "the gradient overflowed" in str(caught.value)


def test_a_state_that_is_not_finite_is_named():
    net, optimizer = fg.MultivariateRegression(1, rng=0), fg.Adam()
    state = np.full((2, 2), np.inf, "float32")
    optimizer.load_state_dict({"lr": 0.1, "n_steps": 1, "state": state})
    with pytest.raises(ValueError, match=r"optimizer\.state: expected finite numbers before a step"):
        net.fit([[1.0, 2.0]], [[1.0, 2.0]], optimizer=optimizer, epochs=3)


@pytest.mark.parametrize("lr", [1e-3, 1e-30])
def test_targets_too_large_are_named_not_the_learning_rate(lr):
    net = fg.MultivariateRegression(2, rng=0)
    with pytest.raises(fg.DivergenceError) as caught:
        net.fit(np.ones((2, 8)), np.full(8, 1e20), optimizer=fg.SGD(lr), epochs=5)
    text = str(caught.value)
    assert "learning rate" not in text
    assert "of y 1e+20" in text
    assert "scale the data, or take dtype='float64'" in text


class Finder:
    """A schedule that counts for itself: a fifth more each time that it is asked."""

    def __init__(self):
        self.rate, self.asked = 1e-3, []

    def __call__(self, step):
        self.rate *= 1.2
        self.asked.append(step)
        return self.rate


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("make", [lambda: fg.SGD(lr=1), lambda: fg.SGD(lr=1, momentum=0.9), Signs])
def test_a_schedule_is_asked_once_for_each_step_in_order(make, batch_size):
    net, twin = (perturbed(*NETWORKS["tanh"][:-1], dtype="float64") for _ in range(2))
    X, y = examples(net, 32)
    finder, rates = Finder(), {}
    history = net.fit(
        X, y, optimizer=make(), epochs=400, batch_size=batch_size, rng=0, on_divergence="stop",
        schedule=lambda step: rates.setdefault(step, finder(step)),
    )  # fmt: skip
    assert history.divergence is not None
    assert finder.asked == list(range(len(finder.asked)))
    again = twin.fit(
        X, y, optimizer=make(), epochs=history.epochs, batch_size=batch_size, rng=0, schedule=rates.__getitem__
    )
    assert again.loss == history.loss
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize("last", ["loss", "parameters"])
def test_what_diverged_late_is_made_again_in_part(last, monkeypatch):
    """At most two stretches' worth, whatever the fit has taken."""
    net = perturbed(*NETWORKS["two-layer sigmoid"], dtype="float32")
    X, y = examples(net, 3000)
    n, made = 20_000, []
    epochs = training._Run.epochs
    monkeypatch.setattr(training._Run, "epochs", lambda run, n: (made.append(n), epochs(run, n))[1])
    monkeypatch.setattr(training, "STRETCH_SECONDS", 0.02)
    monkeypatch.setattr(training, "FIRST_WORK", 1 << 22)
    late = n - 1 if last == "parameters" else n - 2
    with pytest.raises(fg.DivergenceError) as caught:
        net.fit(
            X, y + 1000, optimizer=fg.SGD(lr=1), epochs=n, n_threads=1,
            schedule=lambda step: 1e-9 if step < late else 3e38,
        )  # fmt: skip
    assert caught.value.epoch == late
    assert caught.value.cause == last
    first = sum(made) - n  # what was made again
    assert 0 < first <= 2 * max(made) < n / 4


@pytest.mark.once
@pytest.mark.parametrize("what", ["an exception", "a save"])
def test_signals_while_epochs_are_undone(what, tmp_path):
    """Parameters, averages and number of steps are those of one step, and finite in a file."""
    code = """
import signal, sys, time
import numpy as np, fusegrad as fg
what, path = sys.argv[1:]
n = 1500
X, y = np.random.default_rng(0).normal(size=(n, 8)).astype("f4"), np.zeros((n, 8), "f4")

def fit(net, optimizer, epochs=8, **options):
    return net.fit(X, y, optimizer=optimizer, epochs=epochs, moments=False, n_threads=1, on_divergence="stop",
                   schedule=lambda step: 1e-3 if step < 3 else 3e38, **options)

def new():
    return fg.Sequential(fg.Linear(n, n), rng=0), fg.SGD(lr=1e-3, momentum=0.9)

net, optimizer = new()
right = {0: (net.parameters.copy(), None)}
fit(net, optimizer, 3, callbacks=[
    lambda net, history: right.update({optimizer.n_steps: (net.parameters.copy(), optimizer.state.copy())})])
net, optimizer = new()
started = time.monotonic()
fit(net, optimizer)
took = time.monotonic() - started

def check(net, optimizer):
    if what == "an exception" and optimizer.n_steps not in right:   # raised after the step that overflowed
        assert not np.isfinite(net.parameters).all()
        return
    parameters, state = right[optimizer.n_steps]
    assert (net.parameters == parameters).all()
    assert state is None or (optimizer.state == state).all()

saved = []

def handler(*_):
    if what == "an exception":
        raise KeyboardInterrupt
    try:
        net.save(path, optimizer=optimizer)
        saved.append(1)
    except RuntimeError:
        pass

signal.signal(signal.SIGALRM, handler)
for i in range(100):
    net, optimizer = new()
    saved.clear()
    signal.setitimer(signal.ITIMER_REAL, took * (0.05 + 0.95 * i / 100))
    try:
        fit(net, optimizer)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        check(net, optimizer)
    if saved:
        check(*fg.load_checkpoint(path)[:2])
"""
    in_a_new_process(code, what, tmp_path / "net.safetensors", timeout=200)
