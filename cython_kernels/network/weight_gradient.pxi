"""The gradient of W of a dense layer, on one tile of examples, and its sum over tiles.

The gradient of W is a sum over examples, that is over lanes. The plan chooses one of two ways for each layer:
  lane-wise   a vector of partial sums for each weight, its lanes added at the end of the tile.
              For narrow layers: no transposition, and no lane is idle.
  transposed  x is transposed (x^T in panels of features) and delta x^T is an ordinary product.
              For wide layers: no sums over lanes. If few features would leave lanes idle, 2, 4 or 8 examples share
              a vector, and their lanes are added at the end: for narrow layers and small tiles.

Sums over examples are short. A lane adds at most SUM_BLOCK terms, or, in the loops without blocks (shared vectors,
`add_examples`, `backward_single_output`), its part of a tile of at most 4 096 examples (_engine.plan.LARGEST_TILE):
1 366 terms in float32. The sums of tiles are added to the gradient of their block, those of blocks to each other.
"""

cdef struct GradientSum:
    # The destination of sums over examples: element (i, j) at data + i * row + j; data NULL: not wanted.
    real* data
    Py_ssize_t row
    bint overwrite          # 1: sums are stored (first tile of a block), 0: they are added


cdef inline void add_to(GradientSum total, Py_ssize_t i, Py_ssize_t j, real value) noexcept nogil:
    cdef real* place = total.data + i * total.row + j
    place[0] = value if total.overwrite else place[0] + value


cdef inline void add_all_to(
    GradientSum total, Py_ssize_t i, Py_ssize_t j, const real* values, Py_ssize_t count,
) noexcept nogil:
    """Adds to (or stores at) (i, j), (i, j + 1) ...: whole vectors, then LANE_COLUMNS at a time: 1 to 5 % of a small step.

    Loads exactly `count` values: a load within a vector just stored is forwarded from the store buffer, one that goes
    past its end has to wait.
    """
    cdef real* place = total.data + i * total.row + j
    cdef Py_ssize_t n = 0
    while n + LANES <= count:
        store(place + n, load(values + n) if total.overwrite else load(place + n) + load(values + n))
        n += LANES
    while n + LANE_COLUMNS <= count:
        if total.overwrite:
            copy_columns(place + n, values + n)
        else:
            add_columns(place + n, values + n)
        n += LANE_COLUMNS
    while n < count:
        add_to(total, i, j + n, values[n])
        n += 1


# ---- the gradient of W, lane-wise -------------------------------------------------------------------

cdef inline void lane_products(
    const int rows, const int columns, const bint ahead, Py_ssize_t n_panels,
    Features delta, Py_ssize_t n_delta, Py_ssize_t i0, Features x, Py_ssize_t n_x, Py_ssize_t j0, GradientSum gradient,
) noexcept nogil:
    """The sums over examples of delta_i x_j, for a block at (i0, j0).

    Past the edge the last row or column is computed again and dropped. ahead: prefetch x at distance x.ahead.
    """
    # A single accumulator would be latency-bound: it is split into as many as a panel has vectors.
    cdef int pieces = VECTORS if rows * columns == 1 else 1
    cdef vreal sums[LANE_BLOCK]
    cdef real totals[LANE_BLOCK]
    cdef const real* di[LANE_ROWS]
    cdef const real* xj[LANE_BLOCK]
    cdef vreal right[LANE_BLOCK]
    cdef vreal left
    cdef int i, j, v, place
    cdef Py_ssize_t p
    for i in range(rows):
        di[i] = delta.data + minimum(i0 + i, n_delta - 1) * delta.feature
    for j in range(columns):
        xj[j] = x.data + minimum(j0 + j, n_x - 1) * x.feature
    for i in range(pieces if rows * columns == 1 else LANE_BLOCK):
        sums[i] = splat(0)
    for p in range(n_panels):
        for v in range(VECTORS):
            for j in range(columns):
                right[j] = load(xj[j] + v * LANES)
            if ahead:
                for j in range(0, columns, 2):      # the others are prefetched in the forward pass, by `vector_sums`
                    prefetch(2, xj[j] + x.ahead + v * LANES)
            for i in range(rows):
                left = load(di[i] + v * LANES)
                for j in range(columns):
                    place = i * columns + j + v % pieces
                    sums[place] = multiply_add(left, right[j], sums[place])
        for i in range(rows):
            di[i] += delta.panel
        for j in range(columns):
            xj[j] += x.panel
    if rows * columns == 1:
        for v in range(1, pieces):
            sums[0] = sums[0] + sums[v]
        add_to(gradient, i0, j0, sum_of_lanes(sums[0]))
        return
    add_lanes(sums, LANE_BLOCK, totals)
    for i in range(<int>minimum(rows, n_delta - i0)):
        add_all_to(gradient, i0 + i, j0, totals + i * columns, minimum(columns, n_x - j0))


cdef void lanewise_block(
    const Features* deltas, Py_ssize_t n_delta, const Features* inputs, Py_ssize_t n_x, Py_ssize_t n_panels, GradientSum gradient,
) noexcept nogil:
    """`weight_gradient_lanewise` for at most SUM_PANELS panels: the examples of a lane are added sequentially."""
    cdef Features delta = deltas[0], x = inputs[0]
    cdef Py_ssize_t i0 = 0, j0
    if n_delta == 1 and n_x == 1:
        lane_products(1, 1, False, n_panels, delta, 1, 0, x, 1, 0, gradient)
        return
    if n_delta == 1:
        j0 = 0
        while j0 + LANE_COLUMNS < n_x:
            if x.ahead:     # X in place
                lane_products(1, LANE_BLOCK, True, n_panels, delta, 1, 0, x, n_x, j0, gradient)
            else:
                lane_products(1, LANE_BLOCK, False, n_panels, delta, 1, 0, x, n_x, j0, gradient)
            j0 += LANE_BLOCK
        if j0 < n_x:
            lane_products(1, LANE_COLUMNS, True, n_panels, delta, 1, 0, x, n_x, j0, gradient)
        return
    while i0 < n_delta:
        j0 = 0
        while j0 < n_x:
            lane_products(LANE_ROWS, LANE_COLUMNS, False, n_panels, delta, n_delta, i0, x, n_x, j0, gradient)
            j0 += LANE_COLUMNS
        i0 += LANE_ROWS


cdef enum:
    SUM_PANELS = SUM_BLOCK // VECTORS      # panels of which a lane adds SUM_BLOCK examples


cdef void weight_gradient_lanewise(
    const Features* deltas, Py_ssize_t n_delta, const Features* inputs, Py_ssize_t n_x, Py_ssize_t n_panels, GradientSum gradient,
) noexcept nogil:
    cdef Features delta, x
    if n_panels <= SUM_PANELS:
        lanewise_block(deltas, n_delta, inputs, n_x, n_panels, gradient)
        return
    delta = deltas[0]
    x = inputs[0]
    while n_panels > 0:
        lanewise_block(&delta, n_delta, &x, n_x, minimum(n_panels, SUM_PANELS), gradient)
        gradient.overwrite = False
        delta.data += SUM_PANELS * delta.panel
        x.data += SUM_PANELS * x.panel
        n_panels -= SUM_PANELS


# ---- the gradient of W, transposed ------------------------------------------------------------------

cdef enum:
    SHARED_ROWS = 8         # accumulators, enough to hide the latency of an addition; a multiple of 2, 4 and 8


cdef inline int examples_per_vector(Py_ssize_t n) noexcept nogil:
    """How many examples of n features share a vector of x^T: a power of two; 1 if n > LANES / 2."""
    cdef int per_vector = 1
    while 2 * per_vector * n <= LANES:
        per_vector = 2 * per_vector
    return per_vector


cdef inline void share_panels(
    const int per_vector, const real* x, Py_ssize_t n, Py_ssize_t n_panels, real* shared,
) noexcept nogil:
    """Packs x^T of a tile with `per_vector` examples in each vector: feature f of example e is lane f * per_vector + e.

    Feature lanes past the end repeat the last feature, as in `transpose_tile`.
    """
    cdef Py_ssize_t p, feature, group
    cdef const real* source
    for p in range(n_panels):
        for feature in range(LANES // per_vector):
            source = x + minimum(feature, n - 1) * PANEL
            for group in range(PANEL // per_vector):
                memcpy(shared + group * LANES + feature * per_vector, source + group * per_vector, per_vector * sizeof(real))
        x += n * PANEL
        shared += PANEL // per_vector * LANES


cdef inline void shared_block(
    const int per_vector, const real* delta, Py_ssize_t n_delta, Py_ssize_t i0, const real* shared, Py_ssize_t n_x,
    Py_ssize_t n_panels, GradientSum gradient,
) noexcept nogil:
    """SHARED_ROWS rows of delta x^T, from an x^T of `share_panels`. Past the edge the last row is computed again and dropped.

    The rows are contiguous in the gradient and stored as whole vectors, which the update can load without waiting.
    Compared with the lane-wise way, or with idle lanes: 7 to 9 % of a step of (8, 16, 32), 15 % of (4, 50, 32).
    """
    cdef vreal sums[SHARED_ROWS]
    cdef real totals[SHARED_ROWS * LANES]
    cdef real compact[SHARED_ROWS * LANES]
    cdef const real* rows[SHARED_ROWS]
    cdef vreal right
    cdef Py_ssize_t p, group, count = minimum(SHARED_ROWS, n_delta - i0)
    cdef int i
    for i in range(SHARED_ROWS):
        rows[i] = delta + minimum(i0 + i, n_delta - 1) * PANEL
        sums[i] = splat(0)
    for p in range(n_panels):
        for group in range(PANEL // per_vector):
            right = load(shared + group * LANES)
            for i in range(SHARED_ROWS):
                sums[i] = multiply_add(splat_group(rows[i] + group * per_vector, per_vector), right, sums[i])
        shared += PANEL // per_vector * LANES
        for i in range(SHARED_ROWS):
            rows[i] += n_delta * PANEL
    if per_vector >= 2:       # adjacent lanes belong to one element: each addition halves them, and the number of vectors
        add_neighbours(SHARED_ROWS // 2, sums)
    if per_vector >= 4:
        add_neighbours(SHARED_ROWS // 4, sums)
    if per_vector >= 8:
        add_neighbours(SHARED_ROWS // 8, sums)
    for i in range(SHARED_ROWS // per_vector):
        store(totals + i * LANES, sums[i])
    if n_x == LANES // per_vector:
        add_all_to(gradient, i0, 0, totals, count * n_x)
        return
    for i in range(SHARED_ROWS):    # each row overwrites the padding lanes of the previous one
        memcpy(compact + i * n_x, totals + i * (LANES // per_vector), LANES // per_vector * sizeof(real))
    add_all_to(gradient, i0, 0, compact, count * n_x)


cdef inline void shared_gradient(
    const int per_vector, const real* delta, Py_ssize_t n_delta, const real* shared, Py_ssize_t n_x, Py_ssize_t n_panels,
    GradientSum gradient,
) noexcept nogil:
    cdef Py_ssize_t i0 = 0
    while i0 < n_delta:
        shared_block(per_vector, delta, n_delta, i0, shared, n_x, n_panels, gradient)
        i0 += SHARED_ROWS


cdef void transpose_tile(const real* x, Py_ssize_t n, Py_ssize_t n_panels, real* transposed) noexcept nogil:
    """Packs x^T in panels of features: transposed[(panel * n_examples + example) * PANEL + feature lane].

    Feature lanes past the end repeat the last feature; results computed from them are dropped.
    If `examples_per_vector` is more than 1, so many examples share a vector.
    """
    cdef vreal square[LANES]
    cdef const real* rows[LANES]
    cdef Py_ssize_t block, p, v, i, feature, n_examples = n_panels * PANEL
    cdef real* place
    cdef int per_vector = examples_per_vector(n)
    if per_vector == 2 and LANES > 2:
        share_panels(2, x, n, n_panels, transposed)
        return
    if per_vector == 4 and LANES > 4:
        share_panels(4, x, n, n_panels, transposed)
        return
    if per_vector == 8 and LANES > 8:
        share_panels(8, x, n, n_panels, transposed)
        return
    for block in range(ceil_div(n, LANES)):
        for p in range(n_panels):
            for v in range(VECTORS):
                for i in range(LANES):
                    feature = minimum(block * LANES + i, n - 1)
                    rows[i] = x + (p * n + feature) * PANEL + v * LANES
                load_transposed(rows, square)
                place = transposed + ((block // VECTORS) * n_examples + p * PANEL + v * LANES) * PANEL + (block % VECTORS) * LANES
                for i in range(LANES):
                    store(place + i * PANEL, square[i])


cdef void weight_gradient_transposed(
    const real* delta, Py_ssize_t n_delta, const real* transposed, Py_ssize_t n_x, Py_ssize_t n_panels, GradientSum gradient,
) noexcept nogil:
    cdef int per_vector = examples_per_vector(n_x)
    if per_vector == 2 and LANES > 2:
        shared_gradient(2, delta, n_delta, transposed, n_x, n_panels, gradient)
        return
    if per_vector == 4 and LANES > 4:
        shared_gradient(4, delta, n_delta, transposed, n_x, n_panels, gradient)
        return
    if per_vector == 8 and LANES > 8:
        shared_gradient(8, delta, n_delta, transposed, n_x, n_panels, gradient)
        return
    weight_gradient_rows(delta, n_delta, n_delta, transposed, n_x, n_panels, gradient)


cdef void weight_gradient_rows(
    const real* delta, Py_ssize_t n_rows, Py_ssize_t n_delta, const real* transposed, Py_ssize_t n_x, Py_ssize_t n_panels,
    GradientSum gradient,
) noexcept nogil:
    """`weight_gradient_transposed` for n_rows rows of delta, if no examples share a vector.

    Up to SUM_BLOCK examples are summed in registers before the gradient is read and written: 10 % of a step. Micro-tiles are
    two panels of features wide, unless the second vector of the second one is empty (then it is not written in x^T); also where
    the L1 holds one panel, but not two, which is no slower here (see `panels_together`).
    """
    cdef Py_ssize_t first = 0, p, n
    cdef Output out
    out.row = gradient.row
    out.panel = PANEL
    out.bias = NULL
    out.activation = 0
    while first < n_x:
        out.data = gradient.data + first
        out.columns = minimum(2 * PANEL if DOUBLE_ROWS > 0 and n_x - first > PANEL + LANES else PANEL, n_x - first)
        out.epilogue = STORE if gradient.overwrite else ADD
        p = 0
        while p < n_panels:
            n = minimum(n_panels - p, SUM_BLOCK // PANEL)
            multiply_tile(
                n_rows, delta + p * n_delta * PANEL, n_delta * PANEL, n,
                transposed + (first * n_panels + p * PANEL) * PANEL, n_panels * PANEL * PANEL, &out)
            out.epilogue = ADD
            p += n
        first += out.columns
