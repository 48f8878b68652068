"""The network in training, as Lightning wants it: loss, optimizer, schedule, data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from colorizer.unet import UNet
from evaluation.prior import rebalancing_weights
from training.config import TrainConfig
from training.data import Crops, Stream
from training.losses import classification_loss, regression_loss
from training.survey import Survey


class Colorization(lightning.LightningModule):
    """The network in training: its loss, its optimizer, its stream of crops.

    The encoder's weights stand still until step `unfreeze`, for good at `encoder_rate` 0; its
    batch norm may measure its statistics anew.
    """

    def __init__(self, config: TrainConfig, net: UNet, photographs: Survey, workers: int) -> None:
        super().__init__()
        self.config, self.net, self.photographs, self.workers = config, net, photographs, workers
        # About 1.3 times as fast, on CPU and GPU; missing in torch's types.
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in net.encoder:
            module.requires_grad_(config.encoder_rate > 0)
        weights = rebalancing_weights(photographs.prior, config.rebalance)
        self.register_buffer("weights", weights, persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Colorization:
        """Switch modes; an encoder that does not adapt stays in evaluation mode."""
        super().train(mode)
        for module in self.net.encoder:
            module.train(mode and self.config.adapt_norm)
        return self

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """(B, 1, S, S) L and (B, 2, S, S) ab -> scalar, taken at the decoder's own S/2."""
        lightness, ab = batch
        config = self.config
        learns = config.encoder_rate > 0 and self.global_step >= config.unfreeze
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            features = self.net.encode(lightness.contiguous(memory_format=torch.channels_last))
        output = self.net.decode(features).float()
        ab = torch.nn.functional.avg_pool2d(ab, 2)
        weights: Tensor = self.get_buffer("weights")
        if config.head == "classification":
            return classification_loss(output, ab, weights, config.adjustment)
        return regression_loss(output, ab, weights, config.huber)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One optimizer step."""
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Measure the held-out photographs."""
        size = len(batch[0])
        self.log("validation", self.loss(batch), prog_bar=True, batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW; warm-up, then a cosine to nothing; the encoder joins in later, and lower."""
        config = self.config
        encoder = [p for module in self.net.encoder for p in module.parameters()]
        known = {id(p) for p in encoder}
        groups = [[p for p in self.net.parameters() if id(p) not in known]]
        if config.encoder_rate > 0:
            groups.append(encoder)
        optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )

        def rate(step: int, start: int = 0) -> float:
            warm = min(1.0, max(0, step + 1 - start) / max(1, config.warmup))
            return warm * (1 + math.cos(math.pi * min(1.0, step / config.steps))) / 2

        def encoder_rate(step: int) -> float:
            return config.encoder_rate * rate(step, config.unfreeze)

        rates: list[Callable[[int], float]] = [rate, encoder_rate]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates[: len(groups)])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The next chunk of this process's stream; asked for anew at each chunk."""
        done = self.trainer.global_step
        steps = min(self.config.chunk, self.config.steps - done)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            Crops(self.photographs.train, self.config, rank=rank, ranks=ranks),
            batch_size=self.config.batch,
            sampler=Stream(done * self.config.batch, steps * self.config.batch),
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This process's share of the held-out photographs, whole, not degraded.

        All shares are of one size, some with a photograph again: processes wait for each other.
        """
        held_out, ranks = self.photographs.validation, self.trainer.world_size
        numbers = range(self.trainer.global_rank, -(-len(held_out) // ranks) * ranks, ranks)
        share = [held_out[number % len(held_out)] for number in numbers]
        crops = Crops(share, self.config, augment=False)
        return DataLoader(crops, batch_size=self.config.batch, num_workers=self.workers)
