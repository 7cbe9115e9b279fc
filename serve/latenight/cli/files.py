"""Commands on files, without Kafka: score, demo."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latenight import log
from latenight.cli.base import budget_option, bundle_option, device_option, main, threads_option
from latenight.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latenight.offline import FileResult


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@bundle_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="scores.parquet",
    help="Where the scores go, one row per spectrum.",
)
@click.option(
    "--alerts",
    type=click.Path(dir_okay=False, path_type=Path),
    default="alerts.jsonl",
    help="Where the alerts go, one JSON packet a line.",
)
@threads_option
@device_option
@budget_option
def score(
    *,
    files: tuple[Path, ...],
    bundle: Path,
    out: Path,
    alerts: Path,
    threads: int | None,
    device: str,
    budget: float,
) -> None:
    """Score files without Kafka: the same scores and alert ids as serve gives.

    FILES are coadds, or directories to search. A file that cannot be scored is named on standard error with
    the reason, and the others are scored; the exit code is 0 only if all were.
    """
    from latenight import offline
    from latenight.desi import find_coadds, read_coadd
    from latenight.scorer import load_scorer

    if out.resolve() == alerts.resolve():
        raise click.UsageError(f"--out and --alerts are the same file: {out}")
    log.configure()
    started = time.monotonic()
    paths = find_coadds(files)
    if not paths:
        raise BadInput(f"no coadd-*.fits under {', '.join(map(str, files))}")
    for output in (out, alerts):
        output.parent.mkdir(parents=True, exist_ok=True)
    scoring = offline.Offline(read_coadd, load_scorer(bundle, device=device, threads=threads), budget)
    results = show_progress(scoring.score_files(paths, out, alerts), len(paths), "scoring")
    sums = offline.summary(results, time.monotonic() - started)
    logging.getLogger(__name__).info("done", extra={"fields": sums})
    if sums["failed"]:
        raise BadInput(f"{sums['failed']} of {len(paths)} files were not scored; the lines above say why")


@main.command()
@bundle_option
@click.option(
    "--night",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="A night of latenight-train simulate --inject, with its truth.csv.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for scores.parquet, alerts.jsonl and plots of the best alerts.",
)
@budget_option
def demo(*, bundle: Path, night: Path, out: Path, budget: float) -> None:
    """Run announce, serve and alerts on a simulated night, in one process without Kafka.

    Says on standard output how many of the injected anomalies were found, at which rate of false alerts, and
    which alerts are the best.
    """
    from latenight import demo as whole_way
    from latenight.scorer import load_scorer

    log.configure()
    truth = whole_way.read_truth(night)
    messages, alerts = whole_way.run(night, load_scorer(bundle), budget)
    whole_way.save(out, messages, alerts, truth)
    evaluation = whole_way.evaluate(messages, alerts, truth)
    click.echo(whole_way.report(evaluation, alerts, truth, budget))
    click.echo(f"see {out}: scores.parquet, alerts.jsonl, plots", err=True)


def show_progress(results: Iterable[FileResult], n: int, label: str) -> list[FileResult]:
    """All results: behind a bar on a terminal, else with a line of the log each; errors always get a line."""
    from latenight.offline import log_result

    if not sys.stderr.isatty():
        return [log_result(result) for result in results]
    with click.progressbar(results, length=n, label=label, file=sys.stderr) as bar:
        done = list(bar)
    return [log_result(result) if result.error else result for result in done]
