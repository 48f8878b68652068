"""Give a black-and-white film colour, frame by frame, without flicker; the sound is kept.

Colours of what stands still between two frames are held together; a cut begins them anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorizer import __version__
from colorizer.files import written_whole

Float = NDArray[np.float32]

BATCH = 8  # frames a run of the network
HOLD = 0.85  # share of the last frame's colour that a pixel keeps where nothing changed
STILL = 4.0  # L; a change well below it is grain, one well above it is motion
CUT = 18.0  # mean change of L over the frame that begins a new scene
QUALITY = "18"  # x264's constant rate factor: visually lossless


class CannotColorize(Exception):
    """Why there is no film in colour: a message for the person who asked for one."""


class Steady:
    """Colours that follow each other without flicker."""

    def __init__(self, hold: float = HOLD) -> None:
        self.hold = hold
        self._last: tuple[Float, Float] | None = None

    def __call__(self, lightness: Float, ab: Float) -> Float:
        """Mix a frame's colours with those of the last, where the picture stands still.

        Args:
            lightness: (S, S), 0..100, what the network saw.
            ab: (2, S, S), what it answered.

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


def flicker(pictures: Sequence[NDArray[np.uint8]], truth: Sequence[NDArray[np.uint8]]) -> float:
    """Measure how much colour changes between frames where lightness does not.

    Args:
        pictures: (H, W, 3) each, in colour.
        truth: the same frames before, grey or not.

    Returns:
        Mean change of ab, in Lab's units, over pixels whose L moves by less than STILL / 2.
    """
    from colorizer import lab

    planes = [
        (lab.rgb_to_lab(one)[..., 1:], lab.rgb_to_lightness(before))
        for one, before in zip(pictures, truth, strict=True)
    ]
    total, count = 0.0, 0
    for (ab, light), (next_ab, next_light) in pairwise(planes):
        still = np.abs(next_light - light) < STILL / 2
        total += float(np.linalg.norm(next_ab - ab, axis=-1)[still].sum())
        count += int(still.sum())
    return total / max(1, count)


def colorize_frames(
    pipeline: Any, frames: Iterable[NDArray[np.uint8]], hold: float = HOLD
) -> Iterator[NDArray[np.uint8]]:
    """Colorize the frames of a film, in order.

    Args:
        pipeline: a `colorizer.pipeline.Pipeline`.
        frames: (H, W, 3) uint8 each.
        hold: 0 for each frame by itself.
    """
    import torch

    from colorizer.image import Picture
    from colorizer.pipeline import Options, finish, prepare

    steady, frames = Steady(hold), iter(frames)
    while some := [one for _, one in zip(range(BATCH), frames, strict=False)]:
        prepared = [prepare(Picture(one), pipeline.graph.side) for one in some]
        output = pipeline.run(torch.stack([one.small for one in prepared]))
        for one, ab in zip(prepared, pipeline.decode(output, Options()), strict=True):
            held = steady(one.small[0].numpy(), ab)
            yield finish(one.lightness, held, pipeline.graph.chroma_gain)


def colorize_film(pipeline: Any, source: Path, target: Path, hold: float = HOLD) -> int:
    """Write a film in colour, whole or not at all: H.264 and the sound as it was.

    Frames keep their times and size.

    Args:
        pipeline: a `colorizer.pipeline.Pipeline`.
        source: any film that FFmpeg reads.
        target: its suffix chooses the container.
        hold: see `colorize_frames`.

    Returns:
        The number of frames.

    Raises:
        CannotColorize: if the film cannot be read, or not be written so.
    """
    import av
    from tqdm import tqdm

    try:
        with (
            written_whole(target) as beside,
            av.open(str(source)) as film,
            av.open(str(beside), "w") as colour,
        ):
            if not film.streams.video:
                raise CannotColorize(f"{source} has no picture in it")
            video = film.streams.video[0]
            video.thread_type = "AUTO"
            out = colour.add_stream("libx264", rate=video.average_rate or Fraction(25))
            out.width, out.height = video.codec_context.width, video.codec_context.height
            even = out.width % 2 == 0 and out.height % 2 == 0
            out.pix_fmt = "yuv420p" if even else "yuv444p"  # the former has colour for 2 x 2
            if video.time_base is not None:
                out.time_base = out.codec_context.time_base = video.time_base
            out.options = {"crf": QUALITY}
            sound = film.streams.audio[0] if film.streams.audio else None
            heard = colour.add_stream_from_template(sound) if sound else None
            times: list[int | None] = []

            def pictures() -> Iterator[NDArray[np.uint8]]:
                for packet in film.demux(*[s for s in (video, sound) if s]):
                    if packet.stream is video:
                        for frame in video.decode(packet):
                            times.append(frame.pts)
                            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                    elif heard is not None and packet.dts is not None:
                        packet.stream = heard
                        colour.mux(packet)

            done = 0
            bar = tqdm(total=video.frames or None, unit="frame", file=sys.stderr, disable=None)
            with bar:
                for rgb in colorize_frames(pipeline, pictures(), hold):
                    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                    frame.pts, frame.time_base = times[done], video.time_base
                    colour.mux(out.encode(frame))
                    done += 1
                    bar.update()
            if not done:
                raise CannotColorize(f"{source} holds no frame that can be read")
            colour.mux(out.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise CannotColorize(
            f"{source} cannot become {target.name}: {error}; if the sound does not fit that kind "
            "of file, write .mkv"
        ) from None
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and colorize a film; returns the exit code."""
    parser = argparse.ArgumentParser(prog="colorizer-film", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("film", type=Path, help="any that FFmpeg reads")
    add("--out", type=Path, required=True, help="film to write, .mp4 or .mkv")
    add("--overwrite", action="store_true", help="replace it if it is there")
    add("--model", default="model_store/colorize.mar", help="an archive (default: %(default)s)")
    add("--device", help="cpu or cuda:0 (default: a GPU where there is one)")
    add(
        "--hold",
        type=float,
        default=HOLD,
        help="0 to 0.99: how much colour stays where nothing moves (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.hold < 1:
            raise CannotColorize(f"--hold must be 0 to 0.99, not {options.hold}")
        if not options.film.is_file():
            raise CannotColorize(f"there is no film at {options.film}")
        if options.out.exists() and not options.overwrite:
            raise CannotColorize(f"{options.out} is there already; --overwrite replaces it")
        if options.out.exists() and options.out.samefile(options.film):
            raise CannotColorize(f"{options.film} would be written over; choose another --out")
        try:
            import av  # noqa: F401
        except ImportError:
            raise CannotColorize("films need PyAV: pip install 'colorizer[film]'") from None
        from colorizer.api import Colorizer
        from colorizer.engine import BadGraph

        try:
            pipeline = Colorizer(options.model, options.device).pipeline
        except (BadGraph, FileNotFoundError) as error:
            raise CannotColorize(str(error)) from None
        frames = colorize_film(pipeline, options.film, options.out, options.hold)
    except CannotColorize as error:
        print(f"colorizer-film: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colorizer-film: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {options.out}: {frames} frames", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
