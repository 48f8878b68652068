"""Triton's side of the pipeline: the same pictures and errors as TorchServe's.

Export puts this file into a model repository as model.py; Triton's Python backend makes one
object of its TritonPythonModel.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

# The model's folder carries its own colorizer. Triton puts that folder last on the path, where an
# installed one of another version would come before it.
_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

from colorizer import engines, graph, pipeline, telemetry  # noqa: E402
from colorizer.errors import BadPicture, Failure, RequestError  # noqa: E402
from colorizer.options import HEADER, from_headers  # noqa: E402

_SHARED = ("triton_", "sequence_")  # parameters that are Triton's own


class TritonPythonModel:
    """Answer batches: a broken picture gets its own error, its neighbours get their colours."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph beside this file, on the device that Triton says.

        If the model's config names a network, that Triton model runs it, and this one has only its
        manifest.

        Raises:
            BadGraph: if the graph is missing or altered; Triton then doesn't get ready.
            RuntimeError: if another colorizer than the folder's was imported.
        """
        if not Path(pipeline.__file__).is_relative_to(_HERE):
            raise RuntimeError(f"the colorizer that runs is {pipeline.__file__}, not {_HERE}'s")
        self.model = args["model_name"]
        self._declare_metrics()
        self.tracer = telemetry.Tracer.from_environment()
        settings = json.loads(args["model_config"])["parameters"]
        if "network" in settings:
            run = partial(_ask, settings["network"]["string_value"])
            self.pipeline = pipeline.Pipeline(graph.read_graph(_HERE), run)
            return  # not warmed up: the network may not be ready yet
        threads = int(settings["threads"]["string_value"]) or None
        gpu = args["model_instance_kind"] == "GPU"
        device = engines.device_of(int(args["model_instance_device_id"]) if gpu else None)
        self.pipeline = pipeline.Pipeline.load(_HERE, device, threads=threads)
        self.pipeline.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Colorize one batch.

        Args:
            requests: Triton's, each with PICTURE, (1, N) uint8, and options as parameters.

        Returns:
            For each request, in order, its error, or COLOUR, (1, N) uint8.
        """
        self._report(telemetry.Figure("colorize_batch_pictures", len(requests)))
        outcomes = self.pipeline.colorize_batch([(_body(one), _fields(one)) for one in requests])
        return [
            self._answer(request, outcome)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    def finalize(self) -> None:
        """Send the spans that are left."""
        if self.tracer is not None:
            self.tracer.close()

    def _answer(self, request: Any, outcome: pipeline.Outcome) -> Any:
        """Report how a picture ended, and make Triton's response of it."""
        for figure in telemetry.figures(outcome):
            self._report(figure)
        if self.tracer is not None:
            self.tracer.picture(outcome, _parent(request), self.model, request.request_id())
        if (reply := outcome.reply) is None:
            error = outcome.error or AssertionError("a picture without an outcome")
            if not isinstance(error, RequestError):
                triton.Logger.log_error(f"request {request.request_id()!r} failed: {error!r}")
            return triton.InferenceResponse(error=_error(Failure.of(error, request.request_id())))
        writable = bytearray(reply.body)  # DLPack takes no other
        row = np.frombuffer(writable, np.uint8)[None]
        colour = triton.Tensor.from_dlpack("COLOUR", row.__dlpack__())
        # Replies have parameters from Triton 25.02 on.
        if "parameters" not in (triton.InferenceResponse.__init__.__doc__ or ""):
            return triton.InferenceResponse([colour])
        told = {"graph": reply.graph, "server_timing": telemetry.server_timing(reply.seconds)}
        return triton.InferenceResponse([colour], parameters=told)

    def _declare_metrics(self) -> None:
        """Make Triton's metrics of METRICS, with their values of each label, which begin at 0."""
        values = {"Stage": pipeline.STAGES, "Kind": telemetry.KINDS}
        self.metrics: dict[tuple[str, ...], Any] = {}
        self.families = []  # a metric dies with its family
        for name, one in telemetry.METRICS.items():
            counts = one.kind == "counter"
            family = triton.MetricFamily(
                name=name,
                description=one.help,
                kind=triton.MetricFamily.COUNTER if counts else triton.MetricFamily.HISTOGRAM,
            )
            self.families.append(family)
            for chosen in product(*(values[label] for label in one.labels)):
                labels = {"ModelName": self.model, **dict(zip(one.labels, chosen, strict=True))}
                buckets = {} if counts else {"buckets": list(telemetry.BUCKETS)}
                metric = family.Metric(labels=labels, **buckets)
                self.metrics[(name, *chosen)] = metric.increment if counts else metric.observe

    def _report(self, figure: telemetry.Figure) -> None:
        self.metrics[(figure.metric, *figure.labels)](figure.value)


def _ask(network: str, lightness: np.ndarray) -> np.ndarray:
    """Have another model run the network: (B, 1, S, S) -> (B, C, S, S).

    Raises:
        RuntimeError: with Triton's words, if it can't.
    """
    given = triton.Tensor.from_dlpack("LIGHTNESS", lightness.__dlpack__())
    reply = triton.InferenceRequest(
        model_name=network, requested_output_names=["OUTPUT"], inputs=[given]
    ).exec()
    if reply.has_error():
        raise RuntimeError(f"{network}: {reply.error().message()}")
    output = triton.get_output_tensor_by_name(reply, "OUTPUT")
    return np.from_dlpack(output).copy()  # the reply's memory goes with it


def _body(request: Any) -> bytes | RequestError:
    """Take the picture's bytes, or why there are none.

    By DLPack: the stub of Triton 2.51 was built for numpy 1, and in numpy 2 its arrays repeat their
    first byte.
    """
    picture = triton.get_input_tensor_by_name(request, "PICTURE")
    if picture.shape()[0] != 1:
        return BadPicture(
            "The request has several rows; send each picture in a request of its own."
        )
    return np.from_dlpack(picture).tobytes()


def _fields(request: Any) -> dict[str, str]:
    """Take a request's options: its parameters, and headers that Triton was told to forward."""
    parameters = {
        name: str(value)
        for name, value in json.loads(request.parameters() or "{}").items()
        if not name.startswith(_SHARED) and name.lower() not in telemetry.PARENT
    }
    fields = from_headers(parameters.items())
    fields |= {
        name: value for name, value in parameters.items() if not name.lower().startswith(HEADER)
    }
    return fields


def _parent(request: Any) -> dict[str, str]:
    """Take the span above ours: Triton's own, where it traces, or else the caller's."""
    own = request.trace().get_context() if request.trace() else None
    return telemetry.parent(json.loads(own or request.parameters() or "{}"))


def _error(failure: Failure) -> Any:
    """Triton has few codes: 400 for what its sender can fix, 500 for what is our fault."""
    code = triton.TritonError.INTERNAL if failure.status >= 500 else triton.TritonError.INVALID_ARG
    return triton.TritonError(f"{failure.status} {failure.kind}: {failure.message}", code)
