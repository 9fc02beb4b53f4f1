"""Defenses and attacks as a caller of the library names them."""

from __future__ import annotations

from collections.abc import Sequence

from attack_core.attacks.registry import NAMED, AnyAttack
from attack_core.base.types import Attack
from defenses.chain import AnyDefense, Chain
from defenses.mechanism.base import STAGES, Mechanism, Stage
from fl_core.base.errors import InputError, unknown_name

ON_UPDATES: tuple[Stage, ...] = ("clip", "noise", "compress")
"""The stages of defenses that work on an update that is already there."""
SIMULATED: tuple[Stage, ...] = ("batch", "gradient", *ON_UPDATES)
"""The stages of those that one client alone can be simulated under."""


def chain_of(defenses: Sequence[AnyDefense], what: str, *, stages: Sequence[Stage] = STAGES) -> Chain:
    """The chain of `defenses`, which `what` names in messages.

    Raises `InputError` for what is no list of defenses, for one of another stage than `stages`, and for some that do
    not go together.
    """
    if not isinstance(defenses, list | tuple):
        raise InputError(
            f"{what} is {type(defenses).__name__}: must be a list, such as [gradsweep.defenses.Prune(ratio=0.99)]."
        )
    for defense in defenses:
        if isinstance(defense, type):
            raise InputError(
                f"{what} holds the class {defense.__name__}; an object of it is {defense.__name__}(...)."
            )
        if not isinstance(defense, Mechanism) or not hasattr(defense, "stage"):
            raise InputError(
                f"{what} holds {type(defense).__name__}: must be defenses of gradsweep.defenses, such as "
                "Prune(ratio=0.99)."
            )
        if defense.stage not in stages:
            raise InputError(
                f"{defense.label} works on the {defense.stage}, which is not there to work on; allowed here: "
                f"{', '.join(stages)}."
            )
    return Chain(defenses=tuple(defenses))


def check_defenses(defenses: Sequence[AnyDefense]) -> None:
    """Raise `InputError` for defenses that one client cannot be simulated under, or that do not go together."""
    chain_of(defenses, "defenses", stages=SIMULATED)


def named_attack(attack: str | AnyAttack) -> AnyAttack:
    """The attack of a name of `NAMED`, or `attack` itself; raises `InputError` for another name."""
    if isinstance(attack, Attack):
        return attack
    if not isinstance(attack, str):
        raise InputError(_no_attack(attack))
    if attack not in NAMED:
        raise unknown_name("attack", attack, NAMED)
    return NAMED[attack]


def shortened_attack(attack: str | AnyAttack, effort: float) -> AnyAttack:
    """The attack that `named_attack` gives, at the share `effort` of its iterations.

    Raises `InputError` for another name, and for an effort that is not in (0, 1].
    """
    if not 0 < effort <= 1:
        raise InputError(f"effort = {effort!r}: must be more than 0 and at most 1.")
    return named_attack(attack).shortened(effort)


def _no_attack(given: object) -> str:
    if isinstance(given, type):
        return f"attack is the class {given.__name__}; an object of it is {given.__name__}(...)."
    return f"attack is {type(given).__name__}: must be a name, or one of gradsweep.attacks."
