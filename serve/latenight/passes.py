"""The two passes over one message and the petal step between them: spectra -> uncalibrated statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight import petal
from latenight.channels import COMPARED, PASS2
from latenight.fibres import petal_in_message
from latenight.modes import groups_of, read_modes
from latenight.neighbours import light_beside, shared_offsets
from latenight.redshift import find_redshifts, trials_of
from latenight.session import Graph
from latenight.skyresidual import without_sky_residual
from latenight.spectra import N_PIX, SPECTYPES, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.modes import ModeGroup
    from latenight.petal import Learned
    from latenight.spectra import Spectra

    Floats = NDArray[np.float32]

N_NEIGHBOURS = 10
# What is known of a redshift: redrock trusts it, redrock doubts it (ZWARN), it was found here.
TRUSTED, DOUBTED, FOUND = REDSHIFTS = range(3)
N_KINDS = 2 * len(REDSHIFTS)  # of spectra: whether it is known what the sky subtraction left, or not
# The modes of 8 rows at all pixels are 9 MB: on a CPU they stay in the cache.
MODES_BUCKETS = {"cpu": (2, 4, 8), "cuda": (64, 512)}
NAMES = tuple(statistic.name for statistic in (*PASS2, *COMPARED))


@dataclass(frozen=True)
class Statistics:
    """Uncalibrated statistics of the eligible rows of one message; n rows.

    Attributes:
        group: (n,) index of the group of modes; plus the number of groups times the kind of the spectrum: TRUSTED,
            DOUBTED or FOUND redshift, plus 3 where it is not known what the sky subtraction left. Each has p-values
            of its own.
        petal: (n,) number of the petal in the message, -1 where it is not known.
        z: (n,) redshift that the models were used at.
        spectype: (n,) class of the modes.
        latent: (n, d) mean of q(latent | spectrum).
        mean: (n, 7958) reconstruction by the modes [1e-17 erg s-1 cm-2 A-1].
        variance: (n, 7958) of the reconstruction.
        log_prob, deviance, snr, knn_distance: (n,).
        values: (n, C) statistics in the order of channels.PASS2 and COMPARED, NaN where one does not cover a spectrum.
        wavelengths: (n, C) where they were found [A], 0 for none.
    """

    group: NDArray[np.int64]
    petal: NDArray[np.int64]
    z: Floats
    spectype: NDArray[np.str_]
    latent: Floats
    mean: Floats
    variance: Floats
    log_prob: Floats
    deviance: Floats
    snr: Floats
    knn_distance: Floats
    values: Floats
    wavelengths: Floats

    def stacked(self) -> NDArray[np.float64]:
        """The statistics in the order of channels.STATISTICS, (n, C + 2)."""
        network = (self.deviance[:, None], self.knn_distance[:, None])
        return np.concatenate([*network, self.values], axis=1).astype(np.float64)

    def named(self, name: str) -> Floats:
        """One statistic of pass 2 or of the neighbours, (n,)."""
        return self.values[:, NAMES.index(name)]


class Passes:
    """The graphs of one bundle, run over whole messages.

    Attributes:
        provider: the execution provider in use.
    """

    def __init__(
        self,
        folder: Path,
        learned: Learned,
        z_range: NDArray[np.float64],
        *,
        device: str,
        threads: int,
        groups: Sequence[ModeGroup] | None = None,
    ) -> None:
        """Open the graphs.

        Args:
            folder: of the bundle.
            learned: what training petals showed.
            z_range: (2,) redshifts that the network covers; for spectra outside another is found.
            device: "cpu", "cuda" or "auto".
            threads: number of CPU threads.
            groups: linear models in place of the bundle's (cross-fitting).
        """
        # TF32 for the network, whose draws scatter more than it rounds, and for the coarse ranking of neighbours; not
        # for normal matrices, whose solution would be lost.
        self._model, self._knn = (
            Graph(folder / file, device=device, threads=threads, tf32=True)
            for file in ("model.onnx", "knn.onnx")
        )
        self._refine, self._statistics = (
            Graph(folder / file, device=device, threads=threads, buckets=MODES_BUCKETS)
            for file in ("refine.onnx", "statistics.onnx")
        )
        self._groups = tuple(read_modes(folder / "modes.npz") if groups is None else groups)
        self._modes = [self._refine.held(group.weights) for group in self._groups]
        self._trials, self._threads = [trials_of(group) for group in self._groups], threads
        bank = np.load(folder / "bank.npy", allow_pickle=False)
        self._bank = self._knn.held({"bank": bank, "minus_norm2": -np.square(bank).sum(axis=1)})
        self._bank_ids = np.load(folder / "bank_ids.npy", allow_pickle=False)
        self._learned, self._z_range = learned, z_range
        self.provider = self._model.provider

    def __call__(self, spectra: Spectra, reasons: np.ndarray) -> Statistics:
        """The statistics of the eligible rows.

        Args:
            spectra: the rows of one message, sky fibres included (they tell what the sky subtraction left).
            reasons: (N,) why a row is not eligible; "" if it is.
        """
        spectra, sky_known = without_sky_residual(spectra, reasons, self._learned.sky_variance)
        rows = np.flatnonzero(reasons == "")
        first = self.first_pass(spectra.take(rows))
        after = self.petal_step(spectra, reasons, first["mean"], first["variance"])
        table = spectra.table[rows]
        second = {"flux": after.flux, "ivar": after.ivar, "sky": after.sky}
        second |= {name: first[name] for name in ("z", "mean", "variance", "norm", "coefficients")}
        second["beside"] = light_beside(first["mean"], first["norm"], table)
        values, wavelengths = self._second_pass(second, first["modes"])
        compared = shared_offsets(values, table)
        knn_distance = self._knn_distance(first["latent"], table["targetid"])
        doubted = np.where(table["zwarn"] > 0, DOUBTED, TRUSTED)
        kind = np.where(first["found"], FOUND, doubted) + len(REDSHIFTS) * ~sky_known[rows]
        used = ("z", "latent", "mean", "variance", "log_prob", "deviance", "snr")
        return Statistics(
            group=first["modes"] + len(self._groups) * kind,
            petal=petal_in_message(table),
            spectype=np.array([group.spectype for group in self._groups])[first["modes"]],
            knn_distance=knn_distance,
            values=np.concatenate([values, compared], axis=1),
            wavelengths=np.concatenate([wavelengths, np.zeros_like(compared)], axis=1),
            **{name: first[name] for name in used},
        )

    def reconstruct(self, spectra: Spectra) -> tuple[Floats, Floats]:
        """Reconstruction and its variance, (N, 7958) each, of spectra without the residual of their petal's sky."""
        first = self.first_pass(spectra)
        return first["mean"], first["variance"]

    def first_pass(self, spectra: Spectra) -> dict[str, np.ndarray]:
        """Outputs of the network and of the refinement; a row's depend on itself (on its company to 1e-6).

        With them come z (n,), the index of the group of "modes" (n,) and whether z was "found" here (n,).
        """
        z, group, found = self._redshifts(spectra)
        inputs: dict[str, np.ndarray] = {"flux": spectra.flux, "ivar": spectra.ivar, "z": z}
        spectype = np.array([SPECTYPES.index(modes.spectype) for modes in self._groups])[group]
        outputs = by_redshift(self._model, {**inputs, "group": spectype})
        refined: dict[str, np.ndarray] = {}
        for k in np.unique(group).tolist():
            mine = np.flatnonzero(group == k)
            for name, values in self._refine(inputs, constants=self._modes[k], which=mine).items():
                whole = refined.setdefault(name, np.empty((len(z), *values.shape[1:]), np.float32))
                whole[mine] = values
        return {**outputs, **refined, "z": z, "modes": group, "found": found}

    def _redshifts(self, spectra: Spectra) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
        """Redshift and group of each row: redrock's, or what fits best where that is of no use (then True)."""
        z, spectype = usable_redshift(spectra.table, self._z_range)
        group = groups_of(self._groups, spectype, z)
        missing = group < 0
        if missing.any():
            unknown = spectra.flux[missing], spectra.ivar[missing]
            z[missing], group[missing] = find_redshifts(*unknown, self._trials, self._threads)
        return z, group, missing

    def petal_step(
        self, spectra: Spectra, reasons: np.ndarray, mean: Floats, variance: Floats
    ) -> petal.Corrected:
        """The eligible rows, corrected by what the petal's fibres, the sky's too, share."""
        rows, sky = np.flatnonzero(reasons == ""), np.flatnonzero(reasons == "sky")
        used = np.concatenate([rows, sky])
        residuals = petal.Residuals(
            flux=spectra.flux[used],
            ivar=spectra.ivar[used],
            model=_dark_below(mean, len(sky)),
            variance=_dark_below(variance, len(sky)),
            table=spectra.table[used],
        )
        after = petal.corrected(residuals, self._learned)
        return petal.Corrected(*(values[: len(rows)] for values in vars(after).values()))

    def _second_pass(self, rows: dict[str, np.ndarray], group: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Statistics and wavelengths, (n, C) each, of rows with the modes of the given groups."""
        values, wavelengths = np.empty((2, len(group), len(PASS2)), np.float32)
        for k in np.unique(group).tolist():
            mine = np.flatnonzero(group == k)
            found = self._statistics(rows, constants=self._modes[k], which=mine)
            values[mine], wavelengths[mine] = found["statistics"], found["wavelengths"]
        return values, wavelengths

    def _knn_distance(self, latent: Floats, targetid: NDArray[np.int64]) -> Floats:
        """Mean distance to the 10 nearest training latents that are not the spectrum's own target, (n,)."""
        nearest = self._knn({"latent": latent}, constants=self._bank)
        ids = self._bank_ids[nearest["indices"]]
        own = (ids == targetid[:, None]) & (targetid[:, None] > 0)
        distances = np.sort(np.where(own, np.inf, nearest["distances"]), axis=1)
        return np.asarray(distances[:, :N_NEIGHBOURS].mean(axis=1), np.float32)


def by_redshift(model: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the network for rows that go through in the order of their redshift "z", and come back in theirs.

    Neighbours in redshift see the same part of the rest-frame grids, and need no more of the network.
    """
    order = np.argsort(inputs["z"], kind="stable")
    found = model(inputs, which=order)
    return {name: values[np.argsort(order)] for name, values in found.items()}


def _dark_below(values: Floats, n: int) -> Floats:
    """The same, (k, 7958), and n rows of 0."""
    return np.concatenate([values, np.zeros((n, N_PIX), np.float32)])


def redshift_of(kind: int) -> int:
    """Whether the redshift of spectra of a kind is TRUSTED, DOUBTED or FOUND."""
    return REDSHIFTS[kind % len(REDSHIFTS)]


def usable_redshift(table: np.ndarray, z_range: NDArray[np.float64]) -> tuple[Floats, NDArray[np.int64]]:
    """Redshift and class of each row as redrock gives them; rows without usable ones are UNKNOWN at z = 0.

    A redshift that redrock doubts (ZWARN) is used: it fits better than any other. But 95 % of them are wrong in
    simulations, so that such spectra have p-values of their own: by those of others 5.5 % fall below 1 %, 3.5 % below
    .1 %, and in their calibration they would hide what is strange in faint galaxies.

    Args:
        table: (N,) the spectra's table.
        z_range: (2,) redshifts that the model covers.
    """
    unknown = SPECTYPES.index(UNKNOWN)
    group = np.full(len(table), unknown, np.int64)
    for k, spectype in enumerate(SPECTYPES):
        group[table["spectype"] == spectype] = k
    covered = (table["z"] >= z_range[0]) & (table["z"] <= z_range[1])  # NaN compares false
    group[~covered] = unknown
    return np.where(group == unknown, 0, table["z"]).astype(np.float32), group
