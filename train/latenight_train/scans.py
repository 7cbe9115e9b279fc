"""Scans of the residual: the most significant window of each width, blocks, scatter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from latenight.channels import BROAD, CHUNKS, NARROW, NOISE, SCANNED_BY_ARM
from latenight.spectra import ARMS, PIXEL
from latenight_train.blocks import BLOCK, around, block_sums, by_arm, spread, taken, window_sums
from latenight_train.second import WHITE

if TYPE_CHECKING:
    from latenight_train.second import Solved

# Names of statistics and, for n spectra, their values and wavelengths, (n, number of names) each; no tensor of
# wavelengths where the statistics belong to no single one.
Found = tuple[tuple[str, ...], Tensor, Tensor | None]

HIGH_PASS = 5  # blocks of the running mean that narrow scans are free of: 80 pixels
LIMIT = 200.0  # sigma of a pixel
CROWD = 3.0  # sigma


def both(name: str) -> tuple[str, str]:
    """Names for the largest excess and the largest deficit."""
    return f"{name}+", f"{name}-"


def each_arm(name: str) -> tuple[str, ...]:
    """Names for the three arms."""
    return tuple(f"{name}_{arm.name}" for arm in ARMS)


@dataclass(frozen=True)
class Peaks:
    """Where the windows of one width stand out in each arm, (N, 2, 3): excess, and deficit as a positive number.

    Attributes:
        size: significance.
        wave: centre [A].
    """

    size: Tensor
    wave: Tensor


class Scans(nn.Module):
    """Scans over windows."""

    wave_min: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wave_min", torch.tensor([arm.wave_min for arm in ARMS]))

    def forward(self, s: Solved) -> list[Found]:
        """All scans of a batch."""
        high = self.high_passed(s)
        peaks: dict[str, Peaks] = {}
        found = [*self.narrow(s, high, peaks), *self.broad(s, peaks), *self.scatter(s, high)]
        self.noise(s, high, peaks)
        return [*found, strongest(peaks)]

    def high_passed(self, s: Solved) -> Tensor:
        """Residuals in sigma without their running mean, (N, 3, 2944)."""
        sums, count = (around(block_sums(v), HIGH_PASS) for v in (s.x.clamp(-4, 4), s.good))
        return s.good * (s.x - spread(sums / count.clamp(min=1 / HIGH_PASS)))

    def peaks(self, windows: Tensor, step: int, width: int) -> Peaks:
        """The peaks of windows (N, 3, n); step and width in pixels."""
        at = extremes(windows) if step == 1 else torch.stack([windows.argmax(2), windows.argmin(2)], dim=2)
        size = (windows.gather(2, at) * torch.tensor([1.0, -1.0])).transpose(1, 2)
        first = (self.wave_min + 0.5 * PIXEL * (width - 1))[None, None]
        return Peaks(size, at.transpose(1, 2) * (PIXEL * step) + first)

    def narrow(self, s: Solved, high: Tensor, peaks: dict[str, Peaks]) -> list[Found]:
        """Windows of 1 to 16 pixels after the high pass, in quiet pixels and in restless ones."""
        found: list[Found] = []
        high = high.clamp(-LIMIT, LIMIT)
        for width, t, step in significances(high, s.quiet, NARROW):
            peaks[f"scan{width}"] = mine = self.peaks(t, step, width)
            if width in SCANNED_BY_ARM:
                excess = mine.size[:, 0] >= mine.size[:, 1]
                found.append(
                    (
                        each_arm(f"scan{width}"),
                        mine.size.amax(1),
                        torch.where(excess, mine.wave[:, 0], mine.wave[:, 1]),
                    )
                )
            if width == 4:
                found.append((("crowd",), (t.abs() > CROWD).to(t.dtype).mean((1, 2))[:, None], None))
        for width, t, step in significances(high, s.good - s.quiet, (4,)):
            shown = self.peaks(t, step, width)
            covered = t.abs().amax((1, 2), keepdim=True) > 0
            size = torch.where(covered, shown.size, torch.full((), torch.nan))
            peaks["restless"] = Peaks(size, shown.wave)
        return found

    def broad(self, s: Solved, peaks: dict[str, Peaks]) -> list[Found]:
        """Generalised-least-squares windows of 32 to 1024 pixels: an offset in sigma.

        Beside them the mean square significance of neighbouring windows, of all and of each arm.
        """
        found: list[Found] = []
        widths = (BLOCK, *BROAD)
        in_blocks = tuple(width // BLOCK for width in widths)
        explained = by_arm(s.explained_blocks())
        above, number = by_arm(s.products[:, WHITE]), by_arm(s.squares[:, WHITE])
        windows = (window_sums(v, in_blocks) for v in (above, number, explained))
        for (a, step), (count, _), (u, _), width in zip(*windows, widths, strict=True):
            left = torch.maximum(count - u.square().sum(3), 0.02 * count).clamp(min=1e-12)
            t = torch.where(count > width / 2, a / left.sqrt(), torch.zeros(()))
            if width in BROAD:
                peaks[f"white{width}"] = self.peaks(t, step * BLOCK, width)
            if width in CHUNKS:
                apart = np.arange(0, t.shape[2], width // BLOCK // step)
                found.append(self.chunks(taken(t, 2, apart), taken(count, 2, apart), width))
        return found

    def chunks(self, t: Tensor, count: Tensor, width: int) -> Found:
        """Mean square of the significances t (N, 3, n) of neighbouring windows, of all and of each arm."""
        squares = t.square().clamp(max=144.0).sum(2)
        number = (count > width / 2).to(t.dtype).sum(2)
        return (f"block{width}", *each_arm(f"block{width}")), *means(squares, number, 1.0), None

    def noise(self, s: Solved, high: Tensor, peaks: dict[str, Peaks]) -> None:
        """Windows of 64 to 2048 pixels in which the residual scatters by more or less than it should."""
        excess = block_sums(s.quiet * (high.clamp(-6, 6).square() - 1))
        widths = tuple(width // BLOCK for width in NOISE)
        counts = window_sums(block_sums(s.quiet), widths)
        for (total, step), (count, _), width in zip(window_sums(excess, widths), counts, NOISE, strict=True):
            t = torch.where(count > width / 2, total / (2 * count.clamp(min=1.0)).sqrt(), torch.zeros(()))
            peaks[f"noise{width}"] = self.peaks(t, step * BLOCK, width)

    def scatter(self, s: Solved, high: Tensor) -> list[Found]:
        """Mean square residual (no pixel counts more than 8 sigma), and that after the high pass in quiet pixels."""
        parts = (("chi2", s.x.clamp(-8, 8), s.good), ("scatter", high.clamp(-6, 6), s.quiet))
        found: list[Found] = []
        for name, x, mask in parts:
            squares, number = (v.sum(2) for v in (mask * x.square(), mask))
            found.append(((name, *each_arm(name)), *means(squares, number, 50.0), None))
        return found


def extremes(values: Tensor) -> Tensor:
    """Where the largest and the smallest of values (N, 3, n) are, (N, 3, 2); n is a multiple of BLOCK.

    First in which block: ArgMax takes 1 ns a number on a CPU, ReduceMax a tenth of it.
    """
    blocks = values.reshape(-1, len(ARMS), values.shape[2] // BLOCK, BLOCK)
    first = torch.stack([blocks.amax(3).argmax(2), blocks.amin(3).argmin(2)], dim=2) * BLOCK  # (N, 3, 2)
    inside = values.gather(2, (first[..., None] + torch.arange(BLOCK)).flatten(2))
    most, least = torch.split(inside, BLOCK, dim=2)
    return first + torch.stack([most.argmax(2), least.argmin(2)], dim=2)


def strongest(peaks: dict[str, Peaks]) -> Found:
    """Of every scan the largest excess and the largest deficit in any arm."""
    size = torch.cat([p.size for p in peaks.values()], dim=1)  # (N, 2 scans, 3)
    wave = torch.cat([p.wave for p in peaks.values()], dim=1)
    at = size.argmax(2, keepdim=True)
    names = tuple(name for scan in peaks for name in both(scan))
    return names, size.gather(2, at).flatten(1), wave.gather(2, at).flatten(1)


def significances(x: Tensor, mask: Tensor, widths: tuple[int, ...]) -> list[tuple[int, Tensor, int]]:
    """Width, sum of x / sqrt(number of pixels) in the windows (N, 3, n), and step, for each width."""
    found = []
    for width, (total, step), (count, _) in zip(
        widths, window_sums(x * mask, widths, BLOCK), window_sums(mask, widths, BLOCK), strict=True
    ):
        # 1 or 0, as counts are whole numbers; a comparison and a choice take four times as long on a CPU.
        enough = (count - (math.ceil(0.6 * width) - 1)).clamp(0.0, 1.0)
        found.append((width, total * enough / count.clamp(min=1.0).sqrt(), step))
    return found


def means(sums: Tensor, number: Tensor, least: float) -> tuple[Tensor]:
    """Means of all and of each arm, (N, 4), from sums and numbers of the arms, (N, 3)."""
    of_all = sums.sum(1, keepdim=True) / number.sum(1, keepdim=True).clamp(min=least)
    return (torch.cat([of_all, sums / number.clamp(min=least)], dim=1),)
