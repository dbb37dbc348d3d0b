"""Examples that are not in memory at once: blocks of them, one of which is read ahead.

A fit takes any iterable of blocks (X, y) or (X, y, sample_weight). An epoch reads each block once. Steps read a block
in place. The examples at its end that do not fill a batch are copied, and make a batch with the first ones of the next
block. So batches, and bits, are those of one array with all examples in this order. A thread reads the next block
meanwhile: two blocks are in memory.

Shuffled are the blocks, if they have numbers, and the examples within each. One block is shuffled as an array is.

A memory-mapped file is read with `read`, not through its pages. A file that was cut short is then an error, not a
signal that ends the process, and the pages do not count as memory of the process.

Rejected: copying all examples into staging buffers in the shuffled order (steps gather them in place at no cost);
shuffling over several blocks (all of them would be in memory at once).
"""

import _thread
import os
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.engine import Batch, NetworkEngine
from fusegrad._engine.shuffled import ExampleMajor
from fusegrad._engine.validation import Array, as_array, as_count, is_frame

BLOCK_BYTES = 8 * 2**20  # of X, y and weights in a block
SPAN_BYTES = 2**20  # that are read at once from a file, needed or not
IDLE_SECONDS = 0.5  # after which a thread that waits looks whether the other one exists
MOST_MAPPED = 512 * 2**20  # bytes of a memory map that is used in place, as an array


class Blocks:
    """Blocks of examples from arrays that are read by slices: memory-mapped files, HDF5, zarr.

    Parameters
    ----------
    X, y : array-like with ``shape``, ``dtype`` and slices
        For example `numpy.memmap`, ``h5py.Dataset``, ``zarr.Array``. X is ``(n_features, m)``, y ``(n_outputs, m)`` or
        ``(m,)``; see `axis`.
    sample_weight : array-like (m,), optional
    block_size : int, optional
        Examples in a block; None: as many as 8 MiB hold, and whole chunks of an array that has ``chunks``.
    axis : {1, 0}, default 1
        The axis of the examples in X and y. 0: an example is a row, as in most HDF5 files; blocks are transposed,
        without a copy.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be sliced, or shapes do not match.
    OSError
        When a block is read, if the file of a memory map is shorter than the map.

    Notes
    -----
    ``len(blocks)`` is their number, ``blocks[i]`` reads one: (X, y) or (X, y, sample_weight), in the arrays' own dtype.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     X = np.memmap(pathlib.Path(folder, "X.f4"), "float32", "w+", shape=(8, 100_000))
    ...     y = np.memmap(pathlib.Path(folder, "y.f4"), "float32", "w+", shape=(100_000,))
    ...     y[:] = 1
    ...     net = fg.TwoLayerSigmoid(8, 16, rng=0)
    ...     history = net.fit(fg.Blocks(X, y), optimizer=fg.Adam(lr=0.01), epochs=2, batch_size=128, rng=0)
    >>> len(history.loss), history.loss[1] < 1e-3
    (2, True)
    """

    def __init__(
        self, X: Any, y: Any, sample_weight: Any = None, *, block_size: int | None = None, axis: int = 1
    ) -> None:
        if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool) or axis not in (0, 1):
            raise ValueError(f"axis: expected 1 (an example is a column) or 0 (a row), got {axis!r}")
        self.axis = axis
        named = [("X", X), ("y", y), *([] if sample_weight is None else [("sample_weight", sample_weight)])]
        self._arrays = [(name, _as_sliced(name, array)) for name, array in named]
        X = self._arrays[0][1]
        if len(X.shape) != 2:
            raise ValueError(f"X: expected two dimensions, got shape {tuple(X.shape)}")
        self.n_examples = int(X.shape[axis])
        for name, array in self._arrays[1:]:
            self._check_examples(name, array, tuple(X.shape))
        if self.n_examples == 0:
            raise ValueError(f"X: expected at least one example, got shape {tuple(X.shape)}")
        if block_size is None:
            example = sum(array.dtype.itemsize * _values(array, self._axis_of(array)) for _, array in self._arrays)
            chunk = _chunk(X, axis)
            block_size = max(BLOCK_BYTES // max(example * chunk, 1), 1) * chunk
        self.block_size = min(as_count(block_size, "block_size"), self.n_examples)

    def _check_examples(self, name: str, array: Any, shape: tuple[int, ...]) -> None:
        """Raise unless y or the weights have as many examples as X of this shape."""
        dimensions = (1,) if name == "sample_weight" else (1, 2)
        if len(array.shape) in dimensions and array.shape[self._axis_of(array)] == self.n_examples:
            return
        hint = ""
        if shape[1 - self.axis] in array.shape:  # X has examples along the other axis
            kind = "row" if self.axis else "column"
            hint = f": if an example is a {kind} of X, pass fusegrad.Blocks(X, y, axis={1 - self.axis})"
        raise ValueError(
            f"{name}: expected {self.n_examples} examples as in X of shape {shape}, "
            f"got shape {tuple(array.shape)}{hint}"
        )

    def __len__(self) -> int:
        return -(-self.n_examples // self.block_size)

    def __getitem__(self, i: int) -> tuple[Array, ...]:
        if not 0 <= i < len(self):
            raise IndexError(f"block {i} of {len(self)}")
        start, stop = i * self.block_size, min((i + 1) * self.block_size, self.n_examples)
        return tuple(_read(name, array, self._axis_of(array), start, stop) for name, array in self._arrays)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        return map(self.__getitem__, range(len(self)))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("only fit reads blocks, and without a y beside them")

    def _axis_of(self, array: Any) -> int:
        return 0 if len(array.shape) == 1 else self.axis

    def __repr__(self) -> str:
        return f"<{len(self)} Blocks of {self.block_size} examples, {self.n_examples} in all>"


def is_sliced(array: Any) -> bool:
    """Whether it is an array that can be read in parts, of a dtype of NumPy's."""
    return (
        hasattr(array, "shape") and hasattr(array, "__getitem__") and hasattr(getattr(array, "dtype", None), "itemsize")
    )


def _as_sliced(name: str, array: Any) -> Any:
    """An array that can be read in parts: a list, a series or a frame as an array, another one as it is."""
    if is_frame(array):
        return as_array(array, name).T
    if isinstance(array, (list, tuple)) or hasattr(array, "__arrow_c_stream__"):
        return as_array(array, name)
    if not is_sliced(array):
        raise TypeError(f"{name}: expected an array with a shape, a dtype and slices, got {type(array).__name__}")
    return array


def _chunk(array: Any, axis: int) -> int:
    """The examples in a chunk of an array; 1 if it has none. Those of dask may differ."""
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple):
        return 1
    size = chunks[axis][0] if isinstance(chunks[axis], tuple) else chunks[axis]
    return max(int(size or 1), 1)


def _values(array: Any, axis: int) -> int:
    """The values of one example."""
    return int(np.prod([n for i, n in enumerate(array.shape) if i != axis], dtype=np.int64))


def _read(name: str, array: Any, axis: int, start: int, stop: int) -> Array:
    """Examples start ... stop of an array, as columns."""
    part = array[(slice(None),) * axis + (slice(start, stop),)]
    file = _MappedFile.of(name, array)
    if file is not None:
        part = file.read(part)
    elif not isinstance(part, np.ndarray):
        part = np.asarray(part)
    if part.shape[axis] != stop - start:
        raise ValueError(f"{name}: expected {stop - start} examples from {start} on, got shape {part.shape}")
    return part.T if part.ndim == 2 and axis == 0 else part


class _MappedFile(NamedTuple):
    """The file of a memory map, and the address and the place in the file of what is mapped."""

    name: str
    path: Any
    address: int
    place: int

    @classmethod
    def of(cls, name: str, array: Any) -> "_MappedFile | None":
        """None: not a map, or the file does not have its values: private changes, or it was deleted or replaced."""
        if not isinstance(array, np.memmap) or array.mode == "c" or array.filename is None:
            return None
        from mmap import ALLOCATIONGRANULARITY

        try:
            mapped = np.frombuffer(array._mmap, "u1")  # type: ignore[attr-defined]  # not in its stub
            found = os.stat(array.filename)
        except (OSError, TypeError, ValueError):
            return None
        address = mapped.__array_interface__["data"][0]
        if _inode(address) not in (None, found.st_ino):
            return None
        return cls(name, array.filename, address, array.offset - array.offset % ALLOCATIONGRANULARITY)

    def read(self, part: Array) -> Array:
        """A part of the map, read from the file."""
        with open(self.path, "rb", buffering=0) as file:
            return self._read(file, part)

    def _read(self, file: Any, part: Array) -> Array:
        """All bytes from the first to the last one of the part; if there are many others between, in two parts."""
        reaches = [(n - 1) * stride for n, stride in zip(part.shape, part.strides, strict=True)]
        low, high = sum(min(reach, 0) for reach in reaches), sum(max(reach, 0) for reach in reaches) + part.itemsize
        if high - low > max(2 * part.nbytes, SPAN_BYTES):
            axis = int(np.argmax(np.abs(reaches)))
            result = np.empty(part.shape, part.dtype)
            for half in np.array_split(np.arange(part.shape[axis]), 2):
                index = (slice(None),) * axis + (slice(int(half[0]), int(half[-1]) + 1),)
                result[index] = self._read(file, part[index])
            return result
        values = np.empty(high - low, "u1")
        self._fill(file, values, part.__array_interface__["data"][0] + low - self.address + self.place)
        return np.ndarray(part.shape, part.dtype, values, -low, part.strides)

    def _fill(self, file: Any, target: Array, place: int) -> None:
        file.seek(place)
        view = memoryview(target)  # type: ignore[arg-type]  # of bytes
        while len(view):
            n = file.readinto(view)
            if not n:
                end = place + target.nbytes
                raise OSError(
                    f"{self.name}: {os.fspath(self.path)} ends at byte {end - len(view)}, expected {end} or more: "
                    "it was cut short"
                )
            view = view[n:]


def _inode(address: int) -> int | None:
    """The inode of the file that is mapped at an address; None where the system does not say."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            for line in maps:
                bounds, _, _, _, inode, *_ = line.split()
                start, stop = (int(bound, 16) for bound in bounds.split(b"-"))
                if start <= address < stop:
                    return int(inode)
    except OSError:
        pass
    return None


def as_blocks(X: Any, y: Any, sample_weight: Any, batch_size: int | None) -> Any:
    """The blocks that are read for these arguments of a fit; None: they are arrays in memory."""
    if y is None:
        if sample_weight is not None:
            raise TypeError(
                "sample_weight: expected None beside blocks, which have weights of their own: (X, y, sample_weight)"
            )
        if isinstance(X, Mapping):
            raise TypeError(f"X: expected an array, or blocks (X, y) with y=None, got {type(X).__name__}")
        is_blocks = hasattr(X, "__iter__") or hasattr(X, "__getitem__")
        if callable(X) and not is_blocks:
            raise TypeError(f"X: expected blocks, got {X!r}: call it, or pass an object whose __iter__ starts again")
        return X if is_blocks and not isinstance(X, np.ndarray) else None
    if not is_sliced(X) or len(X.shape) != 2:
        return None
    mapped = isinstance(X, np.memmap) and X.nbytes > MOST_MAPPED and batch_size is not None
    if not mapped and (isinstance(X, np.ndarray) or not getattr(X, "chunks", None)):
        return None
    return Blocks(X, y, sample_weight)


# ---- an epoch -----------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Some steps of an epoch: their examples, in place, and their order; None: as they are."""

    batch: Batch
    order: Array | None
    n_examples: int
    origins: "list[Origin]"  # of the examples, in their order
    is_all: bool = False  # the epoch has no other examples


class Origin(NamedTuple):
    """The block of some examples, and their columns in it."""

    block: int
    columns: Any  # a range, or a part of an order


class Stream:
    """The blocks of a fit."""

    def __init__(self, blocks: Any, engine: NetworkEngine, epochs: int) -> None:
        self._blocks, self._engine = blocks, engine
        self.numbered = hasattr(blocks, "__len__") and hasattr(blocks, "__getitem__")
        if self.numbered and len(blocks) == 0:
            raise ValueError("X: expected at least one block, got none")
        if not self.numbered and iter(blocks) is blocks and epochs > 1:
            raise ValueError(
                f"X: expected blocks that can be read {epochs} times, got {type(blocks).__name__}, which can be read "
                "once: pass a list of blocks, or an object whose __iter__ starts again"
            )
        self.n_examples: int | None = blocks.n_examples if isinstance(blocks, Blocks) else None

    def parts(self, size: int, rng: "np.random.Generator | None") -> Generator[Part, None, None]:
        """An epoch: parts of whole batches of `size` examples, but for the last one."""
        kernels = self._engine.kernels
        rest = _Rest()  # fewer examples than a batch
        found = yielded = False
        with _Ahead(self._read_all(rng)) as blocks:
            for i, batch in blocks:
                found = True
                m = batch.X.shape[1]
                order = None if rng is None else kernels.permutation(rng.bit_generator, m)
                columns: Any = range(m) if order is None else order
                first = min(size - rest.n_examples, m) if rest.n_examples else 0  # of a batch with the rest
                if first:
                    rest.add(take_examples(batch, order, 0, first), Origin(i, columns[:first]))
                if rest.n_examples == size:
                    yielded = True
                    yield rest.joined()
                    rest = _Rest()
                stop = first + (m - first) // size * size
                if stop > first:
                    yielded = True
                    here = [Origin(i, columns[first:stop])]
                    if order is None:
                        yield Part(take_examples(batch, None, first, stop), None, stop - first, here)
                    else:
                        yield Part(batch, order[first:stop], stop - first, here)
                if stop < m:
                    rest.add(take_examples(batch, order, stop, m), Origin(i, columns[stop:]))
                del batch, order, columns  # before the next but one is read
        if not found:
            raise ValueError("X: expected at least one block, got none: was it read before?")
        if rest.n_examples:
            yield rest.joined()._replace(is_all=not yielded)

    def _read_all(self, rng: "np.random.Generator | None") -> Iterator[tuple[int, Batch]]:
        """The blocks, validated; runs in a thread of its own."""
        kernels = self._engine.kernels
        if not self.numbered:
            yield from enumerate(self._checked(i, block, rng) for i, block in enumerate(self._blocks))
            return
        n = len(self._blocks)
        order: Any = range(n) if rng is None or n == 1 else kernels.permutation(rng.bit_generator, n)
        for i in order:
            yield int(i), self._checked(int(i), self._blocks[int(i)], rng)

    def _checked(self, i: int, block: Any, rng: "np.random.Generator | None") -> Batch:
        try:
            X, y, *weights = block
            (sample_weight,) = weights or (None,)
        except (TypeError, ValueError):
            raise TypeError(
                f"block {i}: expected (X, y) or (X, y, sample_weight), got {type(block).__name__}"
            ) from None
        try:
            batch = self._engine.batch(X, y, sample_weight, part=True)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"block {i}: {error}") from None
        if rng is None:
            return batch
        kernels = self._engine.kernels
        X, y = (ExampleMajor(array, kernels, may_change=False).current() for array in (batch.X, batch.y))
        return Batch(X, y, batch.weights)


def take_examples(batch: Batch, order: Array | None, start: int, stop: int) -> Batch:
    """Some examples of a batch: a view, or copies in their order."""
    which: Any = slice(start, stop) if order is None else order[start:stop]
    weights = None if batch.weights is None else batch.weights[which]
    return Batch(batch.X[:, which], batch.y[:, which], weights)


class _Rest:
    """Copies of examples of one or more blocks, to be joined to one batch."""

    def __init__(self) -> None:
        self.n_examples = 0
        self._batches: list[Batch] = []
        self._origins: list[Origin] = []

    def add(self, batch: Batch, origin: Origin) -> None:
        """Add a copy of a batch."""
        X, y, weights = batch
        self._batches.append(Batch(X.copy(), y.copy(), None if weights is None else weights.copy()))
        self._origins.append(origin)
        self.n_examples += X.shape[1]

    def joined(self) -> Part:
        """All of them. Those without weights have the weight 1, if others have weights."""
        batches = self._batches
        X = np.concatenate([batch.X for batch in batches], axis=1)
        y = np.concatenate([batch.y for batch in batches], axis=1)
        weights = None
        if any(batch.weights is not None for batch in batches):
            ones = [np.ones(batch.X.shape[1], X.dtype) if batch.weights is None else batch.weights for batch in batches]
            weights = np.concatenate(ones)
        return Part(Batch(X, y, weights), None, self.n_examples, self._origins)


class _Ahead:
    """Items of an iterator, one of which is always read ahead by a thread. Its exceptions are raised here.

    Exceptions of signal handlers may come at any moment. So the queues and the start of the thread are in C, where no
    handler runs: those of `queue` and `threading` may stay locked, or raise another error. A thread that was not told
    to end looks now and then whether this object exists; a `__del__` would lose an exception that comes within it.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        from queue import SimpleQueue

        self._process = os.getpid()
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # Ctrl-C does not wait for a block that never comes: the thread ends with the process.
        _thread.start_new_thread(_read_ahead, (iter(items), self._wanted, self._found, weakref.ref(self)))

    def __enter__(self) -> Iterator[Any]:
        return self._iterate()

    def __exit__(self, *exception: object) -> None:
        self._wanted.put(False)

    def _iterate(self) -> Iterator[Any]:
        self._wanted.put(True)
        while True:
            found, error = self._next()
            if error is not None:
                raise error
            if found is None:
                return
            self._wanted.put(True)
            yield found
            del found

    def _next(self) -> tuple[Any, BaseException | None]:
        from queue import Empty

        while True:
            try:
                return self._found.get(timeout=IDLE_SECONDS)
            except Empty:
                if os.getpid() != self._process:
                    raise RuntimeError(
                        "this process was forked while a thread read blocks for a fit, and does not have that thread: "
                        "the fit was ended; fork while nothing is trained"
                    ) from None


def _read_ahead(items: Iterator[Any], wanted: Any, found: Any, owner: Any) -> None:
    """The thread: an item for each True in the queue `wanted`, until a False, an exception, or the end of its owner."""
    from queue import Empty

    while True:
        try:
            if not wanted.get(timeout=IDLE_SECONDS):
                return
        except Empty:
            if owner() is None:
                return
            continue
        try:
            found.put((next(items, None), None))
        except BaseException as error:
            found.put((None, error))
            return
