"""Knobs fitted on photographs that were held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.recipe import Head, Recipe
from colorizer.unet import UNet
from evaluation.methods import Method
from evaluation.metrics import Measured, Scores
from evaluation.prior import rebalancing_weights
from training import fit


def scored(delta_e: float, cf: float, pictures: int = 3) -> Scores:
    """Pictures of one ΔE00 and one colorfulness, against truths of 40."""
    some = np.ones(261)
    one = Measured(0, 0, delta_e, (cf, 40), (0, 0), some, some.astype(int), some.astype(int))
    return Scores([one] * pictures)


def known(method: Method) -> Recipe:
    assert method.recipe is not None
    return method.recipe


def test_the_best_side_temperature_and_gain_are_found_where_they_are() -> None:
    def error(m: Method) -> float:
        recipe = known(m)
        side = abs(recipe.side - 160) / 100
        return 10 + side + 9 * abs(recipe.temperature - 0.25) + abs(recipe.chroma_gain - 1.2)

    def measure(methods: Sequence[Method]) -> list[Scores]:
        return [scored(error(m), 40) for m in methods]

    start = Method("", "net", Recipe("classification", bins=gamut.bin_centres()))
    found = fit.fit(start, classifier=True, measure=measure)
    recipe = known(found.method)
    assert (recipe.side, recipe.temperature, recipe.chroma_gain) == (160, 0.25, 1.2)
    assert found.method.guided
    assert not found.method.flipped
    text = fit.on_and_off(found, classifier=True)
    for name in ("temperature", "chroma gain", "edges of colour", "flip averaging"):
        assert f"| {name}" in text
    assert "| chroma gain | -0.200 (-0.200 … -0.200) |" in text


def test_of_sides_that_are_all_but_equal_the_smallest_is_taken() -> None:
    errors = {96: 10.5, 128: 10.1, 160: 10.0, 192: 10.2, 224: 10.3}

    def measure(methods: Sequence[Method]) -> list[Scores]:
        return [scored(errors[known(m).side], 40) for m in methods]

    assert known(fit.fit(Method("", "net", Recipe()), False, measure).method).side == 128


def test_a_gain_that_does_not_help_is_left_off() -> None:
    def measure(methods: Sequence[Method]) -> list[Scores]:
        return [scored(10 + abs(known(m).chroma_gain - 1), 40) for m in methods]

    found = fit.fit(Method("", "net", Recipe(chroma_gain=1.35)), classifier=False, measure=measure)
    assert known(found.method).chroma_gain == 1.0
    assert "chroma gain: off is best" in fit.on_and_off(found, classifier=False)
    assert "temperature" not in fit.on_and_off(found, classifier=False)


def test_colour_counts_beside_its_error() -> None:
    pale, lively = scored(10, 20), scored(11, 38)
    assert fit.Aim(0).cost(pale) < fit.Aim(0).cost(lively)
    assert fit.Aim(0.1).cost(lively) < fit.Aim(0.1).cost(pale)
    assert fit.Aim(0, most=6).cost(lively) < fit.Aim(0, most=6).cost(pale)


def test_adjustment_and_gain_are_found_together() -> None:
    # Each alone makes it worse: more adjustment is paler, more gain is further from the truth.
    def measure(methods: Sequence[Method]) -> list[Scores]:
        found = []
        for m in methods:
            gain, adjustment = known(m).chroma_gain, float(m.network or 0)
            found.append(scored(9 + 3 * gain - 4 * adjustment, 30 * gain - 15 * adjustment))
        return found

    start = Method("", "0.4", Recipe())
    networks = ["0.4", "0.6", "0.8"]
    found = fit.fit(start, False, measure, fit.Aim(most=6), networks)
    assert (found.method.network, known(found.method).chroma_gain) == ("0.8", 1.65)
    assert "| 0.8 | 1.65 |" in fit.tried(found)


def test_another_adjustment_takes_back_more_of_the_rebalancing() -> None:
    prior = np.full(261, 1 / 261)
    prior[:9] = 5 / 261
    prior /= prior.sum()
    net = UNet("classification")
    run = {"adjustment": 0.4, "rebalance": 0.5}
    recipe = Recipe("classification", bins=gamut.bin_centres())
    known = Checkpoint(recipe, provenance={"config": run, "prior": prior.tolist()})
    features = net.eval().encode(torch.full((1, 1, 32, 32), 50.0))
    more, said = fit.adjusted(net, known, 0.7)
    taken = net.decode(features) - more.decode(features)
    expected = 0.3 * rebalancing_weights(prior, 0.5).log()
    torch.testing.assert_close(taken, expected.view(1, -1, 1, 1).expand_as(taken))
    assert said.provenance["config"]["adjustment"] == 0.7
    assert run["adjustment"] == 0.4
    own, networks = fit.candidates(net, known)
    assert own == "0.4"
    assert set(networks) == {f"{share:g}" for share in fit.ADJUSTMENTS}
    assert torch.equal(networks["0.4"][0].decode(features), net.decode(features))


def test_a_difference_is_taken_picture_by_picture() -> None:
    # Pictures differ far more than the two methods do: only pairing shows it.
    values = np.random.default_rng(0).normal(10, 5, 50)
    one, other = (
        Scores([scored(float(v) + shift, 40).pictures[0] for v in values]) for shift in (0.0, 0.1)
    )
    assert fit.difference(one, other, "ΔE00") == pytest.approx((-0.1, -0.1, -0.1))


def test_a_fitted_checkpoint_has_new_knobs_and_the_same_weights(
    photos: Path,
    weights: Callable[[Head], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fit, "SIDES", (32,))
    monkeypatch.setattr(fit, "GAINS", (0.1, 1.0))
    monkeypatch.setattr(fit, "TEMPERATURES", (0.2, 3.0))
    before = weights("classification")
    out = tmp_path / "fitted.safetensors"
    command = [str(before), "--photos", str(photos), "--out", str(out), "--limit", "2"]
    assert fit.main([*command, "--weight", "0", "--workers", "1"]) == 0
    (old, _), (new, known) = checkpoint.load(before), checkpoint.load(out)
    assert (
        known.recipe.chroma_gain == 0.1
    )  # random weights give wrong colours: the fewer, the better
    assert known.recipe.temperature in (0.2, 3.0)
    assert known.recipe.side == 32
    assert known.provenance["knobs"]["photographs"] == 2
    assert all(map(torch.equal, old.state_dict().values(), new.state_dict().values()))
    printed = capsys.readouterr().out
    assert "| flip averaging |" in printed
    assert (
        "chroma gain 0.1 (before: side 64, temperature 0.38, adjustment 0, chroma gain 1)"
        in printed
    )


def test_fitting_that_cannot_start_says_why_in_one_line(
    photos: Path,
    weights: Callable[[Head], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "fitted.safetensors"
    missing = ["nothing.safetensors", "--photos", str(photos), "--out", str(out)]
    assert fit.main(missing) == 2
    assert "fit: no checkpoint at nothing" in capsys.readouterr().err
    empty = [str(weights("regression")), "--photos", str(tmp_path), "--out", str(out)]
    assert fit.main(empty) == 2
    assert not out.exists()


def test_methods_are_told_apart_by_what_they_do() -> None:
    method = Method("", "net", Recipe())
    assert fit.tuned(method, chroma_gain=1.1) != method
    assert len({method, replace(method), fit.flipped(method)}) == 2
