"""Mutated pictures: each is read, or refused with a reason; small here, long as `make fuzz`."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colorizer import encode, errors, image
from colorizer.options import Options
from tests.pictures import KINDS, with_right_checksums

EXAMPLES = int(os.environ.get("FUZZ", "1500"))
LIMITS = image.Limits(max_bytes=2**20, max_pixels=250_000)
GROWTH = 50 * 2**20  # bytes that reading may leave behind, over all examples


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture of some kind, changed in a few places: bytes, cuts, repeats, grafts."""
    names = sorted(KINDS)
    body = bytearray(KINDS[draw(st.sampled_from(names))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(body)))
        # Headers are where the lies are: half of the changes happen there.
        at = at % 64 if draw(st.booleans()) else at
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["set", "cut", "insert", "repeat", "graft", "end"])):
            case "set":
                new = draw(st.binary(max_size=8))
                body[at : at + len(new)] = new
            case "cut":
                del body[at : at + length]
            case "insert":
                body[at:at] = draw(st.binary(max_size=40))
            case "repeat":
                body[at:at] = body[at : at + length] * draw(st.integers(1, 20))
            case "graft":
                other = KINDS[draw(st.sampled_from(names))]
                body[at : at + length] = other[at : at + length]
            case _:
                del body[at:]
    # Behind a wrong checksum a PNG's parser never gets to the lie.
    if body.startswith(b"\x89PNG") and draw(st.booleans()):
        return with_right_checksums(body)
    return bytes(body)


def read_or_refuse(body: bytes) -> str:
    """What `read` may do with anything: give a picture within its limits, or say what is wrong."""
    try:
        picture = image.read(body, LIMITS)
        lightness = image.read(body, LIMITS, "16").pixels
    except errors.RequestError as error:
        refusal = error
    else:
        assert lightness.shape == picture.pixels.shape[:2]
        assert 0 <= lightness.min() <= lightness.max() <= 100.01
        return write(picture)
    assert 400 <= refusal.status < 500
    assert len(str(refusal)) > 20
    return type(refusal).__name__


def write(picture: image.Picture) -> str:
    assert 0 < picture.height * picture.width <= LIMITS.max_pixels
    assert picture.pixels.dtype == np.uint8
    assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    shape = (picture.height, picture.width, 3)
    rgb = np.broadcast_to(picture.pixels.reshape(*picture.pixels.shape[:2], -1), shape)
    encode.write(rgb.copy(), Options("png"), picture.alpha, picture.metadata)
    return "Picture"


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(psutil.Process().memory_info().rss)


def test_a_mutated_picture_is_read_or_refused_and_memory_stays_flat() -> None:
    """In a process of its own: its memory is the reader's alone, and a crash is seen as one."""
    seen: Counter[str] = Counter()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as reader:

        @settings(
            max_examples=EXAMPLES,
            derandomize=EXAMPLES < 10_000,  # in the suite the same each time; a long run looks anew
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated())
        def look(body: bytes) -> None:
            seen[reader.submit(read_or_refuse, body).result()] += 1

        for body in KINDS.values():  # what decoders keep from their first picture on
            reader.submit(read_or_refuse, body).result()
        before = reader.submit(resident).result()
        look()
        grown = reader.submit(resident).result() - before
    print(f"{sum(seen.values())} read: {dict(seen)}; {grown / 2**20:.1f} MiB more memory")
    assert seen["Picture"] > 0
    assert grown < GROWTH
