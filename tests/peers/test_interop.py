"""`export_onnx` against onnxruntime, `to_torch` and `from_torch` against PyTorch."""

import numpy as np
import pytest
from support import ACTIVATIONS, assert_exported, drawn_network
from test_docs import ROOT, run_blocks
from test_wrong_arguments import PATH, assert_named

import fusegrad as fg

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def nn(torch):
    return torch.nn


def session_of(net, path, **arguments):
    import onnxruntime

    net.export_onnx(path, **arguments)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session, X):
    """The output (n_outputs, m) for X (n_features, m)."""
    (given,) = session.get_inputs()
    (output,) = session.run(None, {given.name: np.ascontiguousarray(X.T)})
    return output.T


def of_torch(torch, module, X):
    with torch.inference_mode():
        return module(torch.from_numpy(np.ascontiguousarray(X.T))).numpy().T


def drawn_batch(rng, net, m=20):
    return rng.normal(size=(net.n_features, m)).astype("float32").astype(net.dtype)


def one_unit(activation, dtype):
    """A network that is its activation."""
    net = fg.Sequential(fg.Linear(1, 1), activation, dtype=dtype, rng=0)
    net.parameters = [1.0, 0.0]
    return net


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def test_100_networks_in_onnxruntime(dtype, rng, tmp_path):
    for i in range(100):
        net = drawn_network(rng, dtype, ACTIVATIONS[i] if i < len(ACTIVATIONS) else None)
        X = drawn_batch(rng, net)
        assert_exported("ONNX in onnxruntime", net, X, run(session_of(net, tmp_path / "net.onnx"), X))


def test_any_number_of_examples(dtype, tmp_path):
    net = fg.Sequential(fg.Linear(5, 7), fg.GELU(), fg.Linear(7, 3), dtype=dtype, rng=0)
    session = session_of(net, tmp_path / "net.onnx")
    for m in (1, 2, 33, 1000):
        X = np.random.default_rng(m).normal(size=(5, m)).astype(dtype)
        assert_exported("ONNX in onnxruntime", net, X, run(session, X))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_large_inputs_nan_and_small_values_in_onnxruntime(activation, dtype, tmp_path):
    net = one_unit(activation, dtype)
    session = session_of(net, tmp_path / "net.onnx")
    x = np.array([[-1e30, -1e10, -1e3, -90.0, 0.0, 90.0, 1e3, 1e10, 1e30, np.inf, -np.inf, np.nan]], dtype)
    np.testing.assert_allclose(run(session, x), net(x), rtol=8 * np.finfo(dtype).eps, atol=1e-35)
    x = np.linspace(-6.0, 6.0, 601, dtype=dtype)[np.newaxis, :]
    assert (
        abs(run(session, x) - net(x)) <= 4 * np.finfo(dtype).eps * (1 + abs(x))
    ).all()  # z Phi(z) is off by an eps of z


@pytest.mark.parametrize("activation", [fg.Softplus(), fg.Mish()], ids=repr)
def test_small_values_keep_their_digits_in_onnxruntime(activation, dtype, tmp_path):
    net = one_unit(activation, dtype)
    x = np.linspace(-30.0, -3.0, 201, dtype=dtype)[np.newaxis, :]
    result = run(session_of(net, tmp_path / "net.onnx"), x)
    np.testing.assert_allclose(result, net(x), rtol=30 * np.finfo(dtype).eps)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_probabilities_in_onnxruntime(loss, dtype, tmp_path):
    net = fg.Sequential(fg.Linear(3, 3), loss=loss, dtype=dtype, rng=0)
    net.parameters = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    X = np.array([[0.0, 1.0, 1000.0, -1e30], [0.0, 2.0, 999.0, 0.0], [0.0, 3.0, -1000.0, 1e30]], dtype)
    session = session_of(net, tmp_path / "net.onnx", probabilities=True)
    assert [output.name for output in session.get_outputs()] == ["probabilities"]
    np.testing.assert_allclose(run(session, X), net.probabilities(X), rtol=1e-6, atol=2 * np.finfo(dtype).eps)


def test_what_the_file_says(dtype, tmp_path, rng):
    import onnx

    net = drawn_network(rng, dtype)
    net.export_onnx(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (9, [("", 18)])
    assert (model.producer_name, model.producer_version) == ("fusegrad", fg.__version__)
    given, output = model.graph.input, model.graph.output
    assert ([value.name for value in given], [value.name for value in output]) == (["X"], ["prediction"])
    for value, n in ((given[0], net.n_features), (output[0], net.n_outputs)):
        examples, features = value.type.tensor_type.shape.dim
        assert (examples.dim_param, features.dim_value) == ("examples", n)
        assert value.type.tensor_type.elem_type == onnx.helper.np_dtype_to_tensor_dtype(net.dtype)
    net.freeze().export_onnx(tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_in_float32_activations_are_operators_of_onnx(tmp_path):
    import onnx

    layers = [layer for activation in ACTIVATIONS for layer in (fg.Linear(2, 2), activation)]
    fg.Sequential(*layers, rng=0).export_onnx(tmp_path / "net.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert {"Sigmoid", "Relu", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Mish", "Erf"} <= set(operators)
    assert operators.count("Gemm") == len(ACTIVATIONS)


def test_wrong_arguments_of_export_onnx_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = fg.UnivariateRegression(rng=0)
    assert_named("path", net.export_onnx, PATH)
    assert_named("probabilities", lambda value: net.export_onnx("x", probabilities=value))


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def test_100_networks_to_torch_and_back(torch, dtype, rng):
    for i in range(100):
        net = drawn_network(rng, dtype, ACTIVATIONS[i] if i < len(ACTIVATIONS) else None)
        X = drawn_batch(rng, net)
        module = fg.to_torch(net)
        assert_exported("PyTorch", net, X, of_torch(torch, module, X))
        back = fg.from_torch(module, rng=0)
        np.testing.assert_array_equal(back(X), net(X))
        kept = [layer for layer in net.layers if not isinstance(layer, fg.Scale)]
        assert repr(back.layers) == repr(tuple(kept)) and back.dtype == net.dtype


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_large_inputs_nan_and_small_values_in_torch(torch, activation, dtype):
    net = one_unit(activation, dtype)
    module = fg.to_torch(net)
    x = np.array(
        [[-1e30, -1e10, -1e3, -90.0, 0.0, 90.0, 1e3, 1e10, 1e30, np.nan, 19.9, 20.1, 39.9, 40.1]],
        dtype,
    )
    np.testing.assert_allclose(of_torch(torch, module, x), net(x), rtol=8 * np.finfo(dtype).eps, atol=1e-35)
    x = np.linspace(-6.0, 6.0, 601, dtype=dtype)[np.newaxis, :]
    assert (
        abs(of_torch(torch, module, x) - net(x)) <= 4 * np.finfo(dtype).eps * (1 + abs(x))
    ).all()  # z Phi(z) is off by an eps of z


def test_to_torch_copies_and_leaves_the_generator(torch):
    net = fg.Sequential(fg.Linear(3, 4), fg.Tanh(), fg.Dropout(0.3), fg.Linear(4, 1), rng=0)
    before = torch.get_rng_state()
    module = fg.to_torch(net.freeze())
    assert torch.equal(torch.get_rng_state(), before)
    assert not module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert module[2].p == 0.3
    net.load_state_dict(module.state_dict())  # the names are the same
    kept = net.parameters.copy()
    with torch.no_grad():
        module[0].weight.zero_()
    np.testing.assert_array_equal(net.parameters, kept)


def test_from_torch_takes_what_is_exact(torch, nn):
    shared = nn.Linear(4, 4)
    module = nn.Sequential(
        nn.Flatten(), nn.Identity(), nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Dropout(0.25),
        nn.Sequential(shared, nn.LeakyReLU(0.2), nn.Sequential()), shared, nn.Identity(), nn.Softplus(),
        nn.Linear(4, 3, bias=False),
    ).double()  # fmt: skip
    net = fg.from_torch(module, loss="softmax_cross_entropy", l2=0.1, rng=3)
    assert repr(net.layers) == (
        "(Linear(6, 4), ReLU(), Dropout(0.25), Linear(4, 4), LeakyReLU(slope=0.2), Linear(4, 4), Identity(), "
        "Softplus(), Linear(4, 3, bias=False))"
    )
    assert (net.dtype, net.loss_function, net.l2) == ("float64", fg.losses.SoftmaxCrossEntropy(), 0.1)
    assert fg.from_torch(module, loss="softmax_cross_entropy", rng=3).dropout_seed == net.dropout_seed
    images = torch.randn(20, 2, 3, dtype=torch.float64)
    expected = module.eval()(images).detach().numpy().T
    np.testing.assert_allclose(net(images.reshape(20, 6).numpy().T), expected, rtol=1e-13, atol=1e-14)
    with torch.no_grad():
        module[2].weight.zero_()
    assert net.named_parameters()["W1"].any()


def test_from_torch_takes_one_linear_and_subclasses_that_compute_the_same(nn):
    class Own(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 1), nn.Tanh())

    assert repr(fg.from_torch(Own()).layers) == "(Linear(2, 1), Tanh())"
    assert repr(fg.from_torch(nn.Linear(3, 2)).layers) == "(Linear(3, 2),)"


def refused(nn, torch):
    """Modules, and how the error begins."""

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Masked(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    hooked[1].register_forward_hook(lambda module, given, output: 2 * output)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    linear, dtypes = nn.Linear(2, 2), "module: expected parameters of float32 or of float64"
    return [
        (nn.Sequential(linear, nn.BatchNorm1d(2)), TypeError, "module.1: expected one of .*, got BatchNorm1d"),
        (nn.Sequential(linear, nn.Sequential(nn.PReLU())), TypeError, "module.1.0: expected one of .*, got PReLU"),
        (nn.Sequential(linear, Residual(nn.Tanh())), TypeError, "module.1: expected one of .*, got Residual"),
        (nn.Sequential(Masked(2, 2)), TypeError, "module.0: expected one of .*, got Masked"),
        (nn.Sequential(linear, nn.Softmax(1)), TypeError, "module.1: expected one of .*, got Softmax"),
        (nn.ModuleList([linear]), TypeError, "module: expected one of .*, got ModuleList"),
        (normed, TypeError, "module.0.parametrizations: expected one of .*, got ModuleDict"),
        (hooked, ValueError, "module.1: expected no hooks"),
        (nn.Sequential(linear, nn.Softplus(2.0)), ValueError, "module.1: expected beta 1 and a threshold"),
        (nn.Sequential(linear, nn.Softplus(threshold=10)), ValueError, "module.1: expected beta 1 and a threshold"),
        (nn.Sequential(nn.Flatten(0), linear), ValueError, "module.0: expected start_dim 1"),
        (nn.Sequential(linear, nn.Dropout(1.0)), ValueError, "module.1: p: expected a finite number"),
        (nn.Sequential(linear, nn.LeakyReLU(-0.1)), ValueError, "module.1: slope: expected a finite number"),
        (nn.Sequential(linear, nn.Tanh(), nn.ReLU()), ValueError, "module.2: expected a Linear between two"),
        (nn.Sequential(nn.Sequential(nn.Tanh())), ValueError, "module.0.0: expected a Linear first"),
        (nn.Sequential(linear, nn.Linear(3, 1)), ValueError, "module.1: expected 2 in_features"),
        (nn.Sequential(), ValueError, "module: expected at least one Linear, got none"),
        (nn.Linear(2, 2).half(), TypeError, f"{dtypes}, got torch.float16"),
        (mixed, TypeError, f"{dtypes}, got torch.float32 and torch.float64"),
        ([linear], TypeError, "module: expected a torch.nn.Module, got list"),
        (None, TypeError, "module: expected a torch.nn.Module, got NoneType"),
    ]  # fmt: skip


def test_what_from_torch_cannot_translate_is_named(nn, torch):
    for module, kind, message in refused(nn, torch):
        with pytest.raises(kind, match=f"^{message}"):
            fg.from_torch(module)


@pytest.mark.parametrize(("argument", "value"), [("loss", "other"), ("l2", -1.0), ("rng", "text")])
def test_other_arguments_of_from_torch_are_named(nn, argument, value):
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected"):
        fg.from_torch(nn.Linear(2, 1), **{argument: value})


def test_blocks_that_need_a_peer_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "guide" / "saving.md").read_text()
    assert "```py\n" in text
    document = tmp_path / "saving.md"
    document.write_text(text.replace("```py\n", "```python\n"))
    run_blocks(document)
