"""Pass 2 as one module: the second solve, then every statistic of latenight.channels.PASS2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latenight.channels import PASS2
from latenight_train.patterns import Patterns
from latenight_train.scans import Scans
from latenight_train.second import SecondSolve


class Statistics(nn.Module):
    """How far spectra of one group are from their reconstruction, after the petal step."""

    def __init__(self) -> None:
        super().__init__()
        self.solve = SecondSolve()
        self.scans = Scans()
        self.patterns = Patterns()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the statistics.

        Args:
            inputs: as SecondSolve takes them; the third is the redshift.

        Returns:
            values (N, C) in the order of PASS2, NaN where a statistic does not cover a spectrum, and wavelengths
            (N, C) [A] of what was found, 0 where the statistic belongs to no single wavelength.
        """
        solved = self.solve(*inputs)
        found = [*self.scans(solved), *self.patterns(solved, inputs[2])]
        names = [name for part, _, _ in found for name in part]
        order = torch.tensor([names.index(statistic.name) for statistic in PASS2])
        values = torch.cat([values for _, values, _ in found], dim=1)
        waves = torch.cat([torch.zeros_like(v) if w is None else w for _, v, w in found], dim=1)
        return values[:, order], waves[:, order]
