"""A caller's matrices, of any strides, and their packed copies: panels of a right factor, rows of a left one."""

cdef struct Matrix:
    # A caller's matrix: element (i, j) is at data + i * row + j * column, with strides in bytes and any alignment.
    char* data
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t row
    Py_ssize_t column

cdef enum:
    PACKED_ROWS = 8         # rows of A that are packed together: a power of two, at least ROWS
    NEAR_BYTES = 1 << 20    # the L2: in a larger matrix the step from row to row of a panel is slow


cdef inline bint is_real_aligned(Matrix m) noexcept nogil:
    """Whether the data pointer and the strides are multiples of sizeof(real)."""
    return (<Py_ssize_t>m.data | m.row | m.column) % <Py_ssize_t>sizeof(real) == 0


cdef inline bint is_row_major(Matrix m) noexcept nogil:
    return m.column == sizeof(real) and is_real_aligned(m)


cdef inline Py_ssize_t absolute_stride(Py_ssize_t stride) noexcept nogil:
    return stride if stride > 0 else -stride


cdef inline bint exceeds_l2(Matrix m) noexcept nogil:
    return absolute_stride(m.row) * m.rows > NEAR_BYTES


cdef inline Matrix part(Matrix m, Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    """The submatrix of m that starts at a row and a column."""
    m.data += row * m.row + column * m.column
    m.rows -= row
    m.columns -= column
    return m


cdef inline Matrix transposed(Matrix m) noexcept nogil:
    return Matrix(m.data, m.columns, m.rows, m.column, m.row)


cdef inline Left in_place(Matrix a) noexcept nogil:
    return Left(<const real*>a.data, a.row // <Py_ssize_t>sizeof(real), a.column // <Py_ssize_t>sizeof(real))


cdef inline Py_ssize_t panels(Py_ssize_t n) noexcept nogil:
    """How many panels hold n columns."""
    return ceil_div(n, PANEL)


# ---- copies ------------------------------------------------------------------------------------------

cdef inline void copy(const char* source, Py_ssize_t n, real* target) noexcept nogil:
    """Copies n contiguous elements from any address."""
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(target + i, load(<const real*>source + i))
        i += LANES
    if i < n:
        store_first(target + i, load_first(<const real*>source + i, n - i), n - i)


cdef void pack_rows(Matrix b, Py_ssize_t depth, Py_ssize_t columns, int vectors, real* packed) noexcept nogil:
    """Packs the first `depth` rows and `columns` columns of a row-major b in panels; the last panel is padded with zeros.

    b is read in long contiguous runs, row by row. The next row is prefetched: up to 8 % if A has few rows.
    """
    cdef Py_ssize_t k, p, v, width = vectors * LANES
    cdef const char* row
    cdef real* place
    for k in range(depth):
        row = b.data + k * b.row
        place = packed + k * width
        for p in range(columns // width):
            for v in range(vectors):
                store(place + v * LANES, load(<const real*>row + p * width + v * LANES))
                prefetch(2, <const real*>(row + b.row) + p * width + v * LANES)
            place += depth * width
        if columns % width:
            for v in range(vectors):
                store(place + v * LANES, splat(0))
            copy(row + (columns // width) * width * sizeof(real), columns % width, place)


cdef void pack_panel(Matrix b, Py_ssize_t depth, Py_ssize_t columns, int vectors, real* packed) noexcept nogil:
    """Packs the first `depth` rows and `columns` columns of b as one panel, padded with zeros."""
    cdef Py_ssize_t k = 0, lane, v, width = vectors * LANES
    cdef vreal square[LANES]
    cdef real padding[LANES]
    cdef const real* places[LANES]
    if b.row == sizeof(real):           # b is column-major
        store(padding, splat(0))
        while k + LANES <= depth:
            for v in range(vectors):
                for lane in range(LANES):
                    places[lane] = padding
                    if v * LANES + lane < columns:
                        places[lane] = <const real*>(b.data + (v * LANES + lane) * b.column) + k
                load_transposed(places, square)
                for lane in range(LANES):
                    store(packed + (k + lane) * width + v * LANES, square[lane])
            k += LANES
    while k < depth:
        for lane in range(columns):
            packed[k * width + lane] = load_unaligned(b.data + k * b.row + lane * b.column)
        for lane in range(columns, width):
            packed[k * width + lane] = 0
        k += 1


cdef void pack_left(Matrix a, int rows, Py_ssize_t depth, real* packed) noexcept nogil:
    """Packs the first `rows` rows and `depth` columns of a, column after column, PACKED_ROWS elements apart."""
    cdef Py_ssize_t k = 0, i
    cdef vreal block[LANES + PACKED_ROWS]
    if a.column == sizeof(real):
        while k + LANES <= depth:
            for i in range(PACKED_ROWS):
                block[i] = load(<const real*>(a.data + i * a.row) + k) if i < rows else splat(0)
            transpose(PACKED_ROWS, block)
            for i in range(PACKED_ROWS):
                store(packed + k * PACKED_ROWS + i * LANES, block[i])
            k += LANES
    elif a.row == sizeof(real):
        while k < depth:
            copy(a.data + k * a.column, rows, packed + k * PACKED_ROWS)
            k += 1
    while k < depth:
        for i in range(rows):
            packed[k * PACKED_ROWS + i] = load_unaligned(a.data + i * a.row + k * a.column)
        k += 1


cdef void pack_right(Matrix b, Py_ssize_t depth, Py_ssize_t columns, int vectors, real* packed) noexcept nogil:
    """Packs the first `depth` rows and `columns` columns of b in panels, one after another."""
    cdef Py_ssize_t j = 0, width = vectors * LANES
    if b.column == sizeof(real):
        pack_rows(b, depth, columns, vectors, packed)
        return
    while j < columns:
        pack_panel(part(b, 0, j), depth, minimum(width, columns - j), vectors, packed + j * depth)
        j += width
