"""The steps of a call, shared by its threads: the blocks of a batch, the gradient's slots, the update, the epochs.

Design. A batch is cut into *blocks*, a block into tiles, which engine.pxi walks. A block has its own slot for the
gradient it adds up; slots are added in order. Where blocks begin depends on the shapes alone, never on the threads,
so any number of threads gives the same bits. A thread that is done with a block takes the next one that nobody has:
where other programs slow one processor down, a step of two threads is 3 to 11 % shorter than with a fixed half for
each. Thread 0, which alone hears the signals, waits for the others' last blocks with its ears open.

A fit is one parallel region. Every thread runs the same loop (`train_steps`) with its own copy of the update, and
meets the others at two barriers a step, or a few more with Nesterov's rule, chains and moments. Thread 0 is the
caller: it alone shuffles, and now and then comes up for air to let Python handle a signal.

Rejected: a region for each layer or step (fork and join cost more than a small step); a slot for each
thread (other bits for other thread counts); sums by atomics (the same, and slow).
"""

cdef extern from "numpy/random/bitgen.h":
    # Not cimported: that would load np.random, 10 ms, whenever fusegrad is imported.
    ctypedef struct bitgen_t:
        void* state
        uint64_t (*next_uint64)(void* state) noexcept nogil
        uint32_t (*next_uint32)(void* state) noexcept nogil


cdef struct Job:
    # What the threads of one call share.
    Walk walk
    Update update
    Chain* chains           # one a layer of the walk; NULL: the layers are the network's own
    Layer* members          # the network's layers
    Py_ssize_t n_parameters     # of the network; those of the walk may be fewer
    real* parameters
    real* ahead             # Nesterov: where the gradient is taken
    real* composed          # the parameters of the walk, where it has its own
    real* gradient
    real* walked            # the gradient of the walk: `gradient` where there are no chains
    real* tiles             # scratch of the chains
    Moments moments         # means NULL: the examples are walked
    real* slots             # one gradient of the walk a block, when there is more than one block
    double* block_losses
    char* scratch           # one piece a thread
    Py_ssize_t scratch_size
    # a fit
    Py_ssize_t n_examples
    Py_ssize_t batch
    Py_ssize_t n_epochs
    const double* rates     # learning rates, one a step; NULL: that of the update
    Py_ssize_t* order       # the shuffled examples; NULL: as they lie
    bitgen_t* bits
    double* losses          # one an epoch
    Py_ssize_t n_steps      # finished
    Py_ssize_t finished     # epochs
    bint by_moments         # this step goes by the moments
    bint from_moments       # all of them did
    Py_ssize_t n_taken      # by the threads: blocks of this step, or tiles
    Py_ssize_t n_walked     # of these blocks
    Air air


cdef inline real* own_scratch(Job* job, int thread) noexcept nogil:
    return <real*>(job.scratch + thread * job.scratch_size)


cdef inline real* slot_of(Job* job, Py_ssize_t block) noexcept nogil:
    """Where a block sums its gradient up: the first one where the whole is wanted."""
    return job.walked if block == 0 else job.slots + (block - 1) * job.walk.n_parameters


cdef inline Py_ssize_t blocks_of(Walk* walk, Py_ssize_t count) noexcept nogil:
    """How many blocks hold `count` examples; for one it spares a division."""
    return 1 if count <= walk.block else (count + walk.block - 1) // walk.block


cdef inline Py_ssize_t next_piece(Job* job, Py_ssize_t piece, int n_threads) noexcept nogil:
    """The next block or tile for a thread that is done with `piece`; -1 comes before the first."""
    return piece + 1 if n_threads == 1 else take_number(&job.n_taken)


cdef void walk_blocks(Job* job, Py_ssize_t first, Py_ssize_t count, int thread, int n_threads) noexcept nogil:
    """This thread's share of the blocks of one batch: gradients into their slots, losses beside them."""
    cdef Walk* walk = &job.walk
    cdef Py_ssize_t n_blocks = blocks_of(walk, count)
    cdef Py_ssize_t block = next_piece(job, -1, n_threads), place, stop
    cdef Total slot
    cdef real weight = <real>(1.0 / count)
    cdef double loss
    while block < n_blocks:
        slot = Total(NULL, 0, True)     # only the loss is wanted
        if job.gradient != NULL:
            slot.data = slot_of(job, block)
        loss = 0
        place = first + block * walk.block
        stop = first + smaller(count, (block + 1) * walk.block)
        while place < stop:
            loss += gradient_tile(walk, place, smaller(walk.tile, stop - place), weight, own_scratch(job, thread), slot)
            slot.fresh = False
            if interrupted(&job.air, thread, 3 * walk.n_parameters * walk.tile):
                return
            place += walk.tile
        job.block_losses[block] = loss
        if n_threads > 1:
            take_number(&job.n_walked)
        block = next_piece(job, block, n_threads)
    if n_threads > 1:
        await_others(&job.n_walked, n_blocks, &job.air, thread)


cdef void add_slots(Job* job, Py_ssize_t n_blocks, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """walked = slot 0, which is walked itself, + slot 1 + ..., in this order, for the elements start ... stop."""
    cdef Py_ssize_t i, block
    cdef const real* slot
    for block in range(1, n_blocks):
        slot = slot_of(job, block)
        for i in range(start, stop):
            job.walked[i] += slot[i]


cdef void compose_chains(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.walk.n_layers):
        compose(&job.chains[i], job.members, &job.walk.layers[i], parameters, job.composed, job.tiles, &job.air)


cdef void expand_chains(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.walk.n_layers):
        expand(
            &job.chains[i], job.members, &job.walk.layers[i], parameters, job.walked, job.gradient, job.tiles, &job.air)


cdef double mean_loss(Job* job, Py_ssize_t n_blocks, Py_ssize_t count) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t block
    for block in range(n_blocks):
        total += job.block_losses[block]
    return total / count


cdef Py_ssize_t share(Py_ssize_t n, int thread, int n_threads) noexcept nogil:
    """Where the share of a thread starts among n elements: at a whole vector."""
    cdef Py_ssize_t vectors = parts(n, LANES)
    if n_threads == 1:      # spares a division
        return thread * n
    return smaller(n, vectors * thread // n_threads * LANES)


cdef uint64_t below(bitgen_t* bits, uint64_t n) noexcept nogil:
    """A uniform integer in [0, n): Lemire's multiplication, without bias."""
    cdef uint64_t wide, threshold
    if n >> 32:
        threshold = (0 - n) % n
        wide = bits.next_uint64(bits.state)
        while wide < threshold:
            wide = bits.next_uint64(bits.state)
        return wide % n
    wide = <uint64_t>bits.next_uint32(bits.state) * n
    if <uint32_t>wide < n:
        threshold = (<uint32_t>(0 - <uint32_t>n)) % <uint32_t>n
        while <uint32_t>wide < threshold:
            wide = <uint64_t>bits.next_uint32(bits.state) * n
    return wide >> 32


cdef enum:
    DRAW_WORK = 64              # multiply-adds in whose time a place in the order is drawn and fetched


cdef void shuffle(Py_ssize_t* order, Py_ssize_t n, bitgen_t* bits, Air* air) noexcept nogil:
    """Fisher and Yates, from the identity: the order depends on the generator alone."""
    cdef Py_ssize_t i, j
    order[0] = 0
    for i in range(1, n):
        if i % 4096 == 0 and interrupted(air, 0, 4096 * DRAW_WORK):
            return
        j = <Py_ssize_t>below(bits, i + 1)
        order[i] = order[j]
        order[j] = i


cdef void train_steps(Job* job, int thread, int n_threads) noexcept nogil:
    """What each thread does in `Engine.train`."""
    cdef Walk* walk = &job.walk
    cdef Update rule = job.update
    cdef Py_ssize_t n = job.n_parameters, epoch, first, count, n_blocks, step = 0
    cdef const real* parameters = job.ahead if rule.nesterov else job.parameters
    cdef bint by_moments = False     # this step
    cdef double loss, step_loss = 0
    wait_for_all(n_threads)
    for epoch in range(job.n_epochs):
        if job.order != NULL:
            if thread == 0:
                shuffle(job.order, job.n_examples, job.bits, &job.air)
            wait_for_all(n_threads)
            if is_raised(&job.air.stop):
                return
        loss = 0
        first = 0
        while first < job.n_examples:
            if job.rates != NULL:
                rule.learning_rate = job.rates[step]
            if rule.nesterov or job.chains != NULL:
                if thread == 0 and rule.nesterov:
                    look_ahead(&rule, job.parameters, job.ahead, n)
                if thread == 0 and job.chains != NULL:
                    compose_chains(job, parameters)
                wait_for_all(n_threads)
                if is_raised(&job.air.stop):
                    return
            count = smaller(job.batch, job.n_examples - first)
            n_blocks = blocks_of(walk, count)
            if job.moments.means != NULL:
                if thread == 0:
                    step_loss = moments_step(&job.moments, walk.layers, walk.parameters, count, job.walked)
                    job.by_moments = step_loss >= 0
                    # Little work; but on a busy machine a barrier takes as long as the other threads are not run.
                    interrupted(&job.air, thread, walk.n_parameters * walk.layers[0].n_in if n_threads == 1 else AIR_WORK + 1)
                wait_for_all(n_threads)
                by_moments = job.by_moments
            if not by_moments:
                walk_blocks(job, first, count, thread, n_threads)
                wait_for_all(n_threads)
                if thread == 0:
                    job.n_taken = job.n_walked = 0
                step_loss = mean_loss(job, n_blocks, count)
                if not is_raised(&job.air.stop):
                    add_slots(
                        job, n_blocks,
                        share(walk.n_parameters, thread, n_threads), share(walk.n_parameters, thread + 1, n_threads))
            if is_raised(&job.air.stop):
                return
            if not by_moments and not isfinite(step_loss):      # all threads see the same
                if thread == 0:
                    job.losses[epoch] = step_loss
                return
            loss += step_loss * count
            if job.chains != NULL:
                wait_for_all(n_threads)
                if thread == 0:
                    expand_chains(job, parameters)
                wait_for_all(n_threads)
                if is_raised(&job.air.stop):
                    return
            update(
                &rule, job.parameters, job.gradient, share(n, thread, n_threads), share(n, thread + 1, n_threads))
            wait_for_all(n_threads)
            rule.step += 1
            step += 1
            first += count
            # A batch that is one tile and all there is need not be packed again: 5 to 10 % of such a step.
            if n_threads == 1:
                walk.kept = not by_moments and job.order == NULL and count == job.n_examples and count <= walk.tile
            if thread == 0:
                job.n_steps = step
                job.from_moments = job.from_moments and by_moments
        if thread == 0:
            job.losses[epoch] = loss / job.n_examples
            job.finished = epoch + 1


cdef void forward_blocks(Job* job, Matrix out, int thread, int n_threads) noexcept nogil:
    cdef Py_ssize_t tile = next_piece(job, -1, n_threads), place = tile * job.walk.tile, count
    cdef real* prediction
    while place < out.columns:
        count = smaller(job.walk.tile, out.columns - place)
        prediction = forward_tile(
            &job.walk, inputs(&job.walk, place, count, own_scratch(job, thread)), place, count, own_scratch(job, thread))
        unpack_tile(prediction, out, place, count)
        if interrupted(&job.air, thread, job.walk.n_parameters * job.walk.tile):
            return
        tile = next_piece(job, tile, n_threads)
        place = tile * job.walk.tile
