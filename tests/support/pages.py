"""The pages of the documentation and their blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("*.md")])

NAMED_PAGES = [page.relative_to(ROOT).as_posix() for page in PAGES]

_FENCED = re.compile(
    r"^(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_INDENTED = re.compile(r"^    (?:gradsweep|python) ", re.MULTILINE)


OWN_TEST = {"docs/tutorial.md"}
"""Pages whose commands a test of their own runs; tests/docs/test_commands.py runs those of the others."""


@dataclass(frozen=True)
class Block:
    """A block of code: its page, its first line there, its language, and why no test runs it, where a page says so."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def name(self) -> str:
        """For messages and test names."""
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
        for match in _FENCED.finditer(text):
            line = text.count("\n", 0, match.start("text")) + 1
            found.append(Block(name, line, match["language"], match["text"], match["why"]))
    return found


def indented_commands(page: str) -> list[str]:
    """Lines of a page that give commands of ours without a fence, where no test finds them."""
    return _INDENTED.findall(_FENCED.sub("", read(page)))


def read(page: str) -> str:
    """A page's text."""
    return Path(ROOT / page).read_text(encoding="utf-8")
