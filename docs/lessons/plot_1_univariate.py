r"""
1. One feature: the line
========================

The prediction is a line, and the loss the mean of the squared errors over m examples:

.. math:: \hat y = w x + b, \qquad L = \frac{1}{m} \|\hat y - y\|^2

With :math:`g = \frac{2}{m} (\hat y - y)`, a row of m numbers, the gradients are
:math:`dw = g\,x^T` and :math:`db = g\,1`. A step of gradient descent is :math:`w
\leftarrow w - \alpha\,dw`, and b likewise.

Shapes: x and y ``(1, m)``, w ``(1, 1)``, b ``(1, 1)``. An example is a column.
"""

# %%
# Body mass from flipper length
# -----------------------------
# Both are standardised: the mean becomes 0 and the standard deviation 1.

import numpy as np

import fusegrad as fg

X, y = fg.datasets.load_penguins()
X, y = (X - X.mean()) / X.std(), (y - y.mean()) / y.std()
print(X.shape, y.shape)

# %%
# By hand, and by the package
# ---------------------------
# The same step twice: from the equations, and by ``train_step``.

net = fg.UnivariateRegression(dtype="float64", rng=0)
w, b = net.parameters.copy()
g = 2 / X.size * (w * X + b - y)
by_hand = np.array([w - 0.1 * (g @ X.T).item(), b - 0.1 * g.sum()])

net.train_step(X, y, fg.SGD(lr=0.1))
np.testing.assert_allclose(net.parameters, by_hand, atol=1e-15)

# %%
# The way down
# ------------
# The loss is a bowl over (w, b). A callback notes where each epoch ends; the red dot is
# the start.

net = fg.UnivariateRegression(dtype="float64", rng=0)
net.parameters = [-0.5, 1.0]
path = [net.parameters.copy()]
history = net.fit(
    X,
    y,
    optimizer=fg.SGD(lr=0.1),
    epochs=30,
    callbacks=[lambda net, history: path.append(net.parameters.copy())],
)
ax = fg.plots.loss_landscape(net, X, y)
fg.plots.trajectory(np.array(path), ax=ax)
ax.set_title("the loss over w and b, and 30 steps")

# %%
# How good can it be? Least squares is the best line, and Newton's method is there after
# one step:

exact = fg.UnivariateRegression(dtype="float64", rng=0)
least = fg.second_order.newton(exact, X, y)
print(f"after 30 steps {history.loss[-1]:.4f}, the best line {least:.4f}")
assert f"{least:.3f}" == "0.241" and f"{1 - least:.0%}" == "76%"

# %%
# The best line has a loss of 0.241: flipper length explains 76 % of the variance of the
# mass.

ax = fg.plots.predicted(exact, X, y)
ax.set_title("penguins: predicted and measured mass")

# %%
# One thing to try
# ----------------
# A learning rate that is too large: each step jumps over the minimum to a higher point.
# Where is the limit? This page is a notebook, too (the link below): there the picture
# has a slider.


def steps_down(learning_rate=0.9):
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    net.parameters = [-0.5, 1.0]
    path = [net.parameters.copy()]
    for _ in range(20):
        net.train_step(X, y, fg.SGD(lr=learning_rate))
        path.append(net.parameters.copy())
    net.parameters = [0.0, 0.0]  # the centre of the picture
    ax = fg.plots.trajectory(np.array(path), ax=fg.plots.loss_landscape(net, X, y))
    ax.set(xlim=(-2, 2), ylim=(-2, 2), title=f"learning rate {learning_rate:.2f}")
    return ax


fg.plots.sliders(steps_down, learning_rate=(0.02, 1.1, 0.02))
