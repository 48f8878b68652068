"""What benchmarks keep of their figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import Plot, Table

TABLE = Table(
    "Engines",
    ["engine", "batch", "ms"],
    [["eager", 1, 12.3456], ["TorchScript", 8, None]],
    "Medians.",
    Plot("engine", ["ms"], "ms"),
)


def test_a_table_comes_back_as_it_was_saved_with_its_command_and_machine(tmp_path: Path) -> None:
    path = tmp_path / "made" / "engines.json"
    results.save(path, "benchmarks.engines", ["--batches", "1"], [TABLE])
    command, machine, tables = results.load(path)
    assert command == "python -m benchmarks.engines --batches 1"
    assert machine["torch"]
    assert machine["cores"]
    assert tables == [TABLE]


def test_a_table_reads_as_markdown() -> None:
    assert TABLE.markdown().splitlines() == [
        "| engine | batch | ms |",
        "|---|---|---|",
        "| eager | 1 | 12.3 |",
        "| TorchScript | 8 |  |",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1234"), (0.012345, "0.0123"), (float("nan"), "NaN"), (7, "7"), (None, "")],
)
def test_numbers_are_shown_with_the_figures_that_mean_something(
    value: results.Value, shown: str
) -> None:
    assert results.shown(value) == shown
