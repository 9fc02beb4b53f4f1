"""How often intervals that state 95% hold the truth: candidates side by side, by simulation.

python benchmarks/coverage.py [--samples N] [--sizes N...] [--only METHOD...] [--json]
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import result_line
from scipy.stats import bootstrap, t

from orchestrator.analysis.intervals import mean_interval, share_interval

Array = npt.NDArray[np.float64]
Bounds = tuple[Array, Array]
Random = np.random.Generator

TARGET = 92.0
RESAMPLES = 999


@dataclass(frozen=True)
class Population:
    """Gains in dB: what a sample (samples, victims) of them is drawn by, and their mean."""

    draw: Callable[[Random, tuple[int, int]], Array]
    mean: float
    bound: bool = True
    """Whether the interval in use has to reach the target."""


def mixture(share: float, rare: float, usual: float, spread: float) -> Population:
    """A share of victims near `rare`, all others near `usual`."""

    def draw(random: Random, size: tuple[int, int]) -> Array:
        centre = np.where(random.random(size) < share, rare, usual)
        width = np.where(centre == rare, 0.5, spread)
        return centre + width * random.normal(size=size)

    return Population(draw, share * rare + (1 - share) * usual, bound=rare < usual)


POPULATIONS = {
    "normal, 14 +- 3": Population(lambda random, size: 14 + 3 * random.normal(size=size), 14.0),
    "lognormal, sigma 0.5": Population(
        lambda random, size: 10 * random.lognormal(0, 0.5, size), 10 * float(np.exp(0.125))
    ),
    "lognormal around 0, sigma 0.5": Population(
        lambda random, size: random.lognormal(0, 0.5, size) - float(np.exp(0.125)), 0.0
    ),
    "one failure in ten, 14 +- 2 and 0": mixture(0.1, 0.0, 14.0, 2.0),
    "one failure in ten, 34 +- 2 and 0": mixture(0.1, 0.0, 34.0, 2.0),
    "one failure in twenty, 34 +- 2 and 0": mixture(0.05, 0.0, 34.0, 2.0),
    "three failures in ten, 34 +- 2 and 0": mixture(0.3, 0.0, 34.0, 2.0),
    "one failure in ten, worse than no attack: 14 +- 2 and -4": mixture(0.1, -4.0, 14.0, 2.0),
    "exponential": Population(lambda random, size: random.exponential(10, size), 10.0, bound=False),
    "one success in ten, 0 +- 0.5 and 10": mixture(0.1, 10.0, 0.0, 0.5),
}


def student(values: Array, _: Random) -> Bounds:
    """Student's t."""
    count = values.shape[1]
    arm = t.ppf(0.975, count - 1) * values.std(axis=1, ddof=1) / np.sqrt(count)
    return values.mean(axis=1) - arm, values.mean(axis=1) + arm


def resampled(method: str) -> Callable[[Array, Random], Bounds]:
    """One of SciPy's bootstrap intervals."""

    def bounds(values: Array, random: Random) -> Bounds:
        found = bootstrap(
            (values,), np.mean, axis=-1, n_resamples=RESAMPLES, method=method, rng=random, batch=50
        ).confidence_interval
        return found.low, found.high

    return bounds


def bootstrap_t(values: Array, random: Random) -> Bounds:
    """The studentised bootstrap; resamples without any spread are left out."""
    found = [_studentised(row, random) for row in values]
    return np.array([low for low, _ in found]), np.array([high for _, high in found])


def _studentised(row: Array, random: Random) -> tuple[float, float]:
    count = len(row)
    drawn = row[random.integers(0, count, (RESAMPLES, count))]
    spread = drawn.std(axis=1, ddof=1)
    there = spread > 0
    ratios = (drawn.mean(axis=1)[there] - row.mean()) / spread[there]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return row.mean() - high * row.std(ddof=1), row.mean() - low * row.std(ddof=1)


def hall(values: Array, _: Random) -> Bounds:
    """Student's t after Hall's transformation against skewness (JRSS B 1992)."""
    count, mean = values.shape[1], values.mean(axis=1)
    spread = values.std(axis=1, ddof=1)
    skew = ((values - mean[:, None]) ** 3).mean(axis=1) / values.std(axis=1) ** 3
    a, b = skew / 3, skew / 6
    low, high = (
        np.sqrt(count) / a * (np.cbrt(1 + 3 * a * (z / np.sqrt(count) - b / count)) - 1)
        for z in t.ppf([0.975, 0.025], count - 1)
    )
    return mean - low * spread / np.sqrt(count), mean - high * spread / np.sqrt(count)


def ours(values: Array, _: Random) -> Bounds:
    """The interval in use: Student's t of 97%, with room for one failed victim."""
    found = [mean_interval(row) for row in values]
    return np.array([one.low for one in found]), np.array([one.high for one in found])


METHODS = {
    "percentile": resampled("percentile"),
    "BCa": resampled("BCa"),
    "bootstrap-t": bootstrap_t,
    "Student": student,
    "Hall": hall,
    "in use": ours,
}


def cases(options: argparse.Namespace, random: Random) -> Iterator[dict[str, object]]:
    """A line for each population, method and size: coverage in percent, with the median width in dB."""
    for name, population in POPULATIONS.items():
        for method in options.only:
            for size in options.sizes:
                values = population.draw(random, (options.samples, size))
                low, high = METHODS[method](values, random)
                covered = 100.0 * ((low <= population.mean) & (population.mean <= high))
                target = TARGET if method == "in use" and population.bound else None
                line = result_line.line(
                    f"{name}; {method}; n = {size}", float(covered.mean()), "%", [], target=target
                )
                yield line | {"n": len(covered), "width": float(np.median(high - low))}


def shares(options: argparse.Namespace, random: Random) -> Iterator[dict[str, object]]:
    """The same of shares: of one image a victim, and of victims of eight images whose shares differ."""
    for share in (0.02, 0.1, 0.5):
        kinds: dict[str, Callable[[tuple[int, int]], Array]] = {
            "one image": lambda size, p=share: (random.random(size) < p).astype(float),  # type: ignore[misc]
            "eight images, all or none": lambda size, p=share: (random.random(size) < p).astype(float),  # type: ignore[misc]
            "eight images, shares that differ": lambda size, p=share: (  # type: ignore[misc]
                random.binomial(8, random.beta(p, 1 - p, size)) / 8
            ),
            "eight images, independent": lambda size, p=share: random.binomial(8, p, size) / 8,  # type: ignore[misc]
        }
        for name, draw in kinds.items():
            for size in options.sizes:
                found = [share_interval(float(row.mean()), size) for row in draw((options.samples, size))]
                covered = [100.0 * (one.low <= share <= one.high) for one in found]
                label = f"share {share:g}, {name}; n = {size}"
                line = result_line.line(label, float(np.mean(covered)), "%", [], target=TARGET)
                width = float(np.median([one.high - one.low for one in found]))
                yield line | {"n": len(covered), "width": width}


def main() -> int:
    """Simulate and print; exit code 1 where an interval in use holds the truth less often than it has to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 6, 8, 16, 64])
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    good = True
    for line in chain(cases(options, random), shares(options, random)):
        good &= bool(line["ok"])
        if options.json:
            print(json.dumps(line), flush=True)
        else:
            missed = "" if line["ok"] else " MISSED"
            print(f"{line['name']:85s} {line['value']:5.1f}%, width {line['width']:.3g}{missed}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
