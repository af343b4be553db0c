"""Recomputation: what would not fit trains, with the same bits; by itself where memory asks for it, in plans, across a resume."""
import json
import re

import numpy as np
import onnx
import common
from common import CommandLineTest
from onnx import helper, numpy_helper

WIDTH, LAYERS, SAMPLES = 32, 16, 512


class Recompute(CommandLineTest):
    def setUp(self):
        """Layers of a product, batch normalisation, Tanh and Dropout: large activations, small weights."""
        super().setUp()
        random = np.random.default_rng(0)
        nodes, weights, x = [], [numpy_helper.from_array(np.float32(0.1), "ratio")], "x"

        def weight(name, array):
            weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
            return name

        for i in range(LAYERS):
            nodes.append(helper.make_node("MatMul", [x, weight(f"l{i}.w", random.standard_normal((WIDTH, WIDTH)) / 6)], [f"m{i}"]))
            nodes.append(helper.make_node("BatchNormalization", [
                f"m{i}", weight(f"l{i}.scale", np.ones(WIDTH)), weight(f"l{i}.bias", random.standard_normal(WIDTH)),
                weight(f"l{i}.mean", np.zeros(WIDTH)), weight(f"l{i}.variance", np.ones(WIDTH))], [f"n{i}"], name=f"l{i}/norm"))
            nodes.append(helper.make_node("Tanh", [f"n{i}"], [f"t{i}"]))
            nodes.append(helper.make_node("Dropout", [f"t{i}", "ratio"], [f"d{i}"]))
            x = f"d{i}"
        shape = ["N", WIDTH]
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, shape)], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), self.path("m.onnx"))
        self.data = self.write_arrays("d.npz", x=random.standard_normal((SAMPLES, WIDTH), np.float32),
                                      target=random.standard_normal((SAMPLES, WIDTH), np.float32))
        self.work = [self.path("m.onnx"), "--data", self.data, "--batch", 256, "--microbatches", 1, "--threads", 1]

    def plan(self, *words):
        self.done("plan", *self.work, "-o", self.path("p.json"), *words)
        with open(self.path("p.json")) as file:
            return json.load(file)

    def largest(self, *words):
        return max(rank["total_bytes"] for rank in self.plan(*words)["memory"])

    def train(self, *words, steps=3, mpi=0):
        """What it printed, and the bytes that it saved: weights and running statistics."""
        said = self.done("train", *self.work, "--steps", steps, "--save", self.path("s.onnx"), "--metrics", self.path("m.jsonl"),
                         *words, mpi=mpi)
        with open(self.path("s.onnx"), "rb") as file:
            return said, file.read(), [line["loss"] for line in common.read_metrics(self.path("m.jsonl"))]

    def test_what_does_not_fit_one_rank(self):
        limit = ["--memory-limit", self.largest("--ranks", 4, "--recompute", "none")]
        _, saved, losses = self.train("--ranks", 1)
        for ranks in 1, 2:
            self.refused(1, re.compile("lacks .*would do"), "plan", *self.work, "--ranks", ranks, "--recompute", "none", *limit)
        said, *bits = self.train("--ranks", 4, *limit)
        self.assertEqual(bits, [saved, losses])
        self.assertNotIn("recomputation", said)
        said, *bits = self.train("--ranks", 2, *limit)
        self.assertEqual(bits, [saved, losses])
        self.assertIn("recomputation (--recompute auto)", said)
        for schedule in "gpipe", "zb-h1", "interleaved-1f1b":
            self.assertEqual(self.train("--ranks", 2, "--recompute", "full", "--schedule", schedule)[1:], (saved, losses), schedule)
        if common.HAS_MPI:
            self.assertEqual(self.train(*limit, mpi=2)[1:], (saved, losses))

    def test_memory_and_time(self):
        kept, least = self.plan("--ranks", 1, "--recompute", "none"), self.plan("--ranks", 1, "--recompute", "full")
        bytes_of = [p["memory"][0]["activation_bytes"] + p["memory"][0]["scratch_bytes"] for p in (kept, least)]
        self.assertLess(bytes_of[1], 0.3 * bytes_of[0])
        self.assertEqual(least["memory"][0]["spared_bytes"], kept["memory"][0]["total_bytes"] - least["memory"][0]["total_bytes"])
        self.assertEqual((kept["stages"][0]["again"], kept["stages"][0]["again_seconds"]), ([], 0))
        fastest, most = kept["predicted"]["step_seconds"], least["predicted"]["step_seconds"]
        self.assertGreater(most, fastest)
        before = fastest
        for part in 0.9, 0.7, 0.5, 0.4:  # less memory, more time, never over the limit
            limit = int(least["memory"][0]["total_bytes"] + part * least["memory"][0]["spared_bytes"])
            plan = self.plan("--ranks", 1, "--memory-limit", limit)
            self.assertLessEqual(plan["memory"][0]["total_bytes"], limit)
            self.assertGreaterEqual(plan["predicted"]["step_seconds"], before)
            before = plan["predicted"]["step_seconds"]
        self.assertLess(before, most)
        self.assertEqual(self.plan("--ranks", 1, "--memory-limit", kept["memory"][0]["total_bytes"])["stages"][0]["again"], [])
        least = least["memory"][0]["total_bytes"]
        said = self.refused(1, re.compile("lacks "), "plan", *self.work, "--ranks", 1, "--memory-limit", least // 2)
        enough = int(re.search(r"a limit of (\d+) would do", said)[1])
        self.assertLessEqual(enough, least)
        self.plan("--ranks", 1, "--memory-limit", enough)

    def test_plan_file(self):
        plan = self.plan("--ranks", 2, "--recompute", "full")
        self.assertEqual(plan["recompute"], "full")
        _, saved, losses = self.train("--ranks", 1)
        self.assertEqual(self.train("--plan", self.path("p.json"))[1:], (saved, losses))
        self.refused(2, re.compile("the plan has --recompute full, asked for is none$"), "train", *self.work, "--plan",
                     self.path("p.json"), "--recompute", "none")
        for again, message in (([[0, 4000]], "'again' has nodes 0 to 4000: out of order, or not of the stage"),
                               ([[4, 5], [1, 1]], "'again' has nodes 1 to 1: out of order"), ([[1]], "out of order"), ([[0, 3]], "which runs once"),
                               ("all", "'again' is not an array")):
            plan["stages"][0]["again"] = again
            with open(self.path("bad.json"), "w") as file:
                json.dump(plan, file)
            self.refused(1, re.compile(f"bad.json: stage 0: .*{re.escape(message)}"), "train", *self.work, "--plan", self.path("bad.json"))

    def test_room_for_what_lies_beside(self):
        """Validation's memory counts: where it would not fit beside training, training keeps less."""
        limit = ["--memory-limit", self.largest("--ranks", 1, "--recompute", "none")]
        _, saved, losses = self.train("--ranks", 1)
        beside = ["--validate", self.data, "--every", 9]
        self.refused(1, re.compile("for validation beside"), "train", *self.work, "--ranks", 1, "--recompute", "none", *limit, *beside,
                     "--steps", 1)
        said, *bits = self.train("--ranks", 1, *limit, *beside)
        self.assertIn("recomputation", said)
        self.assertEqual(bits, [saved, losses])

    def test_resume(self):
        _, saved, losses = self.train("--ranks", 1)
        self.train("--ranks", 2, "--recompute", "full", "--checkpoint", self.path("c"), "--every", 2, steps=2)
        for how in "none", "full", "auto":
            said, *bits = self.train("--ranks", 1, "--recompute", how, "--resume", self.path("c"))
            self.assertEqual((bits[0], bits[1][-1]), (saved, losses[-1]))

    def test_rest_of_an_epoch(self):
        words = ["train", self.path("m.onnx"), "--data", self.data, "--batch", 200, "--microbatches", 2, "--epochs", 1, "--last-batch",
                 "exact", "--threads", 1, "--save", self.path("s.onnx")]
        saved = []
        for how in "none", "full":
            said = self.done(*words, "--ranks", 2, "--recompute", how)
            with open(self.path("s.onnx"), "rb") as file:
                saved.append(file.read())
        self.assertEqual(saved[0], saved[1])


if __name__ == "__main__":
    common.main()
