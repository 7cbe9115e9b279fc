"""The short form of `make chaos`: what a night of faults leaves for a read_committed reader."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.chaos import faults
from tests.chaos.run import fault_of, report, run_round
from tests.chaos.world import STOP_S, World, running_world
from tests.kafka_server import require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.faults import Fault


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[World]:
    require_tools()
    with running_world(tmp_path_factory.mktemp("chaos"), bundle) as world:
        yield world


SHORT = (
    faults.kill,
    faults.drop,
    faults.files_away,
    faults.join,
    faults.twin,
    faults.broker_killed,
    faults.swap,
)


@pytest.mark.kafka
@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.__name__)
def test_every_spectrum_is_scored_once_whatever_happens(world: World, fault: Fault) -> None:
    """After the fault nothing hangs, every spectrum is scored once, every alert is there once, SIGTERM gives exit 0."""
    seed = secrets.randbelow(10**6) * len(faults.FAULTS) + faults.FAULTS.index(fault)
    print(f"make chaos ROUNDS=1 SEED={seed}")
    figures = run_round(world, fault_of(seed), seed)
    assert figures.fault == fault.__name__
    assert figures.stop_s < STOP_S
    assert report([figures]).startswith("1 rounds, 0 spectra lost")
