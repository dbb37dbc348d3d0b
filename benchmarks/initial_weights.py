"""Which initial weights train best: ``make bench-init``.

A layer of n inputs and k outputs may start in one of six ways: W uniform in +-sqrt(6 / (n + k)) (Glorot), +-sqrt(6 / n)
(He) or +-1 / sqrt(n) (PyTorch's Linear), and b either 0 or uniform in +-1 / sqrt(n). Each is tried on twelve regression
problems of 1 to 20 features, standardised, with one and two hidden layers, and trained by the same number of steps of
Adam. The learning rate is the best of four for each way, so that none is favoured.

For each activation: the hidden layers, with the last layer by Glorot and b = 0; the last layer, with the best hidden
layers; and the names that `Sequential` knows as `init`, in all layers. Then networks of linear layers alone. Each table
has the median and the mean of a way's rank over the problems, by the loss on the training part and on the held-out part
(the median over seeds), and how many times the least loss it reached, in the geometric mean.
"""

import argparse
import math
from collections.abc import Callable
from multiprocessing import Pool
from typing import Any, NamedTuple

import numpy as np

import fusegrad as fg

Array = Any
N_TRAIN, N_HELD_OUT = 500, 1000
N_HIDDEN = 32
N_STEPS, BATCH_SIZE = 1000, 32
ACTIVATIONS = {"sigmoid": fg.Sigmoid, "tanh": fg.Tanh, "relu": fg.ReLU}
RATES = {name: (0.003, 0.01, 0.03, 0.1) for name in ("tanh", "relu", "identity")} | {"sigmoid": (0.01, 0.03, 0.1, 0.3)}


class Way(NamedTuple):
    """How a layer's weights and biases are drawn."""

    weights: str
    biases: str

    def __str__(self) -> str:
        return f"{self.weights}, b {self.biases}"

    def draw(self, W: Array, b: Array, rng: np.random.Generator) -> None:
        """Write them."""
        n_out, n_in = W.shape
        bound = {"Glorot": math.sqrt(6 / (n_in + n_out)), "He": math.sqrt(6 / n_in), "PyTorch": 1 / math.sqrt(n_in)}
        W[:] = rng.uniform(-1, 1, W.shape) * bound[self.weights]
        # drawn in either case, so that a seed has the same weights with both
        b[:] = rng.uniform(-1, 1, b.shape) / math.sqrt(n_in) * (self.biases == "uniform")


WAYS = [Way(weights, biases) for weights in ("Glorot", "He", "PyTorch") for biases in ("0", "uniform")]
GLOROT, HE, TORCH = Way("Glorot", "0"), Way("He", "0"), Way("PyTorch", "uniform")
INITS = {"glorot_uniform": (GLOROT, GLOROT), "he_uniform": (HE, HE), "torch": (TORCH, TORCH)}
DEFAULT = {"sigmoid": Way("He", "uniform"), "tanh": TORCH, "relu": TORCH}, Way("PyTorch", "0")  # hidden, last


# ---- problems: (features, m) -> (1, m), and what the features are drawn from ----


def uniform(low: float, high: float) -> Callable[..., Array]:
    return lambda rng, shape: rng.uniform(low, high, shape)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape)


def friedman(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The inputs of Friedman's second and third function."""
    low, high = np.array([[0, 40 * np.pi, 0, 1], [100, 560 * np.pi, 1, 11]])
    return rng.uniform(low[:, np.newaxis], high[:, np.newaxis], shape)


def reactance(X: Array) -> Array:
    return X[1] * X[2] - 1 / (X[1] * X[3])


HALF_SPACES = np.random.default_rng(0).normal(size=(8, 6))  # a direction of five features and an offset each

SYNTHETIC: dict[str, tuple[int, Callable[..., Array], Callable[[Array], Array]]] = {
    "sine": (1, uniform(-3, 3), lambda X: np.sin(3 * X[0])),
    "kinks": (1, uniform(-2, 2), lambda X: np.abs(X[0] - 0.7) + np.abs(X[0] + 1)),
    "steps": (2, uniform(-1, 1), lambda X: np.sign(X[0] - 0.3) + np.sign(X[1] + X[0])),
    "product": (2, normal, lambda X: X[0] * X[1]),
    "Friedman 2": (4, friedman, lambda X: np.hypot(X[0], reactance(X))),
    "Friedman 3": (4, friedman, lambda X: np.arctan2(reactance(X), X[0])),
    "half-spaces": (5, normal, lambda X: np.maximum(HALF_SPACES[:, :5] @ X + HALF_SPACES[:, 5:], 0).sum(axis=0)),
    "additive": (8, normal, lambda X: np.sin(2 * X).sum(axis=0)),
    "Friedman 1": (
        10, uniform(0, 1), lambda X: 10 * np.sin(np.pi * X[0] * X[1]) + 20 * (X[2] - 0.5) ** 2 + 10 * X[3] + 5 * X[4]
    ),
    "sparse": (20, normal, lambda X: np.sin(2 * X[0]) + X[1] * X[2]),
}  # fmt: skip
PROBLEMS = ("Auto MPG", "penguins", *SYNTHETIC)


def draw_problem(name: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """X and y of the training and the held-out part, standardised by the first. Synthetic y have noise of 5 %."""
    rng = np.random.default_rng(seed)
    n_train = N_TRAIN
    if name in SYNTHETIC:
        n_features, draw, f = SYNTHETIC[name]
        X = draw(rng, (n_features, n_train + N_HELD_OUT))
        y = f(X)[np.newaxis]
        y = y + 0.05 * y.std() * rng.normal(size=y.shape)
    else:
        X, y = fg.datasets.load_auto_mpg() if name == "Auto MPG" else fg.datasets.load_penguins()
        n_train = round(0.75 * y.size)
        order = rng.permutation(y.size)
        X, y = X[:, order], y[:, order]
    X, y = (
        ((a - a[:, :n_train].mean(axis=1, keepdims=True)) / a[:, :n_train].std(axis=1, keepdims=True)).astype("float32")
        for a in (X, y)
    )
    return X[:, :n_train], y[:, :n_train], X[:, n_train:], y[:, n_train:]


# ---- training ----


def make(n_features: int, activation: str, n_layers: int) -> fg.Sequential:
    """A network of n_layers hidden layers."""
    layers: list[Any] = []
    for i in range(n_layers):
        layers += [fg.Linear(N_HIDDEN if i else n_features, N_HIDDEN)]
        layers += [ACTIVATIONS[activation]()] if activation in ACTIVATIONS else []
    return fg.Sequential(*layers, fg.Linear(N_HIDDEN, 1))


class Setting(NamedTuple):
    """What is trained, once for each of `ways` (of the hidden layers, and of the last one)."""

    problem: str
    activation: str
    n_layers: int
    ways: list[tuple[Way, Way]]
    n_seeds: int


def losses(setting: Setting) -> Array:
    """(training or held-out, way): the median over seeds, at the best learning rate of each."""
    rates = RATES[setting.activation]
    results = np.empty((2, len(setting.ways), len(rates), setting.n_seeds))
    for seed in range(setting.n_seeds):
        X, y, X_held_out, y_held_out = draw_problem(setting.problem, seed)
        epochs = round(N_STEPS * BATCH_SIZE / X.shape[1])
        net = make(X.shape[0], setting.activation, setting.n_layers)
        parameters = net.named_parameters()
        for w, (hidden, last) in enumerate(setting.ways):
            for r, lr in enumerate(rates):
                rng = np.random.default_rng(seed)
                for i in range(1, setting.n_layers + 2):
                    way = hidden if i <= setting.n_layers else last
                    way.draw(parameters[f"W{i}"], parameters[f"b{i}"], rng)
                net.fit(
                    X, y, optimizer=fg.Adam(lr=lr), epochs=epochs, batch_size=BATCH_SIZE, rng=seed, n_threads=1,
                    on_divergence="stop",
                )  # fmt: skip
                results[:, w, r, seed] = net.loss(X, y), net.loss(X_held_out, y_held_out)
    return np.median(results, axis=-1).min(axis=-1)


def report(title: str, names: list[str], tables: Array) -> int:
    """Print a table of (setting, training or held-out, way); returns the way with the least sum of mean ranks."""
    print(f"\n{title}, {len(tables)} settings\n")
    columns = [
        f"{part}: {what}" for part in ("training", "held out") for what in ("median rank", "mean", "times least")
    ]
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    ranks = tables.argsort(axis=-1).argsort(axis=-1) + 1
    ratios = np.exp(np.log(tables / tables.min(axis=-1, keepdims=True)).mean(axis=0))
    for w, name in enumerate(names):
        cells = [f(part) for part in (0, 1) for f in (
            lambda part, w=w: np.median(ranks[:, part, w]), lambda part, w=w: ranks[:, part, w].mean(),
            lambda part, w=w: ratios[part, w],
        )]  # fmt: skip
        print(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)
    return int(ranks.mean(axis=0).sum(axis=0).argmin())


def main() -> None:
    """Ask the questions, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2], help="hidden layers")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with Pool(arguments.processes) as pool:

        def ask(title: str, activation: str, ways: dict[str, tuple[Way, Way]]) -> int:
            settings = [
                Setting(problem, activation, n_layers, list(ways.values()), arguments.seeds)
                for problem in PROBLEMS for n_layers in arguments.layers
            ]  # fmt: skip
            tables = np.array(pool.map(losses, settings, chunksize=1))
            return report(title, list(ways), tables)

        for activation in ACTIVATIONS:
            best = WAYS[ask(f"Hidden layers, {activation}", activation, {str(way): (way, GLOROT) for way in WAYS})]
            ask(f"The last layer, {best} before {activation}", activation, {str(way): (best, way) for way in WAYS})
            ask(f"`init`, {activation}", activation, {"default": (DEFAULT[0][activation], DEFAULT[1]), **INITS})
        ask("Linear layers alone", "identity", {str(way): (way, way) for way in WAYS})


if __name__ == "__main__":
    main()
