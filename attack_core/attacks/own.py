"""An attack of the user's own: a class in a file that the sweep names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from attack_core.base.types import Attack, AttackFailed, PriorUse, Progress, Reconstruction
from fl_core.base.errors import InputError
from fl_core.base.own_object import OwnObject
from fl_core.threat.observation import NotObservable, Observation


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
        found = self.ask("__call__", observation, model, generator, progress=progress)
        self._check(found, observation)
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

    def _check(self, found: object, observation: Observation) -> None:
        """Raise `OwnCodeFailed` for an answer that cannot be scored."""
        if not isinstance(found, Reconstruction):
            self.require(False, f"returned {type(found).__name__}: must be a Reconstruction")
            return
        for name in ("images", "labels", "candidates", "history"):
            value = getattr(found, name)
            self.require(
                isinstance(value, Tensor), f"returned {name} as {type(value).__name__}: must be a tensor"
            )
        images, candidates, size = found.images, found.candidates, observation.model.shape.size
        self._check_pictures("images", images, f"(images, {', '.join(map(str, size))})", size, 4)
        self._check_pictures(
            "candidates", candidates, f"(restarts, *{tuple(images.shape)})", tuple(images.shape), 5
        )
        self.require(
            found.labels.shape == (len(images),) and found.labels.dtype == torch.int64,
            f"returned labels of shape {tuple(found.labels.shape)} and {found.labels.dtype}: must be {len(images)} "
            "whole numbers (torch.int64)",
        )

    def _check_pictures(
        self, name: str, pictures: Tensor, wanted: str, end: tuple[int, ...], axes: int
    ) -> None:
        shape = tuple(pictures.shape)
        fits = len(shape) == axes and shape[1:] == end and shape[0] > 0 and pictures.dtype == torch.float32
        self.require(
            fits,
            f"returned {name} of shape {shape} and {pictures.dtype}: must be {wanted} and torch.float32",
        )
        self.require(
            pictures.device.type == "cpu", f"returned {name} on {pictures.device}: must be on the CPU"
        )
        # NaN is in no range.
        inside = bool(((pictures >= -1.0) & (pictures <= 1.0)).all())
        self.require(
            inside, f"returned {name} that are not all in [-1, 1]; clamp them, or raise AttackFailed"
        )
