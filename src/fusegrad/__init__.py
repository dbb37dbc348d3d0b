"""Dense networks trained on the CPU near the machine's limit, from NumPy arrays.

>>> import fusegrad as fg
>>> X, y = fg.datasets.load_auto_mpg()
>>> X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
>>> net = fg.TwoLayerSigmoid(n_features=6, n_hidden=16, rng=0)
>>> history = net.fit(X, y, optimizer=fg.Adam(lr=0.05), epochs=1000)
>>> history.loss[-1] < 6
True
"""

from fusegrad import circuits, datasets, kernels, losses, plots, reference, second_order, testing
from fusegrad._engine.config import show_config
from fusegrad._engine.threads import get_num_threads, set_num_threads
from fusegrad.callbacks import Checkpoint, EarlyStopping, LogCSV, ReduceOnPlateau
from fusegrad.checkpoints import LoadedCheckpoint, load, load_checkpoint, load_metadata
from fusegrad.course import (
    LogisticRegression,
    MultivariateRegression,
    TwoLayerLinear,
    TwoLayerSigmoid,
    UnivariateRegression,
)
from fusegrad.history import DivergenceError, History
from fusegrad.interop import from_torch, to_torch
from fusegrad.layers import (
    ELU,
    GELU,
    SELU,
    Dropout,
    Identity,
    LeakyReLU,
    Linear,
    Mish,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from fusegrad.networks import Sequential
from fusegrad.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from fusegrad.predictor import Predictor
from fusegrad.schedules import CosineDecay, CosineLogDecay, ExponentialDecay, InverseTimeDecay, StepDecay
from fusegrad.search import RandomSearch, random_search
from fusegrad.streams import Blocks

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "sklearn":  # imports scikit-learn, which is no dependency
        from importlib import import_module

        return import_module("fusegrad.sklearn")
    raise AttributeError(f"module 'fusegrad' has no attribute {name!r}")


__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Blocks",
    "Checkpoint",
    "CosineDecay",
    "CosineLogDecay",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "ExponentialDecay",
    "History",
    "Identity",
    "InverseTimeDecay",
    "LeakyReLU",
    "Linear",
    "LoadedCheckpoint",
    "LogCSV",
    "LogisticRegression",
    "Mish",
    "MultivariateRegression",
    "Optimizer",
    "Predictor",
    "RMSprop",
    "RandomSearch",
    "ReLU",
    "ReduceOnPlateau",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "StepDecay",
    "Tanh",
    "TwoLayerLinear",
    "TwoLayerSigmoid",
    "UnivariateRegression",
    "circuits",
    "datasets",
    "from_torch",
    "get_num_threads",
    "kernels",
    "load",
    "load_checkpoint",
    "load_metadata",
    "losses",
    "plots",
    "random_search",
    "reference",
    "second_order",
    "set_num_threads",
    "show_config",
    "testing",
    "to_torch",
]
