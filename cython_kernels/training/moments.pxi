"""A linear network, trained on all examples at once, from the moments of the data.

Design. The loss of a single linear layer W x + b and all its gradients follow from sums that do not
change from step to step. With examples centred, x' = x - mean x and y' = y - mean y, and
e = W mean x + b - mean y,

    m L = tr(W Sxx W^T) - 2 tr(W Sxy^T) + tr Syy + m |e|^2      Sxx = X' X'^T, Sxy = Y' X'^T, Syy = Y' Y'^T
    dW  = (2/m) (W Sxx - Sxy) + 2 e (mean x)^T,   db = 2 e

so a step costs n_out n_in^2, the same for a thousand examples and ten million. Consecutive linear layers
are folded into one (network/folding.pxi), so this serves three of the four networks. All of it is in
float64; being centred, nothing cancels in the gradient, whatever the means.

In the loss the first three terms cancel where the fit is nearly perfect. When what is left of them is
less than LEAST_LEFT of their size, fewer than ten digits of the loss would be right: `moments_step` says
no, and that step is computed from the examples. The parameters alone decide, so a fit that is stopped and
taken up again goes the same way.

Rejected: moments that are not centred (raw columns with a mean of 1000 times their spread lose six digits
of the gradient); an eigenbasis of Sxx, in which a step is O(n) (other rounding than from the examples, and no gain
until n is in the hundreds).
"""

cdef double LEAST_LEFT = 1e-5

cdef struct Moments:
    Py_ssize_t n            # inputs and outputs together
    const double* means     # (n,)
    const double* products  # (n, n), centred, inputs first
    double* work            # (n_in,)


cdef double moments_step(
    Moments* moments, Layer* layer, const real* parameters, Py_ssize_t count, real* gradient,
) noexcept nogil:
    """The loss, with its gradient in `gradient`; -1 where the loss would have too few digits."""
    cdef Py_ssize_t n = moments.n, n_in = layer.n_in, i, j, o
    cdef const double* products = moments.products
    cdef const double* row
    cdef const double* cross
    cdef const real* w
    cdef real* dw
    cdef double* v = moments.work
    cdef double m = normaliser(count), e, quadratic = 0, mixed = 0, constant = 0, offset = 0, left
    for o in range(layer.n_out):
        w = parameters + layer.weight + o * n_in
        dw = gradient + layer.weight + o * n_in
        cross = products + (n_in + o) * n
        e = -moments.means[n_in + o]
        if layer.bias >= 0:
            e += parameters[layer.bias + o]
        for j in range(n_in):
            e = multiply_add_double(w[j], moments.means[j], e)
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
    left = quadratic - 2 * mixed + constant
    if not left >= LEAST_LEFT * (quadratic + 2 * (mixed if mixed > 0 else -mixed) + constant):     # NaN included
        return -1
    if not isfinite(<real>(left / m + offset)):     # from the examples it is inf, in their dtype
        return -1
    return left / m + offset
