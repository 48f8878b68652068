"""Measure checkpoints on photographs with known colours: python -m evaluation.evaluate --help"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from colorizer.commands.run import command_parser, run_command
from colorizer.recipe import Recipe
from evaluation import figures, perceptual
from evaluation.command import add_photographs, markdown, named, picked
from evaluation.methods import (
    GREY,
    Method,
    Processes,
    Result,
    eager_pipeline,
    evaluate,
    pictures,
    spread,
)
from evaluation.metrics import NOTICED

SWEEP = (0.1, 0.2, 0.3, 0.38, 0.5, 0.7)  # temperatures; decoding=mean is the annealed mean at 1
DIGITS = {"SSIM": 3, "AuC": 4, "balanced AuC": 4, "LPIPS": 4, "bleeding": 3}  # 2 of the others

EXPLAINED = (
    "ΔCF is the difference between the mean CF of all pictures and of all truths, ΔCF each the "
    "mean difference of single pictures. In brackets: 95% bootstrap interval over photographs. The "
    "constant colour is the mean true ab of these photographs."
)
EXPLAINED_NOTICED = {
    "stains": "Stains: spread of ab in large regions that have one colour in truth.",
    "bleeding": "Bleeding: share of the edges of colour where the truth has no edge.",
    "cast": "Cast: |mean ab| of a picture; Δcast: distance of its mean ab from the truth's.",
    "ΔE00 coloured": "ΔE00 coloured: where the true chroma is above 15.",
    "KID × 1000": "KID: distance of ResNet-50's features; compare it within this table only.",
    "other side": (
        "Other side, mirrored: how far ab moves if the network sees the picture at a side 32 "
        "smaller or larger, or mirrored."
    ),
    "mount chroma": "Mount chroma: of a grey card around a photograph; in truth 0.",
}
FEW = "FID falls with the number of photographs: compare it within this table only."


def explanation(result: Result) -> str:
    """How to read the table, and why measures are absent."""
    measured = result.scores[GREY.name].row()
    absent = [
        f"{name} is absent: its weights are not in {perceptual.folder()}; put {url} there."
        for name, url in perceptual.WEIGHTS.items()
        if name not in measured
    ]
    if "KID × 1000" not in measured:
        absent.append(
            "KID is absent: --encoder FILE must name an ImageNet ResNet-50 (safetensors), as for "
            "training.train, and it takes at least two photographs."
        )
    return " ".join([EXPLAINED, *([FEW] if "FID" in measured else []), *absent])


def methods_of(recipes: Mapping[str, Recipe], quick: bool = False) -> list[Method]:
    """List the rows of a table: each network as it is served, then with other recipes.

    Args:
        recipes: by the checkpoint's name.
        quick: only the networks as they are served.
    """
    methods = [Method(name, name) for name in recipes]
    for name, recipe in recipes.items():
        if recipe.head == "classification" and not quick:
            for decoding in ("mode", "mean", "sample"):
                other = replace(recipe, decoding=decoding)
                methods.append(Method(f"{name}, {decoding}", name, other))
            for t in SWEEP:
                other = replace(recipe, decoding="annealed-mean", temperature=t)
                methods.append(Method(f"{name}, T = {t:g}", name, other))
    return methods


def text(result: Result) -> str:
    """Format both tables, each with its explanation."""
    noticed = " ".join(
        EXPLAINED_NOTICED[name] for name in columns(result, True) if name in EXPLAINED_NOTICED
    )
    return (
        f"{table(result)}\n\n{explanation(result)}\n\n"
        f"What people notice:\n\n{table(result, noticed=True)}\n\n{noticed}"
    )


def columns(result: Result, noticed: bool) -> list[str]:
    """The measures of one of the two tables."""
    return [name for name in result.scores[GREY.name].row() if (name in NOTICED) == noticed]


def table(result: Result, noticed: bool = False) -> str:
    """Format measures as Markdown, the truth's own in the last row.

    Args:
        result: what was measured.
        noticed: whether the table is that of what people notice.
    """
    names = columns(result, noticed)
    rows = []
    for title, score in result.scores.items():
        values, limits = score.row(), score.intervals()
        cells = [title]
        for name in names:
            n = DIGITS.get(name, 2)
            cell = f"{values[name]:.{n}f}"
            if name in limits:
                low, high = limits[name]
                cell += f" ({low:.{n}f}–{high:.{n}f})"
            cells.append(cell)
        rows.append(cells)
    truth = {name: np.nanmean(of) for name, of in true_values(result).items()}
    cells = [f"{truth[n]:.{DIGITS.get(n, 2)}f}" if n in truth else "" for n in names]
    return markdown(["", *names], [*rows, ["truth", *cells]])


def true_values(result: Result) -> dict[str, np.ndarray]:
    """The measures of the truths themselves, each (N,), if any of them has it."""
    seen = [p.truth for p in result.scores[GREY.name].pictures]
    values = {name: np.array([one.get(name, np.nan) for one in seen]) for name in seen[0]}
    return {name: of for name, of in values.items() if np.isfinite(of).any()}


def rounded(values: np.ndarray) -> list[float | None]:
    """Round for JSON, which has no NaN."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def to_json(result: Result) -> str:
    """All measures, their intervals, and each photograph's own, as JSON."""
    methods = {
        name: {
            "measures": score.row(),
            "intervals": score.intervals(),
            "pictures": {k: rounded(v) for k, v in score.per_picture().items()},
        }
        for name, score in result.scores.items()
    }
    calibration = {n: figures.calibration_error(c) for n, c in result.calibration.items()}
    document = {
        "photographs": [str(path) for path in result.paths],
        "left out": {str(path): why for path, why in result.left_out.items()},
        "truth": {name: rounded(of) for name, of in true_values(result).items()},
        "calibration error": calibration,
        "methods": methods,
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def report(folder: Path, result: Result, methods: Sequence[Method], processes: Processes) -> None:
    """Write table.md, scores.json, the figures and the contact sheets into a folder."""
    head = f"{len(result.paths)} photographs, {len(result.left_out)} left out"
    (folder / "table.md").write_text(f"{head}\n\n{text(result)}\n")
    (folder / "scores.json").write_text(to_json(result) + "\n")
    served = [m for m in methods if m.name == m.network]
    histograms = {m.name: result.scores[m.name].chroma() for m in served}
    figures.chroma(folder / "chroma.png", {**histograms, "truth": result.truth_chroma})
    if result.calibration:
        figures.calibration(folder / "calibration.png", result.calibration)
    curves: dict[str, list[tuple[float, Mapping[str, float]]]] = {}
    for m in methods:
        if m.network and m.recipe and m.recipe.decoding in ("mean", "annealed-mean"):
            t = 1.0 if m.recipe.decoding == "mean" else m.recipe.temperature
            curves.setdefault(m.network, []).append((t, result.scores[m.name].row()))
    if curves:
        truth = float(np.mean(true_values(result)["CF"]))
        figures.temperature(folder / "temperature.png", curves, truth)
    write_sheets(folder, result, served, processes)


def write_sheets(
    folder: Path, result: Result, served: Sequence[Method], processes: Processes
) -> None:
    """Write contact sheets of grey, the networks as served and the truth into a folder."""
    shown = [GREY, *served]
    chosen = sheets(result, [m.name for m in served])
    places = sorted({place for some in chosen.values() for place in some})
    jobs = [(result.paths[place], shown) for place in places]
    bar = tqdm(processes.each(pictures, jobs), "sheets", len(jobs), file=sys.stderr, mininterval=2)
    made = dict(zip(places, bar, strict=True))
    titles = [*(m.name for m in shown), "truth"]
    for name, some in chosen.items():
        texts = [f"{result.paths[i].name}   {differences(result, i, shown)}" for i in some]
        rows = [(text, made[i]) for text, i in zip(texts, some, strict=True)]
        figures.contact_sheet(folder / name, titles, rows)


def differences(result: Result, number: int, methods: Sequence[Method]) -> str:
    """One photograph's colour difference by each method, as text."""
    values = [result.scores[m.name].pictures[number].values["ΔE00"] for m in methods]
    return "dE00: " + ", ".join(f"{value:.1f}" for value in values)


def sheets(result: Result, networks: Sequence[str], rows: int = 12) -> dict[str, list[int]]:
    """Choose photographs by number: evenly spread ones, and each network's worst by ΔE00."""
    chosen = {"contact.jpg": spread(len(result.paths), rows)}
    for name in networks:
        errors = result.scores[name].per_picture()["ΔE00"]
        chosen[f"worst-{name.replace('/', '-')}.jpg"] = np.argsort(errors)[::-1][:rows].tolist()
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit code."""
    parser = command_parser("python -m evaluation.evaluate", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="+", help="weights, or the folder of an exported graph")
    add_photographs(parser)
    add("--out", type=Path, help="folder for the tables, scores, figures and contact sheets")
    add("--quick", action="store_true", help="only measure the networks as they are served")
    add("--encoder", type=Path, metavar="FILE",
        help="ImageNet ResNet-50 weights (safetensors), for the kernel distance (KID)")  # fmt: skip
    add("--stability", action="store_true",
        help="how far colours move at other sides, and mirrored (three more passes)")  # fmt: skip
    add("--mounts", type=int, default=24, metavar="N",
        help="lay N photographs on grey cards, to measure their chroma (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    return run_command("evaluate", lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    """Evaluate, print the tables, and write them to --out."""
    paths = picked(options)
    checkpoints = named(options.checkpoint)
    recipes = {name: eager_pipeline(path).graph.recipe for name, path in checkpoints.items()}
    methods = methods_of(recipes, options.quick)
    workers = min(options.workers, len(paths))
    with Processes(checkpoints, workers, perceptual.available(), options.encoder) as processes:
        result = evaluate(processes, methods, paths, max(0, options.mounts), options.stability)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=options.out, prefix=".") as unfinished:
                report(Path(unfinished), result, methods, processes)
                for path in Path(unfinished).iterdir():
                    path.replace(options.out / path.name)
    print(f"{len(result.paths)} photographs\n\n{text(result)}")
    if options.out:
        print(f"\nwrote {options.out}/: table, scores, figures, contact sheets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
