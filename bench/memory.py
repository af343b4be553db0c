"""How much memory the program really takes: `memory.py ONNXPIPE` prints a table and fails where a promise is broken.

- With `--models DIR NAME…`, of DIR/NAME.onnx and NAME.npz each: the peak (VmHWM) of training on 1 rank, on 2 threads and on 2 processes
  is what the plan says, to 3 % + 32 MB. `NAME:OPTION=VALUE` gives an option of its own: `dlrm:loss=bce_with_logits`.

- On 4 ranks of a model whose weights dominate, each rank's peak (VmHWM) stays under its own stages' planned arena + 64 MB,
  from start to saved file.
- inspect and plan of a file of 1.5 GB stay under 64 MB: the file is never held whole.

Without an argument the program is $ONNXPIPE. Needs numpy. The model files are written here, in a folder that is removed; the large one is sparse.
"""
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile

import numpy as np

MB = 1e6
SLACK = 64 * MB
FLOAT = 1


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def number(field, n):
    return varint(field << 3) + varint(n)


def head(field, length):
    return varint(field << 3 | 2) + varint(length)


def text(field, content):
    content = content.encode() if isinstance(content, str) else content
    return head(field, len(content)) + content


def value_info(name, dims):
    shape = b"".join(text(1, text(2, d) if isinstance(d, str) else number(1, d)) for d in dims)
    return text(1, name) + text(2, text(1, number(1, FLOAT) + text(2, shape)))


def write_model(path, layers, width, fill):
    """x -> (MatMul, Relu) * layers; `fill(file, bytes)` writes one matrix."""
    nodes, tensors, value = b"", [], "x"
    for i in range(layers):
        nodes += text(1, text(1, value) + text(1, f"w{i}") + text(2, f"m{i}") + text(4, "MatMul"))
        value = f"r{i}" if i + 1 < layers else "y"
        nodes += text(1, text(1, f"m{i}") + text(2, value) + text(4, "Relu"))
        tensors.append(number(1, width) + number(1, width) + number(2, FLOAT) + text(8, f"w{i}") + head(9, 4 * width * width))
    ends = text(11, value_info("x", ["N", width])) + text(12, value_info("y", ["N", width]))
    size = 4 * width * width
    total = len(nodes) + len(text(2, "wide")) + len(ends)
    total += sum(len(head(5, len(t) + size)) + len(t) + size for t in tensors)
    with open(path, "wb") as file:
        file.write(number(1, 9) + head(7, total) + nodes + text(2, "wide"))
        for t in tensors:
            file.write(head(5, len(t) + size) + t)
            fill(file, size)
        file.write(ends + text(8, number(2, 18)))


def random_matrix(width):
    rng = np.random.default_rng(0)
    deviation = np.float32((2 / width) ** 0.5)
    return lambda file, size: file.write((rng.standard_normal((width, width), np.float32) * deviation).tobytes())


def hole(file, size):
    file.seek(size - 1, os.SEEK_CUR)
    file.write(b"\0")


def write_data(path, samples, width):
    rng = np.random.default_rng(1)
    np.savez(path, x=rng.standard_normal((samples, width), np.float32), target=rng.standard_normal((samples, width), np.float32))


def run_and_report(command):
    """As a rank's wrapper: runs the program, then says its peak on a line that the parent reads."""
    code = subprocess.call(command)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))
    sys.stderr.write(f"peak {rank} {peak}\n")
    return code


def peaks(command, ranks=0):
    launcher = ["mpirun", "-n", str(ranks)] if ranks else []
    wrapped = launcher + [sys.executable, os.path.abspath(__file__), "--wrap", *map(str, command)]
    result = subprocess.run(wrapped, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(wrapped)}\n{result.stdout}{result.stderr}")
    found = {int(l.split()[1]): int(l.split()[2]) for l in result.stderr.splitlines() if l.startswith("peak ")}
    return [found[r] for r in sorted(found)]


def row(what, peak, limit):
    print(f"{what:44} {peak / MB:9.1f} MB of {limit / MB:9.1f} MB{'' if peak < limit else '   BROKEN'}", flush=True)
    return peak < limit


def stages(program, folder, layers, width):
    model, data, plan = (os.path.join(folder, n) for n in ("wide.onnx", "wide.npz", "plan.json"))
    write_model(model, layers, width, random_matrix(width))
    write_data(data, 16, width)
    subprocess.run([program, "plan", model, "--data", data, "--ranks", "4", "--batch", "8", "--microbatches", "4",
                    "--threads", "1", "--quiet", "-o", plan], check=True)
    with open(plan) as file:
        arenas = [rank["total_bytes"] for rank in json.load(file)["memory"]]
    train = [program, "train", model, "--data", data, "--plan", plan, "--steps", "2", "--threads", "1", "--quiet",
             "--save", os.path.join(folder, "trained.onnx")]
    weights = layers * width * width * 4
    print(f"{layers} products of {width} x {width}: {weights / MB:.0f} MB of weights, AdamW, 4 ranks")
    return all([row(f"  rank {r}: peak, planned arena + 64 MB", peak, arena + SLACK)
                for r, (peak, arena) in enumerate(zip(peaks(train, 4), arenas))])


def large_file(program, folder):
    model = os.path.join(folder, "large.onnx")
    layers, width = 23, 4096
    write_model(model, layers, width, hole)
    size = os.path.getsize(model)
    print(f"a file of {size / MB:.0f} MB")
    good = row("  inspect: peak", peaks([program, "inspect", model, "--json"])[0], SLACK)
    good &= row("  plan --ranks 8: peak", peaks([program, "plan", model, "--ranks", "8", "--quiet"])[0], SLACK)
    return good


def predicted(path, processes):
    """What the plan says of each process: its arenas, and what a process takes beside them."""
    with open(path) as file:
        plan = json.load(file)
    arenas = [rank["total_bytes"] for rank in plan["memory"]]
    beside = plan["process"]["beside_bytes"]
    return [a + beside + plan["process"]["mpi_bytes"] for a in arenas] if processes else [sum(arenas) + beside]


def model_rows(program, folder, models, name):
    name, *own = name.split(":")
    options = [part for o in own for part in ("--" + o.split("=")[0], o.split("=")[1])]
    model, data, plan = (os.path.join(models, name + ".onnx"), os.path.join(models, name + ".npz"), os.path.join(folder, "p.json"))
    job = [model, "--data", data, "--threads", "1", "--quiet", *options]
    good = True
    for ranks, processes in (1, 0), (2, 0), (2, 2):
        if processes and not shutil.which("mpirun"):
            print(f"{name}: 2 processes: skipped, this machine has no mpirun")
            continue
        subprocess.run([program, "plan", *job, "--ranks", str(ranks), "-o", plan], check=True)
        found = peaks([program, "train", *job, "--steps", "2", "--plan", plan], processes)
        for i, (peak, said) in enumerate(zip(found, predicted(plan, processes))):
            off = abs(peak - said)
            broken = off > 0.03 * peak + 32 * MB
            good &= not broken
            where = f"rank {i} of {processes} processes" if processes else f"{ranks} thread{'s' if ranks > 1 else ''}"
            print(f"{name + ', ' + where:44} {peak / MB:9.1f} MB, predicted {said / MB:9.1f} MB ({100 * (said / peak - 1):+5.1f} %)"
                  f"{'   BROKEN' if broken else ''}", flush=True)
    return good


def main():
    if sys.argv[1:2] == ["--wrap"]:
        return run_and_report(sys.argv[2:])
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ["ONNXPIPE"])
    folder = tempfile.mkdtemp(prefix="onnxpipe-memory-")
    try:
        if sys.argv[2:3] == ["--models"]:
            return 0 if all([model_rows(program, folder, sys.argv[3], name) for name in sys.argv[4:]]) else 1
        good = large_file(program, folder)
        if shutil.which("mpirun"):
            good &= stages(program, folder, 12, 2048)
        else:
            print("skipped: this machine has no mpirun")
    finally:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
