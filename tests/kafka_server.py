"""A real Apache Kafka for tests: deploy/kafka/kafka.sh on free ports, its data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).resolve().parents[1] / "deploy/kafka/kafka.sh"
# Two cores shared with other work, an empty Maven cache.
START_LIMIT_S = 180.0


def free_ports(n: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens."""
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class KafkaServer:
    """A broker that can die and be started again on the same ports with the same data.

    Attributes:
        data: its folder; kafka.log in it is what it says.
        port: where it listens.
        controller: another port, its own.
        advertised: the port that clients are told to connect to; a proxy may listen there.
    """

    data: Path
    port: int
    controller: int
    advertised: int
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it and wait until it listens."""
        ports = (self.port, self.controller, self.advertised)
        with (self.data / "kafka.log").open("a") as log:
            command = [str(SCRIPT), str(self.data), *map(str, ports)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail(f"Kafka did not start: {(self.data / 'kafka.log').read_text()[-2000:]}")

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal it, if it is there, and wait until it is not."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
        self.process.wait()


def require_tools() -> None:
    """Skip the test where Java or Maven is missing; fail where CI is set."""
    if lacking := [tool for tool in ("java", "mvn") if shutil.which(tool) is None]:
        message = f"Kafka needs {' and '.join(lacking)}: install Java 17 and Maven"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def running_kafka(data: Path) -> Iterator[str]:
    """HOST:PORT of a broker that lives as long as the context; required where CI is set."""
    require_tools()
    port, controller = free_ports(2)
    server = KafkaServer(data, port, controller, advertised=port)
    try:
        server.start()
        yield f"127.0.0.1:{port}"
    finally:
        server.end()  # the data are temporary: no need to close them well
