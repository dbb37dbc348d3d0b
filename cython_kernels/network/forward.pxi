"""Forward through a dense layer, a = f(W x + b), on one tile of examples."""

cdef enum:
    ROW_PANELS = 4  # panels of a single output that are computed together
    SINGLE_PANELS = 64              # panels of a single output whose totals, at most 16 KiB, stay in the L1
    WEIGHT_BLOCK = 128 * 1024       # bytes of W that are reused for all panels of a tile, so that they are read from the L2


cdef inline Py_ssize_t weight_rows(Py_ssize_t n_rows, Py_ssize_t depth) noexcept nogil:
    """How many rows of W make a block."""
    return minimum(n_rows, whole_tiles(WEIGHT_BLOCK // (depth * <Py_ssize_t>sizeof(real))))


cdef inline void forward_row(
    const int n_panels, Py_ssize_t depth, const real* weight, Py_ssize_t step, const real* bias, Features x, real* a,
) noexcept nogil:
    """a = w x + b for a single output and n_panels panels: a single panel has too few accumulators to hide the
    latency of the additions, several panels have enough."""
    cdef vreal sums[ROW_PANELS][VECTORS]
    cdef vreal w
    cdef int p, v
    cdef Py_ssize_t k
    for p in range(n_panels):
        for v in range(VECTORS):
            sums[p][v] = splat(0) if bias == NULL else splat(bias[0])
    for k in range(depth):
        w = splat(weight[k * step])
        for p in range(n_panels):
            for v in range(VECTORS):
                sums[p][v] = multiply_add(w, load(x.data + p * x.panel + k * x.feature + v * LANES), sums[p][v])
    for p in range(n_panels):
        for v in range(VECTORS):
            store(a + p * PANEL + v * LANES, sums[p][v])


cdef void forward_long(
    Py_ssize_t depth, const real* weight, Py_ssize_t step, const real* bias, const Features* x, real* a, Py_ssize_t n_panels,
) noexcept nogil:
    """`forward_row` for X in place, in the same order of sums: some features at a time are read in long contiguous
    runs, for the whole tile."""
    cdef real zero = 0
    cdef const real* start = bias
    cdef LongRows rows = LongRows(x.data, x.feature, x.ahead)
    cdef Left left
    cdef Py_ssize_t k = 0
    if bias == NULL:
        start = &zero
    while k < depth:
        rows.data = x.data + k * x.feature
        left = Left(weight + k * step, 0, step)
        add_long_rows(1, minimum(LONG_ROWS, depth - k), &left, &rows, start, a, 0, n_panels * PANEL)
        start = NULL
        k += LONG_ROWS


cdef inline void forward_block(
    bint in_place, Py_ssize_t depth, const real* weight, Py_ssize_t step, const real* bias, const Features* inputs, real* a,
    Py_ssize_t n_panels,
) noexcept nogil:
    """`forward_row` for any number of panels of a tile, or of X in place; all features sequentially."""
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0
    if in_place:
        forward_long(depth, weight, step, bias, inputs, a, n_panels)
        return
    while p + ROW_PANELS <= n_panels:
        forward_row(ROW_PANELS, depth, weight, step, bias, x, a + p * PANEL)
        x.data += ROW_PANELS * x.panel
        p += ROW_PANELS
    while p < n_panels:
        forward_row(1, depth, weight, step, bias, x, a + p * PANEL)
        x.data += x.panel
        p += 1


cdef void forward_deep(
    bint in_place, Py_ssize_t depth, const real* weight, const real* bias, const Features* inputs, real* a,
    Py_ssize_t n_panels,
) noexcept nogil:
    """`forward_block` with interleaved sums (gemm/sums.pxi): some panels at a time, so that their sums stay in the L1."""
    cdef real chain[SINGLE_PANELS * PANEL]
    cdef real* target
    cdef double totals[SINGLE_PANELS * PANEL]
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0, i, j, k, count, stop
    x.feature = SUM_CHAINS * inputs.feature
    while p < n_panels:
        count = minimum(SINGLE_PANELS, n_panels - p)
        k = 0
        while k < depth:
            stop = minimum(k + INTERLEAVED_BLOCK, depth)
            for j in range(minimum(SUM_CHAINS, stop - k)):
                x.data = inputs.data + p * inputs.panel + (k + j) * inputs.feature
                target = a
                if j > 0:
                    target = chain
                forward_block(
                    in_place, ceil_div(stop - k - j, SUM_CHAINS), weight + k + j, SUM_CHAINS, bias if k + j == 0 else NULL,
                    &x, target, count)
                if j > 0:
                    for i in range(count * PANEL):
                        a[i] += chain[i]
            if stop < depth:
                add_block(a, count * PANEL, k == 0, totals)
            k = stop
        if depth > INTERLEAVED_BLOCK:
            round_totals(totals, a, count * PANEL, a)
        a += count * PANEL
        p += count


cdef void dense_forward(
    Layer* layer, const real* weight, const real* bias, const Features* inputs, real* a, Py_ssize_t n_panels, real* derivatives,
) noexcept nogil:
    """a = f(W x + b); bias may be NULL. inputs: a tile, or perhaps X in place if there is a single output. derivatives: f',
    unless that is NULL."""
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0, q, i = 0, n_in = layer.n_in, rows, n
    cdef bint in_place, far = weights_exceed_l2(layer.n_out, n_in)
    cdef Left left
    cdef Output out
    if layer.n_out == 1:
        in_place = x.panel < n_in * PANEL
        if n_in < INTERLEAVED_DEPTH:
            forward_block(in_place, n_in, weight, 1, bias, inputs, a, n_panels)
        else:
            forward_deep(in_place, n_in, weight, bias, inputs, a, n_panels)
        if layer.activation != IDENTITY:
            activate_layer(layer, a, n_panels * PANEL, derivatives)
        return
    rows = weight_rows(layer.n_out, n_in)
    left = Left(weight, n_in, 1)
    out.row = PANEL
    out.panel = layer.n_out * PANEL
    out.bias = bias
    out.epilogue = STORE
    out.activation = 0
    while i < layer.n_out:
        rows = minimum(rows, layer.n_out - i)
        p = 0
        while p < n_panels:
            n = panels_together(n_panels - p, n_in, INTERLEAVED_BLOCK)
            out.data = a + (p * layer.n_out + i) * PANEL
            out.columns = n * PANEL
            forward_panel(rows, n_in, far and p == 0, &left, Right(x.data + p * x.panel, PANEL, x.panel), &out)
            for q in range(n):
                activate_layer(layer, out.data, rows * PANEL, NULL if derivatives == NULL else derivatives + (out.data - a))
                out.data += out.panel
            p += n
        left.data += rows * n_in
        if bias != NULL:
            out.bias += rows
        i += rows
