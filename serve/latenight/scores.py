"""The scores of one message: one row per spectrum, ineligible ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import FAMILIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = FAMILIES  # each gives a p of its own: the smallest of its statistics, calibrated

# One row per spectrum. Rows that are not eligible hold NaN in every float column.
SCORES = np.dtype(
    [
        ("eligible", "?"),
        ("reason", "U12"),  # why it is not eligible; "" if it is
        ("snr", "f4"),  # mean signal-to-noise per good pixel
        ("model_z", "f4"),  # redshift of the models: redrock's, or found here where that is of no use
        ("model_spectype", "U8"),  # class of the linear model
        ("log_prob", "f4"),  # ivar-weighted reconstruction probability, nats per good pixel
        ("chi2", "f4"),  # mean squared residual under 1/ivar + learned variance, good pixels
        ("knn_distance", "f4"),  # mean distance to the nearest training latents
        ("arm_chi2_b", "f4"),
        ("arm_chi2_r", "f4"),
        ("arm_chi2_z", "f4"),
        ("statistic", "U16"),  # the least probable one of the channel (latenight.channels)
        ("sigma", "f4"),  # its size, for most in sigma
        ("wavelength", "f4"),  # centre of what it looks at, observed frame [A]; 0 for all of the spectrum
        ("width", "f4"),  # width of that [A]; 0 for all of the spectrum
        ("sign", "i1"),  # +1 excess, -1 deficit, 0 where neither makes sense or not eligible
        *[(f"p_{channel}", "f8") for channel in CHANNELS],
        ("p_value", "f8"),  # calibrated: uniform on ordinary spectra of every (spectype, S/N) cell
        ("p_extrapolated", "?"),  # p_value lies beyond the calibration sample
        ("channel", "U8"),  # the channel with the smallest p
        (
            "group",
            "U32",
        ),  # alert_id of the group packet that it is a member of; "" for most (outcome.judge)
        ("artefact_probability", "f4"),  # of what makes the spectrum strange (latenight.triage)
    ]
)


@dataclass(frozen=True)
class Scores:
    """What the scorer says of one message.

    Attributes:
        table: (N,) structured array of dtype SCORES, in the order of the spectra.
        explained: (k,) rows for which the reconstruction was fetched, ascending.
        recon: (k, 7781) float32 reconstruction on the joint grid [1e-17 erg s-1 cm-2 A-1].
        recon_sigma: (k, 7781) float32 its standard deviation, same unit.
        bundle_id: sha256 of the bundle's manifest.
        provider: the onnxruntime execution provider that computed it.
    """

    table: np.ndarray
    explained: NDArray[np.intp]
    recon: NDArray[np.float32]
    recon_sigma: NDArray[np.float32]
    bundle_id: str
    provider: str


def empty_scores(reasons: np.ndarray) -> np.ndarray:
    """A table with every score missing.

    Args:
        reasons: (N,) str, "" for eligible rows (spectra.ineligible_reasons).
    """
    table = np.zeros(len(reasons), SCORES)
    for name in SCORES.names or ():
        if SCORES[name].kind == "f":
            table[name] = np.nan
    table["reason"] = reasons
    table["eligible"] = reasons == ""
    return table
