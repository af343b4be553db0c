"""Files in narrow types: they run, train in float32 and are saved in their own type; integers of every width."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import common
from common import CommandLineTest

TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16, TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
         TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2}


class Types(CommandLineTest):
    def save(self, nodes, inputs, outputs, initializers=()):
        graph = helper.make_graph(nodes, "types", [helper.make_tensor_value_info(*i) for i in inputs],
                                  [helper.make_tensor_value_info(*o) for o in outputs], list(initializers))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), self.path("m.onnx"))
        return self.path("m.onnx")

    def layer(self, kind):
        """y = x W + b, W cast to the type of x where that is another one."""
        rng = np.random.default_rng(0)
        ends = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
        weight = numpy_helper.from_array(rng.normal(size=(4, 3)).astype(TYPES[kind]), "layer.weight")
        nodes = [helper.make_node("CastLike", ["layer.weight", "x"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
        return self.save(nodes, [("x", ends, ["N", 4])], [("y", ends, ["N", 3])], [weight])

    def test_narrow_weights(self):
        rng = np.random.default_rng(1)
        for kind, numpy_type in TYPES.items():
            with self.subTest(TensorProto.DataType.Name(kind)):
                model = self.layer(kind)
                name = np.dtype(numpy_type).name.replace("_", "")
                self.assertIn(name, self.done("inspect", model, "--json"))
                x, target = rng.normal(size=(8, 4)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
                run = self.write_arrays("run.npz", x=x)
                self.done("run", model, "--data", run, "--out", self.path("y.npz"))
                y = np.load(self.path("y.npz"))["y"]
                weight = numpy_helper.to_array(onnx.load(model).graph.initializer[0]).astype(np.float32)
                self.assertEqual(y.dtype, np.float16 if kind == TensorProto.FLOAT16 else np.float32)
                np.testing.assert_allclose(y, x @ weight, rtol=1e-3, atol=1e-3)
                data = self.write_arrays("train.npz", x=x, target=target)
                said = self.done("train", model, "--data", data, "--steps", "3", "--optimizer", "sgd", "--lr", "0.5", "--batch", "8",
                                 "--save", self.path("saved.onnx"))
                self.assertRegex(said, f"1 tensor of {name}: trained in float32, saved as {name}")
                saved = onnx.load(self.path("saved.onnx")).graph.initializer[0]
                self.assertEqual(saved.data_type, kind)
                expected = weight.astype(np.float64)
                for _ in range(3):
                    expected -= 0.5 * x.T @ (x @ expected - target) * 2 / target.size
                np.testing.assert_array_equal(numpy_helper.to_array(saved).astype(np.float32),
                                              expected.astype(numpy_type).astype(np.float32))

    def packed(self, kind, as_raw):
        """y = x (W - 1) s: W [5,3] of 2 or 4 bits, several in a byte; what W is, too."""
        name = TensorProto.DataType.Name(kind).lower()
        bits, low = int(name[-1]), 0 if name[0] == "u" else -(1 << int(name[-1]) - 1)
        weight = low + np.arange(15).reshape(5, 3) % (1 << bits)
        if as_raw:
            tensor = numpy_helper.from_array(weight.astype(np.dtype(getattr(ml_dtypes, name))), "w")
            self.assertTrue(tensor.raw_data)
        else:
            tensor = helper.make_tensor("w", kind, [5, 3], weight.flatten().tolist())
            self.assertTrue(tensor.int32_data)
        scale = numpy_helper.from_array(np.array([0.5, 0.25, 2], np.float32), "s")
        zero = helper.make_tensor("z", kind, [3], [1, 0, 1])
        bias = numpy_helper.from_array(np.zeros(3, np.float32), "b")
        nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=1), helper.make_node("MatMul", ["x", "wd"], ["h"]),
                 helper.make_node("Add", ["h", "b"], ["y"])]
        model = self.save(nodes, [("x", TensorProto.FLOAT, ["N", 5])], [("y", TensorProto.FLOAT, ["N", 3])],
                          [tensor, scale, zero, bias])
        return model, (weight - [1, 0, 1]) * np.array([0.5, 0.25, 2])

    def test_integers_that_share_a_byte(self):
        x = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)
        for kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2):
            for as_raw in (False, True):
                with self.subTest(TensorProto.DataType.Name(kind), raw=as_raw):
                    model, weight = self.packed(kind, as_raw)
                    data = self.write_arrays("x.npz", x=x, target=np.zeros((4, 3), np.float32))
                    self.done("train", model, "--data", data, "--steps", "1", "--lr", "0", "--save", self.path("t.onnx"))
                    if as_raw:  # contents of a file of their own, too
                        onnx.save(onnx.load(model), self.path("e.onnx"), save_as_external_data=True, location="e.bin", size_threshold=0)
                    for path in (model, self.path("t.onnx"), *([self.path("e.onnx")] if as_raw else [])):
                        self.done("run", path, "--data", data, "--out", self.path("y.npz"))
                        np.testing.assert_allclose(np.load(self.path("y.npz"))["y"], x @ weight, rtol=1e-4, atol=1e-5)
                    before, after = onnx.load(model).graph.initializer[0], onnx.load(self.path("t.onnx")).graph.initializer[0]
                    self.assertEqual(before, after)

    def test_too_few_bytes_for_four_bits(self):
        tensor = helper.make_tensor("w", TensorProto.INT4, [3, 3], bytes(5), raw=True)
        tensor.raw_data = bytes(4)
        model = self.save([helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "c"], ["y"])],
                          [("x", TensorProto.FLOAT, ["N", 3])], [("y", TensorProto.FLOAT, ["N", 3])], [tensor])
        self.refused(1, f"{model}: tensor 'w': INT4 [3,3] takes 5 bytes, 4 are stored", "inspect", model)

    def test_four_bits_are_the_range(self):
        """Weights that are quantised to int4 within the model: 9 becomes 7, and gets no gradient."""
        weight = numpy_helper.from_array(np.array([[9], [-1.2], [3]], np.float32), "w")
        scale, zero = numpy_helper.from_array(np.float32(1), "s"), helper.make_tensor("z", TensorProto.INT4, [], [0])
        model = self.save([helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                           helper.make_node("MatMul", ["x", "d"], ["y"])],
                          [("x", TensorProto.FLOAT, ["N", 3])], [("y", TensorProto.FLOAT, ["N", 1])], [weight, scale, zero])
        data = self.write_arrays("x.npz", x=np.eye(3, dtype=np.float32), target=np.zeros((3, 1), np.float32))
        self.done("run", model, "--data", data, "--out", self.path("y.npz"))
        np.testing.assert_array_equal(np.load(self.path("y.npz"))["y"], [[7], [-1], [3]])
        self.done("train", model, "--data", data, "--steps", "1", "--batch", "3", "--optimizer", "sgd", "--lr", "1", "--dump-gradients",
                  self.path("g.npz"))
        np.testing.assert_allclose(np.load(self.path("g.npz"))["w"], [[0], [-2 / 3], [2]], rtol=1e-6)

    def test_bits_of_a_bfloat16(self):
        model = self.save([helper.make_node("Add", ["x", "x"], ["y"])], [("x", TensorProto.BFLOAT16, ["N", 2])],
                          [("y", TensorProto.BFLOAT16, ["N", 2])])
        x = np.array([[1.5, -2], [0.1, 3]], ml_dtypes.bfloat16)
        for given in (x, x.view(np.uint16), x.astype(np.float32), x.astype(np.float16)):
            data = self.write_arrays("x.npz", x=given)
            self.done("run", model, "--data", data, "--out", self.path("y.npz"))
            np.testing.assert_array_equal(np.load(self.path("y.npz"))["y"], 2 * x.astype(np.float32))

    def test_integers(self):
        rng = np.random.default_rng(2)
        names = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide, "Mod": np.mod, "Max": np.maximum,
                 "Min": np.minimum, "Less": np.less, "GreaterOrEqual": np.greater_equal, "Equal": np.equal}
        for numpy_type in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.uint64):
            kind, limits = helper.np_dtype_to_tensor_dtype(np.dtype(numpy_type)), np.iinfo(numpy_type)
            a = rng.integers(limits.min, limits.max, 400, numpy_type, True)
            b = rng.integers(limits.min, limits.max, 400, numpy_type, True)
            b[:200] = rng.integers(1, 100, 200)
            b[b == 0] = 7
            if limits.min < 0:  # whole quotients: ONNX rounds to zero, NumPy down
                b, a = np.abs(np.maximum(b, -limits.max)), np.abs(np.maximum(a, -limits.max))
            for name, function in names.items():
                expected = function(a, b)
                out = TensorProto.BOOL if expected.dtype == bool else kind
                model = self.save([helper.make_node(name, ["a", "b"], ["y"])], [("a", kind, ["N"]), ("b", kind, ["N"])],
                                  [("y", out, ["N"])])
                data = self.write_arrays("ab.npz", a=a, b=b)
                self.done("run", model, "--data", data, "--out", self.path("y.npz"))
                y = np.load(self.path("y.npz"))["y"]
                self.assertEqual(y.dtype, expected.dtype)
                np.testing.assert_array_equal(y, expected, f"{name} of {np.dtype(numpy_type)}")


if __name__ == "__main__":
    common.main()
