"""The moments of a data set, from which a linear network trains. See cython_kernels/training/moments.pxi."""

from typing import NamedTuple

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.validation import Array

CHUNK = 4096  # examples at a time: they stay in the cache while they are converted, centred and multiplied


class Moments(NamedTuple):
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
    m = X.shape[1]
    sums = MomentSums(len(X), len(y), m)
    for i in range(-(-m // CHUNK)):
        sums.add(i, X[:, i * CHUNK : (i + 1) * CHUNK], y[:, i * CHUNK : (i + 1) * CHUNK])
    return sums.moments()


class MomentSums:
    """The sums of `moments`, to which chunks are added one after the other."""

    def __init__(self, n_in: int, n_out: int, m: int) -> None:
        n, n_chunks = n_in + n_out, -(-m // CHUNK)
        self.m, self.n_in = m, n_in
        self.products = np.zeros((n, n))
        self.means, self.rests = np.zeros((2, n, n_chunks))  # of each chunk: its means, and its means after the shift
        self.shift = np.zeros(n)
        self._chunk, self._ones, self._sums = np.empty((n, CHUNK)), np.ones((CHUNK, 1)), np.empty((n, 1))
        self._parts = np.empty((n_in, n_in)), np.empty((n_out, n_in)), np.empty((n_out, n_out))

    def add(self, i: int, X: Array, y: Array) -> None:
        """Add the i-th chunk of examples."""
        matmul, centre = by_dtype[np.dtype("float64")].matmul, by_dtype[X.dtype].centre
        n_in = self.n_in
        if i == 0:
            # Copies of one layout, since the order of NumPy's sums depends on it.
            parts = [np.ascontiguousarray(part) for part in (X, y)]
            self.shift[:] = np.concatenate([part.mean(axis=1, dtype="float64") for part in parts])
        z = self._chunk[:, : X.shape[1]]
        x, t = z[:n_in], z[n_in:]
        centre(X, self.shift[:n_in], x)
        centre(y, self.shift[n_in:], t)
        # Three products, of whole panels if X has them: they take a quarter less time than one product of all rows.
        xx, yx, yy = self._parts
        for left, right, product in ((x, x, xx), (t, x, yx), (t, t, yy)):
            matmul(left, right.T, product, 1)
        self.products[:n_in, :n_in] += xx
        self.products[n_in:, :n_in] += yx
        self.products[n_in:, n_in:] += yy
        matmul(z, self._ones[: z.shape[1]], self._sums, 1)
        np.divide(self._sums[:, 0], z.shape[1], out=self.rests[:, i])
        self.shift += self.rests[:, i]
        self.means[:, i] = self.shift

    def moments(self) -> Moments:
        """The moments of all chunks."""
        matmul = by_dtype[np.dtype("float64")].matmul
        n, n_in, m, products, means, rests = len(self.shift), self.n_in, self.m, self.products, self.means, self.rests
        products[:n_in, n_in:] = products[n_in:, :n_in].T
        counts = np.minimum(CHUNK, m - CHUNK * np.arange(means.shape[1], dtype="float64"))
        mean, within, between = np.empty((n, 1)), np.empty((n, n)), np.empty((n, n))
        matmul(means, counts[:, np.newaxis] / m, mean, 1)
        means -= mean
        matmul(rests * counts, rests.T, within, 1)
        matmul(means * counts, means.T, between, 1)
        return Moments(mean[:, 0], products - within + between)
