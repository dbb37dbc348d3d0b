"""Newton's step to the optimum of linear networks, and the Hessian, against closed forms."""

import numpy as np
import pytest
from support import relative, within

import fusegrad as fg

newton, hessian = fg.second_order.newton, fg.second_order.hessian


def optimum(X, y, weights=None, l2=0.0, bias=True):
    """W and b by the normal equations, in extended precision where there is one."""
    X, y = X.astype(np.longdouble), y.astype(np.longdouble)
    w = np.ones(X.shape[1]) if weights is None else weights
    rows = np.vstack([X, np.ones(X.shape[1])]) if bias else X
    H = 2 / w.sum() * (rows * w) @ rows.T
    H[range(len(X)), range(len(X))] += l2
    return np.linalg.solve(H.astype("f8"), (2 / w.sum() * (rows * w) @ y.T).astype("f8")).T


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("weighted", "l2"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.3)])
def test_one_step_to_the_optimum(n_outputs, bias, weighted, l2, rng):
    X, y = rng.normal(size=(6, 80)), rng.normal(size=(n_outputs, 80))
    weights = rng.uniform(0, 2, 80) if weighted else None
    net = fg.Sequential(fg.Linear(6, n_outputs, bias=bias), l2=l2, dtype="float64", rng=0)
    loss = newton(net, X, y, sample_weight=weights)
    assert loss == net.loss(X, y, weights)
    expected = optimum(X, y, weights, l2, bias)
    found = np.hstack(list(net.named_parameters().values())) if bias else net.named_parameters()["W1"]
    if bias:
        W, b = net.named_parameters().values()
        found = np.hstack([W, b])
    within("Newton's step against the normal equations", relative(found, expected), 1e-10)
    gradient = net.loss_and_gradient(X, y, sample_weight=weights)[1]
    assert np.abs(gradient).max() < 1e-12
    before = net.parameters.copy()
    newton(net, X, y, sample_weight=weights)  # it stays there
    assert relative(net.parameters, before) < 1e-12


def test_ill_conditioned_data(rng):
    """Polynomials of degree 9 on an interval: the condition of H is the square of 1e7."""
    x = np.linspace(0, 1, 200)
    X, y = np.array([x**i for i in range(1, 10)]), np.sin(7 * x)[np.newaxis]
    net = fg.MultivariateRegression(9, dtype="float64", rng=0)
    loss = newton(net, X, y)
    rows = np.vstack([X, np.ones(200)])
    solution, *_ = np.linalg.lstsq(rows.T, y[0], rcond=None)
    least = ((solution @ rows - y) ** 2).mean()
    within("loss after Newton's step over that of least squares - 1", abs(loss / least - 1), 1e-10)


@pytest.mark.parametrize("shift", [1e6, 1e10, 1e12])
@pytest.mark.parametrize("weighted", [False, True])
def test_features_far_from_0(shift, weighted, rng):
    """They are centred; b rounds the prediction to eps times the shift."""
    x = np.round(rng.normal(size=(2, 300)) * 1024) / 1024
    y = np.array([[1.0, -2.0]]) @ x + rng.normal(size=(1, 300))
    weights = rng.uniform(0, 2, 300) if weighted else None
    near, far = (fg.MultivariateRegression(2, dtype="float64", rng=0) for _ in range(2))
    least = newton(near, x, y, sample_weight=weights)
    assert newton(far, x + shift, y, sample_weight=weights) == pytest.approx(least, rel=max(1e-10, 1e-16 * shift))
    np.testing.assert_allclose(far.named_parameters()["W1"], near.named_parameters()["W1"], rtol=1e-10)


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 33333.33, -1e-9, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_feature(constant, weighted, rng):
    """Its mean may be rounded; what is left of it is no feature."""
    x, weights = rng.normal(size=(1, 13)), None
    X, y = np.vstack([np.full((1, 13), constant), x]), 2 * x + 1 + 0.1 * rng.normal(size=(1, 13))
    if weighted:
        weights = rng.uniform(0.5, 1, 13)
        X[0, 3], weights[3] = 7.0, 0.0  # not constant, but where it counts
    alone, beside = (fg.MultivariateRegression(n, dtype="float64", rng=0) for n in (1, 2))
    least = newton(alone, x, y, sample_weight=weights)
    assert newton(beside, X, y, sample_weight=weights) == pytest.approx(least, rel=1e-10)


def test_units_do_not_matter_and_an_optimum_that_is_not_unique(rng):
    X, y = rng.normal(size=(3, 50)), rng.normal(size=(1, 50))
    units = np.array([[1e-12], [1.0], [1e12]])
    plain, scaled = (fg.MultivariateRegression(3, dtype="float64", rng=0) for _ in range(2))
    assert newton(scaled, X * units, y) == pytest.approx(newton(plain, X, y), rel=1e-12)
    # A feature twice, and a constant one beside the bias: the nearest optimum keeps what the data do not determine.
    X = np.vstack([X, X[:1], np.ones(50)])
    net = fg.MultivariateRegression(5, dtype="float64", rng=0)
    before = net.parameters.copy()
    assert newton(net, X, y) == pytest.approx(plain.loss(X[:3], y), rel=1e-10)
    moved = net.parameters - before
    assert moved[0] == pytest.approx(moved[3])
    assert moved[4] == pytest.approx(0, abs=1e-12)  # the bias does it


def test_float32_and_the_univariate_network(rng):
    X = rng.normal(size=50).astype("f4")
    net = fg.UnivariateRegression(rng=0)
    newton(net, X, 3 * X + 1)
    np.testing.assert_allclose(net.parameters, [3, 1], rtol=1e-6)


def test_hessian_against_closed_forms(rng):
    X, y, weights = rng.normal(size=(4, 30)), rng.normal(size=(1, 30)), rng.uniform(0.5, 1.5, 30)
    net = fg.Sequential(fg.Linear(4, 1), l2=0.2, dtype="float64", rng=0)
    rows = np.vstack([X, np.ones(30)])
    expected = 2 / weights.sum() * (rows * weights) @ rows.T + np.diag([0.2] * 4 + [0.0])
    before = net.parameters.copy()
    found = hessian(net, X, y, sample_weight=weights)
    within("Hessian of the linear network", relative(found, expected), 1e-9)
    assert np.array_equal(net.parameters, before)
    # Logistic regression: p (1 - p) in place of 2.
    net = fg.LogisticRegression(4, dtype="float64", rng=0)
    p = net.probabilities(X)
    expected = (rows * p * (1 - p)) @ rows.T / 30
    within("Hessian of logistic regression", relative(hessian(net, X, y > 0), expected), 1e-8)
    # Symmetric, and its product with a direction is a difference of gradients, for any network.
    net = fg.TwoLayerSigmoid(4, 5, dtype="float64", rng=0)
    H, d = hessian(net, X, y), rng.normal(size=net.n_parameters)
    assert np.array_equal(H, H.T)
    start, h = net.parameters.copy(), 1e-5
    gradients = []
    for sign in (1, -1):
        net.parameters = start + sign * h * d
        gradients.append(net.loss_and_gradient(X, y)[1])
    within("Hessian times a direction", relative(H @ d, (gradients[0] - gradients[1]) / (2 * h)), 1e-7)


def test_errors(rng):
    X, y = rng.normal(size=(2, 9)), rng.normal(size=(1, 9))
    for net in (
        fg.TwoLayerLinear(2, 3, rng=0),
        fg.LogisticRegression(2, rng=0),
        fg.Sequential(fg.Linear(2, 1), fg.Sigmoid(), rng=0),
        fg.Sequential(fg.Linear(2, 1), fg.Dropout(0.5), rng=0),
        fg.Sequential(fg.Scale(2), fg.Linear(2, 1), rng=0),
        fg.Sequential(fg.Linear(2, 1), loss="huber", rng=0),
    ):
        with pytest.raises(ValueError, match="net: expected a network of one Linear layer and the squared error"):
            newton(net, X, y)
    net = fg.MultivariateRegression(2, dtype="float64", rng=0)
    before = net.parameters.copy()
    for units in (1e160, 1e-165):
        net.parameters = np.zeros(3)
        assert newton(net, X * units, X[:1]) < 1e-20
    net.parameters = before
    narrow = fg.MultivariateRegression(2, rng=0)
    start = narrow.parameters.copy()
    with pytest.raises(ValueError, match="X: expected data whose optimum float32 can hold"):
        newton(narrow, X * 1e-38, X[:1] * 1e3)
    assert np.array_equal(narrow.parameters, start)
    with pytest.raises(ValueError, match="X: expected data with which the loss is finite"):
        newton(net, X * np.nan, y)
    assert np.array_equal(net.parameters, before)
    with pytest.raises(TypeError, match="net: expected a network of dtype float64"):
        hessian(fg.MultivariateRegression(2, rng=0), X, y)


def test_logistic_regression_is_that_of_the_notes(rng):
    """dw = g X^T and db = g 1 with g = (1/m)(p - y); and a thousand times larger data have gradients as much larger."""
    X, y = rng.normal(size=(3, 40)), rng.integers(0, 2, (1, 40)).astype(float)
    net = fg.LogisticRegression(3, dtype="float64", rng=0)
    net.parameters[:3] /= 1000  # so that the larger data have nearly the same probabilities
    g = (net.probabilities(X) - y) / 40
    dw, db = net.unflatten(net.loss_and_gradient(X, y)[1]).values()
    np.testing.assert_allclose(dw, g @ X.T)
    np.testing.assert_allclose(db, g.sum(axis=1, keepdims=True))
    assert net.probabilities(X).shape == (1, 40)
    assert repr(net.layers) == "(Linear(3, 1),)"
