"""What asks for traces, and what doesn't; test_torchserve.py and test_triton.py collect them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from colorizer.pipeline import Outcome, Stage
from colorizer.telemetry import Tracer, figures
from tests.support import ROOT, Capture, Patch

OFF: list[dict[str, str]] = [
    {},
    {"OTEL_SERVICE_NAME": "colorizer"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "TRUE"},
]
WRONG = [
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "no exporter zipkin"),
    ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp over grpc"),
    (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
        },
        "otlp over http/json",
    ),
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: Patch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def test_without_its_variables_nothing_of_opentelemetry_is_imported() -> None:
    script = (
        "import os, sys; from colorizer import pipeline, telemetry\n"
        f"for variables in {OFF}:\n"
        "    os.environ.update(variables)\n"
        "    assert telemetry.Tracer.from_environment() is None, variables\n"
        "    for name in variables: del os.environ[name]\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize(("variables", "said"), WRONG)
def test_an_exporter_that_there_is_not_is_named_and_the_server_starts_without_traces(
    variables: dict[str, str], said: str, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        assert Tracer.from_environment() is None
    assert said in caplog.text
    assert "use otlp over http/protobuf" in caplog.text


def test_a_variable_that_cannot_be_read_is_told_and_the_server_starts_without_traces(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    with caplog.at_level(logging.WARNING):
        assert Tracer.from_environment() is None
    assert "refuses its variables: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be" in caplog.text


def test_without_the_extra_the_log_says_what_to_install(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)  # as if it weren't there
    with caplog.at_level(logging.WARNING):
        assert Tracer.from_environment() is None
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in caplog.text


def test_the_console_gets_spans_under_the_name_that_the_server_was_given(
    monkeypatch: Patch, capsys: Capture
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "museum")
    tracer = Tracer.from_environment()
    assert tracer is not None
    bug = Outcome(error=ZeroDivisionError("secret"), began=10**18)
    bug.stages.append(Stage("read", 10**18, 10**18 + 5))
    tracer.picture(bug, {"traceparent": "nonsense"}, "colorize", "request")
    tracer.close()
    said = capsys.readouterr().out
    assert '"service.name": "museum"' in said
    assert '"error.type": "internal_error"' in said
    assert '"parent_id": null' in said  # of a caller that can't be read


def test_a_picture_that_failed_is_counted_by_its_kind_alone() -> None:
    (figure,) = figures(Outcome(error=ZeroDivisionError("secret")))
    assert figure == ("colorize_replies_total", 1, ("internal_error",))
