"""jax2onnx, from a perceptron of flax.nnx."""

import sys

import jax
import jax.numpy as jnp
import jax2onnx
from flax import nnx

import common


class Network(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(6, 12, rngs=rngs)
        self.norm = nnx.LayerNorm(12, epsilon=1e-5, rngs=rngs)
        self.b = nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.tanh(self.norm(self.a(x))))


def main():
    x, y, _ = common.rows()
    model = Network(nnx.Rngs(0))
    jax2onnx.to_onnx(model, [("N", 6)], return_mode="file", output_path=common.folder("jax2onnx"))
    losses = []
    for a, b in common.batches(x, y):
        loss, gradients = nnx.value_and_grad(lambda m: ((m(jnp.asarray(a)) - b) ** 2).mean())(model)
        nnx.update(model, jax.tree.map(lambda p, g: p - common.RATE * g, nnx.state(model, nnx.Param), gradients))
        losses.append(float(loss))
    elements = sum(int(p.size) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    common.keep("jax2onnx", x, y, losses, "mse", exporter="jax2onnx 0.17.1", trained_elements=elements)


sys.exit(main())
