"""Whether an answer is supported by the signal: likelihood ratios, cross-validation on other layers."""

from __future__ import annotations

from attack_core.evidence.cross_validation import Residuals, chosen, evidence, residuals_elsewhere
from attack_core.evidence.likelihood_ratio import (
    credible,
    explains_more,
    prior_answer,
    prior_instead,
    says_nothing,
    too_weak,
)

__all__ = [
    "chosen",
    "credible",
    "evidence",
    "explains_more",
    "prior_answer",
    "prior_instead",
    "Residuals",
    "residuals_elsewhere",
    "says_nothing",
    "too_weak",
]
