"""What the scripts of this folder share: data, and where a case is kept. Each script needs one framework and its exporter, and
writes FOLDER/model.onnx, data.npz and case.json beside itself: the losses are the framework's own, step by step."""

import json
import pathlib

import numpy as np

BATCH, STEPS, RATE = 8, 5, 0.05
FOLDER = pathlib.Path(__file__).resolve().parent


def images(channels_last=False):
    """[32,3,8,8] and the class of each, 0 … 3."""
    random = np.random.default_rng(3)
    x = random.standard_normal((32, 3, 8, 8)).astype(np.float32)
    target = random.integers(0, 4, 32)
    return (x.transpose(0, 2, 3, 1).copy() if channels_last else x), target


def rows():
    """[32,6], a smooth function of them [32,2], and a class of each, 0 … 2."""
    random = np.random.default_rng(4)
    x = random.standard_normal((32, 6)).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) + x[:, 1] * x[:, 2], np.cos(x[:, 3]) - x[:, 4]], 1).astype(np.float32)
    return x, y, (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 5] > 1)


def batches(*arrays):
    """Batch after batch in file order, STEPS of them; the data wraps."""
    for step in range(STEPS):
        at = [(step * BATCH + i) % len(arrays[0]) for i in range(BATCH)]
        yield tuple(array[at] for array in arrays)


def keep(name, x, target, losses, loss, **more):
    """The data and what the framework says; `x` under the model's input's name."""
    folder = FOLDER / name
    import onnx

    model = onnx.load(folder / "model.onnx")
    weights = {initializer.name for initializer in model.graph.initializer}
    (given,) = [i.name for i in model.graph.input if i.name not in weights]
    np.savez(folder / "data.npz", **{given: x, "target": target})
    case = dict(
        exporter=more.pop("exporter"),
        opset=next(o.version for o in model.opset_import if o.domain == ""),
        loss=loss,
        batch=BATCH,
        steps=STEPS,
        optimizer="sgd",
        lr=RATE,
        losses=[float(x) for x in losses],
        **more,
    )
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    print(name, case["losses"])


def folder(name):
    (FOLDER / name).mkdir(exist_ok=True)
    return str(FOLDER / name / "model.onnx")
