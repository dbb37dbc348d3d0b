"""Checks that a user can run on a network of their own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegrad._arrays import Array, as_count, as_generator, as_number
from fusegrad.networks import Sequential

STEP = 1e-3  # of the differences


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found.

    Attributes
    ----------
    projected : float
        The error along random directions, over all parameters at once.
    each : float or None
        The largest error of a single parameter over the largest entry; None where there were too many.
    worst : str
        The parameter with that error, e.g. ``"W1[3, 5]"``.
    inputs : float
        The error of the input gradient along random directions.
    """

    projected: float
    each: float | None
    worst: str
    inputs: float

    @property
    def error(self) -> float:
        """The largest of them; NaN if one is."""
        return float(np.max([self.projected, self.each or 0.0, self.inputs]))


def check_gradients(
    net: Sequential,
    X: Any,
    y: Any,
    *,
    tolerance: float = 1e-7,
    n_directions: int = 8,
    most_parameters: int = 500,
    rng: Any = 0,
) -> GradientCheck:
    """Compare a network's gradients with central differences, in float64.

    For random directions u, g.u is compared with the difference quotient of the loss along u: that takes in
    every parameter at any size. A small network is also checked parameter by parameter.

    Parameters
    ----------
    net : Sequential
        Of dtype float64; float32 does not resolve differences. Left as it was.
    X : array (n_features, m)
    y : array (n_outputs, m)
    tolerance : float, default 1e-7
        What an error may be, relative to the size of the gradient, or to what of it rounding lets differences
        see: some 1e-5 of the loss. At a minimum nothing is left of the gradient but that.
    n_directions : int, default 8
    most_parameters : int, default 500
        Up to so many, each is checked by itself.
    rng : None, int or numpy.random.Generator, default 0
        Draws the directions.

    Returns
    -------
    GradientCheck
        The errors; the largest is ``.error``.

    Raises
    ------
    AssertionError
        If an error is larger than the tolerance; it says which.
    TypeError
        If the network is not of dtype float64.

    Notes
    -----
    Differences are those of fourth order, from four losses each, so that the step can be large enough to
    lose few digits: 1e-3, for data and parameters of the order of one (standardise X and y before). At the corner
    of a ReLU no difference quotient is right: check such a network at data where no unit is near 0.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> net = fg.TwoLayerSigmoid(3, 5, dtype="float64", rng=0)
    >>> data = np.random.default_rng(1)
    >>> check = fg.testing.check_gradients(net, data.normal(size=(3, 20)), data.normal(size=20))
    >>> check.error < 1e-7
    True
    """
    if not isinstance(net, Sequential) or net.dtype != np.float64:
        got = net.dtype if isinstance(net, Sequential) else type(net).__name__
        raise TypeError(f"net: expected a network of dtype float64, got {got}")
    tolerance = as_number(tolerance, "tolerance", above=0.0)
    n_directions = as_count(n_directions, "n_directions")
    most_parameters = as_count(most_parameters, "most_parameters", least=0)
    X, y = net._batch(X, y)
    rng = as_generator(rng)
    start = net.parameters.copy()
    loss, gradient = net.loss_and_gradient(X, y)
    input_gradient = net.input_gradient(X, y)

    def slope(move: Any) -> float:
        """The derivative at 0 of t -> loss(move(t)), by differences of fourth order."""
        near = move(STEP) - move(-STEP)
        far = move(2 * STEP) - move(-2 * STEP)
        return float((8 * near - far) / (12 * STEP))

    def along(direction: Array) -> float:
        def moved(t: float) -> float:
            net.parameters[:] = start + t * direction
            return net.loss(X, y)

        return slope(moved)

    # Losses are off by some parts in 10^16, differences of them by so much over the step.
    least = max(10 * np.finfo(float).eps * loss / (STEP * tolerance), np.finfo(float).tiny)
    size = max(float(np.abs(gradient).max()), least)
    try:
        directions = [_unit(rng, gradient.shape) for _ in range(n_directions)]
        projected = float(np.max([abs(along(u) - gradient @ u) for u in directions]) / size)
        each, worst = None, ""
        if gradient.size <= most_parameters:
            slopes = np.array([along(one) for one in np.eye(gradient.size)])
            errors = np.abs(slopes - gradient) / size
            each, worst = float(errors.max()), _name(net, int(errors.argmax()))
    finally:
        net.parameters[:] = start

    def along_inputs(direction: Array) -> float:
        return slope(lambda t: net.loss(X + t * direction, y))

    input_size = max(float(np.abs(input_gradient).max()), least)
    directions = [_unit(rng, X.shape) for _ in range(n_directions)]
    inputs = float(np.max([abs(along_inputs(u) - (input_gradient * u).sum()) for u in directions]) / input_size)

    result = GradientCheck(projected, each, worst, inputs)
    if not result.error <= tolerance:
        raise AssertionError(f"gradient check: an error of {result.error:.1e}, more than {tolerance:.1e}: {result}")
    return result


def _unit(rng: "np.random.Generator", shape: tuple[int, ...]) -> Array:
    direction: Array = rng.normal(size=shape)
    direction /= np.sqrt((direction**2).sum())
    return direction


def _name(net: Sequential, place: int) -> str:
    """The name of a place in the flat buffer, e.g. ``W1[3, 5]``."""
    for name, numbers in net.unflatten(np.arange(net.n_parameters)).items():
        found = np.argwhere(numbers == place)
        if len(found):
            return f"{name}[{', '.join(map(str, found[0]))}]"
    raise AssertionError(place)
