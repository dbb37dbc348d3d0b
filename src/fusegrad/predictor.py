"""A network that does not change any more, packed for predictions of single examples."""

from typing import Any

from fusegrad._engine.validation import as_flat
from fusegrad.module import CONSTRUCTED, Module, describe_objective


class Predictor(Module):
    """A network as it was when it was frozen, for predictions: x1 = X, x_{l+1} = f_l(W_l x_l + b_l).

    `Sequential.freeze` makes one. For a few examples it is faster than the network, most of all if layers are wide:
    each W is stored a second time, packed for a sequential read. The predictions have the bits of the network's.

    Parameters
    ----------
    net : Sequential
        Is copied: to train it afterwards does not change the predictor.

    Attributes
    ----------
    layers, dtype, n_features, n_outputs, n_parameters
        As of the network.
    parameters : array (n_parameters,)
        Read-only.

    Raises
    ------
    TypeError
        If `net` is no network.

    Notes
    -----
    Nothing in it changes, so any number of threads may predict with one predictor at once. It takes the memory of its
    parameters twice (the second time with the outputs of each layer rounded up to two vectors). `save` writes a file
    that `fusegrad.load` reads as a network.

    It can be pickled. A predictor from a pickle uses the parameters in place if their buffer is read-only, as in the
    object store of ray or in a file that is mapped into memory: do not change that buffer. It packs its weights at its
    first prediction of a few examples; predictions of batches do without.

    Examples
    --------
    >>> import fusegrad as fg, numpy as np
    >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
    >>> predictor = net.freeze()
    >>> x = np.ones((13, 1), "float32")
    >>> bool((predictor(x) == net(x)).all())
    True
    """

    def __init__(self, net: Module) -> None:
        if not isinstance(net, Module):
            raise TypeError(f"net: expected a network, got {type(net).__name__}")
        own = ("_layers", *CONSTRUCTED)
        state = {name: value for name, value in net.__getstate__().items() if name in own}
        if not isinstance(net, Predictor):  # its owner may change the network, even if the array is read-only now
            state["_parameters"] = net.parameters.copy()
            state["_parameters"].flags.writeable = False
        self.__setstate__(state)
        self._engine.pack()

    def __setstate__(self, state: dict[str, Any]) -> None:
        parameters = as_flat(state["_parameters"], "parameters", state["_dtype"])
        self._restore(state, parameters.copy() if parameters.flags.writeable else parameters)
        self._engine.freeze()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "parameters":  # whose setter knows what to say
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set: a predictor does not change")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Predictor({', '.join(map(repr, self.layers))}, {describe_objective(self)}dtype={self.dtype.name!r})"
