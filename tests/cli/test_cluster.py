"""Plans for devices and links that are not here."""
import json
import re

import common
from common import CommandLineTest, model_path

A100 = {"nodes": [{"count": 2, "devices": 2, "device": "A100-80"}]}


class Cluster(CommandLineTest):
    def plan(self, cluster, *options, ranks=4):
        with open(self.path("c.json"), "w") as file:
            file.write(cluster if isinstance(cluster, str) else json.dumps(cluster))
        return ["plan", model_path("gpt2"), "--ranks", ranks, "--microbatches", 4, "--batch", 8, "--schedule", "1f1b", "--cluster",
                self.path("c.json"), *options]

    def step(self, cluster, *options, ranks=4):
        self.done(*self.plan(cluster, "-o", self.path("p.json"), *options, ranks=ranks))
        with open(self.path("p.json")) as file:
            return json.load(file)

    def test_published_devices(self):
        printed = self.done(*self.plan(A100))
        self.assertRegex(printed, r"cluster +\S+c.json: 2 nodes of 2 A100-80\n")
        for name in ("A100-40", "A100-80", "H100", "H200", "B200", "MI300X", "CPU-node"):
            plan = self.step({"nodes": [{"count": 4, "device": name}]})
            self.assertTrue(all(rank["limit_bytes"] >= 4e10 for rank in plan["memory"]))

    def test_memory_is_the_limit_and_rates_count(self):
        slow = {"like": "A100-40", "flops_per_second": {"float32": 1e9}, "memory_bytes": 123456789}
        plan = self.step({"nodes": [{"count": 1, "devices": 4, "device": "mine"}], "devices": {"mine": slow}})
        self.assertEqual([rank["limit_bytes"] for rank in plan["memory"]], [123456789] * 4)
        self.assertGreater(plan["predicted"]["step_seconds"], 2 * self.step(A100)["predicted"]["step_seconds"])

    def test_a_node_as_one(self):
        eight = {"nodes": [{"count": 4, "device": "node"}], "devices": {"node": {"like": "A100-80", "times": 8}}}
        self.assertEqual(self.step(eight)["memory"][0]["limit_bytes"], 640 * 10**9)

    def test_what_lies_beside_arenas(self):
        """On devices their context, and what NCCL sets aside; on CPUs program and data."""
        printed = self.done(*self.plan(A100))
        self.assertRegex(printed, r"resident on a device beside its arena: about 531.0 MiB of context and code;\s+under mpirun "
                         r"up\s+to\s+128.0\s+MiB\s+of\s+NCCL's\s+buffers\n")
        self.assertNotIn("as one process", printed)
        printed = self.done(*self.plan({"nodes": [{"count": 4, "device": "CPU-node"}]}))
        self.assertNotIn("resident on a device", printed)
        self.assertIn("as one process", printed)

    def test_links_within_and_between(self):
        links = {"within": {"bytes_per_second": 1e9}, "between": {"bytes_per_second": 5e8, "latency_seconds": 1e-3}}
        plan = self.step(dict(A100, links=links))
        self.assertEqual([round(stage["cut_after"]["bytes_per_second"]) for stage in plan["stages"][:3]], [1e9, 5e8, 1e9])
        self.assertEqual(plan["link"]["latency_seconds"], 1e-3)

    def test_unlike_devices(self):
        nodes = [{"device": "H100"}, {"count": 3, "device": "slow"}]
        plan = self.step({"nodes": nodes, "devices": {"slow": {"like": "CPU-node", "flops_per_second": {"float32": 1e10},
                                                               "efficiency": {"product": 0.1}}}})
        self.assertEqual(plan["memory"][0]["limit_bytes"], 80 * 10**9)
        self.assertEqual(plan["memory"][1]["limit_bytes"], 1536 * 10**9)

    def test_ranks_take_devices_in_any_order(self):
        slow = {"like": "H100", "flops_per_second": {"float32": 1e10}}
        cluster = {"nodes": [{"device": "H100"}, {"count": 3, "device": "slow"}], "devices": {"slow": slow}}
        self.assertNotIn("order", self.done(*self.plan(cluster)))
        printed = self.done(*self.plan(dict(cluster, order="any")))
        order = re.search(r"order +ranks take devices ([\d ]+) of the file: the slowest stage takes [\d.]+ % less than in its order\n",
                          printed)[1]
        self.assertEqual(sorted(order.split()), list("0123"))
        self.assertNotEqual(order[0], "0")
        alike = self.done(*self.plan(dict(A100, order="any")))
        self.assertIn("ranks take the devices of the file in its order: none is better", alike)
        pinned = self.done(*self.plan(dict(cluster, order="any"), "--pin", "*=0", ranks=1))
        self.assertNotIn("ranks take", pinned)

    def test_what_is_wrong_is_named(self):
        node = {"device": "mine"}
        own = {"memory_bytes": 1e9, "flops_per_second": {"float32": 1e9}, "bytes_per_second": 1e9}
        path = self.path("c.json")
        for line, cluster in (
                (f"{path}: line 1: ", "{"),
                (f"{path}: it is no JSON object", "[]"),
                (f"{path}: nodes is missing", {}),
                (f'{path}: order is neither "given" nor "any"', {"nodes": [node], "order": "best"}),
                (f"{path}: nodes have 2 devices for 4 ranks", {"nodes": [{"devices": 2, "device": "H100"}]}),
                (f"{path}: nodes[0].device is 'H10': 'devices' has no such device", {"nodes": [{"device": "H10"}]}),
                (f"{path}: nods: there is no such key (did you mean nodes?)", {"nods": []}),
                (f"{path}: nodes[0].cuont: there is no such key (did you mean count?)", {"nodes": [{"cuont": 2, "device": "H100"}]}),
                (f"{path}: nodes[0].count is no whole number from 1 to 65536", {"nodes": [{"count": 0, "device": "H100"}]}),
                (f"{path}: devices.mine.memory_bytes is missing", {"nodes": [node], "devices": {"mine": {}}}),
                (f"{path}: devices.mine.flops_per_second.float32 is missing", {"nodes": [node], "devices": {"mine": {"memory_bytes": 1}}}),
                (f"{path}: devices.mine.efficiency.product is 2, above 1",
                 {"nodes": [node], "devices": {"mine": dict(own, efficiency={"product": 2})}}),
                (f"{path}: devices.mine.bytes_per_second is no number above 0",
                 {"nodes": [node], "devices": {"mine": dict(own, bytes_per_second="fast")}}),
                (f"{path}: links.within.bytes_per_second is missing, and devices.mine has none",
                 {"nodes": [{"devices": 4, "device": "mine"}], "devices": {"mine": own}}),
                (f"{path}: links.between.latency_seconds is no number above 0", dict(A100, links={"between": {"latency_seconds": -1}}))):
            with self.subTest(line):
                run = self.run_command(*self.plan(cluster))
                self.assertEqual(run.returncode, 1, run.stderr)
                self.assertIn(line, run.stderr)
                self.assertEqual(run.stderr.count("\n"), 1)
        run = self.run_command(*self.plan(A100)[:-1], self.path("none.json"))
        self.assertRegex(run.stderr, re.escape(self.path("none.json")) + ": .*No such file")


if __name__ == "__main__":
    common.main()
