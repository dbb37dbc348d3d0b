"""dense_forward and dense_backward beside the NumPy reference."""

import numpy as np
import pytest

import fusegrad as fg

SIZES = [(13, 50, 32), (16, 64, 256), (64, 128, 128), (8, 32, 10**5)]


def parts(arrays):
    return np.concatenate([array.ravel() for array in arrays])


@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_dense_forward(size, dtype, data, compare, system):
    n, k, m = size
    weight, x, bias = data((k, n), dtype), data((n, m), dtype), data((k, 1), dtype)
    compare(
        f"dense_forward {size} {dtype}", system,
        lambda: fg.kernels.dense_forward(weight, x, bias, "sigmoid"),
        lambda: fg.reference.dense_forward(weight, x, bias, "sigmoid"),
        1e-5 if dtype == "float32" else 1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_dense_backward(size, dtype, data, compare, system):
    n, k, m = size
    weight, x, grad = data((k, n), dtype), data((n, m), dtype), data((k, m), dtype) / m
    a = fg.reference.dense_forward(weight, x, None, "sigmoid")
    compare(
        f"dense_backward {size} {dtype}", system,
        lambda: parts(fg.kernels.dense_backward(weight, x, a, grad, "sigmoid")),
        lambda: parts(fg.reference.dense_backward(weight, x, a, grad, "sigmoid")),
        1e-4 if dtype == "float32" else 1e-12,
    )  # fmt: skip
