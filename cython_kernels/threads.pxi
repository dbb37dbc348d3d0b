"""What the threads of a call share: see team.h for how they work together; and interruption.

A long call runs without the GIL. Its leader, the caller's own thread, now and then takes it back to let Python's signal
handlers run. If one raises (Ctrl-C), a flag is raised for all threads, which then cut their pieces short; the leader
ends the call, and the exception stays set until then. In the middle of an epoch handlers run as late as the promise of
200 ms allows; between two epochs, where a handler may save what it sees, sooner.
"""

cdef extern from "team.h" nogil:
    ctypedef void (*Stage)(void* job, int thread, Py_ssize_t piece) noexcept nogil
    struct Team:
        int n_threads
        int most_threads
        void* job
        bint timed
        bint again
        double led
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
    void settle(double gain, double now)
    void change_pool()

    void raise_flag(int* flag)
    int is_raised(int* flag)
    bint acquire_flag(int* flag)
    void set_flag(int* flag, int value)
    void release_flag(int* flag)
    bint replace(int* place, int old, int value)
    double monotonic_seconds()
    double processor_seconds()

cdef extern from "Python.h":
    # Declared without `except`: the exception is to stay set while the parallel region ends.
    int check_signals "PyErr_CheckSignals"() noexcept
    void set_error "PyErr_SetString"(object kind, const char* message) noexcept
    bint error_is_set "PyErr_Occurred"() noexcept
    # Not through __setattr__ of the class, which takes 0.2 microseconds.
    int set_attribute "PyObject_GenericSetAttr"(object o, object name, object value) except -1

cdef enum:
    CHECK_WORK = 1 << 20          # multiply-adds between two looks at the clock, well under a millisecond
cdef double TIMED_WORK = 2e6    # of a stage from which on the leader's processor time is read,
cdef double LONG_WORK = 2e10    # and of one that is tried with threads even where they did not pay a moment ago
cdef double SLICE_SECONDS = 0.002   # a shorter stage that takes longer has lost its processor
cdef double CHECK_SECONDS = 0.1   # between two looks at the signals within a piece of work,
cdef double REST_SECONDS = 0.04     # and between two epochs

ctypedef int (*Report)(void* job) noexcept      # its exception stays set

# What a signal handler finds: parameters, state, count and generator that belong together; those in the middle of an
# epoch, where only the parameters are of use; and parameters in the middle of a step.
cdef enum:
    WHOLE
    HALF_EPOCH
    HALF_STEP

cdef struct Interrupt:
    int stop
    Py_ssize_t work             # since the last look at the clock
    double looked
    Team* team                  # whose leader looks; NULL: no team
    Report report               # brings Python's objects up to date before handlers run; NULL: there is nothing to report
    void* job

cdef Interrupt NO_INTERRUPT = Interrupt(0, 0, 0, NULL, NULL, NULL)        # of a call that has just begun


cdef inline bint check_interrupt(Interrupt* interrupt, int thread, Py_ssize_t work) noexcept nogil:
    """Whether to stop, after so many more multiply-adds."""
    if thread == 0:
        interrupt.work += work
        if interrupt.work > CHECK_WORK:
            interrupt.work = 0
            if is_due(interrupt, CHECK_SECONDS):
                run_handlers(interrupt)
    return is_raised(&interrupt.stop)


cdef inline bint is_due(Interrupt* interrupt, double seconds) noexcept nogil:
    """Whether so much time has passed since the handlers ran, or since this was first asked in a call."""
    cdef double now = monotonic_seconds()
    if interrupt.looked == 0:
        interrupt.looked = now
    return now - interrupt.looked > seconds


cdef void run_handlers(Interrupt* interrupt) noexcept nogil:
    """Lets Python's signal handlers run, in the leader."""
    cdef bint forked
    with gil:
        if (interrupt.report != NULL and interrupt.report(interrupt.job) < 0) or check_signals() < 0:
            raise_flag(&interrupt.stop)
        forked = interrupt.team != NULL and is_forked(interrupt.team)
        if forked:
            raise_flag(&interrupt.stop)
            if not error_is_set():
                set_error(RuntimeError, FORKED)
    interrupt.looked = monotonic_seconds()
    if forked:
        leave_region(interrupt.team)

cdef const char* FORKED = (
    "this process was forked by a signal handler while several threads computed, and has none of them: "
    "the call was ended; call again, or fork where nothing is computed")


cdef inline void run_stage(Team* team, Interrupt* interrupt, Stage stage, Py_ssize_t n_pieces) noexcept nogil:
    """All pieces of a stage, by the leader and whoever comes to help; to be called by the leader.

    Inlined, so that a leader alone calls a function that the compiler knows: 5 % of a small step.
    """
    cdef Py_ssize_t piece
    if team.n_threads == 1 or n_pieces == 1 or not share_stage(team, interrupt, stage, n_pieces):
        for piece in range(n_pieces):
            stage(team.job, 0, piece)


cdef bint share_stage(Team* team, Interrupt* interrupt, Stage stage, Py_ssize_t n_pieces) noexcept nogil:
    """The same with all threads; False, and nothing is done, where threads do not pay at the moment."""
    cdef Py_ssize_t piece, n_own = 0
    cdef double start = monotonic_seconds(), own, end
    if not threads_pay(start):
        return False
    own = processor_seconds() if team.timed else start
    hand_out(team, stage, n_pieces)
    piece = take_piece(team)
    while piece >= 0:
        stage(team.job, 0, piece)
        finish_piece(team)
        n_own += 1
        piece = take_piece(team)
    # Without the time when another process had its processor: alone it would most likely have kept it.
    if team.timed:
        own = processor_seconds() - own
    else:
        own = monotonic_seconds() - own
        if own > SLICE_SECONDS:
            own = 0
    while not await_pieces(team, CHECK_SECONDS):
        check_interrupt(interrupt, 0, CHECK_WORK + 1)
    end = monotonic_seconds()
    if n_own > 0:       # against what the leader would have taken for all pieces
        settle(own / n_own * n_pieces - (end - start), end)
    return True


cdef inline bint should_change(Team* team) noexcept nogil:
    """Whether threads pay where the leader is alone, or the other way round."""
    return team.most_threads > 1 and threads_pay(monotonic_seconds()) != (team.n_threads > 1)


cdef void run_team(Team* team, Interrupt* interrupt, int n_threads, double work, Lead lead, void* job) noexcept nogil:
    """Runs lead(job, team), a call with stages of so many multiply-adds, with up to n_threads threads. Then: `check`.

    A leader that sees that `should_change` may set team.again and return: then it is called again, with the number of
    threads that pays now.
    """
    cdef double start = 0, end
    if n_threads > 1 and work > LONG_WORK:
        try_threads()
    team.most_threads = n_threads
    while True:
        team.n_threads = 1
        team.job = job
        team.timed = work > TIMED_WORK
        team.again = False
        if team.most_threads > 1:
            start = monotonic_seconds()
        if team.most_threads > 1 and threads_pay(start):
            interrupt.team = team
            if lead_team(team, n_threads, lead, job) < 0:
                return
            if team.n_threads > 1:
                end = monotonic_seconds()
                settle(team.led - (end - start), end)   # what it took to begin and to end
            interrupt.team = NULL
        else:
            lead(job, team)
        if not team.again:
            return


cdef int check(Interrupt* interrupt) except -1:
    """After a call: passes on the exception that a signal handler raised in it."""
    return -1 if is_raised(&interrupt.stop) else 0
