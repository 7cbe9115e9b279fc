"""Anomalies are what they say, at the strength that was asked for, in simulated and in real spectra."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.desi import read_coadd
from latenight.spectra import ARMS
from latenight_train.artefacts import Spectrum, signal_to_noise, smooth_model
from latenight_train.inject import KINDS, applies, draw_kind, draw_snr, inject
from latenight_train.observe import photon_variance, sky_variance
from latenight_train.targets import draw_source

if TYPE_CHECKING:
    from pathlib import Path

# Kinds that change what the fluxes mean rather than the fluxes.
NO_FLUX = {"low_variance", "wrong_z"}
# A block cannot be darker than dark, nor a redshift more wrong than wrong: their S/N is as it comes.
OWN_STRENGTH = {"dead_block", "wrong_z"}


def bright(spectype: str, z: float | None = None) -> Spectrum:
    """A bright noisy spectrum with two bad pixels."""
    tracer = {"GALAXY": "BGS", "QSO": "QSO", "STAR": "MWS"}[spectype]
    for seed in range(1000):
        source = draw_source(np.random.default_rng(seed), tracer)
        if source.spectype == spectype and (z is None or abs(source.z - z) < 0.2):
            break
    continuum, lines = sky_variance()
    model = source.flux * 30.0 / np.median(source.flux)
    ivar = (1.0 / (continuum + lines)).astype(np.float32)
    ivar[[100, 4000]] = 0.0
    noise = np.random.default_rng(1).standard_normal(len(model)) * np.sqrt(continuum + lines)
    flux = np.where(ivar > 0, model + noise, 0.0).astype(np.float32)
    return Spectrum(flux, ivar, source.z, spectype, model)


def host(kind: str) -> Spectrum:
    return bright("QSO", 2.2) if kind == "bal" else bright(KINDS[kind].spectypes[0])


@pytest.mark.parametrize("kind", KINDS)
def test_changes_the_spectrum(kind: str) -> None:
    """Every kind changes flux, ivar or redshift, keeps bad pixels bad, and leaves its input alone."""
    spectrum = host(kind)
    before = spectrum.flux.copy(), spectrum.ivar.copy()
    assert applies(kind, spectrum)
    result = inject(kind, np.random.default_rng(3), spectrum, 20.0)
    changed = np.any(result.flux != spectrum.flux)
    assert changed == (kind not in NO_FLUX)
    assert changed or np.any(result.ivar != spectrum.ivar) or result.z != spectrum.z
    assert np.array_equal(result.ivar == 0, spectrum.ivar == 0)
    assert np.isfinite(result.flux).all()
    assert (result.flux[spectrum.ivar == 0] == 0).all()
    assert np.array_equal(spectrum.flux, before[0])
    assert np.array_equal(spectrum.ivar, before[1])


@pytest.mark.parametrize("kind", sorted(set(KINDS) - OWN_STRENGTH))
@pytest.mark.parametrize("snr", [8.0, 30.0])
def test_reaches_the_wanted_strength(kind: str, snr: float) -> None:
    """In a bright spectrum every scalable kind reaches the matched-filter S/N that was asked for."""
    spectrum = host(kind)
    reached = inject(kind, np.random.default_rng(5), spectrum, snr).snr
    if kind == "arm_shift" and reached < snr:
        pytest.skip("this arm has no lines sharp enough for a shift of 3 pixels to be seen so well")
    assert reached == pytest.approx(snr, rel=0.01)


@pytest.mark.parametrize("kind", sorted(kind for kind in KINDS if not KINDS[kind].adds_light))
def test_reported_strength_is_that_of_the_change(kind: str) -> None:
    """The S/N that is reported is sqrt(sum(delta^2 ivar)) of the flux that was really added."""
    if kind in NO_FLUX | OWN_STRENGTH | {"arm_shift"}:  # which moves the noise, too
        return
    spectrum = host(kind)
    result = inject(kind, np.random.default_rng(9), spectrum, 15.0)
    delta = result.flux.astype(float) - spectrum.flux
    assert signal_to_noise(delta, spectrum.ivar) == pytest.approx(result.snr, rel=0.01)


def test_a_shifted_arm_shows_the_moved_light_and_the_same_noise() -> None:
    """What is left of a shifted arm beside its true light, moved, is white noise, however the light was estimated."""
    true = bright("STAR")
    estimated = replace(true, model=smooth_model(true.flux, true.ivar))
    for spectrum in (true, estimated):
        result = inject("arm_shift", np.random.default_rng(4), spectrum, 1e9)  # 3 pixels
        parameters = dict(part.split("=") for part in result.parameters.split())
        arm = ARMS[int(parameters["arm"])]
        assert abs(float(parameters["pixels"])) == 3.0
        light = np.roll(true.model[arm.pixels], round(float(parameters["pixels"])))[10:-10]
        root = np.sqrt(spectrum.ivar[arm.pixels])[10:-10]
        noise = (result.flux[arm.pixels][10:-10] - light) * root
        assert np.std(noise) == pytest.approx(1.0, abs=0.1)
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.1


def test_added_light_brings_its_noise() -> None:
    """A strong line lowers ivar where it shines and nowhere else."""
    spectrum = bright("GALAXY")
    result = inject("foreign_line", np.random.default_rng(2), spectrum, 100.0)
    ratio = result.ivar[spectrum.ivar > 0] / spectrum.ivar[spectrum.ivar > 0]
    assert ratio.min() < 0.95
    assert np.median(ratio) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", sorted(kind for kind in KINDS if KINDS[kind].adds_light))
def test_added_light_has_the_reported_strength_in_its_own_noise(kind: str) -> None:
    """The S/N of added light counts the noise that it brings, given by the depth, not by the host's light."""
    for level in (0.1, 30.0):
        source = host(kind)
        model = source.model * level / 30.0
        depth = 2.0  # in units of 1000 s
        ivar = depth / (sum(sky_variance()) + photon_variance() * np.maximum(model, 0.0))
        spectrum = replace(source, model=model, ivar=ivar.astype(np.float32))
        result = inject(kind, np.random.default_rng(6), spectrum, 20.0)
        extra = 1.0 / result.ivar - 1.0 / spectrum.ivar
        light = extra * depth / photon_variance()
        assert signal_to_noise(light, result.ivar) == pytest.approx(20.0, rel=0.02)
        assert result.snr == pytest.approx(20.0, rel=0.01)


def test_steps_never_exceed_their_limit() -> None:
    """A gain error stays under 60 % however large an S/N is asked for."""
    spectrum = bright("STAR")
    result = inject("step_rz", np.random.default_rng(1), spectrum, 1e6)
    delta = (result.flux - spectrum.flux)[spectrum.ivar > 0]
    assert np.all(np.abs(delta) <= 0.601 * spectrum.model[spectrum.ivar > 0])


def test_same_randomness_same_anomaly() -> None:
    """An injection is determined by the generator that it is given."""
    spectrum = bright("QSO")
    first, second = (inject("cosmic", np.random.default_rng(4), spectrum) for _ in range(2))
    assert np.array_equal(first.flux, second.flux)
    assert first.parameters == second.parameters


def test_faint_spectra_get_only_kinds_that_can_be_seen() -> None:
    """Kinds that scale the object's own light are not put into noise, nor those of another class."""
    source = bright("STAR")
    faint = Spectrum(source.flux * 0, source.ivar, 0.0, "STAR", source.model * 1e-3)
    rng = np.random.default_rng(0)
    drawn = {draw_kind(rng, faint) for _ in range(200)}
    assert "cosmic" in drawn
    assert drawn.isdisjoint({"step_br", "arm_shift", "throughput_bump", "bal", "broad_agn", "wrong_z"})


def test_default_strengths_span_faint_to_obvious() -> None:
    """Strengths drawn by default have median 20 and stay between 6 and 150."""
    rng = np.random.default_rng(0)
    drawn = np.array([draw_snr(rng) for _ in range(2000)])
    assert 18 < np.median(drawn) < 22
    assert drawn.min() >= 6
    assert drawn.max() <= 150


def test_real_spectra_can_receive_them(desi_data: Path) -> None:
    """All kinds that apply go into real spectra, whose noise-free flux is only estimated."""
    real = read_coadd(desi_data / "QuasarNP/test_coadd.fits")
    for row, spectype, z in ((8, "QSO", 0.47), (13, "GALAXY", 0.33), (22, "STAR", 0.0)):
        model = smooth_model(real.flux[row], real.ivar[row])
        spectrum = Spectrum(real.flux[row], real.ivar[row], z, spectype, model)
        red = ARMS[1].pixels
        assert np.median(np.abs(model - real.flux[row])[red] * np.sqrt(real.ivar[row][red])) < 3
        for kind in KINDS:
            if applies(kind, spectrum):
                result = inject(kind, np.random.default_rng(1), spectrum, 20.0)
                assert np.isfinite(result.flux).all()
                assert result.snr > 0
