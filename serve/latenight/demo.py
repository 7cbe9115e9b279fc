"""The whole way in one process: announce -> serve -> alerts on a simulated night, and what it found there."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.alert import encode_alert
from latenight.announce import announce
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.client import subscribe
from latenight.daemon import Daemon
from latenight.desi import find_coadds
from latenight.errors import BadInput
from latenight.health import Health
from latenight.inbox import read_message
from latenight.metrics import Metrics
from latenight.outcome import Desk, SpectraScorer
from latenight.plots import plot_alert
from latenight.wire import write_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.scores import Scores
    from latenight.spectra import Spectra

    Messages = Sequence[tuple[Spectra, Scores]]
    Alerts = Sequence[Mapping[str, Any]]

N_BEST = 10


class Witness:
    """A scorer that keeps what it has seen and said: a demonstration's night fits into memory."""

    def __init__(self, scorer: SpectraScorer) -> None:
        self._scorer = scorer
        self.bundle_id = scorer.bundle_id
        self.provider = scorer.provider
        self.messages: list[tuple[Spectra, Scores]] = []

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        """What the scorer says."""
        scores = self._scorer.score(spectra, explain_below)
        self.messages.append((spectra, scores))
        return scores


@dataclass(frozen=True)
class Truth:
    """What the simulator knows, by TARGETID.

    Attributes:
        injected: kind of the injected anomaly.
        natural: trouble that every survey has: a wrong redshift, a cosmic ray that was not masked. An
            alert about it is neither found nor false.
    """

    injected: Mapping[int, str]
    natural: Mapping[int, str]

    def name(self, targetid: int) -> str:
        """What is the matter with a spectrum, "-" if nothing is."""
        natural = self.natural.get(targetid)
        return self.injected.get(targetid, f"({natural})" if natural else "-")


@dataclass(frozen=True)
class Count:
    """What lies below a threshold.

    Attributes:
        found: injected anomalies below it, by kind.
        n_false: ordinary spectra below it.
        n_natural: spectra with natural trouble below it.
    """

    found: Counter[str]
    n_false: int
    n_natural: int


@dataclass(frozen=True)
class Evaluation:
    """How the alerts of a night compare with what was injected; eligible spectra only.

    Attributes:
        injected: injected anomalies by kind.
        n_ordinary: spectra with neither injection nor natural trouble.
        n_natural: spectra with natural trouble.
        alerted: those that the alerts name.
        nominal: those with p_value < 0.01.
        measured: those below the p_value that at most one ordinary spectrum in a hundred lies below.
    """

    injected: Counter[str]
    n_ordinary: int
    n_natural: int
    alerted: Count
    nominal: Count
    measured: Count


def run(night: Path, scorer: SpectraScorer, budget: float) -> tuple[Messages, Alerts]:
    """Announce the coadds of a night, serve them and subscribe to the alerts, on a broker in memory.

    Returns:
        What was scored, and the packets that a subscriber received: groups, then spectra, oddest first.

    Raises:
        BadInput: there are no coadds.
    """
    paths = find_coadds([night])
    if not paths:
        raise BadInput(f"no coadd-*.fits under {night}")
    broker, topics, witness = MemoryBroker(), Topics(), Witness(scorer)
    broker.create_topics(topics.settings(), 1)
    announce(paths, "pointer", topics.spectra, broker.sink())
    desk = Desk(
        topics, lambda message: read_message(message.value, message.headers), witness, budget, Metrics()
    )
    source = broker.source([topics.spectra], group="demo")
    Daemon(source, broker.sink(), desk, health=Health(), stop=Event(), max_dead_ratio=0.0).run(drain=True)
    alerts = list(subscribe(broker, prefix=topics.prefix, until_end=True))
    groups = sorted(_of_kind("group", alerts), key=lambda alert: float(alert["group"]["p_value"]))
    spectra = sorted(_of_kind("spectrum", alerts), key=lambda alert: float(alert["scores"]["p_value"]))
    return witness.messages, [*groups, *spectra]


def _of_kind(kind: str, alerts: Alerts) -> Alerts:
    return [alert for alert in alerts if alert["kind"] == kind]


def _told(alerts: Alerts) -> list[int]:
    """The targets that the alerts name, as members of a group too."""
    members = [member for alert in _of_kind("group", alerts) for member in alert["group"]["members"]]
    return [int(one["targetid"]) for one in [*members, *(a["target"] for a in _of_kind("spectrum", alerts))]]


def read_truth(night: Path) -> Truth:
    """The truth.csv that the simulator leaves beside the spectra.

    Raises:
        BadInput: there is none.
    """
    path = night / "truth.csv"
    if not path.is_file():
        raise BadInput(f"{path}: not there; make the night with latenight-train simulate --inject 0.03")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong_z = {int(row["TARGETID"]): "wrong z" for row in rows if row["WRONG_Z"] == "1"}
    cosmics = {int(row["TARGETID"]): "cosmic" for row in rows if row["MISSED_COSMIC"] == "1"}
    return Truth({int(row["TARGETID"]): row["KIND"] for row in rows if row["KIND"]}, wrong_z | cosmics)


def evaluate(messages: Messages, alerts: Alerts, truth: Truth) -> Evaluation:
    """Compare a night with its truth."""
    eligible = [scores.table["eligible"] for _, scores in messages]
    targets = np.concatenate([s.table["targetid"][e] for (s, _), e in zip(messages, eligible, strict=True)])
    p = np.concatenate([s.table["p_value"][e] for (_, s), e in zip(messages, eligible, strict=True)])
    kinds = np.array([truth.injected.get(target, "") for target in targets.tolist()])
    natural = (kinds == "") & np.isin(targets, list(truth.natural))
    ordinary = (kinds == "") & ~natural
    threshold = float(np.quantile(p[ordinary], 0.01, method="lower")) if ordinary.any() else 0.0

    def count(below: NDArray[np.bool_]) -> Count:
        found = Counter(kinds[below & (kinds != "")].tolist())
        return Count(found, *(int(np.count_nonzero(below & rows)) for rows in (ordinary, natural)))

    return Evaluation(
        injected=Counter(kinds[kinds != ""].tolist()),
        n_ordinary=int(np.count_nonzero(ordinary)),
        n_natural=int(np.count_nonzero(natural)),
        alerted=count(np.isin(targets, _told(alerts))),
        nominal=count(p < 0.01),
        measured=count(p < threshold),
    )


def save(out: Path, messages: Messages, alerts: Alerts, truth: Truth) -> None:
    """Leave scores.parquet, alerts.jsonl and the pictures of the best alerts, plots/RANK-TARGETID.png."""
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(out / "scores.parquet", messages)
    (out / "alerts.jsonl").write_bytes(b"".join(encode_alert(dict(alert)) + b"\n" for alert in alerts))
    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    for old in plots.glob("[0-9][0-9]-*.png"):
        old.unlink()
    by_source = {spectra.source: (spectra, scores) for spectra, scores in messages}
    for rank, alert in enumerate(_of_kind("spectrum", alerts)[:N_BEST], 1):
        target = alert["target"]
        spectra, scores = by_source[target["file"]]
        note = f"simulated with: {truth.name(int(target['targetid']))}"
        picture = plot_alert(spectra, scores, target["row"], note=note)
        (plots / f"{rank:02d}-{target['targetid']}.png").write_bytes(picture)


def report(evaluation: Evaluation, alerts: Alerts, truth: Truth, budget: float) -> str:
    """What a person wants to know of the night, as text."""
    groups, spectra = _of_kind("group", alerts), _of_kind("spectrum", alerts)
    return "\n".join(
        [
            _sentence(f"alerts, budget {budget:g} in 100 000", evaluation, evaluation.alerted),
            _sentence("p_value < 0.01", evaluation, evaluation.nominal),
            _sentence("measured rate of 1 %", evaluation, evaluation.measured),
            _natural(evaluation),
            "",
            *_kinds(evaluation),
            "",
            f"{len(groups)} faults of a petal:",
            *(f"{alert['group']['description']} (tile {alert['group']['tileid']})" for alert in groups),
            "",
            f"The {min(N_BEST, len(spectra))} best of {len(spectra)} alerts of a spectrum:",
            *_best(spectra[:N_BEST], truth),
        ]
    )


def _sentence(name: str, evaluation: Evaluation, count: Count) -> str:
    rate = 100.0 * count.n_false / max(evaluation.n_ordinary, 1)
    return (
        f"{name + ':':<30} found {count.found.total()} of {evaluation.injected.total()} injected anomalies; "
        f"{count.n_false} false among {evaluation.n_ordinary} ordinary spectra ({rate:.2f} %)"
    )


def _natural(evaluation: Evaluation) -> str:
    n_alerts, n = evaluation.alerted.n_natural, evaluation.n_natural
    return f"wrong redshifts and missed cosmic rays count neither way: {n_alerts} of {n} alerted"


def _kinds(evaluation: Evaluation) -> list[str]:
    counts = (evaluation.alerted, evaluation.nominal, evaluation.measured)
    rows = [
        (kind, str(n), *(str(count.found[kind]) for count in counts))
        for kind, n in sorted(evaluation.injected.items())
    ]
    return _aligned([("injected kind", "number", "alerted", "p < 0.01", "at 1 %"), *rows])


def _best(alerts: Alerts, truth: Truth) -> list[str]:
    rows = [("rank", "targetid", "spectype", "z", "S/N", "p_value", "channel", "wavelength", "injected")]
    for rank, alert in enumerate(alerts, 1):
        redrock, explain = alert["redrock"], alert["explain"]
        rows.append(
            (
                str(rank),
                alert["target"]["targetid"],
                redrock["spectype"],
                _text(redrock["z"], ".4f"),
                _text(alert["quality"]["snr"], ".2f"),
                _text(alert["scores"]["p_value"], ".1e"),
                explain["channel"],
                _text(explain["wavelength"], ".0f"),
                truth.name(int(alert["target"]["targetid"])),
            )
        )
    return _aligned(rows)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
