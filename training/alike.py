"""Fit what tells hints which places are alike.

A network's features tell things apart that have one lightness and one predicted colour. Of its last
ones `UNet.alike` makes a few channels, by which `colorizer.hints` measures how unlike two places
are and how wrong their colours may be, and of which a cast may be linear. They are fitted so that
hints are worth most: true colours of photographs are revealed as by evaluation.hints, and what 1, 5
and 10 of them gain in PSNR is raised by gradient, through the whole estimate, less a penalty for
what a hint that is wrong by much changes far away. The network stays as it is, and so do all
settings of hints.

The result lies beside the checkpoint, in FILE.alike, and is part of what is exported from then on.
Weights that are trained further need it again.

Source of the idea: Wilson et al. 2016, "Deep kernel learning".
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import colorizer
from colorizer import checkpoint, hints, lab
from colorizer.commands.run import command_parser, run_command
from colorizer.engines import Eager
from colorizer.errors import RequestError
from colorizer.finish import in_lab, prepare, shown_ab
from colorizer.hints import Float, Spot
from colorizer.image import Picture
from colorizer.options import Options
from colorizer.unet import enlarged
from evaluation import methods
from evaluation.command import add_photographs, named, picked
from evaluation.hints import places, revealed
from evaluation.photographs import Photograph, read_rgb, shrink
from training.augment import lab_to_rgb

CHANNELS = [*hints.ALIKE, 4]  # of `UNet.alike`; the last are lines
HIDDEN = 96  # channels between its convolutions
REVEALED = 10
COUNTS = (1, 5, REVEALED)  # of hints, whose gains are raised
WRONG, FAR = (40.0, 60.0), 0.5  # ab units that a hint is wrong by; shorter sides that are far
PENALTY = 0.004  # dB for each ab unit that a wrong one changes far away
SIDE = 160  # shorter side of photographs
STEP = 4  # every so many pixels and rows are looked at
BATCH = 10
RATE, DECAY = 0.004, 0.01
CHECKED = 0.1  # share of the photographs that only measure the result

Sample = dict[str, NDArray[Any]]  # of one photograph
Batch = dict[str, Tensor]  # of several


class Everything(nn.Module):
    """In place of `UNet.alike`: all the features that it sees."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features as `Alike`'s -> (B, F, h, w)."""
        return torch.cat(enlarged(features), dim=1)


def sample(path: Photograph, number: int) -> Sample | None:
    """Reveal a photograph's colours to the network of this process, as `looked_at`.

    Returns:
        None if the photograph cannot be read, or has hardly any colour.
    """
    (pipeline,) = methods.networks()
    assert isinstance(pipeline.run, Eager)
    pipeline.run.module.alike = Everything()
    try:
        rgb = shrink(read_rgb(path.read_bytes()), SIDE)
    except (RequestError, OSError):
        return None
    truth = lab.rgb_to_lab(rgb)
    if np.hypot(truth[..., 1], truth[..., 2]).mean() < 2:
        return None
    found = places(np.ascontiguousarray(truth[..., 0]), number, random=False)[:REVEALED]
    said = revealed(truth, found)
    recipe = pipeline.graph.recipe
    prepared = prepare(Picture(rgb), recipe.side)
    (output,) = pipeline.run(prepared.small[None])
    ab = pipeline.decode(prepared, output, Options())
    shown = shown_ab(prepared.small[0], ab, recipe.chroma_gain)
    spots = hints.spots(said, in_lab(prepared.lightness))
    size = recipe.side, recipe.side
    colours = cv2.resize(truth[..., 1:], size, interpolation=cv2.INTER_AREA)
    aspect = rgb.shape[1] / rgb.shape[0]
    features = output[recipe.channels :]
    return looked_at(
        prepared.small[0], shown, spots, aspect, features, np.asarray(colours, np.float32)
    )


def looked_at(
    lightness: Float, shown: Float, spots: Sequence[Spot], aspect: float, features: Float, ab: Float
) -> Sample | None:
    """Measure all that stays the same while channels are fitted.

    Args:
        lightness: (S, S) float32; so are `shown`, (S, S, 2), and the true `ab`.
        shown: the ab that hints are to change.
        spots: REVEALED known colours.
        aspect: as `hints.spread_spots`.
        features: (F, S, S) of the network.
        ab: what it should be.

    Returns:
        Of P pixels, n of them revealed: near_cast, near_object: (n, P), as in `hints.Layout`;
        among: (n, n), near_cast of the revealed themselves; amplitude (P,), lines (3, P), features
        (F, P), and the same of the revealed, with _at; missing: (n, 2); away: (n, P) from the
        revealed, in shorter sides; lightness (P,), shown and truth (P, 2). None if two spots fall
        into one pixel.
    """
    layout, side = hints.lay_out(lightness, shown, spots, aspect=aspect), len(lightness)
    at = layout.at
    if len(at) < REVEALED:
        return None
    seen = np.arange(side * side).reshape(side, side)[::STEP, ::STEP].ravel()
    rows, columns = np.divmod(seen, side)
    across, down = columns - (at % side)[:, None], rows - (at // side)[:, None]
    flat = features.reshape(-1, side * side)
    values = {
        "near_cast": layout.near_cast[:, seen],
        "near_object": layout.near_object[:, seen],
        "among": layout.near_cast[:, at],
        "amplitude": layout.amplitude[seen],
        "amplitude_at": layout.amplitude[at],
        "lines": layout.lines[:, seen],
        "lines_at": layout.lines[:, at],
        "features_at": flat[:, at],
        "missing": layout.missing,
        "away": np.hypot(across * aspect, down) / side / min(aspect, 1.0),
        "lightness": lightness.ravel()[seen],
        "shown": shown.reshape(-1, 2)[seen],
        "truth": ab.reshape(-1, 2)[seen],
    }
    kept: Sample = {key: np.asarray(value, np.float32) for key, value in values.items()}
    return {**kept, "features": flat[:, seen].astype(np.float16)}  # most of a sample


class Spreading(nn.Module):
    """`hints.spread_spots`, of which torch can take gradients, with channels to fit.

    Args:
        features: (F, N), examples, by whose mean and deviation they are normalized.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        mean, deviation = features.mean(dim=1), features.std(dim=1)
        self.mean = nn.Buffer(mean)
        self.deviation = nn.Buffer(deviation + 0.05 * features.std())
        self.first = nn.Linear(len(features), HIDDEN)
        self.last = nn.Linear(HIDDEN, sum(CHANNELS))
        nn.init.normal_(self.first.weight, std=0.25 / math.sqrt(len(features)))
        nn.init.zeros_(self.first.bias)
        nn.init.normal_(self.last.weight, std=0.5 / math.sqrt(HIDDEN))
        nn.init.zeros_(self.last.bias)

    def weights(self, inputs: Sequence[int]) -> dict[str, Tensor]:
        """Those of `unet.Alike`, whose features have so many channels and are as they are."""
        first = self.first.weight.detach() / self.deviation
        bias = self.first.bias.detach() - first @ self.mean
        found = {"last.weight": self.last.weight.detach()[..., None, None]}
        found["last.bias"] = self.last.bias.detach()
        for number, part in enumerate(first.split(list(inputs), dim=1)):
            found[f"first.{number}.weight"] = part[..., None, None]
            found[f"first.{number}.bias"] = torch.zeros_like(bias) if number else bias
        return found

    def look(self, given: Batch) -> Batch:
        """Add the channels of `hints.ALIKE`, everywhere and at the hints, to a batch."""
        found = dict(given)
        for at in ("", "_at"):
            normal = (given[f"features{at}"].float().mT - self.mean) / self.deviation
            every = self.last(torch.relu(self.first(normal))).mT
            parts = zip(("cast", "object", "sizes", "more"), every.split(CHANNELS, 1), strict=True)
            found.update({f"{name}{at}": part for name, part in parts})
        return found

    def forward(self, given: Batch, count: int, missing: Tensor | None = None) -> Tensor:
        """Compute by how much the first `count` hints change ab.

        Args:
            given: what `look` gives.
            count: of hints.
            missing: (B, count, 2), instead of those of `given`.

        Returns:
            (B, P, 2).
        """
        here = {name: given[f"{name}_at"][..., :count] for name in ("cast", "object", "sizes")}
        missing = given["missing"][:, :count] if missing is None else missing
        # The size of a cast, and of what differs from it: everywhere, and at the hints
        size, other = (given["amplitude"][:, None] * given["sizes"].clamp(-2, 2).exp()).unbind(1)
        known = given["amplitude_at"][:, None, :count]
        own, others = (known * here["sizes"].clamp(-2, 2).exp()).unbind(1)
        near = given["near_cast"][:, :count] + _apart(here["cast"], given["cast"])
        among = given["among"][:, :count, :count] + _apart(here["cast"], here["cast"])
        shared = (-near.clamp(min=1e-6).sqrt()).exp() * size[:, None] * own[..., None]
        mutual = (-among.clamp(min=1e-6).sqrt()).exp() * own[:, None] * own[..., None]
        lines = torch.cat([given["lines"], given["more"]], dim=1)
        lines_at = torch.cat([given["lines_at"], given["more_at"]], dim=1)[..., :count]
        shared = shared + lines_at.mT @ lines
        mutual = mutual + lines_at.mT @ lines_at
        usual = hints.CAST * math.sqrt(count)
        cast = torch.zeros_like(missing)
        for _ in range(hints.ROUNDS):
            noise = hints.NOISE + ((missing - cast) ** 2).sum(-1) / usual**2
            weights = torch.linalg.solve(mutual + torch.diag_embed(noise), missing)
            cast = mutual @ weights
        change = shared.mT @ weights
        squared = given["near_object"][:, :count] + _apart(here["object"], given["object"]) + 1e-4
        nearest = squared.amin(dim=1)
        shares = (nearest[:, None] / squared) ** hints.SHARPNESS
        filled = 1 / (1 + nearest**3) / shares.sum(dim=1)
        shares = shares * other[:, None] / others[..., None]
        change = change + (shares.mT @ (missing - cast)) * filled[..., None]
        most = missing.norm(dim=-1).amax(dim=1)[:, None]
        length = change.square().sum(-1).clamp(min=1e-12).sqrt()
        limited: Tensor = change * (most / length).clamp(max=1)[..., None]
        return limited


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """(B, K, n) and (B, K, P) -> (B, n, P), squared distances."""
    sizes = (one**2).sum(1)[..., None] + (other**2).sum(1)[:, None]
    return (sizes - 2 * one.mT @ other).clamp(min=0)


def psnr(given: Batch, change: Tensor | float = 0.0) -> Tensor:
    """(B,) dB of the shown colours, changed so."""
    lightness = given["lightness"][:, None, None]
    found, truth = (
        lab_to_rgb(lightness, ab.mT[:, :, None]) for ab in (given["shown"] + change, given["truth"])
    )
    return -10 * ((found - truth).square().mean((1, 2, 3)) + 2e-5).log10()


def gains(net: Spreading, given: Batch) -> Tensor:
    """(B, COUNTS) dB that hints gain; `given` is what `look` gives."""
    plain = psnr(given)
    return torch.stack([psnr(given, net(given, count)) - plain for count in COUNTS], dim=1)


def moved_far(net: Spreading, given: Batch, drawn: torch.Generator) -> Tensor:
    """Mean |change| of ab, far from one hint that is wrong, summed over WRONG."""
    angle = 2 * math.pi * torch.rand(len(given["away"]), generator=drawn)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
    far = (given["away"][:, 0] > FAR).float()
    total = torch.zeros(())
    for wrong in WRONG:
        moved = net(given, 1, wrong * direction).square().sum(-1).clamp(min=1e-12).sqrt()
        total = total + (moved * far).sum() / far.sum().clamp(min=1)
    return total


def _in_any_order(given: Batch, drawn: torch.Generator) -> Batch:
    """Shuffle the hints of every second photograph, so that any place may be the first."""
    batch = len(given["missing"])
    order = torch.rand(batch, REVEALED, generator=drawn).argsort(dim=1)
    order[::2] = torch.arange(REVEALED)
    changed = dict(given)
    for key in ("near_cast", "near_object", "away", "missing"):
        index = order[..., None].expand(given[key].shape)
        changed[key] = given[key].gather(1, index)
    for key in ("lines_at", "features_at"):
        changed[key] = given[key].gather(2, order[:, None].expand(given[key].shape))
    changed["amplitude_at"] = given["amplitude_at"].gather(1, order)
    columns = order[:, None].expand(given["among"].shape)
    changed["among"] = given["among"].gather(2, columns).gather(1, columns.mT)
    return changed


def fit(
    samples: Sequence[Sample], epochs: int, seed: int, label: str
) -> tuple[Spreading, list[float], list[float]]:
    """Fit channels to photographs of one network.

    Returns:
        The channels; and dB gained with each of COUNTS, without and with them, on the CHECKED
        share.
    """
    torch.manual_seed(seed)
    drawn = torch.Generator().manual_seed(seed)
    checked = max(1, round(CHECKED * len(samples)))
    every: Any = samples  # a list is a data set, which DataLoader's types don't say
    held = DataLoader[Batch](every[:checked], BATCH)
    rest = DataLoader[Batch](every[checked:], BATCH, shuffle=True, generator=drawn)
    examples = [one["features"][:, ::7] for one in samples[checked : checked + 300]]
    net = Spreading(torch.from_numpy(np.concatenate(examples, axis=1)).float())

    def measure() -> list[float]:
        with torch.inference_mode():
            found = torch.cat([gains(net, net.look(given)) for given in held])
            return [float(gain) for gain in found.mean(dim=0)]

    started = net.last.weight.detach().clone()
    nn.init.zeros_(net.last.weight)  # all places are alike
    before = measure()
    net.last.weight.data = started
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * len(rest)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps + 1, pct_start=0.1)
    bar = tqdm(range(epochs), f"fitting {label}", file=sys.stderr, mininterval=2)
    for _ in bar:
        for batch in rest:
            given = net.look(_in_any_order(batch, drawn))
            loss = -gains(net, given).mean(dim=0).sum() + PENALTY * moved_far(net, given, drawn)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 3.0)
            optimizer.step()
            schedule.step()
        bar.set_postfix_str(", ".join(f"{gain:+.2f} dB" for gain in measure()))
    return net, before, measure()


def fit_checkpoint(name: str, path: Path, options: argparse.Namespace) -> str:
    """Fit channels to a checkpoint and write them; returns what they gain."""
    photographs = picked(options)
    with methods.Processes({name: path}, min(options.workers, len(photographs))) as processes:
        found = processes.each(sample, [(one, number) for number, one in enumerate(photographs)])
        bar = tqdm(found, f"revealing, {name}", len(photographs), file=sys.stderr, mininterval=2)
        samples = [one for one in bar if one is not None]
    if len(samples) < 2:
        raise FileNotFoundError("fewer than two of the photographs can be used")
    fitted, before, after = fit(samples, options.epochs, options.seed, name)
    net, _ = checkpoint.load(path)
    net.tell_alike(fitted.weights(net.seen_by_alike))
    provenance = {
        "photographs": len(samples),
        "epochs": options.epochs,
        "seed": options.seed,
        "colorizer": colorizer.__version__,
        "dB": {str(count): round(gain, 3) for count, gain in zip(COUNTS, after, strict=True)},
    }
    checkpoint.save_alike(path, net, provenance)
    return "; ".join(
        f"{count} hints {old:+.2f} -> {new:+.2f} dB"
        for count, old, new in zip(COUNTS, before, after, strict=True)
    )


def fit_checkpoints(options: argparse.Namespace) -> int:
    """Fit channels to each checkpoint, and print what they gain."""
    for name, path in named(options.checkpoint).items():
        gained = fit_checkpoint(name, path, options)
        print(f"wrote {path.with_suffix(checkpoint.ALIKE)}: {gained}", flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, fit and write; returns the exit code."""
    parser = command_parser("python -m training.alike", __doc__, as_written=True)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    add_photographs(parser)
    parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command("alike", lambda: fit_checkpoints(options))


if __name__ == "__main__":
    sys.exit(main())
