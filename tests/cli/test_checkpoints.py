"""Checkpoints from the command line: going on under mpirun, Dropout and running statistics included; what other programs read."""
import glob
import json
import os
import re
import shutil

import common
import numpy as np
from common import CommandLineTest, model_path, read_metrics

try:
    from safetensors.numpy import load_file
except ImportError:
    load_file = None


class Checkpoints(CommandLineTest):
    def straight_and_resumed(self, model, data, ways, *options):
        """Ten steps, and the same from the checkpoint of step 5 on, in each of the ways; the folder of the first."""
        straight = self.path("straight")
        self.done("train", model, "--data", data, "--steps", 10, "--quiet", "--every", 5, "--checkpoint", straight, "--metrics",
                  self.path("m.jsonl"), "--save", self.path("straight.onnx"), *options)
        expected = [(m["step"], m["loss"], m["lr"], m["gradient_norm"]) for m in read_metrics(self.path("m.jsonl"))]
        self.assertEqual(len(expected), 10)
        for i, (mpi, words) in enumerate(ways):
            folder, metrics = self.path(f"resumed{i}"), self.path(f"m{i}.jsonl")
            shutil.copytree(straight, folder)
            shutil.rmtree(os.path.join(folder, "step-000000010"))
            shutil.copy(self.path("m.jsonl"), metrics)
            self.done("train", model, "--resume", folder, "--quiet", "--metrics", metrics, "--save", self.path("resumed.onnx"), *words,
                      mpi=mpi)
            self.assertEqual([(m["step"], m["loss"], m["lr"], m["gradient_norm"]) for m in read_metrics(metrics)], expected)
            with open(self.path("straight.onnx"), "rb") as a, open(self.path("resumed.onnx"), "rb") as b:
                self.assertEqual(a.read(), b.read(), words)
            self.assertEqual(sorted(os.listdir(folder)), [".lock", "step-000000005", "step-000000010"])
        return straight

    def test_dropout_and_order_of_samples(self):
        self.done("edit", model_path("nanogpt"), "-o", self.path("dropout.onnx"), "--dropout", "/blocks.*/Add_1=0.2", "--quiet")
        self.straight_and_resumed(self.path("dropout.onnx"), model_path("nanogpt", "data.npz"),
                                  [(0, ["--ranks", 3, "--schedule", "zb-h1"]), (2, ["--schedule", "gpipe"])], "--batch", 8,
                                  "--microbatches", 4, "--shuffle", "--seed", 5, "--warmup-steps", 3, "--lr-schedule", "linear",
                                  "--clip-norm", 1, "--ranks", 2)

    def test_running_statistics_and_momentum(self):
        self.straight_and_resumed(model_path("resnet"), model_path("resnet", "data.npz"), [(2, []), (0, ["--ranks", 1])], "--batch", 8,
                                  "--microbatches", 1, "--optimizer", "sgd", "--momentum", 0.9, "--lr", 0.01, "--ranks", 3)

    def test_other_programs_read_the_shards(self):
        if load_file is None:
            self.skipTest("there is no package safetensors (sh tests/venv.sh)")
        folder = self.straight_and_resumed(model_path("nanogpt"), model_path("nanogpt", "data.npz"), [], "--batch", 8, "--ranks", 3)
        last = os.path.join(folder, "step-000000010")
        import onnx
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(self.path("straight.onnx")).graph.initializer}
        for kind, count in (("model", 3), ("optimizer", 3)):
            self.assertEqual(len(glob.glob(os.path.join(last, f"{kind}-*.safetensors"))), count)
            with open(os.path.join(last, f"{kind}.safetensors.index.json")) as file:
                index = json.load(file)
            shards = {name: load_file(os.path.join(last, name)) for name in set(index["weight_map"].values())}
            self.assertEqual(sum(len(shard) for shard in shards.values()), len(index["weight_map"]))
            self.assertEqual(sum(a.nbytes for shard in shards.values() for a in shard.values()), index["metadata"]["total_size"])
            for name, shard in index["weight_map"].items():
                if kind == "model":
                    np.testing.assert_array_equal(shards[shard][name], weights[name])
                else:
                    parameter, state = name.rsplit("/", 1)
                    self.assertIn(state, ("m", "v"))
                    self.assertEqual(shards[shard][name].shape, weights[parameter].shape)

    def test_refusals(self):
        self.refused(2, "--every: 0 is less than 1", "train", model_path("nanogpt"), "--data",
                     model_path("nanogpt", "data.npz"), "--every", 0)
        self.done("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--steps", 1, "--quiet", "--checkpoint",
                  self.path("c"))
        last, other = self.path("c/step-000000001"), self.path("other.onnx")
        self.done("edit", model_path("nanogpt"), "-o", other, "--dropout", "/blocks.*/Add_1=0.2", "--quiet")
        self.refused(2, f"--lr 0.1 contradicts {last}, whose run has 0.001", "train", model_path("nanogpt"), "--resume", self.path("c"),
                     "--lr", 0.1, mpi=2)
        self.refused(2, re.compile(f"^{re.escape(other)} .hash [0-9a-f]{{16}}. is not the model of {re.escape(last)}, which is "),
                     "train", other, "--resume", self.path("c"), "--data", model_path("nanogpt", "data.npz"))


if __name__ == "__main__":
    common.main()
