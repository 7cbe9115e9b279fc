"""Fixtures that many tests share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import latenight_train  # noqa: F401  (sets OMP_WAIT_POLICY before a test imports torch)
from latenight.broker.kafka import KafkaBroker
from latenight.broker.memory import MemoryBroker
from tests.kafka_server import running_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latenight.broker import Broker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def desi_data() -> Path:
    """The folder of real DESI files, from LATENIGHT_TEST_DATA or ../shared/data/desi beside the checkout.

    Absent files are a skip on a laptop. In CI they are a failure where somebody promised them: the variable is set, or
    the shared folder is there.
    """
    default = ROOT / "../shared/data/desi"
    folder = Path(os.environ.get("LATENIGHT_TEST_DATA", default)).resolve()
    if not (folder / "MANIFEST.tsv").is_file():
        message = f"no real DESI files at {folder}: set LATENIGHT_TEST_DATA to a folder that holds them"
        promised = "LATENIGHT_TEST_DATA" in os.environ or (ROOT / "../shared").is_dir()
        if os.environ.get("CI") and promised:
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The checker of Prometheus (Debian package prometheus); required where CI is set."""
    found = shutil.which("promtool")
    if found is None:
        message = "promtool is not installed: it comes with Prometheus (apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real Apache Kafka, started for this session."""
    with running_kafka(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained bundle, made once a session; tests that change a bundle copy it first."""
    from tests.bundles import make_bundle  # torch takes seconds to import

    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the brokers: the one in memory and a real Kafka."""
    if request.param == "memory":
        return MemoryBroker()
    return KafkaBroker(request.getfixturevalue("kafka_server"))
