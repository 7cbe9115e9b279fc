"""A bundle on disk: manifest, hashes and golden spectra of one trained model.

A bundle is a directory: model.onnx, refine.onnx, statistics.onnx, knn.onnx, modes.npz, bank.npy, bank_ids.npy,
calibration.npz, golden.npz and manifest.json, which holds the sha256 of every other file. The bundle's id is the
sha256 of manifest.json, so it names the graphs, the modes, the bank and the calibration together.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.errors import StartupError
from latenight.spectra import Spectra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "latenight.bundle/6"  # 6: reconstructions at the pixels of the arms; what is usual in a petal
FILES = ("model.onnx", "refine.onnx", "statistics.onnx", "knn.onnx")
ARRAYS = ("modes.npz", "bank.npy", "bank_ids.npy", "calibration.npz", "golden.npz")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its directory, symlinks resolved: a later swap of the link does not mix two bundles.
        manifest: the decoded manifest.json.
        id: sha256 of manifest.json, hex.
    """

    path: Path
    manifest: Mapping[str, Any]
    id: str

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one .npz file."""
        with np.load(self.path / name, allow_pickle=False) as file:
            return dict(file)

    def golden(self) -> tuple[Spectra, np.ndarray]:
        """The golden spectra and their expected scores, (N,) of dtype SCORES."""
        a = self.arrays("golden.npz")
        return Spectra(flux=a["flux"], ivar=a["ivar"], table=a["table"], source="golden"), a["scores"]


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest and verify the hash of every file.

    Raises:
        StartupError: the directory is no bundle, is of another schema, or a file was altered; the daemon
            does not start (exit 3).
    """
    path = path.resolve()
    try:
        raw = (path / "manifest.json").read_bytes()
        manifest = json.loads(raw)
    except OSError as error:
        raise StartupError(f"{path} is not a bundle: {error}. Name a directory that `fit` wrote.") from error
    except ValueError as error:
        raise StartupError(f"{path}/manifest.json is not JSON ({error}); copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise StartupError(f"{path} has schema {found}, this version reads {SCHEMA}: fit it again")
    for name in (*FILES, *ARRAYS):
        _verify(path / name, manifest.get("files", {}).get(name))
    return Bundle(path=path, manifest=manifest, id=hashlib.sha256(raw).hexdigest())


def _verify(path: Path, expected: str | None) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise StartupError(f"bundle file {path} cannot be read ({error}); copy the bundle again") from error
    if found != expected:
        raise StartupError(
            f"bundle file {path} has sha256 {found}, its manifest says {expected}; copy the bundle again"
        )


def file_sha256(path: Path) -> str:
    """The sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(path: Path, facts: Mapping[str, Any]) -> str:
    """Seal a bundle: write manifest.json with the hash of every file; returns the bundle's id.

    Args:
        path: the directory, complete but for manifest.json.
        facts: what else the manifest says (latent size, training data, seed, versions, evaluation).
    """
    hashes = {name: file_sha256(path / name) for name in (*FILES, *ARRAYS)}
    raw = json.dumps({"schema": SCHEMA, "files": hashes, **facts}, indent=1, sort_keys=True).encode()
    (path / "manifest.json").write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def write_golden(path: Path, spectra: Spectra, scores: np.ndarray) -> None:
    """Write golden.npz: some spectra and the scores that any session must reproduce."""
    file = path / "golden.npz"
    np.savez(file, flux=spectra.flux, ivar=spectra.ivar, table=spectra.table, scores=scores)
