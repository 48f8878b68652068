"""Distance from the truth and colorfulness: the field's measures, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from colorizer import gamut, lab
from evaluation.bins import encode, rebalancing_weights
from evaluation.noticed import Seen, coloured_difference, kernel_terms
from evaluation.perceptual import Perceptual, frechet_distance

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float64]
Features = NDArray[np.float32]

THRESHOLDS = 151  # AuC's: ab errors of 0, 1 ... 150 (Zhang 2016, section 3.1)
CHROMA_STEP = 2  # width of the chroma histogram's columns, in ab units
CHROMA_COLUMNS = 67  # up to 134, which is more than sRGB holds
DRAWS = 1000  # of the bootstrap
# Columns of both tables, if they were measured
ORDER = (
    *("PSNR", "SSIM", "ΔE00", "CF", "ΔCF", "ΔCF each", "CF (DDColor)"),
    *("AuC", "balanced AuC", "LPIPS"),
)
NOTICED = (
    *("stains", "bleeding", "cast", "Δcast", "ΔE00 coloured", "KID × 1000"),
    *("other side", "mirrored", "mount chroma"),
)


def colorfulness(rgb: UInt8) -> float:
    """Measure how colourful a picture is: 0 for grey, about 50 for a vivid photograph.

    Source: Hasler, Suesstrunk 2003, "Measuring colourfulness in natural images", metric M3, on
    signed opponent channels.
    """
    return _colorfulness(*_opponents(rgb))


def ddcolor_colorfulness(rgb: UInt8) -> float:
    """Measure colorfulness as DDColor's published figures do.

    It takes the opponent channels' absolute values first, so a picture half red, half cyan is as
    colourful as one that is all red.

    Source: Kang et al. 2023, "DDColor", the code published with it.
    """
    rg, yb = _opponents(rgb)
    return _colorfulness(np.abs(rg), np.abs(yb))


def _opponents(rgb: UInt8) -> tuple[Float, Float]:
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    return red - green, (red + green) / 2 - blue


def _colorfulness(rg: Float, yb: Float) -> float:
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


class Truth:
    """A photograph with known colours, with what every comparison needs computed once."""

    def __init__(self, rgb: UInt8, perceptual: Perceptual | None = None) -> None:
        self.rgb = rgb  # (H, W, 3)
        self.perceptual = perceptual or Perceptual(())
        self.features = self.perceptual.features(rgb)
        self.lab = lab.rgb_to_lab(rgb)
        self.seen = Seen(self.lab)
        ab = torch.from_numpy(np.ascontiguousarray(self.lab[..., 1:])).movedim(-1, 0)[None]
        self.bins = encode(ab).numpy().ravel()  # (H * W,)
        self.pixels = np.bincount(self.bins, minlength=len(gamut.bins()))  # (Q,)
        self.values = {
            "CF": colorfulness(rgb),
            "CF (DDColor)": ddcolor_colorfulness(rgb),
            **self.seen.itself,
        }
        self.chroma = chroma_histogram(self.lab)


@dataclass(frozen=True)
class Measured:
    """One picture by one method, compared with its truth.

    Attributes:
        values: of the measures of single pictures, by the names of ORDER and NOTICED; NaN where
            one doesn't apply.
        truth: the same of the truth itself, where that makes sense.
        credit: (Q,) for each bin of the true colour, the sum over its pixels of the share of the
            thresholds 0, 1 ... 150 that their ab error is within.
        pixels: (Q,) true pixels of each bin.
        chroma: (CHROMA_COLUMNS,) pixels of the picture by chroma.
        features: of FID and KID, of the picture and of the truth, each (2048,).
    """

    values: Mapping[str, float]
    truth: Mapping[str, float]
    credit: Float
    pixels: NDArray[np.int64]
    chroma: NDArray[np.int64]
    features: Mapping[str, tuple[Features, Features]] = field(default_factory=dict)


def measure(found: UInt8, truth: Truth, more: Mapping[str, float] | None = None) -> Measured:
    """Compare a picture, (H, W, 3) uint8, with its truth; `more` is added to its values."""
    found_lab = lab.rgb_to_lab(found)
    with np.errstate(divide="ignore"):
        psnr = min(100.0, float(peak_signal_noise_ratio(truth.rgb, found)))
    error = found_lab[..., 1:] - truth.lab[..., 1:]
    level = np.minimum(np.ceil(np.hypot(error[..., 0], error[..., 1])), THRESHOLDS - 1).ravel()
    difference = deltaE_ciede2000(truth.lab, found_lab)
    colourful = colorfulness(found)
    values = {
        "PSNR": psnr,  # over sRGB, in dB, at most 100
        "SSIM": ssim(truth.rgb, found),
        "ΔE00": float(difference.mean(dtype=np.float64)),
        "CF": colourful,
        "ΔCF each": abs(colourful - truth.values["CF"]),
        "CF (DDColor)": ddcolor_colorfulness(found),
        **truth.perceptual.distances(found, truth.rgb),
        **truth.seen.compare(found_lab),
        "ΔE00 coloured": coloured_difference(difference, truth.lab),
        **(more or {}),
    }
    features = truth.perceptual.features(found)
    return Measured(
        values,
        truth.values,
        credit=np.bincount(
            truth.bins, weights=(THRESHOLDS - level) / THRESHOLDS, minlength=len(truth.pixels)
        ).astype(np.float64),
        pixels=truth.pixels,
        chroma=chroma_histogram(found_lab),
        features={name: (one, truth.features[name]) for name, one in features.items()},
    )


def ssim(truth: UInt8, found: UInt8) -> float:
    """Measure structural similarity, 1 for the same picture.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity", as scikit-image has it by default; float32 gives it to 6 digits in half the time.
    """
    pictures = truth.astype(np.float32), found.astype(np.float32)
    window = min(7, *(side - (side + 1) % 2 for side in truth.shape[:2]))  # odd, and inside
    given = {"win_size": window, "use_sample_covariance": window > 1}
    return float(structural_similarity(*pictures, channel_axis=-1, data_range=255, **given))


def chroma_histogram(planes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count the pixels of (H, W, 3) Lab by chroma, CHROMA_STEP units a column."""
    column = (np.hypot(planes[..., 1], planes[..., 2]) / CHROMA_STEP).astype(np.int64)
    return np.bincount(np.minimum(column, CHROMA_COLUMNS - 1).ravel(), minlength=CHROMA_COLUMNS)


@dataclass
class Scores:
    """Measures of one method over photographs, with intervals.

    Most measures are means over pictures; AuC is over all pixels. Intervals come from a bootstrap
    over pictures, since pixels of one picture are not independent. FID has none: it falls with the
    number of different pictures, and a resample has fewer.
    """

    pictures: list[Measured] = field(default_factory=list)

    def per_picture(self) -> dict[str, Float]:
        """The measures of single pictures, each (N,); NaN where one doesn't apply."""
        values = {
            name: np.array([p.values.get(name, np.nan) for p in self.pictures])
            for name in (*ORDER, *NOTICED)
        }
        return {name: of for name, of in values.items() if np.isfinite(of).any()}

    def features(self, name: str) -> tuple[Features, Features] | None:
        """(N, F) features of the pictures and of their truths; None of fewer than two pictures."""
        pairs = [p.features[name] for p in self.pictures if name in p.features]
        if len(pairs) < 2:
            return None
        found, truth = (np.array(side) for side in zip(*pairs, strict=True))
        return found, truth

    def statistics(self) -> dict[str, Callable[[Float], Float]]:
        """Every measure, as a function of how often each picture counts: (R, N) -> (R,).

        ΔCF is the difference of the mean colorfulness of all pictures and of all truths, as in
        published tables; pale and loud pictures cancel. They don't in "ΔCF each", the mean of each
        picture's own absolute difference.
        """
        values = self.per_picture()
        off = np.array([p.values["CF"] - p.truth["CF"] for p in self.pictures])
        credit = np.array([p.credit for p in self.pictures])  # (N, Q)
        pixels = np.array([p.pixels for p in self.pictures], np.float64)

        def mean_of(measured: Float) -> Callable[[Float], Float]:
            known = np.isfinite(measured)

            def mean(counts: Float) -> Float:
                drawn = counts[:, known]
                times = drawn.sum(axis=1)  # 0: drawn without any that has it
                return np.asarray(drawn @ measured[known] / np.where(times > 0, times, np.nan))

            return mean

        def auc(counts: Float) -> Float:
            return np.asarray((counts @ credit).sum(axis=1) / (counts @ pixels).sum(axis=1))

        def balanced(counts: Float) -> Float:
            return np.array(
                [balanced_auc(c, p) for c, p in zip(counts @ credit, counts @ pixels, strict=True)]
            )

        found = {name: mean_of(measured) for name, measured in values.items()}
        found["ΔCF"] = lambda counts: np.abs(mean_of(off)(counts))
        found |= {"AuC": auc, "balanced AuC": balanced}
        if pooled := self.features("KID × 1000"):
            terms = kernel_terms(*pooled)

            def kernel_distance(counts: Float) -> Float:
                # A picture drawn twice is not a pair.
                pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
                total = ((counts @ terms) * counts).sum(axis=1)
                return np.asarray(1000 * total / np.where(pairs > 0, pairs, np.nan))

            found["KID × 1000"] = kernel_distance
        return {name: found[name] for name in (*ORDER, *NOTICED) if name in found}

    def row(self) -> dict[str, float]:
        """All measures."""
        once = np.ones((1, len(self.pictures)))
        row = {name: float(of(once)[0]) for name, of in self.statistics().items()}
        return row if self.fid is None else row | {"FID": self.fid}

    @cached_property
    def fid(self) -> float | None:
        """Fréchet inception distance of the pictures and the truths; None without its network."""
        features = self.features("FID")
        return None if features is None else frechet_distance(*features)

    def intervals(self, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
        """95% interval of each measure: percentiles over resampled pictures.

        The draws are the same for every method measured on as many pictures, so intervals of two
        methods are comparable.

        Source: Efron, Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
        """
        n = len(self.pictures)
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), draws).astype(float)
        low_high = {
            name: np.nanpercentile(of(counts), (2.5, 97.5))
            for name, of in self.statistics().items()
        }
        return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}

    def chroma(self) -> NDArray[np.int64]:
        """(CHROMA_COLUMNS,) pixels of all pictures by chroma."""
        return np.asarray(np.sum([p.chroma for p in self.pictures], axis=0), np.int64)


def balanced_auc(credit: Float, pixels: Float) -> float:
    """AuC with each pixel weighted by the inverse of its colour's smoothed share of all pixels.

    Args:
        credit: (Q,) of `Measured`, summed over pictures.
        pixels: (Q,) likewise.

    Source: Zhang 2016, section 3.1: the weights of equation 4 with lambda = 0.
    """
    weights = rebalancing_weights(pixels / pixels.sum(), mix=0).numpy().astype(np.float64)
    return float(weights @ credit / (weights @ pixels))
