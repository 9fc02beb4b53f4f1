"""From plain settings to an object of a user's class: types as the fields say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from fl_core.base.own_code import OwnCode, OwnCodeFailed
from fl_core.base.own_object import OwnObject, from_plain


@dataclass(frozen=True, kw_only=True)
class _Square:
    kind: Literal["square"] = "square"
    side: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _All:
    rate: float = 0.5
    count: int = 1
    either: int | float = 0
    rates: tuple[float, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    names: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    maybe: tuple[float, ...] | None = None
    shape: _Square | _Circle = _Square()
    shapes: tuple[_Square | _Circle, ...] = ()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, _All()),
        ({"rate": 2}, _All(rate=2.0)),
        ({"rates": [1, 2]}, _All(rates=(1.0, 2.0))),
        ({"pair": [3, 4]}, _All(pair=(3, 4.0))),
        ({"names": ["a"]}, _All(names=["a"])),
        ({"shares": {"a": 1}}, _All(shares={"a": 1.0})),
        ({"maybe": None}, _All()),
        ({"maybe": [1]}, _All(maybe=(1.0,))),
        ({"shape": {"kind": "circle", "radius": 2}}, _All(shape=_Circle(radius=2.0))),
        ({"shape": {"radius": 2}}, _All(shape=_Circle(radius=2.0))),
        ({"shapes": [{"kind": "circle"}, {"side": 3}]}, _All(shapes=(_Circle(), _Square(side=3.0)))),
    ],
)
def test_plain_data_become_what_the_fields_say(settings: dict[str, object], wanted: _All) -> None:
    found = from_plain(_All, settings)
    assert found == wanted
    assert repr(found) == repr(wanted), "1 == 1.0, but not here"


def test_whole_numbers_stay_whole_where_they_may() -> None:
    found = from_plain(_All, {"count": 3, "either": 3})
    assert (type(found.count), type(found.either)) == (int, int)


def test_what_the_class_refuses_is_told_with_its_settings() -> None:
    own = OwnObject(code=OwnCode(module="fl_core.base.shape", name="ImageShape"), settings={"hight": 3})
    with pytest.raises(OwnCodeFailed, match=r'ImageShape failed with the settings \{"hight": 3\}: TypeError'):
        own.get("height")
