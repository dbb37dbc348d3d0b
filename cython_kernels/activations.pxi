"""The activations, on vectors.

Design. sigmoid and tanh are computed from one exponential of a number that is never positive, so nothing
overflows: with a = |z|, exp(-a) = s (1 + p), s = 2^n, p = exp(r) - 1 = r + r^2 q(r), |r| <= log(2) / 2,
q a minimax polynomial (elementary.pxi). Then

    sigmoid(-a) = e / (1 + e)             e = s + s p = exp(-a)
    tanh(a)     = -E / (2 + E)            E = (s - 1) + s p = exp(-2 a) - 1, exact where a is small

The reciprocal of the denominator is a division, or with AVX-512 the processor's estimate. The errors of the reciprocal and of
the rounded denominator are computed by fused multiply-adds, and corrected at the end; 1 + p is never rounded. What
remains is the error of p, a fraction of an ulp, and the rounding of the result, half an ulp: `make test-exhaustive` prints
the bounds measured over all float32.

tanh in float32, where a vector has 8 or 16 lanes, needs neither the exponential nor the division. In an interval with centre c

    tanh(a) = t + (a - c) p(a - c)        t = tanh(c), p a polynomial of degree 7 or 5

and c, t and the coefficients of p are looked up by one shuffle each, in vectors that hold an element for each interval
(tanh_table.h): 0.6 to 0.65 of the time, and 1.2 ulp.

Operations on subnormal numbers take 100 cycles and more on many processors. So a group of vectors with |z| > SATURATED has a
path of its own, in which a subnormal result is made as an integer: data that are not scaled saturate most units, and their
sigmoid took 11 to 21 times as long.

Rejected: 1 / (1 + exp(-z)) directly (3.4 ulp); tables in memory (gathers cost more than the polynomial); carrying the low part of
1 + p through the quotient (no more accurate, six more additions); a cubic instead of the processor's estimate (the same
bits on Intel and AMD, which is promised nowhere else, but 16 instead of 13 operations, which only two of AMD's four
vector pipes execute).

The derivative is a function of the activation alone, f' = a (1 - a), 1 - a^2, [a > 0], 1: the pre-activation is
not stored. These four are compiled into the loops that need a derivative. For all others (functions.pxi) the derivative is
written to the place of the activation first, and OTHER multiplies by it.
"""

cdef enum Activation:
    IDENTITY
    SIGMOID
    RELU
    TANH
    OTHER               # in a layer: its `function`; in `times_derivative`: a is the derivative
    N_ACTIVATIONS

ACTIVATIONS = ("identity", "sigmoid", "relu", "tanh")     # their names, in this order


cdef inline vreal geometric_sum(vreal d) noexcept nogil:
    """d + d^2 + d^3 ... = 1 / (1 - d) - 1 for the relative error d of a quotient, to less than an eighth of an ulp."""
    if ESTIMATED and sizeof(real) == 8:
        return fused_multiply_add(fused_multiply_add(d, d, d), d, d)
    return d


# The functions below evaluate each stage for `group` vectors before the next stage. A single vector is a chain of 20 to
# 30 dependent operations, about 100 cycles; several independent chains hide each other's latency.

cdef inline void sigmoid_below(const int group, const vreal* sizes, vreal* below) noexcept nogil:
    """sigmoid(-size), 0 <= size <= SATURATED: a normal number."""
    cdef vreal one = splat(1)
    cdef vreal place[GROUP]
    cdef vreal p[GROUP]
    cdef vreal inverse[GROUP]
    cdef vreal error[GROUP]
    cdef vreal square, e
    cdef int i
    for i in range(group):
        p[i] = reduce_range(sizes[i], 0, &place[i])
    for i in range(group):
        square = p[i] * p[i]
        p[i] = multiply_add(square, exp_polynomial(p[i], square), p[i])
    for i in range(group):
        e = exp_from_parts(p[i], place[i])
        inverse[i] = approximate_quotient(one, one + e)
        error[i] = geometric_sum(fused_multiply_add(inverse[i], -e, one - inverse[i]))
        # Now 1 / (1 + e) = inverse (1 + error).
        error[i] = fused_multiply_add(error[i], one + p[i], p[i])
    for i in range(group):
        below[i] = times_power(fused_multiply_add(inverse[i], error[i], inverse[i]), place[i])


cdef void sigmoid_saturated(const real* z, real* a) noexcept nogil:
    """One vector with larger magnitudes than SATURATED, whose exp(-|z|) is subnormal, or 0: in units of the least number."""
    cdef vreal limit = splat(SATURATED), size = magnitude(load(z)), near, below
    near = choose_greater(size, limit, splat(0), size)
    sigmoid_below(1, &near, &below)
    below = choose_greater(size, limit, subnormal(scaled_exp(at_least(limit, size), LEAST_EXPONENT)), below)
    store(a, complement_if_positive(load(z), below))


cdef inline Py_ssize_t sigmoid_groups(const int group, const real* z, real* a, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """a = sigmoid(z) from i on, in whole groups; returns where it stops: at a group with |z| > SATURATED, or where they end.

    The loop calls nothing, so that its constants stay in registers: 5 % of sigmoid (Zen 4).
    """
    cdef vreal sizes[GROUP]
    cdef vreal below[GROUP]
    cdef vreal largest
    cdef int v
    while i + group * LANES <= n:
        for v in range(group):
            sizes[v] = magnitude(load(z + i + v * LANES))
            largest = sizes[v] if v == 0 else at_least(largest, sizes[v])
        if any_exceeds(<Magnitudes>largest, SATURATED):     # a NaN may go either way
            break
        sigmoid_below(group, sizes, below)
        for v in range(group):
            store(a + i + v * LANES, complement_if_positive(load(z + i + v * LANES), below[v]))
        i += group * LANES
    return i


cdef inline Py_ssize_t sigmoids(const int group, const real* z, real* a, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """a = sigmoid(z) from i on, in whole groups; returns where they end."""
    cdef Py_ssize_t end
    while True:
        i = sigmoid_groups(group, z, a, i, n)
        end = i + group * LANES
        if end > n:
            return i
        while i < end:
            sigmoid_saturated(z + i, a + i)
            i += LANES


cdef inline void tanh_of_exp(const int group, const real* z, real* a) noexcept nogil:
    """By E = exp(-2 |z|) - 1."""
    cdef vreal one = splat(1), two = splat(2)
    cdef vreal s[GROUP]
    cdef vreal p[GROUP]
    cdef vreal inverse[GROUP]
    cdef vreal error[GROUP]
    cdef vreal r[GROUP]
    cdef vreal w[GROUP]
    cdef vreal square, big, e, e_lost
    cdef int i
    for i in range(group):
        # For larger |z|, tanh is 1 in the dtype.
        r[i] = reduce_range(two * at_most(splat(10 if sizeof(real) == 4 else 20), magnitude(load(z + i * LANES))), 0, &s[i])
        s[i] = power_of_two(s[i])
    for i in range(group):
        square = r[i] * r[i]
        w[i] = square * exp_polynomial(r[i], square)
    for i in range(group):
        big = s[i] - one
        e = fused_multiply_add(s[i], w[i], fused_multiply_add(s[i], r[i], big))
        e_lost = fused_multiply_add(s[i], w[i], fused_multiply_add(s[i], r[i], big - e))
        inverse[i] = approximate_quotient(one, two + e)
        if ESTIMATED:
            inverse[i] = fused_multiply_add(fused_multiply_add(-inverse[i], two + e, one), inverse[i], inverse[i])
        p[i] = -e * inverse[i]
        # -E - (2 + E) p; e and 2 p are of opposite sign and within a factor of 2, so that their sum is exact.
        error[i] = fused_multiply_add(-p[i], e, -multiply_add(two, p[i], e)) - e_lost
    for i in range(group):
        store(a + i * LANES, with_sign_of(fused_multiply_add(error[i], inverse[i], p[i]), load(z + i * LANES)))


cdef inline void tanh_of_table(const int group, const real* z, real* a) noexcept nogil:
    """By the polynomial of each element's interval."""
    cdef vreal r[GROUP]
    cdef vreal p[GROUP]
    cdef Places interval[GROUP]
    cdef vreal size
    cdef int i, row
    for i in range(group):
        size = at_most(splat(LARGEST_TANH), magnitude(load(z + i * LANES)))
        interval[i] = tanh_interval(size)
        r[i] = size - tanh_row(0, interval[i])
        p[i] = tanh_row(TANH_ROWS - 1, interval[i])
    for row in range(TANH_ROWS - 2, 0, -1):
        for i in range(group):
            p[i] = multiply_add(p[i], r[i], tanh_row(row, interval[i]))
    for i in range(group):
        store(a + i * LANES, with_sign_of(p[i], load(z + i * LANES)))


cdef inline void tanh_group(const int group, const real* z, real* a) noexcept nogil:
    if TANH_ROWS > 0:
        tanh_of_table(group, z, a)
    else:
        tanh_of_exp(group, z, a)


cdef void activate(int kind, const real* z, real* a, Py_ssize_t n) noexcept nogil:
    """a = f(z), n a multiple of LANES; in place where a is z."""
    cdef Py_ssize_t i = 0
    if kind == SIGMOID:
        i = sigmoids(1, z, a, sigmoids(GROUP, z, a, i, n), n)
    elif kind == TANH:
        while i + GROUP * LANES <= n:
            tanh_group(GROUP, z + i, a + i)
            i += GROUP * LANES
        while i < n:
            tanh_group(1, z + i, a + i)
            i += LANES
    elif kind == RELU:
        while i < n:
            store(a + i, at_least(splat(0), load(z + i)))
            i += LANES
    elif a != z:
        while i < n:
            store(a + i, load(z + i))
            i += LANES


cdef inline vreal times_derivative(int kind, vreal delta, vreal a) noexcept nogil:
    """delta f'(z), from a = f(z). ReLU: 0 where a <= 0, else delta, also where a is NaN."""
    if kind == SIGMOID:
        return times_complement(delta * a, a)
    if kind == TANH:
        return delta * multiply_add(-a, a, splat(1))
    if kind == RELU:
        return where_positive(a, delta)
    if kind == OTHER:
        return delta * a
    return delta
