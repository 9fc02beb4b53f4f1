"""What a signal says before any search: which numbers are known how well, labels, starting images."""

from __future__ import annotations

from attack_core.signal.inits import Init, initial_images
from attack_core.signal.labels import LabelStrategy, resolve_labels
from attack_core.signal.signal_model import (
    code_of_images,
    cut_columns,
    deviations,
    is_sparse,
    knows_errors,
    largest_withheld,
    layer_numbers,
    masked,
    matched_numbers,
    mixes_labels,
    precisions,
    rounds_fairly,
    sees_a_part,
    sends_signs,
    sent_numbers,
    signal_energy,
    withholds,
)

__all__ = [
    "code_of_images",
    "cut_columns",
    "deviations",
    "Init",
    "initial_images",
    "is_sparse",
    "knows_errors",
    "LabelStrategy",
    "largest_withheld",
    "layer_numbers",
    "masked",
    "matched_numbers",
    "mixes_labels",
    "precisions",
    "resolve_labels",
    "rounds_fairly",
    "sees_a_part",
    "sends_signs",
    "sent_numbers",
    "signal_energy",
    "withholds",
]
