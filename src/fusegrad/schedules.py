"""Learning-rate decay: functions from the step (0, 1, 2, ...) to the learning rate.

``fit(..., schedule=...)`` accepts any callable; these are the usual ones, as in the notes of the course
CS231n (Stanford), "Annealing the learning rate". ``fit`` calls them from Python, ahead of the steps.
"""

import math
import sys
from dataclasses import dataclass

from fusegrad._engine.validation import as_count, as_number


def _whole(step: int) -> int:
    """The step, if it is an integer. An int is not validated further, since `fit` calls this for every step."""
    return step if type(step) is int and 0 <= step <= sys.maxsize else as_count(step, "step", least=0)


@dataclass(frozen=True, slots=True)
class StepDecay:
    """lr factor^floor(step / step_size).

    Parameters
    ----------
    lr : float
        The learning rate at step 0, more than 0.
    step_size : int
        Steps between two decays, at least 1.
    factor : float
        More than 0.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Examples
    --------
    >>> import fusegrad as fg
    >>> decay = fg.StepDecay(0.5, step_size=10, factor=0.5)
    >>> decay(9), decay(10), decay(25)
    (0.5, 0.25, 0.125)
    """

    lr: float
    step_size: int
    factor: float

    def __post_init__(self) -> None:
        as_number(self.lr, "lr", above=0.0)
        as_count(self.step_size, "step_size")
        as_number(self.factor, "factor", above=0.0)

    def __call__(self, step: int) -> float:
        """The learning rate at this step."""
        try:
            return self.lr * self.factor ** (_whole(step) // self.step_size)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, slots=True)
class ExponentialDecay:
    """lr exp(-rate step).

    Parameters
    ----------
    lr : float
        The learning rate at step 0, more than 0.
    rate : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Examples
    --------
    >>> import fusegrad as fg
    >>> round(fg.ExponentialDecay(0.5, rate=0.1)(10), 6)
    0.18394
    """

    lr: float
    rate: float

    def __post_init__(self) -> None:
        as_number(self.lr, "lr", above=0.0)
        as_number(self.rate, "rate", least=0.0)

    def __call__(self, step: int) -> float:
        """The learning rate at this step."""
        return self.lr * math.exp(-self.rate * _whole(step))


@dataclass(frozen=True, slots=True)
class InverseTimeDecay:
    """lr / (1 + rate step).

    Parameters
    ----------
    lr : float
        The learning rate at step 0, more than 0.
    rate : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.InverseTimeDecay(0.5, rate=1.0)(4)
    0.1
    """

    lr: float
    rate: float

    def __post_init__(self) -> None:
        as_number(self.lr, "lr", above=0.0)
        as_number(self.rate, "rate", least=0.0)

    def __call__(self, step: int) -> float:
        """The learning rate at this step."""
        return self.lr / (1 + self.rate * _whole(step))
