"""sparse_step.py ONNXPIPE DLRM.onnx DLRM.npz [--rows N] [--rounds R] [--threads T]: a step of a DLRM (SGD) with the first of its
tables grown to N rows (20,000,000), over the step with as many as it has, in turns.

The model and its data are ../shared/peers/export_bench.py's. The grown table has no weight file: --init draws it. Needs onnx and numpy.
"""
import argparse, json, os, subprocess, tempfile
import numpy as np, onnx


def grow(model, data, rows, folder, name):
    """The model with `rows` rows in its first table, and data that look all of them up."""
    m = onnx.load(model)
    table = next(i for i in m.graph.initializer if i.name == "tables.0.weight")
    width = table.dims[1]
    table.ClearField("raw_data")
    table.dims[0] = rows
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "absent.bin"), ("length", str(rows * width * 4))):
        entry = table.external_data.add()
        entry.key, entry.value = key, value
    arrays = dict(np.load(data))
    index = arrays["input_1"].copy()
    index[:, 0] = np.random.default_rng(0).integers(rows, size=index[:, 0].shape)
    arrays["input_1"] = index
    paths = os.path.join(folder, name + ".onnx"), os.path.join(folder, name + ".npz")
    with open(paths[0], "wb") as out:
        out.write(m.SerializeToString())
    np.savez(paths[1], **arrays)
    return paths


def run(program, paths, args, folder):
    """The fastest step, seconds from start to end, peak memory in MB."""
    metrics = os.path.join(folder, "metrics.jsonl")
    command = [program, "train", paths[0], "--data", paths[1], "--loss", "bce_with_logits", "--optimizer", "sgd", "--lr", "0.1", "--init",
               "normal:0.05", "--microbatches", "1", "--batch", "512", "--steps", str(args.steps), "--threads", str(args.threads),
               "--metrics", metrics, "--quiet"]
    timed = subprocess.run(["/usr/bin/env", "python3", "-c", "import resource, subprocess, sys, time; t = time.monotonic(); "
                            "subprocess.run(sys.argv[1:], check=True); print(time.monotonic() - t, "
                            "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)", *command],
                           check=True, capture_output=True, text=True).stdout.split()
    with open(metrics) as lines:
        seconds = [json.loads(line)["seconds"] for line in lines]
    return min(seconds[1:]), float(timed[-2]), float(timed[-1])


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("--rows", type=int, default=20_000_000)
parser.add_argument("--rounds", type=int, default=4)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    models = [grow(args.model, args.data, rows, folder, str(rows)) for rows in (100_000, args.rows)]
    best = [(float("inf"),) * 3] * 2
    for _ in range(args.rounds):
        for k in range(2):
            best[k] = tuple(map(min, best[k], run(args.program, models[k], args, folder)))
    for rows, (step, whole, peak) in zip((100_000, args.rows), best):
        print(f"{rows:>11,} rows: {1000 * step:.2f} ms a step, {whole:.1f} s in all, peak memory {peak:,.0f} MB")
    print(f"ratio {best[1][0] / best[0][0]:.3f}")
