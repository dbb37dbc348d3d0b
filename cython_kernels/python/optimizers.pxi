"""A Python optimizer as an `Update` struct, and the functions that Python's optimizers call."""

cdef long long LAST_STEP = 1 << 53      # most steps of an optimizer: float64, as in the bias correction, is exact up to it

# The name and the number of states of each `Rule`, in the order of that enum.
RULES = {name: states_of(rule) for rule, name in enumerate(("none", "sgd", "momentum", "adagrad", "rmsprop", "adam"))}
MOST_STEPS = LAST_STEP


cdef struct Constants:
    # The bytes that Optimizer._pack returns: reading an attribute for each, or a tuple, takes 3 % of a small step.
    long long rule
    long long nesterov
    long long bias_correction
    long long factored
    double decay
    double decay2
    double eps
    double log_decay
    double log_decay2
    double clip_norm
    double weight_decay


cdef object read_update(Update* u, optimizer, cnp.ndarray parameters, Py_ssize_t columns, bint honour_lr):
    """Fills in u from a fusegrad.optimizers.Optimizer, and makes or checks its state (rows, columns).

    Returns the state and the factors, which must be held while u points into them: another thread may replace the state.
    honour_lr: read the learning rate through `lr`, which a subclass may have overridden.
    """
    cdef object state = optimizer.state, n_steps = optimizer.n_steps, factors
    cdef bytes packed = optimizer._constants
    cdef Constants constants
    cdef Py_ssize_t rows
    cdef int overflow
    if packed is None or len(packed) != sizeof(Constants):
        raise TypeError(f"optimizer: expected the constants that its class packs, got {packed!r}")
    memcpy(&constants, <const char*>packed, sizeof(Constants))
    u.rule = <int>constants.rule
    if not SGD <= u.rule < N_RULES:
        raise TypeError(f"optimizer: expected one of the rules of its class, got number {u.rule}")
    rows = states_of(u.rule)
    u.nesterov = constants.nesterov != 0
    u.bias_correction = constants.bias_correction != 0
    u.decay = constants.decay
    u.decay2 = constants.decay2
    u.eps = constants.eps
    u.log_decay = constants.log_decay
    u.log_decay2 = constants.log_decay2
    u.clip_norm = constants.clip_norm
    u.weight_decay = constants.weight_decay
    u.learning_rate = optimizer.lr if honour_lr else optimizer._lr
    u.step = PyLong_AsLongLongAndOverflow(n_steps, &overflow) if PyLong_CheckExact(n_steps) else -1
    if not (is_state(state, rows, columns) and 0 <= u.step < LAST_STEP):
        optimizer.prepare(parameters)
        state = optimizer.state
        u.step = optimizer.n_steps
        if not is_state(state, rows, columns):
            raise ValueError(f"optimizer: expected a state of {rows} rows of {columns} parameters, got {state!r}")
    set_scale(u, optimizer._exponent if has_squares(u.rule) else 0)
    if not cnp.PyArray_ISWRITEABLE(parameters):
        raise ValueError("parameters: expected a writable array, got a read-only one")
    u.far = columns * <Py_ssize_t>sizeof(real) > MEMORY_BYTES
    u.first = NULL
    u.second = NULL
    if rows > 0:
        u.first = <real*>cnp.PyArray_DATA(<cnp.ndarray>state)
    if rows > 1:
        u.second = u.first + columns
    u.factors = NULL
    if constants.factored:
        factors = optimizer._flat_factors(parameters)
        u.factors = read_flat("learning_rate_factors", factors, columns)
        return state, factors
    return state


def optimizer_step(optimizer, cnp.ndarray parameters not None, cnp.ndarray gradient not None):
    """One update of parameters, in place. Increments optimizer.n_steps."""
    cdef Update u
    cdef bint squarable
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters), first, last
    cdef real* w = read_flat("parameters", parameters, n)
    cdef const real* g = read_flat("gradient", gradient, n)
    cdef object _held = read_update(&u, optimizer, parameters, n, True)
    cdef double factor = 1
    cdef cnp.ndarray clipped
    if u.clip_norm > 0:
        factor = clipping(u.clip_norm, squares_of_parts(g, n), g, n)
    if factor < 1:
        clipped = np.empty(n, parameters.dtype)
        scale(g, n, factor, read_flat("clipped", clipped, n))
        g = read_flat("clipped", clipped, n)
    with nogil:
        squarable = all_within(u.largest_gradient, g, 0, n) or rescale_states(&u, g, n)
    if not squarable:
        raise ValueError("gradient: expected finite numbers, got others; parameters and state are unchanged")
    if u.weight_decay > 0:
        for first, last in optimizer._weights or ((0, n),):
            if not 0 <= first <= last <= n:
                raise ValueError(f"optimizer: expected the weights of {n} parameters, got {first} to {last}")
            decay(&u, w, first, last)
    with nogil:
        begin_update(&u)
        update(&u, w, g, 0, n)
    count_steps(optimizer, &u, u.step + 1)


def look_ahead_point(cnp.ndarray parameters not None, cnp.ndarray velocity not None, double momentum):
    """W + mu v, a new array: where Nesterov's rule takes the gradient."""
    cdef Update u
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters)
    cdef cnp.ndarray point = np.empty(n, parameters.dtype)
    u.first = read_flat("velocity", velocity, n)
    u.decay = momentum
    look_ahead(&u, read_flat("parameters", parameters, n), read_flat("point", point, n), n)
    return point
