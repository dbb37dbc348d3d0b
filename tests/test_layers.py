import numpy as np
import pytest

import fusegrad as fg


def test_repr():
    assert repr(fg.Linear(13, 50)) == "Linear(13, 50)"
    assert repr(fg.Linear(13, 50, bias=False)) == "Linear(13, 50, bias=False)"
    assert [repr(layer()) for layer in (fg.Identity, fg.Sigmoid, fg.ReLU, fg.Tanh)] == [
        "Identity()", "Sigmoid()", "ReLU()", "Tanh()",
    ]  # fmt: skip


def test_what_networks_rely_on_cannot_be_assigned():
    layer = fg.Linear(2, 3)
    for name in ("in_features", "out_features", "bias"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 1)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-3, 1)])
def test_sizes_are_at_least_one(sizes):
    with pytest.raises(ValueError, match="features: expected at least 1, got"):
        fg.Linear(*sizes)


@pytest.mark.parametrize("size", [1.0, "2", None, True])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(TypeError, match="in_features: expected an integer, got"):
        fg.Linear(size, 1)


@pytest.mark.parametrize("bias", ["False", None, 2, np.ones(2)])
def test_bias_is_true_or_false(bias):
    with pytest.raises(TypeError, match=r"^bias: expected True or False"):
        fg.Linear(1, 2, bias=bias)
