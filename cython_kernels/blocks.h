/* Block sizes: every tuning parameter that depends on the processor. The vector type: vector.h. */
#ifndef FUSEGRAD_BLOCKS_H
#define FUSEGRAD_BLOCKS_H

/* ---- block sizes: one row for each width of vector ----------------------------------------
   A micro-tile has ROWS x VECTORS accumulators. ROWS * VECTORS must be at least FMA latency x FMA ports (8 to 10), and
   the accumulators, VECTORS vectors of B and one broadcast of A must fit in the vector registers. More ROWS would need
   more row strides of A than there are general registers. For fewer loads per multiply-add products of large matrices
   use ROWS x WIDE_VECTORS, layers DOUBLE_ROWS x two panels (0: no registers for them).
   LANE_ROWS x LANE_COLUMNS is the block of the lane-wise weight gradient: as many accumulators as leave registers for
   the operands; LANE_ROWS * LANE_COLUMNS is a multiple of LANES. An activation is evaluated for GROUP vectors at a
   time, which hides the latency of one vector's dependency chain. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64 /* 32 registers: 16 accumulators + 2 of B + 1 of A; wide: 24 + 3 + 1; two panels: 24 + 4 + 1 */
enum { ROWS = 8, VECTORS = 2, WIDE_VECTORS = 3, DOUBLE_ROWS = 6, LANE_ROWS = 4, LANE_COLUMNS = 4, GROUP = 4 };
#elif defined(__AVX2__)
#include <immintrin.h>
#define VECTOR_BYTES 32 /* 16 registers: 12 accumulators + 2 of B + 1 of A */
enum { ROWS = 6, VECTORS = 2, WIDE_VECTORS = 2, DOUBLE_ROWS = 0, LANE_ROWS = 2, LANE_COLUMNS = 4, GROUP = 2 };
#else
#if defined(__SSE4_2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#define VECTOR_BYTES 16 /* 16 registers: 12 + 2 + 1 (32 on aarch64) */
enum { ROWS = 6, VECTORS = 2, WIDE_VECTORS = 2, DOUBLE_ROWS = 0, LANE_ROWS = 2, LANE_COLUMNS = 4, GROUP = 2 };
#endif

#if VECTOR_BYTES > 32
#define COLUMN_BYTES 32
#else
#define COLUMN_BYTES VECTOR_BYTES
#endif

enum {
    LANES = VECTOR_BYTES / sizeof(real),
    COLUMN = COLUMN_BYTES / sizeof(real), /* rows of a block of W whose columns are vectors, for a few examples */
    QUAD = 16 / sizeof(real),             /* columns of it; the side of the squares that are transposed in 16 bytes */
    COLUMN_SUMS = VECTOR_BYTES == 64 ? 16 : 8, /* such vectors of sums, of 32 or 16 registers */
    SUM_CHAINS = 32 / sizeof(real), /* of a sum over many inputs: gemm/sums.pxi */
    DOT_VECTORS = SUM_CHAINS / COLUMN, /* such vectors of SUM_CHAINS elements */
    DOT_ROWS = 8 / DOT_VECTORS, /* rows of a dot product: eight sums hide the latency of the additions */
    /* Examples of a dot product: their vectors and one sum for each of these stay in registers. */
    DOT_TOGETHER = 2 * COLUMN_SUMS / DOT_VECTORS < 9 ? (2 * COLUMN_SUMS / DOT_VECTORS - 1) / 2 : 4,
    PANEL = VECTORS * LANES,
    MOST_VECTORS = DOUBLE_ROWS > 0 ? 2 * VECTORS : VECTORS, /* of a micro-tile, WIDE_VECTORS or more */
    TILE_ROWS = 24, /* whole micro-tiles */
    HALF_LANES = VECTOR_BYTES == 64 ? VECTOR_BYTES / sizeof(real) / 2 : 0, /* most columns of half a vector; 0: not used */
    LANE_BLOCK = LANE_ROWS * LANE_COLUMNS,
    ESTIMATED = VECTOR_BYTES == 64, /* 1: `approximate_quotient` multiplies by the reciprocal estimate, 0: it divides */
    ROW_SUMS = LANE_BLOCK / VECTORS < LANES ? LANE_BLOCK / VECTORS : LANES
};

_Static_assert(VECTORS == 2, "sums over a panel add two vectors: backward.pxi, loss.pxi, one_pass.pxi");
_Static_assert(DOUBLE_ROWS <= ROWS && (int)WIDE_VECTORS <= (int)MOST_VECTORS, "arrays of sums: micro_tile.pxi");
_Static_assert(TILE_ROWS % ROWS == 0 && (DOUBLE_ROWS == 0 || TILE_ROWS % DOUBLE_ROWS == 0), "whole micro-tiles");

/* ---- block sizes: by cache ------------------------------------------------------------------
   Large matrices: a block of B (DEPTH_BLOCK x COLUMN_BLOCK, 1 MiB) stays in the L2, ROWS rows of A (x DEPTH_BLOCK, 8 or
   16 KiB) in the L1 while the panels of B are streamed past them. A row of a panel is prefetched DEPTH_AHEAD rows before
   its use, 100 to 200 cycles: an L2 hit takes only 15, but the fill buffers are shared.
   Many rows of A, few columns of B: a panel of B (DEPTH_BLOCK x PANEL) stays in the L1; the packed B (DEEP_BLOCK deep) and
   ROW_BLOCK rows of A and C stay in the L2, the rows of C until all DEEP_BLOCK of the depth are added. */
enum { LINE = 64, DEPTH_BLOCK = 256, COLUMN_BLOCK = 4096 / sizeof(real), DEPTH_AHEAD = 16, ROW_BLOCK = 120, DEEP_BLOCK = 2048 };

#endif
