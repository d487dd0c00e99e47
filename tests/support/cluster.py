"""Nodes of Ray on this machine, on ports of their own: another Ray on the machine may run beside them."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.support.processes import family, kill, wait_until
from tests.support.s3 import free_ports

HEAD = "127.0.0.2"  # Ray takes 127.0.0.1 for this machine's outer address
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
         "NO_PROXY": ",".join(f"127.0.0.{at}" for at in range(1, 60))}
STARTS_WITHIN_S = 120


class Cluster:
    """A head on 127.0.0.2, and the nodes that `add` gives it. A context: all nodes are killed at its end."""

    def __init__(self, *options: str, cwd: Path | None = None, **environ: str) -> None:
        """Start the head. `options`: of `ray start`, such as the number of CPUs; `environ`: variables of all nodes."""
        port, self.dashboard, client, self.metrics = free_ports(4)
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, for the paths of Ray's sockets
        self.address, self.cwd, self.environ = f"{HEAD}:{port}", cwd, TOKEN | environ
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._start(HEAD, "--head", f"--port={port}", f"--dashboard-port={self.dashboard}", f"--temp-dir={self.folder}",
                    f"--ray-client-server-port={client}", f"--metrics-export-port={self.metrics}", *options)

    def add(self, *options: str) -> subprocess.Popen[bytes]:
        """Start another node, with an IP address of its own."""
        return self._start(f"127.0.0.{2 + len(self.nodes)}", f"--address={self.address}", *options)

    def _start(self, ip: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a node and wait until it runs. Raises AssertionError with its log where it does not."""
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={ip}",
                   "--disable-usage-stats",
                   f"--dashboard-agent-listen-port={free_ports(1)[0]}", *options]
        environ = {name: value for name, value in (os.environ | self.environ).items() if name != "RAY_ADDRESS"}
        path = self.folder / f"{ip}.log"
        with path.open("wb") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=self.cwd)
        self.nodes.append(node)
        try:
            wait_until(lambda: node.poll() is not None or b"Ray runtime started" in path.read_bytes(),
                       "a node of Ray does not start", STARTS_WITHIN_S, 0.1)
            assert node.poll() is None, path.read_text()[-2000:]
        except AssertionError:
            self.stop()
            raise
        return node

    @property
    def driver(self) -> dict[str, str]:
        """The variables of a job that joins this cluster."""
        return self.environ | {"RAY_ADDRESS": self.address}

    def stop(self) -> None:
        """Kill all nodes with their processes, and delete their files."""
        for node in reversed(self.nodes):
            kill(family(node.pid))
            node.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@functools.cache
def shared_cluster() -> Cluster:
    """The one node of two CPUs that the jobs of a session's tests share; the first call starts this node."""
    cluster = Cluster("--num-cpus=2", "--num-gpus=0", "--include-dashboard=false", "--object-store-memory=1000000000")
    atexit.register(cluster.stop)
    return cluster
