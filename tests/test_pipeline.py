"""The way of a photograph, without a server."""

from __future__ import annotations

import inspect
import io
import zipfile

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from skimage import data
from skimage.color import deltaE_ciede2000, rgb2lab

from colorizer import gamut
from colorizer.errors import BadOption, BadPicture, NotAPicture, RequestError
from colorizer.finish import Prepared, enlarge, finish, finish_planes, prepare
from colorizer.graph import Graph
from colorizer.image import Limits, Picture
from colorizer.options import Options
from colorizer.pipeline import STAGES, Pipeline
from colorizer.recipe import DECODINGS, Recipe
from evaluation.methods import eager_pipeline
from tests.support import SIDE, Weights, encoded, opened, picture

BODIES = [
    encoded(picture(90, 130, seed=1)),
    encoded(picture(64, 64, seed=2), "JPEG"),
    encoded(picture(33, 200, seed=3)),
]


@pytest.fixture(scope="module")
def regression(weights: Weights) -> Pipeline:
    return eager_pipeline(weights("regression"))


@pytest.fixture(scope="module")
def classification(weights: Weights) -> Pipeline:
    return eager_pipeline(weights("classification"))


def constant(ab: tuple[float, float]) -> Pipeline:
    """A pipeline whose network answers one colour everywhere."""

    def run(lightness: np.ndarray) -> np.ndarray:
        colour = np.reshape(np.float32(ab), (1, 2, 1, 1))
        return np.broadcast_to(colour, (len(lightness), 2, SIDE, SIDE))

    return Pipeline(Graph("", "", Recipe(side=SIDE)), run)


def flat(height: int, width: int, lightness: float = 60.0) -> Prepared:
    """A picture of one lightness."""
    whole = np.full((height, width), lightness, np.float32)
    return Prepared(whole, cv2.resize(whole, (SIDE, SIDE))[None])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (37, 53), (500, 20), (64, 64)])
def test_a_picture_comes_back_at_its_own_size(size: tuple[int, int], regression: Pipeline) -> None:
    reply = regression.colorize(encoded(picture(*size)))
    assert opened(reply.body).size == size[::-1]
    assert reply.content_type == "image/jpeg"


def test_the_network_colours_a_grey_picture(regression: Pipeline) -> None:
    reply = regression.colorize(BODIES[0], Options.parse({"format": "png"}))
    rgb = np.asarray(opened(reply.body)).astype(int)
    assert np.ptp(rgb, axis=2).max() > 10


def test_lightness_is_the_originals_and_colour_is_the_networks() -> None:
    pixels = picture(100, 140)
    body = constant((12.0, -8.0)).colorize(encoded(pixels), Options.parse({"format": "png"})).body
    found = rgb2lab(np.asarray(opened(body)))
    before = rgb2lab(np.repeat(pixels[..., None], 3, axis=2))
    assert np.abs(found[..., 0] - before[..., 0]).max() < 0.5
    # near black and near white sRGB has less colour than this
    middle = (before[..., 0] > 20) & (before[..., 0] < 85)
    assert np.abs(found[middle][:, 1:] - (12, -8)).max() < 1.5


def test_a_colour_picture_gives_its_lightness_only() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    prepared = prepare(Picture(pixels), SIDE)
    found = rgb2lab(np.repeat(prepared.lightness[..., None], 3, axis=2))[..., 0]
    assert np.abs(found - rgb2lab(pixels)[..., 0]).max() < 0.27  # half of an 8-bit level
    assert prepared.small.shape == (1, SIDE, SIDE)
    assert prepared.small.dtype == np.float32


def test_the_networks_copy_is_an_average_not_a_selection_of_pixels() -> None:
    checkers = np.indices((512, 512)).sum(axis=0) % 2 * 255
    small = prepare(Picture(checkers.astype(np.uint8)), SIDE).small
    assert float(small.max() - small.min()) < 1


def test_chroma_gain_multiplies_ab() -> None:
    ab = np.full((2, SIDE, SIDE), 10, np.float32)
    once, twice = (rgb2lab(finish(flat(8, 8), ab, gain))[..., 1:].mean() for gain in (1.0, 2.0))
    assert twice == pytest.approx(2 * once, abs=0.5)


def test_colour_keeps_to_the_edges_of_lightness() -> None:
    """A dark, blue half beside a light, yellow one: between them the networks' ab is blurred."""
    lightness = np.full((400, 400), 70, np.float32)
    lightness[:, :203] = 40
    true_b = np.where(lightness == 40, -20, 20)
    small = cv2.resize(true_b.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
    ab = np.stack([np.zeros_like(small), cv2.blur(small, (3, 3))])
    guide = cv2.resize(lightness, (32, 32), interpolation=cv2.INTER_AREA)
    prepared = Prepared(lightness, guide[None])
    guided, interpolated = (
        np.abs(found - true_b)[:, 180:225].mean()
        for found in (rgb2lab(finish(prepared, ab))[..., 2], enlarge(ab[1][..., None], 400, 400))
    )
    assert guided < 0.6 * interpolated


@pytest.mark.parametrize("size", [(512, 512), (301, 203), (1, 1), (1, 60), (60, 1), (2, 3)])
def test_a_jpegs_planes_are_those_of_the_finished_picture(size: tuple[int, int]) -> None:
    grey = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[: size[0], : size[1]]
    prepared = prepare(Picture(np.ascontiguousarray(grey)), SIDE)
    ab = np.random.default_rng(0).normal(0, 15, (2, 4, 4)).astype(np.float32)
    ab = np.stack([cv2.resize(one, (SIDE, SIDE)) for one in ab])  # some of it outside sRGB
    rgb, planes = finish(prepared, ab), finish_planes(prepared, ab)
    assert planes.blue.shape == planes.red.shape == tuple(-(-side // 2) for side in size)
    whole = tuple(2 * side for side in planes.red.shape[::-1])
    large = [cv2.resize(one, whole) for one in (planes.red, planes.blue)]  # as decoders do
    together = np.dstack([planes.luma, *(one[: size[0], : size[1]] for one in large)])
    shown = rgb2lab(cv2.cvtColor(together, cv2.COLOR_YCrCb2RGB))
    levels = np.abs(shown[..., 0] - rgb2lab(rgb)[..., 0]) / (100 / 255)
    assert levels.mean() < 1
    if min(size) > 100:  # in small ones, all colours of the network lie in a few pixels
        assert levels.mean() < 0.5
        assert (levels > 1).mean() < 0.04
        assert deltaE_ciede2000(shown, rgb2lab(rgb)).mean() < 1


def test_alpha_comes_back(regression: Pipeline) -> None:
    pixels = np.repeat(picture(50, 60)[..., None], 4, axis=2)
    pixels[..., 3] = np.arange(60, dtype=np.uint8) * 4
    body = regression.colorize(encoded(pixels), Options.parse({"format": "png"})).body
    assert np.array_equal(np.asarray(opened(body))[..., 3], pixels[..., 3])


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_a_batch_of_mixed_sizes_gives_what_each_picture_gets_alone(
    name: str, request: pytest.FixtureRequest
) -> None:
    pipeline: Pipeline = request.getfixturevalue(name)
    options = Options.parse({"format": "png"})
    assert pipeline.batch_invariant
    together = pipeline.colorize_batch([(body, options) for body in BODIES])
    for body, outcome in zip(BODIES, together, strict=True):
        assert pipeline.colorize(body, options).body == outcome.result().body


def test_where_the_network_runs_batches_only_rounding_may_differ(regression: Pipeline) -> None:
    batches = Pipeline(regression.graph, regression.run, batch_invariant=False)
    options = Options.parse({"format": "png"})
    together = batches.colorize_batch([(body, options) for body in BODIES])
    for body, outcome in zip(BODIES, together, strict=True):
        alone = opened(regression.colorize(body, options).body)
        difference = np.asarray(opened(outcome.result().body)).astype(int) - np.asarray(alone)
        assert np.abs(difference).max() <= 1  # convolutions may sum in another order


def test_a_broken_picture_fails_alone_and_its_neighbours_get_their_colours(
    regression: Pipeline,
) -> None:
    bodies = [BODIES[0], b"", BODIES[1], b"not a picture", BODIES[1][:200]]
    requests: list[tuple[bytes | RequestError, dict[str, str]]] = [(body, {}) for body in bodies]
    requests += [(BODIES[0], {"quality": "best"}), (NotAPicture("JSON"), {})]
    outcomes = regression.colorize_batch(requests)
    kinds = [None, BadPicture, None, NotAPicture, BadPicture, BadOption, NotAPicture]
    assert [outcome.error and type(outcome.error) for outcome in outcomes] == kinds
    assert opened(outcomes[0].result().body).size == (130, 90)
    assert opened(outcomes[2].result().body).size == (64, 64)
    with pytest.raises(BadPicture):
        outcomes[1].result()


def test_a_network_that_fails_fails_its_pictures_and_keeps_the_others_errors() -> None:
    def run(lightness: np.ndarray) -> np.ndarray:
        raise MemoryError("no room")

    pipeline = Pipeline(constant((0, 0)).graph, run)
    outcomes = pipeline.colorize_batch([(body, {}) for body in (BODIES[0], b"", BODIES[1])])
    assert [type(one.error) for one in outcomes] == [MemoryError, BadPicture, MemoryError]
    reached = ["read", "network"]
    assert [list(one.seconds) for one in outcomes] == [reached, ["read"], reached]


def test_an_empty_batch_has_no_replies(regression: Pipeline) -> None:
    assert regression.colorize_batch([]) == []


def test_each_decoding_gives_another_picture(classification: Pipeline) -> None:
    bodies = {
        name: classification.colorize(BODIES[0], Options.parse({"decoding": name})).body
        for name in DECODINGS
    }
    assert len(set(bodies.values())) == len(DECODINGS)


def test_a_seed_gives_the_same_sample_again(classification: Pipeline) -> None:
    def sample(seed: str) -> bytes:
        options = Options.parse({"decoding": "sample", "seed": seed})
        return classification.colorize(BODIES[0], options).body

    assert sample("1") == sample("1") != sample("2")


def test_the_graphs_own_decoding_is_the_default(classification: Pipeline) -> None:
    explicit = Options.parse({"decoding": "annealed-mean", "temperature": "0.38"})
    assert classification.colorize(BODIES[0]) == classification.colorize(BODIES[0], explicit)


def test_variants_are_the_samples_of_successive_seeds(classification: Pipeline) -> None:
    chosen = {"seed": "5", "format": "png"}
    reply = classification.colorize(BODIES[0], Options.parse({**chosen, "variants": "3"}))
    assert reply.content_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.body)) as packed:
        assert packed.namelist() == ["seed-5.png", "seed-6.png", "seed-7.png"]
        bodies = [packed.read(name) for name in packed.namelist()]
    assert len(set(bodies)) == 3
    for seed, body in zip("567", bodies, strict=True):
        alone = Options.parse({"format": "png", "decoding": "sample", "seed": seed})
        assert classification.colorize(BODIES[0], alone).body == body


def test_without_chroma_the_photograph_is_grey_and_more_of_it_is_more_colour(
    regression: Pipeline,
) -> None:
    def chroma(value: str) -> float:
        options = Options.parse({"format": "png", "chroma": value})
        lab = rgb2lab(np.asarray(opened(regression.colorize(BODIES[0], options).body)))
        return float(np.hypot(lab[..., 1], lab[..., 2]).mean())

    assert chroma("0") < 0.1 < chroma("0.5") < chroma("1")


def test_uncertainty_is_a_map_of_the_photographs_size(classification: Pipeline) -> None:
    options = Options.parse({"format": "png", "show": "uncertainty"})
    levels = np.asarray(opened(classification.colorize(BODIES[0], options).body))
    assert levels.shape == (90, 130, 3)
    assert np.ptp(levels, axis=2).max() == 0
    assert np.ptp(levels) > 0


def test_uncertainty_goes_from_one_bin_to_all_alike() -> None:
    logits = np.zeros((10, 1, 2), np.float32)
    logits[3, 0, 1] = 1000
    assert gamut.uncertainty(logits)[0].tolist() == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [{"variants": "2"}, {"show": "uncertainty"}, {"decoding": "mode"}, {"temperature": "1"}],
)
def test_the_regression_has_no_distribution_to_show(
    values: dict[str, str], regression: Pipeline
) -> None:
    with pytest.raises(BadOption, match="classification"):
        regression.colorize(BODIES[0], Options.parse(values))


def test_exif_comes_back_where_it_is_asked_for(regression: Pipeline) -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Orientation] = "Kodak", 6
    file = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(file, "JPEG", exif=tags)
    for how, expected in (("keep", {ExifTags.Base.Make: "Kodak"}), ("strip", {})):
        reply = regression.colorize(file.getvalue(), Options.parse({"metadata": how}))
        assert opened(reply.body).size == (40, 60)
        assert dict(opened(reply.body).getexif()) == expected


def test_a_reply_that_the_server_could_not_send_is_refused(regression: Pipeline) -> None:
    narrow = Pipeline(regression.graph, regression.run, Limits(max_reply_bytes=1000))
    with pytest.raises(BadOption, match="use jpeg, or fewer"):
        narrow.colorize(BODIES[0], Options.parse({"format": "png"}))


def test_each_stage_is_timed(classification: Pipeline) -> None:
    reply = classification.colorize(BODIES[0])
    assert tuple(reply.seconds) == STAGES
    assert all(value > 0 for value in reply.seconds.values())
    assert (reply.pixels, reply.bytes_in) == (90 * 130, len(BODIES[0]))


def test_nobody_downstream_knows_which_head_ran() -> None:
    assert "head" not in inspect.getsource(finish) + inspect.getsource(prepare)
