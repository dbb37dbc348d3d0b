"""Estimators for scikit-learn: `MLPRegressor` and `MLPClassifier`, with the parameters and attributes of its own.

estimators.py has the two, base.py what they share, tabular.py the recipe behind ``preset="tabular"``, descriptions.py
what their files have beside the network.

They validate, translate names and call `fusegrad.Sequential`. Examples are rows here, as everywhere in scikit-learn.
What differs from its estimators:

- The squared error of the engine has no one-half: learning rate, epsilon and penalty are scaled such that steps are
  those of scikit-learn (`Objective.scale`).
- The penalty alpha / (2 n) |W|^2 has the n of a whole batch in all batches, not that of the last, smaller one.
- Nesterov's rule is the one with v = mu v - lr g(W + mu v); scikit-learn's W is this W + mu v.
- Sparse matrices are made dense.
"""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ModuleNotFoundError('fusegrad.sklearn needs scikit-learn 1.6 or later: pip install "fusegrad[sklearn]"')

from fusegrad.sklearn.estimators import MLPClassifier, MLPRegressor, load
from fusegrad.sklearn.tabular import RobustSmoothScaler

__all__ = ["MLPClassifier", "MLPRegressor", "RobustSmoothScaler", "load"]
