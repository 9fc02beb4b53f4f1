"""Defenses in sequence: each works on what the one before it released."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from defenses.base import Privacy
from defenses.dp import DPUpdate
from fl_core.errors import InputError
from fl_core.rng import generator
from fl_core.server import Release
from fl_core.threat import Fact
from fl_core.types import ClientUpdate

AnyDefense = DPUpdate
"""Every defense there is; a union once there are more."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Defenses in the order in which they are applied; empty means none.

    Raises `InputError` for more than one privacy mechanism, whose statements would not add up.
    """

    defenses: tuple[AnyDefense, ...] = ()

    def __post_init__(self) -> None:
        if sum(defense.kind == "dp_update" for defense in self.defenses) > 1:
            raise InputError("A defense chain holds dp_update twice: one privacy mechanism is allowed.")

    def on_update(self, update: ClientUpdate, random: torch.Generator, *, rounds: int) -> ClientUpdate:
        """What leaves the client after every defense."""
        for defense in self.defenses:
            update = defense.on_update(update, random, rounds=rounds)
        return update

    def facts(self, *, rounds: int) -> tuple[Fact, ...]:
        """All defenses' facts, in order."""
        return tuple(fact for defense in self.defenses for fact in defense.facts(rounds=rounds))

    def privacy(self, *, rounds: int) -> Privacy | None:
        """The chain's privacy statement: what follows a mechanism is post-processing and keeps it."""
        statements = [defense.privacy(rounds=rounds) for defense in self.defenses]
        return next((statement for statement in statements if statement is not None), None)

    def release(self, *, seed: int, rounds: int) -> Release:
        """The chain as a client applies it: fresh randomness for each client and round, fixed by `seed`."""

        def apply(update: ClientUpdate, round_number: int) -> ClientUpdate:
            random = generator("defense", seed, update.client, round_number)
            return self.on_update(update, random, rounds=rounds)

        return apply
