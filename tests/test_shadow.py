"""A shadow bundle scores what the daemon has scored, beside it and never in its way."""

from __future__ import annotations

import sys
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latenight import proof
from latenight.broker import PlaceLost, Record
from latenight.bundle import load_bundle
from latenight.errors import Unavailable
from latenight.shadow import Shadow, agreement, load_shadow
from latenight.wire import decode_scores
from tests.fakes import FakeScorer, make_spectra
from tests.siblings import sibling
from tests.test_daemon import BUDGET, TOPICS, N, World, petal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latenight.broker import Consumed, Sink
    from latenight.scores import Scores
    from latenight.spectra import Spectra

OTHER = "ab" * 32
N_ELIGIBLE = 17


@pytest.fixture
def world() -> World:
    return World()


class Other(FakeScorer):
    """A bundle of another id whose p_values are a hundredth of the fake's."""

    def __init__(self) -> None:
        super().__init__(OTHER)

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        scores = super().score(spectra, explain_below)
        scores.table["p_value"] /= 100
        return scores


def run(world: World, scorer: FakeScorer | None = None, sink: Sink | None = None) -> None:
    """Score all there is, with a shadow."""
    daemon = world.daemon()
    shadow = Shadow(scorer or Other(), daemon._desk, sink or world.broker.sink(), world.stop)
    daemon.run(drain=True, follow=shadow.follow)


def test_every_message_is_scored_by_both(world: World) -> None:
    """The shadow's tables lie in their own topic and say whose shadow they are; scores and alerts are the main's."""
    world.announce(petal(1, spikes=[4]), b"broken", petal(2))
    run(world)
    main, shadow = world.read(TOPICS.scores), world.read(TOPICS.shadow)
    assert [m.header("input") for m in shadow] == [m.header("input") for m in main]
    assert [m.key for m in shadow] == [m.key for m in main]
    assert {m.header("shadow-of") for m in shadow} == {FakeScorer().bundle_id}
    assert {m.header("shadow-of") for m in main} == {""}
    for one, other in zip(main, shadow, strict=True):
        found, expected = decode_scores(other.value), decode_scores(one.value)
        assert set(found["bundle"]) == {OTHER}
        assert set(expected["bundle"]) == {FakeScorer().bundle_id}
        np.testing.assert_array_equal(found["targetid"], expected["targetid"])
        np.testing.assert_allclose(found["p_value"], expected["p_value"] / 100)
    assert len(world.read(TOPICS.alerts)) == 1
    assert world.count("shadow_failures_total") == 0
    assert world.count("shadow_info", bundle=OTHER, provider=FakeScorer().provider) == 1


def test_how_far_the_two_agree_is_counted(world: World) -> None:
    """Each eligible spectrum counts once, under who would alert on it; the decades between the p_values add up."""
    world.announce(petal(1, spikes=[4]))
    run(world)
    scores = FakeScorer().score(make_spectra(N, 1)).table["p_value"]
    n_shadow = np.count_nonzero(np.delete(scores, 4) / 100 < BUDGET / 1e5)
    wanted = {"both": 1, "main": 0, "shadow": n_shadow, "neither": N_ELIGIBLE - 1 - n_shadow}
    assert {name: world.count("shadow_spectra_total", alerts=name) for name in wanted} == wanted
    assert world.count("shadow_log_p_difference_count") == N_ELIGIBLE
    assert world.count("shadow_log_p_difference_sum") == pytest.approx(2 * N_ELIGIBLE)


def test_the_shadow_begins_when_all_is_committed(world: World) -> None:
    """While it scores, the scores of the whole batch are out and the place in the topic is kept."""
    seen = []

    class Looking(Other):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            seen.append((len(world.read(TOPICS.scores)), world.n_committed()))
            return super().score(spectra)

    world.announce(petal(1), petal(2))
    run(world, Looking())
    assert seen == [(2, 2), (2, 2)]


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), Unavailable("away")])
def test_a_shadow_that_fails_harms_nothing(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises is counted and logged with the message; the next message is tried again."""
    failures = iter([True, False])

    class Failing(Other):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            if next(failures, False):
                raise error
            return super().score(spectra)

    world.announce(petal(1, spikes=[4]), petal(2))
    run(world, Failing())
    assert len(world.read(TOPICS.scores)) == world.n_committed() == 2
    assert len(world.read(TOPICS.alerts)) == 1
    assert [m.header("input") for m in world.read(TOPICS.shadow)] == ["t.spectra/0/1"]
    assert world.count("shadow_failures_total") == 1
    (record,) = [record for record in caplog.records if record.message == "shadow failed"]
    assert record.__dict__["fields"]["message"] == "t.spectra/0/0"


class Refusing:
    """A sink that refuses everything with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        raise self.error

    def close(self) -> None:
        """Nothing to leave."""


def test_a_broker_that_refuses_the_shadow_harms_nothing(world: World) -> None:
    """What cannot be published is counted; a daemon that has lost its place still ends."""
    world.announce(petal(1))
    run(world, sink=Refusing(Unavailable("away")))
    assert world.count("shadow_failures_total") == 1
    world.announce(petal(2))
    with pytest.raises(PlaceLost):
        run(world, sink=Refusing(PlaceLost("another process")))
    assert world.n_committed() == 2


def test_a_daemon_that_is_told_to_stop_does_not_wait_for_the_shadow(world: World) -> None:
    """From the stop on the shadow scores nothing more."""

    class Stopping(Other):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            world.stop.set()
            return super().score(spectra)

    world.announce(petal(1), petal(2), petal(3))
    run(world, Stopping())
    assert len(world.read(TOPICS.scores)) == 3
    assert len(world.read(TOPICS.shadow)) == 1


P = st.lists(st.floats(0, 1) | st.just(np.nan), min_size=5, max_size=5).map(np.array)


@given(p=P, q=P, threshold=st.floats(1e-6, 1))
def test_agreement_is_complete_and_symmetric(p: np.ndarray, q: np.ndarray, threshold: float) -> None:
    """Every spectrum with both p_values counts once; exchanging the bundles exchanges who alerts alone."""
    one, other = agreement(p, q, threshold), agreement(q, p, threshold)
    n = np.count_nonzero(np.isfinite(p) & np.isfinite(q))
    assert sum(one.alerts.values()) == len(one.difference) == n
    assert one.alerts["both"] == other.alerts["both"]
    assert one.alerts["main"] == other.alerts["shadow"]
    assert np.isfinite(one.difference).all()
    np.testing.assert_allclose(one.difference, other.difference)


def test_a_bundle_that_is_no_good_is_no_shadow(
    world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing or deadly bundle is counted, and the daemon serves without; a good one is loaded."""
    desk, sink = world.daemon()._desk, world.broker.sink()
    other = sibling(bundle, tmp_path / "other")

    def load(path: Path) -> Shadow | None:
        return load_shadow(path, device="cpu", threads=1, desk=desk, sink=sink, stop=Event())

    assert load(tmp_path / "nothing") is None
    assert world.count("shadow_failures_total") == 1
    shadow = load(other)
    assert shadow is not None
    assert shadow._scorer.bundle_id == load_bundle(other).id
    monkeypatch.setattr(proof, "CHILD", (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    assert load(other) is None
    assert world.count("shadow_failures_total") == 2
