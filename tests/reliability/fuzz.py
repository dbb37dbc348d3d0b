"""Coverage-guided fuzzing with atheris: of what `fusegrad.load` reads, and of the validation of arrays.

    python tests/reliability/fuzz.py load|arrays [minutes] [arguments of libFuzzer]

Any exception that is not promised, a crash or a hang ends it; libFuzzer writes the input that did it, and takes
it as its last argument to repeat it.
"""

import json
import os
import sys
import tempfile
import warnings
from typing import Any

import atheris

with atheris.instrument_imports(include=["fusegrad"]):
    import fusegrad as fg
    from fusegrad._engine import files

import numpy as np

warnings.simplefilter("ignore")
FILE = os.path.join(tempfile.gettempdir(), f"fusegrad-fuzz-{os.getpid()}")


def seeds() -> list[bytes]:
    """Checkpoints of small networks, to mutate."""
    found = []
    for optimizer in (None, fg.SGD(lr=0.1), fg.Adam()):
        net = fg.Sequential(fg.Linear(2, 3), fg.Sigmoid(), fg.Linear(3, 1, bias=False), dtype="float64", rng=0)
        if optimizer is not None:
            net.train_step(np.ones((2, 4)), np.ones(4), optimizer)
        net.save(FILE, optimizer=optimizer, rng=np.random.default_rng(0) if optimizer else None)
        with open(FILE, "rb") as file:
            data = file.read()
        found += [b"\0" + data, b"\1" + data[8:]]
    return found


def sealed(text: bytes) -> bytes:
    """A header, and what follows it, with a length and a checksum that are right."""
    try:
        header, end = json.JSONDecoder().raw_decode(text.decode("latin-1"))
        body = text[end:].lstrip(b" ")
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
            return text
        header["__metadata__"]["sha256"] = files.NO_DIGEST
        blank = json.dumps(header).encode()
    except (ValueError, RecursionError):
        return text
    digest = files._digest(len(blank).to_bytes(8, "little") + blank, body)
    whole = blank.replace(files.NO_DIGEST.encode(), digest.encode())
    return len(whole).to_bytes(8, "little") + whole + body


def load(data: bytes) -> None:
    """A file as it is, or with a checksum that is right."""
    if not data:
        return
    content = sealed(data[1:]) if data[0] & 1 else data[1:]
    with open(FILE, "wb") as file:
        file.write(content)
    try:
        found = fg.load_checkpoint(FILE)
    except ValueError as error:
        if FILE not in str(error):
            raise AssertionError("the message does not name the file") from error
        return
    again = found.network.state_dict()
    assert sum(array.size for array in again.values()) == found.network.n_parameters
    found.network.save(FILE, optimizer=found.optimizer, rng=found.rng)
    assert fg.load(FILE).parameters.tobytes() == found.network.parameters.tobytes()
    if found.rng is not None:
        found.rng.permutation(700)


DTYPES = ["f4", "f8", ">f4", ">f8", "i1", "i8", "u2", "f2", "g", "?", "c8", "O", "S2", "M8[s]", "V4"]
MEMORY = np.frombuffer(np.random.default_rng(0).integers(0, 9, 4096).astype("f4").tobytes(), "u1").copy()


def draw_array(data: atheris.FuzzedDataProvider) -> np.ndarray:
    """An array of any dtype, shape, strides and place within a small piece of memory."""
    dtype = np.dtype(DTYPES[data.ConsumeIntInRange(0, len(DTYPES) - 1)])
    ndim = data.ConsumeIntInRange(0, 3)
    shape = tuple(data.ConsumeIntInRange(0, 40) for _ in range(ndim))
    if dtype.hasobject:
        return np.full(shape, 1.0, dtype)
    whole = data.ConsumeBool()
    strides = tuple(data.ConsumeIntInRange(-60, 60) * (dtype.itemsize if whole else 1) for _ in range(ndim))
    lowest = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n)
    highest = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n) + dtype.itemsize
    offset = -lowest + data.ConsumeIntInRange(0, 17)
    if 0 in shape or offset + highest > MEMORY.nbytes:
        return np.zeros(shape, dtype)
    array = np.ndarray(shape, dtype, MEMORY, offset, strides)
    array.flags.writeable = data.ConsumeBool()
    return array


def arrays(raw: bytes) -> None:
    """Any two arrays through every public function: what their copies give, or a clear error."""
    data = atheris.FuzzedDataProvider(raw)
    way = data.ConsumeIntInRange(0, 6)
    first, second = draw_array(data), draw_array(data)
    n, outputs = data.ConsumeIntInRange(1, 8), data.ConsumeIntInRange(1, 3)
    dtype = ("float32", "float64")[data.ConsumeBool()]
    memory = MEMORY.tobytes()

    def run(a: np.ndarray, b: np.ndarray) -> list[Any]:
        net = fg.Sequential(fg.Linear(n, 3), fg.Tanh(), fg.Linear(3, outputs), dtype=dtype, rng=0)
        optimizer = fg.Adam()
        if way == 0:
            return [net(a)]
        if way == 1:
            return [net.train_step(a, b, optimizer), net.parameters]
        if way == 2:
            return [*net.loss_and_gradient(a, b), net.input_gradient(a, b)]
        if way == 3:
            return [fg.kernels.matmul(a, b)]
        if way == 4:
            return [fg.kernels.sigmoid(a)]
        if way == 5:
            return [net.fit(a, b, optimizer=optimizer, epochs=2, batch_size=n, rng=0).loss, net.parameters]
        return [fg.kernels.dense_forward(a, b, None)]

    def outcome(a: np.ndarray, b: np.ndarray) -> list[Any]:
        try:
            return run(a, b)
        except (TypeError, ValueError, fg.DivergenceError) as error:
            return [type(error)]

    for found, expected in zip(outcome(first, second), outcome(first.copy(), second.copy()), strict=True):
        if way == 3 and isinstance(found, np.ndarray):  # of a vector the order of the sums depends on the layout
            with np.errstate(all="ignore"):
                largest = np.abs(first.astype("f8")) @ np.abs(second.astype("f8"))
                whole = (largest < np.finfo(found.dtype).max / 100) & np.isfinite(found) & np.isfinite(expected)
                assert (np.abs(found - expected)[whole] <= 1e-4 * largest[whole] + 1e-30).all()
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        else:
            np.testing.assert_array_equal(found, expected)
    assert MEMORY.tobytes() == memory, "an input was written to"
    if way == 3 and MEMORY.flags.writeable:  # into any array, overlaps and all
        out = draw_array(data)
        try:
            expected = fg.kernels.matmul(first, second)
            found = fg.kernels.matmul(first, second, out=out)
            np.testing.assert_array_equal(found, expected)
        except (TypeError, ValueError):
            assert MEMORY.tobytes() == memory, "something was written before the error"
        MEMORY[:] = np.frombuffer(memory, "u1")


def main() -> None:
    """Set libFuzzer going."""
    target = {"load": load, "arrays": arrays}[sys.argv[1]]
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 30
    corpus = f"build/fuzz/{sys.argv[1]}"
    os.makedirs(corpus, exist_ok=True)
    if target is load:
        for i, data in enumerate(seeds()):
            with open(f"{corpus}/seed{i}", "wb") as file:
                file.write(data)
    options = [
        f"-max_total_time={int(60 * minutes)}", "-runs=10000000", "-timeout=10", "-rss_limit_mb=4096", "-max_len=4096",
        "-artifact_prefix=build/fuzz/", "-print_final_stats=1", *sys.argv[3:],
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, corpus], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
