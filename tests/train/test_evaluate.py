"""The harness from files to tables."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner

from latenight.bundle import write_manifest
from latenight.errors import StartupError
from latenight.scorer import load_scorer
from latenight.scores import CHANNELS
from latenight_train import remember
from latenight_train.cli import main
from latenight_train.data import load_survey, objects
from latenight_train.evaluate import evaluate
from latenight_train.simulate import Night, simulate
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path

N = 40
ROWS = 60


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    simulate(Night(folder, 20260105, 1, 2, N, 11, 0.2), processes=1)
    return folder


@pytest.fixture(scope="module")
def results(bundle: Path, night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    done = CliRunner().invoke(main, ["evaluate", str(bundle), str(night), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == (out / "evaluation.md").read_text().strip()
    return out


@pytest.fixture(scope="module")
def evaluation(results: Path) -> Any:
    return json.loads((results / "evaluation.json").read_text())


def test_the_results_are_complete(results: Path, evaluation: Any) -> None:
    """Every channel has a recall at every rate; the arrays on disk are those that were measured; nothing is left."""
    assert {"p_value", "chi2", "log_prob", *(f"p_{channel}" for channel in CHANNELS)} <= set(
        evaluation["recall"]
    )
    for rates in evaluation["recall"].values():
        assert list(rates) == ["0.001", "0.005", "0.01", "0.02"]
        assert all(0 <= value <= 1 for by_kind in rates.values() for value in by_kind.values())
    trials = np.load(results / "trials.npy")
    ordinary = trials["kind"] == ""
    assert evaluation["spectra"]["ordinary"] == np.count_nonzero(ordinary)
    assert sum(evaluation["spectra"]["injected"].values()) == np.count_nonzero(~ordinary)
    assert len(evaluation["spectra"]["injected"]) >= 18
    assert not [path for path in results.iterdir() if path.is_dir()]


def test_targets_that_training_saw_do_not_count(
    bundle: Path, night: Path, results: Path, tmp_path: Path
) -> None:
    """A target of the training is no host and no ordinary spectrum, whatever file it comes in again."""
    seen = np.unique(np.load(results / "trials.npy")["targetid"])[:30]
    table = load_survey([night], tmp_path / "cache").table
    elsewhere = objects(table)
    elsewhere["ra"] += 1.0  # of another simulation with the same numbers
    known = np.concatenate([objects(table)[np.isin(table["targetid"], seen)], elsewhere])
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    with np.load(copied / "calibration.npz") as file:
        arrays = {**file, "trained_objects": known}
    np.savez(copied / "calibration.npz", **arrays)
    write_manifest(copied, {})
    evaluate(copied, [night], tmp_path, seed=1)
    trials = np.load(tmp_path / "trials.npy")
    assert len(trials) > 30
    assert not np.isin(trials["targetid"], seen).any()


def test_bins_and_cells_hold_every_spectrum_once(evaluation: Any) -> None:
    """The bins of a kind add up to its number, and the cells of a spectype to its spectra."""
    for bins in (evaluation["by_amplitude"], evaluation["by_snr"]):
        for kind, n in evaluation["spectra"]["injected"].items():
            assert sum(cell["n"] for cell in bins["kinds"][kind]) == n
    cells = {
        cell["spectype"]: cell["n"] for cell in evaluation["false_alerts"] if cell["snr"] == [None, None]
    }
    assert cells.pop("all") == sum(cells.values()) == evaluation["spectra"]["ordinary"]


def test_the_picture_shows_something(results: Path) -> None:
    """evaluation.png is a picture of four panels that are not empty."""
    picture = matplotlib.image.imread(results / "evaluation.png")
    height, width = (n // 2 for n in picture.shape[:2])
    for panel in (
        picture[:height, :width],
        picture[:height, width:],
        picture[height:, :width],
        picture[height:, width:],
    ):
        assert panel[..., :3].std() > 0.05


def test_p_value_leads_itself_by_nothing(evaluation: Any) -> None:
    """The interval of a score's lead is that of a difference on the same samples: zero for p_value over itself."""
    found = evaluation["mean_recall"]
    assert found["p_value"]["lead"] == [0, 0]
    for name, intervals in found.items():
        low, high = intervals["interval"]
        assert low <= high, name


def test_troubled_spectra_count_neither_way(night: Path, results: Path) -> None:
    """A spectrum that truth.csv calls anomalous or troubled is neither ordinary nor a host."""
    lines = (night / "truth.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    troubled = {
        int(r["TARGETID"]) for r in rows if r["KIND"] or r["WRONG_Z"] == "1" or r["MISSED_COSMIC"] == "1"
    }
    assert len(troubled) >= 5
    assert not troubled & set(np.load(results / "trials.npy")["targetid"].tolist())


def test_the_same_seed_gives_the_same_results(
    bundle: Path, night: Path, results: Path, tmp_path: Path
) -> None:
    """A second run differs in its seconds only; another seed draws other anomalies."""
    evaluate(bundle, [night], tmp_path, seed=1)
    first, again = (json.loads((f / "evaluation.json").read_text()) for f in (results, tmp_path))
    assert first | {"seconds": 0} == again | {"seconds": 0}


def test_training_spectra_are_refused(bundle: Path, night: Path, tmp_path: Path) -> None:
    """A coadd that the manifest names as training data is an error that names it."""
    survey = load_survey([night], tmp_path / "cache")
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    write_manifest(copy, {"training": {"files": {name: digest for name, _, digest in survey.files}}})
    with pytest.raises(StartupError, match="coadd-0-10500-thru20260105"):
        evaluate(copy, [night], tmp_path / "out", seed=1)


@pytest.mark.parametrize("capacity", [3, 1000])
def test_remembered_rows_score_as_new_ones(
    bundle: Path, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions that differ in one flux, one ivar, one redshift or one class score as if nothing were remembered."""
    monkeypatch.setattr(remember, "CAPACITY", capacity)
    remembering, plain = load_scorer(bundle, passes=remember.RememberingPasses), load_scorer(bundle)
    spectra = make_spectra(ROWS, seed=4)
    flux, ivar, table = spectra.flux.copy(), spectra.ivar.copy(), spectra.table.copy()
    flux[0, 1000:1100] += 50.0
    ivar[1, 2000:3000] *= 9.0
    table["z"][3] = 1.4
    table["spectype"][4] = "STAR" if table["spectype"][4] == "GALAXY" else "GALAXY"
    changed = replace(spectra, flux=flux, ivar=ivar, table=table)
    names = ["log_prob", "chi2", "knn_distance", "sigma"]
    before = plain.score(spectra).table
    for version in (spectra, changed, spectra):
        found, expected = (scorer.score(version).table for scorer in (remembering, plain))
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        # What stands out by more than the tolerance above: the remembered values would fail it.
        differs = [abs(expected[name] / before[name] - 1)[[0, 1, 3, 4]] > 1e-4 for name in names]
        assert np.any(differs, axis=0).all() == (version is changed)
