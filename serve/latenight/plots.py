"""What an alert looks like: flux, reconstruction, residual; the only module that imports matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from latenight.lines import lines_in_range
from latenight.spectra import ARMS, N_PIX, WAVE, WAVE_JOINT
from latenight.triage import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from latenight.scores import Scores
    from latenight.spectra import Arm, Spectra

BIN_PIXELS = 8  # 6.4 A: faint spectra show their shape, lines keep theirs
ARM_COLORS = {"b": "#1f6fb4", "r": "#c0392b", "z": "#6c3483"}
MODEL_COLOR = "#111111"
WINDOW_COLOR = "#f5b301"
MAX_RESIDUAL = 8.0  # sigma; what lies beyond is drawn at the edge
FLUX_UNIT = r"flux [$10^{-17}$ erg s$^{-1}$ cm$^{-2}$ $\mathrm{\AA}^{-1}$]"


def plot_alert(spectra: Spectra, scores: Scores, row: int, *, note: str = "") -> bytes:
    """The picture of one spectrum, PNG.

    Above: flux at native pixels and in bins, the reconstruction with its standard deviation, lines at the
    redshift, ticks where pixels are masked. Below: the residual of each arm in standard deviations. The
    winning window is shaded in both.

    Args:
        spectra: the message.
        scores: its scores; without a reconstruction of the row, flux alone is drawn.
        row: the spectrum.
        note: what else the title should say.
    """
    figure = Figure(figsize=(13.0, 7.5), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, len(ARMS), height_ratios=(1.6, 1.0), width_ratios=[arm.n for arm in ARMS])
    top = figure.add_subplot(grid[0, :])
    recon, recon_sigma = _model(scores, row)
    _draw_flux(top, spectra, row)
    _draw_model(top, recon, recon_sigma)
    _draw_lines(top, float(spectra.table["z"][row]))
    _draw_window(top, scores.table[row])
    top.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, fontsize=8, frameon=False)
    top.set_title(_title(spectra, scores, row, note), loc="left", fontsize=10)
    first: Axes | None = None
    for column, arm in enumerate(ARMS):
        axes = figure.add_subplot(grid[1, column], sharey=first)
        _draw_residual(axes, arm, residual(spectra, row, recon, recon_sigma)[arm.pixels])
        _draw_window(axes, scores.table[row])
        axes.set_xlim(arm.wave[0], arm.wave[-1])
        axes.tick_params(labelleft=first is None)
        first = first or axes
    figure.supxlabel(r"wavelength in vacuum [$\mathrm{\AA}$]", fontsize=10)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def residual(
    spectra: Spectra, row: int, recon: NDArray[np.float32], recon_sigma: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(flux - reconstruction) in standard deviations of noise and model together, (7958,); NaN in bad pixels.

    Args:
        spectra: the message.
        row: the spectrum.
        recon: (7781,) reconstruction on the joint grid [1e-17 erg s-1 cm-2 A-1].
        recon_sigma: (7781,) its standard deviation.
    """
    result = np.full(N_PIX, np.nan)
    for arm in ARMS:
        ivar = spectra.ivar[row, arm.pixels].astype(np.float64)
        good = ivar > 0
        variance = 1.0 / ivar[good] + recon_sigma[arm.joint_pixels][good].astype(np.float64) ** 2
        difference = spectra.flux[row, arm.pixels][good] - recon[arm.joint_pixels][good]
        result[arm.pixels][good] = difference / np.sqrt(variance)
    return result


def _model(scores: Scores, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reconstruction and its standard deviation, NaN where the scorer did not keep them."""
    at = np.flatnonzero(scores.explained == row)
    if len(at):
        return scores.recon[at[0]], scores.recon_sigma[at[0]]
    missing = np.full(len(WAVE_JOINT), np.nan, np.float32)
    return missing, missing


def _bins(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means of BIN_PIXELS pixels; NaN where no weight is."""
    n = len(values) // BIN_PIXELS * BIN_PIXELS
    values, weight = values[:n].reshape(-1, BIN_PIXELS), weight[:n].reshape(-1, BIN_PIXELS)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, (values * weight).sum(axis=1) / total, np.nan)


def _draw_flux(axes: Axes, spectra: Spectra, row: int) -> None:
    flux, ivar = spectra.flux[row].astype(np.float64), spectra.ivar[row].astype(np.float64)
    binned_all = []
    for arm in ARMS:
        native = np.where(ivar[arm.pixels] > 0, flux[arm.pixels], np.nan)
        binned = _bins(flux[arm.pixels], ivar[arm.pixels])
        centres = _bins(arm.wave, np.ones(arm.n))
        color = ARM_COLORS[arm.name]
        axes.plot(arm.wave, native, color=color, alpha=0.18, linewidth=0.5)
        axes.plot(centres, binned, color=color, linewidth=0.9, drawstyle="steps-mid", label=f"{arm.name} arm")
        binned_all.append(binned)
    low, high = _limits(np.concatenate(binned_all))
    axes.set_ylim(low, high)
    masked = WAVE[ivar <= 0]
    axes.plot(
        masked, np.full(len(masked), low), "|", color="0.4", markersize=9, label="masked", clip_on=False
    )
    axes.set_xlim(WAVE[0], WAVE[-1])
    axes.set_ylabel(FLUX_UNIT)


def _limits(binned: NDArray[np.float64]) -> tuple[float, float]:
    """Limits that show the whole binned spectrum with a margin for labels."""
    finite = binned[np.isfinite(binned)]
    if not len(finite):
        return -1.0, 1.0
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    margin = max(high - low, 1e-3)
    return low - 0.08 * margin, high + 0.18 * margin


def _draw_model(axes: Axes, recon: NDArray[np.float32], recon_sigma: NDArray[np.float32]) -> None:
    if not np.isfinite(recon).any():
        return
    axes.fill_between(
        WAVE_JOINT, recon - recon_sigma, recon + recon_sigma, color=MODEL_COLOR, alpha=0.15, linewidth=0
    )
    axes.plot(WAVE_JOINT, recon, color=MODEL_COLOR, linewidth=0.9, label="reconstruction")


def _draw_lines(axes: Axes, z: float) -> None:
    """Names of the lines at redshift z, at two heights so that neighbours do not overlap."""
    for place, (name, wavelength) in enumerate(lines_in_range(z, float(WAVE[0]), float(WAVE[-1]))):
        axes.axvline(wavelength, color="0.6", linewidth=0.6, linestyle=":")
        axes.text(
            wavelength,
            0.93 - 0.22 * (place % 2),
            f" {name}",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            fontsize=7,
            color="0.35",
            va="top",
            ha="right",
        )


def _draw_window(axes: Axes, score: np.void) -> None:
    centre, width = float(score["wavelength"]), float(score["width"])
    if np.isfinite([centre, width]).all():
        half = max(width / 2.0, 8.0)  # a window of one pixel would not be seen
        axes.axvspan(centre - half, centre + half, color=WINDOW_COLOR, alpha=0.35, linewidth=0)


def _draw_residual(axes: Axes, arm: Arm, sigma: NDArray[np.float64]) -> None:
    good = np.isfinite(sigma)
    shown = np.clip(sigma, -MAX_RESIDUAL, MAX_RESIDUAL)
    axes.plot(arm.wave, shown, ".", color="0.6", markersize=1.5)
    # The sum of n independent residuals over sqrt(n) is again in standard deviations.
    n_good = _bins(good.astype(np.float64), np.ones(arm.n)) * BIN_PIXELS
    binned = _bins(np.where(good, sigma, 0.0), good.astype(np.float64)) * np.sqrt(n_good)
    centres = _bins(arm.wave, np.ones(arm.n))
    binned = np.clip(binned, -MAX_RESIDUAL, MAX_RESIDUAL)
    axes.plot(centres, binned, color=ARM_COLORS[arm.name], linewidth=0.8, drawstyle="steps-mid")
    axes.axhline(0.0, color="0.3", linewidth=0.6)
    axes.set_ylim(-MAX_RESIDUAL * 1.05, MAX_RESIDUAL * 1.05)
    axes.set_title(f"{arm.name}: residual [sigma] of pixels and of bins of {BIN_PIXELS}", fontsize=8)


def _title(spectra: Spectra, scores: Scores, row: int, note: str) -> str:
    table, score = spectra.table[row], scores.table[row]
    place = f"tile {table['tileid']} petal {table['petal']} fiber {table['fiber']} night {table['night']}"
    sigma = score["sign"] * score["sigma"]
    window = f"{score['wavelength']:.1f} A, {score['width']:.1f} A wide, {sigma:+.1f} sigma"
    triage = label(float(score["artefact_probability"]))
    verdict = f"p={score['p_value']:.2g} by {score['channel']} ({triage})   chi2={score['chi2']:.3g}   window {window}"
    redrock = f"{table['spectype']} z={table['z']:.4f} ZWARN={table['zwarn']}"
    lines = (
        f"TARGETID {table['targetid']}   {place}   bundle {scores.bundle_id[:12]}",
        f"{redrock}   S/N={score['snr']:.2f}   {verdict}",
        note,
    )
    return "\n".join(line for line in lines if line)
