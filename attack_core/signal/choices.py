"""What an attack may begin with: the names of starting images and of ways to labels."""

from __future__ import annotations

from typing import Literal

Init = Literal["normal", "uniform", "fourier", "pattern-2", "pattern-4", "pattern-8", "mean"]
"""Where an attack starts: `attack_core.signal.inits.initial_images` says what each is."""
LabelStrategy = Literal["auto", "idlg", "bias_corrected", "counts", "optimize", "known"]
"""Which labels it matches with: `attack_core.signal.labels.resolve_labels` says what each is."""
