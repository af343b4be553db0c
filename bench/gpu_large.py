#!/usr/bin/env python3
"""The largest GPT of a width that trains on one GPU, its tokens a second and what part of the chip's peak that is.

  python3 bench/gpu_large.py --onnxpipe PROGRAM --out DIR [options]

Depth follows from what `onnxpipe plan` says of two depths and from the device's memory but 1 GiB; a plan of the depth itself decides.
With --offload the optimizer's state lies in the host's memory (--offload optimizer; a dry run on a cpu goes without): the depth is that
at which weights, gradients and state take --times of the device's memory (the state at most 0.8 of the host's), and an eighth of it says
first what a step takes with and without.

The vocabulary is padded to 50,304, the head is the table, weights are drawn. Flops are 6 a parameter and token, and attention's: 6 a
token, layer and channel for each token of the sample (half of 12: it is causal). The peak is the datasheet's, dense in bf16, for
Hopper's SXM modules; --peak says another one.
"""
import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "models"))
import giants  # noqa: E402

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
STEPS = 6


class Large:
    def __init__(self, args):
        self.args, self.end = args, time.monotonic() + args.seconds
        self.offloads = args.offload and args.device != "cpu"
        self.environment = dict(os.environ, LD_LIBRARY_PATH=args.libraries) if args.libraries else None
        self.model, self.data = os.path.join(args.out, "gpt.onnx"), os.path.join(args.out, "gpt.npz")
        os.makedirs(args.out, exist_ok=True)

    def write_data(self):
        import numpy

        draw = numpy.random.default_rng(0).integers
        shape = (self.args.batch, self.args.sequence)
        numpy.savez(self.data, input_ids=draw(0, self.args.tokens, shape), target=draw(0, self.args.tokens, shape))

    def write_model(self, layers):
        a = self.args
        giants.MODELS["gpt"] = dict(layers=layers, width=a.width, heads=a.heads, kv=a.heads, hidden=4 * a.width, tokens=a.tokens,
                                    sequence=a.sequence, published=0)
        with contextlib.redirect_stdout(sys.stderr):
            giants.write("gpt", a.out, True, None)  # attention is spelled out: whoever computes it fuses it

    def ask(self, what, *more):
        """What the program says: its exit status and lines."""
        a = self.args
        command = [a.onnxpipe, what, self.model, "--data", self.data, "--batch", str(a.batch), "--microbatches", str(a.microbatches), "--ranks",
                   "1", "--device", a.device, "--precision", a.precision, "--loss", "cross_entropy", *more]
        if self.offloads:
            command += ["--offload", "optimizer"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
                                  timeout=max(1, self.end - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            return 124, [*(late.stdout or b"").decode().splitlines(), "no time was left"]
        with open(os.path.join(a.out, what + ".log"), "a") as log:
            log.write(done.stdout)
        return done.returncode, done.stdout.splitlines()

    def planned(self, layers):
        """Bytes."""
        self.write_model(layers)
        status, lines = self.ask("plan")
        size = re.search(r"memory: ([\d.]+) (\w+)", " ".join(lines))
        if status or not size:
            sys.exit("\n".join(lines[-3:]))
        return float(size[1]) * UNITS[size[2]]

    def parameters(self, layers):
        return layers * (12 * self.args.width**2 + 13 * self.args.width) + (self.args.tokens + self.args.sequence + 2) * self.args.width

    def depth_of(self, parameters):
        each = self.parameters(1) - self.parameters(0)
        return max(1, math.ceil((parameters - self.parameters(0)) / each))

    def compare(self, layers):
        """A step with the state on the device and on the host."""
        self.write_model(layers)
        for self.offloads in sorted({False, self.offloads}):
            _, lines, told, _ = self.train(layers)
            if not told:
                sys.exit("\n".join(lines[-2:]))
            seconds = statistics.median(line["seconds"] for line in told[min(2, len(told) - 1):])
            print(f"{layers} layers, state on the {'host' if self.offloads else 'device'}: {1e3 * seconds:.1f} ms a step, loss "
                  f"{told[-1]['loss']!r} at step {len(told)}", flush=True)

    def depth(self, limit):
        few, more = 4, 12
        first, second = self.planned(few), self.planned(more)
        each = (second - first) / (more - few)
        layers = max(1, int(few + (limit - first) / each))
        while layers > 1 and (size := self.planned(layers)) > limit:
            layers -= max(1, int((size - limit) / each))
        return layers

    def train(self, layers):
        metrics = os.path.join(self.args.out, "metrics.jsonl")
        if os.path.exists(metrics):
            os.remove(metrics)
        start = time.monotonic()
        status, lines = self.ask("train", "--no-measure", "--steps", str(STEPS), "--init", "normal:0.02", "--lr", "1e-4", "--metrics", metrics)
        took = time.monotonic() - start
        try:
            with open(metrics) as file:
                told = [json.loads(line) for line in file]
        except FileNotFoundError:
            told = []
        return status, lines, told, took

    def show(self, layers, told, took):
        a = self.args
        numbers = self.parameters(layers)
        seconds = statistics.median(line["seconds"] for line in told[min(2, len(told) - 1):])
        tokens = a.batch * a.sequence
        flops = tokens * (6 * numbers + 6 * layers * a.width * a.sequence)
        print(f"{layers} layers of width {a.width}, {a.heads} heads, {numbers / 1e9:.3g} billion parameters; {a.precision}, AdamW; "
              f"{a.batch} samples of {a.sequence} tokens a step in {a.microbatches} microbatches")
        print(f"{1e3 * seconds:.1f} ms a step, {tokens / seconds:,.0f} tokens/s, {flops / seconds / 1e12:.1f} Tflop/s"
              + (f", {100 * flops / seconds / a.peak:.1f} % of {a.peak / 1e12:.0f}" if a.device != "cpu" else ""))
        print(f"weights, gradients and state: {16 * numbers / (a.memory * UNITS['MiB']):.2f} times the device's memory"
              + (", the state on the host" if self.offloads else ""))
        print(f"loss {told[0]['loss']:.4f} at step 1, {told[-1]['loss']:.4f} at step {len(told)}; {took:.0f} s from start to end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxpipe", required=True)
    parser.add_argument("--libraries", default="", help="LD_LIBRARY_PATH of onnxpipe")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--memory", type=float, required=True, help="MiB of the device that are free")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--layers", type=int, help="instead of as many as fit")
    parser.add_argument("--offload", action="store_true", help="the optimizer's state lies on the host")
    parser.add_argument("--times", type=float, default=1.7, help="of --offload: weights, gradients and state, in the device's memory")
    for name, number in (("width", 2048), ("heads", 16), ("tokens", 50304), ("sequence", 1024), ("batch", 16), ("microbatches", 8)):
        parser.add_argument("--" + name, type=int, default=number)
    parser.add_argument("--peak", type=float, default=989.4e12, help="flop/s")
    parser.add_argument("--seconds", type=float, default=110)
    args = parser.parse_args()
    large = Large(args)
    large.write_data()
    limit = (args.memory - 1024) * UNITS["MiB"]
    if args.offload:
        most = 0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 8  # of parameters, with 8 bytes of state each
        parameters = min(most, args.times * args.memory * UNITS["MiB"] / 16)
        large.compare(math.ceil(args.layers / 8) if args.layers else large.depth_of(parameters / 8))
    layers = args.layers or (large.depth_of(parameters) if large.offloads else large.depth(limit))
    for _ in range(3):
        size = large.planned(layers)
        print(f"{layers} layers: {size / UNITS['GiB']:.2f} GiB planned of {limit / UNITS['GiB']:.2f}", flush=True)
        status, lines, told, took = large.train(layers)
        if told:
            large.show(layers, told, took)
        if not status:
            return
        print(*lines[-2:], sep="\n", flush=True)
        layers -= max(1, layers // 50)
        if args.layers or told or large.end - time.monotonic() < took:
            break
    sys.exit(1)


if __name__ == "__main__":
    main()
