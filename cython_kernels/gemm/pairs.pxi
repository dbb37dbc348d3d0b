"""The product of a wide row-major matrix and 4 to 16 vectors x (3, if it comes from memory), of which two share a
register: interleaved sums (sums.pxi), in float32 with AVX-512, where SUM_CHAINS elements are half of it. (`load_twice` is
written for float32 only.)

Design. The x are packed in pairs: SUM_CHAINS elements of one, then of the other. As many elements of a row of w are loaded
to both halves, which needs no shuffle, so that each lane is a chain of a sum as in dots.pxi. PAIR_ROWS rows and PAIRS pairs are
multiplied together, up to 8 vectors; or twice as many rows and half as many pairs. Their sums, LANES vectors, are transposed in
registers, and the chains are then added lane by lane. A step of 16 multiply-adds has 8 or 10 loads; a panel one vector wide, the
examples in its lanes, has a broadcast for each. 16 vectors take 0.7 to 0.9 of the time of such a panel, 4 to 8 vectors 0.6 to
0.95 of that of dots.pxi, and 3 or 4 vectors with a w from memory 0.5 to 0.6.

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


cdef inline Py_ssize_t least_paired(Py_ssize_t n_rows, Py_ssize_t depth) noexcept nogil:
    """From how many vectors on they are packed in pairs."""
    return 3 if comes_from_memory(n_rows, depth) else 4


cdef inline bint pairs_pay(Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t depth) noexcept nogil:
    return (
        sizeof(real) == 4 and LANES == 2 * SUM_CHAINS and least_paired(n_rows, depth) <= n <= LANES and n_rows >= PAIR_ROWS
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
    const int rows, const int pairs, const real* w, Py_ssize_t row, const real* x, vreal* sums,
) noexcept nogil:
    """The next SUM_CHAINS elements."""
    cdef vreal right[PAIRS]
    cdef vreal left
    cdef int e, i
    for e in range(pairs):
        right[e] = load(x + e * LANES)
    for i in range(rows):
        left = load_twice(w + i * row)
        for e in range(pairs):
            sums[e * rows + i] = multiply_add(left, right[e], sums[e * rows + i])


cdef inline void pair_tile(
    const int pairs, const int rows, const int ahead, Py_ssize_t depth, const real* w, const real* next_w, Py_ssize_t row,
    const real* x, const real* bias, real* sums,
) noexcept nogil:
    """The sums of a block (sums.pxi): element e * rows + i of a half of `sums` is that of row i and one of the vectors of pair e.

    pairs * rows <= LANES. ahead: how many rows from next_w on are prefetched, an even number; they may lie behind w. A step
    reads half a line of each row.
    """
    cdef vreal chains[LANES]
    cdef vreal low, high
    cdef real edge[PAIR_BLOCK * LANES]
    cdef Py_ssize_t k
    cdef int i
    for i in range(LANES):
        chains[i] = splat(0) if bias == NULL or i >= rows * pairs else first_of_halves(bias[i % rows])
    for k in range(depth // SUM_CHAINS):
        w = opaque(<real*>w)
        for i in range(ahead // 2):
            prefetch(2, next_w + (k % 2 * (ahead // 2) + i) * row)
        next_w += SUM_CHAINS
        pair_step(rows, pairs, w, row, x, chains)
        w += SUM_CHAINS
        x += pairs * LANES
    if depth % SUM_CHAINS:      # products of 0 and -0 change no sum, not even one of -0
        for i in range(rows):
            store(edge + i * LANES, load_first(w + i * row, depth % SUM_CHAINS))
        pair_step(rows, pairs, edge, LANES, x, chains)
    transpose(LANES, chains)
    low = chains[0]
    high = chains[LANES // 2]
    for i in range(1, LANES // 2):
        low = low + chains[i]
        high = high + chains[LANES // 2 + i]
    store(sums, low)
    store(sums + LANES, high)


ctypedef void (*PairTile)(
    const int pairs, const int rows, const int ahead, Py_ssize_t depth, const real* w, const real* next_w, Py_ssize_t row,
    const real* x, const real* bias, real* sums) noexcept nogil
cdef extern from "vector.h" nogil:
    void pair_tile_of "AS_CONSTANT"(int most, PairTile, Py_ssize_t pairs, ...)


cdef inline void pair_rows(
    const int rows, const DotProduct* p, Py_ssize_t o, Py_ssize_t first, Py_ssize_t pairs, const real* packed, Py_ssize_t ahead,
    Py_ssize_t next_row,
) noexcept nogil:
    """Rows of w from o on, and some pairs; at most half of PAIRS for PAIR_BLOCK rows. ahead: rows, from next_row on, that are
    prefetched; of PAIR_BLOCK rows all or none."""
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
        if rows == PAIR_ROWS:
            if ahead == 0:
                pair_tile_of(PAIRS, pair_tile, pairs, PAIR_ROWS, 0, depth, w + k, next_w, p.depth, x, bias, sums)
            elif ahead == PAIR_ROWS:
                pair_tile_of(PAIRS, pair_tile, pairs, PAIR_ROWS, PAIR_ROWS, depth, w + k, next_w + k, p.depth, x, bias, sums)
            else:
                pair_tile_of(PAIRS, pair_tile, pairs, PAIR_ROWS, PAIR_ROWS // 2, depth, w + k, next_w + k, p.depth, x, bias, sums)
        elif ahead == 0:
            pair_tile_of(PAIRS // 2, pair_tile, pairs, PAIR_BLOCK, 0, depth, w + k, next_w, p.depth, x, bias, sums)
        else:
            pair_tile_of(PAIRS // 2, pair_tile, pairs, PAIR_BLOCK, PAIR_BLOCK, depth, w + k, next_w + k, p.depth, x, bias, sums)
        bias = NULL
        x += 2 * pairs * depth
        if k + depth < p.depth:
            add_block(sums, 2 * LANES, k == 0, totals)
        elif k > 0:
            round_totals(totals, sums, 2 * LANES, sums)
        k += depth
    for e in range(2 * first, minimum(2 * (first + pairs), p.n)):
        memcpy(p.c + e * p.rows + o, sums + e % 2 * LANES + (e // 2 - first) * rows, rows * sizeof(real))


# In one function, GCC would align none of the loops: 2 %.

cdef void pair_few_rows(
    const DotProduct* p, Py_ssize_t o, Py_ssize_t first, Py_ssize_t pairs, const real* packed, Py_ssize_t ahead,
    Py_ssize_t next_row,
) noexcept nogil:
    pair_rows(PAIR_ROWS, p, o, first, pairs, packed, ahead, next_row)


cdef void pair_many_rows(
    const DotProduct* p, Py_ssize_t o, Py_ssize_t first, Py_ssize_t pairs, const real* packed, Py_ssize_t ahead,
    Py_ssize_t next_row,
) noexcept nogil:
    pair_rows(PAIR_BLOCK, p, o, first, pairs, packed, ahead, next_row)


cdef void multiply_pairs(const DotProduct* p, real* packed, Interrupt* interrupt, int thread) noexcept nogil:
    """`multiply_dots`, if `pairs_pay`. packed: room for `pack_pairs`."""
    cdef Py_ssize_t o = 0, first, pairs, i, next_row, ahead = 0, rows = PAIR_ROWS
    cdef const real* x
    # Rows that are multiples of 4 KiB apart share the sets of the L1, of eight ways.
    if (p.n + 1) // 2 <= PAIRS // 2 and p.rows >= PAIR_BLOCK and p.depth * sizeof(real) % 4096:
        rows = PAIR_BLOCK
    if weights_exceed_l2(p.rows, p.depth):
        ahead = rows if (p.n + 1) // 2 <= PAIRS else rows // 2
    pack_pairs(p, packed)
    while o < p.rows and not check_interrupt(interrupt, thread, PAIR_BLOCK * p.depth * p.n):
        x = packed
        first = 0
        next_row = o + PAIR_BLOCK
        while 2 * first < p.n:
            pairs = pairs_together(p.n, first)
            i = o
            while i < minimum(o + PAIR_BLOCK, p.rows):
                i = minimum(i, p.rows - rows)      # the last rows overlap those before
                if rows == PAIR_ROWS:
                    pair_few_rows(p, i, first, pairs, x, ahead, next_row)
                else:
                    pair_many_rows(p, i, first, pairs, x, ahead, next_row)
                next_row += ahead
                i += rows
            first += pairs
            x += 2 * pairs * ceil_div(p.depth, SUM_CHAINS) * SUM_CHAINS
        o += PAIR_BLOCK
