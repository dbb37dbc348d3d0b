"""The default number of threads beside busy processes, against one thread (`make bench-promises`).

Each row is one call with the default and with one thread, in turn, while 0, 1 and 2 other processes never rest. At
least 0.9 of the speed of one thread is promised beside one of them. Not pinned: which processor a thread gets is the
question.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fusegrad as fg

ROUNDS = 20
SAMPLE_SECONDS = 0.12
LEAST = 0.9


@contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(0.3 if n else 1.0)  # by then threads are tried again that lost beside the last busy processes
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fits() -> Iterator[tuple[str, Callable[[int | None], Any]]]:
    """A row's name, and the call with a number of threads."""
    rng = np.random.default_rng(0)
    for n, k in ((8, 16), (32, 64), (64, 128)):
        X, y = rng.normal(size=(n, 100_000)).astype("f4"), rng.normal(size=(1, 100_000)).astype("f4")
        for batch_size in (32, 256, 1024, 4096, 100_000):
            m = min(100_000, 8 * batch_size)
            net, optimizer = fg.TwoLayerSigmoid(n, k, rng=0), fg.Adam(lr=1e-6)
            few = X[:, :m], y[:, :m]

            def fit(
                n_threads: int | None, net: Any = net, optimizer: Any = optimizer, few: Any = few, b: int = batch_size
            ) -> None:
                epochs = 1 if b > 4096 else 20
                net.fit(*few, optimizer=optimizer, epochs=epochs, batch_size=b, rng=0, n_threads=n_threads)

            yield f"fit ({n}, {k}), batches of {batch_size}", fit
    for size in (128, 256, 512, 1024):
        a = rng.normal(size=(size, size)).astype("f4")

        def product(n_threads: int | None, a: Any = a) -> None:
            fg.set_num_threads(n_threads)
            fg.kernels.matmul(a, a)
            fg.set_num_threads(None)

        yield f"matmul {size}^3", product


def speeds(call: Callable[[int | None], Any]) -> tuple[float, float]:
    """The speed with the default over that of one thread, of all rounds together, and its standard error.

    A process that loses its processor waits for milliseconds, now and then: a median would not show it.
    """

    def seconds(n_threads: int | None, n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            call(n_threads)
        return (time.perf_counter() - start) / n

    n = max(1, int(SAMPLE_SECONDS / max(seconds(1, 1), 1e-6)))
    one, default = np.array([(seconds(1, n), seconds(None, n)) for _ in range(ROUNDS)]).T
    drawn = np.random.default_rng(0).integers(0, ROUNDS, (200, ROUNDS))  # bootstrap
    return one.sum() / default.sum(), float(np.std(one[drawn].sum(1) / default[drawn].sum(1)))


def main() -> None:
    """Print the table."""
    print(f"\nThe default ({fg.get_num_threads()} threads) beside busy processes: its speed over that of one thread")
    print(f"{'speed and standard error':<36}" + "".join(f"{f'{n} busy':>18}" for n in range(3)))
    for name, call in fits():
        row = []
        for n in range(3):
            with busy(n):
                row.append(speeds(call))
        cells = [f"{speed:.2f} ± {error:.2f}{' !' if speed < LEAST else '  '}" for speed, error in row]
        print(f"{name:<36}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
