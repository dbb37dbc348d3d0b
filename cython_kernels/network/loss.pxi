"""The loss of a tile, and its gradient with respect to the outputs.

A loss is one function with the signature of `squared_error`: for a vector of outputs and their targets it returns the gradient
with respect to the outputs and adds the loss to a total. It depends neither on the batch nor on the last activation:
`loss_panel` multiplies by 1 / normaliser and by f', and masks the padding lanes.
"""

cdef inline double normaliser(Py_ssize_t count) noexcept nogil:
    """The divisor of the sums over a batch of `count` examples, of the loss and of its gradient."""
    return count


cdef inline vreal squared_error(vreal prediction, vreal y, vreal* total) noexcept nogil:
    """The squared error of one vector of outputs: returns its gradient with respect to the outputs, adds its value to total."""
    cdef vreal difference = prediction - y
    total[0] = multiply_add(difference, difference, total[0])
    return difference + difference


cdef inline void loss_panel(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y, vreal* total,
) noexcept nogil:
    """`loss_stage` of some outputs of one panel; only its first `count` examples are not padding."""
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
                loss = total[v] + keep_first_lanes(loss, count - v * LANES)
                gradient = keep_first_lanes(gradient, count - v * LANES)
            total[v] = loss
            store(outputs + place, gradient)


cdef inline void loss_by(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y, double* loss_sum,
) noexcept nogil:
    cdef Py_ssize_t n, left = n_outputs, terms = 0
    cdef vreal total[VECTORS]       # a single accumulator would be latency-bound
    cdef double loss = 0
    cdef int v
    for v in range(VECTORS):
        total[v] = splat(0)
    while count > 0:
        n = minimum(left, SUM_BLOCK)
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
    loss_sum[0] = loss + sum_of_lanes(total[0] + total[1])


ctypedef void (*LossBy)(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y, double* loss_sum,
) noexcept nogil
cdef extern from "vector.h" nogil:
    void loss_of "AS_ACTIVATION"(int n_activations, LossBy, int activation, ...)


cdef double loss_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
) noexcept nogil:
    """The loss of a tile, summed over its examples, without the factor `weight`.

    outputs: activations on entry, deltas on return (weight * gradient * f'). Padding lanes contribute nothing.
    """
    cdef double loss
    loss_of(N_ACTIVATIONS, loss_by, activation, n_outputs, count, weight, outputs, y, &loss)
    return loss


cdef void given_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real* outputs, const real* gradient,
) noexcept nogil:
    """Replaces the loss by the caller's gradient with respect to the outputs: activations on entry, deltas on return."""
    cdef Py_ssize_t p, i, v, place
    cdef vreal delta
    for p in range(panels(count)):
        for i in range(n_outputs):
            for v in range(VECTORS):
                place = (p * n_outputs + i) * PANEL + v * LANES
                delta = times_derivative(activation, load(gradient + place), load(outputs + place))
                store(outputs + place, keep_first_lanes(delta, count - p * PANEL - v * LANES))
