"""`serve` beside quixstreams with the same scorer: python -m tests.bench.quix BUNDLE NIGHT [PETALS [ROUNDS]].

quixstreams (pip install quixstreams) is the stream processor that a Python user would take from the shelf. It carries
the same messages with the same guarantee, and writes one score table a petal: no dead letters, alerts or metrics.
"""

from __future__ import annotations

import sys
from pathlib import Path

from latenight.scorer import load_scorer
from latenight.wire import decode_spectra
from tests.bench.peers import peer, through
from tests.bench.setting import compare, heading, in_turns, petals, show, streaming

TOPIC = "quix"
MAX_MESSAGE = 64 << 20


def consume(bundle: Path, address: str, topic: str, out: str) -> None:
    """Score what comes on a topic until the process ends."""
    from quixstreams import Application  # no dependency of the project

    scorer = load_scorer(bundle)
    app = Application(
        address,
        consumer_group="quix",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=1.0,
        consumer_extra_config={"fetch.message.max.bytes": MAX_MESSAGE, "fetch.max.bytes": MAX_MESSAGE},
    )
    scored = app.dataframe(app.topic(topic, value_deserializer="bytes")).apply(
        lambda value: scorer.score(decode_spectra(value)).table.tobytes()
    )
    scored.to_topic(app.topic(out, value_serializer="bytes"))
    app.run()


def main(bundle: Path, night: Path, n: int = 4, rounds: int = 3) -> None:
    paths = petals(night, n)
    with streaming(bundle, "quix-serve") as stream:
        settings = {"max.message.bytes": str(MAX_MESSAGE)}
        stream.broker.create_topics(dict.fromkeys((TOPIC, f"{TOPIC}.scores"), settings), 1)
        ours = stream.records(paths, "inline")
        theirs = stream.records(paths, "inline", TOPIC)
        n_spectra = sum(len(decode_spectra(record.value)) for record in ours)
        heading(f"beside quixstreams: {n} petals, {n_spectra} spectra inline")
        words = ("--consume", bundle, stream.address, TOPIC, f"{TOPIC}.scores")
        with stream.serving() as daemon, peer("quix", *words) as other:
            costs = in_turns(
                rounds,
                {
                    "serve": lambda: stream.through(ours, daemon),
                    "quixstreams": lambda: through(stream, theirs, other),
                },
            )
    for name, each in costs.items():
        show(name, each, n_spectra)
    compare("`serve` inline over quixstreams with the same scorer", costs["serve"], costs["quixstreams"], 1)


if __name__ == "__main__":
    if sys.argv[1] == "--consume":
        consume(Path(sys.argv[2]), *sys.argv[3:6])
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
