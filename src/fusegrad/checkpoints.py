"""Loading networks from files, with the optimizer and the generator that were saved with them."""

from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine import files
from fusegrad._engine.plan import stack_layers
from fusegrad._engine.validation import as_count, as_number
from fusegrad.layers import build_layers, shapes_of
from fusegrad.losses import MeanSquaredError, build_loss
from fusegrad.networks import Sequential, build_network
from fusegrad.optimizers import Optimizer, build_optimizer


class LoadedCheckpoint(NamedTuple):
    """What `load_checkpoint` returns.

    Attributes
    ----------
    network : Sequential
    optimizer : Optimizer or None
    rng : numpy.random.Generator or None
        None if none was saved.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.LoadedCheckpoint(fg.UnivariateRegression(rng=0), fg.SGD(lr=0.1), None).optimizer
    SGD(lr=0.1, momentum=0.0, nesterov=False)
    """

    network: Sequential
    optimizer: Optimizer | None
    rng: "np.random.Generator | None"


def load(path: str | PathLike[str]) -> Sequential:
    """Read a network that `Sequential.save` wrote.

    Parameters
    ----------
    path : str or path-like
        A file with or without an optimizer and a generator.

    Returns
    -------
    Sequential
        With the layers, dtype and parameters that were saved.

    Raises
    ------
    TypeError
        If it is not a path.
    OSError
        If the file cannot be read.
    ValueError
        If the file is of another kind, not a regular file (a folder is an OSError), or damaged; the message names the
        file and the cause.

    Examples
    --------
    >>> import fusegrad as fg, tempfile, pathlib
    >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(pathlib.Path(folder, "net.safetensors"))
    ...     same = fg.load(pathlib.Path(folder, "net.safetensors"))
    >>> bool((same.parameters == net.parameters).all())
    True
    """
    return load_checkpoint(path).network


def load_checkpoint(path: str | PathLike[str]) -> LoadedCheckpoint:
    """Read a network, and the optimizer and the generator that `Sequential.save` wrote with it.

    A fit that is resumed from it gives the same bits as if it had not been stopped.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    LoadedCheckpoint
        ``(network, optimizer, rng)``, with None for what was not saved.

    Raises
    ------
    TypeError
        If it is not a path.
    OSError
        If the file cannot be read.
    ValueError
        If the file is of another kind, not a regular file (a folder is an OSError), or damaged; the message names the
        file and the cause.

    Notes
    -----
    To resume a fit, pass the same arguments, and the number of finished epochs as `initial_epoch`. An optimizer that
    was new at the start of the fit has made ``n_steps`` steps: one for each batch of each epoch. Whether a linear
    network is trained from the moments of the data depends on the total number of epochs.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np, tempfile, pathlib
    >>> X, y = fg.datasets.load_penguins()
    >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    >>> net, optimizer, rng = fg.TwoLayerSigmoid(1, 8, rng=0), fg.Adam(lr=0.01), np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "checkpoint.safetensors")
    ...     def stop(net, history):
    ...         net.save(file, optimizer=optimizer, rng=rng)
    ...         return history.epochs == 5
    ...     stopped = net.fit(X, y, optimizer=optimizer, epochs=20, batch_size=32, rng=rng, callbacks=[stop])
    ...     again, optimizer, rng = fg.load_checkpoint(file)
    >>> history = again.fit(X, y, optimizer=optimizer, epochs=20, initial_epoch=5, batch_size=32, rng=rng)
    >>> straight = fg.TwoLayerSigmoid(1, 8, rng=0)
    >>> whole = straight.fit(X, y, optimizer=fg.Adam(lr=0.01), epochs=20, batch_size=32, rng=0)
    >>> whole.loss == stopped.loss + history.loss, bool((again.parameters == straight.parameters).all())
    (True, True)
    """
    return load_with_metadata(path)[0]


def load_with_metadata(path: str | PathLike[str]) -> tuple[LoadedCheckpoint, dict[str, str]]:
    """A checkpoint and the user's metadata, of one read of the file."""
    arrays, metadata = files.load(path)
    try:
        state, factors = (arrays.pop(f"optimizer.{name}", None) for name in ("state", "learning_rate_factors"))
        dtype, layers = _build_dtype(metadata["dtype"]), build_layers(metadata["layers"])
        size = stack_layers(shapes_of(tuple(layers)))[-1].end  # known before any memory is allocated
        if size != sum(array.size for array in arrays.values()):
            raise ValueError(f"expected arrays of {size} parameters in all")
        if any(array.dtype != dtype for array in (*arrays.values(), *([] if state is None else [state]))):
            raise ValueError(f"expected arrays of {dtype}")
        loss = build_loss(metadata["loss"]) if "loss" in metadata else MeanSquaredError()
        l2 = as_number(float(metadata.get("l2", "0")), "l2", least=0.0)
        seed = metadata.get("dropout_seed")
        net = build_network(tuple(layers), dtype, loss, l2, None if seed is None else _build_seed(seed))
        net.load_state_dict(arrays)
        optimizer = None
        if "optimizer" in metadata:
            optimizer = build_optimizer(metadata["optimizer"], state, factors)
            optimizer.check(net.parameters)
        rng = files.build_generator(metadata["rng"]) if "rng" in metadata else None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata and its arrays do not match: {str(error)[:300]}") from None
    others = {name: text for name, text in metadata.items() if name not in files.OWN_METADATA}
    return LoadedCheckpoint(net, optimizer, rng), others


def load_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """Read the metadata that were passed to `Sequential.save`.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    dict of str to str

    Raises
    ------
    TypeError, OSError, ValueError
        As `load`.

    Examples
    --------
    >>> import fusegrad as fg, tempfile, pathlib
    >>> net = fg.UnivariateRegression(rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(pathlib.Path(folder, "net.safetensors"), metadata={"unit": "miles per gallon"})
    ...     fg.load_metadata(pathlib.Path(folder, "net.safetensors"))
    {'unit': 'miles per gallon'}
    """
    _, metadata = files.load(path)
    return {name: text for name, text in metadata.items() if name not in files.OWN_METADATA}


def _build_seed(description: str) -> int:
    seed = as_count(int(description), "dropout_seed", least=0)
    if seed >= 1 << 64:
        raise ValueError(f"expected a dropout_seed of 64 bits, got {seed}")
    return seed


def _build_dtype(description: str) -> np.dtype[Any]:
    """The dtype of that name; NumPy would accept other names."""
    if description not in ("float32", "float64"):
        raise ValueError(f"expected dtype float32 or float64, got {description!r}")
    return np.dtype(description)
