"""The commands of latenight-train."""

from __future__ import annotations

from pathlib import Path

import click

import latenight
from latenight.cli import Commands


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "LATENIGHT", "show_default": True})
@click.version_option(latenight.__version__)
def main() -> None:
    """Simulate DESI nights, train the model and export the bundle that latenight serves."""


@main.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory of the bundle.")
@click.option("--latent", default=78, type=click.IntRange(2), help="Size of the latent space.")
@click.option("--hidden", default=512, type=click.IntRange(8), help="Width of the widest hidden layer.")
@click.option("--epochs", default=30, type=click.IntRange(1), help="Passes over the training spectra.")
@click.option("--max-minutes", type=float, help="End training after this time; the schedule follows it.")
@click.option("--seed", default=1, help="Of the split, the initial weights, the order and the draws.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a killed run.")
def fit(
    data: tuple[Path, ...],
    out: Path,
    latent: int,
    hidden: int,
    epochs: int,
    max_minutes: float | None,
    seed: int,
    device: str,
    resume: bool,
) -> None:
    """Train on the coadds in DATA (files or directories) and write a bundle.

    A quarter of the petals is held out to calibrate the p-values. The redrock file lies beside each coadd.
    """
    from latenight_train import trainer  # noqa: PLC0415  torch takes seconds to import; --help should not

    plan = trainer.Plan(trainer.Architecture(latent, hidden), epochs, max_minutes, seed)
    bundle_id = trainer.fit(data, out, plan, device=device, resume=resume)
    click.echo(f"bundle {out} {bundle_id}", err=True)
