"""The loss of a tile, and its gradient with respect to the outputs.

    L = sum_i w_i l_i / sum_i w_i       over the examples i of a batch, w_i = 1 without weights

A loss is a function of the outputs and targets of one example, with one parameter; it depends neither on the batch nor on
the last activation. `loss_stage` is its only caller: it multiplies by w_i / sum w and by f', and masks the padding lanes.

    SOFTMAX_CROSS_ENTROPY, MULTICLASS_HINGE     functions of all outputs of an example: `example_losses`
    the others                                  sums over outputs: `output_loss` of one vector

Targets are (n_outputs, m), or class numbers (1, m), which are compared with the number of each output.

Range. Outputs of any finite size have the right gradient, and a loss that is not finite only where float64 cannot hold it (the
squared error: where its dtype cannot): values are added times LOSS_UNIT, so that neither the difference of two outputs nor the
sum of thousands of losses overflows. Sums over outputs are made in blocks (gemm/sums.pxi).
The logarithm of a sum of exponentials is that of 1 + the sum without the largest: no digit of a small loss is lost.
Cross-entropies take exponentials below NEGLIGIBLE (2^-96, 2^-992) for 0. Their products with inputs and weights would be
subnormal, which takes 100 cycles for each operation: 6 times the step of a classifier that fits its data very well.

The squared error has a loop of its own, whose sums, not scaled, are in registers: it is a tenth of the step of a small network.
Rejected: losses per example in a buffer, multiplied by the weights afterwards (one more pass); one-hot targets (as many
values to read as there are outputs); the derivative of the activation as a constant for each loss, too (28 loops).
"""

cdef struct OutputTile:
    # The last layer's outputs of a tile, their targets and weights.
    real* outputs           # activations on entry, deltas on return
    Py_ssize_t n_outputs
    Py_ssize_t count        # examples; the other lanes of the last panel are padding
    int activation
    const real* y
    Py_ssize_t y_rows       # n_outputs, or 1: class numbers
    const real* weights     # of the examples; NULL: 1


cdef enum:
    LOSS_BLOCK = 64         # outputs that are added sequentially; of the squared error SUM_BLOCK

cdef real LOSS_UNIT = 1. / (1 << 16)
cdef real NEGLIGIBLE = SMALLEST_NORMAL * (1 << 30)      # so far from it, since it is divided by m and multiplied by inputs


# ---- the squared error ---------------------------------------------------------------------------------

cdef inline vreal squared_error(vreal prediction, vreal y, vreal* total) noexcept nogil:
    """The squared error of one vector of outputs: returns its gradient with respect to the outputs, adds its value to total."""
    cdef vreal difference = prediction - y
    total[0] = multiply_add(difference, difference, total[0])
    return difference + difference


cdef inline void squared_error_panel(
    const int activation, const bint weighted, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs,
    const real* y, const real* weights, vreal* total,
) noexcept nogil:
    """Some outputs of one panel; only its first `count` examples are not padding."""
    cdef vreal gradient, loss, of_example
    cdef Py_ssize_t i, place
    cdef int v
    for i in range(n_outputs):
        for v in range(VECTORS):
            place = i * PANEL + v * LANES
            loss = total[v] if count == PANEL and not weighted else splat(0)
            gradient = squared_error(load(outputs + place), load(y + place), &loss)
            gradient = times_derivative(activation, splat(weight) * gradient, load(outputs + place))
            if weighted:
                of_example = load(weights + v * LANES)
                gradient = gradient * of_example
                loss = loss * of_example
            if count < PANEL:
                loss = keep_first_lanes(loss, count - v * LANES)
                gradient = keep_first_lanes(gradient, count - v * LANES)
            if count < PANEL or weighted:
                loss = total[v] + loss
            total[v] = loss
            store(outputs + place, gradient)


cdef inline void squared_error_by(
    const int activation, const bint weighted, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs,
    const real* y, const real* weights, double* loss_sum,
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
            squared_error_panel(activation, weighted, n, PANEL, weight, outputs, y, weights, total)
        else:
            squared_error_panel(activation, weighted, n, count, weight, outputs, y, weights, total)
        terms += n
        outputs += n * PANEL
        y += n * PANEL
        left -= n
        if left == 0:
            left = n_outputs
            count -= PANEL
            if weighted:
                weights += PANEL
    loss_sum[0] = loss + sum_of_lanes(total[0] + total[1])


cdef inline void squared_error_of(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
    const real* weights, double* loss_sum,
) noexcept nogil:
    if weights == NULL:
        squared_error_by(activation, False, n_outputs, count, weight, outputs, y, weights, loss_sum)
    else:
        squared_error_by(activation, True, n_outputs, count, weight, outputs, y, weights, loss_sum)


ctypedef void (*SquaredErrorOf)(
    const int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
    const real* weights, double* loss_sum) noexcept nogil
cdef extern from "vector.h" nogil:
    void squared_error_as "AS_ACTIVATION"(int n_activations, SquaredErrorOf, int activation, ...)


# ---- losses of single outputs --------------------------------------------------------------------------

cdef inline vreal without_negligible(vreal v) noexcept nogil:
    """v >= 0, or 0 where it is negligible. NaN stays."""
    return choose_greater(splat(NEGLIGIBLE), v, splat(0), v)


cdef inline vreal half_deviance(vreal prediction, vreal y, vreal e) noexcept nogil:
    """e - y z + y log y - y, e = exp(z), of a prediction z: near the optimum y (exp(d) - 1 - d), d = z - log y, since all
    terms of the sum cancel."""
    cdef vreal n, low = log_parts(y, y - splat(1), &n), d, below, near
    d = multiply_add(n, splat(-LOG_TWO_HIGH), prediction) - low
    below = exp_minus_one(magnitude(d))         # exp(-|d|) - 1; exp(d) - 1 = -below / (1 + below) if d > 0
    near = choose_greater(d, splat(0), -below / (splat(1) + below), below)
    return choose_greater(
        splat(1), magnitude(d), y * (near - d),
        (e - y * prediction) + y * (multiply_add(n, splat(LOG_TWO_HIGH), low) - splat(1)))   # also of a y of 0


cdef inline vreal output_loss(const int kind, vreal parameter, vreal prediction, vreal y, vreal* value) noexcept nogil:
    """The gradient and the value, times LOSS_UNIT, of one vector of outputs. NaN where the prediction is."""
    cdef vreal unit = splat(LOSS_UNIT), zero = splat(0), one = splat(1)
    cdef vreal difference = prediction - y, scaled = unit * prediction - unit * y, e, inverse    # scaled never overflows
    if kind == HUBER:
        e = at_most(parameter, magnitude(difference))
        value[0] = e * (magnitude(scaled) - splat(0.5) * (unit * e))
        return at_most(parameter, at_least(-parameter, difference))
    if kind == QUANTILE:
        value[0] = at_least(zero, parameter * -scaled) + at_least(zero, (one - parameter) * scaled)
        e = choose_greater(difference, zero, one - parameter, zero)
        return choose_greater(zero, difference, -parameter, e) + (scaled - scaled)
    if kind == POISSON:
        e = exponential(prediction)
        if first_lane(parameter) > 0:
            value[0] = unit * half_deviance(prediction, y, e)
        else:
            value[0] = unit * (e - y * prediction)
        return e - y
    # BINARY_CROSS_ENTROPY, with e = exp(-|z|): sigmoid(z) = 1 / (1 + e), or e / (1 + e) if z is negative
    e = without_negligible(exp_negative(magnitude(prediction)))
    inverse = one / (one + e)
    # max(z, 0) - y z, without a difference of two large numbers
    value[0] = choose_greater(prediction, zero, one - y, -y) * (unit * prediction) + unit * logarithm(one + e, e)
    return choose_greater(prediction, zero, (one - y) - e * inverse, e * inverse - y)


cdef inline double output_losses(
    const int kind, const Loss* loss, const OutputTile* t, Py_ssize_t panel, real weight,
) noexcept nogil:
    """The sum over the outputs of one panel."""
    cdef Py_ssize_t i, start = 0, stop, n = t.count - panel * PANEL
    cdef real* outputs = t.outputs + panel * t.n_outputs * PANEL
    cdef const real* y = t.y + panel * t.n_outputs * PANEL
    cdef vreal of_example, value, gradient
    cdef vreal total[VECTORS]
    cdef double sum_of_blocks = 0
    cdef int v
    while start < t.n_outputs:
        stop = minimum(start + LOSS_BLOCK, t.n_outputs)
        for v in range(VECTORS):
            total[v] = splat(0)
            of_example = splat(1) if t.weights == NULL else load(t.weights + panel * PANEL + v * LANES)
            for i in range(start, stop):
                gradient = output_loss(
                    kind, splat(loss.parameter), load(outputs + i * PANEL + v * LANES), load(y + i * PANEL + v * LANES), &value)
                gradient = times_derivative(t.activation, splat(weight) * gradient, load(outputs + i * PANEL + v * LANES))
                total[v] = total[v] + keep_first_lanes(of_example * value, n - v * LANES)
                store(outputs + i * PANEL + v * LANES, keep_first_lanes(of_example * gradient, n - v * LANES))
        sum_of_blocks += sum_of_lanes(total[0] + total[1])
        start = stop
    return sum_of_blocks


# ---- losses of all outputs of an example ---------------------------------------------------------------

cdef inline vreal largest(const real* z, Py_ssize_t n, vreal* place) noexcept nogil:
    """The largest of n outputs, and its number; the first one of several. NaN if the first output is."""
    cdef vreal top = load(z), number = splat(0), next
    cdef Py_ssize_t i
    for i in range(1, n):
        next = load(z + i * PANEL)
        number = choose_greater(next, top, splat(<real>i), number)
        top = choose_greater(next, top, next, top)
    place[0] = number
    return top


cdef struct Examples:
    # The outputs of one vector of examples, and what the sums over them need.
    real* z                 # a row of PANEL elements for each output
    Py_ssize_t n
    const real* y
    bint classes            # y: class numbers
    real parameter
    vreal top               # the largest output, and its number
    vreal place
    vreal right             # the output of the right class

ctypedef void (*OutputSums)(const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums) noexcept nogil


cdef void sum_blocks(OutputSums of_block, const Examples* t, int n_sums, vreal* sums) noexcept nogil:
    cdef real block[LANES]
    cdef double totals[3][LANES]
    cdef Py_ssize_t start = 0
    cdef int i
    memset(totals, 0, sizeof(totals))
    while start + LOSS_BLOCK < t.n:
        of_block(t, start, start + LOSS_BLOCK, sums)
        for i in range(n_sums):
            store(block, sums[i])
            add_block(block, LANES, False, totals[i])
        start += LOSS_BLOCK
    of_block(t, start, t.n, sums)
    for i in range(n_sums):
        store(block, sums[i])
        round_totals(totals[i], block, LANES, block)
        sums[i] = load(block)


cdef inline void sum_outputs(OutputSums of_block, const Examples* t, int n_sums, vreal* sums) noexcept nogil:
    """n_sums sums over the outputs, at most 3. Inlined, so that the compiler sees which function is called."""
    if t.n <= LOSS_BLOCK:
        of_block(t, 0, t.n, sums)
    else:
        sum_blocks(of_block, t, n_sums, sums)


cdef inline void sum_others(
    const bint keep_negligible, const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums,
) noexcept nogil:
    """z = exp(z - top), and the sum of all but that at `place`, which is 1."""
    cdef vreal top = t.top, place = t.place, others = splat(0), e
    cdef Py_ssize_t i
    for i in range(start, stop):
        e = exp_negative(top - load(t.z + i * PANEL))
        if not keep_negligible:
            e = without_negligible(e)
        store(t.z + i * PANEL, e)
        others = others + choose_equal(place, splat(<real>i), splat(0), e)
    sums[0] = others


cdef inline void sum_all_others(const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums) noexcept nogil:
    sum_others(True, t, start, stop, sums)


cdef inline void sum_some_others(const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums) noexcept nogil:
    sum_others(False, t, start, stop, sums)


cdef inline vreal target_of(const real* y, bint classes, Py_ssize_t i) noexcept nogil:
    """The target of output i."""
    if classes:
        return choose_equal(load(y), splat(<real>i), splat(1), splat(0))
    return load(y + i * PANEL)


cdef inline void sum_targets(const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums) noexcept nogil:
    """The sums of the targets, of their products with the gaps to the largest output, and with label smoothing of the gaps,
    whose product with a small share would be lost beside that with a target of 1."""
    cdef vreal unit = splat(LOSS_UNIT), top = unit * t.top, targets = splat(0), products = splat(0), gaps = splat(0), target, gap
    cdef Py_ssize_t i
    for i in range(start, stop):
        target = target_of(t.y, t.classes, i)
        gap = top - unit * load(t.z + i * PANEL)
        targets = targets + target
        products = products + target * gap
        if t.parameter > 0:
            gaps = gaps + gap
    sums[0], sums[1], sums[2] = targets, products, gaps


cdef inline vreal softmax_cross_entropy(Examples* t) noexcept nogil:
    """The value of one vector of examples, times LOSS_UNIT; z becomes the gradient. The parameter is the label smoothing."""
    cdef vreal sums[3]
    cdef vreal total, others, target, inverse, value
    cdef vreal share = splat(t.parameter / <real>t.n), kept = splat(1 - t.parameter)
    cdef Py_ssize_t i
    t.top = largest(t.z, t.n, &t.place)
    sum_outputs(sum_targets, t, 3, sums)
    total = multiply_add(kept, sums[0], splat(t.parameter))     # 1, except for rounding
    value = multiply_add(share, sums[2], kept * sums[1])
    sum_outputs(sum_some_others, t, 1, sums)
    others = sums[0]
    inverse = total / (splat(1) + others)
    # The largest probability is 1 - the others only where that keeps digits.
    t.place = choose_greater(splat(1), others, t.place, splat(-1))
    for i in range(t.n):
        target = multiply_add(kept, target_of(t.y, t.classes, i), share)
        store(t.z + i * PANEL, choose_equal(
            t.place, splat(<real>i), (total - target) - others * inverse, load(t.z + i * PANEL) * inverse - target))
    return value + splat(LOSS_UNIT) * total * logarithm(splat(1) + others, others)


cdef inline void sum_margins(const Examples* t, Py_ssize_t start, Py_ssize_t stop, vreal* sums) noexcept nogil:
    """The sum of the margins that are violated, times LOSS_UNIT, and their number; z becomes 1 for these, else 0."""
    cdef vreal unit = splat(LOSS_UNIT), zero = splat(0), value = zero, violations = zero, above, one
    cdef vreal margin = splat(t.parameter), right = unit * t.right
    cdef Py_ssize_t i
    for i in range(start, stop):
        above = multiply_add(unit, margin, unit * load(t.z + i * PANEL) - right)
        above = choose_equal(load(t.y), splat(<real>i), zero, above)
        value = value + at_least(zero, above)
        one = choose_greater(above, zero, splat(1), zero) + (above - above)
        violations = violations + one
        store(t.z + i * PANEL, one)
    sums[0], sums[1] = value, violations


cdef inline vreal multiclass_hinge(Examples* t) noexcept nogil:
    """As `softmax_cross_entropy`. The parameter is the margin."""
    cdef vreal sums[3]
    cdef Py_ssize_t i
    t.right = splat(0)
    for i in range(t.n):
        t.right = choose_equal(load(t.y), splat(<real>i), load(t.z + i * PANEL), t.right)
    sum_outputs(sum_margins, t, 2, sums)
    for i in range(t.n):
        store(t.z + i * PANEL, choose_equal(load(t.y), splat(<real>i), -sums[1], load(t.z + i * PANEL)))
    return sums[0]


cdef inline double example_losses(
    const int kind, const Loss* loss, const OutputTile* t, Py_ssize_t panel, real weight,
) noexcept nogil:
    """The losses of the examples of one panel. The last activation is the identity."""
    cdef Py_ssize_t i, n = t.count - panel * PANEL
    cdef real* z
    cdef vreal value, scale
    cdef vreal total[VECTORS]
    cdef Examples examples
    cdef int v
    examples.n, examples.classes, examples.parameter = t.n_outputs, t.y_rows < t.n_outputs, loss.parameter
    for v in range(VECTORS):
        z = t.outputs + panel * t.n_outputs * PANEL + v * LANES
        examples.z, examples.y = z, t.y + panel * t.y_rows * PANEL + v * LANES
        scale = splat(1) if t.weights == NULL else load(t.weights + panel * PANEL + v * LANES)
        if kind == SOFTMAX_CROSS_ENTROPY:
            value = softmax_cross_entropy(&examples)
        else:
            value = multiclass_hinge(&examples)
        total[v] = keep_first_lanes(scale * value, n - v * LANES)
        scale = splat(weight) * scale
        for i in range(t.n_outputs):
            store(z + i * PANEL, keep_first_lanes(scale * load(z + i * PANEL), n - v * LANES))
    return sum_of_lanes(total[0] + total[1])


# ---- the stage -----------------------------------------------------------------------------------------

cdef inline void losses_by(const int kind, const Loss* loss, const OutputTile* t, real weight, double* loss_sum) noexcept nogil:
    cdef double value = 0
    cdef Py_ssize_t panel
    for panel in range(panels(t.count)):
        if kind >= SOFTMAX_CROSS_ENTROPY:
            value += example_losses(kind, loss, t, panel, weight)
        else:
            value += output_losses(kind, loss, t, panel, weight)
    loss_sum[0] = value


ctypedef void (*LossesBy)(const int kind, const Loss* loss, const OutputTile* t, real weight, double* loss_sum) noexcept nogil
cdef extern from "vector.h" nogil:
    void losses_of "AS_CONSTANT"(int most, LossesBy, int kind, ...)


cdef double squared_error_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y, const real* weights,
) noexcept nogil:
    cdef double value
    squared_error_as(OTHER, squared_error_of, activation, n_outputs, count, weight, outputs, y, weights, &value)
    return value


cdef double other_stage(const Loss* loss, const OutputTile* t, real weight) noexcept nogil:
    cdef double value
    losses_of(N_LOSSES - 1, losses_by, loss.kind, loss, t, weight, &value)
    return value


cdef inline double loss_stage(const Loss* loss, const OutputTile* t, real weight) noexcept nogil:
    """The loss of a tile, summed over its examples, without the factor `weight`; times LOSS_UNIT, unless it is the
    squared error.

    t.outputs: activations on entry, deltas on return (weight * w_i * gradient * f'). Padding lanes contribute nothing.
    """
    if loss.kind == MEAN_SQUARED_ERROR:
        return squared_error_stage(t.activation, t.n_outputs, t.count, weight, t.outputs, t.y, t.weights)
    return other_stage(loss, t, weight)


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


# ---- probabilities -------------------------------------------------------------------------------------

cdef enum Link:         # from outputs to probabilities
    LOGIT_LINK = 1      # sigmoid(z)
    SOFTMAX_LINK = 2


cdef void to_probabilities(int link, Py_ssize_t n_outputs, Py_ssize_t n_panels, real* outputs) noexcept nogil:
    """The outputs of a tile become probabilities."""
    cdef vreal sums[3]
    cdef vreal inverse
    cdef Examples t
    cdef Py_ssize_t panel, i
    cdef int v
    if link == LOGIT_LINK:
        activate(SIGMOID, outputs, outputs, n_panels * n_outputs * PANEL)
    if link != SOFTMAX_LINK:
        return
    for panel in range(n_panels):
        for v in range(VECTORS):
            t.z, t.n = outputs + panel * n_outputs * PANEL + v * LANES, n_outputs
            t.top = largest(t.z, t.n, &t.place)
            sum_outputs(sum_all_others, &t, 1, sums)
            inverse = splat(1) / (splat(1) + sums[0])
            for i in range(t.n):
                store(t.z + i * PANEL, load(t.z + i * PANEL) * inverse)
