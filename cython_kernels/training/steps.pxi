"""The steps of a call, shared by its threads: the blocks of a batch, their gradients, the update, the epochs.

Design. A batch is cut into *blocks*, a block into tiles, which go through network/passes.pxi. A block has its own slot for the
gradient it adds up; slots are added in order. Where blocks begin depends on the shapes alone, never on the threads,
so any number of threads gives the same bits.

A fit is one parallel region. Its leader runs `train_steps` from beginning to end, and hands out three stages a step (team.h):
the blocks, the sum of their gradients, the update; each element of the last two is one thread's. All else is the leader's alone:
the order of the examples, Nesterov's look-ahead, folded layers, moments, and every decision. Nothing is written from a
gradient that is not finite: the sum is checked before the update begins.

Between two epochs parameters, states, n_steps and generator belong together, and signal handlers may save them. In the
middle of an epoch they do not (`TrainingLock`), and handlers run there only where an epoch takes long.

Rejected: a region for each layer or step (fork and join cost more than a small step); a slot for each
thread (other bits for other thread counts); sums by atomics (the same, and slow).
"""

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
    Py_ssize_t first        # of the batch: its examples
    Py_ssize_t count
    Py_ssize_t n_blocks
    Matrix out              # of a prediction
    # a fit
    Py_ssize_t n_examples
    Py_ssize_t batch
    Py_ssize_t n_epochs
    const double* rates     # learning rates, one a step; NULL: that of the update
    Py_ssize_t* order       # the shuffled examples; NULL: in the order of X
    bitgen_t* bits
    PyObject* generator_lock    # NULL: nobody else has the generator
    PyObject* optimizer
    int* half_made            # of the network's lock: what is half made; NULL: all is whole whenever handlers run
    double* losses          # one an epoch; the last may be that of a step that was not made
    Py_ssize_t n_steps      # finished
    Py_ssize_t finished     # epochs
    Py_ssize_t n_seen       # where the leader returned in the middle of an epoch: the examples done,
    double seen_loss        # and the sum of their losses
    bint from_moments       # all steps were taken from the moments
    int immoderate          # the gradient of this step: too large to be squared, or not finite
    Interrupt interrupt


cdef inline real* own_scratch(Job* job, int thread) noexcept nogil:
    return <real*>(job.scratch + thread * job.scratch_size)


cdef inline real* slot_of(Job* job, Py_ssize_t block) noexcept nogil:
    """Where a block sums its gradient up: the first one where the whole is wanted."""
    return job.walked if block == 0 else job.slots + (block - 1) * job.walk.n_parameters


cdef inline Py_ssize_t blocks_of(Walk* walk, Py_ssize_t count) noexcept nogil:
    """How many blocks hold `count` examples; for one it spares a division."""
    return 1 if count <= walk.block else (count + walk.block - 1) // walk.block


cdef void gradient_block(void* data, int thread, Py_ssize_t block) noexcept nogil:
    """A stage: the gradient of one block of the batch into its slot, its loss beside it."""
    cdef Job* job = <Job*>data
    cdef Walk* walk = &job.walk
    cdef Py_ssize_t place = job.first + block * walk.block
    cdef Py_ssize_t stop = job.first + smaller(job.count, (block + 1) * walk.block)
    cdef Total slot = Total(NULL, 0, True)      # only the loss is wanted
    cdef real weight = <real>(1.0 / job.count)
    cdef double loss = 0
    if job.gradient != NULL:
        slot.data = slot_of(job, block)
    while place < stop and not is_raised(&job.interrupt.stop):
        loss += gradient_tile(walk, place, smaller(walk.tile, stop - place), weight, own_scratch(job, thread), slot)
        slot.fresh = False
        check_interrupt(&job.interrupt, thread, 3 * walk.n_parameters * walk.tile)
        place += walk.tile
    job.block_losses[block] = loss


cdef enum:
    PART = 1 << 13              # elements of the parameters that a thread takes at a time: whole vectors


cdef void sum_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """A stage: walked = slot 0, which is walked itself, + slot 1 + ..., in this order, for some elements."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PART, stop = smaller(start + PART, job.walk.n_parameters), i, block
    cdef const real* slot
    for block in range(1, job.n_blocks):
        slot = slot_of(job, block)
        for i in range(start, stop):
            job.walked[i] += slot[i]


cdef void check_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """A stage: whether the gradient may be squared, for some elements."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PART
    if not all_within(job.update.moderate, job.gradient, start, smaller(start + PART, job.n_parameters)):
        raise_flag(&job.immoderate)


cdef void update_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """A stage: the update of some parameters."""
    cdef Job* job = <Job*>data
    update(&job.update, job.parameters, job.gradient, part * PART, smaller((part + 1) * PART, job.n_parameters))


cdef inline void walk_batch(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """The blocks of some examples: their losses, and the sum of their gradients if one is wanted. May be interrupted."""
    job.first = first
    job.count = count
    job.n_blocks = blocks_of(&job.walk, count)
    run_stage(team, &job.interrupt, gradient_block, job.n_blocks)
    if job.n_blocks > 1 and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        run_stage(team, &job.interrupt, sum_part, parts(job.walk.n_parameters, PART))


cdef void compose_chains(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.walk.n_layers):
        compose(&job.chains[i], job.members, &job.walk.layers[i], parameters, job.composed, job.tiles, &job.interrupt)


cdef void expand_chains(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.walk.n_layers):
        expand(
            &job.chains[i], job.members, &job.walk.layers[i], parameters, job.walked, job.gradient, job.tiles, &job.interrupt)


cdef double mean_loss(Job* job) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t block
    for block in range(job.n_blocks):
        total += job.block_losses[block]
    return total / job.count


# ---- a step ------------------------------------------------------------------------------------------

cdef double step(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """One step over some examples; its loss. There is no update if that, or the gradient, is not finite
    (`job.immoderate` stays raised), or the step is interrupted."""
    cdef Walk* walk = &job.walk
    cdef Update* rule = &job.update
    cdef Py_ssize_t n = job.n_parameters
    cdef const real* parameters = job.ahead if rule.nesterov else job.parameters
    cdef double loss = -1
    if rule.nesterov:
        look_ahead(rule, job.parameters, job.ahead, n)
    if job.chains != NULL:
        compose_chains(job, parameters)
    if job.moments.means != NULL:
        loss = moments_step(&job.moments, walk.layers, walk.parameters, count, job.walked)
        check_interrupt(&job.interrupt, 0, walk.n_parameters * walk.layers[0].n_in)
    if is_raised(&job.interrupt.stop):
        return 0
    if not loss >= 0:
        job.from_moments = False
        walk_batch(job, team, first, count)
        if is_raised(&job.interrupt.stop):
            return 0
        loss = mean_loss(job)
        if not isfinite(loss):
            return loss
    if job.chains != NULL:
        expand_chains(job, parameters)
        if is_raised(&job.interrupt.stop):
            return 0
    run_stage(team, &job.interrupt, check_part, parts(n, PART))
    if is_raised(&job.immoderate):
        if not change_units(rule, job.gradient, n):
            return loss
        job.immoderate = 0
    begin_update(rule)
    run_stage(team, &job.interrupt, update_part, parts(n, PART))
    rule.step += 1
    job.n_steps += 1
    return loss


cdef void train_steps(void* data, Team* team) noexcept nogil:
    """The epochs of a fit, from where they were left: what the leader does in `Engine.train`."""
    cdef Job* job = <Job*>data
    cdef Walk* walk = &job.walk
    cdef Py_ssize_t count, seen = job.n_seen, work = 0, epochs_work = 0
    cdef double loss, total = job.seen_loss
    # A batch that is one tile and all there is need not be packed again: 5 to 10 % of such a step.
    cdef bint one_tile = job.order == NULL and job.n_examples <= smaller(job.batch, walk.tile)
    while job.finished < job.n_epochs:
        if seen == 0 and job.order != NULL:
            shuffle(job.order, job.n_examples, job.bits, job.generator_lock, &job.interrupt)
        while seen < job.n_examples:
            count = smaller(job.batch, job.n_examples - seen)
            if job.rates != NULL:
                job.update.learning_rate = job.rates[job.n_steps]
            loss = step(job, team, seen, count)
            if is_raised(&job.interrupt.stop):
                return
            if not isfinite(loss) or job.immoderate:
                job.losses[job.finished] = loss
                return
            total += loss * count
            seen += count
            walk.kept = one_tile and not job.from_moments
            work += walk.n_parameters * count
            if work > CHECK_WORK:
                work = 0
                if should_change(team):
                    team.again = True
                    job.n_seen = seen
                    job.seen_loss = total
                    return
        job.losses[job.finished] = total / job.n_examples
        job.finished += 1
        seen = 0
        total = 0
        epochs_work += walk.n_parameters * job.n_examples
        if epochs_work > CHECK_WORK:
            epochs_work = 0
            rest(job)
            if is_raised(&job.interrupt.stop):
                return


cdef void rest(Job* job) noexcept nogil:
    """Between two epochs: lets signal handlers run, unless they did a moment ago."""
    if is_due(&job.interrupt, REST_SECONDS):
        if job.half_made != NULL and all_within(GREATEST, job.parameters, 0, job.n_parameters):
            set_flag(job.half_made, WHOLE)
        run_handlers(&job.interrupt)
        if job.half_made != NULL:
            set_flag(job.half_made, HALF_EPOCH)


cdef int report_steps(void* data) except -1:
    """The optimizer's count, and the units of its states, as of the last finished step."""
    cdef Job* job = <Job*>data
    return count_steps(<object>job.optimizer, &job.update, job.update.step)


cdef int count_steps(object optimizer, Update* rule, object n_steps) except -1:
    if rule.exponent != 0:
        set_attribute(optimizer, "_exponent", rule.exponent)
    set_attribute(optimizer, "n_steps", n_steps)
    return 0


# ---- predictions -------------------------------------------------------------------------------------

cdef void predict_tile(void* data, int thread, Py_ssize_t tile) noexcept nogil:
    """A stage: the prediction for one tile of X."""
    cdef Job* job = <Job*>data
    cdef Walk* walk = &job.walk
    cdef Py_ssize_t place = tile * walk.tile, count = smaller(walk.tile, job.n_examples - place)
    cdef real* scratch = own_scratch(job, thread)
    cdef Features lowest
    if is_raised(&job.interrupt.stop):
        return
    lowest = inputs(walk, place, count, scratch)
    unpack_tile(forward_tile(walk, &lowest, place, count, scratch), job.out, place, count)
    check_interrupt(&job.interrupt, thread, walk.n_parameters * walk.tile)


cdef void predict(void* data, Team* team) noexcept nogil:
    """What the leader does in `Engine.forward`."""
    cdef Job* job = <Job*>data
    run_stage(team, &job.interrupt, predict_tile, parts(job.n_examples, job.walk.tile))


cdef void differentiate(void* data, Team* team) noexcept nogil:
    """What the leader does in `Engine.gradient`."""
    cdef Job* job = <Job*>data
    if job.chains != NULL:
        compose_chains(job, job.parameters)
    if not is_raised(&job.interrupt.stop):
        walk_batch(job, team, 0, job.n_examples)
    if job.chains != NULL and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        expand_chains(job, job.parameters)
