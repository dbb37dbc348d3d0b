"""The walk: tiles of examples go forward through every layer, meet the loss, and come back.

    X ──pack──▶ x ──▶ a1 ──▶ a2 ──▶ ... ──▶ ŷ ──loss──▶ δL ──▶ ... ──▶ δ1 ──▶ (input gradient)
                 └──────┴───── in the core's own cache ─────┘   └─ each adds to the gradient

A tile keeps all its activations in the L2 cache (the plan chooses its size), so Z, A and delta never exist for
the whole batch and X is read from memory once. Which tiles a thread walks, and what becomes of their gradients:
steps.pxi.
"""

cdef struct Walk:
    # What the tiles of one batch share.
    Layer* layers
    Py_ssize_t n_layers
    const real* parameters
    Py_ssize_t n_parameters
    Matrix x
    Matrix y                    # targets; with `outputs`, the gradient on them
    Matrix outputs              # data NULL: walked for; else given, and there is no loss
    Matrix input_gradient       # data NULL: not wanted
    const Py_ssize_t* order     # NULL: as they lie
    Py_ssize_t tile             # examples in a tile, a multiple of PANEL
    Py_ssize_t block            # examples in a block, a multiple of tile
    bint kept                   # the tile is that of the step before: x, x^T and y still lie in scratch


cdef inline const real* weight_of(Walk* walk, Py_ssize_t layer) noexcept nogil:
    return walk.parameters + walk.layers[layer].weight


cdef inline const real* bias_of(Walk* walk, Py_ssize_t layer) noexcept nogil:
    return at(<real*>walk.parameters, walk.layers[layer].bias)


# ---- the loss ----------------------------------------------------------------------------------------

cdef inline vreal squared_error(vreal prediction, vreal y, vreal* total) noexcept nogil:
    """A loss for one vector of outputs: its gradient on the prediction; its value is added to the total."""
    cdef vreal difference = prediction - y
    total[0] = multiply_add(difference, difference, total[0])
    return difference + difference


cdef inline void loss_panel(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y, vreal* total,
) noexcept nogil:
    """`loss_stage` of some outputs of one panel, of which `count` examples are real."""
    cdef vreal gradient, loss
    cdef Py_ssize_t i, place
    cdef int v
    for i in range(n_outputs):
        for v in range(VECTORS):
            place = i * PANEL + v * LANES
            loss = total[v] if count == PANEL else splat(0)
            gradient = squared_error(load(outputs + place), load(y + place), &loss)
            gradient = times_derivative(activation, splat(weight) * gradient, load(outputs + place))
            if count < PANEL:
                loss = total[v] + first_lanes(loss, count - v * LANES)
                gradient = first_lanes(gradient, count - v * LANES)
            total[v] = loss
            store(outputs + place, gradient)


cdef inline double loss_of(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
) noexcept nogil:
    cdef Py_ssize_t n, left = n_outputs, terms = 0
    cdef vreal total[VECTORS]       # a single sum would wait for itself
    cdef double loss = 0
    cdef int v
    for v in range(VECTORS):
        total[v] = splat(0)
    while count > 0:
        n = smaller(left, SUM_BLOCK)
        if terms + n > SUM_BLOCK:
            loss += sum_of_lanes(total[0] + total[1])
            for v in range(VECTORS):
                total[v] = splat(0)
            terms = 0
        if count >= PANEL:
            loss_panel(activation, n, PANEL, weight, outputs, y, total)
        else:
            loss_panel(activation, n, count, weight, outputs, y, total)
        terms += n
        outputs += n * PANEL
        y += n * PANEL
        left -= n
        if left == 0:
            left = n_outputs
            count -= PANEL
    return loss + sum_of_lanes(total[0] + total[1])


cdef double loss_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
) noexcept nogil:
    """The end of the forward walk: the sum of the loss over a tile, before the factor `weight`.

    outputs: activations in, deltas out (weight * gradient * f'). Spare lanes weigh nothing.
    """
    if activation == SIGMOID:
        return loss_of(SIGMOID, n_outputs, count, weight, outputs, y)
    if activation == TANH:
        return loss_of(TANH, n_outputs, count, weight, outputs, y)
    if activation == RELU:
        return loss_of(RELU, n_outputs, count, weight, outputs, y)
    return loss_of(IDENTITY, n_outputs, count, weight, outputs, y)


cdef void given_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real* outputs, const real* gradient,
) noexcept nogil:
    """In place of a loss, a gradient on the outputs from outside: outputs in, deltas out."""
    cdef Py_ssize_t p, i, v, place
    cdef vreal delta
    for p in range(panels(count)):
        for i in range(n_outputs):
            for v in range(VECTORS):
                place = (p * n_outputs + i) * PANEL + v * LANES
                delta = times_derivative(activation, load(gradient + place), load(outputs + place))
                store(outputs + place, first_lanes(delta, count - p * PANEL - v * LANES))


# ---- one tile ----------------------------------------------------------------------------------------

cdef inline bint side_by_side(Matrix m, const Py_ssize_t* order, Py_ssize_t count) noexcept nogil:
    """Whether whole panels of examples can be read as they lie."""
    return (
        order == NULL
        and count % PANEL == 0
        and m.column == sizeof(real)
        and (<Py_ssize_t>m.data | m.row) % <Py_ssize_t>sizeof(real) == 0
    )


cdef inline Features inputs(Walk* walk, Py_ssize_t first, Py_ssize_t count, real* tile) noexcept nogil:
    """X as the first layer sees it: in its tile, or where it lies if that layer has a single output.

    Such a layer reads X but twice, at the speed of memory: to pack it costs half as much again.
    """
    cdef Features x
    if walk.layers[0].n_out == 1 and walk.input_gradient.data == NULL and side_by_side(walk.x, walk.order, count):
        x = Features(<const real*>walk.x.data + first, walk.x.row // <Py_ssize_t>sizeof(real), PANEL, 0)
        if first + 2 * walk.tile <= walk.x.columns:
            x.ahead = walk.tile
        return x
    if not walk.kept:
        pack_tile(walk.x, walk.order, first, count, tile)
    return of_tile(tile, walk.layers[0].n_in)


cdef inline real* forward_tile(
    Walk* walk, const Features* lowest, Py_ssize_t first, Py_ssize_t count, real* scratch,
) noexcept nogil:
    """Walks a tile up; the activations lie one after another in scratch, after room for x. Returns the last.

    lowest: by its address, as README.md says of structs.
    """
    cdef Py_ssize_t i
    cdef real* a = scratch
    cdef Features below
    cdef const Features* x = lowest
    for i in range(walk.n_layers):
        a += walk.layers[i].n_in * walk.tile
        if walk.outputs.data != NULL:
            pack_tile(walk.outputs, walk.order, first, count, a)
        else:
            dense_forward(&walk.layers[i], weight_of(walk, i), bias_of(walk, i), x, a, panels(count))
        below = of_tile(a, walk.layers[i].n_out)
        x = &below
    return a


cdef inline const real* targets(Walk* walk, Py_ssize_t first, Py_ssize_t count, real* tile) noexcept nogil:
    """y as the loss sees it: where it lies, or in a tile."""
    if walk.y.rows == 1 and side_by_side(walk.y, walk.order, count):
        return <const real*>walk.y.data + first
    if not walk.kept:
        pack_tile(walk.y, walk.order, first, count, tile)
    return tile


cdef enum:
    MOST_INPUTS = 4         # of a layer that is walked in a single pass
    AHEAD = 1024            # numbers: how far ahead of itself that pass asks for memory


cdef inline void line_panel(
    const int n, Py_ssize_t count, Features x, const vreal* w, vreal bias, const real* y, vreal weight,
    vreal* loss, vreal* dw, vreal* db,
) noexcept nogil:
    cdef vreal inputs[MOST_INPUTS]
    cdef vreal prediction, value, gradient
    cdef int i, v
    for v in range(VECTORS):
        prediction = bias
        for i in range(n):
            inputs[i] = load(x.data + i * x.feature + v * LANES)
            prediction = multiply_add(w[i], inputs[i], prediction)
            if x.ahead:
                prefetch(1, x.data + i * x.feature + v * LANES + AHEAD)
        if x.ahead:
            prefetch(1, y + v * LANES + AHEAD)
        value = loss[v] if count == PANEL else splat(0)
        gradient = weight * squared_error(prediction, load(y + v * LANES), &value)
        if count < PANEL:
            value = loss[v] + first_lanes(value, count - v * LANES)
            gradient = first_lanes(gradient, count - v * LANES)
        loss[v] = value
        db[v] = db[v] + gradient
        for i in range(n):
            dw[i * VECTORS + v] = multiply_add(gradient, inputs[i], dw[i * VECTORS + v])


cdef inline double line_of(
    const int n, Walk* walk, Features x, const real* y, Py_ssize_t count, real weight, Total gradient,
) noexcept nogil:
    cdef vreal w[MOST_INPUTS]
    cdef vreal dw[MOST_INPUTS * VECTORS]
    cdef vreal db[VECTORS]
    cdef vreal loss[VECTORS]
    cdef const real* bias = bias_of(walk, 0)
    cdef vreal b = splat(0) if bias == NULL else splat(bias[0])
    cdef Py_ssize_t p
    cdef int i, v
    for i in range(n):
        w[i] = splat(weight_of(walk, 0)[i])
    for v in range(VECTORS):
        loss[v] = splat(0)
        db[v] = splat(0)
        for i in range(n):
            dw[i * VECTORS + v] = splat(0)
    for p in range(count // PANEL):
        line_panel(n, PANEL, x, w, b, y, splat(weight), loss, dw, db)
        x.data += x.panel
        y += PANEL
    if count % PANEL:
        line_panel(n, count % PANEL, x, w, b, y, splat(weight), loss, dw, db)
    if gradient.data != NULL:
        for i in range(n):
            add_to(gradient, 0, walk.layers[0].weight + i, sum_of_lanes(dw[i * VECTORS] + dw[i * VECTORS + 1]))
        if bias != NULL:
            add_to(gradient, 0, walk.layers[0].bias, sum_of_lanes(db[0] + db[1]))
    return sum_of_lanes(loss[0] + loss[1])


cdef double line_tile(
    Walk* walk, Features x, const real* y, Py_ssize_t count, real weight, Total gradient,
) noexcept nogil:
    """`gradient_tile` for a single linear layer with one output and few inputs: up and down in one pass.

    There is too little to compute for a pass over a tile to hide the next one's wait for memory: half the time.
    """
    if walk.layers[0].n_in == 1:
        return line_of(1, walk, x, y, count, weight, gradient)
    if walk.layers[0].n_in == 2:
        return line_of(2, walk, x, y, count, weight, gradient)
    if walk.layers[0].n_in == 3:
        return line_of(3, walk, x, y, count, weight, gradient)
    return line_of(4, walk, x, y, count, weight, gradient)


cdef double gradient_tile(
    Walk* walk, Py_ssize_t first, Py_ssize_t count, real weight, real* scratch, Total gradient,
) noexcept nogil:
    """Walks a tile up and down for its part of the gradient; returns the sum of the loss before `weight`.

    Where no gradient is wanted it goes up only.
    """
    cdef Py_ssize_t i = walk.n_layers - 1, n_panels = panels(count)
    cdef Layer* layer = &walk.layers[i]
    cdef Features lowest = inputs(walk, first, count, scratch), seen
    cdef real* delta
    cdef const real* y
    cdef real* x
    cdef real* transposed           # x^T of the first layer, which may be kept, or of another
    cdef real* first_transposed
    cdef Total here, below          # the gradients of a layer's W, and of the bias of the layer below
    cdef double loss = 0
    if (
        walk.n_layers == 1 and layer.n_out == 1 and layer.n_in <= MOST_INPUTS and layer.activation == IDENTITY
        and walk.outputs.data == NULL and walk.input_gradient.data == NULL
    ):
        y = targets(walk, first, count, scratch + layer.n_in * walk.tile)
        return line_tile(walk, lowest, y, count, weight, gradient)
    delta = forward_tile(walk, &lowest, first, count, scratch)
    y = targets(walk, first, count, delta + layer.n_out * walk.tile)
    first_transposed = transposed = delta + 2 * layer.n_out * walk.tile
    if walk.layers[0].transposed:
        transposed += panels(walk.layers[0].n_in) * PANEL * walk.tile
    if walk.outputs.data != NULL:
        given_stage(<int>layer.activation, layer.n_out, count, delta, y)
    else:
        loss = loss_stage(<int>layer.activation, layer.n_out, count, weight, delta, y)
    if gradient.data == NULL:
        return loss
    if layer.bias >= 0:
        add_examples(delta, layer.n_out, n_panels, Total(gradient.data + layer.bias, 0, gradient.fresh))
    while i >= 0:
        layer = &walk.layers[i]
        x = delta - layer.n_in * walk.tile
        here = Total(gradient.data + layer.weight, layer.n_in, gradient.fresh)
        below = Total(NULL, 0, gradient.fresh)
        if i > 0:
            below.data = at(gradient.data, walk.layers[i - 1].bias)
        if i > 0 and layer.n_out == 1:
            below_one(
                layer, weight_of(walk, i), delta, x, n_panels, <int>walk.layers[i - 1].activation, here, below)
            delta = x
            i -= 1
            continue
        if i == 0:
            transposed = first_transposed
        if layer.transposed and not (i == 0 and walk.kept):
            transpose_tile(x, layer.n_in, n_panels, transposed)
        seen = of_tile(x, layer.n_in)
        dense_backward(layer, &lowest if i == 0 else &seen, delta, n_panels, here, transposed)
        if i > 0:
            delta_below(layer, weight_of(walk, i), delta, x, n_panels, <int>walk.layers[i - 1].activation)
            if below.data != NULL:
                add_examples(x, layer.n_in, n_panels, below)
        elif walk.input_gradient.data != NULL:
            delta_below(layer, weight_of(walk, i), delta, x, n_panels, IDENTITY)
            unpack_tile(x, walk.input_gradient, first, count)
        delta = x
        i -= 1
    return loss
