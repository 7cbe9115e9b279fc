"""Does a bundle score its golden spectra here as it should? A child process finds out: its crash is not ours.

python -m latenight.proof BUNDLE DEVICE    the child: exit code 0 and the bundle's id, or 3 and the reason
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from latenight.errors import StartupError
from latenight.scorer import load_scorer

if TYPE_CHECKING:
    from threading import Event

# A proof takes 4 s on one CPU core; a GPU that is new to the graphs, or a file server with much to do, takes longer.
LIMIT_S = 300.0
WAIT_S = 0.1  # how soon the end of a child, or of the wish to know, is noticed
CHILD = (sys.executable, "-m", "latenight.proof")
LEAST = 19  # nice value: the child takes what scoring leaves


def prove(path: Path, device: str, done: Event) -> str:
    """The id of a bundle that a child process could load and whose golden spectra it scored as expected.

    Args:
        path: its directory.
        device: "cpu" or "cuda".
        done: set when nobody wants to know any more.

    Raises:
        StartupError: it could not, crashed, was killed, or took longer than LIMIT_S.
    """
    deadline = time.monotonic() + LIMIT_S
    with subprocess.Popen([*CHILD, path, device], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        while child.poll() is None:
            if done.wait(WAIT_S) or time.monotonic() > deadline:
                child.kill()
        lines = child.stdout.read().decode(errors="replace").splitlines() if child.stdout else []
    answer = lines[-1] if lines else "it said nothing"
    if child.returncode:
        raise StartupError(f"{answer} (the proof ended with {child.returncode})")
    return answer


def main(path: str, device: str) -> None:
    """Be the child: the first to die where memory is short, the last to get a CPU."""
    os.nice(LEAST)
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        answer, code = load_scorer(Path(path), device=device, threads=1).bundle_id, 0
    except StartupError as error:
        answer, code = str(error), error.exit_code
    sys.stdout.write(f"{answer}\n")
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
