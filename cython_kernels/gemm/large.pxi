"""Products of large matrices: with both factors packed, or with A, and perhaps B, read in place. See matmul.pxi."""

cdef enum:
    REUSED_ROWS = 128       # rows of A from which on B is packed; measured, as is
    REUSED_COLUMNS = 256    # columns of B from which on A is packed; also the width of a block of `multiply_in_place`
    FEW_ROWS = 64           # rows of A from which on a B larger than the L2 is packed, too: see few_rows.pxi


cdef struct Next:
    # What the next tile reads of A, to be prefetched: a cache line at each of data + i * row (bytes).
    const char* data
    Py_ssize_t row


cdef inline Next next_lines(Matrix a, Py_ssize_t k) noexcept nogil:
    """The lines of the columns of a from k on. An address past its end is harmless: a prefetch needs no valid address."""
    return Next(a.data + k * a.column, a.column if a.row == sizeof(real) else a.row)


cdef inline void block_tile(
    const int vectors, const int rows, Py_ssize_t depth, const real* a, const real* b, Next next, Output c,
) noexcept nogil:
    """c (rows, vectors * LANES) from packed a (rows, depth) and the panel b."""
    cdef vreal sums[ROWS][MOST_VECTORS]
    cdef Py_ssize_t k = 0, n = depth // rows + 1
    cdef Right right = Right(b, vectors * LANES, PANEL)     # all vectors of a row are contiguous
    cdef real* place = c.data
    cdef int v
    start_sums(rows, vectors, NULL, sums)
    while k < depth:        # each round (at most one per row) prefetches a row of c and one of the next rows of A
        for v in range(vectors):
            prefetch(1, place + v * LANES)
        prefetch(1, <const real*>next.data)
        place += c.row
        next.data += next.row
        n = minimum(n, depth - k)
        add_products(
            rows, vectors, Ahead(1, DEPTH_AHEAD * vectors * LANES, 0), n, Left(a + k * PACKED_ROWS, 1, PACKED_ROWS), &right, sums)
        k += n
    store_tile(rows, vectors, sums, c)


ctypedef void (*BlockTile)(
    const int vectors, const int rows, Py_ssize_t depth, const real* a, const real* b, Next next, Output c) noexcept nogil
ctypedef void (*BlockVectors)(
    const int rows, int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, Output c) noexcept nogil
cdef extern from "vector.h" nogil:
    void block_tile_of "AS_CONSTANT"(int most, BlockTile, int vectors, ...)
    void block_vectors_of "AS_CONSTANT"(int most, BlockVectors, int rows, ...)


cdef inline void block_vectors(
    const int rows, int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, Output c,
) noexcept nogil:
    block_tile_of(WIDE_VECTORS, block_tile, vectors, rows, depth, a, b, next, c)


cdef void block_rows(
    int rows, int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, const Output* c,
) noexcept nogil:
    """c (rows <= ROWS, <= vectors * LANES) from packed a (rows, depth) and the panel b."""
    block_vectors_of(ROWS, block_vectors, rows, vectors, depth, a, b, next, c[0])


cdef void multiply_blocks(
    Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply` with both factors packed: a block of B in the L2, the rows of a tile in the L1."""
    cdef Py_ssize_t i0, j0 = 0, k0, p, tile, columns, width, wider, depth, n_vectors, n_panels
    cdef Py_ssize_t n_tiles = ceil_div(a.rows, ROWS)
    cdef int rows, vectors
    cdef real* left = scratch + minimum(a.columns, DEPTH_BLOCK) * ceil_div(minimum(b.columns, COLUMN_BLOCK), LANES) * LANES
    cdef real* panel
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, PANEL, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = minimum(COLUMN_BLOCK, b.columns - j0)
        n_vectors = ceil_div(columns, LANES)
        n_panels = ceil_div(n_vectors, WIDE_VECTORS)
        vectors = <int>(n_vectors // n_panels)
        wider = n_vectors % n_panels * (vectors + 1) * LANES     # columns in the first panels, which are one vector wider
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even if A has no columns
            depth = minimum(DEPTH_BLOCK, a.columns - k0)
            out.epilogue = STORE if k0 == 0 else ADD
            block = part(b, k0, j0)
            pack_right(block, depth, wider, vectors + 1, scratch)
            pack_right(part(block, 0, wider), depth, columns - wider, vectors, scratch + wider * depth)
            i0 = 0
            for tile in range(n_tiles):
                rows = <int>balanced_part(a.rows, n_tiles, tile)
                if check_interrupt(interrupt, thread, rows * columns * depth):
                    return
                block = part(a, i0, k0)
                pack_left(block, rows, depth, left)
                block.data += rows * a.row
                out.data = c + i0 * c_row + j0
                out.columns = columns
                panel = scratch
                for p in range(n_panels):
                    width = balanced_part(n_vectors, n_panels, p)
                    block_rows(rows, <int>width, depth, left, panel, next_lines(block, p * depth // n_panels), &out)
                    panel += width * LANES * depth
                    out.data += width * LANES
                    out.columns -= width * LANES
                i0 += rows
            k0 += DEPTH_BLOCK
        j0 += COLUMN_BLOCK


cdef inline bint b_stays(Matrix a, Matrix b) noexcept nogil:
    """Whether reading B in place is faster than packing it."""
    return is_row_major(b) and a.rows < (FEW_ROWS if exceeds_l2(b) else REUSED_ROWS)


cdef void multiply_in_place(
    Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply` with A read in place; B, too, if A has few rows, but for a last, partial panel."""
    cdef Py_ssize_t i0, j0 = 0, k0, k, p, rows, columns, depth, deep, n_in_place, edge
    cdef Py_ssize_t most = DEEP_BLOCK if a.rows > ROW_BLOCK else DEPTH_BLOCK     # a single block of c stays in the cache anyway
    cdef bint b_in_place = b_stays(a, b)
    cdef Left left
    cdef Right right
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, PANEL, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = minimum(REUSED_COLUMNS, b.columns - j0)
        n_in_place = columns // PANEL if b_in_place else 0       # panels
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even if A has no columns
            deep = minimum(most, a.columns - k0)
            block = part(b, k0, j0)
            pack_right(part(block, 0, n_in_place * PANEL), deep, columns - n_in_place * PANEL, VECTORS, scratch)
            i0 = 0
            while i0 < a.rows:              # a block of c stays in the cache until all of `deep` is added
                rows = minimum(ROW_BLOCK, a.rows - i0)
                if check_interrupt(interrupt, thread, rows * columns * deep):
                    return
                k = 0
                while k == 0 or k < deep:
                    depth = minimum(DEPTH_BLOCK, deep - k)
                    left = in_place(part(a, i0, k0 + k))
                    out.epilogue = STORE if k0 + k == 0 else ADD
                    for p in range(panels(columns)):
                        out.data = c + i0 * c_row + j0 + p * PANEL
                        out.columns = minimum(PANEL, columns - p * PANEL)
                        if p < n_in_place:
                            right = Right(
                                <const real*>part(block, k, p * PANEL).data, b.row // <Py_ssize_t>sizeof(real), 0)
                        else:
                            right = Right(scratch + ((p - n_in_place) * deep + k) * PANEL, PANEL, 0)
                        edge = out.columns - LANES
                        if 0 < edge <= HALF_LANES:      # a full vector, then half a vector
                            out.columns = LANES
                            multiply_panel(rows, depth, &left, right, &out)
                            right.data += LANES
                            out.data += LANES
                            out.columns = edge
                        multiply_panel(rows, depth, &left, right, &out)
                    k += DEPTH_BLOCK
                i0 += ROW_BLOCK
            k0 += most
        j0 += REUSED_COLUMNS
