"""train: ranks of mpirun against threads of one process, bit for bit; what is saved is a model for everybody."""
import json
import os
import re
import shutil

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import common
from common import CASES, CommandLineTest, case_options, model_path, read_case, read_metrics

onnxruntime.set_default_logger_severity(3)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def cross_entropy(logits, target):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, target[..., None], -1)[..., 0]
    return float((log_sum - picked).mean())


class Train(CommandLineTest):
    def train(self, name, *options, mpi=0, tag="a"):
        case = read_case(name)
        out = self.done("train", model_path(name), "--data", model_path(name, "data.npz"), *case_options(case),
                        "--metrics", self.path(tag + ".jsonl"), "--save", self.path(tag + ".onnx"), *options, mpi=mpi)
        return read_metrics(self.path(tag + ".jsonl")), read_bytes(self.path(tag + ".onnx")), out

    def check_losses(self, name, metrics):
        case = read_case(name)
        self.assertEqual([m["step"] for m in metrics], list(range(1, case["steps"] + 1)))
        np.testing.assert_allclose([m["loss"] for m in metrics], case["losses_float64"],
                                   rtol=case["relative_tolerance"], atol=0)

    def test_mpirun_is_threads_bit_for_bit(self):
        """Ranks, schedules and transports, one number of microbatches each."""
        for name, ranks, schedule, microbatches in [("nanogpt", 4, "1f1b", 4), ("surrogate", 3, "gpipe", 2),
                                                    ("branches", 4, "1f1b", 4), ("branches", 2, "naive", 1),
                                                    ("dlrm", 3, "1f1b", 2), ("resnet", 4, "1f1b", 1),
                                                    ("resnet", 2, "gpipe", 1)]:
            with self.subTest(name, ranks=ranks, schedule=schedule):
                alone, alone_file, _ = self.train(name, "--microbatches", microbatches, tag="alone")
                ours, ours_file, _ = self.train(name, "--microbatches", microbatches, "--schedule", schedule,
                                                mpi=ranks, tag="ours")
                self.check_losses(name, ours)
                self.assertEqual([m["loss"] for m in alone], [m["loss"] for m in ours])
                self.assertEqual([m["gradient_norm"] for m in alone], [m["gradient_norm"] for m in ours])
                self.assertEqual(alone_file, ours_file)

    def test_a_tensor_that_is_tied_on_another_rank_is_saved_once(self):
        """A module that is called twice, of which the exporter wrote a transposed copy; the rank has more tensors."""
        helper, array, size = onnx.helper, onnx.numpy_helper.from_array, 8
        rng = np.random.default_rng(3)
        weights = {name: (rng.standard_normal((size, size)) / 3).astype(np.float32)
                   for name in ("first.weight", "twice.weight", "last.weight")}
        tensors = [array(weights["first.weight"], "first.weight"), array(weights["twice.weight"], "twice.weight"),
                   array(np.ascontiguousarray(weights["twice.weight"].T), "onnx::MatMul_9"),
                   array(weights["last.weight"], "last.weight")]
        nodes, value = [], "x"
        for module, weight in [(f"first.{k}", "first.weight") for k in range(8)] + [
                ("twice", "twice.weight"), ("twice_1", "onnx::MatMul_9"), ("last", "last.weight")]:
            nodes += [helper.make_node("MatMul", [value, weight], [module + "_h"], name=f"/{module}/MatMul"),
                      helper.make_node("Tanh", [module + "_h"], [module + "_y"], name=f"/{module}/Tanh")]
            value = module + "_y"
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size]) for name in ("x", value)]
        model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors),
                                  opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, self.path("tied.onnx"))
        np.savez(self.path("tied.npz"), x=rng.standard_normal((8, size)).astype(np.float32),
                 target=rng.standard_normal((8, size)).astype(np.float32))
        saved = []
        for ranks in 1, 2, 3:
            out = self.done("train", self.path("tied.onnx"), "--data", self.path("tied.npz"), "--batch", 8,
                            "--microbatches", 2, "--steps", 2, "--ranks", ranks, "--save", self.path("out.onnx"))
            self.assertIn("onnx::MatMul_9 = twice.weight transposed", out)
            saved.append(read_bytes(self.path("out.onnx")))
        self.assertEqual(saved[0], saved[1])
        self.assertEqual(saved[0], saved[2])

    def test_a_batch_too_large_for_one_microbatch_is_cut(self):
        """Whether samples meet cannot be asked of all at once, whose constants are too large to write out."""
        helper, array = onnx.helper, onnx.numpy_helper.from_array
        tensors = [array(np.ones((8, 8), np.float32), "p.weight"), array(np.ones((4008, 2), np.float32), "z.weight"),
                   array(np.arange(4000, dtype=np.float32)[None], "c"), array(np.array([4000]), "k"),
                   array(np.array([0]), "zero")]
        nodes = [helper.make_node("MatMul", ["x", "p.weight"], ["h"]), helper.make_node("Shape", ["x"], ["s"]),
                 helper.make_node("Gather", ["s", "zero"], ["n"]), helper.make_node("Concat", ["n", "k"], ["nk"], axis=0),
                 helper.make_node("Expand", ["c", "nk"], ["e"]), helper.make_node("Concat", ["h", "e"], ["w"], axis=1),
                 helper.make_node("MatMul", ["w", "z.weight"], ["y"])]
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", n]) for name, n in (("x", 8), ("y", 2))]
        model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors),
                                  opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, self.path("wide.onnx"))
        np.savez(self.path("wide.npz"), x=np.ones((16384, 8), np.float32), target=np.ones((16384, 2), np.float32))
        out = self.done("train", self.path("wide.onnx"), "--data", self.path("wide.npz"), "--batch", 16384, "--steps", 1,
                        "--freeze", "c", "--ranks", 2, "--dry-run")
        self.assertRegex(out, r"batch  .*: \d+ microbatches of \d+,")

    def test_a_padding_row_gets_no_gradient(self):
        for ranks, microbatches in (1, 1), (2, 4):
            metrics, _, _ = self.train("padded_bag", "--ranks", ranks, "--microbatches", microbatches)
            self.check_losses("padded_bag", metrics)

    def test_a_frozen_row_stays_as_it_is(self):
        """Through the lookup alone (padded_bag), and where the table is the head, too (gpt2)."""
        for name, table, row in ("padded_bag", "e.weight", 3), ("gpt2", "m.lm_head.weight", 5):
            case, files = read_case(name), []
            for ranks in 1, 2:
                saved, gradients = self.path(f"{ranks}.onnx"), self.path("g.npz")
                out = self.done("train", model_path(name), "--data", model_path(name, "data.npz"), "--batch", case["batch_size"],
                                "--microbatches", 2, "--ranks", ranks, "--steps", 2, "--lr", 0.1, "--freeze-row", f"{table}={row}",
                                "--save", saved, "--dump-gradients", gradients)
                self.assertIn(f"held fixed    row {row} of {table}: --freeze-row", out)
                with open(saved, "rb") as file:
                    files.append(file.read())
            self.assertEqual(files[0], files[1])
            read = lambda path: {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}[table]
            before, after, gradient = read(model_path(name)), read(saved), np.load(gradients)[table]
            self.assertEqual(before[row].tobytes(), after[row].tobytes())
            self.assertFalse(gradient[row].any())
            self.assertTrue(np.delete(before != after, row, 0).any(axis=1).all())
        model, data = model_path("padded_bag"), ["--data", model_path("padded_bag", "data.npz")]
        for words, message in ((["e.weight=40"], "'e.weight' is [40,16], row 40 is outside"), (["e.weight"], "is not TENSOR=ROW"),
                               (["x.weight=1"], "has no initializer 'x.weight'"),
                               (["e.weight=1", "--freeze", "e.*"], "'e.weight' does not train anyway"),
                               (["e.weight=1", "--init", "normal:1"], "--init draws them all anew")):
            self.refused(2, re.compile(".*" + re.escape(message)), "train", model, *data, "--freeze-row", *words)

    def test_metrics_and_printed_losses(self):
        metrics, _, out = self.train("branches", "--verbose", "--ranks", 2)
        self.check_losses("branches", metrics)
        for m in metrics:
            self.assertEqual(set(m), {"step", "loss", "lr", "seconds", "samples_per_second", "gradient_norm"})
            self.assertEqual(m["lr"], 0.001)
            self.assertGreater(m["seconds"], 0)
        printed = [float(l.split()[3]) for l in out.splitlines() if l.startswith("step ") and " loss " in l]
        self.assertEqual(printed, [m["loss"] for m in metrics])
        self.assertAlmostEqual(metrics[0]["gradient_norm"], read_case("branches")["first_gradient_norm_float64"], 5)

    def test_saved_models_are_models(self):
        """onnx.checker and onnxruntime take what is saved, and it computes what onnxpipe says."""
        for name in CASES:
            with self.subTest(name):
                case = read_case(name)
                self.train(name, "--ranks", 2)
                saved = self.path("a.onnx")
                onnx.checker.check_model(saved, full_check=True)
                before, after = onnx.load(model_path(name)), onnx.load(saved)
                self.assertEqual([i.name for i in before.graph.initializer], [i.name for i in after.graph.initializer])
                changed = {b.name for b, a in zip(before.graph.initializer, after.graph.initializer) if b != a}
                self.assertEqual(changed, set(case["trainable"]))
                data = np.load(model_path(name, "data.npz"))
                inputs = {i: data[i] for i in case["inputs"]}
                np.savez(self.path("inputs.npz"), **inputs)
                self.done("run", saved, "--data", self.path("inputs.npz"), "--out", self.path("out.npz"))
                theirs = onnxruntime.InferenceSession(saved).run(None, inputs)[0]
                ours = np.load(self.path("out.npz"))[case["output"]]
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_training_goes_on_from_a_saved_model(self):
        """The loss of the next batch is onnxruntime's with the saved weights."""
        case = read_case("nanogpt")
        longer, _, _ = self.train("nanogpt", tag="longer")
        self.train("nanogpt", "--steps", 3, tag="short")
        data = np.load(model_path("nanogpt", "data.npz"))
        batch, samples = case["batch_size"], len(data["target"])
        indices = np.arange(3 * batch, 4 * batch) % samples
        logits = onnxruntime.InferenceSession(self.path("short.onnx")).run(None, {"input_ids": data["input_ids"][indices]})[0]
        np.testing.assert_allclose(longer[3]["loss"], cross_entropy(logits, data["target"][indices]), rtol=1e-5)

    def test_plan_files(self):
        plan = self.path("plan.json")
        out = self.done("plan", model_path("surrogate"), "--ranks", 3, "--data", model_path("surrogate", "data.npz"),
                        "--batch", 16, "--microbatches", 4, "--schedule", "gpipe", "-o", plan,
                        "--report", self.path("plan.html"))
        with open(self.path("plan.html")) as file:
            page = file.read()
        for text in ("</html>", "3 stages, 4 microbatches of 4 samples, schedule gpipe", "… loss"):
            self.assertTrue(text in page, text)
        self.assertIn("gpipe", out)
        with open(plan) as file:
            json.load(file)
        planned, planned_file, _ = self.train("surrogate", "--plan", plan, tag="planned")
        direct, direct_file, _ = self.train("surrogate", "--microbatches", 4, tag="direct")
        self.assertEqual([m["loss"] for m in planned], [m["loss"] for m in direct])
        self.assertEqual(planned_file, direct_file)
        train = ["train", model_path("surrogate"), "--data", model_path("surrogate", "data.npz"), "--plan", plan]
        self.refused(2, f"--ranks 2 contradicts the plan {plan}, which has 3", *train, "--ranks", 2)
        self.refused(2, f"--batch 8 contradicts the plan {plan}, which has 16", *train, "--batch", 8)
        self.refused(2, f"--objective makespan contradicts the plan {plan}, which has span", "plan", *train[1:], "--objective",
                     "makespan")
        lies = [("ranks", 65536, 1, ": 65536 ranks are more than 4096"),
                ("microbatch_size", 2**62, 1, f": 'microbatch_size' is {2**62}, not from 1 to 2147483647"),
                ("device", "cqu", 1, ": --device: this build has no 'cqu', only "),
                ("precision", "bf17", 1, ": --precision: 'bf17' is none of float32, tf32, bf16"),
                ("precision", "tf32", 1, ": --precision tf32 needs a GPU (--device cuda): cpu has float32 and bf16"),
                ("optimizer", "sgdd", 2, ": the plan was made with --optimizer sgdd, not adamw")]
        for key, value, code, line in lies:
            with open(plan) as file:
                lie = dict(json.load(file), **{key: value})
            with open(self.path("lie.json"), "w") as file:
                json.dump(lie, file)
            self.refused(code, re.compile("^" + re.escape(self.path("lie.json") + line)), *train[:-1], self.path("lie.json"))

    def test_plans_hold_device_and_precision(self):
        plan, data = self.path("plan.json"), ["--data", model_path("surrogate", "data.npz")]
        train = ["train", model_path("surrogate"), *data, "--steps", 1, "--plan", plan]
        for device, other in ("reference", "cpu"), ("cpu,reference", "cpu"), ("auto", "reference"):
            self.done("plan", model_path("surrogate"), "--ranks", 2, *data, "--device", device, "-o", plan)
            with open(plan) as file:
                head = json.load(file)
            made = "cpu" if device == "auto" else device
            self.assertEqual((head["device"], head["precision"]), (made, "float32"))
            self.assertRegex(self.done(*train), f"device +{made.replace(',', ', ')}[ \\n]")
            self.done(*train, "--device", device, "--precision", "float32")
            self.refused(2, f"{plan}: the plan was made with --device {made}, not {other}", *train, "--device", other)

    def test_a_plan_for_another_loss_says_how_to_make_one_that_fits(self):
        plan, data = self.path("plan.json"), ["--data", model_path("branches", "data.npz")]
        train = ["train", model_path("branches"), *data, "--steps", 1, "--plan", plan]
        line = f"{plan}: the plan was made with --loss mse, not cross_entropy: make one that fits with `plan --data` or `plan --loss`"
        self.done("plan", model_path("branches"), "-o", plan)
        self.refused(2, line, *train)
        for fitting in data, ["--loss", "cross_entropy"]:
            self.done("plan", model_path("branches"), *fitting, "-o", plan)
            self.done(*train)

    def test_epochs_shuffle_and_seed(self):
        options = ["train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--batch", 8, "--quiet"]
        samples = len(np.load(model_path("branches", "data.npz"))["target"])

        def losses(*more):
            self.done(*options, *more, "--metrics", self.path("m.jsonl"))
            return [m["loss"] for m in read_metrics(self.path("m.jsonl"))]

        self.assertEqual(len(losses("--epochs", 2)), 2 * (samples // 8))
        plain, one, again, other = losses("--steps", 6), *(losses("--steps", 6, "--shuffle", "--seed", s) for s in (1, 1, 2))
        self.assertEqual(one, again)
        self.assertNotEqual(one, plain)
        self.assertNotEqual(one, other)

    def test_clip_norm_and_learning_rates(self):
        options = ["train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--batch", 8, "--quiet",
                   "--optimizer", "sgd", "--lr", 0.1, "--microbatches", 2]

        def run(*more, mpi=0):
            self.done(*options, *more, "--metrics", self.path("m.jsonl"), mpi=mpi)
            return read_metrics(self.path("m.jsonl"))

        cosine = run("--steps", 8, "--lr-schedule", "cosine", "--warmup-steps", 2)
        expected = [0.05, 0.1] + [0.05 * (1 + np.cos(np.pi * k / 6)) for k in range(6)]
        np.testing.assert_allclose([m["lr"] for m in cosine], expected, rtol=1e-12)
        clipped, ranks, free = run("--steps", 4, "--clip-norm", 0.1), run("--steps", 4, "--clip-norm", 0.1, mpi=3), run("--steps", 4)
        self.assertEqual([m["loss"] for m in clipped], [m["loss"] for m in ranks])
        self.assertEqual(clipped[0]["gradient_norm"], free[0]["gradient_norm"])  # before clipping
        self.assertNotEqual(clipped[1]["loss"], free[1]["loss"])

    def test_init_draws_the_same_for_any_cut(self):
        options = ["--init", "normal:0.02", "--steps", 2, "--lr", 1e-12, "--weight-decay", 0]
        one, one_file, _ = self.train("nanogpt", *options, "--ranks", 1, "--microbatches", 2, tag="one")
        four, four_file, _ = self.train("nanogpt", *options, "--microbatches", 2, mpi=4, tag="four")
        other, _, _ = self.train("nanogpt", *options, "--seed", 1, tag="other")
        self.assertEqual([m["loss"] for m in one], [m["loss"] for m in four])
        self.assertEqual(one_file, four_file)
        self.assertNotEqual(one[0]["loss"], other[0]["loss"])
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(self.path("one.onnx")).graph.initializer}
        before = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(model_path("nanogpt")).graph.initializer}
        matrices = np.concatenate([weights[n].ravel() for n in read_case("nanogpt")["trainable"] if weights[n].ndim > 1])
        self.assertAlmostEqual(matrices.std(), 0.02, 3)
        self.assertAlmostEqual(matrices.mean(), 0, 3)
        self.assertLess(abs(np.mean(((matrices / 0.02) ** 4)) - 3), 0.2)  # normal, not uniform
        np.testing.assert_allclose(weights["ln.weight"], before["ln.weight"], atol=1e-9)

    def test_weights_that_are_absent(self):
        """Files without their external data: planned as they are, trained with --init where only trained ones are absent."""
        shutil.copy(model_path("llama"), self.path("llama.onnx"))
        data = model_path("llama", "data.npz")
        self.assertIn("4 stages", self.done("plan", self.path("llama.onnx"), "--ranks", 4, "--chunks", 1))
        self.refused(1, re.compile("model.onnx.data"), "train", self.path("llama.onnx"), "--data", data, "--quiet")
        weights = {"a": np.ones((4, 8), np.float32), "b": np.ones(8, np.float32), "c": np.ones((8, 3), np.float32)}
        nodes = [onnx.helper.make_node("MatMul", ["x", "a"], ["h"]), onnx.helper.make_node("Add", ["h", "b"], ["i"]),
                 onnx.helper.make_node("MatMul", ["i", "c"], ["y"])]
        graph = onnx.helper.make_graph(
            nodes, "g", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
            [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
        onnx.save(model, self.path("small.onnx"), save_as_external_data=True, location="small.data", size_threshold=0)
        os.unlink(self.path("small.data"))
        data = self.write_arrays("d.npz", x=np.ones((8, 4), np.float32), target=np.zeros(8, np.int64))
        self.refused(1, re.compile("tensor 'a'.*small.data"), "train", self.path("small.onnx"), "--data", data, "--quiet")
        self.done("train", self.path("small.onnx"), "--data", data, "--init", "normal:0.02", "--batch", 8, "--quiet",
                  "--metrics", self.path("m.jsonl"))
        self.assertAlmostEqual(read_metrics(self.path("m.jsonl"))[0]["loss"], np.log(3), 2)

    def test_dry_run_and_types(self):
        data = np.load(model_path("branches", "data.npz"))
        path = self.write_arrays("wide.npz", **{k: v.astype(np.float64 if v.dtype.kind == "f" else np.int32) for k, v in data.items()})
        out = self.done("train", model_path("branches"), "--data", path, "--dry-run", "--ranks", 2)
        self.assertIn("array 'input_0' is float64, the model takes float32: converted", out)
        self.assertIn("cross_entropy", out)
        self.assertNotIn("step 1", out)

    def test_a_binding_that_somebody_chose_stands(self):
        """A rank alone on two cores, bound to one of them: by mpirun unasked; by another launcher, which is mpirun without its mark."""
        cores = sorted(os.sched_getaffinity(0))[:2]
        if not common.HAS_MPI or len(cores) < 2 or os.cpu_count() > len(os.sched_getaffinity(0)):
            self.skipTest("this machine has no mpirun, or one core")
        train = [common.ONNXPIPE, "train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--dry-run"]
        unbound = ["env", "-u", "OMPI_MCA_hwloc_base_binding_policy", "taskset", "-c", cores[0]]
        for words, threads in ((unbound, os.cpu_count()), (["env", "-u", "OMPI_MCA_orte_launch", *unbound], 1)):
            result = self.run_words([*words, *train], mpi=1)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"threads       {threads} a rank of {threads} core", result.stdout)


if __name__ == "__main__":
    common.main()
