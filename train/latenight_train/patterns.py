"""Known patterns: faults of calibration and sky, lines at known wavelengths, fringes, a second redshift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.channels import BALMER_SPEEDS, BLUE_LENGTHS, EDGE_LENGTHS, EDGES, MIDDLE, TAKES_OVER
from latenight.spectra import ARMS, PIXEL
from latenight_train.blocks import ARM_OF_BLOCK, BLOCK_WAVE, PIXELS_PER_ARM, part, window_sums
from latenight_train.hidden import discs, explosions
from latenight_train.modes import N_MODES
from latenight_train.pixels import nearest
from latenight_train.scans import both
from latenight_train.second import MODEL, NEIGHBOUR, PLAIN, SKY_LINES, SKY_SIGMA, SLOPE

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
# Broad lines, troughs and light of other objects are read off a grid in the rest frame that begins bluer, and ends
# redder, than all lines: ln(wavelength), step 60 km/s.
REST = np.arange(np.log(1050.0), np.log(9900.0), 2e-4)
SEGMENT = 512  # pixels of a periodogram
# Lines that galaxies show together, with typical strengths: star-forming with and without [O III].
LINE_SETS = (
    ((3728.5, 1.0), (4862.7, 0.6), (4960.3, 0.5), (5008.2, 1.2), (6564.6, 1.2), (6585.3, 0.5)),
    ((3728.5, 1.0), (4862.7, 0.5), (6564.6, 1.3), (6585.3, 0.8), (6725.0, 0.6)),
)
# Lines of a galaxy that are stronger together than its modes allow, [O III] and H beta by themselves as well.
OWN_SETS = (
    {3728.5: 1.0, 4862.7: 0.6, 5008.2: 1.2, 6564.6: 1.2},
    {3728.5: 1.0, 4862.7: 0.5, 6564.6: 1.3, 6725.0: 0.8},
    {4862.7: 0.35, 5008.2: 1.0},
    {3728.5: 0.2, 4862.7: 0.35, 5008.2: 2.2, 6564.6: 0.9},  # a metal-poor starburst
)
Z_MIN, Z_MAX, Z_STEP = 0.02, 1.4, 1.6e-4  # the step is one of ln(1 + z)
N_SECOND = int(np.log((1 + Z_MAX) / (1 + Z_MIN)) / Z_STEP)
HIDDEN = {"explosion": explosions, "disc": discs}
# Of a pattern this part at least counts as what modes cannot imitate. Of light that is much like the spectrum's own
# they leave a few percent of the significance.
HIDDEN_LEFT = 0.003


class Patterns(nn.Module):
    """Significance of known patterns."""

    ln_wave: Tensor
    grid: Tensor
    lines: Tensor
    own_sets: Tensor
    broad: Tensor
    winds: Tensor
    hidden: Tensor
    waves: Tensor
    second_pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shapes in fault_shapes().items():
            self.register_buffer(f"shapes_{name}", torch.from_numpy(shapes).float())
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(BLOCK_WAVE)))
        grid = (REST[0], 1 / (REST[1] - REST[0]), len(REST) - 1)
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float64))
        self.register_buffer("lines", torch.tensor(LINES))
        sets = [[strengths.get(line, 0.0) for strengths in OWN_SETS] for line in LINES]
        self.register_buffer("own_sets", torch.tensor(sets))
        self.register_buffer("broad", torch.from_numpy(broad_line_shapes()).float())
        self.register_buffer("winds", torch.from_numpy(trough_shapes()).float())
        hidden = [shapes(np.exp(REST)) for shapes in HIDDEN.values()]
        self.n_hidden = [shapes.shape[1] for shapes in hidden]
        self.register_buffer("hidden", torch.from_numpy(np.concatenate(hidden, axis=1)).float())
        self.register_buffer("waves", torch.from_numpy(fourier()).float())
        self.register_buffer("second_pixels", torch.from_numpy(log_pixels())[None])

    def forward(self, s: Solved, z: Tensor) -> list[Found]:
        """All patterns of a batch."""
        z1 = 1 + z[:, None]
        # Windows of 4 pixels, one for each pixel that a window starts at.
        narrow = next(window_sums(s.x.clamp(-30, 30), (4,)))[0] / 2
        at = nearest(self.ln_wave, z, self.grid)
        lines = [*self.broad_lines(s, at, z1), self.trough(s, at), *self.narrow_lines(narrow, z1)]
        others = [*self.second(narrow), *self.others(s, at)]
        return [*self.faults(s), *lines, *self.fringes(s), *others]

    def faults(self, s: Solved) -> list[Found]:
        """Gains, offsets and shifts of arms or halves of them, sky lines."""
        found: list[Found] = [(("calibration",), s.change[:, N_MODES:].square().sum(1, keepdim=True), None)]
        for ingredient, names in FAULTS.items():
            shapes = self.get_buffer(f"shapes_{ingredient}")
            found.append((names, s.significance(ingredient, shapes[None]), None))
        return found

    def broad_lines(self, s: Solved, at: Tensor, z1: Tensor) -> list[Found]:
        """Balmer lines of three widths, single broad lines; at (N, 499) points of the grid of REST."""
        t = s.significance(PLAIN, functional.embedding(at, self.broad).transpose(1, 2))
        balmer, single = torch.split(t, [len(BALMER_SPEEDS), len(LINES)], dim=1)
        single = single.nan_to_num(0.0)
        return [
            (tuple(f"balmer{v:.0f}" for v in BALMER_SPEEDS), balmer, None),
            self.extremes("broadline", single, z1),
            (("broadlines",), single.clamp(-10, 10).square().sum(1, keepdim=True), None),
        ]

    def trough(self, s: Solved, at: Tensor) -> Found:
        """Absorption by winds, blueward of lines of quasars; NaN where none of the lines is on the detectors."""
        t = s.significance(MODEL, functional.embedding(at, self.winds).transpose(1, 2))
        covered = (~torch.isnan(t)).to(t.dtype).amax(1, keepdim=True) > 0.5
        best = torch.stack([sign * t for sign in (1, -1)], dim=1).nan_to_num(-1e9).amax(2)
        return both("trough"), torch.where(covered, best, torch.full((), torch.nan)), None

    def others(self, s: Solved, at: Tensor) -> list[Found]:
        """Light of another object in the fibre, the best of each class; at (N, 499) points of the grid of REST."""
        shapes = functional.embedding(at, self.hidden).transpose(1, 2)
        found = torch.split(s.significance(PLAIN, shapes, HIDDEN_LEFT), self.n_hidden, dim=1)
        return [((name,), t.amax(1, keepdim=True), None) for name, t in zip(HIDDEN, found, strict=True)]

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
        return [self.extremes("line", t, z1), (("lines",), squares, None), self.together(t)]

    def together(self, t: Tensor) -> Found:
        """The best of OWN_SETS as a whole, from the significance of lines, (N, lines), 0 where one is not seen."""
        total = (t != 0).to(t.dtype) @ self.own_sets.square()
        sets = t.clamp(-15, 15) @ self.own_sets / total.clamp(min=0.1).sqrt()
        best = torch.where(total > 0.1, sets, torch.full((), -1e9)).amax(1, keepdim=True)
        return ("lineset",), torch.where(best > -1e8, best, torch.full((), torch.nan)), None

    def fringes(self, s: Solved) -> list[Found]:
        """Periodograms (Hann window) of half-overlapping segments: mean, largest, sum of two neighbours."""
        found: list[Found] = []
        half = SEGMENT // 2
        n = PIXELS_PER_ARM // half
        x = part(s.x.clamp(-4, 4), 2, 0, n * half).reshape(-1, 3, n, half)
        first, second = (x @ waves for waves in torch.split(self.waves, half))
        waves = part(first, 2, 0, n - 1) + part(second, 2, 1, n)  # (N, 3, segments, 2 periods)
        cosines, sines = torch.split(waves.square(), self.waves.shape[1] // 2, dim=3)
        power = (cosines + sines) / 2  # (N, 3, segments, periods)
        for k, arm in enumerate(ARMS):
            p = part(power[:, k], 1, 0, round(arm.n / half) - 1)
            pairs = (p[:, 1:] + p[:, :-1]).amax((1, 2))
            values = torch.stack([p.mean(1).amax(1), p.amax((1, 2)), pairs], dim=1)
            found.append(
                (tuple(f"{kind}_{arm.name}" for kind in ("fringe", "fringepart", "fringepair")), values, None)
            )
        return found

    def second(self, narrow: Tensor) -> list[Found]:
        """Emission lines of a galaxy at another redshift, the best over a grid."""
        found: list[Found] = []
        # On a grid in ln(wavelength) a line stands as many points from the first as its ratio says, at any redshift.
        flat = functional.pad(narrow.clamp(-4, 8).flatten(1), (0, 1))  # the last entry is for no pixel
        points = flat.gather(1, self.second_pixels.expand(flat.shape[0], -1))  # see profile_at
        seen = (points != 0).to(points.dtype)
        for k, lines in enumerate(LINE_SETS):
            starts = [first_point(line) for line, _ in lines]
            strength = torch.tensor([strength for _, strength in lines])
            here, there = (
                torch.stack([part(v, 1, at, at + N_SECOND) for at in starts], dim=1) for v in (points, seen)
            )  # (N, lines, redshifts)
            total = strength.square() @ there
            t = torch.where(total > 0.5, strength @ here / total.clamp(min=0.1).sqrt(), torch.zeros(()))
            found.append(((f"second{k}",), t.amax(1, keepdim=True), None))
        return found


FAULTS = {
    MODEL: (
        *(f"gain_{arm.name}" for arm in ARMS),
        *(f"edge{length:.0f}_{arm}_{side}" for length in EDGE_LENGTHS for arm, side in EDGES),
    ),
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
    NEIGHBOUR: (*(f"crosstalk_{arm.name}" for arm in ARMS), "crosstalk"),
}


def fault_shapes() -> dict[int, NDArray[np.float64]]:
    """Where each fault acts, (faults, 499) for each ingredient, in the order of FAULTS."""
    arms = np.stack([k == ARM_OF_BLOCK for k in range(3)]).astype(float)
    low = np.stack([MIDDLE[arm.name] > BLOCK_WAVE for arm in ARMS])
    halves = np.stack([arms[k] * side for k in range(3) for side in (low[k], ~low[k])])
    blue = np.stack([arms[0] * np.exp(-(BLOCK_WAVE - 3600.0) / length) for length in BLUE_LENGTHS])
    parts = np.stack([arms[1] + arms[2], arms[2] * (BLOCK_WAVE < 8600), arms[2] * (BLOCK_WAVE >= 8600)])
    sky = np.concatenate([halves, arms, blue])
    gains = np.concatenate(
        [arms, [edge(arm, side, length) for length in EDGE_LENGTHS for arm, side in EDGES]]
    )
    whole = np.ones((1, len(BLOCK_WAVE)))
    return {
        MODEL: gains,
        SKY_SIGMA: sky,
        SLOPE: arms,
        SKY_LINES: np.concatenate([arms, parts]),
        NEIGHBOUR: np.concatenate([arms, whole]),
    }


def edge(arm: str, side: str, length: float) -> NDArray[np.float64]:
    """A fault of one arm that fades away from where its neighbour takes over, (499,)."""
    number = "brz".index(arm)
    place = TAKES_OVER[number + (side == "high")]
    return np.asarray((number == ARM_OF_BLOCK) * np.exp(-np.abs(BLOCK_WAVE - place) / length))


def gaussians(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal profiles of distances in standard deviations; 0 in the wings, which cover nothing."""
    profile = np.exp(-0.5 * np.square(x))
    return np.where(profile > 1e-3, profile, 0.0)


def broad_line_shapes() -> NDArray[np.float64]:
    """The Balmer lines with each of their widths, and single broad lines, on the grid of REST, (points, 3 + lines)."""
    rest = np.exp(REST)[:, None]
    balmer = [
        sum(ratio * gaussians((rest / line - 1) * LIGHT / speed) for line, ratio in BALMER)
        for speed in BALMER_SPEEDS
    ]
    return np.concatenate([*balmer, gaussians((rest / LINES - 1) * LIGHT / BROAD_LINE)], axis=1)


def trough_shapes() -> NDArray[np.float64]:
    """Troughs of every speed and width on the grid of REST, (points, winds)."""
    rest = np.exp(REST)[:, None]
    speed, width = np.array([(v, w) for v in SPEEDS for w in SPEED_WIDTHS]).T
    parts = [depth * gaussians((LIGHT * (1 - rest / line) - speed) / width) for line, depth in TROUGHS]
    return np.asarray(sum(parts))


def fourier() -> NDArray[np.float64]:
    """Cosines and sines of periods 11 to 170 pixels under a Hann window, (512, 2 periods), of unit noise power."""
    frequency = np.arange(3.0, 46.0, 0.5)
    window = np.hanning(SEGMENT)
    phase = 2 * np.pi * frequency[:, None] * np.arange(SEGMENT) / SEGMENT
    waves = np.concatenate([window * np.cos(phase), window * np.sin(phase)])
    waves -= waves.mean(axis=1, keepdims=True)  # blind to the segment's mean
    return np.asarray((waves / np.sqrt(np.square(window).sum() / 2)).T)


def first_point(line: float) -> int:
    """Where a line at Z_MIN stands on the grid of log_pixels."""
    return int(np.rint(np.log(line * (1 + Z_MIN) / TAKES_OVER[0]) / Z_STEP))


def log_pixels() -> NDArray[np.int64]:
    """The window of 4 pixels around each point of a grid in ln(wavelength) from 3600 A on, in steps of Z_STEP.

    Windows are counted through all arms; beyond the detectors it is one past the last.
    """
    reddest = max(line for lines in LINE_SETS for line, _ in lines)
    wave = TAKES_OVER[0] * np.exp(Z_STEP * np.arange(first_point(reddest) + N_SECOND))
    windows = PIXELS_PER_ARM - 3  # of an arm
    at = np.full(len(wave), 3 * windows)
    for k, arm in enumerate(ARMS):
        on = (wave >= TAKES_OVER[k]) & (wave < TAKES_OVER[k + 1])
        start = np.rint((wave[on] - arm.wave_min) / PIXEL - 1.5)
        at[on] = k * windows + np.clip(start, 0, arm.n - 4).astype(int)
    return at
