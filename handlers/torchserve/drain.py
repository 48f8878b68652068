"""What TorchServe has still to answer, so that it can be ended when nothing is left.

TorchServe drops what it has when it is told to end. No single figure of it says what is in work:
the queue is described over HTTP, a batch in a worker is seen in its log, and answers on their way
are the system's to know.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEPT_LINES = 1000  # of what TorchServe says last; its complete logs are in files
# What a worker's thread says: these between getting a batch and having answered it, any other line
# at other times. Source: org.pytorch.serve.wlm.WorkerThread of TorchServe 0.12.
_SAID = re.compile(r"(W-\S+) org\.pytorch\.serve\.wlm\.WorkerThread - (.*)")
_BUSY = ("Flushing req.cmd", "Looping backend response")
_TICK_SECONDS = 0.2  # between two looks
_TOLD_SECONDS = 5  # between two lines of progress
_SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OPEN = ("01", "08")  # connected, and closed by the client alone


class Output:
    """What TorchServe says: its last lines, and which workers have a batch."""

    def __init__(self, stream: Iterable[str]) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.batches = 0  # given to workers so far
        self._busy: dict[str, bool] = {}
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    @property
    def busy(self) -> int:
        """Workers that have a batch and haven't answered it."""
        return sum(self._busy.values())

    def finish(self) -> None:
        """Wait for what is still being said; a second at most."""
        self._reader.join(1)

    def _read(self, stream: Iterable[str]) -> None:
        for line in stream:
            self.lines.append(line)
            if found := _SAID.search(line):
                self._busy[found[1]] = found[2].startswith(_BUSY)
                self.batches += found[2].startswith(_BUSY[0])


class Look(NamedTuple):
    """What there is to do at one moment."""

    waiting: int  # requests in queues
    busy: int  # workers with a batch
    unsent: int  # bytes of answers that clients have not taken yet
    batches: int  # that workers ever got: one may pass from queue to worker unseen

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is in work, nothing is on its way."""
        return not (self.waiting or self.busy or self.unsent)

    def __str__(self) -> str:
        parts = [f"{self.waiting} waiting", f"{self.busy} batches in work"]
        return ", ".join([*parts, f"{self.unsent} bytes on their way"] if self.unsent else parts)


def look(
    models: Sequence[str], describe: Callable[[str], Any], ports: Sequence[int], output: Output
) -> Look:
    """See what there is to do.

    Args:
        models: their names.
        describe: gives TorchServe's description of a model; None while there is no answer.
        ports: that predictions are asked for at.
        output: of TorchServe.
    """
    waiting = 0
    for model in models:
        (found, *_) = describe(model) or [{}]
        waiting += int(found.get("jobQueueStatus", {}).get("pendingRequests", 0))
    return Look(waiting, output.busy, _unsent(ports), output.batches)


def wait(
    jobs: Callable[[], Look],
    seconds: float,
    asked: Sequence[int],
    alive: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Wait until what was accepted is answered, or somebody asks for the end once more.

    TorchServe can't be told to accept nothing new: that is answered too, within the time.

    Args:
        jobs: sees what there is to do.
        seconds: to wait at most.
        asked: grows with each wish for the end; it has one when this begins.
        alive: whether there is a server to wait for.
        say: takes lines of progress.
    """
    began, told, before = time.monotonic(), -1.0, None
    while alive():
        now = jobs()
        if now.idle and now == before:  # twice: a request is between queue and worker for a moment
            return
        spent = time.monotonic() - began
        if len(asked) > 1 or spent >= seconds:
            if not now.idle:
                say(f"\nNot all was answered: {now}.")
            return
        if not now.idle and told < 0:
            told = spent
            say(f"\nAnswering what was accepted, {seconds:g} s at most; once more ends it at once.")
        elif told >= 0 and spent >= told + _TOLD_SECONDS:
            told = spent
            say(f"  {now} ... {spent:.0f} s")
        before = now
        time.sleep(_TICK_SECONDS)


def _unsent(ports: Sequence[int]) -> int:
    """Sum what lies in the sending queues of these ports; 0 where the system has no such table.

    Source: proc(5), /proc/net/tcp.
    """
    total = 0
    for table in _SOCKETS:
        try:
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
        except OSError:
            continue
        total += sum(
            int(row[4].split(":")[0], 16)
            for row in rows
            if row[3] in _OPEN and int(row[1].rpartition(":")[2], 16) in ports
        )
    return total
