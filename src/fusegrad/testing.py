"""Checks that users can run on their own networks.

`check_gradients` compares the gradient g with difference quotients of the loss along directions u: g.u with the
derivative of t -> loss(point + t u). A point is all parameters and all of X in one vector, so that the gradients with
respect to the parameters and to the inputs are checked in the same way.

No single step h is suitable. A small one suffers from rounding, a large one from curvature. If a corner of the loss is
between the points (a ReLU changes side), the quotient is a mean of two slopes. So the losses at -2h, -h, 0, h and 2h
give three quotients: central, forward and backward. The uncertainty of the derivative is their disagreement plus the
rounding errors of the losses, which are measured. If rounding is the larger of the two, the step is increased, else
decreased, by factors of ten, until the uncertainty is small. At a corner itself (z = 0 exactly, as with zero weights)
no step is suitable, and the derivative is a convention: the comparison is made at a nearby point instead.

Rejected: a single step, even of fourth order (nearly every ReLU network has a unit within 1e-3 of its corner); a fixed
pattern of active units, which would check the reference and not the network's own loss.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.validation import Array, as_count, as_generator, as_matrix, as_number
from fusegrad.networks import Sequential
from fusegrad.reference import activate, dense_forward, layers_of

EPS = float(np.finfo(float).eps)
FIRST_STEP = -4  # steps are powers of ten, in units of `_scale`
STEPS = range(-12, 1)
SAFETY = 100  # errors up to so many times the uncertainty of the differences do not count
MOST_POINTS = 4  # the given one and nearby ones
BESIDE = 0.1  # distance of the nearby points, in the same units
N_BLOCKS = 32  # of a vector that is too long to be checked entry by entry


class GradientCheck(NamedTuple):
    """The result of `check_gradients`. Each error is relative to the derivative by differences.

    Attributes
    ----------
    projected : float
        The largest error along random directions, over all parameters at once or over a block of them.
    each : float or None
        The largest error of a single parameter; None if there were too many.
    worst : str
        The parameter with that error, e.g. ``"W1[3, 5]"``.
    inputs : float
        The largest error of the input gradient, along random directions and of single entries of X.
    gradient, difference : float
        The derivative where the error is largest, by the network's gradient and by differences.
    corner : bool
        Whether a corner of the loss is so near that the two were compared at a nearby point.
    """

    projected: float
    each: float | None
    worst: str
    inputs: float
    gradient: float = np.nan
    difference: float = np.nan
    corner: bool = False

    @property
    def error(self) -> float:
        """The largest error; NaN if one of them is."""
        return float(np.max([self.projected, self.each or 0.0, self.inputs]))


def check_gradients(
    net: Sequential,
    X: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    output_gradient: Any = None,
    tolerance: float = 1e-7,
    n_directions: int = 8,
    most_parameters: int = 500,
    rng: Any = 0,
) -> GradientCheck:
    """Compare a network's gradients, with respect to its parameters and X, with differences of its loss, in float64.

    For random directions u, g.u is compared with the difference quotient of the loss along u: this covers every
    parameter of a network of any size. A small network is also checked parameter by parameter, a larger one in
    about 32 blocks. X is checked in the same way.

    Parameters
    ----------
    net : Sequential
        Of dtype float64: float32 does not resolve differences. Its parameters are restored afterwards, also on Ctrl-C.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    sample_weight : array (m,), optional
    output_gradient : array (n_outputs, m), optional
        In place of y: `Sequential.backward` is compared with differences of the sum of output_gradient times
        prediction.
    tolerance : float, default 1e-7
        The largest error allowed, relative to the derivative; if the derivative is small, to what differences
        resolve: about a hundredth of the loss, for a change by which the sum of a unit changes by one.
    n_directions : int, default 8
        Random directions over all parameters, and as many over all of X.
    most_parameters : int, default 500
        Up to so many parameters, and entries of X, are checked one by one.
    rng : None, int or numpy.random.Generator, default 0
        Draws the directions.

    Returns
    -------
    GradientCheck
        The errors; the largest is ``.error``.

    Raises
    ------
    AssertionError
        If an error is larger than the tolerance. It names the parameter or the entry of X, with the gradient and the
        difference there, and says whether a corner of the loss is near.
    TypeError
        If it is not a network, or not of dtype float64.

    Notes
    -----
    A derivative is computed from five losses. The step starts at 1e-4 and is increased or decreased until the central,
    forward and backward quotients agree; see the top of this module. Data need not be standardised, and units may be
    near the corner of a ReLU. At the corner itself a gradient is a convention that no difference can test: there the
    comparison is made at a nearby point, 0.1 away.

    References
    ----------
    Gill, P. E., Murray, W. and Wright, M. H. (1981). Practical optimization. Academic Press. Section 8.6: the step.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> net = fg.TwoLayerSigmoid(3, 5, dtype="float64", rng=0)
    >>> data = np.random.default_rng(1)
    >>> check = fg.testing.check_gradients(net, data.normal(size=(3, 20)), data.normal(size=20))
    >>> check.error < 1e-7
    True
    """
    if isinstance(net, type) or not all(hasattr(net, name) for name in ("loss_and_gradient", "parameters", "dtype")):
        raise TypeError(f"net: expected a network such as Sequential, got {type(net).__name__}")
    if net.dtype != np.float64:
        raise TypeError(f"net: expected a network of dtype float64, got {net.dtype}; make it with dtype='float64'")
    tolerance = as_number(tolerance, "tolerance", above=0.0)
    n_directions = as_count(n_directions, "n_directions")
    most_parameters = as_count(most_parameters, "most_parameters", least=0)
    X = as_matrix(X, "X", net.dtype, net.n_features, "features")
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    parameters, start = net.parameters, net.parameters.copy()
    n, end = start.size, start.size + X.size

    def set_point(point: Array) -> Array:
        parameters[:] = point[:n]
        return point[n:].reshape(X.shape)

    if output_gradient is None:
        net.loss(X, y, **weights)  # which raises if an argument is wrong, or the parameters have been reshaped

        def loss(point: Array) -> float:
            return net.loss(set_point(point), y, **weights)

        def gradient(point: Array) -> Array:
            X = set_point(point)
            of_parameters = net.loss_and_gradient(X, y, **weights)[1]
            return np.concatenate([of_parameters, net.input_gradient(X, y, **weights).ravel()])

    else:
        if y is not None or weights:
            raise TypeError("output_gradient: expected neither y nor sample_weight beside it, got both")
        net.backward(X, output_gradient)
        given = as_matrix(output_gradient, "output_gradient", net.dtype, net.n_outputs, "outputs")

        def loss(point: Array) -> float:
            return float((given * net.forward(set_point(point))).sum())

        def gradient(point: Array) -> Array:
            X = set_point(point)
            of_inputs = net.input_gradient(X, output_gradient=given)
            return np.concatenate([net.backward(X, given), of_inputs.ravel()])

    try:
        point = np.concatenate([start, X.ravel()])
        with np.errstate(over="ignore", invalid="ignore"):
            scale, at_corner = _scale(net, X)
        checker = _Checker(loss, gradient, point, scale, at_corner, tolerance, as_generator(rng))
        arrays = [int(places.flat[0]) for places in net.unflatten(np.arange(n)).values()]
        of_parameters, singles = checker.check(0, n, arrays, n_directions, most_parameters)
        of_inputs, single_inputs = checker.check(n, end, [n], n_directions, most_parameters)
        of_inputs += single_inputs
        largest = _largest(of_parameters + singles + of_inputs)
        if not largest.error <= tolerance:
            largest = checker.narrow(largest)
    finally:
        parameters[:] = start

    each, worst = None, ""
    if singles:
        single = _largest(singles)
        each, worst = single.error, _name(net, X, single.first)
    result = GradientCheck(
        _largest(of_parameters).error, each, worst, _largest(of_inputs).error,
        largest.gradient, largest.difference, largest.corner,
    )  # fmt: skip
    if not result.error <= tolerance:
        near = (
            "a corner of the loss is near, so both are of a point beside it" if largest.corner else "no corner is near"
        )
        raise AssertionError(
            f"gradient check: an error of {largest.error:.1e}, more than {tolerance:.1e}: at {_names(net, X, largest)} "
            f"the gradient is {largest.gradient:.10g}, differences of the loss give {largest.difference:.10g}; {near}"
        )
    return result


class _Slope(NamedTuple):
    """A derivative of the loss by differences."""

    value: float
    disagreement: float  # of the three quotients
    rounding: float  # of the losses, over the step

    @property
    def uncertainty(self) -> float:
        total = self.disagreement + self.rounding
        return total if np.isfinite(total) else np.inf


class _Comparison(NamedTuple):
    """The gradient and differences along a direction: the entries of the vector from `first` on, with their weights."""

    error: float
    first: int
    weights: Array
    gradient: float
    difference: float
    corner: bool


class _Checker:
    """Compares `gradient` with differences of `loss`, both functions of one vector."""

    def __init__(
        self, loss: Callable[[Array], float], gradient: Callable[[Array], Array], start: Array, scale: Array,
        at_corner: bool, tolerance: float, rng: "np.random.Generator",
    ) -> None:  # fmt: skip
        self.loss, self.gradient, self.scale, self.rng = loss, gradient, scale, rng
        self.at_corner, self.tolerance = at_corner, tolerance
        self.points = [(start, loss(start), gradient(start))]
        # How much the loss changes if the point changes in the last digit; near the start, which may be a perfect fit.
        near = start + 10.0**FIRST_STEP * scale * rng.choice([-1.0, 1.0], start.size)
        losses = [loss(near * (1 + EPS * rng.integers(-2, 3, start.size))) for _ in range(8)]
        self.rounding, self.near_loss = max(losses) - min(losses), max(losses)

    def check(
        self, first: int, end: int, arrays: list[int], n_directions: int, most_singles: int
    ) -> tuple[list[_Comparison], list[_Comparison]]:
        """Along random directions over the entries first to end; and for each entry, or in blocks of many entries."""
        parts, singles = [(first, end)] * n_directions, []
        if end - first <= most_singles:
            singles = [self.compare(i, self.scale[i : i + 1]) for i in range(first, end)]
        else:
            cuts = sorted({*arrays, *range(first, end, -(-(end - first) // N_BLOCKS)), end})
            parts += itertools.pairwise(cuts)
        return [self.compare(start, self.draw(start, stop)) for start, stop in parts], singles

    def draw(self, first: int, end: int) -> Array:
        """Random weights, none of them near 0, so that no entry is left out."""
        sizes = self.rng.uniform(0.5, 1.5, end - first)
        return self.scale[first:end] * self.rng.choice([-1.0, 1.0], end - first) * sizes

    def compare(self, first: int, weights: Array) -> _Comparison:
        """The two derivatives along a direction; at a corner, those at a nearby point."""
        part = slice(first, first + weights.size)
        for i in range(MOST_POINTS):
            point, loss, gradient = self.point(i)

            def moved(t: float, point: Array = point) -> float:
                there = point.copy()
                there[part] += t * weights
                return self.loss(there)

            terms = gradient[part] * weights
            expected = float(terms.sum())
            slope = self.slope(moved, loss, EPS * float(np.abs(terms).sum()))
            size = max(abs(slope.value), SAFETY * slope.uncertainty / self.tolerance)
            error = abs(slope.value - expected) / (size if 0 < size < np.inf else 1.0)
            corner = slope.uncertainty > 1e-6 * abs(slope.value) and slope.disagreement > 10 * slope.rounding
            if not (corner or (i == 0 and self.at_corner and error > self.tolerance)):
                break
        unit = float(weights[0]) if weights.size == 1 else 1.0
        return _Comparison(error, first, weights, expected / unit, slope.value / unit, i > 0)

    def point(self, i: int) -> tuple[Array, float, Array]:
        """The i-th point with its loss and gradient: the given one, then nearby ones."""
        if i == len(self.points):
            start = self.points[0][0]
            beside = start + BESIDE * self.scale * self.rng.normal(size=start.size)
            self.points.append((beside, self.loss(beside), self.gradient(beside)))
        return self.points[i]

    def slope(self, loss: Callable[[float], float], at_0: float, least: float) -> _Slope:
        """The derivative of loss(t) at 0, by the step with the least uncertainty."""
        best, exponent = _Slope(np.nan, np.inf, np.inf), FIRST_STEP
        tried = set()
        while exponent in STEPS and exponent not in tried:
            tried.add(exponent)
            h = 10.0**exponent
            far_below, below, above, far_above = (loss(t) for t in (-2 * h, -h, h, 2 * h))
            central = (8 * (above - below) - (far_above - far_below)) / (12 * h)
            forward = (4 * above - far_above - 3 * at_0) / (2 * h)
            backward = (far_below - 4 * below + 3 * at_0) / (2 * h)
            quotients = central, forward, backward
            most = max(map(abs, (far_below, below, at_0, above, far_above)))
            rounding = self.rounding + EPS * most
            if most > self.near_loss > 0:  # the rounding error of a square grows with its root
                rounding = self.rounding * (most / self.near_loss) ** 0.5 + EPS * most
            slope = _Slope(central, max(quotients) - min(quotients), 2 * rounding / h + least)
            if slope.uncertainty < best.uncertainty:
                best = slope
            if SAFETY * best.uncertainty <= min(self.tolerance, 1e-7) * abs(best.value):
                break
            exponent += 1 if slope.rounding > slope.disagreement else -1
        return best

    def narrow(self, found: _Comparison) -> _Comparison:
        """The part of a direction that has the error: repeatedly the worse half, as long as its error is too large."""
        while found.weights.size > 1:
            middle = found.weights.size // 2
            half = _largest([
                self.compare(found.first, found.weights[:middle]),
                self.compare(found.first + middle, found.weights[middle:]),
            ])  # fmt: skip
            if half.error <= self.tolerance:
                break
            found = half
        return found


def _largest(comparisons: list[_Comparison]) -> _Comparison:
    """The comparison with the largest error; NaN counts as the largest."""
    return comparisons[int(np.argmax([comparison.error for comparison in comparisons]))]


def _scale(net: Sequential, X: Array) -> tuple[Array, bool]:
    """The change of each parameter and each entry of X that changes a sum z by its own size, at most by one.

    In the first layer a weight for a feature of size 1000 changes by a millionth of one for a feature of size 0.001.
    Also whether some z is at the corner of a ReLU, except for rounding.
    """
    scale = np.ones(net.n_parameters)
    named = net.unflatten(scale)
    x, sums, at_corner = X, [], False
    names = iter(named)
    for W, b, activation in layers_of(net):
        z = dense_forward(W, x, b)
        sums.append(min(1.0, float(_rms(z, None).item())))
        of_weight = sums[-1] / _rms(x, 1 if x is X else None)
        named[next(names)][:] = of_weight if W.ndim == 1 else of_weight.T
        if b is not None:
            named[next(names)][:] = sums[-1]
        at_corner |= (activation == "relu" or activation[0] == "leaky_relu") and bool(
            (np.abs(z) <= 1e-12 * np.abs(z).max()).any()
        )
        x = activate(activation, z)
    own = net.named_parameters()
    of_inputs = np.broadcast_to(sums[0] / (_rms(own["s1"], 1) if "s1" in own else _rms(own["W1"], 0).T), X.shape)
    return np.concatenate([scale, of_inputs.ravel()]), at_corner


def _rms(a: Array, axis: int | None) -> Array:
    """The root mean square; 1 if all elements are 0."""
    rms = np.sqrt((a * a).mean(axis=axis, keepdims=True))
    rms[rms == 0] = 1.0
    return rms


def _names(net: Sequential, X: Array, found: _Comparison) -> str:
    """The name of an entry, or the number of entries and the names of the first and the last."""
    first, last = _name(net, X, found.first), _name(net, X, found.first + found.weights.size - 1)
    return first if first == last else f"the {found.weights.size} entries {first} to {last}"


def _name(net: Sequential, X: Array, place: int) -> str:
    """The name of an entry, e.g. ``W1[3, 5]`` or ``X[0, 2]``."""
    arrays = {**net.unflatten(np.arange(net.n_parameters)), "X": net.n_parameters + np.arange(X.size).reshape(X.shape)}
    for name, places in arrays.items():
        found = np.argwhere(places == place)
        if len(found):
            return f"{name}[{', '.join(map(str, found[0]))}]"
    raise AssertionError(place)
