"""The recipe for tables: RealMLP-TD-S of Holzmueller et al. (2024), which is good without tuning.

What it is: columns of a data frame become numbers (`TableEncoder`), are scaled robustly and clipped smoothly
(`RobustSmoothScaler`), and train a network of a scale layer and three hidden layers with Adam, rates that fall and rise
by cosines of the logarithm of the step, and a factor on the rate for each kind of parameter; the epoch with the best
validation score is kept (`BestEpoch`).

Why the weights look as they do: the paper computes z = W x / sqrt(d) + b with W, b ~ N(0, 1). With V = W / sqrt(d),
Adam makes the same steps if the rate of V is that of W divided by sqrt(d); so no kernel needs the division.

What differs from the paper: a last batch that is smaller is not dropped, epsilon is 1e-8 for V and not for W, a missing
number is the median of its column, and the classes are those of the whole table, held-out part included.

Source: Holzmueller, D., Grinsztajn, L. and Steinwart, I. (2024). Better by default: strong pre-tuned MLPs and boosted
trees on tabular data. NeurIPS. arXiv 2407.04491, table A.1 and appendix A.
"""

import itertools
from collections.abc import Iterable
from decimal import Decimal
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fusegrad._engine.validation import Array
from fusegrad.history import History
from fusegrad.layers import SELU, Linear, Mish, Scale
from fusegrad.losses import MeanSquaredError, SoftmaxCrossEntropy
from fusegrad.networks import Sequential
from fusegrad.optimizers import Adam
from fusegrad.schedules import CosineLogDecay

BATCH = 256
RATES = {True: 0.04, False: 0.07}  # of classes, of numbers
FOLDS = 5  # of which one is held out
FAR = 1e15  # beyond which the smooth clipping ends at 3 in either dtype; its square is finite


# ---- columns to numbers --------------------------------------------------------------------------------


class RobustSmoothScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # no types there
    """Scale by median and quartiles, and clip smoothly: outliers end below 3.

    u = (x - median) / (q75 - q25); where the quartiles are equal, u = 2 (x - median) / (max - min), and 0 in a constant
    column. Then u / sqrt(1 + (u / 3)^2).

    Attributes
    ----------
    center_, scale_ : arrays (n_features,)
        The medians, and the factors of x - median.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    NaN is passed on, and not counted. Computed by NumPy, in the calling thread.

    References
    ----------
    Holzmueller, D. et al. (2024). Better by default. arXiv 2407.04491, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fusegrad.sklearn import RobustSmoothScaler
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [1e6]])
    >>> RobustSmoothScaler().fit_transform(X).round(2).ravel()
    array([-0.95, -0.49,  0.  ,  0.49,  3.  ])
    """

    def fit(self, X: Any, y: Any = None) -> "RobustSmoothScaler":
        """Compute medians and quartiles.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : ignored

        Returns
        -------
        self
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        present = ~np.isnan(X).all(axis=0)
        quantiles = np.zeros((5, X.shape[1]), X.dtype)
        quantiles[:, present] = np.nanquantile(X[:, present], [0, 0.25, 0.5, 0.75, 1], axis=0)
        least, low, self.center_, high, most = quantiles
        self.scale_ = np.zeros_like(self.center_)
        with np.errstate(over="ignore"):  # the widths of a column may be infinite, or too small to be divided by
            np.divide(2, most - least, out=self.scale_, where=most > least)
            np.divide(1, high - low, out=self.scale_, where=high > low)
        self.scale_ = np.minimum(self.scale_, np.finfo(X.dtype).max)
        return self

    def transform(self, X: Any) -> Array:
        """Scale and clip.

        Parameters
        ----------
        X : array (n_samples, n_features)

        Returns
        -------
        array (n_samples, n_features)
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        with np.errstate(over="ignore", under="ignore"):
            u = (X / 2 - self.center_ / 2) * self.scale_ * 2  # a difference of numbers of any size is finite
            u = np.clip(u, -FAR, FAR)
            return u / np.sqrt(1 + (u / 3) ** 2)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class TableEncoder:
    """Numbers of the columns of a table: numbers as they are, categories as columns of 0 and 1.

    Two categories are one column of -1 and 1. A category that is missing or unknown is 0 in all its columns. Columns of
    text, objects, bool and pandas' and polars' categories are categories; a number that is missing is NaN. Categories
    are compared as texts: 1, 1.0 and "1" are one, as are True and "true", since files are read with other types.

    Attributes
    ----------
    categories : list of (dict or None)
        Of each column: the categories, as texts, and their numbers; None if it has numbers.
    """

    categories: list[dict[str, int] | None]

    def fit_transform(self, X: Any) -> Array:
        """Find the categories of each column, and encode it."""
        columns = columns_of(X)
        self.categories = [
            None if column.numbers else {text: i for i, text in enumerate(_distinct(column.values))}
            for column in columns
        ]
        return self._encode(columns)

    def transform(self, X: Any) -> Array:
        """Encode a table with the same columns."""
        return self._encode(columns_of(X))

    def _encode(self, columns: list["Column"]) -> Array:
        parts = []
        for column, categories in zip(columns, self.categories, strict=True):
            if categories is None:
                parts.append(_as_numbers(column)[:, np.newaxis])
                continue
            codes = _codes(column.values, categories)[:, np.newaxis]
            if len(categories) == 2:
                parts.append(np.select([codes == 0, codes == 1], [-1.0, 1.0]))
            else:
                parts.append((codes == np.arange(len(categories))).astype("f8"))
        return np.hstack(parts) if parts else np.empty((len(columns[0].values) if columns else 0, 0))


class Column(NamedTuple):
    """A column of a table."""

    name: str
    values: Array  # numbers of any dtype: float64 has not all integers; or objects
    numbers: bool  # and not categories, to a fit


def _codes(values: Array, categories: dict[str, int]) -> Array:
    """The number of each value's category; -1 if it is missing or unknown."""
    codes = np.full(len(values), -1)
    known: dict[tuple[type, Any], int] = {}  # with types: True == 1
    for i, value in enumerate(values):
        key = type(value), value
        code = known.get(key)
        if code is None and not _is_missing(value):
            known[key] = code = categories.get(_as_text(value, categories), -1)
        codes[i] = -1 if code is None else code
    return codes


def _as_numbers(column: Column) -> Array:
    """A column that was one of numbers in the fit, as float64."""
    name, values, numbers = column
    if values.dtype.kind in "iuf":
        return values.astype("f8", copy=False)
    if not numbers:
        texts = [(i, value) for i, value in enumerate(values) if not _is_missing(value) and not _is_number(value)]
        if texts:
            # In a column of texts most may be numbers: the first one that is not is at fault, if there is one.
            row, text = next((found for found in texts if not _is_numeric(str(found[1]))), texts[0])
            raise TypeError(f"X: expected numbers in {name}, as in the data of the fit, got {text!r} in row {row}")
    return np.array([np.nan if _is_missing(value) else float(value) for value in values], "f8")


BOOLEANS = {"false", "true"}


def _as_text(value: Any, categories: Any = ()) -> str:
    """A category as text; 0 and 1 are false and true where these are the categories."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if _is_number(value):
        whole = isinstance(value, (int, np.integer)) or float(value).is_integer()
        text = str(int(value)) if whole else repr(float(value))
        return {"0": "false", "1": "true"}.get(text, text) if set(categories) == BOOLEANS else text
    text = str(value)
    return text.lower() if text.lower() in BOOLEANS else text


def columns_of(X: Any) -> list[Column]:
    """The columns of a data frame or a matrix."""
    if hasattr(X, "columns"):
        return [_column(f"column {name!r}", X[name]) for name in X.columns]
    X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X: expected a table, got shape {X.shape}")
    return [_column(f"column {j}", column) for j, column in enumerate(X.T)]


def _column(name: str, values: Any) -> Column:
    dtype = str(getattr(values, "dtype", ""))
    categorical = dtype == "category"  # of pandas: its categories may be numbers
    array = np.array(list(values), object) if dtype in LONG else np.asarray(values, object if categorical else None)
    if array.dtype.kind == "f" and dtype.lower().startswith(("int", "uint")):  # NumPy has made missing ones NaN
        array = np.array(list(values), object)
    kind = array.dtype.kind
    if array.ndim != 1:
        raise TypeError(f"X: expected one value in each row of {name}, got shape {array.shape}")
    if kind in "iuf":
        return Column(name, array, True)
    if kind in "Mm":
        raise TypeError(f"X: expected numbers or categories in {name}, got dates: take their year, month or difference")
    if kind in "cV":
        raise TypeError(f"X: expected numbers or categories in {name}, got {array.dtype}")
    array = array.astype(object)
    present = [value for value in array if not _is_missing(value)]
    for value in present:
        if isinstance(value, (str, bool, np.bool_)):
            continue
        if _is_number(value):
            _check_size(name, value)
        else:
            raise TypeError(
                f"X: expected numbers or categories in {name}: each value must be a string or a number, got {value!r}"
            )
    return Column(name, array, not categorical and all(_is_number(value) for value in present))


LONG = {"Int128", "UInt128"}  # dtypes of polars that NumPy has not


def _check_size(name: str, value: Any) -> None:
    """Raise if float64 cannot hold a number."""
    try:
        held = not (isinstance(value, Decimal) and value.is_snan()) and (
            isfinite(float(value)) or not -np.inf < value < np.inf
        )
    except OverflowError:
        held = False
    if not held:
        shown = f"{Decimal(value):.4g}" if isinstance(value, int) else f"{value!r:.100}"  # an integer may be very long
        raise ValueError(f"X: expected numbers that float64 can hold in {name}, got {shown}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating, Decimal)) and not isinstance(value, bool)


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_missing(value: Any) -> bool:
    if type(value) is str:
        return False
    if isinstance(value, Decimal):
        return value.is_qnan()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return True
    return isinstance(value, (float, complex, np.generic)) and bool(value != value)


def _distinct(values: Array) -> list[str]:
    return sorted(
        {_as_text(value) for _, value in {(type(value), value) for value in values} if not _is_missing(value)}
    )


# ---- one trained network -------------------------------------------------------------------------------


class Part(NamedTuple):
    """Some of the examples, to train with or held out: as columns, with their targets and weights."""

    X: Array
    y: Array
    weights: Array | None


def recipe_network(sizes: list[int], classes: bool, dtype: Any, rng: Any) -> Sequential:
    """The network of the recipe with its initial weights; sizes from the features to the outputs."""
    function = SELU if classes else Mish
    *hidden, last = [Linear(n, k) for n, k in itertools.pairwise(sizes)]
    layers = [part for linear in hidden for part in (linear, function())]
    loss = SoftmaxCrossEntropy(label_smoothing=0.1) if classes else MeanSquaredError()
    net = Sequential(Scale(sizes[0]), *layers, last, loss=loss, dtype=dtype, rng=rng)
    for layer in net.dense_layers:
        weights, bias = net.parameters[layer.weight : layer.end], layer.bias
        weights[:] = rng.standard_normal(weights.size)
        net.parameters[layer.weight : bias] /= np.sqrt(layer.n_in)
    weights[:] = 0.0  # of the last layer
    return net


class BestEpoch:
    """A callback: keeps the parameters with the least classification error (the last of equals), or validation loss.

    Attributes
    ----------
    history : History
    epoch : int
        The best one, from 0 on.
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    history: History
    parameters: Array

    def __init__(self, held: Part | None) -> None:
        self.held = held
        self.least, self.epoch, self.interrupted = np.inf, -1, False

    def __call__(self, net: Sequential, history: History) -> None:
        """After an epoch."""
        self.history = history
        if self.held is None:
            error = history.validation_loss[-1]
        else:
            error = float(np.average(net.classes(self.held.X) != self.held.y, weights=self.held.weights))
        if error <= self.least or self.epoch < 0:
            self.least, self.epoch, self.parameters = error, history.epochs - 1, net.parameters.copy()


def train_member(
    net: Sequential, train: Part, held: Part, *, epochs: int, rng: Any, n_threads: int | None, callbacks: Iterable[Any]
) -> BestEpoch:  # fmt: skip
    """Train the network of the recipe, and return to its best epoch on the held-out part."""
    classes = isinstance(net.loss_function, SoftmaxCrossEntropy)
    lr, m = RATES[classes], train.X.shape[1]
    size = min(BATCH, m)
    factors = {"s1": 6.0, "b": 0.1}
    factors |= {f"W{i}": 1 / np.sqrt(layer.n_in) for i, layer in enumerate(net.dense_layers, start=1)}
    best = BestEpoch(held if classes else None)
    try:
        net.fit(
            train.X, train.y, optimizer=Adam(lr, betas=(0.9, 0.95), learning_rate_factors=factors), epochs=epochs,
            batch_size=size, rng=rng, schedule=CosineLogDecay(lr, epochs * -(-m // size)), sample_weight=train.weights,
            validation_data=tuple(part for part in held if part is not None), callbacks=[best, *callbacks],
            n_threads=n_threads,
        )  # fmt: skip
    except KeyboardInterrupt:
        if best.epoch < 0:
            raise
        best.interrupted = True
    net.parameters = best.parameters
    return best
