"""FLOP and bytes counted by hand, and what is said of where growth stops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import roofline, scaling
from benchmarks.roofline import Cost, Peak
from colorizer.unet import UNet, UNetConfig

PEAK = Peak(flops=100e9, bandwidth=10e9, by="convolution")


def test_a_convolution_is_counted_as_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    cost = roofline.count(net, torch.zeros(2, 3, 10, 10))
    assert cost.flop == 2 * (2 * 8 * 10 * 10) * (3 * 3 * 3)
    # input, output, weights and biases, of four bytes each; the others are folded in
    assert cost.bytes == 4 * (2 * 3 * 100 + 2 * 8 * 100 + 8 * 3 * 9 + 8)


def test_flop_grow_with_the_batch_and_weights_are_read_once() -> None:
    net = UNet(UNetConfig(side=64)).eval()
    one, four = (roofline.count(net, torch.zeros(count, 1, 64, 64)) for count in (1, 4))
    assert four.flop == 4 * one.flop
    weights = sum(
        value.nbytes
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        for value in layer.parameters()
    )
    assert four.bytes - weights == 4 * (one.bytes - weights)


def test_the_shipped_network_has_15_gflop_at_224() -> None:
    cost = roofline.count(UNet(UNetConfig()).eval(), torch.zeros(1, 1, 224, 224))
    assert cost.flop / 1e9 == pytest.approx(14.97, abs=0.01)


def test_no_hook_stays_behind() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    roofline.count(net, torch.zeros(1, 1, 4, 4))
    assert not net[0]._forward_hooks


def test_the_roof_is_memory_on_its_left_and_the_cores_on_its_right() -> None:
    assert PEAK.ridge == 10
    assert PEAK.attainable(1) == 10e9
    assert PEAK.attainable(10) == PEAK.attainable(1000) == 100e9


def test_a_machine_has_a_peak() -> None:
    peak = roofline.peak(quick=True)
    assert peak.flops > 1e8
    assert peak.bandwidth > 1e7
    assert peak.by in ("matrix product", "convolution")


def test_a_cost_is_an_intensity() -> None:
    cost = Cost(flop=600, bytes=10)
    assert PEAK.attainable(cost.flop / cost.bytes) == 100e9


def test_where_the_picture_costs_more_than_the_network_is_found() -> None:
    said = scaling.overtaking([1, 2, 4], [20, 40, 80], [50, 50, 50])
    assert "20 ms a megapixel" in said
    assert "more than the network from 4 megapixels on" in said
    said = scaling.overtaking([1, 2], [20, 40], [50, 50])
    assert "less than the network at all of these sizes" in said


def test_memory_is_a_straight_line_or_unknown() -> None:
    assert "300 MB and 20.0 MB a megapixel" in scaling.memory_slope([1, 10], [320.0, 500.0])
    assert scaling.memory_slope([1, 10], [None, None]) == ""
    assert scaling.line([2], [6]) == (3, 0)


def test_a_growth_stops_where_the_next_step_brings_too_little() -> None:
    assert "stops scaling at 4: 8 change the pictures a second by -1%" in scaling.enough(
        [1, 2, 4, 8], [10, 12, 15, 14.9]
    )
    assert scaling.enough([1, 2], [10, 19]) == "It still scales at 2."


def test_a_batch_gains_little_where_the_cores_are_the_limit_already() -> None:
    said = scaling.why_a_batch(1, 60, 0.8, PEAK)
    assert "the cores are the limit there, and 80%" in said
    assert "little to win" in said
    said = scaling.why_a_batch(1, 5, 0.4, PEAK)
    assert "memory is the limit" in said
    assert "little to win" not in said


def test_threads_are_held_against_what_the_machine_gives() -> None:
    assert "the machine itself gives 2.00" in scaling.why_threads("It", [1, 2], [10, 19.5], [1, 2])
    # Amdahl: half of the work on one thread makes four threads 1.6 times as fast
    said = scaling.why_threads("It", [1, 2, 4], [10, 13, 16], [1, 2, 4])
    assert "as if 50% of the work ran on one thread" in said
    assert "of no use" in scaling.why_threads("It", [1, 2], [10, 9], [1, 2])
    assert "nothing to compare" in scaling.why_threads("It", [1], [10], [1])
