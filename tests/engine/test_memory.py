"""Where the memory of parameters and states lies."""

import numpy as np
import pytest
from support import network

import fusegrad as fg
from fusegrad._engine.memory import CACHE_LINE, aligned_zeros


@pytest.mark.parametrize("shape", [(0,), (1,), (74,), (2, 37), (3, 0), (2, 600_000)])
def test_aligned_zeros(shape, dtype):
    array = aligned_zeros(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.c_contiguous and array.flags.writeable
    assert array.ctypes.data % CACHE_LINE == 0 or not array.size
    assert not array.any()


def test_what_a_step_reads_begins_a_cache_line(dtype):
    net = network(6, 8, 2, dtype=dtype)
    optimizer = fg.Adam()
    net.train_step(np.ones((6, 3)), np.ones((2, 3)), optimizer)
    for array in (net.parameters, optimizer.state):
        assert array.ctypes.data % CACHE_LINE == 0
