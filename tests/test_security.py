"""The security settings of a Kafka client come from a file and show up nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from latenight.broker.security import NAMES, read_security
from latenight.errors import StartupError

if TYPE_CHECKING:
    from pathlib import Path


def test_settings_are_read_from_lines_of_name_and_value(tmp_path: Path) -> None:
    """Spaces around names and values, comments and empty lines do not count; a value may hold =."""
    path = tmp_path / "client.properties"
    lines = [
        "# DESI",
        "",
        " security_protocol = SSL ",
        "ssl_check_hostname=false",
        "sasl_plain_password=a=b=",
    ]
    path.write_text("\n".join(lines))
    assert read_security(path) == {
        "security_protocol": "SSL",
        "ssl_check_hostname": False,
        "sasl_plain_password": "a=b=",
    }


@pytest.mark.parametrize("line", ["sasl_plain_pasword=hunter2", "hunter2", "group_id=hunter2"])
def test_a_line_that_is_no_setting_is_named_but_not_shown(tmp_path: Path, line: str) -> None:
    """The error names file and line, and never repeats what may be a secret."""
    path = tmp_path / "client.properties"
    path.write_text(f"security_protocol=SSL\n{line}\n")
    with pytest.raises(StartupError, match="line 2") as caught:
        read_security(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["yes", "1", "true # as it should be", ""])
def test_the_check_of_the_host_name_is_on_or_off_and_nothing_else(tmp_path: Path, value: str) -> None:
    """What is neither true nor false switches nothing off: it is an error that names the line."""
    path = tmp_path / "client.properties"
    path.write_text(f"security_protocol=SSL\nssl_check_hostname={value}\n")
    with pytest.raises(StartupError, match="line 2: write true or false"):
        read_security(path)


def test_a_file_that_is_no_text_is_an_error_of_the_start(tmp_path: Path) -> None:
    """It is named."""
    path = tmp_path / "keystore.jks"
    path.write_bytes(b"\xfe\xed\xfe\xed")
    with pytest.raises(StartupError, match=r"keystore\.jks"):
        read_security(path)


def test_a_file_that_is_not_there_is_an_error_of_the_start(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(StartupError, match="absent"):
        read_security(tmp_path / "absent.properties")


@pytest.mark.parametrize("client", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_every_setting_is_known_to_kafka_python(client: type) -> None:
    """All clients that we open accept every setting that a file may give."""
    assert set(NAMES) <= set(client.DEFAULT_CONFIG)  # type: ignore[attr-defined]  # kafka-python has no types


def test_a_value_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole value ${NAME} is the variable NAME, which must be set; a $ elsewhere is a character."""
    path = tmp_path / "client.properties"
    path.write_text("sasl_plain_username=${WHO\nsasl_plain_password=${LATENIGHT_TEST_PASSWORD}\n")
    monkeypatch.delenv("LATENIGHT_TEST_PASSWORD", raising=False)
    with pytest.raises(StartupError, match="line 2 takes LATENIGHT_TEST_PASSWORD from the environment"):
        read_security(path)
    monkeypatch.setenv("LATENIGHT_TEST_PASSWORD", "hunter2")
    assert read_security(path) == {"sasl_plain_username": "${WHO", "sasl_plain_password": "hunter2"}
