"""How benchmarks time, say what is wrong, and sample a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import command, results, samples, utilization
from benchmarks.command import Unusable
from benchmarks.results import Table
from benchmarks.timing import BURN_IN, Timing, alternate
from colorizer import image

TABLE = Table("Title", ["one", "two"], [["a", 1.5]], "A note.")


def test_a_timing_is_the_median_with_the_middle_half_of_the_rounds() -> None:
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


def test_tables_are_printed_as_they_come_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    arguments = ["--json", str(path), "--threads", "1"]
    options = command.parser("benchmarks.some", "Measure.").parse_args(arguments)
    seen: list[int] = []

    def tables() -> Iterator[Table]:
        seen.append(torch.get_num_threads())
        yield TABLE

    before = torch.get_num_threads()
    assert command.carry_out("benchmarks.some", options, arguments, tables()) == 0
    assert seen == [1]
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    assert printed == "### Title\n\n| one | two |\n|---|---|\n| a | 1.5 |\n\nA note.\n\n"
    said, _, found = results.load(path)
    assert said == f"python -m benchmarks.some --json {path} --threads 1"
    assert found == [TABLE]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Unusable("give another"), 2, "some: give another"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_is_one_line_an_exit_code_and_no_file(
    error: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "found.json"
    options = command.parser("benchmarks.some", "").parse_args(["--json", str(path)])

    def tables() -> Iterator[Table]:
        yield TABLE
        raise error

    assert command.carry_out("benchmarks.some", options, [], tables()) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not path.exists()


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_count_is_one_or_more(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.parser("benchmarks.some", "").parse_args(["--threads", value])
    assert f"{value} is not 1 or more" in capsys.readouterr().err


def test_on_a_cpu_utilization_is_absent() -> None:
    assert utilization.under_load(lambda: None, "cpu") is None


def test_a_gpu_is_sampled_while_it_works_and_what_was_before_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"  # it prints a line at once, and one each time that it has slept
    tool.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/given\necho 0\necho 80\necho 90\nexec sleep 60\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    calls: list[int] = []
    found = utilization.sampled(lambda: (time.sleep(0.01), calls.append(1))[0], "GPU-7", 0.5)
    assert found == utilization.Sampled(85, 2)
    assert calls
    given = (tmp_path / "given").read_text().split()
    assert "--id=GPU-7" in given
    assert "--query-gpu=utilization.gpu" in given


@pytest.mark.parametrize("megapixels", [0.05, 0.3, 3])
def test_a_photograph_of_any_size_is_as_detailed_as_its_sample(megapixels: float) -> None:
    width, height = samples.size_of(megapixels)
    assert width * height == pytest.approx(1e6 * megapixels, rel=0.01)
    assert width / height == pytest.approx(4 / 3, rel=0.01)
    pixels = samples.large(width, height)
    assert pixels.shape == (height, width, 3)
    assert image.read(samples.jpeg(pixels)).pixels.shape == pixels.shape
    edge = pixels[: min(512, height), 511:513].astype(int)
    if width > 512:
        assert (edge[:, 0] == edge[:, 1]).all()  # mirrored there


def test_a_batch_has_each_photograph_in_turn() -> None:
    pictures = samples.photographs(None)[:2]
    batch = samples.batch(pictures, 64, 3)
    assert batch.shape == (3, 1, 64, 64)
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])
