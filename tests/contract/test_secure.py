"""A real Kafka with TLS and passwords: who may connect, and that nobody learns the secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from latenight.broker import Record
from latenight.broker.topics import Topics
from latenight.client import connect
from tests.contract.test_broker import fill, read_all, values
from tests.kafka_server import KafkaServer, free_ports, require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "hunter2-of-the-client"  # noqa: S105  (of a broker that lives for this test)
STORE = "hunter2-of-the-store"
LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_alice="{password}";
ssl.keystore.type=PKCS12
ssl.keystore.location={store}
ssl.keystore.password={store_password}
"""


@dataclass(frozen=True)
class Secure:
    """A listener that asks for TLS and a password.

    Attributes:
        address: its HOST:PORT.
        certificate: what a client must trust.
    """

    address: str
    certificate: Path

    def config(self, folder: Path, **changes: str | None) -> Path:
        """A file of the settings that let alice in, some changed or (None) left out."""
        settings = {
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.certificate),
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "alice",
            "sasl_plain_password": PASSWORD,
        } | changes
        path = folder / "client.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items() if value is not None))
        return path


def keytool(*words: object) -> str:
    command = ["keytool", *map(str, words), "-storepass", STORE, "-alias", "kafka"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    require_tools()
    data = tmp_path_factory.mktemp("secure")
    store = data / "store.p12"
    name = ("-dname", "CN=localhost", "-ext", "SAN=ip:127.0.0.1")
    keytool("-genkeypair", "-keyalg", "RSA", "-storetype", "PKCS12", "-keystore", store, *name)
    (data / "ca.pem").write_text(keytool("-exportcert", "-rfc", "-keystore", store))
    port, controller, listener = free_ports(3)
    extra = LISTENERS.format(
        port=port,
        secure=listener,
        controller=controller,
        password=PASSWORD,
        store=store,
        store_password=STORE,
    )
    (data / "extra.properties").write_text(extra)
    server = KafkaServer(data, port, controller, port)
    server.start()
    yield Secure(f"127.0.0.1:{listener}", data / "ca.pem")
    server.end()


@pytest.mark.kafka
def test_spectra_travel_with_tls_and_a_password(secure: Secure, tmp_path: Path) -> None:
    """Topics are made, records published in transactions and read, with the settings of a file."""
    broker, topics = connect(secure.address, secure.config(tmp_path)), Topics(f"s{uuid.uuid4().hex[:8]}")
    assert broker.create_topics(topics.settings(), 1) == list(topics.settings())
    sink = broker.sink(instance=topics.prefix)
    sink.publish([Record(topics.scores, b"k", b"in a transaction")])
    sink.close()
    fill(broker, [Record(topics.scores, b"k", b"alone")])
    assert values(read_all(broker, topics.scores)) == [b"in a transaction", b"alone"]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **env}
    )


@pytest.mark.kafka
def test_a_command_says_no_secret(secure: Secure, tmp_path: Path) -> None:
    """With a password from the environment a command works and prints it nowhere."""
    config = secure.config(tmp_path, sasl_plain_password="${LATENIGHT_TEST_PASSWORD}")  # noqa: S106
    words = ("topics", "create", "--bootstrap-servers", secure.address, "--client-config", str(config))
    done = run("-m", "latenight", *words, LATENIGHT_TEST_PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.kafka
@pytest.mark.parametrize(
    "changes",
    [
        {"sasl_plain_password": "hunter2-but-wrong"},
        {"ssl_cafile": None},
        {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None},
    ],
    ids=["wrong password", "unknown certificate", "no TLS"],
)
def test_who_is_not_let_in_learns_it_at_the_start(
    secure: Secure, tmp_path: Path, changes: dict[str, str | None]
) -> None:
    """A wrong password, a certificate that nobody trusts and no TLS are a StartupError without a secret."""
    # A process of its own, as in test_kafka; the commands give the broker 30 s instead of 1.
    code = (
        "from pathlib import Path\n"
        "from latenight import log\n"
        "from latenight.broker.kafka import KafkaBroker\n"
        "from latenight.broker.security import read_security\n"
        "log.configure()\n"
        f"security = read_security(Path({str(secure.config(tmp_path, **changes))!r}))\n"
        f"KafkaBroker({secure.address!r}, security | {{'bootstrap_timeout_ms': 1000}}).missing([])"
    )
    done = run("-c", code)
    assert f"StartupError: cannot use Kafka at {secure.address}: " in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
