"""The alert packet: its schema, its example and what it promises."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from latenight.alert import (
    MAX_BYTES,
    N_BINS,
    alert_id,
    alert_key,
    bin_spectrum,
    encode_alert,
    make_alert,
    make_group_alert,
)
from latenight.errors import BadInput
from latenight.groups import Group, find_groups
from latenight.scores import SCORES, Scores
from latenight.spectra import ARMS, N_JOINT, N_PIX, TABLE, Spectra, empty_table
from tests.fakes import UNKNOWN_ROW, FakeScorer, add_spikes, make_spectra

SCHEMA = json.loads(files("latenight").joinpath("schema/alert-1.0.json").read_text())
EXAMPLE = files("latenight").joinpath("schema/alert-1.0-example.json")
GROUP_EXAMPLE = files("latenight").joinpath("schema/alert-1.0-group-example.json")
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILE = "/data/redux/daily/tiles/cumulative/1000/20260101/coadd-0-1000-thru20260101.fits"


def spiked(rows: list[int], n: int = 12) -> tuple[Spectra, Scores]:
    spectra = replace(add_spikes(make_spectra(n, seed=11), rows), source=FILE)
    return spectra, FakeScorer().score(spectra, explain_below=1e-6)


def example_packet() -> dict[str, Any]:
    """A flat spectrum with a spike at [O III]; no random numbers, whose streams may change with numpy."""
    spectra = make_spectra(4, seed=1, targetid=39627835576420141, ra=150.0, dec=2.25, z=0.35)
    spectra.table["spectype"] = "GALAXY"
    flux, ivar = np.full_like(spectra.flux, 2.0), np.full_like(spectra.ivar, 4.0)
    flux[:, :300] = ivar[:, :300] = 0.0
    spectra = replace(add_spikes(replace(spectra, flux=flux, ivar=ivar), [3], pixel=4003), source=FILE)
    scores = FakeScorer().score(spectra, explain_below=1e-6)
    return make_alert(spectra, scores, 3, created=CREATED)


def example_group_packet() -> dict[str, Any]:
    """Eight neighbouring flat spectra with a spike at the same wavelength; no random numbers."""
    spectra = make_spectra(10, seed=1, objtype="TGT", desi_target=1, z=0.35)
    spectra.table["targetid"] = 39627835576420141 + np.arange(10)
    spectra.table["fiber"] = np.arange(10)
    spectra.table["spectype"] = "GALAXY"
    flux, ivar = np.full_like(spectra.flux, 2.0), np.full_like(spectra.ivar, 4.0)
    flux += np.arange(10, dtype=np.float32)[:, None]
    spectra = replace(
        add_spikes(replace(spectra, flux=flux, ivar=ivar), range(1, 9), pixel=4003), source=FILE
    )
    scores = FakeScorer().score(spectra)
    (group,) = find_groups(spectra.table, scores.table, 1e-6)
    return make_group_alert(spectra, scores, group, created=CREATED)


def test_the_schema_is_a_valid_schema_and_describes_every_field() -> None:
    """The schema is valid draft 2020-12, and each of its fields, at any depth, has a description."""
    Draft202012Validator.check_schema(SCHEMA)

    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        fields = {**schema.get("properties", {}), **({"[]": schema["items"]} if "items" in schema else {})}
        missing = [path] if "description" not in schema and not path.endswith("[]") else []
        return missing + [
            one for name, field in fields.items() for one in undescribed(field, f"{path}.{name}")
        ]

    assert undescribed(SCHEMA, "") == []


def test_the_examples_are_what_is_made() -> None:
    """The published examples are the packets of fixed spectra; only the package version differs."""
    for example, packet in ((EXAMPLE, example_packet()), (GROUP_EXAMPLE, example_group_packet())):
        published, made = json.loads(example.read_text()), json.loads(encode_alert(packet))
        VALIDATOR.validate(published)
        for either in (published, made):
            either["provenance"].pop("version")
        assert made == published


def test_a_packet_is_a_spectrum_or_a_group_never_both() -> None:
    """The schema refuses a spectrum with a group's content, and a packet that lacks its own kind's."""
    spectrum, group = example_packet(), example_group_packet()
    for packet, other in ((spectrum, group), (group, spectrum)):
        VALIDATOR.validate(packet)
        assert not VALIDATOR.is_valid({**other, **packet})
        assert not VALIDATOR.is_valid({**packet, "kind": other["kind"]})


def test_a_group_names_its_place_and_its_members() -> None:
    """The packet of a group says which fibres and wavelengths, and lists the members from the strangest on."""
    packet = example_group_packet()
    group = packet["group"]
    assert (group["tileid"], group["petal"], group["fibers"], group["arm"]) == (1000, 0, [1, 8], "r")
    assert group["wavelengths"][0] < 6761.6 < group["wavelengths"][1]
    assert (group["n_members"], group["n_eligible"], group["sign"]) == (8, 8, 1)
    assert sorted(member["fiber"] for member in group["members"]) == list(range(1, 9))
    p_values = [member["p_value"] for member in group["members"]]
    assert p_values == sorted(p_values)
    assert alert_key(packet) == b"1000-0"


def test_a_whole_petal_fits_into_a_packet() -> None:
    """A group of 600 spectra is valid and within 64 KB: it lists the 500 strangest and says how many there are."""
    spectra = make_spectra(600, seed=1)
    scores = FakeScorer().score(spectra)
    scores.table["p_value"] = np.linspace(1e-9, 1.234e-5, 600)
    group = Group(np.arange(600), 1000, 0, (0, 599), 600, None, "", "", 0, 1e-300)
    data = encode_alert(make_group_alert(spectra, scores, group, created=CREATED))
    VALIDATOR.validate(packet := json.loads(data))
    assert packet["group"]["n_members"] == 600
    assert [member["row"] for member in packet["group"]["members"]] == list(range(500))


def test_the_id_of_a_group_depends_on_its_members_only() -> None:
    """The same members in another order or file give the same id; one member less, another."""
    spectra = make_spectra(12, seed=1)
    scores = FakeScorer().score(spectra)
    group = Group(np.arange(6), 1000, 0, (0, 5), 6, None, "", "", 0, 1e-9)

    def identity(change: Group, source: str = FILE) -> str:
        packet = make_group_alert(replace(spectra, source=source), scores, change, created=CREATED)
        return str(packet["alert_id"])

    assert identity(group) == identity(replace(group, rows=np.arange(6)[::-1], p_value=0.5), "other.fits")
    assert identity(group) != identity(replace(group, rows=np.arange(5)))


def test_a_packet_says_what_is_odd_and_where() -> None:
    """The packet of a spiked spectrum names the channel, the wavelength, the arm and the target."""
    spectra, scores = spiked([3])
    packet = make_alert(spectra, scores, 3, created=CREATED, tense="injection")
    VALIDATOR.validate(packet)
    assert packet["target"]["targetid"] == str(spectra.table["targetid"][3])
    assert packet["target"]["file"] == FILE
    assert packet["explain"]["channel"] == "scan"
    assert packet["explain"]["arm"] == "r"
    assert packet["explain"]["sign"] == 1
    assert packet["explain"]["rest_wavelength"] == pytest.approx(
        packet["explain"]["wavelength"] / (1 + float(spectra.table["z"][3]))
    )
    assert packet["tense"] == "injection"
    assert packet["created"] == "2026-01-02T03:04:05.000Z"
    assert packet["provenance"]["bundle"] == scores.bundle_id


def test_created_is_given_in_utc() -> None:
    """A time of another zone is written as the same instant in UTC."""
    spectra, scores = spiked([3])
    local = CREATED.astimezone(timezone(timedelta(hours=-7)))
    assert make_alert(spectra, scores, 3, created=local)["created"] == "2026-01-02T03:04:05.000Z"


def test_what_a_file_does_not_say_is_null() -> None:
    """Columns that the file does not have are null in the packet, never -1 or NaN."""
    spectra, scores = spiked([3])
    bare = replace(spectra, table=empty_table(12), source="latenight.spectra/0/17")
    packet = make_alert(bare, scores, 3, created=CREATED)
    VALIDATOR.validate(packet)
    assert packet["night"] is None
    assert {packet["target"][name] for name in ("ra", "dec", "tileid", "petal", "fiber")} == {None}
    assert packet["redrock"] == {"z": None, "zwarn": None, "spectype": "UNKNOWN", "deltachi2": None}
    assert packet["links"] == {"inspector": None, "legacy_viewer": None, "plot_command": None}


def test_without_a_redshift_there_is_no_rest_wavelength() -> None:
    """A spectrum without redrock has a null rest wavelength and no rest-frame lines nearby."""
    spectra, scores = spiked([UNKNOWN_ROW])
    explain = make_alert(spectra, scores, UNKNOWN_ROW, created=CREATED)["explain"]
    assert explain["rest_wavelength"] is None
    assert all(line["frame"] == "observed" for line in explain["nearby_lines"])


def test_the_links_lead_to_the_fibre() -> None:
    """The inspector link names release, tile and fibre; the plot command quotes the file."""
    spectra, scores = spiked([3])
    links = make_alert(replace(spectra, source="/a b/iron/tiles/c.fits"), scores, 3, created=CREATED)["links"]
    assert links["inspector"] == "https://inspector.desi.lbl.gov/iron/spectra/tiles/1000/3"
    assert links["legacy_viewer"].startswith("https://www.legacysurvey.org/viewer/?ra=1")
    assert links["plot_command"].startswith("plot_spectra -i '/a b/iron/tiles/c.fits' -t ")


def test_an_object_of_a_coadd_over_tiles_is_linked_by_its_target() -> None:
    """A healpix coadd has no fibre: the inspector link names the TARGETID."""
    spectra, scores = spiked([3])
    spectra.table["tileid"] = spectra.table["fiber"] = -1
    links = make_alert(spectra, scores, 3, created=CREATED)["links"]
    assert links["inspector"].endswith(f"/daily/spectra/{spectra.table['targetid'][3]}")


def test_the_thumbnail_is_the_weighted_mean_of_the_good_pixels() -> None:
    """A constant flux bins to that constant whatever masked pixels hold; a bin without data is NaN."""
    flux, ivar = np.full(N_PIX, 2.0, np.float32), np.ones(N_PIX, np.float32)
    flux[100:103], ivar[100:103] = 1e6, 0.0
    ivar[:31] = 0.0
    binned, sigma = bin_spectrum(flux, ivar)
    assert np.isnan([binned[0], sigma[0]]).all()
    np.testing.assert_allclose(binned[1:], 2.0)
    np.testing.assert_allclose(sigma[1], 1 / np.sqrt(31))


def test_arms_are_joined_in_the_thumbnail() -> None:
    """In the overlap of two arms both contribute, weighted by ivar, at their own wavelength."""
    flux, ivar = np.zeros(N_PIX, np.float32), np.zeros(N_PIX, np.float32)
    blue, red = ARMS[0].start + 2700 + 30, ARMS[1].start + 30  # both are 5784 A
    flux[blue], flux[red], ivar[blue], ivar[red] = 1.0, 5.0, 3.0, 1.0
    binned, _ = bin_spectrum(flux, ivar)
    assert np.flatnonzero(np.isfinite(binned)).tolist() == [2730 // 31]
    assert binned[2730 // 31] == pytest.approx(2.0)


def test_an_unexplained_row_has_no_reconstruction() -> None:
    """Where the reconstruction was not fetched the thumbnail says null instead of inventing one."""
    spectra, scores = spiked([3])
    assert make_alert(spectra, scores, 8, created=CREATED)["thumbnail"]["recon"] is None
    assert len(make_alert(spectra, scores, 3, created=CREATED)["thumbnail"]["recon"]) == N_BINS


def test_the_id_depends_on_content_and_bundle_only() -> None:
    """The id is the same for another row, path, night or masked pixel, and differs for other data."""
    spectra, _ = spiked([3])
    first = alert_id(spectra, 3, "bundle")
    moved = replace(spectra.take(np.array([8, 3])), source="latenight.spectra/0/17")
    moved.table["night"], moved.table["row"] = 20260102, [0, 1]
    moved.flux[1, moved.ivar[1] == 0] = 7.0
    assert alert_id(moved, 1, "bundle") == first
    assert alert_id(spectra, 3, "another") != first
    for change in ("flux", "ivar", "z", "spectype", "targetid"):
        other = spectra.take(np.array([3]))
        if change in ("flux", "ivar"):
            getattr(other, change)[0, np.flatnonzero(other.ivar[0])[0]] += 1.0
        else:
            other.table[change] = {"z": 0.5, "spectype": "QSO2", "targetid": 1}[change]
        assert alert_id(other, 0, "bundle") != first, change


def test_the_id_does_not_depend_on_which_nan_a_missing_redshift_is() -> None:
    """Two different NaN redshifts are the same missing redshift."""
    spectra, _ = spiked([3])
    ids = set()
    for bits in (0x7FC00000, 0xFFC00000, 0x7FC00001):
        spectra.table["z"] = np.array([bits], np.uint32).view(np.float32)[0]
        ids.add(alert_id(spectra, 3, "bundle"))
    assert len(ids) == 1


def test_a_path_that_is_no_text_still_gives_json() -> None:
    """A file name with bytes that are not UTF-8 is encoded with replacement characters."""
    spectra, scores = spiked([3])
    data = encode_alert(
        make_alert(replace(spectra, source="/x/\udcff\u00e9.fits"), scores, 3, created=CREATED)
    )
    assert json.loads(data)["target"]["file"] == "/x/?\u00e9.fits"


def test_a_packet_over_the_limit_is_refused() -> None:
    """A source so long that the packet passes 64 KB is bad input, not an oversized message."""
    spectra, scores = spiked([3])
    packet = make_alert(replace(spectra, source="x" * MAX_BYTES), scores, 3, created=CREATED)
    with pytest.raises(BadInput, match="more than 65536"):
        encode_alert(packet)


ANY_FLOAT = st.one_of(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38]), st.floats(width=32))
PROBABILITY = st.one_of(st.just(np.nan), st.floats(0.0, 1.0))
ANY_TEXT = st.text(max_size=16).filter(lambda text: "\x00" not in text)


def fill(dtype: np.dtype[Any], data: st.DataObject) -> np.ndarray:
    """One row in which every column holds any value of its type."""
    row = np.zeros(1, dtype)
    for name in dtype.names or ():
        if name.startswith(("p_", "artefact_p")) and dtype[name].kind == "f":
            row[name] = data.draw(PROBABILITY)
        elif dtype[name].kind == "f":
            row[name] = data.draw(ANY_FLOAT)
        elif dtype[name].kind == "i":
            info = np.iinfo(dtype[name])
            bounds = (-1, 1) if name == "sign" else (0 if name == "row" else int(info.min), int(info.max))
            row[name] = data.draw(st.integers(*bounds))
        else:
            row[name] = data.draw(ANY_TEXT if dtype[name].kind == "U" else st.booleans())
    return row


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_spectrum_and_scores_give_a_valid_packet(data: st.DataObject) -> None:
    """Whatever values the columns and scores hold, the packet is valid JSON of at most 64 KB without NaN."""
    flux = np.full((1, N_PIX), data.draw(ANY_FLOAT.filter(np.isfinite)), np.float32)
    ivar = np.full((1, N_PIX), data.draw(st.sampled_from([0.0, 1e-30, 1.0, 1e38])), np.float32)
    ivar[0, data.draw(st.integers(0, N_PIX)) :] = 0.0
    recon = np.full((1, N_JOINT), data.draw(ANY_FLOAT), np.float32)
    spectra = Spectra(flux, ivar, fill(TABLE, data), data.draw(st.text(max_size=300)))
    explained = np.arange(data.draw(st.integers(0, 1)))
    scores = Scores(
        fill(SCORES, data), explained, recon[explained], recon[explained], "b" * 64, "FakeExecutionProvider"
    )
    encoded = encode_alert(make_alert(spectra, scores, 0, created=CREATED))
    assert len(encoded) <= MAX_BYTES
    VALIDATOR.validate(json.loads(encoded, parse_constant=pytest.fail))


if __name__ == "__main__":  # python -m tests.test_alert: write the examples anew
    for path, packet in ((EXAMPLE, example_packet()), (GROUP_EXAMPLE, example_group_packet())):
        text = json.dumps(packet, indent=1, ensure_ascii=False)
        Path(str(path)).write_text(re.sub(r",\n +(?=[-0-9n])", ", ", text) + "\n")
