"""The lock that allows one training of a network at a time; the state of locks after a fork."""

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef int n_forks = 0           # forks that led to this process: incremented in each child,
cdef unsigned long thread_after_fork = 0     # whose only thread was this one
cdef int forks_by_others = 0   # value of n_forks since which this thread has made all forks


@cython.final
cdef class TrainingLock:
    """A lock on the training of a network, `with lock:`, that never waits: if it is held, it raises a RuntimeError.

    A threading.Lock would take 80 ns longer: it reads the clock even if it need not wait. In the child of a fork, a lock is
    free if the thread that held it does not exist there.
    """
    cdef int held
    cdef int forks_seen                 # n_forks when it was acquired
    cdef unsigned long holding_thread       # identifier of the thread that holds it
    cdef int incomplete              # COMPLETE, EPOCH_INCOMPLETE, STEP_INCOMPLETE

    cdef bint acquire(self) noexcept:
        cdef int forks_seen = self.forks_seen
        if not acquire_flag(&self.held):
            if self.holder_exists(forks_seen):
                return False
            if not compare_and_swap(&self.forks_seen, forks_seen, n_forks):
                return False
            set_flag(&self.incomplete, COMPLETE)
        self.forks_seen = n_forks
        self.holding_thread = PyThread_get_thread_ident()
        return True

    cdef bint holder_exists(self, int forks_seen) noexcept:
        """Whether the thread that acquired the lock exists in this process: since then it has made all forks, if any. Its
        identifier alone does not tell: a new thread of a child may have the same one."""
        return forks_seen == n_forks or (forks_seen >= forks_by_others and self.holding_thread == thread_after_fork)

    cdef void release(self) noexcept:
        release_flag(&self.held)

    def __enter__(self):
        if not self.acquire():
            raise RuntimeError("this network is being trained already: one fit or train_step at a time")

    def __exit__(self, *exception):
        set_flag(&self.incomplete, COMPLETE)
        self.release()

    @property
    def is_held(self):
        """Whether a training runs in this process."""
        return is_raised(&self.held) and self.holder_exists(self.forks_seen)

    def set_incomplete(self, what):
        """Sets what is incomplete from here on: "nothing", "an epoch" or "a step"."""
        set_flag(&self.incomplete, ("nothing", "an epoch", "a step").index(what))

    def check_save(self, bint with_optimizer):
        """Raises a RuntimeError unless this thread finds network, optimizer and generator consistent."""
        if not self.is_held:
            return
        if self.holding_thread != PyThread_get_thread_ident():
            raise RuntimeError("another thread trains this network: save it from a callback of that fit")
        if is_raised(&self.incomplete) >= (EPOCH_INCOMPLETE if with_optimizer else STEP_INCOMPLETE):
            raise RuntimeError(
                "this epoch is not finished, and a fit resumed from here would end differently: "
                "set a flag in the signal handler, and save in a callback of the fit")


def after_fork_in_child():
    """To be called in the child of a fork, where the calling thread is the only one."""
    global n_forks, thread_after_fork, forks_by_others
    cdef unsigned long thread = PyThread_get_thread_ident()
    if thread != thread_after_fork:
        forks_by_others = n_forks
    thread_after_fork = thread
    n_forks += 1
    for lock in users_of_locks:
        lock._at_fork_reinit()
    users_of_locks.clear()


def before_fork():
    """To be called before a fork, which releases OpenMP's idle threads."""
    change_pool()
