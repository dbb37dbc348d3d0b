"""Callbacks of `fit`: stopping early, a smaller learning rate on a plateau, checkpoints, a log.

A callback is called after each epoch as ``callback(net, history)``; True stops the training. An object may also have
``on_start(fit)``, which is called before the first epoch with what the fit knows (`FitContext`), and ``on_end(fit)``,
which is called after the last one, unless an exception ends the fit.
"""

import re
from os import PathLike
from typing import Any

import numpy as np

from fusegrad._engine.files import as_path
from fusegrad._engine.validation import Array, as_count, as_flag, as_number
from fusegrad.history import History, last_loss, last_measured
from fusegrad.optimizers import BUILT_IN
from fusegrad.training import FitContext


def monitored(history: History) -> float:
    """The last validation loss, or without validation data the last loss."""
    return (last_measured(history) or [last_loss(history)])[0]


class _OfOneFit:
    """The base of a callback with a state, which belongs to the fit that has started last."""

    _fit: FitContext | None = None  # between its start and its end
    _history: History | None = None  # of that fit, also after its end

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_fit", "_history")}

    def _begin(self, fit: FitContext) -> None:
        self._fit, self._history = fit, fit.history

    def _check(self, history: History) -> None:
        """Raise if another fit has begun with this callback meanwhile."""
        if self._history is not None and self._history is not history:
            raise RuntimeError(f"callbacks: another fit uses this {type(self).__name__}, too: make one for each fit")

    def _end(self, fit: FitContext) -> None:
        self._check(fit.history)
        self._fit = None


class _Patience:
    """Counts the epochs without an improvement."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience = as_count(patience, "patience", least=0)
        self.min_delta = as_number(min_delta, "min_delta", least=0.0)
        self.restart()

    def restart(self) -> None:
        """Forget all epochs."""
        self.best = np.inf
        self.waited = 0

    def improved(self, loss: float) -> bool:
        """Count an epoch; True if its loss is the best so far."""
        if loss < self.best - self.min_delta:
            self.best, self.waited = loss, 0
            return True
        self.waited += 1
        return False


class EarlyStopping(_OfOneFit):
    """Stops a fit whose validation loss no longer improves (without validation data: whose loss no longer does).

    Parameters
    ----------
    patience : int
        How many epochs without an improvement are tolerated: one more stops the fit.
    min_delta : float, default 0.0
        A smaller decrease is no improvement.
    restore_best : bool, default True
        At the end, whoever ended the fit, copy the parameters of the best epoch back. The optimizer stays as it is.
        (Without validation data those before the epoch with the smallest loss, of which that loss is.)

    Raises
    ------
    TypeError, ValueError
        If an argument is not such a number.

    Notes
    -----
    It counts from 0 in each fit, but not in one that is resumed (``initial_epoch`` of more than 0): pickle it with the
    checkpoint.

    Examples
    --------
    >>> import fusegrad as fg
    >>> X, y = fg.datasets.load_penguins()
    >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    >>> net = fg.UnivariateRegression(rng=0)
    >>> stopping = fg.EarlyStopping(patience=5, min_delta=1e-6)
    >>> history = net.fit(
    ...     X[:, ::2], y[:, ::2], optimizer=fg.SGD(lr=0.1), epochs=1000, validation_data=(X[:, 1::2], y[:, 1::2]),
    ...     callbacks=[stopping],
    ... )
    >>> history.stopped, history.epochs < 100
    (True, True)
    """

    def __init__(self, patience: int, min_delta: float = 0.0, restore_best: bool = True) -> None:
        self._patience = _Patience(patience, min_delta)
        self.restore_best = as_flag(restore_best, "restore_best")
        self._parameters: Array | None = None
        self._before: Array | None = None  # without validation data: a loss is that of the parameters before the epoch

    def on_start(self, fit: FitContext) -> None:
        """Start from 0, unless the fit is resumed."""
        self._begin(fit)
        if fit.initial_epoch == 0:
            self._patience.restart()
            self._parameters = None
        self._before = None if fit.has_validation or not self.restore_best else fit.net.parameters.copy()

    def __call__(self, net: Any, history: History) -> bool:
        """Whether the patience is exhausted."""
        self._check(history)
        improved = self._patience.improved(monitored(history))
        if improved and self.restore_best:
            self._parameters = net.parameters.copy() if self._before is None else self._before
        if self._before is not None:
            self._before = net.parameters.copy()
        return not improved and self._patience.waited > self._patience.patience

    def on_end(self, fit: FitContext) -> None:
        """Restore the best parameters."""
        self._end(fit)
        self._before = None
        if self._parameters is not None:
            fit.restored.append(self._parameters)


class ReduceOnPlateau(_OfOneFit):
    """Multiplies the optimizer's learning rate by a factor if the validation loss (or the loss) no longer improves.

    Parameters
    ----------
    factor : float, default 0.1
        Between 0 and 1.
    patience : int, default 10
        How many epochs without an improvement are tolerated: one more reduces the rate.
    min_delta : float, default 0.0
        A smaller decrease is no improvement.
    least : float, default 0.0
        The rate is not reduced below this.

    Raises
    ------
    TypeError, ValueError
        If an argument is not such a number; in `fit`, if there is a schedule, or an optimizer without ``lr``.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net, optimizer = fg.UnivariateRegression(rng=0), fg.SGD(lr=0.5)
    >>> plateau = fg.ReduceOnPlateau(factor=0.5, patience=2)
    >>> history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=optimizer, epochs=2000, callbacks=[plateau])
    >>> optimizer.lr < 0.5
    True
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, min_delta: float = 0.0, least: float = 0.0) -> None:
        self.factor = as_number(factor, "factor", above=0.0, below=1.0)
        self.least = as_number(least, "least", least=0.0)
        self._patience = _Patience(patience, min_delta)

    def on_start(self, fit: FitContext) -> None:
        """Take the optimizer of the fit; start from 0, unless it is resumed."""
        if fit.has_schedule:
            raise ValueError("schedule: expected None with ReduceOnPlateau, since it sets the learning rate")
        if not hasattr(fit.optimizer, "lr"):
            raise TypeError(f"optimizer: expected an lr for ReduceOnPlateau to set, got {fit.optimizer!r}")
        self._begin(fit)
        if fit.initial_epoch == 0:
            self._patience.restart()

    def __call__(self, net: Any, history: History) -> None:
        """Reduce the learning rate if the patience is exhausted."""
        self._check(history)
        if self._patience.improved(monitored(history)) or self._patience.waited <= self._patience.patience:
            return
        assert self._fit is not None
        lr = self._fit.optimizer.lr
        self._fit.optimizer.lr = min(lr, max(self.least, lr * self.factor))
        self._patience.waited = 0

    def on_end(self, fit: FitContext) -> None:
        """Forget the fit."""
        self._end(fit)


class Checkpoint(_OfOneFit):
    """Saves the network with its optimizer and generator, for `load_checkpoint`.

    Parameters
    ----------
    path : str or path-like
        As for `Sequential.save`. A ``{epoch}`` in it becomes the number of finished epochs: a file for each; otherwise
        the last file is replaced. Other names in braces are an error.
    every : int, default 1
        Epochs between two saves. The last epoch is also saved, before `keep_best` or `EarlyStopping` restore the best
        parameters: the file is for a fit that goes on.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of this kind.

    Notes
    -----
    A user-defined optimizer cannot be saved: then the file has the network and the generator only. The number of
    finished epochs is in the file too, for `initial_epoch`: ``int(fusegrad.load_metadata(path)["epoch"])``.

    Examples
    --------
    >>> import fusegrad as fg, pathlib, tempfile
    >>> net = fg.UnivariateRegression(rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "net.safetensors")
    ...     history = net.fit(
    ...         [0.0, 1.0], [1.0, 2.0], optimizer=fg.Adam(), epochs=5, callbacks=[fg.Checkpoint(path, every=2)]
    ...     )
    ...     fg.load_checkpoint(path).optimizer.n_steps, fg.load_metadata(path)["epoch"]
    (5, '5')
    """

    def __init__(self, path: str | PathLike[str], every: int = 1) -> None:
        self.path = as_path(path)
        unknown = re.search(r"{[^{}]*}", str(self.path).replace("{epoch}", ""))
        if unknown:
            raise ValueError(f"path: expected only {{epoch}} in braces, got {unknown.group()}")
        self.every = as_count(every, "every")
        self._saved = -1

    def on_start(self, fit: FitContext) -> None:
        """Take optimizer and generator of the fit."""
        self._begin(fit)
        self._saved = -1

    def __call__(self, net: Any, history: History) -> None:
        """Save, if so many epochs are finished."""
        self._check(history)
        if history.epochs % self.every == 0:
            self._save()

    def on_end(self, fit: FitContext) -> None:
        """Save the last epoch."""
        self._check(fit.history)
        if self._saved != fit.history.epochs:
            self._save()
        self._fit = None

    def _save(self) -> None:
        fit = self._fit
        assert fit is not None
        if fit.rank > 0:
            return
        optimizer = fit.optimizer if type(fit.optimizer) in BUILT_IN.values() else None
        epoch = str(fit.initial_epoch + fit.history.epochs)
        path = str(self.path).replace("{epoch}", epoch)
        fit.net.save(path, optimizer=optimizer, rng=fit.rng, metadata={"epoch": epoch})
        self._saved = fit.history.epochs


class LogCSV(_OfOneFit):
    """Writes a line for each epoch: its number, loss, validation loss, metrics, and the learning rate of its last step.

    Parameters
    ----------
    path : str or path-like
        The file is replaced; if a fit is resumed (``initial_epoch`` of more than 0), lines are appended.

    Raises
    ------
    TypeError
        If it is not a path.
    OSError
        In `fit`, if the file cannot be written.

    Notes
    -----
    The file is closed after each line: it can be read, and nothing of it is lost, at any time.

    Examples
    --------
    >>> import fusegrad as fg, pathlib, tempfile
    >>> net = fg.UnivariateRegression(rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "log.csv")
    ...     history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(0.1), epochs=2, callbacks=[fg.LogCSV(path)])
    ...     lines = path.read_text().splitlines()
    >>> lines[0], len(lines), lines[2].endswith(",0.1")
    ('epoch,loss,lr', 3, True)
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = as_path(path)

    def on_start(self, fit: FitContext) -> None:
        """Write the names of the columns, unless the fit is resumed."""
        self._begin(fit)
        if fit.initial_epoch == 0 or not self.path.exists():
            names = ["epoch", "loss", *(["validation_loss"] if fit.has_validation else []), *fit.history.metrics]
            self._write("w", [*names, *(["lr"] if hasattr(fit.optimizer, "lr") else [])])

    def __call__(self, net: Any, history: History) -> None:
        """Append a line."""
        self._check(history)
        fit = self._fit
        assert fit is not None
        numbers = [last_loss(history), *last_measured(history)]
        rate = fit.learning_rate()
        numbers += [] if rate is None else [rate]
        self._write("a", [fit.initial_epoch + history.epochs, *map(repr, map(float, numbers))])

    def on_end(self, fit: FitContext) -> None:
        """Forget the fit."""
        self._end(fit)

    def _write(self, mode: str, values: list[Any]) -> None:
        assert self._fit is not None
        if self._fit.rank > 0:
            return
        import csv

        try:
            with open(self.path, mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
        except OSError as error:
            error.filename = error.filename or str(self.path)  # a full disk has none
            raise
