"""Learning-rate schedules: the rate of each step, in float64.

    STEP_DECAY           lr factor^floor(t / step_size)
    EXPONENTIAL_DECAY    lr exp(-rate t)
    INVERSE_TIME_DECAY   lr / (1 + rate t)
    COSINE_DECAY         lr (t + 1) / warmup while t < warmup, then floor + (lr - floor) (1 + cos(pi p)) / 2,
                         p = (t - warmup) / (steps - warmup), at most 1
    COSINE_LOG_DECAY     lr (1 - cos(2 pi log2(1 + 15 p))) / 2, p = t / steps, at most 1

A fit computes the rates of its next steps at once, before they run. A callable that is none of these is called from Python.
"""

from libc.math cimport cos, exp, log2, pow

cdef enum Schedule:
    STEP_DECAY
    EXPONENTIAL_DECAY
    INVERSE_TIME_DECAY
    COSINE_DECAY
    COSINE_LOG_DECAY

# Their names, in this order. The parameters of each are the fields of its class in fusegrad.schedules.
SCHEDULES = ("StepDecay", "ExponentialDecay", "InverseTimeDecay", "CosineDecay", "CosineLogDecay")

cdef double PI = 3.14159265358979323846
cdef double MOST_SIZE = 1e18        # fits into an integer of 64 bits; no fit has so many steps


cdef double rate_of(int kind, const double* p, long long step) noexcept nogil:
    """The rate of a step, numbered from 0."""
    cdef double lr = p[0], part
    if kind == STEP_DECAY:
        return lr * pow(p[2], <double>(step // <long long>p[1]) if p[1] < MOST_SIZE else 0)
    if kind == EXPONENTIAL_DECAY:
        return lr * exp(-p[1] * <double>step)
    if kind == INVERSE_TIME_DECAY:
        return lr / (1 + p[1] * <double>step)
    if kind == COSINE_DECAY:
        if <double>step < p[2]:
            return lr * <double>(step + 1) / p[2]
        part = (<double>step - p[2]) / (p[1] - p[2])
        return p[3] + (lr - p[3]) * (1 + cos(PI * (part if part < 1 else 1))) / 2
    part = <double>step / p[1]
    return lr * (1 - cos(2 * PI * log2(1 + 15 * (part if part < 1 else 1)))) / 2
