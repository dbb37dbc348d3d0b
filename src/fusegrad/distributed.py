"""Several processes that train one network: the ranks of a communicator, as mpi4py has them.

`Sequential.fit(..., comm=comm)` is called by all ranks. In a step they exchange partial gradients in compiled code
(cython_kernels/training/ranks.pxi). Here is what they exchange otherwise. At the start their arguments are compared,
and the parameters, the state of the optimizer and the generator of rank 0 are sent to all. After some epochs they
compare where they are. At the end, however a rank leaves the fit, they meet once more.

An exchange begins with a header from each rank. A rank that fails (an exception of any kind, Ctrl-C) takes part in the
next one with the text of its error, wherever the others are, and all of them raise it. If a rank dies without a word,
the launcher of the job ends the others.
"""

import builtins
import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from fusegrad._engine.dispatch import ISA, by_dtype
from fusegrad._engine.engine import Batch, NetworkEngine
from fusegrad._engine.moments import CHUNK, Moments, MomentSums
from fusegrad._engine.threads import default_threads
from fusegrad._engine.validation import Array, as_count, as_flag, is_frame

_kernels = by_dtype[np.dtype("float64")]
#: The layout of a header: see cython_kernels/training/ranks.pxi.
STATUS, PLACE, NUMBER, WEIGHT, LOSSES, TEXT, TEXT_BYTES, AGREED = (
    _kernels.HEADER[name] for name in ("status", "place", "number", "weight", "losses", "text", "text_bytes", "agreed")
)
#: The argument that says whether ranks have the same data.
DATA = "data"
#: Where a rank may be. Compiled steps are at place 1.
START, STATES, SHARED, VALIDATION, EPOCHS, CHECKED, END = range(2, 9)
PLACES = (
    "failed", "in a step", *["at the start of a fit"] * 3, "after an epoch", "after an epoch",
    "in the check of the data", "at the end of a fit",
)  # fmt: skip


class Group:
    """The ranks of a communicator during one fit, and which examples are this rank's.

    Attributes
    ----------
    rank, size : int
    closed : bool
        No more headers are sent: an exchange is incomplete, or all ranks know that a rank has failed.
    by_rank : bool
        The reduction: each rank's gradients are added first.
    partitioned, has_none : bool
        Each rank has examples of its own; this one has none.
    n_examples, n_own, n_before : int
        If partitioned: of all ranks, of this one, and of those before it.
    whole_weight : float
        If partitioned: the sum of the weights of all examples.
    first_blocks, shared : array or None, tuple or None
        If partitioned, of a full batch: see `share_blocks`.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.partitioned, self.by_rank = comm, False, False
        self.rank, self.size = _rank_and_size(comm)
        self.closed = False
        self._outer: Group | None = getattr(_innermost, "group", None)
        _innermost.group = self
        self.header = np.zeros(TEXT + TEXT_BYTES // 8)
        self.headers = np.zeros((self.size, self.header.size)).reshape(-1)
        self.has_none = False
        self.n_examples = self.n_own = self.n_before = 0
        self.whole_weight = 0.0
        self.first_blocks: Array | None = None
        self.shared: tuple[Any, ...] | None = None
        self.own = self.gathered = np.empty(0)
        self.counts = [0] * self.size

    # ---- headers ----

    def exchange(
        self, place: int, number: float = 0.0, length: float = 0.0, *calls: Callable[[], Any], text: str = ""
    ) -> None:
        """Exchange headers; if all ranks are at this place, with this number and length, make the calls.

        `calls` are collective, and compiled: no signal handler runs between them.
        """
        self._set_text(text)
        _kernels.communicate(self, place, number, length, calls)

    def _headers(self) -> Array:
        """The headers of all ranks, one in each row."""
        return self.headers.reshape(self.size, -1)

    def _set_text(self, text: str) -> None:
        data = text.encode(errors="replace")[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        self.header[TEXT:] = np.frombuffer(data, "float64")

    def _text(self, rank: int) -> str:
        return self._headers()[rank, TEXT:].tobytes().rstrip(b"\0").decode(errors="replace")

    def raise_disagreement(self) -> None:
        """Raise the error of the first rank that has failed; or say how ranks differ."""
        outer = self._outer  # a fit whose callback this one is in: the others know that it has failed, too
        while outer is not None:
            outer.closed = outer.closed or outer.comm is self.comm
            outer = outer._outer
        headers = self._headers()
        for rank in range(self.size):
            if headers[rank, STATUS]:
                raise self._error(rank)
        own = headers[0]
        rank = next((rank for rank in range(self.size) if (headers[rank, :AGREED] != own[:AGREED]).any()), 0)
        other = headers[rank]
        if own[PLACE] == other[PLACE] == START:
            raise ValueError(f"comm: expected the same arguments on all ranks, got {self._difference(rank)}")
        if own[PLACE] == other[PLACE] == EPOCHS:
            raise RuntimeError(
                f"comm: the parameters, the learning rate or the validation loss of ranks 0 and {rank} differ after "
                f"epoch {own[NUMBER]:g}: expected the same validation data on all ranks, and callbacks that do the same"
            )
        raise RuntimeError(
            f"comm: rank 0 is {PLACES[int(own[PLACE])]}, rank {rank} {PLACES[int(other[PLACE])]}: "
            "expected the same calls, with the same arguments, on all ranks"
        )

    def _error(self, rank: int) -> BaseException:
        name, _, message = self._text(rank).partition(": ")
        kind = getattr(builtins, name, None)
        error: BaseException = RuntimeError(f"{name}: {message}")
        if isinstance(kind, type) and issubclass(kind, (Exception, KeyboardInterrupt)):
            with suppress(TypeError):  # one that takes other arguments
                error = kind(message)
        error.add_note(f"raised by rank {rank} of {self.size}")
        return error

    def _difference(self, rank: int) -> str:
        """Which argument of this rank is another one than rank 0's."""
        try:
            first, second = (json.loads(self._text(i)) for i in (0, rank))
        except ValueError:  # too long for a header
            return f"{self._text(0)} on rank 0, {self._text(rank)} on rank {rank}"
        name = next((name for name in first if first[name] != second.get(name)), None)
        if name == DATA:
            return f"other data (of the same shape) on rank {rank}; is partitioned=True missing?"
        hint = "; is partitioned=True missing?" if name == "n_examples" else ""
        return f"{name} {first.get(name)} on rank 0, {second.get(name)} on rank {rank}{hint}"

    def leave(self) -> None:
        """The fit has ended, in this thread."""
        _innermost.group = self._outer

    # ---- the start of a fit ----

    def start(
        self, description: dict[str, Any], data: Batch | None, n_threads: int | None, seed: int | None, flag: bool
    ) -> tuple[int | None, int | None, bool]:
        """Compare the arguments of all ranks, and count their examples. data: None if they are read in blocks.

        Returns the number of threads for this rank, the seed of rank 0, and whether the flag of any rank is set.
        """
        n_own = 0 if data is None or self.has_none else data.X.shape[1]
        mode = {"reduction": "ranks" if self.by_rank else "blocks", "instruction set": ISA}
        description = {**description, "partitioned": self.partitioned, **mode}
        if data is not None and not self.partitioned:  # parts of equal size are easily passed by mistake
            description |= {"n_examples": n_own, DATA: _checksum(data)}
        text = json.dumps(description, default=str)
        here = np.array([n_own, _place_of_process(), 0 if seed is None else seed, flag], np.uint64)
        everywhere = np.empty((self.size, len(here)), np.uint64)
        self.exchange(START, crc32(text.encode()), 0, partial(self.comm.Allgather, here, everywhere), text=text)
        self.counts = [int(n) for n in everywhere[:, 0]]
        if self.partitioned:
            self.n_own, self.n_before = n_own, sum(self.counts[: self.rank])
            self.n_examples = sum(self.counts)
            self.whole_weight = float(self.n_examples)
            if not self.n_examples:
                raise ValueError("X: expected at least one example on some rank, got none")
        n, source = default_threads()
        if n_threads is None and source not in ("OMP_NUM_THREADS", "set_num_threads"):
            n_threads = max(1, n // int(np.count_nonzero(everywhere[:, 1] == here[1])))
        return n_threads, None if seed is None else int(everywhere[0, 2]), bool(everywhere[:, 3].any())

    def send_states(self, arrays: Iterable[Array]) -> None:
        """Send the arrays of rank 0 to all; they have the same sizes everywhere."""
        filled = [array for array in arrays if array.size]
        self.exchange(STATES, 0, sum(a.nbytes for a in filled), *(partial(self.comm.Bcast, array) for array in filled))

    def meet(self, n_epochs: int, parameters: Array, numbers: tuple[float, ...], stopped: bool) -> bool:
        """After some epochs: raise if a rank has other parameters or numbers. Returns whether any has stopped."""
        self.header[WEIGHT] = stopped
        self.exchange(EPOCHS, n_epochs, crc32(parameters.data, crc32(np.array(numbers).data)))
        return bool(self._headers()[:, WEIGHT].any())

    def mean(self, value: float, validation: Batch) -> float:
        """The mean of a value over the validation data of all ranks, if each has its own."""
        if not self.partitioned:
            return value
        self.header[WEIGHT], self.header[LOSSES] = validation.total_weight(), value
        self.exchange(VALIDATION)
        weights, values = self._headers()[:, [WEIGHT, LOSSES]].T
        return float((weights * values).sum() / weights.sum())

    # ---- partitioned examples ----

    def own_batch(self, engine: NetworkEngine, X: Any, y: Any, sample_weight: Any) -> Batch:
        """The examples of this rank, validated; if it has none, one that is not used."""
        if not self.partitioned:
            return engine.batch(X, y, sample_weight)
        shape, n_features = np.shape(X), engine.n_features
        none = (0, n_features) if is_frame(X) else (n_features, 0)
        self.has_none = shape == none or (shape == (0,) and n_features == 1)
        if not self.has_none:
            return engine.batch(X, y, sample_weight, part=True)
        rows = 1 if engine.classes is not None else engine.n_outputs
        if np.ndim(y) == 2:
            rows = np.shape(y)[1 if is_frame(y) else 0]
        weights = None if sample_weight is None else np.zeros(1, engine.dtype)
        return Batch(np.zeros((n_features, 1), engine.dtype), np.zeros((rows, 1), engine.dtype), weights)

    def share_blocks(self, X: Array, y: Array, weights: Array | None, block: int) -> None:
        """Which blocks of a full batch are this rank's: `first_blocks` and `shared`, see `_share`."""
        self.first_blocks, self.shared = self._share(X, y, weights, block)

    def _share(
        self, X: Array, y: Array, weights: Array | None, block: int
    ) -> tuple[Array, tuple[int, int, Array, Array, Array | None] | None]:
        """The first block of each rank (the last one is the end), and a block that has examples of several ranks.

        A block belongs to the rank that has its first example. So a rank sends the examples before its first block, and
        needs those of the ranks behind it that its last block has. If it has such a block: its number, its first
        example, and its X, y and weights.
        """
        starts = np.cumsum([0, *self.counts])
        n_blocks = -(-self.n_examples // block)
        firsts = np.minimum(-(-starts // block), n_blocks).astype(np.intp)
        heads = [int(min(starts[r + 1], firsts[r] * block) - starts[r]) for r in range(self.size)]
        width = max(heads)
        if width == 0:
            return firsts, None
        rows = [X, y] if weights is None else [X, y, weights[np.newaxis]]
        own = np.zeros((sum(map(len, rows)), width), X.dtype)
        own[:, : heads[self.rank]] = np.concatenate([array[:, : heads[self.rank]] for array in rows])
        everywhere = np.empty((self.size, *own.shape), X.dtype)
        self.exchange(SHARED, 0, own.nbytes, partial(self.comm.Allgather, own, everywhere))
        last = int(firsts[self.rank + 1]) - 1
        first, stop = last * block, min((last + 1) * block, self.n_examples)
        if last < firsts[self.rank] or stop <= starts[self.rank + 1]:
            return firsts, None
        parts = [np.concatenate([array[:, first - self.n_before : self.n_own] for array in rows])]
        for rank in range(self.rank + 1, self.size):
            parts.append(everywhere[rank, :, : max(0, min(heads[rank], stop - int(starts[rank])))])
        joined = np.ascontiguousarray(np.concatenate(parts, axis=1))
        x, t, w = np.split(joined, [len(X), len(X) + len(y)])
        return firsts, (last, first, x, t, None if weights is None else w)

    def moments(self, X: Array, y: Array) -> Moments:
        """The moments of the examples of all ranks: each adds its chunks to those before, as one process would."""
        sums = MomentSums(len(X), len(y), self.n_examples)
        firsts, shared = self._share(X, y, None, CHUNK)
        for rank in range(self.size):
            if rank == self.rank:
                for i in range(firsts[rank], firsts[rank + 1]):
                    start = i * CHUNK - self.n_before
                    x, t = X[:, start : start + CHUNK], y[:, start : start + CHUNK]
                    if shared is not None and shared[0] == i:
                        _, _, x, t, _ = shared
                    sums.add(i, x, t)
            arrays = sums.products, sums.means, sums.rests, sums.shift
            self.exchange(SHARED, rank, 0, *(partial(self.comm.Bcast, array, rank) for array in arrays))
        return sums.moments()

    def add_weights(self, weights: Array) -> None:
        """whole_weight = the sum of the weights of all ranks, in the order of one process: rank after rank."""
        sums = np.zeros(4)
        for rank in range(self.size):
            if rank == self.rank:
                own = weights[: self.n_own].astype("float64")
                for i in range(4):  # `sum_of_weights` in cython_kernels/network/passes.pxi has four sums
                    part = own[(i - self.n_before) % 4 :: 4]
                    sums[i] = np.cumsum(np.concatenate([sums[i : i + 1], part]))[-1]  # one by one, unlike sum()
            self.exchange(SHARED, rank, sums.nbytes, partial(self.comm.Bcast, sums, rank))
        self.whole_weight = float((sums[0] + sums[1]) + (sums[2] + sums[3]))

    def reserve(self, length: int, dtype: "np.dtype[Any]") -> None:
        """The arrays of a step's messages, of `length` values from each rank."""
        if self.own.size < length or self.own.dtype != dtype:
            self.own = np.empty(length, dtype)
            self.gathered = np.empty(length * (1 if self.by_rank else self.size), dtype)

    def generator(self, rng: "np.random.Generator") -> "np.random.Generator":
        """A generator of this rank's own, of which one number of all ranks' is the seed."""
        return np.random.default_rng([int(rng.integers(2**63)), self.rank])


def join(comm: Any) -> Any:
    """A context whose value is the group of a fit; None without a communicator, if this process trains alone."""
    return nullcontext() if comm is None else _kernels.LastExchange(Group(comm), END)


def set_mode(group: Group | None, partitioned: Any, reduction: Any) -> None:
    """Set how the ranks of a group share data and gradients."""
    partitioned = as_flag(partitioned, "partitioned")
    if not isinstance(reduction, str) or reduction not in ("blocks", "ranks"):
        raise ValueError(f"reduction: expected 'blocks' or 'ranks', got {reduction!r}")
    if group is not None:
        group.partitioned, group.by_rank = partitioned, reduction == "ranks"
    elif partitioned or reduction != "blocks":
        raise ValueError("comm: expected a communicator beside partitioned and reduction, got None")


_innermost = threading.local()  # the group of the fit that this thread runs, or that its callback runs


def _rank_and_size(comm: Any) -> tuple[int, int]:
    try:
        rank, size = as_count(comm.rank, "comm.rank", least=0), as_count(comm.size, "comm.size")
        found = rank < size and all(callable(getattr(comm, name, None)) for name in ("Allgather", "Allreduce", "Bcast"))
        found = found and not getattr(comm, "is_inter", False)
    except Exception:  # mpi4py has a class of its own, for a communicator that was freed, or that is null
        found = False
    if not found:
        raise TypeError(
            "comm: expected a communicator of mpi4py such as MPI.COMM_WORLD, or an object with its rank, size, "
            f"Allgather, Allreduce and Bcast, got {comm!r}"
        )
    return rank, size


def _checksum(batch: Batch) -> int:
    """Of the first features of some examples, and of their targets."""
    some = np.linspace(0, batch.X.shape[1] - 1, 16).astype(int)
    parts = [batch.X[:1000, some], batch.y[:1000, some], *([] if batch.weights is None else [batch.weights[some]])]
    return crc32(b"".join(part.tobytes() for part in parts))


def _place_of_process() -> int:
    """A number that processes have in common if they may use the same processors."""
    import socket  # where it is needed: 5 ms of the import of fusegrad

    try:
        processors = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        processors = []
    return crc32(f"{socket.gethostname()} {processors}".encode())
