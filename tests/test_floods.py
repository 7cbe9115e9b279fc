"""A flood of alerts at its source: one bad petal and petals that come again, from message to subscriber."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latenight.client import subscribe
from latenight.errors import Unavailable
from latenight.wire import decode_scores, encode_spectra
from tests.fakes import DEAD_ROW, SKY_ROWS, FakeScorer, add_spikes, make_spectra
from tests.test_daemon import TOPICS, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.broker import Consumed, Record
    from latenight.scores import Scores
    from latenight.spectra import Spectra

N_BAD = 120
ELIGIBLE = N_BAD - len(SKY_ROWS) - 1
BAD_PETAL, ITS_TWIN = 3, 4


def good_petal(petal: int) -> Spectra:
    """Twenty fibres of which two are strange, each in its own way."""
    spectra = make_spectra(20, seed=petal, petal=petal)
    spectra.table["fiber"] += 500 * petal
    return add_spikes(add_spikes(spectra, [8], pixel=1000), [9], pixel=6000)


def bad_petal() -> Spectra:
    """Every fibre has a spike at the same wavelength."""
    spectra = make_spectra(N_BAD, seed=BAD_PETAL, petal=BAD_PETAL)
    spectra.table["fiber"] += 500 * BAD_PETAL
    return add_spikes(spectra, range(N_BAD))


def received(world: World, **options: Any) -> list[dict[str, Any]]:
    return list(subscribe(world.broker, prefix=TOPICS.prefix, until_end=True, **options))


def test_a_bad_petal_is_one_alert_and_the_others_still_come() -> None:
    """One group packet names all fibres of the bad petal, under its key; alerts of other petals come one by one."""
    world = World()
    petals = [good_petal(0), bad_petal(), good_petal(5)]
    world.announce(*map(encode_spectra, petals))
    world.daemon().run(drain=True)
    (group,) = received(world, where="kind == 'group'")
    assert (group["group"]["petal"], group["group"]["n_members"]) == (BAD_PETAL, ELIGIBLE)
    assert group["group"]["arm"] == "r"
    spectra = received(world, where="scores.p_value < 1")
    expected = [petal.table["targetid"][row] for petal in (petals[0], petals[2]) for row in (8, 9)]
    assert sorted(int(alert["target"]["targetid"]) for alert in spectra) == sorted(expected)
    assert b"1000-3" in {message.key for message in world.read(TOPICS.alerts)}
    assert len(world.read(TOPICS.alerts)) == 5
    assert DEAD_ROW not in {member["row"] for member in group["group"]["members"]}


def test_the_table_of_scores_says_who_belongs_to_a_group() -> None:
    """Members hold the alert id of their group packet, everybody else holds nothing."""
    world = World()
    world.announce(*map(encode_spectra, [good_petal(0), bad_petal()]))
    world.daemon().run(drain=True)
    good, bad = (decode_scores(message.value) for message in world.read(TOPICS.scores))
    (group,) = received(world, where="kind == 'group'")
    members = {int(member["targetid"]) for member in group["group"]["members"]}
    assert set(good["group"]) == {""}
    assert set(bad["group"]) == {"", group["alert_id"]}
    assert set(bad["targetid"][bad["group"] != ""]) == members


def test_what_is_not_told_one_by_one_is_counted() -> None:
    """The metrics count packets by kind, members of groups, and what came again."""
    world = World()
    world.announce(encode_spectra(bad_petal()), encode_spectra(good_petal(5)), encode_spectra(good_petal(5)))
    world.daemon().run(drain=True)
    assert world.count("alerts_published_total", kind="group") == 1
    assert world.count("alerts_published_total", kind="spectrum") == 2
    assert world.count("alerts_suppressed_total", reason="group") == ELIGIBLE
    assert world.count("alerts_suppressed_total", reason="repeat") == 2
    assert world.count("alerts_suppressed_total", reason="budget") == 0


def test_what_comes_again_is_scored_again_and_told_once() -> None:
    """A petal announced again, in the same transaction or later, gives scores each time and its alerts once."""
    world = World()
    again = [encode_spectra(good_petal(5)), encode_spectra(bad_petal())]
    world.announce(*again, *again)
    daemon = world.daemon()
    daemon.run(drain=True)
    world.announce(*again)
    daemon.run(drain=True)
    assert len(world.read(TOPICS.scores)) == 6
    assert len(world.read(TOPICS.alerts)) == 3


def test_after_a_restart_repeats_have_the_same_ids_and_a_subscriber_gets_them_once() -> None:
    """A new daemon publishes the alerts again under the same ids; a subscriber gets each once."""
    world = World()
    world.announce(encode_spectra(good_petal(5)), encode_spectra(bad_petal()))
    world.daemon().run(drain=True)
    world.announce(encode_spectra(good_petal(5)), encode_spectra(bad_petal()))
    world.daemon().run(drain=True)
    assert len(world.read(TOPICS.alerts)) == 6
    assert len(received(world)) == 3


def test_a_changed_score_comes_as_an_update() -> None:
    """Alerts with a thousandth of the p_value have the same ids again, and hold the p_value that was told before."""
    world = World()

    class Drifting(FakeScorer):
        factor = 1.0

        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            scores = super().score(spectra, explain_below)
            table = scores.table.copy()
            table["p_value"][table["p_value"] < 1e-6] *= self.factor
            return replace(scores, table=table)

    scorer = Drifting()
    daemon = world.daemon(scorer=scorer)
    for factor in (1.0, 0.5, 1e-3):
        scorer.factor = factor
        world.announce(encode_spectra(good_petal(5)))
        daemon.run(drain=True)
    alerts = received(world)
    first = [alert for alert in alerts if alert["previous_p_value"] is None]
    updates = {alert["alert_id"]: alert for alert in alerts if alert["previous_p_value"] is not None}
    assert (len(alerts), len(first), len(updates)) == (4, 2, 2)
    for alert in first:
        assert updates[alert["alert_id"]]["previous_p_value"] == alert["scores"]["p_value"]


def test_a_transaction_that_fails_holds_no_alert_back() -> None:
    """Alerts of an aborted transaction are published when it is done again."""
    world = World()
    sink = world.broker.sink(instance="i")

    class Flaky:
        failures = 1

        def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
            if consumed is not None and self.failures:
                self.failures -= 1
                raise Unavailable("the broker is away")
            sink.publish(records, consumed)

        def close(self) -> None:
            sink.close()

    world.announce(encode_spectra(good_petal(5)))
    world.daemon(sink=Flaky()).run(drain=True)
    assert len(world.read(TOPICS.alerts)) == 2
    assert world.count("alerts_suppressed_total", reason="repeat") == 0
