"""The step of one network that several processes (the ranks of a communicator, as MPI has them) train together.

Every rank has all parameters and makes the same updates. The blocks of a batch are shared out, rank by rank in their order.
In a step each rank computes the partial gradients of its blocks, and all ranks get all of them. So each rank adds
the same numbers in the same order as one process would: bits do not depend on the number of ranks. The rest of a step
(penalty, clipping, update) is computed by each rank again, and a batch of one block, too: that is cheaper than a message.

An exchange is a header, and the partial gradients only if the headers of all ranks agree. A header has a fixed size and says
where its rank is, so a rank that ends its fit for any reason takes part in the next header, whatever the others wait for, and
all of them stop (`fusegrad.distributed`). Both messages are sent from compiled code: between them no signal handler runs, which
could end the call while the others wait for the second one.

Two reductions. "blocks": as above; a rank receives the partial gradients of all blocks. "ranks": each rank computes its share
of the batch as a batch of its own, and one sum goes through `Allreduce`: as many bytes as parameters, for any number of blocks,
but the order of the sum depends on the number of ranks.

Rejected: a tree over the blocks, so that a rank sends O(log n_blocks) partial sums and the bits still do not depend on the ranks
(one process would have to add in that order, too, and the messages of small networks are bounded by latency, not by bytes);
one message with header and gradient (a rank that stops would have to know how long the message is that the others wait for).
"""

cdef enum:
    # Places in a header, float64. The first four must agree.
    HEADER_STATUS = 0           # 0: computing
    HEADER_PLACE = 1            # where the rank is: IN_STEP, or a place in Python
    HEADER_NUMBER = 2           # of the step
    HEADER_LENGTH = 3           # values in the message that follows
    HEADER_WEIGHT = 4           # "ranks": the sum of the weights of a rank's share
    HEADER_LOSSES = 5           # of its blocks, of which there are at most 64
    HEADER_TEXT = 69            # of an error
    HEADER_TEXT_BYTES = 2048
    HEADER_AGREED = 4           # so many numbers must agree
    IN_STEP = 1

#: The places that `fusegrad.distributed` uses.
HEADER = {
    "status": HEADER_STATUS, "place": HEADER_PLACE, "number": HEADER_NUMBER, "weight": HEADER_WEIGHT, "losses": HEADER_LOSSES,
    "text": HEADER_TEXT, "text_bytes": HEADER_TEXT_BYTES, "agreed": HEADER_AGREED,
}


cdef struct Ranks:
    PyObject* group             # fusegrad.distributed.Group; NULL: this process trains alone
    int rank
    int size
    bint by_rank                # the reduction "ranks"
    bint partitioned            # each rank has examples of its own, one rank's after the other's
    bint is_sent                # the partial gradients of this batch are: they are written to `own`
    double* header              # this rank's
    double* headers             # those of all ranks, header_length values each
    Py_ssize_t header_length
    real* own                   # this rank's message
    real* gathered              # the messages of all ranks, or their sum
    const Py_ssize_t* first_blocks  # the first block of each rank, and the end; of a full batch of partitioned examples. Or NULL
    Py_ssize_t n_own            # examples of this rank, if partitioned,
    Py_ssize_t n_before         # and of the ranks before
    double whole_weight         # the sum of the weights of all examples of all ranks, if partitioned
    Py_ssize_t shared_block     # a block that has examples of other ranks, copied to this one; -1: none
    Matrix shared_x
    Matrix shared_y
    Matrix shared_weights


cdef inline Py_ssize_t first_block_of(const Ranks* ranks, int rank, Py_ssize_t n_blocks) noexcept nogil:
    """The first block of a rank; that of rank `size` is the end."""
    if ranks.first_blocks != NULL:
        return ranks.first_blocks[rank]
    return minimum(rank * ceil_div(n_blocks, ranks.size), n_blocks)


cdef inline Py_ssize_t most_blocks_of(const Ranks* ranks, Py_ssize_t n_blocks) noexcept nogil:
    """The blocks of the rank that has the most: the messages of all ranks have this size."""
    cdef Py_ssize_t most = 0
    cdef int rank
    for rank in range(ranks.size):
        most = maximum(most, first_block_of(ranks, rank + 1, n_blocks) - first_block_of(ranks, rank, n_blocks))
    return most


cdef inline Py_ssize_t share_start(const Ranks* ranks, int rank, Py_ssize_t first, Py_ssize_t count, Py_ssize_t n) noexcept nogil:
    """The reduction "ranks": the first example of a rank's share of the examples first ... first + count of n. Partitioned: of
    the rank's own examples, in proportion."""
    if ranks.partitioned:
        return first * ranks.n_own // n
    return first + count * rank // ranks.size


cdef int send_headers(object group, double place, double number, double length) except -1:
    """Exchanges headers; raises the error of a rank that has stopped, or is at another place. The messages come next."""
    cdef double* header = <double*>cnp.PyArray_DATA(<cnp.ndarray>group.header)
    cdef double* headers = <double*>cnp.PyArray_DATA(<cnp.ndarray>group.headers)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(<cnp.ndarray>group.header), rank
    cdef int i
    header[HEADER_STATUS] = 0
    header[HEADER_PLACE] = place
    header[HEADER_NUMBER] = number
    header[HEADER_LENGTH] = length
    group.closed = True         # until the whole exchange has succeeded
    group.comm.Allgather(group.header, group.headers)
    for rank in range(cnp.PyArray_SIZE(<cnp.ndarray>group.headers) // n):
        for i in range(HEADER_AGREED):
            if headers[rank * n + i] != header[i]:
                group.raise_disagreement()
                return -1
    return 0


cdef int gather_blocks(Ranks* ranks, Py_ssize_t step, Py_ssize_t length) except -1:
    """gathered = the messages of all ranks."""
    cdef object group = <object>ranks.group
    send_headers(group, IN_STEP, <double>step, <double>length)
    group.comm.Allgather(group.own[:length], group.gathered[:ranks.size * length])
    group.closed = False
    return 0


cdef int add_shares(Ranks* ranks, Py_ssize_t step, Py_ssize_t length) except -1:
    """gathered = sum over ranks of (their weight / weight of the batch) times their message."""
    cdef object group = <object>ranks.group
    cdef double total = 0
    cdef int rank
    send_headers(group, IN_STEP, <double>step, <double>length)
    for rank in range(ranks.size):
        total += ranks.headers[rank * ranks.header_length + HEADER_WEIGHT]
    if total > 0:
        scale(ranks.own, length, ranks.header[HEADER_WEIGHT] / total, ranks.own)
    group.comm.Allreduce(group.own[:length], group.gathered[:length])
    group.closed = False
    return 0


ctypedef int (*Messages)(Ranks* ranks, Py_ssize_t step, Py_ssize_t length) noexcept      # an exception stays set


cdef void exchange_messages(
    Ranks* ranks, Messages messages, Py_ssize_t step, Py_ssize_t length, Interrupt* interrupt,
) noexcept nogil:
    """An exchange with the other ranks, in the leader; if it fails, the call stops."""
    with gil:
        if messages(ranks, step, length) < 0:
            raise_flag(&interrupt.stop)
