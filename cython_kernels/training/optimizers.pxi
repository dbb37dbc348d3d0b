"""The update rules, one loop over flat buffers each: W, its gradient g, the learning rate a, up to two states.

    SGD       W -= a g
    MOMENTUM  v = mu v - a g;  W += v                     Nesterov: g at W + mu v
    ADAGRAD   c += g^2;                     W -= a g / (sqrt c + eps)
    RMSPROP   c = d c + (1 - d) g^2;        W -= a g / (sqrt c + eps)
    ADAM      m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
              W -= a m' / (sqrt v' + eps),  m' = m / (1 - b1^t), v' = v / (1 - b2^t), or m and v themselves

The arithmetic is in the dtype of the parameters, the factors are computed in float64. With r = sqrt(1 - b2^t), Adam's
sqrt v' + eps is (sqrt v + eps r) / r: r goes into the factors.

Factors go into products that are there anyway: 1 - d of a square into that of g, (sqrt(1 - d) g)^2; 2^-exponent (see below) into
the same; a into W - a q, a multiply-add. So a quotient q that underflows is lost, whatever a is: with an eps of 10^10, say.
A vector of Adam's update takes 19 operations with AVX-512, and two of them start in a cycle.

Averages that have decayed below the smallest normal number are set to 0: if the gradient stays 0 (a dead ReLU) they would remain
subnormal, and an operation on a subnormal number takes a hundred cycles. This is done only if the gradient is as small, and for a
second average only together with the first: else the rest of the first average, divided by eps, would move a weight.
It takes a fifth of Adam's time, and is done in every FLUSH_PERIOD-th step; in each, if the states come from
memory, where it costs nothing, or there are learning_rate_factors.

Overflow: a square overflows where its root does not. The rules with squares do not change if gradients, states and eps are
scaled by one factor. So if the sum of 2^28 squares of an element of the gradient would overflow, the states are rescaled by
2^-exponent (first averages) and by its square (averages of squares). The optimizer stores the exponent, which is 0
unless there have been such gradients.

Underflow: a square underflows where its root does not. In exact arithmetic the root of an average of squares is at least a
known fraction of |g|, or of |m| (Cauchy and Schwarz). A root below that bound is replaced by it, so that no step is longer
than the rule allows, for any eps; if the squares are normal numbers, it changes nothing.
"""

from libc.math cimport expm1, fabs, frexp, ldexp, sqrt

cdef enum Rule:     # in the order of `RULES`; `states_of` and `has_squares` depend on it
    NO_UPDATE
    SGD
    MOMENTUM
    ADAGRAD
    RMSPROP
    ADAM
    N_RULES


cdef inline int states_of(int rule) noexcept nogil:
    """How many states an update keeps; each is as large as the parameters."""
    return 2 if rule == ADAM else 1 if rule > SGD else 0


cdef inline bint has_squares(int rule) noexcept nogil:
    return rule > MOMENTUM


cdef struct Update:
    int rule
    bint nesterov
    bint bias_correction
    double learning_rate
    double decay            # momentum, or the decay of the (first) average
    double decay2           # of the second average
    double eps
    double clip_norm        # limit of the norm of the gradient; 0: none
    double weight_decay     # AdamW's, of weights: see `decay_weights`
    double log_decay        # logarithms of the decays: 1 - decay^t by pow would lose digits where decay is near 1
    double log_decay2
    long long step          # updates made so far
    int exponent            # the rules with squares scale gradients by 2^-exponent
    real unit               # 2^-exponent
    real gain               # factor of g: in the first average of Adam, in the quotient of the other rules
    real square_gain        # factor of g before it is squared
    real largest_gradient   # the largest element of a gradient that can be squared at this scale
    bint far                # parameters and states come from memory
    real* first             # the states, as many as `states_of` says
    real* second
    const real* factors     # of the learning rate, one for each parameter; NULL: 1
    # Constants of one update, set by `begin_update`.
    real rate
    real root_eps           # eps at the scale of the root of the average of squares
    real least_root         # lower bound of that root, divided by |m| or |g|
    bint flushes            # whether old averages that are subnormal are set to 0

cdef struct Factors:
    vreal rate
    vreal gain
    vreal square_gain
    vreal decay
    vreal decay2
    vreal root_eps
    vreal least_root

cdef int SQUARE_EXPONENT = GREATEST_EXPONENT // 2 - 14     # of a number, 2^28 squares of which can be added without overflow
cdef double LEAST_SQUARES = 1 << 30     # times the smallest normal number: of a sum whose squares may have underflowed
cdef enum:
    FLUSH_PERIOD = 16       # steps
cdef double NEARLY = 0.999      # lowers a bound a little: a rounding error alone must not make it effective


cdef inline void begin_update(Update* u) noexcept nogil:
    """Computes the constants of the next update, number u.step + 1, from its learning rate."""
    cdef double rate = u.learning_rate, r = 1, least = 0, eps, t = <double>(u.step + 1)
    u.flushes = u.factors != NULL
    if u.rule > SGD and (u.far or u.step % FLUSH_PERIOD == 0):
        u.flushes = True
    if not has_squares(u.rule):
        u.rate = <real>rate
        return
    if u.rule == ADAM:
        if u.bias_correction:
            r = sqrt(-expm1(t * u.log_decay2))
            rate = rate * r / -expm1(t * u.log_decay)
        if u.decay * u.decay < u.decay2:
            least = sqrt((1 - u.decay2) * (1 - u.decay * u.decay / u.decay2)) / (1 - u.decay)
        elif u.decay == 0:
            least = 1
    elif u.rule == RMSPROP:
        least = sqrt(1 - u.decay)
    elif u.rule == ADAGRAD:
        least = 1
    u.rate = <real>rate
    eps = u.eps * r * u.unit
    if eps < SMALLEST_NORMAL:           # if all gradients so far were 0, 0 / 0 would be NaN
        eps = SMALLEST_NORMAL
    if eps > GREATEST / 256:            # its inverse is a normal number
        eps = GREATEST / 256
    u.root_eps = <real>eps
    u.least_root = <real>(NEARLY * least)


cdef void set_scale(Update* u, int exponent) noexcept nogil:
    cdef int most = exponent + SQUARE_EXPONENT
    cdef double of_square = 1 if u.rule == ADAGRAD else 1 - u.decay if u.rule == RMSPROP else 1 - u.decay2
    u.exponent = exponent
    u.unit = 1 if exponent == 0 else <real>ldexp(1, -exponent)
    u.gain = <real>((1 - u.decay) * u.unit) if u.rule == ADAM else u.unit
    u.square_gain = <real>(sqrt(of_square) * u.unit)
    u.largest_gradient = GREATEST
    if has_squares(u.rule) and most < GREATEST_EXPONENT:
        u.largest_gradient = <real>ldexp(1, most)


cdef enum:
    FEW_ELEMENTS = 4        # processed one by one: loads and masked stores of several cannot use the store buffer


cdef bint all_within(real limit, const real* values, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Whether the elements start ... stop are finite and none is larger than the limit, whatever its sign."""
    cdef Magnitudes found = no_magnitudes()
    cdef Py_ssize_t i = start
    while i + LANES <= stop:
        found = greatest(found, load(values + i))
        i += LANES
    if stop - i > FEW_ELEMENTS:
        found = greatest(found, load_first(values + i, stop - i))
        i = stop
    while i < stop:
        found = greatest(found, load_first(values + i, 1))
        i += 1
    return not any_exceeds(found, limit)


cdef enum:
    PARAMETER_PART = 1 << 13    # parameters in a part, a multiple of the lanes: threads share the parts
    SQUARE_SUMS = 4             # vectors of sums of squares: one would be latency-bound


cdef inline void add_vectors(const int count, const bint adds, vreal l2, const real* w, real* g, vreal* sums) noexcept nogil:
    """sums += w^2 and, if it adds, g += l2 w, of `count` vectors."""
    cdef vreal v
    cdef int i
    for i in range(count):
        v = load(w + i * LANES)
        sums[i] = multiply_add(v, v, sums[i])
        if adds:
            store(g + i * LANES, multiply_add(l2, v, load(g + i * LANES)))


cdef inline real sum_of_squares_by(
    const bint adds, real l2, const real* w, real* g, Py_ssize_t n, Py_ssize_t room,
) noexcept nogil:
    cdef vreal sums[SQUARE_SUMS]
    cdef vreal v
    cdef Py_ssize_t i = 0
    cdef int j
    for j in range(SQUARE_SUMS):
        sums[j] = splat(0)
    while i + SQUARE_SUMS * LANES <= n:
        add_vectors(SQUARE_SUMS, adds, splat(l2), w + i, g + i, sums)
        i += SQUARE_SUMS * LANES
    while i + LANES <= n:
        add_vectors(1, adds, splat(l2), w + i, g + i, sums)
        i += LANES
    if i < n:
        v = load_first(w + i, n - i)
        sums[1] = multiply_add(v, v, sums[1])
        if adds and i + LANES <= room:
            store(g + i, multiply_add(splat(l2), v, load(g + i)))
            i = n
        while adds and i < n:       # one by one: the next to load them would wait for a masked store
            g[i] = multiply_add_one(l2, w[i], g[i])
            i += 1
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))


cdef real sum_of_squares(const real* values, Py_ssize_t n) noexcept nogil:
    return sum_of_squares_by(False, 0, values, <real*>values, n, n)


cdef real add_penalty(real l2, const real* w, real* g, Py_ssize_t n, Py_ssize_t room) noexcept nogil:
    """g += l2 w for n elements, of `room` that may be read and stored; returns the sum of the squares of w."""
    return sum_of_squares_by(True, l2, w, g, n, room)


cdef double squares_of_parts(const real* values, Py_ssize_t n) noexcept nogil:
    """The sum of squares, part after part, as the threads of a step add it."""
    cdef double total = 0
    cdef Py_ssize_t i = 0
    while i < n:
        total += sum_of_squares(values + i, minimum(PARAMETER_PART, n - i))
        i += PARAMETER_PART
    return total


cdef void scale(const real* values, Py_ssize_t n, double factor, real* out) noexcept nogil:
    """out = factor values; in float64, if the factor is too small for the dtype."""
    cdef real rounded = <real>factor
    cdef Py_ssize_t i
    if rounded > SMALLEST_NORMAL:
        for i in range(n):
            out[i] = values[i] * rounded
    else:
        for i in range(n):
            out[i] = <real>(values[i] * factor)


cdef void decay(const Update* u, real* w, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """AdamW: W -= a lambda W for the elements start ... stop."""
    cdef double most = u.learning_rate * u.weight_decay
    cdef Py_ssize_t i
    if u.factors == NULL:
        scale(w + start, stop - start, 1 - most, w + start)
        return
    for i in range(start, stop):
        w[i] = <real>(w[i] * (1 - most * u.factors[i]))


cdef double clipping(double limit, double squares, const real* g, Py_ssize_t n) noexcept nogil:
    """The factor, at most 1, by which a gradient is multiplied so that its norm is at most the limit; 1 if g is not finite.

    squares: the sum of the squares of g, in parts. If it has overflowed or may have underflowed, it is computed once more.
    """
    cdef double norm = sqrt(squares), largest = 0, total = 0
    cdef Py_ssize_t i
    if not (squares > SMALLEST_NORMAL * LEAST_SQUARES and squares < GREATEST):
        for i in range(n):
            if not isfinite(g[i]):
                return 1
            largest = fabs(g[i]) if fabs(g[i]) > largest else largest
        if largest == 0:
            return 1
        for i in range(n):
            total += (g[i] / largest) * (g[i] / largest)
        norm = largest * sqrt(total)
    return limit / norm if norm > limit else 1


cdef bint rescale_states(Update* u, const real* g, Py_ssize_t n) noexcept nogil:
    """Rescales the states for a gradient that is too large to be squared. False if it is not finite."""
    cdef double largest = 0
    cdef int exponent, turn
    cdef Py_ssize_t i
    for i in range(n):
        if not isfinite(g[i]):
            return False
        if fabs(g[i]) > largest:
            largest = fabs(g[i])
    frexp(largest, &exponent)
    exponent -= SQUARE_EXPONENT - 10       # a margin, so that the next step need not rescale again
    turn = u.exponent - exponent
    for i in range(n):
        u.first[i] = <real>ldexp(u.first[i], turn if u.rule == ADAM else 2 * turn)
        if u.rule == ADAM:
            u.second[i] = <real>ldexp(u.second[i], 2 * turn)
    set_scale(u, exponent)
    return True


cdef inline Factors factors(const Update* u) noexcept nogil:
    cdef Factors f
    f.rate = splat(u.rate)
    f.gain = splat(u.gain)
    f.square_gain = splat(u.square_gain)
    f.decay = splat(<real>u.decay)
    f.decay2 = splat(<real>u.decay2)
    f.root_eps = splat(u.root_eps)
    f.least_root = splat(u.least_root)
    return f


cdef inline vreal root(Factors* f, vreal square, vreal beside) noexcept nogil:
    """sqrt(square) + eps; the root is at least least_root * |beside|, in case the square has underflowed."""
    return at_least(f.least_root * magnitude(beside), square_root(square)) + f.root_eps


cdef inline vreal flushed(const bint flushes, vreal old, vreal beside, vreal average) noexcept nogil:
    """The average; 0 where the old one and what it is averaged with are subnormal, or 0."""
    return zero_if_subnormal(old, beside, average) if flushes else average


cdef inline vreal updated(
    const int rule, const bint flushes, Factors* f, vreal rate, vreal w, vreal g, vreal* first, vreal* second,
) noexcept nogil:
    """w after one step; the states are changed in place."""
    cdef vreal scaled, squared
    if has_squares(rule):
        scaled = f.gain * g
        squared = f.square_gain * g
    if rule == ADAGRAD:
        first[0] = multiply_add(squared, squared, first[0])
        return multiply_add(-rate, quotient(scaled, root(f, first[0], scaled)), w)
    if rule == RMSPROP:
        first[0] = multiply_add(squared, squared, flushed(flushes, first[0], g, f.decay * first[0]))
        return multiply_add(-rate, quotient(scaled, root(f, first[0], scaled)), w)
    if rule == ADAM:
        first[0] = flushed(flushes, first[0], g, multiply_add(f.decay, first[0], scaled))
        second[0] = multiply_add(squared, squared, flushed(flushes, second[0], first[0], f.decay2 * second[0]))
        return multiply_add(-rate, quotient(first[0], root(f, second[0], first[0])), w)
    if rule == MOMENTUM:
        first[0] = multiply_add(f.decay, first[0], -(rate * g))
        first[0] = flushed(flushes, first[0], g, first[0])
        return w + first[0]
    return multiply_add(-rate, g, w)


cdef enum:
    UPDATE_AHEAD = (32 << 10) // sizeof(real)   # elements from a prefetch to their update


cdef inline void update_vector(
    const int rule, const bint flushes, const bint far, Factors* f, vreal rate, real* w, real* firsts, real* seconds,
    Py_ssize_t i, Py_ssize_t n, vreal g,
) noexcept nogil:
    """The update of n <= LANES elements from element i on, whose gradient is g. far: prefetches w and the states from memory."""
    cdef int n_states = states_of(rule)
    cdef vreal first = splat(0), second = splat(0)
    if far:
        prefetch(2, w + i + UPDATE_AHEAD)
    if far and n_states > 0:
        prefetch(2, firsts + i + UPDATE_AHEAD)
    if far and n_states > 1:
        prefetch(2, seconds + i + UPDATE_AHEAD)
    if n_states > 0:
        first = load_first(firsts + i, n)
    if n_states > 1:
        second = load_first(seconds + i, n)
    store_first(w + i, updated(rule, flushes, f, rate, load_first(w + i, n), g, &first, &second), n)
    if n_states > 0:
        store_first(firsts + i, first, n)
    if n_states > 1:
        store_first(seconds + i, second, n)


cdef inline vreal rates(const bint factored, Factors* f, const real* factors, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The learning rates of n elements from element i on."""
    return f.rate * load_first(factors + i, n) if factored else f.rate


cdef inline void update_loop_by(
    const int rule, const bint flushes, const bint factored, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    cdef Factors f = factors(u)
    cdef const real* of_rate = u.factors        # copies: a store to w might change u, for the compiler
    cdef real* firsts = u.first
    cdef real* seconds = u.second
    cdef vreal rate
    cdef Py_ssize_t i = start, n
    while i + LANES <= stop:
        rate = rates(factored, &f, of_rate, i, LANES)
        update_vector(rule, flushes, False, &f, rate, w, firsts, seconds, i, LANES, load(g + i))
        i += LANES
    if stop - i > FEW_ELEMENTS:
        n = stop - i
        rate = rates(factored, &f, of_rate, i, n)
        update_vector(rule, flushes, False, &f, rate, w, firsts, seconds, i, n, load_first(g + i, n))
        return
    while i < stop:
        rate = rates(factored, &f, of_rate, i, 1)
        update_vector(rule, flushes, False, &f, rate, w, firsts, seconds, i, 1, load_first(g + i, 1))
        i += 1


cdef inline void update_loop(
    const int rule, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    update_loop_by(rule, False, False, u, w, g, start, stop)


cdef inline void flushing_loop(
    const int rule, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    update_loop_by(rule, True, False, u, w, g, start, stop)


cdef inline void factored_loop(
    const int rule, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    update_loop_by(rule, True, True, u, w, g, start, stop)


ctypedef void (*UpdateLoop)(
    const int rule, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop) noexcept nogil
cdef extern from "vector.h" nogil:
    void update_of "AS_CONSTANT"(int most, UpdateLoop, int rule, ...)


cdef void update_flushing(Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """`update` that flushes, or with factors of the learning rate. Not inlined there: 5 % of the smallest step."""
    if u.factors != NULL:
        update_of(N_RULES - 1, factored_loop, u.rule, u, w, g, start, stop)
    else:
        update_of(N_RULES - 1, flushing_loop, u.rule, u, w, g, start, stop)


cdef void update(Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """One step on the elements start ... stop, after `begin_update`. The caller increments u.step."""
    if u.flushes:
        update_flushing(u, w, g, start, stop)
        return
    update_of(N_RULES - 1, update_loop, u.rule, u, w, g, start, stop)


cdef void look_ahead(Update* u, const real* w, real* ahead, Py_ssize_t n) noexcept nogil:
    """ahead = w + mu v, the point at which Nesterov's rule takes the gradient."""
    cdef vreal mu = splat(<real>u.decay)
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(ahead + i, multiply_add(mu, load(u.first + i), load(w + i)))
        i += LANES
    if i < n:
        store_first(ahead + i, multiply_add(mu, load_first(u.first + i, n - i), load_first(w + i, n - i)), n - i)
