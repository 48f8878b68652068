"""A page for people: drop photographs, see them in colour, take them home at full size.

It asks a server that runs already (make serve); `make ui` starts both.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from colorizer import __version__, image
from colorizer.commands import client
from colorizer.errors import RequestError

NETWORKS = [
    ("Calm: one likely colour", "colorize"),
    ("Lively: chosen among many colours", "colorize-classes"),
]
CLIENTS = 4  # pictures asked for at once; the server answers those that wait together in one go
KEPT_SECONDS = 3600  # that pictures lie on the disk, once nobody looks at them
SHOWN = 1600  # longest side of what the page shows; what is saved has the picture's own size
TITLE = "Colour for black-and-white photographs"
STYLE = ".gradio-container {max-width: 960px !important; margin: auto}"
STYLE += "#variants .grid-wrap {max-height: none}"  # all in sight, none behind a scroll bar


class Coloured:
    """One photograph and its colours, or several variants of them, as files that the page shows."""

    def __init__(self, source: Path, body: bytes, folder: Path) -> None:
        """Write what is shown and what is saved into a folder.

        Args:
            source: the photograph.
            body: the server's answer: a picture, or a zip file of variants.
            folder: of this photograph alone.

        Raises:
            OSError, ValueError, BadZipFile: if the answer holds no picture.
        """
        self.name = source.name
        self.folder = folder
        self.saved: list[Path] = []
        self.after: list[Path] = []
        pictures = _variants(body)
        # As the server reads it: upright, whatever its format. A browser can't show every one.
        try:
            before = Image.fromarray(image.read(source.read_bytes()).pixels)
        except RequestError:  # the server reads what this machine can't; the lightness is the same
            before = Image.open(io.BytesIO(pictures[0]))
        self.before = folder / "before.jpg"
        before = before.convert("L")
        before.thumbnail((SHOWN, SHOWN))
        before.save(self.before, quality=90)
        for number, picture in enumerate(pictures):
            # In front: lists on a phone cut the ends of names.
            which = f"{number + 1}-" if zipfile.is_zipfile(io.BytesIO(body)) else ""
            self.saved.append(folder / f"{which}{source.stem}-colour.jpg")
            self.saved[-1].write_bytes(picture)
            after = Image.open(io.BytesIO(picture))
            after.thumbnail((SHOWN, SHOWN))
            self.after.append(folder / f"after{number}.jpg")
            after.save(self.after[-1], quality=90)

    def pair(self, number: int) -> tuple[str, str]:
        """What the slider shows: before, and one of the variants."""
        return str(self.before), str(self.after[min(number, len(self.after) - 1)])

    def gallery(self) -> list[tuple[str, str]]:
        """Each variant with its words."""
        return [(str(path), f"Try {n}") for n, path in enumerate(self.after, start=1)]


def delete(done: Sequence[Coloured]) -> None:
    """Delete the files of photographs that are no longer shown."""
    for one in done:
        shutil.rmtree(one.folder, ignore_errors=True)


def _variants(body: bytes) -> list[bytes]:
    if not zipfile.is_zipfile(io.BytesIO(body)):
        return [body]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def options_of(
    network: str, decoding: str, temperature: float, seed: int, variants: int, unsure: bool
) -> dict[str, object]:
    """What to ask a network for: only the options that go together."""
    if network != "colorize-classes":
        return {}
    if unsure:
        return {"show": "uncertainty"}
    options: dict[str, object] = {"temperature": temperature, "seed": seed}
    return options | ({"variants": variants} if variants > 1 else {"decoding": decoding})


def colorize(
    server: str,
    folder: Path,
    paths: Sequence[str],
    network: str,
    options: Mapping[str, object],
    progress: gradio.Progress,
) -> tuple[list[Coloured], list[str]]:
    """Ask the server for each photograph.

    Returns:
        Those that have colours now, and a sentence for each that has none.
    """
    done: list[Coloured] = []
    failed: list[str] = []
    sources = [Path(path) for path in paths]

    def ask(source: Path) -> bytes | Exception:
        try:
            return client.post(f"{server}/predictions/{network}", source.read_bytes(), options)
        except (client.Refused, OSError) as error:
            return error

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = threads.map(ask, sources)
        for number, (source, answer) in enumerate(zip(sources, answers, strict=True), start=1):
            progress((number, len(sources)), desc="Colouring", unit="photographs")
            if isinstance(answer, bytes):
                own = Path(tempfile.mkdtemp(dir=folder))
                try:
                    done.append(Coloured(source, answer, own))
                    continue
                except (OSError, ValueError, zipfile.BadZipFile) as error:
                    shutil.rmtree(own, ignore_errors=True)
                    answer = error
            failed.append(f"**{source.name}** has no colours: {answer}")
    return done, failed


def build(server: str, folder: Path) -> Any:
    """Lay out the page.

    Args:
        server: base address of the server, as http://127.0.0.1:8080.
        folder: where the pictures lie while the page runs.
    """
    with gradio.Blocks(title=TITLE, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gradio.Markdown(f"# {TITLE}\nDrop one or several. They stay on this machine.")
        files = gradio.File(label="Photographs", file_count="multiple", elem_id="photographs")
        network = gradio.Radio(
            NETWORKS, value="colorize", label="Network", elem_id="network", show_label=True
        )
        chroma = gradio.Slider(
            0, 2, value=1, step=0.1, label="Strength (0: grey, 1: as the network has it)"
        )
        with gradio.Row(visible=False) as classes:
            decoding = gradio.Dropdown(
                [
                    ("Balanced", "annealed-mean"),
                    ("Pale: the mean", "mean"),
                    ("Strong: the likeliest", "mode"),
                    ("Another try each time: a draw", "sample"),
                ],
                value="annealed-mean",
                label="How it chooses",
            )
            temperature = gradio.Slider(0.05, 1, value=0.3, step=0.05, label="Calm (right: paler)")
            variants = gradio.Slider(
                1, 8, value=1, step=1, label="Variants: so many tries side by side"
            )
            seed = gradio.Number(0, label="Number of the draw", precision=0, minimum=0)
            unsure = gradio.Checkbox(label="Show where it is unsure (white)")
        button = gradio.Button("Colour", variant="primary", elem_id="colour")
        failures = gradio.Markdown(visible=False, elem_id="failures")
        with gradio.Column(visible=False) as results:
            which = gradio.Dropdown(label="Photograph", visible=False)
            slider = gradio.ImageSlider(
                label="Before and after: move the handle",
                type="filepath",
                interactive=False,
                elem_id="slider",
            )
            gallery = gradio.Gallery(
                label="Variants: choose one to see it above",
                columns=2,
                height="auto",
                allow_preview=False,
                interactive=False,
                visible=False,
                elem_id="variants",
                buttons=[],
            )
            saved = gradio.File(label="In colour, at full size", file_count="multiple")
        state = gradio.State([], time_to_live=KEPT_SECONDS, delete_callback=delete)

        def choose(name: str) -> Any:
            return gradio.Row(visible=name == "colorize-classes")

        def colour(
            paths: list[str] | None,
            network: str,
            decoding: str,
            temperature: float,
            seed: float,
            chroma: float,
            variants: float,
            unsure: bool,
            shown: list[Coloured],
            progress: gradio.Progress = gradio.Progress(),  # noqa: B008 (how gradio finds it)
        ) -> list[Any]:
            if not paths:
                message = gradio.Markdown("Choose a photograph first.", visible=True)
                return [message, *[gradio.skip()] * 6]
            delete(shown)
            options: dict[str, object] = {"chroma": chroma}
            options |= options_of(network, decoding, temperature, int(seed), int(variants), unsure)
            done, failed = colorize(server, folder, paths, network, options, progress)
            names = [(one.name, number) for number, one in enumerate(done)]
            return [
                gradio.Markdown("\n\n".join(failed), visible=bool(failed)),
                gradio.Column(visible=bool(done)),
                gradio.Dropdown(names, value=0 if done else None, visible=len(done) > 1),
                *show(0 if done else None, done),
                [str(path) for one in done for path in one.saved],
                done,
            ]

        def show(number: int | None, done: list[Coloured]) -> list[Any]:
            if number is None or number >= len(done):
                return [None, gradio.Gallery(visible=False)]
            one = done[number]
            several = gradio.Gallery(one.gallery(), visible=len(one.after) > 1)
            return [one.pair(0), several]

        def choose_variant(
            number: int | None, done: list[Coloured], event: gradio.SelectData
        ) -> Any:
            return done[number or 0].pair(int(event.index))

        network.change(choose, network, classes, show_progress="hidden")
        files.change(
            lambda: gradio.Markdown(visible=False), None, failures, api_visibility="private"
        )
        button.click(
            colour,
            [files, network, decoding, temperature, seed, chroma, variants, unsure, state],
            [failures, results, which, slider, gallery, saved, state],
        )
        which.input(show, [which, state], [slider, gallery])
        gallery.select(choose_variant, [which, state], slider)
    return page


def wait_for(server: str, seconds: float) -> bool:
    """Wait until the server answers, for so many seconds at most."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{server}/ping", timeout=5):
                return True
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.5)


def is_free(port: int) -> bool:
    """Tell whether a port of this machine can be listened on."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and show the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m page", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=10, help="seconds for the server to answer")
    options = parser.parse_args(arguments)
    server = options.server.rstrip("/")
    try:
        client.check_address(server)
    except ValueError as error:
        parser.error(f"--server: {error}")
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # so that all end it in order
        signal.signal(wanted, signal.default_int_handler)
    try:
        if not is_free(options.port):
            print(
                f"page: port {options.port} is in use; choose another: --port 7870, or "
                "make ui PAGE_PORT=7870",
                file=sys.stderr,
            )
            return 1
        if not wait_for(server, options.wait):
            print(f"page: {server} does not answer: start it with make serve", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "gradio"))  # what is uploaded, too
            build(server, Path(folder)).queue(default_concurrency_limit=CLIENTS).launch(
                server_name="127.0.0.1",
                server_port=options.port,
                allowed_paths=[folder],
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                css=STYLE,
            )
            print(f"The page is at http://127.0.0.1:{options.port}\nCtrl-C ends it.", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
