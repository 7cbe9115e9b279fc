"""Deterministic spectra and a hand-written scorer for tests that need no trained bundle."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.scores import CHANNELS, Scores, empty_scores
from latenight.spectra import ARMS, N_JOINT, N_PIX, WAVE, Spectra, empty_table, ineligible_reasons

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# Rows of make_spectra with a role; every further row is an ordinary target with a redshift.
SKY_ROWS = (2, 12)
DEAD_ROW = 5
UNKNOWN_ROW = 7  # no redrock row
SPIKE_SIGMA = 1e4  # height of add_spikes; nothing that make_spectra makes comes near it
# Median ivar per 1000 s of dark time in each arm (b, r, z).
ARM_IVAR = (3.8, 11.2, 24.4)


def make_spectra(n: int, seed: int, **columns: object) -> Spectra:
    """Spectra of one petal: smooth continua and noise, 1 % bad pixels.

    Rows SKY_ROWS are sky fibres, DEAD_ROW has no data, UNKNOWN_ROW no redrock row (where n is large enough).

    Args:
        n: number of spectra.
        seed: same seed, same spectra.
        columns: values that replace whole columns of the table, for instance night=20260102.
    """
    rng = np.random.default_rng(seed)
    ivar = np.empty((n, N_PIX), np.float32)
    for arm, typical in zip(ARMS, ARM_IVAR, strict=True):
        ivar[:, arm.pixels] = typical * rng.uniform(0.5, 1.5, (n, arm.n))
    level, slope = rng.lognormal(0.0, 0.8, (n, 1)), rng.normal(0.0, 0.5, (n, 1))
    level[[row for row in SKY_ROWS if row < n]] = 0.0
    continuum = level * (1.0 + slope * (WAVE - 6500.0) / 6500.0)
    flux = (continuum + rng.standard_normal((n, N_PIX), dtype=np.float32) / np.sqrt(ivar)).astype(np.float32)
    bad = rng.random((n, N_PIX), dtype=np.float32) < 0.01
    bad[DEAD_ROW : DEAD_ROW + 1] = True
    flux[bad] = ivar[bad] = 0.0
    table = _make_table(n, rng)
    for name, values in columns.items():
        table[name] = values
    return Spectra(flux=flux, ivar=ivar, table=table, source=f"fake/coadd-0-1000-thru20260101.fits#{seed}")


def _make_table(n: int, rng: np.random.Generator) -> np.ndarray:
    table = empty_table(n)
    table["targetid"] = 39627000000000000 + rng.permutation(100_000)[:n]
    table["tileid"], table["night"], table["petal"] = 1000, 20260101, 0
    table["fiber"] = np.arange(n)
    table["survey"], table["program"] = "main", "dark"
    table["ra"], table["dec"] = rng.uniform(149.0, 151.0, n), rng.uniform(1.0, 3.0, n)
    table["objtype"] = "TGT"
    table["desi_target"] = 1 << 60
    table["z"], table["zwarn"], table["deltachi2"] = rng.uniform(0.01, 1.5, n), 0, 100.0
    table["spectype"] = rng.choice(["GALAXY", "QSO", "STAR"], n, p=[0.7, 0.1, 0.2])
    for row in SKY_ROWS:
        table["objtype"][row : row + 1] = "SKY"
        table["desi_target"][row : row + 1] = 1 << 32
    unknown = slice(UNKNOWN_ROW, UNKNOWN_ROW + 1)
    table["z"][unknown] = table["deltachi2"][unknown] = np.nan
    table["zwarn"][unknown], table["spectype"][unknown] = -1, "UNKNOWN"
    return table


def add_spikes(spectra: Spectra, rows: Iterable[int], pixel: int = 4000) -> Spectra:
    """The same spectra with one good pixel of the given rows SPIKE_SIGMA high: FakeScorer alerts on them."""
    flux, ivar = spectra.flux.copy(), spectra.ivar.copy()
    for row in rows:
        ivar[row, pixel] = ARM_IVAR[1]
        flux[row, pixel] = SPIKE_SIGMA / np.sqrt(ARM_IVAR[1])
    return replace(spectra, flux=flux, ivar=ivar)


def assert_same_tables(found: np.ndarray, expected: np.ndarray) -> None:
    """Structured arrays of the same columns with equal values; NaN equals NaN."""
    assert found.dtype.names == expected.dtype.names
    for name in expected.dtype.names or ():
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


class FakeScorer:
    """Scores each spectrum from its own content; same interface as latenight.scorer.Scorer.

    p_value is uniform (a hash of flux, ivar and z), except that a spectrum with a spike of add_spikes gets
    1e-9 times that. Rows that are not eligible hold NaN.
    """

    def __init__(self, bundle_id: str = "fa" * 32, provider: str = "FakeExecutionProvider") -> None:
        self.bundle_id = bundle_id
        self.provider = provider

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        """Deterministic scores; rows with p_value < explain_below get a flat reconstruction."""
        table = empty_scores(ineligible_reasons(spectra))
        for row in np.flatnonzero(table["eligible"]):
            table[row] = self._score_row(spectra, int(row), table[row])
        explained = np.flatnonzero(table["p_value"] < explain_below)
        level = [np.mean(spectra.flux[row], dtype=np.float64) for row in explained]
        recon = np.repeat(np.array(level, np.float32)[:, None], N_JOINT, axis=1).reshape(-1, N_JOINT)
        return Scores(
            table=table,
            explained=explained,
            recon=recon,
            recon_sigma=np.full_like(recon, 0.1),
            bundle_id=self.bundle_id,
            provider=self.provider,
        )

    @staticmethod
    def _score_row(spectra: Spectra, row: int, scores: np.void) -> np.void:
        flux, ivar = spectra.flux[row], spectra.ivar[row]
        digest = hashlib.sha512(flux.tobytes() + ivar.tobytes() + spectra.table["z"][row].tobytes()).digest()
        uniform: NDArray[np.float64] = (np.frombuffer(digest, "<u4") + 0.5) / 2.0**32
        significance = flux * np.sqrt(ivar)
        pixel = int(np.argmax(np.abs(significance)))
        is_spiked = abs(significance[pixel]) > 0.5 * SPIKE_SIGMA
        for channel, p in zip(CHANNELS, uniform[: len(CHANNELS)], strict=True):
            scores[f"p_{channel}"] = p * 1e-9 if is_spiked and channel == "scan" else p
        scores["model_z"] = np.nan_to_num(spectra.table["z"][row])
        scores["model_spectype"] = spectra.table["spectype"][row]
        p_channels = np.array([scores[f"p_{channel}"] for channel in CHANNELS])
        scores["channel"] = CHANNELS[int(p_channels.argmin())]
        scores["p_value"] = uniform[0] * 1e-9 if is_spiked else uniform[0]
        scores["p_extrapolated"] = is_spiked
        scores["artefact_probability"] = 0.75 if is_spiked else 0.25
        scores["snr"] = np.mean(significance[ivar > 0])
        scores["log_prob"], scores["chi2"], scores["knn_distance"] = (
            -1.0 - uniform[1],
            1.0 + uniform[2],
            uniform[3],
        )
        for arm in ARMS:
            scores[f"arm_chi2_{arm.name}"] = 1.0 + uniform[2]
        scores["statistic"] = "scan1+"
        scores["sigma"], scores["sign"] = abs(significance[pixel]), np.sign(significance[pixel])
        scores["wavelength"], scores["width"] = WAVE[pixel], 0.8
        return scores
