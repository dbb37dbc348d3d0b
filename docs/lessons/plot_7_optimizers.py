r"""
7. Optimizers and their race
============================

With the gradient g at W, learning rate :math:`\alpha`:

================  ================================================
gradient descent  W -= a g
momentum          v = mu v - a g;  W += v
Nesterov          v = mu v - a g(W + mu v);  W += v
Adagrad           c += g^2;  W -= a g / (sqrt(c) + eps)
RMSprop           c = d c + (1 - d) g^2;  W -= a g / (sqrt(c) + eps)
Adam              m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
                  W -= a m' / (sqrt(v') + eps)
================  ================================================

In Kingma and Ba's Adam m' = m / (1 - b1^t) and v' = v / (1 - b2^t) are corrected for
their start at 0; some notes leave that out, which is another rule:
``Adam(bias_correction=False)``. All averages have the shape of the parameters.
"""

# %%
# Three surfaces
# --------------
# On Beale's function momentum shoots over; in a ravine gradient descent crosses from
# wall to wall.

import numpy as np

import fusegrad as fg

fg.plots.race("beale")

# %%

fg.plots.race("ravine")

# %%
# At a saddle point, x² - y², gradient descent stays on the ridge for long, since the
# gradient along y is tiny at first. RMSprop divides it by its own size and leaves.

fg.plots.race("saddle")
value, gradient, start, _ = fg.plots.SURFACES["saddle"]
slow = fg.plots.descend(gradient, fg.SGD(0.02), start, 100)[-1]
fast = fg.plots.descend(gradient, fg.RMSprop(0.02), start, 100)[-1]
print(f"after 100 steps y is {slow[1]:.3f} and {fast[1]:.1f}")
assert abs(slow[1]) < 0.1 < 1 < abs(fast[1])

# %%
# Momentum by hand
# ----------------

w, v = 1.0, 0.0
for _ in range(3):
    v = 0.9 * v - 0.1 * 2 * w  # of the loss w^2
    w += v
parameters = np.array([1.0])
optimizer = fg.SGD(lr=0.1, momentum=0.9)
for _ in range(3):
    optimizer.step(parameters, 2 * parameters)
print(w, parameters[0])
assert abs(parameters[0] - w) < 1e-15

# %%
# Learning rates
# --------------

decays = {
    "step": fg.StepDecay(0.1, 50, 0.5), "exponential": fg.ExponentialDecay(0.1, 0.02),
    "1/t": fg.InverseTimeDecay(0.1, 0.05),
    "cosine, warm-up": fg.CosineDecay(0.1, 200, warmup=20),
}  # fmt: skip
fg.plots.schedules(decays, 200)

# %%
# One thing to try
# ----------------
# Mini-batches: the gradient of a part of the data, in another order each epoch. All of
# them change the same weights; there are no weights for each mini-batch. More steps for
# the same number of examples:

X, y = fg.datasets.load_auto_mpg()
X = (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)
y = (y - y.mean()) / y.std()


def fit(learning_rate=0.02, momentum=0.9, batch_size=32):
    net = fg.TwoLayerSigmoid(6, 16, dtype="float64", rng=0)
    optimizer = fg.SGD(lr=learning_rate, momentum=momentum)
    history = net.fit(
        X,
        y,
        optimizer=optimizer,
        epochs=50,
        batch_size=batch_size,
        rng=0,
        on_divergence="stop",
    )
    ax = fg.plots.history(history)
    ax.set_title(
        f"rate {learning_rate:.3f}, momentum {momentum:.2f}, batch {batch_size}"
    )
    return ax


whole, parts = (fit(batch_size=size).lines[0].get_ydata()[-1] for size in (392, 32))
print(
    f"after 50 epochs: {whole:.3f} with the whole batch, {parts:.3f} with batches of 32"
)
assert parts < whole

# %%
# In the notebook of this page (the link below) three sliders move the curve:

fg.plots.sliders(
    fit,
    learning_rate=(0.002, 0.2, 0.002),
    momentum=(0.0, 0.95, 0.05),
    batch_size=[8, 32, 128, 392],
)
