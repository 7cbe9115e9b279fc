"""The offline trainer of latenight: simulate, fit, evaluate, export."""

import latenight  # noqa: F401  (sets ORT_DISABLE_TELEMETRY before anything imports onnxruntime)
