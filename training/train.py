"""Train a network on a folder of photographs: python -m training.train --help"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
import warnings
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file

import colorizer
from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.commands.run import run_command
from colorizer.errors import UserError
from colorizer.recipe import Head, Recipe
from colorizer.unet import UNet
from evaluation.perceptual import torchvision_models
from training.config import PRESETS, BadConfig, TrainConfig, read_preset
from training.module import Colorization
from training.survey import SURVEY, survey, write_report

# config's names -> Lightning's
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fastest_precision(net: UNet, config: TrainConfig) -> str:
    """Time a few steps of each precision and take the fastest.

    What a processor's flags promise is not what it does: with AVX512-BF16 alone, bfloat16 was
    found 0.6 times as fast as float32 on one CPU and 1.8 times on another.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = {"32": None, "bf16": torch.bfloat16}
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        kinds = {"32": None, "16": torch.float16}
    trial = copy.deepcopy(net).to(device).train()
    trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lightness = torch.rand(config.batch, 1, config.side, config.side, device=device) * 100
    seconds = {}
    for name, kind in kinds.items():
        times = []
        for _ in range(3):
            started = time.perf_counter()
            with torch.autocast(device.type, kind, enabled=kind is not None):
                trial.decode(trial.encode(lightness)).square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        seconds[name] = min(times[1:])
    told = ", ".join(f"{name}: {second * 1000:.0f} ms a step" for name, second in seconds.items())
    fastest = min(seconds, key=lambda name: seconds[name])
    print(f"precision {fastest} ({told})", flush=True)
    return fastest


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
    if config.head == "same":
        raise BadConfig("head = same is the head of a checkpoint: name one with --init-from")
    head: Head = "classification" if config.head == "both" else config.head
    if init_from is not None:
        other, before = checkpoint.load(init_from)
        net = UNet(head, len(gamut.bins()), before.widths)
        own = net.state_dict()
        fits = {k: v for k, v in other.state_dict().items() if v.shape == own[k].shape}
        net.load_state_dict(fits, strict=False)
        return net
    net = UNet(head, len(gamut.bins()))
    if encoder is not None:
        net.load_encoder(load_file(encoder))
    else:
        models = torchvision_models()
        net.load_encoder(models.ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True))
    return net


# What a fine-tuned network keeps of the run that it comes from.
INHERITED = ("rebalance", "adjustment", "huber")


def inherit(config: TrainConfig, init_from: Path | None) -> tuple[TrainConfig, Checkpoint | None]:
    """Replace head = "same" by the head, knobs and losses of a checkpoint; give its header too.

    Raises:
        BadConfig: if there is no checkpoint to take them from.
        BadCheckpoint, FileNotFoundError: if it cannot be read.
    """
    if config.head != "same":
        return config, None
    if init_from is None:
        raise BadConfig(
            "head = same is the head of a checkpoint: name one, "
            "as --init-from model_store/regression.safetensors"
        )
    _, before = checkpoint.load(init_from)
    run = before.provenance.get("config", {})
    config = replace(
        config,
        head=before.recipe.head,
        temperature=before.recipe.temperature,
        chroma_gain=before.recipe.chroma_gain,
        **{key: run[key] for key in INHERITED if key in run},
    )
    return config, before


def launched() -> tuple[int, int, int]:
    """What torchrun said: rank of this process, processes in all, processes on this machine."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    rank, ranks, here = (
        int(os.environ.get(name, default)) for name, default in zip(names, "011", strict=True)
    )
    return rank, ranks, here


def make_trainer(
    config: TrainConfig, state: Path, held_out: bool, precision: str
) -> lightning.Trainer:
    """Configure Lightning: one process, or those that torchrun started, on any machines."""
    _, ranks, here = launched()
    callbacks: list[Callback] = [
        EMAWeightAveraging(decay=config.ema),
        ModelCheckpoint(dirpath=state, filename="last", enable_version_counter=False),
        TQDMProgressBar(refresh_rate=10),
    ]
    if config.patience:
        if not held_out:
            raise BadConfig("patience needs held-out photographs: raise validation above 0")
        callbacks += [
            EarlyStopping("validation", patience=config.patience),
            ModelCheckpoint(
                dirpath=state,
                filename="best",
                monitor="validation",
                enable_version_counter=False,
            ),
        ]
    options: dict[str, Any] = {}
    if ranks > 1:
        # The encoder gets no gradient until it joins in: others must not wait for it.
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
        options["devices"], options["num_nodes"] = here, ranks // here
    return lightning.Trainer(
        max_steps=-1 if config.minutes else config.steps,
        precision=PRECISIONS[precision],
        gradient_clip_val=config.clip,
        logger=TensorBoardLogger(state, name="", version=""),
        callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,  # each process has its own part already
        limit_val_batches=None if held_out else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=10,
        **options,
    )


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
    """Train and write `out`, a checkpoint, or for both heads a folder with a checkpoint of each.

    The run's state lies beside it in `out`.run/.

    With `resume`, continue from the state that an interrupted run left. Under torchrun, each
    process trains on its own part, and the first one writes.
    """
    state = out.with_suffix(".run")
    last = state / "last.ckpt"
    rank, ranks, _ = launched()
    for needed in (encoder, init_from):
        if needed is not None and not needed.is_file():  # said before all photographs are read
            raise FileNotFoundError(f"no weights at {needed}")
    config, before = inherit(config, init_from)
    state.mkdir(parents=True, exist_ok=True)
    kept = state / (f"survey-{rank}.json" if ranks > 1 else SURVEY)
    if not resume:
        kept.unlink(missing_ok=True)
    found = survey(photos, config.validation, config.min_colorfulness, kept)
    if rank == 0:
        print(found.summary(), flush=True)
        write_report(state, found)
        print(f"  figures and the list of those left out: {state}/", flush=True)
    if before is not None and "prior" in before.provenance:
        # The colours of the many photographs behind it, not of the few at hand.
        found.prior = np.array(before.provenance["prior"], np.float64)
    continued = resume and last.exists()
    net = initial_network(config, encoder, init_from)
    model = Colorization(config, net, found, workers)
    chosen = state / "precision"
    precision: str = config.precision
    if precision == "auto":  # a run that goes on keeps what it began with
        kept_one = continued and chosen.exists()
        precision = chosen.read_text() if kept_one else fastest_precision(net, config)
        chosen.write_text(precision)
    trainer = make_trainer(config, state, bool(found.validation), precision)
    trainer.fit(model, ckpt_path=last if continued else None)
    stopped = trainer.early_stopping_callback
    early = stopped is not None and stopped.stopped_epoch > 0
    if model.share < 1 and not early:
        raise KeyboardInterrupt
    if config.patience:
        best = torch.load(state / "best.ckpt", map_location="cpu", weights_only=False)
        model.load_state_dict(best["state_dict"])
    if rank == 0:
        minutes = round(model.seconds / 60, 1)
        losses = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
        side = config.side
        origin = {
            "init_from": None,
            "encoder": encoder.name if encoder else "torchvision ResNet50_Weights.IMAGENET1K_V2",
            "licence": licence,
        }
        if init_from is not None:
            first = checkpoint.load(init_from)[1]
            side, source = first.recipe.side, first.provenance
            origin = {
                "init_from": init_from.name,
                "encoder": source.get("encoder", ""),
                "licence": licence or source.get("licence", ""),
            }
        provenance = {
            "photographs": len(found.train),
            "config": asdict(config),
            **origin,
            "losses": losses,
            "minutes": minutes,
            "steps": trainer.global_step,
            "processes": ranks,
            "precision": str(trainer.precision),
            "device": device(),
            "versions": {"colorizer": colorizer.__version__, "torch": torch.__version__},
            "prior": [float(f"{share:.4g}") for share in found.prior],
        }
        # Served at the side of its crops, or of the network that it began with, until training.fit
        # finds a better one.
        for head, trained in model.networks().items():
            recipe = Recipe(
                head=head,
                side=side,
                bins=gamut.bin_centres() if head == "classification" else (),
                decoding=before.recipe.decoding if before else Recipe.decoding,
                temperature=config.temperature,
                chroma_gain=config.chroma_gain,
            )
            path = out / f"{head}.safetensors" if config.head == "both" else out
            checkpoint.save(path, trained, Checkpoint(recipe, trained.widths, provenance))
            print(f"wrote {path}: {trainer.global_step} steps, {losses}")
    return out


def device() -> str:
    """What this run computes on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU cores"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    presets = sorted(p.stem for p in PRESETS.glob("*.toml"))
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("--preset", required=True, help=f"{', '.join(presets)}, or a .toml file")
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder of colour photographs, or of shards"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint to write; for both heads, a folder"
    )
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

    def work() -> int:
        config = read_preset(options.pop("preset")).override(
            {key: value for key, value in overrides.items() if value is not None}
        )
        try:
            train(config, **options)
        except ValueError as error:  # a file that does not hold what it should
            raise UserError(str(error)) from None
        return 0

    return run_command("training", work, "continue with --resume")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")  # advice on cluster set-ups
    sys.exit(main())
