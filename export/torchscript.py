"""Folded network -> TorchScript graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from colorizer.unet import UNet

FILE = "graph.pt"


def write(folded: UNet, side: int, path: Path) -> None:
    """Trace a folded network in float32; batch stays dynamic, the side S does not.

    It is not frozen: the engine does that, after it chose precision and memory format.
    """
    example = torch.zeros(2, 1, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript's successor is torch.export; TorchServe's archives still carry this one.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The tracer's own check is left to export's, which looks at photographs.
        torch.jit.trace(folded, example, check_trace=False).save(str(path))
