"""train under mpirun on several hosts: the same bits, and a rank or a link that goes away is named."""
import os
import signal

import common
import hosts
from common import model_path

LAST = 100000000
TRAIN = ["train", model_path("nanogpt"), "--data", model_path("nanogpt", "data.npz"), "--batch", 8, "--microbatches", 4, "--quiet"]


class Hosts(hosts.HostsTest):
    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def start(self, on):
        metrics = on.path("m.jsonl")
        return self.wait_for_steps(on.mpirun(*TRAIN, "--steps", LAST, "--metrics", metrics), metrics)

    def test_the_answer_is_that_of_one_process(self):
        self.done(*TRAIN, "--steps", 4, "--ranks", 1, "--save", self.path("alone.onnx"))
        for n, name in (3, None), (2, "same"):  # as containers have one
            with self.subTest(n, name=name):
                run = self.make_hosts(n, name).mpirun(*TRAIN, "--steps", 4, "--save", self.path("hosts.onnx"))
                _, said = run.communicate(timeout=60)
                self.assertEqual(run.returncode, 0, said)
                self.assertTrue(self.read("hosts.onnx") == self.read("alone.onnx"))

    def test_a_rank_is_killed(self):
        on = self.make_hosts(3)
        run = self.start(on)
        os.kill(on.rank_on("h1"), signal.SIGKILL)
        ours, said = self.end(run, within=20)
        self.assertEqual(ours, ["rank 1 died: its connection closed"], said)
        self.assertEqual(on.processes(), [])

    def test_a_link_is_cut(self):
        """That of a host to all others; that between two hosts. At once, for both take their time."""
        off, apart = self.make_hosts(3), self.make_hosts(3)
        runs = [self.start(off), self.start(apart)]
        off.cut(2)
        apart.part(1, 2)
        for run, line in zip(runs, (r"rank 2 at 10\.77\.1\.3 does not answer rank [01] any more: .*",
                                    r"rank ([12]) at 10\.77\.1\.[23] does not answer rank (?!\1)[12] any more: .*")):
            ours, said = self.end(run, within=60)
            self.assertEqual(len(ours), 1, said)
            self.assertRegex(ours[0], line)


if __name__ == "__main__":
    common.main()
