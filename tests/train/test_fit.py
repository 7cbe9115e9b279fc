"""Training: deterministic, resumable, and better than no training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from latenight.errors import StartupError
from latenight.passes import usable_redshift
from latenight_train import fit
from latenight_train.data import Survey, split_by_petal
from latenight_train.fit import Plan, fit_vae
from latenight_train.graph import Model
from latenight_train.pixels import norm_of
from latenight_train.trainer import fit as fit_bundle
from latenight_train.trainer import folds_of
from latenight_train.vae import Z_RANGE, Architecture, Vae
from tests.bundles import survey_of
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Spectra

PLAN = Plan(Architecture(latent=4, hidden=8), epochs=3, max_minutes=None, seed=5)
SURVEY = survey_of([make_spectra(100, seed=k, petal=k) for k in range(2)])
TARGETS = np.flatnonzero((SURVEY.reasons == "") & np.isfinite(SURVEY.table["z"]))


class Interrupted(Exception):
    """Stands for the kill of a training run."""


class BreakingArray:
    """Flux that can be read a few times, then never again."""

    def __init__(self, values: NDArray[np.float32], reads: int) -> None:
        self.values, self.reads = values, reads

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        self.reads -= 1
        if self.reads < 0:
            raise Interrupted
        return self.values[rows]


def weights_of(survey: Survey, checkpoint: Path, *, resume: bool = False, plan: Plan = PLAN) -> torch.Tensor:
    vae, _ = fit_vae(survey, TARGETS, plan, device="cpu", checkpoint=checkpoint, resume=resume)
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_a_killed_training_resumes_to_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed in its second epoch and resumed gives the very weights of an uninterrupted run."""
    monkeypatch.setattr(fit, "CHECKPOINT_S", 0.0)
    expected = weights_of(SURVEY, tmp_path / "whole.pt")
    breaking = Survey(BreakingArray(SURVEY.flux, 4), SURVEY.ivar, SURVEY.table, SURVEY.reasons, SURVEY.files)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        weights_of(breaking, tmp_path / "killed.pt")
    torch.testing.assert_close(
        weights_of(SURVEY, tmp_path / "killed.pt", resume=True), expected, rtol=0, atol=0
    )


def test_the_seed_decides_the_model(tmp_path: Path) -> None:
    """Two runs with one seed agree to the bit; another seed gives another model."""
    first = weights_of(SURVEY, tmp_path / "a.pt")
    torch.testing.assert_close(weights_of(SURVEY, tmp_path / "b.pt"), first, rtol=0, atol=0)
    other = Plan(PLAN.architecture, PLAN.epochs, None, seed=6)
    assert not torch.equal(weights_of(SURVEY, tmp_path / "c.pt", plan=other), first)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Resuming with other options is an error that names the checkpoint."""
    weights_of(SURVEY, tmp_path / "a.pt")
    other = Plan(Architecture(latent=5, hidden=8), epochs=3, max_minutes=None, seed=5)
    with pytest.raises(StartupError, match=r"a\.pt"):
        weights_of(SURVEY, tmp_path / "a.pt", resume=True, plan=other)


@pytest.mark.parametrize("other", ["rows", "files"])
def test_a_checkpoint_of_other_spectra_is_refused(tmp_path: Path, other: str) -> None:
    """After a night more, or another one, petals that it has learned from might be held out: an error that names it."""
    weights_of(SURVEY, tmp_path / "a.pt")
    survey, rows = SURVEY, TARGETS
    if other == "rows":
        rows = TARGETS[1:]
    else:
        survey = replace(SURVEY, files=[(name, row, digest + "0") for name, row, digest in SURVEY.files])
    with pytest.raises(StartupError, match=r"a\.pt is of other spectra"):
        fit_vae(survey, rows, PLAN, device="cpu", checkpoint=tmp_path / "a.pt", resume=True)


def test_the_time_limit_ends_the_training(tmp_path: Path) -> None:
    """A run of a million epochs ends when its minutes are over, and the schedule has come to its end."""
    plan = Plan(PLAN.architecture, epochs=1_000_000, max_minutes=1 / 60, seed=5)
    checkpoint = tmp_path / "a.pt"
    _, progress = fit_vae(SURVEY, TARGETS, plan, device="cpu", checkpoint=checkpoint, resume=False)
    assert 1 <= progress.elapsed_s < 10


@torch.inference_mode()
def reconstructed(vae: Vae, spectra: Spectra) -> np.ndarray:
    """What the network makes of spectra from the mean of their latents, (N, 7958)."""
    z, group = map(torch.from_numpy, usable_redshift(spectra.table, np.array(Z_RANGE)))
    model, flux, ivar = Model(vae), torch.from_numpy(spectra.flux), torch.from_numpy(spectra.ivar)
    norm, condition = norm_of(flux, ivar), model.condition(z[:, None], group)
    latent, _ = model.encode(flux / norm, ivar * norm**2, z[:, None], condition)
    (mean,) = model.means([latent], condition, model.pixels(z[:, None])[0])
    return np.asarray((mean * norm).numpy())


def test_training_improves_the_reconstruction(tmp_path: Path) -> None:
    """Sixty epochs bring the median squared residual closer to that of pure noise than one does."""
    excess = {}
    for epochs in (1, 60):
        plan = Plan(Architecture(latent=4, hidden=32), epochs=epochs, max_minutes=None, seed=5)
        vae, _ = fit_vae(
            SURVEY, TARGETS, plan, device="cpu", checkpoint=tmp_path / f"{epochs}.pt", resume=False
        )
        spectra = make_spectra(40, seed=9)
        spectra = spectra.take(np.isfinite(spectra.table["z"]))
        residual = (spectra.flux - reconstructed(vae, spectra)) * np.sqrt(spectra.ivar)
        excess[epochs] = np.median(np.square(residual[spectra.ivar > 0])) - 0.455  # of a normal distribution
    assert excess[60] < 0.8 * excess[1]


def test_small_surveys_are_calibrated_with_half_as_many_folds() -> None:
    """Surveys of fewer than forty petals have five folds, others ten."""
    assert [folds_of(n) for n in (2, 20, 39, 40, 160)] == [5, 5, 5, 10, 10]


def test_held_out_petals_without_a_spectrum_are_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all eligible spectra lie in petals that are learned from there is nothing to calibrate on."""
    reasons = np.where(split_by_petal(SURVEY.table, PLAN.seed), "fiberstatus", SURVEY.reasons)
    survey = replace(SURVEY, reasons=reasons)
    monkeypatch.setattr("latenight_train.trainer.load_survey", lambda *_: survey)
    (tmp_path / "bundle.work").mkdir()
    with pytest.raises(StartupError, match="held out: name more coadds"):
        fit_bundle([tmp_path], tmp_path / "bundle", PLAN, device="cpu")
