"""Several rounds of one image under known noise, read together: stacked linear equations, at each round's weights.

In every round the gradient of a fully connected layer's weight is an error times the layer's input, under noise of its
own. Stacked above each other in units of the noise, the rounds' gradients are one matrix, nearly of rank one: its
estimate is the mean of the rounds' inputs, each counted by its error's energy, and less noisy than any of them. The
weights move between the rounds, and the inputs with them, so an image is compared by the same mean of what the layer
would have seen of it in each round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attack_core.base.reading import Reading
from attack_core.evidence.cross_validation import Residuals, residuals_elsewhere
from attack_core.fc.head import Prefix
from attack_core.fc.inversion import stacked_input
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.gradient_fit import GradientFit
from attack_core.signal.signal_model import deviations
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The rounds that an answer is taken from, with their gradients, and each round's share in the mean layer input.

    The shares sum to 1. There is one round where several cannot be joined.
    """

    observations: tuple[Observation, ...]
    gradients: tuple[Tensors, ...]
    shares: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.observations)

    def prefix(self, model: nn.Module, layer: str) -> Callable[[Tensor], Tensor]:
        """From images (B, 3, S, S) to the mean of the layer's inputs (B, I) over the rounds."""
        prefixes = [Prefix(model, each.state, layer) for each in self.observations]
        if len(prefixes) == 1:
            return prefixes[0]
        pairs = list(zip(self.shares, prefixes, strict=True))
        return lambda images: torch.stack([share * prefix(images) for share, prefix in pairs]).sum(0)

    def residuals(self, model: nn.Module, used: tuple[str, ...], labels: Tensor) -> Residuals:
        """What images with `labels` (B,) leave of all rounds' gradients but the parameters `used`."""
        each = [
            residuals_elsewhere(observation, model, gradients, used, labels)
            for observation, gradients in zip(self.observations, self.gradients, strict=True)
        ]
        return lambda images: torch.cat([left(images) for left in each])

    def fit(self, model: nn.Module, label: Tensor, generator: torch.Generator) -> GradientFit | None:
        """The fit of one image with `label` (1,) to all rounds' gradients; None as `GradientFit.of`."""
        found = [
            GradientFit.of(observation, model, gradients, label, generator)
            for observation, gradients in zip(self.observations, self.gradients, strict=True)
        ]
        fits = [fit for fit in found if fit is not None]
        return GradientFit.joined(fits) if len(fits) == len(found) else None


def read_together(
    read: LayerInputs, reading: Reading, observation: Observation
) -> tuple[LayerInputs, Rounds]:
    """The layer inputs of all rounds that were watched, from what was `read` of the first, and those rounds.

    Joined are rounds of one image all of whose numbers were sent, under noise that is known. Without noise one round
    says exactly what its layer saw, which a mean over rounds would blur, so the first is taken.
    """
    weight, bias = read.own
    alone = Rounds(observations=observation.rounds[:1], gradients=(read.gradients,), shares=(1.0,))
    single = len(read.shares.inputs) == 1 and read.shares.unknown is None
    known = deviations(observation, read.gradients)
    if not (observation.later and read.error and single and reading.estimate in ("auto", "rank_one")):
        return read, alone
    gradients = (read.gradients, *(gradient_estimate(each) for each in observation.later))
    sigmas = [deviations(*pair)[weight] for pair in zip(observation.rounds, gradients, strict=True)]
    if not all(sigma > 0 for sigma in sigmas):
        return read, alone
    # As in one round: weight and bias count as if both had the same noise.
    balance = known[weight] / known[bias] if known[bias] > 0 else 1.0
    pairs = list(zip(gradients, sigmas, strict=True))
    inputs, error, parts = stacked_input(
        [found[weight] / sigma for found, sigma in pairs],
        [found[bias] * balance / sigma for found, sigma in pairs],
    )
    inputs = inputs * balance
    logits = sum(found[f"{read.head.layers[-1]}.bias"] / sigma for found, sigma in pairs)
    shares = replace(read.shares, inputs=inputs[None], logit_errors=torch.as_tensor(logits)[None])
    rounds = Rounds(
        observations=observation.rounds,
        gradients=gradients,
        shares=tuple(parts),
    )
    return replace(read, shares=shares, error=error), rounds
