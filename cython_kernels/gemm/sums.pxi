"""Sums of the lanes of vectors, and long sums in blocks; helpers that divide a size into parts.

The order of a sum. A layer sums over its inputs k in one order, independent of layout, code path and number of examples.
Fewer than INTERLEAVED_DEPTH inputs: sequentially by `multiply_add`, starting at the bias. More:

    block           = INTERLEAVED_BLOCK inputs
    chain_j         = the sum over k = j, j + c, j + 2 c, ... of a block, sequentially, for c = SUM_CHAINS, 8 in float32 and 4
                      in float64; chain_0 of the first block starts at the bias
    sum of a block  = chain_0 + chain_1 + ... + chain_{c-1}, sequentially
    sum             = that of the first block + that of the second + ..., sequentially in float64, rounded once

Every code path that sums over inputs must produce the bits of this order: then the prediction of an example has the same
bits in a batch of any size. Why chains: a single example then is a product with k in the lanes, which reads a wide W in
place at the speed of memory; lanes over outputs would need W transposed, which takes 1.6 times as long. For a panel of
examples the chains are c products of a c-th of the depth: 2 % of (784, 128, 128) on Zen 4, 5 % on the Xeon. There are as
many chains as 32 bytes have elements. Eight in float64 would cost 3 % of a step, and up to 30 % of a few examples with AVX2;
four in float32 would gain up to 2 % of a step, but fill only half of the registers in dots.pxi. Short sums have no chains, since
their chains would be too short.

Added sequentially in float32, 10^6 terms of one sign have a relative error of 1e-4, and 2^25 ones give 2^24; in blocks the
error is that of one block, below 1e-6, at any length. Other sums are made in blocks, of SUM_BLOCK terms: over outputs in
the backward pass and in the loss (loss.pxi), over examples (weight_gradient.pxi), in `matmul`.

Rejected: block totals in float32 (an error of 1e-6 at 10^6 terms, and growing; the same work); compensated
totals (inf - inf makes an infinite sum NaN); pairwise sums (a stack of partial sums for each micro-tile).
"""

cdef enum:
    SUM_BLOCK = 512             # terms of a sum that are added sequentially
    INTERLEAVED_DEPTH = 512     # from so many inputs on, their sums are interleaved
    INTERLEAVED_BLOCK = SUM_CHAINS * SUM_BLOCK      # inputs in a block of such a sum
    TOTAL_REALS = 1 + sizeof(double) // sizeof(real)    # reals that hold the sum of a block and a float64 total


cdef inline Py_ssize_t minimum(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t maximum(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a > b else b


cdef inline Py_ssize_t ceil_div(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """The number of parts of at most `most` elements that n elements make: n / most, rounded up."""
    return (n + most - 1) // most


cdef inline Py_ssize_t balanced_part(Py_ssize_t n, Py_ssize_t n_parts, Py_ssize_t i) noexcept nogil:
    """The size of part i of n in n_parts nearly equal parts. A last tile of a single row would be latency-bound."""
    return n // n_parts + (i < n % n_parts)


# ---- lanes -------------------------------------------------------------------------------------------

cdef inline void add_halves(const int half, vreal* sums) noexcept nogil:
    cdef int i
    for i in range(half):
        sums[i] = interleave_low(sums[i], sums[i + half]) + interleave_high(sums[i], sums[i + half])


cdef inline void add_lanes(vreal* sums, const int n, real* totals) noexcept nogil:
    """totals[i] = the sum of the lanes of sums[i], i < n, n a multiple of LANES. Destroys sums.

    Halves are interleaved and added: LANES vectors become LANES / 2, then LANES / 4, ... and in the
    end one vector that holds the LANES totals in order. Unrolled by hand: in a loop GCC would spill sums to memory.
    """
    cdef int group
    for group in range(n // LANES):
        if LANES == 16:
            add_halves(8, sums)
        if LANES >= 8:
            add_halves(4, sums)
        if LANES >= 4:
            add_halves(2, sums)
        add_halves(1, sums)
        store(totals + group * LANES, sums[0])
        sums += LANES


cdef inline void add_neighbours(const int n, vreal* sums) noexcept nogil:
    """Adds each pair of adjacent lanes: 2 n vectors become n."""
    cdef int i
    for i in range(n):
        sums[i] = even_lanes(sums[2 * i], sums[2 * i + 1]) + odd_lanes(sums[2 * i], sums[2 * i + 1])


cdef inline real sum_of_lanes(vreal v) noexcept nogil:
    """The sum of the lanes of v, in the order of `add_lanes`."""
    if LANES == 16:
        v = v + exchange(v, 8)
    if LANES >= 8:
        v = v + exchange(v, 4)
    if LANES >= 4:
        v = v + exchange(v, 2)
    return first_lane(v + exchange(v, 1))


cdef inline void transpose(const int rows, vreal* block) noexcept nogil:
    """Transposes block (rows, LANES) to (LANES, rows), both stored row by row; rows is a power of two.

    Interleaving two halves rotates the bits of each element's index by one. After log2(rows) rotations the bits of the row,
    which were the highest, are the lowest.
    """
    cdef vreal turned[ROWS + LANES]
    cdef int i, stage = 1
    while stage < rows:
        for i in range(rows // 2):
            turned[2 * i] = interleave_low(block[i], block[i + rows // 2])
            turned[2 * i + 1] = interleave_high(block[i], block[i + rows // 2])
        for i in range(rows):
            block[i] = turned[i]
        stage = stage * 2


cdef inline void transpose_parts(const vreal* rows, vreal* columns) noexcept nogil:
    """Transposes the square of QUAD x QUAD elements in each 16 bytes of QUAD vectors."""
    cdef vreal pairs[4]     # QUAD is 2 or 4
    if QUAD == 4:
        pairs[0] = interleave_parts_low(rows[0], rows[2])
        pairs[1] = interleave_parts_high(rows[0], rows[2])
        pairs[2] = interleave_parts_low(rows[1], rows[3])
        pairs[3] = interleave_parts_high(rows[1], rows[3])
        columns[0] = interleave_parts_low(pairs[0], pairs[2])
        columns[1] = interleave_parts_high(pairs[0], pairs[2])
        columns[2] = interleave_parts_low(pairs[1], pairs[3])
        columns[3] = interleave_parts_high(pairs[1], pairs[3])
    else:
        columns[0] = interleave_parts_low(rows[0], rows[1])
        columns[1] = interleave_parts_high(rows[0], rows[1])


cdef inline void load_transposed(const real** rows, vreal* columns) noexcept nogil:
    """LANES columns of LANES rows in memory. Vectors of 16 bytes from every QUAD-th row need 32 shuffles where `transpose` needs
    64 (AVX-512, float32), 16 for 48 with AVX2."""
    cdef vreal parts[LANES]
    cdef int i, k
    for i in range(QUAD):
        for k in range(LANES // QUAD):
            parts[k * QUAD + i] = load_parts(
                rows[i] + k * QUAD, rows[(i + QUAD) % LANES] + k * QUAD, rows[(i + 2 * QUAD) % LANES] + k * QUAD,
                rows[(i + 3 * QUAD) % LANES] + k * QUAD)
    for k in range(LANES // QUAD):
        transpose_parts(parts + k * QUAD, columns + k * QUAD)


# ---- totals of blocks ----------------------------------------------------------------------------------

cdef void add_block(const real* sums, Py_ssize_t n, bint first, double* totals) noexcept nogil:
    """totals += the sums of a block; the first block is stored, not added."""
    cdef Py_ssize_t i
    if first:
        for i in range(n):
            totals[i] = sums[i]
    else:
        for i in range(n):
            totals[i] += sums[i]


cdef void round_totals(const double* totals, const real* sums, Py_ssize_t n, real* out) noexcept nogil:
    """out = totals + the sums of the last block, rounded."""
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = <real>(totals[i] + sums[i])
