"""Compares simulated spectra with real ones: a table on standard output, plots beside real spectra in OUT.

Run: python tests/bench/compare_simulation.py OUT [DESI_DATA] (DESI_DATA: default of LATENIGHT_TEST_DATA).
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from latenight.desi import read_coadd
from latenight.spectra import ARMS, N_PIX, WAVE, Spectra
from latenight_train.simulate import Night, simulate

# Measured on six sky fibres of a public petal: rms of chi on clean and on line pixels, correlation between
# fibres on line pixels (NaN: not measured).
REAL_CHI = {"b": (1.09, 1.26, 0.21), "r": (1.05, 1.07, np.nan), "z": (1.23, 1.47, 0.28)}
# Fraction with DELTACHI2 > 50 in the survey's reference.
REAL_DCHI2 = {"BGS": 0.985, "LRG": 0.94, "ELG": 0.55, "QSO": 0.52, "MWS": np.nan}
# S/N per pixel at 6400 A of a point source in 1000 s of dark time, by AB magnitude.
MAGNITUDES, POINT_SNR = np.array([19.0, 20.0, 21.0, 22.0, 23.0]), np.array([22.0, 8.6, 3.4, 1.4, 0.54])


def real_curve(data: Path, file: str, key: str) -> np.ndarray:
    """A curve of the three arms, (7958,)."""
    arrays = np.load(data / file)
    return np.concatenate([arrays[f"{arm.name.upper()}_{key}"] for arm in ARMS])


def compare_ivar(petals: list[Spectra], data: Path) -> None:
    """Ratio of the ivar of simulated sky fibres to the real curves, by wavelength."""
    sky = np.concatenate([p.ivar[(p.table["objtype"] == "SKY") & (p.ivar[:, 4000] > 0)] for p in petals])
    simulated = np.median(sky, axis=0)
    for file, key in (
        ("derived/noise_1000s_dark.npz", "ivar_1000s_dark"),
        ("QuasarNP/derived_sky_noise_curves.npz", "ivar_median_sky"),
    ):
        ratio = simulated / real_curve(data, file, key)
        ratio /= np.median(ratio)
        print(f"\nivar simulated/real ({key}), median 1; 5, 50, 95 % of the pixels")
        for arm in ARMS:
            for k, part in enumerate(np.array_split(np.arange(arm.n), 4)):
                values = np.quantile(ratio[arm.pixels][part], [0.05, 0.5, 0.95])
                edges = arm.wave[part[0]], arm.wave[part[-1]]
                print(
                    f"  {arm.name}{k} {edges[0]:.0f}-{edges[1]:.0f}  " + " ".join(f"{v:.2f}" for v in values)
                )


def line_pixels(data: Path) -> np.ndarray:
    """Pixels on sky lines: ivar under 60 % of the surroundings, (7958,) bool."""
    return real_curve(data, "QuasarNP/derived_sky_noise_curves.npz", "line_ratio") < 0.6


def compare_chi(petals: list[Spectra], data: Path) -> None:
    """Rms of chi of sky fibres, mean over petals, and correlation between fibres on lines."""
    on_line = line_pixels(data)
    print("\nchi rms of sky fibres clean/line, r between fibres on lines: simulated (real)")
    for arm in ARMS:
        rows = []
        for petal in petals:
            good = (petal.table["objtype"] == "SKY") & (petal.ivar[:, arm.pixels].any(axis=1))
            chi = (petal.flux * np.sqrt(petal.ivar))[good][:, arm.pixels]
            line = on_line[arm.pixels]
            matrix = np.corrcoef(chi[:, line]) if line.sum() > 2 else np.full((2, 2), np.nan)
            r = np.mean(matrix[np.triu_indices(len(matrix), 1)])
            clean = np.where(np.abs(chi) < 30, chi, 0)
            rows.append((clean[:, ~line].std(), clean[:, line].std(), r, np.mean(np.abs(chi[:, line]) > 5)))
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        real = REAL_CHI[arm.name]
        print(
            f"  {arm.name} clean {mean[0]:.2f}+-{spread[0]:.2f} ({real[0]})  "
            f"line {mean[1]:.2f}+-{spread[1]:.2f} ({real[1]})  "
            f"r {mean[2]:.2f} ({real[2]})  |chi|>5 on lines {100 * mean[3]:.2f} %"
        )


def compare_tracers(petals: list[Spectra], truth: dict[int, dict[str, str]]) -> None:
    """S/N and strength of the redshifts by tracer."""
    table = np.concatenate([p.table for p in petals])
    rows = [truth[int(target)] for target in table["targetid"]]
    tracer = np.array([row["TRACER"] for row in rows])
    snr = np.array([float(row["SNR"]) for row in rows])
    wrong = np.array([row["WRONG_Z"] == "1" for row in rows])
    print("\ntracer    n  S/N p5/50/95         DELTACHI2>50 (real)  wrong z  wrong z, ZWARN=0")
    for name, real in REAL_DCHI2.items():
        use = (tracer == name) & (snr > 0)
        low, middle, high = np.quantile(snr[use], [0.05, 0.5, 0.95])
        strong = np.mean(table["deltachi2"][use] > 50)
        silent = np.mean(wrong[use] & (table["zwarn"][use] == 0))
        print(
            f"{name:6s} {use.sum():5d}  {low:5.2f} {middle:5.2f} {high:6.2f}  {strong:12.2f} ({real})"
            f"  {wrong[use].mean():12.3f}  {silent:.3f}"
        )
    # Stars are point sources: their S/N tests the depth directly.
    program = np.concatenate([p.table["program"] for p in petals])
    for name, kind in (("QSO", "dark"), ("MWS", "bright")):
        use = (tracer == name) & (program == kind) & (snr > 0)
        magnitude = np.array([float(row["MAGNITUDE"]) if row["MAGNITUDE"] else np.nan for row in rows])[use]
        expected = np.exp(np.interp(magnitude, MAGNITUDES, np.log(POINT_SNR)))
        print(f"S/N over that of a point source in 1000 s, {name}: {np.median(snr[use] / expected):.2f}")


def smooth(values: np.ndarray, ivar: np.ndarray, n: int = 5) -> np.ndarray:
    """Ivar-weighted mean of n pixels, arm by arm, for the eye."""
    out = np.full(N_PIX, np.nan)
    kernel = np.ones(n)
    for arm in ARMS:
        weight = np.convolve(ivar[arm.pixels], kernel, "same")
        total = np.convolve((values * ivar)[arm.pixels], kernel, "same")
        out[arm.pixels] = np.where(weight > 0, total / np.maximum(weight, 1e-12), np.nan)
    return out


def plot_rows(path: Path, rows: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """One spectrum per panel: arms in colour, noise in grey."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(15, 2.3 * len(rows)))
    for axis, (title, flux, ivar) in zip(np.atleast_1d(axes), rows, strict=True):
        drawn = smooth(flux, ivar)
        for arm, colour in zip(ARMS, ("C0", "C2", "C3"), strict=True):
            axis.plot(arm.wave, drawn[arm.pixels], color=colour, lw=0.6)
        noise = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1) * 5), np.nan)
        axis.plot(WAVE, noise, color="0.7", lw=0.4)
        low, high = np.nanquantile(drawn, [0.005, 0.997])
        axis.set_ylim(min(low, 0) - 0.1 * (high - low), high + 0.25 * (high - low))
        axis.set_title(title, fontsize=8, loc="left", pad=2)
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    plt.close(figure)


def plot_all(out: Path, petals: list[Spectra], truth: dict[int, dict[str, str]], data: Path) -> None:
    """Simulated spectra by class and S/N, real ones, anomalies."""
    flux = np.concatenate([p.flux for p in petals])
    ivar = np.concatenate([p.ivar for p in petals])
    rows = [truth[int(target)] for p in petals for target in p.table["targetid"]]
    snr = np.array([float(row["SNR"]) for row in rows])
    for name in ("GALAXY", "QSO", "STAR"):
        own = [i for i, row in enumerate(rows) if row.get("SPECTYPE") == name and not row["KIND"]]
        own.sort(key=lambda i: -snr[i])
        chosen = [own[int(q * (len(own) - 1))] for q in (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.6, 0.9)]
        facts = [
            f"{rows[i]['TRACER']} {rows[i]['SUBTYPE']} z={rows[i]['Z']} S/N={snr[i]:.1f}" for i in chosen
        ]
        panels = [(f, flux[i], ivar[i]) for f, i in zip(facts, chosen, strict=True)]
        plot_rows(out / f"simulated-{name.lower()}.png", panels)
    odd = {row["KIND"]: i for i, row in enumerate(rows) if row["KIND"]}
    titles = [f"{k} S/N={rows[i]['MATCHED_SNR']} {rows[i]['PARAMETERS']}" for k, i in odd.items()]
    plot_rows(
        out / "anomalies.png", [(t, flux[i], ivar[i]) for t, i in zip(titles, odd.values(), strict=True)]
    )
    sky = [i for i, row in enumerate(rows) if row["TRACER"] == "SKY" and ivar[i].any()][:3]
    panels = [("simulated sky, chi", flux[i] * np.sqrt(ivar[i]), np.ones(N_PIX)) for i in sky]
    real = read_coadd(data / "QuasarNP/test_coadd.fits")
    panels += [
        (f"real sky {i}, chi", real.flux[i] * np.sqrt(real.ivar[i]), np.ones(N_PIX)) for i in (0, 10, 14)
    ]
    plot_rows(out / "sky.png", panels)
    for file in (
        "QuasarNP/test_coadd",
        "fastspecfit/coadd-4-80613-thru20210324",
        "picca/coadd-1-80693-thru20210204",
    ):
        real = read_coadd(data / f"{file}.fits")
        signal = np.median(real.flux * np.sqrt(real.ivar), axis=1)
        best = np.argsort(-signal)[:9]
        plot_rows(
            out / f"real-{Path(file).name}.png",
            [
                (f"{file} row {i} S/N={signal[i]:.1f} z={real.table['z'][i]}", real.flux[i], real.ivar[i])
                for i in best
            ],
        )


def main() -> None:
    """Simulate one petal of eight tiles, compare, plot."""
    out = Path(sys.argv[1])
    default = os.environ.get("LATENIGHT_TEST_DATA", "../shared/data/desi")
    data = Path(sys.argv[2] if len(sys.argv) > 2 else default)
    out.mkdir(parents=True, exist_ok=True)
    night = Night(out / "night", 20260101, 8, 1, 500, 1, 0.03)
    petals = [read_coadd(path) for path in simulate(night)]
    with (night.out / "truth.csv").open(newline="") as file:
        truth = {int(row["TARGETID"]): row for row in csv.DictReader(file)}
    compare_tracers(petals, truth)
    dark = [petal for petal in petals if petal.table["program"][0] == "dark"]
    compare_ivar(dark, data)
    compare_chi(petals, data)
    plot_all(out, petals, truth, data)


if __name__ == "__main__":
    main()
