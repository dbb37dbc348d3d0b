"""Every kernel in plain NumPy, directly from the equations: slow, and the reference of the tests.

Here, a network is a list of dense layers ``(weight, bias, activation)``, with ``bias`` an ``(out, 1)``
array or None; `layers_of` makes it from a `fusegrad.Sequential`. Shapes are (features, examples).
Everything is computed in the dtype of the arguments.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusegrad._engine.validation import Array

DenseLayer = tuple[Array, Array | None, str]


def matmul(a: Array, b: Array) -> Array:
    """Return a b."""
    return a @ b


# ---- activations: each function, and its derivative from a = f(z) ----


def identity(z: Array) -> Array:
    """a = z."""
    return z


def sigmoid(z: Array) -> Array:
    """a = 1 / (1 + exp(-z)), computed from exp(-|z|), which cannot overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def relu(z: Array) -> Array:
    """a = max(0, z)."""
    return np.maximum(z, 0)


def tanh(z: Array) -> Array:
    """a = tanh(z)."""
    return np.tanh(z)


ACTIVATIONS = {"identity": identity, "sigmoid": sigmoid, "relu": relu, "tanh": tanh}


def times_derivative(grad_a: Array, a: Array, activation: str) -> Array:
    """f'(z) * grad_a, with f'(z) computed from a = f(z)."""
    match activation:
        case "identity":
            return grad_a
        case "sigmoid":
            return grad_a * a * (1 - a)
        case "relu":
            return np.where(a <= 0, 0, grad_a)  # so that a NaN in a or in grad_a is not lost
        case "tanh":
            return grad_a * (1 - a * a)
    raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")


# ---- one layer ----


def dense_forward(weight: Array, x: Array, bias: Array | None, activation: str = "identity") -> Array:
    """a = f(W x + b)."""
    z = weight @ x
    if bias is not None:
        z = z + bias
    return ACTIVATIONS[activation](z)


def dense_backward(
    weight: Array, x: Array, a: Array, grad_a: Array, activation: str = "identity"
) -> tuple[Array, Array, Array]:
    """The gradients with respect to W, b and x: delta x^T, delta 1 and W^T delta, with delta = f' * grad_a."""
    delta = times_derivative(grad_a, a, activation)
    return delta @ x.T, delta.sum(axis=1, keepdims=True), weight.T @ delta


# ---- a network ----


def layers_of(net: Any, dtype: Any = None) -> list[DenseLayer]:
    """The dense layers of a network, as copies in `dtype`."""
    named = net.named_parameters()
    dtype = net.dtype if dtype is None else dtype
    layers: list[DenseLayer] = []
    for i, layer in enumerate(net.dense_layers, start=1):
        bias = named[f"b{i}"].astype(dtype) if layer.bias is not None else None
        layers.append((named[f"W{i}"].astype(dtype), bias, layer.activation))
    return layers


def activations(layers: Sequence[DenseLayer], X: Array) -> list[Array]:
    """All of x1 = X, x_{l+1} = f_l(W_l x_l + b_l)."""
    x = [X]
    for weight, bias, activation in layers:
        x.append(dense_forward(weight, x[-1], bias, activation))
    return x


def forward(layers: Sequence[DenseLayer], X: Array) -> Array:
    """The prediction (n_outputs, m)."""
    return activations(layers, X)[-1]


def loss(layers: Sequence[DenseLayer], X: Array, y: Array) -> float:
    """L = |prediction - y|^2 / m."""
    difference = forward(layers, X) - y
    return float((difference * difference).sum() / X.shape[1])


def gradients(layers: Sequence[DenseLayer], X: Array, y: Array) -> tuple[float, list[tuple[Array, Array | None]]]:
    """The loss, and delta x^T and delta 1 of each layer."""
    x = activations(layers, X)
    value, delta = _deltas(layers, x, y)
    return value, [
        (d @ below.T, None if bias is None else d.sum(axis=1, keepdims=True))
        for d, below, (_, bias, _) in zip(delta, x[:-1], layers, strict=True)
    ]


def _deltas(layers: Sequence[DenseLayer], x: list[Array], y: Array) -> tuple[float, list[Array]]:
    """delta_L = f_L' * (2/m) (prediction - y); delta_{l-1} = f_{l-1}' * W_l^T delta_l."""
    m = y.shape[1]
    difference = x[-1] - y
    delta = [times_derivative(2 / m * difference, x[-1], layers[-1][2])]
    for i in reversed(range(1, len(layers))):
        delta.insert(0, times_derivative(layers[i][0].T @ delta[0], x[i], layers[i - 1][2]))
    return float((difference * difference).sum() / m), delta


def loss_and_gradient(layers: Sequence[DenseLayer], X: Array, y: Array) -> tuple[float, Array]:
    """The loss and the flat gradient, W1 | b1 | W2 | b2 | ..."""
    value, of_layers = gradients(layers, X, y)
    return value, np.concatenate([part.ravel() for pair in of_layers for part in pair if part is not None])


def input_gradient(layers: Sequence[DenseLayer], X: Array, y: Array) -> Array:
    """The gradient of the loss with respect to X, W_1^T delta_1."""
    _, delta = _deltas(layers, activations(layers, X), y)
    return layers[0][0].T @ delta[0]


# ---- update rules: (parameters, gradient, states) -> (parameters, states) ----


def sgd(w: Array, g: Array, lr: float) -> Array:
    """W -= lr g."""
    return w - lr * g


def momentum(w: Array, g: Array, v: Array, lr: float, mu: float) -> tuple[Array, Array]:
    """Return W and v: v = mu v - lr g; W += v. With g taken at W + mu v it is Nesterov's rule."""
    v = mu * v - lr * g
    return w + v, v


def adagrad(w: Array, g: Array, c: Array, lr: float, eps: float) -> tuple[Array, Array]:
    """Return W and c: c += g^2; W -= lr g / (sqrt c + eps)."""
    c = c + g**2
    return w - lr * g / (np.sqrt(c) + eps), c


def rmsprop(w: Array, g: Array, c: Array, lr: float, decay: float, eps: float) -> tuple[Array, Array]:
    """Return W and c: c = decay c + (1 - decay) g^2; W -= lr g / (sqrt c + eps)."""
    c = decay * c + (1 - decay) * g**2
    return w - lr * g / (np.sqrt(c) + eps), c


def adam(  # the arguments are the symbols of the equation
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, betas: tuple[float, float], eps: float,
    bias_correction: bool = True,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return W, m and v: m and v average g and g^2, corrected for their start at t = 1; W -= lr m / (sqrt v + eps)."""
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    if bias_correction:
        return w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps), m, v
    return w - lr * m / (np.sqrt(v) + eps), m, v
