"""Runs: from photographs to a checkpoint, whole, interrupted, resumed, in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from colorizer import checkpoint
from colorizer.recipe import Head
from colorizer.unet import UNet
from tests.support import ROOT, SECONDS, Capture, Patch, Weights, free_port
from training import train
from training.config import TrainConfig, read_preset
from training.shards import Limits, make_shards

QUICK = ["--side", "32", "--batch", "2", "--chunk", "1", "--warmup", "1", "--workers", "0"]
QUICK += ["--precision", "32"]


pytestmark = pytest.mark.filterwarnings("ignore")  # lightning's advice on this machine


def run(photos: Path, out: Path, *arguments: str, head: str = "regression") -> int:
    where = ["--photos", str(photos), "--out", str(out)]
    return train.main(["--preset", head, *where, *QUICK, *arguments])


@pytest.mark.parametrize(("slower", "fastest"), [("bf16", "32"), ("32", "bf16")])
def test_the_precision_is_the_one_that_was_fastest_when_tried(
    slower: str, fastest: str, monkeypatch: Patch, capsys: Capture
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 3.0 if torch.is_autocast_enabled("cpu") == (slower == "bf16") else 1.0
        return now

    backward = Tensor.backward

    def timed(self: Tensor, *arguments: object) -> None:
        clock()
        backward(self)

    monkeypatch.setattr(train.time, "perf_counter", lambda: now)
    monkeypatch.setattr(Tensor, "backward", timed)
    net: Any = nn.Module()  # it is not the real one that makes a clock of ours tick
    net.encode, net.decode = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    assert train.fastest_precision(net, TrainConfig(side=32, batch=2)) == fastest
    assert f"precision {fastest} (32: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_a_run_that_was_interrupted_and_resumed_equals_one_that_was_not(
    photos: Path, encoder: Path, tmp_path: Path, monkeypatch: Patch, kind: str
) -> None:
    if kind == "shards":
        make_shards(photos, tmp_path / "shards", 0.3, 15, Limits(most=2))
        photos = tmp_path / "shards"
    common = ["--encoder", str(encoder), "--steps", "2", "--validation", "0.3"]
    monkeypatch.setattr(train, "UNet", partial(UNet, widths=(16, 16, 16, 16)))
    whole = tmp_path / "whole.safetensors"
    assert run(photos, whole, *common) == 0

    step = train.Colorization.training_step
    done: list[int] = []

    def interrupted(self: train.Colorization, batch: Tensor, index: int) -> Tensor:
        if done:
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

    whole, parts = (checkpoint.load(path)[0].state_dict() for path in (whole, out))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    start = train.initial_network(read_preset("regression"), encoder, None).state_dict()
    assert max((value - start[name]).abs().max() for name, value in whole.items()) > 1e-4


@pytest.mark.parametrize(
    ("rate", "unfreeze", "learns"), [(0.1, 1, True), (0.1, 2, False), (0, 0, False)]
)
def test_the_encoder_stands_still_until_it_is_told_to_learn(
    photos: Path, weights: Weights, tmp_path: Path, rate: float, unfreeze: int, learns: bool
) -> None:
    out = tmp_path / "out.safetensors"
    before = weights("classification")
    arguments = ["--encoder-lr-scale", str(rate), "--unfreeze", str(unfreeze), "--ema", "0"]
    arguments += ["--init-from", str(before), "--steps", "2", "--validation", "0"]
    assert run(photos, out, *arguments) == 0
    (old, _), (new, known) = checkpoint.load(before), checkpoint.load(out)
    assert known.recipe.head == "regression"  # the trunk of a classifier
    assert known.widths == old.widths
    after = new.state_dict()
    still = {
        name: torch.equal(value, after[name])
        for name, value in old.state_dict().items()
        if name.endswith("weight") and not name.startswith("head.3")
    }
    assert not any(still[name] for name in still if name.startswith("blocks"))
    encoder = [same for name, same in still.items() if name.startswith(("stem", "layers"))]
    assert not any(encoder) if learns else all(encoder)


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_a_handful_of_photographs_fine_tunes_a_network_of_either_head(
    photos: Path, weights: Weights, tmp_path: Path, head: Head
) -> None:
    net, header = checkpoint.load(weights(head))
    prior = [0.0] * 261
    prior[100] = 1.0
    before = {"config": {"rebalance": 0.7, "huber": 3.0, "steps": 9}, "prior": prior}
    before |= {"licence": "theirs", "encoder": "some"}
    recipe = replace(header.recipe, temperature=0.21, chroma_gain=1.3)
    base, out = tmp_path / "base.safetensors", tmp_path / "mine.safetensors"
    checkpoint.save(base, net, replace(header, recipe=recipe, provenance=before))
    arguments = ["--init-from", str(base), "--steps", "2", "--warmup", "1"]
    assert run(photos, out, *arguments, head="finetune") == 0
    tuned, after = checkpoint.load(out)
    assert (tuned.kind, tuned.widths) == (net.kind, net.widths)
    assert (after.recipe.temperature, after.recipe.chroma_gain) == (0.21, 1.3)
    provenance, config = after.provenance, after.provenance["config"]
    assert (config["head"], config["rebalance"], config["huber"]) == (head, 0.7, 3.0)
    assert (config["steps"], provenance["photographs"]) == (2, 8)
    assert {key: provenance[key] for key in ("prior", "licence", "encoder")} == {
        key: before[key] for key in ("prior", "licence", "encoder")
    }
    state, old = tuned.state_dict(), net.state_dict()
    moved = {name for name in old if not torch.equal(state[name].half(), old[name].half())}
    assert {name.partition(".")[0] for name in moved} >= {"layers", "blocks", "head"}


def test_both_heads_learn_on_one_trunk_and_become_two_checkpoints(
    photos: Path, weights: Weights, tmp_path: Path
) -> None:
    before = weights("classification")
    arguments = ["--init-from", str(before), "--steps", "2", "--unfreeze", "0", "--late-side", "64"]
    assert run(photos, tmp_path / "pair", *arguments, "--late", "0.5", head="joint") == 0
    heads: tuple[Head, ...] = ("classification", "regression")
    pair = [checkpoint.load(tmp_path / "pair" / f"{head}.safetensors") for head in heads]
    assert [header.recipe.head for _, header in pair] == list(heads)
    states = [net.state_dict() for net, _ in pair]
    old = checkpoint.load(before)[0].state_dict()
    for name, value in states[0].items():
        if not name.startswith("head"):
            assert torch.equal(value, states[1][name]), name
    assert not torch.equal(states[0]["layers.3.2.conv3.weight"], old["layers.3.2.conv3.weight"])
    assert not torch.equal(states[0]["head.3.weight"], old["head.3.weight"])


def test_a_run_of_both_heads_can_go_on_from_a_pair(
    photos: Path, weights: Weights, tmp_path: Path, capsys: Capture
) -> None:
    heads: tuple[Head, ...] = ("classification", "regression")
    paths = [str(weights(head)) for head in heads]
    arguments = ["--init-from", paths[0], "--steps", "1", "--learning-rate", "1e-9"]
    arguments += ["--second-from", paths[1]]
    assert run(photos, tmp_path / "pair", *arguments, head="joint") == 0
    for head, before in zip(heads, paths, strict=True):
        state = checkpoint.load(tmp_path / "pair" / f"{head}.safetensors")[0].state_dict()
        old = checkpoint.load(Path(before))[0].state_dict()
        torch.testing.assert_close(state["head.3.weight"], old["head.3.weight"], atol=1e-5, rtol=0)


def test_a_run_by_the_clock_ends_with_its_minutes(
    photos: Path, weights: Weights, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ["--init-from", str(weights("regression")), "--minutes", "0.01"]
    assert run(photos, out, *arguments, "--precision", "32") == 0
    _, known = checkpoint.load(out)
    assert known.provenance["minutes"] == pytest.approx(0.01, abs=0.1)
    assert known.provenance["steps"] > 0


def test_two_processes_train_one_network(photos: Path, weights: Weights, tmp_path: Path) -> None:
    make_shards(photos, tmp_path / "shards", 0.3, 15, Limits(most=2))
    photos = tmp_path / "shards"
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--master-port={free_port()}", "-m", "training.train", "--preset", "regression"]
    command += ["--photos", str(photos), "--out", str(out), *QUICK, "--validation", "0.3"]
    command += ["--init-from", str(weights("classification")), "--steps", "2", "--unfreeze", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    try:
        said, complaints = process.communicate(timeout=5 * SECONDS)
    finally:
        if process.poll() is None:  # the launcher's children with it
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, complaints[-2000:]
    assert said.count("photographs to train on") == 1  # the first process speaks
    provenance = checkpoint.load(out)[1].provenance
    assert (provenance["processes"], provenance["steps"]) == (2, 2)
    assert provenance["losses"]["validation"] > 0
