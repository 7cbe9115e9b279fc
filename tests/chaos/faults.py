"""What can go wrong, each as a function of a round; it returns once the fault is over.

Where a fault strikes is drawn: one of the steps of a batch (tests.chaos.daemon), in one of the first batches.
"""

from __future__ import annotations

import resource
import signal
import time
from typing import TYPE_CHECKING

from tests.chaos.daemon import SESSION_MS, STEPS
from tests.chaos.world import DEADLINE_S, LOST, wait_until
from tests.siblings import corrupt, set_link, sibling

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.world import Daemon, Round

    Fault = Callable[[Round, Random], None]

FIRST_BATCHES = 2
BATCH = 4  # messages; read and scored come once a message
# Where the broker may die. Not right behind a commit: Kafka 4.3.1 as a single broker, killed before it has written
# the markers of a commit that it acknowledged, skips them when it comes back ("Couldn't find leader endpoint for
# partitions .. likely deleted already"), and the transaction hangs. With replicas another broker writes them.
UNDECIDED = STEPS[:-1]


def place(rng: Random, step: str | None = None) -> str:
    """Where the daemon waits."""
    step = step or rng.choice(STEPS)
    batch = rng.randint(1, FIRST_BATCHES)
    return (
        f"{step}:{BATCH * (batch - 1) + rng.randint(1, BATCH) if step in ('read', 'scored') else batch}:hold"
    )


def held(round_: Round, rng: Random, step: str | None = None, log: str = "") -> Daemon:
    """A daemon that has come to a step and waits there."""
    daemon = round_.start(place=place(rng, step), log=log)
    daemon.wait_for("held")
    return daemon


def kill(round_: Round, rng: Random) -> None:
    """Kill -9 at every step, one after the other, then at some moment."""
    for step in rng.sample(STEPS, len(STEPS)):
        daemon = round_.start(place=f"{step}:1:kill")
        assert daemon.process.wait(DEADLINE_S) == -signal.SIGKILL, daemon.words()
    daemon = round_.start()
    daemon.wait_for("ready")
    time.sleep(rng.uniform(0.0, 0.5))
    daemon.kill()
    round_.over()


def broker_killed(round_: Round, rng: Random) -> None:
    """The broker is killed with -9 and comes back; every other time the daemon dies with it."""
    _restart_broker(round_, rng, signal.SIGKILL)


def broker_stopped(round_: Round, rng: Random) -> None:
    """The broker is shut down and comes back."""
    _restart_broker(round_, rng, signal.SIGTERM)


def _restart_broker(round_: Round, rng: Random, how: signal.Signals) -> None:
    daemon = held(round_, rng, rng.choice(UNDECIDED))
    round_.world.kafka.end(how)
    if how == signal.SIGKILL and rng.random() < 0.5:
        daemon.kill()
    else:
        daemon.go_on()
    time.sleep(rng.uniform(0.0, 3.0))
    round_.world.kafka.start()
    round_.over()


def disk_full(round_: Round, rng: Random) -> None:
    """The broker's disk is full: it cannot write a byte, ends itself, and comes back with room."""
    daemon, kafka = held(round_, rng, rng.choice(UNDECIDED)), round_.world.kafka
    _, hard = resource.prlimit(kafka.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(kafka.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    daemon.go_on()
    wait_until(lambda: kafka.process.poll() is not None, "the broker lives on without a disk")
    time.sleep(rng.uniform(0.0, 2.0))
    kafka.start()
    round_.over()


def log_full(round_: Round, rng: Random) -> None:
    """The daemon's log goes to a full disk, and it loses its connections so that it has much to say."""
    daemon = held(round_, rng, log="/dev/full")
    round_.world.proxy.drop()
    daemon.go_on()
    round_.over()


def drop(round_: Round, rng: Random) -> None:
    """All connections are reset, several times."""
    daemon = held(round_, rng)
    for number in range(rng.randint(1, 5)):
        round_.world.proxy.drop()
        if number == 0:
            daemon.go_on()
        time.sleep(rng.uniform(0.0, 0.3))
    round_.over()


def cut(round_: Round, rng: Random) -> None:
    """No connection for some seconds."""
    daemon = held(round_, rng)
    with round_.world.proxy.cut():
        daemon.go_on()
        time.sleep(rng.uniform(1.0, 6.0))
    round_.over()


def stall(round_: Round, rng: Random) -> None:
    """Connections that stay but carry nothing, for some seconds."""
    daemon = held(round_, rng)
    with round_.world.proxy.stall():
        daemon.go_on()
        time.sleep(rng.uniform(1.0, 6.0))
    round_.over()


def join(round_: Round, rng: Random) -> None:
    """A second daemon joins while the first is in a batch, and leaves: told to, or killed and started again."""
    first = held(round_, rng)
    second = round_.start("b")
    second.wait_for("ready")
    time.sleep(rng.uniform(0.0, 4.0))
    first.go_on()
    time.sleep(rng.uniform(0.0, 4.0))
    if rng.random() < 0.5:
        second.kill()
    else:
        second.stop()
    round_.over()


def twin(round_: Round, rng: Random) -> None:
    """Two daemons with one name: the older loses its place and says so."""
    older = held(round_, rng)
    newer = round_.start()
    newer.wait_for("committed")
    older.go_on()
    assert older.process.wait(DEADLINE_S) == 1
    assert LOST in older.words()
    round_.over()


def frozen(round_: Round, rng: Random) -> None:
    """A daemon stands still for longer than its session, another takes over; then it goes on as if nothing was."""
    first = held(round_, rng)
    second = round_.start("b")
    first.signal(signal.SIGSTOP)
    try:
        second.wait_for("committed")
        time.sleep(rng.uniform(0.0, 3.0))
    finally:
        first.signal(signal.SIGCONT)
    first.go_on()
    round_.over()


def slow(round_: Round, rng: Random) -> None:
    """A batch takes longer than a member may go without a poll, while another waits for its partitions."""
    first = held(round_, rng)
    round_.start("b")
    time.sleep(2 * SESSION_MS / 1000 + rng.uniform(0.0, 3.0))
    first.go_on()
    round_.over()


def files_away(round_: Round, rng: Random) -> None:
    """The shared file system is gone for a while."""
    daemon = held(round_, rng, step="polled")
    redux = round_.world.redux
    away = redux.rename(redux.with_name("away"))
    try:
        daemon.go_on()
        time.sleep(rng.uniform(1.0, 5.0))
    finally:
        away.rename(redux)
    round_.over()


def swap(round_: Round, rng: Random) -> None:
    """The link to the bundle is set to a damaged one and then to a good one; every other time the daemon dies then."""
    folder = round_.world.folder / round_.prefix
    folder.mkdir()
    second, damaged = (make(round_.world.bundle, folder / make.__name__) for make in (sibling, corrupt))
    link = round_.bundle = set_link(folder / "link", round_.world.bundle)
    daemon = held(round_, rng)
    set_link(link, damaged)
    wait_until(lambda: "bundle refused" in daemon.words(), "a damaged bundle was not refused")
    set_link(link, second)
    wait_until(lambda: "bundle proven" in daemon.words(), "a good bundle was not proven")
    daemon.go_on()
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, 1.0))
        daemon.kill()
    else:
        daemon.wait_for("ready", 2)
        daemon.wait_for("held", 2)
        daemon.go_on()
    round_.over()


FAULTS: tuple[Fault, ...] = (
    kill,
    broker_killed,
    broker_stopped,
    disk_full,
    log_full,
    drop,
    cut,
    stall,
    join,
    twin,
    frozen,
    slow,
    files_away,
    swap,
)
