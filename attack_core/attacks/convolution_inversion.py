"""The attack on convolutional networks: one image from what deep convolutions see of it, read off by linear algebra.

Where a convolution has at least as many output channels as positions, the row space of its weight's gradient determines
its input (`attack_core.convolutions`). Such inputs have many times the numbers of the last layer's features, and the
image is found whose inputs they are: no label, no double backward. The way from one to the other is full of maxima and
ReLUs, so the search starts under a strong prior, whose weight falls by a factor of ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from attack_core.attacks.falls_back import FallsBack
from attack_core.base.evaluations import ONE_BACKWARD
from attack_core.base.types import Progress, Reconstruction
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from fl_core.base.types import LATER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attack_core.solving.by_convolutions.batch_inputs import BatchInputs
    from attack_core.solving.by_convolutions.deep_inputs import DeepInputs
    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class ConvolutionInversion(FallsBack):
    """One image from convolutions' inputs; `fallback` runs where none is determined, and the notes say why.

    A batch where the change of BatchNorm's statistics is seen, image by image with the descent `batch`. `certify` looks
    for the certificate of one image.
    """

    kind: Literal["convolutions"] = "convolutions"
    inversion: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=8, prior_start=1e-4, prior_end=1e-8)
    )
    fallback: Matching = field(default_factory=Matching)
    batch: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=8, prior_start=1e-2, prior_end=1e-7),
        metadata=LATER,
    )
    certify: bool = field(default=True, metadata=LATER)

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed."""
        return self.inversion.evaluations * images * ONE_BACKWARD

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(
            super().shortened(share),
            inversion=self.inversion.shortened(share),
            batch=self.batch.shortened(share),
        )

    def uncertified(self) -> Self:
        """See `Attack.uncertified`."""
        return replace(self, certify=False)

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`.

        The loss is the relative squared L2 distance between the observed gradient and that of the answer. Raises
        `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        from attack_core.gradients.targets import check_observation
        from attack_core.solving.by_convolutions.batch_inputs import batch_inputs
        from attack_core.solving.by_convolutions.deep_inputs import DEEP_LIMITS, deep_inputs

        check_observation(observation)
        try:
            if observation.statistics and observation.examples > 1:
                batch = batch_inputs(observation, model, enough=DEEP_LIMITS.of_batch)
                return self.invert_batch(batch, observation, model, generator, progress)
            known = deep_inputs(observation, model)
        except InputError as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        return self.invert(known, observation, model, generator, progress)

    def invert(
        self,
        known: DeepInputs,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Reconstruction:
        """The answer to an observation of which `deep_inputs` gave `known`."""
        from attack_core.solving.by_convolutions.searches import invert

        return invert(
            known, observation, model, generator, progress, descent=self.inversion, certify=self.certify
        )

    def invert_batch(
        self,
        known: BatchInputs,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Reconstruction:
        """The answer to a batch of which `batch_inputs` gave `known`: each image is searched by itself."""
        from attack_core.solving.by_convolutions.searches import invert_batch

        return invert_batch(known, observation, model, generator, progress, descent=self.batch)
