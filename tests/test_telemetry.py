"""onnxruntime sends nothing home from latenight."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import sys
import latenight
assert "onnxruntime" not in sys.modules, "latenight imports onnxruntime before it says no to telemetry"
import os
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def run(**env: str) -> str:
    """What ORT_DISABLE_TELEMETRY is after `import latenight` in a new process with this environment."""
    clean = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_latenight_turns_telemetry_off_before_onnxruntime_is_imported() -> None:
    """Importing latenight sets ORT_DISABLE_TELEMETRY and does not itself import onnxruntime."""
    assert run() == "1"


def test_whoever_wants_telemetry_can_have_it() -> None:
    """A value that the user has set is left alone."""
    assert run(ORT_DISABLE_TELEMETRY="0") == "0"
