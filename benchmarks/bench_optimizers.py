"""The update rules beside the NumPy reference."""

import numpy as np
import pytest

import fusegrad as fg

RULES = {
    "sgd": (lambda: fg.SGD(1e-3), lambda w, g, s: (fg.reference.sgd(w, g, 1e-3), *s)),
    "momentum": (
        lambda: fg.SGD(1e-3, momentum=0.9),
        lambda w, g, s: (*fg.reference.momentum(w, g, s[0], 1e-3, 0.9), s[1]),
    ),
    "adam": (
        lambda: fg.Adam(1e-3, bias_correction=False),
        lambda w, g, s: fg.reference.adam(w, g, *s, 1, 1e-3, (0.9, 0.999), 1e-8, bias_correction=False),
    ),
}


@pytest.mark.parametrize("n", [751, 10**5])
@pytest.mark.parametrize("rule", RULES)
def bench_step(rule, n, dtype, data, compare, system):
    make, equations = RULES[rule]
    optimizer = make()
    g = data(n, dtype)
    w = data(n, dtype)
    ours, theirs = w.copy(), [w.copy(), np.zeros_like(w), np.zeros_like(w)]

    def step():
        optimizer.step(ours, g)
        return ours

    def reference():
        theirs[:] = equations(theirs[0], g, theirs[1:])
        return theirs[0]

    compare(f"{rule} {n} {dtype}", system, step, reference, 1e-4 if dtype == "float32" else 1e-12)
