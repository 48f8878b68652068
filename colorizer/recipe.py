"""What it takes to use a network: a checkpoint, a graph and an evaluation each hold a `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Head = Literal["regression", "classification"]
Decoding = Literal["mode", "mean", "annealed-mean", "sample"]
Name = Literal["torchscript", "onnx", "onnx-int8", "tensorrt", "tensorrt-rtx"]  # of an engine
HEADS: tuple[Head, ...] = get_args(Head)
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Recipe:
    """How a network is fed and how its output becomes colour.

    Attributes:
        head: "regression" outputs ab; "classification" logits over bins of ab.
        side: S, the side of the square copy of L that the network sees; a multiple of 32.
        bins: (Q, 2), the bins' ab, in the order of the logits; empty for regression.
        decoding: of the classification head, unless a request says otherwise (`gamut.decode`).
        temperature: of "annealed-mean" and "sample"; above 0.
        cast: share of a picture's colour cast, its mean ab, that is kept (`gamut.uncast`).
        chroma_knee: chroma, in ab units, at which the network's ab is halved: the vivid is calmed
            more than the faint (`gamut.soften`); 0 for none.
        smoothing: how far colours are evened out, up to edges of L, as a share of S
            (`smooth.even`); 0 for not at all.
        chroma_gain: factor on ab when a picture is finished.

    Raises:
        ValueError: naming the first attribute whose value is not allowed.
    """

    head: Head = "regression"
    side: int = 224
    bins: tuple[tuple[float, float], ...] = ()
    decoding: Decoding = "annealed-mean"
    temperature: float = 0.38
    cast: float = 1.0
    chroma_knee: float = 0.0
    smoothing: float = 0.0
    chroma_gain: float = 1.0

    @property
    def channels(self) -> int:
        """How many channels of the output are colours; those after them tell what is alike."""
        return len(self.bins) or 2

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r:.40}; known are {', '.join(HEADS)}")
        if self.decoding not in DECODINGS:
            raise ValueError(f"decoding is {self.decoding!r:.40}; known are {', '.join(DECODINGS)}")
        if type(self.side) is not int or self.side < 32 or self.side % 32:
            raise ValueError(f"side is {self.side!r:.40}; it must be a multiple of 32")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r:.40}; it must be above 0")
        if not 0 <= self.cast <= 1:
            raise ValueError(f"cast is {self.cast!r:.40}; it must be from 0 to 1")
        if not self.chroma_knee >= 0:
            raise ValueError(f"chroma_knee is {self.chroma_knee!r:.40}; it must not be below 0")
        if not self.smoothing >= 0:
            raise ValueError(f"smoothing is {self.smoothing!r:.40}; it must not be below 0")
        if not self.chroma_gain >= 0:
            raise ValueError(f"chroma_gain is {self.chroma_gain!r:.40}; it must not be below 0")
        if bool(self.bins) != (self.head == "classification"):
            raise ValueError(f"a {self.head} network has {len(self.bins)} bins")
        if any(len(centre) != 2 for centre in self.bins):
            raise ValueError("a bin's centre is not a pair of a and b")
