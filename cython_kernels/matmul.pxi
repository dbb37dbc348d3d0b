"""Matrix product: the micro-kernel that all layers are made of, and the blocked product over it.

Design. The right factor comes in *panels*, PANEL columns wide and contiguous: b[k * PANEL + lane].
A micro-tile of ROWS x PANEL sums stays in registers while k runs (an outer product for each k: the
panel's row is loaded once, an element of the left factor is broadcast to each row). The left factor
is any strided matrix, so W, its transpose and a tile of deltas are all read where they lie.
The same code, inlined with constant counts of rows and vectors, makes the edges.

The layers hold their activations in panels of examples and call `multiply_panel` directly.
`multiply` serves matrices from outside: it packs blocks of both factors as BLIS does (a block of A
for the L2 cache, a panel of B for the L1), and adds up the blocks of k in order, so that a result does
not depend on the number of threads.

Rejected: inner products (a horizontal sum for each output); unpacked B (its rows lie a power of two
apart and fall into the same few sets of the L1 cache); a scalar path for edges (it would round
otherwise than the vectors).
"""

cdef struct Matrix:
    # A matrix from outside: element (i, j) at data + i * row + j * column, strides in bytes, any address.
    char* data
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t row
    Py_ssize_t column

cdef struct Left:
    # The left factor, in one run or several side by side, as the tiles have it, each of the product's depth:
    # element (i, k) of a run is data[i * row + k * step + run * hop]. The panel has the runs' rows in order.
    const real* data
    Py_ssize_t row
    Py_ssize_t step
    Py_ssize_t runs
    Py_ssize_t hop

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
    const int activation, const int rows, const int vectors, vreal sums[MOST_ROWS][VECTORS], Output c,
) noexcept nogil:
    cdef int i, v
    cdef real* place
    for i in range(rows):
        for v in range(vectors):
            place = c.data + i * c.row + v * LANES
            store(place, times_derivative(activation, sums[i][v], load(place)))


cdef inline void micro_tile(
    const int rows, const int vectors, Py_ssize_t depth, Left a, const real* b, Output c,
) noexcept nogil:
    """c (rows, vectors * LANES) from a (rows, runs x depth) and the panel b (runs x depth, PANEL)."""
    cdef vreal sums[MOST_ROWS][VECTORS]
    cdef vreal right[VECTORS]
    cdef real spilled[MOST_ROWS * PANEL]
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
    for run in range(a.runs):
        ak = a.data + run * a.hop
        for k in range(depth):
            for v in range(vectors):
                right[v] = load(b + v * LANES)
            for i in range(rows):
                left = splat(ak[i * a.row])
                for v in range(vectors):
                    sums[i][v] = sums[i][v] + left * right[v]
            ak += a.step
            b += PANEL
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
    const int rows, Py_ssize_t depth, Left a, const real* b, Output c,
) noexcept nogil:
    if c.columns > LANES:
        micro_tile(rows, VECTORS, depth, a, b, c)
    else:
        micro_tile(rows, 1, depth, a, b, c)


cdef void multiply_panel(
    Py_ssize_t rows, Py_ssize_t depth, Left a, Py_ssize_t a_block, const real* b, Output c,
) noexcept nogil:
    """c (rows, <= PANEL) from a (rows, depth) and the panel b; blocks of ROWS rows of a lie a_block apart."""
    cdef Py_ssize_t i
    for i in range(rows // ROWS):
        multiply_rows(ROWS, depth, a, b, c)
        a.data += a_block
        c.data += ROWS * c.row
        if c.bias != NULL:
            c.bias += ROWS
    i = rows % ROWS
    if i == 1:
        multiply_rows(1, depth, a, b, c)
    elif i == 2:
        multiply_rows(2, depth, a, b, c)
    elif i == 3:
        multiply_rows(3, depth, a, b, c)
    elif i == 4:
        multiply_rows(4, depth, a, b, c)
    elif i == 5:
        multiply_rows(5, depth, a, b, c)
    elif i == 6:
        multiply_rows(6, depth, a, b, c)
    elif i == 7:
        multiply_rows(7, depth, a, b, c)


# ---- the product of two matrices from outside ------------------------------------------------------

cdef enum:
    # A block of A (ROW_BLOCK x DEPTH_BLOCK) takes a quarter of a 1 MiB L2 in float32, half in float64;
    # a panel of B (DEPTH_BLOCK x PANEL) the L1; a block of B a share of the L3.
    # ROW_BLOCK is a multiple of every ROWS, COLUMN_BLOCK of every PANEL.
    DEPTH_BLOCK = 256
    ROW_BLOCK = 240
    COLUMN_BLOCK = 1024


cdef inline Py_ssize_t panels(Py_ssize_t n) noexcept nogil:
    """How many panels hold n columns."""
    return (n + PANEL - 1) // PANEL


cdef Py_ssize_t multiply_scratch(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """The reals that `multiply` needs for its packed blocks."""
    return smaller(depth, DEPTH_BLOCK) * (
        (smaller(rows, ROW_BLOCK) + ROWS) + panels(smaller(columns, COLUMN_BLOCK)) * PANEL
    )


cdef void pack_right(Matrix b, Py_ssize_t k0, Py_ssize_t depth, Py_ssize_t j0, Py_ssize_t columns, real* packed) noexcept nogil:
    """b[k0 : k0 + depth, j0 : j0 + columns] in panels; the last one ends in zeros."""
    cdef Py_ssize_t p, k, lane, width
    cdef const char* place
    for p in range(panels(columns)):
        width = smaller(PANEL, columns - p * PANEL)
        for k in range(depth):
            place = b.data + (k0 + k) * b.row + (j0 + p * PANEL) * b.column
            if width == PANEL and b.column == sizeof(real):
                for lane in range(VECTORS):
                    store(packed + lane * LANES, load(<const real*>place + lane * LANES))
            else:
                for lane in range(width):
                    packed[lane] = load_anywhere(place + lane * b.column)
                for lane in range(width, PANEL):
                    packed[lane] = 0
            packed += PANEL


cdef void pack_left(Matrix a, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t k0, Py_ssize_t depth, real* packed) noexcept nogil:
    """a[i0 : i0 + rows, k0 : k0 + depth] in blocks of ROWS rows, k by k."""
    cdef Py_ssize_t block, i, k, height
    cdef const char* place
    for block in range((rows + ROWS - 1) // ROWS):
        height = smaller(ROWS, rows - block * ROWS)
        for i in range(height):
            place = a.data + (i0 + block * ROWS + i) * a.row + k0 * a.column
            for k in range(depth):
                packed[k * ROWS + i] = load_anywhere(place + k * a.column)
        packed += depth * ROWS


cdef void multiply(Matrix a, Matrix b, real* c, Py_ssize_t c_row, real* scratch) noexcept nogil:
    """c = a b; c has contiguous rows c_row apart. scratch: multiply_scratch(...) reals."""
    cdef Py_ssize_t i0, j0, k0, p, rows, depth, columns
    cdef real* right = scratch
    cdef real* packed_left = scratch + smaller(a.columns, DEPTH_BLOCK) * panels(smaller(b.columns, COLUMN_BLOCK)) * PANEL
    cdef Left left
    cdef Output out
    left = Left(packed_left, 1, ROWS, 1, 0)
    out.row = c_row
    out.bias = NULL
    out.activation = 0
    j0 = 0
    while j0 < b.columns:
        columns = smaller(COLUMN_BLOCK, b.columns - j0)
        k0 = 0
        while k0 == 0 or k0 < a.columns:    # once even for an empty sum
            depth = smaller(DEPTH_BLOCK, a.columns - k0)
            pack_right(b, k0, depth, j0, columns, right)
            out.finish = STORE if k0 == 0 else ADD
            i0 = 0
            while i0 < a.rows:
                rows = smaller(ROW_BLOCK, a.rows - i0)
                pack_left(a, i0, rows, k0, depth, packed_left)
                for p in range(panels(columns)):
                    out.data = c + i0 * c_row + j0 + p * PANEL
                    out.columns = smaller(PANEL, columns - p * PANEL)
                    multiply_panel(rows, depth, left, depth * ROWS, right + p * depth * PANEL, out)
                i0 += ROW_BLOCK
            k0 += DEPTH_BLOCK
        j0 += COLUMN_BLOCK
