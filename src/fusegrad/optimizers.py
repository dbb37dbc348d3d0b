"""The optimizers. Each has hyperparameters, a state, and a compiled update rule.

An optimizer does not depend on networks: it updates a flat buffer with a flat gradient. Inside
`fusegrad.Sequential.fit` the same rule runs in the engine, without a call to Python.
"""

import json
import math
import os
import struct
import threading
from operator import setitem
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.files import parse_json
from fusegrad._engine.memory import aligned_copy, aligned_zeros
from fusegrad._engine.validation import Array, as_count, as_flag, as_flat, as_flat_output, as_number

#: The compiled updates, and how many states each keeps.
RULES = by_dtype[np.dtype("float32")].RULES
MOST_STEPS = by_dtype[np.dtype("float32")].MOST_STEPS
MOST_EXPONENT = 2000  # more than any exponent of a float64


class SupportsStep(Protocol):
    """What a user-defined rule must have to train a network; a schedule sets its ``lr``."""

    def step(self, parameters: Array, gradient: Array) -> Any:
        """Update parameters in place from their gradient."""


class Optimizer:
    """The base of all optimizers. A user-defined rule needs only a `step` of this form.

    Attributes
    ----------
    lr : float
        The learning rate; may be set between steps. The other hyperparameters of a rule are fixed.
    clip_norm : float or None
        If the norm of the whole gradient g is more than this, g is multiplied by clip_norm / norm(g).
    learning_rate_factors : dict, array or None
        Of each parameter, at least 0: by name, as in `Sequential.named_parameters` ("W1", "b1", "s1", ...), or "W",
        "b" or "s" for all of this kind; those that are not named have 1. Or one for each parameter, in their order.
    n_steps : int
        The number of updates so far.
    state : array (n_states, n_parameters) or None
        Momenta and averages, in the dtype of the parameters; None before the first step. Values that have decayed
        below the smallest normal number become 0. If a gradient is too large to be squared, the states of rules with
        squares are in units of a power of two.

    Notes
    -----
    `fit` and `train_step` run a rule of this package in compiled code. They call Python if one of these is
    overridden, in a subclass or on the instance: `step`; `lr`, which is then read at each step; `look_ahead`
    of Nesterov's rule, which returns the point at which the gradient is computed. Numbers and order of the examples
    are the same. The other hyperparameters of a rule cannot be overridden without `step`.

    An optimizer with averages belongs to one network, as they do. A copy, or an optimizer that has loaded a state by
    `load_state_dict`, belongs to the next network that it trains.
    """

    rule: ClassVar[str] = "none"
    n_steps: int = 0  # also for a subclass whose __init__ does not call this one
    state: Array | None = None
    _exponent: int = 0  # the state is in units of this power of two
    _clip_norm: float | None = None
    _weight_decay: float = 0.0
    _learning_rate_factors: Any = None  # a dict, a flat array, or None
    _factors: Array | None = None  # the same for each parameter, in the dtype of the parameters
    _places: dict[str, tuple[int, int]] | None = None  # the parameters of the network by name: first and last
    _owner: Any = None  # the lock of the network to which it belongs
    _layout: str | None = None  # the layers of that network, or of the one whose state it has loaded
    _direct_for: Any = None  # that lock, if nothing is overridden: `train_step` may call the engine directly

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "step" in vars(cls) or _is_ours(cls):
            return
        if vars(cls).get("rule", "none") != "none":
            raise TypeError(f"{cls.__name__}.rule: expected a class with a step of its own, got the rule {cls.rule!r}")
        for name in vars(cls):
            if name in ("lr", "arguments"):
                continue
            if any(isinstance(vars(base).get(name), property) for base in cls.__mro__[1:] if _is_ours(base)):
                raise TypeError(f"{cls.__name__}.{name}: its update does not read it; override step (or lr) instead")

    def __init__(self, lr: float, *, clip_norm: float | None = None, learning_rate_factors: Any = None) -> None:
        if self.rule == "none" and type(self).step is Optimizer.step:
            raise TypeError(f"{type(self).__name__}: expected a class with a step of its own, such as fusegrad.SGD")
        self.lr = as_number(lr, "lr", above=0.0)
        self._clip_norm = None if clip_norm is None else as_number(clip_norm, "clip_norm", above=0.0)
        self._learning_rate_factors = _as_factors(learning_rate_factors)
        self.n_steps = 0
        self.state = None
        self._exponent = 0
        self._owner = self._layout = self._direct_for = None
        self._constants = self._pack()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("step", "look_ahead"):
            if self._owner is not None and self._owner.is_held:
                raise RuntimeError(f"{name}: expected to be set before a fit, got it while one runs")
            self._direct_for = None
        elif _is_ours(type(self)) and not hasattr(type(self), name) and not name.startswith("_"):
            known = "; its learning rate is lr" if name in ("learning_rate", "alpha", "eta") else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{known}")
        elif (
            isinstance(found := getattr(type(self), name, None), property) and not found.fset and name in self.arguments
        ):
            raise AttributeError(f"{name}: chosen when the optimizer is made: {type(self).__name__}(..., {name}=...)")
        object.__setattr__(self, name, value)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = as_number(value, "lr", least=0.0)  # a schedule may end at 0

    @property
    def clip_norm(self) -> float | None:
        """The largest norm of a gradient; None: any."""
        return self._clip_norm

    @property
    def learning_rate_factors(self) -> Any:
        """The factors of the learning rate, a copy; None: 1."""
        factors = self._learning_rate_factors
        return None if factors is None else factors.copy()

    @property
    def _weights(self) -> tuple[tuple[int, int], ...]:
        """The first and the last parameter of each W of its network; (): all are weights."""
        return tuple(place for name, place in (self._places or {}).items() if name[0] == "W")

    @property
    def _update(self) -> str:
        """The name of its compiled update in `RULES`."""
        return self.rule

    @property
    def n_states(self) -> int:
        """Rows of the state. A user-defined rule sets its own."""
        return RULES.get(self._update, 0)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments()

    def _arguments(self, **others: Any) -> dict[str, Any]:
        """lr, the hyperparameters of a rule, and what all rules have, if it is set."""
        common = {"clip_norm": self._clip_norm, "learning_rate_factors": self.learning_rate_factors}
        return {"lr": self.lr, **others, **{name: value for name, value in common.items() if value is not None}}

    def __copy__(self) -> Self:
        """A copy with its own state, for any network."""
        other = object.__new__(type(self))
        other.__setstate__({**self.__getstate__(), "state": None if self.state is None else self.state.copy()})
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_owner", "_direct_for", "_factors")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def _pack(
        self,
        *,
        nesterov: bool = False,
        bias_correction: bool = False,
        decay: float = 0.0,
        decay2: float = 0.0,
        eps: float = 0.0,
    ) -> bytes:
        """What the compiled update reads, except the learning rate: `Constants` in cython_kernels."""
        names = list(RULES)
        rule = names.index(self._update) if self._update in names else 0  # another name: the class has its own step
        logs = _log(decay), _log(decay2)
        limits = self._clip_norm or 0.0, self._weight_decay
        factored = self._learning_rate_factors is not None
        return struct.pack("4q7d", rule, nesterov, bias_correction, factored, decay, decay2, eps, *logs, *limits)

    def check(self, parameters: Array) -> None:
        """Raise unless the state, if there is one, matches the parameters, and the count of steps is valid."""
        if not isinstance(parameters, np.ndarray) or isinstance(parameters, np.ma.MaskedArray):
            raise TypeError(f"parameters: expected a NumPy array without a mask, got {type(parameters).__name__}")
        if parameters.dtype not in by_dtype or parameters.ndim != 1:
            raise TypeError(f"parameters: expected a flat array of float32 or float64, got {parameters!r}")
        if as_count(self.n_steps, "optimizer.n_steps", least=0) >= MOST_STEPS:
            raise ValueError(f"optimizer.n_steps: expected less than {MOST_STEPS}, got {self.n_steps}")
        state = self.state
        if state is None:
            return
        if not isinstance(state, np.ndarray) or state.ndim != 2 or state.shape[0] != self.n_states:
            raise ValueError(f"optimizer: expected a state of {self.n_states} rows, got {state!r}")
        if state.shape[1] != parameters.size or state.dtype != parameters.dtype:
            raise ValueError(
                f"optimizer: its state is of {state.shape[1]} {state.dtype} parameters, "
                f"got {parameters.size} {parameters.dtype}: use one optimizer for each network"
            )

    def _flat_factors(self, parameters: Array) -> Array:
        """The factors of the learning rate of these parameters; called by compiled steps if there are any."""
        factors = self._factors
        if factors is None or factors.shape != parameters.shape or factors.dtype != parameters.dtype:
            factors = flat_factors(self._learning_rate_factors, parameters, self._places)
            self._factors = factors
        return factors

    def prepare(self, parameters: Array) -> None:
        """Make the state for these parameters, if there is no writable one; called by the first step.

        There may be one with another layout or read-only: joblib passes large arrays to its workers like this.
        """
        self.check(parameters)
        if self.state is None:
            self.state = aligned_zeros((self.n_states, parameters.size), parameters.dtype)
        else:
            self.state = aligned_copy(self.state)

    def step(self, parameters: Array, gradient: Array) -> None:
        """Update parameters in place from their gradient.

        Parameters
        ----------
        parameters : array (n,), float32 or float64, contiguous
            Changed in place.
        gradient : array (n,)
            Read.

        Raises
        ------
        TypeError, ValueError
            If a buffer is of the wrong kind, size or dtype, or does not match the previous step.

        Notes
        -----
        Runs in the calling thread. The class documents the update, which is in the dtype of the parameters.
        """
        dtype: Any = getattr(parameters, "dtype", type(parameters).__name__)
        if dtype not in by_dtype:
            raise TypeError(f"parameters: expected a float32 or float64 array, got {dtype}")
        parameters = as_flat_output(parameters, "parameters", dtype)
        gradient = as_flat(gradient, "gradient", dtype, parameters.size)
        if np.may_share_memory(gradient, parameters):
            gradient = gradient.copy()
        check_initialized(self)
        _, *rules = RULES
        if self._update not in rules:
            raise TypeError(f"{type(self).__name__}.rule: expected one of {', '.join(rules)}, got {self.rule!r}")
        if self._learning_rate_factors is not None:
            self._flat_factors(parameters)  # an error, before the state is made
        by_dtype[dtype].optimizer_step(self, parameters, gradient)

    def state_dict(self) -> dict[str, Any]:
        """A copy of what changes from step to step: ``lr``, ``n_steps``, ``state``, and what the state belongs to.

        ``rule`` is the name of the rule, ``layout`` the layers of the network to which the state belongs (None if
        unknown). First averages are in units of 2^``exponent``, averages of squares in units of its
        square; it is 0 unless gradients were too large to be squared.

        Examples
        --------
        >>> import numpy as np, fusegrad as fg
        >>> optimizer = fg.SGD(lr=0.5, momentum=0.9)
        >>> optimizer.step(np.zeros(2), np.ones(2))
        >>> optimizer.state_dict()
        {'rule': 'sgd', 'lr': 0.5, 'n_steps': 1, 'layout': None, 'exponent': 0, 'state': array([[-0.5, -0.5]])}
        """
        return {
            "rule": self.rule,
            "lr": self.lr,
            "n_steps": self.n_steps,
            "layout": None if self.state is None else self._layout,
            "exponent": self._exponent,
            "state": None if self.state is None else self.state.copy(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, with any network of the same layers.

        Parameters
        ----------
        state_dict : dict
            With ``lr``, ``n_steps`` and ``state``; ``rule`` is compared if present.

        Raises
        ------
        TypeError, ValueError
            If it is not a state of such an optimizer; nothing is changed then.

        Examples
        --------
        >>> import fusegrad as fg
        >>> optimizer = fg.SGD(lr=0.5)
        >>> optimizer.load_state_dict({"lr": 0.25, "n_steps": 10, "state": None})
        >>> optimizer.lr, optimizer.n_steps
        (0.25, 10)
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict: expected a dict, got {type(state_dict).__name__}")
        wanted, optional = ("lr", "n_steps", "state"), {"rule": self.rule, "layout": None, "exponent": 0}
        if not set(wanted) <= set(state_dict) <= {*wanted, *optional}:
            raise ValueError(f"state_dict: expected the keys {', '.join(wanted)}, got {list(state_dict)}")
        found = {**optional, **state_dict}
        if found["rule"] != self.rule:
            raise ValueError(f"state_dict['rule']: expected {self.rule!r}, got {found['rule']!r}")
        lr = as_number(found["lr"], "state_dict['lr']", least=0.0)
        n_steps = as_count(found["n_steps"], "state_dict['n_steps']", least=0)
        if n_steps >= MOST_STEPS:
            raise ValueError(f"state_dict['n_steps']: expected less than {MOST_STEPS}, got {n_steps}")
        layout = found["layout"]
        if layout is not None and not isinstance(layout, str):
            raise TypeError(f"state_dict['layout']: expected a str or None, got {layout!r}")
        exponent = as_count(found["exponent"], "state_dict['exponent']", least=0)
        if exponent > MOST_EXPONENT:
            raise ValueError(f"state_dict['exponent']: expected at most {MOST_EXPONENT}, got {exponent}")
        state = found["state"]
        if state is not None and (not isinstance(state, np.ndarray) or isinstance(state, np.ma.MaskedArray)):
            raise TypeError(f"state_dict['state']: expected an array or None, got {type(state).__name__}")
        if state is not None and (state.ndim != 2 or state.shape[0] != self.n_states or state.dtype not in by_dtype):
            raise ValueError(
                f"state_dict['state']: expected {self.n_states} rows of floats, got {state.dtype} {state.shape}"
            )
        self.lr = lr
        self.n_steps = n_steps
        self.state = None if state is None else aligned_copy(state)
        self._exponent, self._layout, self._owner, self._direct_for = exponent, layout, None, None


def _as_factors(factors: Any) -> Any:
    """A dict of names to numbers, a flat array, or None."""
    name = "learning_rate_factors"
    if factors is None:
        return None
    if isinstance(factors, dict):
        if not all(isinstance(key, str) for key in factors):
            raise TypeError(f"{name}: expected a dict of names of parameters, got {factors!r}")
        return {key: as_number(value, f"{name}[{key!r}]", least=0.0) for key, value in factors.items()}
    if not isinstance(factors, (np.ndarray, list, tuple)):
        raise TypeError(f"{name}: expected a dict of names to numbers, or a flat array, got {factors!r}")
    flat = np.array(as_flat(factors, name))
    if not (np.isfinite(flat) & (flat >= 0)).all():
        raise ValueError(f"{name}: expected finite numbers of at least 0, got others")
    return flat


def flat_factors(factors: Any, parameters: Array, places: dict[str, tuple[int, int]] | None) -> Array:
    """One factor for each parameter. places: of the network's parameters, by name."""
    if not isinstance(factors, dict):
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(as_flat(factors, "learning_rate_factors", parameters.dtype, parameters.size))
        return _check_finite(flat)
    if places is None or max(last for _, last in places.values()) != parameters.size:
        raise ValueError("learning_rate_factors: expected an array where an optimizer has no network, got names")
    unknown = set(factors) - {*places, "s", "W", "b"}
    if unknown:
        raise ValueError(
            f"learning_rate_factors: expected names of parameters, {', '.join(places)}, or s, W, b for all of a kind, "
            f"got {', '.join(map(repr, sorted(unknown)))}"
        )
    flat = np.ones_like(parameters)
    for name, (first, last) in places.items():
        with np.errstate(over="ignore"):
            flat[first:last] = factors.get(name, factors.get(name[0], 1.0))
    return _check_finite(flat)


def _check_finite(factors: Array) -> Array:
    if not by_dtype[factors.dtype].is_finite(factors):  # all() raises a SystemError if memory runs out
        raise ValueError(f"learning_rate_factors: expected numbers that {factors.dtype} can hold, got larger ones")
    return factors


def _is_ours(kind: type) -> bool:
    """Whether a class is defined in this module."""
    return kind.__module__ == __name__


def _log(decay: float) -> float:
    """The logarithm of decay, accurate near 1: 1 - decay^t is computed from it."""
    if decay == 0:
        return -math.inf
    return math.log1p(decay - 1) if decay > 0.5 else math.log(decay)


def check_initialized(optimizer: Optimizer) -> None:
    """Raise if a subclass has an `__init__` that does not call that of its base."""
    if not hasattr(optimizer, "_constants"):
        name = type(optimizer).__name__
        raise TypeError(f"optimizer: expected {name}.__init__ to call super().__init__, which sets what a step reads")


def runs_compiled(optimizer: Any) -> bool:
    """Whether the engine runs the rule; else `optimizer.step` is called from Python: see `Optimizer`."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer: expected an object with step(parameters, gradient) such as fusegrad.Adam(), got {optimizer!r}"
        )
    if not isinstance(optimizer, Optimizer):
        return False
    # Not by vars(optimizer): once the dict of an instance has been created, reading its attributes is slower.
    if getattr(optimizer.step, "__func__", None) is not COMPILED_STEP:
        return False
    check_initialized(optimizer)
    if type(optimizer).lr is not COMPILED_LR:
        return False
    return not isinstance(optimizer, SGD) or getattr(optimizer.look_ahead, "__func__", None) is COMPILED_LOOK_AHEAD


def _take(optimizer: Optimizer, parameters: Array, lock: Any, layout: str, places: dict[str, tuple[int, int]]) -> None:
    """Make the network with this lock the owner of the optimizer."""
    factors = optimizer._learning_rate_factors
    resolved = None if factors is None else flat_factors(factors, parameters, places)
    stateless = optimizer.state is None or not len(optimizer.state)
    if optimizer._owner is not None and not (stateless and not optimizer._owner.is_held):
        why = "which is in a step" if stateless else "and its averages are of that one"
        raise ValueError(
            f"optimizer: it is used by another network, {why}: use an optimizer for each network "
            "(copy.copy(optimizer) copies the averages too)"
        )
    if not stateless and optimizer._layout not in (None, layout):
        raise ValueError(f"optimizer: its state is of a network of layers {optimizer._layout}, got {layout}")
    optimizer._owner, optimizer._layout, optimizer._places = lock, layout, places
    optimizer._factors = resolved


_binding = threading.RLock()  # two networks may be passed one new optimizer at the same time


def _renew_binding() -> None:
    global _binding
    _binding = threading.RLock()


os.register_at_fork(after_in_child=_renew_binding)


def bind(
    optimizer: Optimizer,
    parameters: Array,
    lock: Any,
    layout: str,
    places: dict[str, tuple[int, int]],
    compiled: bool,
) -> None:
    """Bind the optimizer to the network with this lock and these layers; raise if it belongs to another.

    places: of the network's parameters, by name. compiled: its steps run compiled, and `train_step` may call the engine
    directly.
    """
    optimizer.check(parameters)
    if optimizer._owner is not lock:
        with _binding:
            _take(optimizer, parameters, lock, layout, places)
    optimizer._direct_for = lock if compiled else None


def copy_into(target: Array | None, array: Array) -> Array:
    """A copy of an array: in `target`, which has its shape and dtype, or, if that is None, a new one."""
    if target is None:
        return array.copy()
    target[...] = array
    return target


class Snapshot:
    """Everything that the steps of an optimizer change; it may be taken again, into the same arrays."""

    __slots__ = ("exponent", "n_steps", "state")

    def __init__(self) -> None:
        self.state: Array | None = None

    def take(self, optimizer: Optimizer) -> None:
        """Copy the state. New memory would cost more than the copy."""
        state = optimizer.state
        if state is None:
            self.state = None
        elif state.size or self.state is None:  # a rule without averages has an empty state
            self.state = copy_into(self.state, state)
        self.exponent, self.n_steps = optimizer._exponent, optimizer.n_steps

    def restore(self, optimizer: Optimizer) -> None:
        """Undo the steps since it was taken."""
        for function, *arguments in self.moves(optimizer):
            function(*arguments)

    def moves(self, optimizer: Optimizer) -> list[tuple[Any, ...]]:
        """The calls, functions with their arguments, that undo the steps since it was taken."""
        undo: list[tuple[Any, ...]] = [
            (object.__setattr__, optimizer, "_exponent", self.exponent),
            (object.__setattr__, optimizer, "n_steps", self.n_steps),
        ]
        if self.state is None:
            undo.append((object.__setattr__, optimizer, "state", None))
        elif optimizer.state is not None and optimizer.state.flags.writeable:  # else no step has been made
            undo.append((setitem, optimizer.state, ..., self.state))  # in place: there may be no memory left
        return undo


class SGD(Optimizer):
    """Gradient descent, on the whole batch or on mini-batches, also with momentum or with Nesterov's rule.

    With learning rate a and gradient g at the parameters W::

        W -= a g                            momentum = 0
        v = mu v - a g;  W += v             momentum = mu
        v = mu v - a g(W + mu v);  W += v   nesterov

    Parameters
    ----------
    lr : float
        a, the learning rate, more than 0.
    momentum : float, default 0.0
        mu, in [0, 1).
    nesterov : bool, default False
        Compute the gradient at the look-ahead point W + mu v. Needs momentum. The loss that a step
        returns is then the loss at that point.
    clip_norm : float, optional
        The largest norm of the whole gradient: a larger one is scaled down to it.
    learning_rate_factors : dict of str to float, or array (n_parameters,), optional
        The learning rate of a parameter is a times its factor: see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Notes
    -----
    v includes the learning rate as a factor (as in CS231n); PyTorch multiplies by it afterwards. The two agree while
    the learning rate is constant; for Nesterov's rule PyTorch's parameters are the look-ahead points here.

    `step` alone cannot look ahead: pass it the gradient at `look_ahead(parameters)`.

    References
    ----------
    Polyak, B. T. (1964). Some methods of speeding up the convergence of iteration methods.
    Sutskever, I. et al. (2013). On the importance of initialization and momentum in deep learning.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> w = np.array([1.0, 2.0])
    >>> fg.SGD(lr=0.5).step(w, np.array([1.0, -1.0]))
    >>> w
    array([0.5, 2.5])
    """

    rule = "sgd"
    _momentum: float = 0.0

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        clip_norm: float | None = None,
        learning_rate_factors: Any = None,
    ) -> None:
        super().__init__(lr, clip_norm=clip_norm, learning_rate_factors=learning_rate_factors)
        self._momentum = as_number(momentum, "momentum", least=0.0, below=1.0)
        self._nesterov = as_flag(nesterov, "nesterov")
        if self._nesterov and not self._momentum:
            raise ValueError("nesterov: expected a momentum of more than 0, got 0")
        self._constants = self._pack(nesterov=self._nesterov, decay=self._momentum)

    @property
    def _update(self) -> str:
        return "momentum" if self._momentum else self.rule

    @property
    def momentum(self) -> float:
        """The momentum, mu."""
        return self._momentum

    @property
    def nesterov(self) -> bool:
        """Whether the gradient is computed at the look-ahead point."""
        return self._nesterov

    def look_ahead(self, parameters: Array) -> Array:
        """W + mu v, the point at which Nesterov's rule takes the gradient (W itself without momentum).

        Parameters
        ----------
        parameters : array (n,)
            Read.

        Returns
        -------
        array (n,)
            A new array.

        Examples
        --------
        >>> import numpy as np, fusegrad as fg
        >>> optimizer = fg.SGD(lr=0.5, momentum=0.5, nesterov=True)
        >>> w = np.zeros(2)
        >>> optimizer.step(w, np.ones(2))
        >>> w, optimizer.look_ahead(w)
        (array([-0.5, -0.5]), array([-0.75, -0.75]))
        """
        parameters = as_flat(parameters, "parameters")
        self.check(parameters)
        if self.state is None or not self.n_states:
            return parameters.copy()
        velocity = np.ascontiguousarray(self.state[0])
        return by_dtype[parameters.dtype].look_ahead_point(parameters, velocity, self._momentum)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments(momentum=self._momentum, nesterov=self._nesterov)


class Adagrad(Optimizer):
    """Adagrad: a learning rate for each parameter, which decreases with the squares of its gradients.

    ::

        c += g^2
        W -= a g / (sqrt(c) + eps)

    Parameters
    ----------
    lr : float
        a, the learning rate, more than 0.
    eps : float, default 1e-10
        At least 0; a value below the smallest normal number of the dtype is replaced by that number.
    clip_norm : float, optional
        The largest norm of the whole gradient: a larger one is scaled down to it.
    learning_rate_factors : dict of str to float, or array (n_parameters,), optional
        The learning rate of a parameter is a times its factor: see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    References
    ----------
    Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods for online learning and
    stochastic optimization. JMLR 12.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> w = np.array([1.0, 2.0])
    >>> fg.Adagrad(lr=0.5).step(w, np.array([2.0, -4.0]))
    >>> w.round(6)
    array([0.5, 2.5])
    """

    rule = "adagrad"

    def __init__(
        self, lr: float, eps: float = 1e-10, *, clip_norm: float | None = None, learning_rate_factors: Any = None
    ) -> None:
        super().__init__(lr, clip_norm=clip_norm, learning_rate_factors=learning_rate_factors)
        self._eps = as_number(eps, "eps", least=0.0)
        self._constants = self._pack(eps=self._eps)

    @property
    def eps(self) -> float:
        """The number that is added to the root."""
        return self._eps

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments(eps=self._eps)


class RMSprop(Optimizer):
    """RMSprop: Adagrad with an average of the squares instead of their sum.

    ::

        c = decay c + (1 - decay) g^2
        W -= a g / (sqrt(c) + eps)

    Parameters
    ----------
    lr : float
        a, the learning rate, more than 0.
    decay : float, default 0.99
        In [0, 1).
    eps : float, default 1e-8
        At least 0; a value below the smallest normal number of the dtype is replaced by that number.
    clip_norm : float, optional
        The largest norm of the whole gradient: a larger one is scaled down to it.
    learning_rate_factors : dict of str to float, or array (n_parameters,), optional
        The learning rate of a parameter is a times its factor: see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    References
    ----------
    Tieleman, T. and Hinton, G. (2012). Lecture 6.5: RMSprop. COURSERA: Neural networks for machine learning.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> w = np.array([1.0, 2.0])
    >>> fg.RMSprop(lr=0.1).step(w, np.array([2.0, -4.0]))
    >>> w.round(6)
    array([0., 3.])
    """

    rule = "rmsprop"

    def __init__(
        self,
        lr: float,
        decay: float = 0.99,
        eps: float = 1e-8,
        *,
        clip_norm: float | None = None,
        learning_rate_factors: Any = None,
    ) -> None:
        super().__init__(lr, clip_norm=clip_norm, learning_rate_factors=learning_rate_factors)
        self._decay = as_number(decay, "decay", least=0.0, below=1.0)
        self._eps = as_number(eps, "eps", least=0.0)
        self._constants = self._pack(decay=self._decay, eps=self._eps)

    @property
    def decay(self) -> float:
        """The weight of the previous average."""
        return self._decay

    @property
    def eps(self) -> float:
        """The number that is added to the root."""
        return self._eps

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments(decay=self._decay, eps=self._eps)


class Adam(Optimizer):
    """Adam: averages of the gradient and of its square.

    ::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        W -= a m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^t) and v' = v / (1 - b2^t) at step t = 1, 2, ...; without bias correction
    m' = m and v' = v.

    Parameters
    ----------
    lr : float, default 1e-3
        a, the learning rate, more than 0.
    betas : (float, float), default (0.9, 0.999)
        b1 and b2, in [0, 1).
    eps : float, default 1e-8
        At least 0; a value below the smallest normal number of the dtype is replaced by that number.
    bias_correction : bool, default True
        Correct the averages for their start at 0.
    clip_norm : float, optional
        The largest norm of the whole gradient: a larger one is scaled down to it.
    learning_rate_factors : dict of str to float, or array (n_parameters,), optional
        The learning rate of a parameter is a times its factor: see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    References
    ----------
    Kingma, D. P. and Ba, J. (2015). Adam: a method for stochastic optimization. ICLR.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> w = np.array([1.0, 2.0])
    >>> fg.Adam(lr=0.1).step(w, np.array([2.0, -4.0]))
    >>> w.round(6)
    array([0.9, 2.1])
    """

    rule = "adam"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bias_correction: bool = True,
        *,
        clip_norm: float | None = None,
        learning_rate_factors: Any = None,
    ) -> None:
        super().__init__(lr, clip_norm=clip_norm, learning_rate_factors=learning_rate_factors)
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise TypeError(f"betas: expected two numbers, got {betas!r}") from None
        self._betas = (
            as_number(beta1, "betas[0]", least=0.0, below=1.0),
            as_number(beta2, "betas[1]", least=0.0, below=1.0),
        )
        self._eps = as_number(eps, "eps", least=0.0)
        self._bias_correction = as_flag(bias_correction, "bias_correction")
        self._constants = self._pack(
            bias_correction=self._bias_correction, decay=self._betas[0], decay2=self._betas[1], eps=self._eps
        )

    @property
    def betas(self) -> tuple[float, float]:
        """The weights of the previous averages."""
        return self._betas

    @property
    def eps(self) -> float:
        """The number that is added to the root."""
        return self._eps

    @property
    def bias_correction(self) -> bool:
        """Whether the averages are corrected for their start at 0."""
        return self._bias_correction

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments(betas=self._betas, eps=self._eps, bias_correction=self._bias_correction)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights, not the biases, decrease by themselves.

    ::

        W -= a lambda W
        W -= a m' / (sqrt(v') + eps)        as in Adam; lambda is not a part of g

    Parameters
    ----------
    lr : float, default 1e-3
        a, the learning rate, more than 0.
    betas : (float, float), default (0.9, 0.999)
        b1 and b2, in [0, 1).
    eps : float, default 1e-8
        At least 0; a value below the smallest normal number of the dtype is replaced by that number.
    weight_decay : float, default 0.01
        lambda, at least 0.
    clip_norm : float, optional
        The largest norm of the whole gradient: a larger one is scaled down to it.
    learning_rate_factors : dict of str to float, or array (n_parameters,), optional
        The learning rate of a parameter is a times its factor: see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Notes
    -----
    Which parameters are weights is known once a network trains with it; alone, `step` decays all parameters.

    References
    ----------
    Loshchilov, I. and Hutter, F. (2019). Decoupled weight decay regularization. ICLR.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> w = np.array([1.0, 2.0])
    >>> fg.AdamW(lr=0.1, weight_decay=0.1).step(w, np.array([2.0, -4.0]))
    >>> w.round(6)
    array([0.89, 2.08])
    """

    rule = "adamw"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        clip_norm: float | None = None,
        learning_rate_factors: Any = None,
    ) -> None:
        self._weight_decay = as_number(weight_decay, "weight_decay", least=0.0)
        super().__init__(lr, betas, eps, clip_norm=clip_norm, learning_rate_factors=learning_rate_factors)

    @property
    def _update(self) -> str:
        return "adam"

    @property
    def weight_decay(self) -> float:
        """The decay of the weights in a step, divided by the learning rate."""
        return self._weight_decay

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, with the current learning rate."""
        return self._arguments(betas=self._betas, eps=self._eps, weight_decay=self._weight_decay)


# The original functions, with which `runs_compiled` compares.
COMPILED_STEP = Optimizer.step
COMPILED_LR = vars(Optimizer)["lr"]
COMPILED_LOOK_AHEAD = SGD.look_ahead


BUILT_IN: dict[str, type[Optimizer]] = {kind.__name__: kind for kind in (SGD, Adagrad, RMSprop, Adam, AdamW)}


def describe_optimizer(optimizer: Any) -> str:
    """An optimizer without its state as JSON."""
    if type(optimizer) not in BUILT_IN.values():
        raise TypeError(f"optimizer: expected one of {', '.join(sorted(BUILT_IN))}, got {optimizer!r}")
    arguments = optimizer.arguments
    if isinstance(arguments.get("learning_rate_factors"), np.ndarray):
        del arguments["learning_rate_factors"]  # an array of its own in the file
    described = {"class": type(optimizer).__name__, "arguments": arguments, "n_steps": optimizer.n_steps}
    if optimizer._exponent:
        described["exponent"] = optimizer._exponent
    return json.dumps(described)


def build_optimizer(description: str, state: Array | None, factors: Array | None) -> Optimizer:
    """The optimizer of a description by `describe_optimizer`, with its state and its factors, if they are an array."""
    described = parse_json(description)
    arguments = dict(described["arguments"])
    if factors is not None:
        arguments["learning_rate_factors"] = factors
    lr = arguments.pop("lr")
    optimizer: Optimizer = BUILT_IN[described["class"]](lr=1.0, **arguments)  # its own lr may be 0, set by a schedule
    steps = {"n_steps": described["n_steps"], "exponent": described.get("exponent", 0)}
    optimizer.load_state_dict({"rule": optimizer.rule, "lr": lr, "state": state, **steps})
    return optimizer
