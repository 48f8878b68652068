"""The peers have the shapes that were published, and the table says who is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import peers, results, roofline
from benchmarks.peer_networks import DDColor, NoSource, Ours, Seed, Zhang
from colorizer import gamut
from colorizer.unet import UNetConfig


def parameters(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def test_zhangs_network_has_its_published_size() -> None:
    """By hand from the layers of the released network, richzhang/colorization, eccv16."""
    three = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    three += [(256, 512), *[(512, 512)] * 11, (256, 256), (256, 256)]
    convolutions = sum(9 * before * after + after for before, after in three)
    others = 16 * 512 * 256 + 256 + 256 * 313 + 313 + 313 * 2  # up, to bins, to ab
    norms = 2 * (64 + 128 + 256 + 4 * 512)
    assert parameters(Zhang()) == convolutions + others + norms == 32_236_011


def test_zhangs_bins_lie_at_a_quarter_of_the_side_and_ab_at_all_of_it() -> None:
    net = Zhang().eval()
    seen: list[torch.Size] = []
    net.blocks[-1].register_forward_hook(lambda layer, given, output: seen.append(output.shape))
    with torch.inference_mode():
        assert net(torch.full((1, 1, 64, 64), 50.0)).shape == (1, 2, 64, 64)
    assert seen == [(1, 313, 16, 16)]


def test_the_seed_is_resnet_50_and_pix2pix_blocks() -> None:
    net = Seed().eval()
    encoder = parameters(net.stem) + parameters(net.layers)
    assert encoder == 23_508_032  # torchvision's, without its classifier
    blocks = 9 * (2048 * 512 + 1536 * 256 + 768 * 128 + 384 * 64) + 2 * (512 + 256 + 128 + 64)
    assert parameters(net.ups) == blocks
    assert parameters(net) == encoder + blocks + 9 * 128 * 2 + 2
    with torch.inference_mode():
        assert net(torch.full((2, 1, 64, 64), 50.0)).shape == (2, 2, 64, 64)


def test_ours_gives_ab_from_either_head() -> None:
    lightness = torch.full((1, 1, 64, 64), 50.0)
    for head in ("regression", "classification"):
        net = Ours(UNetConfig(head=head, side=64)).eval()
        with torch.inference_mode():
            ab = net(lightness)
        assert ab.shape == (1, 2, 64, 64)
    assert torch.equal(ab, gamut.decode(net.net(lightness), net.centres, "annealed-mean", 0.38))


def test_ours_has_less_than_a_quarter_of_zhangs_flop() -> None:
    lightness = torch.zeros(1, 1, 64, 64)
    own, theirs = (
        roofline.count(net.eval(), lightness).flop for net in (Ours(UNetConfig(side=64)), Zhang())
    )
    assert 4 < theirs / own < 4.5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[peers.Peer]:
    """The networks, small."""
    options = argparse.Namespace(side=64, ddcolor=None)
    return list(peers.collect(options, tmp_path_factory.mktemp("peers")))


def test_the_table_holds_all_networks_and_says_whose_source_is_not_given(
    built: list[peers.Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "collect", lambda options, work: built)
    path = tmp_path / "peers.json"
    assert peers.main(["--quick", "--threads", "1", "--json", str(path)]) == 0
    _, _, (table,) = results.load(path)
    rows = {str(row[0]): row[1:] for row in table.rows}
    assert list(rows) == [
        *("ours, regression", "ours, classification", "ours, regression, ONNX Runtime"),
        *("Zhang 2016", "the first version (ResNet-50, pix2pix)"),
        "DDColor-tiny: source not given",
    ]
    assert set(rows.pop("DDColor-tiny: source not given")) == {None}
    speeds = [table.columns.index(name) - 1 for name in table.columns if name.startswith("× Zhang")]
    for row in rows.values():
        assert all(isinstance(row[i], float) and row[i] > 0 for i in speeds)
    assert [rows["Zhang 2016"][i] for i in speeds] == [1, 1]
    assert "Zhang 2016's network takes" in table.note


def test_onnx_runtime_gives_what_torch_gives(built: list[peers.Peer]) -> None:
    found = {peer.name: peer for peer in built}
    lightness = 100 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    own, served = (
        found[name].run(lightness) for name in (peers.OURS, f"{peers.OURS}, ONNX Runtime")
    )
    assert torch.allclose(own, served, atol=0.01)


def test_a_folder_that_is_not_ddcolors_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NoSource, match=r"is not DDColor's source .* git clone https://github.com"):
        DDColor(tmp_path, 64)


def test_a_package_that_ddcolor_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ddcolor").mkdir()
    (tmp_path / "ddcolor" / "model.py").write_text("import a_package_of_nobody\n")
    arguments = ["--quick", "--threads", "1", "--ddcolor", str(tmp_path)]
    assert peers.main(arguments) == 2
    assert "peers: DDColor needs a_package_of_nobody" in capsys.readouterr().err
