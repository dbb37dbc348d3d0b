"""What other programs run: a network as C source (`c`), or as a graph of ONNX operators (`onnx`).

Each of the two has one table, from the kernels' names of the activations to its own language. What both take of a
network is here: its dense layers in order, each scale folded into the weight behind it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from fusegrad._engine.plan import Dense
from fusegrad._engine.validation import Array

#: What follows the last layer: nothing, or the function of `Module.probabilities`.
Link = Literal["identity", "sigmoid", "softmax"]


class ExportedLayer(NamedTuple):
    """a = f(W x + b)."""

    weight: Array  # (n_out, n_in)
    bias: Array | None  # (n_out,)
    activation: str  # its name in the kernels
    parameter: float  # of the activation; 0 if it has none

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The weight, and the bias if there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def __str__(self) -> str:
        parameter = f" ({self.parameter!r})" if self.parameter else ""
        return f"{self.activation}{parameter}{', no bias' if self.bias is None else ''}"


def exported_layers(layers: Sequence[Dense], parameters: Mapping[str, Array]) -> list[ExportedLayer]:
    """The layers of a network, from its `dense_layers` and `named_parameters`. W (s * x) is (W diag(s)) x."""
    exported = []
    for i, layer in enumerate(layers, start=1):
        weight = parameters[f"W{i}"] if layer.scale is None else parameters[f"W{i}"] * parameters[f"s{i}"].T
        bias = None if layer.bias is None else parameters[f"b{i}"].ravel()
        exported.append(ExportedLayer(weight, bias, layer.activation, layer.parameter))
    return exported


def version() -> str:
    """The version of fusegrad, for the head of a file."""
    from importlib import metadata

    return metadata.version("fusegrad")
