"""Tables from files, and to files, by polars."""

import csv
import gzip
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, TextIO, cast

import polars

from fusegrad.cli import InputError

KINDS = (".csv", ".csv.gz", ".parquet")
#: What stands for a missing value in a CSV file, beside nothing.
MISSING = ["NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"]
SEPARATORS = ",;\t|"
DECIMAL = re.compile(r'\s*"?[-+]?\d+([.,])\d+"?\s*')
DECIMALS_SAMPLE = 1 << 20  # characters that show whether decimals have commas
MOST_HEADER = 1 << 24  # characters


def kind_of(path: Path) -> str:
    """The kind of a file by the end of its name."""
    for kind in KINDS:
        if path.name.lower().endswith(kind):
            return kind
    raise InputError(f"{path}: expected a name that ends in {', '.join(KINDS)}")


def options_of(path: Path) -> dict[str, Any]:
    """How polars reads a file as a person would: types from all rows, dates, missing values, separator, decimal commas."""
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


def read(path: Path, wanted: Collection[str] | None = None) -> polars.DataFrame:
    """All rows of a file. wanted: the names of the columns that are needed; None: all of them."""
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
        table: polars.DataFrame = function(path, **options)
        table = table.with_columns(polars.selectors.decimal().cast(polars.Float64))
    except (polars.exceptions.PolarsError, csv.Error, OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not a table that polars can read: {str(error).splitlines()[0]}") from None
    if table.height == 0:
        raise InputError(f"{path}: it has no rows")
    return table


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
    try:
        if path.suffix == ".parquet":
            table.write_parquet(path)
        else:
            table.write_csv(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def check_output(path: Path | None, suffixes: tuple[str, ...], *others: Path | None) -> None:
    """Raise before anything is computed if a file cannot be made there, or is one of the others."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no folder {path.absolute().parent}")
    if path.is_dir():
        raise InputError(f"{path}: it is a folder")
    for other in others:
        if other is not None and other.exists() and path.exists() and path.samefile(other):
            raise InputError(f"{path}: expected another file than {other}, which would be lost")


def note(*parts: Any, quiet: bool) -> None:
    """What a person wants to know while it runs; standard output is for results."""
    if not quiet:
        print(*parts, file=sys.stderr)
