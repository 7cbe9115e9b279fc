"""What a subscriber receives: the alert packet, schema/alert-1.0.json, as a dict and as bytes."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import latenight
from latenight.errors import BadInput
from latenight.lines import nearby_features
from latenight.links import inspector_link, legacy_viewer_link, plot_command
from latenight.scores import CHANNELS
from latenight.spectra import ARM_EDGES, ARMS, MISSING, N_JOINT, PIXEL
from latenight.triage import label

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from latenight.groups import Group
    from latenight.scores import Scores
    from latenight.spectra import Spectra

SCHEMA = "latenight.alert/1.0"
MAX_BYTES = 64 * 1024
MAX_MEMBERS = 500  # a petal; 80 bytes each
Tense = Literal["current", "archival", "injection", "test"]

BIN_PIXELS = 31  # 251 bins of 24.8 A: enough to see continuum and strong lines, 5 KB of JSON
N_BINS = -(-N_JOINT // BIN_PIXELS)
# Bin of every pixel of the joint grid, and of the three arms concatenated.
BIN_OF_JOINT = np.arange(N_JOINT) // BIN_PIXELS
BIN_OF_PIXEL = np.concatenate([BIN_OF_JOINT[arm.joint_pixels] for arm in ARMS])


def alert_id(spectra: Spectra, row: int, bundle_id: str) -> str:
    """The identity of an alert: the same spectrum under the same bundle, whatever file or message carried it.

    Args:
        spectra: the message.
        row: the spectrum.
        bundle_id: sha256 of the bundle's manifest.

    Returns:
        32 hexadecimal digits of the sha256 over TARGETID, good pixels, redshift, spectype and bundle.
    """
    table = spectra.table[row]
    ivar = spectra.ivar[row].astype("<f4")
    z = np.nan if np.isnan(table["z"]) else table["z"]  # one NaN: its bytes are not unique
    digest = hashlib.sha256(np.int64(table["targetid"]).astype("<i8").tobytes())
    digest.update(np.where(ivar > 0, spectra.flux[row], 0).astype("<f4").tobytes())
    digest.update(ivar.tobytes())
    digest.update(np.array(z, "<f4").tobytes())
    digest.update(f"{table['spectype']}/{bundle_id}".encode())
    return digest.hexdigest()[:32]


def make_alert(
    spectra: Spectra, scores: Scores, row: int, *, created: datetime, tense: Tense = "current"
) -> dict[str, Any]:
    """The packet of one spectrum; every number is finite or null.

    Args:
        spectra: the message.
        scores: its scores; the thumbnail holds the reconstruction if the row is explained.
        row: the spectrum that alerts.
        created: now, with a time zone.
        tense: "current" for new data, "archival" for a re-run, "injection" or "test" for what is not real.
    """
    table, score = spectra.table[row], scores.table[row]
    return {
        "schema": SCHEMA,
        "alert_id": alert_id(spectra, row, scores.bundle_id),
        "previous_p_value": None,
        "kind": "spectrum",
        **_circumstances(scores, created, tense),
        "night": _known(table, "night"),
        "target": _target(spectra, row),
        "redrock": {name: _known(table, name) for name in ("z", "zwarn", "spectype", "deltachi2")},
        "scores": {
            "p_value": _number(score["p_value"]),
            "p": {channel: _number(score[f"p_{channel}"]) for channel in CHANNELS},
            **{name: _number(score[name]) for name in ("log_prob", "chi2", "knn_distance")},
        },
        "explain": _explain(score, float(table["z"])),
        "quality": _quality(spectra, row, score),
        "links": {
            "inspector": inspector_link(
                spectra.source, int(table["targetid"]), int(table["tileid"]), int(table["fiber"])
            ),
            "legacy_viewer": legacy_viewer_link(float(table["ra"]), float(table["dec"])),
            "plot_command": plot_command(spectra.source, int(table["targetid"])),
        },
        "thumbnail": _thumbnail(spectra, scores, row),
    }


def make_group_alert(
    spectra: Spectra, scores: Scores, group: Group, *, created: datetime, tense: Tense = "current"
) -> dict[str, Any]:
    """The packet of a fault that many spectra of a petal share; it names its members, MAX_MEMBERS at most.

    Args:
        spectra: the message.
        scores: its scores.
        group: the spectra that fire together.
        created: now, with a time zone.
        tense: as for make_alert.
    """
    members = sorted(alert_id(spectra, int(row), scores.bundle_id) for row in group.rows)
    return {
        "schema": SCHEMA,
        "alert_id": hashlib.sha256("/".join(["group", *members]).encode()).hexdigest()[:32],
        "previous_p_value": None,
        "kind": "group",
        **_circumstances(scores, created, tense),
        "night": _known(spectra.table[group.rows[0]], "night"),
        "group": {
            "description": str(group),
            "tileid": None if group.tileid < 0 else group.tileid,
            "petal": group.petal,
            "file": spectra.source,
            "fibers": list(group.fibers) if min(group.fibers) >= 0 else None,
            "arm": group.arm or None,
            "wavelengths": group.wavelengths and [round(wave, 1) for wave in group.wavelengths],
            "statistic": group.statistic or None,
            "sign": group.sign,
            "p_value": float(f"{group.p_value:.3g}"),
            "n_members": len(group.rows),
            "n_eligible": group.n_eligible,
            "members": [_member(spectra, scores, int(row)) for row in group.rows[:MAX_MEMBERS]],
        },
    }


def alert_key(alert: dict[str, Any]) -> bytes:
    """The Kafka key of a packet: TARGETID, or TILEID-PETAL of a group."""
    if alert["kind"] == "group":
        return f"{alert['group']['tileid']}-{alert['group']['petal']}".encode()
    return str(alert["target"]["targetid"]).encode()


def encode_alert(alert: dict[str, Any]) -> bytes:
    """The packet as one line of UTF-8 JSON, without the line end.

    Raises:
        BadInput: the packet is larger than MAX_BYTES; only a source of absurd length can do that.
    """
    text = json.dumps(alert, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")  # a path on Linux may hold bytes that are no text
    if len(data) > MAX_BYTES:
        key = alert_key(alert).decode()
        raise BadInput(f"alert of {key}: {len(data)} bytes, more than {MAX_BYTES}; shorten the path")
    return data


def _circumstances(scores: Scores, created: datetime, tense: Tense) -> dict[str, Any]:
    """What a packet says of its own making."""
    return {
        "tense": tense,
        "created": created.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "provenance": {
            "bundle": scores.bundle_id,
            "version": latenight.__version__,
            "provider": scores.provider,
        },
    }


def _member(spectra: Spectra, scores: Scores, row: int) -> dict[str, Any]:
    table = spectra.table[row]
    return {
        "targetid": str(table["targetid"]),
        "fiber": _known(table, "fiber"),
        "row": int(table["row"]),
        "p_value": float(f"{scores.table['p_value'][row]:.3g}"),
    }


def _number(value: np.generic | float) -> float | None:
    """A finite number, float32 without invented digits; None for NaN and infinities."""
    if not np.isfinite(value):
        return None
    return float(f"{value:.7g}") if isinstance(value, np.float32) else float(value)


def _known(table: np.void, name: str) -> float | int | str | None:
    """The value of a column; None where it is missing."""
    value = table[name]
    if isinstance(value, np.floating):
        return _number(value)
    return None if value == MISSING[name] and name != "spectype" else value.item()


def _target(spectra: Spectra, row: int) -> dict[str, Any]:
    table = spectra.table[row]
    return {
        "targetid": str(table["targetid"]),  # 63 bits: a JavaScript number would round it
        **{
            name: _known(table, name)
            for name in ("ra", "dec", "survey", "program", "tileid", "petal", "fiber")
        },
        "file": spectra.source,
        "row": int(table["row"]),
    }


def _explain(score: np.void, z: float) -> dict[str, Any]:
    wavelength, width = float(score["wavelength"]), float(score["width"])
    is_placed = bool(0 < wavelength < np.inf)
    return {
        "channel": str(score["channel"]),
        "statistic": str(score["statistic"]),
        "wavelength": _number(score["wavelength"]) if is_placed else None,
        "width": _number(score["width"]) if width > 0 else None,
        "sigma": _number(score["sigma"]),
        "sign": int(score["sign"]),
        "arm": ARMS[int(np.searchsorted(ARM_EDGES, wavelength))].name if is_placed else None,
        "model": {"z": _number(score["model_z"]), "spectype": str(score["model_spectype"])},
        "rest_wavelength": _rounded(
            np.array([wavelength / (1.0 + z) if is_placed and z > -1.0 else np.nan]), 7
        )[0],
        "nearby_lines": [
            {
                "name": feature.name,
                "frame": feature.frame,
                "wavelength": feature.wavelength,
                "offset": round(offset, 2),
            }
            for feature, offset in (
                nearby_features(wavelength, width if 0 < width < np.inf else 0.0, z) if is_placed else []
            )
        ],
        "arm_chi2": {arm.name: _number(score[f"arm_chi2_{arm.name}"]) for arm in ARMS},
        "triage": {
            "label": label(float(score["artefact_probability"])),
            "artefact_probability": _number(score["artefact_probability"]),
        },
    }


def _quality(spectra: Spectra, row: int, score: np.void) -> dict[str, Any]:
    ivar = spectra.ivar[row]
    return {
        "snr": _number(score["snr"]),
        "fiberstatus": int(spectra.table["coadd_fiberstatus"][row]),
        "good_pixels": {arm.name: round(np.count_nonzero(ivar[arm.pixels]) / arm.n, 4) for arm in ARMS},
        "p_extrapolated": bool(score["p_extrapolated"]),
    }


def _thumbnail(spectra: Spectra, scores: Scores, row: int) -> dict[str, Any]:
    """Flux, its error and the reconstruction in N_BINS bins; recon is None if the row is not explained."""
    flux, sigma = bin_spectrum(spectra.flux[row], spectra.ivar[row])
    at = np.flatnonzero(scores.explained == row)
    recon = bin_reconstruction(scores.recon[at[0]]) if len(at) else None
    return {
        "wave_start": ARMS[0].wave_min + PIXEL * (BIN_PIXELS - 1) / 2.0,
        "wave_step": PIXEL * BIN_PIXELS,
        "flux": _rounded(flux, 4),
        "sigma": _rounded(sigma, 3),
        "recon": None if recon is None else _rounded(recon, 4),
    }


def bin_spectrum(
    flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One spectrum in N_BINS bins of the joint grid, pixels weighted by ivar, arms joined where they overlap.

    Args:
        flux: (7958,) [1e-17 erg s-1 cm-2 A-1].
        ivar: (7958,) its inverse variance.

    Returns:
        Flux and its standard deviation, (N_BINS,) each; NaN where there is no good pixel.
    """
    weight = np.bincount(BIN_OF_PIXEL, ivar, N_BINS)
    total = np.bincount(BIN_OF_PIXEL, ivar.astype(np.float64) * flux, N_BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / weight, np.where(weight > 0, 1.0 / np.sqrt(weight), np.nan)


def bin_reconstruction(recon: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean of a reconstruction, (7781,) on the joint grid, in the N_BINS bins of bin_spectrum."""
    return np.bincount(BIN_OF_JOINT, recon, N_BINS) / np.bincount(BIN_OF_JOINT, minlength=N_BINS)


def _rounded(values: NDArray[np.float64], digits: int) -> list[float | None]:
    """Values with so many significant digits; None for NaN and infinities."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]
