# cython: freethreading_compatible=True
"""The compiled module of one instruction set and one dtype: its Python functions and classes.

Arrays have this module's dtype and matching shapes: `fusegrad._engine.validation` has validated them, and
python/arrays.pxi compares them with the planned sizes. Functions named `*_direct` or `is_*` validate their arguments
themselves. The algorithms are in the .pxi files; see README.md for the contract.
"""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
cimport numpy as cnp

import numpy as np

from vector cimport (
    COLUMN, COLUMN_BLOCK, COLUMN_SUMS, DEEP_BLOCK, DEPTH_AHEAD, DEPTH_BLOCK, DOT_ROWS, DOT_TOGETHER, DOT_VECTORS,
    DOUBLE_ROWS, ESTIMATED, GREATEST, GREATEST_EXPONENT, GROUP, HALF_LANES, LANES, LANE_BLOCK, LANE_COLUMNS, LANE_ROWS,
    LARGEST_TANH, LEAST_EXPONENT, LIFT, LINE, LOG_TWO_HIGH, LOG_TWO_LOW, MOST_VECTORS, PANEL, POWER_ORIGIN, QUAD, ROWS,
    ROW_BLOCK, ROW_SUMS, SATURATED, SMALLEST_NORMAL, SUM_CHAINS, TANH_ROWS, TILE_ROWS, VECTORS, WIDE_VECTORS,
    Magnitudes, Places, add_columns, any_exceeds, approximate_quotient, at_least, at_most, choose_equal, choose_greater,
    complement_if_positive, copy_columns, even_lanes, exchange, first_lane, first_of_column, first_of_halves,
    fraction_minus_one, from_half, fused_multiply_add, gather_column, greatest, high_words, interleave_column_high,
    interleave_column_low, interleave_high, interleave_low, interleave_parts_high, interleave_parts_low, join_columns,
    join_words, keep_first_lanes, kept, largest_magnitude, load, load_column, load_column_parts, load_first, load_half,
    load_parts, load_splat_column, load_twice, load_unaligned, magnitude, multiply_add, multiply_add_column,
    multiply_add_double, multiply_add_half, multiply_add_one, multiply_words, no_magnitudes, odd_lanes, opaque,
    places_of, power_of_two, prefetch, product_error, quotient, real, splat, splat_column, splat_group, splat_half,
    splat_word, spread_groups, square_root, store, store_column, store_first, store_halves, store_unaligned, subnormal,
    take_lanes, tanh_interval, tanh_row, times_complement, times_power, vcolumn, vhalf, vreal, vwords, where_positive,
    with_sign_of, words_from, zero_if_subnormal,
)

# One compilation unit, so that the micro-tiles are inlined. A file calls only files above it.
include "threads.pxi"
include "elementary.pxi"
include "activations.pxi"
include "functions.pxi"
include "gemm/sums.pxi"
include "gemm/micro_tile.pxi"
include "gemm/packing.pxi"
include "gemm/matvec.pxi"
include "gemm/shallow.pxi"
include "gemm/large.pxi"
include "gemm/few_rows.pxi"
include "gemm/matmul.pxi"
include "gemm/columns.pxi"
include "gemm/dots.pxi"
include "gemm/pairs.pxi"
include "gemm/packed.pxi"
include "network/tiles.pxi"
include "network/forward.pxi"
include "network/dropout.pxi"
include "network/weight_gradient.pxi"
include "network/backward.pxi"
include "network/folding.pxi"
include "network/loss.pxi"
include "network/one_pass.pxi"
include "network/passes.pxi"
include "network/few_examples.pxi"
include "training/optimizers.pxi"
include "training/fused_update.pxi"
include "training/moments.pxi"
include "training/shuffling.pxi"
include "training/schedules.pxi"
include "training/ranks.pxi"
include "training/steps.pxi"
include "python/arrays.pxi"
include "python/scratch.pxi"
include "python/training_lock.pxi"
include "python/optimizers.pxi"
include "python/engine.pxi"
include "python/functions.pxi"

cnp.import_array()

lanes = LANES
panel = PANEL
chunk = CHUNK
activation_work = ACTIVATION_WORK
shared_rows = SHARED_ROWS
packed_columns = PACKED_COLUMNS
