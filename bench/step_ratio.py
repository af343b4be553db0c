#!/usr/bin/env python3
"""Seconds of a training step as a ratio to another engine's, in one run on one machine, taking turns; peak memory beside.

  python3 bench/step_ratio.py MODEL.onnx DATA.npz --batch 8 --threads 1 --peer 'python torch_step.py gpt_25m 1'
  python3 bench/peer_models.py export DIR
  python3 bench/step_ratio.py DIR/resnet18.onnx DIR/resnet18.npz --batch 16 --peer 'python bench/peer_models.py step resnet18 1'

The peer prints a line of JSON with "best_s", seconds of its fastest step, and perhaps "peak_rss_mb" and
"best_processor_s"; several peers may be given, the fastest counts. Ours is the fastest step but the first of `onnxpipe
train` on one rank. A ratio above 1 says that we are faster. On a machine that others use, `--processor` compares what
the processor spent (with one thread): ours is what six steps more took.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile


def spent():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(args, device, steps, metrics):
    """Seconds of the processor, and the peak memory in MB."""
    command = [args.onnxpipe, "train", args.model, "--data", args.data, "--batch", str(args.batch), "--steps", str(steps),
               "--ranks", "1", "--microbatches", str(args.microbatches), "--threads", str(args.threads), "--device", device,
               "--lr", "1e-4", "--metrics", metrics, "--quiet"]
    before = spent()
    peak = int(subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True).stdout)
    return spent() - before, peak / 1024


# a process of its own: the peak of children is that of the largest
PEAK = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def ours(args, device):
    with tempfile.TemporaryDirectory() as folder:
        metrics = os.path.join(folder, "metrics.jsonl")
        if args.processor:
            (least, _), (most, peak) = train(args, device, 2, metrics), train(args, device, 8, metrics)
            return (most - least) / 6, peak
        _, peak = train(args, device, 6, metrics)
        with open(metrics) as lines:
            return min(json.loads(line)["seconds"] for line in list(lines)[1:]), peak


def peer(args, command):
    out = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    said = json.loads(out.strip().split("\n")[-1])
    return said["best_processor_s" if args.processor else "best_s"], said.get("peak_rss_mb", 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--onnxpipe", default="build/release/onnxpipe")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--processor", action="store_true", help="seconds of the processor instead of the clock's")
    parser.add_argument("--devices", default="cpu,reference")
    args = parser.parse_args()
    engines = {f"onnxpipe {device}": (lambda device=device: ours(args, device)) for device in args.devices.split(",")}
    engines |= {command: (lambda command=command: peer(args, command)) for command in args.peer}
    measured = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, measure in engines.items():
            measured[name].append(measure())
    for name, runs in measured.items():
        taken = [seconds for seconds, _ in runs]
        print(f"{min(taken):9.4f} s  (to {max(taken):.4f})  peak {max(peak for _, peak in runs):6.0f} MB  {name}")
    fastest = {name: min(seconds for seconds, _ in runs) for name, runs in measured.items()}
    cpu = fastest["onnxpipe cpu"]
    if "onnxpipe reference" in fastest:
        print(f"cpu is {fastest['onnxpipe reference'] / cpu:.2f} times as fast as the reference")
    if args.peer:
        print(f"cpu is {min(fastest[c] for c in args.peer) / cpu:.2f} times as fast as the fastest peer")


main()
