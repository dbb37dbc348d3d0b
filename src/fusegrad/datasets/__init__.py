"""Small real data sets that are part of the wheel."""

import os

import numpy as np

from fusegrad._engine.validation import Array

__all__ = ["AUTO_MPG_FEATURES", "load_auto_mpg", "load_penguins"]

#: The rows of X of `load_auto_mpg`.
AUTO_MPG_FEATURES = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year")


def _load(name: str) -> tuple[Array, Array]:
    table = np.loadtxt(os.path.join(os.path.dirname(__file__), name), delimiter=",", skiprows=1)
    return np.ascontiguousarray(table[:, :-1].T), np.ascontiguousarray(table[:, -1:].T)


def load_auto_mpg() -> tuple[Array, Array]:
    """Auto MPG: the fuel consumption of 392 cars, 1970 to 1982.

    Returns
    -------
    X : array (6, 392), float64
        Cylinders, displacement (cubic inches), horsepower, weight (lb), acceleration (s to 60 mph), model
        year: `AUTO_MPG_FEATURES`. Only cars with complete records.
    y : array (1, 392), float64
        Miles per gallon.

    Notes
    -----
    Source: Quinlan, R. (1993), Auto MPG, UCI Machine Learning Repository (https://doi.org/10.24432/C5859H);
    the copy of the package mlxtend 0.25. Licence: CC BY 4.0.

    Examples
    --------
    >>> import fusegrad as fg
    >>> X, y = fg.datasets.load_auto_mpg()
    >>> X.shape, y.shape, float(y[0, 0])
    ((6, 392), (1, 392), 18.0)
    """
    return _load("auto_mpg.csv")


def load_penguins() -> tuple[Array, Array]:
    """Palmer penguins: flipper length and body mass of 342 penguins.

    Returns
    -------
    X : array (1, 342), float64
        Flipper length in mm.
    y : array (1, 342), float64
        Body mass in g.

    Notes
    -----
    Source: Gorman, K. B., Williams, T. D. and Fraser, W. R. (2014), PLoS ONE 9(3), e90081; the copy of
    the package palmerpenguins 0.1.6. Licence: CC0.

    Examples
    --------
    >>> import fusegrad as fg
    >>> X, y = fg.datasets.load_penguins()
    >>> X.shape, y.shape
    ((1, 342), (1, 342))
    """
    return _load("penguins.csv")
