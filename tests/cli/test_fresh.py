"""Models exported as they are born, by both of PyTorch's exporters without options."""
import json
import os

import numpy as np
import common
from common import ROOT, CommandLineTest, read_metrics

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

    def test_first_losses_are_pytorchs(self):
        for folder in FOLDERS:
            with self.subTest(folder):
                expected = self.expected(folder)
                report = json.loads(self.done("inspect", fresh_path(folder), "--json"))
                self.assertEqual(report["unsupported"], [])
                np.testing.assert_allclose(self.train(folder)["loss"], expected["first_loss_float64"], rtol=1e-5)


if __name__ == "__main__":
    common.main()
