"""The commands of latenight; every option is also an environment variable LATENIGHT_<COMMAND>_<OPTION>."""

from __future__ import annotations

import sys

import click

import latenight
from latenight.errors import LatenightError


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
