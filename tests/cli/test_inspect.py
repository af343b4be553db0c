"""inspect: counts are PyTorch's; unsupported operators are all named; text and JSON say the same."""
import json
import re

import onnx
import common
from common import CASES, MORE_CASES, CommandLineTest, model_path, read_case
from onnx import TensorProto, helper


class Inspect(CommandLineTest):
    def test_counts_are_pytorchs(self):
        for name in CASES + MORE_CASES:
            with self.subTest(name):
                case = read_case(name)
                report = json.loads(self.done("inspect", model_path(name), "--json"))
                self.assertEqual(report["trained_tensors"], case["named_parameters"])
                self.assertEqual(report["trained_elements"], case["parameters"])
                trained = {p["name"] for p in report["parameters"] if p["trains"]}
                self.assertLessEqual(set(case["trainable"]), trained)
                self.assertEqual(report["operators"], case["operators"])
                self.assertEqual(report["unsupported"], [])
                self.assertEqual([i["name"] for i in report["inputs"]], case["inputs"])
                self.assertEqual(report["outputs"][0]["name"], case["output"])

    def test_text_names_what_trains(self):
        text = self.done("inspect", model_path("branches"))
        for name in read_case("branches")["trainable"]:
            self.assertIn(name, text)
        self.assertIn("5,923", text)

    def test_what_passes_found(self):
        """The same numbers as text, as JSON, and of a training run, which adds what only a gradient has."""
        report = json.loads(self.done("inspect", model_path("gpt2"), "--json"))
        layers = report["operators"]["Softmax"]
        self.assertEqual(report["passes"]["attention"], layers)
        self.assertEqual(report["passes"]["gelu"], report["operators"]["Tanh"])
        self.assertRegex(self.done("inspect", model_path("gpt2")), rf" attention {layers}[ \n]")
        train = ["train", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--batch", 2, "--dry-run", "--verbose"]
        line = [l for l in self.done(*train).splitlines() if l.startswith("passes ")][0]
        for name, count in report["passes"].items():
            self.assertIn(f" {name} {count}", line)
        self.assertIn(", accumulate ", line)
        self.assertIn("passes        nothing", self.done(*train, "--no-fuse"))

    def test_which_kernels_run(self):
        """By way, with how many nodes of which operator; of the instruction set that is named beside the device."""
        train = ["train", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--batch", 2, "--dry-run"]
        self.assertNotIn("kernels ", self.done(*train))
        text = self.done(*train, "--verbose", "--device", "cpu")
        isa = re.search(r"^device +cpu \((\w+)\)$", text, re.M).group(1)
        line = re.search(r"^kernels +(.*)", text, re.M).group(1)
        self.assertRegex(line, rf"packed tiles \d+ x \d+, {isa}:.* MatMul \d+")
        self.assertRegex(line, rf"attention in tiles, {isa}: Attention \d+, AttentionGrad \d+")
        self.assertRegex(self.done(*train, "--verbose", "--device", "reference"), r"kernels +reference: ")

    def test_findings(self):
        fixed = json.loads(self.done("inspect", model_path("gpt2_fixed_batch"), "--json"))
        self.assertEqual([f["id"] for f in fixed["findings"]], ["fixed_batch", "dropout_absent"])
        tied = json.loads(self.done("inspect", model_path("gpt2_default_export"), "--json"))
        self.assertEqual(sum(p["tied_to"] is not None for p in tied["parameters"]), 1)
        apart = json.loads(self.done("inspect", model_path("gpt2_default_export"), "--json", "--no-tie"))
        self.assertEqual(apart["trained_tensors"], tied["trained_tensors"] + 1)

    def test_freeze_and_train(self):
        report = json.loads(self.done("inspect", model_path("branches"), "--json", "--freeze", "mid.*"))
        frozen = [p for p in report["parameters"] if p["name"].startswith("mid.")]
        self.assertEqual(len(frozen), 8)
        for parameter in frozen:
            self.assertFalse(parameter["trains"])
            self.assertEqual(parameter["rule"], "--freeze")

    def test_unsupported_operators_are_listed(self):
        graph = helper.make_graph(
            [helper.make_node("Frobnicate", ["x"], ["y"], "a", domain="org.example"),
             helper.make_node("StringNormalizer", ["y"], ["z"], "b")],
            "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("org.example", 1)])
        onnx.save(model, self.path("odd.onnx"))
        report = json.loads(self.done("inspect", self.path("odd.onnx"), "--json"))
        self.assertEqual([(u["node"], u["operator"].split(".")[-1]) for u in report["unsupported"]],
                         [("a", "Frobnicate"), ("b", "StringNormalizer")])


if __name__ == "__main__":
    common.main()
