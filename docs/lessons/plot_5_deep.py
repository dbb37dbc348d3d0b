r"""
5. L layers: delta
==================

.. math::

   x^1 = X, \quad x^{l+1} = f^l(W^l x^l + b^l), \qquad
   \delta^L = f^{L\prime} \odot \nabla L, \quad
   \delta^{l-1} = f^{l-1\prime} \odot (W^l)^T \delta^l

   \nabla W^l = \delta^l (x^l)^T, \qquad \nabla b^l = \delta^l\,1

The same three lines for any number of layers: forward, delta backward, and a product
for each weight. Delta of layer l has the shape of its outputs, ``(n_l, m)``.
"""

# %%
# Five lines of NumPy
# -------------------

import numpy as np

import fusegrad as fg

data = np.random.default_rng(0)
X, y = data.normal(size=(4, 30)), data.normal(size=(1, 30))
net = fg.Sequential(
    fg.Linear(4, 6),
    fg.Tanh(),
    fg.Linear(6, 5),
    fg.Tanh(),
    fg.Linear(5, 1),
    dtype="float64",
    rng=0,
)
W, b = ([net.named_parameters()[f"{kind}{i}"] for i in (1, 2, 3)] for kind in "Wb")

x = [X, np.tanh(W[0] @ X + b[0])]
x.append(np.tanh(W[1] @ x[1] + b[1]))
delta = [2 / 30 * (W[2] @ x[2] + b[2] - y)]
for i in (2, 1):
    delta.insert(0, (1 - x[i] ** 2) * (W[i].T @ delta[0]))

found = net.unflatten(net.loss_and_gradient(X, y)[1])
for i in range(3):
    np.testing.assert_allclose(found[f"W{i + 1}"], delta[i] @ x[i].T, atol=1e-14)

# %%
# Delta in a deep network of sigmoids
# -----------------------------------
# :math:`\sigma' \le 1/4`: with each layer on the way back delta becomes smaller. The
# first layers hardly learn.

layers = [part for _ in range(10) for part in (fg.Linear(10, 10), fg.Sigmoid())]
deep = fg.Sequential(*layers, dtype="float64", rng=0, init="torch")
X, y = data.normal(size=(10, 100)), data.normal(size=(10, 100))
ax = fg.plots.delta_norms(deep, X, y)
ax.set_title("ten layers of sigmoids: delta vanishes")
norms = ax.lines[0].get_ydata()
print(f"the first layer gets {norms[0] / norms[-1]:.1e} of what the last one gets")
assert norms[0] < 1e-6 * norms[-1]

# %%
# With ReLU and He's weights it keeps its size:

layers = [part for _ in range(10) for part in (fg.Linear(10, 10), fg.ReLU())]
kept = fg.Sequential(*layers, dtype="float64", rng=0, init="he_uniform")
ax = fg.plots.delta_norms(kept, X, y)
ax.set_title("ten layers of ReLU, He's weights")
norms = ax.lines[0].get_ydata()
assert norms[0] > 0.01 * norms[-1]

# %%
# One thing to try
# ----------------
# All weights alike. Every unit of a layer computes the same, gets the same delta, and
# stays the same for ever: a wide layer is then one unit. Random weights break the
# symmetry.

alike = fg.TwoLayerSigmoid(10, 8, dtype="float64", rng=0)
alike.parameters[:] = 0.1
alike.fit(X, y[:1], optimizer=fg.SGD(lr=0.1), epochs=100)
rows = alike.named_parameters()["W1"]
largest = np.ptp(rows, axis=0).max()
print(f"largest difference between two units after 100 steps: {largest:.0e}")
assert largest < 1e-12
