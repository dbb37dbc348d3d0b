"""``python -m fusegrad demo``: the four networks on Auto MPG, one table and one plot."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fusegrad as fg
from fusegrad._engine.validation import Array
from fusegrad.networks import Sequential
from fusegrad.optimizers import SGD, Adam, Optimizer

SEED = 0
WEIGHT = fg.datasets.AUTO_MPG_FEATURES.index("weight")


@dataclass
class Data:
    """Auto MPG, split, and standardised by the training part."""

    features: list[int]
    X: Array
    y: Array
    train: Array
    test: Array
    y_mean: float
    y_scale: float

    @classmethod
    def split(cls, features: list[int], seed: int) -> "Data":
        """Hold out a fifth of the examples."""
        X, y = fg.datasets.load_auto_mpg()
        X = X[features]
        order = np.random.default_rng(seed).permutation(y.size)
        test, train = np.split(order, [y.size // 5])
        X = (X - X[:, train].mean(axis=1, keepdims=True)) / X[:, train].std(axis=1, keepdims=True)
        mean, scale = float(y[0, train].mean()), float(y[0, train].std())
        return cls(features, X, (y - mean) / scale, train, test, mean, scale)

    def rmse(self, predict: Callable[[Array], Array], part: Array) -> float:
        """The root of the mean squared error, in mpg."""
        error = (predict(self.X[:, part]) - self.y[:, part]) * self.y_scale
        return float(np.sqrt((error**2).mean()))

    def least_squares(self) -> Callable[[Array], Array]:
        """The linear prediction with the least squared error on the training part."""

        def design(X: Array) -> Array:
            return np.vstack([X, np.ones(X.shape[1])])

        best, *_ = np.linalg.lstsq(design(self.X[:, self.train]).T, self.y[0, self.train], rcond=None)
        return lambda X: best[np.newaxis] @ design(X)


@dataclass
class Case:
    """One of the four networks and how it is trained."""

    title: str
    make: Callable[[Any], Sequential]
    features: list[int]
    optimizer: Callable[[], Optimizer]
    epochs: int
    batch_size: int | None
    linear: bool


ALL = list(range(len(fg.datasets.AUTO_MPG_FEATURES)))
CASES = (
    Case(
        "univariate (weight)", lambda dtype: fg.UnivariateRegression(dtype=dtype, rng=SEED),
        [WEIGHT], lambda: SGD(lr=0.1), 200, None, True,
    ),
    Case(
        "multivariate", lambda dtype: fg.MultivariateRegression(6, dtype=dtype, rng=SEED),
        ALL, lambda: SGD(lr=0.05, momentum=0.9, nesterov=True), 2000, None, True,
    ),
    Case(
        "two-layer linear", lambda dtype: fg.TwoLayerLinear(6, 16, dtype=dtype, rng=SEED),
        ALL, lambda: SGD(lr=0.02, momentum=0.9), 2000, None, True,
    ),
    Case(
        "two-layer sigmoid", lambda dtype: fg.TwoLayerSigmoid(6, 16, dtype=dtype, rng=SEED),
        ALL, lambda: Adam(lr=0.01), 200, 32, False,
    ),
)  # fmt: skip


@dataclass
class Result:
    """A row of the table, and the data of the plot."""

    case: Case
    data: Data
    net: Sequential
    train_loss: list[float]  # after each epoch, like those of the test part
    test_loss: list[float]
    train_rmse: float
    test_rmse: float
    best_train: float
    best_test: float
    gradient_error: float
    step: float
    speed_up: float


def reference_step(layers: list[fg.reference.DenseLayer], X: Array, y: Array, lr: float) -> float:
    """One step of gradient descent as the equations are written, in NumPy."""
    loss, gradients = fg.reference.gradients(layers, X, y)
    for (weight, bias, _), (grad_weight, grad_bias) in zip(layers, gradients, strict=True):
        weight -= lr * grad_weight
        if bias is not None and grad_bias is not None:
            bias -= lr * grad_bias
    return loss


def step_times(net: Sequential, X: Array, y: Array, rounds: int = 15) -> tuple[float, float]:
    """Seconds of a step of gradient descent, by fusegrad and by the NumPy reference: the best of alternating rounds."""
    lr = 1e-2  # so that a few steps change the loss
    layers = fg.reference.layers_of(net)
    optimizer = SGD(lr=lr)
    # Both must give the same losses before they are timed.
    ours = [net.train_step(X, y, optimizer) for _ in range(5)]
    theirs = [reference_step(layers, X, y, lr) for _ in range(5)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5 if net.dtype == np.float32 else 1e-11)
    steps: tuple[Callable[[], float], ...] = (
        lambda: net.train_step(X, y, optimizer),
        lambda: reference_step(layers, X, y, lr),
    )
    best = [np.inf, np.inf]
    repeats = 20
    for _ in range(rounds):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            best[i] = min(best[i], (time.perf_counter() - start) / repeats)
    return best[0], best[1]


def run(case: Case, verbose: int) -> Result:
    """Train, check and time one network."""
    data = Data.split(case.features, SEED)
    X, y = data.X[:, data.train], data.y[:, data.train]
    validation = data.X[:, data.test], data.y[:, data.test]
    # trained in float64, in which the linear networks reach least squares in all digits shown
    net = case.make("float64")
    check = fg.testing.check_gradients(net, X, y)
    train_loss: list[float] = []
    history = net.fit(
        X, y, optimizer=case.optimizer(), epochs=case.epochs, batch_size=case.batch_size, rng=SEED,
        validation_data=validation, callbacks=[lambda net, _: train_loss.append(net.loss(X, y))], verbose=verbose,
    )  # fmt: skip
    timed = case.make("float32")
    ours, theirs = step_times(timed, X.astype("float32"), y.astype("float32"))
    best = data.least_squares()
    return Result(
        case, data, net, train_loss, history.validation_loss,
        data.rmse(net, data.train), data.rmse(net, data.test),
        data.rmse(best, data.train), data.rmse(best, data.test),
        check.error, ours, theirs / ours,
    )  # fmt: skip


def table(results: list[Result]) -> str:
    """The table, as text."""
    lines = [
        "Auto MPG, 392 cars, a fifth held out. Errors in miles per gallon; a step is one full-batch step of",
        "gradient descent in float32, next to the NumPy reference in the same run.",
        "",
        f"{'':<21}{'RMSE':>11}{'RMSE':>11}{'least squares':>20}{'gradient':>11}{'':>10}{'faster':>9}",
        f"{'network':<21}{'train':>11}{'test':>11}{'train / test':>20}{'error':>11}{'step':>10}{'by':>9}",
    ]
    for r in results:
        best = f"{r.best_train:.4f} / {r.best_test:.4f}" if r.case.linear else "-"
        lines.append(
            f"{r.case.title:<21}{r.train_rmse:>11.4f}{r.test_rmse:>11.4f}{best:>20}"
            f"{r.gradient_error:>11.0e}{r.step * 1e6:>7.1f} µs{r.speed_up:>8.1f}x"
        )
    return "\n".join(lines)


BLUE, ORANGE, GREY, INK = "#1f5fa8", "#d9620c", "#8a8f98", "#22262c"


def plot(results: list[Result], path: Path) -> None:
    """Loss curves above, fits below, one column per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.6), layout="constrained", facecolor="white")
    title = figure.suptitle(
        "Four networks, miles per gallon of 392 cars", ha="left", fontsize=17, color=INK, weight="bold"
    )
    axes = figure.subplots(2, len(results), gridspec_kw={"hspace": 0.09, "wspace": 0.05})
    for column, r in enumerate(results):
        _plot_losses(axes[0, column], r, first=column == 0)
        _plot_fit(axes[1, column], r)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(colors=INK, labelsize=9)
    figure.draw_without_rendering()  # the positions of the axes are known only after the layout
    title.set_x(axes[0, 0].get_position().x0)
    figure.savefig(path, dpi=150)


def _plot_losses(axis: Any, r: Result, first: bool) -> None:
    scale = r.data.y_scale
    epochs = np.arange(1, len(r.train_loss) + 1)
    axis.plot(epochs, scale * np.sqrt(r.train_loss), color=BLUE, lw=2, label="train")
    axis.plot(epochs, scale * np.sqrt(r.test_loss), color=ORANGE, lw=1.6, label="test")
    axis.axhline(r.best_train, color=GREY, lw=1, ls=(0, (4, 3)), zorder=0)
    if r.case.linear:
        axis.text(1, r.best_train * 0.97, "least squares, train", color=GREY, fontsize=8.5, va="top")
    else:  # the curves end below the line
        axis.text(epochs[-1], r.best_train * 1.03, "least squares, train", color=GREY, fontsize=8.5, ha="right")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(2, 30)
    axis.set_yticks([2, 3, 5, 10, 20], labels=["2", "3", "5", "10", "20"])
    axis.minorticks_off()
    axis.set_title(r.case.title, fontsize=13, color=INK, loc="left")
    axis.set_xlabel("epoch", fontsize=9.5, color=INK)
    if first:
        axis.set_ylabel("RMSE (mpg)", fontsize=10, color=INK)
        axis.legend(frameon=False, fontsize=9.5)


def _plot_fit(axis: Any, r: Result) -> None:
    data = r.data
    if data.features == [WEIGHT]:
        pounds = fg.datasets.load_auto_mpg()[0][WEIGHT]
        for part, color, size in ((data.train, BLUE, 11), (data.test, ORANGE, 15)):
            axis.scatter(
                pounds[part], data.y[0, part] * data.y_scale + data.y_mean, s=size, color=color, alpha=0.55, lw=0
            )
        ends = [int(pounds.argmin()), int(pounds.argmax())]
        axis.plot(pounds[ends], r.net(data.X[:, ends])[0] * data.y_scale + data.y_mean, color=INK, lw=2)
        axis.set_xlabel("weight (lb)", fontsize=9.5, color=INK)
        axis.set_ylabel("mpg", fontsize=10, color=INK)
        axis.set_ylim(5, 50)
        _note_error(axis, r, place=0.92)
        return
    for part, color, size in ((data.train, BLUE, 11), (data.test, ORANGE, 15)):
        measured = data.y[0, part] * data.y_scale + data.y_mean
        fitted = r.net(data.X[:, part])[0] * data.y_scale + data.y_mean
        axis.scatter(measured, fitted, s=size, color=color, alpha=0.55, lw=0)
    axis.plot([5, 48], [5, 48], color=INK, lw=1)
    axis.set_xlim(5, 50)
    axis.set_ylim(5, 50)
    axis.set_xlabel("mpg, measured", fontsize=9.5, color=INK)
    axis.set_ylabel("mpg, predicted", fontsize=10, color=INK)
    _note_error(axis, r, place=0.05)


def _note_error(axis: Any, r: Result, place: float) -> None:
    axis.text(
        0.97, place, f"test RMSE {r.test_rmse:.2f}", transform=axis.transAxes, ha="right", fontsize=11, color=ORANGE,
        weight="bold",
    )  # fmt: skip


def main(output: Path, verbose: int = 1) -> None:
    """Run the demo: progress bars, the table, the plot."""
    results = []
    for case in CASES:
        if verbose:
            print(f"{case.title}: {case.optimizer()!r}, {case.epochs} epochs", flush=True)
        results.append(run(case, verbose))
    print()
    print(table(results))
    plot(results, output)
    print(f"\nLoss curves and fits: {output.resolve()}")
