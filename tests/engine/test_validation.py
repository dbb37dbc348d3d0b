"""Input validation alone; what becomes of the arrays is tested where they go."""

import copy
import signal
import warnings
from collections import deque
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import fusegrad as fg
from fusegrad._engine.validation import (
    all_finite,
    as_batch,
    as_count,
    as_dtype,
    as_floats,
    as_generator,
    as_matrix,
    as_number,
    as_output,
    converted,
    pieces,
)

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
        with pytest.raises(TypeError, match="n: expected an integer, got"):
            as_count(value, "n")
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        as_count(0, "n")


def test_as_floats_takes_what_it_can_without_a_copy():
    a = np.ones((3, 4), "float32")
    assert np.shares_memory(as_floats(a, "a", F4), a)
    assert np.shares_memory(as_floats(a.T, "a", F4), a)
    assert as_floats(a, "a", F8).dtype == F8
    assert as_floats([1, 2], "a", None).dtype == F8
    assert as_floats(a.astype(">f4"), "a", None).dtype.isnative


@pytest.mark.parametrize("dtype", [F4, F8, None])
@pytest.mark.parametrize(
    "value",
    [
        np.array([0, 1, 1], bool),
        np.array([0, 1, 1], "float16"),
        np.array([0, 1, 1], ">f2"),
        np.array([0, 1, 1], object),
        np.array([Fraction(0), np.float32(1), True], object),
        [False, True, np.True_],
        [np.float16(0), 1, True],
        [np.array(False), np.array(True), np.array(1.0)],
        deque([0.0, 1.0, 1.0]),
        memoryview(np.array([0.0, 1.0, 1.0])),
        (0, 1, 1),
    ],
)
def test_as_floats_converts(value, dtype):
    array = as_floats(value, "a", dtype)
    assert array.tolist() == [0.0, 1.0, 1.0]
    assert array.dtype in ((F4, F8) if dtype is None else (dtype,))


def test_the_type_that_is_computed_in():
    assert as_floats(np.ones(3, "float16"), "a", None).dtype == F4
    for value in (np.ones(3, bool), np.ones(3, int), np.ones(3, object), [1.0], [True]):
        assert as_floats(value, "a", None).dtype == F8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "got 'text': encode text"),
        (np.array([["1", "ford"]]), r"got '1' in column 0 \(row 0\): encode text as .* numerals with astype"),
        ([[1.0, 2.0], [3.0, "ford"]], r"got 'ford' in column 1 \(row 1\): encode text"),
        ([1.0, b"ford"], r"got b'ford' \(element 1\): encode text"),
        ([1.0, None], r"got None \(element 1\): fill what is missing"),
        ([Decimal("0.1")], r"got Decimal\('0.1'\) \(element 0\): convert with astype\('float64'\)"),
        (np.array([1, 2j], object), r"got 2j \(element 1\): pass the real and the imaginary part"),
        ([date(2024, 2, 29)], r"got datetime.date\(2024, 2, 29\) \(element 0\): subtract an origin"),
        ([timedelta(1)], r"got datetime.timedelta\(days=1\) \(element 0\): subtract an origin"),
        (np.array([[[1.0, None]]]), r"got None at \(0, 0, 1\)"),
        ({1.0}, r"got \{1.0\}$"),
        (np.array([np.ones(2), np.ones(3)], object), r"got array\(\[1., 1.\]\) \(element 0\)"),
    ],
)
def test_what_is_no_number_is_shown(value, message):
    with pytest.raises(TypeError, match="^a: expected numbers, " + message):
        as_floats(value, "a", F4)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has none")
def test_string_dtype_is_refused():
    value = np.array([["ford"]]).astype(np.dtypes.StringDType())
    with pytest.raises(TypeError, match=r"^a: expected numbers, got 'ford' in column 0 \(row 0\): encode text"):
        as_floats(value, "a", None)


@pytest.mark.parametrize(
    ("value", "how"),
    [
        (np.ones(3, np.longdouble), r"convert with astype\('float64'\)"),
        (np.ones(3, "f4,f4"), "convert with numpy.lib.recfunctions.structured_to_unstructured"),
        ([1, 2j], "pass the real and the imaginary part"),
        (np.ones((2, 2), "c8"), "pass the real and the imaginary part"),
        (np.array(["2024-02-29"], "M8[D]"), "subtract an origin"),
        (np.array([1], "m8[s]"), "subtract an origin"),
    ],
)
def test_other_types_are_refused(value, how):
    with pytest.raises(TypeError, match=f"^a: expected float32, float64 or integers, got dtype .*: {how}"):
        as_floats(value, "a", F4)


@pytest.mark.parametrize("value", [10**400, [10**400, 1.5], np.array([1, 10**400], object)])
def test_an_integer_beyond_all_floats_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"^a: expected "):
        as_floats(value, "a", F4)


class Frame:
    """As much of a data frame as NumPy and the messages see: an array, and labels of rows and columns."""

    def __init__(self, rows, **labels):
        self.rows = rows
        self.__dict__.update(labels)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.rows, dtype or object)


@pytest.mark.parametrize(
    ("frame", "where"),
    [
        (Frame([[1, "ford"], [2, "audi"]], columns=["power", "brand"], index=range(2)), r"column 'brand' \(row 0\)"),
        (Frame([[1, 2], ["ford", "audi"]], columns=range(2), index=["power", "brand"]), r"column 0 \(row 'brand'\)"),
        (Frame([[130, 165], ["ford", "audi"]], columns=None), r"column 0 \(row 1\)"),
        (Frame([130, "ford"], name="mpg", index=[7, 9]), r"column 'mpg' \(row 9\)"),
    ],
)
def test_a_data_frame_names_row_and_column(frame, where):
    net = fg.MultivariateRegression(2, rng=0)
    with pytest.raises(TypeError, match=rf"^X: expected numbers, got 'ford' in {where}: encode text"):
        net.forward(frame)


def test_a_data_frame_of_numbers_and_flags_is_converted():
    frame = Frame([[1.5, True], [2, False]], columns=["a", "b"], index=range(2))
    assert as_floats(frame, "a", F4).tolist() == [[1.5, 1.0], [2.0, 0.0]]


MASKED = np.ma.array([1.0, 2.0], mask=[False, True])


@pytest.mark.parametrize(
    "value",
    [
        MASKED,
        [MASKED],
        (MASKED, MASKED),
        [[1.0, 2.0], MASKED],
        [[[1.0, 2.0]], [MASKED]],
        deque([MASKED]),
        [1.0, np.ma.masked],
        [[1, 2], (3, np.ma.masked)],
        [np.ma.array(1, mask=True)],
        [np.ma.array(True, mask=True), False],
        [np.ma.array([1, 2], mask=[0, 1]), np.array([1.5, 2.5])],
        np.array([np.ma.masked, 1.0], object),
        Frame(MASKED),
    ],
)
def test_no_mask_is_dropped(value):
    if isinstance(value, Frame):
        value.__class__ = type("Holder", (Frame,), {"__array__": lambda self, dtype=None, copy=None: self.rows})
    with pytest.raises(TypeError, match=r"^a: expected (an array without a mask|numbers), got a? ?masked"):
        as_floats(value, "a", F4)


class TimeIsOverError(Exception):
    pass


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt, SystemExit, OSError, TimeIsOverError])
def test_an_exception_that_is_not_about_the_argument_is_passed_on(error):
    """As one that a signal handler raises while a list is converted."""

    def handler(*_arguments):
        raise error("time is over")

    class Number:
        def __float__(self):
            signal.raise_signal(signal.SIGALRM)
            return 1.0

    net = fg.UnivariateRegression(rng=0)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for call in (lambda value: net.forward(value), lambda value: fg.kernels.sigmoid(value)):
            with pytest.raises(error, match="time is over"):
                call(Holder(Number()))
    finally:
        signal.signal(signal.SIGALRM, before)


class Holder:
    def __init__(self, number):
        self.number = number

    def __array__(self, dtype=None, copy=None):
        return np.array([float(self.number)])


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
    assert np.shares_memory(as_output(out, "out", F4, (2, 3)), out)
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
        with pytest.raises(ValueError, match="out: expected an array whose elements do not overlap, got strides"):
            as_output(out, "out", F4, (2, 3))
    for strides in ((12, 4), (4, 8), (-40, 8), (1, 4)):
        out = np.lib.stride_tricks.as_strided(memory[50:], (1, 3) if strides[0] == 1 else (2, 3), strides)
        assert as_output(out, "out", F4, out.shape).strides == out.strides


def test_as_generator():
    rng = np.random.default_rng(0)
    assert as_generator(rng) is rng
    with pytest.raises(TypeError, match="rng: expected None, a seed of at least 0 or"):
        as_generator("seed")
    with pytest.raises(ValueError, match=r"rng: expected None, a seed of at least 0 or .*, got -1"):
        as_generator(-1)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError])
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


# ---- shapes that change after they were read ----------------------------------------------------------


def set_shape(array, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


class Acting:
    """What does something when it is asked for its array."""

    def __init__(self, array, action):
        self.array, self.action = array, action

    def __array__(self, dtype=None, copy=None):
        self.action()
        return self.array


def network():
    return fg.Sequential(fg.Linear(6, 8), fg.Tanh(), fg.Linear(8, 2), dtype="float64", rng=0)


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


TAKES_ARRAYS = {
    "forward": (lambda X, out: network().forward(X, out=out), [(6, 40), (2, 40)]),
    "loss": (lambda X, y: network().loss(X, y), [(6, 40), (2, 40)]),
    "loss_and_gradient": (lambda X, y, out: network().loss_and_gradient(X, y, out)[1], [(6, 40), (2, 40), (74,)]),
    "input_gradient": (lambda X, y: network().input_gradient(X, y), [(6, 40), (2, 40)]),
    "train_step": (lambda X, y: network().train_step(X, y, fg.SGD(lr=0.1)), [(6, 40), (2, 40)]),
    "fit": (
        lambda X, y: network().fit(X, y, optimizer=fg.Adam(), epochs=2, batch_size=7, rng=0).loss,
        [(6, 40), (2, 40)],
    ),
    "validation": (
        lambda *data: network().fit(
            *data[:2], optimizer=fg.SGD(lr=0.1), epochs=2, validation_data=data[2:]
        ).validation_loss,
        [(6, 40), (2, 40), (6, 20), (2, 20)],
    ),
    "check_gradients": (
        lambda X, y: fg.testing.check_gradients(network(), X, y, most_parameters=0, n_directions=1).error,
        [(6, 40), (2, 40)],
    ),
    "matmul": (fg.kernels.matmul, [(6, 40), (40, 2), (6, 2)]),
    "apply": (lambda z, out: fg.kernels.apply(z, "tanh", out), [(6, 40), (6, 40)]),
    "dense_forward": (
        lambda W, x, b, out: fg.kernels.dense_forward(W, x, b, out=out),
        [(2, 6), (6, 40), (2,), (2, 40)],
    ),
    "dense_backward": (lambda *a: fg.kernels.dense_backward(*a)[2], [(2, 6), (6, 40), (2, 40), (2, 40)]),
    "step": (lambda *a: fg.SGD(lr=0.1).step(*a) or a[0], [(8,), (8,)]),
    "look_ahead": (lambda w: fg.SGD(lr=0.1, momentum=0.5).look_ahead(w), [(8,)]),
}  # fmt: skip
WRITTEN = {"forward": 1, "loss_and_gradient": 2, "matmul": 2, "apply": 1, "dense_forward": 3, "step": 0}


def outcome(call, arrays):
    """The bytes of a result, or the error; what Python says of a subclass counts for nothing."""
    try:
        result = call(*arrays)
    except (TypeError, ValueError) as error:
        assert ": expected" in str(error)
        return type(error)
    return np.ndarray.tobytes(result) if isinstance(result, np.ndarray) else np.array(result).tobytes()


@pytest.mark.parametrize("name", TAKES_ARRAYS)
def test_an_argument_may_reshape_another(name):
    """While it is converted: the result is that of the shapes before or after, never of memory beyond an array."""
    call, shapes = TAKES_ARRAYS[name]
    expected = outcome(call, drawn(*shapes))
    assert isinstance(expected, bytes)
    for acting in set(range(len(shapes))) - {WRITTEN.get(name)}:
        for victim in set(range(len(shapes))) - {acting}:
            for shape in ((-1, 1), (1, -1), (-1, 2), (2, -1), (-1,), (1, 1, -1)):
                arrays = drawn(*shapes)
                reshaped = arrays[victim]
                arrays[acting] = Acting(arrays[acting], lambda a=reshaped, shape=shape: set_shape(a, shape))
                assert outcome(call, arrays) in (expected, TypeError, ValueError)


class Lying(np.ndarray):
    """Of another shape than it says."""

    told = None

    @property
    def shape(self):
        return self.told

    @property
    def size(self):
        return int(np.prod(self.told))

    @property
    def strides(self):
        return np.empty(self.told).strides

    @property
    def ndim(self):
        return len(self.told)


@pytest.mark.parametrize("name", TAKES_ARRAYS)
def test_a_subclass_is_what_it_is_in_memory(name):
    call, shapes = TAKES_ARRAYS[name]
    refused = 0
    for i, shape in enumerate(shapes):
        for real in (tuple(n - (n > 1) for n in shape), (*shape, 1), (1,), (), shape):
            plain, lying = drawn(*shapes), drawn(*shapes)
            plain[i] = np.ones(real)
            lying[i] = np.ones(real).view(Lying)
            lying[i].told = shape if real != shape else (1, 1)
            expected = outcome(call, plain)
            assert outcome(call, lying) == expected
            refused += isinstance(expected, type)
    assert refused >= 2 * len(shapes)


def test_compiled_code_compares_what_it_reads(dtype):
    """As when another thread sets a shape between validation and the kernel."""
    net = fg.Sequential(fg.Linear(6, 8), fg.Linear(8, 2), dtype=dtype, rng=0)
    kernels, engine, predictor = net._engine.kernels, net._engine.compiled(40), net._engine.compiled(40, folding=False)
    sgd, losses, lock = fg.SGD(lr=0.1), np.empty(1), kernels.TrainingLock()
    X, y, out = (np.ones((n, 40), dtype) for n in (6, 2, 2))
    into, b, product = np.ones((6, 40), dtype), np.ones((40, 2), dtype), np.ones((6, 2), dtype)
    parameters, gradient = np.ones((2, net.n_parameters), dtype)
    for call, arrays in (
        (predictor.forward, (X, parameters, out)),
        (predictor.gradient, (X, y, parameters, gradient, into)),
        (engine.gradient, (X, y, parameters, gradient)),
        (lambda *a: engine.step(*a, sgd), (X, y, parameters)),
        (lambda *a: engine.train(*a, sgd, lock, losses), (X, y, parameters)),
        (lambda *a: kernels.optimizer_step(sgd, *a), (parameters, gradient)),
        (lambda *a: kernels.matmul(*a, 1), (X, b, product)),
        (lambda *a: kernels.activation(1, *a, 1), (X, into)),
        (kernels.centre, (X, np.zeros(6), np.zeros((6, 40)))),
    ):
        call(*arrays)
        before = [array.tobytes() for array in arrays]
        for i, right in enumerate(arrays):
            for wrong in (
                right[:-1], right[..., :-1], right[:0], right[np.newaxis], np.concatenate([right, right]),
                np.array(1.0, dtype), right.astype("f4" if right.dtype == F8 else "f8"),
                right.astype(right.dtype.newbyteorder()),
            ):  # fmt: skip
                with pytest.raises((TypeError, ValueError)):
                    call(*arrays[:i], wrong, *arrays[i + 1 :])
        assert [array.tobytes() for array in arrays] == before
    with pytest.raises(ValueError, match=r"^X: expected shape \(6, 40\), got shape \(6, 39\), .* reshaped or resized"):
        predictor.forward(X[:, 1:], parameters)
    with pytest.raises(ValueError, match=r"^X: expected at least one example"):
        engine.train(X[:, :0], y[:, :0], parameters, sgd, lock, losses)


CALLS_OF_A_NETWORK = {
    "call": lambda net, X, y: net(X),
    "call with another dtype": lambda net, X, y: net(X.astype("f4")),
    "loss": lambda net, X, y: net.loss(X, y),
    "loss_and_gradient": lambda net, X, y: net.loss_and_gradient(X, y),
    "input_gradient": lambda net, X, y: net.input_gradient(X, y),
    "train_step": lambda net, X, y: net.train_step(X, y, fg.SGD(lr=0.1)),
    "fit": lambda net, X, y: net.fit(X, y, optimizer=fg.Adam(), epochs=2),
    "fit with a rule of Python's": lambda net, X, y: net.fit(X, y, optimizer=Plain(), epochs=2),
    "check_gradients": lambda net, X, y: fg.testing.check_gradients(net, X, y, n_directions=1),
    "named_parameters": lambda net, X, y: net.named_parameters(),
    "state_dict": lambda net, X, y: net.state_dict(),
    "assignment": lambda net, X, y: setattr(net, "parameters", np.zeros(net.n_parameters)),
    "load_state_dict": lambda net, X, y: net.load_state_dict(network().state_dict()),
    "save": lambda net, X, y: net.save("never-written"),
}


class Plain:
    def step(self, parameters, gradient):
        parameters -= 0.1 * gradient


def set_dtype(array, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.dtype = dtype


@pytest.mark.parametrize("call", CALLS_OF_A_NETWORK.values(), ids=CALLS_OF_A_NETWORK)
@pytest.mark.parametrize(
    "change",
    [
        lambda array: set_shape(array, (2, -1)),
        lambda array: set_shape(array, (-1, 1)),
        lambda array: set_dtype(array, "i8"),
        lambda array: set_dtype(array, "f4"),
    ],
)
def test_parameters_of_another_shape_are_an_error_of_the_next_call(change, call):
    net = network()
    X, y = drawn((6, 40), (2, 40))
    net(X), net.train_step(X, y, fg.SGD(lr=0.1))  # so that there are engines
    change(net.parameters)
    with pytest.raises((TypeError, ValueError), match=r"^parameters: expected"):
        call(net, X, y)


@pytest.mark.parametrize("factor", [0, 0.5, 2])
def test_parameters_cannot_be_resized(factor):
    net = network()
    with pytest.raises(ValueError, match=r"^cannot resize"):
        net.parameters.resize(int(factor * net.n_parameters), refcheck=False)


def test_parameters_that_are_set_back_serve_again():
    net = network()
    (X,) = drawn((6, 40))
    before = net(X)
    set_shape(net.parameters, (2, -1))
    with pytest.raises(ValueError, match=r"^parameters: .* shape \(74,\), got shape \(2, 37\)"):
        net(X)
    set_shape(net.parameters, -1)
    np.testing.assert_array_equal(net(X), before)


def test_a_state_that_is_resized_is_an_error_of_the_next_step():
    w, g = np.zeros(8), np.ones(8)
    for shape in ((1, 16), (1, 8), (2, 4), (16,), (0, 0)):
        optimizer = fg.Adam()
        optimizer.step(w, g)
        optimizer = copy.copy(optimizer)  # whose state owns its memory
        optimizer.state.resize(shape, refcheck=False)
        with pytest.raises(ValueError, match=r"^optimizer: "):
            optimizer.step(w, g)
    for constants in (fg.SGD(lr=0.1)._constants, fg.SGD(lr=0.1, momentum=0.9)._constants, optimizer._constants[:8]):
        optimizer = fg.Adam()
        optimizer._constants = constants  # of a rule with fewer states, and of none
        with pytest.raises((TypeError, ValueError), match=r"^optimizer: "):
            optimizer.step(w, g)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_data_frame_has_examples_as_rows(library):
    """As X and as y, of numbers or classes, and also if it has as many rows as columns."""
    module = pytest.importorskip(library)
    frame = module.table if library == "pyarrow" else module.DataFrame
    X = np.random.default_rng(0).normal(size=(3, 40))
    y = np.stack([X[0] - X[1], X[2]])
    table = frame(dict(zip("abc", X, strict=True)))
    net = fg.Sequential(fg.Linear(3, 2), dtype="float64", rng=0)
    assert (net.forward(table) == net.forward(X)).all()
    targets = frame({"u": y[0], "v": y[1]})
    assert net.loss(table, targets) == net.loss(X, y)
    square, targets, given = frame(dict(zip("abc", X[:, :3], strict=True))), y[:, :3], np.ones((2, 3))
    assert (net.forward(square) == net.forward(X[:, :3])).all()
    assert net.loss(square, targets) == net.loss(X[:, :3], targets)
    assert (net.backward(square, given) == net.backward(X[:, :3], given)).all()
    for arguments in ({"y": targets}, {"output_gradient": given}):
        expected = net.input_gradient(X[:, :3], **arguments)
        assert (net.input_gradient(square, **arguments) == expected).all()
    labels = (y[0] > 0).astype(int)
    classifier = fg.Sequential(fg.Linear(3, 2), loss="softmax_cross_entropy", dtype="float64", rng=0)
    assert classifier.loss(table, frame({"label": labels})) == classifier.loss(X, labels)
    for method in (classifier.probabilities, classifier.classes, classifier.freeze()):
        assert (method(square) == method(X[:, :3])).all()
    with pytest.raises(
        ValueError, match=r"X: expected a data frame of 3 columns, got \d+ columns and \d+ rows; a row is"
    ):
        net.forward(table.T if library == "pandas" else frame({"a": X[0]}))


def test_other_libraries_arrays():
    """By DLPack if they have nothing else; a lazy frame is named."""
    X = np.random.default_rng(0).normal(size=(3, 10))
    net = fg.Sequential(fg.Linear(3, 1), dtype="float64", rng=0)

    class Foreign:
        def __dlpack__(self, **options):
            return X.__dlpack__(**options)

        def __dlpack_device__(self):
            return X.__dlpack_device__()

    assert (net.forward(Foreign()) == net.forward(X)).all()
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X: expected numbers, got <LazyFrame.*: collect\(\) reads a lazy frame"):
        net.forward(polars.DataFrame(dict(zip("abc", X, strict=True))).lazy())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (3, 7, 50), (1, 5000), (5000,), ()])
def test_pieces_of_an_array(shape, order):
    """Each element is in exactly one piece."""
    array = np.empty(shape, order=order)
    for size in (1, 7, 64, 5000):
        seen = np.zeros(shape, int)
        for piece in pieces(array, size):
            assert array[piece].size <= size
            seen[piece] += 1
        assert np.all(seen == 1)


def test_a_conversion_in_pieces(monkeypatch, rng):
    monkeypatch.setattr("fusegrad._engine.validation.PIECE", 1000)
    for array in (rng.normal(size=(30, 700)), rng.normal(size=(700, 30)).T, rng.normal(size=(30, 1400))[:, ::-2]):
        for dtype in ("float32", "float64"):
            found = converted(array.astype("f2" if dtype == "float32" else "i8"), np.dtype(dtype))
            np.testing.assert_array_equal(found, array.astype("f2" if dtype == "float32" else "i8").astype(dtype))
        assert all_finite(array)
        array[-1, -1] = np.nan
        assert not all_finite(array)
