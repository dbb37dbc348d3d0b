"""Runs one network, below layers and optimizers: validates its batches, holds its compiled engines and its lock.

A compiled engine is for one batch size, number of threads and kind of call; it is made once and cached. Arrays from
`fusegrad.networks` and `fusegrad.training` are validated here once and passed to compiled code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.memory import aligned_zeros
from fusegrad._engine.plan import (
    Dense,
    Plan,
    make_plan,
    moments_pay,
    packed_pays,
    parallel_from,
    step_work,
    worthwhile_threads,
)
from fusegrad._engine.threads import resolve_threads
from fusegrad._engine.validation import (
    Array,
    Classes,
    as_batch,
    as_count,
    as_examples,
    as_flat,
    as_flat_output,
    as_loss_and_gradient,
    as_matrix,
    as_output,
    as_sample_weight,
    check_targets,
    read_only,
)

MOST_ENGINES = 256  # cached by a network
SIGMOID, SOFTMAX = 1, 2  # `Link` in cython_kernels/network/loss.pxi


class Batch(NamedTuple):
    """Validated examples."""

    X: Array
    y: Array
    weights: Array | None

    def total_weight(self) -> float:
        """The sum of the weights of its examples."""
        return float(self.X.shape[1] if self.weights is None else self.weights.sum(dtype="float64"))


class NetworkEngine:
    """The parameters of a network and its compiled engines.

    Attributes
    ----------
    layers : tuple of Dense
    dtype : numpy.dtype
    loss_function : a loss of fusegrad.losses, or a user-defined one
    loss_compiled : bool
        Whether it is one of fusegrad.losses; else it is called from Python.
    l2 : float
        The factor of the penalty of the weights.
    dropout_seed : int or None
        Of the masks of dropout; None if no layer has any.
    loop_steps : int
        Steps by `train_step` with rules that do not count them: they number the masks.
    places : dict of str to (int, int)
        Of each s, W and b ("s1", "W1", "b1", ...): its first parameter, and the one after its last.
    parameters : array (n_parameters,)
        The storage of the weights: zeros, unless an array is passed, which is then used in place.
    kernels : module
        The compiled module of this dtype.
    frozen : bool
        Whether the parameters cannot change any more: see `freeze`.
    packed : array or None
        The weights once more, packed: see `pack`.
    lock : TrainingLock
        Held while the network is trained.
    small_step, small_predictor : compiled Engine or None
        The engines of the last step and the last prediction that were too small for more than one thread.
    """

    __slots__ = (
        "_engines",
        "classes",
        "dropout_seed",
        "dtype",
        "frozen",
        "kernels",
        "l2",
        "layers",
        "lock",
        "loop_steps",
        "loss_compiled",
        "loss_function",
        "n_features",
        "n_outputs",
        "n_parameters",
        "packed",
        "parallel_from",
        "parameters",
        "places",
        "plain_targets",
        "small_predictor",
        "small_step",
        "squared_error",
    )  # fmt: skip

    def __init__(
        self,
        layers: tuple[Dense, ...],
        dtype: "np.dtype[Any]",
        loss_function: Any,
        loss_compiled: bool,
        l2: float,
        parameters: Array | None = None,
    ) -> None:
        self.layers = layers
        self.dtype = dtype
        self.loss_function = loss_function
        self.loss_compiled = loss_compiled
        self.squared_error = loss_compiled and loss_function.kind == 0  # for which the moments of the data are enough
        self.plain_targets = loss_compiled and loss_function.targets == "numbers"  # of any value
        limits, argument = np.finfo(dtype), loss_function.parameter if loss_compiled else 0.0
        if argument and not float(limits.smallest_normal) <= argument <= float(limits.max):
            raise ValueError(f"loss: expected an argument that {dtype} can hold, got {loss_function!r}")
        self.classes: Classes | None = None
        if loss_compiled and loss_function.targets in ("classes", "probabilities"):
            self.classes = Classes(layers[-1].n_out, loss_function.targets == "classes")
        self.l2 = l2
        self.dropout_seed: int | None = 0 if any(layer.dropped for layer in layers) else None
        self.loop_steps = 0
        self.n_features = layers[0].n_in
        self.n_outputs = layers[-1].n_out
        self.n_parameters = layers[-1].end
        self.places: dict[str, tuple[int, int]] = {}
        for i, layer in enumerate(layers, start=1):
            if layer.scale is not None:
                self.places[f"s{i}"] = layer.scale, layer.weight
            self.places[f"W{i}"] = layer.weight, layer.weight + layer.n_in * layer.n_out
            if layer.bias is not None:
                self.places[f"b{i}"] = layer.bias, layer.end
        self.parameters: Array
        if parameters is None:
            try:
                self.parameters = aligned_zeros((self.n_parameters,), dtype)
            except (ValueError, OverflowError):  # more elements than an array can have
                raise ValueError(f"layers: expected parameters that fit into memory, got {self.n_parameters}") from None
        else:
            self.parameters = as_flat(parameters, "parameters", dtype, self.n_parameters)
        self.kernels = by_dtype[dtype]
        self.lock = self.kernels.TrainingLock()
        self.parallel_from = parallel_from(layers)
        self.small_step: Any = None
        self.small_predictor: Any = None
        self.frozen = False
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
            few = self.frozen and packed_pays(self.layers, m, self.kernels.panel)
            plan = make_plan(self.layers, self.dtype, *key, few_examples=few or None)
            if self.frozen and plan.few_examples and self.packed is None:
                self.pack()
            loss = (self.loss_function.kind, self.loss_function.parameter) if self.loss_compiled else (0, 0.0)
            seed = self.dropout_seed or 0
            engine = self.kernels.Engine(plan, loss, self.l2, self.parameters, self.lock, self.packed, seed)
            self._engines[key] = engine
        return engine

    def set_l2(self, l2: float) -> None:
        """Change the penalty, with which compiled engines are made."""
        if self.lock.is_held:
            raise RuntimeError("l2: expected a network that is not being trained; set it between two trainings")
        with self.lock:
            if l2 != self.l2:
                self.l2, self.small_step = l2, None
                self._engines.clear()

    def set_dropout_seed(self, seed: int | None) -> None:
        """Change the seed of the masks, with which compiled engines are made."""
        if seed != self.dropout_seed:
            self.dropout_seed, self.small_step = seed, None
            self._engines.clear()

    def predictor(self, m: int) -> Any:
        """The compiled engine for predictions of m examples. No folding: they must not depend on the batch."""
        engine = self.compiled(m, folding=False)
        if m < self.parallel_from:
            self.small_predictor = engine
        return engine

    def freeze(self) -> None:
        """The parameters do not change from here on."""
        self.parameters.flags.writeable = False
        self.frozen = True

    def pack(self) -> None:
        """Pack frozen weights for predictions of a few examples. Two threads that do so at once get equal arrays."""
        plan = make_plan(self.layers, self.dtype, 1, 1, folding=False)
        self.packed = self.kernels.Engine(plan).pack(self.parameters)

    def plan(self, n_examples: int, n_threads: int | None = None, epochs: int | None = None) -> Plan:
        """See `Sequential.plan`."""
        m = as_count(n_examples, "n_examples")
        plan = make_plan(self.layers, self.dtype, m, resolve_threads(n_threads))
        note = f"loss {self.loss_function!r}{f', l2 {self.l2:g}' if self.l2 else ''}"
        if epochs is not None:
            pays, why = moments_pay(plan, m, as_count(epochs, "epochs"))
            if not self.squared_error:
                pays, why = False, "not the squared error"
            note += f"\n  {epochs} epochs from {'the moments' if pays else 'the examples'}: {why}"
        return plan._replace(note=note)  # a copy: engines are made from the cached plan

    # ---- validation -----------------------------------------------------------------------------------

    def batch(self, X: Any, y: Any, sample_weight: Any = None, *, vectors: bool = False, part: bool = False) -> Batch:
        """X (n_features, m), y (n_outputs, m) or class numbers (1, m), and weights, validated.

        vectors: X and y may be one example, see `as_batch`. part: of more examples; all weights may be 0. The results
        share no memory with the parameters.
        """
        is_batch, n_features, n_outputs = self.kernels.is_batch, self.n_features, self.n_outputs
        if self.plain_targets and sample_weight is None and is_batch(X, y, self.parameters, n_features, n_outputs):
            return Batch(X, y, None)
        loss, classes = self.loss_function, self.classes
        if classes or not self.loss_compiled or not is_batch(X, y, self.parameters, self.n_features, self.n_outputs):
            n_targets = self.n_outputs if self.loss_compiled else None
            X, y = as_batch(X, y, self.dtype, self.n_features, n_targets, vectors=vectors, classes=classes)
            if any(np.may_share_memory(array, self.parameters) for array in (X, y)):
                X, y = X.copy(), y.copy()
        if self.loss_compiled and not (classes and len(y) == 1):
            check_targets(loss.targets, y)
        weights = None
        if sample_weight is not None:
            if not self.loss_compiled:
                raise TypeError(f"sample_weight: expected None, since a user-defined loss takes no weights: {loss!r}")
            weights = as_sample_weight(sample_weight, X.shape[1], self.dtype, part=part)
            if np.may_share_memory(weights, self.parameters):
                weights = weights.copy()
        return Batch(X, y, weights)

    def given(self, X: Any, output_gradient: Any) -> tuple[Array, Array]:
        """X (n_features, m), and the gradient (n_outputs, m) with respect to its predictions."""
        n_features, n_outputs = self.n_features, self.n_outputs
        return as_batch(X, output_gradient, self.dtype, n_features, n_outputs, vectors=True, name="output_gradient")

    # ---- computing ------------------------------------------------------------------------------------

    def probabilities(self, X: Any) -> Array:
        """See `Module.probabilities`."""
        X, one = as_examples(X, self.dtype, self.n_features)
        link = SIGMOID if self.classes is None else SOFTMAX
        result: Array = self.predictor(X.shape[1]).forward(X, self.parameters, None, link)
        return result[:, 0] if one else result

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

    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """See `Sequential.loss`."""
        batch = self.batch(X, y, sample_weight, vectors=True)
        return self.gradient_of(self.compiled(batch.X.shape[1], folding=False), batch, self.parameters, None)

    def gradient_of(
        self,
        compiled: Any,
        batch: Batch,
        parameters: Array,
        gradient: Array | None,
        of_input: Array | None = None,
        training_step: int | None = None,
    ) -> float:
        """The loss of a validated batch; fills in its gradients. training_step: with dropout."""
        X, y, weights = batch
        masks_of = -1 if training_step is None else training_step
        if self.loss_compiled:
            value: float = compiled.gradient(X, y, parameters, gradient, of_input, weights, masks_of=masks_of)
            return value
        prediction = self.compiled(X.shape[1], folding=False).forward(X, parameters, masks_of=masks_of)
        answer = self.loss_function.value_and_gradient(prediction, read_only(y))
        name, shape = "value_and_gradient", prediction.shape
        value, of_output = as_loss_and_gradient(answer, name, shape)
        of_output = as_matrix(of_output, name, self.dtype, self.n_outputs, "outputs")
        if of_output.shape != shape:
            raise ValueError(f"{name}: expected a gradient of shape {shape}, got {of_output.shape}")
        return value + float(
            compiled.gradient(X, of_output, parameters, gradient, of_input, y_is_gradient=True, masks_of=masks_of)
        )

    def candidate_losses(self, batch: Batch, n: int, n_threads: int | None = None) -> Callable[[Array, Array], None]:
        """A function of candidates (k, n_parameters) and an array (k,), to which it writes their losses; n: in all."""
        m = batch.X.shape[1]
        plan = make_plan(self.layers, self.dtype, m, 1, folding=False)
        if plan.folded or not self.loss_compiled:  # a scale is folded for each candidate; a user's loss is in Python
            one = self.compiled(m, n_threads, folding=False)

            def one_by_one(candidates: Array, losses: Array) -> None:
                for i, candidate in enumerate(candidates):
                    losses[i] = self.gradient_of(one, batch, candidate, None)

            return one_by_one
        threads = worthwhile_threads(step_work(self.layers, m) * n, n, resolve_threads(n_threads))
        loss = self.loss_function.kind, self.loss_function.parameter
        compiled = self.kernels.Engine(plan._replace(n_threads=threads), loss, self.l2)

        def together(candidates: Array, losses: Array) -> None:
            compiled.losses(batch.X, batch.y, candidates, losses, batch.weights)

        return together

    def loss_and_gradient(
        self, X: Any, y: Any, sample_weight: Any, out: Array | None, training_step: Any = None
    ) -> tuple[float, Array]:
        """See `Sequential.loss_and_gradient`."""
        if training_step is not None:
            training_step = as_count(training_step, "training_step", least=0)
        batch = self.batch(X, y, sample_weight, vectors=True)
        gradient, copy_to = self.flat_output(out, *batch)
        engine = self.compiled(batch.X.shape[1])
        value = self.gradient_of(engine, batch, self.parameters, gradient, training_step=training_step)
        if copy_to is not None:
            copy_to[:] = gradient
        return value, gradient if out is None else out

    def flat_output(self, out: Array | None, *used: Array | None) -> tuple[Array, Array | None]:
        """The array for a gradient, and the one to copy it to: `out`, if it shares memory with what is read."""
        if out is None:
            return np.empty(self.n_parameters, self.dtype), None
        target = as_flat_output(out, "out", self.dtype, self.n_parameters)
        if any(array is not None and np.may_share_memory(target, array) for array in (*used, self.parameters)):
            return np.empty(self.n_parameters, self.dtype), target
        return target, None

    def backward(self, X: Any, output_gradient: Any, out: Array | None) -> Array:
        """See `Sequential.backward`."""
        X, of_output = self.given(X, output_gradient)
        gradient, copy_to = self.flat_output(out, X, of_output)
        engine = self.compiled(X.shape[1])
        engine.gradient(X, of_output, self.parameters, gradient, y_is_gradient=True, penalised=False)
        if copy_to is not None:
            copy_to[:] = gradient
        return gradient if out is None else out

    def input_gradient(self, X: Any, y: Any, sample_weight: Any, output_gradient: Any) -> Array:
        """See `Sequential.input_gradient`."""
        X, one = as_examples(X, self.dtype, self.n_features)
        if one:
            X = X[:, 0]  # with its y, or its gradient
        gradient = np.empty(self.n_parameters, self.dtype)
        if output_gradient is None:
            batch = self.batch(X, y, sample_weight, vectors=True)
            result = np.empty(batch.X.shape, self.dtype)
            self.gradient_of(self.compiled(batch.X.shape[1], folding=False), batch, self.parameters, gradient, result)
        else:
            X, of_output = self.given(X, output_gradient)
            result = np.empty(X.shape, self.dtype)
            self.compiled(X.shape[1], folding=False).gradient(
                X, of_output, self.parameters, gradient, result, y_is_gradient=True
            )
        return result[:, 0] if one else result

    def step(self, batch: Batch, optimizer: Any) -> float:
        """One compiled step over a validated batch, for an optimizer whose rule is compiled."""
        X, y, weights = batch
        engine = self.compiled(X.shape[1])
        # The direct call does not check targets.
        if X.shape[1] < self.parallel_from and self.plain_targets:
            self.small_step = engine
        value: float = engine.step(X, y, self.parameters, optimizer, weights)
        return value
