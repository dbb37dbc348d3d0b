"""The only place that decides how many threads a call may use.

`n_threads` of a call, else `set_num_threads`, else ``OMP_NUM_THREADS``, else the processors that this
process may use; never more than `MOST_THREADS`. How many are worthwhile for the work is decided by the plan
(`plan.worthwhile_threads`), whether they are worthwhile beside other processes by cython_kernels/team.h.
"""

import os
import time
from functools import lru_cache
from pathlib import Path

from fusegrad._engine.compiled import runtime
from fusegrad._engine.validation import as_count

_chosen: int | None = None

#: The upper bound of a request: OpenMP ends the process if it cannot start a thread. Only tests use more threads than
#: there are processors.
MOST_THREADS = max(64, os.cpu_count() or 1)

QUOTA_SECONDS = 1.0  # how long a quota is cached: reading it costs 20 microseconds


def _cgroup_quota() -> int | None:
    """The number of processors that the control group grants, which OpenMP ignores."""
    return _read_quota(int(time.monotonic() / QUOTA_SECONDS))


@lru_cache(maxsize=1)
def _read_quota(_when: int) -> int | None:
    return read_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))


def read_quota(root: Path, membership: Path) -> int | None:
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


def _quota(file: Path) -> int | None:
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
    openmp = min(runtime.max_threads(), MOST_THREADS)
    if runtime.asks_for_threads():
        return openmp, "OMP_NUM_THREADS"
    # The affinity of the process: with OMP_PROC_BIND or the like OpenMP has bound this thread to one processor.
    n, source = runtime.processors(), "affinity"
    quota = _cgroup_quota()
    if quota is not None and quota < n:
        n, source = quota, "cgroup quota"
    if openmp < n:
        n, source = openmp, "a limit set in OpenMP, as by threadpoolctl"
    return n, source


def resolve_threads(n_threads: int | None) -> int:
    """How many threads a call may use."""
    if runtime.OPENMP == 0:
        return 1
    if n_threads is not None:
        return min(as_count(n_threads, "n_threads"), MOST_THREADS)
    return default_threads()[0]


def set_num_threads(n: int | None) -> None:
    """Set how many threads may be used by calls without `n_threads`.

    Parameters
    ----------
    n : int or None
        At least 1; at most 64, or the number of processors, are used. None restores the default:
        ``OMP_NUM_THREADS``, else the processors that this process may use (affinity and cgroup quota counted).

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
