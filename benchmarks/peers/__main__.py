"""Measure fusegrad, its peers and the machine's limits side by side: ``make bench-peers``.

Every system is a process of its own, pinned to the same core. For each row all of them set up the same
task, their answers are compared, and only then they run in turn, A B C A B C, with the limits of the machine
measured in the same rounds. What is printed is the median of the rounds' ratios: others on a shared machine slow
whole rounds down, and the two sides of a ratio alike. A peer that is missing or wrong is an error.

    python benchmarks/peers [--only TEXT] [--rounds N] [--output FOLDER]
"""

import argparse
import ctypes
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import show_row, write_report
from systems import SYSTEMS, serve
from tasks import Elementwise, Row, rows

HERE = Path(__file__).parent
ROUND_SECONDS = 0.02  # that a system runs in a round, at least once
ROW_SECONDS = 30.0  # after which a row gets no more rounds
ACTIVATION_FLOPS = 32  # of a sigmoid: 16 multiply-adds
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
#: JAX's compiler runs in threads of its own; its products are told to stay in one.
XLA = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


class Process:
    """A system in a process of its own."""

    def __init__(self, name: str, core: int) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        own = {**ONE_THREAD, **XLA, **SYSTEMS[name][1]}
        if name.startswith("fusegrad"):
            del own["OMP_NUM_THREADS"]  # it is told in each task
        before = dict(os.environ)
        os.environ.update(own)
        self.process = context.Process(target=serve, args=(theirs, name, core), daemon=True)
        self.process.start()
        os.environ.clear()
        os.environ.update(before)

    def ask(self, verb: str, argument: Any) -> Any:
        """Send a request, wait for its answer."""
        self.connection.send((verb, argument))
        answer = self.connection.recv()
        if isinstance(answer, BaseException):
            raise RuntimeError(f"{self.name}: {verb} {argument} failed") from answer
        return answer


class Limits:
    """What the core can do at most, measured when asked."""

    def __init__(self, folder: Path) -> None:
        binary = folder / "limits.so"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(HERE / "limits.c"), "-o", str(binary)]
        subprocess.run(command, check=True)
        self.compiled = ctypes.CDLL(str(binary))
        self.memory = {"L2": self._aligned(512 * 1024), "DRAM": self._aligned(256 * 1024 * 1024)}

    @staticmethod
    def _aligned(size: int) -> Any:
        memory = np.ones(size + 4096, np.uint8)
        start = -memory.ctypes.data % 4096
        return memory[start : start + size]

    def flops(self, dtype: str, v3: bool) -> float:
        """Floating-point operations a second, by multiply-adds in registers; of AVX2 alone, if v3."""
        function = getattr(self.compiled, f"multiply_add_{dtype}{'_v3' * v3}")
        function.restype = ctypes.c_double
        function(ctypes.c_long(100_000))  # until the core is at its pace
        return float(1 / function(ctypes.c_long(1_000_000)))

    def bytes(self, where: str) -> float:
        """Bytes a second, read one after another."""
        memory = self.memory[where]
        self.compiled.reading.restype = ctypes.c_double
        place, size, count = ctypes.c_void_p(memory.ctypes.data), ctypes.c_long(memory.size), (1 << 26) // memory.size
        if count:
            self.compiled.reading(place, size, 1)  # into the cache
        return float(1 / self.compiled.reading(place, size, max(1, count)))


def sigmoid_flops(process: Process, limits: Limits, dtype: str, v3: bool) -> float:
    """What the core could multiply and add in the time that one sigmoid takes this library.

    On data in the L1, without what a call costs. It runs on the same ports: what slows one down slows the other.
    """
    few, many = (1024, 4096) if dtype == "float32" else (512, 2048)
    rounds = []
    for _ in range(41):  # both sizes in each: a difference of two moments would mostly be noise
        times = []
        for n in (few, many):
            process.ask("prepare", Elementwise(n, "sigmoid", dtype))
            times.append(process.ask("run", 500) * limits.flops(dtype, v3))
        rounds.append(times[1] - times[0])
    return float(np.median(rounds)) / (many - few)


def agree(row: Row, answers: dict[str, Any]) -> None:
    """Raise unless all answers are the same, within the dtype's tolerance."""
    first, *others = answers
    for label in others:
        dtype = "float32" if "float32" in (row.contenders[label][1].dtype, row.own.dtype) else "float64"
        scale = np.abs(answers[first]).max()
        error = np.abs(answers[label] - answers[first]).max() / scale
        if not error <= TOLERANCE[dtype]:
            raise AssertionError(
                f"{row.title}: {label} is off by {error:.1e} from {first}, more than {TOLERANCE[dtype]}"
            )


def measure(row: Row, processes: dict[str, Process], limits: Limits, sigmoid: dict[Any, float], rounds: int) -> Any:
    """All contenders of a row in turn: seconds of each, and ratios to the first one, the limit's among them."""
    # One system may stand in a row twice, with two tasks: it then sets up before each of its runs.
    systems = [system for system, _ in row.contenders.values()]
    v3 = systems[0] == "fusegrad v3"
    again = len(set(systems)) < len(systems)
    answers = {label: processes[system].ask("prepare", task) for label, (system, task) in row.contenders.items()}
    agree(row, answers)

    def run(label: str, count: int) -> float:
        system, task = row.contenders[label]
        if again:
            processes[system].ask("prepare", task)
            processes[system].ask("run", max(1, count // 10))
        return float(processes[system].ask("run", count))

    counts = dict.fromkeys(row.contenders, 1)

    def elapsed_of(label: str) -> float:
        start = time.perf_counter()
        run(label, counts[label])
        return time.perf_counter() - start

    for label in row.contenders:
        while True:  # ten times as often until it fills a round
            elapsed = min(elapsed_of(label), elapsed_of(label))  # one may be the first, or interrupted by others
            if elapsed > ROUND_SECONDS / 2:
                break
            counts[label] = max(
                counts[label] + 1, min(10 * counts[label], int(counts[label] * ROUND_SECONDS / elapsed))
            )
    seconds: dict[str, list[float]] = {label: [] for label in row.contenders}
    peaks: dict[str, list[float]] = {"flops": [], "L2": [], "DRAM": []}
    start = time.perf_counter()
    while len(seconds[next(iter(seconds))]) < rounds:
        for label in row.contenders:
            seconds[label].append(run(label, counts[label]))
        peaks["flops"].append(limits.flops(row.own.dtype, v3))
        for where in ("L2", "DRAM"):
            peaks[where].append(limits.bytes(where))
        if time.perf_counter() - start > ROW_SECONDS and len(peaks["flops"]) >= 3:
            break
    task = row.own
    times = {label: np.array(values) for label, values in seconds.items()}
    own = next(iter(times.values()))
    peak = np.array(peaks["flops"])
    bandwidth = np.array(peaks["L2" if task.n_bytes <= 512 * 1024 else "DRAM"])
    compute = (task.flops + sigmoid[v3, task.dtype] * task.activations) / peak
    limit = np.maximum(compute, task.n_bytes / bandwidth)

    def median(values: Any) -> float:
        return float(np.median(values))

    return {
        "group": row.group,
        "title": row.title,
        "seconds": {
            label: {"min": float(values.min()), "median": median(values), "rounds": len(values)}
            for label, values in times.items()
        },
        "ratios": {label: median(values / own) for label, values in times.items()},
        "limit": median(limit),
        "share": median(limit / own),
        "share_of_peak": median(task.flops / peak / own),
        "share_of_ceiling": median((task.flops + ACTIVATION_FLOPS * task.activations) / peak / own),
        "peaks": {name: median(values) for name, values in peaks.items()},
        "flops": task.flops,
        "bytes": task.n_bytes,
        "activations": task.activations,
        "goals": row.goals,
        "limit_goal": row.limit_goal,
        "seconds_goal": row.seconds_goal,
    }


def main() -> None:
    """Measure what was asked for; print each row as it comes, then write JSON, picture and table."""
    parser = argparse.ArgumentParser(prog="benchmarks/peers", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="rows whose group and title contain this text")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=None, help="folder for results.json, the picture and the table")
    arguments = parser.parse_args()
    table = [row for row in rows() if arguments.only in f"{row.group}: {row.title}"]
    core = max(os.sched_getaffinity(0))
    own = {False: "fusegrad", True: "fusegrad v3"}
    names = {*own.values()} | {system for row in table for system, _ in row.contenders.values()}
    processes = {name: Process(name, core) for name in SYSTEMS if name in names}
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(Path(folder))
        sigmoid = {
            (v3, dtype): sigmoid_flops(processes[own[v3]], limits, dtype, v3)
            for v3 in own
            for dtype in ("float32", "float64")
        }
        results = []
        for row in table:
            results.append(measure(row, processes, limits, sigmoid, arguments.rounds))
            show_row(results[-1])
    for process in processes.values():
        process.connection.send(("stop", None))
    if arguments.output:
        write_report(arguments.output, results, {f"{own[v3]} {dtype}": flops for (v3, dtype), flops in sigmoid.items()})


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
