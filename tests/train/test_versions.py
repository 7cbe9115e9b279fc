"""What the calibration sees of a survey: messages as they came, and as they might have come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latenight.spectra import UNKNOWN, Spectra
from latenight_train.versions import MIXED, OF_SEEN, versions
from tests.fakes import make_spectra

N = 20
PETALS = 12
EVERY = np.ones(N * PETALS, bool)
REASONS = np.full(N * PETALS, "", "U12")
REASONS[::N] = "sky"


def messages() -> list[tuple[slice, Spectra]]:
    """Petals of two programs in turn; the target's number tells its row."""
    found = []
    for k in range(PETALS):
        spectra = make_spectra(N, seed=k, petal=k)
        table = spectra.table.copy()
        table["targetid"], table["program"] = N * k + np.arange(N), ("dark", "bright")[k % 2]
        table["fiber"], table["z"] = np.arange(N), 0.1
        found.append((slice(N * k, N * k + N), replace(spectra, table=table)))
    return found


def mixed(held_out: np.ndarray) -> list[tuple[Spectra, np.ndarray]]:
    """The messages of unknown petals that keep their redshifts, and what the network has not seen of them."""
    found = versions(messages(), EVERY, REASONS, held_out)
    kept = [(spectra, unseen) for _, spectra, _, unseen in found if (spectra.table["petal"] == -1).all()]
    return [(spectra, unseen) for spectra, unseen in kept if np.isfinite(spectra.table["z"]).all()]


def test_every_message_comes_as_it_is() -> None:
    """Each file is one version, with its petal, its sky fibres and its redshifts; rows of other folds take no part."""
    fold = np.arange(N * PETALS) < N
    found = [
        (spectra, why)
        for _, spectra, why, _ in versions(messages(), fold, REASONS, EVERY)
        if (spectra.table["petal"] >= 0).all() and np.isfinite(spectra.table["z"]).all()
    ]
    assert [spectra.table["petal"][0] for spectra, _ in found] == list(range(PETALS))
    assert found[0][1].tolist() == REASONS[:N].tolist()
    assert (found[1][1] == "other fold").all()


def test_spectra_of_unknown_petals_are_mixed_within_their_program() -> None:
    """Every target that the network has not seen comes once, among those of other petals of its program."""
    found = [spectra.table for spectra, _ in mixed(EVERY)]
    targets = np.concatenate([table["targetid"] for table in found])
    assert sorted(targets) == np.flatnonzero(REASONS == "").tolist()
    for table in found:
        assert len(np.unique(table["program"])) == 1
        assert len(np.unique(table["targetid"] // N)) > 3
        assert (table["fiber"] == -1).all()
        assert (table["tileid"] == -1).all()
    assert len(found) == PETALS
    assert PETALS // 2 < MIXED


def test_few_of_what_the_network_has_seen_are_mixed_in() -> None:
    """Of petals that it has seen one row in OF_SEEN comes, and is known as seen."""
    held_out = np.arange(N * PETALS) < 2 * N
    for spectra, unseen in mixed(held_out):
        np.testing.assert_array_equal(unseen, spectra.table["targetid"] < 2 * N)
    seen = np.concatenate([spectra.table["targetid"][~unseen] for spectra, unseen in mixed(held_out)])
    assert (seen % N % OF_SEEN == 0).all()
    assert len(seen) == (PETALS - 2) * np.count_nonzero(np.arange(1, N) % OF_SEEN == 0)


def test_redshifts_are_hidden_in_half_of_what_the_network_has_not_seen() -> None:
    """Some petals and some mixed messages come without redshift and class as well."""
    hidden = [
        spectra
        for _, spectra, _, _ in versions(messages(), EVERY, REASONS, EVERY)
        if np.isnan(spectra.table["z"]).all()
    ]
    known = [(spectra.table["petal"] >= 0).all() for spectra in hidden]
    assert sum(known) == sum(not k for k in known) == PETALS // 2
    assert all((spectra.table["spectype"] == UNKNOWN).all() for spectra in hidden)
