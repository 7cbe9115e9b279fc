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
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    help="End training of the network after this time; modes and calibration follow, 16 s per 1000 spectra.",
)
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


@main.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for evaluation.json, evaluation.md, plots and trials.npy.",
)
@click.option("--seed", default=1, type=click.IntRange(0), help="Of the injections and the bootstrap.")
def evaluate(bundle: Path, data: tuple[Path, ...], out: Path, seed: int) -> None:
    """Inject anomalies of 22 kinds into DATA and measure what BUNDLE finds.

    DATA are coadds that training did not see, files or directories. Only good spectra (eligible, ZWARN == 0) receive
    anomalies or count as ordinary. The tables go to standard output, as markdown.
    """
    from latenight_train import evaluate as harness  # noqa: PLC0415  --help should not wait for it

    click.echo(harness.evaluate(bundle, data, out, seed))


@main.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for comparison.json and comparison.md.",
)
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Ours, to be put beside the peers.",
)
@click.option(
    "--night",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Coadds to test on, files or directories; without: a quarter of the petals of DATA.",
)
@click.option("--seed", default=1, type=click.IntRange(0), help="Of the split, the training, the injections.")
def compare(
    data: tuple[Path, ...], out: Path, bundle: Path | None, night: tuple[Path, ...], seed: int
) -> None:
    """Train other people's detectors on DATA and measure them, and BUNDLE, on the same anomalies.

    The injections are those of evaluate. The table goes to standard output, as markdown. Needs latenight[compare].
    """
    from latenight_train import compare as comparison  # noqa: PLC0415  --help should not wait for it

    click.echo(comparison.compare(data, out, bundle=bundle, night=night, seed=seed))


@main.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--night", default=20260101, type=click.IntRange(19700101, 99991231), help="YYYYMMDD.")
@click.option("--tiles", default=2, type=click.IntRange(1, 100), help="Tiles, dark and bright time in turn.")
@click.option("--petals", default=10, type=click.IntRange(1, 10), help="Petals per tile.")
@click.option("--spectra", default=500, type=click.IntRange(1, 500), help="Fibres per petal.")
@click.option("--seed", default=1, type=click.IntRange(0), help="Same seed, same files.")
@click.option(
    "--inject", default=0.0, type=click.FloatRange(0.0, 1.0), help="Share of spectra with an anomaly."
)
@click.option("--processes", default=2, type=click.IntRange(1), help="Petals simulated at the same time.")
@click.option(
    "--templates",
    envvar="RR_TEMPLATE_DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of redrock templates to draw from instead of formulas.  [env: RR_TEMPLATE_DIR]",
)
def simulate(
    out: Path,
    night: int,
    tiles: int,
    petals: int,
    spectra: int,
    seed: int,
    inject: float,
    processes: int,
    templates: Path | None,
) -> None:
    """Write a simulated night into OUT: coadd and redrock files as DESI lays them out, and truth.csv.

    Spectra are made from formulas, or from redrock templates where RR_TEMPLATE_DIR names their folder.
    """
    from latenight_train import simulate as simulator  # noqa: PLC0415  --help should not wait for it

    plan = simulator.Night(out, night, tiles, petals, spectra, seed, inject, templates)
    paths = simulator.simulate(plan, processes)
    click.echo(f"{len(paths)} coadds under {out}", err=True)
