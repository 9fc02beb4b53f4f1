"""Critical strengths: scales, curves that fall, where they cross, how sure that is, and where to look next."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.compression.compression import Prune, Quantise
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from orchestrator.analysis.crossing import Crossing, Ends, crossing
from orchestrator.analysis.strength import critical_frame, critical_strengths, curves, refinements
from orchestrator.config.parse import threshold_cell, threshold_cells
from orchestrator.config.scale import Strength
from orchestrator.config.sweep import ThresholdConfig
from orchestrator.report.terminal import critical_notes

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


@given(weak=st.floats(1e-9, 1e9), strong=st.floats(1e-9, 1e9), points=st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_a_grid_has_the_places_of_numpys(weak: float, strong: float, points: int) -> None:
    if f"{weak:.4g}" == f"{strong:.4g}":
        return
    strength = Strength(path="x", weak=weak, strong=strong, points=points)
    ends = (strength.position(weak), strength.position(strong))
    places = np.linspace(*ends, points).tolist()
    assert strength.grid() == list(dict.fromkeys(strength.value(place) for place in places))


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
    assert [found.victims.weaker, found.victims.stronger] == pytest.approx([8.0 / 3.0, 8.0 / 3.0])
    assert found.bracket == found.interval == Ends(weaker=2.0, stronger=3.0)


def test_a_curve_that_rises_in_between_is_made_to_fall() -> None:
    """2 and 4 pool to 3, so the level 3.5 lies between 5 and 3."""
    found = crossing(np.arange(4.0), np.array([[5.0, 2.0, 4.0, 0.0]]), 3.5)
    assert found.position == pytest.approx(0.75)
    assert found.bracket == Ends(weaker=0.0, stronger=1.0)


@pytest.mark.parametrize(
    ("level", "side", "end", "bracket"),
    [
        (20.0, "before", 0.0, Ends(weaker=-math.inf, stronger=0.0)),
        (-1.0, "after", 3.0, Ends(weaker=3.0, stronger=math.inf)),
    ],
)
def test_curves_that_do_not_cross_are_bounds(level: float, side: str, end: float, bracket: Ends) -> None:
    positions, values = np.arange(4.0), np.tile([9.0, 6.0, 3.0, 0.0], (5, 1))
    found = crossing(positions, values, level)
    assert (found.side, found.position) == (side, end)
    assert found.bracket == found.interval == bracket
    assert found.wide_gaps(positions) == []


def test_a_cliff_inside_a_bracket_is_no_nearer_known_than_the_bracket() -> None:
    """Every victim falls at the same place between 1 and 2: where, no number of victims tells."""
    positions = np.arange(4.0)
    values = np.random.default_rng(0).normal([20.0, 20.0, 0.0, 0.0], 0.3, (16, 4))
    found = crossing(positions, values, 1.0)
    assert found.interval == found.bracket == Ends(weaker=1.0, stronger=2.0)
    assert found.victims.stronger - found.victims.weaker < 0.1
    assert found.wide_gaps(positions) == [found.bracket]


def test_a_resample_counts_with_the_bracket_that_it_crosses_in() -> None:
    """Half of the victims fall before 1 and half after: the mean crosses in one bracket, resamples in two."""
    positions = np.arange(4.0)
    values = np.array([[9.0, 0.0, 0.0, 0.0]] * 8 + [[9.0, 9.0, 0.0, 0.0]] * 8)
    found = crossing(positions, values, 4.4)
    assert found.bracket == Ends(weaker=1.0, stronger=2.0)
    assert found.interval == Ends(weaker=0.0, stronger=2.0)
    assert found.interval.weaker < found.victims.weaker < 1.0 < found.victims.stronger < 2.0


def test_gaps_are_wide_until_victims_are_what_limits_the_interval() -> None:
    random = np.random.default_rng(3)
    shifts = random.normal(0.0, 0.5, size=(16, 1))
    coarse, fine = np.linspace(0.0, 4.0, 5), np.linspace(0.0, 4.0, 33)
    assert crossing(coarse, 9.0 * (1.5 + shifts - coarse), 0.0).wide_gaps(coarse)
    assert crossing(fine, 9.0 * (1.5 + shifts - fine), 0.0).wide_gaps(fine) == []


def test_there_is_no_interval_below_five_victims() -> None:
    positions, values = np.arange(3.0), np.tile([9.0, 3.0, 0.0], (5, 1))
    for count in (1, 4):
        found = crossing(positions, values[:count], 1.0)
        assert found.bracket == Ends(weaker=1.0, stronger=2.0)
        assert np.isnan([found.interval.weaker, found.interval.stronger]).all()
        assert found.wide_gaps(positions) == [found.bracket]
    assert crossing(positions, values, 1.0).interval == Ends(weaker=1.0, stronger=2.0)


def test_none_of_twenty_leaves_open_more_than_one_in_twenty() -> None:
    """A share of 5% has 0 of 20 in one of three samples: only many more say that less than 5% is recovered."""
    positions = np.arange(3.0)

    def found(victims: int) -> Crossing:
        return crossing(positions, np.tile([1.0, 0.0, 0.0], (victims, 1)), 0.05, shares=True)

    assert found(20).bracket == found(100).bracket == Ends(weaker=0.0, stronger=1.0)
    assert found(20).interval == Ends(weaker=0.0, stronger=math.inf)
    assert found(100).interval == Ends(weaker=0.0, stronger=1.0)


def smooth(x: np.ndarray) -> np.ndarray:
    return 20.0 / (1.0 + np.exp(3.0 * (x - 2.0)))


def cliff(x: np.ndarray) -> np.ndarray:
    return np.where(x < 2.2, 20.0, 0.0)


@pytest.mark.parametrize("victims", [5, 16])
@pytest.mark.parametrize(
    ("curve", "truth"), [(smooth, 2.0 + math.log(19.0) / 3.0), (cliff, 2.2)], ids=["smooth", "cliff"]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    curve: Callable[[np.ndarray], np.ndarray], truth: float, victims: int
) -> None:
    """On five strengths, wherever these lie; the bootstrap over victims alone holds it in half of the cases at best."""
    random, held, alone, runs = np.random.default_rng(victims), 0, 0, 15
    for _ in range(runs):
        positions = np.arange(5.0) + random.uniform(0.0, 1.0)
        own = 1.0 + 0.25 * random.normal(size=(victims, 1))
        values = curve(positions) * own + random.normal(0.0, 0.8, (victims, 5))
        found = crossing(positions, values, 1.0)
        held += found.interval.weaker <= truth <= found.interval.stronger
        alone += found.victims.weaker <= truth <= found.victims.stronger
    assert held >= 0.92 * runs
    assert alone < 0.7 * runs


def victims(
    gains: dict[float, float], count: int = 6, images: int = 4
) -> dict[tuple[str, str], pd.DataFrame]:
    index = pd.RangeIndex(count, name="victim")
    return {
        (NOISE.cell_name(sigma), "auto"): pd.DataFrame(
            {"psnr": 11.0 + gain, "psnr_control": 11.0, "success": float(gain > 9), "images": images},
            index=index,
        )
        for sigma, gain in gains.items()
    }


GAINS = {1e-5: 30.0, 1e-4: 20.0, 1e-3: 8.0, 1e-2: 0.0, 1e-1: 0.0}


def test_the_critical_strength_and_the_accuracy_there() -> None:
    accuracies = {NOISE.cell_name(sigma): 0.9 - 0.1 * i for i, sigma in enumerate(GAINS)}
    found = curves(NOISE, GAINS, victims(GAINS), accuracies)
    table = critical_frame(critical_strengths(NOISE, found)).set_index("criterion")
    gain = table.loc["gain"]
    # 8 falls to 1 at 7/8 of the way from 1e-3 to 1e-2, on a logarithmic scale.
    assert gain["critical"] == pytest.approx(10 ** (-3 + 7 / 8), rel=1e-3)
    assert gain["accuracy"] == pytest.approx(0.7 - 0.1 * 7 / 8)
    assert (gain["side"], gain["victims"], gain["strengths"]) == ("inside", 6, 5)
    # Successes fall from all to none between 1e-4 and 1e-3.
    assert table.loc["success"]["critical"] == pytest.approx(10 ** (-4 + 0.95), rel=1e-3)
    # Six victims that are all alike: the interval is the bracket, which is what is left to refine.
    assert gain[["bracket_weaker", "bracket_stronger"]].tolist() == [1e-3, 1e-2]
    assert gain[["weaker", "stronger"]].tolist() == [1e-3, 1e-2]
    assert not gain["resolved"]


def test_a_level_that_the_images_cannot_show_is_refused() -> None:
    """5% of 16 images is less than one; in its place stands from where on none is recovered, without an interval."""
    measured = victims(GAINS, count=16, images=1)
    lines = critical_strengths(NOISE, curves(NOISE, GAINS, measured, {}))
    table = critical_frame(lines).set_index("criterion")
    refused, none = table.loc["success"], table.loc["none"]
    assert refused["side"] == "refused"
    assert refused[["critical", "weaker", "bracket_weaker"]].isna().all()
    assert none["critical"] == 1e-3
    assert none[["bracket_weaker", "bracket_stronger"]].tolist() == [1e-4, 1e-3]
    assert none[["weaker", "stronger"]].isna().all()
    text = " ".join(critical_notes(lines))
    assert "5% of 16 images is less than one image" in text
    enough = critical_strengths(NOISE, curves(NOISE, GAINS, victims(GAINS, count=20, images=1), {}))
    assert [(line.criterion.name, line.side) for line in enough] == [
        ("gain", "inside"),
        ("success", "inside"),
    ]


def test_none_is_recovered_only_beyond_the_last_that_is() -> None:
    measured = victims(GAINS, count=6, images=1)
    last = measured[NOISE.cell_name(1e-2), "auto"]
    last.loc[3, "success"] = 1.0
    table = critical_frame(critical_strengths(NOISE, curves(NOISE, GAINS, measured, {}))).set_index(
        "criterion"
    )
    assert table.loc["none"][["bracket_weaker", "bracket_stronger"]].tolist() == [1e-2, 1e-1]
    assert table.loc["none"]["critical"] == 1e-1


def test_the_next_strengths_halve_each_bracket() -> None:
    found = curves(NOISE, GAINS, victims(GAINS), {})
    assert refinements(NOISE, found) == pytest.approx([10**-3.5, 10**-2.5], rel=1e-3)
    more = GAINS | {refinements(NOISE, found)[0]: 12.0}
    assert len(refinements(NOISE, curves(NOISE, more, victims(more), {}))) == 2
    assert refinements(NOISE, curves(NOISE, GAINS, victims(dict.fromkeys(GAINS, 30.0)), {})) == []


def test_strengths_are_added_until_victims_are_what_limits_the_interval() -> None:
    """Sixteen victims whose gain falls to 1 dB at strengths that differ by a factor of two or so."""
    shift = np.random.default_rng(2).normal(0.0, 0.3, 16)

    def victims_at(sigma: float) -> pd.DataFrame:
        gain = 20.0 / (1.0 + np.exp(3.0 * (math.log10(sigma) + 3.0 + shift)))
        recovered = (gain > 15.0).astype(float)
        return pd.DataFrame({"psnr": 11.0 + gain, "psnr_control": 11.0, "success": recovered, "images": 2})

    values, widths = NOISE.strength.grid(), []
    for _ in range(6):
        measured = {(NOISE.cell_name(sigma), "auto"): victims_at(sigma) for sigma in values}
        found = curves(NOISE, values, measured, {})
        table, new = critical_frame(critical_strengths(NOISE, found)), refinements(NOISE, found)
        widths.append(np.log10(table["stronger"] / table["weaker"]))
        assert table["resolved"].all() == (not new)
        if not new:
            break
        values += new
    assert len(widths) > 2
    assert not new
    assert (widths[-1] < widths[0] / 2.0)[table["criterion"] == "gain"].all()


def test_whole_numbers_leave_no_room_in_the_end() -> None:
    threshold = ThresholdConfig(
        name="bits",
        defense=(Quantise(),),
        strength=Strength(path="defense.0.bits", weak=4, strong=1, points=4, integer=True),
    )
    index = pd.RangeIndex(3, name="victim")
    measured = {
        (threshold.cell_name(bits), "auto"): pd.DataFrame(
            {"psnr": 11.0 + gain, "psnr_control": 11.0, "success": 0.0, "images": 1}, index=index
        )
        for bits, gain in {4.0: 9.0, 3.0: 8.0, 2.0: 5.0, 1.0: 0.0}.items()
    }
    assert refinements(threshold, curves(threshold, [4.0, 3.0, 2.0, 1.0], measured, {})) == []


def test_only_victims_measured_at_every_strength_count() -> None:
    measured = victims(GAINS)
    first = next(iter(measured))
    measured[first] = measured[first].drop(index=[0, 1])
    lines = critical_strengths(NOISE, curves(NOISE, GAINS, measured, {}))
    assert [line.victims for line in lines] == [4, 4, 4]


def test_a_share_is_searched_by_what_is_left_of_it() -> None:
    threshold = ThresholdConfig(
        name="prune",
        defense=(Prune(ratio=0.9),),
        strength=Strength(path="defense.0.ratio", weak=0.5, strong=0.9999, scale="log_rest"),
    )
    assert threshold_cell(threshold, 0.99).defense == (Prune(ratio=0.99),)
