"""Pictures, by what the Axes hold: the numbers are those of the package, nothing is hidden, styles differ."""

import numpy as np
import pytest

import fusegrad as fg

pyplot = pytest.importorskip("matplotlib.pyplot", reason="the plots extra")
pytestmark = pytest.mark.once
plots = fg.plots


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


@pytest.fixture
def three():
    return pyplot.figure().add_subplot(projection="3d")


def penguins():
    X, y = fg.datasets.load_penguins()
    return (X - X.mean()) / X.std(), (y - y.mean()) / y.std()


@pytest.mark.parametrize("name", plots.SURFACES)
def test_gradients_of_the_surfaces(name, rng):
    value, gradient, start, limits = plots.SURFACES[name]
    for x, y in rng.uniform(-1.5, 1.5, (20, 2)):
        h = 1e-5
        found = (value(x + h, y) - value(x - h, y)) / 2 / h, (value(x, y + h) - value(x, y - h)) / 2 / h
        np.testing.assert_allclose(gradient(x, y), found, rtol=1e-6, atol=1e-6)
    assert limits[0] < start[0] < limits[1]
    assert limits[2] < start[1] < limits[3]


def test_paths_are_those_of_the_optimizers():
    _, gradient, start, _ = plots.SURFACES["ravine"]
    path = plots.descend(gradient, fg.SGD(lr=0.1, momentum=0.5, nesterov=True), start, 3)
    w, v = np.array(start), np.zeros(2)
    for row in path[1:]:
        v = 0.5 * v - 0.1 * np.array(gradient(*(w + 0.5 * v)))
        w = w + v
        np.testing.assert_allclose(row, w, rtol=1e-14)
    stays = plots.descend(lambda x, y: (np.inf, 0.0), fg.SGD(lr=0.1), (1.0, 2.0), 5)
    assert (stays == [1.0, 2.0]).all()


@pytest.mark.parametrize("surface", plots.SURFACES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_race(surface, dimensions, request):
    ax = plots.race(surface, steps=40, ax=request.getfixturevalue("three") if dimensions == 3 else None)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["gradient descent", "momentum", "Nesterov", "Adagrad", "RMSprop", "Adam"]
    paths, starts = ax.lines[::2], ax.lines[1::2]
    assert len(paths) == len(starts) == 6
    styles = {(line.get_color(), str(line.get_linestyle())) for line in paths}
    assert len(styles) == len({line.get_color() for line in paths}) == 6
    for dot in starts:
        assert dot.get_color() == plots.START
    if dimensions == 2:
        assert all(tuple(dot.get_xydata()[0]) == plots.SURFACES[surface].start for dot in starts)
        assert all(len(line.get_xdata()) == 41 for line in paths)


def test_at_the_saddle_descent_hesitates_and_rmsprop_leaves():
    _, gradient, start, _ = plots.SURFACES["saddle"]
    slow = plots.descend(gradient, fg.SGD(0.02), start, 100)[-1]
    quick = plots.descend(gradient, fg.RMSprop(0.02), start, 100)[-1]
    assert abs(slow[1]) < 0.1 < 1 < abs(quick[1])


def test_an_animation_moves_its_own_lines():
    ax = plots.race("ravine", {"descent": fg.SGD(0.05)}, steps=6)
    moving = plots.race("ravine", {"momentum": fg.SGD(0.05, momentum=0.5)}, steps=6, ax=ax, animated=True)
    assert moving._func(2)[0] is ax.lines[2]
    assert [len(line.get_xdata()) for line in ax.lines[::2]] == [7, 3]
    moving._draw_was_started = True  # else it warns that nobody has seen it


def test_an_animation(tmp_path):
    moving = plots.race("ravine", {"descent": fg.SGD(0.05)}, steps=6, animated=True)
    moving.save(tmp_path / "race.gif", writer="pillow", dpi=30)
    assert (tmp_path / "race.gif").read_bytes()[:4] == b"GIF8"
    assert "<img" in moving.to_jshtml(default_mode="once")


def test_a_landscape_has_the_losses_of_the_network(three):
    X, y = penguins()
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    before = net.parameters.copy()
    ax = plots.loss_landscape(net, X, y, span=1.0, n=21)
    assert np.array_equal(net.parameters, before)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("W1[0, 0]", "b1[0, 0]")
    np.testing.assert_allclose(ax.get_xlim(), before[0] + np.array([-1, 1]))
    levels = next(artist for artist in ax.collections if hasattr(artist, "levels")).levels
    points = [before + np.array([du, dv]) for du in np.linspace(-1, 1, 21) for dv in np.linspace(-1, 1, 21)]
    losses = []
    for point in points:
        net.parameters = point
        losses.append(net.loss(X, y))
    assert levels[0] == pytest.approx(min(losses))
    net.parameters = before
    assert plots.loss_landscape(net, X, y, n=5, ax=three) is three
    ax = plots.loss_landscape(net, X, y, directions=np.eye(2), n=5)
    assert ax.get_xlabel() == "direction 1"


def test_a_trajectory(three):
    path = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    ax = plots.trajectory(path, label="way")
    line, dot = ax.lines
    assert line.get_xydata().tolist() == path.tolist()
    assert (dot.get_xydata().tolist(), dot.get_color()) == ([[0.0, 1.0]], plots.START)
    plots.trajectory(path, [3.0, 2.0, 1.0], ax=three)
    assert [list(part) for part in three.lines[0].get_data_3d()] == [[0, 1, 2], [1, 1, 0], [3, 2, 1]]
    assert hasattr(plots.trajectory(path, [3.0, 2.0, 1.0]), "plot_surface")


def test_a_network_and_what_its_units_see(rng):
    net = fg.Sequential(fg.Scale(2), fg.Linear(2, 5), fg.Tanh(), fg.Linear(5, 3), fg.ReLU(), fg.Linear(3, 1), rng=0)
    ax = plots.network(net, n=11, span=2.0)
    assert len(ax.child_axes) == 2 + 5 + 3 + 1
    assert len(ax.lines) == 2 * 5 + 5 * 3 + 3
    side = np.linspace(-2, 2, 11)
    grid = np.stack([part.ravel() for part in np.meshgrid(side, side)])
    np.testing.assert_allclose(ax.child_axes[-1].images[0].get_array().ravel(), net(grid)[0], rtol=1e-5, atol=1e-6)
    W1 = net.named_parameters()["W1"]
    first = [line.get_linestyle() for line in ax.lines[:10]]
    assert first == ["-" if w >= 0 else "--" for w in W1.ravel()]
    for wrong in (fg.MultivariateRegression(3, rng=0), fg.TwoLayerSigmoid(2, 13, rng=0)):
        with pytest.raises(ValueError, match="net: expected"):
            plots.network(wrong)


def test_norms_of_delta(rng):
    layers = [part for _ in range(5) for part in (fg.Linear(6, 6), fg.Sigmoid())]
    net = fg.Sequential(*layers, dtype="float64", rng=0)
    X, y = rng.normal(size=(6, 20)), rng.normal(size=(6, 20))
    norms = plots.delta_norms(net, X, y).lines[0].get_ydata()
    # That of the first layer from its input gradient, W1^T delta.
    W1 = net.named_parameters()["W1"]
    delta = np.linalg.solve(W1.T, net.input_gradient(X, y))
    assert norms[0] == pytest.approx(np.linalg.norm(delta))
    assert list(norms) == sorted(norms)


def test_the_v_of_gradient_checks(rng):
    net = fg.TwoLayerSigmoid(3, 8, dtype="float64", rng=0)
    h, error = plots.gradient_check_curve(net, rng.normal(size=(3, 50)), rng.normal(size=50)).lines[0].get_data()
    lowest = h[error.argmin()]
    assert 1e-6 < lowest < 1e-4
    assert error[0] > 1e-5 > 1e-8 > error.min()
    assert error[-1] > 1e-3
    with pytest.raises(TypeError, match="net: expected a network of dtype float64"):
        plots.gradient_check_curve(fg.TwoLayerSigmoid(3, 8, rng=0), rng.normal(size=(3, 5)), rng.normal(size=5))


def test_bars_history_prediction_and_schedules():
    X, y = penguins()
    net = fg.UnivariateRegression(dtype="float64", rng=0)
    found = net.fit(X[:, ::2], y[:, ::2], optimizer=fg.SGD(0.1), epochs=9, validation_data=(X[:, 1::2], y[:, 1::2]))
    ax = plots.history(found)
    assert ax.lines[0].get_ydata().tolist() == found.loss
    assert ax.lines[1].get_ydata().tolist() == found.validation_loss
    assert ax.get_yscale() == "log"
    ax = plots.predicted(net, X, y)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), np.stack([y[0], net(X)[0]], axis=1))
    counts = fg.Sequential(fg.Linear(1, 1), loss="poisson", dtype="float64", rng=0)
    ax = plots.predicted(counts, X, np.abs(y))  # not their logarithms
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[:, 1], np.exp(counts(X)[0]))
    two = fg.MultivariateRegression(2, dtype="float64", rng=0)
    ax = plots.input_gradient(two, [1.0, 2.0], ["weight", "age"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["weight", "age"]
    assert [bar.get_width() for bar in ax.patches] == two.parameters[:2].tolist()
    with pytest.raises(ValueError, match="names: expected 2, got 1"):
        plots.input_gradient(two, [1.0, 2.0], ["weight"])
    decay = fg.CosineDecay(0.1, 20)
    assert plots.schedules({"cosine": decay}, 30).lines[0].get_ydata().tolist() == [decay(t) for t in range(30)]


def test_taylor_polynomials():
    X, y = penguins()
    net = fg.TwoLayerSigmoid(1, 3, dtype="float64", rng=3)
    before = net.parameters.copy()
    ax = plots.taylor(net, X, y, span=1.0, n=41)
    loss, line, parabola = (curve.get_ydata() for curve in ax.lines)
    t = ax.lines[0].get_xdata()
    assert (net.parameters == before).all()
    value, g = net.loss_and_gradient(X, y)
    for i in (0, 13, 40):
        net.parameters = before - t[i] * g / np.linalg.norm(g)
        np.testing.assert_allclose(loss[i], net.loss(X, y), rtol=1e-13)
    near = abs(t) < 0.11  # each order is closer than the one before: errors like t, t^2, t^3
    errors = [np.abs(loss - guess)[near].max() for guess in (value, line, parabola)]
    assert errors[2] < errors[1] / 5 < errors[0] / 25
    net.parameters = 0.0 * before
    with pytest.raises(ValueError, match="net: expected parameters where the gradient is not 0"):
        plots.taylor(net, [0.0], [0.0])


def lines_of(lr=0.1, n=10):
    return plots.schedules({"constant": lambda step: lr}, n)


def test_sliders_in_a_script_draw_once():
    ax = plots.sliders(lines_of, lr=(0.0, 1.0, 0.1))
    assert ax.lines[0].get_ydata().tolist() == [0.1] * 10
    with pytest.raises(TypeError, match="rate: expected an argument of draw with a default"):
        plots.sliders(lines_of, rate=(0.0, 1.0))
    with pytest.raises(TypeError, match="lr: expected an argument of draw with a default"):
        plots.sliders(lambda lr: None, lr=(0.0, 1.0))
    with pytest.raises(TypeError, match="draw: expected a function"):
        plots.sliders(3)


NOTEBOOK = """
import fusegrad as fg
seen = []
def draw(lr=0.1, n=10):
    seen.append((lr, n))
    return fg.plots.schedules({"constant": lambda step: lr}, n)
box = fg.plots.sliders(draw, lr=(0.0, 1.0, 0.1), n=[10, 20])
box
---
box.children[0].value = 0.5
box.children[1].value = 20
print(seen)
"""


def test_sliders_in_a_notebook():
    nbformat, nbclient = (pytest.importorskip(name, reason="the test extra") for name in ("nbformat", "nbclient"))
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in NOTEBOOK.split("---")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120).execute()
    shown, printed = (cell.outputs for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in shown[-1].data
    assert printed[-1].text.strip() == "[(0.1, 10), (0.5, 10), (0.5, 20)]"
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    pictures = [widget for widget in widgets if "image/png" in str(widget["state"].get("outputs"))]
    assert len(pictures) == 1


def test_errors():
    net = fg.UnivariateRegression(rng=0)
    for call, error, says in (
        (lambda: plots.race("mountain"), ValueError, "surface: expected one of beale, ravine, saddle"),
        (lambda: plots.loss_landscape("net", [0.0], [0.0]), TypeError, "net: "),
        (lambda: plots.loss_landscape(net, [0.0], [0.0], parameters=(0, 2)), ValueError, "parameters: "),
        (lambda: plots.loss_landscape(net, [0.0], [0.0], directions=np.eye(3)), ValueError, "directions: "),
        (lambda: plots.trajectory([1.0, 2.0]), ValueError, "path: "),
        (lambda: plots.trajectory([[1.0, 2.0]], [1.0, 2.0]), ValueError, "heights: "),
        (lambda: plots.loss_landscape(net, [0.0], [0.0], parameters=3), TypeError, "parameters: "),
        (lambda: plots.loss_landscape(net, [0.0], [0.0], parameters=(0.5, 1)), TypeError, "parameters: "),
        (lambda: plots.loss_landscape(net, [0.0], [0.0], span=np.nan), ValueError, "span: "),
        (lambda: plots.loss_landscape(net, [np.nan], [0.0]), ValueError, "X: "),
        (lambda: plots.network(fg.MultivariateRegression(2, rng=0), n=0), ValueError, "n: "),
        (lambda: plots.predicted(net, [0.0], [0.0], output=1), ValueError, "output: "),
        (lambda: plots.input_gradient(net, [0.0], output=-1), ValueError, "output: "),
        (lambda: plots.input_gradient(net, [0.0, 1.0]), ValueError, "x: "),
        (lambda: plots.input_gradient(net, ["text"]), TypeError, "x: "),
        (lambda: plots.descend(lambda x, y: (x, y), fg.SGD(0.1), (1.0,), 3), ValueError, "start: "),
        (lambda: plots.descend(3, fg.SGD(0.1), (1.0, 2.0), 3), TypeError, "gradient: "),
        (lambda: plots.descend(lambda x, y: 1.0, fg.SGD(0.1), (1.0, 2.0), 3), ValueError, "gradient: "),
        (lambda: plots.descend(lambda x, y: (x, y), None, (1.0, 2.0), 3), TypeError, "optimizer: "),
        (lambda: plots.descend(lambda x, y: (x, y), fg.SGD(0.1), (1.0, 2.0), 0), ValueError, "steps: "),
        (lambda: plots.race(optimizers={}), ValueError, "optimizers: "),
        (lambda: plots.sliders(int, n=(0, 1)), TypeError, "draw: "),
    ):
        with pytest.raises(error, match=says):
            call()
