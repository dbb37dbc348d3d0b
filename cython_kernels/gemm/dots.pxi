"""The product of a wide row-major matrix and a few vectors, with the elements of a row in the lanes: interleaved sums
(sums.pxi).

Design. A row of w and a vector x are multiplied SUM_CHAINS elements at a time: each lane is a chain of the sum, and the
chains are added in the end, those of DOT_ROWS rows together. w is read once, in place and in long runs, for DOT_TOGETHER
vectors. One vector is bound by the cache or memory that holds w: 9 to 15 cycles for 64 elements on Zen 4 from the L2 and
the L3, where loads alone take 4.5; four are bound by their multiply-adds, 4 cycles each, and what is not hidden, 1.5.

Four or more vectors in float32 with AVX-512, three with a w from memory: pairs.pxi.

The hardware prefetches within a row, which is not enough for a w in memory: there the next rows are prefetched, and one or
two vectors take two rows at a time: 0.6 to 0.7 of the time. For a w in the caches the same costs up to a third.

Rejected: depth in blocks, so that w stays in the L1 for all vectors (the chains are stored and read once more: 5 to 10 %
slower); prefetching within the row, or the first lines of the next rows (no gain).
"""

cdef inline bint comes_from_memory(Py_ssize_t n_out, Py_ssize_t n_in) noexcept nogil:
    """Whether the weights of a layer may not fit into the L3."""
    return n_out * n_in * <Py_ssize_t>sizeof(real) > MEMORY_BYTES


cdef inline bint weights_exceed_l2(Py_ssize_t n_out, Py_ssize_t n_in) noexcept nogil:
    """Whether the weights of a layer may not be in the L2."""
    return n_out * n_in * <Py_ssize_t>sizeof(real) >= NEAR_BYTES


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


cdef inline void dot_step(
    const int n, const int rows, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, vcolumn* sums,
) noexcept nogil:
    """The next SUM_CHAINS elements of some rows and n examples."""
    cdef vcolumn left[DOT_VECTORS]
    cdef vcolumn right[DOT_TOGETHER * DOT_VECTORS]
    cdef int e, i, v, at
    for e in range(n):
        for v in range(DOT_VECTORS):
            right[e * DOT_VECTORS + v] = load_column(x + e * x_row + v * COLUMN)
    for i in range(rows):
        for v in range(DOT_VECTORS):
            left[v] = load_column(w + i * row + v * COLUMN)
        for e in range(n):
            for v in range(DOT_VECTORS):
                at = (e * rows + i) * DOT_VECTORS + v
                sums[at] = multiply_add_column(left[v], right[e * DOT_VECTORS + v], sums[at])


cdef inline void dot_rows(
    const int n, const int rows, const bint far, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x,
    Py_ssize_t x_row, const real* bias, real* chains,
) noexcept nogil:
    """The chains of the products of some rows and n examples: chains[(e * DOT_ROWS + i) * SUM_CHAINS + j].

    far: the rows DOT_ROWS below are prefetched, a line at a time.
    """
    cdef vcolumn sums[DOT_TOGETHER * DOT_ROWS * DOT_VECTORS]
    cdef Py_ssize_t stop = depth // SUM_CHAINS * SUM_CHAINS
    cdef const real* place = w
    cdef const real* right = x
    cdef const real* last = w + stop
    cdef int steps = LINE // (SUM_CHAINS * sizeof(real)), e, i, v
    for e in range(n):
        for i in range(rows):
            for v in range(DOT_VECTORS):
                sums[(e * rows + i) * DOT_VECTORS + v] = first_of_column(bias[i] if v == 0 and bias != NULL else 0)
    while far and place + steps * SUM_CHAINS <= last:
        place = opaque(<real*>place)
        for i in range(rows):
            prefetch(2, place + (DOT_ROWS + i) * row)
        for i in range(steps):
            dot_step(n, rows, place, row, right, x_row, sums)
            place += SUM_CHAINS
            right += SUM_CHAINS
    while place < last:
        place = opaque(<real*>place)
        dot_step(n, rows, place, row, right, x_row, sums)
        place += SUM_CHAINS
        right += SUM_CHAINS
    for e in range(n):
        for i in range(rows):
            for v in range(DOT_VECTORS):
                store_column(chains + (e * DOT_ROWS + i) * SUM_CHAINS + v * COLUMN, sums[(e * rows + i) * DOT_VECTORS + v])
            for v in range(<int>(depth - stop)):
                chains[(e * DOT_ROWS + i) * SUM_CHAINS + v] = multiply_add_one(
                    w[i * row + stop + v], x[e * x_row + stop + v], chains[(e * DOT_ROWS + i) * SUM_CHAINS + v])


cdef inline const real* next_bias(const real* bias, Py_ssize_t n) noexcept nogil:
    return bias + (0 if bias == NULL else n)


cdef inline void dot_groups(
    const int n, const int rows, const bint far, Py_ssize_t n_rows, Py_ssize_t depth, const real* w, Py_ssize_t row,
    const real* x, Py_ssize_t x_row, const real* bias, real* chains,
) noexcept nogil:
    """`dot_rows` of n_rows <= DOT_ROWS rows, `rows` together: a power of two, so that no rows are left over."""
    cdef Py_ssize_t i = 0
    while i + rows <= n_rows:
        dot_rows(n, rows, far, depth, w + i * row, row, x, x_row, bias, chains + i * SUM_CHAINS)
        i += rows
        bias = next_bias(bias, rows)
    while i < n_rows:
        dot_rows(n, 1, False, depth, w + i * row, row, x, x_row, bias, chains + i * SUM_CHAINS)
        i += 1
        bias = next_bias(bias, 1)


cdef inline void dot_by(
    const int n, Py_ssize_t n_rows, bint far, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x,
    Py_ssize_t x_row, const real* bias, real* chains,
) noexcept nogil:
    cdef int most = minimum(DOT_ROWS, COLUMN_SUMS // (n * DOT_VECTORS))
    cdef int rows = 8 if most >= 8 and n == 1 else 4 if most >= 4 else 2 if most >= 2 else 1
    if far:     # memory is read faster in few streams, as long as the sums of two rows hide their latency
        dot_groups(n, minimum(2, rows) if n <= 2 else rows, True, n_rows, depth, w, row, x, x_row, bias, chains)
    # Eight rows and two vectors, all 4 KiB apart, would need more than the eight ways of a set of the L1.
    elif n == 2 and most >= 8 and n_rows >= 8 and row * sizeof(real) % 4096:
        dot_rows(n, 8, False, depth, w, row, x, x_row, bias, chains)
    else:
        dot_groups(n, rows, False, n_rows, depth, w, row, x, x_row, bias, chains)


ctypedef void (*DotBy)(
    const int n, Py_ssize_t n_rows, bint far, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x,
    Py_ssize_t x_row, const real* bias, real* chains) noexcept nogil
cdef extern from "vector.h" nogil:
    void dot_of "AS_CONSTANT"(int most, DotBy, Py_ssize_t n, ...)


# ---- a product -----------------------------------------------------------------------------------------------

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
    """rows <= DOT_ROWS rows of w from o on, n <= DOT_TOGETHER vectors from `first` on."""
    cdef real chains[DOT_TOGETHER * DOT_ROWS * SUM_CHAINS]
    cdef real sums[DOT_ROWS]
    cdef double totals[DOT_TOGETHER * DOT_ROWS]
    cdef Py_ssize_t n_in = p.depth, k = 0, depth, e, i
    # Only for the first vectors; for the next ones the rows are in the caches.
    cdef bint far = first == 0 and comes_from_memory(p.rows, n_in)
    for i in range(n * DOT_ROWS):
        totals[i] = 0       # else GCC warns
    while k < n_in:
        depth = minimum(INTERLEAVED_BLOCK, n_in - k)
        dot_of(
            DOT_TOGETHER, dot_by, n, rows, far, depth, p.w + o * n_in + k, n_in, p.x + first * p.x_row + k, p.x_row,
            next_bias(p.bias, o) if k == 0 else NULL, chains)
        for e in range(n):
            for i in range(DOT_ROWS // COLUMN):
                store_column(sums + i * COLUMN, sum_of_chains(chains + (e * DOT_ROWS + i * COLUMN) * SUM_CHAINS))
            if k + depth < n_in:
                add_block(sums, DOT_ROWS, k == 0, totals + e * DOT_ROWS)
                continue
            if k > 0:
                round_totals(totals + e * DOT_ROWS, sums, DOT_ROWS, sums)
            for i in range(rows):
                p.c[(first + e) * p.rows + o + i] = sums[i]
        k += depth


cdef void multiply_dots(const DotProduct* p, Interrupt* interrupt, int thread) noexcept nogil:
    """All vectors use DOT_ROWS rows of w before the next are read."""
    cdef Py_ssize_t o = 0, first, rows, n, i, n_parts = ceil_div(p.n, DOT_TOGETHER)
    while o < p.rows and not check_interrupt(interrupt, thread, DOT_ROWS * p.depth * p.n):
        rows = minimum(DOT_ROWS, p.rows - o)
        first = 0
        for i in range(n_parts):
            n = balanced_part(p.n, n_parts, i)
            dot_block(p, o, rows, first, n)
            first += n
        o += rows
