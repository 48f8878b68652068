"""Squares of colour photographs -> what a network sees (L, some of it aged) and learns (ab).

All functions take and return tensors and run on their device, so CPU and GPU share one definition.
Random numbers depend on the number of the batch (`draw`), so a resumed run sees the same crops.
Only grain differs between kinds of device.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional

from colorizer import lab
from training.config import TrainConfig

_COLUMNS = 30  # uniform numbers for each photograph


def draw(seed: int, rank: int, number: int, batch: int) -> Tensor:
    """Draw the random numbers of batch `number`: (B, _COLUMNS) uniform in 0..1."""
    rng = np.random.default_rng([seed, rank, number])
    return torch.from_numpy(rng.random((batch, _COLUMNS), np.float32))


def make_batch(
    photographs: Tensor, config: TrainConfig, side: int, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Crop, mirror, mount and age photographs, some as if taken on early plates.

    Args:
        photographs: (B, 3, T, T) uint8 sRGB, each squashed to a square.
        config: `crop`, `plates`, `mounts` and `degrade` are used.
        side: S of the batch.
        draws: of `draw`, (B, _COLUMNS), on the CPU: what is decided by them needn't wait for a GPU.

    Returns:
        L as the network sees it (B, 1, S, S), and the true ab (B, 2, S, S), float32.
    """
    parts, mounts, wear, plates = draws.split((6, 5, 16, 3), dim=1)
    parts, plates = (one.to(photographs.device, non_blocking=True) for one in (parts, plates))
    rgb = crop(photographs, side, config.crop, parts)
    lightness, ab = rgb_to_lab(rgb)
    early = (plates[:, 0] < config.plates).view(-1, 1, 1, 1)
    lightness = torch.where(early, on_plate(rgb, plates[:, 1:]), lightness)
    lightness, ab = mount(lightness, ab, config.mounts, mounts)
    worn = (wear[:, 0] < config.degrade).view(-1, 1, 1, 1).to(ab.device, non_blocking=True)
    lightness = torch.where(worn, age(lightness, wear[:, 1:]), lightness)
    return lightness, ab


def crop(photographs: Tensor, side: int, smallest: float, draws: Tensor) -> Tensor:
    """Cut out a part of each photograph, of a random shape, mirrored or not.

    Args:
        photographs: (B, 3, T, T) uint8.
        side: S.
        smallest: least share of the area that a part takes.
        draws: (B, 6).

    Returns:
        (B, 3, S, S) float32, 0..1.
    """
    share, shape, x, y, mirrored, _ = draws.unbind(1)
    length = (smallest + (1 - smallest) * share).sqrt()
    stretch = torch.exp(_between(shape, -0.15, 0.15))  # sides up to 1.35 : 1 of the picture's own
    width, height = (length * stretch).clamp(max=1), (length / stretch).clamp(max=1)
    theta = torch.zeros(len(draws), 2, 3, device=draws.device)
    theta[:, 0, 0] = width * torch.where(mirrored < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * _between(x, -1, 1)
    theta[:, 1, 2] = (1 - height) * _between(y, -1, 1)
    # If the crop is reduced, sample it at twice the side and average, so fine detail doesn't alias.
    over = 2 if photographs.shape[-1] * math.sqrt(smallest) > 1.25 * side else 1
    grid = functional.affine_grid(
        theta, [len(draws), 3, over * side, over * side], align_corners=False
    )
    parts = functional.grid_sample(
        photographs.float() / 255, grid, padding_mode="border", align_corners=False
    )
    return functional.avg_pool2d(parts, over).clamp(0, 1)


def on_plate(rgb: Tensor, draws: Tensor) -> Tensor:
    """Compute the L that a plate blind to red, or to all but blue, would have recorded.

    Until about 1930 most photographs were taken so: red is dark in them, and a blue sky white. A
    network that only ever saw the eye's own L leaves such skies grey.

    Args:
        rgb: (B, 3, S, S) sRGB, 0..1.
        draws: (B, 2).

    Returns:
        (B, 1, S, S) L, 0..100.
    """
    red = _between(draws[:, 0], 0, 0.12)
    blue = (1 - red) * _between(draws[:, 1], 0.25, 1) ** 1.5
    weights = torch.stack([red, 1 - red - blue, blue], dim=1)
    grey = torch.einsum("bc,bchw->bhw", weights, _linear(rgb))[:, None]
    return (116 * _root(grey) - 16).clamp(0, 100)


def mount(lightness: Tensor, ab: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Lay some photographs on a grey card, with or without grain, whose true ab is 0.

    Scans include their mounts, and a network that has never seen one colours it.
    """
    chosen = (draws[:, 0] < share).nonzero()[:, 0]
    if not len(chosen):
        return lightness, ab
    lightness, ab = lightness.clone(), ab.clone()
    side = lightness.shape[-1]
    for i in chosen.tolist():
        margin = max(1, round(side * float(_between(draws[i, 1], 0.06, 0.25))))
        inner = [side - 2 * margin] * 2
        small = functional.interpolate(
            torch.cat([lightness[i], ab[i]])[None], size=inner, mode="bilinear", antialias=True
        )[0]
        grain = _noise(lightness[i], draws[i, 4]) * 3 * draws[i, 3]
        lightness[i] = (100 * draws[i, 2] + grain).clamp(0, 100)
        ab[i] = 0
        inside = slice(margin, side - margin)
        lightness[i, :, inside, inside], ab[i, :, inside, inside] = small[:1], small[1:]
    return lightness, ab


def age(lightness: Tensor, draws: Tensor) -> Tensor:
    """Tone, fade, blur, grain and compress L, as time, lenses and scanners do.

    Args:
        lightness: (B, 1, S, S), 0..100.
        draws: (B, 15), on the CPU.
    """
    there = draws.to(lightness.device, non_blocking=True)
    u = [column.view(-1, 1, 1, 1) for column in there.unbind(1)]
    x = (lightness / 100).clamp(0, 1) ** torch.exp(_between(u[0], -0.4, 0.4))  # exposure
    x = torch.where(u[1] < 0.3, tone(x, there[:, 1] / 0.3), x)
    # A flat negative, or a print in a dim light
    middle = _between(u[3], 0.35, 0.65)
    x = torch.where(u[2] < 0.2, middle + _between(u[2] / 0.2, 0.3, 0.7) * (x - middle), x)
    # Lenses, fingers and damp leave no wall evenly bright.
    shade = _coarse_noise(x, draws[0, 12], 4, "bicubic") * _between(u[11] / 0.4, 0.02, 0.2)
    x = torch.where(u[11] < 0.4, x * torch.exp(shade), x)
    low, high = _between(u[4], 0, 0.2), _between(u[5], 0.75, 1)  # faded blacks and whites
    x = low + (high - low) * x
    x = torch.where(u[6] < 0.5, blur(x, _between(u[6] / 0.5, 0.3, 1.5)), x)
    grain = _noise(x, draws[0, 8]) * _between(u[7] / 0.6, 0.005, 0.07)
    x = torch.where(u[7] < 0.6, x + grain, x)
    coarse = _coarse_noise(x, draws[0, 14], x.shape[-1] // 2) * _between(u[13] / 0.25, 0.01, 0.07)
    x = torch.where(u[13] < 0.25, x + coarse, x).clamp(0, 1)
    # Scans, and copies of copies
    compressed = (draws[:, 9] < 0.3).nonzero()[:, 0].to(x.device, non_blocking=True)
    if len(compressed):
        x = x.clone()
        x[compressed] = compress(x[compressed], _between(there[compressed, 10], 15, 70))
    return (x * 100).clamp(0, 100)


def tone(x: Tensor, draws: Tensor) -> Tensor:
    """Lightness, (B, 1, S, S), 0..1, of a sepia print: brown ink on yellowed paper.

    The network only sees lightness, in which toning is a curve from brown silver to paper that is
    no longer white.
    """
    steps = torch.linspace(0, 1, 64, device=x.device)
    mix = draws.clamp(0, 1)[:, None]
    dark, bright = _sepia(x.device)
    ink = dark[0] + mix * (dark[1] - dark[0])  # (B, 3)
    paper = bright[0] + mix * (bright[1] - bright[0])
    colours = ink[..., None] + steps * (paper - ink)[..., None]  # (B, 3, 64)
    curve = rgb_to_lab(colours[..., None] / 255)[0][:, 0, :, 0] / 100  # (B, 64)
    place = x.clamp(0, 1) * 63
    left = place.long().clamp(max=62)
    low = curve.gather(1, left.flatten(1)).view_as(x)
    high = curve.gather(1, left.flatten(1) + 1).view_as(x)
    return low + (place - left) * (high - low)


# sRGB of the palest and the strongest sepia: ink and paper.
_INK = ((70.0, 45.0, 25.0), (20.0, 10.0, 0.0))
_PAPER = ((220.0, 200.0, 150.0), (255.0, 240.0, 215.0))


@lru_cache(maxsize=2)
def _sepia(device: torch.device) -> tuple[Tensor, Tensor]:
    """_INK and _PAPER on a device."""
    return torch.tensor(_INK, device=device), torch.tensor(_PAPER, device=device)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each of (B, 1, S, S) by a Gaussian of its own sigma, (B, 1, 1, 1) pixels, up to 1.5."""
    steps = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma.view(-1, 1) ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    y = functional.pad(x.transpose(0, 1), (4, 4, 4, 4), mode="replicate")
    y = functional.conv2d(y, kernel.view(-1, 1, 1, 9), groups=len(x))
    return functional.conv2d(y, kernel.view(-1, 1, 9, 1), groups=len(x)).transpose(0, 1)


def compress(x: Tensor, quality: Tensor) -> Tensor:
    """Quantize (B, 1, S, S) lightness, 0..1, as JPEG does, each picture with its own quality.

    Source: ITU-T T.81, Annex K.1 (table of luminance), scaled as the IJG library scales it.
    """
    side = x.shape[-1]
    dct, table = _jpeg(x.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    steps = (table * scale.view(-1, 1, 1, 1, 1)).round().clamp(1, 255)
    blocks = (255 * x - 128).view(len(x), side // 8, 8, side // 8, 8).permute(0, 1, 3, 2, 4)
    cosines = torch.round(dct @ blocks @ dct.T / steps) * steps
    blocks = (dct.T @ cosines @ dct).permute(0, 1, 3, 2, 4)
    return ((blocks.reshape_as(x) + 128) / 255).clamp(0, 1)


@lru_cache(maxsize=2)
def _jpeg(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 8 x 8 cosine transform, and the steps of luminance at quality 50, on a device."""
    i = torch.arange(8, dtype=torch.float32)
    dct = torch.cos((2 * i[None] + 1) * i[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=50)  # at which the table is not scaled
    file.seek(0)
    table = JpegImageFile(file).quantization[0]
    return dct.to(device), torch.tensor(table, dtype=torch.float32, device=device).view(8, 8)


def _noise(like: Tensor, seed: Tensor) -> Tensor:
    """Gaussian noise of this shape, from a number in 0..1; each kind of device draws its own."""
    generator = torch.Generator(like.device).manual_seed(int(float(seed) * 2**24))
    return torch.randn(like.shape, generator=generator, device=like.device)


def _coarse_noise(like: Tensor, seed: Tensor, side: int, mode: str = "bilinear") -> Tensor:
    """Gaussian noise on a grid of `side` x `side`, enlarged to this shape."""
    small = _noise(like[..., :1, :1].expand(-1, -1, side, side), seed)
    return functional.interpolate(small, size=like.shape[-2:], mode=mode, align_corners=False)


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def rgb_to_lab(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) sRGB, 0..1 -> L (B, 1, H, W), 0..100, and ab (B, 2, H, W): as `lab` does it."""
    xyz = torch.einsum("ij,bjhw->bihw", _matrix(rgb.device), _linear(rgb))  # 1 for white
    x, y, z = _root(xyz).split(1, dim=1)
    return 116 * y - 16, torch.cat([500 * (x - y), 200 * (y - z)], dim=1)


def _linear(rgb: Tensor) -> Tensor:
    return torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def _root(xyz: Tensor) -> Tensor:
    """Lab's cube root with its straight foot."""
    delta = 6 / 29
    straight = xyz / (3 * delta**2) + 4 / 29
    return torch.where(xyz > delta**3, xyz.clamp(min=1e-6) ** (1 / 3), straight)


def lab_to_rgb(lightness: Tensor, ab: Tensor) -> Tensor:
    """L (B, 1, H, W) and ab (B, 2, H, W) -> (B, 3, H, W) sRGB, clipped to 0..1."""
    y = (lightness + 16) / 116
    roots = torch.cat([y + ab[:, :1] / 500, y, y - ab[:, 1:] / 200], dim=1)
    delta = 6 / 29
    xyz = torch.where(roots > delta, roots**3, 3 * delta**2 * (roots - 4 / 29))
    inverse = torch.linalg.inv(_matrix(torch.device("cpu"))).to(roots.device)
    linear = torch.einsum("ij,bjhw->bihw", inverse, xyz).clamp(1e-5, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


@lru_cache(maxsize=2)
def _matrix(device: torch.device) -> Tensor:
    matrix = lab.RGB_TO_XYZ / lab.WHITE[:, None]
    return torch.tensor(matrix, dtype=torch.float32, device=device)
