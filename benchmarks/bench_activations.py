"""sigmoid and tanh beside the NumPy reference."""

import pytest

import fusegrad as fg


@pytest.mark.parametrize("n", [32, 4096, 10**6])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def bench_activation(name, n, dtype, data, compare, system):
    z = data(n, dtype)
    compare(
        f"{name} {n} {dtype}", system,
        lambda: fg.kernels.apply(z, name), lambda: fg.reference.ACTIVATIONS[name](z),
        1e-6 if dtype == "float32" else 1e-14,
    )  # fmt: skip
