"""Fit a checkpoint's knobs on held-out photographs: python -m training.fit --help

The side that the network sees is chosen, then the temperature, then adjustment and chroma gain
together, each over a grid, in turns; then every knob is measured on and off. What is decided here
stands in the checkpoint. Of its weights only the last bias of a classifier may change, which is
what another adjustment in training would have changed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import colorizer
from colorizer import checkpoint
from colorizer.checkpoint import Checkpoint
from colorizer.recipe import Recipe
from colorizer.unet import UNet
from evaluation.command import add_photographs, picked, run
from evaluation.methods import Method, Processes, Result, evaluate
from evaluation.metrics import DRAWS, Scores
from evaluation.prior import rebalancing_weights

# A network knows things by the size at which its training crops showed them.
SIDES = (96, 128, 160, 192, 224)
# Of cost: some hundred photographs tell no less apart. Of sides that are so near to the best the
# smallest is taken, since time goes with its square; another knob is then left where it is.
TIE = 0.12
# Below 0.2 decoding is all but the mode: edges between two likely colours run through a wall.
TEMPERATURES = (0.2, 0.25, 0.3, 0.38, 0.45, 0.55)
# Shares of the rebalancing that are taken back from a classifier's logits: the more, the likelier
# that a colour is right, and the paler all of them; a gain then brings them back.
ADJUSTMENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Bounded: beyond them a network is wrong, not pale.
GAINS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.65, 1.8)
# Of ΔCF beside ΔE00 in what is made small: about as much as a stronger gain adds to ΔE00 for each
# unit of colorfulness that it brings, on held-out photographs.
WEIGHT = 0.0525

NAME = "network"  # of a checkpoint without adjustment; others are named by theirs


@dataclass(frozen=True)
class Aim:
    """What the knobs make small.

    ΔE00 alone chooses pale colours, since where a colour is uncertain grey errs least; ΔCF alone
    would choose any colours, if there are enough of them.

    Attributes:
        weight: of ΔCF beside ΔE00.
        most: ΔCF that is not to be exceeded, whatever it costs.
    """

    weight: float = WEIGHT
    most: float = float("inf")

    def cost(self, scores: Scores) -> float:
        """ΔE00 + weight * ΔCF, and what ΔCF is above the most."""
        row = scores.row()
        return row["ΔE00"] + self.weight * row["ΔCF"] + max(0.0, row["ΔCF"] - self.most)

    def __str__(self) -> str:
        bound = "" if self.most == float("inf") else f", with ΔCF within {self.most:g}"
        return f"ΔE00 + {self.weight:g} ΔCF{bound}"


@dataclass
class Fit:
    """The knobs as far as they are known, and all that was measured on the way."""

    method: Method
    scores: dict[Method, Scores] = field(default_factory=dict)

    def measured(self, methods: Sequence[Method], measure: Measure) -> None:
        """Measure those of the methods that were not yet."""
        new = [method for method in methods if method not in self.scores]
        if new:
            self.scores |= dict(zip(new, measure(new), strict=True))


Measure = Callable[[Sequence[Method]], list[Scores]]


AIM = Aim()


def fit(
    start: Method,
    classifier: bool,
    measure: Measure,
    aim: Aim = AIM,
    networks: Sequence[str | None] = (),
) -> Fit:
    """Choose side, temperature, adjustment and gain, then measure the guided filter and flipping.

    Args:
        start: the checkpoint's own knobs.
        classifier: whether there is a temperature.
        measure: gives scores for methods.
        aim: what to make small.
        networks: names of the same network with other adjustments, if there are any.
    """
    found = Fit(start)
    networks = networks or [start.network]

    def choose(variants: Sequence[Method], small: bool = False) -> None:
        found.measured(variants, measure)
        costs = {method: aim.cost(found.scores[method]) for method in variants}
        best = min(variants, key=lambda method: costs[method])
        alike = [method for method in variants if costs[method] <= costs[best] + TIE]
        if small:
            found.method = alike[0]
        elif found.method not in alike:
            found.method = best

    for _ in range(2):
        before = found.method
        choose([tuned(found.method, side=side) for side in SIDES], small=True)
        if classifier:
            choose([tuned(found.method, temperature=t) for t in TEMPERATURES])
        # Together: each undoes the other's effect on colorfulness.
        pairs = product(networks, GAINS)
        choose(
            [tuned(replace(found.method, network=name), chroma_gain=gain) for name, gain in pairs]
        )
        if found.method == before:
            break
    found.measured([start, *off(found.method, classifier).values(), flipped(found.method)], measure)
    return found


def tuned(method: Method, **knobs: Any) -> Method:
    """The same method with other knobs of its recipe."""
    return replace(method, recipe=replace(method.recipe or Recipe(), **knobs))


def off(method: Method, classifier: bool) -> dict[str, Method]:
    """The same method with one knob off: by the knob's name."""
    without = {
        "chroma gain": tuned(method, chroma_gain=1.0),
        "edges of colour that follow L's": replace(method, guided=False),
    }
    if classifier:
        without = {"temperature": tuned(method, temperature=1.0), **without}
    return without


def flipped(method: Method) -> Method:
    """The same method, averaged with the mirrored photograph's."""
    return replace(method, flipped=True)


def difference(one: Scores, other: Scores, name: str) -> tuple[float, float, float]:
    """A measure of one minus that of the other, with its 95% interval over the same pictures."""
    n = len(one.pictures)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
    counts = np.concatenate([np.ones((1, n)), drawn])
    values = one.statistics()[name](counts) - other.statistics()[name](counts)
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return float(values[0]), float(low), float(high)


def on_and_off(found: Fit, classifier: bool) -> str:
    """Format each knob's effect as Markdown: on minus off, so below 0 is better."""
    pairs = {
        name: (found.method, without) for name, without in off(found.method, classifier).items()
    }
    pairs["flip averaging"] = (flipped(found.method), found.method)
    lines = ["| knob, on minus off | ΔE00 | ΔCF | AuC |", "|---|---|---|---|"]
    for name, (on, without) in pairs.items():
        if on == without:
            lines.append(f"| {name}: off is best | | | |")
            continue
        cells = []
        for measure, digits in (("ΔE00", 3), ("ΔCF", 2), ("AuC", 4)):
            value, low, high = difference(found.scores[on], found.scores[without], measure)
            cells.append(f"{value:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tried(found: Fit, aim: Aim = AIM) -> str:
    """Format all that was measured as Markdown, the best first."""
    lines = [
        "| side | T | adjustment | gain | other | ΔE00 | CF | ΔCF | AuC | cost |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(found.scores, key=lambda method: aim.cost(found.scores[method]))
    for method in order:
        row = found.scores[method].row()
        other = "flipped" * method.flipped + "interpolated" * (not method.guided)
        recipe = method.recipe or Recipe()
        t = f"{recipe.temperature:g}" if recipe.head == "classification" else ""
        numbers = f"{row['ΔE00']:.3f} | {row['CF']:.2f} | {row['ΔCF']:.2f} | {row['AuC']:.4f}"
        total = aim.cost(found.scores[method])
        adjustment = "" if method.network == NAME else method.network
        knobs = f"{recipe.side} | {t} | {adjustment} | {recipe.chroma_gain:g} | {other}"
        lines.append(f"| {knobs} | {numbers} | {total:.3f} |")
    return "\n".join(lines)


def knobs_of(known: Checkpoint) -> str:
    """A checkpoint's knobs in words."""
    adjustment = known.provenance.get("config", {}).get("adjustment", 0.0)
    return (
        f"side {known.recipe.side}, temperature {known.recipe.temperature:g}, "
        f"adjustment {adjustment:g}, chroma gain {known.recipe.chroma_gain:g}"
    )


def adjusted(net: UNet, known: Checkpoint, adjustment: float) -> tuple[UNet, Checkpoint]:
    """Give the classifier that training with another adjustment would have led to.

    The loss sees logits + adjustment * log w (`training.losses.classification_loss`), w being the
    weights of rebalancing; what is added there moves into the bias that the logits end with.

    Raises:
        KeyError: if the checkpoint doesn't say what its rebalancing was made of.
    """
    run = known.provenance["config"]
    weights = rebalancing_weights(np.array(known.provenance["prior"], np.float64), run["rebalance"])
    net = copy.deepcopy(net)
    bias = net.get_parameter("head.3.bias")
    with torch.no_grad():
        bias.sub_((adjustment - run["adjustment"]) * weights.log())
    origin = {**known.provenance, "config": {**run, "adjustment": adjustment}}
    return net, replace(known, provenance=origin)


Networks = dict[str, tuple[UNet, Checkpoint]]


def candidates(net: UNet, known: Checkpoint) -> tuple[str, Networks]:
    """Give a network's own name, and it under that name beside its other adjustments, if any."""
    run = known.provenance.get("config", {})
    if known.recipe.head != "classification" or "prior" not in known.provenance:
        return NAME, {NAME: (net, known)}
    shares = sorted({*ADJUSTMENTS, run["adjustment"]})
    own = f"{run['adjustment']:g}"
    return own, {f"{share:g}": adjusted(net, known, share) for share in shares}


def saved(networks: Networks, folder: Path) -> Mapping[str, Path]:
    """Write networks into a folder: name -> path."""
    paths = {name: folder / f"{name}.safetensors" for name in networks}
    for name, (net, known) in networks.items():
        checkpoint.save(paths[name], net, known)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, fit and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fit", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("checkpoint", type=Path)
    add_photographs(parser)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument(
        "--weight", type=float, default=WEIGHT, help="of ΔCF beside ΔE00 (default: %(default)s)"
    )
    parser.add_argument(
        "--max-dcf",
        type=float,
        default=float("inf"),
        help="ΔCF that is not to be exceeded, whatever ΔE00 it costs (default: none)",
    )
    options = parser.parse_args(arguments)
    return run("fit", lambda: fit_checkpoint(options, Aim(options.weight, options.max_dcf)))


def fit_checkpoint(options: argparse.Namespace, aim: Aim) -> int:
    """Fit a checkpoint's recipe, write it and print what was measured."""
    net, known = checkpoint.load(options.checkpoint)
    paths = picked(options)
    classifier = known.recipe.head == "classification"
    own, networks = candidates(net, known)
    start = Method("", own, replace(known.recipe, decoding="annealed-mean"))
    with (
        tempfile.TemporaryDirectory(prefix="fit-") as folder,
        Processes(saved(networks, Path(folder)), min(options.workers, len(paths))) as processes,
    ):

        def measure(methods: Sequence[Method]) -> list[Scores]:
            named = [replace(method, name=str(i)) for i, method in enumerate(methods)]
            result: Result = evaluate(processes, named, paths)
            return [result.scores[method.name] for method in named]

        found = fit(start, classifier, measure, aim, list(networks))
    best = found.method
    measured = found.scores[best].row()
    count = len(found.scores[best].pictures)
    knobs = {
        "photographs": count,
        "cost": str(aim),
        "ΔE00": round(measured["ΔE00"], 3),
        "ΔCF": round(measured["ΔCF"], 2),
    }
    net, chosen = networks[best.network or own]
    fitted = replace(
        chosen,
        recipe=best.recipe or known.recipe,
        provenance={**chosen.provenance, "knobs": knobs},
    )
    checkpoint.save(options.out, net, fitted)
    print(f"{count} photographs\n\n{tried(found, aim)}\n")
    print(on_and_off(found, classifier))
    print("\nFlip averaging doubles the network's work; it is measured here, and not served.")
    print(f"wrote {options.out}: {knobs_of(fitted)} (before: {knobs_of(known)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
