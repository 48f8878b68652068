"""Colorize black-and-white photographs, each at its own size.

The result of photo.jpg is photo-colour.jpg beside it, or what --out says: a file for one picture,
or a folder, whose subfolders are those of the folder that is colorized. Results that are there
already are kept, so the same command resumes a run that was stopped.

colorizer verify ORIGINAL COLOURED checks that a result has its original's lightness, and
colorizer explain FILE prints the record that --provenance yes put into one; see their --help.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from colorizer.commands import check, client, folder, reports, results
from colorizer.commands.folder import ENDINGS, SAME_FORMAT, Job, Naming, Plan, Refused
from colorizer.commands.methods import (
    Made,
    Method,
    Result,
    check_positive,
    choose_method,
    chosen,
    hints_of,
)
from colorizer.commands.progress import Progress, say
from colorizer.commands.run import command_parser, run_command
from colorizer.models import DEFAULT, DISTRIBUTION, find_model
from colorizer.options import OPTIONS
from colorizer.recipe import NAMES as ENGINES

# What the command adds to the help of the options table.
ADDED = {
    "format": " (default: --out's, or jpeg)",
    "variants": ", as NAME-colour-1 and so on",
    "show": ", as NAME-uncertainty",
}
STDIN = "standard input"
EXIT_CODES = """\
exit codes:
  0    all pictures have their results
  1    some pictures failed, or some files or folders could not be read; each is named
  2    nothing was done: a wrong option, no model, no server, no place to write to
  130  interrupted by Ctrl-C; the same command resumes
"""

COMMANDS = {"verify": check.verify, "explain": check.explain}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and colorize; returns the exit code, see EXIT_CODES."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # names of files may hold any bytes
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a pipe in the place of a file that was seekable
                stream.reconfigure(errors="backslashreplace")
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    options = _parser().parse_args(arguments)
    return run_command("colorizer", lambda: _work(options), "the same command resumes")


def _work(options: argparse.Namespace) -> int:
    if options.ray is not None:
        return 1 if run_on_cluster(options) else 0
    with _standard_streams(options):
        failed = colorize(options)
    sys.stdout.flush()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("colorizer", __doc__, EXIT_CODES, as_written=True)
    add = parser.add_argument
    add(
        "pictures",
        nargs="+",
        type=_place,
        metavar="PICTURE",
        help="a file, a folder, or - for standard input",
    )
    add(
        "-o",
        "--out",
        type=_place,
        metavar="PATH",
        help="a file (NAME.jpg, .png, .webp or .tif) for one picture, a folder, or - for standard "
        "output; folders need it",
    )
    add("--overwrite", action="store_true", help="colorize again, and replace what is there")
    add("--json", action="store_true", help="print a line of JSON for each picture")
    add(
        "--report",
        type=Path,
        metavar="FILE.csv",
        help="write each picture's name, SHA-256, results, seconds and warnings into a table",
    )
    _add_where(parser.add_argument_group("what colorizes"))
    _add_how(parser.add_argument_group("how"))
    return parser


def _add_where(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        default=DEFAULT,
        metavar="MODEL",
        help="regression, classification, or a file: an archive (.mar), the folder of a graph, or "
        "a checkpoint (.safetensors, which needs torch); default: %(default)s",
    )
    add("--device", help="cpu or cuda:0 (default: a GPU where there is one)")
    add(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="what runs the network; on a processor, onnx-int8 is faster and onnx more exact "
        "(default: %(default)s, the fastest that can run)",
    )
    add("--batch", type=int, default=4, help="pictures in a batch (default: %(default)s)")
    add("--max-bytes", type=int, metavar="N", help="size of the largest file (default: 33554432)")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels of the largest picture; a million take about 12 MB of memory while they are "
        "colorized (default: 50000000)",
    )
    client.add_options(group)
    add(
        "--ray",
        metavar="ADDRESS",
        help="colorize a folder, local or s3://..., on the machines of a Ray cluster: HOST:PORT "
        "of its head, auto, or local for this machine alone",
    )
    add(
        "--worker-cores",
        type=int,
        metavar="N",
        help="cores of each of the cluster's workers (default: those of this machine)",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    """Add the options of one picture; unset ones are left to the network."""
    for option in OPTIONS:
        if option.kind:
            continue
        told = option.help + ADDED.get(option.name, "")
        how: dict[str, Any] = {"choices": option.choices, "type": str.lower}
        if not option.choices:
            told += f": {option.allowed}"
            how = {"type": int if option.whole else float, "metavar": "N"}
        if option.needs_classifier:
            told += " (classification only)"
        elif option.name not in ADDED:
            told += f" (default: {option.default})"
        if option.choices == ("no", "yes"):
            how = {"action": "store_const", "const": "yes"}
        group.add_argument(f"--{option.name}", help=told, **how)
    group.add_argument(
        "--hint",
        action="append",
        default=[],
        metavar="X,Y,COLOUR",
        help="the colour of a place in the picture, as 0.41,0.63,#7a2f2f: shares of width and "
        "height from the upper left, and a colour or the word neutral; again for more hints; a "
        "fourth value is the place's radius",
    )
    group.add_argument(
        "--hints", type=Path, metavar="FILE", help="a file of hints, in JSON (docs/hints.md)"
    )


def _place(text: str) -> Path | str:
    """A path, or the address of a folder elsewhere."""
    return text if "://" in text else Path(text)


@contextlib.contextmanager
def _standard_streams(options: argparse.Namespace) -> Iterator[None]:
    """Let files stand for `-`: standard input, which is read whole, and standard output.

    Raises:
        Refused: if `-` does not go with the other arguments.
    """
    stdin = Path("-") in options.pictures
    stdout = options.out == Path("-") or (stdin and options.out is None)
    if not stdin and not stdout:
        yield
        return
    if len(options.pictures) > 1 or (not stdin and options.pictures[0].is_dir()):
        raise Refused("- stands for one picture; leave the others out")
    if stdout and (options.json or (options.variants or 1) > 1):
        raise Refused("standard output takes one picture: leave out --json and --variants")
    if stdout and sys.stdout.isatty():
        raise Refused("the terminal shows no pictures: redirect the output, or use --out FILE")
    with tempfile.TemporaryDirectory(prefix="colorizer-") as made:
        if stdin:
            options.pictures = [Path(made, STDIN)]
            options.pictures[0].write_bytes(sys.stdin.buffer.read(results.MAX_BYTES + 1))
        if not stdout:
            yield
            return
        options.format = options.format or "jpeg"
        options.out = result = Path(made, f"standard output{ENDINGS[options.format]}")
        with contextlib.redirect_stdout(io.StringIO()):  # the names of files, which have no place
            yield
        if result.exists():
            sys.stdout.buffer.write(result.read_bytes())


def colorize(options: argparse.Namespace) -> int:
    """Colorize what the command line names; returns how many pictures failed.

    Raises:
        Refused: if nothing can be done.
    """
    for place in (*options.pictures, options.out):
        if isinstance(place, str):
            raise Refused(f"{place} is no path; addresses need --ray (or --ray local)")
    hints_of(options)  # wrong ones are reported before any work
    naming = _naming(options)
    plan = folder.plan(options.pictures, naming, options.overwrite)
    if options.pictures[0].name == STDIN:
        plan.jobs = [job._replace(name=STDIN) for job in plan.jobs]
    for line in plan.left_out:
        print(line, file=sys.stderr)
    if plan.jobs:
        _check_targets(plan.jobs, naming)
    if options.report is not None:
        reports.check(options.report, plan)
    method = choose_method(options) if plan.jobs else None
    with reports.opened(options.report) as add:
        return run(plan, method, options.overwrite, options.json, naming.out is not None, add)


def _naming(options: argparse.Namespace) -> Naming:
    """Decide where results go, and with that their format."""
    out = options.out
    file = None
    if out is not None and not out.is_dir():
        suffix = out.suffix.lower()
        kind = next((k for k, e in ENDINGS.items() if suffix in SAME_FORMAT[e]), None)
        if kind is not None or suffix in folder.suffixes():
            if len(options.pictures) > 1 or options.pictures[0].is_dir():
                raise Refused(f"--out {out} is one file, for more than one picture; name a folder")
            if kind is None:
                raise Refused(f"--out {out}: results are .jpg, .png, .webp or .tif")
            if options.format not in (None, kind):
                raise Refused(f"--out {out} and --format {options.format} are two formats")
            options.format, file, out = kind, out, None
        elif os.path.lexists(out):
            raise Refused(f"--out {out} is a file; name a folder, or a picture to write")
        elif re.fullmatch(r"\.[a-z]{2,4}", suffix) and options.pictures[0].is_file():
            raise Refused(
                f"--out {out}: results are .jpg, .png or .webp; if it is to be a folder, make it "
                "first"
            )
    options.format = options.format or "jpeg"
    variants = options.variants or 1
    return Naming(ENDINGS[options.format], out, file, variants, options.show == "uncertainty")


def _check_targets(jobs: Sequence[Job], naming: Naming) -> None:
    """Refuse a command none of whose results could be written."""
    if naming.out is not None:
        folders = {naming.out}
    else:
        folders = {target.parent for job in jobs for target in job.targets}
    for one in sorted(folders):
        try:
            folder.check_writable(one)
            return
        except OSError as error:
            refusal = Refused(f"{one} cannot be written to: {error.strerror}")
    raise refusal


def run(
    plan: Plan,
    method: Method | None,
    overwrite: bool,
    as_json: bool,
    sidecars: bool,
    add: reports.Row,
) -> int:
    """Colorize and write, showing the progress; returns how many pictures failed.

    Args:
        plan: what to do.
        method: that colorizes.
        overwrite: whether to replace results.
        as_json: whether to print JSON.
        sidecars: whether to write the records of results beside them, too.
        add: adds a row to the report.
    """
    reports.rows_of(plan, add)

    counts = Counter({"colorized": 0, "failed": len(plan.failed), "there already": plan.done})
    for path, why in plan.failed:
        report(str(path), "", why, as_json)
    found = method(job.source for job in plan.jobs) if method else None
    bar = Progress(len(plan.jobs), "pictures")
    # Its threads end here, however this ends.
    with bar, contextlib.closing(found) if found else contextlib.nullcontext():
        for number, (job, result) in enumerate(zip(plan.jobs, found or (), strict=True)):
            if isinstance(result, client.Unreachable):
                left = len(plan.jobs) - number
                counts["failed"] += left
                line = f"colorizer: {result}; {left} not colorized: the same command resumes"
                say(line, sys.stderr)
                break
            targets, error = [str(target) for target in job.targets], None
            try:
                state = "colorized" if _write(job, result, overwrite, sidecars) else "there already"
            except Exception as why:  # every picture has its own
                state, error = "failed", str(why) or type(why).__name__
            counts[state] += 1
            told = (result.seconds, result.notes) if isinstance(result, Made) else (None, ())
            row = (None, [error]) if error else told
            add(job.source, () if error else job.targets, state, *row)
            bar.update()
            report(job.name, targets if len(targets) > 1 else targets[0], error, as_json)
    line = ", ".join(f"{number} {state}" for state, number in counts.items())
    if counts["there already"] and not counts["colorized"]:
        line += " (--overwrite makes them again)"
    print(line, file=sys.stderr)
    return counts["failed"]


def _write(job: Job, result: Result, overwrite: bool, sidecars: bool) -> bool:
    """Write the results of a picture; returns False if another run has been faster.

    Raises:
        Exception: why there is no result, or why it cannot be written.
    """
    from colorizer.files import write_whole

    if isinstance(result, Exception):
        raise result
    left = job.targets if overwrite else folder.missing(job)
    bodies = results.unpack(result.body, len(job.targets))
    for target, body in zip(job.targets, bodies, strict=True):
        if target not in left:
            continue
        if sidecars and (told := check.described(body)):  # first: a result tells that all is done
            told |= {"Source": job.source.name, "Result": target.name}
            told["ResultSHA256"] = hashlib.sha256(body).hexdigest()
            write_whole(folder.sidecar(target), json.dumps(told, indent=1).encode() + b"\n")
        write_whole(target, body)
    return bool(left)


def run_on_cluster(options: argparse.Namespace) -> int:
    """Colorize a folder with Ray; returns how many pictures failed.

    Raises:
        UserError: if Ray is not installed, there is no cluster, no folder, or no network.
    """
    if options.server is not None or len(options.pictures) != 1 or options.out is None:
        raise Refused("--ray takes one folder, and --out for its results, without --server")
    if any((options.variants, options.show, options.max_bytes, options.max_pixels, options.report)):
        raise Refused(
            "--ray goes without --variants, --show, --max-bytes, --max-pixels and --report"
        )
    if options.hint or options.hints:
        raise Refused("--ray goes without --hint and --hints, which are for one picture")
    if folder.same_file(Path(options.pictures[0]), Path(options.out)):
        raise Refused(f"--out {options.out} is the folder of the pictures; choose another folder")
    # Ray is imported only after `cluster` has set the environment variables that it reads then.
    if not (find_spec("ray") and find_spec("pyarrow")):
        raise Refused(f"--ray needs Ray: pip install '{DISTRIBUTION}[ray]'")
    check_positive(options, "batch", "worker_cores")
    from colorizer.api import parse_options
    from colorizer.commands import cluster

    options.format = options.format or "jpeg"
    source, target = (
        place if isinstance(place, str) else str(place.absolute())
        for place in (options.pictures[0], options.out)
    )
    work = cluster.Work(
        source,
        target,
        parse_options(chosen(options)),
        options.overwrite,
        options.device,
        options.worker_cores,
    )
    return cluster.colorize_folder(
        work, find_model(options.model), options.ray, options.batch, options.json
    )


def report(source: str, target: str | list[str], error: str | None, as_json: bool) -> None:
    """Print how a picture ended."""
    if as_json:
        line: dict[str, Any] = {"picture": source, "colour": target}
        if error is not None:
            line = {"picture": source, "error": error}
        text = json.dumps(line, ensure_ascii=False)
        with contextlib.suppress(AttributeError, LookupError):  # a stream without an encoding
            try:
                text.encode(sys.stdout.encoding)
            except UnicodeEncodeError:
                text = json.dumps(line)
        say(text)
    elif error is None:
        say("\n".join(target) if isinstance(target, list) else target)
    else:
        say(f"{source}: {error}", sys.stderr)
    sys.stdout.flush()  # a reader of the pipe sees each picture as it is done


if __name__ == "__main__":
    sys.exit(main())
