"""Kernels as Python functions: matrix product, activations, and what _engine/moments.py,
training.py and steps.py need.

`matmul` and `activation` have a `_direct` form for small arrays that can be used in place: it calls Python only to allocate
the result. It returns None for all other arguments, which `fusegrad.kernels` then validates and converts.
"""

cdef struct Product:
    # What the threads of one product share.
    Matrix a
    Matrix b
    Matrix out
    bint by_columns
    Py_ssize_t n_shares
    char* scratch           # a part of scratch_size bytes per thread
    Py_ssize_t scratch_size
    Interrupt interrupt


def matmul(cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray out not None, int n_threads):
    """out (n, k) = a (n, d) b (d, k). out has contiguous rows and shares no memory with a and b.

    The threads share the columns, or the rows if there are more of them; each element is computed by one thread.
    """
    cdef Product product
    read_matrix("a", a, -1, -1, &product.a)
    read_matrix("b", b, product.a.columns, -1, &product.b)
    read_matrix("out", out, product.a.rows, product.b.columns, &product.out)
    run_product(&product, n_threads)


cdef int run_product(Product* product, int n_threads) except -1:
    """The product of its matrices, whose shapes have been checked."""
    cdef Team team
    cdef double work = <double>product.a.rows * product.a.columns * product.b.columns
    product.interrupt = NO_INTERRUPT
    product.by_columns = product.out.columns >= product.out.rows
    product.n_shares = n_threads
    product.scratch_size = size_of(multiply_scratch(product.a.rows, product.a.columns, product.b.columns), 1)
    cdef _Scratch scratch = borrow_scratch(size_of(product.scratch_size // sizeof(real), n_threads))
    product.scratch = scratch.data
    with nogil:
        run_team(&team, &product.interrupt, n_threads, work, multiply_all, product)
    check(&product.interrupt)
    return_scratch(scratch)
    return 0


cdef void multiply_all(void* data, Team* team) noexcept nogil:
    cdef Product* product = <Product*>data
    run_stage(team, &product.interrupt, multiply_share, product.n_shares)


def matmul_direct(a, b, out, Py_ssize_t most, int n_threads):
    """`matmul`, if it takes at most `most` multiply-adds and the arrays can be used in place; else None.

    A new array is made if out is None.
    """
    cdef cnp.ndarray left, right, product
    cdef cnp.npy_intp shape[2]
    cdef Matrix x, y, target
    cdef Product shared
    cdef _Scratch scratch
    cdef Interrupt interrupt = NO_INTERRUPT
    if not (is_own(a, 2) and is_own(b, 2) and type(a) is cnp.ndarray and type(b) is cnp.ndarray):
        return None
    left, right = a, b
    read_matrix("a", left, -1, -1, &x)
    read_matrix("b", right, -1, -1, &y)
    if x.columns != y.rows or x.rows == 0 or x.columns == 0 or y.columns == 0:
        return None
    if <double>x.rows * <double>x.columns * <double>y.columns > most:
        return None
    shape[0], shape[1] = x.rows, y.columns
    if out is None:
        product = cnp.PyArray_SimpleNew(2, shape, REAL_TYPE)
    else:
        if not (is_output(out, True) and cnp.PyArray_NDIM(<cnp.ndarray>out) == 2):
            return None
        product = out
        if not (
            cnp.PyArray_DIM(product, 0) == shape[0] and cnp.PyArray_DIM(product, 1) == shape[1]
            and apart(left, product) and apart(right, product)
        ):
            return None
    read_matrix("out", product, x.rows, y.columns, &target)
    if n_threads > 1:
        shared.a, shared.b, shared.out = x, y, target
        run_product(&shared, n_threads)
        return product
    scratch = borrow_scratch(multiply_scratch(x.rows, x.columns, y.columns) * sizeof(real))
    with nogil:
        multiply(x, y, <real*>target.data, target.columns, <real*>scratch.data, &interrupt, 0)
    check(&interrupt)
    return_scratch(scratch)
    return product


cdef void multiply_share(void* data, int thread, Py_ssize_t number) noexcept nogil:
    """A stage: one share of `multiply`."""
    cdef Product* product = <Product*>data
    cdef Matrix a = product.a, b = product.b, c = product.out
    cdef Vectors which = vectors_of(a, b)
    cdef Py_ssize_t n = c.columns if product.by_columns else c.rows
    cdef Py_ssize_t start = panel_share(n, number, product.n_shares), stop = panel_share(n, number + 1, product.n_shares)
    if start == stop:
        return
    if product.by_columns:
        b.data += start * b.column
        b.columns = stop - start
        c.data += start * c.column
    else:
        a.data += start * a.row
        a.rows = stop - start
        c.data += start * c.row
    multiply_part(
        which, a, b, <real*>c.data, c.row // <Py_ssize_t>sizeof(real),
        <real*>(product.scratch + thread * product.scratch_size), &product.interrupt, thread)


cdef Py_ssize_t panel_share(Py_ssize_t n, Py_ssize_t number, Py_ssize_t n_shares) noexcept nogil:
    """The first of n rows or columns of a share, a multiple of PANEL."""
    return minimum(n, panels(n) * number // n_shares * PANEL)


cdef enum:
    CHUNK = 4096                # elements of a row that make a chunk
    ACTIVATION_WORK = 16        # multiply-adds that take as long as a sigmoid


cdef void activate_chunk(int kind, Matrix z, Matrix out, Py_ssize_t chunk) noexcept nogil:
    """Chunk number `chunk` of out = f(z), row by row."""
    cdef Py_ssize_t a_row = (z.columns + CHUNK - 1) // CHUNK
    cdef Py_ssize_t i = chunk // a_row, j = chunk % a_row * CHUNK, lane, n
    cdef Py_ssize_t count = minimum(CHUNK, z.columns - j)
    cdef const char* source = z.data + i * z.row + j * z.column
    cdef char* target = out.data + i * out.row + j * out.column
    cdef real lanes[PANEL]
    n = count // LANES * LANES
    if z.column == sizeof(real) and out.column == sizeof(real):
        activate(kind, <const real*>source, <real*>target, n)
    else:
        n = 0
    while n < count:            # the rest, or all elements if they are strided, one vector at a time
        for lane in range(minimum(LANES, count - n)):
            lanes[lane] = load_unaligned(source + (n + lane) * z.column)
        for lane in range(minimum(LANES, count - n), LANES):
            lanes[lane] = 0
        activate(kind, lanes, lanes, LANES)
        for lane in range(minimum(LANES, count - n)):
            store_unaligned(target + (n + lane) * out.column, lanes[lane])
        n += LANES


cdef struct Activated:
    # What the threads of one activation share.
    int kind
    Matrix z
    Matrix out
    Py_ssize_t n_chunks
    Py_ssize_t piece        # chunks that a thread takes at a time
    Interrupt interrupt


cdef void activate_piece(void* data, int thread, Py_ssize_t piece) noexcept nogil:
    """A stage: some chunks."""
    cdef Activated* job = <Activated*>data
    cdef Py_ssize_t chunk
    for chunk in range(piece * job.piece, minimum((piece + 1) * job.piece, job.n_chunks)):
        if check_interrupt(&job.interrupt, thread, ACTIVATION_WORK * CHUNK):
            return
        activate_chunk(job.kind, job.z, job.out, chunk)


cdef void activate_all(void* data, Team* team) noexcept nogil:
    cdef Activated* job = <Activated*>data
    job.n_chunks = job.z.rows * ceil_div(job.z.columns, CHUNK)
    job.piece = ceil_div(job.n_chunks, 8 * team.n_threads)
    run_stage(team, &job.interrupt, activate_piece, ceil_div(job.n_chunks, job.piece))


def activation_direct(int kind, z, out, Py_ssize_t most):
    """`activation` of at most `most` elements, if the arrays are contiguous and can be used in place; else None.

    A new array is made if out is None.
    """
    cdef Activated job
    cdef Team team
    if not (
        type(z) is cnp.ndarray
        and cnp.PyArray_TYPE(<cnp.ndarray>z) == REAL_TYPE
        and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>z)
        and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>z)
        and 0 < cnp.PyArray_SIZE(<cnp.ndarray>z) <= most
    ):
        return None
    # No Python code runs from here to the kernel: allocating an array does not start the garbage collector.
    if out is None:
        out = cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(<cnp.ndarray>z), cnp.PyArray_DIMS(<cnp.ndarray>z), REAL_TYPE)
    elif not (
        is_output(out, True)
        and cnp.PyArray_SAMESHAPE(<cnp.ndarray>z, <cnp.ndarray>out)
        and (out is z or apart(<cnp.ndarray>z, <cnp.ndarray>out))
    ):
        return None
    job.kind = kind
    job.z = Matrix(cnp.PyArray_BYTES(<cnp.ndarray>z), 1, cnp.PyArray_SIZE(<cnp.ndarray>z), 0, sizeof(real))
    job.out = job.z
    job.out.data = cnp.PyArray_BYTES(<cnp.ndarray>out)
    job.interrupt = NO_INTERRUPT
    with nogil:
        run_team(&team, &job.interrupt, 1, 0, activate_all, &job)
    check(&job.interrupt)
    return out


def activation(int kind, cnp.ndarray z not None, cnp.ndarray out not None, int n_threads):
    """out = f(z), element by element; in place where out is z. kind: an index into ACTIVATIONS."""
    cdef Activated job
    cdef Team team
    job.kind = kind
    job.interrupt = NO_INTERRUPT
    read_matrix("z", z, -1, -1, &job.z)
    read_matrix("out", out, job.z.rows, job.z.columns, &job.out)
    with nogil:
        run_team(
            &team, &job.interrupt, n_threads, <double>ACTIVATION_WORK * job.z.rows * job.z.columns, activate_all, &job)
    check(&job.interrupt)


def is_finite(cnp.ndarray parameters not None):
    """Whether all elements are finite."""
    cdef Py_ssize_t n = cnp.PyArray_SIZE(parameters)
    return all_within(GREATEST, read_flat("parameters", parameters, n), 0, n)


cdef enum:
    CENTRED_EXAMPLES = 64       # examples at a time, if those of a feature are not contiguous: they stay in the L1


def centre(cnp.ndarray X not None, const double[::1] shift not None, double[:, :] out not None):
    """out (n, m) = X - shift, one value per row, in float64; out has contiguous rows.

    NumPy would convert and subtract in two passes: one pass saves a fifth of the time of the moments.
    """
    cdef Matrix x
    cdef Py_ssize_t i, j, start = 0, stop
    cdef const char* row
    cdef double* place
    cdef double s
    read_matrix("X", X, shift.shape[0], -1, &x)
    if not (out.shape[0] == x.rows and out.shape[1] == x.columns and out.strides[1] == sizeof(double)):
        raise ValueError(f"out: expected contiguous rows, shape ({x.rows}, {x.columns})")
    with nogil:
        while start < x.columns:
            stop = x.columns if x.column == sizeof(real) else minimum(start + CENTRED_EXAMPLES, x.columns)
            for i in range(x.rows):
                row = x.data + i * x.row
                place = &out[i, 0]
                s = shift[i]
                if x.column == sizeof(real):        # a constant stride, so that the loop is vectorized
                    for j in range(start, stop):
                        place[j] = load_unaligned(row + j * sizeof(real)) - s
                else:
                    for j in range(start, stop):
                        place[j] = load_unaligned(row + j * x.column) - s
            start = stop


def permutation(bit_generator, Py_ssize_t n):
    """The permutation of n examples that an epoch of `Engine.train` draws."""
    cdef Py_ssize_t[::1] order = np.empty(n, dtype=np.intp)
    cdef bitgen_t* bits = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    cdef object lock = bit_generator.lock
    cdef Interrupt interrupt = NO_INTERRUPT
    with nogil:
        shuffle(&order[0], n, bits, <PyObject*>lock, &interrupt)
    check(&interrupt)
    return np.asarray(order)


def copy_examples(cnp.ndarray source not None, cnp.ndarray target not None):
    """target (n, m) = source. The values of an example are contiguous in target, which is new."""
    cdef Matrix m, out
    read_matrix("source", source, -1, -1, &m)
    read_matrix("target", target, m.rows, m.columns, &out)
    if out.row != sizeof(real) or not (out.columns == 1 or out.column == m.rows * <Py_ssize_t>sizeof(real)):
        raise array_error("target", "contiguous examples", target)
    with nogil:
        pack_examples(m, NULL, 0, m.columns, <real*>out.data)


def learning_rates(int kind, const double[::1] parameters not None, long long first, double[::1] out not None):
    """out = the rates of the steps first, first + 1, ... by a schedule of `SCHEDULES`, with its parameters."""
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = rate_of(kind, &parameters[0], first + i)


def communicate(group, double place, double number, double length, calls):
    """Exchanges headers with the other ranks and, if all are at this place, makes the calls, without a signal handler in between.

    See training/ranks.pxi, and `fusegrad.distributed`.
    """
    send_headers(group, place, number, length)
    for call in calls:
        call()
    group.closed = False


@cython.final
cdef class LastExchange:
    """A context for a fit by several processes. However it ends, this rank takes part in one more exchange of headers.

    In compiled code, since between an exception and this exchange no signal handler may run that raises another one: the other
    ranks would wait for ever.
    """
    cdef object group
    cdef double place

    def __init__(self, group, double place):
        self.group, self.place = group, place

    def __enter__(self):
        return self.group

    def __exit__(self, kind, error, traceback):
        cdef object group = self.group
        cdef double* header
        cdef bytes text
        if group.closed:
            return
        if kind is None:
            send_headers(group, self.place, 0, 0)
            return
        try:
            text = f"{kind.__name__}: {error}".encode("utf-8", "replace")
        except BaseException:       # of the exception's own __str__
            text = kind.__name__.encode("utf-8", "replace")
        header = <double*>cnp.PyArray_DATA(<cnp.ndarray>group.header)
        memset(header + HEADER_TEXT, 0, HEADER_TEXT_BYTES)
        memcpy(header + HEADER_TEXT, <const char*>text, minimum(HEADER_TEXT_BYTES, len(text)))
        header[HEADER_STATUS] = 1
        group.closed = True
        group.comm.Allgather(group.header, group.headers)
