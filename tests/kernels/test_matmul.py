"""matmul against NumPy: every edge of the blocks, every layout."""

import itertools

import numpy as np
import pytest
from support import LANES, SUM_BLOCK, assert_sums, relative, sums_of_one_sign

import fusegrad as fg

matmul = fg.kernels.matmul


def operands(n, d, k, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(d, k)).astype(dtype)


def bound(a, b):
    """The error of a sum of d products, of any order, over the largest entry."""
    exact = a.astype("float64") @ b.astype("float64")
    largest = (np.abs(a).astype("float64") @ np.abs(b).astype("float64")).max()
    return exact, (a.shape[1] + 1) * np.finfo(a.dtype).eps * largest


def assert_product(actual, a, b):
    exact, error = bound(a, b)
    assert actual.shape == exact.shape
    assert np.abs(actual - exact).max(initial=0) <= error


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 64])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_edges_of_the_micro_tile(n, k, dtype):
    for d in (1, 2, 7, 16, 33):
        a, b = operands(n, d, k, dtype)
        assert_product(matmul(a, b), a, b)


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (241, 257, 1025),
        (240, 256, 1024),
        (239, 255, 1023),
        (481, 513, 7),
        (3, 1000, 2050),
        (1, 4096, 1),
        (2000, 1, 2000),
    ],
)
def test_edges_of_the_cache_blocks(n, d, k, dtype):
    a, b = operands(n, d, k, dtype)
    assert_product(matmul(a, b), a, b)


@pytest.mark.parametrize("layout", ["by columns", "by steps", "unaligned"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 23])
def test_edges_of_the_copied_blocks(n, layout, dtype):
    """What lies awkwardly is copied; the bits of whole vectors are those of what is read in place."""
    lanes = LANES[dtype]
    for d in (129, 257, 352):
        for k in (2, *(lanes * vectors + extra for vectors in (1, 2, 3, 4, 7) for extra in (0, 1))):
            a, b = operands(n, d, k, dtype)
            if layout == "by columns":
                awkward = np.asfortranarray(np.concatenate([a, operands(64, d, 1, dtype)[0]]))[:n]
            elif layout == "by steps":
                awkward = np.repeat(a, 40, axis=1)[:, ::40]
            else:
                raw = np.empty(a.nbytes + 1, np.uint8)
                awkward = raw[1:].view(dtype).reshape(a.shape)
                awkward[...] = a
            frame = np.full((n + 2, k + 2), 7, dtype)
            if n == 1:  # and no vector, which has an order of its own
                b = np.repeat(b, 3, axis=1)[:, ::3]
            matmul(awkward, b, out=frame[1:-1, 1:-1])
            if n > 1:
                whole = k // lanes * lanes if k > 2 else 0  # two columns are vectors, which have an order of their own
                np.testing.assert_array_equal(frame[1:-1, 1 : 1 + whole], matmul(a, b)[:, :whole])
            assert_product(frame[1:-1, 1:-1], a, b)
            frame[1:-1, 1:-1] = 7
            assert (frame == 7).all()


@pytest.mark.parametrize("n", [64, 65, 71, 73, 127, 128, 129, 135, 137])
@pytest.mark.parametrize("k", [256, 257, 303, 511, 512, 513, 527, 1023, 1025, 1039, 1057])
def test_edges_of_the_large_blocks(n, k, dtype):
    a, b = operands(n, 259, k, dtype)
    expected = matmul(a, b)
    assert_product(expected, a, b)
    np.testing.assert_array_equal(matmul(a, np.asfortranarray(b)), expected)
    np.testing.assert_array_equal(np.concatenate([matmul(a[:60], b), matmul(a[60:], b)]), expected)  # in place


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 9, 13, 16, 17, 63])
@pytest.mark.parametrize("d", [1, 63, 64, 65, 256, 257, 321])
def test_edges_of_few_rows(n, d, dtype):
    """A right factor that is too far away for a cache is read on by rows; the bits are those of one that is copied."""
    lanes = LANES[dtype]
    for k in (2, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 5 * lanes + 1, 1023, 1024, 1025, 1060):
        a, b = operands(n, d, k, dtype)
        far = np.zeros((d, max(k, 2**20 // (d * b.itemsize) + 1)), dtype)[:, :k]
        far[...] = b
        frame = np.full((n + 2, k + 2), 7, dtype)
        for left, right in ((a, far), (np.asfortranarray(a), far), (a, far[::-1][::-1])):
            matmul(left, right, out=frame[1:-1, 1:-1])
            if n > 2:  # and no vectors, which have an order of their own
                np.testing.assert_array_equal(frame[1:-1, 1:-1], matmul(left, np.repeat(b, 2, axis=1)[:, ::2]))
        assert_product(frame[1:-1, 1:-1], a, b)
        frame[1:-1, 1:-1] = 7
        assert (frame == 7).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 0, 40), (40, 0, 1), (1, 0, 1)])
def test_empty(shape, dtype):
    a, b = operands(*shape, dtype)
    out = np.full((shape[0], shape[2]), np.nan, dtype)
    np.testing.assert_array_equal(matmul(a, b, out=out), a @ b)
    np.testing.assert_array_equal(matmul(a, b), a @ b)


def test_any_layout_gives_the_same_bits(dtype):
    """Of whole vectors of columns; a few more may be added up as vectors, in an order of their own."""
    a, b = operands(37, 45, 48, dtype)
    expected = matmul(a, b)
    for left in (np.asfortranarray(a), a[::-1][::-1], np.repeat(a, 2, axis=1)[:, ::2], a.T.copy().T):
        for right in (np.asfortranarray(b), b[:, ::-1][:, ::-1], np.repeat(b, 3, axis=0)[::3]):
            np.testing.assert_array_equal(matmul(left, right), expected)
    np.testing.assert_array_equal(matmul(b.T, a.T[:, :32]), matmul(b.T.copy(), a.T[:, :32].copy()))
    for array in (a, b):
        array.flags.writeable = False
    np.testing.assert_array_equal(matmul(a, b), expected)


@pytest.mark.parametrize("d", [1, 5, 300, 100_000])
@pytest.mark.parametrize("k", [1, 2, 40])
def test_a_vector_and_a_matrix_that_lies_neither_way(d, k, dtype):
    for n, columns in ((1, k), (k, 1)):
        a, b = operands(n, d, columns, dtype)
        expected = a @ b
        error = bound(a, b)[1]
        for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a[:, ::-1][:, ::-1]):
            for right in (b, np.asfortranarray(b), np.repeat(np.repeat(b, 2, axis=1), 2, axis=0)[::2, ::2]):
                assert np.abs(matmul(left, right) - expected).max() <= 2 * error


@pytest.mark.parametrize(
    ("extra", "d", "k"), [(1, 60_000, 1), (1, 60_000, 2), (1, 1000, 33), (0, 1000, 65), (1000, 300, 3), (40, 1000, 39)]
)
def test_a_share_of_one_row_or_column_is_no_vector(extra, d, k, dtype, threads):
    """A thread whose share is a single row or column adds up in the order of the whole."""
    for shape in ((2 * LANES[dtype] + extra, d, k), (k, d, 2 * LANES[dtype] + extra)):
        a, b = operands(*shape, dtype)
        for left in (a, np.asfortranarray(a)):
            for right in (b, np.asfortranarray(b)):
                threads(1)
                expected = matmul(left, right)
                assert_product(expected, a, b)
                for n_threads in (2, 3, 7):
                    threads(n_threads)
                    np.testing.assert_array_equal(matmul(left, right), expected)


@pytest.mark.parametrize("k", [2, 3, 16, 17])
def test_few_columns_of_a_matrix_that_lies_by_columns(k, dtype):
    a, b = operands(1100, 50, k, dtype)
    expected = matmul(a, b)
    assert_product(expected, a, b)
    turned = matmul(np.asfortranarray(a), b)
    assert_product(turned, a, b)
    np.testing.assert_array_equal(matmul(np.asfortranarray(a), np.asfortranarray(b)), turned)
    whole = k // LANES[dtype] * LANES[dtype]
    np.testing.assert_array_equal(turned[:, :whole], expected[:, :whole])


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("d", [1, 3, 11, 12, 27, 48, 75, 108, 147, 192, 193, 300])
def test_few_vectors_along_a_matrix(n, d, dtype):
    """Of either factor, alone and behind whole vectors of columns."""
    lanes = LANES[dtype]
    for rows in (1, 2, lanes - 1, lanes, 2 * lanes + 3):
        for columns in (n, lanes + n, 3 * lanes + n):
            a, b = operands(rows, d, columns, dtype)
            frame = np.full((rows + 2, columns + 2), 7, dtype)
            for left, right in ((a, b), (a, np.asfortranarray(b)), (a[:, ::-1][:, ::-1], b)):
                matmul(left, right, out=frame[1:-1, 1:-1])
                assert_product(frame[1:-1, 1:-1], a, b)
                assert_product(matmul(right.T, left.T), b.T, a.T)
                frame[1:-1, 1:-1] = 7
                assert (frame == 7).all()


@pytest.mark.parametrize("d", range(1, 10))
def test_short_rows_share_a_vector(d, dtype, threads):
    """One after another, and each for itself: a NaN stays in its row, and what lies behind the last one is not read."""
    lanes = LANES[dtype]
    for n in (*range(2, 2 * lanes + 2), 1023, 1025 + lanes):
        rows = np.full((n + lanes, d), np.nan, dtype)
        rows[:n], b = operands(n, d, 1, dtype)
        frame = np.full((n + 2, 3), 7, dtype)
        for out in (frame[1:-1, 1:2], frame.reshape(-1)[1 : n + 1, None]):
            matmul(rows[:n], b, out=out)
            assert_product(out, rows[:n], b)
            expected = out.copy()
            out[...] = 7
            assert (frame == 7).all()
        np.testing.assert_array_equal(matmul(b.T, rows[:n].T).T, expected)
        threads(3)
        np.testing.assert_array_equal(matmul(rows[:n], b), expected)
        for odd in (np.nan, np.inf):
            rows[n // 2] = odd
            assert not np.isfinite(matmul(rows[:n], b)[n // 2])
            np.testing.assert_array_equal(np.delete(matmul(rows[:n], b), n // 2), np.delete(expected, n // 2))
        threads(1)


def assert_as_in_a_tile(a, b):
    """The bits of a product whose left factor, at an odd address, is copied; and nothing but the product is written."""
    raw = np.empty(a.nbytes + 1, np.uint8)
    copied = raw[1:].view(a.dtype).reshape(a.shape)
    copied[...] = a
    expected = matmul(copied, b)
    assert_product(expected, a, b)
    frame = np.full((a.shape[0] + 2) * b.shape[1], 7, a.dtype)
    out = frame.reshape(-1, b.shape[1])[1:-1]
    matmul(a, b, out=out)
    np.testing.assert_array_equal(out, expected)
    out[...] = 7
    wide = np.full((a.shape[0], b.shape[1] + 5), 7, a.dtype)
    matmul(a, b, out=wide[:, 2:-3])
    np.testing.assert_array_equal(wide[:, 2:-3], expected)
    wide[:, 2:-3] = 7
    assert (frame == 7).all()
    assert (wide == 7).all()


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 16, 17, 63, 64, 65])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 8, 9, 13, 16, 17])
def test_few_rows_go_along(n, d, dtype):
    lanes = LANES[dtype]
    for k in (lanes, 2 * lanes + 9, 1023, 1024 + lanes, 2100):
        a, b = operands(n, d, k, dtype)
        whole = k // lanes * lanes  # a few columns more may be vectors, with an order of their own
        assert_as_in_a_tile(a, b[:, :whole])
        assert_product(matmul(a, b), a, b)
        np.testing.assert_array_equal(matmul(np.asfortranarray(a), b)[:, :whole], matmul(a, b)[:, :whole])


@pytest.mark.parametrize("n", [3, 4, 15, 16, 17, 31, 64, 65, 257, 3001])
def test_few_columns_share_a_vector(n, dtype):
    most = LANES[dtype] // 2
    for d, k in itertools.product(range(1, most + 2), range(2, most + 1)):
        a, b = operands(n, d, k, dtype)
        assert_as_in_a_tile(a, b)
        np.testing.assert_array_equal(matmul(a, np.asfortranarray(b)), matmul(a, b))
        expected = matmul(a, b)
        a[n // 2] = np.nan
        assert np.isnan(matmul(a, b)[n // 2]).all()
        np.testing.assert_array_equal(np.delete(matmul(a, b), n // 2, 0), np.delete(expected, n // 2, 0))


@pytest.mark.parametrize("d", [1000, 1023, 1024, 1025, 1100, 4095, 4096, 4097, 8200, 13_000])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_long_rows_times_vectors(d, k, dtype, threads):
    for n in (1, 2, 3, 4, 5, 16, 19):
        a, b = operands(n, d, k, dtype)
        expected = matmul(a, b)
        assert_product(expected, a, b)
        for vectors in (np.asfortranarray(b), np.repeat(b, 3, axis=0)[::3]):
            if k == 1 or (n > 8 and 2 * k <= LANES[dtype]):  # b is the vectors, however it lies
                np.testing.assert_array_equal(matmul(a, vectors), expected)
            assert_product(matmul(a, vectors), a, b)
        threads(3)
        np.testing.assert_array_equal(matmul(a, b), expected)
        threads(1)


@pytest.mark.parametrize("d", [40, 70, 200])
def test_rows_that_are_asked_for_ahead(d, dtype):
    """From the L3, and from memory; the last ones of an array, too."""
    for n in (2**20 // (d * 4) + 5, 2**23 // (d * 4) + 21):
        a, b = operands(n, d, 1, dtype)
        assert_product(matmul(a, b), a, b)
        np.testing.assert_array_equal(matmul(a[: n // 2], b), matmul(a, b)[: n // 2])


def test_the_stride_of_a_single_row_or_column_says_nothing(threads):
    """Not even on threads, which ask NumPy otherwise: a field of records has an odd one."""
    rng = np.random.default_rng(0)
    for dtype, d in (("f4", 2000), ("f8", 1000), ("f4", 7)):
        records = np.zeros(3, [("x", dtype, (d,)), ("flag", "u1")])
        records["x"] = rng.normal(size=(3, d))
        b = rng.normal(size=(d, 600)).astype(dtype)[:, ::-1]
        row = records["x"][:1]
        threads(1)
        expected = matmul(row.copy(), b), matmul(b.T, row.T.copy())
        for n_threads in (1, 2, 3):
            threads(n_threads)
            np.testing.assert_array_equal(matmul(row, b), expected[0])
            np.testing.assert_array_equal(matmul(b.T, row.T), expected[1])


@pytest.mark.parametrize("d", [SUM_BLOCK, SUM_BLOCK + 1, 1000, 5000, 100_000, 1_000_000])
def test_long_sums_of_one_sign(d, threads):
    """By one vector, by two, by a few and by many, whichever way the factors lie."""
    rng = np.random.default_rng(d)
    for n, k in ((1, 1), (1, 9), (2, 5), (3, 4)) if d > 5000 else ((1, 1), (1, 40), (2, 33), (5, 17), (40, 33)):
        a, b = rng.random((n, d), dtype="float32"), rng.random((d, k), dtype="float32")
        exact, allowed = sums_of_one_sign(a, b)
        for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]):
            for right in (b, np.asfortranarray(b), np.repeat(b, 2, axis=1)[:, ::2]):
                threads(1)
                product = matmul(left, right)
                assert_sums(product, exact, allowed)
                assert_sums(matmul(right.T, left.T).T, exact, allowed)
                threads(3)
                np.testing.assert_array_equal(matmul(left, right), product)


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (3, 16_384, 5), (3, 16_385, 5), (4, 40_000, 9), (1030, 16_400, 3), (9, 16_400, 1041),
        (1, 513, 2049), (2, 1200, 4100), (1, 4097, 1), (2100, 4097, 1), (2050, 9000, 2),
    ],
)  # fmt: skip
def test_edges_of_deep_products(n, d, k, dtype, threads):
    """Deep ones are cut into pieces, whose totals wait for the next ones; so are their rows and columns."""
    a, b = operands(n, d, k, dtype)
    exact = a.astype("float64") @ b
    error = 2 * d * np.finfo(dtype).eps  # partial sums of up to 4 sqrt(d), rounded sqrt(d) times the same way
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b))):
        frame = np.full((n + 2, k + 2), 7, dtype)
        threads(1)
        matmul(left, right, out=frame[1:-1, 1:-1])
        assert np.abs(frame[1:-1, 1:-1] - exact).max() <= error
        threads(2)
        np.testing.assert_array_equal(matmul(left, right), frame[1:-1, 1:-1])
        frame[1:-1, 1:-1] = 7
        assert (frame == 7).all()


def test_out(dtype):
    a, b = operands(20, 30, 40, dtype)
    expected = matmul(a, b)
    out = np.full((20, 40), np.nan, dtype)
    assert matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, expected)
    for view in (
        np.empty((40, 20), dtype).T, np.empty((20, 80), dtype)[:, ::2], np.empty((20, 50), dtype)[:, 5:45],
        np.empty((20, 40), dtype)[::-1], np.empty((20, 40), dtype)[:, ::-1],
    ):  # fmt: skip
        matmul(a, b, out=view)
        np.testing.assert_array_equal(view, expected)
    square = operands(16, 16, 16, dtype)[0]
    product = matmul(square, square)
    matmul(square, square, out=square)
    np.testing.assert_array_equal(square, product)


def test_out_of_range_memory_is_not_written(dtype):
    frame = np.full((12, 3 * LANES[dtype] + 9), 7, dtype)
    inside = frame[1:-1, 1:-1]
    a, b = operands(inside.shape[0], 5, inside.shape[1], dtype)
    matmul(a, b, out=inside)
    frame[1:-1, 1:-1] = 7
    assert (frame == 7).all()


def test_threads_change_no_bit(dtype, threads):
    for shape in ((300, 300, 700), (700, 300, 100)):
        a, b = operands(*shape, dtype)
        threads(1)
        expected = matmul(a, b)
        for n in (2, 3, 8):
            threads(n)
            np.testing.assert_array_equal(matmul(a, b), expected)


def test_mixed_and_integer_operands():
    a, b = np.arange(6).reshape(2, 3), np.arange(6, dtype="float32").reshape(3, 2)
    assert matmul(a, b).dtype == "float64"
    assert matmul(b, a).dtype == "float32"
    np.testing.assert_array_equal(matmul(a, b), a @ b)
    wide = np.array([[1.0, 2.0, 1e300]]).T
    assert matmul(np.ones((1, 2), "float32"), wide[:2]).dtype == "float32"  # the dtype of the first
    assert matmul(wide.T, np.ones((3, 1), "float32"))[0, 0] == 1e300


def test_nan_and_inf(dtype):
    a, b = operands(9, 9, 9, dtype)
    a[2, 3], b[4, 5] = np.nan, np.inf
    result = matmul(a, b)
    with np.errstate(all="ignore"):  # which flags NumPy's product raises depends on the processor
        expected = a @ b
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.zeros(3), np.zeros((3, 2)), ValueError, r"a: expected two dimensions, got shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((4, 2)), ValueError, r"b: expected 3 rows, the columns of a, got shape \(4, 2\)"),
        (np.zeros((2, 3)), "b", TypeError, "b: expected"),
        (np.zeros((2, 3), complex), np.zeros((3, 2)), TypeError, "a: expected"),
    ],
)
def test_what_is_refused(a, b, error, message):
    with pytest.raises(error, match=message):
        matmul(a, b)
    with pytest.raises(ValueError, match="out: expected a writable array, got a read-only one"):
        frozen = np.zeros((2, 2))
        frozen.flags.writeable = False
        matmul(np.zeros((2, 3)), np.zeros((3, 2)), out=frozen)


def test_accuracy_at_size(dtype):
    a, b = operands(128, 2048, 64, dtype)
    assert relative(matmul(a, b), a.astype("float64") @ b.astype("float64")) <= 20 * np.finfo(dtype).eps
