# cython: freethreading_compatible=True
"""The compiled module of one instruction set and one dtype: what Python may call.

Everything here takes arrays that `fusegrad._arrays` has judged, of this module's dtype and of shapes that
agree, and compares what it reads with the sizes planned for (doors.pxi); what is called `quick_` or `is_` judges for
itself. The algorithms are in the .pxi files beside this one; see README.md for the contract.
"""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport parallel
from libc.math cimport isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
cimport numpy as cnp

import numpy as np

from vector cimport (
    COLUMN_BLOCK, DEEP_BLOCK, DEPTH_AHEAD, DEPTH_BLOCK, ESTIMATED, GROUP, HALF_LANES, LANES, LANE_BLOCK, LANE_COLUMNS,
    LANE_ROWS, LIFT, LINE, NARROW_ROWS, PANEL, POWER_ORIGIN, ROWS, ROW_BLOCK, ROW_SUMS, SMALLEST_NORMAL, VECTORS,
    WIDE_VECTORS, Places, add_columns, afresh, at_least, at_most, copy_columns, even_lanes, exchange, first_lane,
    first_lanes, from_half, fused, interleave_high, interleave_low, load, load_anywhere, load_first, load_half,
    magnitude, monotonic_seconds, normal, odd_lanes, places_of, power_of_two, prefetch, quotient, real, reflected,
    splat, splat_group, splat_half, spread_groups, square_root, store, store_anywhere, store_first, take_lanes,
    times_complement, times_power, vhalf, vreal, where_positive, with_sign_of,
)

# One compilation unit, so that the micro-tiles are inlined where they are used.
include "threads.pxi"
include "activations.pxi"
include "tile.pxi"
include "packing.pxi"
include "matvec.pxi"
include "shallow.pxi"
include "matmul.pxi"
include "dense.pxi"
include "backward.pxi"
include "optimizers.pxi"
include "collapse.pxi"
include "moments.pxi"
include "engine.pxi"
include "steps.pxi"

cnp.import_array()

cdef long long LAST_STEP = 1 << 53      # of an optimizer: what a bias correction can count
ACTIVATIONS = ("identity", "sigmoid", "relu", "tanh")
RULES = ("none", "sgd", "adagrad", "rmsprop", "adam")
MOST_STEPS = LAST_STEP
lanes = LANES
panel = PANEL
folded_rows = FOLDED_ROWS

cdef extern from *:
    Py_ssize_t PY_SSIZE_T_MAX

include "doors.pxi"


# ---- scratch memory ----------------------------------------------------------------------------------

cdef _Scratch spare_scratch = None      # lent to one call at a time
cdef object spare_guard = object()      # its lock, where there is no GIL


@cython.final
cdef class _Scratch:
    """Uninitialised memory, at a cache line; given back to the module for the next call."""
    cdef unsigned char[::1] memory
    cdef char* data

    def __cinit__(self, Py_ssize_t size):
        self.memory = np.empty(size + LINE, dtype=np.uint8)
        self.data = <char*>&self.memory[0]
        self.data += -<Py_ssize_t>self.data & (LINE - 1)


cdef _Scratch borrow_scratch(Py_ssize_t size):
    global spare_scratch
    cdef _Scratch scratch
    with cython.critical_section(spare_guard):
        scratch, spare_scratch = spare_scratch, None
    if scratch is not None and scratch.memory.shape[0] >= size + LINE:
        return scratch
    return _Scratch(size)


cdef void return_scratch(_Scratch scratch):
    """Allocates nothing: it comes after the parameters were written."""
    global spare_scratch
    if scratch.memory.shape[0] <= 1 << 26:
        with cython.critical_section(spare_guard):
            spare_scratch = scratch


cdef Py_ssize_t size_of(reals, pieces) except -1:
    """The bytes of so many pieces of so many reals, each of whole cache lines: the one place where sizes are
    multiplied, in Python's integers, which do not wrap."""
    size = -(-reals * sizeof(real) // LINE) * LINE * pieces
    if size > PY_SSIZE_T_MAX // 2:      # room to add a few of them
        raise MemoryError(f"{size} bytes are more than there can be")
    return size


# ---- turns -------------------------------------------------------------------------------------------

@cython.final
cdef class Turn:
    """The right to train a network: `with turn:` for one at a time. Others are refused, they do not wait.

    In place of a threading.Lock, which takes 80 ns longer: it asks the clock even where nobody is to wait.
    """
    cdef int taken

    cdef bint take(self) noexcept:
        return take_flag(&self.taken)

    cdef void give(self) noexcept:
        give_flag(&self.taken)

    def __enter__(self):
        if not self.take():
            raise RuntimeError("this network is being trained already: one fit or train_step at a time")

    def __exit__(self, *exception):
        self.give()


# ---- the engine --------------------------------------------------------------------------------------

@cython.final
cdef class Engine:
    """A plan made ready to run: see fusegrad._plan.Plan, whose fields it takes over.

    Every call borrows scratch memory, so that calls from several Python threads do not meet.
    """
    cdef int64[:, ::1] layers
    cdef int64[:, ::1] members
    cdef int64[:, ::1] chains
    cdef Job blank
    cdef Py_ssize_t line            # bytes of a gradient, the network's or the walk's
    cdef Py_ssize_t n_blocks
    cdef Py_ssize_t tiles_bytes     # of the chains
    cdef Py_ssize_t scratch_bytes
    cdef readonly int n_threads
    cdef Py_ssize_t n_features
    cdef Py_ssize_t n_outputs
    cdef Py_ssize_t brief           # so many examples take but a few microseconds: the GIL is kept

    def __cinit__(self, plan):
        # Copies of the engine's own: what steers a kernel cannot be reached from Python.
        self.layers = np.array(plan.layer_table, dtype=np.int64)
        self.members = np.array(plan.member_table, dtype=np.int64)
        self.chains = np.array(plan.chain_table, dtype=np.int64)
        self.blank.walk.layers = <Layer*>&self.layers[0, 0]
        self.blank.walk.n_layers = self.layers.shape[0]
        self.blank.walk.n_parameters = plan.n_walked
        self.blank.members = <Layer*>&self.members[0, 0]
        self.blank.chains = <Chain*>&self.chains[0, 0] if plan.collapsed else NULL
        self.blank.n_parameters = plan.n_parameters
        self.blank.walk.tile = plan.tile
        self.blank.walk.block = plan.block
        self.blank.batch = plan.batch
        self.n_blocks = plan.n_blocks
        self.n_threads = plan.n_threads
        self.n_features = self.blank.walk.layers[0].n_in
        self.n_outputs = self.blank.walk.layers[self.blank.walk.n_layers - 1].n_out
        # A chain may have a bias where its last member has none: the walk's parameters may be more than the network's.
        longest = max(plan.n_parameters, plan.n_walked)
        self.brief = plan.brief
        self.line = size_of(longest, 1)
        self.blank.scratch_size = size_of(plan.scratch, 1)
        self.tiles_bytes = size_of(plan.chain_scratch, 1)
        self.scratch_bytes = (
            size_of(plan.scratch, plan.n_threads) + size_of(longest, plan.n_blocks + 4) + self.tiles_bytes
            + plan.n_blocks * sizeof(double))

    cdef _Scratch begin(self, Job* job, cnp.ndarray X, cnp.ndarray parameters, Py_ssize_t n_examples):
        """Fills in a job and lends it scratch: a piece a thread, parameters, gradients, slots, tiles, losses.

        X has n_examples; -1: one or more, of which `batch` make a step.
        A buffer of the network's parameters, or of the walk's, has a whole `line`.
        """
        cdef _Scratch scratch = borrow_scratch(self.scratch_bytes)
        cdef char* place = scratch.data
        job[0] = self.blank
        read_matrix("X", X, self.n_features, n_examples, &job.walk.x)
        job.n_examples = job.walk.x.columns
        if job.n_examples == 0:
            raise unexpected("X", "at least one example", X)
        job.parameters = read_flat("parameters", parameters, job.n_parameters)
        job.walk.parameters = job.parameters
        job.scratch = place
        place += self.n_threads * job.scratch_size
        job.gradient = <real*>place
        place += self.line
        job.ahead = <real*>place
        place += self.line
        job.walked = job.gradient
        if job.chains != NULL:
            job.composed = <real*>place
            job.walk.parameters = job.composed
            place += self.line
            job.walked = <real*>place
            place += self.line
        job.slots = <real*>place
        place += self.n_blocks * self.line
        job.tiles = <real*>place
        place += self.tiles_bytes
        job.block_losses = <double*>place
        return scratch

    def quick_forward(self, X, cnp.ndarray parameters not None, out=None):
        """`forward`; None, and nothing is done, unless X is of this engine's size and all can be taken as it is."""
        if not (
            is_input(X, self.n_features)
            and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == self.blank.batch
            and (out is None or is_target(out, X, parameters, self.n_outputs))
        ):
            return None
        return self.forward(X, parameters, out)

    cpdef forward(self, cnp.ndarray X, cnp.ndarray parameters, cnp.ndarray out=None):
        """out (n_outputs, m), a new one if there is none, = the network's prediction for X (n_features, m)."""
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.blank.batch)
        cdef Matrix target
        cdef cnp.npy_intp shape[2]
        if out is None:
            shape[0] = self.n_outputs
            shape[1] = job.n_examples
            out = cnp.PyArray_SimpleNew(2, shape, REAL_TYPE)
        read_matrix("out", out, self.n_outputs, job.n_examples, &target)
        if job.n_examples <= self.brief:
            self.predict(&job, target)
        else:
            with nogil:
                self.predict(&job, target)
        check(&job.air)
        return_scratch(scratch)
        return out

    cdef void predict(self, Job* job, Matrix out) noexcept nogil:
        if self.n_threads == 1:
            forward_blocks(job, out, 0, 1)
        else:
            with parallel(num_threads=self.n_threads):
                forward_blocks(job, out, omp_get_thread_num(), omp_get_num_threads())

    def gradient(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None,
        cnp.ndarray gradient=None, cnp.ndarray input_gradient=None, cnp.ndarray outputs=None,
    ):
        """The loss; gradient (n_parameters,) and with it input_gradient (n_features, m) are filled, unless None.

        With outputs, f(W X + b) of a single layer, y is the gradient on them and the loss is 0.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.blank.batch)
        read_matrix("y", y, self.n_outputs, job.n_examples, &job.walk.y)
        job.gradient = NULL
        if gradient is not None:
            job.gradient = read_flat("gradient", gradient, job.n_parameters)
        if job.chains == NULL:
            job.walked = job.gradient
        if input_gradient is not None:
            read_matrix("input_gradient", input_gradient, self.n_features, job.n_examples, &job.walk.input_gradient)
        if outputs is not None:
            read_matrix("outputs", outputs, self.n_outputs, job.n_examples, &job.walk.outputs)
        if job.n_examples <= self.brief:
            self.differentiate(&job)
        else:
            with nogil:
                self.differentiate(&job)
        check(&job.air)
        return_scratch(scratch)
        return mean_loss(&job, self.n_blocks, job.n_examples)

    cdef void differentiate(self, Job* job) noexcept nogil:
        if job.chains != NULL:
            compose_chains(job, job.parameters)
        if self.n_threads == 1:
            walk_blocks(job, 0, job.n_examples, 0, 1)
        else:
            with parallel(num_threads=self.n_threads):
                walk_blocks(job, 0, job.n_examples, omp_get_thread_num(), omp_get_num_threads())
        if job.gradient != NULL:
            add_slots(job, self.n_blocks, 0, job.walk.n_parameters)
            if job.chains != NULL:
                expand_chains(job, job.parameters)

    def quick_step(self, X, y, cnp.ndarray parameters not None, optimizer, compiled_step, Turn turn not None):
        """`step` in a turn of its own; None, and nothing is done, unless the optimizer's class has the `step` that
        is compiled here, X and y are a batch of this engine's size that can be taken as it is, and nobody has the turn.

        To find that out from Python takes 0.25 microseconds longer, as long as three steps of the smallest network.
        """
        if not (
            getattr(type(optimizer), "step", None) is compiled_step
            and is_batch(X, y, parameters, self.n_features, self.n_outputs)
            and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == self.blank.batch
            and turn.take()
        ):
            return None
        try:
            return self.step(X, y, parameters, optimizer)
        finally:
            turn.give()

    cpdef step(self, cnp.ndarray X, cnp.ndarray y, cnp.ndarray parameters, optimizer):
        """One step over all of X and y; returns the loss before the update, of which there is none if it is not finite."""
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.blank.batch)
        cdef double loss = 0
        # First: an optimizer of one's own may do anything when it is read.
        read_matrix("y", y, self.n_outputs, job.n_examples, &job.walk.y)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters)
        job.losses = &loss
        job.n_epochs = 1
        self.run(&job, optimizer, 1)
        return_scratch(scratch)
        return loss

    def train(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None, optimizer,
        double[::1] losses, const double[::1] rates=None, bit_generator=None, moments=None,
    ):
        """len(losses) epochs of mini-batches, a learning rate a step, shuffled if there is a generator.

        With moments, of all examples, a network that is walked as one linear layer is trained from them, but for
        the steps whose loss would have too few digits. Returns how many epochs were finished, and whether all their
        steps were taken from moments. There are fewer than asked for when a loss is not finite: that step is
        not made, and its loss stands in place of its epoch's.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, -1)
        cdef Py_ssize_t[::1] order
        cdef const double[::1] means
        cdef const double[:, ::1] products
        cdef double[::1] work
        cdef Py_ssize_t n_steps
        read_matrix("y", y, self.n_outputs, job.n_examples, &job.walk.y)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters)
        job.losses = &losses[0]
        job.n_epochs = losses.shape[0]
        job.from_moments = True
        n_steps = job.n_epochs * ((job.n_examples + job.batch - 1) // job.batch)
        if rates is not None:
            job.rates = &rates[0]
        if moments is not None:
            means, products, work = moments.means, moments.products, np.empty(self.blank.walk.layers[0].n_in)
            job.moments = Moments(means.shape[0], &means[0], &products[0, 0], &work[0])
        if bit_generator is None:
            self.run(&job, optimizer, n_steps)
        else:
            order = np.empty(job.n_examples, dtype=np.intp)
            job.order = &order[0]
            job.walk.order = job.order
            job.bits = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
            with bit_generator.lock:
                self.run(&job, optimizer, n_steps)
        return_scratch(scratch)
        return job.finished, job.from_moments and job.moments.means != NULL

    cdef int run(self, Job* job, optimizer, Py_ssize_t n_steps) except -1:
        """The n_steps steps of a job, or some. Counts optimizer.n_steps, also when they are interrupted."""
        cdef object all_made = job.update.step + n_steps    # while there is memory for a number
        if job.update.nesterov and job.chains == NULL:
            job.walk.parameters = job.ahead
        try:
            if n_steps == 1 and job.n_examples <= self.brief:
                self.make_steps(job)
            else:
                with nogil:
                    self.make_steps(job)
            check(&job.air)
        finally:
            optimizer.n_steps = all_made if job.n_steps == n_steps else job.update.step + job.n_steps
        return 0

    cdef void make_steps(self, Job* job) noexcept nogil:
        if self.n_threads == 1:
            train_steps(job, 0, 1)
        else:
            with parallel(num_threads=self.n_threads):
                train_steps(job, omp_get_thread_num(), omp_get_num_threads())


# ---- optimizers --------------------------------------------------------------------------------------

def optimizer_step(optimizer, cnp.ndarray parameters not None, cnp.ndarray gradient not None):
    """One update of parameters, in place. Counts optimizer.n_steps."""
    cdef Update u
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters)
    cdef real* w = read_flat("parameters", parameters, n)
    cdef const real* g = read_flat("gradient", gradient, n)
    cdef object _held = read_update(&u, optimizer, parameters, n)
    with nogil:
        update(&u, w, g, 0, n)
    optimizer.n_steps = u.step + 1


include "functions.pxi"
