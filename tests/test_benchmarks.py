"""Tables, timing, samples, engines, stages, and the report of all benchmarks."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines, folder, memory, results, samples, stages
from benchmarks.results import Table, Unusable
from benchmarks.timing import BURN_IN, Timing, alternate
from colorizer import image
from colorizer.recipe import Head
from tests.support import ROOT, SECONDS, encoded, opened, picture

TABLE = Table(
    "Engines",
    ["engine", "batch", "ms"],
    [["eager", 1, 12.3456], ["TorchScript", 8, None]],
    "Medians.",
)
MARKDOWN = """### Engines

| engine | batch | ms |
|---|---|---|
| eager | 1 | 12.3 |
| TorchScript | 8 |  |

Medians.
"""


def column(table: Table, name: str) -> list[results.Value]:
    return [row[list(table.columns).index(name)] for row in table.rows]


def tables(main: Callable[[list[str]], int], arguments: list[str], path: Path) -> list[Table]:
    """Run a benchmark in its quick form, and read what it saves."""
    assert main([*arguments, "--quick", "--json", str(path)]) == 0
    _, found = results.load(path)
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)
    return found


def test_tables_are_printed_and_come_back_as_saved_with_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Namespace(json=tmp_path / "made" / "some.json", batches=[1])
    assert results.run("benchmarks.some", options, [TABLE]) == 0
    assert capsys.readouterr().out == MARKDOWN + "\n"
    assert '"batches": "[1]"' in options.json.read_text()
    machine, found = results.load(options.json)
    assert machine["torch"]
    assert machine["CPU"]
    assert found == [TABLE]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1234"), (0.012345, "0.0123"), (float("nan"), "NaN"), (7, "7"), (None, "")],
)
def test_numbers_are_shown_with_three_significant_figures(value: results.Value, shown: str) -> None:
    assert results.shown(value) == shown


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Unusable("give another"), 2, "some: give another"),
        (FileNotFoundError("no such file"), 2, "some: no such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code_and_keeps_what_was_measured(
    error: BaseException,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = Namespace(json=tmp_path / "found.json")

    def some() -> Iterator[Table]:
        yield TABLE
        raise error

    assert results.run("benchmarks.some", options, some()) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert results.load(options.json)[1] == [TABLE]


def test_a_timing_is_the_median_with_its_quartiles() -> None:
    timing = Timing.of([1, 2, 3, 4, 100])
    assert timing == Timing(3, 2, 4)
    assert timing.spread == "2–4"


def test_calls_take_turns_and_each_begins_a_round() -> None:
    made: list[str] = []
    calls = [lambda name=name: made.append(name) for name in "abc"]
    assert len(alternate(calls, repeat=3)) == 3
    rounds = ["".join(made[i : i + 3]) for i in range(0, len(made), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca"]
    assert len(rounds) == 3 + BURN_IN


def test_the_burn_in_is_not_counted() -> None:
    slow = iter([0.05] * BURN_IN)
    (timing,) = alternate([lambda: time.sleep(next(slow, 0))], repeat=3)
    assert timing.high < 50


@pytest.mark.parametrize("megapixels", [0.05, 0.3, 3])
def test_a_sample_of_any_size_is_as_detailed_as_the_original(megapixels: float) -> None:
    made = samples.sample(megapixels)
    pixels = image.read(made.body).pixels
    assert pixels.shape == (made.height, made.width, 3)
    assert made.width * made.height == pytest.approx(1e6 * megapixels, rel=0.01)
    assert made.width / made.height == pytest.approx(4 / 3, rel=0.01)
    if made.width > 1024:  # mirrored at 512, but for JPEG's losses
        left, right = pixels[:512, :512].astype(float), pixels[:512, 1023:511:-1].astype(float)
        assert np.abs(left - right).mean() < 3
    grey = opened(samples.sample(megapixels, grey=True).body)
    assert grey.mode == "L"


def test_the_mix_has_the_stated_sizes_and_shares() -> None:
    found = [one.name for one in samples.load(None)]
    assert {name: found.count(name) for name in found} == {"0.3 MP": 18, "3 MP": 9, "12 MP": 3}


def test_a_reply_has_to_be_a_picture_of_the_same_size_in_colour() -> None:
    body = encoded(picture(90, 120), "JPEG")
    tinted = np.dstack([picture(90, 121)] * 2 + [picture(90, 121) // 2])
    posted = samples.Photograph("one", body, 120, 90)
    assert samples.what_is_wrong(encoded(tinted[:, :120], "JPEG"), posted) is None
    assert samples.what_is_wrong(body, posted) == "grey"
    assert samples.what_is_wrong(encoded(tinted, "JPEG"), posted) == "another size"
    assert samples.what_is_wrong(b"text", posted) == "no picture"
    assert samples.what_is_wrong(encoded(tinted[:, :120], "JPEG")[:100], posted) == "no picture"


def test_an_engine_that_cannot_run_has_the_reason_in_its_row(
    archives: Path, weights: Callable[[Head], Path], tmp_path: Path
) -> None:
    arguments = [str(weights("regression")), str(archives / "colorize.mar")]
    arguments += ["--engines", "tensorrt", "onnx"]
    timed, differences = tables(engines.main, arguments, tmp_path / "found.json")
    assert column(timed, "engine") == ["onnx", "tensorrt"]
    (note,) = column(timed, "note")[1:]
    assert str(note).startswith("not available: no graph runs on cpu: tensorrt:")
    assert column(timed, "× eager") == [None, None]
    assert column(differences, "engine") == ["onnx"]


def test_engines_are_timed_and_compared_with_eager_torch(
    archives: Path, weights: Callable[[Head], Path], tmp_path: Path
) -> None:
    arguments = [str(weights("classification")), str(archives / "colorize-classes.mar")]
    timed, differences = tables(engines.main, arguments, tmp_path / "found.json")
    names = ["eager", "eager-channels-last", "onnx"]
    assert timed.title == "Engines, classification, batch 1"
    assert column(timed, "engine") == names
    assert column(timed, "× eager")[0] == 1
    assert all(isinstance(one, float) and one > 0 for one in column(timed, "of peak FLOP/s"))
    assert all(isinstance(ms, float) and ms > 0 for ms in column(timed, "ms"))
    assert column(differences, "engine") == names
    largest = column(differences, "largest Δab")
    assert largest[0] == 0
    assert all(isinstance(one, float) and one < 0.01 for one in largest)


def test_a_folder_is_timed_beside_what_its_engine_and_the_cores_allow(
    archives: Path, tmp_path: Path
) -> None:
    model = str(archives / "colorize.mar")
    (table,) = tables(folder.main, [model], tmp_path / "found.json")
    assert [row[0] for row in table.rows] == ["network alone", "bound", "folder"]
    _, bound, whole = column(table, "ms a picture")
    assert isinstance(bound, float)
    assert isinstance(whole, float)
    assert column(table, "of the bound")[2] == pytest.approx(bound / whole)


def test_stages_are_timed_by_megapixels_beside_the_plain_way(
    archives: Path, tmp_path: Path
) -> None:
    models = [str(archives / name) for name in ("colorize.mar", "colorize-classes.mar")]
    found = tables(stages.main, models, tmp_path / "found.json")
    assert [one.title for one in found] == [f"Stages, {Path(model).name}" for model in models]
    for table in found:
        assert column(table, "megapixels") == [0.05]
        (whole,), (plain,) = column(table, "whole, ms"), column(table, "scikit-image's way, ms")
        assert column(table, "×") == pytest.approx([plain / whole])  # type: ignore[operator]
        of = list(table.columns).index("whole, ms")
        assert 0 < sum(table.rows[0][1:of]) <= whole  # type: ignore[arg-type, operator]
        assert "network, ms" in table.columns


def test_the_plain_way_gives_a_picture_of_the_same_size_in_colour() -> None:
    posted = samples.sample(0.05)
    assert samples.what_is_wrong(stages.plainly(posted.body), posted) is None


def test_a_size_without_pixels_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        stages.main(["none", "--megapixels", "0"])
    assert "--megapixels must be above 0" in capsys.readouterr().err


PEAK = """
import numpy as np
from benchmarks import memory
before = memory.held()
memory.forget()
taken = np.ones(200_000_000, np.uint8)
print(memory.held("VmHWM") - before)
del taken
memory.forget()
print(memory.held("VmHWM") - before)
"""


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="this system doesn't tell")
def test_the_peak_of_memory_is_seen_and_can_be_reset() -> None:
    # A process of its own: what earlier tests hold here may be freed meanwhile.
    told = subprocess.check_output([sys.executable, "-c", PEAK], cwd=ROOT, text=True)
    with_it, without = map(int, told.split())
    assert with_it > 180_000_000
    assert without < 100_000_000


def test_make_bench_runs_every_benchmark_and_those_after_one_that_fails(tmp_path: Path) -> None:
    fake, given = tmp_path / "python", tmp_path / "given"
    fails = "case $2 in *stages) exit 3; esac"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {given}\necho tables\n{fails}\n')
    fake.chmod(0o755)
    whole = ["make", "--dry-run", "bench", "QUICK=1", f"BENCH={tmp_path}"]
    planned = subprocess.check_output(whole, cwd=ROOT, text=True)
    (line,) = (one for one in planned.splitlines() if "--keep-going" in one)
    names = re.findall(r"bench-([a-z-]+)", line)
    command = ["make", "--keep-going", f"PY={fake}", f"BENCH={tmp_path}/out", "PHOTOS=photos"]
    done = subprocess.run([*command, *(f"bench-{name}" for name in names)], cwd=ROOT)
    assert done.returncode == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.md" for name in names}
    for name, words in zip(names, given.read_text().splitlines(), strict=True):
        module = words.split()[1].removeprefix("benchmarks.")
        assert (ROOT / "benchmarks" / f"{module}.py").exists()
        assert words.endswith(f" --json {tmp_path}/out/{name}.json")
        assert ("--photos photos" in words) == (module == "quality")


def test_ctrl_c_ends_a_benchmark_in_one_line(archives: Path, tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    command = [sys.executable, "-m", "benchmarks.stages", str(archives / "colorize.mar")]
    with messages.open("wb") as file:
        process = subprocess.Popen([*command, "--repeat", "1000000"], cwd=ROOT, stderr=file)
    deadline = time.monotonic() + SECONDS
    while "0.3 MP" not in messages.read_text() and time.monotonic() < deadline:  # its progress
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert "stages: interrupted" in messages.read_text()
    assert "Traceback" not in messages.read_text()
