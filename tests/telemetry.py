"""What the servers' users have beside them: a collector of traces, and Prometheus' queries."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import yaml

from tests.support import ROOT, SECONDS, Handler, any_server, send

MONITORING = ROOT / "docs" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = json.loads((MONITORING / "grafana.json").read_text())["panels"]

Series = tuple[str, Mapping[str, str]]  # a metric's name, and its labels


class Span(NamedTuple):
    name: str
    id: str
    parent: str
    start: int  # nanoseconds
    end: int
    status: str  # empty, or the error's
    service: str
    attributes: Mapping[str, str]
    events: tuple[str, ...]


class Collector:
    """An OpenTelemetry collector over HTTP.

    Attributes:
        variables: for a server to send it the spans of pictures whose caller is traced.
    """

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        bodies = self._bodies

        class Exports(Handler):
            def do_POST(self) -> None:
                bodies.append(self.body())
                self.answer(200)

        self._server = any_server(Exports)

    def __enter__(self) -> Collector:
        self.url = self._server.__enter__()
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "100",  # milliseconds
            "NO_PROXY": "127.0.0.1",
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def spans(self, caller: Caller, count: int) -> dict[str, Span]:
        """Wait for so many spans of a trace; gives them by name."""
        deadline = time.monotonic() + SECONDS
        while len(found := list(self._spans(caller.trace))) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert len(found) == count, found
        return {span.name: span for span in found}

    def _spans(self, trace: str) -> Iterator[Span]:
        parts = [part for body in list(self._bodies) for part in _read(body)["resourceSpans"]]
        for part in parts:
            service = _plain(part["resource"])["service.name"]
            for one in (span for scope in part["scopeSpans"] for span in scope["spans"]):
                if one["traceId"] == trace:
                    status = one.get("status", {})
                    yield Span(
                        one["name"],
                        one["spanId"],
                        one["parentSpanId"],
                        int(one["startTimeUnixNano"]),
                        int(one["endTimeUnixNano"]),
                        status.get("message", "") if "ERROR" in str(status.get("code")) else "",
                        service,
                        _plain(one),
                        tuple(event["name"] for event in one.get("events", ())),
                    )


def _read(body: bytes) -> dict[str, Any]:
    """Read what was exported: Triton sends JSON, OpenTelemetry's SDK for Python sends protobuf."""
    if body[:1] == b"{":
        return dict(json.loads(body))
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    text = MessageToJson(ExportTraceServiceRequest.FromString(body))
    # In protobuf's own JSON, bytes are base64; in OpenTelemetry's, ids are hexadecimal.
    ids = re.compile(r'(?<=Id": ")[^"]+')
    return dict(json.loads(ids.sub(lambda one: base64.b64decode(one[0]).hex(), text)))


def _plain(owner: Mapping[str, Any]) -> dict[str, str]:
    """Take attributes, as text."""
    pairs = owner.get("attributes", ())
    return {one["key"]: str(next(iter(one["value"].values()))) for one in pairs}


class Caller(NamedTuple):
    """Someone who traces, and sends a picture."""

    trace: str
    span: str

    @classmethod
    def new(cls) -> Caller:
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @property
    def headers(self) -> dict[str, str]:
        return {"Traceparent": f"00-{self.trace}-{self.span}-01"}


def scraped(port: int) -> tuple[str, list[Series]]:
    """Read what Prometheus would; gives the text, and its series.

    A counter that has not counted yet has only a line of its type: a series without labels.
    """
    text = send("GET", f"http://127.0.0.1:{port}/metrics").body.decode()
    found = re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE)
    found += [(name, "") for name in re.findall(r"^# TYPE (\w+) counter$", text, re.MULTILINE)]
    return text, [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in found]


def unanswered(server: Literal["TorchServe", "Triton"], series: list[Series]) -> list[str]:
    """Name the panels and alerts that ask a server for what it doesn't report.

    A line of a panel is for the server whose name its legend begins with, or else for both.
    """
    other = {"TorchServe": "Triton", "Triton": "TorchServe"}[server]
    lines = [(str(panel["title"]), one) for panel in PANELS for one in panel["targets"]]
    asked = [(t, one["expr"]) for t, one in lines if not one["legendFormat"].startswith(other)]
    asked += [(rule["alert"], rule["expr"]) for rule in ALERTS]
    return [f"{title}: {query}" for title, query in asked if not answered(query, series)]


def answered(query: str, series: list[Series]) -> bool:
    """Whether there are series for all that a query asks; of `a or b`, for either."""
    import promql_parser as promql

    def walk(node: Any, groups: tuple[str, ...] = ()) -> bool:
        match node:
            case promql.BinaryExpr() if str(node.op).lower() == "or":
                return walk(node.lhs, groups) or walk(node.rhs, groups)
            case promql.BinaryExpr():
                return walk(node.lhs, groups) and walk(node.rhs, groups)
            case promql.AggregateExpr():
                labels = node.modifier.labels if node.modifier else ()
                return walk(node.expr, (*groups, *labels))
            case promql.Call():
                return all(walk(one, groups) for one in node.args)
            case promql.ParenExpr():
                return walk(node.expr, groups)
            case promql.MatrixSelector():
                return walk(node.vector_selector, groups)
            case promql.VectorSelector():
                return any(
                    name == node.name
                    and set(groups) <= labels.keys()
                    and all(_matches(one, labels) for one in node.matchers.matchers)
                    for name, labels in series
                )
            case promql.NumberLiteral():
                return True
        raise AssertionError(f"a kind of query that this test doesn't know: {node}")

    return walk(promql.parse(query.replace("$__rate_interval", "1m")))


def _matches(matcher: Any, labels: Mapping[str, str]) -> bool:
    value, name = labels.get(matcher.name, ""), str(matcher.op)
    found = re.fullmatch(matcher.value, value) if "Re" in name else value == matcher.value
    return bool(found) != ("Not" in name)
