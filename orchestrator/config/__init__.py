"""Sweep files: their schema, parsing, search spaces, scales of strength, addresses."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "address": ["PASSWORD"],
        "parse": [
            "cell_settings",
            "load_sweep",
            "suggested_attack",
            "threshold_cells",
            "threshold_value",
            "with_params",
        ],
        "own": ["shown"],
        "plain": ["build", "to_plain"],
        "scale": ["Strength"],
        "space": ["Choice", "FloatRange", "IntRange", "Parameter", "Params", "Scalar", "Space"],
        "sweep": [
            "AttackerConfig",
            "CaptureConfig",
            "CellConfig",
            "DataConfig",
            "DataKind",
            "ExecutionConfig",
            "FamilyConfig",
            "JOURNAL",
            "StudyConfig",
            "SweepConfig",
            "ThresholdConfig",
            "UtilityConfig",
            "VictimsConfig",
        ],
    },
)
