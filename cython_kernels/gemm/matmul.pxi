"""The product of two caller's matrices, of any strides: the choice of the algorithm.

    multiply                    which factor, if any, is one vector or a few
      multiply_part             sums longer than the dtype holds are divided: multiply_deep
        multiply_piece
          multiply_vectors      a factor of one vector or a few: multiply_outer, multiply_inner, multiply_short
          multiply_matrix       computed transposed, or
            multiply_as_is      multiply_blocks, multiply_few_rows, multiply_in_place, multiply_along, multiply_flat

Design. Large products pack both factors (`multiply_blocks`): a block of B, in panels of WIDE_VECTORS vectors, into
the L2, where it is reused for all rows of A; the few rows of A of a micro-tile into the L1, where they are reused for all
panels of the block. The loop on k prefetches what a micro-tile will need: the panel, some rows ahead, from the L2; its
part of C and the next rows of A, a line of each row at a time, from any level. Prefetched all at once, they would fill the
L1's fill buffers and delay the panel. So the L3 and memory, which other cores share, seldom stall it: 5 % to 17 % (512^3 to
2048^3, on an idle machine) and up to 40 % (on a busy one) faster than blocks of A in the L2 with panels of B in the L1,
which are read from the L3 again for each of those blocks.

If A has few rows or B few columns, packing does not pay (`multiply_in_place`). If B is also larger than the L2, some of its
rows at a time are read in place, in long contiguous runs, and the sums stay in the cache (`multiply_few_rows`): 1.1
(32 rows) to 1.8 times (8 rows) as fast as with a packed B. A column-major A times few columns is computed transposed, with
the lanes along the rows of A (1.5 to 3 times as fast). A factor of one vector or a few: matvec.pxi; a small depth: shallow.pxi.

However matrices are blocked and packed, each sum runs over k in the same order, by DEPTH_BLOCK, so that it does not depend on
the number of threads; nor do the sums of matvec.pxi, which have their own order. Sums longer than SUM_DEPTH (of matvec.pxi:
than `sum_depth`) are divided into pieces of that length, whose totals are added in float64 (`multiply_deep`): in float32
alone 10^6 terms of one sign have a relative error of 2e-6, in matvec.pxi of 2e-4.

Rejected: always packing (four times the time of NumPy for 16 x 16); reading B in place for up to 1 000 rows (5 to 10 %
slower: its rows are not aligned to cache lines); micro-tiles of 14 x 2 vectors (as fast in float32, 2 to 5 % slower in float64:
their rows of A leave no room in the L1 for the panel).
"""

cdef enum:
    NEAR = 128              # column stride of A, in bytes, up to which all of each cache line is used
    NEAR_COLUMNS = 128      # with a larger stride, an A of more columns is packed
    TURNED_COLUMNS = 16     # columns of B up to which a product with a column-major A is computed transposed,
    TURNED_ROWS = 512       # for so many rows of A at a time,
    TURNED_DEPTH = 4        # if the depth is so many times the columns: it pays for transposing the result
    SUM_DEPTH = 64 * DEPTH_BLOCK    # the longest sums that are added in the dtype
    SUM_SIDE = 1024                 # rows and columns of C whose float64 totals are kept at a time


cdef Py_ssize_t multiply_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The scratch of `multiply`, in reals, for a product of these sizes or any part of it: packed blocks, or vectors."""
    cdef Py_ssize_t turned = 0, totals = 0
    cdef Py_ssize_t blocks = minimum(depth, DEPTH_BLOCK) * (
        PACKED_ROWS + ceil_div(minimum(columns, COLUMN_BLOCK), LANES) * LANES)
    cdef Py_ssize_t lone = minimum(depth, DEEP_BLOCK) * panels(minimum(columns, REUSED_COLUMNS)) * PANEL
    cdef Py_ssize_t few = (
        minimum(depth, FEW_DEPTH) + minimum(rows, FEW_ROWS) * panels(minimum(columns, FEW_COLUMNS))) * PANEL
    if rows >= TURNED_COLUMNS * PANEL:     # it has fewer rows than ROW_BLOCK, so its depth goes by DEPTH_BLOCK
        turned = (TURNED_COLUMNS + minimum(depth, DEPTH_BLOCK)) * TURNED_ROWS
    if depth > SUM_BLOCK:
        totals = FEW_VECTORS * minimum(maximum(rows, columns), VECTOR_SIDE)
    if depth > SUM_DEPTH:
        totals = maximum(totals, minimum(rows, SUM_SIDE) * minimum(columns, SUM_SIDE))
    return totals * TOTAL_REALS + maximum(vectors_scratch(rows, depth, columns), turned + maximum(maximum(blocks, lone), few))


cdef void multiply_as_is(
    Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    if are_flat(a, b, c_row):
        multiply_flat(a, b, c, interrupt, thread)
    elif go_along(a, b):
        multiply_along(a, b, c, c_row, interrupt, thread)
    elif not (
        is_real_aligned(a) and (absolute_stride(a.column) <= NEAR or a.columns <= NEAR_COLUMNS)
        and (b_stays(a, b) or a.rows < FEW_ROWS or b.columns < REUSED_COLUMNS)
    ):
        multiply_blocks(a, b, c, c_row, scratch, interrupt, thread)
    elif b_stays(a, b) and exceeds_l2(b):
        multiply_few_rows(a, b, c, c_row, scratch, interrupt, thread)
    else:
        multiply_in_place(a, b, c, c_row, scratch, interrupt, thread)


cdef void multiply_matrix(
    Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply` of any part of a product that starts at a panel: the order of each sum does not depend on the part.

    A column-major A times few columns is computed transposed: the lanes run along the rows of A, and none is idle.
    """
    cdef Py_ssize_t i0 = 0, i, j, rows
    cdef real* turned = scratch
    cdef Matrix a_turned = transposed(a)
    if not (
        a.row == sizeof(real) and a.rows >= TURNED_COLUMNS * PANEL
        and b.columns <= TURNED_COLUMNS and TURNED_DEPTH * b.columns <= a.columns
    ):
        multiply_as_is(a, b, c, c_row, scratch, interrupt, thread)
        return
    while i0 < a.rows:
        rows = minimum(TURNED_ROWS, a.rows - i0)
        a_turned.columns = rows
        multiply_as_is(
            transposed(b), a_turned, turned, TURNED_ROWS, scratch + TURNED_COLUMNS * TURNED_ROWS, interrupt, thread)
        if is_raised(&interrupt.stop):
            return
        for i in range(rows):
            for j in range(b.columns):
                c[(i0 + i) * c_row + j] = turned[j * TURNED_ROWS + i]
        a_turned.data += rows * a.row
        i0 += rows


cdef void multiply_vectors(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply`, or a part of it at most `sum_depth` deep; which: `vectors_of` the complete product, not NO_VECTORS."""
    cdef Matrix m = a, x = transposed(b)
    cdef Py_ssize_t m_step = c_row, x_step = 1
    if which == ROWS_OF_A:
        m, x = transposed(b), a
        m_step, x_step = 1, c_row
    if m.column != sizeof(real):
        multiply_outer(m, x, c, m_step, x_step, scratch, interrupt, thread)
    elif x.rows == 1 and are_short(m):
        multiply_short(m, x, c, m_step, interrupt, thread)
    else:
        multiply_inner(m, x, c, m_step, x_step, scratch, interrupt, thread)


cdef void multiply_piece(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    if which == NO_VECTORS:
        multiply_matrix(a, b, c, c_row, scratch, interrupt, thread)
    else:
        multiply_vectors(which, a, b, c, c_row, scratch, interrupt, thread)


cdef void multiply_deep(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, Py_ssize_t depth, real* scratch,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply` for sums longer than `depth`: for a part of C at a time, products `depth` deep are added in float64."""
    cdef Py_ssize_t side = SUM_SIDE if which == NO_VECTORS else VECTOR_SIDE
    cdef Py_ssize_t i0 = 0, j0, k0, i, rows, columns
    cdef Py_ssize_t n = minimum(a.rows, side) * minimum(b.columns, side)
    cdef double* totals = <double*>scratch
    cdef real* product = scratch + n * (TOTAL_REALS - 1)
    cdef Matrix left, right
    while i0 < a.rows:
        rows = minimum(side, a.rows - i0)
        j0 = 0
        while j0 < b.columns:
            columns = minimum(side, b.columns - j0)
            k0 = 0
            while k0 < a.columns:
                left, right = part(a, i0, k0), part(b, k0, j0)
                left.rows, right.columns = rows, columns
                left.columns = right.rows = minimum(depth, a.columns - k0)
                multiply_piece(which, left, right, product, columns, product + n, interrupt, thread)
                if is_raised(&interrupt.stop):
                    return
                if k0 + depth < a.columns:
                    add_block(product, rows * columns, k0 == 0, totals)
                k0 += depth
            for i in range(rows):
                round_totals(totals + i * columns, product + i * columns, columns, c + (i0 + i) * c_row + j0)
            j0 += side
        i0 += side


cdef void multiply_part(
    Vectors which, Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """`multiply`, or a thread's share of it; which: `vectors_of` the complete product.

    The last columns, if they do not fill a vector, are multiplied as vectors by matvec.pxi, if the layout of A suits it.
    """
    cdef Py_ssize_t edge = b.columns % LANES, depth = SUM_DEPTH
    if which == NO_VECTORS and edge > 0 and goes_along(a, edge):
        multiply_part(
            COLUMNS_OF_B, a, part(b, 0, b.columns - edge), c + b.columns - edge, c_row, scratch, interrupt, thread)
        b.columns -= edge
        if b.columns == 0 or is_raised(&interrupt.stop):
            return
    if which != NO_VECTORS:
        depth = sum_depth(transposed(b) if which == ROWS_OF_A else a)
    if a.columns <= depth:
        multiply_piece(which, a, b, c, c_row, scratch, interrupt, thread)
    else:
        multiply_deep(which, a, b, c, c_row, depth, scratch, interrupt, thread)


cdef void multiply(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Interrupt* interrupt, int thread) noexcept nogil:
    """c = a b; c has contiguous rows c_row apart. scratch: multiply_scratch(...) reals. May be interrupted."""
    multiply_part(vectors_of(a, b), a, b, c, c_row, scratch, interrupt, thread)
