"""Networks as PyTorch modules, and back.

The layers have PyTorch's names, so one table, of what the arguments are called there, serves both ways.
"""

import re
from typing import Any

from fusegrad import layers as own
from fusegrad._engine.validation import FLOATS
from fusegrad.layers import Layer, Linear, Scale
from fusegrad.module import Module
from fusegrad.networks import Sequential

#: The layers besides `Linear` and `Scale`: each argument, and its name in PyTorch.
ARGUMENTS: dict[str, dict[str, str]] = {
    "Identity": {},
    "Sigmoid": {},
    "ReLU": {},
    "Tanh": {},
    "LeakyReLU": {"slope": "negative_slope"},
    "ELU": {"alpha": "alpha"},
    "SELU": {},
    "Softplus": {},
    "SiLU": {},
    "Mish": {},
    "GELU": {"approximate": "approximate"},
    "Dropout": {"p": "p"},
}
#: For z above its threshold PyTorch's Softplus is z. Above 40 that is log(1 + exp(z)) in both dtypes ...
EXACT_THRESHOLD = 40.0
#: ... and above PyTorch's default it is in float32, and within 3e-9 in float64.
LEAST_THRESHOLD = 20.0


def to_torch(net: Module) -> Any:
    """A network as a ``torch.nn.Sequential`` with copies of its parameters, in evaluation mode.

    Parameters
    ----------
    net : Sequential or Predictor

    Returns
    -------
    torch.nn.Sequential
        A module for each layer, of the network's dtype, on the CPU. It takes examples as rows ``(m, n_features)``.

    Raises
    ------
    TypeError
        If it is no network.
    ImportError
        Without PyTorch.

    Notes
    -----
    A `Scale` is not a module: its factors are multiplied into the weights of the `Linear` behind it. The loss is not
    translated: a loop in PyTorch has its own. Call ``train()`` of the module before training, so that its dropout is
    active. PyTorch's generator is not used.

    Examples
    --------
    >>> import fusegrad as fg
    >>> net = fg.TwoLayerSigmoid(13, 50, rng=0)
    >>> fg.to_torch(net)  # doctest: +SKIP
    Sequential(
      (0): Linear(in_features=13, out_features=50, bias=True)
      (1): Sigmoid()
      (2): Linear(in_features=50, out_features=1, bias=True)
    )
    """
    if not isinstance(net, Module):
        raise TypeError(f"net: expected a network, got {type(net).__name__}")
    torch = _import_torch("to_torch")
    state = net.state_dict()
    modules = []
    for i, layer in enumerate(net.layers):
        if isinstance(layer, Linear):
            parameters = {name: state[f"{i}.{name}"] for name in ("weight", "bias") if f"{i}.{name}" in state}
            if f"{i - 1}.scale" in state:
                parameters["weight"] *= state[f"{i - 1}.scale"]
            options = {"bias": layer.bias, "dtype": getattr(torch, net.dtype.name)}
            modules.append(torch.nn.utils.skip_init(torch.nn.Linear, layer.in_features, layer.out_features, **options))
            modules[-1].load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
        elif not isinstance(layer, Scale):
            modules.append(_as_module(torch.nn, layer))
    return torch.nn.Sequential(*modules).eval()


def from_torch(module: Any, *, loss: Any = "mean_squared_error", l2: float = 0.0, rng: Any = None) -> Sequential:
    """A PyTorch module as a network with copies of its parameters.

    Parameters
    ----------
    module : torch.nn.Sequential
        Of ``Linear``, activations that fusegrad has, ``Dropout`` and ``Identity``, in an order that `Sequential` takes;
        they may be in Sequentials again. Or one ``Linear``. On any device, in any mode.
    loss : str or object, default "mean_squared_error"
    l2 : float, default 0.0
        As for `Sequential`. PyTorch's modules have neither.
    rng : None, int or numpy.random.Generator
        Draws the seed of `Dropout`.

    Returns
    -------
    Sequential
        Of the module's dtype. X is ``(n_features, m)``, the transpose of what the module takes.

    Raises
    ------
    TypeError, ValueError
        If a submodule cannot be translated (the error names it), if its parameters are not all float32 or all float64,
        or if another argument is wrong.
    ImportError
        Without PyTorch.

    Notes
    -----
    Submodules with hooks or with a ``forward`` of their own are refused, since these may change what is computed.
    ``Flatten()`` is left out: X has the features of an example in one column. So is an ``Identity`` before the first
    ``Linear``. A ``Softplus`` with PyTorch's default threshold of 20 is z above it, which is 2e-9 less than here.
    ``Softmax`` or ``LogSoftmax`` at the end is left out by hand: the losses take what is before it.

    Examples
    --------
    >>> import fusegrad as fg
    >>> from torch import nn  # doctest: +SKIP
    >>> module = nn.Sequential(nn.Linear(13, 50), nn.Tanh(), nn.Linear(50, 3))  # doctest: +SKIP
    >>> fg.from_torch(module, loss="softmax_cross_entropy")  # doctest: +SKIP
    Sequential(Linear(13, 50), Tanh(), Linear(50, 3), loss=SoftmaxCrossEntropy(), dtype='float32')
    """
    torch = _import_torch("from_torch")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    layers: list[Layer] = []
    places: list[str] = []
    state: dict[str, Any] = {}
    for name, child in module.named_modules(remove_duplicate=False):
        place = f"module.{name}" if name else "module"
        try:
            layer = _as_layer(torch.nn, child)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}: {error}") from None
        if layer is None or (not state and isinstance(layer, own.Identity)):
            continue
        for parameter, tensor in child.named_parameters(recurse=False):
            state[f"{len(layers)}.{parameter}"] = tensor.detach().cpu()
        layers.append(layer)
        places.append(place)
    known = {getattr(torch, dtype.name): dtype for dtype in FLOATS}
    dtypes = {tensor.dtype for tensor in state.values()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= known.keys():
        got = " and ".join(sorted(map(str, dtypes)))
        raise TypeError(f"module: expected parameters of float32 or of float64, got {got}")
    try:
        net = Sequential(*layers, loss=loss, l2=l2, dtype=known[dtypes.pop()], rng=rng)
    except ValueError as error:  # of layers[i], which is called otherwise in the module
        message = re.sub(r"^layers\[(\d+)\]", lambda found: places[int(found[1])], str(error))
        raise ValueError(re.sub(r"^layers", "module", message)) from None
    net.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})
    return net


def _import_torch(caller: str) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(f"{caller} needs PyTorch: pip install torch") from None
    return torch


def _as_module(nn: Any, layer: Layer) -> Any:
    """PyTorch's module of an activation or a dropout."""
    for name, arguments in ARGUMENTS.items():
        if isinstance(layer, getattr(own, name)):
            options = {theirs: getattr(layer, ours) for ours, theirs in arguments.items()}
            if name == "Softplus":
                options["threshold"] = EXACT_THRESHOLD
            return getattr(nn, name)(**options)
    raise TypeError(f"net: expected layers of fusegrad, got {layer!r}")


def _as_layer(nn: Any, module: Any) -> Layer | None:
    """The layer of a module; None for those that compute nothing: a Sequential, and a Flatten of each example."""
    names = ("Sequential", "Flatten", "Linear", *ARGUMENTS)
    computes = type(module).forward
    name = next((name for name in names if getattr(nn, name).forward is computes), None)
    if name is None:
        raise TypeError(f"expected one of {', '.join(names)} of torch.nn, got {type(module).__name__}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError("expected no hooks, which may change what is computed")
    if name == "Sequential":
        return None
    if name == "Flatten":
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(f"expected start_dim 1 and end_dim -1, got {module.start_dim} and {module.end_dim}")
        return None
    if name == "Linear":
        return Linear(module.in_features, module.out_features, bias=module.bias is not None)
    if name == "Softplus" and (module.beta != 1 or module.threshold < LEAST_THRESHOLD):
        raise ValueError(
            f"expected beta 1 and a threshold of at least {LEAST_THRESHOLD:g}, got {module.beta} and {module.threshold}"
        )
    options = {ours: getattr(module, theirs) for ours, theirs in ARGUMENTS[name].items()}
    layer: Layer = getattr(own, name)(**options)
    return layer
