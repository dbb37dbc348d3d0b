"""Early stopping, plateaus, checkpoints, logs, metrics: around fits of real networks."""

import csv
import pickle

import numpy as np
import pytest

import fusegrad as fg


def data(rng, m=120):
    X = rng.normal(size=(3, m))
    return X, np.sin(X).sum(axis=0, keepdims=True) + 0.3 * rng.normal(size=(1, m))


def network(**options):
    return fg.Sequential(fg.Linear(3, 24), fg.Tanh(), fg.Linear(24, 1), dtype="float64", rng=0, **options)


def validation(rng):
    X, y = data(rng)
    return {"validation_data": (X[:, 80:], y[:, 80:])}, X[:, :80], y[:, :80]


# ---- early stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping(restore, rng):
    held_out, X, y = validation(rng)
    net, stopping = network(), fg.EarlyStopping(patience=10, restore_best=restore)
    history = net.fit(
        X, y, optimizer=fg.Adam(0.05), epochs=5000, batch_size=16, rng=0, callbacks=[stopping], **held_out
    )
    losses = history.validation_loss
    assert history.stopped
    assert history.epochs == history.best_epoch + 12  # the best, ten that are tolerated, and one more
    assert losses[history.best_epoch] == min(losses)
    expected = min(losses) if restore else losses[-1]
    assert net.loss(*held_out["validation_data"]) == expected


def test_a_small_decrease_is_no_improvement(rng):
    X, y = data(rng)
    net = network()
    history = net.fit(
        X, y, optimizer=fg.SGD(1e-5), epochs=1000, callbacks=[fg.EarlyStopping(5, min_delta=1.0, restore_best=False)]
    )
    assert history.epochs == 7
    assert history.loss == sorted(history.loss, reverse=True)


def test_the_best_is_restored_whoever_ends_the_fit(rng):
    held_out, X, y = validation(rng)
    net = network()
    history = net.fit(
        X, y, optimizer=fg.Adam(0.05), epochs=60, batch_size=16, rng=0, callbacks=[fg.EarlyStopping(1000)], **held_out
    )
    assert not history.stopped
    assert net.loss(*held_out["validation_data"]) == min(history.validation_loss) < history.validation_loss[-1]


def test_keep_best(rng):
    held_out, X, y = validation(rng)
    options = {"epochs": 60, "batch_size": 16, "rng": 0, **held_out}
    plain, kept = network(), network()
    history = plain.fit(X, y, optimizer=fg.Adam(0.05), **options)
    again = kept.fit(X, y, optimizer=fg.Adam(0.05), keep_best=True, **options)
    assert again.to_dict() == history.to_dict()
    assert kept.loss(*held_out["validation_data"]) == history.validation_loss[history.best_epoch]
    assert plain.loss(*held_out["validation_data"]) == history.validation_loss[-1]
    with pytest.raises(ValueError, match="keep_best: expected validation_data beside it, got None"):
        plain.fit(X, y, optimizer=fg.Adam(0.05), epochs=1, keep_best=True)


def everything():
    """A network and an optimizer with all that a step can have, and a schedule."""
    layers = fg.Scale(3), fg.Linear(3, 24), fg.Mish(), fg.Dropout(0.1), fg.Linear(24, 1)
    net = fg.Sequential(*layers, loss="huber", l2=1e-4, dtype="float64", rng=0)
    rule = fg.AdamW(weight_decay=0.01, clip_norm=1.0, learning_rate_factors={"s": 6.0, "b": 0.1})
    return net, rule, {"schedule": fg.CosineLogDecay(0.05, 400)}


@pytest.mark.parametrize("make", [lambda: (network(), fg.Adam(0.05), {}), everything], ids=["plain", "everything"])
def test_a_stopped_and_resumed_fit_stops_where_it_would_have(make, tmp_path, rng):
    """The callback is pickled beside the checkpoint: parameters, losses and the end are the same, bit for bit."""
    held_out, X, y = validation(rng)
    straight, optimizer, schedule = make()
    options = {"epochs": 3000, "batch_size": 16, **held_out, **schedule}
    whole = straight.fit(
        X, y, optimizer=optimizer, rng=np.random.default_rng(1), callbacks=[fg.EarlyStopping(20)], **options
    )
    assert whole.stopped
    net, optimizer, _ = make()
    generator, stopping = np.random.default_rng(1), fg.EarlyStopping(20)

    def interrupt(net, history):
        (tmp_path / "stopping").write_bytes(pickle.dumps(stopping))
        net.save(tmp_path / "net", optimizer=optimizer, rng=generator)
        return history.epochs == 15

    first = net.fit(X, y, optimizer=optimizer, rng=generator, callbacks=[stopping, interrupt], **options)
    again, optimizer, generator = fg.load_checkpoint(tmp_path / "net")
    stopping = pickle.loads((tmp_path / "stopping").read_bytes())
    rest = again.fit(X, y, optimizer=optimizer, rng=generator, callbacks=[stopping], initial_epoch=15, **options)
    assert first.validation_loss + rest.validation_loss == whole.validation_loss
    np.testing.assert_array_equal(again.parameters, straight.parameters)


# ---- plateaus, checkpoints, logs -----------------------------------------------------------------------


def test_reduce_on_plateau(rng):
    X, y = data(rng)
    net, optimizer, rates = network(), fg.SGD(0.5, momentum=0.9), []
    plateau = fg.ReduceOnPlateau(factor=0.5, patience=3, least=0.1)

    def note(net, history):
        rates.append(optimizer.lr)

    history = net.fit(X, y, optimizer=optimizer, epochs=400, callbacks=[plateau, note])
    assert set(rates) == {0.5, 0.25, 0.125, 0.1}
    assert rates == sorted(rates, reverse=True)
    best, waited = np.inf, 0
    for loss, before, after in zip(history.loss, [0.5, *rates], rates, strict=False):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        assert (after < before) == (waited > 3 and before > 0.1)
        waited = 0 if waited > 3 else waited
    with pytest.raises(ValueError, match="schedule: expected None with ReduceOnPlateau"):
        net.fit(X, y, optimizer=optimizer, epochs=1, callbacks=[plateau], schedule=fg.StepDecay(0.1, 10, 0.5))


@pytest.mark.parametrize("seed", [None, 7])
def test_checkpoints_are_those_of_a_fit_that_goes_on(seed, tmp_path, rng):
    """Also if the generator is the fit's own: the checkpoint has it."""
    X, y = data(rng)
    net = network()
    options = {"epochs": 10, "batch_size": 16}
    saved = fg.Checkpoint(tmp_path / "net-{epoch}", every=4)
    history = net.fit(X, y, optimizer=fg.Adam(0.01), rng=seed, callbacks=[saved], **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-10", "net-4", "net-8"]
    again, optimizer, generator = fg.load_checkpoint(tmp_path / "net-4")
    rest = again.fit(X, y, optimizer=optimizer, rng=generator, initial_epoch=4, callbacks=[saved], **options)
    assert rest.loss == history.loss[4:]
    np.testing.assert_array_equal(again.parameters, net.parameters)
    assert pickle.loads(pickle.dumps(saved)).path == saved.path


def test_a_rule_of_ones_own_is_not_saved(tmp_path, rng):
    class Plain:
        def step(self, parameters, gradient):
            parameters -= 0.01 * gradient

    X, y = data(rng)
    net = network()
    net.fit(X, y, optimizer=Plain(), epochs=3, callbacks=[fg.Checkpoint(tmp_path / "net")])
    assert fg.load_checkpoint(tmp_path / "net").optimizer is None
    np.testing.assert_array_equal(fg.load(tmp_path / "net").parameters, net.parameters)


def test_log(tmp_path, rng):
    held_out, X, y = validation(rng)
    path = tmp_path / "log.csv"
    options = {"optimizer": fg.Adam(0.05), "metrics": ["mae", "r2"], "callbacks": [fg.LogCSV(path)], **held_out}
    net = network()
    history = net.fit(X, y, epochs=5, **options)
    rest = net.fit(X, y, epochs=8, initial_epoch=5, **options)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    for name in ("loss", "validation_loss", "mae", "r2"):
        assert [float(row[name]) for row in rows] == history.to_dict()[name] + rest.to_dict()[name]
    assert {row["lr"] for row in rows} == {"0.05"}


# ---- the protocol --------------------------------------------------------------------------------------


def test_start_and_end(rng):
    calls = []

    class Notes:
        def on_start(self, fit):
            calls.append(("start", fit.epochs, fit.initial_epoch, fit.has_schedule, fit.has_validation, fit.rng))

        def __call__(self, net, history):
            calls.append(history.epochs)

        def on_end(self, fit):
            calls.append(("end", fit.history.epochs, fit.net is net, fit.optimizer is optimizer))

    X, y = data(rng)
    net, optimizer = network(), fg.SGD(0.1)
    net.fit(X, y, optimizer=optimizer, epochs=2, callbacks=[Notes(), lambda net, history: None])
    assert calls == [("start", 2, 0, False, False, None), 1, 2, ("end", 2, True, True)]
    calls.clear()
    generator = np.random.default_rng(0)
    net.fit(X, y, optimizer=optimizer, epochs=1, batch_size=50, rng=generator, callbacks=[Notes()])
    assert calls[0][-1] is generator
    calls.clear()
    with pytest.raises(fg.DivergenceError):
        net.fit(X, y, optimizer=fg.SGD(1e200), epochs=9, callbacks=[Notes()])
    assert not any(call[0] == "end" for call in calls if isinstance(call, tuple))


def test_a_callback_that_starts_wrongly_changes_nothing(rng):
    class Broken:
        def on_start(self, fit):
            raise KeyError("here")

        def __call__(self, net, history):
            pass

    X, y = data(rng)
    net, before = network(), network().parameters
    with pytest.raises(KeyError, match="here"):
        net.fit(X, y, optimizer=fg.SGD(0.1), epochs=1, callbacks=[Broken()])
    np.testing.assert_array_equal(net.parameters, before)


# ---- metrics -------------------------------------------------------------------------------------------


def test_metrics(rng):
    held_out, X, y = validation(rng)

    def worst(y, prediction):
        assert not y.flags.writeable  # the caller's own
        return np.abs(y - prediction).max()

    net = network()
    history = net.fit(X, y, optimizer=fg.Adam(0.05), epochs=4, metrics=["mae", "r2", worst], **held_out)
    X, y = held_out["validation_data"]
    residual = y - net(X)
    assert {name: values[-1] for name, values in history.metrics.items()} == {
        "mae": pytest.approx(np.abs(residual).mean()),
        "r2": pytest.approx(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()),
        "worst": pytest.approx(np.abs(residual).max()),
    }
    assert all(len(values) == 4 for values in history.metrics.values())


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_accuracy(loss, rng):
    n_outputs = 3 if loss == "softmax_cross_entropy" else 1
    net = fg.Sequential(fg.Linear(2, n_outputs), loss=loss, rng=0)
    X = rng.normal(size=(2, 90))
    y = (X[0] > 0).astype(int)
    targets = y if n_outputs == 3 else y[np.newaxis]
    history = net.fit(X, targets, optimizer=fg.Adam(0.1), epochs=20, metrics=["accuracy"], validation_data=(X, targets))
    assert history.metrics["accuracy"][-1] == np.mean(net.classes(X) == y) > 0.9


@pytest.mark.parametrize("loss", ["poisson", "binary_cross_entropy"])
def test_metrics_of_expected_values(loss, rng):
    """Not of the logarithms or logits that the network predicts."""
    net = fg.Sequential(fg.Linear(2, 1), loss=loss, rng=0, dtype="float64")
    X = rng.normal(size=(2, 90))
    y = (rng.poisson(np.exp(X[0])) if loss == "poisson" else X[0] > 0).astype(float)[np.newaxis]
    metrics = net.fit(X, y, optimizer=fg.Adam(0.05), epochs=30, metrics=["mae", "r2"], validation_data=(X, y)).metrics
    expected = np.exp(net(X)) if loss == "poisson" else net.probabilities(X)
    assert metrics["mae"][-1] == pytest.approx(np.abs(expected - y).mean(), rel=1e-12)
    assert metrics["r2"][-1] == pytest.approx(1 - ((expected - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-12)


def test_metrics_of_numbers_with_classes(rng):
    net = fg.Sequential(fg.Linear(2, 3), loss="softmax_cross_entropy", rng=0)
    X, y = rng.normal(size=(2, 9)), np.arange(9) % 3
    for metric in ("mae", "r2"):
        with pytest.raises(
            ValueError, match=f"metrics: expected 'accuracy' or functions with .*Softmax.*, got '{metric}'"
        ):
            net.fit(X, y, optimizer=fg.SGD(0.1), epochs=1, metrics=[metric], validation_data=(X, y))


def test_a_path_with_unknown_names():
    for name in ("net-{epoch:03d}", "net-{epochs}", "{val_loss:.2f}"):
        with pytest.raises(ValueError, match=r"path: expected only {epoch} in braces, got {"):
            fg.Checkpoint(f"{name}.safetensors")


def test_accuracy_of_several_binary_outputs(rng):
    """Each output counts, not the largest of an example."""
    net = fg.Sequential(fg.Linear(2, 3), loss="binary_cross_entropy", rng=0)
    X = rng.normal(size=(2, 90))
    y = np.stack([X[0] > 0, X[1] > 0, X[0] + X[1] > 0])
    history = net.fit(X, y, optimizer=fg.Adam(0.1), epochs=40, metrics=["accuracy"], validation_data=(X, y))
    assert history.metrics["accuracy"][-1] == np.mean(net.classes(X) == y) > 0.9


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("accuracy", TypeError, "metrics: expected a list of names or functions"),
        (["f1"], ValueError, "metrics: expected one of accuracy, mae, r2, got 'f1'"),
        (["mae", "mae"], ValueError, "metrics: expected different names, got 'mae' twice"),
        ([3], TypeError, "metrics: expected a list"),
        ([lambda y, prediction: "good"], TypeError, "metrics: <lambda>: expected a number, got 'good'"),
    ],
)
def test_wrong_metrics(metrics, error, message, rng):
    X, y = data(rng)
    with pytest.raises(error, match=message):
        network().fit(X, y, optimizer=fg.SGD(0.1), epochs=1, metrics=metrics, validation_data=(X, y))
    with pytest.raises((TypeError, ValueError), match="metrics: expected"):
        network().fit(X, y, optimizer=fg.SGD(0.1), epochs=1, metrics=["mae"])
    with pytest.raises(ValueError, match=r"metrics: expected 'accuracy' beside a loss for classes, got .*MeanSquared"):
        network().fit(X, y, optimizer=fg.SGD(0.1), epochs=1, metrics=["accuracy"], validation_data=(X, y))


def test_cosines():
    decay = fg.CosineDecay(0.5, steps=110, warmup=10, floor=0.1)
    rates = [decay(step) for step in range(150)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert max(rates) == rates[10] == 0.5
    assert rates[10:111] == sorted(rates[10:111], reverse=True)
    assert set(rates[110:]) == {0.1}
    log = fg.CosineLogDecay(0.04, steps=1000)
    t = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(
        [log(step) for step in range(1001)], 0.02 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * t))), atol=1e-15
    )
    for make, message in (
        (lambda: fg.CosineDecay(0.1, 10, warmup=10), "steps: expected at least 11"),
        (lambda: fg.CosineDecay(0.1, 10, floor=0.2), "floor: expected at most lr"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_log_has_the_rates_of_a_schedule(tmp_path, rng):
    X, y = data(rng)
    decay = fg.ExponentialDecay(0.1, 0.2)
    for net in (network(), Overridden(*network().layers, dtype="float64", rng=0)):
        net.fit(X, y, optimizer=fg.SGD(0.5), epochs=3, schedule=decay, callbacks=[fg.LogCSV(tmp_path / "log.csv")])
        rates = [float(line.split(",")[-1]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
        assert rates == [decay(0), decay(1), decay(2)]


class Overridden(fg.Sequential):
    """Calls its gradient from Python."""

    def loss_and_gradient(self, X, y, **options):
        return super().loss_and_gradient(X, y, **options)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("keep_best", [True, False])
def test_a_checkpoint_has_the_last_epoch_and_the_network_the_best(every, keep_best, tmp_path, rng):
    held_out, X, y = validation(rng)
    stopping = [] if keep_best else [fg.EarlyStopping(100)]
    net, seen = network(), []
    callbacks = [
        fg.Checkpoint(tmp_path / "net", every),
        *stopping,
        lambda net, history: seen.append(net.parameters.copy()),
    ]
    history = net.fit(
        X[:, :20], y[:, :20], optimizer=fg.Adam(0.1), epochs=30, callbacks=callbacks, keep_best=keep_best, **held_out
    )
    assert history.best_epoch < 29
    assert np.array_equal(net.parameters, seen[history.best_epoch])
    assert np.array_equal(fg.load(tmp_path / "net").parameters, seen[-1])


def test_without_validation_data_the_best_loss_is_that_of_the_restored_parameters():
    net = fg.UnivariateRegression(rng=0, dtype="float64")
    X, y = [1.0, 2.0], [5.0, 7.0]
    history = net.fit(X, y, optimizer=fg.SGD(0.55), epochs=6, callbacks=[fg.EarlyStopping(100)])
    assert net.loss(X, y) == pytest.approx(min(history.loss))


def test_a_log_that_is_gone_is_begun_again(tmp_path, rng):
    X, y = data(rng)
    log = fg.LogCSV(tmp_path / "log.csv")
    network().fit(X, y, optimizer=fg.SGD(0.1), epochs=4, initial_epoch=2, callbacks=[log])
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss,lr"


def test_a_plateau_never_raises_the_rate():
    net, optimizer = fg.UnivariateRegression(rng=0), fg.SGD(1e-6)
    plateau = fg.ReduceOnPlateau(patience=0, min_delta=1e9, least=0.01)
    net.fit([1.0, 2.0], [5.0, 7.0], optimizer=optimizer, epochs=4, callbacks=[plateau])
    assert optimizer.lr == 1e-6


@pytest.mark.parametrize("kind", [fg.EarlyStopping, fg.ReduceOnPlateau, fg.Checkpoint, fg.LogCSV])
def test_a_callback_of_two_fits_at_a_time(kind, tmp_path):
    """The fit that began first is refused: the state is that of the other one."""
    arguments = {fg.EarlyStopping: (5,), fg.ReduceOnPlateau: ()}
    shared = kind(*arguments.get(kind, (tmp_path / "file",)))

    def other(net, history):
        inner = fg.UnivariateRegression(rng=1)
        inner.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=2, callbacks=[shared])

    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(RuntimeError, match=f"callbacks: another fit uses this {type(shared).__name__}, too"):
        net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=5, callbacks=[other, shared])
    net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=5, callbacks=[shared])


def test_callbacks_do_not_read_what_others_may_edit(tmp_path):
    def fit(*edits):
        net, path = fg.UnivariateRegression(rng=0), tmp_path / "log.csv"
        X, y = [0.0, 1.0], [1.0, 2.0]
        history = net.fit(
            X, y, optimizer=fg.SGD(lr=0.1), epochs=20, validation_data=(X, y), metrics=["mae"],
            callbacks=[*edits, fg.EarlyStopping(3), fg.LogCSV(path)],
        )  # fmt: skip
        return history.epochs, path.read_text()

    expected = fit()
    for edit in (
        lambda net, history: history.metrics.clear(),
        lambda net, history: history.loss.clear(),
        lambda net, history: history.loss.append(-1.0),
        lambda net, history: history.validation_loss.append(-1.0),
    ):
        assert fit(edit) == expected


@pytest.mark.parametrize("name", ["net{Epoch}.st", "net{0}.st", "net{}.st", "net{epoch!r}.st", "net{epoch }.st"])
def test_other_names_in_braces(name):
    with pytest.raises(ValueError, match=r"path: expected only \{epoch\} in braces, got \{"):
        fg.Checkpoint(name)


def test_a_metric_may_have_any_name():
    def validation_loss(y, prediction):
        return -1.0

    net = fg.UnivariateRegression(rng=0)
    X, y = [0.0, 1.0], [1.0, 2.0]
    history = net.fit(
        X, y, optimizer=fg.SGD(lr=0.1), epochs=2, validation_data=(X, y), metrics=[validation_loss],
        callbacks=[fg.EarlyStopping(3)],
    )  # fmt: skip
    assert min(history.validation_loss) > 0
    assert history.metrics == {"validation_loss": [-1.0, -1.0]}
