"""run: every output of every sample in order, as onnxruntime computes them."""

import re

import numpy as np
import onnx
import onnxruntime
import common
from common import CommandLineTest, model_path, read_case

onnxruntime.set_default_logger_severity(3)


class Run(CommandLineTest):
    def compare(self, name, samples, *options):
        case = read_case(name)
        data = np.load(model_path(name, "data.npz"))
        inputs = {i: data[i][:samples] for i in case["inputs"]}
        path = self.write_arrays("inputs.npz", **inputs)
        self.done("run", model_path(name), "--data", path, "--out", self.path("out.npz"), *options)
        session = onnxruntime.InferenceSession(model_path(name))
        names = [o.name for o in session.get_outputs()]
        ours = np.load(self.path("out.npz"))
        self.assertEqual(sorted(ours), sorted(names))
        batch = session.get_inputs()[0].shape[0]
        step = batch if isinstance(batch, int) else samples
        parts = [session.run(None, {i: a[k:k + step] for i, a in inputs.items()}) for k in range(0, samples // step * step, step)]
        for i, output in enumerate(names):
            theirs = np.concatenate([p[i] for p in parts])
            np.testing.assert_allclose(ours[output][:len(theirs)], theirs, rtol=1e-4, atol=1e-5)
            self.assertEqual(len(ours[output]), samples)

    def test_even_and_uneven(self):
        for samples, batch in ((16, 8), (13, 4), (3, 32), (1, 1)):
            with self.subTest(samples=samples, batch=batch):
                self.compare("branches", samples, "--batch", batch)
        self.compare("nanogpt", 7, "--batch", 4, "--device", "reference")
        self.compare("llama", 5, "--batch", 2)

    def test_a_fixed_batch(self):
        self.compare("gpt2_fixed_batch", 8)
        self.compare("gpt2_fixed_batch", 7)

    def test_first_outputs_are_pytorchs(self):
        for name in ("branches", "surrogate", "dlrm", "nanogpt", "gpt2_default_export"):
            with self.subTest(name):
                case = read_case(name)
                data = np.load(model_path(name, "data.npz"))
                path = self.write_arrays("i.npz", **{i: data[i][:case["batch_size"]] for i in case["inputs"]})
                self.done("run", model_path(name), "--data", path, "--out", self.path("out.npz"))
                expected = np.load(model_path(name, "first_output.npy"))
                np.testing.assert_allclose(np.load(self.path("out.npz"))[case["output"]], expected, rtol=1e-4, atol=1e-5)

    def structured(self, dims):
        """y = Reshape(x, shape + [0]) with `shape` as an input that no data counts in samples."""
        ends = [onnx.helper.make_tensor_value_info(*end) for end in (
            ("x", onnx.TensorProto.FLOAT, dims), ("shape", onnx.TensorProto.INT64, [3]), ("y", onnx.TensorProto.FLOAT, None))]
        zero = onnx.helper.make_tensor("zero", onnx.TensorProto.INT64, [1], [0])
        nodes = [onnx.helper.make_node("Add", ["shape", "zero"], ["whole"]), onnx.helper.make_node("Reshape", ["x", "whole"], ["y"])]
        graph = onnx.helper.make_graph(nodes, "structured", ends[:2], ends[2:], [zero])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, self.path("structured.onnx"))
        return self.path("structured.onnx")

    def test_a_shape_that_the_data_gives(self):
        for dims in (["N", 4], [2, 4], [3, 4]):
            x = np.arange(2 * 4 * (3 if dims[0] == 3 else 1), dtype=np.float32).reshape(-1, 4)
            with self.subTest(dims=dims):
                path = self.write_arrays("in.npz", x=x[:dims[0]] if dims[0] != "N" else x, shape=np.array([-1, 2, 2]))
                self.done("run", self.structured(dims), "--data", path, "--out", self.path("out.npz"))
                np.testing.assert_array_equal(np.load(self.path("out.npz"))["y"], np.load(path)["x"].reshape(-1, 2, 2))
        wrong = self.write_arrays("in.npz", x=np.zeros((2, 4), np.float32), shape=np.array([-1, 3, 2]))
        self.refused(1, re.compile("Reshape.*does not divide"), "run", self.structured(["N", 4]), "--data", wrong, "--out", self.path("out.npz"))

    def test_outputs_that_no_machine_holds(self):
        wide = 200_000_000
        ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", n]) for name, n in (("x", 1), ("y", wide))]
        repeats = onnx.helper.make_tensor("repeats", onnx.TensorProto.INT64, [2], [1, wide])
        tile = onnx.helper.make_node("Tile", ["x", "repeats"], ["y"])
        graph = onnx.helper.make_graph([tile], "wide", ends[:1], ends[1:], [repeats])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, self.path("wide.onnx"))
        data = self.write_arrays("d.npz", x=np.zeros((100_000, 1), np.float32))
        self.refused(1, re.compile(r"wide.onnx: it needs .* for the outputs of 100000 samples, the limit is "),
                     "run", self.path("wide.onnx"), "--data", data, "--batch", 1, "--out", self.path("out.npz"))

    def test_needs(self):
        self.refused(2, "run needs --data FILE and --out FILE.npz", "run", model_path("branches"))


if __name__ == "__main__":
    common.main()
