"""The archives in the real TorchServe: what people post, and what they get back."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from colorizer.pipeline import Options
from colorizer.unet import Head
from export import archive
from tests.support import (
    SECONDS,
    encoded,
    free_port,
    opened,
    picture,
    start_launcher,
    wait_for_line,
)
from training.evaluate import eager_pipeline

pytestmark = pytest.mark.server

ARCHIVES: dict[str, Head] = {"colorize": "regression", "colorize-classes": "classification"}


class Reply(NamedTuple):
    status: int
    type: str
    body: bytes


@pytest.fixture(scope="module")
def server(
    weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """TorchServe with both archives; its address."""
    folder = tmp_path_factory.mktemp("server")
    for name, head in ARCHIVES.items():
        archive.archive(weights(head), folder / "store" / f"{name}.mar")
    port = free_port()
    process = start_launcher(folder / "store", folder, "--port", str(port))
    try:
        wait_for_line(process, "Ready in ")
        yield f"http://127.0.0.1:{port}/predictions"
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def put(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    """Send as `curl -T` does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, dict(headers or {}), method="PUT")
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with opener.open(request, timeout=SECONDS) as reply:
            return Reply(reply.status, reply.headers["Content-Type"], reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers["Content-Type"], error.read())


def farthest(body: bytes, other: bytes) -> int:
    """The largest difference between two pictures, in 8-bit levels.

    One is rounding: a network computes in another order with another number of pictures.
    """
    levels = [np.asarray(opened(one), int) for one in (body, other)]
    return int(np.abs(levels[0] - levels[1]).max())


@pytest.mark.parametrize("model", ARCHIVES)
def test_a_photograph_comes_back_in_colour_at_its_own_size(server: str, model: str) -> None:
    reply = put(f"{server}/{model}", encoded(picture(211, 307), "JPEG"))
    assert (reply.status, reply.type) == (200, "image/jpeg")
    colour = opened(reply.body)
    assert (colour.size, colour.mode) == ((307, 211), "RGB")
    assert np.ptp(np.asarray(colour), axis=2).max() > 8


@pytest.mark.parametrize("model", ARCHIVES)
def test_torchserve_gives_what_the_library_gives(
    server: str, model: str, weights: Callable[[Head], Path]
) -> None:
    body = encoded(picture(90, 120), "JPEG")
    pipeline = eager_pipeline(weights(ARCHIVES[model]))
    expected = pipeline.colorize(body, Options.parse({"format": "png"}))
    found = put(f"{server}/{model}", body, {"X-Colorize-Format": "png"})
    assert found.type == expected.content_type == "image/png"
    assert farthest(found.body, expected.body) <= 1


def test_a_poisoned_batch_costs_the_neighbours_nothing(server: str) -> None:
    url = f"{server}/colorize"
    sizes = [(60, 80), (300, 200), (64, 64), (33, 500), (1, 1)]
    good = [encoded(picture(*size), "PNG") for size in sizes]
    png = {"X-Colorize-Format": "png"}
    alone = [put(url, body, png).body for body in good]
    cut, text, option = good[1][:-2000], b"not a picture", {"X-Colorize-Quality": "best"}
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(put, url, body, png) for body in good]
        broken = [pool.submit(put, url, body) for body in (cut, text)]
        broken.append(pool.submit(put, url, good[0], option))
    for one, other in zip(waiting, alone, strict=True):
        assert farthest(one.result().body, other) <= 1
    for one, status in zip(broken, (400, 415, 422), strict=True):
        reply = one.result()
        assert (reply.status, reply.type) == (status, "application/json")
        assert json.loads(reply.body)["code"] == status


def test_curl_gets_a_picture_with_a_form_and_with_the_readmes_line(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(70, 50), "JPEG"))
    url = f"{server}/colorize-classes"
    for arguments, kind in [
        (["-T", "photo.jpg"], "JPEG"),
        (["-F", "data=@photo.jpg", "-F", "format=webp", "-F", "temperature=1"], "WEBP"),
    ]:
        command = ["curl", "-s", "--fail", "--noproxy", "*", *arguments, url, "-o", "colour"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=SECONDS)
        colour = opened((tmp_path / "colour").read_bytes())
        assert (colour.size, colour.format) == ((50, 70), kind)
