"""Backpropagation as flow in a circuit: values flow forward through gates, gradients flow backward. Plain NumPy.

A `Wire` carries a value, a number or an array, and after the backward pass the gradient of the circuit's output with
respect to it. A gate computes the value of its output from its inputs. Backward, it receives the gradient on its output
and multiplies it by its local gradients (the chain rule): these are the gradients on its inputs. Where a wire forks,
the gradients that come back through its branches are added.

Three patterns: an add gate distributes the gradient to its inputs, a max gate routes it to the larger one, and a
multiply gate switches its inputs: each gets the gradient times the value of the other.

Source: A. Karpathy, J. Johnson, F.-F. Li, notes of CS231n (Stanford), "Backpropagation, intuitions".
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusegrad import diagrams
from fusegrad._engine.validation import Array, as_floats
from fusegrad.diagrams import show


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))  # does not overflow
    return np.where(x < 0, e, 1.0) / (1 + e)


#: Of each gate the value f of its inputs, and the gradients that it sends to them if it receives g.
GATES: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    "+": (lambda x, y: x + y, lambda g, f, x, y: (g, g)),
    "×": (lambda x, y: x * y, lambda g, f, x, y: (g * y, g * x)),
    "max": (lambda x, y: np.maximum(x, y), lambda g, f, x, y: (g * (x >= y), g * ~(x >= y))),  # at a tie: to the first
    "c + x": (lambda x, c: x + c, lambda g, f, x, c: (g,)),
    "a x": (lambda x, a: x * a, lambda g, f, x, a: (g * a,)),
    "1/x": (lambda x: 1 / x, lambda g, f, x: (-g * f * f,)),
    "exp": (lambda x: np.exp(x), lambda g, f, x: (g * f,)),
    "σ": (_sigmoid, lambda g, f, x: (g * f * (1 - f),)),
    "@": (lambda W, X: W @ X, lambda g, f, W, X: (g @ X.T, W.T @ g)),  # the only products of these shapes
}


class Wire:
    """A value in a circuit, and the gradient of the output with respect to it. ``+ - * / @`` make gates.

    Parameters
    ----------
    value : number or array
        Of an input of the circuit. To set another one, call `Circuit.forward` afterwards. ``+ - * /`` also take numbers
        and arrays: they are constants of a gate. A TypeError if it is neither.
    name : str, optional
        For texts and pictures.

    Examples
    --------
    >>> from fusegrad.circuits import Wire
    >>> Wire(4.0, "x") * Wire(-3.0, "y")
    Wire(output of ×): value -12, gradient 0
    """

    __array_ufunc__ = None  # array + wire is a wire, not an array of wires

    def __init__(self, value: Any, name: str = "") -> None:
        self.value: Any = value
        self.gradient: Any = np.zeros_like(self.value)
        self.name = name
        self.gate: Gate | None = None  # that computes it; None: it is an input

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, _as_value(value) if name == "value" else value)

    def __repr__(self) -> str:
        name = self.name or ("input" if self.gate is None else f"output of {self.gate.label}")
        return f"Wire({name}): value {show(self.value)}, gradient {show(self.gradient)}"

    def __add__(self, other: Any) -> "Wire":
        return (
            Gate("+", self, other).output if isinstance(other, Wire) else Gate("c + x", self, constants=(other,)).output
        )

    def __mul__(self, other: Any) -> "Wire":
        return (
            Gate("×", self, other).output if isinstance(other, Wire) else Gate("a x", self, constants=(other,)).output
        )

    def __sub__(self, other: Any) -> "Wire":
        return self + -other if isinstance(other, Wire) else self + -_as_value(other)

    def __truediv__(self, other: Any) -> "Wire":
        return self * (reciprocal(other) if isinstance(other, Wire) else 1 / _as_value(other))

    def __rtruediv__(self, other: Any) -> "Wire":
        inverse = reciprocal(self)
        return inverse if np.ndim(other) == 0 and other == 1 else inverse * other

    __radd__, __rmul__, __matmul__ = __add__, __mul__, lambda self, other: Gate("@", self, other).output
    __neg__, __rsub__ = lambda self: self * -1, lambda self, other: -self + other


class Gate:
    """One of `GATES`, with its inputs and its output: wires. constants: c or a, of "c + x" and "a x".

    Examples
    --------
    >>> from fusegrad.circuits import Gate, Wire
    >>> gate = Gate("max", Wire(4.0, "z"), Wire(2.0, "w"))
    >>> gate.output.gradient = 1.0
    >>> gate
    max: (4, 2) -> 4; receives 1, local gradients (1, 0), sends (1, 0)
    """

    def __init__(self, kind: str, *inputs: Wire, constants: tuple[Any, ...] = ()) -> None:
        if not isinstance(kind, str) or kind not in GATES:
            raise ValueError(f"kind: expected one of {', '.join(GATES)}, got {kind!r}")
        for wire in inputs:
            if not isinstance(wire, Wire):
                raise TypeError(f"inputs: expected wires in a gate {kind!r}, got {wire!r}")
        if GATES[kind][0].__code__.co_argcount != len(inputs) + len(constants):
            raise TypeError(f"inputs: expected as many as a gate {kind!r} has, got {len(inputs)}")
        self.kind, self.inputs = kind, inputs
        self.constants = tuple(map(_as_value, constants))
        self.output: Wire = Wire(self.value())
        self.output.gate = self

    @property
    def label(self) -> str:
        """What pictures show: the kind, with the constant in place of its letter."""
        return {"c + x": "+ ", "a x": "× "}.get(self.kind, self.kind) + "".join(map(show, self.constants))

    def value(self) -> Any:
        """The value of the output."""
        values = [wire.value for wire in self.inputs] + list(self.constants)
        shapes = [np.shape(value) for value in values]
        if self.kind == "@" and not (len(shapes[0]) == len(shapes[1]) == 2 and shapes[0][1] == shapes[1][0]):
            raise ValueError(f"W @ X: expected shapes (n, k) and (k, m), got {shapes[0]} and {shapes[1]}")
        try:
            return GATES[self.kind][0](*values)
        except ValueError:
            raise ValueError(f"gate {self.kind}: expected shapes that match, got {shapes[0]} and {shapes[1]}") from None

    def gradients(self, received: Any) -> list[Any]:
        """The gradient for each input: the received one times the local one."""
        values = [wire.value for wire in self.inputs]
        sent = GATES[self.kind][1](received, self.output.value, *values, *self.constants)
        return [_sum_to(gradient, np.shape(value)) for gradient, value in zip(sent, values, strict=True)]

    def __repr__(self) -> str:
        values = ", ".join(show(wire.value) for wire in self.inputs)
        local = ", ".join(map(show, self.gradients(np.ones_like(self.output.value))))
        sent = ", ".join(map(show, self.gradients(self.output.gradient)))
        return (
            f"{self.label}: ({values}) -> {show(self.output.value)}; receives {show(self.output.gradient)}, "
            f"local gradients ({local}), sends ({sent})"
        )


class Circuit:
    """All gates that compute an output, in an order in which each comes after those before it.

    Examples
    --------
    >>> from fusegrad.circuits import Circuit, Wire
    >>> x, y, z = Wire(-2, "x"), Wire(5, "y"), Wire(-4, "z")
    >>> circuit = Circuit((x + y) * z)
    >>> circuit.forward(), circuit.backward()
    (-12.0, {'x': -4.0, 'y': -4.0, 'z': 3.0})
    >>> print(circuit)
    +: (-2, 5) -> 3; receives -4, local gradients (1, 1), sends (-4, -4)
    ×: (3, -4) -> -12; receives 1, local gradients (-4, 3), sends (-4, 3)
    """

    def __init__(self, output: Wire) -> None:
        if not isinstance(output, Wire):
            raise TypeError(f"output: expected a Wire, got {output!r}")
        self.output = output
        self.wires: list[Wire] = []  # inputs of a gate before its output
        todo, seen = [(output, False)], set()
        while todo:  # no recursion: a circuit may be deep
            wire, inputs_are_done = todo.pop()
            if inputs_are_done:
                self.wires.append(wire)
            elif wire not in seen:
                seen.add(wire)
                todo.append((wire, True))
                todo.extend((below, False) for below in reversed(wire.gate.inputs if wire.gate else ()))
        self.gates = [wire.gate for wire in self.wires if wire.gate is not None]

    def forward(self) -> Any:
        """Compute the value of every wire; returns that of the output."""
        for gate in self.gates:
            gate.output.value = gate.value()
        return _plain(self.output.value)

    def backward(self) -> dict[str, Any]:
        """Compute the gradient on every wire; returns those of the named inputs."""
        for wire in self.wires:
            wire.gradient = np.zeros_like(wire.value)
        self.output.gradient = np.ones_like(self.output.value)
        for gate in reversed(self.gates):
            for wire, gradient in zip(gate.inputs, gate.gradients(gate.output.gradient), strict=True):
                wire.gradient = wire.gradient + gradient  # where it forks, they are added
        return {wire.name: _plain(wire.gradient) for wire in self.wires if wire.gate is None and wire.name}

    def __str__(self) -> str:
        return "\n".join(map(repr, self.gates))

    def plot(self, ax: Any = None, *, steps: bool = False) -> Any:
        """Draw it on Axes, and return them. steps: a list of Axes instead, forward, then backward."""
        if steps:
            return [diagrams.draw(self, None, frame) for frame in range(diagrams.n_frames(self))]
        return diagrams.draw(self, ax)

    def _repr_svg_(self) -> str:
        return diagrams.as_svg(self)


def maximum(x: Wire, y: Wire) -> Wire:
    """The wire max(x, y). At a tie the first gets the gradient: the usual formula would give it to both."""
    return Gate("max", x, y).output


def exp(x: Wire) -> Wire:
    """The wire exp(x)."""
    return Gate("exp", x).output


def reciprocal(x: Wire) -> Wire:
    """The wire 1 / x."""
    return Gate("1/x", x).output


def sigmoid(x: Wire) -> Wire:
    """The wire 1 / (1 + exp(-x)), as one gate."""
    return Gate("σ", x).output


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value


def _as_value(value: Any) -> Any:
    return as_floats(value, "value", np.dtype("f8"))[()]  # a number of an array without axes


def _sum_to(gradient: Any, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which a value of this shape was repeated: each of its copies is a branch."""
    extra = tuple(range(np.ndim(gradient) - len(shape)))
    gradient = np.sum(gradient, axis=extra) if extra else gradient
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and np.shape(gradient)[i] > 1)
    return np.asarray(np.sum(gradient, axis=repeated, keepdims=True) if repeated else gradient)[()]
