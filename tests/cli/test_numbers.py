"""Numbers at the edge: a norm of nothing but zeros, a softmax of nothing, an extremum of nothing; and what they make of gradients."""
import common
import numpy as np
import onnx
from common import CommandLineTest
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
INF = np.float32(np.inf)


class NumbersTest(CommandLineTest):
    def model(self, nodes, weights, inputs, opset=18, name="m.onnx", output_type=FLOAT):
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
            [helper.make_tensor_value_info("y", output_type, None)],
            [numpy_helper.from_array(np.asarray(w) if np.asarray(w).dtype != np.float64 else np.asarray(w, np.float32), n)
             for n, w in weights.items()])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), self.path(name))
        return self.path(name)

    def run_model(self, path, *options, **arrays):
        data = self.write_arrays("d.npz", **arrays)
        self.done("run", path, "--data", data, "--out", self.path("o.npz"), *options)
        return np.load(self.path("o.npz"))["y"]

    def gradients(self, path, *options, **arrays):
        data = self.write_arrays("d.npz", **arrays)
        self.done("train", path, "--data", data, "--steps", 1, "--dump-gradients", self.path("g.npz"), "--metrics", self.path("m.jsonl"),
                  "--optimizer", "sgd", "--lr", "0.1", *options)
        return common.read_metrics(self.path("m.jsonl"))[0]["loss"], dict(np.load(self.path("g.npz")))


class Norms(NumbersTest):
    def spelled(self, how):
        """The norm of h along its last axis, as exporters spell it; what follows divides by it."""
        axes = ["axes"] if how != "old" else []
        node = helper.make_node
        return {
            "l2": [node("ReduceL2", ["h", *axes], ["n"], keepdims=1)],
            "sqrt": [node("Mul", ["h", "h"], ["s"]), node("ReduceSum", ["s", *axes], ["t"], keepdims=1), node("Sqrt", ["t"], ["n"])],
            "pow": [node("Pow", ["h", "two"], ["s"]), node("ReduceSum", ["s", *axes], ["t"], keepdims=1), node("Pow", ["t", "half"], ["n"])],
            "abs": [node("Abs", ["h"], ["a"]), node("Pow", ["a", "two"], ["s"]), node("ReduceSum", ["s", *axes], ["t"], keepdims=0),
                    node("Sqrt", ["t"], ["r"]), node("Unsqueeze", ["r", *axes], ["n"])],
            "square": [node("ReduceSumSquare", ["h", *axes], ["t"], keepdims=1), node("Sqrt", ["t"], ["n"])],
            "mean": [node("Mul", ["h", "h"], ["s"]), node("ReduceMean", ["s", *axes], ["t"], keepdims=1), node("Sqrt", ["t"], ["n"])],
            "bounded": [node("Mul", ["h", "h"], ["s"]), node("ReduceSum", ["s", *axes], ["t"], keepdims=1), node("Max", ["t", "zero"], ["u"]),
                        node("Sqrt", ["u"], ["n"])],
            "cubes": [node("Abs", ["h"], ["a"]), node("Pow", ["a", "three"], ["s"]), node("ReduceSum", ["s", *axes], ["t"], keepdims=1),
                      node("Pow", ["t", "third"], ["n"])],
        }[how]

    def test_the_subgradient_at_zero_is_zero(self):
        rng = np.random.default_rng(1)
        x = rng.normal(size=(6, 4)).astype(np.float32)
        x[2] = x[4] = 0
        w, target = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
        constants = {"axes": np.asarray([-1]), "two": 2.0, "half": 0.5, "three": 3.0, "third": 1 / 3, "zero": 0.0, "eps": 1e-3}
        ends = {"clip": [helper.make_node("Clip", ["n", "eps"], ["m"]), helper.make_node("Div", ["h", "m"], ["y"])],
                "max": [helper.make_node("Max", ["n", "eps"], ["m"]), helper.make_node("Div", ["h", "m"], ["y"])],
                "add": [helper.make_node("Add", ["n", "eps"], ["m"]), helper.make_node("Div", ["h", "m"], ["y"])],
                "norm": [helper.make_node("Mul", ["n", "one"], ["y"])]}
        for how in "l2", "sqrt", "pow", "abs", "square", "mean", "bounded", "cubes":
            for end, nodes in ends.items():
                with self.subTest(how=how, end=end):
                    path = self.model([helper.make_node("MatMul", ["x", "w"], ["h"]), *self.spelled(how), *nodes],
                                      {"w": w, **constants, "one": np.ones((1, 4))}, [("x", FLOAT, ["N", 4])])
                    _, g = self.gradients(path, "--train", "w", "--batch", 6, "--loss", "mse", x=x, target=target)
                    self.assertTrue(np.isfinite(g["w"]).all(), g["w"])
                    want = self.by_hand(how, end, x.astype(float), w.astype(float), target.astype(float))
                    np.testing.assert_allclose(g["w"], want, rtol=2e-4, atol=1e-5)

    def by_hand(self, how, end, x, w, target):
        """The gradient by differences, of the rows that are not zero; a zero row's h stays 0 and adds nothing to that of w."""
        def loss(w):
            h = x @ w
            p = 3 if how == "cubes" else 2
            n = (abs(h) ** p).sum(1, keepdims=True)
            n = (n / 4 if how == "mean" else n) ** (1 / p)
            y = n * np.ones((1, 4)) if end == "norm" else h / (n + 1e-3 if end == "add" else np.maximum(n, 1e-3))
            return ((y - target) ** 2).mean()
        g = np.zeros_like(w)
        for i in np.ndindex(*w.shape):
            e = np.zeros_like(w)
            e[i] = 1e-6
            g[i] = (loss(w + e) - loss(w - e)) / 2e-6
        return g


class Reductions(NumbersTest):
    def test_log_sum_exp_of_minus_infinity(self):
        x = np.asarray([[1, 2, -INF], [-INF, -INF, -INF], [0, -INF, 1e30], [5, 5, 5]], np.float32)
        path = self.model([helper.make_node("Add", ["x", "b"], ["h"]), helper.make_node("ReduceLogSumExp", ["h", "axes"], ["y"], keepdims=0)],
                          {"b": np.zeros(3), "axes": np.asarray([1])}, [("x", FLOAT, ["N", 3])])
        want = np.asarray([np.log(np.exp(1) + np.exp(2)), -np.inf, 1e30, 5 + np.log(3)], np.float32)
        np.testing.assert_allclose(self.run_model(path, x=x), want, rtol=1e-6)
        _, g = self.gradients(path, "--train", "b", "--batch", 3, "--output", "y", "--loss", "mse", x=x[[0, 3, 0]], target=np.zeros(3, np.float32))
        self.assertTrue(np.isfinite(g["b"]).all())
        masked = self.model([helper.make_node("Add", ["x", "b"], ["h"]), helper.make_node("ReduceLogSumExp", ["h", "axes"], ["l"], keepdims=0),
                             helper.make_node("Where", ["keep", "l", "zero"], ["y"])],
                            {"b": np.zeros(3), "axes": np.asarray([1]), "zero": 0.0}, [("x", FLOAT, ["N", 3]), ("keep", BOOL, ["N"])])
        keep = np.asarray([True, False, True, True])
        x[2] = 0
        _, g = self.gradients(masked, "--train", "b", "--batch", 4, "--loss", "mse", x=x, keep=keep, target=np.zeros(4, np.float32))
        y = np.where(keep, np.log(np.exp(x).sum(1, where=np.isfinite(x)) + (~keep)), 0)
        p = np.where(keep[:, None], np.exp(np.where(np.isfinite(x), x, -1e30) - y[:, None]), 0)
        np.testing.assert_allclose(g["b"], (2 * y[:, None] * p / 4).sum(0), rtol=1e-5)

    def test_extremum_of_nothing(self):
        for dtype, type_, least, most in ((np.float32, FLOAT, -np.inf, np.inf), (np.int64, INT64, -2**63, 2**63 - 1),
                                          (np.int32, TensorProto.INT32, -2**31, 2**31 - 1)):
            for op, nothing, pick in ("ReduceMax", least, np.max), ("ReduceMin", most, np.min):
                with self.subTest(op=op, dtype=dtype):
                    path = self.model([helper.make_node(op, ["x", "axes"], ["y"], keepdims=0)], {"axes": np.asarray([1])},
                                      [("x", type_, ["N", "P"])], output_type=type_)
                    np.testing.assert_array_equal(self.run_model(path, x=np.zeros((3, 0), dtype)), np.full(3, nothing, dtype))
                    x = np.asarray([[1, 2, 3], [least, 4, most], [-1, -1, -1]], dtype)
                    np.testing.assert_array_equal(self.run_model(path, x=x), pick(x, axis=1))

    def test_extremum_of_a_constant_nothing(self):
        path = self.model([helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0), helper.make_node("Max", ["x", "m"], ["y"])],
                          {"c": np.zeros((0, 2), np.float32)}, [("x", FLOAT, ["N", 2])])
        np.testing.assert_array_equal(self.run_model(path, x=np.ones((3, 2), np.float32)), np.ones((3, 2)))


class BlindQueries(NumbersTest):
    """A query that may see no key gives 0, and finite gradients."""
    T, D = 4, 8

    def weights(self):
        rng = np.random.default_rng(3)
        return {n: rng.normal(size=(self.D, self.D)).astype(np.float32) * 0.5 for n in ("q.w", "k.w", "v.w")}

    def expected(self, x, weights, allowed, bias=None, heads=2):
        q, k, v = (np.einsum("ntd,de->nte", x.astype(float), weights[n].astype(float)) for n in ("q.w", "k.w", "v.w"))
        def split(a):
            return a.reshape(*a.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        s = split(q) @ split(k).swapaxes(2, 3) / np.sqrt(self.D // heads)
        s = np.where(allowed, s + (0 if bias is None else bias), -np.inf)
        e = np.exp(s - np.where(np.isfinite(s), s, -1e30).max(3, keepdims=True))
        p = e / np.maximum(e.sum(3, keepdims=True), 1e-300)
        return (p @ split(v)).transpose(0, 2, 1, 3).reshape(x.shape)

    def check(self, path, arrays, weights, allowed):
        y = self.run_model(path, **arrays)
        np.testing.assert_allclose(y, self.expected(arrays["x"], weights, allowed), rtol=2e-4, atol=1e-5)
        target = np.ones_like(y)
        loss, g = self.gradients(path, "--batch", len(y), "--loss", "mse", **arrays, target=target)
        self.assertTrue(np.isfinite(loss))
        for name in weights:
            self.assertTrue(np.isfinite(g[name]).all(), name)
        wanted = {}
        for name in weights:  # by differences
            i = (1, 2)
            moved = [{**weights, name: weights[name].astype(float) + s * 1e-5 * (np.arange(64).reshape(8, 8) == 10)} for s in (1, -1)]
            l = [((self.expected(arrays["x"], m, allowed) - target) ** 2).mean() for m in moved]
            wanted[name] = (l[0] - l[1]) / 2e-5
            self.assertAlmostEqual(g[name][i], wanted[name], delta=1e-4 + 1e-3 * abs(wanted[name]))

    def test_attention(self):
        rng = np.random.default_rng(4)
        n, t = 3, self.T
        x = rng.normal(size=(n, t, self.D)).astype(np.float32)
        weights = self.weights()
        causal = np.tril(np.ones((t, t), bool))
        by_sample = rng.random((n, 1, t, t)) < 0.5
        by_sample[0, 0, 2] = False
        by_sample[1, 0, 0] = False
        whole = np.ones((t, t), bool)
        whole[1] = False
        late = np.ones((t, t), bool)
        late[0, :2] = False  # with the causal mask nothing is left
        products = [helper.make_node("MatMul", ["x", f"{c}.w"], [c]) for c in "qkv"]
        for form, mask, is_causal in (("input", by_sample, 0), ("input", by_sample, 1), ("constant", whole, 0), ("constant", late, 1),
                                      ("constant", np.zeros((), bool), 0), ("constant", causal, 0)):
            for dtype in bool, np.float32:
                with self.subTest(form=form, dtype=dtype, causal=is_causal):
                    value = mask if dtype == bool else np.where(mask, 0, -INF).astype(np.float32)
                    allowed = np.broadcast_to(mask & causal if is_causal else mask, (n, 2, t, t))
                    inputs, constants, arrays = [("x", FLOAT, ["N", t, self.D])], dict(weights), {"x": x}
                    if form == "input":
                        inputs.append(("mask", BOOL if dtype == bool else FLOAT, ["N", 1, t, t]))
                        arrays["mask"] = value
                    else:
                        constants["mask"] = value
                    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=is_causal)
                    path = self.model([*products, node], constants, inputs, opset=23)
                    self.check(path, arrays, weights, allowed)

    def test_spelled(self):
        """As exporters spell scaled_dot_product_attention: the rows that are no numbers, or that see nothing, become 0."""
        rng = np.random.default_rng(5)
        n, t = 3, self.T
        x = rng.normal(size=(n, t, self.D)).astype(np.float32)
        weights = self.weights()
        mask = rng.random((n, 1, t, t)) < 0.5
        mask[0, 0, 2] = mask[2, 0, 1] = False
        node = helper.make_node
        front = [node("MatMul", ["x", f"{c}.w"], [c + "1"]) for c in "qkv"]
        for c in "qkv":
            front += [node("Reshape", [c + "1", "heads"], [c + "2"]), node("Transpose", [c + "2"], [c], perm=[0, 2, 1, 3])]
        front += [node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), node("MatMul", ["q", "kt"], ["s1"]), node("Mul", ["s1", "scale"], ["s2"]),
                  node("Where", ["mask", "zero", "minus"], ["bias"]), node("Add", ["s2", "bias"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1)]
        back = [node("MatMul", ["r", "v"], ["o1"]), node("Transpose", ["o1"], ["o2"], perm=[0, 2, 1, 3]), node("Reshape", ["o2", "flat"], ["y"])]
        middles = {
            "isnan": [node("IsNaN", ["p"], ["bad"]), node("Where", ["bad", "zero", "p"], ["r"])],
            "all masked": [node("Equal", ["s", "minus"], ["e"]), node("Cast", ["e"], ["e1"], to=INT64),
                           node("ReduceMin", ["e1", "last"], ["e2"], keepdims=1), node("Cast", ["e2"], ["bad"], to=BOOL),
                           node("Where", ["bad", "zero", "p"], ["r"])]}
        constants = {**weights, "heads": np.asarray([0, 0, 2, 4]), "flat": np.asarray([0, 0, 8]), "last": np.asarray([-1]),
                     "zero": 0.0, "minus": -INF, "scale": 0.5}
        for name, middle in middles.items():
            with self.subTest(name):
                path = self.model([*front, *middle, *back], constants, [("x", FLOAT, ["N", t, self.D]), ("mask", BOOL, ["N", 1, t, t])])
                self.check(path, {"x": x, "mask": mask}, weights, np.broadcast_to(mask, (n, 2, t, t)))


class Sizes(NumbersTest):
    def test_minus_one_is_open(self):
        path = self.model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((4, 2))}, [("x", FLOAT, [-1, -1, 4])])
        np.testing.assert_array_equal(self.run_model(path, x=np.ones((3, 5, 4), np.float32)), np.full((3, 5, 2), 4))


if __name__ == "__main__":
    common.main()
