"""ONNX files in sessions: device, threads, buckets; the only module that imports onnxruntime."""

from __future__ import annotations

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from latenight.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, np.ndarray]
    Held = Mapping[str, "onnxruntime.OrtValue"]

# Sizes of buckets by device, ascending. 64 rows, ordered by redshift, see little of the network, and copy that part of
# its weights once (.73 ms a spectrum; .86 of 16, .77 of 32, .78 of 128). A GPU starves on few rows, for every node
# costs it some 5 us to start.
BUCKETS = {"cpu": (8, 16, 32, 64), "cuda": (64, 512)}
CUDA = "CUDAExecutionProvider"


class Graph:
    """One ONNX file in a session, called with arrays of any number of rows.

    Rows go through in buckets of fixed sizes, so that no shape is ever new to the session (the arena of the CUDA
    provider grows with every new shape). What fills up the last bucket is its last row again. On a CPU each thread
    takes buckets of its own: two threads in every operator take 1.2 times the CPU time, for most have too little work
    to share.

    Attributes:
        provider: the execution provider in use.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        threads: int,
        buckets: Mapping[str, tuple[int, ...]] = MappingProxyType(BUCKETS),
        tf32: bool = False,
    ) -> None:
        """Open the file.

        Args:
            path: of the file.
            device: "cpu", "cuda" or "auto".
            threads: how many buckets are in work at once on the CPU.
            buckets: sizes of buckets for "cpu" and "cuda", ascending.
            tf32: whether a GPU may round the factors of products to 10 bits: several times as fast, 1e-3 off.
        """
        self._session = _open_session(path, device=device, tf32=tf32)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.provider: str = self._session.get_providers()[0]
        self._sizes = buckets[device_of(self.provider)]
        self._workers = ThreadPoolExecutor(threads if self.provider != CUDA else 1, path.stem)

    def held(self, constants: Arrays) -> Held:
        """Inputs that every bucket gets whole (bank, modes), copied to the device once and for all."""
        device = device_of(self.provider)
        return {name: onnxruntime.OrtValue.ortvalue_from_numpy(v, device, 0) for name, v in constants.items()}

    def __call__(
        self,
        rows: Arrays,
        *,
        constants: Held | None = None,
        which: NDArray[np.intp] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            rows: inputs with one entry per row, n rows each.
            constants: from held, others than the graph's among them.
            which: (k,) the rows that go through, in this order, which is that of the results; by default all.
        """
        which = np.arange(len(next(iter(rows.values())))) if which is None else which

        shared = {name: value for name, value in (constants or {}).items() if name in self._inputs}

        def run(at: NDArray[np.intp]) -> list[np.ndarray]:
            bucket = {name: values[at] for name, values in rows.items()}
            found: list[np.ndarray] = self._session.run(self._outputs, {**bucket, **shared})
            return found

        parts = list(self._workers.map(run, self._buckets(which)))
        columns = zip(self._outputs, zip(*parts, strict=True), strict=True)
        return {name: np.concatenate(column)[: len(which)] for name, column in columns}

    def _buckets(self, which: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """The rows in buckets: as many of the largest as they fill, and the smallest that holds the rest, filled up."""
        start = 0
        while start < len(which):
            left = len(which) - start
            size = next((size for size in self._sizes if size >= left), self._sizes[-1])
            yield np.pad(which[start : start + size], (0, max(size - left, 0)), mode="edge")
            start += size


def _open_session(path: Path, *, device: str, tf32: bool) -> onnxruntime.InferenceSession:
    """A session on the wanted device.

    onnxruntime falls back to the CPU in silence when CUDA does not load, so the provider is looked up on the
    session itself.
    """
    options = _options()
    if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
        raise StartupError("device cuda: this onnxruntime has no CUDA provider; install latenight[gpu]")
    session = onnxruntime.InferenceSession(path, options, providers=providers(device, tf32=tf32))
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise StartupError("device cuda: the CUDA provider did not load; check the driver, or use device cpu")
    return session


def providers(device: str, *, tf32: bool) -> list[str | tuple[str, dict[str, str]]]:
    """The providers to ask for, in order, with their settings."""
    cpu = "CPUExecutionProvider"
    if device == "cpu" or CUDA not in onnxruntime.get_available_providers():
        return [cpu]
    return [(CUDA, {"use_tf32": str(int(tf32))}), cpu]


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle daemon stays idle
    options.log_severity_level = 3
    return options


def require_gpu(path: Path) -> None:
    """Prove that every node of a graph runs on the GPU: one on the CPU copies its arrays there and back.

    Raises:
        StartupError: there is no CUDA provider, or it does not take all nodes.
    """
    if CUDA not in onnxruntime.get_available_providers():
        raise StartupError(
            "this onnxruntime has no CUDA provider; install latenight[gpu] instead of latenight[cpu]"
        )
    options = _options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[CUDA])
    except Exception as error:  # onnxruntime has no common class for its errors
        raise StartupError(
            f"{path.name} does not run on the GPU alone: {error}; export the bundle again"
        ) from error
    if session.get_providers()[0] != CUDA:
        raise StartupError(
            "the CUDA provider did not load; check the driver (nvidia-smi) and the CUDA libraries"
        )


def runtime() -> str:
    """Which onnxruntime this is, and what it was built for."""
    built_for = ", ".join(onnxruntime.get_available_providers())
    return f"onnxruntime {onnxruntime.__version__} ({built_for})"


def device_of(provider: str) -> str:
    """The --device that insists on an execution provider: "cuda" or "cpu"."""
    return "cuda" if provider == CUDA else "cpu"


def fell_back(device: str, provider: str) -> bool:
    """Whether a GPU build that was free to take the GPU runs on the CPU: the driver or a library is missing.

    Args:
        device: the device that was asked for.
        provider: the execution provider in use.
    """
    return device == "auto" and CUDA in onnxruntime.get_available_providers() and provider != CUDA


def _require_one_onnxruntime() -> None:
    """Refuse to run where both distributions are installed: they overwrite each other's files."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed.append(name)
    if len(installed) != 1:
        found = " and ".join(installed) or "no onnxruntime"
        raise StartupError(
            f"{found} installed; latenight needs exactly one of latenight[cpu] and latenight[gpu]. "
            "Uninstall both and install one again."
        )


_require_one_onnxruntime()
import onnxruntime  # noqa: E402  (after the check: importing a mixture of both fails obscurely or not at all)
