"""Settings fitted on held-out photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.recipe import Recipe
from colorizer.unet import UNet
from evaluation.bins import rebalancing_weights
from evaluation.methods import Method
from evaluation.metrics import Scores
from tests.support import Capture, Patch, Weights, measured
from training import fit


def scored(delta_e: float, cf: float) -> Scores:
    """Three pictures of one ΔE00 and one colorfulness, whose truths have 30."""
    return Scores([measured({"ΔE00": delta_e, "CF": cf})] * 3)


def by_error(error: Callable[[Recipe], float]) -> fit.Measure:
    """Measure methods whose ΔE00 depends on their recipe alone."""
    return lambda methods: [scored(error(fit.recipe_of(m)), 30) for m in methods]


def test_the_best_side_temperature_and_gain_are_found_where_they_are() -> None:
    def error(recipe: Recipe) -> float:
        side = abs(recipe.side - 160) / 100
        return 10 + side + 9 * abs(recipe.temperature - 0.25) + abs(recipe.chroma_gain - 1.2)

    start = Method("", "net", Recipe("classification", bins=gamut.bin_centres()))
    recipe = fit.recipe_of(fit.fit(start, by_error(error)).method)
    assert (recipe.side, recipe.temperature, recipe.chroma_gain) == (160, 0.25, 1.2)


def test_of_sides_that_are_all_but_equal_the_smallest_is_taken() -> None:
    errors = {96: 10.5, 128: 10.1, 160: 10.0, 192: 10.2, 224: 10.3}
    found = fit.fit(Method("", "net", Recipe()), by_error(lambda recipe: errors[recipe.side]))
    assert fit.recipe_of(found.method).side == 128


def test_colour_counts_beside_its_error() -> None:
    pale, lively = scored(10, 10), scored(11, 28)
    assert fit.Aim(0).cost(pale) < fit.Aim(0).cost(lively)
    assert fit.Aim(0.1).cost(lively) < fit.Aim(0.1).cost(pale)
    assert fit.Aim(0, max_dcf=6).cost(lively) < fit.Aim(0, max_dcf=6).cost(pale)


def test_adjustment_and_gain_are_found_together() -> None:
    # Each alone makes it worse: more adjustment is paler, more gain is further from the truth.
    def measure(methods: Sequence[Method]) -> list[Scores]:
        knobs = [(fit.recipe_of(m).chroma_gain, float(m.network or 0)) for m in methods]
        return [
            scored(9 + 3 * gain - 4 * share, 30 * gain - 15 * share - 10) for gain, share in knobs
        ]

    start, aim = Method("", "0.4", Recipe()), fit.Aim(max_dcf=6)
    found = fit.fit(start, measure, aim, ["0.4", "0.6", "0.8"])
    assert (found.method.network, fit.recipe_of(found.method).chroma_gain) == ("0.8", 1.65)
    assert "| 0.8 | 1.65 |" in fit.table(found)


def test_another_adjustment_takes_back_more_of_the_rebalancing() -> None:
    prior = np.full(261, 1 / 261)
    prior[:9] = 5 / 261
    prior /= prior.sum()
    net = UNet("classification")
    run = {"adjustment": 0.4, "rebalance": 0.5}
    recipe = Recipe("classification", bins=gamut.bin_centres())
    header = Checkpoint(recipe, provenance={"config": run, "prior": prior.tolist()})
    features = net.eval().encode(torch.full((1, 1, 32, 32), 50.0))
    more, new_header = fit.adjusted(net, header, 0.7)
    taken = net.decode(features) - more.decode(features)
    expected = 0.3 * rebalancing_weights(prior, 0.5).log()
    torch.testing.assert_close(taken, expected.view(1, -1, 1, 1).expand_as(taken))
    assert new_header.provenance["config"]["adjustment"] == 0.7
    assert run["adjustment"] == 0.4
    own, networks = fit.candidates(net, header)
    assert own == "0.4"
    assert set(networks) == {f"{share:g}" for share in fit.ADJUSTMENTS}
    assert torch.equal(networks["0.4"][0].decode(features), net.decode(features))


def test_a_fitted_checkpoint_has_new_settings_and_the_same_weights(
    photos: Path, weights: Weights, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(fit, "SIDES", (32,))
    monkeypatch.setattr(fit, "GAINS", (0.1, 1.0))
    monkeypatch.setattr(fit, "TEMPERATURES", (0.2, 3.0))
    before, out = weights("classification"), tmp_path / "fitted.safetensors"
    command = [str(before), "--photos", str(photos), "--out", str(out), "--limit", "2"]
    assert fit.main([*command, "--weight", "0", "--workers", "1"]) == 0
    (old, _), (new, header) = checkpoint.load(before), checkpoint.load(out)
    # Random weights give wrong colours: the fewer, the better.
    assert (header.recipe.chroma_gain, header.recipe.side) == (0.1, 32)
    assert header.recipe.temperature in (0.2, 3.0)
    assert header.provenance["knobs"]["photographs"] == 2
    assert all(map(torch.equal, old.state_dict().values(), new.state_dict().values()))
    told = "chroma gain 0.1 (before: side 64, temperature 0.38, adjustment 0, chroma gain 1)"
    assert told in capsys.readouterr().out
