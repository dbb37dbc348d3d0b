"""A network of a single linear layer with one output and few inputs: forward and backward in one pass over a tile."""

cdef enum:
    MOST_INPUTS = 4         # most inputs of a layer that is computed in one pass
    AHEAD = 1024            # prefetch distance of that pass, in elements


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
            value = loss[v] + keep_first_lanes(value, count - v * LANES)
            gradient = keep_first_lanes(gradient, count - v * LANES)
        loss[v] = value
        db[v] = db[v] + gradient
        for i in range(n):
            dw[i * VECTORS + v] = multiply_add(gradient, inputs[i], dw[i * VECTORS + v])


cdef inline double line_of(
    const int n, Network* network, Features x, const real* y, Py_ssize_t count, real weight, GradientSum gradient,
) noexcept nogil:
    cdef vreal w[MOST_INPUTS]
    cdef vreal dw[MOST_INPUTS * VECTORS]
    cdef vreal db[VECTORS]
    cdef vreal loss[VECTORS]
    cdef const real* bias = bias_of(network, 0)
    cdef vreal b = splat(0) if bias == NULL else splat(bias[0])
    cdef Py_ssize_t p
    cdef int i, v
    for i in range(n):
        w[i] = splat(weight_of(network, 0)[i])
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
            add_to(gradient, 0, network.layers[0].weight + i, sum_of_lanes(dw[i * VECTORS] + dw[i * VECTORS + 1]))
        if bias != NULL:
            add_to(gradient, 0, network.layers[0].bias, sum_of_lanes(db[0] + db[1]))
    return sum_of_lanes(loss[0] + loss[1])


cdef double line_tile(
    Network* network, Features x, const real* y, Py_ssize_t count, real weight, GradientSum gradient,
) noexcept nogil:
    """`gradient_tile` for a single linear layer with one output and few inputs: both passes in one.

    Two passes would compute too little to hide the memory latency of the next tile: one pass takes half the time.
    """
    if network.layers[0].n_in == 1:
        return line_of(1, network, x, y, count, weight, gradient)
    if network.layers[0].n_in == 2:
        return line_of(2, network, x, y, count, weight, gradient)
    if network.layers[0].n_in == 3:
        return line_of(3, network, x, y, count, weight, gradient)
    return line_of(4, network, x, y, count, weight, gradient)
