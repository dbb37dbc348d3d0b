"""One example at a time: the C file of `export_c` beside the network, its predictor and onnxruntime.

`make bench-exported`. The C file is compiled with -O3, without -march, and called by a loop in C. The others are called
from Python, as they are used. Predictions are compared first. Then the systems run in turn, and the median ratio of the
rounds is reported.
"""

import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import fusegrad as fg

ROUNDS = 25
SAMPLE_SECONDS = 0.02
GOALS = {"10-64-64-2 tanh": 5}  # times as fast as onnxruntime
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}  # of the largest prediction
NETWORKS = {
    "6-16-1 sigmoid": (fg.Linear(6, 16), fg.Sigmoid(), fg.Linear(16, 1)),
    "10-64-64-2 tanh": (fg.Linear(10, 64), fg.Tanh(), fg.Linear(64, 64), fg.Tanh(), fg.Linear(64, 2)),
    "10-64-64-2 GELU": (fg.Linear(10, 64), fg.GELU(), fg.Linear(64, 64), fg.GELU(), fg.Linear(64, 2)),
    "100-256-256-10 ReLU": (fg.Linear(100, 256), fg.ReLU(), fg.Linear(256, 256), fg.ReLU(), fg.Linear(256, 10)),
}
LOOP = """
#include "{file}"
void repeat(long n, const {real} *x, {real} *y);
void repeat(long n, const {real} *x, {real} *y)
{{
    for (; n > 0; --n)
        predict(x, y);
}}
"""

#: Predicts so many times, and returns the last prediction.
System = Callable[[int], np.ndarray]


def exported(net: fg.Sequential, x: np.ndarray, folder: Path) -> System:
    """The C file, compiled with a loop around its function."""
    net.export_c(folder / "net.c")
    real = "float" if net.dtype == np.float32 else "double"
    (folder / "loop.c").write_text(LOOP.format(file="net.c", real=real))
    command = ["gcc", "-std=c99", "-O3", "-shared", "-fPIC", "-o", folder / "loop.so", folder / "loop.c", "-lm"]
    subprocess.run(command, check=True)
    repeat = ctypes.CDLL(str(folder / "loop.so")).repeat
    y = np.empty(net.n_outputs, net.dtype)
    arguments = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)

    def run(n: int) -> np.ndarray:
        repeat(ctypes.c_long(n), *arguments)
        return y

    return run


def called(predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> System:
    """A call from Python for each prediction."""

    def run(n: int) -> np.ndarray:
        for _ in range(n):
            y = predict(x)
        return y.ravel()

    return run


def onnx_runtime(net: fg.Sequential, x: np.ndarray, folder: Path) -> System:
    """The ONNX file, in onnxruntime on one thread."""
    net.export_onnx(folder / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "net.onnx", options, providers=["CPUExecutionProvider"])
    return called(lambda row: session.run(None, {"X": row})[0], x[np.newaxis, :])


def main() -> None:
    names = ("exported C", "predictor", "network", "onnxruntime")
    print(f"{'':<21}{'dtype':<9}{''.join(f'{name:>14}' for name in names)}   exported C is faster than")
    print(f"{'':<30}{'us':>14}{'us':>14}{'us':>14}{'us':>14}{'predictor':>12}{'network':>10}{'onnxruntime':>13}")
    for name, layers in NETWORKS.items():
        for dtype in ("float32", "float64"):
            net = fg.Sequential(*layers, dtype=dtype, rng=0)
            x = np.random.default_rng(0).normal(size=net.n_features).astype(dtype)
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                systems = [
                    exported(net, x, folder), called(net.freeze(), x), called(net, x), onnx_runtime(net, x, folder)
                ]  # fmt: skip
                expected = net(x)
                for system, run in zip(names, systems, strict=True):
                    error = abs(run(1) - expected).max() / abs(expected).max()
                    assert error <= TOLERANCE[dtype], f"{system}, {name}, {dtype}: off by {error}"
                times = measure(systems)
            medians = [1e6 * statistics.median(column) for column in zip(*times, strict=True)]
            ratios = [statistics.median(row[i] / row[0] for row in times) for i in range(1, len(systems))]
            missed = f"  (goal {GOALS[name]})" if ratios[-1] < GOALS.get(name, 0) else ""
            print(f"{name:<21}{dtype:<9}{''.join(f'{us:>14.2f}' for us in medians)}", end="")
            print(f"{ratios[0]:>12.1f}{ratios[1]:>10.1f}{ratios[2]:>13.1f}{missed}", flush=True)


def measure(systems: list[System]) -> list[list[float]]:
    """Seconds for a prediction of each system, in turn, in each round."""
    counts = []
    for run in systems:
        start = time.perf_counter()
        run(200)
        counts.append(max(1, int(SAMPLE_SECONDS / (time.perf_counter() - start) * 200)))
    rounds = []
    for _ in range(ROUNDS):
        row = []
        for run, n in zip(systems, counts, strict=True):
            start = time.perf_counter()
            run(n)
            row.append((time.perf_counter() - start) / n)
        rounds.append(row)
    return rounds


if __name__ == "__main__":
    main()
