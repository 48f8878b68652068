"""Checkpoints: weights, recipe and provenance in one file, which rebuilds its own network.

The format is safetensors. Convolutions are stored as float16 (half the size; the difference is
below 0.01 ab units), batch-norm tensors as float32; the header's `checkpoint` entry is JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
ALIKE = ".alike"  # suffix of the file beside a checkpoint that has UNet's weights of that name

log = logging.getLogger(__name__)


class BadCheckpoint(UserError):
    """A file that isn't a checkpoint of this project, or is damaged."""


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
            "cast": recipe.cast,
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


def save_alike(path: Path, net: UNet, provenance: dict[str, Any]) -> None:
    """Write `net.alike` beside its checkpoint, atomically."""
    assert net.alike is not None
    weights = net.alike.state_dict()
    tensors = {name: value.half().contiguous() for name, value in weights.items()}
    header = {"format": FORMAT, "network": _mark(net), "provenance": provenance}
    with written_whole(path.with_suffix(ALIKE)) as beside:
        save_file(tensors, beside, metadata={"alike": json.dumps(header, sort_keys=True)})
        beside.chmod(0o644)


def _mark(net: UNet) -> str:
    """Tell networks apart, by the weights of the convolution before the last, which all train."""
    first = net.head.get_parameter("0.weight").detach().half().cpu().numpy()
    return hashlib.sha256(first.tobytes()).hexdigest()


def _add_alike(path: Path, net: UNet) -> None:
    """Give a network the channels that tell what is alike, if they were fitted to it."""
    path = path.with_suffix(ALIKE)
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["alike"])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}; this version reads {FORMAT}")
        if header["network"] != _mark(net):
            log.warning("%s was fitted to another network, and is not used", path)
            return
        net.tell_alike(weights)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read ({error}); remove it, or make it again: "
            f"python -m training.alike {path.with_suffix('.safetensors')} --photos PHOTOS"
        ) from error


def load(path: Path, alike: bool = False) -> tuple[UNet, Checkpoint]:
    """Read a checkpoint and rebuild its network, in evaluation mode, float32, on the CPU.

    Args:
        path: of the checkpoint.
        alike: whether the network is to be used, not trained: its output then has the channels
            that tell hints what is alike, if there are any beside the checkpoint.

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
    if alike:
        _add_alike(path, net)
    return net.eval(), checkpoint
