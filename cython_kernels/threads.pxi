"""The threads of a call, as team.h runs them, and the interruption of a call by signals.

A long call runs without the GIL. Its leader, the calling thread, takes the GIL at intervals to run Python's signal handlers.
If one raises an exception (Ctrl-C), a stop flag is set, all threads cut their pieces short, the leader ends the call, and
the exception is raised there. Within an epoch handlers run as late as the promised 200 ms allow; between two epochs, when
a handler may save the network, they run sooner.
"""

cdef extern from "team.h" nogil:
    ctypedef void (*Stage)(void* job, int thread, Py_ssize_t piece) noexcept nogil
    struct Team:
        int n_threads
        int most_threads
        void* job
        bint use_cpu_time
        bint call_again
        double leader_seconds
    ctypedef void (*Lead)(void* job, Team* team) noexcept nogil

    int lead_team(Team* team, int n_threads, Lead lead, void* job)
    void hand_out(Team* team, Stage stage, Py_ssize_t n_pieces)
    Py_ssize_t take_piece(Team* team)
    void finish_piece(Team* team)
    bint await_pieces(Team* team, double seconds)
    bint is_forked(Team* team)
    void leave_region(Team* team)
    bint threads_pay(double now)
    void try_threads()
    void record_gain(double gain, double now)
    void change_pool()

    void raise_flag(int* flag)
    int is_raised(int* flag)
    bint acquire_flag(int* flag)
    void set_flag(int* flag, int value)
    void release_flag(int* flag)
    bint compare_and_swap(int* place, int old, int value)
    double monotonic_seconds()
    double processor_seconds()

cdef extern from "Python.h":
    # Declared without `except`: the exception must stay set until the parallel region has ended.
    int check_signals "PyErr_CheckSignals"() noexcept
    void set_error "PyErr_SetString"(object kind, const char* message) noexcept
    bint error_is_set "PyErr_Occurred"() noexcept
    # Bypasses __setattr__ of the class, which takes 0.2 microseconds.
    int set_attribute "PyObject_GenericSetAttr"(object o, object name, object value) except -1

cdef enum:
    CHECK_WORK = 1 << 20          # multiply-adds between two readings of the clock, well under a millisecond
cdef double TIMED_WORK = 2e6    # multiply-adds of a stage from which on the leader's CPU time is read
cdef double LONG_WORK = 2e10    # multiply-adds of a stage from which on threads are tried even during a pause
cdef double SLICE_SECONDS = 0.002   # a stage that is not timed and takes longer was descheduled
cdef double CHECK_SECONDS = 0.1   # between two runs of the signal handlers within an epoch,
cdef double EPOCH_HANDLER_SECONDS = 0.04     # and between two epochs

ctypedef int (*Report)(void* job) noexcept      # an exception stays set

# What a signal handler may save. COMPLETE: parameters, optimizer state, step count and generator are consistent.
# EPOCH_INCOMPLETE: only the parameters can be used. STEP_INCOMPLETE: the parameters are partly updated.
cdef enum:
    COMPLETE
    EPOCH_INCOMPLETE
    STEP_INCOMPLETE

cdef struct Interrupt:
    int stop
    Py_ssize_t work             # multiply-adds since the last reading of the clock
    double handlers_ran_at
    Team* team                  # whose leader runs the handlers; NULL: no team
    Report report               # brings Python's objects up to date before handlers run; NULL: there is nothing to report
    void* job

cdef Interrupt NO_INTERRUPT = Interrupt(0, 0, 0, NULL, NULL, NULL)        # of a call that has just begun


cdef inline bint check_interrupt(Interrupt* interrupt, int thread, Py_ssize_t work) noexcept nogil:
    """Whether to stop. Adds `work` multiply-adds to the leader's count, and lets it run the signal handlers when they are due."""
    if thread == 0:
        interrupt.work += work
        if interrupt.work > CHECK_WORK:
            interrupt.work = 0
            if is_due(interrupt, CHECK_SECONDS):
                run_handlers(interrupt)
    return is_raised(&interrupt.stop)


cdef inline bint is_due(Interrupt* interrupt, double seconds) noexcept nogil:
    """Whether `seconds` have passed since the handlers ran, or since the first question of a call."""
    cdef double now = monotonic_seconds()
    if interrupt.handlers_ran_at == 0:
        interrupt.handlers_ran_at = now
    return now - interrupt.handlers_ran_at > seconds


cdef void run_handlers(Interrupt* interrupt) noexcept nogil:
    """Runs Python's signal handlers, in the leader."""
    cdef bint forked
    with gil:
        if (interrupt.report != NULL and interrupt.report(interrupt.job) < 0) or check_signals() < 0:
            raise_flag(&interrupt.stop)
        forked = interrupt.team != NULL and is_forked(interrupt.team)
        if forked:
            raise_flag(&interrupt.stop)
            if not error_is_set():
                set_error(RuntimeError, FORKED)
    interrupt.handlers_ran_at = monotonic_seconds()
    if forked:
        leave_region(interrupt.team)

cdef const char* FORKED = (
    "this process was forked by a signal handler while several threads computed, and has none of them: "
    "the call was ended; call again, or fork while nothing is computed")


cdef inline void run_stage(Team* team, Interrupt* interrupt, Stage stage, Py_ssize_t n_pieces) noexcept nogil:
    """Runs all pieces of a stage, on the leader and any followers; called by the leader.

    Inlined, so that without followers the compiler sees which function is called: 5 % of a small step.
    """
    cdef Py_ssize_t piece
    if team.n_threads == 1 or n_pieces == 1 or not share_stage(team, interrupt, stage, n_pieces):
        for piece in range(n_pieces):
            stage(team.job, 0, piece)


cdef bint share_stage(Team* team, Interrupt* interrupt, Stage stage, Py_ssize_t n_pieces) noexcept nogil:
    """`run_stage` with all threads. Returns False, without running anything, if threads are not worthwhile now."""
    cdef Py_ssize_t piece, n_own = 0
    cdef double start = monotonic_seconds(), own, end
    if not threads_pay(start):
        return False
    own = processor_seconds() if team.use_cpu_time else start
    hand_out(team, stage, n_pieces)
    piece = take_piece(team)
    while piece >= 0:
        stage(team.job, 0, piece)
        finish_piece(team)
        n_own += 1
        piece = take_piece(team)
    # Without the time in which the leader was descheduled: without followers it would most likely not have been.
    if team.use_cpu_time:
        own = processor_seconds() - own
    else:
        own = monotonic_seconds() - own
        if own > SLICE_SECONDS:
            own = 0
    while not await_pieces(team, CHECK_SECONDS):
        check_interrupt(interrupt, 0, CHECK_WORK + 1)
    end = monotonic_seconds()
    if n_own > 0:       # compared with the leader's estimated time for all pieces
        record_gain(own / n_own * n_pieces - (end - start), end)
    return True


cdef inline bint should_change(Team* team) noexcept nogil:
    """Whether the call should change from one thread to several, or from several to one."""
    return team.most_threads > 1 and threads_pay(monotonic_seconds()) != (team.n_threads > 1)


cdef void run_team(Team* team, Interrupt* interrupt, int n_threads, double work, Lead lead, void* job) noexcept nogil:
    """Runs lead(job, team) with up to n_threads threads; `work`: multiply-adds of a stage. The caller then calls `check`.

    If `should_change`, the leader may set team.call_again and return: it is then called again, with the number of threads that
    is worthwhile now.
    """
    cdef double start = 0, end
    if n_threads > 1 and work > LONG_WORK:
        try_threads()
    team.most_threads = n_threads
    while True:
        team.n_threads = 1
        team.job = job
        team.use_cpu_time = work > TIMED_WORK
        team.call_again = False
        if team.most_threads > 1:
            start = monotonic_seconds()
        if team.most_threads > 1 and threads_pay(start):
            interrupt.team = team
            if lead_team(team, n_threads, lead, job) < 0:
                return
            if team.n_threads > 1:
                end = monotonic_seconds()
                record_gain(team.leader_seconds - (end - start), end)   # the time to start and end the region
            interrupt.team = NULL
        else:
            lead(job, team)
        if not team.call_again:
            return


cdef int check(Interrupt* interrupt) except -1:
    """To be called after a call: propagates the exception of a signal handler."""
    return -1 if is_raised(&interrupt.stop) else 0
