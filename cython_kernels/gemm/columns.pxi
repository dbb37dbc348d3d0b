"""The product of a row-major matrix and a few vectors, with the rows of the matrix in the lanes.

    c[i] += w[i, k] x[k]    k sequentially; a vector of rows i for each k

Design. w is needed column by column, but stays as it is. COLUMN rows are read QUAD elements (16 bytes) at a time, each to
its place in a vector, and QUAD x QUAD transpositions within 16 bytes make columns of them. All vectors use a column before
the next is made. The products and their order are those of a micro-tile, so that an example has the same bits in a batch of
any size.

On Zen 4 64 elements of a w in the caches take 12 to 15 cycles for one vector (float32), 18 in a whole prediction: 16 loads, 8 of
them with an insertion, and 16 shuffles, on two ports each. So this is for layers of fewer than INTERLEAVED_DEPTH inputs;
dots.pxi reads wide ones in 9 to 15, as the L2 or the L3 gives them.

With AVX-512 and two or more x a register holds the columns of two groups of rows: half as many multiply-adds, shuffles and
loads of x. 0.6 to 0.96 of the time.

Rejected: w packed in panels first, for more than 8 vectors (10 % slower); 16 sums of 8 vectors (their addresses do not stay
in registers: 15 % slower); transpositions of 16 x 16 (14 to 17 cycles); a vector of 32 bytes of each of 8 rows
(24 shuffles: 14 to 16); gathers (40 cycles for a column); 32 rows for one x (too many streams: 4 to 7 % slower than 16, which
hide the latency of its sums); lines of w prefetched to the L1 (up to 10 % slower).
"""

cdef enum:
    COLUMN_TOGETHER = 8     # vectors x whose sums stay in registers
    LEAST_WIDE = 2          # vectors x from which on two groups of rows share a vector, if columns are half of one


cdef struct ColumnProduct:
    # c[i * c_row + e * c_vector] = bias + the sum over k of w[i, k] x[e, k]
    const real* w
    Py_ssize_t row
    const real* x
    Py_ssize_t x_row
    Py_ssize_t depth
    const real* bias        # NULL: none
    Py_ssize_t bias_row     # 1: one for each row of w; 0: one for each vector
    real* c
    Py_ssize_t c_row
    Py_ssize_t c_vector


cdef inline void read_columns(const real* w, Py_ssize_t row, vcolumn* columns) noexcept nogil:
    """QUAD columns of COLUMN rows."""
    cdef vcolumn parts[4]       # QUAD is 2 or 4
    cdef vcolumn pairs[4]
    cdef int i
    for i in range(QUAD):
        parts[i] = load_column_parts(w + i * row, w + (i + QUAD) * row)
    if QUAD == 4:
        pairs[0] = interleave_column_low(parts[0], parts[2])
        pairs[1] = interleave_column_high(parts[0], parts[2])
        pairs[2] = interleave_column_low(parts[1], parts[3])
        pairs[3] = interleave_column_high(parts[1], parts[3])
        columns[0] = interleave_column_low(pairs[0], pairs[2])
        columns[1] = interleave_column_high(pairs[0], pairs[2])
        columns[2] = interleave_column_low(pairs[1], pairs[3])
        columns[3] = interleave_column_high(pairs[1], pairs[3])
    else:
        columns[0] = interleave_column_low(parts[0], parts[1])
        columns[1] = interleave_column_high(parts[0], parts[1])


cdef inline void add_quad(
    const int n, const int groups, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, int first, vcolumn* sums,
) noexcept nogil:
    """sums[g, e] += columns first ... QUAD of group g times those of x[e]."""
    cdef vcolumn columns[QUAD]
    cdef vcolumn right[COLUMN_TOGETHER * QUAD]
    cdef int g, i, e
    for e in range(n):
        for i in range(QUAD):
            if groups > 1 and n <= 2:       # else a register for each would be too many
                right[e * QUAD + i] = load_splat_column(x + e * x_row + i)
            else:
                right[e * QUAD + i] = splat_column(x[e * x_row + i])
    for g in range(groups):
        # From here on all rows have one address and multiples of their stride: addresses of each would not stay in registers.
        read_columns(opaque(<real*>w + g * COLUMN * row), row, columns)
        for i in range(QUAD):
            if i >= first:
                for e in range(n):
                    sums[g * n + e] = multiply_add_column(columns[i], right[e * QUAD + i], sums[g * n + e])


cdef inline void add_quads(
    const int n, const int groups, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row,
    real* block,
) noexcept nogil:
    """block[g, e] += the products of `depth` columns."""
    cdef vcolumn sums[COLUMN_TOGETHER]
    cdef vcolumn column
    cdef Py_ssize_t k = 0
    cdef int g, e, i
    for i in range(groups * n):
        sums[i] = load_column(block + i * COLUMN)
    while k + QUAD <= depth:
        add_quad(n, groups, w + k, row, x + k, x_row, 0, sums)
        k += QUAD
    if k < depth and depth >= QUAD:     # the last QUAD columns again, for those of them that are left
        add_quad(n, groups, w + depth - QUAD, row, x + depth - QUAD, x_row, <int>(k - (depth - QUAD)), sums)
        k = depth
    while k < depth:
        for g in range(groups):
            column = gather_column(w + g * COLUMN * row + k, row)
            for e in range(n):
                sums[g * n + e] = multiply_add_column(column, splat_column(x[e * x_row + k]), sums[g * n + e])
        k += 1
    for i in range(groups * n):
        store_column(block + i * COLUMN, sums[i])


cdef inline void read_wide_columns(const real* w, Py_ssize_t row, vreal* columns) noexcept nogil:
    """`read_columns` of two groups, with AVX-512."""
    cdef vreal parts[QUAD]
    cdef const real* place
    cdef int i
    for i in range(QUAD):
        place = w + i * row
        parts[i] = load_parts(place, place + QUAD * row, place + 2 * QUAD * row, place + 3 * QUAD * row)
    transpose_parts(parts, columns)


cdef inline bint wide_columns_pay(Py_ssize_t n, Py_ssize_t depth) noexcept nogil:
    """Whether columns of two groups are one vector."""
    return 2 * COLUMN == LANES and n >= LEAST_WIDE and depth >= QUAD


cdef inline void add_wide_quad(
    const int n, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, int first, vreal* sums,
) noexcept nogil:
    """`add_quad` of two groups: sums[e], those of the second group in the upper half."""
    cdef vreal columns[QUAD]
    cdef int i, e
    read_wide_columns(opaque(<real*>w), row, columns)
    for i in range(QUAD):
        if i >= first:
            for e in range(n):
                sums[e] = multiply_add(columns[i], splat(x[e * x_row + i]), sums[e])


cdef inline void add_wide_quads(
    const int n, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, real* block,
) noexcept nogil:
    """`add_quads` for two groups and at least QUAD columns."""
    cdef vreal sums[COLUMN_TOGETHER]
    cdef Py_ssize_t k = 0
    cdef int e
    for e in range(n):
        sums[e] = join_columns(load_column(block + e * COLUMN), load_column(block + (n + e) * COLUMN))
    while k + QUAD <= depth:
        add_wide_quad(n, w + k, row, x + k, x_row, 0, sums)
        k += QUAD
    if k < depth:
        add_wide_quad(n, w + depth - QUAD, row, x + depth - QUAD, x_row, <int>(k - (depth - QUAD)), sums)
    for e in range(n):
        store_halves(block + e * COLUMN, block + (n + e) * COLUMN, sums[e])


ctypedef void (*AddWideQuads)(
    const int n, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row, real* block) noexcept nogil
ctypedef void (*AddQuads)(
    const int n, const int groups, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row,
    real* block) noexcept nogil
ctypedef void (*ScalarProducts)(
    const int n, const real* w, const real* x, Py_ssize_t depth, const real* bias, real* a) noexcept nogil
cdef extern from "vector.h" nogil:
    void add_quads_of "AS_CONSTANT"(int most, AddQuads, Py_ssize_t n, ...)
    void add_wide_quads_of "AS_CONSTANT"(int most, AddWideQuads, Py_ssize_t n, ...)
    void scalar_products_of "AS_CONSTANT"(int most, ScalarProducts, Py_ssize_t n, ...)


cdef void add_column_products(
    Py_ssize_t n, Py_ssize_t groups, Py_ssize_t depth, const real* w, Py_ssize_t row, const real* x, Py_ssize_t x_row,
    real* block,
) noexcept nogil:
    """`add_quads` for n vectors and 1, 2 or 4 (for one vector) groups of COLUMN rows."""
    if groups == 4:
        add_quads_of(1, add_quads, n, 4, depth, w, row, x, x_row, block)
    elif groups == 2 and wide_columns_pay(n, depth):
        add_wide_quads_of(COLUMN_TOGETHER, add_wide_quads, n, depth, w, row, x, x_row, block)
    elif groups == 2:
        add_quads_of(COLUMN_TOGETHER // 2, add_quads, n, 2, depth, w, row, x, x_row, block)
    else:
        add_quads_of(COLUMN_TOGETHER, add_quads, n, 1, depth, w, row, x, x_row, block)


cdef void column_block(Py_ssize_t n, Py_ssize_t groups, ColumnProduct* p, Py_ssize_t i, Py_ssize_t first) noexcept nogil:
    """The sums of groups * COLUMN rows from i on and n vectors from `first` on."""
    cdef real block[2 * COLUMN_TOGETHER * COLUMN]
    cdef real* c = p.c + i * p.c_row + first * p.c_vector
    cdef real* sums = block
    cdef Py_ssize_t g, e, j
    cdef vcolumn start
    for g in range(groups):
        for e in range(n):
            if p.bias == NULL:
                start = splat_column(0)
            elif p.bias_row:
                start = load_column(p.bias + i + g * COLUMN)
            else:
                start = splat_column(p.bias[first + e])
            store_column(block + (g * n + e) * COLUMN, start)
    add_column_products(n, groups, p.depth, p.w + i * p.row, p.row, p.x + first * p.x_row, p.x_row, block)
    for g in range(groups):
        for e in range(n):
            if p.c_row == 1:
                store_column(c + g * COLUMN + e * p.c_vector, load_column(sums))
            else:
                for j in range(COLUMN):
                    c[(g * COLUMN + j) * p.c_row + e * p.c_vector] = sums[j]
            sums += COLUMN


cdef void multiply_columns(
    Py_ssize_t rows, Py_ssize_t n_vectors, ColumnProduct* p, Interrupt* interrupt, int thread,
) noexcept nogil:
    """rows >= COLUMN of w by n_vectors. The last rows are computed with some of those before them."""
    cdef Py_ssize_t n_parts = ceil_div(n_vectors, COLUMN_TOGETHER), part_number, n, groups, first = 0, i
    for part_number in range(n_parts):
        n = balanced_part(n_vectors, n_parts, part_number)
        # One vector: 16 rows hide the latency of their sums.
        groups = minimum(4, 16 // COLUMN) if n == 1 else 2 if 2 * n <= COLUMN_TOGETHER or wide_columns_pay(n, p.depth) else 1
        i = 0
        while i + groups * COLUMN <= rows:
            column_block(n, groups, p, i, first)
            if check_interrupt(interrupt, thread, groups * COLUMN * n * p.depth):
                return
            i += groups * COLUMN
        while i < rows:
            column_block(n, 1, p, minimum(i, rows - COLUMN), first)
            i += COLUMN
        first += n


cdef inline void scalar_products(
    const int n, const real* w, const real* x, Py_ssize_t depth, const real* bias, real* a,
) noexcept nogil:
    """a = w x + b of one example and n outputs, fewer than COLUMN."""
    cdef real sums[COLUMN]
    cdef Py_ssize_t k
    cdef int o
    for o in range(n):
        sums[o] = 0 if bias == NULL else bias[o]
    for k in range(depth):
        for o in range(n):
            sums[o] = multiply_add_one(w[o * depth + k], x[k], sums[o])
    for o in range(n):
        a[o] = sums[o]
