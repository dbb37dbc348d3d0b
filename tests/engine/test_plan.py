"""The plan: what it promises to the engine."""

import numpy as np
import pytest

import fusegrad as fg
from fusegrad import distributed
from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import (
    LAYER_TABLE,
    LEAST_BLOCK,
    MOST_BLOCKS,
    make_plan,
    parallel_from,
    stack_layers,
    worthwhile_threads,
)

NETS = [
    [(1, 1, "identity", True)],
    [(13, 50, "sigmoid", True), (50, 1, "identity", True)],
    [(784, 2048, "relu", False), (2048, 10, "identity", True)],
]


def test_the_losses_of_all_blocks_fit_a_message():
    assert distributed.TEXT - distributed.LOSSES >= MOST_BLOCKS


@pytest.mark.parametrize("shapes", NETS)
@pytest.mark.parametrize("m", [1, 31, 1000, 10**6])
def test_tiles_and_blocks(shapes, m, dtype):
    dtype = np.dtype(dtype)
    layers = stack_layers(shapes)
    plan = make_plan(layers, dtype, m, 8)
    panel = by_dtype[dtype].panel
    assert plan.tile % panel == 0
    assert plan.block % plan.tile == 0
    assert plan.block >= min(m, LEAST_BLOCK)
    assert -(-m // plan.block) <= MOST_BLOCKS
    assert 1 <= plan.n_threads <= min(8, -(-m // plan.block))
    widths = layers[0].n_in + sum(layer.n_out for layer in layers) + layers[-1].n_out
    assert plan.scratch >= plan.tile * widths


def test_threads_do_not_change_how_sums_are_cut():
    layers = stack_layers(NETS[1])
    plans = [make_plan(layers, np.dtype("float32"), 10**5, n) for n in (1, 2, 7)]
    assert len({(plan.tile, plan.block) for plan in plans}) == 1


def test_small_work_takes_one_thread():
    assert worthwhile_threads(1000, 64, 8) == 1
    assert worthwhile_threads(10**9, 64, 8) == 8
    assert worthwhile_threads(10**9, 3, 8) == 3
    assert fg.TwoLayerSigmoid(13, 50).plan(32, n_threads=8).n_threads == 1


@pytest.mark.parametrize("shapes", NETS)
def test_below_this_nobody_asks_how_many_threads_there_are(shapes, dtype):
    layers = stack_layers(shapes)
    m = parallel_from(layers)
    assert make_plan(layers, np.dtype(dtype), m - 1, 8).n_threads == 1
    assert make_plan(layers, np.dtype(dtype), 4 * m, 8).n_threads > 1


def test_nothing_of_a_plan_can_be_changed():
    """Engines are made of it, and what they read steers the kernels."""
    net = fg.TwoLayerLinear(8, 32, rng=0)
    plan = net.plan(1000)
    for table in (plan.layer_table, plan.member_table, plan.fold_table):
        assert {type(n) for row in table for n in row} == {int}
        with pytest.raises(TypeError):
            table[0][0] = 1 << 28
    with pytest.raises(AttributeError):
        plan.tile = 1 << 28
    with pytest.raises(AttributeError):
        object.__setattr__(plan, "tile", 1 << 28)


def test_a_plan_says_what_it_chose():
    text = str(fg.TwoLayerSigmoid(13, 50).plan(10_000, n_threads=1))
    assert "10000 examples a step" in text
    assert "dense 13 -> 50 sigmoid, gradient" in text
    assert "dense 50 -> 1 identity, gradient lane-wise" in text
    assert "a shuffled fit of 40330 to 10324440 examples copies X" in text


@pytest.mark.parametrize("n_in", [1, 2, 3, 8, 16, 64])
@pytest.mark.parametrize("m", [1, 4, 8, 16, 32, 48, 64, 96, 400])
def test_the_inputs_of_a_single_output_are_never_turned(n_in, m, dtype):
    """The engine reads them where they lie."""
    layers = stack_layers([(n_in, 1, "sigmoid", True), (1, 3, "tanh", True), (3, 1, "identity", True)])
    plan = make_plan(layers, np.dtype(dtype), m, 1)
    for layer, row in zip(layers, plan.layer_table, strict=True):
        assert not row[LAYER_TABLE.index("transposed")] or (layer.n_in > 1 and layer.n_out > 1)
