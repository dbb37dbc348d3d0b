"""Tables from files, and to files, by polars."""

import sys
from pathlib import Path
from typing import Any

import polars

from fusegrad.cli import InputError

KINDS = (".csv", ".csv.gz", ".parquet")


def kind_of(path: Path) -> str:
    """The kind of a file by the end of its name."""
    for kind in KINDS:
        if path.name.lower().endswith(kind):
            return kind
    raise InputError(f"{path}: expected a name that ends in {', '.join(KINDS)}")


def read(path: Path) -> polars.DataFrame:
    """All rows of a file; the types of columns of text are found from all of them."""
    kind = kind_of(path)
    try:
        table = polars.read_parquet(path) if kind == ".parquet" else polars.read_csv(path, infer_schema_length=None)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table that polars can read: {str(error).splitlines()[0]}") from None
    if table.height == 0:
        raise InputError(f"{path}: it has no rows")
    return table


def write(table: polars.DataFrame, path: Path | None) -> None:
    """To a file, or as CSV to standard output."""
    if path is None:
        print(table.write_csv(), end="")
        return
    try:
        if kind_of(path) == ".parquet":
            table.write_parquet(path)
        elif kind_of(path) == ".csv":
            table.write_csv(path)
        else:
            raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def check_folder(path: Path | None) -> None:
    """Raise before anything is computed if a file cannot be made there."""
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no folder {path.absolute().parent}")


def note(*parts: Any, quiet: bool) -> None:
    """What a person wants to know while it runs; standard output is for results."""
    if not quiet:
        print(*parts, file=sys.stderr)
