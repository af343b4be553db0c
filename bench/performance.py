#!/usr/bin/env python3
"""The table of docs/performance.md: onnxpipe and PyTorch on this machine, taking turns, in Markdown.

  python3 bench/performance.py --peer-python VENV/bin/python [--only steps,bf16,sgemm,pipeline,tables] [--models gpt_25m,surrogate]

Each figure is the fastest of several steps, the fastest of several rounds. PyTorch runs eager and compiled, with its BLAS as it comes
and unpinned (its wheels' BLAS takes a slow path on processors of other makers): the fastest counts. A ratio above 1 says that
onnxpipe is faster; memory is onnxpipe's peak over PyTorch's. Nothing else should run meanwhile. The peer's Python has torch, numpy and
onnx; the models are written into --folder once.

steps     the six models, float32, on one thread and on all cores; peak memory
bf16      three of them with --precision bf16 beside autocast
sgemm     gpt_25m's step in Gflop/s beside the best product of 4096 x 4096 of torch's and of numpy's BLAS, one thread
pipeline  gpt_25m over as many ranks as cores, one thread each, 8 microbatches, ranks as threads and as processes
tables    a step of dlrm under SGD with one table of 20 million rows over the step with 100,000 (bench/sparse_step.py)
"""
import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH = {"gpt_25m": 8, "gpt2_124m": 4, "surrogate": 256, "dlrm": 512, "resnet18": 16, "unet3d": 1}
LOSS = {"surrogate": "mse", "dlrm": "bce_with_logits"}
IN_BF16 = ("gpt_25m", "gpt2_124m", "surrogate")
GPT_25M_GFLOP = 233  # of a step: forward, backward, both passes of attention
PIPELINE = ("GPipe", "1F1B", "Interleaved1F1B", "InterleavedZeroBubble")
UNPINNED = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
PEAK = """import resource, subprocess, sys
rc = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(rc)"""


class Bench:
    def __init__(self, args):
        self.args = args
        self.cores = len(os.sched_getaffinity(0))
        os.makedirs(args.folder, exist_ok=True)
        self.unpin = os.path.join(args.folder, "unpin.so")
        source = os.path.join(args.folder, "unpin.c")
        with open(source, "w") as file:
            file.write(UNPINNED)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self.unpin, source], check=True)

    def files(self, name):
        path = os.path.join(self.args.folder, name)
        if not os.path.exists(path + ".npz"):
            subprocess.run([self.args.peer_python, os.path.join(HERE, "peer_models.py"), "export", self.args.folder, name], check=True,
                           stdout=sys.stderr)
        return path + ".onnx", path + ".npz"

    def torch(self, command, unpinned, **more):
        """What the peer says in its last line; None where it fails, with the reason on standard error."""
        env = dict(os.environ, **more)
        if unpinned:
            env["LD_PRELOAD"] = self.unpin
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            print(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
        return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])

    def torch_step(self, name, threads, *how):
        """What the peer says, by the way it ran."""
        command = [self.args.peer_python, os.path.join(HERE, "peer_models.py"), "step", name, str(threads), *how]
        said = {way: self.torch(command + ["compiled"] * ("compiled" in way), "unpinned" in way) for way in self.args.ways.split(",")}
        return {way: one for way, one in said.items() if one}

    def ours(self, name, threads, *more, launch=()):
        """Seconds of the fastest step but the first; peak memory in MB."""
        model, data = self.files(name)
        with tempfile.TemporaryDirectory() as folder:
            metrics = os.path.join(folder, "metrics.jsonl")
            command = [*launch, self.args.onnxpipe, "train", model, "--data", data, "--batch", str(BATCH[name]), "--steps", "7",
                       "--threads", str(threads), "--loss", LOSS.get(name, "cross_entropy"), "--lr", "1e-4", "--metrics", metrics, "--quiet",
                       *more]
            peak = int(subprocess.run([sys.executable, "-c", PEAK, *command], check=True, stdout=subprocess.PIPE, text=True).stdout)
            with open(metrics) as lines:
                return min(json.loads(line)["seconds"] for line in list(lines)[1:]), peak / 1024

    def rounds(self, ours, peer):
        """Both in turns: our fastest and its peak, and of each way of the peer's the fastest."""
        best, theirs = (math.inf, math.inf), {}
        for _ in range(self.args.rounds):
            best = tuple(map(min, best, ours()))
            for label, said in peer().items():
                if label not in theirs or said["best_s"] < theirs[label]["best_s"]:
                    theirs[label] = said
        return best, theirs

    def table_of_steps(self, names, more=(), how=()):
        print("| model | threads | onnxpipe, s | PyTorch, s | fastest way | **ratio** | memory, MB | PyTorch's | **part** |")
        print("|---|---|---|---|---|---|---|---|---|")
        ratios = {}
        for threads in sorted({1, self.cores}):
            for name in names:
                one_rank = ["--ranks", "1", "--microbatches", "1", "--device", "cpu", *more]
                (seconds, peak), theirs = self.rounds(lambda: self.ours(name, threads, *one_rank), lambda: self.torch_step(name, threads, *how))
                way = min(theirs, key=lambda label: theirs[label]["best_s"])
                other, memory = theirs[way]["best_s"], min(said["peak_rss_mb"] for said in theirs.values())
                ratios.setdefault(threads, []).append(other / seconds)
                print(f"| {name} | {threads} | {seconds:.4f} | {other:.4f} | {way} | **{other / seconds:.2f}** | {peak:,.0f} | {memory:,.0f} | "
                      f"{peak / memory:.2f} |", flush=True)
        for threads, all_of in ratios.items():
            print(f"\nGeometric mean, {threads} thread{'s' * (threads > 1)}: **{mean(all_of):.2f}**, least {min(all_of):.2f}.")
        print()

    def steps(self):
        print("## A step in float32\n")
        self.table_of_steps([name for name in BATCH if name in self.args.models])

    def bf16(self):
        print("## A step in bf16\n")
        self.table_of_steps([name for name in IN_BF16 if name in self.args.models], ("--precision", "bf16"), ("bf16",))

    def sgemm(self):
        numpy = ("import json, time, numpy; a = numpy.random.rand(4096, 4096).astype('f'); best = 9e9\n"
                 "for _ in range(4): t = time.perf_counter(); a @ a; best = min(best, time.perf_counter() - t)\n"
                 "print(json.dumps({'gflops': 2 * 4.096**3 / best}))")
        product = [self.args.peer_python, os.path.join(HERE, "peer_models.py"), "sgemm"]
        one = {"OPENBLAS_NUM_THREADS": "1"}
        ways = {"torch": lambda: self.torch(product, False), "torch, unpinned": lambda: self.torch(product, True)}
        for core in ("", "Haswell", "Zen", "SkylakeX"):
            more = one | ({"OPENBLAS_CORETYPE": core} if core else {})
            ways[f"OpenBLAS {core}".strip()] = lambda more=more: self.torch([self.args.peer_python, "-c", numpy], False, **more)
        best, seconds = {}, math.inf
        for _ in range(self.args.rounds):
            for label, run in ways.items():
                best[label] = max(best.get(label, 0), (run() or {"gflops": 0})["gflops"])
            seconds = min(seconds, self.ours("gpt_25m", 1, "--ranks", "1", "--microbatches", "1", "--device", "cpu")[0])
        way = max(best, key=best.get)
        print("## Near the peak\n\n" + ", ".join(f"{label} {rate:.0f}" for label, rate in best.items()) +
              f" Gflop/s for 4096³ on one thread. A step of gpt_25m: {GPT_25M_GFLOP / seconds:.1f} Gflop/s, "
              f"**{GPT_25M_GFLOP / seconds / best[way]:.2f}** of the best ({way}).\n", flush=True)

    def crowded(self, name, *more):
        """The step of one rank while every other core runs the same program."""
        model, data = self.files(name)
        other = [self.args.onnxpipe, "train", model, "--data", data, "--batch", str(BATCH[name]), "--steps", "100000", "--threads", "1",
                 "--quiet", *more]
        running = [subprocess.Popen(["taskset", "-c", str(core), *other], stdout=subprocess.DEVNULL)
                   for core in sorted(os.sched_getaffinity(0))[1:]]
        try:
            return self.ours(name, 1, *more, launch=("taskset", "-c", str(min(os.sched_getaffinity(0)))))[0]
        finally:
            for one in running:
                one.kill()
                one.wait()

    def pipeline(self):
        work = ["--microbatches", "8", "--device", "cpu"]
        model, data = self.files("gpt_25m")
        ranks = ["--ranks", str(self.cores)]
        said = subprocess.run([self.args.onnxpipe, "train", model, "--data", data, "--batch", "8", "--threads", "1", "--dry-run", *ranks, *work],
                              capture_output=True, text=True, check=True).stdout
        bubble = float(re.search(r"bubble ([\d.]+) %", said)[1]) / 100
        torchrun = [self.args.peer_python, "-m", "torch.distributed.run", "--nproc-per-node", str(self.cores), os.path.join(HERE, "peer_pipeline.py")]
        mpirun = ("mpirun", "--allow-run-as-root", "--bind-to", "core", "-n", str(self.cores))
        alone, threads, processes, theirs = math.inf, math.inf, math.inf, {}
        for _ in range(self.args.rounds):
            alone = min(alone, self.crowded("gpt_25m", "--ranks", "1", *work))
            threads = min(threads, self.ours("gpt_25m", 1, *ranks, *work)[0])
            processes = min(processes, self.ours("gpt_25m", 1, *work, launch=mpirun)[0])
            for kind in PIPELINE:
                for unpinned in (False, True):
                    one = self.torch([*torchrun, kind, "8"], unpinned)
                    if one:
                        theirs[kind] = min(theirs.get(kind, math.inf), one["best_s"])
        allowed = alone / self.cores / (1 - bubble)
        kind = min(theirs, key=theirs.get)
        print(f"## A pipeline: gpt_25m, {self.cores} ranks of one thread, 8 microbatches\n\nPyTorch, seconds a step: "
              + ", ".join(f"{k} {s:.3f}" for k, s in theirs.items()) + f". Alone, one rank takes {alone:.3f} s while every other core runs the "
              f"same; the schedule's bubble of {100 * bubble:.1f} % allows {allowed:.3f} s.\n\n"
              f"| ranks as | seconds | times as fast as {kind} | of what the bubble allows |\n|---|---|---|---|")
        for label, seconds in (("threads", threads), ("processes (MPI)", processes)):
            print(f"| {label} | {seconds:.3f} | **{theirs[kind] / seconds:.2f}** | **{100 * allowed / seconds:.0f} %** |")
        print(flush=True)

    def tables(self):
        model, data = self.files("dlrm")
        print("## A table of 20 million rows\n\n```", flush=True)
        subprocess.run([self.args.peer_python, os.path.join(HERE, "sparse_step.py"), self.args.onnxpipe, model, data], check=True)
        print("```\n")


def mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def machine(bench):
    with open("/proc/cpuinfo") as lines:
        info = lines.read()
    name = re.search(r"model name\s*: (.*)", info)
    flags = set(re.search(r"flags\s*: (.*)", info)[1].split()) if "flags" in info else set()
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    version = subprocess.run([bench.args.peer_python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True).stdout.strip()
    ours = subprocess.run([bench.args.onnxpipe, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    print(f"{name[1] if name else platform.machine()} ({', '.join(has)}), {bench.cores} cores; {ours}, PyTorch {version}, "
          f"{platform.system()} {platform.release().split('-')[0]}.\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--onnxpipe", default="build/release/onnxpipe")
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "onnxpipe-performance"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default="eager,compiled,eager unpinned,compiled unpinned", help="how PyTorch runs")
    parser.add_argument("--only", default="steps,bf16,sgemm,pipeline,tables")
    parser.add_argument("--models", default=",".join(BATCH))
    args = parser.parse_args()
    args.models = args.models.split(",")
    args.onnxpipe = os.path.abspath(args.onnxpipe)
    bench = Bench(args)
    machine(bench)
    for part in args.only.split(","):
        getattr(bench, part)()


main()
