"""Signals and files that cannot be written: a run that can go on does, and the exit status says how it ended."""
import json
import os
import resource
import signal
import subprocess
import time

import common
import onnx
from common import HAS_MPI, ONNXPIPE, CommandLineTest, model_path, read_metrics

LAST = 100000000


class Running(CommandLineTest):
    def start(self, *words, mpi=0, model="branches", **how):
        """A training that does not end by itself, after its first steps."""
        if mpi and not HAS_MPI:
            self.skipTest("this machine has no mpirun")
        command = [ONNXPIPE, "train", model_path(model), "--data", model_path(model, "data.npz"), "--quiet", "--steps", LAST,
                   "--metrics", self.path("m.jsonl"), *words]
        if mpi:
            command = ["mpirun", "-n", mpi, *command]
        # mpirun waits this many seconds before it passes SIGTERM on, and again before it kills
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", OMPI_MCA_odls_base_sigkill_timeout="2")
        run = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=environment, **how)
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)
        self.until(run, lambda: os.path.exists(self.path("m.jsonl")) and os.path.getsize(self.path("m.jsonl")), "no step")
        return run

    def until(self, run, what, otherwise):
        deadline = time.time() + 60
        while not what():
            self.assertIsNone(run.poll())
            self.assertLess(time.time(), deadline, otherwise)
            time.sleep(0.02)

    def end(self, run):
        """Our lines of what it said."""
        _, stderr = run.communicate(timeout=60)
        return [line.removeprefix("onnxpipe: ") for line in stderr.splitlines() if line.startswith("onnxpipe: ")]

    def trained_until(self, said):
        """The step that the last line names; every step until then is in the metrics, and the saved model loads."""
        words = said[-1].split()
        self.assertEqual(words[:3] + words[4:], f"stopped after step of {LAST}; what they trained is in".split() +
                         [self.path("saved.onnx")])
        onnx.checker.check_model(onnx.load(self.path("saved.onnx")))
        step = int(words[3])
        self.assertEqual([m["step"] for m in read_metrics(self.path("m.jsonl"))], list(range(1, step + 1)))
        return step


class Signals(Running):
    def test_the_first_saves_and_ends(self):
        for ranks in (1, 2):
            for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                with self.subTest(ranks=ranks, number=number):
                    run = self.start("--save", self.path("saved.onnx"), "--ranks", ranks)
                    run.send_signal(number)
                    said = self.end(run)
                    self.assertEqual(run.returncode, status)
                    self.assertEqual(said[0], f"{number.name}: ends after this step, and saves; another one ends it at once")
                    self.assertEqual(len(said), 2)
                    self.trained_until(said)
                    os.remove(self.path("m.jsonl"))

    def test_what_was_saved_is_what_was_trained(self):
        """The model of a run that was stopped is that of a run of so many steps, bit for bit."""
        work = ["--batch", 8, "--microbatches", 4]
        run = self.start("--save", self.path("saved.onnx"), "--ranks", 2, *work, model="nanogpt")
        run.send_signal(signal.SIGTERM)
        step = self.trained_until(self.end(run))
        self.done("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--quiet", "--steps", step,
                  "--ranks", 1, *work, "--save", self.path("straight.onnx"))
        with open(self.path("saved.onnx"), "rb") as a, open(self.path("straight.onnx"), "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_a_checkpoint_where_it_stopped(self):
        """The run that goes on from there is the one that was not stopped."""
        for mpi in (0, 2):
            with self.subTest(mpi=mpi):
                folder = self.path(f"checkpoints{mpi}")
                work = ["--batch", 8, "--microbatches", 4, "--ranks", 2]
                run = self.start(*work, "--checkpoint", folder, mpi=mpi, model="nanogpt")
                run.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                run.send_signal(signal.SIGTERM)
                said = self.end(run)
                self.assertRegex(said[-1], f"stopped after step [0-9]+ of {LAST}; what they trained is in {folder}")
                step = int(said[-1].split()[3])
                self.assertIn(f"step-{step:09d}", os.listdir(folder))
                train = ["train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--quiet", *work]
                self.done(*train, "--resume", folder, "--steps", step + 2, "--save", self.path("resumed.onnx"))
                self.done(*train, "--steps", step + 2, "--save", self.path("straight.onnx"))
                with open(self.path("resumed.onnx"), "rb") as a, open(self.path("straight.onnx"), "rb") as b:
                    self.assertTrue(a.read() == b.read())
                os.remove(self.path("m.jsonl"))

    def test_the_second_ends_at_once(self):
        """While it saves to where nothing is read, or between steps: whatever it is at."""
        run = self.start("--save", self.path("saved.onnx"))
        os.kill(run.pid, signal.SIGSTOP)
        for number in (signal.SIGINT, signal.SIGTERM):  # both wait when it goes on
            os.kill(run.pid, number)
        os.kill(run.pid, signal.SIGCONT)
        said = self.end(run)
        self.assertIn(run.returncode, (-signal.SIGINT, -signal.SIGTERM))
        self.assertRegex(said[-1], "ended by SIG(INT|TERM)")
        self.assertFalse(os.path.exists(self.path("saved.onnx")))

    def test_nothing_is_left_aside(self):
        """The second comes while the trace, which is long, is written."""
        run = self.start("--trace", self.path("t.json"), "--trace-kernels")
        self.until(run, lambda: len(read_metrics(self.path("m.jsonl"))) > 3000, "no steps")
        run.send_signal(signal.SIGINT)
        self.until(run, lambda: [name for name in os.listdir(self.folder) if name.startswith("t.json.onnxpipe.tmp")], "no trace")
        run.send_signal(signal.SIGINT)
        self.assertEqual(self.end(run)[-1], "ended by SIGINT")
        self.assertEqual(os.listdir(self.folder), ["m.jsonl"])

    def test_saving_now(self):
        for mpi in (0, 2):
            with self.subTest(mpi=mpi):
                run = self.start("--save", self.path("saved.onnx"), mpi=mpi)
                run.send_signal(signal.SIGUSR1)
                self.until(run, lambda: os.path.exists(self.path("saved.onnx")), "nothing was saved")
                run.send_signal(signal.SIGTERM)
                said = self.end(run)
                self.assertEqual([line for line in said if line.startswith("what ")][1:], [], said)
                self.trained_until(said)
                os.remove(self.path("m.jsonl"))
                os.remove(self.path("saved.onnx"))

    def test_ranks_stop_after_the_same_step(self):
        """All by mpirun, or one of them alone: then mpirun's status is that of all."""
        for rank, number, status in ((None, signal.SIGTERM, None), (0, signal.SIGINT, 130), (2, signal.SIGINT, 130),
                                     (1, signal.SIGTERM, 143)):
            with self.subTest(rank=rank):
                run = self.start("--save", self.path("saved.onnx"), mpi=3)
                os.kill(run.pid if rank is None else self.rank_process(rank, run.pid), number)
                said = self.end(run)
                self.trained_until(said)
                self.assertNotEqual(run.returncode, 0)
                if status:
                    self.assertEqual(run.returncode, status, said)
                os.remove(self.path("m.jsonl"))


class FullDisk(Running):
    def limit(self, size):
        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limited

    def train(self, *words, size=None, mpi=0):
        command = [ONNXPIPE, "train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--quiet", *words]
        if mpi:
            command = ["mpirun", "-n", mpi, *command]
        run = subprocess.run([str(word) for word in command], capture_output=True, text=True, preexec_fn=size and self.limit(size),
                             env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"), timeout=120)
        return run.returncode, [line.removeprefix("onnxpipe: ") for line in run.stderr.splitlines()
                                if line.startswith("onnxpipe: ")]

    def test_metrics_that_cannot_be_written(self):
        status, said = self.train("--steps", 9, "--metrics", self.path("m.jsonl"), "--save", self.path("saved.onnx"))
        self.assertEqual((status, said), (0, []))
        with open(self.path("m.jsonl"), "rb") as file:
            whole = [json.loads(line)["step"] for line in file]
        self.assertEqual(whole, list(range(1, 10)))
        status, said = self.train("--steps", 9, "--metrics", "/dev/full")
        self.assertEqual(status, 3)
        why = "/dev/full: cannot be written: No space left on device"
        self.assertEqual(said, [f"{why}; training goes on, and what is missing is tried again",
                                f"{why}; its last 9 lines are missing"])

    def test_a_save_that_cannot_be_written(self):
        """On one rank or several: trained, one line, status 3, and the file as it was."""
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                with open(self.path("saved.onnx"), "w") as file:
                    file.write("as it was")
                status, said = self.train("--steps", 3, "--ranks", ranks, "--save", self.path("saved.onnx"), size=20000)
                self.assertEqual(status, 3, said)
                self.assertEqual(len(said), 1)
                self.assertRegex(said[0], "saved.onnx: .*cannot be written: .*File too large")
                with open(self.path("saved.onnx")) as file:
                    self.assertEqual(file.read(), "as it was")

    def test_space_is_checked_before(self):
        """A file system that is too small is named with both numbers, and nothing is left there."""
        if os.getuid() != 0:
            self.skipTest("mounting a small file system takes root")
        small = self.path("small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], capture_output=True).returncode:
            self.skipTest("this machine mounts no tmpfs")
        try:
            for mpi in (0, 2) if HAS_MPI else (0,):
                status, said = self.train("--steps", 2, "--ranks", 2, "--save", os.path.join(small, "saved.onnx"), mpi=mpi)
                self.assertEqual((status, len(said)), (3, 1), said)
                self.assertRegex(said[0], r"it takes \d+ bytes or more, and its file system has 16384 left")
                self.assertEqual(os.listdir(small), [])
        finally:
            subprocess.run(["umount", small], check=True)

    def test_the_next_occasion(self):
        """A save that fails on demand is said; the last one, when there is room, is good, and so is the status."""
        folder = self.path("folder")
        os.mkdir(folder)
        run = self.start("--save", os.path.join(folder, "saved.onnx"), "--ranks", 2)
        os.rmdir(folder)
        run.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        self.assertIsNone(run.poll())
        os.mkdir(folder)
        run.send_signal(signal.SIGTERM)
        said = self.end(run)
        self.assertEqual(run.returncode, 143, said)
        self.assertRegex(said[0], "saved.onnx: cannot be written: .*; training goes on")
        self.assertTrue(os.path.exists(os.path.join(folder, "saved.onnx")))


if __name__ == "__main__":
    common.main()
