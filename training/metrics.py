"""How far from the truth, and how colourful: the measures of the field, each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from colorizer import gamut
from training.losses import rebalancing_weights

UInt8 = NDArray[np.uint8]

THRESHOLDS = 151  # AuC's: ab errors of 0, 1 ... 150 (Zhang 2016, section 3.1)


def colorfulness(rgb: UInt8) -> float:
    """Measure how colourful a picture is: 0 for grey, about 50 for a lively photograph.

    Source: Hasler, Suesstrunk 2003, "Measuring colourfulness in natural images", metric M3, on
    signed opponent channels.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = np.hypot(rg.std(), yb.std())
    return float(spread + 0.3 * np.hypot(rg.mean(), yb.mean()))


@dataclass
class Scores:
    """Measures of one method, gathered picture by picture.

    Attributes:
        psnr: of each picture, over sRGB, in dB.
        delta_e: of each picture, the mean CIEDE2000 difference.
        colourfulness: of each picture.
        truth: colorfulness of each true picture.
        errors: (Q, THRESHOLDS) pixels by their true colour's bin and their ab error, rounded up.
    """

    psnr: list[float] = field(default_factory=list)
    delta_e: list[float] = field(default_factory=list)
    colourfulness: list[float] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    errors: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(gamut.bins()), THRESHOLDS), np.int64)
    )

    def add(self, found: UInt8, truth: UInt8) -> None:
        """Take in one picture and its truth, both (H, W, 3) uint8."""
        found_lab, true_lab = rgb2lab(found), rgb2lab(truth)
        with np.errstate(divide="ignore"):
            self.psnr.append(min(100.0, float(peak_signal_noise_ratio(truth, found))))
        self.delta_e.append(float(deltaE_ciede2000(true_lab, found_lab).mean()))
        self.colourfulness.append(colorfulness(found))
        self.truth.append(colorfulness(truth))
        ab = torch.from_numpy(true_lab[..., 1:].astype(np.float32)).movedim(-1, 0)[None]
        index = gamut.encode(ab).numpy().ravel()
        error = np.hypot(*np.moveaxis(found_lab[..., 1:] - true_lab[..., 1:], -1, 0)).ravel()
        level = np.minimum(np.ceil(error).astype(np.int64), THRESHOLDS - 1)
        counts = np.bincount(index * THRESHOLDS + level, minlength=self.errors.size)
        self.errors += counts.reshape(self.errors.shape)

    def auc(self, balanced: bool = False) -> float:
        """Share of pixels within an ab error of t, averaged over t = 0...150.

        Args:
            balanced: weigh pixels by the inverse of their colour's share of all true pixels,
                smoothed (Zhang 2016, section 3.1: equation 4 with lambda = 0).
        """
        errors = self.errors.astype(np.float64)
        if balanced:
            prior = errors.sum(axis=1) / errors.sum()
            errors *= rebalancing_weights(prior, mix=0).numpy()[:, None]
        within = errors.sum(axis=0).cumsum()
        return float((within / within[-1]).mean())

    def row(self) -> dict[str, float]:
        """All measures: means over the pictures; AuC over all pixels."""
        cf, truth = np.array(self.colourfulness), np.array(self.truth)
        return {
            "PSNR": float(np.mean(self.psnr)),
            "ΔE00": float(np.mean(self.delta_e)),
            "CF": float(cf.mean()),
            "ΔCF": float(abs(cf.mean() - truth.mean())),
            "AuC": self.auc(),
            "balanced AuC": self.auc(balanced=True),
        }
