"""The mean of networks that were trained from one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from colorizer import checkpoint
from colorizer.recipe import Head
from training import average


def test_the_average_lies_in_the_middle_and_says_of_what(
    weights: Callable[[Head], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = weights("regression"), tmp_path / "second.safetensors"
    net, known = checkpoint.load(first)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 2
    checkpoint.save(second, net, known)
    out = tmp_path / "mean.safetensors"
    assert average.main([str(first), str(second), "--out", str(out)]) == 0
    assert "the mean of" in capsys.readouterr().out
    before, (mean, said) = checkpoint.load(first)[0], checkpoint.load(out)
    for one, other in zip(before.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(other, one + 1, atol=2e-3, rtol=1e-3)  # stored as float16
    assert len(said.provenance["average of"]) == 2


def test_two_kinds_of_network_have_no_mean(
    weights: Callable[[Head], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mean.safetensors"
    pair = [str(weights("regression")), str(weights("classification"))]
    assert average.main([*pair, "--out", str(out)]) == 2
    assert "average: networks of two kinds" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit):
        average.main([pair[0], "--out", str(out)])
