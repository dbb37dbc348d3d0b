"""``fusegrad predict``."""

import argparse

import numpy as np
import polars

from fusegrad.cli import InputError, tables
from fusegrad.sklearn import MLPClassifier, load


def run(chosen: argparse.Namespace) -> int:
    """Write a prediction for each row; of classes also their probabilities."""
    tables.check_folder(chosen.out)
    if chosen.out is not None:
        tables.kind_of(chosen.out)
    try:
        model = load(chosen.model)
    except (OSError, ValueError) as error:
        raise InputError(str(error) if str(chosen.model) in str(error) else f"{chosen.model}: {error}") from None
    table = tables.read(chosen.table)
    names = list(model.feature_names_in_)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(f"{chosen.table}: no column {missing[0]!r}, which the model was trained with")
    X = table.select(names)
    try:
        result = {"prediction": model.predict(X)}
        if isinstance(model, MLPClassifier):
            probabilities = model.predict_proba(X)
            result |= {f"probability {name}": probabilities[:, i] for i, name in enumerate(model.classes_)}
    except (TypeError, ValueError) as error:
        raise InputError(f"{chosen.table}: {error}") from None
    tables.write(polars.DataFrame({name: np.asarray(values) for name, values in result.items()}), chosen.out)
    return 0
