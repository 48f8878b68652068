"""Run an exported graph: a folder with `graph.json` and the file that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from colorizer.gamut import DECODINGS, Decoding
from colorizer.unet import Head

MANIFEST = "graph.json"

# L (B, 1, S, S) float32 0..100 -> (B, 2, S, S) ab, or (B, Q, S, S) logits
Engine = Callable[[Tensor], Tensor]


class BadGraph(Exception):
    """A graph that is missing, altered, or of another version; the message says how to rebuild."""


@dataclass(frozen=True)
class Graph:
    """What a graph is, as export wrote it; nothing about it is typed twice.

    Attributes:
        file: name of the graph's file, beside the manifest.
        sha256: of that file.
        head: "regression" or "classification".
        side: S.
        bins: (Q, 2) centres in ab units; empty for regression.
        decoding: default decoding of a classification head.
        temperature: default temperature.
        chroma_gain: factor on ab when a picture is finished.
        max_error: largest |difference| in ab units against the eager network, measured at export.
        versions: of what made it.
        provenance: the checkpoint's.
    """

    file: str
    sha256: str
    head: Head
    side: int
    bins: tuple[tuple[float, float], ...]
    decoding: Decoding
    temperature: float
    chroma_gain: float
    max_error: float
    versions: dict[str, str]
    provenance: dict[str, object]

    def write(self, folder: Path) -> None:
        """Write the manifest."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")


def read_graph(folder: Path) -> Graph:
    """Read a manifest, and hold the graph's file against it.

    Raises:
        BadGraph: if either is missing, altered, or not understood.
    """
    rebuild = "export it again: python -m export archive CHECKPOINT --out ARCHIVE"
    try:
        values = json.loads((folder / MANIFEST).read_text())
        values["bins"] = tuple(tuple(centre) for centre in values["bins"])
        graph = Graph(**values)
        digest = hashlib.sha256((folder / graph.file).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadGraph(f"{folder} holds no graph that can be read ({error}); {rebuild}") from None
    if digest != graph.sha256:
        raise BadGraph(f"{folder / graph.file} was altered after its export; {rebuild}")
    if graph.decoding not in DECODINGS:
        raise BadGraph(f"{folder} asks for decoding {graph.decoding!r}, unknown here; {rebuild}")
    return graph


class TorchScript:
    """A TorchScript graph on one device."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._module = torch.jit.load(path, map_location=self.device)

    def __call__(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> the head's output, on this engine's device."""
        with torch.inference_mode():
            output: Tensor = self._module(lightness.to(self.device))
        return output
