"""Train a network on a folder of photographs: python -m training.train --help"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from argparse import BooleanOptionalAction
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

import colorizer
from colorizer import checkpoint, gamut
from colorizer.checkpoint import BadCheckpoint, Checkpoint
from colorizer.unet import UNet, UNetConfig, torchvision_models
from training.config import PRESETS, BadConfig, TrainConfig, read_preset
from training.data import Crops, Stream, Survey, survey
from training.losses import classification_loss, rebalancing_weights, regression_loss

# config's names -> Lightning's
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


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
        self.log("validation", self.loss(batch), prog_bar=True, batch_size=len(batch[0]))

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
        """The next chunk of the stream; asked for anew at each chunk."""
        done = self.trainer.global_step
        steps = min(self.config.chunk, self.config.steps - done)
        return DataLoader(
            Crops(self.photographs.train, self.config),
            batch_size=self.config.batch,
            sampler=Stream(done * self.config.batch, steps * self.config.batch),
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The held-out photographs, whole, not degraded."""
        crops = Crops(self.photographs.validation, self.config, augment=False)
        return DataLoader(crops, batch_size=self.config.batch, num_workers=self.workers)


def fastest_precision() -> str:
    """The precision that training is fastest in on this machine."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    # AMX multiplies bf16 in hardware; without it bf16 is emulated, and far slower than float32.
    return "bf16" if torch.cpu._is_amx_tile_supported() else "32"


def initial_network(config: TrainConfig, encoder: Path | None, init_from: Path | None) -> UNet:
    """Build the network: encoder from ImageNet weights, or the whole trunk from a checkpoint.

    Args:
        config: the run.
        encoder: safetensors of torchvision's ResNet-50; None downloads torchvision's own.
        init_from: a checkpoint of either head; its trunk is taken, and its head too if it fits.

    Raises:
        BadCheckpoint, FileNotFoundError, ValueError: if a file does not fit.
    """
    torch.manual_seed(config.seed)
    network = UNetConfig(head=config.head, bins=len(gamut.bins()))
    if init_from is not None:
        other, before = checkpoint.load(init_from)
        net = UNet(UNetConfig(**{**asdict(before.network), "head": config.head}))
        own = net.state_dict()
        fits = {k: v for k, v in other.state_dict().items() if v.shape == own[k].shape}
        net.load_state_dict(fits, strict=False)
        return net
    net = UNet(network)
    if encoder is not None:
        net.load_encoder(load_file(encoder))
    else:
        models = torchvision_models()
        net.load_encoder(models.ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True))
    return net


def train(
    config: TrainConfig,
    photos: Path,
    out: Path,
    encoder: Path | None = None,
    init_from: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    licence: str = "",
) -> Path:
    """Train and write `out`, a checkpoint; a run's state lies beside it in `out`.run/.

    With `resume`, continue from the state that an interrupted run left.
    """
    state = out.with_suffix(".run")
    last = state / "last.ckpt"
    found = survey(photos, config.validation)
    print(found.summary(), flush=True)
    for path, why in list(found.skipped.items())[:20]:
        print(f"  left out: {path}: {why}")
    net = initial_network(config, encoder, None if resume and last.exists() else init_from)
    model = Colorization(config, net, found, workers)
    gpu = torch.cuda.is_available()
    precision = fastest_precision() if config.precision == "auto" else config.precision
    started = time.time()
    trainer = lightning.Trainer(
        max_steps=config.steps,
        precision=PRECISIONS[precision],
        gradient_clip_val=config.clip,
        logger=TensorBoardLogger(state, name="", version=""),
        callbacks=[
            EMAWeightAveraging(decay=config.ema),
            ModelCheckpoint(dirpath=state, filename="last", enable_version_counter=False),
            TQDMProgressBar(refresh_rate=10),
        ],
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=None if found.validation else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(model, ckpt_path=last if resume and last.exists() else None)
    if trainer.global_step < config.steps:
        raise KeyboardInterrupt
    losses = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
    provenance = {
        "photographs": len(found.train),
        "config": asdict(config),
        "init_from": init_from.name if init_from else None,
        "encoder": encoder.name if encoder else "torchvision ResNet50_Weights.IMAGENET1K_V2",
        "losses": losses,
        "minutes": round((time.time() - started) / 60),
        "precision": precision,
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU cores",
        "versions": {"colorizer": colorizer.__version__, "torch": torch.__version__},
        "licence": licence,
    }
    checkpoint.save(
        out,
        model.net,
        Checkpoint(
            network=net.config,
            temperature=config.temperature,
            chroma_gain=config.chroma_gain,
            provenance=provenance,
        ),
    )
    print(f"wrote {out}: {config.steps} steps, {losses}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    presets = sorted(p.stem for p in PRESETS.glob("*.toml"))
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("--preset", required=True, help=f"{', '.join(presets)}, or a .toml file")
    parser.add_argument("--photos", type=Path, required=True, help="folder of colour photographs")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument(
        "--encoder",
        type=Path,
        help="ImageNet ResNet-50 weights (safetensors); without it torchvision's are downloaded",
    )
    parser.add_argument("--init-from", type=Path, help="start from this checkpoint's trunk")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--workers", type=int, default=1, help="processes that read photographs")
    parser.add_argument("--licence", default="", help="terms of the weights, kept inside them")
    group = parser.add_argument_group("settings (default: the preset's)")
    for f in fields(TrainConfig):
        if f.name != "head":
            kind = type(getattr(TrainConfig(), f.name))
            option = {"type": kind} if kind is not bool else {"action": BooleanOptionalAction}
            group.add_argument(f"--{f.name.replace('_', '-')}", dest=f"set_{f.name}", **option)
    options = vars(parser.parse_args(arguments))
    overrides = {
        key.removeprefix("set_"): options.pop(key)
        for key in list(options)
        if key.startswith("set_")
    }
    try:
        config = read_preset(options.pop("preset")).override(
            {key: value for key, value in overrides.items() if value is not None}
        )
        train(config, **options)
    except (BadConfig, BadCheckpoint, FileNotFoundError, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("training: interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")  # advice on cluster set-ups
    sys.exit(main())
