"""Each rank keeps to what the plan says: its own stages' weights, gradients and states, and nothing of the others'."""
import json
import re
import sys

import numpy as np
import onnx
import common
from common import ONNXPIPE, CommandLineTest
from onnx import helper, numpy_helper

# Runs a command and prints what it took at most, in bytes.
WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, flush=True)
sys.exit(code)
"""


class Memory(CommandLineTest):
    def test_resident_peak_of_each_rank(self):
        if "/release/" not in ONNXPIPE:
            self.skipTest("sanitizers take memory of their own")
        width, layers, ranks = 1024, 12, 4
        random = np.random.default_rng(0)
        nodes, weights, x = [], [], "x"
        for i in range(layers):
            weights.append(numpy_helper.from_array(random.standard_normal((width, width), np.float32) / 32, f"{i}.weight"))
            nodes.append(helper.make_node("MatMul", [x, f"{i}.weight"], [f"h{i}"]))
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            x = f"r{i}"
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", width])],
                                  [helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["N", width])], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), self.path("m.onnx"))
        data = self.write_arrays("d.npz", x=random.standard_normal((32, width), np.float32),
                                 target=random.standard_normal((32, width), np.float32))
        self.done("plan", self.path("m.onnx"), "--data", data, "--ranks", ranks, "--batch", 16, "-o", self.path("p.json"))
        with open(self.path("p.json")) as file:
            arenas = [rank["total_bytes"] for rank in json.load(file)["memory"]]
        self.assertGreater(sum(arenas), 4 * 4 * width * width * layers)  # weight, gradient, two states
        result = self.run_words([sys.executable, "-c", WRAPPER, ONNXPIPE, "train", self.path("m.onnx"), "--data", data,
                                 "--plan", self.path("p.json"), "--steps", 3, "--save", self.path("s.onnx"), "--quiet"],
                                mpi=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        peaks = [int(p) for p in re.findall(r"peak (\d+)", result.stdout)]
        self.assertEqual(len(peaks), ranks)
        self.assertLess(max(peaks), max(arenas) + (64 << 20))


if __name__ == "__main__":
    common.main()
