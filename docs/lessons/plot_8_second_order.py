r"""
8. Random search, and second order
==================================

The first idea: draw parameters, keep the best. The last one: use the second derivatives, too,

.. math:: W \leftarrow W - H^{-1} g, \qquad H_{ij} = \frac{\partial^2 L}{\partial W_i \partial W_j}

H has as many rows and columns as there are parameters.
"""

# %%
# Is random search a good idea?
# -----------------------------
# Of 100 000 candidates, how many have less than a twentieth of the loss of W = 0, in n dimensions?

import itertools
import time

import numpy as np

import fusegrad as fg
from fusegrad.diagrams import new_axes

data = np.random.default_rng(0)
sizes, needed, steps = range(1, 5), [], []
for n in sizes:
    X = data.normal(size=(n, 100))
    y = np.ones((1, n)) / np.sqrt(n) @ X
    goal = (y**2).mean() / 20
    net = fg.Sequential(fg.Linear(n, 1, bias=False), dtype="float64", rng=0)
    losses = fg.random_search(net, X, y, 100_000, rng=0).losses
    needed.append(losses.size / (losses < goal).sum())
    net.parameters[:] = 0
    descended = net.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=100).loss
    steps.append(next(i for i, loss in enumerate(descended) if loss < goal))
print([f"{count:.0f}" for count in needed], steps)

ax = new_axes((6.4, 4))
ax.semilogy(sizes, needed, "o-", color=fg.plots.COLOURS[1], label="random search")
ax.semilogy(sizes, steps, "s--", color=fg.plots.COLOURS[0], label="gradient descent")
ax.set(xlabel="parameters", ylabel="evaluations until the loss is a twentieth")
ax.legend()
ax.xaxis.get_major_locator().set_params(integer=True)
assert all(5 < more / less < 20 for less, more in itertools.pairwise(needed)) and max(steps) < 10

# %%
# Gradient descent needs fewer than 10 steps in any of these dimensions. Random search needs about ten times as many
# candidates for each parameter more: no good idea.
#
# Newton's step
# -------------
# The loss of a linear network is quadratic: one step, and the gradient is 0.

X, y = data.normal(size=(5, 100)), data.normal(size=(1, 100))
net = fg.MultivariateRegression(5, dtype="float64", rng=0)
fg.second_order.newton(net, X, y)
print(f"largest derivative after one step: {np.abs(net.loss_and_gradient(X, y)[1]).max():.0e}")
assert np.abs(net.loss_and_gradient(X, y)[1]).max() < 1e-12

# %%
# The second-order picture: along one direction, the loss, its tangent, and the parabola that Newton's step goes down.

net = fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3)
x = np.linspace(-2, 2, 50)[np.newaxis]
g = net.loss_and_gradient(x, np.sin(x))[1]
H = fg.second_order.hessian(net, x, np.sin(x))
d, start, t = -g / np.linalg.norm(g), net.parameters.copy(), np.linspace(-1.5, 2.5, 80)
losses = []
for step in t:
    net.parameters = start + step * d
    losses.append(net.loss(x, np.sin(x)))
net.parameters = start
here = net.loss(x, np.sin(x))
ax = new_axes((6.4, 4))
ax.plot(t, losses, color="black", label="loss")
ax.plot(t, here + t * (g @ d), ":", color=fg.plots.COLOURS[0], label="first order")
ax.plot(t, here + t * (g @ d) + t**2 / 2 * (d @ H @ d), "--", color=fg.plots.COLOURS[1], label="second order")
ax.set(xlabel="distance along -g", ylim=(0, 1.2 * max(losses)))
ax.legend()

# %%
# Too costly
# ----------
# Time of a gradient, of the Hessian by differences of gradients, and of solving with it:

X, y = data.normal(size=(8, 200)), data.normal(size=(1, 200))
sizes, times = [], []
for k in (1, 2, 4, 8, 16, 30):
    net = fg.TwoLayerSigmoid(8, k, dtype="float64", rng=0)
    row = []
    net.loss_and_gradient(X, y)
    for work in (
        lambda net=net: net.loss_and_gradient(X, y),
        lambda net=net: fg.second_order.hessian(net, X, y),
        lambda net=net: np.linalg.inv(np.eye(net.n_parameters) + np.ones((net.n_parameters,) * 2)),
    ):
        start = time.perf_counter()
        work()
        row.append(time.perf_counter() - start)
    sizes.append(net.n_parameters)
    times.append(row)
ax = new_axes((6.4, 4))
for values, name, style, colour in zip(
    zip(*times, strict=True), ("gradient", "Hessian", "inverse"), ("o-", "s--", "^:"), fg.plots.COLOURS, strict=False
):
    ax.loglog(sizes, values, style, color=colour, label=name)
ax.set(xlabel="parameters P", ylabel="seconds")
ax.legend()

# %%
# One thing to try
# ----------------
# For a network that is not linear, Newton's step may go up: H has negative eigenvalues, and :math:`-H^{-1} g` then
# points to a saddle.

net = fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3)
print("eigenvalues:", np.linalg.eigvalsh(fg.second_order.hessian(net, x, np.sin(x))).round(4)[[0, 1, -1]])
