"""Rounds of chaos with random seeds on a real Kafka, and how long the daemon took to recover.

python -m tests.chaos.run [ROUNDS [SEED]]

The n-th round has the seed SEED + n, so ROUNDS = 1 and the seed of a round repeat its fault and all its moments.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.bundles import make_bundle
from tests.chaos.faults import FAULTS
from tests.chaos.world import Round, World, running_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.faults import Fault

ROUNDS = 50


@dataclass(frozen=True)
class Figures:
    """What a round showed.

    Attributes:
        fault: its kind.
        recovery_s: from the end of the fault to the next commit.
        stop_s: the longest time that a daemon took to leave after SIGTERM.
        seconds: of the whole round.
    """

    fault: str
    recovery_s: float
    stop_s: float
    seconds: float


def run_round(world: World, fault: Fault, seed: int) -> Figures:
    """One round; an assertion fails if a spectrum is lost or scored twice or anything hangs."""
    started = time.monotonic()
    round_ = Round(world, f"chaos{seed}-{secrets.token_hex(3)}")
    try:
        fault(round_, Random(seed))  # noqa: S311  (moments, not secrets)
        round_.settle()
        stop_s = round_.stop()
    finally:
        round_.kill_all()
    round_.check()
    return Figures(fault.__name__, round_.recovery_s(), stop_s, time.monotonic() - started)


def fault_of(seed: int) -> Fault:
    """Seeds in a row give every kind in turn, so that one seed is enough to repeat a round."""
    return FAULTS[seed % len(FAULTS)]


def report(figures: Sequence[Figures]) -> str:
    """The figures as text."""
    kinds = Counter(each.fault for each in figures)
    lines = [f"{len(figures)} rounds, 0 spectra lost, 0 scored twice, nothing hung"]
    for kind, n in sorted(kinds.items()):
        times = [each.recovery_s for each in figures if each.fault == kind]
        lines.append(
            f"  {kind:14s} {n:3d}  recovery median {statistics.median(times):5.1f} s, max {max(times):5.1f} s"
        )
    times = [each.recovery_s for each in figures]
    lines.append(f"recovery median {statistics.median(times):.1f} s, max {max(times):.1f} s")
    lines.append(f"SIGTERM to exit 0: max {max(each.stop_s for each in figures):.1f} s")
    return "\n".join(lines)


def main(rounds: int = ROUNDS, seed: int = 0) -> None:
    seed = seed or secrets.randbelow(1_000_000_000) + 1
    figures = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_world(Path(folder), make_bundle(Path(folder) / "bundle")) as world,
    ):
        for each in range(seed, seed + rounds):
            print(f"seed {each} {fault_of(each).__name__:14s}", end=" ", flush=True)
            figures.append(run_round(world, fault_of(each), each))
            last = figures[-1]
            print(f"recovery {last.recovery_s:5.1f} s, round {last.seconds:5.1f} s", flush=True)
    print(report(figures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
