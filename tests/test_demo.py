"""The whole way in one process, and how it is judged."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from latenight.cli import main
from latenight.demo import Count, Truth, evaluate, read_truth, report, run, save
from latenight.errors import BadInput
from latenight.wire import read_parquet
from tests.coadds import write_coadd
from tests.fakes import DEAD_ROW, SKY_ROWS, FakeScorer, add_spikes, make_spectra

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = 0.1  # only spikes alert
N_PETALS, N = 2, 20


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Two petals; in each an injected spike, a natural one, one that nobody knows of, and a faint anomaly."""
    folder = tmp_path / "night"
    folder.mkdir()
    lines = ["TARGETID,KIND,WRONG_Z,MISSED_COSMIC"]
    for petal in range(N_PETALS):
        spectra = add_spikes(make_spectra(N, seed=petal), [3, 8, 10])
        write_coadd(folder, spectra, f"coadd-{petal}-1000-thru20260101.fits")
        targets = spectra.table["targetid"]
        lines += [f"{targets[3]},cosmic,0,0", f"{targets[8]},,0,0", f"{targets[DEAD_ROW]},cosmic,0,0"]
        lines += [f"{targets[9]},faint,0,0", f"{targets[10]},,0,1", f"{targets[11]},,1,0"]
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_night_is_announced_served_and_received(night: Path) -> None:
    """Each coadd is scored once, and the subscriber gets the packets of all alerts, oddest first."""
    messages, alerts = run(night, FakeScorer(), BUDGET)
    assert sorted(len(spectra) for spectra, _ in messages) == [N] * N_PETALS
    assert sorted(alert["target"]["row"] for alert in alerts) == [3, 3, 8, 8, 10, 10]
    p_values = [alert["scores"]["p_value"] for alert in alerts]
    assert p_values == sorted(p_values)


def test_what_was_found_is_counted_among_eligible_spectra(night: Path) -> None:
    """Alerting injections are found, ordinary spectra that alert are false, natural trouble is neither."""
    truth = read_truth(night)
    messages, alerts = run(night, FakeScorer(), BUDGET)
    evaluation = evaluate(messages, alerts, truth)
    assert evaluation.injected == {"cosmic": 2, "faint": 2}
    assert evaluation.alerted == Count(Counter(cosmic=2), n_false=2, n_natural=2)
    assert evaluation.n_ordinary == N_PETALS * (N - 3 - 4)
    assert evaluation.n_natural == N_PETALS * 2
    assert evaluation.measured.n_false == 0


def test_the_rate_of_one_per_cent_is_measured_on_the_ordinary_spectra() -> None:
    """With many ordinary spectra just about one in a hundred lies below the measured threshold."""
    spectra = make_spectra(400, seed=1)
    scores = FakeScorer().score(spectra)
    evaluation = evaluate([(spectra, scores)], [], Truth({}, {}))
    assert 0.0 <= 0.01 * evaluation.n_ordinary - evaluation.measured.n_false < 1.0
    assert evaluation.alerted.n_false == 0
    assert not evaluation.injected


def test_a_night_of_injections_only_has_no_false_alerts() -> None:
    """Without ordinary spectra no threshold can be measured, and nothing is false."""
    spectra = make_spectra(10, seed=1)
    truth = Truth(dict.fromkeys(spectra.table["targetid"].tolist(), "cosmic"), {})
    evaluation = evaluate([(spectra, FakeScorer().score(spectra))], [], truth)
    assert (evaluation.n_ordinary, evaluation.measured.n_false) == (0, 0)


def test_the_results_are_left_in_a_folder(night: Path, tmp_path: Path) -> None:
    """Scores, valid packets and a picture of each of the best alerts; those of an earlier run are gone."""
    out, truth = tmp_path / "demo", read_truth(night)
    messages, alerts = run(night, FakeScorer(), BUDGET)
    (out / "plots").mkdir(parents=True)
    for name in ("01-of-the-last-run.png", "mine.png"):
        (out / "plots" / name).touch()
    save(out, messages, alerts, truth)
    assert len(read_parquet(out / "scores.parquet")["row"]) == N_PETALS * N
    schema = json.loads(files("latenight").joinpath("schema/alert-1.0.json").read_text())
    for line in (out / "alerts.jsonl").read_text().splitlines():
        Draft202012Validator(schema).validate(json.loads(line))
    pictures = sorted(path.name for path in (out / "plots").iterdir())
    expected = [f"{rank:02d}-{alert['target']['targetid']}.png" for rank, alert in enumerate(alerts, 1)]
    assert pictures == [*expected, "mine.png"]


def test_the_report_names_numbers_and_the_best_alerts(night: Path) -> None:
    """The report says how many were found at which false-alert rate, by kind, and lists the best alerts."""
    truth = read_truth(night)
    messages, alerts = run(night, FakeScorer(), BUDGET)
    text = report(evaluate(messages, alerts, truth), alerts, truth, BUDGET)
    assert "found 2 of 4 injected anomalies; 2 false among 26 ordinary spectra (7.69 %)" in text
    best = [line.split() for line in text.splitlines() if line[:1].isdigit() and "faults" not in line]
    assert [row[1] for row in best] == [alert["target"]["targetid"] for alert in alerts]
    assert sorted(row[-1] for row in best) == ["(cosmic)", "(cosmic)", "-", "-", "cosmic", "cosmic"]


def test_a_fault_of_a_petal_counts_for_all_its_members(tmp_path: Path) -> None:
    """Injections that a group packet names are found; the report tells the fault, and no picture is made of it."""
    spectra = add_spikes(make_spectra(N, seed=3), range(8, 18))
    write_coadd(tmp_path, spectra, "coadd-0-1000-thru20260101.fits")
    rows = [f"{target},offset,0,0" for target in spectra.table["targetid"][8:18]]
    (tmp_path / "truth.csv").write_text("\n".join(["TARGETID,KIND,WRONG_Z,MISSED_COSMIC", *rows]))
    truth = read_truth(tmp_path)
    messages, alerts = run(tmp_path, FakeScorer(), BUDGET)
    assert [alert["kind"] for alert in alerts] == ["group"]
    evaluation = evaluate(messages, alerts, truth)
    assert evaluation.alerted.found == {"offset": 10 - (12 in SKY_ROWS)}
    assert "1 faults of a petal:\n9 of 9 spectra of petal 0" in report(evaluation, alerts, truth, BUDGET)
    save(tmp_path / "demo", messages, alerts, truth)
    assert not list((tmp_path / "demo" / "plots").iterdir())


def test_an_alert_without_redshift_has_its_line(night: Path) -> None:
    """Numbers that a packet does not have are shown as a dash."""
    truth = read_truth(night)
    messages, alerts = run(night, FakeScorer(), BUDGET)
    bare: dict[str, Any] = {**alerts[0], "redrock": {**alerts[0]["redrock"], "z": None}}
    last = report(evaluate(messages, [bare], truth), [bare], truth, BUDGET).splitlines()[-1].split()
    assert last[3] == "-"


def test_a_night_without_coadds_or_truth_is_refused(tmp_path: Path) -> None:
    """The error says what is missing and how to make it."""
    with pytest.raises(BadInput, match="no coadd"):
        run(tmp_path, FakeScorer(), BUDGET)
    with pytest.raises(BadInput, match="latenight-train simulate --inject"):
        read_truth(tmp_path)


def test_the_command_prints_the_report(night: Path, bundle: Path, tmp_path: Path) -> None:
    """`latenight demo` prints the report on standard output and leaves the files."""
    arguments = ["demo", "--bundle", str(bundle), "--night", str(night), "--out", str(tmp_path / "demo")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "injected anomalies" in result.stdout
    assert np.isfinite(read_parquet(tmp_path / "demo" / "scores.parquet")["p_value"]).any()
