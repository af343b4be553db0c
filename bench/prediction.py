#!/usr/bin/env python3
"""Whether plans tell the truth: predicted beside measured seconds a step, on this machine, of six models.

  python3 bench/prediction.py [--minutes 15] [--models gpt_25m,dlrm] [--ranks 1,2] [--ways threads,mpi] [--schedules gpipe,1f1b,auto] [--microbatches 4,8]

Each configuration is a run of `train`, which measures its costs at its start, in a cache of costs that begins empty. Measured is the
median step but the first, of --rounds runs that take turns. Printed is a line a configuration, as it comes; then the median error, the
worst, and for each model how much longer than the best measured one the step takes that was predicted to be shortest. Configurations
come in an order in which any number of them from the first on is a fair sample; --minutes ends before the one that would take longer.
Batches are those of bench/performance.py, 8 samples where these are smaller. Nothing else should run meanwhile.

The models are MODEL.onnx and MODEL.npz of --folder, which bench/performance.py fills.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

BATCH = {"surrogate": 256, "gpt_25m": 8, "dlrm": 512, "resnet18": 16, "unet3d": 8, "gpt2_124m": 8}
LOSS = {"surrogate": "mse", "dlrm": "bce_with_logits"}
CORES = len(os.sched_getaffinity(0))


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.begun = args, folder, time.monotonic()
        self.environment = dict(os.environ, XDG_CACHE_HOME=folder, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                                COLUMNS="10000")
        self.steps = {}  # of a model's runs: seconds
        self.results = {}  # configuration: (predicted, [seconds of steps])

    def configurations(self):
        """Models take turns soonest, then ranks and ways, schedules, microbatches."""
        args = self.args
        for microbatches in args.microbatches:
            for schedule in args.schedules:
                for ranks in args.ranks:
                    for way in args.ways if ranks > 1 else ["threads"]:
                        if ranks == 1 and schedule != args.schedules[0]:
                            continue
                        for model in args.models:
                            yield model, ranks, way, schedule, microbatches

    def run(self, configuration):
        """Predicted seconds; those of all steps but the first."""
        model, ranks, way, schedule, microbatches = configuration
        path, metrics = os.path.join(self.args.folder, model), os.path.join(self.folder, "metrics.jsonl")
        steps = max(4, min(40, int(self.args.seconds / self.steps.get(model, 1))))
        start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if way == "mpi" else []
        more = [] if way == "mpi" else ["--ranks", str(ranks)]
        done = subprocess.run([*start, self.args.onnxpipe, "train", path + ".onnx", "--data", path + ".npz", "--batch", str(BATCH[model]),
                               "--microbatches", str(microbatches), "--schedule", schedule, "--loss", LOSS.get(model, "cross_entropy"),
                               "--lr", "1e-4", "--steps", str(steps + 1), "--metrics", metrics, *more, *self.args.more],
                              capture_output=True, text=True, env=self.environment)
        if done.returncode:
            print(f"{' '.join(done.args)}: {done.stderr.strip()}", file=sys.stderr)
            return None
        with open(metrics) as lines:
            seconds = [json.loads(line)["seconds"] for line in lines][1:]
        self.steps[model] = statistics.median(seconds)
        number, unit = re.search(r"^predicted: ([\d.e+-]+) (us|ms|s) a step", done.stdout, re.M).groups()
        return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit], seconds

    def error(self, configuration):
        predicted, seconds = self.results[configuration]
        return predicted / statistics.median(seconds) - 1

    def show(self, configuration):
        model, ranks, way, schedule, microbatches = configuration
        predicted, seconds = self.results[configuration]
        print(f"{model:10} {ranks:5} {way:8} {schedule:9} {microbatches:12} {1e3 * predicted:12.2f} {1e3 * statistics.median(seconds):12.2f} "
              f"{100 * self.error(configuration):+7.1f} %", flush=True)

    def late(self, took):
        return self.args.minutes and time.monotonic() - self.begun + took > 60 * self.args.minutes

    def measure(self):
        print(f"{'model':10} {'ranks':>5} {'way':8} {'schedule':9} {'microbatches':>12} {'predicted ms':>12} {'measured ms':>12}   error")
        took = {}
        for turn in range(self.args.rounds):
            for configuration in self.configurations():
                if self.late(took.get(configuration[0], 0)):
                    continue
                begun = time.monotonic()
                found = self.run(configuration)
                took[configuration[0]] = time.monotonic() - begun
                if found:
                    predicted, seconds = self.results.get(configuration, (found[0], []))
                    self.results[configuration] = predicted, seconds + found[1]
                    self.show(configuration)

    def best(self, model):
        """How much longer than the shortest measured step the one takes that was predicted to be shortest; by way."""
        for way in self.args.ways:
            of = {c: r for c, r in self.results.items() if c[0] == model and (c[2] == way or c[1] == 1)}
            if len(of) > 1:
                measured = {c: statistics.median(seconds) for c, (_, seconds) in of.items()}
                chosen = min(of, key=lambda c: of[c][0])
                yield way, chosen, measured[chosen] / min(measured.values()) - 1

    def conclude(self):
        errors = {c: abs(self.error(c)) for c in self.results}
        if not errors:
            sys.exit("nothing was measured")
        worst = max(errors, key=errors.get)
        print(f"\n{len(errors)} configurations: median error {100 * statistics.median(errors.values()):.1f} %, worst {100 * errors[worst]:.1f} % "
              f"({' '.join(map(str, worst))})")
        for model in self.args.models:
            for way, chosen, longer in self.best(model):
                print(f"{model}, {way}: predicted to be shortest, {chosen[1]} rank{'s' * (chosen[1] > 1)} {chosen[3]} {chosen[4]} microbatches "
                      f"take {100 * longer:.1f} % longer than the shortest step")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--onnxpipe", default="build/release/onnxpipe")
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "onnxpipe-performance"))
    parser.add_argument("--minutes", type=float, default=0, help="0: all of it, however long")
    parser.add_argument("--seconds", type=float, default=3, help="of steps in each run; at least 5 steps, at most 41")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", type=words, default=list(BATCH))
    parser.add_argument("--ranks", type=lambda text: list(map(int, words(text))), default=[r for r in (2, 1, 4) if r <= max(CORES, 2)])
    parser.add_argument("--ways", type=words, default=["threads", "mpi"])
    parser.add_argument("--schedules", type=words, default=["1f1b", "auto", "gpipe"])
    parser.add_argument("--microbatches", type=lambda text: list(map(int, words(text))), default=[8, 4])
    parser.add_argument("--more", type=str.split, default=[], help="options of every run: --more='--threads 1'")
    args = parser.parse_args()
    args.onnxpipe = os.path.abspath(args.onnxpipe)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        try:
            bench.measure()
        except KeyboardInterrupt:
            pass
        bench.conclude()


main()
