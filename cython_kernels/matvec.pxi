"""The product of a matrix and one vector or a few: the matrix is read once, so nothing is copied but the vectors.

Two loops go along the matrix as it lies. By the sums (outer): one vector or two, some rows of the matrix at a time; up to
2.5 times as fast as down a few columns, and 1.1 to 3 times as a micro-tile of two rows. By the products (inner): its lanes
run over k, and none is idle, where those of a micro-tile would run over two to eight columns; 1.8 and 2.6 times as fast at
200 x 200 x 6 and x 2. Rows of at most half a vector that lie one after another share one: 2 to 6 times as fast in
float32, up to 3 in float64. A layer with a single output reads X by the first.

The order of the sums is their own. Which factor is the vectors, if any, follows from the whole product and is told to each
thread, whose share may look otherwise.
"""

cdef enum:
    LONG_VECTORS = 2        # that go with the sums of
    LONG_ROWS = 8           # rows of the matrix in one pass; of
    LONG_COLUMNS = 4096     # sums at a time, which stay in the L1
    FEW_VECTORS = 8         # that go along a matrix together, but not more than half the lanes, where
    SHORT_ROWS = 1024       # few numbers each, between two looks at the clock
    VECTOR_DEPTH = 3        # the sums are as long as so many times n^2, and pay for adding up lanes


cdef struct Long:
    # Rows of numbers that lie side by side and are read on.
    const real* data
    Py_ssize_t row
    Py_ssize_t ahead        # what lies so far ahead in every second row is asked for; 0: nothing


cdef inline void vector_sums(
    const int n, const int rows, const real* x, Py_ssize_t x_row, const Long* m,
    const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil:
    """c[i * c_row + j] += sum over k < rows of x[i * x_row + k] m[k, j], i < n: outer. A start takes the place of c."""
    cdef vreal left[LONG_VECTORS * LONG_ROWS]
    cdef vreal total[LONG_VECTORS]
    cdef vreal right
    cdef const real* data = m.data
    cdef Py_ssize_t j = 0, row = m.row, ahead = m.ahead
    cdef int i, k
    for i in range(n):
        for k in range(rows):
            left[i * rows + k] = splat(x[i * x_row + k])
    while j + LANES <= columns:
        for i in range(n):
            total[i] = load(c + i * c_row + j) if start == NULL else splat(start[0])
        for k in range(rows):
            right = load(data + k * row + j)
            for i in range(n):
                total[i] = total[i] + left[i * rows + k] * right
            if ahead and k % 2:
                prefetch(2, data + k * row + j + ahead)
        for i in range(n):
            store(c + i * c_row + j, total[i])
        j += LANES
    if j < columns:
        for i in range(n):
            total[i] = load_first(c + i * c_row + j, columns - j) if start == NULL else splat(start[0])
        for k in range(rows):
            right = load_first(data + k * row + j, columns - j)
            for i in range(n):
                total[i] = total[i] + left[i * rows + k] * right
        for i in range(n):
            store_first(c + i * c_row + j, total[i], columns - j)


cdef inline Py_ssize_t add_some_rows(
    const int n, Py_ssize_t rows, const real* x, Py_ssize_t x_row, const Long* m,
    const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil:
    if rows >= LONG_ROWS:
        vector_sums(n, LONG_ROWS, x, x_row, m, start, c, c_row, columns)
        return LONG_ROWS
    if rows >= 4:
        vector_sums(n, 4, x, x_row, m, start, c, c_row, columns)
        return 4
    if rows >= 2:
        vector_sums(n, 2, x, x_row, m, start, c, c_row, columns)
        return 2
    vector_sums(n, 1, x, x_row, m, start, c, c_row, columns)
    return 1


cdef Py_ssize_t add_long_rows(
    Py_ssize_t n, Py_ssize_t rows, const real* x, Py_ssize_t x_row, const Long* m,
    const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil:
    """`vector_sums` of n vectors and some of the rows, as many as go in one pass; returns how many."""
    if n == 1:
        return add_some_rows(1, rows, x, x_row, m, start, c, c_row, columns)
    return add_some_rows(2, rows, x, x_row, m, start, c, c_row, columns)


cdef inline void vector_products(
    const int rows, const int n, Py_ssize_t depth, const real* x, const real* m, Py_ssize_t m_row,
    real* c, Py_ssize_t c_row, Py_ssize_t c_column,
) noexcept nogil:
    """c[i * c_row + j * c_column] = sum over k of m[i * m_row + k] times vector j of n: inner.

    x: the vectors, one after another, each ends in zeros, to a whole number of LANES.
    """
    cdef int count = (rows * n + LANES - 1) // LANES * LANES
    cdef vreal sums[FEW_VECTORS + LANES]
    cdef real totals[FEW_VECTORS + LANES]
    cdef vreal right[FEW_VECTORS]
    cdef vreal left
    cdef Py_ssize_t k = 0, length = parts(depth, LANES) * LANES
    cdef int i, j
    for i in range(count):
        sums[i] = splat(0)
    while k + LANES <= depth:
        for j in range(n):
            right[j] = load(x + j * length + k)
        for i in range(rows):
            left = load(m + i * m_row + k)
            for j in range(n):
                sums[i * n + j] = sums[i * n + j] + left * right[j]
        k += LANES
    if k < depth:
        for j in range(n):
            right[j] = load(x + j * length + k)
        for i in range(rows):
            left = load_first(m + i * m_row + k, depth - k)
            for j in range(n):
                sums[i * n + j] = sums[i * n + j] + left * right[j]
    add_lanes(sums, count, totals)
    for i in range(rows):
        for j in range(n):
            c[i * c_row + j * c_column] = totals[i * n + j]


cdef inline void all_products(
    const int n, Matrix m, const real* x, real* c, Py_ssize_t c_row, Py_ssize_t c_column, Air* air, int thread,
) noexcept nogil:
    """`vector_products` of all rows of m, whose numbers lie side by side."""
    cdef int rows = LANES // n if n < LANES else 1
    cdef Py_ssize_t i = 0, m_row = m.row // <Py_ssize_t>sizeof(real)
    while i + rows <= m.rows:
        vector_products(rows, n, m.columns, x, <const real*>m.data + i * m_row, m_row, c + i * c_row, c_row, c_column)
        if interrupted(air, thread, rows * n * m.columns):
            return
        i += rows
    while i < m.rows:
        vector_products(1, n, m.columns, x, <const real*>m.data + i * m_row, m_row, c + i * c_row, c_row, c_column)
        i += 1


cdef inline vreal short_sums(
    const int width, const real* data, Py_ssize_t depth, vreal right, bint whole, Py_ssize_t left,
) noexcept nogil:
    """LANES rows of `depth` numbers times `right`; if not whole, `left` numbers are left, and what is behind them is not read."""
    cdef vreal sums[LANES]
    cdef Py_ssize_t step = LANES // width * depth
    cdef int i
    for i in range(width):
        if whole:
            sums[i] = load(data + i * step)
        else:
            sums[i] = load_first(data + i * step, larger(0, smaller(LANES, left - i * step)))
        sums[i] = spread_groups(sums[i], width, depth) * right
    if width >= 8:
        add_neighbours(4, sums)
    if width >= 4:
        add_neighbours(2, sums)
    add_neighbours(1, sums)
    return sums[0]


cdef inline void short_products(
    const int width, Matrix m, const real* x, real* c, Py_ssize_t c_step, Air* air, int thread,
) noexcept nogil:
    """c = m x of rows of at most `width` numbers, a power of two, that lie one after another: LANES / width share a vector."""
    cdef real totals[LANES]
    cdef vreal right = splat_group(x, width)
    cdef const real* data = <const real*>m.data
    cdef Py_ssize_t i = 0, j, n = m.rows * m.columns, wholes
    wholes = (n - LANES + LANES // width * m.columns) // (LANES * m.columns) * LANES if c_step == 1 else 0
    while i < m.rows:
        if i % SHORT_ROWS == 0 and interrupted(air, thread, SHORT_ROWS * m.columns):
            return
        if i < wholes:
            store(c + i, short_sums(width, data, m.columns, right, True, 0))
        else:
            store(totals, short_sums(width, data, m.columns, right, False, n - i * m.columns))
            for j in range(smaller(LANES, m.rows - i)):
                c[(i + j) * c_step] = totals[j]
        data += LANES * m.columns
        i += LANES


cdef enum Vectors:
    NO_VECTORS
    ROWS_OF_A
    COLUMNS_OF_B


cdef inline bint goes_along(Matrix m, Py_ssize_t n) noexcept nogil:
    """Whether m lies so that n vectors go along its rows."""
    if m.columns == 0 or not in_reals(m):
        return False
    if m.column == sizeof(real):
        return n == 1 or (n <= smaller(FEW_VECTORS, LANES // 2) and m.columns >= VECTOR_DEPTH * n * n)
    return n <= LONG_VECTORS and m.row == sizeof(real)


cdef Vectors vectors_of(Matrix a, Matrix b) noexcept nogil:
    """Which factor, if any, is one vector or a few, in whose way the other lies."""
    if goes_along(transposed(b), a.rows):
        return ROWS_OF_A
    if goes_along(a, b.columns):
        return COLUMNS_OF_B
    return NO_VECTORS


cdef inline Py_ssize_t vectors_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The reals that `multiply_vectors` needs: the vectors, and sums that do not lie side by side in the product."""
    if depth > <Py_ssize_t>1 << 56:     # of zero strides; a single vector is more than any memory has, and nothing wraps
        return depth
    return FEW_VECTORS * (depth + LANES) + smaller(LONG_COLUMNS, LONG_VECTORS * larger(rows, columns))


cdef void multiply_vectors(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread,
) noexcept nogil:
    """`multiply`, or a thread's share of it, where `vectors_of` the whole names a factor."""
    cdef Matrix m = a, x = transposed(b)        # out (m.rows, x.rows) = m x^T, element (i, j) at c[i * m_step + j * x_step]
    cdef Py_ssize_t m_step = c_row, x_step = 1, i, j, k, rows, columns, sums_row, length = parts(a.columns, LANES) * LANES
    cdef const real* start
    cdef real* sums
    cdef real zero = 0
    cdef Long long_rows
    if which == ROWS_OF_A:
        m, x = transposed(b), a
        m_step, x_step = 1, c_row
    for j in range(x.rows):
        for k in range(x.columns):
            scratch[j * length + k] = load_anywhere(x.data + j * x.row + k * x.column)
        for k in range(x.columns, length):
            scratch[j * length + k] = 0
    if m.column == sizeof(real):
        if x.rows == 1 and 2 * m.columns <= LANES and LANES > 2 and m.row == m.columns * sizeof(real):
            if m.columns <= 2:
                short_products(2, m, scratch, c, m_step, air, thread)
            elif m.columns <= 4 and LANES > 4:
                short_products(4, m, scratch, c, m_step, air, thread)
            elif LANES > 8:
                short_products(8, m, scratch, c, m_step, air, thread)
        elif x.rows == 1:
            all_products(1, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 2:
            all_products(2, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 3:
            all_products(3, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 4:
            all_products(4, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 5:
            all_products(5, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 6:
            all_products(6, m, scratch, c, m_step, x_step, air, thread)
        elif x.rows == 7:
            all_products(7, m, scratch, c, m_step, x_step, air, thread)
        else:
            all_products(8, m, scratch, c, m_step, x_step, air, thread)
        return
    sums = scratch + x.rows * length
    sums_row = smaller(LONG_COLUMNS // x.rows, m.rows)
    j = 0
    while j < m.rows:
        start = &zero
        k = 0
        columns = smaller(LONG_COLUMNS // x.rows, m.rows - j)
        if m_step == 1:
            sums = c + j
            sums_row = x_step
        while k < m.columns:
            long_rows = Long(<const real*>(m.data + k * m.column) + j, m.column // <Py_ssize_t>sizeof(real), 0)
            rows = add_long_rows(x.rows, m.columns - k, scratch + k, length, &long_rows, start, sums, sums_row, columns)
            if interrupted(air, thread, rows * columns * x.rows):
                return
            start = NULL
            k += rows
        if m_step != 1:
            for i in range(x.rows):
                for k in range(columns):
                    c[(j + k) * m_step + i * x_step] = sums[i * sums_row + k]
        j += columns
