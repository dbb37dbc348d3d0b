"""Each group has two members, fusegrad and the NumPy reference; results are compared before they are timed."""

import numpy as np
import pytest


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return lambda shape, dtype: rng.normal(size=shape).astype(dtype)


@pytest.fixture
def compare(benchmark):
    """compare(group, system, ours, theirs): asserts that both agree, then times the one asked for."""

    def run(group, system, ours, theirs, tolerance):
        np.testing.assert_allclose(ours(), theirs(), rtol=tolerance, atol=tolerance)
        benchmark.group = group
        benchmark(ours if system == "fusegrad" else theirs)

    return run


@pytest.fixture(params=["fusegrad", "numpy"])
def system(request):
    return request.param
