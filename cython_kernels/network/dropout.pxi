"""Dropout: a unit's activation is multiplied by 1 / (1 - p), or set to 0 with probability p, in training only.

The mask is a function of (seed, step, layer, example, unit) alone, so it is the same on any number of threads, in any tile and
in both layouts: Philox4x32-7, a counter-based generator (Salmon, J. K. et al. (2011). Parallel random numbers: as easy as
1, 2, 3. SC11; 7 rounds are the fewest that pass all tests there). Key: the seed. Counter: example within the batch, group of
8 units, step, layer. The four words of 32 bits decide for 8 units: a unit is dropped if its 16 bits are less than p 2^16.

The forward pass of a step multiplies a and the stored f' by the mask; so the backward pass, to which the layer is one
of stored derivatives, computes the exact gradient. Masks take a fifth of a step of 50 units and 32 examples, 1 % of a wide one:
7 rounds of 2 products, 2 shifts and 4 xors of a vector decide for 8 units of each of its examples.

Rejected: the mask recomputed in the backward pass (as much again); 8 bits for a unit (p = 0.1 would be 0.102); 10 rounds (for
cryptographers' margins; masks do not need them).
"""

cdef enum:
    MASKED_UNITS = 8        # units that one number of the generator decides for
    PHILOX_ROUNDS = 7
    WORD_STEP = 8 // sizeof(real)       # lanes of values in a lane of words
    N_WORDS = LANES // WORD_STEP        # lanes of words
    PHILOX_FIRST = 0xD2511F53           # multipliers
    PHILOX_SECOND = 0xCD9E8D57
    WEYL_FIRST = 0x9E3779B9             # added to the key in each round
    WEYL_SECOND = 0xBB67AE85


cdef struct Philox:
    # What is the same for a layer in one step.
    vwords keys[2 * PHILOX_ROUNDS]
    vwords step
    vwords stream


cdef inline void begin_philox(const Dropout* dropout, const Layer* layer, Philox* generator) noexcept nogil:
    cdef uint32_t low = <uint32_t>dropout.seed, high = <uint32_t>(dropout.seed >> 32)
    cdef int i
    for i in range(PHILOX_ROUNDS):
        generator.keys[2 * i] = splat_word(low)
        generator.keys[2 * i + 1] = splat_word(high)
        low += <uint32_t>WEYL_FIRST
        high += <uint32_t>WEYL_SECOND
    generator.step = splat_word(<uint32_t>dropout.step)
    generator.stream = splat_word(<uint32_t>layer.mask + (<uint32_t>(dropout.step >> 32) << 16))


cdef inline void philox(const Philox* generator, vwords examples, vwords groups, vwords* words) noexcept nogil:
    """words[0 ... 3]: in each lane the number of an example and a group of units, in the lower 32 bits."""
    cdef vwords a = examples, b = groups, c = generator.step, d = generator.stream, first, second
    cdef int i
    for i in range(PHILOX_ROUNDS):
        first = multiply_words(a, <uint32_t>PHILOX_FIRST)
        second = multiply_words(c, <uint32_t>PHILOX_SECOND)
        a = high_words(second) ^ b ^ generator.keys[2 * i]
        c = high_words(first) ^ d ^ generator.keys[2 * i + 1]
        b = second
        d = first
    words[0] = a
    words[1] = b
    words[2] = c
    words[3] = d


cdef inline void drop_vector(int activation, vreal mask, real* a, real* derivatives) noexcept nogil:
    """a *= mask and, unless it is NULL, f' *= mask; f' of an activation that is no OTHER is a function of a."""
    cdef vreal activated = load(a)
    store(a, activated * mask)
    if derivatives != NULL:
        if activation == OTHER:
            activated = load(derivatives)
        store(derivatives, times_derivative(activation, mask, activated))


cdef void drop_tile(
    const Dropout* dropout, const Layer* layer, Py_ssize_t first, Py_ssize_t n_panels, real* a, real* derivatives,
) noexcept nogil:
    """Multiplies a tile's activations, and f' unless it is NULL, by the mask of this step; by 1 if the step has none.

    first: the place of the tile's first example in its batch.
    """
    cdef vwords words[4]
    cdef vwords odd[4]
    cdef vwords group
    cdef vreal factor = splat(dropout_scale(layer))
    cdef Philox generator
    cdef Py_ssize_t p, unit, place = 0
    cdef int v, k, least = <int>layer.dropped, activation = <int>layer.activation
    if dropout.step < 0:
        while derivatives != NULL and place < n_panels * layer.n_out * PANEL:
            drop_vector(activation, splat(1), a + place, derivatives + place)
            place += LANES
        return
    begin_philox(dropout, layer, &generator)
    for p in range(n_panels):
        for v in range(VECTORS):
            unit = 0
            while unit < layer.n_out:
                group = splat_word(<uint32_t>(unit // MASKED_UNITS))
                philox(&generator, words_from(first, WORD_STEP), group, words)
                if WORD_STEP == 2:      # float32: a lane is half a word wide
                    philox(&generator, words_from(first + 1, WORD_STEP), group, odd)
                    for k in range(4):
                        words[k] = join_words(words[k], odd[k])
                place = (p * layer.n_out + unit) * PANEL + v * LANES
                for k in range(<int>minimum(MASKED_UNITS, layer.n_out - unit)):
                    drop_vector(
                        activation, kept(words[k // 2], k % 2, least, factor), a + place,
                        NULL if derivatives == NULL else derivatives + place)
                    place += PANEL
                unit += MASKED_UNITS
            first += LANES


cdef void drop_rows(
    const Dropout* dropout, const Layer* layer, Py_ssize_t first, Py_ssize_t count, real* a, real* derivatives,
) noexcept nogil:
    """`drop_tile` for the rows of a few examples: the lanes of words are groups of units."""
    cdef vwords words[4]
    cdef real spread[MASKED_UNITS * LANES]
    cdef real masks[MASKED_UNITS * N_WORDS]
    cdef vreal factor = splat(dropout_scale(layer))
    cdef Philox generator
    cdef Py_ssize_t e, unit, j, place = 0
    cdef int i, k
    if layer.activation != OTHER and derivatives != NULL:
        while place < count * layer.n_out:
            drop_vector(<int>layer.activation, splat(1), a + place, derivatives + place)
            place += LANES
    if dropout.step < 0:
        return
    begin_philox(dropout, layer, &generator)
    place = 0
    for e in range(count):
        unit = 0
        while unit < layer.n_out:
            philox(&generator, splat_word(<uint32_t>(first + e)), words_from(unit // MASKED_UNITS, 1), words)
            for k in range(MASKED_UNITS):
                store(spread + k * LANES, kept(words[k // 2], k % 2, <int>layer.dropped, factor))
            for i in range(N_WORDS):
                for k in range(MASKED_UNITS):
                    masks[i * MASKED_UNITS + k] = spread[k * LANES + i * WORD_STEP]
            for j in range(minimum(MASKED_UNITS * N_WORDS, layer.n_out - unit)):
                a[place + j] *= masks[j]
            if derivatives != NULL:
                for j in range(minimum(MASKED_UNITS * N_WORDS, layer.n_out - unit)):
                    derivatives[place + j] *= masks[j]
            place += minimum(MASKED_UNITS * N_WORDS, layer.n_out - unit)
            unit += MASKED_UNITS * N_WORDS
