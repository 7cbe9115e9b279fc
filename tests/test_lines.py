"""Known spectral features near a wavelength."""

from __future__ import annotations

import math

import pytest

from latenight.lines import MAX_NEARBY, OBSERVED_FEATURES, REST_LINES, lines_in_range, nearby_features


def test_a_window_on_a_redshifted_line_names_the_line_first() -> None:
    """A window on [O II] at the object's redshift names [O II] first, with its offset."""
    feature, offset = nearby_features(3728.48 * 1.8 + 1.5, 4.0, 0.8)[0]
    assert (feature.name, feature.frame) == ("[O II]", "rest")
    assert offset == pytest.approx(1.5)


def test_without_a_redshift_only_features_of_the_observed_frame_are_named() -> None:
    """An unknown redshift leaves sky and spectrograph features only."""
    found = nearby_features(5578.0, 3.0, math.nan)
    assert [feature.name for feature, _ in found] == ["sky [O I] 5577"]


def test_a_window_inside_a_band_names_the_band() -> None:
    """A narrow window anywhere inside the overlap of r and z names the dichroic."""
    assert "dichroic r/z" in [feature.name for feature, _ in nearby_features(7610.0, 0.8, math.nan)]


def test_a_window_away_from_everything_names_nothing() -> None:
    """A narrow window in a clean region names no feature."""
    assert nearby_features(4600.0, 3.0, 0.0) == []


def test_a_very_wide_window_names_the_nearest_few() -> None:
    """However wide the window, at most MAX_NEARBY features are named, nearest first."""
    found = nearby_features(6600.0, 5000.0, 0.0)
    distances = [abs(offset) for _, offset in found]
    assert len(found) == MAX_NEARBY
    assert distances == sorted(distances)


def test_only_lines_in_range_are_listed() -> None:
    """The lines drawn into a plot are those inside its range at the redshift; none without a redshift."""
    names = dict(lines_in_range(0.5, 3600.0, 9824.0))
    assert names["H beta"] == pytest.approx(4862.68 * 1.5)
    assert not {"Ly alpha", "H alpha"} & set(names)
    assert lines_in_range(math.nan, 3600.0, 9824.0) == []


def test_every_feature_lies_where_its_frame_says() -> None:
    """Features of the observed frame lie on the DESI grid; line names are unique."""
    assert all(3600.0 < feature.wavelength < 9824.0 for feature in OBSERVED_FEATURES)
    names = [feature.name for feature in (*REST_LINES, *OBSERVED_FEATURES)]
    assert len(names) == len(set(names))
