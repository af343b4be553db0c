"""Whether a run may be killed at any moment: `kills.py ONNXPIPE [--kills 200] [--seed S] [--folder DIR]` trains a small model with a
checkpoint after every step or every second one, kills it at a random moment, goes on with --resume, on other ranks, until all steps are
done, and begins anew, until so many kills were survived. A kill is SIGKILL (of all processes, of one rank, of mpirun alone) or SIGTERM;
ranks are threads or mpirun's. It fails, and says how each run of the last training was started and killed, where

- a checkpoint that had its name is not what the next start goes on from,
- a step's loss, rate or gradient norm, or the last weights, are not bit for bit those of a run that nobody killed,
- a run goes on for more than 15 seconds when its mpirun is gone, or anything is left over when all steps are done.

Needs nothing but Python; the files lie in a folder that is removed where all went well.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = 500
LONGEST = 2.0  # seconds from a start to its kill
GONE = 15.0  # seconds until ranks have ended that nobody waits for


def words(program, ranks, mpi, folder, *more):
    model = os.path.join(ROOT, "models", "branches")
    start = ["mpirun", "-n", ranks] if mpi else []
    command = [*start, program, "train", f"{model}/model.onnx", "--data", f"{model}/data.npz", "--batch", 8, "--microbatches", 2,
               "--threads", 1, "--steps", STEPS, "--shuffle", "--metrics", f"{folder}/m.jsonl", "--save", f"{folder}/saved.onnx",
               *([] if mpi else ["--ranks", ranks]), *more]
    return [str(word) for word in command]


def numbers(path):
    """Of every whole line: step → loss, rate, gradient norm."""
    found = {}
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                if line.endswith("\n"):
                    m = json.loads(line)
                    found[m["step"]] = m["loss"], m["lr"], m["gradient_norm"]
    return found


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def below(root):
    """The processes below this one that run, by depth."""
    found, left = [], [root]
    while left:
        try:
            with open(f"/proc/{left[0]}/task/{left[0]}/children") as file:
                children = [int(child) for child in file.read().split()]
        except OSError:
            children = []
        found += children
        left = left[1:] + children
    return found


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Failure(Exception):
    pass


class Training:
    """One folder, until all its steps are done."""

    def __init__(self, program, folder, draw, expected, model):
        self.program, self.folder, self.draw, self.expected, self.model = program, folder, draw, expected, model
        self.newest = 0  # that was seen
        self.every = draw.choice((1, 2))
        self.history = []
        os.mkdir(folder)

    def checkpoints(self):
        try:
            names = os.listdir(f"{self.folder}/c")
        except OSError:
            names = []
        return sorted(int(name[5:]) for name in names if name.startswith("step-"))

    def kill(self, run, mpi):
        """Says what it did."""
        ranks = below(run.pid) if mpi else [run.pid]
        ways = ["kill all", "kill all", "kill one", "kill one", "end one", "end all"] + (["kill mpirun"] if mpi else [])
        way = self.draw.choice(ways)
        if way == "kill all" or not ranks:
            targets = [run.pid, *ranks] if mpi else ranks
            self.draw.shuffle(targets)
        elif way in ("kill one", "end one"):
            targets = [self.draw.choice(ranks)]
        else:
            targets = [run.pid]
        for pid in targets:
            try:
                os.kill(pid, signal.SIGTERM if way.startswith("end") else signal.SIGKILL)
            except ProcessLookupError:
                pass
        which = f" (rank process {ranks.index(targets[0])} of {len(ranks)})" if way.endswith("one") and ranks else ""
        return way + which, ranks

    def wait(self, run, ranks, what):
        try:
            _, said = run.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise Failure(f"it did not end within 60 seconds: {what}") from None
        until = time.monotonic() + GONE
        while any(runs(pid) for pid in ranks):
            if time.monotonic() > until:
                raise Failure(f"ranks went on without their mpirun: {what}")
            time.sleep(0.01)
        return said

    def attempt(self):
        """Starts it, kills it unless it ends before. Whether it was killed, and whether all is done."""
        draw, before = self.draw, self.checkpoints()
        mpi, ranks = draw.random() < 0.5 and shutil.which("mpirun") is not None, draw.randint(1, 3)
        begins = ["--resume" if before else "--checkpoint", f"{self.folder}/c", "--every", self.every, "--keep", 2]
        delay = draw.uniform(0, LONGEST)
        what = f"{ranks} {'processes' if mpi else 'threads'}, from step {self.newest}"
        with open(f"{self.folder}/out", "w") as out:
            run = subprocess.Popen(words(self.program, ranks, mpi, self.folder, *begins), stdout=out, stderr=subprocess.PIPE, text=True)
        end, ranks_seen, killed = time.monotonic() + delay, [], False
        while run.poll() is None and time.monotonic() < end:
            time.sleep(min(0.01, max(0, end - time.monotonic())))
            self.newest = max([self.newest, *self.checkpoints()])
        if run.poll() is None:
            way, ranks_seen = self.kill(run, mpi)
            killed, what = True, f"{what}, after {delay:.3f} s: {way}"
        self.history.append(what)
        said = self.wait(run, ranks_seen, what)
        self.check(run, killed, before, said, what)
        return killed, run.returncode == 0

    def check(self, run, killed, before, said, what):
        with open(f"{self.folder}/out") as file:
            out = " ".join(file.read().split())
        there = self.checkpoints()
        began = re.search(r"resume .*?step-(\d{9}): \d+ steps? (?:is|are) done", out)
        if before and began and int(began[1]) != before[-1]:
            raise Failure(f"{what}: it went on from step {int(began[1])}, not {before[-1]}")
        if self.newest and (not there or there[-1] < self.newest):
            raise Failure(f"{what}: there are checkpoints of {there}, and one of step {self.newest} was there")
        stopped = re.search(r"stopped after step (\d+) .*what they trained is in", said)
        if stopped and int(stopped[1]) != there[-1]:
            raise Failure(f"{what}: it said that it stopped after step {stopped[1]}, there are {there}")
        for step, found in numbers(f"{self.folder}/m.jsonl").items():
            if found != self.expected[step]:
                raise Failure(f"{what}: step {step} was {found}, not {self.expected[step]}")
        if not killed and run.returncode:
            raise Failure(f"{what}: exit status {run.returncode}: {said}")
        self.newest = max([self.newest, *there])

    def check_end(self):
        if numbers(f"{self.folder}/m.jsonl") != self.expected:
            raise Failure("steps are missing from the metrics")
        if read_bytes(f"{self.folder}/saved.onnx") != self.model:
            raise Failure("the weights are others")
        left = sorted(set(os.listdir(f"{self.folder}/c")) - {".lock"})
        if len(left) != 2 or len(self.checkpoints()) != 2 or left[-1] != f"step-{STEPS:09d}":
            raise Failure(f"the folder of checkpoints holds {left}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--folder", help="where the files lie while it runs")
    given = parser.parse_args()
    program, begun = os.path.abspath(given.program), time.monotonic()
    base = tempfile.mkdtemp(prefix="onnxpipe-kills-", dir=given.folder)
    os.environ["OMPI_MCA_btl_vader_backing_directory"] = os.environ["OMPI_MCA_orte_tmpdir_base"] = base  # what killed MPIs leave
    print(f"seed {given.seed}", flush=True)
    os.mkdir(f"{base}/straight")
    subprocess.run(words(program, 1, False, f"{base}/straight", "--quiet"), check=True)
    expected, model = numbers(f"{base}/straight/m.jsonl"), read_bytes(f"{base}/straight/saved.onnx")
    draw, kills, starts, trainings, training = random.Random(given.seed), 0, 0, 0, None
    try:
        while kills < given.kills or training:
            if not training:
                training = Training(program, f"{base}/{trainings}", draw, expected, model)
            killed, done = training.attempt()
            kills, starts = kills + killed, starts + 1
            if killed and kills % 20 == 0:
                print(f"{kills} kills, {starts} starts, {trainings} trainings of {STEPS} steps, {time.monotonic() - begun:.0f} s", flush=True)
            if done:
                training.check_end()
                shutil.rmtree(training.folder)
                trainings, training = trainings + 1, None
    except Failure as failure:
        print(f"kills.py: seed {given.seed}, kill {kills}, training {trainings}: {failure}\nits starts:", file=sys.stderr)
        for line in training.history:
            print(f"  {line}", file=sys.stderr)
        print(f"its files: {training.folder}", file=sys.stderr)
        return 1
    shutil.rmtree(base)
    print(f"{kills} kills, {starts} starts, {trainings} trainings of {STEPS} steps: nothing was lost (seed {given.seed}, "
          f"{time.monotonic() - begun:.0f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
