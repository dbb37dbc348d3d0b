"""scikit-learn: its arrays as they are, its least squares, its MLP."""

import numpy as np
import pytest
from support import at_least, relative, within

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


def split(data, y, seed):
    """A standardised training part, and a fifth held out; features by examples."""
    from sklearn.model_selection import train_test_split

    train, test, y_train, y_test = train_test_split(data, y, test_size=0.2, random_state=seed)
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1
    return ((train - mean) / std).T, y_train, ((test - mean) / std).T, y_test


def test_digits():
    from sklearn.datasets import load_digits

    data, y = load_digits(return_X_y=True)
    accuracies = []
    for seed in range(5):
        X, y_train, held_out, y_test = split(data, y, seed)
        net = fg.Sequential(
            fg.Linear(64, 64), fg.ReLU(), fg.Linear(64, 10), loss="softmax_cross_entropy", l2=1e-4, rng=seed
        )
        net.fit(X, y_train, optimizer=fg.Adam(0.003), epochs=60, batch_size=64, rng=seed)
        accuracies.append(np.mean(net.classes(held_out) == y_test))
    at_least("accuracy on a fifth of digits, mean of 5 seeds", np.mean(accuracies), 0.97)


def test_breast_cancer():
    from sklearn.datasets import load_breast_cancer

    data, y = load_breast_cancer(return_X_y=True)
    accuracies = []
    for seed in range(5):
        X, y_train, held_out, y_test = split(data, y, seed)
        net = fg.Sequential(
            fg.Linear(30, 32), fg.ReLU(), fg.Linear(32, 1), loss="binary_cross_entropy", l2=1e-3, rng=seed
        )
        net.fit(X, y_train, optimizer=fg.Adam(0.003), epochs=60, batch_size=32, rng=seed)
        accuracies.append(np.mean(net.classes(held_out) == y_test))
    at_least("accuracy on a fifth of breast cancer, mean of 5 seeds", np.mean(accuracies), 0.96)


def test_quantiles_of_auto_mpg():
    """Between the 0.1- and the 0.9-quantile lie 80 % of the held-out cars, nearly."""
    X, y = fg.datasets.load_auto_mpg()
    between = []
    for seed in range(10):
        train, y_train, held_out, y_test = split(X.T, y[0], seed)
        bounds = []
        for q in (0.1, 0.9):
            net = fg.Sequential(
                fg.Linear(6, 16), fg.Tanh(), fg.Linear(16, 1), loss=fg.losses.Quantile(q), l2=1e-2, rng=seed
            )
            net.fit(train, y_train, optimizer=fg.Adam(0.01), epochs=200, batch_size=32, rng=seed)
            bounds.append(net(held_out)[0])
        between.append(np.mean((bounds[0] <= y_test) & (y_test <= bounds[1])))
    at_least("cars between the quantiles 0.1 and 0.9", np.mean(between), 0.74)
    within("cars between the quantiles 0.1 and 0.9, at most", np.mean(between), 0.86)
