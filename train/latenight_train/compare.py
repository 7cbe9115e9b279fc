"""`latenight-train compare`: peers, and ours, on the same ordinary spectra and the same anomalies."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latenight.bundle import load_bundle
from latenight.errors import StartupError
from latenight.scorer import load_scorer
from latenight_train.compare_report import markdown
from latenight_train.data import load_survey, objects, split_by_petal
from latenight_train.evaluate import MAX_ROUNDS, PER_KIND, scored_trials
from latenight_train.inject import KINDS
from latenight_train.injected import injected_messages, ordinary_rows, rounds_needed
from latenight_train.measures import recall_table, with_means
from latenight_train.peers import autoencoder, pca, umap_groups, vae
from latenight_train.peers.training import Training
from latenight_train.recall import auroc
from latenight_train.truth import known_trouble
from latenight_train.unseen import (
    refuse_lessons,
    refuse_seen,
    refuse_trained_on,
    seen_targets,
    trained_targets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from latenight.bundle import Bundle
    from latenight.spectra import Spectra
    from latenight_train.data import Survey
    from latenight_train.peers.training import Fit, Score

    Messages = Sequence[tuple[Spectra, NDArray[np.bool_]]]

SCHEMA = "latenight.comparison/1"
OURS = "latenight, p_value"
PEERS: tuple[Fit, ...] = (pca.fit, autoencoder.fit, vae.fit, umap_groups.fit)
LIBRARIES = ("pyod", "scipy", "umap")  # of the extra "compare"


@dataclass(frozen=True)
class Method:
    """A trained detector.

    Attributes:
        score: spectra of a message -> one number each, larger is stranger.
        training_s: CPU seconds that its training took; None: not known.
    """

    score: Score
    training_s: float | None


def compare(
    paths: Sequence[Path], out: Path, *, bundle: Path | None, night: Sequence[Path], seed: int
) -> str:
    """Train the peers and measure all methods; writes comparison.json and comparison.md; returns the table.

    Args:
        paths: coadds and directories to train on.
        out: directory of the results, made if need be.
        bundle: ours, to be put beside the peers.
        night: coadds and directories to test on; none: petals of `paths` that are held out.
        seed: of the split, the training and the injections.

    Raises:
        StartupError: a library is missing; there is no data; training saw what would be tested; the bundle is
            damaged.
        BadInput: a coadd cannot be read.
    """
    _require_libraries()
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix="spectra-") as cache:
        survey = load_survey(paths, Path(cache) / "train")
        tested = load_survey(night, Path(cache) / "test") if night else survey
        held_out = np.zeros(len(survey.table), bool) if night else split_by_petal(survey.table, seed)
        if night:
            refuse_seen(tested, [digest for _, _, digest in survey.files], "the peers train")
        loaded = None if bundle is None else load_bundle(bundle)
        ours = {} if loaded is None else _ours(loaded, tested)
        excluded = known_trouble(night or paths)
        if night:
            excluded |= seen_targets(tested, objects(survey.table[survey.reasons == ""]))
        if loaded is not None:
            excluded |= trained_targets(tested, loaded)
        messages = _messages(tested, held_out | bool(night), excluded)
        training = training_of(survey, ~held_out, seed)
        comparison = measure({**trained(PEERS, training), **ours}, messages, seed)
    facts = {
        "schema": SCHEMA,
        "seed": seed,
        "bundle": loaded and loaded.id,
        "training_files": [name for name, _, _ in survey.files],
        "tested_files": [name for name, _, _ in tested.files],
        "training_spectra": len(training.rows),
    }
    return _save(out, facts | comparison)


def training_of(survey: Survey, allowed: NDArray[np.bool_], seed: int) -> Training:
    """What the peers learn from: the allowed rows, split by petal as `latenight-train fit` does."""
    rows = np.flatnonzero((survey.reasons == "") & allowed)
    reference = split_by_petal(survey.table[rows], seed)
    return Training(survey, rows[~reference], rows[reference], seed)


def trained(fits: Sequence[Fit], training: Training) -> dict[str, Method]:
    """The scores of all peers, trained one after the other."""
    found: dict[str, Method] = {}
    for fit in tqdm(fits, desc="peers", disable=None):
        started = time.process_time()
        scores = fit(training)
        seconds = time.process_time() - started
        found |= {name: Method(score, seconds) for name, score in scores.items()}
    return found


def measure(methods: Mapping[str, Method], messages: Messages, seed: int) -> dict[str, Any]:
    """Recall, AUROC and times of all methods on the same versions of the same messages, ready for JSON."""
    rounds = min(rounds_needed(sum(len(spectra) for spectra, _ in messages), PER_KIND), MAX_ROUNDS)
    versions = tqdm(
        injected_messages(messages, rounds, seed), total=len(messages) * (rounds + 1), disable=None
    )
    columns = np.dtype([(name, "f8") for name in methods])
    seconds, n_scored = dict.fromkeys(methods, 0.0), 0

    def score_all(spectra: Spectra) -> np.ndarray:
        nonlocal n_scored
        n_scored += len(spectra)
        table = np.zeros(len(spectra), columns)
        for name, method in methods.items():
            started = time.process_time()
            table[name] = method.score(spectra)
            seconds[name] += time.process_time() - started
        return table

    trials = scored_trials(versions, score_all, columns)
    kind, scores = trials["kind"], {name: trials[name] for name in methods}
    return {
        "spectra": {"ordinary": int((kind == "").sum()), "injected": int((kind != "").sum())},
        "rounds": rounds,
        "recall": recall_table(kind, scores),
        "auroc": {name: with_means(_auroc_by_kind(kind, values)) for name, values in scores.items()},
        "training_s": {name: method.training_s for name, method in methods.items()},
        "scoring_ms": {name: 1e3 * value / n_scored for name, value in seconds.items()},
    }


def _ours(bundle: Bundle, tested: Survey) -> dict[str, Method]:
    refuse_trained_on(tested, bundle)
    refuse_lessons(tested)
    scorer = load_scorer(bundle.path, device="cpu")

    def score(spectra: Spectra) -> NDArray[np.float64]:
        p = scorer.score(spectra).table["p_value"]
        return np.where(np.isnan(p), -np.inf, -np.log10(np.maximum(p, 1e-300)))

    minutes = bundle.manifest.get("training", {}).get("minutes")
    return {OURS: Method(score, None if minutes is None else 60.0 * minutes)}


def _messages(survey: Survey, tested: NDArray[np.bool_], trouble: frozenset[int]) -> Messages:
    """The messages with rows to be tested, and which of their rows are ordinary."""
    found = []
    for rows, spectra in survey.messages():
        ordinary = ordinary_rows(spectra, survey.reasons[rows], trouble) & tested[rows]
        if ordinary.any():
            found.append((spectra, ordinary))
    if not found:
        raise StartupError("no eligible spectrum with ZWARN == 0 to test on: name other coadds")
    return found


def _auroc_by_kind(kind: np.ndarray, values: NDArray[np.float64]) -> dict[str, float]:
    ordinary = values[kind == ""]
    return {name: auroc(ordinary, values[kind == name]) for name in KINDS if (kind == name).any()}


def _require_libraries() -> None:
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise StartupError(f"compare needs {', '.join(missing)}: install latenight[compare]")


def _save(out: Path, comparison: Mapping[str, Any]) -> str:
    table = markdown(comparison)
    (out / "comparison.json").write_text(json.dumps(comparison, indent=1) + "\n")
    (out / "comparison.md").write_text(table)
    return table
