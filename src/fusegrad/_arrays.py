"""The door: the one place where a value from outside is judged and converted.

Behind it an array has the network's dtype and the right shape. Strides are free, memory may be
read-only or misaligned: the kernels take that as it is, without a copy.
"""

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = (np.dtype("float32"), np.dtype("float64"))


def as_dtype(dtype: Any, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64."""
    try:
        result: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # the last of a text that NumPy takes for fields
        result = None
    if result is None or result not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {dtype!r}")
    return result


def as_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if count < least:
        raise ValueError(f"{name}: expected at least {least}, got {count}")
    return count


def as_flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def as_number(value: Any, name: str, *, least: float = -np.inf, below: float = np.inf, above: float = -np.inf) -> float:
    """A finite number in [least, below), and greater than `above`."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = np.inf
    if not (np.isfinite(number) and least <= number < below and number > above):
        bounds = [f"at least {least:g}"] if least > -np.inf else []
        bounds += [f"more than {above:g}"] if above > -np.inf else []
        bounds += [f"less than {below:g}"] if below < np.inf else []
        raise ValueError(f"{name}: expected a finite number{', ' * bool(bounds)}{', '.join(bounds)}, got {value!r}")
    return number


def as_floats(value: Any, name: str, dtype: np.dtype[Any] | None) -> Array:
    """An array of floats: of `dtype`, or of the value's own float type where that is None."""
    if type(value) is np.ndarray and value.dtype == dtype and value.dtype.isnative:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array")
    try:
        array = np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # ragged lists; what another library's tensor says to being asked
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__} ({error})") from error
    if array.dtype not in FLOATS and array.dtype.newbyteorder("=") not in FLOATS and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected float32, float64 or integers, got dtype {array.dtype}")
    if dtype is None:
        native = array.dtype.newbyteorder("=")
        dtype = native if native in FLOATS else np.dtype("float64")
    return array.astype(dtype, copy=False)


def as_matrix(value: Any, name: str, dtype: np.dtype[Any] | None, rows: int | None, what: str) -> Array:
    """A matrix (rows, m) with m >= 1. A vector is one row where one is wanted."""
    array = as_floats(value, name, dtype)
    if array.ndim == 1 and rows == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        wanted = f"({rows if rows is not None else what}, m)"
        raise ValueError(f"{name}: expected two dimensions, {wanted}, got shape {array.shape}")
    if rows is not None and array.shape[0] != rows:
        hint = f"; pass {name}.T: an example is a column" if array.shape[1] == rows else ""
        raise ValueError(f"{name}: expected {rows} {what} (rows), got shape {array.shape}{hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        least = "one row and one column" if rows is None else "one example"
        raise ValueError(f"{name}: expected at least {least}, got shape {array.shape}")
    return array


def as_batch(X: Any, y: Any, dtype: np.dtype[Any], n_features: int, n_outputs: int) -> tuple[Array, Array]:
    """X (n_features, m) and y (n_outputs, m), of one m."""
    X = as_matrix(X, "X", dtype, n_features, "features")
    y = as_matrix(y, "y", dtype, n_outputs, "outputs")
    if X.shape[1] != y.shape[1]:
        raise ValueError(f"y: expected {X.shape[1]} examples (columns) as in X, got shape {y.shape}")
    return X, y


def as_flat(value: Any, name: str, dtype: np.dtype[Any], size: int) -> Array:
    """A flat buffer of `size` numbers to read, contiguous and aligned."""
    array = as_floats(value, name, dtype)
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {array.shape}")
    return np.require(array, requirements=["C", "A"])


def as_output(value: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array to write to: nothing is converted, since the caller wants to see the numbers in it."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    if not value.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    reach = value.itemsize  # of the lines so far: the next stride must lead past it
    for stride, n in sorted((abs(stride), n) for stride, n in zip(value.strides, shape, strict=True) if n > 1):
        if stride < reach and value.size:
            raise ValueError(f"{name}: expected an array whose elements lie apart, got strides {value.strides}")
        reach = stride * (n - 1) + reach
    return value


def as_flat_output(value: Any, name: str, dtype: np.dtype[Any], size: int) -> Array:
    """A contiguous flat buffer of `size` numbers to write to."""
    array = as_output(value, name, dtype, (size,))
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name}: expected a contiguous array, got strides {array.strides}")
    return array


def as_generator(rng: Any) -> "np.random.Generator":  # quoted: NumPy loads np.random when it is first named
    """A NumPy Generator from None, a seed or a Generator."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"rng: expected None, a seed or a numpy.random.Generator, got {rng!r}") from None
