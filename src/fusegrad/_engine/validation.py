"""Input validation: the only place where a user's value is checked and converted.

A validated array has the network's dtype and the right shape. Its strides are arbitrary, its memory may be
read-only or misaligned: the kernels use it in place, without conversion.

One rule keeps the kernels within the memory of an array. Converting an argument may run a user's Python code
(``__array__``, ``__float__``), which may set the shape of any array that it can access; another thread may do so at any
time; a subclass may have a `shape` that is not NumPy's. So these functions always return a view of NumPy's base
class that nobody else holds (`own_view`). The shape is read from this view, and the kernels get this view. Compiled
code that uses the caller's own array, for speed, compares what it reads with what it expects: see
cython_kernels/python/arrays.pxi.
"""

import operator
import sys
from collections import deque
from collections.abc import Iterator
from math import frexp
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = (np.dtype("float32"), np.dtype("float64"))
#: The dtype to compute in if no network sets it; all other dtypes use float64.
OWN_FLOAT = {np.dtype("float16"): FLOATS[0], FLOATS[0]: FLOATS[0]}
SEQUENCES = (list, tuple, deque)
PIECE = 1 << 22  # elements that are converted or checked at a time: 2 to 30 ms
MOST_LEVELS = 64  # of nested lists that NumPy converts to an array
#: Exceptions that mean that a value cannot be converted.
OF_THE_VALUE = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError)
NO_MASK = "expected an array without a mask, got a masked array: fill it, or leave the masked examples out"
DATES = "subtract an origin and divide by a unit of time"
PARTS = "pass the real and the imaginary part as features of their own"


def as_dtype(dtype: Any, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64."""
    try:
        result: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError, OverflowError):  # SyntaxError: a text that NumPy parses as fields
        result = None
    if result is None or result not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {dtype!r}")
    return result


def as_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if count < least:
        raise ValueError(f"{name}: expected at least {least}, got {count}")
    if count > sys.maxsize:
        raise ValueError(f"{name}: expected at most {sys.maxsize}, got more")
    return count


def as_flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def as_number(
    value: Any, name: str, *, least: float = -np.inf, below: float = np.inf, above: float = -np.inf, finite: bool = True
) -> float:
    """A number, finite by default, in [least, below), and greater than `above`."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer larger than any float
        value = number = np.inf
    if finite and not (np.isfinite(number) and least <= number < below and number > above):
        bounds = [f"at least {least:g}"] if least > -np.inf else []
        bounds += [f"more than {above:g}"] if above > -np.inf else []
        bounds += [f"less than {below:g}"] if below < np.inf else []
        raise ValueError(f"{name}: expected a finite number{', ' * bool(bounds)}{', '.join(bounds)}, got {value!r}")
    return number


def own_view(array: Array) -> Array:
    """A view of NumPy's base class that nobody else holds: its shape stays the same, whatever is done to `array`."""
    return np.ndarray.view(array, np.ndarray)


def read_only(array: Array) -> Array:
    """A view that cannot be written to, for code of the user."""
    view = array.view()
    view.flags.writeable = False
    return view


def as_floats(value: Any, name: str, dtype: np.dtype[Any] | None) -> Array:
    """A view of a value that nobody else holds, of `dtype`; if that is None, of the value's own float type.

    This is float32 for float16, and float64 for bool and integers.
    """
    array = value.view() if type(value) is np.ndarray else as_array(value, name)
    if array.dtype == dtype:
        return array
    if array.dtype.kind in "OUST":
        array = _as_numbers(array, name, value)
    elif array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        how = {"c": PARTS, "m": DATES, "M": DATES}.get(array.dtype.kind, "convert with astype('float64')")
        if array.dtype.names:
            how = "convert with numpy.lib.recfunctions.structured_to_unstructured"
        raise TypeError(f"{name}: expected float32, float64 or integers, got dtype {array.dtype}: {how}")
    return converted(array, OWN_FLOAT.get(array.dtype.newbyteorder("="), FLOATS[1]) if dtype is None else dtype)


def pieces(array: Array, size: int) -> Iterator[tuple[slice, ...]]:
    """Indices that divide an array into pieces of at most `size` elements, so that signal handlers run between them."""
    everything = (slice(None),) * array.ndim
    if array.size <= size:
        yield everything
        return
    # The axis with the longest stride, so that pieces are contiguous.
    axis = max(range(array.ndim), key=lambda i: abs(array.strides[i]) * (array.shape[i] > 1))
    step = max(1, size * array.shape[axis] // array.size)
    for first in range(0, array.shape[axis], step):
        part = slice(first, first + step)
        for rest in pieces(array[(*everything[:axis], part)], size):
            yield (*rest[:axis], part, *rest[axis + 1 :])


def converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array.astype(dtype, copy=False)`, which Ctrl-C interrupts."""
    if array.size <= PIECE or array.dtype == dtype:
        return array.astype(dtype, copy=False)
    result = np.empty_like(array, dtype)
    for piece in pieces(array, PIECE):
        result[piece] = array[piece]
    return result


def all_finite(array: Array) -> bool:
    """Whether all elements are finite."""
    return all(np.count_nonzero(np.isfinite(part := array[piece])) == part.size for piece in pieces(array, PIECE))


def as_array(value: Any, name: str) -> Array:
    """The array to which NumPy converts a value."""
    try:
        only_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
        array = np.from_dlpack(value) if only_dlpack else np.asanyarray(value)
    except Exception as error:
        if isinstance(error, (np.ma.MAError, UserWarning)) and _holds_mask(value, MOST_LEVELS):
            raise TypeError(f"{name}: {NO_MASK}") from None
        # Other exceptions propagate: a signal handler may raise anything while a list is converted.
        if not isinstance(error, OF_THE_VALUE) or isinstance(error, RecursionError):
            raise
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__} ({error})") from error
    # Checking the types of all elements of a list takes as long as converting numbers. It is done only if one may be a
    # masked array of no dimensions, such as `numpy.ma.masked`, which NumPy converts to NaN or True.
    levels, kind = array.ndim - 1, array.dtype.kind
    if isinstance(value, SEQUENCES) and (kind in "bO" or (kind == "f" and np.count_nonzero(np.isnan(array)))):
        levels = array.ndim
    if isinstance(array, np.ma.MaskedArray) or _holds_mask(value, levels):
        raise TypeError(f"{name}: {NO_MASK}")
    return own_view(array)


def _holds_mask(value: Any, levels: int) -> bool:
    """Whether a list contains a masked array, within so many levels of nesting: NumPy would drop the mask."""
    if levels < 1 or not isinstance(value, SEQUENCES):
        return False
    kinds = set(map(type, value))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        return True
    return any(issubclass(kind, SEQUENCES) for kind in kinds) and any(_holds_mask(part, levels - 1) for part in value)


def _as_numbers(array: Array, name: str, value: Any) -> Array:
    """An array of objects or strings as float64, if all are real numbers; the error shows the first that is not."""
    if array.dtype.kind != "O":  # NumPy has converted numbers and text in one list to text
        array = np.array(value, object) if isinstance(value, SEQUENCES) else array.astype(object)
    others = {kind for kind in set(map(type, array.flat)) if not issubclass(kind, (Real, np.bool_))}
    if others:
        place, item = next((place, item) for place, item in np.ndenumerate(array) if type(item) in others)
        advice = _advice(item) if place or item is not None else ""  # None as the whole argument is not a missing value
        raise TypeError(f"{name}: expected numbers, got {item!r:.80}{_where(place, value)}{advice}")
    try:
        return array.astype(FLOATS[1])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected numbers within float64, got another ({error})") from None


def _where(place: tuple[int, ...], value: Any) -> str:
    """The position of an element, with the labels of a data frame if the value has them."""
    if not place:
        return ""
    if len(place) > 2:
        return f" at {place}"
    row = _label(getattr(value, "index", None), place[0])
    if len(place) == 2:
        columns = getattr(value, "column_names", None) or getattr(value, "columns", None)  # Arrow's are arrays
        return f" in column {_label(columns, place[1])} (row {row})"
    series = getattr(value, "name", None)
    return f" in column {series!r} (row {row})" if isinstance(series, str) else f" (element {row})"


def _label(labels: Any, i: int) -> str:
    """The label of a row or column in pandas or polars, else its number."""
    try:
        label = labels[i]
    except (TypeError, LookupError):
        return str(i)
    return repr(label) if isinstance(label, (str, tuple)) else f"{label!s:.40}"


def _advice(item: Any) -> str:
    """What to do with an element that is not a number."""
    from datetime import date, timedelta

    if isinstance(item, (str, bytes)):
        return ": encode text as a row of 0 and 1 for each category, or convert numerals with astype('float64')"
    if item is None or type(item).__name__ in ("NAType", "NaTType"):  # of pandas
        return ": fill what is missing, or leave those examples out"
    if isinstance(item, (complex, np.complexfloating)):
        return f": {PARTS}"
    if isinstance(item, (date, timedelta, np.datetime64, np.timedelta64)):
        return f": {DATES}"
    if hasattr(item, "toarray"):
        return ": make it dense with toarray()"
    if hasattr(item, "collect"):
        return ": collect() reads a lazy frame"
    return ": convert with astype('float64')" if hasattr(item, "__float__") else ""


def is_frame(value: Any) -> bool:
    """Whether it is a data frame: of pandas, polars, Arrow, or another one with Arrow's interface."""
    return hasattr(value, "__arrow_c_stream__") and hasattr(value, "columns")


def _refuse_times(frame: Any, name: str) -> None:
    """Raise for dates and times, which polars and Arrow convert to numbers if there are other columns."""
    dtypes = frame.schema.types if hasattr(frame, "column_names") else getattr(frame, "dtypes", ())
    for i, dtype in enumerate(dtypes):
        if str(dtype).lower().startswith(("date", "time", "duration")):
            columns = getattr(frame, "column_names", None) or frame.columns
            raise TypeError(f"{name}: expected numbers, got {dtype} in column {_label(columns, i)}: {DATES}")


def _as_columns(value: Any, name: str, dtype: np.dtype[Any] | None, rows: int | None) -> Array:
    """`as_floats`, with the examples of a data frame, its rows, as columns."""
    frame = is_frame(value)
    if frame:
        _refuse_times(value, name)
    array = as_floats(value, name, dtype)
    if array.ndim != 2 or not frame:
        return array
    if rows is not None and array.shape[1] != rows:
        raise ValueError(
            f"{name}: expected a data frame of {rows} column{'s' * (rows > 1)}, got {array.shape[1]} columns and "
            f"{array.shape[0]} rows; a row is an example"
        )
    return array.T


def as_matrix(value: Any, name: str, dtype: np.dtype[Any] | None, rows: int | None, what: str) -> Array:
    """A matrix (rows, m) with m >= 1. If rows is 1, a vector is accepted as the row."""
    return _checked_matrix(_as_columns(value, name, dtype, rows), name, rows, what)


def _checked_matrix(array: Array, name: str, rows: int | None, what: str) -> Array:
    if array.ndim == 1 and rows == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        wanted = f"({rows if rows is not None else what}, m)"
        hint = f": one example is a column, {name}[:, numpy.newaxis]" if array.shape == (rows,) else ""
        raise ValueError(f"{name}: expected two dimensions, {wanted}, got shape {array.shape}{hint}")
    if rows is not None and array.shape[0] != rows:
        hint = f"; pass {name}.T: an example is a column" if array.shape[1] == rows else ""
        raise ValueError(f"{name}: expected {rows} {what} (rows), got shape {array.shape}{hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        least = "one row and one column" if rows is None else "one example"
        raise ValueError(f"{name}: expected at least {least}, got shape {array.shape}")
    return array


def as_examples(X: Any, dtype: np.dtype[Any], n_features: int) -> tuple[Array, bool]:
    """X (n_features, m), and whether it was one example: a vector (n_features,), if n_features > 1."""
    X = _as_columns(X, "X", dtype, n_features)
    one = n_features > 1 and X.shape == (n_features,)
    return _checked_matrix(X[:, np.newaxis] if one else X, "X", n_features, "features"), one


class Classes(NamedTuple):
    """How y may name the classes of a network."""

    n_classes: int
    only_numbers: bool  # no probabilities


def as_batch(
    X: Any,
    y: Any,
    dtype: np.dtype[Any],
    n_features: int,
    n_targets: int | None,
    *,
    vectors: bool = False,
    classes: Classes | None = None,
    name: str = "y",
) -> tuple[Array, Array]:
    """X (n_features, m) and y (n_targets, m), with the same m; n_targets None: any number of rows.

    With `vectors` they may also be one example: X (n_features,) and y (n_targets,), (n_targets, 1) or a number.
    With `classes` y may, or must, be class numbers (m,): they become one row.
    """  # fmt: skip
    if vectors:
        X, one = as_examples(X, dtype, n_features)
    else:
        X, one = as_matrix(X, "X", dtype, n_features, "features"), False
    numbers = None if classes is None else _class_numbers(y, classes, one)
    if numbers is not None:
        y = numbers.astype(dtype)
    else:
        y = _as_columns(y, name, dtype, n_targets)
        if one and y.ndim < 2 and n_targets in (None, y.size):
            y = y.reshape(-1, 1)
        y = _checked_matrix(y, name, n_targets, "outputs" if n_targets is not None else "targets")
    if X.shape[1] != y.shape[1]:
        raise ValueError(f"{name}: expected {X.shape[1]} examples (columns) as in X, got shape {y.shape}")
    return X, y


def _class_numbers(y: Any, classes: Classes, one: bool) -> Array | None:
    """Class numbers as a row; None if y is not of their kind. one: y belongs to one example."""
    array = y.view() if type(y) is np.ndarray else as_array(y, "y")
    if array.ndim == 2 and array.shape[1] == 1 and is_frame(y):
        array = array.T
    probabilities = "" if classes.only_numbers else f", or probabilities ({classes.n_classes}, m)"
    if array.dtype.kind in "biu" and array.size and (array.ndim < 2 or array.shape[0] == 1):
        if one and array.ndim == 1 and array.size == classes.n_classes and not classes.only_numbers:
            return None  # probabilities of one example
        numbers = array.reshape(1, -1)
        expected = f"y: expected class numbers from 0 to {classes.n_classes - 1}"
        refuse_where((numbers < 0) | (numbers >= classes.n_classes), numbers, expected)
        return numbers
    if array.dtype.kind in "OUST":
        hint = ": numpy.unique(labels, return_inverse=True)[1] numbers labels"
    elif array.ndim < 2 and not one:
        hint = ""
        if array.dtype.kind == "f":
            whole = np.count_nonzero(array == np.floor(array)) == array.size
            hint = ": convert with astype(int)" if whole else ": class numbers are 0, 1, 2, ..."
    elif classes.only_numbers:
        hint = ": y.argmax(axis=0) of a row for each class" if array.ndim == 2 else ""
    else:
        return None
    raise TypeError(
        f"y: expected class numbers (m,) of an integer dtype{probabilities}, "
        f"got {array.dtype} of shape {array.shape}{hint}"
    )


def as_sample_weight(value: Any, m: int, dtype: np.dtype[Any], *, part: bool = False) -> Array:
    """Weights of m examples (m,), contiguous, at least 0, and unless they are a part not all 0; for one a number."""
    weights = as_floats(value, "sample_weight", dtype)
    if is_frame(value) and weights.shape == (m, 1):
        weights = weights[:, 0]
    if weights.ndim == 0 and m == 1:
        weights = weights.reshape(1)
    if weights.shape != (m,):
        raise ValueError(f"sample_weight: expected shape ({m},), one for each example, got {weights.shape}")
    weights = np.require(weights, requirements=["C", "A"])
    refuse_where(
        ~((weights >= 0) & (weights < np.inf)), weights, "sample_weight: expected finite numbers of at least 0"
    )
    if not part and not np.count_nonzero(weights):
        raise ValueError("sample_weight: expected at least one weight of more than 0, got zeros")
    largest = float(weights[weights.argmax()]) if m else 0.0
    exponent = frexp(largest)[1]
    if not part:  # only their ratios count: a power of two is divided out, so that their products do not overflow
        return _without_negligible(np.ldexp(weights, -exponent) if abs(exponent) > 20 else weights)
    bound = 1e15 if dtype.itemsize == 4 else 1e150
    if largest and not 1 / bound <= largest <= bound:
        raise ValueError(
            f"sample_weight: expected a largest weight between {1 / bound:g} and {bound:g} ({dtype}), got {largest:g}; "
            "only the ratios of weights count: divide them by the largest one"
        )
    return _without_negligible(weights)


def _without_negligible(weights: Array) -> Array:
    """Weights that are 0 where they are so small that the inverse of their sum in a batch would overflow."""
    least = weights.dtype.type(2.0**-100 if weights.itemsize == 4 else 2.0**-900)
    negligible = (weights < least) & (weights > 0)
    return np.where(negligible, weights.dtype.type(0), weights) if np.count_nonzero(negligible) else weights


def check_targets(kind: str, y: Array) -> None:
    """Raise if a target is not of a loss's kind. NaN passes: `fit` looks for it once, when a loss is not finite."""
    if kind == "counts":
        refuse_where(y < 0, y, "y: expected counts of at least 0")
    elif kind == "fractions":
        refuse_where((y < 0) | (y > 1), y, "y: expected 0, 1 or probabilities between them")
    elif kind == "probabilities":
        refuse_where(y < 0, y, "y: expected probabilities of at least 0")
        sums = np.ones((1, len(y))) @ y
        most = 1e-3 if y.dtype == np.float32 else 1e-6
        refuse_where(abs(sums - 1) > most, sums, "y: expected probabilities of each example that add up to 1")


def refuse_where(wrong: Array, values: Array, expected: str) -> None:
    """Raise for the first example with a wrong value; `values` has shape (rows, m) or (m,)."""
    if not np.count_nonzero(wrong):  # not any(): if memory runs out, NumPy's reductions raise a SystemError
        return
    wrong, values = np.atleast_2d(wrong), np.atleast_2d(values)
    example = int(wrong.any(axis=0).argmax())
    row = int(wrong[:, example].argmax())
    where = f"row {row}, " if len(values) > 1 else ""
    raise ValueError(f"{expected}, got {values[row, example]} at {where}example (column) {example}")


def as_flat(value: Any, name: str, dtype: np.dtype[Any] | None = None, size: int | None = None) -> Array:
    """A flat buffer to read, contiguous and aligned; of any size if `size` is None."""
    array = as_floats(value, name, dtype)
    if array.ndim != 1 or size not in (None, array.size):
        raise ValueError(f"{name}: expected shape ({'n' if size is None else size},), got {array.shape}")
    return np.require(array, requirements=["C", "A"])


def as_loss_and_gradient(answer: Any, name: str, shape: tuple[int, ...]) -> tuple[float, Any]:
    """The loss as a float, and the gradient as it came, of what a user's function `name` returned."""
    expected = f"{name}: expected it to return (loss, gradient), a number and an array {shape}"
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise TypeError(f"{expected}, got {type(answer).__name__}")
    value, gradient = answer
    return as_loss(value, expected), gradient


def as_loss(value: Any, expected: str) -> float:
    """The loss that a user's function returned, as a float."""
    if np.ndim(value) > 0:
        raise TypeError(f"{expected}, got a loss of shape {np.shape(value)}; is it the mean over the examples?")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got the loss {value!r}") from None


def as_output(value: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A view of an array to write to. It is never converted, since the results must be in the caller's array."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: {NO_MASK}")
    array = own_view(value)
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    reach = array.itemsize  # bytes that the dimensions so far span: the next stride must be at least this
    for stride, n in sorted((abs(stride), n) for stride, n in zip(array.strides, shape, strict=True) if n > 1):
        if stride < reach and array.size:
            raise ValueError(f"{name}: expected an array whose elements do not overlap, got strides {array.strides}")
        reach = stride * (n - 1) + reach
    return array


def as_flat_output(value: Any, name: str, dtype: np.dtype[Any], size: int | None = None) -> Array:
    """A view of a contiguous flat buffer to write to; of any size if `size` is None."""
    if size is None:
        size = own_view(value).size if isinstance(value, np.ndarray) else 0
    array = as_output(value, name, dtype, (size,))
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name}: expected a contiguous array, got strides {array.strides}")
    return array


def as_generator(rng: Any) -> "np.random.Generator":  # quoted: NumPy loads np.random when it is first named
    """A NumPy Generator from None, a seed or a Generator."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"rng: expected None, a seed of at least 0 or a numpy.random.Generator, got {rng!r}") from None
