"""Known patterns: faults of calibration and sky, lines at known wavelengths, fringes, a second redshift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.channels import BALMER_SPEEDS, BLUE_LENGTHS, MIDDLE
from latenight.spectra import ARMS, PIXEL
from latenight_train.blocks import ARM_OF_BLOCK, BLOCK, BLOCK_WAVE, N_STACKED, PER_ARM, window_sums
from latenight_train.modes import N_MODES
from latenight_train.scans import both
from latenight_train.second import MODEL, PLAIN, SKY_LINES, SKY_SIGMA, SLOPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latenight_train.scans import Found
    from latenight_train.second import Solved

LIGHT = 299792.458  # km/s
# Vacuum wavelengths [A].
LINES = (1215.7, 1240.1, 1397.0, 1549.1, 1908.7, 2799.0, 3728.5, 3934.8, 3969.6, 4102.9, 4341.7, 4687.0, 4862.7,
         5008.2, 5877.2, 6564.6, 6725.0, 8544.0)  # fmt: skip
BALMER = ((6564.6, 1.0), (4862.7, 0.35), (4341.7, 0.15), (4102.9, 0.08))
BROAD_LINE = 1700.0  # km/s
# Winds of quasars absorb blueward of these lines; speeds and widths [km/s].
TROUGHS = ((1549.1, 1.0), (1397.0, 0.6), (1240.1, 0.8))
SPEEDS = (3000.0, 5500.0, 8500.0, 12000.0, 16000.0, 21000.0)
SPEED_WIDTHS = (800.0, 1800.0, 3800.0)
SEGMENT = 512  # pixels of a periodogram
# Lines that galaxies show together, with typical strengths: star-forming with and without [O III].
LINE_SETS = (
    ((3728.5, 1.0), (4862.7, 0.6), (4960.3, 0.5), (5008.2, 1.2), (6564.6, 1.2), (6585.3, 0.5)),
    ((3728.5, 1.0), (4862.7, 0.5), (6564.6, 1.3), (6585.3, 0.8), (6725.0, 0.6)),
)
Z_MIN, Z_MAX, Z_STEP = 0.02, 1.4, 1.6e-4
TAKES_OVER = (3600.0, 5780.0, 7570.0, 9824.0)  # where one arm takes over from the next [A]


class Patterns(nn.Module):
    """Significance of known patterns."""

    wave: Tensor
    lines: Tensor
    waves: Tensor
    segments: Tensor
    winds: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shapes in fault_shapes().items():
            self.register_buffer(f"shapes_{name}", torch.from_numpy(shapes).float())
        self.register_buffer("wave", torch.from_numpy(BLOCK_WAVE).float())
        self.register_buffer("lines", torch.tensor(LINES))
        self.register_buffer("balmer", torch.tensor(BALMER))
        self.register_buffer("troughs", torch.tensor(TROUGHS))
        self.register_buffer("winds", torch.tensor([(v, w) for v in SPEEDS for w in SPEED_WIDTHS]))
        self.register_buffer("waves", torch.from_numpy(fourier()).float())
        self.register_buffer("segments", torch.from_numpy(segments()))
        for k, lines in enumerate(LINE_SETS):
            self.register_buffer(f"set_{k}", torch.from_numpy(line_pixels(lines)))
            self.register_buffer(f"strength_{k}", torch.tensor([strength for _, strength in lines]))

    def forward(self, s: Solved, z: Tensor) -> list[Found]:
        """All patterns of a batch."""
        z1 = 1 + z[:, None]
        # Windows of 4 pixels, one for each pixel that a window starts at.
        narrow = next(window_sums(s.x.clamp(-30, 30).reshape(-1, 3, PER_ARM * BLOCK), (4,)))[0] / 2
        lines = [*self.broad_lines(s, z1), self.trough(s, z1), *self.narrow_lines(narrow, z1)]
        return [*self.faults(s), *lines, *self.fringes(s), *self.second(narrow)]

    def faults(self, s: Solved) -> list[Found]:
        """Gains, offsets and shifts of arms or halves of them, sky lines."""
        found: list[Found] = [(("calibration",), s.change[:, N_MODES:].square().sum(1, keepdim=True), None)]
        for ingredient, names in FAULTS.items():
            shapes = self.get_buffer(f"shapes_{ingredient}")
            found.append((names, s.significance(ingredient, shapes[None]), None))
        return found

    def gaussian(self, line: Tensor, speed: float, z1: Tensor) -> Tensor:
        """Lines (L,) as wide as speed [km/s] at redshift z1 (N, 1) on the blocks, (N, L, 1083)."""
        centre = (line * z1)[:, :, None]
        return torch.exp(-0.5 * ((self.wave / centre - 1) * (LIGHT / speed)).clamp(-9, 9).square())

    def broad_lines(self, s: Solved, z1: Tensor) -> list[Found]:
        """Balmer lines of three widths, single broad lines."""
        line, ratio = self.get_buffer("balmer").unbind(1)
        shapes = [(self.gaussian(line, v, z1) * ratio[:, None]).sum(1, keepdim=True) for v in BALMER_SPEEDS]
        balmer = s.significance(PLAIN, torch.cat(shapes, dim=1))
        t = s.significance(PLAIN, self.gaussian(self.lines, BROAD_LINE, z1)).nan_to_num(0.0)
        return [
            (tuple(f"balmer{v:.0f}" for v in BALMER_SPEEDS), balmer, None),
            self.extremes("broadline", t, z1),
            (("broadlines",), t.clamp(-10, 10).square().sum(1, keepdim=True), None),
        ]

    def trough(self, s: Solved, z1: Tensor) -> Found:
        """Absorption by winds, blueward of lines of quasars; NaN where none of the lines is on the detectors."""
        line, depth = self.get_buffer("troughs").unbind(1)
        speed, width = (v[:, None, None] for v in self.winds.unbind(1))
        blueward = LIGHT * (1 - self.wave / (line * z1)[:, None, :, None])  # (N, 1, 3, 1083)
        shapes = (depth[:, None] * torch.exp(-0.5 * ((blueward - speed) / width).clamp(-9, 9).square())).sum(
            2
        )
        # The wings of a line that is off the detectors cover nothing.
        t = s.significance(MODEL, torch.where(shapes > 1e-3, shapes, torch.zeros(())))
        covered = (~torch.isnan(t)).to(t.dtype).amax(1, keepdim=True) > 0.5
        best = torch.stack([sign * t for sign in (1, -1)], dim=1).nan_to_num(-1e9).amax(2)
        return both("trough"), torch.where(covered, best, torch.full((), torch.nan)), None

    def extremes(self, name: str, t: Tensor, z1: Tensor) -> Found:
        """The strongest of the lines, t (N, lines), of each sign, and where it is."""
        signed = torch.stack([t, -t], dim=1)
        at = signed.argmax(dim=2)
        return both(name), signed.gather(2, at[:, :, None])[:, :, 0], (self.lines * z1).gather(1, at)

    def narrow_lines(self, narrow: Tensor, z1: Tensor) -> list[Found]:
        """Lines at the spectrum's redshift in windows of 4 pixels; of two arms the one that shows more."""
        t = torch.zeros_like(self.lines * z1)
        for k, arm in enumerate(ARMS):
            at = ((self.lines * z1 - arm.wave_min) / PIXEL - 1.5).round()
            here = narrow[:, k].gather(1, at.clamp(0.0, float(arm.n - 4)).long())
            shown = (at >= 0) & (at < arm.n - 4) & (here.abs() > t.abs())
            t = torch.where(shown, here, t)
        squares = t.clamp(-10, 10).square().sum(1, keepdim=True)
        return [self.extremes("line", t, z1), (("lines",), squares, None)]

    def fringes(self, s: Solved) -> list[Found]:
        """Periodograms (Hann window) of half-overlapping segments: mean, largest, sum of two neighbours."""
        found: list[Found] = []
        x = s.x.clamp(-4, 4)[:, self.segments]  # (N, segments, 512)
        waves = (x - x.mean(2, keepdim=True)) @ self.waves
        cosines, sines = torch.split(waves.square(), self.waves.shape[1] // 2, dim=2)
        power = (cosines + sines) / 2  # (N, segments, periods)
        for arm, p in zip(ARMS, torch.split(power, segments_of_arms(), dim=1), strict=True):
            pairs = (p[:, 1:] + p[:, :-1]).amax((1, 2))
            values = torch.stack([p.mean(1).amax(1), p.amax((1, 2)), pairs], dim=1)
            found.append(
                (tuple(f"{kind}_{arm.name}" for kind in ("fringe", "fringepart", "fringepair")), values, None)
            )
        return found

    def second(self, narrow: Tensor) -> list[Found]:
        """Emission lines of a galaxy at another redshift, the best over a grid."""
        found: list[Found] = []
        # One more pixel in front: a window of 4 starts 1.5 pixels before its line; the last entry is for no pixel.
        padded = functional.pad(narrow, (1, PER_ARM * BLOCK - narrow.shape[2] - 1)).clamp(-4, 8)
        flat = functional.pad(padded.flatten(1), (0, 1))
        for k in range(len(LINE_SETS)):
            here = flat[:, self.get_buffer(f"set_{k}")]  # (N, lines, redshifts)
            strength = self.get_buffer(f"strength_{k}")
            total = strength.square() @ (here != 0).to(here.dtype)
            t = torch.where(total > 0.5, strength @ here / total.clamp(min=0.1).sqrt(), torch.zeros(()))
            found.append(((f"second{k}",), t.amax(1, keepdim=True), None))
        return found


FAULTS = {
    MODEL: tuple(f"gain_{arm.name}" for arm in ARMS),
    SKY_SIGMA: (
        *(f"offset_{arm.name}_{side}" for arm in ARMS for side in ("low", "high")),
        *(f"offset_{arm.name}" for arm in ARMS),
        *(f"blue{length:.0f}" for length in BLUE_LENGTHS),
    ),
    SLOPE: tuple(f"shift_{arm.name}" for arm in ARMS),
    SKY_LINES: (
        *(f"skylines_{arm.name}" for arm in ARMS),
        "skylines_rz",
        "skylines_z_low",
        "skylines_z_high",
    ),
}


def fault_shapes() -> dict[int, NDArray[np.float64]]:
    """Where each fault acts, (faults, 1083) for each ingredient, in the order of FAULTS."""
    arms = np.stack([k == ARM_OF_BLOCK for k in range(3)]).astype(float)
    low = np.stack([MIDDLE[arm.name] > BLOCK_WAVE for arm in ARMS])
    halves = np.stack([arms[k] * side for k in range(3) for side in (low[k], ~low[k])])
    blue = np.stack([arms[0] * np.exp(-(BLOCK_WAVE - 3600.0) / length) for length in BLUE_LENGTHS])
    parts = np.stack([arms[1] + arms[2], arms[2] * (BLOCK_WAVE < 8600), arms[2] * (BLOCK_WAVE >= 8600)])
    sky = np.concatenate([halves, arms, blue])
    return {MODEL: arms, SKY_SIGMA: sky, SLOPE: arms, SKY_LINES: np.concatenate([arms, parts])}


def fourier() -> NDArray[np.float64]:
    """Cosines and sines of periods 11 to 170 pixels under a Hann window, (512, 2 periods), of unit noise power."""
    frequency = np.arange(3.0, 46.0, 0.5)
    window = np.hanning(SEGMENT)
    phase = 2 * np.pi * frequency[:, None] * np.arange(SEGMENT) / SEGMENT
    waves = np.concatenate([window * np.cos(phase), window * np.sin(phase)])
    return np.asarray((waves / np.sqrt(np.square(window).sum() / 2)).T)


def segments_of_arms() -> list[int]:
    """Number of segments of each arm."""
    return [-(-(arm.n - SEGMENT) // (SEGMENT // 2)) + 1 for arm in ARMS]


def segments() -> NDArray[np.int64]:
    """Stacked pixels of the half-overlapping segments, the last of an arm at its end, (segments, 512)."""
    starts = [
        k * PER_ARM * BLOCK + start
        for k, arm in enumerate(ARMS)
        for start in (*range(0, arm.n - SEGMENT, SEGMENT // 2), arm.n - SEGMENT)
    ]
    return np.array(starts)[:, None] + np.arange(SEGMENT)


def line_pixels(lines: tuple[tuple[float, float], ...]) -> NDArray[np.int64]:
    """Stacked pixel of each line at each redshift of the grid, (lines, redshifts); the last + 1 where there is none."""
    z1 = np.exp(np.arange(np.log(1 + Z_MIN), np.log(1 + Z_MAX), Z_STEP))
    at = np.full((len(lines), len(z1)), N_STACKED)
    for row, (line, _) in enumerate(lines):
        for k, arm in enumerate(ARMS):
            on = (line * z1 >= TAKES_OVER[k]) & (line * z1 < TAKES_OVER[k + 1])
            at[row, on] = k * PER_ARM * BLOCK + np.rint((line * z1[on] - arm.wave_min) / PIXEL).astype(int)
    return at
