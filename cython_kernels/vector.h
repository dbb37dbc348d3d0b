/* The vector type of one instruction set and one dtype, and the operations that GCC's vector operators (+ - * /)
   do not provide. Algorithms are written in Cython.

   The build sets FUSEGRAD_REAL to 32 or 64 and -march to one x86-64 level; nothing else differs between the compiled
   modules. Other processors use the 16-byte branch. */
#ifndef FUSEGRAD_VECTOR_H
#define FUSEGRAD_VECTOR_H

#include <stdint.h>
#include <string.h>
#include <math.h>

/* ---- types ------------------------------------------------------------------------------- */

#if FUSEGRAD_REAL == 32
typedef float real;
typedef int32_t bits;
typedef uint32_t unsigned_bits;
#elif FUSEGRAD_REAL == 64
typedef double real;
typedef int64_t bits;
typedef uint64_t unsigned_bits;
#else
#error "FUSEGRAD_REAL must be 32 or 64"
#endif

#include "blocks.h"

typedef real vreal __attribute__((vector_size(VECTOR_BYTES)));
typedef bits vbits __attribute__((vector_size(VECTOR_BYTES)));
typedef unsigned_bits vunsigned __attribute__((vector_size(VECTOR_BYTES)));
typedef real vreal_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef real real_unaligned __attribute__((aligned(1), may_alias));

/* `cdef inline` means always_inline in these kernels: the accumulators of a micro-tile stay in registers only if it is
   inlined with constant sizes. A function that should not be inlined is declared with `cdef` alone. */
#undef CYTHON_INLINE
#define CYTHON_INLINE inline __attribute__((always_inline))

#define FUSEGRAD_INLINE static inline __attribute__((always_inline, unused))

/* The processor's own instruction for one vector, e.g. NATIVE(sqrt) = _mm512_sqrt_ps. */
#if defined(__AVX512F__)
#define NATIVE_(op, suffix) _mm512_##op##_##suffix
#elif defined(__AVX2__)
#define NATIVE_(op, suffix) _mm256_##op##_##suffix
#elif defined(__SSE4_2__)
#define NATIVE_(op, suffix) _mm_##op##_##suffix
#endif
#if FUSEGRAD_REAL == 32
#define NATIVE(op) NATIVE_(op, ps)
#else
#define NATIVE(op) NATIVE_(op, pd)
#endif

#if VECTOR_BYTES == 64 && FUSEGRAD_REAL == 32
#define LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define LANE_NUMBERS 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif VECTOR_BYTES / (FUSEGRAD_REAL / 8) == 8
#define LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#define LANE_NUMBERS 0, 1, 2, 3, 4, 5, 6, 7
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#elif VECTOR_BYTES / (FUSEGRAD_REAL / 8) == 4
#define LOW_HALVES 0, 4, 1, 5
#define HIGH_HALVES 2, 6, 3, 7
#define LANE_NUMBERS 0, 1, 2, 3
#define EVEN_LANES 0, 2, 4, 6
#define ODD_LANES 1, 3, 5, 7
#else
#define LOW_HALVES 0, 2
#define HIGH_HALVES 1, 3
#define LANE_NUMBERS 0, 1
#define EVEN_LANES 0, 2
#define ODD_LANES 1, 3
#endif

#if COLUMN_BYTES == 32 && FUSEGRAD_REAL == 32
#define LOW_PARTS 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH_PARTS 2, 10, 3, 11, 6, 14, 7, 15
#elif COLUMN_BYTES == 32
#define LOW_PARTS 0, 4, 2, 6
#define HIGH_PARTS 1, 5, 3, 7
#elif FUSEGRAD_REAL == 32
#define LOW_PARTS 0, 4, 1, 5
#define HIGH_PARTS 2, 6, 3, 7
#else
#define LOW_PARTS 0, 2
#define HIGH_PARTS 1, 3
#endif

/* All bits set in the first n lanes; n may be any size, also negative. */
FUSEGRAD_INLINE vbits lanes_below(Py_ssize_t n) {
    const vbits number = {LANE_NUMBERS};
    const vbits none = {0};
    return number < none + (bits)(n < LANES ? n : LANES);
}

/* ---- sizes as constants --------------------------------------------------------------------- */

/* Calls f(n, ...) for a variable n, 1 <= n <= most, as one case per n in which f is inlined for the constant n, so that its
   n accumulators stay in registers. most is a constant, at most 12. Cython declares the macro once per type of f. */
#define AS_CONSTANT_CASE(k, n, most, f, ...) if ((most) >= k && ((n) == k || (most) == k)) f(k, __VA_ARGS__); else
#define AS_CONSTANT(most, f, n, ...) \
    do { \
        AS_CONSTANT_CASE(1, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(2, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(3, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(4, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(5, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(6, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(7, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(8, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(9, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(10, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(11, n, most, f, __VA_ARGS__) \
        AS_CONSTANT_CASE(12, n, most, f, __VA_ARGS__); \
    } while (0)

/* The same for an activation, of n_activations numbered from 0. */
#define AS_ACTIVATION(n_activations, f, activation, ...) \
    do { \
        if ((activation) == 0) f(0, __VA_ARGS__); else AS_CONSTANT((n_activations) - 1, f, activation, __VA_ARGS__); \
    } while (0)

/* ---- memory ------------------------------------------------------------------------------ */

/* The empty asm statement keeps the loaded vector in a register. Without it GCC folds the load of B into each
   multiply-add of an AVX2 micro-tile as a memory operand: 18 loads for 12 FMAs, half the speed. */
FUSEGRAD_INLINE vreal load(const real *p) {
    vreal v = *(const vreal_unaligned *)p;
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#endif
    return v;
}

FUSEGRAD_INLINE void store(real *p, vreal v) { *(vreal_unaligned *)p = v; }

FUSEGRAD_INLINE vreal splat(real x) {
    vreal zero = {0};
    return x - zero; /* x - 0 is x, -0 and NaN included */
}

/* The n values at p, repeated to fill a vector; n is a constant power of two, 2 <= n < LANES. */
FUSEGRAD_INLINE vreal splat_group(const real *p, int n) {
#if defined(__AVX512F__)
    if (n * sizeof(real) == 32) return (vreal)_mm512_broadcast_f64x4(_mm256_loadu_pd((const double *)p));
    if (n * sizeof(real) == 16) return (vreal)_mm512_broadcast_f32x4(_mm_loadu_ps((const float *)p));
#elif defined(__AVX2__)
    if (n * sizeof(real) == 16) return (vreal)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
#endif
    typedef int64_t pair_unaligned __attribute__((aligned(1), may_alias));
    typedef int64_t pairs __attribute__((vector_size(VECTOR_BYTES)));
    const pairs none = {0};
    return (vreal)(none + *(const pair_unaligned *)p);
}

/* Loads n values from any address into the first n lanes and 0 into the others. Memory past them is not accessed. */
FUSEGRAD_INLINE vreal load_first(const real *p, Py_ssize_t n) {
    if (__builtin_constant_p(n) && n == LANES) return *(const vreal_unaligned *)p;
    if (__builtin_constant_p(n) && n == 1) {
        vreal one = {0};
        one[0] = *p;
        return one;
    }
#if defined(__AVX512F__)
    return (vreal)NATIVE(maskz_loadu)(((unsigned)1 << n) - 1, p);
#elif defined(__AVX2__)
    return (vreal)NATIVE(maskload)(p, (__m256i)lanes_below(n));
#else
    vreal v = {0};
    for (Py_ssize_t i = 0; i < n; i++) v[i] = ((const real_unaligned *)p)[i];
    return v;
#endif
}

FUSEGRAD_INLINE void store_first(real *p, vreal v, Py_ssize_t n) {
    if (__builtin_constant_p(n) && n == LANES) {
        *(vreal_unaligned *)p = v;
        return;
    }
    if (__builtin_constant_p(n) && n == 1) {
        *p = v[0];
        return;
    }
#if defined(__AVX512F__)
    NATIVE(mask_storeu)(p, ((unsigned)1 << n) - 1, v);
#elif defined(__AVX2__)
    if (n == LANES / 2) /* no mask: masked stores are slow on AMD */
        __builtin_memcpy(p, &v, VECTOR_BYTES / 2);
    else
        NATIVE(maskstore)(p, (__m256i)lanes_below(n), v);
#else
    for (Py_ssize_t i = 0; i < n; i++) ((real_unaligned *)p)[i] = v[i];
#endif
}

/* A vector of half the width, for the edges of products: on Zen 4 it takes one pass, a 512-bit vector takes two. */
typedef real vhalf __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef real vhalf_unaligned __attribute__((vector_size(VECTOR_BYTES / 2), aligned(1), may_alias));
FUSEGRAD_INLINE vhalf load_half(const real *p) { return *(const vhalf_unaligned *)p; }
FUSEGRAD_INLINE vhalf splat_half(real x) {
    vhalf zero = {0};
    return x - zero;
}
/* A full vector; its upper half is undefined. */
FUSEGRAD_INLINE vreal from_half(vhalf half) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vreal)_mm512_castps256_ps512((__m256)half);
#elif defined(__AVX512F__)
    return (vreal)_mm512_castpd256_pd512((__m256d)half);
#else
    vreal v = {0};
    __builtin_memcpy(&v, &half, sizeof half);
    return v;
#endif
}

/* A column of COLUMN rows of a row-major matrix, for a few examples: 32 bytes, or the vector where that is shorter. */
typedef real vcolumn __attribute__((vector_size(COLUMN_BYTES)));
typedef real vcolumn_unaligned __attribute__((vector_size(COLUMN_BYTES), aligned(1), may_alias));
/* In a register, as `load`: as a memory operand of each of two multiply-adds it is read twice, 1.4 times the time. */
FUSEGRAD_INLINE vcolumn load_column(const real *p) {
    vcolumn v = *(const vcolumn_unaligned *)p;
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#endif
    return v;
}
FUSEGRAD_INLINE void store_column(real *p, vcolumn v) { *(vcolumn_unaligned *)p = v; }
FUSEGRAD_INLINE vcolumn splat_column(real x) {
    vcolumn zero = {0};
    return x - zero;
}
FUSEGRAD_INLINE vcolumn first_of_column(real x) {
    vcolumn v = {0};
    v[0] = x;
    return v;
}
/* The value at p, which stays in a register: it is used for several groups of rows. */
FUSEGRAD_INLINE vcolumn load_splat_column(const real *p) {
    vcolumn v = splat_column(*p);
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#endif
    return v;
}
/* The next four are called only where a column is half a vector, with AVX-512. Elsewhere they need only compile. */
/* One column in both halves; float32. */
FUSEGRAD_INLINE vreal load_twice(const real *p) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vreal)_mm512_broadcast_f32x8(_mm256_loadu_ps(p)); /* not load_column: its barrier would make this a shuffle */
#else
    return load(p);
#endif
}
/* x as the first element of both halves, else 0; float32. */
FUSEGRAD_INLINE vreal first_of_halves(real x) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vreal)_mm512_maskz_mov_ps(0x0101, _mm512_set1_ps(x));
#else
    return splat(x);
#endif
}
/* Two columns in one vector. */
FUSEGRAD_INLINE vreal join_columns(vcolumn low, vcolumn high) {
#if defined(__AVX512F__)
    return (vreal)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)low), (__m256d)high, 1);
#else
    return load((const real *)&low);
#endif
}
/* Each half to a place of its own. */
FUSEGRAD_INLINE void store_halves(real *low, real *high, vreal v) {
#if defined(__AVX512F__)
    store_column(low, (vcolumn)_mm512_castpd512_pd256((__m512d)v));
    store_column(high, (vcolumn)_mm512_extractf64x4_pd((__m512d)v, 1));
#endif
}
/* 16 bytes from each of two places, or from a only, where a column is that short. */
FUSEGRAD_INLINE vcolumn load_column_parts(const real *a, const real *b) {
#if defined(__AVX2__) /* GCC would shuffle */
    vcolumn v = (vcolumn)_mm256_insertf128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)), _mm_loadu_si128((const __m128i *)b), 1);
    __asm__("" : "+v"(v));
    return v;
#else
    (void)b;
    return load_column(a);
#endif
}
/* A vector of 16 bytes from each of four places, or of the first two, or one, that fill it. Loads need no shuffle. */
FUSEGRAD_INLINE vreal load_parts(const real *a, const real *b, const real *c, const real *d) {
#if defined(__AVX512F__)
    __m512d v = _mm512_castpd128_pd512(_mm_loadu_pd((const double *)a));
    v = _mm512_mask_broadcast_f64x2(v, 0x0c, _mm_loadu_pd((const double *)b));
    v = _mm512_mask_broadcast_f64x2(v, 0x30, _mm_loadu_pd((const double *)c));
    v = _mm512_mask_broadcast_f64x2(v, 0xc0, _mm_loadu_pd((const double *)d));
    __asm__("" : "+v"(v));
    return (vreal)v;
#else
    (void)c, (void)d;
    return load_column_parts(a, b);
#endif
}
/* The elements of a and b in turn, within each 16 bytes: of their lower and of their upper halves. */
FUSEGRAD_INLINE vcolumn interleave_column_low(vcolumn a, vcolumn b) { return __builtin_shufflevector(a, b, LOW_PARTS); }
FUSEGRAD_INLINE vcolumn interleave_column_high(vcolumn a, vcolumn b) { return __builtin_shufflevector(a, b, HIGH_PARTS); }
#if defined(__AVX512F__)
FUSEGRAD_INLINE vreal interleave_parts_low(vreal a, vreal b) { return (vreal)NATIVE(unpacklo)(a, b); }
FUSEGRAD_INLINE vreal interleave_parts_high(vreal a, vreal b) { return (vreal)NATIVE(unpackhi)(a, b); }
#else
FUSEGRAD_INLINE vreal interleave_parts_low(vreal a, vreal b) { return interleave_column_low(a, b); }
FUSEGRAD_INLINE vreal interleave_parts_high(vreal a, vreal b) { return interleave_column_high(a, b); }
#endif
/* One element of each of COLUMN rows. */
FUSEGRAD_INLINE vcolumn gather_column(const real *p, Py_ssize_t row) {
    vcolumn v;
    for (int i = 0; i < COLUMN; i++) v[i] = p[i * row];
    return v;
}

/* A vector of LANE_COLUMNS values: a row of a block of the lane-wise weight gradient. */
typedef real vcolumns __attribute__((vector_size(LANE_COLUMNS * sizeof(real)), aligned(sizeof(real)), may_alias));
FUSEGRAD_INLINE void copy_columns(real *p, const real *q) { *(vcolumns *)p = *(const vcolumns *)q; }
FUSEGRAD_INLINE void add_columns(real *p, const real *q) { *(vcolumns *)p += *(const vcolumns *)q; }

/* Prefetches the cache line at p, which need not be a valid address, into the L1 (level 1) or the L2 (level 2: for data
   from the L3 or memory; Zen 4 has twice as many line fills in flight for the L2 as for the L1). Level 0: nothing. */
FUSEGRAD_INLINE void prefetch(const int level, const real *p) {
    if (level == 1) __builtin_prefetch(p, 0, 3);
    if (level == 2) __builtin_prefetch(p, 0, 2);
}

/* Returns p, hidden from the optimizer: addresses derived from it are computed here, not before a loop and kept live over it. */
FUSEGRAD_INLINE real *opaque(real *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* An element of a caller's array, at any alignment. */
FUSEGRAD_INLINE real load_unaligned(const char *p) { return *(const real_unaligned *)p; }
FUSEGRAD_INLINE void store_unaligned(char *p, real x) { *(real_unaligned *)p = x; }

/* ---- lanes ------------------------------------------------------------------------------- */

/* Lane i of the result is v[places[i]]. */
FUSEGRAD_INLINE vreal shuffled(vreal v, vbits places) {
#if defined(__clang__) && defined(__AVX512F__)
    return (vreal)NATIVE(permutexvar)((__m512i)places, v);
#elif defined(__clang__)
    vreal result = v;
    for (int i = 0; i < LANES; i++) result[i] = v[places[i] & (LANES - 1)];
    return result;
#else
    return __builtin_shuffle(v, places);
#endif
}

/* Lane i of the result is v[i ^ step]; step is a constant power of two. */
FUSEGRAD_INLINE vreal exchange(vreal v, int step) {
    const vbits number = {LANE_NUMBERS};
    return shuffled(v, number ^ (bits)step);
}

/* (a0, b0, a1, b1, ...) of the lower halves of a and b, and of the upper halves. */
FUSEGRAD_INLINE vreal interleave_low(vreal a, vreal b) {
    return __builtin_shufflevector(a, b, LOW_HALVES);
}
FUSEGRAD_INLINE vreal interleave_high(vreal a, vreal b) {
    return __builtin_shufflevector(a, b, HIGH_HALVES);
}

/* The even (odd) lanes of a, followed by those of b. */
FUSEGRAD_INLINE vreal even_lanes(vreal a, vreal b) { return __builtin_shufflevector(a, b, EVEN_LANES); }
FUSEGRAD_INLINE vreal odd_lanes(vreal a, vreal b) { return __builtin_shufflevector(a, b, ODD_LANES); }

/* v holds LANES / width consecutive groups of `depth` values; each group is moved to `width` lanes and padded with zeros. */
FUSEGRAD_INLINE vreal spread_groups(vreal v, int width, Py_ssize_t depth) {
    const vbits number = {LANE_NUMBERS};
    vbits lane = number % (bits)width;
    vbits place = number / (bits)width * (bits)depth + lane;
    return (vreal)((vbits)shuffled(v, place) & (lane < (bits)depth));
}

/* Lane i of take_lanes(v, places_of(n, step), k) is v[i / n * step + k]. */
FUSEGRAD_INLINE vbits places_of(Py_ssize_t n, Py_ssize_t step) {
    vbits places;
    for (int i = 0; i < LANES; i++) places[i] = (bits)(i / n * step);
    return places;
}
FUSEGRAD_INLINE vreal take_lanes(vreal v, vbits places, Py_ssize_t k) { return shuffled(v, places + (bits)k); }

FUSEGRAD_INLINE real first_lane(vreal v) { return v[0]; }

/* v with the lanes from n on set to 0, even if they hold NaN or infinity. */
FUSEGRAD_INLINE vreal keep_first_lanes(vreal v, Py_ssize_t n) { return (vreal)((vbits)v & lanes_below(n)); }

#include "arithmetic.h"
#include "tanh_table.h"

#endif
