"""What the threads of a call share: barriers, and coming up for air.

A long call runs without the GIL. Its thread 0, the caller's own, now and then takes it back to let Python's signal
handlers run. If one raises (Ctrl-C), a flag is raised for all threads, and the exception stays set until
the region has ended.
"""

cdef extern from * nogil:
    """
    #include <sched.h>
    #ifdef _OPENMP
    #include <omp.h>
    #define FUSEGRAD_BARRIER _Pragma("omp barrier")
    #else
    #define FUSEGRAD_BARRIER
    static inline int omp_get_thread_num(void) { return 0; }
    static inline int omp_get_num_threads(void) { return 1; }
    #endif
    /* Every thread of the region must come here. */
    static inline void wait_for_all(int n_threads) { if (n_threads > 1) { FUSEGRAD_BARRIER } }
    static inline void raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
    static inline int is_raised(int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
    /* 0, 1, 2 ... each to one thread; and how many there have been. */
    static inline Py_ssize_t take_number(Py_ssize_t *taken) { return __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED); }
    static inline Py_ssize_t numbers_taken(Py_ssize_t *taken) { return __atomic_load_n(taken, __ATOMIC_RELAXED); }
    /* One caller has it at a time: whether it is this one. */
    static inline int take_flag(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static inline void give_flag(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    """
    int omp_get_thread_num()
    int omp_get_num_threads()   # in a region; the runtime may give fewer than were asked for
    void wait_for_all(int n_threads)
    void raise_flag(int* flag)
    bint is_raised(int* flag)
    Py_ssize_t take_number(Py_ssize_t* taken)
    Py_ssize_t numbers_taken(Py_ssize_t* taken)
    int sched_yield()
    bint take_flag(int* flag)
    void give_flag(int* flag)

cdef extern from "Python.h":
    # Declared without `except`: the exception is to stay set while the parallel region ends.
    int check_signals "PyErr_CheckSignals"() noexcept

cdef enum:
    AIR_WORK = 1 << 20          # multiply-adds between two looks at the clock, well under a millisecond
cdef double AIR_SECONDS = 0.05  # between two looks at the signals

cdef struct Air:
    int stop
    Py_ssize_t work             # since the last look at the clock
    double looked


cdef inline bint interrupted(Air* air, int thread, Py_ssize_t work) noexcept nogil:
    """Whether to stop, after so many more multiply-adds."""
    if thread == 0:
        air.work += work
        if air.work > AIR_WORK:
            air.work = 0
            if monotonic_seconds() - air.looked > AIR_SECONDS:
                with gil:
                    if check_signals() < 0:
                        raise_flag(&air.stop)
                air.looked = monotonic_seconds()
    return is_raised(&air.stop)


cdef inline void await_others(Py_ssize_t* n_done, Py_ssize_t n, Air* air, int thread) noexcept nogil:
    """Thread 0 does not leave the others alone with the last of n pieces: at a barrier it would not look at the signals."""
    if thread == 0:
        while numbers_taken(n_done) < n and not interrupted(air, thread, AIR_WORK + 1):
            sched_yield()


cdef int check(Air* air) except -1:
    """After a region: passes on the exception that a signal handler raised in it."""
    return -1 if is_raised(&air.stop) else 0
