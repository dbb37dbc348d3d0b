"""The activations, a vector at a time.

Design. sigmoid and tanh share one exponential of a number that is never positive, so nothing
overflows: with a = |z|, exp(-a) = s (1 + p), s = 2^n, p = exp(r) - 1 = r + r^2 q(r), |r| <= log(2) / 2,
q a minimax polynomial (docs/polynomials.py). Then

    sigmoid(-a) = e / (1 + e)             e = s + s p = exp(-a)
    tanh(a)     = -E / (2 + E)            E = (s - 1) + s p = exp(-2 a) - 1, exact where a is small

In sigmoid s and e are lifted by a power of two, so that they stay normal numbers where the result is not.
The reciprocal of the denominator 1 + x, x = exp(-a) or exp(-2 a), is a division, or of wide vectors an
estimate. What it and the rounding of the denominator are off by is known from fused multiply-adds, and
given back at the end; 1 + p is never rounded. What is left is an error of p, a part of an ulp, and the
rounding of the result, half an ulp: the bounds measured over all float32 are printed by
`make test-exhaustive`.

Rejected: 1 / (1 + exp(-z)) as it stands (3.4 ulp); tables (gathers cost more than the polynomial);
carrying the low part of 1 + p through the quotient (no more accurate, six more additions); the
processor's estimate of a reciprocal (no fewer operations, and its bits differ between makers).

The derivative is a function of the activation alone, f' = a (1 - a), 1 - a^2, [a > 0], 1: the
pre-activation is never kept.
"""

# The order is the order of kernels.ACTIVATIONS.
cdef enum Activation:
    IDENTITY
    SIGMOID
    RELU
    TANH


cdef inline vreal reduce(vreal z, const int lift, vreal* s) noexcept nogil:
    """2^lift exp(z) = s exp(r) for z <= 0, s a power of two, |r| <= log(2) / 2: returns r."""
    cdef vreal origin = splat(POWER_ORIGIN + lift)
    cdef vreal place = z * splat(<real>1.4426950408889634) + origin     # rounds to the nearest integer
    cdef vreal n = place - origin
    s[0] = power_of_two(place)
    # log 2 in two parts; the first has zeros at its end, so that n times it is exact.
    if sizeof(real) == 4:
        return (z - n * splat(<real>0.693145751953125)) - n * splat(<real>1.42860682030941723e-6)
    return (z - n * splat(<real>0.693147180369123816490)) - n * splat(<real>1.90821492927058770002e-10)


cdef inline vreal exp_minus_line(vreal r) noexcept nogil:
    """exp(r) - 1 - r for |r| <= log(2) / 2, two terms at a time: a shorter chain than one by one."""
    cdef vreal q, square = r * r
    if sizeof(real) == 4:
        q = splat(<real>0.0013814471) * square + (splat(<real>0.008368779) * r + splat(<real>0.041668393))
        q = q * square + (splat(<real>0.1666652) * r + splat(<real>0.49999994))
    else:
        q = splat(<real>2.4999967851288303e-08) * r + splat(<real>2.763037522765166e-07)
        q = q * square + (splat(<real>2.755758731695224e-06) * r + splat(<real>2.4801492771559833e-05))
        q = q * square + (splat(<real>0.00019841269504812682) * r + splat(<real>0.0013888888943915005))
        q = q * square + (splat(<real>0.008333333333495594) * r + splat(<real>0.04166666666652921))
        q = q * square + (splat(<real>0.1666666666666641) * r + splat(<real>0.5000000000000011))
    return square * q


cdef inline vreal estimated_inverse(vreal x, const double unit) noexcept nogil:
    """unit / (1 + x unit) for 0 <= x unit <= 1, rounded; if ESTIMATED, only within one part in 577.

    A division of 64 bytes takes 16 cycles on Intel, as long as all the rest of sigmoid in float32; three
    multiply-adds take 3 (a sixth of sigmoid's time gained). The cubic is (1 - T(2 x - 1) / T(-3)) / (1 + x), T
    the Chebyshev polynomial of degree 4: it has the least relative error of all cubics, 1 / T(-3).
    """
    cdef vreal y
    if not ESTIMATED:
        return splat(<real>unit) / (splat(1) + x * splat(<real>unit))
    y = splat(<real>(-128 / 577. * unit * unit * unit * unit)) * x + splat(<real>(384 / 577. * unit * unit * unit))
    y = y * x + splat(<real>(-544 / 577. * unit * unit))
    return y * x + splat(<real>(576 / 577. * unit))


cdef inline vreal all_powers(vreal d) noexcept nogil:
    """d + d^2 + d^3 ... = 1 / (1 - d) - 1, where d is what an estimated inverse is off by."""
    cdef vreal square
    if not ESTIMATED:
        return d
    if sizeof(real) == 4:
        return fused(d, d, d)
    square = d * d
    d = fused(d, d, d)
    return fused(d, fused(square, square, square), d)


# The functions below take `group` vectors through each stage before the next. One vector alone is a
# chain of some 20 to 30 dependent operations, about 100 cycles; side by side they fill each other's waits.

cdef inline void sigmoid_group(const int group, const real* z, real* a) noexcept nogil:
    cdef vreal one = splat(1)
    cdef vreal s[GROUP]
    cdef vreal p[GROUP]
    cdef vreal inverse[GROUP]
    cdef vreal error[GROUP]
    cdef vreal e, factor, below
    cdef int i, lift = 24 if sizeof(real) == 4 else 54      # s and e are lifted: normal numbers down to the end
    cdef double unit = 1. / (<long long>1 << lift)
    for i in range(group):
        # Past the limit exp(-|z|) is 0 in the dtype.
        p[i] = reduce(-at_most(splat(104 if sizeof(real) == 4 else 746), magnitude(load(z + i * LANES))), lift, &s[i])
    for i in range(group):
        p[i] = p[i] + exp_minus_line(p[i])
    for i in range(group):
        factor = one + p[i]
        e = fused(s[i], p[i], s[i])
        inverse[i] = estimated_inverse(e, unit)
        error[i] = all_powers(fused(inverse[i], -e, one - inverse[i] * splat(<real>(1 / unit))))    # a power of 2: exact
        # Now unit / (1 + e unit) = inverse (1 + error).
        error[i] = fused(error[i], factor, p[i])
    for i in range(group):
        below = fused(inverse[i], error[i], inverse[i]) * s[i]
        store(a + i * LANES, reflected(load(z + i * LANES), below))


cdef inline void tanh_group(const int group, const real* z, real* a) noexcept nogil:
    cdef vreal one = splat(1), two = splat(2)
    cdef vreal s[GROUP]
    cdef vreal p[GROUP]
    cdef vreal inverse[GROUP]
    cdef vreal error[GROUP]
    cdef vreal r[GROUP]
    cdef vreal w[GROUP]
    cdef vreal big, e, e_lost, d
    cdef int i
    for i in range(group):
        # Past the limit tanh is 1 in the dtype.
        r[i] = reduce(-two * at_most(splat(10 if sizeof(real) == 4 else 20), magnitude(load(z + i * LANES))), 0, &s[i])
    for i in range(group):
        w[i] = exp_minus_line(r[i])
    for i in range(group):
        big = s[i] - one
        e = fused(s[i], w[i], fused(s[i], r[i], big))
        e_lost = fused(s[i], w[i], fused(s[i], r[i], big - e))
        inverse[i] = estimated_inverse(one + e, 1)
        if ESTIMATED:
            d = fused(-inverse[i], two + e, one)
            inverse[i] = fused(d if sizeof(real) == 4 else fused(d, d, d), inverse[i], inverse[i])
        p[i] = -e * inverse[i]
        # -E - (2 + E) p; e and 2 p are of opposite sign and within a factor of 2, so that their sum is exact.
        error[i] = fused(-p[i], e, -(e + two * p[i])) - e_lost
    for i in range(group):
        store(a + i * LANES, with_sign_of(fused(error[i], inverse[i], p[i]), load(z + i * LANES)))


cdef void activate(int kind, const real* z, real* a, Py_ssize_t n) noexcept nogil:
    """a = f(z), n a multiple of LANES; in place where a is z."""
    cdef Py_ssize_t i = 0
    if kind == SIGMOID:
        while i + GROUP * LANES <= n:
            sigmoid_group(GROUP, z + i, a + i)
            i += GROUP * LANES
        while i < n:
            sigmoid_group(1, z + i, a + i)
            i += LANES
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
    """delta f'(z), from a = f(z)."""
    if kind == SIGMOID:
        return delta * (a * (splat(1) - a))
    if kind == TANH:
        return delta * (splat(1) - a * a)
    if kind == RELU:
        return where_positive(a, delta)
    return delta
