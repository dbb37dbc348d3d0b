"""A network as a graph of ONNX operators, opset 18: a Gemm for each layer, its activation, and the probabilities.

In float32 an activation is one operator where ONNX has one. In float64 most are composed of simpler operators: the
constants of Elu, LeakyRelu and Selu are float32, onnxruntime's Softplus overflows, and it has no Erf. A composition is
exact but for rounding. It takes onnxruntime a few microseconds more for each call, GELU 20.

Rejected: casts to float32 and back, which lose the digits for which one chooses float64; functions of the model, which
fewer runtimes can read than operators.
"""

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import Any

import numpy as np

from fusegrad.exports import ExportedLayer, Link

#: onnxruntime 1.15 and later read them.
OPSET, IR_VERSION = 18, 9

#: Of (1 + 2 t) erfcx(t), in q = (t - 4) / (t + 4), lowest first: docs/polynomials.py.
ERFCX = (
    1.2329951186255526, -0.1396211168405629, 0.015379652102619764, 0.0680970542547366, -0.10103906603630115,
    0.09373283499682393, -0.06633036581256387, 0.037167515561851286, -0.01619773404842494, 0.005031969763577605,
    -0.0007577734048554408, -0.00019925556129681417, 0.00015062247152997085, -2.4402941433831355e-05,
    -1.1225282891140936e-05, 5.717295174729748e-06, 3.01956114329381e-07, -8.342404234022169e-07, 6.238937719268402e-08,
    1.1456141274046102e-07, -7.778990401860493e-09, -1.3386324695573058e-08, -1.7176315503424704e-09,
)  # fmt: skip


class Graph:
    """Nodes and constants. A call with an operator and its inputs adds a node and returns the name of its output."""

    def __init__(self, onnx: Any, dtype: "np.dtype[Any]") -> None:
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.dtype = dtype
        self.type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:  # noqa: D102  # the class says it
        names = [value if isinstance(value, str) else self.constant(f"{value!r}", value) for value in inputs]
        output = f"{operator}_{len(self.nodes) + 1}"
        self.nodes.append(self.helper.make_node(operator, names, [output], output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """The name of a constant tensor; one of each name."""
        if name not in self.constants:
            self.constants[name] = self.numpy_helper.from_array(np.array(value, self.dtype, order="C"), name)
        return name


# ---- activations: the operators of a graph g for f(z), with a parameter p --------------------------------------------


def _elu(g: Graph, z: str, p: float) -> str:
    """With exp(z) - 1 = 2 t / (1 - t), t = tanh(z / 2), which does not cancel."""
    t = g("Tanh", g("Mul", 0.5, z))
    return g("Where", g("Greater", z, 0.0), z, g("Mul", 2 * p, g("Div", t, g("Sub", 1.0, t))))


def _selu(g: Graph, z: str, p: float) -> str:
    return g("Mul", 1.0507009873554804934, _elu(g, z, 1.6732632423543772848))


def _softplus(g: Graph, z: str, p: float) -> str:
    """max(z, 0) + log(u) + (e - (u - 1)) / u, e = exp(-abs z), u = 1 + e: what u has lost of e is added."""
    e = _exp_minus_abs(g, z)
    u = g("Add", 1.0, e)
    lost = g("Div", g("Sub", e, g("Sub", u, 1.0)), u)
    return g("Add", g("Relu", z), g("Add", g("Log", u), lost))


def _mish(g: Graph, z: str, p: float) -> str:
    """Z n / (n + d) with n = 1 + 2 e and d = 2 e^2 where z > 0, else n = e (e + 2) and d = 2."""
    e, positive = _exp_minus_abs(g, z), g("Greater", z, 0.0)
    n = g("Where", positive, g("Add", 1.0, g("Mul", 2.0, e)), g("Mul", e, g("Add", e, 2.0)))
    d = g("Where", positive, g("Mul", 2.0, g("Mul", e, e)), 2.0)
    return g("Mul", z, g("Div", n, g("Add", n, d)))


def _gelu(g: Graph, z: str, p: float) -> str:
    """Z Phi(z), with Phi(-x) = exp(-x^2 / 2) erfcx(x / sqrt 2) / 2; beyond x = 40 that is 0."""
    x = g("Min", g("Abs", z), 40.0)
    t = g("Mul", sqrt(0.5), x)
    q = g("Div", g("Sub", t, 4.0), g("Add", t, 4.0))
    polynomial: str | float = ERFCX[-1]
    for coefficient in reversed(ERFCX[:-1]):
        polynomial = g("Add", coefficient, g("Mul", polynomial, q))
    erfcx = g("Div", polynomial, g("Add", 1.0, g("Mul", 2.0, t)))
    tail = g("Mul", g("Mul", 0.5, g("Exp", g("Mul", -0.5, g("Mul", x, x)))), erfcx)
    return g("Mul", z, g("Where", g("Greater", z, 0.0), g("Sub", 1.0, tail), tail))


def _gelu_erf(g: Graph, z: str, p: float) -> str:
    return g("Mul", z, g("Mul", 0.5, g("Add", 1.0, g("Erf", g("Mul", sqrt(0.5), z)))))


def _gelu_tanh(g: Graph, z: str, p: float) -> str:
    cubic = g("Mul", z, g("Add", 1.0, g("Mul", 0.044715, g("Mul", z, z))))
    return g("Mul", z, g("Sigmoid", g("Mul", 2 * sqrt(2 / pi), cubic)))


def _exp_minus_abs(g: Graph, z: str) -> str:
    return g("Exp", g("Neg", g("Abs", z)))


ACTIVATIONS: dict[str, Callable[[Graph, str, float], str]] = {
    "identity": lambda g, z, p: z,
    "sigmoid": lambda g, z, p: g("Sigmoid", z),
    "relu": lambda g, z, p: g("Relu", z),
    "tanh": lambda g, z, p: g("Tanh", z),
    "leaky_relu": lambda g, z, p: g("Where", g("Greater", z, 0.0), z, g("Mul", p, z)),
    "elu": _elu,
    "selu": _selu,
    "softplus": _softplus,
    "silu": lambda g, z, p: g("Mul", z, g("Sigmoid", z)),
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
#: In float32, in place of those.
ACTIVATIONS_FLOAT32 = ACTIVATIONS | {
    "leaky_relu": lambda g, z, p: g("LeakyRelu", z, alpha=p),
    "elu": lambda g, z, p: g("Elu", z, alpha=p),
    "selu": lambda g, z, p: g("Selu", z),
    "softplus": lambda g, z, p: g("Softplus", z),
    "mish": lambda g, z, p: g("Mish", z),
    "gelu": _gelu_erf,
}
LINKS: dict[Link, Callable[[Graph, str], str]] = {
    "identity": lambda g, z: z,
    "sigmoid": lambda g, z: g("Sigmoid", z),
    "softmax": lambda g, z: g("Softmax", z, axis=1),
}


def onnx_model(layers: Sequence[ExportedLayer], link: Link, dtype: "np.dtype[Any]", *, version: str) -> bytes:
    """The bytes of a model."""
    try:
        import onnx
    except ImportError:
        raise ImportError('export_onnx writes with onnx: pip install "fusegrad[onnx]"') from None
    graph = Graph(onnx, dtype)
    activations = ACTIVATIONS_FLOAT32 if dtype == np.float32 else ACTIVATIONS
    a = "X"
    for i, layer in enumerate(layers, start=1):
        arrays = [graph.constant(f"W{i}", layer.weight)]
        if layer.bias is not None:
            arrays.append(graph.constant(f"b{i}", layer.bias))
        z = graph("Gemm", a, *arrays, transB=1)
        a = activations[layer.activation](graph, z, layer.parameter)
    name = "prediction" if link == "identity" else "probabilities"
    LINKS[link](graph, a)
    graph.nodes[-1].output[0] = name  # the last node has computed it
    n_features, n_outputs = layers[0].weight.shape[1], len(layers[-1].weight)
    value = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "fusegrad",
            [value("X", graph.type, ["examples", n_features])],
            [value(name, graph.type, ["examples", n_outputs])],
            list(graph.constants.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fusegrad",
        producer_version=version,
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
