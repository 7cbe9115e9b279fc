"""The two passes over one message and the petal step between them: spectra -> uncalibrated statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight import petal
from latenight.session import Graph
from latenight.spectra import ARMS, SPECTYPES, UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Spectra

    Floats = NDArray[np.float32]

N_NEIGHBOURS = 10
TO_ARMS = np.concatenate([np.arange(arm.joint_start, arm.joint_start + arm.n) for arm in ARMS])  # (7958,)
SECOND_OUTPUTS = ("chi2", "arm_chi2", "sigma", "wavelength", "width", "sign")


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
        chi2, sigma, wavelength, width, sign: (n,). arm_chi2: (n, 3).
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
    sigma: Floats
    wavelength: Floats
    width: Floats
    sign: Floats

    def channels(self) -> NDArray[np.float64]:
        """One column per entry of CHANNELS, (n, C); larger is stranger."""
        return np.stack([self.deviance, self.chi2, self.sigma, self.knn_distance], axis=1).astype(np.float64)


@dataclass(frozen=True)
class Petal:
    """What training learned for the petal step and the choice of groups.

    Attributes:
        pixel_noise: (7958,) factor on the variance of each observed pixel.
        z_range: (2,) redshifts that the model covers; spectra outside are scored without redshift.
    """

    pixel_noise: Floats
    z_range: NDArray[np.float64]


class Passes:
    """The graphs of one bundle, run over whole messages.

    Attributes:
        provider: the execution provider in use.
    """

    def __init__(self, folder: Path, learned: Petal, *, device: str, threads: int) -> None:
        files = ("model.onnx", "statistics.onnx", "knn.onnx")
        self._model, self._statistics, self._knn = (
            Graph(folder / file, device=device, threads=threads) for file in files
        )
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
        z, group = redshift_and_group(spectra.table[rows], self._learned.z_range)
        flux, ivar = spectra.flux[rows], spectra.ivar[rows]
        first = self._model({"flux": flux, "ivar": ivar, "z": z, "group": group})
        mean, variance = first["mean"], first["variance"]
        scale = self._noise_scale(spectra, reasons, mean, variance)
        ivar = petal.corrected_ivar(ivar, self._learned.pixel_noise, scale)
        second = self._statistics(
            {"flux": flux, "ivar": ivar, "mean": mean, "variance": variance}, outputs=SECOND_OUTPUTS
        )
        knn_distance = self._knn_distance(first["latent"], spectra.table["targetid"][rows])
        return Statistics(group=group, flux=flux, ivar=ivar, knn_distance=knn_distance, **first, **second)

    def reconstruction(self, statistics: Statistics, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Reconstruction and its standard deviation, (k, 7781) each, of some rows of the statistics."""
        names = ("flux", "ivar", "mean", "variance")
        inputs = {name: getattr(statistics, name)[rows] for name in names}
        found = self._statistics(inputs, outputs=("recon", "recon_sigma"))
        return found["recon"], found["recon_sigma"]

    def _noise_scale(self, spectra: Spectra, reasons: np.ndarray, mean: Floats, variance: Floats) -> Floats:
        """The petal step: noise scale (n, 3) of the eligible rows, measured on them and on the sky fibres."""
        rows, sky = np.flatnonzero(reasons == ""), np.flatnonzero(reasons == "sky")
        zeros = np.zeros((1, len(TO_ARMS)), np.float32)
        parts = ((rows, mean[:, TO_ARMS], variance[:, TO_ARMS]), (sky, zeros, zeros))
        sigmas = [
            petal.residual_sigmas(spectra.flux[k], spectra.ivar[k], m, v, self._learned.pixel_noise)
            for k, m, v in parts
        ]
        table = spectra.table[np.concatenate([rows, sky])]
        return petal.noise_scale(np.concatenate(sigmas), table)[: len(rows)]

    def _knn_distance(self, latent: Floats, targetid: NDArray[np.int64]) -> Floats:
        """Mean distance to the 10 nearest training latents that are not the spectrum's own target, (n,)."""
        nearest = self._knn({"latent": latent}, constants=self._bank)
        ids = self._bank_ids[nearest["indices"]]
        own = (ids == targetid[:, None]) & (targetid[:, None] > 0)
        distances = np.sort(np.where(own, np.inf, nearest["distances"]), axis=1)
        return np.asarray(distances[:, :N_NEIGHBOURS].mean(axis=1), np.float32)


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
