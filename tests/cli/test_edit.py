"""edit: each change on a small model, seen in what onnxruntime gives and in what trains."""
import json
import os

import numpy as np
import onnx
import onnxruntime
import common
from common import CommandLineTest
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)


def tensor(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


class Edit(CommandLineTest):
    def model(self, nodes, weights, shape=("N", 4), out=("N", 3), name="m.onnx", opset=17):
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        onnx.save(model, self.path(name))
        return self.path(name)

    def two_layers(self, last="y", **options):
        return self.model([helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["h"], "a", transB=1),
                           helper.make_node("Relu", ["h"], ["r"], "act"),
                           helper.make_node("Gemm", ["r", "b.weight", "b.bias"], [last], "b", transB=1)]
                          + ([helper.make_node("Softmax", [last], ["y"], "p")] if last != "y" else []),
                          [tensor("a.weight", normal(5, 4)), tensor("a.bias", normal(5)), tensor("b.weight", normal(3, 5)),
                           tensor("b.bias", normal(3))], **options)

    def edit(self, path, *words):
        out = self.path("out.onnx")
        said = self.done("edit", path, "-o", out, *words)
        onnx.checker.check_model(onnx.load(out), full_check=True)
        return out, said

    def infer(self, path, x):
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]

    def trained(self, path):
        return {p["name"] for p in json.loads(self.done("inspect", path, "--json"))["parameters"] if p["trains"]}

    def refused(self, *words):
        run = self.run_command("edit", *words)
        self.assertIn(run.returncode, (1, 2))
        self.assertEqual(len(run.stderr.strip().splitlines()), 1)
        return run.stderr

    def test_dropout_is_put_back(self):
        for opset in (11, 17):
            out, said = self.edit(self.two_layers(opset=opset), "--dropout", "ac*=0.25")
            self.assertIn("behind node 'act'", said)
            nodes = onnx.load(out).graph.node
            self.assertEqual([n.op_type for n in nodes], ["Gemm", "Relu", "Dropout", "Gemm"])
            self.assertEqual(nodes[3].input[0], nodes[2].output[0])
            ids = [f["id"] for f in json.loads(self.done("inspect", out, "--json"))["findings"]]
            self.assertNotIn("dropout_absent", ids)
        self.assertIn("matches no node", self.refused(self.two_layers(), "-o", self.path("o.onnx"), "--dropout", "zz=0.1"))
        self.assertIn("between 0 and 1", self.refused(self.two_layers(), "-o", self.path("o.onnx"), "--dropout", "a=1.5"))

    def test_a_sum_is_unfolded(self):
        path = self.model([helper.make_node("Mul", ["x", "onnx::Mul_3"], ["h"], "scale"),
                           helper.make_node("MatMul", ["h", "w"], ["y"], "product")],
                          [tensor("onnx::Mul_3", 1 + 0.1 * normal(4)), tensor("w", normal(4, 3))])
        self.assertEqual(self.trained(path), {"w"})
        out, _ = self.edit(path, "--unfold", "onnx::Mul_3=1")
        self.assertEqual(self.trained(out), {"w", "Mul_3.weight"})
        x = normal(6, 4)
        np.testing.assert_allclose(self.infer(out, x), self.infer(path, x), rtol=1e-5, atol=1e-6)
        self.assertIn("names no initializer", self.refused(path, "-o", out, "--unfold", "v=1"))

    def test_a_head_is_replaced(self):
        path, x = self.two_layers(), normal(6, 4)
        out, said = self.edit(path, "--replace-head", "classes=7")
        self.assertIn("7 classes in place of 3", said)
        self.assertEqual(self.infer(out, x).shape, (6, 7))
        first = numpy_helper.to_array(onnx.load(out).graph.initializer[2])
        self.assertLessEqual(np.abs(first).max(), 1 / np.sqrt(5))
        self.assertGreater(first.std(), 0.1)
        self.edit(path, "--replace-head", "classes=7", "--seed", "1")
        self.assertFalse(np.array_equal(first, numpy_helper.to_array(onnx.load(out).graph.initializer[2])))
        self.edit(path, "--replace-head", "classes=7")
        np.testing.assert_array_equal(first, numpy_helper.to_array(onnx.load(out).graph.initializer[2]))
        np.savez(self.path("d.npz"), x=x, target=np.arange(6) % 7)
        self.done("train", out, "--data", self.path("d.npz"), "--steps", "2")

    def test_a_head_of_a_product_and_a_sum(self):
        path = self.model([helper.make_node("Transpose", ["w"], ["t"], "turn", perm=[1, 0]),
                           helper.make_node("MatMul", ["x", "t"], ["m"], "product"),
                           helper.make_node("Add", ["bias", "m"], ["y"], "sum")],
                          [tensor("w", normal(3, 4)), tensor("bias", normal(3))])
        out, _ = self.edit(path, "--replace-head", "classes=2")
        self.assertEqual([list(i.dims) for i in onnx.load(out).graph.initializer], [[2, 4], [2]])
        self.assertEqual(self.infer(out, normal(5, 4)).shape, (5, 2))
        path = self.model([helper.make_node("Relu", ["x"], ["y"], "last")], [], out=("N", 4))
        self.assertIn("'last'", self.refused(path, "-o", out, "--replace-head", "classes=2"))

    def test_probabilities_become_logits(self):
        path, x = self.two_layers(last="z"), normal(6, 4)
        out, _ = self.edit(path, "--logits")
        z = self.infer(out, x)
        p = np.exp(z - z.max(1, keepdims=True))
        np.testing.assert_allclose(p / p.sum(1, keepdims=True), self.infer(path, x), rtol=1e-4, atol=1e-6)
        self.assertIn("no output", self.refused(self.two_layers(), "-o", out, "--logits"))

    def test_weights_leave_constants(self):
        path = self.model([helper.make_node("Constant", [], ["hidden"], value=tensor("t", normal(4, 4))),
                           helper.make_node("MatMul", ["x", "hidden"], ["h"], "a"),
                           helper.make_node("MatMul", ["h", "w"], ["y"], "b")], [tensor("w", normal(4, 3))])
        out, _ = self.edit(path, "--constants-train")
        self.assertEqual(self.trained(out), {"w", "hidden"})
        x = normal(6, 4)
        np.testing.assert_array_equal(self.infer(out, x), self.infer(path, x))

    def fixed(self, batch):
        """Shapes that begin with the batch, as exporters write them: with and without -1, merged, expanded, filled."""
        return self.model([helper.make_node("Reshape", ["x", "s1"], ["a"], "split"),
                           helper.make_node("Transpose", ["a"], ["b"], "turn", perm=[0, 2, 1]),
                           helper.make_node("Reshape", ["b", "s2"], ["c"], "join"),
                           helper.make_node("Expand", ["token", "s3"], ["d"], "tokens"),
                           helper.make_node("ConstantOfShape", ["s4"], ["e"], "zeros", value=tensor("v", np.float32([0.5]))),
                           helper.make_node("Concat", ["c", "d", "e"], ["f"], "all", axis=1),
                           helper.make_node("MatMul", ["f", "w"], ["y"], "product")],
                          [tensor("s1", np.int64([batch, 2, 2])), tensor("s2", np.int64([batch, -1])),
                           tensor("s3", np.int64([batch, 3])), tensor("s4", np.int64([batch, 1])),
                           tensor("token", normal(1, 3)), tensor("w", normal(8, 3))], (batch, 4), (batch, 3))

    def test_the_batch_is_opened(self):
        for batch in (1, 2, 6):
            path, x = self.fixed(batch), normal(6, 4)
            out, said = self.edit(path, "--set-batch", "dynamic")
            self.assertIn("4 shapes inside follow it", said)
            expected = np.concatenate([self.infer(path, part) for part in np.split(x, 6 // batch)])
            np.testing.assert_array_equal(self.infer(out, x), expected)
            np.savez(self.path("d.npz"), x=x)
            self.done("run", out, "--data", self.path("d.npz"), "--out", self.path("o.npz"), "--batch", "3")
            np.testing.assert_allclose(np.load(self.path("o.npz"))["y"], expected, rtol=1e-5, atol=1e-6)

    def test_the_batch_is_another_number(self):
        out, _ = self.edit(self.fixed(2), "--set-batch", "5")
        self.assertEqual(self.infer(out, normal(5, 4)).shape, (5, 3))
        out, _ = self.edit(self.two_layers(), "--set-batch", "5")
        self.assertEqual(self.infer(out, normal(5, 4)).shape, (5, 3))
        self.assertIn("open already", self.refused(self.two_layers(), "-o", out, "--set-batch", "dynamic"))

    def test_external_data_comes_along(self):
        path = self.two_layers()
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        os.mkdir(self.path("there"))
        out = self.path("there/out.onnx")
        self.done("edit", path, "-o", out, "--dropout", "act=0.5")
        x = normal(6, 4)
        np.testing.assert_array_equal(self.infer(out, x), self.infer(path, x))
        self.assertIn("is there already", self.refused(path, "-o", self.path("there/other.onnx"), "--dropout", "act=0.5"))

    def test_mistakes_of_the_command_line(self):
        path = self.two_layers()
        self.assertIn("-o FILE", self.refused(path))
        self.assertIn("nothing to edit", self.refused(path, "-o", self.path("o.onnx")))
        self.assertIn("classes=N", self.refused(path, "-o", self.path("o.onnx"), "--replace-head", "7"))
        self.assertIn("NAME=NUMBER", self.refused(path, "-o", self.path("o.onnx"), "--dropout", "act"))


if __name__ == "__main__":
    common.main()
