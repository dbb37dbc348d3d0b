"""Fits of data that are read in blocks, beside the same data in memory, and beside reading alone.

In turn: in memory, reading all blocks without computing, and the fit that does both. At least 0.8 of the speed of the
slower one of the first two is wanted. Losses without shuffling are compared first.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

import fusegrad as fg

ROUNDS = 5
BATCH = 256


def sources(folder: Path, X: Any, y: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names, and what makes the blocks of an epoch."""
    X.tofile(folder / "X")
    np.ascontiguousarray(X.T).tofile(folder / "XT")
    y.tofile(folder / "y")
    n, m = X.shape
    targets = np.memmap(folder / "y", "f4", "r", shape=(m,))
    by_feature = np.memmap(folder / "X", "f4", "r", shape=(n, m))
    by_example = np.memmap(folder / "XT", "f4", "r", shape=(m, n)).T
    yield "memmap, a feature is a run", lambda: fg.Blocks(by_feature, targets)
    yield "memmap, an example is a run", lambda: fg.Blocks(by_example, targets)
    file = h5py.File(folder / "h5", "w")
    rows = file.create_dataset("X", data=X.T, chunks=(8192, n))
    yield "HDF5, examples are rows", lambda: fg.Blocks(rows, targets, axis=0)
    array = zarr.create_array(str(folder / "zarr"), shape=(m, n), dtype="f4", chunks=(65_536, n), compressors=None)
    array[:] = X.T
    yield "zarr, examples are rows", lambda: fg.Blocks(array, targets, axis=0)

    class Generated:
        def __iter__(self) -> Iterator[tuple[Any, Any]]:
            for i in range(0, m, 100_000):
                yield X[:, i : i + 100_000], y[:, i : i + 100_000]

    yield "blocks of an array in memory", Generated


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print a table: million examples a second, and the ratio."""
    n, m = 8, 3_000_000
    data = np.random.default_rng(0)
    X = data.normal(size=(n, m)).astype("float32")
    y = np.tanh(X[:1])

    def fit(*examples: Any, k: int = 16, **options: Any) -> list[float]:
        net = fg.TwoLayerSigmoid(n, k, rng=0)
        return net.fit(*examples, optimizer=fg.Adam(), epochs=1, batch_size=BATCH, rng=0, n_threads=1, **options).loss

    with tempfile.TemporaryDirectory() as name:
        print(f"million examples a second, ({n}, k), batches of {BATCH}, one thread computes")
        print(f"{'':30}{'order':>9}{'k':>4}{'memory':>8}{'reading':>8}{'both':>8}{'of the slower':>14}")
        for source, blocks in sources(Path(name), X, y):
            assert fit(blocks(), shuffle=False) == fit(X, y, shuffle=False)
            for k, shuffle in ((16, True), (64, True), (16, False), (64, False)):
                options = {"k": k, "shuffle": shuffle}
                took: list[list[float]] = [[], [], []]
                for _ in range(ROUNDS):
                    took[0].append(seconds_of(lambda options=options: fit(X, y, **options)))
                    took[1].append(seconds_of(lambda blocks=blocks: [part[0] for part in blocks()]))
                    took[2].append(seconds_of(lambda options=options, blocks=blocks: fit(blocks(), **options)))
                memory, reading, both = (m / 1e6 / statistics.median(part) for part in took)
                row = f"{source:30}{'shuffled' if shuffle else 'in order':>9}{k:4}"
                print(f"{row}{memory:8.1f}{reading:8.1f}{both:8.1f}{both / min(memory, reading):14.2f}")


if __name__ == "__main__":
    main()
