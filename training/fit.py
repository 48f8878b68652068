"""Fit a checkpoint's settings on held-out photographs: python -m training.fit --help

A grid search, twice: over the side that the network sees, over the temperature, and over adjustment
and chroma gain together. The best settings are written into a copy of the checkpoint. Another
adjustment shifts the last bias of a classifier; all other weights stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colorizer import checkpoint
from colorizer.checkpoint import Checkpoint
from colorizer.commands.run import command_parser, run_command
from colorizer.recipe import Recipe
from colorizer.unet import UNet
from evaluation.bins import rebalancing_weights
from evaluation.command import add_photographs, markdown, picked
from evaluation.methods import Method, Processes, evaluate
from evaluation.metrics import Scores

# A network recognizes things at the scale of its training crops.
SIDES = (96, 128, 160, 192, 224)
# Costs that differ less are equal: a few hundred photographs can't tell them apart. Of equal sides
# the smallest is chosen, since time grows with its square; other settings then stay as they are.
TIE = 0.12
# Below 0.2, decoding is nearly the mode: edges between two likely colours cross plain walls.
TEMPERATURES = (0.2, 0.25, 0.3, 0.38, 0.45, 0.55)
# Shares of the rebalancing that are undone in a classifier's logits. More makes colours likelier to
# be right, and all of them paler; a gain then brings them back.
ADJUSTMENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Beyond these bounds a network is wrong rather than pale.
GAINS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.65, 1.8)
# Of ΔCF in the cost: about what a stronger gain adds to ΔE00 for each unit of colorfulness, on
# held-out photographs.
WEIGHT = 0.0525

NAME = "network"  # of a checkpoint without adjustment; others are named after theirs


@dataclass(frozen=True)
class Aim:
    """The cost to minimize: ΔE00 + weight * ΔCF, plus what ΔCF exceeds max_dcf by.

    ΔE00 alone prefers pale colours, since grey errs least where a colour is uncertain; ΔCF alone
    would accept any colours, if there are enough of them.
    """

    weight: float = WEIGHT
    max_dcf: float = float("inf")

    def cost(self, scores: Scores) -> float:
        """Compute the cost of a method's scores."""
        row = scores.row()
        return row["ΔE00"] + self.weight * row["ΔCF"] + max(0.0, row["ΔCF"] - self.max_dcf)

    def __str__(self) -> str:
        bound = "" if self.max_dcf == float("inf") else f", with ΔCF within {self.max_dcf:g}"
        return f"ΔE00 + {self.weight:g} ΔCF{bound}"


AIM = Aim()
Measure = Callable[[Sequence[Method]], list[Scores]]


@dataclass
class Fit:
    """The best method so far, and the scores of all that were measured."""

    method: Method
    scores: dict[Method, Scores] = field(default_factory=dict)


def fit(
    start: Method, measure: Measure, aim: Aim = AIM, networks: Sequence[str | None] = ()
) -> Fit:
    """Choose side, temperature (of a classifier), adjustment and gain.

    Args:
        start: the checkpoint's own recipe.
        measure: gives scores for methods.
        aim: what to minimize.
        networks: names of the same network with other adjustments, if there are any.
    """
    found = Fit(start)

    def choose(variants: Sequence[Method], first_of_equal: bool = False) -> None:
        if new := [method for method in variants if method not in found.scores]:
            found.scores |= dict(zip(new, measure(new), strict=True))
        costs = {method: aim.cost(found.scores[method]) for method in variants}
        best = min(variants, key=costs.__getitem__)
        equal = [method for method in variants if costs[method] <= costs[best] + TIE]
        if first_of_equal:
            found.method = equal[0]
        elif found.method not in equal:
            found.method = best

    choose([start])
    for _ in range(2):
        before = found.method
        choose([tuned(found.method, side=side) for side in SIDES], first_of_equal=True)
        if recipe_of(start).head == "classification":
            choose([tuned(found.method, temperature=t) for t in TEMPERATURES])
        # Together, since each undoes the other's effect on colorfulness.
        pairs = product(networks or [start.network], GAINS)
        choose([tuned(replace(found.method, network=n), chroma_gain=gain) for n, gain in pairs])
        if found.method == before:
            break
    return found


def recipe_of(method: Method) -> Recipe:
    """The recipe of a method, which always has one here."""
    assert method.recipe is not None
    return method.recipe


def tuned(method: Method, **settings: Any) -> Method:
    """Change settings of a method's recipe."""
    return replace(method, recipe=replace(recipe_of(method), **settings))


def table(found: Fit, aim: Aim = AIM) -> str:
    """Format all that was measured as Markdown, the best first."""
    costs = {method: aim.cost(scores) for method, scores in found.scores.items()}
    rows = []
    for method in sorted(costs, key=costs.__getitem__):
        row, recipe = found.scores[method].row(), recipe_of(method)
        temperature = f"{recipe.temperature:g}" if recipe.head == "classification" else ""
        adjustment = "" if method.network == NAME else str(method.network)
        settings = [str(recipe.side), temperature, adjustment, f"{recipe.chroma_gain:g}"]
        measures = [f"{row['ΔE00']:.3f}", f"{row['CF']:.2f}", f"{row['ΔCF']:.2f}"]
        rows.append([*settings, *measures, f"{row['AuC']:.4f}", f"{costs[method]:.3f}"])
    columns = ["side", "T", "adjustment", "gain", "ΔE00", "CF", "ΔCF", "AuC", "cost"]
    return markdown(columns, rows)


def settings_of(header: Checkpoint) -> str:
    """A checkpoint's settings in words."""
    recipe, run = header.recipe, header.provenance.get("config", {})
    return (
        f"side {recipe.side}, temperature {recipe.temperature:g}, "
        f"adjustment {run.get('adjustment', 0.0):g}, chroma gain {recipe.chroma_gain:g}"
    )


def adjusted(net: UNet, header: Checkpoint, adjustment: float) -> tuple[UNet, Checkpoint]:
    """Give the classifier that training with another adjustment would have led to.

    The loss sees logits + adjustment * log w (`training.losses.classification_loss`), where w are
    the rebalancing weights; the difference is moved into the bias of the logits.

    Raises:
        KeyError: if the checkpoint lacks the prior or the settings of its training.
    """
    run = header.provenance["config"]
    prior = np.array(header.provenance["prior"], np.float64)
    weights = rebalancing_weights(prior, run["rebalance"])
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.get_parameter("head.3.bias").sub_((adjustment - run["adjustment"]) * weights.log())
    provenance = {**header.provenance, "config": {**run, "adjustment": adjustment}}
    return net, replace(header, provenance=provenance)


Networks = dict[str, tuple[UNet, Checkpoint]]


def candidates(net: UNet, header: Checkpoint) -> tuple[str, Networks]:
    """Name a network, and list it with its variants of other adjustments, if it can have any."""
    run = header.provenance.get("config", {})
    if header.recipe.head != "classification" or "prior" not in header.provenance:
        return NAME, {NAME: (net, header)}
    shares = sorted({*ADJUSTMENTS, run["adjustment"]})
    return f"{run['adjustment']:g}", {f"{x:g}": adjusted(net, header, x) for x in shares}


def fit_checkpoint(options: argparse.Namespace) -> int:
    """Fit a checkpoint's recipe, write it and print what was measured."""
    aim = Aim(options.weight, options.max_dcf)
    net, header = checkpoint.load(options.checkpoint)
    paths = picked(options)
    own, networks = candidates(net, header)
    with tempfile.TemporaryDirectory(prefix="fit-") as folder:
        files = {name: Path(folder, f"{name}.safetensors") for name in networks}
        for name, path in files.items():
            checkpoint.save(path, *networks[name])
        with Processes(files, min(options.workers, len(paths))) as processes:

            def measure(methods: Sequence[Method]) -> list[Scores]:
                named = [replace(method, name=str(i)) for i, method in enumerate(methods)]
                scores = evaluate(processes, named, paths).scores
                return [scores[method.name] for method in named]

            start = Method("", own, replace(header.recipe, decoding="annealed-mean"))
            found = fit(start, measure, aim, list(networks))
    best = found.scores[found.method]
    row, count = best.row(), len(best.pictures)
    knobs = {
        "photographs": count,
        "cost": str(aim),
        "ΔE00": round(row["ΔE00"], 3),
        "ΔCF": round(row["ΔCF"], 2),
    }
    net, chosen = networks[found.method.network or own]
    provenance = {**chosen.provenance, "knobs": knobs}
    fitted = replace(chosen, recipe=recipe_of(found.method), provenance=provenance)
    checkpoint.save(options.out, net, fitted)
    print(f"{count} photographs\n\n{table(found, aim)}\n")
    print(f"wrote {options.out}: {settings_of(fitted)} (before: {settings_of(header)})")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, fit and write; returns the exit code."""
    parser = command_parser("python -m training.fit", (__doc__ or "").partition("\n\n")[2])
    add = parser.add_argument
    add("checkpoint", type=Path)
    add_photographs(parser)
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--weight", type=float, default=WEIGHT, help="of ΔCF beside ΔE00 (default: %(default)s)")
    add("--max-dcf", type=float, default=float("inf"),
        help="largest ΔCF allowed, whatever ΔE00 it costs (default: no limit)")  # fmt: skip
    options = parser.parse_args(arguments)
    return run_command("fit", lambda: fit_checkpoint(options))


if __name__ == "__main__":
    sys.exit(main())
