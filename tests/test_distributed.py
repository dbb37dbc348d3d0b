"""One network trained by several ranks, with a communicator of threads; tests/mpi has the real ones.

Any object with MPI's methods is a communicator: here one thread is a rank, and the methods copy arrays.
"""

import threading

import numpy as np
import pytest
from support import tried

import fusegrad as fg


class Threads:
    """The ranks of a communicator, as threads."""

    def __init__(self, size):
        self.size, self.sent, self.barrier = size, [None] * size, threading.Barrier(size, timeout=60)

    def run(self, program):
        """What program(comm) returns or raises, for each rank."""
        results = [None] * self.size

        def run(rank):
            try:
                results[rank] = program(Communicator(self, rank))
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Communicator:
    """The methods that a fit calls."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size = ranks, rank, ranks.size

    def exchanged(self, array):
        self.ranks.sent[self.rank] = array.copy()
        self.ranks.barrier.wait()
        found = list(self.ranks.sent)
        self.ranks.barrier.wait()
        return found

    def Allgather(self, send, receive):  # noqa: N802  # MPI's names
        receive[...] = np.concatenate([array.reshape(-1) for array in self.exchanged(send)]).reshape(receive.shape)

    def Allreduce(self, send, receive):  # noqa: N802
        receive[...] = sum(self.exchanged(send))

    def Bcast(self, array, root=0):  # noqa: N802
        array[...] = self.exchanged(array)[root]


def data(dtype, m=1500):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(5, m)).astype(dtype)
    return X, np.tanh(X[:1] + X[1:2] * X[2:3]), draw.uniform(size=m)


NETWORKS = {
    "linear": lambda dtype: fg.MultivariateRegression(5, rng=0, dtype=dtype),
    "sigmoid": lambda dtype: fg.TwoLayerSigmoid(5, 9, rng=0, dtype=dtype),
    "dropout": lambda dtype: fg.Sequential(
        fg.Scale(5), fg.Linear(5, 8), fg.GELU(), fg.Dropout(0.2), fg.Linear(8, 1), l2=0.1, loss="huber", rng=0,
        dtype=dtype,
    ),
}  # fmt: skip
MODES = {
    "full batch": {"epochs": 4},
    "mini-batches": {"epochs": 2, "batch_size": 600, "rng": 1},
    "small batches": {"epochs": 1, "batch_size": 20, "rng": 1},
}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_of_one_process(name, n, dtype):
    X, y, weights = data(dtype)
    for mode in MODES.values():
        for sample_weight in (None, weights):
            alone = NETWORKS[name](dtype)
            first = alone.fit(X, y, optimizer=fg.Adam(0.01), sample_weight=sample_weight, n_threads=1, **mode)

            def program(comm, mode=mode, sample_weight=sample_weight):
                net = NETWORKS[name](dtype)
                history = net.fit(
                    X, y, optimizer=fg.Adam(0.01), sample_weight=sample_weight, n_threads=1, comm=comm, **mode
                )
                return net.parameters, history.loss

            for parameters, losses in Threads(n).run(program):
                assert (parameters == alone.parameters).all()
                assert losses == first.loss
                tried("fits by ranks that are threads, with the bits of one process")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cut", [[0, 500, 1000, 1500], [0, 1, 1499, 1500], [0, 0, 1500, 1500], [0, 257, 258, 1500]])
def test_partitioned_full_batches(name, cut, dtype):
    X, y, weights = data(dtype)
    X = np.asfortranarray(X) if cut[1] == 257 else X  # one of the cuts has the other layout
    for sample_weight in (None, weights):
        alone = NETWORKS[name](dtype)
        first = alone.fit(X, y, optimizer=fg.Adam(0.01), sample_weight=sample_weight, n_threads=1, epochs=20)

        def program(comm, sample_weight=sample_weight):
            own = slice(cut[comm.rank], cut[comm.rank + 1])
            net = NETWORKS[name](dtype)
            history = net.fit(
                X[:, own], y[:, own], optimizer=fg.Adam(0.01), n_threads=1, epochs=20, comm=comm, partitioned=True,
                sample_weight=None if sample_weight is None else sample_weight[own],
            )  # fmt: skip
            return net.parameters, history.loss

        for parameters, losses in Threads(3).run(program):
            assert (parameters == alone.parameters).all()
            assert losses == first.loss


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_gradient_of_all_shares(name, dtype):
    """Reduction by ranks, and partitioned mini-batches: a step is the mean over all ranks, up to rounding."""
    X, y, weights = data(dtype)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    for sample_weight in (None, weights):
        one = NETWORKS[name](dtype)
        one.fit(X, y, optimizer=fg.SGD(0.1), epochs=3, sample_weight=sample_weight, moments=False)

        def program(comm, sample_weight=sample_weight):
            net = NETWORKS[name](dtype)
            net.fit(
                X, y, optimizer=fg.SGD(0.1), epochs=3, comm=comm, reduction="ranks", moments=False,
                sample_weight=sample_weight,
            )  # fmt: skip
            return net.parameters

        for parameters in Threads(3).run(program):
            np.testing.assert_allclose(parameters, one.parameters, rtol=tolerance, atol=tolerance)

    def program(comm):
        """Each rank's part is the same data: so each batch, of three times as many, has the mean of one part."""
        net = NETWORKS["sigmoid"](dtype)
        net.fit(
            X[:, :300], y[:, :300], optimizer=fg.SGD(0.1), epochs=3, batch_size=90, shuffle=False, comm=comm,
            partitioned=True,
        )  # fmt: skip
        return net.parameters

    one = NETWORKS["sigmoid"](dtype)
    one.fit(X[:, :300], y[:, :300], optimizer=fg.SGD(0.1), epochs=3, batch_size=30, shuffle=False)
    for parameters in Threads(3).run(program):
        np.testing.assert_allclose(parameters, one.parameters, rtol=tolerance, atol=tolerance)


def test_partitioned_mini_batches_use_each_example_once(dtype):
    """An epoch of unequal parts: every example of every rank, in proportion, in an order of its own."""
    X = np.arange(1000, dtype=dtype)[np.newaxis]
    cut = [0, 100, 350, 1000]

    def program(comm):
        own = slice(cut[comm.rank], cut[comm.rank + 1])
        net = fg.UnivariateRegression(rng=0, dtype=dtype)
        net.parameters[:] = 0
        # With parameters that stay 0 the loss of a batch is the mean square of its examples.
        history = net.fit(
            np.zeros_like(X[:, own]), X[:, own], optimizer=fg.SGD(1e-30), epochs=2, batch_size=100, rng=0, comm=comm,
            partitioned=True,
        )  # fmt: skip
        return history.loss

    for losses in Threads(3).run(program):
        np.testing.assert_allclose(losses, (X.astype("float64") ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_on_one_rank_is_raised_by_all(failing):
    X, y, _ = data("float32")

    def program(comm):
        def callback(net, history):
            if comm.rank == failing and history.epochs == 3:
                raise OSError("no space left")

        fg.TwoLayerSigmoid(5, 9, rng=0).fit(
            X, y, optimizer=fg.Adam(), epochs=10, batch_size=600, rng=0, comm=comm, callbacks=[callback]
        )

    errors = Threads(3).run(program)
    for rank, error in enumerate(errors):
        assert isinstance(error, OSError)
        assert str(error) == "no space left"
        notes = [] if rank == failing else [f"raised by rank {failing} of 3"]
        assert getattr(error, "__notes__", []) == notes


def test_ranks_that_call_different_things():
    X, y, _ = data("float32")

    def program(comm):
        net = fg.TwoLayerSigmoid(5, 9, rng=0)
        for _ in range(1 + (comm.rank == 1)):
            net.fit(X, y, optimizer=fg.SGD(0.1), epochs=3 + comm.rank, comm=comm)

    for error in Threads(2).run(program):
        assert isinstance(error, ValueError)
        assert "expected the same arguments on all ranks" in str(error)
        assert str(error).endswith("epochs 3 on rank 0, 4 on rank 1")


@pytest.mark.parametrize(
    ("uneven", "message"),
    [(0, "other data (of the same shape) on rank 1"), (7, "n_examples 500 on rank 0, 507 on rank 1")],
)
def test_ranks_that_pass_parts_without_saying_so(uneven, message):
    X, y, _ = data("float32")

    def program(comm):
        own = slice(500 * comm.rank, 500 * comm.rank + 500 + uneven * comm.rank)
        fg.TwoLayerSigmoid(5, 9, rng=0).fit(X[:, own], y[:, own], optimizer=fg.SGD(0.1), epochs=3, comm=comm)

    for error in Threads(2).run(program):
        assert message + "; is partitioned=True missing?" in str(error)


def test_validation_data_of_partitioned_examples(dtype):
    """Each rank's own: losses and metrics are means over all. So all ranks keep the same epoch, and stop together."""
    X, y, weights = data(dtype)
    cut = [0, 400, 410, 1500]

    def program(comm):
        own = slice(cut[comm.rank], cut[comm.rank + 1])
        net = NETWORKS["sigmoid"](dtype)
        history = net.fit(
            X[:, own], y[:, own], optimizer=fg.Adam(0.05), epochs=30, batch_size=50, rng=0, comm=comm, partitioned=True,
            validation_data=(X[:, own], y[:, own], weights[own]), metrics=["mae"], keep_best=True,
            callbacks=[fg.EarlyStopping(5)],
        )  # fmt: skip
        return net.parameters.copy(), history.validation_loss, history.metrics["mae"], net.loss(X, y, weights)

    found = Threads(3).run(program)
    for parameters, losses, maes, loss in found:
        assert (parameters == found[0][0]).all()
        assert losses == found[0][1]
        assert maes == found[0][2]
        np.testing.assert_allclose(min(losses), loss, rtol=1e-5)


def test_validation_data_must_be_the_same_without_parts():
    X, y, _ = data("float32")

    def program(comm):
        own = slice(500 * comm.rank, 500 * comm.rank + 500)
        fg.TwoLayerSigmoid(5, 9, rng=0).fit(
            X, y, optimizer=fg.SGD(0.1), epochs=3, comm=comm, validation_data=(X[:, own], y[:, own])
        )

    for error in Threads(2).run(program):
        assert "expected the same validation data on all ranks" in str(error)


@pytest.mark.parametrize("options", [{"partitioned": True}, {"reduction": "ranks"}])
def test_options_without_a_communicator(options):
    with pytest.raises(ValueError, match="comm: expected a communicator beside partitioned and reduction, got None"):
        fg.UnivariateRegression(rng=0).fit([0.0, 1.0], [0.0, 1.0], optimizer=fg.SGD(0.1), epochs=1, **options)


def test_files_are_written_by_rank_0(tmp_path):
    X, y, _ = data("float32")

    def program(comm):
        folder = tmp_path / str(comm.rank)
        folder.mkdir()
        fg.TwoLayerSigmoid(5, 9, rng=0).fit(
            X, y, optimizer=fg.Adam(), epochs=2, comm=comm,
            callbacks=[fg.Checkpoint(folder / "net.safetensors"), fg.LogCSV(folder / "log.csv")],
        )  # fmt: skip
        return sorted(file.name for file in folder.iterdir())

    assert Threads(2).run(program) == [["log.csv", "net.safetensors"], []]
