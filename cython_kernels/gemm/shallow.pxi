"""Products of a small depth or of short rows, which loads and stores limit, not multiply-adds. Nothing is packed.

Few rows times a wide matrix (`multiply_along`): some rows of the result are computed over all columns, with the left factor
in registers; up to 2.3 times as fast as micro-tiles (0.9 to 1.1 at the limit, 64 rows 13 deep). A tall matrix times
few columns (`multiply_flat`): a vector holds as many whole rows of the result as fit, 1.2 to 5 times as fast as one row
per vector. Both add in the order of a micro-tile. A tall matrix of short rows times a vector (`multiply_short`): several
rows share a vector; 2 to 6 times as fast in float32, up to 3 in float64, as one row per vector.

The bounds below are measured. Rejected for short rows: adding adjacent lanes by exchanges within a vector (half the
shuffles, the same time).
"""

cdef enum:
    SHALLOW_DEPTH = 16      # greatest depth and
    SHALLOW_ROWS = 64       # most rows of `multiply_along`,
    SHALLOW_COLUMNS = 1024  # which takes so many columns at a time: they are read once for each LONG_VECTORS rows
    FLAT_VECTORS = 4        # vectors that are computed together: a single one would be latency-bound
    SHORT_ROWS = 1024       # rows, or rounds of a loop, between two calls of `check_interrupt`


# ---- few rows ------------------------------------------------------------------------------------------

cdef inline bint go_along(Matrix a, Matrix b) noexcept nogil:
    return (
        0 < a.columns <= SHALLOW_DEPTH and a.rows <= SHALLOW_ROWS and b.columns >= LANES
        and is_real_aligned(a) and is_row_major(b)
    )


cdef void multiply_along(Matrix a, Matrix b, real* c, Py_ssize_t c_row, Interrupt* interrupt, int thread) noexcept nogil:
    """`multiply`, if `go_along`."""
    cdef Py_ssize_t i, j = 0, k, n, columns, tile, n_tiles = ceil_div(a.rows, LONG_VECTORS)
    cdef real zero = 0
    cdef Left left
    cdef LongRows rows
    while j < b.columns:
        columns = minimum(SHALLOW_COLUMNS, b.columns - j)
        if check_interrupt(interrupt, thread, a.rows * columns * a.columns):
            return
        i = 0
        for tile in range(n_tiles):
            n = balanced_part(a.rows, n_tiles, tile)
            k = 0
            while k < a.columns:
                left = in_place(part(a, i, k))
                rows = LongRows(<const real*>part(b, k, j).data, b.row // <Py_ssize_t>sizeof(real), 0)
                add_long_rows(
                    n, minimum(LONG_ROWS, a.columns - k), &left, &rows, &zero if k == 0 else NULL,
                    c + i * c_row + j, c_row, columns)
                k += LONG_ROWS
            i += n
        j += SHALLOW_COLUMNS


# ---- few columns ---------------------------------------------------------------------------------------

cdef inline bint are_flat(Matrix a, Matrix b, Py_ssize_t c_row) noexcept nogil:
    """Whether a and c are contiguous, and at least two rows of each fit in a vector."""
    return (
        0 < 2 * a.columns <= LANES and 2 * b.columns <= LANES and c_row == b.columns
        and is_row_major(a) and a.row == a.columns * a.column)


cdef inline void flat_sums(
    const int n, Py_ssize_t depth, const real* patterns, Places places, const vreal* rows, vreal* sums,
) noexcept nogil:
    """sums: n vectors, each of some whole rows of the product; rows: vectors of rows of A; patterns: the rows of B, repeated."""
    cdef Py_ssize_t k
    cdef vreal right
    cdef int i
    for i in range(n):
        sums[i] = splat(0)
    for k in range(depth):
        right = load(patterns + k * LANES)
        for i in range(n):
            sums[i] = multiply_add(take_lanes(rows[i], places, k), right, sums[i])


cdef void multiply_flat(Matrix a, Matrix b, real* c, Interrupt* interrupt, int thread) noexcept nogil:
    """`multiply`, if `are_flat`. Lanes past the last whole row of a vector are stored, too; the next store overwrites them."""
    cdef real patterns[LANES * LANES]
    cdef vreal rows[FLAT_VECTORS]
    cdef vreal sums[FLAT_VECTORS]
    cdef const real* data = <const real*>a.data
    cdef Py_ssize_t depth = a.columns, columns = b.columns, k, lane, n, round_ = 0
    cdef Py_ssize_t step = minimum(LANES // depth, LANES // columns)    # rows of the product in a vector
    cdef Py_ssize_t left = a.rows * depth, wanted = a.rows * columns    # elements of a and of c that are left
    cdef Places places = places_of(columns, depth)
    cdef int v
    for k in range(depth):
        for lane in range(LANES):
            patterns[k * LANES + lane] = load_unaligned(b.data + k * b.row + lane % columns * b.column)
    while wanted > 0:
        if round_ % SHORT_ROWS == 0 and check_interrupt(interrupt, thread, SHORT_ROWS * FLAT_VECTORS * LANES * depth):
            return
        round_ += 1
        n = (FLAT_VECTORS - 1) * step
        if left >= n * depth + LANES and wanted >= n * columns + LANES:
            for v in range(FLAT_VECTORS):
                rows[v] = load(data + v * step * depth)
            flat_sums(FLAT_VECTORS, depth, patterns, places, rows, sums)
            for v in range(FLAT_VECTORS):
                store(c + v * step * columns, sums[v])
            n = FLAT_VECTORS * step
        else:
            rows[0] = load_first(data, minimum(LANES, left))
            flat_sums(1, depth, patterns, places, rows, sums)
            store_first(c, sums[0], minimum(step * columns, wanted))
            n = step
        data += n * depth
        left -= n * depth
        c += n * columns
        wanted -= n * columns


# ---- a vector ------------------------------------------------------------------------------------------

cdef inline bint are_short(Matrix m) noexcept nogil:
    """Whether m is contiguous, and at least two of its rows fit in a vector."""
    return LANES > 2 and 2 * m.columns <= LANES and m.row == m.columns * m.column


cdef inline vreal short_sums(
    const int width, const real* data, Py_ssize_t depth, vreal right, bint whole, Py_ssize_t left,
) noexcept nogil:
    """LANES rows of `depth` elements times `right`. Unless `whole`, only `left` elements of m are left, and no more are read."""
    cdef vreal sums[LANES]
    cdef Py_ssize_t step = LANES // width * depth
    cdef int i
    for i in range(width):
        if whole:
            sums[i] = load(data + i * step)
        else:
            sums[i] = load_first(data + i * step, maximum(0, minimum(LANES, left - i * step)))
        sums[i] = spread_groups(sums[i], width, depth) * right
    if width >= 8:
        add_neighbours(4, sums)
    if width >= 4:
        add_neighbours(2, sums)
    add_neighbours(1, sums)
    return sums[0]


cdef inline void short_products(
    const int width, Matrix m, const real* x, real* c, Py_ssize_t c_row, Interrupt* interrupt, int thread,
) noexcept nogil:
    """c = m x for rows of at most `width` elements, a power of two: LANES / width rows share a vector."""
    cdef real totals[LANES]
    cdef vreal right = splat_group(x, width)
    cdef const real* data = <const real*>m.data
    cdef Py_ssize_t i = 0, j, n = m.rows * m.columns, wholes
    wholes = (n - LANES + LANES // width * m.columns) // (LANES * m.columns) * LANES if c_row == 1 else 0
    while i < m.rows:
        if i % SHORT_ROWS == 0 and check_interrupt(interrupt, thread, SHORT_ROWS * m.columns):
            return
        if i < wholes:
            store(c + i, short_sums(width, data, m.columns, right, True, 0))
        else:
            store(totals, short_sums(width, data, m.columns, right, False, n - i * m.columns))
            for j in range(minimum(LANES, m.rows - i)):
                c[(i + j) * c_row] = totals[j]
        data += LANES * m.columns
        i += LANES


cdef void multiply_short(Matrix m, Matrix x, real* c, Py_ssize_t c_row, Interrupt* interrupt, int thread) noexcept nogil:
    """c = m x^T for one vector, if `are_short(m)`; the elements of c are c_row apart."""
    cdef real vector[LANES]
    cdef Py_ssize_t k
    for k in range(LANES):
        vector[k] = load_unaligned(x.data + k * x.column) if k < m.columns else 0
    if m.columns <= 2:
        short_products(2, m, vector, c, c_row, interrupt, thread)
    elif m.columns <= 4 and LANES > 4:
        short_products(4, m, vector, c, c_row, interrupt, thread)
    elif LANES > 8:
        short_products(8, m, vector, c, c_row, interrupt, thread)
