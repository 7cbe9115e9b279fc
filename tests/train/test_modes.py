"""The linear modes: learned from noisy spectra, solved exactly per spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from latenight.errors import StartupError
from latenight.modes import FINE, read_modes, weights_of
from latenight.spectra import N_PIX, WAVE
from latenight_train.modes import (
    GROUPS,
    N_MODES,
    QUIET,
    TYPICAL,
    VARIANCE,
    Group,
    Modes,
    fit_groups,
    fit_modes,
    left_out_together,
    rest_binned,
    write_modes,
)
from latenight_train.pixels import norm_of
from latenight_train.refine import OUTLIER, Refinement
from tests.bundles import survey_of
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GROUP = Group("GALAXY", -0.1, 0.5, 0.1, 2230.0, 9950.0, 4e-4, 7, 6)


def draw(n: int, seed: int, signal: float = 5.0) -> tuple[Floats, Floats, Floats, Floats]:
    """Flux, ivar, z and noise-free truth of spectra that are mixtures of three smooth shapes and a line."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.0, 0.45, n).astype(np.float32)
    rest = WAVE / (1 + z[:, None])
    shapes = np.stack(
        [np.ones_like(rest), rest / 5000, np.sin(rest / 400), np.exp(-0.5 * ((rest - 5008) / 6) ** 2)]
    )
    weights = np.stack([2 + 0 * z, *rng.normal(0, 0.4, (2, n)), rng.uniform(0, 2, n)])
    truth = signal * np.einsum("kn,knp->np", weights, shapes)
    flux = truth + rng.standard_normal((n, N_PIX))
    ivar = np.ones((n, N_PIX), np.float32)
    ivar[rng.random((n, N_PIX)) < 0.02] = 0
    return np.where(ivar > 0, flux, 0).astype(np.float32), ivar, z, truth.astype(np.float32)


def learn(n: int = 300, seed: int = 0) -> Modes:
    flux, ivar, z, _ = draw(n, seed)
    return fitted(flux, ivar, z)


def fitted(flux: Floats, ivar: Floats, z: Floats, whole: Modes | None = None) -> Modes:
    norm = norm_of(torch.from_numpy(flux), torch.from_numpy(ivar)).numpy()
    return fit_modes(*rest_binned(flux / norm, ivar * norm**2, z, GROUP), GROUP, seed=1, whole=whole)


def error_on_new_spectra(modes: Modes) -> float:
    """Rms error of the fit, in units of the noise of a pixel."""
    flux, ivar, z, truth = draw(40, seed=5)
    weights = weights_of(modes.columns, GROUP.grid, modes.precision).values()
    with torch.inference_mode():
        mean, *_ = Refinement()(*map(torch.from_numpy, (flux, ivar, z, *weights)))
    return float(np.sqrt(np.mean((mean.numpy() - truth) ** 2)))


MODES = learn()


def solve(flux: Floats, ivar: Floats, z: Floats) -> list[Floats]:
    """Mean, variance and coefficients by the module that is exported."""
    weights = weights_of(MODES.columns, GROUP.grid, MODES.precision).values()
    with torch.inference_mode():
        return [t.numpy() for t in Refinement()(*map(torch.from_numpy, (flux, ivar, z, *weights)))]


def test_new_spectra_are_fitted_to_the_noise() -> None:
    """On spectra not seen in training the fit errs by less than a fifth of the noise of a pixel."""
    flux, ivar, z, truth = draw(40, seed=5)
    mean, variance, *_ = solve(flux, ivar, z)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.2
    assert (variance > 0).all()


def test_the_solution_is_the_posterior_mean() -> None:
    """Coefficients and mean equal a direct float64 solution with the same robust weights, many outliers or none."""
    flux, ivar, z, _ = draw(3, seed=6)
    flux[1, 4000:4100] += 20
    mean, _, coefficients, _ = solve(flux, ivar, z)
    norm = norm_of(torch.from_numpy(flux), torch.from_numpy(ivar)).numpy().astype(float)
    weights = weights_of(MODES.columns, GROUP.grid, MODES.precision)
    start, per_unit, last = weights["grid"]
    for row in range(3):
        position = (np.log(WAVE) - np.log(1 + float(z[row])) - start) * per_unit
        at = np.rint(np.clip(position, 0, last)).astype(int)
        m, typical, s2 = weights["modes"][at], *weights["profiles"][[TYPICAL, VARIANCE]][:, at]
        y = flux[row] / norm[row] - typical
        with np.errstate(divide="ignore"):
            weight = 1 / (1 / (ivar[row] * norm[row] ** 2) + s2)
        for _ in range(2):
            c = np.linalg.solve((m.T * weight) @ m + MODES.precision, m.T @ (weight * y))
            weight = weight * (OUTLIER / np.maximum(np.abs(y - m @ c) * np.sqrt(weight), OUTLIER))
        np.testing.assert_allclose(coefficients[row], c, rtol=0, atol=3e-3)
        # In sigma of a pixel; without outliers it is 1e-4.
        np.testing.assert_allclose(mean[row], (typical + m @ c) * norm[row], rtol=0, atol=0.02)


def test_modes_know_nothing_of_spectra_that_were_left_out() -> None:
    """The model of a part of the spectra is the same whatever the others are, restless bins apart."""
    flux, ivar, z, _ = draw(120, seed=11)
    alone, beside = fitted(flux, ivar, z), fitted(flux, ivar, z, whole=MODES)
    known = [k for k in range(alone.columns.shape[1]) if k != N_MODES + QUIET]
    np.testing.assert_array_equal(beside.columns[:, known], alone.columns[:, known])
    np.testing.assert_array_equal(beside.precision, alone.precision)


def test_a_spike_does_not_bend_the_model() -> None:
    """A spike of fifty sigma in three pixels moves the fit elsewhere by less than a tenth of the noise."""
    flux, ivar, z, _ = draw(2, seed=7)
    expected, *_ = solve(flux, ivar, z)
    flux[:, 4000:4003] += 50
    found, *_ = solve(flux, ivar, z)
    assert np.abs(found - expected)[:, :3800].max() < 0.2
    assert np.abs(found - expected)[:, :3800].std() < 0.1


def test_contamination_does_not_become_a_mode() -> None:
    """With 3 % of the training spectra broken, new spectra are still fitted to a quarter of the noise."""
    flux, ivar, z, _ = draw(300, seed=0)
    flux[:9, 3000:3500] += 60
    assert error_on_new_spectra(fitted(flux, ivar, z)) < 0.25


def test_unlabelled_anomalies_in_training_do_not_hide_a_weak_one() -> None:
    """With the same strong anomaly in 1.5 % of the training spectra, new weak ones keep 80 % of their strength."""
    flux, ivar, z, _ = draw(400, seed=0)
    expected = strength_of_anomalies(fitted(flux, ivar, z))
    flux[:6] += 10 * anomaly(z[:6])  # a matched-filter S/N of 90
    assert expected > 15
    assert strength_of_anomalies(fitted(flux, ivar, z)) > 0.8 * expected


def anomaly(z: Floats) -> Floats:
    """A broad bump at 6000 A in the rest frame, (N, 7958)."""
    return np.exp(-0.5 * ((WAVE / (1 + z[:, None]) - 6000) / 30) ** 2).astype(np.float32)


def strength_of_anomalies(modes: Modes) -> float:
    """Median over new spectra of how many sigma of a weak anomaly, S/N 18, the model leaves."""
    flux, ivar, z, _ = draw(40, seed=5)
    shape = 2 * anomaly(z) * (ivar > 0)
    weights = weights_of(modes.columns, GROUP.grid, modes.precision).values()
    with torch.inference_mode():
        mean, variance, *_ = Refinement()(*map(torch.from_numpy, (flux + shape, ivar, z, *weights)))
    weight = ivar / (1 + ivar * variance.numpy())
    residual = flux + shape - mean.numpy()
    t = (shape * weight * residual).sum(axis=1) / np.sqrt((shape**2 * weight).sum(axis=1))
    return float(np.median(t))


def test_bins_where_some_spectra_stray_far_are_restless() -> None:
    """A strong line that 4 % of the spectra show makes the bins around it restless, and hardly any other."""
    flux, ivar, z, _ = draw(400, seed=4)
    rest = WAVE / (1 + z[:, None])
    flux[:16] += 40 * np.exp(-0.5 * ((rest[:16] - 6564) / 4) ** 2).astype(np.float32)
    modes = fitted(flux, ivar, z)
    wave = GROUP.wave_min * np.exp(GROUP.step * np.arange(GROUP.n_bins))
    near = np.abs(wave - 6564) < 4
    assert (modes.columns[near, N_MODES + QUIET] == 0).all()
    assert modes.columns[~near, N_MODES + QUIET].mean() > 0.98


def test_one_odd_spectrum_makes_no_bin_restless() -> None:
    """Where few spectra were seen, one that strays is no line; and a fold has the restless bins of all."""
    flux, ivar, z, _ = draw(400, seed=4)
    few = flux[:100].copy(), ivar[:100], z[:100]
    few[0][0] += 40 * np.exp(-0.5 * ((WAVE / (1 + z[0]) - 6564) / 4) ** 2).astype(np.float32)
    assert fitted(*few).columns[:, N_MODES + QUIET].all()
    flux[:16] += 40 * np.exp(-0.5 * ((WAVE / (1 + z[:16, None]) - 6564) / 4) ** 2).astype(np.float32)
    every = fitted(flux, ivar, z)
    fold = fitted(flux[16:], ivar[16:], z[16:], whole=every)
    assert not every.columns[:, N_MODES + QUIET].all()
    np.testing.assert_array_equal(fold.columns[:, N_MODES + QUIET], every.columns[:, N_MODES + QUIET])


def test_unused_columns_stay_at_zero() -> None:
    """A group of six modes fills up to the common number with columns that never get a coefficient."""
    flux, ivar, z, _ = draw(3, seed=8)
    _, _, coefficients, _ = solve(flux, ivar, z)
    assert coefficients.shape == (3, N_MODES)
    assert (coefficients[:, 6:] == 0).all()
    assert (MODES.columns[:, 6:N_MODES] == 0).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_unit_of_flux_does_not_matter(factor: float) -> None:
    """Flux times a and ivar over a^2 give a mean a times as large."""
    flux, ivar, z, _ = draw(2, seed=9)
    expected, *_ = solve(flux, ivar, z)
    found, *_ = solve(flux * np.float32(factor), ivar / np.float32(factor) ** 2, z)
    np.testing.assert_allclose(found / factor, expected, rtol=1e-3, atol=1e-3)


def test_only_groups_with_enough_spectra_are_fitted_and_come_back_from_the_bundle(tmp_path: Path) -> None:
    """What is written for serving names class, redshifts and weights of each fitted group, and no other."""
    survey = survey_of([make_spectra(150, seed=0, z=0.2, spectype="GALAXY")])
    models, _ = fit_groups(survey, np.flatnonzero(survey.reasons == ""), seed=1)
    assert len(models) == 1
    write_modes(models, tmp_path / "modes.npz")
    (group,) = read_modes(tmp_path / "modes.npz")
    assert (group.spectype, group.z_min, group.z_max) == ("GALAXY", -0.1, 0.5)
    assert group.weights["modes"].shape == (FINE * (models[0][0].n_bins - 1) + 1, N_MODES)
    assert all(np.isfinite(weights).all() for weights in group.weights.values())


def test_a_fold_is_left_out_of_its_models() -> None:
    """Models without a fold are those of the other spectra alone; a fold that leaves too few is refused."""
    survey = survey_of([make_spectra(100, seed=seed, z=0.2, spectype="GALAXY") for seed in range(2)])
    rows, fold = np.flatnonzero(survey.reasons == ""), np.arange(200) < 100
    _, ((_, ((_, without),)),) = fit_groups(survey, rows, seed=1, folds=[fold])
    ((_, alone),), _ = fit_groups(survey, rows[~fold[rows]], seed=1)
    np.testing.assert_allclose(without.columns[:, :N_MODES], alone.columns[:, :N_MODES])
    with pytest.raises(StartupError, match="60 that a linear model needs"):
        fit_groups(survey, rows, seed=1, folds=[np.arange(200) < 150])


def test_galaxies_leave_a_fifth_of_the_folds_out_at_once_and_quasars_a_tenth() -> None:
    """Of ten folds two or one; where there are few folds, one: two of four would leave half of a survey."""
    galaxies, quasars = GROUPS[0], GROUPS[2]
    assert [list(part) for part in left_out_together(galaxies, 10)] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8, 9],
    ]
    for group, n_folds in ((quasars, 10), (galaxies, 5), (galaxies, 4), (galaxies, 2), (quasars, 2)):
        assert [list(part) for part in left_out_together(group, n_folds)] == [[k] for k in range(n_folds)]
    assert [k for part in left_out_together(galaxies, 13) for k in part] == list(range(13))


def test_an_absurd_flux_does_not_end_the_fit() -> None:
    """One pixel of 1e35 among the training spectra leaves the models finite."""
    survey = survey_of([make_spectra(150, seed=0, z=0.2, spectype="GALAXY")])
    survey.flux[20, 1000], survey.ivar[20, 1000] = 1e35, 1e-3
    ((_, modes),), _ = fit_groups(survey, np.flatnonzero(survey.reasons == ""), seed=1)
    assert np.isfinite(modes.columns).all()
