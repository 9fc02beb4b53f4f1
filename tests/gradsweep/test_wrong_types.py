"""Settings that are made in Python: a value of a wrong type is refused in a sentence, in every class that there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

import gradsweep as gs
from attack_core.attacks.registry import AnyAttack
from defenses.chain import AnyDefense
from fl_core.base.errors import InputError
from fl_core.base.types import Config

D, A = gs.defenses, gs.attacks


def classes(module: object) -> list[type[Any]]:
    found = (each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Config))
    return [each for each in found if dataclasses.is_dataclass(each)]


SETTINGS = [
    (kind, each.name) for kind in [*classes(D), *classes(A)] for each in dataclasses.fields(kind) if each.init
]


REQUIRED: dict[type[Any], dict[str, object]] = {D.Selective: {"fraction": 0.5}}


class Odd:
    """An object that no setting can be."""

    def __repr__(self) -> str:
        return "<odd>"


def test_every_class_of_a_sweep_file_is_in_the_library() -> None:
    open_ended = {"OwnDefense", "OwnAttack"}
    assert {kind.__name__ for kind in get_args(AnyDefense)} - open_ended <= set(vars(D))
    assert {kind.__name__ for kind in get_args(AnyAttack)} - open_ended <= set(vars(A))


@pytest.mark.parametrize(("kind", "name"), SETTINGS, ids=lambda each: getattr(each, "__name__", each))
def test_a_wrong_type_names_class_field_value_and_what_would_be_right(kind: type[Any], name: str) -> None:
    with pytest.raises(InputError) as wrong:
        kind(**REQUIRED.get(kind, {}) | {name: Odd()})
    assert str(wrong.value).startswith(f"{kind.__name__}.{name} = <odd>: must be ")
    assert "another type" not in str(wrong.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: D.Prune(ratio="x"), "Prune.ratio = 'x': must be a number."),
        (lambda: D.Prune(ratio=True), "Prune.ratio = True: must be a number."),
        (
            lambda: D.Prune(scope="al"),
            "Prune.scope = 'al': must be one of 'all', 'tensor'. Did you mean 'all'?",
        ),
        (lambda: D.Quantise(bits=3.5), "Quantise.bits = 3.5: must be a whole number."),
        (lambda: D.DPUpdate(epsilon="8"), "DPUpdate.epsilon = '8': must be a number or None."),
        (lambda: gs.LocalTraining(lr="a"), "LocalTraining.lr = 'a': must be a number."),
        (
            lambda: A.Matching(objective="cosine"),
            "must be one of L2(...), Cosine(...), Similarity(...), Both(...), Signs(...). Did you mean 'Cosine(...)'?",
        ),
        (lambda: A.Matching(objective=A.Cosine), "Cosine is the class; an object of it is Cosine(...)."),
        (lambda: A.Matching(objective=D.Prune()), "must be one of L2(...), Cosine(...)"),
        (lambda: A.Matching(priors=A.TotalVariation()), "Put [ ] around it."),
        (
            lambda: A.Matching(lr=[0.1, "x"], restarts=2),
            "Matching.lr = [0.1, 'x']: must be a number or a list of numbers.",
        ),
        (lambda: A.Auto(fallback="matching"), "Auto.fallback = 'matching': must be Matching(...)."),
        (lambda: A.Matching(layers=3), "Matching.layers = 3: must be a list of whole numbers or None."),
    ],
)
def test_what_a_newcomer_writes(make: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError) as wrong:
        make()
    assert text in str(wrong.value)


def test_lists_and_numbers_of_numpy_become_what_a_setting_holds() -> None:
    attack = A.Matching(priors=[A.TotalVariation()], lr=[0.1, np.float32(0.5)], restarts=np.int64(2))
    assert attack == A.Matching(priors=(A.TotalVariation(),), lr=(0.1, 0.5), restarts=2)
    assert (type(attack.lr), type(attack.restarts)) == (tuple, int)
    assert hash(attack) == hash(A.Matching(priors=(A.TotalVariation(),), lr=(0.1, 0.5), restarts=2))
    assert D.Prune(ratio=np.array(0.5)) == D.Prune(ratio=0.5)


def test_an_objective_and_a_prior_of_ones_own_may_stand_in_matching() -> None:
    class Mine:
        def loss(self, terms: object) -> object:
            return terms

        def penalty(self, images: object, scene: object) -> object:
            return images

    mine: Any = Mine()
    assert A.Matching(objective=mine, priors=(mine,)).objective is mine


def test_rules_come_after_types_in_classes_that_derive_from_others() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Base(Config):
        low: float = 0.0

        def __post_init__(self) -> None:
            if self.low < 0:
                raise InputError("too low")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Derived(Base):
        high: int = 1

    with pytest.raises(InputError, match="too low"):
        Derived(low=-1.0)
    assert Derived(low=0.5).high == 1
