"""What several tests need: small networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from colorizer import checkpoint
from colorizer.checkpoint import Checkpoint
from colorizer.unet import Head, UNet, UNetConfig
from tests.support import SIDE


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Head], Path]:
    """A checkpoint of either head: real encoder shape, narrow decoder, random weights."""
    folder = tmp_path_factory.mktemp("weights")

    def make(head: Head) -> Path:
        path = folder / f"{head}.safetensors"
        if not path.exists():
            torch.manual_seed(1)
            net = UNet(UNetConfig(head=head, side=SIDE, widths=(16, 16, 16, 16)))
            # Random weights give next to no colour; enough of it, and the tests see a difference.
            with torch.no_grad():
                net.head[-1].weight *= 30
            checkpoint.save(path, net.eval(), Checkpoint(network=net.config))
        return path

    return make
