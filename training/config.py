"""Settings of a training run: defaults, then a preset file, then the command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from colorizer.errors import UserError
from evaluation.photographs import HELD_OUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


class BadConfig(UserError):
    """A setting that does not exist, or a value that it can't have."""


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Attributes:
        head: "regression", "classification", or "both" on one trunk; or "same": the head of the
            checkpoint to start from, with its rebalancing, adjustment and huber, served as it.
        side: side of the training crops, in pixels, a multiple of 32.
        late_side: side in the last part of the run; 0 keeps `side`.
        late: share of the run that the last part is.
        stored: side of the square that photographs are squashed to when read, before cropping.
        batch: photographs a step, in each process.
        steps: optimizer steps in all.
        minutes: length of the run by the clock instead of by steps; 0 for steps. Such a run can be
            resumed, but not reproduced exactly.
        chunk: steps between checkpoints, and between validations.
        learning_rate: its peak, after a linear warm-up and before a cosine decay to 0.
        encoder_lr_scale: the encoder's learning rate, as a share of learning_rate; low, since the
            encoder is trained already. 0 freezes it.
        unfreeze: steps until the encoder learns too, so that a random decoder doesn't spoil it.
        warmup: steps of the warm-up.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        ema: decay of the weights' moving average, which is what a checkpoint holds.
        precision: "32", "bf16", "16" (on a GPU), or "auto": the fastest, as timed over a few steps.
        adapt_norm: whether the encoder's batch norm measures its statistics anew, as the crops are
            grey and small, unlike ImageNet's pictures.
        rebalance: lambda of the rebalancing weights, 1 for none (Zhang 2016: 0.5).
        adjustment: share of the rebalancing that is taken back from the logits (classification).
        huber: where Huber's loss turns from square to linear, in ab units (regression, "both").
        crop: smallest share of a photograph's area that a crop takes.
        degrade: share of the crops whose L is faded, blurred or grained as in old photographs.
        plates: share of the crops whose L is what an early plate, blind to red, would record.
        mounts: share of the crops that lie on a grey card.
        temperature: of the annealed mean, in the checkpoint's recipe (classification).
        smoothing: how far colours are evened out, in the checkpoint's recipe.
        chroma_gain: factor on ab, in the checkpoint's recipe.
        validation: share of the photographs held out, by the hash of their content.
        min_colorfulness: photographs of less colorfulness (M3) are not trained on, as they teach
            pale colours, nor, unless this is 0, are those of a single hue; they may be held out.
        seed: of crops, order and initial weights.
    """

    head: Literal["regression", "classification", "both", "same"] = "regression"
    side: int = 128
    late_side: int = 0
    late: float = 0.3
    stored: int = 160
    batch: int = 16
    steps: int = 2000
    minutes: float = 0.0
    chunk: int = 100
    learning_rate: float = 1e-3
    encoder_lr_scale: float = 0.1
    unfreeze: int = 500
    warmup: int = 100
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.99
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    adapt_norm: bool = True
    rebalance: float = 0.5
    adjustment: float = 0.4
    huber: float = 10.0
    crop: float = 0.55
    degrade: float = 0.4
    plates: float = 0.0
    mounts: float = 0.05
    temperature: float = 0.3
    smoothing: float = 0.5
    chroma_gain: float = 1.0
    validation: float = HELD_OUT
    min_colorfulness: float = 15.0
    seed: int = 0

    def override(self, values: Mapping[str, Any]) -> TrainConfig:
        """Replace some settings.

        Raises:
            BadConfig: if a key is unknown, or a value has a wrong type or is out of range.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        types = get_type_hints(type(self))
        for key, value in values.items():
            if key not in settings:
                near = get_close_matches(key, settings, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; use {', '.join(settings)}"
                raise BadConfig(f"unknown setting {key!r}{hint}")
            wanted = type(settings[key])
            if type(value) not in ((int, float) if wanted is float else (wanted,)):
                raise BadConfig(f"{key} must be {wanted.__name__}, not {value!r}")
            choices = get_args(types[key])
            if choices and value not in choices:
                raise BadConfig(f"{key} must be {' or '.join(map(repr, choices))}, not {value!r}")
            low, high = RANGES.get(key, (None, None))
            if low is not None and not low <= value <= high:
                raise BadConfig(f"{key} must be from {low:g} to {high:g}, not {value!r}")
            if key.endswith("side") and value % 32:
                raise BadConfig(f"{key} must be a multiple of 32, not {value}")
        return replace(self, **values)


RANGES: dict[str, tuple[float, float]] = {  # of the numbers
    **dict.fromkeys(("side", "stored"), (32, 1024)),
    "late_side": (0, 1024),
    **dict.fromkeys(("batch", "steps", "chunk"), (1, math.inf)),
    **dict.fromkeys(("minutes", "unfreeze", "warmup", "weight_decay", "seed"), (0, math.inf)),
    **dict.fromkeys(("min_colorfulness", "encoder_lr_scale"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "clip", "huber"), (1e-9, math.inf)),
    **dict.fromkeys(
        ("late", "ema", "rebalance", "adjustment", "degrade", "plates", "mounts"), (0, 1)
    ),
    "crop": (0.01, 1),
    "validation": (0, 0.9),
    "temperature": (0.01, 10),
    "smoothing": (0, 10),
    "chroma_gain": (0, 3),
}


def read_preset(name: str) -> TrainConfig:
    """Read `training/presets/NAME.toml`, or any .toml file by its path.

    Raises:
        BadConfig: if there is no such preset, or it does not parse.
    """
    path = PRESETS / f"{name}.toml" if not name.endswith(".toml") else Path(name)
    try:
        return TrainConfig().override(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise BadConfig(f"no preset {name!r}; there are: {names}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path} is not TOML: {error}") from None
