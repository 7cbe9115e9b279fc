"""Messages with injected anomalies and the truth about every row, for whoever measures or trains a detector.

A spectrum is judged within its petal, so an anomaly is put into a whole message, beside ordinary spectra. Only a few
rows are changed at once, in several rounds: with more, the petal step would measure the anomalies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, UNKNOWN, Spectra
from latenight_train.artefacts import Spectrum, smooth_model
from latenight_train.inject import KINDS, applies, draw_snr, inject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from numpy.typing import NDArray

    from latenight_train.inject import Injection

    Rows = NDArray[np.intp]

SHARE = 0.08  # of a message's rows that are changed at once
AMPLIFIER_FIBRES = (4, 12)  # neighbours that one wrong bias level reaches (desispec #1025: about 20 of 500)
MIN_SNR = (
    6.0  # the weakest that draw_snr draws; a fault that a spectrum's own light limits to less is not put in
)
GROUP_SCATTER = 0.2  # of the S/N between the fibres of a group, as their ivar and place differ

# What is true of one row of an injected message.
TRUTH = np.dtype(
    [
        ("kind", "U16"),  # key of inject.KINDS, "" where nothing was injected
        ("counts", "?"),  # an ordinary spectrum of round 0, or an anomaly in an ordinary spectrum
        ("matched_snr", "f4"),  # matched-filter S/N of the anomaly, 0 without one
        ("cluster", "i4"),  # anomalies of one fault share it, within a message and round
    ]
)


@dataclass(frozen=True)
class Injected:
    """One version of a message.

    Attributes:
        message: its number.
        round: 0 as it came; 1, 2 ... with anomalies.
        spectra: the whole message.
        truth: (N,) of dtype TRUTH.
    """

    message: int
    round: int
    spectra: Spectra
    truth: np.ndarray


def ordinary_rows(spectra: Spectra, reasons: np.ndarray, excluded: Collection[int] = ()) -> NDArray[np.bool_]:
    """Which rows are good spectra, (N,): eligible, with a redshift that redrock does not doubt.

    Args:
        spectra: a message.
        reasons: (N,) why a row is not eligible; "" if it is.
        excluded: TARGETIDs that are known not to be ordinary.
    """
    table = spectra.table
    known = np.isfinite(table["z"]) & (table["zwarn"] == 0) & (table["spectype"] != UNKNOWN)
    return np.asarray((reasons == "") & known & ~np.isin(table["targetid"], list(excluded)))


def rounds_needed(n_rows: int, per_kind: int) -> int:
    """Rounds after which every kind has been injected so often, where spectra for it exist."""
    return int(np.ceil(per_kind * len(KINDS) / max(SHARE * n_rows, 1.0)))


def injected_messages(
    messages: Iterable[tuple[Spectra, NDArray[np.bool_]]], rounds: int, seed: int
) -> Iterator[Injected]:
    """Every message as it came and then, round after round, with other anomalies in other rows.

    The kinds that were injected least so far come first, so that their numbers stay equal. The noise-free flux that
    some kinds need is smooth_model's, not a trained model's: two models are then judged on the same spectra, and what
    a model does not see is not missing from its test.

    Args:
        messages: spectra, and which rows are ordinary (ordinary_rows).
        rounds: how many versions with anomalies.
        seed: same seed and messages, same anomalies.
    """
    placed = Counter(dict.fromkeys(KINDS, 0))
    for number, (spectra, ordinary) in enumerate(messages):
        truth = np.zeros(len(spectra), TRUTH)
        truth["counts"] = ordinary
        yield Injected(number, 0, spectra, truth)
        hosts = _hosts(spectra, ordinary)
        for k in range(1, rounds + 1):
            anomalies = _draw(np.random.default_rng([seed, number, k]), hosts, placed)
            yield Injected(number, k, *_changed(hosts, anomalies))


@dataclass(frozen=True)
class _Hosts:
    """A message that receives anomalies.

    Attributes:
        spectra: the message.
        ordinary: (N,) rows whose anomalies count.
        order: (N,) all rows along the slit: neighbours on the detector stand side by side.
        red_snr: (N,) median S/N per pixel of the r arm, with the noise: a first guess of what inject.applies asks for.
        spectrum: a row with its estimated noise-free flux.
    """

    spectra: Spectra
    ordinary: NDArray[np.bool_]
    order: Rows
    red_snr: NDArray[np.float32]
    spectrum: Callable[[int], Spectrum]


@dataclass(frozen=True)
class _Anomaly:
    """One row's part of a fault."""

    row: int
    cluster: int
    injection: Injection


def _hosts(spectra: Spectra, ordinary: NDArray[np.bool_]) -> _Hosts:
    @cache
    def spectrum(row: int) -> Spectrum:
        flux, ivar, entry = spectra.flux[row], spectra.ivar[row], spectra.table[row]
        return Spectrum(flux, ivar, float(entry["z"]), str(entry["spectype"]), smooth_model(flux, ivar))

    table, red = spectra.table, ARMS[1].pixels
    order = np.lexsort((table["fiber"], table["petal"], table["tileid"]))
    red_snr = np.median(spectra.flux[:, red] * np.sqrt(spectra.ivar[:, red]), axis=1)
    return _Hosts(spectra, ordinary, order, red_snr, spectrum)


def _draw(rng: np.random.Generator, hosts: _Hosts, placed: Counter[str]) -> list[_Anomaly]:
    """Anomalies for one round; `placed` counts them by kind."""
    free: NDArray[np.bool_] = np.any(hosts.spectra.ivar, axis=1)
    room, kinds, anomalies = max(round(SHARE * np.count_nonzero(free)), 1), set(KINDS), list[_Anomaly]()
    while room > 0 and kinds:
        kind = min(kinds, key=lambda name: (placed[name], name))
        rows, donor = _place(rng, kind, hosts, free)
        rows = rows[:room]
        if not hosts.ordinary[rows].any():
            kinds.remove(kind)  # no spectrum of this message can show it any more
            continue
        free[rows] = False
        fault = _fault(rng, kind, hosts, rows, donor, cluster=len(anomalies))
        if max(anomaly.injection.snr for anomaly in fault) < MIN_SNR:
            continue
        anomalies += fault
        placed[kind] += int(hosts.ordinary[rows].sum())
        room -= len(rows)
    return anomalies


def _place(
    rng: np.random.Generator, kind: str, hosts: _Hosts, free: NDArray[np.bool_]
) -> tuple[Rows, int | None]:
    """The rows that one fault of a kind reaches, none if it finds no place; and the fibre whose light it is."""
    if kind == "amplifier_offset":
        return _run_of_neighbours(rng, hosts, free), None
    if kind == "crosstalk":
        return _beside_a_bright_fibre(rng, hosts, free)
    entry, table = KINDS[kind], hosts.spectra.table
    in_range = (table["z"] >= entry.z[0]) & (table["z"] <= entry.z[1])
    fits = free & hosts.ordinary & np.isin(table["spectype"], entry.spectypes) & in_range
    fits &= hosts.red_snr >= 0.9 * entry.min_snr  # spares smoothing spectra that would be too faint
    for row in rng.permutation(np.flatnonzero(fits)):
        if applies(kind, hosts.spectrum(int(row))):
            return np.array([row]), None
    return np.zeros(0, np.intp), None


def _run_of_neighbours(rng: np.random.Generator, hosts: _Hosts, free: NDArray[np.bool_]) -> Rows:
    """Neighbouring fibres, sky and doubtful ones too: an amplifier reads all of them."""
    size = int(rng.integers(AMPLIFIER_FIBRES[0], AMPLIFIER_FIBRES[1] + 1))
    start = int(rng.integers(max(len(hosts.order) - size, 0) + 1))
    run = hosts.order[start : start + size]
    return run[free[run]]


def _beside_a_bright_fibre(
    rng: np.random.Generator, hosts: _Hosts, free: NDArray[np.bool_]
) -> tuple[Rows, int | None]:
    """Both neighbours of a fibre that is twice as bright as they are, and that fibre."""
    red = ARMS[1].pixels
    light = np.median(hosts.spectra.flux[hosts.order, red], axis=1)
    bright = 1 + np.flatnonzero(light[1:-1] > 2.0 * np.maximum(np.maximum(light[:-2], light[2:]), 0.05))
    for at in rng.permutation(bright):
        rows = hosts.order[[at - 1, at + 1]]
        rows = rows[free[rows]]
        if hosts.ordinary[rows].any():
            return rows, int(hosts.order[at])
    return np.zeros(0, np.intp), None


def _fault(
    rng: np.random.Generator, kind: str, hosts: _Hosts, rows: Rows, donor: int | None, cluster: int
) -> list[_Anomaly]:
    """One fault in all its rows: same place, shape and sign, about the same S/N."""
    shared, snr = int(rng.integers(2**63)), draw_snr(rng)
    light = None if donor is None else hosts.spectrum(donor).model
    found = []
    for row in rows.tolist():
        spectrum = replace(hosts.spectrum(row), donor=light)
        scatter = rng.uniform(1 - GROUP_SCATTER, 1 + GROUP_SCATTER) if len(rows) > 1 else 1.0
        injection = inject(kind, np.random.default_rng(shared), spectrum, snr * scatter)
        found.append(_Anomaly(row, cluster, injection))
    return found


def _changed(hosts: _Hosts, anomalies: list[_Anomaly]) -> tuple[Spectra, np.ndarray]:
    """The message with the anomalies in it, and the truth about its rows."""
    spectra = hosts.spectra
    flux, ivar, table = spectra.flux.copy(), spectra.ivar.copy(), spectra.table.copy()
    truth = np.zeros(len(spectra), TRUTH)
    for anomaly in anomalies:
        row, injection = anomaly.row, anomaly.injection
        flux[row], ivar[row], table["z"][row] = injection.flux, injection.ivar, injection.z
        truth[row] = (injection.kind, hosts.ordinary[row], injection.snr, anomaly.cluster)
    return replace(spectra, flux=flux, ivar=ivar, table=table), truth
