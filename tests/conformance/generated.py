"""Random graphs over all operators: the backends `reference` and `cpu` give onnxruntime's numbers, and differences in float64
confirm the gradients.

usage: generated.py PROGRAM [--seconds S] [--first SEED] [--keep FOLDER]

Draws and runs graph after graph for S seconds (60), beginning with a seed (0); prints what differs with its seed, and ends with
"gradients of N graphs are confirmed" and "N passed, N failed, N skipped". A graph is skipped where it is refused as unsupported. --keep writes the models that fail."""
import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
import types

import numpy as np
from onnx import numpy_helper

import conformance
import draw

ROUND = 400  # graphs drawn, then run
TOLERANCE = 2e-4  # of the largest number of an output: sums in float32, in another order


def differs(want, got):
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        wrong = got != want
    else:
        wrong = ~(np.abs(got.astype(np.float64) - want) <= TOLERANCE * max(1.0, np.abs(want).max(initial=0)))
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{wrong.sum()} of {want.size} numbers, first {list(place)}: {got[place]}, not {want[place]}"


def judge(folder, number, expected, lines):
    for backend, what, why in lines:
        if what == "unsupported" and backend == "bind":
            return "skipped", why
        if what != "ok":
            return "failed", f"{backend}: {why}"
    if not lines:
        return "failed", "it did not run"
    for backend in conformance.BACKENDS:
        outputs = conformance.read_tensors(f"{folder}/{number}.{backend}")
        for k, (want, (_, got)) in enumerate(zip(expected, outputs)):
            wrong = differs(want, got)
            if wrong:
                return "failed", f"{backend}: output {k}: {wrong}"
    return "passed", ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep")
    asked = parser.parse_args()
    if asked.keep:
        os.makedirs(asked.keep, exist_ok=True)
    end, seed = time.monotonic() + asked.seconds, asked.first
    total, operators = collections.Counter(), set()
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="generated") as folder:
            made = []
            for number in range(ROUND):
                model, inputs, expected = draw.draw(seed + number)
                with open(f"{folder}/{number}.onnx", "wb") as file:
                    file.write(model.SerializeToString())
                tensors = [numpy_helper.from_array(a) for a in inputs]
                conformance.write_tensors(f"{folder}/{number}.in", tensors)
                operators |= {node.op_type for node in model.graph.node}
                made.append((model, tensors, expected))
            lines = conformance.run_all(asked.program, folder, len(made))
            passed = []
            for number, (model, inputs, expected) in enumerate(made):
                what, why = judge(folder, number, expected, lines.get(number, []))
                total[what] += 1
                nodes = " ".join(node.op_type for node in model.graph.node)
                name = f"seed {seed + number} ({nodes})"
                if what == "failed":
                    print(f"{name}: {why.replace(folder + '/', '')}", flush=True)
                    if asked.keep:
                        shutil.copy(f"{folder}/{number}.onnx", f"{asked.keep}/{seed + number}.onnx")
                elif what == "passed":
                    passed.append((types.SimpleNamespace(name=name, model=model), inputs))
        with tempfile.TemporaryDirectory(prefix="generated") as folder:
            confirmed, wrong = conformance.check_gradients(asked.program, folder, passed)
        total["confirmed"] += confirmed
        total["failed"] += len(wrong)
        total["passed"] -= len(wrong)
        for line in wrong:
            print(f"gradient: {line}", flush=True)
        seed += ROUND
    print(f"seeds {asked.first} to {seed - 1}, {len(operators)} operators")
    print(f"gradients of {total['confirmed']} graphs are confirmed by differences in float64")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or not total["passed"] else 0


sys.exit(main())
