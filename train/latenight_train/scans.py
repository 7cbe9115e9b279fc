"""Scans of the residual: the most significant window of each width, blocks, scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.channels import BROAD, CHUNKS, NARROW, NOISE, SCANNED_BY_ARM
from latenight.spectra import ARMS, PIXEL
from latenight_train.blocks import BLOCK, PER_ARM, block_sums, by_arm, spread, window_sums
from latenight_train.second import MODEL, WHITE

if TYPE_CHECKING:
    from latenight_train.second import Solved

# Names of statistics and, for n spectra, their values and wavelengths, (n, number of names) each; no tensor of
# wavelengths where the statistics belong to no single one.
Found = tuple[tuple[str, ...], Tensor, Tensor | None]

HIGH_PASS = 11  # blocks of the running mean that narrow scans are free of: 88 pixels
LIMIT = 200.0  # sigma of a pixel
CROWD = 3.0  # sigma


def both(name: str) -> tuple[str, str]:
    """Names for the largest excess and the largest deficit."""
    return f"{name}+", f"{name}-"


def each_arm(name: str) -> tuple[str, ...]:
    """Names for the three arms."""
    return tuple(f"{name}_{arm.name}" for arm in ARMS)


class Scans(nn.Module):
    """Scans over windows."""

    wave_min: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wave_min", torch.tensor([arm.wave_min for arm in ARMS])[:, None])

    def forward(self, s: Solved) -> list[Found]:
        """All scans of a batch."""
        high = self.high_passed(s)
        return [*self.narrow(s, high), *self.broad(s), *self.noise(s, high), *self.scatter(s, high)]

    def high_passed(self, s: Solved) -> Tensor:
        """Residuals in sigma without their running mean, (N, 8664)."""
        sums = functional.avg_pool1d(by_arm(block_sums(s.x.clamp(-4, 4))), HIGH_PASS, 1, HIGH_PASS // 2)
        count = functional.avg_pool1d(by_arm(block_sums(s.good)), HIGH_PASS, 1, HIGH_PASS // 2)
        mean = (sums / count.clamp(min=1 / HIGH_PASS)).flatten(1)
        return s.good * (s.x - spread(mean))

    def strongest(self, name: str, windows: Tensor, step: int, width: int) -> Found:
        """Largest excess and largest deficit among windows (N, 3, n), with centres [A]; step and width in pixels."""
        n = windows.shape[2]
        waves = (self.wave_min + PIXEL * (torch.arange(n) * step + 0.5 * (width - 1))).flatten()
        signed = torch.stack([windows.flatten(1), -windows.flatten(1)], dim=1)  # (N, 2, 3 n)
        at = signed.argmax(dim=2)
        return (
            both(name),
            signed.gather(2, at[:, :, None])[:, :, 0],
            functional.embedding(at, waves[:, None])[:, :, 0],
        )

    def strongest_by_arm(self, name: str, windows: Tensor, step: int, width: int) -> Found:
        """The largest window of either sign in each arm; arguments as for strongest."""
        size = windows.abs()
        at = size.argmax(dim=2)
        centres = self.wave_min[:, 0] + PIXEL * (at * step + 0.5 * (width - 1))
        return each_arm(name), size.gather(2, at[:, :, None])[:, :, 0], centres

    def narrow(self, s: Solved, high: Tensor) -> list[Found]:
        """Windows of 1 to 16 pixels after the high pass, in quiet pixels and in restless ones."""
        found: list[Found] = []
        for width, t, step in significances(high.clamp(-LIMIT, LIMIT), s.quiet, NARROW):
            found.append(self.strongest(f"scan{width}", t, step, width))
            if width in SCANNED_BY_ARM:
                found.append(self.strongest_by_arm(f"scan{width}", t, step, width))
            if width == 4:
                found.append((("crowd",), (t.abs() > CROWD).to(t.dtype).mean((1, 2))[:, None], None))
        for width, t, step in significances(high.clamp(-LIMIT, LIMIT), s.good - s.quiet, (4,)):
            found.append(self.strongest("restless", t, step, width))
        return found

    def broad(self, s: Solved) -> list[Found]:
        """Generalised-least-squares windows of 32 to 1024 pixels: an offset in sigma, a factor on the model."""
        found: list[Found] = []
        widths = tuple(width // BLOCK for width in BROAD)
        for name, ingredient in (("white", WHITE), ("model", MODEL)):
            explained = by_arm(s.projections[:, :, ingredient] @ s.whitener.transpose(1, 2))
            above, total = by_arm(s.products[:, :, ingredient]), by_arm(s.squares[:, :, ingredient])
            windows = (
                window_sums(v, widths) for v in (above, total, explained, by_arm(s.squares[:, :, WHITE]))
            )
            for (a, step), (b, _), (u, _), (count, _), width in zip(*windows, BROAD, strict=True):
                left = torch.maximum(b - u.square().sum(3), 0.01 * b).clamp(min=1e-12)
                t = torch.where((count > width / 2) & (b > 0), a / left.sqrt(), torch.zeros(()))
                found.append(self.strongest(f"{name}{width}", t, step * BLOCK, width))
            if ingredient == WHITE:
                found += [self.chunks(above, total, explained, width) for width in CHUNKS]
        return found

    def chunks(self, above: Tensor, count: Tensor, explained: Tensor, width: int) -> Found:
        """Mean square significance of neighbouring chunks of some pixels, of all and of each arm."""
        m = width // BLOCK
        n = -(-PER_ARM // m)
        rest = n * m - PER_ARM
        a, c = (functional.pad(v, (0, rest)).reshape(-1, 3, n, m).sum(3) for v in (above, count))
        u = functional.pad(explained, (0, 0, 0, rest)).reshape(-1, 3, n, m, explained.shape[3]).sum(3)
        counts = (c > width / 3).to(a.dtype)
        left = (c - u.square().sum(3)).clamp(min=0.02 * width)
        squares, number = (counts * (a.square() / left).clamp(max=144.0)).sum(2), counts.sum(2)
        return (f"block{width}", *each_arm(f"block{width}")), *means(squares, number, 1.0), None

    def noise(self, s: Solved, high: Tensor) -> list[Found]:
        """Windows of 64 to 2048 pixels in which the residual scatters by more or less than it should."""
        found: list[Found] = []
        excess = by_arm(block_sums(s.quiet * (high.clamp(-6, 6).square() - 1)))
        widths = tuple(width // BLOCK for width in NOISE)
        counts = window_sums(by_arm(block_sums(s.quiet)), widths)
        for (total, step), (count, _), width in zip(window_sums(excess, widths), counts, NOISE, strict=True):
            t = torch.where(count > width / 2, total / (2 * count.clamp(min=1.0)).sqrt(), torch.zeros(()))
            found.append(self.strongest(f"noise{width}", t, step * BLOCK, width))
        return found

    def scatter(self, s: Solved, high: Tensor) -> list[Found]:
        """Mean square residual (no pixel counts more than 8 sigma), and that after the high pass in quiet pixels."""
        parts = (("chi2", s.x.clamp(-8, 8), s.good), ("scatter", high.clamp(-6, 6), s.quiet))
        found: list[Found] = []
        for name, x, mask in parts:
            squares, number = (by_arm(block_sums(v)).sum(2) for v in (mask * x.square(), mask))
            found.append(((name, *each_arm(name)), *means(squares, number, 50.0), None))
        return found


def significances(x: Tensor, mask: Tensor, widths: tuple[int, ...]) -> list[tuple[int, Tensor, int]]:
    """Width, sum of x / sqrt(number of pixels) in the windows (N, 3, n), and step, for each width."""
    sums, counts = (v.reshape(-1, 3, PER_ARM * BLOCK) for v in (x * mask, mask))
    windows = zip(widths, window_sums(sums, widths), window_sums(counts, widths), strict=True)
    return [
        (width, torch.where(count >= 0.6 * width, total / count.clamp(min=1.0).sqrt(), torch.zeros(())), step)
        for width, (total, step), (count, _) in windows
    ]


def means(sums: Tensor, number: Tensor, least: float) -> tuple[Tensor]:
    """Means of all and of each arm, (N, 4), from sums and numbers of the arms, (N, 3)."""
    of_all = sums.sum(1, keepdim=True) / number.sum(1, keepdim=True).clamp(min=least)
    return (torch.cat([of_all, sums / number.clamp(min=least)], dim=1),)
