"""Peers learn from training spectra and give every spectrum of a message one score."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from latenight.spectra import N_PIX, WAVE, ineligible_reasons
from latenight_train.compare import trained, training_of
from latenight_train.peers import autoencoder, pca, umap_groups, vae
from latenight_train.peers.isolation import Bank, surprise
from latenight_train.peers.training import observed
from tests.bundles import small_survey, survey_of
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latenight.spectra import Spectra
    from latenight_train.peers.training import Fit, Score

SURVEY = small_survey()
TRAINING = training_of(SURVEY, np.ones(len(SURVEY.table), bool), seed=1)
LIBRARIES = {"pca": (), "autoencoder": (), "vae": ("pyod",), "umap_groups": ("umap", "scipy")}
FITS: dict[str, Fit] = {
    "pca": pca.fit, "autoencoder": autoencoder.fit, "vae": vae.fit, "umap_groups": umap_groups.fit
}  # fmt: skip


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """Networks of a few neurons, trained for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "HIDDEN", (32, 16))
        patch.setattr(autoencoder, "EPOCHS", 4)
        yield


@pytest.fixture(scope="module", params=FITS)
def scores(request: pytest.FixtureRequest, small_networks: None) -> dict[str, Score]:
    """The scores of one peer, trained on the small survey."""
    for library in LIBRARIES[request.param]:
        pytest.importorskip(library, reason=f"{library} is in the extra latenight[compare]")
    return {name: method.score for name, method in trained([FITS[request.param]], TRAINING).items()}


def message(n: int = 80) -> Spectra:
    return make_spectra(n, seed=99, petal=9)


def test_every_eligible_spectrum_has_one_finite_score(scores: dict[str, Score]) -> None:
    """A score is one finite number for each eligible spectrum of a message."""
    spectra = message()
    eligible = ineligible_reasons(spectra) == ""
    for score in scores.values():
        found = score(spectra)
        assert found.shape == (len(spectra),)
        assert np.isfinite(found[eligible]).all()
        assert len(np.unique(found[eligible])) > 10


def test_the_order_of_a_message_does_not_matter(scores: dict[str, Score]) -> None:
    """The same spectra in another order get the same scores."""
    spectra = message()
    order = np.random.default_rng(0).permutation(len(spectra))
    for name, score in scores.items():
        np.testing.assert_allclose(score(spectra.take(order)), score(spectra)[order], rtol=1e-4, err_msg=name)


def test_a_bad_pixel_has_no_influence(scores: dict[str, Score]) -> None:
    """What a file says of the flux in a bad pixel does not change a score."""
    spectra = message()
    flux = np.where(spectra.ivar > 0, spectra.flux, 1e3).astype(np.float32)
    changed = replace(spectra, flux=flux)
    for name, score in scores.items():
        np.testing.assert_array_equal(score(changed), score(spectra), err_msg=name)


def test_a_spectrum_unlike_all_others_is_strange(scores: dict[str, Score]) -> None:
    """A bright spectrum of broad stripes scores higher than nine tenths of the ordinary ones."""
    spectra = message()
    eligible = np.flatnonzero(ineligible_reasons(spectra) == "")
    row = eligible[len(eligible) // 2]
    stripes = 30.0 * np.sign(np.sin(np.arange(spectra.flux.shape[1]) / 300.0))
    spectra.flux[row] = np.where(spectra.ivar[row] > 0, stripes, 0.0)
    for name, score in scores.items():
        if name.startswith("UMAP"):
            pytest.skip("UMAP gives every spectrum 15 neighbours: it draws a lone one into the crowd")
        found = score(spectra)
        assert np.mean(found[eligible] < found[row]) > 0.9, name


def test_the_seed_decides_the_scores(small_networks: None) -> None:
    """Training twice with one seed gives the same scores."""
    first, second = (trained([pca.fit, autoencoder.fit], TRAINING) for _ in range(2))
    for name, method in first.items():
        np.testing.assert_array_equal(method.score(message()), second[name].score(message()))


def test_components_are_learned_from_noisy_spectra() -> None:
    """Spectra of three templates, a third of their pixels bad, teach components that fit others to their noise."""
    rng = np.random.default_rng(3)
    phase = WAVE / 400.0
    templates = np.stack([np.ones(N_PIX), np.sin(phase), np.cos(3.0 * phase)])

    def petal(number: int) -> Spectra:
        spectra = make_spectra(60, seed=number, petal=number)
        ivar = np.where(rng.random(spectra.ivar.shape) < 0.33, 0.0, 25.0).astype(np.float32)
        model = rng.normal([5.0, 0.0, 0.0], 1.0, size=(60, 3)) @ templates
        flux = np.where(ivar > 0, model + rng.normal(size=ivar.shape) / 5.0, 0.0).astype(np.float32)
        return replace(spectra, flux=flux, ivar=ivar)

    survey = survey_of([petal(number) for number in range(4)])
    components = pca.fit_components(training_of(survey, np.ones(len(survey.table), bool), seed=1))
    other = petal(9)
    _, chi2 = pca.project(components, *observed(other.flux, other.ivar))
    np.testing.assert_allclose(chi2, 1.0, atol=0.3)  # .02 of noise, and the noise that was learned


def test_surprise_is_minus_the_log_of_the_share_of_ordinary_scores() -> None:
    """-ln p is right inside the reference, goes on rising beyond it, and ends at its floor of no surprise."""
    reference = np.random.default_rng(0).lognormal(size=20_000)
    probe = np.quantile(reference, [0.5, 0.9, 0.96])
    np.testing.assert_allclose(np.exp(-surprise(probe, reference)), [0.5, 0.1, 0.04], rtol=0.01)
    beyond = surprise(reference.max() * np.array([1.0, 2.0, 4.0]), reference)
    assert (np.diff(beyond) > 0.5).all()
    assert surprise(np.array([0.0]), reference)[0] == pytest.approx(0.0, abs=1e-3)


def test_isolation_is_measured_in_widths_of_each_axis() -> None:
    """A latent is as isolated along a wide axis as along a narrow one if it is as many widths away."""
    rng = np.random.default_rng(0)
    width = np.array([1.0, 100.0])
    bank = Bank(torch.tensor(rng.normal(size=(2000, 2)) * width, dtype=torch.float32))
    inside, narrow, wide = bank.distance(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 1000.0]]))
    assert inside < 0.2
    assert narrow == pytest.approx(wide, rel=0.1)
    assert 6.0 < narrow < 10.0


def test_the_linking_length_tells_islands_from_the_crowd() -> None:
    """Lone points and small islands join a large group late, members of large groups early."""
    pytest.importorskip("scipy", reason="scipy is in the extra latenight[compare]")
    rng = np.random.default_rng(1)
    crowds = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 50.0])
    island = rng.normal(size=(3, 2)) * 0.1 + [0.0, 20.0]
    lengths = umap_groups.linking_length(np.concatenate([crowds, island, [[-30.0, 0.0]]]))
    assert lengths[:200].max() < 5.0
    assert (lengths[200:203] > 10.0).all()
    assert lengths[203] > 20.0
