"""Mistakes that users can fix: a command says in one line what is wrong, and writes nothing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.support import Capture, Weights, encoded

# A command -> what it says. {R}, {C}: small networks of either head; {photos}: colour photographs;
# {cut}: a folder with half a photograph; {empty}: an empty folder; {out}: one that must stay so.
MISTAKES = """
evaluation.evaluate nothing --photos {photos} -> there is no model at nothing
evaluation.evaluate {R} --photos {empty} -> no photographs
evaluation.evaluate {R} --photos {cut} --workers 1 -> none of the photographs can be read
evaluation.sheet {R} --photos {photos} --out {out}/sheet.pdf -> must end in .png or .jpg
evaluation.sheet nothing --photos {photos} --out {out}/sheet.png -> there is no model at nothing
evaluation.sheet {R} --photos {empty} --out {out}/sheet.png -> no photographs
evaluation.sheet {R} --photos {cut} --out {out}/sheet.png -> none of the photographs can be read
evaluation.before_after {R} --photos {photos} --hints {empty} --out {out}/a.png -> no hints
training.average {R} {C} --out {out}/mean.safetensors -> networks of two kinds
training.carry split {R} --out {empty} -> exists; name a new folder
training.carry join {empty} --out {out}/joined -> lacks part 0 of 1
training.finish {C} --photos {photos} --encoder none --out {out}/a.safetensors -> is a classifier
training.fit nothing --photos {photos} --out {out}/a.safetensors -> no checkpoint at nothing
training.fit {R} --photos {empty} --out {out}/a.safetensors -> no photographs
training.shards --photos {photos} --out {empty} -> exists; name a new folder
training.shards --photos {empty} --out {out}/shards -> no photographs
training.train --preset finetune {train} -> --init-from model_store/regression.safetensors
training.train --preset joint {train} --second-from {C} -> holds classification
training.train --preset regression {train} --init-from nothing -> no checkpoint at nothing
training.train --preset regression {train} --encoder nothing -> no weights at nothing
training.train --preset regression {train} --side 33 -> side must be a multiple of 32
export.__main__ nothing --out {out}/graphs -> export: no checkpoint at nothing
export.archive nothing --out {out}/a.mar -> export: no checkpoint at nothing
export.triton nothing --out {out}/models -> export: no checkpoint at nothing
benchmarks.engines nothing nothing -> engines: no checkpoint at nothing
benchmarks.engines {R} nothing -> no model at nothing
benchmarks.engines {R} {archives}/colorize-classes.mar -> a graph of a classification network
benchmarks.engines {R} nothing --device gpu -> use cpu, or cuda:0
benchmarks.engines {R} nothing --device cuda:99 -> there is no cuda:99 here
benchmarks.serving --servers torchserve --store {empty} -> is missing: run `make archives`
benchmarks.quality http://127.0.0.1:9 -> does not answer
benchmarks.quality ftp://here -> a server's address begins with
benchmarks.quality http://127.0.0.1:9 --photos {empty} -> no photographs
"""


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines())
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_written(
    mistake: str,
    weights: Weights,
    photos: Path,
    archives: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    named: dict[str, object] = {"R": weights("regression"), "C": weights("classification")}
    named |= {"photos": photos, "archives": archives}
    for name in ("cut", "empty", "out"):
        named[name] = tmp_path / name
        (tmp_path / name).mkdir()
    body = encoded(np.zeros((60, 60, 3), np.uint8), "JPEG")
    (tmp_path / "cut" / "cut.jpg").write_bytes(body[:300])
    named["train"] = f"--photos {photos} --out {tmp_path}/out/a"
    command, said = mistake.split(" -> ")
    module, *arguments = command.format(**named).split()
    assert import_module(module).main(arguments) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert said in last
    assert not list((tmp_path / "out").iterdir())
