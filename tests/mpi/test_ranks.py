"""Real ranks: programs that mpiexec starts, compared with one process. make test-mpi"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import tried

import fusegrad as fg

pytestmark = pytest.mark.mpi

MPIEXEC = Path(sys.executable).with_name("mpiexec")
RANKS = [1, 2, 3, 4]
SECONDS = 10  # within which all ranks end after one of them has failed

#: What all programs begin with.
SETUP = """
import os, signal, sys, time
import numpy as np, fusegrad as fg
from mpi4py import MPI
comm = MPI.COMM_WORLD
data = np.random.default_rng(1)
X = data.normal(size=(6, 3000)).astype("f4")
y = np.tanh(X[:1] - X[1:2]) + X[2:3] * X[3:4]

def network(**options):
    return fg.Sequential(fg.Linear(6, 12), fg.Tanh(), fg.Linear(12, 1), rng=0, **options)

def say(*words):
    os.write(1, (" ".join(map(str, [comm.rank, *words])) + "\\n").encode())  # whole lines
"""


def start(n, code, *arguments):
    command = [str(MPIEXEC), "-n", str(n), sys.executable, "-c", SETUP + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process, timeout=300):
    """What the ranks print, one list each, and the exit status."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the ranks did not end within {timeout} s: {out[-2000:]} {err[-3000:]}")
    return out, err, process.returncode


def lines(n, code, *arguments, timeout=300):
    """The last line of each rank of a program that succeeds, by rank."""
    out, err, status = finish(start(n, code, *arguments), timeout)
    assert status == 0, f"exit status {status}: {out[-2000:]} {err[-3000:]}"
    found = dict(line.split(" ", 1) for line in out.splitlines() if line[:1].isdigit() and " " in line)
    assert set(found) == set(map(str, range(n))), out
    return [found[str(rank)] for rank in range(n)]


# ---- the bits of one process ----

SAME = """
def five(dtype):
    sizes = [6, 9, 8, 7, 5, 1]
    layers = []
    for n_in, n_out, activation in zip(sizes, sizes[1:], [fg.Tanh(), fg.ReLU(), fg.GELU(), fg.SiLU(), None]):
        layers += [fg.Linear(n_in, n_out), *([activation, fg.Dropout(0.1)] if activation else [])]
    return fg.Sequential(*layers, l2=0.01, dtype=dtype, rng=0)

def losses(name, n_outputs=1):
    return lambda dtype: fg.Sequential(
        fg.Linear(6, 12), fg.Sigmoid(), fg.Linear(12, n_outputs), loss=name, dtype=dtype, rng=0)

networks = {
    "univariate": lambda dtype: fg.UnivariateRegression(rng=0, dtype=dtype),
    "multivariate": lambda dtype: fg.MultivariateRegression(6, rng=0, dtype=dtype),
    "linear": lambda dtype: fg.TwoLayerLinear(6, 5, rng=0, dtype=dtype),
    "sigmoid": lambda dtype: fg.TwoLayerSigmoid(6, 20, rng=0, dtype=dtype),
    "scaled": lambda dtype: fg.Sequential(
        fg.Scale(6), fg.Linear(6, 9), fg.Mish(), fg.Linear(9, 1), rng=0, dtype=dtype),
    "five": five,
    **{name: losses(name) for name in ("huber", "quantile", "poisson", "binary_cross_entropy")},
    "softmax_cross_entropy": losses("softmax_cross_entropy", 3), "multiclass_hinge": losses("multiclass_hinge", 3),
}
optimizers = [
    lambda: fg.SGD(0.02), lambda: fg.SGD(0.01, momentum=0.9), lambda: fg.SGD(0.01, momentum=0.9, nesterov=True),
    lambda: fg.Adagrad(0.02), lambda: fg.RMSprop(0.005), lambda: fg.Adam(0.01, clip_norm=1.0), lambda: fg.AdamW(0.01),
]
weights = data.uniform(size=3000)
weights[::7] = 0
modes = [
    dict(epochs=3), dict(epochs=2, batch_size=1000, rng=1), dict(epochs=2, batch_size=700, shuffle=False),
    dict(epochs=2, batch_size=900, rng=2, sample_weight=weights), dict(epochs=1, batch_size=50, rng=1),
    dict(epochs=3, sample_weight=weights, schedule=fg.CosineDecay(0.05, 20)),
]
"""

SAME_DATA = (
    SAME
    + """
wrong, n = [], 0
for i, (name, make) in enumerate(networks.items()):
    for dtype in ("f4", "f8"):
        inputs = X[:1] if name == "univariate" else X
        targets = y
        if name in ("poisson", "binary_cross_entropy"):
            targets = (y > 0).astype(dtype)
        if name in ("softmax_cross_entropy", "multiclass_hinge"):
            targets = (y[0] > 0).astype(int) + (y[0] > 1)
        for j, optimizer in enumerate(optimizers):
            for mode in modes[(i + j) % 3 :: 3]:
                alone, together = make(dtype), make(dtype)
                one = alone.fit(inputs, targets, optimizer=optimizer(), **mode)
                many = together.fit(inputs, targets, optimizer=optimizer(), comm=comm, **mode)
                n += 1
                if not ((alone.parameters == together.parameters).all() and one.loss == many.loss):
                    wrong.append((name, dtype, optimizer(), list(mode)))
say(n, wrong)
"""
)


@pytest.mark.parametrize("n", RANKS)
def test_all_data_on_each_rank(n):
    found = lines(n, SAME_DATA)
    count = found[0].split()[0]
    assert found == [f"{count} []"] * n
    tried(f"fits by {n} ranks, with the bits of one process", int(count))


PARTITIONED = (
    SAME
    + """
wrong, n = [], 0
cuts = [np.linspace(0, 3000, comm.size + 1), np.sort(np.r_[0, data.integers(0, 3001, comm.size - 1), 3000]),
        np.r_[np.zeros(comm.size), 3000], np.r_[0, np.full(comm.size, 3000)]]
for i, (name, make) in enumerate(networks.items()):
    for dtype in ("f4", "f8"):
        inputs = X[:1] if name == "univariate" else X
        targets = (y > 0).astype(dtype) if name in ("poisson", "binary_cross_entropy") else y.astype(dtype)
        if name in ("softmax_cross_entropy", "multiclass_hinge"):
            targets = ((y[0] > 0).astype(int) + (y[0] > 1))[np.newaxis]
        for j, sample_weight in enumerate([None, weights]):
            cut = cuts[(i + j) % 4].astype(int)
            own = slice(cut[comm.rank], cut[comm.rank + 1])
            optimizer = optimizers[(i + j) % len(optimizers)]
            for epochs in (4, 30):
                alone, together = make(dtype), make(dtype)
                one = alone.fit(inputs, targets, optimizer=optimizer(), epochs=epochs, sample_weight=sample_weight)
                many = together.fit(
                    inputs[:, own], targets[:, own], optimizer=optimizer(), epochs=epochs, comm=comm, partitioned=True,
                    sample_weight=None if sample_weight is None else sample_weight[own])
                n += 1
                if not ((alone.parameters == together.parameters).all() and one.loss == many.loss):
                    wrong.append((name, dtype, optimizer(), epochs, list(cut)))
say(n, wrong)
"""
)


@pytest.mark.parametrize("n", RANKS)
def test_partitioned_full_batches(n):
    """Equal and uneven parts, empty ranks, blocks and chunks of moments that ranks share."""
    found = lines(n, PARTITIONED)
    count = found[0].split()[0]
    assert found == [f"{count} []"] * n


def test_partitioned_mini_batches():
    """As many ranks give the same bits in every run, and train as well as one process."""
    code = """
import zlib
own = slice(comm.rank * 900, comm.rank * 900 + (900 if comm.rank < comm.size - 1 else 3000))
for sample_weight in (None, data.uniform(size=3000)):
    net = network()
    weights = None if sample_weight is None else sample_weight[own]
    history = net.fit(X[:, own], y[:, own], sample_weight=weights, optimizer=fg.Adam(0.01), epochs=30, batch_size=100,
                      rng=0, comm=comm, partitioned=True)
    alone = network()
    other = alone.fit(X, y, sample_weight=sample_weight, optimizer=fg.Adam(0.01), epochs=30, batch_size=100, rng=0)
    assert history.loss[-1] < 1.3 * other.loss[-1], (history.loss[-1], other.loss[-1])
say(zlib.crc32(net.parameters), history.loss[-1])
"""
    first, second = lines(3, code), lines(3, code)
    assert first == second
    assert len(set(first)) == 1


def test_reduction_by_ranks():
    """One sum for each rank: all ranks the same, in every run; the rounding of one process is another one."""
    code = """
import zlib
alone, net = network(), network()
for mode in (dict(epochs=5), dict(epochs=3, batch_size=500, rng=1), dict(epochs=1, batch_size=7, rng=2)):
    alone.fit(X, y, optimizer=fg.SGD(0.01), **mode)
    net.fit(X, y, optimizer=fg.SGD(0.01), comm=comm, reduction="ranks", **mode)
difference = abs(net.parameters - alone.parameters).max()
assert difference < 1e-5, difference
say(zlib.crc32(net.parameters))
"""
    first, second = lines(3, code), lines(3, code)
    assert first == second
    assert len(set(first)) == 1


def test_rank_0_decides_how_a_fit_begins():
    """Parameters, state and generator of rank 0 are sent to all; the arguments must be the same."""
    code = """
net = fg.Sequential(fg.Linear(6, 9), fg.Dropout(0.5), fg.Linear(9, 1), rng=comm.rank)
optimizer, rng = fg.Adam(0.01), np.random.default_rng(comm.rank)
net.fit(X[:, :100], y[:, :100], optimizer=optimizer, epochs=comm.rank + 1)
net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=600, rng=rng, comm=comm)
alone = fg.Sequential(fg.Linear(6, 9), fg.Dropout(0.5), fg.Linear(9, 1), rng=0)
other, draws = fg.Adam(0.01), np.random.default_rng(0)
alone.fit(X[:, :100], y[:, :100], optimizer=other, epochs=1)
alone.fit(X, y, optimizer=other, epochs=2, batch_size=600, rng=draws)
assert rng.bit_generator.state == draws.bit_generator.state
assert (optimizer.state == other.state).all() and optimizer.n_steps == other.n_steps
say((net.parameters == alone.parameters).all())
"""
    assert lines(3, code) == ["True"] * 3


def test_streams(tmp_path):
    """Each rank reads all blocks."""
    X = np.random.default_rng(0).normal(size=(6, 5000)).astype("f4")
    X.tofile(tmp_path / "X")
    code = """
X = np.memmap(sys.argv[1], "f4", "r", shape=(6, 5000))
alone, net = network(), network()
for targets, fitted in ((None, alone), (comm, net)):
    fitted.fit(fg.Blocks(X, X[0], block_size=700), optimizer=fg.Adam(), epochs=2, batch_size=600, rng=0, comm=targets)
say((net.parameters == alone.parameters).all())
"""
    assert lines(2, code, tmp_path / "X") == ["True"] * 2


def test_threads_are_divided():
    """Ranks that may use the same processors share them out, unless the user has said how many threads."""
    code = """
net = fg.TwoLayerSigmoid(8, 64, rng=0)
X = data.normal(size=(8, 100_000)).astype("f4")
before = len(os.listdir("/proc/self/task"))
net.fit(X, X[:1], optimizer=fg.Adam(), epochs=3, comm=comm)
say(len(os.listdir("/proc/self/task")) - before + 1, max(1, len(os.sched_getaffinity(0)) // comm.size))
"""
    for line in lines(2, code):
        used, most = map(int, line.split())
        assert used <= most


# ---- ranks that fail ----

FAIL = """
def fit(**options):
    net = network()
    try:
        net.fit(X, y, **{"optimizer": fg.Adam(), "epochs": 10**6, "batch_size": 600, "rng": 0, "comm": comm, **options})
    except BaseException as error:
        say(type(error).__name__, error, *getattr(error, "__notes__", []))
    else:
        say("no error")
"""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("fit(epochs=2 + (comm.rank == 1))", "ValueError comm: expected the same arguments on all ranks"),
        ("fit(batch_size=600 if comm.rank else None)", "ValueError comm: expected the same arguments on all ranks"),
        ("fit(optimizer=fg.Adam(lr=0.1 * (comm.rank + 1)))", "ValueError comm: expected the same arguments"),
        ("fit(epochs='many' if comm.rank == 1 else 3)", "TypeError epochs: expected an integer"),
        ("X = X[: 6 - (comm.rank == 1)]; fit()", "ValueError X: expected 6 features"),
        ("X = X[:, : 3000 - comm.rank]; y = y[:, : 3000 - comm.rank]; fit()", "ValueError comm: expected the same"),
        (
            "X[0, 5] = np.nan if comm.rank == 1 else X[0, 5]; fit(partitioned=True, batch_size=None)",
            "ValueError X: expected finite",
        ),
        (
            "X[0, 5] = np.nan if comm.rank == 1 else X[0, 5]; fit(partitioned=True)",
            "ValueError X: expected finite numbers",
        ),
        (
            "X = X[:, 1000 * comm.rank :][:, :1000]; y = y[:, :1000]; fit()",
            "ValueError comm: expected the same arguments",
        ),
        ("y[:] = 1e30; fit(optimizer=fg.SGD(1.0))", "DivergenceError the fit diverged"),
        ("fit(callbacks=[lambda net, history: 1 // (comm.rank - 1)] if comm.rank == 1 else [])", "ZeroDivisionError"),
        (
            "fit(callbacks=[lambda net, history: net.parameters.__setitem__(0, comm.rank)])",
            "RuntimeError comm: the parameters, the learning rate or the validation loss of ranks 0 and 1 differ",
        ),
        ("fit(optimizer=type('Own', (), {'step': lambda self, parameters, gradient: None})())", "TypeError comm:"),
        (
            "fit(reduction=['blocks', 'rank', 'blocks'][comm.rank])",
            "ValueError reduction: expected 'blocks' or 'ranks'",
        ),
        (
            "fit(partitioned=comm.rank == 1)",
            "ValueError comm: expected the same arguments on all ranks, got partitioned",
        ),
        (
            "fit(sample_weight=data.uniform(size=3000) * (1 + comm.rank))",
            "ValueError comm: expected the same arguments",
        ),
        ("fit(reduction='tree')", "ValueError reduction: expected 'blocks' or 'ranks'"),
        ("fit(comm=3)", "TypeError comm: expected a communicator"),
    ],
)
def test_all_ranks_stop_with_the_same_error(call, message):
    found = lines(3, FAIL + call, timeout=60)
    for line in found:
        assert line.startswith(message), found


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("ValueError('caf' + os.fsdecode(b'\\xe9'))", "caf?"),
        ("type('Own', (Exception,), {'__str__': lambda self: 1 // 0})()", "RuntimeError: Own: "),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')", "RuntimeError: UnicodeDecodeError: "),
        ("ExceptionGroup('some', [ValueError()])", "RuntimeError: ExceptionGroup: some (1 sub-exception)"),
        ("SystemExit(3)", "RuntimeError: SystemExit: 3"),
    ],
)
def test_errors_with_unusual_texts(error, message):
    code = f"""
def callback(net, history):
    if comm.rank == 1:
        raise {error}
try:
    network().fit(X, y, optimizer=fg.Adam(), epochs=10, comm=comm, callbacks=[callback])
except BaseException as error:
    say(type(error).__name__ + ":", "own" if comm.rank == 1 else error)
"""
    assert message in lines(2, code, timeout=60)[0]


def test_a_fit_in_a_callback_of_one_rank():
    """The ranks are at different places: all fits end."""
    code = """
def callback(net, history):
    if comm.rank == 1:
        network().fit(X, y, optimizer=fg.Adam(), epochs=1, comm=comm)
try:
    network().fit(X, y, optimizer=fg.Adam(), epochs=10, comm=comm, callbacks=[callback])
except RuntimeError as error:
    say(error)
"""
    found = lines(2, code, timeout=60)
    assert found[0] == found[1]
    assert found[0].startswith("comm: rank 0 is after an epoch, rank 1 at the start of a fit")


def test_fits_in_callbacks_of_all_ranks():
    code = """
def callback(net, history):
    network().fit(X, y, optimizer=fg.Adam(), epochs=1, comm=comm)
net = network()
net.fit(X, y, optimizer=fg.Adam(), epochs=3, comm=comm, callbacks=[callback])
alone = network()
alone.fit(X, y, optimizer=fg.Adam(), epochs=3)
say((net.parameters == alone.parameters).all())
"""
    assert lines(2, code, timeout=60) == ["True"] * 2


def test_parameters_that_differ_after_the_last_callback():
    code = """
class Late:
    def __call__(self, net, history):
        pass
    def on_end(self, fit):
        fit.net.parameters[0] = comm.rank
try:
    network().fit(X, y, optimizer=fg.Adam(), epochs=3, comm=comm, callbacks=[Late()])
except RuntimeError as error:
    say(error)
"""
    for line in lines(2, code, timeout=60):
        assert line.startswith("comm: the parameters, the learning rate or the validation loss of ranks 0 and 1 differ")


def test_weights_of_0_on_one_rank():
    """Of partitioned examples, as if one process had them all."""
    code = """
weights = np.r_[np.zeros(1000), np.ones(2000)]
own = slice(1500 * comm.rank - 500 * (comm.rank == 1), 1000 + 2000 * comm.rank)
for options in ({}, {"batch_size": 300, "rng": 0}):
    net, alone = network(), network()
    options |= dict(sample_weight=weights[own], comm=comm, partitioned=True)
    net.fit(X[:, own], y[:, own], optimizer=fg.Adam(), epochs=3, **options)
    alone.fit(X, y, sample_weight=weights, optimizer=fg.Adam(), epochs=3)
    same = (net.parameters == alone.parameters).all() or "batch_size" in options
    say(same and np.isfinite(net.parameters).all())
"""
    assert lines(2, code, timeout=60) == ["True"] * 2


def test_a_rank_without_examples_in_any_form():
    code = """
import pandas
forms = [(X[:, :0], y[:, :0]), (pandas.DataFrame(X[:, :0].T), pandas.DataFrame(y[:, :0].T)), (X[:, :0], [])]
for form in forms:
    net = network()
    own = (X, y) if comm.rank else form
    net.fit(*own, optimizer=fg.Adam(), epochs=3, comm=comm, partitioned=True)
    line = fg.UnivariateRegression(rng=0)
    own = (X[0], y[0]) if comm.rank else (X[0, :0], y[0, :0])
    line.fit(*own, optimizer=fg.Adam(), epochs=3, comm=comm, partitioned=True)
alone = network()
alone.fit(X, y, optimizer=fg.Adam(), epochs=3)
say((net.parameters == alone.parameters).all())
"""
    assert lines(2, code, timeout=60) == ["True"] * 2


def test_one_rank_stops_all():
    code = """
net = network()
callback = lambda net, history: comm.rank == 1 and history.epochs == 5
history = net.fit(X, y, optimizer=fg.Adam(), epochs=100, batch_size=600, rng=0, comm=comm, callbacks=[callback])
say(history.epochs, history.stopped)
"""
    assert lines(3, code) == ["5 True"] * 3


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_ctrl_c_on_any_rank(interrupted):
    """It ends all ranks with KeyboardInterrupt, wherever they are."""
    process = start(3, "say('pid', os.getpid())\n" + FAIL + "fit()")
    pids = {}
    while len(pids) < 3:
        rank, _, pid = process.stdout.readline().split()
        pids[int(rank)] = int(pid)
    time.sleep(0.7)
    os.kill(pids[interrupted], signal.SIGINT)
    began = time.monotonic()
    out, err, status = finish(process, timeout=60)
    assert time.monotonic() - began < SECONDS
    assert status == 0, err
    assert sorted(line.split()[1] for line in out.splitlines()) == ["KeyboardInterrupt"] * 3, out


def test_two_signals_in_quick_succession():
    """The second one interrupts the end of the fit that the first one has begun: no rank waits for ever."""
    code = """
class Often(BaseException):
    pass

count = 0
def handler(*_):
    global count
    count += 1
    if count >= 2:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if count <= 2:      # a third one may be on its way by then
        raise Often

signal.signal(signal.SIGALRM, handler)
rank = int(sys.argv[1])
generator = np.random.default_rng(rank)
for i in range(40):
    comm.Barrier()
    count = 2 * (comm.rank != rank)
    try:
        try:
            if comm.rank == rank:
                signal.setitimer(signal.ITIMER_REAL, 0.02, generator.uniform(2e-5, 3e-4))
            network().fit(X, y, optimizer=fg.Adam(), epochs=10**7, batch_size=600, rng=0, comm=comm)
        except (Often, RuntimeError):
            pass
        while count < 2:
            time.sleep(0.001)
    except Often:
        pass
say("done")
"""
    for rank in (0, 1):
        assert lines(2, code, rank, timeout=100) == ["done"] * 2


KILLED = """
path = sys.argv[1]
net, optimizer, rng = network(), fg.Adam(0.01), np.random.default_rng(0)
say("pid", os.getpid())
net.fit(X, y, optimizer=optimizer, epochs=10**7, batch_size=600, rng=rng, comm=comm, callbacks=[fg.Checkpoint(path)])
"""

RESUMED = """
net, optimizer, rng = fg.load_checkpoint(sys.argv[1])
epochs = optimizer.n_steps // 5
net.fit(X, y, optimizer=optimizer, epochs=epochs + 2, initial_epoch=epochs, batch_size=600, rng=rng, comm=comm)
alone = network()
alone.fit(X, y, optimizer=fg.Adam(0.01), epochs=epochs + 2, batch_size=600, rng=np.random.default_rng(0))
say((net.parameters == alone.parameters).all(), epochs)
"""


def test_a_killed_rank(tmp_path):
    """The others end within seconds. The last checkpoint goes on with another number of ranks, and the same bits."""
    for i in range(20):
        path = tmp_path / f"net{i}.safetensors"
        process = start(2 + i % 2, KILLED, path)
        pids = [int(process.stdout.readline().split()[2]) for _ in range(2 + i % 2)]
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.03 * (i % 7))
        os.kill(pids[i % len(pids)], signal.SIGKILL)
        began = time.monotonic()
        _, _, status = finish(process, timeout=60)
        assert time.monotonic() - began < SECONDS
        assert status != 0
        if i % 5 == 0:
            n = 1 + i % 3
            assert all(line.startswith("True") for line in lines(n, RESUMED, path))
        else:
            assert fg.load_checkpoint(path).optimizer.n_steps % 5 == 0
    tried("ranks killed, the others ended and the checkpoint went on", 20)


def test_the_programs_of_the_guide(tmp_path):
    """They run as they stand, one after the other."""
    page = Path(__file__).parents[2] / "docs" / "guide" / "many-machines.md"
    train, resume = (
        block
        for block in re.findall(r"```\{code-block\} python\n(.*?)```", page.read_text(), re.DOTALL)
        if "comm=comm" in block
    )
    resume = train[: train.index("net = ")] + resume
    for name, code in (("train", train), ("resume", resume)):
        (tmp_path / f"{name}.py").write_text(code)
        command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "mpi4py", f"{name}.py"]
        subprocess.run(command, check=True, timeout=100, cwd=tmp_path)
    assert fg.load_metadata(tmp_path / "net.safetensors")["epoch"] == "10"
