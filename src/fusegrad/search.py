"""Random search: parameters are drawn, and the best are kept. The lessons' first idea, and the baseline that it is."""

from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.engine import NetworkEngine
from fusegrad._engine.validation import Array, as_count, as_generator, as_number
from fusegrad.networks import Sequential, check_network

CHUNK_BYTES = 8 << 20  # of candidates that are drawn together


class RandomSearch(NamedTuple):
    """What `random_search` returns.

    Attributes
    ----------
    losses : array (n,), float64
        Of each candidate, in the order in which they were drawn.
    best : int
        The candidate with the smallest loss, the first of several; the network has its parameters.
    loss : float
        Its loss.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> fg.RandomSearch(np.array([2.0, 1.0]), 1, 1.0).loss
    1.0
    """

    losses: Array
    best: int
    loss: float


def random_search(
    net: Sequential,
    X: Any,
    y: Any,
    n: int,
    *,
    scale: float = 1.0,
    sample_weight: Any = None,
    rng: Any = None,
    n_threads: int | None = None,
) -> RandomSearch:
    """Draw n sets of parameters, compute the loss of each, and keep the best.

    All parameters are drawn independently from a normal distribution with mean 0. In P parameters the share of draws
    within a distance r of the optimum falls like r^P: gradient descent needs a few steps where this needs more draws
    than can be made.

    Parameters
    ----------
    net : Sequential
        Gets the best parameters.
    X : array (n_features, m)
    y : array (n_outputs, m), or class numbers (m,)
    n : int
        At least 1.
    scale : float, default 1.0
        The standard deviation of the parameters, more than 0.
    sample_weight : array (m,), optional
        As for `Sequential.loss`.
    rng : None, int or numpy.random.Generator
        Draws the parameters.
    n_threads : int, optional
        The most threads to use. They share the candidates; results do not depend on their number.

    Returns
    -------
    RandomSearch
        The loss of every candidate, the best one, and its loss.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape, or no loss is finite; the network is unchanged then.
    RuntimeError
        If this network is being trained already.

    Notes
    -----
    Compiled; losses are those of `Sequential.loss`, to the bit if there is no `l2`; an overridden one is not called.
    Candidates are drawn some at a time: the memory does not grow with n. Ctrl-C ends it; the network is unchanged then.

    Examples
    --------
    >>> import fusegrad as fg
    >>> X, y = fg.datasets.load_penguins()
    >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    >>> net = fg.UnivariateRegression(rng=0)
    >>> search = fg.random_search(net, X, y, 1000, rng=0)
    >>> search.losses.shape, search.loss == net.loss(X, y), search.loss < 0.26
    ((1000,), True, True)
    """
    check_network(net)
    n, scale, generator = as_count(n, "n"), as_number(scale, "scale", above=0.0), as_generator(rng)
    engine: NetworkEngine = net._engine
    batch = engine.batch(X, y, sample_weight)
    losses = np.empty(n)
    compute = engine.candidate_losses(batch, n, n_threads)
    best, least = None, np.inf
    count = max(1, min(n, CHUNK_BYTES // engine.parameters.nbytes))
    with engine.lock:
        for first in range(0, n, count):
            part = losses[first : first + count]
            candidates = generator.standard_normal((part.size, engine.n_parameters), engine.dtype)
            candidates *= scale
            compute(candidates, part)
            finite = np.where(np.isfinite(part), part, np.inf)
            lowest = int(finite.argmin())
            if finite[lowest] < least:
                best, least, parameters = first + lowest, float(finite[lowest]), candidates[lowest].copy()
        if best is None:
            raise ValueError("X: expected data with which some loss is finite, got none")
        engine.parameters[:] = parameters
    return RandomSearch(losses, best, least)
