"""Metrics of predictions, for the validation data of a fit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fusegrad._engine.validation import Array
from fusegrad.losses import is_compiled
from fusegrad.reference import sigmoid

Metric = Callable[[Array, Array], Any]


def accuracy(y: Array, prediction: Array) -> float:
    """The share of examples whose most probable class is right: of logits, class numbers (m,) or probabilities."""
    if len(prediction) == 1:
        return binary_accuracy(y.reshape(1, -1), prediction)
    return float(np.mean(prediction.argmax(axis=0) == (y.argmax(axis=0) if y.ndim == 2 else y)))


def binary_accuracy(y: Array, prediction: Array) -> float:
    """The share of logits on the right side of 0, of all outputs."""
    return float(np.mean((prediction > 0) == (y > 0.5)))


def mae(y: Array, prediction: Array) -> float:
    """The mean absolute error."""
    return float(np.abs(np.subtract(prediction, y, order="C")).mean())


def r2(y: Array, prediction: Array) -> float:
    """The share of the variance that is explained, a mean over outputs; 1 is a perfect prediction."""
    y = np.ascontiguousarray(y)  # the order of NumPy's sums depends on the layout
    residual = (np.subtract(y, prediction, order="C") ** 2).sum(axis=1)
    total = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(1 - residual / total))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "mae": mae, "r2": r2}


def mean_of(loss: Any, prediction: Array) -> Array:
    """The expected y: with "poisson" a count, with "binary_cross_entropy" a probability, else the prediction."""
    kind = loss.targets if is_compiled(loss) else "numbers"
    with np.errstate(over="ignore", under="ignore"):
        if kind == "counts":
            return np.asarray(np.exp(prediction))
        return sigmoid(prediction) if kind == "fractions" else prediction


def metrics_of(metrics: Any, loss: Any) -> dict[str, Metric]:
    """The metrics for the outputs of a network with this loss; raise for one that it does not have."""
    suited: dict[str, Metric] = dict(metrics)
    if not is_compiled(loss):
        return suited
    for name, metric in metrics.items():
        if metric is accuracy:
            if not loss.takes_logits:
                raise ValueError(f"metrics: expected 'accuracy' beside a loss for classes, got the loss {loss!r}")
            suited[name] = binary_accuracy if loss.targets == "fractions" else accuracy
        elif metric is mae or metric is r2:
            if loss.targets in ("classes", "probabilities"):
                raise ValueError(f"metrics: expected 'accuracy' or functions with the loss {loss!r}, got {name!r}")
            suited[name] = partial(_of_mean, metric, loss)
    return suited


def _of_mean(metric: Metric, loss: Any, y: Array, prediction: Array) -> Any:
    return metric(y, mean_of(loss, prediction))


def named_metrics(metrics: Any) -> dict[str, Metric]:
    """Metrics by their names: those of this module, or functions of (y, prediction)."""
    try:
        wanted = [] if isinstance(metrics, str) else list(metrics)
    except TypeError:
        wanted = [metrics]
    if isinstance(metrics, str) or any(not (isinstance(metric, str) or callable(metric)) for metric in wanted):
        raise TypeError(f"metrics: expected a list of names or functions of (y, prediction), got {metrics!r}")
    named: dict[str, Metric] = {}
    for metric in wanted:
        if isinstance(metric, str) and metric not in METRICS:
            raise ValueError(f"metrics: expected one of {', '.join(METRICS)}, got {metric!r}")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        if name in named:
            raise ValueError(f"metrics: expected different names, got {name!r} twice")
        named[name] = METRICS[metric] if isinstance(metric, str) else metric
    return named
