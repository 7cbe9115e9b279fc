"""How much faster than what a user would write? python -m tests.bench.peers BUNDLE NIGHT [SPECTRA [ROUNDS]].

`latenight serve` on inline petals beside tests.bench.naive on the same spectra, one a message, in batches of 64 and one
at a time; and the mathematics alone: the scorer beside eager torch, without Kafka.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight.broker import Record
from latenight.bundle import load_bundle
from latenight.desi import read_coadd
from latenight.scorer import load_scorer
from latenight.spectra import SPECTYPES
from latenight.threads import default_threads
from latenight.wire import CONTENT_ARROW, encode_spectra
from tests.bench.naive import EagerScorer
from tests.bench.setting import (
    Cost,
    compare,
    cost_here,
    cpu_s,
    heading,
    in_turns,
    petals,
    show,
    streaming,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latenight.spectra import Spectra
    from tests.bench.setting import Stream

BATCH = 64
ONE_BY_ONE = 8  # spectra of which the peer that takes one at a time gets one: it is slow


def singles(spectra: Spectra, topic: str) -> list[Record]:
    """One message a spectrum."""
    records = []
    for flux, ivar, row in zip(spectra.flux, spectra.ivar, spectra.table, strict=True):
        z = float(row["z"])
        facts = {"z": z if np.isfinite(z) else None, "spectype": str(row["spectype"])}
        value = np.stack([flux, ivar]).tobytes()
        records.append(
            Record(topic, str(row["targetid"]).encode(), value, (("facts", json.dumps(facts).encode()),))
        )
    return records


@contextmanager
def peer(module: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A module of tests.bench in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", f"tests.bench.{module}", *map(str, words)])
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def through(stream: Stream, records: list[Record], process: subprocess.Popen[bytes]) -> Cost:
    """Publish messages to the peer and wait for its scores."""
    out = f"{records[0].topic}.scores"
    with closing(stream.broker.sink()) as sink, closing(stream.broker.source([out], start="end")) as scores:
        scores.poll(0.2, 1)
        wall, cpu = time.perf_counter(), cpu_s(process.pid)
        sink.publish(records)
        wait_for(scores, len(records))
        return Cost(time.perf_counter() - wall, cpu_s(process.pid) - cpu)


def eager_inputs(spectra: Spectra) -> tuple[torch.Tensor, ...]:
    """Flux, ivar, z and spectype as tensors."""
    spectype = [SPECTYPES.index(name) for name in spectra.table["spectype"]]
    z = np.nan_to_num(spectra.table["z"])
    return tuple(torch.from_numpy(np.asarray(v)) for v in (spectra.flux, spectra.ivar, z, np.array(spectype)))


def main(bundle: Path, night: Path, n: int = 256, rounds: int = 2) -> None:
    whole = read_coadd(petals(night, 1)[0])
    spectra = replace(whole.take(whole.table["objtype"] == "TGT").take(slice(0, n)), source="bench")
    few, scorer, eager = (
        spectra.take(slice(None, None, ONE_BY_ONE)),
        load_scorer(bundle),
        EagerScorer(load_bundle(bundle)),
    )
    torch.set_num_threads(default_threads())
    batches = [eager_inputs(spectra.take(slice(i, i + BATCH))) for i in range(0, len(spectra), BATCH)]
    heading(f"beside a naive peer: {len(spectra)} spectra, {len(few)} for the peer that takes one at a time")
    with streaming(bundle, "peers") as stream:
        topics = [f"{name}{end}" for name in ("batched", "single") for end in ("", ".scores")]
        stream.broker.create_topics({name: {} for name in topics}, 1)
        petal = Record(
            stream.topics.spectra,
            b"1-1",
            encode_spectra(spectra),
            (("content-type", CONTENT_ARROW.encode()),),
        )
        batched, single = singles(spectra, "batched"), singles(few, "single")
        words = {name: (bundle, stream.address, name, f"{name}.scores") for name in ("batched", "single")}
        with (
            stream.serving() as daemon,
            peer("naive", *words["batched"], BATCH, default_threads()) as many,
            peer("naive", *words["single"], 1, default_threads()) as one,
        ):
            costs = in_turns(
                rounds,
                {
                    "serve": lambda: stream.through([petal], daemon),
                    "naive, batched": lambda: through(stream, batched, many),
                    "naive, one at a time": lambda: through(stream, single, one),
                    "scorer alone": lambda: cost_here(lambda: scorer.score(spectra)),
                    "eager torch alone": lambda: cost_here(lambda: [eager(*batch) for batch in batches]),
                },
            )
    for name, each in costs.items():
        show(name, each, len(few) if name == "naive, one at a time" else len(spectra))
    compare("`serve` over the naive batched torch peer", costs["serve"], costs["naive, batched"], 2)
    weight = len(spectra) / len(few)
    compare(
        "`serve` over the naive per-message peer", costs["serve"], costs["naive, one at a time"], 10, weight
    )
    compare("whole scorer over eager torch", costs["scorer alone"], costs["eager torch alone"], 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
