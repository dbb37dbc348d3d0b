import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support import in_a_new_process

import fusegrad as fg
from fusegrad._engine import threads as thread_rule


def test_a_chosen_number(threads):
    threads(3)
    assert fg.get_num_threads() == 3
    threads(None)
    assert fg.get_num_threads() == thread_rule.default_threads()[0]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_what_is_refused(n, error):
    with pytest.raises(error, match="n: expected"):
        fg.set_num_threads(n)


def test_a_number_that_openmp_refuses_is_not_its_number():
    code = "from fusegrad._engine.threads import default_threads; print(default_threads()[1])"
    assert in_a_new_process(code, OMP_NUM_THREADS="0") != "OMP_NUM_THREADS"


def test_a_cgroup_quota_is_obeyed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_rule.runtime, "max_threads", lambda: 64, raising=False)
    monkeypatch.setattr(thread_rule.runtime, "processors", lambda: 64, raising=False)
    monkeypatch.setattr(thread_rule, "_cgroup_quota", lambda: 3)
    assert thread_rule.default_threads() == (3, "cgroup quota")


def test_fork_after_parallel_work(threads):
    """libgomp alone would hang in the child."""
    code = """
import os, numpy as np, fusegrad as fg
X, y = np.ones((64, 20000)), np.ones(20000)
net = fg.TwoLayerSigmoid(64, 64, dtype="float64", rng=0)
fg.set_num_threads(2)
expected = net.loss_and_gradient(X, y)
for _ in range(5):
    child = os.fork()
    if child == 0:
        loss, gradient = net.loss_and_gradient(X, y)
        os._exit(0 if loss == expected[0] and (gradient == expected[1]).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
assert net.loss(X, y) == expected[0]
"""
    in_a_new_process(code, timeout=60)


def test_fewer_threads_than_asked_for():
    """OpenMP may give fewer threads than a call asks for; nothing may be left out then."""
    code = """
import numpy as np, fusegrad as fg
X, y = np.ones((64, 20000)), np.ones(20000)
net = fg.TwoLayerSigmoid(64, 64, dtype="float64", rng=0)
results = []
for n in (1, 8):
    fg.set_num_threads(n)
    net = fg.TwoLayerSigmoid(64, 64, dtype="float64", rng=0)
    history = net.fit(X, y, optimizer=fg.Adam(), epochs=2)
    product = fg.kernels.matmul(X[:, :500].T, X[:, :2000])
    results.append((history.loss, net(X), net.parameters, product, fg.kernels.sigmoid(X)))
assert results[0][0] == results[1][0]
for one, eight in zip(*[result[1:] for result in results]):
    np.testing.assert_array_equal(one, eight)
"""
    for limit in ({"OMP_THREAD_LIMIT": "2"}, {"OMP_DYNAMIC": "true"}, {"OMP_THREAD_LIMIT": "1"}):
        in_a_new_process(code, **limit)


# ---- other Python threads, and pools of processes ----


@pytest.fixture
def six_processors(monkeypatch):
    """Whatever the machine and the environment have, and whatever computed before."""
    thread_rule._computing.clear()
    for name, value in (("asks_for_threads", False), ("processors", 6), ("max_threads", 64)):
        monkeypatch.setattr(thread_rule.runtime, name, lambda value=value: value, raising=False)
    monkeypatch.setattr(thread_rule, "_cgroup_quota", lambda: None)


def in_other_threads(n, inside):
    """What `inside` returns while n other Python threads compute."""
    ready, done = threading.Barrier(n + 1), threading.Event()

    def compute():
        with thread_rule.Computing():
            ready.wait()
            done.wait()

    others = [threading.Thread(target=compute) for _ in range(n)]
    for other in others:
        other.start()
    ready.wait()
    try:
        return inside()
    finally:
        done.set()
        for other in others:
            other.join()


@pytest.mark.usefixtures("six_processors")
def test_python_threads_that_compute_share_the_processors(threads):
    for n, share in ((0, 6), (1, 3), (2, 2), (3, 1), (8, 1)):
        assert in_other_threads(n, fg.get_num_threads) == share
    assert in_other_threads(1, thread_rule.default_threads) == (3, "affinity, shared by 2 Python threads that compute")
    with thread_rule.Computing():
        with thread_rule.Computing():  # a fit in a callback of another one
            assert fg.get_num_threads() == 6
            assert in_other_threads(1, fg.get_num_threads) == 3
        assert in_other_threads(1, fg.get_num_threads) == 3
    assert thread_rule._computing == {}
    # A number that is passed, or set, is not divided.
    assert in_other_threads(2, lambda: thread_rule.resolve_threads(5)) == 5
    threads(4)
    assert in_other_threads(2, fg.get_num_threads) == 4


@pytest.mark.usefixtures("six_processors")
def test_a_limit_in_openmp_is_one_of_each_thread(monkeypatch):
    """As `threadpool_limits` sets it in a worker thread: it is not divided once more."""
    monkeypatch.setattr(thread_rule.runtime, "max_threads", lambda: 3, raising=False)
    assert in_other_threads(1, fg.get_num_threads) == 3
    assert in_other_threads(2, fg.get_num_threads) == 2


@pytest.mark.usefixtures("six_processors")
def test_a_thread_that_makes_large_calls_counts_for_a_moment(monkeypatch):
    now = [100.0]  # else the moment might pass on a busy machine before it is looked at
    monkeypatch.setattr(thread_rule, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def call():
        net = fg.Sequential(fg.Linear(100, 100), dtype="float32", rng=0)
        net(np.zeros((100, 5000), "f4"))

    other = threading.Thread(target=call)
    other.start()
    other.join()
    assert fg.get_num_threads() == 3
    now[0] += 1.1 * thread_rule.CALL_SECONDS
    assert fg.get_num_threads() == 6


@pytest.mark.usefixtures("six_processors")
def test_a_fit_changes_its_threads_when_others_begin_and_end():
    """And its result does not depend on that."""
    nets = [fg.TwoLayerSigmoid(50, 100, rng=0) for _ in range(2)]
    X, y = np.random.default_rng(0).normal(size=(50, 20_000)).astype("f4"), np.ones(20_000, "f4")
    started, stop, used = threading.Event(), threading.Event(), []

    def compute():
        with thread_rule.Computing():
            started.set()
            stop.wait()

    other = threading.Thread(target=compute)

    def begin_and_end(net, history):
        engines = net._engine._engines  # the last epoch's is the only one
        used.append([engine.n_threads for engine in engines.values()])
        engines.clear()
        if history.epochs == 2:
            other.start()
            started.wait()
        if history.epochs == 4:
            stop.set()
            other.join()

    nets[0].fit(X, y, optimizer=fg.Adam(), epochs=6, callbacks=[begin_and_end])
    assert used == [[6], [6], [3], [3], [6], [6]]
    nets[1].fit(X, y, optimizer=fg.Adam(), epochs=6, n_threads=1)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_a_fit_that_fails_counts_no_longer():
    net = fg.Sequential(fg.Linear(1, 1), rng=0)
    with pytest.raises(ZeroDivisionError):
        net.fit(np.ones((1, 4)), np.ones(4), optimizer=fg.SGD(lr=0.1), epochs=1, callbacks=[lambda *_: 1 / 0])
    assert threading.get_ident() not in thread_rule._computing


@pytest.mark.usefixtures("six_processors")
def test_the_child_of_a_fork_has_no_other_threads():
    def fork():
        child = os.fork()
        if child == 0:
            os._exit(fg.get_num_threads())
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_other_threads(2, fork) == 6


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="a single processor is not shared")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_pools_use_one_thread(method):
    code = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import fusegrad as fg
from fusegrad._engine.threads import default_threads
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    n = fg.get_num_threads()
    assert n > 1
    with context.Pool(1) as pool:
        assert pool.apply(default_threads) == (1, "a process pool, whose workers share the processors")
        pool.apply(fg.set_num_threads, (2,))
        assert pool.apply(fg.get_num_threads) == 2
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(fg.get_num_threads).result() == 1
    process = context.Process(target=exec, args=(f"import fusegrad as fg; assert fg.get_num_threads() == {n}",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert fg.get_num_threads() == n
"""
    in_a_new_process(code, method, timeout=60, without=["OMP_NUM_THREADS"])


def test_omp_num_threads_is_read_in_each_call():
    """ray changes it while a worker runs; OpenMP reads it once."""
    code = """
import os
import fusegrad as fg
found = []
for asked in ("1", "2", "3,2", "1"):
    os.environ["OMP_NUM_THREADS"] = asked
    found.append(fg.get_num_threads())
print(found)
"""
    assert in_a_new_process(code, OMP_NUM_THREADS="2") == "[1, 2, 2, 1]"
