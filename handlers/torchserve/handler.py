"""TorchServe's handler: requests in, pictures or errors out, independently of one another.

TorchServe imports this file from the unpacked archive and makes one object of its one class.
"""

from __future__ import annotations

import json
import logging
import sys
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

# The archive carries its own colorizer, which must win over an installed one or one on PYTHONPATH.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from colorizer import engines, pipeline, telemetry
from colorizer.errors import BadOption, BadPicture, Failure, NotAPicture, RequestError, TooLarge
from colorizer.options import HEADER, NAMES, from_headers

log = logging.getLogger(__name__)

# Names under which a picture comes: the raw body, the form field of the documents, and others that
# people try.
PICTURE_FIELDS = ("body", "data", "file", "image", "photo", "picture")
FORM = "application/x-www-form-urlencoded"  # what curl calls every body of -d and --data-binary


class ColorizeHandler:
    """Answer batches: a broken picture gets its own error, its neighbours get their colours."""

    model = ""
    metrics: Mapping[str, Any] = {}
    tracer: telemetry.Tracer | None = None

    def initialize(self, context: Any) -> None:
        """Load the archive's graph, and run it once, so that the first request isn't the slowest.

        Raises:
            BadGraph: if the graph is missing or altered; TorchServe then logs it and retries.
            RuntimeError: if another colorizer than the archive's was imported.
        """
        folder = context.system_properties["model_dir"]
        if not Path(pipeline.__file__).is_relative_to(Path(folder).resolve()):
            raise RuntimeError(
                f"the colorizer that runs is {pipeline.__file__}, not the archive's in {folder}"
            )
        settings = (getattr(context, "model_yaml_config", None) or {}).get("handler", {})
        threads = int(settings.get("threads") or 0) or None
        gpu = context.system_properties.get("gpu_id")  # None where TorchServe sees no GPU
        device = engines.device_of(None if gpu is None else int(gpu))
        self.pipeline = pipeline.Pipeline.load(Path(folder), device, threads=threads)
        self.pipeline.warm_up()
        self.model = str(getattr(context, "model_name", None) or "")
        self.metrics = _declare_metrics(getattr(context, "metrics", None))
        for kind in telemetry.KINDS:  # a rate needs a zero to start from
            self._report(telemetry.Figure("colorize_replies_total", 0, (kind,)))
        self.tracer = telemetry.Tracer.from_environment()
        _keep_repeated_fields()
        log.info("%s network on %s", self.pipeline.graph.recipe.head, device)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Colorize one batch.

        Args:
            data: for each request its fields; a raw body is the field "body".
            context: TorchServe's, for headers in, and for status and content type out.

        Returns:
            For each request, in order, a picture, or JSON with code, type and message.
        """
        self._report(telemetry.Figure("colorize_batch_pictures", len(data)))
        outcomes = self.pipeline.colorize_batch(
            [
                self._read_request(row, context.get_all_request_header(index))
                for index, row in enumerate(data)
            ]
        )
        return [self._answer(outcome, index, context) for index, outcome in enumerate(outcomes)]

    def _read_request(
        self, row: Mapping[str, Any], headers: Mapping[str, Any]
    ) -> tuple[bytes | RequestError, dict[str, str]]:
        """Take one request's picture, or why there is none, and its options as text.

        Args:
            row: its form fields, or its raw body as the field "body".
            headers: its headers; beside them, for each field a mapping with its content type. A
                form field beats a header.
        """
        sent = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        files = {
            name
            for name, about in headers.items()
            if isinstance(about, Mapping) and about.get("content-type")
        }
        encoding = sent.get("content-encoding", "").strip().lower()
        try:
            body, fields = _split_form(row, files, encoding)
            if not _is_bytes(body):  # TorchServe has decoded a body labelled as text or JSON
                raise NotAPicture(
                    "The body calls itself text or JSON; post the picture file's own bytes."
                )
            if "body" in row and encoding not in ("", "identity"):
                body = _decompress(bytes(body), encoding, self.pipeline.limits.max_bytes)
        except RequestError as error:
            return error, {}
        return bytes(body), from_headers(sent.items()) | fields

    def _answer(self, outcome: pipeline.Outcome, index: int, context: Any) -> bytes:
        """Set status and headers of one request, and give its bytes."""
        request, headers = context.get_request_id(index), context.get_all_request_header(index)
        if isinstance(outcome.error, (BadPicture, NotAPicture)) and _is_form(headers):
            outcome.error = NotAPicture(
                f"{outcome.error} It was sent as a form, {FORM}: curl -d does that, and drops "
                "bytes of the file. Post the whole file, by curl -T photo.jpg, or by "
                "--data-binary @photo.jpg with the header Content-Type: image/jpeg."
            )
        for figure in telemetry.figures(outcome):
            self._report(figure)
        if self.tracer is not None:
            self.tracer.picture(outcome, telemetry.parent(headers), self.model, request)
        if (reply := outcome.reply) is not None:
            times = {name: round(value, 4) for name, value in reply.seconds.items()}
            size = {"bytes_in": reply.bytes_in, "pixels": reply.pixels, "bytes": len(reply.body)}
            told = {"request": request, "reply": "picture", **size, "seconds": times}
            log.info(json.dumps(told))
            timing = telemetry.server_timing(reply.seconds)
            context.set_response_header(index, "Server-Timing", timing)
            context.set_response_header(index, "X-Colorize-Graph", reply.graph)
            context.set_response_content_type(index, reply.content_type)
            return reply.body
        error = outcome.error or AssertionError("a picture without an outcome")
        failure = Failure.of(error, request)
        log.info(json.dumps({"request": request, "reply": failure.kind}))
        if not isinstance(error, RequestError):
            log.error("request %s failed", request, exc_info=error)
        context.set_response_status(failure.status, failure.phrase, index)
        context.set_response_content_type(index, "application/json")
        return failure.body

    def _report(self, figure: telemetry.Figure) -> None:
        if figure.metric in self.metrics:
            value = round(figure.value, 6)  # in logs
            self.metrics[figure.metric].add_or_update(value, [self.model, *figure.labels])


def _declare_metrics(cache: Any) -> dict[str, Any]:
    """Declare to TorchServe what will be reported; nothing where there is no TorchServe."""
    if cache is None:
        return {}
    from ts.metrics.metric_type_enum import MetricTypes

    return {
        name: cache.add_metric_to_cache(
            name, one.unit, ["ModelName", *one.labels], MetricTypes(one.kind)
        )
        for name, one in telemetry.METRICS.items()
    }


def _split_form(
    row: Mapping[str, Any], files: Collection[str], encoding: str
) -> tuple[Any, dict[str, str]]:
    """Separate the picture of a request from its options.

    A field that has one of PICTURE_FIELDS' names is the picture. Where there is none, a file of any
    other name is.

    Args:
        row: fields by name; a list where several have one name.
        files: names of the fields that are files, not text.
        encoding: of the body, from the header Content-Encoding.

    Raises:
        BadPicture: if there is no picture, or more than one.
        NotAPicture: if the whole form is compressed, which TorchServe can't read.
        BadOption: if an option is given twice.
    """
    named: dict[str, Any] = {}
    others: dict[str, Any] = {}
    fields: dict[str, str] = {}
    for name, value in row.items():
        option = name.lower().removeprefix(HEADER)
        if name.lower() in PICTURE_FIELDS:
            named[name] = value
        elif name in files and option not in NAMES:
            others[name] = value
        elif option == "hints" and isinstance(value, (list, dict)) and not _repeated(value):
            fields[option] = json.dumps(value)  # TorchServe has read a field labelled as JSON
        elif isinstance(value, list):
            raise BadOption(f"{name!r:.40} is given {len(value)} times; give it once.")
        else:
            fields[option] = value.decode("utf-8", "replace") if _is_bytes(value) else str(value)
    pictures = named | others
    if not pictures and encoding not in ("", "identity"):
        raise NotAPicture(f"The form is compressed ({encoding:.40}); send it as it is.")
    if not pictures:
        raise BadPicture(
            "The form has no picture; its field is called data: curl -F data=@photo.jpg. Or post "
            "the file's bytes: curl -T photo.jpg."
        )
    (name, picture), *more = pictures.items()
    if more or isinstance(picture, list):
        where = ", ".join(f"{name!r:.40}" for name in pictures)
        raise BadPicture(
            f"The form has several files (in {where}); send one picture in each request, as data."
        )
    return picture, fields


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the header Content-Encoding, without ever holding more than a limit of bytes.

    Raises:
        NotAPicture: if it names another encoding than gzip and deflate.
        BadPicture: if the bytes aren't what it says, or are cut short.
        TooLarge: if there are more than the limit.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise NotAPicture(
            f"The body's Content-Encoding is {encoding!r:.40}; send it as it is, or use gzip."
        )
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its first bytes say
    try:
        whole = stream.decompress(body, limit + 1)
    except zlib.error:
        raise BadPicture(f"The body is not {encoding}, as its Content-Encoding says.") from None
    if len(whole) > limit:
        raise TooLarge(
            f"The body has more than {limit:,} bytes once it is decompressed; post a smaller copy."
        )
    if stream.unused_data or not stream.eof:
        fault = "goes on after its end" if stream.unused_data else "is cut short"
        raise BadPicture(f"The body's {encoding} (its Content-Encoding) {fault}; send it again.")
    return whole


def _keep_repeated_fields() -> None:
    """Make TorchServe keep all form fields of one name, as a list; it keeps only the last one.

    Otherwise, of two pictures in a form one would silently be lost, and the handler could not know.
    """
    if "ts.service" not in sys.modules:  # not in TorchServe's worker
        return
    from ts.service import Service

    merge = Service.retrieve_data_for_inference

    def keep(batch: Sequence[Mapping[str, Any]]) -> Any:
        headers, rows, ids = merge(batch)
        for request, row in zip(batch, rows, strict=True):
            names = [parameter["name"] for parameter in request["parameters"]]
            for name in {name for name in names if names.count(name) > 1}:
                row[name] = [one["value"] for one in request["parameters"] if one["name"] == name]
        return headers, rows, ids

    Service.retrieve_data_for_inference = staticmethod(keep)


def _is_form(headers: Mapping[str, Any]) -> bool:
    kinds = [value for name, value in headers.items() if name.lower() == "content-type"]
    return any(str(kind).partition(";")[0].strip().lower() == FORM for kind in kinds)


def _repeated(value: Any) -> bool:
    """Whether a field's value is those of several fields of one name."""
    return isinstance(value, list) and any(_is_bytes(one) for one in value)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray))
