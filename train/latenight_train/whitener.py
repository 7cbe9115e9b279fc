"""The inverse of a Cholesky factor inside a graph: ONNX has no solver."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latenight_train.blocks import part

ELIMINATED = 10  # rows that the elimination takes at once


class Whitener(nn.Module):
    """Makes of symmetric positive definite matrices what whitens noise of their inverse."""

    unit: Tensor

    def __init__(self, size: int) -> None:
        """For matrices (size, size); a multiple of ELIMINATED."""
        super().__init__()
        self.size = size
        self.register_buffer("unit", torch.eye(size))
        self.below = torch.split(torch.tril(torch.ones(ELIMINATED, ELIMINATED), -1), 1, dim=1)

    def forward(self, system: Tensor) -> Tensor:
        """R with R'R = system^-1, (N, size, size): the inverse of its Cholesky factor, ELIMINATED rows at a time.

        The diagonal is scaled to 1 first. With A = [[A1, A2'], [A2, A3]] and r'r = A1^-1, the
        first rows of R are [r, 0], and A3 - (r A2')'(r A2') is factored next.
        """
        scale = (system * self.unit).sum(2).rsqrt()  # torch.diagonal becomes 25 nodes, an If among them
        scaled = system * scale[:, :, None] * scale[:, None, :]
        work = torch.cat([scaled, torch.zeros_like(system) + self.unit], dim=2)
        found = []
        for left in range(self.size - ELIMINATED, -1, -ELIMINATED):
            first = part(work, 1, 0, ELIMINATED)
            done = self.small(part(first, 2, 0, ELIMINATED)) @ first
            found.append(part(done, 2, ELIMINATED + left, ELIMINATED + left + self.size))
            if left:
                rest = part(
                    part(work, 1, ELIMINATED, ELIMINATED + left), 2, ELIMINATED, ELIMINATED + left + self.size
                )
                beyond = part(done, 2, ELIMINATED, ELIMINATED + left)
                work = rest - beyond.transpose(1, 2) @ part(
                    done, 2, ELIMINATED, ELIMINATED + left + self.size
                )
        return torch.cat(found, dim=1) * scale[:, None, :]

    def small(self, system: Tensor) -> Tensor:
        """The same of (N, ELIMINATED, ELIMINATED), by Gaussian elimination.

        Without pivoting: the matrix is positive definite.
        """
        n = ELIMINATED
        work = torch.cat([system, torch.zeros_like(system) + self.unit[:n, :n]], dim=2)
        for k in range(n - 1):
            row = part(work, 1, k, k + 1)
            factor = part(work, 2, k, k + 1) * self.below[k]
            work = work - factor * (row / part(row, 2, k, k + 1))
        upper, whitener = torch.split(work, n, dim=2)
        pivots = (upper * self.unit[:n, :n]).sum(2, keepdim=True)
        return whitener * pivots.clamp(min=1e-7).rsqrt()
