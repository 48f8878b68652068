"""The model repository in the real Triton: the library's bytes, over curl, HTTP and gRPC."""

from __future__ import annotations

import gzip
import importlib.util
import json
import runpy
import sys
import time
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from colorizer.options import Options
from colorizer.pipeline import STAGES, Pipeline
from colorizer.recipe import Head
from colorizer.telemetry import BUCKETS, KINDS, METRICS
from export import serving, triton
from tests.support import (
    SECONDS,
    Capture,
    Patch,
    Sharing,
    Triton,
    Weights,
    curl,
    encoded,
    picture,
    running_triton,
    send,
)
from tests.telemetry import Caller, Collector, scraped, unanswered

MODELS: dict[str, Head] = {"colorize": "regression", "colorize-classes": "classification"}
PHOTO = encoded(picture(90, 120), "JPEG")


@pytest.fixture(scope="module")
def port(triton_server: Triton) -> int:
    return triton_server.port


@pytest.fixture(scope="module")
def library(repository: Path) -> dict[str, Pipeline]:
    return {name: Pipeline.load(repository / name / "1") for name in MODELS}


class Answer(NamedTuple):
    status: int
    body: bytes  # the picture, or the error's text


def post(port: int, model: str, body: bytes, *arguments: str) -> Answer:
    """Post a picture raw with curl, as README says."""
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    raw = ("--data-binary", "@-", "-H", "Inference-Header-Content-Length: 0")
    reply = curl(*raw, *arguments, url, body=body)
    if reply.status != 200:
        return Answer(reply.status, json.loads(reply.body)["error"].encode())
    return Answer(200, reply.body[int(reply.headers["Inference-Header-Content-Length"]) :])


def ask(client: Any, module: Any, model: str, body: bytes, options: dict[str, str]) -> bytes:
    """Send a picture with tritonclient, over HTTP or gRPC."""
    row = np.frombuffer(body, np.uint8)[None]
    tensor = module.InferInput("PICTURE", row.shape, "UINT8")
    tensor.set_data_from_numpy(row)
    found = client.infer(model, [tensor], parameters=options)
    return bytes(found.as_numpy("COLOUR")[0])


def test_a_repository_has_all_that_triton_needs(repository: Path) -> None:
    for name in MODELS:
        folder = repository / name / "1"
        found = {path.name for path in folder.iterdir()}
        assert found - {"__pycache__"} == {"model.py", "onnx", "colorizer"}  # it may have run
        assert (folder / "colorizer" / "pipeline.py").is_file()
        text = (repository / name / "config.pbtxt").read_text()
        for part in (f'name: "{name}"', "max_batch_size: 8", "max_queue_size: 32", "REJECT"):
            assert part in text


@pytest.mark.server
@pytest.mark.parametrize("model", MODELS)
def test_curl_gets_the_librarys_bytes(port: int, library: dict[str, Pipeline], model: str) -> None:
    assert post(port, model, PHOTO) == Answer(200, library[model].colorize(PHOTO).body)
    chosen = {"format": "webp", "quality": "70", "chroma": "0.5"}
    headers = [part for k, v in chosen.items() for part in ("-H", f"X-Colorize-{k.title()}: {v}")]
    expected = library[model].colorize(PHOTO, Options.parse(chosen)).body
    assert post(port, model, PHOTO, *headers) == Answer(200, expected)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_gets_the_librarys_bytes(
    port: int, library: dict[str, Pipeline], protocol: str
) -> None:
    module = pytest.importorskip(f"tritonclient.{protocol}")
    address = f"127.0.0.1:{port + (protocol == 'grpc')}"
    with module.InferenceServerClient(address) as client:
        for model in MODELS:
            expected = library[model].colorize(PHOTO, Options.parse({"format": "png"})).body
            assert ask(client, module, model, PHOTO, {"format": "png"}) == expected
            hints = {"hints": '[{"x": 0.2, "y": 0.3, "color": "#7a2f2f"}]'}
            expected = library[model].colorize(PHOTO, hints).body
            assert ask(client, module, model, PHOTO, hints) == expected
        with pytest.raises(Exception, match="422 bad_option: hint 1: x is 1"):
            ask(client, module, "colorize", PHOTO, {"hints": '[{"x": 1.5, "y": 0}]'})
        with pytest.raises(Exception, match="422 bad_option: quality is"):
            ask(client, module, "colorize", PHOTO, {"quality": "best"})
        metadata = client.get_model_metadata("colorize")
        assert "PICTURE" in str(metadata)


@pytest.mark.server
def test_a_compressed_body_is_decompressed_or_refused_by_name(
    port: int, library: dict[str, Pipeline]
) -> None:
    expected = Answer(200, library["colorize"].colorize(PHOTO).body)
    for encoding, body in (("gzip", gzip.compress(PHOTO)), ("deflate", zlib.compress(PHOTO))):
        assert post(port, "colorize", body, "-H", f"Content-Encoding: {encoding}") == expected
    bomb = post(port, "colorize", gzip.compress(bytes(2**25 + 1)), "-H", "Content-Encoding: gzip")
    assert (bomb.status, bomb.body[:13]) == (400, b"413 too_large")
    other = post(port, "colorize", PHOTO, "-H", "Content-Encoding: br")
    assert other == Answer(501, b"Unsupported compression type")


@pytest.mark.server
def test_of_a_poisoned_batch_each_gets_what_it_gets_alone(
    port: int, library: dict[str, Pipeline]
) -> None:
    sizes = [(60, 80), (300, 200), (64, 64), (33, 500), (1, 1)]
    good = [encoded(picture(*size)) for size in sizes]
    broken = [good[1][:-2000], b"not a picture", b""]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: post(port, "colorize", body), [*good, *broken]))
    assert library["colorize"].batch_invariant
    assert found[:5] == [Answer(200, library["colorize"].colorize(body).body) for body in good]
    assert [answer.status for answer in found[5:]] == [400, 400, 400]
    kinds = [answer.body.split(b":")[0] for answer in found[5:]]
    assert kinds == [b"400 bad_picture", b"415 not_a_picture", b"400 bad_picture"]


def test_from_triton_25_02_on_a_reply_names_its_graph_and_its_times(
    library: dict[str, Pipeline], monkeypatch: Patch
) -> None:
    """By a backend of that release's form, since the tests' own Triton is older."""

    class InferenceResponse:
        def __init__(self, outputs: list[Any], parameters: dict[str, str]) -> None:
            """__init__(output_tensors, error = None, parameters: object = None)"""
            self.outputs, self.parameters = outputs, parameters

    backend: Any = ModuleType("triton_python_backend_utils")
    backend.InferenceResponse = InferenceResponse
    backend.Tensor = SimpleNamespace(from_dlpack=lambda name, _: name)
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setattr(sys, "path", sys.path[:])  # the model adds its folder
    made: Any = SimpleNamespace(**runpy.run_path(str(triton.MODEL))).TritonPythonModel()
    made.metrics, made.tracer = defaultdict(lambda: float), None
    (outcome,) = library["colorize"].colorize_batch([(PHOTO, {})])
    response = made._answer(None, outcome)
    assert response.outputs == ["COLOUR"]
    assert response.parameters["graph"] == library["colorize"].graph.sha256
    times = [part.split(";dur=")[0] for part in response.parameters["server_timing"].split(", ")]
    assert times == list(STAGES)


def test_two_checkpoints_of_one_head_are_refused_and_nothing_is_written(
    weights: Weights, staged_once: Sharing, tmp_path: Path, capsys: Capture
) -> None:
    same = [str(weights("regression"))] * 2
    with staged_once():
        assert triton.main([*same, "--engine", "onnx", "--out", str(tmp_path / "models")]) == 2
    assert "give one checkpoint of each head" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_not_replaced(
    weights: Weights, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "letters").mkdir()
    assert triton.main([str(weights("regression")), "--out", str(tmp_path)]) == 2
    assert "letters, which is no model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


@pytest.mark.server
def test_workers_that_share_a_network_give_the_librarys_bytes_and_errors(
    weights: Weights,
    staged_once: Sharing,
    library: dict[str, Pipeline],
    collector: Collector,
    tmp_path: Path,
) -> None:
    out, settings = tmp_path / "models", tmp_path / "serving.yaml"
    text = serving.SETTINGS.read_text()
    settings.write_text(text.replace("workers: 1", "workers: 2"))
    given = [*(str(weights(head)) for head in MODELS.values()), "--settings", str(settings)]
    given += ["--engine", "onnx"]  # in float32, as the library here
    with staged_once():
        assert triton.main([*given, "--shared-network", "--out", str(out)]) == 0
    assert not (out / "colorize" / "1" / "onnx").exists()  # the graph is the network's alone
    good = [encoded(picture(*size)) for size in [(60, 80), (300, 200), (1, 1), (33, 500)] * 2]
    # Triton itself doesn't trace here, so that its models see their callers.
    variables = collector.variables
    with running_triton(out, tmp_path, "--allow-metrics=false", **variables) as (_, port):
        for model in MODELS:
            with ThreadPoolExecutor(9) as pool:
                found = list(pool.map(lambda body: post(port, model, body), [*good, b"text"]))  # noqa: B023
            expected = [Answer(200, library[model].colorize(body).body) for body in good]
            assert found[:-1] == expected
            assert (found[-1].status, found[-1].body[:18]) == (400, b"415 not_a_picture:")
        caller = Caller.new()
        post(port, "colorize", PHOTO, *(f"-H{name}: {it}" for name, it in caller.headers.items()))
        if importlib.util.find_spec("opentelemetry"):
            spans = collector.spans(caller, 1 + len(STAGES))
            assert spans["picture"].parent == caller.span
            assert {spans[stage].parent for stage in STAGES} == {spans["picture"].id}


@pytest.mark.server
def test_overload_is_refused_with_503_and_all_others_are_served(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v2/models/colorize/infer"
    large = encoded(picture(1200, 1600), "JPEG")

    def status(_: int) -> int:
        reply = send("POST", url, large, {"Inference-Header-Content-Length": "0"})
        return reply.status if reply.status == 200 or b"queue" in reply.body else 0

    with ThreadPoolExecutor(96) as pool:
        posted, longest = [pool.submit(status, number) for number in range(96)], 0.0
        while not all(one.done() for one in posted):
            waiting = counted(port, 'nv_inference_pending_request_count{model="colorize"')
            longest = max(longest, waiting)
        seen = Counter(one.result() for one in posted)
    assert longest >= serving.Settings.read().queue  # which the alert asks for
    assert set(seen) == {200, 503}
    assert seen[200] >= 32  # all who found a place in the queue were served


def counted(port: int, metric: str) -> float:
    """Read one of Triton's counters for the regression network."""
    lines = scraped(port + 2)[0].splitlines()
    return float(next(line for line in lines if line.startswith(metric)).rsplit(" ", 1)[1])


@pytest.mark.server
def test_prometheus_reads_torchserves_metrics_and_all_that_the_dashboard_asks(port: int) -> None:
    counters = (
        'colorize_stage_seconds_count{ModelName="colorize",Stage="read"}',
        'colorize_stage_seconds_count{ModelName="colorize",Stage="write"}',
        'colorize_picture_seconds_count{ModelName="colorize"}',
        'colorize_replies_total{Kind="picture",ModelName="colorize"}',
        'colorize_replies_total{Kind="not_a_picture",ModelName="colorize"}',
    )
    before = [counted(port, one) for one in counters]
    assert [post(port, "colorize", body).status for body in (PHOTO, b"text")] == [200, 400]
    after = [counted(port, one) for one in counters]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1] * len(counters)
    series = scraped(port + 2)[1]
    for name, metric in METRICS.items():
        found = [labels for one, labels in series if one in (name, f"{name}_bucket") and labels]
        assert {key for labels in found for key in labels} - {"le"} == {"ModelName", *metric.labels}
        bounds = {labels["le"] for labels in found if "le" in labels} - {"+Inf"}
        assert {float(one) for one in bounds} == (
            set(BUCKETS) if metric.kind == "histogram" else set()
        )
    kinds = {labels.get("Kind") for name, labels in series if name == "colorize_replies_total"}
    assert kinds >= set(KINDS)
    pytest.importorskip("promql_parser")
    assert unanswered("Triton", series) == []


@pytest.mark.server
def test_a_pictures_stages_are_spans_under_tritons_and_those_under_its_callers(
    port: int, collector: Collector, library: dict[str, Pipeline]
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    caller = Caller.new()
    headers = [f"-H{name}: {value}" for name, value in caller.headers.items()]
    reply = post(port, "colorize", PHOTO, *headers)
    assert reply == Answer(200, library["colorize"].colorize(PHOTO).body)
    spans = collector.spans(caller, 4 + len(STAGES))
    above = ["InferRequest", "colorize", "picture"]  # Triton's, its model's, and ours
    parents = [caller.span, *(spans[name].id for name in above)]
    assert [spans[name].parent for name in above] == parents[:3]
    assert {spans[stage].parent for stage in STAGES} == {spans["picture"].id}
    assert sorted(STAGES, key=lambda stage: spans[stage].start) == list(STAGES)
    assert {span.status for span in spans.values()} == {""}
    assert spans["picture"].attributes == {
        "colorize.model": "colorize",
        "colorize.request": "",
        "colorize.graph": library["colorize"].graph.sha256,
        "colorize.pixels": str(90 * 120),
        "colorize.bytes_in": str(len(PHOTO)),
        "colorize.bytes": str(len(reply.body)),
    }


@pytest.mark.server
def test_the_span_of_a_picture_that_fails_tells_the_error(port: int, collector: Collector) -> None:
    pytest.importorskip("opentelemetry.sdk")
    caller = Caller.new()
    headers = [f"-H{name}: {value}" for name, value in caller.headers.items()]
    reply = post(port, "colorize", b"text", *headers)
    spans = collector.spans(caller, 5)
    for name in ("picture", "read"):
        assert f"415 not_a_picture: {spans[name].status}".encode() == reply.body
        assert spans[name].attributes["error.type"] == "not_a_picture"
    assert spans["read"].parent == spans["picture"].id
    assert spans["read"].events == ("exception",)


@pytest.mark.server
def test_requests_that_are_cancelled_over_grpc_free_their_places_before_any_work(port: int) -> None:
    module = pytest.importorskip("tritonclient.grpc")

    def tensor(body: bytes) -> Any:
        row = np.frombuffer(body, np.uint8)[None]
        given = module.InferInput("PICTURE", row.shape, "UINT8")
        given.set_data_from_numpy(row)
        return given

    large, small = tensor(encoded(picture(2400, 3200), "JPEG")), tensor(PHOTO)
    cancelled, done = (
        'nv_inference_request_failure{model="colorize",reason="CANCELED"',
        'nv_inference_count{model="colorize",',
    )
    before = counted(port, cancelled), counted(port, done)
    answers: SimpleQueue[Any] = SimpleQueue()
    with module.InferenceServerClient(f"127.0.0.1:{port + 1}") as client:

        def ask(photo: Any, **options: str) -> Any:
            def answered(result: Any, error: Any) -> None:
                answers.put(error or result)

            return client.async_infer("colorize", [photo], answered, parameters=options)

        ask(large, format="png", bits="16")  # takes seconds
        time.sleep(0.5)  # it is in work
        behind = [ask(small) for _ in range(6)]
        time.sleep(0.1)  # they have arrived
        for waiting in behind:
            waiting.cancel()
        ask(small)
        seen = [answers.get(timeout=SECONDS) for _ in range(8)]
    assert sum(isinstance(one, Exception) for one in seen) == 6
    ended = time.monotonic() + SECONDS
    while True:  # Triton counts after it has answered
        failed, made = counted(port, cancelled) - before[0], counted(port, done) - before[1]
        if (failed and made >= 2) or time.monotonic() > ended:
            break
        time.sleep(0.05)
    assert made == 2
    assert 1 <= failed <= 6  # those that were cancelled after they had arrived


@pytest.mark.server
def test_sigterm_lets_triton_finish_what_it_has_accepted(
    triton_server: Triton, library: dict[str, Pipeline]
) -> None:
    """The last of all (see conftest.py), since it ends the server that the others share."""
    process, port = triton_server
    large = encoded(picture(2400, 3200), "JPEG")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(post, port, "colorize", large)]
        time.sleep(0.3)  # one is in work, and the others queue behind it
        waiting += [pool.submit(post, port, "colorize", large) for _ in range(3)]
        time.sleep(0.2)
        process.terminate()
        answers = [one.result(timeout=SECONDS) for one in waiting]
    assert answers == [Answer(200, library["colorize"].colorize(large).body)] * 4
    assert process.wait(SECONDS) == 0
