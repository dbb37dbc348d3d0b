"""Runs one network, below layers and optimizers: validates its batches, holds its compiled engines and its lock.

A compiled engine is for one batch size, number of threads and kind of call; it is made once and cached. Arrays from
`fusegrad.networks` and `fusegrad.training` are validated here once and passed to compiled code.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.plan import Dense, Plan, make_plan, moments_pay, packed_pays, parallel_from
from fusegrad._engine.threads import resolve_threads
from fusegrad._engine.validation import Array, as_batch, as_count, as_examples, as_flat_output, as_floats, as_output

MOST_ENGINES = 256  # cached by a network


class NetworkEngine:
    """The parameters of a network and its compiled engines.

    Attributes
    ----------
    layers : tuple of Dense
    dtype : numpy.dtype
    parameters : array (n_parameters,)
        The storage of the weights, initially zeros.
    kernels : module
        The compiled module of this dtype.
    packed : array or None
        The weights once more, packed: see `freeze`.
    lock : TrainingLock
        Held while the network is trained.
    small_step, small_predictor : compiled Engine or None
        The engines of the last step and the last prediction that were too small for more than one thread.
    """

    __slots__ = (
        "_engines",
        "dtype",
        "kernels",
        "layers",
        "lock",
        "n_features",
        "n_outputs",
        "n_parameters",
        "packed",
        "parallel_from",
        "parameters",
        "small_predictor",
        "small_step",
    )  # fmt: skip

    def __init__(self, layers: tuple[Dense, ...], dtype: "np.dtype[Any]") -> None:
        self.layers = layers
        self.dtype = dtype
        self.n_features = layers[0].n_in
        self.n_outputs = layers[-1].n_out
        self.n_parameters = layers[-1].end
        try:
            self.parameters: Array = np.zeros(self.n_parameters, dtype)
        except (ValueError, OverflowError):  # more elements than an array can have
            raise ValueError(f"layers: expected parameters that fit into memory, got {self.n_parameters}") from None
        self.kernels = by_dtype[dtype]
        self.lock = self.kernels.TrainingLock()
        self.parallel_from = parallel_from(layers)
        self.small_step: Any = None
        self.small_predictor: Any = None
        self.packed: Array | None = None
        self._engines: dict[tuple[int, int, bool], Any] = {}

    # ---- compiled engines ---------------------------------------------------------------------------

    def compiled(self, m: int, n_threads: int | None = None, folding: bool = True) -> Any:
        """The compiled engine for steps of m examples. folding: consecutive linear layers may be computed as one."""
        # A small step uses one thread on any machine: the number of threads is not looked up.
        key = (m, 1 if n_threads is None and m < self.parallel_from else resolve_threads(n_threads), folding)
        engine = self._engines.get(key)
        if engine is None:
            if len(self._engines) >= MOST_ENGINES:
                self._engines.clear()
            packed = self.packed is not None and packed_pays(self.layers, m, self.kernels.panel)
            plan = make_plan(self.layers, self.dtype, *key, few_examples=packed or None)
            engine = self._engines[key] = self.kernels.Engine(plan, self.parameters, self.lock, self.packed)
        return engine

    def predictor(self, m: int) -> Any:
        """The compiled engine for predictions of m examples. No folding: they must not depend on the batch."""
        engine = self.compiled(m, folding=False)
        if m < self.parallel_from:
            self.small_predictor = engine
        return engine

    def freeze(self) -> None:
        """The parameters do not change from here on: the weights are packed for predictions of a few examples."""
        self.parameters.flags.writeable = False
        plan = make_plan(self.layers, self.dtype, 1, 1, folding=False)
        self.packed = self.kernels.Engine(plan).pack(self.parameters)

    def plan(self, n_examples: int, n_threads: int | None = None, epochs: int | None = None) -> Plan:
        """See `Sequential.plan`."""
        m = as_count(n_examples, "n_examples")
        plan = make_plan(self.layers, self.dtype, m, resolve_threads(n_threads))
        note = ""
        if epochs is not None:
            pays, why = moments_pay(plan, m, as_count(epochs, "epochs"))
            note = f"{epochs} epochs from {'the moments' if pays else 'the examples'}: {why}"
        return replace(plan, note=note)  # a copy: engines are made from the cached plan

    # ---- validation -----------------------------------------------------------------------------------

    def batch(self, X: Any, y: Any, *, vectors: bool = False) -> tuple[Array, Array]:
        """X (n_features, m) and y (n_outputs, m), validated; with `vectors` also one example: see `as_batch`.

        The results share no memory with the parameters.
        """
        is_batch = self.kernels.is_batch
        if is_batch(X, y, self.parameters, self.n_features, self.n_outputs):
            return X, y
        X, y = as_batch(X, y, self.dtype, self.n_features, self.n_outputs, vectors=vectors)
        if is_batch(X, y, self.parameters, self.n_features, self.n_outputs):
            return X, y
        return X.copy(), y.copy()

    # ---- computing ------------------------------------------------------------------------------------

    def forward(self, X: Any, out: Array | None) -> Array:
        """See `Sequential.forward`."""
        if self.kernels.is_input(X, self.n_features) and (
            out is None or self.kernels.is_target(out, X, self.parameters, self.n_outputs)
        ):
            prediction: Array = self.predictor(X.shape[1]).forward(X, self.parameters, out)
            return prediction
        X, one = as_examples(X, self.dtype, self.n_features)
        predictor = self.predictor(X.shape[1])
        if out is None:
            prediction = predictor.forward(X, self.parameters)
            return prediction[:, 0] if one else prediction
        shape = (self.n_outputs, X.shape[1])
        target = as_output(out, "out", self.dtype, shape[:1] if one else shape).reshape(shape)
        if np.may_share_memory(target, X) or np.may_share_memory(target, self.parameters):
            target[...] = predictor.forward(X, self.parameters)
        else:
            predictor.forward(X, self.parameters, target)
        return out

    def loss(self, X: Any, y: Any) -> float:
        """See `Sequential.loss`."""
        X, y = self.batch(X, y, vectors=True)
        value: float = self.compiled(X.shape[1], folding=False).gradient(X, y, self.parameters)
        return value

    def loss_and_gradient(self, X: Any, y: Any, out: Array | None) -> tuple[float, Array]:
        """See `Sequential.loss_and_gradient`."""
        X, y = self.batch(X, y, vectors=True)
        if out is None:
            target = np.empty(self.n_parameters, self.dtype)
        else:
            target = as_flat_output(out, "out", self.dtype, self.n_parameters)
        gradient = target
        if out is not None and any(np.may_share_memory(target, used) for used in (X, y, self.parameters)):
            gradient = np.empty_like(target)
        value: float = self.compiled(X.shape[1]).gradient(X, y, self.parameters, gradient)
        if gradient is not target:
            target[:] = gradient
        return value, target if out is None else out

    def input_gradient(self, X: Any, y: Any) -> Array:
        """See `Sequential.input_gradient`."""
        given = as_floats(X, "X", self.dtype)
        X, y = self.batch(given, y, vectors=True)
        result = np.empty(X.shape, self.dtype)
        gradient = np.empty(self.n_parameters, self.dtype)
        self.compiled(X.shape[1], folding=False).gradient(X, y, self.parameters, gradient, result)
        return result[:, 0] if given.ndim == 1 and self.n_features > 1 else result

    def step(self, X: Array, y: Array, optimizer: Any) -> float:
        """One compiled step over a validated batch, for an optimizer whose rule is compiled."""
        engine = self.compiled(X.shape[1])
        if X.shape[1] < self.parallel_from:
            self.small_step = engine
        value: float = engine.step(X, y, self.parameters, optimizer)
        return value
