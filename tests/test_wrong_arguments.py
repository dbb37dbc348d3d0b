"""Every argument of every public callable, given what it cannot be: an error that begins with its name."""

import inspect

import numpy as np
import pytest
from test_docs import public

import fusegrad as fg

STRINGS = np.array(["ford", "audi"])
WRONG = {
    "None": None,
    "object": object(),
    "text": "text",
    "bytes": b"text",
    "strings": STRINGS,
    "class": int,
    "function": repr,
    "NaN": float("nan"),
    "negative": -1,
    "fraction": 1.5,
    "complex": 1j,
    "ragged": [[1.0], [1.0, 2.0]],
    "dict": {"a": 1},
    "set": {1.0},
    "very large": 10**400,
    "objects": np.array([None, object()], dtype=object),
    "dates": np.array(["2024-02-29"], dtype="M8[D]"),
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "five dimensions": np.ones((1,) * 5),
}
if hasattr(np.dtypes, "StringDType"):
    WRONG["StringDType"] = STRINGS.astype(np.dtypes.StringDType())

# Which of these an argument may be after all, by its kind.
NOTHING = set()
OPTIONAL = {"None"}
NUMBER = {"fraction"}
SEED = {"None", "very large"}
PATH = {"text"}
ELEMENTS = {"NaN", "negative", "fraction", "five dimensions"}  # of any shape

X, Y = np.ones((3, 5)), np.ones((2, 5))
NETWORK = {"init": ("torch", OPTIONAL), "dtype": ("float32", NOTHING), "rng": (0, SEED)}
WEIGHT = {"sample_weight": (None, OPTIONAL)}
BATCH = {"X": (X, NOTHING), "y": (Y, NOTHING), **WEIGHT}
FIT = {
    **BATCH,
    "optimizer": (fg.SGD(lr=0.1), NOTHING),
    "epochs": (2, NOTHING),
    "initial_epoch": (0, NOTHING),
    "batch_size": (2, OPTIONAL),
    "shuffle": (True, NOTHING),
    "rng": (0, SEED),
    "schedule": (None, {"None", "class"}),  # int is a schedule
    "validation_data": (None, OPTIONAL),
    "metrics": ((), NOTHING),
    "keep_best": (False, NOTHING),
    "callbacks": ((), NOTHING),
    "on_divergence": ("raise", NOTHING),
    "verbose": (0, NOTHING),
    "n_threads": (1, OPTIONAL),
    "moments": (True, NOTHING),
    "comm": (None, OPTIONAL),
    "partitioned": (False, NOTHING),
    "reduction": ("blocks", NOTHING),
}
LR = {"lr": (0.1, NUMBER)}
RULE = {**LR, "clip_norm": (None, OPTIONAL | NUMBER), "learning_rate_factors": (None, {"None", "dict"})}
W, A = np.ones((2, 3)), np.ones((2, 5))
LAYER = {"weight": (W, NOTHING), "x": (X, NOTHING), "activation": ("relu", NOTHING)}
FLAT = np.zeros(4)
SAVE = {"path": ("x", PATH), "optimizer": (None, OPTIONAL), "rng": (None, OPTIONAL), "metadata": ({}, {"None"})}
EXPORT = {"path": ("x", PATH), "probabilities": (False, NOTHING)}
AXES = {"ax": (None, OPTIONAL)}


def network():
    return fg.Sequential(fg.Linear(3, 4), fg.Sigmoid(), fg.Linear(4, 2), dtype="float64", rng=0)


def classifier():
    return fg.Sequential(fg.Linear(3, 2), loss="softmax_cross_entropy", dtype="float64", rng=0)


def momentum():
    return fg.SGD(lr=0.1, momentum=0.9, nesterov=True)


#: Each public callable: what it belongs to, and for each argument a good value and what else it may be.
def predictor():
    return network().freeze()


CALLS = {
    "set_num_threads": (None, {"n": (None, OPTIONAL)}),
    "to_torch": (None, {"net": (network(), NOTHING)}),
    "load": (None, {"path": ("", PATH)}),
    "load_checkpoint": (None, {"path": ("", PATH)}),
    "load_metadata": (None, {"path": ("", PATH)}),
    "UnivariateRegression": (None, NETWORK),
    "MultivariateRegression": (None, {"n_features": (2, NOTHING), **NETWORK}),
    "TwoLayerLinear": (None, {"n_features": (2, NOTHING), "n_hidden": (2, NOTHING), **NETWORK}),
    "TwoLayerSigmoid": (None, {"n_features": (2, NOTHING), "n_hidden": (2, NOTHING), **NETWORK}),
    "Linear": (None, {"in_features": (2, NOTHING), "out_features": (2, NOTHING), "bias": (True, NOTHING)}),
    "Predictor": (None, {"net": (network(), NOTHING)}),
    "Predictor.plan": (
        predictor,
        {"n_examples": (5, NOTHING), "n_threads": (1, OPTIONAL), "epochs": (1, OPTIONAL)},
    ),
    "Predictor.forward": (predictor, {"X": (X, NOTHING), "out": (None, OPTIONAL)}),
    "Predictor.probabilities": (lambda: classifier().freeze(), {"X": (X, NOTHING)}),
    "Predictor.classes": (lambda: classifier().freeze(), {"X": (X, NOTHING)}),
    "Predictor.unflatten": (predictor, {"flat": (FLAT, NOTHING)}),
    "Predictor.load_state_dict": (predictor, {"state_dict": ({}, NOTHING)}),
    "Predictor.save": (predictor, SAVE),
    "Predictor.export_c": (predictor, {**EXPORT, "name": ("predict", PATH)}),
    "Sequential": (
        None,
        {
            "layers": (fg.Linear(1, 1), NOTHING),
            "loss": ("huber", NOTHING),
            "l2": (0.0, NUMBER),
            **NETWORK,
        },
    ),
    "Sequential.backward": (
        network,
        {"X": (X, NOTHING), "output_gradient": (Y, NOTHING), "out": (None, OPTIONAL)},
    ),
    "Sequential.probabilities": (classifier, {"X": (X, NOTHING)}),
    "Sequential.classes": (classifier, {"X": (X, NOTHING)}),
    "Sequential.unflatten": (network, {"flat": (FLAT, NOTHING)}),
    "Sequential.load_state_dict": (network, {"state_dict": ({}, NOTHING)}),
    "Sequential.save": (network, SAVE),
    "Sequential.export_c": (network, {**EXPORT, "name": ("predict", PATH)}),
    "Sequential.plan": (
        network,
        {"n_examples": (5, NOTHING), "n_threads": (1, OPTIONAL), "epochs": (1, OPTIONAL)},
    ),
    "Sequential.forward": (network, {"X": (X, NOTHING), "out": (None, OPTIONAL)}),
    "Sequential.loss": (network, BATCH),
    "Sequential.loss_and_gradient": (network, {**BATCH, "out": (None, OPTIONAL), "training_step": (None, OPTIONAL)}),
    "Sequential.input_gradient": (network, {**BATCH, "output_gradient": (None, OPTIONAL)}),
    "Sequential.train_step": (network, {**BATCH, "optimizer": (fg.SGD(lr=0.1), NOTHING)}),
    "Sequential.fit": (network, FIT),
    "Blocks": (None, {**BATCH, "block_size": (2, OPTIONAL), "axis": (1, NOTHING)}),
    "SGD": (None, {**RULE, "momentum": (0.5, NOTHING), "nesterov": (False, NOTHING)}),
    "SGD.look_ahead": (momentum, {"parameters": (FLAT, NOTHING)}),
    "Adagrad": (None, {**RULE, "eps": (0.1, NUMBER)}),
    "RMSprop": (None, {**RULE, "decay": (0.5, NOTHING), "eps": (0.1, NUMBER)}),
    "Adam": (
        None,
        {**RULE, "betas": ((0.5, 0.5), NOTHING), "eps": (0.1, NUMBER), "bias_correction": (True, NOTHING)},
    ),
    "AdamW": (
        None,
        {**RULE, "betas": ((0.5, 0.5), NOTHING), "eps": (0.1, NUMBER), "weight_decay": (0.1, NUMBER)},
    ),
    "Optimizer.check": (momentum, {"parameters": (FLAT, NOTHING)}),
    "Optimizer.prepare": (momentum, {"parameters": (FLAT, NOTHING)}),
    "Optimizer.step": (momentum, {"parameters": (FLAT, NOTHING), "gradient": (FLAT.copy(), NOTHING)}),
    "Optimizer.load_state_dict": (momentum, {"state_dict": ({}, NOTHING)}),
    "ExponentialDecay": (None, {**LR, "rate": (0.1, NUMBER)}),
    "InverseTimeDecay": (None, {**LR, "rate": (0.1, NUMBER)}),
    "StepDecay": (None, {**LR, "step_size": (1, NOTHING), "factor": (0.5, NUMBER)}),
    "Dropout": (None, {"p": (0.5, NOTHING)}),
    "Scale": (None, {"n_features": (2, NOTHING)}),
    "LeakyReLU": (None, {"slope": (0.1, NUMBER)}),
    "ELU": (None, {"alpha": (1.0, NUMBER)}),
    "GELU": (None, {"approximate": ("none", NOTHING)}),
    "losses.Huber": (None, {"delta": (1.0, NUMBER)}),
    "losses.Quantile": (None, {"q": (0.5, NOTHING)}),
    "losses.Poisson": (None, {"full": (False, NOTHING)}),
    "losses.SoftmaxCrossEntropy": (None, {"label_smoothing": (0.1, NOTHING)}),
    "losses.MulticlassHinge": (None, {"margin": (1.0, NUMBER)}),
    "CosineDecay": (None, {**LR, "steps": (10, NOTHING), "warmup": (0, NOTHING), "floor": (0.0, NOTHING)}),
    "CosineLogDecay": (None, {**LR, "steps": (10, NOTHING)}),
    **{
        f"{type(schedule).__name__}.rates": (
            lambda schedule=schedule: schedule,
            {"first": (0, NOTHING), "n": (1, NOTHING)},
        )
        for schedule in (
            fg.StepDecay(0.1, 1, 0.5),
            fg.ExponentialDecay(0.1, 0.1),
            fg.InverseTimeDecay(0.1, 0.1),
            fg.CosineDecay(0.1, 10),
            fg.CosineLogDecay(0.1, 10),
        )
    },
    "EarlyStopping": (
        None,
        {"patience": (3, NOTHING), "min_delta": (0.0, NUMBER), "restore_best": (True, NOTHING)},
    ),
    "ReduceOnPlateau": (
        None,
        {
            "factor": (0.5, NOTHING),
            "patience": (3, NOTHING),
            "min_delta": (0.0, NUMBER),
            "least": (0.0, NUMBER),
        },
    ),
    "LogisticRegression": (None, {"n_features": (2, NOTHING), **NETWORK}),
    "second_order.newton": (
        None,
        {"net": (fg.Sequential(fg.Linear(3, 2), dtype="float64", rng=0), NOTHING), **BATCH},
    ),
    "second_order.hessian": (None, {"net": (network(), NOTHING), **BATCH}),
    "random_search": (
        None,
        {
            "net": (network(), NOTHING),
            **BATCH,
            "n": (2, NOTHING),
            "scale": (1.0, NUMBER),
            "rng": (0, SEED),
            "n_threads": (1, OPTIONAL),
        },
    ),
    "Checkpoint": (None, {"path": ("x", PATH), "every": (1, NOTHING)}),
    "LogCSV": (None, {"path": ("x", PATH)}),
    "kernels.matmul": (None, {"a": (W, NOTHING), "b": (X, NOTHING), "out": (None, OPTIONAL)}),
    "kernels.sigmoid": (None, {"z": (X, ELEMENTS), "out": (None, OPTIONAL)}),
    "kernels.apply": (None, {"z": (X, ELEMENTS), "activation": ("relu", NOTHING), "out": (None, OPTIONAL)}),
    "kernels.dense_forward": (None, {**LAYER, "bias": (None, OPTIONAL), "out": (None, OPTIONAL)}),
    "kernels.dense_backward": (None, {**LAYER, "a": (A, NOTHING), "grad_a": (A, NOTHING)}),
    "plots.trajectory": (
        None,
        {
            "path": (np.ones((5, 2)), NOTHING),
            "heights": (None, OPTIONAL),
            **AXES,
            "label": (None, {"None", "text"}),
            "which": (0, NOTHING),
        },
    ),
    "plots.race": (
        None,
        {
            "surface": ("saddle", NOTHING),
            "optimizers": ({"descent": fg.SGD(lr=0.1)}, OPTIONAL),
            "steps": (1, NOTHING),
            **AXES,
            "animated": (False, NOTHING),
        },
    ),
    "plots.loss_landscape": (
        None,
        {
            "net": (network(), NOTHING),
            "X": (X, NOTHING),
            "y": (Y, NOTHING),
            "parameters": ((0, 1), NOTHING),
            "directions": (None, OPTIONAL),
            "span": (1.0, NUMBER),
            "n": (3, NOTHING),
            **AXES,
        },
    ),
    "plots.taylor": (
        None,
        {
            "net": (network(), NOTHING),
            "X": (X, NOTHING),
            "y": (Y, NOTHING),
            "span": (1.0, NUMBER),
            "n": (3, NOTHING),
            **AXES,
        },
    ),
    "plots.network": (
        None,
        {"net": (fg.MultivariateRegression(2, rng=0), NOTHING), "span": (1.0, NUMBER), "n": (3, NOTHING), **AXES},
    ),
    "plots.delta_norms": (None, {"net": (network(), NOTHING), "X": (X, NOTHING), "y": (Y, NOTHING), **AXES}),
    "plots.gradient_check_curve": (
        None,
        {"net": (network(), NOTHING), "X": (X, NOTHING), "y": (Y, NOTHING), "rng": (0, SEED), **AXES},
    ),
    "plots.input_gradient": (
        None,
        {
            "net": (network(), NOTHING),
            "x": (X[:, 0], NOTHING),
            "names": (None, OPTIONAL),
            "output": (0, NOTHING),
            **AXES,
        },
    ),
    "plots.history": (None, {"history": (fg.History(), NOTHING), **AXES}),
    "plots.predicted": (
        None,
        {"net": (network(), NOTHING), "X": (X, NOTHING), "y": (Y, NOTHING), "output": (0, NOTHING), **AXES},
    ),
    "plots.schedules": (None, {"schedules": ({"constant": float}, NOTHING), "steps": (3, NOTHING), **AXES}),
    "testing.check_gradients": (
        None,
        {
            "net": (network(), NOTHING),
            **BATCH,
            "output_gradient": (None, OPTIONAL),
            "tolerance": (0.1, NUMBER),
            "n_directions": (1, NOTHING),
            "most_parameters": (0, NOTHING),
            "rng": (0, SEED),
        },
    ),
}


#: They hold what they are given, or are no more than their base: what may be wrong with it is said there.
EXEMPT = {"LoadedCheckpoint", "RandomSearch", "DivergenceError", "Optimizer", "testing.GradientCheck", "plots.Surface"}
#: They call a function whose errors are its own: see tests/test_plots.py.
EXEMPT |= {"plots.descend", "plots.sliders"}
#: They need a package that is a peer: see tests/peers/test_interop.py.
EXEMPT |= {"from_torch", "Sequential.export_onnx", "Predictor.export_onnx"}


def test_every_argument_is_here():
    found = {}
    for name, thing in public():
        arguments = {argument for argument in inspect.signature(thing).parameters if argument != "self"}
        if arguments and name not in EXEMPT:
            found[name] = arguments
    assert found == {name: set(arguments) for name, (_, arguments) in CALLS.items()}


def assert_named(argument, call, takes=NOTHING):
    """Call it with each wrong value: an error that begins with the argument's name, but for those that it takes."""
    for what, value in WRONG.items():
        if what in takes:
            call(value)
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            call(value)
        assert str(caught.value).startswith(argument), (what, caught.value)


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in CALLS for argument in CALLS[name][1]])
def test_a_wrong_argument_is_named(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network().save("text")  # for those that read a file of this name
    owner, arguments = CALLS[name]
    public_name = dict(public())[name]

    def call(value):
        given = {other: good for other, (good, _) in arguments.items()} | {argument: value}
        layers = [given.pop("layers")] if "layers" in given else []
        called = public_name if owner is None else getattr(owner(), name.split(".")[1])
        called(*layers, **given)

    assert_named(argument, call, arguments[argument][1])
    fg.set_num_threads(None)
    if name.startswith("plots."):
        pytest.importorskip("matplotlib.pyplot").close("all")


def test_what_is_assigned_is_named():
    assert_named("parameters", lambda value: setattr(network(), "parameters", value))
    assert_named("lr", lambda value: setattr(momentum(), "lr", value), NUMBER)


@pytest.mark.parametrize(
    "schedule", [fg.StepDecay(0.1, 2, 0.5), fg.ExponentialDecay(0.1, 0.5), fg.InverseTimeDecay(0.1, 0.5)]
)
def test_a_step_that_is_none_is_named(schedule):
    assert_named("step", schedule)
    assert schedule(np.int64(2)) == schedule(2)
