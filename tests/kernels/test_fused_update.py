"""Steps whose gradient is not stored: they have the bits of a stored gradient and its update, and its checks."""

import numpy as np
import pytest
from support import LANES, batch_of, network

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import make_plan

RULES = [
    lambda: fg.SGD(lr=0.1), lambda: fg.SGD(lr=0.1, momentum=0.9), lambda: fg.SGD(lr=0.1, momentum=0.9, nesterov=True),
    lambda: fg.Adagrad(lr=0.1), lambda: fg.RMSprop(lr=0.1), lambda: fg.Adam(lr=0.1),
]  # fmt: skip
#: Features in lanes, and examples in lanes.
EACH_LAYOUT = pytest.mark.parametrize("few", [True, False], ids=["features", "examples"])


def engine_of(net, m, few):
    plan = make_plan(net.dense_layers, net.dtype, m, 1, False, few)
    large = max(layer.n_in * layer.n_out * (layer.n_out > 1) for layer in net.dense_layers) >= 1 << 13
    assert plan.defers == (large and not few)
    return by_dtype[net.dtype].Engine(plan)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("m", "few"), [(1, True), (2, True), (7, True), (1, False), (2, False), (33, False), (100, False)]
)
def test_a_step_is_its_gradient_and_its_update(m, few, rule, dtype):
    lanes = LANES[dtype]
    small = (1, 1), (10, 67, 3), (4 * lanes + 3, 2 * lanes + 1, 2), (600, 5), (20, 4 * lanes, 9 * lanes, 1)
    large = (200, 90, 131, 3), (69, 300, 2), (300, 80)
    for sizes in small if few else large:
        net = network(*sizes, dtype=dtype, activation=fg.GELU if m == 33 else fg.Tanh, bias=sizes[0] != 600)
        one, other = rule(), rule()
        engine = engine_of(net, m, few)
        parameters, twin, gradient = net.parameters.copy(), net.parameters.copy(), np.empty_like(net.parameters)
        one.prepare(parameters)
        other.prepare(twin)
        for seed in range(3):
            X, y = batch_of(net, m, seed)
            point = other.look_ahead(twin) if getattr(other, "nesterov", False) else twin
            assert engine.step(X, y, parameters, one) == engine.gradient(X, y, point, gradient)
            other.step(twin, gradient)
            np.testing.assert_array_equal(parameters, twin, err_msg=f"{sizes}")
            if one.state is not None:
                np.testing.assert_array_equal(one.state, other.state)
            assert one.n_steps == other.n_steps == seed + 1


def test_a_gradient_smaller_than_what_bounds_it_is_stored():
    for m, defers in ((64, True), (256, False)):
        assert fg.Sequential(fg.Linear(100, 100), fg.Linear(100, 1), rng=0).plan(m, n_threads=1).defers == defers


@pytest.mark.parametrize("batch_size", [None, 50])
def test_a_fit_has_the_bits_of_stored_gradients(batch_size, dtype, rng):
    """With factors of the learning rate, here of 1, gradients are stored. Of full batches, the tile stays packed."""
    X, y = rng.normal(size=(160, 130)).astype(dtype), rng.integers(0, 5, 130)
    results = []
    for factors in (None, np.ones(160 * 180 + 180 + 180 * 110 + 110 + 110 * 5 + 5)):
        net = fg.Sequential(
            fg.Linear(160, 180), fg.SiLU(), fg.Dropout(0.3), fg.Linear(180, 110), fg.ReLU(), fg.Linear(110, 5),
            loss="softmax_cross_entropy", dtype=dtype, rng=0,
        )  # fmt: skip
        optimizer = fg.Adam(0.01, learning_rate_factors=factors)
        history = net.fit(X, y, optimizer=optimizer, epochs=4, batch_size=batch_size, rng=0)
        results.append((history.loss, net.parameters, optimizer.state))
    assert net.plan(130 if batch_size is None else 50).defers
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][2], results[1][2])


@EACH_LAYOUT
@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_updated_if_a_gradient_overflows(rule, few):
    """The gradient of the lower layer overflows; that of the upper layer is finite."""
    net = fg.Sequential(fg.Linear(200, 90), fg.Linear(90, 1), dtype="float32", rng=0)
    weights = net.named_parameters()
    weights["W1"][...], weights["W2"][...] = 1e-38, 1e29
    X, y = np.full((200, 2), 1e9, "float32"), np.full((1, 2), 1e3, "float32")
    optimizer = rule()
    parameters = net.parameters.copy()
    optimizer.prepare(parameters)
    state = None if optimizer.state is None else optimizer.state.copy()
    engine = engine_of(net, 2, few)
    assert engine.gradient(X, y, parameters) < np.inf
    assert engine.step(X, y, parameters, optimizer) == np.inf
    np.testing.assert_array_equal(parameters, net.parameters)
    np.testing.assert_array_equal(optimizer.state, state)
    assert optimizer.n_steps == 0


def test_a_gradient_too_large_to_be_squared_is_rescaled():
    net = fg.Sequential(fg.Linear(200, 90), fg.Tanh(), fg.Linear(90, 1), dtype="float32", rng=0)
    X, y = np.ones((200, 2), "float32"), np.full((1, 2), 1e17, "float32")
    results = []
    for few in (True, False):
        optimizer, parameters = fg.Adam(lr=0.01), net.parameters.copy()
        optimizer.prepare(parameters)
        assert engine_of(net, 2, few).step(X, y, parameters, optimizer) < np.inf
        results.append(parameters)
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-8)
    assert abs(results[0] - net.parameters).max() < 0.011
