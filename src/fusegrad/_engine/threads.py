"""The only place that decides how many threads a call may use.

`n_threads` of a call, else `set_num_threads`, else an equal share of the threads of this process; never more than
`MOST_THREADS`. The threads of the process are ``OMP_NUM_THREADS``, else 1 in a worker of a process pool, else the
processors that it may use. The Python threads that compute share them: those in a fit, and those whose last call that
looked the number up began less than `CALL_SECONDS` ago. A fit looks it up before each stretch of epochs.

So the threads of all workers are at most the processors, in threads of one process (joblib, dask,
`ThreadPoolExecutor`) and in pools of as many processes. loky, dask and ray set ``OMP_NUM_THREADS`` for their worker
processes; ray changes it in a process that runs, so it is read in each call.

How many threads are worthwhile for the work is decided by the plan (`plan.worthwhile_threads`), whether they are
worthwhile beside other processes by cython_kernels/team.h.

Rejected: counting the teams in team.h, since each compiled module has its own, and a small call would pay for the
count. Counting the processes of a pool, since no cheap way to find them works on every Linux.
"""

import os
import sys
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import ref

from fusegrad._engine.compiled import runtime
from fusegrad._engine.validation import as_count

if TYPE_CHECKING:
    from pathlib import Path

_chosen: int | None = None

#: The upper bound of a request: OpenMP ends the process if it cannot start a thread. Only tests use more threads than
#: there are processors.
MOST_THREADS = max(64, os.cpu_count() or 1)

QUOTA_SECONDS = 1.0  # how long a quota is cached: reading it costs 20 microseconds
CALL_SECONDS = 0.1  # how long a Python thread counts as computing after it has looked the number up

#: The Python threads that compute, by their idents: until when they count, or as long as an object exists.
_computing: "dict[int, float | ref[Computing]]" = {}


class Computing:
    """Within it, the calling Python thread counts as one that computes.

    It counts as long as this object exists: a signal handler may raise an exception where `__exit__` begins.
    """

    __slots__ = ("__weakref__", "_before", "_ident")

    def __enter__(self) -> None:
        self._ident = threading.get_ident()
        self._before = _computing.get(self._ident, 0.0)
        _computing[self._ident] = ref(self)

    def __exit__(self, *exception: object) -> None:
        """Needs no memory, for which a fit would fail that has succeeded."""
        if isinstance(self._before, float):
            _computing.pop(self._ident, None)
        else:  # it is within another one
            _computing[self._ident] = self._before


# The child has none of the other threads, and the one that forked may never leave its fit there.
os.register_at_fork(after_in_child=_computing.clear)


def _sharing() -> int:
    """How many Python threads share the threads of this process: those that compute, and the calling one."""
    if not _computing:
        return 1
    own, now, n = threading.get_ident(), time.monotonic(), 1
    for ident, until in list(_computing.items()):
        if ident == own:
            continue
        if until > now if isinstance(until, float) else until() is not None:
            n += 1
        else:
            found = _computing.pop(ident, until)
            if found is not until:  # meanwhile that thread has begun to compute
                _computing.setdefault(ident, found)
    return n


def _is_pool_worker() -> bool:
    """Whether this is a worker of `multiprocessing.Pool` (as joblib has, too) or of `ProcessPoolExecutor`."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return False
    process = module.current_process()
    # Workers of Pool are daemonic; those of ProcessPoolExecutor are known by the function that they run.
    target = getattr(process, "_target", None)
    return bool(process.daemon) or getattr(target, "__module__", None) == "concurrent.futures.process"


def _environment_threads() -> int:
    """The number in ``OMP_NUM_THREADS``, which OpenMP itself reads only once."""
    try:
        return min(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]), MOST_THREADS)
    except (KeyError, ValueError):  # set by C code: the limit in OpenMP is all that is known
        return MOST_THREADS


def _cgroup_quota() -> int | None:
    """The number of processors that the control group grants, which OpenMP ignores."""
    return _read_quota(int(time.monotonic() / QUOTA_SECONDS))


@lru_cache(maxsize=1)
def _read_quota(_when: int) -> int | None:
    from pathlib import Path  # where it is needed: a sixth of the import of fusegrad

    return read_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))


def read_quota(root: "Path", membership: "Path") -> int | None:
    """The smallest quota over its period, rounded up, of the groups that this process is in and those above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if line.startswith("0::"):  # version 2
            base, name = root, "cpu.max"
        elif "cpu" in controllers.split(","):
            base, name = root / "cpu", "cpu.cfs_quota_us"
        else:
            continue
        # In a container the path may be that of the host, and only the root exists.
        for folder in (base / group.lstrip("/"), *(base / group.lstrip("/")).parents):
            if folder == base or base in folder.parents:
                quotas.append(_quota(folder / name))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(file: "Path") -> int | None:
    try:
        numbers = file.read_text().split()
        if len(numbers) == 1:
            numbers.append(file.with_name("cpu.cfs_period_us").read_text())
        quota, period = (int(number) for number in numbers)
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(1, -(-quota // period)) if quota > 0 and period > 0 else None


def default_threads() -> tuple[int, str]:
    """The number of threads of calls without `n_threads`, and its source."""
    if runtime.OPENMP == 0:
        return 1, "built without OpenMP"
    if _chosen is not None:
        return _chosen, "set_num_threads"
    if runtime.asks_for_threads():
        n, source = _environment_threads(), "OMP_NUM_THREADS"
    elif _is_pool_worker():
        return 1, "a process pool, whose workers share the processors"
    else:
        # The affinity of the process: with OMP_PROC_BIND or the like OpenMP has bound this thread to one processor.
        n, source = runtime.processors(), "affinity"
        quota = _cgroup_quota()
        if quota is not None and quota < n:
            n, source = quota, "cgroup quota"
    n_sharing = _sharing()
    if n > 1 and n_sharing > 1:
        n, source = max(1, n // n_sharing), f"{source}, shared by {n_sharing} Python threads that compute"
    openmp = min(runtime.max_threads(), MOST_THREADS)
    if openmp < n:
        n, source = openmp, "a limit set in OpenMP, as by threadpoolctl"
    return n, source


def resolve_threads(n_threads: int | None) -> int:
    """How many threads a call may use."""
    if runtime.OPENMP == 0:
        return 1
    if n_threads is not None:
        return min(as_count(n_threads, "n_threads"), MOST_THREADS)
    own = threading.get_ident()
    if isinstance(_computing.get(own, 0.0), float):
        _computing[own] = time.monotonic() + CALL_SECONDS
    return default_threads()[0]


def set_num_threads(n: int | None) -> None:
    """Set how many threads may be used by calls without `n_threads`.

    Parameters
    ----------
    n : int or None
        At least 1; at most 64, or the number of processors, are used. None restores the default:
        ``OMP_NUM_THREADS``, else 1 in a worker of a process pool, else the processors that this process may use
        (affinity and cgroup quota counted), divided by the number of Python threads that compute at the moment.

    Raises
    ------
    TypeError, ValueError
        If n is not an integer, or less than 1.

    Notes
    -----
    Fewer threads run if more are not worthwhile for the work or beside other busy processes, or if the system does not
    allow more. Results do not depend on their number.
    The setting applies to fusegrad only, not to other users of OpenMP in the process.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.set_num_threads(1)
    >>> fg.get_num_threads()
    1
    >>> fg.set_num_threads(None)
    """
    global _chosen
    _chosen = None if n is None else min(as_count(n, "n"), MOST_THREADS)


def get_num_threads() -> int:
    """How many threads may be used by calls without `n_threads`.

    Returns
    -------
    int
        See `set_num_threads` for its source, which `show_config` prints.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.get_num_threads() >= 1
    True
    """
    return default_threads()[0]
