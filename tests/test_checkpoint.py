"""A checkpoint rebuilds its own network, or says in one line why it can't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorizer import checkpoint
from colorizer.checkpoint import BadCheckpoint, Checkpoint
from colorizer.recipe import Head, Recipe
from tests.support import SIDE, Weights


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_a_network_comes_back_with_its_outputs_and_its_settings(
    head: Head, weights: Weights, tmp_path: Path
) -> None:
    net, known = checkpoint.load(weights(head))
    recipe = replace(known.recipe, temperature=0.5, chroma_gain=1.1)
    known = replace(known, recipe=recipe, provenance={"steps": 3})
    checkpoint.save(tmp_path / "again", net, known)
    again, read = checkpoint.load(tmp_path / "again")
    assert read == known
    lightness = 100 * torch.rand(1, 1, SIDE, SIDE)
    with torch.inference_mode():  # stored twice as float16: nothing is lost the second time
        assert torch.equal(net(lightness), again(lightness))


def test_what_a_header_from_before_a_setting_does_not_say_is_left_out() -> None:
    header = json.loads(Checkpoint(Recipe(chroma_gain=2.4)).to_json())
    assert header.pop("cast") == 1
    assert Checkpoint.from_json(json.dumps(header)).recipe == Recipe(chroma_gain=2.4)


def test_convolutions_are_float16_and_batch_norm_is_float32(weights: Weights) -> None:
    types = {len(v.shape): v.dtype for k, v in load_file(weights("regression")).items()}
    assert types[4] == torch.float16
    assert types[1] == torch.float32


def altered(name: str, path: Path) -> None:
    """Spoil the checkpoint at `path`."""
    if name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("these are not weights")
    elif name == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        tensors = load_file(path)
        header = json.loads(Checkpoint().to_json())
        header["network"] |= {"side": SIDE, "widths": [16, 16, 16, 16]}
        if name == "another format":
            header["format"] = 99
        elif name == "unknown key":
            header["surprise"] = 1
        elif name == "no header":
            header = None
        elif name == "another network":
            header["network"]["widths"] = [16, 16, 16, 8]
        elif name == "a tensor short":
            tensors.popitem()
        save_file(tensors, path, metadata=header and {"checkpoint": json.dumps(header)})


@pytest.mark.parametrize(
    "name",
    [
        *("empty", "text", "cut off", "another format", "unknown key", "no header"),
        *("another network", "a tensor short"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(name: str, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.safetensors"
    path.write_bytes(weights("regression").read_bytes())
    altered(name, path)
    with pytest.raises(BadCheckpoint, match=r"spoilt\.safetensors"):
        checkpoint.load(path)
