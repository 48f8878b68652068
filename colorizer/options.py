"""The options of one picture: one table that servers, commands, page and documents read.

Both servers take options as request headers X-Colorize-NAME; TorchServe also as form fields, and
Triton also as request parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from colorizer.errors import BadOption
from colorizer.recipe import DECODINGS, Decoding

if TYPE_CHECKING:  # it needs numpy, which a command's --help does without
    from colorizer.hints import Hint

Format = Literal["jpeg", "png", "webp", "tiff"]
Bits = Literal["8", "16", "same"]
Profile = Literal["srgb", "display-p3", "adobe-rgb"]
Compression = Literal["deflate", "none"]
Keep = Literal["strip", "keep"]
YesNo = Literal["no", "yes"]
Show = Literal["colour", "uncertainty"]

HEADER = "x-colorize-"  # X-Colorize-Format: png

_FORMATS = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff"}  # other names of formats
_WHOLE, _DECIMAL = r"[0-9]{1,20}", r"[0-9]{0,20}\.?[0-9]{1,20}([eE][+-]?[0-9]{1,2})?"


@dataclass(frozen=True)
class Option:
    """One row of the table.

    Attributes:
        name: of the option, and of its attribute in `Options`.
        default: None leaves the choice to the network.
        help: one line for people.
        choices: the words allowed; empty for anything else.
        low: the least number allowed.
        high: the largest.
        whole: whether the number must be whole.
        kind: of what is neither words nor a number: "hints" or "place".
        needs_classifier: whether any other value than the default needs a classification network.
    """

    name: str
    default: str | float | None
    help: str
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
        """Read a value from text; upper and lower case are alike.

        Raises:
            BadOption: if the value is not allowed.
        """
        if self.kind == "hints":
            from colorizer import hints

            return hints.parse(text)
        value: Any = text
        if self.choices:
            value = text.strip().lower()
            value = _FORMATS.get(value, value) if self.name == "format" else value
        elif self.kind == "place" and re.fullmatch(f"{_DECIMAL},{_DECIMAL}", text):
            value = tuple(map(float, text.split(",")))
        # int and float themselves would take "1_0".
        elif not self.kind and re.fullmatch(_WHOLE if self.whole else _DECIMAL, text):
            value = int(text) if self.whole else float(text)
        if not self._allows(value):
            raise self._refusal(text)
        return value

    def check(self, value: object) -> None:
        """Check a value.

        Raises:
            BadOption: if it is not allowed.
        """
        if not self._allows(value):
            raise self._refusal(value)

    def _allows(self, value: Any) -> bool:
        if value is None:
            return self.default is None
        if self.kind == "hints":
            return True  # `Hint`s, which `hints.parse` has checked
        if self.choices:
            return value in self.choices
        if self.kind == "place":
            return isinstance(value, tuple) and all(0 <= one <= 1 for one in value)
        kinds = int if self.whole else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def _refusal(self, value: object) -> BadOption:
        return BadOption(f"{self.name} is {value!r:.40}; use {self.allowed}.")


def _option(default: str | float | None, help: str, *choices: str, **more: Any) -> Any:
    """A field of `Options`, and with that a row of the table."""
    return field(
        default=default, metadata={"default": default, "help": help, "choices": choices, **more}
    )


@dataclass(frozen=True)
class Options:
    """The options of one picture.

    Raises:
        BadOption: if a value is not allowed.
    """

    format: Format = _option("jpeg", "file format of the result", *get_args(Format))
    quality: int = _option(92, "of JPEG and WebP", low=1, high=100, whole=True)
    bits: Bits = _option(
        "8",
        "of each sample, for PNG and TIFF; same: 16 for a photograph of more than 8",
        *get_args(Bits),
    )
    profile: Profile = _option(
        "srgb", "colour space; the wider ones keep colours that sRGB lacks", *get_args(Profile)
    )
    compression: Compression = _option("deflate", "of TIFF", *get_args(Compression))
    metadata: Keep = _option(
        "strip", "keep the photograph's EXIF, place and time included, or strip it", *get_args(Keep)
    )
    provenance: YesNo = _option(
        "no",
        "record in the file that it was coloured by machine, by which model and from what",
        *get_args(YesNo),
    )
    chroma: float = _option(1.0, "strength of the colours; 0 is grey", high=3)
    hints: tuple[Hint, ...] | None = _option(
        None, "known colours of places in the picture", kind="hints"
    )
    spread: float = _option(
        0.5, "how far a hint's colour reaches, in shorter sides; 0: its place alone, 1: far", high=1
    )
    likely: tuple[float, float] | None = _option(
        None, "name the likely colours of a place instead of colouring, in JSON", kind="place"
    )
    show: Show = _option(
        "colour",
        "the coloured photograph, or a map of how unsure the network was (white: most)",
        *get_args(Show),
        needs_classifier=True,
    )
    decoding: Decoding | None = _option(
        None,
        "how one colour is chosen from the many that are likely",
        *DECODINGS,
        needs_classifier=True,
    )
    temperature: float | None = _option(
        None,
        "of annealed-mean and sample: lower is more decided, higher is more mixed",
        low=0.01,
        high=10,
        needs_classifier=True,
    )
    # Whole numbers up to 2**53 - 1 survive JSON, so any client can send them.
    seed: int = _option(0, "of sample: each seed draws other colours", high=2**53 - 1, whole=True)
    variants: int = _option(
        1,
        "how many samples, with successive seeds",
        low=1,
        high=8,
        whole=True,
        needs_classifier=True,
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            option.check(getattr(self, option.name))

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
        if chosen.get("show") == "uncertainty" and {"decoding", "variants", "hints"} & set(values):
            raise BadOption(
                "show=uncertainty has no decoding, no variants and no hints; leave them out."
            )
        return cls(**chosen)


OPTIONS = tuple(Option(one.name, **one.metadata) for one in fields(Options))
NAMES = tuple(option.name for option in OPTIONS)


class PictureOptions(TypedDict, total=False):
    """The keyword options of `Colorizer.colorize`, for type checkers and editors."""

    format: Format
    quality: int
    bits: Bits
    profile: Profile
    compression: Compression
    metadata: Keep
    provenance: YesNo
    chroma: float
    hints: Sequence[Mapping[str, object]] | str | None
    spread: float
    show: Show
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
