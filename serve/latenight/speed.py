"""How fast does a bundle score here, and which bound do the arrays set that go into its graphs and out of them?"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.passes import Passes
from latenight.scorer import Scorer
from latenight.session import Graph, device_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from latenight.bundle import Bundle
    from latenight.spectra import Spectra

BUCKETS = (16, 64, 256)
PETAL = 500  # rows
ROUNDS = 3
BUS_BYTES_S = 55e9  # what a PCIe 5.0 x16 slot gives of its 64 GB/s


@dataclass(frozen=True)
class Speeds:
    """Spectra per second.

    Attributes:
        buckets: of the network (model.onnx) by rows at a time.
        petal: of the whole scorer, on a petal of 500 spectra.
        moved: bytes per spectrum that go into all graphs and come out of them.
    """

    buckets: dict[int, float]
    petal: float
    moved: float

    @property
    def bus_bound(self) -> float:
        """What a GPU cannot exceed while these arrays go over its bus."""
        return BUS_BYTES_S / self.moved


class _Counted:
    """A graph that counts the bytes of its arrays."""

    def __init__(self, graph: Graph, count: Callable[[int], None]) -> None:
        self._graph, self._count = graph, count
        self.provider = graph.provider

    def __call__(self, rows: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        found = self._graph(rows, **options)
        n = len(next(iter(found.values())))
        self._count(sum(values[:n].nbytes for values in (*rows.values(), *found.values())))
        return found


class CountedPasses(Passes):
    """The graphs of a bundle, counting what goes in and out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.n_bytes = 0
        for name, graph in list(vars(self).items()):
            if isinstance(graph, Graph):
                setattr(self, name, _Counted(graph, self._add))

    def _add(self, n: int) -> None:
        self.n_bytes += n


def measure(bundle: Bundle, *, provider: str, threads: int) -> Speeds:
    """Time the network in buckets and the scorer on a petal made of the bundle's golden spectra.

    Args:
        bundle: a verified one.
        provider: execution provider; it has scored the golden spectra.
        threads: number of CPU threads.
    """
    spectra = _repeated(bundle.golden()[0], PETAL)
    device, buckets = device_of(provider), {}
    for rows in BUCKETS:
        graph = Graph(
            bundle.path / "model.onnx",
            device=device,
            threads=threads,
            buckets=dict.fromkeys(("cpu", "cuda"), (rows,)),
        )
        inputs: dict[str, np.ndarray] = {
            "flux": spectra.flux[:rows],
            "ivar": spectra.ivar[:rows],
            "z": np.full(rows, 0.5, np.float32),
            "group": np.zeros(rows, np.int64),
        }
        score = partial(graph, inputs)
        score()  # the first run of a shape plans its memory
        buckets[rows] = rows / min(_seconds(score) for _ in range(ROUNDS))
    scorer = Scorer(bundle, device=device, threads=threads, passes=CountedPasses)
    seconds = _seconds(lambda: scorer.score(spectra))
    counted: Any = scorer._passes  # noqa: SLF001  (ours: made of CountedPasses one line above)
    return Speeds(buckets, PETAL / seconds, counted.n_bytes / PETAL)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _repeated(spectra: Spectra, n: int) -> Spectra:
    """So many spectra: the targets among these again and again."""
    good = spectra.take(spectra.table["objtype"] != "SKY")
    return replace(good.take(np.arange(n) % len(good)), source="golden")
