"""Bundles that differ from a given one, and the link that a daemon serves from."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

from latenight.bundle import load_bundle, write_golden, write_manifest

if TYPE_CHECKING:
    from pathlib import Path


def sibling(bundle: Path, folder: Path) -> Path:
    """A bundle that scores the same and has another id."""
    shutil.copytree(bundle, folder)
    facts = {name: value for name, value in load_bundle(folder).manifest.items() if name != "files"}
    write_manifest(folder, {**facts, "note": folder.name})
    return folder


def corrupt(bundle: Path, folder: Path) -> Path:
    """A bundle with one byte of its bank changed."""
    shutil.copytree(bundle, folder)
    raw = bytearray((folder / "bank.npy").read_bytes())
    raw[-1] ^= 1
    (folder / "bank.npy").write_bytes(raw)
    return folder


def disagreeing(bundle: Path, folder: Path) -> Path:
    """A bundle of whole files whose golden scores no session gives."""
    spectra, scores = load_bundle(sibling(bundle, folder)).golden()
    scores = np.copy(scores)
    scores["chi2"] *= 2
    write_golden(folder, spectra, scores)
    facts = json.loads((folder / "manifest.json").read_text())
    del facts["files"]
    write_manifest(folder, facts)
    return folder


def set_link(link: Path, bundle: Path) -> Path:
    """Let the link name the bundle, in one step as `ln -sfn` and `mv -T` do it."""
    new = link.with_name(f".{link.name}.new")
    new.symlink_to(bundle)
    os.replace(new, link)  # noqa: PTH105  (Path.replace follows nothing either, but says so nowhere)
    return link
