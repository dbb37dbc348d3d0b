"""One dense layer a = f(W x + b) on one tile of examples: the tile, and forward. Backward: backward.pxi.

A *tile* is some panels of examples. A panel holds PANEL examples in its lanes, feature after feature:

    tile[(panel * n_features + feature) * PANEL + lane]

so each panel is the packed right factor of the next product, and one vector operation serves LANES
examples. Where the first layer has a single output, X itself is read in place of a tile (see Features).
A panel that is not full repeats the last example in its spare lanes: they compute what a real example
computes, never a stray infinity; the loss gives them the weight 0.
"""


ctypedef long long int64


# The fields are those of the rows of _engine.plan.LAYER_TABLE.
cdef struct Layer:
    int64 n_in
    int64 n_out
    int64 activation
    int64 weight            # where W and b start in the flat parameters; b: -1 if there is none
    int64 bias
    int64 transposed        # which way the gradient of W is summed


cdef struct Features:
    # What a layer sees: feature i of panel p is PANEL numbers at data + i * feature + p * panel.
    # A tile, or X as it lies, where its examples are side by side.
    const real* data
    Py_ssize_t feature
    Py_ssize_t panel
    Py_ssize_t ahead        # from these examples to those of the next tile, which are asked for; 0: not known


cdef inline Features of_tile(const real* tile, Py_ssize_t n_features) noexcept nogil:
    return Features(tile, PANEL, n_features * PANEL, 0)


cdef inline real* at(real* buffer, int64 place) noexcept nogil:
    """A place in a flat buffer; NULL for a bias that is not there."""
    if place < 0:
        return NULL
    return buffer + place


# ---- between arrays from outside and tiles -----------------------------------------------------------

cdef enum:
    PACKED_FEATURES = 128       # at a time, which the L1 holds of a panel: a sixth of a shuffled step of 784 features


cdef inline Py_ssize_t example_at(const Py_ssize_t* order, Py_ssize_t place) noexcept nogil:
    return place if order == NULL else order[place]


cdef void pack_tile(
    Matrix x, const Py_ssize_t* order, Py_ssize_t first, Py_ssize_t count, real* tile,
) noexcept nogil:
    """Examples (columns) first ... first + count of x, taken through `order` if there is one.

    What is left of the last panel is filled up with the last example.
    """
    cdef Py_ssize_t p = 0, start, stop, lane, v, feature, width, whole = count // PANEL, n = x.rows
    cdef const char* column
    cdef real* place
    if order == NULL and x.column == sizeof(real):
        # Feature by feature: memory likes a row read on for the whole tile better than rows in turn. The next
        # tile is prefetched: 2 % of a step of (8, 32, 10^5).
        if whole > 0:
            for feature in range(n):
                column = x.data + first * x.column + feature * x.row
                place = tile + feature * PANEL
                for p in range(whole):
                    for v in range(VECTORS):
                        store(place + p * n * PANEL + v * LANES, load(<const real*>column + p * PANEL + v * LANES))
                        prefetch(2, <const real*>column + (whole + p) * PANEL + v * LANES)
        width = count % PANEL
        if width > 0:
            place = tile + whole * n * PANEL
            column = x.data + (first + count - 1) * x.column
            for feature in range(n):
                for v in range(VECTORS):
                    store(place + feature * PANEL + v * LANES, splat(load_anywhere(column + feature * x.row)))
        if width > 1:
            column = x.data + (first + whole * PANEL) * x.column
            for feature in range(n):
                copy(column + feature * x.row, width - 1, place + feature * PANEL)
        return
    while p < panels(count):
        place = tile + p * n * PANEL
        width = smaller(PANEL, count - p * PANEL)
        start = 0
        while start < n:
            stop = smaller(n, start + PACKED_FEATURES)
            if width < PANEL:
                column = x.data + example_at(order, first + count - 1) * x.column
                for feature in range(start, stop):
                    for v in range(VECTORS):
                        store(place + feature * PANEL + v * LANES, splat(load_anywhere(column + feature * x.row)))
            for lane in range(width):
                column = x.data + example_at(order, first + p * PANEL + lane) * x.column
                for feature in range(start, stop):
                    place[feature * PANEL + lane] = load_anywhere(column + feature * x.row)
            start = stop
        p += 1


cdef void unpack_tile(const real* tile, Matrix out, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Columns first ... first + count of out from a tile."""
    cdef Py_ssize_t p, lane, feature, width, n = out.rows
    cdef bint by_rows = lies_by_rows(out)
    cdef char* place
    for p in range(panels(count)):
        width = smaller(PANEL, count - p * PANEL)
        for feature in range(n):
            place = out.data + (first + p * PANEL) * out.column + feature * out.row
            if by_rows:
                copy(<const char*>(tile + feature * PANEL), width, <real*>place)
                continue
            for lane in range(width):
                store_anywhere(place + lane * out.column, tile[feature * PANEL + lane])
        tile += n * PANEL


# ---- forward -----------------------------------------------------------------------------------------

cdef enum:
    ROW_PANELS = 4
    SINGLE_PANELS = 64              # whose totals of a single output, 16 KiB at most, stay in the L1
    WEIGHT_BLOCK = 128 * 1024       # bytes of W that all panels of a tile pass by, so that it comes from the L2


cdef inline Py_ssize_t weight_rows(Py_ssize_t n_rows, Py_ssize_t depth) noexcept nogil:
    """How many rows of W make a block: whole micro-tiles, at least one."""
    cdef Py_ssize_t micro_tiles = WEIGHT_BLOCK // (ROWS * depth * <Py_ssize_t>sizeof(real))
    return smaller(n_rows, ROWS * micro_tiles if micro_tiles > 1 else ROWS)


cdef inline void forward_row(
    const int n_panels, Py_ssize_t depth, const real* weight, const real* bias, Features x, real* a,
) noexcept nogil:
    """a = w x + b for a single output and n_panels panels: one row alone has too few sums to hide the
    latency of its additions, several panels of it have enough."""
    cdef vreal sums[ROW_PANELS][VECTORS]
    cdef vreal w
    cdef int p, v
    cdef Py_ssize_t k
    for p in range(n_panels):
        for v in range(VECTORS):
            sums[p][v] = splat(0) if bias == NULL else splat(bias[0])
    for k in range(depth):
        w = splat(weight[k])
        for p in range(n_panels):
            for v in range(VECTORS):
                sums[p][v] = multiply_add(w, load(x.data + p * x.panel + k * x.feature + v * LANES), sums[p][v])
    for p in range(n_panels):
        for v in range(VECTORS):
            store(a + p * PANEL + v * LANES, sums[p][v])


cdef void forward_long(
    Py_ssize_t depth, const real* weight, const real* bias, const Features* x, real* a, Py_ssize_t n_panels,
) noexcept nogil:
    """The same, in the same order, of X in place: some features at a time are read on for the whole tile, as memory
    likes it."""
    cdef real zero = 0
    cdef const real* start = bias
    cdef Long rows = Long(x.data, x.feature, x.ahead)
    cdef Left left
    cdef Py_ssize_t k = 0
    if bias == NULL:
        start = &zero
    while k < depth:
        rows.data = x.data + k * x.feature
        left = Left(weight + k, 0, 1)
        add_long_rows(1, smaller(LONG_ROWS, depth - k), &left, &rows, start, a, 0, n_panels * PANEL)
        start = NULL
        k += LONG_ROWS


cdef inline void forward_block(
    bint in_place, Py_ssize_t depth, const real* weight, const real* bias, const Features* inputs, real* a, Py_ssize_t n_panels,
) noexcept nogil:
    """The same of any number of panels, of a tile or of X in place, all features one after another."""
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0
    if in_place:
        forward_long(depth, weight, bias, inputs, a, n_panels)
        return
    while p + ROW_PANELS <= n_panels:
        forward_row(ROW_PANELS, depth, weight, bias, x, a + p * PANEL)
        x.data += ROW_PANELS * x.panel
        p += ROW_PANELS
    while p < n_panels:
        forward_row(1, depth, weight, bias, x, a + p * PANEL)
        x.data += x.panel
        p += 1


cdef void forward_deep(
    bint in_place, Py_ssize_t depth, const real* weight, const real* bias, const Features* inputs, real* a,
    Py_ssize_t n_panels,
) noexcept nogil:
    """The same of more than one block: some panels at a time, whose totals stay in the L1."""
    cdef double totals[SINGLE_PANELS * PANEL]
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0, k, count
    while p < n_panels:
        count = smaller(SINGLE_PANELS, n_panels - p)
        k = 0
        while k < depth:
            x.data = inputs.data + p * x.panel + k * x.feature
            forward_block(
                in_place, smaller(SUM_BLOCK, depth - k), weight + k, bias if k == 0 else NULL, &x, a, count)
            if k + SUM_BLOCK < depth:
                add_block(a, count * PANEL, k == 0, totals)
            k += SUM_BLOCK
        round_totals(totals, a, count * PANEL, a)
        a += count * PANEL
        p += count


cdef void dense_forward(
    Layer* layer, const real* weight, const real* bias, const Features* inputs, real* a, Py_ssize_t n_panels,
) noexcept nogil:
    """a = f(W x + b); bias may be NULL. x is a tile unless there is a single output."""
    cdef Features x = inputs[0]
    cdef Py_ssize_t p = 0, i = 0, n_in = layer.n_in, rows
    cdef bint in_place
    cdef Left left
    cdef Output out
    if layer.n_out == 1:
        in_place = x.panel < n_in * PANEL
        if n_in <= SUM_BLOCK:
            forward_block(in_place, n_in, weight, bias, inputs, a, n_panels)
        else:
            forward_deep(in_place, n_in, weight, bias, inputs, a, n_panels)
        if layer.activation != IDENTITY:
            activate(<int>layer.activation, a, a, n_panels * PANEL)
        return
    rows = weight_rows(layer.n_out, n_in)
    left = Left(weight, n_in, 1)
    out.row = PANEL
    out.columns = PANEL
    out.bias = bias
    out.finish = STORE
    out.activation = 0
    while i < layer.n_out:
        rows = smaller(rows, layer.n_out - i)
        for p in range(n_panels):
            out.data = a + (p * layer.n_out + i) * PANEL
            layer_panel(rows, n_in, &left, Right(x.data + p * x.panel, PANEL), &out)
            activate(<int>layer.activation, out.data, out.data, rows * PANEL)
        left.data += rows * n_in
        if bias != NULL:
            out.bias += rows
        i += rows
