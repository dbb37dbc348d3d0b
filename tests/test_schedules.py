"""Learning-rate schedules: their formulas, and that a fit uses them, compiled and from Python, with the same bits."""

import math

import numpy as np
import pytest

import fusegrad as fg

SCHEDULES = (
    fg.StepDecay(0.1, 3, 0.7),
    fg.ExponentialDecay(0.1, 0.05),
    fg.InverseTimeDecay(0.1, 0.05),
    fg.CosineDecay(0.1, 30, warmup=5, floor=0.01),
    fg.CosineLogDecay(0.1, 35),
)


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


def test_cosines():
    """With a warm-up, beyond the end, and with a period that doubles."""
    decay = fg.CosineDecay(0.5, 100, warmup=10, floor=0.1)
    expected = [0.5 * (t + 1) / 10 for t in range(10)]
    expected += [0.1 + 0.4 * (1 + math.cos(math.pi * min(1, (t - 10) / 90))) / 2 for t in range(10, 120)]
    np.testing.assert_allclose(decay.rates(0, 120), expected, rtol=1e-14)
    expected = [0.25 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * min(1, t / 100)))) for t in range(120)]
    np.testing.assert_allclose(fg.CosineLogDecay(0.5, 100).rates(0, 120), expected, atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("callbacks", [(), (lambda net, history: None,)])
def test_a_fit_has_the_bits_of_one_that_calls_python(schedule, callbacks, rng):
    """Also if batches without weight make no step, and if a fit is continued."""
    X, y, weights = rng.normal(size=(3, 40)), rng.normal(size=(1, 40)), np.ones(40)
    weights[10:20] = 0
    nets = []
    for used in (schedule, lambda step: schedule(step)):
        net, optimizer = fg.TwoLayerSigmoid(3, 8, dtype="float64", rng=0), fg.Adam()
        for epochs in (7, 3):
            net.fit(
                X, y, optimizer=optimizer, epochs=epochs, batch_size=10, shuffle=False, schedule=used,
                sample_weight=weights, callbacks=callbacks,
            )  # fmt: skip
        nets.append(net)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_a_subclass_is_called(rng):
    class Halved(fg.ExponentialDecay):
        def __call__(self, step):
            return super().__call__(step) / 2

    X, y = rng.normal(size=(1, 9)), rng.normal(size=(1, 9))
    nets = [fg.UnivariateRegression(dtype="float64", rng=0) for _ in range(2)]
    nets[0].fit(X, y, optimizer=fg.SGD(0.1), epochs=3, schedule=Halved(0.1, 0.1), moments=False)
    nets[1].fit(X, y, optimizer=fg.SGD(0.1), epochs=3, schedule=fg.ExponentialDecay(0.05, 0.1), moments=False)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_extreme_steps_and_sizes():
    assert fg.StepDecay(0.1, 2**63 - 1, 0.5)(2**40) == 0.1
    assert fg.StepDecay(0.1, 2**50, 0.5)(2**50 - 1) == 0.1
    assert fg.StepDecay(0.1, 2**50, 0.5)(2**50) == 0.05
    assert fg.CosineDecay(0.1, 10)(2**62) == 0.0
    for step in (-1, 10**30):
        with pytest.raises(ValueError, match="step: "):
            fg.CosineDecay(0.1, 10)(step)


class Counted(fg.SGD):
    """Overrides its step, and changes nothing."""

    def step(self, parameters, gradient):
        super().step(parameters, gradient)


@pytest.mark.parametrize("initial_epoch", [0, 3])
def test_an_overridden_step_is_given_the_rates_of_the_compiled_one(initial_epoch, rng):
    """After a resume, after batches without weight, and for a new optimizer; and lr is what it was."""
    X, y, weights = rng.normal(size=(3, 40)), rng.normal(size=(1, 40)), np.repeat([0.0, 1.0], 20)
    found = []
    for rule in (fg.SGD, Counted):
        net, optimizer = fg.TwoLayerSigmoid(3, 8, dtype="float64", rng=0), rule(0.1)
        options = {
            "batch_size": 10,
            "shuffle": False,
            "sample_weight": weights,
            "schedule": fg.ExponentialDecay(0.3, 0.2),
        }
        net.fit(X, y, optimizer=optimizer, epochs=4, initial_epoch=initial_epoch, **options)
        net.fit(X, y, optimizer=optimizer, epochs=6, initial_epoch=4, **options)
        assert optimizer.lr == 0.1
        found.append(net.parameters)
    assert np.array_equal(*found)


def test_rates_are_not_wrapped():
    with pytest.raises(ValueError, match="first: expected a step after which there are 3 more integers"):
        fg.InverseTimeDecay(0.5, 1.0).rates(2**63 - 1, 3)
    with pytest.raises(ValueError, match="steps: expected at least 128"):
        fg.CosineDecay(0.5, steps=np.int8(127), warmup=np.int8(127))
