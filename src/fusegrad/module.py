"""The base of all networks: the layers, one flat buffer of parameters with its views, saving and exporting to files."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegrad._engine import files
from fusegrad._engine.engine import NetworkEngine
from fusegrad._engine.plan import Dense, Plan, stack_layers
from fusegrad._engine.validation import (
    PIECE,
    Array,
    all_finite,
    as_flag,
    as_flat,
    as_flat_output,
    as_floats,
    pieces,
)
from fusegrad.exports import Link, exported_layers, version
from fusegrad.layers import Layer, Linear, Scale, describe_layers, shapes_of
from fusegrad.losses import (
    BinaryCrossEntropy,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    check_logits,
    describe_loss,
    is_compiled,
)
from fusegrad.optimizers import describe_optimizer

#: What `Module.__setstate__` passes to the engine, and `Predictor` takes from a network.
CONSTRUCTED = ("_dtype", "_parameters", "_loss_function", "_l2", "_dropout_seed")


class Module:
    """Layers and their parameters, without computations: the base of `Sequential`, named as in PyTorch."""

    def _set_up(
        self,
        layers: tuple[Layer, ...],
        dtype: "np.dtype[Any]",
        loss_function: Any,
        l2: float,
        dropout_seed: int | None = None,
        parameters: Array | None = None,
    ) -> None:
        shapes = shapes_of(layers)
        compiled = is_compiled(loss_function)
        if compiled and loss_function.takes_logits:
            check_logits(loss_function, shapes[-1], dtype)
        self._layers = layers
        self._engine = NetworkEngine(stack_layers(shapes), dtype, loss_function, compiled, l2, parameters)
        if dropout_seed is not None:
            self._engine.dropout_seed = dropout_seed
        self._layout = describe_layers(layers)  # by which an optimizer identifies its network

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in vars(cls) and "__call__" not in vars(cls):
            cls.__call__ = vars(cls)["forward"]  # type: ignore[method-assign]  # net(X) is net.forward(X)

    if not TYPE_CHECKING:  # for a type checker any attribute would exist

        def __getattr__(self, name):
            """Called for a name that is not found; always an error."""
            if "_engine" not in vars(self):
                raise AttributeError(
                    f"{type(self).__name__}: expected __init__ to call super().__init__(...), which sets the layers"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __getstate__(self) -> dict[str, Any]:
        """The layers, the parameters, and attributes that a user or a subclass has set."""
        others = {name: value for name, value in vars(self).items() if name not in ("_engine", "_layout")}
        objective = {"_loss_function": self.loss_function, "_l2": self.l2}
        seed = {} if self.dropout_seed is None else {"_dropout_seed": self.dropout_seed}
        return {**others, "_dtype": self.dtype, "_parameters": self.parameters, **objective, **seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(state)
        self.parameters = state["_parameters"]

    def _restore(self, state: dict[str, Any], parameters: Array | None = None) -> None:
        """All of a state except the parameters, unless an array is passed that is used in place."""
        # Networks pickled before there were other losses have neither.
        objective = state.get("_loss_function", MeanSquaredError()), state.get("_l2", 0.0)
        self._set_up(state["_layers"], state["_dtype"], *objective, state.get("_dropout_seed"), parameters)
        made = (*CONSTRUCTED, *self.__dict__)
        self.__dict__.update((name, value) for name, value in state.items() if name not in made)

    # Attributes from which the compiled code reads its sizes cannot be assigned.

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as passed to the network."""
        return self._layers

    @property
    def dense_layers(self) -> tuple[Dense, ...]:
        """Each `Linear` with what is before and after it, and the offsets of its W, b and s in `parameters`."""
        return self._engine.layers

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The dtype of the parameters and of all computations."""
        return self._engine.dtype

    @property
    def loss_function(self) -> Any:
        """The loss: an object of `fusegrad.losses`, or a user-defined one."""
        return self._engine.loss_function

    @property
    def l2(self) -> float:
        """The factor of the penalty (l2 / 2) sum W^2 of all weights, which is a part of the loss."""
        return self._engine.l2

    @property
    def dropout_seed(self) -> int | None:
        """The seed of the masks of `fusegrad.Dropout`; None if no layer has dropout."""
        return self._engine.dropout_seed

    @property
    def n_features(self) -> int:
        """The number of rows of X."""
        return self._engine.n_features

    @property
    def n_outputs(self) -> int:
        """The number of rows of y."""
        return self._engine.n_outputs

    @property
    def n_parameters(self) -> int:
        """The size of `parameters`."""
        return self._engine.n_parameters

    @property
    def parameters(self) -> Array:
        """The flat buffer that stores all weights; assigning copies into it.

        The network always uses this buffer: if its shape, size or dtype is changed, every call is an error until
        that is undone.
        """
        return self._engine.parameters

    @parameters.setter
    def parameters(self, flat: Any) -> None:
        flat = as_flat(flat, "parameters", self.dtype, self.n_parameters)
        as_flat_output(self._engine.parameters, "parameters", self.dtype, self.n_parameters)[:] = flat

    def unflatten(self, flat: Array) -> dict[str, Array]:
        """Views of a flat buffer: ``{"W1": (n_out, n_in), "b1": (n_out, 1), ...}``, ``"s1"`` (n_in, 1) of a `Scale`.

        Parameters
        ----------
        flat : array (n_parameters,), contiguous
            Parameters, a gradient, or a row of an optimizer's state.

        Raises
        ------
        TypeError, ValueError
            If it is not an array, has another shape, or is not contiguous.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
        >>> {name: view.shape for name, view in net.unflatten(net.parameters).items()}
        {'W1': (50, 13), 'b1': (50, 1), 'W2': (1, 50), 'b2': (1, 1)}
        """
        if not isinstance(flat, np.ndarray):
            raise TypeError(f"flat: expected an array, got {type(flat).__name__}")
        if flat.shape != (self.n_parameters,) or not flat.flags.c_contiguous:
            raise ValueError(f"flat: expected a contiguous array of shape ({self.n_parameters},), got {flat.shape}")
        views: dict[str, Array] = {}
        for name, (first, last) in self._engine.places.items():
            columns = self.dense_layers[int(name[1:]) - 1].n_in if name[0] == "W" else 1
            views[name] = flat[first:last].reshape(-1, columns)
        return views

    def named_parameters(self) -> dict[str, Array]:
        """Views of the parameters, by name: see `unflatten`. Writing to a view changes the network.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.UnivariateRegression(dtype="float64", rng=0)
        >>> net.named_parameters()["W1"][:] = 2.0
        >>> net.parameters
        array([2., 0.])
        """
        flat = self._engine.parameters
        if flat.shape != (self.n_parameters,) or flat.dtype != self.dtype or not flat.flags.c_contiguous:
            raise ValueError(
                f"parameters: expected a contiguous array of shape ({self.n_parameters},) and {self.dtype}, "
                f"got shape {flat.shape} and {flat.dtype}"
            )
        return self.unflatten(flat)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names and shapes: ``"0.weight"`` (out, in), ``"0.bias"`` (out,).

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
        >>> {name: array.shape for name, array in net.state_dict().items()}
        {'0.weight': (50, 13), '0.bias': (50,), '2.weight': (1, 50), '2.bias': (1,)}
        """
        named = self.named_parameters()
        state: dict[str, Array] = {}
        dense = 0
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Linear):
                dense += 1
                state[f"{i}.weight"] = named[f"W{dense}"].copy()
                if layer.bias:
                    state[f"{i}.bias"] = named[f"b{dense}"].ravel().copy()
            elif isinstance(layer, Scale):
                state[f"{i}.scale"] = named[f"s{dense + 1}"].ravel().copy()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy the parameters of a `state_dict`, of fusegrad or of PyTorch, into the network.

        Raises
        ------
        TypeError, ValueError
            If names or shapes do not match this network; nothing is written then.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net, other = fg.TwoLayerSigmoid(13, 50, rng=0), fg.TwoLayerSigmoid(13, 50, rng=1)
        >>> net.load_state_dict(other.state_dict())
        >>> bool((net.parameters == other.parameters).all())
        True
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a dict, got {type(state_dict).__name__}")
        if set(own) != set(state_dict):
            raise ValueError(f"state_dict: expected the keys {', '.join(own)}, got {', '.join(map(str, state_dict))}")
        parts = []
        for name, value in own.items():
            array = as_floats(state_dict[name], f"state_dict[{name!r}]", self.dtype)
            if array.shape != value.shape:
                raise ValueError(f"state_dict[{name!r}]: expected shape {value.shape}, got {array.shape}")
            parts.append(array.ravel())
        self.parameters = np.concatenate(parts)

    def _check_forward(self, what: str) -> None:
        """Raise if a subclass has overridden `forward`, which `what` would not call."""
        if getattr(self.forward, "__func__", None) is not Module.forward:
            raise TypeError(f"{what}: expected a network whose forward is not overridden, got {type(self).__name__}")

    def _check_save(self, optimizer: Any = None, rng: Any = None) -> None:
        """Raise if a fit runs, and what would be saved is not consistent, or will be undone."""
        lock = self._engine.lock
        lock.check_save(optimizer is not None or rng is not None)
        state = getattr(optimizer, "state", None)
        if lock.is_held and not all(all_finite(array) for array in (self.parameters, state) if array is not None):
            raise RuntimeError(
                "the parameters or the optimizer's state are not finite, and the fit will undo its last epochs: "
                "set a flag in the signal handler, and save in a callback of the fit"
            )

    def save(
        self,
        path: str | PathLike[str],
        *,
        optimizer: Any = None,
        rng: Any = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the network to a file, completely or not at all; with the optimizer and rng, a checkpoint of a fit.

        The format is safetensors: the arrays of `state_dict`, which any reader of that format can load, and also
        the layers and a checksum. `fusegrad.load` reads the network and has an example;
        `fusegrad.load_checkpoint` reads all three.

        Parameters
        ----------
        path : str or path-like
            An existing regular file is replaced; its mode, group, ACL and attributes (for root also its owner) are kept
            if the system allows it. A symbolic link is kept and points to the new file.
        optimizer : SGD, Adagrad, RMSprop, Adam or AdamW, optional
            Its hyperparameters, its number of steps and its state are also written.
        rng : numpy.random.Generator, optional
            The generator of the shuffling; its state is also written.
        metadata : dict of str to str, optional
            What else to write, such as how data were scaled; `fusegrad.load_metadata` reads it. Its names must not be
            those of what is written anyhow.

        Raises
        ------
        TypeError, ValueError
            If an argument is not a path, such an optimizer, such a generator or such a dict; if the path is a FIFO, a
            socket or a device; if the layers (thousands) and the metadata would take more than 1 MiB.
        OSError
            If the file cannot be written, or an existing file is not writable, such as a read-only one, which is kept.
        RuntimeError
            If the network is being trained, and network, optimizer and generator are not consistent, or not finite.

        Notes
        -----
        If the process is killed or interrupted at any time, either the old file or the new one remains. A hard
        link to the old file keeps the old content.

        While another thread trains the network, saving raises a RuntimeError: save from a callback of that fit. A
        signal handler may save during a fit, but with optimizer or rng only between two epochs; handlers wait up
        to 100 ms for that. If epochs take longer, set a flag in the handler, and save in a callback.
        """
        self._check_save(optimizer, rng)
        others = files.check_metadata(metadata)
        arrays, metadata = self.state_dict(), {"layers": describe_layers(self.layers), "dtype": self.dtype.name}
        if self.loss_function != MeanSquaredError():
            metadata["loss"] = describe_loss(self.loss_function)
        if self.l2:
            metadata["l2"] = repr(self.l2)
        if self.dropout_seed is not None:
            metadata["dropout_seed"] = str(self.dropout_seed)
        if optimizer is not None:
            metadata["optimizer"] = describe_optimizer(optimizer)
            optimizer.check(self._engine.parameters)
            if optimizer.state is not None:
                arrays["optimizer.state"] = optimizer.state
            if isinstance(optimizer.learning_rate_factors, np.ndarray):
                arrays["optimizer.learning_rate_factors"] = optimizer.learning_rate_factors
        if rng is not None:
            metadata["rng"] = files.describe_generator(rng)
        files.save(path, arrays, metadata | others)

    def export_c(self, path: str | PathLike[str], *, name: str = "predict", probabilities: bool = False) -> None:
        """Write the network as one C file that needs nothing but math.h: for microcontrollers, for other languages.

        The file has one function, of one example: ``void predict(const float *x, float *y)``, with double in place of
        float for a float64 network. It computes x1 = x, x_{l+1} = f_l(W_l x_l + b_l).

        Parameters
        ----------
        path : str or path-like
            As for `save`: the file is written completely or not at all.
        name : str, default "predict"
            The name of the function. All other names of the file are private to it and begin with this one, so networks
            of different names can be linked into one program, or included in one file.
        probabilities : bool, default False
            Whether y is what `probabilities` returns, in place of the prediction.

        Raises
        ------
        TypeError, ValueError
            If an argument is not a path, a name that a C function can have, or a bool; if the loss has no
            probabilities; if a parameter is not finite. Nothing is written then.
        OSError
            If the file cannot be written. An existing file is unchanged.
        RuntimeError
            While another thread trains the network.

        Notes
        -----
        C99 or C++17; gcc and clang compile it without a warning. The parameters are ``static const`` arrays that keep
        every bit. A `Scale` is multiplied into the weights behind it, and `Dropout` does nothing in a prediction. Two
        local arrays hold the activations, nothing is allocated, and any number of threads may call the function.
        Compilers vectorize it with ``-O3``; do not use ``-ffast-math``. Sums are rounded otherwise than in the network:
        predictions agree to 1e-6 of the largest in float32, to 1e-14 in float64, unless the outputs cancel.

        Examples
        --------
        >>> import fusegrad as fg, tempfile, pathlib
        >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net.export_c(pathlib.Path(folder, "mpg.c"), name="mpg")
        ...     source = pathlib.Path(folder, "mpg.c").read_text()
        >>> "void mpg(const float *x, float *y);" in source
        True
        """
        from fusegrad.exports.c import as_identifier, c_source

        self._check_save()
        self._check_forward("export_c")
        layers = exported_layers(self.dense_layers, self.named_parameters())
        name, link = as_identifier(name), self._link(probabilities)
        files.write(path, c_source(layers, link, self.dtype, name=name, version=version()).encode())

    def export_onnx(self, path: str | PathLike[str], *, probabilities: bool = False) -> None:
        """Write the network as an ONNX model, which onnxruntime and many other programs run.

        x1 = X, x_{l+1} = f_l(W_l x_l + b_l). Examples are rows there: the input "X" is ``(examples, n_features)``, the
        output "prediction" ``(examples, n_outputs)``, for any number of examples, both of the network's dtype.

        Parameters
        ----------
        path : str or path-like
            As for `save`: the file is written completely or not at all.
        probabilities : bool, default False
            Whether the output is what `probabilities` returns. Its name is "probabilities" then.

        Raises
        ------
        ImportError
            Without the package onnx: ``pip install "fusegrad[onnx]"``.
        TypeError, ValueError
            If an argument is not a path or a bool; if the loss has no probabilities. Nothing is written then.
        OSError
            If the file cannot be written. An existing file is unchanged.
        RuntimeError
            While another thread trains the network.

        Notes
        -----
        Opset 18, IR version 9, checked by onnx.checker. A `Scale` is multiplied into the weights behind it, and
        `Dropout` does nothing in a prediction. In float32 an activation is one operator where ONNX has one; in float64
        most are composed of several, since operators and runtimes have float32 in them. Predictions of onnxruntime
        agree to 1e-6 of the largest in float32, to 1e-14 in float64, unless the outputs cancel.

        Examples
        --------
        >>> import fusegrad as fg, numpy as np
        >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
        >>> import onnxruntime  # doctest: +SKIP
        >>> net.export_onnx("net.onnx")  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession("net.onnx")  # doctest: +SKIP
        >>> session.run(["prediction"], {"X": np.ones((5, 13), "float32")})[0].shape  # doctest: +SKIP
        (5, 1)
        """
        from fusegrad.exports.onnx import onnx_model

        self._check_save()
        self._check_forward("export_onnx")
        layers = exported_layers(self.dense_layers, self.named_parameters())
        files.write(path, onnx_model(layers, self._link(probabilities), self.dtype, version=version()))

    def plan(self, n_examples: int, n_threads: int | None = None, epochs: int | None = None) -> Plan:
        """The plan of a step over n_examples; print it to see what was chosen.

        Parameters
        ----------
        n_examples : int
            At least 1.
        n_threads : int, optional
            As for `fit`.
        epochs : int, optional
            If given, the plan also says whether a fit of so many epochs uses all n_examples or their moments.

        Returns
        -------
        Plan
            Tiles, blocks, threads, and how the gradient of each layer is summed; its text is not for parsing.

        Raises
        ------
        TypeError, ValueError
            If a number is not an integer, or less than 1.

        Examples
        --------
        >>> import fusegrad as fg
        >>> print(fg.TwoLayerLinear(8, 32, rng=0).plan(1000, n_threads=1))  # doctest: +ELLIPSIS
        1000 examples a step, in tiles of ...
          dense 8 -> 1 identity, gradient lane-wise, 2 linear layers in one
          a shuffled fit of 65536 to 16777216 examples copies X, if the features of an example are not contiguous
          loss MeanSquaredError()
        """
        return self._engine.plan(n_examples, n_threads, epochs)

    def forward(self, X: Any, out: Array | None = None) -> Array:
        """Predict: the last of x1 = X, x_{l+1} = f_l(W_l x_l + b_l). ``net(X)`` is the same.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example
        out : array (n_outputs, m), optional
            The array to write to, with any strides, of the network's dtype. For one example (n_outputs,).

        Returns
        -------
        array (n_outputs, m), or (n_outputs,) for one example

        Raises
        ------
        TypeError, ValueError
            If an array is of the wrong kind or shape.

        Notes
        -----
        The prediction of an example does not depend on the rest of the batch. NaN propagates.

        Examples
        --------
        >>> import numpy as np, fusegrad as fg
        >>> net = fg.MultivariateRegression(2, dtype="float64", rng=0)
        >>> net.parameters = [1.0, 2.0, 0.5]
        >>> net(np.array([[1.0, 0.0], [1.0, 1.0]]))
        array([[3.5, 2.5]])
        >>> net([1.0, 1.0])
        array([3.5])
        """
        engine = self._engine
        small = engine.small_predictor
        if small is not None:
            direct: Array | None = small.forward_direct(X, out)
            if direct is not None:
                return direct
        return engine.forward(X, out)

    __call__ = forward

    def probabilities(self, X: Any) -> Array:
        """The probabilities of a classifier: softmax(z) or sigmoid(z) of the outputs z, as its loss takes them.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example

        Returns
        -------
        array (n_outputs, m), or (n_outputs,) for one example
            With "softmax_cross_entropy" those of the classes, which add up to 1. With "binary_cross_entropy" the
            probability that y is 1, for each output.

        Raises
        ------
        TypeError, ValueError
            If the loss is not one of these two, or X is of the wrong kind or shape.

        Notes
        -----
        Computed in the pass of the prediction. The probabilities of an example do not depend on the rest of the batch.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.Sequential(fg.Linear(1, 2), loss="softmax_cross_entropy", dtype="float64", rng=0)
        >>> net.parameters = [0.0, 1.0, 0.0, 0.0]
        >>> net.probabilities([0.0, 1000.0])
        array([[0.5, 0. ],
               [0.5, 1. ]])
        """
        self._link(True)
        return self._engine.probabilities(X)

    def _link(self, probabilities: bool) -> Link:
        """The function from the outputs to the probabilities, if these are wanted; an error if the loss has none."""
        if not as_flag(probabilities, "probabilities"):
            return "identity"
        if isinstance(self.loss_function, SoftmaxCrossEntropy):
            return "softmax"
        if isinstance(self.loss_function, BinaryCrossEntropy):
            return "sigmoid"
        raise TypeError(
            "probabilities: expected a network with loss='softmax_cross_entropy' or 'binary_cross_entropy', "
            f"got {self.loss_function!r}"
        )

    def classes(self, X: Any) -> Array:
        """The most probable class of each example.

        Parameters
        ----------
        X : array (n_features, m), or (n_features,) for one example

        Returns
        -------
        integer array (m,), or () for one example
            The number of the largest output, the first one of several. With "binary_cross_entropy" 1 where the output
            is positive, else 0; of several outputs (n_outputs, m).

        Raises
        ------
        TypeError, ValueError
            If the loss is not one for classes, or X is of the wrong kind or shape.

        Examples
        --------
        >>> import fusegrad as fg
        >>> net = fg.Sequential(fg.Linear(1, 2), loss="softmax_cross_entropy", dtype="float64", rng=0)
        >>> net.parameters = [-1.0, 1.0, 0.0, 0.0]
        >>> net.classes([-2.0, 3.0])
        array([0, 1])
        """
        if not (self._engine.loss_compiled and self.loss_function.takes_logits):
            raise TypeError(f"classes: expected a network with a loss for classes, got {self.loss_function!r}")
        outputs = self.forward(X)
        if not isinstance(self.loss_function, BinaryCrossEntropy):
            numbers = np.empty(outputs.shape[1:], np.intp)
            for piece in pieces(numbers, max(1, PIECE // len(outputs))):
                numbers[piece] = outputs[(slice(None), *piece)].argmax(axis=0)
            return numbers if numbers.ndim else numbers[()]
        return (outputs > 0).astype(np.intp)[0 if self.n_outputs == 1 else slice(None)]


def describe_objective(net: Module) -> str:
    """The arguments `loss` and `l2` of a network in its repr, where they are not the defaults."""
    loss = "" if net.loss_function == MeanSquaredError() else f"loss={net.loss_function!r}, "
    return loss + (f"l2={net.l2!r}, " if net.l2 else "")
