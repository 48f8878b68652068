"""The pipeline in a process of its own, without a server: what a server is held against.

A child, since Locust changes the threads and sockets of the process that it runs in. It reads
lines of JSON, each a list of places in the stated mix, colorizes these photographs one after
another, and answers each line with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pictures import load_mix
from benchmarks.servers import ROOT
from colorizer.engine import NAMES


@dataclass(frozen=True)
class Round:
    """Photographs colorized one after another.

    Attributes:
        rate: of them, a second.
        times: milliseconds of each.
        stages: mean milliseconds of each stage of the pipeline.
    """

    rate: float
    times: list[float]
    stages: dict[str, float]


class Direct:
    """A running child."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def colorize(self, places: Sequence[int]) -> Round:
        """Colorize these photographs of the stated mix."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(places)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise OSError("the pipeline's own process ended; its message is above")
        return Round(**json.loads(line))


@contextlib.contextmanager
def direct(archive: Path) -> Iterator[Direct]:
    """Start a child with an archive's graphs, and as many threads as cores, as the server has."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        with zipfile.ZipFile(archive) as file:
            graphs = [one for one in file.namelist() if one.startswith(NAMES)]
            file.extractall(temporary, graphs)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.direct", temporary],
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as handlers.torchserve.serve has it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which ends us
        )
        try:
            yield Direct(process)
        finally:
            process.terminate()
            process.communicate()


def main() -> None:
    """Answer until the input ends."""
    import torch

    from colorizer.pipeline import STAGES, Pipeline

    torch.set_num_threads(os.cpu_count() or 1)
    # As the servers' handlers choose it.
    pipeline = Pipeline.load(Path(sys.argv[1]), "cuda:0" if torch.cuda.is_available() else "cpu")
    pipeline.warm_up()
    photographs, _ = load_mix()
    for line in sys.stdin:
        times = []
        sums = dict.fromkeys(STAGES, 0.0)
        begin = time.perf_counter()
        for place in json.loads(line):
            start = time.perf_counter()
            reply = pipeline.colorize(photographs[place].body)
            times.append(1000 * (time.perf_counter() - start))
            for stage, seconds in reply.seconds.items():
                sums[stage] += 1000 * seconds
        took = time.perf_counter() - begin
        stages = {stage: value / len(times) for stage, value in sums.items()}
        print(json.dumps({"rate": len(times) / took, "times": times, "stages": stages}), flush=True)


if __name__ == "__main__":
    main()
