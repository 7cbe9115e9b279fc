"""The combiner learns what anomalies have in common from p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import STATISTICS, TAKES_PART
from latenight.combiner import evidence, log_odds, strangeness
from latenight.scorer import load_scorer
from latenight_train.combiner import learn_combiner, learned_combiner
from latenight_train.data import load_survey
from latenight_train.evaluate import ordinary_messages
from latenight_train.injected import injected_messages
from latenight_train.learn_combiner import lessons
from latenight_train.remember import RememberingPasses
from latenight_train.simulate import Night, simulate

if TYPE_CHECKING:
    from pathlib import Path

PAIR = 40, 90  # two statistics


def pairs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary p-values, and as many in which two statistics that have nothing in common are .01 to .0001 both."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 1, (2 * n, len(STATISTICS)))
    p[:n, PAIR] = 10 ** rng.uniform(-4, -2, (n, 2))
    return p, np.arange(2 * n) < n


def test_two_weak_signs_together_are_found() -> None:
    """At 1 % false alerts more than .8 of anomalies that only a pair of p-values shows, not .2 by the smallest p."""
    combiner = learn_combiner(*pairs(3000, 1))
    p, strange = pairs(2000, 2)
    found = {
        "combined": strangeness(combiner, p, np.ones(len(p), bool)),
        "smallest": -p[:, TAKES_PART].min(axis=1),
    }
    recall = {k: np.mean(v[strange] > np.quantile(v[~strange], 0.99)) for k, v in found.items()}
    assert recall["combined"] > 0.8
    assert recall["smallest"] < 0.2


def test_the_same_seed_gives_the_same_networks() -> None:
    """Learning twice from the same p-values gives the same log-odds, another seed others."""
    p, strange = pairs(300, 3)
    first, again, other = (log_odds(learn_combiner(p, strange, seed), p) for seed in (1, 1, 7))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_combiner_of_bundles_reads_every_statistic() -> None:
    """combiner.npz was learned with the statistics of this version: after a change it must be learned anew."""
    assert learned_combiner().weights[0].shape[1] == evidence(np.ones((1, len(STATISTICS)))).shape[1]


def test_lessons_are_ordinary_spectra_once_and_anomalies_of_every_round(bundle: Path, tmp_path: Path) -> None:
    """Ordinary rows count as they came only; every later round adds its anomalies with their kinds."""
    simulate(Night(tmp_path / "night", 20260105, 1, 1, 40, 11, 0.0), processes=1)
    paths = sorted((tmp_path / "night").rglob("coadd-*.fits"))
    messages = ordinary_messages(load_survey(paths, tmp_path), frozenset())
    ordinary = sum(int(rows.sum()) for _, rows in messages)
    scorer = load_scorer(bundle, passes=RememberingPasses)
    versions = list(injected_messages(messages, 3, 1))
    p, kinds = lessons(scorer, versions)
    injected = [v.truth["kind"][v.truth["counts"] & (v.truth["kind"] != "")] for v in versions]
    assert np.count_nonzero(kinds == "") == ordinary
    np.testing.assert_array_equal(kinds[kinds != ""], np.concatenate(injected))
    assert p.shape == (len(kinds), len(STATISTICS))
    assert ((p > 0) & (p <= 1)).all()
