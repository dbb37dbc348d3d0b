"""The moments of a data set, from which a linear network trains. See cython_kernels/training/moments.pxi."""

from dataclasses import dataclass

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.validation import Array

CHUNK = 4096  # examples at a time: they stay in the cache while they are converted, centred and multiplied


@dataclass(frozen=True, slots=True)
class Moments:
    """Means and centred products of the rows of X and y together, in float64."""

    means: Array  # (n,)
    products: Array  # (n, n): the sum over examples of (z - mean)(z - mean)^T


def moments(X: Array, y: Array) -> Moments:
    """The moments of examples in columns, in one pass.

    Each chunk is shifted by the mean s of the previous one, which removes most of its own mean. Its products are
    centred by the remaining mean r: sum (z - s)(z - s)^T - n r r^T. The differences of the means of the chunks are
    added at the end. Digits cancel only in a chunk unlike the previous one, and then this difference is a large part of
    the result. If the data are not finite, the moments are NaN, and no step is computed from them.
    """
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return _moments(X, y)
    except SystemError as error:  # NumPy 2.4 loses the MemoryError of its loops' buffers
        raise MemoryError("for the moments of the data") from error


def _moments(X: Array, y: Array) -> Moments:
    matmul, centre = by_dtype[np.dtype("float64")].matmul, by_dtype[X.dtype].centre
    n_in, m = X.shape
    n = n_in + y.shape[0]
    chunk, ones, sums = np.empty((n, CHUNK)), np.ones((CHUNK, 1)), np.empty((n, 1))
    products = np.zeros((n, n))
    xx, yx, yy = np.empty((n_in, n_in)), np.empty((n - n_in, n_in)), np.empty((n - n_in, n - n_in))
    starts = range(0, m, CHUNK)
    means, rests = np.empty((2, n, len(starts)))  # of each chunk: its means, and its means after the shift
    shift = np.concatenate([part[:, :CHUNK].mean(axis=1, dtype="float64") for part in (X, y)])
    for i, start in enumerate(starts):
        z = chunk[:, : min(CHUNK, m - start)]
        x, t = z[:n_in], z[n_in:]
        centre(X[:, start : start + CHUNK], shift[:n_in], x)
        centre(y[:, start : start + CHUNK], shift[n_in:], t)
        # Three products, of whole panels if X has them: they take a quarter less time than one product of all rows.
        for left, right, product in ((x, x, xx), (t, x, yx), (t, t, yy)):
            matmul(left, right.T, product, 1)
        products[:n_in, :n_in] += xx
        products[n_in:, :n_in] += yx
        products[n_in:, n_in:] += yy
        matmul(z, ones[: z.shape[1]], sums, 1)
        np.divide(sums[:, 0], z.shape[1], out=rests[:, i])
        shift += rests[:, i]
        means[:, i] = shift
    products[:n_in, n_in:] = products[n_in:, :n_in].T
    counts = np.minimum(CHUNK, m - np.array(starts, dtype="float64"))
    mean, within, between = np.empty((n, 1)), np.empty((n, n)), np.empty((n, n))
    matmul(means, counts[:, np.newaxis] / m, mean, 1)
    means -= mean
    matmul(rests * counts, rests.T, within, 1)
    matmul(means * counts, means.T, between, 1)
    return Moments(mean[:, 0], products - within + between)
