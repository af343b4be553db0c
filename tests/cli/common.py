"""What the tests of the command line share: running it, reference cases, small models."""
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ONNXPIPE = os.environ["ONNXPIPE"]
HAS_MPI = shutil.which("mpirun") is not None
CASES = ["nanogpt", "surrogate", "branches", "dlrm"]
MORE_CASES = ["gpt2", "gpt2_default_export", "gpt2_fixed_batch", "llama", "nanogpt_loss", "padded_bag", "fresh_gpt2_default",
              "fresh_surrogate_legacy"]


def model_path(name, file="model.onnx"):
    return os.path.join(ROOT, "models", name, file)


def read_case(name):
    with open(model_path(name, "case.json")) as file:
        return json.load(file)


def case_options(case):
    """The command line's options that train a reference case as PyTorch did."""
    options = ["--loss", case["loss"], "--batch", str(case["batch_size"]), "--steps", str(case["steps"])]
    for key, value in case["optimizer"].items():
        options += ["--optimizer" if key == "name" else "--" + key.replace("_", "-"), str(value)]
    return options


def read_metrics(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def busy():
    """Seconds more, where others keep the cores."""
    return 2 * os.getloadavg()[0] / (os.cpu_count() or 1)


class CommandLineTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="onnxpipe-cli-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_command(self, *words, mpi=0, timeout=300):
        return self.run_words([ONNXPIPE, *words], mpi, timeout)

    def run_words(self, words, mpi=0, timeout=300):
        command = [str(word) for word in words]
        if mpi:
            if not HAS_MPI:
                self.skipTest("this machine has no mpirun")
            command = ["mpirun", "-n", str(mpi), *command]
        environment = dict(os.environ)
        if mpi:  # what MPI itself leaks is not ours to find
            environment["ASAN_OPTIONS"] = "detect_leaks=0"
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)

    def done(self, *words, **how):
        result = self.run_command(*words, **how)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def refused(self, code, line, *words, mpi=0):
        """The command exits with the code and one line of ours, `line` (a str: exactly; a compiled pattern: a match)."""
        result = self.run_command(*words, mpi=mpi)
        lines = result.stderr.splitlines()
        ours = [l for l in lines if l.startswith("onnxpipe: ")] if mpi else lines
        self.assertEqual(len(ours), 1, result.stderr)
        said = ours[0].removeprefix("onnxpipe: ")
        if isinstance(line, str):
            self.assertEqual(said, line)
        else:
            self.assertRegex(said, line)
        self.assertEqual(result.returncode, code)
        return said

    def rank_process(self, rank, parent):
        """The process of a rank of the mpirun whose process is `parent`."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/environ", "rb") as environment:
                    ours = int(stat.read().rsplit(")", 1)[1].split()[1]) == parent
                    if ours and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment.read().split(b"\0"):
                        return int(entry)
            except (OSError, ValueError, IndexError):
                continue
        self.fail(f"no process of rank {rank}")

    def wait_for_steps(self, run, metrics, steps=1):
        """Until the file has so many lines."""
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)
        deadline = time.monotonic() + 60
        while True:
            if os.path.exists(metrics):
                with open(metrics) as file:
                    if sum(1 for _ in file) >= steps:
                        return run
            if run.poll() is not None:
                self.fail(f"it ends before that, with {run.returncode}: {run.stderr.read()}")
            self.assertLess(time.monotonic(), deadline, "no step")
            time.sleep(0.02)

    def write_arrays(self, name, **arrays):
        np.savez(self.path(name), **arrays)
        return self.path(name)


def main():
    """Runs the tests of the calling file; exit status 77, with the reasons, where every one was skipped."""
    result = unittest.main(exit=False).result
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    all_skipped = result.testsRun and len(result.skipped) == result.testsRun
    raise SystemExit(1 if not result.wasSuccessful() else 77 if all_skipped else 0)
