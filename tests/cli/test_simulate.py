"""simulate: schedules from given times."""
import json
import os
import re
import unittest

from common import CommandLineTest

TIMES = ["--forward-ms", "1", "--backward-input-ms", "1", "--backward-weight-ms", "1"]
FOUR = ["simulate", "--ranks", "4", "--microbatches", "8", *TIMES]
NAMES = ["naive", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min", "auto"]


class Simulate(CommandLineTest):
    def simulated(self, *words):
        return json.loads(self.done(*words, "--json"))

    def test_json(self):
        got = self.simulated(*FOUR, "--schedule", "1f1b")
        self.assertEqual(list(got), ["schedule", "makespan_ms", "longest_span_ms", "bubble", "lower_bound", "gap",
                                     "peak_memory", "text"])
        self.assertEqual(got["schedule"], "1f1b")
        self.assertAlmostEqual(got["makespan_ms"], 33, 9)
        self.assertAlmostEqual(got["bubble"], 3 / 11, 9)
        self.assertEqual(got["peak_memory"], [4, 3, 2, 1])
        self.assertTrue(got["text"].startswith("schedule 1f1b "))
        self.assertEqual(len(got["text"].splitlines()), 5)

    def test_every_name(self):
        for name in NAMES:
            with self.subTest(name):
                got = self.simulated(*FOUR, "--schedule", name, "--p2p-ms", "0.1")
                self.assertLessEqual(24, got["longest_span_ms"])
                self.assertLessEqual(got["longest_span_ms"], got["makespan_ms"])
                self.assertGreaterEqual(got["gap"], 0)
                self.assertAlmostEqual(got["bubble"], 1 - 24 / got["longest_span_ms"], 8)

    def test_a_grid_that_ends_long_before_its_schedule(self):
        self.assertIn("(the first ", self.done(*FOUR, "--p2p-ms", "1e14"))

    def test_times_of_each_rank(self):
        got = self.simulated("simulate", "--ranks", "3", "--microbatches", "1", "--forward-ms", "1,2,3",
                             "--backward-input-ms", "10", "--backward-weight-ms", "0,0,5", "--schedule", "naive")
        self.assertAlmostEqual(got["makespan_ms"], 6 + 30 + 5, 9)

    def test_auto_keeps_its_limit_and_is_the_same_again(self):
        words = [*FOUR, "--p2p-ms", "0.1", "--memory-limit-microbatches", "4,3,4,4", "--backward-input-frees", "0.25"]
        first, second = self.simulated(*words), self.simulated(*words)
        self.assertEqual(first, second)
        for peak, limit in zip(first["peak_memory"], [4, 3, 4, 4]):
            self.assertLessEqual(peak, limit)
        makespan = self.simulated(*words, "--objective", "makespan")
        self.assertLessEqual(makespan["lower_bound"], makespan["makespan_ms"])

    def test_a_schedule_of_a_file(self):
        got = self.simulated(*FOUR, "--schedule", "zb-h1")
        with open(self.path("s.txt"), "w") as file:
            file.write(got["text"])
        self.assertEqual(self.simulated(*FOUR, "--schedule-file", self.path("s.txt")), got)
        with open(self.path("s.txt"), "w") as file:  # compute actions alone
            file.write(re.sub(r"[\[\]]|\d+(SEND|RECV)_[FB]\d+", " ", got["text"]))
        again = self.simulated(*FOUR, "--schedule-file", self.path("s.txt"))
        self.assertEqual(again["makespan_ms"], got["makespan_ms"])
        self.assertIn("SEND_F", again["text"])

    def test_a_file_is_refused_with_the_grid_around(self):
        path = self.path("s.txt")
        with open(path, "w") as file:
            file.write("0F0 0F1 0BW1 0BW0\n1F0 1F1 1BW0 1BW1\n")
        words = ["simulate", "--ranks", "2", "--microbatches", "2", *TIMES, "--schedule-file", path]
        result = self.run_command(*words)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "")
        lines = result.stderr.splitlines()
        self.assertEqual(lines[-1], f"onnxpipe: {path}: schedule file: rank 0, action 2, 0BW1: each kind runs in "
                                    "increasing microbatch order")
        self.assertTrue(any(line.startswith("rank 0 |") and ">0BW1<" in line for line in lines), result.stderr)
        self.assertTrue(any(line.startswith("rank 1 |") for line in lines), result.stderr)

    def test_terminal(self):
        os.environ["COLUMNS"] = "60"
        self.addCleanup(os.environ.pop, "COLUMNS")
        text = self.done(*FOUR, "--schedule", "zb-v", "--memory-limit-microbatches", "5")
        self.assertLessEqual(max(map(len, text.splitlines())), 60)
        self.assertIn("makespan 25.5 ms", text.replace("\n", " "))
        self.assertEqual(len(re.findall(r"^rank \d [0-9a-zA-Z.]+$", text, re.M)), 4)

    def test_page(self):
        page = self.path("p.html")
        self.done(*FOUR, "--schedule", "zb-v", "--report", page)
        with open(page) as file:
            html = file.read()
        self.assertIn("Schedule zb-v", html)
        self.assertNotIn("http", html)

    def test_what_is_wrong_is_said(self):
        with open(self.path("s.txt"), "w") as file:
            file.write("-\n")
        for line, words in [
            ("simulate needs --ranks", ["simulate"]),
            ("simulate needs --backward-weight-ms", FOUR[:9]),
            ("--forward-ms has 2 numbers for 4 ranks: give one, or one a rank", [*FOUR, "--forward-ms", "1,2"]),
            ("--forward-ms: 'x' is no number", [*FOUR, "--forward-ms", "1,x,2,3"]),
            ("forward-ms of rank 3 is -1: a time is 0 or more", [*FOUR, "--forward-ms", "1,1,1,-1"]),
            ("p2p-ms is -1: a latency is 0 or more", [*FOUR, "--p2p-ms", "-1"]),
            ("p2p-ms is 1e+300: a latency is at most 1e+15", [*FOUR, "--p2p-ms", "1e300"]),
            ("forward-ms of rank 0 is 1e+300: a time is at most 1e+15", [*FOUR, "--forward-ms", "1e300"]),
            ("memory-limit-microbatches of rank 0 is 0: must be more than 0", [*FOUR, "--memory-limit-microbatches", "0"]),
            ("backward-input-frees is 2: a fraction is 0 to 1", [*FOUR, "--backward-input-frees", "2"]),
            ("--objective: 'speed' is none of span, makespan", [*FOUR, "--objective", "speed"]),
            ("--schedule: '1f1c' is none of auto, naive, gpipe, 1f1b, interleaved-1f1b, zb-h1, zb-h2, zb-v, v-half, v-min "
             "(did you mean 1f1b?)", [*FOUR, "--schedule", "1f1c"]),
            ("schedule zb-v has 2 stages a rank, not 3", [*FOUR, "--schedule", "zb-v", "--chunks", "3"]),
            ("'m.onnx' is one word too many", [*FOUR, "m.onnx"]),
            (f"--schedule 1f1b and --schedule-file {self.path('s.txt')}: give one of them",
             [*FOUR, "--schedule", "1f1b", "--schedule-file", self.path("s.txt")]),
            (f"--report {self.path('s.txt')} would overwrite --schedule-file, which is read",
             [*FOUR, "--schedule-file", self.path("s.txt"), "--report", self.path("s.txt")]),
        ]:
            with self.subTest(line):
                self.refused(2, line, *words)
        self.refused(1, "schedule 1f1b: rank 0, action 7, 0F3: activations reach 4, the limit is 3",
                     *FOUR, "--schedule", "1f1b", "--memory-limit-microbatches", "3")
        self.refused(1, re.compile("rank 1 .*0.5"), *FOUR, "--memory-limit-microbatches", "4,0.5,4,4")
        missing = self.path("nowhere.txt")
        self.refused(1, re.compile(f"^{re.escape(missing)}: "), *FOUR, "--schedule-file", missing)


if __name__ == "__main__":
    unittest.main()
