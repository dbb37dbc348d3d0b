"""Other processes and other people's threads: forks, pools, nested use, two trainings of one network."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import examples, in_a_new_process, perturbed, tried, within

import fusegrad as fg
from fusegrad._engine.engine import MOST_ENGINES
from fusegrad._engine.threads import Computing, _sharing

pytestmark = pytest.mark.once  # the same code on each instruction set

LAYERS = (fg.Linear(16, 64), fg.Sigmoid(), fg.Linear(64, 1))


def work(seed=0):
    """Parallel work, and what comes of it."""
    net = perturbed(*LAYERS, dtype="float32", seed=seed)
    X, y = examples(net, 5000)
    history = net.fit(X, y, optimizer=fg.Adam(lr=0.01), epochs=2, n_threads=2)
    return net.parameters.tobytes() + repr(history.loss).encode()


FORKS = """
import multiprocessing, os, sys, time
import numpy as np, fusegrad as fg
from test_processes import work
started = time.monotonic()
expected = work()
for _ in range(200):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert work() == expected
for method in ("fork", "spawn", "forkserver"):
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert pool.map(work, [0] * 12) == [expected] * 12
from joblib import Parallel, delayed
for backend in ("loky", "threading", "multiprocessing"):
    assert Parallel(n_jobs=3, backend=backend)(delayed(work)(0) for _ in range(12)) == [expected] * 12
    assert work() == expected
print(time.monotonic() - started)
"""


@pytest.mark.reliability
def test_forks_and_pools():
    seconds = in_a_new_process(FORKS, timeout=60)
    within("seconds for 200 forks and six pools, each child parallel again", float(seconds), 60)


def test_a_fork_of_a_thread_while_another_trains():
    """The child has one thread; the parent's pool ends and comes back."""
    code = """
import os, threading
from test_processes import work
expected = work()
failed = []
def train():
    for _ in range(30):
        if work() != expected:
            failed.append(1)
thread = threading.Thread(target=train)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
thread.join()
assert not failed
"""
    in_a_new_process(code, timeout=60)


def test_nested_in_a_thread_pool():
    expected = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(work, range(8))) == expected
            tried("fits of 8 networks at once", 8)
        # a pool within a pool
        inner = pool.submit(lambda: list(ThreadPoolExecutor(4).map(work, range(4)))).result()
        assert inner == expected[:4]


def test_eight_threads_predict_with_one_network(dtype):
    net = perturbed(*LAYERS, dtype=dtype)
    batches = [np.random.default_rng(seed).normal(size=(16, 100 * seed + 7)).astype(dtype) for seed in range(30)]
    expected = [net(X) for X in batches]
    start = threading.Barrier(8)

    def predict(_):
        start.wait()
        for X, prediction in [*zip(batches, expected, strict=True)] * 10:
            np.testing.assert_array_equal(net(X), prediction)
            tried("predictions of one network by 8 threads")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predict, range(8)))


def test_more_batch_sizes_than_a_network_remembers_in_many_threads():
    net = perturbed(fg.Linear(2, 3), fg.Tanh(), fg.Linear(3, 1), dtype="float64")
    X = np.random.default_rng(0).normal(size=(2, 700))
    whole = net(X)

    def predict(seed):
        for m in np.random.default_rng(seed).permutation(np.arange(1, 700)):
            np.testing.assert_array_equal(net(X[:, :m]), whole[:, :m])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predict, range(8)))
    assert 0 < len(net._engine._engines) <= MOST_ENGINES + 8  # each thread may add one at the same time


def test_two_trainings_of_one_network():
    net = perturbed(*LAYERS, dtype="float32")
    X, y = examples(net, 200)
    net.train_step(X, y, fg.SGD(lr=0.01))  # the next of this size goes a shorter way
    inside, go_on = threading.Event(), threading.Event()

    def wait(net, history):
        inside.set()
        go_on.wait()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(net.fit, X, y, optimizer=fg.SGD(lr=0.01), epochs=1, callbacks=[wait])
        inside.wait()
        before = net.parameters.copy()
        for second in (
            lambda: net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=1),
            lambda: net.train_step(X, y, fg.SGD(lr=0.01)),
        ):
            with pytest.raises(RuntimeError, match="this network is being trained already"):
                second()
        np.testing.assert_array_equal(net.parameters, before)
        assert net(X).shape == (1, 200)
        go_on.set()
        assert first.result().epochs == 1
    net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=1)
    with pytest.raises(ZeroDivisionError):
        net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=1, callbacks=[lambda net, history: 1 / 0])
    net.train_step(X, y, fg.SGD(lr=0.01))  # free again


def test_two_trainings_of_one_network_at_any_moment():
    net, twin = (perturbed(*LAYERS, dtype="float32") for _ in range(2))
    X, y = examples(net, 2000)
    optimizer, done, refused = fg.SGD(lr=0.01), [], []

    def train(_):
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                net.train_step(X, y, optimizer)
                done.append(1)
            except RuntimeError as error:
                assert "being trained already" in str(error)
                refused.append(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(train, range(4)))
    assert refused
    twin_optimizer = fg.SGD(lr=0.01)
    for _ in done:
        twin.train_step(X, y, twin_optimizer)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    tried("steps that four threads made in turn, as one alone", len(done))


def test_a_state_is_handed_in_while_a_fit_runs():
    """The fit goes on with the one that it has."""
    net = perturbed(*LAYERS, dtype="float32")
    X, y = examples(net, 500)
    optimizer, done = fg.Adam(), threading.Event()

    def hand_in():
        while not done.is_set():
            optimizer.load_state_dict(optimizer.state_dict())

    net.train_step(X, y, optimizer)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(hand_in)
        try:
            for _ in range(20):
                assert len(net.fit(X, y, optimizer=optimizer, epochs=50).loss) == 50
        finally:
            done.set()
        other.result()


@pytest.mark.reliability
def test_joblib_takes_a_trained_optimizer_along():
    """Large arrays come to its workers as files mapped read-only."""
    code = """
import numpy as np, fusegrad as fg
from joblib import Parallel, delayed
from test_processes import go_on
net, optimizer = fg.Sequential(fg.Linear(100, 1000), fg.Tanh(), fg.Linear(1000, 100), rng=0), fg.Adam()
X, y = np.ones((100, 64)), np.ones((100, 64))
net.fit(X, y, optimizer=optimizer, epochs=2)
found = Parallel(n_jobs=2)(delayed(go_on)(net, optimizer, X, y) for _ in range(3))
assert found == [go_on(net, optimizer, X, y)] * 3
"""
    in_a_new_process(code)


def go_on(net, optimizer, X, y):
    return net.fit(X, y, optimizer=optimizer, epochs=3).loss


@pytest.mark.peers
def test_a_dask_worker():
    code = """
from test_processes import work
from dask.distributed import Client, LocalCluster
if __name__ == "__main__":
    expected = [work(seed) for seed in range(6)]
    for processes in (False, True):
        with LocalCluster(n_workers=2, threads_per_worker=3, processes=processes, dashboard_address=None) as cluster:
            with Client(cluster) as client:
                assert client.gather(client.map(work, range(6))) == expected
"""
    in_a_new_process(code, timeout=120)


# ---- forks while something is computed ----

FORK_IN_A_HANDLER = """
import os, signal, sys
import numpy as np, fusegrad as fg
n_threads = int(sys.argv[1])
data = np.random.default_rng(1)
X, y = data.normal(size=(32, 8000)).astype("f4"), data.normal(size=(1, 8000)).astype("f4")
child, net = None, fg.TwoLayerSigmoid(32, 64, rng=0)
fg.set_num_threads(n_threads)

def handler(*_):
    global child
    signal.setitimer(signal.ITIMER_REAL, 0)
    child = os.fork()

def compute():
    net.fit(X, y, optimizer=fg.Adam(), epochs=2, batch_size=1000, rng=0)
    return net(X)

calls = {
    "fit": lambda: net.fit(X, y, optimizer=fg.Adam(), epochs=100, batch_size=1000, rng=0),
    "fit of whole batches": lambda: net.fit(X, y, optimizer=fg.Adam(), epochs=500),
    "forward": lambda: [net(X) for _ in range(1000)],
    "matmul": lambda: fg.kernels.matmul(np.ones((3000, 3000), "f4"), np.ones((3000, 3000), "f4")),
    "sigmoid": lambda: fg.kernels.sigmoid(np.zeros(3 * 10**8, "f4")),
}
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
error = None
try:
    while child is None:
        calls[sys.argv[2]]()
except RuntimeError as caught:
    error = caught
if child == 0:      # it ended with an error, or went on alone; and it computes
    try:
        assert error is None or "forked by a signal handler" in str(error), error
        assert error is None or n_threads > 1
        compute()
        fg.kernels.matmul(X.T[:2000], X)
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)
assert error is None
assert os.waitpid(child, 0)[1] == 0
compute()
"""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("call", ["fit", "fit of whole batches", "forward", "matmul", "sigmoid"])
def test_a_fork_in_a_signal_handler(call, n_threads):
    in_a_new_process(FORK_IN_A_HANDLER, n_threads, call)
    tried("forks in signal handlers of a call")


def test_a_fork_while_another_thread_trains_and_shuffles():
    """The child has neither that thread nor what it held: it may train that network, and draw from that generator."""
    code = """
import os, threading, time
import numpy as np, fusegrad as fg
X, y = np.ones((2, 300_000), "f4"), np.ones(300_000, "f4")
rng, stop = np.random.default_rng(0), []
net = fg.Sequential(fg.Linear(2, 1), rng=0)     # most of the time goes into the shuffling
optimizer = fg.Adam()
thread = threading.Thread(target=lambda: net.fit(
    X, y, optimizer=optimizer, epochs=10**6, batch_size=1000, rng=rng, n_threads=1, callbacks=[lambda *_: bool(stop)]))
thread.start()
time.sleep(0.1)
for i in range(40):
    child = os.fork()
    if child == 0:
        rng.random()
        net.fit(X[:, :1000], y[:1000], optimizer=fg.SGD(lr=1e-3), epochs=2, batch_size=100, rng=rng)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.003 * (i % 7))
try:
    net.train_step(X, y, optimizer)
except RuntimeError:
    pass
else:
    raise AssertionError("here the network is being trained still")
stop.append(1)
thread.join()
"""
    in_a_new_process(code, timeout=60)


def test_forks_while_threads_share_a_generator():
    """Also where a thread waits for the generator's lock, or has just acquired it."""
    code = """
import os, signal, threading, time
import numpy as np, fusegrad as fg
rng, stop = np.random.default_rng(0), []
X, y = np.ones((16, 20_000), "f4"), np.ones(20_000, "f4")
nets = [fg.TwoLayerSigmoid(16, 32, rng=i) for i in range(3)]

def train(net):
    optimizer = fg.SGD(1e-6)
    while not stop:
        net.fit(X, y, optimizer=optimizer, epochs=20, batch_size=1000, rng=rng, n_threads=1)

threads = [threading.Thread(target=train, args=(net,)) for net in nets]
for thread in threads:
    thread.start()
time.sleep(0.2)
end = time.monotonic() + 5
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        rng.random()
        nets[0].fit(X, y, optimizer=fg.SGD(1e-6), epochs=1, batch_size=5000, rng=rng, n_threads=1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        os._exit(1)
stop.append(1)
for thread in threads:
    thread.join()
"""
    in_a_new_process(code, timeout=100)


def test_a_fork_by_a_thread_of_a_child():
    """The system may give it the identifier of the thread that trained."""
    code = """
import os, threading, time
import numpy as np, fusegrad as fg
X, y = np.ones((8, 50_000), "f4"), np.ones(50_000, "f4")
net = fg.TwoLayerSigmoid(8, 16, rng=0)

def train(epochs):
    net.fit(X, y, optimizer=fg.SGD(1e-6), epochs=epochs, n_threads=1)

def fork():
    child = os.fork()
    if child == 0:
        train(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

threading.Thread(target=train, args=(10**9,), daemon=True).start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    train(1)
    os._exit(0)
status = os.waitpid(child, 0)[1]
os._exit(status != 0)
"""
    in_a_new_process(code, timeout=60)


def test_an_exception_as_a_fit_ends():
    """A handler may raise one where `Computing.__exit__` begins: its thread no longer counts as one that computes."""
    found = []

    def compute():
        computing = Computing()
        computing.__enter__()
        found.append(in_another_thread(_sharing))
        del computing  # without __exit__
        found.append(in_another_thread(_sharing))

    def in_another_thread(function):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    in_another_thread(compute)
    assert found == [2, 1]
