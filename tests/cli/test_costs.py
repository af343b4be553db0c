"""Costs that are measured: said, kept, taken again, and of no consequence for a single bit."""
import glob
import json
import os
import re

import common
from common import CommandLineTest, model_path, read_metrics

TRAIN = ["train", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--steps", "3", "--device", "cpu", "--microbatches", "2"]


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
        printed = self.done(*TRAIN, "--metrics", self.path("m.jsonl"), *options, mpi=mpi)
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

    def test_profile_measures_anew_and_keeps_it(self):
        words = ["profile", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--device", "cpu", "--microbatches", 2]
        for _ in range(2):
            printed = self.done(*words)
            self.assertRegex(printed, r"measured for (\d+) of \1 kinds of nodes on cpu, in")
        self.assertIn("from before", self.losses("--ranks", 1)[1])


if __name__ == "__main__":
    common.main()
