"""Matrix product: the micro-kernel that all layers are made of, and the blocked product over it.

Design. The right factor comes in *panels*, PANEL columns wide: rows of PANEL numbers side by side.
A micro-tile of ROWS x PANEL sums stays in registers while k runs (an outer product for each k: the
panel's row is loaded once, an element of the left factor is broadcast to each row). The left factor
is any strided matrix, so W, its transpose and a tile of deltas are all read where they lie.
The same code, inlined with constant counts of rows and vectors, makes the edges.

The layers hold their activations in panels of examples and call `multiply_panel` and `multiply_tile` directly.
`multiply` serves matrices from outside. It cuts them into blocks (of A and of C for the L2 cache, a panel
of B for the L1), and copies a block where its lines are to be read often enough to pay for it; else the
micro-kernel reads it where it lies. The blocks of k go innermost, so that C is not fetched from memory for
each of them (some 4 % at 2048^3), and are added up in order, so that a result does not depend on the
number of threads. Few columns from an A that lies by columns are made transposed, with the lanes along A
(1.5 to 3 times as fast). Where a factor is a vector there is nothing to read twice: two loops of their own
go along the matrix, by the sums (outer, some rows at a time, so that memory is read on: up to 2.5 times as
fast as down a few columns) or by the products (inner).

Rejected: inner products throughout (a horizontal sum for each output); copying every block (four times
the time of NumPy for 16 x 16); a scalar path for edges (it would round otherwise than the vectors).
"""

cdef struct Matrix:
    # A matrix from outside: element (i, j) at data + i * row + j * column, strides in bytes, any address.
    char* data
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t row
    Py_ssize_t column

cdef struct Left:
    # The left factor: element (i, k) is data[i * row + k * step].
    const real* data
    Py_ssize_t row
    Py_ssize_t step

cdef struct Right:
    # A panel of the right factor: its row k is PANEL numbers at data + k * row.
    const real* data
    Py_ssize_t row

cdef enum Finish:
    STORE               # c = sum
    ADD                 # c = c + sum
    DERIVATIVE          # c = sum f'(c): a delta takes the place of its activation; whole panels only

cdef struct Output:
    # The product, rows `row` apart, `columns` of them wanted; each sum starts at its bias if there is one.
    real* data
    Py_ssize_t row
    Py_ssize_t columns
    const real* bias
    int finish
    int activation      # whose derivative, with DERIVATIVE


cdef inline Py_ssize_t smaller(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


# ---- lanes -------------------------------------------------------------------------------------------

cdef inline void add_lanes(vreal* sums, Py_ssize_t n, real* totals) noexcept nogil:
    """totals[i] = the sum of the lanes of sums[i], i < n, n a multiple of LANES. Destroys sums.

    Halves are interleaved and added: LANES vectors become LANES / 2, then LANES / 4, ... and in the
    end one vector that holds the LANES totals in order.
    """
    cdef Py_ssize_t group, i, half
    cdef vreal total
    for group in range(n // LANES):
        half = LANES // 2
        while half > 0:
            for i in range(half):
                sums[i] = interleave_low(sums[i], sums[i + half]) + interleave_high(sums[i], sums[i + half])
            half = half // 2
        store(totals + group * LANES, sums[0])
        sums += LANES


cdef inline real sum_of_lanes(vreal v) noexcept nogil:
    """In the order of `add_lanes`."""
    cdef int half = LANES // 2
    while half > 0:
        v = interleave_low(v, v) + interleave_high(v, v)
        half = half // 2
    return first_lane(v)


cdef inline void transpose_square(vreal square[LANES]) noexcept nogil:
    """Rows to columns: interleaving the halves of a square log2(LANES) times transposes it."""
    cdef vreal turned[LANES]
    cdef int i, stage = 1
    while stage < LANES:
        for i in range(LANES // 2):
            turned[2 * i] = interleave_low(square[i], square[i + LANES // 2])
            turned[2 * i + 1] = interleave_high(square[i], square[i + LANES // 2])
        for i in range(LANES):
            square[i] = turned[i]
        stage = stage * 2


# ---- the micro-kernel --------------------------------------------------------------------------------

cdef void finish_edge(int rows, int vectors, const real* sums, Output c) noexcept nogil:
    """STORE or ADD where the product ends within a vector."""
    cdef int i, v
    cdef Py_ssize_t n
    cdef vreal total
    cdef real* place
    for i in range(rows):
        for v in range(vectors):
            n = smaller(LANES, c.columns - v * LANES)
            place = c.data + i * c.row + v * LANES
            total = load(sums + (i * vectors + v) * LANES)
            if n > 0:
                if c.finish == ADD:
                    total = load_first(place, n) + total
                store_first(place, total, n)


cdef inline void finish_derivative(
    const int activation, const int rows, const int vectors, vreal sums[NARROW_ROWS][VECTORS], Output c,
) noexcept nogil:
    cdef int i, v
    cdef real* place
    for i in range(rows):
        for v in range(vectors):
            place = c.data + i * c.row + v * LANES
            store(place, times_derivative(activation, sums[i][v], load(place)))


cdef inline void micro_tile(
    const int rows, const int vectors, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """c (rows, vectors * LANES) from `runs` pieces of a (rows, depth), `hop` apart, and the panel b (runs x depth, PANEL)."""
    cdef vreal sums[NARROW_ROWS][VECTORS]
    cdef vreal right[VECTORS]
    cdef real spilled[NARROW_ROWS * PANEL]
    cdef vreal left
    cdef const real* ak
    cdef real* ci
    cdef int i, v
    cdef Py_ssize_t run, k
    for i in range(rows):
        left = splat(0) if c.bias == NULL else splat(c.bias[i])
        for v in range(vectors):
            sums[i][v] = left
    if c.finish == ADD:     # by the time that they are wanted they are there
        for i in range(rows):
            for v in range(vectors):
                prefetch(c.data + i * c.row + v * LANES)
    for run in range(runs):
        ak = a.data + run * hop
        for k in range(depth):
            for v in range(vectors):
                right[v] = load(b.data + v * LANES)
            for i in range(rows):
                left = splat(ak[i * a.row])
                for v in range(vectors):
                    sums[i][v] = sums[i][v] + left * right[v]
            ak += a.step
            b.data += b.row
    if c.columns < vectors * LANES:
        for i in range(rows):
            for v in range(vectors):
                store(spilled + (i * vectors + v) * LANES, sums[i][v])
        finish_edge(rows, vectors, spilled, c)
    elif c.finish == STORE:
        for i in range(rows):
            for v in range(vectors):
                store(c.data + i * c.row + v * LANES, sums[i][v])
    elif c.finish == ADD:
        for i in range(rows):
            for v in range(vectors):
                ci = c.data + i * c.row + v * LANES
                store(ci, load(ci) + sums[i][v])
    elif c.activation == SIGMOID:
        finish_derivative(SIGMOID, rows, vectors, sums, c)
    elif c.activation == TANH:
        finish_derivative(TANH, rows, vectors, sums, c)
    elif c.activation == RELU:
        finish_derivative(RELU, rows, vectors, sums, c)
    else:
        finish_derivative(IDENTITY, rows, vectors, sums, c)


cdef inline void multiply_rows(
    const int rows, bint narrow, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    if narrow:
        micro_tile(rows, 1, runs, hop, depth, a, b, c)
    elif rows <= ROWS:      # never more of them: a constant, which leaves the larger tiles out
        micro_tile(rows, VECTORS, runs, hop, depth, a, b, c)


cdef inline void multiply_all_rows(
    Py_ssize_t rows, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """The rows are cut evenly: a tile of 8 and one of 1 would leave the last waiting for its own sums."""
    cdef bint narrow = c.columns <= LANES
    cdef Py_ssize_t most = NARROW_ROWS if narrow else ROWS
    cdef Py_ssize_t n_tiles = (rows + most - 1) // most, tile, n
    for tile in range(n_tiles):
        n = rows // n_tiles + (tile < rows % n_tiles)
        if n == 1:
            multiply_rows(1, narrow, runs, hop, depth, a, b, c)
        elif n == 2:
            multiply_rows(2, narrow, runs, hop, depth, a, b, c)
        elif n == 3:
            multiply_rows(3, narrow, runs, hop, depth, a, b, c)
        elif n == 4:
            multiply_rows(4, narrow, runs, hop, depth, a, b, c)
        elif n == 5:
            multiply_rows(5, narrow, runs, hop, depth, a, b, c)
        elif n == 6:
            multiply_rows(6, narrow, runs, hop, depth, a, b, c)
        elif n == 7:
            multiply_rows(7, narrow, runs, hop, depth, a, b, c)
        elif n == 8:
            multiply_rows(8, narrow, runs, hop, depth, a, b, c)
        elif n == 9:
            multiply_rows(9, narrow, runs, hop, depth, a, b, c)
        elif n == 10:
            multiply_rows(10, narrow, runs, hop, depth, a, b, c)
        elif n == 11:
            multiply_rows(11, narrow, runs, hop, depth, a, b, c)
        else:
            multiply_rows(12, narrow, runs, hop, depth, a, b, c)
        a.data += n * a.row
        c.data += n * c.row
        if c.bias != NULL:
            c.bias += n


cdef void multiply_panel(Py_ssize_t rows, Py_ssize_t depth, const Left* a, Right b, const Output* c) noexcept nogil:
    """c (rows, <= PANEL) from a (rows, depth) and the panel b."""
    multiply_all_rows(rows, 1, 0, depth, a[0], b, c[0])


cdef void multiply_tile(Py_ssize_t rows, const real* a, Py_ssize_t n_panels, const real* b, const Output* c) noexcept nogil:
    """`multiply_panel` with a tile of `rows` features as the left factor: k runs over the examples of its panels.

    All strides are constants here, and no register holds them: 3 to 8 % of a small step.
    """
    multiply_all_rows(rows, n_panels, rows * PANEL, PANEL, Left(a, PANEL, 1), Right(b, PANEL), c[0])


# ---- the product of two matrices from outside ------------------------------------------------------

cdef enum:
    REUSED_ROWS = 64        # of A, from which on B is copied to panels; measured, as is
    REUSED_PANELS = 8       # of B, from which on A is copied
    FEW_BYTES = 2048        # of a row of B: as wide is a block below REUSED_ROWS, and its copy stays in the L2
    NEAR = 128              # bytes from column to column of A at which each line is read to its end;
    NEAR_COLUMNS = 128      # with longer steps more columns than these are copied
    NEAR_BYTES = 1 << 20    # of B, above which the step from row to row of a panel costs more than a copy
    TURNED_COLUMNS = 16     # of B, up to which a product of an A that lies by columns is made transposed,
    TURNED_ROWS = 512       # so many rows of A at a time, where its depth is
    TURNED_DEPTH = 4        # so many times the columns, and pays for turning the result
    LONG_ROWS = 8           # of a matrix that a vector multiplies, added in one pass to
    LONG_COLUMNS = 4096     # sums, which stay in the L1


cdef inline Py_ssize_t panels(Py_ssize_t n) noexcept nogil:
    """How many panels hold n columns."""
    return (n + PANEL - 1) // PANEL


cdef Py_ssize_t multiply_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The reals that `multiply` needs for its copies, of these sizes or any part of them: blocks, or a vector."""
    cdef Py_ssize_t turned = 0
    if rows >= TURNED_COLUMNS * PANEL:
        turned = (TURNED_COLUMNS + smaller(depth, DEPTH_BLOCK)) * TURNED_ROWS
    return (
        turned + depth + LANES
        + smaller(depth, DEPTH_BLOCK) * (smaller(rows, ROW_BLOCK) + ROWS)
        + smaller(depth, DEEP_BLOCK) * panels(smaller(columns, COLUMN_BLOCK)) * PANEL
    )


cdef inline bint in_reals(Matrix m) noexcept nogil:
    """Whether its elements lie a whole number of reals apart, at their natural alignment."""
    return (<Py_ssize_t>m.data | m.row | m.column) % <Py_ssize_t>sizeof(real) == 0


cdef inline void copy(const char* source, Py_ssize_t n, real* target) noexcept nogil:
    """n numbers that lie side by side, at any address."""
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(target + i, load(<const real*>source + i))
        i += LANES
    if i < n:
        store_first(target + i, load_first(<const real*>source + i, n - i), n - i)


cdef void pack_rows(Matrix b, Py_ssize_t depth, Py_ssize_t columns, real* packed) noexcept nogil:
    """The first rows and columns of b, whose rows lie side by side, in panels; the last one ends in zeros.

    Row by row: memory likes to be read on.
    """
    cdef Py_ssize_t k, p, v
    cdef const char* row
    cdef real* place
    for k in range(depth):
        row = b.data + k * b.row
        place = packed + k * PANEL
        for p in range(columns // PANEL):
            for v in range(VECTORS):
                store(place + v * LANES, load(<const real*>row + p * PANEL + v * LANES))
            place += depth * PANEL
        if columns % PANEL:
            for v in range(VECTORS):
                store(place + v * LANES, splat(0))
            copy(row + (columns // PANEL) * PANEL * sizeof(real), columns % PANEL, place)


cdef void pack_panel(Matrix b, Py_ssize_t depth, Py_ssize_t width, real* packed) noexcept nogil:
    """The first rows and columns of b as a panel; beyond `width` it holds zeros."""
    cdef Py_ssize_t k = 0, lane, v
    cdef vreal square[LANES]
    if b.row == sizeof(real):           # b lies transposed
        while k + LANES <= depth:
            for v in range(VECTORS):
                for lane in range(LANES):
                    square[lane] = splat(0)
                    if v * LANES + lane < width:
                        square[lane] = load(<const real*>(b.data + (v * LANES + lane) * b.column) + k)
                transpose_square(square)
                for lane in range(LANES):
                    store(packed + (k + lane) * PANEL + v * LANES, square[lane])
            k += LANES
    while k < depth:
        for lane in range(width):
            packed[k * PANEL + lane] = load_anywhere(b.data + k * b.row + lane * b.column)
        for lane in range(width, PANEL):
            packed[k * PANEL + lane] = 0
        k += 1


cdef inline Matrix part(Matrix m, Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    """m from a row and a column on."""
    m.data += row * m.row + column * m.column
    m.rows -= row
    m.columns -= column
    return m


cdef inline Matrix transposed(Matrix m) noexcept nogil:
    return Matrix(m.data, m.columns, m.rows, m.column, m.row)


cdef Left left_block(Matrix a, Py_ssize_t rows, Py_ssize_t depth, bint lies, real* packed) noexcept nogil:
    """The first rows and columns of a: where they lie, or side by side in the direction in which they already are."""
    cdef Py_ssize_t i, k
    if lies:
        return Left(<const real*>a.data, a.row // <Py_ssize_t>sizeof(real), a.column // <Py_ssize_t>sizeof(real))
    if a.row == sizeof(real):
        for k in range(depth):
            copy(a.data + k * a.column, rows, packed + k * rows)
        return Left(packed, 1, rows)
    for i in range(rows):
        if a.column == sizeof(real):
            copy(a.data + i * a.row, depth, packed + i * depth)
        else:
            for k in range(depth):
                packed[i * depth + k] = load_anywhere(a.data + i * a.row + k * a.column)
    return Left(packed, depth, 1)


cdef void pack_right(Matrix b, Py_ssize_t depth, Py_ssize_t columns, bint lies, real* packed) noexcept nogil:
    """The first rows and columns of b in panels, one after another; where it lies well, only the last if not full."""
    cdef Py_ssize_t p = columns // PANEL if lies else 0
    if b.column == sizeof(real):
        pack_rows(part(b, 0, p * PANEL), depth, columns - p * PANEL, packed + p * depth * PANEL)
        return
    for p in range(panels(columns)):
        pack_panel(part(b, 0, p * PANEL), depth, smaller(PANEL, columns - p * PANEL), packed + p * depth * PANEL)


cdef void multiply(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """c = a b; c has contiguous rows c_row apart. scratch: multiply_scratch(...) reals. May be interrupted."""
    if (a.rows == 1 or b.columns == 1) and multiply_vector(a, b, c, c_row, scratch, air, thread):
        return
    multiply_matrix(a, b, c, c_row, scratch, air, thread)


cdef void multiply_matrix(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """`multiply` of any part of a product: each sum runs over k in the same order, whatever the part.

    Few columns from an A that lies by columns: the product's transpose has its lanes along A, and none idle.
    """
    cdef Py_ssize_t i0 = 0, i, j, rows
    cdef real* turned = scratch
    cdef Matrix a_turned = transposed(a)
    if not (
        a.row == sizeof(real) and a.rows >= TURNED_COLUMNS * PANEL
        and b.columns <= TURNED_COLUMNS and TURNED_DEPTH * b.columns <= a.columns
    ):
        multiply_blocks(a, b, c, c_row, scratch, air, thread)
        return
    while i0 < a.rows:
        rows = smaller(TURNED_ROWS, a.rows - i0)
        a_turned.columns = rows
        multiply_blocks(
            transposed(b), a_turned, turned, TURNED_ROWS, scratch + TURNED_COLUMNS * TURNED_ROWS, air, thread)
        if is_raised(&air.stop):
            return
        for i in range(rows):
            for j in range(b.columns):
                c[(i0 + i) * c_row + j] = turned[j * TURNED_ROWS + i]
        a_turned.data += rows * a.row
        i0 += rows


cdef void multiply_blocks(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch, Air* air, int thread) noexcept nogil:
    """Cuts the product into blocks, and copies those of a factor that are read often."""
    cdef Py_ssize_t i0, j0, k0, k, p, rows, columns, deep, depth
    cdef Py_ssize_t wide = COLUMN_BLOCK if a.rows >= REUSED_ROWS else FEW_BYTES // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t most = DEEP_BLOCK if a.rows > ROW_BLOCK else DEPTH_BLOCK     # a lone block of c stays anyway
    cdef real* packed_left = scratch + smaller(a.columns, most) * panels(smaller(b.columns, wide)) * PANEL
    cdef bint b_lies = (
        b.column == sizeof(real) and in_reals(b) and a.rows < REUSED_ROWS and b.row * b.rows <= NEAR_BYTES)
    cdef bint a_lies = in_reals(a) and b.columns < REUSED_PANELS * PANEL and (
        a.column <= NEAR or a.columns <= NEAR_COLUMNS)
    cdef Left left
    cdef Right right
    cdef Output out
    out.row = c_row
    out.bias = NULL
    out.activation = 0
    j0 = 0
    while j0 < b.columns:
        columns = smaller(wide, b.columns - j0)
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even for an empty sum
            deep = smaller(most, a.columns - k0)
            pack_right(part(b, k0, j0), deep, columns, b_lies, scratch)
            i0 = 0
            while i0 < a.rows:              # here a block of c is taken up, and stays until all of `deep` is added
                rows = smaller(ROW_BLOCK, a.rows - i0)
                if interrupted(air, thread, rows * columns * deep):
                    return
                k = 0
                while k == 0 or k < deep:
                    depth = smaller(DEPTH_BLOCK, deep - k)
                    left = left_block(part(a, i0, k0 + k), rows, depth, a_lies, packed_left)
                    out.finish = STORE if k0 + k == 0 else ADD
                    for p in range(panels(columns)):
                        out.data = c + i0 * c_row + j0 + p * PANEL
                        out.columns = smaller(PANEL, columns - p * PANEL)
                        right = Right(scratch + (p * deep + k) * PANEL, PANEL)
                        if b_lies and out.columns == PANEL:
                            right = Right(
                                <const real*>part(b, k0 + k, j0 + p * PANEL).data, b.row // <Py_ssize_t>sizeof(real))
                        multiply_panel(rows, depth, &left, right, &out)
                    k += DEPTH_BLOCK
                i0 += ROW_BLOCK
            k0 += most
        j0 += wide


# ---- a vector and a matrix -----------------------------------------------------------------------------

cdef inline void vector_sums(
    const int rows, const real* x, const real* m, Py_ssize_t m_row, real* c, Py_ssize_t columns, bint first,
) noexcept nogil:
    """c[j] += sum over k < rows of x[k] m[k * m_row + j]: outer. The first rows store their sums, the others add."""
    cdef vreal left[LONG_ROWS]
    cdef vreal total
    cdef Py_ssize_t j = 0
    cdef int k
    for k in range(rows):
        left[k] = splat(x[k])
    while j + LANES <= columns:
        total = splat(0) if first else load(c + j)
        for k in range(rows):
            total = total + left[k] * load(m + k * m_row + j)
        store(c + j, total)
        j += LANES
    if j < columns:
        total = splat(0) if first else load_first(c + j, columns - j)
        for k in range(rows):
            total = total + left[k] * load_first(m + k * m_row + j, columns - j)
        store_first(c + j, total, columns - j)


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
    cdef Py_ssize_t x_step, c_step, j = 0, k, columns, m_row, m_column, depth = a.columns
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
    for k in range(depth, (depth + LANES - 1) // LANES * LANES):
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
        k = 0
        while k + LONG_ROWS <= depth:
            vector_sums(LONG_ROWS, scratch + k, <const real*>m.data + k * m_row + j, m_row, c + j, columns, k == 0)
            if interrupted(air, thread, LONG_ROWS * columns):
                return True
            k += LONG_ROWS
        while k < depth:
            vector_sums(1, scratch + k, <const real*>m.data + k * m_row + j, m_row, c + j, columns, k == 0)
            k += 1
        j += LONG_COLUMNS
    return True
