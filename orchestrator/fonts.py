"""Fonts for names in figures: the default one, and others of this machine for characters that it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, fontManager, get_font

_BOXES = "Last Resort"
"""A font that comes with matplotlib and draws a box for every character."""


@dataclass(frozen=True)
class Fonts:
    """Families to draw with, the first that has a character draws it, and the characters that none has."""

    families: tuple[str, ...]
    missing: str

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draw with these fonts; matplotlib's own warnings of missing characters are left out."""
        with mpl.rc_context({"font.family": list(self.families)}), warnings.catch_warnings():
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
    """The fewest fonts in the machine's order that have what the default one lacks of these names."""
    default = str(FontProperties().get_name())
    path = fontManager.findfont(FontProperties())
    lacking = _lacking({character for name in names for character in name if not character.isspace()}, path)
    families = [default]
    for entry in fontManager.ttflist if lacking else ():
        if entry.name.startswith(_BOXES):
            continue
        left = _lacking(lacking, entry.fname)
        if len(left) < len(lacking):
            families.append(entry.name)
            lacking = left
        if not lacking:
            break
    return Fonts(tuple(families), "".join(sorted(lacking)))


def _lacking(characters: set[str], path: str) -> set[str]:
    """Those of the characters that a font does not have."""
    known = get_font(path).get_charmap()
    return {character for character in characters if ord(character) not in known}
