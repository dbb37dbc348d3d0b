/* The threads of one call: an OpenMP parallel region with a leader that publishes work in pieces.

   Thread 0, the caller, is the leader. It runs the call from beginning to end and publishes its work in stages; a stage is a
   number of independent pieces (blocks of a batch, tiles, columns of a product, parts of the parameters). The other threads
   are followers: they only claim and run pieces until the leader closes the team. So one thread decides what runs next and
   when the region ends; no thread can leave while another waits for it.

   The leader also claims pieces. It then waits for the pieces in progress, not for the threads: a thread without a piece
   delays nobody if the system has descheduled it. A waiting thread spins for some microseconds and then sleeps, so that
   others can use its processor.

   A stage costs the leader two cache-line transfers from other cores, as many as a barrier.

   Rejected: OpenMP's barriers. They spin for a whole time slice unless there are more threads than processors: with one
   other busy process a fit of mini-batches took 20 times as long. And a stop flag that one thread reads after a barrier may
   change before the next thread reads it. Our own thread pool: threadpoolctl, affinity masks and fork handlers control only
   OpenMP's. */
#ifndef FUSEGRAD_TEAM_H
#define FUSEGRAD_TEAM_H

#include <limits.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#include <sched.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

static inline double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
static inline double monotonic_seconds(void) { return seconds_of(CLOCK_MONOTONIC); }
/* The CPU time of this thread. A system call: 0.2 to 0.6 microseconds. */
static inline double processor_seconds(void) { return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

/* ---- flags ------------------------------------------------------------------------------------ */

static inline void raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
static inline int is_raised(int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
/* Tries to acquire the flag; returns whether this caller has acquired it. */
static inline int acquire_flag(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
static inline void set_flag(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_RELAXED); }
static inline void release_flag(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
/* Compare-and-swap: returns whether this caller has replaced `old` by `value`. */
static inline int compare_and_swap(int *place, int old, int value) {
    return __atomic_compare_exchange_n(place, &old, value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* ---- the team ---------------------------------------------------------------------------------- */

typedef struct Team Team;
typedef void (*Stage)(void *job, int thread, Py_ssize_t piece);
typedef void (*Lead)(void *job, Team *team);

struct Team {
    int n_threads; /* 1: the leader is alone */
    int most_threads; /* the most that the system and OpenMP provide */
    void *job;
    int use_cpu_time; /* the stages are long enough to read `processor_seconds` */
    int call_again; /* set by a leader that returns early, to be called again: see `run_team` */
    /* Written by the leader before it publishes a stage; read by threads that have claimed a piece. */
    Stage stage;
    Py_ssize_t n_pieces;
    uint64_t ticket; /* the number of the stage << 32 | pieces not yet claimed */
    int unfinished;  /* pieces of the stage that have not finished */
    int leader_asleep;
    int bell; /* futex word of the followers; incremented for each stage and at the end */
    int n_asleep;
    int closed;
    /* For the child of a fork in a signal handler, which has no other threads: the leader leaves the region by longjmp. */
    pid_t process;
    jmp_buf escape;
    unsigned mode; /* the leader's floating-point mode */
    double leader_seconds;    /* wall-clock seconds that `lead` took */
};

/* A typical wait for the last piece of a stage is shorter than SPIN_SECONDS. Sleeping and waking cost about 10 microseconds. */
#define SPIN_SECONDS 50e-6

static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps while *word == value, at most `seconds`; may return early. */
static inline void sleep_while(int *word, int value, double seconds) {
    struct timespec most = {0, (long)(1e9 * seconds)};
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &most, NULL, 0);
#else
    (void)most;
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) sched_yield();
#endif
}
static inline void wake_all(int *word) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

/* Spins while *word == value, at most SPIN_SECONDS; returns whether that time has passed. */
static inline int spin_while(int *word, int value) {
    double start = 0;
    for (int i = 0; __atomic_load_n(word, __ATOMIC_ACQUIRE) == value; i++) {
        cpu_pause();
        if (i % 64 == 63) {
            double now = monotonic_seconds();
            if (start == 0) start = now;
            if (now - start > SPIN_SECONDS) return 1;
        }
    }
    return 0;
}

/* Claims a piece and returns its number; -1 if none is left. */
static inline Py_ssize_t take_piece(Team *team) {
    uint64_t ticket = __atomic_load_n(&team->ticket, __ATOMIC_ACQUIRE);
    while ((uint32_t)ticket > 0)
        if (__atomic_compare_exchange_n(&team->ticket, &ticket, ticket - 1, 1, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE))
            return team->n_pieces - (Py_ssize_t)(uint32_t)ticket;
    return -1;
}

static inline void finish_piece(Team *team) {
    if (__atomic_sub_fetch(&team->unfinished, 1, __ATOMIC_SEQ_CST) == 0
        && __atomic_load_n(&team->leader_asleep, __ATOMIC_SEQ_CST))
        wake_all(&team->unfinished);
}

static inline void ring(Team *team) {
    __atomic_add_fetch(&team->bell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team->n_asleep, __ATOMIC_SEQ_CST)) wake_all(&team->bell);
}

/* Publishes a stage; n_pieces < 2^31, and the previous stage must be finished. */
static inline void hand_out(Team *team, Stage stage, Py_ssize_t n_pieces) {
    uint64_t number = (__atomic_load_n(&team->ticket, __ATOMIC_RELAXED) >> 32) + 1;
    team->stage = stage;
    team->n_pieces = n_pieces;
    __atomic_store_n(&team->unfinished, (int)n_pieces, __ATOMIC_RELAXED);
    __atomic_store_n(&team->ticket, number << 32 | (uint64_t)n_pieces, __ATOMIC_RELEASE);
    ring(team);
}

/* Waits for the pieces of other threads, at most `seconds`; returns whether all are finished. */
static inline int await_pieces(Team *team, double seconds) {
    int unfinished = __atomic_load_n(&team->unfinished, __ATOMIC_ACQUIRE);
    while (unfinished && !spin_while(&team->unfinished, unfinished))
        unfinished = __atomic_load_n(&team->unfinished, __ATOMIC_ACQUIRE);
    if (unfinished) {
        __atomic_store_n(&team->leader_asleep, 1, __ATOMIC_SEQ_CST);
        unfinished = __atomic_load_n(&team->unfinished, __ATOMIC_SEQ_CST);
        if (unfinished) sleep_while(&team->unfinished, unfinished, seconds);
        __atomic_store_n(&team->leader_asleep, 0, __ATOMIC_RELAXED);
        unfinished = __atomic_load_n(&team->unfinished, __ATOMIC_ACQUIRE);
    }
    return unfinished == 0;
}

#ifdef _OPENMP
static void follow(Team *team, int thread) {
    for (;;) {
        int bell = __atomic_load_n(&team->bell, __ATOMIC_ACQUIRE);
        for (Py_ssize_t piece; (piece = take_piece(team)) >= 0; finish_piece(team)) team->stage(team->job, thread, piece);
        if (__atomic_load_n(&team->closed, __ATOMIC_ACQUIRE)) return;
        if (spin_while(&team->bell, bell)) {
            __atomic_add_fetch(&team->n_asleep, 1, __ATOMIC_SEQ_CST);
            sleep_while(&team->bell, bell, 0.5);
            __atomic_sub_fetch(&team->n_asleep, 1, __ATOMIC_SEQ_CST);
        }
    }
}
#endif

/* ---- whether several threads are worthwhile ------------------------------------------------------- */

/* credit: the seconds that this thread's recent teams have saved, compared with the leader alone. If it falls below 0, because
   other processes use the processors, the leader runs alone for a pause, which doubles until threads are worthwhile again.
   A trial costs more than is measured: OpenMP's idle threads spin for some milliseconds after it. It starts with
   SMALL_CREDIT, so that a single late thread does not end it. */
#define MOST_CREDIT 0.005
#define SMALL_CREDIT 0.001
#define FIRST_PAUSE 0.05
#define LONGEST_PAUSE 1.0
static __thread double credit = MOST_CREDIT, pause_seconds = FIRST_PAUSE, alone_until = 0;

static inline int threads_pay(double now) { return now >= alone_until; }
static inline void try_threads(void) { alone_until = 0; }
static inline void record_gain(double gain, double now) {
    credit += gain;
    if (credit >= MOST_CREDIT) {
        credit = MOST_CREDIT;
        pause_seconds = FIRST_PAUSE;
    }
    if (credit < 0) {
        credit = SMALL_CREDIT;
        alone_until = now + pause_seconds;
        pause_seconds = 2 * pause_seconds < LONGEST_PAUSE ? 2 * pause_seconds : LONGEST_PAUSE;
    }
}

/* ---- floating-point mode ------------------------------------------------------------------------- */

/* Rounding and flushing of subnormal numbers: a pool thread has the mode it was created with; followers take the leader's. */
static inline unsigned read_mode(void) {
#if defined(__SSE__)
    return _mm_getcsr();
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
#else
    return 0;
#endif
}
static inline void set_mode(unsigned mode) {
#if defined(__SSE__)
    _mm_setcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#else
    (void)mode;
#endif
}

/* ---- the region ------------------------------------------------------------------------------------ */

static int pool_generation = 0; /* incremented when OpenMP's idle threads are released, at a fork */
static inline void change_pool(void) { __atomic_add_fetch(&pool_generation, 1, __ATOMIC_RELAXED); }

#ifdef _OPENMP
static void *wait_at_gate(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* The size of a thread's stack in OMP_STACKSIZE, or GOMP_STACKSIZE, as libgomp reads it: a number of KiB, or with a unit;
   0 if none is set. */
static size_t stack_size(void) {
    const char *text = getenv("OMP_STACKSIZE");
    char *end;
    if (text == NULL) text = getenv("GOMP_STACKSIZE");
    if (text == NULL) return 0;
    unsigned long long size = strtoull(text, &end, 10);
    while (*end == ' ') end++;
    int shift = *end == 'B' || *end == 'b' ? 0 : *end == 'M' || *end == 'm' ? 20 : *end == 'G' || *end == 'g' ? 30 : 10;
    return size > (SIZE_MAX >> shift) ? SIZE_MAX / 2 : (size_t)size << shift;
}

/* How many of n threads, including the caller, the system can start: OpenMP aborts the process if it cannot start one. They
   are started and joined as a test, if the previous region had fewer. */
static int startable_threads(int n) {
    static __thread int had = 1, generation = 0;
    enum { MOST = 1024 };
    pthread_t threads[MOST];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    int started = 0;
    if (n > MOST) n = MOST;
    if (n > had || generation != __atomic_load_n(&pool_generation, __ATOMIC_RELAXED)) {
        generation = __atomic_load_n(&pool_generation, __ATOMIC_RELAXED);
        pthread_attr_init(&attributes);
        if (stack_size() > 0) (void)pthread_attr_setstacksize(&attributes, stack_size()); /* unchanged if it is too small */
        pthread_mutex_lock(&gate);
        while (started < n - 1 && pthread_create(&threads[started], &attributes, wait_at_gate, &gate) == 0) started++;
        pthread_mutex_unlock(&gate);
        pthread_attr_destroy(&attributes);
        for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
        n = started + 1;
    }
    return had = n;
}
#endif

/* Runs lead(job, team) with up to n_threads threads. Returns -1 in the child of a fork by a signal handler during the call:
   it has no other threads, and the region cannot end. */
static int lead_team(Team *team, int n_threads, Lead lead, void *job) {
    team->n_threads = 1;
    team->job = job;
#ifdef _OPENMP
    if (n_threads > 1) n_threads = startable_threads(n_threads);
    if (n_threads > 1) {
        team->ticket = 0;
        team->unfinished = team->leader_asleep = team->bell = team->n_asleep = team->closed = 0;
        team->process = getpid();
        team->mode = read_mode();
        if (setjmp(team->escape)) return -1;
#pragma omp parallel num_threads(n_threads)
        {
            int thread = omp_get_thread_num();
            if (thread == 0) {
                double start = monotonic_seconds();
                team->n_threads = team->most_threads = omp_get_num_threads();
                lead(job, team);
                team->leader_seconds = monotonic_seconds() - start;
                __atomic_store_n(&team->closed, 1, __ATOMIC_RELEASE);
                ring(team);
            } else {
                unsigned own = read_mode();
                set_mode(team->mode);
                follow(team, thread);
                set_mode(own);
            }
        }
        return 0;
    }
#endif
    (void)n_threads;
    team->most_threads = 1;
    lead(job, team);
    return 0;
}

/* Whether this process was forked after the team started; 0 without followers, where a fork does no harm. */
static inline int is_forked(Team *team) { return team->n_threads > 1 && getpid() != team->process; }

/* Leaves the region, in the leader of a forked child; the skipped stack frames own nothing that needs cleanup. OpenMP takes
   later regions of that process for nested ones and gives them one thread. */
static inline void leave_region(Team *team) { longjmp(team->escape, 1); }

#endif
