"""Full-batch training of a linear network from the moments of the data.

Design. The loss of a single linear layer W x + b and all its gradients follow from sums that do not
change from step to step. With examples centred, x' = x - mean x and y' = y - mean y, and
e = W mean x + b - mean y,

    m L = tr(W Sxx W^T) - 2 tr(W Sxy^T) + tr Syy + m |e|^2      Sxx = X' X'^T, Sxy = Y' X'^T, Syy = Y' Y'^T
    dW  = (2/m) (W Sxx - Sxy) + 2 e (mean x)^T,   db = 2 e

So a step costs n_out n_in^2, independent of the number of examples. Consecutive linear layers are folded into one
(network/folding.pxi), so this serves three of the four networks of course.py. All of it is in float64; since the moments are
centred, nothing cancels in the gradient, whatever the means are.

The first three terms of the loss cancel if the fit is nearly perfect, and so do the terms of each if weights of correlated
inputs are large and of opposite signs. If less than LEAST_LEFT of the sum of their magnitudes remains, fewer than ten digits
of the loss would be right: `moments_step` returns -1, and the step is computed from the examples. This depends on the
parameters alone, so that a fit which is stopped and resumed makes the same choices. The magnitudes are bounded first, by
those of the diagonal of Sxx, which costs no second pass over it.

Rejected: moments that are not centred (raw columns with a mean of 1000 times their spread lose six digits
of the gradient); an eigenbasis of Sxx, in which a step is O(n) (it rounds differently from a step on the examples, and
gains nothing until n is in the hundreds).
"""

cdef double LEAST_LEFT = 1e-5

cdef struct Moments:
    Py_ssize_t n            # inputs and outputs together
    const double* means     # (n,)
    const double* products  # (n, n), centred, inputs first
    double* work            # (n_in,)


cdef double sum_of_magnitudes(Moments* moments, Layer* layer, const real* parameters) noexcept nogil:
    """The sum of the magnitudes of all terms of tr(W Sxx W^T) - 2 tr(W Sxy^T) + tr Syy."""
    cdef Py_ssize_t n = moments.n, n_in = layer.n_in, i, j, o
    cdef const double* row
    cdef const real* w
    cdef double total = 0, of_row
    for o in range(layer.n_out):
        w = parameters + layer.weight + o * n_in
        row = moments.products + (n_in + o) * n
        total += row[n_in + o]
        for j in range(n_in):
            total += 2 * fabs(w[j] * row[j])
        for i in range(n_in):
            row = moments.products + i * n
            of_row = 0
            for j in range(n_in):
                of_row += fabs(w[j] * row[j])
            total += fabs(<double>w[i]) * of_row
    return total


cdef double moments_step(
    Moments* moments, Layer* layer, const real* parameters, Py_ssize_t count, real* gradient,
) noexcept nogil:
    """Returns the loss, and writes its gradient to `gradient`; -1 if the loss would have too few correct digits."""
    cdef Py_ssize_t n = moments.n, n_in = layer.n_in, i, j, o
    cdef const double* products = moments.products
    cdef const double* row
    cdef const double* cross
    cdef const real* w
    cdef real* dw
    cdef double* v = moments.work
    cdef double m = count, e, quadratic = 0, mixed = 0, constant = 0, offset = 0, left
    cdef double diagonal = 0, reach, of_offset = 0      # sums of magnitudes, of all outputs: of the diagonal, of e
    for o in range(layer.n_out):
        w = parameters + layer.weight + o * n_in
        dw = gradient + layer.weight + o * n_in
        cross = products + (n_in + o) * n
        e = -moments.means[n_in + o]
        if layer.bias >= 0:
            e += parameters[layer.bias + o]
        reach = fabs(moments.means[n_in + o])
        for j in range(n_in):
            e = multiply_add_double(w[j], moments.means[j], e)
            reach += fabs(w[j] * moments.means[j])
            diagonal += <double>w[j] * w[j] * products[j * n + j]
            v[j] = 0
        for i in range(n_in):
            row = products + i * n
            for j in range(n_in):
                v[j] = multiply_add_double(w[i], row[j], v[j])
        for j in range(n_in):
            quadratic = multiply_add_double(w[j], v[j], quadratic)
            mixed = multiply_add_double(w[j], cross[j], mixed)
            dw[j] = <real>multiply_add_double(2 / m, v[j] - cross[j], 2 * e * moments.means[j])
        if layer.bias >= 0:
            gradient[layer.bias + o] = <real>(2 * e)
        constant += cross[n_in + o]
        offset = multiply_add_double(e, e, offset)
        of_offset += fabs(e) * reach
    left = quadratic - 2 * mixed + constant
    if not left >= 2 * LEAST_LEFT * (n_in * diagonal + constant):       # at least the sum of magnitudes
        if not left >= LEAST_LEFT * sum_of_magnitudes(moments, layer, parameters):     # NaN, too
            return -1
    if not left + m * offset >= LEAST_LEFT * m * of_offset:
        return -1
    if not isfinite(<real>(left / m + offset)):     # the loss from the examples is inf, in their dtype
        return -1
    return left / m + offset
