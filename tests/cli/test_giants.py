"""Models of hundreds of billions of parameters are planned from their graphs alone, for hundreds of ranks, in little memory."""
import contextlib
import json
import os
import re
import subprocess
import sys

import common
from common import ONNXPIPE, ROOT, CommandLineTest

# Runs a command and prints what it took at most, in bytes.
WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, flush=True)
sys.exit(code)
"""


class Giants(CommandLineTest):
    def write(self, *words):
        script = os.path.join(ROOT, "models", "giants.py")
        return subprocess.run([sys.executable, script, self.folder, *words], capture_output=True, text=True, check=True).stdout

    def plan(self, name, ranks, *words):
        plan = self.path("p.json")
        result = self.run_words([sys.executable, "-c", WRAPPER, ONNXPIPE, "plan", self.path(name + ".onnx"), "--ranks", ranks,
                                 "--loss", "cross_entropy", "--precision", "bf16", "-o", plan,
                                 *([] if "--cluster" in words else ["--memory-limit", "2T"]), *words])
        self.assertEqual(result.returncode, 0, result.stderr)
        if "/release/" in ONNXPIPE:  # sanitizers take memory of their own
            self.assertLess(int(re.search(r"peak (\d+)", result.stdout)[1]), 1e9)
        with open(plan) as file:
            return json.load(file)

    def test_each_is_planned(self):
        said = self.write()
        for name, ranks, billions in (("gpt3_175b", 96, 174.6), ("llama3_405b", 126, 405.9), ("mt_nlg_530b", 105, 529.6),
                                      ("gpt_1t", 128, 1008.0)):
            with self.subTest(name):
                self.assertRegex(said, rf"{name}.onnx: \d+ nodes, {billions} billion parameters")
                plan = self.plan(name, ranks, "--batch", 256, "--microbatches", 256, "--schedule", "1f1b")
                self.assertEqual(len(plan["stages"]), ranks)
                weights = sum(stage["parameter_bytes"] for stage in plan["stages"])
                self.assertLess(abs(weights / 4e9 - billions), 0.02 * billions)  # a tied table lies on two ranks

    def test_beside_a_published_run(self):
        """Megatron-Turing NLG on 35 ranks of 8 A100 (docs/planning.md): memory a stage, and the pipeline's efficiency."""
        self.write("mt_nlg_530b")
        with open(self.path("c.json"), "w") as file:
            json.dump({"nodes": [{"count": 35, "device": "server"}], "devices": {"server": {"like": "A100-80", "times": 8}},
                       "links": {"between": {"latency_seconds": 5e-6, "bytes_per_second": 2e11}}}, file)
        m = 240
        plan = self.plan("mt_nlg_530b", 35, "--batch", m, "--microbatches", m, "--schedule", "1f1b", "--cluster", self.path("c.json"))
        self.assertLess(abs((1 - plan["predicted"]["bubble"]) * (m + 34) / m - 1), 0.02)
        for rank in plan["memory"][1:-1]:
            self.assertAlmostEqual(rank["parameter_bytes"] / (4 * 3 * 12 * 20480**2), 1, delta=0.001)  # 3 layers
            self.assertEqual(rank["state_bytes"], 2 * rank["parameter_bytes"])
            self.assertLess(rank["total_bytes"], 640e9)
        kept = [rank["activation_bytes"] for rank in plan["memory"]]
        self.assertAlmostEqual((kept[1] - kept[33]) / (kept[1] / 34) / 32, 1, delta=0.05)  # one microbatch less a stage

    def test_optimizer_state_on_the_host(self):
        """Weights, gradients and optimizer state of 1.7 times the device's memory (docs/gpu.md)."""
        sys.path.insert(0, os.path.join(ROOT, "models"))
        import giants

        giants.MODELS["gpt"] = dict(layers=48, width=5120, heads=40, kv=40, hidden=4 * 5120, tokens=50257, sequence=2048, published=0,
                                    tied=True)
        with contextlib.redirect_stdout(None):
            giants.write("gpt", self.folder, False, None)
        with open(self.path("c.json"), "w") as file:
            json.dump({"nodes": [{"count": 2, "device": "H200"}]}, file)
        words = ["--batch", 32, "--microbatches", 32, "--recompute", "none", "--cluster", self.path("c.json")]
        plan = self.plan("gpt", 1, *words, "--offload", "optimizer")
        rank = plan["memory"][0]
        self.assertGreater(rank["parameter_bytes"] + rank["gradient_bytes"] + rank["host_bytes"], 1.7 * 141e9)
        self.assertEqual(rank["host_bytes"], 2 * rank["parameter_bytes"])
        self.assertEqual(rank["state_bytes"], rank["window_bytes"])
        self.assertLess(rank["total_bytes"], 141e9)
        # the bus bounds the update, but for what the window holds
        self.assertAlmostEqual(plan["predicted"]["update_seconds"], (rank["host_bytes"] - rank["window_bytes"]) / 64e9, delta=0.1)
        printed = self.run_command("plan", self.path("gpt.onnx"), "--loss", "cross_entropy", "--precision", "bf16", *words)
        self.assertEqual(printed.returncode, 1)
        self.assertRegex(printed.stderr, r"rank 0 \(stage 0\) lacks [\d.]+ GiB: ")
        two = self.plan("gpt", 2, *words, "--offload", "optimizer")
        self.assertEqual(two["offload"], "optimizer")
        for rank in two["memory"]:
            self.assertEqual(rank["host_bytes"], 2 * rank["parameter_bytes"])
        printed = self.done("plan", self.path("gpt.onnx"), "--ranks", 2, "--plan", self.path("p.json"), "--loss", "cross_entropy",
                            "--cluster", self.path("c.json"))
        self.assertIn("   on host", printed)
        refused = self.run_command("plan", self.path("gpt.onnx"), "--plan", self.path("p.json"), "--loss", "cross_entropy", "--cluster",
                                   self.path("c.json"), "--offload", "none")
        self.assertEqual(refused.returncode, 2, refused.stderr)
        self.assertIn("the plan was made with --offload optimizer, not none", refused.stderr)

    def test_attention_spelled_out(self):
        """Masks that all layers share are written once; what they say, which keys are seen, is read once."""
        self.write("--spelled", "--sequence", "1024", "gpt3_175b")
        self.plan("gpt3_175b", 48, "--batch", 64, "--microbatches", 64, "--schedule", "1f1b")
        printed = self.done("inspect", self.path("gpt3_175b.onnx"))
        self.assertRegex(printed, r"attention 96\b")


if __name__ == "__main__":
    common.main()
