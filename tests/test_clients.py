"""The same cases through each client, against the real TorchServe and the real Triton.

The clients: the command, the page, the Python class and the film command. Each is told no more than
host and port, and gives the library's own bytes, or its errors in its words.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest

from colorizer import Colorizer
from colorizer.commands import cli, film
from colorizer.commands.client import Refused, Server
from colorizer.errors import RequestError
from tests.support import Capture, Patch, TorchServe, Triton, encoded, picture
from tests.test_film import make
from tests.test_page import ask, page_before

pytestmark = pytest.mark.server
PHOTO = encoded(picture(90, 120), "JPEG")
HINT = '[{"x": 0.2, "y": 0.3, "color": "#7a2f2f"}]'
HINTS = json.dumps([{"x": n / 200, "y": 0.5, "color": "#7a2f2f"} for n in range(90)])


class Case(NamedTuple):
    """What is posted to which network."""

    network: str = "regression"
    options: Mapping[str, str] = MappingProxyType({})
    body: bytes = PHOTO


CASES = {
    "plain": Case(),
    "options": Case(options={"format": "webp", "quality": "70", "chroma": "1.5"}),
    "hints": Case(options={"hints": HINT, "spread": "0.2", "format": "png"}),
    "hints too long for headers": Case(options={"hints": HINTS, "format": "png"}),
    "the other network": Case("classification", {"decoding": "mode", "format": "png"}),
    "variants": Case("classification", {"variants": "2", "seed": "7", "format": "png"}),
    "show": Case("classification", {"show": "uncertainty", "format": "png"}),
    "16 bits": Case(options={"format": "png", "bits": "16", "profile": "display-p3"}),
    "no picture": Case(body=b"text"),
    "cut short": Case(body=PHOTO[:300]),
    "empty": Case(body=b""),
    "the other network's option": Case(options={"temperature": "1"}),
}


@pytest.fixture(scope="module")
def library(archives: Path) -> dict[str, Colorizer]:
    names = {"regression": "colorize", "classification": "colorize-classes"}
    return {head: Colorizer(archives / f"{name}.mar", "cpu") for head, name in names.items()}


@pytest.fixture(scope="module", params=["torchserve", "triton_server"])
def server(request: pytest.FixtureRequest) -> str:
    """Host and port of one of the servers."""
    found: TorchServe | Triton = request.getfixturevalue(request.param)
    return f"127.0.0.1:{found.port}"


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[int]:
    """The port of a page in front of it."""
    with page_before(server) as port:
        yield port


@pytest.fixture(autouse=True)
def behind_a_proxy(monkeypatch: Patch) -> None:
    """The environment names a proxy, which can't reach this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


# What came of a case: the reply's bytes, or the error's status and words.
Found = bytes | tuple[int, str]
Ask = Callable[[Case], Found]


@pytest.fixture(params=["python", "command", "page"])
def client(
    request: pytest.FixtureRequest, server: str, page: int, tmp_path: Path, capsys: Capture
) -> Ask:
    def python(case: Case) -> Found:
        try:
            return Server(server, case.network).colorize(case.body, **case.options)  # type: ignore
        except Refused as error:
            return error.status or 0, str(error).partition(": ")[2]

    def command(case: Case) -> Found:
        (tmp_path / "photo.jpg").write_bytes(case.body)
        (tmp_path / "out").mkdir()
        given = [str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "out")]
        given += ["--server", server, "--model", case.network]
        options = dict(case.options)
        if hints := options.pop("hints", None):
            (tmp_path / "hints.json").write_text(hints)
            given += ["--hints", str(tmp_path / "hints.json")]
        given += [part for name, value in options.items() for part in (f"--{name}", value)]
        if cli.main(given) == 0:
            bodies = [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]
            return zipped(bodies, 7) if len(bodies) > 1 else bodies[0]
        assert not list((tmp_path / "out").iterdir())
        _, _, told = capsys.readouterr().err.splitlines()[0].partition(": ")
        status, _, words = told.removeprefix("--server: ").partition(": ")
        return int(status), words

    def by_page(case: Case) -> Found:
        headers = {f"X-Colorize-{name}": value for name, value in case.options.items()}
        answer = ask(page, "POST", f"/colour/{case.network}", case.body, **headers)
        if answer.status == 200:
            return answer.body
        assert json.loads(answer.body)["code"] == answer.status
        return answer.status, json.loads(answer.body)["message"]

    return {"python": python, "command": command, "page": by_page}[request.param]


def zipped(bodies: list[bytes], seed: int) -> bytes:
    """Variants as a server packs them, made of the files that the command writes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, body in enumerate(bodies):
            archive.writestr(zipfile.ZipInfo(f"seed-{seed + number}.png"), body)
    return packed.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_each_client_gives_the_librarys_bytes_or_its_errors_from_either_server(
    name: str, client: Ask, library: dict[str, Colorizer]
) -> None:
    case = CASES[name]
    expected: Found
    try:
        expected = library[case.network].pipeline.colorize(case.body, case.options).body
    except RequestError as error:
        expected = error.status, str(error)
    assert client(case) == expected


def test_likely_colours_come_through_the_page_and_python(
    server: str, page: int, library: dict[str, Colorizer]
) -> None:
    asked = {"likely": "0.25,0.5"}
    expected = library["classification"].pipeline.colorize(PHOTO, asked).body
    assert Server(server, "classification").post(PHOTO, asked) == expected
    answer = ask(page, "POST", "/colour/classification", PHOTO, **{"X-Colorize-Likely": "0.25,0.5"})
    assert answer.body == expected
    assert answer.headers["Content-Type"] == "application/json"


FRAMES: dict[str, np.ndarray] = {}  # of the film through each server


def test_a_film_through_either_server_has_the_networks_colours(
    server: str, archives: Path, tmp_path: Path
) -> None:
    make(tmp_path / "old.mkv", "ffv1", count=4)

    def frames(*arguments: str) -> np.ndarray:
        out = tmp_path / "out.mkv"
        given = [str(tmp_path / "old.mkv"), "--out", str(out), "--overwrite"]
        assert film.main([*given, *arguments]) == 0
        return frames_of(out)

    here = ("--model", str(archives / "colorize.mar"))
    served, local, grey = frames("--server", server), frames(*here), frames(*here, "--chroma", "0")
    # Random weights give colours that the second smoothing changes more than a photograph's.
    assert np.abs(served - local).mean() < 0.5 * np.abs(local - grey).mean()
    FRAMES[server] = served
    assert all((one == served).all() for one in FRAMES.values())


def frames_of(path: Path) -> np.ndarray:
    """(T, H, W, 3) int64, 0..255."""
    import av

    with av.open(str(path)) as one:
        return np.stack([x.to_ndarray(format="rgb24") for x in one.decode(video=0)]).astype(int)


def test_a_network_that_is_not_there_is_told_in_one_line(
    server: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    for path in ("predictions/none", "v2/models/none/infer"):
        assert cli.main([str(tmp_path / "photo.jpg"), "--server", f"http://{server}/{path}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("colorizer: --server: 40")
    assert cli.main([str(tmp_path / "photo.jpg"), "--server", server, "--model", "none.mar"]) == 2
    assert "networks are regression and classification" in capsys.readouterr().err
