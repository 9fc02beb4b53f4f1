"""Feature inversion: images from layer inputs, by continuation in preconditioned coordinates."""

from __future__ import annotations

from attack_core.inversion.continuation import Descent, Mismatch
from attack_core.inversion.explained import UNEXPLAINED, Explained
from attack_core.inversion.features import FeatureInverter, along_path, drift_errors
from attack_core.inversion.refinement import NextLayer, equations_mismatch

__all__ = [
    "along_path",
    "Descent",
    "drift_errors",
    "equations_mismatch",
    "Explained",
    "FeatureInverter",
    "Mismatch",
    "NextLayer",
    "UNEXPLAINED",
]
