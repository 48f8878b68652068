"""Fit a checkpoint's knobs on held-out photographs: python -m training.fit --help

The side that the network sees is chosen, then temperature and chroma gain, each over a grid, in
turns; then every knob is measured on and off. What is decided here stands in the checkpoint; the
weights are not touched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import colorizer
from colorizer import checkpoint
from colorizer.checkpoint import Checkpoint
from training.command import FAILURES, add_photographs, failed, picked
from training.methods import Method, Processes, Result, evaluate
from training.metrics import DRAWS, Scores

# A network knows things by the size at which its training crops showed them.
SIDES = (96, 128, 160, 192, 224)
# Of cost: some hundred photographs tell no less apart. Of sides that are so near to the best the
# smallest is taken, since time goes with its square; another knob is then left where it is.
TIE = 0.12
# Below 0.2 decoding is all but the mode: edges between two likely colours run through a wall.
TEMPERATURES = (0.2, 0.25, 0.3, 0.38, 0.45, 0.55)
GAINS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)  # bounded: beyond them a network is wrong, not pale
# Of ΔCF beside ΔE00 in what is made small: about as much as a stronger gain adds to ΔE00 for each
# unit of colorfulness that it brings, on held-out photographs.
WEIGHT = 0.0525

NAME = "network"


def cost(scores: Scores, weight: float = WEIGHT) -> float:
    """What the knobs make small: ΔE00 + weight * ΔCF.

    ΔE00 alone chooses pale colours, since where a colour is uncertain grey errs least; ΔCF alone
    would choose any colours, if there are enough of them.
    """
    row = scores.row()
    return row["ΔE00"] + weight * row["ΔCF"]


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


def fit(start: Method, classifier: bool, measure: Measure, weight: float = WEIGHT) -> Fit:
    """Choose side, temperature and gain in turns, then measure the guided filter and flipping.

    Args:
        start: the checkpoint's own knobs.
        classifier: whether there is a temperature.
        measure: gives scores for methods.
        weight: of ΔCF.
    """
    found = Fit(start)

    def choose(variants: Sequence[Method], small: bool = False) -> None:
        found.measured(variants, measure)
        costs = {method: cost(found.scores[method], weight) for method in variants}
        best = min(variants, key=lambda method: costs[method])
        alike = [method for method in variants if costs[method] <= costs[best] + TIE]
        if small:
            found.method = alike[0]
        elif found.method not in alike:
            found.method = best

    for _ in range(2):
        before = found.method
        choose([replace(found.method, side=side) for side in SIDES], small=True)
        if classifier:
            choose([replace(found.method, temperature=t) for t in TEMPERATURES])
        choose([replace(found.method, chroma_gain=gain) for gain in GAINS])
        if found.method == before:
            break
    found.measured([start, *off(found.method, classifier).values(), flipped(found.method)], measure)
    return found


def off(method: Method, classifier: bool) -> dict[str, Method]:
    """The same method with one knob off: by the knob's name."""
    without = {
        "chroma gain": replace(method, chroma_gain=1.0),
        "edges of colour that follow L's": replace(method, guided=False),
    }
    if classifier:
        without = {"temperature": replace(method, temperature=1.0), **without}
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


def tried(found: Fit, weight: float) -> str:
    """Format all that was measured as Markdown, the best first."""
    lines = [
        "| side | T | gain | other | ΔE00 | CF | ΔCF | AuC | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(found.scores, key=lambda method: cost(found.scores[method], weight))
    for method in order:
        row = found.scores[method].row()
        other = "flipped" * method.flipped + "interpolated" * (not method.guided)
        t = "" if method.temperature is None else f"{method.temperature:g}"
        numbers = f"{row['ΔE00']:.3f} | {row['CF']:.2f} | {row['ΔCF']:.2f} | {row['AuC']:.4f}"
        total = cost(found.scores[method], weight)
        knobs = f"{method.side} | {t} | {method.chroma_gain:g} | {other}"
        lines.append(f"| {knobs} | {numbers} | {total:.3f} |")
    return "\n".join(lines)


def knobs_of(known: Checkpoint) -> str:
    """A checkpoint's knobs in words."""
    return (
        f"side {known.network.side}, temperature {known.temperature:g}, "
        f"chroma gain {known.chroma_gain:g}"
    )


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
    options = parser.parse_args(arguments)
    try:
        net, known = checkpoint.load(options.checkpoint)
        paths = picked(options)
        classifier = known.network.head == "classification"
        start = Method(
            "",
            NAME,
            decoding="annealed-mean" if classifier else None,
            temperature=known.temperature if classifier else None,
            chroma_gain=known.chroma_gain,
            side=known.network.side,
        )
        with Processes({NAME: options.checkpoint}, min(options.workers, len(paths))) as processes:

            def measure(methods: Sequence[Method]) -> list[Scores]:
                named = [replace(method, name=str(i)) for i, method in enumerate(methods)]
                result: Result = evaluate(processes, named, paths)
                return [result.scores[method.name] for method in named]

            found = fit(start, classifier, measure, options.weight)
        best = found.method
        measured = found.scores[best].row()
        knobs = {
            "photographs": len(found.scores[best].pictures),
            "cost": f"ΔE00 + {options.weight:g} ΔCF",
            "ΔE00": round(measured["ΔE00"], 3),
            "ΔCF": round(measured["ΔCF"], 2),
        }
        fitted = replace(
            known,
            network=replace(known.network, side=best.side or known.network.side),
            chroma_gain=best.chroma_gain or known.chroma_gain,
            temperature=best.temperature or known.temperature,
            decoding="annealed-mean" if classifier else known.decoding,
            provenance={**known.provenance, "knobs": knobs},
        )
        checkpoint.save(options.out, net, fitted)
    except FAILURES as error:
        return failed("fit", error)
    print(f"{knobs['photographs']} photographs\n\n{tried(found, options.weight)}\n")
    print(on_and_off(found, classifier))
    print("\nFlip averaging doubles the network's work; it is measured here, and not served.")
    print(f"wrote {options.out}: {knobs_of(fitted)} (before: {knobs_of(known)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
