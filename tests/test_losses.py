"""Losses, weights, penalties and limits as a user meets them: construction, errors, training, files."""

import pickle

import numpy as np
import pytest
from kernels.test_losses import LOSSES, targets_for

import fusegrad as fg
from fusegrad import reference


def network(name, n_outputs=3, dtype="float64", **options):
    return fg.Sequential(
        fg.Linear(4, 6), fg.Tanh(), fg.Linear(6, n_outputs), loss=LOSSES[name], dtype=dtype, rng=0, **options
    )


def data_for(name, m, rng, n_outputs=3):
    return rng.normal(size=(4, m)), targets_for(name, n_outputs, m, rng)


# ---- construction --------------------------------------------------------------------------------------


def test_names_and_objects():
    assert {loss.name for loss in LOSSES.values()} == set(reference.LOSSES)
    for name in reference.LOSSES:
        net = fg.Sequential(fg.Linear(2, 3), loss=name)
        assert net.loss_function.name == name
        assert net.loss_function == eval(repr(net.loss_function), vars(fg.losses))
    assert repr(fg.Sequential(fg.Linear(2, 3), loss=fg.losses.Huber(2), l2=0.5)) == (
        "Sequential(Linear(2, 3), loss=Huber(delta=2.0), l2=0.5, dtype='float32')"
    )
    assert "loss Quantile(q=0.5), l2 0.5" in str(fg.Sequential(fg.Linear(2, 3), loss="quantile", l2=0.5).plan(10))
    assert "loss" not in repr(fg.Sequential(fg.Linear(2, 3)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "mse"}, ValueError, "loss: expected one of mean_squared_error, huber, .*, got 'mse'"),
        ({"loss": None}, TypeError, r"loss: expected a name, .* value_and_gradient\(prediction, y\), got None"),
        ({"loss": fg.losses.Huber}, TypeError, "loss: expected a name"),
        ({"l2": -1}, ValueError, "l2: expected a finite number, at least 0"),
        ({"l2": "0.1"}, TypeError, "l2: expected a number"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fg.Sequential(fg.Linear(2, 3), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fg.losses.Huber(0), "delta: expected a finite number, more than 0"),
        (lambda: fg.losses.Quantile(1.0), "q: expected a finite number, more than 0, less than 1"),
        (
            lambda: fg.losses.SoftmaxCrossEntropy(1.0),
            "label_smoothing: expected a finite number, at least 0, less than 1",
        ),
        (lambda: fg.losses.MulticlassHinge(np.nan), "margin: expected a finite number"),
        (lambda: fg.AdamW(weight_decay=-1), "weight_decay: expected a finite number, at least 0"),
        (lambda: fg.SGD(0.1, clip_norm=0), "clip_norm: expected a finite number, more than 0"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_logits_have_no_activation():
    for name in ("binary_cross_entropy", "softmax_cross_entropy", "multiclass_hinge"):
        with pytest.raises(ValueError, match=r"loss: expected no activation behind the last Linear, .* got sigmoid"):
            fg.Sequential(fg.Linear(2, 3), fg.Sigmoid(), loss=name)
    with pytest.raises(ValueError, match="loss: expected an output for each class with MulticlassHinge"):
        fg.Sequential(fg.Linear(2, 1), loss="multiclass_hinge")


# ---- targets and weights -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "y", "error", "message"),
    [
        (
            "softmax, classes",
            [0, 3, 1],
            ValueError,
            r"y: expected class numbers from 0 to 2, got 3 at example \(column\) 1",
        ),
        ("softmax, classes", [0, -1, 1], ValueError, "y: expected class numbers from 0 to 2, got -1"),
        (
            "softmax, classes",
            [0.0, 1.0, 2.0],
            TypeError,
            r"y: expected class numbers \(m,\) of an integer dtype, or prob.* astype",
        ),
        ("softmax, classes", ["a", "b", "c"], TypeError, r"y: expected class numbers .* numpy.unique"),
        ("softmax, classes", [0, 1], ValueError, r"y: expected 3 examples \(columns\) as in X"),
        (
            "softmax, classes",
            np.full((3, 3), 0.5),
            ValueError,
            "y: expected probabilities of each example that add up to 1, got 1.5",
        ),
        (
            "softmax, classes",
            np.eye(3) - 1,
            ValueError,
            r"y: expected probabilities of at least 0, got -1.0 at row 1, example",
        ),
        ("softmax, classes", np.eye(2), ValueError, r"y: expected 3 outputs \(rows\)"),
        ("hinge", np.eye(3), TypeError, r"y: expected class numbers .*argmax"),
        (
            "binary",
            np.full((3, 3), 2.0),
            ValueError,
            "y: expected 0, 1 or probabilities between them, got 2.0 at row 0",
        ),
        ("Poisson", -np.eye(3), ValueError, "y: expected counts of at least 0, got -1.0 at row 0"),
        ("Huber", [0, 1, 2], ValueError, r"y: expected two dimensions, \(3, m\)"),
    ],
)
def test_wrong_targets(name, y, error, message):
    net, optimizer = network(name), fg.SGD(0.1)
    X, before = np.ones((4, 3)), net.parameters.copy()
    for call in (
        lambda: net.loss(X, y),
        lambda: net.loss_and_gradient(X, y),
        lambda: net.input_gradient(X, y),
        lambda: net.train_step(X, y, optimizer),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=1),
        lambda: fg.testing.check_gradients(net, X, y),
    ):
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(error, match=f"validation_data: {message}"):
        net.fit(
            X, targets_for(name, 3, 3, np.random.default_rng(0)), optimizer=optimizer, epochs=1, validation_data=(X, y)
        )
    assert (net.parameters == before).all()
    assert optimizer.n_steps == 0


def test_class_numbers_of_any_kind(rng):
    net = network("softmax, classes")
    X, y = data_for("softmax, classes", 20, rng)
    expected = net.loss(X, y)
    for other in (y.astype("uint8"), y.tolist(), y[np.newaxis], np.eye(3)[:, y], np.eye(3)[:, y].astype(int)):
        assert net.loss(X, other) == expected
    assert net.loss(X[:, 0], int(y[0])) == net.loss(X[:, :1], y[:1]) == net.loss(X[:, 0], np.eye(3)[y[0]])
    two = fg.Sequential(fg.Linear(4, 2), loss="multiclass_hinge", rng=0)
    assert two.loss(X, y > 0) == two.loss(X, (y > 0).astype(int))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, 2.0], ValueError, r"sample_weight: expected shape \(3,\), one for each example, got \(2,\)"),
        (
            [1.0, -2.0, 1.0],
            ValueError,
            r"sample_weight: expected finite numbers of at least 0, got -2.0 at example \(column\) 1",
        ),
        ([1.0, 1.0, np.nan], ValueError, r"sample_weight: expected finite numbers .* got nan at example \(column\) 2"),
        ([1.0, 1.0, np.inf], ValueError, "sample_weight: expected finite numbers"),
        ([0.0, 0.0, 0.0], ValueError, "sample_weight: expected at least one weight of more than 0"),
        (["a", "b", "c"], TypeError, "sample_weight: expected numbers, got 'a'"),
    ],
)
def test_wrong_weights(weights, error, message):
    net, optimizer = network("Huber"), fg.SGD(0.1)
    X, y = np.ones((4, 3)), np.ones((3, 3))
    for call in (
        lambda: net.loss(X, y, sample_weight=weights),
        lambda: net.loss_and_gradient(X, y, sample_weight=weights),
        lambda: net.input_gradient(X, y, sample_weight=weights),
        lambda: net.train_step(X, y, optimizer, sample_weight=weights),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=1, sample_weight=weights),
    ):
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(error, match=f"validation_data: {message}"):
        net.fit(X, y, optimizer=optimizer, epochs=1, validation_data=(X, y, weights))


@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_cross_entropy", "softmax_cross_entropy"])
def test_only_the_ratios_of_weights_count(loss, dtype, rng):
    """Also of weights whose products with a gradient, or their quotients, would overflow."""
    info = np.finfo(dtype)
    net = fg.Sequential(fg.Linear(3, 2), loss=loss, dtype=dtype, rng=0)
    X, weights = rng.normal(size=(3, 50)).astype(dtype), rng.uniform(0.5, 1, 50).astype(dtype)
    y = rng.integers(0, 2, 50) if loss == "softmax_cross_entropy" else rng.integers(0, 2, (2, 50)).astype(dtype)
    if loss == "mean_squared_error":
        y *= 10**9
    for m in (1, 5, 50):
        value, gradient = net.loss_and_gradient(X[:, :m], y[..., :m], sample_weight=weights[:m])
        for exponent in (info.maxexp - 1, 25, -25, info.minexp + 1):
            scaled = np.ldexp(weights[:m], exponent)
            found = net.loss_and_gradient(X[:, :m], y[..., :m], sample_weight=scaled)
            assert found[0] == value
            np.testing.assert_array_equal(found[1], gradient)


def test_weights_that_are_negligible_beside_the_largest_count_as_0(dtype, rng):
    """In a batch of their own, the inverse of their sum would overflow."""
    small = np.finfo(dtype).smallest_subnormal
    optimizer = fg.SGD(1e-3)
    net = fg.UnivariateRegression(dtype=dtype, rng=0)
    net.fit(
        [[1.0, 2.0, 3.0]], [[3.0, 1.0, 2.0]], sample_weight=np.array([1.0, small, 1e-25], dtype), optimizer=optimizer,
        epochs=1, batch_size=1, shuffle=False,
    )  # fmt: skip
    assert optimizer.n_steps == 2
    X = rng.normal(size=(1, 200)).astype(dtype)
    kernel = np.exp(-((X[0] - 2) ** 2) / 0.045)
    net = fg.Sequential(fg.Linear(1, 8), fg.Tanh(), fg.Linear(8, 1), dtype=dtype, rng=0)
    history = net.fit(X, np.sin(3 * X), sample_weight=kernel, optimizer=fg.Adam(0.01), epochs=20, batch_size=2, rng=0)
    assert np.isfinite(history.loss).all()


@pytest.mark.parametrize("loss", [fg.losses.Huber(1e-46), fg.losses.MulticlassHinge(1e39)])
def test_arguments_that_the_dtype_cannot_hold(loss):
    fg.Sequential(fg.Linear(1, 2), loss=loss, dtype="float64")
    with pytest.raises(
        ValueError, match=r"loss: expected an argument that float32 can hold, got (Huber|MulticlassHinge)"
    ):
        fg.Sequential(fg.Linear(1, 2), loss=loss)


def test_weights_of_a_block_are_not_scaled():
    X, y = np.ones((4, 3)), np.ones((3, 3))
    for weights in ([0.0, 1e-151, 0.0], [1.0, 1e151, 0.0]):
        message = r"sample_weight: expected a largest weight between 1e-150 and 1e\+150 \(float64\), .*: divide them by"
        with pytest.raises(ValueError, match=message):
            network("Huber").fit([(X, y, np.array(weights))], optimizer=fg.SGD(0.1), epochs=1, batch_size=3)


def test_weights_that_are_the_parameters(rng):
    """What is read stays as it was when the call began."""
    net, other = network("Huber"), network("Huber")
    net.parameters[:] = other.parameters[:] = np.abs(net.parameters) + 0.1
    X, y = data_for("Huber", 20, rng)
    net.fit(X, y, optimizer=fg.SGD(0.1), epochs=5, sample_weight=net.parameters[:20])
    other.fit(X, y, optimizer=fg.SGD(0.1), epochs=5, sample_weight=other.parameters[:20].copy())
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_nan_targets_are_named(rng):
    for name in ("Huber", "quantile", "Poisson", "binary"):
        net = network(name)
        X, y = data_for(name, 10, rng)
        y[1, 4] = np.nan
        with pytest.raises(ValueError, match=r"y: expected finite numbers .* got nan at output \(row\) 1, example"):
            net.fit(X, y, optimizer=fg.SGD(0.1), epochs=3)


def test_a_batch_without_weight_makes_no_step(rng):
    X, y = data_for("Huber", 30, rng)
    weights = np.ones(30)
    weights[10:20] = 0
    nets = [network("Huber") for _ in range(3)]
    optimizers = [fg.Adam(0.01) for _ in nets]
    rates = []

    def schedule(step):
        rates.append(step)
        return 0.01

    history = nets[0].fit(
        X, y, optimizer=optimizers[0], epochs=3, batch_size=10, shuffle=False, sample_weight=weights, schedule=schedule
    )
    kept = np.r_[0:10, 20:30]
    expected = nets[1].fit(X[:, kept], y[:, kept], optimizer=optimizers[1], epochs=3, batch_size=10, shuffle=False)
    assert optimizers[0].n_steps == optimizers[1].n_steps == 6
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-12)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-12)
    assert rates[:6] == [0, 1, 2, 3, 4, 5]
    assert rates == sorted(set(rates))  # each step once, in order

    class Python(fg.Adam):
        def step(self, parameters, gradient):
            super().step(parameters, gradient)

    again = nets[2].fit(X, y, optimizer=Python(0.01), epochs=3, batch_size=10, shuffle=False, sample_weight=weights)
    np.testing.assert_array_equal(nets[2].parameters, nets[0].parameters)
    np.testing.assert_allclose(again.loss, history.loss, rtol=1e-14)


# ---- training ------------------------------------------------------------------------------------------


class Reference:
    """A network trained by the equations in NumPy."""

    def __init__(self, net, sample_weight=None):
        self.net, self.objective = net, reference.objective_of(net, sample_weight)

    def gradient(self, X, y):
        return reference.loss_and_gradient(reference.layers_of(self.net), X, y, self.objective)


@pytest.mark.parametrize("name", LOSSES)
def test_fit_makes_the_steps_of_the_reference(name, rng):
    X, y = data_for(name, 40, rng)
    weights = rng.integers(1, 5, 40).astype("float64")
    trained, stepped = (network(name, l2=0.05) for _ in range(2))
    history = trained.fit(X, y, optimizer=fg.SGD(0.05), epochs=5, sample_weight=weights)
    by_hand = Reference(stepped, weights)
    losses = []
    for _ in range(5):
        loss, gradient = by_hand.gradient(X, y)
        losses.append(loss)
        stepped.parameters -= 0.05 * gradient
    np.testing.assert_allclose(history.loss, losses, rtol=1e-11)
    np.testing.assert_allclose(trained.parameters, stepped.parameters, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", ["SGD", "momentum", "Nesterov", "Adagrad", "RMSprop", "Adam", "AdamW"])
def test_clipped_and_penalised_steps(rule, dtype, rng):
    """The compiled fit, `step` from Python, and the equations; with and without mini-batches, few examples and many."""
    make = {
        "SGD": lambda **o: fg.SGD(0.05, **o), "momentum": lambda **o: fg.SGD(0.05, 0.9, **o),
        "Nesterov": lambda **o: fg.SGD(0.05, 0.9, nesterov=True, **o), "Adagrad": lambda **o: fg.Adagrad(0.05, **o),
        "RMSprop": lambda **o: fg.RMSprop(0.01, **o), "Adam": lambda **o: fg.Adam(0.01, **o),
        "AdamW": lambda **o: fg.AdamW(0.01, weight_decay=0.3, **o),
    }[rule]  # fmt: skip

    def overridden(**options):
        optimizer = make(**options)

        class Python(type(optimizer)):
            def step(self, parameters, gradient):
                super().step(parameters, gradient)

        optimizer.__class__ = Python
        return optimizer

    for batch in (3, 40):
        X, y = data_for("softmax, classes", 40, rng)
        nets = [network("softmax, classes", dtype=dtype, l2=0.1) for _ in range(2)]
        for net, kind in zip(nets, (make, overridden), strict=True):
            net.fit(X, y, optimizer=kind(clip_norm=0.05), epochs=4, batch_size=batch, rng=1)
        np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    net = network("softmax, classes", l2=0.1)
    optimizer = make(clip_norm=0.05)
    free = network("softmax, classes", l2=0.1)
    without = make()
    for _ in range(3):
        at = free.parameters if rule != "Nesterov" else without.look_ahead(free.parameters)
        free_at = network("softmax, classes", l2=0.1)
        free_at.parameters = at
        _, gradient = Reference(free_at).gradient(X, y)
        gradient *= min(1, 0.05 / np.linalg.norm(gradient))
        if rule == "AdamW":
            for first, last in (place for name, place in free._engine.places.items() if name[0] == "W"):
                free.parameters[first:last] *= 1 - 0.01 * 0.3
            without._weight_decay, without._constants = 0.0, fg.Adam(0.01)._constants
        without.step(free.parameters, gradient)
        net.train_step(X, y, optimizer)
    np.testing.assert_allclose(net.parameters, free.parameters, rtol=1e-9, atol=1e-12)


def test_clipping_at_extreme_gradients(dtype):
    """Norms that overflow or underflow in the sum of their squares."""
    largest = 1e38 if dtype == "float32" else 1e300
    for size, limit in (
        (largest, 1.0),
        (1.0, 1e-3),
        (1.0, 100.0),
        (1 / largest, 1e-45 if dtype == "float32" else 1e-305),
    ):
        w, g = np.zeros(10_001, dtype), np.full(10_001, size, dtype)
        fg.SGD(1.0, clip_norm=limit).step(w, g)
        norm = float(np.linalg.norm(g.astype(np.longdouble)))
        expected = -min(norm, limit) / np.sqrt(10_001)
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=float(np.finfo(dtype).smallest_subnormal))
    w = np.zeros(3, dtype)
    with pytest.raises(ValueError, match="gradient: expected finite numbers"):
        fg.SGD(1.0, clip_norm=1.0).step(w, np.array([1.0, np.inf, 0.0], dtype))
    assert not w.any()


def test_a_loss_of_ones_own(rng):
    class Absolute:
        calls = 0

        def value_and_gradient(self, prediction, y):
            self.calls += 1
            assert prediction.shape == (3, y.shape[1])
            assert not y.flags.writeable  # the caller's own
            return np.abs(prediction - y).sum() / y.shape[1], np.sign(prediction - y) / y.shape[1]

    X, y = data_for("Huber", 30, rng)
    loss = Absolute()
    own = fg.Sequential(fg.Linear(4, 6), fg.Tanh(), fg.Linear(6, 3), loss=loss, l2=0.1, dtype="float64", rng=0)
    same = fg.Sequential(*own.layers, loss=fg.losses.Quantile(0.5), l2=0.05, dtype="float64", rng=0)
    assert own.loss(X, y) == pytest.approx(2 * same.loss(X, y), rel=1e-13)
    np.testing.assert_allclose(
        own.loss_and_gradient(X, y)[1], 2 * same.loss_and_gradient(X, y)[1], rtol=1e-10, atol=1e-14
    )
    assert fg.testing.check_gradients(own, X, y).error < 1e-7
    loss.calls = 0
    own.fit(X, y, optimizer=fg.SGD(0.02), epochs=3, batch_size=10, rng=0, validation_data=(X, y))
    assert loss.calls == 12  # a batch, and the validation data of each epoch
    same.fit(X, y, optimizer=fg.SGD(0.04), epochs=3, batch_size=10, rng=0)
    np.testing.assert_allclose(own.parameters, same.parameters, rtol=1e-10)
    with pytest.raises(TypeError, match="sample_weight: expected None, since a user-defined loss takes no weights"):
        own.loss(X, y, sample_weight=np.ones(30))
    with pytest.raises(TypeError, match="probabilities: expected a network with"):
        own.probabilities(X)
    loss.value_and_gradient = lambda prediction, y: 1.0
    with pytest.raises(TypeError, match=r"value_and_gradient: expected it to return \(loss, gradient\), .* got float"):
        own.loss(X, y)
    loss.value_and_gradient = lambda prediction, y: (np.abs(prediction - y), np.sign(prediction - y))
    with pytest.raises(TypeError, match=r"got a loss of shape \(3, 30\); is it the mean over the examples\?"):
        own.loss(X, y)
    loss.value_and_gradient = lambda prediction, y: (None, np.sign(prediction - y))
    with pytest.raises(TypeError, match=r"a number and an array \(3, 30\), got the loss None"):
        own.loss(X, y)
    loss.value_and_gradient = lambda prediction, y: (1.0, prediction[:, :1])
    with pytest.raises(ValueError, match=r"value_and_gradient: expected a gradient of shape \(3, 30\), got \(3, 1\)"):
        own.loss(X, y)
    loss.value_and_gradient = lambda prediction, y: (1.0, prediction[:2])
    with pytest.raises(ValueError, match=r"value_and_gradient: expected 3 outputs \(rows\)"):
        own.loss(X, y)
    with pytest.raises(TypeError, match=r"loss: expected one of .* to save"):
        own.save("never.safetensors")


def test_a_loss_of_ones_own_may_have_any_attributes(rng):
    """Also the names of those of this package; a subclass with a function of its own is called."""

    class Doubled(fg.losses.MeanSquaredError):
        kind, targets = "mine", "something"

        def value_and_gradient(self, prediction, y):
            residual = prediction - y
            return 2 * (residual**2).mean(), 4 * residual / residual.shape[1]

    X, y = rng.normal(size=(4, 20)), rng.normal(size=(1, 20))
    layers = fg.Linear(4, 3), fg.Tanh(), fg.Linear(3, 1)
    net = fg.Sequential(*layers, loss=Doubled(), dtype="float64", rng=0)
    plain = fg.Sequential(*layers, dtype="float64", rng=0)
    assert net.loss(X, y) == pytest.approx(2 * plain.loss(X, y), rel=1e-14)
    net.fit(X, y, optimizer=fg.SGD(0.05), epochs=3)
    plain.fit(X, y, optimizer=fg.SGD(0.1), epochs=3)
    np.testing.assert_allclose(net.parameters, plain.parameters, rtol=1e-12)


def test_backward(dtype, rng):
    """Any loss whose gradient is known; networks after one another."""
    net = fg.Sequential(fg.Linear(4, 6), fg.Tanh(), fg.Linear(6, 3), fg.Sigmoid(), l2=0.5, dtype=dtype, rng=0)
    plain = fg.Sequential(*net.layers, dtype=dtype, rng=0)
    for m in (1, 5, 40, 700):
        X, y = rng.normal(size=(4, m)), rng.normal(size=(3, m))
        given = 2 * (net(X) - y) / m
        np.testing.assert_allclose(
            net.backward(X, given),
            plain.loss_and_gradient(X, y)[1],
            rtol=1e-3 if dtype == "float32" else 1e-11,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            net.input_gradient(X, output_gradient=given), net.input_gradient(X, y), rtol=1e-4, atol=1e-6
        )
    out = np.empty(net.n_parameters, dtype)
    assert net.backward(X, given, out=out) is out
    np.testing.assert_array_equal(out, net.backward(X, given))
    np.testing.assert_array_equal(net.backward(X[:, 0], given[:, 0]), net.backward(X[:, :1], given[:, :1]))
    np.testing.assert_array_equal(net.backward(X, given, out=net.parameters.copy()), out)
    for wrong, error, message in (
        (given[:2], ValueError, r"output_gradient: expected 3 outputs \(rows\)"),
        (given[:, 1:], ValueError, "output_gradient: expected 700 examples"),
        (None, TypeError, "output_gradient: expected numbers, got None"),
    ):
        with pytest.raises(error, match=message):
            net.backward(X, wrong)
    with pytest.raises(TypeError, match="output_gradient: expected neither y nor sample_weight beside it"):
        net.input_gradient(X, y, output_gradient=given)


def test_two_networks_one_after_the_other(rng):
    whole = fg.Sequential(fg.Linear(4, 6), fg.Tanh(), fg.Linear(6, 3), dtype="float64", rng=0)
    first = fg.Sequential(*whole.layers[:2], dtype="float64")
    second = fg.Sequential(whole.layers[2], dtype="float64")
    n = first.n_parameters
    first.parameters, second.parameters = whole.parameters[:n], whole.parameters[n:]
    X, y = rng.normal(size=(4, 20)), rng.normal(size=(3, 20))
    hidden = first(X)
    parts = first.backward(X, second.input_gradient(hidden, y)), second.loss_and_gradient(hidden, y)[1]
    np.testing.assert_allclose(np.concatenate(parts), whole.loss_and_gradient(X, y)[1], rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_check_gradients(name, rng):
    net = network(name, l2=0.1)
    X, y = data_for(name, 25, rng)
    assert fg.testing.check_gradients(net, X, y, sample_weight=rng.uniform(0.5, 2, 25)).error < 1e-7

    class Wrong(fg.Sequential):
        def loss_and_gradient(self, X, y, out=None, **options):
            loss, gradient = super().loss_and_gradient(X, y, out, **options)
            gradient[7] *= 1 + 1e-4
            return loss, gradient

    wrong = Wrong(*net.layers, loss=net.loss_function, l2=0.1, dtype="float64", rng=3)
    with pytest.raises(AssertionError, match=r"gradient check: .* at W1\[1, 3\]"):
        fg.testing.check_gradients(wrong, X, y)


def test_check_of_backward(rng):
    net = network("Huber", l2=0.1)
    X, given = rng.normal(size=(4, 9)), rng.normal(size=(3, 9))
    assert fg.testing.check_gradients(net, X, output_gradient=given).error < 1e-7
    with pytest.raises(TypeError, match="output_gradient: expected neither y"):
        fg.testing.check_gradients(net, X, given, output_gradient=given)


def test_divergence_is_found(rng):
    net = network("Poisson", dtype="float32")
    X, y = data_for("Poisson", 40, rng)
    with pytest.raises(fg.DivergenceError):
        net.fit(X, y, optimizer=fg.SGD(100.0), epochs=50)
    assert np.isfinite(net.parameters).all()


# ---- classes, files ------------------------------------------------------------------------------------


def test_classes(rng):
    net = network("softmax, classes")
    X = rng.normal(size=(4, 30))
    np.testing.assert_array_equal(net.classes(X), net(X).argmax(axis=0))
    assert net.classes(X[:, 0]).shape == ()
    binary = network("binary", n_outputs=1)
    np.testing.assert_array_equal(binary.classes(X), binary.probabilities(X)[0] > 0.5)
    assert binary.classes(X[:, 0]).shape == ()
    several = network("binary")
    assert several.classes(X).shape == (3, 30)
    np.testing.assert_array_equal(several.freeze().classes(X), several.classes(X))
    with pytest.raises(TypeError, match="classes: expected a network with a loss for classes, got Huber"):
        network("Huber").classes(X)
    with pytest.raises(TypeError, match=r"probabilities: expected a network with .* got MulticlassHinge"):
        network("hinge").probabilities(X)


@pytest.mark.parametrize("name", LOSSES)
def test_files_and_pickles(name, tmp_path, rng):
    net = network(name, l2=0.25)
    X, y = data_for(name, 20, rng)
    optimizer = fg.AdamW(0.01, weight_decay=0.1, clip_norm=0.5)
    net.train_step(X, y, optimizer)
    net.save(tmp_path / "net", optimizer=optimizer)
    loaded = fg.load_checkpoint(tmp_path / "net")
    again = pickle.loads(pickle.dumps(net))
    for other, its in ((loaded.network, loaded.optimizer), (again, pickle.loads(pickle.dumps(optimizer)))):
        assert (other.loss_function, other.l2, repr(other)) == (net.loss_function, 0.25, repr(net))
        assert repr(its) == repr(optimizer)
        other.train_step(X, y, its)
        assert other.loss(X, y) == loaded.network.loss(X, y)
    predictor = pickle.loads(pickle.dumps(net.freeze()))
    assert predictor.loss_function == net.loss_function
    predictor.save(tmp_path / "predictor")
    assert fg.load(tmp_path / "predictor").loss_function == net.loss_function


def test_moments_are_of_the_squared_error(rng):
    X, y = rng.normal(size=(2, 5000)), rng.normal(size=(1, 5000))
    for options, fits in (({}, {}), ({"loss": "huber"}, {}), ({}, {"sample_weight": np.ones(5000)})):
        net = fg.MultivariateRegression(2) if not options else fg.Sequential(fg.Linear(2, 1), **options)
        history = net.fit(X, y, optimizer=fg.SGD(0.01), epochs=500, **fits)
        assert history.from_moments == (not options and not fits)
    net = fg.Sequential(fg.Linear(2, 1), l2=0.1, dtype="float64", rng=0)
    same = fg.Sequential(fg.Linear(2, 1), l2=0.1, dtype="float64", rng=0)
    history = net.fit(X, y, optimizer=fg.SGD(0.01), epochs=500)
    assert history.from_moments
    expected = same.fit(X, y, optimizer=fg.SGD(0.01), epochs=500, moments=False)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-12)


def test_interrupted_and_resumed_with_weights(tmp_path, rng):
    """A fit that is resumed gives the same bits, with weights and a penalty."""
    X, y = data_for("softmax, classes", 100, rng)
    weights = rng.uniform(0, 2, 100)
    options = {"batch_size": 16, "sample_weight": weights}
    straight, stopped = network("softmax, classes", l2=0.01), network("softmax, classes", l2=0.01)
    straight.fit(X, y, optimizer=fg.AdamW(0.01, clip_norm=1.0), epochs=10, rng=5, **options)
    optimizer, generator = fg.AdamW(0.01, clip_norm=1.0), np.random.default_rng(5)

    def stop(net, history):
        net.save(tmp_path / "net", optimizer=optimizer, rng=generator)
        return history.epochs == 4

    stopped.fit(X, y, optimizer=optimizer, epochs=10, rng=generator, callbacks=[stop], **options)
    net, optimizer, generator = fg.load_checkpoint(tmp_path / "net")
    net.fit(X, y, optimizer=optimizer, epochs=10, initial_epoch=4, rng=generator, **options)
    np.testing.assert_array_equal(net.parameters, straight.parameters)
