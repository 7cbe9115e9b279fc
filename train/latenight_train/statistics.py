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
        placed = [(names, waves) for names, _, waves in found if waves is not None]
        waves = [waves for _, waves in placed]
        return (
            _in_order([names for names, _, _ in found], [values for _, values, _ in found]),
            _in_order([names for names, _ in placed], [*waves, torch.zeros_like(waves[0])]),
        )


def _in_order(names: list[tuple[str, ...]], columns: list[Tensor]) -> Tensor:
    """The columns in the order of PASS2, (N, C); those without a name in it are the first behind the named ones."""
    known = [name for some in names for name in some]
    order = [known.index(s.name) if s.name in known else len(known) for s in PASS2]
    return torch.cat(columns, dim=1)[:, torch.tensor(order)]
