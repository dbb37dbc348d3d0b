"""Random networks, losses, sizes, optimizers, threads, forks, saves, against the NumPy reference, for so many minutes.

    python tests/reliability/soak.py [minutes] [seed]

Each round draws everything from one seed. A round that fails prints it; with that seed as the second argument it
is the first round of a new run.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import fusegrad as fg

Array = Any
ACTIVATIONS = (
    fg.Sigmoid, fg.ReLU, fg.Tanh, fg.Identity, fg.LeakyReLU, fg.ELU, fg.SELU, fg.Softplus, fg.SiLU, fg.Mish, fg.GELU,
    lambda: fg.GELU("tanh"),
)  # fmt: skip
CORNERS = (fg.ReLU, fg.LeakyReLU, fg.SELU, fg.losses.Quantile, fg.losses.MulticlassHinge)  # their derivatives jump


def draw_network(rng: np.random.Generator) -> tuple[Any, ...]:
    """One to five layers, with or without activations and biases."""
    widths = [int(w) for w in rng.choice([1, 2, 3, 7, 8, 13, 16, 17, 31, 32, 33, 64, 100, 257], rng.integers(2, 7))]
    layers: list[Any] = []
    for n_in, n_out in pairwise(widths):
        if rng.random() < 0.1:
            layers.append(fg.Scale(n_in))
        layers.append(fg.Linear(n_in, n_out, bias=bool(rng.random() < 0.9)))
        if rng.random() < 0.8:
            layers.append(rng.choice(ACTIVATIONS)())
        if rng.random() < 0.1:
            layers.append(fg.Dropout(0.2))
    return tuple(layers)


def draw_optimizer(rng: np.random.Generator) -> fg.Optimizer:
    """Any rule, with a small rate: the reference follows it for some steps without chaos."""
    lr = float(10 ** rng.uniform(-5, -3))
    way = rng.integers(8)
    common: Any = {"clip_norm": (None, 0.1)[rng.integers(2)]}
    if rng.random() < 0.3:
        common["learning_rate_factors"] = {"W": 0.5, "b": 2.0, "s": 3.0, "W1": 0.0}
    if way < 3:
        return fg.SGD(lr, momentum=(0.0, 0.9, 0.9)[way], nesterov=way == 2, **common)
    if way == 3:
        return fg.Adagrad(lr, eps=1e-3, **common)
    if way == 4:
        return fg.RMSprop(lr, decay=0.9, eps=1e-3, **common)
    if way == 5:
        return fg.AdamW(lr, eps=1e-3, weight_decay=0.5, **common)
    return fg.Adam(lr, eps=1e-3, bias_correction=way == 6, **common)


def draw_loss(rng: np.random.Generator, layers: tuple[Any, ...]) -> Any:
    """Any loss that these layers can have."""
    last = [layer for layer in layers if not isinstance(layer, fg.Dropout)][-1]
    logits = isinstance(last, (fg.Linear, fg.Identity))
    n_outputs = next(layer.out_features for layer in reversed(layers) if isinstance(layer, fg.Linear))
    losses = [fg.losses.MeanSquaredError(), fg.losses.Huber(0.5), fg.losses.Quantile(0.3)]
    losses += [fg.losses.Poisson(full=True), fg.losses.BinaryCrossEntropy()] * logits
    losses += [fg.losses.SoftmaxCrossEntropy(0.1), fg.losses.MulticlassHinge()] * (logits and n_outputs > 1)
    return losses[int(rng.integers(len(losses)))]


def draw_targets(rng: np.random.Generator, net: fg.Sequential, m: int) -> Array:
    """What the loss of a network takes."""
    shape = net.n_outputs, m
    match net.loss_function.targets:
        case "classes" | "probabilities":
            return rng.integers(0, net.n_outputs, m)
        case "counts":
            return rng.poisson(2.0, shape).astype(net.dtype)
        case "fractions":
            return rng.integers(0, 2, shape).astype(net.dtype)
    return rng.normal(size=shape).astype(net.dtype)


class Reference:
    """The rule of an optimizer in float64, from the equations."""

    def __init__(self, optimizer: fg.Optimizer, net: fg.Sequential) -> None:
        self.o, self.w, self.t = optimizer, net.parameters.astype("f8"), 0
        self.first, self.second = np.zeros_like(self.w), np.zeros_like(self.w)
        self.lr, self.decay = np.full_like(self.w, optimizer.lr), np.zeros_like(self.w)
        factors = optimizer.learning_rate_factors or {}
        for name, rates in net.unflatten(self.lr).items():
            rates *= factors.get(name, factors.get(name[0], 1.0))
        for name, decay in net.unflatten(self.decay).items():
            decay[:] = getattr(optimizer, "weight_decay", 0.0) * (name[0] == "W")

    def step(self, gradient_at: Any) -> float:
        """Update w; gradient_at(w) -> (loss, gradient)."""
        o: Any = self.o
        nesterov = isinstance(o, fg.SGD) and o.nesterov
        loss, g = gradient_at(self.w + o.momentum * self.first if nesterov else self.w)
        self.t += 1
        if o.clip_norm is not None:
            g = g * min(1.0, o.clip_norm / max(float(np.linalg.norm(g)), 1e-300))
        self.w = self.w * (1 - self.lr * self.decay)
        if isinstance(o, fg.SGD) and o.momentum:
            self.w, self.first = fg.reference.momentum(self.w, g, self.first, self.lr, o.momentum)
        elif isinstance(o, fg.SGD):
            self.w = fg.reference.sgd(self.w, g, self.lr)
        elif isinstance(o, fg.Adagrad):
            self.w, self.first = fg.reference.adagrad(self.w, g, self.first, self.lr, o.eps)
        elif isinstance(o, fg.RMSprop):
            self.w, self.first = fg.reference.rmsprop(self.w, g, self.first, self.lr, o.decay, o.eps)
        else:
            self.w, self.first, self.second = fg.reference.adam(
                self.w, g, self.first, self.second, self.t, self.lr, o.betas, o.eps, o.bias_correction
            )
        return float(loss)


def close(found: Array, expected: Array, dtype: Any, what: str) -> None:
    """Within the bound of the dtype, over the largest entry."""
    scale = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(np.asarray(found, "f8") - expected).max()) / scale
    assert error <= (2e-4 if dtype == np.float32 else 1e-10), f"{what}: {error:.3g} from the reference"


def one_round(seed: int, folder: Path) -> str:
    """Draws and compares; the text says what."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(rng.choice(["float32", "float64"]))
    layers = draw_network(rng)
    m = int(rng.choice([1, 2, 31, 32, 33, 100, 255, 256, 257, 1000, 3000, 20_000]))
    batch = None if rng.random() < 0.4 else int(rng.integers(max(1, m // 20), m + 1))
    epochs, n_threads = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    moments = bool(rng.random() < 0.5)
    shuffle = bool(rng.random() < 0.5)
    order_seed = int(rng.integers(2**31))
    loss, l2 = draw_loss(rng, layers), float(rng.choice([0.0, 0.0, 0.05]))
    say = f"{dtype}, {layers}, {loss}, l2={l2}, m={m}, batch={batch}, epochs={epochs}, threads={n_threads}"
    say += f", shuffle={shuffle}"

    def fresh() -> tuple[fg.Sequential, fg.Optimizer]:
        own = np.random.default_rng(seed + 1)
        net = fg.Sequential(*layers, loss=loss, l2=l2, dtype=dtype, rng=own)
        net.parameters[:] += own.normal(scale=0.1, size=net.n_parameters).astype(dtype)
        return net, draw_optimizer(np.random.default_rng(seed + 2))

    net, optimizer = fresh()
    X = rng.normal(size=(net.n_features, m)).astype(dtype)
    y = draw_targets(rng, net, m)
    weights = rng.uniform(0.1, 2, m).astype(dtype) if rng.random() < 0.3 else None
    if rng.random() < 0.5:
        X = np.asfortranarray(X)

    def fit(net: fg.Sequential, optimizer: Any, n: int | None, generator: Any = None, **more: Any) -> fg.History:
        generator = np.random.default_rng(order_seed) if generator is None else generator
        return net.fit(
            X, y, optimizer=optimizer, epochs=epochs, batch_size=batch, shuffle=shuffle, rng=generator, n_threads=n,
            moments=moments, on_divergence="stop", sample_weight=weights, **more,
        )  # fmt: skip

    def left(net: fg.Sequential, optimizer: Any, history: Any) -> tuple[Any, ...]:
        state = None if optimizer.state is None else optimizer.state.tobytes()
        return net.parameters.tobytes(), state, optimizer.n_steps, history

    # In float32 a sum may round to the other side of a corner, and its gradient jumps.
    smooth = dtype == np.float64 or not any(isinstance(part, CORNERS) for part in (*layers, loss))

    # The reference's prediction, loss and gradients before, and its parameters after.
    reference = fg.reference.layers_of(net, "float64")
    x8, y8 = X.astype("f8"), y if y.ndim == 1 else y.astype("f8")
    objective = fg.reference.objective_of(net, None if weights is None else weights.astype("f8"))
    close(net(X), fg.reference.forward(reference, x8), dtype, f"{say}: prediction")
    if smooth:
        exact = fg.reference.loss_and_gradient(reference, x8, y8, objective)[1]
        close(net.loss_and_gradient(X, y, sample_weight=weights)[1], exact, dtype, f"{say}: gradient")
        exact = fg.reference.input_gradient(reference, x8, y8, objective)
        close(net.input_gradient(X, y, sample_weight=weights), exact, dtype, f"{say}: input gradient")
    rule = draw_optimizer(np.random.default_rng(seed + 2))
    follower = Reference(rule, net)
    wide = fg.Sequential(*layers, dtype="float64", rng=0)

    def gradient_at(w: Array, part: slice) -> tuple[float, Array]:
        wide.parameters = w
        masks = fg.reference.masks_of(net, follower.t, x8[:, part].shape[1])
        own = objective if weights is None else objective._replace(sample_weight=weights[part].astype("f8"))
        wide_layers = fg.reference.layers_of(wide, "float64")
        return fg.reference.loss_and_gradient(wide_layers, x8[:, part], y8[..., part], own, masks)

    history = fit(net, optimizer, n_threads)
    if smooth and (not shuffle or batch is None or batch >= m):
        size = m if batch is None else min(batch, m)
        with np.errstate(all="ignore" if history.divergence else "warn"):
            losses = [
                follower.step(lambda w, part=slice(first, first + size): gradient_at(w, part))
                for _ in range(epochs)
                for first in range(0, m, size)
            ]
        if history.divergence:
            assert not max(losses) < 1e6 * losses[0], f"{say}, {optimizer}: {history.divergence}"
        else:
            close(net.parameters, follower.w, dtype, f"{say}, {optimizer}: parameters")
    whole = left(net, optimizer, history.loss)

    # On another number of threads, in a thread pool, in a fork, and stopped, saved and taken up again: the same bits.
    def again(n: int) -> tuple[Any, ...]:
        twin, own = fresh()
        return left(twin, own, fit(twin, own, n).loss)

    assert again(1 + n_threads % 8) == whole, f"{say}: other bits on another number of threads"
    with ThreadPoolExecutor(3) as pool:
        assert all(found == whole for found in pool.map(again, (1, 2, 3))), f"{say}: other bits in a thread pool"
    if rng.random() < 0.3:
        child = os.fork()
        if child == 0:
            os._exit(0 if again(2) == whole else 1)
        assert os.waitpid(child, 0)[1] == 0, f"{say}: other bits in a fork"
    if history.divergence:
        return say
    stop = int(rng.integers(1, epochs + 1))
    part, own, generator = *fresh(), np.random.default_rng(order_seed)
    first = fit(part, own, n_threads, generator, callbacks=[lambda net, history: history.epochs == stop])
    part.save(folder / "soak.safetensors", optimizer=own, rng=generator)
    loaded, own, generator = fg.load_checkpoint(folder / "soak.safetensors")
    rest = fit(loaded, own, 1, generator, initial_epoch=stop)
    assert left(loaded, own, first.loss + rest.loss) == whole, f"{say}: other bits after a save"
    place = int(rng.integers(m))
    assert net(X[:, place : place + 1]).tobytes() == np.ascontiguousarray(net(X)[:, place : place + 1]).tobytes(), say
    return say


def main() -> None:
    """Rounds until the time is over; any failure names its seed."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 2**31
    print(f"soak: {minutes:g} minutes from seed {seed}", flush=True)
    started = said = time.monotonic()
    rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - started < 60 * minutes:
            try:
                say = one_round(seed + rounds, Path(folder))
            except BaseException:
                print(f"failed: python {sys.argv[0]} 1 {seed + rounds}", flush=True)
                raise
            rounds += 1
            if time.monotonic() - said > 30:
                said = time.monotonic()
                print(f"{(said - started) / 60:5.1f} min, {rounds} rounds, the last: {say}", flush=True)
    print(f"soak: {rounds} rounds, no mismatch; seeds {seed} to {seed + rounds - 1}")


if __name__ == "__main__":
    main()
