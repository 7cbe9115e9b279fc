"""Scoring files without Kafka: reader -> scorer -> policy -> scores.parquet and alerts.jsonl."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from latenight.ahead import ahead
from latenight.alert import encode_alert
from latenight.errors import BadInput, Unavailable
from latenight.outcome import SpectraScorer, judge
from latenight.wire import ParquetScores, open_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from latenight.spectra import Spectra

log = logging.getLogger(__name__)

# Files that are read while one is scored: 256 MB of spectra. A petal costs 30 ms of CPU and what the disk takes.
READ_AHEAD = 8


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Attributes:
        file: its path.
        spectra: how many it holds.
        eligible: how many took part in the ranking.
        alerts: how many alert one by one.
        groups: faults of a petal, one alert each.
        grouped: how many alert as members of a group.
        suppressed: how many the flood guard held back.
        seconds: how long it took, but for reading while the file before was scored.
        error: why it could not be scored, "" if it was.
    """

    file: str
    spectra: int = 0
    eligible: int = 0
    alerts: int = 0
    groups: int = 0
    grouped: int = 0
    suppressed: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Offline:
    """What it takes to score a file; the same parts as the daemon's.

    Attributes:
        read: path -> its spectra.
        scorer: spectra -> scores.
        budget: expected false alerts per 100 000 eligible spectra.
        now: the clock that dates the alerts, seconds since 1970 UTC.
    """

    read: Callable[[Path], Spectra]
    scorer: SpectraScorer
    budget: float
    now: Callable[[], float] = time.time

    def score_files(self, paths: Iterable[Path], out: Path, alerts: Path) -> Iterator[FileResult]:
        """Score the files one after the other; one that cannot be read keeps back no other.

        Args:
            paths: coadd files.
            out: the Parquet file of scores, one row per spectrum in the order of the files; it appears
                when the last result has been taken.
            alerts: one JSON packet a line, oddest first within a file; grows with every file.

        Yields:
            The result of each file, when its scores and alerts are written.
        """
        with open_parquet(out) as table, alerts.open("wb") as lines:
            for path, spectra in ahead(self.read, paths, READ_AHEAD):
                yield self._score_file(path, spectra.result, table, lines)

    def _score_file(
        self, path: Path, spectra_of: Callable[[], Spectra], table: ParquetScores, lines: BinaryIO
    ) -> FileResult:
        started = time.monotonic()
        try:
            spectra = spectra_of()
            created = datetime.fromtimestamp(self.now(), UTC)
            judged = judge(spectra, self.scorer, budget=self.budget, created=created)
            packets = [encode_alert(packet) + b"\n" for packet in judged.packets]
        except (BadInput, Unavailable) as error:
            return FileResult(str(path), error=str(error))
        table.write(spectra, judged.scores)
        lines.writelines(packets)
        lines.flush()
        return FileResult(
            file=str(path),
            spectra=len(spectra),
            eligible=judged.decision.n_eligible,
            alerts=len(judged.decision.rows),
            groups=len(judged.decision.groups),
            grouped=judged.decision.n_grouped,
            suppressed=judged.decision.n_suppressed,
            seconds=round(time.monotonic() - started, 3),
        )


def log_result(result: FileResult) -> FileResult:
    """Write the result as one line of the log, and give it back."""
    if result.error:
        log.error("not scored", extra={"fields": {"file": result.file, "reason": result.error}})
    else:
        fields = asdict(result)
        fields.pop("error")
        log.info("scored", extra={"fields": fields})
    return result


def summary(results: list[FileResult], seconds: float) -> dict[str, int | float]:
    """The sums over the files, for the last line of the log."""
    sums = {
        name: sum(getattr(result, name) for result in results)
        for name in ("spectra", "eligible", "alerts", "groups", "grouped", "suppressed")
    }
    n_failed = sum(bool(result.error) for result in results)
    return {"files": len(results), "failed": n_failed, **sums, "seconds": round(seconds, 3)}
