"""``fusegrad bench``: one training step against the NumPy reference, in the same run."""

import numpy as np

import fusegrad as fg
from fusegrad.demo import step_times

SIZES = ((1, 1, 32), (8, 16, 32), (13, 50, 32), (13, 50, 128), (16, 64, 256), (64, 128, 128), (8, 32, 100_000))


def main() -> None:
    """Print a table of ratios for the two-layer sigmoid network."""
    fg.show_config()
    print("\nOne full-batch step (loss, gradients, update) of the two-layer sigmoid network, best of rounds in turn.\n")
    print(f"{'features, hidden, examples':<28}{'dtype':<10}{'fusegrad':>12}{'NumPy':>12}{'ratio':>9}")
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for n, k, m in SIZES:
            X, y = rng.normal(size=(n, m)).astype(dtype), rng.normal(size=(1, m)).astype(dtype)
            ours, theirs = step_times(fg.TwoLayerSigmoid(n, k, dtype=dtype, rng=0), X, y, 3 if m > 1000 else 15)
            print(
                f"{f'{n}, {k}, {m}':<28}{dtype:<10}{ours * 1e6:>9.1f} µs{theirs * 1e6:>9.1f} µs{theirs / ours:>8.1f}x",
                flush=True,
            )
