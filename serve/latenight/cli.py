"""The commands of latenight; every option is also an environment variable LATENIGHT_<COMMAND>_<OPTION>."""

from __future__ import annotations

import functools
import itertools
import logging
import signal
import socket
import sys
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TextIO

import click

import latenight
from latenight import log
from latenight.broker.topics import Topics
from latenight.errors import BadInput, LatenightError, StartupError
from latenight.policy import DEFAULT_BUDGET

# Commands import what they run when they run: the client's installation lacks the scorer's libraries, and
# help shall not wait for them.

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from latenight.announce import Payload
    from latenight.broker import Broker
    from latenight.offline import FileResult


class Commands(click.Group):
    """A command group that prints our own errors as one line and exits with their code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LatenightError as error:
            click.echo(f"latenight: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "LATENIGHT", "show_default": True})
@click.version_option(latenight.__version__)
def main() -> None:
    r"""Find anomalous DESI spectra the night they are taken.

    \b
    Exit codes: 0 done or drained, 1 bug, 2 usage, 3 start-up, 4 too many dead letters.
    """


def kafka_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all commands on Kafka share; gives them `broker` and `topics`."""

    @click.option(
        "--bootstrap-servers",
        metavar="HOST:PORT[,..]",
        default="127.0.0.1:9092",
        envvar="LATENIGHT_BOOTSTRAP_SERVERS",
        help="Where Kafka is.",
    )
    @click.option(
        "--topic-prefix",
        default=Topics.prefix,
        envvar="LATENIGHT_TOPIC_PREFIX",
        help="What the names of all topics start with.",
    )
    @click.option(
        "--client-config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="LATENIGHT_CLIENT_CONFIG",
        help="File of security settings, one name=value a line: security_protocol, ssl_*, sasl_*.",
    )
    @functools.wraps(command)
    def with_broker(
        bootstrap_servers: str, topic_prefix: str, client_config: Path | None, **options: Any
    ) -> None:
        from latenight.client import connect

        log.configure()
        command(broker=connect(bootstrap_servers, client_config), topics=Topics(topic_prefix), **options)

    return with_broker


def stop_on_signals() -> Event:
    """An event that SIGTERM or SIGINT sets; the second signal ends the process at once."""
    stop = Event()

    def handle(*_: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)
    return stop


# Options of every command that scores.
bundle_option = click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The trained model, from latenight-train fit.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the model runs."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads.  [default: what the process may use]"
)
budget_option = click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_BUDGET,
    help="Expected false alerts per 100 000 eligible spectra.",
)


@main.command()
@kafka_options
@bundle_option
@click.option("--group", default="latenight", help="Daemons of one group share the spectra.")
@click.option(
    "--instance",
    default=socket.gethostname,
    show_default="the host name",
    help="Name of this daemon in its group, the same after a restart; two at once fence each other.",
)
@click.option("--drain", is_flag=True, help="Score what the topic holds now, then exit with 0.")
@click.option(
    "--root",
    "roots",
    envvar="LATENIGHT_SERVE_ROOT",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Directory that messages may point into; may be given several times.  [default: any]",
)
@click.option(
    "--metrics",
    "metrics_address",
    metavar="HOST:PORT",
    envvar="LATENIGHT_SERVE_METRICS",
    help="Answer /metrics /healthz /readyz here; PORT alone is for this host only.",
)
@device_option
@threads_option
@budget_option
@click.option(
    "--max-dead-ratio",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="Exit with 4 if more than this part of the last messages (20 to 100) is rejected.",
)
def serve(
    *,
    broker: Broker,
    topics: Topics,
    bundle: Path,
    group: str,
    instance: str,
    drain: bool,
    roots: tuple[Path, ...],
    metrics_address: str | None,
    device: str,
    threads: int | None,
    budget: float,
    max_dead_ratio: float,
) -> None:
    """Score spectra from Kafka as they come, and publish scores and alerts."""
    from latenight.daemon import Daemon
    from latenight.health import Health, serve_http
    from latenight.inbox import read_message
    from latenight.metrics import Metrics
    from latenight.outcome import Desk
    from latenight.scorer import load_scorer
    from latenight.session import fell_back

    stop, metrics, health = stop_on_signals(), Metrics(), Health()
    with ExitStack() as stack:
        if metrics_address is not None:
            stack.enter_context(serve_http(metrics_address, metrics, health))
        scorer = load_scorer(bundle, device=device, threads=threads)
        health.is_loaded = True
        metrics.provider_fallback.set(fell_back(device, scorer.provider))
        if missing := broker.missing(list(topics.settings())):
            raise StartupError(f"no such topics: {', '.join(missing)}; run: latenight topics create")
        # The sink first: it ends what a predecessor left open, so that the committed place is known.
        sink = broker.sink(instance=f"{topics.prefix}-{group}-{instance}")
        stack.enter_context(closing(sink))
        source = broker.source([topics.spectra], group=group, instance=instance)
        stack.enter_context(closing(source))
        desk = Desk(
            topics,
            lambda message: read_message(message.value, message.headers, roots),
            scorer,
            budget,
            metrics,
        )
        Daemon(source, sink, desk, health=health, stop=stop, max_dead_ratio=max_dead_ratio).run(drain=drain)


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


@main.command()
@kafka_options
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--payload",
    type=click.Choice(["pointer", "inline"]),
    default="pointer",
    help="Say where a file lies, or send the spectra themselves (33 MB a petal).",
)
@click.option("--watch", is_flag=True, help="Go on with coadds that appear later.")
@click.option("--files-from", type=click.File(), help="List of further paths, one a line; - reads it here.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many messages per second.")
def announce(
    *,
    broker: Broker,
    topics: Topics,
    paths: tuple[Path, ...],
    payload: Payload,
    watch: bool,
    files_from: TextIO | None,
    rate: float | None,
) -> None:
    """Tell the daemons about coadds: one message each. PATHS are files, or directories to search.

    With --watch a coadd is announced when its redrock file is there, or after half an hour without one.
    """
    from latenight import announce as announcer
    from latenight.desi import find_coadds

    wanted = [*paths, *announcer.read_list(files_from or ())]
    if not wanted:
        raise click.UsageError("give PATHS, or a list of them with --files-from")
    if missing := broker.missing([topics.spectra]):
        raise StartupError(f"no such topic: {missing[0]}; run: latenight topics create")
    found = find_coadds(wanted)
    if not found and not watch:
        raise BadInput(f"no coadd-*.fits under {', '.join(map(str, wanted))}")
    stop = stop_on_signals()
    coadds = announcer.watch(wanted, time.monotonic, stop.wait) if watch else iter(found)
    if rate is not None:
        coadds = announcer.paced(coadds, rate, time.monotonic, stop.wait)
    with closing(broker.sink()) as sink:
        coadds = itertools.takewhile(lambda _: not stop.is_set(), coadds)
        n_refused = announcer.announce(coadds, payload, topics.spectra, sink)
    if n_refused:
        raise BadInput(f"{n_refused} files were not announced; the log says why")


def _time(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write 2026-11-20 or 2026-11-20T18:00:00Z") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@main.command()
@kafka_options
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest alert that is kept.")
@click.option(
    "--since", metavar="T", callback=_time, help="Nothing published before this time (ISO 8601, UTC)."
)
@click.option("--night", type=int, metavar="YYYYMMDD", help="Alerts of this night only.")
@click.option("--until-end", is_flag=True, help="Print what is there, from the beginning, and exit.")
@click.option(
    "--max",
    "limit",
    type=click.IntRange(1),
    envvar="LATENIGHT_ALERTS_MAX",
    help="Exit after so many alerts.",
)
@click.option("--group", help="Remember in Kafka how far this group has come, and go on there next time.")
@click.option(
    "--where", default="True", help="Condition on fields of the packet, e.g. scores.p_value < 1e-5."
)
@click.option("--to", default="jsonl", metavar="jsonl|dir:DIR", help="Lines on standard output, or files.")
def alerts(*, broker: Broker, topics: Topics, to: str, where: str, **options: Any) -> None:
    """Print alerts as they come, one JSON packet a line."""
    from latenight.client import subscribe
    from latenight.deliver import parse_destination

    try:
        deliver = parse_destination(to)
        for alert in subscribe(broker, prefix=topics.prefix, where=where, **options):
            deliver(alert)
    except ValueError as error:  # of --to or --where
        raise click.UsageError(str(error)) from error


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
