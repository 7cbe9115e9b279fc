"""What the daemon makes of a message of the spectra topic."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.announce import make_record, pointer_for
from latenight.desi import read_coadd
from latenight.errors import BadInput, Gone, Unavailable
from latenight.inbox import read_message
from latenight.wire import CONTENT_POINTER, encode_pointer
from tests.coadds import REDROCK_NAME, write_coadd
from tests.fakes import assert_same_tables, make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.announce import Payload

POINTER = (("content-type", CONTENT_POINTER.encode()),)


@pytest.fixture
def coadd(tmp_path: Path) -> Path:
    folder = tmp_path / "redux"
    folder.mkdir()
    return write_coadd(folder, make_spectra(9, seed=1))


@pytest.mark.parametrize("payload", ["pointer", "inline"])
def test_both_payloads_give_what_the_file_holds(coadd: Path, payload: Payload) -> None:
    """A message gives bit by bit what read_coadd gives, source included, by pointer and inline."""
    record = make_record(coadd, payload, "t")
    found, expected = read_message(record.value, record.headers, [coadd.parent]), read_coadd(coadd)
    assert found.flux.tobytes() == expected.flux.tobytes()
    assert found.ivar.tobytes() == expected.ivar.tobytes()
    assert_same_tables(found.table, expected.table)
    assert found.source == expected.source


@pytest.mark.parametrize("headers", [(), (("content-type", b"text/plain"),), (("content-type", b"\xff"),)])
def test_other_content_types_are_refused(headers: tuple[tuple[str, bytes], ...]) -> None:
    """A message without a content type that we know is BadInput."""
    with pytest.raises(BadInput, match="content-type is"):
        read_message(b"", headers)


def test_the_last_content_type_counts(coadd: Path) -> None:
    """Of two headers of one name the later one counts, as everywhere in Kafka."""
    record = make_record(coadd, "pointer", "t")
    assert len(read_message(record.value, (("content-type", b"text/plain"), *record.headers))) == 9


class TestRoots:
    def test_outside_is_refused(self, coadd: Path, tmp_path: Path) -> None:
        """A pointer outside every root is BadInput, also when its path starts like a root."""
        with pytest.raises(BadInput, match="outside the allowed roots"):
            read_message(encode_pointer(pointer_for(coadd)), POINTER, [tmp_path / "red", tmp_path / "other"])

    def test_dots_and_links_are_followed_first(self, coadd: Path, tmp_path: Path) -> None:
        """Neither .. nor a link leads out of a root; a link that stays inside is fine."""
        root = tmp_path / "root"
        root.mkdir()
        pointer = pointer_for(coadd)
        (root / "link.fits").symlink_to(coadd)
        for path in (f"{root}/../redux/{coadd.name}", f"{root}/link.fits"):
            with pytest.raises(BadInput, match="outside the allowed roots"):
                read_message(encode_pointer(replace(pointer, path=path)), POINTER, [root])
        linked = replace(pointer, path=f"{root}/link.fits")
        assert len(read_message(encode_pointer(linked), POINTER, [tmp_path])) == 9

    def test_redrock_is_confined_too(self, coadd: Path, tmp_path: Path) -> None:
        """The redrock file of a pointer must lie inside a root as well."""
        redrock = coadd.with_name(REDROCK_NAME).rename(tmp_path / REDROCK_NAME)
        pointer = replace(pointer_for(coadd), redrock=str(redrock))
        with pytest.raises(BadInput, match=f"{redrock}: lies outside"):
            read_message(encode_pointer(pointer), POINTER, [coadd.parent])

    def test_circular_links_are_refused(self, coadd: Path, tmp_path: Path) -> None:
        """A pointer to links in a circle is BadInput or, where they cannot be told, Unavailable."""
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises((BadInput, Unavailable), match="/a: "):
            read_message(encode_pointer(replace(pointer_for(coadd), path=str(tmp_path / "a"))), POINTER)


class TestChanges:
    def test_a_rewritten_file_is_refused(self, coadd: Path) -> None:
        """A file of another mtime or size than announced is BadInput that says what to do."""
        message = encode_pointer(pointer_for(coadd))
        os.utime(coadd, (1, 1))
        with pytest.raises(BadInput, match="changed since it was announced; announce it again"):
            read_message(message, POINTER)

    def test_another_number_of_spectra_is_refused(self, coadd: Path) -> None:
        """A pointer that announces another number of spectra than the file holds is BadInput."""
        with pytest.raises(BadInput, match="has 9 spectra, but 8 were announced"):
            read_message(encode_pointer(replace(pointer_for(coadd), n=8)), POINTER)


class TestMissing:
    def test_a_file_missing_among_others_is_gone(self, coadd: Path) -> None:
        """The coadd or its redrock file is not there, its folder holds others: Gone, which is Unavailable, too."""
        message = encode_pointer(pointer_for(coadd))
        redrock = coadd.with_name(REDROCK_NAME)
        away = redrock.rename(redrock.with_suffix(".away"))
        with pytest.raises(Gone, match=f"{redrock}: No such file"):
            read_message(message, POINTER)
        away.rename(redrock)
        coadd.unlink()
        with pytest.raises(Gone, match=f"{coadd}: No such file"):
            read_message(message, POINTER, [coadd.parent])

    def test_a_removed_folder_is_gone(self, coadd: Path, tmp_path: Path) -> None:
        """A folder that was removed under a root that holds others takes its files with it."""
        message = encode_pointer(pointer_for(coadd))
        coadd.parent.rename(tmp_path / "elsewhere")
        with pytest.raises(Gone, match="No such file"):
            read_message(message, POINTER, [tmp_path])

    def test_a_file_system_that_is_away_only_delays(self, coadd: Path, tmp_path: Path) -> None:
        """The root is missing, or empty as a mount point is: Unavailable and not Gone, and then it comes back."""
        message, root = encode_pointer(pointer_for(coadd)), coadd.parent
        away = root.rename(tmp_path / "away")
        for _ in ("missing", "empty"):
            with pytest.raises(Unavailable) as caught:
                read_message(message, POINTER, [root])
            assert not isinstance(caught.value, Gone)
            root.mkdir(exist_ok=True)
        root.rmdir()
        away.rename(root)
        assert len(read_message(message, POINTER, [root])) == 9


def test_pointers_without_redrock_find_it_later(coadd: Path) -> None:
    """A redrock file that came after the announcement is used."""
    pointer = replace(pointer_for(coadd), redrock=None)
    found = read_message(encode_pointer(pointer), POINTER)
    assert np.isfinite(found.table["z"]).sum() == 8
