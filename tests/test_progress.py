"""The line of progress at the foot of a terminal."""

from __future__ import annotations

import sys

from colorizer.commands import progress
from colorizer.commands.progress import Progress, say
from tests.support import Capture, Patch, Terminal


def test_lines_stand_above_the_progress_which_is_shown_at_once_and_leaves_nothing(
    monkeypatch: Patch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(3, "pictures") as bar:
        assert terminal.getvalue().endswith("0 of 3 pictures")
        bar.update()
        say("a.jpg")
        assert terminal.getvalue().endswith("\r\x1b[Ka.jpg\n\r\x1b[K1 of 3 pictures")
    assert terminal.getvalue().endswith("\r\x1b[K")
    say("done")
    assert terminal.getvalue().endswith("\r\x1b[Kdone\n")


def test_rate_and_time_left_count_from_the_restart(monkeypatch: Patch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Progress(2000, "frames")
    now[0] += 50
    bar.restart("")
    assert bar.line() == "0 of 2,000 frames"
    now[0] += 10
    bar.done = 5
    assert bar.line() == "5 of 2,000 frames, 0.5 per second, 1 h 6 min left"
    bar.done = 1990
    assert bar.line() == "1,990 of 2,000 frames, 199.0 per second, 0 s left"
    assert Progress(None, "frames").line() == "0 frames"


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: Capture) -> None:
    with Progress(3, "pictures") as bar:
        bar.update()
        say("a.jpg")
        say("broken", sys.stderr)
    assert capsys.readouterr() == ("a.jpg\n", "broken\n")
