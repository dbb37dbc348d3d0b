"""Networks: their computations and their training. module.py has their layers and parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fusegrad._engine.threads import Computing
from fusegrad._engine.validation import Array, as_dtype, as_generator, as_number
from fusegrad.distributed import join, set_mode
from fusegrad.history import History
from fusegrad.layers import INITS, Layer, initial_bounds
from fusegrad.losses import as_loss
from fusegrad.module import Module, describe_objective
from fusegrad.optimizers import COMPILED_STEP, SupportsStep
from fusegrad.predictor import Predictor
from fusegrad.steps import Trainee, train_step
from fusegrad.training import FitOptions, fit

#: Modules whose classes refuse unknown attributes.
OWN_MODULES = ("fusegrad.networks", "fusegrad.course")


class Sequential(Module):
    """A network of dense layers, with a loss.

    x1 = X, x_{l+1} = f_l(W_l x_l + b_l), and for m examples the loss L = sum_i w_i l_i / sum_i w_i + (l2 / 2) sum W^2.
    By default l_i = sum_o (prediction_oi - y_oi)^2 over the outputs o, without one-half, and w_i = 1, l2 = 0:
    L = sum (prediction - y)^2 / m.

    Shapes: X ``(n_features, m)``, y and predictions ``(n_outputs, m)``. ``(m,)`` is accepted for X if there
    is one feature, for y if there is one output. If there are several features, a vector ``(n_features,)``
    is one example for every method except `fit`: its prediction is also a vector. Arrays with any strides are used
    in place, without conversion: pass a scikit-learn array as ``X.T``. Other types (the other float type, float16,
    integers, bool, lists, columns of a data frame) are converted.

    Parameters
    ----------
    *layers : Linear, activations, Dropout, Scale
        Activation and dropout belong to the `Linear` before them, a scale to the one after it.
    loss : str or object, default "mean_squared_error"
        An object of `fusegrad.losses`, or its name: "huber", "quantile", "poisson", "binary_cross_entropy",
        "softmax_cross_entropy", "multiclass_hinge". Or any object with
        ``value_and_gradient(prediction, y)``, which returns the loss of a batch and its gradient (n_outputs, m) with
        respect to the prediction; Python calls it once a batch, with y of any number of rows.
    l2 : float, default 0.0
        At least 0. (l2 / 2) sum W^2 of all weights, not of the biases, is a part of the loss and of its gradient.
    dtype : "float32" (default) or "float64"
        The dtype of the parameters and of all computations.
    rng : None, int or numpy.random.Generator
        Draws the initial weights, and the seed of `Dropout`. The same seed gives the same network in both dtypes,
        except for rounding.
    init : {None, "default", "glorot_uniform", "he_uniform", "torch"}
        The distribution of the initial weights of a layer of n inputs and k outputs; see Notes.

    Attributes
    ----------
    parameters : array (n_parameters,)
        The only storage of the weights, W1 | b1 | W2 | b2 | ..., row-major, the s of a `Scale` before its W. You may
        write to it.
    layers : tuple of layers
    loss_function : the loss
    l2 : float
        May be set between two trainings.
    dtype : numpy.dtype
    n_features, n_outputs, n_parameters : int
        These and the layers do not change; only the parameters do.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a layer, sizes do not match, or `dtype` or `init` is not one of these.

    Notes
    -----
    A subclass may override `loss_and_gradient`: then `train_step` and `fit` call it from Python, once per step.
    Validation calls `loss`, a prediction and metrics `forward`. Training calls no other overridden method.

    Initial weights and biases are uniform between -bound and bound. The default (or None) depends on the activation:

    =========================  =================  ===========
    ``init``                   bound of W         bound of b
    =========================  =================  ===========
    "default", tanh or ReLU    1 / sqrt(n)        1 / sqrt(n)
    "default", SELU            sqrt(3 / n)        0
    "default", sigmoid         sqrt(6 / n)        1 / sqrt(n)
    "default", no activation   1 / sqrt(n)        0
    "glorot_uniform"           sqrt(6 / (n + k))  0
    "he_uniform"               sqrt(6 / n)        0
    "torch"                    1 / sqrt(n)        1 / sqrt(n)
    =========================  =================  ===========

    The default of sigmoid, tanh and ReLU trained best on twelve regression problems, by the losses on training and
    held-out data together: docs/initial-weights.md. Other activations have that of ReLU; SELU has LeCun's weights of
    variance 1 / n, which its self-normalization needs. "he_uniform" keeps the size of the activations through many
    layers of ReLU.

    Every method that computes releases the GIL, unless it takes only a few microseconds. It uses as many threads as
    `set_num_threads` allows and as are worthwhile for the work. The number of threads changes no bit of a result.

    References
    ----------
    Rumelhart, D. E., Hinton, G. E. and Williams, R. J. (1986). Learning representations by
    back-propagating errors. Nature 323.
    Glorot, X. and Bengio, Y. (2010). Understanding the difficulty of training deep feedforward neural
    networks. AISTATS. ("glorot_uniform")
    He, K. et al. (2015). Delving deep into rectifiers. ICCV. ("he_uniform")
    Klambauer, G. et al. (2017). Self-normalizing neural networks. NeurIPS. (SELU)
    LeCun, Y. et al. (1998). Efficient backprop. In Neural networks: tricks of the trade. Springer. (1 / sqrt(n))
    PyTorch's documentation of ``torch.nn.Linear``. ("torch")

    Examples
    --------
    >>> import numpy as np, fusegrad as fg
    >>> X = np.linspace(-2, 2, 50, dtype="float32")[np.newaxis, :]
    >>> net = fg.Sequential(fg.Linear(1, 16), fg.Tanh(), fg.Linear(16, 1), rng=0)
    >>> history = net.fit(X, np.sin(2 * X), optimizer=fg.Adam(lr=0.01), epochs=2000)
    >>> history.loss[-1] < 1e-3
    True
    """

    def __init__(
        self,
        *layers: Layer,
        loss: Any = "mean_squared_error",
        l2: float = 0.0,
        dtype: Any = "float32",
        rng: Any = None,
        init: str | None = None,
    ) -> None:
        if init is None:
            init = "default"
        if not isinstance(init, str):
            raise TypeError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
        if init not in INITS:
            raise ValueError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
        self._set_up(layers, as_dtype(dtype), as_loss(loss), as_number(l2, "l2", least=0.0))
        self._initialize(as_generator(rng), init)

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(getattr(type(self), name, None)) and not callable(value):
            known = "; the loss is chosen when a network is made: Sequential(..., loss=...)" if name == "loss" else ""
            raise AttributeError(f"{name}: expected a function, since it is a method, got {value!r}{known}")
        if name == "loss_and_gradient":
            if "_engine" in self.__dict__:  # a subclass may set it before its base is initialised
                self._engine.small_step = None  # steps must call the new function
        elif type(self).__module__ in OWN_MODULES and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; a subclass may have its own")
        object.__setattr__(self, name, value)

    def _initialize(self, rng: "np.random.Generator", init: str) -> None:
        parameters = self._engine.parameters
        for layer in self._engine.layers:
            if layer.scale is not None:
                parameters[layer.scale : layer.weight] = 1.0
            weight, bias = initial_bounds(init, layer.activation, layer.n_in, layer.n_out)
            size = layer.n_in * layer.n_out
            parameters[layer.weight : layer.weight + size] = rng.uniform(-weight, weight, size)
            if layer.bias is not None and bias > 0:
                parameters[layer.bias : layer.end] = rng.uniform(-bias, bias, layer.n_out)
        if self._engine.dropout_seed is not None:
            self._engine.dropout_seed = int(rng.integers(1 << 63))

    @property
    def l2(self) -> float:
        """The factor of the penalty (l2 / 2) sum W^2 of all weights; it may be changed between two trainings."""
        return self._engine.l2

    @l2.setter
    def l2(self, value: float) -> None:
        self._engine.set_l2(as_number(value, "l2", least=0.0))

    # ---- computing ------------------------------------------------------------------------------------

    def freeze(self) -> Predictor:
        """A copy that only predicts, packed for single examples; to train the network does not change it.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.parameters = [2.0, 1.0]
        >>> predictor = net.freeze()
        >>> net.parameters = [0.0, 0.0]
        >>> predictor([1.0, 2.0])
        array([[3., 5.]])
        """
        self._check_forward("freeze")
        return Predictor(self)

    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The loss L = sum_i w_i l_i / sum_i w_i + (l2 / 2) sum W^2; by default sum (prediction - y)^2 / m.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        y : array (n_outputs, m); for one example (n_outputs,), or a number if there is one output
            With a loss for classes also class numbers (m,), of any integer dtype.
        sample_weight : array (m,), optional
            w, at least 0 and not all 0; 1 by default. A weight of 2 is the example twice. One of less than about 1e-30
            (1e-270 in float64) of the largest counts as 0.

        Returns
        -------
        float
            Not finite if the prediction is not.

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape.

        Notes
        -----
        Threads share the examples; any number of threads gives the same bits.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.parameters = [2.0, 0.0]
        >>> net.loss([1.0, 2.0], [1.0, 4.0])
        0.5
        """
        return self._engine.loss(X, y, sample_weight)

    def loss_and_gradient(
        self, X: Any, y: Any, out: Array | None = None, *, sample_weight: Any = None, training_step: int | None = None
    ) -> tuple[float, Array]:
        """The loss and its gradient with respect to all parameters.

        delta_L = f_L' * w_i / (sum w) dl/dprediction (by default (2/m) (prediction - y)),
        delta_{l-1} = f_{l-1}' * W_l^T delta_l, and the gradients are delta_l x_l^T + l2 W_l and delta_l 1.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        y : array (n_outputs, m); for one example (n_outputs,), or a number if there is one output
        out : array (n_parameters,), optional
            The array to write the gradient to.
        sample_weight : array (m,), optional
            As for `loss`.
        training_step : int, optional
            The number of a training step: `Dropout` is applied, with the masks of that step. For a loop with an
            optimizer of another package.

        Returns
        -------
        loss : float
        gradient : array (n_parameters,)
            In the order of `parameters`; `unflatten` returns its views.

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape.

        Examples
        --------
        Any SciPy optimizer works on the flat buffers:

        >>> import fusegrad as fg, numpy as np
        >>> from scipy.optimize import minimize
        >>> X, y = fg.datasets.load_penguins()
        >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> def objective(parameters):
        ...     net.parameters = parameters
        ...     return net.loss_and_gradient(X, y)
        >>> result = minimize(objective, net.parameters, jac=True)
        >>> round(float(result.fun), 4)
        0.241
        """
        return self._engine.loss_and_gradient(X, y, sample_weight, out, training_step)

    def input_gradient(self, X: Any, y: Any = None, *, sample_weight: Any = None, output_gradient: Any = None) -> Array:
        """The gradient of the loss with respect to X, (W_1)^T delta_1.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        y : array (n_outputs, m); for one example (n_outputs,), or a number if there is one output
        sample_weight : array (m,), optional
            As for `loss`.
        output_gradient : array (n_outputs, m), optional
            In place of y: a gradient with respect to the predictions, as for `backward`.

        Returns
        -------
        array (n_features, m), or (n_features,) for one example
            In the network's dtype.

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape.

        Notes
        -----
        Threads share the examples; any number of threads gives the same bits.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.parameters = [2.0, 0.0]
        >>> net.input_gradient([1.0, 2.0], [1.0, 4.0])
        array([[2., 0.]])
        """
        if output_gradient is not None and not (y is None and sample_weight is None):
            raise TypeError("output_gradient: expected neither y nor sample_weight beside it, got both")
        return self._engine.input_gradient(X, y, sample_weight, output_gradient)

    def backward(self, X: Any, output_gradient: Any, out: Array | None = None) -> Array:
        """The gradient with respect to all parameters, from one with respect to the predictions: for any other loss.

        delta_L = f_L' * output_gradient, delta_{l-1} = f_{l-1}' * W_l^T delta_l; delta_l x_l^T and delta_l 1. Nothing
        is divided by m, and neither weights of examples nor `l2` are added.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        output_gradient : array (n_outputs, m), or (n_outputs,) for one example
            dL / d prediction.
        out : array (n_parameters,), optional
            The array to write the gradient to.

        Returns
        -------
        array (n_parameters,)
            In the order of `parameters`.

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape.

        Notes
        -----
        The forward pass is a part of it. Threads share the examples; any number of threads gives the same bits.

        Examples
        --------
        The mean absolute error:

        >>> import fusegrad as fg, numpy as np
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.parameters = [1.0, 0.0]
        >>> X, y = np.array([[1.0, 2.0]]), np.array([[2.0, 0.0]])
        >>> net.backward(X, np.sign(net(X) - y) / 2)
        array([0.5, 0. ])
        """
        return self._engine.backward(X, output_gradient, out)

    def train_step(self, X: Any, y: Any, optimizer: SupportsStep, sample_weight: Any = None) -> float:
        """One step over the whole of X and y: loss, gradient and update in one call.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        y : array (n_outputs, m); for one example (n_outputs,), or a number if there is one output
        optimizer : Optimizer
            Or any object with ``step(parameters, gradient)``, which writes into parameters.
        sample_weight : array (m,), optional
            As for `loss`.

        Returns
        -------
        float
            The loss before the update (with Nesterov's rule: at the look-ahead point). If it is not finite,
            there is no update. If only its gradient is not finite, there is no update, either, and inf is returned.

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape, or the optimizer is invalid or belongs to another network.
        RuntimeError
            If this network is being trained already, in another thread or by the caller of a callback.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.parameters = [2.0, 0.0]
        >>> net.train_step([1.0, 2.0], [1.0, 4.0], fg.SGD(lr=0.5))
        0.5
        >>> net.parameters
        array([ 1.5, -0.5])
        """
        engine = self._engine
        small = engine.small_step
        if small is not None and sample_weight is None:
            direct: float | None = small.step_direct(X, y, optimizer, COMPILED_STEP)
            if direct is not None:
                return direct
        return train_step(self._trainee(), X, y, sample_weight, optimizer)

    def _trainee(self) -> Trainee:
        overridden = getattr(self.loss_and_gradient, "__func__", None) is not COMPILED_GRADIENT
        return Trainee(self, self._engine, self._layout, overridden, COMPILED_LOSS)

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        optimizer: SupportsStep,
        epochs: int,
        initial_epoch: int = 0,
        batch_size: int | None = None,
        shuffle: bool = True,
        rng: Any = None,
        schedule: Callable[[int], float] | None = None,
        sample_weight: Any = None,
        validation_data: tuple[Any, ...] | None = None,
        metrics: Iterable[Any] = (),
        keep_best: bool = False,
        callbacks: Iterable[Callable[["Sequential", History], Any]] = (),
        on_divergence: str = "raise",
        verbose: int = 0,
        n_threads: int | None = None,
        moments: bool = True,
        comm: Any = None,
        partitioned: bool = False,
        reduction: str = "blocks",
    ) -> History:  # one keyword for each choice, as in Keras and scikit-learn; FitOptions takes them together
        """Train for some epochs.

        Parameters
        ----------
        X : array (n_features, m), or blocks
            A matrix: one example is a column. A data frame has examples as rows. Without y: an iterable of blocks (X,
            y) or (X, y, sample_weight), such as `Blocks`, which are read one after the other in each epoch. A
            `numpy.memmap` of more than 512 MiB with a `batch_size`, and an array with ``chunks`` (HDF5, zarr, dask),
            are read in `Blocks`.
        y : array (n_outputs, m), optional
        optimizer : Optimizer
            Or any object with ``step(parameters, gradient)``, which writes into parameters, in Python at each step.
        epochs : int
            How often each example is seen, including the epochs before `initial_epoch`.
        initial_epoch : int, default 0
            How many of the epochs are already finished, if a stopped fit is resumed (see `load_checkpoint`).
        batch_size : int, optional
            Examples per step; None: all. The last batch of an epoch may be smaller; its m is its own size.
        shuffle : bool, default True
            Draw a new order for each epoch. Nothing is drawn if one batch holds all examples. Data of 2 to 512 MiB
            are copied where the features of an example are not contiguous: batches are read up to twice as fast.
            Of blocks, the order of the blocks is drawn (if they have ``len`` and indices), and that of the examples in
            each: where like examples lie together in a file, shuffle the file.
        rng : None, int or numpy.random.Generator
            The generator of the shuffling.
        schedule : callable, optional
            A function of the step (the optimizer's ``n_steps``, which continues from fit to fit) that returns the
            learning rate. Without it the rate is ``optimizer.lr``. Those of this package (`CosineDecay` ...) are
            computed in compiled code. Any other is called once per step, in order, but some steps ahead; if it fails,
            the steps before may have been made.
        sample_weight : array (m,), optional
            As for `loss`. A batch whose weights are all 0 makes no step, and is not counted.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Its loss, with the penalty of l2, is computed after each epoch. NaN or an infinity in it is a ValueError.
        metrics : list of str and callables, default ()
            Computed for the validation data after each epoch, without weights: ``history.metrics``. They are "accuracy"
            (of classes), "mae" and "r2" (with "poisson" of expected counts, with "binary_cross_entropy" of
            probabilities), or functions of (y, prediction), both as in `loss` and `forward`: (1, m) for one output.
        keep_best : bool, default False
            At the end, copy the parameters of the epoch with the smallest validation loss back: ``history.best_epoch``.
            The optimizer stays as it is.
        callbacks : iterable of callables
            Each is called after each epoch as ``callback(net, history)`` and may read or save the network, or stop the
            training by returning True. It returns True, False or None. It may also have ``on_start`` and ``on_end``,
            as those of this package: `EarlyStopping`, `ReduceOnPlateau`, `Checkpoint`, `LogCSV`.
        on_divergence : {"raise", "stop"}
            What to do if a loss, a gradient, a state of the optimizer or a parameter is no longer finite. Network,
            optimizer and `rng` are restored to the end of the last epoch that was finite throughout. Then a
            `DivergenceError` is raised, or the History returned, with that error as its ``divergence``.
        verbose : {0, 1, 2}
            0: nothing; 1: a progress bar (needs tqdm); 2: a line per epoch.
        n_threads : int, optional
            The most threads to use. Results do not depend on it.
        moments : bool, default True
            Train a network of linear layers from the moments of the data (sums of products, computed once in
            float64), if there are no mini-batches and the number of epochs makes this worthwhile. A step then
            costs the same for any number of examples. In float64 losses and gradients of given parameters agree
            with those from the examples to 1e-9. If they would not, because the fit is nearly perfect, the examples are
            used instead. A fit then differs as far as its rule amplifies rounding errors: RMSprop near an optimum
            amplifies them strongly.
            `plan` says what is chosen and why.
        comm : communicator, optional
            Processes that train one network together, such as ``mpi4py.MPI.COMM_WORLD``: all of its ranks call `fit`
            with the same arguments and data. The fit has the bits of one process, with any number of ranks. It begins
            with the parameters, the state of the optimizer and the `rng` of rank 0. `Checkpoint` and `LogCSV` write in
            rank 0. An object with MPI's ``rank``, ``size``, ``Allgather``, ``Allreduce`` and ``Bcast`` will do. If a
            rank fails, all raise its error.
        partitioned : bool, default False
            Each rank has its own examples: the whole data set is their parts, in the order of the ranks. A rank may
            have none. A full batch gives the bits of one process with all of them. Mini-batches take from each rank in
            proportion, in an order of its own, so that the bits depend on the number of ranks. Validation losses and
            metrics are means over the examples of all ranks. Not for data that are read in blocks.
        reduction : {"blocks", "ranks"}
            How gradients are added. "blocks": the partial gradients of all blocks of a batch go to all ranks, which add
            them in the order of one process. "ranks": each rank adds its own first, and one sum goes through
            ``Allreduce``. That is less to send, and large networks, whose batch is one block, train faster only so; but
            the bits depend on the number of ranks and on the communicator.

        Returns
        -------
        History
            ``.loss`` has the mean loss of each epoch, computed before each of its updates.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, before anything is written. If X or y is not finite: the error
            names the first NaN or infinity; network, optimizer and `rng` are unchanged. If a block is of a wrong kind,
            shape or value: the error names the block; network and optimizer are as after the last finished step, as
            they are if reading a block raises an exception.
        DivergenceError
            See `on_divergence`.
        RuntimeError
            If this network is being trained already, in another thread or by the caller of a callback.
        KeyboardInterrupt
            On Ctrl-C, within 200 ms; the parameters are then those of the last finished step.
        MemoryError
            The epochs after the last one that a callback, validation, progress or a user-defined rule has seen are
            undone.

        Notes
        -----
        Without callbacks and validation, whole epochs run in compiled code, without Python in between. Blocks are read
        in a thread, one ahead: two are in memory.

        Examples
        --------
        >>> import fusegrad as fg
        >>> X, y = fg.datasets.load_penguins()
        >>> X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
        >>> net = fg.UnivariateRegression(rng=0)
        >>> history = net.fit(
        ...     X, y, optimizer=fg.SGD(lr=0.1), epochs=20, batch_size=32, rng=0, validation_data=(X, y),
        ...     callbacks=[lambda net, history: history.validation_loss[-1] < 0.25],
        ... )
        >>> history.stopped, history.epochs < 20
        (True, True)
        """
        with join(comm) as group:
            try:
                set_mode(group, partitioned, reduction)
                options = FitOptions(
                    optimizer=optimizer, epochs=epochs, initial_epoch=initial_epoch, batch_size=batch_size,
                    shuffle=shuffle, rng=rng, schedule=schedule, sample_weight=sample_weight,
                    validation_data=validation_data, metrics=metrics, keep_best=keep_best, callbacks=callbacks,
                    on_divergence=on_divergence, verbose=verbose, n_threads=n_threads, moments=moments,
                )  # fmt: skip
                with self._engine.lock, Computing():
                    return fit(self._trainee(), X, y, options, group)
            finally:
                if group is not None:
                    group.leave()

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))}, {describe_objective(self)}dtype={self.dtype.name!r})"


COMPILED_GRADIENT, COMPILED_LOSS = Sequential.loss_and_gradient, Sequential.loss


def check_network(net: Any) -> None:
    """Raise if it is no network."""
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a network such as Sequential, got {type(net).__name__}")


def build_network(
    layers: tuple[Layer, ...], dtype: "np.dtype[Any]", loss: Any, l2: float, dropout_seed: int | None
) -> Sequential:
    """A network with all parameters 0: no weights are drawn, since parameters are loaded next."""
    net = Sequential.__new__(Sequential)
    net._set_up(layers, dtype, loss, l2, dropout_seed)
    return net
