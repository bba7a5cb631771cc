"""Hosts on one machine: network namespaces on one bridge, each with an address and a cable that can be pulled."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.service import ROOT


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """A namespace with one network card."""

    def __init__(self, name: str, address: str, bridge: str) -> None:
        self.name = name
        self.address = address
        self.cable = f"{name}c"  # its end on the bridge
        self.processes: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", self.cable, "master", bridge, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", name, "link", "set", device, "up")

    def run(self, command: list[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def python(self, *words: str, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        return self.run([sys.executable, "-m", *words], environment, log)

    def pull(self) -> None:
        """Drop all packets from now on, without a reply."""
        ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        ip("link", "set", self.cable, "up")

    def end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.name)


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """This many hosts, on a network with us. Raises OSError or CalledProcessError where that is not allowed."""
    number = os.getpid() % 1000
    bridge, network = f"omni{number}", f"10.213.{number % 250}"
    made: list[Host] = []
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("address", "add", f"{network}.254/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for at, name in enumerate(names, 1):
            made.append(Host(f"o{number}{name}", f"{network}.{at}", bridge))
        yield made
    finally:
        for host in made:
            host.end()
        ip("link", "delete", bridge)
