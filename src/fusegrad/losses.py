"""The losses. Each is a function of one example's outputs and targets; a network has one, set when it is constructed.

The loss of a batch is the mean of its examples' losses, weighted by `sample_weight`. Values and gradients are computed
in compiled code, within the pass of a tile: cython_kernels/network/loss.pxi.
"""

import json
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.files import parse_json
from fusegrad._engine.plan import Shape
from fusegrad._engine.validation import Array, as_flag, as_number

__all__ = [
    "BinaryCrossEntropy",
    "Huber",
    "MeanSquaredError",
    "MulticlassHinge",
    "Poisson",
    "Quantile",
    "SoftmaxCrossEntropy",
]

KINDS = by_dtype[np.dtype("float32")].LOSSES


@runtime_checkable
class SupportsValueAndGradient(Protocol):
    """What a user-defined loss must have. It is called from Python, once a batch."""

    def value_and_gradient(self, prediction: Array, y: Array) -> tuple[float, Array]:
        """The loss of a batch, and its gradient (n_outputs, m) with respect to the prediction (n_outputs, m)."""


class Loss:
    """The base of the losses of this package.

    Attributes
    ----------
    name : str
        By which `Sequential` takes the loss with its default arguments.
    """

    name: ClassVar[str] = ""
    takes_logits: ClassVar[bool] = False  # the network has no activation behind its last layer
    targets: ClassVar[str] = "numbers"  # or "counts", "fractions", "probabilities", "classes": see `check_targets`
    parameter: float = 0.0  # of the compiled function

    @property
    def kind(self) -> int:
        """The number of the compiled function."""
        return KINDS.index(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class MeanSquaredError(Loss):
    """The squared error, without one-half: the default.

    ::

        l = sum_o (z_o - y_o)^2            dl/dz = 2 (z - y)

    for the outputs z and the targets y of an example.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> net.loss_function
    MeanSquaredError()
    """

    name = "mean_squared_error"


class Huber(Loss):
    """Huber's loss: quadratic for small residuals r = z - y, linear for outliers.

    ::

        l = sum_o r^2 / 2                          where |r| <= delta
                  delta (|r| - delta / 2)          elsewhere
        dl/dz = r, limited to [-delta, delta]

    Parameters
    ----------
    delta : float, default 1.0
        More than 0, in the units of y.

    Raises
    ------
    TypeError, ValueError
        If `delta` is not such a number.

    References
    ----------
    Huber, P. J. (1964). Robust estimation of a location parameter. Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 1), loss=fg.losses.Huber(delta=1.0), dtype="float64", rng=0)
    >>> net.parameters = [1.0, 0.0]
    >>> net.loss([1.0, 2.0], [1.0, 12.0])
    4.75
    """

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        self.parameter = as_number(delta, "delta", above=0.0)

    @property
    def delta(self) -> float:
        """The residual from which on the loss is linear."""
        return self.parameter

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"delta": self.delta}


class Quantile(Loss):
    """The quantile (pinball) loss: the prediction is the q-quantile of y given x.

    ::

        l = sum_o max(q (y - z), (q - 1) (y - z))
        dl/dz = -q where z < y, 1 - q where z > y, 0 where they are equal

    Parameters
    ----------
    q : float, default 0.5
        Between 0 and 1. 0.5 is half the absolute error.

    Raises
    ------
    TypeError, ValueError
        If `q` is not such a number.

    References
    ----------
    Koenker, R. and Bassett, G. (1978). Regression quantiles. Econometrica 46.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 1), loss=fg.losses.Quantile(0.75), dtype="float64", rng=0)
    >>> net.parameters = [1.0, 0.0]
    >>> net.loss([1.0, 2.0], [5.0, 2.0])
    1.5
    """

    name = "quantile"

    def __init__(self, q: float = 0.5) -> None:
        self.parameter = as_number(q, "q", above=0.0, below=1.0)

    @property
    def q(self) -> float:
        """The quantile."""
        return self.parameter

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"q": self.q}


class Poisson(Loss):
    """The Poisson loss for counts y: the output z is the logarithm of the expected count.

    ::

        l = sum_o exp(z) - y z            dl/dz = exp(z) - y

    Parameters
    ----------
    full : bool, default False
        Add y log y - y, which does not depend on the network: the loss is then half the deviance, 0 where exp(z) = y.

    Raises
    ------
    TypeError
        If `full` is not True or False.

    Notes
    -----
    Targets are numbers of at least 0. ``numpy.exp(net(X))`` is the expected count.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 1), loss="poisson", dtype="float64", rng=0)
    >>> net.parameters = [0.0, 0.0]
    >>> net.loss([1.0, 2.0], [3, 0])
    1.0
    """

    name = "poisson"
    targets = "counts"

    def __init__(self, full: bool = False) -> None:
        self.parameter = float(as_flag(full, "full"))

    @property
    def full(self) -> bool:
        """Whether y log y - y is added."""
        return bool(self.parameter)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"full": self.full}


class BinaryCrossEntropy(Loss):
    """The cross-entropy of two classes, from logits: for one output, or for several independent ones.

    ::

        l = sum_o max(z, 0) - z y + log(1 + exp(-|z|)) = -sum_o y log sigmoid(z) + (1 - y) log(1 - sigmoid(z))
        dl/dz = sigmoid(z) - y

    The network has no activation behind its last layer. Targets are 0, 1, or probabilities between them.

    Notes
    -----
    The probability of y = 1 is ``net.probabilities(X)``; ``net.classes(X)`` is 1 where it is more than one-half.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 1), loss="binary_cross_entropy", dtype="float64", rng=0)
    >>> net.parameters = [2.0, 0.0]
    >>> round(net.loss([0.0, 1000.0], [0, 1]), 6)
    0.346574
    >>> net.probabilities([0.0, 1000.0])
    array([[0.5, 1. ]])
    """

    name = "binary_cross_entropy"
    takes_logits = True
    targets = "fractions"


class SoftmaxCrossEntropy(Loss):
    """The cross-entropy of one class of several, from logits.

    ::

        l = log sum_o exp(z_o) - sum_o y_o z_o            dl/dz = softmax(z) - y

    The network has no activation behind its last layer, and as many outputs as there are classes. Targets are class
    numbers ``(m,)`` of any integer dtype, or probabilities ``(n_outputs, m)`` that add up to 1.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        s, in [0, 1): y is replaced by (1 - s) y + s / n_outputs.

    Raises
    ------
    TypeError, ValueError
        If `label_smoothing` is not such a number.

    References
    ----------
    Szegedy, C. et al. (2016). Rethinking the inception architecture for computer vision. CVPR. (Label smoothing)

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 3), loss="softmax_cross_entropy", dtype="float64", rng=0)
    >>> net.parameters = [0.0, 1000.0, 0.0, 0.0, 0.0, 0.0]
    >>> round(net.loss([0.0, 1.0, 2.0], [2, 1, 1]), 6)
    0.366204
    >>> net.classes([1.0])
    array([1])
    """

    name = "softmax_cross_entropy"
    takes_logits = True
    targets = "probabilities"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.parameter = as_number(label_smoothing, "label_smoothing", least=0.0, below=1.0)

    @property
    def label_smoothing(self) -> float:
        """The share of each target that is divided among all classes."""
        return self.parameter

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"label_smoothing": self.label_smoothing}


class MulticlassHinge(Loss):
    """The hinge loss of a multiclass support vector machine (Weston and Watkins).

    ::

        l = sum_{o != c} max(0, z_o - z_c + margin)      c the class of the example
        dl/dz_o = 1 where that is positive, dl/dz_c = minus their number

    The network has no activation behind its last layer. Targets are class numbers ``(m,)`` of any integer dtype.

    Parameters
    ----------
    margin : float, default 1.0
        More than 0.

    Raises
    ------
    TypeError, ValueError
        If `margin` is not such a number.

    References
    ----------
    Weston, J. and Watkins, C. (1999). Support vector machines for multi-class pattern recognition. ESANN.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.Sequential(fg.Linear(1, 3), loss="multiclass_hinge", dtype="float64", rng=0)
    >>> net.parameters = [0.0, 0.0, 0.0, 1.0, 1.5, -2.0]
    >>> net.loss([0.0], [0])
    1.5
    """

    name = "multiclass_hinge"
    takes_logits = True
    targets = "classes"

    def __init__(self, margin: float = 1.0) -> None:
        self.parameter = as_number(margin, "margin", above=0.0)

    @property
    def margin(self) -> float:
        """By how much the output of the right class exceeds the others at a loss of 0."""
        return self.parameter

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"margin": self.margin}


BUILT_IN: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        MeanSquaredError, Huber, Quantile, Poisson, BinaryCrossEntropy, SoftmaxCrossEntropy, MulticlassHinge,
    )
}  # fmt: skip


def as_loss(loss: Any) -> Any:
    """The loss of a name, or the object itself."""
    if isinstance(loss, str):
        if loss not in BUILT_IN:
            raise ValueError(f"loss: expected one of {', '.join(BUILT_IN)}, got {loss!r}")
        return BUILT_IN[loss]()
    if isinstance(loss, type) or not isinstance(loss, (Loss, SupportsValueAndGradient)):
        raise TypeError(
            "loss: expected a name, an object of fusegrad.losses, or one with value_and_gradient(prediction, y), "
            f"got {loss!r}"
        )
    return loss


def is_compiled(loss: Any) -> bool:
    """Whether a loss runs in compiled code: it is of this package, and no subclass has a function of its own."""
    return isinstance(loss, Loss) and not hasattr(loss, "value_and_gradient")


def describe_loss(loss: Any) -> str:
    """A loss as JSON."""
    if type(loss) not in BUILT_IN.values():
        raise TypeError(f"loss: expected one of {', '.join(BUILT_IN)} to save, got {loss!r}")
    return json.dumps({"name": loss.name, "arguments": loss.arguments})


def build_loss(description: str) -> Loss:
    """The loss of a description by `describe_loss`."""
    described = parse_json(description)
    return BUILT_IN[described["name"]](**described["arguments"])


#: The kernels number classes in the dtype of the outputs.
MOST_CLASSES = {"float32": 1 << 24, "float64": 1 << 53}


def check_logits(loss: Loss, last: Shape, dtype: np.dtype[Any]) -> None:
    """Raise unless the last layer has the outputs that a loss of logits takes."""
    n_outputs, activation = last.n_out, last.activation
    if activation != "identity":
        raise ValueError(
            f"loss: expected no activation behind the last Linear, since {loss!r} takes logits, got {activation}; "
            "probabilities(X) applies it"
        )
    if loss.targets in ("classes", "probabilities"):
        if n_outputs < 2:
            raise ValueError(f"loss: expected an output for each class with {loss!r}, got {n_outputs}")
        if n_outputs > MOST_CLASSES[dtype.name]:
            raise ValueError(
                f"loss: expected at most {MOST_CLASSES[dtype.name]} classes in {dtype}, got {n_outputs}: use float64"
            )
