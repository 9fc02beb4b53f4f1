"""What an adversary sees: facts, threat models, captured records, observations."""

from __future__ import annotations

from fl_core.threat.capture import Victim, accompanied, capture, image_indices, smallest_batch, victims
from fl_core.threat.facts import (
    Augmented,
    Clip,
    ExampleClip,
    Fact,
    HiddenMixture,
    InTheClear,
    MeanNoise,
    Mixture,
    Noise,
    PrunedRepresentation,
    Quantiser,
    RandomCode,
    Sparsity,
    StepNoise,
)
from fl_core.threat.model import ThreatModel, View
from fl_core.threat.observe import NotObservable, Observation, observe, published_noise_db, truth_behind
from fl_core.threat.record import RoundRecord

__all__ = [
    "accompanied",
    "Augmented",
    "capture",
    "Clip",
    "ExampleClip",
    "Fact",
    "HiddenMixture",
    "image_indices",
    "InTheClear",
    "MeanNoise",
    "Mixture",
    "Noise",
    "NotObservable",
    "Observation",
    "observe",
    "PrunedRepresentation",
    "published_noise_db",
    "Quantiser",
    "RandomCode",
    "RoundRecord",
    "smallest_batch",
    "Sparsity",
    "StepNoise",
    "ThreatModel",
    "truth_behind",
    "Victim",
    "victims",
    "View",
]
