"""The commands as users run them: files and both Kafka payloads give the same scores and alert ids."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.wire import decode_scores, read_parquet
from tests.coadds import HEADER, coadd_hdus, make_redshifts, write_hdus
from tests.contract.test_broker import read_all
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path

PETALS, ROWS = 3, 40
BUDGET = "20000"  # alerts on every fifth spectrum of the untrained bundle


def run(*arguments: object) -> str:
    """Standard output of a latenight command that succeeds."""
    command = [sys.executable, "-m", "latenight", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def coadds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three petals and their redshifts."""
    folder = tmp_path_factory.mktemp("coadds")
    for petal in range(PETALS):
        spectra = make_spectra(ROWS, seed=20 + petal, petal=petal)
        header = {**HEADER, "PETAL": petal}
        write_hdus(folder / f"coadd-{petal}-1000-thru20260101.fits", coadd_hdus(spectra), header)
        redshifts = {"REDSHIFTS": make_redshifts(spectra.table)}
        write_hdus(folder / f"redrock-{petal}-1000-thru20260101.fits", redshifts)
    return folder


@pytest.fixture(scope="module")
def scored(bundle: Path, coadds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `latenight score` makes of them: scores.parquet and alerts.jsonl."""
    out = tmp_path_factory.mktemp("scored")
    files = ("--out", out / "scores.parquet", "--alerts", out / "alerts.jsonl")
    run("score", coadds, "--bundle", bundle, *files, "--device", "cpu", "--budget", BUDGET)
    return out


def sorted_rows(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows in the order of petal and row."""
    order = np.lexsort((table["row"], table["petal"]))
    return {name: values[order] for name, values in table.items()}


@pytest.mark.kafka
@pytest.mark.parametrize("payload", ["pointer", "inline"])
def test_serve_and_score_agree(
    payload: str, bundle: Path, coadds: Path, scored: Path, kafka_server: str
) -> None:
    """Announced by pointer or inline, spectra get the scores and alert ids that `score` gives their files."""
    prefix = f"e2e-{uuid.uuid4().hex[:8]}"
    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", prefix)
    run("topics", "create", *kafka)
    run("announce", coadds, "--payload", payload, *kafka)
    run(
        "serve",
        "--bundle",
        bundle,
        "--drain",
        "--root",
        coadds,
        "--budget",
        BUDGET,
        "--device",
        "cpu",
        *kafka,
    )

    messages = read_all(KafkaBroker(kafka_server), Topics(prefix).scores)
    assert len(messages) == PETALS
    parts = [decode_scores(message.value) for message in messages]
    served = sorted_rows({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    expected = sorted_rows(read_parquet(scored / "scores.parquet"))
    assert served.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(served[name], values, err_msg=name)

    lines = run("alerts", "--from-beginning", "--until-end", *kafka).splitlines()
    found = {packet["alert_id"]: packet for packet in map(json.loads, lines)}
    wanted = [json.loads(line) for line in (scored / "alerts.jsonl").read_text().splitlines()]
    assert len(lines) == len(found) == len(wanted) > 0
    for packet in wanted:
        assert {**found[packet["alert_id"]], "created": ""} == {**packet, "created": ""}


def test_every_fibre_of_the_real_coadds_is_scored_or_named(
    desi_data: Path, bundle: Path, tmp_path: Path
) -> None:
    """Each fibre of each real coadd is one row, with finite scores or with the reason why not."""
    files = [*sorted(desi_data.rglob("coadd-*.fits")), desi_data / "QuasarNP/test_coadd.fits"]
    run(
        "score", *files, "--bundle", bundle, "--out", tmp_path / "s.parquet", "--alerts", tmp_path / "a.jsonl"
    )
    table = read_parquet(tmp_path / "s.parquet")
    assert len(table["row"]) == 1 + 1 + 5 + 2 + 25
    eligible = table["eligible"]
    assert table["reason"][~eligible].tolist() == ["no_data"]  # the dead fibre 11 of QuasarNP
    for name in ("log_prob", "chi2", "knn_distance", "sigma", "p_value"):
        assert np.isfinite(table[name][eligible]).all()
