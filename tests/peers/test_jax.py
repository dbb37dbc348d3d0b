"""JAX as an independent oracle of gradients."""

import numpy as np
import pytest
from support import FIVE_LAYERS, examples, perturbed, relative

pytestmark = [
    pytest.mark.peers,
    # JAX's own business
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork"),
]


def test_gradients():
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    functions = {"identity": lambda z: z, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}
    net = perturbed(*FIVE_LAYERS, dtype="float64")
    X, y = examples(net, 321)

    def loss(flat, X):
        x = X
        for layer in net.dense_layers:
            stop = layer.weight + layer.n_in * layer.n_out
            x = flat[layer.weight : stop].reshape(layer.n_out, layer.n_in) @ x + flat[layer.bias : layer.end][:, None]
            x = functions[layer.activation](x)
        return ((x - y) ** 2).sum() / X.shape[1]

    value, (gradient, inputs) = jax.value_and_grad(loss, argnums=(0, 1))(jnp.array(net.parameters), jnp.array(X))
    ours = net.loss_and_gradient(X, y)
    assert ours[0] == pytest.approx(float(value), rel=1e-13)
    assert relative(ours[1], np.asarray(gradient)) <= 1e-12
    assert relative(net.input_gradient(X, y), np.asarray(inputs)) <= 1e-12
