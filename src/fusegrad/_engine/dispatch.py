"""The compiled modules, and the one place where the instruction set is chosen: here, at import.

``FUSEGRAD_MAX_ISA`` caps it. What is not there or cannot run is an error, never a slower way in silence.
"""

import os
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from fusegrad._engine.compiled import runtime

#: From the oldest to the newest; each runs all that the ones before it run.
INSTRUCTION_SETS = ("x86_64_v2", "x86_64_v3", "x86_64_v4")


def supported_isas() -> tuple[str, ...]:
    """The instruction sets that this processor runs, the best one last."""
    level = runtime.x86_64_level()
    if level == 0:
        return ("baseline",)
    return INSTRUCTION_SETS[: level - 1]


def choose_isa(cap: str | None) -> str:
    """The best instruction set that the processor runs and `cap` allows."""
    supported = supported_isas()
    if not supported:
        raise ImportError("fusegrad needs a processor of level x86-64-v2 (SSE4.2, POPCNT) or later")
    if not cap:
        return supported[-1]
    if cap not in supported:
        raise ImportError(f"FUSEGRAD_MAX_ISA: expected one of {', '.join(supported)} on this processor, got {cap!r}")
    return cap


ISA = choose_isa(os.environ.get("FUSEGRAD_MAX_ISA"))

#: The compiled module of each dtype; their common face is cython_kernels/kernels.pyi.
by_dtype: MappingProxyType[np.dtype[Any], Any] = MappingProxyType(
    {np.dtype(name): import_module(f"fusegrad._engine.compiled.{ISA}_{name}") for name in ("float32", "float64")}
)

# libgomp hangs in a child that was forked after its parent had run a parallel region: the pool's
# locks are copied, its threads are not. Without a pool there is nothing to copy. In the child, what other
# threads held is free.
os.register_at_fork(before=runtime.release_threads)
for _module in by_dtype.values():
    os.register_at_fork(before=_module.before_fork, after_in_child=_module.after_fork_in_child)
