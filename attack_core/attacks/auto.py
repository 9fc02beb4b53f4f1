"""The attack that chooses by the observation: linear equations where those apply, matching elsewhere.

What decides: the network's patch embedding and fully connected end, the number of images, the signal and its steps,
and the noise that the threat model lets the attacker know of. The reason is a note of the answer. Where the known
error of the signal drowns what the images could say, the answer is the mean public image (`attack_core.evidence`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.attacks.falls_back import FallsBack
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.base.search import Search, alone
from attack_core.base.types import PriorUse, Progress, Reconstruction
from attack_core.matching.matching import Matching
from attack_core.matching.presets import soft_matching
from fl_core.base.types import LATER, require

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Auto(FallsBack):
    """A transformer's equations or `tokens`, `convolutions`, or `analytic` where that is possible, else `fallback`.

    `convolutions` runs for one image with few features for its pixels, or behind a bottleneck, unless it reads the last
    one's input alone and `analytic` decodes that; and for a batch whose BatchNorm statistics are seen. `tokens` runs
    for a transformer's batch. `fallback` takes the place of theirs and of `analytic.fallback`. For one image it also
    matches the known features, with `feature_weight`, and where statistics are seen those too, with
    `statistics_weight`; it simulates the local steps where the signal has several of one client and its own `local` is
    the plain one.
    """

    kind: Literal["auto"] = "auto"
    analytic: Analytic = field(default_factory=Analytic)
    convolutions: ConvolutionInversion = field(default_factory=ConvolutionInversion, metadata=LATER)
    fallback: Matching = field(default_factory=soft_matching)
    feature_weight: float = 0.1
    statistics_weight: float = field(default=0.1, metadata=LATER)
    tokens: TokenInversion = field(default_factory=TokenInversion, metadata=LATER)

    def __post_init__(self) -> None:
        require(self.feature_weight >= 0, self, "feature_weight", "at least 0")
        require(self.statistics_weight >= 0, self, "statistics_weight", "at least 0")

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that `analytic` runs is assumed."""
        return self.analytic.cost(images)

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; it takes the place of smoothness in the inversion of features."""
        return "needed" if super().prior_use == "needed" else "optional"

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(
            super().shortened(share),
            analytic=self.analytic.shortened(share),
            convolutions=self.convolutions.shortened(share),
            tokens=self.tokens.shortened(share),
        )

    def uncertified(self) -> Self:
        """See `Attack.uncertified`."""
        return replace(
            self, analytic=self.analytic.uncertified(), convolutions=self.convolutions.uncertified()
        )

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`. Raises what the chosen attack raises."""
        return alone(self.search(observation, model, generator, progress=progress))

    def search(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Search[Reconstruction]:
        """See `Attack.search`: matching that `auto` chooses itself goes together with others'."""
        from attack_core.attacks.course import Course
        from attack_core.input_inversion.inversion import invert_inputs

        course = Course(
            analytic=self.analytic,
            convolutions=self.convolutions,
            tokens=self.tokens,
            loop=partial(self._fallback, observation, model),
            observation=observation,
            model=model,
            generator=generator,
            progress=progress,
        )
        found = yield from course.run()
        return found if found.outcome == "prior" else invert_inputs(found, observation)

    def _fallback(self, observation: Observation, model: nn.Module) -> Matching:
        from attack_core.choosing.loop import suited_loop

        return suited_loop(
            self.fallback,
            observation,
            model,
            feature_weight=self.feature_weight,
            statistics_weight=self.statistics_weight,
        )
