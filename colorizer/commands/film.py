"""Colorize a black-and-white film, without flicker; its sound, times and tags are kept.

The film goes to NAME-colour.mp4 beside it, or where --out says: a folder, or a file that ends in
.mp4, .m4v, .mov or .mkv. Colours are kept steady where nothing moves; a cut starts them afresh.

exit codes: 0 done; 1 written, but parts of the film were damaged and are missing; 2 nothing was
written, and why; 130 interrupted, nothing was written.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer.commands import client
from colorizer.commands.progress import Progress, say
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.models import DEFAULT

if TYPE_CHECKING:
    from colorizer.commands.video import Film, Tally
    from colorizer.hints import Hint
    from colorizer.pipeline import Pipeline

Float = NDArray[np.float32]

BATCH = 8  # frames per run of the network
HOLD = 0.85  # share of the last frame's colour that a pixel keeps where nothing changed
STILL = 4.0  # L; a change well below it is grain, one well above it is motion
CUT = 18.0  # mean change of L over the frame that starts a new scene


class TemporalFilter:
    """Reduce flicker: mix each frame's colours with the last frame's where nothing moves."""

    def __init__(self, hold: float = HOLD) -> None:
        self.hold = hold
        self._last: tuple[Float, Float] | None = None

    def __call__(self, lightness: Float, ab: Float) -> Float:
        """Filter the next frame's colours.

        Args:
            lightness: (S, S), 0..100, the network's input.
            ab: (2, S, S), the network's output.

        Returns:
            (2, S, S).
        """
        if self._last is not None:
            last_lightness, last_ab = self._last
            change = np.abs(lightness - last_lightness)
            if change.mean() < CUT:
                kept = np.float32(self.hold) * np.exp(-((change / np.float32(STILL)) ** 2))
                ab = kept * last_ab + (1 - kept) * ab
        self._last = lightness, ab
        return ab


class MovingHints:
    """Hints of a shot: they begin at a time, move with what they lie on, and end with a cut."""

    def __init__(self, shots: Sequence[tuple[float, tuple[Hint, ...]]] = ()) -> None:
        """Take (seconds, hints) of each shot, by its begin."""
        self._waiting = sorted(shots, key=lambda shot: shot[0])
        self._now: tuple[Hint, ...] = ()
        self._last: NDArray[np.uint8] | None = None
        self._last_lightness: Float | None = None

    def __call__(self, seconds: float, lightness: Float) -> tuple[Hint, ...]:
        """Return the hints of the next frame.

        Args:
            seconds: the frame's time.
            lightness: (S, S), 0..100, the network's input.
        """
        if not self._now and not self._waiting:
            return ()
        grey = np.asarray(lightness * np.float32(2.55), np.uint8)
        if self._last is not None and self._last_lightness is not None and self._now:
            if np.abs(lightness - self._last_lightness).mean() >= CUT:
                self._now = ()
            else:
                self._move(self._last, grey)
        while self._waiting and self._waiting[0][0] <= seconds:
            self._now = self._waiting.pop(0)[1]
        self._last, self._last_lightness = grey, lightness
        return self._now

    def _move(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
        """Move each point with the optical flow; one that leaves the frame is dropped.

        Source: Kroeger et al. 2016, "Fast optical flow using dense inverse search".
        """
        method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        pixels = method.calc(before, after, np.zeros((*before.shape, 2), np.float32))
        # (S, S, 2), shares of the sides
        flow = np.asarray(pixels, np.float32) / np.float32(len(before))
        moved = []
        for hint in self._now:
            points = [_moved(point, flow) for point in hint.points]
            inside = tuple((x, y) for x, y in points if 0 <= x <= 1 and 0 <= y <= 1)
            if inside:
                moved.append(replace(hint, points=inside))
        self._now = tuple(moved)


def _moved(point: tuple[float, float], flow: Float) -> tuple[float, float]:
    """Move a point by the middle one of the flows around it."""
    side = len(flow)
    column, row = (min(int(value * side), side - 1) for value in point)
    around = flow[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 2)
    x, y = np.median(around, axis=0).tolist()
    return point[0] + x, point[1] + y


def read_hints(path: Path) -> list[tuple[float, tuple[Hint, ...]]]:
    """Read a film's hints: [{"at": 12.5, "hints": [...]}, ...], or hints of the first shot alone.

    Returns:
        For each shot, the seconds at which its hints begin, and these.

    Raises:
        UserError: if it can't be read, or something in it is wrong.
    """
    from colorizer import hints
    from colorizer.errors import BadOption

    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > hints.MOST_CHARACTERS:
            raise BadOption(f"it has more than {hints.MOST_CHARACTERS:,} characters")
        shots = json.loads(text)
        if not isinstance(shots, list) or not all(
            isinstance(shot, dict) and shot.keys() == {"at", "hints"} for shot in shots
        ):
            return [(0.0, hints.parse(text))]
        found = []
        for shot in shots:
            at = shot["at"]
            if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at < 1e6:
                raise BadOption('"at" is the second that a shot\'s hints begin at, from 0')
            found.append((float(at), hints.parse(json.dumps(shot["hints"]))))
        return found
    except (OSError, ValueError, RecursionError, BadOption) as error:
        raise UserError(f"--hints {path}: {error!s:.300}") from None


def colorize_frames(
    pipeline: Pipeline,
    frames: Iterable[NDArray[np.uint8]],
    hold: float = HOLD,
    chroma: float = 1.0,
    hints: MovingHints | None = None,
    seconds: Callable[[int], float] = float,
) -> Iterator[NDArray[np.uint8]]:
    """Colorize the frames of a film, in order.

    Args:
        pipeline: whose network colorizes them.
        frames: (H, W, 3) uint8 each.
        hold: of `TemporalFilter`; 0 colorizes each frame by itself.
        chroma: strength of the colours, 0..3.
        hints: colours that a person knows, of each shot.
        seconds: gives the time of a frame by its number.
    """
    from colorizer.finish import finish, prepare
    from colorizer.image import Picture
    from colorizer.options import Options

    steady, frames, number = TemporalFilter(hold), iter(frames), 0
    hints = hints or MovingHints()
    while some := [one for _, one in zip(range(BATCH), frames, strict=False)]:
        recipe = pipeline.graph.recipe
        prepared = [prepare(Picture(one), recipe.side) for one in some]
        outputs = pipeline.run(np.stack([one.small for one in prepared]))
        for one, output in zip(prepared, outputs, strict=True):
            filtered = steady(one.small[0], pipeline.decode(one, output, Options()))
            known = hints(seconds(number), one.small[0])
            alike = output[recipe.channels :]
            yield finish(one, filtered, recipe.chroma_gain * chroma, known=known, alike=alike)
            number += 1


def colorize_film(
    load: Callable[[], Pipeline],
    film: Film,
    target: Path,
    colorize: Callable[..., Iterator[NDArray[np.uint8]]],
    deinterlace: bool = False,
) -> Tally:
    """Write a film in colour, verify it, and only then move it into place.

    Args:
        load: loads the network; called once the container's header is written.
        film: what `video.inspect` found.
        target: its suffix chooses the container, one of `writer.FORMATS`.
        colorize: `colorize_frames`, with its settings.
        deinterlace: whether to make whole frames of an interlaced film's fields.

    Returns:
        What was read, and what of it was damaged.

    Raises:
        FilmError: if the film can't be read or written, or the new one differs from it.
    """
    from colorizer.commands import video, writer

    tally = video.Tally()
    bar = Progress(film.frames, "frames")
    with written_whole(target) as beside, video.open_film(film.path) as source, bar:
        new = writer.Writer(beside, film, source, deinterlace)
        try:
            for line in new.notes:
                _tell(line)
            frames = video.read_frames(source, film, tally, new.copy, deinterlace)
            upright = (np.rot90(rgb, film.turns) for rgb in frames)
            bar.restart("loading the network")
            pipeline = load()
            bar.restart("")  # the time left is that of frames alone

            def seconds(number: int) -> float:
                return float(tally.times[number][0] * film.time_base)

            for number, rgb in enumerate(colorize(pipeline, upright, seconds=seconds)):
                new.add(np.rot90(rgb, -film.turns), *tally.times[number])
                bar.update()
        except BaseException:
            new.abandon()
            raise
        new.finish()
        lost = writer.verify(beside, film, tally, new)
    if lost:
        _tell(f"left out, as {target.suffix} files cannot hold it: {', '.join(lost)}")
    return tally


def served(server: client.Server) -> Pipeline:
    """Make a pipeline whose network is a server's, which is sent each frame's small copy only.

    The server has finished that copy already, and its colours are read back from there. So they
    are smoothed along the edges of L twice, and differ a little from those of the network here.

    Raises:
        UserError: from the pipeline's `run`, if the server has no result for a frame.
    """
    from PIL import Image

    from colorizer import lab
    from colorizer.graph import Graph
    from colorizer.pipeline import Pipeline
    from colorizer.recipe import Recipe

    def ask(lightness: Float) -> Float:
        """Give one frame's colours: (1, S, S) L -> (2, S, S) ab."""
        grey = np.empty((*lightness.shape[1:], 3), np.uint16)
        zeros = np.zeros_like(lightness[0])
        lab.band_to_space(lightness[0], zeros, zeros, grey, lab.SPACES["srgb"])
        picture = cv2.imencode(".png", grey[..., 0])[1].tobytes()
        try:
            reply = server.post(picture, {"format": "png"}, wait_for_server=True)
        except client.Refused as error:
            raise UserError(f"--server: {error}; nothing was written") from None
        rgb = np.asarray(Image.open(io.BytesIO(reply)).convert("RGB"))
        return lab.rgb_to_lab(rgb)[..., 1:].transpose(2, 0, 1)

    def run(lightness: Float) -> Float:
        with ThreadPoolExecutor(BATCH) as threads:  # the server batches what waits together
            return np.stack(list(threads.map(ask, lightness)))

    return Pipeline(Graph("", "", Recipe()), run)


def _tell(line: str) -> None:
    say(f"colorizer-film: {line}", sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and colorize a film; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command("colorizer-film", lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("colorizer-film", __doc__, as_written=True)
    add = parser.add_argument
    add("film", type=Path, help="any film that FFmpeg reads")
    add("--out", help="file or folder to write to (default: NAME-colour.mp4 beside the film)")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    add("--model", default=DEFAULT, help="a network, or a file (default: %(default)s)")
    add("--device", help="cpu or cuda:0 (default: a GPU if there is one)")
    client.add_options(parser)
    add("--chroma", type=float, default=1.0, help="strength of the colours, 0 to 3 (default: 1)")
    add(
        "--hints",
        type=Path,
        metavar="FILE",
        help="colours of places, in JSON: hints of the first shot, or of several, each from a "
        "second on; they follow what they lie on until a cut (docs/hints.md)",
    )
    add(
        "--hold",
        type=float,
        default=HOLD,
        help="0 to 0.99: share of the last frame's colour kept where nothing moves "
        "(default: %(default)s)",
    )
    add(
        "--deinterlace",
        action="store_true",
        help="make whole frames of an interlaced film (default: keep its fields)",
    )
    return parser


def _target(film: Path, out: str | None, overwrite: bool) -> Path:
    """Choose the file to write.

    Raises:
        UserError: if there is no film, or nowhere to write its colours.
    """
    if not film.is_file():
        what = "is a folder; name a film in it" if film.is_dir() else "is not a file that exists"
        raise UserError(f"{film} {what}")
    target = film.with_name(f"{film.stem}-colour.mp4") if out is None else Path(out)
    if out is not None and (target.is_dir() or out.endswith("/")):
        target = target / f"{film.stem}-colour.mp4"
    if target.exists() and target.samefile(film):
        raise UserError(f"{film} would be overwritten; choose another --out")
    if target.exists() and not overwrite:
        raise UserError(f"{target} already exists; --overwrite replaces it")
    return target


def _run(options: argparse.Namespace) -> int:
    """Colorize the film, and report what was damaged; returns the exit code."""
    target = _target(options.film, options.out, options.overwrite)
    if not 0 <= options.hold < 1:
        raise UserError(f"--hold must be 0 to 0.99, not {options.hold}")
    if not 0 <= options.chroma <= 3:
        raise UserError(f"--chroma must be 0 to 3, not {options.chroma}")
    shots = read_hints(options.hints) if options.hints else []
    try:
        import av

        from colorizer.commands import video, writer
    except ImportError:
        raise UserError("films need PyAV: pip install av") from None
    if target.suffix.lower() not in writer.FORMATS:
        *most, last = writer.FORMATS
        raise UserError(
            f"{target.name} must end in {', '.join(most)} or {last}: other containers can't hold "
            "every film (or name a folder that exists)"
        )

    def load() -> Pipeline:
        if options.server:
            return served(client.from_options(options, options.model))
        return _load(options.model, options.device)

    try:
        film = video.inspect(options.film)
        if film.fields and not options.deinterlace:
            order = {"tff": "top", "bff": "bottom"}[film.fields]
            _tell(
                f"{options.film} is interlaced, {order} field first, and stays so; "
                "--deinterlace makes whole frames"
            )
        colorize = partial(
            colorize_frames, hold=options.hold, chroma=options.chroma, hints=MovingHints(shots)
        )
        tally = colorize_film(load, film, target, colorize, options.deinterlace)
    except video.FilmError as error:
        raise UserError(f"{error}; nothing was written") from None
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from None
    count = len(tally.times)
    print(f"wrote {target}: {count} frame{'s' if count != 1 else ''}", file=sys.stderr)
    problems = tally.problems(film)
    for line in problems:
        _tell(line)
    return 1 if problems else 0


def _load(model: str, device: str | None) -> Pipeline:
    from colorizer.api import Colorizer
    from colorizer.engines import BadDevice

    try:
        return Colorizer(model, device).pipeline
    except BadDevice as error:
        raise UserError(f"--device {device}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
