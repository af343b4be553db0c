"""Each finding on the smallest file that has it, and not on one beside it that has not."""
import json

import numpy as np
import onnx
import common
from common import CommandLineTest
from onnx import TensorProto, helper, numpy_helper


def tensor(name, values):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def values(*shape):
    return np.random.default_rng(0).standard_normal(shape)


class Findings(CommandLineTest):
    def findings(self, nodes, weights, shape=("N", 4), output="y", infos=(), metadata=None, batch_opset=18):
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], weights, value_info=infos)
        if metadata:
            for key, value in metadata.items():
                graph.metadata_props.add(key=key, value=value)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", batch_opset)])
        onnx.save(model, self.path("m.onnx"))
        report = json.loads(self.done("inspect", self.path("m.onnx"), "--json"))
        return {(f["id"], f["tensor"]): f for f in report["findings"] if f["id"] != "dropout_absent"}

    def product(self, name, contents):
        return self.findings([helper.make_node("MatMul", ["x", name], ["y"], "product")], [tensor(name, contents)])

    def test_nothing_is_found_where_nothing_is_wrong(self):
        self.assertEqual(self.product("layer.weight", values(4, 4)), {})

    def test_masks(self):
        self.assertIn(("mask_trains", "mask"), self.product("mask", np.tril(np.ones((4, 4)))))
        self.assertIn(("mask_trains", "mask"), self.product("mask", np.triu(np.full((4, 4), -np.inf), 1)))
        self.assertEqual(self.product("w", np.ones((4, 4))), {})
        self.assertEqual(self.product("w", 0.5 * np.eye(4)), {})

    def test_position_tables(self):
        position, rate = np.arange(9)[:, None], 10000.0 ** -(np.arange(0, 8, 2) / 8)
        table = np.zeros((9, 8))
        table[:, 0::2], table[:, 1::2] = np.sin(position * rate), np.cos(position * rate)
        nodes = [helper.make_node("Add", ["x", "pe"], ["y"], "positions")]
        for contents in (table, np.concatenate([table[:, 0::2], table[:, 1::2]], 1)):
            self.assertIn(("position_table_trains", "pe"), self.findings(nodes, [tensor("pe", contents)], ("N", 9, 8)))
        self.assertEqual(self.findings(nodes, [tensor("pe", values(9, 8))], ("N", 9, 8)), {})

    def test_probabilities(self):
        w = tensor("w.w", values(4, 3))
        for op, loss in (("Softmax", "cross_entropy"), ("Sigmoid", "bce_with_logits")):
            found = self.findings([helper.make_node("MatMul", ["x", "w.w"], ["logits"], "product"),
                                   helper.make_node(op, ["logits"], ["p"], "last"),
                                   helper.make_node("Identity", ["p"], ["y"], "same")], [w])
            text = found["output_is_probability", "y"]["text"]
            self.assertIn("'logits'", text)
            self.assertIn(loss, text)
            self.assertTrue(found["output_is_probability", "y"]["wrong"])
        self.assertEqual(self.findings([helper.make_node("Softmax", ["x"], ["p"], "inside"),
                                        helper.make_node("MatMul", ["p", "w.w"], ["y"], "product")], [w]), {})

    def test_folded_normalisation(self):
        def convolution(weight, bias):
            return self.findings([helper.make_node("Conv", ["x", weight, bias], ["y"], "c")],
                                 [tensor(weight, values(2, 3, 1, 1)), tensor(bias, values(2))], ("N", 3, 4, 4))
        self.assertIn(("batch_normalization_folded", "onnx::Conv_7"), convolution("onnx::Conv_7", "onnx::Conv_8"))
        self.assertNotIn(("batch_normalization_folded", "c.weight"), convolution("c.weight", "c.bias"))

    def test_folded_by_the_dynamo_exporter(self):
        signature = "\n# inputs\np_norm_weight: PARAMETER target='norm.weight'\np_w: PARAMETER target='w.w'\nx: USER_INPUT\n"
        nodes = [helper.make_node("Mul", ["x", "add_1"], ["mul"], "scale"),
                 helper.make_node("MatMul", ["mul", "w.w"], ["y"], "product")]
        info = helper.make_tensor_value_info("add_1", TensorProto.FLOAT, [4])
        info.metadata_props.add(key="pkg.onnxscript.optimizer.folded_from", value="['norm.weight', 'val_10']")
        metadata = {"pkg.torch.export.ExportedProgram.graph_signature": signature}
        found = self.findings(nodes, [tensor("add_1", values(4)), tensor("w.w", values(4, 3))], infos=[info],
                              metadata=metadata)
        self.assertIn(("folded_with_constant", "add_1"), found)
        nodes[0].input[1] = info.name = "embedding"
        found = self.findings(nodes, [tensor("embedding", values(4)), tensor("w.w", values(4, 3))], infos=[info],
                              metadata=metadata)
        self.assertIn(("folded_lookup", "embedding"), found)
        nodes[0].input[1] = info.name = "unsqueeze_2"
        found = self.findings(nodes, [tensor("unsqueeze_2", values(4)), tensor("w.w", values(4, 3))], infos=[info],
                              metadata=metadata)
        self.assertNotIn(("folded_with_constant", "unsqueeze_2"), found)

    def test_names_that_tell_nothing(self):
        nodes = [helper.make_node("Mul", ["x", "onnx::Mul_36"], ["mul"], "scale"),
                 helper.make_node("MatMul", ["mul", "w"], ["y"], "product")]
        found = self.findings(nodes, [tensor("onnx::Mul_36", values(4)), tensor("w", values(4, 3))])
        self.assertIn("--train 'onnx::Mul_36'", found["unnamed_tensor", "onnx::Mul_36"]["text"])

    def test_weights_as_constants(self):
        nodes = [helper.make_node("Constant", [], ["hidden"], value=tensor("t", values(4, 4))),
                 helper.make_node("MatMul", ["x", "hidden"], ["h"], "a"), helper.make_node("MatMul", ["h", "w"], ["y"], "b")]
        self.assertIn(("weights_as_constants", "hidden"), self.findings(nodes, [tensor("w", values(4, 3))]))

    def test_nothing_trains(self):
        self.assertIn(("nothing_trains", ""), self.findings([helper.make_node("Relu", ["x"], ["y"], "r")], []))

    def test_train_says_what_is_wrong_in_a_line(self):
        self.product("mask", np.tril(np.ones((4, 4))))
        np.savez(self.path("d.npz"), x=values(4, 4).astype(np.float32), target=values(4, 4).astype(np.float32))
        said = self.run_command("train", self.path("m.onnx"), "--data", self.path("d.npz"), "--steps", "1")
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertIn("mask_trains (mask)", said.stdout + said.stderr)


if __name__ == "__main__":
    common.main()
