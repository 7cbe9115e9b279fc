"""The two passes over one message and the petal step between them: spectra -> uncalibrated statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight import petal
from latenight.scores import STATISTICS
from latenight.session import Graph
from latenight.spectra import ARMS, SPECTYPES, UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Spectra

    Floats = NDArray[np.float32]

N_NEIGHBOURS = 10
# The modes of 8 rows at all pixels are 8 MB: they stay in the cache of a core.
REFINE_BUCKET = 8
TO_ARMS = np.concatenate([np.arange(arm.joint_start, arm.joint_start + arm.n) for arm in ARMS])  # (7958,)
SECOND_OUTPUTS = ("chi2", "arm_chi2", "scan_sigma", "scan_wavelength")
SCAN_START = STATISTICS["recon"] + STATISTICS["chi2"]  # first column of the scan among the statistics


@dataclass(frozen=True)
class Statistics:
    """Uncalibrated statistics of the eligible rows of one message; n rows.

    Attributes:
        group: (n,) index into SPECTYPES.
        latent: (n, d) mean of q(latent | spectrum).
        mean: (n, 7781) reconstruction [1e-17 erg s-1 cm-2 A-1].
        variance: (n, 7781) of the reconstruction.
        log_prob, deviance, snr, knn_distance: (n,).
        flux, ivar: (n, 7958) after the petal step.
        chi2: (n,). arm_chi2: (n, 3).
        scan_sigma, scan_wavelength: (n, widths).
    """

    group: NDArray[np.int64]
    latent: Floats
    mean: Floats
    variance: Floats
    log_prob: Floats
    deviance: Floats
    snr: Floats
    knn_distance: Floats
    flux: Floats
    ivar: Floats
    chi2: Floats
    arm_chi2: Floats
    scan_sigma: Floats
    scan_wavelength: Floats

    def stacked(self) -> NDArray[np.float64]:
        """The columns of scores.STATISTICS, (n, C); larger is stranger."""
        chi2 = (self.chi2[:, None], self.arm_chi2)
        columns = (self.deviance[:, None], *chi2, np.abs(self.scan_sigma), self.knn_distance[:, None])
        return np.concatenate(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class Learned:
    """What training learned for the petal step and the choice of groups.

    Attributes:
        pixel_noise: (7958,) factor on the variance of each observed pixel.
        z_range: (2,) redshifts that the network covers; spectra outside are scored without redshift.
    """

    pixel_noise: Floats
    z_range: NDArray[np.float64]


@dataclass(frozen=True)
class ModeGroup:
    """The linear model of one group of spectra.

    Attributes:
        spectype: redrock's class.
        z_min, z_max: redshifts that it serves.
        weights: inputs of refine.onnx beside the spectra.
    """

    spectype: str
    z_min: float
    z_max: float
    weights: dict[str, np.ndarray]


class Passes:
    """The graphs of one bundle, run over whole messages.

    Attributes:
        provider: the execution provider in use.
    """

    def __init__(self, folder: Path, learned: Learned, *, device: str, threads: int) -> None:
        files = ("model.onnx", "statistics.onnx", "knn.onnx")
        self._model, self._statistics, self._knn = (
            Graph(folder / file, device=device, threads=threads) for file in files
        )
        refine = folder / "refine.onnx"
        self._refine = Graph(refine, device=device, threads=threads, bucket=REFINE_BUCKET)
        self._groups = read_modes(folder / "modes.npz")
        bank = np.load(folder / "bank.npy", allow_pickle=False)
        self._bank = {"bank": bank, "minus_norm2": -np.square(bank).sum(axis=1)}
        self._bank_ids = np.load(folder / "bank_ids.npy", allow_pickle=False)
        self._learned = learned
        self.provider = self._model.provider

    def __call__(self, spectra: Spectra, reasons: np.ndarray) -> Statistics:
        """The statistics of the eligible rows.

        Args:
            spectra: the rows of one message, sky fibres included (the petal step needs them).
            reasons: (N,) why a row is not eligible; "" if it is.
        """
        rows = np.flatnonzero(reasons == "")
        first, group = self.first_pass(spectra.take(rows))
        flux, ivar = self._petal_step(spectra, reasons, first["mean"], first["variance"])
        second = {"flux": flux, "ivar": ivar, "mean": first["mean"], "variance": first["variance"]}
        found = self._statistics(second, outputs=SECOND_OUTPUTS)
        knn_distance = self._knn_distance(first["latent"], spectra.table["targetid"][rows])
        return Statistics(group=group, flux=flux, ivar=ivar, knn_distance=knn_distance, **first, **found)

    def reconstruct(self, spectra: Spectra) -> tuple[Floats, Floats]:
        """Reconstruction and its variance, (N, 7781) each, before any petal step."""
        first, _ = self.first_pass(spectra)
        return first["mean"], first["variance"]

    def first_pass(self, spectra: Spectra) -> tuple[dict[str, np.ndarray], NDArray[np.int64]]:
        """Outputs of the model, refined, and the group of each row; a row's depend on nothing but itself."""
        z, group = redshift_and_group(spectra.table, self._learned.z_range)
        inputs = {"flux": spectra.flux, "ivar": spectra.ivar, "z": z}
        first = self._model({**inputs, "group": group})
        self._refine_by_group(inputs, group, first)
        return first, group

    def _refine_by_group(
        self, inputs: dict[str, np.ndarray], group: NDArray[np.int64], first: dict[str, np.ndarray]
    ) -> None:
        """Replace the network's mean and variance by those of the exact linear model, where a group has one.

        Args:
            inputs: flux, ivar, z of n rows.
            group: (n,) index into SPECTYPES.
            first: "mean" and "variance" (n, 7781), changed in place; rows without a group keep the network's.
        """
        for modes in self._groups:
            served = (inputs["z"] >= modes.z_min) & (inputs["z"] < modes.z_max)
            mine = np.flatnonzero((group == SPECTYPES.index(modes.spectype)) & served)
            if len(mine):
                rows = {name: values[mine] for name, values in inputs.items()}
                found = self._refine(rows, constants=modes.weights, outputs=("mean", "variance"))
                first["mean"][mine], first["variance"][mine] = found["mean"], found["variance"]

    def reconstruction(self, statistics: Statistics, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Reconstruction and its standard deviation, (k, 7781) each, of some rows of the statistics."""
        names = ("flux", "ivar", "mean", "variance")
        inputs = {name: getattr(statistics, name)[rows] for name in names}
        found = self._statistics(inputs, outputs=("recon", "recon_sigma"))
        return found["recon"], found["recon_sigma"]

    def _petal_step(
        self, spectra: Spectra, reasons: np.ndarray, mean: Floats, variance: Floats
    ) -> tuple[Floats, Floats]:
        """Flux and ivar of the eligible rows, corrected by what the petal's fibres, the sky's too, share."""
        rows, sky = np.flatnonzero(reasons == ""), np.flatnonzero(reasons == "sky")
        used, nothing = np.concatenate([rows, sky]), np.zeros((len(sky), len(TO_ARMS)), np.float32)
        residuals = petal.Residuals(
            flux=spectra.flux[used],
            ivar=spectra.ivar[used],
            model=np.concatenate([mean[:, TO_ARMS], nothing]),
            variance=np.concatenate([variance[:, TO_ARMS], nothing]),
            table=spectra.table[used],
        )
        flux, ivar = petal.corrected(residuals, self._learned.pixel_noise)
        return flux[: len(rows)], ivar[: len(rows)]

    def _knn_distance(self, latent: Floats, targetid: NDArray[np.int64]) -> Floats:
        """Mean distance to the 10 nearest training latents that are not the spectrum's own target, (n,)."""
        nearest = self._knn({"latent": latent}, constants=self._bank)
        ids = self._bank_ids[nearest["indices"]]
        own = (ids == targetid[:, None]) & (targetid[:, None] > 0)
        distances = np.sort(np.where(own, np.inf, nearest["distances"]), axis=1)
        return np.asarray(distances[:, :N_NEIGHBOURS].mean(axis=1), np.float32)


def read_modes(path: Path) -> list[ModeGroup]:
    """The linear models in a bundle's modes.npz."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = zip(arrays["spectype"].tolist(), arrays["z_range"].tolist(), strict=True)
        names = ("columns", "grid", "precision")
        return [
            ModeGroup(spectype, z_min, z_max, {name: arrays[f"{name}_{k}"] for name in names})
            for k, (spectype, (z_min, z_max)) in enumerate(facts)
        ]


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
