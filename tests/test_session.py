"""Which device a session uses, and whether that is the one it should."""

from __future__ import annotations

import onnxruntime
import pytest

from latenight.session import fell_back

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("built_for", "device", "provider", "expected"),
    [
        ([CUDA, CPU], "auto", CPU, True),
        ([CUDA, CPU], "auto", CUDA, False),
        ([CUDA, CPU], "cpu", CPU, False),
        ([CPU], "auto", CPU, False),
    ],
)
def test_a_gpu_build_that_scores_on_the_cpu_unasked_has_fallen_back(
    monkeypatch: pytest.MonkeyPatch, built_for: list[str], device: str, provider: str, *, expected: bool
) -> None:
    """Only a GPU build that was free to choose and runs on the CPU counts as fallen back."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_for)
    assert fell_back(device, provider) is expected
