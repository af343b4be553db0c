"""Data in other forms than one .npz: the same samples give the same losses, bit for bit."""
import os
import re
import unittest

import numpy as np

from common import CommandLineTest, case_options, model_path, read_case, read_metrics


class Data(CommandLineTest):
    def losses(self, *words, model="branches", mpi=0):
        metrics = self.path("m.jsonl")
        self.done("train", model_path(model), *case_options(read_case(model)), "--steps", 5, "--quiet", "--metrics", metrics,
                  *words, mpi=mpi)
        return [step["loss"] for step in read_metrics(metrics)]

    def arrays(self, model="branches"):
        with np.load(model_path(model, "data.npz")) as file:
            return {name: file[name] for name in file.files}

    def write_shards(self, folder, cuts):
        arrays = self.arrays()
        os.mkdir(self.path(folder))
        for i, (first, end) in enumerate(zip(cuts, cuts[1:])):
            part = {name: array[first:end] for name, array in arrays.items()}
            if i == 1:  # a shard may be a folder, too
                os.mkdir(self.path(f"{folder}/{i:02}"))
                for name, array in part.items():
                    np.save(self.path(f"{folder}/{i:02}/{name}.npy"), array)
            elif i == 2:
                np.savez_compressed(self.path(f"{folder}/{i:02}.npz"), **part)
            else:
                np.savez(self.path(f"{folder}/{i:02}.npz"), **part)
        return self.path(folder)

    def test_shards_and_folders(self):
        samples = len(self.arrays()["target"])
        one = self.losses("--data", model_path("branches", "data.npz"), "--shuffle")
        shards = self.write_shards("shards", [0, 3, samples // 2, samples - 1, samples]) + "/*"
        self.assertEqual(one, self.losses("--data", shards, "--shuffle"))
        self.assertEqual(one, self.losses("--data", shards, "--shuffle", "--ranks", 3))
        self.assertEqual(one, self.losses("--data", shards, "--shuffle", mpi=2))
        self.assertIn(f"{shards}: {samples} samples", self.done("train", model_path("branches"), "--data", shards, "--dry-run"))
        os.mkdir(self.path("folder"))
        for name, array in self.arrays().items():
            np.save(self.path(f"folder/{name}.npy"), array)
        self.assertEqual(one, self.losses("--data", self.path("folder"), "--shuffle"))

    def test_a_shard_that_is_wrong_is_named(self):
        shards = self.write_shards("shards", [0, 3, 6, 10])
        part = {name: array[:2] for name, array in self.arrays().items()}
        part["input_1"] = part["input_1"][:, :-1]
        np.savez(self.path("shards/02.npz"), **part)
        said = self.refused(1, re.compile(r"shards/02\.npz: array 'input_1' is float32 \[2,\d+\], that of .*/shards/00\.npz float32"),
                            "train", model_path("branches"), "--data", shards + "/*")
        self.assertNotIn("\n", said)


if __name__ == "__main__":
    unittest.main()
