"""What others say of files that onnxpipe saved: onnx.checker and onnxruntime accept them, and they compute."""
import sys

import numpy as np
import onnx
import onnxruntime

for path in sys.argv[1:]:
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for wanted in session.get_inputs():
        shape = [d if isinstance(d, int) else 2 for d in wanted.shape]
        feeds[wanted.name] = np.zeros(shape, np.float32 if wanted.type == "tensor(float)" else np.int64)
    assert session.run(None, feeds), path
