"""What the topics hold, and where it goes: topics, archive, deadletters."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latenight.cli.base import kafka_options, main, stop_on_signals

if TYPE_CHECKING:
    from latenight.broker import Broker
    from latenight.broker.topics import Topics

log = logging.getLogger(__name__)


@main.group()
def topics() -> None:
    """Look after the topics on Kafka."""


@topics.command("create")
@kafka_options
@click.option(
    "--partitions",
    type=click.IntRange(1),
    default=8,
    help="Partitions of each topic: so many daemons can share the work.",
)
def create_topics(*, broker: Broker, topics: Topics, partitions: int) -> None:
    """Create the topics that do not exist, with the settings they need."""
    created = broker.create_topics(topics.settings(), partitions)
    click.echo(f"created: {', '.join(created) or 'nothing, all topics exist'}", err=True)


@main.command()
@kafka_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the files, NIGHT/TILEID-PETAL-HASH.parquet.",
)
@click.option("--drain", is_flag=True, help="Store what the topic holds now, then exit with 0.")
@click.option("--group", show_default="PREFIX-archive", help="Remembers in Kafka what is stored.")
def archive(*, broker: Broker, topics: Topics, out: Path, drain: bool, group: str | None) -> None:
    """Store the scores as Parquet files, a folder for each night.

    A table that comes again gives the same file again. Archivers of one group share the work; let them write
    to one folder, and begin another folder with another group.
    """
    from latenight.archive import archive

    stop = stop_on_signals()
    with closing(broker.source([topics.scores], group=group or f"{topics.prefix}-archive")) as source:
        n_stored = archive(source, out, stop=stop, drain=drain)
    click.echo(f"stored: {n_stored} tables", err=True)


@main.group()
def deadletters() -> None:
    """Look at messages that could not be scored, and send them again."""


@deadletters.command("list")
@kafka_options
def list_deadletters(*, broker: Broker, topics: Topics) -> None:
    """Print the dead letters that are kept, one JSON object a line."""
    from latenight.broker import until_now
    from latenight.deadletters import BATCH, describe

    with closing(broker.source([topics.deadletters])) as source:
        for batch in until_now(source, BATCH):
            for letter in batch:
                click.echo(json.dumps(describe(letter)))


@deadletters.command("replay")
@kafka_options
def replay_deadletters(*, broker: Broker, topics: Topics) -> None:
    """Send the originals of all dead letters again, each once: run it when the cause is mended.

    Key, payload and headers are those of the message that was refused. Kafka remembers which letters have
    been sent; what is refused again becomes a new dead letter.
    """
    from latenight.deadletters import replay

    name = f"{topics.prefix}-replay"
    with (
        closing(broker.sink(instance=name)) as sink,
        closing(broker.source([topics.deadletters], group=name)) as source,
    ):
        n_sent = replay(source, sink, topics.spectra, lambda error: log.warning("passed over: %s", error))
    click.echo(f"sent again: {n_sent}", err=True)
