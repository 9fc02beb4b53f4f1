"""How often intervals that state 95% hold the truth: candidates side by side, by simulation.

python benchmarks/coverage.py [--samples N] [--sizes N...] [--only METHOD...] [--seeds] [--json]
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

from orchestrator.analysis.intervals import clustered_share_interval, mean_interval, share_interval

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


def _alike(share: float, spread: float, failures: float = 0.0) -> Callable[[Random, int], Array]:
    """Gains of eight victims at each seed around 14 dB, of whose variance a share lies between seeds."""

    def draw(random: Random, seeds: int) -> Array:
        between, within = random.normal(size=(seeds, 1)), random.normal(size=(seeds, VICTIMS))
        values = 14 + spread * (np.sqrt(share) * between + np.sqrt(1 - share) * within)
        return np.where(random.random(values.shape) < failures, 0.0, values)

    return draw


VICTIMS = 8
HIERARCHIES: dict[str, tuple[Callable[[Random, int], Array], float]] = {
    "normal, seeds do not matter": (_alike(0.0, 3.0), 14.0),
    "normal, a fifth of the variance between seeds": (_alike(0.2, 3.0), 14.0),
    "normal, four fifths between seeds": (_alike(0.8, 3.0), 14.0),
    "one failure in ten, three tenths between seeds": (_alike(0.3, 2.0, 0.1), 12.6),
    "lognormal between seeds, sigma 0.5": (
        lambda random, seeds: (
            10 * random.lognormal(0, 0.5, (seeds, 1)) * random.lognormal(0, 0.2, (seeds, VICTIMS))
        ),
        10 * float(np.exp(0.145)),
    ),
}
"""Gains (seeds, victims), and their mean."""


def _by_victims(values: Array, _: Random) -> tuple[float, float]:
    found = mean_interval(values.ravel())
    return found.low, found.high


def _resampled_seeds(values: Array, random: Random) -> tuple[float, float]:
    means = values.mean(axis=1)
    low, high = np.quantile(
        means[random.integers(0, len(means), (500, len(means)))].mean(axis=1), [0.025, 0.975]
    )
    return float(low), float(high)


def _student_of_seeds(values: Array, _: Random) -> tuple[float, float]:
    low, high = student(values.mean(axis=1)[None], _)
    return float(low[0]), float(high[0])


def _ours_of_seeds(values: Array, _: Random) -> tuple[float, float]:
    found = mean_interval(values.ravel(), clusters=np.repeat(np.arange(len(values)), values.shape[1]))
    return found.low, found.high


SEEDED = {
    "over victims": _by_victims,
    "cluster bootstrap": _resampled_seeds,
    "Student over seeds": _student_of_seeds,
    "in use": _ours_of_seeds,
}


def seeded(options: argparse.Namespace, random: Random) -> Iterator[dict[str, object]]:
    """Means over several seeds, by method."""
    for name, (draw, truth) in HIERARCHIES.items():
        for method, bounds in SEEDED.items():
            for seeds in (3, 5, 10):
                found = np.array([bounds(draw(random, seeds), random) for _ in range(options.samples)])
                covered = 100.0 * ((found[:, 0] <= truth) & (truth <= found[:, 1]))
                target = TARGET if method == "in use" else None
                label = f"{name}; {method}; {seeds} seeds"
                line = result_line.line(label, float(covered.mean()), "%", [], target=target)
                yield line | {"n": len(covered), "width": float(np.median(found[:, 1] - found[:, 0]))}


def seeded_shares(options: argparse.Namespace, random: Random) -> Iterator[dict[str, object]]:
    """Shares over several seeds of 16 victims, whose true shares follow a beta distribution."""
    for share in (0.02, 0.1, 0.5):
        for alike in (0.1, 0.3, 0.6):
            ends = share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike
            for seeds in (3, 5, 10):
                clusters, found = np.repeat(np.arange(seeds), 16), []
                for _ in range(options.samples):
                    hits = random.random((seeds, 16)) < random.beta(*ends, (seeds, 1))
                    values = hits.astype(float).ravel()
                    found.append(clustered_share_interval(float(values.mean()), values, clusters))
                covered = [100.0 * (one.low <= share <= one.high) for one in found]
                label = f"share {share:g}, correlation {alike:g} within a seed; in use; {seeds} seeds"
                line = result_line.line(label, float(np.mean(covered)), "%", [], target=TARGET)
                yield line | {
                    "n": len(covered),
                    "width": float(np.median([one.high - one.low for one in found])),
                }


def main() -> int:
    """Simulate and print; exit code 1 where an interval in use holds the truth less often than it has to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 6, 8, 16, 64])
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", action="store_true", help="intervals over several seeds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    good = True
    parts = (seeded, seeded_shares) if options.seeds else (cases, shares)
    for line in chain.from_iterable(part(options, random) for part in parts):
        good &= bool(line["ok"])
        if options.json:
            print(json.dumps(line), flush=True)
        else:
            missed = "" if line["ok"] else " MISSED"
            print(f"{line['name']:85s} {line['value']:5.1f}%, width {line['width']:.3g}{missed}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
