"""What colorizes the pictures of a command: a network in this process, or a server."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from colorizer.commands import client, results
from colorizer.commands.folder import Refused
from colorizer.cores import in_order
from colorizer.options import NAMES

if TYPE_CHECKING:
    from colorizer.api import Colorizer
    from colorizer.options import Options

CLIENTS = 4  # requests to a server at once: it batches those that wait together
SAMPLE_SECONDS = 60.0  # for a server to colorize the small picture that it is tried with


class Made(NamedTuple):
    """A picture's result (of variants: a ZIP file), how long it took, and what was left out."""

    body: bytes
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


Result = Made | Exception  # or why there is none
Method = Callable[[Iterable[Path]], Generator[Result]]  # in the order of the paths


def choose_method(options: argparse.Namespace) -> Method:
    """Load the network, or find the server, and try it on a small picture.

    Raises:
        Refused: if it cannot be loaded or found, or refuses the options.
    """
    if options.server is not None:
        if options.max_bytes is not None or options.max_pixels is not None:
            raise Refused("--max-bytes and --max-pixels are for work without --server")
        _say_on_terminal(f"Asking {options.server.rpartition('@')[2]} ...")
        return _serving(client.from_options(options, options.model), chosen(options))
    _say_on_terminal(f"Loading {options.model} ...")
    return _colorizing(*_load(options), options.batch)


def _say_on_terminal(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def chosen(options: argparse.Namespace) -> dict[str, object]:
    """The options of pictures that the command line gives; None for those that it doesn't."""
    given = {name: getattr(options, name, None) for name in NAMES}
    return given | {"hints": hints_of(options)}


def hints_of(options: argparse.Namespace) -> str | None:
    """Join the file of hints and the command line's, which win, into one text of JSON.

    Raises:
        Refused: if the file cannot be read, a hint is not one, or there are several pictures.
    """
    if options.hints is None and not options.hint:
        return None
    if len(options.pictures) > 1 or Path(options.pictures[0]).is_dir():
        raise Refused("hints are places in one picture: leave the other pictures out")
    from colorizer import hints
    from colorizer.errors import BadOption

    entries: list[Any] = []
    try:
        if options.hints is not None:
            text = options.hints.read_text(encoding="utf-8")
            hints.parse(text)
            entries = json.loads(text)
        entries += [_hint(text) for text in options.hint]
        hints.parse(text := json.dumps(entries))
    except (OSError, UnicodeError) as error:
        raise Refused(f"--hints {options.hints} cannot be read: {error}") from None
    except BadOption as error:
        raise Refused(f"--hint: {error}" if options.hint else f"--hints: {error}") from None
    return text


def _hint(text: str) -> dict[str, object]:
    """Read X,Y,COLOUR or X,Y,COLOUR,RADIUS.

    Raises:
        Refused: if it is neither; whether the values are right, `hints.parse` finds.
    """
    x, y, colour, radius, *more = [*text.split(","), *[""] * 4][: max(4, text.count(",") + 1)]
    try:
        if more:
            raise ValueError
        entry: dict[str, object] = {"x": float(x), "y": float(y)}
        if radius:
            entry["radius"] = float(radius)
    except ValueError:
        raise Refused(f"--hint {text!r:.60}: write X,Y,COLOUR, as 0.41,0.63,#7a2f2f") from None
    return entry | ({"neutral": True} if colour == "neutral" else {"color": colour})


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Refused(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def _load(options: argparse.Namespace) -> tuple[Colorizer, Options]:
    check_positive(options, "batch", "max_bytes", "max_pixels")
    from colorizer.api import Colorizer, parse_options
    from colorizer.errors import UserError
    from colorizer.image import Limits

    try:
        parsed = parse_options(chosen(options))
        colorizer = Colorizer(options.model, options.device, options.engine)
        colorizer.pipeline.colorize(results.sample(options.format), parsed)
        colorizer.pipeline.limits = Limits(
            max_bytes=options.max_bytes or Limits.max_bytes,
            max_pixels=options.max_pixels or Limits.max_pixels,
            max_reply_bytes=sys.maxsize,  # results are files here
        )
    except UserError as error:
        raise Refused(str(error)) from None
    except Exception as error:  # what a device or an engine that is not there makes torch raise
        where = options.device or "the device chosen"
        line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise Refused(f"{options.model} does not run on {where}: {line}") from None
    return colorizer, parsed


def _colorizing(colorizer: Colorizer, options: Options, batch: int) -> Method:
    """Colorize with a loaded network."""

    from colorizer.errors import TooLarge

    def colorize(paths: Iterable[Path]) -> Generator[Result]:
        for _, reply in colorizer.colorize_files(paths, options, batch):
            if isinstance(reply, TooLarge):
                reply = TooLarge(f"{reply} Or raise --max-bytes or --max-pixels.")
            if isinstance(reply, Exception):
                yield reply
            else:
                yield Made(reply.body, sum(reply.seconds.values()), reply.notes)

    return colorize


def _serving(server: client.Server, options: Mapping[str, object]) -> Method:
    """Colorize with a server, which is tried on a small picture first.

    Raises:
        Refused: if it is no server that colorizes, or refuses the options.
    """
    try:
        server.post(results.sample(str(options["format"])), options, SAMPLE_SECONDS)
    except client.Refused as error:
        raise Refused(f"--server: {error}") from None

    def ask(path: Path) -> Result:
        try:
            if (size := path.stat().st_size) > results.MAX_BYTES:
                return ValueError(f"the file has {size:,} bytes, too many to post")
            start = time.perf_counter()
            body = server.post(path.read_bytes(), options, wait_for_server=True)
            return Made(body, time.perf_counter() - start)
        except (client.Refused, OSError) as error:
            return error

    return lambda paths: in_order(ask, paths, CLIENTS, 2 * CLIENTS)
