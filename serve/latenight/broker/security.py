"""The security settings of a Kafka client, from a file: secrets never appear in options, logs or messages.

A value ${NAME} is taken from the environment: a supervisor gives passwords that way, and the file holds none.
"""

from __future__ import annotations

import os
import re
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
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_security(path: Path) -> dict[str, object]:
    """The settings in a properties file: one `name=value` or `name=${VARIABLE}` a line, # for comments.

    Raises:
        StartupError: the file, a line of it or a variable is not usable; the message shows no value.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"cannot read the client configuration {path}: {error}") from error
    settings: dict[str, object] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        if not equals or name not in NAMES:
            raise StartupError(f"{path} line {number} is not `name=value` with one of {', '.join(NAMES)}")
        if variable := VARIABLE.fullmatch(value):
            value = _from_environment(variable[1], f"{path} line {number}")
        settings[name] = _truth(value, f"{path} line {number}") if name == "ssl_check_hostname" else value
    return settings


def _truth(value: str, place: str) -> bool:
    """Nothing but true and false: a `yes` that counts as false would switch a check off in silence."""
    if value.lower() not in {"true", "false"}:
        raise StartupError(f"{place}: write true or false, and no comment behind it")
    return value.lower() == "true"


def _from_environment(variable: str, place: str) -> str:
    if variable not in os.environ:
        raise StartupError(f"{place} takes {variable} from the environment, where it is not set")
    return os.environ[variable]
