"""Saving and loading, in the safetensors format: a length, a JSON header, the numbers as they are.

The header's ``__metadata__`` holds what fusegrad adds: the layers, the dtype, the version of this
description, and a SHA-256 over the whole file, taken with zeros in its own place. So no bit of a file
can turn over unseen, nothing in it is ever executed, and any reader of safetensors gets the arrays. A
checkpoint has the optimizer and the generator of the shuffling beside them, under keys of their own.
"""

import errno
import json
import os
import re
from collections.abc import Sequence
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fusegrad._arrays import Array, as_count
from fusegrad.layers import ACTIVATIONS, Activation, Layer, Linear
from fusegrad.optimizers import SGD, Adagrad, Adam, Optimizer, RMSprop

FORMAT = "fusegrad 1"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
MOST_HEADER = 1 << 20
NO_DIGEST = "0" * 64
OPTIMIZERS: dict[str, type[Optimizer]] = {kind.__name__: kind for kind in (SGD, Adagrad, RMSprop, Adam)}
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def describe(layers: Sequence[Layer]) -> str:
    """The layers as JSON: ``[["linear", 13, 50, true], ["sigmoid"], ...]``."""
    described: list[list[Any]] = []
    for layer in layers:
        if isinstance(layer, Linear):
            described.append(["linear", layer.in_features, layer.out_features, layer.bias])
        elif isinstance(layer, Activation):
            described.append([layer.name])
    return json.dumps(described)


def build(description: str) -> list[Layer]:
    """The layers that `describe` described."""
    layers: list[Layer] = []
    for name, *arguments in json.loads(description):
        if name == "linear":
            n_in, n_out, bias = arguments
            layers.append(Linear(n_in, n_out, bias=bias))
        else:
            layers.append(ACTIVATIONS[name]())
    return layers


def build_dtype(description: str) -> np.dtype[Any]:
    """The dtype of that name; NumPy would take others."""
    if description not in ("float32", "float64"):
        raise ValueError(f"expected dtype float32 or float64, got {description!r}")
    return np.dtype(description)


def describe_optimizer(optimizer: Any) -> str:
    """An optimizer without its state as JSON."""
    if type(optimizer) not in OPTIMIZERS.values():
        raise TypeError(f"optimizer: expected one of {', '.join(sorted(OPTIMIZERS))}, got {optimizer!r}")
    described = {"class": type(optimizer).__name__, "arguments": optimizer.arguments, "n_steps": optimizer.n_steps}
    if optimizer._exponent:
        described["exponent"] = optimizer._exponent
    return json.dumps(described)


def build_optimizer(description: str, state: Array | None) -> Optimizer:
    """The optimizer that `describe_optimizer` described, with its state."""
    described = json.loads(description)
    arguments = dict(described["arguments"])
    lr = arguments.pop("lr")
    optimizer: Optimizer = OPTIMIZERS[described["class"]](lr=1.0, **arguments)  # its own may be 0 by a schedule
    steps = {"n_steps": described["n_steps"], "exponent": described.get("exponent", 0)}
    optimizer.load_state_dict({"rule": optimizer.rule, "lr": lr, "state": state, **steps})
    return optimizer


def describe_generator(rng: Any) -> str:
    """The state of a NumPy Generator as JSON."""
    if not isinstance(rng, np.random.Generator) or type(rng.bit_generator).__name__ not in BIT_GENERATORS:
        raise TypeError(f"rng: expected a numpy.random.Generator of {', '.join(BIT_GENERATORS)}, got {rng!r}")
    return json.dumps(rng.bit_generator.state, default=lambda array: array.tolist())


def build_generator(description: str) -> "np.random.Generator":
    """The generator whose state `describe_generator` described."""
    state = json.loads(description)
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(f"rng: expected one of {', '.join(BIT_GENERATORS)}, got {state['bit_generator']!r}")
    bits = getattr(np.random, state["bit_generator"])(0)
    try:
        bits.state = state
    except (IndexError, OverflowError) as error:  # too few numbers, or too large
        raise ValueError(f"rng: {error}") from None
    place = size = 0
    if state["bit_generator"] == "MT19937":
        place, size = state["state"]["pos"], 624
    elif state["bit_generator"] == "Philox":
        place, size = state["buffer_pos"], 4
    if not 0 <= place <= size:  # NumPy takes any, and reads there
        raise ValueError(f"rng: expected a place in a buffer of {size}, got {place}")
    return np.random.Generator(bits)


def _header(arrays: dict[str, Array], metadata: dict[str, str], digest: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **metadata, "sha256": digest}}
    place = 0
    for name, array in arrays.items():
        code = next(code for code, dtype in DTYPES.items() if dtype == array.dtype)
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(header: bytes, data: bytes) -> str:
    """The checksum. hashlib, like secrets, is imported where it is needed: it costs `import fusegrad` 5 ms."""
    import hashlib

    digest = hashlib.sha256(header)
    digest.update(data)
    return digest.hexdigest()


def _path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"path: expected a str or a pathlib.Path, got {path!r}") from None


# ---- writing -----------------------------------------------------------------------------------------


def save(path: str | PathLike[str], arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write a file, all of it or nothing, even if the process is killed or the power fails.

    It is written without a name where the system can do that, so that a process that is killed leaves nothing, is
    brought to the disk, gets a name beside its place, and moves there in one step. A name that a process left by
    being killed within those last microseconds is taken away by the next save to the same place.
    """
    path = Path(os.path.realpath(_path(path)))  # a link stays one
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # safetensors wants little-endian numbers in C order
    arrays = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    data = b"".join(a.tobytes() for a in arrays.values())
    content = _header(arrays, metadata, _digest(_header(arrays, metadata, NO_DIGEST), data)) + data
    try:
        _write(path, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # of the user's path, not of our names


def _write(path: Path, content: bytes) -> None:
    import fcntl
    import secrets

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    named = False
    try:
        try:
            handle = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o666)  # as open would: the umask counts
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            named = True
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # it is ours for as long as we live
            if named and not os.fstat(handle).st_nlink:  # another save took it for a leftover before that
                _write(path, content)
                return
            file.write(content)
            file.flush()
            os.fsync(handle)
            _remove_leftovers(path)
            if not named:  # dst_dir_fd: else link would not follow the link of /proc
                os.link(f"/proc/self/fd/{handle}", temporary.name, dst_dir_fd=folder, follow_symlinks=True)
                named = True
            os.replace(temporary, path)
            named = False
        os.fsync(folder)
    finally:
        os.close(folder)
        if named:
            temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Takes away what killed processes left of their saves to `path`: nobody holds a lock on it."""
    import fcntl

    for name in os.listdir(path.parent):
        if name.startswith(f".{path.name}.") and name.endswith(".part"):
            leftover = path.with_name(name)
            try:
                with leftover.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leftover.unlink()
            except OSError:  # at work, or gone by now, or not ours
                continue


# ---- reading -----------------------------------------------------------------------------------------


def _read_header(path: Path, file: Any, size: int) -> tuple[bytes, dict[str, Any], dict[str, str]]:
    """The header as it is, its arrays, and its metadata."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, MOST_HEADER):
        raise ValueError(f"{path}: not a file of fusegrad, or cut short: {size} bytes, a header of {length}")
    head = file.read(length)
    try:
        header = json.loads(head)
        metadata = header.pop("__metadata__")
        version, digest = metadata["format"], metadata["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: its header is not one that fusegrad wrote") from None
    if version != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {version!r}")
    if not (all(isinstance(value, str) for value in metadata.values()) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise ValueError(f"{path}: its header is not one that fusegrad wrote")
    return head, header, metadata


def _read_entry(path: Path, name: str, entry: Any, place: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype and shape of an array, and where it ends: each array starts where the one before it ends."""
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(as_count(n, "shape", least=0) for n in entry["shape"])
        start, stop = (as_count(n, "data_offsets", least=0) for n in entry["data_offsets"])
        if (start, stop) != (place, place + prod(shape) * dtype.itemsize):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        shown = json.dumps(entry)[:200]
        raise ValueError(f"{path}: expected an array of float32 or float64 as {name!r}, got {shown}") from None
    return dtype, shape, stop


def load(path: str | PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the arrays and the metadata of a file; ValueError, with the file and the cause, if it is not whole.

    Nothing is read or made but what the size of the file has room for.
    """
    path = _path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head, header, metadata = _read_header(path, file, size)
        entries: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        place = 0
        for name, entry in header.items():
            dtype, shape, stop = _read_entry(path, name, entry, place)
            entries[name] = dtype, shape, place
            place = stop
        if size != 8 + len(head) + place:
            raise ValueError(f"{path}: expected {8 + len(head) + place} bytes, got {size}")
        data = file.read(place)
    digest = metadata.pop("sha256")
    blank = head.replace(digest.encode(), NO_DIGEST.encode())
    if _digest(len(head).to_bytes(8, "little") + blank, data) != digest:
        raise ValueError(f"{path}: damaged, its checksum does not match")
    try:
        return {
            name: np.ndarray(shape, dtype, data, start) for name, (dtype, shape, start) in entries.items()
        }, metadata
    except ValueError as error:  # no numbers, in a shape that no array can have
        raise ValueError(f"{path}: {error}") from None
