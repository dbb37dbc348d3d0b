r"""
2. Many features: the plane
===========================

.. math::

   \hat y = W X + b, \qquad dW = g X^T, \qquad db = g\,1,
   \qquad g = \frac{2}{m} (\hat y - y)

Shapes: X ``(n, m)``, W ``(1, n)``, b ``(1, 1)``, y ``(1, m)``. Only the shapes have
changed: a product of matrices now adds over the features.
"""

# %%
# Miles per gallon
# ----------------
# Six properties of 392 cars. A data set has no order; a fifth is held out.

import matplotlib.pyplot as plt
import numpy as np

import fusegrad as fg

X, y = fg.datasets.load_auto_mpg()
order = np.random.default_rng(0).permutation(y.size)
held, rest = np.split(order, [y.size // 5])
X = (X - X[:, rest].mean(axis=1, keepdims=True)) / X[:, rest].std(axis=1, keepdims=True)
y = (y - y[:, rest].mean()) / y[:, rest].std()

net = fg.MultivariateRegression(6, dtype="float64", rng=0)
history = net.fit(
    X[:, rest],
    y[:, rest],
    optimizer=fg.SGD(lr=0.1),
    epochs=300,
    validation_data=(X[:, held], y[:, held]),
)
ax = fg.plots.history(history)
ax.set_title("the loss of each epoch")

# %%
# Which feature drove it
# ----------------------
# The gradient with respect to the inputs is :math:`W^T g`. For one prediction it says
# what each feature does:

ax = fg.plots.input_gradient(net, X[:, 0], fg.datasets.AUTO_MPG_FEATURES)
ax.set_title("a heavier car has fewer miles per gallon")
assert (
    net.named_parameters()["W1"][0, fg.datasets.AUTO_MPG_FEATURES.index("weight")] < 0
)

# %%
# A check that finds wrong transposes
# -----------------------------------
# :math:`dW = g X^T` has the shape of W; :math:`X g^T` has that of :math:`W^T`. Where n
# = m, only the values tell. ``check_gradients`` compares each derivative with
# differences of the loss:

check = fg.testing.check_gradients(net, X[:, :20], y[:, :20])
print(f"largest error {check.error:.1e}")
assert check.error < 1e-7

# %%
# The step h of such differences has a best size: rounding on the left, the next
# derivative on the right.

curved = fg.TwoLayerSigmoid(6, 5, dtype="float64", rng=0)
ax = fg.plots.gradient_check_curve(curved, X[:, :50], y[:, :50])

# %%
# Lines between classes
# ---------------------
# The same product W X + b, with losses for classes. Logistic regression: :math:`p =
# \sigma(W X + b)` and the cross-entropy -y log p - (1 - y) log(1 - p), whose gradient
# on the output is p - y. The SVM's multiclass hinge: each wrong class should score less
# than the right one by a margin of 1, sum of max(0, z_o - z_y + 1).

data = np.random.default_rng(0)
classes = data.integers(0, 3, 300)
centres = np.array([[-2.0, 2.0, 0.0], [-1.0, -1.0, 2.0]])
points = centres[:, classes] + data.normal(size=(2, 300))

logistic = fg.LogisticRegression(2, dtype="float64", rng=0)
logistic.fit(points, classes == 2, optimizer=fg.SGD(lr=0.5), epochs=200)
svm = fg.Sequential(
    fg.Linear(2, 3), loss="multiclass_hinge", l2=0.01, dtype="float64", rng=0
)
svm.fit(points, classes, optimizer=fg.SGD(lr=0.1), epochs=200)
right = (
    (logistic.classes(points) == (classes == 2)).mean(),
    (svm.classes(points) == classes).mean(),
)
print("right: logistic regression {:.0%}, SVM {:.0%}".format(*right))
assert min(right) > 0.85

# %%

grid = np.stack(
    [
        part.ravel()
        for part in np.meshgrid(np.linspace(-5, 5, 80), np.linspace(-4, 5, 80))
    ]
)
_, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
ax.scatter(*grid, c=svm.classes(grid), s=12, marker="s", cmap="Pastel2", linewidths=0)
for k, marker in enumerate("os^"):
    ax.scatter(
        *points[:, classes == k],
        s=16,
        marker=marker,
        color=fg.plots.COLOURS[k],
        label=f"class {k}",
    )
ax.set_title("three classes and the SVM's regions")
ax.legend()

# %%
# One thing to try
# ----------------
# Features of different size. Multiply the data by 1000: gradients with respect to W are
# 1000 times larger, and the learning rate that still converges is a million times
# smaller.

for scale, lr in ((1, 0.1), (1000, 0.1), (1000, 1e-7)):
    net = fg.MultivariateRegression(6, dtype="float64", rng=0)
    net.parameters[:6] /= scale  # the same predictions at the start
    found = net.fit(
        X * scale, y, optimizer=fg.SGD(lr=lr), epochs=100, on_divergence="stop"
    )
    result = "diverged" if found.divergence else f"{found.loss[-1]:.3f}"
    print(f"data times {scale}, learning rate {lr}: {result}")
    assert bool(found.divergence) == (scale * lr > 1)
