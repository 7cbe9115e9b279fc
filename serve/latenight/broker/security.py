"""The security settings of a Kafka client, from a file: secrets never appear in options, logs or messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latenight.errors import StartupError

if TYPE_CHECKING:
    from pathlib import Path

# What kafka-python calls them; its documentation of KafkaConsumer says what they mean.
NAMES = (
    "security_protocol",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_crlfile",
    "ssl_keyfile",
    "ssl_password",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "proxy_url",
)


def read_security(path: Path) -> dict[str, object]:
    """The settings in a properties file: one `name=value` a line, # for comments.

    Raises:
        StartupError: the file or a line of it is not usable; the message shows no value.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise StartupError(f"cannot read the client configuration: {error}") from error
    settings: dict[str, object] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        if not equals or name not in NAMES:
            raise StartupError(f"{path} line {number} is not `name=value` with one of {', '.join(NAMES)}")
        settings[name] = value.lower() == "true" if name == "ssl_check_hostname" else value
    return settings
