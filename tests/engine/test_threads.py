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
