"""Which defenses are in force on what was sent: those that were told, and the one that the numbers show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise
from defenses.mechanism.base import STAGES
from fl_core.base.types import Tensors
from orchestrator.audit.premises import Premise
from orchestrator.inference.defense import SeenDefense
from orchestrator.library.chains import check_defenses
from orchestrator.library.count import Counted


def in_force(told: Sequence[AnyDefense], seen: SeenDefense | None) -> tuple[AnyDefense, ...]:
    """The defenses that were told, and behind them the one that is seen, where it is of a later stage.

    Raises `InputError` for defenses that cannot be simulated or do not go together.
    """
    check_defenses(told)
    if seen is None or not _adds(told, seen):
        return tuple(told)
    return (*told, seen.defense)


def on_top(held: Sequence[AnyDefense], tried: AnyDefense) -> tuple[AnyDefense, ...]:
    """The defenses with one more that is tried, which takes the place of one of its stage.

    Raises `InputError` where it cannot come after what is in force.
    """
    found = (*(each for each in held if each.stage != tried.stage), tried)
    check_defenses(found)
    return found


def counted_under(counted: Counted, held: Sequence[AnyDefense], seen: SeenDefense | None) -> Counted:
    """The number of images that a layer's rank tells under the defenses; one where they leave a rank of their own."""
    compressed = any(each.stage == "compress" and not isinstance(each, Quantise) for each in held)
    own = not seen.keeps_rank if seen is not None else compressed
    if not own or not counted.certain:
        return counted
    return Counted(examples=1, why="what a defense leaves has a rank of its own", certain=False)


def defense_premises(told: Sequence[AnyDefense], seen: SeenDefense | None, tensors: Tensors) -> list[Premise]:
    """The defenses that were told, with what the numbers say against them, and the one that is seen."""
    found = [
        Premise(
            name="defense", value=in_words(each), source="given", contradiction=_against(each, seen, tensors)
        )
        for each in told
    ]
    if seen is not None and not any(type(each) is type(seen.defense) for each in told):
        found.append(Premise(name="defense", value=seen.words, source="inferred", why=seen.why))
    return found


def in_words(defense: AnyDefense) -> str:
    """A defense as `--defended` takes it, with the settings that are not its usual ones."""
    settings = {
        field.name: getattr(defense, field.name)
        for field in dataclasses.fields(defense)
        if field.name != "kind" and getattr(defense, field.name) != field.default
    }
    return " ".join([defense.label, *(f"{name}={value}" for name, value in settings.items())])


def _adds(told: Sequence[AnyDefense], seen: SeenDefense) -> bool:
    """Whether what is seen is of a later stage than all that was told."""
    place = STAGES.index(seen.defense.stage)
    return all(STAGES.index(each.stage) < place for each in told)


def _against(told: AnyDefense, seen: SeenDefense | None, tensors: Tensors) -> str:
    """What the numbers say against a defense that was told; empty where nothing."""
    if told.stage != "compress":
        return ""
    if seen is not None and seen.defense.stage == "compress" and type(seen.defense) is not type(told):
        return f"the numbers look otherwise: {seen.words}, as {seen.why}"
    if isinstance(told, Prune) and all(bool(value.all()) for value in tensors.values()):
        return "none of the numbers is 0"
    return ""
