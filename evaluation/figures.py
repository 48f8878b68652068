"""Figures of an evaluation and of a survey, and the contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from evaluation.metrics import CHROMA_STEP, UInt8
from evaluation.photographs import reduce

CELL = 256  # longer side of a picture on the contact sheet, in pixels
GAP = 4  # between two pictures
TITLE = 18  # height of a line of text on it


def new_figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many plots side by side."""
    figure = Figure(figsize=(5.2 * columns, 3.8), layout="constrained")
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def calibration(path: Path, counts: Mapping[str, NDArray[np.float64]]) -> None:
    """Plot how often the most likely bin is right, against its probability.

    Args:
        path: where to.
        counts: by classifier, (K, 3) as `methods.Result.calibration`.
    """
    figure, (share, amount) = new_figure(2)
    share.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, table in counts.items():
        seen = table[table[:, 0] > 0]
        share.plot(seen[:, 1] / seen[:, 0], seen[:, 2] / seen[:, 0], marker=".", label=name)
        places = (np.arange(len(table)) + 0.5) / len(table)
        amount.plot(places, table[:, 0] / table[:, 0].sum(), label=name)
    share.set(xlabel="probability of the most likely bin", ylabel="share that is right")
    share.set_title(
        ", ".join(f"ECE {calibration_error(table):.3f}" for table in counts.values()), fontsize=9
    )
    amount.set(xlabel="probability of the most likely bin", ylabel="share of pixels")
    share.legend(fontsize=8)
    figure.savefig(path)


def calibration_error(counts: NDArray[np.float64]) -> float:
    """Mean |probability - share that is right| over pixels, from (K, 3) counts.

    Source: Guo et al. 2017, "On calibration of modern neural networks", the expected calibration
    error.
    """
    return float(np.abs(counts[:, 1] - counts[:, 2]).sum() / counts[:, 0].sum())


def temperature(
    path: Path, curves: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]], truth: float
) -> None:
    """Plot measures against the annealed mean's temperature.

    Args:
        path: where to.
        curves: by classifier, temperatures and their rows of measures.
        truth: mean colorfulness of the true pictures.
    """
    figure, axes = new_figure(3)
    for axis, measure in zip(axes, ("ΔE00", "CF", "balanced AuC"), strict=True):
        for name, points in curves.items():
            ts, rows = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            axis.plot(ts, [row[measure] for row in rows], marker=".", label=name)
        axis.set(xlabel="temperature", ylabel=measure)
    axes[1].axhline(truth, color="0.7", linewidth=1, label="truth")
    axes[1].legend(fontsize=8)
    figure.savefig(path)


def chroma(path: Path, histograms: Mapping[str, NDArray[np.int64]]) -> None:
    """Plot the distribution of chroma, by method."""
    figure, (axis,) = new_figure()
    for name, counts in histograms.items():
        style = {"color": "black", "linewidth": 2} if name == "truth" else {"linewidth": 1}
        places = (np.arange(len(counts)) + 0.5) * CHROMA_STEP
        axis.plot(places, np.maximum(counts / counts.sum(), 1e-7), label=name, **style)
    axis.set(xlabel="chroma", ylabel="share of pixels", yscale="log", xlim=(0, 110), ylim=(1e-5, 1))
    axis.legend(fontsize=8)
    figure.savefig(path)


def contact_sheet(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[tuple[str, Sequence[UInt8]]],
    cell_side: int = CELL,
) -> None:
    """Lay out pictures in rows, with titles of the columns and a line of text above each row.

    Args:
        path: where to, .jpg or .png.
        titles: of the columns.
        rows: text and (H, W, 3) uint8 pictures, as many as titles, of each.
        cell_side: longer side of a picture, in pixels.
    """
    cells = [[reduce(picture, cell_side - GAP) for picture in pictures] for _, pictures in rows]
    heights = [max(cell.shape[0] for cell in row) + TITLE for row in cells]
    sheet = Image.new("RGB", (len(titles) * cell_side, TITLE + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * cell_side + 3, 3), title, "black")
    top = TITLE
    for (text, _), row, height in zip(rows, cells, heights, strict=True):
        draw.text((3, top + 3), text, "black")
        for column, cell in enumerate(row):
            sheet.paste(Image.fromarray(cell), (column * cell_side, top + TITLE))
        top += height
    sheet.save(path, quality=90)
