"""Find out what TorchServe still has to answer, so that it can be stopped when nothing is left.

TorchServe drops its work when it is stopped, and no single figure says what is left: the queue is
described over HTTP, a batch in a worker shows in the log, and the system knows about replies that
are being sent.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEPT_LINES = 1000  # of TorchServe's output; its complete logs are in files
# A worker's thread logs _BUSY between getting a batch and having answered it, and other lines at
# other times. Source: org.pytorch.serve.wlm.WorkerThread of TorchServe 0.12.
_LOGGED = re.compile(r"(W-\S+) org\.pytorch\.serve\.wlm\.WorkerThread - (.*)")
_BUSY = ("Flushing req.cmd", "Looping backend response")
_TICK_SECONDS = 0.2  # between checks
_TOLD_SECONDS = 5  # between lines of progress
_SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OPEN = ("01", "08")  # connected, and closed by the client alone


class Output:
    """TorchServe's output: its last lines, and which workers have a batch."""

    def __init__(self, stream: Iterable[str]) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.batches = 0  # given to workers so far
        self._busy: dict[str, bool] = {}
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    @property
    def busy(self) -> int:
        """How many workers have a batch that isn't answered."""
        return sum(self._busy.values())

    def finish(self) -> None:
        """Read what is still being written; a second at most."""
        self._reader.join(1)

    def _read(self, stream: Iterable[str]) -> None:
        for line in stream:
            self.lines.append(line)
            if found := _LOGGED.search(line):
                self._busy[found[1]] = found[2].startswith(_BUSY)
                self.batches += found[2].startswith(_BUSY[0])


class Look(NamedTuple):
    """Work left at one moment."""

    waiting: int  # requests in queues
    busy: int  # workers with a batch
    unsent: int  # bytes of replies that clients have not received yet
    batches: int  # given to workers so far: one may pass from queue to worker unseen

    @property
    def idle(self) -> bool:
        """Nothing is waiting, in work, or being sent."""
        return not (self.waiting or self.busy or self.unsent)

    def __str__(self) -> str:
        parts = [f"{self.waiting} waiting", f"{self.busy} batches in work"]
        return ", ".join([*parts, f"{self.unsent} bytes on their way"] if self.unsent else parts)


def look(models: Mapping[str, Any], ports: Sequence[int], output: Output) -> Look:
    """Find the work that is left.

    Args:
        models: TorchServe's description of each.
        ports: of predictions.
        output: of TorchServe.
    """
    queues = [one.get("jobQueueStatus", {}).get("pendingRequests", 0) for one in models.values()]
    return Look(sum(map(int, queues)), output.busy, _unsent(ports), output.batches)


def wait(
    look: Callable[[], Look],
    seconds: float,
    asked: Sequence[int],
    alive: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Wait until accepted requests are answered, the time is over, or another signal comes.

    TorchServe can't be told to refuse new requests: those are answered too, within the time.

    Args:
        look: finds the work that is left.
        seconds: to wait at most.
        asked: the signals so far; there is one at the beginning.
        alive: whether the server still runs.
        say: takes lines of progress.
    """
    began, told, before = time.monotonic(), -1.0, None
    while alive():
        now = look()
        if now.idle and now == before:  # twice: a request may be between queue and worker
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
    """Sum the bytes in the sending queues of these ports; 0 if the system has no such table.

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
