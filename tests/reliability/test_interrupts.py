"""Signals: Ctrl-C is answered within 200 ms in long calls, and what a handler finds, or saves, is whole."""

import os
import threading

import numpy as np
import pytest
from support import in_a_new_process, tried, within

import fusegrad as fg

pytestmark = pytest.mark.once  # the same code on each instruction set

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
    try:
        thread.start()
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
assert net.plan(3300).folded
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


# ---- at any moment ----

ANY_MOMENT = """
moments = np.random.default_rng(int(sys.argv[3]))
X, y = moments.normal(size=(64, 4096)).astype("f4"), moments.normal(size=(1, 4096)).astype("f4")
net, deep = fg.TwoLayerSigmoid(64, 128, rng=0), fg.TwoLayerLinear(64, 128, rng=0)
wide = np.ones((700, 700), "f4")

def fit(net=net, optimizer=None, **arguments):
    net.parameters[:] = 0.01
    net.fit(X, y, optimizer=optimizer or fg.SGD(lr=1e-6), epochs=10**7, rng=0, **arguments)

CALLS = {
    "shuffled": lambda: fit(batch_size=1024),
    "not shuffled": lambda: fit(batch_size=1024, shuffle=False),
    "Nesterov": lambda: fit(optimizer=fg.SGD(lr=1e-6, momentum=0.9, nesterov=True), batch_size=1024),
    "folded": lambda: fit(deep, batch_size=2048),
    "moments": lambda: fit(deep),
    "forward": lambda: [net(X) for _ in range(10**6)],
    "matmul": lambda: [fg.kernels.matmul(wide, wide) for _ in range(10**6)],
}
for _ in range(int(sys.argv[4])):
    interrupted(CALLS[sys.argv[2]], moments.uniform(0.005, 0.03))
"""
#: A thousand each: `make test-interrupts`.
INTERRUPTS = int(os.environ.get("INTERRUPTS", "20"))


@pytest.mark.reliability
@pytest.mark.parametrize("n_threads", [2, 4])
@pytest.mark.parametrize("call", ["shuffled", "not shuffled", "Nesterov", "folded", "moments", "forward", "matmul"])
def test_ctrl_c_at_any_moment(call, n_threads):
    """Every thread leaves, or none does: a call that is not answered would hang until the time-out."""
    seed = np.random.SeedSequence().entropy % 2**32
    out = in_a_new_process(
        SETTING + ANY_MOMENT, n_threads, call, seed, INTERRUPTS, timeout=60 + INTERRUPTS, without=["OMP_NUM_THREADS"]
    )
    waited = sorted(float(w) for w in out.split())
    assert len(waited) == INTERRUPTS
    # A shared machine may stand still for a moment: not the last in a hundred.
    within("seconds to answer Ctrl-C at any moment", waited[-1 - INTERRUPTS // 100], 0.2)
    tried("calls interrupted at any moment", INTERRUPTS)


# ---- what a handler finds ----

SAVE = """
import os, signal, sys, time
import numpy as np, fusegrad as fg
file, m, batch_size, n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
data = np.random.default_rng(1)
X, y = data.normal(size=(8, m)).astype("f4"), data.normal(size=(1, m)).astype("f4")
net, optimizer, rng = fg.TwoLayerSigmoid(8, 16, rng=0), fg.Adam(lr=0.01), np.random.default_rng(0)

class Preempted(BaseException):
    pass

def handler(*_):
    try:
        net.save(file, optimizer=optimizer, rng=rng)
    except RuntimeError:    # on a machine that stood still in the middle of an epoch
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        return
    if not optimizer.n_steps:   # on a slow machine: before the first step
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        return
    raise Preempted

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[5]))
try:
    net.fit(X, y, optimizer=optimizer, epochs=10**6, batch_size=batch_size, rng=rng, n_threads=n_threads)
except Preempted:
    pass
found, own, draws = fg.load_checkpoint(file)
assert own.n_steps > 0
per_epoch = -(-m // batch_size)
epochs, rest = divmod(own.n_steps, per_epoch)
assert rest == 0, "an epoch is half made"
twin, other, again = fg.TwoLayerSigmoid(8, 16, rng=0), fg.Adam(lr=0.01), np.random.default_rng(0)
twin.fit(X, y, optimizer=other, epochs=epochs, batch_size=batch_size, rng=again)
assert (twin.parameters == found.parameters).all()
assert (other.state == own.state).all()
assert again.bit_generator.state == draws.bit_generator.state
print(epochs)
"""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("m", "batch_size"), [(1000, 100), (1000, 1000), (3000, 1000), (20_000, 20_000)])
def test_a_checkpoint_saved_by_a_signal_handler(m, batch_size, n_threads, tmp_path):
    """It is that of an epoch's end, and a fit goes on from there with the same bits."""
    for after in (0.07, 0.2):
        in_a_new_process(SAVE, tmp_path / "net.safetensors", m, batch_size, n_threads, after)
        tried("checkpoints saved by a signal handler, of a whole epoch")


def test_a_checkpoint_of_half_an_epoch_is_refused(tmp_path):
    """Epochs of seconds: a handler runs within one. The parameters alone may be saved."""
    code = SAVE.replace("class Preempted", "net.save(file)\nclass Preempted", 1)
    code = code.replace("    try:\n        net.save", "    net.save(file)\n    try:\n        net.save")
    code = code.replace(
        "except RuntimeError:", "except RuntimeError as error:\n        print(error, flush=True)\n        os._exit(0)"
    )
    out = in_a_new_process(code, tmp_path / "net.safetensors", 10**7, 10**5, 1, 0.3)
    assert "this epoch is not finished" in out
    assert "save in a callback of the fit" in out


def test_another_thread_saves_no_network_in_training(tmp_path):
    net = fg.TwoLayerSigmoid(3, 4, rng=0)
    refused = []

    def callback(net, history):
        net.save(tmp_path / "net")  # here it may
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()

    def save():
        try:
            net.save(tmp_path / "net")
        except RuntimeError as error:
            refused.append(str(error))

    net.fit(np.ones((3, 9)), np.ones(9), optimizer=fg.Adam(), epochs=1, callbacks=[callback])
    assert refused == ["another thread trains this network: save it from a callback of that fit"]
    net.save(tmp_path / "net")


PREEMPTION = """
import signal, sys, threading, os, time
import numpy as np, fusegrad as fg
X, y = np.ones((8, 3000), "f4"), np.ones(3000, "f4")
net, optimizer, rng = fg.TwoLayerSigmoid(8, 16, rng=0), fg.Adam(lr=0.01), np.random.default_rng(0)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

def save_and_stop(net, history):
    if stop:
        net.save(sys.argv[1], optimizer=optimizer, rng=rng)
    return bool(stop)

threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
history = net.fit(X, y, optimizer=optimizer, epochs=10**7, batch_size=32, rng=rng, callbacks=[save_and_stop])
print(history.epochs)
"""


def test_a_checkpoint_on_sigterm(tmp_path):
    """As docs/promises.md says."""
    epochs = int(in_a_new_process(PREEMPTION, tmp_path / "net.safetensors"))
    assert fg.load_checkpoint(tmp_path / "net.safetensors").optimizer.n_steps == epochs * 94


# ---- the generator ----

DRAWS = """
import signal, sys, threading, time
import numpy as np, fusegrad as fg

class Plain(np.random.PCG64):
    lock = threading.Lock()     # not reentrant, as those of other packages may be

class Enough(BaseException):
    pass

rng = np.random.Generator(Plain(0))
m, n_threads = int(sys.argv[1]), int(sys.argv[2])
X, y = np.ones((8, m), "f4"), np.ones(m, "f4")
drawn, waited = [], []

def handler(*_):
    drawn.append(rng.random())
    if len(drawn) == 5:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Enough

def draw():
    while len(drawn) < 5:
        start = time.monotonic()
        rng.random()
        waited.append(time.monotonic() - start)
        time.sleep(0.01)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
thread = threading.Thread(target=draw)
thread.start()
try:
    fg.TwoLayerSigmoid(8, 16, rng=0).fit(
        X, y, optimizer=fg.SGD(lr=1e-3), epochs=10**9, batch_size=256, rng=rng, n_threads=n_threads)
except Enough:
    pass
thread.join()
print(max(waited))
"""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("m", [2000, 3 * 10**6])
def test_handlers_and_other_threads_draw_from_the_generator_of_a_fit(m, n_threads):
    waited = float(in_a_new_process(DRAWS, m, n_threads, timeout=60))
    within("seconds that another thread waits for the generator of a fit", waited, 0.5)


WHILE_SHUFFLING = """
import signal, sys, threading
import numpy as np, fusegrad as fg

class Enough(BaseException):
    pass

m = int(sys.argv[1])
X, y, w = np.zeros((2, m), "f4"), np.zeros(m, "f4"), np.ones(m, "f4")
rng, net = np.random.default_rng(0), fg.MultivariateRegression(2, rng=0)
before, held, done = net.parameters.copy(), threading.Event(), threading.Event()

def hold():
    with rng.bit_generator.lock:
        held.set()
        done.wait()

def handler(*_):
    raise Enough

def interrupted(rng):
    # The order of the examples is in memory that others have used.
    used = [np.full(m, 1 << 44, np.intp) for _ in range(40)]
    del used
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        while True:
            net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=1, batch_size=100, rng=rng, sample_weight=w)
    except Enough:
        pass

signal.signal(signal.SIGALRM, handler)
thread = threading.Thread(target=hold)
thread.start()
held.wait()
interrupted(rng)
assert (net.parameters == before).all()
done.set()
thread.join()
if m > 10**6:
    interrupted(rng)
"""


@pytest.mark.parametrize("m", [5000, 100_000, 3 * 10**7])
def test_a_handler_raises_while_the_examples_are_shuffled(m):
    """Before there is an order, or half way: it is not used."""
    in_a_new_process(WHILE_SHUFFLING, m, timeout=60)
