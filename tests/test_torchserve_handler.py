"""The handler, called as TorchServe calls it, without TorchServe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from colorizer.errors import BadOption
from colorizer.options import HEADER, NAMES, Options
from colorizer.recipe import Head
from evaluation.methods import eager_pipeline
from handlers.torchserve.handler import METRICS, ColorizeHandler
from tests.support import ROOT, encoded, opened, picture

SETTINGS = ROOT / "handlers" / "torchserve" / "metrics.yaml"
GOOD = encoded(picture(60, 80), "JPEG")


class Context:
    """TorchServe's context, as far as the handler uses it; each request's headers in and out."""

    def __init__(self, headers: list[dict[str, str]]) -> None:
        self.headers = headers
        self.status = [200] * len(headers)
        self.types = [""] * len(headers)
        self.sent: list[dict[str, str]] = [{} for _ in headers]

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.headers[index]

    def get_request_id(self, index: int) -> str:
        return f"request-{index}"

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        assert phrase
        self.status[index] = code

    def set_response_content_type(self, index: int, value: str) -> None:
        self.types[index] = value

    def set_response_header(self, index: int, name: str, value: str) -> None:
        self.sent[index][name] = value


@pytest.fixture(scope="module", params=["regression", "classification"])
def handler(request: pytest.FixtureRequest, weights: Callable[[Head], Path]) -> ColorizeHandler:
    made = ColorizeHandler()
    made.pipeline = eager_pipeline(weights(request.param))
    return made


def answers(
    handler: ColorizeHandler,
    rows: list[dict[str, Any]],
    headers: list[dict[str, str]] | None = None,
) -> list[SimpleNamespace]:
    context = Context(headers or [{} for _ in rows])
    bodies = handler.handle(rows, context)
    return [
        SimpleNamespace(body=body, status=status, type=kind)
        for body, status, kind in zip(bodies, context.status, context.types, strict=True)
    ]


def test_a_poisoned_batch_is_answered_picture_by_picture(handler: ColorizeHandler) -> None:
    rows: list[dict[str, Any]] = [
        {"body": bytearray(GOOD)},
        {"body": bytearray(GOOD[:300])},
        {"data": bytearray(GOOD), "format": bytearray(b"png")},
        {"body": bytearray(b"hello")},
        {"body": bytearray(b"")},
        {"body": {"picture": "decoded JSON"}},
        {"body": "decoded text"},
        {"data": bytearray(GOOD), "quality": bytearray(b"best")},
        {"quality": bytearray(b"90")},
        {"body": bytearray(GOOD)},
    ]
    found = answers(handler, rows)
    statuses = [200, 400, 200, 415, 400, 415, 415, 422, 400, 200]
    assert [answer.status for answer in found] == statuses
    for answer in found:
        if answer.status == 200:
            assert opened(answer.body).size == (80, 60)
        else:
            error = json.loads(answer.body)
            assert answer.type == "application/json"
            assert set(error) == {"code", "type", "message"}
            assert error["code"] == answer.status
            assert len(error["message"]) > 20
    assert found[2].type == "image/png"
    alone = answers(handler, [{"body": bytearray(GOOD)}])[0]
    assert found[0].body == alone.body == found[9].body


def test_a_picture_over_the_limit_is_answered_413(
    handler: ColorizeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colorizer.image import Limits

    monkeypatch.setattr(handler.pipeline, "limits", Limits(max_pixels=60 * 80 - 1))
    (answer,) = answers(handler, [{"body": bytearray(GOOD)}])
    assert (answer.status, json.loads(answer.body)["type"]) == (413, "too_large")


def test_options_come_as_headers_in_any_case_and_a_form_field_beats_them(
    handler: ColorizeHandler,
) -> None:
    rows = [{"body": bytearray(GOOD)}, {"data": bytearray(GOOD), "format": bytearray(b"webp")}]
    headers = [{"X-Colorize-Format": "png", "User-Agent": "curl"}, {"x-colorize-format": "png"}]
    found = answers(handler, rows, headers)
    assert [answer.type for answer in found] == ["image/png", "image/webp"]


def test_a_fault_of_ours_is_answered_500_without_its_trace(
    handler: ColorizeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(lightness: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(handler.pipeline, "run", broken)
    good, bad = answers(handler, [{"body": bytearray(GOOD)}, {"body": bytearray(b"hello")}])
    assert (good.status, bad.status) == (500, 415)
    assert b"secret" not in good.body
    assert b"request-0" in good.body


def test_a_good_reply_tells_how_long_each_stage_took(handler: ColorizeHandler) -> None:
    context = Context([{}, {}])
    handler.handle([{"body": bytearray(GOOD)}, {"body": bytearray(b"hello")}], context)
    assert context.sent[0]["Server-Timing"].startswith("read;dur=")
    assert "Server-Timing" not in context.sent[1]


def test_what_the_handler_reports_is_what_prometheus_is_told_to_expect() -> None:
    declared = yaml.safe_load(SETTINGS.read_text())["model_metrics"]
    found = {
        one["name"]: (kind, one["unit"], one["dimensions"][1:])
        for kind, several in declared.items()
        for one in several
        if one["name"].startswith("colorize_")
    }
    assert found == METRICS


def test_the_openapi_file_has_every_option_with_what_is_allowed() -> None:
    described = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    parameters = described["components"]["parameters"].values()
    found = {one["name"].lower().removeprefix(HEADER): one["schema"] for one in parameters}
    assert set(found) == set(NAMES)
    for name, schema in found.items():
        for value in schema.get("enum", ()):
            Options.parse({name: value})
        if "minimum" in schema:
            step = 1 if schema["type"] == "integer" else 0.001
            for edge, beyond in (("minimum", -step), ("maximum", step)):
                Options.parse({name: str(schema[edge])})
                with pytest.raises(BadOption):
                    Options.parse({name: str(schema[edge] + beyond)})
