/* What this processor can do at most, for one core: multiply-adds, reading from the L2, reading from memory.
   Compiled for the machine it runs on, when the benchmarks run; returns seconds. */
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float kept;
static volatile float factor = 0.999f, summand = 1e-3f; /* known, they would make 1 x + y = 1, which GCC leaves out */

#define SUMS 12 /* independent vectors: enough to hide the latency of each */

#define MULTIPLY_ADD(name, real, bytes)                                                \
    double name(long count) {                                                          \
        typedef real vector __attribute__((vector_size(bytes)));                       \
        vector sums[SUMS], total = {0}, x = total + (real)factor, y = total + (real)summand; \
        for (int i = 0; i < SUMS; i++) sums[i] = total + (real)i;                      \
        double start = now();                                                          \
        for (long k = 0; k < count; k++)                                               \
            for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * x + y;                  \
        double seconds = now() - start;                                                \
        for (int i = 0; i < SUMS; i++) total += sums[i];                               \
        kept = (float)total[0];                                                        \
        return seconds / ((double)count * SUMS * 2 * (bytes / sizeof(real)));          \
    }

/* Seconds a flop, with the widest vectors and with those of AVX2. */
MULTIPLY_ADD(multiply_add_float32, float, 64)
MULTIPLY_ADD(multiply_add_float64, double, 64)
MULTIPLY_ADD(multiply_add_float32_v3, float, 32)
MULTIPLY_ADD(multiply_add_float64_v3, double, 32)

/* Seconds a byte, reading `bytes` of memory `count` times. */
double reading(const char *memory, long bytes, long count) {
    typedef int64_t vector __attribute__((vector_size(64)));
    vector a = {0}, b = {0}, c = {0}, d = {0};
    double start = now();
    for (long k = 0; k < count; k++) {
        for (long i = 0; i + 256 <= bytes; i += 256) {
            const vector *v = (const vector *)(memory + i);
            a ^= v[0], b ^= v[1], c ^= v[2], d ^= v[3];
        }
        __asm__ volatile("" : "+m"(*(char *)memory));
    }
    double seconds = now() - start;
    a ^= b ^ c ^ d;
    kept = (float)a[0];
    return seconds / ((double)bytes * (double)count);
}
