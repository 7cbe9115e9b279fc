"""What becomes of a record that kafka-python cannot decode: it comes as its bytes, and those behind it come, too.

kafka-python gives nothing of a batch from its first undecodable record on (a header's name that is not UTF-8 is enough;
Kafka stores it), so that nobody gets past it. Each record says how long it is, so it can be stepped over.
"""

from __future__ import annotations

from typing import Any

from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint


class Undecodable(bytes):
    """A record as Kafka stores it: attributes, time, offset, key, value, headers.

    Attributes:
        reason: why it could not be decoded.
    """

    reason: str


class TolerantBatch(DefaultRecordBatch):  # type: ignore[misc]  # the library has no types
    """A batch that gives an Undecodable as the value of each record that it cannot decode."""

    _pos: int
    _next_record_index: int

    def __next__(self) -> Any:
        """The next record.

        Raises:
            CorruptRecordError: the record does not even say how long it is and where it belongs.
        """
        start, index = self._pos, self._next_record_index
        try:
            return super().__next__()
        except CorruptRecordError as error:
            length, begin = decode_varint(self._buffer, start)
            _, at = decode_varint(self._buffer, begin)  # attributes
            since_first, at = decode_varint(self._buffer, at)
            delta, _ = decode_varint(self._buffer, at)
            is_record = index < self.records_count and not self.is_control_batch
            # A wrong offset would be the next one to read from, and skip what lies before it.
            if (
                not is_record
                or begin + length > len(self._buffer)
                or not 0 <= delta <= self.last_offset_delta
            ):
                raise
            self._pos, self._next_record_index = begin + length, index + 1
            value = Undecodable(self._buffer[begin : begin + length])
            value.reason = str(error)
            offset, time_ms = self.base_offset + delta, self.first_timestamp + since_first
            return DefaultRecord(length, offset, time_ms, self.timestamp_type, None, value, [])


# kafka-python offers no place for it; tests/contract/test_records.py shows that this one is used.
memory_records.DefaultRecordBatch = TolerantBatch
