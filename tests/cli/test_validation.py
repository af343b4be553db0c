"""Validation during training: the model as it evaluates, with the weights of the step, cut as training is."""
import json
import re

import numpy as np
import onnx
import common
from common import CommandLineTest, model_path, read_metrics
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 13  # no multiple of any microbatch


def cross_entropy(x, t, ignored=-100):
    """Class axis last: the mean loss, and predictions and targets that count."""
    x, t = x.reshape(-1, x.shape[-1]).astype(np.float64), t.flatten()
    x, t = x[t != ignored], t[t != ignored]
    most = x.max(1, keepdims=True)
    losses = np.log(np.exp(x - most).sum(1)) + most[:, 0] - x[np.arange(len(t)), t]
    return losses.mean(), x, t


def f1(predicted, actual, classes):
    scores = []
    for c in classes:
        both = (predicted == c).sum() + (actual == c).sum()
        if both:
            scores.append(2 * ((predicted == c) & (actual == c)).sum() / both)
    return np.mean(scores)


def auc(score, actual):
    positive, negative = score[actual], score[~actual]
    return np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))


class Validation(CommandLineTest):
    def train(self, model, data, *options, mpi=0, tag="run"):
        """What metrics.jsonl holds, and what is printed."""
        out = self.done("train", model, "--data", data, "--metrics", self.path(tag + ".jsonl"), "--save",
                        self.path(tag + ".onnx"), *options, mpi=mpi)
        return read_metrics(self.path(tag + ".jsonl")), out

    def output(self, model, arrays, name):
        np.savez(self.path("inputs.npz"), **{k: v for k, v in arrays.items() if k != "target"})
        self.done("run", model, "--data", self.path("inputs.npz"), "--out", self.path("y.npz"))
        with np.load(self.path("y.npz")) as file:
            return file[name or file.files[0]]

    def samples(self, data, **changes):
        with np.load(data) as file:
            arrays = {name: file[name][:SAMPLES] for name in file.files}
        arrays.update(changes)
        np.savez(self.path("v.npz"), **arrays)
        return arrays

    def without(self, lines):
        return [{k: v for k, v in line.items() if not k.startswith("validation_") and "second" not in k}
                for line in lines]

    def validation(self, lines):
        return [{k: v for k, v in line.items() if k.startswith("validation_")} for line in lines]

    def same_everywhere(self, model, data, options, ways, mpi):
        """The lines alone; the same bits in all ways, and training's as without validation."""
        plain = self.train(model, data, *options)[0]
        options = [*options, "--validate", self.path("v.npz"), "--every", 2]
        lines, out = self.train(model, data, *options, tag="alone")
        self.assertEqual(self.without(lines), self.without(plain))
        self.assertEqual([bool(line) for line in self.validation(lines)],
                         [(i + 1) % 2 == 0 or i + 1 == len(lines) for i in range(len(lines))])
        for way in ways:
            cut = self.train(model, data, *options, *way)[0]
            self.assertEqual(self.validation(cut), self.validation(lines), way)
            self.assertEqual(self.without(cut), self.without(plain), way)
        if mpi and common.HAS_MPI:
            cut = self.train(model, data, *options, mpi=mpi)[0]
            self.assertEqual(self.validation(cut), self.validation(lines), "mpi")
            self.assertEqual(self.without(cut), self.without(plain), "mpi")
        return lines, out

    def test_squares(self):
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        arrays = self.samples(data)
        options = ["--loss", "mse", "--batch", 8, "--microbatches", 2, "--steps", 3]
        lines, out = self.same_everywhere(
            model, data, options, [["--ranks", 2], ["--ranks", 4, "--schedule", "1f1b"],
                                   ["--ranks", 2, "--chunks", 2, "--schedule", "interleaved-1f1b"],
                                   ["--ranks", 2, "--schedule", "zb-v"], ["--threads", 2]], 2)
        self.assertRegex(out, "validation after step 3: loss .* relative-l2")
        y = self.output(self.path("alone.onnx"), arrays, None).astype(np.float64)
        error = y - arrays["target"]
        last = lines[-1]
        np.testing.assert_allclose(last["validation_loss"], np.mean(error**2), rtol=1e-6)
        norms = np.sqrt((arrays["target"].astype(np.float64)**2).sum(1))
        np.testing.assert_allclose(last["validation_relative_l2"], np.mean(np.sqrt((error**2).sum(1)) / norms), rtol=1e-6)

    def test_classes_of_which_some_are_ignored(self):
        model, data = model_path("nanogpt"), model_path("nanogpt", "data.npz")
        with np.load(data) as file:
            target = file["target"][:SAMPLES].copy()
        target[:4, 3:] = -100
        target[SAMPLES - 1] = -100
        arrays = self.samples(data, target=target)
        lines, _ = self.same_everywhere(model, data, ["--batch", 8, "--microbatches", 4, "--steps", 3, "--lr", 0.01],
                                        [["--ranks", 2], ["--ranks", 4, "--schedule", "zb-h1"]], 2)
        loss, x, t = cross_entropy(self.output(self.path("alone.onnx"), arrays, None), target)
        last, order = lines[-1], np.argsort(-x, axis=1, kind="stable")
        np.testing.assert_allclose(last["validation_loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(last["validation_perplexity"], np.exp(loss), rtol=1e-5)
        self.assertEqual(last["validation_accuracy"], np.mean(order[:, 0] == t))
        self.assertEqual(last["validation_top5"], np.mean((order[:, :5] == t[:, None]).any(1)))
        np.testing.assert_allclose(last["validation_f1"], f1(order[:, 0], t, range(x.shape[1])), rtol=1e-12)

    def test_the_models_own_loss(self):
        """Of all samples as one batch, whatever the microbatches."""
        model, data = model_path("nanogpt_loss"), model_path("nanogpt_loss", "data.npz")
        with np.load(data) as file:
            np.savez(self.path("v.npz"), **{name: file[name][:12] for name in file.files})
        options = ["--loss", "model", "--optimizer", "sgd", "--lr", 0, "--steps", 1, "--validate", self.path("v.npz")]
        whole = self.train(model, self.path("v.npz"), "--batch", 12, "--microbatches", 3, *options)[0][0]
        np.testing.assert_allclose(whole["validation_loss"], whole["loss"], rtol=1e-6)
        cut = self.train(model, self.path("v.npz"), "--batch", 12, "--microbatches", 3, *options, "--ranks", 2)[0][0]
        self.assertEqual(cut["validation_loss"], whole["validation_loss"])

    def small(self, nodes, initializers, output, name="m.onnx"):
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4])],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *output])],
                                  [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in initializers.items()])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path(name))
        return self.path(name)

    def test_statistics_and_dropout_are_at_rest(self):
        random = np.random.default_rng(3)
        model = self.small(
            [helper.make_node("Mul", ["x", "a.w"], ["m"], "first"), helper.make_node("Tanh", ["m"], ["z"], "tanh"),
             helper.make_node("BatchNormalization", ["z", "scale", "bias", "mean", "var"], ["b"], "norm"),
             helper.make_node("Dropout", ["b", "ratio"], ["d"], "drop"),
             helper.make_node("Mul", ["d", "c.w"], ["y"], "last")],
            {"a.w": random.normal(size=(3, 1)), "scale": [1.25, 0.5, 2], "bias": [0.1, -0.2, 0], "mean": [0.2, -0.1, 0],
             "var": [1.5, 0.8, 1], "ratio": 0.25, "c.w": random.normal(size=(3, 1))}, [3, 4])
        train = {"x": random.normal(size=(24, 3, 4)), "target": random.normal(size=(24, 3, 4))}
        np.savez(self.path("train.npz"), **{k: v.astype(np.float32) for k, v in train.items()})
        arrays = self.samples(self.path("train.npz"))
        lines, _ = self.same_everywhere(model, self.path("train.npz"),
                                        ["--batch", 8, "--microbatches", 2, "--steps", 5, "--lr", 0.1],
                                        [["--ranks", 2], ["--ranks", 3], ["--ranks", 4]], 2)
        y = self.output(self.path("alone.onnx"), arrays, "y")
        np.testing.assert_allclose(lines[-1]["validation_loss"], np.mean((y.astype(np.float64) - arrays["target"])**2),
                                   rtol=1e-6)

    def test_logits_and_two_classes(self):
        """F1, Dice and AUC, of elements and of classes that stand on axis 1."""
        random = np.random.default_rng(4)
        x = random.normal(size=(SAMPLES, 3, 4)).astype(np.float32)
        x[3:6] = x[0]  # scores that are equal
        truth = random.random((SAMPLES, 3, 4)) < 0.4
        model = self.small([helper.make_node("Mul", ["x", "a.w"], ["y"], "first")], {"a.w": [[1], [-0.5], [2]]}, [3, 4])
        np.savez(self.path("v.npz"), x=x, target=truth.astype(np.float32))
        options = ["--batch", 4, "--microbatches", 2, "--steps", 2, "--validate", self.path("v.npz")]
        asked = [word for name in ["f1", "dice", "auc", "accuracy"] for word in ["--metric", name]]
        last = self.train(model, self.path("v.npz"), "--loss", "bce_with_logits", *options, *asked)[0][-1]
        y = self.output(self.path("run.onnx"), {"x": x}, "y").astype(np.float64)
        np.testing.assert_allclose(last["validation_loss"], np.mean(np.logaddexp(0, y) - y * truth), rtol=1e-6)
        for name in ["f1", "dice"]:
            self.assertAlmostEqual(last["validation_" + name], f1((y > 0).flatten(), truth.flatten(), [True]), 12)
        self.assertAlmostEqual(last["validation_auc"], auc(y.flatten(), truth.flatten()), 12)
        self.assertEqual(last["validation_accuracy"], np.mean((y > 0) == truth))
        two = self.small([helper.make_node("MatMul", ["a.w", "x"], ["y"], "first")],
                         {"a.w": random.normal(size=(2, 3))}, [2, 4], "two.onnx")
        target = random.integers(0, 2, (SAMPLES, 4))
        np.savez(self.path("v.npz"), x=x, target=target)
        last = self.train(two, self.path("v.npz"), *options, *asked)[0][-1]
        y = self.output(self.path("run.onnx"), {"x": x}, "y")
        loss, z, t = cross_entropy(y.transpose(0, 2, 1), target)
        np.testing.assert_allclose(last["validation_loss"], loss, rtol=1e-6)
        self.assertAlmostEqual(last["validation_f1"], f1(z.argmax(1), t, [0, 1]), 12)
        self.assertAlmostEqual(last["validation_dice"], f1(z.argmax(1), t, [1]), 12)
        scores = y[:, 1].astype(np.float64) - y[:, 0]
        self.assertAlmostEqual(last["validation_auc"], auc(scores.flatten(), target.flatten() == 1), 12)

    def test_stops_early(self):
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        self.samples(data)
        options = ["--batch", 8, "--steps", 20, "--every", 1, "--validate", self.path("v.npz"), "--patience", 3]
        still = self.train(model, data, "--optimizer", "sgd", "--lr", 0, *options)[0]
        self.assertEqual(len(still), 4)
        self.assertEqual(len({line["validation_loss"] for line in still}), 1)
        lines, out = self.train(model, data, *options, "--min-delta", 1e9, "--ranks", 2)
        self.assertEqual(len(lines), 4)
        self.assertIn("stops after step 4", out)
        losses = [line["validation_loss"] for line in self.train(model, data, *options, "--ranks", 2)[0]]
        best = np.argmin(losses)
        self.assertTrue(len(losses) == 20 or len(losses) == best + 4)

    def test_epochs_decide_when(self):
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        self.samples(data)
        lines, _ = self.train(model, data, "--batch", 80, "--epochs", 3, "--validate", self.path("v.npz"))
        self.assertEqual([bool(line) for line in self.validation(lines)], [False, True] * 3)

    def test_the_last_samples(self):
        """--validation-split validates on what it takes from training."""
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        with np.load(data) as file:
            count = len(file["target"])
            np.savez(self.path("first.npz"), **{name: file[name][:-count // 10] for name in file.files})
            np.savez(self.path("v.npz"), **{name: file[name][-(count // 10):] for name in file.files})
        options = ["--batch", 8, "--steps", 2]
        split = self.train(model, data, *options, "--validation-split", 0.1, "--ranks", 2)[0]
        two = self.train(model, self.path("first.npz"), *options, "--validate", self.path("v.npz"))[0]
        self.assertEqual(self.validation(split), self.validation(two))
        self.assertIn("validation_loss", split[-1])
        self.refused(2, re.compile("--validate .* and --validation-split 0.1: give one of them"), "train", model,
                     "--data", data, *options, "--validation-split", 0.1, "--validate", self.path("v.npz"))

    def test_refusals(self):
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        self.samples(data)
        base = ["train", model, "--data", data, "--batch", 8, "--steps", 2]
        v = ["--validate", self.path("v.npz")]
        self.refused(2, "--patience does nothing without --validate FILE or --validation-split", *base, "--patience", 3)
        self.refused(2, re.compile("--metric: there is no 'top'"), *base, *v, "--metric", "top")
        self.refused(2, re.compile("--metric top5 is not for a loss of mse"), *base, *v, "--metric", "top5")
        self.refused(1, re.compile("nowhere.npz"), *base, "--validate", self.path("nowhere.npz"))
        np.savez(self.path("v.npz"), input_0=np.zeros((5, 3), np.float32))
        self.refused(1, re.compile("v.npz: no array 'target'"), *base, *v)
        np.savez(self.path("v.npz"), input_0=np.zeros((5, 3), np.float32), target=np.zeros((5, 7), np.float32))
        self.refused(1, re.compile(r"array 'target' is \[.*,7\] a microbatch"), *base, *v)
        self.refused(2, re.compile("--metrics .* would overwrite .*, which is read"), *base, *v, "--metrics",
                     self.path("v.npz"))

    def test_memory_is_planned(self):
        model, data = model_path("surrogate"), model_path("surrogate", "data.npz")
        self.samples(data)
        base = ["train", model, "--data", data, "--batch", 8, "--microbatches", 1, "--recompute", "none", "--steps", 1]
        least = self.training_bytes(base)
        said = self.refused(1, re.compile("for validation beside training's"), *base, "--validate", self.path("v.npz"),
                            "--memory-limit", least)
        enough = int(re.search(r"a limit of (\d+) would do", said)[1])
        self.done(*base, "--validate", self.path("v.npz"), "--memory-limit", enough)
        self.refused(1, re.compile("for validation beside"), *base, "--validate", self.path("v.npz"), "--memory-limit",
                     enough - 1)
        plan = ["plan", *base[1:-2], "--memory-limit"]  # without --steps
        self.assertRegex(self.done(*plan, enough, "--validate", self.path("v.npz")),
                         r"\nvalidation +.*v.npz: \d+ samples: loss, .*; it takes .* a rank at most beside training\n")
        for split in (["--validate", self.path("v.npz")], ["--validation-split", 0.1]):
            self.refused(1, re.compile("for validation beside"), *plan, least, *split)
        self.refused(2, "--validate does nothing without --data or --tokens", "plan", model, "--validate", self.path("v.npz"))

    def test_microbatches_that_leave_room(self):
        """The number is chosen so that what lies beside training fits, too: validation's graph, an epoch's rest."""
        model, data = model_path("nanogpt"), model_path("nanogpt", "data.npz")
        for batch, beside, what in ((8, ["--validate", data], "validation"), (24, ["--epochs", 1, "--last-batch", "exact"], "the last")):
            base = ["train", model, "--data", data, "--batch", batch, "--recompute", "none", "--dry-run"]
            self.done("plan", *base[1:-1], "--microbatches", 1, "--ranks", 1, "--quiet", "-o", self.path("plan.json"))
            with open(self.path("plan.json")) as file:
                limit = ["--memory-limit", json.load(file)["memory"][0]["total_bytes"]]
            self.refused(1, re.compile(f"^{what} .*a limit of [0-9]+ would do"), *base, *limit, *beside, "--microbatches", 1)
            self.assertIn(f"{batch} samples a step: 1 microbatch of", " ".join(self.done(*base, *limit).split()))
            said = " ".join(self.done(*base, *limit, *beside).split())
            self.assertRegex(said, f"{batch} samples a step: [2-9][0-9]* microbatches of")
            self.assertRegex(said, f"note with other numbers of microbatches this would not fit: {what} ")
            plan = ["plan", *base[1:-1], *limit, *beside[:2 if what == "validation" else 0]]
            self.assertRegex(" ".join(self.done(*plan).split()), f"{batch} samples a step: ")

    def training_bytes(self, base):
        said = self.refused(1, re.compile("would do"), *base, "--memory-limit", "1K")
        return int(re.search(r"a limit of (\d+) would do", said)[1])


if __name__ == "__main__":
    common.main()
