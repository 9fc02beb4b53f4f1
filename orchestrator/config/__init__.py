"""Sweep files: their schema, parsing, search spaces, scales of strength, addresses."""

from __future__ import annotations

from orchestrator.config.address import PASSWORD
from orchestrator.config.parse import (
    build,
    cell_settings,
    load_sweep,
    put,
    suggested_attack,
    threshold_cells,
    threshold_value,
    to_plain,
)
from orchestrator.config.scale import Strength
from orchestrator.config.space import Choice, FloatRange, IntRange, Parameter, Params, Scalar, Space
from orchestrator.config.sweep import (
    JOURNAL,
    AttackerConfig,
    CaptureConfig,
    CellConfig,
    DataConfig,
    ExecutionConfig,
    FamilyConfig,
    StudyConfig,
    SweepConfig,
    ThresholdConfig,
    UtilityConfig,
    VictimsConfig,
)

__all__ = [
    "AttackerConfig",
    "build",
    "CaptureConfig",
    "cell_settings",
    "CellConfig",
    "Choice",
    "DataConfig",
    "ExecutionConfig",
    "FamilyConfig",
    "FloatRange",
    "IntRange",
    "JOURNAL",
    "load_sweep",
    "Parameter",
    "Params",
    "PASSWORD",
    "put",
    "Scalar",
    "Space",
    "Strength",
    "StudyConfig",
    "suggested_attack",
    "SweepConfig",
    "threshold_cells",
    "threshold_value",
    "ThresholdConfig",
    "to_plain",
    "UtilityConfig",
    "VictimsConfig",
]
