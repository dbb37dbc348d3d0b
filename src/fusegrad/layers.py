"""The layers. They are only descriptions: the parameters are held by a network."""

import json
from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar

from fusegrad._engine.files import parse_json
from fusegrad._engine.validation import as_count, as_flag


class Layer:
    """The base of the layers of a `fusegrad.Sequential`: `Linear` and the activations."""

    __slots__ = ()


class Linear(Layer):
    """A dense layer, z = W x + b.

    Shapes, for m examples: x ``(in_features, m)``, W ``(out_features, in_features)``,
    b ``(out_features, 1)``, z ``(out_features, m)``.

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool, default True
        Whether the layer has a bias b.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer, or less than 1.

    Notes
    -----
    A layer is a description and may be part of several networks; each network holds its own parameters. A layer
    and the activation after it are one fused kernel, `fusegrad.kernels.dense_forward`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.Linear(13, 50)
    Linear(13, 50)
    """

    __slots__ = ("_bias", "_in_features", "_out_features")

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        self._in_features = as_count(in_features, "in_features")
        self._out_features = as_count(out_features, "out_features")
        self._bias = as_flag(bias, "bias")

    # Read-only, since networks depend on them.

    @property
    def in_features(self) -> int:
        """The number of inputs of an example."""
        return self._in_features

    @property
    def out_features(self) -> int:
        """The number of outputs of an example."""
        return self._out_features

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias b."""
        return self._bias

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}{'' if self.bias else ', bias=False'})"


class Activation(Layer):
    """An elementwise function; `name` is its name in the kernels."""

    __slots__ = ()
    name: ClassVar[str]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Identity(Activation):
    """The identity, a = z, of any shape: the output of a linear layer is its z.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.Sequential(fg.Linear(3, 1), fg.Identity()).n_outputs
    1
    """

    __slots__ = ()
    name = "identity"


class Sigmoid(Activation):
    """The logistic function, a = 1 / (1 + exp(-z)), with derivative a (1 - a).

    Element by element, z and a ``(n_outputs, m)``. See `fusegrad.kernels.sigmoid` for its accuracy and source.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.Sigmoid(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "sigmoid"


class ReLU(Activation):
    """The rectifier, a = max(0, z), with derivative 1 where a > 0 and 0 elsewhere, also at 0.

    Element by element, z and a ``(n_outputs, m)``; NaN propagates.

    References
    ----------
    Nair, V. and Hinton, G. E. (2010). Rectified linear units improve restricted Boltzmann machines. ICML.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.ReLU(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "relu"


class Tanh(Activation):
    """The hyperbolic tangent, a = tanh(z), with derivative 1 - a^2.

    Element by element, z and a ``(n_outputs, m)``. As accurate as `fusegrad.kernels.sigmoid`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.Tanh(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "tanh"


ACTIVATIONS: dict[str, type[Activation]] = {layer.name: layer for layer in (Identity, Sigmoid, ReLU, Tanh)}


def shapes_of(layers: tuple[Layer, ...]) -> list[tuple[int, int, str, bool]]:
    """(n_in, n_out, activation, bias) of each dense layer: a Linear and the activation after it."""
    shapes: list[tuple[int, int, str, bool]] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, Linear):
            if shapes and layer.in_features != shapes[-1][1]:
                raise ValueError(
                    f"layers[{i}]: expected {shapes[-1][1]} in_features, the outputs of the layer before, got {layer!r}"
                )
            shapes.append((layer.in_features, layer.out_features, "identity", layer.bias))
        elif not isinstance(layer, Activation):
            raise TypeError(f"layers[{i}]: expected a fusegrad layer such as Linear or Sigmoid, got {layer!r}")
        elif not shapes:
            raise ValueError(f"layers[{i}]: expected a Linear first, got {layer!r}")
        elif not isinstance(layer, Identity):
            n_in, n_out, activation, bias = shapes[-1]
            if activation != "identity":
                raise ValueError(f"layers[{i}]: expected a Linear between two activations, got {layer!r}")
            shapes[-1] = (n_in, n_out, layer.name, bias)
    if not shapes:
        raise ValueError("layers: expected at least one Linear, got none")
    return shapes


def describe_layers(layers: Sequence[Layer]) -> str:
    """The layers as JSON: ``[["linear", 13, 50, true], ["sigmoid"], ...]``."""
    described: list[list[Any]] = []
    for layer in layers:
        if isinstance(layer, Linear):
            described.append(["linear", layer.in_features, layer.out_features, layer.bias])
        elif isinstance(layer, Activation):
            described.append([layer.name])
    return json.dumps(described)


def build_layers(description: str) -> list[Layer]:
    """The layers of a description by `describe_layers`."""
    layers: list[Layer] = []
    for name, *arguments in parse_json(description):
        if name == "linear":
            n_in, n_out, bias = arguments
            layers.append(Linear(n_in, n_out, bias=bias))
        else:
            layers.append(ACTIVATIONS[name]())
    return layers


#: The values of a network's `init`.
INITS = ("default", "glorot_uniform", "he_uniform", "torch")


def initial_bounds(init: str, activation: str, n_in: int, n_out: int) -> tuple[float, float]:
    """The bounds of the uniform distributions that a dense layer's weights and biases are drawn from.

    The default is the best one for each activation: see docs/initial-weights.md.
    """
    torch, he = 1 / sqrt(n_in), sqrt(6 / n_in)
    match init, activation:
        case "glorot_uniform", _:
            return sqrt(6 / (n_in + n_out)), 0.0
        case "he_uniform", _:
            return he, 0.0
        case "default", "identity":
            return torch, 0.0
        case "default", "sigmoid":
            return he, torch
    return torch, torch
