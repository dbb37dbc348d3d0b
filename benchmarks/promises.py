"""What the promises of docs/promises.md cost, as ratios: A B A B in one run, on one core (`make bench-promises`)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype
from fusegrad.training import _Run

ROUNDS = 21
SAMPLE_SECONDS = 0.03


def seconds(call: Callable[[], Any], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
    return time.perf_counter() - start


def ratio(ours: Callable[[], Any], plain: Callable[[], Any]) -> tuple[float, float]:
    """The median of the ratios, and the ratio of the minima, of `ours` over `plain`."""
    n = 1
    while seconds(plain, n) < SAMPLE_SECONDS or seconds(ours, n) < SAMPLE_SECONDS:
        n *= 2
    times = [(seconds(ours, n), seconds(plain, n)) for _ in range(ROUNDS)]
    a, b = zip(*times, strict=True)
    return statistics.median(x / y for x, y in times), min(a) / min(b)


def examples(n: int, m: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, m)).astype("f4"), rng.normal(size=(1, m)).astype("f4")


def same_bits() -> tuple[float, float]:
    """A step in blocks, each with a partial gradient of its own, against one that adds up as it goes."""
    X, y = examples(8, 100_000)
    net = fg.TwoLayerSigmoid(8, 32, rng=0)
    plan = net.plan(100_000, n_threads=1)
    kernels = by_dtype[net.dtype]
    whole = replace(plan, block=plan.tile * -(-100_000 // plan.tile), n_blocks=1)
    engines = [kernels.Engine(p) for p in (plan, whole)]
    gradients = [np.empty_like(net.parameters) for _ in engines]
    for engine, gradient in zip(engines, gradients, strict=True):
        engine.gradient(X, y, net.parameters, gradient)
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-6)
    optimizer = fg.SGD(lr=1e-6)
    return ratio(*(lambda engine=engine: engine.step(X, y, net.parameters, optimizer) for engine in engines))


def checks(net: fg.Sequential, m: int) -> tuple[float, float]:
    """A fit of 10 epochs against one that neither looks whether all is finite nor could take it back."""
    X, y = examples(net.n_features, m)
    optimizer = fg.SGD(lr=1e-9)

    def fit() -> None:
        net.fit(X, y, optimizer=optimizer, epochs=10, n_threads=1, moments=False)

    def unchecked() -> None:
        with patch.multiple(_Run, snapshot=lambda run: None, overflow=lambda run: None):
            fit()

    def checked() -> None:
        with patch.multiple(_Run, snapshot=_Run.snapshot, overflow=_Run.overflow):
            fit()

    return ratio(checked, unchecked)


def subnormal(dtype: str, scale: float, m: int) -> tuple[float, float]:
    """Fits with weights and inputs of 1e-40 (in float64: 1e-310), against those of size one."""
    X, y = examples(8, m)
    nets = [fg.TwoLayerSigmoid(8, 32, dtype=dtype, rng=0) for _ in range(2)]
    tiny = X.astype("f8") * scale
    nets[0].parameters[:] *= nets[0].dtype.type(scale)
    data = [tiny.astype(dtype), X.astype(dtype)]
    assert 0 < np.abs(data[0]).max() < np.finfo(dtype).smallest_normal
    optimizer = fg.SGD(lr=1e-38 if dtype == "float32" else 1e-300)
    start = [net.parameters.copy() for net in nets]

    def step(i: int) -> None:
        nets[i].parameters[:] = start[i]
        for _ in range(3):
            nets[i].train_step(data[i], y * scale if i == 0 else y, optimizer)

    return ratio(lambda: step(0), lambda: step(1))


def saturated(dtype: str) -> tuple[float, float]:
    """Steps of a network most of whose units are saturated, as those of data that are not scaled, against others."""
    X, y = (array.astype(dtype) for array in examples(16, 256))
    nets = [fg.TwoLayerSigmoid(16, 64, dtype=dtype, rng=0) for _ in range(2)]
    data = [np.asfortranarray(X * (300 if dtype == "float32" else 3000)), X]
    optimizer = fg.SGD(lr=1e-30)
    return ratio(
        *(lambda i=i: nets[i].fit(data[i], y, optimizer=optimizer, epochs=20, shuffle=False) for i in range(2))
    )


SHAPES = ((784, 128, 10, 128), (30, 64, 1, 128), (13, 50, 1, 32))  # inputs, hidden, outputs, examples of a step


def objective(
    shape: tuple[int, int, int, int], loss: str = "mean_squared_error", *, weighted: bool = False, l2: float = 0.0,
    clip_norm: float | None = None, dropout: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Fits with another loss, weights of examples, a penalty, clipping or dropout, against the squared error alone."""
    n, k, n_outputs, m = shape
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, m)).astype("f4")
    classes = rng.integers(0, max(2, n_outputs), m)
    targets = {
        "softmax_cross_entropy": classes,
        "binary_cross_entropy": (rng.random((n_outputs, m)) < 0.5).astype("f4"),
    }
    plain_y = rng.normal(size=(n_outputs, m)).astype("f4")
    hidden, top = (fg.Linear(n, k), fg.Sigmoid()), fg.Linear(k, n_outputs)
    ours = fg.Sequential(*hidden, fg.Dropout(dropout), top, loss=loss, l2=l2, rng=0)
    plain = fg.Sequential(*hidden, top, rng=0)
    weights = rng.uniform(0.5, 1.5, m).astype("f4") if weighted else None
    optimizers = fg.SGD(1e-9, clip_norm=clip_norm), fg.SGD(1e-9)
    return ratio(
        lambda: ours.fit(X, targets.get(loss, plain_y), optimizer=optimizers[0], epochs=500, sample_weight=weights),
        lambda: plain.fit(X, plain_y, optimizer=optimizers[1], epochs=500),
    )


def main() -> None:
    fg.set_num_threads(1)
    rows = [
        ("same bits on any number of threads, (8, 32, 10^5)", same_bits(), 1.03),
        ("NaN and divergence: 10 epochs of (8, 32, 10^5)", checks(fg.TwoLayerSigmoid(8, 32, rng=0), 100_000), 1.02),
        ("the same, multivariate (64, 10^5)", checks(fg.MultivariateRegression(64, rng=0), 100_000), 1.02),
        ("the same, univariate 10^6", checks(fg.UnivariateRegression(rng=0), 1_000_000), 1.02),
        ("the same, (64, 128, 1000)", checks(fg.TwoLayerSigmoid(64, 128, rng=0), 1000), 1.02),
        ("weights, inputs and targets of 1e-40, float32", subnormal("float32", 1e-40, 20_000), 5),
        ("weights, inputs and targets of 1e-310, float64", subnormal("float64", 1e-310, 20_000), None),
    ]
    rows += [(f"saturated units, {dtype}", saturated(dtype), 6) for dtype in ("float32", "float64")]
    for shape in SHAPES:
        name = "a step of ({}, {}, {}), {} examples: ".format(*shape)
        loss = "softmax_cross_entropy" if shape[2] > 1 else "binary_cross_entropy"
        rows += [
            (name + loss.replace("_", " "), objective(shape, loss), 1.1),
            (name + "weights", objective(shape, weighted=True), 1.03),
            (name + "l2", objective(shape, l2=1e-3), 1.03),
            (name + "a limit of the norm", objective(shape, clip_norm=1e6), 1.1),
            (name + "an exceeded limit", objective(shape, clip_norm=1e-6), 1.1),
            (name + "dropout", objective(shape, dropout=0.2), 1.25),
        ]
    print(f"{'times as long as without':<68} {'median':>8} {'minima':>8}  at most")
    for name, (median, best), most in rows:
        print(f"{name:<68} {median:>8.3f} {best:>8.3f}  {most or ''}{' !' if most and best > most else ''}")


if __name__ == "__main__":
    main()
