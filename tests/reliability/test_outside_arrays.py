"""Whatever array comes from outside: the right result or a clear error, and inputs are never written.

Property-based: hypothesis draws the array's contents, dtype, layout and flaws.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tried

import fusegrad as fg

pytestmark = pytest.mark.reliability
#: In all, over the properties below; `FUSEGRAD_EXAMPLES` asks for more or fewer.
EXAMPLES = int(os.environ.get("FUSEGRAD_EXAMPLES", 24_000))


def property_(share):
    return settings(
        max_examples=max(10, int(EXAMPLES * share)), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


class Own(np.ndarray):
    pass


def laid_out(values, layout):
    """The same numbers in memory of another layout; 2-D."""
    rows, columns = values.shape
    if layout == "C":
        return values.copy()
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "reversed":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "strided":
        wide = np.full((2 * rows + 1, 3 * columns + 2), 99, values.dtype)
        wide[1::2, 2::3] = values
        return wide[1::2, 2::3]
    if layout == "misaligned":
        memory = np.zeros(values.nbytes + 1, "u1")
        array = memory[1:].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array
    if layout == "odd stride":  # lines that are no whole number of elements apart
        line = values.itemsize * columns + 3
        memory = np.zeros(line * rows, "u1")
        array = np.ndarray((rows, columns), values.dtype, memory, 0, (line, values.itemsize))
        array[...] = values
        return array
    if layout == "read-only":
        array = values.copy()
        array.flags.writeable = False
        return array
    if layout == "subclass":
        return values.copy().view(Own)
    if layout == "list":
        return values.tolist()
    raise AssertionError(layout)


LAYOUTS = st.sampled_from(
    ["C", "F", "reversed", "strided", "misaligned", "odd stride", "read-only", "subclass", "list"]
)
DTYPES = st.sampled_from(["f4", "f8", ">f4", ">f8", "f2", ">f2", "i1", "i4", ">i8", "u2"])
REFUSED_DTYPES = st.sampled_from(["g", "c8", "S3", "U2", "M8[s]", "m8[s]", "V8"])


def draw_matrix(data, rows, columns):
    """A matrix of small whole numbers, exact in every dtype; as float64, and as it is handed in."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(0, 8, (rows, columns)).astype("f8")
    array = values.astype(data.draw(DTYPES))
    zero = data.draw(st.sampled_from(["", "", "", "rows", "columns"]))
    if zero == "rows":  # zero strides
        array = np.broadcast_to(array[:1], array.shape)
        return np.array(array, "f8"), array
    if zero == "columns":
        array = np.broadcast_to(array[:, :1], array.shape)
        return np.array(array, "f8"), array
    return values, laid_out(array, data.draw(LAYOUTS))


def content(array):
    return np.array(array).tobytes() if isinstance(array, list) else array.tobytes()


SIZES = st.one_of(st.integers(1, 5), st.sampled_from([15, 16, 17, 31, 32, 33, 64, 70, 257]))


@property_(0.3)
@given(st.data())
def test_networks_take_any_layout(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    n, k, outputs, m = (data.draw(SIZES) for _ in range(4))
    k, outputs = min(k, 40), min(outputs, 5)
    net = fg.Sequential(fg.Linear(n, k), fg.Tanh(), fg.Linear(k, outputs), dtype=dtype, rng=0)
    exact, X = draw_matrix(data, n, m)
    wanted, y = draw_matrix(data, outputs, m)
    before = content(X), content(y)
    twin = fg.Sequential(fg.Linear(n, k), fg.Tanh(), fg.Linear(k, outputs), dtype=dtype, rng=0)
    assert net(X).tobytes() == twin(exact.astype(dtype)).tobytes()
    loss, gradient = net.loss_and_gradient(X, y)
    assert (loss, gradient.tobytes()) == (lambda a: (a[0], a[1].tobytes()))(
        twin.loss_and_gradient(exact.astype(dtype), wanted.astype(dtype))
    )
    expected = fg.reference.forward(fg.reference.layers_of(net, "float64"), exact)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(net(X), expected, rtol=0, atol=scale * (1e-4 if dtype == "float32" else 1e-11))
    for trained, (a, b) in ((net, (X, y)), (twin, (exact.astype(dtype), wanted.astype(dtype)))):
        trained.fit(a, b, optimizer=fg.SGD(lr=1e-9), epochs=2, batch_size=max(1, m // 2), rng=0)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert (content(X), content(y)) == before, "an input was written to"
    tried("drawn arrays, right results")


@property_(0.3)
@given(st.data())
def test_matmul_takes_any_layout_and_any_out(data):
    n, d, k = (data.draw(SIZES) for _ in range(3))
    left, a = draw_matrix(data, n, d)
    right, b = draw_matrix(data, d, k)
    before = content(a), content(b)
    result = fg.kernels.matmul(a, b)
    np.testing.assert_allclose(result, left @ right, rtol=1e-5)
    way = data.draw(st.sampled_from(["none", "C", "F", "strided", "misaligned", "a", "b"]))
    if way in ("C", "F", "strided", "misaligned"):
        out = laid_out(np.zeros((n, k), result.dtype), way)
        assert fg.kernels.matmul(a, b, out=out) is out
        np.testing.assert_array_equal(out, result)
    assert (content(a), content(b)) == before
    # out that overlaps an operand
    side = data.draw(SIZES)
    memory = np.arange(side * side + 7, dtype="f8") % 5
    square = memory[: side * side].reshape(side, side)
    shift = data.draw(st.integers(0, 7))
    out = memory[shift : shift + side * side].reshape(side, side)
    expected = square.copy() @ square.copy()
    np.testing.assert_array_equal(fg.kernels.matmul(square, square, out=out), expected)
    tried("drawn arrays, right results")


@property_(0.2)
@given(st.data())
def test_activations_take_any_layout_and_any_out(data):
    rows, columns = data.draw(SIZES), data.draw(SIZES)
    exact, z = draw_matrix(data, rows, columns)
    before = content(z)
    np.testing.assert_allclose(fg.kernels.sigmoid(z), fg.reference.sigmoid(exact), rtol=1e-6)
    assert content(z) == before
    memory = np.linspace(-3, 3, rows * columns + 9)
    shift = data.draw(st.integers(0, 9))
    source = memory[: rows * columns].reshape(rows, columns)
    out = memory[shift : shift + rows * columns].reshape(rows, columns)
    expected = fg.kernels.sigmoid(source.copy())
    np.testing.assert_array_equal(fg.kernels.sigmoid(source, out=out), expected)
    tried("drawn arrays, right results")


@property_(0.1)
@given(st.data())
def test_out_of_forward_and_gradients_may_overlap(data):
    """The network's own parameters as input, and as output's neighbour."""
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    n = data.draw(st.integers(1, 6))
    net = fg.Sequential(fg.Linear(n, 4), fg.Sigmoid(), fg.Linear(4, n), dtype=dtype, rng=1)
    own = net.parameters
    m = data.draw(st.integers(1, 4))
    start = data.draw(st.integers(0, own.size - n * m))
    X = own[start : start + n * m].reshape(n, m)
    y = own[::-1][: n * m].reshape(n, m)
    if data.draw(st.booleans()):
        X = X[:, ::-1]
    twin = fg.Sequential(fg.Linear(n, 4), fg.Sigmoid(), fg.Linear(4, n), dtype=dtype, rng=1)
    X_copy, y_copy = X.copy(), y.copy()
    optimizers = fg.Adam(lr=0.1), fg.Adam(lr=0.1)
    for _ in range(2):
        assert net.train_step(X, y, optimizers[0]) == twin.train_step(X_copy, y_copy, optimizers[1])
        X_copy, y_copy = X.copy(), y.copy()
    assert net.fit(X, y, optimizer=optimizers[0], epochs=3).loss == twin.fit(
        X_copy, y_copy, optimizer=optimizers[1], epochs=3
    ).loss  # fmt: skip
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    # out within the input
    memory = np.linspace(-1, 1, 2 * n * m + 5).astype(dtype)
    X = memory[: n * m].reshape(n, m)
    shift = data.draw(st.integers(0, n * m + 5))
    out = memory[shift : shift + n * m].reshape(n, m)
    expected = net(X.copy())
    np.testing.assert_array_equal(net.forward(X, out=out), expected)
    gradient = np.empty(own.size, dtype)
    X, y = gradient[: n * m].reshape(n, m), gradient[-n * m :].reshape(n, m)
    gradient[:] = np.linspace(-1, 1, own.size)
    expected = net.loss_and_gradient(X.copy(), y.copy())[1]
    np.testing.assert_array_equal(net.loss_and_gradient(X, y, out=gradient)[1], expected)
    tried("drawn arrays, right results")


def flawed(data, rows, columns):
    """Something that is no such matrix, and how the error begins."""
    way = data.draw(st.sampled_from(["dtype", "ndim", "rows", "empty", "masked", "ragged", "kind", "0-d", "no rows"]))
    good = np.ones((rows, columns))
    if way == "dtype":
        name = data.draw(REFUSED_DTYPES)
        if name in ("M8[s]", "m8[s]", "V8"):
            return np.zeros((rows, columns), name), TypeError
        return good.astype(name), TypeError
    if way == "ndim":
        return good.reshape(rows, columns, 1, 1), ValueError
    if way == "rows":
        return np.ones((rows + data.draw(st.integers(1, 3)), columns)), ValueError
    if way == "empty":
        return np.ones((rows, 0)), ValueError
    if way == "no rows":
        return np.ones((0, columns)), ValueError
    if way == "masked":
        return np.ma.array(good, mask=good > 0), TypeError
    if way == "ragged":
        return [[1.0] * columns, [1.0] * (columns + 1)], TypeError
    if way == "0-d":
        return np.float64(3.0), ValueError
    return data.draw(st.sampled_from([None, "text", {}, {1: 2}, object(), b"bytes", 1j, print, [None], np])), TypeError


@property_(0.1)
@given(st.data())
def test_what_is_no_such_array_is_refused(data):
    n, m = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 40))
    net = fg.Sequential(fg.Linear(n, 3), fg.Sigmoid(), fg.Linear(3, 2), rng=0)
    before = net.parameters.tobytes()
    X, y = np.ones((n, m)), np.ones((2, m))
    array, kind = flawed(data, n, m)
    target, target_kind = flawed(data, 2, m)
    for name, arguments, expected in (("X", (array, y), kind), ("y", (X, target), target_kind)):
        for call in (
            lambda *a: net.fit(*a, optimizer=fg.Adam(), epochs=1),
            lambda *a: net.train_step(*a, fg.Adam()),
            net.loss, net.loss_and_gradient, net.input_gradient,
        ):  # fmt: skip
            with pytest.raises(expected, match=f"^{name}: expected"):
                call(*arguments)
    with pytest.raises(kind, match=r"^X: expected"):
        net.forward(array)
    with pytest.raises((TypeError, ValueError), match=r"^a: expected|^b: expected"):
        fg.kernels.matmul(array if isinstance(array, (str, dict)) else [[[1.0]]], X)
    for out in (None, [], "text", np.ones((2, m), "f8"), np.ones((m, 3), "f4"), np.ones((2, m), ">f4")):
        if out is not None:
            with pytest.raises((TypeError, ValueError), match=r"^out: expected"):
                net.forward(X, out=out)
    assert net.parameters.tobytes() == before
    tried("drawn arrays, refused")
