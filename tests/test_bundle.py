"""A bundle is loaded only as it was written."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.bundle import ARRAYS, FILES, load_bundle
from latenight.errors import StartupError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that the test may damage."""
    return shutil.copytree(bundle, tmp_path / "bundle")


def test_a_bundle_is_known_by_the_hash_of_its_manifest(bundle: Path) -> None:
    """Loading gives the id, the manifest and golden spectra with their scores."""
    loaded = load_bundle(bundle)
    assert len(loaded.id) == 64
    assert loaded.manifest["latent"] == 6
    spectra, scores = loaded.golden()
    assert len(spectra) == len(scores) > 0
    assert loaded.manifest["parity"]["model"] < 1e-5


def test_a_link_to_a_bundle_is_resolved_once(bundle: Path, tmp_path: Path) -> None:
    """A bundle opened through a symlink keeps its own directory when the link is swapped."""
    link = tmp_path / "current"
    link.symlink_to(bundle)
    assert load_bundle(link).path == bundle.resolve()


@pytest.mark.parametrize("name", [*FILES, *ARRAYS])
def test_an_altered_file_is_refused(copied: Path, name: str) -> None:
    """One changed byte in any file stops the start, and the message names the file."""
    raw = bytearray((copied / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copied / name).write_bytes(raw)
    with pytest.raises(StartupError, match=name):
        load_bundle(copied)


def test_a_missing_file_is_refused(copied: Path) -> None:
    """A file that is gone is named."""
    (copied / "bank.npy").unlink()
    with pytest.raises(StartupError, match=r"bank\.npy"):
        load_bundle(copied)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "latenight.bundle/99"}'])
def test_a_directory_without_a_manifest_of_ours_is_refused(copied: Path, text: str) -> None:
    """Damaged manifests and other schemas are refused with advice."""
    (copied / "manifest.json").write_text(text)
    with pytest.raises(StartupError, match=r"fit|copy"):
        load_bundle(copied)
    with pytest.raises(StartupError, match="not a bundle"):
        load_bundle(copied / "nothing")


def test_the_manifest_says_what_the_bundle_is_made_of(bundle: Path) -> None:
    """Hashes of all files, library versions and calibration sizes are in the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) == {*FILES, *ARRAYS}
    assert set(manifest["versions"]) >= {"latenight", "torch", "onnx", "numpy", "python"}
    assert sum(manifest["calibration_spectra"].values()) > 0
    assert np.load(bundle / "bank.npy").shape[1] == manifest["latent"]
