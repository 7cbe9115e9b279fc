"""The offline trainer of latenight: simulate, fit, evaluate, export."""

import os

import latenight  # noqa: F401  (sets ORT_DISABLE_TELEMETRY before anything imports onnxruntime)

# OpenMP threads that wait for each other sleep instead of spinning; read once, when torch is imported.
# Two threads on two cores that others use as well: 60 steps of training take 17 s instead of 70 to 130 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
