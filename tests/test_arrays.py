"""The door by itself; what comes through it is tested where it goes."""

import numpy as np
import pytest

import fusegrad as fg
from fusegrad._arrays import as_batch, as_count, as_dtype, as_floats, as_generator, as_matrix, as_number, as_output

F4, F8 = np.dtype("float32"), np.dtype("float64")


@pytest.mark.parametrize("value", ["float32", np.float32, F4, "f4"])
def test_as_dtype(value):
    assert as_dtype(value) == F4


@pytest.mark.parametrize("value", [None, "int32", "float16", "nonsense", 3, complex, "3,)f4", "0f4,", ",", "f4,f4"])
def test_as_dtype_refuses(value):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got"):
        as_dtype(value)


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [1.0], np.array([1.0]), np.complex64(1)])
def test_as_number_refuses_the_kind(value):
    with pytest.raises(TypeError, match=r"lr: expected a number, got"):
        as_number(value, "lr")


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, 1, 10**400])
def test_as_number_refuses_the_value(value):
    with pytest.raises(ValueError, match="lr: expected a finite number, more than 0, less than 1, got"):
        as_number(value, "lr", above=0.0, below=1.0)


def test_as_number():
    assert [as_number(value, "lr") for value in (1, 0.5, np.float32(0.5), np.int64(3))] == [1.0, 0.5, 0.5, 3.0]


def test_as_count():
    assert as_count(np.int16(3), "n") == 3
    for value in (1.0, "1", True, np.True_, None):
        with pytest.raises(TypeError, match="n: expected a whole number, got"):
            as_count(value, "n")
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        as_count(0, "n")


def test_as_floats_takes_what_it_can_as_it_is():
    a = np.ones((3, 4), "float32")
    assert as_floats(a, "a", F4) is a
    assert np.shares_memory(as_floats(a.T, "a", F4), a)
    assert as_floats(a, "a", F8).dtype == F8
    assert as_floats([1, 2], "a", None).dtype == F8
    assert as_floats(a.astype(">f4"), "a", None).dtype.isnative


@pytest.mark.parametrize(
    "value", ["text", [1j], [None], np.ones(3, bool), np.ones(3, "float16"), np.ones(3, np.longdouble)]
)
def test_as_floats_refuses(value):
    with pytest.raises(TypeError, match="a: expected float32, float64 or integers, got dtype"):
        as_floats(value, "a", F4)


def test_as_floats_refuses_ragged_and_masked():
    with pytest.raises(TypeError, match="a: expected an array of numbers, got list"):
        as_floats([[1], [1, 2]], "a", F4)
    with pytest.raises(TypeError, match="a: expected an array without a mask"):
        as_floats(np.ma.array([1.0]), "a", F4)


def test_an_output_with_a_mask_is_refused():
    for call in (
        lambda out: fg.kernels.matmul(np.eye(2), np.eye(2), out=out),
        lambda out: fg.kernels.sigmoid(np.eye(2), out=out),
        lambda out: fg.MultivariateRegression(2, dtype="float64", rng=0).forward(np.ones((2, 2)), out=out[:1]),
    ):
        with pytest.raises(TypeError, match="out: expected an array without a mask"):
            call(np.ma.zeros((2, 2)))


def test_shapes():
    assert as_matrix([1.0, 2.0], "x", F4, 1, "features").shape == (1, 2)
    for value, message in (
        (np.ones((2, 3)), r"x: expected 4 features \(rows\), got shape \(2, 3\)"),
        (np.ones(3), r"x: expected two dimensions, \(4, m\), got shape \(3,\)"),
        (np.ones((4, 0)), r"x: expected at least one example, got shape \(4, 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            as_matrix(value, "x", F4, 4, "features")
    with pytest.raises(ValueError, match=r"y: expected 3 examples \(columns\) as in X, got shape \(1, 2\)"):
        as_batch(np.ones((4, 3)), np.ones(2), F4, 4, 1)


def test_as_output():
    out = np.empty((2, 3), "float32")
    assert as_output(out, "out", F4, (2, 3)) is out
    out.flags.writeable = False
    for value, kind in (
        ([0.0], TypeError),
        (np.empty((2, 3)), TypeError),
        (np.empty((3, 2), "f4"), ValueError),
        (out, ValueError),
    ):
        with pytest.raises(kind, match="out: expected"):
            as_output(value, "out", F4, (2, 3))


def test_as_output_refuses_what_overlaps_itself():
    memory = np.zeros(100, "f4")
    for strides in ((0, 4), (8, 4), (4, 4), (12, 2), (-8, 4)):
        out = np.lib.stride_tricks.as_strided(memory[50:], (2, 3), strides)
        with pytest.raises(ValueError, match="out: expected an array whose elements lie apart, got strides"):
            as_output(out, "out", F4, (2, 3))
    for strides in ((12, 4), (4, 8), (-40, 8), (1, 4)):
        out = np.lib.stride_tricks.as_strided(memory[50:], (1, 3) if strides[0] == 1 else (2, 3), strides)
        assert as_output(out, "out", F4, out.shape) is out


def test_as_generator():
    rng = np.random.default_rng(0)
    assert as_generator(rng) is rng
    with pytest.raises(TypeError, match="rng: expected None, a seed or"):
        as_generator("seed")


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, OSError])
def test_what_refuses_to_be_an_array_is_named(error):
    """As a tensor that needs its gradient does, or one that lies on another device."""

    class Tensor:
        def __array__(self, *_args, **_options):
            raise error("call detach() first")

    net = fg.UnivariateRegression(rng=0)
    for call, name in ((net.forward, "X"), (lambda t: fg.kernels.matmul(t, np.ones((1, 1))), "a")):
        with pytest.raises(TypeError, match=rf"^{name}: expected an array of numbers, got Tensor \(call detach"):
            call(Tensor())


def test_the_commonest_mistake_is_named():
    with pytest.raises(ValueError, match=r"^X: expected 3 features \(rows\), got shape \(7, 3\); pass X.T: an example"):
        fg.TwoLayerSigmoid(3, 4, rng=0).forward(np.ones((7, 3)))
