"""How many cores a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from colorizer import cores


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a container's quota, on a machine of eight cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


def test_without_limits_it_is_the_cores_of_the_affinity(quota: Path) -> None:
    assert cores.cores() == 8


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("nonsense", 8),
        ("", 8),
    ],
)
def test_a_containers_quota_counts(text: str, count: int, quota: Path) -> None:
    quota.write_text(text)
    assert cores.cores() == count


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0", 2), ("", 2), ("many", 2), ("4,2", 4)])
def test_omp_num_threads_decides_where_it_is_a_number(
    text: str, count: int, quota: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota.write_text("200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores.cores() == count
