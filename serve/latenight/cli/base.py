"""What the commands share: the group, the error lines, the options that several of them have."""

from __future__ import annotations

import functools
import signal
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

import latenight
from latenight import log
from latenight.broker.topics import Topics
from latenight.errors import LatenightError, StartupError
from latenight.policy import DEFAULT_BUDGET

# Commands import what they run when they run: the client's installation lacks the scorer's libraries, and
# help shall not wait for them.

if TYPE_CHECKING:
    from collections.abc import Callable


# Which extra brings what the base installation lacks.
EXTRAS = {
    **dict.fromkeys(("onnxruntime", "fitsio", "flatbuffers", "pyarrow", "prometheus_client"), "cpu"),
    **dict.fromkeys(("torch", "onnx", "onnxscript", "tqdm"), "train"),
    "matplotlib": "report",
}


class Commands(click.Group):
    """A command group that prints our own errors as one line and exits with their code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a library that is not installed is a StartupError that names its extra."""
        try:
            return _invoke_installed(super().invoke, ctx)
        except LatenightError as error:
            click.echo(f"latenight: {error}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # whoever read our output has left; click ends quietly
            raise
        except OSError as error:  # a disk that is full, a folder that may not be written
            click.echo(f"latenight: {error}", err=True)
            sys.exit(1)


def _invoke_installed(invoke: Callable[[click.Context], object], ctx: click.Context) -> object:
    try:
        return invoke(ctx)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        extra = EXTRAS[library]
        either = "latenight[cpu] or latenight[gpu]" if extra == "cpu" else f"latenight[{extra}]"
        raise StartupError(f"{library} is not installed; it comes with {either}") from error


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


def root_option(command: str, otherwise: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The directories that a command confines pointers to; otherwise tells in its help what none means."""
    return click.option(
        "--root",
        "roots",
        envvar=f"LATENIGHT_{command.upper()}_ROOT",
        type=click.Path(path_type=Path),
        multiple=True,
        help=f"Directory that messages may point into; may be given several times.{otherwise}",
    )
