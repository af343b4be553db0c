"""Ranks that do not move: who waits for what from whom is said within the timeout, and nothing is left of the run."""
import fcntl
import os
import re
import signal
import subprocess
import time

import common
from common import HAS_MPI, ONNXPIPE, CommandLineTest, busy, model_path

LAST = 100000000
STOPPED = "which does not answer: its process, or its machine, is stopped; no rank moved for 2 s (--timeout)"


class Stopped(CommandLineTest):
    def start(self, *words, ranks=3):
        if not HAS_MPI:
            self.skipTest("this machine has no mpirun")
        command = ["mpirun", "-n", ranks, ONNXPIPE, "train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"),
                   "--quiet", "--batch", 8, "--microbatches", 4, "--metrics", self.path("m.jsonl"), *words]
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        run = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=environment)
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)
        return run

    def until(self, run, what):
        deadline = time.time() + 60
        while not what():
            self.assertIsNone(run.poll())
            self.assertLess(time.time(), deadline)
            time.sleep(0.01)

    def has_steps(self):
        return os.path.exists(self.path("m.jsonl")) and os.path.getsize(self.path("m.jsonl"))

    def processes(self, parent):
        """Of all ranks, by number, as mpirun started them so far."""
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/environ", "rb") as environment:
                    ours = int(stat.read().rsplit(")", 1)[1].split()[1]) == parent
                    words = dict(word.split(b"=", 1) for word in environment.read().split(b"\0") if b"=" in word)
                if ours and b"OMPI_COMM_WORLD_RANK" in words:
                    found[int(words[b"OMPI_COMM_WORLD_RANK"])] = int(entry)
            except (OSError, ValueError, IndexError):
                continue
        return found

    def expect_end(self, run, processes, within, line, stopped_in_start_up=False):
        """The line, and no other one, but of who was stopped in start-up: mpirun has it go on to tell it to end."""
        begun = time.time()
        said = run.stderr.readline()
        while said and not said.startswith("onnxpipe: "):
            said = run.stderr.readline()
        self.assertLess(time.time() - begun, within + busy())
        self.assertRegex(said.removeprefix("onnxpipe: "), line)
        _, rest = run.communicate(timeout=20)
        lines = [line for line in rest.splitlines() if line.startswith("onnxpipe: ")]
        if stopped_in_start_up and lines:
            self.assertRegex(lines.pop(), r"^onnxpipe: rank 0: ended by SIGTERM in start-up; ")
        self.assertEqual(lines, [])
        self.assertEqual(run.returncode, 1)
        deadline = time.time() + 5  # what mpirun has killed may take a moment to be gone
        while left := [process for process in processes.values() if self.lives(process)]:
            self.assertLess(time.time(), deadline, f"processes {left} are left")
            time.sleep(0.01)

    def lives(self, process):
        try:
            with open(f"/proc/{process}/stat") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    def test_in_a_step(self):
        """Whichever rank it is. It may be stopped between two steps, too."""
        for rank in (0, 1):
            with self.subTest(rank=rank):
                run = self.start("--steps", LAST, "--timeout", 2)
                self.until(run, self.has_steps)
                processes = self.processes(run.pid)
                os.kill(processes[rank], signal.SIGSTOP)
                self.expect_end(run, processes, 6, rf"^rank [0-2] waits since [0-9]+ s .*rank {rank} \((step [0-9]+|between two steps)\), " +
                                STOPPED.replace("(", r"\(").replace(")", r"\)"))
                os.remove(self.path("m.jsonl"))

    def test_in_start_up(self):
        """Before ranks know each other, or as soon as they do."""
        run = self.start("--steps", LAST, "--timeout", 2)
        self.until(run, lambda: len(self.processes(run.pid)) == 3)
        processes = self.processes(run.pid)
        os.kill(processes[0], signal.SIGSTOP)
        self.expect_end(run, processes, 10, r"^rank 1 waits since .*rank 0 \((start-up|planning)\), which does not answer: "
                        "its process", stopped_in_start_up=True)

    def test_mpi_fails_on_a_rank(self):
        """Its MPI_Init ends its process without a word to us: another one speaks."""
        if not HAS_MPI:
            self.skipTest("this machine has no mpirun")
        train = f"exec {ONNXPIPE} train {model_path('branches')} --data {model_path('branches', 'data.npz')} --quiet --steps 2"
        breaks = "for name in $(env | grep -o '^PMIX_SERVER_URI[0-9]*'); do export $name='x;tcp4://127.0.0.1:1'; done"
        for _ in range(5):  # mpirun gives ranks a second to speak: on a busy machine that may be too short
            result = self.run_words(["sh", "-c", f'if [ $OMPI_COMM_WORLD_RANK = 1 ]; then {breaks}; fi; {train}'], mpi=3)
            lines = [line for line in result.stderr.splitlines() if line.startswith("onnxpipe: ")]
            self.assertEqual(result.returncode, 1)
            if lines:
                break
        self.assertEqual(lines, ["onnxpipe: rank 0: ended by SIGTERM in start-up; mpirun sends it where MPI failed on a rank"])

    def test_signals_before_mpi_starts(self):
        """SIGUSR1 has nothing to save yet, and ends nothing."""
        run = self.start("--steps", 2)
        self.until(run, lambda: len(self.processes(run.pid)) == 3)
        processes = self.processes(run.pid)
        self.until(run, lambda: all(self.catches(process, signal.SIGUSR1) for process in processes.values()))
        for process in processes.values():
            os.kill(process, signal.SIGUSR1)
        _, stderr = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 0, stderr)

    def catches(self, process, number):
        with open(f"/proc/{process}/status") as status:
            caught = next(line for line in status if line.startswith("SigCgt:"))
        return int(caught.split()[1], 16) >> (number - 1) & 1

    def test_what_goes_on_in_time(self):
        """A rank that is stopped for a while, and all of them, change nothing: the same bits come of it."""
        steps = 40
        self.done("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--quiet", "--batch", 8,
                  "--microbatches", 4, "--ranks", 1, "--steps", steps, "--save", self.path("straight.onnx"))
        run = self.start("--steps", steps, "--timeout", 3, "--save", self.path("saved.onnx"))
        self.until(run, self.has_steps)
        processes = self.processes(run.pid)
        self.assertEqual(sorted(processes), [0, 1, 2])
        os.kill(processes[1], signal.SIGSTOP)
        time.sleep(1)
        os.kill(processes[1], signal.SIGCONT)
        for process in processes.values():
            os.kill(process, signal.SIGSTOP)
        time.sleep(4)
        for process in processes.values():
            os.kill(process, signal.SIGCONT)
        _, stderr = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 0, stderr)
        with open(self.path("saved.onnx"), "rb") as a, open(self.path("straight.onnx"), "rb") as b:
            self.assertTrue(a.read() == b.read())


class Hanging(CommandLineTest):
    def test_threads_of_one_process(self):
        """The metrics go to where nobody reads any more: rank 0 hangs in a step, and others, if any, wait for it."""
        for ranks, mpi, line in (
                (1, 0, "rank 0 does not move: it hangs in step [0-9]+"), (1, 1, "rank 0 does not move: it hangs in step [0-9]+"),
                (2, 0, r"rank 1 waits since [123] s .*rank 0 \(.*\), which does not move: it hangs in step [0-9]+")):
            with self.subTest(ranks=ranks, mpi=mpi):
                if mpi and not HAS_MPI:
                    continue
                pipe = self.path(f"pipe{ranks}{mpi}")
                os.mkfifo(pipe)
                reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    self.refused(1, re.compile(f"^{line}; no rank moved for 1 s \\(--timeout\\)$"), "train", model_path("branches"),
                                 "--data", model_path("branches", "data.npz"), "--quiet", "--steps", LAST, "--timeout", 1,
                                 "--ranks", ranks, "--metrics", pipe, mpi=mpi)
                finally:
                    os.close(reader)

    def test_a_reader_who_takes_their_time(self):
        """Of what is printed, a pager, say: the run waits for as long as they like, and goes on."""
        metrics, pipe = self.path("m.jsonl"), os.pipe()
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
        run = subprocess.Popen([ONNXPIPE, "train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--validate",
                                model_path("branches", "data.npz"), "--every", "1", "--steps", str(LAST), "--timeout", "1", "--ranks", "2",
                                "--metrics", metrics], stdout=pipe[1], stderr=subprocess.PIPE, text=True)
        os.close(pipe[1])
        reader = os.fdopen(pipe[0], "rb")
        self.addCleanup(reader.close)
        self.wait_for_steps(run, metrics)
        size = -1
        while size != os.path.getsize(metrics):
            size = os.path.getsize(metrics)
            time.sleep(1)
        time.sleep(2)
        self.assertIsNone(run.poll())
        while os.path.getsize(metrics) == size:
            self.assertTrue(reader.read1())
        run.kill()


if __name__ == "__main__":
    common.main()
