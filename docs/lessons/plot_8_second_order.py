r"""
8. Random search, and second order
==================================

The first idea: draw parameters, keep the best. The last one: use the second
derivatives, too,

.. math::

   W \leftarrow W - H^{-1} g, \qquad
   H_{ij} = \frac{\partial^2 L}{\partial W_i \partial W_j}

H has as many rows and columns as there are parameters.
"""

# %%
# Is random search a good idea?
# -----------------------------
# Of 100 000 candidates, how many have less than a twentieth of the loss of W = 0, in n
# dimensions?

import itertools
import time

import matplotlib.pyplot as plt
import numpy as np

import fusegrad as fg

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

# %%

_, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.semilogy(sizes, needed, "o-", color=fg.plots.COLOURS[1], label="random search")
ax.semilogy(sizes, steps, "s--", color=fg.plots.COLOURS[0], label="gradient descent")
ax.set(xlabel="parameters", ylabel="evaluations until the loss is a twentieth")
ax.legend()
ax.xaxis.get_major_locator().set_params(integer=True)
growth = [more / less for less, more in itertools.pairwise(needed)]
assert 5 < min(growth) < max(growth) < 20 and max(steps) < 10

# %%
# Gradient descent needs fewer than 10 steps in any of these dimensions. Random search
# needs about ten times as many candidates for each parameter more: no good idea.
#
# Newton's step
# -------------
# The loss of a linear network is quadratic: one step, and the gradient is 0.

X, y = data.normal(size=(5, 100)), data.normal(size=(1, 100))
net = fg.MultivariateRegression(5, dtype="float64", rng=0)
fg.second_order.newton(net, X, y)
largest = np.abs(net.loss_and_gradient(X, y)[1]).max()
print(f"largest derivative after one step: {largest:.0e}")
assert largest < 1e-12

# %%
# The second-order picture: along one direction, the loss, its tangent, and the parabola
# that Newton's step goes down.

net = fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3)
x = np.linspace(-2, 2, 50)[np.newaxis]
fg.plots.taylor(net, x, np.sin(x))

# %%
# Too costly
# ----------
# Time of a gradient, of the Hessian by differences of gradients (two for each
# parameter), and of its inverse. This picture takes a second, and that is what it
# shows.

X, y = data.normal(size=(8, 20)), data.normal(size=(1, 20))
sizes, times = [], []
for k in (1, 3, 10, 30, 100, 200):
    net = fg.TwoLayerSigmoid(8, k, dtype="float64", rng=0)
    P = net.n_parameters
    net.loss_and_gradient(X, y)
    clock = [time.perf_counter()]
    net.loss_and_gradient(X, y)
    clock.append(time.perf_counter())
    H = fg.second_order.hessian(net, X, y)
    clock.append(time.perf_counter())
    np.linalg.inv(H + np.eye(P))
    clock.append(time.perf_counter())
    sizes.append(P)
    times.append(np.diff(clock))
ratio = times[-1][1:].sum() / times[-1][0]
print(f"P = {P}: Hessian and inverse take {ratio:.0f} times as long as a gradient")

# %%

_, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for i, (values, name) in enumerate(
    zip(zip(*times, strict=True), ("gradient", "Hessian", "inverse"), strict=True)
):
    ax.loglog(
        sizes, values, ("o-", "s--", "^:")[i], color=fg.plots.COLOURS[i], label=name
    )
ax.set(xlabel="parameters P", ylabel="seconds")
ax.legend()

# %%
# One thing to try
# ----------------
# For a network that is not linear, Newton's step may go up: H has negative eigenvalues,
# and :math:`-H^{-1} g` then points to a saddle.

net = fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3)
print(
    "eigenvalues:",
    np.linalg.eigvalsh(fg.second_order.hessian(net, x, np.sin(x))).round(4)[[0, 1, -1]],
)
