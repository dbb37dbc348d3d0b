"""The product of a packed matrix, which does not change any more, and a few vectors, with the outputs in the lanes.

Design. Of W (n_out, n_in) and b the transpose is kept: a bias and n_in columns, each a vector, for each LANES outputs, one
group after another. Where sums are interleaved (sums.pxi) the columns of a chain follow each other. What is left of the
last group is 0. So nothing is transposed and each group is read as one stream.
"""

cdef enum:
    PACKED_GROUPS = 8           # groups of LANES outputs, and
    PACKED_TOGETHER = 8         # vectors, whose sums stay in registers


cdef inline Py_ssize_t packed_size(Py_ssize_t n_out, Py_ssize_t n_in) noexcept nogil:
    return ceil_div(n_out, LANES) * LANES * (n_in + 1)


cdef inline void pack_column(
    const real* w, Py_ssize_t n_out, Py_ssize_t n_in, Py_ssize_t group, Py_ssize_t k, real* packed,
) noexcept nogil:
    """Column k of w, or with n_in 1 the bias, for LANES outputs."""
    cdef Py_ssize_t lane, o
    for lane in range(LANES):
        o = group * LANES + lane
        packed[lane] = w[o * n_in + k] if o < n_out else 0


cdef void pack_weight(const real* w, const real* bias, Py_ssize_t n_out, Py_ssize_t n_in, real* packed) noexcept nogil:
    cdef Py_ssize_t group, i, first, stop, j, k, chains = SUM_CHAINS if n_in >= INTERLEAVED_DEPTH else 1
    for group in range(ceil_div(n_out, LANES)):
        for i in range(LANES):
            packed[i] = 0
        if bias != NULL:
            pack_column(bias, n_out, 1, group, 0, packed)
        packed += LANES
        first = 0
        while first < n_in:
            stop = minimum(first + INTERLEAVED_BLOCK, n_in)
            for j in range(chains):
                k = first + j
                while k < stop:
                    pack_column(w, n_out, n_in, group, k, packed)
                    packed += LANES
                    k += chains
            first = stop


cdef inline void packed_block(
    const int n, const int groups, Py_ssize_t depth, Py_ssize_t size, const real* packed, const real* x, Py_ssize_t x_row,
    Py_ssize_t chains, real* block,
) noexcept nogil:
    """The sums of one block for some groups of outputs, `size` apart, and n vectors; `block` has what they start from."""
    cdef vreal sums[PACKED_GROUPS]
    cdef vreal column
    cdef Py_ssize_t k, j
    cdef int g, e, i
    for i in range(groups * n):
        sums[i] = load(block + i * LANES)
    for j in range(chains):
        k = j
        while k < depth:
            for g in range(groups):
                column = load(packed + g * size)
                for e in range(n):
                    sums[g * n + e] = multiply_add(column, splat(x[e * x_row + k]), sums[g * n + e])
            packed += LANES
            k += chains
        for i in range(groups * n):
            store(block + i * LANES, sums[i] if j == 0 else load(block + i * LANES) + sums[i])
            sums[i] = splat(0)


cdef inline void packed_by(
    const int n, Py_ssize_t groups, Py_ssize_t depth, Py_ssize_t size, const real* packed, const real* x, Py_ssize_t x_row,
    Py_ssize_t chains, real* block,
) noexcept nogil:
    if groups == PACKED_GROUPS // n:
        packed_block(n, PACKED_GROUPS // n, depth, size, packed, x, x_row, chains, block)
    elif n == 1 and groups == 4:
        packed_block(n, 4, depth, size, packed, x, x_row, chains, block)
    else:
        packed_block(n, 1, depth, size, packed, x, x_row, chains, block)


ctypedef void (*PackedBy)(
    const int n, Py_ssize_t groups, Py_ssize_t depth, Py_ssize_t size, const real* packed, const real* x, Py_ssize_t x_row,
    Py_ssize_t chains, real* block) noexcept nogil
cdef extern from "vector.h" nogil:
    void packed_of "AS_CONSTANT"(int most, PackedBy, Py_ssize_t n, ...)


cdef void packed_outputs(
    Py_ssize_t n, Py_ssize_t groups, Py_ssize_t n_in, const real* packed, const real* x, Py_ssize_t x_row, real* c,
    Py_ssize_t c_row,
) noexcept nogil:
    """Some groups of outputs of n vectors."""
    cdef real block[PACKED_GROUPS * LANES]
    cdef double totals[PACKED_GROUPS * LANES]
    cdef Py_ssize_t size = (n_in + 1) * LANES, count = groups * n * LANES, k = 0, depth, g, e, i
    cdef Py_ssize_t chains = SUM_CHAINS if n_in >= INTERLEAVED_DEPTH else 1
    for g in range(groups):
        for e in range(n):
            store(block + (g * n + e) * LANES, load(packed + g * size))
    packed += LANES
    while True:
        depth = minimum(INTERLEAVED_BLOCK, n_in - k)
        packed_of(PACKED_TOGETHER, packed_by, n, groups, depth, size, packed, x + k, x_row, chains, block)
        if k + depth == n_in:
            break
        add_block(block, count, k == 0, totals)
        for i in range(count):
            block[i] = 0
        packed += depth * LANES
        k += depth
    if k > 0:
        round_totals(totals, block, count, block)
    for g in range(groups):
        for e in range(n):
            store(c + e * c_row + g * LANES, load(block + (g * n + e) * LANES))


cdef void multiply_packed(
    Py_ssize_t n_out, Py_ssize_t n_in, const real* packed, const real* x, Py_ssize_t x_row, Py_ssize_t n, real* c,
    Py_ssize_t c_row, Interrupt* interrupt, int thread,
) noexcept nogil:
    """c (n, n_out) = x W^T + b. Rows of c have room for whole vectors."""
    cdef Py_ssize_t n_parts = ceil_div(n, PACKED_TOGETHER), n_groups = ceil_div(n_out, LANES), i, count, groups, group
    for i in range(n_parts):
        count = balanced_part(n, n_parts, i)
        group = 0
        while group < n_groups:
            groups = PACKED_GROUPS // count
            if groups > n_groups - group:
                groups = 4 if count == 1 and n_groups - group >= 4 else 1
            packed_outputs(count, groups, n_in, packed + group * LANES * (n_in + 1), x, x_row, c + group * LANES, c_row)
            if check_interrupt(interrupt, thread, groups * LANES * count * n_in):
                return
            group += groups
        x += count * x_row
        c += count * c_row
