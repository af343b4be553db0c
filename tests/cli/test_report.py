"""The page of a plan: its pictures show what the plan says, and it needs nothing but itself."""
import json
import re

import common
from common import CommandLineTest, model_path


class Report(CommandLineTest):
    def page(self, model, *words):
        self.done("plan", model, *words, "-o", self.path("p.json"), "--report", self.path("p.html"), "--quiet")
        with open(self.path("p.html")) as page, open(self.path("p.json")) as plan:
            return page.read(), json.load(plan)

    def data(self, page):
        return json.loads(re.search(r"const DATA = (\{.*?\});\n", page, re.DOTALL)[1])

    def test_stands_alone(self):
        page, _ = self.page(model_path("nanogpt"), "--ranks", 3, "--batch", 16)
        self.assertNotRegex(page, "https?:|src=|url\\(|@[A-Z]+@|@import")
        for tag in ("svg", "table", "canvas", "script", "style", "g", "div", "p", "text"):
            self.assertEqual(len(re.findall(f"<{tag}[ >]", page)), page.count(f"</{tag}>"), tag)
        self.assertEqual(page.count("<title>"), page.count("</title>"))

    def test_memory_over_time(self):
        """What is live never exceeds what is set aside, nor is that far from it; at the end all is free."""
        for model, words in (("nanogpt", ["--schedule", "1f1b"]), ("unet3d", ["--schedule", "zb-v"]), ("branches", ["--schedule", "gpipe"]),
                             ("surrogate", [])):
            with self.subTest(model):
                page, plan = self.page(model_path(model), "--ranks", 2, "--batch", 8, "--microbatches", 4, *words)
                data = self.data(page)
                self.assertEqual(data["room"], [rank["total_bytes"] for rank in plan["memory"]])
                for rank, steps in enumerate(data["held"]):
                    held = peak = data["base"][rank]
                    for change in steps[1::2]:
                        held += change
                        peak = max(peak, held)
                    self.assertEqual(held, data["base"][rank])
                    self.assertLessEqual(peak, data["room"][rank])
                    self.assertGreater(peak, 0.7 * data["room"][rank])
                    self.assertTrue(all(ticks >= 0 for ticks in steps[0::2]))

    def test_limits(self):
        page, _ = self.page(model_path("nanogpt"), "--ranks", 2, "--batch", 8, "--microbatches", 4, "--memory-limit", "8M")
        self.assertEqual(self.data(page)["limit"], [8 << 20, 8 << 20])

    def tiles(self, page):
        return [(label, [int(s) for s in re.findall("stage (\\d+) on", rest)])
                for label, rest in re.findall(r"<g><title>([^:]*):(.*?)</title>", page)]

    def test_graph_by_stage(self):
        page, _ = self.page(model_path("nanogpt"), "--ranks", 2, "--batch", 8)
        labels = [label for label, _ in self.tiles(page)]
        for layer in range(4):
            self.assertEqual(sum(re.search(rf"\b{layer}$", label) is not None for label in labels), 1, labels)
        for model in ("gpt2", "surrogate", "unet3d", "branches", "dlrm", "resnet", "fresh_surrogate_legacy"):
            with self.subTest(model):
                page, plan = self.page(model_path(model), "--ranks", 3, "--schedule", "1f1b")
                stages = [stage for _, those in self.tiles(page) for stage in those]
                self.assertEqual(set(stages), set(range(len(plan["stages"]))))
        self.assertIn('class="arc"', self.page(model_path("unet3d"), "--ranks", 2)[0])
        self.assertIn('class="tie"', self.page(model_path("gpt2"), "--ranks", 2)[0])

    def test_reasons_for_cuts(self):
        """Moving a cut by one place never makes the slowest stage faster: that is what the cuts are for."""
        for model in ("nanogpt", "surrogate", "resnet"):
            page, plan = self.page(model_path(model), "--ranks", 3, "--batch", 8, "--schedule", "1f1b")
            rows = re.findall(r"<tr><td>(\d+) \| (\d+)</td>(.*?)</tr>", page)
            self.assertEqual([(int(a), int(b)) for a, b, _ in rows], [(0, 1), (1, 2)])
            slowest = re.search(r"Slowest: ([\d.]+) ms", page)[1]
            self.assertTrue(any(f"<td>{slowest} ms</td>" in rest for _, _, rest in rows))
            for _, _, rest in rows:
                if f"<td>{slowest} ms</td>" in rest:
                    self.assertRegex(rest, "slowest stage \\+|no place|elsewhere")
        page, _ = self.page(model_path("nanogpt"), "--ranks", 1)
        self.assertNotIn("Why the cuts", page)

    def test_bound_and_gap(self):
        page, plan = self.page(model_path("nanogpt"), "--ranks", 2, "--batch", 16, "--microbatches", 8)
        self.assertRegex(page, r"<b>[\d.]+ %</b><span>the gap to that")
        page, _ = self.page(model_path("nanogpt"), "--ranks", 2, "--schedule", "gpipe")
        self.assertNotIn("the gap", page)


if __name__ == "__main__":
    common.main()
