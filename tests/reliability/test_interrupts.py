"""Ctrl-C: a real signal, in long calls, is answered within 200 ms, and what it finds is whole."""

import pytest
from support import in_a_new_process, tried, within

SETTING = """
import signal, sys, threading, time
import numpy as np, fusegrad as fg
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's background job has it ignored
fg.set_num_threads(int(sys.argv[1]))
sent = []

def interrupted(call, after):
    def interrupt():
        time.sleep(after)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call()
    except KeyboardInterrupt:
        waited = time.monotonic() - sent[-1]
    else:
        raise AssertionError("it ended before it was interrupted")
    thread.join()
    print(waited, flush=True)
"""

CALLS = {
    "a fit over 10^7 examples": """
net, optimizer = fg.TwoLayerSigmoid(2, 16, rng=0), fg.SGD(lr=0.01)
X, y = np.ones((2, 10**7), "float32"), np.ones(10**7, "float32")
for after in (0.05, 0.3, 0.6):
    interrupted(lambda: net.fit(X, y, optimizer=optimizer, epochs=1000), after)
twin, other = fg.TwoLayerSigmoid(2, 16, rng=0), fg.SGD(lr=0.01)
for _ in range(optimizer.n_steps):
    twin.train_step(X, y, other)
assert (twin.parameters == net.parameters).all(), "not the parameters of the last finished step"
net.fit(X[:, :1000], y[:1000], optimizer=optimizer, epochs=2)
""",
    "a shuffled fit over 10^7 examples": """
net, optimizer = fg.TwoLayerSigmoid(2, 4, rng=0), fg.SGD(lr=0.01)
X, y = np.ones((2, 10**7), "float32"), np.ones(10**7, "float32")
for after in (0.02, 0.1, 0.2, 0.6):
    interrupted(lambda: net.fit(X, y, optimizer=optimizer, epochs=1000, batch_size=1 << 20, rng=0), after)
net.fit(X[:, :1000], y[:1000], optimizer=optimizer, epochs=2)
""",
    "a step of three long blocks, in the last": """
net, optimizer = fg.Sequential(fg.Linear(1600, 1600), fg.Sigmoid(), rng=0), fg.SGD(lr=0.01)
X, y = np.ones((1600, 20_000), "float32"), np.ones((1600, 20_000), "float32")
assert net.plan(X.shape[1]).n_blocks == 3
for call in (lambda: net.train_step(X, y, optimizer), lambda: net.loss_and_gradient(X, y)):
    start = time.monotonic()
    call()
    step = time.monotonic() - start
    for part in (0.55, 0.6, 0.65):  # one of two threads has nothing left to do
        interrupted(call, part * step)
""",
    "one step of (1024, 2048, 10^5)": """
net, optimizer = fg.TwoLayerSigmoid(1024, 2048, rng=0), fg.SGD(lr=0.01)
X, y = np.ones((1024, 10**5), "float32"), np.ones(10**5, "float32")
before = net.parameters.copy()
for after in (0.1, 0.7):
    interrupted(lambda: net.train_step(X, y, optimizer), after)
    assert (net.parameters == before).all(), "not the parameters of the last finished step"
    assert optimizer.n_steps == 0
interrupted(lambda: net.forward(X), 0.3)
interrupted(lambda: net.loss(X, y), 0.3)
net.fit(X[:, :100], y[:100], optimizer=optimizer, epochs=1)
""",
    "matmul 8192^3": """
a = np.ones((8192, 8192), "float32")
for after in (0.1, 1.0):
    interrupted(lambda: fg.kernels.matmul(a, a), after)
wide, column = np.broadcast_to(np.float32(1), (4000, 1 << 20)), a[:1, :1].repeat(1 << 20, 0)
interrupted(lambda: fg.kernels.matmul(wide, column), 0.1)
assert (fg.kernels.matmul(a[:100], a[:, :100]) == 8192).all()
""",
    "a product of vectors longer than memory": """
for depth in (2**40, 2**56 + 1, 2**59 + 7, 2**63 // 4 - 1):
    a = np.lib.stride_tricks.as_strided(np.ones(1, "float32"), (1, depth), (4, 0))
    b = np.lib.stride_tricks.as_strided(np.ones(1, "float32"), (depth, 1), (0, 4))
    interrupted(lambda: fg.kernels.matmul(a, b), 0.05)
""",
    "a product of three panels, in the last": """
a, took = np.broadcast_to(1.0, (48, 3 * 10**6)), []
for _ in range(4):
    start = time.monotonic()
    fg.kernels.matmul(a, a.T)
    took.append(time.monotonic() - start)
a = np.broadcast_to(1.0, (48, int(3 * 10**6 * 4 / min(took))))
for after in (2.3, 2.8):    # of 4 s; one of two threads has one panel, the other two
    interrupted(lambda: fg.kernels.matmul(a, a.T), after)
""",
    "sigmoid of 2 x 10^8": """
z = np.zeros(2 * 10**8, "float32")
out = np.zeros_like(z)
interrupted(lambda: [fg.kernels.sigmoid(z, out=out) for _ in range(100)], 0.2)
""",
    "steps of consecutive linear layers": """
net = fg.Sequential(fg.Linear(3000, 3000), fg.Linear(3000, 3000), fg.Linear(3000, 1), rng=0)
optimizer = fg.SGD(lr=1e-12)
X, y = np.ones((3000, 3300), "float32"), np.ones((1, 3300), "float32")
assert net.plan(3300).collapsed
for after in (0.3, 0.8, 1.5):
    interrupted(lambda: net.fit(X, y, optimizer=optimizer, epochs=100, moments=False), after)
interrupted(lambda: [net.loss_and_gradient(X, y) for _ in range(100)], 1.0)
""",
    "moments of (64, 10^6)": """
net = fg.MultivariateRegression(64, rng=0)
X, y = np.ones((64, 10**6), "float32"), np.ones(10**6, "float32")
interrupted(lambda: net.fit(X, y, optimizer=fg.SGD(lr=1e-9), epochs=10**9), 0.1)
interrupted(lambda: net.fit(X, y, optimizer=fg.SGD(lr=1e-9), epochs=10**9), 3)
""",
}


@pytest.mark.reliability
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c(name, n_threads):
    for _attempt in range(2):
        waited = [float(w) for w in in_a_new_process(SETTING + CALLS[name], n_threads, timeout=120).split()]
        if max(waited) <= 0.2:
            break
        tried("calls of Ctrl-C made again: a shared machine may stand still, but hardly twice")
    for w in waited:
        within("seconds to answer Ctrl-C", w, 0.2)
        tried("calls interrupted by Ctrl-C")
