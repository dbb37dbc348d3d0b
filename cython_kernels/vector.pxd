"""The vector type of the module being compiled; see vector.h."""

from libc.stdint cimport uint32_t

cdef extern from "vector.h" nogil:
    # Vector types are declared as scalars: Cython emits C operators, which the compiler applies to vectors.
    ctypedef float real
    ctypedef float vreal
    ctypedef float vhalf
    ctypedef float vcolumn
    ctypedef int Places "vbits"
    ctypedef int Magnitudes "vbits"
    ctypedef unsigned long long vwords
    const real POWER_ORIGIN
    const real SMALLEST_NORMAL
    const real SATURATED            # exp(-SATURATED) is the least normal number
    const real GREATEST
    const real LARGEST_TANH         # from which on tanh is 1
    const real LOG_TWO_HIGH         # log 2 in two parts
    const real LOG_TWO_LOW

    enum:
        LANES           # values in a vector
        COLUMN          # rows of a block of W whose columns are vectors
        QUAD            # columns of it
        COLUMN_SUMS     # such vectors of sums that stay in registers
        SUM_CHAINS      # of a sum over many inputs
        DOT_VECTORS     # vectors of a column's length that hold SUM_CHAINS elements
        DOT_ROWS        # rows of a dot product
        DOT_TOGETHER    # examples of a dot product
        ROWS            # micro-tile: ROWS x VECTORS accumulators
        VECTORS
        WIDE_VECTORS    # vectors of a micro-tile for large matrices
        DOUBLE_ROWS     # of a micro-tile of two panels; 0: not used
        MOST_VECTORS    # most vectors of a micro-tile
        TILE_ROWS       # whole micro-tiles: a multiple of ROWS and of DOUBLE_ROWS
        HALF_LANES      # most columns of an edge for which half a vector is used; 0: never
        PANEL           # values in VECTORS vectors: the width of a panel
        GROUP           # vectors of an activation that are evaluated together
        ESTIMATED       # 1: `approximate_quotient` multiplies by the reciprocal estimate, 0: it divides
        LEAST_EXPONENT  # of which the negative is that of the least subnormal number
        LIFT            # exp(z) is scaled by 2^LIFT, so that it is a normal number
        GREATEST_EXPONENT
        TANH_ROWS       # of the table of tanh; 0: there is none
        LANE_ROWS       # block of the lane-wise weight gradient
        LANE_COLUMNS
        LANE_BLOCK      # LANE_ROWS x LANE_COLUMNS
        ROW_SUMS        # rows of a tile that `add_examples` sums at a time
        LINE            # bytes of a cache line
        DEPTH_BLOCK     # blocks of a product of large matrices
        COLUMN_BLOCK
        DEPTH_AHEAD
        ROW_BLOCK
        DEEP_BLOCK

    vreal load(const real* p)
    void store(real* p, vreal v)
    vreal load_first(const real* p, Py_ssize_t n)
    void store_first(real* p, vreal v, Py_ssize_t n)
    vreal splat_group(const real* p, int n)
    vreal even_lanes(vreal a, vreal b)
    vreal odd_lanes(vreal a, vreal b)
    void copy_columns(real* p, const real* q)
    void add_columns(real* p, const real* q)
    vreal exchange(vreal v, const int step)
    real* opaque(real* p)
    void prefetch(const int level, const real* p)
    real load_unaligned(const char* p)
    void store_unaligned(char* p, real x)

    vreal splat(real x)
    vhalf load_half(const real* p)
    vhalf splat_half(real x)
    vreal from_half(vhalf half)
    vcolumn load_column(const real* p)
    void store_column(real* p, vcolumn v)
    vcolumn splat_column(real x)
    vcolumn first_of_column(real x)
    vreal load_twice(const real* p)
    vreal first_of_halves(real x)
    vreal join_columns(vcolumn low, vcolumn high)
    void store_halves(real* low, real* high, vreal v)
    vcolumn load_splat_column(const real* p)
    vcolumn load_column_parts(const real* a, const real* b)
    vcolumn interleave_column_low(vcolumn a, vcolumn b)
    vcolumn interleave_column_high(vcolumn a, vcolumn b)
    vreal load_parts(const real* a, const real* b, const real* c, const real* d)
    vreal interleave_parts_low(vreal a, vreal b)
    vreal interleave_parts_high(vreal a, vreal b)
    vcolumn gather_column(const real* p, Py_ssize_t row)
    vreal interleave_low(vreal a, vreal b)
    vreal interleave_high(vreal a, vreal b)
    vreal spread_groups(vreal v, const int width, Py_ssize_t depth)
    Places places_of(Py_ssize_t n, Py_ssize_t step)
    vreal take_lanes(vreal v, Places places, Py_ssize_t k)
    real first_lane(vreal v)
    vreal keep_first_lanes(vreal v, Py_ssize_t n)

    vreal magnitude(vreal v)
    vreal with_sign_of(vreal v, vreal sign)
    vreal complement_if_positive(vreal z, vreal v)
    vreal where_positive(vreal a, vreal v)
    vreal choose_greater(vreal a, vreal b, vreal x, vreal y)
    vreal choose_equal(vreal a, vreal b, vreal x, vreal y)
    vreal fraction_minus_one(vreal v, vreal x, vreal* n)
    vreal at_most(vreal limit, vreal v)
    vreal at_least(vreal limit, vreal v)
    vreal zero_if_subnormal(vreal a, vreal b, vreal v)
    Magnitudes no_magnitudes()
    Magnitudes greatest(Magnitudes so_far, vreal v)
    real largest_magnitude(Magnitudes magnitudes)
    bint any_exceeds(Magnitudes found, real limit)
    vreal subnormal(vreal units)
    vreal square_root(vreal v)
    vreal multiply_add(vreal a, vreal b, vreal c)
    vhalf multiply_add_half(vhalf a, vhalf b, vhalf c)
    vcolumn multiply_add_column(vcolumn a, vcolumn b, vcolumn c)
    real multiply_add_one(real a, real b, real c)
    double multiply_add_double(double a, double b, double c)
    vreal fused_multiply_add(vreal a, vreal b, vreal c)
    vreal product_error(vreal a, vreal b, vreal product)
    vreal times_complement(vreal t, vreal a)
    vreal power_of_two(vreal place)
    vreal times_power(vreal v, vreal place)
    vreal approximate_quotient(vreal a, vreal b)
    vreal quotient(vreal a, vreal b)
    Places tanh_interval(vreal a)
    vreal tanh_row(int row, Places interval)

    vwords splat_word(uint32_t x)
    vwords words_from(Py_ssize_t first, const int step)
    vwords multiply_words(vwords a, uint32_t b)
    vwords high_words(vwords a)
    vwords join_words(vwords even, vwords odd)
    vreal kept(vwords words, const int half, int least, vreal v)
