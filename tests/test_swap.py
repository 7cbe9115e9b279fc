"""A bundle is gone over to only when it is proven, and one that is refused disturbs nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from latenight import proof, swap
from latenight.bundle import load_bundle
from latenight.cli.base import stop_on_signals
from latenight.errors import StartupError
from latenight.proof import prove
from latenight.swap import Target, execute_again, look, proving
from tests.chaos.world import wait_until
from tests.siblings import corrupt, disagreeing, set_link, sibling

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

DEADLINE_S = 60.0


@dataclass
class World:
    """A link and bundles that are empty directories; the child notes whom it was asked about.

    Attributes:
        folder: where they are.
        refused: one entry for each refusal.
        looks: one entry for each look at the link.
    """

    folder: Path
    refused: list[int] = field(default_factory=list)
    looks: list[Path] = field(default_factory=list)

    def look(self, link: Path) -> Target:
        self.looks.append(link)
        return look(link)

    def look_on(self, n: int = 10) -> None:
        """Wait for so many further looks."""
        enough = len(self.looks) + n
        wait_until(lambda: len(self.looks) >= enough, "nobody looks")

    @property
    def link(self) -> Path:
        return self.folder / "current"

    @property
    def asked(self) -> list[str]:
        """What the child was asked, in order: NAME DEVICE."""
        notes = self.folder / "asked"
        return notes.read_text().splitlines() if notes.exists() else []

    def set(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        set_link(self.link, self.folder / name)
        return self.folder / name

    def proving(self) -> AbstractContextManager[Callable[[], bool]]:
        served = self.link.resolve()
        return proving(
            self.link, served, bundle_id="old", device="cpu", refused=lambda: self.refused.append(1)
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Bundles named good pass, those named killed kill the child, hang never ends, others are refused."""
    code = f"""
import os, pathlib, signal, sys, threading
name = pathlib.Path(sys.argv[1]).name
with open({str(tmp_path / "asked")!r}, "a") as notes:
    print(name, sys.argv[2], file=notes)
if name == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if name == "hang":
    threading.Event().wait()
print("id of", name)
sys.exit(0 if name == "good" else 3)
"""
    monkeypatch.setattr(proof, "CHILD", (sys.executable, "-c", code))
    monkeypatch.setattr(swap, "PERIOD_S", 0.02)
    world = World(tmp_path)
    monkeypatch.setattr(swap, "look", world.look)
    world.set("first")
    return world


def test_a_link_to_a_proven_bundle_is_gone_over_to(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The child is asked once about the new directory, and the log names both bundles."""
    caplog.set_level("INFO")
    with world.proving() as proven:
        path = world.set("good")
        wait_until(proven, "not proven")
    assert world.asked == ["good cpu"]
    assert caplog.records[-1].message == "bundle proven"
    assert caplog.records[-1].__dict__["fields"] == {"old": "old", "new": "id of good", "path": str(path)}


@pytest.mark.parametrize("name", ["refused", "killed", "nothing"])
def test_a_bundle_that_fails_is_refused_once(
    world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong, or deadly to the child: it is counted and logged once, and asked about again only if set again."""
    with world.proving() as proven:
        world.set(name)
        if name == "nothing":
            (world.folder / name).rmdir()
        wait_until(lambda: len(world.refused) == 1, "not refused")
        world.look_on()
        assert not proven()
        assert world.asked == [f"{name} cpu"]
        (record,) = [record for record in caplog.records if record.message == "bundle refused"]
        assert record.__dict__["fields"]["reason"]
        set_link(world.link, world.folder / name)
        wait_until(lambda: len(world.refused) == 2, "not refused again")
        world.set("good")
        wait_until(proven, "not proven")


def test_a_refused_bundle_that_is_mended_is_proven_again(world: World) -> None:
    """Files that change make it another bundle."""
    with world.proving():
        path = world.set("refused")
        wait_until(lambda: len(world.refused) == 1, "not refused")
        (path / "manifest.json").write_text("mended")
        wait_until(lambda: len(world.refused) == 2, "not proven again")


def test_the_bundle_in_use_is_never_proven(world: World) -> None:
    """A link that is set again to what is served, by any name, asks for nothing."""
    other = set_link(world.folder / "alias", world.folder / "first")
    with world.proving() as proven:
        set_link(world.link, other)
        world.look_on()
        assert not proven()
    assert world.asked == []


def test_what_still_changes_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle is proven only after two equal looks: one that is being copied is not refused half done."""

    def growing(link: Path) -> Target:
        found = world.look(link)
        return Target(found.path, found.link, (("model.onnx", min(len(world.looks), 10), 0),))

    monkeypatch.setattr(swap, "look", growing)
    with world.proving() as proven:
        world.set("good")
        wait_until(proven, "not proven")
        assert len(world.looks) >= 11
    assert world.asked == ["good cpu"]


def test_a_link_that_moves_on_is_not_followed_unproven(world: World) -> None:
    """The daemon goes over only to what was proven, never to what the link names by then; set back, it does."""
    with world.proving() as proven:
        world.set("good")
        wait_until(proven, "not proven")
        world.set("refused")
        assert not proven()
        wait_until(lambda: len(world.refused) == 1, "not refused")
        world.set("good")
        wait_until(proven, "not proven again")


def test_a_child_that_hangs_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After LIMIT_S it is refused; a daemon that leaves does not wait for it."""
    monkeypatch.setattr(proof, "LIMIT_S", 0.3)
    with world.proving():
        world.set("hang")
        wait_until(lambda: len(world.refused) == 1, "not refused")
    monkeypatch.setattr(proof, "LIMIT_S", 10 * DEADLINE_S)
    world.set("first")
    with world.proving():
        world.set("hang")
        wait_until(lambda: len(world.asked) == 2, "not asked")
    wait_until(lambda: all(each.name != "swap" for each in threading.enumerate()), "the child lives on")
    assert len(world.refused) == 1


def test_a_bundle_is_proven_by_its_golden_spectra(bundle: Path, tmp_path: Path) -> None:
    """A whole bundle gives its id; an altered file, other golden scores or no bundle at all give the reason."""
    done = threading.Event()
    good = sibling(bundle, tmp_path / "good")
    assert prove(good, "cpu", done) == load_bundle(good).id != load_bundle(bundle).id
    with pytest.raises(StartupError, match=r"bank\.npy has sha256"):
        prove(corrupt(bundle, tmp_path / "corrupt"), "cpu", done)
    with pytest.raises(StartupError, match="chi2 of the golden spectra differs"):
        prove(disagreeing(bundle, tmp_path / "disagreeing"), "cpu", done)
    with pytest.raises(StartupError, match="is not a bundle"):
        prove(tmp_path / "nothing", "cpu", done)


def test_the_child_comes_last_and_dies_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the CPU to the scorer, and Linux ends it rather than the daemon when memory is short."""
    code = """
import os, pathlib, sys, types
from latenight import proof
def load(*_, **__):
    badness = pathlib.Path("/proc/self/oom_score_adj")
    return types.SimpleNamespace(bundle_id=f"{os.nice(0)} {badness.read_text().strip()}")
proof.load_scorer = load
proof.main(*sys.argv[1:])
"""
    monkeypatch.setattr(proof, "CHILD", (sys.executable, "-c", code))
    assert prove(tmp_path, "cpu", threading.Event()) == "19 1000"


def run_anew(before: str) -> subprocess.CompletedProcess[str]:
    """A process that executes itself again, with something done just before; the new one says so."""
    code = f"""
import os, signal, sys
from latenight.cli.base import stop_on_signals
from latenight.swap import execute_again
stop = stop_on_signals()
if "FIRST" in os.environ:
    print("again", os.environ["FIRST"] == str(os.getpid()), sys.argv[1:])
else:
    os.environ["FIRST"] = str(os.getpid())
    execv = os.execv
    os.execv = lambda *words: {before}
    execute_again(stop)
"""
    command = [sys.executable, "-c", code, "serve", "--bundle", "B"]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_the_new_process_is_the_same_command() -> None:
    """It has the process id, the arguments and the environment of the old one."""
    ran = run_anew("execv(*words)")
    assert (ran.returncode, ran.stdout) == (0, "again True ['serve', '--bundle', 'B']\n"), ran.stderr


def test_a_stop_on_the_way_to_the_new_process_ends_it() -> None:
    """SIGTERM behind the last look at the stop event is not lost."""
    ran = run_anew("(os.kill(os.getpid(), signal.SIGTERM), execv(*words))")
    assert (ran.returncode, ran.stdout) == (-signal.SIGTERM, "")


def test_a_daemon_that_is_told_to_stop_does_not_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stop event set nothing is executed."""
    executed = []
    monkeypatch.setattr(os, "execv", lambda *words: executed.append(words))
    stop = stop_on_signals()
    stop.set()
    execute_again(stop)
    assert executed == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGINT, signal.default_int_handler)
