"""The analytic attack: solve the fully connected layers exactly, then invert the features.

No double backward, no label, no restarts: the layer inputs follow from linear algebra (`attack_core.fc`), and
the image is found whose features they are (the inversion of Mahendran and Vedaldi 2015, arXiv:1412.0035, with exact
features). Where the network has fewer features than pixels, the gradients of the layers in front refine the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from attack_core.attacks.falls_back import FallsBack
from attack_core.base.evaluations import ONE_BACKWARD
from attack_core.base.reading import Estimate, Reading
from attack_core.base.types import PriorUse, Progress, Reconstruction
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from fl_core.base.types import LATER, InUnits, require

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attack_core.solving.by_features.problem import Problem
    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Analytic(FallsBack):
    """Layer inputs by linear algebra, images by feature inversion, one after the other.

    `estimate` is how one image's layer input is read: `auto` takes `rank_one` where the noise is known and
    `weighted` otherwise. `inversion` starts at the mean public image, or near grey where there is none. `refine`
    says whether the earlier layers' gradients follow with `refinement`: `auto` where features are fewer than pixels
    and no noise is known, and for one image under known noise where the network is smooth (`GradientFit`). Batches are
    taken apart in at most `rounds` rounds, to a relative residual of `tolerance`, or of `drift_tolerance` where the
    weights moved between the images. Then the weights of each local step follow in turn with the images, `passes`
    times. Where taking apart fails, `fallback` runs on the same observation and the notes say why. Of one image several
    rounds under known noise are read together (`attack_core.inversion.rounds`); else the first round is taken. `decode`
    takes the last convolution's input in the place of the features, where its gradient tells it exactly. `certify`
    looks for certificates of images that were searched, which may take longer than the search.
    """

    kind: Literal["analytic"] = "analytic"
    estimate: Literal["auto"] | Estimate = "auto"
    inversion: Continuation = field(default_factory=Continuation)
    refine: Literal["auto", "always", "never"] = "auto"
    refinement: Continuation = field(default_factory=partial(Continuation, evaluations=300))
    rounds: Annotated[int, InUnits("rounds")] = 100
    tolerance: float = 1e-3
    drift_tolerance: float = 0.1
    passes: Annotated[int, InUnits("passes")] = 3
    decode: bool = field(default=True, metadata=LATER)
    certify: bool = field(default=True, metadata=LATER)
    fallback: Matching = field(default_factory=Matching)

    def __post_init__(self) -> None:
        require(self.rounds >= 1, self, "rounds", "at least 1")
        require(0 < self.tolerance < 1, self, "tolerance", "in (0, 1)")
        require(0 < self.drift_tolerance < 1, self, "drift_tolerance", "in (0, 1)")
        require(self.passes >= 1, self, "passes", "at least 1")

    @property
    def reading(self) -> Reading:
        """How layer inputs are read."""
        return Reading(
            estimate=self.estimate,
            rounds=self.rounds,
            tolerance=self.tolerance,
            drift_tolerance=self.drift_tolerance,
        )

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed."""
        return self.inversion.evaluations * images * ONE_BACKWARD

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; it takes the place of smoothness in the inversion of features."""
        return "needed" if super().prior_use == "needed" else "optional"

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`; the rounds that take a batch apart stay, as they end by themselves."""
        return replace(
            super().shortened(share),
            inversion=self.inversion.shortened(share),
            refinement=self.refinement.shortened(share),
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

        The loss is the relative squared L2 distance between the observed gradient, or delta, and that of the answer.
        Raises `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        from attack_core.fc.spear import Inseparable
        from attack_core.gradients.targets import check_observation
        from attack_core.solving.by_features.remainder import with_others
        from attack_core.solving.by_features.solution import solve

        check_observation(observation)
        try:
            problem = self._problem(observation, model, generator, progress)
        except Inseparable as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        found = solve(problem)
        if problem.read.shares.others is None:
            return found
        return with_others(found, problem, lambda rest: self(rest, model, generator, progress=progress))

    def by_decoding(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction | None:
        """The answer where `decode` finds the last convolution's input; None where it finds none.

        The state of `generator` stays what it was.
        """
        from attack_core.fc.spear import Inseparable
        from attack_core.solving.by_features.decoding import by_decoding

        if not self.decode:
            return None
        try:
            problem = self._problem(observation, model, generator.clone_state(), progress)
        except Inseparable:
            return None
        return by_decoding(problem, problem.start())

    def _problem(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Problem:
        """What is to be inverted; raises what `LayerInputs.of` raises."""
        from attack_core.solving.by_features.problem import Manner, Problem

        manner = Manner(
            reading=self.reading,
            inversion=self.inversion,
            refine=self.refine,
            refinement=self.refinement,
            passes=self.passes,
            decode=self.decode,
            certify=self.certify,
        )
        return Problem.of(manner, observation, model, generator, progress)
