"""One step of training: compiled, or in Python if a user's class overrides a part of it. And the losses of a batch.

Both give the same numbers. A step is compiled unless `loss_and_gradient` of the network or a method of the optimizer is
overridden, or the loss or the optimizer is the user's own.
"""

import inspect
from collections.abc import Iterator
from math import inf, isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np

from fusegrad._engine.engine import Batch, NetworkEngine
from fusegrad._engine.validation import Array, as_flat, as_loss, as_loss_and_gradient, as_number, read_only
from fusegrad.optimizers import SGD, Optimizer, bind, runs_compiled


class Network(Protocol):
    """The part of a network that a fit uses."""

    parameters: Any  # the flat buffer

    def forward(self, X: Any) -> Array:
        """Predict."""

    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The loss, for validation."""

    def loss_and_gradient(
        self, X: Any, y: Any, *, sample_weight: Any = None, training_step: int | None = None
    ) -> tuple[float, Array]:
        """Called by steps if it is overridden."""


class Trainee(NamedTuple):
    """A network that is trained, and its engine."""

    net: Network
    engine: NetworkEngine
    layout: str  # by which an optimizer identifies the network
    overridden: bool  # whether its `loss_and_gradient` is: then steps call it
    compiled_loss: Any  # its `loss`, unless that is overridden


def take(trainee: Trainee, optimizer: Any) -> bool:
    """Bind an optimizer to a network, or raise. Returns whether its steps run compiled."""
    compiled = runs_compiled(optimizer) and not trainee.overridden and trainee.engine.loss_compiled
    engine = trainee.engine
    if trainee.overridden and engine.dropout_seed is not None:
        parameters = inspect.signature(trainee.net.loss_and_gradient).parameters.values()
        if not any(p.name == "training_step" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise TypeError("loss_and_gradient: expected it to take training_step=, since a layer has dropout")
    if isinstance(optimizer, Optimizer):
        bind(optimizer, engine.parameters, engine.lock, trainee.layout, engine.places, compiled)
    return compiled


def train_step(trainee: Trainee, X: Any, y: Any, sample_weight: Any, optimizer: Any) -> float:
    """See `Sequential.train_step`."""
    engine = trainee.engine
    batch = engine.batch(X, y, sample_weight, vectors=True)
    with engine.lock:
        if take(trainee, optimizer):
            return engine.step(batch, optimizer)
        return python_step(trainee, engine.compiled(batch.X.shape[1]), batch, optimizer)


def python_step(trainee: Trainee, compiled_engine: Any, batch: Batch, optimizer: Any) -> float:
    """A step in Python, for overridden methods; the numbers are those of the compiled step."""
    engine = trainee.engine
    training_step = None
    if engine.dropout_seed is not None:
        training_step = optimizer.n_steps if isinstance(optimizer, Optimizer) else engine.loop_steps
    if not isinstance(optimizer, Optimizer):
        engine.loop_steps += 1
    point = engine.parameters
    if isinstance(optimizer, SGD) and optimizer.nesterov:
        point = as_flat(optimizer.look_ahead(engine.parameters), "look_ahead", engine.dtype, engine.n_parameters)
    if trainee.overridden:
        value, gradient = _overridden_gradient(trainee, batch, point, training_step)
    else:
        gradient = np.empty(engine.n_parameters, engine.dtype)
        value = engine.gradient_of(compiled_engine, batch, point, gradient, training_step=training_step)
    if not isfinite(value):
        return value
    if not engine.kernels.is_finite(gradient):
        return inf
    n_steps = getattr(optimizer, "n_steps", None)
    answer = optimizer.step(engine.parameters, gradient)
    if isinstance(answer, np.ndarray) and not np.may_share_memory(answer, engine.parameters):
        raise TypeError(
            "optimizer: expected step(parameters, gradient) to write into parameters, as in parameters[:] = ..., "
            "got new parameters"
        )
    if isinstance(optimizer, Optimizer) and optimizer.n_steps == n_steps:
        optimizer.n_steps += 1  # for a class whose step does not increment it
    return value


def loss_of(trainee: Trainee, batch: Batch) -> float:
    """The loss of a validated batch, by the network's own method if that is overridden."""
    engine = trainee.engine
    if getattr(trainee.net.loss, "__func__", None) is trainee.compiled_loss:
        return engine.gradient_of(engine.compiled(batch.X.shape[1], folding=False), batch, engine.parameters, None)
    X, y, arguments = _as_passed(engine, batch)
    return as_loss(trainee.net.loss(X, y, **arguments), "loss: expected it to return a number")


def _as_passed(engine: NetworkEngine, batch: Batch) -> tuple[Array, Array, dict[str, Array]]:
    """A validated batch as arguments of an overridden method: class numbers are integers (m,)."""
    X, y, weights = batch
    if engine.classes is not None and len(y) == 1:
        y = y[0].astype(np.intp)
    return X, y, {} if weights is None else {"sample_weight": weights}


def _overridden_gradient(
    trainee: Trainee, batch: Batch, point: Array, training_step: int | None
) -> tuple[float, Array]:
    """The result of an overridden `loss_and_gradient` at a point. It reads the parameters from the network."""
    net, engine = trainee.net, trainee.engine
    X, y, passed = _as_passed(engine, batch)
    arguments: dict[str, Any] = dict(passed)
    if training_step is not None:
        arguments["training_step"] = training_step
    if point is engine.parameters:
        answer = net.loss_and_gradient(X, y, **arguments)
    else:
        start = engine.parameters.copy()
        engine.lock.set_incomplete("a step")
        try:
            engine.parameters[:] = point
            answer = net.loss_and_gradient(X, y, **arguments)
        finally:
            engine.parameters[:] = start
            engine.lock.set_incomplete("an epoch")
    value, gradient = as_loss_and_gradient(answer, "loss_and_gradient", point.shape)
    return value, as_flat(gradient, "loss_and_gradient", engine.dtype, engine.n_parameters)


def measure(trainee: Trainee, batch: Batch, metrics: Any) -> Iterator[tuple[str, float]]:
    """The metrics of a validated batch."""
    if not metrics:
        return
    X, y, _ = _as_passed(trainee.engine, batch)
    y, prediction = read_only(y), trainee.net.forward(X)
    for name, metric in metrics.items():
        yield name, as_number(metric(y, prediction), f"metrics: {name}", finite=False)
