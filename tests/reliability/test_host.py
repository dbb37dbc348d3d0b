"""The host's limits are obeyed at call time, and the process is left as it was."""

import os
from pathlib import Path

import pytest
from support import in_a_new_process

import fusegrad as fg
from fusegrad._engine import threads as thread_rule

pytestmark = pytest.mark.once  # the same code on each instruction set

CPU_GROUPS = Path("/sys/fs/cgroup/cpu")


def shown(code, **environment):
    return in_a_new_process(code, without=["OMP_NUM_THREADS"], **environment)


ASK = """
import fusegrad as fg
from fusegrad._engine.config import config
net = fg.TwoLayerSigmoid(64, 64, rng=0)
print(fg.get_num_threads(), net.plan(100_000).n_threads, config()["threads"], sep="; ")
"""


def test_omp_num_threads():
    assert shown(ASK, OMP_NUM_THREADS="3") == "3; 3; 3 (from OMP_NUM_THREADS)"
    assert shown(ASK, OMP_NUM_THREADS="1") == "1; 1; 1 (from OMP_NUM_THREADS)"


def test_affinity_changed_while_running():
    code = f"""
import os
processors = sorted(os.sched_getaffinity(0))
import fusegrad as fg
os.sched_setaffinity(0, processors[:1])
{ASK}
"""
    assert shown(code) == "1; 1; 1 (from affinity)"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="a single processor is the limit already")
def test_threadpoolctl():
    code = f"""
from threadpoolctl import threadpool_limits
import fusegrad as fg
with threadpool_limits(1):
{ASK.replace(chr(10), chr(10) + "    ")}
print(fg.get_num_threads() == len(__import__("os").sched_getaffinity(0)))
"""
    assert shown(code) == "1; 1; 1 (from a limit set in OpenMP, as by threadpoolctl)\nTrue"
    assert shown(code.replace("limits(1)", "limits(1, user_api='openmp')"), OMP_NUM_THREADS="2").startswith("1; 1; 1")


def test_set_num_threads_and_a_call_come_first():
    code = ASK.replace("net =", "fg.set_num_threads(5)\nnet =") + "print(net.plan(100_000, n_threads=2).n_threads)"
    assert shown(code, OMP_NUM_THREADS="3") == "5; 5; 5 (from set_num_threads)\n2"


@pytest.mark.skipif(not os.access(CPU_GROUPS, os.W_OK), reason="control groups cannot be made here")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="a single processor cannot be made fewer")
def test_a_real_quota_set_while_running():
    group = CPU_GROUPS / f"fusegrad-test-{os.getpid()}"
    group.mkdir()
    try:
        code = f"""
from pathlib import Path
import os, time, fusegrad as fg
group = Path({str(group)!r})
assert fg.get_num_threads() == len(os.sched_getaffinity(0))
(group / "cpu.cfs_quota_us").write_text("100000")
(group / "cgroup.procs").write_text(str(os.getpid()))
time.sleep(1.1)     # a quota is read anew each second
{ASK}
"""
        assert shown(code) == "1; 1; 1 (from cgroup quota)"
    finally:
        group.rmdir()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "250000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, None),
        ("0::/host/path", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "rubbish"}, None),
        ("3:cpu,cpuacct:/x\n2:memory:/y", {"cpu/x/cpu.cfs_quota_us": "150000", "cpu/x/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("3:cpu:/x", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "400000 100000"}, 2),
        ("rubbish\n\n0::/a", {"a/cpu.max": "300000 100000"}, 3),
        ("", {}, None),
    ],
)
def test_quotas_as_they_are_written(tmp_path, membership, files, expected):
    for name, text in files.items():
        write(tmp_path / "root" / name, text)
    write(tmp_path / "membership", membership)
    assert thread_rule.read_quota(tmp_path / "root", tmp_path / "membership") == expected
    assert thread_rule.read_quota(tmp_path / "root", tmp_path / "nowhere") is None


def test_the_process_is_as_before():
    """Floating-point environment, NumPy's seed and error state, others' OpenMP settings, signals, directory."""
    code = """
import ctypes, os, signal, sys, threading, warnings, locale
import numpy as np

libm = ctypes.CDLL("libm.so.6")
def state():
    environment = (ctypes.c_char * 64)()
    assert libm.fegetenv(environment) == 0
    control = environment.raw[:2] + environment.raw[28:32] if os.uname().machine == "x86_64" else environment.raw[:8]
    flags_off = bytes([control[2] & 0xC0]) + control[3:] if len(control) == 6 else control    # not the sticky flags
    return {
        "floating-point control": (control[:2], flags_off), "rounding": libm.fegetround(),
        "subnormals": (np.float32(1e-40) * np.float32(1) != 0, 5e-324 / 1 != 0, np.finfo("f4").smallest_subnormal),
        "error state": np.geterr(), "seed": np.random.get_state()[1].tobytes(),
        "signals": {n: str(signal.getsignal(n)) for n in signal.valid_signals()}, "directory": os.getcwd(),
        "environment": dict(os.environ), "umask": (lambda old: (os.umask(old), old)[1])(os.umask(0)),
        "path": list(sys.path), "filters": list(warnings.filters), "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(), "hooks": (str(sys.excepthook), str(threading.excepthook)),
    }

np.random.seed(4)
before = state()
import fusegrad as fg
assert state() == before, "import"
openmp = ctypes.CDLL("libgomp.so.1")
openmp.omp_set_num_threads(3); openmp.omp_set_dynamic(0); openmp.omp_set_max_active_levels(2)
own = [openmp.omp_get_max_threads(), openmp.omp_get_dynamic(), openmp.omp_get_max_active_levels()]
for dtype in ("float32", "float64"):
    for optimizer in (fg.SGD(lr=1e-3, momentum=0.9), fg.Adam(), fg.Adagrad(lr=0.1), fg.RMSprop(lr=0.1)):
        net = fg.Sequential(
            fg.Linear(8, 32), fg.Sigmoid(), fg.Linear(32, 8), fg.Tanh(), fg.Linear(8, 1), dtype=dtype, rng=0)
        X, y = np.random.default_rng(0).normal(size=(8, 5000)), np.ones(5000)
        net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=100, rng=0, n_threads=2)
        net.fit(X, y, optimizer=optimizer, epochs=2, n_threads=2)
        net(X * 1e30)
    fg.kernels.matmul(np.ones((300, 300), dtype), np.ones((300, 300), dtype))
    fg.kernels.sigmoid(np.full(100000, -90, dtype))
assert state() == before, [name for name, value in state().items() if value != before[name]]
assert own == [openmp.omp_get_max_threads(), openmp.omp_get_dynamic(), openmp.omp_get_max_active_levels()]
"""
    assert shown(code) == ""


def test_subnormal_numbers_stay_what_they_are(dtype):
    """No flush to zero: what NumPy computes with them, so does the network."""
    import numpy as np

    tiny = np.finfo(dtype).smallest_subnormal * 37
    x = np.full((1, 40), tiny, dtype)
    net = fg.UnivariateRegression(dtype=dtype, rng=0)
    net.parameters[:] = 1, 0
    np.testing.assert_array_equal(net(x), x)
    np.testing.assert_array_equal(fg.kernels.matmul(np.ones((3, 1), dtype), x), np.repeat(x, 3, axis=0))


@pytest.mark.parametrize("setting", ["OMP_PROC_BIND=true", "OMP_PLACES=cores", "GOMP_CPU_AFFINITY=0-63"])
def test_openmps_own_binding_is_no_limit(setting):
    """OpenMP binds the main thread to one processor then; that is not the affinity of the process."""
    name, value = setting.split("=")
    n = len(os.sched_getaffinity(0))
    assert shown(ASK, **{name: value}) == f"{n}; {n}; {n} (from affinity)"


MANY = """
import os, resource, sys
import numpy as np, fusegrad as fg
most = before = len(os.listdir("/proc/self/task"))  # NumPy, or a sanitizer, may have some
def calls():
    global most
    z = np.zeros(10**7, "f4")
    net = fg.TwoLayerSigmoid(16, 64, rng=0)
    X, y = np.ones((16, 20_000), "f4"), np.ones(20_000, "f4")
    a = np.ones((300, 5000), "f4")
    for call in (
        lambda: fg.kernels.sigmoid(z, out=z), lambda: fg.kernels.matmul(a, a.T), lambda: net(X),
        lambda: net.fit(X, y, optimizer=fg.SGD(lr=1e-3), epochs=2, n_threads=10**6),
    ):
        call()
        most = max(most, len(os.listdir("/proc/self/task")))
"""


def test_a_million_threads():
    bound = max(64, os.cpu_count())
    for code, environment in (("fg.set_num_threads(10**6)", {}), ("", {"OMP_NUM_THREADS": "1000000"})):
        out = shown(MANY + code + "\ncalls()\nprint(most - before, fg.get_num_threads())", **environment)
        started, allowed = (int(n) for n in out.split())
        assert started < bound
        assert allowed <= bound


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer needs room of its own")
def test_threads_that_the_system_refuses():
    """OpenMP would end the process: here memory for the stacks of a few, and then no more.

    One arena for all threads: else malloc may reserve 64 MiB of addresses for each of them.
    """
    code = (
        MANY
        + """
fg.set_num_threads(2)
calls()
fg.set_num_threads(64)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20 + 5 * (stack if 0 < stack < 2**30 else 8 * 2**20),) * 2)
calls()
print(most)
"""
    )
    assert 2 <= int(shown(code, MALLOC_ARENA_MAX="1")) < 64


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer needs room of its own")
def test_stacks_that_the_system_refuses():
    """OpenMP would end the process if it cannot start a thread with a stack of that size: there are fewer threads."""
    for size in ("100G", "104857600", " 100 g"):
        assert shown(MANY + "calls()\nprint(most - before)", OMP_STACKSIZE=size) == "0"
    assert int(shown(MANY + "calls()\nprint(most - before)", OMP_STACKSIZE="1M")) > 0


def test_the_callers_floating_point_mode_is_that_of_all_threads():
    """Rounding, and flushing of subnormal numbers as of torch.set_flush_denormal: the same bits in every run."""
    code = """
import ctypes, sys
import numpy as np, fusegrad as fg
libm = ctypes.CDLL("libm.so.6")
data = np.random.default_rng(1)
X, y = data.normal(size=(32, 8000)).astype("f4"), data.normal(size=(1, 8000)).astype("f4")

def fit(n_threads):
    net = fg.TwoLayerSigmoid(32, 64, rng=0)
    net.fit(X, y, optimizer=fg.SGD(lr=1e-3), epochs=5, n_threads=n_threads)
    return net.parameters.tobytes() + net(X).tobytes() + fg.kernels.matmul(X, X.T).tobytes()

nearest = fit(2)        # the pool is made
upward = 0x800 if sys.argv[1] == "x86_64" else 0x400000
assert libm.fesetround(upward) == 0
found = {fit(1 + i % 2) for i in range(20)}
assert len(found) == 1 and nearest not in found
assert libm.fegetround() == upward
assert libm.fesetround(0) == 0
assert {fit(1 + i % 2) for i in range(6)} == {nearest}
"""
    in_a_new_process(code, os.uname().machine)
