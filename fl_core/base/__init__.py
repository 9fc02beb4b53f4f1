"""What everything rests on: errors, randomness, shared types, devices, decibels."""

from __future__ import annotations

from fl_core.base.decibels import FAR, decibels, energy, scaled
from fl_core.base.device import (
    DEVICES,
    blanket_fallback,
    exact,
    peak_mb,
    pick_device,
    reset_peak,
    synchronise,
)
from fl_core.base.errors import (
    InputError,
    NotSummable,
    first_line,
    hint,
    listed,
    natural,
    one_line,
    unknown_name,
)
from fl_core.base.rng import Random, derive_seed, generator, normal, stream, uniform
from fl_core.base.types import (
    ClientUpdate,
    Config,
    EarlierUpdate,
    ModelState,
    OpenedSum,
    Protection,
    Signal,
    Tensors,
    Truth,
    clipped_to_zeros,
    require,
)

__all__ = [
    "blanket_fallback",
    "ClientUpdate",
    "clipped_to_zeros",
    "Config",
    "decibels",
    "derive_seed",
    "DEVICES",
    "EarlierUpdate",
    "energy",
    "exact",
    "FAR",
    "first_line",
    "generator",
    "hint",
    "InputError",
    "listed",
    "ModelState",
    "natural",
    "normal",
    "NotSummable",
    "one_line",
    "OpenedSum",
    "peak_mb",
    "pick_device",
    "Protection",
    "Random",
    "require",
    "reset_peak",
    "scaled",
    "Signal",
    "stream",
    "synchronise",
    "Tensors",
    "Truth",
    "uniform",
    "unknown_name",
]
