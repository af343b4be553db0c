"""train --epochs --last-batch exact: what makes no whole batch is a smaller one, with a loss and a gradient of its own."""
import re

import numpy as np
import onnx
from common import HAS_MPI, CommandLineTest, main, model_path, read_metrics
from onnx import TensorProto, helper, numpy_helper
from test_by_hand import IN, OUT, SAMPLES, Network

BATCH, STEPS = 5, 3  # of an epoch: 5, 5 and 2 samples
EXACT = ["--last-batch", "exact"]


def read_weights(path):
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


class ByHand(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.network = Network()
        self.model = self.network.save(self.path("m.onnx"))
        self.data = self.write_arrays("d.npz", x=self.network.x, target=self.network.target)
        self.base = ["train", self.model, "--data", self.data, "--loss", "mse", "--optimizer", "sgd", "--batch", BATCH, "--quiet",
                     "--metrics", self.path("m.jsonl"), "--save", self.path("t.onnx"), *EXACT]

    def train(self, *options, mpi=0):
        self.done(*self.base, *options, mpi=mpi)
        return read_weights(self.path("t.onnx")), read_metrics(self.path("m.jsonl"))

    def assert_same(self, a, b):
        for key in ("step", "loss", "lr", "gradient_norm"):
            self.assertEqual([m[key] for m in a[1]], [m[key] for m in b[1]], key)
        for name in a[0]:
            self.assertEqual(a[0][name].tobytes(), b[0][name].tobytes(), name)

    def by_hand(self, rates):
        w, losses, norms = {n: v.astype(np.float64) for n, v in self.network.weights.items()}, [], []
        for k, rate in enumerate(rates):
            take = slice(k % STEPS * BATCH, min(SAMPLES, k % STEPS * BATCH + BATCH))
            x, target = self.network.x[take].astype(np.float64), self.network.target[take].astype(np.float64)
            y = np.maximum(x @ w["a"] + w["b"], 0) @ w["c"]
            losses.append(np.mean((y - target) ** 2))
            g = self.network.gradients(w, x, target)
            norms.append(np.sqrt(sum((v ** 2).sum() for v in g.values())))
            w = {n: v - rate * g[n] for n, v in w.items()}
        return w, losses, norms

    def test_steps_are_those_of_numpy(self):
        """Two epochs are six steps, also for the schedule of the rate; the same bits on any ranks."""
        rate = 0.05
        expected, losses, norms = self.by_hand([rate * (1 - k / 6) for k in range(6)])
        options = ["--epochs", 2, "--lr", rate, "--lr-schedule", "linear"]
        weights, metrics = one = self.train(*options)
        self.assertEqual([m["step"] for m in metrics], list(range(1, 7)))
        np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-6)
        np.testing.assert_allclose([m["gradient_norm"] for m in metrics], norms, rtol=1e-6)
        for m, samples in zip(metrics, [5, 5, 2] * 2):  # both are rounded
            self.assertAlmostEqual(m["samples_per_second"] * m["seconds"], samples, delta=0.4)
        for name, w in weights.items():
            np.testing.assert_allclose(w, expected[name], rtol=2e-6, atol=2e-6, err_msg=name)
        cut = self.train(*options, "--microbatches", 5)  # the rest's are two
        np.testing.assert_allclose([m["loss"] for m in cut[1]], losses, rtol=1e-6)
        for more, mpi in ((["--ranks", 2, "--schedule", "gpipe"], 0), (["--ranks", 3, "--schedule", "zb-h1"], 0),
                          (["--ranks", 2, "--threads", 2], 0), ([], 2)):
            if mpi and not HAS_MPI:
                continue
            with self.subTest(more=more, mpi=mpi):
                self.assert_same(cut, self.train(*options, "--microbatches", 5, *more, mpi=mpi))

    def test_no_rest_is_no_change(self):
        plain = self.train("--epochs", 2, "--batch", 4)
        self.assert_same(plain, self.train("--epochs", 2, "--batch", 4, "--last-batch", "drop"))

    def test_one_epoch_where_nobody_says(self):
        self.assertEqual(len(self.train()[1]), STEPS)
        self.assertEqual(len(self.train("--last-batch", "drop")[1]), STEPS - 1)

    def test_a_run_goes_on(self):
        """From a checkpoint after any step: before, at and behind an epoch's rest; the epochs may be more."""
        options = ["--epochs", 3, "--shuffle", "--seed", 4, "--optimizer", "adamw", "--microbatches", 5, "--lr", 0.02]
        straight = self.train(*options, "--checkpoint", self.path("c"), "--every", 1, "--keep", 20)
        for step in range(1, 3 * STEPS):
            with self.subTest(step=step):
                self.done("train", self.model, "--resume", self.path(f"c/step-{step:09}"), "--quiet", "--save", self.path("t.onnx"),
                          "--metrics", self.path("m.jsonl"), "--ranks", 1 + step % 3)
                resumed = read_weights(self.path("t.onnx")), read_metrics(self.path("m.jsonl"))
                self.assert_same(straight, resumed)
        self.train(*options, "--epochs", 2, "--checkpoint", self.path("two"))
        self.done("train", self.model, "--resume", self.path("two"), "--quiet", "--epochs", 3, "--save", self.path("t.onnx"),
                  "--metrics", self.path("m.jsonl"), "--ranks", 2)
        self.assert_same(straight, (read_weights(self.path("t.onnx")), read_metrics(self.path("m.jsonl"))))
        self.refused(2, re.compile("--last-batch drop contradicts .*, whose run has exact"), "train", self.model, "--resume",
                     self.path("two"), "--last-batch", "drop", "--quiet")
        self.refused(2, "--steps 9 and --last-batch exact: the data wraps, no epoch has a last batch (--epochs)", "train", self.model,
                     "--resume", self.path("two"), "--steps", 9, "--quiet")

    def test_what_comes_every_epoch(self):
        self.train("--epochs", 2, "--checkpoint", self.path("c"), "--keep", 9)
        self.done("export", self.path("c/step-000000003"), "-o", self.path("x.npz"))
        lines = self.train("--epochs", 2, "--validate", self.data, "--checkpoint", self.path("d"))[1]
        self.assertEqual(["validation_loss" in line for line in lines], [False, False, True] * 2)

    def test_memory_is_planned(self):
        base = [*self.base, "--microbatches", 5, "--ranks", 2, "--recompute", "none",
                "--no-measure"]  # plans by the costs that `plan` has
        plan = ["plan", self.model, "--data", self.data, "--loss", "mse", "--optimizer", "sgd", "--batch", BATCH, "--microbatches", 5,
                "--ranks", 2, "--recompute", "none", *EXACT]
        self.assertRegex(self.done(*plan), r"last batch +the last 2 samples of each epoch, in 2 microbatches of 1 \(--last-batch\); "
                                           r"it takes .* a rank at most beside a whole one")
        said = self.refused(1, re.compile("would do"), *base, "--memory-limit", 64)
        least = int(re.search(r"a limit of (\d+) would do", said)[1])
        for command in (base, plan):
            said = self.refused(1, re.compile("^the last 2 samples of each epoch: rank . .* needs .* for them beside training's .*, "
                                              "the limit is "), *command, "--memory-limit", least)
        enough = least
        while "would do" in (said := self.run_command(*base, "--memory-limit", enough).stderr):  # one rank after the other
            self.assertGreater(int(re.search(r"a limit of (\d+) would do", said)[1]), enough)
            enough = int(re.search(r"a limit of (\d+) would do", said)[1])
        self.done(*plan, "--memory-limit", enough)
        self.refused(1, re.compile("would do"), *plan, "--memory-limit", enough - 1)
        self.refused(1, re.compile("for validation beside training's"), *base, "--memory-limit", enough, "--validate", self.data)

    def test_refusals(self):
        self.refused(2, "--steps 3 and --last-batch exact: the data wraps, no epoch has a last batch (--epochs)", *self.base, "--steps", 3)
        self.refused(2, "--last-batch exact does nothing without --data or --tokens", "plan", self.model, *EXACT)
        model = onnx.load(self.model)
        for value, axes in ((model.graph.input[0], IN), (model.graph.output[0], OUT)):
            value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [4, axes]))
        onnx.save(model, self.path("fixed.onnx"))
        base = ["train", self.path("fixed.onnx"), "--data", self.data, "--batch", 8, *EXACT]
        self.done(*base, "--quiet")  # 8 and 4
        data = self.write_arrays("odd.npz", x=self.network.x[:11], target=self.network.target[:11])
        self.refused(2, f"the last 3 samples of each epoch: they are no multiple of 4, the batch that {self.path('fixed.onnx')} was "
                        "exported with: --last-batch drop", *base, "--data", data, "--quiet")


class AsItsOwnBatch(CommandLineTest):
    def test_it_is_what_a_run_on_it_would_be(self):
        """Bit for bit, next to a run that begins with the weights of whole batches and has nothing but the rest."""
        for model, samples, batch, microbatches, own in (("nanogpt", 14, 8, 4, 3), ("nanogpt_loss", 13, 8, 4, 1),
                                                         ("resnet", 11, 8, 1, 1), ("dlrm", 21, 16, 8, 5)):
            with self.subTest(model=model), np.load(model_path(model, "data.npz")) as file:
                whole = samples // batch * batch
                np.savez(self.path("all.npz"), **{name: file[name][:samples] for name in file.files})
                np.savez(self.path("whole.npz"), **{name: file[name][:whole] for name in file.files})
                np.savez(self.path("rest.npz"), **{name: file[name][whole:samples] for name in file.files})
                words = ["--optimizer", "sgd", "--lr", 0.05, "--quiet", "--metrics", self.path("m.jsonl")]
                self.done("train", model_path(model), "--data", self.path("whole.npz"), "--batch", batch, "--microbatches", microbatches,
                          *words, "--save", self.path("w.onnx"))
                self.done("train", self.path("w.onnx"), "--data", self.path("rest.npz"), "--batch", samples - whole, "--microbatches",
                          own, *words, "--save", self.path("expected.onnx"))
                expected = read_metrics(self.path("m.jsonl"))[-1]
                self.done("train", model_path(model), "--data", self.path("all.npz"), "--batch", batch, "--microbatches", microbatches,
                          *words, *EXACT, "--ranks", 2, "--save", self.path("t.onnx"))
                line = read_metrics(self.path("m.jsonl"))[-1]
                self.assertEqual((line["loss"], line["gradient_norm"]), (expected["loss"], expected["gradient_norm"]))
                expected, weights = read_weights(self.path("expected.onnx")), read_weights(self.path("t.onnx"))
                for name, weight in expected.items():
                    self.assertEqual(weights[name].tobytes(), weight.tobytes(), name)


if __name__ == "__main__":
    main()
