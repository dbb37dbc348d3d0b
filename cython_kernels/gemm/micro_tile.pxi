"""The micro-tile (the micro-kernel of BLIS): the inner loop of all matrix products, in the layers and in `matmul`.

Design. The right factor is stored in *panels*, which are a few vectors wide, row after row. A micro-tile of rows x vectors
accumulators stays in registers over the loop on k (an outer product for each k: the panel's row is loaded once, and an element
of the left factor is broadcast for each row). The left factor is any strided matrix, so W, its transpose and a tile of
deltas are all read in place. Edges use the same code, inlined with other constant numbers of rows and vectors.
With 32 vector registers a micro-tile spans two panels where it can: 10 loads for 24 multiply-adds instead of 10 for 16,
which is 1.03 to 1.1 times as fast where loads slow down multiply-adds (Xeon).

The layers store their activations in panels of examples and call `forward_panel`, `delta_panel` and `multiply_tile`.

Rejected: inner products throughout (a horizontal sum for each output); a scalar path for edges (it would round differently
from the vectors).
"""

cdef struct Left:
    # The left factor: element (i, k) is data[i * row + k * step].
    const real* data
    Py_ssize_t row
    Py_ssize_t step

cdef struct Right:
    # A panel of the right factor: row k, PANEL elements, starts at data + k * row. A micro-tile of more than VECTORS vectors
    # goes on in the next panel, `panel` elements further.
    const real* data
    Py_ssize_t row
    Py_ssize_t panel

cdef enum Epilogue:
    STORE               # c = sum
    ADD                 # c = c + sum
    DERIVATIVE          # c = sum f'(c): a delta overwrites its activation; full panels only

cdef struct Output:
    # The product, in panels as `Right`; `columns` columns are stored. The sum of row i starts at bias[i], unless bias is NULL.
    real* data
    Py_ssize_t row
    Py_ssize_t panel
    Py_ssize_t columns
    const real* bias
    int epilogue
    int activation      # for DERIVATIVE: the activation whose derivative is taken


# ---- a micro-tile --------------------------------------------------------------------------------------

cdef inline Py_ssize_t vector_at(const int v, Py_ssize_t panel) noexcept nogil:
    """Where vector v of a row is, if panels are `panel` elements apart."""
    return v // VECTORS * panel + v % VECTORS * LANES


cdef inline void start_sums(
    const int rows, const int vectors, const real* bias, vreal sums[ROWS][MOST_VECTORS],
) noexcept nogil:
    cdef vreal first
    cdef int i, v
    for i in range(rows):
        first = splat(0) if bias == NULL else splat(bias[i])
        for v in range(vectors):
            sums[i][v] = first


cdef struct Ahead:
    # What a loop on k prefetches: elements of b, `right` before their use, to a level of the caches (0: none), and of a, `left`
    # before their use, to the L2 (0: none).
    int level
    Py_ssize_t right
    Py_ssize_t left


cdef inline void add_products(
    const int rows, const int vectors, Ahead ahead, Py_ssize_t depth, Left a, Right* b,
    vreal sums[ROWS][MOST_VECTORS],
) noexcept nogil:
    """sums (rows, vectors * LANES) += a (rows, depth) b."""
    cdef vreal right[MOST_VECTORS]
    cdef vreal left
    cdef Py_ssize_t k
    cdef int i, v
    for k in range(depth):
        for v in range(vectors):
            right[v] = load(b.data + vector_at(v, b.panel))
            if v * LANES * sizeof(real) % LINE == 0:
                prefetch(ahead.level, b.data + ahead.right + vector_at(v, b.panel))
        if ahead.left:
            prefetch(2, a.data + ahead.left)
        for i in range(rows):
            left = splat(a.data[i * a.row])
            for v in range(vectors):
                sums[i][v] = multiply_add(left, right[v], sums[i][v])
        a.data += a.step
        b.data += b.row


cdef void store_edge(Py_ssize_t rows, int vectors, const real* sums, const Output* c) noexcept nogil:
    """STORE or ADD of sums that are stored row by row; c may end within a vector."""
    cdef Py_ssize_t i, n
    cdef int v
    cdef real* place
    for i in range(rows):
        for v in range(vectors):
            n = c.columns - v * LANES
            place = c.data + i * c.row + vector_at(v, c.panel)
            if n >= LANES:      # no mask: masked stores of AVX2 are slow on AMD
                store(place, load(place) + load(sums) if c.epilogue == ADD else load(sums))
            elif n > 0:
                store_first(place, load_first(place, n) + load(sums) if c.epilogue == ADD else load(sums), n)
            sums += LANES


cdef inline void store_derivative(
    const int activation, const int rows, const int vectors, vreal sums[ROWS][MOST_VECTORS], Output c,
) noexcept nogil:
    cdef real* place = opaque(c.data)
    cdef vreal value
    cdef int i, v
    for i in range(rows):
        for v in range(vectors):
            value = load(place + vector_at(v, c.panel))
            store(place + vector_at(v, c.panel), times_derivative(activation, sums[i][v], value))
        place += c.row


ctypedef void (*StoreDerivative)(
    const int activation, const int rows, const int vectors, vreal sums[ROWS][MOST_VECTORS], Output c) noexcept nogil
cdef extern from "vector.h" nogil:
    void store_derivative_of "AS_ACTIVATION"(int n_activations, StoreDerivative, int activation, ...)


cdef inline void store_tile(const int rows, const int vectors, vreal sums[ROWS][MOST_VECTORS], Output c) noexcept nogil:
    cdef real spilled[ROWS * MOST_VECTORS * LANES]
    cdef real* place = opaque(c.data)
    cdef Output edge
    cdef int i, v
    if c.columns < vectors * LANES:
        for i in range(rows):
            for v in range(vectors):
                store(spilled + (i * vectors + v) * LANES, sums[i][v])
        edge = c        # a copy, so that c itself stays in registers
        store_edge(rows, vectors, spilled, &edge)
    elif c.epilogue == STORE:
        for i in range(rows):
            for v in range(vectors):
                store(place + vector_at(v, c.panel), sums[i][v])
            place += c.row
    elif c.epilogue == ADD:
        for i in range(rows):
            for v in range(vectors):
                store(place + vector_at(v, c.panel), load(place + vector_at(v, c.panel)) + sums[i][v])
            place += c.row
    else:
        store_derivative_of(N_ACTIVATIONS, store_derivative, c.activation, rows, vectors, sums, c)


cdef inline void micro_tile(
    const int rows, const int vectors, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """c (rows, vectors * LANES) = a b; a: `runs` segments (rows, depth), `hop` apart; b: panels (runs * depth, PANEL)."""
    cdef vreal sums[ROWS][MOST_VECTORS]
    cdef real* place = opaque(c.data)
    cdef Py_ssize_t run
    cdef int i, v
    start_sums(rows, vectors, c.bias, sums)
    if c.epilogue == ADD:     # c is read after the loop
        for i in range(rows):
            for v in range(vectors):
                prefetch(1, place + vector_at(v, c.panel))
            place += c.row
    for run in range(runs):
        add_products(rows, vectors, Ahead(0, 0, 0), depth, a, &b, sums)
        a.data += hop
    store_tile(rows, vectors, sums, c)


cdef inline void half_tile(
    const int rows, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """`micro_tile` for at most HALF_LANES columns."""
    cdef vhalf sums[ROWS]
    cdef vhalf right
    cdef vreal total
    cdef const real* left
    cdef Py_ssize_t run, k
    cdef real* place = opaque(c.data)
    cdef int i
    for i in range(rows):
        sums[i] = splat_half(0) if c.bias == NULL else splat_half(c.bias[i])
    for run in range(runs):
        left = a.data
        for k in range(depth):
            right = load_half(b.data)
            for i in range(rows):
                sums[i] = multiply_add_half(splat_half(left[i * a.row]), right, sums[i])
            left += a.step
            b.data += b.row
        a.data += hop
    for i in range(rows):
        total = from_half(sums[i])
        store_first(place, load_first(place, c.columns) + total if c.epilogue == ADD else total, c.columns)
        place += c.row


cdef inline void multiply_rows(
    const int rows, bint narrow, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    if narrow:
        if c.columns <= HALF_LANES:
            half_tile(rows, runs, hop, depth, a, b, c)
        else:
            micro_tile(rows, 1, runs, hop, depth, a, b, c)
    elif rows <= DOUBLE_ROWS and c.columns > PANEL:
        micro_tile(rows, MOST_VECTORS, runs, hop, depth, a, b, c)
    else:
        micro_tile(rows, VECTORS, runs, hop, depth, a, b, c)


ctypedef void (*MultiplyRows)(
    const int rows, bint narrow, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil
cdef extern from "vector.h" nogil:
    void multiply_n_rows "AS_CONSTANT"(int most, MultiplyRows, Py_ssize_t n, ...)


cdef inline Py_ssize_t most_rows(const Output* c) noexcept nogil:
    """The rows of a micro-tile as wide as c."""
    return DOUBLE_ROWS if DOUBLE_ROWS > 0 and c.columns > PANEL else ROWS


cdef enum:
    NEAR_PANEL = (20 << 10) // (PANEL * sizeof(real)), LONG_PANEL = (32 << 10) // (PANEL * sizeof(real))    # rows


cdef inline Py_ssize_t whole_tiles(Py_ssize_t n) noexcept nogil:
    """About n rows that make whole micro-tiles."""
    return maximum(n // TILE_ROWS, 1) * TILE_ROWS


cdef inline Py_ssize_t panels_together(Py_ssize_t n_panels, Py_ssize_t depth, Py_ssize_t block_depth) noexcept nogil:
    """How many of the next panels make a micro-tile, 1 or 2, for sums in blocks of block_depth.

    Not two if the L1 holds one of them, but not both: then one is faster, which is not read again from the L2 for the next
    rows. Not two for a sum of several blocks: `deep_panel` holds the totals of one panel.
    """
    if DOUBLE_ROWS > 0 and n_panels > 1 and depth <= block_depth and not NEAR_PANEL < depth <= LONG_PANEL:
        return 2
    return 1


cdef inline void multiply_all_rows(
    Py_ssize_t rows, Py_ssize_t runs, Py_ssize_t hop, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """`micro_tile` for any number of rows."""
    cdef bint narrow = c.columns <= LANES
    cdef Py_ssize_t n_tiles = ceil_div(rows, most_rows(&c)), tile, n
    for tile in range(n_tiles):
        n = balanced_part(rows, n_tiles, tile)
        multiply_n_rows(ROWS, multiply_rows, n, narrow, runs, hop, depth, a, b, c)
        a.data += n * a.row
        c.data += n * c.row
        if c.bias != NULL:
            c.bias += n


cdef void multiply_panel(Py_ssize_t rows, Py_ssize_t depth, const Left* a, Right b, const Output* c) noexcept nogil:
    """c (rows, <= PANEL) = a (rows, depth) b for a panel b; k runs sequentially, without blocks."""
    multiply_all_rows(rows, 1, 0, depth, a[0], b, c[0])


cdef enum:
    CHAIN_BYTES = 28672     # of the rows of a that stay in the L1 for all chains; each chain goes on where it was


cdef inline void interleaved_tile(
    const int rows, const int vectors, bint far, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    """`micro_tile` with interleaved sums, of one block (sums.pxi). The chains wait in memory while the others are continued."""
    cdef vreal sums[ROWS][MOST_VECTORS]
    cdef vreal chains[SUM_CHAINS][ROWS * MOST_VECTORS]
    cdef Py_ssize_t chain_block = CHAIN_BYTES // (rows * <Py_ssize_t>sizeof(real)) // SUM_CHAINS * SUM_CHAINS
    cdef Left left
    cdef Right right
    cdef Ahead ahead = Ahead(0, 0, 0)
    cdef Py_ssize_t first = 0, stop, j
    cdef int i, v, width = LANES if vectors == 1 else PANEL     # constant strides: 2 % of a prediction of (784, 128, 10)
    while first < depth:
        stop = minimum(first + chain_block, depth)
        for j in range(SUM_CHAINS):
            if first == 0:
                start_sums(rows, vectors, c.bias if j == 0 else NULL, sums)
            else:
                for i in range(rows):
                    for v in range(vectors):
                        sums[i][v] = chains[j][i * vectors + v]
            left = Left(a.data + first + j, a.row, SUM_CHAINS)
            right = Right(b.data + (first + j) * width, SUM_CHAINS * width, b.panel)
            ahead.left = (rows + j) * a.row if far else 0        # each chain prefetches one of the next rows
            add_products(rows, vectors, ahead, (stop - first - j + SUM_CHAINS - 1) // SUM_CHAINS, left, &right, sums)
            for i in range(rows):
                for v in range(vectors):
                    chains[j][i * vectors + v] = sums[i][v]
        first = stop
    for i in range(rows):
        for v in range(vectors):
            sums[i][v] = chains[0][i * vectors + v]
            for j in range(1, SUM_CHAINS):
                sums[i][v] = sums[i][v] + chains[j][i * vectors + v]
            store(c.data + i * c.row + vector_at(v, c.panel), sums[i][v])


cdef inline void interleaved_rows(
    const int rows, bint narrow, bint far, Py_ssize_t depth, Left a, Right b, Output c,
) noexcept nogil:
    if narrow:
        interleaved_tile(rows, 1, far, depth, a, b, c)
    elif rows <= DOUBLE_ROWS and c.columns > PANEL:
        interleaved_tile(rows, MOST_VECTORS, far, depth, a, b, c)
    else:
        interleaved_tile(rows, VECTORS, far, depth, a, b, c)


ctypedef void (*InterleavedRows)(
    const int rows, bint narrow, bint far, Py_ssize_t depth, Left a, Right b, Output c) noexcept nogil
cdef extern from "vector.h" nogil:
    void interleaved_rows_of "AS_CONSTANT"(int most, InterleavedRows, Py_ssize_t n, ...)


cdef void interleaved_panel(
    Py_ssize_t rows, Py_ssize_t depth, bint far, const Left* a, Right b, const Output* c,
) noexcept nogil:
    """`multiply_panel` with interleaved sums, of one block, for one or two complete panels, or one of LANES columns; STORE.
    a.step is 1, and b.row is PANEL, or LANES for one of LANES columns.

    far: a is not in the L2. While some of its rows are multiplied, the next ones are prefetched.
    """
    cdef bint narrow = c.columns <= LANES
    cdef Py_ssize_t n_tiles = ceil_div(rows, most_rows(c)), tile, n
    cdef Left left = a[0]
    cdef Output out = c[0]
    for tile in range(n_tiles):
        n = balanced_part(rows, n_tiles, tile)
        interleaved_rows_of(ROWS, interleaved_rows, n, narrow, far, depth, left, b, out)
        left.data += n * a.row
        out.data += n * c.row
        if out.bias != NULL:
            out.bias += n


cdef void forward_panel(Py_ssize_t rows, Py_ssize_t depth, bint far, const Left* a, Right b, const Output* c) noexcept nogil:
    """`multiply_panel` in the order of a layer's sum over its inputs; c is one or two panels of a tile, or one of LANES columns;
    STORE. Strides: see `interleaved_panel`. Two panels: as `panels_together`.

    far: see `interleaved_panel`.
    """
    if depth > INTERLEAVED_BLOCK:
        deep_panel(INTERLEAVED_BLOCK, rows, depth, far, a, b, c)
    elif depth >= INTERLEAVED_DEPTH:
        interleaved_panel(rows, depth, far, a, b, c)
    elif c.columns <= LANES:
        multiply_panel(rows, depth, a, b, c)
    else:       # constant strides need no registers: 0.95 of the time of a prediction with AVX2
        multiply_all_rows(rows, 1, 0, depth, Left(a.data, a.row, 1), Right(b.data, PANEL, b.panel), c[0])


cdef void delta_panel(Py_ssize_t rows, Py_ssize_t depth, const Left* a, Right b, const Output* c) noexcept nogil:
    """`multiply_panel` for the delta below, a sum over outputs, in blocks of SUM_BLOCK; DERIVATIVE; a.row is 1, b.row is PANEL.
    Two panels: as `panels_together`."""
    if depth > SUM_BLOCK:
        deep_panel(SUM_BLOCK, rows, depth, False, a, b, c)
    else:
        multiply_all_rows(rows, 1, 0, depth, Left(a.data, 1, a.step), Right(b.data, PANEL, b.panel), c[0])


cdef void deep_panel(
    Py_ssize_t block_depth, Py_ssize_t rows, Py_ssize_t depth, bint far, const Left* a, Right b, const Output* c,
) noexcept nogil:
    """`forward_panel`, `delta_panel` for several blocks and one panel: some rows at a time, whose totals stay in the L1.

    c has no gaps: its row stride is PANEL, or LANES if it is one vector wide.
    """
    cdef real sums[ROWS * PANEL]
    cdef double totals[ROWS * PANEL]
    cdef Py_ssize_t n_tiles = ceil_div(rows, ROWS), tile, n, first = 0, i, k, count, width = c.row
    cdef Left left
    cdef Right right
    cdef const real* bias = c.bias
    cdef real* place = c.data
    cdef vreal value
    cdef Output block = Output(&sums[0], width, PANEL, c.columns, NULL, STORE, 0)
    for tile in range(n_tiles):
        n = balanced_part(rows, n_tiles, tile)
        block.bias = bias
        k = 0
        while k < depth:
            left = Left(a.data + first * a.row + k * a.step, a.row, a.step)
            right = Right(b.data + k * b.row, b.row, 0)
            count = minimum(block_depth, depth - k)
            if c.epilogue == STORE:
                interleaved_panel(n, count, far, &left, right, &block)
            else:
                multiply_panel(n, count, &left, right, &block)
            block.bias = NULL
            if k + block_depth < depth:
                add_block(sums, n * width, k == 0, totals)
            k += block_depth
        if c.epilogue == STORE:
            round_totals(totals, sums, n * width, place)
        else:
            round_totals(totals, sums, n * width, sums)
            for i in range(n * width // LANES):
                value = load(place + i * LANES)
                store(place + i * LANES, times_derivative(c.activation, load(sums + i * LANES), value))
        place += n * width
        first += n
        if bias != NULL:
            bias += n


cdef void multiply_tile(
    Py_ssize_t rows, const real* a, Py_ssize_t panel, Py_ssize_t n_panels, const real* b, Py_ssize_t b_panel, const Output* c,
) noexcept nogil:
    """`multiply_panel` with `rows` features of a tile as the left factor: k runs over the examples of its panels, which are
    `panel` elements apart.

    All other strides are compile-time constants here and need no registers: 3 to 8 % of a small step.
    """
    multiply_all_rows(rows, n_panels, panel, PANEL, Left(a, PANEL, 1), Right(b, PANEL, b_panel), c[0])
