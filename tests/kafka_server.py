"""A real Apache Kafka for tests: deploy/kafka/kafka.sh on free ports, its data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
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


@contextmanager
def running_kafka(data: Path) -> Iterator[str]:
    """HOST:PORT of a broker that lives as long as the context; required where CI is set."""
    if lacking := [tool for tool in ("java", "mvn") if shutil.which(tool) is None]:
        message = f"Kafka needs {' and '.join(lacking)}: install Java 17 and Maven"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    port, controller = free_ports(2)
    with (data / "kafka.log").open("w") as log:
        command = [str(SCRIPT), str(data), str(port), str(controller)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for_port(port, process, data / "kafka.log")
            yield f"127.0.0.1:{port}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the data are temporary: no need to close them well
            process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"Kafka did not start: {log.read_text()[-2000:]}")
