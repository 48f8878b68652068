"""Checkpoints in parts, and photographs as small shards: what a machine gets in pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from colorizer import checkpoint
from colorizer.unet import UNet
from evaluation.photographs import find, read_rgb
from tests.support import Capture, Weights
from training import carry, shards


@pytest.fixture
def pair(weights: Weights, tmp_path: Path) -> list[Path]:
    """Two checkpoints with one trunk."""
    net, header = checkpoint.load(weights("classification"))
    other = UNet("regression", widths=net.widths)
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith("head")}
    other.load_state_dict(trunk, strict=False)
    paths = [tmp_path / f"{head}.safetensors" for head in ("classification", "regression")]
    checkpoint.save(paths[0], net, header)
    recipe = replace(header.recipe, head="regression", bins=())
    checkpoint.save(paths[1], other.eval(), replace(header, recipe=recipe))
    return paths


def test_joined_parts_are_the_checkpoints_that_were_split(pair: list[Path], tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "out"
    assert carry.main(["split", *map(str, pair), "--out", str(parts), "--mib", "12"]) == 0
    sizes = [path.stat().st_size for path in parts.iterdir()]
    assert max(sizes) <= 12 * 2**20
    assert sum(sizes) < 0.6 * sum(path.stat().st_size for path in pair)  # the trunk once
    assert carry.main(["join", str(parts), "--out", str(out)]) == 0
    for path in pair:
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_missing_or_damaged_part_is_named(
    pair: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    parts = tmp_path / "parts"
    _, second, *_ = carry.split(pair, parts, 12)
    body = second.read_bytes()
    second.write_bytes(body[:-1])
    assert carry.main(["join", str(parts), "--out", str(tmp_path / "out")]) == 2
    assert f"{second} is damaged" in capsys.readouterr().err
    second.unlink()
    assert carry.main(["join", str(parts), "--out", str(tmp_path / "out")]) == 2
    assert "lacks part 1 of " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shards_can_hold_small_squares_of_a_limited_size(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    arguments = ["--photos", str(photos), "--out", str(out), "--validation", "0"]
    assert shards.main([*arguments, "--stored", "48", "--mib", "1"]) == 0
    members = find(out)
    assert len(members) == 8
    assert all(read_rgb(member.read_bytes()).shape == (48, 48, 3) for member in members)
    assert all(path.stat().st_size <= 2**20 for path in out.glob("*.tar"))
