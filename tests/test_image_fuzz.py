"""Mutated pictures: each is read, or refused with a reason; small here, long as `make fuzz`."""

from __future__ import annotations

import os

import numpy as np
import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colorizer import image
from tests.pictures import KINDS, with_right_checksums

EXAMPLES = int(os.environ.get("FUZZ", "150"))
LIMITS = image.Limits(max_bytes=2**20, max_pixels=250_000)
GROWTH = 200 * 2**20  # bytes that reading may leave behind, over all examples; it leaves far less


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


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 1000,  # in the suite the same each time; a long run looks elsewhere
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(mutated())
def read_or_refuse(body: bytes) -> None:
    """What `read` may do with anything: give a picture within its limits, or say what is wrong."""
    try:
        picture = image.read(body, LIMITS)
    except image.RequestError as error:
        refusal = error
    else:
        assert 0 < picture.height * picture.width <= LIMITS.max_pixels
        rgb = np.broadcast_to(picture.pixels.reshape(*picture.pixels.shape[:2], -1), shape(picture))
        image.write(rgb.copy(), image.OutputOptions("png"), picture.alpha, picture.exif)
        return
    assert 400 <= refusal.status < 500
    assert len(str(refusal)) > 20


def shape(picture: image.Picture) -> tuple[int, int, int]:
    return picture.height, picture.width, 3


def test_a_mutated_picture_is_read_or_refused_and_memory_stays_flat() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    read_or_refuse()
    assert process.memory_info().rss - before < GROWTH
