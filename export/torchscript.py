"""Checkpoint -> TorchScript graph, proven equal to the eager network before it is kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import colorizer
from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.engine import Graph, TorchScript
from colorizer.unet import UNet

TOLERANCE = 0.01  # largest allowed |difference| in ab units; one 8-bit level is about 0.4
FILE = "graph.pt"


class NotEqual(Exception):
    """A graph that does not compute what its network computes."""


def export(weights: Path, folder: Path, say: Callable[[str], None] = print) -> Graph:
    """Write a TorchScript graph and its manifest into a folder, whole or not at all.

    Args:
        weights: a checkpoint.
        folder: where to; made if needed, replaced if it holds a graph.
        say: takes lines of progress.

    Raises:
        NotEqual: if the graph differs from the network by more than TOLERANCE.
        BadCheckpoint, FileNotFoundError: if the checkpoint cannot be read.
    """
    net, known = checkpoint.load(weights)
    say(f"{weights.name}: tracing the {net.config.head} network at side {net.config.side}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        trace(net).save(str(beside / FILE))
        error = largest_error(net, TorchScript(beside / FILE), known)
        say(
            f"{weights.name}: max |difference| of ab against eager: {error:.2g} (limit {TOLERANCE})"
        )
        if not error <= TOLERANCE:  # NaN fails as well
            raise NotEqual(
                f"the graph of {weights} is {error:.3g} ab units off its network, over {TOLERANCE}"
            )
        graph = Graph(
            file=FILE,
            sha256=hashlib.sha256((beside / FILE).read_bytes()).hexdigest(),
            head=net.config.head,
            side=net.config.side,
            bins=_centres(net),
            decoding=known.decoding,
            temperature=known.temperature,
            chroma_gain=known.chroma_gain,
            max_error=error,
            versions={"colorizer": colorizer.__version__, "torch": str(torch.__version__)},
            provenance=known.provenance,
        )
        graph.write(beside)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return graph


def trace(net: UNet) -> torch.jit.ScriptModule:
    """Trace and freeze a network; batch stays dynamic, the side is the network's."""
    example = _pictures(2, net.config.side)
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript's successor is torch.export; TorchServe's archives still carry this one.
        warnings.simplefilter("ignore", DeprecationWarning)
        module: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.trace(net, example))
    return module


def largest_error(net: UNet, graph: Callable[[Tensor], Tensor], known: Checkpoint) -> float:
    """Largest |difference| in decoded ab units, over batches of 1 and 3."""
    centres = torch.tensor(_centres(net))
    worst = 0.0
    for batch in (1, 3):
        lightness = _pictures(batch, net.config.side)
        with torch.inference_mode():
            expected, found = net(lightness), graph(lightness).cpu()
        if net.config.head == "classification":
            expected, found = (
                gamut.decode(logits, centres, "annealed-mean", known.temperature)
                for logits in (expected, found)
            )
        error = float((expected - found).abs().max())
        worst = error if not error <= worst else worst  # keeps a NaN
    return worst


def _centres(net: UNet) -> tuple[tuple[float, float], ...]:
    if net.config.head == "regression":
        return ()
    return tuple((float(a), float(b)) for a, b in gamut.bins())


def _pictures(batch: int, side: int) -> Tensor:
    """(B, 1, S, S) L: shapes of every size, as clouds have them, from black to white."""
    generator = torch.Generator().manual_seed(batch)
    total = torch.zeros(batch, 1, side, side)
    for points in (3, 7, 20, side):
        noise = torch.randn(batch, 1, points, points, generator=generator)
        total += torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear")
    low, high = total.amin(dim=(2, 3), keepdim=True), total.amax(dim=(2, 3), keepdim=True)
    return 100 * (total - low) / (high - low)
