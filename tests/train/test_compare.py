"""The comparison measures every method on the same spectra, and never on spectra that training saw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.errors import StartupError
from latenight_train import compare
from latenight_train.compare import Method, measure
from latenight_train.compare_report import markdown
from latenight_train.data import Survey
from latenight_train.peers import pca
from latenight_train.simulate import Night, simulate
from latenight_train.unseen import refuse_seen
from tests.bundles import small_survey
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Spectra

MESSAGES = [(spectra, spectra.table["zwarn"] == 0) for spectra in (make_spectra(80, seed=1, petal=1),)]


def oracle(spectra: Spectra) -> NDArray[np.float64]:
    """Knows the ordinary spectra by heart."""
    known = MESSAGES[0][0]
    same = (spectra.flux == known.flux).all(axis=1) & (spectra.ivar == known.ivar).all(axis=1)
    return np.where(same & (spectra.table["z"] == known.table["z"]), 0.0, 1.0)


def blind(spectra: Spectra) -> NDArray[np.float64]:
    """Sees nothing but the number of the row."""
    return np.random.default_rng(0).permutation(len(spectra)).astype(float)


def test_methods_are_measured_by_what_they_find() -> None:
    """A detector that sees everything finds everything; one that sees nothing is a coin."""
    found = measure({"oracle": Method(oracle, 1.0), "blind": Method(blind, None)}, MESSAGES, seed=1)
    assert found["recall"]["oracle"]["0.01"]["mean"] == 1.0
    assert found["auroc"]["oracle"]["mean"] == 1.0
    assert found["recall"]["blind"]["0.01"]["mean"] < 0.2
    assert 0.3 < found["auroc"]["blind"]["mean"] < 0.7


def test_the_table_has_a_row_for_each_method() -> None:
    """The table names every method, with its recall and its times."""
    found = measure({"oracle": Method(oracle, 12.0), "blind": Method(blind, None)}, MESSAGES, seed=1)
    text = markdown({"seed": 1, "training_spectra": 7, **json.loads(json.dumps(found))})
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "| 1.000 |" in rows["oracle"]
    assert "| 12 |" in rows["oracle"]
    assert "| - |" in rows["blind"]


def test_spectra_that_training_saw_are_refused() -> None:
    """Testing on a file that training saw is an error that names the file."""
    survey = small_survey()
    tested = Survey(survey.flux, survey.ivar, survey.table, survey.reasons, [("coadd-0.fits", 0, "digest")])
    refuse_seen(tested, ["other"], "the peers train")
    with pytest.raises(StartupError, match=r"coadd-0\.fits"):
        refuse_seen(tested, ["digest"], "the peers train")


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says at once what to install."""
    monkeypatch.setattr(compare, "LIBRARIES", ("no_such_library",))
    with pytest.raises(StartupError, match=r"no_such_library: install latenight\[compare\]"):
        compare.compare([tmp_path], tmp_path, bundle=None, night=[], seed=1)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """One peer that needs no extra, and one round of anomalies."""
    monkeypatch.setattr(compare, "PEERS", (pca.fit,))
    monkeypatch.setattr(compare, "LIBRARIES", ())
    monkeypatch.setattr(compare, "MAX_ROUNDS", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated tile of four small petals."""
    folder = tmp_path_factory.mktemp("night")
    simulate(Night(folder, 20260101, 1, 4, 60, 1, 0.0), processes=1)
    return folder


def test_ours_is_measured_on_another_night(data: Path, bundle: Path, tmp_path: Path, cheap: None) -> None:
    """With --night all petals of DATA train the peers, and a bundle stands beside them in the results."""
    simulate(Night(tmp_path / "night", 20260102, 1, 1, 60, 2, 0.0), processes=1)
    text = compare.compare([data], tmp_path / "out", bundle=bundle, night=[tmp_path / "night"], seed=1)
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert len(found["training_files"]) == 4
    assert len(found["tested_files"]) == 1
    assert set(found["recall"]) == {"weighted PCA, chi2", "weighted PCA, chi2 + kNN", "latenight, p_value"}
    assert 0.0 < found["auroc"]["latenight, p_value"]["mean"] < 1.0
    assert "| latenight, p_value |" in text
    with pytest.raises(StartupError, match=r"coadd-0-10100-thru20260101\.fits"):
        compare.compare([data], tmp_path / "out", bundle=None, night=[data], seed=1)


def test_held_out_petals_are_compared(data: Path, tmp_path: Path, cheap: None) -> None:
    """Without --night the command trains on some petals, tests on the others and writes both results."""
    text = compare.compare([data], tmp_path / "out", bundle=None, night=[], seed=1)
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["spectra"]["ordinary"] > 20
    assert found["training_spectra"] > 60
    assert (tmp_path / "out/comparison.md").read_text() == text
    assert "weighted PCA, chi2 + kNN" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.json", "comparison.md"]
