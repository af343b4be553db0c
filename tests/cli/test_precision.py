"""bfloat16 on CPUs: the same bytes however a run is cut, near float32 and near what nothing is fused of, in less memory; what `run`
writes is float32."""
import json

import common
import numpy as np
from common import CommandLineTest, case_options, model_path, read_case, read_metrics


class Precision(CommandLineTest):
    def trained(self, name, *words, mpi=0):
        """Losses, and the saved bytes."""
        metrics, saved = self.path("m.jsonl"), self.path("saved.onnx")
        self.done("train", model_path(name), "--data", model_path(name, "data.npz"), "--quiet", "--metrics", metrics, "--save", saved,
                  *case_options(read_case(name)), *words, mpi=mpi)
        with open(saved, "rb") as file:
            return [m["loss"] for m in read_metrics(metrics)], file.read()

    def test_the_same_bytes_over_transports_schedules_and_threads(self):
        words = ["--precision", "bf16", "--microbatches", 4]
        expected = self.trained("nanogpt", *words, "--ranks", 1, "--threads", 1)
        for more in (["--ranks", 2, "--schedule", "zb-h1"], ["--ranks", 2, "--chunks", 2, "--schedule", "interleaved-1f1b", "--threads", 2]):
            self.assertEqual(self.trained("nanogpt", *words, *more), expected, more)
        self.assertEqual(self.trained("nanogpt", *words, "--schedule", "gpipe", mpi=2), expected)

    def test_unfused(self):
        for device in ("cpu", "reference"):
            fused, _ = self.trained("nanogpt", "--precision", "bf16", "--device", device)
            apart, _ = self.trained("nanogpt", "--precision", "bf16", "--device", device, "--no-fuse")
            np.testing.assert_allclose(fused, apart, rtol=2e-3)
            np.testing.assert_allclose(fused, read_case("nanogpt")["losses_float64"], rtol=2e-3)

    def test_memory(self):
        def planned(precision):
            out = self.path("plan.json")
            self.done("plan", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--batch", 4, "--ranks", 2, "--microbatches", 2,
                      "--precision", precision, "-o", out, "--device", "cpu")
            with open(out) as file:
                return json.load(file)
        full, half = planned("float32"), planned("bf16")
        self.assertEqual((full["precision"], half["precision"]), ("float32", "bf16"))
        for a, b in zip(full["memory"], half["memory"]):
            self.assertLess(b["activation_bytes"], 0.75 * a["activation_bytes"])
            self.assertEqual(b["parameter_bytes"], a["parameter_bytes"])
            self.assertEqual(b["gradient_bytes"], a["gradient_bytes"])

    def test_run_writes_float32(self):
        outputs = {}
        for precision in ("float32", "bf16"):
            out = self.path(precision + ".npz")
            self.done("run", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--out", out, "--precision", precision)
            with np.load(out) as arrays:
                outputs[precision] = arrays["output"]
        self.assertEqual(outputs["bf16"].dtype, np.float32)
        difference = np.abs(outputs["bf16"] - outputs["float32"]).max()
        self.assertTrue(0 < difference < 0.02 * np.abs(outputs["float32"]).max(), difference)


if __name__ == "__main__":
    common.main()
