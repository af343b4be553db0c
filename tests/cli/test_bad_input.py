"""Bad input of every kind ends in one line that a person can act on, with the exact exit status, and harms no file."""
import os
import pathlib
import re
import resource
import signal
import subprocess
import time
import unittest.mock

import numpy as np
import onnx
import common
from common import HAS_MPI, ONNXPIPE, CommandLineTest, model_path, read_metrics
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def small_model(nodes, weights, outputs=("y",), inputs=(("x", ["N", 4]),)):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(o, FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


LINEAR = [helper.make_node("MatMul", ["x", "w"], ["y"], "linear")]


class BadModels(CommandLineTest):
    def refused_model(self, path, line):
        for command in (["inspect", path], ["plan", path, "--ranks", "2"],
                        ["train", path, "--data", model_path("branches", "data.npz")]):
            with self.subTest(command[0]):
                self.refused(1, line, *command)

    def save(self, model, name="m.onnx"):
        with open(self.path(name), "wb") as file:
            file.write(model.SerializeToString())
        return self.path(name)

    def test_missing(self):
        path = self.path("nowhere.onnx")
        self.refused_model(path, f"{path}: cannot be opened: No such file or directory")

    def test_empty(self):
        open(self.path("m.onnx"), "w").close()
        self.refused_model(self.path("m.onnx"), re.compile("m.onnx: .*empty"))

    def test_text(self):
        with open(self.path("m.onnx"), "w") as file:
            file.write("This is no model, it is a letter.\n")
        self.refused_model(self.path("m.onnx"), re.compile(r"^\S*m\.onnx: "))

    def test_truncated(self):
        whole = pathlib.Path(model_path("branches")).read_bytes()
        for cut in (1, 100, len(whole) // 2, len(whole) - 1):
            with open(self.path("m.onnx"), "wb") as file:
                file.write(whole[:cut])
            self.refused_model(self.path("m.onnx"), re.compile(r"^\S*m\.onnx: "))

    def test_cycle(self):
        nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second"),
                 helper.make_node("MatMul", ["a", "w"], ["y"], "linear")]
        path = self.save(small_model(nodes, {"w": np.ones((4, 3))}))
        self.refused_model(path, re.compile(r"m\.onnx: .*(cycle|before).*"))

    def test_undefined_input(self):
        nodes = [helper.make_node("MatMul", ["x", "ghost"], ["y"], "linear")]
        path = self.save(small_model(nodes, {"w": np.ones((4, 3))}))
        self.refused_model(path, re.compile(r"m\.onnx: .*'linear' \(MatMul\).*'ghost'"))

    def test_shapes_that_do_not_fit(self):
        path = self.save(small_model(LINEAR, {"w": np.ones((5, 3))}))
        data = self.write_arrays("d.npz", x=np.zeros((8, 4), np.float32), target=np.zeros(8, np.int64))
        for command in (["plan", path, "--ranks", "1"], ["train", path, "--data", data]):
            said = self.refused(1, re.compile(r"m\.onnx: node 'linear' \(MatMul\): "), *command)
            self.assertRegex(said, r"\[\d+,4\].*\[5,3\]")

    def test_a_batch_beyond_counting(self):
        path = self.save(small_model(LINEAR, {"w": np.ones((4, 3))}, inputs=(("x", [2**62, 4]),)))
        self.refused(1, f"{path} was exported with a batch of {2**62}, which is more than 2147483647", "plan", path,
                     "--microbatches", 16)

    def test_unknown_operators_are_all_named(self):
        nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "linear"),
                 helper.make_node("Frobnicate", ["a"], ["b"], "odd", domain="org.example"),
                 helper.make_node("Hadamard", ["b"], ["y"], "odder")]
        model = small_model(nodes, {"w": np.ones((4, 3))})
        model.opset_import.append(helper.make_opsetid("org.example", 1))
        path = self.save(model)
        data = self.write_arrays("d.npz", x=np.zeros((8, 4), np.float32), target=np.zeros(8, np.int64))
        for command in (["plan", path, "--ranks", "1"], ["train", path, "--data", data]):
            said = self.refused(1, re.compile("Frobnicate.*Hadamard"), *command)
            self.assertIn("'odd'", said)
            self.assertIn("'odder'", said)


class BadData(CommandLineTest):
    def setUp(self):
        super().setUp()
        with open(self.path("m.onnx"), "wb") as file:
            file.write(small_model(LINEAR, {"w": np.ones((4, 3))}).SerializeToString())
        self.x, self.target = np.ones((8, 4), np.float32), np.zeros(8, np.int64)

    def refused_data(self, line, code=1, options=(), **arrays):
        path = self.write_arrays("d.npz", **arrays)
        line = line if not isinstance(line, str) else f"{path}: {line}"
        self.refused(code, line, "train", self.path("m.onnx"), "--data", path, *options)

    def test_names(self):
        self.refused_data("no array for the model's input 'x': the file has 'z' and 'target'", z=self.x, target=self.target)
        self.refused_data("no array 'target': the file has 'x'", x=self.x)
        self.refused_data("array 'extra' is neither 'target' nor an input of the model, which takes 'x'",
                          x=self.x, target=self.target, extra=self.x)

    def test_a_name_that_is_nearly_right(self):
        data = self.write_arrays("d.npz", inputs_0=np.ones((8, 6), np.float32), target=self.target)
        self.refused(1, re.compile(r"no array for the model's input 'input_0': the file has 'inputs_0' and 'target' \(did you mean inputs_0\?\)$"),
                     "train", model_path("branches"), "--data", data)

    def test_types(self):
        self.refused_data("array 'x' is int64, the model's input 'x' float32", x=self.x.astype(np.int64), target=self.target)

    def test_lengths(self):
        self.refused_data("array 'target' has 7 samples, array 'x' 8", x=self.x, target=self.target[:7])
        self.refused_data("array 'x' is [8,5], the model's input 'x' [N,4]", x=np.ones((8, 5), np.float32), target=self.target)
        self.refused_data(re.compile(r"d\.npz: target \[8,2\] .*prediction \[8,3\]"), x=self.x, target=np.zeros((8, 2), np.int64))

    def test_classes_out_of_range(self):
        self.target[5] = 3
        self.refused_data(re.compile(r"^step 1: .*d\.npz: target 3 of array 'target', sample 5 is outside the 3 classes \(0 to 2\)$"),
                          x=self.x, target=self.target)
        self.target[5] = -100  # ignored
        self.target[[2, 6]] = 7
        self.refused_data(re.compile(r"^step 2: .*d\.npz: target 7 of array 'target', sample 2 is "), x=self.x, target=self.target,
                          options=["--batch", 2, "--quiet"])

    def test_targets_of_many_axes(self):
        """Also where the samples are shuffled, it is the file's own place that is said."""
        with open(self.path("m.onnx"), "wb") as file:
            file.write(small_model(LINEAR, {"w": np.ones((4, 3))}, inputs=(("x", ["N", 2, 5, 4]),)).SerializeToString())
        target = np.zeros((8, 2, 5), np.int64)
        target[6, 1, 3] = -2
        for options in ([], ["--shuffle", "--batch", 2, "--steps", 4, "--quiet"]):
            self.refused_data(re.compile(r": target -2 of array 'target', sample 6, element \[1,3\] is outside"), options=options,
                              x=np.ones((8, 2, 5, 4), np.float32), target=target)

    def test_no_npz(self):
        with open(self.path("d.npz"), "w") as file:
            file.write("no zip\n")
        self.refused(1, re.compile(r"d\.npz: is no whole \.npz file"), "train", self.path("m.onnx"), "--data", self.path("d.npz"))

    def test_no_files_of_their_own_kind(self):
        """Pipes are not waited for; what is read is not written; what stands at a path and is no file stays."""
        os.mkfifo(self.path("pipe"))
        data = self.write_arrays("d.npz", x=self.x, target=self.target)
        train = ["train", self.path("m.onnx"), "--data"]
        for line, words in [("{}: is not a regular file", ["pipe"]), ("{}: is not a regular file", [data, "--plan", "pipe"]),
                            ("{}: is not a regular file", [data, "--save", "pipe"]),
                            ("{}: is not a regular file", [data, "--dump-gradients", "pipe"])]:
            self.refused(1, line.format(self.path("pipe")), *train, *[self.path(w) if w == "pipe" else w for w in words])
        model = self.path("m.onnx")
        for option, path, what in [("--metrics", data, "--data"), ("--metrics", model, "the model"), ("--save", data, "--data"),
                                   ("--dump-gradients", model, "the model")]:
            whole = open(path, "rb").read()
            self.refused(2, f"{option} {path} would overwrite {what}, which is read", *train, data, option, path)
            self.assertEqual(open(path, "rb").read(), whole)
        both = self.path("both")
        self.refused(2, f"--save and --metrics both write {both}", *train, data, "--save", both, "--metrics", both)
        again = os.path.join(os.path.dirname(both), ".", os.path.basename(both))
        self.refused(2, f"--save and --metrics both write {again}", *train, data, "--save", both, "--metrics", again)
        self.done(*train, data, "--save", model)

    def test_the_last_good_step_is_reported(self):
        self.x[5] = np.nan
        self.refused_data(re.compile("^step 3: "), options=["--batch", 2, "--metrics", self.path("m.jsonl"), "--quiet"],
                          x=self.x, target=self.target)
        self.assertEqual([m["step"] for m in read_metrics(self.path("m.jsonl"))], [1, 2])

    def test_a_loss_that_is_no_number(self):
        """Stops before the update, naming the step; the file to save to stays as it was."""
        self.x[5] = np.nan  # in the third batch of 2 samples
        with open(self.path("saved.onnx"), "w") as file:
            file.write("as it was")
        data = self.write_arrays("d.npz", x=self.x, target=self.target)
        for mpi, ranks in ((0, 1), (2, 0)):
            options = ["--ranks", ranks] if ranks else []
            with self.subTest(mpi=mpi):
                self.refused(1, f"step 3: the loss of microbatch 0 is NaN: array 'x', sample 5, element [0] is NaN in {data}", "train", self.path("m.onnx"), "--data", data, "--batch", 2,
                             "--microbatches", 1, "--save", self.path("saved.onnx"), "--quiet", *options, mpi=mpi)
                self.assertEqual(pathlib.Path(self.path("saved.onnx")).read_text(), "as it was")
                self.assertEqual(sorted(os.listdir(self.folder)), ["d.npz", "m.onnx", "saved.onnx"])

    def test_a_gradient_that_is_not_finite(self):
        """Where the loss is finite all the same: no weights of it are saved."""
        with open(self.path("m.onnx"), "wb") as file:
            file.write(small_model(LINEAR, {"w": np.full((4, 3), 1e-15)}).SerializeToString())
        data = self.write_arrays("d.npz", x=np.full((8, 4), 1e30, np.float32), target=np.full((8, 3), 1e16, np.float32))
        self.refused(1, "step 1: the gradient of 'w' is not finite; the data of its batch are finite", "train", self.path("m.onnx"), "--data", data,
                     "--steps", 1, "--save", self.path("saved.onnx"), "--quiet")
        self.assertFalse(os.path.exists(self.path("saved.onnx")))

    def test_closed_streams(self):
        """What is printed never goes into a file that is written; what cannot be printed is said."""
        data = self.write_arrays("d.npz", x=self.x, target=self.target)
        train = ["train", self.path("m.onnx"), "--data", data, "--verbose", "--metrics", self.path("m.jsonl")]
        for closed, status in (("2>&-", 0), ("0<&-", 0), ("0<&- 1>&- 2>&-", 1), ("1>/dev/full", 1)):
            with self.subTest(closed):
                run = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", ONNXPIPE, *train], capture_output=True, text=True)
                self.assertEqual(run.returncode, status, run.stderr)
                self.assertEqual([m["step"] for m in read_metrics(self.path("m.jsonl"))], [1])
        for words in (["--version"], ["--help"], ["train", "--help"]):
            run = subprocess.run(["sh", "-c", '"$@" >/dev/full', "sh", ONNXPIPE, *words], capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stderr), (1, "onnxpipe: standard output cannot be written\n"))

    def test_files_that_cannot_grow(self):
        """What a full disk does: the line names the file and the reason, and what lay there is still there."""
        data = self.write_arrays("d.npz", x=self.x, target=self.target)
        path = self.path("there")

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))

        train = ["train", self.path("m.onnx"), "--data", data, "--steps", 9, "--quiet"]
        times = [f"--{name}-ms=1" for name in ("forward", "backward-input", "backward-weight")]
        cannot = f"{re.escape(path)}: .*cannot be written: .*File too large"
        goes_on = f"{cannot}; training goes on\nonnxpipe: the gradients of step 1 are not there: "
        for status, said, words in [(3, goes_on, [*train, "--dump-gradients", path]),
                                    (1, "", ["run", self.path("m.onnx"), "--data", data, "--out", path]),
                                    (1, "", ["plan", self.path("m.onnx"), "--quiet", "-o", path]),
                                    (1, "", ["plan", self.path("m.onnx"), "--quiet", "--report", path]),
                                    (1, "", ["simulate", "--ranks", 2, "--microbatches", 2, *times, "--report", path])]:
            with self.subTest(words[-2]):
                with open(path, "w") as file:
                    file.write("as it was")
                run = subprocess.run([ONNXPIPE, *map(str, words)], capture_output=True, text=True, preexec_fn=limit)
                self.assertEqual(run.returncode, status, run.stderr)
                self.assertRegex(run.stderr, f"^onnxpipe: {said}{cannot}\n$")
                with open(path) as file:
                    self.assertEqual(file.read(), "as it was")


class BadCommandLines(CommandLineTest):
    def linear(self):
        with open(self.path("m.onnx"), "wb") as file:
            file.write(small_model(LINEAR, {"w": np.ones((4, 3))}).SerializeToString())
        return self.path("m.onnx")

    def test_usage(self):
        model, data = model_path("branches"), model_path("branches", "data.npz")
        train = ["train", model, "--data", data]
        for line, words in [
            ("'fly' is no subcommand: inspect, plan, train, run, simulate, edit, export or profile", ["fly"]),
            ("'a?b' is one word too many", ["inspect", "m", "a\nb"]),
            ("`onnxpipe train` needs a model", ["train"]),
            ("train needs --data FILE, or --tokens FILE", ["train", model]),
            ("'b' is one word too many", ["inspect", "a", "b"]),
            ("--colour is no option of `train` (--help lists them)", [*train, "--colour", "red"]),
            ("--epoch is no option of `train`, did you mean --epochs? (--help lists them)", [*train, "--epoch", 3]),
            ("--out is no option of `train`, but of run (--help lists them)", [*train, "--out", "o.npz"]),
            ("'tarin' is no subcommand: inspect, plan, train, run, simulate, edit, export or profile (did you mean train?)", ["tarin"]),
            ("--optimizer: 'adamww' is none of sgd, adam, adamw, sparse_adam (did you mean adamw?)", [*train, "--optimizer", "adamww"]),
            ("--lr needs a value", [*train, "--lr"]),
            ("--lr: 'fast' is no number", [*train, "--lr", "fast"]),
            ("--ranks: 0 is less than 1", [*train, "--ranks", "0"]),
            ("--batch 9 does not divide by --microbatches 2", [*train, "--batch", 9, "--microbatches", 2]),
            (f"--batch 100 is more than the 80 samples of {data}", [*train, "--batch", 100]),
            ("--last-batch: 'keep' is none of drop, exact", [*train, "--last-batch", "keep"]),
            ("--steps 3 and --epochs 2: give one of them", [*train, "--steps", 3, "--epochs", 2]),
            ("--replan and --trace t.json: a timeline is of one plan", [*train, "--replan", "--trace", "t.json"]),
            *((f"--replan plans anew, and --{kept} f is to be kept: give one of them", [*train, "--replan", f"--{kept}", "f"])
              for kept in ("plan", "schedule-file")),
            ("--loss: 'hinge' is none of auto, cross_entropy, mse, bce_with_logits, model", [*train, "--loss", "hinge"]),
            ("--init: 'normal:x' is not normal:S with a deviation S above 0", [*train, "--init", "normal:x"]),
            ("--optimizer: 'lion' is none of sgd, adam, adamw, sparse_adam", [*train, "--optimizer", "lion"]),
            (re.compile("^--device: this build has no 'abacus', only "), [*train, "--device", "abacus"]),
            (re.compile(r"^--device: this build has no 'referense', only .* \(did you mean reference\?\)$"), [*train, "--device", "referense"]),
            ("--precision: 'half' is none of float32, tf32, bf16", [*train, "--precision", "half"]),
            ("--precision tf32 needs a GPU (--device cuda): cpu has float32 and bf16", [*train, "--precision", "tf32"]),
            ("3 stages need 2 cuts, but only 1 is possible", ["plan", self.linear(), "--ranks", 3]),
            ("4096 stages need 4095 cuts, but only 1 is possible", ["plan", self.linear(), "--ranks", 4096]),
            ("--cut x: no node of the forward pass makes a tensor of this name", ["plan", self.linear(), "--ranks", 2, "--cut", "x"]),
            ("--pin: 'x' is not GLOB=RANK", ["plan", self.linear(), "--ranks", 2, "--pin", "x"]),
            ("--pin *=2: the ranks are 0 to 1", ["plan", self.linear(), "--ranks", 2, "--pin", "*=2"]),
            ("--same-stage zz*: no node of the graph has such a name",
             ["plan", self.linear(), "--ranks", 2, "--same-stage", "zz*"]),
            ("--dim: 'T' is not NAME=N with a size of at least 0", [*train, "--dim", "T"]),
            (re.compile("--output: .* has no output 'logits', it has 'output'"), [*train, "--output", "logits"]),
        ]:
            with self.subTest(line):
                self.refused(2, line, *words)

    def test_instruction_set(self):
        words = ["train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--device", "cpu"]
        with unittest.mock.patch.dict(os.environ, {"ONNXPIPE_ISA": "sse9"}):
            self.refused(2, re.compile("^ONNXPIPE_ISA: this build knows no instruction set 'sse9'; it has .*plain$"), *words)

    def test_under_mpirun(self):
        train = ["train", model_path("branches"), "--data", model_path("branches", "data.npz")]
        self.refused(2, "--ranks 3 contradicts mpirun, which started 2: leave it out", *train, "--ranks", 3, mpi=2)
        self.refused(2, "--lr: 'fast' is no number", *train, "--lr", "fast", mpi=2)
        path = self.path("nowhere.onnx")
        self.refused(1, f"{path}: cannot be opened: No such file or directory", "train", path, "--data", "d.npz", mpi=2)
        self.refused(1, re.compile("^/nowhere/m.jsonl: cannot be written: "), *train, "--metrics", "/nowhere/m.jsonl", mpi=2)

    def test_memory(self):
        said = self.refused(1, re.compile("rank"), "train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"),
                            "--ranks", 2, "--memory-limit", "64K")
        self.assertRegex(said, r"\d")

    def test_help(self):
        self.assertIn("onnxpipe train", self.done("--help"))
        self.assertIn("--memory-limit", self.done("train", "--help"))
        self.assertNotIn("--memory-limit ", self.done("inspect", "--help"))
        self.assertTrue(self.done("--version").startswith("onnxpipe "))


class Killed(CommandLineTest):
    def test_an_interrupt(self):
        """What has taken no step ends at once: one line, an exit that says so, and the file to save to as it was."""
        with open(self.path("saved.onnx"), "w") as file:
            file.write("as it was")
        for number, name in ((signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")):
            run = subprocess.Popen([ONNXPIPE, "profile", model_path("gpt2"), "--data", model_path("gpt2", "data.npz")],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self.addCleanup(run.stderr.close)
            self.addCleanup(run.kill)
            while not self.catches(run.pid, number):
                self.assertIsNone(run.poll())
                time.sleep(0.005)
            run.send_signal(number)
            _, stderr = run.communicate(timeout=30)
            self.assertEqual((run.returncode, stderr), (-number, f"onnxpipe: ended by {name}\n"))
            self.assertEqual(pathlib.Path(self.path("saved.onnx")).read_text(), "as it was")

    def catches(self, process, number):
        with open(f"/proc/{process}/status") as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
        return int(caught, 16) >> (number - 1) & 1

    def process_of_rank(self, rank, parent):
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/environ", "rb") as environment:
                    ours = int(stat.read().rsplit(")", 1)[1].split()[1]) == parent
                    if ours and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment.read().split(b"\0"):
                        return int(entry)
            except (OSError, ValueError, IndexError):
                continue
        self.fail(f"no process of rank {rank}")

    def test_a_killed_rank_is_named(self):
        """The run ends within ten seconds, non-zero, and a line of ours names the rank; saved files stay whole."""
        if not HAS_MPI:
            self.skipTest("this machine has no mpirun")
        with open(self.path("saved.onnx"), "w") as file:
            file.write("as it was")
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        run = subprocess.Popen(["mpirun", "-n", "3", ONNXPIPE, "train", model_path("nanogpt"), "--data",
                                model_path("nanogpt", "data.npz"), "--steps", "100000", "--batch", "8", "--quiet",
                                "--metrics", self.path("m.jsonl"), "--save", self.path("saved.onnx")],
                               stderr=subprocess.PIPE, text=True, env=environment)
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.kill)
        deadline = time.time() + 60
        while not (os.path.exists(self.path("m.jsonl")) and os.path.getsize(self.path("m.jsonl"))):
            self.assertLess(time.time(), deadline, "no step within a minute")
            self.assertIsNone(run.poll())
            time.sleep(0.1)
        killed = time.time()
        os.kill(self.process_of_rank(1, run.pid), signal.SIGKILL)
        _, stderr = run.communicate(timeout=30)
        self.assertLess(time.time() - killed, 10)
        self.assertNotEqual(run.returncode, 0)
        ours = [l for l in stderr.splitlines() if l.startswith("onnxpipe: ")]
        self.assertEqual(len(ours), 1, stderr)
        self.assertIn("rank 1", ours[0])
        self.assertEqual(pathlib.Path(self.path("saved.onnx")).read_text(), "as it was")


if __name__ == "__main__":
    common.main()
