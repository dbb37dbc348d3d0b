"""scikit-learn: its arrays as they are, its least squares, its MLP."""

import numpy as np
import pytest
from support import relative

import fusegrad as fg

pytestmark = pytest.mark.peers


def test_linear_regression_is_the_optimum_of_the_linear_networks():
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    X, y = fg.datasets.load_auto_mpg()
    y = (y - y.mean()) / y.std()
    data = StandardScaler().fit_transform(X.T)  # scikit-learn's layout: examples in rows
    model = LinearRegression().fit(data, y[0])
    best = float(((model.predict(data) - y[0]) ** 2).mean())
    for net in (fg.MultivariateRegression(6, dtype="float64", rng=0), fg.TwoLayerLinear(6, 16, dtype="float64", rng=0)):
        net.fit(data.T, y[0], optimizer=fg.SGD(lr=0.02, momentum=0.9), epochs=5000)
        assert net.loss(data.T, y[0]) == pytest.approx(best, rel=1e-6)


def test_gradients_of_mlp_regressor():
    """One step of plain gradient descent by MLPRegressor: its loss is half of ours."""
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    data, y = rng.normal(size=(40, 5)), rng.normal(size=40)
    model = MLPRegressor(
        hidden_layer_sizes=(7,), activation="logistic", solver="sgd", alpha=0.0, momentum=0.0,
        nesterovs_momentum=False, batch_size=40, learning_rate_init=0.2, shuffle=False, max_iter=1,
        random_state=0, tol=0.0,
    )  # fmt: skip
    model.partial_fit(data, y)
    net = fg.TwoLayerSigmoid(5, 7, dtype="float64")

    def take_over():
        named = net.named_parameters()
        for i in (1, 2):
            named[f"W{i}"][...] = model.coefs_[i - 1].T
            named[f"b{i}"][...] = model.intercepts_[i - 1][:, None]

    take_over()
    model.partial_fit(data, y)
    net.train_step(data.T, y, fg.SGD(lr=0.1))
    ours = net.parameters.copy()
    take_over()
    assert relative(ours, net.parameters) <= 1e-12
