"""The compiled modules. The instruction set is chosen only here, at import.

``FUSEGRAD_MAX_ISA`` limits the choice. If a module is missing or cannot run, this is an error: there is no silent
fallback to a slower one.
"""

import os
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from fusegrad._engine.compiled import runtime

#: From the oldest to the newest; each includes the previous ones.
INSTRUCTION_SETS = ("x86_64_v2", "x86_64_v3", "x86_64_v4")


def supported_isas() -> tuple[str, ...]:
    """The instruction sets that this processor supports, the best one last."""
    level = runtime.x86_64_level()
    if level == 0:
        return ("baseline",)
    return INSTRUCTION_SETS[: level - 1]


def choose_isa(cap: str | None) -> str:
    """The best instruction set that the processor supports and `cap` allows."""
    supported = supported_isas()
    if not supported:
        raise ImportError("fusegrad needs a processor of level x86-64-v2 (SSE4.2, POPCNT) or later")
    if not cap:
        return supported[-1]
    if cap not in supported:
        raise ImportError(f"FUSEGRAD_MAX_ISA: expected one of {', '.join(supported)} on this processor, got {cap!r}")
    return cap


ISA = choose_isa(os.environ.get("FUSEGRAD_MAX_ISA"))

#: The compiled module of each dtype; their common interface is cython_kernels/kernels.pyi.
by_dtype: MappingProxyType[np.dtype[Any], Any] = MappingProxyType(
    {np.dtype(name): import_module(f"fusegrad._engine.compiled.{ISA}_{name}") for name in ("float32", "float64")}
)

# If a process has run a parallel region, libgomp hangs in its forked children: the locks of the thread pool are
# copied, its threads are not. So the pool is released before a fork. In the child, locks that other threads held
# are free.
os.register_at_fork(before=runtime.release_threads)
for _module in by_dtype.values():
    os.register_at_fork(before=_module.before_fork, after_in_child=_module.after_fork_in_child)
