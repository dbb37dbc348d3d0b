"""Scratch memory of a call. A module keeps one buffer, for the next call."""

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef _Scratch spare_scratch = None      # borrowed by one call at a time
cdef object spare_guard = object()      # its lock in free-threaded Python


@cython.final
cdef class _Scratch:
    """Uninitialised memory, aligned to a cache line; returned to the module for the next call."""
    cdef unsigned char[::1] memory
    cdef char* data

    def __cinit__(self, Py_ssize_t size):
        self.memory = np.empty(size + LINE, dtype=np.uint8)
        self.data = <char*>&self.memory[0]
        self.data += -<Py_ssize_t>self.data & (LINE - 1)


cdef _Scratch borrow_scratch(Py_ssize_t size):
    global spare_scratch
    cdef _Scratch scratch
    with cython.critical_section(spare_guard):
        scratch, spare_scratch = spare_scratch, None
    if scratch is not None and scratch.memory.shape[0] >= size + LINE:
        return scratch
    return _Scratch(size)


cdef void return_scratch(_Scratch scratch):
    """Allocates nothing, so that it cannot fail after the parameters were written."""
    global spare_scratch
    if scratch.memory.shape[0] <= 1 << 26:
        with cython.critical_section(spare_guard):
            spare_scratch = scratch


cdef Py_ssize_t size_of(reals, pieces) except -1:
    """The bytes of `pieces` buffers of `reals` reals, each of whole cache lines. Computed with Python's integers, which do
    not overflow."""
    size = -(-reals * sizeof(real) // LINE) * LINE * pieces
    if size > PY_SSIZE_T_MAX // 2:      # so that a few sizes can be added without overflow
        raise MemoryError(f"expected at most {PY_SSIZE_T_MAX // 2} bytes of scratch memory, got {size}")
    return size
