"""sigmoid, tanh and ReLU: the accuracy promised, at the corners and over all of float32."""

import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from support import LANES, ulps

import fusegrad as fg

apply, sigmoid = fg.kernels.apply, fg.kernels.sigmoid

#: Units in the last place that are promised.
BOUND = {"float32": 1.5, "float64": 2.0}
WIDER = {"float32": np.float64, "float64": np.longdouble}


def exact(z, activation):
    """The function in a wider type; sigmoid by way of exp of what is not positive."""
    z = z.astype(WIDER[z.dtype.name])
    if activation == "tanh":
        return np.tanh(z)
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def worst(z, activation):
    with np.errstate(under="ignore"):
        return float(ulps(apply(z, activation), exact(z, activation)).max())


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_accuracy_sampled(activation, dtype):
    rng = np.random.default_rng(0)
    z = np.concatenate(
        [
            np.linspace(-120, 120, 200_001),
            np.linspace(-88, -87, 20_001),
            np.linspace(-709, -708, 20_001),
            rng.normal(size=200_000),
            rng.uniform(-750, 750, 100_000),
            np.ldexp(rng.uniform(-1, 1, 100_000), rng.integers(-140, 8, 100_000)),
        ]
    ).astype(dtype)
    assert worst(z, activation) <= BOUND[dtype]


def test_accuracy_where_polynomials_of_tanh_meet():
    bounds = np.array([2**octave * (1 + k / 4) - 1 for octave in range(4) for k in range(4)] + [9.1], "float32")
    z = (bounds.view("int32")[:, None] + np.arange(-2000, 2000)).astype("int32").view("float32")
    z = z[np.isfinite(z)]
    assert worst(np.concatenate([z, -z]), "tanh") <= BOUND["float32"]


def test_special_values(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    z = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0, tiny, -tiny, 1e4, -1e4], dtype)
    np.testing.assert_array_equal(sigmoid(z), np.array([0, 1, np.nan, 0.5, 0.5, 0.5, 0.5, 1, 0], dtype))
    np.testing.assert_array_equal(apply(z, "tanh"), np.array([-1, 1, np.nan, 0, -0.0, tiny, -tiny, 1, -1], dtype))
    assert np.signbit(apply(z, "tanh")[4])
    np.testing.assert_array_equal(apply(z, "relu"), np.array([0, np.inf, np.nan, 0, 0, tiny, 0, 1e4, 0], dtype))
    np.testing.assert_array_equal(apply(z, "identity"), z)


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "relu", "tanh"])
def test_every_length_and_layout(activation, dtype, rng):
    z = rng.normal(size=(5, 3 * LANES[dtype] + 1)).astype(dtype)
    z[3:] *= 100 if dtype == "float32" else 800  # some are saturated: the others beside them stay the same
    expected = np.array([[apply(np.array([v]), activation)[0] for v in row] for row in z])
    for n in range(z.shape[1] + 1):
        np.testing.assert_array_equal(apply(z[:, :n], activation), expected[:, :n])
    np.testing.assert_array_equal(apply(z.T, activation), expected.T)
    np.testing.assert_array_equal(apply(z[::-1, ::2], activation), expected[::-1, ::2])
    np.testing.assert_array_equal(
        apply(z.reshape(5, 1, -1)[:, :, ::3], activation), expected.reshape(5, 1, -1)[:, :, ::3]
    )
    np.testing.assert_array_equal(apply(z[0, 0], activation), expected[0, 0])
    memory = np.zeros(z.nbytes + 1, np.uint8)
    misaligned = memory[1:].view(dtype).reshape(z.shape)
    misaligned[...] = z
    np.testing.assert_array_equal(apply(misaligned, activation), expected)


def test_out_may_be_the_input_or_overlap_it(dtype, rng):
    z = rng.normal(size=10_000).astype(dtype)
    expected = sigmoid(z)
    same = z.copy()
    assert sigmoid(same, out=same) is same
    np.testing.assert_array_equal(same, expected)
    shifted = np.concatenate([[0], z]).astype(dtype)
    sigmoid(shifted[1:], out=shifted[:-1])
    np.testing.assert_array_equal(shifted[:-1], expected)
    wide = np.zeros((10_000, 2), dtype)
    sigmoid(z, out=wide[:, 1])
    np.testing.assert_array_equal(wide[:, 1], expected)
    assert not wide[:, 0].any()


def test_threads_change_no_bit(dtype, threads, rng):
    z = rng.normal(size=300_001).astype(dtype)
    threads(1)
    expected = sigmoid(z)
    threads(3)
    np.testing.assert_array_equal(sigmoid(z), expected)


def test_what_is_refused():
    with pytest.raises(ValueError, match="activation: expected one of identity, sigmoid, relu, tanh, got 'softmax'"):
        apply(np.zeros(3), "softmax")
    with pytest.raises(ValueError, match="activation: expected one of"):
        apply(np.zeros(3), ["relu"])
    with pytest.raises(TypeError, match="z: expected float32, float64 or integers, got dtype complex128"):
        sigmoid(np.zeros(3, complex))
    with pytest.raises(ValueError, match=r"out: expected shape \(3,\), got \(4,\)"):
        sigmoid(np.zeros(3), out=np.zeros(4))


# ---- all of them, in minutes ----


def worst_of_block(task):
    dtype, activation, block = task
    if dtype == "float32":  # 2^24 bit patterns
        z = (np.arange(1 << 24, dtype=np.uint32) + np.uint32(block << 24)).view("float32")
        z = z[~np.isnan(z)]
    else:  # 10^6 numbers: where the function moves, and of all sizes
        rng = np.random.default_rng(block)
        usual = rng.normal(scale=8, size=10**6)
        every_size = np.ldexp(rng.uniform(-1, 1, 10**6), rng.integers(-1070, 11, 10**6))
        z = np.where(rng.random(10**6) < 0.7, usual, every_size)
    if not z.size:
        return 0.0
    return worst(z, activation)


@pytest.mark.exhaustive
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_accuracy_everywhere(activation, dtype):
    """All 2^32 float32; 10^8 float64."""
    tasks = [(dtype, activation, block) for block in range(256 if dtype == "float32" else 100)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        error = max(pool.map(worst_of_block, tasks))
    print(f"{activation} {dtype}: at most {error:.3f} ulp")
    assert error <= BOUND[dtype]
