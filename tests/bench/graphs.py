"""How close do the graphs come to what the cores can do? python -m tests.bench.graphs BUNDLE [ROUNDS].

The network beside a product of square matrices, in multiplications; the statistics beside a copy of a large array, in
bytes; and a petal of 500 fibres from its file to its scores. All on the threads that a daemon would take.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from latenight.bundle import load_bundle
from latenight.desi import find_coadds, read_coadd
from latenight.modes import read_modes
from latenight.passes import MODES_BUCKETS
from latenight.scorer import load_scorer
from latenight.session import Graph
from latenight.spectra import N_PIX
from latenight.threads import default_threads
from latenight_train.blocks import N_STACKED
from latenight_train.cli import main as train
from latenight_train.graph import N_DRAWS
from latenight_train.modes import N_MODES
from latenight_train.restgrids import seen_part
from latenight_train.vae import ENCODER_GRID, MEAN_GRID, VARIANCE_GRID, Architecture, Vae
from tests.bench.setting import Cost, cost_here, heading, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from latenight.spectra import Spectra

SIDE = 2048  # of the square matrices
COPIED = 1 << 28  # bytes
ROWS, REDSHIFT = 512, 0.5
PRODUCTS = 5  # of the weighted modes: with themselves, with the ingredients, and three in the solve
REPEATS = 4  # of the short works in one timing


def multiplications(architecture: Architecture) -> int:
    """Multiplications and additions of the network's layers for one spectrum.

    Encoder and variance once, the mean for each draw. Of the layers next to the rest-frame grids only the part that
    spectra of one redshift see.
    """
    network, z = Vae(architecture), torch.full((1, 1), REDSHIFT)
    seen = {grid: seen_part(grid, z) for grid in (ENCODER_GRID, MEAN_GRID, VARIANCE_GRID)}
    encoder, mean, variance = (architecture.hidden * int(part.stop - part.start) for part in seen.values())
    of_encoder = (network.encoder.second, network.encoder.out)
    of_decoder = (network.decoder.first, network.decoder.second)
    small, hidden = (sum(layer.weight.numel() for layer in some) for some in (of_encoder, of_decoder))
    return 2 * (2 * encoder + small + N_DRAWS * (mean + hidden) + variance + hidden)


def moved() -> int:
    """Bytes that the statistics of one spectrum cannot but move with operators that each take whole arrays.

    Its inputs once; the modes at its pixels gathered (read, written), weighted (read, written), and read by every
    product.
    """
    return 4 * (5 * N_PIX + (4 + PRODUCTS) * N_STACKED * N_MODES)


def product(threads: int) -> Callable[[], object]:
    """A product of two square matrices by onnxruntime."""
    names = ("a", "b", "c")
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in names)
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    values = np.ones((SIDE, SIDE), np.float32)
    return lambda: session.run(None, {"a": values, "b": values})


def network(bundle: Path, spectra: Spectra, threads: int) -> Callable[[], object]:
    """The network on ROWS spectra."""
    graph = Graph(bundle / "model.onnx", device="cpu", threads=threads)
    rows = {"flux": spectra.flux, "ivar": spectra.ivar}
    rows |= {"z": np.full(ROWS, REDSHIFT, np.float32), "group": np.zeros(ROWS, np.int64)}
    return lambda: graph(rows)


def statistics(bundle: Path, spectra: Spectra, threads: int) -> Callable[[], object]:
    """The statistics of ROWS spectra of one group."""
    graph = Graph(bundle / "statistics.onnx", device="cpu", threads=threads, buckets=MODES_BUCKETS)
    modes = graph.held(read_modes(bundle / "modes.npz")[0].weights)
    ones = np.ones((ROWS, N_PIX), np.float32)
    rows = {"flux": spectra.flux, "ivar": spectra.ivar, "sky": np.ones((ROWS, N_PIX), np.float32)}
    rows |= {
        "mean": ones,
        "beside": ones,
        "variance": 0.01 * ones,
        "norm": ones[:, 0],
        "z": np.full(ROWS, 0.2, np.float32),
    }
    rows |= {"coefficients": np.zeros((ROWS, N_MODES), np.float32)}
    return lambda: graph(rows, constants=modes)


def petal(folder: Path) -> Path:
    """A simulated petal of 500 fibres."""
    words = ["simulate", str(folder), "--tiles", "1", "--petals", "1", "--seed", "3"]
    train(words, standalone_mode=False)
    (path,) = find_coadds([folder])
    return path


def times(costs: list[Cost], n: int) -> float:
    """Median wall time of one work of n in a timing [s]."""
    return median(cost.wall_s for cost in costs) / n


def main(bundle: Path, rounds: int = 5) -> None:
    threads = default_threads()
    manifest = json.loads((bundle / "manifest.json").read_text())
    golden = load_bundle(bundle).golden()[0]
    some = golden.take(np.arange(ROWS) % len(golden))
    scorer = load_scorer(bundle)
    source = np.ones(COPIED // 4, np.float32)
    target = source.copy()
    with tempfile.TemporaryDirectory() as folder:
        path = petal(Path(folder))
        path.read_bytes()
        works: dict[str, tuple[Callable[[], object], int]] = {
            "product": (product(threads), REPEATS),
            "network": (network(bundle, some, threads), 1),
            "copy": (lambda: np.copyto(target, source), REPEATS),
            "statistics": (statistics(bundle, some, threads), 1),
            "petal": (lambda: scorer.score(read_coadd(path)), 1),
        }

        def repeated(work: Callable[[], object], n: int) -> Callable[[], Cost]:
            return lambda: cost_here(lambda: [work() for _ in range(n)])

        heading(f"graphs on {threads} threads, {ROWS} rows")
        costs = in_turns(rounds, {name: repeated(work, n) for name, (work, n) in works.items()})
    seconds = {name: times(costs[name], n) for name, (_, n) in works.items()}
    peak, bandwidth = 2 * SIDE**3 / seconds["product"], 2 * COPIED / seconds["copy"]
    done = ROWS * multiplications(Architecture(manifest["latent"], manifest["hidden"])) / seconds["network"]
    bytes_s = ROWS * moved() / seconds["statistics"]
    print(f"  product of {SIDE} x {SIDE}: {peak / 1e9:.0f} GFLOP/s; the network {done / 1e9:.0f} GFLOP/s")
    print(
        f"  copy: {bandwidth / 1e9:.1f} GB/s; the statistics {bytes_s / 1e9:.1f} GB/s, {moved() / 1e6:.1f} MB each"
    )
    print(f"| network, FLOP/s over those of a product | 0.75 | {done / peak:.2f} | |")
    print(
        f"| statistics, bytes they must move per second over those of a copy | 0.3 | {bytes_s / bandwidth:.2f} | |"
    )
    print(f"| a petal of 500 fibres, file to scores | 2 s | {seconds['petal']:.2f} s | |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
