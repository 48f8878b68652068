"""LPIPS, FID and KID: measures that other networks define, if their weights are available.

Nothing is downloaded; the files are expected where torch keeps its downloads.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from colorizer.errors import UserError
from colorizer.unet import IMAGENET_MEAN, IMAGENET_STD, UNet
from evaluation.noticed import LONGER_SIDE
from evaluation.photographs import reduce

# torchvision's AlexNet, and the Inception v3 of the original FID, converted by torch-fidelity.
WEIGHTS = {
    "LPIPS": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "FID": (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth"
    ),
}
SMALLEST = 64  # side of the smallest picture that survives AlexNet's five stages


def torchvision_models() -> Any:
    """Import torchvision.models, also with a torch that was built without CUDA.

    PyPI's torchvision links its operators against CUDA; with a CPU-only torch they don't load, and
    the import fails. Declaring the two operators is enough, since nothing here calls them.
    """
    try:
        import torchvision.models
    except RuntimeError:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + schema)
        _KEPT.append(library)  # a library that is collected takes its operators along
        import torchvision.models
    return torchvision.models


_KEPT: list[torch.library.Library] = []


def folder() -> Path:
    """Where torch keeps weights; the environment's TORCH_HOME moves it."""
    return Path(torch.hub.get_dir(), "checkpoints")


def place(name: str) -> Path:
    """Where a measure's weights belong."""
    return folder() / WEIGHTS[name].rpartition("/")[2]


def available() -> list[str]:
    """The measures whose weights are available."""
    return [name for name in WEIGHTS if place(name).is_file()]


class Perceptual:
    """The networks of some measures.

    Args:
        names: of the measures, from `available`.
        encoder: an ImageNet ResNet-50, as `training.train` takes it, for KID.

    Raises:
        FileNotFoundError: if there is no such encoder.
        UserError: if a file doesn't hold what its measure needs.
    """

    def __init__(self, names: Collection[str], encoder: Path | None = None) -> None:
        self._resnet: torch.nn.Module | None = None
        if encoder is not None:
            net = UNet("regression")
            load_encoder(net, encoder)
            self._resnet = torch.nn.Sequential(net.stem, net.pool, *net.layers).eval()
        self._alexnet: Any = None
        self._inception: Any = None
        torchvision_models()  # which both packages import, and would fail on
        try:
            for name in names:
                if name == "LPIPS":
                    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                    self._alexnet = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
                else:
                    from torch_fidelity.feature_extractor_inceptionv3 import (
                        FeatureExtractorInceptionV3,
                    )

                    self._inception = FeatureExtractorInceptionV3(
                        "inception-v3-compat", ["2048"], str(place(name))
                    )
        except Exception as error:  # unpickling a broken file may raise anything
            raise UserError(
                f"{place(name)} does not hold what {name} needs: remove it, or put "
                f"{WEIGHTS[name]} there ({type(error).__name__})"
            ) from None

    def distances(self, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[str, float]:
        """LPIPS of two pictures, (H, W, 3), by AlexNet, 0 for the same; empty without it.

        Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual
        metric", version 0.1; pictures smaller than `SMALLEST` are enlarged to it.
        """
        if self._alexnet is None:
            return {}
        with torch.inference_mode():
            return {"LPIPS": float(self._alexnet(_unit(found), _unit(truth)))}

    def features(self, rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Features of a picture (H, W, 3), each (2048,), of those measures whose network is here.

        FID's are the means of Inception's last stage, KID's those of ResNet-50's last layer. No
        training loss uses that layer; the networks' encoders were initialized from such weights,
        so KID only ranks networks.
        """
        found = {}
        with torch.inference_mode():
            if self._inception is not None:
                found["FID"] = self._inception(_planes(rgb))[0][0]
            if self._resnet is not None:
                unit = torch.from_numpy(reduce(rgb, LONGER_SIDE).astype(np.float32) / 255)
                normal = (unit - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
                found["KID × 1000"] = self._resnet(normal.movedim(-1, 0)[None])[0].mean((-2, -1))
        return {name: np.asarray(of.numpy(), np.float32) for name, of in found.items()}


def load_encoder(net: UNet, path: Path) -> None:
    """Set a network's encoder from a safetensors file of torchvision's ResNet-50 weights.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {path}")
    try:
        net.load_encoder(load_file(path))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} does not hold ResNet-50's weights: {error}") from None


def _planes(rgb: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), uint8."""
    copy = np.array(rgb)  # torch warns of arrays that aren't writable
    return torch.from_numpy(copy).movedim(-1, 0)[None]


def _unit(rgb: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, 0..1, no side below SMALLEST."""
    planes = _planes(rgb).float() / 255
    return torch.nn.functional.interpolate(planes, [max(SMALLEST, side) for side in rgb.shape[:2]])


def frechet_distance(found: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Fréchet distance of two sets of features, (N, F) and (M, F), as normal distributions.

    The trace of the root of the product of covariances equals the sum of the singular values of the
    features' (N, M) product, which is 30 times as fast with fewer pictures than features (tests
    compare it with torch-fidelity's).

    Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local
    Nash equilibrium", equation 6.
    """
    one, other = (x.astype(np.float64) for x in (found, truth))
    apart = one.mean(axis=0) - other.mean(axis=0)
    one, other = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (one, other))
    common = np.linalg.norm(one @ other.T, "nuc")
    return float(apart @ apart + (one**2).sum() + (other**2).sum() - 2 * common)
