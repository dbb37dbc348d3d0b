"""Each system in its best form, behind one interface, in a process of its own.

`prepare(task)` sets a task up and returns its answer, which must agree between systems before anything is
timed: the losses of the first steps, or the numbers computed. `run(count)` then does the task `count`
times and returns the seconds of one: of one step, where the task is training.
"""

import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from tasks import LEARNING_RATE, Elementwise, Product, Training

CHECKED_STEPS = 20  # whose losses are compared
SCAN = 1000  # steps in one call where a system compiles the number


class System:
    """What a system has to do. `start` returns a function that does the task `count` times."""

    steps_a_call = 1  # steps in one of `count`

    def losses(self, task: Training) -> list[float]:
        """The losses before each of the first steps, in the order of the data."""
        raise NotImplementedError

    def training(self, task: Training) -> Callable[[int], Any]:
        """Set up steps of training."""
        raise NotImplementedError

    def prediction(self, task: Training) -> Callable[[], Any]:
        """Set up a prediction."""
        raise NotImplementedError

    def as_rows(self, prediction: Any) -> Any:
        """A prediction as an array (n_outputs, m)."""
        return np.array(prediction)

    def product(self, task: Product) -> Callable[[], Any]:
        """Set up a product."""
        raise NotImplementedError

    def elementwise(self, task: Elementwise) -> Callable[[], Any]:
        """Set up an activation."""
        raise NotImplementedError

    def prepare(self, task: Any) -> Any:
        """Set up a task; its answer."""
        self.steps_a_call = 1
        if isinstance(task, Training) and task.action != "forward":
            answer = np.array(self.losses(task))
            self._run = self.training(task)
            return answer
        if isinstance(task, Training):
            once = self.prediction(task)
        else:
            once = self.product(task) if isinstance(task, Product) else self.elementwise(task)

        def run(count: int) -> None:
            for _ in range(count):
                once()

        self._run = run
        return self.as_rows(once()) if isinstance(task, Training) else np.array(once())

    def run(self, count: int) -> float:
        """Seconds of one, of `count`."""
        start = time.perf_counter()
        self._run(count)
        return (time.perf_counter() - start) / (count * self.steps_a_call)


class Fusegrad(System):
    """fusegrad itself."""

    def __init__(self) -> None:
        import fusegrad as fg

        self.fg = fg

    def _net(self, task: Training) -> tuple[Any, Any, Any, Any]:
        fg = self.fg
        X, y, weights = task.arrays()
        activations = {"identity": fg.Identity, "sigmoid": fg.Sigmoid, "relu": fg.ReLU, "tanh": fg.Tanh}
        layers = [layer for n, k, name in task.layers for layer in (fg.Linear(n, k), activations[name]())]
        loss = "softmax_cross_entropy" if task.loss == "softmax" else "mean_squared_error"
        net = fg.Sequential(*layers, loss=loss, dtype=task.dtype, rng=0)
        net.parameters = np.concatenate([part.ravel() for pair in weights for part in pair])
        optimizer = fg.SGD(LEARNING_RATE) if task.optimizer == "sgd" else fg.Adam(LEARNING_RATE)
        fg.set_num_threads(task.n_threads)
        return net, X, y, optimizer

    def losses(self, task: Training) -> list[float]:
        net, X, y, optimizer = self._net(task)
        if task.action == "fit" and task.batch is None:
            epochs = task.epochs or CHECKED_STEPS
            return net.fit(X, y, optimizer=optimizer, epochs=epochs, moments=task.moments).loss[:CHECKED_STEPS]
        steps = task.steps_an_epoch if task.action == "fit" else CHECKED_STEPS
        losses = [net.train_step(X[:, which], y[:, which], optimizer) for which in task.batches(steps)]
        if task.action == "fit":  # of an epoch of mini-batches it has but the mean
            net, X, y, optimizer = self._net(task)
            (found,) = net.fit(X, y, optimizer=optimizer, epochs=1, batch_size=task.batch, shuffle=False).loss
            counts = [len(range(task.m)[which]) for which in task.batches(steps)]
            np.testing.assert_allclose(found, np.dot(losses, counts) / task.m, rtol=1e-6)
        return losses[:CHECKED_STEPS]

    def training(self, task: Training) -> Callable[[int], Any]:
        net, X, y, optimizer = self._net(task)
        if task.epochs is not None:
            self.steps_a_call = task.epochs * task.steps_an_epoch

            def fits(count: int) -> None:
                for _ in range(count):
                    net.fit(X, y, optimizer=optimizer, epochs=task.epochs, batch_size=task.batch, moments=task.moments)

            return fits
        if task.action == "fit":
            self.steps_a_call = task.steps_an_epoch
            return lambda count: net.fit(X, y, optimizer=optimizer, epochs=count, batch_size=task.batch, rng=0)
        if task.action == "online":
            examples = [(X[:, i : i + 1].copy(), y[:, i : i + 1].copy()) for i in range(task.m)]

            def turns(count: int) -> None:
                for i in range(count):
                    x, target = examples[i % len(examples)]
                    net(x)
                    net.train_step(x, target, optimizer)

            return turns

        def steps(count: int) -> None:
            for _ in range(count):
                net.train_step(X, y, optimizer)

        return steps

    def prediction(self, task: Training) -> Callable[[], Any]:
        net, X, _, _ = self._net(task)
        return lambda: net(X)

    def product(self, task: Product) -> Callable[[], Any]:
        a, b = task.arrays()
        out = np.empty((task.n, task.k), task.dtype)
        self.fg.set_num_threads(task.n_threads)
        return lambda: self.fg.kernels.matmul(a, b, out)

    def elementwise(self, task: Elementwise) -> Callable[[], Any]:
        z = task.arrays()
        out = np.empty_like(z)
        self.fg.set_num_threads(task.n_threads)
        return lambda: self.fg.kernels.apply(z, task.activation, out)


class FrozenFusegrad(Fusegrad):
    """A frozen network."""

    def prediction(self, task: Training) -> Callable[[], Any]:
        net, X, _, _ = self._net(task)
        predictor = net.freeze()
        return lambda: predictor(X)


class NumPy(System):
    """The equations as people write them."""

    def prediction(self, task: Training) -> Callable[[], Any]:
        X, _, weights = task.arrays()
        functions = {"relu": lambda z: np.maximum(z, 0, out=z), "tanh": lambda z: np.tanh(z, out=z)}
        layers = [(W, b, functions.get(name)) for (W, b), (_, _, name) in zip(weights, task.layers, strict=True)]

        def predict() -> Any:
            x = X
            for W, b, function in layers:
                x = W @ x
                x += b
                if function:
                    function(x)
            return x

        return predict

    def _step(self, task: Training) -> Callable[[Any, Any], float]:
        _, _, weights = task.arrays()
        names = [name for _, _, name in task.layers]
        rate = np.dtype(task.dtype).type(LEARNING_RATE)

        def step(X: Any, y: Any) -> float:
            x = [X]
            for (W, b), name in zip(weights, names, strict=True):
                z = W @ x[-1] + b
                x.append(1 / (1 + np.exp(-z)) if name == "sigmoid" else z)
            difference = x[-1] - y
            loss = (difference**2).sum() / X.shape[1]
            delta = 2 / X.shape[1] * difference
            for layer in reversed(range(len(weights))):
                W, b = weights[layer]
                dW, db = delta @ x[layer].T, delta.sum(axis=1, keepdims=True)
                if layer:
                    delta = W.T @ delta
                    if names[layer - 1] == "sigmoid":
                        delta = delta * x[layer] * (1 - x[layer])
                W -= rate * dW
                b -= rate * db
            return float(loss)

        return step

    def losses(self, task: Training) -> list[float]:
        X, y, _ = task.arrays()
        step = self._step(task)
        return [step(X, y) for _ in range(CHECKED_STEPS)]

    def training(self, task: Training) -> Callable[[int], Any]:
        X, y, _ = task.arrays()
        step = self._step(task)

        def steps(count: int) -> None:
            for _ in range(count):
                step(X, y)

        return steps

    def product(self, task: Product) -> Callable[[], Any]:
        a, b = task.arrays()
        out = np.empty((task.n, task.k), task.dtype)
        return lambda: np.matmul(a, b, out=out)

    def elementwise(self, task: Elementwise) -> Callable[[], Any]:
        z = task.arrays()
        return (lambda: np.tanh(z)) if task.activation == "tanh" else (lambda: 1 / (1 + np.exp(-z)))


class CarefulNumPy(NumPy):
    """NumPy with a buffer for everything, and nothing computed twice."""

    def _step(self, task: Training) -> Callable[[Any, Any], float]:
        X, _, weights = task.arrays()
        names = [name for _, _, name in task.layers]
        rate = np.dtype(task.dtype).type(LEARNING_RATE)
        a = [np.empty((k, task.m), X.dtype) for _, k, _ in task.layers]
        deltas = [np.empty_like(one) for one in a]
        gradients = [(np.empty_like(W), np.empty_like(b)) for W, b in weights]

        def step(X: Any, y: Any) -> float:
            x = X
            for (W, b), name, out in zip(weights, names, a, strict=True):
                np.matmul(W, x, out=out)
                out += b
                if name == "sigmoid":
                    np.negative(out, out=out)
                    np.exp(out, out=out)
                    out += 1
                    np.reciprocal(out, out=out)
                x = out
            delta = deltas[-1]
            np.subtract(x, y, out=delta)
            flat = delta.ravel()
            loss = flat @ flat / X.shape[1]
            delta *= 2 / X.shape[1]
            for layer in reversed(range(len(weights))):
                W, b = weights[layer]
                dW, db = gradients[layer]
                np.matmul(delta, (a[layer - 1] if layer else X).T, out=dW)
                np.sum(delta, axis=1, keepdims=True, out=db)
                if layer:
                    below = deltas[layer - 1]
                    np.matmul(W.T, delta, out=below)
                    if names[layer - 1] == "sigmoid":
                        below *= a[layer - 1]
                        np.subtract(1, a[layer - 1], out=a[layer - 1])
                        below *= a[layer - 1]
                    delta = below
                dW *= rate
                W -= dW
                db *= rate
                b -= db
            return float(loss)

        return step


class TrickyNumPy(NumPy):
    """NumPy with fusegrad's mathematics: linear layers as one, and steps from the moments of the data."""

    def _step(self, task: Training) -> Callable[[Any, Any], float]:
        _, _, ((W1, b1), (w2, b2)) = task.arrays()
        rate = np.dtype(task.dtype).type(LEARNING_RATE)

        def step(X: Any, y: Any) -> float:
            difference = (w2 @ W1) @ X + (w2 @ b1 + b2) - y
            loss = (difference**2).sum() / X.shape[1]
            g = 2 / X.shape[1] * difference
            G, gamma = g @ X.T, g.sum(axis=1, keepdims=True)
            dW1, db1, dw2 = w2.T @ G, w2.T @ gamma, G @ W1.T + gamma @ b1.T
            for parameter, gradient in ((W1, dW1), (b1, db1), (w2, dw2), (b2, gamma)):
                parameter -= rate * gradient
            return float(loss)

        return step

    def losses(self, task: Training) -> list[float]:
        return super().losses(task) if task.epochs is None else self._from_moments(task, CHECKED_STEPS)

    def training(self, task: Training) -> Callable[[int], Any]:
        if task.epochs is None:
            return super().training(task)
        self.steps_a_call = epochs = task.epochs

        def fits(count: int) -> None:
            for _ in range(count):
                self._from_moments(task, epochs)

        self._data = task.arrays()
        return fits

    def _from_moments(self, task: Training, epochs: int) -> list[float]:
        X, y, ((w, b),) = task.arrays() if epochs == CHECKED_STEPS else self._data
        n, m = X.shape
        z = np.vstack([X, y]).astype("float64")
        mean = z.mean(axis=1, keepdims=True)
        z -= mean
        products = z @ z.T
        S, c, x_mean, y_mean = products[:n, :n], products[n:, :n], mean[:n], mean[n, 0]
        found = []
        for _ in range(epochs):
            e = float((w @ x_mean)[0, 0] + b[0, 0] - y_mean)
            v = w @ S
            found.append(float(((v - 2 * c) @ w.T)[0, 0] + products[n, n]) / m + e * e)
            w = w - LEARNING_RATE * (2 / m * (v - c) + 2 * e * x_mean.T)
            b = b - LEARNING_RATE * 2 * e
        return found


class PyTorch(System):
    """Eager mode, the fused optimizers; examples in rows, as torch has them."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(1)

    def _net(self, task: Training) -> Any:
        torch = self.torch
        _, _, weights = task.arrays()
        activations = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
        modules: list[Any] = []
        dtype = getattr(torch, task.dtype)
        for (n, k, name), (W, b) in zip(task.layers, weights, strict=True):
            linear = torch.nn.Linear(n, k, dtype=dtype)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W))
                linear.bias.copy_(torch.from_numpy(b.ravel()))
            modules.append(linear)
            if name != "identity":
                modules.append(activations[name]())
        return torch.nn.Sequential(*modules)

    def prediction(self, task: Training) -> Callable[[], Any]:
        net, X = self._net(task), self.torch.from_numpy(task.arrays()[0].T.copy())

        def predict() -> Any:
            with self.torch.inference_mode():
                return net(X)

        return predict

    def as_rows(self, prediction: Any) -> Any:
        return prediction.numpy().T.copy()

    def _step(self, task: Training) -> tuple[Callable[[Any, Any], Any], Any, Any]:
        torch = self.torch
        self._last = net = self._net(task)
        X, y, _ = task.arrays()
        rule = torch.optim.SGD if task.optimizer == "sgd" else torch.optim.Adam
        optimizer = rule(net.parameters(), lr=LEARNING_RATE, fused=True)
        n_outputs = task.layers[-1][1]

        def step(X: Any, y: Any) -> Any:
            optimizer.zero_grad()
            if task.loss == "softmax":
                loss = torch.nn.functional.cross_entropy(net(X), y[:, 0])
            else:
                loss = torch.nn.functional.mse_loss(net(X), y)
                if n_outputs > 1:
                    loss = loss * n_outputs
            loss.backward()
            optimizer.step()
            return loss

        return step, torch.from_numpy(X.T.copy()), torch.from_numpy(y.T.copy())

    def losses(self, task: Training) -> list[float]:
        step, X, y = self._step(task)
        return [step(X[which], y[which]).item() for which in task.batches(CHECKED_STEPS)]

    def training(self, task: Training) -> Callable[[int], Any]:
        step, X, y = self._step(task)
        if task.action == "online":
            examples = [(X[i : i + 1].clone(), y[i : i + 1].clone()) for i in range(task.m)]

            def turns(count: int) -> None:
                for i in range(count):
                    x, target = examples[i % len(examples)]
                    with self.torch.inference_mode():
                        self._last(x)
                    step(x, target)

            return turns
        if task.batch is None:

            def steps(count: int) -> None:
                for _ in range(count):
                    step(X, y)

            return steps
        self.steps_a_call = task.steps_an_epoch

        def epochs(count: int) -> None:
            for _ in range(count):
                order = self.torch.randperm(task.m)
                for i in range(0, task.m, task.batch):
                    which = order[i : i + task.batch]
                    step(X[which], y[which])

        return epochs

    def product(self, task: Product) -> Callable[[], Any]:
        a, b = map(self.torch.from_numpy, task.arrays())
        out = self.torch.empty((task.n, task.k), dtype=a.dtype)
        return lambda: self.torch.mm(a, b, out=out)

    def elementwise(self, task: Elementwise) -> Callable[[], Any]:
        z = self.torch.from_numpy(task.arrays())
        out = self.torch.empty_like(z)
        function = getattr(self.torch, task.activation)
        return lambda: function(z, out=out)


class Jax(System):
    """One jitted step, or a jitted scan over many, with donated buffers."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def _setup(self, task: Training) -> tuple[Any, Any, Any, Callable[[Any, Any, Any], Any]]:
        jax = self.jax
        jnp = jax.numpy
        names = [name for _, _, name in task.layers]
        functions = {"identity": lambda z: z, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}
        m = task.batch or task.m

        def loss_of(weights: Any, X: Any, y: Any) -> Any:
            x = X
            for (W, b), name in zip(weights, names, strict=True):
                x = functions[name](W @ x + b)
            if task.loss == "softmax":
                return -jnp.take_along_axis(jax.nn.log_softmax(x, axis=0), y, axis=0).sum() / m
            return ((x - y) ** 2).sum() / m

        def sgd(state: Any, X: Any, y: Any) -> Any:
            loss, gradient = jax.value_and_grad(loss_of)(state, X, y)
            return jax.tree.map(lambda w, g: w - LEARNING_RATE * g, state, gradient), loss

        def adam(state: Any, X: Any, y: Any) -> Any:
            weights, first, second, t = state
            loss, gradient = jax.value_and_grad(loss_of)(weights, X, y)
            t = t + 1
            first = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            scale1, scale2 = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
            weights = jax.tree.map(
                lambda w, v, s: w - LEARNING_RATE * (v * scale1) / (jnp.sqrt(s * scale2) + 1e-8), weights, first, second
            )
            return (weights, first, second, t), loss

        X, y, arrays = task.arrays()
        weights = jax.tree.map(jnp.array, [tuple(pair) for pair in arrays])
        if task.optimizer == "sgd":
            return weights, jnp.array(X), jnp.array(y), sgd
        zeros = jax.tree.map(jnp.zeros_like, weights)
        state = (weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), task.dtype))
        return state, jnp.array(X), jnp.array(y), adam

    def prediction(self, task: Training) -> Callable[[], Any]:
        jax = self.jax
        functions = {"relu": jax.nn.relu, "tanh": jax.numpy.tanh, "identity": lambda z: z}

        def forward(weights: Any, X: Any) -> Any:
            x = X
            for (W, b), (_, _, name) in zip(weights, task.layers, strict=True):
                x = functions[name](W @ x + b)
            return x

        X, _, arrays = task.arrays()
        weights, X = jax.tree.map(jax.numpy.array, [tuple(pair) for pair in arrays]), jax.numpy.array(X)
        compiled = jax.jit(forward).lower(weights, X).compile()
        return lambda: compiled(weights, X).block_until_ready()

    def losses(self, task: Training) -> list[float]:
        state, X, y, step = self._setup(task)
        compiled = self.jax.jit(step)
        found = []
        for which in task.batches(CHECKED_STEPS):
            state, loss = compiled(state, X[:, which], y[:, which])
            found.append(float(loss))
        return found

    def training(self, task: Training) -> Callable[[int], Any]:
        jax = self.jax
        state, X, y, step = self._setup(task)
        if task.action == "step":
            compiled = jax.jit(step, donate_argnums=(0,)).lower(state, X, y).compile()

            def steps(count: int) -> None:
                nonlocal state
                for _ in range(count):
                    state, loss = compiled(state, X, y)
                loss.block_until_ready()

            return steps
        if task.batch is None:

            def many(state: Any, X: Any, y: Any) -> Any:
                return jax.lax.scan(lambda carry, _: step(carry, X, y), state, None, length=SCAN)

            self.steps_a_call = SCAN
        elif task.shuffled:
            return self._shuffled_epochs(task, state, step)
        else:
            # The batches are cut beforehand: gathering them is no part of the scan.
            count = task.steps_an_epoch
            X = X.reshape(X.shape[0], count, task.batch).transpose(1, 0, 2).copy()
            y = y.reshape(y.shape[0], count, task.batch).transpose(1, 0, 2).copy()
            epochs = -(-SCAN // count)

            def many(state: Any, X: Any, y: Any) -> Any:
                def epoch(carry: Any, _: Any) -> Any:
                    return jax.lax.scan(lambda inner, batch: step(inner, *batch), carry, (X, y))

                return jax.lax.scan(epoch, state, None, length=epochs)

            self.steps_a_call = epochs * count
        compiled = jax.jit(many, donate_argnums=(0,)).lower(state, X, y).compile()

        def scans(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state, losses = compiled(state, X, y)
            losses.block_until_ready()

        return scans

    def _shuffled_epochs(self, task: Training, state: Any, step: Any) -> Callable[[int], Any]:
        """Epochs of one scan each: NumPy draws the order, and each step gathers its examples, which are rows."""
        jax = self.jax
        X, y, _ = task.arrays()
        X, y = jax.numpy.array(X.T.copy()), jax.numpy.array(y.T.copy())
        self.steps_a_call = count = task.steps_an_epoch

        def epoch(state: Any, X: Any, y: Any, order: Any) -> Any:
            return jax.lax.scan(lambda carry, which: step(carry, X[which].T, y[which].T), state, order)

        rng = np.random.default_rng(0)

        def draw() -> Any:
            return rng.permutation(task.m).astype(np.int32).reshape(count, task.batch)

        compiled = jax.jit(epoch, donate_argnums=(0,)).lower(state, X, y, draw()).compile()

        def epochs(n: int) -> None:
            nonlocal state
            for _ in range(n):
                state, losses = compiled(state, X, y, draw())
            losses.block_until_ready()

        return epochs


class OnnxRuntime(System):
    """A session for a graph of Gemm and activations; examples in rows."""

    def prediction(self, task: Training) -> Callable[[], Any]:
        import onnx
        import onnxruntime

        X, _, weights = task.arrays()
        operators = {"relu": "Relu", "tanh": "Tanh"}
        nodes, initializers, last = [], [], "x0"
        for i, ((W, b), (_, _, name)) in enumerate(zip(weights, task.layers, strict=True)):
            initializers += [onnx.numpy_helper.from_array(W, f"W{i}"), onnx.numpy_helper.from_array(b.ravel(), f"b{i}")]
            nodes.append(onnx.helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"z{i}"], transB=1))
            last = f"z{i}"
            if name in operators:
                nodes.append(onnx.helper.make_node(operators[name], [last], [f"x{i + 1}"]))
                last = f"x{i + 1}"
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(task.dtype))
        graph = onnx.helper.make_graph(
            nodes, "net", [onnx.helper.make_tensor_value_info("x0", kind, [task.m, task.layers[0][0]])],
            [onnx.helper.make_tensor_value_info(last, kind, [task.m, task.layers[-1][1]])], initializers,
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {"x0": X.T.copy()}
        return lambda: session.run(None, feed)

    def as_rows(self, prediction: Any) -> Any:
        return prediction[0].T.copy()


class ScikitLearn(System):
    """fit of MLPRegressor, whose loss is one half of ours, or of MLPClassifier: Adam."""

    module = "sklearn.neural_network"
    epochs = 30  # of a fit

    def _model(self, task: Training, epochs: int, shuffle: bool) -> tuple[Any, Any, Any]:
        import warnings

        estimators = import_module(self.module)
        warnings.simplefilter("ignore")  # that it has not converged
        X, y, weights = task.arrays()
        activation = {"sigmoid": "logistic"}.get(task.layers[0][2], task.layers[0][2])
        model = (estimators.MLPClassifier if task.loss == "softmax" else estimators.MLPRegressor)(
            hidden_layer_sizes=[k for _, k, _ in task.layers[:-1]], activation=activation, solver="adam", alpha=0.0,
            batch_size=task.batch or task.m, learning_rate_init=LEARNING_RATE, shuffle=shuffle, max_iter=1, tol=0.0,
            n_iter_no_change=10**9, warm_start=True, random_state=0,
        )  # fmt: skip
        X, y = np.ascontiguousarray(X.T), np.ascontiguousarray(y.T)[:, 0]
        model.fit(X, y)  # makes its arrays, which then take our weights
        for coef, intercept, (W, b) in zip(model.coefs_, model.intercepts_, weights, strict=True):
            coef[:], intercept[:] = W.T, b[:, 0]
        model.loss_curve_ = []
        model.max_iter = epochs
        return model, X, y

    def losses(self, task: Training) -> list[float]:
        model, X, y = self._model(task, 1, shuffle=False)
        self._forget(model)  # partial_fit makes its own optimizer, for these weights; one batch is then one step
        model.warm_start = False  # else it wants all classes in each batch
        found = []
        for which in task.batches(CHECKED_STEPS):
            model.partial_fit(X[which], y[which])
            found.append(model.loss_ if task.loss == "softmax" else 2 * model.loss_)
        return found

    def _forget(self, model: Any) -> None:
        del model._optimizer

    def training(self, task: Training) -> Callable[[int], Any]:
        model, X, y = self._model(task, self.epochs, shuffle=True)
        self.steps_a_call = self.epochs * task.steps_an_epoch

        def fits(count: int) -> None:
            for _ in range(count):
                model.fit(X, y)

        return fits

    def prediction(self, task: Training) -> Callable[[], Any]:
        model, X, _ = self._model(task, 1, shuffle=False)
        return lambda: model.predict(X)

    def as_rows(self, prediction: Any) -> Any:
        return np.array(prediction)[np.newaxis]


class FusegradEstimators(ScikitLearn):
    """The same with fusegrad.sklearn."""

    module = "fusegrad.sklearn"

    def _forget(self, model: Any) -> None:
        model._optimizer = None


SYSTEMS: dict[str, tuple[type[System], dict[str, str]]] = {
    "fusegrad": (Fusegrad, {}),
    "fusegrad frozen": (FrozenFusegrad, {}),
    "fusegrad v3": (Fusegrad, {"FUSEGRAD_MAX_ISA": "x86_64_v3"}),
    "NumPy": (NumPy, {}),
    "NumPy out=": (CarefulNumPy, {}),
    "NumPy, same trick": (TrickyNumPy, {}),
    "PyTorch": (PyTorch, {}),
    "JAX": (Jax, {}),
    "onnxruntime": (OnnxRuntime, {}),
    "scikit-learn": (ScikitLearn, {}),
    "fusegrad.sklearn": (FusegradEstimators, {}),
}


def serve(connection: Any, name: str, core: int) -> None:
    """The life of a process: tasks and counts come in, answers and seconds go out."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    system = SYSTEMS[name][0]()
    while True:
        verb, argument = connection.recv()
        try:
            if verb == "prepare":
                os.sched_setaffinity(0, {core} if argument.pinned else everywhere)
                connection.send(system.prepare(argument))
            elif verb == "run":
                connection.send(system.run(argument))
            else:
                return
        except BaseException as error:
            connection.send(error)
            raise
