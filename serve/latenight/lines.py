"""Which known feature lies at this wavelength: lines at a redshift, sky, atmosphere, spectrograph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LIGHT_SPEED = 299792.458  # km/s


@dataclass(frozen=True)
class Feature:
    """A line or a band.

    Attributes:
        name: as astronomers write it.
        wavelength: centre in vacuum [A].
        frame: "rest" moves with the object, "observed" stands still (sky, atmosphere, spectrograph).
        half_width: half of a band's width [A]; 0 for a line.
    """

    name: str
    wavelength: float
    frame: Literal["rest", "observed"]
    half_width: float = 0.0


# Vacuum wavelengths of the SDSS line table (classic.sdss.org/dr7/algorithms/linestable.html), multiplets by
# their mean.
REST_LINES = tuple(
    Feature(name, wavelength, "rest")
    for name, wavelength in (
        ("Ly alpha", 1215.67),
        ("N V", 1240.81),
        ("Si IV", 1399.80),
        ("C IV", 1549.48),
        ("He II 1640", 1640.40),
        ("C III]", 1908.73),
        ("Mg II", 2799.12),
        ("[Ne V]", 3426.85),
        ("[O II]", 3728.48),
        ("[Ne III]", 3869.86),
        ("Ca K", 3934.78),
        ("Ca H", 3969.59),
        ("H delta", 4102.89),
        ("H gamma", 4341.68),
        ("He II 4686", 4687.02),
        ("H beta", 4862.68),
        ("[O III] 4959", 4960.30),
        ("[O III] 5007", 5008.24),
        ("Mg b", 5176.63),
        ("He I 5876", 5877.25),
        ("Na D", 5895.60),
        ("[O I] 6300", 6302.05),
        ("[N II] 6548", 6549.86),
        ("H alpha", 6564.61),
        ("[N II] 6584", 6585.27),
        ("[S II] 6717", 6718.29),
        ("[S II] 6731", 6732.67),
        ("Ca II 8498", 8500.36),
        ("Ca II 8542", 8544.44),
        ("Ca II 8662", 8664.52),
        ("[S III] 9069", 9071.10),
        ("[S III] 9531", 9533.20),
    )
)

# Where instrument and atmosphere leave residuals. The arms overlap at 5760-5800 and 7520-7620 A
# (latenight.spectra); the throughput dip at 4300-4400 A is known from desispec issues #965, #980 and #983.
OBSERVED_FEATURES = (
    Feature("throughput dip 4300-4400", 4350.0, "observed", 50.0),
    Feature("sky [O I] 5577", 5578.89, "observed"),
    Feature("dichroic b/r", 5780.0, "observed", 20.0),
    Feature("sky Na D", 5894.60, "observed", 4.0),
    Feature("sky [O I] 6300", 6302.05, "observed"),
    Feature("sky [O I] 6363", 6365.54, "observed"),
    Feature("telluric O2 B", 6907.0, "observed", 37.0),
    Feature("dichroic r/z", 7570.0, "observed", 50.0),
    Feature("telluric O2 A", 7650.0, "observed", 55.0),
    Feature("telluric H2O", 9400.0, "observed", 150.0),
)

# Room for gas that moves in its galaxy and for the error of the redshift.
TOLERANCE = 300.0  # km/s
MAX_NEARBY = 5


def observed_wavelength(feature: Feature, z: float) -> float:
    """Where the feature is observed at redshift z [A]; NaN for a rest-frame line at unknown redshift."""
    return feature.wavelength * (1.0 + z) if feature.frame == "rest" else feature.wavelength


def nearby_features(wavelength: float, width: float, z: float) -> list[tuple[Feature, float]]:
    """The features inside or beside a window, nearest first, at most MAX_NEARBY.

    Args:
        wavelength: centre of the window, observed frame [A].
        width: width of the window [A].
        z: redshift of the object; NaN leaves only features of the observed frame.

    Returns:
        Pairs of a feature and the window's centre minus its observed wavelength [A].
    """
    reach = width / 2.0 + wavelength * TOLERANCE / LIGHT_SPEED
    found = [
        (feature, wavelength - observed_wavelength(feature, z))
        for feature in (*REST_LINES, *OBSERVED_FEATURES)
    ]
    near = [(feature, offset) for feature, offset in found if abs(offset) <= reach + feature.half_width]
    return sorted(near, key=lambda pair: abs(pair[1]))[:MAX_NEARBY]


def lines_in_range(z: float, start: float, stop: float) -> list[tuple[str, float]]:
    """Names and observed wavelengths [A] of the rest-frame lines between start and stop [A] at redshift z."""
    if not math.isfinite(z):
        return []
    observed = [(line.name, observed_wavelength(line, z)) for line in REST_LINES]
    return [(name, wavelength) for name, wavelength in observed if start <= wavelength <= stop]
