# cython: freethreading_compatible=True
"""Queries of the processor, the OpenMP runtime, the compiler and of addresses.

Compiled once, for the oldest supported processor. Contains no numerical code.
"""

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #define HAS(feature) (__builtin_cpu_supports(feature) != 0)
    #if defined(__clang__)      /* does not know these names; processors with AVX2 have all three */
    #define HAS_REST 1
    #else
    #define HAS_REST (HAS("f16c") && HAS("lzcnt") && HAS("movbe"))
    #endif
    static int x86_64_level(void) {
        __builtin_cpu_init();
        if (!(HAS("ssse3") && HAS("sse4.1") && HAS("sse4.2") && HAS("popcnt"))) return 1;
        if (!(HAS("avx") && HAS("avx2") && HAS("bmi") && HAS("bmi2") && HAS("fma") && HAS_REST)) return 2;
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
    /* omp_pause_resource_all is OpenMP 5.0; GCC has it since release 9, while _OPENMP still names an older version. */
    #if FUSEGRAD_OPENMP >= 201811 || (FUSEGRAD_OPENMP && !defined(__clang__) && __GNUC__ >= 9)
    static int release_openmp(void) { return omp_pause_resource_all(omp_pause_soft); }
    #else
    static int release_openmp(void) { return 0; }
    #endif

    /* Whether OMP_NUM_THREADS begins with a positive number; the OpenMP runtime ignores other values. Reading os.environ
       would take a microsecond. */
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
    """The x86-64 level (1 to 4) that the processor and the operating system support; 0 on other architectures."""
    return _x86_64_level()


def max_threads():
    """The number of threads OpenMP would use: OMP_NUM_THREADS, threadpoolctl's limit, or the processors at load time."""
    return omp_get_max_threads()


def asks_for_threads():
    """Whether OMP_NUM_THREADS asks for a number of threads."""
    return _asks_for_threads()


def processors():
    """The number of processors in the affinity mask, as it was before OpenMP bound this thread."""
    return omp_get_num_procs()


def release_threads():
    """Ends OpenMP's idle threads before a fork, so that the child inherits none of their locks."""
    release_openmp()


def bytes_before_line(const unsigned char[::1] memory, Py_ssize_t line):
    """How many bytes of `memory` lie before its first cache line; line: its size, a power of two."""
    return -<Py_ssize_t>&memory[0] & (line - 1) if memory.shape[0] else 0
