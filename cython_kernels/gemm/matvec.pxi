"""A matrix times one vector or a few (at most FEW_VECTORS): the matrix is read once, in place.

There are two loop orders. Outer (axpy): some rows of the matrix at a time are added to the sums of one or two vectors; up to
2.5 times as fast as going down a few columns, and 1.1 to 3 times as fast as a micro-tile of two rows. Inner (dot products):
the lanes run over k, and none is idle, while the lanes of a micro-tile would run over two to eight columns; 1.8 and 2.6
times as fast at 200 x 200 x 6 and x 2. A layer with a single output reads X in the outer order.

The inner loop takes as many rows as fill a vector with totals. Long rows, 4 KiB apart, would map to the same sets of the L1,
and a few rows alone are latency-bound: from CHAIN_DEPTH on a row has CHAINS accumulators, and CHAIN_ROWS rows are
computed together (2.2 times as fast at 200 x 4096, 7 at 8 x 4096). A vector that is not contiguous is copied.

The order of the sums is specific to these loops: it depends on the layout of the matrix and the length of its rows. A loop adds
at most `sum_depth` terms (`multiply_deep` divides longer sums). Which factor is a few vectors, if any, is decided from the
complete product and passed to each thread, since a thread's share alone could decide otherwise.

Rejected: always four rows at a time (0.5 to 0.9 of the speed); prefetching rows that conflict in the L1, too (0.7).
"""

cdef enum:
    # outer
    LONG_VECTORS = 4        # most vectors of one pass
    LONG_ROWS = 8           # most rows of the matrix in one pass
    LONG_COLUMNS = 4096     # sums, of all vectors together, that stay in the L1 between passes
    TWO_VECTORS = 2         # most vectors of `multiply_outer`; more are worthwhile in a single pass only (shallow.pxi)
    # inner
    FEW_VECTORS = 8         # most vectors of the inner loop, and at most half the lanes
    VECTOR_DEPTH = 3        # n vectors need rows of VECTOR_DEPTH * n^2 elements, for which adding the lanes is cheap
    VECTOR_BLOCK = 4096     # the longest sums of the inner loop: CHAINS accumulators share those of a long row
    VECTOR_SIDE = LONG_COLUMNS // TWO_VECTORS   # sums of each vector at a time in `multiply_deep`, which keeps their totals
    CHAIN_DEPTH = 1024      # length of a row from which on it has CHAINS accumulators
    CHAINS = 4              # accumulators of a long row, as independent dependency chains
    CHAIN_ROWS = LANE_ROWS  # long rows that are computed together
    NEXT_BYTES = 1 << 13    # bytes of the next rows that are prefetched to the L1 if m is larger than the L2,
    NEXT_VECTORS = 4        # and if its rows have at least so many vectors
    MEMORY_BYTES = 1 << 23  # bytes of m from which on as many more are prefetched to the L2: m may not fit the L3


cdef struct LongRows:
    # A matrix with contiguous rows.
    const real* data
    Py_ssize_t row
    Py_ssize_t ahead        # prefetch distance, used in every second row; 0: no prefetch


cdef inline void vector_sums(
    const int rows, const int n, Left x, const LongRows* m, const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil:
    """Outer: c[i * c_row + j] += sum over k < rows of x[i, k] m[k, j], i < n. Sums start at start[0], unless NULL."""
    cdef vreal left[LONG_VECTORS * LONG_ROWS]
    cdef vreal total[LONG_VECTORS]
    cdef vreal right
    cdef const real* data = m.data
    cdef Py_ssize_t j = 0, row = m.row, ahead = m.ahead
    cdef int i, k
    for i in range(n):
        for k in range(rows):
            left[i * rows + k] = splat(x.data[i * x.row + k * x.step])
    while j + LANES <= columns:
        for i in range(n):
            total[i] = load(c + i * c_row + j) if start == NULL else splat(start[0])
        for k in range(rows):
            right = load(data + k * row + j)
            for i in range(n):
                total[i] = multiply_add(left[i * rows + k], right, total[i])
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
                total[i] = multiply_add(left[i * rows + k], right, total[i])
        for i in range(n):
            store_first(c + i * c_row + j, total[i], columns - j)


ctypedef void (*VectorSums)(
    const int rows, const int n, Left x, const LongRows* m, const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil
ctypedef void (*AddRows)(
    const int n, Py_ssize_t rows, Left x, const LongRows* m, const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil
cdef extern from "vector.h" nogil:
    void vector_sums_of "AS_CONSTANT"(int most, VectorSums, Py_ssize_t rows, ...)
    void add_rows_of "AS_CONSTANT"(int most, AddRows, Py_ssize_t n, ...)


cdef inline void add_some_rows(
    const int n, Py_ssize_t rows, Left x, const LongRows* m, const real* start, real* c, Py_ssize_t c_row, Py_ssize_t columns,
) noexcept nogil:
    vector_sums_of(LONG_ROWS, vector_sums, rows, n, x, m, start, c, c_row, columns)


cdef void add_long_rows(
    Py_ssize_t n, Py_ssize_t rows, const Left* x, const LongRows* m, const real* start, real* c, Py_ssize_t c_row,
    Py_ssize_t columns,
) noexcept nogil:
    """`vector_sums` of n <= LONG_VECTORS vectors and rows <= LONG_ROWS."""
    add_rows_of(LONG_VECTORS, add_some_rows, n, rows, x[0], m, start, c, c_row, columns)


cdef enum Prefetching:
    # Where the next rows are prefetched from.
    NO_PREFETCH
    PREFETCH_L3
    PREFETCH_MEMORY


cdef struct InnerProducts:
    # Some rows of a matrix, the vectors x, and the product, whose element (i, j) is c[i * c_row + j * c_column].
    const real* m
    Py_ssize_t m_row
    const real* x
    Py_ssize_t x_row
    Py_ssize_t depth
    real* c
    Py_ssize_t c_row
    Py_ssize_t c_column


cdef inline void add_vector_products(
    const int rows, const int n, const Prefetching prefetching, Py_ssize_t k, InnerProducts p, vreal* sums,
) noexcept nogil:
    """sums[i * n + j] += m[i, k : k + LANES] x[j, k : k + LANES], lane by lane."""
    cdef vreal right[FEW_VECTORS]
    cdef vreal left
    cdef const real* m
    cdef const real* ahead = NULL
    cdef int i, j
    for j in range(n):
        right[j] = load(p.x + j * p.x_row + k)
    # All rows are addressed by one base and multiples of the stride: a pointer to each row would not fit in registers.
    m = opaque(<real*>p.m + k)
    if prefetching != NO_PREFETCH:
        ahead = opaque(<real*>m + rows * p.m_row)
    for i in range(rows):
        left = load(m + i * p.m_row)
        if prefetching != NO_PREFETCH:
            prefetch(1, ahead + i * p.m_row)
        if prefetching == PREFETCH_MEMORY:
            prefetch(2, ahead + i * p.m_row + NEXT_BYTES // sizeof(real))
        for j in range(n):
            sums[i * n + j] = multiply_add(left, right[j], sums[i * n + j])


cdef inline void vector_products(
    const int rows, const int n, const int chains, const Prefetching prefetching, InnerProducts p,
) noexcept nogil:
    """Inner: c (rows, n) = m x^T."""
    cdef int count = (rows * n + LANES - 1) // LANES * LANES
    cdef vreal sums[CHAINS][FEW_VECTORS + LANES]    # `chains` consecutive vectors of a row are added to different accumulators
    cdef real totals[FEW_VECTORS + LANES]
    cdef vreal right[FEW_VECTORS]
    cdef vreal left
    cdef Py_ssize_t k = 0
    cdef int i, j, u
    for u in range(chains):
        for i in range(count):
            sums[u][i] = splat(0)
    while k + chains * LANES <= p.depth:
        for u in range(chains):
            add_vector_products(rows, n, prefetching, k + u * LANES, p, sums[u])
        k += chains * LANES
    if chains > 1:
        while k + LANES <= p.depth:
            add_vector_products(rows, n, prefetching, k, p, sums[0])
            k += LANES
    if k < p.depth:
        for j in range(n):
            right[j] = load_first(p.x + j * p.x_row + k, p.depth - k)
        for i in range(rows):
            left = load_first(p.m + i * p.m_row + k, p.depth - k)
            for j in range(n):
                sums[0][i * n + j] = multiply_add(left, right[j], sums[0][i * n + j])
    for u in range(1, chains):
        for i in range(rows * n):
            sums[0][i] = sums[0][i] + sums[u][i]
    add_lanes(sums[0], count, totals)
    for i in range(rows):
        for j in range(n):
            p.c[i * p.c_row + j * p.c_column] = totals[i * n + j]


cdef inline void all_products(
    const int rows, const int n, const int chains, const Prefetching prefetching, Py_ssize_t n_rows, InnerProducts p,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """`vector_products` of n_rows of m, `rows` at a time."""
    while n_rows > 0:
        if check_interrupt(interrupt, thread, rows * n * p.depth):
            return
        if n_rows >= rows:
            vector_products(rows, n, chains, prefetching, p)
            n_rows -= rows
            p.m += rows * p.m_row
            p.c += rows * p.c_row
        else:
            vector_products(1, n, chains, NO_PREFETCH, p)
            n_rows -= 1
            p.m += p.m_row
            p.c += p.c_row


cdef enum Vectors:
    NO_VECTORS
    ROWS_OF_A
    COLUMNS_OF_B


cdef inline bint goes_along(Matrix m, Py_ssize_t n) noexcept nogil:
    """Whether n vectors times m, in its layout, are computed by the loops of this file."""
    if m.columns == 0 or not is_real_aligned(m):
        return False
    if m.column == sizeof(real):
        return n == 1 or (n <= minimum(FEW_VECTORS, LANES // 2) and m.columns >= VECTOR_DEPTH * n * n)
    return n <= TWO_VECTORS and m.row == sizeof(real)


cdef Vectors vectors_of(Matrix a, Matrix b) noexcept nogil:
    """Which factor, if any, is a few vectors that suit the layout of the other; if both do, the factor of fewer vectors."""
    cdef bint rows = goes_along(transposed(b), a.rows), columns = goes_along(a, b.columns)
    if columns and not (rows and a.rows < b.columns):
        return COLUMNS_OF_B
    return ROWS_OF_A if rows else NO_VECTORS


cdef inline Py_ssize_t vectors_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The scratch of `multiply_vectors`, in reals: a copy of the vectors, or sums that are not contiguous in the product."""
    return maximum(FEW_VECTORS * minimum(depth, VECTOR_BLOCK), minimum(LONG_COLUMNS, TWO_VECTORS * maximum(rows, columns)))


cdef inline Py_ssize_t sum_depth(Matrix m) noexcept nogil:
    """The longest sum that the loop for m adds up."""
    return VECTOR_BLOCK if m.column == sizeof(real) else SUM_BLOCK


cdef void multiply_inner(
    Matrix m, Matrix x, real* c, Py_ssize_t c_row, Py_ssize_t c_column, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """c (m.rows, x.rows) = m x^T, element (i, j) at c[i * c_row + j * c_column]."""
    cdef Py_ssize_t j, k
    cdef InnerProducts p = InnerProducts(
        <const real*>m.data, m.row // <Py_ssize_t>sizeof(real), <const real*>x.data, x.row // <Py_ssize_t>sizeof(real),
        m.columns, c, c_row, c_column)
    cdef Prefetching prefetching = NO_PREFETCH
    if m.columns >= NEXT_VECTORS * LANES and LANES * m.row <= NEXT_BYTES and exceeds_l2(m):
        prefetching = PREFETCH_MEMORY if m.rows * m.row > MEMORY_BYTES else PREFETCH_L3
    if not is_row_major(x):
        p.x, p.x_row = scratch, p.depth
        for j in range(x.rows):
            for k in range(p.depth):
                scratch[j * p.depth + k] = load_unaligned(x.data + j * x.row + k * x.column)
    if x.rows == 1 and m.columns >= CHAIN_DEPTH:
        all_products(CHAIN_ROWS, 1, CHAINS, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 1 and prefetching == PREFETCH_MEMORY:
        all_products(LANES, 1, 1, PREFETCH_MEMORY, m.rows, p, interrupt, thread)
    elif x.rows == 1 and prefetching == PREFETCH_L3:
        all_products(LANES, 1, 1, PREFETCH_L3, m.rows, p, interrupt, thread)
    elif x.rows == 1:
        all_products(LANES, 1, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 2 and LANES >= 4:
        all_products(LANES // 2, 2, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 3 and LANES >= 8:
        all_products(LANES // 3, 3, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 4 and LANES >= 8:
        all_products(LANES // 4, 4, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 5 and LANES >= 16:
        all_products(LANES // 5, 5, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 6 and LANES >= 16:
        all_products(LANES // 6, 6, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif x.rows == 7 and LANES >= 16:
        all_products(LANES // 7, 7, 1, NO_PREFETCH, m.rows, p, interrupt, thread)
    elif LANES >= 16:
        all_products(LANES // 8, 8, 1, NO_PREFETCH, m.rows, p, interrupt, thread)


cdef void multiply_outer(
    Matrix m, Matrix x, real* c, Py_ssize_t c_row, Py_ssize_t c_column, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """The product of `multiply_inner` in the outer order, for one or two vectors and a column-major m."""
    cdef real factors[TWO_VECTORS * LONG_ROWS]
    cdef Py_ssize_t i, j = 0, k0, k, rows, columns, sums_row = minimum(LONG_COLUMNS // TWO_VECTORS, m.rows)
    cdef real* sums = scratch
    cdef real zero = 0
    cdef Left left = Left(&factors[0], LONG_ROWS, 1)
    cdef LongRows long_rows
    while j < m.rows:
        columns = minimum(LONG_COLUMNS // TWO_VECTORS, m.rows - j)
        if c_row == 1:
            sums, sums_row = c + j, c_column
        k0 = 0
        while k0 < m.columns:
            rows = minimum(LONG_ROWS, m.columns - k0)
            if check_interrupt(interrupt, thread, rows * columns * x.rows):
                return
            for i in range(x.rows):
                for k in range(rows):
                    factors[i * LONG_ROWS + k] = load_unaligned(x.data + i * x.row + (k0 + k) * x.column)
            long_rows = LongRows(<const real*>(m.data + k0 * m.column) + j, m.column // <Py_ssize_t>sizeof(real), 0)
            add_long_rows(x.rows, rows, &left, &long_rows, &zero if k0 == 0 else NULL, sums, sums_row, columns)
            k0 += LONG_ROWS
        if c_row != 1:
            for i in range(x.rows):
                for k in range(columns):
                    c[(j + k) * c_row + i * c_column] = sums[i * sums_row + k]
        j += columns
