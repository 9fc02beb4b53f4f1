"""The hooks through which a defense changes a client's round; the default hooks change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from fl_core.base.rng import Random, stream
from fl_core.base.types import ClientUpdate, OpenedSum, Tensors
from fl_core.federation.client import Batch, GradientRule

if TYPE_CHECKING:
    import torch

    from fl_core.federation.common import Common


@dataclass(frozen=True, kw_only=True)
class ClientState:
    """What a client keeps from one of its rounds to the next.

    `velocity` are its optimizer's momentum buffers, by parameter name; `residual` is what a defense held back of
    earlier updates, by names of the defense's own. Both are empty at first.
    """

    velocity: Tensors = field(default_factory=dict)
    residual: Tensors = field(default_factory=dict)

    def to(self, device: torch.device) -> ClientState:
        """The same memory with every tensor on `device`."""
        return ClientState(
            velocity={name: value.to(device) for name, value in self.velocity.items()},
            residual={name: value.to(device) for name, value in self.residual.items()},
        )


class ClientDefense(Protocol):
    """What a client does differently under a defense. `random` is one stream for all that it draws in a round."""

    @property
    def is_stateful(self) -> bool:
        """Whether the client keeps a residual from round to round."""

    def draws(self, client: int, round_number: int) -> Random:
        """The randomness of this client in this round."""

    def on_batch(self, batch: Batch, random: Random, classes: int) -> Batch:
        """What the client trains on instead of `batch`, whose labels are one of so many `classes`."""

    def on_gradient(self, rule: GradientRule, random: Random) -> GradientRule:
        """How the client computes a batch's gradient, in terms of how it would without the defense."""

    def on_update(
        self, update: ClientUpdate, residual: Tensors, random: Random
    ) -> tuple[ClientUpdate, Tensors]:
        """What is released instead of `update`, and the residual that is kept for the next round."""


class SecureSum(Protocol):
    """Adds updates so that nobody sees a single one; see `fl_core.base.types.OpenedSum`."""

    def agree(self, common: Common) -> Self:
        """The same with what its clients settle before the round, which of each update to hide for one."""

    def open_sum(
        self, round_number: int, updates: Sequence[ClientUpdate]
    ) -> tuple[tuple[ClientUpdate, ...], OpenedSum]:
        """The updates that are in the sum, as they were sent, and their opened sum.

        The first of `updates` is in it in any case; others may drop out.
        """


@dataclass(frozen=True, kw_only=True)
class Undefended:
    """A client that does as it is told; a `ClientDefense`."""

    @property
    def is_stateful(self) -> bool:
        """See `ClientDefense.is_stateful`."""
        return False

    def draws(self, client: int, round_number: int) -> Random:  # noqa: ARG002 - nothing is drawn
        """See `ClientDefense.draws`."""
        return stream("nothing")

    def on_batch(self, batch: Batch, random: Random, classes: int) -> Batch:  # noqa: ARG002 - nothing is drawn
        """See `ClientDefense.on_batch`."""
        return batch

    def on_gradient(self, rule: GradientRule, random: Random) -> GradientRule:  # noqa: ARG002 - nothing is drawn
        """See `ClientDefense.on_gradient`."""
        return rule

    def on_update(
        self,
        update: ClientUpdate,
        residual: Tensors,
        random: Random,  # noqa: ARG002 - nothing is drawn
    ) -> tuple[ClientUpdate, Tensors]:
        """See `ClientDefense.on_update`."""
        return update, residual
