"""Settings of a training run: defaults <- a preset file <- the command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from colorizer.errors import UserError
from colorizer.recipe import Head
from evaluation.photographs import HELD_OUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


class BadConfig(UserError):
    """A setting that does not exist, or a value that it cannot have."""


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Attributes:
        head: "regression", "classification", or "both" on one trunk; or "same", that of the
            checkpoint to start from, with all that belongs to it: its rebalancing, adjustment,
            huber, temperature and gain.
        side: side of the training crops, in pixels, a multiple of 32.
        late_side: side for the last part of the run, 0 for the same throughout.
        late: share of the run that this last part is.
        stored: side that photographs are squashed to when they are read; crops come from there.
        batch: photographs a step, in each process.
        steps: optimizer steps in all.
        minutes: length of the run by the clock instead of by steps, 0 for steps. Such a run can be
            resumed, but not repeated to the bit.
        chunk: steps between checkpoints, and between measurements on the held-out photographs.
        learning_rate: its peak; a linear warm-up leads there and a cosine back to nothing.
        encoder_lr_scale: the encoder's learning rate as a share of learning_rate, 0 to leave its
            weights as they came; they are trained already, so a low one.
        unfreeze: steps until the encoder joins in, when the decoder no longer pulls at random.
        warmup: steps of the warm-up.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        ema: decay of the weights' moving average, which is what a checkpoint holds.
        precision: "32", "bf16", "16" (a GPU), or "auto": the fastest of a few steps in each.
        adapt_norm: whether the encoder's batch norm measures its statistics anew on the crops,
            which are grey and small, as ImageNet's pictures were not.
        rebalance: lambda of the rebalancing weights, 1 for none (Zhang 2016: 0.5).
        adjustment: share of the rebalancing that is taken back from the logits (classification).
        huber: where Huber's loss turns from square to straight, in ab units (regression,
            "both").
        crop: smallest share of a photograph's area that a crop takes.
        degrade: share of the crops whose L is faded, blurred or grained as in old photographs.
        plates: share of the crops whose L is what an early plate, blind to red, would record.
        mounts: share of the crops that lie on a grey card.
        temperature: of the annealed mean that the checkpoint is served with (classification).
        chroma_gain: factor on ab that it is served with.
        validation: share of the photographs held out, by the hash of their content.
        min_colorfulness: colorfulness (M3) below which a photograph is not trained on, as it
            teaches pale colours; held out it may be.
        patience: chunks without a better loss on the held-out photographs until training stops
            and takes the best weights; 0 for never.
        seed: of crops, order and initial weights.
    """

    head: Head | Literal["both", "same"] = "regression"
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
    chroma_gain: float = 1.0
    validation: float = HELD_OUT
    min_colorfulness: float = 15.0
    patience: int = 0
    seed: int = 0

    def override(self, values: Mapping[str, Any]) -> TrainConfig:
        """Replace some settings.

        Raises:
            BadConfig: on an unknown key (naming the nearest), or a value of the wrong type or
                outside its range.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        for key, value in values.items():
            if key not in settings:
                near = get_close_matches(key, settings, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; use {', '.join(settings)}"
                raise BadConfig(f"unknown setting {key!r}{hint}")
            wanted = type(settings[key])
            whole = wanted is float and isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not wanted and not whole:
                raise BadConfig(f"{key} must be {wanted.__name__}, not {value!r}")
            choices = _choices(get_type_hints(type(self))[key])
            if choices and value not in choices:
                words = " or ".join(map(repr, choices))
                raise BadConfig(f"{key} must be {words}, not {value!r}")
            if key in ("side", "late_side") and (
                value % 32 or value < 0 or (key == "side" and not value)
            ):
                raise BadConfig(f"{key} must be a multiple of 32, not {value}")
            low, high = RANGES.get(key, (-math.inf, math.inf))
            if isinstance(value, (int, float)) and not low <= value <= high:
                raise BadConfig(f"{key} must be from {low:g} to {high:g}, not {value!r}")
        return replace(self, **values)


# Of settings that are numbers: what makes sense at all.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("side", "stored"), (32, 1024)),
    **dict.fromkeys(("batch", "steps", "chunk"), (1, math.inf)),
    **dict.fromkeys(
        ("late_side", "minutes", "unfreeze", "warmup", "weight_decay", "patience", "seed"),
        (0, math.inf),
    ),
    **dict.fromkeys(("min_colorfulness", "encoder_lr_scale"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "clip", "huber"), (1e-9, math.inf)),
    **dict.fromkeys(
        ("late", "ema", "rebalance", "adjustment", "degrade", "plates", "mounts"), (0, 1)
    ),
    "crop": (0.01, 1),
    "validation": (0, 0.9),
    "temperature": (0.01, 10),
    "chroma_gain": (0, 3),
}


def _choices(kind: Any) -> tuple[str, ...]:
    """The words of a Literal, or of a union of them; none of another type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _choices(part))


def read_preset(name: str) -> TrainConfig:
    """Read `training/presets/NAME.toml`, or the file of that path.

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
