"""Whether images explain the exact features that they came from, and a gradient that they were not read from.

Behind ReLUs fewer features than an image has numbers are not 0, so a prior has to fill the rest, and on pictures that
are unlike photographs the descent ends in a local minimum (docs/attacks.md, Limits). The attacker sees that: features
that are known exactly stay unexplained. Then the gradient of the first layer, which is the farthest from the features,
tells whether the images are worth more than what was known before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.fc.head import Prefix
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.inversion.refinement import Features
from attack_core.signal.signal_model import masked, sent_numbers
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class FeatureFitLimits:
    """When an answer does not explain exact features, and when it is given up for the prior."""

    unexplained: float = 1e-5
    """The relative squared mismatch of exact features above which images do not explain them.

    Fixed with a look at the first two pictures of most kinds in docs/attacks.md: faces and photographs end at 2e-6 and
    less, text and noise at 2e-3 and more.
    """
    most_left: float = 1 / 2
    """The share that an answer may leave of what the prior leaves of the first layer's gradient.

    Measured from 60 evaluations on, at 16 and 32 pixels, on pictures drawn from other seeds than the table in
    docs/attacks.md (three of each kind): noise leaves 0.37 to 0.73, so that some answers to it are kept, which are 1 to
    4 dB better than grey; photographs and text leave 0.02 at most.
    """
    noise: float = 0.45
    """The share of the targets' energy below 0 from which on they are noise, where a layer sees nothing below 0.

    Noise alone has a half. Synthetic faces of a series of their own, cnn64 at 64 pixels, noise of so much on a gradient
    clipped to 1, two faces each: 0.004 has 10 to 11% below 0, and what is found is 1.4 and 3.3 dB better than the mean
    image; 0.008 has 27 and 28% (0.1 dB worse, 1.3 better), 0.016 has 41 and 44% (1.1 worse, 0.5 better), 0.05 48%
    (0.8 worse; one face).
    """
    far: float = 1.0
    """And the mismatch of the prior above which it is further from them than an answer of nothing at all."""


FEATURE_FIT_LIMITS = FeatureFitLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class FeatureFit:
    """Judges images by what was `read` of them exactly: the inputs `targets` (B, I) of `layer`."""

    observation: Observation
    model: nn.Module
    read: LayerInputs
    layer: str
    targets: Tensor
    limits: FeatureFitLimits = FEATURE_FIT_LIMITS

    @torch.no_grad()
    def mismatch(self, images: Tensor) -> float:
        """The relative squared distance of what `layer` sees of `images` (B, 3, S, S) from what it saw."""
        prefix = Prefix(self.model, self.observation.state, self.layer)
        return float(Features(self.targets).missed(prefix(images)))

    def no_better_than_prior(self, images: Tensor, prior: Tensor) -> bool:
        """Whether `images` explain the first layer's gradient hardly better than `prior` does, both (B, 3, S, S).

        Where no layer lies in front of the features, it is the features that they have to explain.
        """
        if self._first == f"{self.read.head.first}.weight":
            return self.mismatch(images) > self.limits.most_left * self.mismatch(prior)
        left = [self._unexplained(each) for each in (images, prior)]
        return left[0] > self.limits.most_left * left[1]

    @torch.no_grad()
    def noise_alone(self, prior: Tensor) -> bool:
        """Whether the targets are what noise would be, and nothing that `layer` sees of any images.

        `prior` (B, 3, S, S) is what was known before. Where its activations may be negative the answer is no.
        """
        below = float(self.targets.clamp_max(0.0).square().sum())
        share = below / max(float(self.targets.square().sum()), TINY)
        if share < self.limits.noise or self.mismatch(prior) <= self.limits.far:
            return False
        # Any draws tell; made anew, they leave the attack's own alone.
        drawn = torch.randn(prior.shape, generator=torch.Generator().manual_seed(0)).to(prior)
        prefix = Prefix(self.model, self.observation.state, self.layer)
        return min(float(prefix(images).min()) for images in (prior, drawn)) >= 0.0

    @property
    def _first(self) -> str:
        """The first weight with a gradient."""
        gradients = self.read.gradients
        return next(
            name for name in self.observation.state.parameters if _is_seen_weight(name, gradients[name])
        )

    def _unexplained(self, images: Tensor) -> float:
        """The share of the energy of the first weight's gradient that images leave at the factor that fits best.

        Taken at the errors that were read, so that neither labels nor what happens behind the features matter.
        """
        read, state = self.read, self.observation.state
        first = self._first
        weight = state.parameters[first].detach().clone().requires_grad_(True)
        moving = ModelState(parameters={**state.parameters, first: weight}, buffers=state.buffers)
        back = read.shares.errors @ state.parameters[f"{read.head.first}.weight"]
        features = Prefix(self.model, moving, read.head.first)(images)
        (found,) = torch.autograd.grad((features * back).sum(), weight)
        known = masked(found, sent_numbers(self.observation).get(first))
        cosine = functional.cosine_similarity(known.flatten(), read.gradients[first].flatten(), dim=0)
        return 1.0 - float(cosine.clamp_min(0.0)) ** 2


def _is_seen_weight(name: str, gradient: Tensor) -> bool:
    return name.endswith("weight") and bool(gradient.any())
