"""exp and log, on vectors: what the activations and the losses are made of.

exp(-a) = 2^n (1 + r + r^2 q(r)), a >= 0, with |r| <= log(2) / 2; log(u) = n log(2) + log(f), u = 2^n f, with
sqrt(1/2) <= f < sqrt(2) and log(f) = m - (m^2 / 2 - s (m^2 / 2 + R)), m = f - 1, s = m / (2 + m), R = 2 s^2 q(s^2): then the
rounding of s hardly counts. Both q are minimax polynomials: docs/polynomials.py.
"""

cdef inline vreal reduce_range(vreal a, const int lift, vreal* place) noexcept nogil:
    """Range reduction: 2^lift exp(-a) = 2^n exp(r), a >= 0, |r| <= log(2) / 2, n an integer. Returns r; place: n + origin."""
    cdef vreal origin = splat(POWER_ORIGIN + lift)
    place[0] = multiply_add(a, splat(<real>-1.4426950408889634), origin)    # rounds to the nearest integer
    cdef vreal n = place[0] - origin
    # log 2 in two parts (Cody and Waite); the first has trailing zeros, so that n times it is exact.
    return multiply_add(n, splat(-LOG_TWO_LOW), multiply_add(n, splat(-LOG_TWO_HIGH), -a))


cdef inline vreal exp_polynomial(vreal r, vreal square) noexcept nogil:
    """The polynomial q of exp(r) = 1 + r + r^2 q, |r| <= log(2) / 2, by pairs of terms: a shorter chain than Horner's scheme."""
    cdef vreal q
    if sizeof(real) == 4:
        q = splat(<real>0.0013814471)
        q = multiply_add(q, square, multiply_add(splat(<real>0.008368779), r, splat(<real>0.041668393)))
        q = multiply_add(q, square, multiply_add(splat(<real>0.1666652), r, splat(<real>0.49999994)))
    else:
        q = multiply_add(splat(<real>2.4999967851288303e-08), r, splat(<real>2.763037522765166e-07))
        q = multiply_add(q, square, multiply_add(splat(<real>2.755758731695224e-06), r, splat(<real>2.4801492771559833e-05)))
        q = multiply_add(q, square, multiply_add(splat(<real>0.00019841269504812682), r, splat(<real>0.0013888888943915005)))
        q = multiply_add(q, square, multiply_add(splat(<real>0.008333333333495594), r, splat(<real>0.04166666666652921)))
        q = multiply_add(q, square, multiply_add(splat(<real>0.1666666666666641), r, splat(<real>0.5000000000000011)))
    return q


cdef inline vreal exp_from_parts(vreal p, vreal place) noexcept nogil:
    """2^n (1 + p), rounded once; with LIFT > 0 a normal number."""
    cdef vreal s
    if LIFT == 0:
        return times_power(splat(1) + p, place)
    s = power_of_two(place)
    return fused_multiply_add(s, p, s)       # does not depend on 1 + p: 7 % of sigmoid with AVX2


cdef inline vreal scaled_exp(vreal a, const int lift) noexcept nogil:
    """2^lift exp(-a), a >= 0; where exp(-a) rounds to 0, 2^lift times something below the least subnormal number. NaN stays."""
    cdef vreal place, square, r
    r = reduce_range(at_most(splat(104 if sizeof(real) == 4 else 746), a), lift, &place)
    square = r * r
    return exp_from_parts(multiply_add(square, exp_polynomial(r, square), r), place)


cdef inline vreal exp_negative(vreal a) noexcept nogil:
    """exp(-a), a >= 0; 0 where it is 0 in the dtype. A NaN is returned."""
    cdef vreal e = scaled_exp(a, LIFT)
    return e if LIFT == 0 else e * splat(1. / (<long long>1 << LIFT))


cdef inline vreal exp_minus_one(vreal a) noexcept nogil:
    """exp(-a) - 1, a >= 0, exact where a is small. A NaN is returned."""
    cdef vreal place, square, r, s
    r = reduce_range(at_most(splat(20 if sizeof(real) == 4 else 40), a), 0, &place)     # for larger a it is -1 in the dtype
    s = power_of_two(place)
    square = r * r
    return fused_multiply_add(s, square * exp_polynomial(r, square), fused_multiply_add(s, r, s - splat(1)))


cdef inline vreal exponential(vreal z) noexcept nogil:
    """exp(z) as the square of exp(z / 2), so that nothing overflows or is subnormal before the result is."""
    cdef vreal root = exp_negative(splat(0.5) * magnitude(z))
    root = choose_greater(z, splat(0), splat(1) / root, root)
    return root * root


cdef inline vreal log_parts(vreal u, vreal x, vreal* n) noexcept nogil:
    """log(u) as n * LOG_TWO_HIGH, a product without rounding, and what is returned; see `logarithm`."""
    cdef vreal m, s, w, q, half
    m = fraction_minus_one(u, x, n)
    s = m / (splat(2) + m)
    w = s * s
    half = splat(0.5) * m * m
    if sizeof(real) == 4:
        q = multiply_add(multiply_add(splat(<real>0.1493652), w, splat(<real>0.19988748)), w, splat(<real>0.33333388))
    else:
        q = multiply_add(splat(<real>0.07398735682520378), w, splat(<real>0.0765695334024409))
        q = multiply_add(q, w, splat(<real>0.09091784806875582))
        q = multiply_add(q, w, splat(<real>0.11111099239122717))
        q = multiply_add(q, w, splat(<real>0.142857143716212))
        q = multiply_add(q, w, splat(<real>0.19999999999705587))
        q = multiply_add(q, w, splat(<real>0.33333333333333676))
    q = multiply_add(w + w, q, half)
    # log 2 in two parts, as in reduce_range
    return m - (half - multiply_add(s, q, multiply_add(x, splat(0), n[0] * splat(LOG_TWO_LOW))))


cdef inline vreal logarithm(vreal u, vreal x) noexcept nogil:
    """log(u), u a positive normal number, x = u - 1 exactly if u is near 1: log(1 + x) has no rounding error of 1 + x. For an
    x that is not finite it is NaN."""
    cdef vreal n, low = log_parts(u, x, &n)
    return multiply_add(n, splat(LOG_TWO_HIGH), low)
