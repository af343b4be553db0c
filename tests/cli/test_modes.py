"""What computes otherwise in training: batch normalisation by a microbatch's statistics, Dropout, what is drawn."""
import re

import numpy as np
import onnx
import common
from common import CommandLineTest, read_metrics
from onnx import TensorProto, helper, numpy_helper

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
X = [[[-0.66, -1.29, 0.0], [0.8, 1.66, 0.43]], [[-0.36, -0.64, 1.2], [2.26, 0.63, -1.18]],
     [[-0.85, 2.22, 0.54], [-1.78, 0.2, -1.1]], [[-0.46, -0.29, -0.56], [0.96, 0.22, -0.41]],
     [[0.79, 1.3, -1.67], [-0.01, -0.88, 0.09]], [[-1.25, 0.32, 0.25], [-0.07, -0.96, -0.18]]]
TARGET = [[[-1.09, -1.36, 0.22], [-1.11, 1.17, 0.72]], [[-2.0, 0.27, -1.1], [0.03, 0.04, -1.99]],
          [[-0.23, -0.26, 0.96], [-1.18, 0.74, -1.1]], [[-0.33, -0.84, 1.45], [0.57, 2.43, 0.64]],
          [[0.84, 0.84, -0.61], [-0.07, 1.35, -0.4]], [[0.19, -0.02, 0.61], [-0.36, -0.15, 0.24]]]
# torch 2.15, float64: batch_norm(tanh(x w), mean, var, scale, bias, training, momentum 0.1, eps 1e-5), mse_loss, backward
TRAINING = {"loss": 1.73310574934, "w": [-0.0409869725672, 0.0106210101738], "scale": [0.963195617775, 0.892435306077],
            "bias": [0.236666666667, -0.287222222222], "mean": [0.167582195773, -0.0906814722251],
            "var": [1.40823784162, 0.750282759792],
            "y": [-0.9671988459, -1.3072771458, 0.309295567143, -0.695729475517, -0.985393387629, -0.485106082783]}
EVALUATION = {"loss": 1.18336092586, "w": [0.058880452554, -0.145067273329], "scale": [0.309623044715, 0.38891027317],
              "bias": [-0.0941950593688, -0.235130393908], "mean": [0.2, -0.1], "var": [1.5, 0.8],
              "y": [-0.877100573543, -1.08303390024, -0.104123464822, -0.444316608362, -0.617513546593, -0.318379875424]}


def initializer(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


class Modes(CommandLineTest):
    def save(self, nodes, initializers, shape, output, opset=17, name="m.onnx"):
        """A model of x [N, …] and y [N, …]."""
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["N", *shape])],
                                  [helper.make_tensor_value_info("y", FLOAT, ["N", *output])], initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(model, self.path(name))
        return self.path(name)

    def data(self, **arrays):
        np.savez(self.path("data.npz"), **{name: np.asarray(a, np.float32) for name, a in arrays.items()})
        return self.path("data.npz")

    def batch_norm(self, **attributes):
        outputs = ["y", "mean_out", "var_out"] if attributes.get("training_mode") else ["y"]
        return self.save([helper.make_node("Mul", ["x", "a.w"], ["m"]), helper.make_node("Tanh", ["m"], ["z"]),
                          helper.make_node("BatchNormalization", ["z", "scale", "bias", "mean", "var"], outputs,
                                           "norm", **attributes)],
                         [initializer("a.w", [[1.5], [-0.75]]), initializer("scale", [1.25, 0.5]),
                          initializer("bias", [0.1, -0.2]), initializer("mean", [0.2, -0.1]),
                          initializer("var", [1.5, 0.8])], [2, 3], [2, 3])

    def step(self, model, *options, mpi=0, tag="s"):
        """One step without learning: what is printed, its loss, its gradients, what is saved."""
        out = self.done("train", model, "--data", self.path("data.npz"), "--steps", 1, "--lr", 0, "--optimizer", "sgd",
                        "--loss", "mse", "--metrics", self.path(tag + ".jsonl"), "--save", self.path(tag + ".onnx"),
                        "--dump-gradients", self.path(tag + ".npz"), *options, mpi=mpi)
        saved = {i.name: numpy_helper.to_array(i) for i in onnx.load(self.path(tag + ".onnx")).graph.initializer}
        return out, read_metrics(self.path(tag + ".jsonl"))[0]["loss"], dict(np.load(self.path(tag + ".npz"))), saved

    def check(self, expected, loss, gradients, saved):
        np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6)
        for name, key in [("a.w", "w"), ("scale", "scale"), ("bias", "bias")]:
            np.testing.assert_allclose(gradients[name].flatten(), expected[key], rtol=2e-5, atol=1e-6, err_msg=name)
        for name in ["mean", "var"]:
            np.testing.assert_allclose(saved[name], expected[name], rtol=1e-6)

    def test_batch_normalization_is_pytorchs(self):
        """In both modes, however the file was exported, on both host backends."""
        self.data(x=X, target=TARGET)
        for training_mode in [0, 1]:
            model = self.batch_norm(training_mode=training_mode)
            for device in ["cpu", "reference"]:
                with self.subTest(training_mode=training_mode, device=device):
                    out, *step = self.step(model, "--batch", 6, "--device", device)
                    self.check(TRAINING, *step)
                    self.assertRegex(out, "mode +training: 1 node of batch normalisation")
                    out, *step = self.step(model, "--batch", 6, "--device", device, "--eval-mode")
                    self.check(EVALUATION, *step)

    def test_run_evaluates(self):
        """By the file's statistics, whatever it says; --train-mode by those of all samples, as one microbatch."""
        self.data(x=X)
        for training_mode in [0, 1]:
            model = self.batch_norm(training_mode=training_mode)
            for options, expected in [([], EVALUATION), (["--train-mode"], TRAINING)]:
                self.done("run", model, "--data", self.path("data.npz"), "--out", self.path("y.npz"), *options)
                y = np.load(self.path("y.npz"))["y"]
                np.testing.assert_allclose(y[0].flatten(), expected["y"], rtol=1e-5, atol=1e-6)

    def test_one_microbatch_unless_asked(self):
        self.data(x=X, target=TARGET)
        model = self.batch_norm()
        out = self.step(model, "--batch", 6, "--ranks", 2)[0]
        self.assertRegex(out, "1 microbatch of 6")
        self.assertRegex(" ".join(out.split()), r"one microbatch: batch normalisation \(1 node\)")
        out, loss, gradients, saved = self.step(model, "--batch", 6, "--microbatches", 2, tag="alone")
        self.assertRegex(" ".join(out.split()), "by the statistics of 3 samples, a microbatch's")
        z = np.tanh(np.asarray(X) * [[1.5], [-0.75]])
        mean, var = np.array([0.2, -0.1]), np.array([1.5, 0.8])
        for part in [z[:3], z[3:]]:
            mean = 0.9 * mean + 0.1 * part.mean((0, 2))
            var = 0.9 * var + 0.1 * part.transpose(1, 0, 2).reshape(2, -1).var(1, ddof=1)
        np.testing.assert_allclose(saved["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(saved["var"], var, rtol=1e-5)
        for options in [["--ranks", 2, "--schedule", "gpipe"], ["--ranks", 3, "--schedule", "1f1b"], ["--threads", 2]]:
            self.step(model, "--batch", 6, "--microbatches", 2, *options, tag="cut")
            with open(self.path("alone.onnx"), "rb") as alone, open(self.path("cut.onnx"), "rb") as cut:
                self.assertEqual(alone.read(), cut.read(), options)
        self.step(model, "--batch", 6, "--microbatches", 2, mpi=2, tag="mpi")
        with open(self.path("alone.onnx"), "rb") as alone, open(self.path("mpi.onnx"), "rb") as cut:
            self.assertEqual(alone.read(), cut.read())

    def dropout_model(self, opset=17, training=False, name="m.onnx"):
        """Two Dropouts, one where samples are merged with another axis."""
        ratio = [] if opset < 12 else ["ratio"]
        first = helper.make_node("Dropout", ["h", *ratio, *(["yes"] if training else [])], ["d"], "first",
                                 **({"ratio": 0.25} if opset < 12 else {}))
        second = helper.make_node("Dropout", ["r", *ratio], ["e"], "second", **({"ratio": 0.25} if opset < 12 else {}))
        shape = lambda name, values: initializer(name, values, np.int64)
        inits = [initializer("a.w", np.random.default_rng(1).normal(size=(4, 6))),
                 initializer("b.w", np.random.default_rng(2).normal(size=(2, 2))), shape("flat", [-1, 2]),
                 shape("back", [-1, 6])]
        if opset >= 12:
            inits += [initializer("ratio", 0.25), initializer("yes", True, bool)]
        return self.save([helper.make_node("MatMul", ["x", "a.w"], ["h"]), first,
                          helper.make_node("Reshape", ["d", "flat"], ["r0"]),
                          helper.make_node("MatMul", ["r0", "b.w"], ["r"]), second,
                          helper.make_node("Reshape", ["e", "back"], ["y"])], inits, [4], [6], opset, name)

    def test_dropout_is_the_same_however_it_is_cut(self):
        rng = np.random.default_rng(7)
        self.data(x=rng.normal(size=(24, 4)), target=rng.normal(size=(24, 6)))
        model = self.dropout_model()
        out, loss, gradients, _ = self.step(model, "--batch", 12, "--microbatches", 1)
        self.assertRegex(out, "mode +training: .*2 of Dropout")
        for options, exact in [(["--microbatches", 1, "--ranks", 2], True), (["--microbatches", 1, "--threads", 2], True),
                               (["--microbatches", 3], False), (["--microbatches", 12, "--ranks", 3], False),
                               (["--microbatches", 4, "--ranks", 2, "--schedule", "1f1b"], False),
                               (["--microbatches", 1, "--device", "reference"], False)]:
            other = self.step(model, "--batch", 12, *options, tag="other")
            np.testing.assert_allclose(other[1], loss, rtol=0 if exact else 1e-5, err_msg=str(options))
            for name in gradients:
                np.testing.assert_allclose(other[2][name], gradients[name], rtol=0, atol=0 if exact else 1e-5)
        seeded = self.step(model, "--batch", 12, "--microbatches", 1, "--seed", 1)
        self.assertGreater(abs(seeded[1] - loss), 1e-3)
        still = self.step(model, "--batch", 12, "--microbatches", 1, "--eval-mode")
        self.assertGreater(abs(still[1] - loss), 1e-3)

    def attention_model(self):
        """Two heads of causal attention over [N,5,8], some of whose weights are dropped."""
        rng = np.random.default_rng(3)
        shape = lambda name, values: initializer(name, values, np.int64)
        inits = [initializer(f"{n}.w", rng.normal(size=(8, 8)) / 3) for n in "qkvo"]
        inits += [initializer("ratio", 0.25), initializer("scale", 0.5), shape("heads", [-1, 5, 2, 4]),
                  shape("rows", [-1, 5, 8]), initializer("/causal", np.triu(np.full((5, 5), -np.inf), 1))]
        nodes = []
        for n, perm in [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])]:
            nodes += [helper.make_node("MatMul", ["x", f"{n}.w"], [f"{n}0"]),
                      helper.make_node("Reshape", [f"{n}0", "heads"], [f"{n}1"]),
                      helper.make_node("Transpose", [f"{n}1"], [n], perm=perm)]
        nodes += [helper.make_node("MatMul", ["q", "k"], ["s0"]), helper.make_node("Mul", ["s0", "scale"], ["s1"]),
                  helper.make_node("Add", ["s1", "/causal"], ["s"]), helper.make_node("Softmax", ["s"], ["p"], axis=-1),
                  helper.make_node("Dropout", ["p", "ratio"], ["d"]), helper.make_node("MatMul", ["d", "v"], ["a0"]),
                  helper.make_node("Transpose", ["a0"], ["a1"], perm=[0, 2, 1, 3]),
                  helper.make_node("Reshape", ["a1", "rows"], ["a"]), helper.make_node("MatMul", ["a", "o.w"], ["y"])]
        return self.save(nodes, inits, [5, 8], [5, 8])

    def test_attention_drops_what_a_dropout_would(self):
        rng = np.random.default_rng(7)
        self.data(x=rng.normal(size=(24, 5, 8)), target=rng.normal(size=(24, 5, 8)))
        model = self.attention_model()
        out, loss, gradients, _ = self.step(model, "--batch", 12, "--microbatches", 1, "--verbose")
        self.assertRegex(out, "passes +.*attention")
        self.assertRegex(out, "mode +training: .*1 of Dropout")
        for options, within in [(["--microbatches", 1, "--no-fuse"], 1e-5), (["--microbatches", 1, "--ranks", 2], 0),
                                (["--microbatches", 1, "--threads", 2], 0), (["--microbatches", 3], 1e-5),
                                (["--microbatches", 4, "--ranks", 2, "--schedule", "1f1b"], 1e-5),
                                (["--microbatches", 1, "--device", "reference"], 1e-5),
                                (["--microbatches", 1, "--device", "reference", "--no-fuse"], 1e-5),
                                (["--microbatches", 1, "--precision", "bf16"], 0.1)]:
            other = self.step(model, "--batch", 12, *options, tag="other")
            np.testing.assert_allclose(other[1], loss, rtol=within / 2, err_msg=str(options))
            for name in gradients:
                np.testing.assert_allclose(other[2][name], gradients[name], rtol=0, atol=within, err_msg=str(options))
        seeded = self.step(model, "--batch", 12, "--microbatches", 1, "--seed", 1)
        self.assertGreater(abs(seeded[1] - loss), 1e-3)

    def test_dropout_of_every_opset_and_mode(self):
        """The files say that it drops, or not, or nothing: `train` drops, `run` does not."""
        rng = np.random.default_rng(7)
        self.data(x=rng.normal(size=(12, 4)), target=rng.normal(size=(12, 6)))
        losses = {self.step(self.dropout_model(opset, training), "--batch", 12, "--microbatches", 1)[1]
                  for opset, training in [(9, False), (11, False), (13, False), (13, True), (22, True)]}
        self.assertEqual(len(losses), 1)
        ys = []
        for options in [[], ["--train-mode"], ["--train-mode", "--seed", "3"], ["--train-mode", "--seed", "3", "--batch", "5"]]:
            self.done("run", self.path("m.onnx"), "--data", self.path("data.npz"), "--out", self.path("y.npz"), *options)
            ys.append(np.load(self.path("y.npz"))["y"])
        model = onnx.load(self.path("m.onnx"))
        weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        x = np.load(self.path("data.npz"))["x"]
        np.testing.assert_allclose(ys[0], ((x @ weights["a.w"]).reshape(-1, 2) @ weights["b.w"]).reshape(-1, 6), atol=1e-5)
        for drawn in ys[1:]:
            self.assertGreater((drawn == 0).sum(), 6)
        self.assertFalse(np.array_equal(ys[1], ys[2]))
        np.testing.assert_allclose(ys[2], ys[3], atol=1e-6)

    def test_dropout_drops_its_share(self):
        model = self.save([helper.make_node("Mul", ["x", "w"], ["z"]), helper.make_node("Dropout", ["z", "r"], ["y"])],
                          [initializer("w", np.ones(1000)), initializer("r", 0.3)], [1000], [1000])
        self.data(x=np.ones((100, 1000)))
        self.done("run", model, "--data", self.path("data.npz"), "--out", self.path("y.npz"), "--train-mode")
        y = np.load(self.path("y.npz"))["y"]
        self.assertLess(abs((y == 0).mean() - 0.3), 5 * (0.3 * 0.7 / y.size) ** 0.5)
        np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
        self.assertEqual(len(np.unique(y == 0, axis=0)), 100)  # no two samples alike

    def test_random_numbers(self):
        """Of the right distribution, another for every sample, the same for a seed and any batch."""
        nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"], mean=1.0, scale=2.0),
                 helper.make_node("RandomUniformLike", ["x"], ["u"], low=-1.0, high=3.0),
                 helper.make_node("Sigmoid", ["x"], ["p"]), helper.make_node("Bernoulli", ["p"], ["b"]),
                 helper.make_node("Concat", ["n", "u", "b"], ["y"], axis=1)]
        model = self.save(nodes, [], [1000], [3000])
        self.data(x=np.zeros((60, 1000)))
        ys = []
        for options in [[], ["--batch", "7"], ["--seed", "1"]]:
            self.done("run", model, "--data", self.path("data.npz"), "--out", self.path("y.npz"), *options)
            ys.append(np.load(self.path("y.npz"))["y"])
        np.testing.assert_array_equal(ys[0], ys[1])
        self.assertFalse(np.array_equal(ys[0], ys[2]))
        normal, uniform, bernoulli = np.split(ys[0].astype(np.float64), 3, axis=1)
        bound = 5 / normal.size ** 0.5
        self.assertLess(abs(normal.mean() - 1) / 2, bound)
        self.assertLess(abs(normal.std() / 2 - 1), bound)
        self.assertLess(abs(((normal - 1) / 2 < -1.6448536).mean() - 0.05), bound)
        self.assertTrue(-1 <= uniform.min() < -0.99 and 2.99 < uniform.max() <= 3)
        self.assertLess(abs(uniform.mean() - 1), 4 * bound)
        self.assertTrue(set(np.unique(bernoulli)) == {0, 1})
        self.assertLess(abs(bernoulli.mean() - 0.5), bound)
        self.assertEqual(len(np.unique(normal, axis=0)), 60)

    def test_multinomial(self):
        graph = helper.make_graph([helper.make_node("Multinomial", ["x"], ["y"], sample_size=4000, dtype=TensorProto.INT64)],
                                  "g", [helper.make_tensor_value_info("x", FLOAT, ["N", 3])],
                                  [helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 4000])])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path("m.onnx"))
        self.data(x=np.log([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]) + 3)
        self.done("run", self.path("m.onnx"), "--data", self.path("data.npz"), "--out", self.path("y.npz"))
        y = np.load(self.path("y.npz"))["y"]
        for row, p in zip(y, [[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]):
            np.testing.assert_allclose(np.bincount(row, minlength=3) / 4000, p, atol=0.04)

    def test_merged_statistics_are_apart_again(self):
        """Zeros and ones as layers are born with, which an exporter wrote once; a layer that is called twice is one."""
        norm = lambda x, y, w, b: helper.make_node("BatchNormalization", [x, w, b, "zeros", "ones"], [y], y)
        model = self.save([norm("x", "p", "l1.weight", "zeros"), helper.make_node("Mul", ["p", "two"], ["p2"]),
                           norm("p2", "q", "l2.weight", "l2.bias"), helper.make_node("Tanh", ["q"], ["t"]),
                           norm("t", "y", "l2.weight", "l2.bias")],
                          [initializer("l1.weight", [1, 2]), initializer("l2.weight", [3, 4]), initializer("zeros", [0, 0]),
                           initializer("ones", [1, 1]), initializer("l2.bias", [0.5, -0.25]), initializer("two", 2.0)],
                          [2, 3], [2, 3])
        self.data(x=X, target=TARGET)
        out, _, gradients, saved = self.step(model, "--batch", 6)
        self.assertIn("zeros", gradients)
        nodes = [n for n in onnx.load(self.path("s.onnx")).graph.node if n.op_type == "BatchNormalization"]
        mean, var = [[saved[n.input[k]] for n in nodes] for k in [3, 4]]
        self.assertEqual([n.input[3] for n in nodes], ["l1.running_mean", "l2.running_mean", "l2.running_mean"])
        np.testing.assert_allclose(mean[0], 0.1 * np.asarray(X).mean((0, 2)), rtol=1e-5)
        np.testing.assert_array_equal(saved["zeros"], 0)
        x = np.asarray(X).transpose(1, 0, 2).reshape(2, -1)
        z = 2 * (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * [[1], [2]]
        q = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5) * [[3], [4]] + [[0.5], [-0.25]]
        expected = 0.9 * (0.9 + 0.1 * z.var(1, ddof=1)) + 0.1 * np.tanh(q).var(1, ddof=1)
        np.testing.assert_allclose(var[1], expected, rtol=1e-4)
        self.step(model, "--batch", 6, "--ranks", 2, tag="cut")
        with open(self.path("s.onnx"), "rb") as one, open(self.path("cut.onnx"), "rb") as cut:
            self.assertEqual(one.read(), cut.read())

    def test_one_value_a_channel_is_refused(self):
        model = self.save([helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], "norm")],
                          [initializer("s", [1, 2]), initializer("b", [0, 0]), initializer("m", [0, 0]),
                           initializer("v", [1, 1])], [2], [2])
        self.data(x=np.ones((4, 2)), target=np.ones((4, 2)))
        self.refused(1, re.compile("node 'norm' .* a microbatch of 1 has one value a channel"), "train", model, "--data",
                     self.path("data.npz"), "--batch", 1, "--steps", 1)
        self.done("train", model, "--data", self.path("data.npz"), "--batch", 1, "--steps", 1, "--eval-mode")

    def test_inspect_tells(self):
        out = self.done("inspect", self.batch_norm(training_mode=0))
        self.assertRegex(out, "mixes the samples of a microbatch: norm")
        self.assertRegex(" ".join(out.split()), "exported for inference: `train` takes a microbatch's statistics")

    def test_normalisations_within_a_sample(self):
        """Any number of microbatches gives the batch's loss."""
        rng = np.random.default_rng(3)
        c = 4
        nodes = {"InstanceNormalization": helper.make_node("InstanceNormalization", ["z", "s", "b"], ["y"]),
                 "GroupNormalization": helper.make_node("GroupNormalization", ["z", "s", "b"], ["y"], num_groups=2),
                 "LRN": helper.make_node("LRN", ["z"], ["y"], size=3, alpha=0.5),
                 "LpNormalization": helper.make_node("LpNormalization", ["z"], ["y"], axis=1),
                 "MeanVarianceNormalization": helper.make_node("MeanVarianceNormalization", ["z"], ["y"], axes=[2, 3])}
        self.data(x=rng.normal(size=(6, c, 3, 5)), target=rng.normal(size=(6, c, 3, 5)))
        for name, node in nodes.items():
            with self.subTest(name):
                model = self.save([helper.make_node("Mul", ["x", "a.w"], ["z"]), node],
                                  [initializer("a.w", rng.normal(size=(c, 1, 1))), initializer("s", rng.normal(size=c)),
                                   initializer("b", rng.normal(size=c))], [c, 3, 5], [c, 3, 5], 21)
                one = self.step(model, "--batch", 6, "--microbatches", 1)
                for m in [2, 6]:
                    other = self.step(model, "--batch", 6, "--microbatches", m, "--ranks", 2)
                    np.testing.assert_allclose(other[1], one[1], rtol=1e-6)
                    for key in one[2]:
                        np.testing.assert_allclose(other[2][key], one[2][key], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    common.main()
