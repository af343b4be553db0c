"""The first hour: lines that are copied from the pages work, what does nothing is said, and what is chosen is printed."""
import os
import re
import shlex
import subprocess
import unittest

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


if __name__ == "__main__":
    common.main()
