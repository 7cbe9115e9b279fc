"""Benchmarks, each of which answers one question by ratios measured in turns: make bench."""

import latenight_train  # noqa: F401  (sets OMP_WAIT_POLICY before torch is imported: threads that spin cost a factor of 7)
