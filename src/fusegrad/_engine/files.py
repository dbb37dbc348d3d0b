"""Saving and loading, in the safetensors format: a length, a JSON header, the bytes of the arrays.

The header's ``__metadata__`` holds what fusegrad adds: the layers, the dtype, the version of this format, and a SHA-256
over the whole file, computed with zeros in its own place. So every changed bit of a file is detected, nothing in it is
ever executed, and any reader of safetensors can load the arrays. A checkpoint also contains the optimizer and the
generator of the shuffling, under keys of their own.

A file is written without a name (O_TMPFILE), flushed to the disk, linked to a temporary name in its folder, and
renamed. So a process that is killed while it writes leaves no file. If this is not possible, for example without /proc,
the file has its temporary name from the start. Features that a file system may lack without harm to the file (locks, a
folder that can be listed or flushed, owners, modes, attributes) fail without an error.

Two simpler ways were rejected. If every file had a temporary name from the start, most killed saves would leave a file.
With a fixed temporary name, two processes that save to the same path would write to the same file.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from os import PathLike
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegrad._engine.validation import Array, as_count

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "fusegrad 1"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
MOST_HEADER = 1 << 20
MOST_DIGITS = 40  # of an integer in a header: the state of a generator has 128 bits
#: Names of the metadata that fusegrad writes itself.
OWN_METADATA = {"format", "sha256", "layers", "dtype", "loss", "l2", "dropout_seed", "optimizer", "rng"}
NO_DIGEST = "0" * 64
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
ACL = "system.posix_acl_access"
Access = tuple[os.stat_result, dict[str, bytes]]  # of a file: owner, group and mode; ACL and user attributes


def _parse_integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"expected integers of at most {MOST_DIGITS} digits, got one of {len(digits)}")
    return int(digits)


def parse_json(text: str | bytes) -> Any:
    """JSON without long integers: the time to convert and multiply them grows with the square of their length."""
    return json.loads(text, parse_int=_parse_integer)


def describe_generator(rng: Any) -> str:
    """The state of a NumPy Generator as JSON."""
    if not isinstance(rng, np.random.Generator) or type(rng.bit_generator).__name__ not in BIT_GENERATORS:
        raise TypeError(f"rng: expected a numpy.random.Generator of {', '.join(BIT_GENERATORS)}, got {rng!r}")
    return json.dumps(rng.bit_generator.state, default=lambda array: array.tolist())


def build_generator(description: str) -> "np.random.Generator":
    """The generator with the state that `describe_generator` returned."""
    state = parse_json(description)
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(f"rng: expected one of {', '.join(BIT_GENERATORS)}, got {state['bit_generator']!r}")
    bits = getattr(np.random, state["bit_generator"])(0)
    try:
        bits.state = state
    except (IndexError, OverflowError) as error:  # too few numbers, or too large ones
        raise ValueError(f"rng: {error}") from None
    place = size = 0
    if state["bit_generator"] == "MT19937":
        place, size = state["state"]["pos"], 624
    elif state["bit_generator"] == "Philox":
        place, size = state["buffer_pos"], 4
    if not 0 <= place <= size:  # NumPy accepts any position, and reads there
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
    """The checksum. hashlib is imported only on use: it would add 5 ms to `import fusegrad`."""
    import hashlib

    digest = hashlib.sha256(header)
    digest.update(data)
    return digest.hexdigest()


def as_path(path: Any) -> "Path":
    """A path that a file can have."""
    from pathlib import Path  # where it is needed: a sixth of the import of fusegrad

    try:
        result = Path(path)
        valid = os.fspath(path) != "" and b"\0" not in os.fsencode(result)
    except TypeError:
        raise TypeError(f"path: expected a str or a pathlib.Path, got {path!r}") from None
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise ValueError(f"path: expected a name that a file can have (not empty, no NUL), got {str(path)!r}")
    return result


def _check_regular(path: "Path") -> None:
    """Raise unless the path is a regular file. Opening any other kind may block, or affect a device."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kinds = {"p": "a FIFO", "s": "a socket", "c": "a character device", "b": "a block device"}
        kind = kinds.get(stat.filemode(mode)[0], "a special file")
        raise ValueError(f"path: expected a regular file, got {kind}: {str(path)!r}")


# ---- writing -----------------------------------------------------------------------------------------


def check_metadata(metadata: Any) -> dict[str, str]:
    """The metadata that a user adds to a file."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: expected a dict of texts, got {type(metadata).__name__}")
    for name, text in metadata.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"metadata: expected a dict of texts, got {name!r}: {shortened(text)}")
        if name in OWN_METADATA:
            raise ValueError(f"metadata: expected names other than {', '.join(sorted(OWN_METADATA))}, got {name!r}")
    return dict(metadata)


def save(path: str | PathLike[str], arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write the arrays and the metadata to a file, as `write` does."""
    path = as_path(path)
    # safetensors requires little-endian numbers in C order
    arrays = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    data = b"".join(a.tobytes() for a in arrays.values())
    header = _header(arrays, metadata, _digest(_header(arrays, metadata, NO_DIGEST), data))
    if len(header) - 8 > MOST_HEADER:
        what = "metadata" if metadata.keys() - OWN_METADATA else "layers"
        raise ValueError(f"{what}: expected a description of at most {MOST_HEADER} bytes, got {len(header) - 8}")
    write(path, header + data)


def write(path: str | PathLike[str], content: bytes) -> None:
    """Write a file completely or not at all, even if the process is killed or the power fails.

    If a signal handler raises an exception, no temporary file and no open descriptor remain. A temporary file of a
    killed process is removed by the next save to the same path, if the file system has locks.
    """
    path = as_path(path)
    try:
        _write(path, content)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # with the user's path, not a temporary name


@contextmanager
def _optional() -> Iterator[None]:
    """For a system call that may fail without harm to the file.

    An OSError without an errno is not from a system call: a signal handler has raised it, such as a TimeoutError.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise


def _open(handles: list[int], path: "str | Path", flags: int, mode: int = 0o600, folder: int | None = None) -> int:
    """Open a file and append its descriptor to `handles`; the caller closes it.

    `+=` calls os.open and appends in C, so that no signal handler runs between the two: its exception would lose the
    descriptor. For the same reason each function owns one descriptor, and closes it in the first call of its `finally`.
    """
    handles += map(partial(os.open, mode=mode, dir_fd=folder), (path,), (flags,))
    return handles[-1]


def _lock(handle: int) -> None:
    """Lock a file until it is closed; OSError if another process has locked it, or the file system has no locks."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(path: "Path", content: bytes) -> None:
    replaced = _read_access(path)
    while path.is_symlink():  # the link is kept
        target = path.parent / os.readlink(path)
        if path.exists() and not (target.exists() and target.samefile(path)):  # such as /dev/fd/3
            raise ValueError(f"path: expected a file with a name, got {path} of a file that has none")
        path = target
    handles: list[int] = []
    try:
        try:
            folder = _open(handles, path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:  # a folder that can be written to but not read
            folder = _open(handles, path.parent, os.O_PATH | os.O_DIRECTORY)
        _write_in(folder, path.name, content, replaced)
        with _optional():  # the file has its name by now
            os.fsync(folder)
    finally:
        for handle in handles:
            os.close(handle)


def _write_in(folder: int, name: str, content: bytes, replaced: Access | None) -> None:
    """Write a file of that name in a folder."""
    # Of the same length for every name, since a name may be as long as the file system allows.
    prefix = f".fusegrad-{_digest(os.fsencode(name), b'')[:16]}-"
    _remove_leftovers(folder, prefix)
    try:
        _write_new(folder, name, prefix, content, replaced, os.O_TMPFILE)
        return
    except OSError as error:  # most likely unnamed files, or /proc to link them, are missing
        if error.errno in (None, errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    for attempt in range(10):
        try:
            _write_new(folder, name, prefix, content, replaced, os.O_CREAT | os.O_EXCL)
            return
        except FileNotFoundError:  # another save has removed it as a leftover, before it was locked
            if attempt == 9:
                raise


def _write_new(folder: int, name: str, prefix: str, content: bytes, replaced: Access | None, flags: int) -> None:
    temporary = f"{prefix}{os.urandom(8).hex()}.part"
    unnamed = flags == os.O_TMPFILE
    mode = 0o666 if replaced is None else 0o600  # minus the umask; else private until it has the old file's mode
    handles: list[int] = []
    try:
        handle = _open(handles, "." if unnamed else temporary, os.O_WRONLY | flags, mode, folder)
        with _optional():  # so that no other save removes it
            _lock(handle)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        if replaced is not None:
            _set_access(handle, replaced)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without fsync
                raise
        if unnamed:  # with dst_dir_fd Python calls linkat, which can follow the link of /proc
            os.link(f"/proc/self/fd/{handle}", temporary, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        # Without suppress(), which is another call: a signal handler may run after each call.
        try:  # noqa: SIM105
            os.unlink(temporary, dir_fd=folder)
        except OSError:  # the file does not have that name yet, or no longer
            pass
        raise
    finally:
        for handle in handles:
            os.close(handle)


def _remove_leftovers(folder: int, prefix: str) -> None:
    """Remove temporary files of killed saves to the same path: regular files that no process has locked."""
    names: list[str] = []
    with _optional():  # a folder that cannot be read
        names = os.listdir(folder)
    for name in filter(re.compile(prefix + r"[0-9a-f]{16}\.part").fullmatch, names):
        handles: list[int] = []
        try:
            with _optional():  # it is being written, or already removed
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    # Opened for writing: else NFS gives no lock
                    _lock(_open(handles, name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW, folder=folder))
                    os.unlink(name, dir_fd=folder)
        finally:
            for handle in handles:
                os.close(handle)


def _read_access(path: "Path") -> Access | None:
    """Owner, group, mode, ACL and user attributes of an existing file; None if there is none.

    Raises OSError if the file cannot be written to, as if it were written in place: a read-only file is not replaced.
    """
    try:
        _check_regular(path)
    except FileNotFoundError:
        return None
    handles: list[int] = []
    try:
        handle = _open(handles, path, os.O_WRONLY)
        return os.fstat(handle), _read_attributes(handle)
    finally:
        for handle in handles:
            os.close(handle)


def _read_attributes(handle: int) -> dict[str, bytes]:
    """The ACL and the user attributes of a file."""
    attributes: dict[str, bytes] = {}
    with _optional():  # a file system without them
        for name in sorted(os.listxattr(handle)):  # the ACL first
            if name == ACL or name.startswith("user."):
                attributes[name] = os.getxattr(handle, name)
    return attributes


def _set_access(handle: int, replaced: Access) -> None:
    """Give a new file the access rights of the file that it replaces, as far as the system allows, and never more."""
    status, attributes = replaced
    mode = status.st_mode & 0o777
    for owner in (status.st_uid, -1):  # root may set any owner, a user only one of their groups
        with _optional():
            os.fchown(handle, owner, status.st_gid)
            break
    if ACL not in attributes:
        with _optional():
            os.removexattr(handle, ACL)  # a folder may have a default ACL for new files
    for name, value in attributes.items():
        with _optional():
            os.setxattr(handle, name, value)
    other_group = os.fstat(handle).st_gid != status.st_gid
    if other_group:  # group and others get the rights that both of them had
        mode = mode & 0o700 | 0o11 * (mode >> 3 & mode & 0o7)
    acl = attributes.get(ACL)
    if acl != _read_attributes(handle).get(ACL) or (acl and other_group):
        mode &= 0o700
    with _optional():
        os.fchmod(handle, mode)


# ---- reading -----------------------------------------------------------------------------------------


def _read_header(path: "Path", file: Any, size: int) -> tuple[bytes, dict[str, Any], dict[str, str]]:
    """The bytes of the header, its entries for the arrays, and its metadata."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, MOST_HEADER):
        raise ValueError(f"{path}: not a file of fusegrad, or cut short: {size} bytes, a header of {length}")
    head = file.read(length)
    try:
        header = parse_json(head)
        metadata = header.pop("__metadata__")
        version, digest = metadata["format"], metadata["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: its header is not one that fusegrad wrote") from None
    if version != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {shortened(version)}")
    if not (all(isinstance(value, str) for value in metadata.values()) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise ValueError(f"{path}: its header is not one that fusegrad wrote")
    return head, header, metadata


def _read_entry(path: "Path", name: str, entry: Any, place: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype and shape of an array, and where it ends: each array starts where the one before it ends."""
    try:
        if len(entry["shape"]) > 2:
            raise ValueError
        dtype, shape = DTYPES[entry["dtype"]], tuple(as_count(n, "shape", least=0) for n in entry["shape"])
        start, stop = (as_count(n, "data_offsets", least=0) for n in entry["data_offsets"])
        if (start, stop) != (place, place + prod(shape) * dtype.itemsize):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected a vector or matrix of float32 or float64 as {shortened(name)}, got {shortened(entry)}"
        ) from None
    return dtype, shape, stop


def load(path: str | PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the arrays and the metadata of a file. If it is not complete, a ValueError names the file and the cause.

    No more is read or allocated than the size of the file allows.
    """
    path = as_path(path)
    _check_regular(path)
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
    except ValueError as error:  # no elements, but a shape that no array can have
        raise ValueError(f"{path}: {error}") from None
