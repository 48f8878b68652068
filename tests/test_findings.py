"""What is read from figures of serving."""

from __future__ import annotations

import pytest

from benchmarks import findings
from benchmarks.direct import Round
from benchmarks.findings import Arrived, Compared, Scaled
from benchmarks.measured import Measured


def step(achieved: float, busy: float = 1.0, times: tuple[float, ...] = (100.0,)) -> Measured:
    return Measured("", None, achieved, list(times), {}, busy, 0.0, {"network": 60.0})


def test_an_ideal_server_does_one_after_another_from_when_it_is_due() -> None:
    # The second is due while the first is done, the third after both.
    assert findings.queue([0.0, 0.1, 1.0], [300, 200, 100]) == pytest.approx([300, 400, 100])


@pytest.mark.parametrize(
    ("rates", "busy", "said"),
    [
        ((5.0, 7.0, 7.1), 0.97, "It stops rising at 2 clients: the cores are full there (97%"),
        ((5.0, 5.1, 5.0), 0.6, "One of the clients does what more of them do"),
        ((5.0, 7.0, 9.0), 0.6, "It still rises at 4 clients, the most that was measured; 60%"),
    ],
)
def test_where_a_curve_stops_and_why_is_said_by_its_figures(
    rates: tuple[float, ...], busy: float, said: str
) -> None:
    found = [Scaled(1 << k, step(rate, busy)) for k, rate in enumerate(rates)]
    assert findings.stops("clients", found).startswith(said)


def test_rounds_are_held_against_each_other_one_by_one() -> None:
    alone = [Round(10.0, [100.0], {"network": 80.0}), Round(5.0, [200.0], {"network": 160.0})]
    compared = Compared(
        "torchserve",
        alone,
        [
            step(9.0),
            step(4.0),
        ],
    )
    assert compared.ratios == pytest.approx([0.9, 0.8])
    table = findings.compared_table(compared)
    assert "**Ratio 0.85** (median; 0.80 to 0.90); the aim of 0.85 is met" in table.note
    stages = findings.stages_table(Compared("torchserve", alone[:1], [step(8.0)]))
    assert [row[0] for row in stages.rows] == [
        *("network", "around them", "between two requests", "all")
    ]
    assert [row[1] for row in stages.rows] == pytest.approx([80, 20, 0, 100])
    assert [row[2] for row in stages.rows] == pytest.approx([60, 40, 25, 125])


def test_a_tail_is_told_beside_that_of_the_ideal_server() -> None:
    slow = step(5.0, times=(100.0, 100.0, 300.0))
    table = findings.arrivals_table("triton", [Arrived("mix", slow, [100.0, 100.0, 250.0])])
    (row,) = table.rows
    assert row[5] == pytest.approx(3.0)
    assert row[8] == pytest.approx(2.5)
    assert "mix: missed, as by the ideal server" in table.note
