"""The archives in the real TorchServe: what people post, and what they get back."""

from __future__ import annotations

import gzip
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.specs.openapi import checks as specs

from colorizer.options import Options
from colorizer.pipeline import STAGES, Pipeline
from colorizer.telemetry import BUCKETS, KINDS, METRICS
from tests.support import ROOT, SECONDS, TorchServe, curl, encoded, opened, picture, put
from tests.telemetry import Caller, Collector, scraped, unanswered

pytestmark = pytest.mark.server

ARCHIVES = ("colorize", "colorize-classes")


@pytest.fixture(scope="module")
def folder(torchserve: TorchServe) -> Path:
    return torchserve.folder


@pytest.fixture(scope="module")
def port(torchserve: TorchServe) -> int:
    return torchserve.port


@pytest.fixture(scope="module")
def server(port: int) -> str:
    return f"http://127.0.0.1:{port}/predictions"


@pytest.fixture(scope="module")
def library(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pipeline]:
    """The archives' own graphs, without a server."""
    folder = tmp_path_factory.mktemp("library")
    for name in ARCHIVES:
        with zipfile.ZipFile(archives / f"{name}.mar") as file:
            file.extractall(folder / name)
    return {name: Pipeline.load(folder / name) for name in ARCHIVES}


@pytest.mark.parametrize("model", ARCHIVES)
def test_a_photograph_comes_back_in_colour_at_its_own_size(server: str, model: str) -> None:
    reply = put(f"{server}/{model}", encoded(picture(211, 307), "JPEG"))
    assert (reply.status, reply.type) == (200, "image/jpeg")
    colour = opened(reply.body)
    assert (colour.size, colour.mode) == ((307, 211), "RGB")
    assert np.ptp(np.asarray(colour), axis=2).max() > 8


@pytest.mark.parametrize("model", ARCHIVES)
def test_torchserve_gives_the_librarys_bytes(
    server: str, model: str, library: dict[str, Pipeline]
) -> None:
    body = encoded(picture(90, 120), "JPEG")
    hints = {"hints": '[{"x": 0.2, "y": 0.3, "color": "#7a2f2f"}]'}
    for chosen in ({"format": "png"}, {"format": "webp", "quality": "70", "chroma": "0.5"}, hints):
        expected = library[model].colorize(body, Options.parse(chosen))
        found = put(f"{server}/{model}", body, {f"X-Colorize-{k}": v for k, v in chosen.items()})
        assert (found.status, found.type) == (200, expected.content_type)
        assert found.body == expected.body


def test_of_a_poisoned_batch_each_gets_what_it_gets_alone(
    server: str, library: dict[str, Pipeline]
) -> None:
    url = f"{server}/colorize"
    sizes = [(60, 80), (300, 200), (64, 64), (33, 500), (1, 1)]
    good = [encoded(picture(*size), "PNG") for size in sizes]
    cut, text, option = good[1][:-2000], b"not a picture", {"X-Colorize-Quality": "best"}
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(put, url, body) for body in good]
        broken = [pool.submit(put, url, body) for body in (cut, text)]
        broken.append(pool.submit(put, url, good[0], option))
    assert library["colorize"].batch_invariant
    for one, body in zip(waiting, good, strict=True):
        assert one.result().body == library["colorize"].colorize(body).body
    for one, status in zip(broken, (400, 415, 422), strict=True):
        reply = one.result()
        assert (reply.status, reply.type) == (status, "application/json")
        assert json.loads(reply.body)["code"] == status


def test_each_reply_tells_its_times_its_graph_and_an_id_that_the_log_knows(
    server: str, folder: Path, library: dict[str, Pipeline]
) -> None:
    reply = put(f"{server}/colorize", encoded(picture(60, 80)))
    stages = [part.split(";dur=") for part in reply.headers["Server-Timing"].split(", ")]
    assert [name for name, _ in stages] == list(STAGES)
    assert all(float(value) >= 0 for _, value in stages)
    assert reply.headers["X-Colorize-Graph"] == library["colorize"].graph.sha256
    line = next_line(folder / "logs" / "model_log.log", reply.headers["x-request-id"])
    assert json.loads(line[line.index("{") :])["pixels"] == 60 * 80


def test_a_photograph_costs_three_lines_of_log(server: str, folder: Path) -> None:
    def lines() -> int:
        return sum(log.read_text().count("\n") for log in (folder / "logs").glob("*.log"))

    url, logged = f"{server}/colorize", folder / "logs" / "model_log.log"
    next_line(logged, put(url, encoded(picture(60, 80))).headers["x-request-id"])
    before, count = lines(), 5
    for _ in range(count):
        reply = put(url, encoded(picture(60, 80)))
    next_line(logged, reply.headers["x-request-id"])
    assert 0 < lines() - before <= 3 * count + 1  # the line of access of the one before may be late


SCHEMA = schemathesis.openapi.from_path(ROOT / "docs" / "openapi.yaml")
schemathesis.openapi.media_type(
    "application/octet-stream",
    st.sampled_from([encoded(picture(20, 30)), encoded(picture(9, 5), "JPEG"), b"", b"no picture"]),
)


@SCHEMA.parametrize()
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_answers_as_openapi_says(case: schemathesis.Case, port: int) -> None:
    session = requests.Session()
    session.trust_env = False  # no proxy to this machine
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{port}",
        session=session,
        checks=[
            checks.not_a_server_error,
            specs.content_type_conformance,
            specs.response_headers_conformance,
            specs.response_schema_conformance,
            specs.status_code_conformance,
        ],
    )


def next_line(log: Path, text: str) -> str:
    """Wait until a log has a line with this text."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        lines = [line for line in log.read_text().splitlines() if text in line and "{" in line]
        if lines:
            return lines[0]
        time.sleep(0.1)
    raise AssertionError(f"{text} never came into {log}")


def test_prometheus_reads_histograms_that_add_up_and_all_that_the_dashboard_asks(
    port: int, server: str
) -> None:
    for name in ARCHIVES:
        put(f"{server}/{name}", encoded(picture(60, 80)))
    put(f"{server}/colorize", b"not a picture")
    needed = {name for name, one in METRICS.items() if one.kind == "histogram"} | {"QueueTime"}
    deadline = time.monotonic() + SECONDS
    text, series = scraped(port + 2)
    while not all(f"{name}_bucket" in text for name in needed):
        assert time.monotonic() < deadline, f"{needed} are not all in\n{text}"
        time.sleep(0.2)
        text, series = scraped(port + 2)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    for stage in STAGES:
        ours = {k: float(v) for k, v in values.items() if f'Stage="{stage}"' in k}
        count = sum(value for name, value in ours.items() if "_seconds_count" in name)
        last = sum(value for name, value in ours.items() if 'le="+Inf"' in name)
        assert count == last > 0
    kinds = {labels.get("Kind") for name, labels in series if name == "colorize_replies_total"}
    assert kinds >= set(KINDS)
    bounds = {labels["le"] for name, labels in series if name == "colorize_stage_seconds_bucket"}
    assert {float(one) for one in bounds - {"+Inf"}} == set(BUCKETS)
    pytest.importorskip("promql_parser")
    assert unanswered("TorchServe", series) == []


def test_a_pictures_stages_are_spans_under_its_callers(
    server: str, collector: Collector, library: dict[str, Pipeline]
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    caller, body = Caller.new(), encoded(picture(60, 80))
    reply = put(f"{server}/colorize", body, caller.headers)
    spans = collector.spans(caller, 1 + len(STAGES))
    whole = spans.pop("picture")
    assert (whole.parent, whole.service, whole.status) == (caller.span, "colorizer", "")
    assert whole.attributes == {
        "colorize.model": "colorize",
        "colorize.request": reply.headers["x-request-id"],
        "colorize.graph": library["colorize"].graph.sha256,
        "colorize.pixels": str(60 * 80),
        "colorize.bytes_in": str(len(body)),
        "colorize.bytes": str(len(reply.body)),
    }
    assert sorted(spans, key=lambda name: spans[name].start) == list(STAGES)
    for span in spans.values():
        assert (span.parent, span.status) == (whole.id, "")
        assert whole.start <= span.start <= span.end <= whole.end


def test_the_span_of_a_picture_that_fails_tells_the_error(
    server: str, collector: Collector
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    caller = Caller.new()
    reply = put(f"{server}/colorize", b"not a picture", caller.headers)
    spans = collector.spans(caller, 2)
    assert (spans["picture"].parent, spans["read"].parent) == (caller.span, spans["picture"].id)
    for span in spans.values():
        assert span.status == json.loads(reply.body)["message"]
        assert span.attributes["error.type"] == "not_a_picture"
    assert spans["read"].events == ("exception",)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A folder with photo.jpg, and the same compressed."""
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(70, 50), "JPEG"))
    (tmp_path / "photo.gz").write_bytes(gzip.compress((tmp_path / "photo.jpg").read_bytes()))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ("-T photo.jpg", "JPEG"),
        ("--data-binary @photo.jpg", "JPEG"),
        ("--data-binary @photo.jpg -H X-Colorize-Format:png", "PNG"),
        ("-X PUT --data-binary @photo.jpg -H Content-Type:", "JPEG"),
        ("-T photo.gz -H Content-Encoding:gzip", "JPEG"),
        ("-F data=@photo.jpg -F format=webp -F temperature=1", "WEBP"),
        ("-F image=@photo.jpg -F format=png", "PNG"),
        ("-F upload=@photo.jpg", "JPEG"),
    ],
)
def test_curl_gets_a_picture_whichever_way_it_posts_one(
    server: str, photo: Path, arguments: str, kind: str
) -> None:
    reply = curl(*arguments.split(), f"{server}/colorize-classes", folder=photo)
    assert (reply.status, reply.type) == (200, f"image/{kind.lower()}")
    colour = opened(reply.body)
    assert (colour.size, colour.format) == ((50, 70), kind)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("-d @photo.jpg", 415, "Content-Type: image/jpeg"),
        ("-d format=png", 415, "Content-Type: image/jpeg"),
        ("-F data=@photo.jpg -F data=@photo.jpg", 400, "several files (in 'data')"),
        ("-F data=@photo.jpg -F image=@photo.jpg", 400, "several files (in 'data', 'image')"),
        ("-F data=@photo.jpg -F format=png -F format=png", 422, "'format' is given 2 times"),
        ("-F format=png", 400, "its field is called data"),
        ("-T photo.gz -H Content-Encoding:br", 415, "Content-Encoding is 'br'"),
        ("-T photo.gz", 415, "not a JPEG"),
    ],
)
def test_curl_is_told_in_json_what_was_wrong_with_what_it_posted(
    server: str, photo: Path, arguments: str, status: int, said: str
) -> None:
    reply = curl(*arguments.split(), f"{server}/colorize", folder=photo)
    assert (reply.status, reply.type) == (status, "application/json")
    assert said in json.loads(reply.body)["message"]
