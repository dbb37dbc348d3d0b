"""One picture of each lesson, for ``python -m fusegrad demo --lesson NAME``; the lessons are in docs/lessons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusegrad as fg
from fusegrad import circuits
from fusegrad._engine.validation import Array


def _penguins() -> tuple[Array, Array]:
    X, y = fg.datasets.load_penguins()
    return (X - X.mean()) / X.std(), (y - y.mean()) / y.std()


def _univariate() -> Any:
    X, y = _penguins()
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    path = [net.parameters.copy()]

    def note(net: Any, history: Any) -> None:
        path.append(net.parameters.copy())

    net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=30, callbacks=[note])
    return fg.plots.trajectory(np.array(path), ax=fg.plots.loss_landscape(net, X, y))


def _multivariate() -> Any:
    X, y = fg.datasets.load_auto_mpg()
    X, y = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True), (y - y.mean()) / y.std()
    net = fg.MultivariateRegression(6, dtype="float64", rng=0)
    fg.second_order.newton(net, X, y)
    return fg.plots.input_gradient(net, X[:, 0], fg.datasets.AUTO_MPG_FEATURES)


def _two_layer_linear() -> Any:
    net = fg.TwoLayerLinear(1, 3, dtype="float64", rng=0)
    return fg.plots.loss_landscape(net, *_penguins(), parameters=(0, 6), span=3)


def _two_layer_sigmoid() -> Any:
    data = np.random.default_rng(0)
    X = data.normal(size=(2, 500))
    inside = (X**2).sum(axis=0) < 1.2
    layers = fg.Linear(2, 5), fg.Tanh(), fg.Linear(5, 1)
    net = fg.Sequential(*layers, loss="binary_cross_entropy", dtype="float64", rng=0)
    net.fit(X, inside, optimizer=fg.Adam(lr=0.05), epochs=400)
    return fg.plots.network(net, span=2.5)


def _deep() -> Any:
    data = np.random.default_rng(0)
    layers = [part for _ in range(10) for part in (fg.Linear(10, 10), fg.Sigmoid())]
    net = fg.Sequential(*layers, dtype="float64", rng=0)
    return fg.plots.delta_norms(net, data.normal(size=(10, 100)), data.normal(size=(10, 100)))


def _circuits() -> Any:
    x, y, z = circuits.Wire(-2, "x"), circuits.Wire(5, "y"), circuits.Wire(-4, "z")
    circuit = circuits.Circuit((x + y) * z)
    circuit.forward()
    circuit.backward()
    return circuit.plot()


def _second_order() -> Any:
    x = np.linspace(-2, 2, 50)[np.newaxis]
    return fg.plots.taylor(fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3), x, np.sin(x))


#: By name: the subject, and the function that draws.
LESSONS: dict[str, tuple[str, Callable[[], Any]]] = {
    "univariate": ("one feature: the loss over w and b, and the steps down", _univariate),
    "multivariate": ("many features: which of them drove a prediction", _multivariate),
    "two-layer-linear": ("two linear layers: the loss over a weight of each", _two_layer_linear),
    "two-layer-sigmoid": ("two layers: what each unit sees", _two_layer_sigmoid),
    "deep": ("ten layers of sigmoids: delta vanishes", _deep),
    "circuits": ("the chain rule: flow in a circuit", _circuits),
    "optimizers": ("six optimizers race on Beale's function", lambda: fg.plots.race("beale")),
    "second-order": ("the loss, its tangent and its parabola", _second_order),
}


def draw(name: str, output: Path) -> None:
    """Draw the picture of a lesson into a file."""
    title, function = LESSONS[name]
    ax = function()
    if name != "circuits":
        ax.set_title(title)
    ax.figure.savefig(output, dpi=120)
    print(f"{title}: {output.resolve()}")
