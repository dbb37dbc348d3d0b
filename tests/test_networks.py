"""Networks against the reference: every shape, layout, dtype; and what they refuse."""

import copy
import itertools
import operator
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from scipy.optimize import minimize
from support import (
    FIVE_LAYERS,
    LANES,
    SUM_BLOCK,
    TOLERANCE,
    examples,
    in_a_new_process,
    perturbed,
    reference,
    relative,
    within,
)  # fmt: skip

import fusegrad as fg

FOUR = {
    "univariate": (fg.Linear(1, 1),),
    "multivariate": (fg.Linear(13, 1),),
    "two-layer linear": (fg.Linear(8, 32), fg.Linear(32, 1)),
    "two-layer sigmoid": (fg.Linear(13, 50), fg.Sigmoid(), fg.Linear(50, 1)),
}
NETWORKS = {**FOUR, "five layers": FIVE_LAYERS}


def assert_matches_reference(net, X, y):
    expected = reference(net, X, y)
    loss, gradient = net.loss_and_gradient(X, y)
    tolerance = TOLERANCE[net.dtype.name]
    assert abs(loss - expected.loss) <= tolerance * expected.loss_scale
    assert abs(net.loss(X, y) - expected.loss) <= tolerance * expected.loss_scale
    within(f"gradient against the reference, {net.dtype}", relative(gradient, expected.gradient), tolerance)
    within(
        f"input gradient against the reference, {net.dtype}",
        relative(net.input_gradient(X, y)[:, expected.smooth], expected.input_gradient[:, expected.smooth]),
        tolerance,
    )
    assert relative(net(X), expected.prediction) <= tolerance


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("m", [1, 2, 7, 97, 257, 1009, 10_007, pytest.param(200_003, marks=pytest.mark.once)])
def test_gradients_match_the_reference(layers, m, dtype):
    net = perturbed(*layers, dtype=dtype)
    assert_matches_reference(net, *examples(net, m))


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("vectors", [1, 2, 3, 8])
def test_batches_at_the_edge_of_vectors(layers, vectors, offset, dtype):
    net = perturbed(*layers, dtype=dtype)
    assert_matches_reference(net, *examples(net, vectors * LANES[dtype] + offset))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 101])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 9, 13, 16, 17, 33, 53])
def test_widths_at_the_edge_of_blocks(n, k, dtype):
    net = perturbed(fg.Linear(n, k), fg.Tanh(), fg.Linear(k, n), fg.Sigmoid(), fg.Linear(n, 2), dtype=dtype)
    net.parameters[:] *= 0.5  # one saturated unit alone would test the rounding of 1 - a^2
    for m in (1, 19, 37, 130):
        assert_matches_reference(net, *examples(net, m))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 6, 8])
def test_a_single_output_with_an_activation(n, vectors, dtype):
    """X may be read where it lies."""
    m = vectors * LANES[dtype]
    for layers in (
        (fg.Linear(n, 1), fg.Sigmoid()),
        (fg.Linear(n, 1), fg.Tanh(), fg.Linear(1, 3), fg.Sigmoid(), fg.Linear(3, 1)),
        (fg.Linear(n, 40), fg.Linear(40, 1), fg.Sigmoid()),
    ):
        net = perturbed(*layers, dtype=dtype)
        assert_matches_reference(net, *examples(net, m))


def test_layers_without_bias(dtype):
    net = perturbed(fg.Linear(5, 9, bias=False), fg.ReLU(), fg.Linear(9, 2, bias=False), dtype=dtype)
    assert set(net.named_parameters()) == {"W1", "W2"}
    assert_matches_reference(net, *examples(net, 41))


def test_a_wide_net(dtype):
    net = perturbed(fg.Linear(784, 128), fg.Sigmoid(), fg.Linear(128, 10), dtype=dtype)
    assert_matches_reference(net, *examples(net, 128))


def test_an_activation_at_the_end(dtype):
    for activation in (fg.Sigmoid(), fg.Tanh(), fg.ReLU()):
        net = perturbed(fg.Linear(4, 3), activation, dtype=dtype)
        assert_matches_reference(net, *examples(net, 50))


# ---- layouts of memory ----


def layouts(a):
    """The same numbers in every way that memory may hold them."""
    yield "C", np.ascontiguousarray(a)
    yield "Fortran", np.asfortranarray(a)
    yield "a view of X.T", np.ascontiguousarray(a.T).T
    yield "negative strides", np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]
    wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    wide[::2, ::3] = a
    yield "every third", wide[::2, ::3]
    read_only = a.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only
    memory = np.zeros(a.nbytes + 1, np.uint8)
    misaligned = memory[1:].view(a.dtype).reshape(a.shape)
    misaligned[...] = a
    assert not misaligned.flags.aligned
    yield "misaligned", misaligned
    yield "byte-swapped", a.astype(a.dtype.newbyteorder())


@pytest.mark.parametrize("m", [1, 33, 200])
def test_any_layout_gives_the_same_bits(m, dtype):
    net = perturbed(fg.Linear(13, 50), fg.Sigmoid(), fg.Linear(50, 2), dtype=dtype)
    X, y = (a.astype(dtype) for a in examples(net, m))
    loss, gradient = net.loss_and_gradient(X, y)
    prediction, inputs = net(X), net.input_gradient(X, y)
    for (name, other_X), (_, other_y) in zip(layouts(X), layouts(y), strict=True):
        before = other_X.copy()
        other_loss, other_gradient = net.loss_and_gradient(other_X, other_y)
        assert other_loss == loss, name
        np.testing.assert_array_equal(other_gradient, gradient, err_msg=name)
        np.testing.assert_array_equal(net(other_X), prediction, err_msg=name)
        np.testing.assert_array_equal(net.input_gradient(other_X, other_y), inputs, err_msg=name)
        np.testing.assert_array_equal(other_X, before, err_msg=name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("n", "m"), [(5, 70), (8, 2000), (13, 1100), (15, 63_000), (40, 21_001), (95, 9000), (300, 3000)]
)
def test_x_read_as_it_lies_gives_the_same_bits(n, m, bias, dtype):
    """A single output reads X where it lies, in longer tiles where it comes from memory."""
    net = perturbed(fg.Linear(n, 1, bias=bias), dtype=dtype)
    X, y = (a.astype(dtype) for a in examples(net, m))
    loss, gradient = net.loss_and_gradient(X, y)
    prediction = net(X)
    g = 2 / m * (prediction.astype("float64") - y)
    np.testing.assert_allclose(gradient[:n], (g @ X.T)[0], rtol=0, atol=1e3 * np.finfo(dtype).eps)
    for name, other in layouts(X):
        other_loss, other_gradient = net.loss_and_gradient(other, y)
        assert other_loss == loss, name
        np.testing.assert_array_equal(other_gradient, gradient, err_msg=name)
        np.testing.assert_array_equal(net(other), prediction, err_msg=name)


def test_zero_strides(dtype):
    net = perturbed(fg.Linear(3, 4), fg.Tanh(), fg.Linear(4, 1), dtype=dtype)
    one = np.array([[1.0], [2.0], [3.0]], dtype)
    repeated = as_strided(one, (3, 50), (one.strides[0], 0))
    np.testing.assert_array_equal(net(repeated), net(np.tile(one, 50)))


def test_other_numbers_are_converted(dtype):
    net = perturbed(fg.Linear(2, 3), fg.Sigmoid(), fg.Linear(3, 1), dtype=dtype)
    X, y = [[1, 2, 3], [4, 5, 6]], [1, 0, 1]
    expected = net.loss_and_gradient(np.array(X, dtype), np.array(y, dtype))[1]
    for kind in ("int8", "uint16", "int64", "float32", "float64"):
        np.testing.assert_array_equal(net.loss_and_gradient(np.array(X, kind), np.array(y, kind))[1], expected)
    np.testing.assert_array_equal(net.loss_and_gradient(X, y)[1], expected)


def test_out_arrays(dtype):
    net = perturbed(fg.Linear(3, 3), fg.Tanh(), dtype=dtype)
    X, _ = (a.astype(dtype) for a in examples(net, 700))
    expected = net(X)
    for name, out in layouts(np.zeros_like(expected)):
        if name in ("read-only", "byte-swapped"):
            continue
        assert net.forward(X, out=out) is out
        np.testing.assert_array_equal(out, expected, err_msg=name)
    overlapping = X.copy()
    net.forward(overlapping, out=overlapping)
    np.testing.assert_array_equal(overlapping, expected)
    gradient = np.empty(net.n_parameters, dtype)
    assert net.loss_and_gradient(X, expected, out=gradient)[1] is gradient


def test_the_next_prediction_is_validated_as_the_first(dtype):
    """A network goes straight to the engine of its last small batch: with what fits it, and nothing else."""
    net = perturbed(fg.Linear(3, 4), fg.Sigmoid(), fg.Linear(4, 2), dtype=dtype)
    X, _ = (a.astype(dtype) for a in examples(net, 9))
    expected = net(X)
    out = np.zeros_like(expected)
    for _ in range(2):
        for name, same in layouts(X):
            np.testing.assert_array_equal(net(same), expected, err_msg=name)
        np.testing.assert_array_equal(net(X[:, :5]), expected[:, :5])
        np.testing.assert_array_equal(net(X.tolist()), expected)
        assert net(X).flags.writeable and net(X) is not net(X)
        assert net.forward(X, out=out) is out
        np.testing.assert_array_equal(out, expected)
        with pytest.raises(ValueError, match="X: expected 3 features"):
            net(X[:2])
        with pytest.raises(TypeError, match="X: expected float32, float64 or integers"):
            net(X.astype(complex))
        with pytest.raises(ValueError, match=r"out: expected shape \(2, 9\), got \(2, 5\)"):
            net.forward(X, out=out[:, :5])
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out: "):
            net.forward(X, out=out)
        out = np.zeros_like(expected)
    net.parameters = net.parameters * 2
    assert not np.array_equal(net(X), expected)


def test_the_place_in_the_batch_does_not_matter(dtype):
    net = perturbed(*FIVE_LAYERS, dtype=dtype)
    X, _ = examples(net, 301)
    together = net(X)
    for i in (0, 1, 15, 16, 77, 299, 300):
        np.testing.assert_array_equal(net(X[:, i : i + 1]), together[:, i : i + 1])
    np.testing.assert_array_equal(net(X[:, 5:94]), together[:, 5:94])


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_threads_change_no_bit(layers, dtype, threads):
    net = perturbed(*layers, dtype=dtype)
    X, y = examples(net, 60_000)
    threads(1)
    expected = net.loss_and_gradient(X, y), net(X), net.input_gradient(X, y)
    for n in (2, 3, 8):
        threads(n)
        (loss, gradient), prediction, inputs = net.loss_and_gradient(X, y), net(X), net.input_gradient(X, y)
        assert loss == expected[0][0]
        np.testing.assert_array_equal(gradient, expected[0][1])
        np.testing.assert_array_equal(prediction, expected[1])
        np.testing.assert_array_equal(inputs, expected[2])


def test_nan_goes_through_forward(dtype):
    for activation in (fg.Identity(), fg.Sigmoid(), fg.Tanh(), fg.ReLU()):
        net = perturbed(fg.Linear(2, 5), activation, fg.Linear(5, 1), dtype=dtype)
        X = np.zeros((2, 40))
        X[0, 7] = np.nan
        assert np.flatnonzero(np.isnan(net(X)[0])).tolist() == [7]


@pytest.mark.parametrize("activation", [fg.Identity, fg.Sigmoid, fg.Tanh, fg.ReLU])
@pytest.mark.parametrize("sizes", [(2, 5, 1), (3, 40, 2), (7, 1), (1, 1), (20, 33, 17, 1), (4, 9, 9, 30)])
def test_nan_goes_where_the_reference_lets_it(sizes, activation, dtype):
    """From X, y or a bias to the loss and each gradient, and to no other example's prediction."""
    layers = [part for pair in itertools.pairwise(sizes) for part in (fg.Linear(*pair), activation())]
    for stack in (layers, layers[:-1]):
        net = perturbed(*stack, dtype=dtype)
        for m in (1, LANES[dtype], 2 * LANES[dtype] + 3):
            for source in ("X", "y", "bias"):
                X, y = (v.astype(dtype) for v in examples(net, m))
                kept = net.parameters.copy()
                if source == "bias":
                    net.named_parameters()["b1"][-1] = np.nan
                else:
                    (X if source == "X" else y)[-1, m // 2] = np.nan
                oracle = fg.reference.layers_of(net)
                loss, gradient = net.loss_and_gradient(X, y)
                assert np.isnan(loss)
                for found, right in (
                    (gradient, fg.reference.loss_and_gradient(oracle, X, y)[1]),
                    (net.input_gradient(X, y), fg.reference.input_gradient(oracle, X, y)),
                    (net(X), fg.reference.forward(oracle, X)),
                ):
                    np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
                net.parameters[:] = kept


def test_gradients_over_many_examples_of_one_sign():
    """float32: tiles of up to 4 096 examples, summed lane-wise and transposed, are as near as their blocks."""
    m = 1 << 20
    for n_in, n_out in ((1, 1), (2, 2), (3, 1), (9, 3), (12, 2), (40, 3)):
        net = fg.Sequential(fg.Linear(n_in, n_out), rng=0, dtype="float32")
        net.parameters[:] = 0
        rng = np.random.default_rng(n_in)
        X, y = rng.random((n_in, m), dtype="float32"), -rng.random((n_out, m), dtype="float32")
        gradient = net.loss_and_gradient(X, y)[1]
        exact = np.einsum("om,im->oi", y, X, dtype="float64") * (-2 / m)
        bias = y.sum(axis=1, dtype="float64") * (-2 / m)
        expected = np.concatenate([exact.ravel(), bias])
        assert np.abs(gradient / expected - 1).max() <= np.sqrt(SUM_BLOCK) / 2 * np.finfo("float32").eps


# ---- parameters ----


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_vector_is_one_example(outputs, dtype):
    """Of a network of several features: in every method but fit, and what comes back is a vector too."""

    def fresh():
        return perturbed(fg.Linear(5, 4), fg.Tanh(), fg.Linear(4, outputs), dtype=dtype)

    net = fresh()
    X, y = (a.astype(dtype) for a in examples(net, 1))
    x, target = X[:, 0], y[:, 0]
    for vector in (x, x.astype("f8"), x.tolist(), np.repeat(x, 3)[::3]):
        assert net(vector).shape == (outputs,)
        np.testing.assert_array_equal(net(vector), net(X)[:, 0])
    numbers = [float(target[0]), target[0], np.array(target[0])] if outputs == 1 else []
    for other in (target, y, target.tolist(), *numbers):
        assert net.loss(x, other) == net.loss(X, y)
        assert net.loss_and_gradient(x, other)[1].tobytes() == net.loss_and_gradient(X, y)[1].tobytes()
        gradient = net.input_gradient(x, other)
        assert gradient.shape == (5,)
        np.testing.assert_array_equal(gradient, net.input_gradient(X, y)[:, 0])
        for optimizer in (fg.Adam, Plain):
            one, batch = fresh(), fresh()
            assert one.train_step(x, other, optimizer()) == batch.train_step(X, y, optimizer())
            assert one.parameters.tobytes() == batch.parameters.tobytes()
    for out in (np.zeros(outputs, dtype), np.zeros(3 * outputs, dtype)[::3]):
        assert net.forward(x, out=out) is out
        np.testing.assert_array_equal(out, net(X)[:, 0])
    memory = np.zeros(5, dtype)
    memory[:] = x
    net.forward(memory, out=memory[:outputs])  # over its own input
    np.testing.assert_array_equal(memory[:outputs], net(X)[:, 0])


class Plain:
    def step(self, parameters, gradient):
        parameters -= gradient


def test_a_vector_of_another_size_is_none():
    net = fg.Sequential(fg.Linear(5, 2), rng=0)
    x, once = np.ones(5), {"optimizer": fg.Adam(), "epochs": 1}
    for call, message in (
        (lambda: net(np.ones(4)), r"^X: expected two dimensions, \(5, m\), got shape \(4,\)$"),
        (lambda: net.forward(x, out=np.zeros((2, 1), "f4")), r"^out: expected shape \(2,\), got \(2, 1\)"),
        (lambda: net.loss(x, 1.0), r"^y: expected two dimensions"),
        (lambda: net.loss(x, np.ones(3)), r"^y: expected two dimensions"),
        (lambda: net.loss(x, np.ones((2, 2))), r"^y: expected 1 examples \(columns\) as in X"),
        (lambda: net.loss(np.ones((5, 1)), np.ones(2)), r"^y: expected two dimensions"),
        (lambda: net.fit(x, np.ones(2), **once), r"^X: .*: one example is a column, X\[:, numpy.newaxis\]"),
        (
            lambda: net.fit(x[:, None], np.ones((2, 1)), **once, validation_data=(x, np.ones(2))),
            r"^validation_data: X: .*: one example is a column",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_where_there_is_one_feature_a_vector_is_many_examples():
    net = fg.UnivariateRegression(rng=0)
    x = np.arange(5.0)
    assert net(x).shape == net.input_gradient(x, x).shape == (1, 5)
    assert net(x[:1]).shape == (1, 1)
    with pytest.raises(ValueError, match=r"^y: expected two dimensions"):
        net.loss(x[:1], 1.0)


def test_parameters_are_the_only_storage(dtype):
    net = fg.TwoLayerSigmoid(3, 4, dtype=dtype, rng=0)
    views = net.named_parameters()
    assert {name: view.shape for name, view in views.items()} == {
        "W1": (4, 3),
        "b1": (4, 1),
        "W2": (1, 4),
        "b2": (1, 1),
    }
    assert all(np.shares_memory(view, net.parameters) for view in views.values())
    views["W1"][2, 1] = 7
    assert net.parameters[2 * 3 + 1] == 7
    np.testing.assert_array_equal(np.concatenate([view.ravel() for view in views.values()]), net.parameters)
    before = net.parameters
    net.parameters = np.arange(net.n_parameters)
    assert net.parameters is before
    assert net.named_parameters()["b2"][0, 0] == net.n_parameters - 1


GLOROT, HE, TORCH = np.sqrt(6 / (300 + 400)), np.sqrt(6 / 300), 1 / np.sqrt(300)


@pytest.mark.parametrize(
    ("init", "activation", "weights", "biases"),
    [
        ("glorot_uniform", fg.ReLU, GLOROT, 0), ("he_uniform", fg.Identity, HE, 0), ("torch", fg.Sigmoid, TORCH, TORCH),
        ("default", fg.Identity, TORCH, 0), ("default", fg.Sigmoid, HE, TORCH), ("default", fg.Tanh, TORCH, TORCH),
        (None, fg.ReLU, TORCH, TORCH),
    ],
)  # fmt: skip
def test_initial_weights_have_their_bounds(init, activation, weights, biases, dtype):
    """Uniform between them: their largest, mean and standard deviation."""
    net = fg.Sequential(fg.Linear(300, 400), activation(), dtype=dtype, rng=0, init=init)
    for name, bound in (("W1", weights), ("b1", biases)):
        drawn = net.named_parameters()[name].astype("float64")
        assert (1 - 10 / drawn.size) * bound <= np.abs(drawn).max() <= bound * (1 + np.finfo(dtype).eps)
        assert abs(drawn.mean()) <= 5 * bound / np.sqrt(3 * drawn.size)
        assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=5 / np.sqrt(drawn.size))


def test_each_layer_has_the_initial_weights_of_its_activation():
    net = fg.Sequential(fg.Linear(50, 200), fg.Sigmoid(), fg.Linear(200, 300), fg.ReLU(), fg.Linear(300, 90), rng=0)
    largest = {name: np.abs(array).max() for name, array in net.named_parameters().items()}
    expected = {"W1": 6 / 50, "b1": 1 / 50, "W2": 1 / 200, "b2": 1 / 200, "W3": 1 / 300, "b3": 0}
    assert largest == pytest.approx({name: np.sqrt(square) for name, square in expected.items()}, rel=0.05)


def test_each_network_takes_init():
    for make in (fg.UnivariateRegression, lambda **options: fg.MultivariateRegression(5, **options),
                 lambda **options: fg.TwoLayerLinear(5, 4, **options),
                 lambda **options: fg.TwoLayerSigmoid(5, 4, **options)):  # fmt: skip
        drawn = [make(rng=0, init=init).parameters for init in ("default", "glorot_uniform", "torch")]
        assert not any(np.array_equal(one, two) for one, two in itertools.combinations(drawn, 2))
        np.testing.assert_array_equal(make(rng=0).parameters, drawn[0])
        np.testing.assert_array_equal(make(rng=0, init=None).parameters, drawn[0])
        with pytest.raises(
            ValueError, match=r"^init: expected one of default, glorot_uniform, he_uniform, torch, got 'He'"
        ):
            make(init="He")
        with pytest.raises(
            TypeError, match=r"^init: expected one of default, glorot_uniform, he_uniform, torch, got 3"
        ):
            make(init=3)


@pytest.mark.parametrize("init", ["default", "glorot_uniform", "he_uniform", "torch"])
def test_the_same_seed_gives_the_same_network(init):
    one, two = (fg.TwoLayerSigmoid(3, 4, rng=rng, init=init) for rng in (5, np.random.default_rng(5)))
    np.testing.assert_array_equal(one.parameters, two.parameters)
    other = fg.TwoLayerSigmoid(3, 4, dtype="float64", rng=5, init=init)
    np.testing.assert_array_equal(one.parameters, other.parameters.astype("float32"))
    assert not (fg.TwoLayerSigmoid(3, 4, rng=6, init=init).parameters == one.parameters).any(where=one.parameters != 0)


def calls(function):
    """How many functions run in it, Python's and C's."""
    events = []
    sys.setprofile(lambda frame, event, argument: events.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(events)


@pytest.mark.parametrize(
    "task",
    [
        lambda net, path: fg.Sequential(*net.layers, rng=0), lambda net, path: net.named_parameters(),
        lambda net, path: net.state_dict(), lambda net, path: net.load_state_dict(net.state_dict()),
        lambda net, path: net.save(path), lambda net, path: (net.save(path), fg.load(path)),
        lambda net, path: str(net.plan(len(net.layers), 1)), lambda net, path: copy.deepcopy(net),
        lambda net, path: repr(net), lambda net, path: fg.reference.layers_of(net),
        lambda net, path: net.fit(np.ones((2, 3)), np.ones((2, 3)), optimizer=fg.Adam(), epochs=2),
    ],
    ids=["make", "named_parameters", "state_dict", "load_state_dict", "save", "load", "plan", "copy", "repr",
         "layers_of", "fit"],
)  # fmt: skip
def test_work_grows_no_faster_than_the_layers(task, tmp_path):
    """Four times the layers take at most four times the calls; with some room, since other code may run."""
    few, many = (
        calls(lambda n=n: task(fg.Sequential(*[fg.Linear(2, 2), fg.Tanh()] * n, rng=0), tmp_path / "net"))
        for n in (60, 240)
    )
    assert many <= 4.5 * few


def test_state_dict_goes_round(dtype):
    net = perturbed(fg.Linear(3, 4), fg.Sigmoid(), fg.Linear(4, 2, bias=False), dtype=dtype)
    state = net.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        "0.weight": (4, 3),
        "0.bias": (4,),
        "2.weight": (2, 4),
    }
    assert not any(np.shares_memory(value, net.parameters) for value in state.values())
    other = fg.Sequential(*net.layers, dtype=dtype)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.parameters, net.parameters)


def test_load_state_dict_refuses_before_it_writes():
    net = fg.TwoLayerSigmoid(3, 4, rng=0)
    before = net.parameters.copy()
    state = net.state_dict()
    with pytest.raises(ValueError, match=r"expected the keys 0\.weight, 0\.bias, 2\.weight, 2\.bias"):
        net.load_state_dict({"0.weight": state["0.weight"]})
    with pytest.raises(ValueError, match=r"state_dict\['2\.bias'\]: expected shape \(1,\), got \(2,\)"):
        net.load_state_dict({**state, "0.weight": state["0.weight"] + 1, "2.bias": np.zeros(2)})
    np.testing.assert_array_equal(net.parameters, before)


def test_scipy_minimizes_a_network():
    X, y = fg.datasets.load_auto_mpg()
    X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
    net = fg.MultivariateRegression(6, dtype="float64", rng=0)

    def objective(parameters):
        net.parameters = parameters
        return net.loss_and_gradient(X, y)

    result = minimize(
        objective, net.parameters.copy(), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    )
    design = np.vstack([X, np.ones(X.shape[1])]).T
    _, residual, *_ = np.linalg.lstsq(design, y[0], rcond=None)
    assert result.fun == pytest.approx(residual[0] / y.size, rel=1e-9)


def test_memory_does_not_grow_with_the_batch():
    """At (8, 32, 10^6), at most 16 MiB a thread beyond data and parameters: the peak of a fresh process's memory."""
    program = """
import pathlib, re, numpy as np, fusegrad as fg
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
net = fg.TwoLayerSigmoid(8, 32, rng=0)
X, y = np.ones((8, 10**6), "float32"), np.ones((1, 10**6), "float32")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
before = peak()
net.train_step(X, y, fg.SGD(lr=1e-3))
print((peak() - before) / fg.get_num_threads())
"""
    within("memory of a full-batch step at (8, 32, 10^6), MiB a thread", float(in_a_new_process(program)), 16)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (np.zeros((12, 50)), np.zeros(50), ValueError, r"X: expected 13 features \(rows\), got shape \(12, 50\)"),
        (np.zeros((50, 13)), np.zeros(50), ValueError, r"X: expected 13 features \(rows\), got shape \(50, 13\)"),
        (np.zeros(12), np.zeros(1), ValueError, r"X: expected two dimensions, \(13, m\), got shape \(12,\)"),
        (np.zeros((13, 0)), np.zeros(0), ValueError, r"X: expected at least one example, got shape \(13, 0\)"),
        (np.zeros((13, 5)), np.zeros(6), ValueError, r"y: expected 5 examples \(columns\) as in X, got shape \(1, 6\)"),
        (np.zeros((13, 5)), np.zeros((2, 5)), ValueError, r"y: expected 1 outputs \(rows\), got shape \(2, 5\)"),
        (
            np.zeros((13, 5), complex),
            np.zeros(5),
            TypeError,
            r"X: expected float32, float64 or integers, got dtype complex128",
        ),
        (np.full((13, 5), None), np.zeros(5), TypeError, r"X: expected numbers, got None in column 0 \(row 0\)"),
        ([["a"] * 5] * 13, np.zeros(5), TypeError, r"X: expected numbers, got 'a' in column 0 \(row 0\)"),
        ([[1, 2], [3]], np.zeros(5), TypeError, r"X: expected an array of numbers, got list"),
        (np.zeros((13, 5)), None, TypeError, r"y: expected numbers, got None$"),
        (np.ma.zeros((13, 5)), np.zeros(5), TypeError, r"X: expected an array without a mask"),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(X, y, error, message):
    net = fg.TwoLayerSigmoid(13, 4, rng=0)
    net.train_step(np.ones((13, 5), "float32"), np.ones(5), fg.SGD(lr=0.1))  # the next of this size goes a shorter way
    before = net.parameters.copy()
    optimizer = fg.SGD(lr=0.1)
    for call in (
        lambda: net.loss(X, y),
        lambda: net.loss_and_gradient(X, y),
        lambda: net.input_gradient(X, y),
        lambda: net.train_step(X, y, optimizer),
        lambda: net.fit(X, y, optimizer=optimizer, epochs=1),
    ):
        with pytest.raises(error, match=message):
            call()
    np.testing.assert_array_equal(net.parameters, before)
    assert optimizer.state is None
    assert optimizer.n_steps == 0


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((), ValueError, "layers: expected at least one Linear, got none"),
        ((fg.Linear(3, 4), fg.Linear(5, 1)), ValueError, r"layers\[1\]: expected 4 in_features.*got Linear\(5, 1\)"),
        ((fg.Sigmoid(), fg.Linear(3, 4)), ValueError, r"layers\[0\]: expected a Linear first, got Sigmoid\(\)"),
        ((fg.Linear(3, 4), fg.ReLU(), fg.Tanh()), ValueError, r"layers\[2\]: expected a Linear between"),
        ((fg.Linear(3, 4), "sigmoid"), TypeError, r"layers\[1\]: expected a fusegrad layer .*, got 'sigmoid'"),
        ((fg.Linear(3, 4), fg.Sigmoid), TypeError, r"layers\[1\]: expected a fusegrad layer"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        fg.Sequential(*layers)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got 'int32'"):
        fg.Sequential(fg.Linear(2, 1), dtype="int32")
    with pytest.raises(TypeError, match=r"rng: expected None, a seed of at least 0 or a numpy\..*, got 'x'"):
        fg.Sequential(fg.Linear(2, 1), rng="x")
    net = fg.MultivariateRegression(2, rng=0)
    with pytest.raises(TypeError, match="out: expected dtype float32, got float64"):
        net.forward(np.zeros((2, 3)), out=np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"out: expected shape \(1, 3\), got \(3, 1\)"):
        net.forward(np.zeros((2, 3)), out=np.zeros((3, 1), "float32"))
    with pytest.raises(ValueError, match=r"parameters: expected shape \(3,\), got \(4,\)"):
        net.parameters = np.zeros(4)
    with pytest.raises(ValueError, match=r"flat: expected a contiguous array of shape \(3,\), got \(2,\)"):
        net.unflatten(np.zeros(2))
    with pytest.raises(TypeError, match="optimizer: expected an object with step"):
        net.train_step(np.zeros((2, 3)), np.zeros(3), "adam")


def test_repr():
    assert repr(fg.TwoLayerSigmoid(3, 4)) == "Sequential(Linear(3, 4), Sigmoid(), Linear(4, 1), dtype='float32')"


def test_what_a_network_is_made_of_stays():
    net = fg.TwoLayerSigmoid(3, 4, rng=0)
    for name in ("n_features", "n_outputs", "n_parameters", "dtype", "layers", "dense_layers"):
        with pytest.raises(AttributeError):
            setattr(net, name, getattr(net, name))


class Noted(fg.TwoLayerSigmoid):
    """A subclass may have attributes of its own."""


def sent(thing):
    """What travels of a pickle beside its buffers, those as a receiver has them, and the memory that loading takes."""
    buffers = []
    pickled = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    raw = [bytes(buffer.raw()) for buffer in buffers]
    pickle.loads(pickled, buffers=raw)  # imports what is imported late
    tracemalloc.start()
    loaded = pickle.loads(pickled, buffers=raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return loaded, len(pickled), raw, peak


def test_parameters_travel_beside_the_pickle():
    """10 MB: with one copy for a network, which is trained; with none for a predictor."""
    layers = fg.Linear(1000, 1600), fg.Tanh(), fg.Linear(1600, 600), fg.Tanh(), fg.Linear(600, 1)
    net = fg.Sequential(*layers, dtype="float32", rng=0)
    size, X = net.parameters.nbytes, np.random.default_rng(0).normal(size=(1000, 20)).astype("f4")
    assert size > 10e6
    optimizer = fg.Adam()
    net.fit(X, np.ones(20), optimizer=optimizer, epochs=1)
    for thing, copies in ((net, 1), (net.freeze(), 0), (optimizer, 0)):
        loaded, in_band, raw, peak = sent(thing)
        what = type(thing).__name__
        within(f"bytes in band of a pickled {what} of 10 MB", in_band, 10_000)
        within(f"memory that loading a {what} of 10 MB takes, in copies", peak / size, copies + 0.02)
        assert sum(map(len, raw)) == (2 if thing is optimizer else 1) * size
        if thing is not optimizer:
            np.testing.assert_array_equal(loaded(X), net(X))
            assert loaded.parameters.flags.writeable == (thing is net)
    other, state = sent(net)[0], sent(optimizer)[0]
    for one, rule in ((net, optimizer), (other, state)):
        one.fit(X, np.ones(20), optimizer=rule, epochs=2)
    np.testing.assert_array_equal(net.parameters, other.parameters)


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_networks_of_their_own(copy, dtype, rng):
    net = Noted(3, 4, dtype=dtype, rng=0)
    X, y = rng.normal(size=(3, 20)), rng.normal(size=20)
    loss = net.loss(X, y)
    net.note = "of mine"
    other = copy(net)
    assert type(other) is type(net)
    assert other.note == "of mine"
    assert repr(other) == repr(net)
    assert other.loss(X, y) == loss
    with pytest.raises(AttributeError, match="TwoLayerSigmoid has no attribute 'paramters'"):
        fg.TwoLayerSigmoid(3, 4, dtype=dtype, rng=0).paramters = net.parameters
    with pytest.raises(AttributeError, match="loss: expected a function, since it is a method, got 'huber'; the loss"):
        net.loss = "huber"
    with pytest.raises(AttributeError, match="forward: expected a function, since it is a method, got 3"):
        net.forward = 3
    other.train_step(X, y, fg.SGD(lr=0.1))
    assert net.loss(X, y) == loss
    assert other.loss(X, y) < loss


def test_the_gradient_may_be_written_over_what_it_is_taken_from(dtype, rng):
    X, y = rng.normal(size=(3, 20)).astype(dtype), rng.normal(size=(1, 20)).astype(dtype)
    net = fg.MultivariateRegression(3, dtype=dtype, rng=0)
    loss, expected = net.loss_and_gradient(X, y)
    assert net.loss_and_gradient(X, y, out=net.parameters)[0] == loss
    np.testing.assert_array_equal(net.parameters, expected)


def test_what_is_no_flat_buffer_or_state():
    net = fg.MultivariateRegression(3, rng=0)
    with pytest.raises(TypeError, match="flat: expected an array, got list"):
        net.unflatten([0.0] * 4)
    with pytest.raises(ValueError, match=r"flat: expected a contiguous array of shape \(4,\), got \(4,\)"):
        net.unflatten(np.zeros(8)[::2])
    with pytest.raises(TypeError, match="state_dict: expected a dict, got int"):
        net.load_state_dict(3)
    with pytest.raises(TypeError, match=r"state_dict\['0.weight'\]: expected an array without a mask"):
        net.load_state_dict({**net.state_dict(), "0.weight": np.ma.zeros((1, 3))})


def test_a_gradient_set_before_the_base_is_initialised():
    class Own(fg.Sequential):
        def __init__(self):
            self.loss_and_gradient = lambda X, y: (0.0, np.ones(2))
            super().__init__(fg.Linear(1, 1), dtype="float64", rng=0)

    net = Own()
    before = net.parameters.copy()
    assert net.train_step([1.0], [1.0], fg.SGD(lr=0.5)) == 0
    np.testing.assert_array_equal(net.parameters, before - 0.5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.5, r"expected it to return \(loss, gradient\), a number and an array \(2,\), got float"),
        ((np.ones(3), np.ones(2)), r"got a loss of shape \(3,\); is it the mean over the examples\?"),
        ((None, np.ones(2)), "got the loss None"),
    ],
)
def test_what_an_overridden_gradient_returns_wrongly(answer, message):
    class Own(fg.Sequential):
        def loss_and_gradient(self, X, y):
            return answer

    net = Own(fg.Linear(1, 1), rng=0)
    with pytest.raises(TypeError, match=f"^loss_and_gradient: .*{message}"):
        net.train_step([1.0], [1.0], fg.SGD(lr=0.5))


def test_a_subclass_that_does_not_initialize_its_base():
    class Own(fg.Sequential):
        def __init__(self):
            self.factor = 2

    net = Own()
    assert net.factor == 2
    use_unknown = operator.attrgetter("unknown")
    uses = (
        use_unknown,
        lambda net: net.parameters,
        lambda net: net([1.0]),
        lambda net: net.train_step(1, 1, fg.SGD(1.0)),
    )
    for use in uses:
        with pytest.raises(AttributeError, match=r"^Own: expected __init__ to call super\(\).__init__\(\.\.\.\)"):
            use(net)
    with pytest.raises(AttributeError, match="'Sequential' object has no attribute 'unknown'"):
        use_unknown(fg.Sequential(fg.Linear(1, 1)))


def test_the_penalty_may_be_set_between_trainings(rng):
    X, y = rng.normal(size=(3, 40)), rng.normal(size=(1, 40))
    net = fg.Sequential(fg.Linear(3, 4), fg.Tanh(), fg.Linear(4, 1), dtype="float64", rng=0)
    optimizer = fg.Adam(lr=0.01)
    net.train_step(X, y, optimizer)
    plain, gradient = net.loss_and_gradient(X, y)
    net.l2 = 0.5
    loss, penalized = net.loss_and_gradient(X, y)
    weights = [view for name, view in net.named_parameters().items() if name[0] == "W"]
    np.testing.assert_allclose(loss - plain, 0.25 * sum((W**2).sum() for W in weights), rtol=1e-12)
    np.testing.assert_allclose(
        net.unflatten(penalized)["W1"] - net.unflatten(gradient)["W1"], 0.5 * weights[0], atol=1e-15
    )
    net.train_step(X, y, optimizer)  # the optimizer is still that of this network
    for wrong, error in ((-1.0, ValueError), ("a", TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^l2: expected"):
            net.l2 = wrong
    with pytest.raises(RuntimeError, match="l2: expected a network that is not being trained"):
        net.fit(X, y, optimizer=optimizer, epochs=1, callbacks=[lambda net, history: setattr(net, "l2", 1.0)])
    with pytest.raises(AttributeError):
        net.freeze().l2 = 1.0


class Positive(fg.Sequential):
    """Predicts exp of its outputs."""

    def forward(self, X, out=None):
        return np.exp(super().forward(X))


def test_an_overridden_forward(rng, tmp_path):
    """Predictions and metrics call it; what would not is refused."""
    net, X = Positive(fg.Linear(3, 1), rng=0), rng.normal(size=(3, 5))
    np.testing.assert_array_equal(net(X), net.forward(X))
    assert (net(X) > 0).all()
    history = net.fit(
        X, X[:1], optimizer=fg.SGD(1e-3), epochs=1, validation_data=(X, X[:1]),
        metrics=[lambda y, prediction: prediction.min()],
    )  # fmt: skip
    assert next(iter(history.metrics.values()))[0] > 0
    for call in (net.freeze, lambda: net.export_c(tmp_path / "net.c", name="net")):
        with pytest.raises(
            TypeError, match=r"(freeze|export_c): expected a network whose forward is not overridden, got"
        ):
            call()


@pytest.mark.parametrize("name", ["forward", "backward", "__call__"])
def test_a_layer_with_code_of_its_own(name):
    with pytest.raises(TypeError, match=rf"Square\.{name}: expected a layer without it"):
        type("Square", (fg.ReLU,), {name: lambda self, x: x * x})


def test_an_optimizer_that_returns_parameters():
    class Returning:
        def step(self, parameters, gradient):
            return parameters - 0.1 * gradient

    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(TypeError, match=r"optimizer: expected step\(parameters, gradient\) to write into parameters"):
        net.train_step([1.0, 2.0], [1.0, 2.0], Returning())
