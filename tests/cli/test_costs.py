"""Costs that are measured: said, kept, taken again, and of no consequence for a single bit."""
import glob
import json
import os
import re

import common
from common import CommandLineTest, model_path, read_metrics

TRAIN = ["train", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--device", "cpu", "--microbatches", "2"]


class Costs(CommandLineTest):
    def setUp(self):
        super().setUp()
        self.before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = self.path("cache")
        self.addCleanup(self.restore)

    def restore(self):
        os.environ.pop("XDG_CACHE_HOME")
        if self.before is not None:
            os.environ["XDG_CACHE_HOME"] = self.before

    def losses(self, *options, mpi=0):
        steps = [] if "--steps" in options else ["--steps", 3]
        printed = self.done(*TRAIN, *steps, "--metrics", self.path("m.jsonl"), *options, mpi=mpi)
        if "--dry-run" in options:
            return None, None, printed
        line = re.search(r"^costs +(.*?)\n(?=\S)", printed, re.M | re.S)
        return [step["loss"] for step in read_metrics(self.path("m.jsonl"))], line and " ".join(line[1].split()), printed

    def entries(self):
        return sorted(glob.glob(self.path("cache/onnxpipe/*.json")))

    def test_measured_once_and_then_known(self):
        plain, said, _ = self.losses("--ranks", 2, "--no-measure")
        self.assertIsNone(said)
        self.assertEqual(self.entries(), [])
        first, said, _ = self.losses("--ranks", 2)
        self.assertRegex(said, r"measured for (\d+) of \1 kinds of nodes on cpu; messages .* us \+ .* GB/s, in .* s \(--no-measure\)")
        self.assertEqual(len(self.entries()), 1)
        second, said, _ = self.losses("--ranks", 2)
        self.assertRegex(said, "from before$")
        self.assertEqual((first, second), (plain, plain))

    def test_each_number_of_ranks_has_its_own(self):
        one, _, _ = self.losses("--ranks", 1)
        two, said, _ = self.losses("--ranks", 2)
        self.assertNotIn("from before", said)
        self.assertEqual(len(self.entries()), 2)
        self.assertEqual(one, two)

    def test_damage_is_not_minded(self):
        first, _, _ = self.losses("--ranks", 2)
        for text in ("", "{", '{"format": "onnxpipe costs 1"}', "\0" * 100):
            with open(self.entries()[0], "w") as file:
                file.write(text)
            again, said, _ = self.losses("--ranks", 2)
            self.assertNotIn("from before", said)
            self.assertEqual(again, first)
        with open(self.entries()[0]) as file:
            self.assertEqual(json.load(file)["format"], "onnxpipe costs 1")

    def test_without_a_place_for_it(self):
        with open(self.path("file"), "w"):
            pass
        os.environ["XDG_CACHE_HOME"] = self.path("file")
        losses, said, _ = self.losses("--ranks", 2)
        self.assertIn("measured for", said)
        self.assertEqual(losses, self.losses("--ranks", 2, "--no-measure")[0])

    def test_mpi(self):
        plain, _, _ = self.losses("--no-measure", mpi=2)
        first, said, _ = self.losses(mpi=2)
        self.assertIn("measured for", said)
        second, said, _ = self.losses(mpi=2)
        self.assertIn("from before", said)
        self.assertEqual((first, second), (plain, plain))

    def test_stages_that_take_longer_than_planned_are_told(self):
        """What the cache says is made a thousandth of what was measured: the run says so, and the cache forgets it."""
        steps = 150 if "/release/" in common.ONNXPIPE else 40  # a second of them; sanitizers slow them down
        words = ["--ranks", 2, "--steps", steps]
        self.losses(*words, "--dry-run")
        with open(self.entries()[0]) as file:
            entry = json.load(file)
        entry["kinds"] = {key: seconds / 1000 for key, seconds in entry["kinds"].items()}
        with open(self.entries()[0], "w") as file:
            json.dump(entry, file)
        losses, said, printed = self.losses(*words)
        self.assertIn("from before", said)
        if float(re.search(r"measured: ([\d.e+]+) ms", printed)[1]) * (steps - 1) < 1200:
            self.skipTest("this machine is so fast that nothing is compared")
        self.assertRegex(printed, r"(?m)^stages: stage 0 computes .* ms a step, planned were .*(?:\n  .*)*; (?:no other cut would be faster|a step\s+would"
                                  r"\s+take)")
        self.assertEqual(self.entries(), [])
        self.assertEqual(losses, self.losses(*words, "--no-measure")[0])

    def test_replan(self):
        """Whether there is a better cut is the machine's to say; which bits there are is not."""
        plain, _, _ = self.losses("--no-measure", "--steps", 45)
        for ranks in (1, 2):
            losses, _, printed = self.losses("--ranks", ranks, "--replan", "--steps", 45)
            self.assertEqual(losses, plain)
            self.assertEqual("--replan does nothing here: one rank has no cut" in printed, ranks == 1)

    def test_plan_by_this_machines_speed(self):
        plan = ["plan", model_path("gpt2"), "--ranks", 2, "--batch", 8, "--microbatches", 2]
        said = [re.search(r"^costs +(.*)$", self.done(*plan, "--calibrate"), re.M)[1] for _ in range(2)]
        self.assertRegex(said[0], r"^by this machine's speed: \S+ Gflop/s, \S+ GB/s a rank, \S+ us a node$")
        self.assertEqual(said[1], said[0] + ", from before")
        self.assertNotIn("costs ", self.done(*plan))
        with open(self.path("c.json"), "w") as file:
            json.dump({"nodes": [{"devices": 2, "device": "H100"}]}, file)
        self.refused(2, "--calibrate and --cluster: give one of them", *plan, "--calibrate", "--cluster", self.path("c.json"))

    def test_profile_measures_anew_and_keeps_it(self):
        words = ["profile", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--device", "cpu", "--microbatches", 2]
        for _ in range(2):
            printed = self.done(*words)
            self.assertRegex(printed, r"measured for (\d+) of \1 kinds of nodes on cpu, in")
        self.assertIn("from before", self.losses("--ranks", 1)[1])


if __name__ == "__main__":
    common.main()
