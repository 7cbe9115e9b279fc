"""The number of threads under affinity and control-group quotas, on hand-written /proc and /sys trees."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import pytest

from latenight.threads import cpu_quota, default_threads

if TYPE_CHECKING:
    from pathlib import Path


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write the files under root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_control_groups_the_affinity_decides(tmp_path: Path) -> None:
    """A machine without control groups has no quota: every CPU of the affinity is used."""
    assert cpu_quota(tmp_path) == math.inf
    assert default_threads(tmp_path, n_affinity=6) == 6


@pytest.mark.parametrize(
    ("cpu_max", "threads"),
    [
        ("200000 100000", 2),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 64),
        ("9900000 100000", 64),
    ],
)
def test_a_version_2_quota_bounds_the_threads(tmp_path: Path, cpu_max: str, threads: int) -> None:
    """Threads are the whole CPUs of cpu.max, at least one and never more than the affinity."""
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": cpu_max + "\n"})
    assert default_threads(tmp_path, n_affinity=64) == threads


def test_the_tightest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    """A quota of a group above ours binds us, too."""
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kube/pod7/scorer\n",
            "sys/fs/cgroup/kube/cpu.max": "1600000 100000\n",
            "sys/fs/cgroup/kube/pod7/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kube/pod7/scorer/cpu.max": "max 100000\n",
        },
    )
    assert cpu_quota(tmp_path) == 4.0


def test_a_version_1_quota_bounds_the_threads(tmp_path: Path) -> None:
    """On version 1 the quota is read from the cpu controller; -1 means none."""
    mount = "sys/fs/cgroup/cpu,cpuacct"
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "12:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n",
            f"{mount}/docker/ab/cpu.cfs_quota_us": "150000\n",
            f"{mount}/docker/ab/cpu.cfs_period_us": "50000\n",
            f"{mount}/cpu.cfs_quota_us": "-1\n",
            f"{mount}/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(tmp_path) == 3.0


def test_a_container_of_version_1_reads_the_mount_itself(tmp_path: Path) -> None:
    """Where the path in /proc is the host's and does not exist, the mounted group is ours."""
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/docker/ab\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(tmp_path) == 2.0


def test_this_machine_gives_a_number_within_its_affinity() -> None:
    """On the machine at hand the number lies between 1 and the CPUs of the affinity."""
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))
