"""PyTorch as an independent oracle: gradients, optimizers, state dicts."""

import numpy as np
import pytest
from support import FIVE_LAYERS, TOLERANCE, examples, perturbed, relative, within

import fusegrad as fg

pytestmark = pytest.mark.peers

ACTIVATIONS = {"Sigmoid": "Sigmoid", "ReLU": "ReLU", "Tanh": "Tanh", "Identity": "Identity"}


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def twin_of(torch, net):
    """The same network in PyTorch, by way of the state dict."""
    layers = []
    for layer in net.layers:
        if isinstance(layer, fg.Linear):
            layers.append(torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias))
        else:
            layers.append(getattr(torch.nn, type(layer).__name__)())
    twin = torch.nn.Sequential(*layers).to(getattr(torch, net.dtype.name))
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in net.state_dict().items()})
    return twin


def torch_gradient(torch, twin, X, y):
    """Loss, flat gradient, gradient on X; PyTorch has examples in rows, and its mean is over outputs too."""
    inputs = torch.tensor(X.T, requires_grad=True)
    loss = ((twin(inputs) - torch.tensor(y.T)) ** 2).sum() / X.shape[1]
    twin.zero_grad()
    loss.backward()
    flat = np.concatenate([parameter.grad.numpy().ravel() for parameter in twin.parameters()])
    return loss.item(), flat, inputs.grad.numpy().T


@pytest.mark.parametrize("m", [1, 33, 1000])
@pytest.mark.parametrize(
    "layers",
    [(fg.Linear(1, 1),), (fg.Linear(13, 50), fg.Sigmoid(), fg.Linear(50, 1)), FIVE_LAYERS],
    ids=["univariate", "two-layer sigmoid", "five layers"],
)
def test_gradients(torch, layers, m, dtype):
    net = perturbed(*layers, dtype=dtype)
    X, y = examples(net, m)
    exact = perturbed(*layers, dtype=dtype)
    double = fg.Sequential(*layers, dtype="float64")
    double.parameters = exact.parameters.astype("float64")
    loss, gradient, inputs = torch_gradient(torch, twin_of(torch, double), X, y)
    ours = net.loss_and_gradient(X, y)
    assert ours[0] == pytest.approx(loss, rel=TOLERANCE[dtype])
    assert relative(ours[1], gradient) <= TOLERANCE[dtype]
    assert relative(net.input_gradient(X, y), inputs) <= TOLERANCE[dtype]


OPTIMIZERS = {
    "sgd": (lambda: fg.SGD(lr=0.1), lambda torch, p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (lambda: fg.SGD(lr=0.01, momentum=0.9), lambda torch, p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    "nesterov": (
        lambda: fg.SGD(lr=0.01, momentum=0.9, nesterov=True),
        lambda torch, p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ),
    "adagrad": (lambda: fg.Adagrad(lr=0.1), lambda torch, p: torch.optim.Adagrad(p, lr=0.1)),
    "rmsprop": (lambda: fg.RMSprop(lr=0.01), lambda torch, p: torch.optim.RMSprop(p, lr=0.01)),
    "adam": (lambda: fg.Adam(lr=0.01), lambda torch, p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_100_steps_of_training(torch, name):
    """At a constant learning rate the rules coincide; PyTorch's parameters are Nesterov's look-ahead points."""
    ours, theirs = OPTIMIZERS[name]
    net = perturbed(fg.Linear(6, 9), fg.Sigmoid(), fg.Linear(9, 2), dtype="float64")
    twin = twin_of(torch, net)
    X, y = examples(net, 50)
    optimizer, other = ours(), theirs(torch, twin.parameters())
    for _ in range(100):
        loss, *_ = torch_gradient(torch, twin, X, y)
        other.step()
        assert net.train_step(X, y, optimizer) == pytest.approx(loss, rel=1e-10)
    flat = np.concatenate([parameter.detach().numpy().ravel() for parameter in twin.parameters()])
    here = optimizer.look_ahead(net.parameters) if name == "nesterov" else net.parameters
    within("100 steps of an optimizer against PyTorch", relative(here, flat), 1e-10)


def test_state_dicts_go_both_ways(torch, dtype):
    net = perturbed(*FIVE_LAYERS, dtype=dtype)
    twin = twin_of(torch, net)
    X, _ = examples(net, 20)
    theirs = twin(torch.tensor(X.T.astype(dtype))).detach().numpy().T
    assert relative(net(X), theirs.astype("float64")) <= TOLERANCE[dtype]
    other = fg.Sequential(*FIVE_LAYERS, dtype=dtype)
    other.load_state_dict(twin.state_dict())
    np.testing.assert_array_equal(other.parameters, net.parameters)
