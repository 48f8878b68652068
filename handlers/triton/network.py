"""The network alone, as a Triton model: one process owns the GPU, and batches for all that ask.

Export puts this file into a model repository as model.py, beside models of pictures that call it,
if it is told to share the network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))  # as in model.py

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

if TYPE_CHECKING:
    from colorizer.graph import Engine


class TritonPythonModel:
    """Run the network: on a GPU all rows of a batch together, on a CPU one by one.

    Summed in another order, a row could differ with its batch; on a CPU it never does.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph beside this file, on the device that Triton says.

        Raises:
            BadGraph: if the graph is missing or altered; Triton then doesn't get ready.
        """
        from colorizer import engines

        config = json.loads(args["model_config"])
        threads = int(config["parameters"]["threads"]["string_value"]) or None
        gpu = args["model_instance_kind"] == "GPU"
        device = engines.device_of(int(args["model_instance_device_id"]) if gpu else None)
        self.gpu = device != "cpu"
        graph, engine = engines.load(_HERE, device, threads=threads)
        self.engine: Engine = engine
        black = np.zeros((1, 1, graph.recipe.side, graph.recipe.side), np.float32)
        for batch in (1, int(config["max_batch_size"]), 1):  # TorchScript specializes at first
            self._run(black.repeat(batch, axis=0))

    def _run(self, lightness: np.ndarray) -> np.ndarray:
        if self.gpu:
            return self.engine(lightness)
        return np.concatenate([self.engine(row[None]) for row in lightness])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch.

        Args:
            requests: Triton's, each with LIGHTNESS, (B, 1, S, S) float32, 0..100.

        Returns:
            For each request, in order, OUTPUT, (B, C, S, S) float32.
        """
        given = [
            np.from_dlpack(triton.get_input_tensor_by_name(one, "LIGHTNESS")) for one in requests
        ]
        output = self._run(np.concatenate(given))
        ends = np.cumsum([len(rows) for rows in given])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor.from_dlpack("OUTPUT", rows.__dlpack__())])
            for rows in np.split(output, ends)
        ]
