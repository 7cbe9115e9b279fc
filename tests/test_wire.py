"""What travels comes back exactly, and nothing malformed gets through."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latenight import wire
from latenight.errors import BadInput
from latenight.scores import SCORES
from latenight.spectra import MAX_FLUX, MAX_IVAR, N_PIX, TABLE
from tests.fakes import FakeScorer, assert_same_tables, make_spectra

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from latenight.scores import Scores
    from latenight.spectra import Spectra

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=16)


@pytest.fixture(scope="module")
def spectra() -> Spectra:
    return make_spectra(9, seed=2)


@pytest.fixture(scope="module")
def scores(spectra: Spectra) -> Scores:
    return FakeScorer().score(spectra)


def edit(
    data: bytes, change: Callable[[dict[str, Any]], Any], metadata: dict[str, str] | None = None
) -> bytes:
    """The stream with its columns changed and, if given, other metadata."""
    batch = pa.ipc.open_stream(data).read_next_batch()
    columns = {name: batch.column(name) for name in batch.schema.names}
    change(columns)
    changed = pa.record_batch(columns).replace_schema_metadata(metadata or batch.schema.metadata)
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, changed.schema) as writer:
        writer.write_batch(changed)
    result: bytes = stream.getvalue().to_pybytes()
    return result


def pixels(values: np.ndarray, width: int = N_PIX) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


class TestSpectra:
    def test_everything_comes_back_bit_by_bit(self, spectra: Spectra) -> None:
        """Flux, ivar, table (NaN included) and source survive the wire unchanged."""
        found = wire.decode_spectra(wire.encode_spectra(spectra))
        assert found.flux.tobytes() == spectra.flux.tobytes()
        assert found.ivar.tobytes() == spectra.ivar.tobytes()
        assert found.table.tobytes() == spectra.table.tobytes()
        assert found.source == spectra.source

    def test_rows_out_of_a_larger_batch(self, spectra: Spectra) -> None:
        """Spectra that are no contiguous array (every other row) survive as well."""
        part = spectra.take(slice(None, None, 2))
        found = wire.decode_spectra(wire.encode_spectra(part))
        np.testing.assert_array_equal(found.flux, part.flux)
        assert_same_tables(found.table, part.table)

    @given(text=TEXT, targetid=st.integers(-(2**63), 2**63 - 1), z=st.floats(width=32, allow_infinity=False))
    @settings(max_examples=30, deadline=None)
    def test_any_identity_survives(self, text: str, targetid: int, z: float) -> None:
        """63-bit TARGETIDs, any text and any redshift survive."""
        spectra = make_spectra(1, 0, targetid=targetid, program=text, z=z)
        found = wire.decode_spectra(wire.encode_spectra(spectra))
        assert_same_tables(found.table, spectra.table)

    def test_a_path_need_not_be_text(self) -> None:
        """A source with bytes that are no UTF-8, as Linux allows in paths, survives."""
        spectra = make_spectra(1, 0)
        source = os.fsdecode(b"/data/\xff.fits")
        changed = type(spectra)(spectra.flux, spectra.ivar, spectra.table, source)
        assert wire.decode_spectra(wire.encode_spectra(changed)).source == source
        columns = wire.decode_scores(wire.encode_scores(changed, FakeScorer().score(changed)))
        assert columns["source"][0] == "/data/\N{REPLACEMENT CHARACTER}.fits"

    def test_columns_of_other_publishers(self, spectra: Spectra) -> None:
        """Unknown columns are ignored; an identity column that is absent holds its missing value."""

        def change(columns: dict[str, Any]) -> None:
            columns["mood"] = pa.array(["good"] * 9)
            del columns["zwarn"], columns["survey"]

        found = wire.decode_spectra(edit(wire.encode_spectra(spectra), change))
        assert (found.table["zwarn"] == -1).all()
        assert (found.table["survey"] == "").all()

    def test_flux_under_bad_pixels_is_dropped(self, spectra: Spectra) -> None:
        """Flux where ivar is 0 becomes 0, whatever it was."""
        flux = spectra.flux.copy()
        flux[spectra.ivar == 0] = np.nan
        data = edit(wire.encode_spectra(spectra), lambda columns: columns.update(flux=pixels(flux)))
        np.testing.assert_array_equal(wire.decode_spectra(data).flux, spectra.flux)

    def test_flux_and_ivar_beyond_any_spectrum_are_bounded(self, spectra: Spectra) -> None:
        """The largest floats count as MAX_FLUX and MAX_IVAR, whose squares float32 holds; all else stays."""
        flux, ivar = spectra.flux.copy(), spectra.ivar.copy()
        flux[0, 5:7], ivar[0, 5:7] = (3e38, -3e38), 3e38
        found = wire.decode_spectra(wire.encode_spectra(replace(spectra, flux=flux, ivar=ivar)))
        np.testing.assert_array_equal(found.flux[0, 5:7], [MAX_FLUX, -MAX_FLUX])
        np.testing.assert_array_equal(found.ivar[0, 5:7], np.full(2, MAX_IVAR, np.float32))
        np.testing.assert_array_equal(found.flux[1:], spectra.flux[1:])

    @pytest.mark.parametrize(
        ("column", "values", "problem"),
        [
            ("flux", None, "column flux is missing"),
            ("targetid", None, "column targetid is missing"),
            ("flux", pixels(np.zeros((9, 5), "f4"), 5), "column flux is fixed_size_list"),
            ("flux", pixels(np.zeros((9, N_PIX))), "column flux is fixed_size_list.*double"),
            ("flux", pixels(np.full((9, N_PIX), np.inf, "f4")), "flux is not finite in a good pixel"),
            ("ivar", pixels(np.full((9, N_PIX), -1, "f4")), "ivar holds a value that is negative"),
            ("ivar", pixels(np.full((9, N_PIX), np.nan, "f4")), "ivar holds a value that is negative or not"),
            ("ivar", pa.array([None] * 9, pa.list_(pa.float32(), N_PIX)), "column ivar holds nulls"),
            ("targetid", pa.array(np.zeros(9)), "column targetid is double, expected int64"),
            ("targetid", pa.array([None] * 9, pa.int64()), "column targetid holds nulls"),
            ("survey", pa.array(["x" * 17] * 9), "column survey holds more than 16 characters"),
            ("survey", pa.array(["x" * 10**6, *"y" * 8]), "column survey holds more than 16 characters"),
            ("spectype", pa.array(["GALAXIE"] * 9), "spectype holds something else than GALAXY"),
            ("z", pa.array(np.full(9, np.inf, "f4")), "column z is infinite"),
        ],
    )
    def test_wrong_columns_are_named(
        self, spectra: Spectra, column: str, values: pa.Array, problem: str
    ) -> None:
        """A column that is missing or of wrong type, length or content is BadInput that names it."""

        def change(columns: dict[str, Any]) -> None:
            del columns[column]
            if values is not None:
                columns[column] = values

        with pytest.raises(BadInput, match=problem):
            wire.decode_spectra(edit(wire.encode_spectra(spectra), change))

    def test_other_streams_are_refused(self, spectra: Spectra, scores: Scores) -> None:
        """Score tables, other formats, streams without source or rows, and no Arrow at all are BadInput."""
        data = wire.encode_spectra(spectra)
        others = [
            wire.encode_scores(spectra, scores),
            edit(data, lambda _: None, {"format": "latenight.spectra/2", "source": "x"}),
            edit(data, lambda _: None, {"format": wire.SPECTRA_FORMAT}),
            wire.encode_spectra(spectra.take(slice(0))),
            b"",
            b"{}",
            data[: len(data) // 2],
        ]
        for other in others:
            with pytest.raises(BadInput):
                wire.decode_spectra(other)

    def test_one_batch_is_one_message(self, spectra: Spectra) -> None:
        """A stream of two batches is BadInput: a message is one petal."""
        batch = pa.ipc.open_stream(wire.encode_spectra(spectra)).read_next_batch()
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, batch.schema) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch)
        with pytest.raises(
            BadInput, match="expected one Arrow batch, found schema, record batch, record batch"
        ):
            wire.decode_spectra(stream.getvalue().to_pybytes())

    @given(edits=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6))
    @settings(max_examples=150, deadline=None)
    def test_flipped_bytes_never_crash(self, edits: list[tuple[int, int]]) -> None:
        """Wrong bytes in the head of a stream give BadInput or spectra that keep the contract."""
        content = bytearray(ONE)
        for where, byte in edits:
            content[where] = byte
        try:
            found = wire.decode_spectra(bytes(content))
        except BadInput:
            return
        assert np.isfinite(found.flux).all()
        assert (found.ivar >= 0).all()


ONE = wire.encode_spectra(make_spectra(1, seed=0))


class TestScores:
    def test_one_row_per_spectrum_by_name(self, spectra: Spectra, scores: Scores) -> None:
        """A score table holds identity, scores, bundle and source of every row, ineligible ones included."""
        columns = wire.decode_scores(wire.encode_scores(spectra, scores))
        assert list(columns) == [*(TABLE.names or ()), *(SCORES.names or ()), "bundle", "source"]
        for table in (spectra.table, scores.table):
            for name in table.dtype.names or ():
                np.testing.assert_array_equal(columns[name], table[name], err_msg=name)
        assert columns["targetid"].dtype == np.int64
        assert set(columns["bundle"]) == {scores.bundle_id}
        assert set(columns["source"]) == {spectra.source}

    def test_spectra_are_no_scores(self, spectra: Spectra) -> None:
        """A stream of another format is BadInput."""
        with pytest.raises(BadInput, match=r"latenight\.scores/1"):
            wire.decode_scores(wire.encode_spectra(spectra))

    def test_parquet_keeps_the_order_of_messages(
        self, tmp_path: Path, spectra: Spectra, scores: Scores
    ) -> None:
        """A Parquet file holds the rows of all messages in order, with the columns of the score table."""
        part, part_scores = spectra.take(slice(3)), FakeScorer("b2").score(spectra.take(slice(3)))
        wire.write_parquet(tmp_path / "s.parquet", [(spectra, scores), (part, part_scores)])
        found = wire.read_parquet(tmp_path / "s.parquet")
        first = wire.decode_scores(wire.encode_scores(spectra, scores))
        second = wire.decode_scores(wire.encode_scores(part, part_scores))
        assert list(found) == list(first)
        for name, values in found.items():
            np.testing.assert_array_equal(values, np.concatenate([first[name], second[name]]), err_msg=name)
        assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]

    def test_a_failed_run_leaves_the_old_file(self, tmp_path: Path, spectra: Spectra, scores: Scores) -> None:
        """A Parquet file appears whole or not at all; an earlier one stays until then."""
        path = tmp_path / "s.parquet"
        path.write_bytes(b"old")
        with pytest.raises(BadInput, match="stop"), wire.open_parquet(path) as parquet:  # noqa: PT012
            parquet.write(spectra, scores)
            raise BadInput("stop")
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["s.parquet"]
        with pytest.raises(BadInput, match="not a Parquet file"):
            wire.read_parquet(path)

    def test_other_parquet_files_are_refused(self, tmp_path: Path) -> None:
        """A Parquet file that is no score table is BadInput."""
        pq.write_table(pa.table({"a": [1]}), tmp_path / "s.parquet")
        with pytest.raises(BadInput, match="not a score table"):
            wire.read_parquet(tmp_path / "s.parquet")

    def test_no_message_gives_an_empty_table(self, tmp_path: Path) -> None:
        """A run without spectra leaves a file with all columns and no rows."""
        wire.write_parquet(tmp_path / "s.parquet", [])
        assert {len(values) for values in wire.read_parquet(tmp_path / "s.parquet").values()} == {0}
