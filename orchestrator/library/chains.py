"""Defenses as a caller of the library names them."""

from __future__ import annotations

from collections.abc import Sequence

from defenses.chain import AnyDefense, Chain
from defenses.mechanism.base import STAGES, Mechanism, Stage
from fl_core.base.errors import InputError


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
