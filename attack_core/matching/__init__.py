"""Gradient matching: the one loop, its candidates and optimizers."""

from __future__ import annotations

from attack_core.matching.candidates import EarlyStop
from attack_core.matching.features import FeatureTarget
from attack_core.matching.matching import Matching, Preset, at_the_mean
from attack_core.matching.optimizers import OptimizerName, Schedule
from attack_core.matching.presets import inverting_gradients, soft_matching

__all__ = [
    "at_the_mean",
    "EarlyStop",
    "FeatureTarget",
    "inverting_gradients",
    "Matching",
    "OptimizerName",
    "Preset",
    "Schedule",
    "soft_matching",
]
