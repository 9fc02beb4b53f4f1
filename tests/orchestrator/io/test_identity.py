"""Identities stay what they were when settings are added."""

from __future__ import annotations

from dataclasses import dataclass, field

from fl_core.base.types import LATER, PLACE
from orchestrator.io.identity import content_hash


@dataclass(frozen=True)
class Inner:
    depth: int = 3


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    plain: int = field(default=1, metadata=LATER)
    made: Inner = field(default_factory=Inner, metadata=LATER)
    folder: str = field(default="here", metadata=PLACE)


def test_settings_that_were_added_count_from_where_they_are_set() -> None:
    before = content_hash({"rate": 0.5})
    assert content_hash(Settings()) == before
    assert content_hash(Settings(made=Inner())) == before
    assert content_hash(Settings(plain=2)) != before
    assert content_hash(Settings(made=Inner(4))) != before
    assert content_hash(Settings(rate=0.6)) != before


def test_places_on_this_machine_are_no_part_of_it() -> None:
    assert content_hash(Settings(folder="there")) == content_hash(Settings())
