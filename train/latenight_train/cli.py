"""The commands of latenight-train."""

from __future__ import annotations

import click

import latenight
from latenight.cli import Commands


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "LATENIGHT", "show_default": True})
@click.version_option(latenight.__version__)
def main() -> None:
    """Simulate DESI nights, train the model and export the bundle that latenight serves."""
