"""A frozen network: the bits of the network's predictions, nothing that changes, pickles and files."""

import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
from support import LANES

import fusegrad as fg


def network(dtype, *, seed=0):
    layers = fg.Linear(10, 67), fg.Tanh(), fg.Linear(67, 20, bias=False), fg.ReLU(), fg.Linear(20, 3), fg.Sigmoid()
    net = fg.Sequential(*layers, dtype=dtype, rng=seed)
    net.parameters += 0.1 * np.random.default_rng(seed).normal(size=net.n_parameters)
    return net


def test_predictions_have_the_bits_of_the_network(dtype):
    net = network(dtype)
    predictor = net.freeze()
    X = np.random.default_rng(0).normal(size=(10, 600)).astype(dtype)
    for m in (*range(1, 3 * LANES[dtype]), 100, 600):
        np.testing.assert_array_equal(predictor(X[:, :m]), net(X)[:, :m])
    np.testing.assert_array_equal(predictor(X[:, 0]), net(X[:, 0]))
    np.testing.assert_array_equal(predictor(X[:, :2].tolist()), net(X[:, :2]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 130, 513, 1030])
def test_any_width(n, dtype):
    for sizes in ((n, 5, 1), (5, n, 2), (3, 1, n)):
        net = fg.Sequential(*(fg.Linear(*pair) for pair in itertools.pairwise(sizes)), dtype=dtype, rng=0)
        X = np.random.default_rng(0).normal(size=(sizes[0], 24)).astype(dtype)
        for m in (1, 2, 3, 5, 8, 9, 16, 24):
            np.testing.assert_array_equal(net.freeze()(X[:, :m]), net(X[:, :m]))


def test_narrow_layers_below_one_from_memory(dtype):
    """The first are packed, with padding; the last ones are not, and their examples are copied for a while."""
    sizes = [64, *[33] * 8, 40_000, 60]
    net = fg.Sequential(*(fg.Linear(*pair) for pair in itertools.pairwise(sizes)), dtype=dtype, rng=0)
    X = np.random.default_rng(0).normal(size=(64, 16)).astype(dtype)
    for m in range(1, 17):
        np.testing.assert_array_equal(net.freeze()(X[:, :m]), net(X[:, :m]))


def test_long_sums_and_weights_from_memory(dtype):
    """More inputs than a block of a sum has; more weights than 8 MiB, which are prefetched."""
    for sizes in ((9000, 40), (2100, 1030)):
        net = fg.Sequential(fg.Linear(*sizes), dtype=dtype, rng=0)
        predictor = net.freeze()
        X = np.random.default_rng(0).normal(size=(sizes[0], 40)).astype(dtype)
        expected = net(X)
        for m in (1, 2, 3, 4, 5, 8, 9, 11, 12, 16, 17, 40):
            np.testing.assert_array_equal(predictor(X[:, :m]), expected[:, :m])
            np.testing.assert_array_equal(net(X[:, :m]), expected[:, :m])


def test_out_of_any_strides(dtype):
    net = network(dtype)
    predictor = net.freeze()
    X = np.random.default_rng(0).normal(size=(10, 5)).astype(dtype)
    for m in (1, 5):
        out = np.zeros((3, 2 * m), dtype)[:, ::2]
        assert predictor(X[:, :m], out) is out
        np.testing.assert_array_equal(out, net(X[:, :m]))
    out = np.zeros(3, dtype)
    assert predictor.forward(X[:, 0], out=out) is out
    with pytest.raises(ValueError, match="X: expected 10 features"):
        predictor(X[1:])


def test_training_the_network_does_not_change_it(dtype):
    net = network(dtype)
    predictor = net.freeze()
    X, y = np.ones((10, 4), dtype), np.zeros((3, 4), dtype)
    before = predictor(X)
    net.fit(X, y, optimizer=fg.Adam(lr=0.1), epochs=10)
    np.testing.assert_array_equal(predictor(X), before)
    assert (net(X) != before).any()


def test_nothing_can_be_changed():
    predictor = network("float32").freeze()
    state = predictor.state_dict()
    with pytest.raises(ValueError, match="parameters: expected a writable array"):
        predictor.parameters = np.zeros(predictor.n_parameters)
    with pytest.raises(ValueError, match="parameters: expected a writable array"):
        predictor.load_state_dict(state)
    with pytest.raises(ValueError, match="read-only"):
        predictor.parameters[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        predictor.named_parameters()["W1"][:] = 1
    with pytest.raises(AttributeError, match=r"Predictor\.layers cannot be set"):
        predictor.layers = ()
    with pytest.raises(TypeError, match="net: expected a network, got list"):
        fg.Predictor([])


def test_pickles_copies_and_files(tmp_path, dtype):
    net = network(dtype)
    predictor = net.freeze()
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(dtype)
    for other in (pickle.loads(pickle.dumps(predictor)), copy.copy(predictor), copy.deepcopy(predictor)):
        assert type(other) is fg.Predictor
        assert not other.parameters.flags.writeable
        np.testing.assert_array_equal(other(X), net(X))
    predictor.save(tmp_path / "a.net")
    np.testing.assert_array_equal(fg.load(tmp_path / "a.net")(X), net(X))
    assert repr(predictor).startswith("Predictor(Linear(10, 67), Tanh()")


def test_a_pickle_uses_read_only_buffers_in_place(dtype):
    """As the object store of ray and joblib's mapped files have them."""
    net = network(dtype)
    X = np.random.default_rng(0).normal(size=(10, 30)).astype(dtype)
    buffers = []
    pickled = pickle.dumps(net.freeze(), protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    [raw] = [bytes(buffer.raw()) for buffer in buffers]
    other = pickle.loads(pickled, buffers=[raw])
    assert np.shares_memory(other.parameters, np.frombuffer(raw, dtype))
    for m in (30, 1, 2, 4):
        np.testing.assert_array_equal(other(X[:, :m]), net(X[:, :m]))
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again(X), net(X))
    np.testing.assert_array_equal(fg.Predictor(other)(X), net(X))


@pytest.mark.parametrize("laid_out", ["writable", "misaligned", "swapped", "strided"])
def test_what_cannot_be_used_in_place_is_copied(laid_out, dtype):
    net = network(dtype)
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(dtype)
    expected, state = net(X), net.freeze().__getstate__()
    given = net.parameters.copy()
    if laid_out == "misaligned":
        given = np.frombuffer(b"x" + given.tobytes(), dtype, offset=1)
    elif laid_out == "swapped":
        given = given.astype(given.dtype.newbyteorder())
    elif laid_out == "strided":
        given = np.repeat(given, 2)[::2]
    given.flags.writeable = laid_out == "writable"
    predictor = fg.Predictor.__new__(fg.Predictor)
    predictor.__setstate__({**state, "_parameters": given})
    assert not np.shares_memory(predictor.parameters, given)
    if laid_out == "writable":
        given[:] = 0
    np.testing.assert_array_equal(predictor(X), expected)
    np.testing.assert_array_equal(predictor(X[:, :1]), expected[:, :1])


def test_a_network_that_is_read_only_for_a_while_is_copied():
    net = network("float32")
    X = np.ones((10, 300), "f4")  # too many for the packed weights, which are a copy anyhow
    expected = net(X)
    net.parameters.flags.writeable = False
    predictor = net.freeze()
    net.parameters.flags.writeable = True
    net.parameters[:] = 0
    np.testing.assert_array_equal(predictor(X), expected)


def test_many_threads_predict_the_first_time_at_once(dtype):
    """The weights are packed by one of them."""
    net = fg.Sequential(fg.Linear(200, 300), fg.Tanh(), fg.Linear(300, 300), dtype=dtype, rng=0)
    x = np.random.default_rng(0).normal(size=(200, 1)).astype(dtype)
    expected = net(x)
    pickled = pickle.dumps(net.freeze())
    for _ in range(20):
        predictor, start, found = pickle.loads(pickled), threading.Barrier(4), []

        def predict(predictor=predictor, start=start, found=found):
            start.wait()
            found.append(predictor(x))

        threads = [threading.Thread(target=predict) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for prediction in found:
            np.testing.assert_array_equal(prediction, expected)


def test_many_threads_at_once(dtype):
    net = network(dtype)
    predictor = net.freeze()
    X = np.random.default_rng(0).normal(size=(10, 24)).astype(dtype)
    expected = net(X)
    wrong = []

    def predict(seed):
        for m in np.random.default_rng(seed).integers(1, 25, 500):
            if not np.array_equal(predictor(X[:, :m]), expected[:, :m]):
                wrong.append(m)

    threads = [threading.Thread(target=predict, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
