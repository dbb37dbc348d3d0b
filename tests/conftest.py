"""Fixtures: dtypes, a generator, threads."""

import numpy as np
import pytest
from support import FIGURES

import fusegrad as fg
from fusegrad._engine.dispatch import ISA


def pytest_report_header() -> str:
    return f"fusegrad {fg.__version__}, {ISA}, {fg.get_num_threads()} threads, from {fg.__file__}"


def pytest_terminal_summary(terminalreporter) -> None:
    for what, (value, promised) in sorted(FIGURES.items()):
        figure = f"{value:.3g}" if value % 1 else f"{value:.0f}"
        terminalreporter.write_line(f"{ISA}  {what}: {figure} ({promised})")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    yield fg.set_num_threads
    fg.set_num_threads(None)
