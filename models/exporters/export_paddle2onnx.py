"""paddle2onnx, from a perceptron with a normalisation."""

import os
import sys

import paddle
from paddle import nn

import common


def main():
    paddle.seed(0)
    x, y, _ = common.rows()
    model = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 2))
    path = common.folder("paddle2onnx")
    spec = [paddle.static.InputSpec([None, 6], "float32", "x")]
    paddle.onnx.export(model, path.removesuffix(".onnx"), input_spec=spec, opset_version=17)
    losses = []
    model.train()
    optimizer = paddle.optimizer.SGD(common.RATE, parameters=model.parameters())
    for a, b in common.batches(x, y):
        loss = nn.functional.mse_loss(model(paddle.to_tensor(a)), paddle.to_tensor(b))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    elements = sum(int(p.size) for p in model.parameters())
    common.keep("paddle2onnx", x, y, losses, "mse", exporter="paddle2onnx 2.1.0", trained_elements=elements)
    assert os.path.exists(path)


sys.exit(main())
