"""Training: epochs, batches, schedule, validation and callbacks, around the compiled steps.

Epochs run in stretches, without Python in between. A stretch is one epoch if there are validation data or callbacks,
the epochs of a fraction of a second if there is a progress bar, and otherwise as many as fit into a longer time.

Everything that a stretch changes is copied before it starts. If memory runs out, epochs that nothing outside the fit
has seen are undone. If a loss, a parameter or a state is not finite afterwards, the copy is restored, and only the
finite epochs run again, with the same learning rates. They give the same bits, since everything is reproducible. So a
fit that succeeds costs one copy per stretch. A stretch takes about half a second, and running it again at most
twice as long.

How long a fit runs depends on its own variables, not on the History, which a callback may change.

A fit of blocks that are read one after the other (`Stream`) runs epoch by epoch, in parts of an epoch. If a block is at
fault, its error is raised with the network as after the last finished step.

Several processes that train together run the same epochs in the same stretches, and meet after each: see `Group`.

Rejected: checking all of X and y before each fit (a tenth of a short fit of a linear network); a copy of the
parameters per epoch in the compiled loop (6 % of a step of (784, 128, 128)).
"""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from math import inf, isfinite
from operator import call, setitem
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.engine import Batch, NetworkEngine
from fusegrad._engine.files import build_generator, describe_generator
from fusegrad._engine.moments import Moments
from fusegrad._engine.moments import moments as take_moments
from fusegrad._engine.plan import moments_pay, step_work
from fusegrad._engine.shuffled import ExampleMajor
from fusegrad._engine.validation import Array, all_finite, as_count, as_flag, as_generator, as_number
from fusegrad.distributed import CHECKED, Group
from fusegrad.history import (
    ADVICE,
    DivergenceError,
    History,
    last_loss,
    last_measured,
    record,
    record_validation,
)
from fusegrad.metrics import metrics_of, named_metrics
from fusegrad.optimizers import Optimizer, copy_into, runs_compiled
from fusegrad.optimizers import Snapshot as OptimizerSnapshot
from fusegrad.schedules import is_compiled
from fusegrad.steps import Trainee, loss_of, measure, python_step, take
from fusegrad.streams import Part, Stream, as_blocks, take_examples

LOOK_SECONDS = 0.1  # between two updates of a progress bar
STRETCH_SECONDS = 0.5  # that a stretch without a progress bar may take
FIRST_WORK = 1 << 30  # multiply-adds of the first stretch: 0.2 s in float64 without AVX
MOST_GROWTH = 16  # of the number of epochs, from one stretch to the next
STEP_WORK = 1 << 10  # multiply-adds that take as long as the overhead of a step
MOST_AHEAD = 1 << 16  # most losses, and learning rates, of a stretch


# ---- epochs ----------------------------------------------------------------------------------------------


class FitContext(NamedTuple):
    """What a fit tells its callbacks: see `fusegrad.callbacks`.

    Attributes
    ----------
    net, optimizer
        As passed to the fit.
    rng : numpy.random.Generator or None
        The generator of the shuffling; None if nothing is shuffled.
    history : History
        Of this fit.
    initial_epoch, epochs : int
        As passed to the fit.
    has_schedule, has_validation : bool
        Whether the fit has a schedule, and validation data.
    learning_rate : callable
        Returns the learning rate of the last step, None if the optimizer has no ``lr``.
    restored : list of arrays
        A callback may append parameters: after all `on_end` the network gets the last of them.
    rank : int
        Of this process, if several train together: those of this package write files in rank 0 alone.
    """

    net: Any
    optimizer: Any
    rng: "np.random.Generator | None"
    history: History
    initial_epoch: int
    epochs: int
    has_schedule: bool
    has_validation: bool
    learning_rate: Callable[[], float | None]
    restored: list[Array]
    rank: int = 0


def as_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """The callbacks of a fit; raise if one cannot be called."""
    try:
        found = tuple(callbacks)
    except TypeError:
        raise TypeError(f"callbacks: expected callables in a list or tuple, got {callbacks!r}") from None
    for i, callback in enumerate(found):
        if not callable(callback) or isinstance(callback, type):
            raise TypeError(f"callbacks[{i}]: expected a callable, got {callback!r}")
    return found


@dataclass(kw_only=True, eq=False, repr=False)
class FitOptions:
    """The arguments of `Sequential.fit` except the data, validated as far as possible without them."""

    optimizer: Any
    epochs: int
    initial_epoch: int
    batch_size: int | None
    shuffle: bool
    rng: Any
    schedule: Callable[[int], float] | None
    sample_weight: Any
    validation_data: tuple[Any, ...] | None
    metrics: Iterable[Any]
    keep_best: bool
    callbacks: Iterable[Callable[[Any, History], Any]]
    on_divergence: str
    verbose: int
    n_threads: int | None
    moments: bool

    def __post_init__(self) -> None:
        self.epochs = as_count(self.epochs, "epochs", least=0)
        self.initial_epoch = as_count(self.initial_epoch, "initial_epoch", least=0)
        if self.initial_epoch > self.epochs:
            raise ValueError(
                f"initial_epoch: expected at most {self.epochs}, the epochs in all, got {self.initial_epoch}"
            )
        if self.batch_size is not None:
            self.batch_size = as_count(self.batch_size, "batch_size")
        self.shuffle = as_flag(self.shuffle, "shuffle")
        self.moments = as_flag(self.moments, "moments")
        if not isinstance(self.on_divergence, str) or self.on_divergence not in ("raise", "stop"):
            raise ValueError(f"on_divergence: expected 'raise' or 'stop', got {self.on_divergence!r}")
        if not isinstance(self.verbose, (int, np.integer)):
            raise TypeError(f"verbose: expected 0, 1 or 2, got {self.verbose!r}")
        if self.verbose not in (0, 1, 2):
            raise ValueError(f"verbose: expected 0, 1 or 2, got {self.verbose!r}")
        self.keep_best = as_flag(self.keep_best, "keep_best")
        self.metrics = named_metrics(self.metrics)
        for name, wanted in (("keep_best", self.keep_best), ("metrics", self.metrics)):
            if wanted and self.validation_data is None:
                raise ValueError(f"{name}: expected validation_data beside it, got None")
        self.callbacks = as_callbacks(self.callbacks)
        if self.schedule is not None:
            if not callable(self.schedule):
                raise TypeError(f"schedule: expected a callable from step to learning rate, got {self.schedule!r}")
            if not isinstance(self.optimizer, Optimizer) and not hasattr(self.optimizer, "lr"):
                raise TypeError(f"optimizer: expected an lr for the schedule to set, got {self.optimizer!r}")


def check_finite(batch: Batch, columns: Any = None) -> None:
    """Raise if X or y is not finite. columns: the numbers of the examples, for the error; None: 0, 1, ..."""
    for name, rows, array in (("X", "feature", batch.X), ("y", "output", batch.y)):
        for row, values in enumerate(array):
            finite = np.isfinite(values)
            if not finite.all():
                example = int(finite.argmin())
                raise ValueError(
                    f"{name}: expected finite numbers ({array.dtype}), got {values[example]} at {rows} (row) {row}, "
                    f"example (column) {example if columns is None else columns[example]}"
                )


def check_part(part: Part) -> None:
    """Raise if the blocks of a part are not finite."""
    first = 0
    for block, columns in part.origins:
        stop = first + len(columns)
        try:
            check_finite(take_examples(part.batch, part.order, first, stop), columns)
        except ValueError as error:
            raise ValueError(f"block {block}: {error}") from None
        first = stop


class _Batches(NamedTuple):
    """How an epoch is divided into batches, and shuffled if there is a generator."""

    size: int
    per_epoch: int  # 0: not known before the first epoch
    rng: "np.random.Generator | None"
    private: bool  # no other code has the generator


def _cut(m: int | None, options: FitOptions) -> _Batches:
    """m: examples; None: not known."""
    if m is None:
        assert options.batch_size is not None
        size, shuffled, per_epoch = options.batch_size, options.shuffle, 0
    else:
        size = m if options.batch_size is None else min(options.batch_size, m)
        shuffled, per_epoch = options.shuffle and size < m, -(-m // size)
    rng = options.rng
    generator = as_generator(rng) if shuffled or rng is not None else None
    shared = shuffled and isinstance(rng, (np.random.Generator, np.random.BitGenerator, np.random.RandomState))
    shared = shared or any(hasattr(callback, "on_start") for callback in options.callbacks)  # they are given it
    return _Batches(size, per_epoch, generator if shuffled else None, not shared)


class _Run:
    """Runs the epochs of one fit, and undoes them. The data are validated; no other code can set their shapes."""

    def __init__(
        self, trainee: Trainee, data: Batch | Stream, options: FitOptions, n_threads: int | None, group: Group | None
    ) -> None:
        self.trainee, self.net, self.engine = trainee, trainee.net, trainee.engine
        self.stream = data if isinstance(data, Stream) else None
        self.data: Batch | None = None if isinstance(data, Stream) else data  # of a stream: the last part
        self.group = group
        self.optimizer, self.schedule = options.optimizer, options.schedule
        m = data.n_examples if isinstance(data, Stream) else data.X.shape[1]
        if group is not None and group.partitioned:
            m = group.n_examples
        self.batches = _cut(m, options)
        self.n_threads = n_threads
        self.compiled_engine = self.engine.compiled(self.batches.size, self.n_threads)
        self.compiled = take(trainee, self.optimizer)
        # Steps made before, as counted by schedules. A user-defined rule may be new, or have no count.
        before = options.initial_epoch * self.batches.per_epoch
        known = self.optimizer.n_steps if isinstance(self.optimizer, Optimizer) else 0
        own_rule = getattr(self.optimizer, "rule", "none") == "none"
        if m is None and options.initial_epoch and not isinstance(self.optimizer, Optimizer):
            raise ValueError(
                "initial_epoch: expected 0, or an optimizer of fusegrad, which counts its steps, if the number of "
                f"examples is not known before they are read; got {options.initial_epoch}"
            )
        self.n_steps: int = max(known, before) if own_rule else known
        self.engine.loop_steps = max(self.engine.loop_steps, before)
        self.last_rate: float | None = None  # of the last step, if there is a schedule
        self.bits = None if self.batches.rng is None else self.batches.rng.bit_generator
        self.moments: Moments | None = None
        self.copies: list[ExampleMajor] = []
        if self.data is not None and m is not None:
            self._prepare(self.data, m, options, n_threads)
        self.from_moments = self.moments is not None
        self.rates: Array | None = None  # learning rates of the steps from `first_rate` on
        self.first_rate = 0
        self.lost = ("loss", 0.0)  # what was not finite, and its loss
        self.one_loss = np.empty(1)
        if not self.compiled or options.epochs == options.initial_epoch:
            self.check_start()

    def _prepare(self, data: Batch, m: int, options: FitOptions, n_threads: int | None) -> None:
        """What is computed once from data in memory: moments, copies; which blocks of them are this process's."""
        plan, group = self.engine.plan(self.batches.size, n_threads), self.group
        squares = self.engine.squared_error and data.weights is None
        partitioned = group is not None and group.partitioned
        if options.moments and self.compiled and squares and moments_pay(plan, m, options.epochs)[0]:
            moments_of = group.moments if group is not None and partitioned else take_moments
            self.moments = moments_of(data.X, data.y)
        if self.compiled and self.batches.rng is not None:
            may_change = bool(options.callbacks)
            self.copies = [
                ExampleMajor(array, self.engine.kernels, may_change=may_change) for array in (data.X, data.y)
            ]
        if group is not None and partitioned:
            group.by_rank = group.by_rank or self.batches.size < m
            if not group.by_rank:
                group.share_blocks(data.X, data.y, data.weights, plan.block)
                if data.weights is not None:
                    group.add_weights(data.weights)

    def states(self) -> list[Array]:
        """All that training changes, as arrays that other processes fill in."""
        optimizer = self.optimizer
        state = optimizer.state
        if state is None or not (state.flags.writeable and state.flags.c_contiguous):
            optimizer.prepare(self.engine.parameters)
        counts = np.array([optimizer.n_steps, optimizer._exponent, self.engine.loop_steps], np.int64)
        text = b"" if self.batches.rng is None else describe_generator(self.batches.rng).encode()
        return [
            self.engine.parameters,
            optimizer.state.reshape(-1),
            counts,
            np.frombuffer(text.ljust(1 << 14), "u1").copy(),
        ]

    def set_states(self, states: list[Array]) -> None:
        """Take over what `states` has; its first two arrays are the network's and the optimizer's own."""
        _, _, counts, text = states
        self.optimizer.n_steps, self.optimizer._exponent, self.engine.loop_steps = map(int, counts)
        if self.batches.rng is not None:
            state = build_generator(text.tobytes().decode()).bit_generator.state
            try:
                self.batches.rng.bit_generator.state = state
            except (TypeError, ValueError) as error:
                raise ValueError(f"rng: expected the same kind of generator on all ranks: {error}") from None

    def check_start(self) -> None:
        """Raise if the parameters, X or y are not finite.

        With a compiled rule this is called only if an epoch is not finite: a NaN or an infinity in the data makes the
        loss or some parameter NaN in the first epoch, which is undone. So the check costs nothing.
        """
        found = self.overflow()
        if found is not None:
            name = "optimizer.state" if found == "state" else found
            raise ValueError(f"{name}: expected finite numbers before a step, got others")
        if self.data is not None:
            check_finite(self.data)

    def advice(self) -> str:
        """What a user can do about a loss that was not finite before the first update of the fit."""
        assert self.data is not None
        X, y, _ = self.data
        prediction, parameters = self.net.forward(X), self.engine.parameters
        largest = {"X": X, "y": y, "the prediction": prediction, "a parameter": parameters}
        found = ", ".join(f"of {name} {np.abs(values).max():.3g}" for name, values in largest.items())
        limits = np.finfo(X.dtype)
        wider = ", or take dtype='float64'" if limits.dtype == np.float32 else ""
        return (
            f"no update was made: the largest value {found}, and {limits.dtype} holds squares up to those of "
            f"{float(limits.max) ** 0.5:.2g}; scale the data{wider}"
        )

    def learning_rate(self) -> float | None:
        """Of the last step."""
        return getattr(self.optimizer, "lr", None) if self.last_rate is None else self.last_rate

    def rate(self, step: int) -> float:
        assert self.schedule is not None
        return as_number(self.schedule(step), f"schedule({step})", least=0.0)

    # ---- undoing epochs ----

    def snapshot(self, old: "_Snapshot | None" = None) -> "_Snapshot":
        """A copy of everything that an epoch changes, in the arrays of an old one that is no longer needed."""
        result = _Snapshot() if old is None else old
        result.take(self)
        return result

    def overflow(self) -> str | None:
        """Which of "parameters" and "state" is not finite after an epoch; None if both are finite."""
        is_finite = self.engine.kernels.is_finite
        if not is_finite(self.engine.parameters):
            return "parameters"
        state = self.optimizer.state if isinstance(self.optimizer, Optimizer) else None
        if state is not None and state.size and not is_finite(state.reshape(-1)):
            return "state"
        return None

    def go_back(self, start: "_Snapshot", n: int) -> int:
        """Of n epochs with finite losses after a snapshot, keeps those after which all is finite; returns their number.

        By bisection, always from the last finite epoch: no more than 2 n epochs in total.
        """
        done, bad = 0, n + 1  # epochs after which all is finite, and after which it is not
        count = n
        while True:
            start.restore(self)
            self.epochs(count - done)
            if self.overflow() is None:
                done, start = count, self.snapshot()
            else:
                bad = count
            if bad - done <= 1 or done == n:
                break
            count = (done + bad) // 2
        start.restore(self)
        return done

    # ---- running epochs ----

    def ask_rates(self, n: int) -> None:
        """The learning rates of the next n epochs, compiled or by calls of the schedule, once per step, in order."""
        if self.compiled and self.stream is None:
            self._add_rates(n * self.batches.per_epoch)

    def _add_rates(self, n_steps: int) -> None:
        """The learning rates of the next n_steps compiled steps."""
        if self.schedule is not None:
            first = self.optimizer.n_steps
            # A batch without weight made no step: the rates that are left are those of the next steps.
            left = np.empty(0) if self.rates is None else self.rates[first - self.first_rate :]
            start = first + left.size
            last = max(first + n_steps, start)
            if is_compiled(self.schedule):
                found = self.schedule.rates(start, last - start)
                finite = np.isfinite(found)
                if np.count_nonzero(finite) < finite.size:  # all() raises a SystemError if memory runs out
                    self.rate(start + int(finite.argmin()))  # raises
            else:
                found = np.array([self.rate(i) for i in range(start, last)])
            self.rates = np.concatenate([left, found])
            self.first_rate = first

    def epochs(self, n: int) -> Array:
        """Runs n epochs. Returns their mean losses, up to one that is not finite. The array may be reused."""
        losses = self.one_loss if n == 1 else np.empty(n)
        # Other Python threads may have begun or ended to compute since: the number of threads is looked up again.
        self.compiled_engine = self.engine.compiled(self.batches.size, self.n_threads)
        if self.compiled and self.stream is None:
            return self._compiled_epochs(losses)
        for i in range(n):
            self.engine.lock.set_incomplete("an epoch")
            lr: Any = getattr(self.optimizer, "lr", None)
            try:
                losses[i] = loss = self._epoch()
            finally:
                if self.schedule is not None and isinstance(self.optimizer, Optimizer):
                    self.optimizer.lr = lr  # as after compiled epochs
            if not isfinite(loss):
                return losses[:i]
            self.engine.lock.set_incomplete("nothing")
        return losses

    def _compiled_epochs(self, losses: Array) -> Array:
        assert self.data is not None
        bits = self.bits
        if self.group is not None and self.group.partitioned and self.batches.rng is not None:
            bits = self.group.generator(self.batches.rng).bit_generator
        X, y, weights = self.data
        if self.copies:
            X, y = (copy.current() for copy in self.copies)
        finished, from_moments = self._train(
            X, y, weights, losses, bit_generator=bits, private_generator=self.batches.private or bits is not self.bits,
            moments=self.moments,
        )  # fmt: skip
        self.from_moments = self.from_moments and from_moments
        return losses[:finished]

    def _train(self, X: Array, y: Array, weights: Array | None, losses: Array, **others: Any) -> tuple[int, bool]:
        """Compiled steps. Returns the number of finite losses, and whether the steps were computed from moments."""
        engine = self.engine
        rates = None if self.rates is None else self.rates[self.optimizer.n_steps - self.first_rate :]
        finished, from_moments, cause = self.compiled_engine.train(
            X, y, engine.parameters, self.optimizer, engine.lock, losses, rates, weights=weights, ranks=self.group,
            **others,
        )  # fmt: skip
        if self.rates is not None and self.optimizer.n_steps > self.first_rate:
            self.last_rate = float(self.rates[self.optimizer.n_steps - self.first_rate - 1])
        if finished < len(losses):
            self.lost = cause, float(losses[finished])
        return finished, from_moments

    def _parts(self) -> Generator[Part, None, None]:
        """The parts of an epoch that does not run compiled as a whole."""
        rng = self.batches.rng
        if self.stream is not None:
            yield from self.stream.parts(self.batches.size, rng)
            return
        assert self.data is not None
        m = self.data.X.shape[1]
        yield Part(self.data, None if rng is None else self.engine.kernels.permutation(rng.bit_generator, m), m, [])

    def _epoch(self) -> float:
        """An epoch of steps in Python, or of a stream. Returns its mean loss, or the first one that is not finite."""
        sums = np.zeros(3)  # of the losses times their weights, and of the weights; the last loss
        n_batches = 0
        loss = 0.0
        with closing(self._parts()) as parts:
            for part in parts:
                n_batches += -(-part.n_examples // self.batches.size)
                if part.is_all:  # fewer examples than a batch: the plan is that of an array with them
                    self.compiled_engine = self.engine.compiled(part.n_examples, self.n_threads)
                loss = self._compiled_steps(part, sums) if self.compiled else self._python_steps(part, sums)
                if not isfinite(loss):
                    if self.stream is not None:
                        self.data = part.batch  # for the advice of an error
                        check_part(part)
                    return loss
                del part  # before the next block is read
        if not sums[1]:
            raise ValueError("sample_weight: expected at least one weight of more than 0 in an epoch, got zeros")
        if n_batches == 1:  # no mean, which would round
            return float(sums[2])
        return float(sums[0] / sums[1])

    def _compiled_steps(self, part: Part, sums: Array) -> float:
        """The steps of a part. Returns a loss that is not finite, or 0."""
        self._add_rates(-(-part.n_examples // self.batches.size))
        X, y, weights = part.batch
        finished, _ = self._train(X, y, weights, self.one_loss, order=part.order, carry=sums)
        if finished:
            return 0.0
        return inf if isfinite(self.lost[1]) else self.lost[1]

    def _python_steps(self, part: Part, sums: Array) -> float:
        """The steps of a part. Returns the last loss, which may not be finite."""
        size, loss = self.batches.size, 0.0
        for first in range(0, part.n_examples, size):
            which: Any = slice(first, first + size)
            if part.order is not None:
                which = part.order[which]
            X, y, weights = part.batch
            weights = None if weights is None else weights[which]
            if weights is not None and not weights.any():
                continue  # no step
            batch = Batch(X[:, which], y[:, which], weights)
            weight = batch.total_weight()
            if self.schedule is not None:
                self.optimizer.lr = self.last_rate = self.rate(self.n_steps)
            loss = python_step(self.trainee, self.compiled_engine, batch, self.optimizer)
            if not isfinite(loss):
                value = loss_of(self.trainee, batch)
                self.lost = ("gradient", value) if isfinite(value) else ("loss", loss)
                return loss
            sums += loss * weight, weight, 0.0
            sums[2] = loss
            self.n_steps += 1
        return loss


class _Snapshot:
    """Everything that an epoch of a fit changes; it may be taken again, into the same arrays."""

    __slots__ = ("draws", "lr", "n_steps", "optimizer", "parameters")

    def __init__(self) -> None:
        self.parameters: Array | None = None
        self.optimizer: OptimizerSnapshot | None = None  # of a fusegrad optimizer
        self.draws: Any = None

    def take(self, run: _Run) -> None:
        optimizer, rng = run.optimizer, run.batches.rng
        if isinstance(optimizer, Optimizer):
            self.optimizer = self.optimizer or OptimizerSnapshot()
            self.optimizer.take(optimizer)
        self.parameters = copy_into(self.parameters, run.engine.parameters)
        self.n_steps = run.n_steps
        self.lr = None if run.compiled or run.schedule is None else getattr(optimizer, "lr", None)  # set by a schedule
        self.draws = None if rng is None else rng.bit_generator.state

    def restore(self, run: _Run) -> None:
        """Undo all epochs since. No signal handler, which may save, runs between two moves: they are no Python code."""
        moves: list[tuple[Any, ...]] = [
            (setitem, run.engine.parameters, ..., self.parameters),
            (object.__setattr__, run, "n_steps", self.n_steps),
        ]
        if self.optimizer is not None:
            moves += self.optimizer.moves(run.optimizer)
        if run.batches.rng is not None:
            moves.append((setattr, run.batches.rng.bit_generator, "state", self.draws))
        moves.append((run.engine.lock.set_incomplete, "nothing"))
        if self.lr is not None:
            run.optimizer.lr = self.lr
        any(starmap(call, moves))  # all return None


def fit(trainee: Trainee, X: Any, y: Any, options: FitOptions, group: Group | None = None) -> History:
    """See `Sequential.fit`. group: the processes that train together, all of which call this."""
    net, engine = trainee.net, trainee.engine
    metrics = metrics_of(options.metrics, engine.loss_function)
    validation = _validation_data(engine, options.validation_data)
    data = _data(engine, X, y, options, group)
    n_threads, one_by_one = options.n_threads, False
    if group is not None:
        n_threads, one_by_one = _start(trainee, data, options, group)
    run = _Run(trainee, data, options, n_threads, group)
    if group is not None:
        states = run.states()
        group.send_states(states)
        run.set_states(states)
    initial_epoch, callbacks, verbose = options.initial_epoch, options.callbacks, options.verbose
    if group is not None and group.rank > 0:
        verbose = 0

    history = History()
    history.metrics = {name: [] for name in metrics}
    context = FitContext(
        net, options.optimizer, run.batches.rng, history, initial_epoch, options.epochs, run.schedule is not None,
        validation is not None, run.learning_rate, [], 0 if group is None else group.rank,
    )  # fmt: skip
    for callback in callbacks:
        getattr(callback, "on_start", _nothing)(context)
    best, best_loss = None, inf
    # A rule that runs in Python may have its own state: its epochs cannot be repeated. One by one, none has to be.
    one_by_one = one_by_one or _is_seen(options) or not run.compiled or run.stream is not None
    if group is not None and group.partitioned and run.bits is not None:
        one_by_one = True  # since an epoch's order has a generator of its own
    most = max(1, MOST_AHEAD // (1 if run.schedule is None else max(run.batches.per_epoch, 1)))
    epoch_work = step_work(engine.layers, run.batches.size * run.batches.per_epoch) + STEP_WORK * run.batches.per_epoch
    count = 1 if verbose or one_by_one else max(1, min(most, FIRST_WORK // max(epoch_work, 1)))
    seconds = LOOK_SECONDS if verbose else STRETCH_SECONDS
    left, stopped = options.epochs - initial_epoch, False
    here: _Snapshot | None = None
    start: _Snapshot | None = None  # restored if memory runs out
    try:
        with _Progress(initial_epoch, options.epochs, verbose) as progress:
            while left > 0 and not stopped:
                started = 0.0 if one_by_one else time.monotonic()
                here = run.snapshot(None if here is start else here)  # `start` must not be overwritten
                start = start or here
                n = 1 if one_by_one else min(count, left)
                left -= n
                error = _make_epochs(run, here, n, initial_epoch, history)
                if error is not None:
                    stopped = history.stopped = True
                    if options.on_divergence == "stop":
                        history.divergence = error
                        break
                    try:
                        raise error
                    finally:
                        del error  # else it and its traceback keep each other, and X, alive
                if one_by_one or verbose:
                    start = None  # epochs that others have seen are not undone
                measured: dict[str, float] = {}
                if validation is not None:
                    loss = loss_of(trainee, validation)
                    if group is not None:
                        loss = group.mean(loss, validation)
                    if options.keep_best and loss < best_loss:
                        best, best_loss = copy_into(best, engine.parameters), loss
                    values: dict[str, float] = {}
                    for name, value in measure(trainee, validation, metrics):
                        if group is not None:
                            value = group.mean(value, validation)
                        values[name] = value
                    record_validation(history, loss, values)
                    measured = {"validation_loss": loss, **values}
                for i, callback in enumerate(callbacks):
                    answer = callback(net, history)
                    if answer is not None and _wants_stop(i, answer):
                        stopped = history.stopped = True
                if group is not None:
                    stopped = history.stopped = _meet(group, run, history, stopped)
                if verbose:
                    progress.show(history.epochs, {"loss": last_loss(history), **measured})
                if not one_by_one and group is None:  # several processes run as many at a time
                    # More epochs at a time, until a stretch takes as long as it may.
                    took = time.monotonic() - started
                    if took < seconds / 2:
                        count = min(most, count * (MOST_GROWTH if MOST_GROWTH * took < seconds / 2 else 2))
        history.from_moments = run.from_moments
        if best is not None:
            context.restored.append(best)
        for callback in callbacks:
            getattr(callback, "on_end", _nothing)(context)
        if context.restored:
            net.parameters = context.restored[-1]
        if group is not None:
            _meet(group, run, history, stopped)
    except MemoryError:
        if start is not None:
            start.restore(run)
        raise
    return history


def _data(engine: NetworkEngine, X: Any, y: Any, options: FitOptions, group: Group | None) -> Batch | Stream:
    """The examples, validated: in memory, or blocks of them."""
    blocks = as_blocks(X, y, options.sample_weight, options.batch_size)
    if blocks is not None:
        if options.batch_size is None:
            raise ValueError(
                "batch_size: expected a number for data that are read in blocks, got None, which is all of them"
            )
        if group is not None and group.partitioned:
            raise ValueError("partitioned: expected arrays in memory, got data that are read in blocks")
        return Stream(blocks, engine, options.epochs - options.initial_epoch)
    read = engine.batch if group is None else partial(group.own_batch, engine)
    return _own_views(read(X, y, options.sample_weight))


def _is_seen(options: FitOptions) -> bool:
    """Whether something outside the fit sees each epoch."""
    return options.validation_data is not None or bool(options.callbacks) or options.verbose == 2


def _start(trainee: Trainee, data: Batch | Stream, options: FitOptions, group: Group) -> tuple[int | None, bool]:
    """The start of a fit by several processes: their arguments are compared, and the seed of dropout is set.

    Returns the number of threads for this one, and whether some process sees each epoch.
    """
    engine = trainee.engine
    if trainee.overridden or not engine.loss_compiled or not runs_compiled(options.optimizer):
        raise TypeError("comm: expected an optimizer and a loss of fusegrad, and no overridden loss_and_gradient")
    described = {
        "layers": trainee.layout, "dtype": engine.dtype.name, "loss": repr(engine.loss_function), "l2": engine.l2,
        "optimizer": repr(options.optimizer), "epochs": options.epochs, "initial_epoch": options.initial_epoch,
        "batch_size": options.batch_size, "shuffle": options.shuffle, "moments": options.moments,
        "validation": options.validation_data is not None, "keep_best": options.keep_best,
        "schedule": repr(options.schedule) if is_compiled(options.schedule) else options.schedule is not None,
        "streamed": isinstance(data, Stream), "weights": options.sample_weight is not None,
    }  # fmt: skip
    examples = None if isinstance(data, Stream) else data
    n_threads, seed, seen = group.start(
        described, examples, options.n_threads, engine.dropout_seed, _is_seen(options) or options.verbose > 0
    )
    engine.set_dropout_seed(seed)
    return n_threads, seen


def _meet(group: Group, run: _Run, history: History, stopped: bool) -> bool:
    """After some epochs of several processes: see `Group.meet`."""
    numbers = run.learning_rate() or 0.0, (last_measured(history) or [0.0])[0]
    return group.meet(history.epochs, run.engine.parameters, numbers, stopped)


def _nothing(context: FitContext) -> None:
    """For callbacks without `on_start` or `on_end`."""


def _wants_stop(i: int, answer: Any) -> bool:
    if not isinstance(answer, (bool, np.bool_)):
        raise TypeError(f"callbacks[{i}]: expected it to return None, True (to stop) or False, got {answer!r}")
    return bool(answer)


def _make_epochs(run: _Run, start: _Snapshot, n: int, initial_epoch: int, history: History) -> DivergenceError | None:
    """Runs n epochs and adds them to the history. If not all are finite, keeps the finite ones and returns the error.

    If the data are not finite, raises an error, and no epoch is kept.
    """
    if run.schedule is not None:
        run.ask_rates(n)
    losses = run.epochs(n)
    overflow = run.overflow()
    if overflow is None and len(losses) == n:
        record(history, losses)
        return None
    step = run.optimizer.n_steps if run.compiled else run.n_steps
    cause, loss = run.lost if losses.size < n else (str(overflow), float(losses[-1]))
    start.restore(run)
    run.check_start()
    if run.group is not None:
        run.group.exchange(CHECKED, step)
    if run.compiled and losses.size:
        record(history, losses[: run.go_back(start, losses.size)])
    first = start.n_steps if start.optimizer is None else start.optimizer.n_steps
    advice = run.advice() if step == first and history.epochs == 0 else ADVICE
    return DivergenceError(initial_epoch + history.epochs, step, loss, history, cause, advice)


def _own_views(batch: Batch) -> Batch:
    """Views whose shapes no other code can set."""
    return Batch(*(None if array is None else array.view() for array in batch))  # type: ignore[arg-type]  # only weights may be None


def _validation_data(engine: NetworkEngine, data: Any) -> Batch | None:
    if data is None:
        return None
    try:
        X, y, *weights = data
        (sample_weight,) = weights or (None,)
    except (TypeError, ValueError):
        length = f" of {len(data)}" if isinstance(data, (list, tuple)) else ""
        raise TypeError(
            f"validation_data: expected (X, y) or (X, y, sample_weight), got {type(data).__name__}{length}"
        ) from None
    try:
        batch = _own_views(engine.batch(X, y, sample_weight))
        for array in (batch.X, batch.y):
            if not all_finite(array):
                check_finite(batch)
        return batch
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"validation_data: {error}") from None


class _Progress:
    """The progress of a fit: a tqdm bar, lines, or nothing."""

    def __init__(self, initial_epoch: int, epochs: int, verbose: int) -> None:
        self.verbose = verbose
        self.initial_epoch = initial_epoch
        self.epochs = epochs
        self.bar: Any = None
        if verbose == 1:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise ImportError(
                    'verbose=1 draws its bar with tqdm: pip install "fusegrad[progress]"; verbose=2 prints lines'
                ) from None
            self.bar = tqdm(initial=initial_epoch, total=epochs, unit="epoch")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, epochs: int, losses: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.update(self.initial_epoch + epochs - self.bar.n)
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()}, refresh=False)
        elif self.verbose == 2:
            text = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
            print(f"epoch {self.initial_epoch + epochs}/{self.epochs}: {text}", flush=True)
