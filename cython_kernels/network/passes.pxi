"""The forward and backward pass of a tile of examples through every layer.

    X ──pack──▶ x ──▶ a1 ──▶ a2 ──▶ ... ──▶ ŷ ──loss──▶ δL ──▶ ... ──▶ δ1 ──▶ (input gradient)
                 └──────┴───── in the core's own cache ─────┘   └─ each adds to the gradient

All activations of a tile stay in the L2 cache (the plan chooses its size): Z, A and delta are never stored for the whole
batch, and X is read from memory once. Which tiles a thread computes, and how their gradients are added:
training/steps.pxi.
"""

cdef inline bint side_by_side(Matrix m, const Py_ssize_t* order, Py_ssize_t count) noexcept nogil:
    """Whether whole panels of examples can be read in place."""
    return (
        order == NULL
        and count % PANEL == 0
        and m.column == sizeof(real)
        and (<Py_ssize_t>m.data | m.row) % <Py_ssize_t>sizeof(real) == 0
    )


cdef inline Features inputs(Network* network, Py_ssize_t first, Py_ssize_t count, real* tile) noexcept nogil:
    """The input of the first layer: X in a tile, or in place if that layer has a single output.

    Such a layer reads X only twice and is limited by memory bandwidth: packing X would take half as long again.
    """
    cdef Features x
    if network.layers[0].n_out == 1 and network.input_gradient.data == NULL and side_by_side(network.x, network.order, count):
        x = Features(<const real*>network.x.data + first, network.x.row // <Py_ssize_t>sizeof(real), PANEL, 0)
        if first + 2 * network.tile <= network.x.columns:
            x.ahead = network.tile
        return x
    if not network.tile_is_packed:
        pack_tile(network.x, network.order, first, count, tile)
    return of_tile(tile, network.layers[0].n_in)


cdef void forward_with_derivatives(
    Network* network, Py_ssize_t i, const Features* x, Py_ssize_t first, Py_ssize_t count, real* a, real* derivatives,
) noexcept nogil:
    """`dense_forward` of a layer whose derivatives are stored, unless `derivatives` is NULL, and its dropout."""
    cdef Layer* layer = &network.layers[i]
    dense_forward(layer, weight_of(network, i), bias_of(network, i), x, a, panels(count), derivatives)
    if layer.dropped:
        drop_tile(&network.dropout, layer, first - network.dropout.first, panels(count), a, derivatives)


cdef inline real* forward_tile(
    Network* network, const Features* lowest, Py_ssize_t first, Py_ssize_t count, real* scratch, bint wanted,
) noexcept nogil:
    """The forward pass of a tile. scratch: x, then the activations of each layer. Returns those of the last layer.

    lowest: the input of the first layer, by its address, see README.md on structs. wanted: the derivatives are stored, too.
    """
    cdef Py_ssize_t i
    cdef real* a = scratch
    cdef Features below
    cdef const Features* x = lowest
    for i in range(network.n_layers):
        a += network.layers[i].n_in * network.tile
        if network.outputs.data != NULL:
            pack_tile(network.outputs, network.order, first, count, a)
        elif network.layers[i].derivatives < 0:
            dense_forward(&network.layers[i], weight_of(network, i), bias_of(network, i), x, a, panels(count), NULL)
        else:
            forward_with_derivatives(network, i, x, first, count, a, scratch + network.layers[i].derivatives if wanted else NULL)
        below = of_tile(a, network.layers[i].n_out)
        x = &below
    return a


cdef inline const real* values_of(
    Network* network, const Matrix* m, Py_ssize_t first, Py_ssize_t count, real* tile,
) noexcept nogil:
    """Targets or weights of a tile: a single row in place, or packed."""
    if m.rows == 1 and side_by_side(m[0], network.order, count):
        return <const real*>m.data + first
    if not network.tile_is_packed:
        pack_tile(m[0], network.order, first, count, tile)
    return tile


cdef void write_derivatives(const Layer* layer, real* a, Py_ssize_t n, real* scratch) noexcept nogil:
    """The derivatives of a layer whose activation is OTHER there overwrite its activations."""
    if layer.derivatives < 0:
        differentiate_function(<int>layer.function, <real>layer.parameter, a, a, n)
    else:
        memcpy(a, scratch + layer.derivatives, n * sizeof(real))


cdef double sum_of_weights(Network* network, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """The divisor of the sums over a batch: of its loss, and of its gradient."""
    cdef double sums[4]
    cdef Py_ssize_t i
    if network.weights.data == NULL:
        return count
    for i in range(4):
        sums[i] = 0
    for i in range(count):
        sums[i % 4] += load_unaligned(network.weights.data + example_at(network.order, first + i) * network.weights.column)
    return (sums[0] + sums[1]) + (sums[2] + sums[3])


cdef inline double gradient_tile(
    Network* network, Py_ssize_t first, Py_ssize_t count, real weight, real* scratch, GradientSum gradient,
) noexcept nogil:
    """The forward and backward pass of a tile: adds its gradient, and returns the sum of its loss, without the factor `weight`.

    If gradient.data is NULL, there is no backward pass.
    """
    cdef Py_ssize_t i = network.n_layers - 1, n_panels = panels(count)
    cdef Layer* layer = &network.layers[i]
    cdef Features lowest = inputs(network, first, count, scratch), seen
    cdef real* delta
    cdef const real* y
    cdef OutputTile outputs
    cdef real* x
    cdef real* columns
    cdef GradientSum here, below          # the gradients of a layer's W, and of the bias of the layer below
    cdef double loss = 0
    if (
        network.n_layers == 1 and layer.n_out == 1 and layer.n_in <= MOST_INPUTS and layer.backward == IDENTITY
        and network.outputs.data == NULL and network.input_gradient.data == NULL and not network.y_is_gradient
        and network.loss.kind == MEAN_SQUARED_ERROR and network.weights.data == NULL
    ):
        y = values_of(network, &network.y, first, count, scratch + layer.n_in * network.tile)
        return line_tile(network, lowest, y, count, weight, gradient)
    delta = forward_tile(network, &lowest, first, count, scratch, gradient.data != NULL)
    y = values_of(network, &network.y, first, count, delta + layer.n_out * network.tile)
    if network.y_is_gradient:
        given_stage(direct_activation(layer), layer.n_out, count, delta, y)
    else:
        outputs = OutputTile(delta, layer.n_out, count, direct_activation(layer), y, network.y.rows, NULL)
        if network.weights.data != NULL:
            outputs.weights = values_of(network, &network.weights, first, count, delta + 2 * layer.n_out * network.tile)
        loss = loss_stage(&network.loss, &outputs, weight)
    if gradient.data == NULL:
        return loss
    if layer.backward == OTHER:
        multiply_by(delta, scratch + layer.derivatives, layer.n_out * n_panels * PANEL)
    if layer.bias >= 0:
        add_examples(delta, layer.n_out, n_panels, GradientSum(gradient.data + layer.bias, 0, gradient.overwrite))
    while i >= 0:
        layer = &network.layers[i]
        x = delta - layer.n_in * network.tile
        here = GradientSum(gradient.data + layer.weight, layer.n_in, gradient.overwrite)
        below = GradientSum(NULL, 0, gradient.overwrite)
        if i > 0:
            below.data = at(gradient.data, network.layers[i - 1].bias)
        if i > 0 and layer.n_out == 1 and network.layers[i - 1].backward != OTHER:
            backward_single_output(
                layer, weight_of(network, i), delta, x, 0, n_panels, <int>network.layers[i - 1].backward, here, below)
            delta = x
            i -= 1
            continue
        if i > 0 and layer.n_out == 1 and network.layers[i - 1].derivatives >= 0:
            backward_single_output(
                layer, weight_of(network, i), delta, x, scratch + network.layers[i - 1].derivatives - x, n_panels, OTHER, here,
                below)
            delta = x
            i -= 1
            continue
        if layer.transposed and not (i == 0 and network.tile_is_packed):
            transpose_tile(x, layer.n_in, n_panels, scratch + layer.x_transposed)
        seen = of_tile(x, layer.n_in)
        if not (layer.deferred and network.defers):
            dense_backward(layer, &lowest if i == 0 else &seen, delta, n_panels, here, scratch + layer.x_transposed)
        columns = at(scratch, layer.columns)
        if i > 0:
            if network.layers[i - 1].backward == OTHER:
                write_derivatives(&network.layers[i - 1], x, layer.n_in * n_panels * PANEL, scratch)
            delta_below(layer, weight_of(network, i), delta, x, n_panels, <int>network.layers[i - 1].backward, columns)
            if below.data != NULL:
                add_examples(x, layer.n_in, n_panels, below)
        elif network.input_gradient.data != NULL:
            delta_below(layer, weight_of(network, i), delta, x, n_panels, IDENTITY, columns)
            unpack_tile(x, network.input_gradient, first, count)
        delta = x
        i -= 1
    return loss
