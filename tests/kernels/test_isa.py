"""The choice of the instruction set, and what importing does to the process."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fusegrad._engine import dispatch


def run(code, **environment):
    # The parent's cap must not hide the processor's own choice.
    inherited = {name: value for name, value in os.environ.items() if name != "FUSEGRAD_MAX_ISA"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**inherited, **environment}, check=False
    )


def test_the_best_is_chosen_and_the_cap_is_obeyed():
    supported = dispatch.supported_isas()
    show = "from fusegrad._engine.dispatch import ISA; print(ISA)"
    assert run(show).stdout.strip() == supported[-1]
    for isa in supported:
        if isa != "baseline":
            assert run(show, FUSEGRAD_MAX_ISA=isa).stdout.strip() == isa


@pytest.mark.parametrize("cap", ["x86_64_v9", "avx2", "v3"])
def test_an_unknown_cap_is_an_error(cap):
    result = run("import fusegrad", FUSEGRAD_MAX_ISA=cap)
    assert result.returncode != 0
    assert f"FUSEGRAD_MAX_ISA: expected one of {', '.join(dispatch.supported_isas())}" in result.stderr
    assert f"got '{cap}'" in result.stderr


def test_a_cap_that_the_processor_does_not_run_is_an_error(monkeypatch):
    monkeypatch.setattr(dispatch, "supported_isas", lambda: ("x86_64_v2", "x86_64_v3"))
    with pytest.raises(ImportError, match="expected one of x86_64_v2, x86_64_v3 on this processor, got 'x86_64_v4'"):
        dispatch.choose_isa("x86_64_v4")
    monkeypatch.setattr(dispatch, "supported_isas", tuple)
    with pytest.raises(ImportError, match="needs a processor of level x86-64-v2"):
        dispatch.choose_isa(None)


def test_the_test_run_is_of_the_cap_that_was_asked_for():
    cap = os.environ.get("FUSEGRAD_MAX_ISA")
    assert cap in (None, "", dispatch.ISA)


def test_both_dtypes_come_from_one_source():
    lanes = [module.lanes for module in dispatch.by_dtype.values()]
    assert lanes[0] == 2 * lanes[1]
    assert all(module.panel % module.lanes == 0 for module in dispatch.by_dtype.values())
    assert set(dispatch.by_dtype) == {np.dtype("float32"), np.dtype("float64")}


def test_importing_changes_nothing_in_the_process():
    code = """
import os, signal, numpy as np
np.random.seed(1)
state = np.random.get_state()[1].copy(), np.geterr(), dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT)
import fusegrad as fg
fg.TwoLayerSigmoid(8, 32, rng=0).train_step(np.ones((8, 5000)), np.ones(5000), fg.Adam())
assert (np.random.get_state()[1] == state[0]).all()
assert (np.geterr(), dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT)) == state[1:]
for dtype in ("f4", "f8"):
    tiny = np.finfo(dtype).smallest_subnormal
    assert tiny > 0 and tiny / 1 == tiny, "subnormals are flushed to zero"
    assert np.array([np.finfo(dtype).tiny], dtype)[0] / 2 > 0
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
