"""Newton's method, as far as the lessons go: one step to the optimum of a linear network; the Hessian by differences.

Newton's step is W -= H^-1 g with the Hessian H, the matrix of second derivatives. The loss of one linear layer is
quadratic, so that a single step ends at its minimum. For other networks H has P^2 elements, and a step costs P
gradients and a solution of P equations: too much for more than some hundred parameters.
"""

from typing import Any

import numpy as np

from fusegrad._engine.validation import Array
from fusegrad.networks import Sequential, check_network


def newton(net: Sequential, X: Any, y: Any, *, sample_weight: Any = None) -> float:
    """One step of Newton's method: to the optimum of a network that is one linear layer with the squared error.

    W -= H^-1 g, with H = (2 / sum w) sum_i w_i x_i x_i^T + l2 I (no l2 for biases), x_i with a 1 for the bias. The
    step d is computed as the least squares solution of [sqrt(2 w_i / sum w) (x_i^T d + r_i); sqrt(l2) (d + W)] with the
    residuals r, by singular values: H has the square of their condition.

    Parameters
    ----------
    net : Sequential
        A `UnivariateRegression`, a `MultivariateRegression`, or any network of a `Linear` alone and the squared error.
    X : array (n_features, m)
    y : array (n_outputs, m)
    sample_weight : array (m,), optional
        As for `Sequential.loss`.

    Returns
    -------
    float
        The loss after the step.

    Raises
    ------
    TypeError, ValueError
        If the network is another one, an array is of the wrong kind or shape, or the loss is not finite; nothing is
        written then.
    RuntimeError
        If this network is being trained already.

    Notes
    -----
    Computed in float64 by NumPy, in the calling thread. If the optimum is not unique (as with fewer examples than
    features, or with a constant feature), the step is the shortest one, of features that are centred (if there is a
    bias) and equally large. An overridden `loss` is not called.

    References
    ----------
    Golub, G. H. and Van Loan, C. F. (2013). Matrix computations. Section 5.5: rank-deficient least squares.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> loss = fg.second_order.newton(net, [0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    >>> net.parameters.round(9), loss < 1e-20
    (array([2., 1.]), True)
    """
    check_network(net)
    layers = net.dense_layers
    if len(layers) > 1 or not layers[0].is_linear or layers[0].scale is not None or not net._engine.squared_error:
        raise ValueError(f"net: expected a network of one Linear layer and the squared error, got {net!r}")
    engine, (layer,) = net._engine, layers
    batch = engine.batch(X, y, sample_weight)
    with engine.lock:
        if not np.isfinite(engine.gradient_of(engine.compiled(batch.X.shape[1]), batch, engine.parameters, None)):
            raise ValueError("X: expected data with which the loss is finite, got others")
        named = net.named_parameters()
        X, y = batch.X.astype("f8"), batch.y.astype("f8")
        w = np.ones(X.shape[1]) if batch.weights is None else batch.weights.astype("f8")
        # Of the bias, too, if there is one: its feature is 1. Then X is centred, and b becomes b + W mean.
        point = np.hstack([view.astype("f8") for view in named.values()])
        mean = np.zeros(layer.n_in)
        if layer.bias is not None:
            mean = np.average(X, axis=1, weights=w)
            mean[~np.isfinite(mean)] = 0.0  # overflow
            counted = X[:, w > 0]
            constant = (counted == counted[:, :1]).all(axis=1)
            mean[constant] = counted[constant, 0]  # the mean may be rounded: what is left would look like a feature
        rows = X - mean[:, np.newaxis]
        if layer.bias is not None:
            rows = np.vstack([rows, np.ones(X.shape[1])])
            point[:, -1] += point[:, :-1] @ mean
        root, penalty = np.sqrt(2 * w / w.sum()), np.sqrt(net.l2) * np.eye(layer.n_in, len(rows))
        A = np.vstack([(rows * root).T, penalty])
        # Columns of equal size: which singular values are 0 then does not depend on the units of the features.
        size = np.abs(A).max(axis=0)
        size[size == 0] = 1.0
        for _ in range(2):  # the second time for the rounding errors of the residuals of the first
            b = np.vstack([((point @ rows - y) * root).T, penalty @ point.T])
            point -= (np.linalg.lstsq(A / size, b, rcond=None)[0] / size[:, np.newaxis]).T
        if layer.bias is not None:
            point[:, -1] -= point[:, :-1] @ mean
        with np.errstate(over="ignore"):
            parts = point.astype(net.dtype)
        if not np.isfinite(parts).all():
            raise ValueError(
                f"X: expected data whose optimum {net.dtype} can hold, got a parameter of {point.max():.3g}"
            )
        named["W1"][:] = parts[:, : layer.n_in]
        if layer.bias is not None:
            named["b1"][:] = parts[:, layer.n_in :]
        return engine.gradient_of(engine.compiled(batch.X.shape[1]), batch, engine.parameters, None)


def hessian(net: Sequential, X: Any, y: Any, *, sample_weight: Any = None) -> Array:
    """The matrix of the second derivatives of the loss, by central differences of the gradient.

    H_ij = (g_i(W + h e_j) - g_i(W - h e_j)) / 2 h, with h = 1e-5 max(1, abs(W_j)); then (H + H^T) / 2. It costs
    2 P gradients and P^2 elements: for a few hundred parameters.

    Parameters
    ----------
    net : Sequential
        Of dtype float64. Its parameters are the same afterwards.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    sample_weight : array (m,), optional
        As for `Sequential.loss`.

    Returns
    -------
    array (n_parameters, n_parameters)
        Right to about 1e-9 of its largest element, away from corners of ReLU.

    Raises
    ------
    TypeError, ValueError
        If the network is not of float64, or an array is of the wrong kind or shape.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> fg.second_order.hessian(net, [0.0, 1.0, 2.0], [1.0, 3.0, 5.0]).round(6)
    array([[3.333333, 2.      ],
           [2.      , 2.      ]])
    """
    check_network(net)
    if net.dtype != np.float64:
        raise TypeError(f"net: expected a network of dtype float64, got {net.dtype}")
    engine = net._engine
    batch = engine.batch(X, y, sample_weight)
    compiled = engine.compiled(batch.X.shape[1])
    n, point = engine.n_parameters, engine.parameters.copy()
    result, above, below = np.empty((n, n)), np.empty(n), np.empty(n)
    for j in range(n):
        value, h = point[j], 1e-5 * max(1.0, abs(point[j]))
        for gradient, at in ((above, value + h), (below, value - h)):
            point[j] = at
            engine.gradient_of(compiled, batch, point, gradient)
        point[j] = value
        np.subtract(above, below, out=result[j])
        result[j] /= (value + h) - (value - h)
    return (result + result.T) / 2
