"""The pages of the documentation and their blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("*.md")])

NAMED_PAGES = [page.relative_to(ROOT).as_posix() for page in PAGES]

_FENCED = re.compile(
    r"^(?:<!-- minutes: (?P<why>[^>]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_INDENTED = re.compile(r"(?:^    (?:gradsweep|python) .*\n(?:^    +.*\n)*)+", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its page, its first line there, its language, and why it takes minutes, where a page says so."""

    page: str
    line: int
    language: str
    text: str
    minutes: str | None = None

    @property
    def name(self) -> str:
        """For messages and test names."""
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every fenced block of every page, and every indented one that holds commands of ours."""
    found = []
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
        for match in _FENCED.finditer(text):
            line = text.count("\n", 0, match.start("text")) + 1
            found.append(Block(name, line, match["language"], match["text"], match["why"]))
        for match in _INDENTED.finditer(_FENCED.sub(_blank, text)):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(name, line, "sh", re.sub(r"^    ", "", match[0], flags=re.MULTILINE)))
    return found


def _blank(match: re.Match[str]) -> str:
    """As many lines, of nothing, and as many characters."""
    return re.sub(r"[^\n]", "-", match[0])


def read(page: str) -> str:
    """A page's text."""
    return Path(ROOT / page).read_text(encoding="utf-8")
