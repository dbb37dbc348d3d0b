"""Backward through a dense layer, on one tile of examples: its gradients, and the delta of the layer below.

The delta of a layer overwrites its activation: the activation is last needed for the gradient of the layer above and for
its own derivative, and both are computed before. So a tile needs one buffer per layer.
"""

# ---- the gradient of b ------------------------------------------------------------------------------

cdef inline void add_rows(
    const int n_rows, const real* delta, Py_ssize_t n_delta, Py_ssize_t n_panels, GradientSum gradient, Py_ssize_t first,
) noexcept nogil:
    """`add_examples` for n_rows of a tile's n_delta rows, from `first` on."""
    cdef vreal sums[LANES][VECTORS]
    cdef vreal rows[LANES]
    cdef real totals[LANES]
    cdef Py_ssize_t p
    cdef int i, v
    for i in range(n_rows):
        for v in range(VECTORS):
            sums[i][v] = splat(0)
    for p in range(n_panels):
        for i in range(n_rows):
            for v in range(VECTORS):
                sums[i][v] = sums[i][v] + load(delta + (p * n_delta + first + i) * PANEL + v * LANES)
    if n_rows == 1:
        add_to(gradient, 0, first, sum_of_lanes(sums[0][0] + sums[0][1]))
        return
    for i in range(LANES):
        rows[i] = sums[i][0] + sums[i][1] if i < n_rows else splat(0)
    add_lanes(rows, LANES, totals)
    add_all_to(gradient, 0, first, totals, n_rows)


cdef void add_examples(const real* delta, Py_ssize_t n_delta, Py_ssize_t n_panels, GradientSum gradient) noexcept nogil:
    """Adds the sums of delta_i over examples to the gradient of b."""
    cdef Py_ssize_t i = 0
    while i + ROW_SUMS <= n_delta:
        add_rows(ROW_SUMS, delta, n_delta, n_panels, gradient, i)
        i += ROW_SUMS
    while i < n_delta:
        add_rows(1, delta, n_delta, n_panels, gradient, i)
        i += 1


# ---- through a layer with a single output -----------------------------------------------------------

cdef inline void single_output_rows(
    const int rows, const int activation, const real* delta, const real* weight, real* x, Py_ssize_t slopes, Py_ssize_t n_x,
    Py_ssize_t n_panels, vreal* weight_sums, vreal* delta_sums,
) noexcept nogil:
    """`backward_single_output` for some rows of x: two vectors of partial sums for each row, their lanes not yet added."""
    cdef vreal ws[LANE_ROWS]
    cdef vreal ds[LANE_ROWS]
    cdef vreal w[LANE_ROWS]
    cdef vreal a[LANE_ROWS]
    cdef vreal upper, lower
    cdef real* place
    cdef Py_ssize_t p
    cdef int i, v
    for i in range(rows):
        ws[i] = splat(0)
        ds[i] = splat(0)
        w[i] = splat(weight[i])
    for p in range(n_panels):
        for v in range(VECTORS):
            upper = load(delta + p * PANEL + v * LANES)
            place = x + p * n_x * PANEL + v * LANES
            for i in range(rows):       # all loads before the first store: 2 % of a small step
                a[i] = load(place + i * PANEL)
            for i in range(rows):
                if activation == OTHER:
                    lower = w[i] * (upper * load(place + slopes + i * PANEL))
                else:
                    lower = w[i] * times_derivative(activation, upper, a[i])
                # sigmoid: upper * a[i] is also computed in its derivative, so it is a common subexpression
                ws[i] = ws[i] + upper * a[i] if activation == SIGMOID else multiply_add(upper, a[i], ws[i])
                ds[i] = ds[i] + lower
                store(place + i * PANEL, lower)
    for i in range(rows):
        weight_sums[i] = ws[i]
        delta_sums[i] = ds[i]


cdef inline void single_output_sums(
    const bint whole, const int activation, const real* delta, const real* weight, real* x, Py_ssize_t slopes, Py_ssize_t count,
    Py_ssize_t n_x, Py_ssize_t n_panels, real* totals,
) noexcept nogil:
    """The sums of `count` rows of x, with their lanes added: first of the weight, from LANES / 2 on of the bias below.

    whole: count is LANES / 2; then all sizes are constants, and the sums stay in registers (1 to 5 % of a small step).
    """
    cdef vreal sums[LANES]
    cdef int i, step = LANE_ROWS if LANE_ROWS <= LANES // 2 else 1
    if whole:
        single_output_rows(step, activation, delta, weight, x, slopes, n_x, n_panels, sums, sums + LANES // 2)
        if LANES // 2 > step:       # then it is 2 * step, for all sizes in blocks.h
            single_output_rows(
                step, activation, delta, weight + step, x + step * PANEL, slopes, n_x, n_panels,
                sums + step, sums + LANES // 2 + step)
    else:
        for i in range(LANES):
            sums[i] = splat(0)
        for i in range(count):
            single_output_rows(
                1, activation, delta, weight + i, x + i * PANEL, slopes, n_x, n_panels, sums + i, sums + LANES // 2 + i)
    add_lanes(sums, LANES, totals)


cdef inline void single_output_by(
    const int activation, const real* weight, const real* delta, real* x, Py_ssize_t slopes, Py_ssize_t n_x,
    Py_ssize_t n_panels, GradientSum weight_gradient, GradientSum bias_gradient,
) noexcept nogil:
    cdef vreal sums[2]
    cdef real totals[LANES]
    cdef Py_ssize_t j = 0, count
    if n_x == 1:
        single_output_rows(1, activation, delta, weight, x, slopes, 1, n_panels, sums, sums + 1)
        add_to(weight_gradient, 0, 0, sum_of_lanes(sums[0]))
        if bias_gradient.data != NULL:
            add_to(bias_gradient, 0, 0, sum_of_lanes(sums[1]))
        return
    while j < n_x:
        count = minimum(LANES // 2, n_x - j)
        if count == LANES // 2:
            single_output_sums(True, activation, delta, weight + j, x + j * PANEL, slopes, count, n_x, n_panels, totals)
        else:
            single_output_sums(False, activation, delta, weight + j, x + j * PANEL, slopes, count, n_x, n_panels, totals)
        add_all_to(weight_gradient, 0, j, totals, count)
        if bias_gradient.data != NULL:
            add_all_to(bias_gradient, 0, j, totals + LANES // 2, count)
        j += count


ctypedef void (*SingleOutputBy)(
    const int activation, const real* weight, const real* delta, real* x, Py_ssize_t slopes, Py_ssize_t n_x,
    Py_ssize_t n_panels, GradientSum weight_gradient, GradientSum bias_gradient) noexcept nogil
cdef extern from "vector.h" nogil:
    void single_output_of "AS_ACTIVATION"(int n_activations, SingleOutputBy, int activation, ...)


cdef void backward_single_output(
    Layer* layer, const real* weight, const real* delta, real* x, Py_ssize_t slopes, Py_ssize_t n_panels, int activation,
    GradientSum weight_gradient, GradientSum bias_gradient,
) noexcept nogil:
    """Backward through a layer with a single output, in one pass over x. If the activation of x is OTHER, its derivatives are
    `slopes` elements behind x.

    It computes the gradient of the weight, delta x^T; the delta of the layer below, which overwrites x; and the
    gradient of that layer's bias. 6 % of a step of a two-layer network.
    """
    single_output_of(
        N_ACTIVATIONS, single_output_by, activation, weight, delta, x, slopes, layer.n_in, n_panels, weight_gradient,
        bias_gradient)


# ---- through any layer ------------------------------------------------------------------------------

cdef void dense_backward(
    Layer* layer, const Features* x, const real* delta, Py_ssize_t n_panels, GradientSum weight_gradient, const real* transposed,
) noexcept nogil:
    """The gradient of W, delta x^T; that of b is `add_examples`. transposed: x^T, if layer.transposed."""
    cdef Features d = of_tile(delta, layer.n_out)
    if layer.transposed:
        weight_gradient_transposed(delta, layer.n_out, transposed, layer.n_in, n_panels, weight_gradient)
    elif layer.n_in == 1 and layer.n_out > 1:
        # One input, many outputs: as many inputs, one output, with x and delta exchanged.
        weight_gradient_lanewise(x, 1, &d, layer.n_out, n_panels, weight_gradient)
    else:
        weight_gradient_lanewise(&d, layer.n_out, x, layer.n_in, n_panels, weight_gradient)


cdef enum:
    PACKED_COLUMNS = 3 * LINE // sizeof(real)       # of W, packed together
    PACK_AHEAD = 32             # rows from a prefetch to their use


cdef void pack_columns(const real* weight, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t count, real* packed) noexcept nogil:
    """packed (n_out, PACKED_COLUMNS) = `count` columns of W."""
    cdef bint far = comes_from_memory(n_out, n_in)
    cdef Py_ssize_t o
    for o in range(n_out):
        if far:
            prefetch_block(weight + PACK_AHEAD * n_in, n_in, 1, PACKED_COLUMNS)
        if count == PACKED_COLUMNS:
            memcpy(packed, weight, PACKED_COLUMNS * sizeof(real))
        else:
            memcpy(packed, weight, count * sizeof(real))
        packed += PACKED_COLUMNS
        weight += n_in


cdef void delta_below(
    Layer* layer, const real* weight, const real* delta, real* x, Py_ssize_t n_panels, int activation, real* packed,
) noexcept nogil:
    """x = f'(x) * W^T delta: the delta of the layer below overwrites its activation x.

    packed: room for PACKED_COLUMNS columns of W, or NULL: they are read in place. If rows of W are long, the elements of a
    column lie in a few sets of the caches: 2 to 7 % of a step.
    """
    cdef Py_ssize_t p, n, i = 0, rows = weight_rows(layer.n_in, layer.n_out)
    cdef Left left = Left(weight, 1, layer.n_in)
    cdef Output out
    if packed != NULL:
        rows = PACKED_COLUMNS
        left = Left(packed, 1, PACKED_COLUMNS)
    out.row = PANEL
    out.panel = layer.n_in * PANEL
    out.bias = NULL
    out.epilogue = DERIVATIVE
    out.activation = activation
    while i < layer.n_in:
        rows = minimum(rows, layer.n_in - i)
        if packed != NULL:
            pack_columns(weight + i, layer.n_in, layer.n_out, rows, packed)
        else:
            left.data = weight + i
        p = 0
        while p < n_panels:
            n = panels_together(n_panels - p, layer.n_out, SUM_BLOCK)
            out.data = x + (p * layer.n_in + i) * PANEL
            out.columns = n * PANEL
            delta_panel(
                rows, layer.n_out, &left, Right(delta + p * layer.n_out * PANEL, PANEL, layer.n_out * PANEL), &out)
            p += n
        i += rows
