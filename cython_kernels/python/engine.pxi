"""The engine, which runs a plan: predictions, gradients, steps, epochs."""


@cython.final
cdef class Engine:
    """Runs a plan: see fusegrad._engine.plan.Plan, whose fields it copies.

    Every call has scratch memory of its own, so that calls from several Python threads do not interfere.
    """
    cdef int64[:, ::1] layers
    cdef int64[:, ::1] members
    cdef int64[:, ::1] folds
    cdef Job job_template
    cdef Py_ssize_t buffer_bytes    # bytes of a buffer for all parameters, before or after folding
    cdef Py_ssize_t n_blocks
    cdef Py_ssize_t prediction_tile
    cdef bint defers
    cdef Py_ssize_t tiles_bytes     # bytes of the tiles of the folds
    cdef Py_ssize_t scratch_bytes   # without the buffers of gradients
    cdef readonly int n_threads
    cdef double work                # multiply-adds of a step for each example
    cdef Py_ssize_t n_features
    cdef Py_ssize_t n_outputs
    cdef Py_ssize_t small_batch         # most examples of a call that takes only a few microseconds: it keeps the GIL

    # Of the network whose direct calls it serves: to pass them with each call takes 10 to 20 ns.
    cdef cnp.ndarray parameters
    cdef TrainingLock lock
    cdef cnp.ndarray packed         # the weights of a frozen network: see `pack`

    def __cinit__(
        self, plan, loss=(MEAN_SQUARED_ERROR, 0.0), double l2=0, cnp.ndarray parameters=None, TrainingLock lock=None,
        cnp.ndarray packed=None, uint64_t dropout_seed=0,
    ):
        self.parameters, self.lock, self.packed = parameters, lock, packed
        cdef double parameter = loss[1]     # Cython would convert a Python number to a C float: `real` is one, for it
        self.job_template.network.loss = Loss(loss[0], <real>parameter)
        self.job_template.l2 = l2
        self.job_template.network.dropout = Dropout(dropout_seed, -1, 0)
        # Copies: Python code must not be able to change the tables that a kernel reads.
        self.layers = np.array(plan.layer_table, dtype=np.int64)
        self.members = np.array(plan.member_table, dtype=np.int64)
        self.folds = np.array(plan.fold_table, dtype=np.int64)
        self.job_template.network.layers = <Layer*>&self.layers[0, 0]
        self.job_template.network.n_layers = self.layers.shape[0]
        self.job_template.network.n_parameters = plan.n_folded
        self.job_template.members = <Layer*>&self.members[0, 0]
        self.job_template.n_members = self.members.shape[0]
        self.job_template.folds = <Fold*>&self.folds[0, 0] if plan.folded else NULL
        self.job_template.n_parameters = plan.n_parameters
        self.job_template.network.tile = plan.tile
        self.job_template.network.block = plan.block
        self.job_template.network.few = plan.few_examples
        self.job_template.batch = plan.batch
        self.n_blocks = plan.n_blocks
        self.prediction_tile = plan.prediction_tile
        self.defers = plan.defers
        self.n_threads = plan.n_threads
        self.n_features = self.job_template.network.layers[0].n_in
        self.n_outputs = self.job_template.network.layers[self.job_template.network.n_layers - 1].n_out
        # A folded layer has a bias if any of its members has one: there may be more parameters after folding than before.
        longest = max(plan.n_parameters, plan.n_folded)
        self.small_batch = plan.small_batch
        self.buffer_bytes = size_of(longest, 1)
        self.job_template.scratch_size = size_of(plan.scratch, 1)
        self.tiles_bytes = size_of(plan.fold_scratch, 1)
        self.work = 3 * <double>plan.n_folded
        size_of(longest, plan.n_blocks + 1)     # an error if it is too large
        self.scratch_bytes = (
            size_of(plan.scratch, plan.n_threads) + size_of(longest, 2 if plan.folded else 0) + self.tiles_bytes
            + (plan.n_blocks + ceil_div(longest, PARAMETER_PART)) * sizeof(double))

    cdef inline _Scratch begin(
        self, Job* job, cnp.ndarray X, cnp.ndarray parameters, Py_ssize_t n_examples, Py_ssize_t n_gradients,
    ):
        """Fills in a job; divides its scratch memory: a part per thread, layers after folding, gradients, sums.

        X must have n_examples examples; -1: one or more. Each buffer of parameters, before or after folding, takes
        `buffer_bytes`. n_gradients: how many of them for gradients: 0 for predictions and losses, `n_blocks` for a gradient and
        the partial gradients of the other blocks, one more for Nesterov's look-ahead point.
        """
        cdef _Scratch scratch = borrow_scratch(self.scratch_bytes + n_gradients * self.buffer_bytes)
        cdef char* place = scratch.data
        job[0] = self.job_template
        read_matrix("X", X, self.n_features, n_examples, &job.network.x)
        job.n_examples = job.network.x.columns
        if job.n_examples == 0:
            raise array_error("X", "at least one example", X)
        job.parameters = read_flat("parameters", parameters, job.n_parameters)
        job.network.parameters = job.parameters
        job.scratch = place
        place += self.n_threads * job.scratch_size
        if job.folds != NULL:
            job.folded_parameters = <real*>place
            job.network.parameters = job.folded_parameters
            place += self.buffer_bytes
            job.folded_gradient = <real*>place
            place += self.buffer_bytes
            job.tiles = <real*>place
            place += self.tiles_bytes
        if n_gradients > 0:
            job.gradient = <real*>place
            job.partial_gradients = <real*>(place + self.buffer_bytes)
            job.lookahead = <real*>(place + self.n_blocks * self.buffer_bytes)
            place += n_gradients * self.buffer_bytes
        if job.folds == NULL:
            job.folded_gradient = job.gradient
        job.block_losses = <double*>place
        job.part_sums = job.block_losses + self.n_blocks
        return scratch

    cdef inline int read_targets(self, Job* job, cnp.ndarray y, cnp.ndarray weights) except -1:
        """y (n_outputs, m), or class numbers (1, m); weights (m,) or None."""
        cdef Py_ssize_t rows = self.n_outputs
        cdef int kind = job.network.loss.kind
        if kind == MULTICLASS_HINGE or (kind == SOFTMAX_CROSS_ENTROPY and cnp.PyArray_DIM(y, 0) == 1):
            rows = 1
        read_matrix("y", y, rows, job.n_examples, &job.network.y)
        if weights is not None:
            job.network.weights = Matrix(
                <char*>read_flat("sample_weight", weights, job.n_examples), 1, job.n_examples,
                job.n_examples * sizeof(real), sizeof(real))
        return 0

    def forward_direct(self, X, out=None):
        """`forward` if X has this engine's batch size and all arrays can be used in place; else None, and nothing is done."""
        if not (
            is_input(X, self.n_features)
            and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == self.job_template.batch
            and self.parameters is not None
            and (out is None or is_target(out, X, self.parameters, self.n_outputs))
        ):
            return None
        return self.forward(X, self.parameters, out)

    def pack(self, cnp.ndarray parameters not None):
        """The weights as `forward` reads them the fastest where there are a few examples."""
        cdef Py_ssize_t i, size = 0
        cdef Layer* layers = self.job_template.network.layers
        for i in range(self.job_template.network.n_layers):
            size += packed_size(layers[i].n_out, layers[i].n_in)
        cdef cnp.ndarray packed = np.empty(size, parameters.dtype)
        cdef cnp.ndarray folded = np.empty(self.job_template.network.n_parameters, parameters.dtype)
        cdef const real* source = read_flat("parameters", parameters, self.job_template.n_parameters)
        cdef Interrupt never = NO_INTERRUPT
        if self.job_template.folds != NULL:
            for i in range(self.job_template.network.n_layers):
                fold_parameters(
                    &self.job_template.folds[i], self.job_template.members, &layers[i], source,
                    read_flat("folded", folded, cnp.PyArray_SIZE(folded)), NULL, &never)
            source = read_flat("folded", folded, cnp.PyArray_SIZE(folded))
        cdef real* place = read_flat("packed", packed, size)
        for i in range(self.job_template.network.n_layers):
            pack_weight(
                source + layers[i].weight, at(<real*>source, layers[i].bias), layers[i].n_out, layers[i].n_in, place)
            place += packed_size(layers[i].n_out, layers[i].n_in)
        return packed

    cpdef forward(self, cnp.ndarray X, cnp.ndarray parameters, cnp.ndarray out=None, int link=0, int64 masks_of=-1):
        """out (n_outputs, m), a new one if there is none, = the network's prediction for X (n_features, m).

        link: see `Link`; 0: the outputs as they are. masks_of: with the masks of dropout of this step; -1: without.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.job_template.batch, 0)
        cdef cnp.npy_intp shape[2]
        if out is None:
            shape[0] = self.n_outputs
            shape[1] = job.n_examples
            out = cnp.PyArray_SimpleNew(2, shape, REAL_TYPE)
        read_matrix("out", out, self.n_outputs, job.n_examples, &job.out)
        job.link = link
        job.network.tile = self.prediction_tile
        job.network.dropout.step = masks_of
        if self.packed is not None:
            job.packed = read_flat("packed", self.packed, cnp.PyArray_SIZE(self.packed))
        self.run(&job, predict, job.n_examples, job.n_examples)
        check(&job.interrupt)
        return_scratch(scratch)
        return out

    def gradient(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None,
        cnp.ndarray gradient=None, cnp.ndarray input_gradient=None, cnp.ndarray weights=None,
        bint y_is_gradient=False, bint penalised=True, cnp.ndarray outputs=None, int64 masks_of=-1,
    ):
        """Returns the loss; fills gradient (n_parameters,) and, only with it, input_gradient (n_features, m), unless None.

        y_is_gradient: y is the gradient with respect to the outputs, and there is no loss. Then the outputs f(W X + b) of a
        single layer may be given. penalised: with the L2 penalty. masks_of: with the masks of dropout of this step; -1: without.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, -1, 0 if gradient is None else self.n_blocks)
        if job.n_examples > self.job_template.batch:       # the last batch of an epoch may have fewer
            raise array_error("X", f"at most {self.job_template.batch} examples", X)
        if y_is_gradient:
            read_matrix("output_gradient", y, self.n_outputs, job.n_examples, &job.network.y)
            job.network.y_is_gradient = True
        else:
            self.read_targets(&job, y, weights)
        job.network.dropout.step = masks_of
        if not penalised:
            job.l2 = 0
        job.gradient = NULL
        if gradient is not None:
            job.gradient = read_flat("gradient", gradient, job.n_parameters)
        if job.folds == NULL:
            job.folded_gradient = job.gradient
        if input_gradient is not None:
            read_matrix("input_gradient", input_gradient, self.n_features, job.n_examples, &job.network.input_gradient)
        if outputs is not None:
            read_matrix("outputs", outputs, self.n_outputs, job.n_examples, &job.network.outputs)
        self.run(&job, differentiate, job.n_examples, job.n_examples)
        check(&job.interrupt)
        cdef double loss = mean_loss(&job) + job.penalty    # from scratch memory, which another thread may borrow next
        return_scratch(scratch)
        return loss

    def losses(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray candidates not None, cnp.ndarray losses not None,
        cnp.ndarray weights=None,
    ):
        """losses (k,) at the rows of candidates (k, n_parameters). Threads share the rows. Nothing may be folded."""
        cdef Job job
        cdef Matrix points
        cdef Py_ssize_t n = self.job_template.n_parameters
        cdef _Scratch scratch = self.begin(&job, X, candidates[0], self.job_template.batch, 0)
        self.read_targets(&job, y, weights)
        read_matrix("candidates", candidates, -1, n, &points)
        if job.folds != NULL or points.column != sizeof(real) or points.row != n * <Py_ssize_t>sizeof(real):
            raise array_error("candidates", "contiguous rows, and layers that are not folded", candidates)
        job.candidates = <const real*>points.data
        job.losses = read_doubles("losses", losses)
        job.n_epochs = minimum(points.rows, cnp.PyArray_DIM(losses, 0))
        self.run(&job, compare_candidates, job.n_examples * job.n_epochs, job.n_examples * job.n_epochs)
        check(&job.interrupt)
        return_scratch(scratch)

    cdef void run(self, Job* job, Lead lead, Py_ssize_t n_examples, Py_ssize_t n_together) noexcept:
        """Runs lead on n_examples in all, n_together in a step; a short call keeps the GIL."""
        cdef Team team
        if n_examples <= self.small_batch:
            run_team(&team, &job.interrupt, 1, 0, lead, job)
        else:
            with nogil:
                run_team(&team, &job.interrupt, self.n_threads, self.work * n_together, lead, job)

    def step_direct(self, X, y, optimizer, compiled_step):
        """`step` under the network's lock; None, and nothing is done, unless the optimizer belongs to this network and its
        `step` is not overridden, X and y are a batch of this engine's size that can be used in place, and the lock is free.

        The same checks in Python take 0.25 microseconds longer, as long as three steps of the smallest network.
        """
        if not (
            self.lock is not None
            and getattr(type(optimizer), "step", None) is compiled_step
            and getattr(optimizer, "_direct_for", None) is self.lock
            and is_batch(X, y, self.parameters, self.n_features, self.n_outputs)
            and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == self.job_template.batch
            and self.lock.acquire()
        ):
            return None
        try:
            return self.step(X, y, self.parameters, optimizer)
        finally:
            self.lock.release()

    cpdef step(self, cnp.ndarray X, cnp.ndarray y, cnp.ndarray parameters, optimizer, cnp.ndarray weights=None):
        """One step over all of X and y; returns the loss before the update. There is no update if the loss is not finite."""
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.job_template.batch, self.n_blocks + 1)
        cdef double loss = 0
        # Before the optimizer is read, which may run a user's code.
        self.read_targets(&job, y, weights)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters, False)
        job.losses = &loss
        job.n_epochs = 1
        self.make_steps(&job, optimizer, 1)
        return_scratch(scratch)
        return INFINITY if job.too_large else loss

    def train(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None, optimizer,
        TrainingLock lock not None, cnp.ndarray losses not None, cnp.ndarray rates=None, bit_generator=None,
        bint private_generator=False, moments=None, cnp.ndarray weights=None, cnp.ndarray order=None,
        cnp.ndarray carry=None, ranks=None,
    ):
        """len(losses) epochs of mini-batches, with one learning rate per step, shuffled if there is a bit_generator.

        moments: of all examples, for a network that is one linear layer after folding. Steps are computed from them, unless
        the loss would have too few correct digits. private_generator: no other code uses the generator, and its lock is not
        acquired. order: of the examples, if it is not drawn here. carry: this is a part of an epoch, whose sums of losses and
        weights so far, and last loss, are in it; they are updated. ranks: a fusegrad.distributed.Group of processes that train
        together.
        Returns the number of finished epochs, whether all steps were computed from the moments, and, if there are fewer
        epochs than requested, what was not finite in a step: its "loss" or its "gradient". That step is not made, and
        its loss is stored as the loss of its epoch.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, -1, self.n_blocks + 1)
        cdef cnp.npy_intp n_order
        cdef const double[::1] means
        cdef const double[:, ::1] products
        cdef double[::1] work
        cdef object generator_lock
        cdef Py_ssize_t n_steps
        self.read_targets(&job, y, weights)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters, False)
        job.losses = read_doubles("losses", losses)
        job.n_epochs = cnp.PyArray_DIM(losses, 0)
        job.from_moments = moments is not None
        if order is not None:
            job.n_examples = cnp.PyArray_SIZE(order)
        n_order = job.n_examples
        if ranks is not None:
            self.read_ranks(&job, ranks, parameters)
        if carry is not None:
            job.carry = read_doubles("carry", carry)
            job.seen_loss, job.seen_weight = job.carry[0], job.carry[1]
        n_steps = job.n_epochs * ceil_div(job.n_examples, job.batch)
        if rates is not None:
            job.rates = read_doubles("rates", rates)
        if moments is not None:
            means, products, work = moments.means, moments.products, np.empty(self.job_template.network.layers[0].n_in)
            job.moments = Moments(means.shape[0], &means[0], &products[0, 0], &work[0])
        if bit_generator is not None:
            order = np.empty(n_order, dtype=np.intp)
            job.bits = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
            if not private_generator:
                generator_lock = bit_generator.lock
                job.generator_lock = <PyObject*>generator_lock
        if order is not None:
            job.order = read_order(order, n_order)
            job.network.order = job.order
        if n_steps > job.n_epochs or job.order != NULL or job.carry != NULL:
            job.incomplete = &lock.incomplete
        job.optimizer = <PyObject*>optimizer
        job.interrupt.report = <Report>report_steps
        job.interrupt.job = &job
        self.make_steps(&job, optimizer, n_steps)
        return_scratch(scratch)
        return job.finished, job.from_moments, "gradient" if job.too_large else "loss"

    cdef int read_ranks(self, Job* job, group, cnp.ndarray parameters) except -1:
        """The processes that train together, and which of the examples are this one's."""
        cdef Ranks* ranks = &job.ranks
        cdef cnp.ndarray bounds = group.first_blocks
        cdef Py_ssize_t length, start
        ranks.group = <PyObject*>group
        ranks.rank, ranks.size = group.rank, group.size
        ranks.by_rank, ranks.partitioned = group.by_rank, group.partitioned
        ranks.shared_block = -1
        ranks.header = read_doubles("header", group.header)
        ranks.headers = read_doubles("headers", group.headers)
        ranks.header_length = cnp.PyArray_SIZE(group.header)
        if ranks.partitioned:
            ranks.n_own, ranks.n_before, ranks.whole_weight = group.n_own, group.n_before, group.whole_weight
            job.n_examples = group.n_examples
            if bounds is not None:
                ranks.first_blocks = read_order(bounds, ranks.size + 1)
                # Examples have the same numbers in all ranks: where example 0 would be.
                shift(&job.network.x, ranks.n_before)
                shift(&job.network.y, ranks.n_before)
                shift(&job.network.weights, ranks.n_before)
                if group.shared is not None:
                    ranks.shared_block, start, x, y, weights = group.shared
                    read_matrix("X", x, self.n_features, -1, &ranks.shared_x)
                    read_matrix("y", y, job.network.y.rows, -1, &ranks.shared_y)
                    shift(&ranks.shared_x, start)
                    shift(&ranks.shared_y, start)
                    if weights is not None:
                        read_matrix("sample_weight", weights, 1, -1, &ranks.shared_weights)
                        shift(&ranks.shared_weights, start)
        if ranks.by_rank:
            length = job.network.n_parameters
        else:
            length = ceil_div(minimum(job.n_examples, job.batch), job.network.block)
            length = most_blocks_of(ranks, length) * job.network.n_parameters
        group.reserve(length, parameters.dtype)
        ranks.own = read_flat("own", group.own, cnp.PyArray_SIZE(group.own))
        ranks.gathered = read_flat("gathered", group.gathered, cnp.PyArray_SIZE(group.gathered))
        return 0

    cdef int make_steps(self, Job* job, optimizer, Py_ssize_t n_steps) except -1:
        """Makes the n_steps steps of a job, or some of them. Updates optimizer.n_steps, also if they are interrupted."""
        cdef object all_made = job.update.step + n_steps    # before the steps: after them, allocating it might fail
        cdef Py_ssize_t count = minimum(job.batch, job.n_examples)
        if job.update.nesterov and job.folds == NULL:
            job.network.parameters = job.lookahead
        job.fused = (
            (job.network.few or self.defers) and job.folds == NULL and job.moments.means == NULL and job.ranks.group == NULL
            and job.l2 == 0 and job.update.clip_norm == 0 and job.update.weight_decay == 0 and job.update.factors == NULL)
        job.network.defers = job.fused and not job.network.few
        if job.incomplete != NULL:
            set_flag(job.incomplete, EPOCH_INCOMPLETE)
        try:
            self.run(job, train_steps, n_steps * count, count)
            check(&job.interrupt)
        finally:
            if job.incomplete != NULL:
                set_flag(job.incomplete, COMPLETE if job.finished == job.n_epochs and job.carry == NULL else EPOCH_INCOMPLETE)
            count_steps(optimizer, &job.update, all_made if job.n_steps == n_steps else job.update.step)
        return 0
