"""What attacks have in common that fall back to gradient matching where their own method cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from attack_core.base.types import Attack, PriorUse, Progress, Reconstruction
from attack_core.matching.matching import Matching

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fl_core.threat.observation import Observation


class FallsBack(Attack):
    """An attack with a matching loop, `fallback`: restarts, packing and what it takes of a network are the loop's."""

    # Each attack declares these two fields itself, in their own places.
    kind: str
    fallback: Matching
    """Gradient matching, which runs where the attack's own method does not apply."""

    @property
    def restarts(self) -> int:
        """See `Attack.restarts`."""
        return self.fallback.restarts

    @property
    def together(self) -> int:
        """See `Attack.together`."""
        return self.fallback.together

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`: the loop's."""
        return self.fallback.prior_use

    def packed(self, count: int) -> Self:
        """See `Attack.packed`."""
        return self._with(self.fallback.packed(count))

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return self._with(self.fallback.shortened(share))

    def check_network(self, model: nn.Module) -> None:
        """See `Attack.check_network`."""
        self.fallback.check_network(model)

    def check_images(self, held: int) -> None:
        """See `Attack.check_images`."""
        self.fallback.check_images(held)

    def with_matching(self, settings: Mapping[str, Any]) -> Self:
        """See `Attack.with_matching`."""
        return self._with(self.fallback.with_matching(settings))

    def _matched_instead(
        self,
        why: object,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Reconstruction:
        """What `fallback` finds, with a note that says why the attack's own method does not apply."""
        found = self.fallback(observation, model, generator, progress=progress)
        note = f"{self.kind}: {str(why).removesuffix('.')}; fell back to matching"
        return replace(found, notes=(note, *found.notes))

    def _with(self, fallback: Matching) -> Self:
        changed: dict[str, Any] = {"fallback": fallback}
        return replace(self, **changed)
