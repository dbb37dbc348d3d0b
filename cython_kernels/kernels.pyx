# cython: freethreading_compatible=True
"""The compiled module of one instruction set and one dtype: what Python may call.

Everything here takes arrays that `fusegrad._engine.validation` has judged, of this module's dtype and of shapes that
agree, and compares what it reads with the sizes planned for (doors.pxi); what is called `quick_` or `is_` judges for
itself. The algorithms are in the .pxi files beside this one; see README.md for the contract.
"""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
cimport numpy as cnp

import numpy as np

from vector cimport (
    COLUMN_BLOCK, DEEP_BLOCK, DEPTH_AHEAD, DEPTH_BLOCK, ESTIMATED, GREATEST, GREATEST_EXPONENT, GROUP, HALF_LANES,
    LANES, LANE_BLOCK, LANE_COLUMNS, LANE_ROWS, LIFT, LINE, NARROW_ROWS, PANEL, POWER_ORIGIN, ROWS, ROW_BLOCK, ROW_SUMS,
    SMALLEST_NORMAL, VECTORS, WIDE_VECTORS, Magnitudes, Places, add_columns, afresh, any_beyond, at_least, at_most,
    copy_columns, even_lanes, exchange, first_lane, first_lanes, from_half, fused, greatest, interleave_high,
    interleave_low, load, load_anywhere, load_first, load_half, magnitude, multiply_add, multiply_add_double,
    multiply_add_half, no_magnitudes, odd_lanes, places_of, power_of_two, prefetch, quotient, real, reflected, splat,
    splat_group, splat_half, spread_groups, square_root, store, store_anywhere, store_first, take_lanes,
    times_complement, times_power, unless_tiny, vhalf, vreal, where_positive, with_sign_of,
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

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    unsigned long PyThread_get_thread_ident()

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


# ---- one training at a time ---------------------------------------------------------------------------

cdef int n_births = 0           # of this process: it rises in each child of a fork,
cdef unsigned long survivor = 0     # whose only thread this is


@cython.final
cdef class TrainingLock:
    """The right to train a network: `with lock:` for one at a time. Others are refused, they do not wait.

    In place of a threading.Lock, which takes 80 ns longer: it asks the clock even where nobody is to wait. In the child
    of a fork, the lock of a thread that is not there is free.
    """
    cdef int held
    cdef int births                 # of the process when it was acquired
    cdef unsigned long holder       # thread
    cdef int half_made              # WHOLE, HALF_EPOCH, HALF_STEP

    cdef bint acquire(self) noexcept:
        cdef int births = self.births
        if not acquire_flag(&self.held):
            if births == n_births or self.holder == survivor or not replace(&self.births, births, n_births):
                return False
            set_flag(&self.half_made, WHOLE)
        self.births = n_births
        self.holder = PyThread_get_thread_ident()
        return True

    cdef void release(self) noexcept:
        release_flag(&self.held)

    def __enter__(self):
        if not self.acquire():
            raise RuntimeError("this network is being trained already: one fit or train_step at a time")

    def __exit__(self, *exception):
        set_flag(&self.half_made, WHOLE)
        self.release()

    @property
    def is_held(self):
        """Whether somebody trains, in this process."""
        return is_raised(&self.held) and (self.births == n_births or self.holder == survivor)

    def set_half_made(self, what):
        """Says what is half made from here on: "nothing", "an epoch" or "a step"."""
        set_flag(&self.half_made, ("nothing", "an epoch", "a step").index(what))

    def check_save(self, bint with_optimizer):
        """Raises unless network, optimizer and generator belong together, as seen by this thread."""
        if not self.is_held:
            return
        if self.holder != PyThread_get_thread_ident():
            raise RuntimeError("another thread trains this network: save it from a callback of that fit")
        if is_raised(&self.half_made) >= (HALF_EPOCH if with_optimizer else HALF_STEP):
            raise RuntimeError(
                "this epoch is half made, and a fit that goes on from here would not end as this one does: "
                "set a flag in the signal handler, and save in a callback of the fit")


def note_birth():
    """To be called in the child of a fork: no thread but this one is there."""
    global n_births, survivor
    n_births += 1
    survivor = PyThread_get_thread_ident()
    for lock in held_locks:
        lock._at_fork_reinit()
    held_locks.clear()


def note_fork():
    """To be called before a fork, which gives up the pool of idle threads."""
    change_pool()


# ---- the engine --------------------------------------------------------------------------------------

@cython.final
cdef class Engine:
    """A plan made ready to run: see fusegrad._engine.plan.Plan, whose fields it takes over.

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
    cdef double work                # multiply-adds of a step for each example
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
        self.work = 3 * <double>plan.n_walked
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
        cdef cnp.npy_intp shape[2]
        if out is None:
            shape[0] = self.n_outputs
            shape[1] = job.n_examples
            out = cnp.PyArray_SimpleNew(2, shape, REAL_TYPE)
        read_matrix("out", out, self.n_outputs, job.n_examples, &job.out)
        self.run(&job, predict, job.n_examples, job.n_examples)
        check(&job.air)
        return_scratch(scratch)
        return out

    def gradient(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None,
        cnp.ndarray gradient=None, cnp.ndarray input_gradient=None, cnp.ndarray outputs=None,
    ):
        """The loss; gradient (n_parameters,) and with it input_gradient (n_features, m) are filled, unless None.

        With outputs, f(W X + b) of a single layer, y is the gradient on them and the loss is 0.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, -1)
        if job.n_examples > self.blank.batch:       # an epoch's last batch has fewer
            raise unexpected("X", f"at most {self.blank.batch} examples", X)
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
        self.run(&job, differentiate, job.n_examples, job.n_examples)
        check(&job.air)
        return_scratch(scratch)
        return mean_loss(&job)

    cdef void run(self, Job* job, Lead lead, Py_ssize_t n_examples, Py_ssize_t n_together) noexcept:
        """Runs a call over n_examples in all, n_together at a time; a short one keeps the GIL."""
        cdef Team team
        if n_examples <= self.brief:
            run_team(&team, &job.air, 1, 0, lead, job)
        else:
            with nogil:
                run_team(&team, &job.air, self.n_threads, self.work * n_together, lead, job)

    def quick_step(self, X, y, cnp.ndarray parameters not None, optimizer, compiled_step, TrainingLock lock not None):
        """`step` under the network's lock; None, and nothing is done, unless the optimizer serves this network and its
        step is the one that is compiled here, X and y are a batch of this engine's size that can be taken as it is, and
        the lock is free.

        To find that out from Python takes 0.25 microseconds longer, as long as three steps of the smallest network.
        """
        if not (
            getattr(type(optimizer), "step", None) is compiled_step
            and getattr(optimizer, "_direct_for", None) is lock
            and is_batch(X, y, parameters, self.n_features, self.n_outputs)
            and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == self.blank.batch
            and lock.acquire()
        ):
            return None
        try:
            return self.step(X, y, parameters, optimizer)
        finally:
            lock.release()

    cpdef step(self, cnp.ndarray X, cnp.ndarray y, cnp.ndarray parameters, optimizer):
        """One step over all of X and y; returns the loss before the update, of which there is none if it is not finite."""
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, self.blank.batch)
        cdef double loss = 0
        # First: an optimizer of one's own may do anything when it is read.
        read_matrix("y", y, self.n_outputs, job.n_examples, &job.walk.y)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters, False)
        job.losses = &loss
        job.n_epochs = 1
        self.make_steps(&job, optimizer, 1)
        return_scratch(scratch)
        return INFINITY if job.immoderate else loss

    def train(
        self, cnp.ndarray X not None, cnp.ndarray y not None, cnp.ndarray parameters not None, optimizer,
        TrainingLock lock not None, double[::1] losses, const double[::1] rates=None, bit_generator=None,
        bint private=False, moments=None,
    ):
        """len(losses) epochs of mini-batches, a learning rate a step, shuffled if there is a generator.

        With moments, of all examples, a network that is walked as one linear layer is trained from them, but for
        the steps whose loss would have too few digits. private: nobody else has the generator, and its lock is left
        alone. Returns how many epochs were finished, whether all their steps were taken from moments, and why they are
        fewer than asked for: the "loss" or the "gradient" of a step was not finite. That step is not made, and its loss
        stands in place of its epoch's.
        """
        cdef Job job
        cdef _Scratch scratch = self.begin(&job, X, parameters, -1)
        cdef Py_ssize_t[::1] order
        cdef const double[::1] means
        cdef const double[:, ::1] products
        cdef double[::1] work
        cdef object generator_lock
        cdef Py_ssize_t n_steps
        read_matrix("y", y, self.n_outputs, job.n_examples, &job.walk.y)
        cdef object _held = read_update(&job.update, optimizer, parameters, job.n_parameters, False)
        job.losses = &losses[0]
        job.n_epochs = losses.shape[0]
        job.from_moments = moments is not None
        n_steps = job.n_epochs * parts(job.n_examples, job.batch)
        if rates is not None:
            job.rates = &rates[0]
        if moments is not None:
            means, products, work = moments.means, moments.products, np.empty(self.blank.walk.layers[0].n_in)
            job.moments = Moments(means.shape[0], &means[0], &products[0, 0], &work[0])
        if bit_generator is not None:
            order = np.empty(job.n_examples, dtype=np.intp)
            job.order = &order[0]
            job.walk.order = job.order
            job.bits = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
            if not private:
                generator_lock = bit_generator.lock
                job.generator_lock = <PyObject*>generator_lock
        if n_steps > job.n_epochs or job.order != NULL:
            job.half_made = &lock.half_made
        job.optimizer = <PyObject*>optimizer
        job.air.report = <Report>report_steps
        job.air.job = &job
        self.make_steps(&job, optimizer, n_steps)
        return_scratch(scratch)
        return job.finished, job.from_moments, "gradient" if job.immoderate else "loss"

    cdef int make_steps(self, Job* job, optimizer, Py_ssize_t n_steps) except -1:
        """The n_steps steps of a job, or some. Counts optimizer.n_steps, also when they are interrupted."""
        cdef object all_made = job.update.step + n_steps    # while there is memory for a number
        cdef Py_ssize_t count = smaller(job.batch, job.n_examples)
        if job.update.nesterov and job.chains == NULL:
            job.walk.parameters = job.ahead
        if job.half_made != NULL:
            set_flag(job.half_made, HALF_EPOCH)
        try:
            self.run(job, train_steps, n_steps * count, count)
            check(&job.air)
        finally:
            if job.half_made != NULL:
                set_flag(job.half_made, WHOLE if job.finished == job.n_epochs else HALF_EPOCH)
            count_steps(optimizer, &job.update, all_made if job.n_steps == n_steps else job.update.step)
        return 0


# ---- optimizers --------------------------------------------------------------------------------------

def optimizer_step(optimizer, cnp.ndarray parameters not None, cnp.ndarray gradient not None):
    """One update of parameters, in place. Counts optimizer.n_steps."""
    cdef Update u
    cdef bint moderate
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters)
    cdef real* w = read_flat("parameters", parameters, n)
    cdef const real* g = read_flat("gradient", gradient, n)
    cdef object _held = read_update(&u, optimizer, parameters, n, True)
    with nogil:
        moderate = all_within(u.moderate, g, 0, n) or change_units(&u, g, n)
        if moderate:
            begin_update(&u)
            update(&u, w, g, 0, n)
    if not moderate:
        raise ValueError("gradient: expected finite numbers, got others; parameters and state are as before")
    count_steps(optimizer, &u, u.step + 1)


def look_ahead_point(cnp.ndarray parameters not None, cnp.ndarray velocity not None, double momentum):
    """W + mu v, a new array: where Nesterov's rule takes the gradient."""
    cdef Update u
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters)
    cdef cnp.ndarray point = np.empty(n, parameters.dtype)
    u.first = read_flat("velocity", velocity, n)
    u.decay = momentum
    look_ahead(&u, read_flat("parameters", parameters, n), read_flat("point", point, n), n)
    return point


include "functions.pxi"
