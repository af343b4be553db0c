#!/usr/bin/env python3
"""Seconds of a training step as a ratio to another engine's, in one run on one machine, taking turns.

  python3 bench/step_ratio.py MODEL.onnx DATA.npz --batch 8 --threads 1 --peer 'python torch_step.py gpt_25m 1'

The peer prints a line of JSON with "best_s", seconds of its fastest step; several peers may be given, the fastest
counts. Ours is the fastest step but the first of `onnxpipe train` on one rank. A ratio above 1 says that we are faster.
"""
import argparse
import json
import os
import subprocess
import tempfile


def ours(args, device):
    with tempfile.TemporaryDirectory() as folder:
        metrics = os.path.join(folder, "metrics.jsonl")
        subprocess.run([args.onnxpipe, "train", args.model, "--data", args.data, "--batch", str(args.batch), "--steps", "6",
                        "--ranks", "1", "--microbatches", str(args.microbatches), "--threads", str(args.threads),
                        "--device", device, "--lr", "1e-4", "--metrics", metrics, "--quiet"], check=True)
        with open(metrics) as lines:
            return min(json.loads(line)["seconds"] for line in list(lines)[1:])


def peer(command):
    out = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().split("\n")[-1])["best_s"]


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
    args = parser.parse_args()
    engines = {f"onnxpipe {device}": (lambda device=device: ours(args, device)) for device in ("cpu", "reference")}
    engines |= {command: (lambda command=command: peer(command)) for command in args.peer}
    seconds = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, measure in engines.items():
            seconds[name].append(measure())
    for name, taken in seconds.items():
        print(f"{min(taken):9.4f} s  (to {max(taken):.4f})  {name}")
    cpu = min(seconds["onnxpipe cpu"])
    print(f"cpu is {min(seconds['onnxpipe reference']) / cpu:.2f} times as fast as the reference")
    if args.peer:
        print(f"cpu is {min(min(seconds[c]) for c in args.peer) / cpu:.2f} times as fast as the fastest peer")


main()
