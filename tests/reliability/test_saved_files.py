"""Files: all of one or all of the other whatever happens, and refused with the cause where they are not whole."""

import errno
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import in_a_new_process, tried, within

import fusegrad as fg
from fusegrad._engine import files

pytestmark = pytest.mark.once  # the same code on each instruction set

KEPT = Path(__file__).with_name("files")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture(params=["unnamed", "named"])
def way(request, monkeypatch):
    """The two ways to write a file: without a name until it is complete, or under a temporary name from the start."""
    if request.param == "named":
        monkeypatch.setattr(os, "link", failing(errno.ENOENT))  # as without /proc
    return request.param


@pytest.fixture
def soon():
    """What waits for a FIFO fails instead."""

    def waited(*_):
        raise AssertionError("waited for 30 s")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def shared():
    """A folder that other users can reach and write to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def in_a_fork(action):
    """How a child process ends that runs `action`; what that raises is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def as_user(uid, groups, action):
    """Run `action` as another user."""

    def act():
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
        action()

    assert in_a_fork(act) == 0


def failing(number):
    """A system call that the system does not support, or that fails."""

    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return call


def saved(net, path, value):
    """Save a network of these parameters, and assert that the file holds it."""
    net.parameters[:] = value
    net.save(path)
    assert (fg.load(path).parameters == value).all()


def killed_before_its_file_has_its_name(path):
    """What a killed save leaves: a file under a temporary name."""
    before = set(path.parent.iterdir())

    def save():
        os.replace = lambda *names, **folders: os.kill(os.getpid(), signal.SIGKILL)
        fg.UnivariateRegression(rng=0).save(path)

    assert os.WTERMSIG(in_a_fork(save)) == signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - before
    return left


# ---- written whole ----

KILLER = """
import errno, os, random, signal, sys, time
import numpy as np, fusegrad as fg
from pathlib import Path

def refused(*names, **folders):
    raise OSError(errno.EXDEV, "no links")

path = Path(sys.argv[1])
if sys.argv[2] == "named":
    os.link = refused
random.seed(20)
net, optimizer = fg.TwoLayerSigmoid(50, 100, rng=0), fg.Adam()
net.save(path, optimizer=optimizer)     # what is imported late is there before the fork
number = saves = 0
leftovers = set()
net.parameters[:] = 0
started = time.perf_counter()
for _ in range(10):
    net.save(path, optimizer=optimizer)
duration = (time.perf_counter() - started) / 10
for kill in range(500):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            number += 1
            net.parameters[:] = number
            optimizer.n_steps = number
            os.write(write, b"b")
            net.save(path, optimizer=optimizer)
            os.write(write, b"e")
    os.close(write)
    os.read(read, 1)
    time.sleep(random.uniform(0, 2 * duration))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        ended = pipe.read().count(b"e")
    found, steps, _ = fg.load_checkpoint(path)
    assert (found.parameters == found.parameters[0]).all()
    assert steps.n_steps == found.parameters[0]
    assert found.parameters[0] - number in (ended, ended + 1), (found.parameters[0], number, ended)
    number = int(found.parameters[0])
    saves += ended
    leftovers |= set(os.listdir(path.parent)) - {path.name}
net.save(path)
assert os.listdir(path.parent) == [path.name], "litter"
print(len(leftovers), saves)
"""


@pytest.mark.reliability
@pytest.mark.parametrize("way", ["unnamed", "named"])
def test_kill_at_random_moments_of_500_saves(path, way):
    """What stands there is the last save that ended, or the one that was killed."""
    leftovers, saves = map(int, in_a_new_process(KILLER, path, way).split())
    tried("kills within a save: the old file loads, or the new one", 500)
    tried("saves that ended between the kills", saves)
    if way == "unnamed":
        # 10 to 26: more if other processes run, as the kill then comes between two system calls more often
        within("files left by 500 killed saves, which the next save takes away", leftovers, 50)
    else:
        tried("files left by killed saves under a temporary name, which the next save takes away", leftovers)


def test_a_leftover_goes_with_the_next_save_to_the_same_place(path, way):
    net = fg.UnivariateRegression(rng=0)
    for _ in range(2):  # where there is no file yet, and where there is one
        left = killed_before_its_file_has_its_name(path)
        other = path.with_name("other.safetensors")
        net.save(other)
        assert left.exists()
        other.unlink()
        net.save(path)
        assert list(path.parent.iterdir()) == [path]


def test_only_leftovers_of_the_same_place_go(path, way, soon):
    """Not the user's files, not those of another network, not what is being written, and nothing but regular files."""
    import fcntl

    net = fg.UnivariateRegression(rng=0)
    longer = path.with_name(path.name + ".safetensors")
    other = killed_before_its_file_has_its_name(longer)
    left = killed_before_its_file_has_its_name(path)
    number = re.search(r"[0-9a-f]{16}(?=\.part$)", left.name)[0]

    def named(digit):
        return left.with_name(left.name.replace(number, digit * 16))

    users = [path.with_name(f".{path.name}.{end}") for end in ("part", "0123.part", f"{number}.part")]
    users += [left.with_name(name) for name in (left.name + "~", "x" + left.name, left.name[:-6] + ".part")]
    for file in users:
        file.write_text("a user's")
    fifo, folder, link = named("a"), named("b"), named("c")
    os.mkfifo(fifo)  # to open it would wait for ever
    folder.mkdir()
    link.symlink_to(users[0])
    working = named("d")
    with working.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        net.save(path)
    assert set(path.parent.iterdir()) == {path, other, *users, fifo, folder, link, working}
    assert all(file.read_text() == "a user's" for file in users)
    net.save(path)
    assert set(path.parent.iterdir()) == {path, other, *users, fifo, folder, link}
    net.save(longer)
    assert not other.exists()


def test_a_file_that_another_save_took_for_a_leftover_is_written_again(path, monkeypatch):
    """It may do so before the file is locked."""
    import fcntl

    flock, taken = fcntl.flock, []

    def late(handle, operation):
        if len(taken) < 3:
            (name,) = os.listdir(path.parent)
            os.unlink(path.parent / name)
            taken.append(name)
        flock(handle, operation)

    monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    monkeypatch.setattr(os, "O_TMPFILE", os.O_CREAT | os.O_DIRECTORY)  # refused
    monkeypatch.setattr(fcntl, "flock", late)
    saved(fg.UnivariateRegression(rng=0), path, 7)
    assert len(set(taken)) == 3
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "EISDIR", "ENOENT", "EINVAL", "ENOSYS", "EPERM"])
def test_where_files_without_a_name_cannot_be_made(path, monkeypatch, name):
    whole, number = os.open, getattr(errno, name)

    def without(file, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return whole(file, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", without)
    net = fg.UnivariateRegression(rng=0)
    for value in range(2):
        saved(net, path, value)
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("call", "numbers"),
    [
        ("flock", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL", "EBADF", "EIO"]),
        ("link", ["ENOENT", "EPERM", "EACCES", "EXDEV", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EINVAL"]),
        ("fsync of a folder", ["EINVAL", "EBADF", "EROFS", "ENOSYS", "EACCES", "EIO"]),
        ("fsync of a file", ["EINVAL", "ENOSYS", "EOPNOTSUPP"]),
        ("listdir", ["EACCES", "EPERM", "EIO", "ENOSYS"]),
        ("fchown", ["EPERM", "EINVAL", "ENOSYS", "EOPNOTSUPP"]),
        ("fchmod", ["EPERM", "ENOSYS", "EOPNOTSUPP"]),
        ("listxattr", ["EOPNOTSUPP", "ENOSYS", "EPERM"]),
        ("removexattr", ["EOPNOTSUPP", "ENOSYS", "EPERM"]),
    ],
)
def test_what_a_file_system_does_not_support_is_no_error(path, monkeypatch, way, call, numbers):
    """The file is written, and said to be written."""
    import fcntl

    net, fsync = fg.UnivariateRegression(rng=0), os.fsync
    saved(net, path, 0)
    for value, number in enumerate(numbers, start=1):
        fails = failing(getattr(errno, number))

        def of_one_kind(handle, fails=fails):
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            (fails if is_folder == call.endswith("folder") else fsync)(handle)

        with monkeypatch.context() as patched:
            if call.startswith("fsync"):
                patched.setattr(os, "fsync", of_one_kind)
            else:
                patched.setattr(fcntl if call == "flock" else os, call, fails)
            saved(net, path, value)
        assert list(path.parent.iterdir()) == [path]
        assert call != "fchmod" or stat.S_IMODE(path.stat().st_mode) == 0o600, "open to others"


@pytest.mark.parametrize("broken", ["fsync", "replace", "link", "write"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch, broken, number):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    before = path.read_bytes()

    monkeypatch.setattr(os, broken, failing(number))
    net.parameters[:] = 7
    with pytest.raises(OSError, match=rf"{os.strerror(number)}: .*net\.safetensors'$"):
        net.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_save_that_fails_under_a_temporary_name_leaves_the_old_file(path, monkeypatch, way, broken):
    """Also by an error that may be of one way of writing alone."""
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, broken, failing(errno.EACCES))
    with pytest.raises(PermissionError, match=r"net\.safetensors'$"):
        net.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("flag", [os.O_TMPFILE, 0])
def test_three_processes_save_to_one_place(path, flag):
    """Each save is whole; the last one wins. Also where files without a name cannot be had."""
    code = (
        "import errno, os, sys, fusegrad as fg\n"
        f"unnamed, whole = {os.O_TMPFILE}, os.open\n"
        "def without(file, flags, *arguments, **options):\n"
        f"    if flags & unnamed == unnamed != {flag}:\n"
        "        raise OSError(errno.EOPNOTSUPP, 'Operation not supported')\n"
        "    return whole(file, flags, *arguments, **options)\n"
        "os.open = without\n"
        "net = fg.TwoLayerSigmoid(20, 20, rng=0)\n"
        "for i in range(200):\n"
        "    net.parameters[:] = i\n"
        "    net.save(sys.argv[1])\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    while any(process.poll() is None for process in processes):
        if path.exists():
            net = fg.load(path)
            assert (net.parameters == net.parameters[0]).all()
            tried("loads while three processes save to one place")
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert list(path.parent.iterdir()) == [path]


# ---- interrupted ----


class Interrupted(BaseException):
    pass


INTERRUPTED_CALLS = [
    "stat", "listxattr", "listdir", "flock", "unlink", "write", "fchown", "removexattr", "fchmod", "fsync", "link",
    "replace", "close",
]  # fmt: skip


@pytest.mark.parametrize("error", [Interrupted, TimeoutError])
@pytest.mark.parametrize("call", INTERRUPTED_CALLS)
def test_an_exception_after_any_system_call(path, monkeypatch, way, call, error):
    """As a signal handler raises it. TimeoutError is an OSError, but not the file's."""
    import fcntl

    net, module = fg.UnivariateRegression(rng=0), fcntl if call == "flock" else os
    saved(net, path, 0)
    left = killed_before_its_file_has_its_name(path)
    done, open_before = getattr(module, call), len(os.listdir("/proc/self/fd"))

    def save_interrupted(at):
        """Save, with an exception after this call of its kind; True if there was one."""
        calls = iter(range(1000))

        def interrupted(*arguments, **options):
            try:
                return done(*arguments, **options)
            finally:
                if next(calls) == at:
                    raise error("raised by a signal handler")

        with monkeypatch.context() as patched:
            patched.setattr(module, call, interrupted)
            try:
                net.save(path)
            except error as caught:
                assert str(caught) == "raised by a signal handler"
                return True
        return False

    interruptions = 0
    while save_interrupted(interruptions):
        interruptions += 1
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert set(path.parent.iterdir()) <= {path, left}
        found = fg.load(path).parameters
        assert (found == found[0]).all()
        assert found[0] <= net.parameters[0]
        net.parameters[:] += 1
    assert interruptions
    assert list(path.parent.iterdir()) == [path]
    assert (fg.load(path).parameters == net.parameters).all()


INTERRUPTER = """
import errno, os, random, signal, sys, time
import fusegrad as fg
from pathlib import Path

class Interrupted(BaseException):
    pass

path, way = Path(sys.argv[1]), sys.argv[2]
error = {"Interrupted": Interrupted, "TimeoutError": TimeoutError}[sys.argv[3]]
armed = False

def handler(*_):
    global armed
    if armed:
        armed = False
        raise error

def refused(*names, **folders):
    raise OSError(errno.EXDEV, "no links")

random.seed(20)
signal.signal(signal.SIGALRM, handler)
if way == "named":
    os.link = refused
net = fg.TwoLayerSigmoid(50, 100, rng=0)
net.parameters[:] = 0
net.save(path)
started = time.perf_counter()
for _ in range(10):
    net.save(path)
duration = (time.perf_counter() - started) / 10
open_before = os.listdir("/proc/self/fd")
interruptions = ended = 0
while interruptions < 300:
    net.parameters[:] += 1
    delay = random.uniform(1e-6, duration)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, delay)
        net.save(path)
        assert armed, "the exception is lost"
        armed = False
    except error:
        interruptions += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    found = fg.load(path).parameters
    assert (found == found[0]).all()
    assert found[0] in (ended, net.parameters[0]), (found[0], ended)
    ended = found[0]
    assert os.listdir(path.parent) == [path.name], "litter"
    assert len(os.listdir("/proc/self/fd")) == len(open_before), "open descriptors"
print(interruptions)
"""


@pytest.mark.reliability
@pytest.mark.parametrize("way", ["unnamed", "named"])
@pytest.mark.parametrize("error", ["Interrupted", "TimeoutError"])
def test_exceptions_of_a_signal_handler_at_random_moments(path, way, error):
    interruptions = in_a_new_process(INTERRUPTER, path, way, error)
    tried("interrupted saves that left a whole file, nothing beside it and nothing open", int(interruptions))


# ---- the same access as before ----


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o664, 0o604, 0o755, 0o666])
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_mode_stays(path, way, mode, mask):
    net = fg.UnivariateRegression(rng=0)
    before = os.umask(mask)
    try:
        net.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        path.chmod(mode)
        saved(net, path, 7)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
def test_a_private_file_is_private_at_any_moment(path, monkeypatch, way, mode):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    path.chmod(mode)
    seen = []

    def watched(call):
        def look(*arguments, **options):
            result = call(*arguments, **options)
            seen.extend(file.stat().st_mode for file in path.parent.iterdir())
            if isinstance(arguments[0], int) and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                seen.append(os.fstat(arguments[0]).st_mode)
            return result

        return look

    with monkeypatch.context() as patched:
        for call in ("write", "fchown", "removexattr", "fchmod", "fsync", "link", "replace"):
            patched.setattr(os, call, watched(getattr(os, call)))
        before = os.umask(0)
        try:
            net.save(path)
        except FileNotFoundError:  # no name to look at
            raise AssertionError from None
        finally:
            os.umask(before)
    assert len(seen) > 7
    assert not any(stat.S_IMODE(found) & ~mode for found in seen)


def acl(**permissions):
    """An ACL as the kernel keeps it, with an entry for user 1236."""
    tags = {"owner": 1, "user": 2, "group": 4, "mask": 16, "others": 32}
    everybody = 0xFFFFFFFF
    entries = ((tags[who], bits, 1236 if who == "user" else everybody) for who, bits in permissions.items())
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


FOR_ONE_OTHER_USER = acl(owner=6, user=6, group=0, mask=6, others=0)
FOR_ALL_NEW_FILES = acl(owner=7, user=7, group=7, mask=7, others=5)


def set_attribute(path, name, value):
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip(f"the file system has no {name}")


def test_acl_and_attributes_stay(path, way):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    set_attribute(path, "system.posix_acl_access", FOR_ONE_OTHER_USER)
    set_attribute(path, "user.comment", b"the best so far")
    mode = path.stat().st_mode
    saved(net, path, 7)
    assert os.getxattr(path, "system.posix_acl_access") == FOR_ONE_OTHER_USER
    assert os.getxattr(path, "user.comment") == b"the best so far"
    assert path.stat().st_mode == mode


def test_a_folder_that_gives_an_acl_to_new_files_gives_none_to_an_old_one(path, way):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    path.chmod(0o640)
    set_attribute(path.parent, "system.posix_acl_default", FOR_ALL_NEW_FILES)
    saved(net, path, 7)
    assert os.listxattr(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_where_an_acl_cannot_be_kept_the_file_is_private(path, monkeypatch, way):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    set_attribute(path, "system.posix_acl_access", FOR_ONE_OTHER_USER)
    monkeypatch.setattr(os, "setxattr", failing(errno.EPERM))
    saved(net, path, 7)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listxattr(path) == []


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@as_root
def test_root_leaves_owner_and_group(path, way):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    path.chmod(0o640)
    os.chown(path, 1234, 5678)
    saved(net, path, 7)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o640)


@as_root
@pytest.mark.parametrize(
    ("mode", "groups", "expected"),
    [
        (0o664, [5678], (5678, 0o664)),  # the group's members may set it
        (0o660, [5678], (5678, 0o660)),
        (0o666, [], (1235, 0o666)),
        (0o646, [], (1235, 0o644)),  # to another group it gives no more than to the first, and to others
        (0o606, [], (1235, 0o600)),
        (0o626, [], (1235, 0o622)),
    ],
)
def test_a_file_of_another_user(shared, way, mode, groups, expected):
    net, path = fg.UnivariateRegression(rng=0), shared / "net.safetensors"
    net.save(path)
    os.chown(path, 1234, 5678)
    path.chmod(mode)
    as_user(1235, groups, lambda: net.save(path))
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1235, *expected)


@as_root
def test_an_acl_of_another_group_is_closed(shared, way):
    net, path = fg.UnivariateRegression(rng=0), shared / "net.safetensors"
    net.save(path)
    os.chown(path, 1234, 5678)
    set_attribute(path, "system.posix_acl_access", FOR_ONE_OTHER_USER)
    as_user(1236, [], lambda: net.save(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@as_root
@pytest.mark.parametrize("mode", [0o444, 0o644, 0o664])
def test_a_file_that_cannot_be_written_to_stays(shared, mode):
    """Of the user (0444) or of another, in a folder where all may rename."""
    net, path = fg.UnivariateRegression(rng=0), shared / "net.safetensors"
    saved(net, path, 0)
    os.chown(path, 1235 if mode == 0o444 else 1234, 5678)
    path.chmod(mode)
    net.parameters[:] = 7

    def refused():
        with pytest.raises(PermissionError, match=r"net\.safetensors'$"):
            net.save(path)

    as_user(1235, [], refused)
    assert (fg.load(path).parameters == 0).all()
    assert list(shared.iterdir()) == [path]


@as_root
def test_a_folder_that_can_be_written_to_but_not_read(shared, way):
    net, path = fg.UnivariateRegression(rng=0), shared / "net.safetensors"
    net.save(path)  # what is imported late is there for another user
    path.unlink()
    shared.chmod(0o333)
    as_user(1235, [], lambda: [saved(net, path, value) for value in range(3)])
    assert list(shared.iterdir()) == [path]


# ---- names, and what is no file ----

LONG_NAMES = ["a" * 233, "a" * 255, "\xe9" * 127 + "a", "\u65e5" * 85, os.fsdecode(b"\xff" * 255), "." + "a" * 254]


@pytest.mark.parametrize("name", ["a", "-", " ", "\n", "a'\"\\", ".net.part", "[0-9]*", *LONG_NAMES])
def test_any_name_that_the_file_system_takes(tmp_path, way, name):
    net, path = fg.UnivariateRegression(rng=0), tmp_path / name
    for value in range(2):
        saved(net, path, value)
        assert list(tmp_path.iterdir()) == [path]
    assert killed_before_its_file_has_its_name(path) != path
    saved(net, path, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_as_long_as_the_system_takes(tmp_path, way):
    folder = tmp_path
    while len(str(folder)) < 4095 - 256:
        folder = folder / ("b" * 200)
    folder = folder / ("b" * (4095 - 3 - len(str(folder))))
    folder.mkdir(parents=True)
    path = folder / "n"
    assert len(str(path)) == 4095
    for value in range(2):
        saved(fg.UnivariateRegression(rng=0), path, value)
    assert list(folder.iterdir()) == [path]


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OSError, match=r"File name too long: '.*a'$"):
        fg.UnivariateRegression(rng=0).save(tmp_path / ("a" * 256))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a\0b", "\0", "a/\0/b", "\ud800", "a\udfff", Path("a\0b"), Path("\ud800")])
def test_what_is_no_name_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for use in (fg.UnivariateRegression(rng=0).save, fg.load, fg.load_checkpoint):
        with pytest.raises(ValueError, match=r"^path: expected a name that a file can have .*, got '"):
            use(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["FIFO", "FIFO with a reader", "socket"])
def test_what_is_no_regular_file_stays(tmp_path, soon, kind, linked):
    special = path = tmp_path / "special"
    if kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(special))
        listening.close()
    else:
        os.mkfifo(special)
    reader = os.open(special, os.O_RDONLY | os.O_NONBLOCK) if kind.endswith("reader") else None
    if linked:
        path = tmp_path / "link"
        path.symlink_to(special)
    before = special.lstat()
    for use in (fg.UnivariateRegression(rng=0).save, fg.load, fg.load_checkpoint):
        with pytest.raises(ValueError, match=rf"^path: expected a regular file, got a {kind.split()[0]}: '{path}'$"):
            use(path)
    after = special.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert set(tmp_path.iterdir()) == {special, path}
    if reader is not None:
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_a_folder_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / ".", f"{tmp_path}/", "."):
        for use in (fg.UnivariateRegression(rng=0).save, fg.load, fg.load_checkpoint):
            with pytest.raises(IsADirectoryError):
                use(path)
    assert list(tmp_path.iterdir()) == []


def test_links_stay(tmp_path, way):
    """Relative and absolute, from folder to folder, one behind the other."""
    folder = tmp_path / "real"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "folder").symlink_to("real/below")
    first, second, target = folder / "below" / "first", folder / "second", tmp_path / "target"
    first.symlink_to("../second")
    second.symlink_to(target)
    for value in range(2):
        saved(fg.UnivariateRegression(rng=0), tmp_path / "folder" / "first", value)
        assert first.is_symlink()
        assert second.is_symlink()
        assert stat.S_ISREG(target.lstat().st_mode)
    assert set(tmp_path.iterdir()) == {folder, tmp_path / "folder", target}
    assert set(folder.iterdir()) == {folder / "below", second}
    assert list((folder / "below").iterdir()) == [first]


def test_a_link_to_nothing_and_a_link_to_itself(tmp_path, way):
    net, link, loop = fg.UnivariateRegression(rng=0), tmp_path / "link", tmp_path / "loop"
    link.symlink_to("target")
    saved(net, link, 7)
    assert link.is_symlink()
    assert (fg.load(tmp_path / "target").parameters == 7).all()
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"loop'$"):
        net.save(loop)
    assert loop.is_symlink()
    assert set(tmp_path.iterdir()) == {link, loop, tmp_path / "target"}


# ---- read whole, or refused ----


def refused(path, data, most_seconds=1.0):
    path.write_bytes(data)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"net\.safetensors: .+"):
        fg.load(path)
    within("seconds to refuse a file", time.perf_counter() - started, most_seconds)


def checkpoint_bytes(path):
    net, optimizer = fg.TwoLayerSigmoid(2, 3, rng=0), fg.Adam()
    net.train_step(np.ones((2, 4)), np.ones(4), optimizer)
    net.save(path, optimizer=optimizer, rng=np.random.default_rng(0))
    return path.read_bytes()


def test_written_through_before_it_takes_its_name_and_after(path, monkeypatch):
    """What a save's survival of a power failure rests on: the file, its name, the folder, in this order."""
    done, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def recorded_replace(*names, **options):
        done.append("name")
        replace(*names, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    fg.UnivariateRegression(rng=0).save(path)
    assert done == ["file", "name", "folder"]


@pytest.mark.reliability
def test_ten_thousand_mutants(path):
    data = checkpoint_bytes(path)
    rng = random.Random(0)
    refusals = 0
    while refusals < 10_000:
        mutant = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 5, 50])):
            way = rng.randrange(4)
            place = rng.randrange(len(mutant))
            if way == 0:
                mutant[place] ^= 1 << rng.randrange(8)
            elif way == 1:
                mutant[place] = rng.randrange(256)
            elif way == 2:
                del mutant[place : place + rng.randrange(1, 9)]
            else:
                mutant[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            if len(mutant) < 2:
                break
        if mutant != data:
            refused(path, mutant)
            refusals += 1
    tried("mutants refused", refusals)
    for length in range(len(data)):
        refused(path, data[:length])


def with_header(metadata=None, entries=None, body=b""):
    """A file whose checksum is right, whatever its header says."""
    base = {"format": files.FORMAT, "layers": '[["linear", 1, 1, true]]', "dtype": "float32"}

    def text(digest):
        header = {"__metadata__": {**base, **(metadata or {}), "sha256": digest}, **(entries or {})}
        encoded = json.dumps(header).encode()
        return len(encoded).to_bytes(8, "little") + encoded

    digest = files._digest(text(files.NO_DIGEST), body)
    return text(digest) + body


GOOD = {
    "0.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]},
    "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
}


def test_the_forger_is_right_where_nothing_is_wrong(path):
    path.write_bytes(with_header(None, GOOD, bytes(8)))
    assert (fg.load(path).parameters == 0).all()


HUGE = 1 << 19
OPTIMIZER = '{"class": "Adam", "arguments": {"lr": 0.1}, "n_steps": 0}'
DEEP = "[" * 100_000
NEGATIVE = '{"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}, "has_uint32": 0, "uinteger": 0}'


def state_of(kind, old, new):
    """The description of a generator, with something else in it."""
    description = files.describe_generator(np.random.Generator(kind(0)))
    assert old in description
    return description.replace(old, new)


@pytest.mark.parametrize(
    ("metadata", "entries", "body"),
    [
        ({"format": "fusegrad 2"}, GOOD, bytes(8)),
        ({"format": 1}, GOOD, bytes(8)),
        ({"dtype": "float64"}, GOOD, bytes(8)),
        ({"dtype": "float16"}, GOOD, bytes(8)),
        ({"dtype": "O"}, GOOD, bytes(8)),
        ({"dtype": "3,)f4"}, GOOD, bytes(8)),
        ({"layers": f'[["linear", {HUGE}, {HUGE}, true]]'}, GOOD, bytes(8)),
        ({"layers": f'[["linear", {10**30}, {10**30}, true]]'}, GOOD, bytes(8)),
        ({"layers": '[["linear", 1.5, 1, true]]'}, GOOD, bytes(8)),
        ({"layers": '[["linear", -1, -2, true]]'}, GOOD, bytes(8)),
        ({"layers": '[["linear", 2, 1, false]]'}, GOOD, bytes(8)),
        ({"layers": '[["system", "rm"]]'}, GOOD, bytes(8)),
        ({"layers": '[[["linear"]]]'}, GOOD, bytes(8)),
        ({"layers": "[[]]"}, GOOD, bytes(8)),
        ({"layers": "3"}, GOOD, bytes(8)),
        ({"layers": "null"}, GOOD, bytes(8)),
        ({"layers": DEEP}, GOOD, bytes(8)),
        ({"layers": "9" * 5000}, GOOD, bytes(8)),
        ({"layers": "[]"}, {}, b""),
        (None, {**GOOD, "1.weight": GOOD["0.bias"]}, bytes(8)),
        (None, {"0.weight": GOOD["0.weight"]}, bytes(4)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [4, 4 + (1 << 40)]}}, bytes(8)),
        (None, {**GOOD, "x": {"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [8, 8]}}, bytes(8)),
        (None, {**GOOD, "x": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [8, 8]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [True], "data_offsets": [4, 8]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": 1, "data_offsets": [4, 8]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [1.0], "data_offsets": [4, 8]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8.0]}}, bytes(8)),
        (None, {**GOOD, "0.weight": {**GOOD["0.weight"], "data_offsets": [0, 4.0]}}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": "F32", "shape": [1]}}, bytes(8)),
        (None, {**GOOD, "0.bias": 7}, bytes(8)),
        (None, {**GOOD, "0.bias": {"dtype": ["F32"], "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        ({"optimizer": OPTIMIZER.replace("Adam", "Optimizer")}, GOOD, bytes(8)),
        ({"optimizer": OPTIMIZER.replace("0.1", "NaN")}, GOOD, bytes(8)),
        ({"optimizer": OPTIMIZER.replace("0.1", '0.1, "x": 1')}, GOOD, bytes(8)),
        ({"optimizer": OPTIMIZER.replace('0}', '-3}')}, GOOD, bytes(8)),
        ({"optimizer": "[]"}, GOOD, bytes(8)),
        ({"optimizer": DEEP}, GOOD, bytes(8)),
        ({"rng": '{"bit_generator": "RandomState"}'}, GOOD, bytes(8)),
        ({"rng": '{"bit_generator": "PCG64", "state": {}}'}, GOOD, bytes(8)),
        ({"rng": NEGATIVE}, GOOD, bytes(8)),
        ({"rng": '{"bit_generator": "MT19937", "state": {"key": [1, 2], "pos": 3}}'}, GOOD, bytes(8)),
        ({"rng": '{"bit_generator": "MT19937", "state": {"key": "text", "pos": 3}}'}, GOOD, bytes(8)),
        ({"rng": '{"bit_generator": ["PCG64"]}'}, GOOD, bytes(8)),
        ({"rng": state_of(np.random.MT19937, '"pos": 623', '"pos": 625')}, GOOD, bytes(8)),
        ({"rng": state_of(np.random.MT19937, '"pos": 623', '"pos": -1')}, GOOD, bytes(8)),
        ({"rng": state_of(np.random.Philox, '"buffer_pos": 4', '"buffer_pos": 5')}, GOOD, bytes(8)),
        ({"rng": state_of(np.random.Philox, '"buffer_pos": 4', '"buffer_pos": -100000000')}, GOOD, bytes(8)),
        ({"optimizer": OPTIMIZER.replace("0}", f"{2**70}}}")}, GOOD, bytes(8)),
    ],
)  # fmt: skip
def test_a_header_that_lies_with_a_right_checksum(path, metadata, entries, body):
    refused(path, with_header(metadata, entries, body))
    tried("headers that lie, refused")


def test_a_checksum_that_is_no_text(path):
    data = with_header(None, GOOD, bytes(8))
    digest = re.search(rb'"sha256": ?"([0-9a-f]{64})"', data)[1]
    text = data[8:].replace(digest, b"\\ud800" * 64)
    refused(path, (len(text) - 8).to_bytes(8, "little") + text)


def test_what_is_of_another_kind(path, tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(1 << 26))
    array = io.BytesIO()
    np.save(array, np.ones(3))
    executed = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return Path.touch, (executed,)

    for data in (
        b"", b"{}", bytes(1000), b"\xff" * 1000, bomb.getvalue(), array.getvalue(), pickle.dumps(Evil()),
        (1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]",
        b"\x04" + bytes(7) + b"null", len(DEEP).to_bytes(8, "little") + DEEP.encode(),
    ):  # fmt: skip
        refused(path, data)
    assert not executed.exists()


@pytest.mark.reliability
def test_memory_and_time_to_refuse(path):
    """In a process that may take 64 MiB more than it has: shapes of 1 TB, files of 1 TB that hold nothing."""
    entries = {"0.weight": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4 * HUGE * HUGE]}}
    layers = {"layers": f'[["linear", {HUGE}, {HUGE}, false]]'}
    path.write_bytes(with_header(layers, entries, b""))
    short = path.with_name("short.safetensors")
    path.rename(short)
    zip_bomb = path.with_name("zip.safetensors")
    with zipfile.ZipFile(zip_bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(1 << 28))
    sparse = path.with_name("sparse.safetensors")
    sparse.write_bytes(with_header(None, GOOD, b""))
    os.truncate(sparse, 1 << 40)
    code = """
import resource, sys, time
import fusegrad as fg, numpy, hashlib
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        fg.load(path)
    except ValueError as error:
        assert path in str(error), error
    else:
        raise AssertionError(path)
    print(time.perf_counter() - started)
"""
    for seconds in in_a_new_process(code, short, zip_bomb, sparse).split():
        within("seconds to refuse a bomb within 64 MiB", float(seconds), 1.0)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 64 << 20


LARGEST = 1 << 20
LONG = "9" * 4000


def filled(before, repeated, after="", size=LARGEST - 4096):
    """Text as long as a header may be."""
    return before + repeated * ((size - len(before) - len(after)) // len(repeated)) + after


def with_text(text, body=bytes(8)):
    """A file whose header is this text, with a right checksum for SHA."""

    def sealed(digest):
        encoded = text.replace("SHA", digest).encode()
        return len(encoded).to_bytes(8, "little") + encoded

    return sealed(files._digest(sealed(files.NO_DIGEST), body)) + body


def with_version(text):
    return f'{{"__metadata__":{{"format":{text},"sha256":"SHA"}}}}'


def with_entry(text):
    """One more entry after those of a network."""
    metadata = '{"format":"fusegrad 1","layers":"[[\\"linear\\",1,1,true]]","dtype":"float32","sha256":"SHA"}'
    return with_text(f'{{"__metadata__":{metadata},{json.dumps(GOOD)[1:-1]},{text}}}')


def with_array(shape, offsets="[8,8]"):
    return with_entry(f'"x":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}')


def with_metadata(**metadata):
    return with_header(metadata, GOOD, bytes(8))


def hostile_headers():
    """What is the matter, and the file: headers of up to 1 MiB that cost time, memory or a long message."""
    nested = "[" * 900 + "]" * 900
    whole = {
        "digits": "1" * LARGEST,
        "brackets": "[" * LARGEST,
        "quotes": filled('["', '\\"'),
        "minus signs": "-" * LARGEST,
        "spaces": " " * LARGEST,
        "a long fraction": filled("1.", "1"),
        "a long exponent": filled("1e", "1"),
        "lists": filled("[", "[[[]]],", "0]"),
        "nested lists": filled("[", nested + ",", "0]"),
        "objects": filled("[", '{"":{"":0}},', "0]"),
        "wide characters": filled('["', "\U0001f600", '"]', size=LARGEST // 4),
        "an integer as version": with_version(LONG),
        "a long text as version": with_version(filled('"', "x", '"')),
        "a list as version": with_version(filled("[", "1,", "1]")),
        "nested lists as version": with_version(nested),
    }
    for what, text in whole.items():
        yield what, with_text(text)

    yield "a long integer in a shape", with_array(filled("[", "9", "]"))
    yield "long integers in a shape", with_array(filled("[", LONG + ",", "1]"))
    yield "many integers in a shape", with_array(filled("[", "9" * 40 + ",", "1]"))
    yield "long integers beside 0", with_array(filled("[0,", LONG + ",", "1]"))
    yield "long integers as offsets", with_array("[1]", f"[{LONG},{LONG}]")
    yield "a long negative integer", with_array(f"[-{LONG}]")
    yield "many dimensions", with_array(filled("[", "1,", "1]"), "[8,12]")
    yield "many dimensions of nothing", with_array(filled("[0,", "1,", "1]"))
    yield "many offsets", with_array("[1]", filled("[", "8,", "12]"))
    yield "a nested shape", with_array(nested)
    yield "a nested entry", with_entry(f'"x":{nested}')
    yield "an entry of nested lists", with_entry(filled('"x":[', nested + ",", "0]"))
    yield "a long entry", with_entry(filled('"x":"', "y", '"'))
    yield "a long name", with_entry(filled('"', "x", '":0'))
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[8,8]}'
    yield "many arrays", with_entry(",".join(f'"{i}":{empty}' for i in range(LARGEST // 60)))

    yield "a long dtype", with_metadata(dtype=filled("", "x"))
    yield "a layer of a long name", with_metadata(layers=filled('[["', "x", '"]]'))
    yield "a long argument", with_metadata(layers=filled('[["linear",1,"', "x", '",true]]'))
    yield "a nested argument", with_metadata(layers=f'[["linear",1,1,{nested}]]')
    yield "many arguments", with_metadata(layers=filled('[["linear"', ",1", "]]"))
    yield "a long integer as size", with_metadata(layers=filled('[["linear",', "9", ",1,true]]"))
    for size in ("1", LONG):
        layer = f'["linear",{size},{size},true]'
        yield "many layers", with_metadata(layers=filled("[", layer + ",", layer + "]", size=LARGEST // 2))
    yield "a long class", with_metadata(optimizer=filled('{"class":"', "x", '"}'))
    sgd = '{"class":"SGD","n_steps":%s,"arguments":{"lr":%s}}'
    yield "a long learning rate", with_metadata(optimizer=sgd % (0, filled("", "9")))
    yield "steps of many digits", with_metadata(optimizer=sgd % (LONG, 1))
    yield "an argument of a long name", with_metadata(optimizer=sgd % (0, filled('1,"', "x", '":1')))
    yield "a long generator", with_metadata(rng=filled('{"bit_generator":"', "x", '"}'))
    state = '{"bit_generator":"%s","state":{"%s":%s}}'
    yield "a state of many digits", with_metadata(rng=state % ("PCG64", "state", filled("", "9")))
    yield "a key of long integers", with_metadata(rng=state % ("MT19937", "key", filled("[", LONG + ",", "1]")))


@pytest.mark.reliability
def test_time_and_memory_and_message_do_not_depend_on_what_the_header_says(tmp_path):
    """Within 1 s, 64 MiB and 600 characters; also where Python's own limit of digits is off."""
    files = []
    for number, (what, data) in enumerate(hostile_headers()):
        assert int.from_bytes(data[:8], "little") <= LARGEST, what
        files.append(tmp_path / f"{number} {what}")
        files[-1].write_bytes(data)
    code = """
import resource, sys, time
import fusegrad as fg, numpy.random, hashlib
sys.set_int_max_str_digits(0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        fg.load_checkpoint(path)
    except ValueError as error:
        message = str(error)
    else:
        raise AssertionError(path)
    assert path in message, message[:1000]
    print(time.perf_counter() - started, len(message) - len(path))
"""
    for line in in_a_new_process(code, *files).splitlines():
        seconds, characters = map(float, line.split())
        within("seconds to refuse a header of 1 MiB within 64 MiB", seconds, 1.0)
        within("characters that say why a header of 1 MiB is refused", characters, 600)


def test_what_load_refuses_for_its_header_is_not_saved(path, monkeypatch):
    net = fg.Sequential(*(fg.Linear(1, 1) for _ in range(30)), rng=0)
    saved(net, path, 7)
    before = path.read_bytes()
    length = int.from_bytes(before[:8], "little")
    monkeypatch.setattr(files, "MOST_HEADER", length)
    net.save(path)
    monkeypatch.setattr(files, "MOST_HEADER", length - 1)
    with pytest.raises(ValueError, match=f"layers: expected .* of at most {length - 1} bytes, got {length}"):
        net.save(path)
    with pytest.raises(ValueError, match=r"net\.safetensors: "):
        fg.load(path)
    assert path.read_bytes() == before


# ---- every format ever written ----


def test_files_of_every_version_load():
    """One of each is kept; a new format adds its own."""
    kept = sorted(KEPT.glob("*.safetensors"))
    assert files.FORMAT.replace(" ", "-") in {file.stem.rsplit("-float", 1)[0] for file in kept}
    for file in kept:
        net, optimizer, rng = fg.load_checkpoint(file)
        assert net.dtype.name in file.stem
        expected = np.load(file.with_suffix(".npz"))
        np.testing.assert_array_equal(net.parameters, expected["parameters"])
        np.testing.assert_array_equal(optimizer.state, expected["state"])
        assert (repr(optimizer), optimizer.n_steps) == (str(expected["optimizer"]), int(expected["n_steps"]))
        assert rng.random() == float(expected["draw"])
        eps = np.finfo(net.dtype).eps  # sums of terms below 1, by kernels of other instruction sets
        np.testing.assert_allclose(net(expected["X"]), expected["prediction"], rtol=64 * eps, atol=8 * eps)
        tried("files of every format loaded")


def test_metadata_of_the_user(tmp_path):
    net, path = fg.TwoLayerSigmoid(3, 4, rng=0), tmp_path / "net.safetensors"
    texts = {"scale": "[1.0, 2.0]", "with \u00fc and \n": "\U0001f600" * 3, "": ""}
    net.save(path, metadata=texts, rng=np.random.default_rng(0))
    assert fg.load_metadata(path) == texts
    assert (fg.load(path).parameters == net.parameters).all()
    net.save(path)
    assert fg.load_metadata(path) == {}
    for wrong, error, says in (
        ({"layers": "x"}, ValueError, "metadata: expected names other than"),
        ({"a": 1}, TypeError, "metadata: expected a dict of texts"),
        ({1: "a"}, TypeError, "metadata: expected a dict of texts"),
        ([("a", "b")], TypeError, "metadata: expected a dict of texts"),
        ({"a": "x" * (1 << 20)}, ValueError, "metadata: expected a description of at most"),
    ):
        with pytest.raises(error, match=says):
            net.save(path, metadata=wrong)
    assert fg.load_metadata(path) == {}


def test_files_without_a_name():
    """A link in /dev/fd to such a file names none: nothing is written beside it."""
    net = fg.UnivariateRegression(rng=0)
    before = set(Path("/").iterdir())
    refused = "path: expected a file with a name, got /dev/fd"
    with tempfile.TemporaryFile() as file, pytest.raises(ValueError, match=refused):
        net.save(f"/dev/fd/{file.fileno()}")
    handle = os.memfd_create("model")
    with pytest.raises(ValueError, match=refused):
        net.save(f"/dev/fd/{handle}")
    os.close(handle)
    assert set(Path("/").iterdir()) == before
