import numpy as np
import pytest

import fusegrad as fg


def test_the_formulas():
    steps = np.arange(100)
    np.testing.assert_allclose([fg.StepDecay(0.5, 7, 0.3)(t) for t in steps], 0.5 * 0.3 ** (steps // 7))
    np.testing.assert_allclose([fg.ExponentialDecay(0.5, 0.02)(t) for t in steps], 0.5 * np.exp(-0.02 * steps))
    np.testing.assert_allclose([fg.InverseTimeDecay(0.5, 0.02)(t) for t in steps], 0.5 / (1 + 0.02 * steps))


def test_one_that_grows_for_ever():
    assert fg.StepDecay(0.1, 1, 10.0)(400) == np.inf
    net = fg.UnivariateRegression(rng=0)
    with pytest.raises(ValueError, match=r"schedule\(309\): expected a finite number, at least 0, got inf"):
        net.fit([0.0], [0.0], optimizer=fg.SGD(0.1), epochs=1000, schedule=fg.StepDecay(1.0, 1, 10.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fg.StepDecay(0, 1, 0.5), ValueError, "lr: expected"),
        (lambda: fg.StepDecay(1, 0, 0.5), ValueError, "step_size: expected at least 1, got 0"),
        (lambda: fg.StepDecay(1, 1.5, 0.5), TypeError, "step_size: expected an integer, got 1.5"),
        (lambda: fg.StepDecay(1, 1, 0), ValueError, "factor: expected"),
        (lambda: fg.ExponentialDecay(1, -1), ValueError, "rate: expected a finite number, at least 0, got -1"),
        (lambda: fg.InverseTimeDecay("a", 1), TypeError, "lr: expected a number, got 'a'"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
