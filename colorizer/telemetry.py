"""Metrics, Server-Timing and traces of pictures, the same on both servers.

Nothing here imports OpenTelemetry unless its variables ask for traces.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from colorizer.errors import REFUSALS, Failure

if TYPE_CHECKING:
    from colorizer.pipeline import Outcome

log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """A metric, as it is declared to a server; its first label is ModelName.

    Attributes:
        kind: counter or histogram.
        unit: in TorchServe's words.
        labels: its further labels.
        help: a sentence for Prometheus.
    """

    kind: Literal["counter", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str


METRICS = {
    "colorize_stage_seconds": Metric(
        "histogram", "s", ("Stage",), "Time that a picture spent in each stage."
    ),
    "colorize_picture_seconds": Metric(
        "histogram", "s", (), "Time from the start of a picture's batch until it was finished."
    ),
    "colorize_picture_megapixels": Metric("histogram", "megapixels", (), "Size of pictures."),
    "colorize_upload_mebibytes": Metric("histogram", "MiB", (), "Size of the files sent."),
    "colorize_batch_pictures": Metric("histogram", "count", (), "Pictures in a batch."),
    "colorize_replies_total": Metric(
        "counter", "count", ("Kind",), "Replies: pictures, and errors by their type."
    ),
}
# Upper bounds of every histogram's buckets: TorchServe has no others, and a quantile over both
# servers needs the same on each.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# Values of the label Kind.
KINDS = ("picture", "internal_error", *sorted(one.kind for one in REFUSALS))

PARENT = ("traceparent", "tracestate")  # headers of W3C Trace Context
PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"  # of the extra "traces"


class Figure(NamedTuple):
    """A value of one of METRICS, with its labels after ModelName."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()


def figures(outcome: Outcome) -> Iterator[Figure]:
    """Yield what is reported about a picture that has ended."""
    if (reply := outcome.reply) is None:
        yield Figure("colorize_replies_total", 1, (kind_of(outcome),))
        return
    yield Figure("colorize_replies_total", 1, ("picture",))
    yield Figure("colorize_picture_megapixels", reply.pixels / 1e6)
    yield Figure("colorize_upload_mebibytes", reply.bytes_in / 2**20)
    yield Figure("colorize_picture_seconds", (outcome.stages[-1].end - outcome.began) / 1e9)
    for stage, seconds in reply.seconds.items():
        yield Figure("colorize_stage_seconds", seconds, (stage,))


def kind_of(outcome: Outcome) -> str:
    """Name how a picture ended, by one of KINDS."""
    return Failure.of(outcome.error, "").kind if outcome.error else "picture"


def server_timing(seconds: Mapping[str, float]) -> str:
    """Write the stages' seconds as the header Server-Timing, in milliseconds."""
    return ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in seconds.items())


def parent(headers: Mapping[str, Any]) -> dict[str, str]:
    """Read the caller's span from a request's headers."""
    return {name.lower(): str(value) for name, value in headers.items() if name.lower() in PARENT}


class Tracer:
    """Sends a picture's stages as spans, in the background; `Tracer.from_environment` makes it."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("colorizer")

    @classmethod
    def from_environment(cls) -> Tracer | None:
        """Make a tracer if OpenTelemetry's variables ask for one, and it is installed.

        OTEL_TRACES_EXPORTER (otlp, console or none) or OTEL_EXPORTER_OTLP_ENDPOINT ask; the SDK
        reads all others. What can't be done is logged: a server without traces is better than none.

        Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables
        """
        given = {name: value.strip() for name, value in os.environ.items() if value.strip()}
        endpoints = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
        wanted = given.get("OTEL_TRACES_EXPORTER", "otlp" if endpoints & given.keys() else "none")
        if wanted == "none" or given.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        protocol = given.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        protocol = given.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
        if wanted not in ("otlp", "console") or (wanted == "otlp" and protocol != "http/protobuf"):
            how = wanted if wanted != "otlp" else f"otlp over {protocol}"
            log.warning("No traces: there is no exporter %.40s; use otlp over http/protobuf", how)
            return None
        try:
            return cls(_provider(wanted))
        except ImportError as error:
            log.warning("No traces: %s; run pip install %s", error, PACKAGES)
        except ValueError as error:
            log.warning("No traces: OpenTelemetry refuses its variables: %s", error)
        return None

    def picture(
        self, outcome: Outcome, caller: Mapping[str, str], model: str, request: str
    ) -> None:
        """Send the spans of a picture that has ended.

        Args:
            outcome: how it ended.
            caller: its span, by the names in PARENT; without one, the trace begins here.
            model: the name under which it is served.
            request: the request's id.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        told: dict[str, Any] = {"colorize.model": model, "colorize.request": request}
        if reply := outcome.reply:
            told |= {"colorize.graph": reply.graph, "colorize.pixels": reply.pixels}
            told |= {"colorize.bytes_in": reply.bytes_in, "colorize.bytes": len(reply.body)}
        above = TraceContextTextMapPropagator().extract(caller)
        whole = self._tracer.start_span(
            "picture", above, SpanKind.SERVER, told, start_time=outcome.began
        )
        if not whole.is_recording():  # not sampled
            return
        here = set_span_in_context(whole)
        spans = [
            (self._tracer.start_span(stage.name, here, start_time=stage.start), stage.end)
            for stage in outcome.stages
        ]
        if error := outcome.error:
            failed, end = spans[-1] if spans else (whole, None)
            failed.record_exception(error, timestamp=end)
            for span in (whole, failed):
                span.set_attribute("error.type", kind_of(outcome))
                span.set_status(Status(StatusCode.ERROR, str(error)))
        for span, end in spans:
            span.end(end)
        whole.end(max((end for _, end in spans), default=None))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _provider(exporter: str) -> Any:
    """Make OpenTelemetry's SDK, which reads its own variables.

    Raises:
        ImportError: if it isn't installed.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    send: SpanExporter = ConsoleSpanExporter()
    if exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        send = OTLPSpanExporter()
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # nobody named it
        resource = resource.merge(Resource({SERVICE_NAME: "colorizer"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(send))
    return provider
