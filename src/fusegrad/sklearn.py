"""Estimators for scikit-learn: `MLPRegressor` and `MLPClassifier`, with the parameters and attributes of its own.

They validate, translate names and call `fusegrad.Sequential`. Examples are rows here, as everywhere in scikit-learn.
What differs from its estimators:

- The squared error of the engine has no one-half: learning rate, epsilon and penalty are scaled such that steps are
  those of scikit-learn (`_Objective.scale`).
- The penalty alpha / (2 n) |W|^2 has the n of a whole batch in all batches, not that of the last, smaller one.
- Nesterov's rule is the one with v = mu v - lr g(W + mu v); scikit-learn's W is this W + mu v.
- Sparse matrices are made dense.
"""

import inspect
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_consistent_length, check_random_state, compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'fusegrad.sklearn needs scikit-learn 1.6 or later: pip install "fusegrad[sklearn]"'
    ) from error

from fusegrad import losses
from fusegrad._engine.files import parse_json
from fusegrad._engine.validation import Array, as_count, as_dtype, as_flag, as_number
from fusegrad.checkpoints import load_with_metadata
from fusegrad.history import History
from fusegrad.layers import BY_NAME, Dropout, Layer, Linear
from fusegrad.losses import as_loss, build_loss, describe_loss, is_compiled
from fusegrad.networks import Sequential
from fusegrad.optimizers import SGD, Adam, Optimizer
from fusegrad.tabular import FOLDS, BestEpoch, Held, RobustSmoothScaler, TableEncoder, recipe_network, train_member

__all__ = ["MLPClassifier", "MLPRegressor", "RobustSmoothScaler", "load"]

SOLVERS = "adam", "sgd", "lbfgs"
RATES = "constant", "invscaling", "adaptive"
#: What may be set beside `preset`.
PRESET_PARAMETERS = {
    "preset", "width", "epochs", "n_ensembles", "random_state", "verbose", "dtype", "n_threads", "class_weight",
}  # fmt: skip
LEAST_RATE = 1e-6  # at which learning_rate="adaptive" ends


class _Objective(NamedTuple):
    """A loss of the engine, and how many times that of scikit-learn it and its gradient are."""

    loss: Any
    scale: float
    out_activation: str


class _MLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
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
        if self.preset is not None:
            with self._restored_on_error():
                return self._fit_tabular(X, y, sample_weight, callbacks)
        return self._fit(X, y, sample_weight, callbacks, incremental=False)

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """A fit that fails leaves the estimator, and its model if it has one, as they were."""
        # Of lists their values: a fit that goes on appends to its curves.
        before = {name: list(value) if type(value) is list else value for name, value in self.__dict__.items()}
        networks = [(net, net.parameters.copy()) for net in before.get("networks_", ())]
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            for net, parameters in networks:
                net.parameters = parameters
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
            if not np.array_equal(now, before):
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
        return _dense(X), y

    def _weights(self, y: Array, sample_weight: Any) -> Array | None:
        """Weights of the examples, at least 0 and not all 0."""
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, y)
        weights = self._with_class_weights(y, weights)
        if weights is not None:
            if (weights < 0).any():
                raise ValueError(f"sample_weight: expected weights of at least 0, got {weights.min()}")
            with np.errstate(over="ignore"):
                total = weights.sum()
            if not 0 < total < np.inf:
                raise ValueError(f"sample_weight: expected a finite sum above 0, got {total}")
        return weights

    def _with_class_weights(self, y: Array, weights: Array | None) -> Array | None:
        return weights

    def _start(self, X: Array, targets: Array) -> None:
        """A new network, and attributes as before the first epoch."""
        # One generator for weights and shuffling: partial_fit goes on with it.
        self._encoder = None
        state = check_random_state(self.random_state)
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
            self.validation_scores_.append(np.nan)  # type: ignore[union-attr]
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
        held_weights = () if weights is None else (held[2],)
        return train[0], train[1], None if weights is None else train[2], (held[0].T, _columns(held[1]), *held_weights)

    def _fit_lbfgs(self, X: Array, targets: Array, weights: Array | None) -> None:
        from scipy.optimize import minimize

        net, scale, columns = self.network_, self._objective().scale, _columns(targets)
        self._penalize(len(X), weights)

        def loss_and_gradient(w: Array) -> tuple[float, Array]:
            net.parameters = w
            loss, gradient = net.loss_and_gradient(X.T, columns, weights)
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
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=4)
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
                Held(columns[:, part], targets[..., part], None if weights is None else weights[part])
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
        for name in self.get_params().keys() - PRESET_PARAMETERS:
            if not self._is_default(name):
                raise ValueError(f"{name}: expected its default with preset='tabular', got {getattr(self, name)!r}")

    def _is_default(self, name: str) -> bool:
        return bool(np.array_equal(getattr(self, name), inspect.signature(type(self)).parameters[name].default))

    def _table(self, X: Any, *y: Any) -> Any:
        """A data frame as it is, anything else as a matrix of any dtype; with y it is that of a fit."""
        if isinstance(X, (list, tuple)) and np.asarray(X).dtype.kind in "US":
            X = np.array(X, dtype=object)  # numbers beside texts stay numbers
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
        return _dense(X).T

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write what a prediction needs to a file: the network, and how columns become its inputs.

        Parameters
        ----------
        path : str or path-like
            `load` reads it; `fusegrad.load` reads the network alone.

        Raises
        ------
        ValueError
            If there are several networks, or a category is bytes.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self)
        if len(self.networks_) > 1:
            raise ValueError(f"n_ensembles: expected one network to save, got {len(self.networks_)}: pickle the model")
        description: dict[str, Any] = {
            "kind": "MLPClassifier" if is_classifier(self) else "MLPRegressor",
            "parameters": {name: _described(name, value) for name, value in self.get_params().items()},
            "names": _plain(getattr(self, "feature_names_in_", None)),
            "n_features": self.n_features_in_,
            "out_activation": self.out_activation_,
            "made_with": None if self._encoder is not None else _plain_parameters(self._made_with),
        }
        if is_classifier(self):
            description |= {"classes": _plain(self.classes_), "multilabel": bool(self._multilabel)}
        if self._encoder is not None:
            description["categories"] = [None if found is None else list(found) for found in self._encoder.categories]
            description |= {"center": _plain(self._scaler.center_), "scale": _plain(self._scaler.scale_)}
            if not is_classifier(self):
                description |= {"mean": _plain(self._target_mean), "spread": _plain(self._target_spread)}
        try:
            text = json.dumps(description)
        except TypeError as error:
            raise ValueError(f"y: expected classes that are texts or numbers, to be saved ({error})") from None
        self.network_.save(path, metadata={"estimator": text})

    def _restore(self, network: Sequential, description: dict[str, Any]) -> None:
        """What `save` wrote; anything else is a KeyError, TypeError or ValueError."""
        tabular = "categories" in description
        self.networks_, self.n_outputs_, self._encoder = [network], network.n_outputs, None
        self.n_layers_, self.out_activation_ = len(network.dense_layers) + 1, description["out_activation"]
        self.n_features_in_ = as_count(description["n_features"], "n_features")
        names = description["names"]
        if names is not None:
            if len(names) != self.n_features_in_ or not all(isinstance(name, str) for name in names):
                raise ValueError(f"names: expected {self.n_features_in_} texts")
            self.feature_names_in_ = np.array(names, dtype=object)
        allowed = ("softmax", "logistic") if is_classifier(self) else ("identity", "exp")
        if self.out_activation_ not in allowed:
            raise ValueError(f"out_activation: expected one of {allowed}, got {self.out_activation_!r}")
        if is_classifier(self):
            self.classes_, self._multilabel = np.array(description["classes"]), bool(description["multilabel"])
            n = len(self.classes_)
            outputs = n if self._multilabel or self.out_activation_ == "softmax" else 1
            if self.classes_.ndim != 1 or outputs != network.n_outputs or not hasattr(network.loss_function, "kind"):
                raise ValueError(f"classes: expected those of {network.n_outputs} outputs, got {n}")
        expected = self.n_features_in_
        if tabular:
            self._encoder, self._scaler = TableEncoder(), RobustSmoothScaler()
            self._encoder.categories = []
            for found in description["categories"]:
                if found is not None and not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
                    raise TypeError("categories: expected lists of texts")
                self._encoder.categories.append(None if found is None else {text: i for i, text in enumerate(found)})
            if len(self._encoder.categories) != self.n_features_in_:
                raise ValueError(f"categories: expected those of {self.n_features_in_} columns")
            expected = sum(1 if found is None or len(found) == 2 else len(found) for found in self._encoder.categories)
            for name in ("center", "scale"):
                setattr(self._scaler, f"{name}_", _finite(description[name], name, (expected,)))
            self._scaler.n_features_in_ = expected
            if not is_classifier(self):
                for name in ("mean", "spread"):
                    setattr(self, f"_target_{name}", _finite(description[name], name, (network.n_outputs, 1)))
        else:
            self._made_with = dict(description["made_with"])
        if network.n_features != expected:
            raise ValueError(f"expected a network of {expected} features, got {network.n_features}")
        # For a fit that goes on: the generator and the averages of the optimizer are new.
        self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1, size=4))
        self.n_iter_ = self.t_ = 0
        self._optimizer = None
        self._start_curves()

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


def load(path: Any) -> "MLPRegressor | MLPClassifier":
    """Read an estimator that its `save` wrote, with its parameters. Curves of the training are not in the file.

    A loss of the user's own, and a `random_state` that is a generator, are replaced by their defaults.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    MLPRegressor or MLPClassifier

    Raises
    ------
    TypeError, OSError, ValueError
        As `fusegrad.load`; ValueError also if no estimator saved the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from fusegrad.sklearn import MLPRegressor, load
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> model = MLPRegressor(preset="tabular", width=8, random_state=0).fit(X, X[:, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(pathlib.Path(folder, "model.safetensors"))
    ...     same = load(pathlib.Path(folder, "model.safetensors"))
    >>> bool((same.predict(X) == model.predict(X)).all())
    True
    """
    checkpoint, metadata = load_with_metadata(path)
    text = metadata.get("estimator")
    if text is None:
        raise ValueError(f"{path}: no estimator of fusegrad.sklearn saved it")
    try:
        description = parse_json(text)
        kind = {"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}[description["kind"]]
        parameters = {name: _rebuilt(name, value) for name, value in description["parameters"].items()}
        model: MLPRegressor | MLPClassifier = kind(**parameters)
        model._restore(checkpoint.network, description)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: its description of an estimator is not one that save wrote: {error!r:.100}"
        ) from None
    return model


def _finite(values: Any, name: str, shape: tuple[int, ...]) -> Array:
    array = np.array(values, dtype="f8")
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers of shape {shape}")
    return array


def _described(name: str, value: Any) -> Any:
    """A parameter for JSON."""
    if name == "loss" and not isinstance(value, str):
        return {"loss": describe_loss(value)} if is_compiled(value) else "squared_error"
    if name == "class_weight" and isinstance(value, dict):
        return {"class_weight": [[_plain([key])[0], float(weight)] for key, weight in value.items()]}
    if name == "random_state" and value is not None and not isinstance(value, (int, np.integer)):
        return None
    if isinstance(value, (list, tuple, np.ndarray)):
        return _plain(np.asarray(value)) if len(value) else []
    if name == "n_iter_no_change" and value == np.inf:
        return "inf"
    return value.item() if isinstance(value, np.generic) else value if value is None else _json_value(value)


def _json_value(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _plain_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: _described(name, value) for name, value in parameters.items() if name != "loss"}


def _rebuilt(name: str, value: Any) -> Any:
    """What `_described` described."""
    if name == "loss" and isinstance(value, dict):
        return build_loss(value["loss"])
    if name == "class_weight" and isinstance(value, dict):
        return {key: weight for key, weight in value["class_weight"]}
    return np.inf if name == "n_iter_no_change" and value == "inf" else value


def _plain(values: Any) -> Any:
    """Python's own numbers, texts and lists, for JSON."""
    if isinstance(values, np.ndarray):
        return values.tolist()
    return [value.item() if isinstance(value, np.generic) else value for value in values] if values else values


def _print_epoch(net: Sequential, history: History) -> None:
    print(f"Iteration {history.epochs}, loss = {history.loss[-1]:.8f}")


def _set_parameters(estimator: Any, given: dict[str, Any]) -> None:
    """Store the arguments of `__init__` as they are: scikit-learn wants them validated by `fit`."""
    for name in estimator._get_param_names():
        setattr(estimator, name, given[name])


def _dense(X: Any) -> Array:
    return X.toarray() if hasattr(X, "toarray") else X


def _columns(targets: Array) -> Array:
    """Targets of rows of examples as the network takes them."""
    return targets if targets.ndim == 1 else targets.T


class MLPRegressor(RegressorMixin, _MLP):  # type: ignore[misc]
    """scikit-learn's `MLPRegressor` on the engine of this package: the same parameters and attributes.

    Prediction: x_{l+1} = f(x_l W_l + b_l) for a row x_1 of X, and x_L W_L + b_L at the end. Minimised is
    sum_i w_i l_i / sum_i w_i + alpha / (2 n) sum W^2 over batches of n examples.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "huber", "quantile"} or object of `fusegrad.losses`, default "squared_error"
        The squared error has one-half, as in scikit-learn. With "poisson" the prediction is exp of the output.
    hidden_layer_sizes : int or list of int, default (100,)
        Units of each hidden layer. ``()`` is a linear model.
    activation : {"relu", "tanh", "logistic", "identity"}, default "relu"
        Or another one of the package: "leaky_relu", "elu", "selu", "softplus", "silu", "mish", "gelu".
    solver : {"adam", "sgd", "lbfgs"}, default "adam"
        lbfgs is SciPy's L-BFGS-B on all examples.
    alpha : float, default 1e-4
        The factor of the penalty of the weights.
    batch_size : int or "auto", default "auto"
        "auto" is min(200, n_samples).
    learning_rate : {"constant", "invscaling", "adaptive"}, default "constant"
        For sgd. "invscaling": learning_rate_init / (t + 1)^power_t, t the examples seen. "adaptive": a fifth, each time
        when `n_iter_no_change` epochs bring no improvement.
    learning_rate_init : float, default 1e-3
    power_t : float, default 0.5
    max_iter : int, default 200
        The most epochs (iterations of lbfgs).
    shuffle : bool, default True
    random_state : int, RandomState or None
        Draws initial weights, shuffling, dropout and the validation part.
    tol : float, default 1e-4
        An epoch that improves the loss (or the validation score) by less is none.
    verbose : bool or int, default False
    warm_start : bool, default False
        `fit` goes on with the network of the call before.
    momentum : float, default 0.9
    nesterovs_momentum : bool, default True
    early_stopping : bool, default False
        Hold out `validation_fraction` of the examples, stop when their score no longer improves, and keep the best
        epoch's weights.
    validation_fraction : float, default 0.1
    beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-8
        Of adam.
    n_iter_no_change : int or inf, default 10
    max_fun : int, default 15000
        The most evaluations of the loss by lbfgs.
    dropout : float, default 0.0
        The share of units of each hidden layer that are masked in a step.
    dtype : {None, "float32", "float64"}
        Of all computations; None: that of X (float64 if X has integers). float32 is about twice as fast.
    n_threads : int, optional
        The most threads to use. Results do not depend on it.
    preset : {None, "tabular"}
        "tabular": a recipe that is good without tuning (RealMLP-TD-S): data frames with categories and missing values
        go straight in, and are encoded and scaled; three hidden layers, 256 epochs in float32, the best epoch on a
        fifth of the examples is kept. Other parameters than the next three, `random_state`, `verbose`, `dtype`,
        `n_threads` and `class_weight` must have their defaults.
    width : int or list of int, default 256
        Units of each of the recipe's three hidden layers, or of as many as the list has; 64 takes a tenth of the time.
    epochs : int, default 256
        Of the recipe.
    n_ensembles : int, default 1
        Networks of the recipe, each with another seed and another fifth held out. The prediction is their mean.

    Attributes
    ----------
    network_ : fusegrad.Sequential
        The trained network: `save`, `freeze`, `plan` and everything else. (`networks_`: all of an ensemble.)
    coefs_, intercepts_ : lists of arrays (n_in, n_out) and (n_out,)
        Views of its parameters.
    loss_, best_loss_, loss_curve_ : float, float, list
        The loss of the last epoch, the smallest one, and of each epoch.
    validation_scores_, best_validation_score_, validation_loss_curve_ : list, float, list
        R² and the loss of the held-out part after each epoch; None without `early_stopping`.
    n_iter_, t_ : int
        Epochs of the last fit, and examples seen in all.
    best_epoch_ : int
        Of the recipe: the epoch of its (first) network that is kept, from 0 on.
    n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_
        As in scikit-learn.

    Raises
    ------
    TypeError, ValueError
        If a parameter or an array is of the wrong kind, or training diverges.

    Notes
    -----
    `fit` and predictions release the GIL; one estimator must not be fitted by two threads at once. Ctrl-C ends a fit of
    epochs with a warning and the weights so far, as in scikit-learn. A fit that fails, and lbfgs after Ctrl-C, leave
    the estimator as it was.

    References
    ----------
    scikit-learn's documentation of ``sklearn.neural_network.MLPRegressor``.

    Examples
    --------
    >>> import fusegrad as fg
    >>> from fusegrad.sklearn import MLPRegressor
    >>> X, y = fg.datasets.load_penguins()
    >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
    >>> model = MLPRegressor(hidden_layer_sizes=(16,), learning_rate_init=0.01, random_state=0).fit(X.T, y[0])
    >>> model.score(X.T, y[0]) > 0.75
    True
    """

    _target_kind = {"y_numeric": True}  # noqa: RUF012

    def __init__(
        self, loss: Any = "squared_error", hidden_layer_sizes: Any = (100,), activation: str = "relu", *,
        solver: str = "adam", alpha: float = 1e-4, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 1e-3, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: Any = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: Any = 10, max_fun: int = 15000, dropout: float = 0.0, dtype: Any = None,
        n_threads: int | None = None, preset: str | None = None, width: Any = 256, epochs: int = 256,
        n_ensembles: int = 1,
    ) -> None:  # fmt: skip
        _set_parameters(self, locals())

    def _objective(self) -> _Objective:
        if self.loss == "squared_error":
            return _Objective("mean_squared_error", 2.0, "identity")
        if self.loss == "poisson":
            return _Objective(losses.Poisson(full=True), 1.0, "exp")
        loss = as_loss(self.loss)
        return _Objective(loss, 1.0, "exp" if isinstance(loss, losses.Poisson) else "identity")

    def _per_output(self) -> float:
        return float(self.n_outputs_) if self.loss == "squared_error" else 1.0

    def _targets(self, y: Array) -> Array:
        return y if y.ndim == 2 else y[:, np.newaxis]

    def _n_outputs(self, targets: Array) -> int:
        return int(targets.shape[1])

    def _strata(self, targets: Array) -> None:
        return None

    def _tabular_targets(self, y: Array) -> Array:
        """Standardised columns."""
        if y.dtype.kind not in "biufO":
            raise ValueError(f"y: expected numbers, got {y.dtype} such as {y.flat[0]!r}")
        try:
            y = y.astype("f8")
        except (TypeError, ValueError):
            raise ValueError("y: expected numbers, got objects that are none") from None
        y = y[np.newaxis] if y.ndim == 1 else y.T
        largest = float(np.abs(y).max()) or 1.0  # by which the squares of the deviations stay finite
        scaled = y / largest
        mean, spread = scaled.mean(axis=1, keepdims=True), scaled.std(axis=1, keepdims=True)
        spread = np.where(spread > 0, spread, 1.0)
        self._target_mean, self._target_spread = mean * largest, spread * largest
        return (scaled - mean) / spread

    def _predicted(self, net: Sequential, columns: Array) -> Array:
        """Predictions (n_samples,), or (n_samples, n_outputs)."""
        outputs = net(columns)
        if self.out_activation_ == "exp":
            np.exp(outputs, out=outputs)
        if self._encoder is not None:
            outputs = (
                outputs * self._target_spread + self._target_mean
            )  # float64: a mean may be large beside the spread
        return outputs[0] if len(outputs) == 1 else outputs.T

    def _score(self, net: Sequential, X: Array, y: Array, weights: Array | None) -> float:
        prediction = self._predicted(net, X)
        if not np.isfinite(prediction).all():
            return np.nan
        with np.errstate(over="ignore"):
            return float(r2_score(y.T, prediction, sample_weight=weights))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictions for rows of X.

        Parameters
        ----------
        X : array (n_samples, n_features)
        return_std : bool, default False
            Return the standard deviation over the members of an ensemble, too.

        Returns
        -------
        array (n_samples,), or (n_samples, n_outputs)
            In the dtype of the network, of the recipe for tables float64. With `return_std` a pair of such arrays.
        """
        columns = self._columns_of(X)
        if len(self.networks_) == 1:
            if return_std:
                raise ValueError("return_std: expected False for one network: n_ensembles=5, say, has a spread")
            return self._predicted(self.network_, columns)
        members = [self._predicted(net, columns) for net in self.networks_]
        mean = np.mean(members, axis=0)
        return (mean, np.std(members, axis=0)) if return_std else mean

    @available_if(lambda self: self.solver != "lbfgs" and self.preset is None)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """Train for one more epoch.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, (), incremental=True)


class MLPClassifier(ClassifierMixin, _MLP):  # type: ignore[misc]
    """scikit-learn's `MLPClassifier` on the engine of this package: the same parameters and attributes.

    Softmax with the cross-entropy for three classes or more; one sigmoid with the binary cross-entropy for two; one for
    each label if y has several columns of 0 and 1 (multilabel).

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter,\
 shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction,\
 beta_1, beta_2, epsilon, n_iter_no_change, max_fun, dropout, dtype, n_threads, preset, width, epochs, n_ensembles
        As for `MLPRegressor`.
    class_weight : dict, "balanced" or None
        Weights of the classes, multiplied with those of the examples; "balanced": n_samples / (n_classes count).

    Attributes
    ----------
    classes_ : array
        The classes, in the order of the columns of `predict_proba`.
    network_, coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_,\
 validation_loss_curve_, n_iter_, t_, n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_
        As for `MLPRegressor`; scores are accuracies.

    Raises
    ------
    TypeError, ValueError
        If a parameter or an array is of the wrong kind, or training diverges.

    Notes
    -----
    Threads and Ctrl-C: as for `MLPRegressor`.

    References
    ----------
    scikit-learn's documentation of ``sklearn.neural_network.MLPClassifier``.

    Examples
    --------
    >>> import numpy as np
    >>> from fusegrad.sklearn import MLPClassifier
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "different")
    >>> model = MLPClassifier(learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
    >>> model.predict([[1.0, 1.0], [1.0, -1.0]]), model.predict_proba(X).shape
    (array(['same', 'different'], dtype='<U9'), (300, 2))
    """

    _target_kind: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: str = "relu", *, solver: str = "adam",
        alpha: float = 1e-4, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 1e-3, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: Any = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: Any = 10, max_fun: int = 15000, class_weight: Any = None, dropout: float = 0.0,
        dtype: Any = None, n_threads: int | None = None, preset: str | None = None, width: Any = 256, epochs: int = 256,
        n_ensembles: int = 1,
    ) -> None:  # fmt: skip
        _set_parameters(self, locals())

    def _objective(self) -> _Objective:
        if self._multilabel or len(self.classes_) <= 2:
            return _Objective("binary_cross_entropy", 1.0, "logistic")
        return _Objective("softmax_cross_entropy", 1.0, "softmax")

    def _validated(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        X, y = super()._validated(X, y, first, incremental)
        check_classification_targets(y)
        multilabel = type_of_target(y).startswith("multilabel")
        classes = np.arange(y.shape[1]) if multilabel else np.unique(y)
        if not hasattr(self, "classes_") or (first and not incremental):
            self._multilabel, self.classes_ = multilabel, classes
        elif self.warm_start and not incremental and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {classes}"
            )
        elif multilabel != self._multilabel or len(np.setdiff1d(classes, self.classes_)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )
        return X, y

    def _with_class_weights(self, y: Array, weights: Array | None) -> Array | None:
        if self.class_weight is None:
            return weights
        of_classes = compute_sample_weight(self.class_weight, y)
        return of_classes if weights is None else weights * of_classes

    def _targets(self, y: Array) -> Array:
        """Class numbers (n_samples,) for softmax; columns of 0 and 1 otherwise."""
        if self._multilabel:
            return np.asarray(_dense(y), dtype=bool)
        numbers = np.searchsorted(self.classes_, y)
        return numbers if len(self.classes_) > 2 else numbers.astype(bool)[:, np.newaxis]

    def _n_outputs(self, targets: Array) -> int:
        return len(self.classes_) if targets.ndim == 1 else int(targets.shape[1])

    def _tabular_targets(self, y: Array) -> Array:
        """Class numbers."""
        check_classification_targets(y)
        if type_of_target(y).startswith("multilabel"):
            raise ValueError("y: expected one class for each example with preset='tabular', got several labels")
        self._multilabel, self.classes_ = False, np.unique(column_or_1d(y, warn=True))
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected at least two classes with preset='tabular', got one class, {y[0]!r}")
        return np.searchsorted(self.classes_, y)

    def _strata(self, targets: Array) -> Any:
        return targets if self.n_outputs_ == 1 else None

    def _predicted(self, net: Sequential, columns: Array) -> Array:
        """The numbers of the classes (n_samples,), or 0 and 1 (n_samples, n_outputs)."""
        if self.n_outputs_ > 1 and self._multilabel:
            return (net(columns) > 0).T.astype(np.int64)
        return net.classes(columns)

    def _score(self, net: Sequential, X: Array, y: Array, weights: Array | None) -> float:
        prediction = self._predicted(net, X)
        y = y if y.ndim == 1 else y[0] if len(y) == 1 else y.T
        return float(accuracy_score(y, prediction, sample_weight=weights))

    def predict(self, X: Any) -> Array:
        """The most probable class of each row of X.

        Parameters
        ----------
        X : array (n_samples, n_features)

        Returns
        -------
        array (n_samples,), or 0 and 1 (n_samples, n_outputs) if there are several labels
        """
        columns = self._columns_of(X)
        if len(self.networks_) > 1:
            return self.classes_[self._probabilities(columns).argmax(axis=0)]
        numbers = self._predicted(self.network_, columns)
        if self._multilabel:
            return numbers if numbers.ndim == 2 else numbers[:, np.newaxis]
        return self.classes_[np.minimum(numbers, len(self.classes_) - 1)]

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class.

        Parameters
        ----------
        X : array (n_samples, n_features)

        Returns
        -------
        array (n_samples, n_classes)
            In the order of ``classes_``; in the dtype of the network.
        """
        probabilities = self._probabilities(self._columns_of(X))
        if len(probabilities) == 1:
            return np.stack([1 - probabilities[0], probabilities[0]], axis=1)
        return probabilities.T

    def _probabilities(self, columns: Array) -> Array:
        """Of each output, (n_outputs, n_samples): the mean over the networks."""
        if len(self.networks_) == 1:
            return self.network_.probabilities(columns)
        return np.mean([net.probabilities(columns) for net in self.networks_], axis=0)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`.

        Parameters
        ----------
        X : array (n_samples, n_features)

        Returns
        -------
        array (n_samples, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    @available_if(lambda self: self.solver != "lbfgs" and self.preset is None)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> "MLPClassifier":
        """Train for one more epoch.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional
        classes : array, optional
            All classes that will come; needed in the first call.

        Returns
        -------
        self
        """
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._multilabel = type_of_target(y).startswith("multilabel")
            self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        return self._fit(X, y, sample_weight, (), incremental=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.preset is None
        return tags
