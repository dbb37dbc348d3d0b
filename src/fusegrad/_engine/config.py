"""The configuration of this installation."""

import platform

import numpy as np

from fusegrad._engine import dispatch, threads
from fusegrad._engine.compiled import runtime


def config() -> dict[str, str]:
    """The names and values that `show_config` prints."""
    from importlib.metadata import version

    isa = dispatch.ISA
    supported = dispatch.supported_isas()
    if isa != supported[-1]:
        isa += f" (capped by FUSEGRAD_MAX_ISA; the processor runs {supported[-1]})"
    n_threads, source = threads.default_threads()
    return {
        "fusegrad": version("fusegrad"),
        "instruction set": isa,
        "OpenMP": _openmp(),
        "threads": f"{n_threads} (from {source})",
        "compiler": runtime.COMPILER,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "NumPy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _openmp() -> str:
    if runtime.OPENMP == 0:
        return "none: built with FUSEGRAD_OPENMP=OFF, one thread"
    library = "runtime not found among the loaded libraries"
    from pathlib import Path  # where it is needed: a sixth of the import of fusegrad

    maps = Path("/proc/self/maps")
    if maps.exists():
        names = {
            Path(line.split()[-1]).name for line in maps.read_text().splitlines() if "omp" in line and ".so" in line
        }
        library = (
            ", ".join(sorted(name for name in names if name.startswith(("libgomp", "libomp", "libiomp")))) or library
        )
    return f"{runtime.OPENMP} ({library})"


def show_config() -> None:
    """Print what fusegrad runs on: instruction set, OpenMP runtime, threads, compiler, versions.

    Examples
    --------
    >>> import fusegrad as fg
    >>> fg.show_config()  # doctest: +ELLIPSIS
    fusegrad         ...
    """
    for name, value in config().items():
        print(f"{name:<16} {value}")
