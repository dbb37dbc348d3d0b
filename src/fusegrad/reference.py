"""Every kernel in plain NumPy, directly from the equations: slow, and the reference of the tests.

Here, a network is a list of dense layers ``(weight, bias, activation)``, with ``bias`` an ``(out, 1)``
array or None; `layers_of` makes it from a `fusegrad.Sequential`. A scale s is a layer whose weight is (n,), of the
diagonal. Shapes are (features, examples).
Everything is computed in the dtype of the arguments.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.validation import Array

#: A name, or a name and its parameter.
Activation = str | tuple[str, float]
DenseLayer = tuple[Array, Array | None, Activation]


def matmul(a: Array, b: Array) -> Array:
    """Return a b."""
    return a @ b


# ---- activations: each function, and its derivative from a = f(z) ----


def identity(z: Array) -> Array:
    """a = z."""
    return z


def sigmoid(z: Array) -> Array:
    """a = 1 / (1 + exp(-z)), computed from exp(-abs z), which cannot overflow."""
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


def leaky_relu(z: Array, slope: float) -> tuple[Array, Array]:
    """z where z > 0, else slope z; and the derivative."""
    return np.where(z > 0, z, slope * z), np.where(z > 0, 1, slope).astype(z.dtype)


def elu(z: Array, alpha: float) -> tuple[Array, Array]:
    """z where z > 0, else alpha (exp(z) - 1); and the derivative."""
    below = alpha * np.expm1(-np.abs(z))
    return np.where(z > 0, z, below), np.where(z > 0, 1, below + alpha)


def selu(z: Array) -> tuple[Array, Array]:
    """Scaled ELU, and the derivative."""
    scale = 1.0507009873554804934193349852946
    a, slope = elu(z, 1.6732632423543772848170429916717)
    return scale * a, scale * slope


def softplus(z: Array) -> tuple[Array, Array]:
    """log(1 + exp(z)), and the derivative."""
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), sigmoid(z)


def silu(z: Array) -> tuple[Array, Array]:
    """z sigmoid(z), and the derivative."""
    return z * sigmoid(z), sigmoid(z) * (1 + z * sigmoid(-z))


def mish(z: Array) -> tuple[Array, Array]:
    """z tanh(softplus(z)), and the derivative."""
    t = np.tanh(softplus(z)[0])
    e = np.exp(-np.abs(z))
    rest = np.where(z > 0, 2 * e * e, 2) / np.where(z > 0, 1 + 2 * e + 2 * e * e, e * (e + 2) + 2)  # 1 - t
    return z * t, t + z * rest * (1 + t) * sigmoid(z)


def gelu(z: Array) -> tuple[Array, Array]:
    """z Phi(z), and the derivative; slow."""
    phi = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[z.dtype])(z)
    return z * phi, phi + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(z: Array) -> tuple[Array, Array]:
    """z (1 + tanh(u)) / 2, u = sqrt(2 / pi) (z + 0.044715 z^3), and the derivative."""
    c = math.sqrt(2 / math.pi)
    u, slope = c * (z + 0.044715 * z**3), c * (1 + 3 * 0.044715 * z**2)
    s = sigmoid(2 * u)
    return z * s, s + 2 * z * s * sigmoid(-2 * u) * slope


#: Activations of z that return the value and the derivative.
FUNCTIONS: dict[str, Any] = {
    function.__name__: function for function in (leaky_relu, elu, selu, softplus, silu, mish, gelu, gelu_tanh)
}


def activate(activation: Activation, z: Array) -> Array:
    """a = f(z)."""
    name, *parameters = (activation,) if isinstance(activation, str) else activation
    return FUNCTIONS[name](z, *parameters)[0] if name in FUNCTIONS else ACTIVATIONS[name](z)


def times_slope(grad_a: Array, z: Array, a: Array, activation: Activation) -> Array:
    """f'(z) * grad_a, of any activation."""
    name, *parameters = (activation,) if isinstance(activation, str) else activation
    if name not in FUNCTIONS:
        return times_derivative(grad_a, a, name)
    slope: Array = FUNCTIONS[name](z, *parameters)[1]
    return grad_a * slope


def philox(counter: Sequence[Array], key: tuple[int, int], rounds: int = 7) -> list[Array]:
    """Philox4x32: four words of 32 bits for each counter of four words, all of dtype uint64.

    Salmon, J. K. et al. (2011). Parallel random numbers: as easy as 1, 2, 3. SC11.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = counter
    first_key, second_key = key
    for _ in range(rounds):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = second >> half ^ b ^ np.uint64(first_key), second & low
        c, d = first >> half ^ d ^ np.uint64(second_key), first & low
        first_key, second_key = (first_key + 0x9E3779B9) % 2**32, (second_key + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def dropout_mask(p: float, seed: int, step: int, layer: int, shape: tuple[int, int]) -> Array:
    """The mask (units, examples) of a layer in one step: 0 or 1 / (1 - p), float64.

    layer: its number among the layers with dropout, from 0; step: the optimizer's ``n_steps``. Philox4x32-7: the key is
    the seed, the counter (example, unit // 8, step, layer); 16 bits of the result decide for each of 8 units.
    """
    n, m = shape
    groups, examples = np.meshgrid(np.arange(-(-n // 8), dtype="u8"), np.arange(m, dtype="u8"), indexing="ij")
    rest = np.full_like(groups, step % 2**32), np.full_like(groups, layer + (step >> 32 << 16))
    words = philox([examples, groups, *rest], (seed % 2**32, seed >> 32))
    bits = np.stack([word >> np.uint64(shift) & np.uint64(0xFFFF) for word in words for shift in (0, 16)], axis=1)
    dropped = min(round(p * 65536), 65535)
    kept = bits.reshape(-1, m)[:n] >= dropped
    mask: Array = kept * (65536 / (65536 - dropped))
    return mask


# ---- one layer ----


def dense_forward(weight: Array, x: Array, bias: Array | None, activation: Activation = "identity") -> Array:
    """a = f(W x + b)."""
    z = weight[:, np.newaxis] * x if weight.ndim == 1 else weight @ x
    if bias is not None:
        z = z + bias
    return activate(activation, z)


def dense_backward(
    weight: Array, x: Array, a: Array, grad_a: Array, activation: str = "identity"
) -> tuple[Array, Array, Array]:
    """The gradients with respect to W, b and x: delta x^T, delta 1 and W^T delta, with delta = f' * grad_a."""
    delta = times_derivative(grad_a, a, activation)
    return delta @ x.T, delta.sum(axis=1, keepdims=True), weight.T @ delta


# ---- losses: the value of each example (m,), and the gradient with respect to the outputs z (n_outputs, m) ----


def mean_squared_error(z: Array, y: Array) -> tuple[Array, Array]:
    """(z - y)^2, summed over outputs."""
    return ((z - y) ** 2).sum(axis=0), 2 * (z - y)


def huber(z: Array, y: Array, delta: float) -> tuple[Array, Array]:
    """r^2 / 2 where abs r <= delta, else delta (abs r - delta / 2), with r = z - y."""
    r = z - y
    values = np.where(np.abs(r) <= delta, r * r / 2, delta * (np.abs(r) - delta / 2))
    return values.sum(axis=0), np.clip(r, -delta, delta)


def quantile(z: Array, y: Array, q: float) -> tuple[Array, Array]:
    """max(q (y - z), (q - 1) (y - z))."""
    d = y - z
    return np.maximum(q * d, (q - 1) * d).sum(axis=0), np.where(d > 0, -q, np.where(d < 0, 1 - q, d))


def poisson(z: Array, y: Array, full: bool = False) -> tuple[Array, Array]:
    """exp(z) - y z, with `full` also y log y - y."""
    values = np.exp(z) - y * z
    if full:
        values = values + y * np.log(np.where(y > 0, y, 1)) - y
    return values.sum(axis=0), np.exp(z) - y


def binary_cross_entropy(z: Array, y: Array) -> tuple[Array, Array]:
    """max(z, 0) - z y + log(1 + exp(-abs z))."""
    e = np.exp(-np.abs(z))
    values = np.maximum(z, 0) - z * y + np.log1p(e)
    return values.sum(axis=0), np.where(z > 0, (1 - y) - e / (1 + e), e / (1 + e) - y)


def softmax(z: Array) -> Array:
    """exp(z_o) / sum_o exp(z_o)."""
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def one_hot(y: Array, n_outputs: int, dtype: Any) -> Array:
    """Class numbers (m,) or (1, m) as probabilities (n_outputs, m); probabilities are returned."""
    if y.ndim == 2 and len(y) == n_outputs > 1:
        return y
    return (np.arange(n_outputs)[:, np.newaxis] == y.reshape(-1)).astype(dtype)


def softmax_cross_entropy(z: Array, y: Array, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """log sum_o exp(z_o) - sum_o y_o z_o, y class numbers or probabilities: -sum_o y_o log softmax(z)_o."""
    y = (1 - label_smoothing) * one_hot(y, len(z), z.dtype) + label_smoothing / len(z)
    top, total = z.max(axis=0), y.sum(axis=0)  # total is 1, except for rounding
    values = total * np.log(np.exp(z - top).sum(axis=0)) + (y * (top - z)).sum(axis=0)
    return values, total * softmax(z) - y


def multiclass_hinge(z: Array, y: Array, margin: float) -> tuple[Array, Array]:
    """sum_{o != c} max(0, z_o - z_c + margin), c the class."""
    right = one_hot(y, len(z), bool)
    margins = np.where(right, 0, z - (z * right).sum(axis=0) + margin)
    active = (margins > 0).astype(z.dtype)
    return np.maximum(margins, 0).sum(axis=0), np.where(right, -active.sum(axis=0), active)


LOSSES: dict[str, Any] = {
    function.__name__: function
    for function in (
        mean_squared_error, huber, quantile, poisson, binary_cross_entropy, softmax_cross_entropy, multiclass_hinge,
    )
}  # fmt: skip


def mean_loss(values: Array, gradient: Array, sample_weight: Array | None = None) -> tuple[float, Array]:
    """The loss of a batch, sum_i w_i l_i / sum_i w_i, and its gradient."""
    w = np.ones(len(values), values.dtype) if sample_weight is None else sample_weight.astype(values.dtype)
    return float((w * values).sum() / w.sum()), gradient * (w / w.sum())


# ---- a network ----


def layers_of(net: Any, dtype: Any = None) -> list[DenseLayer]:
    """The dense layers of a network, as copies in `dtype`."""
    named = net.named_parameters()
    dtype = net.dtype if dtype is None else dtype
    layers: list[DenseLayer] = []
    for i, layer in enumerate(net.dense_layers, start=1):
        if layer.scale is not None:
            layers.append((named[f"s{i}"].astype(dtype).ravel(), None, "identity"))
        bias = named[f"b{i}"].astype(dtype) if layer.bias is not None else None
        has_parameter = layer.activation in ("leaky_relu", "elu")
        activation = (layer.activation, layer.parameter) if has_parameter else layer.activation
        layers.append((named[f"W{i}"].astype(dtype), bias, activation))
    return layers


#: For each layer a mask (n_out, m) of dropout, or None.
Masks = Sequence[Array | None] | None


def masks_of(net: Any, step: int, n_examples: int) -> list[Array | None]:
    """The masks of all layers of a network in one step."""
    masks: list[Array | None] = []
    for layer in net.dense_layers:
        if layer.scale is not None:
            masks.append(None)
        number = sum(mask is not None for mask in masks)
        shape = (layer.n_out, n_examples)
        masks.append(dropout_mask(layer.dropout, net.dropout_seed, step, number, shape) if layer.dropped else None)
    return masks


def activations(layers: Sequence[DenseLayer], X: Array, masks: Masks = None) -> list[Array]:
    """All of x1 = X, x_{l+1} = f_l(W_l x_l + b_l), times its mask."""
    x = [X]
    for (weight, bias, activation), mask in zip(layers, masks or [None] * len(layers), strict=True):
        a = dense_forward(weight, x[-1], bias, activation)
        x.append(a if mask is None else a * mask.astype(a.dtype))
    return x


def forward(layers: Sequence[DenseLayer], X: Array) -> Array:
    """The prediction (n_outputs, m)."""
    return activations(layers, X)[-1]


class Objective(NamedTuple):
    """What is minimised: a loss by its name and arguments, the weights of the examples, and the L2 penalty."""

    loss: str = "mean_squared_error"
    arguments: Mapping[str, Any] = MappingProxyType({})
    sample_weight: Array | None = None
    l2: float = 0.0


#: The mean squared error.
PLAIN = Objective()


def objective_of(net: Any, sample_weight: Array | None = None) -> Objective:
    """The objective of a network."""
    return Objective(net.loss_function.name, net.loss_function.arguments, sample_weight, net.l2)


def loss(layers: Sequence[DenseLayer], X: Array, y: Array, objective: Objective = PLAIN) -> float:
    """L = sum_i w_i l_i / sum_i w_i + (l2 / 2) sum W^2."""
    return gradients(layers, X, y, objective)[0]


def gradients(
    layers: Sequence[DenseLayer], X: Array, y: Array, objective: Objective = PLAIN, masks: Masks = None
) -> tuple[float, list[tuple[Array, Array | None]]]:
    """The loss, and delta x^T + l2 W and delta 1 of each layer."""
    x = activations(layers, X, masks)
    value, delta = deltas(layers, x, y, objective, masks)
    l2 = objective.l2
    value += l2 / 2 * sum(float((weight.astype("float64") ** 2).sum()) for weight, _, _ in layers if weight.ndim == 2)
    return value, [
        (
            (d * below).sum(axis=1) if weight.ndim == 1 else d @ below.T + l2 * weight,
            None if bias is None else d.sum(axis=1, keepdims=True),
        )
        for d, below, (weight, bias, _) in zip(delta, x[:-1], layers, strict=True)
    ]


def deltas(
    layers: Sequence[DenseLayer], x: list[Array], y: Array, objective: Objective = PLAIN, masks: Masks = None
) -> tuple[float, list[Array]]:
    """delta_L = f_L' * dL/dz; delta_{l-1} = f_{l-1}' * W_l^T delta_l; f' times the mask."""
    values, gradient = LOSSES[objective.loss](x[-1], y, **objective.arguments)
    value, gradient = mean_loss(values, gradient, objective.sample_weight)
    delta: list[Array] = []
    for i in reversed(range(len(layers))):
        weight, bias, activation = layers[i]
        z = dense_forward(weight, x[i], bias)
        mask = None if masks is None else masks[i]
        grad_a = gradient if mask is None else gradient * mask.astype(z.dtype)
        delta.insert(0, times_slope(grad_a, z, activate(activation, z), activation))
        gradient = _transposed(weight, delta[0])
    return value, delta


def loss_and_gradient(
    layers: Sequence[DenseLayer], X: Array, y: Array, objective: Objective = PLAIN, masks: Masks = None
) -> tuple[float, Array]:
    """The loss and the flat gradient, W1 | b1 | W2 | b2 | ..."""
    value, of_layers = gradients(layers, X, y, objective, masks)
    return value, np.concatenate([part.ravel() for pair in of_layers for part in pair if part is not None])


def input_gradient(layers: Sequence[DenseLayer], X: Array, y: Array, objective: Objective = PLAIN) -> Array:
    """The gradient of the loss with respect to X, W_1^T delta_1."""
    _, delta = deltas(layers, activations(layers, X), y, objective)
    return _transposed(layers[0][0], delta[0])


def _transposed(weight: Array, delta: Array) -> Array:
    """W^T delta; W is the diagonal of a scale or a matrix."""
    result: Array = weight[:, np.newaxis] * delta if weight.ndim == 1 else weight.T @ delta
    return result


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
