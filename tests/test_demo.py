"""The command line, as a user calls it."""

import os
import re
import subprocess
import sys

import pytest

from fusegrad.cli.main import main
from fusegrad.lessons import LESSONS

pytestmark = pytest.mark.once


def demo(folder):
    result = subprocess.run(
        [sys.executable, "-m", "fusegrad", "demo", "--output", str(folder / "demo.png")],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    return result.stdout, result.stderr


def test_demo(tmp_path):
    out, bars = demo(tmp_path)
    picture = tmp_path / "demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in out
    assert bars.count("100%") >= 4  # a slow machine draws an end twice
    rows = re.findall(
        r"^(\S.*?)\s+(\d+\.\d+)\s+(\d+\.\d+)\s+(?:(\d+\.\d+) / (\d+\.\d+)|-)\s+(\S+)\s+\d+\.\d µs\s+\d+\.\dx$",
        out,
        re.M,
    )
    assert [row[0] for row in rows] == ["univariate (weight)", "multivariate", "two-layer linear", "two-layer sigmoid"]
    for name, train, test, best_train, best_test, error in rows:
        assert float(error) <= 1e-7, name
        if best_train:
            assert (train, test) == (best_train, best_test), name

    def without_times(text):
        return re.sub(r" +\d+\.\d µs +\d+\.\dx", "", text)  # and the room that they take

    assert without_times(demo(tmp_path)[0]) == without_times(out), "the same seed, the same table"


def test_without_docstrings():
    result = subprocess.run(
        [sys.executable, "-OO", "-m", "fusegrad", "info"], capture_output=True, text=True, check=True
    )
    assert "threads" in result.stdout


def test_info(capsys):
    main(["info"])
    out = capsys.readouterr().out
    for name in ("fusegrad", "instruction set", "OpenMP", "threads", "compiler", "Python", "NumPy"):
        assert re.search(rf"^{name} +\S", out, re.M)


@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("bench",), ("demo", "--quiet")])
@pytest.mark.parametrize("together", [False, True])
def test_a_reader_may_leave(arguments, together, tmp_path):
    """As `python -m fusegrad info | head -2` does: no traceback, on a pipe that takes nothing any more."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "fusegrad", *arguments],
        stdout=writer, stderr=writer if together else subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    os.close(writer)
    os.close(reader)
    assert not process.communicate()[1]
    # argparse ignores that it cannot write, which is so at once if Python's output is not buffered.
    assert process.returncode in ((0, 1) if arguments == ("--help",) else (1,))


def test_an_unknown_verb(capsys):
    with pytest.raises(SystemExit):
        main(["fly"])
    assert "invalid choice" in capsys.readouterr().err


def test_what_is_missing_is_said_first(capsys, monkeypatch, tmp_path):
    for arguments, message in (
        (["demo", "--output", str(tmp_path / "nowhere" / "x.png")], "no folder"),
        (["demo", "--output", str(tmp_path / "x.foo")], "expected a name that ends in .png"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
    monkeypatch.setattr("fusegrad.cli.main.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["demo"])
    assert 'needs matplotlib and tqdm: pip install "fusegrad[plots,progress]"' in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"fusegrad \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_picture_of_each_lesson(tmp_path, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the plots extra")
    for name, (title, _) in LESSONS.items():
        main(["demo", "--lesson", name, "--output", str(tmp_path / f"{name}.png")])
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert title in capsys.readouterr().out
    pyplot.close("all")
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "lessons: univariate, multivariate," in re.sub(r"\s+", " ", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["demo", "--lesson", "algebra"])
    assert "invalid choice: 'algebra'" in capsys.readouterr().err
