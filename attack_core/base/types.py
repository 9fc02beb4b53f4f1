"""What an attack is, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from fl_core.base.errors import InputError
from fl_core.base.types import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from attack_core.base.certificate import Certificate
    from attack_core.base.search import Search
    from fl_core.threat.observation import Observation

Progress = Callable[[int, int, float], None]
"""Called with iterations done, iterations planned, and the loss of the answer so far: the lowest, or the last."""

Outcome = Literal["analytic", "matching", "prior", "other"]
"""What an answer was found by.

- `analytic`: layer inputs by linear algebra, and feature inversion.
- `matching`: the matching loop.
- `prior`: nothing was taken from the signal; the answer is what was known before it.
- `other`: an attack with a loop of its own.
"""


PriorUse = Literal["unused", "optional", "needed"]
"""What an attack does with a trained prior (`Observation.prior`): nothing, uses it where there is one, needs one."""


class AttackFailed(Exception):
    """Every candidate of an attack ended in numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An attack's answer.

    `candidates` (C, B, 3, S, S) in [-1, 1] are all restarts' best images, on the CPU; `images` (B, 3, S, S) is
    the one of them that the attacker selected, `labels` (B,) its labels, `loss` its matching loss. `history`
    (iterations, C) holds each candidate's matching loss, NaN once it has ended. `failed` counts candidates
    that met a loss that is not finite. `outcome` says what ran in the end; `method` says the same to a reader, in
    more detail, and `notes` say in sentences why it was chosen and what was fallen back from. `work` is how many images
    were differentiated twice, all iterations and restarts together (see `Attack.cost`); None: as many as `cost` says.
    `rounds` is of how many watched rounds it took the signal; the first ones.
    `certificates` say of each of `images` how well the equations behind it determine it; None, or nothing at all, where
    no equations do.
    """

    images: Tensor
    labels: Tensor
    loss: float
    candidates: Tensor
    history: Tensor
    iterations: int
    failed: int
    method: str
    outcome: Outcome = "other"
    notes: tuple[str, ...] = ()
    work: float | None = None
    rounds: int = 1
    certificates: tuple[Certificate | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attack(Config, ABC):
    """A configured attack: from what the attacker sees to images, and what a sweep asks about it.

    An attack is a frozen dataclass with a `kind`. It overrides what does not hold for it of the defaults here, which
    are those of an attack without restarts that takes every network and every number of images.
    """

    @abstractmethod
    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run on the device of the observation's tensors."""

    def search(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Search[Reconstruction]:
        """The same as a search, which `attack_core.base.search.side_by_side` runs beside others.

        By default it asks nothing and runs by itself. An attack that asks finds alone what it finds among others, but
        for rounding.
        """
        yield from ()
        return self(observation, model, generator, progress=progress)

    @abstractmethod
    def cost(self, images: int) -> float:
        """How many images it differentiates twice in all its iterations, on a signal of so many `images`.

        It is the planned work, known before a run; `Reconstruction.work` is what a run came to, where the attack counts
        it: less where it stops early, more where a line search evaluates several times in an iteration.
        """

    @property
    def restarts(self) -> int:
        """How many starting points it tries."""
        return 1

    @property
    def together(self) -> int:
        """How many restarts are evaluated together: what its memory grows with."""
        return self.restarts

    def packed(self, count: int) -> Self:  # noqa: ARG002 - there is one
        """The same attack with `count` restarts evaluated together; figures agree to rounding."""
        return self

    @property
    def prior_use(self) -> PriorUse:
        """What it does with a trained prior."""
        return "unused"

    def shortened(self, share: float) -> Self:
        """The same attack with about this `share`, in (0, 1], of its iterations; `InputError` where it has none."""
        if share < 1:
            raise InputError(
                f"{type(self).__name__} has no iterations that could be fewer; leave the effort at 1."
            )
        return self

    def uncertified(self) -> Self:
        """The same attack without certificates that cost it anything."""
        return self

    def check_network(self, model: nn.Module) -> None:
        """Raise `InputError` for a network that lacks something the settings name."""

    def check_images(self, held: int) -> None:
        """Raise `InputError` where the settings ask for more images than the `held` ones of a signal."""

    def with_matching(self, settings: Mapping[str, object]) -> Self:
        """The same attack with these settings of its matching loop; `InputError` where it has no such loop."""
        if settings:
            raise InputError(
                f"{type(self).__name__} matches no gradients and has no {', '.join(settings)}; leave that out."
            )
        return self
