"""What the tests share: networks, data, the reference, and how far from it a result may be."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import fusegrad as fg
from fusegrad._engine.dispatch import by_dtype

LANES = {dtype.name: module.lanes for dtype, module in by_dtype.items()}
#: The error allowed against the float64 reference, over the largest entry.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}

#: Five layers, every activation, and no width that is a multiple of anything.
FIVE_LAYERS = (
    fg.Linear(7, 33), fg.ReLU(), fg.Linear(33, 17), fg.Tanh(), fg.Linear(17, 16), fg.Sigmoid(),
    fg.Linear(16, 9), fg.Identity(), fg.Linear(9, 3),
)  # fmt: skip


#: The worst figure of each promise in this run, and what is promised: printed at its end.
FIGURES: dict[str, tuple[float, str]] = {}


def within(what, value, most):
    """Assert that a figure is no larger than promised, and keep the worst."""
    FIGURES[what] = max(FIGURES.get(what, (-np.inf, ""))[0], float(value)), f"at most {most:g}"
    assert value <= most, f"{what}: {value}, expected at most {most}"


def at_least(what, value, least):
    """Assert that a figure is no smaller than promised, and keep the worst."""
    FIGURES[what] = min(FIGURES.get(what, (np.inf, ""))[0], float(value)), f"at least {least:g}"
    assert value >= least, f"{what}: {value}, expected at least {least}"


def tried(what, count=1):
    """Count what was tried and held."""
    FIGURES[what] = FIGURES.get(what, (0, ""))[0] + count, "all held"


def in_a_new_process(code, *arguments, timeout=300, without=(), **environment):
    """What Python code prints in a process of its own, which finds the tests' modules."""
    here = Path(__file__).parent
    modules = f"import sys; sys.path[:0] = {[str(here), str(here / 'reliability')]!r}\n"
    kept = {name: value for name, value in os.environ.items() if name not in without}
    result = subprocess.run(
        [sys.executable, "-c", modules + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=timeout, env={**kept, **environment},
    )  # fmt: skip
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stderr[-3000:]}"
    return result.stdout.strip()


def perturbed(*layers, dtype, seed=0, **options):
    """A network whose biases are not 0 either."""
    net = fg.Sequential(*layers, dtype=dtype, rng=seed, **options)
    net.parameters[:] += np.random.default_rng(seed).normal(scale=0.1, size=net.n_parameters)
    return net


def examples(net, m, seed=1):
    """Normal data that float32 holds exactly, in float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(net.n_features, m)).astype("float32").astype("float64")
    y = rng.normal(size=(net.n_outputs, m)).astype("float32").astype("float64")
    return X, y


def network(*sizes, dtype, activation=fg.Tanh, bias=True):
    """A network whose biases are not 0; sizes from its inputs to its outputs."""
    layers = [
        layer
        for n_in, n_out in itertools.pairwise(sizes)
        for layer in (fg.Linear(n_in, n_out, bias=bias), activation())
    ]
    net = fg.Sequential(*layers, dtype=dtype, rng=0)
    net.parameters += 0.1 * np.random.default_rng(1).normal(size=net.n_parameters)
    return net


def batch_of(net, m, seed=0):
    """Normal X and y of the network's dtype."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(net.n_features, m)).astype(net.dtype), rng.normal(size=(net.n_outputs, m)).astype(net.dtype)


def relative(actual, expected):
    """The largest error over the largest entry."""
    scale = np.abs(expected).max()
    return float(np.abs(np.asarray(actual, dtype="float64") - expected).max() / (scale if scale > 0 else 1))


#: The terms of a sum that a kernel adds one after another (SUM_BLOCK in cython_kernels/gemm/sums.pxi).
SUM_BLOCK = 512
#: Inputs of a layer from which on their sum is interleaved, and of a block of it, or of two in float64.
INTERLEAVED_DEPTH = 512
INTERLEAVED_BLOCK = 8 * SUM_BLOCK


def sums_of_one_sign(weight, x):
    """The exact weight (n, d) x (d, m) of float32 terms of one sign, and the relative error that is allowed.

    A rounding is off by half an eps at the most, so a block of SUM_BLOCK terms by sqrt(SUM_BLOCK) / 2 eps. The errors
    of many blocks cancel, and what is left of them is no more than NumPy's pairwise sums have.
    """
    exact = np.einsum("nd,dm->nm", weight, x, dtype="float64")
    eps = np.finfo("float32").eps
    if x.shape[0] < 100 * SUM_BLOCK:
        return exact, np.sqrt(SUM_BLOCK) / 2 * eps
    pairwise = np.array([np.sum(weight[0] * column) for column in x.T[:8]])
    return exact, max(4 * np.max(np.abs(pairwise / exact[0, :8] - 1)), eps)


def assert_sums(actual, exact, allowed):
    """`allowed`: relative."""
    assert actual.dtype == "float32"
    assert np.max(np.abs(actual / exact - 1)) <= allowed


def reference(net, X, y):
    """Everything that the float64 reference says of a network.

    `loss_scale` is what an error of the loss is relative to: that of a prediction p counts 2 |p - y| times. `smooth`
    are the examples for which rounding in the network's dtype takes no ReLU across its corner.
    """
    layers = fg.reference.layers_of(net, "float64")
    loss, gradient = fg.reference.loss_and_gradient(layers, X, y)
    x, smooth = X, np.ones(X.shape[1], bool)
    for weight, bias, activation in layers:
        z = fg.reference.dense_forward(weight, x, bias)
        if activation == "relu":
            smooth &= (np.abs(z) > 8 * np.finfo(net.dtype).eps * np.abs(z).max()).all(axis=0)
        x = fg.reference.activate(activation, z)
    return SimpleNamespace(
        loss=loss,
        loss_scale=loss + np.sqrt(loss * (x * x).sum() / X.shape[1]),
        gradient=gradient,
        input_gradient=fg.reference.input_gradient(layers, X, y),
        prediction=x,
        smooth=smooth,
    )


def ulps(actual, exact):
    """The error in units in the last place of `actual`'s dtype; exact in a wider type."""
    unit = np.spacing(np.abs(exact).astype(actual.dtype)).astype(exact.dtype)
    with np.errstate(invalid="ignore"):
        return np.abs(actual.astype(exact.dtype) - exact) / unit


#: Every activation, with and without its argument.
ACTIVATIONS = (
    fg.Identity(), fg.Sigmoid(), fg.ReLU(), fg.Tanh(), fg.LeakyReLU(0.1), fg.ELU(), fg.ELU(0.7), fg.SELU(),
    fg.Softplus(), fg.SiLU(), fg.Mish(), fg.GELU(), fg.GELU("tanh"),
)  # fmt: skip

#: Those that have all digits of a small value, for z far below 0.
TENDING_TO_0 = fg.Sigmoid(), fg.Softplus(), fg.SiLU(), fg.Mish()


def drawn_network(rng, dtype, activation=None):
    """A network of 1 to 5 layers of 1 to 70 units, with or without biases, scales and dropout, all drawn from `rng`."""
    widths = rng.integers(1, 71, rng.integers(2, 7)).tolist()
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [fg.Scale(n_in)] if rng.random() < 0.3 else []
        layers += [fg.Linear(n_in, n_out, bias=rng.random() < 0.7)]
        layers += [ACTIVATIONS[rng.integers(len(ACTIVATIONS))] if activation is None else activation]
        layers += [fg.Dropout(0.2)] if rng.random() < 0.2 else []
    net = fg.Sequential(*layers, dtype=dtype, rng=rng)
    net.parameters[:] += rng.normal(scale=0.1, size=net.n_parameters)
    return net


#: How far a prediction of an exported network may be from the network's, relative to the largest of a batch.
EXPORTED = {"float32": 1e-6, "float64": 1e-14}


def assert_exported(what, net, X, prediction):
    """Assert that a prediction (n_outputs, m) of an exported network is that of the network.

    Where outputs cancel, it may be off by twice what the network's own is off from the reference.
    """
    exact = reference_prediction(net, X)
    dtype, own = net.dtype.name, relative(net(X), exact)
    error = relative(prediction, net(X).astype("float64"))
    if 2 * own > EXPORTED[dtype]:
        assert error <= 2 * own, what
    else:
        within(f"{what} against the network, {dtype}", error, EXPORTED[dtype])


def reference_prediction(net, X):
    """The prediction in float64 by the reference, for X as the network takes it."""
    X = np.asarray(X, net.dtype).astype("float64")
    return fg.reference.forward(fg.reference.layers_of(net, "float64"), X)
