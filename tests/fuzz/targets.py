"""What must hold for any input: spectra that keep their contract, or BadInput, and always an outcome."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.announce import pointer_for
from latenight.broker import Message
from latenight.broker.topics import Topics
from latenight.desi import read_coadd
from latenight.errors import BadInput, Unavailable
from latenight.inbox import read_message
from latenight.metrics import Metrics
from latenight.outcome import Desk, deal_with
from latenight.pointer import CONTENT_POINTER, encode_pointer
from latenight.spectra import MAX_ROWS, N_PIX, SPECTYPES, TABLE, Spectra
from tests.coadds import NAME, REDROCK_NAME, write_coadd
from tests.fakes import FakeScorer, make_spectra
from tests.fuzz.damage import damaged_file, damaged_message

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING_ALERTS = 1e5  # the budget at which each eligible spectrum becomes a packet


def check_contract(spectra: Spectra) -> None:
    """Raise AssertionError if spectra are not what latenight.spectra promises."""
    n = len(spectra)
    assert 1 <= n <= MAX_ROWS
    assert spectra.flux.shape == spectra.ivar.shape == (n, N_PIX)
    assert spectra.flux.dtype == spectra.ivar.dtype == np.float32
    assert np.isfinite(spectra.flux).all()
    assert (spectra.ivar >= 0).all()
    assert np.isfinite(spectra.ivar).all()
    assert not spectra.flux[spectra.ivar == 0].any()
    assert spectra.table.dtype == TABLE
    assert np.isin(spectra.table["spectype"], SPECTYPES).all()
    assert not np.isinf(spectra.table["z"]).any()


@dataclass(frozen=True)
class Bench:
    """A folder with a good coadd, beside which broken ones are written."""

    folder: Path

    def __post_init__(self) -> None:
        """Write the coadd."""
        write_coadd(self.folder, make_spectra(1, seed=4))

    def message(self, rng: random.Random) -> str:
        """Read and score a broken message; says what became of it."""
        good = json.loads(encode_pointer(pointer_for(self.folder / NAME)))
        value, headers = damaged_message(rng, good)
        try:
            spectra = read_message(value, headers, [self.folder])
        except BadInput:
            return "refused"
        except Unavailable:
            assert headers[0][1] == CONTENT_POINTER.encode()  # a pointer to another file, which is not there
            return "unavailable"
        check_contract(spectra)
        if rng.random() < 0.1:
            self._score(Message("t.spectra", 0, 0, b"k", value, headers, 0))
        return "read"

    def file(self, rng: random.Random) -> str:
        """Read a broken coadd, or a good one with a broken redrock file; says what became of it."""
        broken = self.folder / "broken"
        broken.mkdir(exist_ok=True)
        hurt, whole = (NAME, REDROCK_NAME) if rng.random() < 0.8 else (REDROCK_NAME, NAME)
        data = damaged_file(rng, _content(self.folder / hurt))
        suffix = ".gz" if data[:2] == b"\x1f\x8b" and hurt == NAME and rng.random() < 0.8 else ""
        (broken / f"{hurt}{suffix}").write_bytes(data)
        shutil.copyfile(self.folder / whole, broken / whole)
        coadd = broken / (f"{NAME}{suffix}")
        try:
            check_contract(read_coadd(coadd))
        except BadInput:
            return "refused"
        finally:
            coadd.unlink()
        return "read"

    def _score(self, message: Message) -> None:
        desk = Desk(
            Topics("t"),
            lambda message: read_message(message.value, message.headers, [self.folder]),
            FakeScorer(),
            EVERYTHING_ALERTS,
            Metrics(),
        )
        assert deal_with(desk, message, lambda: desk.read(message)).records


_CONTENTS: dict[Path, bytes] = {}


def _content(path: Path) -> bytes:
    if path not in _CONTENTS:
        _CONTENTS[path] = path.read_bytes()
    return _CONTENTS[path]


def run(bench: Bench, target: str, seed: int, index: int) -> str:
    """Run one input; any exception but BadInput and Unavailable is a finding."""
    rng = random.Random(f"{target}/{seed}/{index}")  # noqa: S311  (damage, not secrets)
    return bench.message(rng) if target == "message" else bench.file(rng)
