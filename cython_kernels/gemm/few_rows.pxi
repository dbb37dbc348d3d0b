"""The product of an A of few rows and a B larger than the L2, which is read in long contiguous runs. See matmul.pxi."""

cdef enum:
    FEW_DEPTH = 64          # rows of B that are read concurrently (with fewer, sums are loaded and stored too often),
    FEW_COLUMNS = 1024      # columns of B in a block,
    FEW_AHEAD = 128         # prefetch distance in columns


cdef inline void few_tile(
    const int rows, Py_ssize_t depth, const Left* a, Right b, bint first, real* product,
) noexcept nogil:
    """product (rows, PANEL) += a (rows, depth) b (depth, PANEL); `first`: stored, not added."""
    cdef vreal sums[ROWS][MOST_VECTORS]
    cdef int i, v
    start_sums(rows, VECTORS, NULL, sums)
    if not first:
        for i in range(rows):
            for v in range(VECTORS):
                sums[i][v] = load(product + i * PANEL + v * LANES)
    add_products(rows, VECTORS, Ahead(2, FEW_AHEAD, 0), depth, a[0], &b, sums)
    for i in range(rows):
        for v in range(VECTORS):
            store(product + i * PANEL + v * LANES, sums[i][v])


ctypedef void (*FewTile)(
    const int rows, Py_ssize_t depth, const Left* a, Right b, bint first, real* product) noexcept nogil
cdef extern from "vector.h" nogil:
    void few_tile_of "AS_CONSTANT"(int most, FewTile, Py_ssize_t rows, ...)


cdef void few_rows(Py_ssize_t rows, Py_ssize_t depth, const Left* a, Right b, bint first, real* product) noexcept nogil:
    few_tile_of(ROWS, few_tile, rows, depth, a, b, first, product)


cdef void multiply_few_rows(
    Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply` with B read in place, some rows at a time; the sums of a block of columns stay in scratch, in panels."""
    cdef Py_ssize_t j0 = 0, k0, k, p, columns, depth, few, n_in_place, rows, tile, n_tiles = ceil_div(a.rows, ROWS)
    cdef real* edge = scratch                   # the last, partial panel of B, packed
    cdef real* product = scratch + minimum(a.columns, FEW_DEPTH) * PANEL
    cdef real* place
    cdef Left left, first
    cdef Right right
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, PANEL, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = minimum(FEW_COLUMNS, b.columns - j0)
        n_in_place = columns // PANEL
        k0 = 0
        while k0 < a.columns:
            depth = minimum(DEPTH_BLOCK, a.columns - k0)
            k = 0
            while k < depth:
                few = minimum(FEW_DEPTH, depth - k)
                if check_interrupt(interrupt, thread, a.rows * columns * few):
                    return
                block = part(b, k0 + k, j0)
                pack_right(part(block, 0, n_in_place * PANEL), few, columns - n_in_place * PANEL, VECTORS, edge)
                first = in_place(part(a, 0, k0 + k))
                place = product
                for p in range(panels(columns)):
                    right = Right(edge, PANEL, 0)
                    if p < n_in_place:
                        right = Right(<const real*>part(block, 0, p * PANEL).data, b.row // <Py_ssize_t>sizeof(real), 0)
                    left = first
                    for tile in range(n_tiles):
                        rows = balanced_part(a.rows, n_tiles, tile)
                        few_rows(rows, few, &left, right, k == 0, place)
                        left.data += rows * left.row
                        place += rows * PANEL
                k += FEW_DEPTH
            out.epilogue = STORE if k0 == 0 else ADD
            out.columns = columns
            for p in range(panels(columns)):
                out.data = c + j0 + p * PANEL
                store_edge(a.rows, VECTORS, product + p * a.rows * PANEL, &out)
                out.columns -= PANEL
            k0 += DEPTH_BLOCK
        j0 += FEW_COLUMNS
