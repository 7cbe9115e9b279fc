"""The two passes over one message and the petal step between them: spectra -> uncalibrated statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight import petal
from latenight.channels import PASS2
from latenight.session import Graph
from latenight.spectra import ARMS, N_JOINT, N_PIX, SPECTYPES, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.petal import Learned
    from latenight.session import Held
    from latenight.spectra import Spectra

    Floats = NDArray[np.float32]

N_NEIGHBOURS = 10
FINE = 2
# The modes of 8 rows at all pixels are 9 MB: on a CPU they stay in the cache.
MODES_BUCKETS = {"cpu": (2, 4, 8), "cuda": (64, 512)}
# What the network gives, and the input that spares or asks for its reconstruction.
NETWORK, RECONSTRUCTION = ("latent", "log_prob", "deviance", "snr"), ("mean", "variance")
SPARED, WANTED = {"wanted": np.zeros(0, np.float32)}, {"wanted": np.ones(1, np.float32)}
NAMES = tuple(statistic.name for statistic in PASS2)


@dataclass(frozen=True)
class Statistics:
    """Uncalibrated statistics of the eligible rows of one message; n rows.

    Attributes:
        group: (n,) index of the group of modes; the number of groups for rows without one.
        latent: (n, d) mean of q(latent | spectrum).
        mean: (n, 7781) reconstruction [1e-17 erg s-1 cm-2 A-1].
        variance: (n, 7781) of the reconstruction.
        log_prob, deviance, snr, knn_distance: (n,).
        values: (n, C) statistics of pass 2 in the order of channels.PASS2, NaN where one does not cover a spectrum.
        wavelengths: (n, C) where they were found [A], 0 for none.
    """

    group: NDArray[np.int64]
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
        """One statistic of pass 2, (n,)."""
        return self.values[:, NAMES.index(name)]


@dataclass(frozen=True)
class ModeGroup:
    """The linear model of one group of spectra.

    Attributes:
        spectype: redrock's class.
        z_min, z_max: redshifts that it serves.
        weights: what the graphs of both passes get of it.
    """

    spectype: str
    z_min: float
    z_max: float
    weights: dict[str, np.ndarray]

    def serves(self, spectype: NDArray[np.int64], z: Floats) -> NDArray[np.intp]:
        """Which rows it serves, given their index into SPECTYPES and redshift, (n,) each."""
        mine = (spectype == SPECTYPES.index(self.spectype)) & (z >= self.z_min) & (z < self.z_max)
        return np.flatnonzero(mine)

    @property
    def n_modes(self) -> int:
        """Number of coefficients."""
        return len(self.weights["precision"])


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
            z_range: (2,) redshifts that the network covers; spectra outside are scored without redshift.
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
        self._spared, self._wanted = (self._model.held(each) for each in (SPARED, WANTED))
        weights = [group.weights for group in self._groups]
        # The last is for rows without a group.
        self._modes = [self._refine.held(each) for each in (*weights, no_modes(self._groups))]
        bank = np.load(folder / "bank.npy", allow_pickle=False)
        self._bank = self._knn.held({"bank": bank, "minus_norm2": -np.square(bank).sum(axis=1)})
        self._bank_ids = np.load(folder / "bank_ids.npy", allow_pickle=False)
        self._learned, self._z_range = learned, z_range
        self.provider = self._model.provider

    def __call__(self, spectra: Spectra, reasons: np.ndarray) -> Statistics:
        """The statistics of the eligible rows.

        Args:
            spectra: the rows of one message, sky fibres included (the petal step needs them).
            reasons: (N,) why a row is not eligible; "" if it is.
        """
        rows = np.flatnonzero(reasons == "")
        first, group = self.first_pass(spectra.take(rows))
        after = self.petal_step(spectra, reasons, first["mean"], first["variance"])
        norm, coefficients = first.pop("norm"), first.pop("coefficients")
        second = {
            "flux": after.flux,
            "ivar": after.ivar,
            "sky": after.sky,
            "norm": norm,
            "coefficients": coefficients,
        }
        second |= {name: first[name] for name in ("z", "mean", "variance")}
        values, wavelengths = self._second_pass(second, group)
        knn_distance = self._knn_distance(first["latent"], spectra.table["targetid"][rows])
        del first["z"]
        found = {"knn_distance": knn_distance, "values": values, "wavelengths": wavelengths}
        return Statistics(group=group, **first, **found)

    def reconstruct(self, spectra: Spectra) -> tuple[Floats, Floats]:
        """Reconstruction and its variance, (N, 7781) each, before any petal step."""
        first, _ = self.first_pass(spectra)
        return first["mean"], first["variance"]

    def first_pass(self, spectra: Spectra) -> tuple[dict[str, np.ndarray], NDArray[np.int64]]:
        """Outputs of the model, refined, and the group of each row; a row's depend on itself (on its company to 1e-6).

        Where a group of modes serves a row, mean and variance are those of the exact linear model; elsewhere they
        are the network's.
        """
        z, spectype = redshift_and_group(spectra.table, self._z_range)
        inputs: dict[str, np.ndarray] = {"flux": spectra.flux, "ivar": spectra.ivar, "z": z}
        with_group = {**inputs, "group": spectype}
        first = by_redshift(self._model, with_group, constants=self._spared, outputs=NETWORK)
        first |= {"z": z, "norm": np.ones(len(z), np.float32)}
        first["mean"], first["variance"] = np.empty((2, len(z), N_JOINT), np.float32)
        first["coefficients"] = np.zeros((len(z), self._groups[0].n_modes if self._groups else 1), np.float32)
        group = np.full(len(z), len(self._groups))
        for k, modes in enumerate(self._groups):
            mine = modes.serves(spectype, z)
            if len(mine):
                group[mine] = k
                for name, values in self._refine(inputs, constants=self._modes[k], which=mine).items():
                    first[name][mine] = values
        others = np.flatnonzero(group == len(self._groups))
        if len(others):
            found = self._model(with_group, constants=self._wanted, outputs=RECONSTRUCTION, which=others)
            for name, values in found.items():
                first[name][others] = values
        return first, group

    def petal_step(
        self, spectra: Spectra, reasons: np.ndarray, mean: Floats, variance: Floats
    ) -> petal.Corrected:
        """The eligible rows, corrected by what the petal's fibres, the sky's too, share."""
        rows, sky = np.flatnonzero(reasons == ""), np.flatnonzero(reasons == "sky")
        used = np.concatenate([rows, sky])
        residuals = petal.Residuals(
            flux=spectra.flux[used],
            ivar=spectra.ivar[used],
            model=at_arms(mean, len(used)),
            variance=at_arms(variance, len(used)),
            table=spectra.table[used],
        )
        after = petal.corrected(residuals, self._learned)
        return petal.Corrected(*(values[: len(rows)] for values in vars(after).values()))

    def _second_pass(self, rows: dict[str, np.ndarray], group: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Statistics and wavelengths, (n, C) each; rows without a group of modes have those of calibration only."""
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


def by_redshift(
    model: Graph, inputs: dict[str, np.ndarray], *, constants: Held, outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Outputs of the network for rows that go through in the order of their redshift "z", and come back in theirs.

    Neighbours in redshift see the same part of the rest-frame grids, and need no more of the network.
    """
    order = np.argsort(inputs["z"], kind="stable")
    found = model(inputs, constants=constants, outputs=outputs, which=order)
    return {name: values[np.argsort(order)] for name, values in found.items()}


def at_arms(joint: Floats, n: int) -> Floats:
    """Values on the joint grid, (k, 7781), at the pixels of the arms, (n, 7958); rows beyond the k are 0."""
    values = np.zeros((n, N_PIX), np.float32)
    for arm in ARMS:
        values[: len(joint), arm.pixels] = joint[:, arm.joint_pixels]
    return values


def read_modes(path: Path) -> list[ModeGroup]:
    """The linear models in a bundle's modes.npz."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = zip(arrays["spectype"].tolist(), arrays["z_range"].tolist(), strict=True)
        names = ("columns", "grid", "precision")
        return [
            ModeGroup(spectype, z_min, z_max, weights_of(*(arrays[f"{name}_{k}"] for name in names)))
            for k, (spectype, (z_min, z_max)) in enumerate(facts)
        ]


def weights_of(columns: Floats, grid: NDArray[np.float64], precision: Floats) -> dict[str, np.ndarray]:
    """What the graphs get of a group's linear model: read off at the nearest of FINE points a bin.

    The graphs then gather one row per pixel. To interpolate between two inside them took 14 % of pass 2; the nearest
    of 2 is at most a quarter of a bin away, 7 km/s, where redshifts err by 10 and more. Against 4 points the strongest
    windows of 1 to 4 pixels change by .02 of their scatter, and gathering takes .11 ms a spectrum instead of .28: the
    points next to each other are read together.

    Args:
        columns: (bins, K + 3) modes, mean spectrum, variance and quiet bins.
        grid: (2,) ln(wavelength) of the first bin and bins per unit of it.
        precision: (K, K) inverse covariance of the coefficients.

    Returns:
        modes: (points, K). profiles: (3, points) mean spectrum, variance, quiet. grid: (3,) of the points, and the
        number of the last. precision.
    """
    n = len(columns)
    at = np.arange((n - 1) * FINE + 1) / FINE
    low = np.minimum(at.astype(int), n - 2)
    share = (at - low)[:, None].astype(np.float32)
    fine = columns[low] * (1 - share) + columns[low + 1] * share
    return {
        "modes": np.ascontiguousarray(fine[:, : len(precision)]),
        "profiles": np.ascontiguousarray(fine[:, len(precision) :].T),
        "grid": np.array([grid[0], grid[1] * FINE, len(at) - 1]),
        "precision": precision,
    }


def no_modes(groups: Sequence[ModeGroup]) -> dict[str, np.ndarray]:
    """Weights of a group in which nothing is known but the reconstruction: all modes are 0, every bin is quiet."""
    precision = groups[0].weights["precision"]
    columns = np.zeros((2, len(precision) + 3), np.float32)
    columns[:, -1] = 1
    return weights_of(columns, np.array([0.0, 1e-3]), precision)


def redshift_and_group(table: np.ndarray, z_range: NDArray[np.float64]) -> tuple[Floats, NDArray[np.int64]]:
    """Redshift and model group of each row; rows without a usable redshift are UNKNOWN at z = 0.

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
