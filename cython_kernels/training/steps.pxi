"""The steps of a call, shared by its threads: the blocks of a batch, their gradients, the update, the epochs.

Design. A batch is cut into *blocks*, a block into tiles, which go through network/passes.pxi. A block adds up a partial
gradient of its own; partial gradients are added in order. Where blocks begin depends on the shapes alone, never on the threads,
so any number of threads gives the same bits.

A step is a pipeline of stages, each with one function:

    gradient_block   input tile, forward pass, loss, backward pass: the partial gradient of a block
    reduce_part      the sum of the partial gradients, in a fixed order
    unfold_layers    where layers are folded, the gradients of their members
    check_part       the gradient stage
    update_part      the optimizer's update

A fit is one parallel region. Its leader runs `train_steps` from beginning to end and hands out the stages (team.h), in
blocks or in parts of the parameters; each element of a part is one thread's. All else is the leader's alone:
the order of the examples, Nesterov's look-ahead, folded layers, moments, and every decision. Nothing is written from a
gradient that is not finite: the sum is checked before the update begins.

Between two epochs parameters, states, n_steps and generator belong together, and signal handlers may save them. In the
middle of an epoch they do not (`TrainingLock`), and handlers run there only where an epoch takes long.

Rejected: a region for each layer or step (fork and join cost more than a small step); a partial gradient for each
thread (other bits for other thread counts); sums by atomics (the same, and slow).
"""

cdef struct Job:
    # What the threads of one call share.
    Network network
    Update update
    Fold* folds             # one a layer after folding; NULL: nothing is folded
    Layer* members          # the network's layers
    Py_ssize_t n_parameters     # before folding; network.n_parameters after it
    real* parameters
    real* ahead             # Nesterov: where the gradient is taken
    real* folded_parameters     # where layers are folded
    real* gradient
    real* folded_gradient       # `gradient` where nothing is folded
    real* tiles             # scratch of the folds
    Moments moments         # means NULL: from the examples
    real* partial_gradients     # one a block, but for the first, which adds up in `folded_gradient`
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
    int* half_made            # of the network's lock: what is half made; NULL: nothing is, whenever handlers run
    double* losses          # one an epoch; the last may be that of a step that was not made
    Py_ssize_t n_steps      # finished
    Py_ssize_t finished     # epochs
    Py_ssize_t n_seen       # where the leader returned in the middle of an epoch: the examples done,
    double seen_loss        # and the sum of their losses
    bint from_moments       # all steps were taken from the moments
    int too_large           # the gradient of this step: too large to be squared, or not finite
    Interrupt interrupt


cdef inline real* own_scratch(Job* job, int thread) noexcept nogil:
    return <real*>(job.scratch + thread * job.scratch_size)


cdef inline real* partial_gradient_of(Job* job, Py_ssize_t block) noexcept nogil:
    """Where a block adds up its gradient: the first one where the sum of all is to be."""
    return job.folded_gradient if block == 0 else job.partial_gradients + (block - 1) * job.network.n_parameters


cdef inline Py_ssize_t blocks_of(Network* network, Py_ssize_t count) noexcept nogil:
    """How many blocks hold `count` examples; for one it spares a division."""
    return 1 if count <= network.block else (count + network.block - 1) // network.block


cdef void gradient_block(void* data, int thread, Py_ssize_t block) noexcept nogil:
    """Forward pass, loss and backward pass of one block of the batch: its partial gradient, and its loss."""
    cdef Job* job = <Job*>data
    cdef Network* network = &job.network
    cdef Py_ssize_t place = job.first + block * network.block
    cdef Py_ssize_t stop = job.first + smaller(job.count, (block + 1) * network.block)
    cdef Total partial = Total(NULL, 0, True)      # only the loss is wanted
    cdef real weight = <real>(1.0 / normaliser(job.count))
    cdef double loss = 0
    if job.gradient != NULL:
        partial.data = partial_gradient_of(job, block)
    while place < stop and not is_raised(&job.interrupt.stop):
        loss += gradient_tile(network, place, smaller(network.tile, stop - place), weight, own_scratch(job, thread), partial)
        partial.fresh = False
        check_interrupt(&job.interrupt, thread, 3 * network.n_parameters * network.tile)
        place += network.tile
    job.block_losses[block] = loss


cdef enum:
    PART = 1 << 13              # elements of the parameters that a thread takes at a time: whole vectors


cdef void reduce_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The reduction, for some elements: partial gradient 0, in folded_gradient, + partial gradient 1 + ..., in this order."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PART, stop = smaller(start + PART, job.network.n_parameters), i, block
    cdef const real* partial
    for block in range(1, job.n_blocks):
        partial = partial_gradient_of(job, block)
        for i in range(start, stop):
            job.folded_gradient[i] += partial[i]


cdef void check_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The gradient stage, for some elements: whether they may be squared."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PART
    if not all_within(job.update.largest_gradient, job.gradient, start, smaller(start + PART, job.n_parameters)):
        raise_flag(&job.too_large)


cdef void update_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The update of some parameters."""
    cdef Job* job = <Job*>data
    update(&job.update, job.parameters, job.gradient, part * PART, smaller((part + 1) * PART, job.n_parameters))


cdef inline void run_batch(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """The blocks of some examples: their losses, and the sum of their gradients if one is wanted. May be interrupted."""
    job.first = first
    job.count = count
    job.n_blocks = blocks_of(&job.network, count)
    run_stage(team, &job.interrupt, gradient_block, job.n_blocks)
    if job.n_blocks > 1 and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        run_stage(team, &job.interrupt, reduce_part, parts(job.network.n_parameters, PART))


cdef void fold_layers(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.network.n_layers):
        fold_parameters(
            &job.folds[i], job.members, &job.network.layers[i], parameters, job.folded_parameters, job.tiles,
            &job.interrupt)


cdef void unfold_layers(Job* job, const real* parameters) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(job.network.n_layers):
        unfold_gradient(
            &job.folds[i], job.members, &job.network.layers[i], parameters, job.folded_gradient, job.gradient, job.tiles,
            &job.interrupt)


cdef double mean_loss(Job* job) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t block
    for block in range(job.n_blocks):
        total += job.block_losses[block]
    return total / normaliser(job.count)


# ---- a step ------------------------------------------------------------------------------------------

cdef double step(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """One step over some examples; its loss. There is no update if that, or the gradient, is not finite
    (`job.too_large` stays raised), or the step is interrupted."""
    cdef Network* network = &job.network
    cdef Update* rule = &job.update
    cdef Py_ssize_t n = job.n_parameters
    cdef const real* parameters = job.ahead if rule.nesterov else job.parameters
    cdef double loss = -1
    if rule.nesterov:
        look_ahead(rule, job.parameters, job.ahead, n)
    if job.folds != NULL:
        fold_layers(job, parameters)
    if job.moments.means != NULL:
        loss = moments_step(&job.moments, network.layers, network.parameters, count, job.folded_gradient)
        check_interrupt(&job.interrupt, 0, network.n_parameters * network.layers[0].n_in)
    if is_raised(&job.interrupt.stop):
        return 0
    if not loss >= 0:
        job.from_moments = False
        run_batch(job, team, first, count)
        if is_raised(&job.interrupt.stop):
            return 0
        loss = mean_loss(job)
        if not isfinite(loss):
            return loss
    if job.folds != NULL:
        unfold_layers(job, parameters)
        if is_raised(&job.interrupt.stop):
            return 0
    run_stage(team, &job.interrupt, check_part, parts(n, PART))
    if is_raised(&job.too_large):
        if not change_units(rule, job.gradient, n):
            return loss
        job.too_large = 0
    begin_update(rule)
    run_stage(team, &job.interrupt, update_part, parts(n, PART))
    rule.step += 1
    job.n_steps += 1
    return loss


cdef void train_steps(void* data, Team* team) noexcept nogil:
    """The epochs of a fit, from where they were left: what the leader does in `Engine.train`."""
    cdef Job* job = <Job*>data
    cdef Network* network = &job.network
    cdef Py_ssize_t count, seen = job.n_seen, work = 0, epochs_work = 0
    cdef double loss, total = job.seen_loss
    cdef bint one_batch = job.n_examples <= job.batch      # and no mean is to be taken: 2 % of the smallest step
    # A batch that is one tile and all there is need not be packed again: 5 to 10 % of such a step.
    cdef bint one_tile = one_batch and job.order == NULL and job.n_examples <= network.tile
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
            if not isfinite(loss) or job.too_large:
                job.losses[job.finished] = loss
                return
            total += loss if one_batch else loss * count
            seen += count
            network.kept = one_tile and not job.from_moments
            work += network.n_parameters * count
            if work > CHECK_WORK:
                work = 0
                if should_change(team):
                    team.again = True
                    job.n_seen = seen
                    job.seen_loss = total
                    return
        job.losses[job.finished] = total if one_batch else total / job.n_examples
        job.finished += 1
        seen = 0
        total = 0
        epochs_work += network.n_parameters * job.n_examples
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
    cdef Network* network = &job.network
    cdef Py_ssize_t place = tile * network.tile, count = smaller(network.tile, job.n_examples - place)
    cdef real* scratch = own_scratch(job, thread)
    cdef Features lowest
    if is_raised(&job.interrupt.stop):
        return
    lowest = inputs(network, place, count, scratch)
    unpack_tile(forward_tile(network, &lowest, place, count, scratch), job.out, place, count)
    check_interrupt(&job.interrupt, thread, network.n_parameters * network.tile)


cdef void predict(void* data, Team* team) noexcept nogil:
    """What the leader does in `Engine.forward`."""
    cdef Job* job = <Job*>data
    run_stage(team, &job.interrupt, predict_tile, parts(job.n_examples, job.network.tile))


cdef void differentiate(void* data, Team* team) noexcept nogil:
    """What the leader does in `Engine.gradient`."""
    cdef Job* job = <Job*>data
    if job.folds != NULL:
        fold_layers(job, job.parameters)
    if not is_raised(&job.interrupt.stop):
        run_batch(job, team, 0, job.n_examples)
    if job.folds != NULL and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        unfold_layers(job, job.parameters)
