"""Defenses in sequence: each works on what the one before it released."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from defenses.base import Privacy
from defenses.compression import Prune, Quantise, SignOnly
from defenses.dp import DPUpdate
from defenses.noise import ClipOnly, NoiseOnly
from fl_core.errors import InputError
from fl_core.rng import generator
from fl_core.server import Release
from fl_core.threat import Fact
from fl_core.types import ClientUpdate

AnyDefense = DPUpdate | ClipOnly | NoiseOnly | Prune | Quantise | SignOnly
"""Every defense there is: the union is the registry."""

_ORDER = {"clip": 0, "noise": 1, "dp_update": 1, "prune": 2, "quantise": 2, "sign": 2}
"""The step that a mechanism takes: bound the update, add noise, compress."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Defenses in the order in which they are applied; empty means none.

    First an update is bounded, then noise is added, then it is compressed, each at most once. Raises `InputError` for
    any other order, with the reason.
    """

    defenses: tuple[AnyDefense, ...] = ()

    def __post_init__(self) -> None:
        for before, after in itertools.pairwise(self.defenses):
            reason = _conflict(before, after)
            if reason:
                raise InputError(f"A defense chain has {before.kind} before {after.kind}: {reason}.")

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


def _conflict(before: AnyDefense, after: AnyDefense) -> str | None:
    """Why `after` can't follow `before`; None where it can."""
    if before.kind == "clip" and after.kind == "dp_update":
        return "dp_update clips by itself; give it the max_norm"
    first, second = _ORDER[before.kind], _ORDER[after.kind]
    if first < second:
        return None
    if first == second:
        return (
            "one bound is enough",
            "one source of noise is allowed, since privacy statements would not add up",
            "one compression is allowed, since rounding has no zero for what was withheld",
        )[first]
    if second == 0:
        return "clipping rescales what was added or rounded by a factor that nobody knows; clip first"
    return "noise makes every number a full one again; add it before compressing"
