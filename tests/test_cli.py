"""The command as a user runs it: a process, files, signals, a browser."""

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import fusegrad as fg
from fusegrad.cli.main import main
from fusegrad.cli.main import run as entry

polars = pytest.importorskip("polars", reason="the cli extra")
pytest.importorskip("sklearn", reason="the cli extra")
pytestmark = pytest.mark.once
COMMAND = [sys.executable, "-m", "fusegrad"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Standard output and standard error of the command in a folder with cars.csv."""
    monkeypatch.chdir(tmp_path)
    cars().write_csv("cars.csv")

    def run(*arguments, code=0):
        try:
            found = main(list(map(str, arguments)))
        except SystemExit as ended:  # argparse
            found = ended.code
        out, error = capsys.readouterr()
        assert found == code, (found, out, error)
        return out, error

    return run


def cars(n=300, seed=0):
    rng = np.random.default_rng(seed)
    weight, colour = rng.lognormal(size=n), rng.choice(["red", "green", "blue"], n)
    price = np.log(weight) + 2.0 * (colour == "red") + 0.1 * rng.normal(size=n)
    doors = [None if i % 17 == 0 else int(value) for i, value in enumerate(rng.integers(2, 6, n))]
    return polars.DataFrame(
        {
            "weight": weight, "colour": colour, "doors": doors, "name": [f"car {i}" for i in range(n)],
            "new": rng.random(n) < 0.5, "price": price, "kind": np.where(price > 0.5, "dear", "cheap"),
        }
    )  # fmt: skip


TRAIN = ["train", "cars.csv", "--network", "16,16", "--epochs", "60"]


def test_train_and_predict(run):
    out, notes = run(*TRAIN, "--target", "price", "--out", "model.safetensors")
    assert "column 'name' is left out: 300 different texts, such as " in notes
    assert "price: numbers; 240 rows to train, 60 to test" in notes
    assert float(re.search(r"test: r2 +(\S+)", out)[1]) > 0.9
    assert "\r" not in notes  # no progress in a pipe
    cars(20, seed=1).drop("price").write_csv("new.csv")
    assert run("predict", "model.safetensors", "new.csv", "--out", "predictions.csv") == ("", "")
    found = polars.read_csv("predictions.csv")
    assert found.columns == ["prediction"]
    truth = cars(20, seed=1)["price"].to_numpy()
    assert np.corrcoef(found["prediction"], truth)[0, 1] > 0.95
    printed, _ = run("predict", "model.safetensors", "new.csv")
    assert printed == Path("predictions.csv").read_text()
    assert (fg.load("model.safetensors")).n_features == 1 + 3 + 1 + 1 + 1  # two numbers, three colours, new, kind


def test_classes_and_other_formats(run):
    table = cars()
    table.drop("price").write_parquet("cars.parquet")
    Path("cars.csv.gz").write_bytes(gzip.compress(table.drop("price").write_csv().encode()))
    found = []
    for name in ("cars.parquet", "cars.csv.gz"):
        arguments = ["train", name, "--target", "kind", "--network", "16", "--epochs", "80", "--out", "m.safetensors"]
        out, _ = run(*arguments, "--json")
        found.append(json.loads(out))
        assert found[-1]["test"]["accuracy"] > 0.85
        assert found[-1]["task"] == "classes"
        run("predict", "m.safetensors", name, "--out", "p.parquet")
        predicted = polars.read_parquet("p.parquet")
        assert predicted.columns == ["prediction", "probability cheap", "probability dear"]
        assert (predicted["prediction"].to_numpy() == table["kind"].to_numpy()).mean() > 0.9
    assert found[0]["test"] == found[1]["test"]


def same_in_python(out):
    """Whether the lines of Python that a training printed write the same file."""
    made = Path("model.safetensors").read_bytes()
    Path("model.safetensors").unlink()
    lines = out.partition("The same in Python:")[2]
    subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True)
    return Path("model.safetensors").read_bytes() == made


def test_the_lines_of_python_do_the_same(run):
    for target in ("price", "kind"):
        out, _ = run(*TRAIN, "--target", target, "--out", "model.safetensors")
        assert ").drop_nulls(" in out
        assert same_in_python(out)


def test_a_report_in_a_browser(run, tmp_path):
    for target in ("price", "kind"):
        run(*TRAIN, "--target", target, "--report", f"{target}.html")
        text = Path(f"{target}.html").read_text(encoding="utf-8")
        assert text.count("<img") == 3
        assert not re.search(r'(src|href)="(?!data:)', text)  # nothing from elsewhere
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            pytest.skip("no Chromium to look at the page with")
        shot = tmp_path / f"{target}.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1600", f"--screenshot={shot}"]
        subprocess.run([browser, *options, Path(f"{target}.html").absolute().as_uri()], check=True, capture_output=True)
        image = pytest.importorskip("PIL.Image", reason="comes with matplotlib").open(shot).convert("RGB")
        colours = image.getcolors(image.width * image.height)
        assert len(colours) > 100
        inked = 1 - max(count for count, _ in colours) / (image.width * image.height)
        assert inked > 0.05, "the page is nearly blank"


def test_bad_input_is_one_line(run):
    Path("empty.csv").write_text("a,b\n")
    Path("broken.parquet").write_bytes(b"no parquet")
    Path("few.csv").write_text("a,b\n1,2\n3,4\n")
    fg.UnivariateRegression(rng=0).save("net.safetensors")
    run(*TRAIN, "--target", "price", "--out", "model.safetensors")
    cars(5).drop("weight").write_csv("other.csv")
    cars(5).with_columns(weight=polars.lit("heavy")).write_csv("text.csv")
    for arguments, says in (
        (["train", "none.csv", "--target", "a"], "none.csv: no such file"),
        (["train", "cars.txt", "--target", "a"], "cars.txt: expected a name that ends in .csv, .csv.gz, .parquet"),
        (["train", "cars.csv", "--target", "prise"], "cars.csv: no column 'prise'; it has weight, colour, doors"),
        (["train", "empty.csv", "--target", "a"], "empty.csv: it has no rows"),
        (["train", "few.csv", "--target", "a"], "expected at least 10 rows with a a, got 2"),
        (["train", "broken.parquet", "--target", "a"], "broken.parquet: not a table that polars can read"),
        (["train", "cars.csv", "--target", "kind", "--task", "numbers"], "'kind' is not a column of numbers"),
        (["train", "cars.csv", "--target", "price", "--out", "no/m.safetensors"], "no/m.safetensors: no folder"),
        (["train", "cars.csv", "--target", "price", "--report", "no/r.html"], "no/r.html: no folder"),
        (["predict", "none.safetensors", "cars.csv"], "none.safetensors"),
        (["predict", "cars.csv", "model.safetensors"], "cars.csv: expected a model that `fusegrad train` saved"),
        (["predict", "net.safetensors", "cars.csv"], "net.safetensors: no estimator of fusegrad.sklearn saved it"),
        (["predict", "model.safetensors", "other.csv"], "other.csv: no column 'weight'"),
        (["predict", "model.safetensors", "text.csv"], "text.csv: X: expected numbers in column 'weight'"),
        (["predict", "model.safetensors", "cars.csv", "--out", "p.txt"], "p.txt: expected a name that ends in"),
    ):
        out, error = run(*arguments, code=1)
        assert out == ""
        assert error.startswith("fusegrad: "), error
        assert error.count("\n") == 1, error
        assert says in error, error


def test_wrong_usage(run):
    for arguments in ([], ["train", "cars.csv"], ["train", "cars.csv", "--target", "price", "--network", "0"],
                      ["train", "cars.csv", "--target", "price", "--test", "1.5"], ["fly"]):  # fmt: skip
        _, error = run(*arguments, code=2)
        assert error.startswith("usage: fusegrad")
    for verb in ("train", "predict"):
        out, _ = run(verb, "--help")
        assert "examples:" in out


def test_ctrl_c_saves_the_best_epoch(run):
    cars(3000).write_csv("cars.csv")
    arguments = ["train", "cars.csv", "--target", "price", "--epochs", "100000", "--out", "model.safetensors"]
    master, slave = pty.openpty()  # a terminal, on which there is progress
    with subprocess.Popen([*COMMAND, *arguments], stderr=slave, stdout=subprocess.PIPE) as process:
        os.close(slave)
        seen = b""
        while b" s left " not in seen:
            seen += os.read(master, 4096)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out = process.stdout.read().decode()
        assert process.wait(60) == 130
    os.close(master)
    assert re.search(rb"epoch \d+/100000, loss [\d.e-]+, held out [\d.e-]+, \d+ s left", seen)
    assert "test: r2" in out
    run("predict", "model.safetensors", "cars.csv", "--out", "p.csv")
    table = polars.read_csv("p.csv")
    assert np.corrcoef(table["prediction"], cars(3000)["price"])[0, 1] > 0.9


def test_the_entry_point_and_the_other_verbs(run):
    command = shutil.which("fusegrad", path=os.path.dirname(sys.executable))
    assert command
    assert subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.startswith(
        "fusegr"
    )
    out, _ = run("info")
    assert "instruction set" in out or "x86_64" in out


def test_csv_as_people_write_it(run):
    """Missing values by name, other separators, dates, types that differ from file to file."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=200)
    rows = ["size;house;day;price"]
    for i, value in enumerate(size):
        house = "4A" if i % 50 == 3 else str(i % 4)
        rows.append(f"{'NA' if i % 20 == 7 else f'{value:.3f}'};{house};2024-01-{1 + i % 28:02d};{value + i % 4:.3f}")
    Path("houses.csv").write_text("\n".join(rows))
    _, notes = run("train", "houses.csv", "--target", "price", "--network", "32", "--out", "m.safetensors")
    assert "column 'day' is left out: dates" in notes
    Path("some.csv").write_text("size,house\n0.5,1\n0.5,3\n")  # here polars reads house as integers
    run("predict", "m.safetensors", "some.csv", "--out", "p.csv")
    low, high = polars.read_csv("p.csv")["prediction"]
    assert 1.2 < high - low < 2.8
    for cell, says in (("abc", "the first that is not is 'abc'"),):
        Path("houses.csv").write_text("\n".join(rows).replace("NA", cell))
        _, notes = run("train", "houses.csv", "--target", "price", "--network", "8", "--epochs", "2", "--quiet")
        assert notes == ""
        _, notes = run("train", "houses.csv", "--target", "price", "--network", "8", "--epochs", "2")
        assert says in notes


def test_decimal_commas(run):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f};{b:.3f};{a + 2 * b:.3f}" for a, b in rng.normal(size=(200, 2))]
    for name, decimal in (("points", "."), ("commas", ",")):
        Path(f"{name}.csv").write_text("a;b;y\n" + "\n".join(rows).replace(".", decimal))
        run("train", f"{name}.csv", "--target", "y", "--network", "8", "--epochs", "2", "--out", f"{name}.safetensors")
        run("predict", f"{name}.safetensors", f"{name}.csv", "--out", f"{name}.p.csv")
    assert Path("commas.p.csv").read_text() == Path("points.p.csv").read_text()
    # With commas between the columns, they may as well separate thousands.
    Path("quoted.csv").write_text("a,y\n" + "".join(f'"0,{i}",{i}\n' for i in range(200)))
    _, error = run("train", "quoted.csv", "--target", "y", code=1)
    assert "no column is left to learn from; 'a': 200 different texts, such as '0,0'" in error


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("before", ["", "\n", "\ufeff"])
def test_two_columns_of_one_name(run, separator, before):
    rows = [before + separator.join(["size", '"size"', "price"]), *[separator.join("123")] * 9]
    Path("t.csv").write_text("\n".join(rows))
    _, error = run("train", "t.csv", "--target", "price", code=1)
    assert error == "fusegrad: t.csv: 2 columns are named 'size': rename or remove all but one\n"


def test_two_columns_of_a_name_that_is_not_needed(run):
    run(*TRAIN, "--target", "price", "--out", "m.safetensors")
    cars(12).with_columns(more=1, again=2).write_csv("new.csv")
    header, rows = Path("new.csv").read_text().split("\n", 1)
    Path("new.csv").write_text(f"{header.replace('again', 'more')}\n{rows}")
    out, _ = run("predict", "m.safetensors", "new.csv")
    assert len(out.splitlines()) == 13
    Path("new.csv").write_text(f"{header.replace('again', '').replace('more', '')}\n{rows}")  # as spreadsheets write
    run("train", "new.csv", "--target", "price", "--network", "4", "--epochs", "1")


@pytest.mark.parametrize("text", ["a,b,price\r1,2,3\r", "x" * 200_000, "\n\n", ""])
def test_files_that_are_no_tables(run, text):
    Path("t.csv").write_text(text, newline="")
    _, error = run("train", "t.csv", "--target", "price", code=1)
    assert error.startswith("fusegrad: t.csv: ")
    assert error.count("\n") == 1


def test_targets_that_are_none(run):
    base = cars().drop("kind")
    for column, says in (
        (polars.Series(["1.5", "abc"] + ["2.5"] * 298), "has numbers, but also 'abc'"),
        (polars.Series([f'"{i}"' for i in range(300)]), "has 300 different values, too many for classes"),
        (polars.Series([f"a{i}" for i in range(300)]), "has 300 different values, too many for classes"),
        (polars.Series([5.0] * 300), "in all rows: there is nothing to learn"),
        (polars.Series([5.0, np.inf] * 150), "has an infinity"),
    ):
        base.with_columns(t=column).write_csv("t.csv")
        _, error = run("train", "t.csv", "--target", "t", code=1)
        assert says in error
    _, error = run("train", "cars.csv", "--target", "price", "--task", "classes", code=1)
    assert "too many for classes: --task numbers" in error


def test_outputs_do_not_replace_inputs(run):
    before = Path("cars.csv").read_bytes()
    for arguments, says in (
        (["--out", "cars.csv"], "cars.csv: expected a name that ends in .safetensors"),
        (["--report", "cars.csv"], "cars.csv: expected a name that ends in .html"),
    ):
        _, error = run(*TRAIN, "--target", "price", *arguments, code=1)
        assert says in error
    run(*TRAIN, "--target", "price", "--out", "m.safetensors")
    _, error = run("predict", "m.safetensors", "cars.csv", "--out", "cars.csv", code=1)
    assert "expected another file than cars.csv" in error
    assert Path("cars.csv").read_bytes() == before
    Path("cars[1].csv").write_bytes(before)
    Path("folder.csv").mkdir()
    out, _ = run("train", "cars[1].csv", "--target", "price", "--network", "4", "--epochs", "2", "--json")
    assert json.loads(out)["rows"] == 300
    _, error = run("train", "folder.csv", "--target", "price", code=1)
    assert "folder.csv: not a file" in error


def test_json_is_json(run):
    cars(10).write_csv("ten.csv")
    out, _ = run("train", "ten.csv", "--target", "price", "--test", "0.05", "--network", "4", "--epochs", "2", "--json")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert "r2" not in found["test"]
    assert found["left out"] == []
    out, _ = run(
        "train", "cars.csv", "--target", "price", "--ignore", "doors", "--network", "4", "--epochs", "2", "--json"
    )
    assert "column 'doors' is left out: --ignore" in json.loads(out)["left out"]


def test_names_that_matplotlib_would_set_as_mathematics(run):
    table = cars().rename({"weight": r"$\frac$", "colour": "a$b$"}).with_columns(kind=polars.lit("$x"))
    table = table.with_columns(kind=polars.when(polars.col("price") > 0.5).then(polars.lit(r"$\y$")).otherwise("kind"))
    table.write_csv("t.csv")
    run("train", "t.csv", "--target", "kind", "--network", "4", "--epochs", "2", "--report", "r.html")


SHORT = ["--network", "4", "--epochs", "2"]


@pytest.mark.parametrize("cells", [("01", "02", "A1"), ("1.50", "2.50", "A1"), ("2024-01-01", "2024-01-02", "never"),
                                   ("true", "False"), ("True", "maybe")])  # fmt: skip
def test_a_prediction_does_not_depend_on_other_rows(run, cells):
    rows = [f"{cells[i % len(cells)]},{i % 7},{10 * (i % len(cells))}.5" for i in range(100)]
    Path("t.csv").write_text("\n".join(["code,n,y", *rows]))
    run("train", "t.csv", "--target", "y", "--network", "8", "--epochs", "20", "--out", "m.safetensors")
    found = []
    for chosen in (cells, *([cell] for cell in cells)):
        Path("new.csv").write_text("\n".join(["n,code", *(f"1,{cell}" for cell in chosen)]))
        found.append(run("predict", "m.safetensors", "new.csv")[0].split()[1:])
    assert found[0] == [line for lines in found[1:] for line in lines]
    assert len(set(found[0])) == len(cells)


def test_categories_in_other_notations(run):
    """Of a CSV file: 1.0 for 1, as pandas writes numbers beside missing ones, and 0 and 1 for false and true."""
    cars().with_columns(doors=polars.col("doors").cast(polars.String)).write_parquet("t.parquet")
    run("train", "t.parquet", "--target", "price", *SHORT, "--out", "m.safetensors")
    new = cars(20, seed=1)
    new.write_csv("new.csv")
    new.with_columns(polars.col("doors").cast(polars.Float64), polars.col("new").cast(int)).write_csv("other.csv")
    assert run("predict", "m.safetensors", "other.csv") == run("predict", "m.safetensors", "new.csv")


@pytest.mark.parametrize("kind", ["Int128", "Decimal"])
@pytest.mark.parametrize("target", ["t", "wide", "^wide$"])
def test_numbers_that_numpy_does_not_have(run, kind, target):
    numbers = [2**70 * (1 + i * i % 19) if kind == "Int128" else Decimal(i * i % 19) / 8 for i in range(60)]
    name = "wide" if target == "t" else target
    table = polars.DataFrame({name: numbers, "a": range(60), "b": [i / 2 for i in range(60)]})
    file = "t.csv" if kind == "Int128" else "t.parquet"
    (table.write_csv if kind == "Int128" else table.write_parquet)(file)
    out, _ = run("train", file, "--target", "b" if target == "t" else target, *SHORT, "--out", "model.safetensors")
    assert ".cast(pl.Float64)" in out
    assert same_in_python(out)
    assert len(run("predict", "model.safetensors", file)[0].split()) == 61


@pytest.mark.parametrize("target", ["*", "^a.*$", "^c$", "ab"])
def test_names_that_polars_would_take_for_patterns(run, target):
    rows = [f"{'xyz'[i % 3]},{i * i % 7}.5,{i % 3}.5,{'uvw'[i % 2]}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["*,^a.*$,ab,^c$", *rows]))
    out, _ = run("train", "t.csv", "--target", target, *SHORT, "--out", "model.safetensors", "--report", "r.html")
    assert same_in_python(out)
    assert len(run("predict", "model.safetensors", "t.csv")[0].splitlines()) == 61
    ignored = "^a.*$" if target != "^a.*$" else "*"
    out, _ = run("train", "t.csv", "--target", target, *SHORT, "--ignore", ignored, "--json")
    assert json.loads(out)["columns"] == [name for name in ("*", "^a.*$", "ab", "^c$") if name not in (target, ignored)]


def test_a_full_disk_leaves_the_old_file(run):
    run(*TRAIN, "--target", "price", "--out", "m.safetensors")
    for arguments in (
        ["predict", "m.safetensors", "cars.csv", "--out", "p.csv"],
        ["predict", "m.safetensors", "cars.csv", "--out", "p.parquet"],
        ["train", "cars.csv", "--target", "price", *SHORT, "--report", "r.html", "--quiet"],
    ):
        path = Path(arguments[-1] if "predict" in arguments else "r.html")
        path.write_text("old")
        # A limit on the size of files stands for the end of the disk.
        limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1; exec "$@"', "bash", *COMMAND, *arguments]
        found = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (1, f"fusegrad: {path}: File too large\n")
        assert path.read_text() == "old"
    os.mkfifo("fifo.csv")
    with subprocess.Popen(["cat", "fifo.csv"], stdout=subprocess.PIPE, text=True) as reader:
        run("predict", "m.safetensors", "cars.csv", "--out", "fifo.csv")
        assert reader.stdout.read() == run("predict", "m.safetensors", "cars.csv")[0]


def test_outputs_that_cannot_be_written_are_found_before_the_training(run, monkeypatch):
    Path("loop.html").symlink_to("loop.html")
    os.mkfifo("fifo.safetensors")
    forever = ["train", "cars.csv", "--target", "price", "--epochs", "100000000"]
    long = "m" * 300
    for option, path, says in (
        ("--out", f"{long}.safetensors", "File name too long"),
        ("--report", f"{long}/r.html", "File name too long"),
        ("--report", "loop.html", "Too many levels of symbolic links"),
        ("--out", "fifo.safetensors", "not a file"),
    ):
        _, error = run(*forever, option, path, code=1)
        assert error == f"fusegrad: {path}: {says}\n"
    _, error = run("train", f"{long}.csv", "--target", "price", code=1)
    assert f"{long}.csv" in error
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    _, error = run(*forever, "--out", "m.safetensors", code=1)
    assert error == f"fusegrad: m.safetensors: no permission to write to {Path.cwd()}\n"


def test_a_panic_of_polars_is_an_error(run, monkeypatch):
    def panics(*_, **__):
        raise polars.exceptions.PanicException("out of range\nstack")

    Path("t.parquet").touch()
    monkeypatch.setattr(polars, "read_parquet", panics)
    _, error = run("train", "t.parquet", "--target", "price", code=1)
    assert error == "fusegrad: t.parquet: not a table that polars can read: out of range\n"


def test_categories_too_large_for_a_file(run):
    cars().with_columns(long=polars.Series([f"{i % 50}{'x' * 30_000}" for i in range(300)])).write_csv("t.csv")
    _, error = run("train", "t.csv", "--target", "price", "--epochs", "1", "--out", "m.safetensors", code=1)
    assert "names and categories of the columns take more room than a file has: --ignore some" in error


@pytest.mark.parametrize("name", ["main", "_parser"])
def test_ctrl_c_at_the_start(monkeypatch, name):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"fusegrad.cli.main.{name}", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 130
