"""Examples in blocks: the bits of one array, reading ahead, and blocks that are at fault."""

import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest
from support import in_a_new_process, tried

import fusegrad as fg
from fusegrad import streams


def data(dtype="float32", n=6, m=2503, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, m)).astype(dtype)
    return X, np.tanh(X[:1] - X[1:2]), draw.uniform(size=m).astype(dtype)


def network(n=6, dtype="float32", **options):
    return fg.Sequential(
        fg.Linear(n, 7), fg.Tanh(), fg.Dropout(0.1), fg.Linear(7, 1), rng=0, dtype=dtype, **options
    )  # fmt: skip


class Plain:
    """An optimizer that runs in Python."""

    lr = 0.05

    def step(self, parameters, gradient):
        parameters -= self.lr * gradient


def blocks_of(X, y, size, weights=None):
    parts = [slice(i, i + size) for i in range(0, X.shape[1], size)]
    return [(X[:, p], y[:, p], *([] if weights is None else [weights[p]])) for p in parts]


def same(one, other, first=None, second=None):
    return (one.parameters == other.parameters).all() and (first is None or first.loss == second.loss)


# ---- the bits of one array ----


@pytest.mark.parametrize("size", [1, 31, 250, 3000])
@pytest.mark.parametrize("block", [1, 32, 700, 2503])
def test_blocks_give_the_bits_of_one_array(size, block, dtype):
    """Any size of blocks and batches, with weights and dropout, in float32 and float64."""
    m = 300 if size == 1 or block == 1 else 2503
    X, y, weights = (array[..., :m] for array in data(dtype))
    for sample_weight in (None, weights):
        whole, streamed = network(dtype=dtype, l2=0.01), network(dtype=dtype, l2=0.01)
        options = {"epochs": 2, "batch_size": size, "shuffle": False, "schedule": fg.CosineDecay(0.02, 500)}
        first = whole.fit(X, y, optimizer=fg.Adam(), sample_weight=sample_weight, **options)
        second = streamed.fit(blocks_of(X, y, block, sample_weight), optimizer=fg.Adam(), **options)
        assert same(whole, streamed, first, second)
        tried("fits of blocks, with the bits of one array")


def test_one_block_is_shuffled_as_an_array(dtype):
    X, y, _ = data(dtype)
    whole, streamed = network(dtype=dtype), network(dtype=dtype)
    draws, others = np.random.default_rng(1), np.random.default_rng(1)
    first = whole.fit(X, y, optimizer=fg.Adam(), epochs=3, batch_size=100, rng=draws)
    second = streamed.fit(fg.Blocks(X, y), optimizer=fg.Adam(), epochs=3, batch_size=100, rng=others)
    assert same(whole, streamed, first, second)
    assert draws.bit_generator.state == others.bit_generator.state


def test_blocks_are_shuffled_and_so_are_their_examples():
    """Each example is seen once an epoch, in another order, the same for the same seed."""
    m, size = 1000, 100
    X = np.arange(m, dtype="float32")[np.newaxis]
    seen = []

    class Spy(fg.UnivariateRegression):
        def loss_and_gradient(self, X, y, **others):
            seen[-1].extend(X[0].astype(int))
            return super().loss_and_gradient(X, y, **others)

    for seed in (0, 0, 1):
        seen.append([])
        Spy(rng=0).fit(blocks_of(X, X, 130), optimizer=fg.SGD(1e-9), epochs=2, batch_size=size, rng=seed)
    first, again, other = (np.array(order).reshape(2, m) for order in seen)
    assert (first == again).all()
    assert (first != other).any()
    assert (np.sort(first, axis=1) == np.arange(m)).all()
    assert (first[0] != first[1]).any()
    in_blocks = first[0] // 130
    assert len(set(np.flatnonzero(np.diff(in_blocks)))) == 7  # an example's block is read once, as a whole
    assert (np.diff(first[0][:100]) < 0).any()


def test_iterables_are_read_in_their_order():
    X, y, _ = data()

    class Again:
        def __iter__(self):
            return iter(blocks_of(X, y, 300))

    whole, numbered, iterated, once = (network() for _ in range(4))
    options = {"batch_size": 64, "shuffle": False}
    whole.fit(X, y, optimizer=fg.Adam(), epochs=2, **options)
    numbered.fit(blocks_of(X, y, 300), optimizer=fg.Adam(), epochs=2, **options)
    iterated.fit(Again(), optimizer=fg.Adam(), epochs=2, **options)
    assert same(whole, numbered)
    assert same(whole, iterated)
    optimizer = fg.Adam()
    for _ in range(2):
        once.fit((block for block in Again()), optimizer=optimizer, epochs=1, **options)
    assert same(whole, once)


def test_rules_and_losses_in_python():
    X, y, _ = data("float64", m=700)

    class Absolute:
        def value_and_gradient(self, prediction, y):
            r = prediction - y
            return float(abs(r).mean()), np.sign(r) / r.size

    for make in (lambda: network(dtype="float64"), lambda: network(dtype="float64", loss=Absolute())):
        whole, streamed = make(), make()
        options = {"epochs": 2, "batch_size": 50, "shuffle": False}
        first = whole.fit(X, y, optimizer=Plain(), **options)
        second = streamed.fit(blocks_of(X, y, 120), optimizer=Plain(), **options)
        assert same(whole, streamed, first, second)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_blocks_of_data_frames(library):
    """Rows are examples."""
    module = pytest.importorskip(library)
    frame = module.table if library == "pyarrow" else module.DataFrame
    X, y, _ = data()
    columns = dict(zip("abcdef", X, strict=True))
    parts = [slice(i, i + 400) for i in range(0, X.shape[1], 400)]
    blocks = [(frame({name: column[p] for name, column in columns.items()}), frame({"y": y[0, p]})) for p in parts]
    whole, streamed = network(), network()
    options = {"epochs": 2, "batch_size": 64, "shuffle": False}
    whole.fit(X, y, optimizer=fg.Adam(), **options)
    streamed.fit(blocks, optimizer=fg.Adam(), **options)
    assert same(whole, streamed)


def test_class_numbers_and_dtypes():
    X, y, _ = data("float64")
    labels = (y[0] > 0).astype(int)
    whole, streamed = (fg.Sequential(fg.Linear(6, 2), loss="softmax_cross_entropy", rng=0) for _ in range(2))
    options = {"epochs": 2, "batch_size": 90, "shuffle": False}
    whole.fit(X.astype("float32"), labels, optimizer=fg.Adam(), **options)
    streamed.fit(fg.Blocks(X, labels, block_size=400), optimizer=fg.Adam(), **options)
    assert same(whole, streamed)


def test_validation_callbacks_and_resumption(tmp_path):
    """A stream has validation data, callbacks and checkpoints as an array has."""
    X, y, _ = data()
    path = tmp_path / "net.safetensors"
    options = {"batch_size": 100, "validation_data": (X, y)}
    whole, stopped = network(), network()
    first = whole.fit(fg.Blocks(X, y, block_size=600), optimizer=fg.Adam(), epochs=6, rng=3, **options)
    stopped.fit(
        fg.Blocks(X, y, block_size=600),
        optimizer=fg.Adam(),
        epochs=4,
        rng=3,
        callbacks=[fg.Checkpoint(path)],
        **options,
    )
    net, optimizer, rng = fg.load_checkpoint(path)
    second = net.fit(
        fg.Blocks(X, y, block_size=600), optimizer=optimizer, epochs=6, initial_epoch=4, rng=rng, **options
    )
    assert same(whole, net)
    assert first.validation_loss[4:] == second.validation_loss


# ---- arrays that are read by slices ----


def mapped(tmp_path, X, name, order="C"):
    """A memory map of X (n, m), whose file has the features or the examples one after the other."""
    array = np.memmap(tmp_path / name, X.dtype, "w+", shape=X.shape if order == "C" else X.shape[::-1])
    array[:] = X if order == "C" else X.T
    array.flush()
    array = np.memmap(tmp_path / name, X.dtype, "r", shape=array.shape)
    return array if order == "C" else array.T


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("view", ["whole", "offset", "reversed", "every second"])
def test_memory_maps(order, view, tmp_path, monkeypatch):
    """Parts of a file, in any layout: read from the file where it has them in runs."""
    monkeypatch.setattr(streams, "BLOCK_BYTES", 10_000)
    X, y, _ = data()
    which = {
        "whole": np.s_[:, :], "offset": np.s_[:, 17:2100], "reversed": np.s_[::-1, :], "every second": np.s_[:, ::2],
    }[view]  # fmt: skip
    array, targets = mapped(tmp_path, X, "X", order)[which], mapped(tmp_path, y, "y")[:, which[1]]
    assert len(fg.Blocks(array, targets)) > 3
    whole, streamed = network(), network()
    options = {"epochs": 1, "batch_size": 64, "shuffle": False}
    whole.fit(X[which], y[:, which[1]], optimizer=fg.Adam(), **options)
    streamed.fit(fg.Blocks(array, targets), optimizer=fg.Adam(), **options)
    assert same(whole, streamed)


def test_large_maps_are_read_in_blocks(tmp_path, monkeypatch):
    """Smaller ones are arrays: joblib passes such to its workers, whose results are those of other processes."""
    X, y, _ = data()
    array = mapped(tmp_path, X, "X")
    whole, small, large = network(), network(), network()
    options = {"epochs": 2, "batch_size": 64, "rng": 0}
    whole.fit(X, y, optimizer=fg.Adam(), **options)
    small.fit(array, y, optimizer=fg.Adam(), **options)
    assert same(whole, small)
    monkeypatch.setattr(streams, "MOST_MAPPED", 1000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 10_000)
    large.fit(array, y, optimizer=fg.Adam(), **options)
    assert not same(whole, large)


@pytest.mark.parametrize("view", [np.s_[:, :5], np.s_[:, 1:], np.s_[::-1], np.s_[::2, ::3], np.s_[:, 2:3]])
def test_parts_of_a_table_in_a_file(view, tmp_path, monkeypatch):
    """Columns of a wide table: the bytes between them are read, too, some at a time."""
    table = np.random.default_rng(0).normal(size=(3000, 40)).astype("float32")
    path = tmp_path / "table"
    array = mapped(tmp_path, table, "table")
    monkeypatch.setattr(streams, "SPAN_BYTES", 5000)
    for i, block in enumerate(blocks := fg.Blocks(array[view], array[view][:, 0], axis=0, block_size=500)):
        rows = slice(500 * i, 500 * i + 500)
        assert (block[0] == table[view][rows].T).all()
        assert (block[1] == table[view][rows, 0]).all()
    os.truncate(path, table.nbytes // 2)
    with pytest.raises(OSError, match="it was cut short"):
        for _ in blocks:
            pass


def test_a_file_that_was_replaced_or_deleted(tmp_path):
    """The map has what it had."""
    X, y, _ = data(m=300)
    array = mapped(tmp_path, X, "X")
    blocks = fg.Blocks(array, y)
    mapped(tmp_path, X + 1, "other")
    os.replace(tmp_path / "other", tmp_path / "X")
    assert (blocks[0][0] == X).all()
    (tmp_path / "X").unlink()
    assert (blocks[0][0] == X).all()


def test_masks_are_not_dropped():
    X, y, weights = data(m=300)
    for arrays in ((np.ma.array(X, mask=X > 1), y), (X, np.ma.array(y, mask=y > 0)), (X, y, np.ma.array(weights))):
        with pytest.raises(TypeError, match="got a masked array"):
            network().fit(fg.Blocks(*arrays, block_size=100), optimizer=fg.Adam(), epochs=1, batch_size=50)


def test_a_batch_larger_than_all_blocks(dtype):
    for m in (1, 3, 8, 100):
        X, y, _ = data(dtype, m=m)
        whole, streamed = network(dtype=dtype), network(dtype=dtype)
        options = {"epochs": 3, "batch_size": 10**5, "shuffle": False}
        first = whole.fit(X, y, optimizer=fg.Adam(), **options)
        second = streamed.fit(blocks_of(X, y, 7), optimizer=fg.Adam(), **options)
        assert same(whole, streamed, first, second)
        whole, streamed = network(dtype=dtype), network(dtype=dtype)
        first = whole.fit(X, y, optimizer=Plain(), **options)
        second = streamed.fit(blocks_of(X, y, 7), optimizer=Plain(), **options)
        assert same(whole, streamed, first, second)


def test_targets_of_other_kinds_beside_blocks(tmp_path):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    X, y, _ = data(m=300)
    array = mapped(tmp_path, X, "X")
    expected = network()
    expected.fit(fg.Blocks(array, y), optimizer=fg.Adam(), epochs=1, batch_size=50, rng=0)
    for targets in (pandas.DataFrame({"y": y[0]}), polars.Series(y[0]), polars.DataFrame({"y": y[0]}), y[0].tolist()):
        net = network()
        net.fit(fg.Blocks(array, targets), optimizer=fg.Adam(), epochs=1, batch_size=50, rng=0)
        assert same(net, expected)


@pytest.mark.peers
def test_dask_arrays():
    dask = pytest.importorskip("dask.array")
    X, y, _ = data()
    whole, streamed = network(), network()
    options = {"epochs": 1, "batch_size": 64, "shuffle": False}
    whole.fit(X, y, optimizer=fg.Adam(), **options)
    streamed.fit(dask.from_array(X, chunks=(6, 300)), y, optimizer=fg.Adam(), **options)
    assert same(whole, streamed)


def test_private_changes_of_a_map(tmp_path):
    """Those of mode "c" are not in the file."""
    X, y, _ = data(m=200)
    mapped(tmp_path, X, "X")
    array = np.memmap(tmp_path / "X", X.dtype, "c", shape=X.shape)
    array[0] = 7
    (block, _) = fg.Blocks(array, y)[0]
    assert (block[0] == 7).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_hdf5_and_zarr(axis, tmp_path):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    X, y, _ = data()
    stored = X if axis else X.T
    chunks = (6, 300) if axis else (300, 6)
    whole = network()
    options = {"epochs": 2, "batch_size": 64, "shuffle": False}
    whole.fit(X, y, optimizer=fg.Adam(), **options)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("X", data=stored, chunks=chunks)
        file.create_dataset("y", data=y[0])
        blocks = fg.Blocks(file["X"], file["y"], axis=axis, block_size=450)
        streamed = network()
        streamed.fit(blocks, optimizer=fg.Adam(), **options)
        assert same(whole, streamed)
        if axis:
            direct = network()
            direct.fit(file["X"], file["y"], optimizer=fg.Adam(), **options)
            assert same(whole, direct)
        whole_chunks = fg.Blocks(file["X"], file["y"], axis=axis)
        assert whole_chunks.block_size == 2503
    array = zarr.create_array(str(tmp_path / "X.zarr"), shape=stored.shape, dtype="f4", chunks=chunks)
    array[:] = stored
    streamed = network()
    streamed.fit(fg.Blocks(array, y[0], axis=axis, block_size=450), optimizer=fg.Adam(), **options)
    assert same(whole, streamed)


def test_blocks_of_whole_chunks():
    class Chunked:
        shape, dtype, chunks = (6, 10**7), np.dtype("f4"), (6, 1000)

        def __getitem__(self, index):
            return np.zeros(self.shape, self.dtype)[index]

    blocks = fg.Blocks(Chunked(), np.zeros(10**7, "f4"))
    assert blocks.block_size % 1000 == 0
    assert 0.9 * streams.BLOCK_BYTES < blocks.block_size * 7 * 4 <= streams.BLOCK_BYTES
    assert repr(blocks).startswith("<34 Blocks of 299000 examples")


def test_the_next_block_is_read_meanwhile():
    """One block ahead, no more; and a block that has been computed is released."""
    X, y, _ = data(m=1000)
    read, released = [], []

    class Slow:
        def __len__(self):
            return 10

        def __getitem__(self, i):
            block = X[:, 100 * i : 100 * (i + 1)].copy(), y[:, 100 * i : 100 * (i + 1)]
            weakref.finalize(block[0], released.append, i)
            read.append(threading.get_ident())
            return block

    ahead = []

    class Watch(fg.Sequential):
        def loss_and_gradient(self, X, y, **others):
            time.sleep(0.02)
            gc.collect()
            ahead.append(len(read) - len(ahead))
            assert len(read) - len(released) <= 3  # two blocks, and the one that is being read
            return super().loss_and_gradient(X, y, **others)

    Watch(fg.Linear(6, 1), rng=0).fit(Slow(), optimizer=fg.Adam(), epochs=1, batch_size=100, shuffle=False)
    assert max(ahead) <= 2
    assert threading.get_ident() not in read


MEMORY = """
import numpy as np, fusegrad as fg, sys
folder, m = sys.argv[1], int(sys.argv[2])
for name, rows in (("X", 8), ("y", 1)):
    with open(f"{folder}/{name}", "wb") as file:
        file.truncate(rows * m * 4)         # a sparse file
X = np.memmap(f"{folder}/X", "f4", "r", shape=(m, 8)).T
y = np.memmap(f"{folder}/y", "f4", "r", shape=(m,))
net = fg.TwoLayerSigmoid(8, 16, rng=0)

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

net.fit(np.zeros((8, 1000)), np.zeros(1000), optimizer=fg.Adam(), epochs=1, batch_size=100)
before = peak()
net.fit(X, y, optimizer=fg.Adam(), epochs=1, batch_size=512, rng=0)
print(peak() - before)
"""


@pytest.mark.reliability
@pytest.mark.parametrize("gib", [1, 10])
def test_memory(gib, tmp_path):
    """Of a sparse file: two blocks of 8 MiB, the order of the examples, and what one of them is read to."""
    grown = float(in_a_new_process(MEMORY, tmp_path, gib * 2**30 // 36, timeout=900))
    assert grown <= 64
    tried(f"MiB that a fit of {gib} GiB took", round(grown))


# ---- blocks that are at fault ----


@pytest.mark.parametrize(
    ("block", "kind", "message"),
    [
        (lambda X, y: (X[:5], y), ValueError, r"block 2: X: expected 6 features \(rows\), got shape \(5, 100\)"),
        (lambda X, y: (X, y[:, :99]), ValueError, r"block 2: y: expected 100 examples .* got shape \(1, 99\)"),
        (lambda X, y: X, TypeError, r"block 2: expected \(X, y\) or \(X, y, sample_weight\), got ndarray"),
        (lambda X, y: (X, y, -y[0] ** 2), ValueError, "block 2: sample_weight: expected finite numbers of at least 0"),
        (lambda X, y: (np.where(np.arange(100) == 63, np.nan, X), y), ValueError,
         r"block 2: X: expected finite numbers \(float32\), got nan at feature \(row\) 0, example \(column\) 63"),
        (lambda X, y: (X, np.where(np.arange(100) == 99, np.inf, y)), ValueError,
         r"block 2: y: expected finite numbers \(float32\), got inf at output \(row\) 0, example \(column\) 99"),
        (lambda X, y: 1 // 0, ZeroDivisionError, "division"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_block_at_fault(block, kind, message, shuffle):
    """The error says which; network and optimizer are as after the last finished step."""
    X, y, _ = data(m=300)

    def blocks():
        for i, (part, targets) in enumerate(blocks_of(X, y, 100)):
            yield block(part, targets) if i == 2 else (part, targets)

    net, optimizer = network(), fg.Adam()
    with pytest.raises(kind, match=message):
        net.fit(blocks(), optimizer=optimizer, epochs=1, batch_size=40, rng=0, shuffle=shuffle)
    assert optimizer.n_steps >= 4
    twin, other = network(), fg.Adam()
    order = np.arange(300)
    if shuffle:
        draws = np.random.default_rng(0)
        kernels = twin._engine.kernels
        order = np.concatenate([100 * i + kernels.permutation(draws.bit_generator, 100) for i in range(3)])
    order = order[: 40 * optimizer.n_steps]
    twin.fit(X[:, order], y[:, order], optimizer=other, epochs=1, batch_size=40, shuffle=False)
    assert same(net, twin)
    assert (optimizer.state == other.state).all()
    net.fit(X, y, optimizer=optimizer, epochs=1)  # and it trains on


def test_a_file_that_is_cut_short(tmp_path):
    """While it is read: an error, and no signal that ends the process."""
    X, y, _ = data(m=20_000)
    array = mapped(tmp_path, X, "X", "F")
    blocks = fg.Blocks(array, y, block_size=1000)
    blocks[19]
    os.truncate(tmp_path / "X", X.nbytes // 2)
    net, optimizer = network(), fg.Adam()
    with pytest.raises(OSError, match=r"X: .*X ends at byte 240000, expected .* or more: it was cut short"):
        net.fit(blocks, optimizer=optimizer, epochs=1, batch_size=100, shuffle=False)
    assert optimizer.n_steps >= 90


def test_a_stream_that_diverges():
    """As an array: back to the last finite epoch."""
    X, y, _ = data(m=500)
    net = network()
    history = net.fit(
        blocks_of(X, y, 100), optimizer=fg.SGD(1e4), epochs=50, batch_size=50, rng=0, on_divergence="stop"
    )  # fmt: skip
    assert history.divergence is not None
    assert np.isfinite(net.parameters).all()
    assert len(history.loss) < 50


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda net, X, y: net.fit(iter([(X, y)]), optimizer=fg.Adam(), epochs=2, batch_size=5), ValueError,
         "X: expected blocks that can be read 2 times, got list_iterator"),
        (lambda net, X, y: net.fit([(X, y)], optimizer=fg.Adam(), epochs=2), ValueError,
         "batch_size: expected a number"),
        (lambda net, X, y: net.fit([], optimizer=fg.Adam(), epochs=2, batch_size=5), ValueError,
         "X: expected at least one block, got none"),
        (lambda net, X, y: net.fit(iter([]), optimizer=fg.Adam(), epochs=1, batch_size=5), ValueError,
         "X: expected at least one block, got none: was it read before"),
        (lambda net, X, y: net.fit([(X, y)], sample_weight=y, optimizer=fg.Adam(), epochs=1, batch_size=5), TypeError,
         "sample_weight: expected None beside blocks"),
        (lambda net, X, y: net.fit(X, optimizer=fg.Adam(), epochs=1), TypeError, "y: expected numbers, got None"),
        (lambda net, X, y: fg.Blocks(X, y[:, :4]), ValueError, "y: expected 9 examples as in X"),
        (lambda net, X, y: fg.Blocks(X, y, y), ValueError, "sample_weight: expected 9 examples as in X"),
        (lambda net, X, y: fg.Blocks(object(), y), TypeError, "X: expected an array with a shape"),
        (lambda net, X, y: fg.Blocks(X[0], y), ValueError, "X: expected two dimensions"),
        (lambda net, X, y: fg.Blocks(X, y, axis=2), ValueError, "axis: expected 1"),
        (lambda net, X, y: fg.Blocks(X, y, block_size=0), ValueError, "block_size: expected at least 1"),
        (lambda net, X, y: fg.Blocks(X[:, :0], y[:, :0]), ValueError, "X: expected at least one example"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, kind, message):
    X, y, _ = data(m=9)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(kind, match=message):
        call(net, X, y)
    assert (net.parameters == before).all()


def test_ctrl_c_while_a_block_is_awaited():
    """It does not wait for a reader that stands still."""
    code = """
import os, signal, threading, time
import numpy as np, fusegrad as fg
def blocks():
    yield np.ones((2, 10)), np.ones(10)
    time.sleep(600)
net = fg.MultivariateRegression(2, rng=0)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    net.fit(blocks(), optimizer=fg.SGD(0.1), epochs=1, batch_size=10)
except KeyboardInterrupt:
    print(time.monotonic() - began < 2)
"""
    assert in_a_new_process(code, timeout=60) == "True"


def test_interrupts_at_any_moment():
    """Of a fit that reads blocks: none deadlocks, and no thread stays."""
    code = """
import os, random, signal, time
import numpy as np, fusegrad as fg
random.seed(0)
X = np.ones((3, 400), "f4")
blocks = [(X[:, i : i + 50], X[0, i : i + 50]) for i in range(0, 400, 50)]
net = fg.MultivariateRegression(3, rng=0)
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
count = 0
while count < 300:
    try:
        # Once more if Python itself ignores it, in a callback of its import system.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.004), 0.1)
        net.fit(blocks, optimizer=fg.SGD(1e-3), epochs=10**6, batch_size=50)
    except KeyboardInterrupt:
        count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
time.sleep(1.5)
print(len(os.listdir("/proc/self/task")))
"""
    assert in_a_new_process(code, timeout=100, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == "1"


def test_a_fork_by_a_signal_handler():
    """The child has no thread that reads: its fit ends with an error."""
    code = """
import os, signal, sys, time
import numpy as np, fusegrad as fg
children = []
def handler(*_):
    children.append(os.fork())
signal.signal(signal.SIGALRM, handler)
def blocks():
    for i in range(40):
        time.sleep(0.02)
        yield np.ones((3, 100), "f4"), np.ones(100, "f4")
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    fg.MultivariateRegression(3, rng=0).fit(blocks(), optimizer=fg.SGD(1e-3), epochs=1, batch_size=50)
except RuntimeError as error:
    os._exit(7 * (children == [0] and "forked while a thread read blocks" in str(error)))
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""
    assert in_a_new_process(code, timeout=100) == "7"


def test_weights_that_are_all_0():
    X, y, _ = data(m=300)
    for size in (50, 300, 1000):  # several batches, or one
        with pytest.raises(ValueError, match="sample_weight: expected at least one weight of more than 0 in an epoch"):
            network().fit(blocks_of(X, y, 100, np.zeros(300)), optimizer=fg.Adam(), epochs=1, batch_size=size)


@pytest.mark.parametrize(
    "schedule", [fg.InverseTimeDecay(0.05, 1.0), fg.CosineDecay(0.05, 30), lambda step: 0.05 / (1 + step)]
)
def test_batches_without_weight_use_no_rate(schedule):
    X = np.arange(12.0).reshape(1, 12) / 12
    weights = np.ones(12)
    weights[2:10] = 0
    options = {"optimizer": None, "epochs": 3, "batch_size": 1, "shuffle": False, "schedule": schedule}
    nets = [fg.UnivariateRegression(dtype="float64", rng=0) for _ in range(2)]
    nets[0].fit(X, 2 * X, sample_weight=weights, **{**options, "optimizer": fg.SGD(0.1)})
    blocks = [(X[:, part], 2 * X[:, part], weights[part]) for part in (slice(10), slice(10, 12))]
    nets[1].fit(blocks, **{**options, "optimizer": fg.SGD(0.1)})
    np.testing.assert_array_equal(nets[1].parameters, nets[0].parameters)


def test_a_resumed_fit_of_uncounted_blocks():
    X, y, _ = data(m=300)
    with pytest.raises(ValueError, match="initial_epoch: expected 0, or an optimizer of fusegrad, which counts"):
        network().fit(blocks_of(X, y, 100), optimizer=Plain(), epochs=3, initial_epoch=1, batch_size=50)
