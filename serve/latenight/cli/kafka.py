"""The way of the data through Kafka: serve, announce, alerts."""

from __future__ import annotations

import itertools
import math
import socket
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from latenight.cli.base import (
    budget_option,
    bundle_option,
    device_option,
    kafka_options,
    main,
    root_option,
    stop_on_signals,
    threads_option,
)
from latenight.errors import BadInput, StartupError

if TYPE_CHECKING:
    from latenight.announce import Payload
    from latenight.broker import Broker
    from latenight.broker.topics import Topics


@main.command()
@kafka_options
@bundle_option
@click.option(
    "--group",
    show_default="the topic prefix",
    help="Daemons of one group share the spectra.",
)
@click.option(
    "--instance",
    default=socket.gethostname,
    show_default="the host name",
    help="Name of this daemon in its group, the same after a restart; two at once fence each other.",
)
@click.option("--drain", is_flag=True, help="Score what the topic holds now, then exit with 0.")
@root_option("serve", "  [default: any]")
@click.option(
    "--shadow",
    type=click.Path(path_type=Path),
    help="A second bundle that scores the same spectra afterwards; its scores go to the topic .shadow.",
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
    group: str | None,
    instance: str,
    drain: bool,
    roots: tuple[Path, ...],
    shadow: Path | None,
    metrics_address: str | None,
    device: str,
    threads: int | None,
    budget: float,
    max_dead_ratio: float,
) -> None:
    """Score spectra from Kafka as they come, and publish scores and alerts.

    Where BUNDLE is a link and is set to another bundle, that one is proven in the background and taken over.
    """
    from latenight.daemon import Daemon
    from latenight.health import Health, serve_http
    from latenight.inbox import read_message
    from latenight.metrics import Metrics
    from latenight.outcome import Desk
    from latenight.scorer import load_scorer
    from latenight.session import device_of, fell_back
    from latenight.shadow import load_shadow
    from latenight.swap import execute_again, proving
    from latenight.watchdog import watched

    # A backlog's daemon on the host of the night's must not take its place in the group.
    group = group or topics.prefix
    stop, metrics, health = stop_on_signals(), Metrics(), Health()
    with ExitStack() as stack:
        if metrics_address is not None:
            stack.enter_context(serve_http(metrics_address, metrics, health))
        served = bundle.resolve()  # once: what follows is of one bundle, whatever becomes of the link
        scorer = load_scorer(served, device=device, threads=threads)
        health.is_loaded = True
        metrics.provider_fallback.set(fell_back(device, scorer.provider))
        if missing := broker.missing(list(topics.settings())):
            raise StartupError(f"no such topics: {', '.join(missing)}; run: latenight topics create")
        stack.enter_context(watched(health, stop))
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
        used = device_of(scorer.provider)
        second = shadow and load_shadow(shadow, device=used, threads=threads, desk=desk, sink=sink, stop=stop)
        refused = metrics.bundles_refused_total.inc
        is_proven = stack.enter_context(
            proving(bundle, served, bundle_id=scorer.bundle_id, device=used, refused=refused)
        )
        daemon = Daemon(source, sink, desk, health=health, stop=stop, max_dead_ratio=max_dead_ratio)
        daemon.run(drain=drain, until=is_proven, follow=second.follow if second else None)
    if is_proven():
        execute_again(stop)


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
@click.option("--resume", is_flag=True, help="Leave out what the topic holds a pointer to.")
def announce(
    *,
    broker: Broker,
    topics: Topics,
    paths: tuple[Path, ...],
    payload: Payload,
    watch: bool,
    files_from: TextIO | None,
    rate: float | None,
    resume: bool,
) -> None:
    """Tell the daemons about coadds: one message each, in the order given. PATHS are files, or directories to search.

    With --watch a coadd is announced when its redrock file is there, or after half an hour without one. With --resume
    an announcement or a watch that was interrupted goes on: what the topic names in the same version is left out. The
    topic remembers two weeks; a watch that goes on leaves out what was written before them, too.
    """
    from latenight import announce as announcer
    from latenight.broker.topics import SPECTRA_DAYS
    from latenight.desi import find_coadds
    from latenight.progress import Progress

    if resume and payload == "inline":
        raise click.UsageError("--resume is for pointers: inline messages do not say which version they hold")
    wanted = [*paths, *announcer.read_list(files_from or ())]
    if not wanted:
        raise click.UsageError("give PATHS, or a list of them with --files-from")
    if missing := broker.missing([topics.spectra]):
        raise StartupError(f"no such topic: {missing[0]}; run: latenight topics create")
    told = set()
    if resume:
        with closing(broker.source([topics.spectra])) as source:
            told = announcer.announced(source)
    stop = stop_on_signals()
    since = time.time() - SPECTRA_DAYS * 86_400 if resume else -math.inf
    watched = announcer.Watch(wanted, told, since)
    if watch:
        coadds = announcer.watch(watched, time.monotonic, stop.wait)
    elif found := find_coadds(wanted):
        left = announcer.not_yet(found, told)
        coadds = announcer.with_progress(left, len(left), Progress(time.monotonic))
    else:
        raise BadInput(f"no coadd-*.fits under {', '.join(map(str, wanted))}")
    if rate is not None:
        coadds = announcer.paced(coadds, rate, time.monotonic, stop.wait)
    with closing(broker.sink()) as sink:
        coadds = itertools.takewhile(lambda _: not stop.is_set(), coadds)
        again = (lambda path: watched.again(path, time.monotonic())) if watch else (lambda _: None)
        n_refused = announcer.announce(coadds, payload, topics.spectra, sink, again)
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


def _night(_: click.Context, __: click.Parameter, night: int | None) -> int | None:
    try:
        datetime.strptime(str(20200101 if night is None else night), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise click.BadParameter(f"{night} is no date; write 20261120") from error
    return night


@main.command()
@kafka_options
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest alert that is kept.")
@click.option(
    "--since", metavar="T", callback=_time, help="Nothing published before this time (ISO 8601, UTC)."
)
@click.option(
    "--night",
    type=int,
    metavar="YYYYMMDD",
    callback=_night,
    help="Alerts of this night only, from the oldest that is kept.",
)
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
@click.option(
    "--to",
    default="jsonl",
    metavar="jsonl|dir:DIR|exec:CMD|webhook:URL",
    help="Lines on standard output, a file each, a command with the packet on its standard input, or a POST.",
)
def alerts(*, broker: Broker, topics: Topics, to: str, where: str, **options: Any) -> None:
    """Print alerts as they come, one JSON packet a line, or hand them on.

    A command that fails or takes a minute, and a web address that does not answer with 2xx in 10 s, are tried
    five times; then the exit code is 1, and with --group the next run delivers the alert again. SIGTERM ends it after
    the alert in hand.
    """
    from latenight.client import subscribe
    from latenight.deliver import parse_destination

    stop = stop_on_signals().is_set
    try:
        deliver = parse_destination(to)
        for alert in subscribe(broker, prefix=topics.prefix, where=where, stop=stop, **options):
            deliver(alert)
    except ValueError as error:  # of --to or --where
        raise click.UsageError(str(error)) from error
