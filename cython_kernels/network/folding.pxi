"""Consecutive linear layers, folded into one: w2 (W1 x + b1) + b2 is a single layer W x + b.

Design. A step over m examples computes only the folded layer. The gradients of the members follow from its gradients
G = delta x^T and gamma = delta 1:

    E_1 = [W1 | b1],  E_l = W_l E_{l-1} + [0 | b_l];       W | b = E_k
    D_k = [G | gamma],  D_{l-1} = W_l^T D_l;               dW_l = D_l E_{l-1}^T,  db_l = the last column of D_l

and dW_1 | db_1 = D_1. This has the form of a forward and a backward pass of n_in + 1 examples through the members, and is
computed by the same kernels: E_l and D_l are tiles whose columns are the inputs and, last, the bias. If a step has
many more examples than inputs, a two-layer linear network costs no more than one layer.

A scale before the first member, z = W1 (s * x) + b1, is folded into its weights, which are W1 diag(s) in the equations
above. With G, the gradient of those: dW1 = G diag(s), and ds_j is the sum over i of G_ij W1_ij. This is done in predictions,
too, also if a fold has a single member.

The plan decides which layers are folded (`_engine.plan.fold_layers`). The folded parameters are in a buffer of
their own.
"""

# The fields have the order of the columns of _engine.plan.FOLD_TABLE.
cdef struct Fold:
    int64 first             # index of the first member
    int64 count             # number of members; 1: not folded
    int64 scratch           # offset of its tiles in the scratch of the folds


cdef enum:
    FOLD_PANELS = 4        # panels of a member's tile,
    FOLD_ROWS = 64         # and rows of its gradient, between two calls of `check_interrupt`
    SCALED_VECTORS = 4     # of a row of W that are processed together


cdef void scale_weight(
    const real* weight, const real* s, Py_ssize_t n_out, Py_ssize_t n_in, real* out, Interrupt* interrupt,
) noexcept nogil:
    """out = W diag(s)."""
    cdef Py_ssize_t i, j
    for i in range(n_out):
        if i % FOLD_ROWS == 0 and check_interrupt(interrupt, 0, FOLD_ROWS * n_in):
            return
        for j in range(n_in):
            out[i * n_in + j] = weight[i * n_in + j] * s[j]


cdef void scale_gradient(
    const real* weight, const real* s, Py_ssize_t n_out, Py_ssize_t n_in, real* gradient, real* of_scale, Interrupt* interrupt,
) noexcept nogil:
    """of_scale_j = sum over i of G_ij W_ij; G = G diag(s). The sums are added in blocks (gemm/sums.pxi)."""
    cdef vreal sums[SCALED_VECTORS]
    cdef vreal totals[SCALED_VECTORS]
    cdef vreal g
    cdef real* place
    cdef Py_ssize_t j = 0, i, n
    cdef int v, vectors
    while j < n_in:
        if check_interrupt(interrupt, 0, 4 * SCALED_VECTORS * LANES * n_out):
            return
        vectors = <int>minimum(SCALED_VECTORS, ceil_div(n_in - j, LANES))
        for v in range(SCALED_VECTORS):
            sums[v] = splat(0)
            totals[v] = splat(0)
        for i in range(n_out):
            for v in range(vectors):
                n = minimum(LANES, n_in - j - v * LANES)
                place = gradient + i * n_in + j + v * LANES
                g = load_first(place, n)
                sums[v] = multiply_add(g, load_first(weight + i * n_in + j + v * LANES, n), sums[v])
                store_first(place, g * load_first(s + j + v * LANES, n), n)
                if (i + 1) % SUM_BLOCK == 0:
                    totals[v] = totals[v] + sums[v]
                    sums[v] = splat(0)
        for v in range(vectors):
            store_first(of_scale + j + v * LANES, totals[v] + sums[v], minimum(LANES, n_in - j - v * LANES))
        j += vectors * LANES


cdef Matrix dense_matrix(const real* data, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef Matrix m
    m.data = <char*>data
    m.rows = rows
    m.columns = columns
    m.row = columns * sizeof(real)
    m.column = sizeof(real)
    return m


cdef inline real* column_of(real* tile, Py_ssize_t n_features, Py_ssize_t column) noexcept nogil:
    """The first feature of a column of a tile; the others follow PANEL apart."""
    return tile + column // PANEL * n_features * PANEL + column % PANEL


cdef void pack_affine(const real* weight, const real* bias, Py_ssize_t n_out, Py_ssize_t n_in, real* tile) noexcept nogil:
    """tile = [W | b | 0 ...], to the end of the last panel."""
    cdef Py_ssize_t column, i
    cdef real* place
    pack_tile(dense_matrix(weight, n_out, n_in), NULL, 0, n_in, tile)
    for column in range(n_in, panels(n_in + 1) * PANEL):
        place = column_of(tile, n_out, column)
        for i in range(n_out):
            place[i * PANEL] = bias[i] if column == n_in and bias != NULL else 0


cdef void unpack_affine(const real* tile, Py_ssize_t n_out, Py_ssize_t n_in, real* weight, real* bias) noexcept nogil:
    """W and b (unless NULL) from tile = [W | b | ...]."""
    cdef const real* place = column_of(<real*>tile, n_out, n_in)
    cdef Py_ssize_t i
    unpack_tile(tile, dense_matrix(weight, n_out, n_in), 0, n_in)
    if bias != NULL:
        for i in range(n_out):
            bias[i] = place[i * PANEL]


cdef void scale_columns(const real* s, Py_ssize_t n_out, Py_ssize_t n_in, real* tile) noexcept nogil:
    """The columns of [W | b | ...] in a tile, times s; that of b stays."""
    cdef Py_ssize_t column, i
    cdef real* place
    for column in range(n_in):
        place = column_of(tile, n_out, column)
        for i in range(n_out):
            place[i * PANEL] *= s[column]


cdef void unfold_scale(const Layer* member, const real* parameters, real* gradient, Interrupt* interrupt) noexcept nogil:
    if member.scale >= 0:
        scale_gradient(
            parameters + member.weight, parameters + member.scale, member.n_out, member.n_in, gradient + member.weight,
            gradient + member.scale, interrupt)


cdef void fold_parameters(
    Fold* fold, Layer* members, Layer* layer, const real* parameters, real* folded, real* scratch, Interrupt* interrupt,
) noexcept nogil:
    """The parameters of the folded layer from those of its members; leaves E_1 ... E_k in scratch. May be interrupted."""
    cdef Layer* member = &members[fold.first]
    cdef Py_ssize_t n_in = member.n_in, n_panels = panels(n_in + 1), step, i, p, count
    cdef real* tile = scratch + fold.scratch
    cdef Features inputs
    cdef real* above
    cdef real* last
    cdef const real* bias
    if fold.count == 1:
        if member.scale >= 0:
            scale_weight(
                parameters + member.weight, parameters + member.scale, member.n_out, n_in, folded + layer.weight, interrupt)
        else:
            memcpy(folded + layer.weight, parameters + member.weight, member.n_in * member.n_out * sizeof(real))
        if member.bias >= 0:
            memcpy(folded + layer.bias, parameters + member.bias, member.n_out * sizeof(real))
        return
    pack_affine(parameters + member.weight, at(<real*>parameters, member.bias), member.n_out, n_in, tile)
    if member.scale >= 0:
        scale_columns(parameters + member.scale, member.n_out, n_in, tile)
    for step in range(1, fold.count):
        member = &members[fold.first + step]
        above = tile + member.n_in * n_panels * PANEL
        p = 0
        while p < n_panels:
            count = minimum(FOLD_PANELS, n_panels - p)
            inputs = of_tile(tile + p * member.n_in * PANEL, member.n_in)
            dense_forward(
                member, parameters + member.weight, NULL, &inputs, above + p * member.n_out * PANEL, count, NULL)
            if check_interrupt(interrupt, 0, member.n_in * member.n_out * count * PANEL):
                return
            p += count
        bias = at(<real*>parameters, member.bias)
        if bias != NULL:
            last = column_of(above, member.n_out, n_in)
            for i in range(member.n_out):
                last[i * PANEL] += bias[i]
        tile = above
    unpack_affine(tile, layer.n_out, n_in, folded + layer.weight, at(folded, layer.bias))


cdef void unfold_gradient(
    Fold* fold, Layer* members, Layer* layer, const real* parameters, const real* folded_gradient, real* gradient, real* scratch,
    Interrupt* interrupt,
) noexcept nogil:
    """The gradients of the members, in `gradient`, from that of the folded layer, in `folded_gradient`. May be interrupted."""
    cdef Layer* member = &members[fold.first]
    cdef Py_ssize_t n_in = member.n_in, n_panels = panels(n_in + 1), step, i, p, count
    cdef Features delta, inputs
    cdef real* tile = scratch + fold.scratch
    cdef real* below
    cdef real* last
    if fold.count == 1:
        memcpy(gradient + member.weight, folded_gradient + layer.weight, member.n_in * member.n_out * sizeof(real))
        if member.bias >= 0:
            memcpy(gradient + member.bias, folded_gradient + layer.bias, member.n_out * sizeof(real))
        unfold_scale(member, parameters, gradient, interrupt)
        return
    for step in range(1, fold.count):
        tile += members[fold.first + step].n_in * n_panels * PANEL
    pack_affine(folded_gradient + layer.weight, at(<real*>folded_gradient, layer.bias), layer.n_out, n_in, tile)
    step = fold.count - 1
    while step > 0:
        member = &members[fold.first + step]
        below = tile - member.n_in * n_panels * PANEL
        delta = of_tile(tile, member.n_out)
        inputs = of_tile(below, member.n_in)
        i = 0
        while i < member.n_out:
            count = minimum(FOLD_ROWS, member.n_out - i)
            weight_gradient_lanewise(
                &delta, count, &inputs, member.n_in, n_panels,
                GradientSum(gradient + member.weight + i * member.n_in, member.n_in, True))
            if check_interrupt(interrupt, 0, member.n_in * count * n_panels * PANEL):
                return
            delta.data += count * delta.feature
            i += count
        if member.bias >= 0:
            last = column_of(tile, member.n_out, n_in)
            for i in range(member.n_out):
                gradient[member.bias + i] = last[i * PANEL]
        p = 0
        while p < n_panels:
            count = minimum(FOLD_PANELS, n_panels - p)
            delta_below(
                member, parameters + member.weight, tile + p * member.n_out * PANEL, below + p * member.n_in * PANEL,
                count, IDENTITY, NULL)
            if check_interrupt(interrupt, 0, member.n_in * member.n_out * count * PANEL):
                return
            p += count
        tile = below
        step -= 1
    member = &members[fold.first]
    unpack_affine(tile, member.n_out, n_in, gradient + member.weight, at(gradient, member.bias))
    unfold_scale(member, parameters, gradient, interrupt)
