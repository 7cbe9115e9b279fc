"""Has the link to the bundle been set to another one, and may the daemon go over to it?

What the link names now is proven in a child process while scoring goes on. If it passes, the daemon finishes its batch
and executes itself again with the same arguments; if not, it goes on with the bundle that it has.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latenight.errors import StartupError
from latenight.proof import WAIT_S, prove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

PERIOD_S = 5.0  # between two looks at the link


@dataclass(frozen=True)
class Target:
    """What a link names at one moment; what was refused is proven again only as another Target.

    Attributes:
        path: the directory, all links resolved.
        link: inode and mtime [ns] of the link itself: setting it again asks for another proof.
        files: name, size [bytes] and mtime [ns] of each file; none if there is no such directory.
    """

    path: Path
    link: tuple[int, int]
    files: tuple[tuple[str, int, int], ...]


def look(link: Path) -> Target:
    """What the link names now."""
    path, facts, files = Path(os.path.realpath(link)), (0, 0), []
    with suppress(OSError):  # what is not there is no bundle: the proof says so in words
        itself = link.lstat()
        facts = itself.st_ino, itself.st_mtime_ns
        files = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in path.iterdir()]
    return Target(path, facts, tuple(sorted(files)))


@contextmanager
def proving(
    link: Path,
    served: Path,
    *,
    bundle_id: str,
    device: str,
    refused: Callable[[], object],
) -> Iterator[Callable[[], bool]]:
    """While the context is open, prove in the background what the link names; gives a function that says: go over.

    It says so as long as the link names what was proven. What still changes is left alone, and what was refused until
    it changes.

    Args:
        link: the bundle as the user named it; a directory that is no link never changes its name.
        served: the directory that the daemon has loaded.
        bundle_id: of the bundle served, for the log.
        device: "cpu" or "cuda", where golden spectra must be reproduced.
        refused: called for each bundle that is refused.
    """
    done = threading.Event()
    fit: Target | None = None
    unfit: Target | None = None

    def watch() -> None:
        nonlocal fit, unfit
        seen = look(link)
        while not done.wait(PERIOD_S):
            before, seen = seen, look(link)
            if seen.path == served or seen in (fit, unfit) or seen != before:
                continue
            fields = {"old": bundle_id, "path": str(seen.path)}
            try:
                fields["new"] = prove(seen.path, device, done)
            except (StartupError, OSError) as error:  # OSError: no further process may be started
                if not done.is_set():
                    unfit = seen
                    refused()
                    log.warning("bundle refused", extra={"fields": {**fields, "reason": str(error)}})
                continue
            fit = seen
            log.info("bundle proven", extra={"fields": fields})

    thread = threading.Thread(target=watch, name="swap", daemon=True)
    thread.start()
    try:
        yield lambda: fit is not None and look(link) == fit
    finally:
        done.set()
        thread.join(10 * WAIT_S)  # longer only where a file system hangs


def execute_again(stop: threading.Event) -> None:
    """Become a new process of the same command, with the same process id; returns only if told to stop.

    A signal to stop that comes on the way ends the process at once, as in the first second of any start: nothing is
    in hand then. Keeping it for the new process would take all threads of all libraries to block it.
    """
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    if not stop.is_set():
        log.info("bundle swap")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  (our own command)
