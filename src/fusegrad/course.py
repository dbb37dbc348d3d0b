"""The four networks of the course, and logistic regression: Sequential with their layers."""

from typing import Any

from fusegrad._engine.validation import as_count
from fusegrad.layers import Linear, Sigmoid
from fusegrad.networks import Sequential


class UnivariateRegression(Sequential):
    """Prediction w x + b of one feature: dw = g x^T, db = g 1, with g = (2/m)(prediction - y).

    Parameters
    ----------
    dtype, rng, init
        As for `Sequential`. This is the smallest one.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
    >>> history = net.fit([0.0, 1.0, 2.0], [1.0, 3.0, 5.0], optimizer=fg.SGD(lr=0.2), epochs=200)
    >>> net.parameters.round(3)
    array([2., 1.])
    """

    def __init__(self, *, dtype: Any = "float32", rng: Any = None, init: str | None = None) -> None:
        super().__init__(Linear(1, 1), dtype=dtype, rng=rng, init=init)


class MultivariateRegression(Sequential):
    """Prediction w X + b: dw = g X^T, db = g 1, with g = (2/m)(prediction - y).

    Parameters
    ----------
    n_features : int
    dtype, rng, init
        As for `Sequential`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.MultivariateRegression(6, rng=0).n_parameters
    7
    """

    def __init__(self, n_features: int, *, dtype: Any = "float32", rng: Any = None, init: str | None = None) -> None:
        super().__init__(Linear(as_count(n_features, "n_features"), 1), dtype=dtype, rng=rng, init=init)


class LogisticRegression(Sequential):
    """The probability sigmoid(w X + b) that y is 1: dw = g X^T, db = g 1, with g = (1/m)(probability - y).

    One unit with the binary cross-entropy -y log p - (1 - y) log(1 - p) of p = sigmoid(z), computed from z: the
    network's output is z, `probabilities` returns p, and `classes` 1 where p > 1/2.

    Parameters
    ----------
    n_features : int
    dtype, rng, init
        As for `Sequential`.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> X = np.array([[-2.0, -1.0, 1.0, 2.0]])
    >>> net = fg.LogisticRegression(1, dtype="float64", rng=0)
    >>> history = net.fit(X, X > 0, optimizer=fg.SGD(lr=1.0), epochs=100)
    >>> net.classes(X), bool(net.probabilities(X)[0, -1] > 0.99)
    (array([0, 0, 1, 1]), True)
    """

    def __init__(self, n_features: int, *, dtype: Any = "float32", rng: Any = None, init: str | None = None) -> None:
        layer = Linear(as_count(n_features, "n_features"), 1)
        super().__init__(layer, loss="binary_cross_entropy", dtype=dtype, rng=rng, init=init)


class TwoLayerLinear(Sequential):
    """Prediction w2 Z + b2, Z = W1 X + b1.

    dW1 = w2^T g X^T, db1 = w2^T g 1, dw2 = g Z^T, db2 = g 1, with g = (2/m)(prediction - y).

    Parameters
    ----------
    n_features, n_hidden : int
    dtype, rng, init
        As for `Sequential`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.TwoLayerLinear(6, 16, rng=0).n_parameters
    129
    """

    def __init__(
        self, n_features: int, n_hidden: int, *, dtype: Any = "float32", rng: Any = None, init: str | None = None
    ) -> None:
        n, k = as_count(n_features, "n_features"), as_count(n_hidden, "n_hidden")
        super().__init__(Linear(n, k), Linear(k, 1), dtype=dtype, rng=rng, init=init)


class TwoLayerSigmoid(Sequential):
    """Prediction w2 A + b2, A = sigmoid(W1 X + b1).

    delta = (w2^T g) A (1 - A); dW1 = delta X^T, db1 = delta 1, dw2 = g A^T, db2 = g 1,
    with g = (2/m)(prediction - y).

    Parameters
    ----------
    n_features, n_hidden : int
    dtype, rng, init
        As for `Sequential`.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.TwoLayerSigmoid(13, 50, rng=0).n_parameters
    751
    """

    def __init__(
        self, n_features: int, n_hidden: int, *, dtype: Any = "float32", rng: Any = None, init: str | None = None
    ) -> None:
        n, k = as_count(n_features, "n_features"), as_count(n_hidden, "n_hidden")
        super().__init__(Linear(n, k), Sigmoid(), Linear(k, 1), dtype=dtype, rng=rng, init=init)
