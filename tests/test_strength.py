"""Critical strengths: scales, curves that fall, where they cross, how sure that is, and where to look next."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.compression import Prune, Quantise
from defenses.noise import ClipOnly, NoiseOnly
from fl_core.errors import InputError
from orchestrator.config import ThresholdConfig
from orchestrator.crossing import bracket, crossing
from orchestrator.parse import threshold_cell, threshold_cells
from orchestrator.scale import Strength
from orchestrator.strength import (
    critical_strengths,
    curves,
    refinements,
)

NOISE = ThresholdConfig(
    name="noise",
    defense=(ClipOnly(max_norm=1.0), NoiseOnly()),
    strength=Strength(path="defense.1.sigma", weak=1e-5, strong=1e-1, points=5),
)


@given(
    weak=st.floats(1e-6, 0.9),
    strong=st.floats(1e-6, 0.9),
    scale=st.sampled_from(["log", "linear", "log_rest"]),
)
@settings(max_examples=100, deadline=None)
def test_a_scale_goes_from_weak_to_strong_and_back(weak: float, strong: float, scale: str) -> None:
    if abs(weak - strong) < 1e-3 * strong:
        return
    strength = Strength(path="x", weak=weak, strong=strong, scale=scale)  # type: ignore[arg-type]
    assert strength.position(weak) < strength.position(strong)
    tolerance = 1e-3 * ((1.0 - weak) if scale == "log_rest" else weak)
    assert strength.value(strength.position(weak)) == pytest.approx(weak, abs=tolerance)
    positions = [strength.position(value) for value in strength.grid()]
    assert positions == sorted(positions)


def test_grids_are_even_on_their_scale_with_whole_numbers_once_each() -> None:
    assert Strength(path="x", weak=1e-5, strong=1e-1, points=5).grid() == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    shares = Strength(path="x", weak=0.9, strong=0.999, points=3, scale="log_rest")
    assert shares.grid() == pytest.approx([0.9, 0.99, 0.999])
    nearly = Strength(path="x", weak=0.9, strong=0.99999, points=5, scale="log_rest")
    assert nearly.grid() == [0.9, 0.99, 0.999, 0.9999, 0.99999]
    bits = Strength(path="x", weak=8, strong=1, points=9, integer=True)
    assert bits.grid() == sorted(set(bits.grid()), reverse=True)
    assert {8.0, 1.0} <= set(bits.grid())


def test_cells_differ_in_the_strength_alone() -> None:
    cells = threshold_cells(NOISE, [1e-2, 1e-4])
    assert [cell.name for cell in cells] == ["noise_0.0001", "noise_0.01"]
    assert cells[0].defense == (ClipOnly(max_norm=1.0), NoiseOnly(sigma=1e-4))
    batch = ThresholdConfig(
        name="batch",
        strength=Strength(path="federation.local.batch_size", weak=1, strong=64, integer=True),
    )
    assert threshold_cell(batch, 8.0).differs == {"federation.local.batch_size": 8}


@pytest.mark.parametrize("path", ["defense.2.sigma", "defense.1.sigmas", "defense.x.sigma", "defense.1"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    threshold = ThresholdConfig(
        name="t", defense=NOISE.defense, strength=Strength(path=path, weak=1e-5, strong=1e-1)
    )
    with pytest.raises(InputError, match=r"thresholds\.t\.strength\.path"):
        threshold_cell(threshold, 1e-3)


def test_a_strength_that_the_defense_refuses_is_named() -> None:
    threshold = ThresholdConfig(
        name="bits",
        defense=(Quantise(),),
        strength=Strength(path="defense.0.bits", weak=32, strong=1, integer=True),
    )
    with pytest.raises(InputError, match="bits = 32"):
        threshold_cell(threshold, 32)


def test_a_straight_line_crosses_where_it_should() -> None:
    positions = np.array([0.0, 1.0, 2.0, 3.0])
    values = np.tile([9.0, 6.0, 3.0, 0.0], (5, 1))
    found = crossing(positions, values, 1.0)
    assert (found.side, found.position) == ("inside", pytest.approx(8.0 / 3.0))
    assert (found.low, found.high) == (pytest.approx(8.0 / 3.0), pytest.approx(8.0 / 3.0))
    assert bracket(positions, values.mean(0), 1.0) == (2.0, 3.0)


def test_a_curve_that_rises_in_between_is_made_to_fall() -> None:
    """2 and 4 pool to 3, so the level 3.5 lies between 5 and 3."""
    found = crossing(np.arange(4.0), np.array([[5.0, 2.0, 4.0, 0.0]]), 3.5)
    assert found.position == pytest.approx(0.75)


@pytest.mark.parametrize(("level", "side", "end"), [(20.0, "before", 0.0), (-1.0, "after", 3.0)])
def test_curves_that_do_not_cross_are_bounds(level: float, side: str, end: float) -> None:
    positions, values = np.arange(4.0), np.tile([9.0, 6.0, 3.0, 0.0], (5, 1))
    found = crossing(positions, values, level)
    assert (found.side, found.position) == (side, end)
    assert math.isinf(found.low)
    assert math.isinf(found.high)
    assert bracket(positions, values.mean(0), level) is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Victims' curves cross 0 at 1.5 on average; 95% of the intervals should hold that."""
    random, held = np.random.default_rng(7), 0
    positions = np.arange(4.0)
    for _ in range(60):
        shifts = random.normal(0.0, 0.5, size=(24, 1))
        found = crossing(positions, 1.5 + shifts - positions, 0.0)
        held += found.low <= 1.5 <= found.high
    assert 50 <= held <= 60


def victims(gains: dict[float, float], count: int = 6) -> dict[tuple[str, str], pd.DataFrame]:
    index = pd.RangeIndex(count, name="victim")
    return {
        (NOISE.cell_name(sigma), "auto"): pd.DataFrame(
            {"psnr": 11.0 + gain, "psnr_mean_image": 11.0, "success": float(gain > 9)}, index=index
        )
        for sigma, gain in gains.items()
    }


GAINS = {1e-5: 30.0, 1e-4: 20.0, 1e-3: 8.0, 1e-2: 0.0, 1e-1: 0.0}


def test_the_critical_strength_and_the_accuracy_there() -> None:
    accuracies = {NOISE.cell_name(sigma): 0.9 - 0.1 * i for i, sigma in enumerate(GAINS)}
    found = curves(NOISE, GAINS, victims(GAINS), accuracies)
    table = critical_strengths(NOISE, found).set_index("criterion")
    gain = table.loc["gain"]
    # 8 falls to 1 at 7/8 of the way from 1e-3 to 1e-2, on a logarithmic scale.
    assert gain["critical"] == pytest.approx(10 ** (-3 + 7 / 8), rel=1e-3)
    assert gain["accuracy"] == pytest.approx(0.7 - 0.1 * 7 / 8)
    assert (gain["side"], gain["victims"], gain["strengths"]) == ("inside", 6, 5)
    # Successes fall from all to none between 1e-4 and 1e-3.
    assert table.loc["success"]["critical"] == pytest.approx(10 ** (-4 + 0.95), rel=1e-3)


def test_the_next_strengths_halve_each_bracket() -> None:
    found = curves(NOISE, GAINS, victims(GAINS), {})
    assert refinements(NOISE, found) == pytest.approx([10**-3.5, 10**-2.5], rel=1e-3)
    more = GAINS | {refinements(NOISE, found)[0]: 12.0}
    assert len(refinements(NOISE, curves(NOISE, more, victims(more), {}))) == 2
    assert refinements(NOISE, curves(NOISE, GAINS, victims(dict.fromkeys(GAINS, 30.0)), {})) == []


def test_whole_numbers_leave_no_room_in_the_end() -> None:
    threshold = ThresholdConfig(
        name="bits",
        defense=(Quantise(),),
        strength=Strength(path="defense.0.bits", weak=4, strong=1, points=4, integer=True),
    )
    index = pd.RangeIndex(3, name="victim")
    measured = {
        (threshold.cell_name(bits), "auto"): pd.DataFrame(
            {"psnr": 11.0 + gain, "psnr_mean_image": 11.0, "success": 0.0}, index=index
        )
        for bits, gain in {4.0: 9.0, 3.0: 8.0, 2.0: 5.0, 1.0: 0.0}.items()
    }
    assert refinements(threshold, curves(threshold, [4.0, 3.0, 2.0, 1.0], measured, {})) == []


def test_only_victims_measured_at_every_strength_count() -> None:
    measured = victims(GAINS)
    first = next(iter(measured))
    measured[first] = measured[first].drop(index=[0, 1])
    assert critical_strengths(NOISE, curves(NOISE, GAINS, measured, {}))["victims"].tolist() == [4, 4]


def test_a_share_is_searched_by_what_is_left_of_it() -> None:
    threshold = ThresholdConfig(
        name="prune",
        defense=(Prune(ratio=0.9),),
        strength=Strength(path="defense.0.ratio", weak=0.5, strong=0.9999, scale="log_rest"),
    )
    assert threshold_cell(threshold, 0.99).defense == (Prune(ratio=0.99),)
