"""Messages with injected anomalies: what changes, what does not, and what counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from latenight.spectra import Spectra, ineligible_reasons
from latenight_train.inject import KINDS
from latenight_train.injected import MIN_SNR, SHARE, Injected, injected_messages, ordinary_rows, rounds_needed
from tests.fakes import DEAD_ROW, SKY_ROWS, UNKNOWN_ROW, make_spectra

ROWS = 150
ROUNDS = 4

Versions = list[Injected]


def petal(seed: int, n: int = ROWS) -> tuple[Spectra, np.ndarray]:
    """A fake message, bright enough for all kinds, every fourth redshift doubtful; and its ordinary rows."""
    spectra = make_spectra(n, seed=seed, petal=seed)
    table = spectra.table.copy()
    table["zwarn"][::4] = 4
    spectra = replace(spectra, flux=5.0 * spectra.flux, table=table)
    return spectra, ordinary_rows(spectra, ineligible_reasons(spectra))


@pytest.fixture(scope="module")
def versions() -> Versions:
    return list(injected_messages([petal(0), petal(1)], ROUNDS, seed=3))


def test_every_message_comes_untouched_and_then_in_rounds(versions: Versions) -> None:
    """Round 0 is the message itself; as many rounds with anomalies follow as were asked for."""
    assert [(v.message, v.round) for v in versions] == [(m, r) for m in (0, 1) for r in range(ROUNDS + 1)]
    for version in versions[:: ROUNDS + 1]:
        spectra, ordinary = petal(version.message)
        assert np.array_equal(version.spectra.flux, spectra.flux)
        assert np.array_equal(version.truth["counts"], ordinary)
        assert (version.truth["kind"] == "").all()


def test_only_rows_with_an_anomaly_change(versions: Versions) -> None:
    """A row without anomaly is bit for bit the one that came; one with an anomaly differs."""
    for version in versions:
        spectra, _ = petal(version.message)
        same = (version.spectra.flux == spectra.flux).all(axis=1) & (
            version.spectra.ivar == spectra.ivar
        ).all(axis=1)
        same &= (version.spectra.table["z"] == spectra.table["z"]) | np.isnan(spectra.table["z"])
        assert np.array_equal(same, version.truth["kind"] == "")


@pytest.mark.parametrize("n", [50, ROWS])
def test_few_rows_of_a_message_change_at_once(n: int) -> None:
    """No round changes more than the share that leaves the petal step alone, be a fault ever so wide."""
    for version in injected_messages([petal(seed, n) for seed in range(4)], 3, seed=1):
        assert np.count_nonzero(version.truth["kind"]) <= round(SHARE * n)


def test_only_anomalies_in_ordinary_spectra_count(versions: Versions) -> None:
    """What counts in a round has a kind and an ordinary host; sky, dead and doubtful rows never count."""
    for version in versions:
        _, ordinary = petal(version.message)
        assert not ordinary[::4].any()
        assert not version.truth["counts"][[*SKY_ROWS, DEAD_ROW, UNKNOWN_ROW]].any()
        if version.round:
            assert np.array_equal(version.truth["counts"], ordinary & (version.truth["kind"] != ""))


def test_kinds_come_equally_often() -> None:
    """Kinds that find hosts differ in number by no more than the fibres of one fault."""
    counts: Counter[str] = Counter()
    for version in injected_messages([petal(k) for k in range(3)], 8, seed=1):
        counts.update(version.truth["kind"][version.truth["counts"]].tolist())
    everywhere = [
        counts[kind] for kind in ("cosmic", "bad_column", "sky_residual", "fringing", "foreign_line")
    ]
    assert min(everywhere) >= 8
    assert max(everywhere) - min(everywhere) <= 2
    assert len([kind for kind in counts if kind]) >= 20


def test_no_anomaly_is_too_weak_to_be_seen(versions: Versions) -> None:
    """Every fault reaches the S/N where strengths begin, in at least one of its spectra."""
    for version in versions:
        truth = version.truth[version.truth["kind"] != ""]
        for cluster in np.unique(truth["cluster"]):
            assert truth["matched_snr"][truth["cluster"] == cluster].max() >= MIN_SNR


def test_an_amplifier_hits_neighbours_alike(versions: Versions) -> None:
    """The offsets of one amplifier fault lie in fibres close together, in the same pixels and with one sign."""
    found = 0
    for version in versions:
        truth, (spectra, _) = version.truth, petal(version.message)
        for cluster in np.unique(truth["cluster"][truth["kind"] == "amplifier_offset"]):
            rows = np.flatnonzero((truth["kind"] == "amplifier_offset") & (truth["cluster"] == cluster))
            fibers = np.sort(version.spectra.table["fiber"][rows])
            assert np.ptp(fibers) < 12
            delta = version.spectra.flux[rows] - spectra.flux[rows]
            both = (spectra.ivar[rows] > 0).all(axis=0)
            assert (np.sign(delta[:, both]) == np.sign(delta[:1, both])).all()
            found += len(rows) > 1
    assert found


def test_crosstalk_comes_from_a_brighter_neighbour(versions: Versions) -> None:
    """Beside every fibre with crosstalk stands a fibre that is brighter."""
    found = 0
    for version in versions:
        spectra, _ = petal(version.message)
        for row in np.flatnonzero(version.truth["kind"] == "crosstalk"):
            fiber = spectra.table["fiber"][row]
            light = np.median(spectra.flux[:, 2751:5077], axis=1)
            near = np.isin(spectra.table["fiber"], [fiber - 1, fiber + 1])
            assert light[near].max() > 2 * light[row]
            found += 1
    assert found


def test_the_seed_decides() -> None:
    """The same seed gives the same anomalies; another seed others."""
    first, again, other = (list(injected_messages([petal(0)], 1, seed=seed))[1] for seed in (1, 1, 2))
    assert np.array_equal(first.spectra.flux, again.spectra.flux)
    assert not np.array_equal(first.spectra.flux, other.spectra.flux)


def test_known_trouble_is_not_ordinary() -> None:
    """A TARGETID that is excluded, and a redshift with a warning, leave the ordinary rows."""
    spectra, ordinary = petal(0)
    excluded, doubtful = np.flatnonzero(ordinary)[1:3]
    table = spectra.table.copy()
    table["zwarn"][doubtful] = 4
    changed = replace(spectra, table=table)
    found = ordinary_rows(changed, ineligible_reasons(changed), [int(table["targetid"][excluded])])
    assert np.array_equal(np.flatnonzero(found != ordinary), [excluded, doubtful])


def test_rounds_give_every_kind_its_number() -> None:
    """4000 rows need five rounds for sixty of each kind; a handful needs many."""
    assert rounds_needed(4000, 60) == np.ceil(60 * len(KINDS) / 320)
    assert rounds_needed(10, 1) == len(KINDS)
