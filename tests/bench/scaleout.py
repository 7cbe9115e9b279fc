"""Do two daemons do twice the work of one? python -m tests.bench.scaleout BUNDLE NIGHT [PETALS [ROUNDS]].

One daemon of one thread, pinned to one core, beside two of one group, pinned to a core each. Needs two cores that are
free: where others use them, the wall times say what the others did.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kafka.partitioner.default import murmur2

from latenight.desi import read_coadd
from tests.bench.setting import Cost, Stream, compare, heading, petals, show, streaming

if TYPE_CHECKING:
    from latenight.broker import Record

N_PARTITIONS = 2
# Over the night: of the 8 s that its 2000 spectra take two daemons, one is the start and the last batch.
PASSES = 4


def shared_out(records: list[Record]) -> list[Record]:
    """The same messages under keys that give every partition as many."""
    numbers = itertools.count()
    return [
        replace(record, key=next(key for key in map(_key, numbers) if _partition(key) == i % N_PARTITIONS))
        for i, record in enumerate(records)
    ]


def _key(number: int) -> bytes:
    return str(number).encode()


def _partition(key: bytes) -> int:
    """Where kafka-python, as all clients, puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % N_PARTITIONS  # type: ignore[no-any-return]


def drained(stream: Stream, paths: list[Path], cpus: list[int]) -> Cost:
    """Announce petals to a daemon on each of the CPUs."""
    records = shared_out(stream.records(paths, "pointer"))
    with stream.serving("a", cpus={cpus[0]}, threads=1) as first:
        if len(cpus) == 1:
            return stream.through(records, first)
        with stream.serving("b", cpus={cpus[1]}, threads=1) as second:
            return stream.through(records, first, second)


def main(bundle: Path, night: Path, n: int = 10, rounds: int = 2) -> None:
    paths = PASSES * petals(night, n)
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        print("\ntwo daemons over one: needs two cores")
        return
    n_spectra = sum(len(read_coadd(path)) for path in paths)
    heading(f"scale-out: {n} petals, {n_spectra} spectra, cores {cpus}")
    one, two = [], []
    for _ in range(rounds):
        with streaming(bundle, "scaleout", partitions=N_PARTITIONS) as stream:
            one.append(drained(stream, paths, cpus[:1]))
        with streaming(bundle, "scaleout", partitions=N_PARTITIONS) as stream:
            two.append(drained(stream, paths, cpus))
    show("one daemon", one, n_spectra)
    show("two daemons", two, n_spectra)
    compare("two daemons over one", two, one, 1.8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
