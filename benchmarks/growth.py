"""How the cost of a step grows with examples, width, depth and threads: ``make bench-growth``.

Each curve is a step of SGD in ``fit``, float32: the least of several rounds. A dashed line is the cost that would
grow in proportion, through the last point: where the curve lies on it, overhead no longer counts.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusegrad as fg

ROUNDS = 5
ROUND_SECONDS = 0.03


def step_seconds(net: Any, m: int, n_threads: int | None) -> float:
    """A step over m examples, inside `fit`."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((net.n_features, m), dtype="float32")
    y = rng.standard_normal((net.n_outputs, m), dtype="float32")
    optimizer = fg.SGD(lr=1e-6)

    def run(epochs: int) -> float:
        start = time.perf_counter()
        net.fit(X, y, optimizer=optimizer, epochs=epochs, n_threads=n_threads, moments=False)
        return (time.perf_counter() - start) / epochs

    run(1)
    epochs = max(1, int(ROUND_SECONDS / run(2)))
    return min(run(epochs) for _ in range(ROUNDS))


def deep(depth: int) -> Any:
    """`depth` hidden layers of 32 tanh."""
    layers: list[Any] = []
    for i in range(depth):
        layers += [fg.Linear(32 if i else 16, 32), fg.Tanh()]
    return fg.Sequential(*layers, fg.Linear(32, 1), rng=0)


def wide(n: int) -> Callable[[int], float]:
    """A step of the two-layer sigmoid network over its hidden units."""
    return lambda k: step_seconds(fg.TwoLayerSigmoid(n, k, rng=0), 1024, 1)


def threaded(n: int, k: int, m: int) -> Callable[[int], float]:
    """A step of the two-layer sigmoid network over its threads."""
    return lambda n_threads: step_seconds(fg.TwoLayerSigmoid(n, k, rng=0), m, n_threads)


Curve = tuple[str, list[int], Callable[[int], float]]


def panels(n_processors: int) -> list[tuple[str, list[Curve]]]:
    """(label of the axis, its curves) of each panel."""
    examples = [10**i * j for i in range(1, 7) for j in (1, 3)] + [10**7]
    widths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    threads = list(range(1, n_processors + 1))
    sizes = ((256, 1024, 4096), (8, 32, 10**5))
    return [
        (
            "examples",
            [
                ("univariate", examples, lambda m: step_seconds(fg.UnivariateRegression(rng=0), m, 1)),
                ("multivariate, 8", examples, lambda m: step_seconds(fg.MultivariateRegression(8, rng=0), m, 1)),
                ("two-layer linear, 8-32", examples, lambda m: step_seconds(fg.TwoLayerLinear(8, 32, rng=0), m, 1)),
                ("two-layer sigmoid, 8-32", examples, lambda m: step_seconds(fg.TwoLayerSigmoid(8, 32, rng=0), m, 1)),
            ],
        ),
        ("hidden units", [(f"two-layer sigmoid, {n} features", widths, wide(n)) for n in (8, 256)]),
        ("hidden layers", [("32 tanh each", [1, 2, 4, 8, 16, 32], lambda depth: step_seconds(deep(depth), 1024, 1))]),
        ("threads", [(f"two-layer sigmoid {size}", threads, threaded(*size)) for size in sizes]),
    ]  # fmt: skip


def main() -> None:
    """Measure all curves, print them, draw them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("growth.png"))
    output = parser.parse_args().output
    colours = ["#d1495b", "#30638e", "#edae49", "#00798c"]
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, (label, curves) in zip(axes.flat, panels(len(os.sched_getaffinity(0))), strict=True):
        for colour, (name, places, measure) in zip(colours, curves, strict=False):
            seconds = [measure(place) for place in places]
            print(f"{label}: {name}: " + ", ".join(f"{p} {s * 1e6:.3g}" for p, s in zip(places, seconds, strict=True)))
            axis.plot(places, [1e6 * s for s in seconds], "o-", color=colour, label=name, markersize=4)
            power = -1 if label == "threads" else 1
            anchor = 0 if label == "threads" else -1
            line = [1e6 * seconds[anchor] * (p / places[anchor]) ** power for p in places]
            axis.plot(places, line, "--", color=colour, linewidth=0.8, alpha=0.6)
        axis.set_xscale("log", base=10 if label == "examples" else 2)
        axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel("µs a step")
        axis.legend(frameon=False, fontsize=8.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=130)
    print(output)


if __name__ == "__main__":
    main()
