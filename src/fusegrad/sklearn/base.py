"""What both estimators share: parameters and their names, training, prediction."""

import inspect
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from fusegrad._engine.validation import Array, as_count, as_dtype, as_flag, as_number
from fusegrad.history import History
from fusegrad.layers import BY_NAME, Dropout, Layer, Linear
from fusegrad.networks import Sequential
from fusegrad.optimizers import SGD, Adam, Optimizer
from fusegrad.optimizers import Snapshot as OptimizerSnapshot
from fusegrad.sklearn.descriptions import describe
from fusegrad.sklearn.tabular import (
    FOLDS,
    BestEpoch,
    Part,
    RobustSmoothScaler,
    TableEncoder,
    recipe_network,
    train_member,
)
from fusegrad.training import as_callbacks

SOLVERS = "adam", "sgd", "lbfgs"
RATES = "constant", "invscaling", "adaptive"
#: What may be set beside `preset`.
PRESET_PARAMETERS = {
    "preset", "width", "epochs", "n_ensembles", "random_state", "verbose", "dtype", "n_threads", "class_weight",
}  # fmt: skip
LEAST_RATE = 1e-6  # at which learning_rate="adaptive" ends


class Objective(NamedTuple):
    """A loss of the engine, and how many times that of scikit-learn it and its gradient are."""

    loss: Any
    scale: float
    out_activation: str


@cache  # `inspect` takes longer than some fits
def _defaults(kind: type) -> MappingProxyType[str, Any]:
    """The parameters of an estimator's constructor, with their defaults."""
    return MappingProxyType({name: one.default for name, one in inspect.signature(kind).parameters.items()})


class BaseMLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share."""

    networks_: list[Sequential]
    _encoder: TableEncoder | None  # of the recipe for tables, if that made the model
    _scaler: RobustSmoothScaler

    # ---- what a fit is made of: parameters that are checked, and names that are translated --------------------------

    def _check(self) -> None:
        """Raise if a parameter is of the wrong kind: which, and what was expected."""
        for name, choices in (("solver", SOLVERS), ("learning_rate", RATES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("learning_rate_init", "epsilon"):
            as_number(getattr(self, name), name, above=0.0)
        for name in ("alpha", "power_t", "tol"):
            as_number(getattr(self, name), name, least=0.0)
        for name in ("momentum", "beta_1", "beta_2", "validation_fraction", "dropout"):
            as_number(getattr(self, name), name, least=0.0, below=1.0)
        for name in ("max_iter", "max_fun"):
            as_count(getattr(self, name), name)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            as_flag(getattr(self, name), name)
        if self.n_iter_no_change != np.inf:
            as_count(self.n_iter_no_change, "n_iter_no_change")
        if self.batch_size != "auto":
            as_count(self.batch_size, "batch_size")
        if self.n_threads is not None:
            as_count(self.n_threads, "n_threads")
        for name in ("width", "epochs", "n_ensembles"):
            if not self._is_default(name):
                raise ValueError(f"{name}: expected its default without preset='tabular', got {getattr(self, name)!r}")
        self._hidden()

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, (Integral, np.integer)):
            sizes = [sizes]
        if isinstance(sizes, (str, bytes)) or not np.iterable(sizes):
            raise TypeError(f"hidden_layer_sizes: expected a number or a list of numbers, got {sizes!r}")
        return [as_count(size, "hidden_layer_sizes") for size in sizes]

    def _layers(self, n_features: int, n_outputs: int) -> list[Layer]:
        name = {"logistic": "sigmoid"}.get(self.activation, self.activation)
        if name not in BY_NAME:
            names = ", ".join(["logistic", *(other for other in BY_NAME if other != "sigmoid")])
            raise ValueError(f"activation: expected one of {names}, got {self.activation!r}")
        layers: list[Layer] = []
        sizes = [n_features, *self._hidden()]
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [Linear(n_in, n_out), BY_NAME[name]()]
            if self.dropout:
                layers.append(Dropout(self.dropout))
        return [*layers, Linear(sizes[-1], n_outputs)]

    def _rule(self, scale: float) -> Optimizer:
        """The optimizer whose steps on a loss that is `scale` times as large are those of scikit-learn's."""
        if self.solver == "adam":
            return Adam(self.learning_rate_init, betas=(self.beta_1, self.beta_2), eps=scale * self.epsilon)
        nesterov = bool(self.nesterovs_momentum) and self.momentum > 0
        return SGD(self.learning_rate_init / scale, momentum=self.momentum, nesterov=nesterov)

    # ---- training ---------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, callbacks: Iterable[Any] = ()) -> Any:
        """Train on X and y.

        Parameters
        ----------
        X : array (n_samples, n_features)
            Or a data frame of numbers, or a sparse matrix, which is made dense. With ``preset="tabular"`` a data frame
            may have categories and missing values.
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional
        callbacks : iterable of callables
            As for `fusegrad.Sequential.fit`; lbfgs calls none.

        Returns
        -------
        self
        """
        callbacks = as_callbacks(callbacks)
        if self.preset is not None:
            with self._restored_on_error():
                return self._fit_tabular(X, y, sample_weight, callbacks)
        return self._fit(X, y, sample_weight, callbacks, incremental=False)

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """A fit that fails leaves the estimator, and its model if it has one, as they were."""
        # Of lists their values: a fit that goes on appends to its curves.
        before = {name: list(value) if type(value) is list else value for name, value in self.__dict__.items()}
        networks = [(net, net.parameters.copy(), net.l2) for net in before.get("networks_", ())]
        optimizer: Any = before.get("_optimizer")
        rng: Any = before.get("_rng")
        steps = OptimizerSnapshot()
        lr = getattr(optimizer, "lr", None)
        if optimizer is not None:
            steps.take(optimizer)
        draws = None if rng is None else rng.bit_generator.state
        given = self.random_state if isinstance(self.random_state, np.random.RandomState) else None
        seeds: Any = None if given is None else given.get_state()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            for net, parameters, l2 in networks:
                net.parameters, net.l2 = parameters, l2
            if optimizer is not None:
                steps.restore(optimizer)
                optimizer.lr = lr
            if rng is not None:
                rng.bit_generator.state = draws
            if given is not None:
                given.set_state(seeds)
            raise

    def _fit(self, X: Any, y: Any, sample_weight: Any, callbacks: Iterable[Any], incremental: bool) -> Any:
        self._check()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        goes_on = "networks_" in vars(self) and self._encoder is None and (self.warm_start or incremental)
        with self._restored_on_error():
            X, y = self._validated(X, y, not goes_on, incremental)
            weights = self._weights(y, sample_weight)
            targets = self._targets(y)
            if goes_on:
                self._check_unchanged(X)
            else:
                self._start(X, targets)
            if self.solver == "lbfgs":
                self._fit_lbfgs(X, targets, weights)
            else:
                self._fit_stochastic(X, targets, weights, callbacks, incremental)
        return self

    def _check_unchanged(self, X: Array) -> None:
        """Raise if the network that goes on is not one of these parameters."""
        for name, before in self._made_with.items():
            now = X.dtype.name if name == "dtype" else getattr(self, name)
            if not _equal(now, before):
                raise ValueError(
                    f"{name}: expected {before!r}, as when the network was made, got {now!r}: warm_start and"
                    " partial_fit go on with that network"
                )

    def _validated(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        """Rows of floats, and the target."""
        dtype = (np.float64, np.float32) if self.dtype is None else as_dtype(self.dtype)
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=dtype, reset=first, **self._target_kind
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return dense(X), y

    def _weights(self, y: Array, sample_weight: Any) -> Array | None:
        """Weights of the examples, at least 0 and not all 0."""
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, y)
        if weights is not None:
            if (weights < 0).any():
                raise ValueError(f"sample_weight: expected weights of at least 0, got {weights.min()}")
            check_sum(weights, "sample_weight: expected")
        return self._with_class_weights(y, weights)

    def _with_class_weights(self, y: Array, weights: Array | None) -> Array | None:
        return weights

    def _start(self, X: Array, targets: Array) -> None:
        """A new network, and attributes as before the first epoch."""
        # One generator for weights and shuffling: partial_fit goes on with it.
        self._encoder = None
        state = random_state_of(self)
        self._rng = np.random.default_rng(state.randint(2**31 - 1, size=4))
        objective = self._objective()
        self.n_outputs_ = self._n_outputs(targets)
        layers = self._layers(X.shape[1], self.n_outputs_)
        self.networks_ = [Sequential(*layers, loss=objective.loss, dtype=X.dtype, rng=self._rng)]
        for layer in self.network_.dense_layers:  # scikit-learn's weights: Glorot's, and biases of the same size
            bound = np.sqrt((2 if self.activation == "logistic" else 6) / (layer.n_in + layer.n_out))
            self.network_.parameters[layer.weight : layer.end] = self._rng.uniform(
                -bound, bound, layer.end - layer.weight
            )
        self.n_layers_ = len(self._hidden()) + 2
        self.out_activation_ = objective.out_activation
        made_with = ("hidden_layer_sizes", "activation", "dropout", *(["loss"] if hasattr(self, "loss") else []))
        self._made_with = {"dtype": X.dtype.name, **{name: getattr(self, name) for name in made_with}}
        self.n_iter_ = self.t_ = 0
        self._optimizer: Optimizer | None = None
        self._start_curves()

    def _start_curves(self) -> None:
        """What the epochs of a stochastic solver fill."""
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        early = self.early_stopping
        self.best_loss_ = None if early else np.inf
        self.validation_scores_: list[float] | None = [] if early else None
        self.validation_loss_curve_: list[float] | None = [] if early else None
        self.best_validation_score_ = -np.inf if early else None

    def _penalize(self, n: int, weights: Array | None) -> None:
        """Set the network's penalty for batches of n examples."""
        mean = 1.0 if weights is None else float(weights.mean())
        self.network_.l2 = self._objective().scale * self.alpha / (n * mean)

    def _fit_stochastic(
        self, X: Array, targets: Array, weights: Array | None, callbacks: Iterable[Any], incremental: bool
    ) -> None:
        objective = self._objective()
        validation = None
        if self.early_stopping:
            X, targets, weights, validation = self._split(X, targets, weights)
        n = len(X)
        size = min(200, n) if self.batch_size == "auto" else self.batch_size
        if size > n:
            warnings.warn(f"batch_size={size} is more than the {n} examples: all are one batch", stacklevel=4)
            size = n
        self._penalize(size, weights)
        if self.early_stopping != (self.validation_scores_ is not None):
            self._start_curves()
        optimizer: Optimizer | None = self._optimizer if incremental else None
        self._optimizer = optimizer = optimizer or self._rule(objective.scale)
        self.n_iter_ = 0
        monitor = _Monitor(self, n, objective.scale * self._per_output(), validation)
        try:
            history = self.network_.fit(
                X.T, _columns(targets), optimizer=optimizer, epochs=1 if incremental else self.max_iter,
                batch_size=size, shuffle=self.shuffle, rng=self._rng, sample_weight=weights,
                validation_data=validation, callbacks=[monitor, *callbacks], on_divergence="stop",
                n_threads=self.n_threads,
            )  # fmt: skip
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
            history = None
        if history is not None and history.divergence is not None:
            if not self.early_stopping:
                raise ValueError(
                    "Solver produced non-finite parameter weights. The input data may contain large values and need to"
                    f" be preprocessed. ({history.divergence})"
                )
            self.validation_scores_.append(np.nan)  # type: ignore[union-attr]  # a list with early stopping
        elif history is not None and not history.stopped and not incremental:
            warnings.warn(
                f"The {'score' if self.early_stopping else 'loss'} still improved after max_iter={self.max_iter} "
                f"epochs: raise max_iter or learning_rate_init, or standardise the features",
                ConvergenceWarning, stacklevel=4,
            )  # fmt: skip
        if monitor.best is not None:
            self.network_.parameters = monitor.best

    def _split(self, X: Array, targets: Array, weights: Array | None) -> tuple[Array, Array, Array | None, Any]:
        """The part to train with, and the held-out part as validation data."""
        arrays = [X, targets] if weights is None else [X, targets, weights]
        parts = train_test_split(
            *arrays, test_size=self.validation_fraction, stratify=self._strata(targets),
            random_state=self._rng.integers(2**31 - 1),
        )  # fmt: skip
        train, held = parts[::2], parts[1::2]
        if len(held[0]) < 2:
            raise ValueError(
                f"The validation set is too small: {len(held[0])} of {len(X)} examples. Increase validation_fraction, "
                "or the number of examples."
            )
        for part, what in ((train, "other"), (held, "held-out")) if weights is not None else ():
            if not (part[2].astype(X.dtype) > 0).any():
                raise ValueError(
                    f"sample_weight: expected a weight of more than 0 in the {what} part (early_stopping, "
                    f"validation_fraction={self.validation_fraction}), got zeros"
                )
        held_weights = () if weights is None else (held[2],)
        return train[0], train[1], None if weights is None else train[2], (held[0].T, _columns(held[1]), *held_weights)

    def _fit_lbfgs(self, X: Array, targets: Array, weights: Array | None) -> None:
        from scipy.optimize import minimize

        net, scale, columns = self.network_, self._objective().scale, _columns(targets)
        self._penalize(len(X), weights)

        def loss_and_gradient(w: Array) -> tuple[float, Array]:
            net.parameters = w
            loss, gradient = net.loss_and_gradient(X.T, columns, sample_weight=weights)
            return loss / scale, gradient / scale

        with np.errstate(over="ignore"):
            result = minimize(
                loss_and_gradient, net.parameters.astype("f8"), jac=True, method="L-BFGS-B",
                options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
            )  # fmt: skip
        if not (np.isfinite(result.fun) and np.isfinite(result.x).all()):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        net.parameters = result.x
        self.n_iter_, self.loss_ = min(result.nit, self.max_iter), float(result.fun) / self._per_output()
        if result.status != 0:
            warnings.warn(
                f"lbfgs did not converge ({result.message}): raise max_iter={self.max_iter}, or standardise X",
                ConvergenceWarning, stacklevel=4,
            )  # fmt: skip

    def _per_output(self) -> float:
        """By what scikit-learn divides a loss that is summed over the outputs."""
        return 1.0

    def _fit_tabular(self, X: Any, y: Any, sample_weight: Any, callbacks: Iterable[Any]) -> Any:
        """The recipe of tabular.py: each member of the ensemble holds out another fifth."""
        self._check_preset()
        X, y = self._table(X, y)
        encoder, scaler = TableEncoder(), RobustSmoothScaler()
        numbers = check_array(encoder.fit_transform(X), ensure_all_finite="allow-nan", ensure_min_samples=2)
        y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_consistent_length(numbers, y)
        weights = self._weights(y, sample_weight)
        if weights is not None:  # what has no weight decides nothing
            used = weights > 0
            numbers, y, weights = numbers[used], y[used], weights[used]
            if len(numbers) < 2:
                raise ValueError(f"sample_weight: expected at least 2 examples with a weight, got {len(numbers)}")
        targets = self._tabular_targets(y)
        dtype = np.dtype("float32") if self.dtype is None else as_dtype(self.dtype)
        columns = self._scaled(scaler.fit_transform(numbers), dtype)
        m = columns.shape[1]
        seeds = random_state_of(self).randint(2**31 - 1, size=4)
        self._rng = np.random.default_rng(seeds)
        self._encoder, self._scaler = encoder, scaler
        self.n_outputs_ = len(self.classes_) if targets.ndim == 1 else len(targets)
        self.networks_ = []
        found: list[BestEpoch] = []
        hidden = [self.width] * 3 if isinstance(self.width, (int, np.integer)) else list(self.width)
        callbacks = [*callbacks, _print_epoch] if self.verbose else list(callbacks)
        for i in range(self.n_ensembles):
            if i % FOLDS == 0:
                folds = np.array_split(self._rng.permutation(m), min(FOLDS, m))
            held = folds[i % len(folds)]
            train = np.setdiff1d(np.arange(m), held)
            parts = (
                Part(columns[:, part], targets[..., part], None if weights is None else weights[part])
                for part in (train, held)
            )
            sizes = [len(columns), *hidden, self.n_outputs_]
            net = recipe_network(sizes, is_classifier(self), dtype, self._rng)
            best = train_member(
                net, *parts, epochs=self.epochs, rng=self._rng, n_threads=self.n_threads, callbacks=callbacks
            )
            self.networks_.append(net)
            found.append(best)
            if best.interrupted:
                warnings.warn("Training interrupted by user.", stacklevel=3)
            if best.interrupted or best.history.stopped:
                break
        self.validation_scores_ = self.best_validation_score_ = None
        history, self.best_epoch_ = found[0].history, found[0].epoch
        self.loss_curve_, self.validation_loss_curve_ = history.loss, history.validation_loss
        self.loss_, self.best_loss_ = self.loss_curve_[-1], min(self.loss_curve_)
        self.n_iter_ = found[-1].history.epochs
        self.t_ = len(train) * sum(best.history.epochs for best in found)
        self.n_layers_ = len(net.dense_layers) + 1
        self.out_activation_ = "softmax" if is_classifier(self) else "identity"
        return self

    def _check_preset(self) -> None:
        """Raise if a parameter that the recipe has itself is set: it would be ignored."""
        if self.preset != "tabular":
            raise ValueError(f"preset: expected None or 'tabular', got {self.preset!r}")
        if isinstance(self.width, (str, bytes)) or not (np.iterable(self.width) or np.ndim(self.width) == 0):
            raise TypeError(f"width: expected a number or a list of numbers, got {self.width!r}")
        for size in self.width if np.iterable(self.width) else [self.width]:
            as_count(size, "width")
        for name in ("epochs", "n_ensembles"):
            as_count(getattr(self, name), name)
        for name in self.own_parameters():
            if name not in PRESET_PARAMETERS and not self._is_default(name):
                raise ValueError(f"{name}: expected its default with preset='tabular', got {getattr(self, name)!r}")

    @classmethod
    def own_parameters(cls) -> Mapping[str, Any]:
        """The parameters of `MLPRegressor` or `MLPClassifier`, with their defaults, of a subclass too."""
        return _defaults(next(kind for kind in cls.__mro__ if kind.__module__.startswith("fusegrad.sklearn")))

    def _is_default(self, name: str) -> bool:
        return _equal(getattr(self, name), self.own_parameters()[name])

    def _table(self, X: Any, *y: Any) -> Any:
        """A data frame as it is, anything else as a matrix of any dtype; with y it is that of a fit."""
        if isinstance(X, (list, tuple)):
            array = np.asarray(X)
            # Numbers beside texts stay numbers, and large integers beside floats integers.
            if array.dtype.kind in "US" or (array.dtype.kind == "f" and (abs(array) >= 2**53).any()):
                X = np.array(X, dtype=object)
        if hasattr(X, "columns"):
            return validate_data(self, X, *y, reset=bool(y), skip_check_array=True)
        options: dict[str, Any] = {"multi_output": True, "ensure_min_samples": 2, **self._target_kind} if y else {}
        return validate_data(
            self, X, *y, reset=bool(y), accept_sparse=["csr", "csc"], dtype=None, ensure_all_finite=False, **options
        )

    def _tabular_columns(self, X: Any, encoder: TableEncoder) -> Array:
        """A table as the networks of the recipe take it."""
        numbers = check_array(encoder.transform(self._table(X)), ensure_all_finite="allow-nan")
        return self._scaled(self._scaler.transform(numbers), self.network_.dtype)

    @staticmethod
    def _scaled(rows: Array, dtype: Any) -> Array:
        """Columns for a network; what is missing is the median, 0."""
        return np.ascontiguousarray(np.nan_to_num(rows, copy=False), dtype).T

    # ---- prediction -------------------------------------------------------------------------------------------------

    def _columns_of(self, X: Any) -> Array:
        """X as the network takes it: validated, (n_features, n_samples). A plain array of its dtype is only read."""
        if "networks_" not in self.__dict__:
            check_is_fitted(self)
        if self._encoder is not None:
            return self._tabular_columns(X, self._encoder)
        if (
            type(X) is np.ndarray and X.ndim == 2 and X.dtype == self.network_.dtype and len(X)
            and X.shape[1] == self.n_features_in_ and "feature_names_in_" not in self.__dict__
            and np.isfinite(X).all()
        ):  # fmt: skip
            return X.T
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=self.network_.dtype, reset=False)
        return dense(X).T

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write what a prediction needs to a file: the network, and how columns become its inputs.

        Parameters
        ----------
        path : str or path-like
            `load` reads it; `fusegrad.load` reads the network alone.

        Raises
        ------
        TypeError
            If the network has a loss of the user's own.
        ValueError
            If there are several networks, or a class is neither text nor a number.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self)
        if len(self.networks_) > 1:
            raise ValueError(f"n_ensembles: expected one network to save, got {len(self.networks_)}: pickle the model")
        self.network_.save(path, metadata={"estimator": describe(self)})

    # ---- attributes -------------------------------------------------------------------------------------------------

    @property
    def network_(self) -> Sequential:
        """The trained network; the first one of an ensemble."""
        if "networks_" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} is not fitted yet")
        return self.networks_[0]

    @property
    def coefs_(self) -> list[Array]:
        """The weights of each layer, (n_in, n_out): views of those of `network_`."""
        return [view.T for name, view in self._named() if name[0] == "W"]

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of each layer, (n_out,): views of those of `network_`."""
        return [view[:, 0] for name, view in self._named() if name[0] == "b"]

    def _named(self) -> Any:
        return self.network_.named_parameters().items()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        if self.preset is not None:
            tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


class _Monitor:
    """What happens after each epoch: the curves, the learning rate, and whether to stop."""

    def __init__(self, estimator: Any, n_samples: int, scale: float, validation: Any) -> None:
        self.estimator, self.n_samples, self.scale, self.validation = estimator, n_samples, scale, validation
        self.best: Array | None = None  # the parameters with the best validation score

    def __call__(self, net: Sequential, history: History) -> bool:
        e = self.estimator
        e.n_iter_ += 1
        e.t_ += self.n_samples
        e.loss_ = history.loss[-1] / self.scale
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        improved = self._improved(net, history)
        e._no_improvement_count = 0 if improved else e._no_improvement_count + 1
        if e.solver == "sgd" and e.learning_rate == "invscaling":
            e._optimizer.lr = e._rule(e._objective().scale).lr / (e.t_ + 1) ** e.power_t
        if e._no_improvement_count <= e.n_iter_no_change:
            return False
        adaptive = e.solver == "sgd" and e.learning_rate == "adaptive"
        if adaptive and e._optimizer.lr * e._objective().scale > LEAST_RATE:
            e._optimizer.lr /= 5
            e._no_improvement_count = 0
            return False
        if e.verbose:
            what = "Validation score" if e.early_stopping else "Training loss"
            print(f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} epochs. Stopping.")
        return True

    def _improved(self, net: Sequential, history: History) -> bool:
        e = self.estimator
        if self.validation is None:
            improved = bool(e.loss_ <= e.best_loss_ - e.tol)
            e.best_loss_ = min(e.best_loss_, e.loss_)
            return improved
        X, y, *weights = self.validation
        score = e._score(net, X, y, weights[0] if weights else None)
        e.validation_scores_.append(score)
        e.validation_loss_curve_.append(history.validation_loss[-1] / self.scale)
        if e.verbose:
            print(f"Validation score: {score:f}")
        improved = bool(score >= e.best_validation_score_ + e.tol)
        if score > e.best_validation_score_:
            e.best_validation_score_, self.best = score, net.parameters.copy()
        return improved


def _print_epoch(net: Sequential, history: History) -> None:
    print(f"Iteration {history.epochs}, loss = {history.loss[-1]:.8f}")


def check_sum(weights: Array, expected: str) -> None:
    """Raise if the sum of weights is 0 or not finite."""
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < np.inf:
        raise ValueError(f"{expected} a finite sum above 0, got {total}")


def _equal(a: Any, b: Any) -> bool:
    """Whether two parameters are equal; a list, a tuple and an array of the same numbers are. Swallows no exception."""
    a, b = (list(one) if np.iterable(one) and not isinstance(one, (str, bytes, dict)) else one for one in (a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def set_parameters(estimator: Any, given: dict[str, Any]) -> None:
    """Store the arguments of `__init__` as they are: scikit-learn wants them validated by `fit`."""
    for name in estimator.own_parameters():
        setattr(estimator, name, given[name])


def random_state_of(estimator: Any) -> "np.random.RandomState":
    """The generator that an estimator's `random_state` asks for."""
    try:
        return check_random_state(estimator.random_state)
    except ValueError:
        raise ValueError(
            f"random_state: expected None, a seed or a numpy.random.RandomState, got {estimator.random_state!r}"
        ) from None


def dense(X: Any) -> Array:
    """A sparse matrix made dense."""
    return X.toarray() if hasattr(X, "toarray") else X


def _columns(targets: Array) -> Array:
    """Targets of rows of examples as the network takes them."""
    return targets if targets.ndim == 1 else targets.T
