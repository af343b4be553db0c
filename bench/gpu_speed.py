#!/usr/bin/env python3
"""Training steps of onnxpipe and PyTorch on one GPU, taking turns: a row as soon as it is there, the table in the end.

  python3 bench/gpu_speed.py --onnxpipe PROGRAM --models DIR --out DIR [options] [MODEL[/BATCH][:PRECISION]]… [ours|torch]

Questions come in the order of what matters, and end when --seconds are over: gpt2_124m in bf16 first. Every row has a median of steps after
a warm-up: PyTorch's by the device's clock, onnxpipe's by the host's, which has the batch's way to the device in it. Nothing runs beside
what is timed. Of onnxpipe's memory the first figure is what was planned, the second what the driver says; of PyTorch's there is what its
tensors took at most. The floor of a step: the flops of its products over the rate of a large product, and the bytes that AdamW and what
is kept for the backward pass move (each value written and read once) over the rate of a large copy, both measured there by PyTorch.

--out gets rows.jsonl, table.md (after every row) and a log of every run. MODEL asks for its rows alone; `ours` or `torch` for these alone.
"""
import argparse
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# batches, loss, steps of ours, numbers of an input and the target, each drawn from: a count of classes, or None for normal ones
SIZES = {
    "gpt2_124m": ((8, 32), "cross_entropy", 30, [((1024,), 50304)], ((1024,), 50304)),
    "gpt_25m": ((8,), "cross_entropy", 150, [((256,), 8192)], ((256,), 8192)),
    "surrogate": ((256,), "mse", 200, [((8,), None)], ((4096,), None)),
    "dlrm": ((512,), "bce_with_logits", 200, [((13,), None), ((26, 4), 100000)], ((1,), None)),
    "resnet18": ((16,), "cross_entropy", 100, [((3, 160, 160), None)], ((), 1000)),
    "resnet50": ((64,), "cross_entropy", 25, [((3, 224, 224), None)], ((), 1000)),
    "unet3d": ((1,), "cross_entropy", 60, [((1, 64, 64, 64), None)], ((64, 64, 64), 3)),
}
TINY = {
    "gpt2_124m": ((2, 4), "cross_entropy", 6, [((32,), 512)], ((32,), 512)),
    "gpt_25m": ((2,), "cross_entropy", 6, [((16,), 256)], ((16,), 256)),
    "surrogate": ((8,), "mse", 6, [((8,), None)], ((64,), None)),
    "dlrm": ((8,), "bce_with_logits", 6, [((13,), None), ((4, 4), 1000)], ((1,), None)),
    "resnet18": ((2,), "cross_entropy", 6, [((3, 32, 32), None)], ((), 1000)),
    "resnet50": ((2,), "cross_entropy", 6, [((3, 32, 32), None)], ((), 1000)),
    "unet3d": ((1,), "cross_entropy", 6, [((1, 32, 32, 32), None)], ((32, 32, 32), 3)),
}
WAYS = ("eager", "compiled", "graphs")
PRECISIONS = ("bf16", "tf32", "float32")
TAKES = {"ours": (4, 60), "eager": (2, 30), "compiled": (25, 50), "graphs": (15, 50)}  # seconds at least and at most; gpt2_124m more


def questions(sizes):
    """(model, batch, precision, engine), what matters first."""
    gpt2, small = "gpt2_124m", [name for name in sizes if name != "gpt2_124m"]
    batch, large = sizes[gpt2][0]
    asked = [(gpt2, batch, "bf16", engine) for engine in ("ours", "compiled", "eager")]
    asked += [(gpt2, batch, precision, "ours") for precision in ("tf32", "float32")]
    asked += [(gpt2, large, "bf16", "ours")]
    for precision in PRECISIONS:
        for engine in ("ours", "eager"):
            asked += [(name, sizes[name][0][0], precision, engine) for name in small]
    asked += [(gpt2, large, "bf16", "eager"), (gpt2, batch, "tf32", "eager"), (gpt2, batch, "float32", "eager"),
              (gpt2, batch, "bf16", "graphs"), (gpt2, large, "bf16", "compiled")]
    for way in ("compiled", "graphs"):
        asked += [(name, sizes[name][0][0], "bf16", way) for name in ("surrogate", "dlrm", "gpt_25m", "resnet50", "resnet18", "unet3d")]
    asked += [(gpt2, batch, "tf32", way) for way in ("compiled", "graphs")]
    asked += [(name, sizes[name][0][0], "tf32", way) for name in small for way in ("compiled", "graphs")]
    return asked


class Torch:
    """The peer, a process that stays, so that its start is paid for once."""

    def __init__(self, args):
        self.args, self.process = args, None

    def ask(self, seconds, **question):
        if not self.process:
            environment = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=os.path.join(self.args.out, "inductor"), PYTHONWARNINGS="ignore")
            command = [self.args.python, os.path.join(HERE, "gpu_models.py"), "serve", self.args.device.split(":")[0]]
            self.log = open(os.path.join(self.args.out, "torch.log"), "a")
            self.process = subprocess.Popen(command + ["--tiny"] * self.args.tiny, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.log, text=True, env=environment)
            self.lines = queue.Queue()
            threading.Thread(target=self.read, args=(self.process.stdout, self.lines), daemon=True).start()
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            line, why = None, f"no answer in {seconds:.0f} s"
        else:
            why = "PyTorch's process has ended: torch.log"
        if not line:
            self.end()
            return {"error": why}
        return json.loads(line)

    @staticmethod
    def read(stream, lines):
        for line in stream:
            if line.startswith("{"):
                lines.put(line)
        lines.put(None)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Ours:
    def __init__(self, args, sizes):
        self.args, self.sizes = args, sizes

    def data(self, model, batch):
        import numpy

        path = os.path.join(self.args.out, f"{model}_{batch}.npz")
        if not os.path.exists(path):
            draw = numpy.random.default_rng(0)
            _, loss, _, inputs, target = self.sizes[model]

            def values(shape, classes):
                if classes:
                    return draw.integers(0, classes, (batch, *shape), dtype=numpy.int64)
                return draw.standard_normal((batch, *shape), dtype=numpy.float32)

            arrays = {f"input_{i}": values(*one) for i, one in enumerate(inputs)}
            arrays["target"] = values(*target)
            if loss == "bce_with_logits":
                arrays["target"] = (arrays["target"] > 0).astype(numpy.float32)
            numpy.savez(path, **arrays)
        return path

    def driver_mib(self):
        if self.args.device == "cpu":
            return None
        said = subprocess.run(["nvidia-smi", "-i", self.args.nvidia_smi, "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True).stdout
        return int(said) if said.strip().isdigit() else None

    def options(self, model, batch, precision, steps):
        return {"data": self.data(model, batch), "batch": batch, "microbatches": 1, "ranks": 1, "steps": steps, "device": self.args.device,
                "precision": precision, "loss": self.sizes[model][1], "init": "normal:0.02", "lr": "1e-4"}

    def step(self, seconds, model, batch, precision):
        if self.args.device == "cpu" and precision == "tf32":
            return {"error": "tf32 without a GPU is refused"}
        path = os.path.join(self.args.out, f"ours_{model}_{batch}_{precision}")
        metrics, steps = path + ".jsonl", self.sizes[model][2] // (2 if batch == 32 else 1)
        if os.path.exists(metrics):
            os.remove(metrics)
        options = self.options(model, batch, precision, steps) | {"metrics": metrics}
        command = [self.args.onnxpipe, "train", os.path.join(self.args.models, model + ".onnx")]
        command += [word for name, value in options.items() for word in ("--" + name, str(value))]
        command.append("--verbose")
        if model != "gpt2_124m":  # two seconds of each start, for the prediction alone
            command.append("--no-measure")
        before, most, looks = self.driver_mib(), 0, 0
        with open(path + ".log", "w") as log:
            environment = dict(os.environ, LD_LIBRARY_PATH=self.args.libraries) if self.args.libraries else None
            run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            end = time.monotonic() + seconds
            # the device's memory is taken before the first step, so that nothing need look while steps are timed
            while run.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                if before is not None and looks < 2 and os.path.exists(metrics) and os.path.getsize(metrics):
                    most, looks = max(most, (self.driver_mib() or before) - before), looks + 1
            if run.poll() is None:
                run.kill()
                run.wait()
                return {"error": f"not done in {seconds:.0f} s"}
        with open(path + ".log") as log:
            lines = log.read().splitlines()
        if run.returncode:
            return {"error": (lines or ["nothing said"])[-1][:300] + f" (exit {run.returncode})"}
        with open(metrics) as file:
            told = [json.loads(line) for line in file]
        text = " ".join(lines)
        timed = [line["seconds"] for line in told[max(2, len(told) // 3):]]
        said = {"ms": 1e3 * statistics.median(timed), "best_ms": 1e3 * min(timed), "loss": told[-1]["loss"], "first_loss": told[0]["loss"]}
        size = re.search(r"memory: ([\d.]+) (B|KiB|MiB|GiB)", text)
        if size:
            said["peak_bytes"] = int(float(size[1]) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[size[2]])
        if most:
            said["driver_bytes"] = most << 20
        predicted = re.search(r"predicted: ([\d.]+) (us|ms|s) a step", text)
        if predicted and model == "gpt2_124m":
            said["predicted_ms"] = float(predicted[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[predicted[2]]
        if precision == "bf16" and "bf16 activations" not in text:
            said["note"] = "activations in float32"
        copied = re.search(r"on copies in float32: ([^;\n]*)", "\n".join(lines))
        if copied:
            said["note"] = "on copies in float32: " + copied[1]
        if said["loss"] != said["loss"]:
            said["note"] = "the loss is not a number"
        return said


def gib(size):
    return f"{size / 2**30:.2f}" if size else ""


class Table:
    def __init__(self, args):
        self.args, self.rows, self.floors, self.rates = args, {}, {}, {}
        self.file = open(os.path.join(args.out, "rows.jsonl"), "w")

    def add(self, row, said):
        model, batch, precision, engine = row
        self.rows.setdefault(row[:3], {})[engine] = said
        self.file.write(json.dumps({"model": model, "batch": batch, "precision": precision, "engine": engine} | said) + "\n")
        self.file.flush()
        label = f"{model} {batch} {precision}"
        if "error" in said:
            print(f"{label:<24} {engine:<9} {'':>9}     {said['error']}", flush=True)
        else:
            memory = gib(said.get("peak_bytes")) + (f" planned, {gib(said['driver_bytes'])} taken" if "driver_bytes" in said else "")
            more = [f"{memory} GiB"] if memory else []
            if "predicted_ms" in said:
                more.append(f"predicted {said['predicted_ms']:.3g}")
            if "first_s" in said:
                more.append(f"first step {said['first_s']} s")
            more += [f"loss {said['loss']:.4f}"] + ([said["note"]] if "note" in said else [])
            print(f"{label:<24} {engine:<9} {said['ms']:>9.2f} ms  {', '.join(more)}", flush=True)
        with open(os.path.join(self.args.out, "table.md"), "w") as file:
            file.write(self.text())

    def floor(self, key):
        """Milliseconds of products and of memory."""
        floor, (_, _, precision) = self.floors.get(key[:2]), key
        if not floor or not self.rates:
            return None
        kept = floor["activation_bytes"] / (2 if precision == "bf16" else 1)
        return 1e3 * floor["flops"] / self.rates[precision], 1e3 * (floor["update_bytes"] + kept) / self.rates["copy"]

    def text(self):
        lines = ["| model | batch | precision | onnxpipe, ms | eager | compiled | graphs | **ratio** | floor: products + memory, ms | GiB: planned, "
                 "driver | eager | compiled | graphs |", "|" + "---|" * 13]
        for key, engines in self.rows.items():
            ours, peers = engines.get("ours", {}), [engines[way]["ms"] for way in WAYS if "ms" in engines.get(way, {})]
            ratio = f"**{min(peers) / ours['ms']:.2f}**" if peers and "ms" in ours else ""
            floor = self.floor(key)
            cells = [key[0], str(key[1]), key[2]] + [f"{engines[e]['ms']:.2f}" if "ms" in engines.get(e, {}) else "" for e in ("ours", *WAYS)]
            cells += [ratio, f"{floor[0]:.2f} + {floor[1]:.2f}" if floor else ""]
            cells += [", ".join(filter(None, (gib(ours.get("peak_bytes")), gib(ours.get("driver_bytes")))))]
            cells += [gib(engines.get(way, {}).get("peak_bytes")) for way in WAYS]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def losses(rows):
    """Ours after the last step, of one model in its precisions: the same weights, batch and steps."""
    found = {}
    for (model, batch, precision), engines in rows.items():
        if "loss" in engines.get("ours", {}):
            found.setdefault(f"{model} {batch}", {})[precision] = engines["ours"]["loss"]
    for name, by in found.items():
        if len(by) > 1:
            apart = (max(by.values()) - min(by.values())) / max(map(abs, by.values()))
            yield f"{name}: " + ", ".join(f"{precision} {loss:.5f}" for precision, loss in by.items()) + " <- apart" * (apart > 0.02)


def chosen(asked, sizes, rows):
    """The questions that `rows` leave."""
    engines = ({"ours"} if "ours" in rows else set()) | (set(WAYS) if "torch" in rows else set())
    wanted = []
    for row in rows:
        if row in ("ours", "torch"):
            continue
        model, _, precision = row.partition(":")
        model, _, batch = model.partition("/")
        if model not in sizes or (precision and precision not in PRECISIONS) or (batch and not batch.isdigit()):
            sys.exit(f"gpu_speed.py: no row '{row}': MODEL[/BATCH][:PRECISION] of {', '.join(sizes)} and {', '.join(PRECISIONS)}; ours; torch")
        wanted.append((model, int(batch) if batch else sizes[model][0][0], precision))
    if wanted:
        every = [(m, b, p, e) for m, b, precision in wanted for p in PRECISIONS if precision in ("", p) for e in ("ours", *WAYS)]
        asked = [q for q in asked if q in every] + [q for q in every if q not in asked]
    return [q for q in asked if not engines or q[3] in engines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--onnxpipe", required=True)
    parser.add_argument("--models", required=True, help="what gpu_models.py export has written")
    parser.add_argument("--out", required=True)
    parser.add_argument("--libraries", default="", help="LD_LIBRARY_PATH of onnxpipe alone")
    parser.add_argument("--device", default="cuda:0", help="of onnxpipe; PyTorch takes its kind")
    parser.add_argument("--nvidia-smi", default="0", help="the device's name there")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--seconds", type=float, default=285)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    os.makedirs(args.out, exist_ok=True)
    sizes = TINY if args.tiny else SIZES
    asked = chosen(questions(sizes), sizes, args.rows)
    peer, ours, table = Torch(args), Ours(args, sizes), Table(args)
    if any(q[3] != "ours" for q in asked):
        said = peer.ask(60, ask="rates")
        if "error" in said:
            print(f"PyTorch: {said['error']}: its rows are left out", flush=True)
            asked = [q for q in asked if q[3] == "ours"]
        else:
            table.rates = said
            print(f"{said.get('device', 'cpu')}, PyTorch {said['torch']}: products of float32 {said['float32'] / 1e12:.1f}, tf32 "
                  f"{said['tf32'] / 1e12:.0f}, bf16 {said['bf16'] / 1e12:.0f} Tflop/s; a copy {said['copy'] / 1e9:,.0f} GB/s", flush=True)
    left = {}
    for question in asked:
        model, batch, precision, engine = question
        seconds = end - time.monotonic()
        least, most = (n * (1.5 if model == "gpt2_124m" else 1) for n in TAKES[engine])
        if seconds < (1 if args.tiny else least):
            left.setdefault(f"{precision} {engine}", []).append(f"{model} {batch}")
            continue
        if table.rates and question[:2] not in table.floors:
            table.floors[question[:2]] = peer.ask(seconds, ask="floor", model=model, batch=batch)
            if "error" in table.floors[question[:2]]:
                print(f"the floor of {model}: {table.floors.pop(question[:2])['error']}", flush=True)
        if engine == "ours":
            said = ours.step(min(seconds, most), model, batch, precision)
        else:
            said = peer.ask(min(seconds, most), ask="step", model=model, batch=batch, precision=precision, way=engine)
        table.add(question, said)
    peer.end()
    print()
    print(table.text(), flush=True)
    for line in losses(table.rows):
        print("onnxpipe's last loss,", line, flush=True)
    if left:
        print("no time was left for: " + "; ".join(f"{how}: {', '.join(models)}" for how, models in left.items()))


if __name__ == "__main__":
    main()
