"""Fixtures: dtypes, a generator, threads. --lanes forces one of the two SIMD layouts on all tests."""

import numpy as np
import pytest
from support import FIGURES

import fusegrad as fg
from fusegrad._engine import plan
from fusegrad._engine.dispatch import ISA

MOST_FEW = 256  # examples with features in lanes, if these are forced: more are several blocks


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--lanes",
        choices=["features", "examples"],
        help="what is in the lanes of vectors, not as the plan would choose",
    )


def pytest_configure(config) -> None:
    lanes = config.getoption("--lanes")
    if lanes is not None:
        most = MOST_FEW if lanes == "features" else 0
        plan._few_examples_pay = lambda layers, batch, panel: batch <= most


def pytest_collection_modifyitems(config, items) -> None:
    if config.getoption("--lanes") is not None:
        for item in items:
            # The option does not reach the processes that tests start, and other layouts round gradients differently.
            if any(word in item.name for word in ("another_process", "new_process")):
                item.add_marker(pytest.mark.skip("another process chooses its own layout"))


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
