"""Scale: folded into the weights behind it, in steps and predictions; its gradient is exact."""

import pickle

import numpy as np
import pytest
from support import TOLERANCE, examples, perturbed, reference, relative, within

import fusegrad as fg

NETS = {
    "one layer": [fg.Scale(5), fg.Linear(5, 3)],
    "one output": [fg.Scale(9), fg.Linear(9, 1)],
    "one input": [fg.Scale(1), fg.Linear(1, 20), fg.Tanh(), fg.Linear(20, 2)],
    "without bias": [fg.Scale(7), fg.Linear(7, 33, bias=False), fg.ReLU(), fg.Linear(33, 1)],
    "in the middle": [fg.Linear(8, 30), fg.Tanh(), fg.Scale(30), fg.Linear(30, 2)],
    "before each layer": [fg.Scale(17), fg.Linear(17, 16), fg.Sigmoid(), fg.Scale(16), fg.Linear(16, 4), fg.SiLU()],
    "between linear layers": [fg.Linear(4, 16), fg.Scale(16), fg.Linear(16, 3)],
    "before folded layers": [fg.Scale(6), fg.Linear(6, 40), fg.Linear(40, 2)],
    "many columns": [fg.Scale(70), fg.Linear(70, 5), fg.Tanh(), fg.Linear(5, 1)],
    "many rows": [fg.Scale(3), fg.Linear(3, 1100), fg.Tanh(), fg.Linear(1100, 1)],
}


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
@pytest.mark.parametrize("m", [1, 3, 8, 16, 33, 3000])
def test_gradients_against_the_reference(layers, m, dtype):
    net = perturbed(*layers, dtype=dtype)
    X, y = examples(net, m)
    expected = reference(net, X, y)
    loss, gradient = net.loss_and_gradient(X, y)
    within(f"loss with a scale, {dtype}", relative(loss, expected.loss), TOLERANCE[dtype])
    within(f"gradient with a scale, {dtype}", relative(gradient, expected.gradient), TOLERANCE[dtype])
    for name, part in net.unflatten(gradient).items():
        if name[0] == "s":
            assert relative(part, net.unflatten(expected.gradient)[name]) <= 20 * TOLERANCE[dtype], name
    exact = fg.reference.forward(fg.reference.layers_of(net, "float64"), X.astype("f8"))
    within(f"prediction with a scale, {dtype}", relative(net(X), exact), TOLERANCE[dtype])
    exact = fg.reference.input_gradient(fg.reference.layers_of(net, "float64"), X.astype("f8"), y.astype("f8"))
    within(f"input gradient with a scale, {dtype}", relative(net.input_gradient(X, y), exact), TOLERANCE[dtype])
    assert net.loss(X, y) == pytest.approx(loss, rel=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
def test_one_example_has_the_same_bits_anywhere(layers, dtype):
    net = perturbed(*layers, dtype=dtype)
    X, _ = examples(net, 100)
    whole, frozen = net(X), net.freeze()
    for m in (1, 2, 5, 16, 24, 40):
        for found in (net(X[:, :m]), frozen(X[:, :m])):
            assert np.array_equal(found, whole[:, :m])
    assert np.array_equal(net(X[:, 7]).ravel(), whole[:, 7])


def test_differences_of_the_loss(rng):
    for layers in NETS.values():
        net = perturbed(*layers, dtype="float64")
        X, y = examples(net, 20)
        if net.n_parameters < 500:
            fg.testing.check_gradients(net, X, y)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_training(n_threads, tmp_path):
    """A fit is its steps, resumes, and has the penalty on the weights alone."""
    layers = NETS["before each layer"]
    rule = {"lr": 0.01, "weight_decay": 0.1, "clip_norm": 0.5, "learning_rate_factors": {"s": 6.0, "b": 0.1}}
    nets = [fg.Sequential(*layers, l2=0.01, dtype="float64", rng=0) for _ in range(3)]
    X, y = examples(nets[0], 600)
    nets[0].fit(X, y, optimizer=fg.AdamW(**rule), epochs=4, batch_size=200, rng=0, n_threads=n_threads)
    optimizer, rng = fg.AdamW(**rule), np.random.default_rng(0)
    nets[1].fit(X, y, optimizer=optimizer, epochs=2, batch_size=200, rng=rng, n_threads=n_threads)
    nets[1].save(tmp_path / "half.safetensors", optimizer=optimizer, rng=rng)
    resumed, optimizer, rng = fg.load_checkpoint(tmp_path / "half.safetensors")
    assert optimizer.learning_rate_factors == rule["learning_rate_factors"]
    resumed.fit(X, y, optimizer=optimizer, epochs=4, initial_epoch=2, batch_size=200, rng=rng)
    assert np.array_equal(resumed.parameters, nets[0].parameters)
    assert not (resumed.named_parameters()["s1"] == 1).any()
    W = resumed.named_parameters()["W1"]
    flat, there = resumed.loss_and_gradient(X, y)[1], fg.Sequential(*layers, dtype="float64")
    there.parameters = resumed.parameters
    difference = resumed.unflatten(flat - there.loss_and_gradient(X, y)[1])
    assert np.allclose(difference["W1"], 0.01 * W)
    assert not difference["s1"].any()


def test_moments_and_a_scale():
    """A linear network with a scale trains from the moments of the data, too."""
    net, other = (fg.Sequential(fg.Scale(4), fg.Linear(4, 1), dtype="float64", rng=0) for _ in range(2))
    X, y = examples(net, 20_000)
    history = net.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=50)
    assert history.from_moments
    other.fit(X, y, optimizer=fg.SGD(lr=0.01), epochs=50, moments=False)
    assert relative(net.parameters, other.parameters) < 1e-9


def test_names_shapes_and_copies(tmp_path):
    net = fg.Sequential(fg.Scale(3), fg.Linear(3, 8), fg.ReLU(), fg.Scale(8), fg.Linear(8, 1), rng=0)
    plain = fg.Sequential(fg.Linear(3, 8), fg.ReLU(), fg.Linear(8, 1), rng=0)
    assert {name: view.shape for name, view in net.named_parameters().items()} == {
        "s1": (3, 1), "W1": (8, 3), "b1": (8, 1), "s2": (8, 1), "W2": (1, 8), "b2": (1, 1),
    }  # fmt: skip
    X, _ = examples(net, 50)
    assert np.array_equal(net(X), plain(X))  # all s are 1, and nothing more was drawn
    net.parameters[:3] = [1.0, 2.0, 3.0]
    net.save(tmp_path / "net.safetensors")
    state = net.state_dict()
    assert state["0.scale"].tolist() == [1.0, 2.0, 3.0]
    other = fg.Sequential(*net.layers, rng=1)
    other.load_state_dict(state)
    for copy in (other, pickle.loads(pickle.dumps(net)), fg.load(tmp_path / "net.safetensors"), net.freeze()):
        assert np.array_equal(copy(X), net(X))
    assert "Scale(3)" in repr(net)
    assert "with the scale" in str(net.plan(10))


def test_errors():
    with pytest.raises(ValueError, match=r"layers\[1\]: expected 3 in_features"):
        fg.Sequential(fg.Scale(3), fg.Linear(4, 1))
    with pytest.raises(ValueError, match=r"layers\[1\]: expected 4 n_features"):
        fg.Sequential(fg.Linear(3, 4), fg.Scale(3), fg.Linear(3, 1))
    with pytest.raises(ValueError, match="expected a Linear after the last Scale"):
        fg.Sequential(fg.Linear(3, 4), fg.Scale(4))
    for layer in (fg.ReLU(), fg.Scale(4), fg.Dropout(0.5)):
        with pytest.raises(ValueError, match=r"layers\[2\]: expected a Linear after a Scale"):
            fg.Sequential(fg.Linear(3, 4), fg.Scale(4), layer, fg.Linear(4, 1))
