"""Saving and loading, in the safetensors format: a length, a JSON header, the numbers as they are.

The header's ``__metadata__`` holds what fusegrad adds: the layers, the dtype, the version of this
description, and a SHA-256 over the whole file, taken with zeros in its own place. So no bit of a file
can turn over unseen, nothing in it is ever executed, and any reader of safetensors gets the arrays.
"""

import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fusegrad._arrays import Array
from fusegrad.layers import ACTIVATIONS, Activation, Layer, Linear

FORMAT = "fusegrad 1"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
MOST_HEADER = 1 << 20
NO_DIGEST = "0" * 64


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


def save(path: str | PathLike[str], arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write a file beside its place, then move it there in one step."""
    import secrets

    path = Path(os.path.realpath(_path(path)))  # a link stays one
    # safetensors wants little-endian numbers in C order
    arrays = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    data = b"".join(a.tobytes() for a in arrays.values())
    digest = _digest(_header(arrays, metadata, NO_DIGEST), data)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # as open would: the umask counts
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_header(arrays, metadata, digest) + data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the arrays and the metadata of a file; ValueError, with the file and the cause, if it is not whole."""
    path = _path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
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
        blank = head.replace(str(digest).encode(), NO_DIGEST.encode())
        data = file.read()
    if _digest(length.to_bytes(8, "little") + blank, data) != digest:
        raise ValueError(f"{path}: damaged, its checksum does not match")
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[start:stop], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata
