"""An attack of the user's own: a class in a file that the sweep names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from attack_core.base.types import Attack, AttackFailed, PriorUse, Progress, Reconstruction
from fl_core.base.errors import InputError
from fl_core.base.own_object import OwnObject
from fl_core.threat.observation import NotObservable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class OwnAttack(OwnObject, Attack):
    """Every method is that of the user's class, and its answer is checked.

    Raises `OwnCodeFailed`, with the place in the file, where a method raises something or returns what does not fit;
    `AttackFailed` and `NotObservable` are an attack's own words.
    """

    kind: Literal["own"] = "own"

    passing: ClassVar[tuple[type[Exception], ...]] = (AttackFailed, NotObservable)

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`."""
        from attack_core.attacks.own_answer import check_answer

        found = self.ask("__call__", observation, model, generator, progress=progress)
        check_answer(found, observation, self.require)
        return found  # type: ignore[no-any-return]  # checked

    def cost(self, images: int) -> float:
        """See `Attack.cost`."""
        found = self.ask("cost", images)
        self.require(isinstance(found, int | float), "must return a number from cost")
        return float(found)

    @property
    def restarts(self) -> int:
        """See `Attack.restarts`; 1 where the class refuses its settings: the trial ends with the reason."""
        return self._count("restarts")

    @property
    def together(self) -> int:
        """See `Attack.together`; 1 as for `restarts`."""
        return self._count("together")

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; the class may read `Observation.prior`."""
        return "optional"

    def packed(self, count: int) -> Self:
        """See `Attack.packed`."""
        return self.changed(self.ask("packed", count))

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return self.changed(self.ask("shortened", share)) if share < 1 else self

    def check_network(self, model: nn.Module) -> None:
        """See `Attack.check_network`."""
        self.ask("check_network", model)

    def check_images(self, held: int) -> None:
        """See `Attack.check_images`."""
        self.ask("check_images", held)

    def with_matching(self, settings: Mapping[str, object]) -> Self:
        """See `Attack.with_matching`."""
        return self.changed(self.ask("with_matching", settings)) if settings else self

    def _count(self, name: str) -> int:
        try:
            found = self.get(name)
        except InputError:
            return 1
        return found if isinstance(found, int) else 1
