"""What would stop it: the strength of a defense at which the attack on this update falls to the level of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.dp.local import DPUpdate
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import unknown_name

if TYPE_CHECKING:
    from defenses.chain import AnyDefense
    from fl_core.base.types import Tensors
    from orchestrator.calibration.calibrate import Calibration
    from orchestrator.calibration.prediction import Expected

TRIED = ("prune", "noise", "dp_update", "quantise", "sign")
"""The defenses that an audit tries, by name."""
GAIN = 1.0
"""In dB above the mean public image: an attack that gains no more is at the level of the prior."""
_HALVINGS = 2
"""How often the gap between the last strength that fails and the first that holds is halved."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A defense of which one setting is the strength: `make` builds it, `grid` goes from weak to strong.

    `between` halves the gap of two strengths; None where there is nothing between.
    """

    setting: str
    make: Callable[[float], AnyDefense]
    grid: tuple[float, ...]
    between: Callable[[float, float], float] | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One strength: what the adaptive attack reaches on simulated clients, and what is expected of this update.

    `expected` is the mean over the update's images.
    """

    strength: float
    expected: Expected
    mean: float
    gain: float
    bytes_up: int | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Critical:
    """A defense's strengths, weakest first, and the first one that holds; None where none of them does."""

    name: str
    setting: str
    measured: tuple[Measured, ...]

    @property
    def strength(self) -> Measured | None:
        """The weakest strength from which on the gain stays at most `GAIN`."""
        held: Measured | None = None
        for each in reversed(self.measured):
            if each.gain > GAIN:
                break
            held = each
        return held


def families(tensors: Tensors) -> Mapping[str, Family]:
    """Those in `TRIED`, with strengths that suit the size of this update."""
    from fl_core.base.decibels import energy

    count = sum(value.numel() for value in tensors.values())
    norm = math.sqrt(sum(energy(value) for value in tensors.values()))
    size = norm / math.sqrt(count)
    return {
        "prune": Family(
            setting="ratio",
            make=lambda ratio: Prune(ratio=ratio),
            grid=(0.5, 0.9, 0.99, 0.999, 0.9999),
            between=lambda low, high: 1 - math.sqrt((1 - low) * (1 - high)),
        ),
        "noise": Family(
            setting="sigma",
            make=lambda sigma: NoiseOnly(sigma=sigma),
            grid=tuple(size * factor for factor in (0.01, 0.1, 1.0, 10.0, 100.0)),
            between=lambda low, high: math.sqrt(low * high),
        ),
        "dp_update": Family(
            setting="epsilon",
            make=lambda epsilon: DPUpdate(epsilon=epsilon, delta=1e-5, max_norm=norm, budget="release"),
            grid=(10000.0, 1000.0, 100.0, 10.0, 1.0),
            between=lambda low, high: math.sqrt(low * high),
        ),
        "quantise": Family(
            setting="bits",
            make=lambda bits: Quantise(bits=int(bits)),
            grid=(8.0, 4.0, 2.0, 1.0),
            between=None,
        ),
        "sign": Family(setting="bits", make=lambda _: SignOnly(), grid=(1.0,), between=None),
    }


def chosen_families(names: Sequence[str], tensors: Tensors) -> dict[str, Family]:
    """Those of `families` with these names; raises `InputError` for others."""
    check_tried(names)
    known = families(tensors)
    return {name: known[name] for name in names}


def check_tried(names: Sequence[str]) -> None:
    """Raise `InputError` for a name that is not in `TRIED`."""
    for name in names:
        if name not in TRIED:
            raise unknown_name("defense after --against", name, TRIED)


def search(name: str, family: Family, measure: Callable[[AnyDefense, float], Measured]) -> Critical:
    """Measure the grid until one strength holds, then halve the gap before it."""
    found: list[Measured] = []
    for strength in family.grid:
        found.append(measure(family.make(strength), strength))
        if found[-1].gain <= GAIN:
            break
    if len(found) > 1 and found[-1].gain <= GAIN and family.between is not None:
        low, high = found[-2], found[-1]
        for _ in range(_HALVINGS):
            strength = family.between(low.strength, high.strength)
            middle = measure(family.make(strength), strength)
            found.append(middle)
            low, high = (low, middle) if middle.gain <= GAIN else (middle, high)
    order = sorted(found, key=lambda each: each.strength, reverse=family.grid[0] > family.grid[-1])
    return Critical(name=name, setting=family.setting, measured=tuple(order))


def gain_of(calibration: Calibration) -> float:
    """How far simulated answers are above the mean public image on average, in dB."""
    return calibration.mean - calibration.prior
