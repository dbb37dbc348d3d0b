"""A few examples through the layers: features in the lanes.

With examples in lanes one example costs what a panel of them costs. Here a batch is a row-major matrix (examples,
features), and the lanes of a vector are features: outputs of narrow layers (gemm/columns.pxi), inputs of wide ones
(gemm/dots.pxi, gemm/pairs.pxi), of packed weights always outputs (gemm/packed.pxi). With AVX-512 and examples for most lanes
of one vector, a product that does not take them in pairs takes them to its lanes. Backward, W and the examples are row-major
as they are needed: the gradient of W is a sum of outer products, the delta below a sum of rows of W.

A panel costs the same for any number of examples, 32 cycles for 32 elements of W on Zen 4 (float32), a few examples at most 4
each and what reading W costs. `_engine.plan` chooses: up to a quarter or a half of a panel. Predictions have the same bits
either way.
"""

cdef struct Rows:
    # Examples as rows of contiguous features.
    const real* data
    Py_ssize_t row


cdef inline Py_ssize_t whole_panels(Py_ssize_t n) noexcept nogil:
    return ceil_div(n, PANEL) * PANEL


cdef inline bint squares_pay(Matrix m, Py_ssize_t count) noexcept nogil:
    """Whether examples are copied in squares of LANES features by LANES examples: those of a feature are contiguous."""
    return m.column == sizeof(real) and m.rows >= LANES and 4 * count >= LANES


cdef enum:
    EXAMPLES_AHEAD = 4 * LANES       # examples; prefetching them is 0.7 to 0.8 of the time of copying an X from memory


cdef void pack_examples(Matrix m, const Py_ssize_t* order, Py_ssize_t first, Py_ssize_t count, real* rows) noexcept nogil:
    """rows (count, m.rows) = columns first ... first + count of m, taken through `order` if there is one."""
    cdef vreal square[LANES]
    cdef Py_ssize_t e = 0, i, lane, width
    cdef const char* column
    if order == NULL and squares_pay(m, count):
        while e < count:
            width = minimum(LANES, count - e)
            i = 0
            while i < m.rows:
                i = minimum(i, m.rows - LANES)      # the last square overlaps the one before
                column = m.data + (first + e) * m.column + i * m.row
                for lane in range(LANES):
                    square[lane] = load_first(<const real*>(column + lane * m.row), width)
                    if e + EXAMPLES_AHEAD < count:
                        prefetch(2, <const real*>(column + lane * m.row) + EXAMPLES_AHEAD)
                transpose(LANES, square)
                for lane in range(width):
                    store(rows + (e + lane) * m.rows + i, square[lane])
                i += LANES
            e += width
        return
    for e in range(count):
        column = m.data + example_at(order, first + e) * m.column
        for i in range(m.rows):
            rows[e * m.rows + i] = load_unaligned(column + i * m.row)


cdef void unpack_examples(const real* rows, Py_ssize_t row, Matrix m, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Columns first ... first + count of m = rows (count, m.rows), `row` apart."""
    cdef vreal square[LANES]
    cdef const real* examples[LANES]
    cdef Py_ssize_t e = 0, i, lane, width
    cdef char* column
    if squares_pay(m, count):
        while e < count:
            width = minimum(LANES, count - e)
            i = 0
            while i < m.rows:
                i = minimum(i, m.rows - LANES)
                column = m.data + (first + e) * m.column + i * m.row
                for lane in range(LANES):
                    examples[lane] = rows + (e + minimum(lane, width - 1)) * row + i
                load_transposed(examples, square)
                for lane in range(LANES):
                    store_first(<real*>(column + lane * m.row), square[lane], width)
                i += LANES
            e += width
        return
    for e in range(count):
        for i in range(m.rows):
            store_unaligned(m.data + (first + e) * m.column + i * m.row, rows[e * row + i])


cdef real* read_examples(
    Network* network, Py_ssize_t first, Py_ssize_t count, real* scratch, Rows* x,
) noexcept nogil:
    """x: where X is read, in place or in scratch. Returns what is behind the room for it."""
    # In place not if a vector would reach past the last feature of the last example.
    if (
        network.order == NULL and network.x.row == sizeof(real) and network.x.rows >= LANES
        and is_real_aligned(network.x)
    ):
        x.row = network.x.column // <Py_ssize_t>sizeof(real)
        x.data = <const real*>network.x.data + first * x.row
    else:
        if not network.tile_is_packed:
            pack_examples(network.x, network.order, first, count, scratch)
        x[0] = Rows(scratch, network.x.rows)
    return scratch + whole_panels(count * network.x.rows)


cdef enum:
    NARROW_OUTPUTS = 12     # least outputs that amortize the packing of a narrow panel


cdef inline bint narrow_pays(Py_ssize_t n, Layer* layer) noexcept nogil:
    """Whether examples go to the lanes of one vector: 0.6 to 0.95 of the time of columns and dots."""
    cdef Py_ssize_t least = 5 * LANES // 8 if layer.n_in < INTERLEAVED_DEPTH else 3 * LANES // 4
    return COLUMN < LANES and least <= n <= LANES and layer.n_out >= NARROW_OUTPUTS and layer.n_in >= LANES


cdef void multiply_narrow(
    Layer* layer, const real* weight, const real* bias, const real* x, Py_ssize_t x_row, real* a, Py_ssize_t n, real* narrow,
) noexcept nogil:
    """a (n, n_out) = W x + b by a panel that is one vector wide."""
    cdef Left left = Left(weight, layer.n_in, 1)
    cdef Output out = Output(narrow + layer.n_in * LANES, LANES, 0, LANES, bias, STORE, 0)
    pack_squares(1, Matrix(<char*>x, layer.n_in, n, sizeof(real), x_row * sizeof(real)), NULL, 0, n, narrow)
    forward_panel(layer.n_out, layer.n_in, weights_exceed_l2(layer.n_out, layer.n_in), &left, Right(narrow, LANES, 0), &out)
    pack_examples(Matrix(<char*>out.data, layer.n_out, n, LANES * sizeof(real), sizeof(real)), NULL, 0, n, a)


cdef void few_forward(
    Layer* layer, const real* weight, const real* bias, const real* x, Py_ssize_t x_row, real* a, Py_ssize_t n,
    real* narrow, real* derivatives, Interrupt* interrupt, int thread,
) noexcept nogil:
    """a (n, n_out) = f(W x + b) of n examples, rows x_row apart. a has room for whole vectors.

    narrow: see `narrow_scratch`. derivatives: f', unless that is NULL.
    """
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out, e, i
    cdef ColumnProduct columns
    cdef DotProduct dots = DotProduct(n_out, n_in, n, weight, x, x_row, bias, a)
    if pairs_pay(n, n_out, n_in):
        multiply_pairs(&dots, narrow, interrupt, thread)
    elif narrow_pays(n, layer):
        multiply_narrow(layer, weight, bias, x, x_row, a, n, narrow)
    elif n_in >= INTERLEAVED_DEPTH:
        multiply_dots(&dots, interrupt, thread)
    elif n_out >= COLUMN:
        columns = ColumnProduct(weight, n_in, x, x_row, n_in, bias, 1, a, 1, n_out)
        multiply_columns(n_out, n, &columns, interrupt, thread)
    elif n >= COLUMN:       # W and the examples change places
        columns = ColumnProduct(x, x_row, weight, n_in, n_in, bias, 0, a, n_out, 1)
        multiply_columns(n, n_out, &columns, interrupt, thread)
    else:
        for e in range(n):
            scalar_products_of(COLUMN - 1, scalar_products, n_out, weight, x + e * x_row, n_in, bias, a + e * n_out)
    if layer.activation != IDENTITY:
        for i in range(n * n_out, ceil_div(n * n_out, LANES) * LANES):
            a[i] = 0
        activate_layer(layer, a, ceil_div(n * n_out, LANES) * LANES, derivatives)


cdef real* narrow_scratch(Network* network, Py_ssize_t count, real* scratch) noexcept nogil:
    """Room for one product: the inputs, padded, and the outputs of a layer for LANES examples. Deltas come there later."""
    cdef Py_ssize_t i
    for i in range(network.n_layers):
        scratch += count * whole_panels(network.layers[i].n_in)
    return scratch + 2 * count * whole_panels(network.layers[network.n_layers - 1].n_out)


cdef real* few_forward_pass(
    Network* network, Py_ssize_t first, Py_ssize_t count, real* scratch, bint wanted, Rows* x,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """The activations follow each other in scratch, after room for x; returns the last. wanted: derivatives are stored."""
    cdef Py_ssize_t i
    cdef real* narrow = narrow_scratch(network, count, scratch)
    cdef real* a = read_examples(network, first, count, scratch, x)
    cdef Rows below = x[0]
    for i in range(network.n_layers):
        if i > 0:
            a += whole_panels(count * network.layers[i].n_in)
        if network.outputs.data != NULL:
            pack_examples(network.outputs, network.order, first, count, a)
        else:
            few_forward(
                &network.layers[i], weight_of(network, i), bias_of(network, i), below.data, below.row, a, count,
                narrow, derivatives_of(&network.layers[i], scratch) if wanted else NULL, interrupt, thread)
            if network.layers[i].dropped:
                drop_rows(
                    &network.dropout, &network.layers[i], first - network.dropout.first, count, a,
                    derivatives_of(&network.layers[i], scratch) if wanted else NULL)
        below = Rows(a, network.layers[i].n_out)
    return a


cdef inline bint packed_is_slower(Py_ssize_t n, Layer* layer) noexcept nogil:
    """Whether a layer is faster from its parameters than from packed weights."""
    if pairs_pay(n, layer.n_out, layer.n_in):
        return True
    # A few dot products read the weights faster from memory: their rows are several streams.
    return n <= DOT_TOGETHER and comes_from_memory(layer.n_out, layer.n_in)


cdef void few_predict(
    Network* network, const real* packed, int link, Matrix out, real* scratch, Interrupt* interrupt, int thread,
) noexcept nogil:
    """The prediction for all of X. packed: the weights as `pack_weight` packs them; NULL: the parameters are read.

    link: the outputs become probabilities.
    """
    cdef Py_ssize_t n = network.x.columns, i, width
    cdef Rows x
    cdef Layer* layer
    cdef PackedProduct product
    cdef real* narrow = narrow_scratch(network, n, scratch)
    cdef real* a = read_examples(network, 0, n, scratch, &x)
    for i in range(network.n_layers):
        layer = &network.layers[i]
        width = layer.n_out
        if packed == NULL or packed_is_slower(n, layer):
            few_forward(layer, weight_of(network, i), bias_of(network, i), x.data, x.row, a, n, narrow, NULL, interrupt, thread)
        else:
            width = panels(layer.n_out) * PANEL
            product = PackedProduct(packed, layer.n_in, layer.n_out, x.data, x.row, a, width)
            multiply_packed(&product, n, interrupt, thread)
            activate_layer(layer, a, n * width, NULL)
        if layer.dropped:
            drop_rows(&network.dropout, layer, 0, n, a, NULL)
        if packed != NULL:
            packed += packed_size(layer.n_out, layer.n_in)
        x = Rows(a, width)
        a += whole_panels(n * width)
    if link == 0:
        unpack_examples(x.data, x.row, out, 0, n)
        return
    pack_tile(Matrix(<char*>x.data, out.rows, n, sizeof(real), x.row * sizeof(real)), NULL, 0, n, a)
    to_probabilities(link, out.rows, panels(n), a)
    unpack_tile(a, out, 0, n)


# ---- backward ------------------------------------------------------------------------------------------

cdef struct FewPass:
    # The forward and backward pass of a batch: what the gradients are computed from.
    Py_ssize_t count
    Rows lowest             # the input of the first layer
    real* activations       # room for the input of each layer, whole panels one after another; the first layer's may be empty
    real* deltas            # the delta below each layer, in the same places
    real* top               # the delta of the last layer


cdef inline Rows input_of(FewPass* p, Py_ssize_t i, Layer* layer, Py_ssize_t place) noexcept nogil:
    """The input of layer i."""
    return p.lowest if i == 0 else Rows(p.activations + place, layer.n_in)


cdef inline const real* delta_of(FewPass* p, Network* network, Py_ssize_t i, Py_ssize_t place) noexcept nogil:
    """The delta of layer i: that below the next layer."""
    return p.top if i == network.n_layers - 1 else p.deltas + place + whole_panels(p.count * network.layers[i].n_in)


cdef enum:
    GRADIENT_VECTORS = 4        # of a row of the gradient, together


cdef inline void gradient_sums(
    const int vectors, const real* delta, Py_ssize_t n_out, const real* x, Py_ssize_t x_row, Py_ssize_t count, vreal* sums,
) noexcept nogil:
    """Some vectors of a row of the gradient of W: the sums over examples of delta x."""
    cdef vreal d = splat(delta[0])
    cdef Py_ssize_t e
    cdef int v
    for v in range(vectors):
        sums[v] = d * load(x + v * LANES)
    for e in range(1, count):
        d = splat(delta[e * n_out])
        for v in range(vectors):
            sums[v] = multiply_add(d, load(x + e * x_row + v * LANES), sums[v])


cdef inline void gradient_vectors(
    const int vectors, const real* delta, Py_ssize_t n_out, const real* x, Py_ssize_t x_row, Py_ssize_t count, real* gradient,
    Py_ssize_t last,
) noexcept nogil:
    """last: elements of the last vector."""
    cdef vreal sums[GRADIENT_VECTORS]
    cdef int v
    gradient_sums(vectors, delta, n_out, x, x_row, count, sums)
    for v in range(vectors):
        if v < vectors - 1 or last == LANES:
            store(gradient + v * LANES, sums[v])
        else:
            store_first(gradient + v * LANES, sums[v], last)


cdef void few_weight_gradient(
    const real* delta, Py_ssize_t n_out, Rows x, Py_ssize_t n_in, Py_ssize_t count, real* gradient,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """gradient (n_out, n_in) = delta^T x. The last vector of a row overlaps the one before; of a short row it reaches into the
    next, which is written after it."""
    cdef Py_ssize_t o, j
    for o in range(n_out):
        if o % 16 == 0 and check_interrupt(interrupt, thread, 16 * n_in * count):
            return
        if n_in < LANES:
            gradient_vectors(
                1, delta + o, n_out, x.data, x.row, count, gradient, LANES if (n_out - o) * n_in >= LANES else n_in)
        else:
            j = 0
            while j + GRADIENT_VECTORS * LANES <= n_in:
                gradient_vectors(GRADIENT_VECTORS, delta + o, n_out, x.data + j, x.row, count, gradient + j, LANES)
                j += GRADIENT_VECTORS * LANES
            while j < n_in:
                j = minimum(j, n_in - LANES)
                gradient_vectors(1, delta + o, n_out, x.data + j, x.row, count, gradient + j, LANES)
                j += LANES
        gradient += n_in


cdef void few_bias_gradient(const real* delta, Py_ssize_t n_out, Py_ssize_t count, real* gradient) noexcept nogil:
    cdef Py_ssize_t e, o
    for o in range(n_out):
        gradient[o] = delta[o]
    for e in range(1, count):
        for o in range(n_out):
            gradient[o] += delta[e * n_out + o]


cdef void few_delta_below(
    Layer* layer, const real* weight, const real* delta, Py_ssize_t count, real* below, double* totals,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """below (count, n_in) = delta W, the sum over outputs in order."""
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out, o = 0, e, n, start = 0, rows
    cdef real zero = 0
    cdef Left left
    cdef LongRows w
    while o < n_out and not check_interrupt(interrupt, thread, LONG_ROWS * n_in * count):
        rows = minimum(LONG_ROWS, minimum(start + SUM_BLOCK, n_out) - o)
        w = LongRows(weight + o * n_in, n_in, 0)
        e = 0
        while e < count:
            n = minimum(LONG_VECTORS, count - e)
            left = Left(delta + e * n_out + o, n_out, 1)
            add_long_rows(n, rows, &left, &w, &zero if o == start else NULL, below + e * n_in, n_in, n_in)
            e += n
        o += rows
        if o == start + SUM_BLOCK and o < n_out:
            add_block(below, count * n_in, start == 0, totals)
            start = o
    if start > 0:
        round_totals(totals, below, count * n_in, below)


cdef void times_derivatives(const Layer* layer, real* a, real* delta, Py_ssize_t n, real* scratch) noexcept nogil:
    """delta *= f' of a layer's activations a, whole vectors. If that is OTHER, a is still needed: for the gradient of W."""
    cdef Py_ssize_t i = 0
    cdef vreal slope
    if layer.derivatives >= 0:
        multiply_by(delta, scratch + layer.derivatives, ceil_div(n, LANES) * LANES)
        return
    while i < n:
        if layer.activation == OTHER:
            differentiate_function(<int>layer.function, <real>layer.parameter, a + i, <real*>&slope, LANES)
            store(delta + i, load(delta + i) * slope)
        else:
            store(delta + i, times_derivative(<int>layer.activation, load(delta + i), load(a + i)))
        i += LANES


cdef double few_losses(
    Network* network, Py_ssize_t first, Py_ssize_t count, real weight, real* top, real* y, real* panel,
) noexcept nogil:
    """The loss of a few examples; their outputs `top` (count, n_outputs) become deltas. y: room for targets. panel: for panels
    of outputs, targets and weights."""
    cdef Layer* layer = &network.layers[network.n_layers - 1]
    cdef int activation = direct_activation(layer)
    cdef Py_ssize_t n = layer.n_out
    cdef Py_ssize_t width = panels(count) * PANEL
    cdef Matrix rows = Matrix(<char*>top, n, count, sizeof(real), n * sizeof(real))
    cdef OutputTile outputs = OutputTile(top, 1, count * n, activation, y, 1, NULL)
    cdef double loss
    if network.y_is_gradient or (network.loss.kind < SOFTMAX_CROSS_ENTROPY and network.weights.data == NULL):
        if not network.tile_is_packed:
            pack_examples(network.y, network.order, first, count, y)
        # As panels of a single output: rows follow each other.
        if network.y_is_gradient:
            given_stage(activation, 1, count * n, top, y)
            return 0
        return loss_stage(&network.loss, &outputs, weight)
    outputs = OutputTile(panel, n, count, activation, panel + n * width, network.y.rows, NULL)
    pack_tile(rows, NULL, 0, count, panel)
    pack_tile(network.y, network.order, first, count, panel + n * width)
    if network.weights.data != NULL:
        outputs.weights = panel + 2 * n * width
        pack_tile(network.weights, network.order, first, count, panel + 2 * n * width)
    loss = loss_stage(&network.loss, &outputs, weight)
    unpack_tile(panel, rows, 0, count)
    return loss


cdef double few_deltas(
    Network* network, Py_ssize_t first, Py_ssize_t count, real weight, real* scratch, bint wanted, FewPass* p,
    Interrupt* interrupt, int thread,
) noexcept nogil:
    """The forward and backward pass of a batch of a few examples; returns the sum of the loss before `weight`.

    wanted: the deltas, of all layers, and the input gradient; else only the loss. If it is interrupted, they mean nothing.
    """
    cdef Py_ssize_t i = network.n_layers - 1, place
    cdef Layer* layer = &network.layers[i]
    cdef real* top = few_forward_pass(network, first, count, scratch, wanted, &p.lowest, interrupt, thread)
    cdef real* y = top + whole_panels(count * layer.n_out)
    cdef double* totals
    cdef const real* delta = top
    cdef real* below
    cdef double loss = 0
    p.count = count
    p.activations = scratch
    p.top = top
    p.deltas = y + whole_panels(count * layer.n_out)
    place = top - scratch
    totals = <double*>(p.deltas + place)
    loss = few_losses(network, first, count, weight, top, y, p.deltas)
    if not wanted:
        return loss
    if layer.backward == OTHER:
        multiply_by(top, scratch + layer.derivatives, ceil_div(count * layer.n_out, LANES) * LANES)
    while (i > 0 or network.input_gradient.data != NULL) and i >= 0 and not is_raised(&interrupt.stop):
        layer = &network.layers[i]
        place -= whole_panels(count * layer.n_in)
        below = p.deltas + place
        few_delta_below(layer, weight_of(network, i), delta, count, below, totals, interrupt, thread)
        if i > 0:
            times_derivatives(&network.layers[i - 1], scratch + place, below, count * layer.n_in, scratch)
        else:
            unpack_examples(below, layer.n_in, network.input_gradient, first, count)
        delta = below
        i -= 1
    return loss


cdef void few_gradient(Network* network, FewPass* p, real* gradient, Interrupt* interrupt, int thread) noexcept nogil:
    """The gradient of all layers, from their inputs and deltas."""
    cdef Py_ssize_t i, place = 0
    cdef Layer* layer
    cdef const real* delta
    for i in range(network.n_layers):
        layer = &network.layers[i]
        delta = delta_of(p, network, i, place)
        few_weight_gradient(
            delta, layer.n_out, input_of(p, i, layer, place), layer.n_in, p.count, gradient + layer.weight, interrupt, thread)
        if layer.bias >= 0:
            few_bias_gradient(delta, layer.n_out, p.count, gradient + layer.bias)
        place += whole_panels(p.count * layer.n_in)
