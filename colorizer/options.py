"""The options of one picture: the one table that servers, commands, page and documents use.

Both servers take options as request headers X-Colorize-NAME; TorchServe also as form fields, and
Triton also as request parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from colorizer.errors import BadOption
from colorizer.recipe import DECODINGS, Decoding

if TYPE_CHECKING:  # they need numpy and Pillow, which a command's --help does without
    from colorizer.hints import Hint
    from colorizer.icc import Profile
    from colorizer.image import Bits, Format, OutputOptions

HEADER = "x-colorize-"  # X-Colorize-Format: png

_FORMATS = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff"}  # as people write them too
_WHOLE, _DECIMAL = r"[0-9]{1,20}", r"[0-9]{0,20}\.?[0-9]{1,20}([eE][+-]?[0-9]{1,2})?"


@dataclass(frozen=True)
class Option:
    """One row of the table.

    Attributes:
        name: of the option, and of its attribute in `Options`.
        help: one line that a person reads.
        default: None leaves the choice to the network.
        choices: the words allowed; empty for anything else.
        low: the least number allowed.
        high: the largest.
        whole: whether the number must be whole.
        kind: of what is neither words nor a number: "hints" or "place".
        needs_classifier: whether any other value than the default needs a classification network.
    """

    name: str
    help: str
    default: str | float | None
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    whole: bool = False
    kind: Literal["hints", "place"] | None = None
    needs_classifier: bool = False

    @property
    def allowed(self) -> str:
        """Say which values are allowed."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind:
            return {"hints": "a list in JSON", "place": "x,y, each from 0 to 1"}[self.kind]
        return f"{'a whole number' if self.whole else 'a number'} from {self.low} to {self.high}"

    def parse(self, text: str) -> Any:
        """Read a value; upper and lower case are alike.

        Raises:
            BadOption: if the value is not allowed.
        """
        if self.kind == "hints":
            from colorizer import hints

            return hints.parse(text)
        if self.kind == "place":
            if re.fullmatch(f"{_DECIMAL},{_DECIMAL}", text):
                x, y = map(float, text.split(","))
                if x <= 1 and y <= 1:
                    return x, y
        elif self.choices:
            word = text.strip().lower()
            word = _FORMATS.get(word, word) if self.name == "format" else word
            if word in self.choices:
                return word
        elif re.fullmatch(_WHOLE if self.whole else _DECIMAL, text):  # Python's own take "1_0"
            number = int(text) if self.whole else float(text)
            if self.low <= number <= self.high:
                return number
        raise BadOption(f"{self.name} is {text!r:.40}; use {self.allowed}.")


OPTIONS = (
    Option("format", "file format of the result", "jpeg", ("jpeg", "png", "webp", "tiff")),
    Option("quality", "of JPEG and WebP", 92, low=1, high=100, whole=True),
    Option(
        "bits",
        "of each sample, for PNG and TIFF; same: 16 for a photograph of more than 8",
        "8",
        ("8", "16", "same"),
    ),
    Option(
        "profile",
        "colour space; the wider ones keep colours that sRGB lacks",
        "srgb",
        ("srgb", "display-p3", "adobe-rgb"),
    ),
    Option("compression", "of TIFF", "deflate", ("deflate", "none")),
    Option(
        "metadata",
        "keep the photograph's EXIF, place and time included, or strip it",
        "strip",
        ("strip", "keep"),
    ),
    Option(
        "provenance",
        "record in the file that it was coloured by machine, by which model and from what",
        "no",
        ("no", "yes"),
    ),
    Option("chroma", "strength of the colours; 0 is grey", 1.0, low=0, high=3),
    Option("hints", "colours that a person knows of places in the picture", None, kind="hints"),
    Option(
        "spread",
        "how far a hint's colour reaches, in shorter sides; 0: its place alone, 1: far",
        0.5,
        low=0,
        high=1,
    ),
    Option(
        "likely",
        "name the likely colours of a place instead of colouring, in JSON",
        None,
        kind="place",
    ),
    Option(
        "show",
        "the coloured photograph, or a map of how unsure the network was (white: most)",
        "colour",
        ("colour", "uncertainty"),
        needs_classifier=True,
    ),
    Option(
        "decoding",
        "how one colour is made of the many that are likely",
        None,
        DECODINGS,
        needs_classifier=True,
    ),
    Option(
        "temperature",
        "of annealed-mean and sample: lower is more decided, higher is more mixed",
        None,
        low=0.01,
        high=10,
        needs_classifier=True,
    ),
    # Whole numbers up to 2**53 - 1 survive JSON, so any client can send them.
    Option("seed", "of sample: each seed draws other colours", 0, high=2**53 - 1, whole=True),
    Option(
        "variants",
        "how many samples, with successive seeds",
        1,
        low=1,
        high=8,
        whole=True,
        needs_classifier=True,
    ),
)
NAMES = tuple(option.name for option in OPTIONS)


@dataclass(frozen=True)
class Options:
    """The options of one picture, as `OPTIONS` describes them."""

    format: Format = "jpeg"
    quality: int = 92
    bits: Bits = "8"
    profile: Profile = "srgb"
    compression: Literal["deflate", "none"] = "deflate"
    metadata: Literal["strip", "keep"] = "strip"
    provenance: Literal["no", "yes"] = "no"
    chroma: float = 1.0
    hints: tuple[Hint, ...] | None = None
    spread: float = 0.5
    likely: tuple[float, float] | None = None
    show: Literal["colour", "uncertainty"] = "colour"
    decoding: Decoding | None = None
    temperature: float | None = None
    seed: int = 0
    variants: int = 1

    @property
    def output(self) -> OutputOptions:
        """Format, quality and colours, as `image.write` takes them."""
        from colorizer.image import OutputOptions

        return OutputOptions(self.format, self.quality, self.bits, self.profile, self.compression)

    @property
    def needs_classifier(self) -> list[str]:
        """Name the options that only a classification network can follow."""
        return [
            option.name
            for option in OPTIONS
            if option.needs_classifier and getattr(self, option.name) != option.default
        ]

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Options:
        """Read options from text, by their names.

        Raises:
            BadOption: on an unknown name, or a value that is not allowed.
        """
        table = {option.name: option for option in OPTIONS}
        chosen: dict[str, Any] = {}
        for name, text in values.items():
            if name not in table:
                raise BadOption(f"there is no option {name!r:.40}; known are {', '.join(NAMES)}.")
            chosen[name] = table[name].parse(text)
        if chosen.get("variants", 1) > 1 and chosen.setdefault("decoding", "sample") != "sample":
            raise BadOption("variants are samples; leave decoding out, or use decoding=sample.")
        if chosen.get("show") == "uncertainty" and {
            "decoding",
            "variants",
            "hints",
        } & set(values):
            raise BadOption(
                "show=uncertainty has no decoding, no variants and no hints; leave them out."
            )
        return cls(**chosen)


class PictureOptions(TypedDict, total=False):
    """The keyword options of `Colorizer.colorize`, for type checkers and editors."""

    format: Format
    quality: int
    bits: Bits
    profile: Profile
    compression: Literal["deflate", "none"]
    metadata: Literal["strip", "keep"]
    provenance: Literal["no", "yes"]
    chroma: float
    hints: Sequence[Mapping[str, object]] | str | None
    spread: float
    show: Literal["colour", "uncertainty"]
    decoding: Decoding | None
    temperature: float | None
    seed: int


def from_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pick the options among request headers, for `Options.parse`."""
    return {
        name.lower().removeprefix(HEADER): value
        for name, value in headers
        if name.lower().startswith(HEADER)
    }
