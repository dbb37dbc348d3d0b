"""The product of a vector and a matrix: there is nothing to read twice, so nothing is copied but the vector.

Two loops go along the matrix as it lies, by the sums (outer, some rows at a time here too: up to 2.5 times as fast as
down a few columns) or by the products (inner). The order of the sums is their own, and does not depend on how many
columns a call has. A layer with a single output reads X by the first.
"""

cdef enum:
    LONG_ROWS = 8           # of the matrix, added in one pass to
    LONG_COLUMNS = 4096     # sums, which stay in the L1


cdef inline void vector_sums(
    const int rows, const real* x, const real* m, Py_ssize_t m_row, Py_ssize_t ahead,
    const real* start, real* c, Py_ssize_t columns,
) noexcept nogil:
    """c[j] += sum over k < rows of x[k] m[k * m_row + j]: outer. Where there is a start, it takes the place of c.

    What lies `ahead` in every second row is asked for.
    """
    cdef vreal left[LONG_ROWS]
    cdef vreal total
    cdef Py_ssize_t j = 0
    cdef int k
    for k in range(rows):
        left[k] = splat(x[k])
    while j + LANES <= columns:
        total = load(c + j) if start == NULL else splat(start[0])
        for k in range(rows):
            total = total + left[k] * load(m + k * m_row + j)
            if ahead and k % 2:
                prefetch(2, m + k * m_row + j + ahead)
        store(c + j, total)
        j += LANES
    if j < columns:
        total = load_first(c + j, columns - j) if start == NULL else splat(start[0])
        for k in range(rows):
            total = total + left[k] * load_first(m + k * m_row + j, columns - j)
        store_first(c + j, total, columns - j)


cdef Py_ssize_t add_long_rows(
    Py_ssize_t rows, const real* x, const real* m, Py_ssize_t m_row, Py_ssize_t ahead,
    const real* start, real* c, Py_ssize_t columns,
) noexcept nogil:
    """`vector_sums` of some of the rows, as many as go in one pass; returns how many."""
    if rows >= LONG_ROWS:
        vector_sums(LONG_ROWS, x, m, m_row, ahead, start, c, columns)
        return LONG_ROWS
    if rows >= 4:
        vector_sums(4, x, m, m_row, ahead, start, c, columns)
        return 4
    if rows >= 2:
        vector_sums(2, x, m, m_row, ahead, start, c, columns)
        return 2
    vector_sums(1, x, m, m_row, ahead, start, c, columns)
    return 1


cdef inline void vector_products(
    const int rows, Py_ssize_t depth, const real* x, const real* m, Py_ssize_t m_row, real* c, Py_ssize_t c_step,
) noexcept nogil:
    """c[i * c_step] = sum over k of x[k] m[i * m_row + k]: inner. x ends in zeros, to a whole vector."""
    cdef vreal sums[LANES]
    cdef real totals[LANES]
    cdef vreal left
    cdef Py_ssize_t k = 0
    cdef int i
    for i in range(LANES):
        sums[i] = splat(0)
    while k + LANES <= depth:
        left = load(x + k)
        for i in range(rows):
            sums[i] = sums[i] + left * load(m + i * m_row + k)
        k += LANES
    if k < depth:
        left = load(x + k)
        for i in range(rows):
            sums[i] = sums[i] + left * load_first(m + i * m_row + k, depth - k)
    add_lanes(sums, LANES, totals)
    for i in range(rows):
        c[i * c_step] = totals[i]


cdef bint multiply_vector(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """`multiply` where a is a row or b a column; returns False, nothing done, where the matrix lies neither way."""
    cdef Matrix m                       # out[j] = sum over k of x[k] m[k, j]
    cdef const char* x
    cdef const real* start
    cdef real zero = 0
    cdef Py_ssize_t x_step, c_step, j = 0, k, rows, columns, m_row, m_column, depth = a.columns
    if a.rows == 1:
        m, x, x_step, c_step = b, a.data, a.column, 1
    else:
        m = transposed(a)
        x, x_step, c_step = b.data, b.row, c_row
    if depth == 0 or not in_reals(m):
        return False
    m_row = m.row // <Py_ssize_t>sizeof(real)
    m_column = m.column // <Py_ssize_t>sizeof(real)
    if m_row != 1 and (m_column != 1 or c_step != 1):
        return False
    for k in range(depth):
        scratch[k] = load_anywhere(x + k * x_step)
    for k in range(depth, parts(depth, LANES) * LANES):
        scratch[k] = 0
    if m_row == 1:
        while j + LANES <= m.columns:
            vector_products(
                LANES, depth, scratch, <const real*>m.data + j * m_column, m_column, c + j * c_step, c_step)
            if interrupted(air, thread, LANES * depth):
                return True
            j += LANES
        while j < m.columns:
            vector_products(1, depth, scratch, <const real*>m.data + j * m_column, m_column, c + j * c_step, c_step)
            j += 1
        return True
    while j < m.columns:
        columns = smaller(LONG_COLUMNS, m.columns - j)
        start = &zero
        k = 0
        while k < depth:
            rows = add_long_rows(
                depth - k, scratch + k, <const real*>m.data + k * m_row + j, m_row, 0, start, c + j, columns)
            if interrupted(air, thread, rows * columns):
                return True
            start = NULL
            k += rows
        j += LONG_COLUMNS
    return True
