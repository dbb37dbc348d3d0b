"""The layers. They are only descriptions: the parameters are held by a network."""

import json
from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar

from fusegrad._engine.files import parse_json
from fusegrad._engine.plan import Shape
from fusegrad._engine.validation import as_count, as_flag, as_number


class Layer:
    """The base of the layers of a `fusegrad.Sequential`: `Linear`, the activations, `Dropout`, `Scale`."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("forward", "backward", "__call__"):
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name}: expected a layer without it: compiled code computes layers")


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


class Scale(Layer):
    """A factor for each feature, a = s * x, before a `Linear`. All s are 1 at first; they are trained.

    Shapes, for m examples: x and a ``(n_features, m)``, s ``(n_features, 1)``.

    Parameters
    ----------
    n_features : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer, or less than 1.

    Notes
    -----
    W (s * x) = (W diag(s)) x: a step computes W diag(s) once, and no example is scaled. The gradients of W and s are
    exact. In front of the first `Linear`, with a larger learning rate (``learning_rate_factors={"s": 6.0}``), the
    network learns which features matter. `l2` and weight decay do not apply to s.

    References
    ----------
    Holzmueller, D., Grinsztajn, L. and Steinwart, I. (2024). Better by default: strong pre-tuned MLPs and boosted trees
    on tabular data. NeurIPS.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Scale(3), fg.Linear(3, 8), fg.ReLU(), fg.Linear(8, 1), rng=0)
    >>> net.named_parameters()["s1"].ravel()
    array([1., 1., 1.], dtype=float32)
    """

    __slots__ = ("_n_features",)

    def __init__(self, n_features: int) -> None:
        self._n_features = as_count(n_features, "n_features")

    @property
    def n_features(self) -> int:
        """The number of features."""
        return self._n_features

    def __repr__(self) -> str:
        return f"Scale({self.n_features})"


class Activation(Layer):
    """An elementwise function; `name` is its name in the kernels."""

    __slots__ = ()
    name: ClassVar[str]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


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


class LeakyReLU(Activation):
    """The leaky rectifier, a = z where z > 0, else slope z; its derivative is 1 or the slope.

    Element by element, z and a ``(n_outputs, m)``; NaN propagates.

    Parameters
    ----------
    slope : float, default 0.01
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If `slope` is not such a number.

    References
    ----------
    Maas, A. L., Hannun, A. Y. and Ng, A. Y. (2013). Rectifier nonlinearities improve neural network acoustic models.
    ICML.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.LeakyReLU(0.1), fg.Linear(8, 1))
    """

    __slots__ = ("_slope",)
    name = "leaky_relu"

    def __init__(self, slope: float = 0.01) -> None:
        self._slope = as_number(slope, "slope", least=0.0)

    @property
    def slope(self) -> float:
        """The derivative for negative z."""
        return self._slope

    @property
    def arguments(self) -> dict[str, float]:
        """The arguments of the constructor."""
        return {"slope": self._slope}


class ELU(Activation):
    """The exponential linear unit, a = z where z > 0, else alpha (exp(z) - 1); its derivative is 1 or a + alpha.

    Element by element, z and a ``(n_outputs, m)``; NaN propagates.

    Parameters
    ----------
    alpha : float, default 1.0
        More than 0.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not such a number.

    References
    ----------
    Clevert, D.-A., Unterthiner, T. and Hochreiter, S. (2016). Fast and accurate deep network learning by exponential
    linear units. ICLR.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.ELU(), fg.Linear(8, 1))
    """

    __slots__ = ("_alpha",)
    name = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self._alpha = as_number(alpha, "alpha", above=0.0)

    @property
    def alpha(self) -> float:
        """Minus the limit for very negative z."""
        return self._alpha

    @property
    def arguments(self) -> dict[str, float]:
        """The arguments of the constructor."""
        return {"alpha": self._alpha}


class SELU(Activation):
    """The scaled exponential linear unit: 1.0507 times `ELU` with alpha 1.6733. It keeps mean and variance.

    Element by element, z and a ``(n_outputs, m)``; NaN propagates. The default initial weights have variance 1 / n.

    References
    ----------
    Klambauer, G. et al. (2017). Self-normalizing neural networks. NeurIPS.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.SELU(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "selu"


class Softplus(Activation):
    """The smooth rectifier, a = log(1 + exp(z)), with derivative sigmoid(z) = 1 - exp(-a).

    Element by element, z and a ``(n_outputs, m)``; nothing overflows, and NaN propagates.

    References
    ----------
    Dugas, C. et al. (2001). Incorporating second-order functional knowledge for better option pricing. NIPS.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.Softplus(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "softplus"


class SiLU(Activation):
    """The sigmoid linear unit (swish), a = z sigmoid(z).

    Element by element, z and a ``(n_outputs, m)``. The derivative needs z: steps store it beside a.

    References
    ----------
    Elfwing, S., Uchibe, E. and Doya, K. (2018). Sigmoid-weighted linear units. Neural Networks 107.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.SiLU(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "silu"


class Mish(Activation):
    """a = z tanh(log(1 + exp(z))).

    Element by element, z and a ``(n_outputs, m)``. The derivative needs z: steps store it beside a.

    References
    ----------
    Misra, D. (2020). Mish: a self regularized non-monotonic activation function. BMVC.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.Mish(), fg.Linear(8, 1))
    """

    __slots__ = ()
    name = "mish"


class GELU(Activation):
    """The Gaussian error linear unit, a = z Phi(z), with the cumulative normal distribution Phi; exact by default.

    Element by element, z and a ``(n_outputs, m)``. The derivative needs z: steps store it beside a.

    Parameters
    ----------
    approximate : {"none", "tanh"}, default "none"
        "tanh": z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2, as some networks were trained with.

    Raises
    ------
    TypeError, ValueError
        If it is neither of these.

    References
    ----------
    Hendrycks, D. and Gimpel, K. (2016). Gaussian error linear units. arXiv:1606.08415.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.GELU(), fg.Linear(8, 1))
    """

    __slots__ = ("_approximate",)

    def __init__(self, approximate: str = "none") -> None:
        if not isinstance(approximate, str):
            raise TypeError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
        self._approximate = approximate

    @property
    def name(self) -> str:  # type: ignore[override]  # of the class everywhere else; here of the argument
        """The name of the function in the kernels."""
        return "gelu" if self._approximate == "none" else "gelu_tanh"

    @property
    def approximate(self) -> str:
        """Which of the two functions."""
        return self._approximate

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {} if self._approximate == "none" else {"approximate": self._approximate}


class Dropout(Layer):
    """In training, each activation of the layer before it is 0 with probability p, else multiplied by 1 / (1 - p).

    Elsewhere it does nothing: neither in predictions nor in losses and gradients that are no training step's. Any
    shape; it is after an activation, or after a `Linear` without one.

    Parameters
    ----------
    p : float, default 0.5
        In [0, 1); rounded to a multiple of 2^-16.

    Raises
    ------
    TypeError, ValueError
        If `p` is not such a number.

    Notes
    -----
    The masks are a function of the network's ``dropout_seed``, which its `rng` draws after the weights, of the step
    (the optimizer's ``n_steps``), of the layer, of the example's place in its batch, and of the unit. So they are the
    same on any number of threads and after a resume. `fusegrad.reference.dropout_mask` returns them.
    ``loss_and_gradient(..., training_step=t)`` is the gradient with those of step t.

    References
    ----------
    Srivastava, N. et al. (2014). Dropout: a simple way to prevent neural networks from overfitting. JMLR 15.
    Salmon, J. K. et al. (2011). Parallel random numbers: as easy as 1, 2, 3. SC11. (Philox4x32-7)

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(3, 8), fg.ReLU(), fg.Dropout(0.1), fg.Linear(8, 1), rng=0)
    """

    __slots__ = ("_p",)

    def __init__(self, p: float = 0.5) -> None:
        self._p = as_number(p, "p", least=0.0, below=1.0)

    @property
    def p(self) -> float:
        """The probability that an activation is 0."""
        return self._p

    def __repr__(self) -> str:
        return f"Dropout({self._p!r})"


#: The activations that are compiled into other loops; `fusegrad.kernels` has them as functions.
ACTIVATIONS: dict[str, type[Activation]] = {layer.name: layer for layer in (Identity, Sigmoid, ReLU, Tanh)}
#: How a file names each activation.
BY_NAME: dict[str, type[Activation]] = {
    **ACTIVATIONS,
    **{layer.name: layer for layer in (LeakyReLU, ELU, SELU, Softplus, SiLU, Mish)},
    "gelu": GELU,
}


def shapes_of(layers: tuple[Layer, ...]) -> list[Shape]:
    """The shape of each dense layer: the scale before a Linear, the Linear, the activation and the dropout after it."""
    shapes: list[Shape] = []
    scaled, width = False, 0  # of the outputs of the layer before
    for i, layer in enumerate(layers):
        if isinstance(layer, (Linear, Scale)):
            n_in = layer.in_features if isinstance(layer, Linear) else layer.n_features
            wanted = width or n_in
            width = layer.out_features if isinstance(layer, Linear) else n_in
            if n_in != wanted:
                name = "in_features" if isinstance(layer, Linear) else "n_features"
                raise ValueError(
                    f"layers[{i}]: expected {wanted} {name}, the outputs of the layer before, got {layer!r}"
                )
        if isinstance(layer, Linear):
            shapes.append(Shape(n_in, layer.out_features, "identity", layer.bias, scaled=scaled))
            scaled = False
        elif scaled:
            raise ValueError(f"layers[{i}]: expected a Linear after a Scale, got {layer!r}")
        elif isinstance(layer, Scale):
            scaled = True
        elif not isinstance(layer, (Activation, Dropout)):
            raise TypeError(f"layers[{i}]: expected a fusegrad layer such as Linear or Sigmoid, got {layer!r}")
        elif not shapes:
            raise ValueError(f"layers[{i}]: expected a Linear first, got {layer!r}")
        elif shapes[-1].dropout and not isinstance(layer, Identity):
            raise ValueError(
                f"layers[{i}]: expected a Linear after a Dropout, got {layer!r}; an activation goes before it"
            )
        elif isinstance(layer, Dropout):
            shapes[-1] = shapes[-1]._replace(dropout=layer.p)
        elif not isinstance(layer, Identity):
            if shapes[-1].activation != "identity":
                raise ValueError(f"layers[{i}]: expected a Linear between two activations, got {layer!r}")
            (parameter,) = [value for value in layer.arguments.values() if isinstance(value, float)] or [0.0]
            shapes[-1] = shapes[-1]._replace(activation=layer.name, parameter=parameter)
    if scaled:
        raise ValueError("layers: expected a Linear after the last Scale, got none")
    if not shapes:
        raise ValueError("layers: expected at least one Linear, got none")
    return shapes


def describe_layers(layers: Sequence[Layer]) -> str:
    """The layers as JSON: ``[["linear", 13, 50, true], ["sigmoid"], ...]``."""
    described: list[list[Any]] = []
    for layer in layers:
        if isinstance(layer, Linear):
            described.append(["linear", layer.in_features, layer.out_features, layer.bias])
        elif isinstance(layer, Scale):
            described.append(["scale", layer.n_features])
        elif isinstance(layer, Dropout):
            described.append(["dropout", layer.p])
        elif isinstance(layer, Activation):
            arguments = [layer.arguments] if layer.arguments else []
            described.append(["gelu" if isinstance(layer, GELU) else layer.name, *arguments])
    return json.dumps(described)


def build_layers(description: str) -> list[Layer]:
    """The layers of a description by `describe_layers`."""
    layers: list[Layer] = []
    for name, *arguments in parse_json(description):
        if name == "linear":
            n_in, n_out, bias = arguments
            layers.append(Linear(n_in, n_out, bias=bias))
        elif name == "scale":
            layers.append(Scale(*arguments))
        elif name == "dropout":
            layers.append(Dropout(*arguments))
        else:
            (options,) = arguments or [{}]
            layers.append(BY_NAME[name](**options))
    return layers


#: The values of a network's `init`.
INITS = ("default", "glorot_uniform", "he_uniform", "torch")


def initial_bounds(init: str, activation: str, n_in: int, n_out: int) -> tuple[float, float]:
    """The bounds of the uniform distributions that a dense layer's weights and biases are drawn from.

    The default is the best one for each activation: see docs/initial-weights.md.
    """
    torch, he = 1 / sqrt(n_in), sqrt(6 / n_in)
    if (init, activation) == ("default", "selu"):
        return sqrt(3 / n_in), 0.0  # LeCun's, which self-normalization asks for
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
