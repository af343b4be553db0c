"""The first hour: lines that are copied from the pages work, what does nothing is said, and what is chosen is printed."""
import os
import re
import shlex
import subprocess
import unittest

import numpy as np
import common
from common import HAS_MPI, ONNXPIPE, ROOT, CommandLineTest, read_metrics


def read_text(*path):
    with open(os.path.join(ROOT, *path)) as file:
        return file.read()


class Pages(CommandLineTest):
    @unittest.skipUnless(HAS_MPI, "this machine has no mpirun")
    def test_the_mpirun_line_of_the_readme(self):
        """As it stands there, with nothing about MPI in the environment: as root, with more ranks than cores."""
        line = re.search(r"^\$ (mpirun (?:.*\\\n)*.*)$", read_text("README.md"), re.M).group(1)
        words = shlex.split(line.replace("\\\n", " "))
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_"))}
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
        here = [w.replace("build/release/onnxpipe", ONNXPIPE).replace("build/quickstart", self.folder) for w in words]
        run = subprocess.run([*here, "--steps", "2"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        losses = [m["loss"] for m in read_metrics(self.path("metrics.jsonl"))]
        self.assertAlmostEqual(losses[0], 4.57417, 4)
        self.assertEqual(len(losses), 2)

    def test_the_quickstart_runs_the_same_line(self):
        script = read_text("tools", "quickstart.sh").replace("\\\n", " ")
        ran = re.search(r"^set -- (mpirun .*)$", script, re.M).group(1).replace("$onnxpipe", "build/release/onnxpipe")
        shown = re.search(r"^\$ (mpirun (?:.*\\\n)*.*)$", read_text("README.md"), re.M).group(1).replace("\\\n", " ")
        self.assertEqual(shlex.split(ran), shlex.split(shown))

    def test_mpirun_lines_can_be_copied(self):
        """Wherever a whole command is shown, it has the flags that Open MPI asks for."""
        for path in ("README.md", "docs/training.md", "docs/gpu.md", "docs/onnxpipe.1.in", "examples/train.c", "tools/quickstart.sh"):
            for line in read_text(path).replace("\\-", "-").splitlines():
                if re.search(r"\bmpirun .*-n \d+ \S+", line):
                    self.assertIn("mpirun --allow-run-as-root --oversubscribe -n ", line, path)


class Options(CommandLineTest):
    """Nothing is ignored in silence, and everything about learning is printed."""

    def setUp(self):
        super().setUp()
        self.train = ["train", common.model_path("surrogate"), "--data", common.model_path("surrogate", "data.npz"), "--steps", 2]

    def test_options_that_do_nothing_are_refused(self):
        classes = ["train", common.model_path("branches"), "--data", common.model_path("branches", "data.npz"), "--steps", 1]
        for line, words in [
            ("--momentum does nothing with --optimizer adamw: it is an option of sgd", [*self.train, "--momentum", 0.9]),
            ("--nesterov does nothing with --optimizer adam: it is an option of sgd",
             [*self.train, "--optimizer", "adam", "--nesterov"]),
            ("--beta1 does nothing with --optimizer sgd: it is an option of adam, adamw and sparse_adam",
             [*self.train, "--optimizer", "sgd", "--beta1", 0.5]),
            ("--eps does nothing with --optimizer sgd: it is an option of adam, adamw and sparse_adam",
             [*self.train, "--optimizer", "sgd", "--eps", 1e-6]),
            ("--ignore-index does nothing with a loss of mse: it is an option of cross_entropy",
             [*self.train, "--ignore-index", 3]),
            ("--class-axis does nothing with a loss of mse: it is an option of cross_entropy", [*self.train, "--class-axis", 1]),
            ("--quiet and --verbose: give one of them", [*self.train, "--quiet", "--verbose"]),
        ]:
            with self.subTest(line):
                self.refused(2, line, *words)
        self.done(*self.train, "--momentum", 0, "--ignore-index", -100)  # their defaults: what scripts write out
        self.done(*classes, "--ignore-index", 3)
        self.refused(2, "--momentum does nothing with --optimizer adamw: it is an option of sgd", "plan", self.train[1],
                     "--momentum", 0.9)

    def test_dimensions_that_nothing_has(self):
        model = common.model_path("surrogate")
        for command in (["inspect", model], ["plan", model], self.train, ["run", *self.train[1:4], "--out", self.path("o.npz")]):
            said = self.refused(2, re.compile("^--dim: no input has an open dimension 'batc', only '"), *command, "--dim", "batc=3")
            self.assertRegex(said, r"\(did you mean \w*batch\?\)$")

    def test_options_that_come_to_nothing_are_noted(self):
        text = self.done(*self.train, "--seed", 7, "--warmup-steps", 10, "--dry-run", "--save", self.path("s.onnx"))
        for line in ("--seed does nothing without --shuffle or --init",
                     "--warmup-steps 10 is more than the run's 2: --lr is never reached",
                     f"--dry-run: {self.path('s.onnx')} is not written"):
            self.assertIn(f"note          {line}\n", text)
        self.assertNotIn("note", self.done(*self.train, "--seed", 7, "--shuffle", "--warmup-steps", 2))

    def test_what_decides_learning_is_printed(self):
        def lines(*options):
            text = self.done(*self.train, "--dry-run", *options)
            return [re.search(f"^{what} +(.*)$", text, re.M).group(1) for what in ("optimizer", "learning")]

        self.assertEqual(lines(), ["adamw, learning rate 0.001, beta1 0.9, beta2 0.999, eps 1e-08, weight decay 0.01 (--optimizer, --lr)",
                                   "the rate is constant; gradients are not clipped; nothing is drawn (seed 0)"])
        self.assertEqual(lines("--optimizer", "sgd", "--momentum", 0.9, "--nesterov", "--lr", 0.1, "--lr-schedule", "cosine",
                               "--warmup-steps", 1, "--clip-norm", 2, "--shuffle", "--seed", 3),
                         ["sgd, learning rate 0.1, Nesterov momentum 0.9, weight decay 0",
                          "the rate rises over 1 step, then falls as a cosine to 0 at the end; gradients are scaled down to a norm of 2; "
                          "the order of samples is drawn (seed 3)"])


class Ends(CommandLineTest):
    def test_measured_beside_predicted(self):
        """The end of a run says what a step took, what was predicted, and how much of it every rank's nodes took."""
        words = ["train", common.model_path("nanogpt"), "--data", common.model_path("nanogpt", "data.npz"), "--steps", 4, "--batch", 16,
                 "--metrics", self.path("m.jsonl")]
        number = r"[0-9.e+]+"
        for ranks, how in ((1, {}), (3, {}), (2, {"mpi": 2})):
            text = self.done(*words, *([] if how else ["--ranks", ranks]), **how)
            line = re.search(rf"^measured: ({number}) ms a step, predicted were {number}; busy: rank (.*)$", text, re.M)
            self.assertIsNotNone(line, text)
            shares = [[int(n) for n in part.rstrip(" %").split()] for part in line.group(2).split(", ")]
            self.assertEqual([rank for rank, _ in shares], list(range(ranks)))
            for _, share in shares:
                self.assertIn(share, range(1, 101))
            seconds = [m["seconds"] for m in read_metrics(self.path("m.jsonl"))][1:]
            self.assertAlmostEqual(float(line.group(1)) / (1e3 * sum(seconds) / 3), 1, 2)
        self.assertNotIn("measured", self.done(*words, "--quiet"))
        self.assertNotIn("measured: ", self.done(*words, "--dry-run"))


    def test_ranks_that_can_end_in_order_do(self):
        """A failure of one rank in the midst of a step, whatever the others have posted: one line, and no MPI_Abort."""
        for name, batch in (("surrogate", 8), ("nanogpt", 16), ("branches", 8)):
            with np.load(common.model_path(name, "data.npz")) as data:
                arrays = {n: data[n].copy() for n in data.files}
            bad = next((n for n, a in arrays.items() if a.dtype.kind == "f"), "target")
            arrays[bad].reshape(len(arrays[bad]), -1)[2 * batch + 3, 0] = np.nan if arrays[bad].dtype.kind == "f" else 10**6
            data = self.write_arrays("d.npz", **arrays)
            for ranks in (2, 3):
                with self.subTest(name, ranks=ranks):
                    run = self.run_command("train", common.model_path(name), "--data", data, "--batch", batch, "--quiet", mpi=ranks)
                    self.assertEqual(run.returncode, 1, run.stderr)
                    ours = [line for line in run.stderr.splitlines() if line.startswith("onnxpipe: ")]
                    self.assertEqual(len(ours), 1, run.stderr)
                    self.assertRegex(ours[0], rf"^onnxpipe: step 3: .*array '{bad}', sample {2 * batch + 3}")
                    self.assertNotIn("MPI_ABORT", run.stderr)


class Launchers(CommandLineTest):
    """Ranks that MPI does not see as one world would be copies of one another."""

    def test_foreign_launchers(self):
        words = [ONNXPIPE, "train", common.model_path("surrogate"), "--data", common.model_path("surrogate", "data.npz"), "--steps", "1"]
        for rank, size in (("RANK", "WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
            def run(n, *more):
                environment = dict(os.environ, **{rank: "0", size: str(n)}, ASAN_OPTIONS="detect_leaks=0")
                return subprocess.run([*words, *more], env=environment, capture_output=True, text=True, timeout=120)

            with self.subTest(size):
                refused = run(3)
                self.assertEqual((refused.returncode, refused.stdout), (2, ""), refused.stderr)
                self.assertEqual(refused.stderr.splitlines()[-1],
                                 f"onnxpipe: {rank}=0 and {size}=3: one of 3 processes, but MPI sees it alone, and each would train the "
                                 "whole model: start them with this MPI's mpirun, or give --ranks N for N threads of each")
                alone, threads = run(1), run(3, "--ranks", "2")
                self.assertEqual(alone.returncode, 0, alone.stderr)
                self.assertEqual(threads.returncode, 0, threads.stderr)
                self.assertIn("2 threads of this process", threads.stdout)


class Windows(CommandLineTest):
    def test_what_is_printed_fits(self):
        """Words wrap, in a window; nothing of them is lost."""
        words = ["plan", common.model_path("branches"), "--ranks", 2]
        environment = dict(os.environ, COLUMNS="50")
        narrow = subprocess.run([ONNXPIPE, *map(str, words)], env=environment, capture_output=True, text=True).stdout
        self.assertLessEqual(max(map(len, narrow.splitlines())), 50)
        wide = self.done(*words)
        for phrase in ("weight decay 0.01", "proved to be at least", "a dot waiting", "the fastest by simulation of"):
            self.assertIn(phrase, " ".join(narrow.split()), narrow)
            self.assertIn(phrase, " ".join(wide.split()))

    def test_one_rank_prints_no_pipeline(self):
        alone = self.done("plan", common.model_path("branches"), "--ranks", 1)
        for word in ("bubble", "rank 0", "stage rank", "first … last"):
            self.assertNotIn(word, alone)
        self.assertIn("memory: ", alone)

    def test_a_dumb_terminal(self):
        """No colours, and no line that is drawn over: on a terminal of which TERM says so."""
        words = [ONNXPIPE, "train", common.model_path("branches"), "--data", common.model_path("branches", "data.npz"), "--ranks", "2",
                 "--steps", "3"]
        for kind, escapes in (("dumb", False), ("xterm", True)):
            environment = dict(os.environ, TERM=kind, COLUMNS="100")
            environment.pop("NO_COLOR", None)
            ours, theirs = os.openpty()
            run = subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs)
            os.close(theirs)
            text = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                text += part
            os.close(ours)
            self.assertEqual(run.wait(timeout=60), 0, text)
            self.assertEqual(b"\033" in text, escapes, text)
            self.assertIn(b"step 3/3", text)


if __name__ == "__main__":
    common.main()
