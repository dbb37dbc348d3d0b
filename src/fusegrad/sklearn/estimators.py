"""The estimators, and `load`."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from fusegrad import losses
from fusegrad._engine.files import parse_json
from fusegrad._engine.validation import Array, as_number
from fusegrad.checkpoints import load_with_metadata
from fusegrad.losses import as_loss, is_compiled
from fusegrad.networks import Sequential
from fusegrad.sklearn.base import BaseMLP, Objective, check_sum, dense, set_parameters
from fusegrad.sklearn.descriptions import rebuilt, restore


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
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

    _target_kind: ClassVar[dict[str, Any]] = {"y_numeric": True}

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
        set_parameters(self, locals())

    def _objective(self) -> Objective:
        if self.loss == "squared_error":
            return Objective("mean_squared_error", 2.0, "identity")
        if self.loss == "poisson":
            return Objective(losses.Poisson(full=True), 1.0, "exp")
        loss = as_loss(self.loss)
        if is_compiled(loss) and loss.takes_logits:
            raise ValueError(
                f"loss: expected one for numbers or counts, got {self.loss!r}: use MLPClassifier for classes"
            )
        return Objective(loss, 1.0, "exp" if isinstance(loss, losses.Poisson) else "identity")

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
        except (TypeError, ValueError, OverflowError):
            raise ValueError("y: expected numbers within float64, got objects that are none") from None
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
        members = np.array([self._predicted(net, columns) for net in self.networks_])
        # A power of two is divided out, exactly: sums and squares of numbers of any size neither over- nor underflow.
        exponent = np.frexp(np.abs(members).max(axis=0))[1]
        members = np.ldexp(members, -exponent)
        mean = np.ldexp(members.mean(axis=0), exponent)
        return (mean, np.ldexp(members.std(axis=0), exponent)) if return_std else mean

    # The decorator has no types: scikit-learn has none.
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


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
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

    _target_kind: ClassVar[dict[str, Any]] = {}

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
        set_parameters(self, locals())

    def _objective(self) -> Objective:
        if self._multilabel or len(self.classes_) <= 2:
            return Objective("binary_cross_entropy", 1.0, "logistic")
        return Objective("softmax_cross_entropy", 1.0, "softmax")

    def _validated(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        X, y = super()._validated(X, y, first, incremental)
        _check_labels(y)
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
        _check_labels(y)
        _check_class_weight(self.class_weight)
        try:
            of_classes = compute_sample_weight(self.class_weight, y)
        except ValueError as error:
            raise ValueError(f"class_weight: {error}") from None
        with np.errstate(over="ignore"):
            weights = of_classes if weights is None else weights * of_classes
        check_sum(weights, "class_weight: expected weights of the examples with")
        return weights

    def _targets(self, y: Array) -> Array:
        """Class numbers (n_samples,) for softmax; columns of 0 and 1 otherwise."""
        if self._multilabel:
            return np.asarray(dense(y), dtype=bool)
        numbers = np.searchsorted(self.classes_, y)
        return numbers if len(self.classes_) > 2 else numbers.astype(bool)[:, np.newaxis]

    def _n_outputs(self, targets: Array) -> int:
        return len(self.classes_) if targets.ndim == 1 else int(targets.shape[1])

    def _tabular_targets(self, y: Array) -> Array:
        """Class numbers."""
        _check_labels(y)
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

    # The decorator has no types: scikit-learn has none.
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
            with self._restored_on_error():
                self._multilabel = type_of_target(y).startswith("multilabel")
                self.classes_ = np.unique(classes)
                return self._fit(X, y, sample_weight, (), incremental=True)
        if classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        return self._fit(X, y, sample_weight, (), incremental=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.preset is None
        return tags


def _check_labels(y: Any) -> None:
    """Raise if y has no classes. None, which NumPy cannot sort beside others, is named."""
    if y.dtype == object:
        missing = [example for example, label in enumerate(y) if label is None]
        if missing:
            raise ValueError(f"y: expected a class for each example, got None for example (row) {missing[0]}")
    check_classification_targets(y)


def _check_class_weight(class_weight: Any) -> None:
    """Raise if it is not "balanced", a dict of weights, or a list of these, one for each label."""
    for part in class_weight if isinstance(class_weight, list) else [class_weight]:
        if not isinstance(part, dict) and not (isinstance(part, str) and part == "balanced"):
            kind = ValueError if isinstance(part, str) else TypeError
            raise kind(f"class_weight: expected None, 'balanced' or a dict of weights, got {class_weight!r}")
        for weight in part.values() if isinstance(part, dict) else ():
            as_number(weight, "class_weight", least=0.0)


def load(path: Any) -> MLPRegressor | MLPClassifier:
    """Read an estimator that its `save` wrote, with its parameters. Curves of the training are not in the file.

    A `random_state` that is a generator is replaced by its default, as is a loss of the user's own that was set after
    the fit; `save` refuses a network with one.

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
        parameters = {name: rebuilt(name, value) for name, value in description["parameters"].items()}
        model: MLPRegressor | MLPClassifier = kind(**parameters)
        restore(model, checkpoint.network, description)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: its description of an estimator is not one that save wrote: {error!r:.100}"
        ) from None
    return model
