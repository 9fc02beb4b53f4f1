"""Fonts for names in figures: the default one, and others of this machine for characters that it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, fontManager, get_font

from orchestrator.runtime.logs import errors_alone

_BOXES = "Last Resort"
"""A font that comes with matplotlib and draws a box for every character."""


@dataclass(frozen=True)
class Fonts:
    """Families to draw with, the first that has a character draws it, and the characters that none has."""

    families: tuple[str, ...]
    missing: str

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draw with these fonts; matplotlib's own warnings of missing characters and weights are left out."""
        with mpl.rc_context({"font.family": list(self.families)}), warnings.catch_warnings(), _unheard():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield

    @property
    def note(self) -> str:
        """What a reader of the figure must know; empty where every character is drawn."""
        if not self.missing:
            return ""
        return (
            f"No font of the machine that drew this has the characters {self.missing}, which stand as boxes; "
            "install one (such as fonts-noto-cjk) and run gradsweep report again."
        )


def fonts_for(names: Iterable[str]) -> Fonts:
    """The default font and, in the machine's order, those that have what it lacks of these names."""
    families = [str(FontProperties().get_name())]
    characters = {character for name in names for character in name if not character.isspace()}
    lacking = _lacking(characters, families[0])
    for family in dict.fromkeys(entry.name for entry in fontManager.ttflist) if lacking else ():
        left = lacking if family.startswith(_BOXES) else _lacking(lacking, family)
        if len(left) < len(lacking):
            families.append(family)
            lacking = left
        if not lacking:
            break
    return Fonts(tuple(families), "".join(sorted(lacking)))


def _unheard() -> AbstractContextManager[None]:
    """Without matplotlib's lines on families that have no normal weight."""
    return errors_alone("matplotlib.font_manager")


def _lacking(characters: set[str], family: str) -> set[str]:
    """Those of the characters that a family lacks in the file that matplotlib draws with; a bold one may have more."""
    with _unheard():
        path = fontManager.findfont(FontProperties(family=[family]))
    known = get_font(path).get_charmap()
    return {character for character in characters if ord(character) not in known}
