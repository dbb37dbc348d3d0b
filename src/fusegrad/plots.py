"""Pictures of training, with matplotlib. Each function draws on `ax`, or on new Axes, and returns the Axes.

Lines differ by colour and by style or marker, in colours that the colour-blind can tell apart (Okabe and Ito 2008).
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from fusegrad import reference
from fusegrad._engine.validation import Array, as_count, as_flag, as_floats, as_generator, as_number
from fusegrad.diagrams import new_axes
from fusegrad.history import History
from fusegrad.metrics import mean_of
from fusegrad.networks import Sequential, check_network
from fusegrad.optimizers import SGD, Adagrad, Adam, Optimizer, RMSprop
from fusegrad.second_order import hessian

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
START = "#d00000"  # the dot where a trajectory starts


# ---- surfaces, and paths on them ----------------------------------------------------------------------


class Surface(NamedTuple):
    """A function of two numbers, its gradient, where a race on it starts, and the limits of its picture.

    Examples
    --------
    >>> import fusegrad as fg
    >>> saddle = fg.plots.SURFACES["saddle"]
    >>> saddle.value(1.0, 2.0), saddle.gradient(1.0, 2.0)
    (-3.0, (2.0, -4.0))
    """

    value: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    limits: tuple[float, float, float, float]  # of x and y


def _beale_gradient(x: float, y: float) -> tuple[float, float]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)), 2 * x * (a + 2 * b * y + 3 * c * y**2)


#: Beale's function, with its minimum at (3, 1/2); a ravine; a saddle point.
SURFACES = {
    "beale": Surface(
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
        _beale_gradient, (1.0, 1.6), (-1.0, 4.2, -1.5, 2.0),
    ),
    "ravine": Surface(lambda x, y: x**2 / 20 + y**2, lambda x, y: (x / 10, 2 * y), (-8.0, 1.5), (-9, 3, -2.2, 2.2)),
    "saddle": Surface(lambda x, y: x**2 - y**2, lambda x, y: (2 * x, -2 * y), (1.0, 1e-3), (-1.5, 1.5, -1.5, 1.5)),
}  # fmt: skip


def descend(
    gradient: Callable[[float, float], Iterable[float]], optimizer: Optimizer, start: Iterable[float], steps: int
) -> Array:
    """The points that an optimizer visits on a surface. Where the gradient overflows, it stays.

    Parameters
    ----------
    gradient : callable
        Of (x, y): returns both derivatives.
    optimizer : Optimizer
        A new one; Nesterov's rule gets the gradient at its look-ahead point.
    start : pair of numbers
    steps : int
        At least 1.

    Returns
    -------
    array (steps + 1, 2)

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.plots.descend(lambda x, y: (2 * x, 2 * y), fg.SGD(lr=0.25), (1.0, -2.0), 2)
    array([[ 1.  , -2.  ],
           [ 0.5 , -1.  ],
           [ 0.25, -0.5 ]])
    """
    if not callable(gradient):
        raise TypeError(f"gradient: expected a function of x and y, got {gradient!r}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an optimizer such as SGD, got {optimizer!r}")
    steps = as_count(steps, "steps")
    w = as_floats(start, "start", np.dtype("f8")).copy()
    if w.shape != (2,):
        raise ValueError(f"start: expected two numbers, got {start!r}")
    path = [w.copy()]
    for _ in range(steps):
        at = optimizer.look_ahead(w) if isinstance(optimizer, SGD) and optimizer.nesterov else w
        g = as_floats(gradient(*at), "gradient", np.dtype("f8"))
        if g.shape != (2,):
            raise ValueError(f"gradient: expected a function that returns two derivatives, got shape {g.shape}")
        if np.isfinite(g).all():
            optimizer.step(w, g)
        path.append(w.copy())
    return np.array(path)


def trajectory(path: Any, heights: Any = None, *, ax: Any = None, label: str | None = None, which: int = 0) -> Any:
    """Draw a path, its start marked by a red dot.

    Parameters
    ----------
    path : array (n, 2)
    heights : array (n,), optional
        Then it is drawn in three dimensions.
    ax : Axes, optional
    label : str, optional
        For a legend.
    which : int, default 0
        Its number among several: chooses colour and style.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg
    >>> ax = fg.plots.trajectory([[0.0, 0.0], [1.0, 2.0]])
    >>> len(ax.lines)
    2
    """
    path = as_floats(path, "path", np.dtype("f8"))
    if path.ndim != 2 or path.shape[1] != 2:
        raise ValueError(f"path: expected points (n, 2), got shape {path.shape}")
    which = as_count(which, "which", least=0)
    if not (label is None or isinstance(label, str)):
        raise TypeError(f"label: expected a text, got {label!r}")
    points = path.T
    if heights is not None:
        heights = as_floats(heights, "heights", np.dtype("f8"))
        if heights.shape != path.shape[:1]:
            raise ValueError(f"heights: expected shape ({len(path)},), got {heights.shape}")
        points = np.vstack([points, heights])
    ax = _axes(ax, three=heights is not None)
    style = {"color": COLOURS[which % len(COLOURS)], "linestyle": STYLES[which % len(STYLES)]}
    ax.plot(*points, **style, linewidth=1.8, label=label, zorder=4 + which)
    ax.plot(*points[:, :1], "o", color=START, markersize=7, zorder=20)
    return ax


def race(
    surface: str = "beale", optimizers: Mapping[str, Optimizer] | None = None, *, steps: int = 150, ax: Any = None,
    animated: bool = False,
) -> Any:  # fmt: skip
    """Several optimizers on one surface, from one start.

    Parameters
    ----------
    surface : {"beale", "ravine", "saddle"}
    optimizers : dict of names to optimizers, optional
        New ones; by default gradient descent, momentum, Nesterov's rule, Adagrad, RMSprop and Adam.
    steps : int, default 150
    ax : Axes, optional
        In three dimensions if it is such.
    animated : bool, default False
        Return an animation instead of the Axes: `.save("race.gif", writer="pillow")`, `.to_jshtml()`.

    Returns
    -------
    Axes, or matplotlib.animation.FuncAnimation

    Raises
    ------
    ValueError
        If there is no such surface.

    Examples
    --------
    >>> import fusegrad as fg
    >>> ax = fg.plots.race("saddle", {"descent": fg.SGD(lr=0.01), "RMSprop": fg.RMSprop(lr=0.01)})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['descent', 'RMSprop']
    """
    steps, animated = as_count(steps, "steps"), as_flag(animated, "animated")
    if not isinstance(surface, str) or surface not in SURFACES:
        raise ValueError(f"surface: expected one of {', '.join(SURFACES)}, got {surface!r}")
    value, gradient, start, limits = SURFACES[surface]
    if optimizers is None:
        lr, adaptive = {"beale": (1e-3, 0.05), "ravine": (0.05, 0.2), "saddle": (0.02, 0.02)}[surface]
        optimizers = {
            "gradient descent": SGD(lr), "momentum": SGD(lr, momentum=0.9),
            "Nesterov": SGD(lr, momentum=0.9, nesterov=True), "Adagrad": Adagrad(5 * adaptive),
            "RMSprop": RMSprop(adaptive), "Adam": Adam(2 * adaptive),
        }  # fmt: skip
    optimizers = _named(optimizers, "optimizers", lambda rule: isinstance(rule, Optimizer), "optimizer")
    ax = _axes(ax)
    three = hasattr(ax, "plot_surface")
    x, y = np.meshgrid(np.linspace(*limits[:2], 120), np.linspace(*limits[2:], 120))
    _landscape(ax, x, y, value(x, y))
    with np.errstate(over="ignore", invalid="ignore"):
        paths = {name: descend(gradient, optimizer, start, steps) for name, optimizer in optimizers.items()}
    for path in paths.values():  # who has left the surface does not come back
        outside = (path < np.array(limits[::2])) | (path > np.array(limits[1::2]))
        path[np.maximum.accumulate(outside.any(axis=1))] = np.nan
    n_before = len(ax.lines)
    for i, (name, path) in enumerate(paths.items()):
        trajectory(path, value(*path.T) if three else None, ax=ax, label=name, which=i)
    ax.set(xlim=limits[:2], ylim=limits[2:], title=surface)
    ax.legend(loc="lower right", fontsize=8)
    if not animated:
        return ax
    from matplotlib.animation import FuncAnimation

    lines = ax.lines[n_before::2]

    def show(frame: int) -> list[Any]:
        for line, path in zip(lines, paths.values(), strict=True):
            points = path[: frame + 1].T
            line.set_data(*points)
            if three:
                line.set_3d_properties(value(*points))
        return list(lines)

    return FuncAnimation(ax.figure, show, frames=range(0, steps + 1, max(1, steps // 75)), interval=60, blit=not three)


def loss_landscape(
    net: Sequential, X: Any, y: Any, *, parameters: tuple[int, int] = (0, 1), directions: Any = None, span: float = 2.0,
    n: int = 60, ax: Any = None,
) -> Any:  # fmt: skip
    """The loss over two parameters, or along two directions of the parameter space, around the network's parameters.

    Parameters
    ----------
    net : Sequential
        Is not changed.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    parameters : pair of int, default (0, 1)
        Numbers of two parameters: the axes show their values.
    directions : array (2, n_parameters), optional
        In their place: the axes show the multiples that are added.
    span : float, default 2.0
        From minus to plus so much.
    n : int, default 60
        Points along each axis.
    ax : Axes, optional
        In three dimensions if it is such.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> ax = fg.plots.loss_landscape(net, [0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('W1[0, 0]', 'b1[0, 0]')
    """
    check_network(net)
    n = as_count(n, "n", least=2)
    if directions is None:
        if not (isinstance(parameters, Sequence) and len(parameters) == 2):
            raise TypeError(f"parameters: expected two numbers of parameters, got {parameters!r}")
        parameters = as_count(parameters[0], "parameters", least=0), as_count(parameters[1], "parameters", least=0)
        if max(parameters) >= net.n_parameters:
            raise ValueError(f"parameters: expected two numbers below {net.n_parameters}, got {parameters!r}")
        basis = np.zeros((2, net.n_parameters))
        basis[[0, 1], list(parameters)] = 1.0
        centre = [float(net.parameters[i]) for i in parameters]
        labels = [_parameter_name(net, i) for i in parameters]
    else:
        basis = as_floats(directions, "directions", np.dtype("f8"))
        centre, labels = [0.0, 0.0], ["direction 1", "direction 2"]
        if basis.shape != (2, net.n_parameters):
            raise ValueError(f"directions: expected shape (2, {net.n_parameters}), got {basis.shape}")
    span = as_number(span, "span", above=0.0)
    steps = np.linspace(-span, span, n)
    batch = net._engine.batch(X, y)
    losses = np.empty((n, n))
    compute = net._engine.candidate_losses(batch, n * n)
    for v, row in zip(steps, losses, strict=True):
        points = net.parameters + steps[:, np.newaxis] * basis[0] + v * basis[1]
        compute(np.ascontiguousarray(points, dtype=net.dtype), row)
    if not np.isfinite(losses).any():
        raise ValueError("X: expected data with which some loss is finite, got none")
    ax = _axes(ax)
    _landscape(ax, *np.meshgrid(steps + centre[0], steps + centre[1]), losses)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    return ax


def _landscape(ax: Any, x: Array, y: Array, z: Array) -> None:
    """Filled contours, or a surface; levels are closer where the surface is low."""
    if hasattr(ax, "plot_surface"):
        ax.plot_surface(x, y, np.minimum(z, np.quantile(z, 0.9)), cmap="viridis", alpha=0.7, linewidth=0)
        return
    low, high = float(np.nanmin(z)), float(np.nanquantile(z, 0.97))
    levels = low + (high - low) * np.linspace(0, 1, 25) ** 2
    if not np.all(np.diff(levels) > 0):
        levels = np.linspace(low - 1, low + 1, 3)
    filled = ax.contourf(x, y, z, levels=levels, cmap="viridis", extend="both")
    ax.contour(x, y, z, levels=levels, colors="white", linewidths=0.3, alpha=0.6)
    ax.figure.colorbar(filled, ax=ax, label="loss", format="%.3g")


def taylor(net: Sequential, X: Any, y: Any, *, span: float = 2.0, n: int = 80, ax: Any = None) -> Any:
    """The loss along the negative gradient, with its Taylor polynomials of first and second order.

    L(W + t d) ~ L + t g^T d + t^2/2 d^T H d, with d = -g / norm(g). Newton's step goes to the minimum of the parabola.

    Parameters
    ----------
    net : Sequential
        Of dtype float64. Is the same afterwards.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    span : float, default 2.0
        t from minus to plus so much.
    n : int, default 80
        Points.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape, or the gradient is 0.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> loss, line, parabola = fg.plots.taylor(net, [0.0, 1.0, 2.0], [1.0, 3.0, 5.0]).lines
    >>> bool(abs(loss.get_ydata() - parabola.get_ydata()).max() < 1e-6)  # this loss is a parabola
    True
    """
    check_network(net)
    span, n = as_number(span, "span", above=0.0), as_count(n, "n", least=2)
    curvature = hessian(net, X, y)
    value, g = net.loss_and_gradient(X, y)
    size = float(np.linalg.norm(g))
    if size == 0.0:
        raise ValueError("net: expected parameters where the gradient is not 0")
    d, t = -g / size, np.linspace(-span, span, n)
    batch, losses = net._engine.batch(X, y), np.empty(n)
    net._engine.candidate_losses(batch, n)(net.parameters + t[:, np.newaxis] * d, losses)
    if not np.isfinite(losses).all():
        raise ValueError("X: expected data with which the loss is finite along the line, got others")
    ax = _axes(ax)
    ax.plot(t, losses, color="black", label="loss")
    ax.plot(t, value - t * size, ":", color=COLOURS[0], label="first order")
    ax.plot(t, value - t * size + t**2 / 2 * (d @ curvature @ d), "--", color=COLOURS[1], label="second order")
    low, high = float(losses.min()), float(losses.max())
    ax.set(xlabel="distance along the negative gradient", ylabel="loss", ylim=(low - 0.2 * (high - low), high))
    ax.legend()
    return ax


# ---- a network ----------------------------------------------------------------------------------------


def network(net: Sequential, *, span: float = 3.0, n: int = 40, ax: Any = None) -> Any:
    """The units of a network of two features: a small map of what each sees of its input; lines are weights.

    Parameters
    ----------
    net : Sequential
        With two features, and at most 12 units in a layer.
    span : float, default 3.0
        Maps show both features from minus to plus so much.
    n : int, default 40
        Points along each side of a map.
    ax : Axes, optional

    Returns
    -------
    Axes
        Its insets are the maps. A line is as wide as its weight; blue and solid if it is positive, orange and dashed
        if it is negative.

    Raises
    ------
    TypeError, ValueError
        If the network has another number of features, or wider layers.

    Examples
    --------
    >>> import fusegrad as fg
    >>> ax = fg.plots.network(fg.Sequential(fg.Linear(2, 4), fg.Tanh(), fg.Linear(4, 1), rng=0))
    >>> len(ax.child_axes), len(ax.lines)
    (7, 12)
    """
    check_network(net)
    span, n = as_number(span, "span", above=0.0), as_count(n, "n", least=2)
    if net.n_features != 2:
        raise ValueError(f"net: expected two features, got {net.n_features}")
    widths = [2, *(layer.n_out for layer in net.dense_layers)]
    if max(widths) > 12:
        raise ValueError(f"net: expected at most 12 units in a layer, got {max(widths)}")
    ax = _axes(ax, (2.2 * len(widths) + 0.5, 0.8 * max(widths) + 0.6))
    side = np.linspace(-span, span, n)
    x, y = np.meshgrid(side, side)
    layers = reference.layers_of(net, "float64")
    inputs, *after = reference.activations(layers, np.stack([x.ravel(), y.ravel()]))
    columns = [inputs, *(a for a, (weight, *_) in zip(after, layers, strict=True) if weight.ndim == 2)]  # no scale
    weights = [view for name, view in net.named_parameters().items() if name[0] == "W"]
    places = [[(2.0 * i, 0.5 * (width - 1) - j) for j in range(width)] for i, width in enumerate(widths)]
    for i, W in enumerate(weights):
        largest = float(np.abs(W).max()) or 1.0
        for (k, j), w in np.ndenumerate(W):
            (x0, y0), (x1, y1) = places[i][j], places[i + 1][k]
            positive = w >= 0
            ax.plot(
                [x0 + 0.36, x1 - 0.36], [y0, y1], color=COLOURS[0 if positive else 1],
                linestyle="-" if positive else "--", linewidth=0.3 + 3.0 * abs(w) / largest, zorder=1,
            )  # fmt: skip
    for column, units in zip(columns, places, strict=True):
        for values, (cx, cy) in zip(column, units, strict=True):
            inset = ax.inset_axes([cx - 0.36, cy - 0.36, 0.72, 0.72], transform=ax.transData)
            largest = float(np.abs(values).max()) or 1.0
            inset.imshow(values.reshape(n, n), origin="lower", cmap="PuOr_r", vmin=-largest, vmax=largest)
            inset.set(xticks=[], yticks=[])
    high = 0.5 * max(widths)
    ax.set(xlim=(-0.6, 2.0 * len(weights) + 0.6), ylim=(-high - 0.1, high + 0.1), aspect="equal")
    ax.axis("off")
    return ax


def delta_norms(net: Sequential, X: Any, y: Any, *, ax: Any = None) -> Any:
    """The norm of delta in each layer: where gradients vanish, or explode.

    Parameters
    ----------
    net : Sequential
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> layers = [part for _ in range(6) for part in (fg.Linear(4, 4), fg.Sigmoid())]
    >>> net = fg.Sequential(*layers, dtype="float64", rng=0)
    >>> ax = fg.plots.delta_norms(net, np.ones((4, 10)), np.zeros((4, 10)))
    >>> norms = ax.lines[0].get_ydata()
    >>> len(norms), bool(norms[0] < norms[-1] / 100)
    (6, True)
    """
    check_network(net)
    if not net._engine.loss_compiled:
        raise TypeError(f"net: expected a loss of fusegrad.losses, got {net.loss_function!r}")
    batch = net._engine.batch(X, y)
    layers = reference.layers_of(net, "float64")
    x = reference.activations(layers, batch.X.astype("f8"))
    targets = batch.y if net._engine.classes is not None and len(batch.y) == 1 else batch.y.astype("f8")
    _, deltas = reference.deltas(layers, x, targets, reference.objective_of(net))
    ax = _axes(ax)
    ax.semilogy(range(1, len(deltas) + 1), [np.linalg.norm(delta) for delta in deltas], "o-", color=COLOURS[0])
    ax.set(xlabel="layer", ylabel="norm of delta")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def gradient_check_curve(net: Sequential, X: Any, y: Any, *, rng: Any = 0, ax: Any = None) -> Any:
    """The error of central differences against their step h: a V of rounding errors and of the third derivative.

    Parameters
    ----------
    net : Sequential
        Of dtype float64. Is the same afterwards.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    rng : None, int or numpy.random.Generator, default 0
        Draws the direction along which the derivative is taken.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> data = np.random.default_rng(0)
    >>> net = fg.TwoLayerSigmoid(3, 8, dtype="float64", rng=0)
    >>> ax = fg.plots.gradient_check_curve(net, data.normal(size=(3, 50)), data.normal(size=50))
    >>> h, error = ax.lines[0].get_data()
    >>> bool(1e-7 < h[error.argmin()] < 1e-3)
    True
    """
    check_network(net)
    if net.dtype != np.float64:
        raise TypeError(f"net: expected a network of dtype float64, got {net.dtype}")
    direction = as_generator(rng).normal(size=net.n_parameters)
    direction /= np.linalg.norm(direction)
    steps = np.logspace(-12, 0, 49)
    slope = net.loss_and_gradient(X, y)[1] @ direction
    start, losses = net.parameters.copy(), []
    try:
        for h in (*steps, *-steps):
            net.parameters = start + h * direction
            losses.append(net.loss(X, y))
    finally:
        net.parameters = start
    found = np.subtract(losses[: steps.size], losses[steps.size :]) / (2 * steps)
    ax = _axes(ax)
    ax.loglog(steps, np.maximum(np.abs(found - slope) / abs(slope), 1e-17), "o-", color=COLOURS[0], markersize=4)
    ax.set(xlabel="h", ylabel="relative error", title="(L(W + h d) - L(W - h d)) / 2h against the gradient")
    return ax


def input_gradient(
    net: Sequential, x: Any, names: Sequence[str] | None = None, *, output: int = 0, ax: Any = None
) -> Any:
    """Which input drove this prediction: the derivative of an output with respect to each feature of one example.

    Parameters
    ----------
    net : Sequential
    x : array (n_features,)
    names : list of str, optional
        Of the features.
    output : int, default 0
        The number of the output.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.MultivariateRegression(2, dtype="float64", rng=0)
    >>> net.parameters = [3.0, -1.0, 0.0]
    >>> [float(bar.get_width()) for bar in fg.plots.input_gradient(net, [1.0, 1.0], ["weight", "age"]).patches]
    [3.0, -1.0]
    """
    check_network(net)
    x = as_floats(x, "x", net.dtype)
    if x.shape not in ((net.n_features,), (net.n_features, 1)):
        raise ValueError(f"x: expected one example of {net.n_features} features, got shape {x.shape}")
    x = x.reshape(net.n_features, 1)
    wanted = np.zeros((net.n_outputs, 1), net.dtype)
    wanted[_output(net, output)] = 1.0
    values = net.input_gradient(x, output_gradient=wanted)[:, 0]
    labels = [label.replace("$", r"\$") for label in _names(names, values.size)]
    ax = _axes(ax, (6.0, 0.35 * values.size + 1.2))
    places = range(values.size)  # two features may have one name
    ax.barh(places, values.tolist(), color=[COLOURS[0 if value >= 0 else 1] for value in values])
    ax.set_yticks(places, labels)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.set(xlabel=f"derivative of output {output}")
    return ax


# ---- a fit --------------------------------------------------------------------------------------------


def history(history: History, *, ax: Any = None) -> Any:
    """The loss of each epoch, and of the validation data, on a logarithmic scale if all are positive.

    Parameters
    ----------
    history : History
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(rng=0)
    >>> found = net.fit([0.0, 1.0], [1.0, 2.0], optimizer=fg.SGD(lr=0.1), epochs=20)
    >>> len(fg.plots.history(found).lines[0].get_xdata())
    20
    """
    if not isinstance(history, History):
        raise TypeError(f"history: expected what fit returns, got {type(history).__name__}")
    ax = _axes(ax)
    columns = {name: values for name, values in history.to_dict().items() if name in ("loss", "validation_loss")}
    for i, (name, values) in enumerate(columns.items()):
        label = name.replace("_", " ")
        ax.plot(range(1, len(values) + 1), values, color=COLOURS[i], linestyle=STYLES[i], label=label)
    if all(value > 0 for values in columns.values() for value in values):
        ax.set_yscale("log")
    best = history.best_epoch
    if len(columns) > 1 and best is not None:
        ax.axvline(best + 1, color="#777777", linewidth=0.8, linestyle=":", label=f"best epoch: {best + 1}")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.legend()
    return ax


def predicted(net: Sequential, X: Any, y: Any, *, output: int = 0, ax: Any = None) -> Any:
    """Predictions against measured values; on the line they would be right.

    With the loss "poisson" the predictions are the expected counts, with "binary_cross_entropy" the probabilities.

    Parameters
    ----------
    net : Sequential
    X : array (n_features, m)
    y : array (n_outputs, m)
    output : int, default 0
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> ax = fg.plots.predicted(net, [0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    >>> ax.collections[0].get_offsets().shape
    (3, 2)
    """
    check_network(net)
    if net._engine.classes is not None:
        raise ValueError(f"net: expected a network that predicts numbers, got classes by {net.loss_function!r}")
    batch = net._engine.batch(X, y)
    output = _output(net, output)
    measured, found = batch.y[output], mean_of(net.loss_function, net.forward(batch.X))[output]
    ax = _axes(ax, (4.6, 4.4))
    ax.scatter(measured, found, s=14, alpha=0.6, color=COLOURS[0], linewidths=0)
    ends = [float(min(measured.min(), found.min())), float(max(measured.max(), found.max()))]
    ax.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
    ax.set(xlabel="measured", ylabel="predicted", aspect="equal")
    return ax


def schedules(schedules: Mapping[str, Callable[[int], float]], steps: int, *, ax: Any = None) -> Any:
    """Learning rates against the step.

    Parameters
    ----------
    schedules : dict of names to callables
    steps : int
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import fusegrad as fg
    >>> ax = fg.plots.schedules({"exponential": fg.ExponentialDecay(0.1, 0.05), "constant": lambda step: 0.1}, 100)
    >>> len(ax.lines)
    2
    """
    steps = as_count(steps, "steps")
    schedules = _named(schedules, "schedules", callable, "schedule")
    ax = _axes(ax)
    for i, (name, schedule) in enumerate(schedules.items()):
        rates = [schedule(step) for step in range(steps)]
        ax.plot(rates, color=COLOURS[i % 7], linestyle=STYLES[i % 7], label=name)
    ax.set(xlabel="step", ylabel="learning rate")
    ax.legend()
    return ax


# ---- notebooks ----------------------------------------------------------------------------------------


def sliders(draw: Callable[..., Any], **ranges: Any) -> Any:
    """In a notebook: sliders for the arguments of a function that draws. In a script it draws once.

    Parameters
    ----------
    draw : callable
        Called with an argument for each slider, at first with its own defaults. It draws on new Axes.
    **ranges : tuple or list
        By name of the argument: (low, high, step), or a list of choices, as for `ipywidgets.interactive`.

    Returns
    -------
    ipywidgets.Widget, or what `draw` returns
        The sliders above the picture, in a notebook; it is the value of the last line of a cell.

    Raises
    ------
    TypeError
        If `draw` has no argument of such a name, or no default for it.
    ModuleNotFoundError
        In a notebook without ipywidgets: ``pip install "fusegrad[notebooks]"``.

    Examples
    --------
    >>> import fusegrad as fg
    >>> def rates(lr=0.1, decay=0.05):
    ...     return fg.plots.schedules({"exponential": fg.ExponentialDecay(lr, decay)}, 100)
    >>> ax = fg.plots.sliders(rates, lr=(0.01, 1.0, 0.01), decay=(0.0, 0.2, 0.01))
    """
    if not callable(draw):
        raise TypeError(f"draw: expected a function, got {draw!r}")
    try:
        signature = inspect.signature(draw)
    except ValueError:
        raise TypeError(f"draw: expected a function written in Python, got {draw!r}") from None
    for name in ranges:
        if name not in signature.parameters or signature.parameters[name].default is inspect.Parameter.empty:
            raise TypeError(f"{name}: expected an argument of draw with a default, got draw{signature}")
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return draw()
    try:
        from ipywidgets import interactive
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('ipywidgets is not installed: pip install "fusegrad[notebooks]"') from error
    return interactive(draw, **ranges)


# ---- helpers ------------------------------------------------------------------------------------------


def _axes(ax: Any, size: tuple[float, float] = (6.4, 4.4), *, three: bool = False) -> Any:
    if ax is None:
        return new_axes(size, three=three)
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected Axes of matplotlib, got {type(ax).__name__}")
    return ax


def _names(names: Any, n: int) -> list[str]:
    """So many names; x0, x1 and so on if there are none."""
    if names is None:
        return [f"x{i}" for i in range(n)]
    if isinstance(names, (str, bytes, Mapping, Set)) or not isinstance(names, Iterable):
        raise TypeError(f"names: expected a list of {n} names, got {names!r}")
    found = [str(part) for part in names]
    if len(found) != n:
        raise ValueError(f"names: expected {n}, got {len(found)}")
    return found


def _named(values: Any, name: str, check: Callable[[Any], bool], what: str) -> dict[str, Any]:
    """A dict of names to things of one kind."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{name}: expected a dict of names to {what}s, got {type(values).__name__}")
    if not values:
        raise ValueError(f"{name}: expected at least one {what}, got none")
    for key, value in values.items():
        if not check(value):
            raise TypeError(f"{name}[{key!r}]: expected {what}s, got {value!r}")
    return dict(values)


def _output(net: Sequential, output: Any) -> int:
    number = as_count(output, "output", least=0)
    if number >= net.n_outputs:
        raise ValueError(f"output: expected a number below {net.n_outputs}, got {number}")
    return number


def _parameter_name(net: Sequential, i: int) -> str:
    """Such as "W1[0, 2]"."""
    for name, places in net.unflatten(np.arange(net.n_parameters)).items():
        found = np.argwhere(places == i)
        if found.size:
            return f"{name}[{found[0, 0]}, {found[0, 1]}]"
    raise ValueError(f"parameters: expected numbers below {net.n_parameters}, got {i}")
