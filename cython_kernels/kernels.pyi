"""The face of every compiled module of kernels; the arrays are of the module's dtype."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: tuple[str, ...]
RULES: tuple[str, ...]
lanes: int
panel: int

@final
class Engine:
    @property
    def n_threads(self) -> int: ...
    def __init__(self, plan: Any) -> None: ...
    def forward(self, X: NDArray[Any], parameters: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def gradient(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        parameters: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        input_gradient: NDArray[Any] | None = None,
        outputs: NDArray[Any] | None = None,
    ) -> float: ...
    def step(self, X: NDArray[Any], y: NDArray[Any], parameters: NDArray[Any], optimizer: Any) -> float: ...
    def train(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        parameters: NDArray[Any],
        optimizer: Any,
        losses: NDArray[np.float64],
        rates: NDArray[np.float64] | None = None,
        bit_generator: np.random.BitGenerator | None = None,
        moments: Any = None,
    ) -> tuple[int, bool]: ...

def is_input(X: Any, n_features: int) -> bool: ...
def is_target(out: Any, X: Any, parameters: NDArray[Any], n_outputs: int) -> bool: ...
def is_batch(X: Any, y: Any, parameters: NDArray[Any], n_features: int, n_outputs: int) -> bool: ...
def optimizer_step(optimizer: Any, parameters: NDArray[Any], gradient: NDArray[Any]) -> None: ...
def matmul(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], n_threads: int) -> None: ...
def quick_matmul(a: Any, b: Any, out: Any, most: int) -> NDArray[Any] | None: ...
def quick_activation(kind: int, z: Any, out: Any, most: int) -> NDArray[Any] | None: ...
def activation(kind: int, z: NDArray[Any], out: NDArray[Any], n_threads: int) -> None: ...
