# cython: freethreading_compatible=True
"""What the process and the processor offer: instruction sets, the OpenMP runtime, the compiler.

Compiled once, for the oldest processor. Nothing here touches a number.
"""

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #define HAS(feature) (__builtin_cpu_supports(feature) != 0)
    static int x86_64_level(void) {
        __builtin_cpu_init();
        if (!(HAS("ssse3") && HAS("sse4.1") && HAS("sse4.2") && HAS("popcnt"))) return 1;
        if (!(HAS("avx") && HAS("avx2") && HAS("bmi") && HAS("bmi2") && HAS("fma"))) return 2;
        if (!(HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl"))) return 3;
        return 4;
    }
    #else
    static int x86_64_level(void) { return 0; }
    #endif

    #ifdef _OPENMP
    #include <omp.h>
    #define FUSEGRAD_OPENMP _OPENMP
    #else
    #define FUSEGRAD_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    static int omp_get_num_procs(void) { return 1; }
    #endif
    /* OpenMP 5.0; GCC has the function from release 9 on, before it claims that version. */
    #if FUSEGRAD_OPENMP >= 201811 || (FUSEGRAD_OPENMP && !defined(__clang__) && __GNUC__ >= 9)
    static int release_openmp(void) { return omp_pause_resource_all(omp_pause_soft); }
    #else
    static int release_openmp(void) { return 0; }
    #endif

    /* Whether OMP_NUM_THREADS begins with a number of threads; the runtime ignores what does not. To ask os.environ takes
       a microsecond. */
    #include <stdlib.h>
    static int asks_for_threads(void) {
        const char *asked = getenv("OMP_NUM_THREADS");
        char *end;
        if (asked == NULL || strtol(asked, &end, 10) <= 0) return 0;
        while (*end == ' ') end++;
        return *end == 0 || *end == ',';
    }

    #ifdef __clang__
    #define FUSEGRAD_COMPILER "clang " __clang_version__
    #else
    #define FUSEGRAD_COMPILER "gcc " __VERSION__
    #endif
    """
    int _x86_64_level "x86_64_level"()
    int _FUSEGRAD_OPENMP "FUSEGRAD_OPENMP"
    int omp_get_max_threads()
    int omp_get_num_procs()
    int release_openmp()
    bint _asks_for_threads "asks_for_threads"()
    const char* _FUSEGRAD_COMPILER "FUSEGRAD_COMPILER"

COMPILER = _FUSEGRAD_COMPILER.decode()
OPENMP = _FUSEGRAD_OPENMP    # the date of the OpenMP version, e.g. 201511; 0: built without


def x86_64_level():
    """The x86-64 level (1 to 4) that the processor and its operating system run; 0 elsewhere."""
    return _x86_64_level()


def max_threads():
    """What OpenMP would take: OMP_NUM_THREADS, threadpoolctl's limit, or the processors at load time."""
    return omp_get_max_threads()


def asks_for_threads():
    """Whether OMP_NUM_THREADS asks for a number of threads."""
    return _asks_for_threads()


def processors():
    """How many processors OpenMP may use: those of the affinity, as it was before OpenMP itself bound this thread."""
    return omp_get_num_procs()


def release_threads():
    """Ends the pool of idle threads, so that a fork copies none of its locks."""
    release_openmp()
