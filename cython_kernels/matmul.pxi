"""The product of two matrices from outside, of any strides.

Design. Large products copy both factors (`multiply_blocks`): a block of B, in panels of WIDE_VECTORS vectors,
to the L2, where all rows of A pass by it; the few rows of A that a micro-tile takes to the L1, where all panels
of the block pass by them. What a micro-tile will need is asked for while k runs: the panel, some rows ahead, from
the L2; its own part of C and the next rows of A, a line of each row at a time, from wherever they are. Asked
for all at once they would fill the L1's buffers, and the panel wait behind them. So L3 and memory, which neighbours
share, are seldom waited for: 5 % to 17 % (512^3 to 2048^3, in quiet) and up to 40 % (in noise) over blocks of A in
the L2 with panels of B in the L1, which come from the L3 again for each of them.

Where A has few rows or B few columns, a copy does not pay (`multiply_in_place`). If B is far away too, some of its rows
at a time are read on where they lie, as memory likes it, and the sums wait nearby meanwhile (`multiply_few_rows`): 1.1 (32 rows)
to 1.8 times (8 rows) as fast as over a copy. Few columns from an A that lies by columns are made
transposed, with the lanes along A (1.5 to 3 times as fast). Where a factor is a vector or a few: matvec.pxi;
where the depth is small: shallow.pxi.

However matrices are cut and copied, each sum runs over k in the same order, by DEPTH_BLOCK, so that it does not depend on the
number of threads; nor do those of a few vectors, which have an order of their own. Sums longer than SUM_DEPTH, or along a
vector than `sum_depth`, are cut into pieces of that length, whose totals are added up in float64 (`multiply_deep`): in float32
alone 10^6 terms of one sign err by 2e-6, along a vector by 2e-4.

Rejected: copying always (four times the time of NumPy for 16 x 16); reading B in place for up to 1 000 rows (5 to 10 %
slower: its rows lie askew to the cache's lines); micro-tiles of 14 x 2 vectors (as fast in float32, 2 to 5 % slower in float64:
their rows of A do not leave the panel room in the L1).
"""

cdef enum:
    REUSED_ROWS = 128       # of A, from which on B is copied to panels; measured, as is
    REUSED_COLUMNS = 256    # of B, from which on A is copied
    NEAR = 128              # bytes from column to column of A at which each line is read to its end;
    NEAR_COLUMNS = 128      # with longer steps more columns than these are copied
    FEW_ROWS = 64           # of A, from which on even such a B is copied; for fewer
    FEW_DEPTH = 64          # of its rows are read on side by side (with fewer of them the sums come and go too often),
    FEW_COLUMNS = 1024      # for so many columns,
    FEW_AHEAD = 128         # which are asked for so many columns ahead
    TURNED_COLUMNS = 16     # of B, up to which a product of an A that lies by columns is made transposed,
    TURNED_ROWS = 512       # so many rows of A at a time, where its depth is
    TURNED_DEPTH = 4        # so many times the columns, and pays for turning the result
    SUM_DEPTH = 64 * DEPTH_BLOCK    # the longest sums that are added up in float32,
    SUM_SIDE = 1024                 # and the largest part of C, a square, whose totals are kept


cdef Py_ssize_t multiply_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The reals that `multiply` needs for its copies, of these sizes or any part of them: blocks, or vectors."""
    cdef Py_ssize_t turned = 0, totals = 0
    cdef Py_ssize_t blocks = smaller(depth, DEPTH_BLOCK) * (
        PACKED_ROWS + parts(smaller(columns, COLUMN_BLOCK), LANES) * LANES)
    cdef Py_ssize_t lone = smaller(depth, DEEP_BLOCK) * panels(smaller(columns, REUSED_COLUMNS)) * PANEL
    cdef Py_ssize_t few = (
        smaller(depth, FEW_DEPTH) + smaller(rows, FEW_ROWS) * panels(smaller(columns, FEW_COLUMNS))) * PANEL
    if rows >= TURNED_COLUMNS * PANEL:     # TURNED_COLUMNS rows, fewer than ROW_BLOCK: its depth goes by DEPTH_BLOCK
        turned = (TURNED_COLUMNS + smaller(depth, DEPTH_BLOCK)) * TURNED_ROWS
    if depth > SUM_BLOCK:
        totals = FEW_VECTORS * smaller(larger(rows, columns), VECTOR_SIDE)
    if depth > SUM_DEPTH:
        totals = larger(totals, smaller(rows, SUM_SIDE) * smaller(columns, SUM_SIDE))
    return totals * TOTAL_REALS + larger(vectors_scratch(rows, depth, columns), turned + larger(larger(blocks, lone), few))


cdef struct Next:
    # What the tile after this one reads of A: a line at each of data + i * row (bytes).
    const char* data
    Py_ssize_t row


cdef inline Next next_lines(Matrix a, Py_ssize_t k) noexcept nogil:
    """Of the columns from k on. Past A's end nothing is lost: what is asked for need not be memory."""
    return Next(a.data + k * a.column, a.column if a.row == sizeof(real) else a.row)


cdef inline void block_tile(
    const int rows, const int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, Output c,
) noexcept nogil:
    """c (rows, vectors * LANES) from packed a (rows, depth) and the panel b."""
    cdef vreal sums[NARROW_ROWS][WIDE_VECTORS]
    cdef Py_ssize_t k = 0, n = depth // rows + 1
    cdef Right right = Right(b, vectors * LANES)
    cdef real* place = c.data
    cdef int v
    start_sums(rows, vectors, NULL, sums)
    while k < depth:        # once for each row, unless there are few k: its part of c and of the next rows of A
        for v in range(vectors):
            prefetch(1, place + v * LANES)
        prefetch(1, <const real*>next.data)
        place += c.row
        next.data += next.row
        n = smaller(n, depth - k)
        add_products(rows, vectors, 1, DEPTH_AHEAD * vectors * LANES, n, Left(a + k * PACKED_ROWS, 1, PACKED_ROWS), &right, sums)
        k += n
    finish_sums(rows, vectors, sums, c)


cdef inline void block_vectors(
    const int rows, int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, Output c,
) noexcept nogil:
    if vectors == 1:
        block_tile(rows, 1, depth, a, b, next, c)
    elif vectors == 2:
        block_tile(rows, 2, depth, a, b, next, c)
    elif WIDE_VECTORS > 2:
        block_tile(rows, 3, depth, a, b, next, c)


cdef void block_rows(
    int rows, int vectors, Py_ssize_t depth, const real* a, const real* b, Next next, const Output* c,
) noexcept nogil:
    """c (rows <= ROWS, <= vectors * LANES) from packed a (rows, depth) and the panel b."""
    if rows == 1:
        block_vectors(1, vectors, depth, a, b, next, c[0])
    elif rows == 2:
        block_vectors(2, vectors, depth, a, b, next, c[0])
    elif rows == 3:
        block_vectors(3, vectors, depth, a, b, next, c[0])
    elif rows == 4:
        block_vectors(4, vectors, depth, a, b, next, c[0])
    elif rows == 5:
        block_vectors(5, vectors, depth, a, b, next, c[0])
    elif rows == 6:
        block_vectors(6, vectors, depth, a, b, next, c[0])
    elif ROWS > 6:
        if rows == 7:
            block_vectors(7, vectors, depth, a, b, next, c[0])
        else:
            block_vectors(8, vectors, depth, a, b, next, c[0])


cdef void multiply_blocks(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """Both factors are copied: a block of B to the L2, the rows of a tile to the L1."""
    cdef Py_ssize_t i0, j0 = 0, k0, p, tile, columns, width, wider, depth, n_vectors, n_panels
    cdef Py_ssize_t n_tiles = parts(a.rows, ROWS)
    cdef int rows, vectors
    cdef real* left = scratch + smaller(a.columns, DEPTH_BLOCK) * parts(smaller(b.columns, COLUMN_BLOCK), LANES) * LANES
    cdef real* panel
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = smaller(COLUMN_BLOCK, b.columns - j0)
        n_vectors = parts(columns, LANES)
        n_panels = parts(n_vectors, WIDE_VECTORS)
        vectors = <int>(n_vectors // n_panels)
        wider = n_vectors % n_panels * (vectors + 1) * LANES     # columns in panels of one vector more, which come first
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even for an empty sum
            depth = smaller(DEPTH_BLOCK, a.columns - k0)
            out.finish = STORE if k0 == 0 else ADD
            block = part(b, k0, j0)
            pack_right(block, depth, wider, vectors + 1, scratch)
            pack_right(part(block, 0, wider), depth, columns - wider, vectors, scratch + wider * depth)
            i0 = 0
            for tile in range(n_tiles):
                rows = <int>even_part(a.rows, n_tiles, tile)
                if interrupted(air, thread, rows * columns * depth):
                    return
                block = part(a, i0, k0)
                pack_left(block, rows, depth, left)
                block.data += rows * a.row
                out.data = c + i0 * c_row + j0
                out.columns = columns
                panel = scratch
                for p in range(n_panels):
                    width = even_part(n_vectors, n_panels, p)
                    block_rows(rows, <int>width, depth, left, panel, next_lines(block, p * depth // n_panels), &out)
                    panel += width * LANES * depth
                    out.data += width * LANES
                    out.columns -= width * LANES
                i0 += rows
            k0 += DEPTH_BLOCK
        j0 += COLUMN_BLOCK


cdef inline bint b_stays(Matrix a, Matrix b) noexcept nogil:
    """Whether B is better read where it lies than copied."""
    return lies_by_rows(b) and a.rows < (FEW_ROWS if is_far(b) else REUSED_ROWS)


cdef void multiply_in_place(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """A is read where it lies; B too where a.rows is small, but for the panel that its columns do not fill."""
    cdef Py_ssize_t i0, j0 = 0, k0, k, p, rows, columns, depth, deep, lying, edge
    cdef Py_ssize_t most = DEEP_BLOCK if a.rows > ROW_BLOCK else DEPTH_BLOCK     # a lone block of c stays anyway
    cdef bint b_lies = b_stays(a, b)
    cdef Left left
    cdef Right right
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = smaller(REUSED_COLUMNS, b.columns - j0)
        lying = columns // PANEL if b_lies else 0       # panels
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even for an empty sum
            deep = smaller(most, a.columns - k0)
            block = part(b, k0, j0)
            pack_right(part(block, 0, lying * PANEL), deep, columns - lying * PANEL, VECTORS, scratch)
            i0 = 0
            while i0 < a.rows:              # here a block of c is taken up, and stays until all of `deep` is added
                rows = smaller(ROW_BLOCK, a.rows - i0)
                if interrupted(air, thread, rows * columns * deep):
                    return
                k = 0
                while k == 0 or k < deep:
                    depth = smaller(DEPTH_BLOCK, deep - k)
                    left = in_place(part(a, i0, k0 + k))
                    out.finish = STORE if k0 + k == 0 else ADD
                    for p in range(panels(columns)):
                        out.data = c + i0 * c_row + j0 + p * PANEL
                        out.columns = smaller(PANEL, columns - p * PANEL)
                        if p < lying:
                            right = Right(
                                <const real*>part(block, k, p * PANEL).data, b.row // <Py_ssize_t>sizeof(real))
                        else:
                            right = Right(scratch + ((p - lying) * deep + k) * PANEL, PANEL)
                        edge = out.columns - LANES
                        if 0 < edge <= HALF_LANES:      # a whole vector, and then half a one
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


# ---- few rows ------------------------------------------------------------------------------------------

cdef inline void few_tile(
    const int rows, Py_ssize_t depth, const Left* a, Right b, bint first, real* product,
) noexcept nogil:
    """product (rows, PANEL) from a (rows, depth) and b (depth, PANEL): the first rows of b store it, the others add."""
    cdef vreal sums[NARROW_ROWS][WIDE_VECTORS]
    cdef int i, v
    start_sums(rows, VECTORS, NULL, sums)
    if not first:
        for i in range(rows):
            for v in range(VECTORS):
                sums[i][v] = load(product + i * PANEL + v * LANES)
    add_products(rows, VECTORS, 2, FEW_AHEAD, depth, a[0], &b, sums)
    for i in range(rows):
        for v in range(VECTORS):
            store(product + i * PANEL + v * LANES, sums[i][v])


cdef void few_rows(Py_ssize_t rows, Py_ssize_t depth, const Left* a, Right b, bint first, real* product) noexcept nogil:
    if rows == 1:
        few_tile(1, depth, a, b, first, product)
    elif rows == 2:
        few_tile(2, depth, a, b, first, product)
    elif rows == 3:
        few_tile(3, depth, a, b, first, product)
    elif rows == 4:
        few_tile(4, depth, a, b, first, product)
    elif rows == 5:
        few_tile(5, depth, a, b, first, product)
    elif rows == 6:
        few_tile(6, depth, a, b, first, product)
    elif ROWS > 6:
        if rows == 7:
            few_tile(7, depth, a, b, first, product)
        else:
            few_tile(8, depth, a, b, first, product)


cdef void multiply_few_rows(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """B is read where it lies, some of its rows at a time. The sums of a block stay in scratch, in panels."""
    cdef Py_ssize_t j0 = 0, k0, k, p, columns, depth, few, lying, rows, tile, n_tiles = parts(a.rows, ROWS)
    cdef real* edge = scratch                   # what of B does not fill a panel
    cdef real* product = scratch + smaller(a.columns, FEW_DEPTH) * PANEL
    cdef real* place
    cdef Left left, first
    cdef Right right
    cdef Matrix block
    cdef Output out = Output(NULL, c_row, 0, NULL, STORE, 0)
    while j0 < b.columns:
        columns = smaller(FEW_COLUMNS, b.columns - j0)
        lying = columns // PANEL
        k0 = 0
        while k0 < a.columns:
            depth = smaller(DEPTH_BLOCK, a.columns - k0)
            k = 0
            while k < depth:
                few = smaller(FEW_DEPTH, depth - k)
                if interrupted(air, thread, a.rows * columns * few):
                    return
                block = part(b, k0 + k, j0)
                pack_right(part(block, 0, lying * PANEL), few, columns - lying * PANEL, VECTORS, edge)
                first = in_place(part(a, 0, k0 + k))
                place = product
                for p in range(panels(columns)):
                    right = Right(edge, PANEL)
                    if p < lying:
                        right = Right(<const real*>part(block, 0, p * PANEL).data, b.row // <Py_ssize_t>sizeof(real))
                    left = first
                    for tile in range(n_tiles):
                        rows = even_part(a.rows, n_tiles, tile)
                        few_rows(rows, few, &left, right, k == 0, place)
                        left.data += rows * left.row
                        place += rows * PANEL
                k += FEW_DEPTH
            out.finish = STORE if k0 == 0 else ADD
            out.columns = columns
            for p in range(panels(columns)):
                out.data = c + j0 + p * PANEL
                finish_edge(a.rows, VECTORS, product + p * a.rows * PANEL, &out)
                out.columns -= PANEL
            k0 += DEPTH_BLOCK
        j0 += FEW_COLUMNS


cdef void multiply_as_is(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    if are_flat(a, b, c_row):
        multiply_flat(a, b, c, air, thread)
    elif go_along(a, b):
        multiply_along(a, b, c, c_row, air, thread)
    elif not (
        in_reals(a) and (length(a.column) <= NEAR or a.columns <= NEAR_COLUMNS)
        and (b_stays(a, b) or a.rows < FEW_ROWS or b.columns < REUSED_COLUMNS)
    ):
        multiply_blocks(a, b, c, c_row, scratch, air, thread)
    elif b_stays(a, b) and is_far(b):
        multiply_few_rows(a, b, c, c_row, scratch, air, thread)
    else:
        multiply_in_place(a, b, c, c_row, scratch, air, thread)


cdef void multiply_matrix(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """`multiply` of any part of a product that is cut at panels: each sum runs over k in the same order, whatever the part.

    Few columns from an A that lies by columns: the product's transpose has its lanes along A, and none idle.
    """
    cdef Py_ssize_t i0 = 0, i, j, rows
    cdef real* turned = scratch
    cdef Matrix a_turned = transposed(a)
    if not (
        a.row == sizeof(real) and a.rows >= TURNED_COLUMNS * PANEL
        and b.columns <= TURNED_COLUMNS and TURNED_DEPTH * b.columns <= a.columns
    ):
        multiply_as_is(a, b, c, c_row, scratch, air, thread)
        return
    while i0 < a.rows:
        rows = smaller(TURNED_ROWS, a.rows - i0)
        a_turned.columns = rows
        multiply_as_is(
            transposed(b), a_turned, turned, TURNED_ROWS, scratch + TURNED_COLUMNS * TURNED_ROWS, air, thread)
        if is_raised(&air.stop):
            return
        for i in range(rows):
            for j in range(b.columns):
                c[(i0 + i) * c_row + j] = turned[j * TURNED_ROWS + i]
        a_turned.data += rows * a.row
        i0 += rows


cdef void multiply_piece(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread,
) noexcept nogil:
    if which == NO_VECTORS:
        multiply_matrix(a, b, c, c_row, scratch, air, thread)
    else:
        multiply_vectors(which, a, b, c, c_row, scratch, air, thread)


cdef void multiply_deep(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, Py_ssize_t depth, real* scratch, Air* air, int thread,
) noexcept nogil:
    """A part of C at a time, from pieces of A and B that are `depth` deep: the totals of their products in float64."""
    cdef Py_ssize_t side = SUM_SIDE if which == NO_VECTORS else VECTOR_SIDE
    cdef Py_ssize_t i0 = 0, j0, k0, i, rows, columns
    cdef Py_ssize_t n = smaller(a.rows, side) * smaller(b.columns, side)
    cdef double* totals = <double*>scratch
    cdef real* product = scratch + n * (TOTAL_REALS - 1)
    cdef Matrix left, right
    while i0 < a.rows:
        rows = smaller(side, a.rows - i0)
        j0 = 0
        while j0 < b.columns:
            columns = smaller(side, b.columns - j0)
            k0 = 0
            while k0 < a.columns:
                left, right = part(a, i0, k0), part(b, k0, j0)
                left.rows, right.columns = rows, columns
                left.columns = right.rows = smaller(depth, a.columns - k0)
                multiply_piece(which, left, right, product, columns, product + n, air, thread)
                if is_raised(&air.stop):
                    return
                if k0 + depth < a.columns:
                    add_block(product, rows * columns, k0 == 0, totals)
                k0 += depth
            for i in range(rows):
                round_totals(totals + i * columns, product + i * columns, columns, c + (i0 + i) * c_row + j0)
            j0 += side
        i0 += side


cdef void multiply_part(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread,
) noexcept nogil:
    """`multiply`, or a thread's share of it; which: `vectors_of` the whole.

    A few last columns, which would fill a vector badly, go along A by themselves.
    """
    cdef Py_ssize_t edge = b.columns % LANES, depth = SUM_DEPTH
    if which == NO_VECTORS and edge > 0 and goes_along(a, edge):
        multiply_part(
            COLUMNS_OF_B, a, part(b, 0, b.columns - edge), c + b.columns - edge, c_row, scratch, air, thread)
        b.columns -= edge
        if b.columns == 0 or is_raised(&air.stop):
            return
    if which != NO_VECTORS:
        depth = sum_depth(transposed(b) if which == ROWS_OF_A else a)
    if a.columns <= depth:
        multiply_piece(which, a, b, c, c_row, scratch, air, thread)
    else:
        multiply_deep(which, a, b, c, c_row, depth, scratch, air, thread)


cdef void multiply(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """c = a b; c has contiguous rows c_row apart. scratch: multiply_scratch(...) reals. May be interrupted."""
    multiply_part(vectors_of(a, b), a, b, c, c_row, scratch, air, thread)
