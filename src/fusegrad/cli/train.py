"""``fusegrad train``: read, split, train, test, save, report."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split

from fusegrad.cli import InputError, tables
from fusegrad.history import History
from fusegrad.sklearn import MLPClassifier, MLPRegressor

MOST_CLASSES = 10  # of whole numbers that are taken for classes
MOST_TEXTS = 50  # a column of text with more of them, and more than a tenth of its rows, is taken for names


def run(chosen: argparse.Namespace) -> int:
    """Train a model. After Ctrl-C the best epoch is tested and saved, and the exit code is 130."""
    quiet = chosen.quiet or chosen.json
    tables.check_output(chosen.out, (".safetensors",), chosen.table)
    tables.check_output(chosen.report, (".html",), chosen.table)
    if chosen.report is not None:
        from fusegrad.cli import report  # its matplotlib may be missing
    table, wide = tables.read(chosen.table)
    if chosen.target not in table.columns:
        raise InputError(f"{chosen.table}: no column {chosen.target!r}; it has {', '.join(table.columns)}")
    X, y, notes = _prepared(table, chosen.target, chosen.ignore)
    classes = chosen.task == "classes" or (chosen.task == "auto" and _are_classes(y))
    _check_target(chosen.target, y, classes)
    for line in notes:
        tables.note(line, quiet=quiet)
    model = (MLPClassifier if classes else MLPRegressor)(
        preset="tabular", random_state=chosen.seed, width=chosen.network, epochs=chosen.epochs, n_threads=chosen.threads
    )
    X_train, X_test, y_train, y_test = _split(X, y, chosen.test, chosen.seed, classes)
    task = f"{y.n_unique()} classes" if classes else "numbers"
    tables.note(f"{chosen.target}: {task}; {len(y_train)} rows to train, {len(y_test)} to test", quiet=quiet)

    progress = _Progress(chosen.epochs, show=not quiet and sys.stderr.isatty())
    with _interrupts(progress):
        try:
            model.fit(X_train, y_train.to_numpy(), callbacks=[progress])
        except (TypeError, ValueError) as error:
            raise InputError(f"{chosen.table}: {error}") from None
    results: dict[str, Any] = {
        "target": chosen.target, "task": "classes" if classes else "numbers", "rows": len(y), "columns": X.columns,
        "epochs": model.n_iter_, "best epoch": model.best_epoch_ + 1,
        "seconds": round(progress.seconds, 3), "parameters": model.network_.n_parameters,
        "interrupted": progress.stop,
    }  # fmt: skip
    results["left out"] = notes
    if len(y_test):
        results["test"] = _measures(model, X_test, y_test, y_train, classes)
    simple = len(X.columns) == len(table.columns) - 1 and not tables.is_pattern(chosen.target)
    columns = None if simple else X.columns
    wide = [name for name in wide if name in (chosen.target, *X.columns)]
    lines = python_lines(chosen, classes, y, columns, wide)
    if chosen.out is not None:
        _save(model, chosen.out)
    if chosen.report is not None:
        report.write(chosen.report, model, X_test, y_test.to_numpy(), results, chosen.seed, lines)
    if chosen.json:
        print(json.dumps(results))
    else:
        print(_text(results))
        if not chosen.quiet:
            if chosen.out is None:
                print("\nThe model was not saved: --out model.safetensors")
            print(f"\nThe same in Python:\n\n{lines}")
    return 130 if progress.stop else 0


def _prepared(
    table: polars.DataFrame, target: str, ignored: list[str]
) -> tuple[polars.DataFrame, polars.Series, list[str]]:
    """The columns to learn from, the target (under another name), and what was left out or is strange."""
    notes = []
    # Not drop_nulls() and drop(): they would take some names for patterns.
    table, height = table.filter(tables.column_of(table, target).is_not_null()), table.height
    if table[target].dtype.is_float():
        table = table.filter(tables.column_of(table, target).is_not_nan())
    if table.height < height:
        notes.append(f"{height - table.height} rows without {target} are left out")
    if table.height < 10:
        raise InputError(f"expected at least 10 rows with a {target}, got {table.height}")
    for name in ignored:
        if name not in table.columns or name == target:
            raise InputError(f"--ignore {name}: no such column to learn from")
    dropped = [(name, "--ignore") for name in ignored]
    for name in table.columns:
        if name in (target, *ignored):
            continue
        column = tables.column_of(table, name)
        kind, n = column.dtype, column.n_unique()
        if kind.is_temporal():
            dropped.append((name, "dates"))
        elif kind.is_nested() or kind == polars.Binary:
            dropped.append((name, f"of type {kind}"))
        elif column.null_count() == table.height:
            dropped.append((name, "empty"))
        elif kind == polars.String:
            share, other = tables.numbers_in(column)
            if n > max(MOST_TEXTS, table.height // 10):
                dropped.append((name, f"{n} different texts, such as {column.drop_nulls()[0]!r}"))
            if share > 0.5 and other is not None:
                notes.append(
                    f"column {name!r} is text, though {share:.0%} of it are numbers: the first that is not is {other!r}"
                )
        elif kind.is_integer() and n == table.height:
            notes.append(f"column {name!r} has another whole number in each row: if it is an id, --ignore {name}")
    notes += [f"column {name!r} is left out: {why}" for name, why in dropped]
    left_out = {target, *(name for name, _ in dropped)}
    names = [name for name in table.columns if name not in left_out]
    if not names:
        raise InputError("; ".join(["no column is left to learn from", *(f"{name!r}: {why}" for name, why in dropped)]))
    return table[names], tables.column_of(table, target), notes


def _check_target(name: str, y: polars.Series, classes: bool) -> None:
    """Raise if the target is not of the task, or there is nothing to learn."""
    n = y.n_unique()
    if y.dtype.is_temporal() or y.dtype.is_nested():
        raise InputError(f"the target {name!r} is of type {y.dtype}: expected numbers, texts, true and false")
    if n == 1:
        raise InputError(f"the target {name!r} is {y[0]!r} in all rows: there is nothing to learn")
    if not classes:
        if not y.dtype.is_numeric():
            raise InputError(f"the target {name!r} is not a column of numbers, got {y[0]!r}: --task classes")
        if y.dtype.is_float() and not y.is_finite().all():
            raise InputError(f"the target {name!r} has an infinity")
        return
    share, other = tables.numbers_in(y) if y.dtype == polars.String else (0.0, None)
    if share > 0.5:
        beside = f"also {other!r}: mend or empty such cells" if other is not None else "in quotes: write them without"
        raise InputError(f"the target {name!r} has numbers, but {beside}")
    if y.dtype.is_float() or n > max(MOST_TEXTS, len(y) // 10):
        hint = ": --task numbers, if it has numbers"
        if y.dtype == polars.String:
            hint = f", and no numbers: {y[0]!r} (a number has a decimal point, and no unit)"
        raise InputError(f"the target {name!r} has {n} different values, too many for classes{hint}")


def _are_classes(y: polars.Series) -> bool:
    if not y.dtype.is_numeric():
        return True
    return bool(y.dtype.is_integer() and y.n_unique() <= MOST_CLASSES)


def _split(X: Any, y: Any, share: float, seed: int, classes: bool) -> tuple[Any, Any, Any, Any]:
    if share == 0:
        return X, X[:0], y, y[:0]
    try:
        parts: tuple[Any, Any, Any, Any] = train_test_split(X, y, test_size=share, random_state=seed)
    except ValueError as error:
        raise InputError(f"--test: {error}") from None
    if classes and parts[2].n_unique() < 2:
        raise InputError("the rows to train with have one class")
    return parts


def _measures(model: Any, X: Any, y: polars.Series, y_train: polars.Series, classes: bool) -> dict[str, float]:
    """How good it is on rows that it has not seen, beside the best constant."""
    prediction, truth = model.predict(X), y.to_numpy()
    if classes:
        constant = y_train.mode()[0]
        return {
            "accuracy": float(accuracy_score(truth, prediction)),
            "accuracy of the most frequent class": float((truth == constant).mean()),
        }
    return {
        **({"r2": float(r2_score(truth, prediction))} if len(truth) > 1 else {}),
        "rmse": float(np.sqrt(np.mean((truth - prediction) ** 2))),
        "mae": float(mean_absolute_error(truth, prediction)),
        "rmse of the mean": float(np.sqrt(np.mean((truth - y_train.mean()) ** 2))),
    }


def _save(model: Any, path: Path) -> None:
    try:
        model.save(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        reason = str(error)
        if reason.startswith("metadata: "):  # which is what the estimator adds
            reason = f"names and categories of the columns take more room than a file has: --ignore some ({reason})"
        raise InputError(f"{path}: {reason}") from None


def _text(results: dict[str, Any]) -> str:
    rows = {name: results[name] for name in ("target", "task", "rows", "epochs", "best epoch", "seconds", "parameters")}
    rows |= {f"test: {name}": f"{value:.4g}" for name, value in results.get("test", {}).items()}
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def python_lines(
    chosen: argparse.Namespace, classes: bool, y: polars.Series, columns: list[str] | None, wide: list[str]
) -> str:
    """What a user would write; it makes the same model, bit for bit.

    columns: those that are used, if not all are. wide: those that became Float64.
    """
    kind = "MLPClassifier" if classes else "MLPRegressor"
    path, target = str(chosen.table), chosen.target
    function = "read_parquet" if tables.kind_of(chosen.table) == ".parquet" else "read_csv"
    options = ", ".join(f"{name}={value!r}" for name, value in tables.options_of(chosen.table).items())
    read = f"pl.{function}({path!r}, {options})"
    if wide:
        read += f"\ntable = table.with_columns([table[name].cast(pl.Float64) for name in {wide!r}])"
    drop = f".drop_nulls({target!r})" + (f".drop_nans({target!r})" if y.dtype.is_float() else "")
    if tables.is_pattern(target):
        nans = " & y.is_not_nan()" if y.dtype.is_float() else ""
        drop = f"\ny = table[{target!r}].alias('y')\ntable = table.filter(y.is_not_null(){nans})"
    used = f"table.drop({target!r})" if columns is None else f"table[{columns!r}]"
    lines = [
        "import polars as pl",
        "from sklearn.model_selection import train_test_split",
        f"from fusegrad.sklearn import {kind}",
        "",
        f"table = {read}{drop}",
        f"X, y = {used}, table[{target!r}]",
    ]
    if chosen.test:
        split = f"test_size={chosen.test}, random_state={chosen.seed}"
        lines.append(f"X, X_test, y, y_test = train_test_split(X, y, {split})")
    given = f'preset="tabular", random_state={chosen.seed}, width={chosen.network}, epochs={chosen.epochs}'
    lines += [f"model = {kind}({given})", "model.fit(X, y.to_numpy())"]
    if chosen.test:
        lines.append("print(model.score(X_test, y_test.to_numpy()))")
    if chosen.out is not None:
        lines.append(f"model.save({str(chosen.out)!r})")
    return "\n".join(lines)


class _Progress:
    """A callback: a line with the losses and the time left, on a terminal; and the end after Ctrl-C."""

    def __init__(self, epochs: int, show: bool) -> None:
        self.epochs, self.show = epochs, show
        self.start = self.shown = time.monotonic()
        self.stop = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def __call__(self, net: Any, history: History) -> bool:
        n, now = history.epochs, time.monotonic()
        if self.show and (now - self.shown > 0.1 or n == self.epochs):
            self.shown = now
            left = (now - self.start) / n * (self.epochs - n)
            losses = f"loss {history.loss[-1]:.4g}, held out {history.validation_loss[-1]:.4g}"
            end = "\n" if n == self.epochs or self.stop else ""
            print(
                f"\repoch {n}/{self.epochs}, {losses}, {left:.0f} s left \033[K", end=end, file=sys.stderr, flush=True
            )
        return self.stop


@contextmanager
def _interrupts(progress: _Progress) -> Iterator[None]:
    """The first Ctrl-C ends the training after its epoch; the second one at once."""

    def handler(*_: Any) -> None:
        if progress.stop:
            raise KeyboardInterrupt
        progress.stop = True
        print("\nCtrl-C: the best epoch so far is kept; once more to give up", file=sys.stderr)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
