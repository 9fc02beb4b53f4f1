"""Intervals: they hold the truth about as often as they say, and say nothing where there is too little."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp

from orchestrator.analysis.intervals import FEWEST, clustered_share_interval, mean_interval, share_interval
from tests.support.benchmarks import benchmark

Draw = Callable[[np.random.Generator, int], np.ndarray]


def rarely(usual: float, rare: float) -> Draw:
    """One victim in ten near `rare`, the others within 2 dB of `usual`."""
    return lambda random, n: np.where(random.random(n) < 0.1, rare, usual + 2 * random.normal(size=n))


@pytest.mark.parametrize("size", [5, 6, 8, 16, 64])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda random, n: 14 + 3 * random.normal(size=n), 14.0),
        (lambda random, n: 10 * random.lognormal(0, 0.5, n), 10 * math.exp(0.125)),
        (lambda random, n: math.exp(0.125) - random.lognormal(0, 0.5, n), 0.0),
        (rarely(14.0, 0.0), 12.6),
        (rarely(34.0, 0.0), 30.6),
    ],
    ids=["normal", "skewed", "skewed around no gain", "one failure in ten", "one far failure in ten"],
)
def test_the_interval_of_a_mean_holds_the_truth(draw: Draw, truth: float, size: int) -> None:
    """At least 92% of the intervals; 900 samples have a standard error of 0.9%, of which two are allowed for."""
    random = np.random.default_rng(0)
    found = [mean_interval(draw(random, size)) for _ in range(900)]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.92 - 0.018


def test_students_interval_alone_would_not_do() -> None:
    """The test above can fail: with one failure in ten, Student's t holds the truth in about half of the samples."""
    random, draw = np.random.default_rng(0), rarely(34.0, 0.0)
    found = [ttest_1samp(draw(random, 6), 0.0).confidence_interval() for _ in range(300)]
    assert np.mean([one.low <= 30.6 <= one.high for one in found]) < 0.7


def test_the_interval_contains_students_and_the_mean() -> None:
    values = np.array([8.0, 12.0, 9.5, 20.0, 14.0, 11.0])
    found, plain = mean_interval(values), ttest_1samp(values, 0.0).confidence_interval()
    assert found == mean_interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low <= plain.low < found.mean < plain.high <= found.high


def test_room_is_made_towards_what_a_failed_attack_gives() -> None:
    values = np.array([30.0, 31.0, 29.0, 30.5, 29.5, 30.0])
    near, far = mean_interval(values, failed=25.0), mean_interval(values)
    assert far.low < near.low < 29.0
    same = mean_interval(values, failed=30.0)
    assert (same.low, same.high) == pytest.approx(ttest_1samp(values, 0.0).confidence_interval(0.97))


def test_the_interval_narrows_with_more_victims() -> None:
    few, many = (mean_interval(np.tile([10.0, 14.0], count)) for count in (3, 48))
    assert many.high - many.low < (few.high - few.low) / 2


@pytest.mark.parametrize("count", range(FEWEST))
def test_too_few_victims_have_a_mean_alone(count: int) -> None:
    found = mean_interval(np.array([7.0] * count + [math.nan]))
    np.testing.assert_equal(
        (found.mean, found.low, found.high), (7.0 if count else math.nan, math.nan, math.nan)
    )


def test_differences_that_are_all_0_have_no_width() -> None:
    assert (mean_interval(np.zeros(5)).low, mean_interval(np.zeros(5)).high) == (0.0, 0.0)


@pytest.mark.parametrize("victims", [1, 5, 16])
def test_shares_of_single_images_have_the_exact_interval(victims: int) -> None:
    for hits in range(victims + 1):
        found, exact = share_interval(hits / victims, victims), binomtest(hits, victims).proportion_ci()
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_none_of_sixteen_is_not_none() -> None:
    assert share_interval(0.0, 16).high == pytest.approx(1 - 0.025 ** (1 / 16))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("size", [5, 16])
def test_the_interval_of_a_share_holds_it_where_images_of_a_victim_hang_together(
    share: float, size: int
) -> None:
    random = np.random.default_rng(0)
    alike = random.binomial(8, random.beta(share, 1 - share, (400, size))) / 8
    together = random.random((400, size)) < share
    for drawn in (alike, together):
        found = [share_interval(float(row.mean()), size) for row in drawn]
        assert np.mean([one.low <= share <= one.high for one in found]) > 0.93


@pytest.mark.parametrize(("share", "victims"), [(math.nan, 3), (0.0, 0)])
def test_no_share_has_no_interval(share: float, victims: int) -> None:
    found = share_interval(share, victims)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_benchmark_of_coverage_prints_lines() -> None:
    options = ("--samples", "200", "--sizes", "6", "--only", "Student", "in use", "--json")
    done = benchmark("coverage", *options)
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines["one failure in ten, 34 +- 2 and 0; Student; n = 6"]["value"] < 70
    ours = lines["one failure in ten, 34 +- 2 and 0; in use; n = 6"]
    assert (ours["target"], ours["ok"], ours["n"]) == (92.0, True, 200)


def _hierarchical(random: np.random.Generator, seeds: int, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Gains of eight victims at each seed, 14 +- 3 dB, of which a share `alike` of the variance lies between seeds."""
    between, within = random.normal(size=(seeds, 1)), random.normal(size=(seeds, 8))
    values = 14 + 3 * (np.sqrt(alike) * between + np.sqrt(1 - alike) * within)
    return values.ravel(), np.repeat(np.arange(seeds), 8)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("alike", [0.0, 0.3, 0.8])
def test_means_over_seeds_cover_and_an_interval_over_victims_alone_does_not(seeds: int, alike: float) -> None:
    random = np.random.default_rng(seeds)
    hit, plain = [], []
    for _ in range(400):
        values, clusters = _hierarchical(random, seeds, alike)
        ours, flat = mean_interval(values, clusters=clusters), mean_interval(values)
        hit.append(ours.low <= 14 <= ours.high)
        plain.append(flat.low <= 14 <= flat.high)
        assert ours.mean == flat.mean
        assert ours.low <= flat.low
        assert ours.high >= flat.high
    assert np.mean(hit) >= 0.92
    if alike == 0.8:
        assert np.mean(plain) < 0.85


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("share", "alike"), [(0.1, 0.1), (0.1, 0.6), (0.5, 0.3)])
def test_shares_over_seeds_cover_and_an_interval_over_victims_alone_does_not(
    seeds: int, share: float, alike: float
) -> None:
    random = np.random.default_rng(seeds)
    ends = share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike
    hit, plain = [], []
    for _ in range(400):
        values = (random.random((seeds, 16)) < random.beta(*ends, (seeds, 1))).astype(float).ravel()
        ours = clustered_share_interval(float(values.mean()), values, np.repeat(np.arange(seeds), 16))
        flat = share_interval(float(values.mean()), len(values))
        hit.append(ours.low <= share <= ours.high)
        plain.append(flat.low <= share <= flat.high)
        assert 0 <= ours.low <= ours.mean <= ours.high <= 1
    assert np.mean(hit) >= 0.92
    if seeds == 10 and alike == 0.6:
        assert np.mean(plain) < 0.8


def test_two_seeds_have_no_interval_and_one_is_what_it_was() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    one, two = np.zeros(6, dtype=np.int64), np.repeat([0, 1], 3)
    assert mean_interval(values, clusters=one) == mean_interval(values)
    assert not mean_interval(values, clusters=two).bounded
    assert not clustered_share_interval(0.5, np.array([0.0, 1.0] * 3), two).bounded
    assert mean_interval(values, clusters=two).mean == 3.5


def test_seeds_of_one_victim_each_are_student_of_97_percent() -> None:
    values = np.array([11.0, 14.0, 12.0, 17.0, 16.0])
    found = mean_interval(values, failed=14.0, clusters=np.arange(5))
    arm = t.ppf(0.985, 4) * values.std(ddof=1) / np.sqrt(5)
    assert (found.low, found.high) == pytest.approx((14 - arm, 14 + arm))
