/* The vector type of one instruction set and one dtype, and the few operations that C's operators
   (+ - * / on GCC vector types) do not give. Everything that is an algorithm is written in Cython.

   The build sets FUSEGRAD_REAL to float or double and -march to one x86-64 level; nothing else
   differs between the compiled modules. Other processors take the 16-byte branch. */
#ifndef FUSEGRAD_VECTOR_H
#define FUSEGRAD_VECTOR_H

#include <stdint.h>
#include <string.h>
#include <math.h>

/* ---- types ------------------------------------------------------------------------------- */

#if FUSEGRAD_REAL == 32
typedef float real;
typedef int32_t bits;
#elif FUSEGRAD_REAL == 64
typedef double real;
typedef int64_t bits;
#else
#error "FUSEGRAD_REAL must be 32 or 64"
#endif

/* ---- block sizes: one row for each width of vector ----------------------------------------
   A micro-tile is ROWS x VECTORS accumulators. It wants ROWS * VECTORS >= FMA latency x FMA ports
   (8 to 10), and accumulators + VECTORS of B + one broadcast of A in the registers there are. More ROWS
   would want more strides of A than there are general registers. In a product of large matrices it is
   ROWS x WIDE_VECTORS: fewer loads for each multiply-add. One of a single vector takes up to NARROW_ROWS rows,
   for the same reasons.
   LANE_ROWS x LANE_COLUMNS is the block of the lane-wise weight gradient: as many independent
   sums as leave room for its operands; their product is a multiple of the lanes. GROUP vectors go
   through an activation together: alone, each would wait for its own latencies. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64 /* 32 registers: 16 + 2 + 1, 24 + 3 + 1 */
enum { ROWS = 8, VECTORS = 2, WIDE_VECTORS = 3, LANE_ROWS = 4, LANE_COLUMNS = 4, GROUP = 4 };
#elif defined(__AVX2__)
#include <immintrin.h>
#define VECTOR_BYTES 32 /* 16 registers: 12 + 2 + 1 */
enum { ROWS = 6, VECTORS = 2, WIDE_VECTORS = 2, LANE_ROWS = 2, LANE_COLUMNS = 4, GROUP = 2 };
#else
#if defined(__SSE4_2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#define VECTOR_BYTES 16 /* 16 registers: 12 + 2 + 1 (32 on aarch64) */
enum { ROWS = 6, VECTORS = 2, WIDE_VECTORS = 2, LANE_ROWS = 2, LANE_COLUMNS = 4, GROUP = 2 };
#endif

typedef real vreal __attribute__((vector_size(VECTOR_BYTES)));
typedef bits vbits __attribute__((vector_size(VECTOR_BYTES)));
typedef real vreal_anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef real real_anywhere __attribute__((aligned(1), may_alias));

enum {
    LANES = VECTOR_BYTES / sizeof(real),
    PANEL = VECTORS * LANES,
    NARROW_ROWS = 12,
    HALF_LANES = VECTOR_BYTES == 64 ? VECTOR_BYTES / sizeof(real) / 2 : 0, /* columns that half a vector serves */
    LANE_BLOCK = LANE_ROWS * LANE_COLUMNS,
    ESTIMATED = VECTOR_BYTES == 64, /* `quotient`: cheaper than a division */
    ROW_SUMS = LANE_BLOCK / VECTORS < LANES ? LANE_BLOCK / VECTORS : LANES
};

/* ---- block sizes: by cache ------------------------------------------------------------------
   Of a product of large matrices: a block of B (DEPTH_BLOCK x COLUMN_BLOCK), 1 MiB, lies in the L2, and ROWS of A
   (x DEPTH_BLOCK), 8 or 16 KiB, in the L1, where panels of B pass by them. A row of a panel is asked for
   DEPTH_AHEAD rows before it is wanted: 100 to 200 cycles, where the L2 takes 15 and its buffers are shared.
   Where A has many rows and B few columns: a panel of B (DEPTH_BLOCK x PANEL) lies in the L1, the
   copy of B (DEEP_BLOCK deep) and ROW_BLOCK rows of A and C, which stay until all of its depth is added, in the L2. */
enum { LINE = 64, DEPTH_BLOCK = 256, COLUMN_BLOCK = 4096 / sizeof(real), DEPTH_AHEAD = 16, ROW_BLOCK = 120, DEEP_BLOCK = 2048 };

/* In these kernels `cdef inline` is a promise: a micro-tile is a function of constants, which stays in
   registers only where it is inlined with them. What should be called is declared without it. */
#undef CYTHON_INLINE
#define CYTHON_INLINE inline __attribute__((always_inline))

#define FUSEGRAD_INLINE static inline __attribute__((always_inline, unused))

/* The processor's own instruction for one vector, e.g. NATIVE(sqrt) = _mm512_sqrt_ps. */
#if defined(__AVX512F__)
#define NATIVE_(op, suffix) _mm512_##op##_##suffix
#elif defined(__AVX__)
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

/* All bits set in the first n lanes. */
FUSEGRAD_INLINE vbits lanes_below(Py_ssize_t n) {
    const vbits number = {LANE_NUMBERS};
    const vbits none = {0};
    return number < none + (bits)n;
}

/* ---- memory ------------------------------------------------------------------------------ */

/* The empty barrier keeps the loaded vector in a register. Without it GCC folds the load of B into
   each multiply-add of an AVX2 micro-tile as a memory operand: 18 loads for 12 FMAs, half the speed. */
FUSEGRAD_INLINE vreal load(const real *p) {
    vreal v = *(const vreal_anywhere *)p;
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#endif
    return v;
}

FUSEGRAD_INLINE void store(real *p, vreal v) { *(vreal_anywhere *)p = v; }

FUSEGRAD_INLINE vreal splat(real x) {
    vreal zero = {0};
    return x - zero; /* x - 0 is x, -0 and NaN included */
}

/* The n numbers at p again and again; n, a constant, is a power of two, at least 2 and less than LANES. */
FUSEGRAD_INLINE vreal splat_group(const real *p, int n) {
#if defined(__AVX512F__)
    if (n * sizeof(real) == 32) return (vreal)_mm512_broadcast_f64x4(_mm256_loadu_pd((const double *)p));
    if (n * sizeof(real) == 16) return (vreal)_mm512_broadcast_f32x4(_mm_loadu_ps((const float *)p));
#elif defined(__AVX2__)
    if (n * sizeof(real) == 16) return (vreal)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
#endif
    typedef int64_t pair_anywhere __attribute__((aligned(1), may_alias));
    typedef int64_t pairs __attribute__((vector_size(VECTOR_BYTES)));
    const pairs none = {0};
    return (vreal)(none + *(const pair_anywhere *)p);
}

/* The first n lanes of memory; the others are 0. Lanes past n are neither read nor written. */
FUSEGRAD_INLINE vreal load_first(const real *p, Py_ssize_t n) {
#if defined(__AVX512F__)
    return (vreal)NATIVE(maskz_loadu)(((unsigned)1 << n) - 1, p);
#elif defined(__AVX2__)
    return (vreal)NATIVE(maskload)(p, (__m256i)lanes_below(n));
#else
    vreal v = {0};
    for (Py_ssize_t i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

FUSEGRAD_INLINE void store_first(real *p, vreal v, Py_ssize_t n) {
#if defined(__AVX512F__)
    NATIVE(mask_storeu)(p, ((unsigned)1 << n) - 1, v);
#elif defined(__AVX2__)
    if (n == LANES / 2) /* without a mask: AMD is slow at masked stores */
        __builtin_memcpy(p, &v, VECTOR_BYTES / 2);
    else
        NATIVE(maskstore)(p, (__m256i)lanes_below(n), v);
#else
    for (Py_ssize_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* Half a vector, for the edges of products: where a whole one takes two passes, as on AMD's Zen 4, it takes one. */
typedef real vhalf __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef real vhalf_anywhere __attribute__((vector_size(VECTOR_BYTES / 2), aligned(1), may_alias));
FUSEGRAD_INLINE vhalf load_half(const real *p) { return *(const vhalf_anywhere *)p; }
FUSEGRAD_INLINE vhalf splat_half(real x) {
    vhalf zero = {0};
    return x - zero;
}
/* A whole vector, whose upper half is not defined. */
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

/* As many numbers as a block of the lane-wise gradient has columns. */
typedef real vcolumns __attribute__((vector_size(LANE_COLUMNS * sizeof(real)), aligned(sizeof(real)), may_alias));
FUSEGRAD_INLINE void copy_columns(real *p, const real *q) { *(vcolumns *)p = *(const vcolumns *)q; }
FUSEGRAD_INLINE void add_columns(real *p, const real *q) { *(vcolumns *)p += *(const vcolumns *)q; }

/* Asks for the cache line at p, which need not be memory at all, to the cache of that level: the L1, or the L2 where it
   comes from further away. A Zen 4 brings twice as many lines at a time to the L2 as to the L1. Level 0: nothing. */
FUSEGRAD_INLINE void prefetch(const int level, const real *p) {
    if (level == 1) __builtin_prefetch(p, 0, 3);
    if (level == 2) __builtin_prefetch(p, 0, 2);
}

/* p, which GCC is not to know before: addresses that follow from it are computed here, not before a loop and kept over it. */
FUSEGRAD_INLINE real *afresh(real *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* An element of an array from outside, which may lie at any address. */
FUSEGRAD_INLINE real load_anywhere(const char *p) { return *(const real_anywhere *)p; }
FUSEGRAD_INLINE void store_anywhere(char *p, real x) { *(real_anywhere *)p = x; }

/* ---- lanes ------------------------------------------------------------------------------- */

/* Lane i takes lane places[i] of v. */
FUSEGRAD_INLINE vreal shuffled(vreal v, vbits places) {
#if defined(__clang__)
    vreal result = v;
    for (int i = 0; i < LANES; i++) result[i] = v[places[i] & (LANES - 1)];
    return result;
#else
    return __builtin_shuffle(v, places);
#endif
}

/* Lane i takes what lane i ^ step had; step, a constant, is a power of two. */
FUSEGRAD_INLINE vreal exchange(vreal v, int step) {
    const vbits number = {LANE_NUMBERS};
    return shuffled(v, number ^ (bits)step);
}

/* (a0, b0, a1, b1, ...) of the lower and of the upper halves. */
FUSEGRAD_INLINE vreal interleave_low(vreal a, vreal b) {
    return __builtin_shufflevector(a, b, LOW_HALVES);
}
FUSEGRAD_INLINE vreal interleave_high(vreal a, vreal b) {
    return __builtin_shufflevector(a, b, HIGH_HALVES);
}

/* Every second lane of a, then of b. */
FUSEGRAD_INLINE vreal even_lanes(vreal a, vreal b) { return __builtin_shufflevector(a, b, EVEN_LANES); }
FUSEGRAD_INLINE vreal odd_lanes(vreal a, vreal b) { return __builtin_shufflevector(a, b, ODD_LANES); }

/* LANES / width groups of `depth` numbers, which follow each other in v, each to `width` lanes of its own, that end in zeros. */
FUSEGRAD_INLINE vreal spread_groups(vreal v, int width, Py_ssize_t depth) {
    const vbits number = {LANE_NUMBERS};
    vbits lane = number % (bits)width;
    vbits place = number / (bits)width * (bits)depth + lane;
    return (vreal)((vbits)shuffled(v, place) & (lane < (bits)depth));
}

/* Lane i of take_lanes(v, places_of(n, step), k) is lane i / n * step + k of v. */
FUSEGRAD_INLINE vbits places_of(Py_ssize_t n, Py_ssize_t step) {
    vbits places;
    for (int i = 0; i < LANES; i++) places[i] = (bits)(i / n * step);
    return places;
}
FUSEGRAD_INLINE vreal take_lanes(vreal v, vbits places, Py_ssize_t k) { return shuffled(v, places + (bits)k); }

FUSEGRAD_INLINE real first_lane(vreal v) { return v[0]; }

/* v in the first n lanes, 0 in the others, whatever stands there. */
FUSEGRAD_INLINE vreal first_lanes(vreal v, Py_ssize_t n) { return (vreal)((vbits)v & lanes_below(n)); }

/* ---- sign, choice, exponent --------------------------------------------------------------- */

#if FUSEGRAD_REAL == 32
enum { SIGN_SHIFT = 31, MANTISSA = 23, EXPONENT_BIAS = 127, GREATEST_EXPONENT = 128 };
#define ROUNDER 0x1.8p23f
#define SMALLEST_NORMAL 0x1p-126f
#define GREATEST 0x1.fffffep127f
#else
enum { SIGN_SHIFT = 63, MANTISSA = 52, EXPONENT_BIAS = 1023, GREATEST_EXPONENT = 1024 };
#define ROUNDER 0x1.8p52
#define SMALLEST_NORMAL 0x1p-1022
#define GREATEST 0x1.fffffffffffffp1023
#endif
#define SIGN_BIT ((bits)((uint64_t)1 << SIGN_SHIFT))
#define EXPONENT_BITS ((bits)(((uint64_t)1 << SIGN_SHIFT) - ((uint64_t)1 << MANTISSA)))

FUSEGRAD_INLINE vreal magnitude(vreal v) { return (vreal)((vbits)v & ~SIGN_BIT); }

FUSEGRAD_INLINE vreal with_sign_of(vreal v, vreal sign) {
#if defined(__AVX512F__)
    return (vreal)_mm512_ternarylogic_epi64((__m512i)v, (__m512i)sign, (__m512i)splat((real)-0.0), 0xd8);
#else
    return (vreal)(((vbits)v & ~SIGN_BIT) | ((vbits)sign & SIGN_BIT));
#endif
}

/* v where z has its sign bit set, else 1 - v. */
FUSEGRAD_INLINE vreal reflected(vreal z, vreal v) {
    vbits negative = (vbits)z >> SIGN_SHIFT;
#if defined(__AVX512F__)
    return (vreal)_mm512_ternarylogic_epi64((__m512i)negative, (__m512i)v, (__m512i)(1 - v), 0xca);
#else
    return (vreal)(((vbits)v & negative) | ((vbits)(1 - v) & ~negative));
#endif
}

/* v, but 0 where a <= 0; where a is NaN v stays. */
FUSEGRAD_INLINE vreal where_positive(vreal a, vreal v) {
    vreal zero = {0};
    return (vreal)((vbits)v & ~(vbits)(a <= zero));
}

/* min and max of a constant and a vector; a NaN in the vector stays. */
FUSEGRAD_INLINE vreal at_most(vreal limit, vreal v) {
#ifdef NATIVE_
    return (vreal)NATIVE(min)(limit, v);
#else
    vbits over = v > limit;
    return (vreal)(((vbits)limit & over) | ((vbits)v & ~over));
#endif
}

FUSEGRAD_INLINE vreal at_least(vreal limit, vreal v) {
#ifdef NATIVE_
    return (vreal)NATIVE(max)(limit, v);
#else
    vbits under = v < limit;
    return (vreal)(((vbits)limit & under) | ((vbits)v & ~under));
#endif
}

/* v, but 0 where both v and w are smaller than all normal numbers: their exponents are 0. A NaN stays. */
FUSEGRAD_INLINE vreal unless_tiny(vreal v, vreal w) {
    vbits either = (vbits)v | (vbits)w;
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vreal)_mm512_maskz_mov_epi32(_mm512_test_epi32_mask((__m512i)either, _mm512_set1_epi32(EXPONENT_BITS)), (__m512i)v);
#elif defined(__AVX512F__)
    return (vreal)_mm512_maskz_mov_epi64(_mm512_test_epi64_mask((__m512i)either, _mm512_set1_epi64(EXPONENT_BITS)), (__m512i)v);
#else
    return (vreal)((vbits)v & ~((either & EXPONENT_BITS) == 0));
#endif
}

/* The greatest magnitudes so far, lane by lane, as bits: as integers those of numbers are in their order, and those of
   infinities and NaN are greater than all. */
FUSEGRAD_INLINE vbits no_magnitudes(void) {
    const vbits none = {0};
    return none;
}
FUSEGRAD_INLINE vbits greatest(vbits so_far, vreal v) {
    vbits found = (vbits)v & ~SIGN_BIT;
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vbits)_mm512_max_epi32((__m512i)so_far, (__m512i)found);
#elif defined(__AVX512F__)
    return (vbits)_mm512_max_epi64((__m512i)so_far, (__m512i)found);
#else
    vbits less = found < so_far;
    return (so_far & less) | (found & ~less);
#endif
}
FUSEGRAD_INLINE int any_beyond(vbits greatest, real limit) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return _mm512_cmpgt_epi32_mask((__m512i)greatest, (__m512i)splat(limit)) != 0;
#elif defined(__AVX512F__)
    return _mm512_cmpgt_epi64_mask((__m512i)greatest, (__m512i)splat(limit)) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)(greatest > (vbits)splat(limit))) != 0;
#else
    vbits beyond = greatest > (vbits)splat(limit);
    bits any = 0;
    for (int i = 0; i < LANES; i++) any |= beyond[i];
    return any != 0;
#endif
}

FUSEGRAD_INLINE vreal square_root(vreal v) {
#ifdef NATIVE_
    return (vreal)NATIVE(sqrt)(v);
#else
    for (int i = 0; i < LANES; i++)
        v[i] = sizeof(real) == 4 ? (real)sqrtf((float)v[i]) : (real)sqrt((double)v[i]);
    return v;
#endif
}

/* a * b + c: one rounding where the processor has such an instruction, else two. The compiler contracts nothing by itself
   (-ffp-contract=off): it would in one loop and not in another, and a sum would depend on where it is computed. */
FUSEGRAD_INLINE vreal multiply_add(vreal a, vreal b, vreal c) {
#if defined(__FMA__)
    return (vreal)NATIVE(fmadd)(a, b, c);
#elif defined(__aarch64__) && FUSEGRAD_REAL == 32
    return (vreal)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__aarch64__)
    return (vreal)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* The same of half a vector, which only AVX-512 computes with. */
FUSEGRAD_INLINE vhalf multiply_add_half(vhalf a, vhalf b, vhalf c) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vhalf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__AVX512F__)
    return (vhalf)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/* The same of two numbers, in float64. */
FUSEGRAD_INLINE double multiply_add_double(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* a * b + c, rounded once: what the error terms of the activations rest on. Without such an instruction, float32
   goes through float64; float64 rounds twice, which its bound allows. */
FUSEGRAD_INLINE vreal fused(vreal a, vreal b, vreal c) {
#if defined(__FMA__) || defined(__aarch64__) || FUSEGRAD_REAL == 64
    return multiply_add(a, b, c);
#else
    typedef double wide __attribute__((vector_size(2 * VECTOR_BYTES)));
    wide sum = __builtin_convertvector(a, wide) * __builtin_convertvector(b, wide) + __builtin_convertvector(c, wide);
    return __builtin_convertvector(sum, vreal);
#endif
}

/* t (1 - a), near, too, where a is nearly 1. */
FUSEGRAD_INLINE vreal times_complement(vreal t, vreal a) {
#if defined(__FMA__)
    return NATIVE(fnmadd)(t, a, t);
#else
    return t * (1 - a);
#endif
}

/* n + POWER_ORIGIN, n integral: to add the origin rounds to an integer and puts it, biased, where a shift makes an
   exponent of it. power_of_two is 2^n, a normal number. times_power is v 2^n, rounded once: with AVX-512 for any n, elsewhere
   where 2^n is a normal number, so that exp(z) has to be lifted by 2^LIFT to keep it one down to the least subnormal number. */
#define POWER_ORIGIN (ROUNDER + EXPONENT_BIAS)
enum { LIFT = VECTOR_BYTES == 64 ? 0 : FUSEGRAD_REAL == 32 ? 24 : 54 };
FUSEGRAD_INLINE vreal power_of_two(vreal place) { return (vreal)((vbits)place << MANTISSA); }

FUSEGRAD_INLINE vreal times_power(vreal v, vreal place) {
#if defined(__AVX512F__)
    return (vreal)NATIVE(scalef)(v, place - POWER_ORIGIN);
#else
    return v * power_of_two(place);
#endif
}

/* a / b; of wide vectors by the processor's estimate of 1 / b, which is off by less than one part in 2^14. */
FUSEGRAD_INLINE vreal quotient(vreal a, vreal b) {
#if defined(__AVX512F__)
    return a * (vreal)NATIVE(rcp14)(b);
#else
    return a / b;
#endif
}

#endif
