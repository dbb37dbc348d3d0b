"""The update rules, one loop over flat buffers each: W, its gradient g, up to two states.

    SGD       W -= a g                                    momentum 0
              v = mu v - a g;  W += v                     momentum mu; Nesterov: g at W + mu v
    ADAGRAD   c += g^2;                     W -= a g / (sqrt c + eps)
    RMSPROP   c = d c + (1 - d) g^2;        W -= a g / (sqrt c + eps)
    ADAM      m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
              W -= a m' / (sqrt v' + eps),  m' = m / (1 - b1^t), v' = v / (1 - b2^t), or m and v themselves

The arithmetic is in the dtype of the parameters, the factors are computed in float64. An average that has
decayed below the smallest normal number is 0: where no gradient comes any more (a ReLU that never fires) it
would stay subnormal for ever, and processors take a hundred cycles over each such number.
"""

from libc.math cimport pow

# The order is the order of kernels.RULES.
cdef enum Rule:
    NO_UPDATE
    SGD
    ADAGRAD
    RMSPROP
    ADAM

cdef struct Update:
    int rule
    bint nesterov
    bint bias_correction
    double learning_rate
    double decay            # momentum, or the decay of the (first) average
    double decay2           # of the second average
    double eps
    long long step          # how many updates there have been
    real* first             # the states; NULL where the rule has none
    real* second

cdef struct Factors:
    # What is the same for every element of one update.
    vreal rate
    vreal decay
    vreal fresh             # 1 - decay
    vreal decay2
    vreal fresh2
    vreal correction2       # 1 / (1 - decay2^t)
    vreal eps


cdef inline Factors factors(Update* u) noexcept nogil:
    cdef Factors f
    cdef double rate = u.learning_rate, correction2 = 1
    if u.rule == ADAM and u.bias_correction:
        rate = rate / (1 - pow(u.decay, <double>(u.step + 1)))
        correction2 = 1 / (1 - pow(u.decay2, <double>(u.step + 1)))
    f.rate = splat(<real>rate)
    f.decay = splat(<real>u.decay)
    f.fresh = splat(<real>(1 - u.decay))
    f.decay2 = splat(<real>u.decay2)
    f.fresh2 = splat(<real>(1 - u.decay2))
    f.correction2 = splat(<real>correction2)
    f.eps = at_least(splat(SMALLEST_NORMAL), splat(<real>u.eps))    # where no gradient has come, 0 / 0 would be NaN
    return f


cdef inline vreal updated(const int rule, Factors* f, vreal w, vreal g, vreal* first, vreal* second) noexcept nogil:
    """w after one step; the states are changed in place."""
    if rule == ADAGRAD:
        first[0] = first[0] + g * g
        return w - f.rate * g / (square_root(first[0]) + f.eps)
    if rule == RMSPROP:
        first[0] = normal(f.decay * first[0] + f.fresh * (g * g))
        return w - f.rate * g / (square_root(first[0]) + f.eps)
    if rule == ADAM:
        first[0] = normal(f.decay * first[0] + f.fresh * g)
        second[0] = normal(f.decay2 * second[0] + f.fresh2 * (g * g))
        return w - f.rate * first[0] / (square_root(second[0] * f.correction2) + f.eps)
    if first != NULL:       # momentum
        first[0] = normal(f.decay * first[0] - f.rate * g)
        return w + first[0]
    return w - f.rate * g


cdef inline void update_loop(
    const int rule, const int n_states, Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    cdef Factors f = factors(u)
    cdef vreal first, second, ended
    cdef Py_ssize_t i = start, n
    first = splat(0)
    second = splat(0)
    while i + LANES <= stop:
        if n_states > 0:
            first = load(u.first + i)
        if n_states > 1:
            second = load(u.second + i)
        store(w + i, updated(rule, &f, load(w + i), load(g + i), &first if n_states > 0 else NULL, &second))
        if n_states > 0:
            store(u.first + i, first)
        if n_states > 1:
            store(u.second + i, second)
        i += LANES
    n = stop - i
    if n > 0:               # the same arithmetic on a vector that is not full
        if n_states > 0:
            first = load_first(u.first + i, n)
        if n_states > 1:
            second = load_first(u.second + i, n)
        ended = updated(
            rule, &f, load_first(w + i, n), load_first(g + i, n), &first if n_states > 0 else NULL, &second)
        store_first(w + i, ended, n)
        if n_states > 0:
            store_first(u.first + i, first, n)
        if n_states > 1:
            store_first(u.second + i, second, n)


cdef void update(Update* u, real* w, const real* g, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """One step on the elements start ... stop. The caller counts u.step."""
    if u.rule == SGD and u.first == NULL:
        update_loop(SGD, 0, u, w, g, start, stop)
    elif u.rule == SGD:
        update_loop(SGD, 1, u, w, g, start, stop)
    elif u.rule == ADAGRAD:
        update_loop(ADAGRAD, 1, u, w, g, start, stop)
    elif u.rule == RMSPROP:
        update_loop(RMSPROP, 1, u, w, g, start, stop)
    elif u.rule == ADAM:
        update_loop(ADAM, 2, u, w, g, start, stop)


cdef void look_ahead(Update* u, const real* w, real* ahead, Py_ssize_t n) noexcept nogil:
    """ahead = w + mu v, where Nesterov's rule wants the gradient."""
    cdef vreal mu = splat(<real>u.decay)
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(ahead + i, load(w + i) + mu * load(u.first + i))
        i += LANES
    if i < n:
        store_first(ahead + i, load_first(w + i, n - i) + mu * load_first(u.first + i, n - i), n - i)
