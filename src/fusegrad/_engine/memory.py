"""Memory for arrays that the kernels read and write at each step."""

import math
from typing import Any

import numpy as np

from fusegrad._engine.compiled import runtime

CACHE_LINE = 64  # bytes


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> "np.ndarray[Any, Any]":
    """`numpy.zeros`, from a cache line on: a vector that lies in two lines takes twice as long to load."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    first = runtime.bytes_before_line(memory, CACHE_LINE)  # NumPy's own ways crash if memory runs out, or import ctypes
    return memory[first : first + size].view(dtype).reshape(shape)


def aligned_copy(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A copy in C order, from a cache line on."""
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy
