"""The matrix of faults: each is done to a run, at a moment that tests/cli/faults.c holds, and these hold whatever the cell:

- nothing is lost that had its name: a checkpoint that lies there when the run ends is where the next start goes on,
  unless the fault was done to that checkpoint, which is named then;
- the cause is named in one line, within seconds;
- the next start reaches the losses and the weights of a run that nothing happened to, bit for bit, and leaves nothing behind.

               start-up  planning  load  a step  a checkpoint
    killed         x         x       x      x         x
    stopped        x         x       x      x         x        a process; of threads none is stopped alone
    full disk      -         x       x      x         x        nothing is written at start-up
    torn write     -         -       x      x         x        at start-up and in planning nothing is written; what is torn
                                                               in a step is a line of metrics, and in a load what was torn before
    corrupted      -         -       x      -         x        checkpoints are read in the load alone; beside one that is being
    missing        -         -       x      x         x        written lies an older one that is not looked at
    two runs       x         x       x      x         x
    cut data       x         x       x      x         x
"""
import fcntl
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import common
import numpy as np
from common import HAS_MPI, ONNXPIPE, CommandLineTest, busy, model_path, read_metrics

STEPS = 6
FIRST = 2  # the step of the checkpoint that every run begins with
WORK = ["--batch", 8, "--microbatches", 2, "--shuffle", "--seed", 3, "--steps", STEPS]
SECONDS = 10
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where syncing takes no time
DIED = r"rank {} died: its connection closed"


def numbers(metrics):
    return [(m["step"], m["loss"], m["gradient_norm"]) for m in metrics]


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def cut(path, share=0.5):
    os.truncate(path, int(os.path.getsize(path) * share))


def flip(path):
    """The lowest bit of a byte in the middle."""
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def state_of(pid):
    """R, S, T, Z, …; None: it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


class Faults(CommandLineTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.mkdtemp(prefix="onnxpipe-faults-", dir=MEMORY)
        cls.addClassCleanup(shutil.rmtree, cls.shared)
        compiler = shutil.which("cc")
        if not compiler:
            raise unittest.SkipTest("this machine has no C compiler to build tests/cli/faults.c with")
        cls.shim = os.path.join(cls.shared, "faults.so")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "faults.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", cls.shim, source, "-ldl"], check=True)
        cls.straight(os.path.join(cls.shared, "begun"), FIRST)
        cls.metrics, cls.model = cls.straight(os.path.join(cls.shared, "straight"), STEPS)

    @classmethod
    def straight(cls, folder, steps):
        """A run that nothing happens to: its metrics and its model."""
        os.mkdir(folder)
        files = {name: os.path.join(folder, name) for name in ("checkpoints", "m.jsonl", "saved.onnx")}
        command = [ONNXPIPE, "train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--quiet", *WORK, "--ranks",
                   2, "--every", 1, "--checkpoint", files["checkpoints"], "--metrics", files["m.jsonl"], "--save", files["saved.onnx"],
                   "--steps", steps]
        subprocess.run([str(word) for word in command], check=True)
        return numbers(read_metrics(files["m.jsonl"])), read_bytes(files["saved.onnx"])

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="onnxpipe-cli-", dir=MEMORY)
        self.addCleanup(shutil.rmtree, self.folder)
        self.begin()

    def begin(self):
        """Everything as a run of two steps left it."""
        for name in os.listdir(self.folder):
            path = self.path(name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        shutil.copytree(os.path.join(self.shared, "begun", "checkpoints"), self.path("c"))
        shutil.rmtree(self.step(FIRST - 1))
        shutil.copy(os.path.join(self.shared, "begun", "m.jsonl"), self.path("m.jsonl"))
        shutil.copy(model_path("branches", "data.npz"), self.path("d.npz"))

    def step(self, step, file=""):
        return os.path.join(self.path("c"), f"step-{step:09d}", file)

    def steps(self):
        """Of the checkpoints that are there."""
        return sorted(int(name[5:]) for name in os.listdir(self.path("c")) if name.startswith("step-"))

    def words(self, resume="--resume"):
        return ["train", model_path("branches"), "--data", self.path("d.npz"), resume, self.path("c"), *WORK, "--every", 1, "--keep", 2,
                "--metrics", self.path("m.jsonl"), "--save", self.path("saved.onnx")]

    def start(self, fault="", *words, mpi=0, rank=None, at=1, resume="--resume"):
        """A run to which this happens (faults.c). A process of its own group; mpirun's pid is the run's."""
        if mpi and not HAS_MPI:
            self.skipTest("this machine has no mpirun")
        self.mark = self.path("mark")
        environment = {"LD_PRELOAD": self.shim, "FAULT": fault, "FAULT_AT": at, "FAULT_MARK": self.mark,
                       "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
        if rank is not None:
            environment["FAULT_RANK"] = rank
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), ONNXPIPE, *self.words(resume), "--quiet",
                   *([] if mpi else ["--ranks", 2]), *words]
        if mpi:
            command = ["mpirun", "-n", mpi, *command]
        run = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
        self.addCleanup(run.stderr.close)
        self.addCleanup(run.wait)
        self.addCleanup(self.kill, run)
        return run

    def kill(self, run):
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)

    def until(self, run, what):
        deadline = time.time() + 60
        while not what():
            self.assertIsNone(run.poll(), "it ended")
            self.assertLess(time.time(), deadline)
            time.sleep(0.002)

    def hold(self, run):
        """Until it waits where its fault says."""
        self.until(run, lambda: os.path.exists(self.mark))

    def go_on(self):
        os.remove(self.mark)

    def end(self, run):
        """Our lines of what it said."""
        begun = time.time()
        _, self.said_all = run.communicate(timeout=60)
        self.assertLess(time.time() - begun, SECONDS + busy())
        return [line.removeprefix("onnxpipe: ") for line in self.said_all.splitlines() if line.startswith("onnxpipe: ")]

    def one_line(self, run, status, pattern):
        """It ends with this status (None: mpirun's of a rank that was killed) and one line, a match. Another one may say which
        checkpoint was not finished: that is not there then."""
        said = self.end(run)
        for line in list(said):
            unfinished = re.fullmatch(r"the checkpoint of step (\d+) was not written: the run ended before rank \d had written its part", line)
            if unfinished:
                self.assertNotIn(int(unfinished[1]), self.steps())
                said.remove(line)
        if status is None:
            self.assertNotIn(run.returncode, (0, 2, 3))
        else:
            self.assertEqual(run.returncode, status, said)
        self.assertEqual(len(said), 1, self.said_all)
        self.assertRegex(said[0], pattern)

    def next_start(self, begins=None, damaged=()):
        """Goes on from the newest that is there, or from `begins`, and is a run that nothing happened to."""
        before = self.steps()
        newest = before[-1] if begins is None else begins
        said = " ".join(self.done(*self.words()).split())
        self.assertIn(f"step-{newest:09d}: {newest} steps are done", said)
        self.assertEqual(numbers(read_metrics(self.path("m.jsonl"))), self.metrics)
        self.assertTrue(read_bytes(self.path("saved.onnx")) == self.model)
        self.assertEqual(self.steps(), before if newest == STEPS else [STEPS - 1, STEPS])
        names = set(os.listdir(self.path("c"))) - {os.path.basename(self.step(s)[:-1]) for s in self.steps()}
        self.assertEqual(names, {".lock", *(f"damaged-step-{step:09d}" for step in damaged)})
        self.assertEqual(glob.glob(self.path("c/*/rank-*")) + glob.glob(self.path("*.tmp*")), [])


class Killed(Faults):
    """Rank 0 or 1, a process of mpirun's: the other one names it. With two ranks in one process that is nobody's to name."""

    def test_by_itself(self):
        for phase, rank, fault in (("start-up", 1, "open model.onnx kill"),
                                   ("load", 0, "open model-00001-of kill"),
                                   ("load", 1, "open model-00001-of kill"),
                                   ("planning", 0, "open .lock kill"),
                                   ("step", 0, "write m.jsonl kill"),
                                   ("checkpoint", 0, "fsync checkpoint.json kill"),
                                   ("checkpoint", 0, "rename step- kill"),
                                   ("checkpoint", 1, "fsync model-00002 kill")):
            with self.subTest(phase=phase, rank=rank, fault=fault):
                self.begin()
                self.one_line(self.start(fault, mpi=2, rank=rank), None, DIED.format(rank))
                self.assertIn(FIRST, self.steps())
                self.next_start()

    def test_with_all_ranks(self):
        for phase, fault in (("start-up", "start - kill"), ("load", "open model-00001-of kill"), ("planning", "open .lock kill"),
                             ("step", "write m.jsonl kill"), ("checkpoint", "fsync model-00002 kill"),
                             ("checkpoint", "rename step- kill"), ("after the last", "fsync saved.onnx kill")):
            with self.subTest(phase=phase, fault=fault):
                self.begin()
                run = self.start(fault)
                self.assertEqual(self.end(run), [])
                self.assertEqual(run.returncode, -signal.SIGKILL)
                self.assertEqual(len(glob.glob(self.path("saved.onnx.onnxpipe.tmp*"))), phase == "after the last")
                self.next_start()

    def test_before_there_is_a_world(self):
        """mpirun says it, for no rank knows of another yet."""
        run = self.start("start - kill", mpi=2, rank=1)
        self.end(run)
        self.assertRegex(self.said_all, "exited on signal 9")
        self.next_start()

    def test_while_another_is_at_work(self):
        for phase, fault in (("planning", "open .lock wait"), ("step", "write m.jsonl wait")):
            with self.subTest(phase=phase):
                self.begin()
                run = self.start(fault, mpi=2, rank=0)
                self.hold(run)
                os.kill(self.rank_process(1, run.pid), signal.SIGKILL)
                self.go_on()
                self.one_line(run, None, DIED.format(1))
                self.next_start()

    def test_when_its_part_was_written(self):
        """The checkpoint that is under way is finished by the rank that is left, unless mpirun is faster to kill it: on a busy machine
        it is tried again."""
        for _ in range(5):
            self.begin()
            run = self.start("fsync optimizer-00001 wait", mpi=2, rank=0)
            self.hold(run)
            self.until(run, lambda: os.path.exists(self.path("c/.step-000000003.part/rank-00001")))
            os.kill(self.rank_process(1, run.pid), signal.SIGKILL)
            self.go_on()
            self.one_line(run, None, DIED.format(1))
            there = self.steps()
            self.next_start()
            if 3 in there:
                return
        self.fail("it was finished in none of five runs")


class Stopped(Faults):
    """A rank, or rather its process, that stands still: --timeout says who waits for whom, and what had its name is whole."""

    ROWS = (("start-up", 1, "start - stop"), ("start-up", 1, "open model.onnx stop"), ("load", 0, "open model-00001-of stop"), ("load", 1, "open model-00001-of stop"),
            ("planning", 0, "open .lock stop"), ("step", 0, "write m.jsonl stop"), ("checkpoint", 1, "fsync model-00002 stop"),
            ("checkpoint", 0, "rename step- stop"))

    def stopped(self, run):
        """The process that has come to its fault, once it has."""
        found = []
        self.until(run, lambda: found.extend(pid for pid in (run.pid, *children(run.pid)) if state_of(pid) == "T") or found)
        return found[0]

    def test_for_too_long(self):
        """All at once, for it takes five seconds each."""
        base, runs = self.folder, []
        for i, (phase, rank, fault) in enumerate(self.ROWS):
            self.folder = os.path.join(base, str(i))
            os.mkdir(self.folder)
            self.begin()
            run = self.start(fault, "--timeout", 5, mpi=2, rank=rank)
            self.stopped(run)
            runs.append((phase, rank, fault, self.folder, run, time.time()))
        for *_, run, since in runs:
            run.wait(60)
            self.assertLess(time.time() - since, SECONDS + busy())
        for phase, rank, fault, self.folder, run, _ in runs:
            with self.subTest(phase=phase, rank=rank, fault=fault):
                self.one_line(run, 1, rf"waits .*rank {rank}.* does not answer: .*\(--timeout\)")
                self.next_start()
        self.folder = base

    def test_for_a_while(self):
        for phase, mpi, fault in (("planning", 2, "open .lock stop"), ("checkpoint", 2, "fsync model-00001 stop"),
                                  ("step", 0, "write m.jsonl stop")):
            with self.subTest(phase=phase, mpi=mpi):
                self.begin()
                run = self.start(fault, "--timeout", 20, mpi=mpi, rank=0 if mpi else None)
                process = self.stopped(run)
                time.sleep(1)
                os.kill(process, signal.SIGCONT)
                self.assertEqual((self.end(run), run.returncode), ([], 0), self.said_all)
                self.next_start()


class FullDisk(Faults):
    def test_what_cannot_be_written(self):
        no_space = "No space left on device"
        not_written = "the checkpoint of step 3 was not written: .*" + no_space
        for phase, mpi, fault, words, status, lines in (
                ("planning", 0, "open .lock full", [], 1, ["c: cannot be written: " + no_space]),
                ("step", 0, "write m.jsonl full", [], 0, ["m.jsonl: cannot be written: .*; training goes on, and what is missing"]),
                ("step", 0, "fsync g.npz full", ["--dump-gradients", self.path("g.npz")], 3,
                 ["g.npz: cannot be written: .*; training goes on", "the gradients of step 3 are not there: .*g.npz: cannot be written: " + no_space]),
                ("step", 2, "fsync g.npz full", ["--dump-gradients", self.path("g.npz")], 3,
                 ["g.npz: cannot be written: .*; training goes on", "the gradients of step 3 are not there: .*g.npz: cannot be written: " + no_space]),
                ("checkpoint", 0, "fsync model-00002 full", [], 0, [not_written]),
                ("checkpoint", 2, "fsync model-00002 full", [], 0, [not_written]),
                ("checkpoint", 0, "fsync model-00001 full", [], 0, [not_written]),
                ("checkpoint", 0, "fsync checkpoint.json full", [], 0, [not_written]),
                ("checkpoint", 2, "rename step- full", [], 0, [not_written]),
                ("checkpoint", 0, "fsync checkpoint.json full", ["--every", STEPS], 3, ["the checkpoint of step 6 was not written: .*" + no_space]),
                ("after the last", 0, "fsync saved.onnx full", [], 3, ["saved.onnx: cannot be written: " + no_space]),
                ("after the last", 2, "fsync trace.json full", ["--trace", self.path("trace.json")], 3, ["trace.json: cannot be written: .*"])):
            with self.subTest(phase=phase, mpi=mpi, fault=fault, words=words):
                self.begin()
                run = self.start(fault, *words, mpi=mpi)
                said = self.end(run)
                self.assertEqual(run.returncode, status, self.said_all)
                self.assertEqual(len(said), len(lines), self.said_all)
                for line, pattern in zip(said, lines):
                    self.assertRegex(line, pattern)
                self.assertEqual(glob.glob(self.path("c/.step*")) + glob.glob(self.path("*.tmp*")), [])
                if status in (0, 3):
                    self.assertEqual(numbers(read_metrics(self.path("m.jsonl"))), self.metrics)
                self.next_start()

    def test_space_is_checked_before_a_checkpoint(self):
        """A file system that is too small is named with both numbers, before anything is written; with room, the next is written."""
        if os.getuid() != 0:
            self.skipTest("mounting a small file system takes root")
        small = self.path("small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True).returncode:
            self.skipTest("this machine mounts no tmpfs")
        try:
            ballast = os.path.join(small, "ballast")
            shutil.move(self.path("c"), small)
            os.symlink(os.path.join(small, "c"), self.path("c"))
            with open(ballast, "wb") as file:
                file.write(bytes(160 << 10))
            run = self.start("write m.jsonl wait", at=3)  # of step 5, when the checkpoint of step 4 is under way
            self.hold(run)
            os.remove(ballast)
            self.go_on()
            said = self.end(run)
            self.assertEqual(run.returncode, 0, said)
            for line, step in zip(said, (3, 4)):
                self.assertRegex(line, f"the checkpoint of step {step} was not written: .*step-{step:09d}: cannot be written: "
                                 r"it takes \d+ bytes or more, and its file system has \d+ left")
            self.assertEqual((len(said), self.steps()), (2, [5, 6]))
            self.next_start()
        finally:
            subprocess.run(["umount", small], check=True)

    def test_what_is_inflated_finds_no_room(self):
        """Then it is memory that it lies in."""
        with np.load(model_path("branches", "data.npz")) as file:
            data = {name: np.concatenate([file[name]] * (1 + (6 << 20) // sum(file[n].nbytes for n in file))) for name in file}
        np.savez_compressed(self.path("d.npz"), **data)
        shutil.rmtree(self.path("c"))
        run = self.start("fallocate onnxpipe- full", "--dry-run", resume="--checkpoint")
        self.assertEqual((self.end(run), run.returncode), ([], 0))


class TornWrites(Faults):
    """What a machine that went down leaves of a file."""

    def test_a_checkpoint_that_was_being_written(self):
        for mpi, fault in ((0, "fsync model-00002 tear"), (2, "fsync optimizer-00002 tear"), (0, "fsync model.safetensors.index tear"),
                           (0, "fsync checkpoint.json tear")):
            with self.subTest(mpi=mpi, fault=fault):
                self.begin()
                run = self.start(fault, mpi=mpi)
                if mpi:
                    self.one_line(run, None, DIED.format(1))
                else:
                    self.assertEqual(self.end(run), [])
                    self.assertTrue(glob.glob(self.path("c/.step*.part/*")))
                self.assertEqual(self.steps(), [FIRST])
                self.next_start()

    def test_a_line_of_metrics(self):
        """Of a step that no checkpoint has: the next start does it again."""
        run = self.start("write m.jsonl kill", "--every", STEPS, at=3)
        self.end(run)
        cut(self.path("m.jsonl"), 0.98)
        self.next_start()


class DamagedCheckpoints(Faults):
    DAMAGE = (("corrupted", "model-00002-of-00002.safetensors", flip, "is damaged: its checksum is"),
              ("corrupted", "optimizer-00001-of-00002.safetensors", flip, "is damaged: its checksum is"),
              ("corrupted", "checkpoint.json", flip, "is damaged: its checksum is"),
              ("torn", "model-00001-of-00002.safetensors", cut, r"is damaged: it has \d+ bytes, not \d+"),
              ("torn", "checkpoint.json", cut, "is damaged: its checksum is"),
              ("empty", "checkpoint.json", lambda path: cut(path, 0), "is damaged: it does not begin with its checksum"),
              ("missing", "model-00001-of-00002.safetensors", os.remove, "cannot be opened: No such file or directory"),
              ("missing", "checkpoint.json", os.remove, "cannot be opened: No such file or directory"))

    def test_the_newest_is_passed_over(self):
        for what, name, damage, why in self.DAMAGE:
            with self.subTest(what=what, name=name):
                self.begin()
                shutil.rmtree(self.path("c"))
                shutil.copytree(os.path.join(self.shared, "straight", "checkpoints"), self.path("c"))
                shutil.copy(os.path.join(self.shared, "straight", "m.jsonl"), self.path("m.jsonl"))
                damage(self.step(STEPS, name))
                said = " ".join(self.done(*self.words(), "--dry-run").split())
                self.assertRegex(said, f"note passed over: .*{re.escape(name)}: {why}")
                self.next_start(begins=STEPS - 1, damaged=[STEPS])

    def test_the_only_one(self):
        for what, name, damage, why in self.DAMAGE:
            for mpi in (0, 2) if damage == flip else (0,):
                with self.subTest(what=what, name=name, mpi=mpi):
                    self.begin()
                    damage(self.step(FIRST, name))
                    self.one_line(self.start(mpi=mpi), 1, f"{re.escape(name)}: {why}")
                    self.assertEqual(self.steps(), [FIRST])

    def test_during_a_load(self):
        """What was whole when it was found, and is not any more when it is read."""
        for what, damage, why in (("missing", os.remove, "cannot be opened: No such file"), ("torn", cut, "lies at bytes")):
            for mpi in 0, 2:
                with self.subTest(what=what, mpi=mpi):
                    self.begin()
                    shutil.copytree(self.step(FIRST)[:-1], self.path("copy"))
                    run = self.start("open model-00001-of wait", mpi=mpi, rank=0 if mpi else None, at=2)
                    self.hold(run)
                    damage(self.step(FIRST, "model-00001-of-00002.safetensors"))
                    self.go_on()
                    self.one_line(run, 1, "model-00001-of-00002.safetensors: .*(" + why + ")")
                    shutil.rmtree(self.step(FIRST)[:-1])
                    shutil.move(self.path("copy"), self.step(FIRST)[:-1])
                    self.next_start()

    def test_between_load_and_steps(self):
        """It is mapped, and becomes shorter, or other bits, before its tensors are read."""
        for what, damage in (("torn", cut), ("corrupted", flip)):
            with self.subTest(what=what):
                self.begin()
                shutil.copytree(self.step(FIRST)[:-1], self.path("copy"))
                run = self.start("open .lock wait")
                self.hold(run)
                damage(self.step(FIRST, "model-00001-of-00002.safetensors"))
                self.go_on()
                self.one_line(run, 1, "model-00001-of-00002.safetensors: ")
                shutil.rmtree(self.step(FIRST)[:-1])
                shutil.move(self.path("copy"), self.step(FIRST)[:-1])
                self.next_start()

    def test_while_steps_are_done_and_checkpoints_written(self):
        """What is older than the newest is not needed any more; what is taken away while it is written is said."""
        run = self.start("write m.jsonl wait")
        self.hold(run)
        shutil.rmtree(self.step(FIRST)[:-1])
        self.go_on()
        self.assertEqual((self.end(run), run.returncode), ([], 0))
        self.next_start()
        self.begin()
        run = self.start("fsync checkpoint.json wait")
        self.hold(run)
        flip(self.step(FIRST, "model-00001-of-00002.safetensors"))
        shutil.rmtree(self.path("c/.step-000000003.part"))
        self.go_on()
        said = self.end(run)
        self.assertEqual((len(said), run.returncode), (1, 0), said)
        self.assertRegex(said[0], "the checkpoint of step 3 was not written: .*No such file or directory")
        self.next_start()


class TwoRuns(Faults):
    def second(self):
        """Another run in the same folder."""
        return self.start()

    def test_the_second_is_refused(self):
        """And the first one trains as if there were none."""
        for phase, fault in (("step", "write m.jsonl wait"), ("checkpoint", "fsync model-00002 wait"),
                             ("checkpoint", "rename step- wait")):
            with self.subTest(phase=phase):
                self.begin()
                run = self.start(fault)
                self.hold(run)
                before = sorted(os.listdir(self.path("c")))
                self.mark, mark = self.path("other"), self.mark
                other = self.start("", "--metrics", self.path("other.jsonl"), "--save", self.path("other.onnx"))
                self.one_line(other, 2, "c: another run writes its checkpoints there: process [0-9]+ on ")
                self.assertEqual(sorted(os.listdir(self.path("c"))), before)
                self.mark = mark
                self.go_on()
                self.assertEqual((self.end(run), run.returncode), ([], 0))
                self.next_start()

    def test_a_lock_that_was_removed(self):
        """Who has it by then is named, and nothing is written there; where nobody has, it is made anew."""
        for others in False, True:
            for mpi in 0, 2:
                with self.subTest(others=others, mpi=mpi):
                    self.begin()
                    run = self.start("write m.jsonl wait", mpi=mpi, rank=0 if mpi else None)
                    self.hold(run)
                    os.remove(self.path("c/.lock"))
                    if others:
                        with open(self.path("c/.lock"), "w") as lock:
                            lock.write("process 7 on moon")
                            lock.flush()
                            fcntl.flock(lock, fcntl.LOCK_EX)
                            self.go_on()
                            said = self.end(run)
                    else:
                        self.go_on()
                        said = self.end(run)
                    self.assertEqual(run.returncode, 3 if others else 0, self.said_all)
                    lines = [f"the checkpoint of step {step} was not written: the lock that this run had was removed: {self.path('c')}: "
                             "another run writes its checkpoints there: process 7 on moon" for step in range(FIRST + 1, STEPS + 1)]
                    self.assertEqual(said, lines if others else [])
                    self.assertEqual(self.steps(), [FIRST] if others else [STEPS - 1, STEPS])
                    self.next_start()

    def test_one_that_went_on_without_a_lock(self):
        """What it wrote stays."""
        run = self.start("write m.jsonl wait")
        self.hold(run)
        os.remove(self.path("c/.lock"))
        first, self.mark = self.mark, self.path("other")
        other = self.start("", "--metrics", self.path("other.jsonl"), "--save", self.path("other.onnx"))
        self.assertEqual((self.end(other), other.returncode), ([], 0))
        self.mark = first
        self.go_on()
        said = self.end(run)
        self.assertEqual((run.returncode, len(said)), (0, STEPS - FIRST - 1), said)
        for line in said:
            self.assertRegex(line, "was not written: .*c holds a checkpoint of step 6 by now: another run has gone on there")
        self.assertEqual(self.steps(), [STEPS - 1, STEPS])
        self.next_start()

    def test_one_that_comes_later(self):
        """A run that found its checkpoint, and takes the folder when another one has gone on from there, loses nothing of it."""
        for phase, fault in (("start-up", "open d.npz wait"), ("load", "open model-00001-of wait"), ("planning", "open .lock wait")):
            with self.subTest(phase=phase):
                self.begin()
                run = self.start(fault, "--metrics", self.path("late.jsonl"), "--save", self.path("late.onnx"))
                self.hold(run)
                late, self.mark = self.mark, self.path("other")
                other = self.start("", "--keep", 9)
                self.assertEqual((self.end(other), other.returncode), ([], 0))
                self.mark = late
                self.go_on()
                self.one_line(run, 2, "c holds a checkpoint of step 6 by now: another run has gone on from step 2 meanwhile")
                self.assertEqual(self.steps(), list(range(FIRST, STEPS + 1)))
                self.next_start()


class CutData(Faults):
    def test_data_become_shorter(self):
        for phase, mpi, fault, at in (("start-up", 0, "open model.onnx wait", 1), ("load", 0, "open model-00001-of wait", 1),
                                      ("planning", 0, "open .lock wait", 1), ("planning", 2, "open .lock wait", 1),
                                      ("step", 0, "write m.jsonl wait", 2), ("step", 2, "write m.jsonl wait", 2),
                                      ("checkpoint", 0, "fsync model-00001 wait", 2), ("checkpoint", 2, "fsync model-00001 wait", 2)):
            with self.subTest(phase=phase, mpi=mpi):
                self.begin()
                run = self.start(fault, mpi=mpi, rank=0 if mpi else None, at=at)
                self.hold(run)
                cut(self.path("d.npz"), 0.9)
                self.go_on()
                self.one_line(run, 1, r"d.npz: ")
                there = self.steps()
                self.assertEqual(there[-1], FIRST if phase in ("start-up", "load", "planning") else there[-1])
                shutil.copy(model_path("branches", "data.npz"), self.path("d.npz"))
                self.next_start()


if __name__ == "__main__":
    common.main()
