"""The update of a step of one tile, applied to the gradient where it arises.

A wide layer comes from the L2 or from memory, and there the time is that of the bytes. So its gradient is neither stored, nor
read for its check, nor read for the update: 3 of 10 passes over an array of n_parameters with Adam. It is the product of deltas
and inputs that are all in scratch memory after the backward pass.
  features in lanes   a sum over a few examples: a vector of it is computed in registers and goes into the update at once.
  examples in lanes   some rows of it, which stay in the L2, are computed and updated, then the next ones. Narrow layers and
                      biases are stored and checked as in any other step.

Nothing may be written from a gradient that is not finite, or too large to be squared. Here it is bounded instead of checked:
|g_oj| <= the number of examples times the largest |delta| times the largest |x|. If that is too large, or NaN, the gradient is
stored and checked as in any other step.

Rejected: updating a layer as soon as its delta is known (a gradient of a lower layer that is not finite would come too late).
"""

# ---- features in lanes ----------------------------------------------------------------------------------

cdef double largest_of(Rows x, Py_ssize_t n, Py_ssize_t count) noexcept nogil:
    """The largest magnitude of n elements in each of `count` rows. NaN or inf if any of them is."""
    cdef Magnitudes found = no_magnitudes()
    cdef const real* row
    cdef Py_ssize_t e, i
    for e in range(count):
        row = x.data + e * x.row
        i = 0
        while i + LANES <= n:
            found = greatest(found, load(row + i))
            i += LANES
        if i < n:
            found = greatest(found, load_first(row + i, n - i))
    return largest_magnitude(found)


cdef inline bint is_bounded(Py_ssize_t count, double of_delta, double of_input, double most) noexcept nogil:
    """Whether no gradient of W and b can be larger than `most`, or NaN. The bound is doubled, since sums are rounded."""
    return 2. * count * of_delta * (1 + of_input) < most


cdef bint gradient_is_bounded(Network* network, FewPass* p, double most) noexcept nogil:
    """Whether no element of the gradient can be larger than `most`, or NaN."""
    cdef Py_ssize_t i, place = 0
    cdef Layer* layer
    cdef double of_delta, of_input
    for i in range(network.n_layers):
        layer = &network.layers[i]
        of_delta = largest_of(Rows(delta_of(p, network, i, place), layer.n_out), layer.n_out, p.count)
        of_input = largest_of(input_of(p, i, layer, place), layer.n_in, p.count)
        if not is_bounded(p.count, of_delta, of_input, most):
            return False
        place += whole_panels(p.count * layer.n_in)
    return True


cdef inline void update_row(
    const int rule, const bint flushes, const bint far, Factors* f, Update* u, real* w, Py_ssize_t start, Py_ssize_t n_in,
    const real* delta, Py_ssize_t n_out, Rows x, Py_ssize_t count,
) noexcept nogil:
    """One row of W, elements start ... start + n_in of the parameters, n_in >= LANES."""
    cdef vreal sums[GRADIENT_VECTORS]
    cdef real* firsts = u.first
    cdef real* seconds = u.second
    cdef Py_ssize_t j = 0, e
    cdef int v
    while j + GRADIENT_VECTORS * LANES <= n_in:
        gradient_sums(GRADIENT_VECTORS, delta, n_out, x.data + j, x.row, count, sums)
        for v in range(GRADIENT_VECTORS):
            update_vector(rule, flushes, far, f, f.rate, w, firsts, seconds, start + j + v * LANES, LANES, sums[v])
        j += GRADIENT_VECTORS * LANES
    while j + LANES <= n_in:
        gradient_sums(1, delta, n_out, x.data + j, x.row, count, sums)
        update_vector(rule, flushes, far, f, f.rate, w, firsts, seconds, start + j, LANES, sums[0])
        j += LANES
    if j < n_in:
        sums[0] = splat(delta[0]) * load_first(x.data + j, n_in - j)
        for e in range(1, count):
            sums[0] = multiply_add(splat(delta[e * n_out]), load_first(x.data + e * x.row + j, n_in - j), sums[0])
        update_vector(rule, flushes, False, f, f.rate, w, firsts, seconds, start + j, n_in - j, sums[0])


cdef inline void update_layer(
    const int rule, Update* u, real* w, Layer* layer, const real* delta, Rows x, Py_ssize_t count,
) noexcept nogil:
    cdef Factors f = factors(u)
    cdef Py_ssize_t o, start = layer.weight
    for o in range(layer.n_out):
        if u.far:
            update_row(rule, True, True, &f, u, w, start, layer.n_in, delta + o, layer.n_out, x, count)
        elif u.flushes:
            update_row(rule, True, False, &f, u, w, start, layer.n_in, delta + o, layer.n_out, x, count)
        else:
            update_row(rule, False, False, &f, u, w, start, layer.n_in, delta + o, layer.n_out, x, count)
        start += layer.n_in


ctypedef void (*UpdateLayer)(
    const int rule, Update* u, real* w, Layer* layer, const real* delta, Rows x, Py_ssize_t count) noexcept nogil
cdef extern from "vector.h" nogil:
    void update_layer_of "AS_CONSTANT"(int most, UpdateLayer, int rule, ...)


cdef void fused_update(Network* network, FewPass* p, Update* u, real* w, real* gradient) noexcept nogil:
    """The update of all layers, after `begin_update`. gradient: room for that of biases and narrow layers."""
    cdef Py_ssize_t i, place = 0
    cdef Layer* layer
    cdef const real* delta
    cdef Rows x
    cdef Interrupt never = NO_INTERRUPT
    for i in range(network.n_layers):
        layer = &network.layers[i]
        delta = delta_of(p, network, i, place)
        x = input_of(p, i, layer, place)
        if layer.n_in >= LANES:
            update_layer_of(N_RULES - 1, update_layer, u.rule, u, w, layer, delta, x, p.count)
        else:
            few_weight_gradient(delta, layer.n_out, x, layer.n_in, p.count, gradient + layer.weight, &never, 1)
            update(u, w, gradient, layer.weight, layer.weight + layer.n_in * layer.n_out)
        if layer.bias >= 0:
            few_bias_gradient(delta, layer.n_out, p.count, gradient + layer.bias)
            update(u, w, gradient, layer.bias, layer.bias + layer.n_out)
        place += whole_panels(p.count * layer.n_in)


# ---- examples in lanes ----------------------------------------------------------------------------------

cdef enum:
    FUSED_WEIGHTS = (64 << 10) // sizeof(real)      # whose gradient is computed, then updated; at least TILE_ROWS rows


cdef inline Py_ssize_t end_of(const Layer* layer) noexcept nogil:
    """The end of a layer's parameters."""
    return layer.weight + layer.n_in * layer.n_out if layer.bias < 0 else layer.bias + layer.n_out


cdef bint tile_is_bounded(
    Network* network, Py_ssize_t count, const real* scratch, const real* gradient, double most,
) noexcept nogil:
    """Whether no element of the gradient can be larger than `most`, or NaN: of deferred layers it is not known yet."""
    cdef Py_ssize_t i, start, columns, n_examples = panels(count) * PANEL
    cdef const real* delta = scratch
    cdef Layer* layer
    cdef double of_delta, of_input
    for i in range(network.n_layers):
        layer = &network.layers[i]
        delta += layer.n_in * network.tile
        start = layer.weight
        if layer.deferred:
            columns = layer.n_in // PANEL * PANEL
            of_delta = largest_of(Rows(delta, 0), layer.n_out * n_examples, 1)
            of_input = largest_of(Rows(scratch + layer.x_transposed, 0), columns * n_examples, 1)
            if columns < layer.n_in:    # the last panel, whose second vector may be unused; a sum is a bound, too, and keeps NaN
                of_input += largest_of(
                    Rows(scratch + layer.x_transposed + columns * n_examples, PANEL), layer.n_in - columns, n_examples)
            if not is_bounded(n_examples, of_delta, of_input, most):
                return False
            start += layer.n_in * layer.n_out
        if not all_within(<real>most, gradient, start, end_of(layer)):
            return False
    return True


cdef void store_deferred(Network* network, Py_ssize_t count, const real* scratch, real* gradient) noexcept nogil:
    """The gradients of deferred layers, as in a step that is not fused."""
    cdef Py_ssize_t i
    cdef const real* delta = scratch
    cdef Layer* layer
    for i in range(network.n_layers):
        layer = &network.layers[i]
        delta += layer.n_in * network.tile
        if layer.deferred:
            weight_gradient_transposed(
                delta, layer.n_out, scratch + layer.x_transposed, layer.n_in, panels(count),
                GradientSum(gradient + layer.weight, layer.n_in, True))


cdef inline void prefetch_update(
    const Update* u, const real* w, Py_ssize_t start, Py_ssize_t n_in, Py_ssize_t n_rows, Py_ssize_t count,
) noexcept nogil:
    """Prefetches what the update of `count` parameters in each of some rows of W reads, from element `start` on."""
    prefetch_block(w + start, n_in, n_rows, count)
    if states_of(u.rule) > 0:
        prefetch_block(u.first + start, n_in, n_rows, count)
    if states_of(u.rule) > 1:
        prefetch_block(u.second + start, n_in, n_rows, count)


cdef void update_tile(
    Network* network, Py_ssize_t count, const real* scratch, Update* u, real* w, real* gradient,
) noexcept nogil:
    """The update of all layers, after `begin_update`. gradient: of what is not deferred; where it would be of a deferred layer,
    some rows at a time."""
    cdef Py_ssize_t i, j, start, o, n, rows, most, width
    cdef const real* delta = scratch
    cdef real* part
    cdef Layer* layer
    for i in range(network.n_layers):
        layer = &network.layers[i]
        delta += layer.n_in * network.tile
        start = layer.weight
        part = gradient + start
        o = 0
        rows, most = whole_tiles(FUSED_WEIGHTS // layer.n_in), 2 * PANEL
        if u.far:       # a few at a time, whose states are prefetched
            rows, most = ROWS, PANEL
        while layer.deferred and o < layer.n_out:
            n = minimum(rows, layer.n_out - o)
            j = 0
            while j < layer.n_in:
                width = minimum(most, layer.n_in - j)
                if u.far:       # 0.9 of the time of a step; 1.1 if the states come from a cache
                    prefetch_update(u, w, start + j, layer.n_in, n, width)
                weight_gradient_rows(
                    delta + o * PANEL, n, layer.n_out, scratch + layer.x_transposed + j * panels(count) * PANEL, width,
                    panels(count), GradientSum(part + j, layer.n_in, True))
                j += width
            update(u, w, part - start, start, start + n * layer.n_in)
            start += n * layer.n_in
            o += n
        update(u, w, gradient, start, end_of(layer))
