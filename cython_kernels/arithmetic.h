/* Vector arithmetic beyond GCC's vector operators. Included by vector.h. */
#ifndef FUSEGRAD_ARITHMETIC_H
#define FUSEGRAD_ARITHMETIC_H

/* ---- sign, choice, exponent --------------------------------------------------------------- */

#if FUSEGRAD_REAL == 32
enum { SIGN_SHIFT = 31, MANTISSA = 23, EXPONENT_BIAS = 127, GREATEST_EXPONENT = 128 };
#define ROUNDER 0x1.8p23f
#define SMALLEST_NORMAL 0x1p-126f
#define GREATEST 0x1.fffffep127f
#define LOG_TWO_HIGH 0.693145751953125f
#define LOG_TWO_LOW 1.42860682030941723e-6f
#else
enum { SIGN_SHIFT = 63, MANTISSA = 52, EXPONENT_BIAS = 1023, GREATEST_EXPONENT = 1024 };
#define ROUNDER 0x1.8p52
#define SMALLEST_NORMAL 0x1p-1022
#define GREATEST 0x1.fffffffffffffp1023
#define LOG_TWO_HIGH 0.693147180369123816490
#define LOG_TWO_LOW 1.90821492927058770002e-10
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
FUSEGRAD_INLINE vreal complement_if_positive(vreal z, vreal v) {
    vbits negative = (vbits)z >> SIGN_SHIFT;
#if defined(__AVX512F__)
    return (vreal)_mm512_ternarylogic_epi64((__m512i)negative, (__m512i)v, (__m512i)(1 - v), 0xca);
#else
    return (vreal)(((vbits)v & negative) | ((vbits)(1 - v) & ~negative));
#endif
}

/* 0 where a <= 0, else v; v also where a is NaN. */
FUSEGRAD_INLINE vreal where_positive(vreal a, vreal v) {
    vreal zero = {0};
    return (vreal)((vbits)v & ~(vbits)(a <= zero));
}

/* x where a > b, else y. */
FUSEGRAD_INLINE vreal choose_greater(vreal a, vreal b, vreal x, vreal y) {
    vbits greater = a > b;
    return (vreal)(((vbits)x & greater) | ((vbits)y & ~greater));
}

/* x where a == b, else y. */
FUSEGRAD_INLINE vreal choose_equal(vreal a, vreal b, vreal x, vreal y) {
    vbits equal = a == b;
    return (vreal)(((vbits)x & equal) | ((vbits)y & ~equal));
}

/* A positive normal v is 2^n f with sqrt(1/2) <= f < sqrt(2): writes n, returns f - 1, or x where n is 0. Other v, as in
   padding lanes, give any number; unsigned, so that nothing overflows. */
FUSEGRAD_INLINE vreal fraction_minus_one(vreal v, vreal x, vreal *n) {
    const vreal rounder = splat(ROUNDER);
    vunsigned exponent = (vunsigned)((vbits)((vunsigned)v - (vunsigned)splat((real)0.70710678118654752440)) >> MANTISSA);
    vreal f = (vreal)((vunsigned)v - (exponent << MANTISSA));
    *n = (vreal)((vunsigned)rounder + exponent) - rounder;
    return choose_equal(*n, splat(0), x, f - 1);
}

/* min(limit, v) and max(limit, v) for a constant limit; a NaN in v is returned. */
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

/* 0 where both a and b are zero or subnormal (exponent bits 0), else v. */
FUSEGRAD_INLINE vreal zero_if_subnormal(vreal a, vreal b, vreal v) {
    vbits either = (vbits)a | (vbits)b;
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vreal)_mm512_maskz_mov_ps(_mm512_test_epi32_mask((__m512i)either, _mm512_set1_epi32(EXPONENT_BITS)), (__m512)v);
#elif defined(__AVX512F__)
    return (vreal)_mm512_maskz_mov_pd(_mm512_test_epi64_mask((__m512i)either, _mm512_set1_epi64(EXPONENT_BITS)), (__m512d)v);
#else
    return (vreal)((vbits)v & ~((either & EXPONENT_BITS) == 0));
#endif
}

/* Running maximum of |v| in each lane, as integer bits: the integers have the order of the finite numbers, and infinities
   and NaN are greater than all of them. */
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
FUSEGRAD_INLINE int any_exceeds(vbits greatest, real limit) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return _mm512_cmpgt_epi32_mask((__m512i)greatest, (__m512i)splat(limit)) != 0;
#elif defined(__AVX512F__)
    return _mm512_cmpgt_epi64_mask((__m512i)greatest, (__m512i)splat(limit)) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)(greatest > (vbits)splat(limit))) != 0;
#elif defined(__SSE4_2__)
    return _mm_movemask_epi8((__m128i)(greatest > (vbits)splat(limit))) != 0;
#else
    vbits beyond = greatest > (vbits)splat(limit);
    bits any = 0;
    for (int i = 0; i < LANES; i++) any |= beyond[i];
    return any != 0;
#endif
}

/* The largest of the lanes; NaN or infinity if any is. */
FUSEGRAD_INLINE real largest_magnitude(vbits magnitudes) {
    bits largest = 0;
    real result;
    for (int i = 0; i < LANES; i++) largest = magnitudes[i] > largest ? magnitudes[i] : largest;
    memcpy(&result, &largest, sizeof result);
    return result;
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

/* a * b + c: with one rounding if the processor has an FMA instruction, else two. The compiler must not contract by itself
   (-ffp-contract=off): it would in some loops only, and a sum would depend on the loop that computes it. */
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

/* `multiply_add` of half a vector; used with AVX-512 only. */
FUSEGRAD_INLINE vhalf multiply_add_half(vhalf a, vhalf b, vhalf c) {
#if defined(__AVX512F__) && FUSEGRAD_REAL == 32
    return (vhalf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__AVX512F__)
    return (vhalf)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/* `multiply_add` of a column. */
FUSEGRAD_INLINE vcolumn multiply_add_column(vcolumn a, vcolumn b, vcolumn c) {
#if VECTOR_BYTES == 64
    return multiply_add_half(a, b, c);
#else
    return multiply_add(a, b, c);
#endif
}

/* `multiply_add` of scalars. */
FUSEGRAD_INLINE real multiply_add_one(real a, real b, real c) {
#if (defined(__FMA__) || defined(__aarch64__)) && FUSEGRAD_REAL == 32
    return __builtin_fmaf(a, b, c);
#elif defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* `multiply_add` of scalars in float64. */
FUSEGRAD_INLINE double multiply_add_double(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* a * b + c with a single rounding, which the error terms of the activations require. Without an FMA instruction float32 is
   computed in float64; float64 is rounded twice, which its error bound allows. */
FUSEGRAD_INLINE vreal fused_multiply_add(vreal a, vreal b, vreal c) {
#if defined(__FMA__) || defined(__aarch64__) || FUSEGRAD_REAL == 64
    return multiply_add(a, b, c);
#else
    typedef double wide __attribute__((vector_size(2 * VECTOR_BYTES)));
    wide sum = __builtin_convertvector(a, wide) * __builtin_convertvector(b, wide) + __builtin_convertvector(c, wide);
    return __builtin_convertvector(sum, vreal);
#endif
}

/* a * b - product, without rounding, if product is a * b rounded. Without an FMA instruction float64 is split into halves
   whose products are exact (Dekker); |a| and |b| are at most 1e290. */
FUSEGRAD_INLINE vreal product_error(vreal a, vreal b, vreal product) {
#if defined(__FMA__) || defined(__aarch64__) || FUSEGRAD_REAL == 32
    return fused_multiply_add(a, b, -product);
#else
    vreal high_a = a * splat(134217729.), high_b = b * splat(134217729.); /* 2^27 + 1 */
    high_a = high_a - (high_a - a);
    high_b = high_b - (high_b - b);
    vreal low_a = a - high_a, low_b = b - high_b;
    return ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b;
#endif
}

/* t (1 - a), accurate also where a is close to 1. */
FUSEGRAD_INLINE vreal times_complement(vreal t, vreal a) {
#if defined(__FMA__)
    return NATIVE(fnmadd)(t, a, t);
#else
    return t * (1 - a);
#endif
}

/* `place` is n + POWER_ORIGIN for an integer n: adding POWER_ORIGIN rounds to an integer and leaves the biased exponent of 2^n
   in the low bits. power_of_two(place) is 2^n, if that is normal. times_power(v, place) is v 2^n, rounded once: for any n
   with AVX-512, else only if 2^n is normal; so exp(z) is scaled by 2^LIFT there, down to the least subnormal number. */
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

/* `units`, rounded, times the least subnormal number, 0 <= units < 2^MANTISSA: without an operation on subnormal numbers. */
enum { LEAST_EXPONENT = EXPONENT_BIAS - 1 + MANTISSA }; /* of which the negative is that of the least number */
#define SATURATED (FUSEGRAD_REAL == 32 ? (real)87.33655 : (real)708.3964185322642) /* exp(-SATURATED): the least normal number */
FUSEGRAD_INLINE vreal subnormal(vreal units) {
    vreal origin = splat((real)((uint64_t)1 << MANTISSA));
    return (vreal)((vbits)(units + origin) - (vbits)origin);
}

/* a / b. With AVX-512: a times the processor's estimate of 1 / b, whose relative error is below 2^-14. */
FUSEGRAD_INLINE vreal approximate_quotient(vreal a, vreal b) {
#if defined(__AVX512F__)
    return a * (vreal)NATIVE(rcp14)(b);
#else
    return a / b;
#endif
}

/* a / b, within an ulp, for a normal a, or 0, and a normal b whose inverse is normal, too; NaN if it overflows. With AVX-512: an
   estimate of 1 / b, of 14 bits, or 28 after Newton's step in float64, and a correction by the remainder, which doubles them:
   0.3 % of the results are not the nearest number. Beside a square root, which occupies the divider, an update takes 0.8 to 0.9
   of the time. Without AVX-512 the estimate has 12 bits, or none in float64. */
FUSEGRAD_INLINE vreal quotient(vreal a, vreal b) {
#if defined(__AVX512F__)
    vreal inverse = (vreal)NATIVE(rcp14)(b), result;
#if FUSEGRAD_REAL == 64
    inverse = multiply_add(inverse, (vreal)NATIVE(fnmadd)(b, inverse, splat(1)), inverse);
#endif
    result = a * inverse;
    return multiply_add((vreal)NATIVE(fnmadd)(b, result, a), inverse, result);
#else
    return a / b;
#endif
}

/* ---- words of 32 bits: for a generator of random numbers ------------------------------------
   One in the lower half of each lane of 64 bits; what the upper halves hold is ignored. */

typedef uint64_t vwords __attribute__((vector_size(VECTOR_BYTES)));

FUSEGRAD_INLINE vwords splat_word(uint32_t x) {
    vwords zero = {0};
    return zero + x;
}

/* first + i step in lane i. */
FUSEGRAD_INLINE vwords words_from(Py_ssize_t first, const int step) {
    vwords words;
    for (int i = 0; i < VECTOR_BYTES / 8; i++) words[i] = (uint64_t)(i * step);
    return words + (uint64_t)first;
}

/* The products, of 64 bits. */
FUSEGRAD_INLINE vwords multiply_words(vwords a, uint32_t b) {
#if defined(__AVX512F__)
    return (vwords)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    return (vwords)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE4_2__)
    return (vwords)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & splat_word(0xffffffff)) * splat_word(b);
#endif
}

FUSEGRAD_INLINE vwords high_words(vwords a) { return a >> 32; }

/* The words of the even and of the odd lanes of float32, in those lanes. */
FUSEGRAD_INLINE vwords join_words(vwords even, vwords odd) { return (even & splat_word(0xffffffff)) | (odd << 32); }

/* v in the lanes in whose word the lower (half 0) or upper 16 bits are at least `least`; else 0. */
FUSEGRAD_INLINE vreal kept(vwords words, const int half, int least, vreal v) {
    const vunsigned sixteen = {0};
    vunsigned number = ((vunsigned)words >> (16 * half)) & (sixteen + 0xffff);
    return (vreal)((vbits)v & ((vbits)number > (vbits)sixteen + (bits)(least - 1)));
}

#endif
