"""Checkpoints: weights, recipe and provenance in one file, which rebuilds its own network.

The format is safetensors. Convolutions are stored as float16 (half the size; the difference is
below 0.01 ab units), batch-norm tensors as float32; the header's `checkpoint` entry is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from colorizer import gamut
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.recipe import Recipe
from colorizer.unet import WIDTHS, UNet

FORMAT = 1  # of the header; increased if an older reader could misread a file


class BadCheckpoint(UserError):
    """A file that isn't a checkpoint of this project, or is damaged."""


# What checkpoints get whose headers don't speak of smoothing, as the shipped ones don't.
SMOOTHING = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """The header of a checkpoint.

    Attributes:
        recipe: how the network is used.
        widths: of `UNet`.
        provenance: of the weights: data, steps, versions, licence.
    """

    recipe: Recipe = field(default_factory=Recipe)
    widths: tuple[int, ...] = WIDTHS
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Serialize, with the format number."""
        recipe = self.recipe
        header = {
            "format": FORMAT,
            "network": {
                "head": recipe.head,
                "side": recipe.side,
                "bins": len(gamut.bins()),
                "widths": self.widths,
            },
            "decoding": recipe.decoding,
            "temperature": recipe.temperature,
            "chroma_knee": recipe.chroma_knee,
            "smoothing": recipe.smoothing,
            "chroma_gain": recipe.chroma_gain,
            "provenance": self.provenance,
        }
        return json.dumps(header, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        """Read what `to_json` wrote.

        Raises:
            BadCheckpoint: for another format, unknown keys, or invalid values.
        """
        try:
            values = json.loads(text)
            number = values.pop("format")
            if number != FORMAT:
                raise BadCheckpoint(f"has format {number}; this version reads {FORMAT}")
            network, provenance = values.pop("network"), values.pop("provenance")
            widths, bins = tuple(network.pop("widths")), network.pop("bins")
            classes = network["head"] == "classification"
            if classes and bins != len(gamut.bins()):
                raise ValueError(f"{bins} bins; this version has {len(gamut.bins())}")
            values.setdefault("smoothing", SMOOTHING)
            centres = gamut.bin_centres() if classes else ()
            return cls(Recipe(bins=centres, **network, **values), widths, provenance)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"has a header that this version cannot read: {error}") from error


def save(path: Path, net: UNet, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    tensors = {
        name: (value.half() if value.ndim == 4 else value).contiguous().cpu()
        for name, value in net.state_dict().items()
    }
    with written_whole(path) as beside:
        save_file(tensors, beside, metadata={"checkpoint": checkpoint.to_json()})
        beside.chmod(0o644)  # save_file makes it private


def load(path: Path) -> tuple[UNet, Checkpoint]:
    """Read a checkpoint and rebuild its network, in evaluation mode, float32, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        BadCheckpoint: if the file isn't a checkpoint, is truncated, or lacks tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a whole safetensors file: {error}") from error
    if text is None:
        raise BadCheckpoint(f"{path} holds tensors, but is not a checkpoint of this project")
    try:
        checkpoint = Checkpoint.from_json(text)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path} {error}") from error
    net = UNet(checkpoint.recipe.head, len(gamut.bins()), checkpoint.widths)
    floats = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    try:
        net.load_state_dict(floats)
    except RuntimeError as error:
        raise BadCheckpoint(f"{path} does not fit its own configuration: {error}") from error
    return net.eval(), checkpoint
