"""TorchServe's side of the pipeline: requests in, pictures or errors out, each on its own.

TorchServe imports this file from the unpacked archive and makes one object of its one class.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The archive carries its own colorizer. An installed one, or one on PYTHONPATH, may be of another
# version, and must not be the one that runs.
_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)

import torch  # noqa: E402

if TYPE_CHECKING:
    from colorizer.pipeline import Options, Pipeline, Reply

log = logging.getLogger(__name__)

# What is reported: its kind, unit, and dimensions beside the model's name. TorchServe's front end
# passes on those that handlers/torchserve/metrics.yaml names too.
METRICS: dict[str, tuple[str, str, list[str]]] = {
    "colorize_stage_seconds": ("histogram", "s", ["Stage"]),
    "colorize_picture_megapixels": ("histogram", "megapixels", []),
    "colorize_upload_mebibytes": ("histogram", "MiB", []),
    "colorize_batch_pictures": ("histogram", "count", []),
    "colorize_replies_total": ("counter", "count", ["Kind"]),
}

PICTURE_FIELDS = ("body", "data")  # the raw body, or the form field that holds the picture


class ColorizeHandler:
    """Answer batches: a broken picture gets its own error, its neighbours get their colours."""

    model = ""
    metrics: Mapping[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Load the archive's graph, and run it once, so that the first request is not the slowest.

        Raises:
            BadGraph: if the graph is missing or altered; TorchServe then logs it and retries.
            RuntimeError: if another colorizer than the archive's was imported.
        """
        from colorizer import pipeline
        from colorizer.threads import available_cores

        folder = context.system_properties["model_dir"]
        if not Path(pipeline.__file__).is_relative_to(Path(folder).resolve()):
            raise RuntimeError(
                f"the colorizer that runs is {pipeline.__file__}, not the archive's in {folder}"
            )
        settings = (getattr(context, "model_yaml_config", None) or {}).get("handler", {})
        torch.set_num_threads(int(settings.get("threads") or available_cores()))
        gpu = context.system_properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        self.pipeline: Pipeline = pipeline.Pipeline.load(Path(folder), device)
        self.pipeline.warm_up()
        self.model = str(getattr(context, "model_name", None) or "")
        self.metrics = _declare_metrics(getattr(context, "metrics", None))
        log.info("%s network on %s", self.pipeline.graph.head, device)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Colorize one batch.

        Args:
            data: for each request its fields; a raw body is the field "body".
            context: TorchServe's, for headers in, and for status and content type out.

        Returns:
            For each request, in order, a picture, or JSON with code, type and message.
        """
        from colorizer.errors import RequestError

        requests: list[tuple[bytes, Options] | RequestError] = []
        for index, row in enumerate(data):
            try:
                requests.append(self._read_request(row, context.get_all_request_header(index)))
            except RequestError as error:
                requests.append(error)
        self._report("colorize_batch_pictures", len(data))
        good = [request for request in requests if not isinstance(request, RequestError)]
        replies = iter(
            self.pipeline.colorize_batch([body for body, _ in good], [o for _, o in good])
        )
        return [
            self._answer(
                request if isinstance(request, RequestError) else next(replies), index, context
            )
            for index, request in enumerate(requests)
        ]

    def _read_request(
        self, row: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[bytes, Options]:
        """Take the picture and the options of one request; a form field beats a header."""
        from colorizer.errors import BadPicture, NotAPicture
        from colorizer.options import Options, from_headers

        fields = from_headers(headers.items())
        body = None
        for name, value in row.items():
            if name in PICTURE_FIELDS:
                body = value
            else:
                fields[name] = value.decode("utf-8", "replace") if _is_bytes(value) else str(value)
        options = Options.parse(fields)
        if body is None:
            raise BadPicture(
                "The form has no picture; post the file's bytes, or a form field named 'data'."
            )
        if not _is_bytes(body):  # TorchServe has decoded a body that called itself text or JSON
            raise NotAPicture(
                "The body calls itself text or JSON; post the picture file's own bytes."
            )
        return bytes(body), options

    def _answer(self, reply: Reply | Exception, index: int, context: Any) -> bytes:
        """Set status and content type of one request, and give its bytes."""
        from colorizer.errors import Failure, RequestError

        request = context.get_request_id(index)
        if not isinstance(reply, Exception):
            self._note(reply, request)
            times = (f"{name};dur={1000 * value:.1f}" for name, value in reply.seconds.items())
            context.set_response_header(index, "Server-Timing", ", ".join(times))
            context.set_response_content_type(index, reply.content_type)
            return reply.body
        failure = Failure.of(reply, request)
        log.info(json.dumps({"request": request, "reply": failure.kind}))
        self._report("colorize_replies_total", 1, failure.kind)
        if not isinstance(reply, RequestError):
            log.error("request %s failed", request, exc_info=reply)
        context.set_response_status(failure.status, failure.phrase, index)
        context.set_response_content_type(index, "application/json")
        return failure.body

    def _note(self, reply: Reply, request: str) -> None:
        """Log a picture that went well, and report its size and times."""
        times = {name: round(value, 4) for name, value in reply.seconds.items()}
        size = {"bytes_in": reply.bytes_in, "pixels": reply.pixels, "bytes": len(reply.body)}
        log.info(json.dumps({"request": request, "reply": "picture", **size, "seconds": times}))
        self._report("colorize_replies_total", 1, "picture")
        self._report("colorize_picture_megapixels", reply.pixels / 1e6)
        self._report("colorize_upload_mebibytes", reply.bytes_in / 2**20)
        for stage, value in times.items():
            self._report("colorize_stage_seconds", value, stage)

    def _report(self, name: str, value: float, *dimensions: str) -> None:
        if name in self.metrics:
            self.metrics[name].add_or_update(value, [self.model, *dimensions])


def _declare_metrics(cache: Any) -> dict[str, Any]:
    """Tell TorchServe's cache what will be reported; nothing where there is no TorchServe."""
    if cache is None:
        return {}
    from ts.metrics.metric_type_enum import MetricTypes

    return {
        name: cache.add_metric_to_cache(name, unit, ["ModelName", *more], MetricTypes(kind))
        for name, (kind, unit, more) in METRICS.items()
    }


def _is_bytes(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray))
