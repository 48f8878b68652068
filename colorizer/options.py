"""What a person may choose for one picture, as text on the way in.

Both servers take options as request headers X-Colorize-NAME; TorchServe also as form fields, and
Triton also as request parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from colorizer.gamut import DECODINGS, Decoding
from colorizer.image import BadOption, OutputOptions

HEADER = "x-colorize-"  # X-Colorize-Format: png
MOST_VARIANTS = 8

_WHOLE, _DECIMAL = r"[0-9]{1,20}", r"[0-9]{0,20}\.?[0-9]{1,20}([eE][+-]?[0-9]{1,2})?"

Show = Literal["colour", "uncertainty"]


@dataclass(frozen=True)
class Options:
    """What a person may choose for one picture; None leaves it to the graph.

    Attributes:
        output: format and quality.
        keep_metadata: whether the picture's EXIF, place and time in it, comes back with it.
        chroma: factor on colour, 0..3; 0 gives the grey photograph.
        show: the coloured photograph, or how unsure a classification head was of each place.
        decoding: of a classification head, one of gamut.DECODINGS.
        temperature: of a classification head's annealed mean and samples, 0.01..10.
        seed: of samples, 0..2**53 - 1; of the first one, where there are several.
        variants: how many samples of a classification head, 1..MOST_VARIANTS.
    """

    output: OutputOptions = field(default_factory=OutputOptions)
    keep_metadata: bool = False
    chroma: float = 1.0
    show: Show = "colour"
    decoding: Decoding | None = None
    temperature: float | None = None
    seed: int = 0
    variants: int = 1

    @property
    def are_a_classifiers(self) -> bool:
        """Whether only a classification head can do what these ask for."""
        asked = self.decoding is not None or self.temperature is not None
        return asked or self.variants > 1 or self.show == "uncertainty"

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Options:
        """Read options from text, by the names in NAMES.

        Raises:
            BadOption: on a name that does not exist or a value that is not allowed.
        """
        for name in values:
            if name not in NAMES:
                raise BadOption(f"there is no option {name!r:.40}; known are {', '.join(NAMES)}.")
        output: dict[str, Any] = {}
        if "format" in values:
            output["format"] = {"jpg": "jpeg"}.get(values["format"].lower(), values["format"])
        if "quality" in values:
            output["quality"] = _number(values, "quality", int, 1, 100)
        chosen: dict[str, Any] = {"output": OutputOptions(**output)}
        if "metadata" in values:
            chosen["keep_metadata"] = _word(values, "metadata", ("strip", "keep")) == "keep"
        if "show" in values:
            chosen["show"] = _word(values, "show", get_args(Show))
        if "decoding" in values:
            chosen["decoding"] = _word(values, "decoding", DECODINGS)
        if "chroma" in values:
            chosen["chroma"] = _number(values, "chroma", float, 0, 3)
        if "temperature" in values:
            chosen["temperature"] = _number(values, "temperature", float, 0.01, 10)
        if "seed" in values:  # JSON's numbers are whole up to here, so any client can say it
            chosen["seed"] = _number(values, "seed", int, 0, 2**53 - 1)
        if "variants" in values:
            chosen["variants"] = _number(values, "variants", int, 1, MOST_VARIANTS)
            if chosen["variants"] > 1 and chosen.setdefault("decoding", "sample") != "sample":
                raise BadOption("variants are samples; leave decoding out, or use decoding=sample.")
        if chosen.get("show") == "uncertainty" and {"decoding", "variants"} & set(values):
            raise BadOption("show=uncertainty has no decoding and no variants; leave them out.")
        return cls(**chosen)


NAMES = (
    *("format", "quality", "metadata", "chroma", "show"),
    *("decoding", "temperature", "seed", "variants"),
)


def from_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pick the options among request headers, for `Options.parse`."""
    return {
        name.lower().removeprefix(HEADER): value
        for name, value in headers
        if name.lower().startswith(HEADER)
    }


def _word(values: Mapping[str, str], name: str, allowed: Iterable[str]) -> str:
    if values[name] not in allowed:
        raise BadOption(f"{name} is {values[name]!r:.40}; use {', '.join(allowed)}.")
    return values[name]


def _number(values: Mapping[str, str], name: str, kind: type, low: float, high: float) -> Any:
    whole = kind is int
    if re.fullmatch(_WHOLE if whole else _DECIMAL, values[name]):  # Python's own take more: "1_0"
        number = kind(values[name])
        if low <= number <= high:
            return number
    what = "a whole number" if whole else "a number"
    raise BadOption(f"{name} is {values[name]!r:.40}; use {what} from {low} to {high}.")
