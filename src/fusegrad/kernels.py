"""The kernels as independent functions.

Arrays are validated here and passed to the compiled module of their dtype. The dtype is that of the first
argument (float16 counts as float32, integers and bool as float64); the others are converted to it.
"""

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import (
    THREAD_WORK,
    Dense,
    Shape,
    allowed_threads,
    make_plan,
    stack_layers,
    step_work,
    worthwhile_threads,
)
from fusegrad._engine.validation import Array, as_floats, as_matrix, as_output
from fusegrad.layers import ACTIVATIONS

__all__ = ["apply", "dense_backward", "dense_forward", "matmul", "sigmoid"]

_MODULES = tuple(by_dtype.values())
_KINDS = {name: kind for kind, name in enumerate(_MODULES[0].ACTIVATIONS)}
_CHUNK = _MODULES[0].chunk  # elements that a thread computes at a time
_ACTIVATION_WORK = _MODULES[0].activation_work  # multiply-adds that take as long as an activation
_ALONE = 2 * THREAD_WORK // _ACTIVATION_WORK - 1  # most elements for which only one thread is worthwhile


def _activation(name: Any) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(_KINDS)}, got {name!r}")
    return str(name)


def _operand(value: Any, name: str, dtype: "np.dtype[Any] | None") -> Array:
    array = as_floats(value, name, dtype)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected two dimensions, got shape {array.shape}")
    return array


def _product_threads(a: Array, b: Array) -> int:
    """How many threads are worthwhile for a product."""
    work = a.size * b.shape[1]
    return worthwhile_threads(work, max(a.shape[0], b.shape[1]) // 16, allowed_threads(work))


def _matmul_direct(a: Any, b: Any, out: Array | None, most: int, n_threads: int) -> Array | None:
    """The product, if it takes at most `most` multiply-adds and the arrays need no conversion; else None."""
    for kernels in _MODULES:
        product: Array | None = kernels.matmul_direct(a, b, out, most, n_threads)
        if product is not None:
            return product
    return None


def matmul(a: Any, b: Any, out: Array | None = None) -> Array:
    """Matrix product, out = a b.

    Parameters
    ----------
    a : array (n, d), float32 or float64
    b : array (d, k)
        Read in place with any strides; transposed views and read-only arrays, too.
    out : array (n, k), optional
        The array to write to, of the dtype of a.

    Returns
    -------
    array (n, k)
        In the dtype of a, to which b is converted (float64 if a has integers).

    Raises
    ------
    TypeError, ValueError
        If an operand is not a matrix, if the shapes do not match, or if `out` has another dtype or shape.

    Notes
    -----
    2 n d k flops. Threads share the columns of the result, or its rows. A sum over d is computed by one thread, in an
    order that depends on shapes and layouts alone, so the result is the same on any number of threads. Long sums are
    divided into pieces, whose totals are float64: in float32 the error is less than 1e-6 of the sum of the magnitudes
    of the terms.

    References
    ----------
    Goto, K. and van de Geijn, R. (2008). Anatomy of high-performance matrix multiplication. ACM TOMS 34.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> a = np.arange(6.0).reshape(2, 3)
    >>> fg.kernels.matmul(a, a.T)
    array([[ 5., 14.],
           [14., 50.]])
    """
    product = _matmul_direct(a, b, out, 2 * THREAD_WORK - 1, 1)
    if product is None and type(a) is type(b) is np.ndarray and a.ndim == b.ndim == 2:
        product = _matmul_direct(a, b, out, sys.maxsize, _product_threads(a, b))
    if product is not None:
        return product
    a = _operand(a, "a", None)
    b = _operand(b, "b", a.dtype)
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"b: expected {a.shape[1]} rows, the columns of a, got shape {b.shape}")
    shape = (a.shape[0], b.shape[1])
    result = np.empty(shape, a.dtype) if out is None else as_output(out, "out", a.dtype, shape)
    if result.size == 0:
        return result if out is None else out
    # The kernel writes whole vectors, to contiguous rows that do not overlap a factor.
    direct = out is None or (
        result.strides[1] == result.itemsize
        and result.strides[0] % result.itemsize == 0
        and result.flags.aligned
        and not np.may_share_memory(result, a)
        and not np.may_share_memory(result, b)
    )
    target = result if direct else np.empty(shape, a.dtype)
    by_dtype[a.dtype].matmul(a, b, target, _product_threads(a, b))
    if not direct:
        result[...] = target
    return result if out is None else out


def sigmoid(z: Any, out: Array | None = None) -> Array:
    """The logistic function, a = 1 / (1 + exp(-z)), element by element.

    Parameters
    ----------
    z : array of any shape and strides, float32 or float64
    out : array of the same shape, optional
        The array to write to, of the dtype of z; may be z itself.

    Returns
    -------
    array of the shape and dtype of z

    Raises
    ------
    TypeError, ValueError
        If z is not an array of numbers, or `out` has another dtype or shape.

    Notes
    -----
    The error is at most 1.5 units in the last place in float32 (tested for all arguments) and 2 in float64. The result
    is 0 at -inf, 1 at inf, and NaN for NaN. Nothing overflows. Threads share large arrays; their number changes
    no bit. An element takes as long as about 16 multiply-adds.

    References
    ----------
    Muller, J.-M. (2016). Elementary functions: algorithms and implementation, 3rd ed., chapter 11, for
    the reduction of the argument and minimax polynomials.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> fg.kernels.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    return apply(z, "sigmoid", out)


def apply(z: Any, activation: str, out: Array | None = None) -> Array:
    """An activation, a = f(z), element by element.

    Parameters
    ----------
    z : array of any shape and strides, float32 or float64
    activation : {"identity", "sigmoid", "relu", "tanh"}
    out : array of the same shape, optional
        The array to write to, of the dtype of z; may be z itself.

    Returns
    -------
    array of the shape and dtype of z

    Raises
    ------
    TypeError, ValueError
        If z is not an array of numbers, the activation is unknown, or `out` has another dtype or shape.

    Notes
    -----
    tanh is as accurate as `sigmoid`: see its notes. relu, max(0, z), propagates NaN. Threads share large arrays.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> fg.kernels.apply(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    kind = _KINDS[_activation(activation)]
    for kernels in _MODULES:  # arrays that need no conversion are passed on directly
        direct: Array | None = kernels.activation_direct(kind, z, out, _ALONE)
        if direct is not None:
            return direct
    in_place = out is z
    z = as_floats(z, "z", None)
    result = np.empty(z.shape, z.dtype) if out is None else as_output(out, "out", z.dtype, z.shape)
    if z.size == 0:
        return result if out is None else out
    # One long row if the memory is contiguous, else the rows in place; arrays of more dimensions are copied.
    overlaps = out is not None and not in_place and np.may_share_memory(result, z)
    if z.flags.c_contiguous and result.flags.c_contiguous and not overlaps:
        source, target = z.reshape(1, -1), result.reshape(1, -1)
    elif z.ndim == 2 and not overlaps:
        source, target = z, result
    else:
        source = np.array(z, order="C").reshape(1, -1)
        target = source
    work = _ACTIVATION_WORK * z.size
    n_threads = worthwhile_threads(work, -(-z.size // _CHUNK), allowed_threads(work))
    by_dtype[z.dtype].activation(kind, source, target, n_threads)
    if target is source:
        result[...] = target.reshape(z.shape)
    return result if out is None else out


def dense_forward(
    weight: Any, x: Any, bias: Any = None, activation: str = "identity", out: Array | None = None
) -> Array:
    """A dense layer, a = f(W x + b), in one pass: z is never stored.

    Parameters
    ----------
    weight : array (n_out, n_in), float32 or float64
        Its dtype is that of all computations.
    x : array (n_in, m)
        Read in place with any strides.
    bias : array (n_out, 1) or (n_out,), optional
    activation : {"identity", "sigmoid", "relu", "tanh"}
    out : array (n_out, m), optional
        The array to write to, of the dtype of weight.

    Returns
    -------
    array (n_out, m)

    Raises
    ------
    TypeError, ValueError
        If an array is of the wrong kind or shape, or the activation is unknown.

    Notes
    -----
    2 n_in n_out m flops and n_out m activations. Threads share the examples; a column of the result does
    not depend on the other columns. The equation is the standard one; ``cython_kernels/network/tiles.pxi``
    describes how the examples are tiled.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> W, x = np.array([[1.0, -1.0]]), np.array([[1.0, 2.0], [1.0, 4.0]])
    >>> fg.kernels.dense_forward(W, x, np.array([1.0]), "relu")
    array([[1., 0.]])
    """
    activation = _activation(activation)
    weight = as_matrix(weight, "weight", None, None, "outputs")
    n_out, n_in = weight.shape
    x = as_matrix(x, "x", weight.dtype, n_in, "features")
    parameters = _one_layer(weight, bias)
    shape = (n_out, x.shape[1])
    result = np.empty(shape, weight.dtype) if out is None else as_output(out, "out", weight.dtype, shape)
    target = result
    if out is not None and (np.may_share_memory(result, x) or np.may_share_memory(result, parameters)):
        target = np.empty(shape, weight.dtype)
    _engine(weight, activation, bias is not None, x.shape[1]).forward(x, parameters, target)
    if target is not result:
        result[...] = target
    return result if out is None else out


def dense_backward(
    weight: Any, x: Any, a: Any, grad_a: Any, activation: str = "identity"
) -> tuple[Array, Array, Array]:
    """The backward pass of a dense layer, from the gradient with respect to its output a.

    delta = f' * grad_a, with f' computed from a; the gradients with respect to W, b and x are delta x^T, delta 1
    and W^T delta.

    Parameters
    ----------
    weight : array (n_out, n_in), float32 or float64
        Its dtype is that of all computations.
    x : array (n_in, m)
        The input of `dense_forward`.
    a : array (n_out, m)
        Its output.
    grad_a : array (n_out, m)
    activation : {"identity", "sigmoid", "relu", "tanh"}

    Returns
    -------
    grad_weight : array (n_out, n_in)
    grad_bias : array (n_out, 1)
    grad_x : array (n_in, m)

    Raises
    ------
    TypeError, ValueError
        If an array is of the wrong kind or shape, or the activation is unknown.

    Notes
    -----
    4 n_in n_out m flops. Threads share blocks of examples, whose sums are added in a fixed order.

    References
    ----------
    Rumelhart, D. E., Hinton, G. E. and Williams, R. J. (1986). Learning representations by
    back-propagating errors. Nature 323.

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> W, x = np.array([[1.0, -1.0]]), np.array([[1.0, 2.0], [1.0, 4.0]])
    >>> a = fg.kernels.dense_forward(W, x)
    >>> grad_W, grad_b, grad_x = fg.kernels.dense_backward(W, x, a, np.ones((1, 2)))
    >>> grad_W, grad_b
    (array([[3., 5.]]), array([[2.]]))
    """
    activation = _activation(activation)
    weight = as_matrix(weight, "weight", None, None, "outputs")
    n_out, n_in = weight.shape
    x = as_matrix(x, "x", weight.dtype, n_in, "features")
    a = as_matrix(a, "a", weight.dtype, n_out, "outputs")
    grad_a = as_matrix(grad_a, "grad_a", weight.dtype, n_out, "outputs")
    for name, array in (("a", a), ("grad_a", grad_a)):
        if array.shape[1] != x.shape[1]:
            raise ValueError(f"{name}: expected {x.shape[1]} examples (columns) as in x, got shape {array.shape}")
    parameters = _one_layer(weight, np.zeros(n_out, weight.dtype))
    gradient = np.empty_like(parameters)
    grad_x = np.empty(x.shape, weight.dtype)
    _engine(weight, activation, True, x.shape[1]).gradient(
        x, grad_a, parameters, gradient, grad_x, y_is_gradient=True, outputs=a
    )
    return gradient[: weight.size].reshape(weight.shape), gradient[weight.size :].reshape(n_out, 1), grad_x


def _one_layer(weight: Array, bias: Any) -> Array:
    """W | b in one flat buffer."""
    if bias is None:
        return np.require(weight, requirements=["C", "A"]).ravel()
    bias = as_floats(bias, "bias", weight.dtype)
    if bias.shape not in ((weight.shape[0],), (weight.shape[0], 1)):
        raise ValueError(f"bias: expected shape ({weight.shape[0]},) or ({weight.shape[0]}, 1), got {bias.shape}")
    return np.concatenate([weight.ravel(), bias.ravel()])


def _engine(weight: Array, activation: str, bias: bool, m: int) -> Any:
    layers = stack_layers([Shape(weight.shape[1], weight.shape[0], activation, bias)])
    return _make_engine(layers, weight.dtype, m, allowed_threads(step_work(layers, m)))


@lru_cache(maxsize=256)
def _make_engine(layers: tuple[Dense, ...], dtype: "np.dtype[Any]", m: int, n_threads: int) -> Any:
    """Any number of calls may use an engine at the same time. Making one takes longer than computing a small layer."""
    return by_dtype[dtype].Engine(make_plan(layers, dtype, m, n_threads))
