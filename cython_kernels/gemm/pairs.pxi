"""The product of a wide row-major matrix and 4 to 16 vectors x, of which two share a register: interleaved sums (sums.pxi), in
float32 with AVX-512, where SUM_CHAINS elements are half of it. (`load_twice` is written for float32 only.)

Design. The x are packed in pairs: SUM_CHAINS elements of one, then of the other. As many elements of a row of w are loaded
to both halves, which needs no shuffle, so that each lane is a chain of a sum as in dots.pxi. PAIR_ROWS rows and PAIRS pairs are
multiplied together, up to 8 vectors. Their sums, LANES vectors, are transposed in registers, and the chains are then added
lane by lane. A step of 16 multiply-adds has 8 loads; a panel one vector wide, the examples in its lanes, has a broadcast for
each. 16 vectors take 0.7 to 0.9 of the time of such a panel, 4 to 8 vectors 0.6 to 0.95 of that of dots.pxi.

The hardware prefetches within a row. For a w beyond the L2 the next rows are prefetched, and each tile prefetches its share of
them: 0.8 to 0.95 of the time.

Rejected: 8 pairs and 2 or 3 rows (x does not stay in the L1: 0.6 to 0.75 of the speed); 6 rows (their sums do not fit one
transposition; 0 to 10 % faster in a loop of its own); depth in blocks, for an x that stays in the L1 (no faster); all next rows
prefetched with the first half of the vectors (7 to 15 % slower for 9 to 16).
"""

cdef enum:
    PAIRS = 4
    PAIR_ROWS = (LANES + PAIRS - 1) // PAIRS
    PAIR_BLOCK = 2 * PAIR_ROWS      # rows that are multiplied by all vectors before the next are read
    LEAST_PAIRED = 4                # vectors from which on they are packed in pairs


cdef inline bint pairs_pay(Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t depth) noexcept nogil:
    return (
        sizeof(real) == 4 and LANES == 2 * SUM_CHAINS and LEAST_PAIRED <= n <= LANES and n_rows >= PAIR_ROWS
        and depth >= INTERLEAVED_DEPTH)


cdef inline Py_ssize_t pairs_together(Py_ssize_t n, Py_ssize_t first) noexcept nogil:
    """How many of the pairs of n vectors are multiplied together, from pair `first` on."""
    cdef Py_ssize_t pairs = (n + 1) // 2
    return minimum(ceil_div(pairs, ceil_div(pairs, PAIRS)), pairs - first)


cdef void pack_pairs(const DotProduct* p, real* packed) noexcept nogil:
    """SUM_CHAINS elements of the pairs that are multiplied together, then their next ones; the last ones are padded with -0.

    An odd last vector is packed twice. packed: room for LANES vectors, their depth rounded up to a multiple of SUM_CHAINS.
    """
    cdef Py_ssize_t first = 0, count, k, e, i
    cdef const real* x
    while 2 * first < p.n:
        count = pairs_together(p.n, first)
        k = 0
        while k < p.depth:
            for e in range(2 * first, 2 * (first + count)):
                x = p.x + minimum(e, p.n - 1) * p.x_row + k
                if k + SUM_CHAINS <= p.depth:
                    memcpy(packed, x, SUM_CHAINS * sizeof(real))
                else:
                    for i in range(SUM_CHAINS):
                        packed[i] = x[i] if k + i < p.depth else <real>-0.
                packed += SUM_CHAINS
            k += SUM_CHAINS
        first += count


cdef inline void pair_step(
    const int pairs, const real* w, Py_ssize_t row, const real* x, vreal sums[PAIRS][PAIR_ROWS],
) noexcept nogil:
    """The next SUM_CHAINS elements."""
    cdef vreal right[PAIRS]
    cdef vreal left
    cdef int e, i
    for e in range(pairs):
        right[e] = load(x + e * LANES)
    for i in range(PAIR_ROWS):
        left = load_twice(w + i * row)
        for e in range(pairs):
            sums[e][i] = multiply_add(left, right[e], sums[e][i])


cdef inline void pair_tile(
    const int pairs, const int ahead, Py_ssize_t depth, const real* w, const real* next_w, Py_ssize_t row, const real* x,
    const real* bias, real* sums,
) noexcept nogil:
    """The sums of a block (sums.pxi): element i of sums[half][e] is that of row i and one of the vectors of pair e.

    ahead: how many rows from next_w on are prefetched, an even number; they may lie behind w. A step reads half a line of
    each row.
    """
    cdef vreal products[PAIRS][PAIR_ROWS]
    cdef vreal chains[LANES]
    cdef vreal low, high
    cdef real edge[PAIR_ROWS * LANES]
    cdef Py_ssize_t k
    cdef int e, i
    for i in range(PAIR_ROWS):
        for e in range(PAIRS):
            products[e][i] = splat(0) if bias == NULL else first_of_halves(bias[i])
    for k in range(depth // SUM_CHAINS):
        w = opaque(<real*>w)
        for i in range(ahead // 2):
            prefetch(2, next_w + (k % 2 * (ahead // 2) + i) * row)
        next_w += SUM_CHAINS
        pair_step(pairs, w, row, x, products)
        w += SUM_CHAINS
        x += pairs * LANES
    if depth % SUM_CHAINS:      # products of 0 and -0 change no sum, not even one of -0
        for i in range(PAIR_ROWS):
            store(edge + i * LANES, load_first(w + i * row, depth % SUM_CHAINS))
        pair_step(pairs, edge, LANES, x, products)
    for i in range(LANES):
        chains[i] = products[i // PAIR_ROWS][i % PAIR_ROWS]
    transpose(LANES, chains)
    low = chains[0]
    high = chains[LANES // 2]
    for i in range(1, LANES // 2):
        low = low + chains[i]
        high = high + chains[LANES // 2 + i]
    store(sums, low)
    store(sums + LANES, high)


ctypedef void (*PairTile)(
    const int pairs, const int ahead, Py_ssize_t depth, const real* w, const real* next_w, Py_ssize_t row, const real* x,
    const real* bias, real* sums) noexcept nogil
cdef extern from "vector.h" nogil:
    void pair_tile_of "AS_CONSTANT"(int most, PairTile, Py_ssize_t pairs, ...)


cdef void pair_rows(
    const DotProduct* p, Py_ssize_t o, Py_ssize_t first, Py_ssize_t pairs, const real* packed, Py_ssize_t ahead,
    Py_ssize_t next_row,
) noexcept nogil:
    """PAIR_ROWS rows of w, from o on, and some pairs. ahead: rows, from next_row on, that are prefetched."""
    cdef real sums[2 * LANES]
    cdef double totals[2 * LANES]
    cdef const real* w = p.w + o * p.depth
    cdef const real* next_w = p.w + next_row * p.depth
    cdef const real* bias = next_bias(p.bias, o)
    cdef const real* x = packed
    cdef Py_ssize_t k = 0, depth, e
    memset(totals, 0, sizeof(totals))       # else GCC warns
    while k < p.depth:
        depth = minimum(INTERLEAVED_BLOCK, p.depth - k)
        if ahead == 0:
            pair_tile_of(PAIRS, pair_tile, pairs, 0, depth, w + k, next_w, p.depth, x, bias, sums)
        elif ahead == PAIR_ROWS:
            pair_tile_of(PAIRS, pair_tile, pairs, PAIR_ROWS, depth, w + k, next_w + k, p.depth, x, bias, sums)
        else:
            pair_tile_of(PAIRS, pair_tile, pairs, PAIR_ROWS // 2, depth, w + k, next_w + k, p.depth, x, bias, sums)
        bias = NULL
        x += 2 * pairs * depth
        if k + depth < p.depth:
            add_block(sums, 2 * LANES, k == 0, totals)
        elif k > 0:
            round_totals(totals, sums, 2 * LANES, sums)
        k += depth
    for e in range(2 * first, minimum(2 * (first + pairs), p.n)):
        memcpy(p.c + e * p.rows + o, sums + e % 2 * LANES + (e // 2 - first) * PAIR_ROWS, PAIR_ROWS * sizeof(real))


cdef void multiply_pairs(const DotProduct* p, real* packed, Interrupt* interrupt, int thread) noexcept nogil:
    """`multiply_dots`, if `pairs_pay`. packed: room for `pack_pairs`."""
    cdef Py_ssize_t o = 0, first, pairs, i, next_row, ahead = 0
    cdef const real* x
    if weights_exceed_l2(p.rows, p.depth):
        ahead = PAIR_ROWS if (p.n + 1) // 2 <= PAIRS else PAIR_ROWS // 2
    pack_pairs(p, packed)
    while o < p.rows and not check_interrupt(interrupt, thread, PAIR_BLOCK * p.depth * p.n):
        x = packed
        first = 0
        next_row = o + PAIR_BLOCK
        while 2 * first < p.n:
            pairs = pairs_together(p.n, first)
            i = o
            while i < minimum(o + PAIR_BLOCK, p.rows):
                i = minimum(i, p.rows - PAIR_ROWS)      # the last rows overlap those before
                pair_rows(p, i, first, pairs, x, ahead, next_row)
                next_row += ahead
                i += PAIR_ROWS
            first += pairs
            x += 2 * pairs * ceil_div(p.depth, SUM_CHAINS) * SUM_CHAINS
        o += PAIR_BLOCK
