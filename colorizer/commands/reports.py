"""A report on a folder, as CSV: each picture, its hash, its results, how it ended."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from colorizer.commands.folder import Plan, Refused
from colorizer.files import written_whole

COLUMNS = ("picture", "sha256", "results", "results_sha256", "state", "seconds", "warnings")
Row = Callable[..., None]  # see `opened`


def check(path: Path, plan: Plan) -> None:
    """Refuse to write a report over anything but a report.

    Raises:
        Refused: if the path is a picture, a result, or another file.
    """
    header = ",".join(COLUMNS).encode()
    if any(path.absolute() == target.absolute() for job in plan.jobs for target in job.targets):
        raise Refused(f"--report {path} is where a result goes; choose another name")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(header)):
        raise Refused(f"--report {path} is there already and is no report; choose another name")


@contextmanager
def opened(path: Path | None) -> Iterator[Row]:
    """Yield what adds a row to a report: (source, targets, state, seconds, warnings).

    The report is in its place when all rows are; after an interruption, the one before is.
    """
    if path is None:
        yield lambda *_: None
        return
    with (
        written_whole(path) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)

        def add(
            source: Path,
            targets: Sequence[Path],
            state: str,
            seconds: float | None = None,
            warnings: Sequence[str] = (),
        ) -> None:
            """Hash the files as they are now, and write a row; several results share a cell."""
            made = [target for target in targets if target.is_file()]
            hashes = " ".join(map(_sha256, made))
            names = "\n".join(map(str, made))
            spent = "" if seconds is None else f"{seconds:.3f}"
            table.writerow(
                [source, _sha256(source), names, hashes, state, spent, "; ".join(warnings)]
            )

        yield add


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def rows_of(plan: Plan, add: Row) -> None:
    """Add the rows of what a plan found: pictures that failed, and those with results."""
    for path, why in plan.failed:
        add(path, (), "failed", None, [why])
    for job in plan.there:
        add(job.source, job.targets, "there already")
