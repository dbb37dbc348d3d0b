"""`export_c`: what the C file computes, compiled by each compiler found; what is refused; files that stay whole.

EXPORTS_CC names another compiler, EXPORTS_RUN an emulator for its programs: tests/reliability/emulate.sh for Arm.
tests/peers/test_interop.py has `export_onnx` and PyTorch.
"""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import ACTIVATIONS, TENDING_TO_0, assert_exported, drawn_network, reference_prediction

import fusegrad as fg
from fusegrad.exports import c

FLAGS = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
MORE_FLAGS = ["-Wconversion", "-Wdouble-promotion", "-Wmissing-prototypes"]
EMULATOR = shlex.split(os.environ.get("EXPORTS_RUN", ""))
pytestmark = pytest.mark.once
COMPILERS = [os.environ["EXPORTS_CC"]] if "EXPORTS_CC" in os.environ else [*filter(shutil.which, ("gcc", "clang"))]
NO_COMPILER = pytest.param(None, marks=pytest.mark.skip("no C compiler: neither gcc nor clang is found"))


@pytest.fixture(params=COMPILERS or [NO_COMPILER])
def compiler(request):
    return shlex.split(request.param)


def compiled(compiler, folder, sources, *options):
    """The program that a compiler makes of C files."""
    program = folder / "program"
    command = [*compiler, *options, "-o", str(program), *map(str, sources), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    if EMULATOR and shutil.which(EMULATOR[0]) is None:
        pytest.skip(f"compiled, but {EMULATOR[0]} is not installed, so it was not run")
    return [*EMULATOR, str(program)]


def predictions(compiler, folder, nets, batches, *options, **arguments):
    """What the C functions of networks return for batches (n_features, m), in one program of a file for each."""
    calls = []
    for i, (net, X) in enumerate(zip(nets, batches, strict=True)):
        net.export_c(folder / f"net_{i}.c", name=f"net_{i}", **arguments)
        real, n_in, n_out = "float" if net.dtype == "float32" else "double", net.n_features, net.n_outputs
        y = "y" if i % 2 else "x"  # they may be one array
        calls.append(f"""
void net_{i}(const {real} *x, {real} *y);
static void call_{i}(void)
{{
    static {real} x[{max(n_in, n_out)}], y[{n_out}];
    int k;
    y[0] = 0;
    for (k = 0; k < {X.shape[1]} && fread(x, sizeof *x, {n_in}, stdin) == {n_in}; ++k) {{
        net_{i}(x, {y});
        fwrite({y}, sizeof *y, {n_out}, stdout);
    }}
}}
""")
    runs = "\n".join(f"    call_{i}();" for i in range(len(calls)))
    main = f"#include <stdio.h>\n{''.join(calls)}\nint main(void)\n{{\n{runs}\n    return 0;\n}}\n"
    (folder / "main.c").write_text(main)
    sources = [folder / "main.c", *(folder / f"net_{i}.c" for i in range(len(nets)))]
    program = compiled(compiler, folder, sources, *FLAGS, *MORE_FLAGS, *options)
    content = b"".join(X.T.astype(net.dtype).tobytes() for net, X in zip(nets, batches, strict=True))
    written = subprocess.run(program, input=content, capture_output=True, check=True, timeout=60).stdout
    results, place = [], 0
    for net, X in zip(nets, batches, strict=True):
        size = net.n_outputs * X.shape[1]
        results.append(np.frombuffer(written, net.dtype, size, place).reshape(-1, net.n_outputs).T)
        place += size * net.dtype.itemsize
    assert place == len(written)
    return results


def assert_predictions(nets, batches, results):
    for net, X, result in zip(nets, batches, results, strict=True):
        assert_exported("exported C", net, X, result)


def drawn_batches(rng, nets, m=20):
    return [rng.normal(size=(net.n_features, m)).astype("float32") for net in nets]


def one_unit(activation, dtype):
    """A network that is its activation."""
    net = fg.Sequential(fg.Linear(1, 1), activation, dtype=dtype, rng=0)
    net.parameters = [1.0, 0.0]
    return net


# ---- what is computed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimization", ["-O0", "-O3"])
def test_predictions_of_every_activation(compiler, dtype, optimization, rng, tmp_path):
    nets = [drawn_network(rng, dtype, activation) for activation in ACTIVATIONS]
    batches = drawn_batches(rng, nets)
    assert_predictions(nets, batches, predictions(compiler, tmp_path, nets, batches, optimization))


def test_200_networks(compiler, rng, tmp_path):
    nets = [drawn_network(rng, dtype) for dtype in ("float32", "float64") for _ in range(100)]
    batches = drawn_batches(rng, nets)
    assert_predictions(nets, batches, predictions(compiler, tmp_path, nets, batches, "-O1"))


def test_large_inputs_and_nan(compiler, dtype, tmp_path):
    """What the network returns: nothing overflows on the way, and NaN is not lost."""
    x = np.array([[-1e30, -1e10, -1e3, -90.0, 0.0, 90.0, 1e3, 1e10, 1e30, np.inf, -np.inf, np.nan]])
    nets = [one_unit(activation, dtype) for activation in ACTIVATIONS]
    results = predictions(compiler, tmp_path, nets, [x] * len(nets), "-O2")
    for net, result in zip(nets, results, strict=True):
        tiny = 1e-35  # of -90 some functions are smaller still
        np.testing.assert_allclose(result, net(x), rtol=8 * np.finfo(dtype).eps, atol=tiny, err_msg=repr(net))


def test_small_values_keep_their_digits(compiler, dtype, tmp_path):
    """No activation cancels: where it is near 0, its error is relative to itself."""
    near, below = np.linspace(-3.0, 3.0, 601)[np.newaxis, :] ** 3 / 9, np.linspace(-30.0, -3.0, 201)[np.newaxis, :]
    nets = [one_unit(activation, dtype) for activation in (*ACTIVATIONS, *TENDING_TO_0)]
    batches = [near] * len(ACTIVATIONS) + [below] * len(TENDING_TO_0)
    results = predictions(compiler, tmp_path, nets, batches, "-O2")
    for net, x, result in zip(nets, batches, results, strict=True):
        tolerance = 30 * np.finfo(dtype).eps
        np.testing.assert_allclose(result, reference_prediction(net, x), rtol=tolerance, atol=1e-300, err_msg=repr(net))


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_probabilities(compiler, dtype, loss, tmp_path):
    net = fg.Sequential(fg.Linear(3, 3), loss=loss, dtype=dtype, rng=0)
    net.parameters = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    X = np.array([[0.0, 1.0, 1000.0, -1e30, 1e30], [0.0, 2.0, 999.0, 0.0, 1e30], [0.0, 3.0, -1000.0, 1e30, -1e30]])
    (result,) = predictions(compiler, tmp_path, [net], [X], probabilities=True)
    np.testing.assert_allclose(result, net.probabilities(X), rtol=4 * np.finfo(dtype).eps, atol=1e-35)


def test_every_bit_of_a_parameter_is_kept(compiler, dtype, tmp_path):
    info = np.finfo(dtype)
    values = [info.max, -info.tiny, info.smallest_subnormal, 1 / 3, -np.pi, 1.0, 0.1, 1 + info.eps, -0.0]
    net = fg.Sequential(fg.Linear(len(values), 1, bias=False), dtype=dtype, rng=0)
    net.parameters = values
    (result,) = predictions(compiler, tmp_path, [net], [np.eye(len(values))])
    np.testing.assert_array_equal(result, net.parameters[np.newaxis, :])


def test_networks_of_one_file_as_c_and_as_cpp(compiler, tmp_path):
    """All that a file names is its own: several in one, and no function from outside but those of math.h."""
    nets = {"first": one_unit(fg.GELU(), "float32"), "second": one_unit(fg.GELU(), "float64")}
    for name, net in nets.items():
        net.export_c(tmp_path / f"{name}.c", name=name)
    source = tmp_path / "both.c"
    source.write_text(
        '#include "first.c"\n#include "second.c"\n#include <stdio.h>\n'
        "int main(void)\n{\n    float x = 1;\n    double y = 1;\n    first(&x, &x);\n    second(&y, &y);\n"
        '    printf("%.9g %.17g", (double)x, y);\n    return 0;\n}\n'
    )
    versions = [FLAGS, ["-x", "c++", "-std=c++17", *FLAGS[1:]]]
    for options in versions[: 1 if compiler == ["gcc"] and not shutil.which("g++") else 2]:
        program = compiled(compiler, tmp_path, [source], *options)
        first, second = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        assert float(first) == pytest.approx(0.8413447460685429, rel=1e-6)
        assert float(second) == pytest.approx(0.8413447460685429, rel=1e-15)


@pytest.mark.skipif(shutil.which("nm") is None or not shutil.which("gcc"), reason="needs gcc and nm")
def test_only_the_function_is_visible(tmp_path):
    layers = [layer for activation in ACTIVATIONS for layer in (fg.Linear(5, 5), activation)]
    fg.Sequential(*layers, fg.Linear(5, 2), rng=0).export_c(tmp_path / "net.c", name="net")
    subprocess.run(["gcc", "-c", *FLAGS, "-o", tmp_path / "net.o", tmp_path / "net.c"], check=True)
    listed = subprocess.run(["nm", "-g", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
    symbols = {tuple(line.split()[-2:]) for line in listed.splitlines()}
    assert {name for kind, name in symbols if kind != "U"} == {"net"}
    assert {name for kind, name in symbols if kind == "U"} <= {
        "expf",
        "expm1f",
        "log1pf",
        "tanhf",
        "erfcf",
        "fabsf",
    } | {"_GLOBAL_OFFSET_TABLE_"}


def test_the_head_of_a_file(tmp_path):
    net = fg.Sequential(
        fg.Linear(3, 50), fg.ELU(0.7), fg.Dropout(), fg.Scale(50), fg.Linear(50, 60, bias=False), fg.Linear(60, 7),
        fg.Tanh(), fg.Linear(7, 2), loss="softmax_cross_entropy", dtype="float64", rng=0,
    )  # fmt: skip
    net.export_c(tmp_path / "net.c", name="walk_3", probabilities=True)
    source = (tmp_path / "net.c").read_text()
    head = source.partition("*/")[0]
    n_constants = net.n_parameters - 50  # the scale is folded
    for said in (
        "void walk_3(const double *x, double *y);", "x[3]", "probabilities, y[2]", f"fusegrad {fg.__version__}",
        "float64", "3 -> 50  elu (0.7)", "50 -> 60  identity, no bias", " 7 -> 2  identity, then softmax",
        f"{n_constants} constants of {8 * n_constants} bytes", f"{8 * (50 + 60)} bytes of stack",
    ):  # fmt: skip
        assert said in head, head
    assert "double a[50], b[60];" in source
    assert max(map(len, source.splitlines())) <= 120


def test_a_predictor_and_a_loaded_network_write_the_same_file(tmp_path, rng):
    net = drawn_network(rng, "float32")
    net.save(tmp_path / "net.safetensors")
    for i, same in enumerate((net, net.freeze(), fg.load(tmp_path / "net.safetensors"))):
        same.export_c(tmp_path / f"{i}.c")
    assert len({(tmp_path / f"{i}.c").read_bytes() for i in range(3)}) == 1


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "1st", "a-b", "a b", "é", "_x", "a__b", "int", "class", "main", "tanh", "expf", "x\n", "*/"]
)
def test_names_that_a_function_cannot_have(name, tmp_path):
    with pytest.raises(ValueError, match=r"^name: expected letters, digits and single underscores"):
        fg.UnivariateRegression(rng=0).export_c(tmp_path / "net.c", name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_no_constants(value, tmp_path):
    net = fg.UnivariateRegression(rng=0)
    net.parameters = [1.0, value]
    with pytest.raises(ValueError, match=f"^parameters: expected finite numbers, got {value}"):
        net.export_c(tmp_path / "net.c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", ["export_c", "export_onnx"])
def test_a_loss_without_probabilities(export, tmp_path):
    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(TypeError, match=r"^probabilities: expected a network with loss='softmax_cross_entropy' or"):
        getattr(net, export)(tmp_path / "net", probabilities=True)
    assert not list(tmp_path.iterdir())


def test_every_activation_of_the_kernels_is_in_each_table():
    from fusegrad.exports import onnx
    from fusegrad.interop import ARGUMENTS

    names = {activation.name for activation in ACTIVATIONS}
    assert names == {*fg.layers.BY_NAME, "gelu_tanh"}
    assert names == {*c.ACTIVATIONS, "identity"} == set(onnx.ACTIVATIONS) == set(onnx.ACTIVATIONS_FLOAT32)
    assert {type(activation).__name__ for activation in ACTIVATIONS} == set(ARGUMENTS) - {"Dropout"}


@pytest.mark.parametrize(
    ("call", "missing", "message"),
    [
        (lambda net, path: net.export_onnx(path), "onnx", r'pip install "fusegrad\[onnx\]"'),
        (lambda net, path: fg.to_torch(net), "torch", "pip install torch"),
        (lambda net, path: fg.from_torch(net), "torch", "pip install torch"),
    ],
)
def test_a_missing_package_is_named(call, missing, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        call(fg.UnivariateRegression(rng=0), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.c"
    path.write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=re.escape(str(path))) as caught:
        fg.UnivariateRegression(rng=0).export_c(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written(tmp_path):
    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(FileNotFoundError, match="missing"):
        net.export_c(tmp_path / "missing" / "net.c")
    with pytest.raises(IsADirectoryError):
        net.export_c(tmp_path)
    with pytest.raises(ValueError, match=r"^path: expected a regular file"):
        net.export_c("/dev/null")


def test_a_network_in_training_is_exported_by_its_callbacks_only(tmp_path):
    net = fg.UnivariateRegression(rng=0)
    errors = []

    def export():
        try:
            net.export_c(tmp_path / "other.c")
        except RuntimeError as error:
            errors.append(str(error))

    def callback(net, history):
        net.export_c(tmp_path / "net.c")
        thread = threading.Thread(target=export)
        thread.start()
        thread.join()

    net.fit([[1.0, 2.0]], [[1.0, 2.0]], optimizer=fg.SGD(lr=0.1), epochs=1, callbacks=[callback])
    assert len(errors) == 1 and "another thread trains this network" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["net.c"]
