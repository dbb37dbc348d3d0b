"""The product of a wide row-major matrix and a few vectors, with the elements of a row in the lanes: interleaved sums
(sums.pxi).

Design. A row of w and a vector x are multiplied SUM_CHAINS elements at a time: each lane is a chain of the sum, and the
chains are added in the end, those of COLUMN rows together. w is read once, in place and in long runs, for DOT_TOGETHER
vectors. One vector is bound by the cache or memory that holds w: 9 to 13 cycles for 64 elements on Zen 4 from the L2 and
the L3, where loads alone take 4.5.
"""

cdef enum:
    DOT_TOGETHER = 4            # examples
    DOT_VECTORS = SUM_CHAINS // COLUMN      # vectors that hold the chains of a sum


cdef struct DotProduct:
    # c (n, rows) = x w^T + bias; all but x without gaps
    Py_ssize_t rows
    Py_ssize_t depth
    Py_ssize_t n
    const real* w
    const real* x
    Py_ssize_t x_row
    const real* bias        # NULL: none
    real* c


cdef inline void dot_rows(
    const int n, const int rows, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, real* chains,
) noexcept nogil:
    """The chains of the products of some rows and n examples: chains[(e * COLUMN + i) * SUM_CHAINS + j], from their start on."""
    cdef vcolumn sums[DOT_TOGETHER * COLUMN * DOT_VECTORS]
    cdef vcolumn left[DOT_VECTORS]
    cdef vcolumn right[DOT_TOGETHER * DOT_VECTORS]
    cdef const real* place
    cdef Py_ssize_t k = 0, stop = depth // SUM_CHAINS * SUM_CHAINS
    cdef int e, i, v, at
    for e in range(n):
        for i in range(rows):
            for v in range(DOT_VECTORS):
                sums[(e * rows + i) * DOT_VECTORS + v] = load_column(chains + (e * COLUMN + i) * SUM_CHAINS + v * COLUMN)
    while k < stop:
        place = opaque(<real*>w + k)
        for e in range(n):
            for v in range(DOT_VECTORS):
                right[e * DOT_VECTORS + v] = load_column(x + e * x_row + k + v * COLUMN)
        for i in range(rows):
            for v in range(DOT_VECTORS):
                left[v] = load_column(place + i * row + v * COLUMN)
            for e in range(n):
                for v in range(DOT_VECTORS):
                    at = (e * rows + i) * DOT_VECTORS + v
                    sums[at] = multiply_add_column(left[v], right[e * DOT_VECTORS + v], sums[at])
        k += SUM_CHAINS
    for e in range(n):
        for i in range(rows):
            for v in range(DOT_VECTORS):
                store_column(chains + (e * COLUMN + i) * SUM_CHAINS + v * COLUMN, sums[(e * rows + i) * DOT_VECTORS + v])
            for v in range(<int>(depth - stop)):
                chains[(e * COLUMN + i) * SUM_CHAINS + v] = multiply_add_one(
                    w[i * row + stop + v], x[e * x_row + stop + v], chains[(e * COLUMN + i) * SUM_CHAINS + v])


cdef inline void dot_by(
    const int n, Py_ssize_t n_rows, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row,
    real* chains,
) noexcept nogil:
    """`dot_rows` of n_rows <= COLUMN rows."""
    cdef int rows = minimum(COLUMN, maximum(1, COLUMN_SUMS // (n * DOT_VECTORS)))
    cdef Py_ssize_t i = 0
    while i + rows <= n_rows:
        dot_rows(n, rows, depth, w + i * row, row, x, x_row, chains + i * SUM_CHAINS)
        i += rows
    while i < n_rows:
        dot_rows(n, 1, depth, w + i * row, row, x, x_row, chains + i * SUM_CHAINS)
        i += 1


ctypedef void (*DotBy)(
    const int n, Py_ssize_t n_rows, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row,
    real* chains) noexcept nogil
cdef extern from "vector.h" nogil:
    void dot_of "AS_CONSTANT"(int most, DotBy, Py_ssize_t n, ...)


cdef inline vcolumn sum_of_chains(const real* chains) noexcept nogil:
    """The sums of COLUMN outputs from their chains."""
    cdef vcolumn columns[QUAD]
    cdef vcolumn total
    cdef int i, j
    for i in range(SUM_CHAINS // QUAD):
        read_columns(chains + i * QUAD, SUM_CHAINS, columns)
        for j in range(QUAD):
            total = columns[j] if i + j == 0 else total + columns[j]
    return total


cdef void dot_block(const DotProduct* p, Py_ssize_t o, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """rows <= COLUMN rows of w from o on, n <= DOT_TOGETHER vectors from `first` on."""
    cdef real chains[DOT_TOGETHER * COLUMN * SUM_CHAINS]
    cdef real sums[COLUMN]
    cdef double totals[DOT_TOGETHER * COLUMN]
    cdef Py_ssize_t n_in = p.depth, k = 0, depth, e, i
    while k < n_in:
        depth = minimum(INTERLEAVED_BLOCK, n_in - k)
        for i in range(n * COLUMN * SUM_CHAINS):
            chains[i] = 0
        if k == 0 and p.bias != NULL:
            for e in range(n):
                for i in range(rows):
                    chains[(e * COLUMN + i) * SUM_CHAINS] = p.bias[o + i]
        dot_of(
            DOT_TOGETHER, dot_by, n, rows, depth, p.w + o * n_in + k, n_in, p.x + first * p.x_row + k, p.x_row, chains)
        for e in range(n):
            store_column(sums, sum_of_chains(chains + e * COLUMN * SUM_CHAINS))
            if k + depth < n_in:
                add_block(sums, COLUMN, k == 0, totals + e * COLUMN)
                continue
            if k > 0:
                round_totals(totals + e * COLUMN, sums, COLUMN, sums)
            for i in range(rows):
                p.c[(first + e) * p.rows + o + i] = sums[i]
        k += depth


cdef void multiply_dots(const DotProduct* p, Interrupt* interrupt, int thread) noexcept nogil:
    """All vectors use COLUMN rows of w before the next are read."""
    cdef Py_ssize_t o = 0, first, rows
    while o < p.rows and not check_interrupt(interrupt, thread, COLUMN * p.depth * p.n):
        rows = minimum(COLUMN, p.rows - o)
        first = 0
        while first < p.n:
            dot_block(p, o, rows, first, minimum(DOT_TOGETHER, p.n - first))
            first += DOT_TOGETHER
        o += rows
