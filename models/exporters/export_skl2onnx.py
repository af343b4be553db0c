"""skl2onnx, from a pipeline of a scaler and a perceptron. scikit-learn has no step that could be compared, so the losses are those
of the same network in numpy, from the same weights."""

import sys
import warnings

import numpy as np
import skl2onnx
from sklearn.neural_network import MLPRegressor

import common


def losses_of(weights, x, y):
    """Mean squared error of relu(x A + a) B + b, and steps of SGD, in float64."""
    A, a, B, b = (w.astype(np.float64) for w in weights)
    for p, q in common.batches(x.astype(np.float64), y.astype(np.float64)):
        h = np.maximum(p @ A + a, 0)
        d = h @ B + b - q
        yield (d**2).mean()
        d *= 2 / d.size
        g = (d @ B.T) * (h > 0)
        dA, da, dB, db = p.T @ g, g.sum(0), h.T @ d, d.sum(0)
        A, a, B, b = A - common.RATE * dA, a - common.RATE * da, B - common.RATE * dB, b - common.RATE * db


def main():
    warnings.simplefilter("ignore")
    x, y, _ = common.rows()
    y = y[:, :1].copy()  # of several outputs the exporter makes one long column
    model = MLPRegressor(hidden_layer_sizes=(12,), max_iter=3, random_state=0).fit(x, y.ravel())
    exported = skl2onnx.to_onnx(model, x[:1], target_opset=17)
    with open(common.folder("skl2onnx"), "wb") as file:
        file.write(exported.SerializeToString())
    weights = [np.float32(w) for pair in zip(model.coefs_, model.intercepts_) for w in pair]
    common.keep("skl2onnx", x, y, losses_of(weights, x, y), "mse", exporter=f"skl2onnx {skl2onnx.__version__}",
                trained_elements=sum(w.size for w in weights))


sys.exit(main())
