"""Memory: refused at any moment, never leaked."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import in_a_new_process, tried, within

import fusegrad as fg

HERE = Path(__file__).parent
pytestmark = pytest.mark.reliability


CALLS = """
import copy, gc, sys
import numpy as np, fusegrad as fg

X, y = np.random.default_rng(0).normal(size=(4, 3000)), np.ones(3000)

rng = np.random.default_rng(1)
draws = rng.bit_generator.state

def training(layers, optimizer, epochs=3, **arguments):
    def make():
        return fg.Sequential(*layers, rng=0), optimizer()
    def run(net, optimizer):
        rng.bit_generator.state = draws     # made before: NumPy makes a RuntimeError of a lock's MemoryError
        return net.fit(X, y, optimizer=optimizer, epochs=epochs, n_threads=1, **arguments)
    return make, run

def value(found):
    return found.loss if isinstance(found, fg.History) else found

sigmoid = fg.Linear(4, 8), fg.Sigmoid(), fg.Linear(8, 1)
linear = fg.Linear(4, 8), fg.Linear(8, 1)
weights, numbers = np.linspace(0.5, 1.5, 3000), np.arange(3000) % 3
def classifier():
    layers = fg.Linear(4, 8), fg.Mish(), fg.Linear(8, 3)
    net = fg.Sequential(*layers, loss="softmax_cross_entropy", l2=0.1, rng=0)
    return net, fg.AdamW(clip_norm=0.1)
mixed = fg.Scale(4), fg.Linear(4, 8), fg.SiLU(), fg.Dropout(0.2), fg.Linear(8, 1)
unread = fg.Sequential(*sigmoid, rng=0).fit(X, y, optimizer=fg.Adam(), epochs=200)
cases = [
    training(sigmoid, fg.Adam), training(sigmoid, fg.Adam, batch_size=256, rng=rng),
    training(sigmoid, lambda: fg.SGD(lr=0.1, momentum=0.9, nesterov=True), schedule=fg.StepDecay(0.1, 2, 0.5)),
    training(linear, lambda: fg.SGD(lr=0.01), epochs=500), training(linear, lambda: fg.SGD(lr=0.01), moments=False),
    training(mixed, lambda: fg.Adam(learning_rate_factors={"s": 6.0}), schedule=fg.CosineLogDecay(0.01, 3)),
    (classifier, lambda net, optimizer: net.fit(
        X, numbers, optimizer=optimizer, epochs=3, batch_size=1000, shuffle=False, sample_weight=weights, n_threads=1)),
    (classifier, lambda net, optimizer: net.probabilities(X).tobytes()),
    (classifier, lambda net, optimizer: net.backward(X, np.ones((3, 3000))).tobytes()),
    (lambda: (fg.Sequential(*sigmoid, rng=0), fg.Adam()), lambda net, optimizer: copy.copy(unread).loss),
    (lambda: (fg.Sequential(*sigmoid, rng=0), fg.Adam()), lambda net, optimizer: net(X).tobytes()),
    (lambda: (fg.Sequential(*sigmoid, rng=0), fg.Adam()), lambda net, optimizer: net.input_gradient(X, y).tobytes()),
    (lambda: (fg.Sequential(*sigmoid, rng=0), fg.Adam()), lambda net, optimizer: fg.kernels.matmul(X, X.T).tobytes()),
]

def left(net, optimizer):
    return net.parameters.tobytes(), optimizer.n_steps, None if optimizer.state is None else optimizer.state.tobytes()

def each(arm, disarm):
    refused = 0
    for make, run in cases:
        net, optimizer = make()
        expected = value(run(net, optimizer)), left(net, optimizer)
        n = 0
        while True:
            n += 1
            net, optimizer = make()
            net._engine.compiled(1), net.plan(1)     # not of the call
            before = left(net, optimizer)
            gc.collect()
            arm(n)
            try:
                found = run(net, optimizer)
            except MemoryError:
                calls = disarm()
                assert left(net, optimizer) == before, "the network is not as before"
                refused += 1
                assert (value(run(net, optimizer)), left(net, optimizer)) == expected, "the next call is not right"
            else:
                calls = disarm()
                assert (value(found), left(net, optimizer)) == expected
                if calls < n:   # there were no more
                    break
    return refused
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("lasting", [0, 1])
def test_malloc_fails_at_the_nth_call(tmp_path, lasting):
    """NumPy's arrays, and Python's larger objects."""
    shim = tmp_path / "failing_malloc.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", HERE / "failing_malloc.c", "-o", shim], check=True)
    code = (
        CALLS
        + f"""
import ctypes
shim = ctypes.CDLL({str(shim)!r})
shim.disarm_malloc.restype = ctypes.c_long
shim.arm_malloc.argtypes = [ctypes.c_long, ctypes.c_int]
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
def in_use():
    gc.collect()
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd
arm = lambda n: shim.arm_malloc(n, {lasting})
refused = each(arm, shim.disarm_malloc)
before = in_use()
assert each(arm, shim.disarm_malloc) == refused
print(refused, in_use() - before)
"""
    )
    refused, leaked = in_a_new_process(code, LD_PRELOAD=str(shim)).split()
    assert int(refused) > 20
    tried("calls whose n-th malloc was refused, and the network as before", int(refused))
    within("bytes leaked by them", int(leaked), 20_000)


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="Python itself crashes if there is no memory for a generator expression"
)
def test_pythons_allocator_fails_at_the_nth_call():
    """Python's smaller objects."""
    pytest.importorskip("_testcapi", reason="this Python comes without its own test modules")
    code = (
        CALLS
        + """
import _testcapi
count = 0
def arm(n):
    global count
    count = n
    _testcapi.set_nomemory(n, n + 1)
def disarm():
    _testcapi.remove_mem_hooks()
    return calls
# It does not say how often it was asked: a call that is right twenty times in a row had no more to ask for.
right = 0
calls = 10**9
refused = 0
found = None    # else the dict of the globals may grow when a call has succeeded
for make, run in cases:
    net, optimizer = make()
    expected = value(run(net, optimizer)), left(net, optimizer)
    right = n = 0
    while right < 20:
        n += 1
        net, optimizer = make()
        net._engine.compiled(1), net.plan(1)
        before = left(net, optimizer)
        try:
            _testcapi.set_nomemory(n, n + 1)
            try:
                found = run(net, optimizer)
            finally:
                _testcapi.remove_mem_hooks()
        except MemoryError:
            refused += 1
            right = 0
            assert left(net, optimizer) == before, "the network is not as before"
            assert (value(run(net, optimizer)), left(net, optimizer)) == expected
        else:
            right += 1
            assert (value(found), left(net, optimizer)) == expected
print(refused)
"""
    )
    refused = in_a_new_process(code)
    tried("calls whose n-th allocation of Python's was refused, and the network as before", int(refused))
    assert int(refused) > 50


def test_what_a_callback_has_seen_is_not_taken_back():
    net, optimizer, seen = fg.TwoLayerSigmoid(3, 4, rng=0), fg.Adam(), []

    def callback(net, history):
        seen.append(net.parameters.copy())
        if history.epochs == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        net.fit(np.ones((3, 20)), np.ones(20), optimizer=optimizer, epochs=10, callbacks=[callback])
    np.testing.assert_array_equal(net.parameters, seen[2])
    assert optimizer.n_steps == 3


LEAKS = """
import gc, sys
import numpy as np, fusegrad as fg

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096

X, y = np.random.default_rng(0).normal(size=(3, 20)).astype("f4"), np.ones((1, 20), "f4")
net, optimizer = fg.TwoLayerSigmoid(3, 4, rng=0), fg.SGD(lr=0.01, momentum=0.5)
lone = fg.UnivariateRegression(rng=0)
bad = X.copy()
bad[1, 1] = np.nan

def fits(n):
    for i in range(n):
        net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=(None, 8)[i % 2], rng=i)

def steps(n):
    for _ in range(n):
        net.train_step(X, y, optimizer)

def failures(n):
    calls = [
        lambda: net.fit(bad, y, optimizer=optimizer, epochs=1), lambda: net.train_step(X, y[:, 1:], optimizer),
        lambda: net.fit(X, y, optimizer=fg.SGD(lr=1e30), epochs=50), lambda: net(X[1:]), lambda: net(X, out=y[0]),
        lambda: fg.kernels.matmul(X, X), lambda: fg.load("/nowhere"), lambda: fg.kernels.sigmoid("no"),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=1, callbacks=[lambda n, h: 1 / 0]),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=2, schedule=lambda step: -1),
    ]
    for i in range(n):
        try:
            calls[i % len(calls)]()
        except (TypeError, ValueError, OSError, ArithmeticError):
            continue
        raise AssertionError(i)

def predictions(n):
    for i in range(n):
        net(X[:, : 1 + i % 20]); fg.kernels.matmul(X, X.T); fg.kernels.sigmoid(X)

def networks(n):
    for i in range(n):
        fg.TwoLayerSigmoid(3, 4, rng=i).train_step(X, y, fg.Adam())

for call, n in ((fits, 100_000), (steps, 1_000_000), (failures, 10_000), (predictions, 100_000), (networks, 10_000)):
    call(n // 10)
    before = resident()
    call(n)
    print(resident() - before)
"""


def test_leaks():
    for grown in in_a_new_process(LEAKS).split():
        within("bytes that memory grew by in 10^5 fits, 10^6 steps, 10^4 failures", int(grown), 1 << 20)
