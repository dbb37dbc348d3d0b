"""Learning-rate decay: functions from the step (0, 1, 2, ...) to the learning rate.

``fit(..., schedule=...)`` accepts any callable; these are the usual ones, as in the notes of the course
CS231n (Stanford), "Annealing the learning rate". ``fit`` computes the rates of these in compiled code.
"""

import sys
from dataclasses import dataclass, fields
from typing import ClassVar, TypeGuard

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.validation import Array, as_count, as_number

_KERNELS = by_dtype[np.dtype("float64")]


class Schedule:
    """The base of the compiled schedules: dataclasses, whose fields are the parameters of the formula."""

    __slots__ = ()
    _formula: ClassVar[int]  # its number in the kernels

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__ == __name__:
            cls._formula = _KERNELS.SCHEDULES.index(cls.__name__)

    def rates(self, first: int, n: int) -> Array:
        """The learning rates of n steps, from step `first` on, computed in compiled code.

        Parameters
        ----------
        first, n : int
            At least 0.

        Returns
        -------
        array (n,), float64

        Raises
        ------
        TypeError, ValueError
            If an argument is not such a number.

        Examples
        --------
        >>> import fusegrad as fg
        >>> fg.InverseTimeDecay(0.5, rate=1.0).rates(3, 2)
        array([0.125, 0.1  ])
        """
        first, n = as_count(first, "first", least=0), as_count(n, "n", least=0)
        if first > sys.maxsize - n:
            raise ValueError(f"first: expected a step after which there are {n} more integers, got {first}")
        parameters = np.array([getattr(self, field.name) for field in fields(self)], dtype="f8")  # type: ignore[arg-type]  # of a dataclass
        result = np.empty(n)
        _KERNELS.learning_rates(self._formula, parameters, first, result)
        return result

    def __call__(self, step: int) -> float:
        """The learning rate at this step, a number from 0 on."""
        return float(self.rates(as_count(step, "step", least=0), 1)[0])


def is_compiled(schedule: object) -> TypeGuard[Schedule]:
    """Whether it is one of this module, not of a subclass, which may override it."""
    return isinstance(schedule, Schedule) and type(schedule).__module__ == __name__


@dataclass(frozen=True, slots=True)
class StepDecay(Schedule):
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


@dataclass(frozen=True, slots=True)
class ExponentialDecay(Schedule):
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


@dataclass(frozen=True, slots=True)
class InverseTimeDecay(Schedule):
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


@dataclass(frozen=True, slots=True)
class CosineDecay(Schedule):
    """A linear warm-up, then half a period of a cosine from lr to the floor.

    ::

        lr (step + 1) / warmup                                      step < warmup
        floor + (lr - floor) (1 + cos(pi p)) / 2                    p = (step - warmup) / (steps - warmup), at most 1

    Parameters
    ----------
    lr : float
        The largest learning rate, more than 0.
    steps : int
        The step from which on the rate is the floor, more than `warmup`.
    warmup : int, default 0
        Steps of the warm-up.
    floor : float, default 0.0
        In [0, lr].

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    References
    ----------
    Loshchilov, I. and Hutter, F. (2017). SGDR: stochastic gradient descent with warm restarts. ICLR.

    Examples
    --------
    >>> import fusegrad as fg
    >>> decay = fg.CosineDecay(0.5, steps=110, warmup=10, floor=0.1)
    >>> decay(0), decay(9), decay(10), round(decay(60), 6), decay(200)
    (0.05, 0.5, 0.5, 0.3, 0.1)
    """

    lr: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        as_number(self.lr, "lr", above=0.0)
        as_count(self.steps, "steps", least=as_count(self.warmup, "warmup", least=0) + 1)
        if as_number(self.floor, "floor", least=0.0) > self.lr:
            raise ValueError(f"floor: expected at most lr, {self.lr}, got {self.floor}")


@dataclass(frozen=True, slots=True)
class CosineLogDecay(Schedule):
    """Periods of a cosine whose lengths double: lr (1 - cos(2 pi log2(1 + 15 t))) / 2, t = step / steps, at most 1.

    It starts and ends at 0, and reaches lr four times, each time later and for longer.

    Parameters
    ----------
    lr : float
        The largest learning rate, more than 0.
    steps : int
        The last step.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    References
    ----------
    Holzmueller, D., Grinsztajn, L. and Steinwart, I. (2024). Better by default: strong pre-tuned MLPs and boosted trees
    on tabular data. NeurIPS. (coslog_4)

    Examples
    --------
    >>> import fusegrad as fg
    >>> decay = fg.CosineLogDecay(0.5, steps=1500)
    >>> [round(decay(step), 3) for step in (0, 41, 100, 1500)]
    [0.0, 0.5, 0.0, 0.0]
    """

    lr: float
    steps: int

    def __post_init__(self) -> None:
        as_number(self.lr, "lr", above=0.0)
        as_count(self.steps, "steps")
