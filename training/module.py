"""The network in training, as a Lightning module: loss, optimizer, schedule, photographs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from colorizer.recipe import Head
from colorizer.unet import AB_SCALE, UNet
from evaluation.bins import rebalancing_weights
from training.augment import draw, make_batch, rgb_to_lab
from training.config import TrainConfig
from training.data import Photographs, fits, square
from training.losses import classification_loss, joint_regression_loss, regression_loss
from training.survey import Survey


class Colorization(lightning.LightningModule):
    """A network with its loss, optimizer and photographs.

    With head "both", both heads learn on one trunk: `net` is the classifier, `second` the head of
    regression. The encoder is frozen until step `unfreeze`, or throughout if `encoder_lr_scale` is
    0; its batch norm may measure its statistics anew.
    """

    def __init__(self, config: TrainConfig, net: UNet, photographs: Survey, workers: int) -> None:
        super().__init__()
        self.config, self.net, self.photographs, self.workers = config, net, photographs, workers
        self.second = regression_head(net) if config.head == "both" else None
        # About 1.3 times as fast, on CPU and GPU; missing in torch's types.
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in net.encoder:
            module.requires_grad_(config.encoder_lr_scale > 0)
        weights = rebalancing_weights(photographs.prior, config.rebalance)
        self.register_buffer("weights", weights, persistent=False)
        self.seconds = 0.0  # trained, by earlier parts of a run that was interrupted
        self._memory: Tensor | None = None
        self._stream: Photographs | None = None
        self.train()

    def train(self, mode: bool = True) -> Colorization:
        """Switch modes; an encoder that doesn't adapt its statistics stays in evaluation mode."""
        super().train(mode)
        for module in self.net.encoder:
            module.train(mode and self.config.adapt_norm)
        return self

    # --- schedule

    @property
    def share(self) -> float:
        """Share of the run that is done, 0..1, by its minutes or steps."""
        config, minutes = self.config, self.seconds / 60
        done = minutes / config.minutes if config.minutes else self.global_step / config.steps
        return min(1.0, done)

    @property
    def side(self) -> int:
        """S of the next batch."""
        late = self.config.late_side and self.share >= 1 - self.config.late
        return self.config.late_side if late else self.config.side

    def rate(self, start: int = 0) -> float:
        """Learning rate as a share of its peak: warm-up from step `start`, then cosine decay."""
        warm = min(1.0, max(0, self.global_step + 1 - start) / max(1, self.config.warmup))
        return warm * (1 + math.cos(math.pi * self.share)) / 2

    def on_fit_start(self) -> None:
        """Load the photographs into memory, if they fit."""
        config, train = self.config, self.photographs.train
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        here = fits(-(-len(train) // ranks), config.stored, self.device)
        self._stream = Photographs(train, config.stored, config.seed, rank, ranks, here)
        self._memory = self._stream.load(self.device) if here else None

    def on_train_batch_start(self, batch: Tensor, index: int) -> None:
        """Set the learning rates, and start the clock."""
        optimizer = self.trainer.optimizers[0]
        rates = [self.rate(), self.config.encoder_lr_scale * self.rate(self.config.unfreeze)]
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = self.config.learning_rate * rate
        self._started = time.monotonic()

    def on_train_batch_end(self, outputs: Any, batch: Tensor, index: int) -> None:
        """Stop the clock, and the run if its minutes are over."""
        seconds = time.monotonic() - self._started
        self.seconds += seconds
        self.log("photographs_per_second", self.config.batch / seconds)
        if self.config.minutes and self.share >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the training time."""
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the training time."""
        self.seconds = checkpoint["seconds"]

    # --- loss

    def loss(self, lightness: Tensor, ab: Tensor) -> Tensor:
        """(B, 1, S, S) L and (B, 2, S, S) ab -> scalar, at the decoder's S/2."""
        config = self.config
        learns = config.encoder_lr_scale > 0 and self.global_step >= config.unfreeze
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            features = self.net.encode(lightness.contiguous(memory_format=torch.channels_last))
        ab = nn.functional.avg_pool2d(ab, 2)
        weights: Tensor = self.get_buffer("weights")
        if self.net.kind == "regression":
            return regression_loss(self.net.decode(features), ab, weights, config.huber)
        mixed = self.net.mix(features)[-1]
        hidden, known = self.net.head[:-1](mixed), ab
        if self.net.training:
            # One pixel of each 2 x 2, in turns: neighbours are alike, and with all of them Q
            # channels cost a quarter of a step.
            row, column = divmod(self.global_step % 4, 2)
            hidden, known = (x[:, :, row::2, column::2] for x in (hidden, ab))
        logits = self.net.head[-1](hidden).float()
        loss = classification_loss(logits, known, weights, config.adjustment)
        if self.second is not None:
            predicted = self.second(mixed).float() * AB_SCALE
            loss = loss + joint_regression_loss(predicted, ab, config.huber)
        return loss

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One optimizer step on a batch of indices into memory, or of photographs."""
        photographs = batch if self._memory is None else self._memory[batch]
        draws = draw(self.config.seed, self.trainer.global_rank, self.global_step, len(batch))
        with torch.autocast(self.device.type, enabled=False):  # colour is float32
            lightness, ab = make_batch(photographs, self.config, self.side, draws)
        loss = self.loss(lightness, ab)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        """Measure the loss on whole, unaltered held-out photographs."""
        small = nn.functional.interpolate(
            batch.float() / 255, size=[self.config.side] * 2, mode="bilinear", antialias=True
        )
        with torch.autocast(self.device.type, enabled=False):
            lightness, ab = rgb_to_lab(small.clamp(0, 1))
        loss = self.loss(lightness, ab)
        self.log("validation", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)

    # --- Lightning's hooks

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the rates are set at each step."""
        encoder = [p for module in self.net.encoder for p in module.parameters()]
        ids = {id(p) for p in encoder}
        groups = [[p for p in self.parameters() if id(p) not in ids]]
        if self.config.encoder_lr_scale > 0:
            groups.append(encoder)
        return torch.optim.AdamW(
            [{"params": group} for group in groups],
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=self.trainer.precision != "16-mixed",  # there, gradients are scaled
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; Lightning refuses to for a fused optimizer."""
        if optimizer.defaults["fused"]:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.clip)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """The next chunk of this process's stream; called again for each chunk."""
        assert self._stream is not None
        done, steps = self.global_step, self.config.chunk
        if not self.config.minutes:
            steps = min(steps, self.config.steps - done)
        return DataLoader(
            self._stream,
            batch_size=self.config.batch,
            sampler=range(done * self.config.batch, (done + steps) * self.config.batch),
            num_workers=0 if self._stream.in_memory else self.workers,
        )

    def val_dataloader(self) -> DataLoader[Tensor]:
        """This process's share of the held-out photographs.

        All shares have the same size, some with a photograph twice, as processes wait for each
        other.
        """
        held_out, ranks = self.photographs.validation, self.trainer.world_size
        numbers = range(self.trainer.global_rank, -(-len(held_out) // ranks) * ranks, ranks)
        share = [held_out[number % len(held_out)] for number in numbers]
        squares = [square(photograph, self.config.stored) for photograph in share]
        return DataLoader(squares, batch_size=self.config.batch)  # type: ignore[arg-type]

    def networks(self) -> dict[Head, UNet]:
        """The trained network of each head."""
        if self.second is None:
            return {self.net.kind: self.net}
        other = UNet("regression", widths=self.net.widths)
        state = {k: v for k, v in self.net.state_dict().items() if not k.startswith("head")}
        state |= {f"head.{k}": v for k, v in self.second.state_dict().items()}
        other.load_state_dict(state)
        return {"classification": self.net, "regression": other}


def regression_head(net: UNet) -> nn.Sequential:
    """Make a regression head for a classifier's trunk; it starts almost grey."""
    head = UNet("regression", widths=net.widths).head
    nn.init.normal_(head.get_parameter("3.weight"), std=0.01)
    nn.init.zeros_(head.get_parameter("3.bias"))
    return head
