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
    from safetensors.numpy import load_file, save_file
except ImportError:
    load_file = save_file = None


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

    def test_bfloat16(self):
        self.straight_and_resumed(model_path("nanogpt"), model_path("nanogpt", "data.npz"),
                                  [(2, ["--schedule", "gpipe"]), (0, ["--ranks", 1, "--threads", 2])], "--batch", 8, "--microbatches",
                                  2, "--precision", "bf16", "--clip-norm", 1, "--ranks", 3)

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

    def test_the_best_stays(self):
        folder, other, metrics = self.path("folder"), self.path("other"), self.path("m.jsonl")
        words = ["--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--validation-split", 0.3, "--optimizer", "sgd", "--lr", 3,
                 "--every", 1, "--keep", 2, "--quiet", "--microbatches", 4]
        self.done("train", model_path("nanogpt"), *words, "--steps", 12, "--checkpoint", folder, "--metrics", metrics, "--ranks", 2)
        losses = [m["validation_loss"] for m in read_metrics(metrics)]
        best = 1 + int(np.argmin(losses))
        self.assertLess(best, 9)  # so that it is none of the newest
        link = os.path.join(folder, "best")
        self.assertEqual(os.readlink(link), f"step-{best:09}")
        self.assertEqual(sorted(os.listdir(folder)), [".lock", "best", f"step-{best:09}", "step-000000011", "step-000000012"])
        self.done("train", model_path("nanogpt"), *words, "--steps", best, "--save", self.path("there.onnx"))
        self.done("export", link, "-o", self.path("best.onnx"), "--quiet")
        with open(self.path("there.onnx"), "rb") as a, open(self.path("best.onnx"), "rb") as b:
            self.assertEqual(a.read(), b.read())
        # what was best is known to a run that goes on, and its link is one step, no folder of them
        self.done("train", model_path("nanogpt"), *words, "--steps", best + 1, "--checkpoint", other)
        self.done("train", model_path("nanogpt"), "--resume", other, "--steps", 12, "--quiet", "--ranks", 3)
        self.assertEqual(os.readlink(os.path.join(other, "best")), f"step-{best:09}")
        self.refused(2, re.compile("later than"), "train", model_path("nanogpt"), "--resume", link, "--checkpoint", folder, "--steps", 12, "--quiet")
        self.assertIn("step-000000012", os.listdir(folder))

    def test_a_copy_is_one_checkpoint(self):
        words = ["--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--quiet"]
        self.done("train", model_path("nanogpt"), *words, "--steps", 4, "--every", 2, "--checkpoint", self.path("c"))
        copy = self.path("good")
        shutil.copytree(os.path.join(self.path("c"), "step-000000002"), copy)
        before = sorted(os.listdir(copy))
        self.done("train", model_path("nanogpt"), "--resume", copy, "--steps", 5, "--quiet", "--metrics", "/dev/null")
        self.assertEqual(sorted(os.listdir(copy)), before)

    def test_a_step_that_fails_leaves_the_checkpoint_before(self):
        with np.load(model_path("surrogate", "data.npz")) as file:
            data = dict(file)
        name = next(k for k in data if k != "target")
        data[name] = data[name].astype(np.float32)
        data[name][10] = np.nan  # of the third step
        path = self.write_arrays("nan.npz", **data)
        for ranks, mpi in (1, 0), (3, 0), (2, 2):
            folder = self.path(f"failed{ranks}")
            self.refused(1, re.compile("step 3: "), "train", model_path("surrogate"), "--data", path, "--batch", 4, "--every", 1, "--steps",
                         5, "--ranks", ranks, "--checkpoint", folder, "--quiet", mpi=mpi)
            self.assertEqual(sorted(os.listdir(folder)), [".lock", "step-000000001", "step-000000002"])

    def test_what_is_written_is_not_told_as_lost(self):
        folder = self.path("c")
        os.makedirs(os.path.join(folder, "best", "in the way"))
        result = self.run_command("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--steps", 2,
                                  "--validation-split", 0.3, "--checkpoint", folder, "--quiet")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr, "^onnxpipe: the checkpoint of step 2 is written, but .*best: cannot be written")
        self.assertIn("step-000000002", os.listdir(folder))

    def test_losses_of_other_samples_are_not_compared(self):
        with np.load(model_path("nanogpt", "data.npz")) as file:
            other = self.write_arrays("other.npz", **{k: v[:24] for k, v in file.items()})
            first = self.write_arrays("first.npz", **{k: v[24:] for k, v in file.items()})
        words = ["--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--lr", 0.1, "--every", 1, "--quiet"]
        self.done("train", model_path("nanogpt"), *words, "--steps", 2, "--checkpoint", self.path("c"), "--validate", first)
        self.done("train", model_path("nanogpt"), "--resume", self.path("c"), "--steps", 3, "--quiet", "--validate", other)
        self.assertEqual(os.readlink(os.path.join(self.path("c"), "best")), "step-000000003")

    def test_data_that_was_named_from_another_folder(self):
        """A pattern, relative to where the first run began."""
        with np.load(model_path("nanogpt", "data.npz")) as file:
            arrays = dict(file)
        os.makedirs(self.path("here [1]/parts"))
        os.makedirs(self.path("there"))
        for i in range(2):
            self.write_arrays(f"here [1]/parts/p{i}.npz", **{name: a[i::2] for name, a in arrays.items()})
        words = "--batch", 8, "--every", 2, "--quiet", "--metrics", self.path("m.jsonl"), "--shuffle"
        model = model_path("nanogpt")
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.path("here [1]"))
        self.done("train", model, "--data", "parts/p?.npz", "--steps", 4, *words)
        expected = [m["loss"] for m in read_metrics(self.path("m.jsonl"))]
        self.done("train", model, "--data", "parts/p?.npz", "--validate", "parts/p0.npz", "--steps", 2, "--checkpoint", "../c", *words)
        os.chdir(self.path("there"))
        self.done("train", model, "--resume", "../c", "--steps", 4, "--quiet", "--metrics", self.path("m.jsonl"))
        self.assertEqual([m["loss"] for m in read_metrics(self.path("m.jsonl"))], expected)

    def test_other_bits_are_told(self):
        """Of another kind of device, and of another instruction set."""
        resume = "train", model_path("nanogpt"), "--resume", self.path("c"), "--dry-run"
        self.done("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--steps", 1, "--quiet", "--device", "cpu",
                  "--checkpoint", self.path("c"))
        with open(self.path("c/step-000000001/checkpoint.json")) as file:
            bits = json.load(file)["bits"]
        self.assertRegex(bits, r"cpu \w+$")
        self.assertNotIn("bits differ", " ".join(self.done(*resume, "--ranks", 2).split()))
        said = " ".join(self.done(*resume, "--device", "reference").split())
        self.assertRegex(said, f"note this run computes on reference, that of .*/step-000000001 did on {bits}: its bits differ")
        self.assertIn(f"computes on {bits}, reference, that of", " ".join(self.done(*resume, "--device", "reference,cpu", "--ranks", 2).split()))
        os.environ["ONNXPIPE_ISA"] = "plain"
        self.addCleanup(os.environ.pop, "ONNXPIPE_ISA")
        said = " ".join(self.done(*resume).split())
        self.assertRegex(said, f"computes on cpu plain, that of .* did on {bits}: its bits differ" if bits != "cpu plain" else ".")

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


class Exports(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.data = model_path("nanogpt", "data.npz")
        self.done("train", model_path("nanogpt"), "--data", self.data, "--steps", 4, "--every", 2, "--lr", 0.01, "--ranks", 2, "--quiet",
                  "--checkpoint", self.path("c"), "--save", self.path("saved.onnx"))

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def test_a_model_for_others(self):
        import onnxruntime
        last, out = self.path("c/step-000000004"), self.path("e.onnx")
        self.assertEqual(self.done("export", self.path("c"), "-o", out), f"step 4 of {last}: {out}\n")
        self.assertEqual(self.read("e.onnx"), self.read("saved.onnx"))
        self.assertEqual(self.done("export", self.path("c/step-000000002"), model_path("nanogpt"), "-o", out, "--quiet"), "")
        self.assertNotEqual(self.read("e.onnx"), self.read("saved.onnx"))
        self.done("run", out, "--data", self.data, "--out", self.path("o.npz"), "--quiet")
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        arrays = np.load(self.data)
        wanted = session.run(None, {i.name: arrays[i.name].astype(np.int64) for i in session.get_inputs()})[0]
        np.testing.assert_allclose(np.load(self.path("o.npz"))[session.get_outputs()[0].name], wanted, rtol=1e-4, atol=1e-5)

    def test_tensors_alone(self):
        import onnx
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(self.path("saved.onnx")).graph.initializer}
        self.done("export", self.path("c"), "-o", self.path("e.npz"))
        arrays = dict(np.load(self.path("e.npz")))
        if load_file:
            self.done("export", self.path("c"), "-o", self.path("e.safetensors"))
            other = load_file(self.path("e.safetensors"))
            self.assertEqual(set(other), set(arrays))
            for name, array in other.items():
                np.testing.assert_array_equal(array, arrays[name])
        self.assertGreater(len(arrays), 40)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, weights[name])

    def test_export_refuses(self):
        self.refused(2, "`onnxpipe export` needs a checkpoint", "export", "-o", self.path("e.onnx"))
        self.refused(2, "where to? give -o FILE.onnx, FILE.safetensors or FILE.npz", "export", self.path("c"))
        self.refused(2, "-o e.txt: ends in none of .onnx, .safetensors, .npz", "export", self.path("c"), "-o", "e.txt")
        self.refused(2, re.compile(r"branches/model.onnx .hash \w+. is not the model of "), "export", self.path("c"),
                     model_path("branches"), "-o", self.path("e.onnx"))

    def losses(self, model, *options):
        self.done("train", model, "--data", self.data, "--steps", 2, "--microbatches", 2, "--quiet", "--metrics", self.path("m.jsonl"), *options)
        return [m["loss"] for m in read_metrics(self.path("m.jsonl"))]

    def test_weights_to_begin_with(self):
        """A checkpoint, a model and tensors of other names begin as the saved model does."""
        model, wanted = model_path("nanogpt"), self.losses(self.path("saved.onnx"))
        self.assertNotEqual(self.losses(model), wanted)
        self.assertEqual(self.losses(model, "--init-from", self.path("c"), "--ranks", 3), wanted)
        self.assertEqual(self.losses(model, "--init-from", self.path("saved.onnx")), wanted)
        if not load_file:
            self.skipTest("there is no package safetensors (sh tests/venv.sh)")
        self.done("export", self.path("c"), "-o", self.path("e.safetensors"))
        tensors = load_file(self.path("e.safetensors"))
        named = {"backbone." + name.replace("blocks.", "h."): a for name, a in tensors.items()}
        save_file(named, self.path("named.safetensors"))
        names = ["--init-names", "blocks.*=backbone.h.*", "--init-names", "*=backbone.*"]
        self.assertEqual(self.losses(model, "--init-from", self.path("named.safetensors"), *names, "--ranks", 2), wanted)
        self.assertEqual(self.losses(model, "--init-from", self.path("named.safetensors"), *names, "--init", "normal:1"), wanted)

        first, second = sorted(tensors)[:2]
        partial = {name: a for name, a in tensors.items() if name != first}
        partial[second] = np.zeros(partial[second].shape + (1,), np.float32)
        partial["other"] = np.zeros(3, np.float32)
        save_file(partial, self.path("partial.safetensors"))
        said = " ".join(self.done("train", model, "--data", self.data, "--dry-run", "--init-from",
                                  self.path("partial.safetensors")).split())
        self.assertIn(f"partial.safetensors: {len(tensors) - 2} of {len(tensors)} tensors; the others as the model has them", said)
        self.assertIn(f"note not there: {first} ", said)
        self.assertIn(f"note of another shape or type: {second} ", said)
        self.assertRegex(said, f"note there, and not taken: .*{re.escape(second)}")
        self.assertRegex(said, "note there, and not taken: .*other")

    def same_as_that_model(self, model, other, data, *options):
        """Training that begins with the other model's tensors is training of the other model: losses, what is saved, checkpoints."""
        words = ["--data", data, "--quiet", "--metrics", self.path("m.jsonl"), *options]

        def run(*more, mpi=0):
            self.done("train", *more, "--save", self.path("s.onnx"), mpi=mpi)
            return [m["loss"] for m in read_metrics(self.path("m.jsonl"))], self.read("s.onnx")

        def same(one):
            self.assertEqual(one[0], expected[0])
            self.assertTrue(one[1] == expected[1])

        expected = run(other, *words, "--steps", 3)
        for mpi, ranks in (0, 1), (0, 2), (2, 2):
            same(run(model, *words, "--steps", 3, "--init-from", other, "--ranks", ranks, mpi=mpi))
        shutil.rmtree(self.path("k"), ignore_errors=True)
        run(model, *words, "--steps", 2, "--init-from", other, "--ranks", 2, "--checkpoint", self.path("k"))
        same(run(model, "--resume", self.path("k"), "--steps", 3, "--quiet", "--metrics", self.path("m.jsonl"), "--ranks", 1))
        self.done("export", self.path("k"), "-o", self.path("s.onnx"), "--quiet")
        self.assertTrue(self.read("s.onnx") == expected[1])

    def test_what_is_held_fixed_comes_from_there_too(self):
        options = "--freeze", "blocks.0.*", "--batch", 8, "--microbatches", 2
        said = " ".join(self.done("train", model_path("nanogpt"), "--data", self.data, "--dry-run", "--init-from", self.path("saved.onnx"),
                                  *options).split())
        self.assertRegex(said, r"saved.onnx: (\d+) of \1 tensors, and \d+ that are fixed")
        self.same_as_that_model(model_path("nanogpt"), self.path("saved.onnx"), self.data, *options)

    def test_statistics_that_stay(self):
        """--eval-mode: no step writes them."""
        data = model_path("resnet", "data.npz")
        self.done("train", model_path("resnet"), "--data", data, "--steps", 2, "--batch", 8, "--quiet", "--save", self.path("r.onnx"))
        self.same_as_that_model(model_path("resnet"), self.path("r.onnx"), data, "--eval-mode", "--batch", 8, "--microbatches", 2)

    def test_a_large_tensor_that_is_held_fixed(self):
        """Too large to be looked at while the model is bound."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper
        rng = np.random.default_rng(2)
        for name in "one.onnx", "other.onnx":
            weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), w)
                       for w, shape in (("table", (70000, 64)), ("body", (64, 64)), ("scale", (1, 64)), ("head", (64, 1)))]
            nodes = [helper.make_node("Gather", ["table", "ids"], ["a"]), helper.make_node("MatMul", ["a", "body"], ["b"]),
                     helper.make_node("Neg", ["scale"], ["n"]), helper.make_node("Mul", ["b", "n"], ["c"]),
                     helper.make_node("MatMul", ["c", "head"], ["y"])]
            graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
                                      [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])], weights)
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path(name))
        data = self.write_arrays("ids.npz", ids=rng.integers(0, 70000, 32), target=rng.normal(size=(32, 1)).astype(np.float32))
        self.same_as_that_model(self.path("one.onnx"), self.path("other.onnx"), data, "--freeze", "table", "--freeze", "scale", "--batch", 8)

    def test_beginning_refuses(self):
        model, from_it = model_path("nanogpt"), ["--init-from", self.path("c")]
        self.refused(2, re.compile("^--init-from .*: none of its [0-9]+ tensors has name, shape and type of one of the model's$"), "train",
                     model_path("branches"), "--data", model_path("branches", "data.npz"), *from_it)
        self.refused(2, "--init-names takes HERE=THERE, with one * in both or in neither, not 'a*=b'", "train", model, "--data", self.data,
                     *from_it, "--init-names", "a*=b")
        self.refused(2, "--init-names does nothing without --init-from", "train", model, "--data", self.data, "--init-names", "a=b")
        self.refused(2, re.compile("^--resume goes on with its own weights, --init-from "), "train", model, "--resume", self.path("c"),
                     *from_it)


if __name__ == "__main__":
    common.main()
