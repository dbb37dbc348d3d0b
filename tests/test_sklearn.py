"""The estimators behave as scikit-learn's: its checks, its steps, its attributes; and what it does not have."""

import contextlib
import copy
import io
import json
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from decimal import Decimal

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the sklearn extra")

import joblib
import sklearn
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import PoissonRegressor, QuantileRegressor
from sklearn.model_selection import GridSearchCV, check_cv, cross_val_score, cross_validate, train_test_split
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fusegrad as fg
from fusegrad.sklearn import MLPClassifier, MLPRegressor, RobustSmoothScaler, load
from fusegrad.sklearn.tabular import RATES, TableEncoder, recipe_network

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # joblib counts cores by a program, which is not on the path of every environment.
    pytest.mark.filterwarnings("ignore:Could not find the number of physical cores"),
]
BOTH = pytest.mark.parametrize("estimator", [MLPRegressor, MLPClassifier])


def digits(n=200):
    X, y = load_digits(return_X_y=True)
    return X[:n] / 16, y[:n]


def two(n=100):
    X, y = load_digits(n_class=2, return_X_y=True)
    return X[:n] / 16, y[:n]


def iris():
    return load_iris(return_X_y=True)


# Without a reason for a failure: there is none.
@parametrize_with_checks([MLPRegressor(max_iter=100), MLPClassifier(max_iter=100)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_losses_for_classes_are_those_of_the_classifier():
    X, y = regression()
    for loss in ("binary_cross_entropy", fg.losses.SoftmaxCrossEntropy()):
        with pytest.raises(ValueError, match=r"loss: expected one for numbers or counts, got .*: use MLPClassifier"):
            MLPRegressor(loss=loss).fit(X, y)


@pytest.mark.parametrize("incremental", [False, True])
def test_what_follows_a_fit_that_fails(incremental):
    """Generator, averages and steps are those before it, too."""
    X, y = regression()
    model = MLPRegressor(hidden_layer_sizes=(8,), max_iter=3, random_state=0, warm_start=True, batch_size=32)
    fit = model.partial_fit if incremental else model.fit
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fit(X, y)
        other = copy.deepcopy(model)

        class Broken(io.StringIO):
            def write(self, text):
                raise BrokenPipeError

        model.set_params(verbose=True)
        with pytest.raises(BrokenPipeError), contextlib.redirect_stdout(Broken()):
            fit(X, y)
        model.set_params(verbose=False)
        fit(X, y)
        (other.partial_fit if incremental else other.fit)(X, y)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))


# ---- the same steps as scikit-learn -------------------------------------------------------------------


def regression(n_outputs=1):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5))
    y = np.stack([np.sin(X[:, i]) + 0.1 * rng.normal(size=120) for i in range(n_outputs)], axis=1)
    return X, y if n_outputs > 1 else y[:, 0]


CASES = {
    "one output": (MLPRegressor, TheirRegressor, regression(), {}),
    "three outputs": (MLPRegressor, TheirRegressor, regression(3), {}),
    "poisson": (MLPRegressor, TheirRegressor, (regression()[0], np.arange(120.0) % 4), {"loss": "poisson"}),
    "two classes": (MLPClassifier, TheirClassifier, (regression()[0], np.arange(120) % 2), {}),
    "three classes": (MLPClassifier, TheirClassifier, (regression()[0], np.arange(120) % 3), {}),
    "labels": (MLPClassifier, TheirClassifier, (regression()[0], np.arange(240).reshape(120, 2) % 7 < 3), {}),
}
RULES = {
    "adam": {"solver": "adam", "learning_rate_init": 0.01, "epsilon": 1e-13},  # theirs is added before the correction
    "descent": {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate_init": 0.2, "momentum": 0.0, "learning_rate": "invscaling"},
    "lbfgs": {"solver": "lbfgs", "max_iter": 6},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_scikit_learn(case, rule, weighted):
    """From the same weights, over the same batches: the same weights, losses and predictions."""
    ours, theirs, (X, y), options = CASES[case]
    options = {"hidden_layer_sizes": (7, 4), "activation": "tanh", "alpha": 0.3, "shuffle": False, "batch_size": 40,
               "warm_start": True, "random_state": 0, "max_iter": 3, **options, **RULES[rule]}  # fmt: skip
    rng = np.random.default_rng(1)
    # The engine's penalty has the mean weight of all batches: here all batches have the same.
    weights = (np.tile(rng.uniform(0.5, 2.0, 40), 3),) if weighted else ()
    a, b = ours(**options).fit(X, y, *weights), theirs(**options).fit(X, y, *weights)
    for estimator in (a, b):
        for i, coef in enumerate(estimator.coefs_):
            coef[:] = np.sin(np.arange(coef.size) + i).reshape(coef.shape) / 3
            estimator.intercepts_[i][:] = 0.1
        estimator.fit(X, y, *weights)
    assert (a.n_iter_, a.t_, a.out_activation_) == (b.n_iter_, b.t_, b.out_activation_)
    if case == "three outputs":  # scikit-learn divides the error by the outputs, but not the penalty, nor the gradient
        if rule == "lbfgs":
            return
    else:
        np.testing.assert_allclose(a.loss_, b.loss_, rtol=1e-6)
    for mine, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-7)
    np.testing.assert_allclose(a.predict(X), b.predict(X), atol=1e-6)
    if isinstance(a, MLPClassifier):
        np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(a.predict_log_proba(X), b.predict_log_proba(X), atol=1e-6)


@BOTH
def test_parameters_and_attributes(estimator):
    """All that scikit-learn's estimator has, with its defaults."""
    theirs = TheirRegressor if estimator is MLPRegressor else TheirClassifier
    mine, other = estimator().get_params(), theirs().get_params()
    assert {name: mine[name] for name in other} == other
    for options in ({}, {"early_stopping": True}, {"solver": "lbfgs"}):
        X, y = iris()
        a, b = (kind(max_iter=5, random_state=0, **options).fit(X, y) for kind in (estimator, theirs))
        wanted = {name for name in vars(b) if name.endswith("_") and not name.startswith("_")}
        for name in wanted:
            value = getattr(b, name)
            assert isinstance(getattr(a, name), type(value)) or np.isscalar(value), name
            if name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
                assert getattr(a, name) == value, name
        assert [coef.shape for coef in a.coefs_] == [coef.shape for coef in b.coefs_]
        assert [bias.shape for bias in a.intercepts_] == [bias.shape for bias in b.intercepts_]


# ---- behaviour that users of scikit-learn know --------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_that_of_the_data(estimator, dtype):
    X, y = digits()
    model = estimator((5, 3), random_state=1, max_iter=5) if estimator is MLPClassifier else MLPRegressor(
        hidden_layer_sizes=(5, 3), random_state=1, max_iter=5)  # fmt: skip
    model.fit(X.astype(dtype), y)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(dtype)}
    if estimator is MLPRegressor:
        assert model.predict(X.astype(dtype)).dtype == dtype
    assert clone(model).set_params(dtype="float32").fit(X, y).coefs_[0].dtype == np.float32


@BOTH
def test_epochs_end_by_tolerance(estimator):
    X, y = two()
    for n_iter_no_change in (2, 5, 10):
        model = estimator(tol=0.05, max_iter=3000, solver="sgd", n_iter_no_change=n_iter_no_change, random_state=0)
        model.fit(X, y)
        assert model.n_iter_ < 3000
        curve = model.loss_curve_
        improved = [i == 0 or curve[i] <= min(curve[:i]) - 0.05 for i in range(len(curve))]
        assert not any(improved[-n_iter_no_change - 1 :])
        assert improved[-n_iter_no_change - 2]
    model = estimator(tol=1e9, max_iter=50, solver="sgd", n_iter_no_change=np.inf).fit(X, y)
    assert model.n_iter_ == 50


@BOTH
def test_early_stopping(estimator):
    X, y = two()
    model = estimator(tol=0.2, max_iter=3000, solver="sgd", early_stopping=True, random_state=0).fit(X, y)
    assert model.n_iter_ < 3000
    assert model.best_loss_ is None
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == model.n_iter_
    assert max(model.validation_scores_) == model.best_validation_score_
    model.set_params(early_stopping=False).fit(X, y)
    assert model.validation_scores_ is model.validation_loss_curve_ is model.best_validation_score_ is None
    assert model.best_loss_ == min(model.loss_curve_)


def test_early_stopping_keeps_the_best_weights():
    X, y = regression()
    model = MLPRegressor(early_stopping=True, learning_rate_init=0.05, max_iter=60, random_state=3)
    model.fit(X, y)
    # The same fit, ended at its best epoch, has those weights.
    best = int(np.argmax(model.validation_scores_)) + 1
    again = clone(model).set_params(max_iter=best).fit(X, y)
    assert again.best_validation_score_ == model.best_validation_score_
    assert all((a == b).all() for a, b in zip(again.coefs_, model.coefs_, strict=True))


def test_early_stopping_is_stratified():
    with pytest.raises(ValueError, match="The least populated class"):
        MLPClassifier(early_stopping=True).fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True).fit([[1.0], [2.0]], [1.0, 2.0])


def test_an_adaptive_rate_falls_until_the_end():
    model = MLPClassifier(tol=0.5, max_iter=3000, solver="sgd", learning_rate="adaptive").fit([[3, 2], [1, 6]], [1, 0])
    assert model.n_iter_ < 3000
    assert model._optimizer.lr <= 1e-6


@BOTH
def test_a_warm_start_goes_on(estimator):
    X, y = iris()
    model = estimator(max_iter=10, random_state=0, warm_start=True, early_stopping=True)
    model.fit(X, y)
    scores, weights = len(model.validation_scores_), model.coefs_[0].copy()
    model.set_params(max_iter=20).fit(X, y)
    assert len(model.validation_scores_) > scores
    assert (model.coefs_[0] != weights).any()
    model = estimator(max_iter=3, solver="sgd", warm_start=True).fit(X, y)
    assert model.fit(X, y).n_iter_ == 3
    assert len(model.loss_curve_) == 6
    assert model.t_ == 6 * len(X)


def test_a_warm_start_has_the_same_classes():
    X, y = iris()
    model = MLPClassifier(2, solver="lbfgs", warm_start=True, random_state=42, tol=1e-2).fit(X, y).fit(X, y)
    for others in (np.repeat([0, 1], 75), np.repeat([0, 1, 3], 50), np.repeat([0, 1, 2, 3, 4], 30)):
        with pytest.raises(ValueError, match=r"warm_start can only be used where `y` has the same classes.*\[0 1 2\]"):
            model.fit(X, others)


@BOTH
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_what_has_not_converged_warns(estimator, solver):
    model = estimator(solver=solver, max_iter=10, n_iter_no_change=np.inf, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_iter=10"):
        model.fit(*iris())
    assert model.n_iter_ == 10


@BOTH
def test_partial_fit_is_an_epoch(estimator):
    """So many of them are a fit of so many epochs, bit for bit."""
    X, y = digits()
    options = {"random_state": 1, "batch_size": 32, "max_iter": 12, "tol": 0.0, "n_iter_no_change": np.inf}
    whole, parts = estimator(**options).fit(X, y), estimator(**options)
    for _ in range(12):
        parts.partial_fit(X, y, **({"classes": np.unique(y)} if estimator is MLPClassifier else {}))
    assert all((a == b).all() for a, b in zip(whole.coefs_, parts.coefs_, strict=True))
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.t_ == whole.t_


@BOTH
def test_what_partial_fit_refuses(estimator):
    X, y = iris()
    assert not hasattr(estimator(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        estimator(early_stopping=True).fit(X, y).partial_fit(X, y)
    if estimator is MLPClassifier:
        model = MLPClassifier(solver="sgd").partial_fit([[3, 2]], [0], classes=[0, 1])
        with pytest.raises(ValueError, match="is not the same as on last call"):
            model.partial_fit([[3, 2]], [0], classes=[1, 2])
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            MLPClassifier().partial_fit(X, y)
        with pytest.raises(ValueError, match="`y` has classes not in"):
            model.partial_fit([[3, 2]], [2])


def test_classes_that_come_later():
    model = MLPClassifier(random_state=0)
    model.partial_fit([[1], [2], [3]], ["a", "b", "c"], classes=["a", "b", "c", "d"])
    model.partial_fit([[4]], ["d"])
    assert model.predict_proba([[1.0]]).shape == (1, 4)


def test_several_labels():
    X, y = make_classification(200, n_features=8, n_informative=6, random_state=0)
    labels = np.stack([y, 1 - y, X[:, 0] > 0], axis=1)
    model = MLPClassifier(20, max_iter=300, learning_rate_init=0.02, random_state=0).fit(X, labels)
    assert model.predict(X).shape == (200, 3)
    assert model.score(X, labels) > 0.9
    assert model.out_activation_ == "logistic"
    assert ((model.predict_proba(X) > 0.5) == model.predict(X)).all()


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_fit_that_diverges(solver):
    X, y = np.finfo("f8").max * np.random.default_rng(0).uniform(size=(10, 2)), np.arange(10) % 2
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(solver=solver).fit(X, y)


def test_a_fit_that_diverges_with_early_stopping_keeps_its_best():
    X, y = iris()
    model = MLPRegressor(activation="identity", solver="sgd", learning_rate_init=1, max_iter=200, random_state=0,
                         early_stopping=True)  # fmt: skip
    model.fit(X, y)
    assert np.isnan(model.validation_scores_[-1])
    assert np.isfinite(model.predict(X)).all()


def test_poisson_is_the_generalised_linear_model():
    rng = np.random.default_rng(0)
    X = np.linspace(0, 1, 100)[:, np.newaxis]
    y = rng.poisson(np.exp(X[:, 0] + 1))
    glm = PoissonRegressor(alpha=0, tol=1e-7).fit(X, y)
    model = MLPRegressor(loss="poisson", hidden_layer_sizes=(), alpha=0, solver="lbfgs", tol=1e-7, random_state=0)
    np.testing.assert_allclose(model.fit(X, y).predict(X), glm.predict(X), rtol=1e-4)


def test_quantiles_and_huber():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = X @ [1.0, -2.0] + rng.exponential(size=400)
    options = {"hidden_layer_sizes": (), "alpha": 0.0, "learning_rate_init": 0.02, "max_iter": 2000, "random_state": 0,
               "tol": 0.0, "n_iter_no_change": 200}  # fmt: skip
    model = MLPRegressor(loss=fg.losses.Quantile(0.9), **options).fit(X, y)
    exact = QuantileRegressor(quantile=0.9, alpha=0.0).fit(X, y)
    np.testing.assert_allclose(model.coefs_[0][:, 0], exact.coef_, atol=0.05)
    assert 0.85 < (y < model.predict(X)).mean() < 0.95
    y[::20] += 100.0
    robust = MLPRegressor(loss="huber", **options).fit(X, y)
    np.testing.assert_allclose(robust.coefs_[0][:, 0], [1.0, -2.0], atol=0.2)


@BOTH
def test_shuffling(estimator):
    X, y = iris()
    options = {"hidden_layer_sizes": 3, "max_iter": 2, "batch_size": 10, "random_state": 0}
    fits = [estimator(**options, shuffle=shuffle).fit(X, y).coefs_[0] for shuffle in (True, True, False, False)]
    assert (fits[0] == fits[1]).all()
    assert (fits[2] == fits[3]).all()
    assert (fits[0] != fits[2]).any()


def test_verbose_prints_each_epoch(capsys):
    MLPClassifier(2, solver="sgd", max_iter=2, verbose=10, early_stopping=True).fit(*two())
    out = capsys.readouterr().out
    assert "Iteration 1, loss = " in out
    assert "Validation score: " in out


def test_ctrl_c_ends_a_fit_with_a_warning():
    X, y = regression()
    model = MLPRegressor(loss=Interrupted(), max_iter=10**6, hidden_layer_sizes=4)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y)
    assert 0 < model.n_iter_ < 10**6
    assert np.isfinite(model.predict(X)).all()


class Interrupted:
    """A loss during whose 20th call somebody presses Ctrl-C."""

    calls = 0

    def value_and_gradient(self, prediction, y):
        self.calls += 1
        if self.calls == 20:
            raise KeyboardInterrupt
        r = prediction - y
        return float((r * r).mean()), 2 * r / r.shape[1]


# ---- in the company of the rest of scikit-learn -------------------------------------------------------


def test_pipelines_and_searches():
    X, y = load_breast_cancer(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=8, learning_rate_init=0.01, random_state=0))
    assert cross_val_score(pipe, X, y, cv=3).min() > 0.9
    search = GridSearchCV(pipe, {"mlpclassifier__alpha": [1e-4, 1e-2]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.9


@BOTH
def test_metadata_routing(estimator):
    """Weights go to the fits and to the scores that request them, and to no others."""
    X, y = two()
    weights = np.random.default_rng(0).uniform(size=len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        model = estimator(hidden_layer_sizes=8, max_iter=5, random_state=0)
        for fits, scores in ((True, True), (True, False), (False, True)):
            model.set_fit_request(sample_weight=fits).set_score_request(sample_weight=scores)
            found = cross_validate(model, X, y, cv=2, params={"sample_weight": weights}, return_estimator=True)
            folds = check_cv(2, y, classifier=is_classifier(model)).split(X, y)
            for fitted, score, (train, test) in zip(found["estimator"], found["test_score"], folds, strict=True):
                w_train, w_test = weights[train] if fits else None, weights[test] if scores else None
                alone = clone(model).fit(X[train], y[train], sample_weight=w_train)
                np.testing.assert_array_equal(fitted.coefs_[0], alone.coefs_[0])
                assert score == alone.score(X[test], y[test], sample_weight=w_test)
        model.set_partial_fit_request(sample_weight=True)
        assert model.get_metadata_routing().partial_fit.requests["sample_weight"] is True


@BOTH
def test_pickles_and_memory_maps(estimator, tmp_path):
    X, y = iris()
    model = estimator(max_iter=5, random_state=0).fit(X, y)
    for other in (pickle.loads(pickle.dumps(model)), joblib.load(joblib.dump(model, tmp_path / "model.pkl")[0])):
        assert (other.predict(X) == model.predict(X)).all()
        other.coefs_[0][:] = 0  # still views of its network
        assert (other.network_.named_parameters()["W1"] == 0).all()
        again = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
        model_2 = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
        assert (again.coefs_[0] == model_2.coefs_[0]).all()
    joblib.dump(X, tmp_path / "X.pkl")
    assert estimator(max_iter=5, random_state=0).fit(joblib.load(tmp_path / "X.pkl", mmap_mode="r"), y)
    mapped = joblib.load(joblib.dump(model, tmp_path / "model.pkl")[0], mmap_mode="r")
    assert (mapped.predict(X) == model.predict(X)).all()


@BOTH
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_read_only_data_are_not_copied_and_models_travel_beside_their_pickle(estimator, solver):
    X = np.random.default_rng(0).normal(size=(10_000, 200))
    y = (X[:, 0] > 0).astype(float)
    X.flags.writeable = y.flags.writeable = False
    model = estimator(hidden_layer_sizes=(5,), solver=solver, max_iter=3, random_state=0)
    model.fit(X[:500], y[:500])  # imports what is imported late
    tracemalloc.start()
    model.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 4
    wide = estimator(hidden_layer_sizes=(2000,), solver="adam", max_iter=1, random_state=0).fit(X[:20], y[:20])
    buffers = []
    pickled = pickle.dumps(wide, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 10_000
    other = pickle.loads(pickled, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert (other.predict(X) == wide.predict(X)).all()
    assert (other.partial_fit(X, y).predict(X) == wide.partial_fit(X, y).predict(X)).all()


@BOTH
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(estimator, library):
    frames = pytest.importorskip(library)
    X, y = iris()
    X = frames.DataFrame({f"column {i}": X[:, i] for i in range(4)})
    y = frames.Series(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = estimator(max_iter=30, early_stopping=True, random_state=0).fit(X, y)
        assert model.score(X, y) > 0 or estimator is MLPRegressor
    assert list(model.feature_names_in_) == [f"column {i}" for i in range(4)]
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(np.ones((3, 4)))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename({"column 0": "other"}) if library == "polars" else X.rename(columns=str.upper))


def test_strings_as_classes():
    X, y = iris()
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)[y]
    model = MLPClassifier(early_stopping=True, max_iter=50, random_state=42).fit(X, names)
    assert np.isfinite(model.validation_scores_).all()
    assert set(model.predict(X)) <= set(names)


def test_class_weights():
    X, y = make_classification(400, weights=[0.9], class_sep=0.5, random_state=0)
    plain, balanced = (
        MLPClassifier(10, class_weight=w, max_iter=100, random_state=0).fit(X, y) for w in (None, "balanced")
    )
    assert balanced.predict(X).sum() > 1.5 * plain.predict(X).sum()
    weights = np.where(y == 1, 3.0, 1.0)
    by_class = MLPClassifier(10, class_weight={0: 1.0, 1: 3.0}, max_iter=20, random_state=0).fit(X, y)
    by_example = MLPClassifier(10, max_iter=20, random_state=0).fit(X, y, weights)
    assert (by_class.coefs_[0] == by_example.coefs_[0]).all()


def test_dropout_and_activations():
    X, y = regression()
    for activation in ("silu", "gelu", "selu", "leaky_relu", "identity", "logistic"):
        model = MLPRegressor(hidden_layer_sizes=(16, 8), activation=activation, dropout=0.2, max_iter=20,
                             random_state=0).fit(X, y)  # fmt: skip
        assert sum(isinstance(layer, fg.Dropout) for layer in model.network_.layers) == 2
        assert (model.predict(X) == model.predict(X)).all()
    with pytest.raises(ValueError, match="activation: expected one of logistic, "):
        MLPRegressor(activation="relu6").fit(X, y)


def test_predictions_do_not_depend_on_the_batch():
    X, y = digits()
    model = MLPRegressor(max_iter=3, random_state=0).fit(X, y)
    assert (model.predict(X)[50:51] == model.predict(X[50:51])).all()
    for bad in (np.nan, np.inf):
        Z = X[:1].copy()
        Z[0, 3] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.predict(Z)
    with pytest.raises(ValueError, match="63 features"):
        model.predict(X[:, 1:])


@BOTH
def test_before_a_fit(estimator):
    with pytest.raises(NotFittedError):
        estimator().predict([[1.0]])
    assert not hasattr(estimator(), "coefs_")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("solver", "newton", ValueError), ("learning_rate", "fast", ValueError), ("alpha", -1, ValueError),
        ("hidden_layer_sizes", (3, 0), ValueError), ("hidden_layer_sizes", "3", TypeError), ("tol", "x", TypeError),
        ("batch_size", 0, ValueError), ("momentum", 1.0, ValueError), ("learning_rate_init", 0, ValueError),
        ("max_iter", 2.5, TypeError), ("shuffle", "no", TypeError), ("beta_1", 1.0, ValueError),
        ("n_iter_no_change", 0, ValueError), ("dropout", 1.0, ValueError), ("dtype", "int32", TypeError),
        ("epsilon", 0.0, ValueError), ("validation_fraction", 1.0, ValueError), ("n_threads", 0, ValueError),
    ],
)  # fmt: skip
@BOTH
def test_wrong_parameters(estimator, name, value, error):
    with pytest.raises(error, match=f"^{name}: expected"):
        estimator(**{name: value}).fit(*two())


# ---- the same quality ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["diabetes", "digits", "breast cancer"])
def test_scores_are_within_the_spread_of_scikit_learns(data):
    load = {"diabetes": load_diabetes, "digits": load_digits, "breast cancer": load_breast_cancer}[data]
    X, y = load(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    kinds = (MLPRegressor, TheirRegressor) if data == "diabetes" else (MLPClassifier, TheirClassifier)
    if data == "diabetes":
        y = (y - y.mean()) / y.std()
    scores = []
    for kind in kinds:
        found = []
        for seed in range(10):
            order = np.random.default_rng(seed).permutation(len(X))[: 600 if data == "digits" else None]
            train, test = order[len(order) // 4 :], order[: len(order) // 4]
            model = kind(hidden_layer_sizes=(32,), max_iter=60, learning_rate_init=3e-3, random_state=seed)
            found.append(model.fit(X[train], y[train]).score(X[test], y[test]))
        scores.append(found)
    ours, theirs = np.array(scores)
    assert ours.mean() > theirs.mean() - theirs.std(), (ours, theirs)


# ---- the recipe for tables ----------------------------------------------------------------------------


def cars():
    """Numbers and categories, and a target in which both are needed."""
    pandas = pytest.importorskip("pandas", reason="the test extra")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "weight": rng.lognormal(size=300),
            "doors": rng.integers(2, 6, 300),
            "colour": rng.choice(["red", "green", "blue"], 300),
            "gear": pandas.Categorical(rng.choice(["manual", "automatic"], 300)),
            "new": rng.random(300) < 0.5,
        }
    )
    y = np.log(frame["weight"]) + (frame["colour"] == "red") - 2.0 * frame["new"] + 0.1 * rng.normal(size=300)
    return frame, y.to_numpy()


HELD_OUT = "which examples are held out depends on their number, as with early stopping"
REASONS = {
    "check_sample_weight_equivalence_on_dense_data": HELD_OUT,
    "check_sample_weight_equivalence_on_sparse_data": HELD_OUT,
    "check_regressors_train": "the check sets alpha, which the recipe refuses",
    "check_class_weight_classifiers": "the check sets max_iter, which the recipe refuses",
}


@parametrize_with_checks(
    [MLPRegressor(preset="tabular", width=16), MLPClassifier(preset="tabular", width=16), RobustSmoothScaler()],
    expected_failed_checks=lambda estimator: REASONS if hasattr(estimator, "preset") else {},
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_of_the_recipe(estimator, check):
    check(estimator)


def test_the_robust_scaler():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=101), rng.random(101) < 0.1, np.full(101, 3.0), rng.normal(size=101)])
    X[3, 3] = np.nan
    found = RobustSmoothScaler().fit_transform(X)
    low, middle, high = np.quantile(X[:, 0], [0.25, 0.5, 0.75])
    u = (X[:, 0] - middle) / (high - low)
    np.testing.assert_allclose(found[:, 0], u / np.sqrt(1 + (u / 3) ** 2), rtol=1e-14)
    np.testing.assert_allclose(found[:, 1], X[:, 1] * 2 / np.sqrt(1 + (2 / 3) ** 2), rtol=1e-14)  # equal quartiles
    assert (found[:, 2] == 0).all()
    assert np.isnan(found[3, 3])
    assert not np.isnan(found[:3, 3]).any()
    assert abs(RobustSmoothScaler().fit(X).transform(1e9 * X)[:, 0]).max() <= 3.0
    frame = RobustSmoothScaler().set_output(transform="pandas").fit_transform(cars()[0][["weight", "doors"]])
    assert list(frame.columns) == ["weight", "doors"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_as_they_come(library):
    frame, y = cars()
    frame.loc[5, "weight"], frame.loc[6, "colour"], frame.loc[7, "gear"] = np.nan, None, None
    if library == "polars":
        polars = pytest.importorskip("polars")
        missing = frame.isna()
        columns = {
            name: [None if gone else value for value, gone in zip(frame[name], missing[name], strict=True)]
            for name in frame.columns
        }
        frame = polars.DataFrame(columns)
    model = MLPRegressor(preset="tabular", width=32, random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.95
    assert model.network_.n_features == 1 + 1 + 3 + 1 + 1  # two numbers, three colours, two columns of -1 and 1
    one = frame[:2].clone() if library == "polars" else frame[:2].copy()
    if library == "pandas":
        one.loc[0, "colour"] = "never seen"
    assert np.isfinite(model.predict(one)).all()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[:2].drop("weight") if library == "polars" else frame[:2].drop(columns="weight"))
    if library == "pandas":
        for texts in (["1.5", "heavy"], ["light", "heavy"]):  # the first one that is no number
            named = f"X: expected numbers in column 'weight', as in the data of the fit, got '{max(texts)}' in row "
            with pytest.raises(TypeError, match=named):
                model.predict(one.assign(weight=texts))
        with pytest.raises(TypeError, match="X: expected numbers or categories in column 'day', got dates"):
            model.fit(frame.assign(day=np.datetime64("2024-02-29")), y)
        with pytest.raises(ValueError, match="infinity"):
            model.fit(frame.assign(weight=np.inf), y)


def test_columns_of_categories():
    frame = cars()[0]
    encoder = TableEncoder()
    numbers = encoder.fit_transform(frame)
    assert [None if found is None else list(found) for found in encoder.categories] == [
        None, None, ["blue", "green", "red"], ["automatic", "manual"], ["false", "true"],
    ]  # fmt: skip
    np.testing.assert_array_equal(numbers[:, 0], frame["weight"])
    for i, colour in enumerate(["blue", "green", "red"]):
        np.testing.assert_array_equal(numbers[:, 2 + i], frame["colour"] == colour)
    np.testing.assert_array_equal(numbers[:, 5], np.where(frame["gear"] == "manual", 1, -1))
    np.testing.assert_array_equal(numbers[:, 6], np.where(frame["new"], 1, -1))
    others = frame[:3].assign(colour=["pink", None, "red"], gear=["manual", None, "none"])
    assert encoder.transform(others)[:, 2:6].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    as_objects = np.array([[1, "a"], [2.5, "b"], [None, "c"]], dtype=object)
    np.testing.assert_array_equal(TableEncoder().fit_transform(as_objects)[:, 0], [1, 2.5, np.nan])


def test_the_recipe_as_published():
    X, y = load_diabetes(return_X_y=True)
    for kind, n_outputs, lr in ((MLPRegressor, 1, 0.07), (MLPClassifier, 2, 0.04)):
        targets = y if kind is MLPRegressor else y > 140
        model = kind(preset="tabular", random_state=0).fit(X, targets)
        net = model.network_
        activation = "Mish" if kind is MLPRegressor else "SELU"
        names = [type(layer).__name__ for layer in net.layers]
        assert names == ["Scale", *["Linear", activation] * 3, "Linear"]
        assert [layer.n_out for layer in net.dense_layers] == [256, 256, 256, n_outputs]
        assert net.dtype == np.float32
        assert len(model.loss_curve_) == len(model.validation_loss_curve_) == model.n_iter_ == 256
        assert RATES[kind is MLPClassifier] == lr
    rng = np.random.default_rng(0)
    fresh = recipe_network([10, 64, 64, 64, 3], True, np.dtype("f8"), rng)
    named = fresh.named_parameters()
    assert (named["s1"] == 1).all()
    assert (named["W4"] == 0).all()
    assert (named["b4"] == 0).all()
    for i, n in ((1, 10), (2, 64), (3, 64)):
        assert abs(named[f"W{i}"].std() * np.sqrt(n) - 1) < 0.1
        assert 0.7 < named[f"b{i}"].std() < 1.3
    assert fresh.loss_function == fg.losses.SoftmaxCrossEntropy(label_smoothing=0.1)


def test_the_best_epoch_is_kept():
    """Of regression by the loss of the held-out part: training on, with another seed, is not better there."""
    X, y = load_diabetes(return_X_y=True)
    model = MLPRegressor(preset="tabular", width=16, random_state=0).fit(X, y)
    curve = model.validation_loss_curve_
    assert int(np.argmin(curve)) == model.best_epoch_ < len(curve) - 1
    again = MLPRegressor(preset="tabular", width=16, random_state=0).fit(X, y)
    assert (again.network_.parameters == model.network_.parameters).all()


@BOTH
def test_callbacks(estimator):
    X, y = iris()
    seen = []

    def stop_after_five(net, history):
        seen.append(history.loss[-1])
        return history.epochs == 5

    model = estimator(random_state=0).fit(X, y, callbacks=[stop_after_five])
    assert model.n_iter_ == len(seen) == len(model.loss_curve_) == 5
    model = estimator(preset="tabular", width=(8, 4), epochs=30, n_ensembles=3, random_state=0)
    model.fit(X, y, callbacks=[stop_after_five])
    assert (model.n_iter_, len(model.networks_)) == (5, 1)
    assert [layer.n_out for layer in model.network_.dense_layers[:2]] == [8, 4]
    assert model.set_params(n_ensembles=1).fit(X, y).n_iter_ == 30


def test_ensembles():
    frame, y = cars()
    model = MLPRegressor(preset="tabular", width=16, n_ensembles=7, random_state=0).fit(frame, y)
    assert len(model.networks_) == 7
    mean, std = model.predict(frame, return_std=True)
    np.testing.assert_allclose(mean, model.predict(frame), rtol=1e-6)
    assert (std > 0).all()
    classes = np.where(y > 0, "high", "low")
    classifier = MLPClassifier(preset="tabular", width=16, n_ensembles=3, random_state=0).fit(frame, classes)
    assert classifier.score(frame, classes) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(frame).sum(axis=1), 1, rtol=1e-5)
    assert (classifier.predict(frame) == classifier.classes_[classifier.predict_proba(frame).argmax(axis=1)]).all()
    other = pickle.loads(pickle.dumps(classifier))
    assert (other.predict_proba(frame) == classifier.predict_proba(frame)).all()


def test_what_the_recipe_refuses():
    frame, y = cars()
    for name, value in (("solver", "sgd"), ("alpha", 0.1), ("max_iter", 10), ("early_stopping", True)):
        with pytest.raises(ValueError, match=rf"^{name}: expected its default with preset='tabular'"):
            MLPRegressor(preset="tabular", **{name: value}).fit(frame, y)
    for name, value in (("preset", "best"), ("width", 0), ("n_ensembles", 0)):
        with pytest.raises(ValueError, match=rf"^{name}: expected"):
            MLPRegressor(**{"preset": "tabular", name: value}).fit(frame, y)
    with pytest.raises(ValueError, match="n_ensembles: expected its default without preset"):
        MLPRegressor(n_ensembles=2).fit(np.ones((4, 1)), np.ones(4))
    assert not hasattr(MLPRegressor(preset="tabular"), "partial_fit")
    with pytest.raises(ValueError, match="y: expected one class"):
        MLPClassifier(preset="tabular").fit(frame, np.eye(300, 2, dtype=int))


CASES_TO_SAVE = {
    "recipe": (MLPRegressor(preset="tabular", width=8, random_state=0), cars),
    "recipe, classes": (MLPClassifier(preset="tabular", width=8, random_state=0), lambda: (cars()[0], cars()[1] > 0)),
    "recipe, texts": (
        MLPClassifier(preset="tabular", width=8, random_state=0),
        lambda: (cars()[0].to_numpy(), np.where(cars()[1] > 0, "high", "low")),
    ),
    "plain": (MLPRegressor(max_iter=3, random_state=0), iris),
    "poisson": (MLPRegressor(loss="poisson", max_iter=3, random_state=0), iris),
    "three classes": (MLPClassifier(max_iter=3, random_state=0), iris),
    "labels": (MLPClassifier(max_iter=3, random_state=0), lambda: (iris()[0], np.eye(3, dtype=int)[iris()[1]])),
}


@pytest.mark.parametrize("case", CASES_TO_SAVE)
def test_models_are_saved_with_their_columns(case, tmp_path):
    model, data = CASES_TO_SAVE[case]
    X, y = data()
    model = clone(model).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert type(other) is type(model)
    assert (other.predict(X) == model.predict(X)).all()
    assert other.predict(X).dtype == model.predict(X).dtype
    assert (
        getattr(other, "feature_names_in_", np.array(0)).tolist()
        == getattr(model, "feature_names_in_", np.array(0)).tolist()
    )
    if isinstance(model, MLPClassifier):
        assert (other.predict_proba(X) == model.predict_proba(X)).all()
    with pytest.raises(ValueError, match="feature"):
        other.predict(X.drop(columns="weight") if hasattr(X, "columns") else np.ones((2, 9)))


def test_models_that_cannot_be_saved_or_loaded(tmp_path):
    X, y = iris()
    with pytest.raises(NotFittedError):
        MLPRegressor().save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="n_ensembles: expected one network"):
        MLPRegressor(preset="tabular", width=4, n_ensembles=2).fit(X, y).save(tmp_path / "model.safetensors")
    fg.UnivariateRegression(rng=0).save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"no estimator of fusegrad\.sklearn saved it"):
        load(tmp_path / "net.safetensors")
    net = fg.Sequential(fg.Linear(2, 1), rng=0)
    for text in ("", "[]", "{}", '{"kind": "MLPRegressor"}', '{"kind": "os.system"}', "[" * 10000):
        net.save(tmp_path / "net.safetensors", metadata={"estimator": text})
        with pytest.raises(ValueError, match="its description of an estimator"):
            load(tmp_path / "net.safetensors")


def test_the_recipe_and_a_plain_fit_in_turn():
    """Nothing of the fit before is left."""
    X, y = iris()
    for estimator in (MLPRegressor(random_state=0), MLPClassifier(random_state=0)):
        fresh = clone(estimator).fit(X, y).predict(X)
        model = clone(estimator).set_params(preset="tabular", width=4).fit(X, y)
        recipe = model.predict(X)
        assert (model.set_params(preset=None, width=256).predict(X) == recipe).all()  # until it is fitted
        assert (model.fit(X, y).predict(X) == fresh).all()
        assert (model.set_params(preset="tabular", width=4).fit(X, y).predict(X) == recipe).all()


# ---- what use found -----------------------------------------------------------------------------------


def test_categories_are_compared_as_texts():
    """Files are read with other types: an integer where there was text, false and true as text or 0 and 1."""
    encoder = TableEncoder()
    encoder.fit_transform(np.array([["1", True], ["2", False], ["4A", True]], dtype=object))
    wanted = [[1, 0, 0, 1], [0, 1, 0, -1]]
    for rows in ([["1", True], ["2", False]], [[1, "True"], [2, "false"]], [[1.0, 1], [2.0, 0]]):
        assert encoder.transform(np.array(rows, dtype=object)).tolist() == wanted
    pandas = pytest.importorskip("pandas")
    numbers = pandas.DataFrame({"a": pandas.Categorical([1, 2, 3, 1])})
    assert TableEncoder().fit_transform(numbers).shape == (4, 3)  # pandas' categories are categories
    model = MLPRegressor(preset="tabular", width=4, epochs=2, random_state=0)
    assert model.fit([[1.5, "a"], [2.0, "b"], [3.0, "c"]] * 5, np.arange(15.0)).network_.n_features == 4
    with pytest.raises(TypeError, match="column 'a', as in the data of the fit, got 'abc'"):
        model.fit(pandas.DataFrame({"a": [1.0, 2.0] * 5}), np.arange(10.0)).predict(
            pandas.DataFrame({"a": [None, "abc"]})
        )


@pytest.mark.parametrize(
    "values", [[None], [1.0, np.nan], [np.nan, "1"], ["A", None, 1]], ids=["none", "numbers", "text", "mixed"]
)
def test_missing_values_among_categories(values):
    pandas, polars = (pytest.importorskip(name, reason="the test extra") for name in ("pandas", "polars"))
    encoder = TableEncoder()
    encoder.fit_transform(pandas.DataFrame({"s": ["1", "2", "A"]}))
    codes = {"1": [1, 0, 0], "A": [0, 0, 1]}
    wanted = [[0, 0, 0] if v is None or v != v else codes[str(v).removesuffix(".0")] for v in values]
    tables = [pandas.DataFrame({"s": values}), pandas.DataFrame({"s": pandas.Categorical(values)})]
    if "1" not in values and "A" not in values:
        tables.append(polars.DataFrame({"s": [None if v != v else v for v in values]}))
        tables.append(pandas.DataFrame({"s": pandas.array(values, dtype="Int64")}))
    for table in tables:
        assert encoder.transform(table).tolist() == wanted


def test_true_beside_one_in_any_order():
    column = np.array([True, 1, "a", np.True_, "1", 1.0], dtype=object)[:, np.newaxis]
    for order in (np.arange(6), np.arange(6)[::-1]):
        encoder = TableEncoder()
        found = encoder.fit_transform(column[order])[np.argsort(order)]
        assert [list(row).index(1) for row in found] == [2, 0, 1, 2, 0, 0]
        assert (encoder.transform(column[order]) == found[order]).all()


def test_integers_of_any_size_as_categories():
    pandas, polars = (pytest.importorskip(name, reason="the test extra") for name in ("pandas", "polars"))
    texts = [str(2**60 + i) for i in range(3)]
    numbers = [int(text) for text in texts]
    encoder = TableEncoder()
    wanted = encoder.fit_transform(pandas.DataFrame({"s": [*texts, "x"]}))[:3]
    for column in (numbers, np.array(numbers, "u8"), pandas.array([*numbers, None], "Int64"), [*numbers, "x"]):
        assert (encoder.transform(pandas.DataFrame({"s": column}))[:3] == wanted).all()
    for dtype in (polars.Int64, polars.Int128):
        column = polars.Series([*numbers, None], dtype=dtype)
        assert (encoder.transform(polars.DataFrame({"s": column}))[:3] == wanted).all()
        assert np.isnan(TableEncoder().fit_transform(polars.DataFrame({"s": column}))[3, 0])
    assert (encoder.transform(np.array(numbers)[:, np.newaxis]) == wanted).all()
    model = MLPRegressor(preset="tabular", width=4, epochs=2)
    model.fit(np.array([[text, 1.5] for text in [*texts, "x"] * 3], dtype=object), np.arange(12.0))
    rows = model._table([[number, 1.5] for number in numbers])  # a list that NumPy converts to float64
    assert (model._encoder.transform(rows)[:, :3] == wanted[:, :3]).all()


def test_numbers_as_categories_of_pandas():
    """Where the fit had numbers."""
    pandas = pytest.importorskip("pandas", reason="the test extra")
    frame = pandas.DataFrame({"a": np.arange(60.0)})
    model = MLPRegressor(preset="tabular", width=8, epochs=3, random_state=0).fit(frame, frame.a)
    assert (model.predict(frame.astype({"a": "category"})) == model.predict(frame)).all()
    assert np.isfinite(model.predict(pandas.DataFrame({"a": pandas.Categorical([None])}))).all()


@pytest.mark.parametrize("beside", [1.0, "a"])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**5000), Decimal("sNaN"), Decimal("1e400"), Decimal("-1e99999")],
    ids=["1e400", "-1e5000", "NaN", "decimal", "large decimal"],
)
def test_numbers_that_float64_cannot_hold_are_named(value, beside):
    X = np.array([["b", beside], ["b", value]] * 5, dtype=object)
    with pytest.raises(ValueError, match=r"^X: expected numbers that float64 can hold in column 1, got .*(1.*\d|sNaN)"):
        MLPRegressor(preset="tabular").fit(X, np.arange(10.0))


FAILING = {
    "weights": {"sample_weight": np.ones(3)},
    "negative weights": {"sample_weight": -np.ones(150)},
    "callbacks": {"callbacks": 3},
    "a callback": {"callbacks": [lambda net, history: 1 / 0]},
}


@pytest.mark.parametrize("way", FAILING)
@pytest.mark.parametrize("preset", [None, "tabular"])
@BOTH
def test_a_fit_that_fails_changes_nothing(estimator, preset, way):
    X, y = iris()
    options = {"preset": "tabular", "width": 4, "epochs": 3} if preset else {"max_iter": 3}
    model = estimator(random_state=0, **options).fit(X, y)
    before, state = model.predict(X), {name: value for name, value in vars(model).items() if name.endswith("_")}
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        model.fit(10 * X + 3, (y + 1) % 3, **FAILING[way])
    for name, value in (("random_state", "bad"), ("n_threads", "bad"), ("dtype", "int8")):
        with pytest.raises((TypeError, ValueError)):
            clone(model).set_params(**{name: value}).fit(X, y)
        old = model.get_params()[name]
        with pytest.raises((TypeError, ValueError)):
            model.set_params(**{name: value}).fit(10 * X + 3, (y + 1) % 3)
        model.set_params(**{name: old})
    assert (model.predict(X) == before).all()
    assert {name: value for name, value in vars(model).items() if name.endswith("_")}.keys() == state.keys()
    assert model.n_iter_ == 3


def test_a_first_partial_fit_that_fails_changes_nothing():
    X, y = iris()
    model = MLPClassifier(random_state=0)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(X * np.nan, y, classes=[0, 1, 2])
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert model.partial_fit(X, y + 1, classes=[0, 1, 2, 3]).classes_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
def test_penalty_and_generator_after_a_fit_that_fails(options):
    X, y = regression()
    state = np.random.RandomState(0)
    factor = 1e300 if "solver" in options else 10.0  # lbfgs calls no callbacks: it diverges
    options = {"max_iter": 3, "random_state": state, "alpha": 0.1, **options}
    model = MLPRegressor(warm_start=True, **options).fit(X, y)
    loss, draws = model.network_.loss(X.T, y), pickle.dumps(state)
    for estimator in (model, MLPRegressor(**options), MLPRegressor(preset="tabular", random_state=state)):
        with pytest.raises((ZeroDivisionError, ValueError)):
            estimator.fit(factor * X[:40], factor * y[:40], callbacks=[lambda net, history: 1 / 0])
    assert model.network_.loss(X.T, y) == loss
    assert pickle.dumps(state) == draws


@BOTH
@pytest.mark.parametrize("preset", [{}, {"preset": "tabular"}, {"solver": "lbfgs"}])
def test_wrong_callbacks_are_named(estimator, preset):
    for wrong, named in (
        (None, "callbacks"),
        (3, "callbacks"),
        ([print, 3], r"callbacks\[1\]"),
        ([dict], r"callbacks\[0\]"),
    ):
        with pytest.raises(TypeError, match=f"^{named}: expected"):
            estimator(**preset).fit(*iris(), callbacks=wrong)


@pytest.mark.parametrize("preset", [None, "tabular"])
def test_what_a_signal_handler_raises(preset):
    """While a parameter is compared."""

    class Slow:
        def __eq__(self, other):
            raise TimeoutError

        def __array__(self, *args, **kwargs):
            raise TimeoutError

        __hash__ = None

    with pytest.raises(TimeoutError):
        MLPRegressor(preset=preset, **{"max_fun" if preset else "width": Slow()}).fit(*iris())


@pytest.mark.parametrize("held_out", [True, False])
def test_early_stopping_without_weights(held_out):
    X, y = regression()
    model = MLPRegressor(early_stopping=True, max_iter=2, random_state=0)
    _, held = train_test_split(np.arange(120), test_size=0.1, random_state=_seed_of_the_split(model, X, y))
    weights = np.ones(120)
    weights[held] = 0.0
    weights = weights if held_out else 1 - weights
    part = "held-out" if held_out else "other"
    with pytest.raises(ValueError, match=f"^sample_weight: expected a weight of more than 0 in the {part} part"):
        model.fit(X, y, weights)


def _seed_of_the_split(model, X, y):
    """As of the next fit."""
    model._check()
    other = clone(model)
    other._start(X, y[:, np.newaxis])
    return other._rng.integers(2**31 - 1)


@pytest.mark.parametrize("preset", [None, "tabular"])
@pytest.mark.parametrize(
    "weights",
    [{0: -1.0}, {0: np.nan}, {0: np.inf, 1: 1.0}, {0: "a"}, {0: 0.0, 1: 0, 2: 0}, "bal", 3, [3], {5: 1.0}, {0: 1e308}],
    ids=str,
)
def test_wrong_class_weights_are_named(weights, preset):
    with pytest.raises((TypeError, ValueError), match=r"^class_weight: "):
        MLPClassifier(class_weight=weights, preset=preset).fit(*iris())


def test_rows_without_weight_decide_nothing():
    X, y = regression()
    w = np.ones(120)
    w[:40] = 0
    far = X.copy()
    far[:40] *= 1e6
    target = np.where(w > 0, y, 1e9)
    options = {"preset": "tabular", "width": 16, "epochs": 60, "random_state": 0}
    weighted = MLPRegressor(**options).fit(far, target, sample_weight=w)
    alone = MLPRegressor(**options).fit(X[40:], y[40:], sample_weight=w[40:])
    assert (weighted.predict(X) == alone.predict(X)).all()


def test_targets_of_any_size():
    X, y = regression()
    options = {"preset": "tabular", "width": 16, "epochs": 40, "random_state": 0}
    for scale, shift in ((1.0, 1.7e9), (1e200, 0.0), (1e-200, 0.0)):
        model = MLPRegressor(**options).fit(X, scale * y + shift)
        found = (model.predict(X) - shift) / scale
        assert np.corrcoef(found, y)[0, 1] > 0.7
        ensemble = MLPRegressor(n_ensembles=3, **options).fit(X, scale * y + shift)
        mean, spread = ensemble.predict(X, return_std=True)
        members = [(ensemble._predicted(net, ensemble._columns_of(X)) - shift) / scale for net in ensemble.networks_]
        np.testing.assert_allclose(spread / scale, np.std(members, axis=0), rtol=1e-6)
        np.testing.assert_allclose((mean - shift) / scale, np.mean(members, axis=0), atol=1e-6)
    for wrong in (np.where(y > 1, np.inf, y), y.astype(str), np.full(120, "2024-01-01", "M8[D]")):
        with pytest.raises(ValueError, match=r"^y: expected numbers|Input y contains"):
            MLPRegressor(**options).fit(X, wrong)
    with pytest.raises(ValueError, match="y: expected at least two classes"):
        MLPClassifier(**options).fit(X, np.zeros(120))


def test_outliers_of_any_size_end_at_three():
    for dtype, huge in (("float64", 1e300), ("float32", 3e38)):
        X = np.arange(9, dtype=dtype)[:, np.newaxis]
        scaler = RobustSmoothScaler().fit(X)
        found = scaler.transform(np.array([[huge], [-huge]], dtype))
        np.testing.assert_allclose(found[:, 0], [3, -3], rtol=1e-6)
        tiny = RobustSmoothScaler().fit_transform(X * np.finfo(dtype).smallest_subnormal)
        assert np.isfinite(tiny).all()


def test_what_a_warm_start_cannot_change():
    X, y = iris()
    for name, value in (
        ("hidden_layer_sizes", (20, 20)),
        ("activation", "tanh"),
        ("dropout", 0.5),
        ("dtype", "float32"),
    ):
        model = MLPRegressor(warm_start=True, max_iter=2, random_state=0).fit(X, y)
        with pytest.raises(ValueError, match=rf"^{name}: expected .* as when the network was made"):
            model.set_params(**{name: value}).fit(X, y)
    model = MLPRegressor(warm_start=True, max_iter=2, random_state=0, solver="lbfgs").fit(X, y)
    model.set_params(solver="adam").fit(X, y).set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == 2
    # After the recipe a new network is made.
    model = MLPRegressor(preset="tabular", width=4, epochs=2, random_state=0).fit(X, y)
    model.set_params(preset=None, width=256, epochs=256, warm_start=True, max_iter=300, solver="lbfgs").fit(X, y)
    assert model.score(X, y) > 0.9


def test_what_is_refused_by_name():
    X, y = iris()
    model = MLPRegressor(max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="return_std: expected False for one network"):
        model.predict(X, return_std=True)
    for name, value in (("width", 8), ("epochs", 3)):
        with pytest.raises(ValueError, match=f"^{name}: expected its default without preset"):
            MLPRegressor(**{name: value}).fit(X, y)
    for weights in (np.full(150, -1.0), np.zeros(150), np.full(150, 1e308)):
        for preset in ({}, {"preset": "tabular", "width": 4, "epochs": 2}):
            with pytest.raises(ValueError, match=r"sample_weight: expected|Sample weights must"):
                MLPRegressor(**preset).fit(X, y, weights)


@pytest.mark.parametrize("preset", [None, "tabular"])
@pytest.mark.parametrize("labels", [["a", None], [1, None]])
def test_none_among_classes_is_named(labels, preset):
    X, y = np.zeros((6, 2)), np.array(labels * 3, dtype=object)
    with pytest.raises(ValueError, match=r"^y: expected a class for each example, got None for example \(row\) 1$"):
        MLPClassifier(preset=preset).fit(X, y)


def test_a_loaded_model_has_its_parameters_and_can_be_fitted(tmp_path):
    X, y = iris()
    model = MLPClassifier((8, 4), activation="tanh", alpha=0.5, max_iter=3, class_weight={0: 2.0, 1: 1.0, 2: 1.0},
                          n_iter_no_change=np.inf, random_state=0)  # fmt: skip
    model.fit(X, y).save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert other.get_params() | {"hidden_layer_sizes": (8, 4)} == model.get_params()
    assert (clone(other).fit(X, y).predict(X) == model.predict(X)).all()
    assert other.partial_fit(X, y).n_iter_ == 1
    robust = MLPRegressor(loss=fg.losses.Huber(2.5), max_iter=2, random_state=np.random.RandomState(0)).fit(X, y)
    robust.save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").loss == fg.losses.Huber(2.5)

    class Mine(MLPRegressor):
        pass

    Mine(max_iter=2).fit(X, y).save(tmp_path / "model.safetensors")
    assert type(load(tmp_path / "model.safetensors")) is MLPRegressor


@pytest.mark.parametrize("loss", ["squared_error", "poisson", fg.losses.Huber(2.5)])
def test_a_loaded_model_goes_on_with_its_loss(loss, tmp_path):
    X, y = iris()
    model = MLPRegressor(loss, max_iter=2, warm_start=True, dtype=np.float32, hidden_layer_sizes=range(3, 5)).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert (other.dtype, other.hidden_layer_sizes) == ("float32", [3, 4])
    assert other.fit(X, y).network_.dtype == np.float32
    with pytest.raises(ValueError, match=r"^loss: expected .* as when the network was made"):
        other.set_params(loss="huber").fit(X, y)


def test_files_without_the_loss_of_the_network(tmp_path):
    """Of versions before."""
    X, y = iris()
    path = tmp_path / "model.safetensors"
    MLPRegressor("poisson", max_iter=2, warm_start=True).fit(X, y).save(path)
    net, description = fg.load(path), json.loads(fg.load_metadata(path)["estimator"])
    del description["made_with"]["loss"]
    net.save(path, metadata={"estimator": json.dumps(description)})
    with pytest.raises(ValueError, match=r"^loss: expected 'poisson', as when the network was made"):
        load(path).fit(X, y).set_params(loss="huber").fit(X, y)


def test_a_loss_of_the_users_own_is_not_saved(tmp_path):
    model = MLPRegressor(loss=Interrupted(), max_iter=2).fit(*iris())
    with pytest.raises(TypeError, match="loss: expected one of"):
        model.save(tmp_path / "model.safetensors")


def test_class_weights_of_several_labels_are_saved(tmp_path):
    X, y = iris()
    weights = [{0: 1.0, 1: 2.0}, "balanced", {0: 3, 1: 1}]
    MLPClassifier(class_weight=weights, max_iter=2).fit(X, np.eye(3, dtype=int)[y]).save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").class_weight == weights


def test_descriptions_that_lie(tmp_path):
    """Of each entry something else than what was saved: refused when it is loaded, not when it predicts."""
    frame, y = cars()
    path = tmp_path / "model.safetensors"
    MLPRegressor(preset="tabular", width=4, epochs=2, random_state=0).fit(frame, y).save(path)
    net, description = fg.load(path), json.loads(fg.load_metadata(path)["estimator"])
    for name, wrong in (
        ("n_features", [np.inf, 99, "2", 2.9, None]), ("names", ["abc", 7, [1, 2, 3, 4, 5], ["a"]]),
        ("categories", [None, [], [None] * 4, ["abc"] * 5, [[1, 2]] * 5]),
        ("center", [None, 1.0, [1.0], "a", [[1.0]] * 8]),
        ("scale", [[np.nan] * 7, [1.0]]), ("mean", [[1.0, 2.0], None]), ("spread", [[[np.inf]]]),
        ("out_activation", ["softmax", 3]), ("kind", ["MLPClassifier", "os.system", 1]), ("parameters", [{"a": 1}, 3]),
    ):  # fmt: skip
        for value in wrong:
            net.save(path, metadata={"estimator": json.dumps(description | {name: value})})
            with pytest.raises(ValueError, match="its description of an estimator"):
                load(path)


def test_ctrl_c_during_the_recipe():
    frame, y = cars()
    calls = []

    def press(net, history):
        calls.append(history.epochs)
        if len(calls) == 70:
            raise KeyboardInterrupt

    model = MLPRegressor(preset="tabular", width=8, epochs=50, n_ensembles=4, random_state=0)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(frame, y, callbacks=[press])
    assert len(model.networks_) == 2
    assert np.isfinite(model.predict(frame)).all()
    before = model.predict(frame)
    calls[:] = [0] * 69
    with pytest.raises(KeyboardInterrupt):  # before an epoch is finished there is nothing to keep
        model.fit(frame, y, callbacks=[_interrupt_at_once])
    assert (model.predict(frame) == before).all()


class _InterruptAtOnce:
    def on_start(self, context):
        raise KeyboardInterrupt

    def __call__(self, net, history):
        pass


_interrupt_at_once = _InterruptAtOnce()


def test_it_is_loaded_when_it_is_named():
    code = "import sys, fusegrad as fg; assert 'sklearn' not in sys.modules; fg.sklearn.MLPRegressor; fg.sklearn.load"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'fusegrad' has no attribute 'sklern'"):
        _ = fg.sklern


class Own(MLPRegressor):
    """With a parameter of its own, and others fixed."""

    def __init__(self, size=8):
        super().__init__(hidden_layer_sizes=(size,), max_iter=3, random_state=0)
        self.size = size


def test_subclasses_with_parameters_of_their_own(tmp_path):
    X, y = iris()
    model = clone(Own(size=5)).fit(X, y)
    assert model.get_params() == {"size": 5}
    assert model.coefs_[0].shape == (4, 5)
    model.save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert (other.predict(X) == model.predict(X)).all()
    assert other.hidden_layer_sizes == [5]
    with pytest.raises(ValueError, match="hidden_layer_sizes: expected its default with preset"):
        _with(Own(), preset="tabular").fit(X, y)


def _with(model, **attributes):
    for name, value in attributes.items():
        setattr(model, name, value)
    return model
