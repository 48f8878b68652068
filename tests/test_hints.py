"""Hints: colours that a person knows."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from colorizer import hints, lab
from colorizer.api import Colorizer, parse_options
from colorizer.errors import BadOption
from colorizer.graph import Graph
from colorizer.hints import Hint, Spot
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from colorizer.recipe import Head, Recipe
from evaluation.methods import eager_pipeline
from tests.support import SIDE, coloured, encoded, opened, picture
from tests.test_pipeline import Weights, constant

HEADS: tuple[Head, ...] = ("regression", "classification")
RED: dict[str, Any] = {"x": 0.25, "y": 0.5, "color": "#c04040"}


def as_text(*entries: Any) -> str:
    return json.dumps(list(entries))


def colour(pixels: np.ndarray, pipeline: Pipeline, **options: object) -> np.ndarray:
    """(H, W, 3) uint8: the picture in colour."""
    return Colorizer(pipeline).colorize(pixels, **options)


def difference(rgb: np.ndarray, row: int, column: int, wanted: str) -> float:
    """ΔE00 between a pixel and a colour at the pixel's L, as far as sRGB has that."""
    light, *_ = rgb2lab(rgb[row, column])
    asked = lab.rgb_to_lab(np.array([[list(bytes.fromhex(wanted[1:]))]], np.uint8))
    here = lab.lab_to_rgb(np.full((1, 1), light, np.float32), np.ascontiguousarray(asked[..., 1:]))
    return float(deltaE_ciede2000(rgb2lab(here[0, 0]), rgb2lab(rgb[row, column])))


def halves(left: int = 90, right: int = 190) -> np.ndarray:
    """Two things side by side: a dark one and a light one."""
    pixels = np.full((120, 160), left, np.uint8)
    pixels[:, 80:] = right
    return pixels


def test_hints_are_read_with_all_that_they_may_say() -> None:
    stroke = {"points": [[0, 0.5], [1, 1]], "neutral": True, "radius": 0.05}
    assert hints.parse(as_text(RED, stroke, {"x": 1, "y": 0, "colour": "A1b2C3"})) == (
        Hint(((0.25, 0.5),), (192, 64, 64)),
        Hint(((0.0, 0.5), (1.0, 1.0)), None, 0.05),
        Hint(((1.0, 0.0),), (161, 178, 195)),
    )
    assert hints.parse("[]") == ()


NAN = '[{"x": NaN, "y": 0.5, "color": "#7a2f2f"}]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 40_000, "not JSON"),
        (f"[{'9' * 5000}]", "JSON|hint 1"),
        ("[" + " " * 10_000_000 + "]", "10,000,002 characters"),
        ("{}", "an object, not a list"),
        ("null", "null, not a list"),
        ("[3]", "hint 1 is a number"),
        (as_text(RED, None), "hint 2 is null"),
        (as_text(RED, []), "hint 2 is a list"),
        (as_text(*[RED] * 201), "201; use at most 200"),
        (as_text(*[{"points": [[0, 0]] * 3, "neutral": True}] * 200), "600 points"),
        (as_text({"color": "#7a2f2f"}), "hint 1 has no place"),
        (as_text({"x": 0.5, "color": "#7a2f2f"}), "hint 1 has no place"),
        (as_text({**RED, "points": [[0, 0]]}), "both points and x"),
        (as_text({**RED, "size": 3}), "hint 1 has 'size'"),
        (as_text({"points": [], "neutral": True}), "hint 1: points"),
        (as_text({"points": 3, "neutral": True}), "hint 1: points"),
        (as_text({"points": [[0, 0], [1]], "neutral": True}), "each of its points"),
        (as_text({"points": [[0, 0], "ab"], "neutral": True}), "each of its points"),
        (as_text(RED, {**RED, "x": 1.4}), "hint 2: x is 1.4"),
        (as_text({**RED, "y": -0.01}), "hint 1: y is -0.01"),
        (as_text({**RED, "y": True}), "hint 1: y is true or false"),
        (as_text({**RED, "y": "0.5"}), "hint 1: y is text"),
        (as_text({**RED, "x": 10**400}), "hint 1: x is too large"),
        (as_text({"points": [[0, 2]], "neutral": True}), "hint 1: y is too large"),
        (NAN, "hint 1: x is nan"),
        (NAN.replace("NaN", "1e400"), "hint 1: x is inf"),
        (NAN.replace("NaN", "-Infinity"), "hint 1: x is -inf"),
        (as_text({"x": 0, "y": 0}), "hint 1: give either"),
        (as_text({**RED, "neutral": True}), "hint 1: give either"),
        (as_text({**RED, "colour": "#000000"}), "hint 1: give either"),
        (as_text({**RED, "neutral": 1}), "hint 1: neutral is a number"),
        (as_text({**RED, "color": "brown"}), "hint 1: color is 'brown'"),
        (as_text({**RED, "color": "#7a2f2"}), "hint 1: color"),
        (as_text({**RED, "color": "#7a2f2f\n"}), "hint 1: color"),
        (as_text({**RED, "color": [122, 47, 47]}), "hint 1: color is a list"),
        (as_text({**RED, "color": "x" * 100_000}), "hint 1: color"),
        (as_text({**RED, "radius": 0}), "hint 1: radius is too"),
        (as_text({**RED, "radius": 0.2}), "hint 1: radius is 0.2"),
        (as_text({**RED, "radius": None}), "hint 1: radius is null"),
        (as_text({"x" * 100_000: 1}), "hint 1 has 'x"),
    ],
)
def test_a_wrong_hint_is_named_with_what_it_should_be(text: str, message: str) -> None:
    with pytest.raises(BadOption, match=message) as caught:
        Options.parse({"hints": text})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("none", ["[]", None])
def test_without_hints_the_bytes_are_the_same(
    head: Head, none: str | None, weights: Weights
) -> None:
    pipeline, body = eager_pipeline(weights(head)), encoded(picture(90, 130))
    plain = pipeline.colorize(body).body
    with_none = {"spread": "1"} | ({} if none is None else {"hints": none})
    assert pipeline.colorize(body, with_none).body == plain
    assert pipeline.colorize(body, {"hints": as_text(RED)}).body != plain


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("spread", [0, 0.1, 0.5, 1])
def test_a_hints_colour_is_met_at_its_place_whatever_is_around(
    head: Head, spread: float, weights: Weights
) -> None:
    rng = np.random.default_rng(3)
    pixels = np.clip(picture(300, 400, 5) + rng.normal(0, 12, (300, 400)), 0, 255).astype(np.uint8)
    pixels[:, 150:153] = 250  # a fine line, thinner than the network's pixels
    places = [(0.1, 0.2, "#7a2f2f"), (151.5 / 400, 0.5, "#f8e8b0"), (0.9, 0.9, "#0040ff")]
    places += [(0.1, 0.9, "#00ff00"), (1, 0, "#808080")]
    said = [{"x": x, "y": y, "color": wanted} for x, y, wanted in places]
    rgb = colour(pixels, eager_pipeline(weights(head)), hints=said, spread=spread)
    for x, y, wanted in places:
        row, column = min(int(y * 300), 299), min(int(x * 400), 399)
        assert difference(rgb, row, column, wanted) < 3


def test_lightness_never_moves(weights: Weights) -> None:
    pixels = picture(100, 140)
    before = rgb2lab(np.repeat(pixels[..., None], 3, axis=2))[..., 0]
    said = [RED, {"x": 0.8, "y": 0.8, "color": "#0000ff"}]
    after = rgb2lab(colour(pixels, eager_pipeline(weights("regression")), hints=said))[..., 0]
    assert np.abs(after - before).max() < 0.6


def test_a_hint_fills_its_object_and_leaves_the_other_nearly_alone() -> None:
    rgb = colour(halves(), constant((0.0, 0.0)), hints=[RED])
    chroma = np.hypot(*np.moveaxis(rgb2lab(rgb)[..., 1:], -1, 0))
    assert chroma[:, :70].min() > chroma[60, 40] / 3
    assert chroma[:, 100:].max() < 0.3 * chroma[60, 40]


@pytest.mark.parametrize("wanted", ["#ff2000", "#0060ff", "#00a020", "#ffd000"])
def test_a_strong_hint_leaves_a_like_thing_far_away_nearly_alone(wanted: str) -> None:
    pixels = np.full((120, 240), 190, np.uint8)
    for column in (40, 200):
        pixels[30:90, column - 30 : column + 30] = 110
    plain = colour(pixels, constant((4.0, 10.0)))
    rgb = colour(pixels, constant((4.0, 10.0)), hints=[{"x": 1 / 6, "y": 0.5, "color": wanted}])
    moved = deltaE_ciede2000(rgb2lab(plain), rgb2lab(rgb))
    assert moved[40:80, 180:220].max() < 5
    assert moved[40:80, 20:60].min() > 12


def test_hints_that_agree_on_a_cast_change_the_whole_picture() -> None:
    def far_away(*places: tuple[float, float]) -> float:
        said = [{"x": x, "y": y, "color": "#b08050"} for x, y in places]
        rgb = colour(halves(120, 120), constant((0.0, 0.0)), hints=said)
        return float(np.hypot(*rgb2lab(rgb[110, 150])[1:]))

    alone = far_away((0.1, 0.1))
    assert far_away((0.1, 0.1), (0.4, 0.2), (0.15, 0.6)) > max(10, 1.2 * alone)


@pytest.mark.parametrize("planes", [False, True])
def test_a_network_may_tell_what_is_the_same_kind_of_thing(planes: bool) -> None:
    """Three stripes whose predicted colour and lightness are one; the outer ones are of a kind."""
    output = np.zeros((1, 2 + sum(hints.ALIKE), SIDE, SIDE), np.float32)
    output[:, (2, 2 + hints.ALIKE[0]), :, SIDE // 3 : -SIDE // 3] = 2
    pipeline = Pipeline(Graph("", "", Recipe(side=SIDE)), lambda _: output)
    body = encoded(np.full((120, 180), 120, np.uint8))
    said = as_text({"x": 1 / 6, "y": 0.5, "color": "#a06060"})
    made = pipeline.colorize(body, {"hints": said, "format": "jpg" if planes else "png"})
    rgb = np.asarray(opened(made.body))
    near, far = (float(np.hypot(*rgb2lab(rgb[60, column])[1:])) for column in (90, 160))
    assert far > 1.2 * near


def test_where_hints_find_the_network_too_vivid_other_colours_are_calmed_too() -> None:
    """Orange on the left, blue on the right; only of the orange it is said that it is paler."""
    ab = np.broadcast_to(np.reshape(np.float32([16, 24]), (1, 2, 1, 1)), (1, 2, SIDE, SIDE)).copy()
    ab[..., SIDE // 2 :] *= -1
    pipeline = Pipeline(Graph("", "", Recipe(side=SIDE)), lambda _: ab)
    said = [{"x": 0.2, "y": y, "color": "#827770"} for y in (0.2, 0.5, 0.8)]
    plain, rgb = (colour(halves(120, 120), pipeline, hints=some) for some in ([], said))
    before, after = (float(np.hypot(*rgb2lab(one[60, 140])[1:])) for one in (plain, rgb))
    assert after < 0.9 * before


def test_spread_says_how_far_a_hint_reaches() -> None:
    def reach(spread: float) -> float:
        rgb = colour(halves(90, 90), constant((0.0, 0.0)), hints=[RED], spread=spread)
        return float(np.hypot(*np.moveaxis(rgb2lab(rgb)[..., 1:], -1, 0)).mean())

    reached = [reach(spread) for spread in (0, 0.1, 0.5, 1)]
    assert reached == sorted(reached)
    assert reached[0] < 0.5 < reached[1]


def test_a_hint_of_the_predicted_colour_changes_nothing_visible() -> None:
    pixels = halves(120, 120)
    plain = colour(pixels, constant((10.0, 20.0)))
    wanted = "#" + plain[60, 40].tobytes().hex()
    hinted = colour(pixels, constant((10.0, 20.0)), hints=[{**RED, "color": wanted}])
    assert np.abs(hinted.astype(int) - plain).max() <= 2


def test_neutral_keeps_a_place_grey() -> None:
    said = [{"x": 0.25, "y": 0.5, "neutral": True}]
    rgb = colour(halves(), constant((20.0, 10.0)), hints=said).astype(int)
    assert np.ptp(rgb[60, 40]) <= 1
    assert np.ptp(rgb[60, 150]) > 20


def test_of_two_hints_for_one_place_the_later_one_wins() -> None:
    near = {**RED, "x": RED["x"] + 0.004, "color": "#4040c0"}
    rgb = colour(halves(), constant((0.0, 0.0)), hints=[RED, near])
    alone = colour(halves(), constant((0.0, 0.0)), hints=[near])
    assert np.array_equal(rgb, alone)


def test_a_stroke_is_met_all_along() -> None:
    stroke = {"points": [[0.1, 0.1], [0.4, 0.5], [0.1, 0.9]], "color": "#c04040"}
    rgb = colour(halves(), constant((0.0, 0.0)), hints=[stroke], spread=0)
    for x, y in ((0.1, 0.1), (0.25, 0.3), (0.4, 0.5), (0.25, 0.7), (0.1, 0.9)):
        assert difference(rgb, int(y * 120), int(x * 160), "#c04040") < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 500), (64, 64)])
def test_pictures_of_any_shape_take_hints(size: tuple[int, int], weights: Weights) -> None:
    said = [RED, {"points": [[0, 0], [1, 1]], "color": "#00ff00", "radius": 0.1}]
    rgb = colour(picture(*size), eager_pipeline(weights("classification")), hints=said)
    assert rgb.shape == (*size, 3)


def test_the_most_hints_that_are_allowed_are_soon_done() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((hints.MOST_POINTS, 2))
    said = tuple(
        Hint(tuple(map(tuple, some.tolist())), (200, 80, 40), hints.LARGEST_RADIUS / 5)
        for some in np.array_split(points, hints.MOST_HINTS)
    )
    known = hints.spots(said, np.full((90, 9000), 50, np.float32))
    assert 0 < len(known) <= 2 * hints.MOST_POINTS
    light = np.full((32, 32), 50, np.float32)
    spread = hints.spread_spots(light, np.zeros((32, 32, 2), np.float32), known, 0.5, 100)
    assert np.isfinite(spread).all()


def test_long_strokes_leave_single_hints_their_reach() -> None:
    lines = [[[0.02, y], [0.98, y]] for y in (0.02, 0.06, 0.1, 0.14)]
    said = [{"points": one, "color": "#4040c0", "radius": 0.005} for one in lines]
    said.insert(2, {"x": 0.5, "y": 0.7, "color": "#c04040"})
    rgb = colour(halves(90, 90), constant((0.0, 0.0)), hints=said).astype(int)
    assert (rgb[75:93, 70:90, 0] > rgb[75:93, 70:90, 2] + 20).all()


def test_hints_are_deterministic_and_alone_in_their_batch(weights: Weights) -> None:
    pipeline = eager_pipeline(weights("classification"))
    body, wrong = encoded(coloured(1)), {"hints": "[3]"}
    options = {"hints": as_text(RED), "format": "png"}
    first, plain, bad, again = pipeline.colorize_batch(
        [(body, options), (body, {"format": "png"}), (body, wrong), (body, options)]
    )
    assert first.result().body == again.result().body
    assert plain.result().body == pipeline.colorize(body, {"format": "png"}).body
    assert isinstance(bad.error, BadOption)


def test_colours_come_from_hints_alone_at_chroma_0(weights: Weights) -> None:
    rgb = colour(halves(), eager_pipeline(weights("regression")), hints=[RED], chroma=0, spread=0)
    assert np.ptp(rgb[60, 150]) <= 1
    assert difference(rgb, 60, 40, RED["color"]) < 3


@pytest.mark.parametrize(
    "said", [[{"x": float("nan"), "y": 0, "neutral": True}], [{"x": np.float32(1)}], {1, 2}, 3]
)
def test_hints_that_python_gives_wrongly_are_refused_alike(said: object) -> None:
    with pytest.raises(BadOption, match="hint"):
        parse_options({"hints": said})


def test_uncertainty_has_no_hints() -> None:
    with pytest.raises(BadOption, match="no hints"):
        Options.parse({"show": "uncertainty", "hints": as_text(RED)})


def test_the_likely_colours_of_a_place_are_the_classifiers_likeliest_bins() -> None:
    bins = ((60.0, 40.0), (0.0, 0.0), (-40.0, 30.0), (-40.0, 40.0))
    logits = np.zeros((1, 4, SIDE, SIDE), np.float32)
    logits[:] = np.reshape([1, 3, 0, 2], (1, 4, 1, 1))
    logits[..., : SIDE // 2] = np.reshape([9, 3, 0, 2], (1, 4, 1, 1))
    recipe = Recipe("classification", SIDE, bins)
    colorizer = Colorizer(Pipeline(Graph("", "", recipe), lambda _: logits))
    body = encoded(np.full((50, 70), 140, np.uint8))
    grey, green, red = colorizer.likely(body, 0.9, 0.5)
    assert grey == "#8c8c8c"
    assert colorizer.likely(body, 0.1, 0.5) == [red, grey, green]
    shown = rgb2lab(np.array([list(bytes.fromhex(one[1:])) for one in (green, red)], np.uint8))
    assert np.abs(shown - [(58, -40, 40), (58, 60, 40)]).max() < 1.5


def test_a_regression_networks_own_colour_is_the_first_that_is_likely() -> None:
    colours = Colorizer(constant((20.0, 10.0))).likely(
        encoded(np.full((9, 9), 120, np.uint8)), 1, 1
    )
    first = rgb2lab(np.array(list(bytes.fromhex(colours[0][1:])), np.uint8))
    assert np.abs(first[1:] - (20, 10)).max() < 1.5
    assert 4 <= len(colours) == len(set(colours)) <= hints.CHOICES


def test_likely_colours_are_a_reply_of_json(weights: Weights) -> None:
    pipeline = eager_pipeline(weights("classification"))
    reply = pipeline.colorize(encoded(picture(40, 50)), {"likely": "0.5,1"})
    assert reply.content_type == "application/json"
    assert all(len(one) == 7 for one in json.loads(reply.body)["colours"])


def test_a_spot_outside_the_rows_at_hand_changes_nothing() -> None:
    a, b = np.zeros((4, 50), np.float32), np.zeros((4, 50), np.float32)
    light = np.full((50, 50), 50, np.float32)
    hints.meet([Spot(0.5, 0.9, 0.02, (50.0, 50.0))], light, 10, SIDE, a, b)
    assert not a.any()


def test_a_file_with_hints_has_its_own_size_and_format(weights: Weights) -> None:
    body = encoded(picture(40, 50), "JPEG")
    reply = Colorizer(eager_pipeline(weights("regression"))).colorize(
        io.BytesIO(body), hints=[RED], format="webp"
    )
    assert (opened(reply).format, opened(reply).size) == ("WEBP", (50, 40))
