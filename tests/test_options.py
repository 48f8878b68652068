"""One table of options, and what else repeats it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from colorizer.errors import BadOption
from colorizer.options import HEADER, NAMES, OPTIONS, Option, Options, from_headers
from tests.support import ROOT

API = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())


def schema(option: Option) -> dict[str, Any]:
    """An option as OpenAPI describes it."""
    if option.kind:
        return {"type": "string"}
    if option.choices:
        made: dict[str, Any] = {"type": "string", "enum": sorted(option.choices)}
    else:
        made = {"type": "integer" if option.whole else "number"}
        made |= {"minimum": option.low, "maximum": option.high}
    return made if option.default is None else {**made, "default": option.default}


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_the_api_description_has_every_option_as_the_table_has_it(option: Option) -> None:
    described = API["components"]["parameters"][option.name.capitalize()]
    assert described["name"].lower() == HEADER + option.name
    told = described["schema"]
    if "enum" in told:
        told = {**told, "enum": sorted(told["enum"])}
    if option.kind:
        told = {"type": told["type"]}
    assert told == schema(option)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/predictions/colorize", {o.name for o in OPTIONS if not o.needs_classifier} - {"seed"}),
        ("/predictions/colorize-classes", set(NAMES)),
    ],
)
def test_each_network_is_described_with_the_options_that_it_has(path: str, names: set[str]) -> None:
    parameters = API["paths"][path]["post"]["parameters"]
    assert {one["$ref"].rpartition("/")[2].lower() for one in parameters} == names


@pytest.mark.parametrize(
    "text", ["PNG", "png", " Png ", "JPG", "jpg", "Jpeg", "jfif", "JPE", "WEBP"]
)
def test_upper_and_lower_case_are_alike(text: str) -> None:
    expected = text.strip().lower()
    expected = "jpeg" if expected.startswith("j") else expected
    assert Options.parse({"format": text}).format == expected
    assert Options.parse({"decoding": "MODE", "metadata": "Keep"}).decoding == "mode"


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_a_value_that_is_not_allowed_is_told_with_those_that_are(option: Option) -> None:
    if option.kind == "hints":
        pytest.skip("tests/test_hints.py")
    for text in ("", "nonsense", "-1", "1e99", "nan", "٣"):
        with pytest.raises(BadOption, match=option.name) as caught:
            Options.parse({option.name: text})
        assert option.allowed in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("quality", one) for one in (0, 101, -1, 92.0, "92", True, None)),
        *(("format", one) for one in ("gif", "JPEG", "", None, 3, ["png"])),
        *((name, 16) for name in ("bits", "profile", "compression", "show", "decoding")),
        *(("chroma", one) for one in ("1", True, None, float("nan"))),
        *(("likely", one) for one in ("0,0", (0, 2))),
    ],
)
def test_a_value_that_no_text_was_read_for_is_checked_too(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f"^{name} is ") as caught:
        Options(**{name: value})
    assert repr(value) in str(caught.value)


def test_what_is_unknown_or_long_is_told_in_few_words() -> None:
    with pytest.raises(BadOption, match="there is no option 'qualty'; known are format, quality"):
        Options.parse({"qualty": "90"})
    for text in ("1_0", "9" * 30, "x\r\n" * 10_000):
        with pytest.raises(BadOption, match=r"^seed is") as caught:
            Options.parse({"seed": text})
        assert caught.value.status == 422
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"variants": "2", "decoding": "mode"},
        {"show": "uncertainty", "variants": "2"},
        {"show": "uncertainty", "decoding": "mode"},
    ],
)
def test_options_that_exclude_one_another_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(BadOption, match="leave"):
        Options.parse(values)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.high], ids=lambda o: o.name)
def test_both_ends_of_a_range_are_allowed(option: Option) -> None:
    for value in (option.low, option.high):
        assert option.parse(str(value)) == value
        beyond = value + (1 if value == option.high else -1)
        with pytest.raises(BadOption, match=option.name):
            option.parse(str(beyond))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"chroma": "2", "seed": "3"}, []),
        ({"show": "colour", "variants": "1"}, []),
        ({"decoding": "mean"}, ["decoding"]),
        ({"temperature": "0.5"}, ["temperature"]),
        ({"variants": "2"}, ["decoding", "variants"]),
        ({"show": "uncertainty"}, ["show"]),
    ],
)
def test_the_options_that_need_a_classifier_are_named(
    values: dict[str, str], names: list[str]
) -> None:
    assert Options.parse(values).needs_classifier == names


def test_options_are_found_among_headers() -> None:
    headers = [("X-Colorize-Format", "png"), ("content-type", "a"), ("x-colorize-SEED", "1")]
    assert from_headers(headers) == {"format": "png", "seed": "1"}


def test_the_table_of_the_documents_has_every_option_with_its_words_and_its_range() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        for line in (ROOT / "docs" / "options.md").read_text().splitlines()
        if line.startswith(f"| `{HEADER.title()}")
    ]
    told = {name: (header, values) for header, name, values, _ in rows}
    assert set(told) == set(NAMES)
    for option in OPTIONS:
        header, values = told[option.name]
        assert header.lower() == HEADER + option.name
        if option.choices:
            assert all(f"`{word}`" in f"`{values}`" for word in option.choices)
        elif option.high and option.name != "seed":
            assert values.startswith(f"{option.low:g} … {option.high:g}")
