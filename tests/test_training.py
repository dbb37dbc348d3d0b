"""fit: epochs, batches, shuffling, schedules, validation, callbacks, custom optimizers."""

import signal
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, perturbed, relative, within

import fusegrad as fg


def small(dtype="float64"):
    return perturbed(fg.Linear(3, 8), fg.Sigmoid(), fg.Linear(8, 1), dtype=dtype)


def by_hand(net, X, y, optimizer, epochs, batch_size, order):
    """Epochs of mini-batches with train_step; order(epoch) is the order of the examples."""
    losses = []
    for epoch in range(epochs):
        which, total = order(epoch), 0.0
        for first in range(0, X.shape[1], batch_size):
            batch = which[first : first + batch_size]
            total += net.train_step(X[:, batch], y[:, batch], optimizer) * len(batch)
        losses.append(total / X.shape[1])
    return losses


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
def test_fit_is_its_steps(batch_size, dtype):
    X, y = examples(small(), 100)
    net, twin = small(dtype), small(dtype)
    history = net.fit(X, y, optimizer=fg.Adam(lr=0.01), epochs=4, batch_size=batch_size, shuffle=False)
    losses = by_hand(twin, X, y, fg.Adam(lr=0.01), 4, batch_size, lambda _: np.arange(100))
    # Batches of another plan add up in another order, so this is not to the bit.
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12 if dtype == "float64" else 1e-5)
    assert relative(net.parameters, twin.parameters) <= (1e-10 if dtype == "float64" else 1e-3)


def test_full_batch_is_the_default():
    X, y = examples(small(), 100)
    net, twin = small(), small()
    history = net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=50)
    assert history.loss == [twin.train_step(X, y, fg.SGD(lr=0.1)) for _ in range(50)]
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    assert history.epochs == 50


@pytest.mark.parametrize("callback", [False, True])
def test_shuffled_data_may_be_contiguous_by_feature_or_by_example(dtype, callback):
    """X is large enough to be copied; a callback changes it between two epochs."""
    X = np.random.default_rng(0).normal(size=(21, 30_011)).astype(dtype)
    y = (X[:3] - X[3:6]).astype(dtype)
    strided = np.zeros((21, 2 * 30_011), dtype)[:, ::2]
    fits = []
    for order in (np.ascontiguousarray(X), np.asfortranarray(X), strided):
        order = order if order is strided else order.copy("K")
        order[...] = X
        net = fg.Sequential(fg.Linear(21, 8), fg.Tanh(), fg.Linear(8, 3), dtype=dtype, rng=0)

        def change(net, history, order=order):
            order[...] = -order

        net.fit(
            order, np.asfortranarray(y) if order.flags.f_contiguous else y, optimizer=fg.SGD(lr=0.01), epochs=2,
            batch_size=1000, rng=3, callbacks=[change] if callback else [],
        )  # fmt: skip
        fits.append(net.parameters)
        np.testing.assert_array_equal(order, X)
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[0], fits[2])


def test_the_copy_of_shuffled_data_is_bounded(monkeypatch):
    monkeypatch.setattr("fusegrad._engine.plan.MOST_COPIED", 4_000_000)
    y = np.zeros((1, 50_001), "float32")
    for m, copied in ((10_000, False), (50_000, True), (50_001, False)):
        X = np.zeros((20, m), "float32")
        net = fg.Sequential(fg.Linear(20, 4), fg.ReLU(), fg.Linear(4, 1), dtype="float32", rng=0)
        tracemalloc.start()
        net.fit(X, y[:, :m], optimizer=fg.SGD(lr=0.01), epochs=1, batch_size=500)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (peak > X.nbytes) is copied


def test_shuffling_draws_from_the_generator():
    X, y = examples(small(), 90)

    def fitted(rng):
        net = small()
        net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=3, batch_size=16, rng=rng)
        return net.parameters

    np.testing.assert_array_equal(fitted(1), fitted(np.random.default_rng(1)))
    assert not np.array_equal(fitted(1), fitted(2))
    generator = np.random.default_rng(1)
    before = generator.bit_generator.state
    fitted(generator)
    assert generator.bit_generator.state != before
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    fitted(None)
    assert np.random.random() == expected, "NumPy's own seed was touched"


@pytest.mark.parametrize("bit_generator", [np.random.PCG64, np.random.MT19937, np.random.SFC64, np.random.Philox])
def test_every_example_once_an_epoch(bit_generator):
    """With one weight at lr so small that nothing moves, the mean of the losses says which examples came."""
    m = 37
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    y = 2.0 ** np.arange(m) ** 0.5
    rng = np.random.Generator(bit_generator(5))
    history = net.fit(np.zeros(m), y, optimizer=fg.SGD(lr=1e-300), epochs=20, batch_size=5, rng=rng)
    np.testing.assert_allclose(history.loss, (y**2).mean(), rtol=1e-13)


def test_shuffling_is_uniform():
    """The first example of 6 000 epochs of 6: each about 1 000 times."""
    firsts = []

    class Watch:
        def step(self, parameters, gradient):
            firsts.append(round(gradient[1] / -2))

    net = fg.UnivariateRegression(dtype="float64")
    net.parameters[:] = 0
    # a compiled rule and Python's own: both must be fair
    net.fit(np.zeros(6), np.arange(6.0), optimizer=Watch(), epochs=3000, batch_size=1, rng=0)
    counts = np.bincount(firsts[::6], minlength=6)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)

    counts = np.zeros(6)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        net.parameters[:] = 0
        # the last step of an epoch of size 1 leaves b = 2 lr y of the last example
        net.fit(np.zeros(6), np.arange(6.0), optimizer=fg.SGD(lr=0.5), epochs=1, batch_size=1, rng=rng)
        counts[round(net.parameters[1])] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_the_order_depends_on_the_generator_alone():
    """With batches of one and lr = 1/2, b after an epoch is the y that was drawn last."""

    def last_drawn(y):
        net = fg.UnivariateRegression(dtype="float64")
        net.parameters[:] = 0
        net.fit(np.zeros(len(y)), y, optimizer=fg.SGD(lr=0.5), epochs=1, batch_size=1, rng=4)
        return int(np.flatnonzero(y == net.parameters[1])[0])

    y = np.arange(1.0, 12.0)
    assert last_drawn(y) == last_drawn(y**2) == last_drawn(-y)


# ---- schedules ----


def test_a_schedule_sets_the_rate_of_each_step():
    X, y = examples(small(), 64)
    schedule = fg.StepDecay(0.5, step_size=3, factor=0.5)
    net, twin = small(), small()
    history = net.fit(X, y, optimizer=fg.SGD(lr=99.0), epochs=4, batch_size=16, shuffle=False, schedule=schedule)
    optimizer = fg.SGD(lr=99.0)
    losses = []
    for epoch in range(4):
        total = 0.0
        for batch in range(4):
            optimizer.lr = schedule(4 * epoch + batch)
            part = slice(16 * batch, 16 * batch + 16)
            total += twin.train_step(X[:, part], y[:, part], optimizer)
        losses.append(total / 4)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-14)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


class Stepped(fg.SGD):
    """One whose steps are made from Python."""

    def step(self, parameters, gradient):
        super().step(parameters, gradient)


class Uncounted(fg.Optimizer):
    """One that does not count its steps."""

    def step(self, parameters, gradient):
        parameters -= self.lr * gradient


def test_a_rule_that_does_not_count_is_counted():
    X, y = examples(small(), 40)
    optimizer, seen = Uncounted(lr=0.1), []

    def schedule(step):
        seen.append(step)
        return 1e-3

    net = small()
    net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=10, schedule=schedule)
    net.fit(X, y, optimizer=optimizer, epochs=1, batch_size=10, schedule=schedule)
    assert seen == list(range(12))
    assert optimizer.n_steps == 12
    for fresh in (Uncounted(lr=0.1), Callable()):
        seen.clear()
        net.fit(X, y, optimizer=fresh, epochs=5, initial_epoch=3, batch_size=10, schedule=schedule)
        assert seen == list(range(12, 20))


class Callable:
    """One that is no Optimizer at all."""

    lr = 0.1

    def step(self, parameters, gradient):
        parameters -= self.lr * gradient


@pytest.mark.parametrize("rule", [fg.SGD, Stepped])
def test_any_callable_is_a_schedule_and_goes_on_from_fit_to_fit(rule):
    X, y = examples(small(), 20)
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.1

    optimizer = rule(lr=1.0)
    net = small()
    net.fit(X, y, optimizer=optimizer, epochs=5, schedule=schedule)
    net.fit(X, y, optimizer=optimizer, epochs=2, schedule=schedule)
    assert seen == list(range(7))
    assert optimizer.n_steps == 7


# ---- the history ----


def test_losses_looked_at_by_several_threads_at_once():
    net = small()
    X, y = examples(net, 20)
    for _ in range(20):
        history = net.fit(X, y, optimizer=fg.SGD(lr=1e-3), epochs=20_000)
        assert history.epochs == 20_000
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, history=history: list(history.loss), range(4)))
        assert [len(losses) for losses in found] == [20_000] * 4
        assert found[0] == found[1] == found[2] == found[3] == history.loss
        assert history.loss is history.loss
    assert repr(history) == f"<History of 20000 epochs, last loss {history.loss[-1]:.6g}>"


# ---- validation, callbacks, custom optimizers ----


def test_validation_data_and_callbacks():
    net = small()
    X, y = examples(net, 50)
    X_held, y_held = examples(net, 20, seed=3)
    seen = []

    def callback(network, history):
        assert network is net
        seen.append((history.epochs, net.loss(X_held, y_held)))
        return history.epochs == 6

    history = net.fit(
        X, y, optimizer=fg.SGD(lr=0.1), epochs=10, validation_data=(X_held, y_held), callbacks=[callback]
    )  # fmt: skip
    assert history.stopped
    assert history.epochs == 6
    assert seen == list(enumerate(history.validation_loss, start=1))


class Signs:
    """A user's own optimizer: only `step`."""

    lr = 0.01

    def step(self, parameters, gradient):
        parameters -= self.lr * np.sign(gradient)


def test_an_optimizer_written_in_python(dtype):
    net = small(dtype)
    X, y = examples(net, 60)
    before = net.loss(X, y)
    optimizer = Signs()
    history = net.fit(
        X, y, optimizer=optimizer, epochs=30, batch_size=20, rng=0, schedule=fg.ExponentialDecay(0.05, 0.01)
    )
    assert history.loss[-1] < before
    assert optimizer.lr == pytest.approx(0.05 * np.exp(-0.01 * 89))
    assert net.train_step(X, y, Signs()) == pytest.approx(net.loss(X, y), rel=0.5)


def test_a_subclass_with_its_own_step_is_called():
    calls = []

    class Counting(fg.SGD):
        def step(self, parameters, gradient):
            calls.append(1)
            super().step(parameters, gradient)

    net, twin = small(), small()
    X, y = examples(net, 10)
    net.fit(X, y, optimizer=Counting(lr=0.1), epochs=3)
    twin.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=3)
    assert len(calls) == 3
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_verbose_two_prints_a_line_an_epoch(capsys):
    net = small()
    X, y = examples(net, 10)
    net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=3, verbose=2, validation_data=(X, y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3: loss ")
    assert ", validation_loss " in lines[0]


def test_verbose_one_draws_a_bar(capsys):
    net = small()
    X, y = examples(net, 10)
    history = net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=2500, verbose=1)
    assert history.epochs == 2500
    assert "2500/2500" in capsys.readouterr().err


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_threads_change_no_bit_of_a_fit(n_threads, dtype):
    X, y = examples(fg.Sequential(*FIVE_LAYERS), 9000)

    def fitted(n):
        net = perturbed(*FIVE_LAYERS, dtype=dtype)
        optimizer = fg.SGD(lr=0.01, momentum=0.9, nesterov=True)
        history = net.fit(X, y, optimizer=optimizer, epochs=3, batch_size=4000, rng=1, n_threads=n)
        return net.parameters, history.loss

    parameters, losses = fitted(n_threads)
    expected, expected_losses = fitted(1)
    np.testing.assert_array_equal(parameters, expected)
    assert losses == expected_losses


# ---- the four networks on real data ----


def auto_mpg(features=slice(None)):
    X, y = fg.datasets.load_auto_mpg()
    X = X[features]
    X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
    return X, (y - y.mean()) / y.std()


def least_squares(X, y):
    design = np.vstack([X, np.ones(X.shape[1])]).T
    best, *_ = np.linalg.lstsq(design, y[0], rcond=None)
    return float(((design @ best - y[0]) ** 2).mean())


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (fg.UnivariateRegression, [3]),
        (lambda **options: fg.MultivariateRegression(6, **options), slice(None)),
        (lambda **options: fg.TwoLayerLinear(6, 16, **options), slice(None)),
    ],
    ids=["univariate", "multivariate", "two-layer linear"],
)
def test_linear_networks_reach_least_squares(make, features, dtype):
    X, y = auto_mpg(features)
    net = make(dtype=dtype, rng=0)
    net.fit(X, y, optimizer=fg.SGD(lr=0.02, momentum=0.9), epochs=5000)
    loss, best = net.loss(X, y), least_squares(X, y)
    within(f"linear networks on Auto MPG, loss over least squares - 1, {dtype}", abs(loss / best - 1), 1e-6)


def test_two_layer_sigmoid_beats_least_squares_by_15_percent():
    """Test RMSE on Auto MPG, k = 16, mean over 10 seeds of an 80/20 split."""
    X, y = fg.datasets.load_auto_mpg()
    errors = []
    for seed in range(10):
        test, train = np.split(np.random.default_rng(seed).permutation(392), [78])
        Z = (X - X[:, train].mean(axis=1, keepdims=True)) / X[:, train].std(axis=1, keepdims=True)
        mean, scale = y[:, train].mean(), y[:, train].std()
        t = (y - mean) / scale
        net = fg.TwoLayerSigmoid(6, 16, rng=seed)
        net.fit(Z[:, train], t[:, train], optimizer=fg.Adam(lr=0.01), epochs=200, batch_size=32, rng=seed)
        design = np.vstack([Z, np.ones(392)]).T
        best, *_ = np.linalg.lstsq(design[train], t[0, train], rcond=None)
        ours, theirs = net(Z[:, test]) - t[:, test], design[test] @ best - t[0, test]
        errors.append([np.sqrt((e**2).mean()) * scale for e in (ours, theirs)])
    ours, theirs = np.mean(errors, axis=0)
    within("two-layer sigmoid on Auto MPG, test RMSE over that of least squares", ours / theirs, 0.85)


# ---- interrupts ----


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_ends_a_fit_between_two_steps(n_threads):
    net = fg.TwoLayerSigmoid(8, 32, rng=0)
    X, y = np.ones((8, 200_000), "float32"), np.ones(200_000, "float32")
    optimizer = fg.SGD(lr=1e-3)
    sent = []

    first = net.parameters.copy()

    def interrupt():
        while np.array_equal(net.parameters, first):  # until some steps have been made
            time.sleep(0.01)
        time.sleep(0.1)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            net.fit(X, y, optimizer=optimizer, epochs=100_000, batch_size=20_000, n_threads=n_threads)
        waited = time.monotonic() - sent[0]
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert waited < 2, "an interrupt should be seen within a fraction of a second"
    assert optimizer.n_steps > 0
    twin = fg.TwoLayerSigmoid(8, 32, rng=0)
    net.fit(X, y, optimizer=optimizer, epochs=1)
    assert np.isfinite(net.parameters).all()
    assert not np.array_equal(net.parameters, twin.parameters)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs: expected at least 0, got -1"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch_size": -4}, ValueError, "batch_size: expected at least 1, got -4"),
        ({"batch_size": "all"}, TypeError, "batch_size: expected an integer, got 'all'"),
        ({"n_threads": 0}, ValueError, "n_threads: expected at least 1, got 0"),
        ({"verbose": 3}, ValueError, "verbose: expected 0, 1 or 2, got 3"),
        ({"verbose": np.zeros(2)}, TypeError, "verbose: expected 0, 1 or 2"),
        ({"rng": "x", "batch_size": 4}, TypeError, "rng: expected"),
        ({"rng": "x"}, TypeError, "rng: expected"),
        ({"shuffle": np.zeros(2)}, TypeError, "shuffle: expected True or False"),
        ({"moments": "no"}, TypeError, "moments: expected True or False, got 'no'"),
        ({"on_divergence": np.zeros(2)}, ValueError, "on_divergence: expected 'raise' or 'stop'"),
        ({"callbacks": np.array(3)}, TypeError, "callbacks: expected callables in a list or tuple"),
        ({"schedule": 0.1}, TypeError, "schedule: expected a callable from step to learning rate, got 0.1"),
        ({"schedule": lambda step: -1.0}, ValueError, r"schedule\(0\): expected a finite number, at least 0, got -1.0"),
        ({"callbacks": [3]}, TypeError, r"callbacks\[0\]: expected a callable, got 3"),
        ({"validation_data": 3}, TypeError, r"validation_data: expected \(X, y\) or \(X, y, sample_weight\), got int"),
        ({"validation_data": (np.zeros((3, 2)),)}, TypeError, r"validation_data: expected \(X, y\) .* got tuple of 1"),
        ({"validation_data": (np.zeros((4, 2)), np.zeros(2))}, ValueError, "validation_data: X: expected 3 features"),
        (
            {"validation_data": ([[0, 1], [2, np.nan], [3, 4]], np.zeros(2))},
            ValueError,
            r"validation_data: X: expected finite numbers .*, got nan at feature \(row\) 1, example \(column\) 1",
        ),
        (
            {"validation_data": (np.zeros((3, 2)), [0, np.inf])},
            ValueError,
            r"validation_data: y: expected finite numbers .*, got inf at output \(row\) 0, example \(column\) 1",
        ),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected an object with step"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(arguments, error, message):
    net = small()
    before = net.parameters.copy()
    X, y = np.ones((3, 600)), np.ones(600)
    with pytest.raises(error, match=message):
        net.fit(X, y, **{"optimizer": fg.SGD(lr=0.1), "epochs": 2, **arguments})
    np.testing.assert_array_equal(net.parameters, before)


def test_a_fit_that_is_refused_leaves_the_optimizer_free():
    net, optimizer = fg.UnivariateRegression(rng=0), fg.Adam()

    def no_number(step):
        return None

    for arguments, kind in (
        ({"schedule": no_number}, TypeError),
        ({"callbacks": print}, TypeError),
        ({"callbacks": [3]}, TypeError),
        ({"verbose": 7}, ValueError),
    ):
        with pytest.raises(kind, match=next(iter(arguments))):
            net.fit([0.0, 1.0], [1.0, 2.0], optimizer=optimizer, epochs=2, **arguments)
    net.fit([0.0, 1.0], [1.0, 2.0], optimizer=optimizer, epochs=0)
    assert optimizer.state_dict() == fg.Adam().state_dict()
    with pytest.raises(TypeError, match="optimizer: expected an object with step"):
        net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.Adam, epochs=2)


@pytest.mark.parametrize("stop", [True, np.True_])
def test_a_callback_stops_with_numpys_true_too(stop):
    net = fg.UnivariateRegression(rng=0)
    history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.Adam(), epochs=5, callbacks=[lambda net, history: stop])
    assert history.epochs == 1
    history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.Adam(), epochs=5, callbacks=[lambda net, history: None])
    assert history.epochs == 5
    with pytest.raises(
        TypeError, match=r"callbacks\[1\]: expected it to return None, True .to stop. or False, got 'text'"
    ):
        net.fit([0.0], [1.0], optimizer=fg.Adam(), epochs=5, callbacks=[lambda *_: False, lambda *_: "text"])


def test_a_callback_may_edit_the_history():
    """How long a fit goes on does not depend on it."""
    made = []

    def trim(net, history):
        made.append(history.epochs)
        del history.loss[:-1]

    net = fg.UnivariateRegression(rng=0)
    history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=7, callbacks=[trim])
    assert made == [1, 2, 3, 4, 5, 6, 7]
    assert (history.epochs, len(history.loss)) == (7, 1)
    history = net.fit(
        [0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=4, callbacks=[lambda _, h: h.loss.append(0.0)]
    )
    assert (history.epochs, len(history.loss)) == (4, 8)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # of NumPy 2.5
def test_a_callback_may_not_change_the_shape_of_the_data(rng):
    """The fit goes on with the data as they were handed in."""
    X, y = rng.normal(size=(3, 20)), rng.normal(size=(1, 20))
    net, twin = (fg.MultivariateRegression(3, dtype="float64", rng=0) for _ in range(2))
    expected = twin.fit(X.copy(), y.copy(), optimizer=fg.SGD(lr=0.1), epochs=3, moments=False)

    def reshape(net, history):
        X.shape, y.shape = (1, 60), (20, 1)

    history = net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=3, moments=False, callbacks=[reshape])
    assert history.loss == expected.loss


def test_a_schedule_needs_a_learning_rate_to_set():
    class Rule:
        def step(self, parameters, gradient):
            parameters -= 0.1 * gradient

    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(TypeError, match=r"^optimizer: expected an lr for the schedule to set"):
        net.fit([1.0, 2.0], [2.0, 4.0], optimizer=Rule(), epochs=1, schedule=lambda step: 0.1)


@pytest.mark.parametrize("epochs", [1, 50])
def test_parameters_that_are_not_finite_are_blamed_themselves(epochs):
    net = fg.UnivariateRegression(rng=0)
    net.parameters[0] = np.nan
    with pytest.raises(ValueError, match=r"^parameters: expected finite numbers before a step"):
        net.fit([1.0, 2.0], [2.0, 4.0], optimizer=fg.SGD(lr=0.1), epochs=epochs)
