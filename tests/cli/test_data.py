"""Data in other forms than one .npz: the same samples give the same losses, bit for bit."""
import os
import re
import unittest

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common import HAS_MPI, CommandLineTest, case_options, model_path, read_case, read_metrics


class Data(CommandLineTest):
    def losses(self, *words, model="branches", mpi=0):
        metrics = self.path("m.jsonl")
        self.done("train", model_path(model), *case_options(read_case(model)), "--steps", 5, "--quiet", "--metrics", metrics,
                  *words, mpi=mpi)
        return [step["loss"] for step in read_metrics(metrics)]

    def arrays(self, model="branches"):
        with np.load(model_path(model, "data.npz")) as file:
            return {name: file[name] for name in file.files}

    def write_shards(self, folder, cuts):
        arrays = self.arrays()
        os.mkdir(self.path(folder))
        for i, (first, end) in enumerate(zip(cuts, cuts[1:])):
            part = {name: array[first:end] for name, array in arrays.items()}
            if i == 1:  # a shard may be a folder, too
                os.mkdir(self.path(f"{folder}/{i:02}"))
                for name, array in part.items():
                    np.save(self.path(f"{folder}/{i:02}/{name}.npy"), array)
            elif i == 2:
                np.savez_compressed(self.path(f"{folder}/{i:02}.npz"), **part)
            else:
                np.savez(self.path(f"{folder}/{i:02}.npz"), **part)
        return self.path(folder)

    def test_shards_and_folders(self):
        samples = len(self.arrays()["target"])
        one = self.losses("--data", model_path("branches", "data.npz"), "--shuffle")
        shards = self.write_shards("shards", [0, 3, samples // 2, samples - 1, samples]) + "/*"
        self.assertEqual(one, self.losses("--data", shards, "--shuffle"))
        self.assertEqual(one, self.losses("--data", shards, "--shuffle", "--ranks", 3))
        self.assertEqual(one, self.losses("--data", shards, "--shuffle", mpi=2))
        self.assertIn(f"{shards}: {samples} samples", self.done("train", model_path("branches"), "--data", shards, "--dry-run"))
        os.mkdir(self.path("folder"))
        for name, array in self.arrays().items():
            np.save(self.path(f"folder/{name}.npy"), array)
        self.assertEqual(one, self.losses("--data", self.path("folder"), "--shuffle"))

    def test_much_that_is_deflated_is_inflated_once_a_machine(self):
        arrays = {name: np.concatenate([array] * (90000 // len(array))) for name, array in self.arrays().items()}
        self.assertGreater(sum(array.nbytes for array in arrays.values()), 4 << 20)
        np.savez(self.path("stored.npz"), **arrays)
        np.savez_compressed(self.path("deflated.npz"), **arrays)
        os.mkdir(self.path("t"))
        os.environ["TMPDIR"], before = self.path("t"), os.environ.get("TMPDIR")
        try:
            for mpi in (0, 2) if HAS_MPI else (0,):
                self.assertEqual(self.losses("--data", self.path("stored.npz"), "--shuffle", mpi=mpi),
                                 self.losses("--data", self.path("deflated.npz"), "--shuffle", mpi=mpi))
        finally:
            os.environ.pop("TMPDIR")
            if before:
                os.environ["TMPDIR"] = before
        self.assertEqual([name for name in os.listdir(self.path("t")) if name.startswith("onnxpipe")], [])

    def test_a_shard_that_is_wrong_is_named(self):
        shards = self.write_shards("shards", [0, 3, 6, 10])
        part = {name: array[:2] for name, array in self.arrays().items()}
        part["input_1"] = part["input_1"][:, :-1]
        np.savez(self.path("shards/02.npz"), **part)
        said = self.refused(1, re.compile(r"shards/02\.npz: array 'input_1' is float32 \[2,\d+\], that of .*/shards/00\.npz float32"),
                            "train", model_path("branches"), "--data", shards + "/*")
        self.assertNotIn("\n", said)


class Tokens(CommandLineTest):
    TOKENS = 1 + 32 * 100 + 7  # the last seven make no sample

    def setUp(self):
        super().setUp()
        self.tokens = np.random.default_rng(3).integers(0, 96, self.TOKENS)

    def write(self, name, tokens, dtype="<u2"):
        tokens.astype(dtype).tofile(self.path(name))
        return self.path(name)

    def as_arrays(self, *parts):
        inputs, targets = [], []
        for part in parts:
            n = (len(part) - 1) // 32 * 32
            inputs.append(part[:n].reshape(-1, 32))
            targets.append(part[1:n + 1].reshape(-1, 32))
        return np.concatenate(inputs), np.concatenate(targets)

    def losses(self, *words, model="nanogpt", mpi=0):
        metrics = self.path("m.jsonl")
        self.done("train", model_path(model), "--batch", 8, "--microbatches", 2, "--steps", 4, "--shuffle", "--quiet", "--metrics",
                  metrics, *words, mpi=mpi)
        return [step["loss"] for step in read_metrics(metrics)]

    def test_they_are_what_arrays_of_them_would_be(self):
        inputs, targets = self.as_arrays(self.tokens)
        np.savez(self.path("d.npz"), input_ids=inputs, target=targets)
        expected = self.losses("--data", self.path("d.npz"))
        file = self.write("t.bin", self.tokens)
        for more, mpi in ((), 0), (("--ranks", 2), 0), ((), 2):
            self.assertEqual(expected, self.losses("--tokens", file, *more, mpi=mpi))
        self.assertEqual(expected, self.losses("--tokens", self.write("t4.bin", self.tokens, "<u4"), "--token-type", "uint32"))
        np.save(self.path("t.npy"), self.tokens)
        self.assertEqual(expected, self.losses("--tokens", self.path("t.npy"), "--sequence", 32))

    def test_a_run_goes_on(self):
        file, metrics = self.write("t.bin", self.tokens), self.path("m.jsonl")
        train = "train", model_path("nanogpt"), "--quiet", "--metrics", metrics, "--tokens", file
        common = "--batch", 8, "--microbatches", 2, "--shuffle", "--validation-split", 0.2
        self.done(*train, *common, "--steps", 6)
        expected = [step["loss"] for step in read_metrics(metrics)]
        self.done(*train, *common, "--steps", 3, "--checkpoint", self.path("c"))
        self.done("train", model_path("nanogpt"), "--quiet", "--metrics", metrics, "--resume", self.path("c"), "--steps", 6,
                  "--ranks", 2)
        self.assertEqual(expected[3:], [step["loss"] for step in read_metrics(metrics)][-3:])

    def test_files_follow_each_other(self):
        parts = self.tokens[:1000], self.tokens[1000:]
        inputs, targets = self.as_arrays(*parts)
        np.savez(self.path("d.npz"), input_ids=inputs, target=targets)
        for i, part in enumerate(parts):
            self.write(f"t{i}.bin", part)
        self.assertEqual(self.losses("--data", self.path("d.npz")), self.losses("--tokens", self.path("t?.bin")))

    def test_a_model_with_a_loss_of_its_own_is_told(self):
        file = self.write("t.bin", self.tokens)
        inputs, targets = self.as_arrays(self.tokens)
        np.savez(self.path("d.npz"), input_0=inputs, input_1=targets)
        model = model_path("nanogpt_loss")
        self.refused(2, "--tokens: what the model's input 'input_1' gets is open: --token-input input_1=tokens, or next, positions, "
                        "ones, zeros", "train", model, "--tokens", file)
        roles = "--token-input", "input_0=tokens", "--token-input", "input_1=next"
        self.assertEqual(self.losses("--data", self.path("d.npz"), model="nanogpt_loss"),
                         self.losses("--tokens", file, *roles, model="nanogpt_loss"))

    def test_positions_and_masks(self):
        """x = table[tokens] + places[positions] * mask + kind[types]"""
        inputs = [helper.make_tensor_value_info(name, kind, ["N", "T"]) for name, kind in
                  (("input_ids", TensorProto.INT64), ("position_ids", TensorProto.INT64),
                   ("attention_mask", TensorProto.FLOAT), ("token_type_ids", TensorProto.INT32))]
        rng = np.random.default_rng(5)
        weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
                   for name, shape in (("table", (96, 8)), ("places", (32, 8)), ("kinds", (2, 8)), ("head", (8, 96)))]
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["a"]),
                 helper.make_node("Gather", ["places", "position_ids"], ["b"]),
                 helper.make_node("Gather", ["kinds", "token_type_ids"], ["c"]),
                 helper.make_node("Unsqueeze", ["attention_mask", "last"], ["mask"]),
                 helper.make_node("Mul", ["b", "mask"], ["d"]), helper.make_node("Add", ["a", "d"], ["e"]),
                 helper.make_node("Add", ["e", "c"], ["f"]), helper.make_node("MatMul", ["f", "head"], ["y"])]
        weights.append(numpy_helper.from_array(np.array([2]), "last"))
        graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 96])],
                                  weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path("m.onnx"))
        ids, targets = self.as_arrays(self.tokens)
        places = np.broadcast_to(np.arange(32), ids.shape)
        np.savez(self.path("d.npz"), input_ids=ids, target=targets, position_ids=places,
                 attention_mask=np.ones(ids.shape, np.float32), token_type_ids=np.zeros(ids.shape, np.int32))
        file = self.write("t.bin", self.tokens)
        model = "train", self.path("m.onnx"), "--steps", 3, "--batch", 4, "--shuffle", "--metrics", self.path("m.jsonl"), "--quiet"
        self.done(*model, "--data", self.path("d.npz"))
        expected = [step["loss"] for step in read_metrics(self.path("m.jsonl"))]
        for more in (), ("--ranks", 2, "--microbatches", 2):
            self.done(*model, "--tokens", file, "--sequence", 32, *more)
            losses = [step["loss"] for step in read_metrics(self.path("m.jsonl"))]
            if not more:
                self.assertEqual(losses, expected)
            np.testing.assert_allclose(losses, expected, rtol=1e-5)
        self.refused(2, "--tokens needs --sequence T: the model's input 'input_ids' takes any number of tokens", "train",
                     self.path("m.onnx"), "--tokens", file)
        graph.input[1].CopyFrom(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["T", "N"]))
        graph.node[1].input[1] = "turned"
        graph.node.insert(0, helper.make_node("Transpose", ["position_ids"], ["turned"]))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path("m.onnx"))
        self.refused(1, f"{file}: input 'position_ids' has its samples along axis 1: of tokens they are along axis 0", "train",
                     self.path("m.onnx"), "--tokens", file, "--sequence", 32, "--batch-axis", "input_ids=0")

    def test_what_is_wrong_is_named(self):
        model = model_path("nanogpt")
        file = self.write("t.bin", self.tokens)
        few = self.write("few.bin", self.tokens[:32])
        odd = self.path("odd.bin")
        with open(odd, "wb") as stream:
            stream.write(b"123")
        unknown = self.tokens.copy()
        unknown[32 * 3 + 2] = 500  # it is a target, too: of the place before
        unknown = self.write("unknown.bin", unknown)
        np.save(self.path("f.npy"), np.zeros(99, np.float32))
        for code, line, words in (
                (1, f"{few}: 32 tokens make no sample of 32, which takes 33", ["--tokens", few]),
                (1, f"{odd}: 3 bytes are no whole number of uint16 tokens", ["--tokens", odd]),
                (1, f"{self.path('none')}: cannot be opened: No such file or directory", ["--tokens", self.path("none")]),
                (1, f"{self.path('f.npy')}: is float32 [99]: tokens are one axis of whole numbers",
                 ["--tokens", self.path("f.npy")]),
                (1, f"step 1: {unknown}: target 500 of array 'target', sample 3, element [1] is outside the 96 classes (0 to 95)",
                 ["--tokens", unknown, "--quiet"]),
                (2, "--sequence 16: the model's input 'input_ids' takes 32 tokens", ["--tokens", file, "--sequence", 16]),
                (2, f"--data d.npz and --tokens {file}: give one of them", ["--tokens", file, "--data", "d.npz"]),
                (2, "--sequence does nothing without --tokens", ["--data", model_path("nanogpt", "data.npz"), "--sequence", 32]),
                (2, "--token-input x=tokens: the model has no input 'x'", ["--tokens", file, "--token-input", "x=tokens"]),
                (2, "--token-input input_ids=all: not tokens, next, positions, ones or zeros",
                 ["--tokens", file, "--token-input", "input_ids=all"]),
                (2, "--tokens: no input of the model gets the tokens: --token-input INPUT=tokens",
                 ["--tokens", file, "--token-input", "input_ids=zeros"])):
            with self.subTest(line=line):
                self.refused(code, line, "train", model, *words)


class Split(CommandLineTest):
    def test_the_last_samples_are_not_trained_on(self):
        data, metrics = model_path("branches", "data.npz"), self.path("m.jsonl")
        with np.load(data) as file:
            arrays = {name: file[name] for name in file.files}
        samples = len(arrays["target"])
        rest = round(0.25 * samples)
        np.savez(self.path("d.npz"), **{name: array[:samples - rest] for name, array in arrays.items()})
        train = "train", model_path("branches"), "--batch", 4, "--epochs", 2, "--shuffle", "--metrics", metrics
        self.done(*train, "--data", self.path("d.npz"))
        expected = [step["loss"] for step in read_metrics(metrics)]
        said = self.done(*train, "--data", data, "--validation-split", 0.25)
        self.assertIn(f"the last {rest} samples of {data}", said)
        self.assertIn(f"{data}: {samples - rest} samples", said)
        self.assertEqual(expected, [step["loss"] for step in read_metrics(metrics)])

    def test_no_fraction_is_refused(self):
        train = "train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--validation-split"
        self.refused(2, "--validation-split 1 is no fraction between 0 and 1", *train, 1)
        self.refused(2, re.compile("--validation-split 1e-06 of [0-9]+ samples leaves none for validation"), *train, 1e-6)
        self.refused(2, re.compile("--validation-split 0.9999 of [0-9]+ samples leaves none to train on"), *train, 0.9999)


if __name__ == "__main__":
    unittest.main()
