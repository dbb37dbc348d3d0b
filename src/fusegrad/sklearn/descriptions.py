"""Estimators as text, for their files: how columns become the inputs of the network, and the parameters."""

import json
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_random_state

from fusegrad._engine.validation import Array, as_count, as_dtype
from fusegrad.losses import build_loss, describe_loss, is_compiled
from fusegrad.networks import Sequential
from fusegrad.sklearn.tabular import RobustSmoothScaler, TableEncoder


def describe(model: Any) -> str:
    """What `restore` needs beside the network, as JSON."""
    description: dict[str, Any] = {
        "kind": "MLPClassifier" if is_classifier(model) else "MLPRegressor",
        "parameters": {name: described(name, getattr(model, name)) for name in model.own_parameters()},
        "names": _plain(getattr(model, "feature_names_in_", None)),
        "n_features": model.n_features_in_,
        "out_activation": model.out_activation_,
        "made_with": None if model._encoder is not None else _plain_parameters(model._made_with),
    }
    if is_classifier(model):
        description |= {"classes": _plain(model.classes_), "multilabel": bool(model._multilabel)}
    if model._encoder is not None:
        description["categories"] = [None if found is None else list(found) for found in model._encoder.categories]
        description |= {"center": _plain(model._scaler.center_), "scale": _plain(model._scaler.scale_)}
        if not is_classifier(model):
            description |= {"mean": _plain(model._target_mean), "spread": _plain(model._target_spread)}
    try:
        text = json.dumps(description)
    except TypeError as error:
        raise ValueError(f"y: expected classes that are texts or numbers, to be saved ({error})") from None
    return text


def restore(model: Any, network: Sequential, description: dict[str, Any]) -> None:
    """Make a new estimator the one that was described; anything else is a KeyError, TypeError or ValueError."""
    tabular = "categories" in description
    model.networks_, model.n_outputs_, model._encoder = [network], network.n_outputs, None
    model.n_layers_, model.out_activation_ = len(network.dense_layers) + 1, description["out_activation"]
    model.n_features_in_ = as_count(description["n_features"], "n_features")
    names = description["names"]
    if names is not None:
        if len(names) != model.n_features_in_ or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names: expected {model.n_features_in_} texts")
        model.feature_names_in_ = np.array(names, dtype=object)
    allowed = ("softmax", "logistic") if is_classifier(model) else ("identity", "exp")
    if model.out_activation_ not in allowed:
        raise ValueError(f"out_activation: expected one of {allowed}, got {model.out_activation_!r}")
    if is_classifier(model):
        model.classes_, model._multilabel = np.array(description["classes"]), bool(description["multilabel"])
        n = len(model.classes_)
        outputs = n if model._multilabel or model.out_activation_ == "softmax" else 1
        if model.classes_.ndim != 1 or outputs != network.n_outputs or not hasattr(network.loss_function, "kind"):
            raise ValueError(f"classes: expected those of {network.n_outputs} outputs, got {n}")
    expected = model.n_features_in_
    if tabular:
        model._encoder, model._scaler = TableEncoder(), RobustSmoothScaler()
        model._encoder.categories = []
        for found in description["categories"]:
            if found is not None and not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
                raise TypeError("categories: expected lists of texts")
            model._encoder.categories.append(None if found is None else {text: i for i, text in enumerate(found)})
        if len(model._encoder.categories) != model.n_features_in_:
            raise ValueError(f"categories: expected those of {model.n_features_in_} columns")
        expected = sum(1 if found is None or len(found) == 2 else len(found) for found in model._encoder.categories)
        for name in ("center", "scale"):
            setattr(model._scaler, f"{name}_", _finite(description[name], name, (expected,)))
        model._scaler.n_features_in_ = expected
        if not is_classifier(model):
            for name in ("mean", "spread"):
                setattr(model, f"_target_{name}", _finite(description[name], name, (network.n_outputs, 1)))
    else:
        made_with = {name: rebuilt(name, value) for name, value in description["made_with"].items()}
        if hasattr(model, "loss"):
            made_with.setdefault("loss", model.loss)  # files of versions before did not have it
        model._made_with = made_with
    if network.n_features != expected:
        raise ValueError(f"expected a network of {expected} features, got {network.n_features}")
    # For a fit that goes on: the generator and the averages of the optimizer are new.
    model._rng = np.random.default_rng(check_random_state(model.random_state).randint(2**31 - 1, size=4))
    model.n_iter_ = model.t_ = 0
    model._optimizer = None
    model._start_curves()


def _finite(values: Any, name: str, shape: tuple[int, ...]) -> Array:
    array = np.array(values, dtype="f8")
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers of shape {shape}")
    return array


def described(name: str, value: Any) -> Any:
    """A parameter for JSON."""
    if name == "loss" and not isinstance(value, str):
        return {"loss": describe_loss(value)} if is_compiled(value) else "squared_error"
    if name == "class_weight" and isinstance(value, dict):
        return {"class_weight": [[_plain([key])[0], float(weight)] for key, weight in value.items()]}
    if name == "random_state" and value is not None and not isinstance(value, (int, np.integer)):
        return None
    if name == "class_weight" and isinstance(value, (list, tuple)):
        return [described(name, part) for part in value]
    if name == "dtype" and value is not None:
        return as_dtype(value).name
    if np.iterable(value) and not isinstance(value, (str, bytes)):
        return _plain(np.asarray(list(value)))
    if name == "n_iter_no_change" and value == np.inf:
        return "inf"
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _plain_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: described(name, value) for name, value in parameters.items()}


def rebuilt(name: str, value: Any) -> Any:
    """What `described` described."""
    if name == "loss" and isinstance(value, dict):
        return build_loss(value["loss"])
    if name == "class_weight" and isinstance(value, list):
        return [rebuilt(name, part) for part in value]
    if name == "class_weight" and isinstance(value, dict):
        return {key: weight for key, weight in value["class_weight"]}
    return np.inf if name == "n_iter_no_change" and value == "inf" else value


def _plain(values: Any) -> Any:
    """Python's own numbers, texts and lists, for JSON."""
    if isinstance(values, np.ndarray):
        return values.tolist()
    return [value.item() if isinstance(value, np.generic) else value for value in values] if values else values
