"""The lessons run: every assertion about a number of their text holds, each draws, and no cell is long."""

import re
import runpy
import warnings
from pathlib import Path

import pytest

pyplot = pytest.importorskip("matplotlib.pyplot", reason="the plots extra")
pytestmark = pytest.mark.once
LESSONS = sorted((Path(__file__).parents[1] / "docs" / "lessons").glob("*.py"))


def cells(text):
    """The lines of code of each cell; text and blank lines are not counted."""
    after_docstring = text.split('"""', 2)[2]
    for cell in re.split(r"^# %%.*$", after_docstring, flags=re.MULTILINE):
        yield [line for line in cell.splitlines() if line.strip() and not line.startswith("#")]


def test_there_are_eight_and_the_exercises():
    assert [path.name[:6] for path in LESSONS] == ["exerci", *(f"plot_{i}" for i in range(1, 9))]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(path))
    assert capsys.readouterr().out
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    assert bool(figures) == path.stem.startswith("plot_")
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes
    pyplot.close("all")
    assert not list(tmp_path.iterdir())
    assert max(len(lines) for lines in cells(path.read_text(encoding="utf-8"))) <= 25
