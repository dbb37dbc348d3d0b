"""The activations, a vector at a time.

Design. sigmoid and tanh share one exponential of a number that is never positive, so nothing
overflows: with a = |z|, exp(-a) = s (1 + p), s = 2^n, p = exp(r) - 1 = r + r^2 q(r), |r| <= log(2) / 2,
q a minimax polynomial (docs/polynomials.py). Then

    sigmoid(-a) = e / (1 + e)             e = s + s p = exp(-a)
    tanh(a)     = -E / (2 + E)            E = (s - 1) + s p = exp(-2 a) - 1, exact where a is small

One reciprocal of the denominator is taken. What the roundings of the denominator and of the
reciprocal lose is known from fused multiply-adds, and given back at the end; 1 + p is never
rounded. What is left is an error of p, a part of an ulp, and the rounding of the result, half an ulp: the
bounds measured over all float32 are printed by `make test-exhaustive`.

Rejected: 1 / (1 + exp(-z)) as it stands (3.4 ulp); tables (gathers cost more than the polynomial);
carrying the low part of 1 + p through the quotient (no more accurate, six more additions).

The derivative is a function of the activation alone, f' = a (1 - a), 1 - a^2, [a > 0], 1: the
pre-activation is never kept.
"""

# The order is the order of kernels.ACTIVATIONS.
cdef enum Activation:
    IDENTITY
    SIGMOID
    RELU
    TANH


cdef inline vreal reduced_exp(vreal z, vreal* s, vreal* lost) noexcept nogil:
    """exp(z) = s (1 + p + lost) for z <= 0, s a power of two, lost the rounding of p: returns p."""
    cdef vreal n, r, q, w, p
    n = nearest(z * splat(<real>1.4426950408889634))
    s[0] = scale(splat(1), n)
    if sizeof(real) == 4:
        # log 2 in two parts; the first has zeros at its end, so that n times it is exact.
        r = (z - n * splat(<real>0.693145751953125)) - n * splat(<real>1.42860682030941723e-6)
        q = splat(<real>0.0013814471)
        q = q * r + splat(<real>0.008368779)
        q = q * r + splat(<real>0.041668393)
        q = q * r + splat(<real>0.1666652)
        q = q * r + splat(<real>0.49999994)
    else:
        r = (z - n * splat(<real>0.693147180369123816490)) - n * splat(<real>1.90821492927058770002e-10)
        q = splat(<real>2.4999967851288303e-08)
        q = q * r + splat(<real>2.763037522765166e-07)
        q = q * r + splat(<real>2.755758731695224e-06)
        q = q * r + splat(<real>2.4801492771559833e-05)
        q = q * r + splat(<real>0.00019841269504812682)
        q = q * r + splat(<real>0.0013888888943915005)
        q = q * r + splat(<real>0.008333333333495594)
        q = q * r + splat(<real>0.04166666666652921)
        q = q * r + splat(<real>0.1666666666666641)
        q = q * r + splat(<real>0.5000000000000011)
    w = (r * r) * q
    p = r + w
    lost[0] = (r - p) + w
    return p


cdef inline vreal sigmoid_vector(vreal z) noexcept nogil:
    cdef vreal one = splat(1)
    cdef vreal s, p, e, d, lost, inverse, error, below
    # Past the limit exp(-a) is 0 in the dtype.
    p = reduced_exp(-at_most(splat(104 if sizeof(real) == 4 else 746), magnitude(z)), &s, &lost)
    e = fused(s, p, s)
    d = one + e
    lost = e - (d - one)
    inverse = one / d
    error = fused(-inverse, lost, fused(-inverse, d, one))  # 1 / (1 + e) = inverse (1 + error)
    below = fused(inverse, fused(error, one + p, p), inverse) * s
    return where_negative(z, below, one - below)


cdef inline vreal tanh_vector(vreal z) noexcept nogil:
    cdef vreal one = splat(1), two = splat(2)
    cdef vreal s, p, p_lost, big, e, e_lost, d, d_lost, inverse, t, error
    # Past the limit tanh is 1 in the dtype.
    p = reduced_exp(-two * at_most(splat(10 if sizeof(real) == 4 else 20), magnitude(z)), &s, &p_lost)
    big = s - one
    e = fused(s, p, big)
    e_lost = fused(s, p, big - e) + s * p_lost
    d = two + e
    d_lost = e - (d - two)
    inverse = one / d
    t = -e * inverse
    error = fused(-t, d, -e) - fused(t, d_lost, e_lost)
    return with_sign_of(fused(error, inverse, t), z)


cdef void activate(int kind, const real* z, real* a, Py_ssize_t n) noexcept nogil:
    """a = f(z), n a multiple of LANES; in place where a is z."""
    cdef Py_ssize_t i
    if kind == SIGMOID:
        for i in range(n // LANES):
            store(a + i * LANES, sigmoid_vector(load(z + i * LANES)))
    elif kind == TANH:
        for i in range(n // LANES):
            store(a + i * LANES, tanh_vector(load(z + i * LANES)))
    elif kind == RELU:
        for i in range(n // LANES):
            store(a + i * LANES, at_least(splat(0), load(z + i * LANES)))
    elif a != z:
        for i in range(n // LANES):
            store(a + i * LANES, load(z + i * LANES))


cdef inline vreal times_derivative(int kind, vreal delta, vreal a) noexcept nogil:
    """delta f'(z), from a = f(z)."""
    if kind == SIGMOID:
        return delta * (a * (splat(1) - a))
    if kind == TANH:
        return delta * (splat(1) - a * a)
    if kind == RELU:
        return where_positive(a, delta)
    return delta


cdef void multiply_by_derivative(int kind, const real* a, real* delta, Py_ssize_t n) noexcept nogil:
    """delta = delta f'(z), n a multiple of LANES."""
    cdef Py_ssize_t i
    if kind != IDENTITY:
        for i in range(n // LANES):
            store(delta + i * LANES, times_derivative(kind, load(delta + i * LANES), load(a + i * LANES)))
