"""What is measured: the tasks, who does them, and the ratios that are wanted."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Training:
    """Steps of training a dense network: the same data and initial weights for everybody."""

    layers: tuple[tuple[int, int, str], ...]  # n_in, n_out, activation
    m: int
    action: str  # "step": a call from Python each; "fit": many in one call; "forward"; "online": both, for each example
    optimizer: str = "sgd"
    batch: int | None = None
    dtype: str = "float32"
    n_threads: int | None = 1
    pinned: bool = True  # to one core
    epochs: int | None = None  # of one fit; None: as many as fill a round
    moments: bool = True
    by_examples: bool = False  # the features of an example are contiguous in X
    loss: str = "squared error"  # or "softmax": cross-entropy of class numbers
    shuffled: bool = False  # a "fit" of batches: for systems that would otherwise leave it out

    def arrays(self) -> tuple[Any, Any, list[tuple[Any, Any]]]:
        """X (n, m), y (o, m) or class numbers (1, m), and (weight, bias) of each layer."""
        rng = np.random.default_rng(0)
        weights = []
        for n_in, n_out, _ in self.layers:
            bound = (6 / (n_in + n_out)) ** 0.5
            weights.append((rng.uniform(-bound, bound, (n_out, n_in)), rng.normal(scale=0.1, size=(n_out, 1))))
        X = rng.standard_normal((self.layers[0][0], self.m), np.float32)
        if self.by_examples:
            X = np.asfortranarray(X)
        n_outputs = self.layers[-1][1]
        if self.loss == "softmax":
            y = rng.integers(0, n_outputs, (1, self.m))
        else:
            y = rng.standard_normal((n_outputs, self.m), np.float32).astype(self.dtype)
        return (
            X.astype(self.dtype),  # keeps its order
            y,
            [(w.astype(self.dtype), b.astype(self.dtype)) for w, b in weights],
        )

    @property
    def steps_an_epoch(self) -> int:
        """How many updates one pass over the data makes."""
        return 1 if self.batch is None else -(-self.m // self.batch)

    def batches(self, steps: int) -> list[slice]:
        """The examples of the first steps, in the order of the data."""
        batch = self.batch or self.m
        starts = (step % self.steps_an_epoch * batch for step in range(steps))
        return [slice(start, start + batch) for start in starts]

    @property
    def flops(self) -> float:
        """Of a prediction; of a step: forward, the gradient of W, and the delta of the layer below if there is one."""
        m = self.batch or self.m
        passes = [2] + [3] * (len(self.layers) - 1) if self.action != "forward" else [1] * len(self.layers)
        return sum(2.0 * n * k * m * p for (n, k, _), p in zip(self.layers, passes, strict=True))

    @property
    def activations(self) -> int:
        """How many sigmoids or tanhs a step takes."""
        return sum(k for _, k, name in self.layers if name in ("sigmoid", "tanh")) * (self.batch or self.m)

    @property
    def n_bytes(self) -> int:
        """What a step must read: X and y once. What a prediction must: the weights, too."""
        weights = sum(n * k for n, k, _ in self.layers) if self.action == "forward" else 0
        values = (self.layers[0][0] + self.layers[-1][1]) * (self.batch or self.m) + weights
        return values * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Product:
    """A matrix product, (n, d) by (d, k); the factors may be stored transposed."""

    n: int
    d: int
    k: int
    dtype: str = "float32"
    transposed: bool = False
    n_threads: ClassVar[int] = 1
    pinned: ClassVar[bool] = True
    activations: ClassVar[int] = 0

    def arrays(self) -> tuple[Any, Any]:
        """Both factors."""
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(self.n, self.d)), rng.normal(size=(self.d, self.k))
        if self.transposed:
            return np.asfortranarray(a.astype(self.dtype)), np.asfortranarray(b.astype(self.dtype))
        return a.astype(self.dtype), b.astype(self.dtype)

    @property
    def flops(self) -> float:
        """Multiply-adds, counted twice."""
        return 2.0 * self.n * self.d * self.k

    @property
    def n_bytes(self) -> int:
        """Both factors and the product, once."""
        return (self.n * self.d + self.d * self.k + self.n * self.k) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Elementwise:
    """An activation of n numbers."""

    n: int
    activation: str
    dtype: str = "float32"
    n_threads: ClassVar[int] = 1
    pinned: ClassVar[bool] = True
    flops: ClassVar[float] = 0.0

    def arrays(self) -> Any:
        """The arguments."""
        return np.random.default_rng(0).normal(scale=3, size=self.n).astype(self.dtype)

    @property
    def activations(self) -> int:
        """All of them."""
        return self.n

    @property
    def n_bytes(self) -> int:
        """Read once and written once."""
        return 2 * self.n * np.dtype(self.dtype).itemsize


Task = Training | Product | Elementwise


@dataclass(frozen=True)
class Row:
    """A line of the table: who does which task (label -> (system, task)), and what is wanted."""

    group: str
    title: str
    contenders: dict[str, tuple[str, Task]]
    goals: dict[str, float] = field(default_factory=dict)  # label -> how many times faster the first one is to be
    limit_goal: float | None = None  # the share of the limit that is wanted
    seconds_goal: float | None = None  # the time that is allowed

    @property
    def own(self) -> Task:
        """The task as fusegrad does it."""
        return next(iter(self.contenders.values()))[1]


def two_layer(n: int, k: int, m: int, activation: str = "sigmoid", **options: Any) -> Training:
    """The two-layer network with one output."""
    return Training(((n, k, activation), (k, 1, "identity")), m, **options)


# (n, k, m): step against NumPy, PyTorch, JAX jit; fit against JAX scan; share of the limit
TWO_LAYER = {
    (1, 1, 32): (15, 60, 9, 6, None),
    (8, 16, 32): (14, 60, 13, 5, None),
    (13, 50, 32): (12, 45, 11, 3, None),
    (13, 50, 128): (8, 23, 5, 1.9, 0.6),
    (16, 64, 256): (6, 11, 3, 1.6, None),
    (64, 128, 128): (3.6, 5.8, 1.9, 1.2, 0.75),
    (784, 128, 128): (2.1, 2.5, 1.2, 1.1, 0.75),
    (256, 1024, 1024): (2.8, 2.5, 1.0, 1.0, 0.75),
    (8, 32, 100_000): (12, 8, 3.8, 3.6, None),
}
SQUARES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
SHAPES = (
    (50, 13, 1000),
    (1, 50, 1000),
    (1000, 50, 1),
    (1000, 1000, 8),
    (8, 1000, 1000),
    (10_000, 16, 16),
    (16, 10_000, 16),
)


def everyone(task: Task, names: tuple[str, ...]) -> dict[str, tuple[str, Task]]:
    """One task for several systems."""
    return {name: (name, task) for name in names}


def rows() -> list[Row]:
    """All that is measured, in order."""
    table: list[Row] = []
    for (n, k, m), (numpy, torch, jit, scan, share) in TWO_LAYER.items():

        def task(n: int = n, k: int = k, m: int = m, **options: Any) -> Training:
            return two_layer(n, k, m, **options)

        title = f"two-layer sigmoid ({n}, {k}, {m})"
        table.append(
            Row(
                "step", title,
                everyone(task(action="step"), ("fusegrad", "NumPy", "NumPy out=", "PyTorch", "JAX", "fusegrad v3")),
                {"NumPy": numpy, "PyTorch": torch, "JAX": jit},
            )
        )  # fmt: skip
        table.append(Row("fit", title, everyone(task(action="fit"), ("fusegrad", "JAX")), {"JAX": scan}, share))
        widths = {"float64": task(action="fit", dtype="float64"), "float32": task(action="fit")}
        table.append(Row("float64", title, {name: ("fusegrad", of) for name, of in widths.items()}, {"float32": 0.4}))
    return (
        table
        + estimators()
        + regimes()
        + other_nets()
        + linear_nets()
        + less_work()
        + kernels()
        + capped()
        + threads()
        + overhead()
    )


def network(*sizes: int, activation: str = "relu", **options: Any) -> Training:
    """A network of these widths, without an activation behind the last layer."""
    names = [activation] * (len(sizes) - 2) + ["identity"]
    return Training(tuple(zip(sizes, sizes[1:], names, strict=False)), **options)


def estimators() -> list[Row]:
    """The same estimator of fusegrad.sklearn and of scikit-learn: a fit of 30 epochs, by the step; predictions."""
    fit: dict[str, Any] = {"action": "fit", "optimizer": "adam"}
    tasks = {
        "fit 13-50-1, batch 32": (network(13, 50, 1, m=2016, batch=32, **fit), 30.0),
        "fit 13-100-1, batch 32": (network(13, 100, 1, m=2016, batch=32, **fit), 30.0),
        "fit 13-100-1, batch 200": (network(13, 100, 1, m=2000, batch=200, **fit), 10.0),
        "fit 64-50-10 softmax, batch 32": (network(64, 50, 10, m=1792, batch=32, loss="softmax", **fit), 15.0),
        "fit 64-64-10 softmax, batch 64": (network(64, 64, 10, m=1792, batch=64, loss="softmax", **fit), 15.0),
        "predict 13-100-1, one row": (network(13, 100, 1, m=1, action="forward"), 5.0),
        "predict 13-100-1, 10^5 rows": (network(13, 100, 1, m=100_000, action="forward"), 2.0),
    }
    names = {"fusegrad": "fusegrad.sklearn", "scikit-learn": "scikit-learn"}
    return [
        Row("estimators", title, {label: (system, task) for label, system in names.items()}, {"scikit-learn": goal})
        for title, (task, goal) in tasks.items()
    ]


def regimes() -> list[Row]:
    """From one example to a hundred thousand, narrow and wide."""
    peers = ("NumPy", "PyTorch", "JAX", "onnxruntime")
    tanh = "10-64-64-2 tanh"
    nets: dict[str, tuple[tuple[int, ...], dict[int, float]]] = {
        # over the best peer: of the network, by examples
        "4-32-1": ((4, 32, 1), {1: 7.0}),
        tanh: ((10, 64, 64, 2), {1: 4.0, 64: 1.7, 256: 1.7, 100_000: 1.7}),
        "784-128-10": ((784, 128, 10), {64: 1.05, 256: 1.05, 100_000: 1.05}),
        "256-256-256-8": ((256, 256, 256, 8), {}),
        "1024-1024-1024": ((1024, 1024, 1024), {64: 1.1}),
        "2000-2000-2000": ((2000, 2000, 2000), {}),
        "20-128-128-1": ((20, 128, 128, 1), {64: 2.3, 256: 2.3, 100_000: 2.3}),
    }
    table = []
    for title, (sizes, goals) in nets.items():
        few = () if title == "20-128-128-1" else (1, 2, 4, 8, 16)
        for m in sorted({*few, *goals}):
            task = network(*sizes, activation="tanh" if title == tanh else "relu", m=m, action="forward")
            names = ("fusegrad", "fusegrad frozen", *peers) if m <= 16 else ("fusegrad", *peers)
            table.append(
                Row(
                    "regimes", f"forward {title}, {m} example{'s' * (m > 1)}", everyone(task, names),
                    dict.fromkeys(peers, goals.get(m, 1.0)),
                )
            )  # fmt: skip
    adam: dict[str, Any] = {"action": "fit", "optimizer": "adam"}
    fits = {
        "16-16-1, batch 1": (network(16, 16, 1, m=1000, batch=1, **adam), {"JAX": 3.0}),
        "256-256-1, batch 1": (network(256, 256, 1, m=1000, batch=1, **adam), {"JAX": 2.0}),
        "2048-2048-1, batch 8": (network(2048, 2048, 1, m=400, batch=8, **adam), {"JAX": 1.1}),
        "1024-2048-1024, batch 32": (network(1024, 2048, 1024, m=640, batch=32, **adam), {"PyTorch": 1.2}),
        "64-512-512-10, batch 128": (
            network(64, 512, 512, 10, m=2560, batch=128, **adam),
            {"JAX": 1.3, "PyTorch": 1.3},
        ),
        "10-64-64-2 tanh, 64 examples, float64": (
            network(10, 64, 64, 2, activation="tanh", m=64, dtype="float64", **adam),
            {"JAX": 1.2},
        ),
    }
    for title, (task, goals) in fits.items():
        table.append(Row("regimes", f"fit, Adam, {title}", everyone(task, ("fusegrad", "PyTorch", "JAX")), goals))
    softmax = network(64, 64, 10, m=2560, batch=64, loss="softmax", by_examples=True, **adam)
    table.append(
        Row(
            "regimes", "fit, Adam, 64-64-10 softmax, batch 64",
            everyone(softmax, ("fusegrad", "PyTorch", "JAX", "scikit-learn")),
            {"JAX": 2.0, "PyTorch": 15, "scikit-learn": 15},
        )
    )  # fmt: skip
    shuffled = {
        "784-128-10, 20 096 in batches of 128": (
            network(784, 128, 10, m=20_096, batch=128, shuffled=True, **adam),
            1.2,
        ),
        "20-64-64-1, 200 192 in batches of 256": (
            network(20, 64, 64, 1, m=200_192, batch=256, shuffled=True, **adam),
            2.5,
        ),
        "8-32-1, 100 000 in batches of 32": (
            network(8, 32, 1, m=100_000, batch=32, shuffled=True, **adam),
            9.0,
        ),
    }
    for title, (task, goal) in shuffled.items():
        by_examples = replace(task, by_examples=True)
        table.append(
            Row(
                "regimes", f"shuffled epoch, {title}",
                {"fusegrad": ("fusegrad", task), "JAX": ("JAX", task), "PyTorch": ("PyTorch", task)}, {"JAX": goal},
            )
        )  # fmt: skip
        for epochs, text in ((1, "one epoch"), (5, "five epochs")):
            both = {
                "by features": ("fusegrad", replace(task, epochs=epochs)),
                "by examples": ("fusegrad", replace(by_examples, epochs=epochs)),
            }
            table.append(Row("regimes", f"X by features or examples, {text}, {title}", both, {"by examples": 1 / 1.1}))
    online = network(10, 64, 64, 2, activation="tanh", m=1000, batch=1, action="online")
    table.append(
        Row(
            "regimes", "online: forward, then train_step, 10-64-64-2 tanh",
            everyone(online, ("fusegrad", "PyTorch")), {"PyTorch": 60}, seconds_goal=6e-6,
        )
    )  # fmt: skip
    return table


def other_nets() -> list[Row]:
    """Adam, deeper networks, mini-batches."""
    batches = two_layer(4, 50, 9568, action="fit", optimizer="adam", batch=32)
    deep = Training(((16, 64, "relu"), (64, 64, "relu"), (64, 64, "relu"), (64, 1, "identity")), 128, "fit", "adam")
    simple = Training(((4, 32, "tanh"), (32, 16, "tanh"), (16, 4, "identity")), 10_000, "fit", "adam")
    return [
        Row(
            "fit", "Adam, batches of 32, 4-50-1, 9 568 examples",
            {name: (name, batches) for name in ("fusegrad", "scikit-learn", "PyTorch", "JAX")},
            {"scikit-learn": 50, "PyTorch": 60, "JAX": 2.5},
        ),
        Row(
            "fit", "Adam, 16-64-64-64-1 ReLU, 128 examples",
            {name: (name, deep) for name in ("fusegrad", "PyTorch", "JAX")}, {"PyTorch": 7, "JAX": 1.4},
        ),
        Row(
            "fit", "Adam, 4-32-16-4 tanh, 10 000 examples",
            {name: (name, simple) for name in ("fusegrad", "PyTorch", "JAX")}, {"PyTorch": 7.5, "JAX": 1.7}, 0.55,
        ),
    ]  # fmt: skip


def linear_nets() -> list[Row]:
    """The linear networks: as fast as memory."""
    names = ("fusegrad", "NumPy", "NumPy out=", "PyTorch", "JAX")
    univariate = Training(((1, 1, "identity"),), 10**7, "step")
    multivariate = Training(((64, 1, "identity"),), 10**6, "step")
    linear = two_layer(8, 32, 100_000, "identity", action="step")
    return [
        Row("step", "univariate, 10^7", {name: (name, univariate) for name in names}, limit_goal=1 / 1.15),
        Row("step", "multivariate (64, 10^6)", {name: (name, multivariate) for name in names}, limit_goal=1 / 1.15),
        Row("step", "two-layer linear (8, 32, 10^5)", {name: (name, linear) for name in names}, {"NumPy": 40}),
    ]


def less_work() -> list[Row]:
    """Mathematics, not tuning: the same results from less work, with the NumPy form of the same trick."""
    folded = two_layer(8, 32, 100_000, "identity", action="step")
    batches = two_layer(8, 32, 100_000, "identity", action="fit", batch=1000)
    thousand = Training(((16, 1, "identity"),), 10**6, "fit", epochs=1000)
    plain, trick = "NumPy", "NumPy, same trick"
    return [
        Row(
            "less work", "two linear layers as one (8, 32, 10^5)",
            {"fusegrad": ("fusegrad", folded), plain: (plain, folded), trick: (trick, folded)}, {plain: 40},
        ),
        Row(
            "less work", "two linear layers as one, batches of 1 000",
            {"fusegrad": ("fusegrad", batches), "JAX": ("JAX", batches)},
        ),
        Row(
            "less work", "1 000 steps from the moments (16, 10^6)",
            {
                "fusegrad": ("fusegrad", thousand),
                "the direct way": ("fusegrad", replace(thousand, moments=False)),
                trick: (trick, thousand),
            },
            {"the direct way": 100},
        ),
    ]  # fmt: skip


def kernels() -> list[Row]:
    """The kernels as functions."""
    table = []
    for dtype in ("float32", "float64"):
        for size in SQUARES:
            task = Product(size, size, size, dtype)
            names = ("fusegrad", "NumPy", "PyTorch", "fusegrad v3")
            table.append(
                Row(
                    "matmul", f"{size}^3 {dtype}", {name: (name, task) for name in names},
                    {"NumPy": 1.0}, 0.9 if size >= 512 else None,
                )
            )  # fmt: skip
        for n, d, k in SHAPES:
            for transposed in (False, True):
                task = Product(n, d, k, dtype, transposed)
                table.append(
                    Row(
                        "matmul", f"({n}, {d}) ({d}, {k}){' transposed' * transposed} {dtype}",
                        {name: (name, task) for name in ("fusegrad", "NumPy")}, {"NumPy": 1.0},
                    )
                )  # fmt: skip
        for activation in ("sigmoid", "tanh"):
            for n in (4096, 10**6):
                apply = Elementwise(n, activation, dtype)
                table.append(
                    Row(
                        activation, f"{n} {dtype}",
                        {name: (name, apply) for name in ("fusegrad", "NumPy", "PyTorch")},
                        {"NumPy": 2.4, "PyTorch": 1.0} if activation == "sigmoid" else {"NumPy": 1.0},
                    )
                )  # fmt: skip
    return table


def capped() -> list[Row]:
    """What is left on a processor with AVX2: the peers are not capped."""
    table = []
    for n, k, m in TWO_LAYER:
        step = two_layer(n, k, m, action="step")
        names = ("fusegrad v3", "NumPy", "PyTorch")
        title = f"two-layer sigmoid ({n}, {k}, {m})"
        table.append(Row("v3 step", title, {name: (name, step) for name in names}, {"NumPy": 1.0, "PyTorch": 1.0}))
    for dtype in ("float32", "float64"):
        for size in (512, 1024, 2048):
            task = Product(size, size, size, dtype)
            table.append(Row("v3 matmul", f"{size}^3 {dtype}", {"fusegrad v3": ("fusegrad v3", task)}, limit_goal=0.8))
    return table


def threads() -> list[Row]:
    """Two threads against one, and the default against one."""
    tasks = {
        "two-layer sigmoid (256, 1024, 1024)": (two_layer(256, 1024, 1024, action="step"), 1.8),
        "two-layer sigmoid (8, 32, 100000)": (two_layer(8, 32, 100_000, action="step"), 1.8),
        "univariate, 10^7": (Training(((1, 1, "identity"),), 10**7, "step"), 1.4),
    }
    table = []
    for title, (task, goal) in tasks.items():
        counts = {"two": replace(task, n_threads=2, pinned=False), "one": replace(task, pinned=False)}
        table.append(Row("two threads", title, {name: ("fusegrad", of) for name, of in counts.items()}, {"one": goal}))
    for n, k, m in list(TWO_LAYER)[:7]:
        task = two_layer(n, k, m, action="step")
        counts = {"default": replace(task, n_threads=None, pinned=False), "one": replace(task, pinned=False)}
        title = f"two-layer sigmoid ({n}, {k}, {m})"
        table.append(
            Row("default threads", title, {name: ("fusegrad", of) for name, of in counts.items()}, {"one": 0.95})
        )
    return table


def overhead() -> list[Row]:
    """What a call costs."""
    calls = {"step": ("train_step (1, 1, 1)", 1.0e-6), "forward": ("forward (1, 1, 1)", 0.7e-6)}
    return [
        Row("overhead", title, {"fusegrad": ("fusegrad", two_layer(1, 1, 1, action=action))}, seconds_goal=seconds)
        for action, (title, seconds) in calls.items()
    ]
