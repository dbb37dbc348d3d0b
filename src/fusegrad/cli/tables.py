"""Tables from files, and to files, by polars."""

import csv
import gzip
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, TextIO, cast

import polars

from fusegrad._engine import files
from fusegrad.cli import InputError

KINDS = (".csv", ".csv.gz", ".parquet")
#: What stands for a missing value in a CSV file, beside nothing.
MISSING = ["NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"]
SEPARATORS = ",;\t|"
DECIMAL = re.compile(r'\s*"?[-+]?\d+([.,])\d+"?\s*')
DECIMALS_SAMPLE = 1 << 20  # characters that show whether decimals have commas
MOST_HEADER = 1 << 24  # characters
#: Types of numbers that NumPy does not have; their columns become Float64.
WIDE = ("Decimal", "Int128", "UInt128")


def kind_of(path: Path) -> str:
    """The kind of a file by the end of its name."""
    for kind in KINDS:
        if path.name.lower().endswith(kind):
            return kind
    raise InputError(f"{path}: expected a name that ends in {', '.join(KINDS)}")


def options_of(path: Path) -> dict[str, Any]:
    """How polars reads a file as a person would: types from all rows, dates, missing values, separator."""
    if kind_of(path) == ".parquet":
        return {"glob": False}
    options: dict[str, Any] = {
        "infer_schema_length": None, "try_parse_dates": True, "null_values": MISSING, "glob": False,
    }  # fmt: skip
    with _opened(path) as file:
        lines = iter(lambda: file.readline(MOST_HEADER), "")
        separator = max(SEPARATORS, key=next(filter(str.strip, lines), "").count)
        sample = file.read(DECIMALS_SAMPLE)
    if separator == ",":
        return options
    decimals = {found[1] for found in map(DECIMAL.fullmatch, re.split(rf"[\n{separator}]", sample)) if found}
    return options | {"separator": separator} | ({"decimal_comma": True} if decimals == {","} else {})


def _opened(path: Path) -> TextIO:
    """A CSV file as the csv module reads it."""
    opened = gzip.open if kind_of(path) == ".csv.gz" else open
    return cast(TextIO, opened(path, "rt", encoding="utf-8-sig", errors="replace", newline=""))


def _check_names(path: Path, separator: str, wanted: Collection[str] | None) -> None:
    """Raise if two columns of a CSV file have one name: polars would rename one. wanted: names that matter."""
    with _opened(path) as file:
        rows = csv.reader(iter(lambda: file.readline(MOST_HEADER), ""), delimiter=separator)
        names = Counter(next(filter(any, rows), []))
    for name, n in names.items():
        if n > 1 and name and (wanted is None or name in wanted):  # several without a name: a spreadsheet's empty ones
            raise InputError(f"{path}: {n} columns are named {name!r}: rename or remove all but one")


def read(
    path: Path, wanted: Collection[str] | None = None, texts: Collection[str] = ()
) -> tuple[polars.DataFrame, list[str]]:
    """All rows of a file, and the names of the columns that were of a type of `WIDE`.

    wanted: the names of the columns that are needed; None: all of them. texts: those that are texts, in a CSV file,
    though all of their cells may look like numbers or dates.
    """
    kind_of(path)
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: not a file")
        function = polars.read_parquet if kind_of(path) == ".parquet" else polars.read_csv
        options = options_of(path)
        if kind_of(path) != ".parquet":
            _check_names(path, options.get("separator", ","), wanted)
            options["schema_overrides"] = dict.fromkeys(texts, polars.String)
        table: polars.DataFrame = function(path, **options)
        wide = [column.name for column in table if str(column.dtype.base_type()) in WIDE]
        table = table.with_columns([table[name].cast(polars.Float64) for name in wide])
    except (
        polars.exceptions.PolarsError, polars.exceptions.PanicException, csv.Error, OSError, UnicodeDecodeError,
        ValueError,
    ) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a table that polars can read: {reason}") from None
    if table.height == 0:
        raise InputError(f"{path}: it has no rows")
    return table, wide


def column_of(table: polars.DataFrame, name: str) -> polars.Series:
    """A column under a plain name: polars would take some names for patterns, even in the methods of a Series."""
    return table[name].alias("column")


def is_pattern(name: str) -> bool:
    """Whether polars takes a name of a column for a pattern, in most of its functions."""
    return name == "*" or (name.startswith("^") and name.endswith("$"))


def numbers_in(column: polars.Series) -> tuple[float, str | None]:
    """Which share of the texts of a column are numbers, and the first that is none."""
    texts = column.drop_nulls()
    others = texts.filter(texts.cast(polars.Float64, strict=False).is_null())
    return 1 - len(others) / max(1, len(texts)), others[0] if len(others) else None


def write(table: polars.DataFrame, path: Path | None) -> None:
    """To a file, or as CSV to standard output."""
    if path is None:
        print(table.write_csv(), end="")
        return
    content = io.BytesIO()
    if path.suffix == ".parquet":
        table.write_parquet(content)
    else:
        table.write_csv(content)
    write_bytes(content.getvalue(), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file completely, or leave the old one. What is no regular file, such as a FIFO, is written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            files.write(path, content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def check_output(path: Path | None, suffixes: tuple[str, ...], *others: Path | None) -> None:
    """Raise before anything is computed if a file cannot be made there, or is one of the others."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    try:
        folder = Path(os.path.realpath(path)).parent  # of the file that a link leads to
        for parent in (path.absolute().parent, folder):
            if not parent.is_dir():
                raise InputError(f"{path}: no folder {parent}")
        if path.is_dir():
            raise InputError(f"{path}: it is a folder")
        exists = _exists(path)
        special = exists and not path.is_file()
        if special and ".safetensors" in suffixes:
            raise InputError(f"{path}: not a file")
        for other in others:
            if other is not None and exists and other.exists() and path.samefile(other):
                raise InputError(f"{path}: expected another file than {other}, which would be lost")
        effective = os.access in os.supports_effective_ids
        for part in [path] * exists + [folder] * (not special):  # a regular file is replaced by a new one
            if not os.access(part, os.W_OK, effective_ids=effective):
                raise InputError(f"{path}: no permission to write to {part}")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _exists(path: Path) -> bool:
    """Whether there is a file; OSError if there can be none, as at the end of links that make a circle."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def note(*parts: Any, quiet: bool) -> None:
    """What a person wants to know while it runs; standard output is for results."""
    if not quiet:
        print(*parts, file=sys.stderr)
