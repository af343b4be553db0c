"""Hosts that are network namespaces of this machine, for tests of the command line: each has an address and a cable to a switch, which
is a bridge in a namespace of its own. mpirun's launch agent enters them. Files and processes are shared; traffic stays in there."""
import itertools
import os
import shutil
import signal
import subprocess
import unittest

from common import ONNXPIPE, CommandLineTest

AGENT = """#!/bin/sh
# agent HOST COMMAND...: what ssh would be; a host that can be reached refuses the connection to a port that nobody has
host=$1
shift
case $host in
{addresses}
esac
timeout 2 bash -c ": </dev/tcp/$address/9" 2>&1 | grep -q refused || exit 255
exec ip netns exec "{prefix}$host" unshare --uts sh -c 'hostname "$1" && shift && exec sh -c "$*"' sh {name} "$@"
"""
numbers = itertools.count()


def missing():
    """Why there can be no hosts here, or None."""
    for program in "ip", "unshare", "hostname", "bash", "mpirun":
        if not shutil.which(program):
            return f"there is no {program}"
    name = f"op{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Hosts:
    """h0, h1, …; with `name`, they all say that this is theirs, and are told apart by their addresses."""

    def __init__(self, folder, n, name=None):
        self.prefix, self.folder, self.name = f"op{os.getpid()}-{next(numbers)}", folder, name
        self.addresses = [f"10.77.1.{i + 1}" for i in range(n)]
        self.names = [f"h{i}" for i in range(n)] if not name else self.addresses
        self.spaces = []
        try:
            self.connect()
        except BaseException:
            self.remove()
            raise
        with open(self.path("agent"), "w") as file:
            file.write(AGENT.format(prefix=self.prefix, name=name or '"$host"', addresses="\n".join(
                f"{host}) address={address} ;;" for host, address in zip(self.names, self.addresses))))
        os.chmod(self.path("agent"), 0o755)
        with open(self.path("hostfile"), "w") as file:
            file.writelines(f"{host} slots=1\n" for host in self.names)

    def path(self, name):
        return os.path.join(self.folder, name)

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True)

    def add_space(self, name):
        self.ip("netns", "add", self.prefix + name)
        self.spaces.append(self.prefix + name)
        return self.spaces[-1]

    def connect(self):
        switch = self.switch = self.add_space("switch")
        self.ip("-n", switch, "link", "add", "switch", "type", "bridge")
        self.ip("-n", switch, "link", "set", "switch", "up")
        for i, host in enumerate(self.names):
            space = self.add_space(host)
            self.ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"port{i}", "netns", switch)
            self.ip("-n", space, "addr", "add", self.addresses[i] + "/24", "dev", "eth0")
            for device in "lo", "eth0":
                self.ip("-n", space, "link", "set", device, "up")
            self.ip("-n", switch, "link", "set", f"port{i}", "master", "switch", "up")
            # mpirun itself waits for a host that was cut off until TCP gives up: a quarter of an hour
            self.ip("netns", "exec", space, "sh", "-c", "echo 3 >/proc/sys/net/ipv4/tcp_retries2")

    def processes(self, host=None):
        """Those on the host, or on all of them."""
        spaces = [self.prefix + host] if host else self.spaces
        return [int(pid) for space in spaces for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True,
                                                                       text=True, check=True).stdout.split()]

    def end_processes(self, host=None):
        for pid in self.processes(host):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def remove(self):
        self.end_processes()
        while self.spaces:
            self.ip("netns", "del", self.spaces.pop())

    def cut(self, i):
        """Pulls the cable of host i out of the switch."""
        self.ip("-n", self.switch, "link", "set", f"port{i}", "down")

    def part(self, *hosts):
        """These reach each other no more, but all others."""
        for i in hosts:
            self.ip("-n", self.switch, "link", "set", f"port{i}", "type", "bridge_slave", "isolated", "on")

    def start(self, *words):
        """Runs the words on the first host; mpirun knows how to reach the others."""
        command = ["ip", "netns", "exec", self.prefix + self.names[0], "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"',
                   self.name or self.names[0], *map(str, words)]
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", OMPI_MCA_plm_rsh_agent=self.path("agent"),
                           OMPI_MCA_btl="tcp,self")
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)

    def mpirun(self, *words):
        return self.start("mpirun", "-n", len(self.names), "--hostfile", self.path("hostfile"), ONNXPIPE, *words)

    def rank_on(self, host):
        """The process of the rank there."""
        program = os.path.realpath(ONNXPIPE)
        return next(pid for pid in self.processes(host) if os.path.realpath(f"/proc/{pid}/exe") == program)


class HostsTest(CommandLineTest):
    @classmethod
    def setUpClass(cls):
        reason = missing()
        if reason:
            raise unittest.SkipTest(reason)

    def make_hosts(self, *how):
        folder = self.path(f"hosts{next(numbers)}")
        os.mkdir(folder)
        hosts = Hosts(folder, *how)
        self.addCleanup(hosts.remove)
        return hosts

    def end(self, run, within):
        """Its lines of ours, and all that was said; it ends within so many seconds, and not well."""
        _, said = run.communicate(timeout=within)
        self.assertIn(run.returncode, (1, 128 + signal.SIGKILL), said)
        return [line.removeprefix("onnxpipe: ") for line in said.splitlines() if line.startswith("onnxpipe: ")], said
