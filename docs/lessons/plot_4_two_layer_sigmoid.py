r"""
4. Two layers with a sigmoid: a curve
=====================================

.. math::

   A = \sigma(W_1 X + b_1), \quad \hat y = w_2 A + b_2, \quad
   \delta = (w_2^T g) \odot A \odot (1 - A)

   dW_1 = \delta X^T, \quad db_1 = \delta\,1, \quad dw_2 = g A^T, \quad db_2 = g\,1

:math:`\sigma' = \sigma (1 - \sigma)`: the derivative needs nothing but the activation A
``(k, m)``.
"""

# %%
# A curve out of sigmoids
# -----------------------

import matplotlib.pyplot as plt
import numpy as np

import fusegrad as fg

X = np.linspace(-3, 3, 200)[np.newaxis]
y = np.sin(2 * X)
net = fg.TwoLayerSigmoid(1, 12, dtype="float64", rng=0)
history = net.fit(X, y, optimizer=fg.Adam(lr=0.05), epochs=1500)
assert history.loss[-1] < 0.01

_, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.plot(X[0], y[0], color="black", linewidth=1, label="sin 2x")
ax.plot(
    X[0],
    net(X)[0],
    color=fg.plots.COLOURS[1],
    linestyle="--",
    label="network of 12 sigmoids",
)
ax.legend()

# %%
# A linear network sees no curve at all:

line = fg.TwoLayerLinear(1, 12, dtype="float64", rng=0)
flat = line.fit(X, y, optimizer=fg.Adam(lr=0.05), epochs=500)
print(f"sigmoids {history.loss[-1]:.4f}, linear {flat.loss[-1]:.4f}")
assert flat.loss[-1] > 0.4

# %%
# What each unit sees
# -------------------
# A two-layer perceptron: the same network with a loss for classes.
# Two features, and classes inside and outside a ring. Each map is the activation of one
# unit over the two features; blue lines are positive weights, dashed orange ones
# negative.

data = np.random.default_rng(0)
points = data.normal(size=(2, 500))
inside = (points**2).sum(axis=0) < 1.2
ring = fg.Sequential(
    fg.Linear(2, 5), fg.Tanh(), fg.Linear(5, 1), loss="binary_cross_entropy", rng=0
)
ring.fit(points, inside, optimizer=fg.Adam(lr=0.05), epochs=400)
right = float((ring.classes(points) == inside).mean())
print(f"{right:.1%} right")
assert right > 0.95
ax = fg.plots.network(ring, span=2.5)

# %%
# One thing to try
# ----------------
# A sigmoid that saturates: with weights 100 times larger A is nearly 0 or 1, :math:`A
# (1 - A)` nearly 0, and the first layer learns nothing.

for scale in (1, 100):
    net = fg.TwoLayerSigmoid(1, 12, dtype="float64", rng=0)
    net.named_parameters()["W1"][:] *= scale
    norm = np.abs(net.unflatten(net.loss_and_gradient(X, y)[1])["W1"]).mean()
    print(f"W1 times {scale}: mean |dW1| {norm:.1e}")
