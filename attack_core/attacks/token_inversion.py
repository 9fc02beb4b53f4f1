"""The attack on transformers: one image's patches by linear equations, a batch by a descent on its tokens' errors.

The gradient of a learned position embedding is every token's error, and the patch embedding's gradient is linear in the
patches (`attack_core.tokens.equations`). Where clients do not train these two, the rows of the first attention's
gradient span the tokens, each of which is a function of its patch (`attack_core.tokens.spanned`). Both hold for a
weight delta over several local steps on one image too, since each step adds its errors times the same patches, or
tokens.

Of a batch only the sum of the images' errors is known, and a descent finds the pictures whose errors add up to it
(`attack_core.tokens.batches`). Where the last block tells the images apart (`attack_core.tokens.class_token`), each has
its label and its features for the descent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from attack_core.attacks.falls_back import FallsBack
from attack_core.base.types import Progress, Reconstruction
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.solving.by_tokens.limits import TOKEN_BATCH_LIMITS, TokenBatchLimits
from fl_core.base.errors import InputError
from fl_core.base.types import LATER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attack_core.tokens.batches import BatchTokens
    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class TokenInversion(FallsBack):
    """One image's patches by least squares, a batch by the descent `batch`.

    `fallback` runs where neither applies, and the notes say why.
    """

    kind: Literal["tokens"] = "tokens"
    fallback: Matching = field(default_factory=Matching)
    batch: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=6, prior_start=1e-5, prior_end=1e-8),
        metadata=LATER,
    )

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed: one pass to check the network, one for the loss."""
        return 1.0 if images == 1 else float(images * self.batch.evaluations)

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(super().shortened(share), batch=self.batch.shortened(share))

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
        from attack_core.solving.by_tokens.batch import batch_tokens
        from attack_core.solving.by_tokens.one_image import solve_tokens
        from attack_core.solving.by_tokens.solvable import solvable_tokens

        check_observation(observation)
        try:
            if observation.examples == 1:
                return solve_tokens(solvable_tokens(observation, model), observation, model)
            problem, note = batch_tokens(observation, model)
        except InputError as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        return self.invert_batch(problem, note, observation, model, generator, progress)

    def invert_batch(
        self,
        problem: BatchTokens,
        note: str,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
        limits: TokenBatchLimits = TOKEN_BATCH_LIMITS,
    ) -> Reconstruction:
        """The answer to a batch of which `batch_tokens` gave `problem` and `note`."""
        from attack_core.solving.by_tokens.batch import invert_batch

        return invert_batch(
            problem, note, observation, model, generator, progress, descent=self.batch, limits=limits
        )
