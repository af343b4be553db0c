"""The node tests of the onnx package as files: FOLDER/<n>/model.onnx, in.npz, out.npz, each case three times: with all
inputs as inputs, with integers as initializers, with everything as initializers (so that it folds). Prints how many."""
import os
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

folder = sys.argv[1]
READABLE = {np.dtype(t) for t in ("float32", "float64", "int64", "int32", "bool", "uint8", "int8")}
# Largest elements of nothing, and rows without a key, which are no number here as in PyTorch.
EXCLUDED = ("_empty_set", "_nan_robustness")


def arrays(values):
    made = [np.array(v, order="C") for v in values]
    return made if all(a.dtype in READABLE for a in made) else None


def is_constant(mode, array):
    return mode == "all" or (mode == "integers" and (array.dtype.kind in "iub" or array.ndim == 0))


def write(number, model, names, inputs, outputs, mode):
    made = onnx.ModelProto()
    made.CopyFrom(model)
    feeds = {}
    for name, array in zip(names, inputs):
        if is_constant(mode, array):
            made.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            feeds[name] = array
    kept = [i for i in made.graph.input if i.name in feeds]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    place = f"{folder}/{number}"
    os.mkdir(place)
    with open(f"{place}/model.onnx", "wb") as file:
        file.write(made.SerializeToString())
    np.savez(f"{place}/in.npz", none=np.zeros(1), **feeds)
    np.savez(f"{place}/out.npz", **{o.name: a for o, a in zip(model.graph.output, outputs)})


count = 0
for case in collect_testcases(None):
    other = any(i.domain not in ("", "ai.onnx") for i in case.model.opset_import)
    if other or any(word in case.name for word in EXCLUDED):
        continue
    for inputs, outputs in case.data_sets or []:
        try:
            inputs, outputs = arrays(inputs), arrays(outputs)
        except (ValueError, TypeError):
            continue
        if inputs is None or outputs is None:
            continue
        for mode in ("none", "integers", "all"):
            write(count, case.model, [i.name for i in case.model.graph.input], inputs, outputs, mode)
            count += 1
print(count)
