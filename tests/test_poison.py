"""Poison and mess: what becomes of each kind, and that its neighbours in the batch are scored."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight import desi
from latenight.alert import encode_alert
from latenight.announce import make_record
from latenight.inbox import read_message
from latenight.outcome import GONE_AFTER_S, judge
from latenight.scorer import load_scorer
from latenight.spectra import REASONS
from latenight.wire import decode_scores, decode_spectra, encode_spectra
from tests.coadds import NAME, coadd_hdus, write_coadd, write_hdus
from tests.fakes import make_spectra
from tests.poison import GOOD, POISON, SPECTRA, TOPICS, N, inline, pointer, rewritten, said_of
from tests.test_daemon import World

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.broker import Message, Record
    from latenight.fits import Fits


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that messages may point into, on a file system that is there."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "other").touch()
    return root


def serve(world: World, root: Path, *records: Record) -> None:
    """Publish the messages between two good ones, and let the daemon drain the topic."""
    good = inline(GOOD)
    world.broker.sink().publish([good, *records, good])
    world.clock[0] += GONE_AFTER_S
    world.daemon(lambda message: read_message(message.value, message.headers, [root])).run(drain=True)
    n = len(records) + 2
    assert world.n_committed() == n == len(world.read(TOPICS.scores)) + len(world.read(TOPICS.deadletters))


@pytest.mark.parametrize("name", POISON)
def test_poison_becomes_a_dead_letter_and_its_neighbours_are_scored(
    world: World, root: Path, name: str
) -> None:
    """The letter holds payload, key and headers as they came and says why; the messages beside it are scored."""
    record = POISON[name].make(root)
    serve(world, root, record)
    (letter,) = world.read(TOPICS.deadletters)
    assert (letter.value, letter.key) == (record.value, record.key)
    assert letter.headers[: len(record.headers)] == record.headers
    with pytest.raises(AssertionError, match=POISON[name].reason):  # shows the reason if it is another
        raise AssertionError(letter.header("deadletter-reason"))
    scored = world.read(TOPICS.scores)
    assert [message.header("input") for message in scored] == ["t.spectra/0/0", "t.spectra/0/2"]
    assert [len(decode_scores(message.value)["p_value"]) for message in scored] == [3, 3]


def test_a_file_that_is_replaced_while_it_is_read_becomes_a_dead_letter(
    world: World, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt sees that it is not what was announced; the new one has an announcement of its own."""
    record, read_table = pointer(root), desi._read_table

    def and_replace(fits: Fits, n: int) -> np.ndarray:
        if fits.path.name == NAME:
            rewritten(fits.path)
        return read_table(fits, n)

    monkeypatch.setattr(desi, "_read_table", and_replace)
    serve(world, root, record)
    (letter,) = world.read(TOPICS.deadletters)
    assert "changed since it was announced" in letter.header("deadletter-reason")
    assert world.stop.waits == [0.5]


def normal(world: World, root: Path, *records: Record) -> list[dict[str, np.ndarray]]:
    """The tables of scores of messages that are scored like any other."""
    serve(world, root, *records)
    assert world.read(TOPICS.deadletters) == []
    return [decode_scores(message.value) for message in world.read(TOPICS.scores)[1:-1]]


def alert_ids(messages: list[Message]) -> list[str]:
    return [message.header("alert-id") for message in messages]


def wound(hdus: dict[str, np.ndarray], row: slice) -> None:
    for name in ("FLUX", "IVAR"):
        hdus[f"R_{name}"][row, :100] = np.nan
    hdus["R_IVAR"][row, 100:200] = -1.0
    hdus["Z_FLUX"][row, :100] = np.inf


def test_bad_pixels_in_a_file_are_left_out(world: World, root: Path) -> None:
    """NaN, infinities and negative ivar in the pixels of a file are bad pixels; every row is scored."""
    hdus = coadd_hdus(SPECTRA)
    wound(hdus, slice(None))
    (table,) = normal(world, root, said_of(write_hdus(root / NAME, hdus)))
    assert np.isfinite(table["p_value"]).tolist() == table["eligible"].tolist()
    assert table["eligible"].sum() == N - 2  # the sky fibre and the dead one


def test_a_petal_that_is_masked_whole_is_listed_and_not_ranked(world: World, root: Path) -> None:
    """Every row of an all-masked petal is in the scores with the reason no_data, and none alerts."""
    hdus = coadd_hdus(SPECTRA)
    for arm in "BRZ":
        hdus[f"{arm}_MASK"][:] = 1
    (table,) = normal(world, root, said_of(write_hdus(root / NAME, hdus)))
    assert not table["eligible"].any()
    assert set(table["reason"]) == {"no_data", "sky"} < set(REASONS)
    assert np.isnan(table["p_value"]).all()
    assert world.read(TOPICS.alerts) == []


@pytest.mark.parametrize("missing", ["redrock", "FIBERMAP", "masks"])
def test_what_a_release_may_lack_is_done_without(world: World, root: Path, missing: str) -> None:
    """A coadd without redrock file, FIBERMAP or all MASKs is scored."""
    spoil = {"FIBERMAP": ["FIBERMAP"], "masks": ["B_MASK", "R_MASK", "Z_MASK"]}.get(missing, [])
    hdus = {name: hdu for name, hdu in coadd_hdus(SPECTRA).items() if name not in spoil}
    (table,) = normal(world, root, said_of(write_hdus(root / NAME, hdus)))
    assert table["eligible"].sum() >= N - 2


def test_a_duplicate_announcement_gives_its_alert_once(world: World, root: Path) -> None:
    """A file that is announced twice is scored twice, with equal scores, and its alert comes once."""
    record = pointer(root)
    first, second = normal(world, root, record, record)
    np.testing.assert_array_equal(first["p_value"], second["p_value"])
    assert len(alert_ids(world.read(TOPICS.alerts))) == 1


def test_a_re_reduction_is_a_petal_of_its_own(world: World, root: Path) -> None:
    """The same tile and petal with other numbers is scored anew, and its alert has another id."""
    again = root / "again"
    again.mkdir()
    flux = SPECTRA.flux * np.float32(1.035)  # fuji and iron differ by 3.5 % rms in Z
    path = write_coadd(again, replace(SPECTRA, flux=flux))
    first, second = normal(world, root, pointer(root), make_record(path, "pointer", TOPICS.spectra))
    np.testing.assert_array_equal(first["targetid"], second["targetid"])
    ids = alert_ids(world.read(TOPICS.alerts))
    assert len(set(ids)) == len(ids) == 2


@pytest.mark.parametrize(("flux", "ivar"), [(1e-45, 1e-45), (3e38, 1e-30), (-3e38, 1e20), (1.0, 1e30)])
def test_numbers_at_the_end_of_float32_are_scored(bundle: Path, flux: float, ivar: float) -> None:
    """Flux and ivar of any size in a message give finite scores of a real bundle, and packets that are JSON."""
    spectra = make_spectra(20, seed=1, petal=-1)  # no petal, no group: a packet each
    good = spectra.ivar > 0
    extreme = replace(
        spectra, flux=np.where(good, np.float32(flux), 0), ivar=np.where(good, np.float32(ivar), 0)
    )
    message = decode_spectra(encode_spectra(extreme))
    judged = judge(
        message, load_scorer(bundle, device="cpu", threads=1), budget=1e5, created=datetime.now(UTC)
    )
    eligible = judged.scores.table["eligible"]
    assert eligible.sum() == len(judged.packets) == 17
    assert np.isfinite(judged.scores.table["p_value"][eligible]).all()
    for packet in judged.packets:
        json.loads(encode_alert(packet))
