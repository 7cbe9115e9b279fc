"""What an error of kafka-python means for us: try again, end, or never start."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kafka.errors import (
    AuthorizationError,
    CommitFailedError,
    CorruptRecordError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    SaslAuthenticationFailedError,
    TransactionAbortedError,
    UnknownMemberIdError,
)

from latenight.broker import PlaceLost
from latenight.errors import Damaged, StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

# The transaction is undone and the same messages can be polled again.
TRANSIENT = (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    TransactionAbortedError,
    UnknownMemberIdError,
)
# kafka-python wraps these into a plain KafkaError once the producer has failed: their names are all there is.
FENCED = ("ProducerFencedError", "InvalidProducerEpochError", "FencedInstanceIdError")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of kafka-python into ours.

    Raises:
        PlaceLost: another process runs under the same instance name.
        StartupError: the broker denies access.
        Damaged: what the broker sent has another checksum than what was stored.
        Unavailable: it may work later. Any other KafkaError is a bug and passes unchanged.
    """
    try:
        yield
    except KafkaError as error:
        text = f"{what}: {error}"
        if any(name in text for name in FENCED):
            raise PlaceLost(
                f"{text}; another process runs as this instance (give each its own), or this one stood still for "
                "so long that Kafka ended its transaction"
            ) from error
        if isinstance(error, (AuthorizationError, SaslAuthenticationFailedError)):
            raise StartupError(f"{text}; check --client-config and the access rules of the broker") from error
        if isinstance(error, CorruptRecordError):
            # This process must end: after such an error kafka-python 3.0.12 reads on for ever without a result.
            raise Damaged(
                f"{text}; if this comes again, the broker's disk is damaged: mend it, or let the group pass over the "
                "batch while its daemons are stopped: kafka-consumer-groups.sh --group GROUP --topic TOPIC:PARTITION "
                "--reset-offsets --to-offset OFFSET+1 --execute (higher if the batch holds more)"
            ) from error
        if error.retriable or isinstance(error, TRANSIENT):
            raise Unavailable(text) from error
        raise
