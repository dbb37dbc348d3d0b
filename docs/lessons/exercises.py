r"""
Exercises
=========

Each with a solution that runs. Cover it first.
"""

# %%
# 1. Derive by hand, then check
# -----------------------------
# The network :math:`\hat y = w_2 \tanh(W_1 X + b_1) + b_2` and the squared error. What
# is :math:`dW_1`? Compare with the package, and that with differences of the loss.
#
# Solution: :math:`\tanh' = 1 - \tanh^2`, so :math:`\delta = (w_2^T g) \odot (1 - A
# \odot A)` and :math:`dW_1 = \delta X^T`.

import numpy as np

import fusegrad as fg

data = np.random.default_rng(0)
X, y = data.normal(size=(3, 40)), data.normal(size=(1, 40))
net = fg.Sequential(fg.Linear(3, 5), fg.Tanh(), fg.Linear(5, 1), dtype="float64", rng=0)
W1, b1, w2, b2 = net.named_parameters().values()
A = np.tanh(W1 @ X + b1)
g = 2 / 40 * (w2 @ A + b2 - y)
dW1 = ((w2.T @ g) * (1 - A * A)) @ X.T
np.testing.assert_allclose(
    net.unflatten(net.loss_and_gradient(X, y)[1])["W1"], dW1, atol=1e-14
)
assert fg.testing.check_gradients(net, X, y).error < 1e-7

# %%
# 2. Shapes
# ---------
# n features, k hidden units, m examples. Which shapes have Z, g, delta, dW1, db1 of a
# two-layer network?
#
# Solution: (k, m), (1, m), (k, m), (k, n), (k, 1). A gradient has the shape of what it
# is the gradient of.

n, k, m = 3, 5, 40
assert (A.shape, g.shape, (w2.T @ g).shape) == ((k, m), (1, m), (k, m))
assert (dW1.shape, (w2.T @ g).sum(axis=1, keepdims=True).shape) == ((k, n), (k, 1))

# %%
# 3. A sigmoid that saturates
# ---------------------------
# For which z is :math:`\sigma'(z) < 10^{-3}`? What happens to dW1 if all z are there?
#
# Solution: :math:`\sigma (1 - \sigma) \approx e^{-|z|}`, so from :math:`|z| = \ln 1000
# \approx 6.9` on. The gradient is a thousandth of what it could be: the layer has
# nearly stopped.

z = np.linspace(0, 10, 100_001)
s = 1 / (1 + np.exp(-z))
assert f"{z[np.argmax(s * (1 - s) < 1e-3)]:.1f}" == "6.9"

# %%
# 4. Momentum by hand
# -------------------
# W = 1, loss :math:`W^2`, learning rate 0.1, momentum 0.9: three steps.
#
# Solution: v = -0.2, W = 0.8; v = -0.34, W = 0.46; v = -0.398, W = 0.062.

w, optimizer, seen = np.array([1.0]), fg.SGD(lr=0.1, momentum=0.9), []
for _ in range(3):
    optimizer.step(w, 2 * w)
    seen.append((round(float(optimizer.state[0, 0]), 3), round(float(w[0]), 3)))
assert seen == [(-0.2, 0.8), (-0.34, 0.46), (-0.398, 0.062)]

# %%
# 5. A wrong transpose
# --------------------
# A colleague writes ``delta1 = W2 @ delta2`` for two layers of four units, and says
# that the shapes are right. What is wrong, and how do you show it?
#
# Solution: it must be :math:`W_2^T`. W2 is square, so the shapes do not tell; the
# values do, against differences of the loss along one weight.

net = fg.Sequential(
    fg.Linear(3, 4), fg.Linear(4, 4), fg.Linear(4, 1), dtype="float64", rng=0
)
W, b = ([net.named_parameters()[f"{kind}{i}"] for i in (1, 2, 3)] for kind in "Wb")
x1 = W[0] @ X + b[0]
x2 = W[1] @ x1 + b[1]
delta2 = W[2].T @ (2 / 40 * (W[2] @ x2 + b[2] - y))
wrong, right = (W[1] @ delta2 @ X.T)[0, 0], (W[1].T @ delta2 @ X.T)[0, 0]

losses = []
for h in (1e-5, -1e-5):
    W[0][0, 0] += h
    losses.append(net.loss(X, y))
    W[0][0, 0] -= h
difference = (losses[0] - losses[1]) / 2e-5
print(
    f"differences {difference:.6f}, with the transpose {right:.6f}, without {wrong:.6f}"
)
assert abs(right - difference) < 1e-8 < abs(wrong - difference)

# %%
# 6. All weights alike
# --------------------
# Initialise every weight with 0.1 and train. What do the hidden units become?
#
# Solution: all the same, for ever, since they get the same delta: the network is one
# unit wide.

alike = fg.TwoLayerSigmoid(3, 5, dtype="float64", rng=0)
alike.parameters[:] = 0.1
alike.fit(X, y, optimizer=fg.Adam(lr=0.05), epochs=200)
assert np.ptp(alike.named_parameters()["W1"], axis=0).max() < 1e-12
one = fg.TwoLayerSigmoid(3, 5, dtype="float64", rng=0)
one.fit(X, y, optimizer=fg.Adam(lr=0.05), epochs=200)
print(f"alike {alike.loss(X, y):.3f}, random {one.loss(X, y):.3f}")
