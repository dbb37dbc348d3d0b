"""Ranks on one machine, each bound to a processor: their fits beside those of one process, and what an exchange costs.

mpiexec -n 2 python benchmarks/ranks.py

In turn: rank 0 alone, then all ranks together. Losses are compared first.
"""

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

import fusegrad as fg

ROUNDS = 7
CASES = [
    ("full batch", {"epochs": 12}),
    ("mini-batches of 8192", {"epochs": 2, "batch_size": 8192, "rng": 0}),
    ("mini-batches of 1024", {"epochs": 1, "batch_size": 1024, "rng": 0}),
]


def main() -> None:
    """Print a table: milliseconds of a step alone and together, their ratio, microseconds of an exchange."""
    comm = MPI.COMM_WORLD
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[comm.rank % len(processors)]})
    data = np.random.default_rng(0)
    X = data.normal(size=(64, 100_000)).astype("float32")
    y = np.tanh(X[:1])
    if comm.rank == 0:
        print(
            f"two-layer sigmoid (64, 128, 10^5), float32, {comm.size} ranks on "
            f"{min(len(processors), comm.size)} processors"
        )
        print(f"{'':24}{'alone ms':>10}{'ranks ms':>10}{'ratio':>7}{'by rank':>8}")
    for name, options in CASES:
        steps = options["epochs"] * -(-X.shape[1] // options.get("batch_size", X.shape[1]))

        def run(options: dict = options, **others: object) -> tuple[float, list[float]]:
            net = fg.TwoLayerSigmoid(64, 128, rng=0)
            start = time.perf_counter()
            history = net.fit(X, y, optimizer=fg.SGD(0.01), n_threads=1, **options, **others)
            return time.perf_counter() - start, history.loss

        calls: list[Callable[[], tuple[float, list[float]]]] = [
            lambda run=run: run(comm=comm), lambda run=run: run(comm=comm, reduction="ranks"),
        ]  # fmt: skip
        seconds: list[list[float]] = [[], [], []]
        for _ in range(ROUNDS):
            comm.Barrier()
            losses = None
            if comm.rank == 0:
                took, losses = run()
                seconds[0].append(took)
            for i, call in enumerate(calls, start=1):
                comm.Barrier()
                took, found = call()
                seconds[i].append(took)
                assert comm.rank > 0 or i > 1 or found == losses
        if comm.rank == 0:
            alone, blocks, by_rank = (1e3 * statistics.median(part) / steps for part in seconds)
            print(f"{name:24}{alone:10.2f}{blocks:10.2f}{alone / blocks:7.2f}{alone / by_rank:8.2f}")
    for n in (256, 8 * 1024, 64 * 1024, 512 * 1024):
        own, gathered = np.zeros(n, "u1"), np.zeros(n * comm.size, "u1")
        took = []
        for _ in range(200):
            start = time.perf_counter()
            comm.Allgather(own, gathered)
            took.append(time.perf_counter() - start)
        if comm.rank == 0:
            print(f"Allgather of {n:7} bytes from each rank: {1e6 * statistics.median(took):8.1f} us")


if __name__ == "__main__":
    main()
