"""How many threads may we use? What the CPU affinity and the quota of our control group (cgroup) allow.

onnxruntime sizes its pool by the cores of the host and ignores quotas (its issue #29510): in a container
with 2 of 64 cores its 64 threads are throttled together. So the number of threads is always set.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

ROOT = Path("/")


def default_threads(root: Path = ROOT, *, n_affinity: int | None = None) -> int:
    """Number of CPUs this process may keep busy, at least 1.

    A fraction of a CPU that the quota leaves over goes to the threads that read and talk to Kafka.

    Args:
        root: where /proc and /sys lie.
        n_affinity: CPUs this process may run on, as taskset, Slurm and cpusets set it; None asks the kernel.
    """
    cpus = len(os.sched_getaffinity(0)) if n_affinity is None else n_affinity
    return max(1, int(min(cpus, cpu_quota(root))))


def cpu_quota(root: Path = ROOT) -> float:
    """CPUs that the quotas of our control group and of all groups above it allow; inf without a quota."""
    quotas = [math.inf]
    for group in _control_groups(root):
        quotas += [_quota_v2(group / "cpu.max"), _quota_v1(group)]
    return min(quotas)


def _control_groups(root: Path) -> list[Path]:
    """Folders of our groups with a cpu controller and of the groups above them, version 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux control groups here: no quota either
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2, one tree for all controllers
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
        else:
            continue
        # Inside a container of version 1 the path is the host's and does not exist here; the mount itself
        # is our group then, and is the last one of this walk.
        group = mount / path.strip("/")
        folders += [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return folders


def _quota_v2(path: Path) -> float:
    """CPUs by cpu.max, "<quota> <period>" or "max <period>" [us]."""
    words = _words(path)
    return math.inf if not words or words[0] == "max" else int(words[0]) / int(words[1])


def _quota_v1(group: Path) -> float:
    """CPUs by cpu.cfs_quota_us (-1: no quota) and cpu.cfs_period_us [us]."""
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else math.inf


def _words(path: Path) -> list[str]:
    """The words of a control file; none where the file does not exist, as in the topmost group."""
    try:
        return path.read_text().split()
    except OSError:
        return []
