"""Tiles: the layout of some examples that go through the layers together, and packing them.

A *tile* consists of panels. A panel holds PANEL examples, one in each lane, feature after feature:

    tile[(panel * n_features + feature) * PANEL + lane]

So each panel is already the packed right factor of the next product, and one vector operation computes LANES examples. If the
first layer has a single output, X may be read in place of a tile (see Features). The padding lanes of a panel that is not
full repeat the last example, so that they never produce an infinity of their own; the loss and its gradient are 0 there.
"""

ctypedef long long int64


# The fields have the order of the columns of _engine.plan.LAYER_TABLE.
cdef struct Layer:
    int64 n_in
    int64 n_out
    int64 activation
    int64 weight            # offsets of W and b in the flat parameters; b: -1 if there is none
    int64 bias
    int64 transposed        # the gradient of W is summed 1: transposed, 0: lane-wise (weight_gradient.pxi)
    int64 function          # if the activation is OTHER: see `Function`
    double parameter        # its parameter
    int64 derivatives       # its derivatives are stored from this element of the scratch memory on; -1: not stored
    int64 backward          # the activation in the backward pass: OTHER, too, if a mask has multiplied it
    int64 dropped           # in training a unit is dropped with probability dropped / 2^16; 0: never
    int64 mask              # number of this layer among those with dropout
    int64 scale             # offset of s in the flat parameters, if x * s is its input; -1: x is
    int64 x_transposed      # if transposed: its x^T is stored from this element of the scratch memory on
    int64 deferred          # the gradient of W need not be stored: see training/fused_update.pxi
    int64 columns           # some columns of W are packed from this element of the scratch memory on; -1: they are not
    # These are 128 bytes: the place of a layer is a shift, 4 % of the smallest step.


cdef struct Features:
    # The input of a layer: feature i of panel p is PANEL values at data + i * feature + p * panel.
    # It is a tile, or X in place if its examples are contiguous.
    const real* data
    Py_ssize_t feature
    Py_ssize_t panel
    Py_ssize_t ahead        # prefetch distance to the examples of the next tile; 0: no prefetch


cdef inline Features of_tile(const real* tile, Py_ssize_t n_features) noexcept nogil:
    return Features(tile, PANEL, n_features * PANEL, 0)


cdef inline real* at(real* buffer, int64 place) noexcept nogil:
    """A pointer to an offset in a flat buffer; NULL if the offset is negative (no bias)."""
    if place < 0:
        return NULL
    return buffer + place


cdef struct Dropout:
    # What the masks of a step depend on, see dropout.pxi.
    uint64_t seed
    int64 step              # -1: no masks
    Py_ssize_t first        # the first example of the batch


cdef inline real dropout_scale(const Layer* layer) noexcept nogil:
    return <real>(65536. / (65536 - layer.dropped))


cdef enum LossKind:
    MEAN_SQUARED_ERROR
    HUBER
    QUANTILE
    POISSON
    BINARY_CROSS_ENTROPY
    SOFTMAX_CROSS_ENTROPY   # from here on of all outputs of an example together
    MULTICLASS_HINGE
    N_LOSSES

LOSSES = (      # their names, in this order
    "mean_squared_error", "huber", "quantile", "poisson", "binary_cross_entropy", "softmax_cross_entropy", "multiclass_hinge")


cdef struct Loss:
    int kind
    real parameter          # delta, quantile, 1: with y log y - y, label smoothing, margin


cdef struct Network:
    # What the tiles of one batch share.
    Layer* layers
    Py_ssize_t n_layers
    const real* parameters
    Py_ssize_t n_parameters
    Matrix x
    Matrix y                    # targets, or class numbers (1, m), or the gradient with respect to the outputs
    bint y_is_gradient          # then there is no loss
    Matrix weights              # of the examples (1, m); data NULL: 1
    Loss loss
    Matrix outputs              # data NULL: computed by the forward pass; else given by the caller
    Matrix input_gradient       # data NULL: not wanted
    const Py_ssize_t* order     # NULL: in the order of X
    Py_ssize_t tile             # examples in a tile, a multiple of PANEL
    Py_ssize_t block            # examples in a block, a multiple of tile
    bint few                    # a few examples: features in lanes (few_examples.pxi)
    bint tile_is_packed         # the tile is the same as in the previous step: x, x^T and y are still in scratch
    bint defers                 # the gradients of deferred layers are left to the update
    Dropout dropout


cdef inline const real* weight_of(Network* network, Py_ssize_t layer) noexcept nogil:
    return network.parameters + network.layers[layer].weight


cdef inline const real* bias_of(Network* network, Py_ssize_t layer) noexcept nogil:
    return at(<real*>network.parameters, network.layers[layer].bias)


cdef inline int direct_activation(const Layer* layer) noexcept nogil:
    """The activation whose derivative the loss stage takes; that of an OTHER is multiplied by afterwards."""
    return IDENTITY if layer.backward == OTHER else <int>layer.backward


cdef inline void activate_layer(const Layer* layer, real* a, Py_ssize_t n, real* derivatives) noexcept nogil:
    """a = f(a), n a multiple of LANES; derivatives: where those of this a are stored if it is an OTHER, or NULL."""
    if layer.activation == OTHER:
        apply_function(<int>layer.function, <real>layer.parameter, a, derivatives, n)
    else:
        activate(<int>layer.activation, a, a, n)


cdef inline real* derivatives_of(const Layer* layer, real* scratch) noexcept nogil:
    return NULL if layer.derivatives < 0 else scratch + layer.derivatives


cdef void multiply_by(real* x, const real* derivatives, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n:
        store(x + i, load(x + i) * load(derivatives + i))
        i += LANES


cdef inline void prefetch_block(const real* place, Py_ssize_t row, Py_ssize_t n_rows, Py_ssize_t count) noexcept nogil:
    """Prefetches `count` elements of some rows."""
    cdef Py_ssize_t i, j
    for i in range(n_rows):
        j = 0
        while j < count:
            prefetch(2, place + j)
            j += LINE // <Py_ssize_t>sizeof(real)
        place += row


# ---- packing and unpacking ---------------------------------------------------------------------------

cdef enum:
    PACKED_FEATURES = 128       # features packed at a time, to stay in the L1: a sixth of a shuffled step of 784 features
    PREFETCHED_FEATURES = 256   # most features of a tile that is prefetched: 784 would cost 2 % of a prediction, 6 % of a step


cdef inline Py_ssize_t example_at(const Py_ssize_t* order, Py_ssize_t place) noexcept nogil:
    return place if order == NULL else order[place]


cdef inline void pack_squares(
    const int vectors, Matrix x, const Py_ssize_t* order, Py_ssize_t first, Py_ssize_t count, real* tile,
) noexcept nogil:
    """`pack_tile` in panels of `vectors` vectors if the features of an example are contiguous: squares of LANES examples by
    LANES features are transposed.

    Half the time of a step of (32, 32, 1) is that of packing one element after another.
    """
    cdef vreal square[LANES]
    cdef const real* examples[LANES]
    cdef const real* rows[LANES]
    cdef Py_ssize_t p, v, lane, feature, n = x.rows, width = vectors * LANES
    cdef real* place
    for p in range(ceil_div(count, width)):
        for v in range(vectors):
            for lane in range(LANES):
                examples[lane] = <const real*>(
                    x.data + example_at(order, first + minimum(p * width + v * LANES + lane, count - 1)) * x.column)
            feature = 0
            if n < LANES:
                for lane in range(LANES):
                    square[lane] = load_first(examples[lane], n)
                transpose(LANES, square)
                for lane in range(n):
                    store(tile + (p * n + lane) * width + v * LANES, square[lane])
                continue
            while feature < n:
                feature = minimum(feature, n - LANES)       # the last square overlaps the one before
                for lane in range(LANES):
                    rows[lane] = examples[lane] + feature
                load_transposed(rows, square)
                place = tile + (p * n + feature) * width + v * LANES
                for lane in range(LANES):
                    store(place + lane * width, square[lane])
                feature += LANES


cdef void pack_tile(
    Matrix x, const Py_ssize_t* order, Py_ssize_t first, Py_ssize_t count, real* tile,
) noexcept nogil:
    """Packs the examples (columns) first ... first + count of x, or of its permutation by `order`, into a tile.

    The rest of the last panel is filled with the last example.
    """
    cdef Py_ssize_t p = 0, start, stop, lane, v, feature, width, whole = count // PANEL, n = x.rows
    cdef const char* column
    cdef real* place
    if order == NULL and x.column == sizeof(real):
        # Feature by feature: a contiguous run for the whole tile is faster than a short run of each row in turn. The next
        # tile is prefetched: 2 % of a step of (8, 32, 10^5), 4 % of (64, 64, 50 000).
        if whole > 0:
            for feature in range(n):
                column = x.data + first * x.column + feature * x.row
                place = tile + feature * PANEL
                for p in range(whole):
                    for v in range(VECTORS):
                        store(place + p * n * PANEL + v * LANES, load(<const real*>column + p * PANEL + v * LANES))
                        if n <= PREFETCHED_FEATURES:
                            prefetch(2, <const real*>column + (whole + p) * PANEL + v * LANES)
        width = count % PANEL
        if width > 0:
            place = tile + whole * n * PANEL
            column = x.data + (first + count - 1) * x.column
            for feature in range(n):
                for v in range(VECTORS):
                    store(place + feature * PANEL + v * LANES, splat(load_unaligned(column + feature * x.row)))
        if width > 1:
            column = x.data + (first + whole * PANEL) * x.column
            for feature in range(n):
                copy(column + feature * x.row, width - 1, place + feature * PANEL)
        return
    if x.row == sizeof(real) and n > 1 and 4 * n >= LANES:
        pack_squares(VECTORS, x, order, first, count, tile)
        return
    while p < panels(count):
        place = tile + p * n * PANEL
        width = minimum(PANEL, count - p * PANEL)
        start = 0
        while start < n:
            stop = minimum(n, start + PACKED_FEATURES)
            if width < PANEL:
                column = x.data + example_at(order, first + count - 1) * x.column
                for feature in range(start, stop):
                    for v in range(VECTORS):
                        store(place + feature * PANEL + v * LANES, splat(load_unaligned(column + feature * x.row)))
            for lane in range(width):
                column = x.data + example_at(order, first + p * PANEL + lane) * x.column
                for feature in range(start, stop):
                    place[feature * PANEL + lane] = load_unaligned(column + feature * x.row)
            start = stop
        p += 1


cdef void unpack_tile(const real* tile, Matrix out, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Copies a tile to the columns first ... first + count of out."""
    cdef Py_ssize_t p, lane, feature, width, n = out.rows
    cdef bint by_rows = is_row_major(out)
    cdef char* place
    for p in range(panels(count)):
        width = minimum(PANEL, count - p * PANEL)
        for feature in range(n):
            place = out.data + (first + p * PANEL) * out.column + feature * out.row
            if by_rows:
                copy(<const char*>(tile + feature * PANEL), width, <real*>place)
                continue
            for lane in range(width):
                store_unaligned(place + lane * out.column, tile[feature * PANEL + lane])
        tile += n * PANEL
