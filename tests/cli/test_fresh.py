"""Models exported as they are born, by both of PyTorch's exporters without options."""
import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import common
from common import ROOT, CommandLineTest, read_metrics

onnxruntime.set_default_logger_severity(3)
FRESH = os.path.join(ROOT, "models", "fresh")
FOLDERS = sorted(f for f in os.listdir(FRESH) if os.path.isdir(os.path.join(FRESH, f)))


def fresh_path(folder, file="model.onnx"):
    return os.path.join(FRESH, folder, file)


class Fresh(CommandLineTest):
    def expected(self, folder):
        with open(fresh_path(folder, "expected.json")) as file:
            return json.load(file)

    def train(self, folder):
        """The first step's metrics."""
        self.done("train", fresh_path(folder), "--data", fresh_path(folder, "data.npz"), "--batch", 8, "--steps", 1, "--quiet",
                  "--metrics", self.path("m.jsonl"))
        return read_metrics(self.path("m.jsonl"))[0]

    def test_both_exporters_are_there(self):
        for model in ("gpt2", "llama", "bert", "distilbert", "vit", "tabular"):
            for exporter in ("dynamo", "torchscript"):
                self.assertIn(f"{model}_{exporter}", FOLDERS)

    def trained(self, path):
        report = json.loads(self.done("inspect", path, "--json"))
        return report["trained_tensors"], report["trained_elements"], {p["name"]: p for p in report["parameters"]}

    def test_what_trains_is_what_pytorch_trains(self):
        for folder in FOLDERS:
            with self.subTest(folder):
                expected = self.expected(folder)
                tensors, elements, parameters = self.trained(fresh_path(folder))
                self.assertEqual((tensors, elements), (expected["trained_tensors"], expected["trained_elements"]))
                saved, gradients = self.path("saved.onnx"), self.path("g.npz")
                self.done("train", fresh_path(folder), "--data", fresh_path(folder, "data.npz"), "--batch", 8, "--steps", 1, "--quiet",
                          "--dump-gradients", gradients, "--save", saved)
                self.assertEqual(self.trained(saved)[:2], (tensors, elements))
                self.compare(dict(np.load(fresh_path(folder, "first_gradients.npz"))), dict(np.load(gradients)), parameters)
                self.accept(saved)

    def test_what_became_of_tensors_is_printed(self):
        words = ["train", fresh_path("gpt2_dynamo"), "--data", fresh_path("gpt2_dynamo", "data.npz"), "--batch", 8, "--dry-run"]
        lines = self.done(*words, "--freeze", "*.ln_f.*").splitlines()
        said = lambda what: [l[14:] for l in lines if l.startswith(what + " ")]
        self.assertEqual(said("tied"), ["val_313 = model.lm_head.weight transposed"])
        self.assertIn("model.transformer.h.0.ln_2.weight, model.transformer.h.1.ln_1.weight", said("split")[0])
        self.assertIn("merged into its equal model.transformer.h.0.ln_1.weight", said("split")[0])
        self.assertIn("model.transformer.h.1.mlp.c_fc.bias", said("restored")[0])
        self.assertIn("model.transformer.ln_f.weight, model.transformer.ln_f.bias: --freeze", said("held fixed"))
        self.assertTrue([l for l in said("held fixed") if l.startswith("val_7, ") and l.endswith(": scalars (rule 4)")])
        report = json.loads(self.done("inspect", fresh_path("gpt2_dynamo"), "--json"))
        found = {(f["id"], f["tensor"]) for f in report["findings"]}
        self.assertLessEqual({("tied", "val_313"), ("split", "model.transformer.ln_f.bias"),
                              ("restored", "model.transformer.h.0.attn.c_attn.bias")}, found)
        parameters = {p["name"]: p for p in report["parameters"]}
        self.assertEqual(parameters["model.transformer.ln_f.bias"]["split_from"], "model.transformer.h.0.ln_1.bias")
        self.assertEqual(parameters["model.transformer.ln_f.bias"]["rule"], "6")
        self.assertTrue(parameters["model.transformer.h.0.attn.c_attn.bias"]["restored"])

    def compare(self, expected, found, parameters):
        """By name; where folding changed a tensor and its name, some other one is it, perhaps turned."""
        others = {n: g for n, g in found.items() if n not in expected and not parameters.get(n, {}).get("tied_to")}
        for name, gradient in expected.items():
            close = lambda g: g.size == gradient.size and np.allclose(g.reshape(gradient.shape), gradient, rtol=1e-4,
                                                                       atol=1e-7 + 1e-5 * np.abs(gradient).max())
            if name in found:
                self.assertTrue(close(found[name]), name)
                continue
            same = [n for n, g in others.items() if close(g) or (g.ndim == 2 and close(g.T))]
            self.assertTrue(same, name)
            del others[same[0]]
        self.assertEqual(others, {})

    def accept(self, path):
        accept = os.path.join(ROOT, "tests", "onnx", "accept.py")
        done = subprocess.run([sys.executable, accept, path], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_first_losses_are_pytorchs(self):
        for folder in FOLDERS:
            with self.subTest(folder):
                expected = self.expected(folder)
                report = json.loads(self.done("inspect", fresh_path(folder), "--json"))
                self.assertEqual(report["unsupported"], [])
                np.testing.assert_allclose(self.train(folder)["loss"], expected["first_loss_float64"], rtol=1e-5)

    def test_what_trained_is_in_the_saved_file(self):
        """onnxruntime computes with it what onnxpipe does, and it trains on as so many tensors."""
        for folder in FOLDERS:
            with self.subTest(folder):
                expected, saved = self.expected(folder), self.path("saved.onnx")
                self.done("train", fresh_path(folder), "--data", fresh_path(folder, "data.npz"), "--batch", 8, "--steps", 2, "--lr", 0.01,
                          "--quiet", "--save", saved)
                report = json.loads(self.done("inspect", saved, "--json"))
                self.assertEqual((report["trained_tensors"], report["trained_elements"]),
                                 (expected["trained_tensors"], expected["trained_elements"]))
                with np.load(fresh_path(folder, "data.npz")) as data:
                    inputs = {n: data[n] for n in data.files if n != "target"}
                theirs = [onnxruntime.InferenceSession(saved).run(None, {n: x[k:k + 4] for n, x in inputs.items()})[0] for k in (0, 4)]
                np.savez(self.path("inputs.npz"), **inputs)
                self.done("run", saved, "--data", self.path("inputs.npz"), "--out", self.path("out.npz"))
                with np.load(self.path("out.npz")) as ours:
                    np.testing.assert_allclose(ours[report["outputs"][0]["name"]], np.concatenate(theirs), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    common.main()
