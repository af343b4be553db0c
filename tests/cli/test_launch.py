"""tools/launch.sh: a run that loses a rank or a host goes on from its last checkpoint on what is left; what else ends, ends."""
import os
import re
import signal
import subprocess
import unittest

import common
import hosts
from common import HAS_MPI, ONNXPIPE, ROOT, CommandLineTest, model_path, read_metrics

LAUNCH = ["sh", os.path.join(ROOT, "tools", "launch.sh")]
STEPS = 60
TRAIN = ["train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--microbatches", 4, "--quiet",
         "--steps", STEPS]


class Goes(hosts.HostsTest):
    """Runs that go on: all that they leave is what a run leaves that nothing happened to."""

    @classmethod
    def setUpClass(cls):
        if not HAS_MPI:
            raise unittest.SkipTest("there is no mpirun")

    def words(self):
        return [ONNXPIPE, *TRAIN, "--checkpoint", self.path("c"), "--every", 5, "--metrics", self.path("m.jsonl"), "--save",
                self.path("saved.onnx")]

    def goes_on(self, run, why):
        _, said = run.communicate(timeout=120)
        self.assertEqual(run.returncode, 0, said)
        lines = [line for line in said.splitlines() if line.startswith("launch.sh: ")]
        self.assertEqual(len(lines), 1, said)
        self.assertRegex(lines[0], f"^launch.sh: status (1|137), {why}: goes on with 2 rank\\(s\\) from "
                         f"{re.escape(self.path('c'))}/step-[0-9]+$")
        self.assertGreater(int(lines[0].rsplit("-", 1)[1]), 0)
        self.done(*TRAIN, "--ranks", 1, "--metrics", self.path("alone.jsonl"), "--save", self.path("alone.onnx"))
        with open(self.path("saved.onnx"), "rb") as a, open(self.path("alone.onnx"), "rb") as b:
            self.assertTrue(a.read() == b.read())
        self.assertEqual([(m["step"], m["loss"]) for m in read_metrics(self.path("m.jsonl"))],
                         [(m["step"], m["loss"]) for m in read_metrics(self.path("alone.jsonl"))])

    def test_a_rank_is_killed(self):
        run = subprocess.Popen([*LAUNCH, "-n", "3", "--", *map(str, self.words())], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
        self.wait_for_steps(run, self.path("m.jsonl"), 15)
        os.kill(next(pid for pid in self.below(run.pid) if os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(ONNXPIPE)),
                signal.SIGKILL)
        self.goes_on(run, "a rank was lost")

    def test_a_host_is_cut_off(self):
        super().setUpClass()
        on = self.make_hosts(3)
        run = on.start(*LAUNCH, "-n", 3, "--hostfile", on.path("hostfile"), "--", *self.words())
        self.wait_for_steps(run, self.path("m.jsonl"), 15)
        on.cut(2)
        self.goes_on(run, "no answer from h2")

    def below(self, pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            for child in file.read().split():
                yield int(child)
                yield from self.below(child)


class Policy(CommandLineTest):
    """With an mpirun that writes down how it was called, and does what the file `next` says."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("bin"))
        with open(self.path("bin/mpirun"), "w") as file:
            file.write('#!/bin/sh\ncd "${0%/*}/.."\necho "$*" >>calls\n. ./next\n')
        with open(self.path("bin/p"), "w"):
            pass
        for program in "mpirun", "p":
            os.chmod(self.path(f"bin/{program}"), 0o755)
        os.mkdir(self.path("c"))

    def launch(self, *words, does="exit 0", agent="false"):
        with open(self.path("next"), "w") as file:
            file.write(does)
        with open(self.path("calls"), "w"):
            pass
        result = subprocess.run([*LAUNCH, *map(str, words)], capture_output=True, text=True, timeout=60,
                                env=dict(os.environ, PATH=f"{self.path('bin')}:{os.environ['PATH']}", OMPI_MCA_plm_rsh_agent=agent))
        with open(self.path("calls")) as file:
            calls = file.read().splitlines()
        return result.returncode, calls, [l for l in result.stderr.splitlines() if l.startswith("launch.sh: ")]

    def test_what_is_not_started_again(self):
        for status in 0, 2, 3, 130, 143, 1:
            does = f"echo 'onnxpipe: step 7: the loss is nan' >&2; exit {status}"
            self.assertEqual(self.launch("-n", 4, "--", "p", "--checkpoint", self.path("c"), does=does),
                             (status, [f"-n 4 p --checkpoint {self.path('c')}"], []))

    def test_one_that_is_stopped_stays_so(self):
        """Whatever becomes of its ranks."""
        with open(self.path("next"), "w") as file:
            file.write("trap 'echo noticed that process rank 1 >&2; exit 137' TERM\ntrap 'echo >>saved' USR1\n"
                       "echo >>m.jsonl\nwhile :; do sleep 0.1; done")
        run = subprocess.Popen([*LAUNCH, "-n", "2", "--", "p", "--checkpoint", self.path("c")], stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, PATH=f"{self.path('bin')}:{os.environ['PATH']}"))
        self.wait_for_steps(run, self.path("m.jsonl"))
        run.send_signal(signal.SIGUSR1)
        self.wait_for_steps(run, self.path("saved"))
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=20)
        self.assertEqual((run.returncode, said), (137, "noticed that process rank 1\n"))

    def test_it_gives_up_without_progress(self):
        """A checkpoint is there from the second run on; none after that."""
        command = f"p --checkpoint {self.path('c')}"
        status, calls, said = self.launch("-n", 3, "--retries", 2, "--map-by", "node", "--", *command.split(),
                                          does="mkdir -p c/step-000000010; echo 'onnxpipe: rank 1 died: so' >&2; exit 137")
        self.assertEqual(status, 137)
        self.assertEqual(calls, [f"-n {n} --map-by node {command}{more}" for n, more in
                                 ((3, ""), (2, f" --resume {self.path('c')}"), (1, f" --resume {self.path('c')}"))])
        self.assertEqual([line.split(":")[2] for line in said[:2]],
                         [f" goes on with {n} rank(s) from {self.path('c')}/step-000000010" for n in (2, 1)])
        self.assertIn("gives up", said[2])

    def test_words_with_an_equals_sign(self):
        status, calls, said = self.launch("-n", 2, "--retries", 1, "--", "p", f"--checkpoint={self.path('c')}",
                                          does="mkdir -p c/step-000000010; echo 'onnxpipe: rank 1 died: so' >&2; exit 137")
        self.assertEqual(calls, [f"-n 2 p --checkpoint={self.path('c')}",
                                 f"-n 1 p --checkpoint={self.path('c')} --resume {self.path('c')}"])
        self.assertEqual((status, len(said)), (137, 2))

    def test_what_is_left_of_the_hosts(self):
        with open(self.path("hostfile"), "w") as file:
            file.write("# mine\nlocalhost slots=2\nfar slots=2 # down\n\nnear slots=1")  # without an end of its line
        agent = self.path("agent")
        with open(agent, "w") as file:
            file.write('#!/bin/sh\n[ "$1" = near ]\n')
        os.chmod(agent, 0o755)
        status, calls, said = self.launch("-n", 5, "--hostfile", self.path("hostfile"), "--retries", 1, "--", "p", "--checkpoint",
                                          self.path("c"), does="echo 'onnxpipe: rank 3 at a does not answer rank 0' >&2; exit 1",
                                          agent=agent)
        self.assertEqual(status, 1)
        self.assertEqual([call.split()[1] for call in calls], ["5", "3"])
        self.assertIn("status 1, no answer from far: goes on with 3 rank(s) from the beginning", said[0])

    def test_words_that_cannot_be(self):
        for words in ([], ["-n", 2], ["-n", "x", "--", "p"], ["-n", 2, "--", "p"], ["-n", 2, "--retries", "x", "--", "p"],
                      ["-n", 2, "--hostfile", self.path("none"), "--", "p"], ["-n", 2, "--", "p", "--checkpoint", "c", "--ranks", 2],
                      ["-n", 2, "--", "p", "--checkpoint=c", "--ranks=2"],
                      ["-n", 10**5, "--", "p", "--checkpoint", "c"], ["-n", 2, "--retries", 10**9, "--", "p", "--checkpoint", "c"]):
            status, calls, said = self.launch(*words)
            self.assertEqual((status, calls, len(said)), (2, [], 1), words)

    def test_no_such_program(self):
        for program in "/nosuch", "nosuch":
            status, calls, said = self.launch("-n", 2, "--", program, "--checkpoint", "c")
            self.assertEqual((status, calls, said), (127, [], [f"launch.sh: {program}: there is no such program"]))


if __name__ == "__main__":
    common.main()
