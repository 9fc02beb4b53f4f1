"""The one matching loop: find images whose gradient is the observed one.

All restarts run together along a leading candidate axis, for one image or batches, with fixed or optimised
labels. The published attacks of this kind are settings of it: `attack_core.attacks.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from attack_core.base.search import Search, alone
from attack_core.gradients.comparison.layers import choose, layer_weights
from attack_core.matching.settings import MatchingSettings
from attack_core.priors.priors import OwnPrior, Trained, check_priors
from fl_core.base.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attack_core.base.types import PriorUse, Progress, Reconstruction
    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Matching(MatchingSettings):
    """Gradient matching by gradient descent on the images.

    The loss is `objective` + `tv_weight` * total variation + the sum of `priors`; `tv_weight` is the short form of
    the plain prior. `lr` and `tv_weight` may be lists, one value for each restart. `sign` passes the gradient's
    sign to a first-order optimizer. `clamp` bounds pixels to +-clamp in normalised units (None: unbounded);
    `preset` replaces `tv_weight` and `clamp`. `layers` (indices) and `layer_names` (substrings) choose parameters.
    `images` is how many images to reconstruct (None: as many as the signal holds). `local` says how images explain
    the weight delta of several local steps. `feature_weight` adds for one image the relative squared distance of its
    features to those that the gradients of the first fully connected layer determine (`attack_core.fc.inversion`).
    `statistics_weight` adds the distance of the images' BatchNorm statistics to those that the client's batch had
    (`attack_core.gradients.batchnorm.SeenStatistics`), where the threat model shows them; of several steps or clients
    it is the averages that are compared.
    `packing` is how many restarts are evaluated together (None: all): fewer take less memory, and the figures
    agree to rounding.

    What the attacker knows of a defense is used: numbers that were withheld are not matched, and under clipping
    L2 distances are those at the scale that fits best. Of several rounds that were watched the losses are added.

    `parametrisation` says what moves: the pixels, from `init` at standard deviation `init_std`, or with
    `deep_prior` the weights of one small untrained network for each restart, which has no init and bounds its
    pixels by itself.

    With the cosine schedule `anneal_tv` lets the weights of all priors fall with the learning rate, so that they
    count early and hardly count at the end; a restart's answer is then its last point, and its best point by
    the loss otherwise. Among restarts the one of least loss is taken; with `halving` the worse ones by their loss end
    early. Nothing is selected by the truth.
    """

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`.

        Raises `InputError` for a signal that does not fit the model and `AttackFailed` where every candidate
        ended in numbers that are not finite.
        """
        return alone(self.search(observation, model, generator, progress=progress))

    def search(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Search[Reconstruction]:
        """See `Attack.search`: gradients of first-order optimizers are evaluated together with those of others."""
        from attack_core.matching.loop.search import searched

        return searched(self, observation, model, generator, progress=progress)

    def cost(self, images: int) -> float:
        """See `Attack.cost`."""
        evaluations = self.iterations * self.restarts
        if self.halving is not None:
            begins, kept = self.halving.begins(self.iterations), self.halving.kept(self.restarts)
            evaluations = begins * self.restarts + (self.iterations - begins) * kept
        return float(evaluations * (self.images or images))

    def with_matching(self, settings: Mapping[str, Any]) -> Self:
        """See `Attack.with_matching`."""
        return replace(self, **settings)

    def check_network(self, model: nn.Module) -> None:
        """Raise `InputError` for layers, weights or priors that this network does not have."""
        parameters = dict(model.named_parameters())
        choose(parameters, indices=self.layers, names=self.layer_names)
        if isinstance(self.layer_weights, tuple):
            layer_weights(parameters, self.layer_weights)
        check_priors(self.priors, model)

    def check_images(self, held: int) -> None:
        """Raise `InputError` for more images than the signal holds."""
        if self.images is not None and self.images > held:
            raise InputError(f"Matching.images = {self.images}, but the signal holds {held} images at most.")

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; the prior `trained` needs one."""
        trained = any(isinstance(prior, Trained) for prior in self.priors)
        own = any(isinstance(prior, OwnPrior) for prior in self.priors)
        return "needed" if trained else "optional" if own else "unused"

    def packed(self, count: int) -> Self:
        """See `Attack.packed`."""
        return replace(self, packing=count)

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`; schedules are run through in the iterations that are left."""
        return replace(self, iterations=math.ceil(self.iterations * share))


def at_the_mean(attack: Matching) -> Matching:
    """The attack that only says, as its history's first value, what the mean public image's matching loss is."""
    return replace(
        attack,
        iterations=1,
        restarts=1,
        packing=None,
        parametrisation="pixels",
        init="mean",
        lr=0.1,
        tv_weight=0.0,
        priors=(),
        statistics_weight=0.0,
    )
