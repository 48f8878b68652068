"""Train a network on a folder of photographs: python -m training.train --help"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

import colorizer
from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.commands.run import command_parser, run_command
from colorizer.recipe import Head, Recipe
from colorizer.unet import UNet
from evaluation.perceptual import load_encoder, torchvision_models
from training.config import PRESETS, BadConfig, TrainConfig, read_preset
from training.module import Colorization
from training.survey import SURVEY, survey, write_left_out

# names in the settings -> Lightning's
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)


def fastest_precision(net: UNet, config: TrainConfig) -> str:
    """Time a few steps in each precision and choose the fastest.

    A processor's flags don't tell: with AVX512-BF16 alone, bfloat16 was 0.6 times as fast as
    float32 on one CPU, and 1.8 times on another.
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
    shown = ", ".join(f"{name}: {second * 1000:.0f} ms a step" for name, second in seconds.items())
    fastest = min(seconds, key=lambda name: seconds[name])
    print(f"precision {fastest} ({shown})", flush=True)
    return fastest


Start = tuple[UNet, Checkpoint]


def inherit(config: TrainConfig, start: Start | None) -> TrainConfig:
    """Replace head = "same" by a checkpoint's head and losses.

    Raises:
        BadConfig: if there is no checkpoint to take them from.
    """
    if start is None:
        raise BadConfig(
            "head = same is the head of a checkpoint: name one, "
            "as --init-from model_store/regression.safetensors"
        )
    run = start[1].provenance.get("config", {})
    return replace(
        config,
        head=start[1].recipe.head,
        **{key: run[key] for key in ("rebalance", "adjustment", "huber") if key in run},
    )


def initial_network(config: TrainConfig, encoder: Path | None, start: Start | None) -> UNet:
    """Build the network: encoder from ImageNet weights, or all that fits from a checkpoint.

    Args:
        config: the run, with a head of its own.
        encoder: safetensors of torchvision's ResNet-50; None downloads torchvision's own.
        start: a checkpoint of either head; its trunk is taken, and its head too if it fits.

    Raises:
        UserError: if the encoder's file does not fit.
    """
    torch.manual_seed(config.seed)
    head: Head = "regression" if config.head == "regression" else "classification"
    if start is not None:
        net = UNet(head, widths=start[0].widths)
        own = net.state_dict()
        fitting = {k: v for k, v in start[0].state_dict().items() if v.shape == own[k].shape}
        net.load_state_dict(fitting, strict=False)
        return net
    net = UNet(head)
    if encoder is not None:
        load_encoder(net, encoder)
    else:
        models = torchvision_models()
        net.load_encoder(models.ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True))
    return net


def regression_checkpoint(config: TrainConfig, path: Path) -> UNet:
    """Read the network whose head a run of both heads continues.

    Raises:
        BadConfig: if the run has no second head, or the network another head.
    """
    net, _ = checkpoint.load(path)
    if config.head != "both" or net.kind != "regression":
        raise BadConfig(
            f"--second-from gives a run of both heads regression's: the run's head is "
            f"{config.head}, and {path} holds {net.kind}"
        )
    return net


def launched() -> tuple[int, int, int]:
    """Rank of this process, processes in all, processes on this machine, as torchrun sets them."""
    names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1))
    rank, ranks, here = (int(os.environ.get(name, default)) for name, default in names)
    return rank, ranks, here


def make_trainer(
    config: TrainConfig, state: Path, held_out: bool, precision: str
) -> lightning.Trainer:
    """Configure Lightning: one process, or those that torchrun started, on any machines."""
    _, ranks, here = launched()
    options: dict[str, Any] = {}
    if ranks > 1:
        # A frozen encoder gets no gradient, and the other processes must not wait for it.
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
        options["devices"], options["num_nodes"] = here, ranks // here
    return lightning.Trainer(
        max_steps=-1 if config.minutes else config.steps,
        precision=PRECISIONS[precision],
        gradient_clip_val=config.clip,
        logger=TensorBoardLogger(state, name="", version=""),
        callbacks=[
            EMAWeightAveraging(decay=config.ema),
            ModelCheckpoint(dirpath=state, filename="last", enable_version_counter=False),
            TQDMProgressBar(refresh_rate=10),
        ],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,  # each process has its own part already
        limit_val_batches=None if held_out else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        benchmark=True,  # all steps but the last part's have one shape; for GPUs only
        log_every_n_steps=10,
        **options,
    )


def train(
    config: TrainConfig,
    photos: Path,
    out: Path,
    encoder: Path | None = None,
    init_from: Path | None = None,
    second_from: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    licence: str = "",
) -> None:
    """Train and write `out`: a checkpoint, or for both heads a folder with a checkpoint of each.

    The run's state is kept in `out`.run/, from which `resume` continues an interrupted run. Under
    torchrun, each process trains on its own part of the photographs, and the first one writes.
    """
    state = out.with_suffix(".run")
    last = state / "last.ckpt"
    rank, ranks, _ = launched()
    if encoder is not None and not encoder.is_file():  # fail before all photographs are read
        raise FileNotFoundError(f"no weights at {encoder}")
    start = checkpoint.load(init_from) if init_from else None
    second = regression_checkpoint(config, second_from) if second_from else None
    fine_tuning = config.head == "same"
    if fine_tuning:
        config = inherit(config, start)
    state.mkdir(parents=True, exist_ok=True)
    kept = state / (f"survey-{rank}.json" if ranks > 1 else SURVEY)
    if not resume:
        kept.unlink(missing_ok=True)
    found = survey(photos, config.validation, config.min_colorfulness, kept)
    if rank == 0:
        write_left_out(state, found)
        print(f"{found.summary()}; {state}/ lists those left out", flush=True)
    if fine_tuning and start and "prior" in start[1].provenance:
        # The colours of the many photographs behind the checkpoint, not of the few at hand.
        found.prior = np.array(start[1].provenance["prior"], np.float64)
    continued = resume and last.exists()
    net = initial_network(config, encoder, start)
    model = Colorization(config, net, found, workers)
    if second is not None and model.second is not None:
        model.second.load_state_dict(second.head.state_dict())
    chosen = state / "precision"
    precision: str = config.precision
    if precision == "auto":  # a resumed run keeps its precision
        kept_one = continued and chosen.exists()
        precision = chosen.read_text() if kept_one else fastest_precision(net, config)
        chosen.write_text(precision)
    trainer = make_trainer(config, state, bool(found.validation), precision)
    trainer.fit(model, ckpt_path=last if continued else None)
    if model.share < 1:
        raise KeyboardInterrupt  # Lightning returns from it
    if rank == 0:
        origin = origin_of(encoder, init_from, start, licence)
        served = start[1].recipe if fine_tuning and start else None
        side = start[1].recipe.side if start else config.side
        write_checkpoints(model, trainer, out, origin, side, served)


def origin_of(
    encoder: Path | None, init_from: Path | None, start: Start | None, licence: str
) -> dict[str, Any]:
    """Describe what a run started from, for the provenance."""
    if init_from is None or start is None:
        name = encoder.name if encoder else "torchvision ResNet50_Weights.IMAGENET1K_V2"
        return {"init_from": None, "encoder": name, "licence": licence}
    before = start[1].provenance
    return {
        "init_from": init_from.name,
        "encoder": before.get("encoder", ""),
        "licence": licence or before.get("licence", ""),
    }


def write_checkpoints(
    model: Colorization,
    trainer: lightning.Trainer,
    out: Path,
    origin: dict[str, Any],
    side: int,
    served: Recipe | None,
) -> None:
    """Write what was trained, with a recipe, by default one until `training.fit` finds another."""
    config, photographs = model.config, model.photographs
    losses = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
    cuda = torch.cuda.is_available()
    provenance = {
        "photographs": len(photographs.train),
        "config": asdict(config),
        **origin,
        "losses": losses,
        "minutes": round(model.seconds / 60, 1),
        "steps": trainer.global_step,
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "device": torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU cores",
        "versions": {"colorizer": colorizer.__version__, "torch": torch.__version__},
        "prior": [float(f"{share:.4g}") for share in photographs.prior],
    }
    for head, net in model.networks().items():
        recipe = served or Recipe(
            head=head,
            side=side,
            bins=gamut.bin_centres() if head == "classification" else (),
            temperature=config.temperature,
            smoothing=config.smoothing,
            chroma_gain=config.chroma_gain,
        )
        path = out / f"{head}.safetensors" if config.head == "both" else out
        checkpoint.save(path, net, Checkpoint(recipe, net.widths, provenance))
        print(f"wrote {path}: {trainer.global_step} steps, {losses}")


def keep_memory() -> None:
    """Keep freed memory for the next step, with glibc.

    Otherwise large tensors are new pages from the kernel in each step, a quarter of its time.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, 1 << 25)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    parser = command_parser("python -m training.train", __doc__)
    presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
    add = parser.add_argument
    add("--preset", required=True, help=f"{presets}, or a .toml file")
    add("--photos", type=Path, required=True, help="folder of colour photographs, or of shards")
    add("--out", type=Path, required=True, help="checkpoint to write; for both heads, a folder")
    add("--encoder", type=Path,
        help="ImageNet ResNet-50 weights (default: torchvision's, downloaded)")  # fmt: skip
    add("--init-from", type=Path, help="start from this checkpoint's trunk")
    add("--second-from", type=Path, help="for both heads, take regression's from this checkpoint")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--workers", type=int, default=1, help="processes that read photographs")
    add("--licence", default="", help="terms of the weights, kept inside them")
    group = parser.add_argument_group("settings (default: the preset's)")
    defaults = {name: value for name, value in asdict(TrainConfig()).items() if name != "head"}
    for name, value in defaults.items():
        kind: dict[str, Any] = {"type": type(value)}
        if isinstance(value, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **kind)
    options = vars(parser.parse_args(arguments))
    keep_memory()
    overrides = {name: options.pop(name) for name in defaults if name in options}

    def work() -> int:
        train(read_preset(options.pop("preset")).override(overrides), **options)
        return 0

    return run_command("training", work, "continue with --resume")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")  # advice on cluster set-ups
    sys.exit(main())
