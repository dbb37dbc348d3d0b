"""The record of a fit, and the error of one that diverged."""

from math import nan

from fusegrad._engine.validation import Array


class History:
    """The record of a fit.

    Attributes
    ----------
    loss : list of float
        The mean loss of each epoch, over all examples, each before the update of its batch.
    validation_loss : list of float
        The loss of the validation data after each epoch, with the penalty of l2; empty if there are none. Networks of
        different l2 are compared by a metric.
    metrics : dict of lists of float
        Each metric of the validation data, after each epoch.
    best_epoch : int or None
        The epoch of this fit, from 0 on, with the smallest validation loss (without validation data: loss); None
        before the first.
    stopped : bool
        Whether a callback, or divergence, ended the training.
    divergence : DivergenceError or None
        The error that ended a fit with ``on_divergence="stop"``.
    from_moments : bool
        Whether all steps were computed from the moments of the data; see `Sequential.fit`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(rng=0)
    >>> history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=3)
    >>> len(history.loss), history.epochs
    (3, 3)
    """

    def __init__(self) -> None:
        # Losses not yet read are arrays: Python numbers take 7 % of the time of the epochs of the smallest network.
        self._losses: tuple[list[float], list[Array]] = [], []
        self._epochs = 0
        # Independent of the lists, which a callback may change.
        self._last = nan
        self._measured: list[float] = []
        self.validation_loss: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.stopped = False
        self.divergence: DivergenceError | None = None
        self.from_moments = False

    @property
    def loss(self) -> list[float]:
        """The mean loss of each epoch."""
        numbers, arrays = self._losses
        if arrays:
            numbers = numbers + [loss for losses in arrays for loss in losses.tolist()]
            self._losses = numbers, []  # one assignment: another thread may run this, too
        return numbers

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return self._epochs

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the smallest validation loss, or without validation data with the smallest loss."""
        losses = self.validation_loss or self.loss
        finite = [i for i, loss in enumerate(losses) if loss == loss]
        return min(finite, key=lambda i: losses[i]) if finite else None

    def to_dict(self) -> dict[str, list[float]]:
        """The columns of a table: loss, validation_loss and metrics, as far as there are such.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(rng=0)
        >>> history = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=3)
        >>> {name: len(column) for name, column in history.to_dict().items()}
        {'loss': 3}
        """
        validation = {"validation_loss": list(self.validation_loss)} if self.validation_loss else {}
        return {"loss": list(self.loss), **validation, **{name: list(values) for name, values in self.metrics.items()}}

    def __repr__(self) -> str:
        last = f", last loss {self._last:.6g}" if self._epochs else ""
        return f"<History of {self.epochs} epochs{last}>"


def record(history: History, losses: Array) -> None:
    """Add the losses of finished epochs."""
    n = len(losses)
    history._epochs += n
    if n == 1:
        history._last = last = losses.item()
        history.loss.append(last)
    elif n:
        history._last = losses.item(-1)
        history._losses[1].append(losses)


def record_validation(history: History, loss: float, metrics: dict[str, float]) -> None:
    """Add the validation loss and the metrics of an epoch."""
    history._measured = [loss, *metrics.values()]
    history.validation_loss.append(loss)
    for name, value in metrics.items():
        history.metrics.setdefault(name, []).append(value)


def last_measured(history: History) -> list[float]:
    """The validation loss and the metrics of the last epoch; empty without validation data."""
    return history._measured


def last_loss(history: History) -> float:
    """The loss of the last epoch, whatever a callback has done to the list; NaN before the first."""
    return history._last


ADVICE = "a smaller learning rate may help"


class DivergenceError(ArithmeticError):
    """Raised by a fit whose loss, gradient, state or parameters are no longer finite.

    The network, the optimizer and the generator are restored to the end of the last epoch that was finite throughout:
    its losses, and the parameters after it. (The state of a user-defined rule is not restored.)

    Attributes
    ----------
    epoch : int
        The number of finite epochs, including those before an `initial_epoch`.
    step : int
        The number of steps, as counted by schedules, that had been made when the loss was no longer finite.
    loss : float
        That loss: inf or NaN. (Finite if only `cause` is not finite.)
    cause : str
        What was not finite: "loss", "gradient", "parameters", or "state" of the optimizer.
    history : History
        The record of the finite epochs.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(rng=0)
    >>> try:
    ...     net.fit([1.0, 2.0], [2.0, 4.0], optimizer=fg.SGD(lr=1e6), epochs=100)
    ... except fg.DivergenceError as error:
    ...     print(error.loss, error.epoch == len(error.history.loss), bool(abs(net.parameters).max() < float("inf")))
    inf True True
    """

    def __init__(
        self, epoch: int, step: int, loss: float, history: History, cause: str = "loss", advice: str = ADVICE
    ) -> None:
        super().__init__(epoch, step, loss, history, cause, advice)
        self.epoch, self.step, self.loss, self.history = epoch, step, loss, history
        self.cause, self.advice = cause, advice

    def __str__(self) -> str:
        found = f"loss {self.loss:g}" if self.cause == "loss" else f"the {self.cause} overflowed (loss {self.loss:g})"
        return (
            f"the fit diverged after {self.epoch} epochs, at step {self.step}: {found}; "
            f"the parameters are those of the last finite epoch ({self.advice})"
        )
