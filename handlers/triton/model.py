"""Triton's side of the pipeline: the same pictures and errors as TorchServe's.

Export puts this file into a model repository as model.py; Triton's Python backend makes one
object of its TritonPythonModel.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The model's folder carries its own colorizer. Triton puts that folder last on the path, where an
# installed one of another version would come before it.
_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))

import torch  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

if TYPE_CHECKING:
    from colorizer.errors import Failure
    from colorizer.options import Options
    from colorizer.pipeline import Pipeline, Reply

_SHARED = ("triton_", "sequence_")  # parameters that are Triton's own


class TritonPythonModel:
    """Answer batches: a broken picture gets its own error, its neighbours get their colours."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph beside this file, on the device that Triton says.

        Raises:
            BadGraph: if the graph is missing or altered; Triton then doesn't get ready.
            RuntimeError: if another colorizer than the folder's was imported.
        """
        from colorizer import pipeline
        from colorizer.threads import available_cores

        if not Path(pipeline.__file__).is_relative_to(_HERE):
            raise RuntimeError(f"the colorizer that runs is {pipeline.__file__}, not {_HERE}'s")
        settings = json.loads(args["model_config"])["parameters"]
        threads = int(settings["threads"]["string_value"])
        torch.set_num_threads(threads or available_cores())
        gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        device = f"cuda:{args['model_instance_device_id']}" if gpu else "cpu"
        self.pipeline: Pipeline = pipeline.Pipeline.load(_HERE, device)
        self.pipeline.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Colorize one batch.

        Args:
            requests: Triton's, each with PICTURE, (1, N) uint8, and options as parameters.

        Returns:
            For each request, in order, its error, or COLOUR, (1, N) uint8.
        """
        from colorizer.errors import RequestError

        asked: list[tuple[bytes, Options] | RequestError] = []
        for request in requests:
            try:
                asked.append((_body(request), _options(request)))
            except RequestError as error:
                asked.append(error)
        good = [one for one in asked if not isinstance(one, RequestError)]
        replies = iter(
            self.pipeline.colorize_batch([body for body, _ in good], [o for _, o in good])
        )
        return [
            _answer(request, one if isinstance(one, RequestError) else next(replies))
            for request, one in zip(requests, asked, strict=True)
        ]


def _body(request: Any) -> bytes:
    """Take the picture's bytes.

    By DLPack: the stub of Triton 2.51 was built for numpy 1, and in numpy 2 its arrays repeat their
    first byte.

    Raises:
        BadPicture: if the request holds several.
    """
    from colorizer.errors import BadPicture

    picture = triton.get_input_tensor_by_name(request, "PICTURE")
    if picture.shape()[0] != 1:
        raise BadPicture("The request has several rows; send each picture in a request of its own.")
    return bytes(torch.utils.dlpack.from_dlpack(picture.to_dlpack()).cpu().numpy())


def _options(request: Any) -> Options:
    """Read a request's options: its parameters, and headers that Triton was told to forward.

    Raises:
        BadOption: if one doesn't exist, or isn't allowed.
    """
    from colorizer.options import HEADER, Options, from_headers

    parameters = {
        name: str(value)
        for name, value in json.loads(request.parameters() or "{}").items()
        if not name.startswith(_SHARED)
    }
    fields = from_headers(parameters.items())
    fields |= {
        name: value for name, value in parameters.items() if not name.lower().startswith(HEADER)
    }
    return Options.parse(fields)


def _answer(request: Any, reply: Reply | Exception) -> Any:
    from colorizer.errors import Failure, RequestError

    if isinstance(reply, Exception):
        if not isinstance(reply, RequestError):
            triton.Logger.log_error(f"request {request.request_id()!r} failed: {reply!r}")
        return triton.InferenceResponse(error=_error(Failure.of(reply, request.request_id())))
    row = torch.frombuffer(bytearray(reply.body), dtype=torch.uint8)[None]
    colour = triton.Tensor.from_dlpack("COLOUR", row.__dlpack__())
    return triton.InferenceResponse([colour])


def _error(failure: Failure) -> Any:
    """Triton's codes are few: 400 for what its sender can mend, 500 for what is ours."""
    code = triton.TritonError.INTERNAL if failure.status >= 500 else triton.TritonError.INVALID_ARG
    return triton.TritonError(f"{failure.status} {failure.kind}: {failure.message}", code)
