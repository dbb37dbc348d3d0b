"""The random order of the examples of an epoch, drawn from a NumPy generator while its lock is held."""

cdef extern from "numpy/random/bitgen.h":
    # Not cimported: that would load np.random, 10 ms, whenever fusegrad is imported.
    ctypedef struct bitgen_t:
        void* state
        uint64_t (*next_uint64)(void* state) noexcept nogil
        uint32_t (*next_uint32)(void* state) noexcept nogil


cdef uint64_t below(bitgen_t* bits, uint64_t n) noexcept nogil:
    """A uniform integer in [0, n), without bias: Lemire's multiplication, from 2^32 on rejection and a remainder."""
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
    DRAW_WORK = 64              # multiply-adds that take as long as drawing one element of the order


cdef void shuffle(Py_ssize_t* order, Py_ssize_t n, bitgen_t* bits, PyObject* lock, Interrupt* interrupt) noexcept nogil:
    """The shuffle of Fisher and Yates ("inside-out"), which starts at the identity: the order depends on the generator alone.

    The generator's lock is held, but not while signal handlers run: they may draw, too. If one of them raises an exception, the
    order is incomplete.
    """
    cdef Py_ssize_t i, j
    if n == 0 or not acquire_lock(lock, interrupt):
        return
    order[0] = 0
    for i in range(1, n):
        if i % 4096 == 0:
            interrupt.work += 4096 * DRAW_WORK
            if interrupt.work > CHECK_WORK and is_due(interrupt, CHECK_SECONDS):
                release_lock(lock, interrupt)
                run_handlers(interrupt)
                if is_raised(&interrupt.stop) or not acquire_lock(lock, interrupt):
                    return
        j = <Py_ssize_t>below(bits, i + 1)
        order[i] = order[j]
        order[j] = i
    release_lock(lock, interrupt)


# A lock that is held while another thread forks would be held for ever in the child: `after_fork_in_child` renews these. It
# counts the threads that hold a lock or wait for it: a lock is acquired before its thread has the GIL again.
cdef dict users_of_locks = {}

ctypedef int (*LockCall)(object lock) noexcept      # an exception stays set


cdef int drop_user(object lock) except -1:
    cdef object left = users_of_locks.get(lock, 1) - 1
    if left:
        users_of_locks[lock] = left
    else:
        users_of_locks.pop(lock, None)
    return 0


cdef int acquire_held(object lock) except -1:
    users_of_locks[lock] = users_of_locks.get(lock, 0) + 1
    try:
        lock.acquire()
    except BaseException:
        drop_user(lock)
        raise
    return 0


cdef int release_held(object lock) except -1:
    drop_user(lock)
    lock.release()
    return 0


cdef bint acquire_lock(PyObject* lock, Interrupt* interrupt) noexcept nogil:
    """Acquires the lock of a generator, unless NULL. False if a signal handler raised an exception meanwhile."""
    if lock != NULL:
        with gil:
            if (<LockCall>acquire_held)(<object>lock) < 0:
                raise_flag(&interrupt.stop)
    return not is_raised(&interrupt.stop)


cdef void release_lock(PyObject* lock, Interrupt* interrupt) noexcept nogil:
    if lock != NULL:
        with gil:
            if (<LockCall>release_held)(<object>lock) < 0:
                raise_flag(&interrupt.stop)
