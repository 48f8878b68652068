"""Finish a regression network: train its decoder with a feature loss, then against a critic.

What L1 leaves pale and blurred becomes livelier and sharper, but too much of it makes stains: keep
`--snapshots`, and choose between them and the original network by eye.

Sources: the feature loss follows Johnson et al. 2016; training the critic first and stopping early,
DeOldify's NoGAN.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from colorizer import checkpoint
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.unet import AB_SCALE, IMAGENET_MEAN, IMAGENET_STD, UNet
from evaluation.perceptual import load_encoder
from training.augment import draw, lab_to_rgb, make_batch
from training.config import TrainConfig
from training.data import Photographs
from training.survey import survey

_STAGES = (0.2, 0.5, 0.3)  # weights of the stem, layer1 and layer2
_FEATURES = 1.5  # of the feature loss: its gradient at the output is then about that of L1


@dataclass(frozen=True)
class FinishConfig:
    """One finish.

    Attributes:
        steps: of each phase: feature loss alone, critic alone, both together.
        batch: photographs a step.
        side: S.
        learning_rate: of the first phase; the last has a third of it.
        adversarial: weight of the critic's opinion, 0 to leave out the last two phases.
        seed: of crops and the critic's weights.
    """

    steps: tuple[int, int, int] = (300, 250, 450)
    batch: int = 16
    side: int = 128
    learning_rate: float = 3e-4
    adversarial: float = 0.06
    seed: int = 0


class Features(nn.Module):
    """The early stages of an ImageNet ResNet-50, frozen: what the feature loss compares."""

    def __init__(self, encoder: Path) -> None:
        super().__init__()
        net = UNet("regression")
        load_encoder(net, encoder)
        self.stem, self.pool, self.layers = net.stem, net.pool, net.layers[:2]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """(B, 3, S, S) sRGB, 0..1 -> three feature maps."""
        x = self.stem((rgb - self.get_buffer("mean")) / self.get_buffer("std"))
        found = [x]
        x = self.pool(x)
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found


def content_loss(features: Features, lightness: Tensor, ab: Tensor, predicted: Tensor) -> Tensor:
    """Smooth L1 on ab, and the difference of both pictures' features."""
    with torch.no_grad():
        true = features(lab_to_rgb(lightness, ab))
    found = features(lab_to_rgb(lightness, predicted))
    loss = 10 * functional.smooth_l1_loss(predicted / AB_SCALE, ab / AB_SCALE, beta=0.02)
    for weight, x, y in zip(_STAGES, found, true, strict=True):
        loss = loss + _FEATURES * weight * functional.l1_loss(x, y) / (y.abs().mean() + 1e-3)
    return loss


class Critic(nn.Module):
    """Judges how real the patches of a picture are.

    Args:
        device: to learn on.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()

        def conv(channels: int, out: int, kernel: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(channels, out, kernel, stride, padding=1))

        leaky = nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(
            *(conv(3, 48, 4, 2), leaky, conv(48, 96, 4, 2), leaky, conv(96, 192, 4, 2), leaky),
            *(conv(192, 192, 3, 1), leaky, conv(192, 1, 3, 1)),
        ).to(device)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=4e-4, betas=(0.0, 0.9))

    def forward(self, lightness: Tensor, ab: Tensor) -> Tensor:
        """L and ab of a picture -> (B, 1, S/8, S/8), above 0 where it looks real."""
        judged: Tensor = self.layers(torch.cat([lightness / 50 - 1, ab / 40], dim=1))
        return judged

    def learn(self, lightness: Tensor, ab: Tensor, predicted: Tensor) -> None:
        """One step, by the hinge loss, on real photographs and on predicted colours."""
        real = self(lightness, ab)
        made = self(lightness, predicted.detach())
        loss = functional.relu(1 - real).mean() + functional.relu(1 + made).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


Batches = Iterator[tuple[Tensor, Tensor]]
Snapshot = Callable[[str, UNet], None]


class Finish:
    """Trains a regression network's decoder and head further; encoder and batch norm stay frozen.

    Args:
        net: the network to begin with; `net` of this object is a copy, in evaluation mode.
        features: of the feature loss.
        batches: of L (B, 1, S, S) and ab (B, 2, S, S), without end.
        config: how long, and how strongly.
    """

    def __init__(
        self, net: UNet, features: Features, batches: Batches, config: FinishConfig
    ) -> None:
        torch.manual_seed(config.seed)
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.learning = [*self.net.blocks.parameters(), *self.net.head.parameters()]
        for parameter in self.learning:
            parameter.requires_grad_(True)
        self.features, self.batches, self.config = features, batches, config

    def run(self, snapshot: Snapshot) -> UNet:
        """Go through all phases; `snapshot` gets the network after each part of them."""
        self.with_features()
        snapshot("features", self.net)
        if self.config.adversarial:
            critic = Critic(next(self.net.parameters()).device)
            self.teach(critic)
            self.together(critic, snapshot)
        return self.net

    def with_features(self) -> None:
        """The first phase: the feature loss alone."""
        steps, rate = self.config.steps[0], self.config.learning_rate
        optimizer = torch.optim.AdamW(self.learning, rate, (0.9, 0.99), weight_decay=1e-3)
        for step in _progress(steps, "feature loss"):
            share = min(1.0, (step + 1) / 50) * (1 - 0.7 * step / steps)
            optimizer.param_groups[0]["lr"] = rate * share
            lightness, ab = next(self.batches)
            predicted = self.predict(lightness)
            self.improve(optimizer, content_loss(self.features, lightness, ab, predicted))

    def teach(self, critic: Critic) -> None:
        """The second phase: the critic alone."""
        for _ in _progress(self.config.steps[1], "critic"):
            lightness, ab = next(self.batches)
            with torch.no_grad():
                predicted = self.predict(lightness)
            critic.learn(lightness, ab, predicted)

    def together(self, critic: Critic, snapshot: Snapshot) -> None:
        """The last phase: both, with three snapshots."""
        steps, rate = self.config.steps[2], self.config.learning_rate / 3
        optimizer = torch.optim.AdamW(self.learning, rate, (0.0, 0.9), weight_decay=0)
        for step in _progress(steps, "together"):
            lightness, ab = next(self.batches)
            predicted = self.predict(lightness)
            critic.learn(lightness, ab, predicted)
            liked = self.config.adversarial * critic(lightness, predicted).mean()
            loss = content_loss(self.features, lightness, ab, predicted) - liked
            self.improve(optimizer, loss)
            if (step + 1) % max(1, steps // 3) == 0:
                snapshot(f"together-{step + 1}", self.net)

    def predict(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) L -> (B, 2, S, S) ab."""
        with torch.no_grad():
            seen = self.net.encode(lightness)
        return functional.interpolate(
            self.net.decode(seen), scale_factor=2.0, mode="bilinear", align_corners=False
        )

    def improve(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimizer step."""
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        optimizer.step()


def _progress(steps: int, phase: str) -> Iterator[int]:
    return iter(tqdm(range(steps), desc=phase, unit="step", file=sys.stderr, mininterval=2))


def batches_of(photographs: Photographs, config: FinishConfig, device: str) -> Batches:
    """Yield batches on a device, without end, by the definitions of training."""
    crops = TrainConfig(seed=config.seed, crop=0.6, degrade=0.3)
    number = 0
    while True:
        places = range(number * config.batch, (number + 1) * config.batch)
        squares = torch.stack([photographs[place] for place in places]).to(device)
        yield make_batch(squares, crops, config.side, draw(config.seed, 0, number, config.batch))
        number += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and finish a network; returns the exit code."""
    usual = FinishConfig()
    parser = command_parser("python -m training.finish", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a regression network")
    add("--photos", type=Path, required=True, help="folder of colour photographs, or of shards")
    add("--encoder", type=Path, required=True, help="ImageNet ResNet-50 weights (safetensors)")
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--steps", type=int, nargs=3, default=usual.steps, help="of each phase (%(default)s)")
    add("--batch", type=int, default=usual.batch, help="photographs a step (%(default)s)")
    add("--side", type=int, default=usual.side, help="of the crops (%(default)s)")
    add("--adversarial", type=float, default=usual.adversarial, help="weight; 0: no critic")
    add("--snapshots", action="store_true", help="also write intermediate networks, beside --out")
    options = parser.parse_args(arguments)
    names = ("batch", "side", "adversarial")
    given = {name: getattr(options, name) for name in names}
    config = FinishConfig(steps=tuple(options.steps), **given)

    def work() -> int:
        net, header = checkpoint.load(options.checkpoint)
        if header.recipe.head != "regression":
            raise UserError(f"{options.checkpoint} is a classifier; only regression is finished")
        found = survey(options.photos, TrainConfig().validation, TrainConfig().min_colorfulness)
        photographs = Photographs(found.train, TrainConfig().stored, config.seed)
        header = replace(header, provenance={**header.provenance, "finish": asdict(config)})

        def snapshot(name: str, part: UNet) -> None:
            if options.snapshots:
                path = options.out.with_name(f"{options.out.stem}-{name}.safetensors")
                checkpoint.save(path, part, header)

        device = "cuda" if torch.cuda.is_available() else "cpu"
        batches = batches_of(photographs, config, device)
        features = Features(options.encoder).to(device)
        done = Finish(net.to(device), features, batches, config).run(snapshot)
        checkpoint.save(options.out, done, header)
        print(f"wrote {options.out}")
        return 0

    return run_command("finish", work)


if __name__ == "__main__":
    sys.exit(main())
