"""One image's features as a second thing to match beside its gradients.

For one image the gradients of the first fully connected layer determine its input exactly
(`attack_core.fc.inversion`). The matching loop has the candidates' own inputs at hand, so the comparison costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from attack_core.fc.head import observed_head
from attack_core.fc.inversion import completed_input, input_estimate
from attack_core.fc.spear import Inseparable
from attack_core.gradients.handles import GhostHandle, GradientHandle
from attack_core.signal.signal_model import layer_numbers, masked, sent_numbers
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation


@dataclass(frozen=True)
class FeatureTarget:
    """The input (I,) of the layer whose weight is called `name`, which of it is known (None: all), and its weight."""

    name: str
    target: Tensor
    weight: float
    known: Tensor | None = None

    @classmethod
    def of(
        cls, weight: float, observation: Observation, model: nn.Module, gradients: Tensors
    ) -> FeatureTarget:
        """Read off `gradients`; raises `InputError` where several images or no such layer leave it unknown."""
        if observation.examples != 1:
            raise InputError(
                f"Matching.feature_weight = {weight}: the signal holds {observation.examples} images, and the "
                "features are known for one alone; set it to 0."
            )
        try:
            first = observed_head(model, observation).first
        except InputError as reason:
            why = str(reason).removesuffix(".")
            raise InputError(f"Matching.feature_weight = {weight}: {why}; set it to 0.") from None
        names, known = (f"{first}.weight", f"{first}.bias"), None
        try:
            if sent_numbers(observation).keys() & set(names):
                target, known = completed_input(*layer_numbers(observation, gradients, first))
            else:
                target = input_estimate(gradients[names[0]], gradients[names[1]], "weighted")
        except Inseparable as reason:
            raise InputError(
                f"Matching.feature_weight = {weight}: layer {first!r}: {reason}; set it to 0."
            ) from None
        return cls(names[0], target, weight, known)

    def loss(self, handles: Mapping[str, GradientHandle]) -> Tensor:
        """`weight` times the relative squared distance, (C,)."""
        handle = handles[self.name]
        if not isinstance(handle, GhostHandle):
            raise AssertionError("linear weights come as factors")
        missed = masked(handle.input[:, 0] - self.target, self.known)
        return self.weight * missed.square().sum(1) / self.target.square().sum().clamp_min(TINY)
