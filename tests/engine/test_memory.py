"""Where the memory of parameters and states lies."""

import copy
import resource

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
    X, y = np.ones((6, 3)), np.ones((2, 3))
    net.train_step(X, y, optimizer)
    loaded, passed = fg.Adam(), fg.Adam()
    loaded.load_state_dict(optimizer.state_dict())
    passed.load_state_dict(optimizer.state_dict())
    passed.state.flags.writeable = False  # as joblib passes it to its workers
    copied = copy.copy(net)
    copied.train_step(X, y, passed)
    for array in (net.parameters, copied.parameters, optimizer.state, loaded.state, passed.state):
        assert array.ctypes.data % CACHE_LINE == 0


def test_calls_of_a_large_network_take_no_new_memory():
    """No page is touched for the first time: the scratch memory is that of the call before."""
    net = fg.Sequential(fg.Linear(2000, 2000), fg.ReLU(), fg.Linear(2000, 2000), rng=0)
    X, y = np.ones((2, 2000, 2), "float32")
    predictor, out, optimizer = net.freeze(), np.empty((2000, 2), "float32"), fg.SGD(1e-9)
    for call in (
        lambda: net(X, out=out),
        lambda: predictor(X, out=out),
        lambda: net.loss(X, y),
        lambda: net.train_step(X, y, optimizer),
    ):
        call()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            call()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 50
