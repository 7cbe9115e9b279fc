"""Redrock's template files, where a folder of them is named, are what spectra are drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from latenight.desi import find_coadds, read_coadd
from latenight.errors import StartupError
from latenight.spectra import N_PIX
from latenight_train.cli import main
from latenight_train.simulate import Night, simulate_petal
from latenight_train.templates import draw_template, load_library

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("spectype", "z"), [("GALAXY", 0.4), ("QSO", 0.9), ("QSO", 2.4), ("STAR", 0.0)])
def test_spectra_of_each_class(desi_data: Path, spectype: str, z: float) -> None:
    """Every class has templates; spectra are positive, of median 1, and not a mixture of few vectors."""
    library = load_library(desi_data / "redrock-templates")
    drawn = [draw_template(np.random.default_rng(seed), spectype, z, library) for seed in range(12)]
    flux = np.array([one[0] for one in drawn if one is not None])
    assert flux.shape == (12, N_PIX)
    assert np.isfinite(flux).all()
    assert (flux > -1e-6).all()
    assert np.allclose(np.median(flux, axis=1), 1.0)
    strength = np.linalg.svd(flux, compute_uv=False)
    # Bases have 4 or 5 vectors: what lies beyond is the variety that is added to them.
    assert strength[6] > 1e-3 * strength[0]


def test_a_survey_from_templates(desi_data: Path, tmp_path: Path) -> None:
    """A petal drawn from templates differs from the one drawn from formulas."""
    plan = Night(tmp_path / "a", 20260101, 1, 1, 10, 1, 0.0, desi_data / "redrock-templates")
    real, _ = simulate_petal(plan, 0, 0)
    own, _ = simulate_petal(replace(plan, out=tmp_path / "b", templates=None), 0, 0)
    assert not np.array_equal(read_coadd(real).flux, read_coadd(own).flux)


def test_the_variable_of_redrock_names_them(
    desi_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RR_TEMPLATE_DIR makes the command use the templates."""
    command = ["simulate", "--tiles", "1", "--petals", "1", "--spectra", "6"]
    own, real = tmp_path / "own", tmp_path / "real"
    assert CliRunner().invoke(main, [*command, str(own)]).exit_code == 0
    monkeypatch.setenv("RR_TEMPLATE_DIR", str(desi_data / "redrock-templates"))
    assert CliRunner().invoke(main, [*command, str(real)]).exit_code == 0
    spectra = [read_coadd(find_coadds([folder])[0]) for folder in (own, real)]
    assert not np.array_equal(spectra[0].flux, spectra[1].flux)


def test_a_folder_without_templates_is_refused(tmp_path: Path) -> None:
    """A folder that holds no template file is an error that names the folder."""
    with pytest.raises(StartupError, match=str(tmp_path)):
        load_library(tmp_path)
