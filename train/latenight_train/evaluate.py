"""`latenight-train evaluate`: injects anomalies into spectra that training did not see, and measures what is found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latenight.bundle import load_bundle
from latenight.errors import StartupError
from latenight.scorer import load_scorer
from latenight.scores import SCORES
from latenight_train.data import load_survey
from latenight_train.evaluate_plots import plot_evaluation
from latenight_train.evaluate_report import markdown
from latenight_train.injected import TRUTH, injected_messages, ordinary_rows, rounds_needed
from latenight_train.measures import measured
from latenight_train.remember import RememberingPasses
from latenight_train.truth import known_trouble
from latenight_train.unseen import refuse_lessons, refuse_trained_on, trained_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from latenight.bundle import Bundle
    from latenight.spectra import Spectra
    from latenight_train.data import Survey
    from latenight_train.injected import Injected

SCHEMA = "latenight.evaluation/1"
PER_KIND = 60  # injections: a recall of .5 is then known to .13 (95 %), a mean over 22 kinds to .03
MAX_ROUNDS = 10  # of small data; every further round repeats the same hosts

# One row per spectrum that counts: ordinary ones as they came, and injected anomalies.
PLACE = [
    ("message", "i4"),
    ("round", "i4"),
    ("row", "i4"),
    ("targetid", "i8"),
    ("spectype", "U8"),
    ("z", "f4"),
]


def evaluate(bundle: Path, paths: Sequence[Path], out: Path, seed: int) -> str:
    """Evaluate a bundle; writes evaluation.json, .md, .png and trials.npy; returns the tables.

    Args:
        bundle: directory of the bundle.
        paths: coadds, real or simulated, and directories; with a truth.csv above them, what it calls troubled counts
            neither as ordinary nor as an anomaly.
        out: directory of the results, made if need be.
        seed: of the injections and the bootstrap.

    Raises:
        StartupError: there is no coadd or no ordinary spectrum in it, or training or the combiner's and triage's
            lessons saw it; the bundle is damaged.
        BadInput: a coadd cannot be read.
    """
    started = time.monotonic()
    scorer = load_scorer(bundle, passes=RememberingPasses)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix="spectra-") as cache:
        survey = load_survey(paths, Path(cache))
        trained = load_bundle(bundle)
        refuse_lessons(survey)
        messages = unseen_messages(survey, paths, trained)
        n = sum(len(spectra) for spectra, _ in messages)
        rounds = min(rounds_needed(n, PER_KIND), MAX_ROUNDS)
        versions = tqdm(
            injected_messages(messages, rounds, seed), total=len(messages) * (rounds + 1), disable=None
        )
        trials = scored_trials(versions, lambda spectra: scorer.score(spectra).table, SCORES)
    facts = {
        "schema": SCHEMA,
        "bundle": scorer.bundle_id,
        "training": {
            name: trained.manifest.get("training", {}).get(name) for name in ("spectra", "epochs", "minutes")
        },
        "provider": scorer.provider,
        "data": [name for name, _, _ in survey.files],
        "seed": seed,
        "rounds": rounds,
        "seconds": round(time.monotonic() - started, 1),
    }
    return save(out, trials, facts | measured(trials, seed))


def unseen_messages(
    survey: Survey, paths: Sequence[Path], bundle: Bundle
) -> list[tuple[Spectra, NDArray[np.bool_]]]:
    """The messages of a survey with their ordinary rows of targets that the bundle's training did not see.

    Args:
        survey: what was read.
        paths: where it was read; truth.csv above them tells of trouble.
        bundle: the trained one.

    Raises:
        StartupError: the bundle was trained on some of the files, or no such spectrum is left.
    """
    refuse_trained_on(survey, bundle)
    return ordinary_messages(survey, known_trouble(paths) | trained_targets(survey, bundle))


def ordinary_messages(survey: Survey, excluded: frozenset[int]) -> list[tuple[Spectra, NDArray[np.bool_]]]:
    """The messages of a survey with their ordinary rows.

    Raises:
        StartupError: there is no ordinary spectrum.
    """
    found = [
        (spectra, ordinary_rows(spectra, survey.reasons[rows], excluded))
        for rows, spectra in survey.messages()
    ]
    if not any(ordinary.any() for _, ordinary in found):
        raise StartupError(
            "no eligible spectrum with ZWARN == 0 of a target that training did not see: name other coadds"
        )
    return found


def scored_trials(
    versions: Iterable[Injected], score: Callable[[Spectra], np.ndarray], columns: np.dtype[np.void]
) -> np.ndarray:
    """Score injected messages and keep the rows that count: the columns of PLACE, TRUTH and the scores.

    Args:
        versions: of injected_messages.
        score: the table of scores of a message's rows, a structured array of dtype `columns`.
        columns: dtype of the scores.
    """
    dtype = np.dtype([*PLACE, *TRUTH.descr, *columns.descr])
    parts = []
    for version in versions:
        rows = np.flatnonzero(version.truth["counts"])
        scores, table = score(version.spectra)[rows], version.spectra.table[rows]
        part = np.zeros(len(rows), dtype)
        part["message"], part["round"], part["row"] = version.message, version.round, rows
        for source in (table[["targetid", "spectype", "z"]], version.truth[rows], scores):
            for name in source.dtype.names or ():
                part[name] = source[name]
        parts.append(part)
    return np.concatenate(parts)


def save(out: Path, trials: np.ndarray, evaluation: Mapping[str, Any]) -> str:
    """Write the results, plots included; returns the tables."""
    np.save(out / "trials.npy", trials)
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n")
    tables = markdown(evaluation)
    (out / "evaluation.md").write_text(tables)
    (out / "evaluation.png").write_bytes(plot_evaluation(evaluation))
    return tables
