"""What each exporter writes trains as its framework does: models/exporters/ has the files, and the frameworks' own losses."""
import json
import os

import common
from common import CommandLineTest, read_metrics

FOLDER = os.path.join(common.ROOT, "models", "exporters")


class Exporters(CommandLineTest):
    def check(self, name):
        folder = os.path.join(FOLDER, name)
        with open(os.path.join(folder, "case.json")) as file:
            case = json.load(file)
        model = os.path.join(folder, "model.onnx")
        if "trained_elements" in case:
            report = json.loads(self.done("inspect", model, "--json"))
            self.assertEqual(report["trained_elements"], case["trained_elements"])
        for ranks in (1, 2):
            words = ["--microbatches", case["microbatches"]] if "microbatches" in case else []
            self.done("train", model, "--data", os.path.join(folder, "data.npz"), "--loss", case["loss"], "--batch",
                      case["batch"], "--steps", case["steps"], "--optimizer", case["optimizer"], "--lr", case["lr"],
                      "--ranks", ranks, "--metrics", self.path("m.jsonl"), *words)
            losses = [line["loss"] for line in read_metrics(self.path("m.jsonl"))]
            self.assertEqual(len(losses), len(case["losses"]))
            for got, expected in zip(losses, case["losses"]):
                self.assertLess(abs(got - expected), 2e-5 * abs(expected))
            os.remove(self.path("m.jsonl"))


for name in sorted(os.listdir(FOLDER)):
    if os.path.exists(os.path.join(FOLDER, name, "case.json")):
        setattr(Exporters, "test_" + name, lambda self, name=name: self.check(name))

if __name__ == "__main__":
    common.main()
