"""latenight finds anomalous DESI spectra the night they are taken."""

import os

# onnxruntime >= 1.29 reports usage over the network unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
