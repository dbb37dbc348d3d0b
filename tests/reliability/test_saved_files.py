"""Files: all of one or all of the other whatever happens, and refused with the cause where they are not whole."""

import errno
import io
import json
import os
import pickle
import random
import re
import resource
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import in_a_new_process, tried, within

import fusegrad as fg
from fusegrad import _files

KEPT = Path(__file__).with_name("files")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# ---- written whole ----

KILLER = """
import os, random, signal, sys, time
import numpy as np, fusegrad as fg
from pathlib import Path

path = Path(sys.argv[1])
random.seed(20)
net, optimizer = fg.TwoLayerSigmoid(50, 100, rng=0), fg.Adam()
net.save(path, optimizer=optimizer)     # what is imported late is there before the fork
number = leftovers = saves = 0
net.parameters[:] = 0
net.save(path, optimizer=optimizer)
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
    time.sleep(random.uniform(0, 0.004))
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
    leftovers += len(os.listdir(path.parent)) - 1
    for name in os.listdir(path.parent):    # counted once
        if name != path.name:
            os.unlink(path.parent / name)
(path.parent / f".{path.name}.00.part").write_text("left")
net.save(path)
assert os.listdir(path.parent) == [path.name], "litter"
print(leftovers, saves)
"""


@pytest.mark.reliability
def test_kill_at_random_moments_of_500_saves(path):
    """What stands there is the last save that ended, or the one that was killed."""
    leftovers, saves = map(int, in_a_new_process(KILLER, path).split())
    tried("kills within a save: the old file loads, or the new one", 500)
    tried("saves that ended between the kills", saves)
    within("files left by 500 killed saves, which the next save takes away", leftovers, 25)


def test_leftovers_go_and_what_is_at_work_stays(path):
    import fcntl

    net = fg.UnivariateRegression(rng=0)
    left = path.with_name(f".{path.name}.0123.part")
    left.write_text("left by a process that was killed")
    working = path.with_name(f".{path.name}.4567.part")
    other = path.with_name(".other.safetensors.0123.part")
    other.write_text("of another file")
    with working.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        net.save(path)
        assert sorted(path.parent.iterdir()) == sorted([path, working, other])
    net.save(path)
    assert sorted(path.parent.iterdir()) == sorted([path, other])


def test_where_files_without_a_name_cannot_be_made(path, monkeypatch):
    whole = os.open

    def without(file, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return whole(file, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", without)
    net = fg.UnivariateRegression(rng=0)
    for _ in range(2):
        net.save(path)
        assert (fg.load(path).parameters == net.parameters).all()
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace", "link"])
def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch, broken):
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    before = path.read_bytes()

    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, fails)
    net.parameters[:] = 7
    with pytest.raises(OSError, match=r"No space left on device: .*net\.safetensors'$"):
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
    base = {"format": _files.FORMAT, "layers": '[["linear", 1, 1, true]]', "dtype": "float32"}

    def text(digest):
        header = {"__metadata__": {**base, **(metadata or {}), "sha256": digest}, **(entries or {})}
        encoded = json.dumps(header).encode()
        return len(encoded).to_bytes(8, "little") + encoded

    digest = _files._digest(text(_files.NO_DIGEST), body)
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
    description = _files.describe_generator(np.random.Generator(kind(0)))
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


# ---- every format ever written ----


def test_files_of_every_version_load():
    """One of each is kept; a new format adds its own."""
    kept = sorted(KEPT.glob("*.safetensors"))
    assert _files.FORMAT.replace(" ", "-") in {file.stem.rsplit("-float", 1)[0] for file in kept}
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
