"""Training: epochs, batches, schedule, validation, callbacks, around the compiled steps.

Python sees an epoch at a time where somebody wants to look (validation, callbacks), otherwise as
many epochs as pass in a fraction of a second, for the progress bar.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegrad._arrays import Array, as_count, as_generator, as_number
from fusegrad._moments import Moments
from fusegrad._moments import moments as take_moments
from fusegrad._plan import moments_pay
from fusegrad.optimizers import Optimizer

if TYPE_CHECKING:
    from fusegrad.networks import Sequential

LOOK_SECONDS = 0.1  # between two looks of a progress bar
MOST_RATES = 1 << 16  # steps whose learning rates are computed ahead


@dataclass
class History:
    """What a fit leaves behind.

    Attributes
    ----------
    loss : list of float
        The mean loss of each epoch: of each example, before the update of its batch.
    validation_loss : list of float
        The loss of the validation data after each epoch; empty where there are none.
    stopped : bool
        Whether a callback ended the training.
    from_moments : bool
        Whether all steps were taken from the moments of the data; see `Sequential.fit`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(rng=0)
    >>> history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=3)
    >>> len(history.loss), history.epochs
    (3, 3)
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    stopped: bool = False
    from_moments: bool = False

    @property
    def epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.loss)


def runs_compiled(optimizer: Any) -> bool:
    """Whether the engine knows the rule; else `optimizer.step` is called from Python."""
    if isinstance(optimizer, Optimizer) and type(optimizer).step is Optimizer.step:
        return True
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"optimizer: expected an object with step(parameters, gradient), got {optimizer!r}")
    return False


class _Run:
    """One fit: the arguments, judged, and how an epoch is run."""

    def __init__(
        self, net: "Sequential", X: Any, y: Any, optimizer: Any, batch_size: int | None, shuffle: bool, rng: Any,
        schedule: Callable[[int], float] | None, n_threads: int | None, moments: bool, epochs: int,
    ) -> None:  # fmt: skip
        self.net = net
        self.X, self.y = net._batch(X, y)
        self.m = self.X.shape[1]
        self.compiled = runs_compiled(optimizer)
        self.optimizer = optimizer
        self.batch = self.m if batch_size is None else min(as_count(batch_size, "batch_size"), self.m)
        self.rng = as_generator(rng) if shuffle and self.batch < self.m else None
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule: expected a callable from step to learning rate, got {schedule!r}")
        self.schedule = schedule
        self.steps_per_epoch = -(-self.m // self.batch)
        self.n_steps = 0
        self.engine = net._engine(self.batch, n_threads)
        self.moments: Moments | None = None
        if moments and self.compiled and moments_pay(net.plan(self.batch, n_threads), self.m, epochs)[0]:
            self.moments = take_moments(self.X, self.y)
        if isinstance(optimizer, Optimizer):
            optimizer.check(net.parameters)

    def rate(self, step: int) -> float:
        assert self.schedule is not None
        return as_number(self.schedule(step), f"schedule({step})", least=0.0)

    def epochs(self, n: int) -> list[float]:
        """Runs n epochs; the mean loss of each."""
        return self._compiled_epochs(n) if self.compiled else [self._epoch() for _ in range(n)]

    def _compiled_epochs(self, n: int) -> list[float]:
        losses = np.empty(n)
        rates = None
        if self.schedule is not None:
            first = self.optimizer.n_steps
            rates = np.array([self.rate(first + i) for i in range(n * self.steps_per_epoch)])
        bits = None if self.rng is None else self.rng.bit_generator
        arguments = self.X, self.y, self.net.parameters, self.optimizer, losses, rates, bits, self.moments
        if not self.engine.train(*arguments):
            self.moments = None
        result: list[float] = losses.tolist()
        return result

    def _epoch(self) -> float:
        """An epoch with an optimizer that only Python knows."""
        order = None if self.rng is None else self.rng.permutation(self.m)
        total = 0.0
        for first in range(0, self.m, self.batch):
            which: Any = slice(first, first + self.batch)
            if order is not None:
                which = order[which]
            X, y = self.X[:, which], self.y[:, which]
            if self.schedule is not None:
                self.optimizer.lr = self.rate(self.n_steps)
            total += self.net.train_step(X, y, self.optimizer) * X.shape[1]
            self.n_steps += 1
        return total / self.m


def fit(
    net: "Sequential",
    X: Any,
    y: Any,
    *,
    optimizer: Any,
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    rng: Any,
    schedule: Callable[[int], float] | None,
    validation_data: tuple[Any, Any] | None,
    callbacks: Iterable[Callable[["Sequential", History], Any]],
    verbose: int,
    n_threads: int | None,
    moments: bool,
) -> History:
    """See `Sequential.fit`."""
    epochs = as_count(epochs, "epochs", least=0)
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose: expected 0, 1 or 2, got {verbose!r}")
    validation = _validation_data(net, validation_data)
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected callables in a list or tuple, got {callbacks!r}")
    callbacks = tuple(callbacks)
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"callbacks[{i}]: expected a callable, got {callback!r}")
    run = _Run(net, X, y, optimizer, batch_size, shuffle, rng, schedule, n_threads, moments, epochs)

    history = History()
    one_by_one = validation is not None or bool(callbacks) or verbose == 2
    most = max(1, MOST_RATES // run.steps_per_epoch)
    count = 1
    with _Progress(epochs, verbose) as progress:
        while history.epochs < epochs and not history.stopped:
            start = time.monotonic()
            losses = run.epochs(1 if one_by_one else min(count, epochs - history.epochs))
            history.loss.extend(losses)
            if validation is not None:
                history.validation_loss.append(net.loss(*validation))
            for callback in callbacks:
                stop = callback(net, history)
                if isinstance(stop, (bool, np.bool_)) and stop:
                    history.stopped = True
            progress.show(history)
            # Twice as many epochs at a time until they fill the time between two looks.
            if time.monotonic() - start < LOOK_SECONDS / 2:
                count = min(2 * count, most)
    history.from_moments = run.moments is not None
    return history


def _validation_data(net: "Sequential", data: Any) -> tuple[Array, Array] | None:
    if data is None:
        return None
    try:
        X, y = data
    except (TypeError, ValueError):
        raise TypeError(f"validation_data: expected (X, y), got {type(data).__name__}") from None
    try:
        return net._batch(X, y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation_data: {error}") from None


class _Progress:
    """A bar (tqdm's), lines, or nothing."""

    def __init__(self, epochs: int, verbose: int) -> None:
        self.verbose = verbose
        self.epochs = epochs
        self.bar: Any = None
        if verbose == 1:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise ImportError(
                    'verbose=1 draws its bar with tqdm: pip install "fusegrad[progress]"; verbose=2 prints lines'
                ) from None
            self.bar = tqdm(total=epochs, unit="epoch")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, history: History) -> None:
        values = {"loss": history.loss[-1]}
        if history.validation_loss:
            values["validation_loss"] = history.validation_loss[-1]
        if self.bar is not None:
            self.bar.update(history.epochs - self.bar.n)
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
        elif self.verbose == 2:
            text = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
            print(f"epoch {history.epochs}/{self.epochs}: {text}", flush=True)
