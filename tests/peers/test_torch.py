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


#: Each of the other activations, and PyTorch's.
FUNCTIONS = {
    "LeakyReLU": (fg.LeakyReLU(0.1), lambda nn: nn.LeakyReLU(0.1)),
    "ELU": (fg.ELU(0.7), lambda nn: nn.ELU(0.7)),
    "SELU": (fg.SELU(), lambda nn: nn.SELU()),
    "Softplus": (fg.Softplus(), lambda nn: nn.Softplus(threshold=1000)),
    "SiLU": (fg.SiLU(), lambda nn: nn.SiLU()),
    "Mish": (fg.Mish(), lambda nn: nn.Mish()),
    "GELU": (fg.GELU(), lambda nn: nn.GELU()),
    "GELU, tanh": (fg.GELU("tanh"), lambda nn: nn.GELU(approximate="tanh")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_activations(torch, name):
    ours, theirs = FUNCTIONS[name]
    net = perturbed(fg.Linear(6, 40), ours, fg.Linear(40, 9), ours, fg.Linear(9, 2), ours, dtype="float64")
    nn = torch.nn
    twin = nn.Sequential(
        nn.Linear(6, 40), theirs(nn), nn.Linear(40, 9), theirs(nn), nn.Linear(9, 2), theirs(nn)
    ).double()
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in net.state_dict().items()})
    for m in (1, 5, 300):
        X, y = examples(net, m)
        loss, gradient, inputs = torch_gradient(torch, twin, 3 * X, y)
        found = net.loss_and_gradient(3 * X, y)
        assert found[0] == pytest.approx(loss, rel=1e-12)
        within("gradients of other activations against PyTorch", relative(found[1], gradient), 1e-10)
        assert relative(net.input_gradient(3 * X, y), inputs) <= 1e-10


# ---- losses ---------------------------------------------------------------------------------------------

#: Each loss, and PyTorch's of predictions (m, n_outputs) and targets, weighted by example.
LOSSES = {
    "mean_squared_error": lambda F, z, y: ((z - y) ** 2).sum(1),
    "huber": lambda F, z, y: F.huber_loss(z, y, reduction="none", delta=1.0).sum(1),
    "quantile": lambda F, z, y: (0.5 * F.l1_loss(z, y, reduction="none")).sum(1),
    "poisson": lambda F, z, y: F.poisson_nll_loss(z, y, log_input=True, reduction="none").sum(1),
    "binary_cross_entropy": lambda F, z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1),
    "softmax_cross_entropy": lambda F, z, y: F.cross_entropy(z, y, reduction="none"),
    "smoothed": lambda F, z, y: F.cross_entropy(z, y, reduction="none", label_smoothing=0.1),
    "probabilities": lambda F, z, y: F.cross_entropy(z, y, reduction="none"),
    "multiclass_hinge": lambda F, z, y: z.shape[1] * F.multi_margin_loss(z, y, reduction="none"),
}


def classifier(name):
    """A network with this loss, data, and the targets in PyTorch's shape."""
    special = {"smoothed": fg.losses.SoftmaxCrossEntropy(0.1), "probabilities": fg.losses.SoftmaxCrossEntropy()}
    net = perturbed(fg.Linear(6, 9), fg.Tanh(), fg.Linear(9, 4), loss=special.get(name, name), l2=0.01, dtype="float64")
    rng = np.random.default_rng(3)
    X = rng.normal(size=(6, 50))
    if name == "probabilities":
        y = rng.dirichlet(np.ones(4), 50).T
    elif net.loss_function.targets in ("classes", "probabilities"):
        y = rng.integers(0, 4, 50)
    elif name == "poisson":
        y = rng.poisson(2.0, (4, 50)).astype(float)
    else:
        y = rng.integers(0, 2, (4, 50)).astype(float)
    return net, X, y, y.T if y.ndim == 2 else y


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("name", LOSSES)
def test_100_steps_with_each_loss(torch, name, clip_norm):
    """Weights of examples, an L2 penalty on weights only, AdamW, and a limit of the gradient's norm."""
    net, X, y, theirs = classifier(name)
    weights = np.random.default_rng(4).uniform(0.5, 2, 50)
    twin = twin_of(torch, net)
    decayed = [p for p in twin.parameters() if p.ndim == 2]
    others = [p for p in twin.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer, other = fg.AdamW(0.01, weight_decay=0.1, clip_norm=clip_norm), torch.optim.AdamW(groups, lr=0.01)
    inputs, targets, w = torch.tensor(X.T), torch.tensor(theirs), torch.tensor(weights)
    for _ in range(100):
        other.zero_grad()
        values = LOSSES[name](torch.nn.functional, twin(inputs), targets)
        loss = (w * values).sum() / w.sum() + 0.005 * sum((p**2).sum() for p in decayed)
        loss.backward()
        if clip_norm is not None:
            norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
            for p in twin.parameters():  # clip_grad_norm_ adds 1e-6 to the norm
                p.grad *= min(1.0, clip_norm / norm.item())
        other.step()
        assert net.train_step(X, y, optimizer, sample_weight=weights) == pytest.approx(loss.item(), rel=1e-10)
    flat = np.concatenate([parameter.detach().numpy().ravel() for parameter in twin.parameters()])
    within("100 steps with each loss against PyTorch", relative(net.parameters, flat), 1e-10)
    if name == "softmax_cross_entropy":
        expected = torch.softmax(twin(inputs), dim=1).detach().numpy().T
        np.testing.assert_allclose(net.probabilities(X), expected, rtol=1e-9)
        np.testing.assert_array_equal(net.classes(X), expected.argmax(axis=0))
