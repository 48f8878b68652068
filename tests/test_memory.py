"""What one photograph costs in memory, within the bound that docs/serving.md states."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import memory, results
from tests.support import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")


def test_a_photograph_stays_within_the_bound(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "KINDS", ("PNG",))
    found = tmp_path / "memory.json"
    arguments = ["--model", str(archives / "colorize.mar"), "--megapixels", "6"]
    assert memory.main([*arguments, "--json", str(found)]) == 0
    command, _, (table,) = results.load(found)
    assert command.startswith("python -m benchmarks.memory --model ")
    assert [row[0] for row in table.rows] == ["PNG, grey", "PNG, colour"]
    for row in table.rows:
        assert row[1] == pytest.approx(6, rel=0.01)
        # L alone takes four bytes a pixel, and the reply's pixels three: less was not measured.
        assert float(row[4] or 0) * 1e6 > 7 * 6e6
    assert "above idle, MB" in capsys.readouterr().out


def test_a_row_above_the_bound_is_seen() -> None:
    most = (memory.BYTES_A_PIXEL * 50e6 + memory.BYTES_ALWAYS) / 1e6
    row: list[results.Value] = ["JPEG, grey", 50.0, 1.0, 300.0, most - 1, 0.0]
    assert not memory.too_much(row)
    assert memory.too_much([*row[:4], most + 1, 0.0])


def test_the_documents_state_the_bound_that_is_held() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    found = re.search(r"at most (\d+) bytes for each of its pixels, and (\d+) MiB besides", text)
    assert found
    assert (int(found[1]), int(found[2]) * 2**20) == (memory.BYTES_A_PIXEL, memory.BYTES_ALWAYS)
