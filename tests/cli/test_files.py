"""Files that others write: links of a Hugging Face cache, nodes out of order, arrays in Fortran order, targets [N,1], sizes of 0."""
import os
import re

import common
import numpy as np
import onnx
from common import CommandLineTest
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class FilesTest(CommandLineTest):
    def graph(self, nodes, weights, inputs=(("x", ["N", 4]),)):
        return helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs],
                                 [helper.make_tensor_value_info("y", FLOAT, None)],
                                 [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()])

    def save(self, graph, name="m.onnx"):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), self.path(name))
        return self.path(name)

    def run_model(self, path, *options, **arrays):
        data = self.write_arrays("d.npz", **arrays)
        self.done("run", path, "--data", data, "--out", self.path("o.npz"), *options)
        return np.load(self.path("o.npz"))["y"]


class ExternalData(FilesTest):
    def outside(self, name, location):
        """A model whose weight lies at `location`."""
        graph = self.graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {})
        w = graph.initializer.add()
        w.name, w.data_type, w.data_location = "w", FLOAT, TensorProto.EXTERNAL
        w.dims.extend([4, 2])
        w.external_data.add(key="location", value=location)
        return self.save(graph, name)

    def weights(self, name):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        np.ones((4, 2), np.float32).tofile(self.path(name))

    def loads(self, path):
        np.testing.assert_array_equal(self.run_model(path, x=np.ones((3, 4), np.float32)), np.full((3, 2), 4))

    def is_refused(self, path, line):
        data = self.write_arrays("d.npz", x=np.ones((3, 4), np.float32))
        self.refused(1, re.compile(line), "run", path, "--data", data, "--out", self.path("o.npz"))

    def test_here(self):
        self.weights("w.bin")
        self.weights("d/w.bin")
        self.loads(self.outside("a.onnx", "./w.bin"))
        self.loads(self.outside("b.onnx", "./d/./w.bin"))
        self.is_refused(self.outside("c.onnx", "./../w.bin"), "outside the model's folder")
        self.is_refused(self.outside("d.onnx", "d/."), "outside the model's folder")

    def test_a_cache(self):
        self.weights("models--a--b/blobs/bbb")
        for folder, up in ("models--a--b/snapshots/rev", "../.."), ("models--a--b/snapshots/rev/onnx", "../../.."):
            os.makedirs(self.path(folder))
            self.outside("models--a--b/blobs/aaa", "model.onnx_data")
            os.symlink(f"{up}/blobs/aaa", self.path(f"{folder}/model.onnx"))
            os.symlink(f"{up}/blobs/bbb", self.path(f"{folder}/model.onnx_data"))
            self.loads(self.path(f"{folder}/model.onnx"))
        link = self.path("models--a--b/snapshots/rev/model.onnx_data")
        os.unlink(link)
        os.symlink(self.path("models--a--b/blobs/bbb"), link)
        self.loads(self.path("models--a--b/snapshots/rev/model.onnx"))

    def test_links_elsewhere(self):
        self.weights("models--a--b/blobs/bbb")
        self.weights("models--c--d/blobs/bbb")
        self.weights("secret")
        os.makedirs(self.path("models--c--d/snapshots/rev"))
        path = self.outside("models--a--b/snapshots/rev/model.onnx", "data")
        link = self.path("models--a--b/snapshots/rev/data")
        os.symlink("../../../secret", self.path("models--a--b/blobs/chain"))
        for target in ("../../../secret", "../../../models--c--d/blobs/bbb", "../../blobs/chain", "../../blobs/../blobs/..", "../../blobs/",
                       "../../blobs/missing", "/etc/passwd", "other"):
            with self.subTest(target):
                if os.path.lexists(link):
                    os.unlink(link)
                os.symlink(target, link)
                self.is_refused(path, "'data' cannot be opened: it is a symbolic link")
        self.weights("plain/blobs/bbb")
        os.symlink("blobs/bbb", self.path("plain/data"))  # blobs, but no cache
        self.is_refused(self.outside("plain/model.onnx", "data"), "it is a symbolic link")


class Order(FilesTest):
    def test_nodes_out_of_order(self):
        node = helper.make_node
        nodes = [node("Add", ["d", "c"], ["y"]), node("MatMul", ["c", "w"], ["d"]), node("Relu", ["x"], ["c"])]
        path = self.save(self.graph(nodes, {"w": np.eye(4)}))
        x = np.asarray([[1, -2, 3, 4]], np.float32)
        np.testing.assert_array_equal(self.run_model(path, x=x), 2 * np.maximum(x, 0))
        data = self.write_arrays("d.npz", x=x, target=x)
        self.done("train", path, "--data", data, "--steps", 1, "--save", self.path("s.onnx"), "--batch", 1)
        saved = onnx.load(self.path("s.onnx"))
        self.assertEqual([n.op_type for n in saved.graph.node], ["Add", "MatMul", "Relu"])  # byte for byte, but for the weights
        self.run_model(self.path("s.onnx"), x=x)

    def test_a_cycle(self):
        node = helper.make_node
        nodes = [node("Add", ["d", "x"], ["y"], "a"), node("MatMul", ["c", "w"], ["d"], "b"), node("Relu", ["d"], ["c"], "c")]
        self.refused(1, re.compile("cycle: '[bc]' -> '[bc]' -> '[bc]'"), "inspect", self.save(self.graph(nodes, {"w": np.eye(4)})))


class Arrays(FilesTest):
    def linear(self, outputs=3):
        rng = np.random.default_rng(0)
        return self.save(self.graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": rng.normal(size=(4, outputs))}))

    def test_fortran_order(self):
        x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
        path = self.linear()
        np.testing.assert_array_equal(self.run_model(path, x=np.asfortranarray(x)), self.run_model(path, x=x))
        for shape in (2, 3, 4), (1, 3, 0, 2), (2, 1, 3, 1, 2):
            model = self.save(self.graph([helper.make_node("Neg", ["x"], ["y"])], {}, [("x", ["N", *shape[1:]])]))
            x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
            np.testing.assert_array_equal(self.run_model(model, x=np.asfortranarray(x)), -x)

    def train(self, path, *options, **arrays):
        data = self.write_arrays("d.npz", **arrays)
        said = self.done("train", path, "--data", data, "--steps", 2, "--batch", 6, "--metrics", self.path("m.jsonl"), *options)
        return [m["loss"] for m in common.read_metrics(self.path("m.jsonl"))], said

    def test_fortran_order_says_so(self):
        x = np.ones((6, 4), np.float32)
        target = np.arange(18, dtype=np.float32).reshape(6, 3)
        losses, said = self.train(self.linear(), x=x, target=np.asfortranarray(target))
        self.assertIn("array 'target' is in Fortran order: converted", said)
        self.assertEqual(losses, self.train(self.linear(), x=x, target=target)[0])

    def test_class_numbers_in_a_column(self):
        rng = np.random.default_rng(2)
        x, target = rng.normal(size=(6, 4)).astype(np.float32), np.asarray([0, 1, 2, 2, 1, 0])
        for dtype in np.int64, np.int32:
            losses, said = self.train(self.linear(), x=x, target=target.astype(dtype)[:, None])
            self.assertIn("array 'target' has classes as [6,1]: taken as [6]", said)
            self.assertEqual(losses, self.train(self.linear(), x=x, target=target)[0])
        for micro in 1, 3:
            losses, _ = self.train(self.linear(), "--microbatches", micro, x=x, target=target[:, None])
        tokens = self.save(self.graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": rng.normal(size=(4, 7))}, [("x", ["N", 5, 4])]))
        x, target = rng.normal(size=(6, 5, 4)).astype(np.float32), rng.integers(0, 7, size=(6, 5))
        self.assertEqual(self.train(tokens, x=x, target=target[:, :, None])[0], self.train(tokens, "--class-axis", 2, x=x, target=target)[0])

    def test_a_column_that_holds_no_classes(self):
        data = self.write_arrays("d.npz", x=np.ones((6, 4), np.float32), target=np.zeros((6, 2), np.int64))
        self.refused(1, re.compile(r"target \[\d,2\]"), "train", self.linear(), "--data", data, "--batch", 6)


class Empty(FilesTest):
    def test_an_empty_axis(self):
        node = helper.make_node
        nodes = [node("MatMul", ["p", "u"], ["q"]), node("ReduceSum", ["q", "axes"], ["r"], keepdims=0), node("MatMul", ["x", "w"], ["s"]),
                 node("Add", ["r", "s"], ["y"])]
        graph = self.graph(nodes, {"u": np.ones((3, 2)), "w": np.ones((4, 2))}, [("x", ["N", 4]), ("p", ["N", "P", 3])])
        graph.initializer.append(numpy_helper.from_array(np.asarray([1]), "axes"))
        path = self.save(graph)
        x, p, target = np.ones((6, 4), np.float32), np.zeros((6, 0, 3), np.float32), np.zeros((6, 2), np.float32)
        np.testing.assert_array_equal(self.run_model(path, x=x, p=p), np.full((6, 2), 4))
        data = self.write_arrays("d.npz", x=x, p=p, target=target)
        for ranks in 1, 2:
            self.done("train", path, "--data", data, "--steps", 2, "--batch", 6, "--metrics", self.path("m.jsonl"), "--ranks", ranks,
                      "--dump-gradients", self.path("g.npz"))
            self.assertEqual(common.read_metrics(self.path("m.jsonl"))[0]["loss"], 16)
            g = np.load(self.path("g.npz"))
            np.testing.assert_array_equal(g["u"], np.zeros((3, 2)))
            np.testing.assert_array_equal(g["w"], np.full((4, 2), 4))
        self.done("plan", path, "--ranks", 1, "--dim", "P=0")
        self.done("inspect", path, "--dim", "P=0")

    def test_a_memory_limit(self):
        path = self.save(self.graph([helper.make_node("Tile", ["x", "r"], ["y"])], {}, [("x", ["N", 4])]), "t.onnx")
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 1000]), "r"))
        onnx.save(model, path)
        data = self.write_arrays("d.npz", x=np.ones((100, 4), np.float32))
        self.done("run", path, "--data", data, "--out", self.path("o.npz"), "--batch", 1, "--memory-limit", "2M")
        self.refused(1, re.compile("t.onnx: it needs .* for the outputs of 100 samples, the limit is"),
                     "run", path, "--data", data, "--out", self.path("o.npz"), "--batch", 1, "--memory-limit", "1000000")
        self.refused(1, re.compile("it needs"), "run", path, "--data", data, "--out", self.path("o.npz"), "--batch", 100, "--memory-limit", "1000")


if __name__ == "__main__":
    common.main()
