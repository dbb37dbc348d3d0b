"""Sums: of the lanes of vectors, and of long sums by blocks; and the sizes that are cut up.

The order of a sum. A layer sums over its inputs k (the delta below it: over its outputs) in one order, whatever the
layout, the path and the number of examples:

    block_j = the sum over SUM_BLOCK j <= k < SUM_BLOCK (j + 1), one after another, each by `multiply_add`;
              block_0 starts at the bias, the others at 0
    sum     = block_0 + block_1 + ..., one after another in float64, rounded once

Every path that sums over inputs must follow it to the bit: an example's prediction then has the same bits in a
batch of any size. A sum of no more than SUM_BLOCK terms is block_0 itself. One after another, a float32 sum of 10^6
terms of one sign errs by 1e-4, of 2^25 ones it is 2^24; by blocks it errs by what they do, less than 1e-6, at any length.
Other sums go by blocks as well: over outputs (`loss_of`), over examples (backward.pxi), of `matmul` (matmul.pxi).

Rejected: float32 totals of blocks (10^-6 at 10^6 terms, and growing; as much work); compensated
totals (inf - inf makes NaN of an infinite sum); pairwise sums (a stack of partial sums for each micro-tile).
"""

cdef enum:
    SUM_BLOCK = 512             # terms of a sum that are added one after another
    TOTAL_REALS = 1 + sizeof(double) // sizeof(real)    # that hold a sum of a block and its total


cdef inline Py_ssize_t smaller(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t larger(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a > b else b


cdef inline Py_ssize_t parts(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """How many parts of at most `most` n makes."""
    return (n + most - 1) // most


cdef inline Py_ssize_t even_part(Py_ssize_t n, Py_ssize_t n_parts, Py_ssize_t i) noexcept nogil:
    """How much of n is in part i of n_parts. Even: a last tile of one row would wait for its own sums."""
    return n // n_parts + (i < n % n_parts)


# ---- lanes -------------------------------------------------------------------------------------------

cdef inline void add_halves(const int half, vreal* sums) noexcept nogil:
    cdef int i
    for i in range(half):
        sums[i] = interleave_low(sums[i], sums[i + half]) + interleave_high(sums[i], sums[i + half])


cdef inline void add_lanes(vreal* sums, const int n, real* totals) noexcept nogil:
    """totals[i] = the sum of the lanes of sums[i], i < n, n a multiple of LANES. Destroys sums.

    Halves are interleaved and added: LANES vectors become LANES / 2, then LANES / 4, ... and in the
    end one vector that holds the LANES totals in order. Written out: in a loop GCC would keep sums in memory.
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
    """n vectors of the sums of each two neighbouring lanes, from 2 n."""
    cdef int i
    for i in range(n):
        sums[i] = even_lanes(sums[2 * i], sums[2 * i + 1]) + odd_lanes(sums[2 * i], sums[2 * i + 1])


cdef inline real sum_of_lanes(vreal v) noexcept nogil:
    """In the order of `add_lanes`."""
    if LANES == 16:
        v = v + exchange(v, 8)
    if LANES >= 8:
        v = v + exchange(v, 4)
    if LANES >= 4:
        v = v + exchange(v, 2)
    return first_lane(v + exchange(v, 1))


cdef inline void transpose(const int rows, vreal* block) noexcept nogil:
    """block (rows, LANES) to (LANES, rows), row by row; rows is a power of two.

    To interleave two halves rotates the bits of each element's place by one. After log2(rows) rotations those of its row,
    which came first, come last.
    """
    cdef vreal turned[NARROW_ROWS + LANES]
    cdef int i, stage = 1
    while stage < rows:
        for i in range(rows // 2):
            turned[2 * i] = interleave_low(block[i], block[i + rows // 2])
            turned[2 * i + 1] = interleave_high(block[i], block[i + rows // 2])
        for i in range(rows):
            block[i] = turned[i]
        stage = stage * 2


# ---- totals of blocks ----------------------------------------------------------------------------------

cdef void add_block(const real* sums, Py_ssize_t n, bint first, double* totals) noexcept nogil:
    """totals += the sums of a block; = those of the first."""
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
