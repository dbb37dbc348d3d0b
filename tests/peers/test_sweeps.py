"""Many fits at once: scikit-learn's searches on joblib, dask and ray, their threads, and what travels to workers.

Each cluster runs in a process of its own, which imports this module for the functions that its workers run.
"""

import os
import re
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support import in_a_new_process, tried, within

import fusegrad as fg

pytestmark = pytest.mark.peers

PROCESSORS = len(os.sched_getaffinity(0))
HERE = Path(__file__).parent
#: CPU time in a second from which on a thread counts as one that computes.
BUSY_SECONDS = 0.1


def in_a_cluster(code, *arguments, timeout=120):
    """Workers of all kinds find the tests' modules by PYTHONPATH. Nothing limits the threads from outside."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent / "reliability")])
    without = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    return in_a_new_process(code, *arguments, timeout=timeout, without=without, PYTHONPATH=path)


# ---- what workers run ----------------------------------------------------------------------------------


def seconds_of_threads():
    """The CPU time of this thread, and of each thread of this process that Python did not start: OpenMP's are such.

    A cluster's own threads, which are Python's, compute nothing. Beside fits they may still be busy.
    """
    others = {str(thread.native_id) for thread in threading.enumerate() if thread is not threading.current_thread()}
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        if task.name in others:
            continue
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        seconds[task.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def large_fit(seed=0, epochs=2, callbacks=()):
    """A fit whose steps are worth two threads."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(4096, 64)).astype("f4").T, rng.normal(size=4096).astype("f4")
    net = fg.Sequential(
        fg.Linear(64, 200), fg.Tanh(), fg.Linear(200, 200), fg.Tanh(), fg.Linear(200, 1), dtype="float32", rng=seed
    )
    net.fit(X, y, optimizer=fg.Adam(), epochs=epochs, callbacks=callbacks)
    return net.parameters.tobytes()


def observed_fit(job, n_jobs, folder):
    """Fits beside the other jobs, and returns its process, the threads that computed, and how many a call may use.

    It is observed for a second, while all of them fit and after each has looked the number of threads up again.
    """
    own, first = Path(folder, f"{job}"), time.monotonic()
    all_fit, before, busy, allowed = [], {}, [], []

    def observe(net, history):
        now = time.monotonic()
        if not all_fit:
            assert now - first < 60, "the other jobs did not start"
            own.touch()
            if len(list(Path(folder).iterdir())) == n_jobs:
                all_fit.append(now)
            return False
        elapsed = now - all_fit[0]
        if elapsed > 0.5 and not before:
            before.update(seconds_of_threads())
        if before and not busy:
            allowed.append(fg.get_num_threads())
        if elapsed > 1.5 and not busy:
            busy.extend(task for task, s in seconds_of_threads().items() if s - before.get(task, 0) > BUSY_SECONDS)
        return elapsed > 1.8  # after the others' second

    large_fit(job, epochs=10**6, callbacks=[observe])
    return os.getpid(), busy, max(allowed)


def check_threads(found, processors=PROCESSORS):
    """That the threads of jobs which ran at once are at most the processors."""
    allowed = sum(n for *_, n in found)
    busy = len({(process, task) for process, tasks, _ in found for task in tasks})
    assert len(found) <= allowed <= max(processors, len(found)), found
    assert busy <= max(processors, len(found)), found


def search(n_jobs=2, kind="grid"):
    """What scikit-learn's searches, folds and bags find, by the backend that is active."""
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import BaggingRegressor
    from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score

    from fusegrad.sklearn import MLPRegressor

    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    # No epoch improves by so much: 20 epochs, without a warning.
    model = MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", tol=1e9, n_iter_no_change=20, random_state=0)
    grid = {"alpha": [1e-4, 1e-1], "learning_rate_init": [1e-3, 1e-2]}
    if kind == "grid":
        found = GridSearchCV(model, grid, cv=2, n_jobs=n_jobs).fit(X, y)
        return found.cv_results_["mean_test_score"].tobytes()
    if kind == "random":
        found = RandomizedSearchCV(model, grid, n_iter=3, cv=2, n_jobs=n_jobs, random_state=0).fit(X, y)
        return found.cv_results_["mean_test_score"].tobytes()
    if kind == "folds":
        return cross_val_score(model, X, y, cv=4, n_jobs=n_jobs).tobytes()
    bag = BaggingRegressor(model, n_estimators=4, n_jobs=n_jobs, random_state=0).fit(X, y)
    return [member.network_.parameters.tobytes() for member in bag.estimators_]


KINDS = "grid", "random", "folds", "bags"


def wide():
    """A network of 10 MB."""
    return fg.Sequential(fg.Linear(1000, 1600), fg.Tanh(), fg.Linear(1600, 600), fg.Tanh(), fg.Linear(600, 1), rng=0)


def use_in_place(predictor, X, y):
    """What a worker finds that is given a predictor and data from a store: none of them is copied."""
    assert not X.flags.writeable
    owner = predictor.parameters
    assert not owner.flags.writeable
    while isinstance(owner, np.ndarray):
        assert not owner.flags.owndata
        owner = owner.base
    net = fg.Sequential(fg.Linear(X.shape[1], 1), dtype=X.dtype, rng=0)
    predictor(X.T[:, :100]), net(X.T[:, :2])  # imports what is imported late, and takes scratch memory, which is kept
    tracemalloc.start()
    predictor(X.T[:, :100])
    net.fit(X.T, y, optimizer=fg.SGD(lr=1e-4), epochs=2, batch_size=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return predictor(X.T[:, :3]).tobytes(), peak / X.nbytes


# ---- joblib ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend, tmp_path):
    """After the process itself has used several threads."""
    code = """
import sys
from joblib import Parallel, delayed, parallel_config
from test_sweeps import *
if __name__ == "__main__":
    backend, folder = sys.argv[1:]
    expected = large_fit(), [search(1, kind) for kind in KINDS]
    with parallel_config(backend):
        check_threads(Parallel(n_jobs=2)(delayed(observed_fit)(i, 2, folder) for i in range(2)))
        assert Parallel(n_jobs=2)(delayed(large_fit)() for _ in range(4)) == [expected[0]] * 4
        assert [search(2, kind) for kind in KINDS] == expected[1]
"""
    in_a_cluster(code, backend, tmp_path)
    tried("backends of joblib whose threads are at most the processors")


# ---- dask ----------------------------------------------------------------------------------------------------


DASK = """
import sys, tempfile
import dask
from dask.distributed import Client, LocalCluster
from joblib import Parallel, delayed, parallel_config
from test_sweeps import *

if __name__ == "__main__":
    method, n_workers, threads_per_worker, processes = sys.argv[1], *map(int, sys.argv[2:])
    expected = large_fit(), [search(1, kind) for kind in KINDS[::3]]   # the pool of threads is alive
    dask.config.set({"distributed.worker.multiprocessing-method": method})
    with LocalCluster(
        n_workers=n_workers, threads_per_worker=threads_per_worker, processes=bool(processes), dashboard_address=None
    ) as cluster, Client(cluster) as client:
        folder = tempfile.mkdtemp()
        check_threads(client.gather([client.submit(observed_fit, i, 2, folder) for i in range(2)]))
        assert client.gather(client.map(large_fit, [0] * 4, pure=False)) == [expected[0]] * 4
        if processes:
            net = wide()
            X = np.random.default_rng(0).normal(size=(5, 1000)).astype("f4")
            for sent in (net, net.freeze()):
                [there] = client.scatter([sent])
                prediction = client.submit(lambda predictor, X: predictor(X.T), there, X).result()
                np.testing.assert_array_equal(prediction, net(X.T))
                np.testing.assert_array_equal(there.result().parameters, net.parameters)
            with parallel_config("dask"):
                folder = tempfile.mkdtemp()
                check_threads(Parallel(n_jobs=2)(delayed(observed_fit)(i, 2, folder) for i in range(2)))
                assert [search(2, kind) for kind in KINDS[::3]] == expected[1]
"""


@pytest.mark.parametrize(
    ("method", "n_workers", "threads_per_worker", "processes"),
    [("spawn", 2, 1, 1), ("forkserver", 1, 2, 1), ("spawn", 1, 2, 0)],
)
def test_dask(method, n_workers, threads_per_worker, processes):
    in_a_cluster(DASK, method, n_workers, threads_per_worker, processes)
    tried("clusters of dask whose threads are at most the processors")


# ---- ray -----------------------------------------------------------------------------------------------------


RAY = """
import logging, tempfile
import ray
from joblib import Parallel, delayed, parallel_config
from ray.util.joblib import register_ray
from test_sweeps import *

expected = large_fit(), search(1)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

# A process that ray has started for a task of two processors is used for a task of one.
observed = ray.remote(observed_fit)
check_threads(ray.get([observed.options(num_cpus=2).remote(0, 1, tempfile.mkdtemp())]), 2)
folder = tempfile.mkdtemp()
check_threads(ray.get([observed.remote(i, 2, folder) for i in range(2)]), 2)
assert ray.get([ray.remote(large_fit).remote() for _ in range(4)]) == [expected[0]] * 4

# The store's arrays are read-only, and shared by all workers.
net = wide()
data = np.random.default_rng(0)
X, y = data.normal(size=(20_000, 1000)).astype("f4"), data.normal(size=20_000).astype("f4")
stored = [ray.put(thing) for thing in (net.freeze(), X, y)]
prediction, copied = ray.get(ray.remote(use_in_place).remote(*stored))
assert prediction == net(X.T[:, :3]).tobytes()
assert copied < 0.1
assert ray.get(ray.remote(lambda net: net.parameters.flags.writeable).remote(net))

register_ray()
with parallel_config("ray"):
    folder = tempfile.mkdtemp()
    check_threads(Parallel(n_jobs=2)(delayed(observed_fit)(i, 2, folder) for i in range(2)), 2)
    assert search() == expected[1]      # one alone: each starts processes of its own
print(copied)
"""


def test_ray():
    pytest.importorskip("ray")
    copied = in_a_cluster(RAY)
    within("memory that a fit takes of data in ray's store, over their size", float(copied.split()[-1]), 0.1)


# ---- what travels --------------------------------------------------------------------------------------------


def test_joblib_maps_data_into_its_workers():
    code = """
from joblib import Parallel, delayed
from test_sweeps import *
if __name__ == "__main__":
    net = wide()
    data = np.random.default_rng(0)
    X, y = data.normal(size=(20_000, 1000)).astype("f4"), data.normal(size=20_000).astype("f4")
    [(prediction, copied)] = Parallel(n_jobs=2)(delayed(use_in_place)(*given) for given in [(net.freeze(), X, y)])
    assert prediction == net(X.T[:, :3]).tobytes()
    print(copied)
"""
    within("memory that a fit takes of data that joblib maps, over their size", float(in_a_cluster(code)), 0.1)


# ---- the guide -----------------------------------------------------------------------------------------------


PAGE = HERE.parents[1] / "docs" / "guide" / "many-machines.md"


@pytest.mark.parametrize("library", ["dask", "ray"])
def test_programs_of_the_guide(library, tmp_path):
    """The blocks that tests/test_docs.py leaves out, since they need these libraries."""
    pytest.importorskip(library)
    blocks = re.findall(r"```\{code-block\} python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [block] = [block for block in blocks if re.search(rf"^(?:import|from) {library}\b", block, re.MULTILINE)]
    program = tmp_path / "program.py"
    program.write_text(block)
    in_a_cluster("import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]], check=True)", program)
