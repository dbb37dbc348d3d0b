"""The activations that are not compiled into other loops: value and derivative, on vectors.

    LEAKY_RELU  z > 0: z, else slope z                      ELU   z > 0: z, else alpha (exp(z) - 1)
    SELU        s ELU with a fixed alpha and s              SOFTPLUS   log(1 + exp(z))
    SILU        z sigmoid(z)                                MISH  z tanh(softplus(z))
    GELU        z Phi(z), Phi the normal distribution       GELU_TANH  z (1 + tanh(u)) / 2, u = sqrt(2 / pi) (z + 0.044715 z^3)

The derivatives of the first four are functions of the activation (`derivative_of`), and nothing is stored for them but the
activation. Those of the other four need z: the forward pass of a step writes them to a second buffer, where exp has been
computed anyway.

With e = exp(-|z|), sigmoid(|z|) = 1 / (1 + e), and tanh(softplus(z)) is w / (w + 2), w = e (e + 2), for z <= 0, and
(1 + 2 e) / (1 + 2 e + 2 e^2) for z > 0: no difference cancels. Phi(-x) = exp(-x^2 / 2) erfcx(x / sqrt(2)) / 2, x >= 0, erfcx
by a polynomial of (t - k) / (t + k) over 1 + 2 t, as in N. Juffa's implementations; x^2 / 2 is corrected for its rounding.
"""

cdef enum Function:
    LEAKY_RELU = 1
    ELU
    SELU
    SOFTPLUS
    SILU
    MISH
    GELU
    GELU_TANH
    N_FUNCTIONS
    LAST_FROM_ACTIVATION = SOFTPLUS     # the last one whose derivative is a function of the activation

FUNCTIONS = ("", "leaky_relu", "elu", "selu", "softplus", "silu", "mish", "gelu", "gelu_tanh")      # their names, by number
FROM_ACTIVATION = LAST_FROM_ACTIVATION

cdef double ROOT = 1.5957691216057307117597842397375       # 2 sqrt(2 / pi): tanh(u) of GELU_TANH is a sigmoid of 2 u
cdef double CUBIC = 0.044715
cdef double SELU_SCALE = 1.0507009873554804934193349852946
cdef double SELU_ALPHA = 1.6732632423543772848170429916717


# Of (1 + 2 t) erfcx(t), in q = (t - k) / (t + k), lowest first: docs/polynomials.py.
cdef real[11] ERFCX_FLOAT32 = [
    1.2769784, -0.0927639, -0.16603133, 0.16405322, -0.05420542, -0.008045192, 0.008639341, 0.0012755895, -0.0012537447,
    -0.0003672914, 2.5204357e-05,
]
cdef real[23] ERFCX_FLOAT64 = [
    1.2329951186255526, -0.1396211168405629, 0.015379652102619764, 0.0680970542547366, -0.10103906603630115,
    0.09373283499682393, -0.06633036581256387, 0.037167515561851286, -0.01619773404842494, 0.005031969763577605,
    -0.0007577734048554408, -0.00019925556129681417, 0.00015062247152997085, -2.4402941433831355e-05,
    -1.1225282891140936e-05, 5.717295174729748e-06, 3.01956114329381e-07, -8.342404234022169e-07, 6.238937719268402e-08,
    1.1456141274046102e-07, -7.778990401860493e-09, -1.3386324695573058e-08, -1.7176315503424704e-09,
]


cdef inline vreal erfcx_polynomial(vreal q) noexcept nogil:
    cdef vreal p = splat(0)
    cdef int i
    if sizeof(real) == 4:
        for i in range(11):
            p = multiply_add(p, q, splat(ERFCX_FLOAT32[10 - i]))
    else:
        for i in range(23):
            p = multiply_add(p, q, splat(ERFCX_FLOAT64[22 - i]))
    return p


cdef inline vreal cumulative_normal(vreal z, vreal* density) noexcept nogil:
    """Phi(z), and the density of the normal distribution."""
    cdef vreal half = splat(0.5), one = splat(1), two = splat(2), square, t, q, p, e
    cdef vreal x = at_most(splat(20 if sizeof(real) == 4 else 40), magnitude(z))       # for larger |z| the density is 0
    cdef vreal k = splat(2 if sizeof(real) == 4 else 4)
    square = half * x * x
    e = exp_negative(square)
    e = e * (one - product_error(half * x, x, square))      # exp(-x^2 / 2)
    t = at_most(splat(10 if sizeof(real) == 4 else 28), x * splat(<real>0.70710678118654752440))
    q = (t - k) / (t + k)
    p = erfcx_polynomial(q) / multiply_add(two, t, one)
    p = half * e * p
    density[0] = e * splat(<real>0.39894228040143267794)
    return choose_greater(z, splat(0), one - p, p)


cdef inline vreal function_of(const int kind, vreal parameter, vreal z, vreal* derivative) noexcept nogil:
    """f(z) and f'(z)."""
    cdef vreal zero = splat(0), one = splat(1), two = splat(2), half = splat(0.5)
    cdef vreal e, inverse, sigma, rest, t, u, slope
    if kind == LEAKY_RELU:
        derivative[0] = choose_greater(z, zero, one, parameter)
        return choose_greater(z, zero, z, parameter * z)
    if kind == ELU:
        e = parameter * exp_minus_one(magnitude(z))
        derivative[0] = choose_greater(z, zero, one, e + parameter)
        return choose_greater(z, zero, z, e)
    if kind == SELU:
        e = splat(<real>(SELU_SCALE * SELU_ALPHA)) * exp_minus_one(magnitude(z))
        derivative[0] = choose_greater(z, zero, splat(<real>SELU_SCALE), e + splat(<real>(SELU_SCALE * SELU_ALPHA)))
        return choose_greater(z, zero, splat(<real>SELU_SCALE) * z, e)
    if kind == GELU:
        sigma = cumulative_normal(z, &e)
        derivative[0] = multiply_add(z, e, sigma)
        return z * sigma
    if kind == GELU_TANH:
        # Beyond 30 nothing changes any more; z^3 might overflow.
        t = with_sign_of(at_most(splat(30), magnitude(z)), z)
        u = t * multiply_add(splat(<real>(CUBIC * ROOT)), t * t, splat(<real>ROOT))
        slope = multiply_add(splat(<real>(3 * CUBIC * ROOT)), t * t, splat(<real>ROOT))
        e = exp_negative(magnitude(u))
        inverse = one / (one + e)
        sigma = choose_greater(u, zero, inverse, e * inverse)
        rest = choose_greater(u, zero, e * inverse, inverse)
        derivative[0] = multiply_add(z * sigma * rest, slope, sigma)
        return z * sigma
    e = exp_negative(magnitude(z))
    inverse = one / (one + e)
    sigma = choose_greater(z, zero, inverse, e * inverse)
    if kind == SOFTPLUS:
        derivative[0] = sigma
        return at_least(zero, z) + logarithm(one + e, e)
    rest = choose_greater(z, zero, e * inverse, inverse)       # 1 - sigma
    if kind == SILU:
        derivative[0] = sigma * multiply_add(z, rest, one)
        return z * sigma
    # MISH: t = tanh(softplus(z)), 1 - t = rest
    u = choose_greater(z, zero, multiply_add(two, e, one), e * (e + two))
    slope = choose_greater(z, zero, two * e * e, two)
    inverse = one / (u + slope)
    t = u * inverse
    rest = slope * inverse
    derivative[0] = multiply_add(z * rest * (one + t), sigma, t)
    return z * t


cdef inline vreal derivative_of(const int kind, vreal parameter, vreal a) noexcept nogil:
    """f'(z) from a = f(z), for the functions up to FROM_ACTIVATION."""
    cdef vreal zero = splat(0), one = splat(1)
    if kind == LEAKY_RELU:
        return choose_greater(a, zero, one, parameter)
    if kind == ELU:
        return choose_greater(a, zero, one, a + parameter)
    if kind == SELU:
        return choose_greater(a, zero, splat(<real>SELU_SCALE), a + splat(<real>(SELU_SCALE * SELU_ALPHA)))
    return -exp_minus_one(a)


cdef inline void apply_by(const int kind, real parameter, real* a, real* derivatives, Py_ssize_t n) noexcept nogil:
    cdef vreal derivative
    cdef Py_ssize_t i = 0
    while i < n:
        store(a + i, function_of(kind, splat(parameter), load(a + i), &derivative))
        if derivatives != NULL:
            store(derivatives + i, derivative)
        i += LANES


ctypedef void (*ApplyBy)(const int kind, real parameter, real* a, real* derivatives, Py_ssize_t n) noexcept nogil
cdef extern from "vector.h" nogil:
    void apply_as "AS_CONSTANT"(int most, ApplyBy, int kind, ...)


cdef void apply_function(int kind, real parameter, real* a, real* derivatives, Py_ssize_t n) noexcept nogil:
    """a = f(a), n a multiple of LANES, and unless it is NULL derivatives = f'(a)."""
    apply_as(N_FUNCTIONS - 1, apply_by, kind, parameter, a, derivatives, n)


cdef inline void differentiate_by(const int kind, real parameter, const real* a, real* out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n:
        store(out + i, derivative_of(kind, splat(parameter), load(a + i)))
        i += LANES


ctypedef void (*DifferentiateBy)(const int kind, real parameter, const real* a, real* out, Py_ssize_t n) noexcept nogil
cdef extern from "vector.h" nogil:
    void differentiate_as "AS_CONSTANT"(int most, DifferentiateBy, int kind, ...)


cdef void differentiate_function(int kind, real parameter, const real* a, real* out, Py_ssize_t n) noexcept nogil:
    """out = f' from a = f(z), for the functions up to FROM_ACTIVATION; in place where out is a."""
    differentiate_as(LAST_FROM_ACTIVATION, differentiate_by, kind, parameter, a, out, n)
