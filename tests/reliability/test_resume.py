"""A fit that is stopped, saved and taken up in a new process ends where the uninterrupted one does, to the bit."""

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, in_a_new_process, perturbed, tried

import fusegrad as fg

OPTIMIZERS = {
    "gradient descent": lambda: fg.SGD(lr=0.01),
    "momentum": lambda: fg.SGD(lr=0.01, momentum=0.9),
    "Nesterov": lambda: fg.SGD(lr=0.01, momentum=0.9, nesterov=True),
    "Adagrad": lambda: fg.Adagrad(lr=0.01, eps=1e-9),
    "RMSprop": lambda: fg.RMSprop(lr=0.001, decay=0.95),
    "Adam": lambda: fg.Adam(lr=0.01, betas=(0.8, 0.99)),
    "Adam, plain": lambda: fg.Adam(lr=0.01, bias_correction=False),
}
EPOCHS, M = 12, 150


def schedule(step):
    return 0.01 / (1 + step)


def fitted(net, optimizer, rng, batch_size, **arguments):
    X, y = examples(net, M)
    return net.fit(
        X, y, optimizer=optimizer, epochs=EPOCHS, batch_size=batch_size, rng=rng, schedule=schedule, **arguments
    )


def left_by(net, optimizer, losses):
    """All that a fit leaves, to the bit, as text."""
    state = b"" if optimizer.state is None else optimizer.state.tobytes()
    return (net.parameters.tobytes() + state).hex() + repr((optimizer, optimizer.n_steps, losses))


def go_on(path, batch_size, initial_epoch):
    """What the new process does."""
    net, optimizer, rng = fg.load_checkpoint(path)
    history = fitted(net, optimizer, rng, batch_size, initial_epoch=initial_epoch)
    return left_by(net, optimizer, history.loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bit_generator", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
def test_every_optimizer_and_generator(name, bit_generator, dtype, tmp_path):
    make = OPTIMIZERS[name]

    def generator():
        return np.random.Generator(getattr(np.random, bit_generator)(7))

    for batch_size in (32, None):
        whole, optimizer, rng = perturbed(*FIVE_LAYERS, dtype=dtype), make(), generator()
        history = fitted(whole, optimizer, rng, batch_size)
        for epoch in (1, 5, 11):
            path = tmp_path / f"{epoch}.safetensors"
            part, own, rng = perturbed(*FIVE_LAYERS, dtype=dtype), make(), generator()

            def stop(net, history, own=own, rng=rng, epoch=epoch, path=path):
                net.save(path, optimizer=own, rng=rng)
                return history.epochs == epoch

            fitted(part, own, rng, batch_size, callbacks=[stop])
            assert go_on(path, batch_size, epoch) == left_by(whole, optimizer, history.loss[epoch:])
            tried("fits taken up with the same bits")


def test_in_a_new_process(tmp_path):
    for name, make in OPTIMIZERS.items():
        whole, optimizer = perturbed(*FIVE_LAYERS, dtype="float32"), make()
        history = fitted(whole, optimizer, np.random.default_rng(3), 32)
        path, rng, own = tmp_path / f"{name}.safetensors", np.random.default_rng(3), make()
        part = perturbed(*FIVE_LAYERS, dtype="float32")

        def stop(net, history, own=own, rng=rng, path=path):
            net.save(path, optimizer=own, rng=rng)
            return history.epochs == 4

        fitted(part, own, rng, 32, callbacks=[stop])
        there = in_a_new_process("from test_resume import go_on; print(go_on(sys.argv[1], 32, 4))", path)
        assert there == left_by(whole, optimizer, history.loss[4:])
        tried("fits taken up in a new process with the same bits")


@pytest.mark.parametrize("epochs", [3, 200])
def test_a_linear_network_that_trains_from_moments(epochs, dtype, tmp_path):
    """Whether it does depends on all epochs, and on the parameters at each step."""
    path = tmp_path / "net.safetensors"

    def make():
        net = perturbed(fg.Linear(4, 8), fg.Linear(8, 1), dtype=dtype)
        return net, fg.SGD(lr=0.02, momentum=0.9)

    whole, optimizer = make()
    X, y = examples(whole, 5000)
    y = X.sum(axis=0) + 1e-4 * y  # nearly perfect fits, at which steps are computed from the examples
    history = whole.fit(X, y, optimizer=optimizer, epochs=epochs)
    for stop in (1, epochs // 2, epochs - 1):
        part, own = make()
        first = part.fit(
            X, y, optimizer=own, epochs=epochs, callbacks=[lambda net, history, stop=stop: history.epochs == stop]
        )
        part.save(path, optimizer=own)
        again, own, rng = fg.load_checkpoint(path)
        assert rng is None
        rest = again.fit(X, y, optimizer=own, epochs=epochs, initial_epoch=stop)
        assert first.loss + rest.loss == history.loss
        assert again.parameters.tobytes() == whole.parameters.tobytes()


def test_what_cannot_be_saved(tmp_path):
    net = fg.UnivariateRegression(rng=0)

    class Own(fg.SGD):
        pass

    for arguments, message in (
        ({"optimizer": Own(lr=0.1)}, "optimizer: expected one of Adagrad, Adam, AdamW, RMSprop, SGD, got"),
        ({"optimizer": 3}, "optimizer: expected one of"),
        ({"rng": 3}, "rng: expected a numpy.random.Generator of PCG64"),
        ({"rng": np.random.RandomState(0)}, "rng: expected a numpy.random.Generator of"),
    ):
        with pytest.raises(TypeError, match=message):
            net.save(tmp_path / "net", **arguments)
    other = fg.Adam()
    other.step(np.zeros(5, "float32"), np.ones(5, "float32"))
    with pytest.raises(ValueError, match="optimizer: its state is of 5 float32 parameters"):
        net.save(tmp_path / "net", optimizer=other)
    assert list(tmp_path.iterdir()) == []
