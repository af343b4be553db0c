"""`plan --what-if`: a table of plans, each as `plan` makes it, the fastest first."""
import json
import re

import common
from common import CommandLineTest, model_path


class Alternatives(CommandLineTest):
    def plans(self, *words):
        table = json.loads(self.done("plan", model_path("nanogpt"), "--what-if", "--json", *words))
        return table, table["plans"]

    def test_each_row_is_the_plan(self):
        table, plans = self.plans("--batch", 16, "--ranks", "2,3,1", "--microbatches", "4,8", "--schedule", "1f1b,zb-h1,zb-v",
                                  "--precision", "float32,bf16", "--device", "reference,cpu")
        self.assertEqual(len(plans), 3 * 2 * 3 * 2 * 2)
        self.assertEqual(len({tuple(p[key] for key in ("ranks", "microbatches", "schedule", "precision", "device")) for p in plans}), 72)
        self.assertTrue(all(p["fits"] for p in plans))
        self.assertEqual([p["step_seconds"] for p in plans], sorted(p["step_seconds"] for p in plans))
        for p in plans[::17]:
            self.done("plan", model_path("nanogpt"), "--batch", 16, "--ranks", p["ranks"], "--microbatches", p["microbatches"],
                      "--schedule", p["schedule"], "--precision", p["precision"], "--device", p["device"],
                      "--chunks", p["stages"] // p["ranks"], "-o", self.path("p.json"))
            with open(self.path("p.json")) as file:
                plan = json.load(file)
            self.assertAlmostEqual(plan["predicted"]["step_seconds"], p["step_seconds"], delta=1e-9 * p["step_seconds"])
            self.assertEqual(max(rank["total_bytes"] for rank in plan["memory"]), p["memory_bytes"])
            self.assertAlmostEqual(p["samples_per_second"], 16 / p["step_seconds"], delta=1e-6 * p["samples_per_second"])
            self.assertTrue(0 < p["utilisation"] <= 1, p)

    def test_model_flops(self):
        """Products of a perceptron: of the first layer's input no gradient is computed."""
        table = json.loads(self.done("plan", model_path("surrogate"), "--what-if", "--json", "--batch", 8, "--ranks", 1,
                                     "--microbatches", 2))
        report = json.loads(self.done("inspect", model_path("surrogate"), "--json"))
        shapes = [p["shape"] for p in report["parameters"] if p["trains"] and len(p["shape"]) == 2]
        products = [2 * 8 * a * b for a, b in shapes]
        first = 2 * 8 * shapes[0][0] * shapes[0][1]
        self.assertEqual(table["model_flops"], 3 * sum(products) - first)

    def test_devices_that_are_not_here(self):
        with open(self.path("c.json"), "w") as file:
            json.dump({"nodes": [{"count": 1, "devices": 4, "device": "H100"}]}, file)
        words = ["--batch", 16, "--microbatches", 8, "--schedule", "1f1b", "--cluster", self.path("c.json")]
        _, plans = self.plans("--ranks", "1,4,2,8", *words)
        self.assertEqual([p["ranks"] for p in plans if not p["fits"]], [8])
        for p in plans[:3]:
            self.done("plan", model_path("nanogpt"), "--ranks", p["ranks"], *words, "-o", self.path("p.json"))
            with open(self.path("p.json")) as file:
                self.assertAlmostEqual(json.load(file)["predicted"]["step_seconds"], p["step_seconds"], delta=1e-12)

    def test_what_cannot_be(self):
        words = ["--batch", 32, "--ranks", "2,99", "--microbatches", "8,7", "--schedule", "1f1b"]
        _, plans = self.plans(*words)
        self.assertEqual([p["fits"] for p in plans], [True, False, False])
        reasons = sorted(p["reason"] for p in plans[1:])
        self.assertRegex(reasons[0], r"^99 stages need 98 cuts, but only \d+ are possible$")
        self.assertEqual(reasons[1], "a batch of 32 does not divide by 7")
        printed = self.done("plan", model_path("nanogpt"), "--what-if", *words)
        self.assertRegex(printed, r"2 cannot be:\n7 microbatches: a batch of 32 does not divide by 7\n99 ranks, 99 stages, 1f1b, 8 ")
        _, plans = self.plans("--batch", 32, "--ranks", "2,4", "--microbatches", 8, "--memory-limit", "5M")
        reasons = [p["reason"] for p in plans if not p["fits"]]
        self.assertTrue(any(re.fullmatch(r"rank \d+ \(.*\) lacks .*: it needs .*, its limit is 5\.0 MiB", r) for r in reasons), reasons)
        self.refused(1, re.compile("none of [0-9]+ plans can be: rank"), "plan", model_path("nanogpt"), "--what-if", "--ranks", 2,
                     "--memory-limit", "100K", "--quiet")

    def test_the_first_is_written(self):
        _, plans = self.plans("--batch", 16, "-o", self.path("p.json"), "--report", self.path("p.html"))
        with open(self.path("p.json")) as file:
            plan = json.load(file)
        self.assertEqual((plan["ranks"], plan["microbatches"], plan["schedule"]),
                         (plans[0]["ranks"], plans[0]["microbatches"], plans[0]["schedule"]))
        with open(self.path("p.html")) as file:
            self.assertIn(f"a plan for {plan['ranks']} rank", file.read())

    def test_a_plan_as_json(self):
        printed = self.done("plan", model_path("nanogpt"), "--ranks", 2, "--json", "-o", self.path("p.json"))
        with open(self.path("p.json")) as file:
            self.assertEqual(printed, file.read())

    def test_lists_are_for_it_alone(self):
        line = "--ranks: several values are for `plan --what-if`"
        self.refused(2, line, "plan", model_path("nanogpt"), "--ranks", "2,4")
        self.refused(2, line, "simulate", "--ranks", "2,4", "--microbatches", 4, "--forward-ms", 1, "--backward-input-ms", 1,
                     "--backward-weight-ms", 1)
        self.refused(2, "--microbatches: '4x' is no whole number", "plan", model_path("nanogpt"), "--what-if", "--microbatches", "2,4x")
        self.refused(2, "--plan and --what-if: give one of them", "plan", model_path("nanogpt"), "--what-if", "--plan", "p.json")


if __name__ == "__main__":
    common.main()
