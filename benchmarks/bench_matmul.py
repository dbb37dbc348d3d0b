"""matmul beside NumPy's: square, tall, thin, transposed."""

import pytest

import fusegrad as fg

SHAPES = [(16, 16, 16), (64, 64, 64), (256, 256, 256), (512, 512, 512), (50, 13, 1000), (1, 50, 1000), (1000, 1000, 8)]


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_matmul(shape, transposed, dtype, data, compare, system):
    n, d, k = shape
    a, b = data((n, d), dtype), data((d, k), dtype)
    if transposed:
        a, b = a.T.copy().T, b.T.copy().T
    compare(
        f"matmul {shape}{' transposed' if transposed else ''} {dtype}", system,
        lambda: fg.kernels.matmul(a, b), lambda: fg.reference.matmul(a, b),
        1e-3 if dtype == "float32" else 1e-10,
    )  # fmt: skip
