"""Whether a run can be left alone: `hour.py ONNXPIPE [--minutes 60] [--ranks 2] [--mpi]` trains gpt2 (models/) for so long, with
checkpoints, validation where the program has it, metrics and a trace, looks at its processes every second, ends it with SIGTERM, prints
what it saw and fails where a promise is broken:

- memory (RssAnon) is flat after the first minute (in a shorter run, after its first third),
- no descriptor stays open that was not before,
- the metrics have every step once, and every validation that is due,
- the trace has the last step, ends each message that begins, and its steps are as long as the metrics say, within 1 %.

Needs nothing but Python; the files that are written lie in a folder that is removed.
"""
import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLACK = 2 << 20
EVERY = 500
MOST_STEPS = 100_000_000


def words(program, ranks, mpi, steps, *more):
    model = os.path.join(ROOT, "models", "gpt2")
    start = ["mpirun", "-n", str(ranks)] if mpi else []
    return [*start, program, "train", f"{model}/model.onnx", "--data", f"{model}/data.npz", "--batch", "8", "--microbatches", "4",
            "--threads", "1", "--steps", str(steps), "--lr", "1e-5", *([] if mpi else ["--ranks", str(ranks)]), *more]


def processes(root, name):
    """Those of this program at and below the process."""
    found, left = [], [root]
    while left:
        pid = left.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                left += [int(child) for child in file.read().split()]
            if os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") == name:  # by a build, say
                found.append(pid)
        except OSError:
            pass
    return sorted(found)


def look(pid):
    """RssAnon in bytes, open descriptors."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) << 10, len(os.listdir(f"/proc/{pid}/fd"))


def watch(process, program, seconds):
    """Samples by process: (second, RssAnon, descriptors). Once `seconds` are over, the processes get SIGTERM."""
    samples, begun, ended = {}, time.monotonic(), False
    while process.poll() is None:
        running = processes(process.pid, os.path.realpath(program))
        if not ended and time.monotonic() - begun >= seconds:
            ended = True
            for pid in running:
                os.kill(pid, signal.SIGTERM)
        for pid in running:
            try:
                samples.setdefault(pid, []).append((time.monotonic() - begun, *look(pid)))
            except (OSError, KeyError):  # it has just ended
                pass
        time.sleep(1)
    return samples


class Findings:
    def __init__(self):
        self.good = True

    def say(self, good, text):
        print(f"{'ok    ' if good else 'BROKEN'}  {text}", flush=True)
        self.good &= good


def check_samples(findings, samples):
    for rank, pid in enumerate(sorted(samples)):
        all_of_it = samples[pid]
        end = all_of_it[-1][0]
        later = [s for s in all_of_it if s[0] >= min(60, end / 3)][:-1]  # the last second writes the trace, and ends
        quarter = max(len(later) // 4, 1)
        first, last = later[:quarter], later[-quarter:]
        grown = max(s[1] for s in last) - max(s[1] for s in first)
        findings.say(grown <= SLACK, f"process {rank}: {max(s[1] for s in first) / 2**20:.1f} MiB anonymous after {first[0][0]:.0f} s, "
                     f"{max(s[1] for s in last) / 2**20:.1f} in the last {end - last[0][0]:.0f} of {end:.0f} s ({grown / 2**10:+.0f} KiB)")
        before, after = min(s[2] for s in first), min(s[2] for s in last)
        findings.say(after <= before, f"process {rank}: {before} descriptors, then {after}; {max(s[2] for s in later)} at most")


def check_metrics(findings, path, validates):
    """Seconds by step."""
    with open(path) as file:
        metrics = [json.loads(line) for line in file]
    trained = [m for m in metrics if "seconds" in m]
    steps = trained[-1]["step"]
    findings.say([m["step"] for m in trained] == list(range(1, steps + 1)) and all(math.isfinite(m["loss"]) for m in trained),
                 f"metrics: {len(trained)} of {steps} steps, the last loss {trained[-1]['loss']:.6g}")
    if validates:
        due = list(range(EVERY, steps + 1, EVERY))
        had = [m["step"] for m in metrics if "validation_loss" in m]
        findings.say(had == due, f"metrics: {len(had)} of {len(due)} validations")
    return {m["step"]: m["seconds"] for m in trained}


def check_checkpoint(findings, folder, steps):
    newest = max(name for name in os.listdir(folder) if name.startswith("step-"))
    findings.say(int(newest.split("-")[1]) == steps, f"checkpoints: the newest is {newest}")


def check_trace(findings, path, seconds):
    """Line by line: it may be large."""
    steps = max(seconds)
    measured, ends, head, spans = {}, {"s": set(), "f": set()}, None, 0
    with open(path) as file:
        for line in file:
            if line.startswith('"otherData"'):
                head = json.loads(line.rstrip(",\n").split(":", 1)[1])
            elif line.startswith('{"ph"'):
                event = json.loads(line.rstrip(",\n"))
                spans += event["ph"] == "X"
                if event["ph"] in ends:
                    ends[event["ph"]].add(event["id"])
                elif event["ph"] == "X" and event["name"] == "step" and event["tid"] == 1:
                    measured[event["args"]["step"]] = event["dur"] / 1e6
    findings.say(head["complete"] and head["last_step"] == steps and list(measured) == list(range(head["first_step"], steps + 1)),
                 f"trace: steps {head['first_step']} to {head['last_step']}, {spans} spans, {os.path.getsize(path) / 2**20:.1f} MiB")
    findings.say(ends["s"] == ends["f"], f"trace: {len(ends['s'])} messages begin, {len(ends['s'] & ends['f'])} of them end")
    said = sum(seconds[step] for step in measured)
    apart = sum(measured.values()) / said - 1
    findings.say(abs(apart) < 0.01, f"trace: its steps take {sum(measured.values()):.2f} s, the metrics' {said:.2f} ({100 * apart:+.3f} %)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mpi", action="store_true")
    options = parser.parse_args()
    program, folder, findings = os.path.abspath(options.program), tempfile.mkdtemp(prefix="onnxpipe-hour-"), Findings()
    path = lambda name: os.path.join(folder, name)
    takes = subprocess.run([program, "train", "--help"], capture_output=True, text=True, check=True).stdout
    more, validates = ["--metrics", path("m.jsonl"), "--trace", path("t.json"), "--quiet"], "--validate" in takes
    if "--checkpoint" in takes:
        more += ["--checkpoint", path("checkpoints"), "--every", str(EVERY)]
    if validates:
        more += ["--validate", os.path.join(ROOT, "models", "gpt2", "data.npz")]
    try:
        print(f"{options.minutes:g} minutes on {options.ranks} {'processes' if options.mpi else 'threads'}; left out, for the program has none: "
              f"{' '.join(o for o in ('--checkpoint', '--validate') if o not in takes) or 'nothing'}", flush=True)
        with open(path("errors"), "w+") as errors:
            process = subprocess.Popen(words(program, options.ranks, options.mpi, MOST_STEPS, *more), stdout=subprocess.DEVNULL, stderr=errors)
            samples = watch(process, program, 60 * options.minutes)
            errors.seek(0)
            ended = process.returncode == 128 + signal.SIGTERM
            findings.say(ended, f"exit status {process.returncode} {errors.read().strip()}")
        if ended:
            check_samples(findings, samples)
            seconds = check_metrics(findings, path("m.jsonl"), validates)
            check_trace(findings, path("t.json"), seconds)
            if "--checkpoint" in takes:
                check_checkpoint(findings, path("checkpoints"), max(seconds))
    finally:
        shutil.rmtree(folder)
    return 0 if findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
