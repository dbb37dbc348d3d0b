"""Metrics of predictions, for the validation data of a fit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusegrad._engine.validation import Array
from fusegrad.losses import is_compiled

Metric = Callable[[Array, Array], Any]


def accuracy(y: Array, prediction: Array) -> float:
    """The share of examples whose most probable class is right: of logits, class numbers (m,) or probabilities."""
    if len(prediction) == 1:
        found, right = prediction[0] > 0, y.reshape(-1) > 0.5
    else:
        found, right = prediction.argmax(axis=0), y.argmax(axis=0) if y.ndim == 2 else y
    return float(np.mean(found == right))


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


def check_metrics(metrics: Any, loss: Any) -> None:
    """Raise if a metric is one of predictions that this loss does not have."""
    if metrics.get("accuracy") is accuracy and is_compiled(loss) and not loss.takes_logits:
        raise ValueError(f"metrics: expected 'accuracy' beside a loss for classes, got the loss {loss!r}")


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
