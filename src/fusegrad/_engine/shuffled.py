"""A copy of X or y in which the values of each example are contiguous: shuffled steps read it up to twice as fast.

The copy is made in blocks, by NumPy: a block's columns stay in the L1, whatever the strides are. It costs what it saves
in a fifth of an epoch to one and a half, mostly in a third. So it is refreshed before each stretch of epochs, and has
what a callback has changed in X. Signal handlers run between two blocks.
"""

from contextlib import suppress

import numpy as np

from fusegrad._engine.plan import copy_pays
from fusegrad._engine.validation import Array

FEATURES, EXAMPLES = 16, 4096  # of a block


class ExampleMajor:
    """An array (n, m) for shuffled steps: the array itself, or its copy where that pays and memory allows it."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._copy: Array | None = None
        if copy_pays(array):
            with suppress(MemoryError):  # the steps then read the array itself, with the same result
                self._copy = np.empty(array.shape, array.dtype, order="F")

    def current(self) -> Array:
        """The array (n, m) with its present values."""
        source, target = self._array, self._copy
        if target is None:
            return source
        for j in range(0, source.shape[1], EXAMPLES):
            for i in range(0, source.shape[0], FEATURES):
                block = slice(i, i + FEATURES), slice(j, j + EXAMPLES)
                target[block] = source[block]
        return target
