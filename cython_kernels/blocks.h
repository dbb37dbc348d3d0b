/* The block sizes: all that is tuned to a processor. What the vectors are: vector.h. */
#ifndef FUSEGRAD_BLOCKS_H
#define FUSEGRAD_BLOCKS_H

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
   Of a product of large matrices: a block of B (DEPTH_BLOCK x COLUMN_BLOCK), 1 MiB, is in the L2, and ROWS of A
   (x DEPTH_BLOCK), 8 or 16 KiB, in the L1, where panels of B pass by them. A row of a panel is prefetched
   DEPTH_AHEAD rows before it is wanted: 100 to 200 cycles, where the L2 takes 15 and its buffers are shared.
   Where A has many rows and B few columns: a panel of B (DEPTH_BLOCK x PANEL) is in the L1, the
   copy of B (DEEP_BLOCK deep) and ROW_BLOCK rows of A and C, which stay until all of its depth is added, in the L2. */
enum { LINE = 64, DEPTH_BLOCK = 256, COLUMN_BLOCK = 4096 / sizeof(real), DEPTH_AHEAD = 16, ROW_BLOCK = 120, DEEP_BLOCK = 2048 };

#endif
