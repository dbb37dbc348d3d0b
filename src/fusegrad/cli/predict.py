"""``fusegrad predict``."""

import argparse
from collections.abc import Collection

import numpy as np
import polars

from fusegrad.cli import InputError, tables
from fusegrad.sklearn import MLPClassifier, load
from fusegrad.sklearn.tabular import BOOLEANS


def run(chosen: argparse.Namespace) -> int:
    """Write a prediction for each row; of classes also their probabilities."""
    tables.check_output(chosen.out, (".csv", ".parquet"), chosen.table, chosen.model)
    if chosen.model.name.lower().endswith(tables.KINDS):
        raise InputError(f"{chosen.model}: expected a model that `fusegrad train` saved, before the table")
    try:
        model = load(chosen.model)
    except OSError as error:
        raise InputError(f"{chosen.model}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
    if not hasattr(model, "feature_names_in_"):
        raise InputError(f"{chosen.model}: it was trained on an array without names of columns: predict in Python")
    names = list(model.feature_names_in_)
    found = [] if model._encoder is None else model._encoder.categories
    categories = {name: known for name, known in zip(names, found, strict=False) if known is not None}
    table, _ = tables.read(chosen.table, names, categories)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(f"{chosen.table}: no column {missing[0]!r}, which the model was trained with")
    X = table[names]
    if tables.kind_of(chosen.table) != ".parquet":
        X = X.with_columns([_as_known(X, name, known) for name, known in categories.items()])
    try:
        prediction = model.predict(X)
        many = prediction.ndim == 2
        result = {f"prediction {i}": prediction[:, i] for i in range(prediction.shape[1])} if many else {
            "prediction": prediction
        }  # fmt: skip
        if isinstance(model, MLPClassifier) and not many:
            probabilities = model.predict_proba(X)
            result |= {f"probability {name}": probabilities[:, i] for i, name in enumerate(model.classes_)}
    except (TypeError, ValueError) as error:
        raise InputError(f"{chosen.table}: {error}") from None
    tables.write(polars.DataFrame({name: np.asarray(values) for name, values in result.items()}), chosen.out)
    return 0


def _as_known(X: polars.DataFrame, name: str, categories: Collection[str]) -> polars.Series:
    """Texts of a CSV file as the model knows them: 1.0 is also 1, and 0 and 1 are also false and true."""
    column = tables.column_of(X, name)
    other = column.str.strip_suffix(".0")
    if set(categories) == BOOLEANS:
        other = other.replace({"0": "false", "1": "true"})
    return column.zip_with(column.is_in(list(categories)), other).alias(name)
