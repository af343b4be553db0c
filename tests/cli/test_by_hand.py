"""What small models do, next to a few lines of numpy: clipping, learning rates, several outputs."""
import json
import re
import unittest

import numpy as np
import onnx
from common import CommandLineTest, read_metrics
from onnx import TensorProto, helper, numpy_helper

SAMPLES, IN, HIDDEN, OUT = 12, 5, 7, 3


def tensor(name, *dims):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


class Network:
    """y = relu(x a + b) c, trained with mse; float64."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.x = rng.standard_normal((SAMPLES, IN)).astype(np.float32)
        self.target = rng.standard_normal((SAMPLES, OUT)).astype(np.float32)
        self.weights = {"a": rng.standard_normal((IN, HIDDEN)).astype(np.float32),
                        "b": rng.standard_normal(HIDDEN).astype(np.float32),
                        "c": rng.standard_normal((HIDDEN, OUT)).astype(np.float32)}

    def save(self, path):
        nodes = [helper.make_node("MatMul", ["x", "a"], ["xa"]), helper.make_node("Add", ["xa", "b"], ["xab"]),
                 helper.make_node("Relu", ["xab"], ["h"]), helper.make_node("MatMul", ["h", "c"], ["y"])]
        graph = helper.make_graph(nodes, "network", [tensor("x", "N", IN)], [tensor("y", "N", OUT)],
                                  [numpy_helper.from_array(w, n) for n, w in self.weights.items()])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
        return path

    @staticmethod
    def gradients(w, x, target):
        pre = x @ w["a"] + w["b"]
        h = np.maximum(pre, 0)
        d_y = 2 * (h @ w["c"] - target) / target.size
        d_pre = d_y @ w["c"].T * (pre > 0)
        return {"a": x.T @ d_pre, "b": d_pre.sum(0), "c": h.T @ d_y}

    def sgd(self, rates, batch, clip=np.inf):
        """The weights after a step at each rate, and the gradient norms before clipping."""
        w, norms = {n: v.astype(np.float64) for n, v in self.weights.items()}, []
        for k, rate in enumerate(rates):
            take = np.arange(k * batch, (k + 1) * batch) % SAMPLES
            g = self.gradients(w, self.x[take].astype(np.float64), self.target[take].astype(np.float64))
            norms.append(np.sqrt(sum((v ** 2).sum() for v in g.values())))
            factor = min(1, clip / (norms[-1] + 1e-6))
            w = {n: v - rate * factor * g[n] for n, v in w.items()}
        return w, norms


class ByHand(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.network = Network()
        self.model = self.network.save(self.path("m.onnx"))
        self.data = self.write_arrays("d.npz", x=self.network.x, target=self.network.target)

    def train(self, *options, mpi=0):
        self.done("train", self.model, "--data", self.data, "--loss", "mse", "--optimizer", "sgd", "--batch", 4, "--quiet",
                  "--metrics", self.path("m.jsonl"), "--save", self.path("t.onnx"), *options, mpi=mpi)
        weights = {i.name: numpy_helper.to_array(i) for i in onnx.load(self.path("t.onnx")).graph.initializer}
        return weights, read_metrics(self.path("m.jsonl"))

    def assert_weights(self, weights, expected):
        self.assertEqual(set(weights), set(expected))
        for name, w in weights.items():
            np.testing.assert_allclose(w, expected[name], rtol=2e-6, atol=2e-6, err_msg=name)

    def test_clipping(self):
        """To a norm below each step's own, so that every step is clipped; and to one between them."""
        _, norms = self.network.sgd([0.05] * 3, 4)
        for clip in (0.5 * min(norms), np.mean(norms), 2 * max(norms)):
            expected, norms = self.network.sgd([0.05] * 3, 4, clip)
            options = ["--steps", 3, "--lr", 0.05, "--clip-norm", f"{clip:.17g}", "--microbatches", 2]
            weights, metrics = self.train(*options)
            self.assert_weights(weights, expected)
            np.testing.assert_allclose([m["gradient_norm"] for m in metrics], norms, rtol=1e-6)
            for more in (["--ranks", 2, "--schedule", "gpipe"], ["--ranks", 3, "--schedule", "1f1b"],
                         ["--ranks", 2, "--schedule", "zb-h1"], ["--device", "cpu", "--threads", 2]):
                with self.subTest(clip=clip, more=more):
                    again, measured = self.train(*options, *more)
                    self.assertEqual([m["gradient_norm"] for m in measured], [m["gradient_norm"] for m in metrics])
                    for name in weights:
                        self.assertEqual(again[name].tobytes(), weights[name].tobytes())
        again, measured = self.train(*options, mpi=3)
        self.assertEqual([m["loss"] for m in measured], [m["loss"] for m in metrics])
        for name in weights:
            self.assertEqual(again[name].tobytes(), weights[name].tobytes())

    def test_a_schedule_from_a_file(self):
        """Written by hand or by simulate: threads and MPI, with the same answer; through a plan file too."""
        expected, _ = self.train("--steps", 3, "--microbatches", 4)
        with open(self.path("hand.txt"), "w") as file:
            file.write("# actions alone\nschedule hand\n0F0 0F1 0F2 0W0 0F3 0W1 0W2 0W3\n"
                       "1F0 1B0 1F1 1B1 1W0 1F2 1B2 1F3 1B3 1W1 1W2 1W3\n")
        made = json.loads(self.done("simulate", "--ranks", 2, "--microbatches", 4, "--forward-ms", "1,2", "--backward-input-ms", 1,
                                    "--backward-weight-ms", 1, "--json"))
        with open(self.path("made.txt"), "w") as file:
            file.write(made["text"])
        for name in ("hand.txt", "made.txt"):
            path = self.path(name)
            plan = self.path(name + ".json")
            self.done("plan", self.model, "--schedule-file", path, "--batch", 4, "--loss", "mse", "--optimizer", "sgd", "-o", plan,
                      "--quiet")
            for more, mpi in ((["--schedule-file", path], 0), (["--schedule-file", path, "--ranks", 2], 0),
                              (["--plan", plan], 0), (["--schedule-file", path], 2), (["--plan", plan], 2)):
                with self.subTest(name, more=more, mpi=mpi):
                    weights, _ = self.train("--steps", 3, *more, mpi=mpi)
                    for tensor_name in weights:
                        self.assertEqual(weights[tensor_name].tobytes(), expected[tensor_name].tobytes())

    def test_schedules_that_do_not_fit(self):
        """One line with the file, and where it is the file's fault the rank, the action and the reason."""
        path = self.path("s.txt")

        def refused(text, code, line, *options):
            with open(path, "w") as file:
                file.write(text)
            with self.subTest(line):
                self.refused(code, line, "train", self.model, "--data", self.data, "--batch", 4, "--schedule-file", path, *options)

        good = "0F0 0F1 0BW0 0BW1\n1F0 1BW0 1F1 1BW1\n"
        refused("0F0 0F1 0BW1 0BW0\n1F0 1BW0 1F1 1BW1\n", 1,
                f"{path}: schedule file: rank 0, action 2, 0BW1: each kind runs in increasing microbatch order")
        refused("0F0 0BW0 0BW1 0F1\n1F0 1BW0 1F1 1BW1\n", 1,
                f"{path}: schedule file: rank 0, compute action 2, 0BW1: waits for ever for 0F1")
        refused("0F0 0F1\n1F0 1F1\n", 1, f"{path}: schedule file has no backward")
        refused("0F0 0Q1\n", 1, f"{path}: line 1, column 6: F, B, W, BW, SEND_F, RECV_F, SEND_B or RECV_B expected after the stage")
        refused("0F0 1F0 2F0 2BW0 1BW0 0BW0\n-\n", 1, f"{path}: schedule file has 3 stages on 2 ranks: no whole number a rank")
        refused("".join(f"{r}F0 {r}BW0\n" for r in range(4097)), 1, f"{path}: 4097 ranks are more than 4096")
        refused(good, 2, f"--ranks 3 contradicts --schedule-file {path}, which has 2", "--ranks", 3)
        refused(good, 2, f"--microbatches 4 contradicts --schedule-file {path}, which has 2", "--microbatches", 4)
        refused(good, 2, f"--chunks 2 of 2 ranks contradicts --schedule-file {path}, which has 2 stages", "--chunks", 2)
        refused(good, 2, f"--schedule gpipe and --schedule-file {path}: give one of them", "--schedule", "gpipe")
        refused(good, 2, "--batch 5 does not divide by the schedule's microbatches, 2", "--batch", 5)
        refused(good, 1, re.compile(f"^{re.escape(path)}: rank (.) .stage \\1. lacks .*; a limit of [0-9]+ would do$"), "--memory-limit", 512)
        refused(good, 2, f"--save {path} would overwrite --schedule-file, which is read", "--save", path)

    def test_plans_say_loss_and_optimizer(self):
        """What the command does not say is the plan's, also where it was made without data; what contradicts it is refused."""
        expected, _ = self.train("--steps", 3, "--microbatches", 2, "--lr", 0.1)
        plan = self.path("plan.json")
        self.done("plan", self.model, "--ranks", 2, "--batch", 4, "--microbatches", 2, "--optimizer", "sgd", "-o", plan)
        words = ["train", self.model, "--data", self.data, "--plan", plan, "--steps", 3, "--lr", 0.1]
        for mpi in (0, 2):
            printed = self.done(*words, "--save", self.path("t.onnx"), mpi=mpi)
            self.assertRegex(printed, "optimizer +sgd")
            for i in onnx.load(self.path("t.onnx")).graph.initializer:
                self.assertEqual(numpy_helper.to_array(i).tobytes(), expected[i.name].tobytes())
        other = self.path("other.json") # a loss that no targets ask for by themselves
        self.done("plan", self.model, "--ranks", 2, "--batch", 4, "--loss", "bce_with_logits", "-o", other)
        printed = self.done("train", self.model, "--data", self.data, "--plan", other, "--dry-run")
        self.assertRegex(printed, "loss +bce_with_logits of output 'y', as the plan has")
        self.refused(2, f"--optimizer adam contradicts the plan {plan}, which has sgd", *words, "--optimizer", "adam")
        self.refused(2, f"--loss cross_entropy contradicts the plan {plan}, which has mse", *words, "--loss", "cross_entropy")
        classes = self.write_arrays("c.npz", x=self.network.x, target=np.arange(SAMPLES) % OUT)
        advice = "make one that fits with `plan --data` or `plan --loss`"
        self.refused(2, f"{plan}: the plan was made with --loss mse, not cross_entropy: {advice}", "train", self.model, "--data", classes,
                     "--plan", plan)

    def test_unlike_devices(self):
        """A plan and a profile for a rank of each kind; what is measured is measured on both."""
        words = [self.model, "--data", self.data, "--batch", 4, "--microbatches", 2, "--loss", "mse", "--ranks", 2]
        self.assertRegex(self.done("plan", *words, "--device", "reference,cpu"), r"device +reference, cpu")
        printed = self.done("profile", *words, "--device", "reference,cpu")
        for kind in ("reference", "cpu"):
            self.assertRegex(printed, f"costs +measured for [1-9][0-9]* of [0-9]+ kinds of nodes on {kind}[;,]")
        printed = self.done("profile", *words, "--device", "cpu")
        self.assertEqual(printed.count("costs "), 1)

    def test_rates(self):
        """Each schedule with and without a warm-up, in what is printed and in what the weights become."""
        steps, rate = 6, 0.04

        def schedule(name, warmup):
            for k in range(steps):
                done = (k - warmup) / (steps - warmup)
                yield rate * ((k + 1) / warmup if k < warmup else
                              {"constant": 1, "linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}[name])

        for name in ("constant", "linear", "cosine"):
            for warmup in (0, 2, 6):
                with self.subTest(name, warmup=warmup):
                    rates = list(schedule(name, warmup)) if warmup < steps else [rate * (k + 1) / warmup for k in range(steps)]
                    weights, metrics = self.train("--steps", steps, "--lr", rate, "--lr-schedule", name, "--warmup-steps", warmup,
                                                  "--ranks", 2)
                    np.testing.assert_allclose([m["lr"] for m in metrics], rates, rtol=1e-12)
                    self.assert_weights(weights, self.network.sgd(rates, 4)[0])
        self.refused(2, "--lr-schedule: 'step' is none of constant, linear, cosine", "train", self.model, "--data", self.data,
                     "--lr-schedule", "step")

    def test_dry_run_leaves_files_alone(self):
        for name in ("m.jsonl", "t.onnx"):
            with open(self.path(name), "w") as file:
                file.write("as it was")
        self.done("train", self.model, "--data", self.data, "--dry-run", "--metrics", self.path("m.jsonl"), "--save",
                  self.path("t.onnx"))
        for name in ("m.jsonl", "t.onnx"):
            with open(self.path(name)) as file:
                self.assertEqual(file.read(), "as it was")

    def test_several_outputs(self):
        """One along the first axis, one along the last, one along none; the rest is uneven."""
        nodes = [helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("Transpose", ["y"], ["z"]),
                 helper.make_node("Add", ["y", "b"], ["sum"]), helper.make_node("Mul", ["b", "b"], ["square"])]
        w = self.network.weights
        graph = helper.make_graph(
            nodes, "outputs", [tensor("x", "N", IN)],
            [tensor("sum", "N", HIDDEN), tensor("z", HIDDEN, "N"), tensor("square", HIDDEN)],
            [numpy_helper.from_array(w[n], n) for n in "ab"])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), self.path("o.onnx"))
        data = self.write_arrays("i.npz", x=self.network.x)
        y = self.network.x @ w["a"]
        for batch in (1, 5, 12, 32):
            with self.subTest(batch=batch):
                self.done("run", self.path("o.onnx"), "--data", data, "--out", self.path("o.npz"), "--batch", batch)
                out = np.load(self.path("o.npz"))
                self.assertEqual(set(out), {"sum", "z", "square"})
                np.testing.assert_allclose(out["sum"], y + w["b"], rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(out["z"], y.T, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(out["square"], w["b"] ** 2, rtol=1e-6)


if __name__ == "__main__":
    unittest.main()
