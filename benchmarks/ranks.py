"""Ranks that train one network, each bound to a processor, beside one process; and a model of what more would gain.

mpiexec -n 2 python benchmarks/ranks.py [--predict]

In turn: rank 0 alone, all ranks with each reduction. Losses are compared first. The model of a step over m examples
in B blocks of a network of P parameters, for n ranks:

    blocks    c m ceil(B / n) / B  +  2 a log2(n)  +  b (n - 1) ceil(B / n) s P  +  u (B + 1) s P
    ranks     c m / n  +  2 a log2(n)  +  2 b (n - 1) / n s P  +  2 u s P

c: seconds of an example, from the step of one process. a: latency and b: seconds of a byte, both of a message between
two ranks, fitted to `Allgather` of several sizes. u: seconds of a byte that is added. s: bytes of a parameter. Each
rank adds and updates all parameters; the two messages are a header and the gradients.
"""

import argparse
import os
import statistics
import time
from math import ceil, log2
from typing import Any

import numpy as np
from mpi4py import MPI

import fusegrad as fg

ROUNDS = 7
N_FEATURES, N_HIDDEN, M = 64, 128, 100_000
CASES: list[tuple[str, dict[str, Any]]] = [
    ("full batch", {"epochs": 12}),
    ("mini-batches of 8192", {"epochs": 6, "batch_size": 8192, "rng": 0}),
    ("mini-batches of 1024", {"epochs": 4, "batch_size": 1024, "rng": 0}),
]
MANY = (2, 4, 8, 16, 64, 256, 1024)


def measured(comm: Any, X: Any, y: Any, options: dict[str, Any]) -> list[float]:
    """Seconds of a step: alone, with the reduction of blocks, with that of ranks."""
    n_steps = options["epochs"] * -(-M // options.get("batch_size", M))

    def run(**others: Any) -> tuple[float, list[float]]:
        net = fg.TwoLayerSigmoid(N_FEATURES, N_HIDDEN, rng=0)
        start = time.perf_counter()
        history = net.fit(X, y, optimizer=fg.SGD(0.01), n_threads=1, **options, **others)
        return (time.perf_counter() - start) / n_steps, history.loss

    seconds: list[list[float]] = [[], [], []]
    for _ in range(ROUNDS):
        comm.Barrier()
        losses = None
        if comm.rank == 0:
            took, losses = run()
            seconds[0].append(took)
        for i, reduction in enumerate(("blocks", "ranks"), start=1):
            comm.Barrier()
            took, found = run(comm=comm, reduction=reduction)
            seconds[i].append(took)
            assert losses is None or reduction == "ranks" or found == losses
    return [statistics.median(part) if part else 0.0 for part in seconds]


def messages(comm: Any) -> tuple[float, float]:
    """Latency, and seconds of a byte, of a message between two ranks: least squares over the sizes of `Allgather`."""
    rows, seconds = [], []
    for n_bytes in (256, 8 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024):
        own, gathered = np.zeros(n_bytes, "u1"), np.zeros(n_bytes * comm.size, "u1")
        took = []
        for _ in range(200):
            start = time.perf_counter()
            comm.Allgather(own, gathered)
            took.append(time.perf_counter() - start)
        weight = 1 / statistics.median(took)  # so that small messages count as much
        rows.append([weight * ceil(log2(comm.size)), weight * n_bytes * (comm.size - 1)])
        seconds.append(1.0)
    latency, byte = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)[0]
    return max(latency, 0.0), max(byte, 0.0)


def seconds_of_an_added_byte() -> float:
    """Reading a gradient and adding it to another, both in the cache."""
    a, b = np.ones(10_000, "f4"), np.ones(10_000, "f4")
    start = time.perf_counter()
    for _ in range(1000):
        a += b
    return (time.perf_counter() - start) / 1000 / a.nbytes


def predicted(n: int, alone: float, plan: Any, latency: float, byte: float, added: float) -> tuple[float, float]:
    """The model: seconds of a step of n ranks with each reduction."""
    size, blocks = plan.n_parameters * 4, plan.n_blocks
    share = ceil(blocks / n)
    headers = 2 * latency * ceil(log2(n))
    by_blocks = alone * share / blocks
    if blocks > 1:  # else each rank computes it all, and nothing is sent
        by_blocks += headers + byte * (n - 1) * share * size + added * (blocks + 1) * size
    by_ranks = alone / n + headers + 2 * byte * (n - 1) / n * size + 2 * added * size
    return by_blocks, by_ranks


def main() -> None:
    """Print what was measured, and with --predict what the model says of more ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predict", action="store_true", help="print the model's predictions for more ranks")
    predict = parser.parse_args().predict
    comm = MPI.COMM_WORLD
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[comm.rank % len(processors)]})
    data = np.random.default_rng(0)
    X = data.normal(size=(N_FEATURES, M)).astype("float32")
    y = np.tanh(X[:1])
    latency, byte = messages(comm) if comm.size > 1 else (0.0, 0.0)
    added = seconds_of_an_added_byte()
    results = [(name, options, measured(comm, X, y, options)) for name, options in CASES]
    if comm.rank > 0:
        return
    used = min(len(processors), comm.size)
    print(f"two-layer sigmoid ({N_FEATURES}, {N_HIDDEN}, 10^5), float32: {comm.size} ranks on {used} processors")
    print(f"a {1e6 * latency:.2f} us, b {1e9 * byte:.3f} ns, u {1e9 * added:.3f} ns")
    print(f"{'':24}{'alone ms':>10}{'blocks':>8}{'model':>7}{'ranks':>8}{'model':>7}")
    for name, options, (alone, blocks, by_rank) in results:
        plan = fg.TwoLayerSigmoid(N_FEATURES, N_HIDDEN).plan(options.get("batch_size", M), 1)
        by_blocks, by_ranks = predicted(comm.size, alone, plan, latency, byte, added)
        print(f"{name:24}{1e3 * alone:10.2f}{alone / blocks:8.2f}{alone / by_blocks:7.2f}", end="")
        print(f"{alone / by_rank:8.2f}{alone / by_ranks:7.2f}")
        if predict:
            for n in MANY:
                first, second = predicted(n, alone, plan, latency, byte, added)
                print(f"    prediction for {n:5} ranks: blocks {alone / first:6.1f}, ranks {alone / second:6.1f}")


if __name__ == "__main__":
    main()
