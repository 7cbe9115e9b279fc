"""The topics: names under one prefix, and the settings they need."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
DAY_MS = 86_400_000
SPECTRA_DAYS = 14  # so long the topic remembers what has been announced
# A whole petal inline is 500 spectra of 62 kB and their table, 33 MB.
MAX_MESSAGE_BYTES = 64 * MIB
# A dead letter carries the largest message and, in headers of 6 KB at most, why it was refused.
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES + MIB


@dataclass(frozen=True)
class Topics:
    """The names of the topics.

    Attributes:
        prefix: what they all start with; one prefix is one survey, or one test.
    """

    prefix: str = "latenight"

    @property
    def spectra(self) -> str:
        """In: one petal coadd a message, key TILEID-PETAL."""
        return f"{self.prefix}.spectra"

    @property
    def scores(self) -> str:
        """Out: one Arrow table per message of spectra."""
        return f"{self.prefix}.scores"

    @property
    def shadow(self) -> str:
        """Out: the tables that a shadow bundle makes of the same messages."""
        return f"{self.prefix}.shadow"

    @property
    def alerts(self) -> str:
        """Out: one JSON packet per alert, key targetid."""
        return f"{self.prefix}.alerts"

    @property
    def deadletters(self) -> str:
        """Out: messages that could not be scored, as they came, with the reason in headers."""
        return f"{self.prefix}.deadletters"

    @property
    def status(self) -> str:
        """Out: heartbeats."""
        return f"{self.prefix}.status"

    def settings(self) -> dict[str, dict[str, str]]:
        """The Kafka settings of each topic, by name.

        Spectra and scores are rebuilt from files, so weeks suffice; a subscriber who comes back after
        months still finds a year of alerts (at most 64 KB each, about 100 a night: 2.3 GB).
        """

        def config(max_bytes: int, days: int) -> dict[str, str]:
            return {"max.message.bytes": str(max_bytes), "retention.ms": str(days * DAY_MS)}

        # Kafka limits what is sent, so a small message could unpack to any size in the daemon's memory. Noise
        # compresses by a tenth: nothing is lost by keeping spectra as they are.
        unpacked = {"compression.type": "uncompressed"}

        return {
            self.spectra: config(MAX_MESSAGE_BYTES, SPECTRA_DAYS) | unpacked,
            self.scores: config(16 * MIB, 30),
            self.shadow: config(16 * MIB, 30),
            self.alerts: config(MIB, 365),
            self.deadletters: config(MAX_RECORD_BYTES, 30),
            self.status: config(MIB, 7),
        }
