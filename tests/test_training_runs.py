"""Runs: from photographs to a checkpoint, whole, interrupted, resumed, in several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from colorizer import checkpoint
from colorizer.unet import Head, torchvision_models
from training import train
from training.config import read_preset

QUICK = ["--side", "32", "--batch", "2", "--chunk", "1", "--warmup", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    state = torchvision_models().resnet50(weights=None).state_dict()
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    return path


def run(photos: Path, out: Path, *arguments: str, head: str = "regression") -> int:
    where = ["--photos", str(photos), "--out", str(out)]
    return train.main(["--preset", head, *where, *QUICK, *arguments])


@pytest.mark.filterwarnings("ignore")  # lightning's advice on this machine
def test_a_run_that_was_interrupted_and_resumed_equals_one_that_was_not(
    photos: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--encoder", str(encoder), "--steps", "3", "--validation", "0.3"]
    assert run(photos, tmp_path / "whole.safetensors", *common) == 0

    step = train.Colorization.training_step
    done: list[int] = []

    def interrupted(self: train.Colorization, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(index)
        return step(self, batch, index)

    out = tmp_path / "parts.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(train.Colorization, "training_step", interrupted)
        # lightning turns the interruption into the end of the process
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            raise SystemExit(run(photos, out, *common))
    assert not out.exists()
    assert run(photos, out, *common, "--resume") == 0

    whole, _ = checkpoint.load(tmp_path / "whole.safetensors")
    parts, known = checkpoint.load(out)
    assert known.provenance["config"]["steps"] == 3
    moved = 0.0
    start = train.initial_network(read_preset("regression"), encoder, None).state_dict()
    for (name, one), other in zip(
        whole.state_dict().items(), parts.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
        moved = max(moved, float((one - start[name]).abs().max()))
    assert moved > 1e-4  # and something was learnt at all


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rate", "unfreeze", "learns"), [(0.1, 1, True), (0.1, 2, False), (0, 0, False)]
)
def test_the_encoder_stands_still_until_it_is_told_to_learn(
    photos: Path,
    weights: Callable[[Head], Path],
    tmp_path: Path,
    rate: float,
    unfreeze: int,
    learns: bool,
) -> None:
    out = tmp_path / "out.safetensors"
    before = weights("classification")
    arguments = ["--encoder-rate", str(rate), "--unfreeze", str(unfreeze), "--ema", "0"]
    arguments += ["--init-from", str(before), "--steps", "2", "--validation", "0"]
    assert run(photos, out, *arguments) == 0
    (old, _), (new, known) = checkpoint.load(before), checkpoint.load(out)
    assert known.network.head == "regression"  # the trunk of a classifier
    assert known.network.widths == old.config.widths
    after = new.state_dict()
    still = {
        name: torch.equal(value, after[name])
        for name, value in old.state_dict().items()
        if name.endswith("weight") and not name.startswith("head.3")
    }
    assert not any(still[name] for name in still if name.startswith("blocks"))
    encoder = [same for name, same in still.items() if name.startswith(("stem", "layers"))]
    assert not any(encoder) if learns else all(encoder)


def test_a_run_that_cannot_start_says_why_in_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    missing = str(tmp_path / "missing.safetensors")
    assert run(photos, out, "--init-from", missing) == 2
    assert run(tmp_path, out) == 2
    assert run(photos, out, "--side", "33") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "training:" in line]
    assert len(lines) == 3
    assert missing in lines[0]
