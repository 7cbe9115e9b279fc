"""Anomalies that can be put into any DESI spectrum, real or simulated, at a chosen matched-filter S/N.

The matched-filter S/N of a change d of the flux is sqrt(sum(d^2 ivar)): what an ideal search that knows the
shape would see. Changes of ivar alone are measured by the significance of the chi2 that they add, and a
wrong redshift by the strength of the features that it misplaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, N_PIX
from latenight_train import artefacts, oddities
from latenight_train.artefacts import Change, Spectrum, signal_to_noise
from latenight_train.observe import photon_variance, sky_variance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Make = Callable[[np.random.Generator, Spectrum, float], Change]


STEPS = 20  # each halves what the S/N of light in its own noise is off by, or better


@dataclass(frozen=True)
class Kind:
    """An entry of the table of anomalies.

    Attributes:
        make: builds the change for a spectrum and a wanted S/N; a change with a physical limit may reach
            less.
        spectypes: classes that can show it.
        min_snr: median S/N per pixel of the r arm that it needs to be visible at all.
        z: range of redshifts in which it falls on the spectrograph.
        adds_light: the change is light from the sky, which brings photon noise with it.
    """

    make: Make
    spectypes: tuple[str, ...] = ("GALAXY", "QSO", "STAR")
    min_snr: float = 0.0
    z: tuple[float, float] = (-1.0, 10.0)
    adds_light: bool = False


KINDS: dict[str, Kind] = {
    "cosmic": Kind(artefacts.cosmic),
    "sky_residual": Kind(artefacts.sky_residual),
    "step_br": Kind(artefacts.step_br, min_snr=0.8),
    "step_rz": Kind(artefacts.step_rz, min_snr=0.8),
    "amplifier_offset": Kind(artefacts.amplifier_offset),
    "negative_blue": Kind(artefacts.negative_blue),
    "fringing": Kind(artefacts.fringing),
    "throughput_bump": Kind(artefacts.throughput_bump, min_snr=1.2),
    "arm_shift": Kind(artefacts.arm_shift, min_snr=4.0),
    "dead_block": Kind(artefacts.dead_block, min_snr=0.5),
    "bad_column": Kind(artefacts.bad_column),
    "low_variance": Kind(artefacts.low_variance),
    "crosstalk": Kind(artefacts.crosstalk),
    "broad_agn": Kind(oddities.broad_agn, ("GALAXY",), z=(0.0, 0.95), adds_light=True),
    "bal": Kind(oddities.broad_absorption, ("QSO",), min_snr=0.8, z=(1.5, 4.5)),
    "blend": Kind(oddities.second_redshift, adds_light=True),
    "foreign_line": Kind(oddities.foreign_line, adds_light=True),
    "wd_m": Kind(oddities.hidden_companion, ("STAR",), min_snr=0.8, adds_light=True),
    "extreme_lines": Kind(oddities.extreme_lines, ("GALAXY",), z=(0.0, 1.55), adds_light=True),
    "cataclysmic": Kind(oddities.cataclysmic, ("STAR",), adds_light=True),
    "supernova": Kind(oddities.supernova, ("GALAXY",), z=(0.0, 0.6), adds_light=True),
    "wrong_z": Kind(oddities.wrong_redshift, ("GALAXY", "QSO"), min_snr=0.8),
}
FAMILIES = ("artefact", "physical", "wrong_z")


@dataclass(frozen=True)
class Injection:
    """A spectrum with an anomaly.

    Attributes:
        kind: key of KINDS.
        flux: (7958,) float32.
        ivar: (7958,) float32; 0 exactly where the spectrum's was.
        z: the redshift that goes with it; differs only for "wrong_z".
        snr: matched-filter S/N reached.
        parameters: what was drawn, "name=value name=value".
    """

    kind: str
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    z: float
    snr: float
    parameters: str


def family(kind: str) -> str:
    """What a kind is: "artefact" of instrument or reduction, "physical" of the sky, or "wrong_z"."""
    if kind == "wrong_z":
        return kind
    return "artefact" if KINDS[kind].make.__module__ == artefacts.__name__ else "physical"


def applies(kind: str, spectrum: Spectrum) -> bool:
    """Whether an anomaly makes sense in a spectrum: its class, its redshift, and enough light."""
    entry = KINDS[kind]
    red = ARMS[1].pixels
    snr = float(np.median(spectrum.model[red] * np.sqrt(spectrum.ivar[red])))
    fits = spectrum.spectype in entry.spectypes and entry.z[0] <= spectrum.z <= entry.z[1]
    return bool(fits and snr >= entry.min_snr and np.count_nonzero(spectrum.ivar) > N_PIX // 2)


def draw_kind(rng: np.random.Generator, spectrum: Spectrum) -> str:
    """A random kind among those that apply."""
    return str(rng.choice([kind for kind in KINDS if applies(kind, spectrum)]))


def draw_snr(rng: np.random.Generator) -> float:
    """A matched-filter S/N from the limit of detection to obvious, median 20."""
    return float(np.clip(rng.lognormal(np.log(20.0), 0.6), 6.0, 150.0))


def inject(kind: str, rng: np.random.Generator, spectrum: Spectrum, snr: float | None = None) -> Injection:
    """Put an anomaly into a spectrum.

    Args:
        kind: key of KINDS.
        rng: source of randomness: place, width, sign ...
        spectrum: the spectrum; it is not changed.
        snr: wanted matched-filter S/N; drawn (median 20) if None.
    """
    wanted = draw_snr(rng) if snr is None else snr
    change = KINDS[kind].make(rng, spectrum, wanted)
    delta: NDArray[np.floating] = change.delta
    ivar: NDArray[np.floating] = spectrum.ivar * change.ivar_factor
    reached = signal_to_noise(delta, spectrum.ivar) if change.snr is None else change.snr
    if KINDS[kind].adds_light:
        delta, ivar = _with_photon_noise(rng, delta, spectrum)
    flux = np.where(spectrum.ivar > 0.0, spectrum.flux + delta, 0.0)
    return Injection(
        kind=kind,
        flux=flux.astype(np.float32),
        ivar=ivar.astype(np.float32),
        z=spectrum.z if change.z is None else change.z,
        snr=reached,
        parameters=" ".join(f"{name}={value:.4g}" for name, value in change.parameters.items()),
    )


def _with_photon_noise(
    rng: np.random.Generator, light: NDArray[np.floating], spectrum: Spectrum
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Added light (7958,) with its own noise, and ivar lowered by it.

    The light is made so much stronger that its S/N beside its own noise, with which an ideal search must live, is what
    it was without: a line of S/N 20 by a quarter. The depth is read off ivar beside the noise of the spectrum's own
    light; with that noise in it, stars of S/N 5 and 10 would look a third and a fifth as deep.
    """
    good = spectrum.ivar > 0.0
    variance = sky_variance()[0] + photon_variance() * np.maximum(spectrum.model, 0.0)  # in 1000 s
    depth = float(np.median(spectrum.ivar[good] * variance[good]))  # in units of 1000 s
    unit = np.maximum(light, 0.0) * photon_variance() / max(depth, 1e-6)
    wanted, strength, ivar = signal_to_noise(light, spectrum.ivar), 1.0, spectrum.ivar
    for _ in range(STEPS):
        ivar = spectrum.ivar / (1.0 + spectrum.ivar * strength * unit)
        strength *= wanted / max(signal_to_noise(strength * light, ivar), 1e-12)
    return strength * light + rng.standard_normal(N_PIX) * np.sqrt(strength * unit), ivar
