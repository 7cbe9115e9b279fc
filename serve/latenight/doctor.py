"""Is everything there that scoring needs, and what is to be done if not?

A check returns what it found, or raises an error of ours that says what is wrong and what to do.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from latenight import speed
from latenight.bundle import FILES, load_bundle
from latenight.errors import LatenightError, StartupError
from latenight.scorer import TOLERANCE, load_scorer
from latenight.session import require_gpu, runtime
from latenight.threads import cpu_quota, default_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from latenight.broker import Broker
    from latenight.broker.topics import Topics

    Check = Callable[[], str]

LIBRARIES = ("numpy", "fitsio", "pyarrow", "kafka-python", "crc32c", "prometheus-client")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        is_good: whether it is as it should be.
        text: what it is like; where it is not good, what is wrong and what to do.
    """

    name: str
    is_good: bool
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{'ok' if self.is_good else 'WRONG':6}{self.name:10} {' '.join(self.text.split())}"


def examine(checks: dict[str, Check]) -> Iterator[Finding]:
    """The findings of the checks, one after the other; a check that fails keeps back no other."""
    for name, check in checks.items():
        try:
            yield Finding(name, is_good=True, text=check())
        except LatenightError as error:
            yield Finding(name, is_good=False, text=str(error))
        except Exception as error:  # noqa: BLE001  what nobody thought of must not hide what the others find
            yield Finding(name, is_good=False, text=f"{type(error).__name__}: {error}")


def software() -> str:
    """Versions of what latenight stands on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"Python {sys.version.split()[0]}, {runtime()}, {libraries}"


def telemetry() -> str:
    """That onnxruntime does not report usage."""
    if os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise StartupError(
            "onnxruntime reports usage over the network; unset ORT_DISABLE_TELEMETRY or set it to 1"
        )
    return "onnxruntime's is off (ORT_DISABLE_TELEMETRY=1)"


def cpus(threads: int | None) -> str:
    """How many threads scoring uses, and why.

    Raises:
        StartupError: more threads are asked for than CPUs are allowed.
    """
    allowed, quota = default_threads(), cpu_quota()
    why = f"affinity {len(os.sched_getaffinity(0))} CPUs, quota {f'{quota:g}' if quota < float('inf') else 'none'}"
    if threads is not None and threads > allowed:
        raise StartupError(f"{threads} threads are asked for, {allowed} may run ({why}): leave --threads out")
    return f"{threads or allowed} threads ({why})"


def bundle_of(path: Path, device: str, threads: int | None) -> str:
    """That the bundle is whole and scores its golden spectra as expected."""
    scorer = load_scorer(path, device=device, threads=threads)
    return f"{scorer.bundle_id[:12]}, golden spectra agree to {TOLERANCE[scorer.provider]:.0e} on {scorer.provider}"


def speed_of(path: Path, device: str, threads: int | None) -> str:
    """Spectra per second of the network by bucket and of the whole scorer."""
    provider = load_scorer(path, device=device, threads=threads).provider
    speeds = speed.measure(load_bundle(path), provider=provider, threads=threads or default_threads())
    buckets = ", ".join(f"{rate:.0f} by {rows}" for rows, rate in speeds.buckets.items())
    text = f"spectra/s: whole scorer {speeds.petal:.0f} on a petal of {speed.PETAL}; network {buckets} rows"
    if device != "cuda":
        return text
    bound = f"{speeds.moved / 1e3:.0f} kB a spectrum over the bus allow {speeds.bus_bound:.0f} at 55 GB/s"
    return f"{text}; {bound}, the scorer reaches {100 * speeds.petal / speeds.bus_bound:.1f} %"


def gpu_of(path: Path) -> str:
    """That no node of any graph runs on the CPU."""
    for name in FILES:
        require_gpu(path / name)
    return f"the CUDA provider runs every node of {', '.join(FILES)}"


def kafka_of(broker: Broker, topics: Topics) -> str:
    """That the broker answers and the topics have the settings that they need."""
    try:
        found = broker.describe(list(topics.settings()))
    except StartupError as error:
        raise StartupError(f"{error}; start it, or say where it is with --bootstrap-servers") from error
    if missing := sorted(topics.settings().keys() - found.keys()):
        raise StartupError(f"no such topics: {', '.join(missing)}; run: latenight topics create")
    for name, wanted in topics.settings().items():
        size, needed = (settings["max.message.bytes"] for settings in (found[name].settings, wanted))
        if int(size) < int(needed):
            raise StartupError(
                f"{name} takes messages of {size} bytes, it needs {needed}: set max.message.bytes with "
                "kafka-configs.sh --alter, as `latenight topics create` does for new topics"
            )
    n, days = found[topics.spectra].partitions, broker.memory_days()
    return (
        f"{len(found)} topics take messages as large as needed; up to {n} daemons share {topics.spectra}; a group that "
        f"was away finds its place again for {days:.0f} days (offsets.retention.minutes)"
    )


def roots_of(roots: Sequence[Path]) -> str:
    """That the directories that messages may point into can be read."""
    for root in roots:
        try:
            with os.scandir(root) as entries:
                is_empty = not any(entries)
        except OSError as error:
            raise StartupError(f"{root}: {error.strerror}; mount it, or let this user read it") from error
        if is_empty:
            raise StartupError(f"{root} is empty: is its file system mounted?")
    return (
        f"{', '.join(map(str, roots))} can be read"
        if roots
        else "any path that a message names (no --root given)"
    )
