r"""
3. Two linear layers: the chain rule
====================================

.. math::

   Z = W_1 X + b_1, \qquad \hat y = w_2 Z + b_2, \qquad g = \frac{2}{m} (\hat y - y)

   dW_1 = w_2^T g X^T, \quad db_1 = w_2^T g\,1, \quad dw_2 = g Z^T, \quad db_2 = g\,1

Shapes: W1 ``(k, n)``, b1 ``(k, 1)``, w2 ``(1, k)``, b2 ``(1, 1)``, Z ``(k, m)``.

The error g flows back through :math:`w_2^T`: each hidden unit gets its share.
"""

# %%
# By hand and by the package
# --------------------------

import time

import numpy as np

import fusegrad as fg

data = np.random.default_rng(0)
X, y = data.normal(size=(3, 50)), data.normal(size=(1, 50))
net = fg.TwoLayerLinear(3, 4, dtype="float64", rng=0)
W1, b1, w2, b2 = net.named_parameters().values()

Z = W1 @ X + b1
g = 2 / 50 * (w2 @ Z + b2 - y)
by_hand = [
    w2.T @ g @ X.T,
    (w2.T @ g).sum(axis=1, keepdims=True),
    g @ Z.T,
    g.sum(axis=1, keepdims=True),
]

loss, gradient = net.loss_and_gradient(X, y)
for expected, found in zip(by_hand, net.unflatten(gradient).values(), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-14)

# %%
# Two layers, one line
# --------------------
# :math:`w_2 (W_1 X + b_1) + b_2 = (w_2 W_1) X + (w_2 b_1 + b_2)`: two linear layers see
# no more than one. But the loss is no bowl any more: along one weight of each layer it
# has a saddle.

ax = fg.plots.loss_landscape(net, X, y, parameters=(0, 16), span=3)
ax.set_title("one weight of each layer")

# %%
# The package uses that they are one: it computes the gradient of the folded layer, and
# from it those of both.

print(net.plan(10_000, n_threads=1))
assert net.plan(10_000).folded

# %%
# One thing to try
# ----------------
# Train both on the same data: the two-layer network ends at the loss of least squares,
# too, by another way.

one, two = (
    fg.MultivariateRegression(3, dtype="float64", rng=0),
    fg.TwoLayerLinear(3, 4, dtype="float64", rng=0),
)
least = fg.second_order.newton(one, X, y)
start = time.perf_counter()
history = two.fit(X, y, optimizer=fg.SGD(lr=0.1), epochs=2000)
micros = 1e6 * (time.perf_counter() - start) / 2000
print(f"{history.loss[-1]:.9f} and {least:.9f}, {micros:.1f} us an epoch")
assert abs(history.loss[-1] / least - 1) < 1e-6
ax = fg.plots.history(history)
