"""The walk: tiles of examples go forward through every layer, meet the loss, and come back.

    X ──pack──▶ x ──▶ a1 ──▶ a2 ──▶ ... ──▶ ŷ ──loss──▶ δL ──▶ ... ──▶ δ1 ──▶ (input gradient)
                 └──────┴───── in the core's own cache ─────┘   └─ each adds to the gradient

Design. A batch is cut into *blocks*, a block into *tiles*. A tile keeps all its activations in the L2
cache (the plan chooses its size), so Z, A and delta never exist for the whole batch and X is read from
memory once. A block has its own slot for the gradient it adds up; slots are added in order. Where
blocks begin depends on the shapes alone, never on the threads, so any number of threads gives the
same bits; threads take blocks in turn.

`train` is one parallel region for a whole fit. Every thread runs the same loop with its own copy of the
walk and the update, and meets the others at three barriers a step. Thread 0 is the caller: it alone
shuffles, and now and then comes up for air to let Python handle a signal.

Rejected: a region for each layer or step (fork and join cost more than a small step); a slot for each
thread (other bits for other thread counts); atomics (the same, and slow).
"""

cdef extern from * nogil:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FUSEGRAD_BARRIER _Pragma("omp barrier")
    #else
    #define FUSEGRAD_BARRIER
    static inline int omp_get_thread_num(void) { return 0; }
    static inline int omp_get_num_threads(void) { return 1; }
    #endif
    /* Every thread of the region must come here. */
    static inline void wait_for_all(int n_threads) { if (n_threads > 1) { FUSEGRAD_BARRIER } }
    static inline void raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
    static inline int is_raised(int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
    """
    int omp_get_thread_num()
    int omp_get_num_threads()   # in a region; the runtime may give fewer than were asked for
    void wait_for_all(int n_threads)
    void raise_flag(int* flag)
    bint is_raised(int* flag)

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


cdef inline const real* weight_of(Walk* walk, Py_ssize_t layer) noexcept nogil:
    return walk.parameters + walk.layers[layer].weight


cdef inline const real* bias_of(Walk* walk, Py_ssize_t layer) noexcept nogil:
    if walk.layers[layer].bias < 0:
        return NULL
    return walk.parameters + walk.layers[layer].bias


# ---- the loss ----------------------------------------------------------------------------------------

cdef inline vreal squared_error(vreal prediction, vreal y, vreal* gradient) noexcept nogil:
    """A loss for one vector of outputs: its value, and its gradient on the prediction."""
    cdef vreal difference = prediction - y
    gradient[0] = difference + difference
    return difference * difference


cdef double loss_stage(
    int activation, Py_ssize_t n_outputs, Py_ssize_t count, real weight, real* outputs, const real* y,
) noexcept nogil:
    """The end of the forward walk: the sum of the loss over a tile, before the factor `weight`.

    outputs: activations in, deltas out (weight * gradient * f'). Spare lanes weigh nothing.
    """
    cdef Py_ssize_t p, i, v, place
    cdef vreal gradient, loss, total = splat(0)
    cdef real lanes[LANES]
    cdef double tile_loss = 0
    for p in range(panels(count)):
        for i in range(n_outputs):
            for v in range(VECTORS):
                place = (p * n_outputs + i) * PANEL + v * LANES
                loss = squared_error(load(outputs + place), load(y + place), &gradient)
                gradient = times_derivative(activation, splat(weight) * gradient, load(outputs + place))
                if p * PANEL + (v + 1) * LANES > count:
                    loss = first_lanes(loss, count - p * PANEL - v * LANES)
                    gradient = first_lanes(gradient, count - p * PANEL - v * LANES)
                total = total + loss
                store(outputs + place, gradient)
    store(lanes, total)
    for i in range(LANES):
        tile_loss += lanes[i]
    return tile_loss


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

cdef real* forward_tile(Walk* walk, Py_ssize_t first, Py_ssize_t count, real* scratch) noexcept nogil:
    """Packs a tile into scratch and walks it up; the activations lie one after another. Returns the last."""
    cdef Py_ssize_t i
    cdef real* x = scratch
    cdef real* a
    pack_tile(walk.x, walk.order, first, count, x)
    for i in range(walk.n_layers):
        a = x + walk.layers[i].n_in * walk.tile
        if walk.outputs.data != NULL:
            pack_tile(walk.outputs, walk.order, first, count, a)
        else:
            dense_forward(&walk.layers[i], weight_of(walk, i), bias_of(walk, i), x, a, panels(count))
        x = a
    return x


cdef double gradient_tile(
    Walk* walk, Py_ssize_t first, Py_ssize_t count, real weight, real* scratch, real* gradient,
) noexcept nogil:
    """Walks a tile up and down and adds to the gradient; returns the sum of the loss before `weight`.

    With gradient NULL it goes up only.
    """
    cdef Py_ssize_t i = walk.n_layers - 1, n_panels = panels(count)
    cdef Layer* layer = &walk.layers[i]
    cdef real* delta = forward_tile(walk, first, count, scratch)
    cdef real* y = delta + layer.n_out * walk.tile
    cdef real* transposed = y + layer.n_out * walk.tile
    cdef real* x
    cdef double loss = 0
    pack_tile(walk.y, walk.order, first, count, y)
    if walk.outputs.data != NULL:
        given_stage(<int>layer.activation, layer.n_out, count, delta, y)
    else:
        loss = loss_stage(<int>layer.activation, layer.n_out, count, weight, delta, y)
    while i >= 0 and gradient != NULL:
        layer = &walk.layers[i]
        x = delta - layer.n_in * walk.tile
        dense_backward(
            layer, x, delta, n_panels, gradient + layer.weight,
            NULL if layer.bias < 0 else gradient + layer.bias, transposed)
        if i > 0:
            delta_below(layer, weight_of(walk, i), delta, x, n_panels, <int>walk.layers[i - 1].activation)
        elif walk.input_gradient.data != NULL:
            delta_below(layer, weight_of(walk, i), delta, x, n_panels, IDENTITY)
            unpack_tile(x, walk.input_gradient, first, count)
        delta = x
        i -= 1
    return loss
