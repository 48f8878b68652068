"""Average the weights of checkpoints that were trained from one another: python -m training.average

A network that is trained further on few photographs overfits; the average of its weights before and
after is better than both, and costs nothing at inference. Source: Wortsman et al. 2022, "Model
soups".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from colorizer import checkpoint
from colorizer.checkpoint import Checkpoint
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.unet import UNet

# What the average's provenance repeats of each network's.
REPEATED = ("config", "init_from", "photographs", "steps", "minutes", "precision", "losses")


def average(networks: Sequence[tuple[UNet, Checkpoint]]) -> tuple[UNet, Checkpoint]:
    """Average all weights; recipe and provenance are the last one's.

    Raises:
        UserError: if the networks are not of one kind.
    """
    net, header = networks[-1]
    for _, other in networks:
        if (other.recipe.head, other.widths) != (header.recipe.head, header.widths):
            raise UserError(
                "networks of two kinds have no mean: "
                f"{other.recipe.head} {other.widths} and {header.recipe.head} {header.widths}"
            )
    states = [other.state_dict() for other, _ in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in states[-1].items()
    }
    net.load_state_dict(mean)
    origins = [
        {key: other.provenance[key] for key in REPEATED if key in other.provenance}
        for _, other in networks
    ]
    return net, replace(header, provenance={**header.provenance, "average of": origins})


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, average and write; returns the exit code."""
    parser = command_parser("python -m training.average", (__doc__ or "").partition("\n\n")[2])
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", help="two or more, in order of training")
    add("--out", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args(arguments)
    if len(options.checkpoints) < 2:
        parser.error("name two checkpoints or more")

    def work() -> int:
        net, header = average([checkpoint.load(path) for path in options.checkpoints])
        checkpoint.save(options.out, net, header)
        print(f"wrote {options.out}: the mean of {', '.join(p.name for p in options.checkpoints)}")
        return 0

    return run_command("average", work)


if __name__ == "__main__":
    sys.exit(main())
