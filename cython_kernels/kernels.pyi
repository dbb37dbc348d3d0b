"""The interface of each compiled kernel module; arrays have the module's dtype."""

from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: tuple[str, ...]
LOSSES: tuple[str, ...]
FUNCTIONS: tuple[str, ...]
FROM_ACTIVATION: int
RULES: dict[str, int]
SCHEDULES: tuple[str, ...]
HEADER: dict[str, int]
MOST_STEPS: int
lanes: int
panel: int
chunk: int
activation_work: int
shared_rows: int
packed_columns: int

@final
class TrainingLock:
    @property
    def is_held(self) -> bool: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...
    def set_incomplete(self, what: str) -> None: ...
    def check_save(self, with_optimizer: bool) -> None: ...

@final
class Engine:
    @property
    def n_threads(self) -> int: ...
    def __new__(
        cls,
        plan: Any,
        loss: tuple[int, float] = (0, 0.0),
        l2: float = 0,
        parameters: NDArray[Any] | None = None,
        lock: TrainingLock | None = None,
        packed: NDArray[Any] | None = None,
        dropout_seed: int = 0,
    ) -> Engine: ...
    def pack(self, parameters: NDArray[Any]) -> NDArray[Any]: ...
    def forward(
        self,
        X: NDArray[Any],
        parameters: NDArray[Any],
        out: NDArray[Any] | None = None,
        link: int = 0,
        masks_of: int = -1,
    ) -> NDArray[Any]: ...
    def gradient(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        parameters: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        input_gradient: NDArray[Any] | None = None,
        weights: NDArray[Any] | None = None,
        y_is_gradient: bool = False,
        penalised: bool = True,
        outputs: NDArray[Any] | None = None,
        masks_of: int = -1,
    ) -> float: ...
    def losses(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        candidates: NDArray[Any],
        losses: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> None: ...
    def forward_direct(self, X: Any, out: Any = None) -> NDArray[Any] | None: ...
    def step_direct(self, X: Any, y: Any, optimizer: Any, compiled_step: Any) -> float | None: ...
    def step(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        parameters: NDArray[Any],
        optimizer: Any,
        weights: NDArray[Any] | None = None,
    ) -> float: ...
    def train(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        parameters: NDArray[Any],
        optimizer: Any,
        lock: TrainingLock,
        losses: NDArray[np.float64],
        rates: NDArray[np.float64] | None = None,
        bit_generator: np.random.BitGenerator | None = None,
        private_generator: bool = False,
        moments: Any = None,
        weights: NDArray[Any] | None = None,
        order: NDArray[np.intp] | None = None,
        carry: NDArray[np.float64] | None = None,
        ranks: Any = None,
    ) -> tuple[int, bool, str]: ...

def is_input(X: Any, n_features: int) -> bool: ...
def is_target(out: Any, X: Any, parameters: NDArray[Any], n_outputs: int) -> bool: ...
def is_batch(X: Any, y: Any, parameters: NDArray[Any], n_features: int, n_outputs: int) -> bool: ...
def is_finite(parameters: NDArray[Any]) -> bool: ...
def centre(X: NDArray[Any], shift: NDArray[np.float64], out: NDArray[np.float64]) -> None: ...
def optimizer_step(optimizer: Any, parameters: NDArray[Any], gradient: NDArray[Any]) -> None: ...
def matmul(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], n_threads: int) -> None: ...
def matmul_direct(a: Any, b: Any, out: Any, most: int, n_threads: int) -> NDArray[Any] | None: ...
def activation_direct(kind: int, z: Any, out: Any, most: int) -> NDArray[Any] | None: ...
def activation(kind: int, z: NDArray[Any], out: NDArray[Any], n_threads: int) -> None: ...
def learning_rates(kind: int, parameters: NDArray[Any], first: int, out: NDArray[Any]) -> None: ...
def permutation(bit_generator: np.random.BitGenerator, n: int) -> NDArray[np.intp]: ...
def look_ahead_point(parameters: NDArray[Any], velocity: NDArray[Any], momentum: float) -> NDArray[Any]: ...
def before_fork() -> None: ...
def after_fork_in_child() -> None: ...
def communicate(group: Any, place: float, number: float, length: float, calls: Iterable[Callable[[], Any]]) -> None: ...

@final
class LastExchange:
    def __init__(self, group: Any, place: float) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None: ...

def copy_examples(source: NDArray[Any], target: NDArray[Any]) -> None: ...
