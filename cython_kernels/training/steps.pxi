"""The steps of a fit on several threads: gradients of the blocks of a batch, their sum, the update; epochs; predictions.

Design. A batch is divided into *blocks*, a block into tiles, which network/passes.pxi computes. Each block has a partial
gradient of its own; partial gradients are added in a fixed order. The bounds of blocks depend on the shapes alone, never on
the threads, so any number of threads gives the same bits.

A step consists of these parts. All but `unfold_layers`, which the leader runs alone, are stages of team.h:

    gradient_block   input tile, forward pass, loss, backward pass: the partial gradient of a block
    reduce_part      the sum of the partial gradients, in a fixed order
    unfold_layers    if layers are folded, the gradients of their members
    check_part       whether the gradient is finite, and its elements can be squared
    update_part      the optimizer's update

A step of one tile has the last two in one function of its own, without storing the gradient: fused_update.pxi.

A fit is one parallel region. Its leader runs `train_steps` from beginning to end and publishes the stages (team.h), whose
pieces are blocks, or parts of the parameters; each element is computed by one thread. The leader alone does all else: the
order of the examples, Nesterov's look-ahead, folded layers, moments, and every decision. A gradient that is not finite
changes nothing: it is checked before the update begins.

Between two epochs parameters, states, n_steps and generator are consistent, and signal handlers may save them. Within an
epoch they are not (`TrainingLock` refuses to save them), and handlers run only if the epoch takes long.

Rejected: a region for each layer or step (fork and join cost more than a small step); a partial gradient for each
thread (the bits would depend on the number of threads); atomic additions (the same, and slow).
"""

cdef struct Job:
    # What the threads of one call share.
    Network network
    Update update
    Fold* folds             # one per layer after folding; NULL: nothing is folded
    Layer* members          # the network's layers
    Py_ssize_t n_members
    double l2
    const real* point       # the parameters at which the gradient is taken
    double penalty          # of the loss, for the weights
    double clip_factor
    double* part_sums       # one per part of the parameters
    Py_ssize_t n_parameters     # before folding; network.n_parameters: after folding
    real* parameters
    real* lookahead         # Nesterov's look-ahead point, at which the gradient is taken
    real* folded_parameters     # parameters after folding
    real* gradient
    real* folded_gradient       # the gradient after folding; `gradient` if nothing is folded
    real* tiles             # scratch for the tiles of the folds
    Moments moments         # means NULL: steps are computed from the examples
    FewPass few                 # of a batch of a few examples
    bint fused                  # steps are `fused_step`s
    real* partial_gradients     # one per block, except for the first block, which adds to `folded_gradient`
    double* block_losses    # of other losses than the squared error times LOSS_UNIT
    char* scratch           # a part of scratch_size bytes per thread
    Py_ssize_t scratch_size
    Py_ssize_t first        # first example of the batch
    Py_ssize_t count
    double batch_weight     # the sum of the weights of its examples
    Py_ssize_t n_blocks
    Ranks ranks
    Py_ssize_t first_block  # of this process, if several share the blocks
    const real* candidates  # parameters whose losses are compared, one row each
    Matrix out              # destination of a prediction
    const real* packed      # packed weights of a prediction; NULL: the parameters are read
    int link                # of a prediction: the outputs become probabilities
    # a fit
    Py_ssize_t n_examples
    Py_ssize_t batch
    Py_ssize_t n_epochs
    const double* rates     # learning rates, one per step; NULL: update.learning_rate
    Py_ssize_t* order       # the shuffled examples; NULL: in the order of X
    bitgen_t* bits
    PyObject* generator_lock    # NULL: no other code uses the generator
    PyObject* optimizer
    int* incomplete            # `incomplete` of the network's TrainingLock; NULL: whenever handlers run, all is consistent
    double* losses          # one per epoch; if a step failed, the last one is its loss
    Py_ssize_t n_steps      # finished steps
    Py_ssize_t finished     # finished epochs
    Py_ssize_t n_seen       # if the leader returned within an epoch: examples done in it,
    double seen_loss        # the sum of their losses
    double seen_weight      # and of their weights
    double* carry           # of an epoch that several calls make: the sums of losses and weights so far, the last loss; or NULL
    bint from_moments       # all steps were computed from the moments
    int too_large           # the gradient of this step: too large to be squared, or not finite
    Interrupt interrupt


cdef inline real* own_scratch(Job* job, int thread) noexcept nogil:
    return <real*>(job.scratch + thread * job.scratch_size)


cdef inline real* partial_gradient_of(Job* job, Py_ssize_t block) noexcept nogil:
    """The buffer of a block's partial gradient; the first block uses that of the sum, unless it is sent to other processes."""
    if job.ranks.is_sent:
        return job.ranks.own + (block - job.first_block) * job.network.n_parameters
    return job.folded_gradient if block == 0 else job.partial_gradients + (block - 1) * job.network.n_parameters


cdef inline Py_ssize_t blocks_of(Network* network, Py_ssize_t count) noexcept nogil:
    """The number of blocks of `count` examples; a single one needs no division."""
    return 1 if count <= network.block else (count + network.block - 1) // network.block


cdef void gradient_block(void* data, int thread, Py_ssize_t piece) noexcept nogil:
    """Forward pass, loss and backward pass of one block of the batch: its partial gradient, and its loss."""
    cdef Job* job = <Job*>data
    cdef Network* network = &job.network
    cdef Network shared
    cdef Py_ssize_t block = job.first_block + piece
    cdef Py_ssize_t place = job.first + block * network.block
    cdef Py_ssize_t stop = job.first + minimum(job.count, (block + 1) * network.block)
    cdef GradientSum partial = GradientSum(NULL, 0, True)      # NULL: only the loss is computed
    cdef real weight = <real>(1 / job.batch_weight)
    cdef double loss = 0
    if job.gradient != NULL:
        partial.data = partial_gradient_of(job, block)
    if job.ranks.group != NULL and block == job.ranks.shared_block:
        shared = job.network
        shared.x, shared.y, shared.weights = job.ranks.shared_x, job.ranks.shared_y, job.ranks.shared_weights
        network = &shared
    if network.few:
        job.block_losses[block] = few_deltas(
            network, place, job.count, weight, own_scratch(job, thread), partial.data != NULL, &job.few, &job.interrupt, thread)
        if partial.data != NULL and not job.fused:
            few_gradient(network, &job.few, partial.data, &job.interrupt, thread)
        return
    while place < stop and not is_raised(&job.interrupt.stop):
        loss += gradient_tile(network, place, minimum(network.tile, stop - place), weight, own_scratch(job, thread), partial)
        partial.overwrite = False
        check_interrupt(&job.interrupt, thread, 3 * network.n_parameters * network.tile)
        place += network.tile
    job.block_losses[block] = loss


cdef void reduce_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The reduction of one part of the parameters: folded_gradient += partial gradient 1, then 2, ...; 0 is in it already."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART, stop = minimum(start + PARAMETER_PART, job.network.n_parameters), i, block
    cdef const real* partial
    for block in range(1, job.n_blocks):
        partial = partial_gradient_of(job, block)
        for i in range(start, stop):
            job.folded_gradient[i] += partial[i]


cdef void reduce_gathered_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """`reduce_part` of the partial gradients of all processes, which are in their messages."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART, n = minimum(PARAMETER_PART, job.network.n_parameters - start), i, block
    cdef Py_ssize_t most = most_blocks_of(&job.ranks, job.n_blocks), first
    cdef real* total = job.folded_gradient + start
    cdef const real* partial
    cdef int rank
    for rank in range(job.ranks.size):
        first = first_block_of(&job.ranks, rank, job.n_blocks)
        for block in range(first, first_block_of(&job.ranks, rank + 1, job.n_blocks)):
            partial = job.ranks.gathered + (rank * most + block - first) * job.network.n_parameters + start
            if block == 0:
                memcpy(total, partial, n * sizeof(real))
                continue
            for i in range(n):
                total[i] += partial[i]


cdef void penalty_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The L2 penalty of one part of the parameters, on weights only: gradient += l2 W, and the sum of the squares of W."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t first = part * PARAMETER_PART, last = minimum(first + PARAMETER_PART, job.n_parameters), i, start, stop
    cdef double total = 0
    cdef Layer* layer
    for i in range(job.n_members):
        layer = &job.members[i]
        start = maximum(first, layer.weight)
        stop = minimum(last, layer.weight + layer.n_in * layer.n_out)
        if start >= stop:
            continue
        if job.gradient == NULL:
            total += sum_of_squares(job.point + start, stop - start)
        else:
            total += add_penalty(
                <real>job.l2, job.point + start, job.gradient + start, stop - start, last - start)
    job.part_sums[part] = total


cdef void norm_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The sum of the squares of one part of the gradient."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART
    job.part_sums[part] = sum_of_squares(job.gradient + start, minimum(PARAMETER_PART, job.n_parameters - start))


cdef void clip_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The gradient is multiplied so that its norm is that of the optimizer's limit."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART
    scale(job.gradient + start, minimum(PARAMETER_PART, job.n_parameters - start), job.clip_factor, job.gradient + start)


cdef double run_sums(Job* job, Team* team, Stage stage) noexcept nogil:
    """Runs a stage over the parts of the parameters, and adds its sums in order."""
    cdef Py_ssize_t n_parts = ceil_div(job.n_parameters, PARAMETER_PART), part
    cdef double total = 0
    run_stage(team, &job.interrupt, stage, n_parts)
    for part in range(n_parts):
        total += job.part_sums[part]
    return total


cdef double penalty(Job* job, Team* team, const real* point) noexcept nogil:
    """(l2 / 2) |W|^2 at a point, whose gradient is added."""
    job.point = point
    return 0.5 * job.l2 * run_sums(job, team, penalty_part)


cdef void clip_gradient(Job* job, Team* team) noexcept nogil:
    """The gradient stage of an optimizer with a limit of the gradient's norm."""
    job.clip_factor = clipping(job.update.clip_norm, run_sums(job, team, norm_part), job.gradient, job.n_parameters)
    if job.clip_factor < 1:
        run_stage(team, &job.interrupt, clip_part, ceil_div(job.n_parameters, PARAMETER_PART))


cdef void check_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """Sets too_large if one part of the gradient has elements that cannot be squared, or are not finite."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART
    if not all_within(job.update.largest_gradient, job.gradient, start, minimum(start + PARAMETER_PART, job.n_parameters)):
        raise_flag(&job.too_large)


cdef void decay_weights(Job* job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """AdamW: W -= a lambda W for the weights among the parameters start ... stop, before their update."""
    cdef Py_ssize_t i, first, last
    cdef Layer* layer
    for i in range(job.n_members):
        layer = &job.members[i]
        first = maximum(start, layer.weight)
        last = minimum(stop, layer.weight + layer.n_in * layer.n_out)
        if first < last:
            decay(&job.update, job.parameters, first, last)


cdef void update_part(void* data, int thread, Py_ssize_t part) noexcept nogil:
    """The update of one part of the parameters."""
    cdef Job* job = <Job*>data
    cdef Py_ssize_t start = part * PARAMETER_PART
    cdef Py_ssize_t stop = minimum(start + PARAMETER_PART, job.n_parameters)
    if job.update.weight_decay > 0:
        decay_weights(job, start, stop)
    update(&job.update, job.parameters, job.gradient, start, stop)


cdef void run_blocks_of_ranks(Job* job, Team* team) noexcept nogil:
    """`run_batch` by several processes, with the bits of one: see ranks.pxi."""
    cdef Ranks* ranks = &job.ranks
    cdef Py_ssize_t first = first_block_of(ranks, ranks.rank, job.n_blocks), block
    cdef Py_ssize_t n_own = first_block_of(ranks, ranks.rank + 1, job.n_blocks) - first
    cdef int rank
    job.first_block = first
    ranks.is_sent = True
    if n_own > 0:
        run_stage(team, &job.interrupt, gradient_block, n_own)
    ranks.is_sent = False
    job.first_block = 0
    if is_raised(&job.interrupt.stop):
        return
    for block in range(n_own):
        ranks.header[HEADER_LOSSES + block] = job.block_losses[first + block]
    exchange_messages(
        ranks, <Messages>gather_blocks, job.update.step, most_blocks_of(ranks, job.n_blocks) * job.network.n_parameters,
        &job.interrupt)
    if is_raised(&job.interrupt.stop):
        return
    for rank in range(ranks.size):
        first = first_block_of(ranks, rank, job.n_blocks)
        for block in range(first, first_block_of(ranks, rank + 1, job.n_blocks)):
            job.block_losses[block] = ranks.headers[rank * ranks.header_length + HEADER_LOSSES + block - first]
    run_stage(team, &job.interrupt, reduce_gathered_part, ceil_div(job.network.n_parameters, PARAMETER_PART))


cdef void run_share(Job* job, Team* team) noexcept nogil:
    """`run_batch` by several processes, each with a share of the batch as a batch of its own. job.batch_weight becomes that of
    all shares."""
    cdef Ranks* ranks = &job.ranks
    cdef Py_ssize_t first = job.first, count = job.count, n = job.network.n_parameters, block
    cdef Py_ssize_t start, stop
    cdef double loss = 0
    cdef int rank
    start = share_start(ranks, ranks.rank, first, count, job.n_examples)
    if ranks.partitioned:
        stop = share_start(ranks, ranks.rank, first + count, count, job.n_examples)
        # As if the shares of the ranks before were the first examples of the batch, so that no two have the same masks.
        job.network.dropout.first = start - (count * ranks.n_before // job.n_examples + ranks.rank)
    else:
        stop = share_start(ranks, ranks.rank + 1, first, count, job.n_examples)
    job.batch_weight = sum_of_weights(&job.network, start, stop - start)
    if job.batch_weight > 0:
        job.first, job.count = start, stop - start
        job.n_blocks = blocks_of(&job.network, job.count)
        run_stage(team, &job.interrupt, gradient_block, job.n_blocks)
        if job.n_blocks > 1:
            run_stage(team, &job.interrupt, reduce_part, ceil_div(n, PARAMETER_PART))
        for block in range(job.n_blocks):
            loss += job.block_losses[block]
        memcpy(ranks.own, job.folded_gradient, n * sizeof(real))
    else:
        memset(ranks.own, 0, n * sizeof(real))
    if is_raised(&job.interrupt.stop):
        return
    ranks.header[HEADER_WEIGHT] = job.batch_weight
    ranks.header[HEADER_LOSSES] = loss
    exchange_messages(ranks, <Messages>add_shares, job.update.step, n, &job.interrupt)
    if is_raised(&job.interrupt.stop):
        return
    memcpy(job.folded_gradient, ranks.gathered, n * sizeof(real))
    job.first, job.count, job.n_blocks = first, count, 1
    job.batch_weight = job.block_losses[0] = 0
    for rank in range(ranks.size):
        job.batch_weight += ranks.headers[rank * ranks.header_length + HEADER_WEIGHT]
        job.block_losses[0] += ranks.headers[rank * ranks.header_length + HEADER_LOSSES]


cdef inline void run_batch(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """The losses of `count` examples from `first` on, and the sum of their gradients if one is wanted. May be interrupted."""
    job.first = first
    job.network.dropout.first = first
    job.count = count
    job.n_blocks = blocks_of(&job.network, count)
    if job.ranks.group != NULL:
        if job.ranks.by_rank:
            run_share(job, team)
            return
        if job.n_blocks > 1 or job.ranks.partitioned:
            run_blocks_of_ranks(job, team)
            return
    run_stage(team, &job.interrupt, gradient_block, job.n_blocks)
    if job.n_blocks > 1 and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        run_stage(team, &job.interrupt, reduce_part, ceil_div(job.network.n_parameters, PARAMETER_PART))


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


cdef inline double mean_of(Job* job, double total) noexcept nogil:
    """The loss of a batch from the sum over its blocks."""
    if job.network.loss.kind != MEAN_SQUARED_ERROR:
        total *= 1 / LOSS_UNIT / job.batch_weight
        return total
    return total / job.batch_weight


cdef double mean_loss(Job* job) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t block
    for block in range(job.n_blocks):
        total += job.block_losses[block]
    return mean_of(job, total)


# ---- a step ------------------------------------------------------------------------------------------

cdef bint fused_step(Job* job, Py_ssize_t count) noexcept nogil:
    """The gradient and the update in one: fused_update.pxi. False if it is not bounded; then it is stored."""
    cdef Network* network = &job.network
    cdef const real* scratch = own_scratch(job, 0)
    cdef bint few = network.few
    if few and not gradient_is_bounded(network, &job.few, job.update.largest_gradient):
        few_gradient(network, &job.few, job.gradient, &job.interrupt, 0)
        return False
    if not few and not tile_is_bounded(network, count, scratch, job.gradient, job.update.largest_gradient):
        store_deferred(network, count, scratch, job.gradient)
        return False
    begin_update(&job.update)
    if few:
        fused_update(network, &job.few, &job.update, job.parameters, job.gradient)
    else:
        update_tile(network, count, scratch, &job.update, job.parameters, job.gradient)
    job.update.step += 1
    job.n_steps += 1
    return True


cdef double one_step(Job* job, Team* team, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """One step over `count` examples from `first` on; returns its loss. There is no update if the loss or the gradient is not
    finite (then `job.too_large` stays set), or the step is interrupted."""
    cdef Network* network = &job.network
    cdef Update* rule = &job.update
    cdef Py_ssize_t n = job.n_parameters
    cdef const real* parameters = job.lookahead if rule.nesterov else job.parameters
    cdef double loss = -1
    network.dropout.step = rule.step
    if rule.nesterov:
        look_ahead(rule, job.parameters, job.lookahead, n)
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
        if is_raised(&job.interrupt.stop) or job.batch_weight == 0:
            return 0
        loss = mean_loss(job)
        if not isfinite(loss):
            return loss
    if job.folds != NULL:
        unfold_layers(job, parameters)
        if is_raised(&job.interrupt.stop):
            return 0
    if job.fused and fused_step(job, count):
        return loss
    if is_raised(&job.interrupt.stop):
        return 0
    if job.l2 > 0:
        loss += penalty(job, team, parameters)
        if not isfinite(loss):
            return loss
    if rule.clip_norm > 0:
        clip_gradient(job, team)
    run_stage(team, &job.interrupt, check_part, ceil_div(n, PARAMETER_PART))
    if is_raised(&job.too_large):
        if not rescale_states(rule, job.gradient, n):
            return loss
        job.too_large = 0
    begin_update(rule)
    run_stage(team, &job.interrupt, update_part, ceil_div(n, PARAMETER_PART))
    rule.step += 1
    job.n_steps += 1
    return loss


cdef inline double weight_of_batch(Job* job, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """The sum of the weights of a batch; of partitioned mini-batches the number of examples, until `run_share` knows the sum."""
    if job.ranks.partitioned:
        return job.ranks.whole_weight if count == job.n_examples else count
    return sum_of_weights(&job.network, first, count)


cdef void train_steps(void* data, Team* team) noexcept nogil:
    """The epochs of a fit, continued where the leader left them: the leader's function in `Engine.train` and `Engine.step`."""
    cdef Job* job = <Job*>data
    cdef Network* network = &job.network
    cdef Py_ssize_t count, seen = job.n_seen, work = 0, epochs_work = 0
    cdef double loss = 0, total = job.seen_loss, seen_weight = job.seen_weight
    # No mean over batches is needed: 2 % of the smallest step.
    cdef bint one_batch = job.n_examples <= job.batch and job.carry == NULL
    # If the whole data set is one tile, it stays packed from step to step: 5 to 10 % of such a step.
    cdef bint one_tile = one_batch and job.order == NULL and job.n_examples <= network.tile
    if one_batch:
        job.batch_weight = weight_of_batch(job, 0, job.n_examples)
    while job.finished < job.n_epochs:
        if seen == 0 and job.bits != NULL:
            shuffle(
                job.order, job.ranks.n_own if job.ranks.partitioned else job.n_examples, job.bits, job.generator_lock,
                &job.interrupt)
            if is_raised(&job.interrupt.stop):      # the order may be incomplete
                return
        while seen < job.n_examples:
            count = minimum(job.batch, job.n_examples - seen)
            if not one_batch:
                job.batch_weight = weight_of_batch(job, seen, count)
                if job.batch_weight == 0:       # no step: weights of 0
                    seen += count
                    continue
            if job.rates != NULL:
                job.update.learning_rate = job.rates[job.n_steps]
            loss = one_step(job, team, seen, count)
            if is_raised(&job.interrupt.stop):
                return
            if not isfinite(loss) or job.too_large:
                job.losses[job.finished] = loss
                return
            total += loss if one_batch else loss * job.batch_weight
            seen_weight += job.batch_weight
            seen += count
            network.tile_is_packed = one_tile and not job.from_moments
            work += network.n_parameters * count
            if work > CHECK_WORK:
                work = 0
                if should_change(team):
                    team.call_again = True
                    job.n_seen = seen
                    job.seen_loss = total
                    job.seen_weight = seen_weight
                    return
        job.losses[job.finished] = total if one_batch else total / seen_weight
        if job.carry != NULL:
            job.carry[0] = total
            job.carry[1] = seen_weight
            job.carry[2] = loss
        job.finished += 1
        seen = 0
        total = 0
        seen_weight = 0
        epochs_work += network.n_parameters * job.n_examples
        if epochs_work > CHECK_WORK:
            epochs_work = 0
            run_due_handlers(job)
            if is_raised(&job.interrupt.stop):
                return


cdef void run_due_handlers(Job* job) noexcept nogil:
    """Between two epochs: runs the signal handlers, unless they ran in the last EPOCH_HANDLER_SECONDS."""
    if is_due(&job.interrupt, EPOCH_HANDLER_SECONDS):
        if job.incomplete != NULL and all_within(GREATEST, job.parameters, 0, job.n_parameters):
            set_flag(job.incomplete, COMPLETE)
        run_handlers(&job.interrupt)
        if job.incomplete != NULL:
            set_flag(job.incomplete, EPOCH_INCOMPLETE)


cdef int report_steps(void* data) except -1:
    """Writes the number of steps, and the exponent of the states, after the last finished step to the optimizer."""
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
    cdef Py_ssize_t place = tile * network.tile, count = minimum(network.tile, job.n_examples - place)
    cdef real* scratch = own_scratch(job, thread)
    cdef Features lowest
    cdef real* outputs
    if is_raised(&job.interrupt.stop):
        return
    lowest = inputs(network, place, count, scratch)
    outputs = forward_tile(network, &lowest, place, count, scratch, False)
    to_probabilities(job.link, job.out.rows, panels(count), outputs)
    unpack_tile(outputs, job.out, place, count)
    check_interrupt(&job.interrupt, thread, network.n_parameters * network.tile)


cdef void predict(void* data, Team* team) noexcept nogil:
    """The leader's function in `Engine.forward`."""
    cdef Job* job = <Job*>data
    if job.folds != NULL:
        fold_layers(job, job.parameters)
        if is_raised(&job.interrupt.stop):
            return
    if job.network.few:
        few_predict(&job.network, job.packed, job.link, job.out, own_scratch(job, 0), &job.interrupt, 0)
        return
    run_stage(team, &job.interrupt, predict_tile, ceil_div(job.n_examples, job.network.tile))


cdef void differentiate(void* data, Team* team) noexcept nogil:
    """The leader's function in `Engine.gradient`."""
    cdef Job* job = <Job*>data
    if job.folds != NULL:
        fold_layers(job, job.parameters)
    if not is_raised(&job.interrupt.stop):
        job.batch_weight = sum_of_weights(&job.network, 0, job.n_examples)
        run_batch(job, team, 0, job.n_examples)
    if job.folds != NULL and job.gradient != NULL and not is_raised(&job.interrupt.stop):
        unfold_layers(job, job.parameters)
    if job.l2 > 0 and not is_raised(&job.interrupt.stop):
        job.penalty = penalty(job, team, job.parameters)


# ---- losses at many points ---------------------------------------------------------------------------

cdef void candidate_loss(void* data, int thread, Py_ssize_t k) noexcept nogil:
    """A stage: the loss of all examples at one of many points. Its sums are in the order of those of `run_batch`."""
    cdef Job* job = <Job*>data
    cdef Network network = job.network
    cdef FewPass few
    cdef Layer* layer
    cdef real* scratch = own_scratch(job, thread)
    cdef const real* point = job.candidates + k * job.n_parameters
    cdef real weight = <real>(1 / job.batch_weight)
    cdef double total = 0, block, penalty = 0
    cdef Py_ssize_t place = 0, stop, i
    network.parameters = point
    if network.few:
        total = few_deltas(&network, 0, job.n_examples, weight, scratch, False, &few, &job.interrupt, thread)
    while not network.few and place < job.n_examples:
        stop = minimum(place + network.block, job.n_examples)
        block = 0
        while place < stop and not is_raised(&job.interrupt.stop):
            block += gradient_tile(
                &network, place, minimum(network.tile, stop - place), weight, scratch, GradientSum(NULL, 0, True))
            check_interrupt(&job.interrupt, thread, network.n_parameters * network.tile)
            place += network.tile
        total += block
        place = stop
    if job.l2 > 0:
        for i in range(job.n_members):
            layer = &job.members[i]
            penalty += squares_of_parts(point + layer.weight, layer.n_in * layer.n_out)
    job.losses[k] = mean_of(job, total) + 0.5 * job.l2 * penalty


cdef void compare_candidates(void* data, Team* team) noexcept nogil:
    """The leader's function in `Engine.losses`."""
    cdef Job* job = <Job*>data
    job.batch_weight = sum_of_weights(&job.network, 0, job.n_examples)
    run_stage(team, &job.interrupt, candidate_loss, job.n_epochs)
