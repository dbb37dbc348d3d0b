"""The losses in compiled code: against the reference in both layouts, at extreme outputs, and with weights."""

import itertools

import numpy as np
import pytest
from support import SUM_BLOCK, TOLERANCE, relative, within

import fusegrad as fg
from fusegrad import reference
from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import make_plan

LOSSES = {
    "mean squared error": fg.losses.MeanSquaredError(),
    "Huber": fg.losses.Huber(0.7),
    "quantile": fg.losses.Quantile(0.3),
    "Poisson": fg.losses.Poisson(),
    "Poisson, full": fg.losses.Poisson(full=True),
    "binary": fg.losses.BinaryCrossEntropy(),
    "softmax, classes": fg.losses.SoftmaxCrossEntropy(),
    "softmax, probabilities": fg.losses.SoftmaxCrossEntropy(),
    "softmax, smoothed": fg.losses.SoftmaxCrossEntropy(label_smoothing=0.1),
    "hinge": fg.losses.MulticlassHinge(0.5),
}


def targets_for(name, n_outputs, m, rng):
    """Targets that float32 holds exactly (probabilities nearly)."""
    loss = LOSSES[name]
    if name == "softmax, probabilities":
        return rng.dirichlet(np.ones(n_outputs), m).T.astype("float32").astype("float64")
    if loss.targets in ("classes", "probabilities"):
        return rng.integers(0, n_outputs, m)
    if loss.name == "poisson":
        return rng.poisson(2, (n_outputs, m)).astype("float64")
    if loss.name == "binary_cross_entropy":
        return rng.integers(0, 5, (n_outputs, m)) / 4
    return rng.normal(size=(n_outputs, m)).astype("float32").astype("float64")


def compiled(net, m, few):
    """A compiled engine of one layout."""
    loss = (net.loss_function.kind, net.loss_function.parameter)
    plan = make_plan(net.dense_layers, net.dtype, m, 1, False, few)
    return by_dtype[net.dtype].Engine(plan, loss, net.l2)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_the_reference(name, dtype):
    rng = np.random.default_rng(0)
    outputs = [n for n in (1, 2, 3, 7, 10, 40) if n > 1 or LOSSES[name].targets not in ("classes", "probabilities")]
    for n_outputs, m in itertools.product(outputs, [1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 64, 65, 100, 700]):
        net = fg.Sequential(
            fg.Linear(7, 9), fg.Tanh(), fg.Linear(9, n_outputs), loss=LOSSES[name], l2=0.01, dtype=dtype, rng=m
        )
        net.parameters[:] += rng.normal(scale=0.5, size=net.n_parameters)
        X = rng.normal(size=(7, m)).astype("float32").astype("float64")
        y = targets_for(name, n_outputs, m, rng)
        weights = np.where(np.arange(m) % 3, rng.integers(0, 9, m) / 4, 1.0)
        for sample_weight in (None, weights):
            objective = reference.objective_of(net, sample_weight)
            layers = reference.layers_of(net, "float64")
            loss, gradient = reference.loss_and_gradient(layers, X, y, objective)
            of_input = reference.input_gradient(layers, X, y, objective)
            batch = net._engine.batch(X, y, sample_weight)
            for few in (False, True) if m <= 65 else (False,):
                found, of_X = np.empty(net.n_parameters, dtype), np.empty(batch.X.shape, dtype)
                engine = compiled(net, m, few)
                value = engine.gradient(batch.X, batch.y, net.parameters, found, of_X, batch.weights)
                within(
                    f"loss {name} against the reference, {dtype}",
                    abs(value - loss) / max(1, abs(loss)),
                    TOLERANCE[dtype],
                )
                within(
                    f"gradient of {name} against the reference, {dtype}", relative(found, gradient), TOLERANCE[dtype]
                )
                assert relative(of_X, of_input) <= TOLERANCE[dtype]
                assert engine.gradient(batch.X, batch.y, net.parameters, None, None, batch.weights) == value


def test_many_examples_and_threads(dtype, rng):
    """Losses, weights and the penalty are added in blocks: any number of threads gives the same bits."""
    for name, m in (
        ("softmax, classes", 100_000),
        ("binary", 20_001),
        ("hinge", 5_003),
        ("mean squared error", 20_001),
    ):
        net = fg.Sequential(
            fg.Linear(5, 30), fg.ReLU(), fg.Linear(30, 3), loss=LOSSES[name], l2=0.1, dtype=dtype, rng=0
        )
        X = rng.normal(size=(5, m)).astype("float32").astype("float64")
        y, weights = targets_for(name, 3, m, rng), rng.uniform(0.5, 2, m).astype("float32").astype("float64")
        found = []
        for n_threads in (1, 2, 3):
            fg.set_num_threads(n_threads)
            try:
                found.append(net.loss_and_gradient(X, y, sample_weight=weights))
            finally:
                fg.set_num_threads(None)
        for value, gradient in found[1:]:
            assert value == found[0][0]
            np.testing.assert_array_equal(gradient, found[0][1])
        objective = reference.objective_of(net, weights)
        loss, gradient = reference.loss_and_gradient(reference.layers_of(net, "float64"), X, y, objective)
        assert found[0][0] == pytest.approx(loss, rel=TOLERANCE[dtype])
        assert relative(found[0][1], gradient) <= TOLERANCE[dtype]


LOSS_BLOCK = 64  # outputs that a loss adds sequentially: cython_kernels/network/loss.pxi
MANY_OUTPUTS = {
    "squared error": fg.losses.MeanSquaredError(),
    "huber": fg.losses.Huber(1.0),
    "quantile": fg.losses.Quantile(0.3),
    "poisson": fg.losses.Poisson(),
    "binary": fg.losses.BinaryCrossEntropy(),
    "softmax": fg.losses.SoftmaxCrossEntropy(),
    "softmax of probabilities": fg.losses.SoftmaxCrossEntropy(),
    "smoothed softmax": fg.losses.SoftmaxCrossEntropy(label_smoothing=0.1),
    "hinge": fg.losses.MulticlassHinge(0.7),
}


@pytest.mark.parametrize("n_outputs", [100, 512, 513, 1537, 100_000, 1_000_000])
@pytest.mark.parametrize("same", [True, False], ids=["equal terms", "random"])
@pytest.mark.parametrize("name", MANY_OUTPUTS)
def test_many_outputs(name, same, n_outputs):
    """float32: loss and gradient are as near as a block of a sum over outputs, in which equal terms round alike."""
    loss, rng = MANY_OUTPUTS[name], np.random.default_rng(n_outputs)
    probabilities = name == "softmax of probabilities"
    net, exact = (fg.Sequential(fg.Linear(1, n_outputs), loss=loss, rng=0, dtype=d) for d in ("float32", "float64"))
    net.parameters[:] = 0 if same else rng.normal(0, 2, net.n_parameters)
    exact.parameters = net.parameters
    for m in (1, 3, 33) if n_outputs < 10**6 else (1, 3):
        X = rng.uniform(0.5, 1, size=(1, m)).astype("float32")
        y = np.ones((n_outputs, m), "float32")
        if name in ("softmax", "smoothed softmax", "hinge"):
            y = rng.integers(0, n_outputs, m)
        elif probabilities:
            y *= np.float32(1 / n_outputs)
        elif not same:  # and so far from the prediction that no sign depends on the dtype
            y = rng.integers(0, 2, size=y.shape).astype("float32")
            if name in ("squared error", "huber", "quantile"):
                y = 40 * y - 20
        found, right = (net.loss_and_gradient(X, y) for net in (net, exact))
        block = SUM_BLOCK if name == "squared error" else LOSS_BLOCK
        allowed = (block / 8 if same or probabilities else np.sqrt(block)) * np.finfo("float32").eps
        assert found[0] == pytest.approx(right[0], rel=float(allowed))
        # A gradient is a difference of probabilities, which may be nearly equal.
        largest = max(np.abs(right[1]).max(), y.max() * probabilities)
        assert np.abs(found[1] - right[1]).max() <= allowed * largest


def test_more_classes_than_float32_counts():
    for loss in ("softmax_cross_entropy", "multiclass_hinge"):
        with pytest.raises(ValueError, match="loss: expected at most 16777216 classes in float32, got 16777217: use"):
            fg.Sequential(fg.Linear(1, 2**24 + 1), loss=loss, rng=0)


@pytest.mark.parametrize("name", ["huber", "quantile"])
def test_extreme_differences(name, dtype):
    """Their difference overflows, the loss and its gradient do not."""
    largest = extreme(dtype)[-2]
    loss = fg.losses.Huber(2.0) if name == "huber" else fg.losses.Quantile(0.25)
    for sign, m in itertools.product((1, -1), (1, 40)):
        net = fg.Sequential(fg.Linear(1, 1), loss=loss, dtype=dtype, rng=0)
        net.parameters = [0.0, sign * largest]
        value, gradient = net.loss_and_gradient(np.ones((1, m)), np.full((1, m), -sign * largest))
        slope = 2 if name == "huber" else 0.75 if sign > 0 else 0.25
        exact = largest / 1e8 * 2 * slope  # does not overflow
        assert value / 1e8 == (pytest.approx(exact, rel=1e-6) if exact < 1.7e300 else np.inf)
        np.testing.assert_allclose(gradient, [sign * slope] * 2, rtol=1e-6)


def extreme(dtype):
    largest = 3e38 if dtype == "float32" else 1e308
    return [0.0, 1e-30, -1e-30, 1.0, -7.0, 50.0, -50.0, 1000.0, -1000.0, largest, -largest]


@pytest.mark.parametrize("name", ["binary", "softmax, classes", "softmax, smoothed", "hinge"])
def test_extreme_outputs(name, dtype):
    """To 2 ulp of the loss, or of 1; nothing overflows whose exact value float64 holds."""
    loss, n_outputs = LOSSES[name], 1 if name == "binary" else 3
    eps = np.finfo(dtype).eps
    for outputs in itertools.product(extreme(dtype), repeat=n_outputs):
        net = fg.Sequential(fg.Linear(1, n_outputs), loss=loss, dtype=dtype, rng=0)
        net.parameters = [0.0] * n_outputs + list(outputs)
        z = net.parameters[n_outputs:].astype(np.longdouble)[:, np.newaxis]
        for target, m in itertools.product(range(max(2, n_outputs)), (1, 40)):
            y = np.full(m, target) if n_outputs > 1 else np.full((1, m), float(target))
            value, gradient = net.loss_and_gradient(np.ones((1, m)), y)
            exact, of_outputs = reference.LOSSES[loss.name](z, y[..., :1].astype("f8"), **loss.arguments)
            if float(exact[0]) == np.inf:
                assert value == np.inf
            else:
                within(
                    f"loss of {name} at extreme outputs, ulp, {dtype}",
                    abs(value - float(exact[0])) / max(1, exact[0]) / eps / (1 if m == 1 else 2),
                    2,
                )
            error = np.abs(gradient[n_outputs:] - of_outputs[:, 0].astype("f8")) / np.maximum(
                1, np.abs(of_outputs[:, 0])
            )
            within(f"gradient of {name} at extreme outputs, ulp, {dtype}", error.max() / eps, 2)


@pytest.mark.parametrize("z", [88.0, -88.0, 1000.0, 1e30])
@pytest.mark.parametrize("y", [0.01, 0.99, 0.999, 0.9999999])
def test_a_probability_near_the_prediction(y, z, dtype):
    net = fg.Sequential(fg.Linear(1, 1), loss="binary_cross_entropy", dtype=dtype, rng=0)
    net.parameters = [0.0, z]
    target = np.longdouble(np.dtype(dtype).type(y))
    exact = (1 - target) * net.parameters[1] if z > 0 else -target * net.parameters[1]
    assert net.loss([0.0], [y]) == pytest.approx(float(exact), rel=2 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("y", [1.0, 3.0, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("away", [-2.0, -0.3, -1e-3, 1e-3, 0.3, 0.99, 1.01, 3.0])
def test_half_of_the_deviance_near_the_optimum(y, away, dtype):
    """It is y (exp(d) - 1 - d), d = z - log y: not the difference of terms of size y log y."""
    net = fg.Sequential(fg.Linear(1, 1), loss=fg.losses.Poisson(full=True), dtype=dtype, rng=0)
    net.parameters = [0.0, np.log(y) + away]
    d = net.parameters[1].astype(np.longdouble) - np.log(np.longdouble(y))
    term = abs(np.expm1(d)) if abs(d) < 1 else np.exp(d) + np.log(y) + 4
    error = abs(net.loss([0.0], [y]) - y * (np.expm1(d) - d))
    within(f"half of the deviance, eps of its terms, {dtype}", float(error / (y * term)) / np.finfo(dtype).eps, 4)


@pytest.mark.parametrize("z", [-200.0, -87.0, 0.0, 3.0, 80.0])
def test_half_of_the_deviance_of_no_events(z, dtype):
    net = fg.Sequential(fg.Linear(1, 1), loss=fg.losses.Poisson(full=True), dtype=dtype, rng=0)
    net.parameters = [0.0, z]
    assert net.loss([0.0], [0.0]) == pytest.approx(np.exp(z), rel=1e-6, abs=1e-37)


def test_a_small_loss_keeps_its_digits(dtype):
    """log(1 + e) of a small e is e."""
    net = fg.Sequential(fg.Linear(1, 3), loss="softmax_cross_entropy", dtype=dtype, rng=0)
    net.parameters = [0.0, 0.0, 0.0, 30.0, 0.0, -1.0]
    exact = np.log1p(np.exp(-30.0) + np.exp(-31.0))
    assert net.loss([0.0], [0]) == pytest.approx(exact, rel=4 * float(np.finfo(dtype).eps))
    net = fg.Sequential(fg.Linear(1, 1), loss="binary_cross_entropy", dtype=dtype, rng=0)
    net.parameters = [0.0, 40.0]
    value, gradient = net.loss_and_gradient([0.0], [1.0])
    assert value == pytest.approx(np.exp(-40.0), rel=4 * float(np.finfo(dtype).eps))
    assert gradient[1] == pytest.approx(-np.exp(-40.0), rel=4 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["binary", "softmax, classes"])
def test_no_gradient_is_subnormal(name, dtype):
    """Products of subnormal numbers take 100 cycles each: exponentials below 2^-96 (2^-992) count as 0."""
    n_outputs, negligible = 2 if name == "softmax, classes" else 1, float(np.finfo(dtype).tiny) * 2**30
    net = fg.Sequential(fg.Linear(1, n_outputs), loss=LOSSES[name], dtype=dtype, rng=0)
    for z in np.linspace(0.8, 1.3, 51) * np.log(negligible):
        net.parameters = [0.0] * n_outputs + [0.0, z][-n_outputs:]
        for m in (1, 40):
            _, gradient = net.loss_and_gradient(np.ones((1, m)), np.zeros(m, int))
            if np.exp(z) < 0.99 * negligible:
                assert gradient[-1] == 0
            elif np.exp(z) > 1.01 * negligible:
                assert gradient[-1] == pytest.approx(np.exp(z), rel=1e-4, abs=0)


def test_thousands_of_classes(rng):
    """Sums over classes are made in blocks."""
    n = 30_000
    net = fg.Sequential(fg.Linear(1, n), loss="softmax_cross_entropy", rng=0)
    net.parameters[:] = 0
    z = rng.uniform(-1, 0, n).astype("float32")
    net.parameters[n:] = z
    exact, _ = reference.softmax_cross_entropy(z.astype("float64")[:, np.newaxis], np.array([7]))
    assert net.loss([0.0], [7]) == pytest.approx(exact[0], rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_not_lost(name, dtype):
    for n_outputs, m in itertools.product((3,), (1, 40)):
        net = fg.Sequential(fg.Linear(2, n_outputs), loss=LOSSES[name], dtype=dtype, rng=0)
        X = np.ones((2, m))
        X[0, -1] = np.nan
        y = targets_for(name, n_outputs, m, np.random.default_rng(0))
        value, gradient = net.loss_and_gradient(X, y)
        assert np.isnan(value)
        assert np.isnan(gradient).all()


def test_weights_are_copies_of_examples(rng):
    for name in LOSSES:
        net = fg.Sequential(fg.Linear(3, 4), loss=LOSSES[name], dtype="float64", rng=0)
        X, y = rng.normal(size=(3, 50)), targets_for(name, 4, 50, rng)
        copies = rng.integers(0, 4, 50)
        copies[0] = 2
        which = np.repeat(np.arange(50), copies)
        value, gradient = net.loss_and_gradient(X, y, sample_weight=copies)
        again, of_copies = net.loss_and_gradient(X[:, which], y[..., which])
        assert value == pytest.approx(again, rel=1e-13)
        np.testing.assert_allclose(gradient, of_copies, rtol=1e-11, atol=1e-13)
        np.testing.assert_array_equal(
            net.loss_and_gradient(X, y, sample_weight=np.full(50, 0.5))[1].round(12),
            net.loss_and_gradient(X, y)[1].round(12),
        )


def test_probabilities_do_not_depend_on_the_batch(dtype, rng):
    for loss, n_outputs in (("softmax_cross_entropy", 5), ("binary_cross_entropy", 1), ("binary_cross_entropy", 3)):
        net = fg.Sequential(fg.Linear(4, 600), fg.ReLU(), fg.Linear(600, n_outputs), loss=loss, dtype=dtype, rng=0)
        X = 3 * rng.normal(size=(4, 200))
        found = net.probabilities(X)
        z = net(X).astype("float64")
        exact = reference.softmax(z) if n_outputs == 5 else reference.sigmoid(z)
        np.testing.assert_allclose(found, exact, rtol=8 * np.finfo(dtype).eps)
        for m in (1, 2, 5, 9, 16, 17, 40):
            for which in (slice(0, m), slice(200 - m, 200)):
                np.testing.assert_array_equal(net.probabilities(X[:, which]), found[:, which])
                np.testing.assert_array_equal(net.freeze().probabilities(X[:, which]), found[:, which])
        np.testing.assert_array_equal(net.probabilities(X[:, 0]), found[:, 0])
