"""Looking before a night whether all is well: doctor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latenight.cli.base import kafka_options, main, root_option, threads_option
from latenight.errors import StartupError

if TYPE_CHECKING:
    from latenight.broker import Broker
    from latenight.broker.topics import Topics
    from latenight.doctor import Check


@main.command()
@kafka_options
@click.option("--gpu", is_flag=True, help="Insist on the GPU, and measure it.")
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Load this model, prove it on its golden spectra and time it.",
)
@root_option("doctor")
@threads_option
def doctor(
    *,
    broker: Broker,
    topics: Topics,
    gpu: bool,
    bundle: Path | None,
    roots: tuple[Path, ...],
    threads: int | None,
) -> None:
    """Check what scoring needs: versions, CPUs, bundle and its speed, GPU, Kafka and its topics, directories.

    Give the options that `latenight serve` gets. One line a check on standard output; a line that begins with WRONG
    says what to do. The exit code is 0 only if there is none, else 3.
    """
    from latenight import doctor as examiner

    if gpu and bundle is None:
        raise click.UsageError("--gpu needs --bundle: its graphs are what must run there")
    device = "cuda" if gpu else "auto"
    checks: dict[str, Check] = {
        "software": examiner.software,
        "telemetry": examiner.telemetry,
        "cpus": partial(examiner.cpus, threads),
        "roots": partial(examiner.roots_of, roots),
        "kafka": partial(examiner.kafka_of, broker, topics),
    }
    if gpu and bundle:
        checks["gpu"] = partial(examiner.gpu_of, bundle)
    if bundle:
        checks["bundle"] = partial(examiner.bundle_of, bundle, device, threads)
        checks["speed"] = partial(examiner.speed_of, bundle, device, threads)
    n_wrong = 0
    for finding in examiner.examine(checks):
        click.echo(str(finding))
        n_wrong += not finding.is_good
    if n_wrong:
        raise StartupError(f"{n_wrong} of {len(checks)} checks are wrong; their lines say what to do")
