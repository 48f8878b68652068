"""What one photograph costs in memory, within the bound that docs/serving.md states."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import memory, results
from tests.support import ROOT

SERVING = ROOT / "handlers" / "serving.yaml"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")


def test_a_photograph_stays_within_the_bound(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["PNG, grey", "PNG, colour", "TIFF, float", "PNG, 16 bits in and out"]
    names += ["4 at once: TIFF, double"]
    monkeypatch.setattr(memory, "KINDS", {name: memory.KINDS[name] for name in names})
    found = tmp_path / "memory.json"
    arguments = ["--model", str(archives / "colorize.mar"), "--megapixels", "6"]
    assert memory.main([*arguments, "--json", str(found)]) == 0
    _, (table,) = results.load(found)
    assert [row[0] for row in table.rows] == names
    for row, count in zip(table.rows, (1, 1, 1, 1, 4), strict=True):
        assert row[1] == pytest.approx(6 * count, rel=0.01)
        # Greys, luma and colours take two and a half bytes a pixel: less was not measured.
        assert float(row[4] or 0) * 1e6 > 2.5 * 6e6
    assert "above idle, MB" in capsys.readouterr().out


def test_a_row_above_the_bound_is_seen() -> None:
    most = (memory.BYTES_A_PIXEL * 50e6 + memory.BYTES_ALWAYS) / 1e6
    row: list[results.Value] = ["JPEG, grey", 50.0, 1.0, 300.0, most - 1, 0.0]
    assert not memory.too_much(row)
    assert memory.too_much([*row[:4], most + 1, 0.0])


READING = """
from benchmarks import memory
from colorizer import image
for kind in memory.KINDS.values():
    body = memory.photograph(8, kind)
    image.read(memory.photograph(0.1, kind))
    before = memory.held()
    memory.forget()
    image.read(body)
    print((memory.held("VmHWM") - before) / 8e6)
"""


def test_reading_a_grey_file_takes_no_more_than_the_rest_of_the_way() -> None:
    """11 bytes a pixel is what a JPEG takes in all."""
    command = [sys.executable, "-c", READING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(zip(memory.KINDS, map(float, done.stdout.split()), strict=True))
    grey = {name: of for name, of in found.items() if not memory.KINDS[name].colour}
    assert max(grey.values()) < 11, found


def test_limits_of_deployments_follow_from_the_bound() -> None:
    """Two networks, and a batch of the largest photographs in each."""
    (batch,) = re.findall(r"^batch: (\d+)", SERVING.read_text(), re.MULTILINE)
    needed = memory.most(2, int(batch))
    (compose,) = re.findall(r"mem_limit: (\d+)g", (ROOT / "deploy" / "compose.yaml").read_text())
    limits = [int(compose)]
    for name in ("cpu", "gpu"):
        text = (ROOT / "deploy" / "kubernetes" / name / "kustomization.yaml").read_text()
        limits += map(int, re.findall(r"limits: \{memory: (\d+)Gi", text))
    for name in ("torchserve", "triton"):
        text = (ROOT / "deploy" / "kubernetes" / "kserve" / f"{name}.yaml").read_text()
        limits += map(int, re.findall(r"limits: \{memory: (\d+)Gi", text))
    assert len(limits) == 5
    for limit in limits:
        assert needed <= limit * 2**30 < 1.1 * needed


def test_the_documents_state_the_bound_that_is_held() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    found = re.search(r"at most (\d+) bytes for each of its pixels, and (\d+) MiB besides", text)
    assert found
    assert (int(found[1]), int(found[2]) * 2**20) == (memory.BYTES_A_PIXEL, memory.BYTES_ALWAYS)
