"""The handler, called as TorchServe calls it, without TorchServe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colorizer.unet import Head
from handlers.torchserve_handler import ColorizeHandler
from tests.support import encoded, opened, picture
from training.evaluate import eager_pipeline

GOOD = encoded(picture(60, 80), "JPEG")


class Context:
    """TorchServe's context, as far as the handler uses it; each request's headers in and out."""

    def __init__(self, headers: list[dict[str, str]]) -> None:
        self.headers = headers
        self.status = [200] * len(headers)
        self.types = [""] * len(headers)

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.headers[index]

    def get_request_id(self, index: int) -> str:
        return f"request-{index}"

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        assert phrase
        self.status[index] = code

    def set_response_content_type(self, index: int, value: str) -> None:
        self.types[index] = value


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
