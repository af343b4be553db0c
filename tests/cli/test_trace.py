"""train --trace: the file is a trace by the rules of the Trace Event Format, and tells what the metrics tell."""
import json
import re
import subprocess
from collections import Counter, defaultdict
from decimal import Decimal

import common
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common import CommandLineTest, case_options, model_path, read_case, read_metrics

COLOURS = {"thread_state_running", "thread_state_iowait", "rail_response", "rail_animation", "yellow", "grey", "startup",
           "olive", "generic_work", "rail_load", "rail_idle"}  # some of those that Chrome reserves
WORK = {"forward", "backward", "weight_gradients", "backward,weight_gradients", "update"}
COMPUTE = re.compile(r"(\d+)(F|B|W|BW)(\d+)$")
TRANSFER = re.compile(r"(\d+)(SEND|RECV)_([FB])(\d+)$")


class Line:
    """What one rank did: its spans with the depth at which they lie, and the ends of flows."""

    def __init__(self):
        self.spans, self.flows = [], []

    def innermost(self, ts):
        around = [s for s in self.spans if s["ts"] <= ts <= s["ts"] + s["dur"]]
        return max(around, key=lambda s: s["depth"])

    def outermost(self, ts):
        return next(s for s in self.spans if s["depth"] == 0 and s["ts"] <= ts <= s["ts"] + s["dur"])

    def sum(self, wanted):
        return float(sum(s["dur"] for s in self.spans if wanted(s))) / 1e6


class Trace(CommandLineTest):
    def read(self, path):
        """Every rule that holds for any trace; the ranks' lines, rank 0's first."""
        with open(path) as file:
            trace = json.load(file, parse_float=Decimal)
        lines, names, order = defaultdict(Line), {}, {}
        for event in trace["traceEvents"]:
            self.assertIn(event["ph"], ("M", "X", "s", "f"))
            for number in ("pid", "tid"):
                self.assertIsInstance(event[number], int)
                self.assertGreater(event[number], 0)
            line, place = lines[event["pid"], event["tid"]], (event["pid"], event["tid"])
            if event["ph"] == "M":
                self.assertIn(event["name"], ("process_name", "process_sort_index", "thread_name", "thread_sort_index"))
                if event["name"] == "thread_name":
                    names[place] = event["args"]["name"]
                elif event["name"] == "process_name":
                    names[event["pid"]] = event["args"]["name"]
                elif event["name"] == "thread_sort_index":
                    order[place] = event["args"]["sort_index"]
                continue
            self.assertGreaterEqual(event["ts"], 0)
            (line.spans if event["ph"] == "X" else line.flows).append(event)
        for place, line in lines.items():
            self.assertIn("onnxpipe on ", names[place[0]])
            self.assertRegex(names[place], rf"rank {order[place]} \(stage")
            self.check_nesting(line)
        self.assertEqual(sorted(order.values()), list(range(trace["otherData"]["ranks"])))
        lines = [lines[place] for place in sorted(lines, key=order.get)]
        return trace["otherData"], lines

    def check_nesting(self, line):
        open_spans, at = [], Decimal(-1)
        for span in line.spans:
            self.assertGreaterEqual(span["ts"], at, "in order")
            self.assertGreaterEqual(span["dur"], 0)
            at, end = span["ts"], span["ts"] + span["dur"]
            while open_spans and open_spans[-1] <= at and open_spans[-1] < end:
                open_spans.pop()
            if open_spans:
                self.assertLessEqual(end, open_spans[-1], span)
            span["depth"] = len(open_spans)
            open_spans.append(end)
            self.assertTrue(span["name"] and span["cat"])
            if span["cat"] != "kernel":
                self.assertIn(span["cname"], COLOURS)
            self.assertGreaterEqual(span["args"]["step"], 1)

    def check_messages(self, head, lines):
        """Every send has its receive, and a flow leads from the one to what needs the other."""
        ends, sends, receives = defaultdict(dict), Counter(), Counter()
        for rank, line in enumerate(lines):
            for flow in line.flows:
                self.assertNotIn(flow["ph"], ends[flow["id"]])
                ends[flow["id"]][flow["ph"]] = (rank, flow["ts"])
                if flow["ph"] == "f":
                    self.assertEqual(flow["bp"], "e")
            for span in line.spans:
                args, match = span["args"], TRANSFER.match(span["name"])
                if span["cat"] != "transfer" or span["name"].startswith("copy"):
                    continue
                if match:
                    stage, way = args["stage"], match[3]
                    self.assertEqual((int(match[1]), int(match[4])), (stage, args["microbatch"]))
                    crosses = stage if match[2] == "RECV" else stage + 1 if way == "F" else stage - 1
                    what = (way, crosses, args["microbatch"])
                else:
                    what = (span["name"][5:], args["parameter"])
                ranks = (rank, args["peer"]) if "SEND" in span["name"] else (args["peer"], rank)
                (sends if "SEND" in span["name"] else receives)[(args["step"], *what, *ranks, args["bytes"])] += 1
        self.assertEqual(sends, receives)
        # two uses of one parameter in different groups may go the same way
        self.assertEqual(sum(sends.values()), len(ends))
        for both in ends.values():
            self.assertEqual(set(both), {"s", "f"})
            self.assertNotEqual(both["s"][0], both["f"][0])
            self.assertLessEqual(both["s"][1], both["f"][1] + 2 * head["clock_error_us"])
            self.assertIn("SEND", lines[both["s"][0]].innermost(both["s"][1])["name"])

    def check_work(self, head, lines, steps):
        """F and its backward of every microbatch of every stage, once a step; what it stands in is the step's span."""
        done = Counter()
        for line in lines:
            for span in line.spans:
                match = COMPUTE.match(span["name"])
                if match:
                    self.assertEqual((int(match[1]), int(match[3])), (span["args"]["stage"], span["args"]["microbatch"]))
                    self.assertEqual(span["depth"], 1)
                    for letter in match[2]:
                        done[span["args"]["step"], letter, int(match[1]), int(match[3])] += 1
            self.assertEqual([s["args"]["step"] for s in line.spans if s["name"] == "step"], list(steps))
        expected = {(step, letter, stage, m) for step in steps for letter in "FBW" for stage in range(head["stages"])
                    for m in range(head["microbatches"])}
        if not any("BW" in s["name"] for line in lines for s in line.spans):
            expected -= {(step, "B", 0, m) for step in steps for m in range(head["microbatches"])}
        self.assertEqual(set(done), expected)
        self.assertEqual(set(done.values()), {1})

    def check_sums(self, lines, metrics, out):
        seconds = lines[0].sum(lambda s: s["name"] == "step")
        self.assertAlmostEqual(seconds / sum(m["seconds"] for m in metrics), 1, delta=0.01)
        shares = [int(n) for n in re.findall(r"(\d+)\s%", out.split("busy:")[1].split("trace:")[0])]
        self.assertEqual(len(shares), len(lines))
        later = sum(m["seconds"] for m in metrics if m["step"] > 1)
        for share, line in zip(shares, lines):
            busy = line.sum(lambda s: s["cat"] in WORK and s["name"] != "gradient norms" and s["args"]["step"] > 1)
            self.assertAlmostEqual(min(100 * busy / later, 100), share, delta=1)  # of rank 0's steps: others may work longer

    def train(self, name, *options, mpi=0):
        out = self.done("train", model_path(name), "--data", model_path(name, "data.npz"), *case_options(read_case(name)),
                        "--metrics", self.path("m.jsonl"), "--trace", self.path("t.json"), *options, mpi=mpi)
        head, lines = self.read(self.path("t.json"))
        return head, lines, read_metrics(self.path("m.jsonl")), out

    def test_a_trace_is_one_whatever_the_schedule(self):
        for name, mpi, options in [("nanogpt", 0, ["--ranks", 1, "--microbatches", 2]),
                                   ("gpt2", 0, ["--ranks", 2, "--microbatches", 4, "--schedule", "1f1b"]),
                                   ("gpt2", 0, ["--ranks", 4, "--microbatches", 4, "--schedule", "zb-h1"]),
                                   ("nanogpt", 0, ["--ranks", 2, "--chunks", 2, "--microbatches", 4, "--schedule",
                                                   "interleaved-1f1b", "--clip-norm", 1]),
                                   ("surrogate", 0, ["--ranks", 2, "--microbatches", 2, "--schedule", "zb-v"]),
                                   ("gpt2", 2, ["--microbatches", 4]), ("surrogate", 2, ["--chunks", 2, "--microbatches", 2])]:
            with self.subTest(name, mpi=mpi, options=options):
                head, lines, metrics, out = self.train(name, *options, mpi=mpi)
                self.assertTrue(head["complete"])
                self.check_work(head, lines, range(1, len(metrics) + 1))
                self.check_messages(head, lines)
                self.check_sums(lines, metrics, out)
                self.assertIn(f"t.json has steps 1 to {len(metrics)}\n", out)

    def test_rows_of_a_table_on_several_ranks(self):
        """Their gradients and their places are two messages."""
        rng = np.random.default_rng(1)
        shapes = {"table": (50, 64), "w0": (64, 64), "w1": (64, 64), "w2": (64, 64), "w3": (64, 64), "head": (64, 1)}
        weights = [numpy_helper.from_array(0.1 * rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
        nodes = [helper.make_node("Gather", ["table", "first"], ["a"]), helper.make_node("MatMul", ["a", "w0"], ["b"]),
                 helper.make_node("MatMul", ["b", "w1"], ["c"]), helper.make_node("MatMul", ["c", "w2"], ["d"]),
                 helper.make_node("Gather", ["table", "second"], ["e"]), helper.make_node("Add", ["d", "e"], ["f"]),
                 helper.make_node("MatMul", ["f", "w3"], ["g"]), helper.make_node("MatMul", ["g", "head"], ["y"])]
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, TensorProto.INT64, ["N"]) for n in ("first", "second")],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), self.path("rows.onnx"))
        data = self.write_arrays("d.npz", first=rng.integers(0, 50, 32), second=rng.integers(0, 50, 32),
                                 target=rng.normal(size=(32, 1)).astype(np.float32))
        said = self.done("train", self.path("rows.onnx"), "--data", data, "--batch", 8, "--steps", 3, "--ranks", 2, "--microbatches", 2, "--optimizer", "sgd",
                         "--schedule", "1f1b", "--cut", "d", "--trace", self.path("t.json"))  # a lookup on each rank
        self.assertRegex(" ".join(said.split()), "rows table: gradients and updates of those alone")
        head, lines = self.read(self.path("t.json"))
        self.check_messages(head, lines)
        sums = [s for line in lines for s in line.spans if s["name"] == "SEND_SUM"]
        self.assertEqual(len(sums), 3 * 2 * 2)
        self.assertEqual({s["args"]["bytes"] for s in sums}, {8 * 64 * 4, 8 * 8})

    def test_clocks_that_are_apart(self):
        """Rank 1 lives in a time namespace, whose clock is 5000 s ahead."""
        apart = ["unshare", "--time", "--fork", "--monotonic", 5000]
        try:
            allowed = common.HAS_MPI and subprocess.run([*map(str, apart), "true"], capture_output=True).returncode == 0
        except OSError:
            allowed = False
        if not allowed:
            self.skipTest("no time namespace can be made here, or there is no mpirun")
        words = [common.ONNXPIPE, "train", model_path("gpt2"), "--data", model_path("gpt2", "data.npz"), "--batch", 8,
                 "--microbatches", 4, "--steps", 5, "--quiet", "--trace", self.path("t.json")]
        result = self.run_words(["env", "ASAN_OPTIONS=detect_leaks=0", "mpirun", "-n", 1, *words, ":", "-n", 1, *apart, *words])
        self.assertEqual(result.returncode, 0, result.stderr)
        head, lines = self.read(self.path("t.json"))
        self.check_messages(head, lines)
        begins = [line.spans[0]["ts"] for line in lines]
        ends = [max(s["ts"] + s["dur"] for s in line.spans) for line in lines]
        self.assertLess(max(begins), min(ends))  # at the same time, for each waits for the other

    def test_kernels_lie_in_their_actions(self):
        head, lines, _, out = self.train("branches", "--ranks", 2, "--microbatches", 2, "--trace-kernels",
                                         "--trace-steps", "2:3")
        self.assertIn("t.json has steps 2 to 3\n", out)
        self.assertEqual((head["first_step"], head["last_step"], head["kernels"]), (2, 3, True))
        self.check_work(head, lines, (2, 3))
        self.check_messages(head, lines)
        for line in lines:
            kernels = [s for s in line.spans if s["cat"] == "kernel"]
            self.assertEqual({s["args"]["step"] for s in kernels}, {2, 3})
            self.assertTrue(all(s["args"]["node"] and s["depth"] == 2 for s in kernels))
            actions = [s for s in line.spans if s["cat"] in WORK]
            for kernel in kernels[:50]:
                around = [a for a in actions if a["ts"] <= kernel["ts"] <= a["ts"] + a["dur"]]
                self.assertEqual(len(around), 1)
                for place in set(around[0]["args"]) & {"step", "stage", "microbatch"}:
                    self.assertEqual(around[0]["args"][place], kernel["args"][place])

    def test_an_epochs_rest_is_a_step_of_its_own(self):
        """78 samples: 2 batches of 4 microbatches of 8, and 2 of 7."""
        for options, mpi in ((["--ranks", 2, "--schedule", "zb-h1"], 0), (["--ranks", 3, "--schedule", "1f1b"], 0), ([], 2)):
            with self.subTest(options, mpi=mpi):
                self.done("train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--batch", 32, "--microbatches", 4,
                          "--validation-split", 0.025, "--epochs", 2, "--last-batch", "exact", "--quiet", "--trace", self.path("t.json"),
                          "--trace-kernels", *options, mpi=mpi)
                head, lines = self.read(self.path("t.json"))
                self.check_messages(head, lines)
                forwards, sizes, updates = Counter(), defaultdict(set), defaultdict(set)
                for line in lines:
                    for span in line.spans:
                        step, match = span["args"]["step"], COMPUTE.match(span["name"])
                        forwards[step] += bool(match and match[2] == "F")
                        if re.fullmatch(r"0SEND_F\d+", span["name"]):
                            sizes[step].add(span["args"]["bytes"])
                        if span["cat"] == "kernel" and "microbatch" not in span["args"]:
                            updates[step].add((span["name"], span["args"]["node"]))
                whole = head["stages"] * 4
                self.assertEqual(forwards, {1: whole, 2: whole, 3: whole // 2, 4: whole, 5: whole, 6: whole // 2})
                (full,), (rest,) = sizes[1], sizes[3]
                self.assertEqual(full * 7, rest * 8)
                self.assertEqual(updates[3], updates[1])

    def test_what_lies_between_steps(self):
        for mpi in 0, 2:
            with self.subTest(mpi=mpi):
                ranks = [] if mpi else ["--ranks", 2]
                _, lines, metrics, _ = self.train("branches", "--save", self.path("m.onnx"), "--checkpoint", self.path(f"c{mpi}"),
                                                  "--validate", model_path("branches", "data.npz"), "--every", 3, *ranks, mpi=mpi)
                steps = len(metrics)
                due = sorted({*range(3, steps, 3), steps})
                self.assertEqual([m["step"] for m in metrics if "validation_loss" in m], due)
                for line in lines:
                    files = [s for s in line.spans if s["cat"] in ("validation", "files")]
                    between = [(s["name"], s["args"]["step"]) for s in files if s["depth"] == 0]
                    self.assertEqual(between, [(name, k) for k in due for name in ("validation", "checkpoint")] + [("save", steps)])
                    inside = [s for s in files if s["depth"] == 1]
                    self.assertEqual([(s["name"], s["args"]["step"]) for s in inside], [("snapshot", k) for k in due])
                    waits = [s for s in line.spans if s["name"] == "wait checkpoint"]
                    self.assertEqual([(s["depth"], s["args"]["step"]) for s in waits], [(1, k) for k in due[1:]])
                    for span in (*inside, *waits):
                        self.assertEqual(line.outermost(span["ts"])["name"], "checkpoint")

    def test_a_run_that_fails_leaves_what_it_did(self):
        for mpi, lines_expected in (0, 2), (2, 1):
            with self.subTest(mpi=mpi):
                path = self.path(f"failed{mpi}.json")
                ranks = [] if mpi else ["--ranks", 2]
                said = self.refused(1, re.compile(r"step \d+: .*"), "train", model_path("branches"), "--data",
                                    model_path("branches", "data.npz"), "--batch", 8, "--steps", 8, "--optimizer", "sgd",
                                    "--lr", "1e30", "--quiet", "--trace", path, *ranks, mpi=mpi)
                with open(path) as file:
                    trace = json.load(file)
                self.assertFalse(trace["otherData"]["complete"])
                steps = {e["args"]["step"] for e in trace["traceEvents"] if e["ph"] == "X"}
                self.assertEqual(max(steps), int(said.split()[1].rstrip(":")))
                self.assertEqual(len({e["tid"] for e in trace["traceEvents"] if e["ph"] == "X"}), lines_expected)

    def test_options_that_contradict(self):
        words = ["train", model_path("branches"), "--data", model_path("branches", "data.npz"), "--steps", 2]
        self.refused(2, "--trace-steps needs --trace FILE.json", *words, "--trace-steps", "1:2")
        self.refused(2, "--trace-kernels needs --trace FILE.json", *words, "--trace-kernels")
        for steps in "2", "0:3", "3:2", "a:b", "1:2x":
            self.refused(2, f"--trace-steps: '{steps}' is no FIRST:LAST of steps from 1", *words, "--trace",
                         self.path("t.json"), "--trace-steps", steps)
        self.refused(2, "--trace-steps: step 3 is past the run's 2", *words, "--trace", self.path("t.json"),
                     "--trace-steps", "3:")
        self.refused(1, re.compile(r"/nowhere/t.json: .*"), *words, "--trace", "/nowhere/t.json")


if __name__ == "__main__":
    common.main()
