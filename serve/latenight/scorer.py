"""Bundle -> Scorer: calibrated scores of whole messages, proven on the bundle's golden spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight import calibration
from latenight.bundle import load_bundle
from latenight.channels import COMBINED, FAMILY, PASS2, SIGN, STATISTICS
from latenight.errors import StartupError
from latenight.passes import NAMES, Passes
from latenight.petal import Learned
from latenight.scores import CHANNELS, Scores, empty_scores
from latenight.spectra import ARMS, N_JOINT, at_wavelengths, ineligible_reasons
from latenight.threads import default_threads
from latenight.triage import artefact_probability

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.bundle import Bundle
    from latenight.calibration import PValues
    from latenight.passes import Statistics
    from latenight.spectra import Spectra

N_NETWORK = STATISTICS.index(PASS2[0])  # statistics of the network come first

# Golden spectra must be reproduced to this part of their value; TF32 products on a GPU round at 1e-3.
TOLERANCE = {"CPUExecutionProvider": 1e-4, "CUDAExecutionProvider": 1e-2}


class Scorer:
    """Scores messages with one bundle on one device.

    Attributes:
        bundle_id: sha256 of the bundle's manifest.
        provider: the execution provider in use.
    """

    def __init__(self, bundle: Bundle, *, device: str, threads: int, passes: type[Passes] = Passes) -> None:
        arrays = bundle.arrays("calibration.npz")
        learned = Learned(*(arrays.pop(name) for name in Learned.__dataclass_fields__))
        self._passes = passes(bundle.path, learned, arrays.pop("z_range"), device=device, threads=threads)
        self._calibration = calibration.from_arrays(arrays)
        if (n := self._calibration.statistics.median.shape[-1]) != len(STATISTICS):
            raise StartupError(
                f"{bundle.path} has {n} statistics, this version {len(STATISTICS)}: fit it again"
            )
        self.bundle_id = bundle.id
        self.provider = self._passes.provider

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        """Score one message.

        Args:
            spectra: the rows of one petal, sky fibres included (the petal step needs them).
            explain_below: rows with a smaller p_value get their reconstruction.
        """
        reasons = ineligible_reasons(spectra)
        table = empty_scores(reasons)
        rows = np.flatnonzero(reasons == "")
        recon = recon_sigma = np.zeros((0, N_JOINT), np.float32)
        explained = np.zeros(0, np.intp)
        if len(rows):
            statistics = self._passes(spectra, reasons)
            table[rows] = calibrated_scores(self._calibration, statistics)
            explained = np.flatnonzero(table["p_value"][rows] < explain_below)
        if len(explained):
            recon = at_wavelengths(statistics.mean[explained])
            recon_sigma = np.sqrt(at_wavelengths(statistics.variance[explained]))
        return Scores(table, rows[explained], recon, recon_sigma, self.bundle_id, self.provider)

    def p_values(self, spectra: Spectra) -> tuple[NDArray[np.intp], PValues]:
        """The eligible rows of a message, (n,), and the p-values of all their statistics."""
        reasons = ineligible_reasons(spectra)
        statistics = self._passes(spectra, reasons)
        return np.flatnonzero(reasons == ""), _calibrated(self._calibration, statistics)


def calibrated_scores(tables: calibration.Calibration, statistics: Statistics) -> np.ndarray:
    """The rows of the scores table, (n,) of dtype SCORES, for the statistics of n eligible spectra."""
    table = empty_scores(np.full(len(statistics.group), ""))
    p = _calibrated(tables, statistics)
    for name in ("snr", "log_prob", "chi2", "knn_distance"):
        table[name] = statistics.named(name) if name in NAMES else getattr(statistics, name)
    table["model_z"], table["model_spectype"] = statistics.z, statistics.spectype
    for arm in ARMS:
        table[f"arm_chi2_{arm.name}"] = statistics.named(f"chi2_{arm.name}")
    for k, channel in enumerate(CHANNELS):
        table[f"p_{channel}"] = p.channels[:, k]
    table["p_value"] = p.p_value
    table["p_extrapolated"] = p.beyond
    table["artefact_probability"] = artefact_probability(p.statistics)
    winner = np.where(COMBINED, p.channels, np.inf).argmin(axis=1)
    table["channel"] = np.array(CHANNELS)[winner]
    best = np.where(winner[:, None] == FAMILY, p.statistics, np.inf).argmin(axis=1)
    for name, values in _what_and_where(statistics, best).items():
        table[name] = values
    return table


def _calibrated(tables: calibration.Calibration, statistics: Statistics) -> PValues:
    return calibration.calibrated(
        tables, statistics.stacked(), statistics.group, statistics.snr, statistics.petal
    )


def _what_and_where(statistics: Statistics, best: NDArray[np.intp]) -> dict[str, np.ndarray]:
    """Columns of the scores that tell of one statistic of each row, best (n,)."""
    rows = np.arange(len(best))
    value = statistics.stacked()[rows, best]
    sign = np.array([s.sign if s.name[-1] in "+-" else 0 for s in STATISTICS])[best]
    two_sided = SIGN[best] == 0
    found = np.pad(statistics.wavelengths, ((0, 0), (N_NETWORK, 0)))[rows, best]
    fixed = np.nan_to_num([s.wavelength for s in STATISTICS])[best]
    return {
        "statistic": np.array([s.name for s in STATISTICS])[best],
        "sigma": np.abs(value),
        "sign": np.where(two_sided, np.sign(value), sign),
        "wavelength": np.where(found > 0, found, fixed),
        "width": np.nan_to_num([s.width for s in STATISTICS])[best],
    }


def load_scorer(
    path: Path, *, device: str = "auto", threads: int | None = None, passes: type[Passes] = Passes
) -> Scorer:
    """Open a bundle and prove that this session reproduces its golden spectra.

    Args:
        path: directory of the bundle.
        device: "cpu"; "cuda", which fails if the GPU is not used; "auto", the GPU if there is one.
        threads: number of CPU threads; by default what affinity and cgroup quota allow.
        passes: how the graphs are run.

    Raises:
        StartupError: the bundle is damaged, the device is missing or the scores differ from the golden
            ones; the daemon does not start (exit 3).
    """
    bundle = load_bundle(path)
    scorer = Scorer(bundle, device=device, threads=threads or default_threads(), passes=passes)
    check_golden(scorer, bundle)
    return scorer


def check_golden(scorer: Scorer, bundle: Bundle) -> None:
    """Prove that a scorer gives the bundle's golden scores.

    Raises:
        StartupError: it does not.
    """
    spectra, expected = bundle.golden()
    found = scorer.score(spectra).table
    tolerance = TOLERANCE[scorer.provider]
    for name in ("log_prob", "chi2", "knn_distance", "sigma", "snr"):
        known = np.isfinite(expected[name])
        worst = np.max(np.abs(found[name] - expected[name])[known] / (1 + np.abs(expected[name][known])))
        if not worst <= tolerance:  # nor where it is NaN
            raise StartupError(
                f"bundle {bundle.path}: {name} of the golden spectra differs by {worst:.2g} on "
                f"{scorer.provider}, allowed is {tolerance:.0e}. Use another device or fit the bundle again."
            )
