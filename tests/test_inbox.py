"""What the daemon makes of a message of the spectra topic."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight import inbox
from latenight.announce import make_record, pointer_for
from latenight.desi import read_coadd
from latenight.errors import BadInput, Gone, Unavailable
from latenight.inbox import read_message
from latenight.pointer import CONTENT_POINTER, encode_pointer
from tests.coadds import NAME, REDROCK_NAME, write_coadd
from tests.fakes import assert_same_tables, make_spectra

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latenight.announce import Payload
    from latenight.spectra import Spectra

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
        """A pointer to links in a circle is BadInput."""
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(BadInput, match="/a: "):
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

    def test_a_file_that_is_replaced_before_it_is_opened_is_refused(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new reduction that comes between the check and the reading is not scored as the old one."""
        message = encode_pointer(pointer_for(coadd))

        def read_another(path: Path, redrock: Path | None) -> Spectra:
            write_coadd(coadd.parent, make_spectra(9, seed=2))
            os.utime(coadd, (2_000_000_000, 2_000_000_000))
            return read_coadd(path, redrock)

        monkeypatch.setattr(inbox, "read_coadd", read_another)
        with pytest.raises(BadInput, match="changed since it was announced"):
            read_message(message, POINTER)


class TestMissing:
    @pytest.mark.parametrize("name", [NAME, REDROCK_NAME])
    def test_a_file_that_is_gone_is_missing(self, coadd: Path, name: str) -> None:
        """A coadd or redrock file that is not there, while its root holds others, is Gone."""
        message = encode_pointer(pointer_for(coadd))
        (coadd.parent / name).unlink()
        for roots in ([], [coadd.parent], [coadd.parent.parent]):
            with pytest.raises(Gone, match=f"{name}: No such file"):
                read_message(message, POINTER, roots)

    def test_a_folder_that_is_gone_is_missing(self, coadd: Path, tmp_path: Path) -> None:
        """A folder that was removed, emptied or became a file took its files with it: Gone: its root is still there."""
        message = encode_pointer(pointer_for(coadd))
        shutil.rmtree(coadd.parent)
        (tmp_path / "another").touch()
        with pytest.raises(Gone, match="No such file"):
            read_message(message, POINTER, [tmp_path])
        coadd.parent.mkdir()
        with pytest.raises(Gone, match="No such file"):
            read_message(message, POINTER, [tmp_path])
        coadd.parent.rmdir()
        coadd.parent.touch()
        with pytest.raises(Gone, match="Not a directory"):
            read_message(message, POINTER, [tmp_path])

    @pytest.mark.parametrize("is_empty", [True, False])
    def test_a_file_system_that_is_away_is_waited_for(
        self, coadd: Path, tmp_path: Path, is_empty: bool
    ) -> None:
        """While the root is not there, or an empty mount point, its files are Unavailable and not Gone."""
        message = encode_pointer(pointer_for(coadd))
        coadd.parent.rename(tmp_path / "unmounted")
        if is_empty:
            coadd.parent.mkdir()
        with pytest.raises(Unavailable, match="No such file") as caught:
            read_message(message, POINTER, [coadd.parent])
        assert not isinstance(caught.value, Gone)
        shutil.rmtree(coadd.parent, ignore_errors=True)
        (tmp_path / "unmounted").rename(coadd.parent)
        assert len(read_message(message, POINTER, [coadd.parent])) == 9

    def test_a_file_system_that_comes_back_meanwhile_has_lost_nothing(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the root comes back between the look for the file and the look at the root, it is Unavailable."""
        message = encode_pointer(pointer_for(coadd))
        coadd.parent.rename(coadd.parent.with_name("unmounted"))
        is_mounted = inbox._is_mounted

        def come_back(path: Path, roots: Sequence[Path]) -> bool:
            coadd.parent.with_name("unmounted").rename(coadd.parent)
            return is_mounted(path, roots)

        monkeypatch.setattr(inbox, "_is_mounted", come_back)
        with pytest.raises(Unavailable) as caught:
            read_message(message, POINTER, [coadd.parent])
        assert not isinstance(caught.value, Gone)


class TestSpecialFiles:
    def test_a_fifo_is_refused_at_once(self, coadd: Path) -> None:
        """A FIFO under the announced name is BadInput; opening it would wait for a writer for ever."""
        message = encode_pointer(pointer_for(coadd))
        coadd.unlink()
        os.mkfifo(coadd)
        with pytest.raises(BadInput, match="not a regular file"):
            read_message(message, POINTER)

    @pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty", "/"])
    def test_devices_and_directories_are_refused(self, coadd: Path, path: str) -> None:
        """A pointer to a device or a directory is BadInput, for the coadd and for its redrock file."""
        pointer = pointer_for(coadd)
        for wrong in (replace(pointer, path=path, size=0), replace(pointer, redrock=path)):
            with pytest.raises(BadInput, match="not a regular file"):
                read_message(encode_pointer(wrong), POINTER)

    def test_a_name_that_no_file_can_have_is_refused(self, coadd: Path) -> None:
        """A path that is too long is BadInput: it will never be there."""
        long = replace(pointer_for(coadd), path="/" + "x" * 5000)
        with pytest.raises(BadInput, match="too long"):
            read_message(encode_pointer(long), POINTER)


def test_pointers_without_redrock_find_it_later(coadd: Path) -> None:
    """A redrock file that came after the announcement is used."""
    pointer = replace(pointer_for(coadd), redrock=None)
    found = read_message(encode_pointer(pointer), POINTER)
    assert np.isfinite(found.table["z"]).sum() == 8
