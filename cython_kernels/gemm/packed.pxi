"""The product of a packed matrix, which does not change any more, and a few vectors, with the outputs in the lanes.

Design. Of W (n_out, n_in) and b the transpose is kept, in panels of PANEL outputs: a row of biases, then a row for each
input. Where sums are interleaved (sums.pxi) the rows of a chain follow each other, so that a panel is read as one stream.
What is left of the last panel is 0. The sums of some examples and one panel stay in registers, as in a micro-tile; those of
one or two examples, which would be latency-bound, for several panels. Panels from memory are prefetched.
"""

cdef enum:
    PACKED_VECTORS = 8          # vectors of sums of one or two examples
    PACKED_SUMS = (ROWS + PACKED_VECTORS) * PANEL       # room for the sums
    PACKED_AHEAD = (32 << 10) // sizeof(real)   # elements from a prefetch to their use


cdef struct PackedProduct:
    # c (n, n_out) = x W^T + b; rows of c have room for whole panels.
    const real* packed
    Py_ssize_t n_in
    Py_ssize_t n_out
    const real* x
    Py_ssize_t x_row
    real* c
    Py_ssize_t c_row


cdef inline Py_ssize_t packed_size(Py_ssize_t n_out, Py_ssize_t n_in) noexcept nogil:
    return panels(n_out) * PANEL * (n_in + 1)


cdef inline void pack_column(
    const real* w, Py_ssize_t n_out, Py_ssize_t n_in, Py_ssize_t panel, Py_ssize_t k, real* packed,
) noexcept nogil:
    """Column k of w, or with n_in 1 the bias, for the outputs of a panel."""
    cdef Py_ssize_t i, o
    for i in range(PANEL):
        o = panel * PANEL + i
        packed[i] = w[o * n_in + k] if o < n_out else 0


cdef void pack_weight(const real* w, const real* bias, Py_ssize_t n_out, Py_ssize_t n_in, real* packed) noexcept nogil:
    cdef Py_ssize_t panel, i, first, stop, j, k, chains = SUM_CHAINS if n_in >= INTERLEAVED_DEPTH else 1
    for panel in range(panels(n_out)):
        for i in range(PANEL):
            packed[i] = 0
        if bias != NULL:
            pack_column(bias, n_out, 1, panel, 0, packed)
        packed += PANEL
        first = 0
        while first < n_in:
            stop = minimum(first + INTERLEAVED_BLOCK, n_in)
            for j in range(chains):
                k = first + j
                while k < stop:
                    pack_column(w, n_out, n_in, panel, k, packed)
                    packed += PANEL
                    k += chains
            first = stop


cdef inline const real* add_packed(
    const int n, const int n_panels, const bint far, Py_ssize_t depth, Py_ssize_t size, const real* packed, const real* x,
    Py_ssize_t x_row, Py_ssize_t step, vreal* sums,
) noexcept nogil:
    """sums[v, e] += the products of `depth` rows of the panels and every step-th element of n vectors; returns the next row."""
    cdef vreal right[PACKED_VECTORS]
    cdef vreal left[ROWS]
    cdef Py_ssize_t k
    cdef int v, e
    for k in range(depth):
        packed = opaque(<real*>packed)
        for e in range(n if n <= 2 else 0):
            left[e] = splat(x[e * x_row])
        for v in range(n_panels * VECTORS):
            right[v] = load(packed + v // VECTORS * size + v % VECTORS * LANES)
            if far and v * LANES * sizeof(real) % LINE == 0:
                prefetch(2, packed + v // VECTORS * size + v % VECTORS * LANES + PACKED_AHEAD)
            for e in range(n if n <= 2 else 0):     # many vectors of W: each is used at once
                sums[v * n + e] = multiply_add(left[e], right[v], sums[v * n + e])
        for e in range(n if n > 2 else 0):          # many examples: an element of each is used at once
            left[0] = splat(x[e * x_row])
            for v in range(n_panels * VECTORS):
                sums[v * n + e] = multiply_add(left[0], right[v], sums[v * n + e])
        packed += PANEL
        x += step
    return packed


cdef struct PackedBlock:
    # The sums of one block for some panels, `size` apart: c = start + x (n, depth) W^T.
    const real* packed
    Py_ssize_t size
    const real* x
    Py_ssize_t x_row
    Py_ssize_t depth
    bint has_start          # the first row is the start, else it is 0
    bint far                # prefetched from memory
    real* c
    Py_ssize_t c_row


cdef inline void packed_panels(
    const int n, const int n_panels, const bint far, const PackedBlock* b, Py_ssize_t chains,
) noexcept nogil:
    cdef vreal sums[ROWS * PACKED_VECTORS]
    cdef vreal total[ROWS * PACKED_VECTORS]
    cdef const real* packed = b.packed
    cdef Py_ssize_t j
    cdef int count = n_panels * VECTORS * n, v, e, i
    for v in range(n_panels * VECTORS):
        for e in range(n):
            sums[v * n + e] = load(packed + v // VECTORS * b.size + v % VECTORS * LANES) if b.has_start else splat(0)
    if b.has_start:
        packed += PANEL
    for j in range(chains):
        packed = add_packed(
            n, n_panels, far, (b.depth - j + chains - 1) // chains, b.size, packed, b.x + j, b.x_row, chains, sums)
        for i in range(count):
            total[i] = sums[i] if j == 0 else total[i] + sums[i]
            sums[i] = splat(0)
    for v in range(n_panels * VECTORS):
        for e in range(n):
            store(b.c + e * b.c_row + v * LANES, total[v * n + e])


cdef inline void packed_some(const int n, Py_ssize_t n_panels, const PackedBlock* b, Py_ssize_t chains) noexcept nogil:
    cdef int most = PACKED_VECTORS // (n * VECTORS)      # for so many panels sums stay in registers
    if most >= 4 and n_panels == 4:
        if b.far:
            packed_panels(n, 4, True, b, chains)
        else:
            packed_panels(n, 4, False, b, chains)
    elif most >= 2 and n_panels == 2:
        if b.far:
            packed_panels(n, 2, True, b, chains)
        else:
            packed_panels(n, 2, False, b, chains)
    elif b.far:
        packed_panels(n, 1, True, b, chains)
    else:
        packed_panels(n, 1, False, b, chains)


ctypedef void (*PackedSome)(const int n, Py_ssize_t n_panels, const PackedBlock* b, Py_ssize_t chains) noexcept nogil
cdef extern from "vector.h" nogil:
    void packed_some_of "AS_CONSTANT"(int most, PackedSome, Py_ssize_t n, ...)


cdef void packed_part(
    const PackedProduct* p, Py_ssize_t panel, Py_ssize_t n_panels, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """n_panels panels from `panel` on, n <= ROWS vectors from `first` on."""
    cdef real sums[PACKED_SUMS]
    cdef double totals[PACKED_SUMS]
    cdef Py_ssize_t size = (p.n_in + 1) * PANEL, chains = SUM_CHAINS if p.n_in >= INTERLEAVED_DEPTH else 1, k = 0, e, i
    cdef Py_ssize_t width = n_panels * PANEL
    cdef real* c = p.c + first * p.c_row + panel * PANEL
    cdef PackedBlock block = PackedBlock(
        p.packed + panel * size, size, p.x + first * p.x_row, p.x_row, p.n_in, True, comes_from_memory(p.n_out, p.n_in),
        c, p.c_row)
    if p.n_in <= INTERLEAVED_BLOCK:
        packed_some_of(ROWS, packed_some, n, n_panels, &block, chains)
        return
    block.c = sums
    block.c_row = width
    while k < p.n_in:
        block.depth = minimum(INTERLEAVED_BLOCK, p.n_in - k)
        packed_some_of(ROWS, packed_some, n, n_panels, &block, chains)
        block.packed += (block.depth + block.has_start) * PANEL
        block.x += block.depth
        block.has_start = False
        if k + block.depth < p.n_in:
            add_block(sums, n * width, k == 0, totals)
        k += block.depth
    round_totals(totals, sums, n * width, sums)
    for e in range(n):
        for i in range(width // LANES):
            store(c + e * p.c_row + i * LANES, load(sums + e * width + i * LANES))


cdef void multiply_packed(const PackedProduct* p, Py_ssize_t n, Interrupt* interrupt, int thread) noexcept nogil:
    """All n vectors use a panel before the next is read."""
    cdef Py_ssize_t n_parts = ceil_div(n, ROWS), n_panels = panels(p.n_out), panel = 0, first, count, i
    cdef Py_ssize_t most = maximum(1, PACKED_VECTORS // (n * VECTORS)), some
    while panel < n_panels and not check_interrupt(interrupt, thread, most * PANEL * n * p.n_in):
        some = minimum(most, n_panels - panel)
        if some == 3:
            some = 2
        first = 0
        for i in range(n_parts):
            count = balanced_part(n, n_parts, i)
            packed_part(p, panel, some, first, count)
            first += count
        panel += some
