"""Reading NumPy's array structs for the kernels, and deciding which arrays need no conversion.

Functions `is_...` decide whether an array can be used in place, without a conversion; all other arrays go through
`fusegrad._engine.validation`.

Between that decision and the kernel, another thread or a finalizer may change the shape of an array. So `read_matrix` and
`read_flat`, which read a struct for a kernel, compare it with the planned sizes. The kernel is given the values that were
read, not the array.
"""

cdef int REAL_TYPE = cnp.NPY_FLOAT64 if sizeof(real) == 8 else cnp.NPY_FLOAT32


# NumPy's struct is read directly: a memoryview costs 0.25 microseconds per argument, as much as the arithmetic of a whole
# step of a small network.

cdef inline bint is_own(object a, int ndim) noexcept:
    """Whether a is an array of this module's dtype, in the processor's byte order."""
    return (
        cnp.PyArray_Check(a)
        and cnp.PyArray_TYPE(<cnp.ndarray>a) == REAL_TYPE
        and cnp.PyArray_NDIM(<cnp.ndarray>a) == ndim
        and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>a)
    )


cdef object shape_error(str name, Py_ssize_t rows, Py_ssize_t columns, object a):
    """The error for an array that is not a matrix of this shape; -1: any size."""
    shape = f"({rows if rows >= 0 else 'n'}, {columns if columns >= 0 else 'm'})"
    return array_error(name, f"shape {shape}", a)


cdef object array_error(str name, str expected, object a):
    """The error for an array that is not what the call was planned for."""
    if not (cnp.PyArray_Check(a) and cnp.PyArray_TYPE(<cnp.ndarray>a) == REAL_TYPE and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>a)):
        got = f"dtype {a.dtype}" if cnp.PyArray_Check(a) else type(a).__name__
        return TypeError(f"{name}: expected an array of {np.dtype(np.float64 if sizeof(real) == 8 else np.float32)}, got {got}")
    return ValueError(f"{name}: expected {expected}, got shape {a.shape}, strides {a.strides}; was it reshaped or resized?")


cdef int read_matrix(str name, cnp.ndarray a, Py_ssize_t rows, Py_ssize_t columns, Matrix* m) except -1:
    """Reads the struct of an array into m, and checks that it is a (rows, columns) matrix; -1: any size."""
    if not is_own(a, 2):
        raise shape_error(name, rows, columns, a)
    m.data = cnp.PyArray_BYTES(a)
    m.rows = cnp.PyArray_DIM(a, 0)
    m.columns = cnp.PyArray_DIM(a, 1)
    m.row = cnp.PyArray_STRIDE(a, 0)
    m.column = cnp.PyArray_STRIDE(a, 1)
    if m.columns == 1:      # the stride of a dimension of size 1 is arbitrary in NumPy
        m.column = sizeof(real)
    if m.rows == 1:
        m.row = m.columns * m.column
    if (m.rows != rows and rows >= 0) or (m.columns != columns and columns >= 0):
        raise shape_error(name, rows, columns, a)
    return 0


cdef bint is_state(object a, Py_ssize_t rows, Py_ssize_t columns):
    """Whether a can be written to as an optimizer's state (rows, columns)."""
    return (
        is_own(a, 2)
        and cnp.PyArray_DIM(<cnp.ndarray>a, 0) == rows
        and cnp.PyArray_DIM(<cnp.ndarray>a, 1) == columns
        and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a)
        and cnp.PyArray_ISALIGNED(<cnp.ndarray>a)
        and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>a)
    )


cdef real* read_flat(str name, cnp.ndarray a, Py_ssize_t n) except NULL:
    """The data of a contiguous array, which is checked to have n elements."""
    if not (is_own(a, 1) and cnp.PyArray_DIM(a, 0) == n and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a)):
        raise array_error(name, f"a contiguous array of shape ({n},)", a)
    return <real*>cnp.PyArray_DATA(a)


cdef double* read_doubles(str name, cnp.ndarray a) except NULL:
    """The data of a contiguous float64 array of any size."""
    if not (
        cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT64 and cnp.PyArray_ISNOTSWAPPED(a) and cnp.PyArray_NDIM(a) == 1
        and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a)
    ):
        raise array_error(name, "a contiguous float64 array of one dimension", a)
    return <double*>cnp.PyArray_DATA(a)


cdef Py_ssize_t* read_order(cnp.ndarray a, Py_ssize_t n) except NULL:
    """The data of a contiguous array of n numbers of examples or blocks, which are not checked."""
    if not (cnp.PyArray_TYPE(a) == cnp.NPY_INTP and cnp.PyArray_SIZE(a) == n and cnp.PyArray_IS_C_CONTIGUOUS(a)):
        raise array_error("order", f"{n} contiguous integers", a)
    return <Py_ssize_t*>cnp.PyArray_DATA(a)


cdef void shift(Matrix* m, Py_ssize_t n) noexcept:
    """Numbers the columns from n on, not from 0."""
    if m.data != NULL:
        m.data -= n * m.column


cpdef bint is_input(X, Py_ssize_t n_features):
    """Whether X (n_features, m), m >= 1, can be used in place."""
    return (
        is_own(X, 2)
        and type(X) is cnp.ndarray
        and cnp.PyArray_DIM(<cnp.ndarray>X, 0) == n_features
        and cnp.PyArray_DIM(<cnp.ndarray>X, 1) > 0
    )


cpdef bint is_batch(X, y, parameters, Py_ssize_t n_features, Py_ssize_t n_outputs):
    """Whether X (n_features, m) and y (n_outputs, m), m >= 1, can be used in place.

    They cannot if they share memory with the parameters, which a step overwrites.
    """
    return (
        is_own(X, 2)
        and is_own(y, 2)
        and type(X) is cnp.ndarray
        and type(y) is cnp.ndarray
        and cnp.PyArray_DIM(<cnp.ndarray>X, 0) == n_features
        and cnp.PyArray_DIM(<cnp.ndarray>y, 0) == n_outputs
        and cnp.PyArray_DIM(<cnp.ndarray>X, 1) == cnp.PyArray_DIM(<cnp.ndarray>y, 1)
        and cnp.PyArray_DIM(<cnp.ndarray>X, 1) > 0
        and (owns_its_data(<cnp.ndarray>X) or apart(<cnp.ndarray>X, <cnp.ndarray>parameters))
        and (owns_its_data(<cnp.ndarray>y) or apart(<cnp.ndarray>y, <cnp.ndarray>parameters))
    )


cpdef bint is_target(out, X, parameters, Py_ssize_t n_outputs):
    """Whether predictions for X can be written to `out` (n_outputs, m) in place."""
    return (
        is_output(out, True)
        and cnp.PyArray_NDIM(<cnp.ndarray>out) == 2
        and cnp.PyArray_DIM(<cnp.ndarray>out, 0) == n_outputs
        and cnp.PyArray_DIM(<cnp.ndarray>out, 1) == cnp.PyArray_DIM(<cnp.ndarray>X, 1)
        and apart(<cnp.ndarray>X, <cnp.ndarray>out)
        and apart(<cnp.ndarray>parameters, <cnp.ndarray>out)
    )


cdef bint is_output(object out, bint contiguous):
    """Whether a result can be written to `out` without a conversion."""
    return (
        type(out) is cnp.ndarray
        and cnp.PyArray_TYPE(<cnp.ndarray>out) == REAL_TYPE
        and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>out)
        and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
        and cnp.PyArray_ISALIGNED(<cnp.ndarray>out)
        and (not contiguous or cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>out))
    )


cdef bint owns_its_data(cnp.ndarray a) noexcept:
    """If so, the memory belongs to no other array; asked first, since it is cheap."""
    return cnp.PyArray_CHKFLAGS(a, cnp.NPY_ARRAY_OWNDATA)


cdef void read_extent(cnp.ndarray a, char** start, char** stop) noexcept:
    """The addresses of the first byte, and past the last byte, of an array that is not empty."""
    cdef int i
    cdef Py_ssize_t reach
    start[0] = stop[0] = cnp.PyArray_BYTES(a)
    for i in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i)
        if reach < 0:
            start[0] += reach
        else:
            stop[0] += reach
    stop[0] += sizeof(real)


cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the address ranges of two arrays of this dtype, not empty, are disjoint; False for interleaved arrays, too."""
    cdef char* a_start
    cdef char* a_stop
    cdef char* b_start
    cdef char* b_stop
    read_extent(a, &a_start, &a_stop)
    read_extent(b, &b_start, &b_stop)
    return a_stop <= b_start or b_stop <= a_start
