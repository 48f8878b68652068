"""The count of cores: what affinity and cgroups allow, not what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colorizer import cores
from tests.support import ROOT, Patch


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A machine of 64 cores, and a folder to write its cgroups into."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/pods/one\n", {"pods/cpu.max": "300000 100000", "pods/one/cpu.max": "max 100000"}, 3),
        ("0::/../on-the-host/abc\n", {"cpu.max": "400000 100000"}, 4),
        (
            "3:cpu,cpuacct:/docker/abc\n2:cpuset:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            3,
        ),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/a:b\n", {"a:b/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": ""}, 64),
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("", {}, 64),
    ],
)
def test_a_quota_of_either_version_of_cgroups_lowers_the_count(
    cgroup: Path, groups: str, files: dict[str, str], count: int
) -> None:
    (cgroup / "groups").write_text(groups)
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(text)
    assert cores.cores() == count


def test_a_system_without_cgroups_and_affinity_counts_all_its_cores(
    cgroup: Path, monkeypatch: Patch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores.cores() == 7


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_that_is_bound_to_one_core_counts_one() -> None:
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    script += "from colorizer.cores import cores; print(cores())"
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0", 2), ("", 2), ("many", 2), ("4,2", 4)])
def test_omp_num_threads_decides_where_it_is_a_number(
    text: str, count: int, cgroup: Path, monkeypatch: Patch
) -> None:
    (cgroup / "groups").write_text("0::/\n")
    (cgroup / "cpu.max").write_text("200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores.cores() == count


def test_work_is_spread_whole_and_its_error_is_raised() -> None:
    done: list[int] = []
    cores.spread(done.append, range(100))
    assert sorted(done) == list(range(100))
    cores.spread(done.append, [])
    with pytest.raises(ZeroDivisionError):
        cores.spread(lambda part: 1 // (part - 50), range(100))


def test_spread_work_may_spread_work() -> None:
    done: list[int] = []
    cores.spread(lambda _: cores.spread(done.append, range(10)), range(10))
    assert len(done) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_work_is_spread_in_a_forked_process_too() -> None:
    script = (
        "import os\nfrom colorizer.cores import spread\ndone = []\nspread(done.append, range(9))\n"
        "child = os.fork()\nspread(done.append, range(9))\n"
        "os._exit(len(done) != 18) if child == 0 else None\n"
        "raise SystemExit(os.waitpid(child, 0)[1])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_results_come_in_order_and_parts_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    assert list(cores.in_order(lambda part: part**2, range(50), 3, 7)) == [n**2 for n in range(50)]
    found = cores.in_order(lambda part: part**2, parts(), 2, 4)
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    found.close()
    assert len(taken) <= 6
    with pytest.raises(ZeroDivisionError):
        list(cores.in_order(lambda part: 1 // (part - 5), range(10), 2, 4))
