"""One file that rebuilds its own network: weights, configuration and provenance.

The format is safetensors. Convolutions are stored as float16 (half the size; the difference is
below 0.01 ab units), batch-norm tensors as float32; the header's `checkpoint` entry is JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from colorizer.files import written_whole
from colorizer.gamut import Decoding
from colorizer.unet import UNet, UNetConfig

FORMAT = 1  # raised when an older reader could misread a file


class BadCheckpoint(Exception):
    """A file that is not a checkpoint of this project, or not whole."""


@dataclass(frozen=True)
class Checkpoint:
    """What stands beside the weights.

    Attributes:
        network: the network's configuration.
        decoding: how the classification head is decoded unless a request says otherwise.
        temperature: of the annealed mean.
        chroma_gain: factor on ab when a picture is finished.
        provenance: how the weights came about: data, steps, versions, licence.
    """

    network: UNetConfig = field(default_factory=UNetConfig)
    decoding: Decoding = "annealed-mean"
    temperature: float = 0.38
    chroma_gain: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Serialize, with the format's number."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        """Read what `to_json` wrote.

        Raises:
            BadCheckpoint: on another format or unknown keys.
        """
        try:
            values = json.loads(text)
            number = values.pop("format")
            if number != FORMAT:
                raise BadCheckpoint(f"has format {number}; this version reads {FORMAT}")
            network = values.pop("network")
            network["widths"] = tuple(network["widths"])
            return cls(network=UNetConfig(**network), **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"has a header that this version cannot read: {error}") from error


def save(path: Path, net: UNet, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {
        name: (value.half() if value.ndim == 4 else value).contiguous().cpu()
        for name, value in net.state_dict().items()
    }
    with written_whole(path) as beside:
        save_file(tensors, beside, metadata={"checkpoint": checkpoint.to_json()})
        beside.chmod(0o644)  # save_file lets nobody else read it


def load(path: Path) -> tuple[UNet, Checkpoint]:
    """Read a checkpoint and rebuild its network, in evaluation mode, float32, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        BadCheckpoint: if the file is not a checkpoint, is cut off, or lacks tensors.
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
    net = UNet(checkpoint.network)
    floats = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    try:
        net.load_state_dict(floats)
    except RuntimeError as error:
        raise BadCheckpoint(f"{path} does not fit its own configuration: {error}") from error
    return net.eval(), checkpoint
