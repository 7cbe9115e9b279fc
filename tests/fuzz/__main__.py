"""Break messages and files by the thousand: each must give spectra or BadInput, within time and memory.

python -m tests.fuzz [--inputs 100000] [--seed 1] [--target message|file] [--first 0]

The inputs run in a child process that may take LIMIT_S per input and MEMORY bytes, and may die: that is a finding,
and the next child goes on behind it. Each finding is printed with the options that run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

TARGETS = ("message", "file")
LIMIT_S = 20  # a good input takes milliseconds
MEMORY = 4 << 30  # address space; a child with its libraries has 1.5 GB of it
MAX_FINDINGS = 20


def child(target: str, seed: int, first: int, last: int, progress: str) -> None:
    """Run the inputs first..last-1; print findings, and at the end what became of the inputs."""
    from tests.fuzz.targets import Bench, run

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, open(progress, "r+b", buffering=0) as place:  # noqa: PTH123
        bench = Bench(Path(folder))
        for index in range(first, last):
            os.pwrite(place.fileno(), f"{index:12d}".encode(), 0)
            signal.alarm(LIMIT_S)
            try:
                counts[run(bench, target, seed, index)] += 1
            except Exception:  # noqa: BLE001  (whatever it is, it is what we look for)
                counts["finding"] += 1
                print(json.dumps({"finding": traceback.format_exc(limit=-4), "index": index}), flush=True)
        signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"counts": counts, "peak_mb": peak}), flush=True)


def parent(target: str, seed: int, first: int, last: int) -> int:
    """Run children until all inputs are done; returns the number of findings."""
    started, n_findings, counts, peak = time.monotonic(), 0, Counter[str](), 0
    with tempfile.NamedTemporaryFile() as progress:
        at = first
        while at < last and n_findings < MAX_FINDINGS:
            words = ["child", target, str(seed), str(at), str(last), progress.name]
            command = [sys.executable, "-m", "tests.fuzz", *words]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    said = json.loads(line)
                    if "finding" in said:
                        n_findings += 1
                        _tell(target, seed, said["index"], said["finding"])
                    else:
                        counts.update(said["counts"])
                        peak = max(peak, said["peak_mb"])
            if process.returncode == 0:
                break
            at = int(Path(progress.name).read_text())
            n_findings += 1
            _tell(target, seed, at, f"the process ended with {process.returncode}")
            counts["finding"] += 1
            at += 1
    seconds = time.monotonic() - started
    done = f"{target}: seed {seed}, inputs {first}..{last - 1}, {seconds:.0f} s, peak {peak} MB: "
    print(done + str(dict(counts)), flush=True)
    return n_findings


def _tell(target: str, seed: int, index: int, what: str) -> None:
    print(f"FINDING --target {target} --seed {seed} --first {index} --inputs 1\n{what}", flush=True)


def main() -> None:
    """Run both targets, or one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS)
    options = parser.parse_args()
    chosen = [options.target] if options.target else TARGETS
    last = options.first + options.inputs
    sys.exit(bool(sum(parent(target, options.seed, options.first, last) for target in chosen)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        name, seed, first, last, file = sys.argv[2:]
        child(name, int(seed), int(first), int(last), file)
    else:
        main()
