"""Show how far a command is, in one line at the foot of the terminal."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

_SECONDS = 0.1  # between two drawings
_CLEAR = "\r\x1b[K"
_shown: Progress | None = None  # there is one terminal


class Progress:
    """Count what is done, with rate and time left; silent where stderr is no terminal.

    Args:
        total: None if it is not known.
        unit: what is counted, in the plural.
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit, self.note = total, unit, ""
        self.done = 0
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> Progress:
        """Show it."""
        global _shown
        if sys.stderr.isatty():
            _shown = self
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it."""
        global _shown
        if _shown is self:
            _shown = None
            print(_CLEAR, end="", file=sys.stderr, flush=True)

    def restart(self, note: str) -> None:
        """Say what is being done, and count rate and time left from here on."""
        self.note, self._began = note, time.monotonic()
        if _shown is self:
            self._draw()

    def update(self) -> None:
        """Count one more."""
        self.done += 1
        due = time.monotonic() - self._drawn > _SECONDS or self.done == self.total
        if _shown is self and due:
            self._draw()

    def line(self) -> str:
        """Describe the state: `3 of 20 pictures, 1.5 per second, 11 s left`."""
        of = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of} {self.unit}", self.note]
        seconds = time.monotonic() - self._began
        if self.done and seconds > 1:
            parts.append(f"{self.done / seconds:.1f} per second")
            if self.total is not None:
                left = round(seconds / self.done * (self.total - self.done))
                hours, minutes = left // 3600, left // 60 % 60
                parts.append(f"{hours} h {minutes} min left" if hours else f"{left} s left")
        return ", ".join(part for part in parts if part)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        line = self.line()[: shutil.get_terminal_size().columns - 1]
        print(f"{_CLEAR}{line}", end="", file=sys.stderr, flush=True)


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line, above the progress if that is shown; to standard output by default."""
    if _shown is None:
        print(line, file=file or sys.stdout)
        return
    print(_CLEAR, end="", file=sys.stderr, flush=True)
    print(line, file=file or sys.stdout, flush=True)
    _shown._draw()
