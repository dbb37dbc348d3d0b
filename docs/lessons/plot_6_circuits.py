r"""
6. The chain rule: flow in a circuit
====================================

An expression is a circuit of gates. Values flow forward. Backward, each gate receives
the gradient on its output, multiplies it by its local gradients, and sends the products
to its inputs:

.. math::

   \frac{\partial f}{\partial x} =
   \frac{\partial f}{\partial q} \frac{\partial q}{\partial x}

No gate knows the rest of the circuit. Where a wire forks, the gradients of its branches
are added.
"""

# %%
# f = (x + y) z
# -------------

from fusegrad.circuits import Circuit, Wire, exp, maximum, sigmoid

x, y, z = Wire(-2, "x"), Wire(5, "y"), Wire(-4, "z")
circuit = Circuit((x + y) * z)
print(circuit.forward(), circuit.backward())
assert circuit.backward() == {"x": -4.0, "y": -4.0, "z": 3.0}
circuit.plot()

# %%
# Values are above the wires, gradients below, in italics. If x grew by 1, f would fall
# by 4.
#
# Three patterns
# --------------
# An add gate distributes the gradient; a max gate routes it to the larger input; a
# multiply gate switches its inputs. At a tie of a max the formula 1[x >= y], 1[y >= x]
# gives the gradient to both, and the words "to the larger one" to none: here the first
# input gets it.

x, y, z, w = (
    Wire(value, name) for value, name in ((3, "x"), (-4, "y"), (2, "z"), (-1, "w"))
)
circuit = Circuit(2 * (x * y + maximum(z, w)))
print(circuit.forward(), circuit.backward())
assert circuit.backward() == {"x": -8.0, "y": 6.0, "z": 2.0, "w": 0.0}
circuit.plot()

# %%
# A neuron
# --------
# :math:`\sigma(w_0 x_0 + w_1 x_1 + w_2)`, down to the gates 1/x, + 1, exp and × -1:

w0, x0, w1, x1, w2 = (
    Wire(value, name)
    for value, name in ((2, "w0"), (-1, "x0"), (-3, "w1"), (-2, "x1"), (-3, "w2"))
)
total = w0 * x0 + w1 * x1 + w2
circuit = Circuit(1 / (1 + exp(-total)))
print(f"{circuit.forward():.2f}")
gradients = circuit.backward()
circuit.plot()

# %%
# As one gate, with the local gradient :math:`\sigma (1 - \sigma)`, it gives the same:

one_gate = Circuit(sigmoid(total))
value = one_gate.forward()
print(f"{value:.2f}, local gradient {value * (1 - value):.2f}")
assert all(
    abs(one_gate.backward()[name] - gradient) < 1e-15
    for name, gradient in gradients.items()
)
assert f"{gradients['w0']:.2f}" == "-0.20"

# %%
# One thing to try
# ----------------
# A wire that is used twice: in x (x + y) it gets the gradients of both branches, y +
# 2x.

x, y = Wire(3.0, "x"), Wire(-4.0, "y")
circuit = Circuit(x * (x + y))
print(circuit.forward(), circuit.backward())
assert circuit.backward()["x"] == 2 * 3.0 - 4.0
