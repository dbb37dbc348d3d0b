"""Results repeat to the bit: on any number of threads, in another process, anywhere in a batch."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from support import FIVE_LAYERS, INTERLEAVED_BLOCK, LANES, SUM_BLOCK, examples, in_a_new_process, perturbed, tried

import fusegrad as fg

N_THREADS = (1, 2, 3, 4, 7, 8)
NETWORKS = {
    "univariate": (fg.Linear(1, 1),),
    "multivariate": (fg.Linear(13, 1),),
    "two-layer linear": (fg.Linear(8, 32), fg.Linear(32, 1)),
    "two-layer sigmoid": (fg.Linear(8, 32), fg.Sigmoid(), fg.Linear(32, 1)),
    "five layers": FIVE_LAYERS,
    "scale and dropout": (
        fg.Scale(8), fg.Linear(8, 30), fg.SiLU(), fg.Dropout(0.2), fg.Scale(30), fg.Linear(30, 20), fg.ReLU(),
        fg.Dropout(0.1), fg.Linear(20, 2),
    ),
}  # fmt: skip
#: Sums of more than one block, over features and over outputs.
WIDE = {
    "one output": (fg.Linear(SUM_BLOCK + 1, 1),),
    "one output of many blocks": (fg.Linear(2 * INTERLEAVED_BLOCK + 7, 1), fg.Sigmoid()),
    "two outputs of many blocks": (fg.Linear(2 * INTERLEAVED_BLOCK + 9, 2),),
    "a few outputs": (fg.Linear(3 * SUM_BLOCK, 3), fg.Tanh(), fg.Linear(3, 1)),
    "wide throughout": (
        fg.Linear(1100, 70), fg.ReLU(), fg.Linear(70, 2 * SUM_BLOCK + 3), fg.Tanh(), fg.Linear(2 * SUM_BLOCK + 3, 530),
    ),
}  # fmt: skip


def trained(layers, dtype, m, batch_size, optimizer, n_threads, epochs=3, moments=True):
    net = perturbed(*layers, dtype=dtype)
    X, y = examples(net, m)
    history = net.fit(
        X, y, optimizer=optimizer(), epochs=epochs, batch_size=batch_size, rng=1, n_threads=n_threads, moments=moments
    )
    return net.parameters.tobytes(), np.array(history.loss).tobytes()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("m", "batch_size"), [(5, None), (300, 64), (20_000, None), (20_000, 9_000), (70_001, None)])
def test_on_any_number_of_threads(name, m, batch_size, dtype):
    """Batches smaller than a panel, than a tile, than a block, and of many blocks."""
    optimizers = [lambda: fg.Adam(lr=1e-3), lambda: fg.SGD(lr=1e-3, momentum=0.9, nesterov=True)]
    if name == "scale and dropout":
        factors = {"W1": 0.5, "s": 6.0, "b": 0.1}
        optimizers = [lambda: fg.AdamW(lr=1e-3, weight_decay=0.1, clip_norm=1.0, learning_rate_factors=factors)]
    for optimizer in optimizers:
        expected = trained(NETWORKS[name], dtype, m, batch_size, optimizer, 1)
        for n_threads in N_THREADS[1:]:
            assert trained(NETWORKS[name], dtype, m, batch_size, optimizer, n_threads) == expected
            tried("fits with the same bits on 1 to 8 threads")


def test_threads_are_really_used():
    """Else the test above would compare one thread with one."""
    for name in ("two-layer sigmoid", "five layers"):
        plan = fg.Sequential(*NETWORKS[name], rng=0).plan(70_001, n_threads=8)
        assert plan.n_threads == 8


@pytest.mark.reliability
@pytest.mark.parametrize("batch_size", [3_000, None])
def test_beside_busy_processes(batch_size, dtype):
    """There threads lose, are given up and tried again, in the middle of an epoch and at its end."""
    of_a_fit = (fg.Linear(32, 64), fg.Sigmoid(), fg.Linear(64, 1)), dtype, 20_000, batch_size, fg.Adam
    expected = trained(*of_a_fit, 1, epochs=300)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for n_threads in (2, 4):
            assert trained(*of_a_fit, n_threads, epochs=300) == expected
            tried("fits with the same bits beside busy processes")
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("moments", [True, False])
def test_again_and_in_another_process(moments, dtype):
    here = digest(dtype, moments)
    assert digest(dtype, moments) == here
    assert in_a_new_process(f"from test_same_bits import digest; print(digest({dtype!r}, {moments!r}))") == here


def digest(dtype, moments):
    """Of everything that training all networks leaves."""
    found = hashlib.sha256()
    for layers in NETWORKS.values():
        for batch_size in (None, 100):
            for part in trained(layers, dtype, 3000, batch_size, fg.Adam, None, epochs=40, moments=moments):
                found.update(part)
    return found.hexdigest()


@pytest.mark.parametrize("name", WIDE)
def test_wide_layers_on_any_number_of_threads(name, dtype):
    for m, batch_size in ((5, None), (700, 300)):
        expected = trained(WIDE[name], dtype, m, batch_size, fg.Adam, 1)
        for n_threads in N_THREADS[1:]:
            assert trained(WIDE[name], dtype, m, batch_size, fg.Adam, n_threads) == expected


@pytest.mark.parametrize("name", [*NETWORKS, *WIDE])
def test_one_examples_prediction_anywhere_in_a_batch(name, dtype):
    net = perturbed(*{**NETWORKS, **WIDE}[name], dtype=dtype)
    X, _ = examples(net, 1)
    x = X.astype(dtype)
    alone = net(x)[:, 0]
    rng = np.random.default_rng(0)
    sizes = [*range(1, 3 * LANES[dtype] + 2), 100, 255, 256, 257, 1000]
    if name in NETWORKS:
        sizes += [4097, 30_000]
    for m in sizes:
        batch = rng.normal(size=(net.n_features, m)).astype(dtype)
        places = {0, m - 1, m // 2, *rng.integers(m, size=3).tolist()}
        for place in places:
            batch[:, place] = x[:, 0]
        for laid_out in (batch, np.asfortranarray(batch), np.repeat(batch, 2, axis=1)[:, ::2]):
            predictions = net(laid_out)
            for place in places:
                np.testing.assert_array_equal(predictions[:, place], alone)
                tried("places in a batch with the same prediction")
