/* The threads of one call: an OpenMP region with a leader, and work that is handed out piece by piece.

   Thread 0, the caller, leads. It runs the call from beginning to end and hands out its work in stages; a stage is a
   number of independent pieces (blocks of a batch, tiles, columns of a product, parts of the parameters). The other
   threads follow: they take pieces, and do nothing else until the leader closes the team. So one thread alone decides
   what comes next and when to leave; no thread can leave while another waits for it.

   The leader takes pieces too, and then waits for those that somebody has begun, not for threads. A thread that the
   system does not run, since another process has its processor, delays nobody. Who waits spins for some microseconds
   and then sleeps, so that its processor is free for others.

   A stage costs the leader two cache lines that come from the other processors, as a barrier does.

   Rejected: OpenMP's barriers. They spin for a whole time slice if no more threads than processors are asked for: beside
   one busy process a fit of mini-batches took 20 times as long. And what a thread reads after a barrier in order to
   leave may change before the next thread reads it. A pool of threads of our own: OpenMP's is the one that threadpoolctl,
   affinities and forks know. */
#ifndef FUSEGRAD_TEAM_H
#define FUSEGRAD_TEAM_H

#include <limits.h>
#include <setjmp.h>
#include <stdint.h>
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
/* For which this thread has had a processor. A system call: 0.2 to 0.6 microseconds. */
static inline double processor_seconds(void) { return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

/* ---- flags ------------------------------------------------------------------------------------ */

static inline void raise_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
static inline int is_raised(int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
/* One caller has it at a time: whether it is this one. */
static inline int acquire_flag(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
static inline void set_flag(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_RELAXED); }
static inline void release_flag(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
/* Of several callers one is the first to replace a value. */
static inline int replace(int *place, int old, int value) {
    return __atomic_compare_exchange_n(place, &old, value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* ---- the team ---------------------------------------------------------------------------------- */

typedef struct Team Team;
typedef void (*Stage)(void *job, int thread, Py_ssize_t piece);
typedef void (*Lead)(void *job, Team *team);

struct Team {
    int n_threads; /* 1: the leader is alone */
    int most_threads; /* that the system and OpenMP give */
    void *job;
    int timed; /* whether its stages take long enough for `processor_seconds` */
    int again; /* the leader returned early, to be called again: see `run_team` */
    /* What the leader writes before it hands a stage out; who has taken a piece may read it. */
    Stage stage;
    Py_ssize_t n_pieces;
    uint64_t ticket; /* the number of the stage << 32 | pieces that nobody has taken */
    int unfinished;  /* pieces of the stage */
    int leader_asleep;
    int bell; /* changes with each stage and at the end */
    int n_asleep;
    int closed;
    /* Where the leader goes in a process forked by a signal handler, which has no other threads. */
    pid_t process;
    jmp_buf escape;
    unsigned mode; /* the leader's floating-point mode */
    double led;    /* seconds from the leader's first act to its last */
};

/* SPIN_SECONDS covers the wait for the last piece of a stage. Sleeping and waking cost about 10 microseconds. */
#define SPIN_SECONDS 50e-6

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps while *word is value, at most so long; may return early. */
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

/* Spins while *word is value; whether it still is after SPIN_SECONDS. */
static inline int spin_while(int *word, int value) {
    double start = 0;
    for (int i = 0; __atomic_load_n(word, __ATOMIC_ACQUIRE) == value; i++) {
        relax();
        if (i % 64 == 63) {
            double now = monotonic_seconds();
            if (start == 0) start = now;
            if (now - start > SPIN_SECONDS) return 1;
        }
    }
    return 0;
}

/* The number of a piece that nobody has taken; -1 if there is none. */
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

/* n_pieces < 2^31. The stage before it is finished. */
static inline void hand_out(Team *team, Stage stage, Py_ssize_t n_pieces) {
    uint64_t number = (__atomic_load_n(&team->ticket, __ATOMIC_RELAXED) >> 32) + 1;
    team->stage = stage;
    team->n_pieces = n_pieces;
    __atomic_store_n(&team->unfinished, (int)n_pieces, __ATOMIC_RELAXED);
    __atomic_store_n(&team->ticket, number << 32 | (uint64_t)n_pieces, __ATOMIC_RELEASE);
    ring(team);
}

/* Waits for the pieces of others, at most so long; whether all are finished. */
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

/* ---- whether threads pay ------------------------------------------------------------------------- */

/* What a thread's teams have gained lately over a leader alone, in seconds. Where that falls below zero, since others have
   the processors, the leader works alone for a while, twice as long each time until threads pay again. A try costs more
   than it shows: OpenMP's idle threads spin for some milliseconds after it. Threads are tried with a small credit, so that
   one late thread does not decide. */
#define MOST_CREDIT 0.005
#define SMALL_CREDIT 0.001
#define FIRST_PAUSE 0.05
#define LONGEST_PAUSE 1.0
static __thread double credit = MOST_CREDIT, pause_seconds = FIRST_PAUSE, alone_until = 0;

static inline int threads_pay(double now) { return now >= alone_until; }
static inline void try_threads(void) { alone_until = 0; }
static inline void settle(double gain, double now) {
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

/* Rounding, flushing of subnormal numbers: a thread of a pool has what was set when it was made. */
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

static int pool_generation = 0; /* changes where the pool of idle threads is given up, at a fork */
static inline void change_pool(void) { __atomic_add_fetch(&pool_generation, 1, __ATOMIC_RELAXED); }

#ifdef _OPENMP
static void *wait_at_gate(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* How many of n threads, the caller among them, the system lets this process have: OpenMP ends the process where it
   cannot start one. They are started and ended again, where the region before had fewer. */
static int startable_threads(int n) {
    static __thread int had = 1, generation = 0;
    enum { MOST = 1024 };
    pthread_t threads[MOST];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int started = 0;
    if (n > MOST) n = MOST;
    if (n > had || generation != __atomic_load_n(&pool_generation, __ATOMIC_RELAXED)) {
        generation = __atomic_load_n(&pool_generation, __ATOMIC_RELAXED);
        pthread_mutex_lock(&gate);
        while (started < n - 1 && pthread_create(&threads[started], NULL, wait_at_gate, &gate) == 0) started++;
        pthread_mutex_unlock(&gate);
        for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
        n = started + 1;
    }
    return had = n;
}
#endif

/* Runs lead(job, team) with up to n_threads threads. -1 in a process that a signal handler has forked meanwhile: there
   are no other threads in it, and the region cannot end. */
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
                team->led = monotonic_seconds() - start;
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

/* Whether this process has been forked since the team began; a leader alone does not mind. */
static inline int is_forked(Team *team) { return team->n_threads > 1 && getpid() != team->process; }

/* Out of the region, from the leader, in a forked process; the frames between hold nothing that needs an end. OpenMP
   takes what follows in that process for nested, and gives it one thread. */
static inline void leave_region(Team *team) { longjmp(team->escape, 1); }

#endif
