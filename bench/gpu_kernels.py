#!/usr/bin/env python3
"""Where a training step's milliseconds go on a GPU, by kernel: one step after three, under Nsight Compute.

  python3 bench/gpu_kernels.py --library libonnxpipe.so.0 --models DIR --out DIR [options] MODEL[/BATCH] PRECISION [traced|torch]

Each kernel runs alone and with the caches as they are; clocks are left alone. What a step takes beyond the sum of its kernels, launches
and waits cost. `traced`: by PyTorch's profiler, which sees all kernels of a process as they follow each other, but no bytes; also where
Nsight Compute says nothing. `torch`: PyTorch's compiled step instead, in the same way. --out gets all launches.
"""
import argparse
import csv
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import gpu_speed

HERE = os.path.dirname(os.path.abspath(__file__))
BEFORE = 3  # steps
LINES = 22
NCU = ["--csv", "--print-units", "base", "--clock-control", "none", "--cache-control", "none", "--graph-profiling", "node", "--profile-from-start",
       "off", "--metrics", "gpu__time_duration.sum,dram__bytes.sum"]
UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9}  # of "ns", "nsecond", "Kbyte" …


class Metrics(ctypes.Structure):  # OnnxpipeMetrics
    _fields_ = [("step", ctypes.c_int64), ("steps", ctypes.c_int64)] + [
        (name, ctypes.c_double) for name in ("loss", "learning_rate", "seconds", "samples_per_second", "gradient_norm")]


def run(args, options):
    """The steps, by the library's own functions; the profiler is on during the last."""
    trace = tracing(args) if args.engine == "traced" else None
    library = ctypes.CDLL(args.library)
    library.onnxpipe_error.restype = ctypes.c_char_p
    library.onnxpipe_options_create.restype = ctypes.c_void_p

    def call(name, *arguments):
        if getattr(library, "onnxpipe_" + name)(*arguments):
            sys.exit(f"onnxpipe_{name}: {library.onnxpipe_error().decode()}")

    kept = ctypes.c_void_p(library.onnxpipe_options_create())
    for name, value in (options | {"no-measure": ""}).items():
        call("options_set", kept, name.encode(), str(value).encode())
    rank, size, model, session, metrics = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), Metrics()
    call("start", None, None, ctypes.byref(rank), ctypes.byref(size))
    call("open", os.path.join(args.models, args.model + ".onnx").encode(), kept, ctypes.byref(model))
    call("session_open", model, None, ctypes.byref(session))
    for _ in range(BEFORE):
        call("session_step", session)
    call("session_metrics", session, ctypes.byref(metrics))
    print(f"step {1e3 * metrics.seconds:.3f} ms", flush=True)
    if trace:
        with trace() as seen:
            call("session_step", session)
        print(json.dumps([(e.key, e.self_device_time_total / 1e6, e.count) for e in seen.key_averages() if e.self_device_time_total > 0]),
              flush=True)
    else:
        profiler(True)
        call("session_step", session)
        profiler(False)
    call("session_close", session)


def tracing(args):
    """What makes PyTorch's profiler, which has seen the device before anything was recorded there."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = args.device != "cpu"

    def trace():
        return profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])

    with trace():
        torch.zeros(1, device="cuda" if on_gpu else "cpu").add_(1)
    return trace


def profiler(on):
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # a dry run on the cpu
        return
    context = ctypes.c_void_p()
    if driver.cuInit(0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or driver.cuCtxSetCurrent(context):
        sys.exit("the driver gives no context of device 0")
    (driver.cuProfilerStart if on else driver.cuProfilerStop)()


def short(name):
    """A kernel's name without what it returns and takes."""
    name = re.sub(r"^void ", "", re.sub(r"\(anonymous namespace\)::|<unnamed>::|\(bool\)|\(int\)", "", name))
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = i
            break
    name = name[:end]
    return name if len(name) <= 90 else name[:60] + "…" + name[-29:]


def launches(lines):
    """(kernel, seconds, bytes) of each launch in Nsight Compute's table."""
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    found = {}
    for row in csv.DictReader(lines[start:]):
        if not (row.get("Metric Value") or "")[:1].isdigit():
            continue
        unit = row["Metric Unit"]
        value = float(row["Metric Value"].replace(",", "")) * (1 if unit in ("s", "second", "byte") else UNITS[unit[0]])
        one = found.setdefault(row["ID"], [short(row["Kernel Name"]), 0.0, 0.0])
        if row["Metric Name"].startswith("gpu__time"):
            one[1] = value
        else:
            one[2] = value
    return list(found.values())


def show(all_of, step):
    sums = defaultdict(lambda: [0.0, 0, 0.0])
    for name, seconds, moved in all_of:
        one = sums[name]
        one[0], one[1], one[2] = one[0] + seconds, one[1] + 1, one[2] + moved
    whole = sum(one[0] for one in sums.values())
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    rest = ordered[LINES:]
    if rest:
        ordered = ordered[:LINES] + [(f"{len(rest)} others", [sum(one[i] for _, one in rest) for i in range(3)])]
    print(f"{step}; kernels {1e3 * whole:.2f} ms in {len(all_of)} launches, {sum(one[2] for one in sums.values()) / 1e9:.2f} GB")
    print(f"{'ms':>8} {'%':>5} {'launches':>8} {'us each':>8} {'GB/s':>6}  kernel")
    for name, (seconds, count, moved) in ordered:
        print(f"{1e3 * seconds:>8.3f} {100 * seconds / whole:>5.1f} {count:>8} {1e6 * seconds / count:>8.1f} {moved / seconds / 1e9:>6.0f}  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("precision")
    parser.add_argument("engine", nargs="?", default="ours", choices=("ours", "traced", "torch"))
    parser.add_argument("--library", required=True)
    parser.add_argument("--libraries", default="", help="LD_LIBRARY_PATH of onnxpipe alone")
    parser.add_argument("--models", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=55)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = gpu_speed.TINY if args.tiny else gpu_speed.SIZES
    args.model, _, batch = args.model.partition("/")
    if args.model not in sizes or args.precision not in gpu_speed.PRECISIONS:
        sys.exit(f"gpu_kernels.py: MODEL[/BATCH] PRECISION of {', '.join(sizes)} and {', '.join(gpu_speed.PRECISIONS)}")
    args.batch = batch = int(batch) if batch else sizes[args.model][0][0]
    os.makedirs(args.out, exist_ok=True)
    if args.engine == "torch":
        args.python = sys.executable
        said = gpu_speed.Torch(args).ask(args.seconds, ask="kernels", model=args.model, batch=batch, precision=args.precision)
        if "error" in said:
            sys.exit(said["error"])
        each = [(short(name), seconds / count, 0) for name, seconds, count in said["kernels"] for _ in range(count)]
        show(each, f"PyTorch, compiled: step {said['ms']:.3f} ms")
        return
    options = gpu_speed.Ours(args, sizes).options(args.model, batch, args.precision, BEFORE + 1)
    if args.run:
        run(args, options)
        return
    if args.engine == "ours" and not profiled(args, batch):
        print("Nsight Compute has said nothing: traced instead", flush=True)
        args.engine = "traced"
    if args.engine == "traced":
        traced(args)


def child(args, file, before=()):
    """The steps in a process of their own, which writes into `file`."""
    command = [*before, sys.executable, os.path.abspath(__file__), "--run", "--library", args.library, "--models", args.models, "--out",
               args.out, "--device", args.device, *["--tiny"] * args.tiny, f"{args.model}/{args.batch}", args.precision, args.engine]
    return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ, LD_LIBRARY_PATH=args.libraries))


def finish(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"not done in {seconds:.0f} s: what there is until then")
        process.send_signal(signal.SIGINT)  # Nsight Compute still prints what it has
        time.sleep(3)
        process.kill()
        process.wait()


def profiled(args, batch):
    """False: nothing was seen."""
    ncu = shutil.which("ncu") or next((path for path in ("/usr/local/cuda/bin/ncu",) if os.path.exists(path)), None)
    if not ncu and args.device != "cpu":
        print("there is no ncu")
        return False
    path = os.path.join(args.out, f"kernels_{args.model}_{batch}_{args.precision}.csv")
    with open(path, "w") as file:
        finish(child(args, file, [ncu, *NCU] if args.device != "cpu" else ()), args.seconds)
    with open(path) as file:
        lines = file.read().splitlines()
    step = next((line for line in lines if line.startswith("step ")), "no step was through")
    found = launches(lines)
    if found:
        show(found, step)
    else:
        print(step, *[line for line in lines if not line.startswith(("step ", "==PROF== Profiling"))][-6:], sep="\n")
    return found


def traced(args):
    with tempfile.TemporaryFile("w+") as file:
        finish(child(args, file), args.seconds)
        file.seek(0)
        lines = file.read().splitlines()
    kernels = next((json.loads(line) for line in lines if line.startswith("[[")), [])
    if not kernels:
        print(*lines[-6:], sep="\n")
        sys.exit(1)
    each = [(short(name), seconds / count, 0) for name, seconds, count in kernels for _ in range(count)]
    show(each, next((line for line in lines if line.startswith("step ")), ""))


if __name__ == "__main__":
    main()
