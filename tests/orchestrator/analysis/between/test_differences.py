"""Differences, ranks and fronts: against scipy, hand-computed values, and what their names promise in simulations."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.between.differences import (
    DRAWS,
    EXACT,
    holm,
    least_p,
    paired,
    ranks,
    sign_flips,
    unpaired,
)
from orchestrator.analysis.between.standing import front
from orchestrator.analysis.intervals import mean_interval

NOWHERE = float("nan")


def figures(columns: dict[str, Any], *, seeds: int = 1) -> pd.DataFrame:
    """Figures of so many victims a seed as the columns are long, divided by the seeds."""
    count = len(next(iter(columns.values()))) // seeds
    index = pd.MultiIndex.from_product([range(seeds), range(count)], names=["sweep_seed", "victim"])
    return pd.DataFrame(columns, index=index)


def one_seed(count: int) -> np.ndarray[Any, Any]:
    return np.zeros(count, dtype=np.int64)


@pytest.mark.parametrize("count", [2, 5, 9, 12])
def test_signs_are_counted_as_scipy_counts_them(count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 1.0, size=(count, 3))
    for column, p in zip(values.T, sign_flips(values, one_seed(count)), strict=True):
        theirs = stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        )
        assert p == pytest.approx(theirs.pvalue)


def test_three_signs_by_hand() -> None:
    # Sums over all signs of 1, 2, 4: +-7, +-5, +-3, +-1; two of eight reach 7.
    assert sign_flips(np.array([[1.0], [2.0], [4.0]]), one_seed(3)) == pytest.approx([2 / 8])
    # 1, 2, -4: the sum is -1, which all reach.
    assert sign_flips(np.array([[1.0], [2.0], [-4.0]]), one_seed(3)) == pytest.approx([1.0])


def test_many_victims_are_drawn_and_agree_with_the_t_test() -> None:
    values = np.random.default_rng(1).normal(0.25, 1.0, size=(100, 1))
    p = sign_flips(values, one_seed(100))
    theirs = stats.ttest_1samp(values[:, 0], 0.0).pvalue
    assert p == pytest.approx([theirs], abs=4 * np.sqrt(theirs / DRAWS) + 0.002)
    assert (p == sign_flips(values, one_seed(100))).all()
    assert sign_flips(np.full((100, 1), 3.0), one_seed(100)) == pytest.approx([1 / (DRAWS + 1)])


def test_a_victim_that_one_column_lacks_changes_nothing_in_the_others() -> None:
    values = np.random.default_rng(2).normal(1.0, 1.0, size=(8, 2))
    values[3, 1] = NOWHERE
    both = sign_flips(values, one_seed(8))
    assert both[0] == sign_flips(values[:, :1], one_seed(8))[0]
    assert both[1] == pytest.approx(sign_flips(np.delete(values[:, 1:], 3, axis=0), one_seed(7))[0])
    assert np.isnan(sign_flips(np.full((4, 1), NOWHERE), one_seed(4))).all()


def test_victims_of_a_seed_change_signs_together() -> None:
    seeds = np.repeat([7, 8, 9], 20)
    p = sign_flips(np.ones((60, 1)), seeds)
    assert p == pytest.approx([2 / 8]), "three seeds have eight signs, however many victims"


@pytest.mark.parametrize("victims", [6, 20])
def test_p_is_below_its_level_no_more_often_than_it_says(victims: int) -> None:
    random = np.random.default_rng(victims)
    # Differences of two skewed sides that are alike: lognormal minus lognormal.
    values = random.lognormal(sigma=0.8, size=(2, victims, 2000))
    p = sign_flips(values[0] - values[1], one_seed(victims))
    for level in (0.05, 0.25):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 2000)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, NOWHERE, 0.6])) == pytest.approx([1.0, NOWHERE, 1.0], nan_ok=True)
    assert len(holm(np.empty(0))) == 0


def test_differences_are_paired_and_have_the_interval_of_means() -> None:
    table = figures(
        {"none": [40.0, 42.0, 38.0, 41.0, 45.0, 44.0], "dp": [9.0, 10.0, 8.0, 12.0, 9.0, NOWHERE]}
    )
    found = paired(table, [("none", "dp")]).iloc[0]
    apart = np.array([31.0, 32.0, 30.0, 29.0, 36.0])
    expected = mean_interval(apart)
    assert (found["n"], found["seeds"]) == (5, 1)
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert found["p"] == pytest.approx(2 / 2**5)
    assert found["p_holm"] == found["p"]
    assert paired(table, []).empty


def test_corrected_p_is_over_all_pairs() -> None:
    random = np.random.default_rng(3)
    table = figures({name: random.normal(shift, 1.0, 12) for name, shift in (("a", 0), ("b", 2), ("c", 9))})
    found = paired(table, [("a", "b"), ("a", "c"), ("b", "c")])
    assert list(found["p_holm"]) == pytest.approx(list(holm(found["p"].to_numpy())))
    assert (found["p_holm"] >= found["p"]).all()


def values(found: Any, *, seeds: int = 1) -> pd.Series[float]:
    return figures({"psnr": found}, seeds=seeds)["psnr"]


def test_unpaired_agrees_with_scipy_and_its_interval_joins_those_of_the_means() -> None:
    random = np.random.default_rng(4)
    one, other = random.normal(3.0, 1.0, 6), random.normal(1.0, 2.0, 7)
    found = unpaired(values(one), values(other), failed=(0.0, 0.0)).iloc[0]
    theirs = stats.permutation_test(
        (one, other), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf, vectorized=False
    )
    assert found["p"] == pytest.approx(theirs.pvalue)
    a, b = mean_interval(one), mean_interval(other)
    assert found["difference"] == pytest.approx(one.mean() - other.mean())
    assert found["low"] == pytest.approx(a.mean - b.mean - np.hypot(a.mean - a.low, b.high - b.mean))
    assert found["high"] == pytest.approx(a.mean - b.mean + np.hypot(a.high - a.mean, b.mean - b.low))
    few = unpaired(values(one[:4]), values(other)).iloc[0]
    assert np.isnan(few["low"])
    assert few["n"] == 4


def test_unpaired_seeds_are_what_exchanges_sides() -> None:
    spread = np.random.default_rng(10).normal(0.0, 0.1, size=(2, 3, 20))
    one, other = spread[0] + [[1.0], [2.0], [3.0]], spread[1] + [[6.0], [7.0], [8.0]]
    found = unpaired(values(one.ravel(), seeds=3), values(other.ravel(), seeds=3)).iloc[0]
    # Three seeds a side can be dealt in 20 ways, and two are as far apart as this.
    assert found["p"] == pytest.approx(2 / 20)
    assert np.isnan(unpaired(values(one[0]), values(other.ravel(), seeds=3)).iloc[0]["p"])


@pytest.mark.parametrize("sizes", [(5, 5), (8, 16), (16, 16)])
def test_the_interval_of_unpaired_means_holds_its_level(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(sizes))
    held = 0
    for _ in range(400):
        one, other = random.normal(14.0, 3.0, sizes[0]), random.lognormal(0.5, 0.5, sizes[1])
        a, b = mean_interval(one), mean_interval(other)
        apart = a.mean - b.mean
        low = apart - np.hypot(a.mean - a.low, b.high - b.mean)
        high = apart + np.hypot(a.high - a.mean, b.mean - b.low)
        held += low <= 14.0 - np.exp(0.5 + 0.125) <= high
    assert held >= 400 * 0.95 - 3 * np.sqrt(400 * 0.95 * 0.05)


def test_ranks_of_what_lies_far_apart_are_sure() -> None:
    spread = np.random.default_rng(5).normal(0.0, 0.1, size=(3, 12))
    table = ranks(figures({"high": 9 + spread[0], "low": 1 + spread[1], "middle": 4 + spread[2]}))
    assert list(table["name"]) == ["low", "middle", "high"]
    assert [(r.rank, r.rank_low, r.rank_high, r.alike) for r in table.itertuples()] == [
        (1, 1, 1, 0),
        (2, 2, 2, 0),
        (3, 3, 3, 0),
    ]


def test_ranks_of_what_is_alike_are_open() -> None:
    base = np.random.default_rng(6).normal(5.0, 1.0, 12)
    noise = np.random.default_rng(7).normal(0.0, 0.5, size=(2, 12))
    table = ranks(figures({"one": base + noise[0], "other": base + noise[1], "far": base + 20}))
    table = table.set_index("name")
    for name in ("one", "other"):
        assert (table.loc[name, "rank_low"], table.loc[name, "rank_high"]) == (1, 2)
        assert table.loc[name, "alike"] == 1
    assert (table.loc["far", "rank_low"], table.loc["far", "rank_high"]) == (3, 3)


def test_too_few_victims_say_nothing_of_ranks() -> None:
    table = ranks(figures({"a": [1.0] * 4, "b": [20.0] * 4}))
    assert [(r.rank_low, r.rank_high) for r in table.itertuples()] == [(1, 2), (1, 2)]
    assert least_p(4, 1) == 0.125
    assert least_p(6, 17) == pytest.approx(17 / 32)
    assert least_p(EXACT + 1, 1) == 1 / (DRAWS + 1)


@pytest.mark.slow
def test_rank_intervals_hold_the_true_rank() -> None:
    random, truth, held = np.random.default_rng(8), {"a": 0.0, "b": 0.5, "c": 0.6, "d": 3.0}, 0
    for _ in range(200):
        shared = random.normal(0.0, 2.0, 14)
        drawn = {name: mean + shared + random.normal(0.0, 0.7, 14) for name, mean in truth.items()}
        table = ranks(figures(drawn)).set_index("name")
        held += all(
            table.loc[name, "rank_low"] <= place <= table.loc[name, "rank_high"]
            for place, name in enumerate(truth, start=1)
        )
    assert held >= 0.95 * 200 - 3 * np.sqrt(200 * 0.05 * 0.95)


def test_front_by_hand() -> None:
    table = pd.DataFrame(
        {
            "leak": [37.0, 0.3, 0.2, 0.3, 5.0, 1.0],
            "accuracy": [0.80, 0.70, 0.60, 0.70, 0.85, NOWHERE],
            "bytes_up": [4.0, 4.0, 4.0, 9.0, 1.0, 4.0],
        },
        index=["none", "good", "strict", "costly", "cheap", "unknown"],
    )
    assert list(table.index[front(table)]) == ["good", "strict", "cheap"]
    assert list(front(pd.concat([table, table]))) == list(front(table)) * 2, "equal rows are both on it"


def test_front_is_what_its_definition_says() -> None:
    random = np.random.default_rng(9)
    table = pd.DataFrame(
        random.integers(0, 4, size=(40, 3)).astype(float), columns=["leak", "accuracy", "bytes_up"]
    )
    signed = table.to_numpy() * [1, -1, 1]
    for i, j in product(range(40), repeat=2):
        if (signed[j] <= signed[i]).all() and (signed[j] < signed[i]).any():
            assert not front(table)[i]
    for i in np.flatnonzero(~front(table)):
        assert any((signed[j] <= signed[i]).all() and (signed[j] < signed[i]).any() for j in range(40))
