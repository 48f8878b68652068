"""The handler, called as TorchServe calls it, without TorchServe."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from colorizer.telemetry import METRICS
from evaluation.methods import eager_pipeline
from handlers.torchserve.handler import ColorizeHandler
from tests.support import ROOT, Patch, Weights, encoded, opened, picture

SETTINGS = ROOT / "handlers" / "torchserve" / "metrics.yaml"
GOOD = encoded(picture(60, 80), "JPEG")


class Context:
    """TorchServe's context, as far as the handler uses it; each request's headers in and out.

    As in TorchServe, a form field has its content type among the headers, under its own name.
    """

    def __init__(self, headers: list[dict[str, Any]]) -> None:
        self.headers = headers
        self.status = [200] * len(headers)
        self.types = [""] * len(headers)
        self.sent: list[dict[str, str]] = [{} for _ in headers]

    def get_all_request_header(self, index: int) -> dict[str, Any]:
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
def handler(request: pytest.FixtureRequest, weights: Weights) -> ColorizeHandler:
    made = ColorizeHandler()
    made.pipeline = eager_pipeline(weights(request.param))
    return made


@pytest.fixture(scope="module")
def regression(weights: Weights) -> ColorizeHandler:
    made = ColorizeHandler()
    made.pipeline = eager_pipeline(weights("regression"))
    return made


def answers(
    handler: ColorizeHandler,
    rows: list[dict[str, Any]],
    headers: list[dict[str, Any]] | None = None,
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
    handler: ColorizeHandler, monkeypatch: Patch
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


def test_an_archives_options_give_the_librarys_bytes(regression: ColorizeHandler) -> None:
    options = {"format": "tiff", "bits": "16", "profile": "display-p3", "provenance": "yes"}
    headers = {f"X-Colorize-{name}": value for name, value in options.items()}
    (found,) = answers(regression, [{"body": bytearray(GOOD)}], [headers])
    assert (found.status, found.type) == (200, "image/tiff")
    assert found.body == regression.pipeline.colorize(GOOD, options).body
    (refused,) = answers(regression, [{"body": bytearray(GOOD)}], [{"X-Colorize-Bits": "16"}])
    assert (refused.status, json.loads(refused.body)["type"]) == (422, "bad_option")


FILE = {"content-type": "image/jpeg"}
TEXT = {"content-type": ""}


HINTS = '[{"x": 0.2, "y": 0.3, "color": "#7a2f2f"}]'


def test_hints_come_as_header_or_field_and_wrong_ones_fail_alone(handler: ColorizeHandler) -> None:
    plain = {"body": bytearray(GOOD)}
    rows: list[dict[str, Any]] = [
        plain,
        {"body": bytearray(GOOD)},
        {"data": bytearray(GOOD), "hints": bytearray(HINTS.encode())},
        {"data": bytearray(GOOD), "hints": json.loads(HINTS)},  # labelled application/json
        *(
            {"data": bytearray(GOOD), "hints": bytearray(wrong)}
            for wrong in (b"[" * 10**5, b" " * 10**7, b"\xff", b'[{"x": 1e400}]')
        ),
        {"data": bytearray(GOOD), "hints": [bytearray(b"[]"), bytearray(b"[]")]},
        {"data": bytearray(GOOD), "hints": {"x": 1}},
        plain,
    ]
    headers: list[dict[str, Any]] = [{} for _ in rows]
    headers[1] = {"X-Colorize-Hints": HINTS}
    found = answers(handler, rows, headers)
    assert [one.status for one in found] == [200] * 4 + [422] * 6 + [200]
    assert found[0].body == found[-1].body != found[1].body
    assert found[1].body == found[2].body == found[3].body


def test_the_likely_colours_of_a_place_are_answered_in_json(handler: ColorizeHandler) -> None:
    rows = [{"body": bytearray(GOOD)}] * 2
    headers = [{"X-Colorize-Likely": "0.5,0.25"}, {"X-Colorize-Likely": "0.5,1.25"}]
    (good, bad) = answers(handler, rows, headers)
    assert (good.status, good.type, bad.status) == (200, "application/json", 422)
    assert json.loads(good.body)["colours"]


@pytest.mark.parametrize(
    "row",
    [
        {name: bytearray(GOOD), "format": bytearray(b"png")}
        for name in ("data", "file", "image", "photo", "picture", "Photo", "upload", "my picture")
    ]
    + [{"data": bytearray(GOOD), "X-Colorize-Format": bytearray(b"png")}],
    ids=lambda row: next(iter(row)),
)
def test_a_form_may_call_its_picture_by_the_usual_names_and_a_lone_file_by_any(
    regression: ColorizeHandler, row: dict[str, Any]
) -> None:
    headers = {name: TEXT if "ormat" in name else FILE for name in row}
    (answer,) = answers(regression, [row], [headers])
    assert (answer.status, answer.type) == (200, "image/png")


@pytest.mark.parametrize(
    ("row", "status", "said"),
    [
        ({}, 400, "its field is called data: curl -F data=@photo.jpg"),
        ({"format": bytearray(b"png")}, 400, "its field is called data: curl -F data=@photo.jpg"),
        ({"mine": bytearray(b"text")}, 400, "its field is called data: curl -F data=@photo.jpg"),
        ({"data": [bytearray(GOOD)] * 2}, 400, "several files (in 'data'); send one picture"),
        ({"data": bytearray(GOOD), "file": bytearray(GOOD)}, 400, "several files (in 'data', 'fi"),
        ({"a.jpg": bytearray(GOOD), "b.jpg": bytearray(GOOD)}, 400, "several files (in 'a.jpg'"),
        ({"data": bytearray(GOOD), "a.jpg": bytearray(GOOD)}, 400, "several files (in 'data', 'a"),
        ({"data": bytearray(GOOD), "mine": bytearray(b"1")}, 422, "there is no option 'mine'"),
        ({"data": bytearray(GOOD), "format": [bytearray(b"png")] * 2}, 422, "given 2 times"),
    ],
)
def test_what_a_form_lacks_or_has_twice_is_told(
    regression: ColorizeHandler, row: dict[str, Any], status: int, said: str
) -> None:
    headers = {name: FILE if name in ("data", "file", "a.jpg", "b.jpg") else TEXT for name in row}
    (answer,) = answers(regression, [row], [headers])
    assert answer.status == status
    assert said in json.loads(answer.body)["message"]


zipped = partial(gzip.compress, mtime=0)  # else each second gives these tests other names


@pytest.mark.parametrize(
    ("encoding", "body", "status", "said"),
    [
        ("gzip", zipped(GOOD), 200, ""),
        ("GZIP", zipped(GOOD), 200, ""),
        ("x-gzip", zipped(GOOD), 200, ""),
        ("deflate", zlib.compress(GOOD), 200, ""),
        ("identity", GOOD, 200, ""),
        ("br", GOOD, 415, "Content-Encoding is 'br'"),
        ("zstd", GOOD, 415, "Content-Encoding is 'zstd'"),
        ("gzip, gzip", zipped(zipped(GOOD)), 415, "Content-Encoding is 'gzip, gzip'"),
        ("gzip", GOOD, 400, "The body is not gzip"),
        ("gzip", b"", 400, "is cut short"),
        ("gzip", zipped(GOOD)[:-20], 400, "is cut short"),
        ("gzip", zipped(GOOD) + b"more", 400, "goes on after its end"),
        ("gzip", zipped(bytes(2**25 + 1)), 413, "more than 33,554,432 bytes once"),
        ("gzip", zipped(b"not a picture"), 415, "is not a JPEG"),
    ],
)
def test_a_compressed_body_is_decompressed_within_the_limit_or_refused_by_name(
    regression: ColorizeHandler, encoding: str, body: bytes, status: int, said: str
) -> None:
    (answer,) = answers(regression, [{"body": bytearray(body)}], [{"content-encoding": encoding}])
    assert answer.status == status
    if status == 200:
        assert answer.body == regression.pipeline.colorize(GOOD).body
    else:
        assert said in json.loads(answer.body)["message"]


def test_a_compressed_form_is_refused_and_one_that_only_says_so_is_read(
    regression: ColorizeHandler,
) -> None:
    # TorchServe finds no field in a form that is compressed.
    rows: list[dict[str, Any]] = [{}, {"data": bytearray(GOOD)}]
    lost, read = answers(regression, rows, [{"Content-Encoding": "gzip"}] * 2)
    assert (lost.status, read.status) == (415, 200)
    assert "The form is compressed (gzip)" in json.loads(lost.body)["message"]


def test_a_picture_that_is_labelled_a_form_is_coloured_and_a_spoilt_one_is_told_how_to_send_it(
    regression: ColorizeHandler,
) -> None:
    stripped = GOOD.translate(None, b"\r\n\0")  # as curl -d @photo.jpg does
    rows = [{"body": bytearray(body)} for body in (GOOD, stripped, b"format=png", b"")]
    header = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
    good, *bad = answers(regression, rows, [header] * 4)
    assert good.status == 200
    for answer in bad:
        assert answer.status == 415
        assert "header Content-Type: image/jpeg" in json.loads(answer.body)["message"]


def test_a_fault_of_ours_is_answered_500_without_its_trace(
    handler: ColorizeHandler, monkeypatch: Patch
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
        one["name"]: (kind, one["unit"], tuple(one["dimensions"][1:]))
        for kind, several in declared.items()
        for one in several
        if one["name"].startswith("colorize_")
    }
    assert found == {name: one[:3] for name, one in METRICS.items()}
