"""Circuits: the numbers of the lesson, the three patterns, and the engine's gradients once more, built of gates."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from support import examples, within

import fusegrad as fg
from fusegrad import circuits
from fusegrad.circuits import Circuit, Gate, Wire, exp, maximum, reciprocal, sigmoid


def flow(output):
    circuit = Circuit(output)
    return circuit.forward(), circuit.backward()


# ---- the lesson's circuits, to the digit ----------------------------------------------------------------


def test_a_product():
    assert flow(Wire(4, "x") * Wire(-3, "y")) == (-12, {"x": -3, "y": 4})


def test_a_sum_and_a_product():
    x, y, z = Wire(-2, "x"), Wire(5, "y"), Wire(-4, "z")
    q = x + y
    assert flow(q * z) == (-12, {"x": -4, "y": -4, "z": 3})
    assert (q.value, q.gradient) == (3, -4)


def test_a_maximum_and_its_tie():
    """1[x >= y] and 1[y >= x] would give the gradient to both at a tie: here the first gets it."""
    assert flow(maximum(Wire(4, "x"), Wire(2, "y"))) == (4, {"x": 1, "y": 0})
    assert flow(maximum(Wire(2, "x"), Wire(4, "y"))) == (4, {"x": 0, "y": 1})
    assert flow(maximum(Wire(3, "x"), Wire(3, "y"))) == (3, {"x": 1, "y": 0})
    x = Wire(np.array([1.0, 2.0, 3.0]), "x")
    circuit = Circuit(maximum(x, Wire(np.array([2.0, 2.0, 2.0]), "y")))
    assert circuit.forward().tolist() == [2, 2, 3]
    assert [gradient.tolist() for gradient in circuit.backward().values()] == [[0, 1, 1], [1, 0, 0]]


def neuron(as_one_gate):
    inputs = [Wire(value, name) for value, name in ((2, "w0"), (-1, "x0"), (-3, "w1"), (-2, "x1"), (-3, "w2"))]
    w0, x0, w1, x1, w2 = inputs
    total = w0 * x0 + w1 * x1 + w2
    return sigmoid(total) if as_one_gate else 1 / (1 + exp(-total))


def test_a_neuron_gate_by_gate():
    circuit = Circuit(neuron(as_one_gate=False))
    circuit.forward()
    gradients = circuit.backward()
    gates = circuit.gates
    assert [gate.label for gate in gates] == ["×", "×", "+", "+", "× -1", "exp", "+ 1", "1/x"]
    values = [f"{gate.output.value:.2f}" for gate in gates]
    assert values == ["-2.00", "6.00", "4.00", "1.00", "-1.00", "0.37", "1.37", "0.73"]
    backward = [f"{gate.output.gradient:.2f}" for gate in reversed(gates)]
    assert backward == ["1.00", "-0.53", "-0.53", "-0.20", "0.20", "0.20", "0.20", "0.20"]
    rounded = {name: round(gradient, 2) for name, gradient in gradients.items()}
    assert rounded == {"w0": -0.20, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.20}


def test_sigmoid_as_one_gate_gives_the_same():
    value, gradients = flow(neuron(as_one_gate=True))
    other_value, others = flow(neuron(as_one_gate=False))
    assert value == pytest.approx(other_value, rel=1e-15)
    assert gradients == pytest.approx(others, rel=1e-14)


def test_three_patterns():
    """Add distributes, max routes, multiply switches."""
    x, y, z, w = (Wire(value, name) for value, name in ((3, "x"), (-4, "y"), (2, "z"), (-1, "w")))
    assert flow(2 * (x * y + maximum(z, w))) == (-20, {"x": -8, "y": 6, "z": 2, "w": 0})


def test_a_staged_expression():
    x, y = Wire(3, "x"), Wire(-4, "y")
    both = x + y
    value, gradients = flow((x + sigmoid(y)) / (sigmoid(x) + both * both))
    assert f"{value:.7f}" == "1.5456449"
    assert {name: f"{gradient:.7f}" for name, gradient in gradients.items()} == {"x": "2.0595698", "y": "1.5922328"}


def test_a_matrix_product(rng):
    W, X = Wire(rng.normal(size=(5, 10)), "W"), Wire(rng.normal(size=(10, 3)), "X")
    D = W @ X
    dD = rng.normal(size=(5, 3))
    circuit = Circuit(D * dD)
    circuit.forward()
    gradients = circuit.backward()
    np.testing.assert_allclose(gradients["W"], dD @ X.value.T)
    np.testing.assert_allclose(gradients["X"], W.value.T @ dD)
    with pytest.raises(ValueError, match=r"W @ X: expected shapes \(n, k\) and \(k, m\), got \(10, 3\) and \(5, 10\)"):
        X @ W


# ---- any circuit ----------------------------------------------------------------------------------------


def test_operators_with_numbers():
    x, y = Wire(3.0, "x"), Wire(-4.0, "y")
    for wire, value, gradient in (
        (x + 2, 5, 1), (2 + x, 5, 1), (x - 2, 1, 1), (2 - x, -1, -1), (-x, -3, -1), (x / 4, 0.75, 0.25),
        (3 / x, 1, -1 / 3), (1 / x, 1 / 3, -1 / 9), (reciprocal(x), 1 / 3, -1 / 9), (x / y, -0.75, -0.25),
        (x - y, 7, 1), (x * x, 9, 6), (np.float64(2) * x, 6, 2),
    ):  # fmt: skip
        found, gradients = flow(wire)
        assert (found, gradients["x"]) == pytest.approx((value, gradient))
    array = np.array([1.0, 2.0]) * x
    assert isinstance(array, Wire)
    assert flow(array)[1] == {"x": 3}


def test_new_values_flow_again():
    x, y = Wire(4.0, "x"), Wire(-3.0, "y")
    circuit = Circuit(x * y + x)
    assert (circuit.forward(), circuit.backward()) == (-8, {"x": -2, "y": 4})
    x.value = 1.0
    assert (circuit.forward(), circuit.backward()) == (-2, {"x": -2, "y": 1})
    assert circuit.backward() == {"x": -2, "y": 1}  # not added to those before
    x, y = Wire(4.0, "x"), Wire(2.0, "y")
    circuit = Circuit(maximum(x, y))
    for x.value, y.value, expected in ((5, 2, {"x": 1, "y": 0}), (1, 3, {"x": 0, "y": 1})):
        circuit.forward()
        assert circuit.backward() == expected
    x.value, y.value = [1, 2], [3, 4]
    assert Circuit(x + y).forward().tolist() == [4, 6]
    with pytest.raises(TypeError, match="value: expected "):
        x.value = "much"


@pytest.mark.parametrize("shapes", [((3, 4), (3, 1)), ((3, 1), (3, 4)), ((3, 4), (1, 1)), ((3, 4), ()), ((), (2, 3))])
@pytest.mark.parametrize("gate", ["+", "×", "max"])
def test_gradients_of_repeated_values_are_added(gate, shapes, rng):
    x, y = (Wire(rng.normal(size=shape), name) for shape, name in zip(shapes, "xy", strict=True))
    circuit = Circuit(Gate(gate, x, y).output)
    circuit.forward()
    for wire, gradient in zip((x, y), circuit.backward().values(), strict=True):
        assert np.shape(gradient) == np.shape(wire.value)
        start, step = wire.value, np.full_like(wire.value, 1e-6)
        wire.value = start + step
        above = np.sum(circuit.forward())
        wire.value = start - step
        below = np.sum(circuit.forward())
        wire.value = start
        assert np.sum(gradient) == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_a_deep_circuit():
    wire = x = Wire(1.0, "x")
    for _ in range(20_000):
        wire = wire + 1e-4
    assert flow(wire + x)[1] == {"x": 2}


def test_errors():
    for wrong in ("text", None, object(), 1j):
        with pytest.raises(TypeError, match="value: expected "):
            Wire(wrong)
        with pytest.raises(TypeError, match="value: expected "):
            Wire(1.0) * wrong
    with pytest.raises(TypeError, match="inputs: expected wires in a gate 'exp', got"):
        exp(2.0)
    with pytest.raises(TypeError, match="output: expected a Wire, got 3"):
        Circuit(3)
    for kind in ("tan", []):
        with pytest.raises(ValueError, match="kind: expected one of"):
            Gate(kind, Wire(1.0))
    for gate in (("exp", 2), ("+", 1), ("c + x", 1), ("exp", 0), ("@", 1)):
        with pytest.raises(TypeError, match="inputs: expected as many as a gate"):
            Gate(gate[0], *[Wire(1.0)] * gate[1])
    with pytest.raises(ValueError, match=r"gate \+: expected shapes that match, got \(2, 3\) and \(3, 2\)"):
        Wire(np.ones((2, 3))) + Wire(np.ones((3, 2)))
    with pytest.raises(TypeError, match="inputs: expected wires"):
        Wire(np.ones((2, 2))) @ np.ones((2, 2))


def test_texts():
    x, y = Wire(4.0, "x"), Wire(-3.0, "y")
    circuit = Circuit(x * y)
    circuit.forward()
    circuit.backward()
    assert str(circuit) == "×: (4, -3) -> -12; receives 1, local gradients (-3, 4), sends (-3, 4)"
    assert repr(x) == "Wire(x): value 4, gradient -3"
    assert repr(Wire(np.ones((2, 3)))) == "Wire(input): value 2×3 array, gradient 2×3 array"


# ---- the engine's gradients -----------------------------------------------------------------------------


def absolute(r):
    return maximum(r, -r)


def summed(wire):
    """The sum of all elements, by products with ones."""
    n, m = wire.value.shape
    return Wire(np.ones((1, n))) @ wire @ Wire(np.ones((m, 1)))


NETWORKS = ("UnivariateRegression", "MultivariateRegression", "TwoLayerLinear", "TwoLayerSigmoid")


def huber(z, y):
    """q (|r| - q / 2), q = min(|r|, 1/2) = -max(-|r|, -1/2)."""
    r = absolute(z - y)
    q = -maximum(-r, Wire(-0.5))
    return q * (r - 0.5 * q)


LOSSES = {
    "squared error": (fg.losses.MeanSquaredError(), lambda z, y: (z - y) * (z - y)),
    "quantile": (fg.losses.Quantile(0.3), lambda z, y: maximum(0.3 * (y - z), -0.7 * (y - z))),
    "poisson": (fg.losses.Poisson(), lambda z, y: exp(z) - y * z),
    "huber": (fg.losses.Huber(0.5), huber),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_four_networks_of_gates(name, loss, rng):
    """A second, independent oracle: at random sizes, with each loss that gates can say."""
    function, gates = LOSSES[loss]
    for _ in range(5):
        n, k, m = (int(size) for size in rng.integers(1, 20, 3))
        sizes = {"UnivariateRegression": (), "MultivariateRegression": (n,)}.get(name, (n, k))
        layers = getattr(fg, name)(*sizes).layers
        net = fg.Sequential(*layers, loss=function, dtype="float64", rng=1)
        net.parameters[:] += 0.3 * rng.normal(size=net.n_parameters)
        X, y = examples(net, m)
        y = rng.poisson(2.0, y.shape).astype(float) if loss == "poisson" else y
        wires = {name: Wire(view.copy(), name) for name, view in net.named_parameters().items()}
        x = inputs = Wire(X, "X")
        for i, layer in enumerate(net.dense_layers, start=1):
            x = wires[f"W{i}"] @ x + wires[f"b{i}"]
            x = sigmoid(x) if layer.activation == "sigmoid" else x
        circuit = Circuit(summed(gates(x, Wire(y))) * (1 / m))
        value = circuit.forward()
        gradients = circuit.backward()
        assert value.item() == pytest.approx(net.loss(X, y), rel=1e-12)
        expected = net.loss_and_gradient(X, y)[1]
        scale = np.abs(expected).max()
        for part, gradient in net.unflatten(expected).items():
            within("gradient of gates against the engine", np.abs(gradients[part] - gradient).max() / scale, 1e-12)
        assert np.allclose(inputs.gradient, net.input_gradient(X, y), rtol=1e-10, atol=1e-13)


def test_a_linear_classifier_of_gates(rng):
    """The multiclass hinge: every gate a max with 0."""
    n, k, m = 4, 3, 10
    net = fg.Sequential(fg.Linear(n, k), loss=fg.losses.MulticlassHinge(), dtype="float64", rng=0)
    X, classes = rng.normal(size=(n, m)), rng.integers(0, k, m)
    right = np.eye(k)[:, classes]
    W, b = (Wire(view.copy(), name) for name, view in net.named_parameters().items())
    z = W @ Wire(X) + b
    of_class = Wire(np.ones((1, k))) @ (z * right)
    margins = maximum((z - of_class + 1.0) * (1 - right), Wire(0.0))
    circuit = Circuit(summed(margins) * (1 / m))
    assert circuit.forward().item() == pytest.approx(net.loss(X, classes))
    gradients = circuit.backward()
    expected = net.unflatten(net.loss_and_gradient(X, classes)[1])
    np.testing.assert_allclose(gradients["W1"], expected["W1"], atol=1e-14)
    np.testing.assert_allclose(gradients["b1"], expected["b1"], atol=1e-14)


# ---- pictures -------------------------------------------------------------------------------------------


def texts_of(svg):
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_as_svg():
    circuit = Circuit(neuron(as_one_gate=False))
    circuit.forward()
    circuit.backward()
    texts = texts_of(circuit._repr_svg_())
    assert [text for text in texts if text in ("w0", "x0", "w1", "x1", "w2")] == ["w0", "x0", "w1", "x1", "w2"]
    for shown in ("×", "+", "× -1", "exp", "+ 1", "1/x", "-2.00", "6.00", "0.73", "-0.53", "0.39", "-0.59"):
        assert shown in texts
    assert len(texts) == 13 + 2 * 13  # each wire has a gate or a name, a value and a gradient


def test_the_picture_on_axes():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the plots extra")
    circuit = Circuit(neuron(as_one_gate=False))
    circuit.forward()
    circuit.backward()
    ax = circuit.plot()
    assert sorted(text.get_text() for text in ax.texts) == sorted(texts_of(circuit._repr_svg_()))
    assert circuit.plot(ax) is ax
    (width,), (height,) = ax.get_xlim()[1:], ax.get_ylim()[:1]
    for text in ax.texts:  # nothing is cut
        x, y = text.get_position()
        assert 0 < x < width
        assert 0 < y < height
    pyplot.close("all")


def test_frames_go_forward_and_back():
    """Each frame has one more value, then one more gradient (or none, while a forked wire waits)."""
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the plots extra")
    x, y = Wire(3.0, "x"), Wire(-4.0, "y")
    circuit = Circuit((x + y) * x)
    circuit.forward()
    circuit.backward()
    frames = [[text.get_text() for text in ax.texts] for ax in circuit.plot(steps=True)]
    pyplot.close("all")
    assert [len(texts) - 4 for texts in frames] == [2, 3, 4, 5, 6, 8]
    assert frames[-1] == texts_of(circuit._repr_svg_())
    assert "-1.00" not in frames[0]


def test_a_circuit_is_short_enough_to_read():
    assert len(Path(circuits.__file__).read_text(encoding="utf-8").splitlines()) <= 250
